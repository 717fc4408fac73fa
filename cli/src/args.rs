//! Command-line arguments.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use kiln::ShapeOverride;
use kiln::loaders::{Limits, NameRule, NewWeights};
use kiln::passes::FoldBudget;

/// Compiles neural networks ahead of serving and runs them.
///
/// A MODEL is a file that another framework saved (ONNX, TorchScript, torch.export), or a folder of Hugging Face's libraries
/// (`config.json` beside weights); an ARTIFACT is what `kiln compile` writes. Either is recognised by its content. Exit
/// codes: 0 done, 1 the model or its data is at fault, 2 wrong usage.
#[derive(Debug, Parser)]
#[command(name = "kiln", version, max_term_width = 110, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Compile and run a small trained model that ships in this binary; show what each step did.
    Demo(DemoArgs),
    /// Compile a model into an artifact that a server loads in milliseconds.
    ///
    /// Example: kiln compile resnet50.onnx -o resnet50.kiln --shape input=1,3,224,224
    ///
    /// Example: kiln compile all-MiniLM-L6-v2/ -o minilm.kiln
    ///
    /// Example: kiln compile resnet50.onnx -o resnet50-int8.kiln --quantize int8 --calibrate samples/ --report int8.html
    ///
    /// Example: kiln compile all-MiniLM-L6-v2/ -o minilm-int4.kiln --quantize int4 --group 32
    Compile(CompileArgs),
    /// Run one inference on .npy, .npz or .pb inputs.
    ///
    /// Example: kiln run resnet50.kiln --inputs in.npz --outputs out.npz
    Run(RunArgs),
    /// Measure latency and throughput.
    Bench(BenchArgs),
    /// Show where the time goes, kernel by kernel.
    Profile(ProfileArgs),
    /// Show entry points, inputs, outputs, operators, weights and plan; of a checkpoint tensors and hyper-parameters.
    Inspect(InspectArgs),
    /// Compare the compiled result with the reference evaluator, node by node where they differ, or with another model.
    ///
    /// Example: kiln check resnet50-int8.kiln --against resnet50.onnx --inputs samples/
    Check(CheckArgs),
}

/// How a model is read and compiled; artifacts are compiled already and refuse these.
#[derive(Debug, Clone, Args)]
pub struct ModelArgs {
    /// Fix an input's shape: NAME=1,3,224,224, and its dtype if the file states none: NAME=i64[1,12]. May be repeated.
    #[arg(long = "shape", value_name = "NAME=DIMS")]
    pub shapes: Vec<ShapeOverride>,
    /// Compile a program for this value of an argument that is no tensor: NAME=VALUE. May be repeated.
    #[arg(long = "arg", value_name = "NAME=VALUE", value_parser = argument)]
    pub arguments: Vec<(String, String)>,
    /// Weights by name in place of those in the model.
    #[command(flatten)]
    pub weights: WeightArgs,
    /// Instruction set to compile for.
    #[arg(long, value_enum, default_value_t = TargetArg::Native)]
    pub target: TargetArg,
    /// Leave a pass out (see `kiln compile --help-passes` for the names). May be repeated.
    #[arg(long = "disable-pass", value_name = "PASS")]
    pub disable_pass: Vec<String>,
    /// Compute every convolution as sums over taps: 3x3 ones take longer and round differently.
    #[arg(long)]
    pub no_winograd: bool,
    /// Bounds of loading and compiling.
    #[command(flatten)]
    pub limits: LimitArgs,
}

/// The name and value of an argument.
fn argument(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("it is not of the form NAME=VALUE".to_owned()),
    }
}

/// Weights in place of those that a model holds.
#[derive(Debug, Clone, Args)]
pub struct WeightArgs {
    /// Take the weights from a checkpoint, by name: each takes the place of the model's tensor of that name and shape.
    #[arg(long, value_name = "CKPT")]
    pub weights: Option<PathBuf>,
    /// Rename tensors of the checkpoint first: FROM=TO or FROM->TO, of which names begin with FROM begin with TO
    /// instead. May be repeated; the first that fits applies.
    #[arg(long = "map", value_name = "RULE", requires = "weights", allow_hyphen_values = true)]
    pub rules: Vec<NameRule>,
    /// Allow that weights are missing, which keep the model's values, and that tensors are left over.
    #[arg(long, requires = "weights")]
    pub partial: bool,
}

impl WeightArgs {
    /// The loader's option.
    pub fn loading(&self) -> Option<NewWeights> {
        let file = self.weights.clone()?;
        Some(NewWeights { file, rules: self.rules.clone(), partial: self.partial })
    }
}

