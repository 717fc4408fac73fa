//! Kiln against its peers on the zoo's models: turns in rotation, in one sitting, so that a busy neighbour slows all.
//!
//! A peer that cannot be set up, or fails on a model, is listed with its reason; ratios are then against the others.

pub mod bench;
pub mod figures;
mod int8;
mod page;
mod table;
pub mod worker;

use std::fs;
use std::iter;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::python::{Purpose, Python};
use crate::workspace::{self, Profile, Workspace};
use crate::zoo::{self, ZooModel};
use bench::Outputs;
use figures::{Comparison, Entry, Figures, Summary, Turn};
use int8::Quantizer;
use worker::{Loaded, Worker};

/// Time between turns: threads that spin for the next run fall asleep.
pub const PAUSE: Duration = Duration::from_millis(100);

#[derive(clap::Args)]
pub struct Options {
    /// The folder that `cargo xtask zoo` wrote.
    #[arg(long)]
    zoo: PathBuf,
    /// The models to time [default: all].
    #[arg(long, value_delimiter = ',')]
    models: Vec<String>,
    /// The peers to time.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Peer::value_variants().to_vec())]
    peers: Vec<Peer>,
    /// The threads of each; may be several numbers.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2])]
    threads: Vec<usize>,
    /// Turns that each takes on each model.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of one turn.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Three turns of a third of a second, for a first look.
    #[arg(long, conflicts_with_all = ["rounds", "seconds"])]
    quick: bool,
    /// Write everything that was measured as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a page with charts.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Models in 8 bits, made by this quantizer for Kiln and by their own for onnxruntime and OpenVINO (NNCF); `ort`
    /// leaves OpenVINO out. The models are then resnet50, mobilenet_v3_large, bert_base_128 and minilm6_128.
    #[arg(long, value_name = "QUANTIZER", num_args = 0..=1, default_missing_value = "own")]
    int8: Option<int8::Source>,
    /// A Python interpreter with what all the peers need, instead of environments made below `target/`.
    #[arg(long)]
    python: Option<PathBuf>,
}

/// A runtime that Kiln is measured against.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Peer {
    /// onnxruntime on the ONNX file.
    Ort,
    /// OpenVINO on the ONNX file, in f32.
    #[value(name = "openvino")]
    OpenVino,
    /// PyTorch's Inductor with frozen weights on the file of torch.export; needs a C++ compiler.
    Inductor,
}

impl Peer {
    fn name(self) -> &'static str {
        match self {
            Self::Ort => "ort",
            Self::OpenVino => "openvino",
            Self::Inductor => "inductor",
        }
    }

    fn purpose(self) -> Purpose {
        match self {
            Self::Ort => Purpose::Ort,
            Self::OpenVino => Purpose::OpenVino,
            Self::Inductor => Purpose::Zoo,
        }
    }

    fn file(self, model: &ZooModel) -> &Path {
        match self {
            Self::Ort | Self::OpenVino => &model.model,
            Self::Inductor => &model.exported,
        }
    }
}

/// A runtime whose turn it can be.
struct Contender {
    entry: Entry,
    runner: Runner,
}

/// What a turn runs.
enum Runner {
    /// A process a turn, on this artifact: it starts in milliseconds.
    Kiln(PathBuf),
    /// A process that stays.
    Peer(Worker),
    /// Nothing: it failed.
    None,
}

impl Contender {
    fn new(name: &str, starts: Vec<f64>, runner: Runner) -> Self {
        let outcome = Ok(Figures { turns: vec![], starts });
        Self { entry: Entry { name: name.to_owned(), outcome }, runner }
    }

    fn failed(name: &str, reason: String) -> Self {
        Self { entry: Entry { name: name.to_owned(), outcome: Err(reason) }, runner: Runner::None }
    }
}

/// The files that a model is timed on, or why there are none.
struct Prepared {
    /// Kiln's artifact.
    kiln: Result<PathBuf, String>,
    /// Those of peers.
    peers: Vec<(Peer, Result<PathBuf, String>)>,
}

