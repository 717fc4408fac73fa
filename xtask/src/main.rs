//! Project tasks: `cargo xtask TASK`. Each task installs what it needs below `target/` and touches nothing else.

#![forbid(unsafe_code)]

mod accuracy;
mod aten;
mod check;
mod contrib;
mod differential;
mod hostile;
mod huggingface;
mod kernels;
mod models;
mod nodes;
mod npz;
mod peers;
mod python;
mod random;
mod sparse_ladder;
mod suite;
mod symbolic;
mod tidy;
mod torch_sweep;
mod workspace;
mod zoo;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::workspace::Workspace;

/// Builds, checks and measures Kiln.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Everything that must hold: formatting, lints, tests, architecture checks and the ONNX suite.
    Test(check::Options),
    /// Runs the ONNX backend suite through the compiled path and says why each case that fails does so.
    OnnxSuite(suite::Options),
    /// Operators of `com.microsoft` against onnxruntime: random single-node models.
    Contrib(contrib::Options),
    /// Operators of ATen against PyTorch: random calls.
    Aten(aten::Options),
    /// Hostile files: each must end in a typed error, in bounded time and memory.
    Hostile(hostile::Options),
    /// Folders of Hugging Face's libraries against what the libraries compute.
    #[command(name = "huggingface")]
    HuggingFace(huggingface::Options),
    /// Writes the benchmark models: real architectures, random weights, fixed seed.
    Zoo(zoo::Options),
    /// Whole-model bars: accuracy, artifact against JIT, one thread against two, arena against what is live.
    Models(models::Options),
    /// Errors of the zoo's models against double precision, beside onnxruntime's.
    Accuracy(accuracy::Options),
    /// Times Kiln against onnxruntime, OpenVINO and PyTorch's Inductor, interleaved, in one sitting.
    Peers(peers::Options),
    /// Single operators against onnxruntime's nodes, interleaved.
    Nodes(nodes::Options),
    /// Layers of sparse weights against dense ones: pattern, density and shape.
    SparseLadder(sparse_ladder::Options),
    /// One artifact of symbolic batch and length against artifacts of fixed shapes, interleaved.
    Symbolic(symbolic::Options),
    /// Random kernels: the interpreter against every lowering that this machine executes.
    Kernels(kernels::Options),
    /// Random ONNX models: compiled code against the reference evaluator and onnxruntime.
    Differential(differential::Options),
    /// Models of torchvision, timm, transformers and torchaudio as PyTorch saves them, against PyTorch.
    TorchSweep(torch_sweep::Options),
    /// The property tests over fresh random cases, seed by seed.
    Random(random::Options),
    /// Architecture checks: crate arrows, forbidden dependencies, unsafe code, file sizes.
    Tidy,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = Workspace::find().and_then(|workspace| match &arguments.task {
        Task::Test(options) => check::run(&workspace, options),
        Task::OnnxSuite(options) => suite::run(&workspace, options),
        Task::Contrib(options) => contrib::run(&workspace, options),
        Task::Aten(options) => aten::run(&workspace, options),
        Task::Hostile(options) => hostile::run(&workspace, options),
        Task::HuggingFace(options) => huggingface::run(&workspace, options),
        Task::Zoo(options) => zoo::run(&workspace, options),
        Task::Models(options) => models::run(&workspace, options),
        Task::Accuracy(options) => accuracy::run(&workspace, options),
        Task::Peers(options) => peers::run(&workspace, options),
        Task::Nodes(options) => nodes::run(&workspace, options),
        Task::SparseLadder(options) => sparse_ladder::run(&workspace, options),
        Task::Symbolic(options) => symbolic::run(&workspace, options),
        Task::Kernels(options) => kernels::run(&workspace, options),
        Task::Differential(options) => differential::run(&workspace, options),
        Task::TorchSweep(options) => torch_sweep::run(&workspace, options),
        Task::Random(options) => random::run(&workspace, options),
        Task::Tidy => tidy::run(&workspace),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