/// Bounds on what a model file may ask for.
#[derive(Debug, Clone, Args, PartialEq, Eq)]
#[command(next_help_heading = "Limits on model files")]
pub struct LimitArgs {
    /// Most nodes, those of called functions counted at every call. [default: 1048576, for files below 8 MiB less]
    #[arg(long, value_name = "N")]
    pub max_nodes: Option<usize>,
    /// Deepest nesting of graphs and functions.
    #[arg(long, default_value_t = Limits::default().depth, value_name = "N")]
    pub max_depth: usize,
    /// Most memory, in MiB, of the decoded graph without its weights. [default: 512, for files below 21 MiB less]
    #[arg(long, value_name = "MIB")]
    pub max_structure: Option<usize>,
    /// Most memory, in MiB, of sparse weights in dense form.
    #[arg(long, default_value_t = Limits::default().sparse >> 20, value_name = "MIB")]
    pub max_sparse: usize,
    /// Largest result, in MiB, that is computed while compiling (constant folding).
    #[arg(long, default_value_t = FoldBudget::default().bytes >> 20, value_name = "MIB")]
    pub max_fold: u64,
    /// Most multiply-adds, in millions, of one node that is computed while compiling.
    #[arg(long, default_value_t = FoldBudget::default().work >> 20, value_name = "N")]
    pub max_fold_work: u64,
}

impl LimitArgs {
    /// The loader's limits.
    pub fn loading(&self) -> Limits {
        let bytes = |mebibytes: usize| mebibytes.saturating_mul(1 << 20);
        Limits {
            nodes: self.max_nodes,
            depth: self.max_depth,
            structure: self.max_structure.map(bytes),
            sparse: bytes(self.max_sparse),
            ..Limits::default()
        }
    }

    /// The limits of constant folding.
    pub fn folding(&self) -> FoldBudget {
        let scaled = |count: u64| count.saturating_mul(1 << 20);
        FoldBudget { bytes: scaled(self.max_fold), work: scaled(self.max_fold_work) }
    }
}

/// Instruction sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TargetArg {
    /// This machine's.
    Native,
    /// x86-64 with SSE4.2.
    #[value(name = "x86-64-v2")]
    V2,
    /// x86-64 with AVX2 and FMA.
    #[value(name = "x86-64-v3", alias = "v3")]
    V3,
    /// x86-64 with AVX2, FMA and AVX-VNNI.
    #[value(name = "x86-64-v3-vnni", alias = "v3-vnni")]
    V3Vnni,
    /// x86-64 with AVX-512.
    #[value(name = "x86-64-v4", alias = "v4")]
    V4,
    /// x86-64 with AVX-512 and its VNNI.
    #[value(name = "x86-64-v4-vnni", alias = "v4-vnni")]
    V4Vnni,
    /// x86-64 with AVX-512, its VNNI and AMX for bytes.
    #[value(name = "x86-64-v4-amx", alias = "v4-amx")]
    V4Amx,
    /// 64-bit Arm with NEON.
    #[value(name = "aarch64")]
    Aarch64,
}

/// `kiln demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Threads of the second measurement; all available ones by default.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: Option<u32>,
}

/// `kiln compile`.
#[derive(Debug, Args)]
pub struct CompileArgs {
    /// The model.
    #[arg(required_unless_present = "help_passes")]
    pub model: Option<PathBuf>,
    /// The artifact to write.
    #[arg(short, long, value_name = "OUT.kiln", required_unless_present = "help_passes")]
    pub output: Option<PathBuf>,
    /// How to read and compile.
    #[command(flatten)]
    pub options: ModelArgs,
    /// Threads that generate code; all available ones by default. The artifact runs on any number.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: Option<u32>,
    /// Print every pass, fused kernel and refused rewrite.
    #[arg(short, long)]
    pub verbose: bool,
    /// Write the graph's text form after a pass to standard output. May be repeated.
    #[arg(long = "dump-after", value_name = "PASS")]
    pub dump_after: Vec<String>,
    /// Write the kernel IR of every kernel to standard output.
    #[arg(long)]
    pub dump_kir: bool,
    /// Write the machine code of every kernel, with the functions that it calls, to standard output.
    #[arg(long)]
    pub dump_asm: bool,
    /// List the passes and exit.
    #[arg(long)]
    pub help_passes: bool,
    /// Whether and how to quantize.
    #[command(flatten)]
    pub quantize: QuantizeArgs,
    /// Whether and how to sparsify.
    #[command(flatten)]
    pub sparsify: SparsifyArgs,
}