/// What all comparisons share.
struct Sitting<'a> {
    workspace: &'a Workspace,
    kiln: PathBuf,
    /// The peers with their interpreters, or why there is none.
    peers: Vec<(Peer, Result<Python, String>)>,
    rounds: usize,
    seconds: f64,
    scratch: PathBuf,
}

/// Times the models, prints tables and, as the last line, the geometric means.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let models = match (options.int8, options.models.is_empty()) {
        (Some(_), true) => zoo::find(&options.zoo, &int8::MODELS.map(str::to_owned))?,
        _ => zoo::find(&options.zoo, &options.models)?,
    };
    if options.threads.contains(&0) || options.threads.is_empty() {
        bail!("--threads takes numbers from 1 on");
    }
    let scratch = workspace.target.join("peers");
    fs::create_dir_all(&scratch).with_context(|| scratch.display().to_string())?;
    let python = |peer: &Peer| {
        let python = Python::of(workspace, peer.purpose(), options.python.as_deref());
        (*peer, python.map_err(|error| format!("cannot be set up: {error:#}")))
    };
    let (rounds, seconds) = if options.quick { (3, 0.33) } else { (options.rounds.max(1), options.seconds) };
    let kiln = workspace.build("kiln-cli", "kiln", Profile::Release)?;
    let quantizer = match options.int8 {
        Some(source) => Some(Quantizer::new(workspace, &kiln, options.python.as_deref(), source)?),
        None => None,
    };
    let takes_part = |peer: &&Peer| match options.int8 {
        None => true,
        Some(int8::Source::Ort) => **peer == Peer::Ort,
        Some(int8::Source::Own | int8::Source::Dynamic) => **peer != Peer::Inductor,
    };
    let sitting = Sitting {
        workspace,
        kiln: kiln.clone(),
        peers: options.peers.iter().filter(takes_part).map(python).collect(),
        rounds,
        seconds,
        scratch,
    };
    println!("medians of {rounds} turns of {seconds} s each, in rotation, in milliseconds");
    println!("`start` is loading and first run, of Kiln's from an artifact; * is a busy machine\n");
    let mut comparisons = vec![];
    for model in &models {
        let prepared = match &quantizer {
            Some(quantizer) => quantizer.prepare(model),
            None => sitting.prepare(model),
        };
        for &threads in &options.threads {
            let comparison = sitting.compare(model, &prepared, threads);
            println!("{}", table::of_model(&comparison));
            comparisons.push(comparison);
        }
    }
    let mut counts = options.threads.clone();
    counts.dedup();
    let summaries: Vec<Summary> =
        counts.iter().filter_map(|&threads| Summary::of(&comparisons, threads)).collect();
    write(options.json.as_deref(), || figures::document(&machine(), &comparisons, &summaries).to_string())?;
    write(options.html.as_deref(), || page::page(&machine(), &comparisons, &summaries))?;
    for &threads in &counts {
        println!("{}", table::of_threads(&comparisons, threads));
    }
    let failures = table::failures(&comparisons);
    failures.iter().for_each(|line| println!("{line}"));
    let mut words: Vec<String> = summaries.iter().map(Summary::line).collect();
    if words.is_empty() {
        words.push("nothing to compare".to_owned());
    }
    if !failures.is_empty() {
        words.push(format!("{} failed, see above", failures.len()));
    }
    println!("peers: {}", words.join("; "));
    if comparisons.iter().any(|comparison| comparison.kiln.outcome.is_err()) {
        bail!("Kiln fails on a model");
    }
    Ok(())
}

fn write(path: Option<&Path>, text: impl FnOnce() -> String) -> Result<()> {
    match path {
        Some(path) => fs::write(path, text()).with_context(|| path.display().to_string()),
        None => Ok(()),
    }
}

/// The processor's name and the number of cores.
fn machine() -> String {
    let cores = thread::available_parallelism().map_or(0, usize::from);
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let name = name.map_or(std::env::consts::ARCH, |(_, name)| name.trim());
    format!("{name}, {cores} cores")
}