/// Quantization of a model in floats.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Quantization", group(ArgGroup::new("compression").multiple(true)))]
#[group(skip)]
pub struct QuantizeArgs {
    /// Run layers on integers of 8 bits, with scales from calibration data (int8) or found when the model runs
    /// (int8-dynamic); or store the weights of linear layers alone in fewer bits.
    #[arg(long, value_enum, value_name = "HOW", group = "compression")]
    pub quantize: Option<QuantizeArg>,
    /// Weights that share a scale: with --quantize int4 or int8-weights, a multiple of 16. [default: 32]
    #[arg(long, value_name = "N", requires = "quantize")]
    pub group: Option<usize>,
    /// Give groups a zero point: with --quantize int4 or int8-weights.
    #[arg(long, requires = "quantize")]
    pub asymmetric: bool,
    /// How integers are chosen, with --quantize int4 or int8-weights: the nearest one [default], or for scales and zero points
    /// that half-quadratic splitting finds, which needs --asymmetric.
    #[arg(long, value_enum, value_name = "HOW", requires = "quantize")]
    pub rounding: Option<RoundingArg>,
    /// Calibration data: an .npz file whose arrays are inputs by name, or a folder of them. Arrays may hold many samples along
    /// the first axis. Every fifth sample measures errors and is not calibrated on.
    #[arg(long, value_name = "DATA", requires = "compression")]
    pub calibrate: Option<PathBuf>,
    /// Keep layers in floats, those of the largest error first, until the outputs err at most so much on held-out samples:
    /// the norm of all differences over the norm of the results in floats, 0.01 for one percent.
    #[arg(long, value_name = "X", value_parser = share, requires = "calibrate", requires = "quantize")]
    pub max_drop: Option<f64>,
    /// Write what quantizing or sparsifying did: JSON, or a page with charts if the name ends in .html. May be repeated.
    #[arg(long = "report", value_name = "FILE", requires = "compression")]
    pub reports: Vec<PathBuf>,
}

/// Ways to quantize.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum QuantizeArg {
    /// Scales of values come from calibration data.
    Int8,
    /// Scales of values are found when the model runs.
    Int8Dynamic,
    /// Weights in integers of 4 bits with scales for groups.
    Int4,
    /// Weights in integers of 8 bits with scales for groups.
    Int8Weights,
    /// Weights in half precision.
    F16,
    /// Weights in bfloat16.
    Bf16,
}

/// Ways to choose integers of weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RoundingArg {
    /// The nearest.
    Nearest,
    /// The nearest, for zero points of half-quadratic optimization.
    Hqq,
}

/// Sparsification of a model in floats.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Sparsification")]
#[group(skip)]
pub struct SparsifyArgs {
    /// Make the weights zero that matter least: by their magnitude, or by that times the values that they multiply, which
    /// needs --calibrate. With --quantize, weights become zero first.
    #[arg(long, value_enum, value_name = "HOW", group = "compression")]
    pub sparsify: Option<SparsifyArg>,
    /// The part of the weights to keep, 0.1 for a tenth, over all layers that are pruned; the pattern 2:4 has 0.5.
    #[arg(long, value_name = "D", value_parser = share, requires = "sparsify")]
    pub density: Option<f64>,
    /// Which weights are zero together.
    #[arg(long, value_enum, default_value = "block4", requires = "sparsify")]
    pub pattern: PatternArg,
}

/// Ways to sparsify.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SparsifyArg {
    /// The least weights of a layer.
    Magnitude,
    /// For each output, the weights that contribute least.
    Wanda,
}

/// Patterns of zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PatternArg {
    /// Any weight.
    Unstructured,
    /// Four side by side, as kernels like it: outputs, for one input; with --quantize, inputs, for one output.
    Block4,
    /// Two of four inputs side by side, for each output.
    #[value(name = "2:4")]
    TwoOfFour,
}

/// `kiln run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Model or artifact.
    pub model: PathBuf,
    /// Inputs: an .npz with one array an input, or one .npy or .pb an input in order. May be repeated.
    #[arg(long, required = true, value_name = "FILE")]
    pub inputs: Vec<PathBuf>,
    /// Where to write the outputs (.npz; .npy if there is one).
    #[arg(long, value_name = "FILE")]
    pub outputs: PathBuf,
    /// Threads to run on.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: u32,
    /// Entry point; the first by default.
    #[arg(long, value_name = "NAME")]
    pub entry: Option<String>,
    /// Most memory, in MiB, that the run may hold beside weights, inputs and outputs.
    #[arg(long, value_name = "MIB")]
    pub max_memory: Option<u64>,
    /// How to read and compile a model.
    #[command(flatten)]
    pub options: ModelArgs,
}