impl Sitting<'_> {
    /// The artifact of a model and the files of the zoo.
    fn prepare(&self, model: &ZooModel) -> Prepared {
        let file = |peer: Peer| {
            let file = peer.file(model);
            let missing = || format!("{} is not there: `cargo xtask zoo` writes it", file.display());
            if file.is_file() { Ok(file.to_path_buf()) } else { Err(missing()) }
        };
        let peers = self.peers.iter().map(|&(peer, _)| (peer, file(peer))).collect();
        Prepared { kiln: self.compile(model), peers }
    }

    /// The artifact of a model.
    fn compile(&self, model: &ZooModel) -> Result<PathBuf, String> {
        let artifact = self.scratch.join(format!("{}.kiln", model.name));
        let mut command = Command::new(&self.kiln);
        command.arg("compile").arg(&model.model).arg("-o").arg(&artifact);
        workspace::output(&mut command).map(|_| artifact).map_err(|error| format!("{error:#}"))
    }

    /// Kiln and the peers on one model, turn by turn.
    fn compare(&self, model: &ZooModel, prepared: &Prepared, threads: usize) -> Comparison {
        let mut kiln = match &prepared.kiln {
            Ok(artifact) => Contender::new("kiln", vec![], Runner::Kiln(artifact.clone())),
            Err(reason) => Contender::failed("kiln", reason.clone()),
        };
        let start = |(peer, python): &(Peer, _)| match self.start(*peer, python, (model, prepared), threads) {
            Ok((worker, loaded)) => {
                let name = format!("{} {}", peer.name(), loaded.version);
                Contender::new(&name, vec![loaded.load_ms + loaded.first_ms], Runner::Peer(worker))
            }
            Err(reason) => Contender::failed(peer.name(), reason),
        };
        let mut peers: Vec<Contender> = self.peers.iter().map(start).collect();
        for round in 0..self.rounds {
            let mut order: Vec<&mut Contender> = iter::once(&mut kiln).chain(&mut peers).collect();
            // Each comes after another one now and then.
            let first = round % order.len();
            order.rotate_left(first);
            order.into_iter().for_each(|contender| self.turn(contender, model, threads));
        }
        let peers = peers.into_iter().map(|contender| contender.entry).collect();
        Comparison { model: model.name.clone(), threads, kiln: kiln.entry, peers }
    }

    /// One turn, unless the contender has failed before.
    fn turn(&self, contender: &mut Contender, model: &ZooModel, threads: usize) {
        let Ok(figures) = &mut contender.entry.outcome else { return };
        thread::sleep(PAUSE);
        let turn = match &mut contender.runner {
            Runner::Kiln(artifact) => self.kiln_turn(model, artifact, threads, figures),
            Runner::Peer(worker) => worker.turn(self.seconds),
            Runner::None => return,
        };
        match turn {
            Ok(turn) => figures.turns.push(turn),
            Err(error) => *contender = Contender::failed(&contender.entry.name, format!("{error:#}")),
        }
    }

    /// A turn of Kiln, which shows its start as well.
    fn kiln_turn(
        &self,
        model: &ZooModel,
        artifact: &Path,
        threads: usize,
        figures: &mut Figures,
    ) -> Result<Turn> {
        let bench =
            bench::kiln_turn(&self.kiln, artifact, &model.inputs, Outputs::Fresh, threads, self.seconds)?;
        figures.starts.push(bench.load_ms + bench.first_ms);
        Ok(bench.turn)
    }

    /// A peer that is loaded and has run once, or why there is none.
    fn start(
        &self,
        peer: Peer,
        python: &Result<Python, String>,
        (model, prepared): (&ZooModel, &Prepared),
        threads: usize,
    ) -> Result<(Worker, Loaded), String> {
        let python = python.as_ref().map_err(Clone::clone)?;
        let file = prepared.peers.iter().find(|(of, _)| *of == peer).map(|(_, file)| file.clone());
        let file = file.ok_or_else(|| "it has no such model".to_owned())??;
        let log = self.scratch.join(format!("{}.{}.{threads}.log", model.name, peer.name()));
        let mut command = python.script(self.workspace, "peer.py");
        command.arg(peer.name()).arg(file).arg(&model.inputs).args(["--threads", &threads.to_string()]);
        command.env("TORCHINDUCTOR_CACHE_DIR", self.scratch.join("inductor"));
        Worker::start(&mut command, &log).map_err(|error| format!("{error:#}"))
    }
}