/// `kiln bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Model or artifact.
    pub model: PathBuf,
    /// Inputs, as for `kiln run`; generated from a fixed seed if absent.
    #[arg(long, value_name = "FILE")]
    pub inputs: Vec<PathBuf>,
    /// Threads to run on.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: u32,
    /// Threads that call the session at once, each run on `--threads` threads of its own.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub clients: u32,
    /// Give all runs the same memory for their outputs, as a caller who keeps it does.
    #[arg(long, conflicts_with = "clients")]
    pub bound: bool,
    /// How long to measure.
    #[arg(long, default_value_t = 5.0, value_parser = seconds)]
    pub seconds: f64,
    /// Entry point; the first by default.
    #[arg(long, value_name = "NAME")]
    pub entry: Option<String>,
    /// Print one JSON object instead of text.
    #[arg(long)]
    pub json: bool,
    /// How to read and compile a model.
    #[command(flatten)]
    pub options: ModelArgs,
}

/// `kiln profile`.
#[derive(Debug, Args)]
pub struct ProfileArgs {
    /// Model or artifact.
    pub model: PathBuf,
    /// Inputs, as for `kiln run`; generated from a fixed seed if absent.
    #[arg(long, value_name = "FILE")]
    pub inputs: Vec<PathBuf>,
    /// Threads to run on.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: u32,
    /// How long to measure.
    #[arg(long, default_value_t = 2.0, value_parser = seconds)]
    pub seconds: f64,
    /// Entry point; the first by default.
    #[arg(long, value_name = "NAME")]
    pub entry: Option<String>,
    /// Write a page with charts.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Write a trace for Perfetto (ui.perfetto.dev) or chrome://tracing.
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// How to read and compile a model.
    #[command(flatten)]
    pub options: ModelArgs,
}

/// `kiln inspect`.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// Model, artifact or checkpoint (PyTorch, safetensors, GGUF, or the index of a sharded one), or a folder.
    pub model: PathBuf,
    /// Print one JSON object instead of text (a checkpoint).
    #[arg(long)]
    pub json: bool,
    /// Print the graph's text form (a model) or the plan, step by step (an artifact).
    #[arg(long)]
    pub text: bool,
    /// Write the graph in Graphviz form.
    #[arg(long, value_name = "FILE")]
    pub dot: Option<PathBuf>,
    /// Bounds of loading.
    #[command(flatten)]
    pub limits: LimitArgs,
    /// Fix an input's shape: NAME=1,3,224,224. May be repeated. Of an artifact, to see the memory that it takes.
    #[arg(long = "shape", value_name = "NAME=DIMS")]
    pub shapes: Vec<ShapeOverride>,
}

/// `kiln check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The model; an artifact, too, with --against.
    pub model: PathBuf,
    /// Compare with this model or artifact instead of the reference evaluator, on all samples of the inputs.
    #[arg(long, value_name = "ORIGINAL")]
    pub against: Option<PathBuf>,
    /// Inputs, as for `kiln run`; generated from a fixed seed if absent. With --against, .npz files or folders of them, whose
    /// arrays may hold many samples along the first axis.
    #[arg(long, value_name = "FILE")]
    pub inputs: Vec<PathBuf>,
    /// Largest accepted difference, relative to the reference's largest absolute value [default: 1e-4]. With --against,
    /// relative to the reference's norm, and without a default.
    #[arg(long)]
    pub tolerance: Option<f64>,
    /// Threads to run on.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: u32,
    /// Entry point; the first by default.
    #[arg(long, value_name = "NAME")]
    pub entry: Option<String>,
    /// How to read and compile the model.
    #[command(flatten)]
    pub options: ModelArgs,
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(s) if (0.0..=1.0).contains(&s) => Ok(s),
        _ => Err("expected a number between 0 and 1".into()),
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(s) if s.is_finite() && s > 0.0 && s <= 3600.0 => Ok(s),
        _ => Err("expected seconds between 0 and 3600".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definition_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn seconds_are_bounded() {
        assert!(seconds("0").is_err());
        assert!(seconds("nan").is_err());
        assert_eq!(seconds("0.5"), Ok(0.5));
    }
}
