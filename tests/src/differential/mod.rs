//! Random models on the compiled path, on the reference evaluator and on onnxruntime.
//!
//! What must hold of a model: it loads; the evaluator gives for the whole what it gives node by node, bit by bit; compiled
//! with all passes it gives that, and the same bits on one thread and on two; so it does with passes turned off and on other
//! instruction sets. Where onnxruntime takes the model, one of its two ways to run it, with its optimizations or without,
//! agrees as well; if only one does, onnxruntime disagrees with itself, which is counted.

mod agree;
mod cut;
mod golden;
mod peer;
mod tally;

use std::sync::Arc;
use std::time::{Duration, Instant};

use kiln::ir::{DType, Datum, Evaluator, Module, Tensor};
use kiln::passes::PASSES;
use kiln::runtime::cpu::Tier;
use kiln::runtime::{RunOptions, SessionOptions};

pub use agree::Agreement;
pub use cut::cut;
pub use golden::{golden, write};
pub use peer::{Answer, LOST, Peer};
pub use tally::Tally;

use crate::choices::Choices;
use crate::random_model::{Model, load};

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The model does not load, though each of its nodes does.
    Load,
    /// The evaluator fails, or gives other bits than for the nodes one by one.
    Evaluate,
    /// Passes or code generation fail.
    Compile,
    /// The compiled program fails.
    Run,
    /// Results depend on the number of threads.
    Threads,
    /// The compiled program gives something else.
    Differs,
    /// A panic.
    Panic,
    /// onnxruntime gives something else.
    Peer,
    /// onnxruntime runs what Kiln refuses.
    Refused,
}

/// A model that fails, and how.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What went wrong.
    pub kind: Kind,
    /// With figures.
    pub reason: String,
}

impl Failure {
    /// A failure of a kind.
    pub fn new(kind: Kind, reason: impl ToString) -> Self {
        Failure { kind, reason: reason.to_string() }
    }
}

/// How a model is compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Passes that are off.
    pub disabled: Vec<String>,
    /// Instruction set.
    pub tier: Tier,
    /// Whether convolutions may use transformed tiles.
    pub winograd: bool,
}

impl Setting {
    /// All passes, this machine's instruction set.
    pub fn full() -> Self {
        Setting { disabled: vec![], tier: Tier::native().unwrap_or(Tier::X86V1), winograd: true }
    }

    /// The setting that numbers stand for: one pass off in turn, all, or any of them.
    pub fn other(turn: u64, c: &mut Choices<'_>) -> Self {
        let coded = |tier: &Tier| *tier != Tier::X86V1 && tier.is_supported();
        let tiers: Vec<Tier> = Tier::ALL.into_iter().rev().filter(coded).collect();
        let names = PASSES.iter().map(|pass| pass.name.to_owned());
        let disabled = match usize::try_from(turn).unwrap_or(0) % (PASSES.len() + 4) {
            at if at < PASSES.len() => names.skip(at).take(1).collect(),
            at if at == PASSES.len() => names.collect(),
            _ => names.filter(|_| c.below(3) == 0).collect(),
        };
        Setting {
            disabled,
            tier: if tiers.is_empty() { Tier::X86V1 } else { c.of(&tiers) },
            winograd: c.flag(),
        }
    }
}

/// What the evaluator says of a whole model.
pub struct Reference {
    /// The loaded model.
    pub module: Module,
    /// The outputs.
    pub outputs: Vec<Tensor>,
}

/// Loads and evaluates a model, and compares with what was known of it.
pub fn reference(model: &Model) -> Result<Reference, Failure> {
    let module = load(&model.proto).map_err(|e| Failure::new(Kind::Load, e))?;
    let inputs = data(model);
    let outputs = Evaluator::new(&module).run(module.entries()[0], &inputs);
    let outputs = tensors(outputs.map_err(|e| Failure::new(Kind::Evaluate, e))?);
    let outputs = outputs.ok_or_else(|| Failure::new(Kind::Evaluate, "an output is no tensor"))?;
    for (name, whole) in model.outputs().iter().zip(&outputs) {
        let Some(Datum::Tensor(alone)) = model.values.get(name) else { continue };
        if !same(whole, alone) {
            let reason = format!("`{name}` is {} in the model, {} by itself", brief(whole), brief(alone));
            return Err(Failure::new(Kind::Evaluate, reason));
        }
    }
    Ok(Reference { module, outputs })
}

/// Whether two tensors are the same bit by bit; NaNs may differ in what they carry.
fn same(a: &Tensor, b: &Tensor) -> bool {
    if (a.dtype(), a.dims()) != (b.dtype(), b.dims()) {
        return false;
    }
    if a.dtype() == DType::String || a.bytes() == b.bytes() {
        return a == b;
    }
    let pairs = a.to_f64s().into_iter().flatten().zip(b.to_f64s().into_iter().flatten());
    let mut pairs = pairs.enumerate();
    pairs.all(|(i, (x, y))| a.element_bits(i) == b.element_bits(i) || x.is_nan() && y.is_nan())
}

fn brief(tensor: &Tensor) -> String {
    let values = tensor.to_f64s().unwrap_or_default();
    let dots = if values.len() > 8 { ", ..." } else { "" };
    let values: Vec<String> = values.iter().take(8).map(|v| format!("{v:e}")).collect();
    format!("{} [{}{dots}]", tensor.ty(), values.join(", "))
}

/// The inputs as values.
pub fn data(model: &Model) -> Vec<Datum> {
    model.inputs.iter().map(|(_, t)| Datum::Tensor(t.clone())).collect()
}

fn tensors(data: Vec<Datum>) -> Option<Vec<Tensor>> {
    data.into_iter().map(Datum::into_tensor).collect()
}

/// How long a small model may run.
const PATIENCE: Duration = Duration::from_secs(20);

/// Compiles and runs a module; `twice` for one thread and two.
pub fn compiled(
    module: &Module,
    setting: &Setting,
    inputs: &[Datum],
    twice: bool,
) -> Result<Vec<Tensor>, Failure> {
    let passes = kiln::passes::Options { disabled: setting.disabled.clone(), ..Default::default() };
    let (tier, winograd) = (Some(setting.tier), setting.winograd);
    let options = kiln::Options { tier, winograd, passes, threads: Some(1), ..Default::default() };
    let program = kiln::compile(module.clone(), &options).map_err(|e| Failure::new(Kind::Compile, e))?;
    let program = kiln::runtime::Executable::from_image(program.image);
    let program = Arc::new(program.map_err(|e| Failure::new(Kind::Compile, e))?);
    let entry = module.graph(module.entries()[0]).name();
    let run = |threads: usize| {
        let options = SessionOptions { threads: Some(threads), ..Default::default() };
        let session = kiln::runtime::Session::new(program.clone(), options);
        let limits = RunOptions { deadline: Some(Instant::now() + PATIENCE), ..Default::default() };
        let outputs = session.run_with(entry, inputs, &limits).map_err(|e| Failure::new(Kind::Run, e))?;
        tensors(outputs).ok_or_else(|| Failure::new(Kind::Run, "an output is no tensor"))
    };
    let one = run(1)?;
    if twice {
        let two = run(2)?;
        if let Some((a, b)) = one.iter().zip(&two).find(|(a, b)| !same(a, b)) {
            let reason = format!("{} on one thread, {} on two", brief(a), brief(b));
            return Err(Failure::new(Kind::Threads, reason));
        }
    }
    Ok(one)
}

/// Everything but onnxruntime: the first thing that does not hold.
pub fn check(model: &Model, agreement: &mut Agreement<'_>, other: &Setting) -> Result<Reference, Failure> {
    let reference = reference(model)?;
    let inputs = data(model);
    for (setting, twice) in [(&Setting::full(), true), (other, false)] {
        let described = |failure: Failure| Failure {
            reason: format!(
                "{} [{}{}, off: {}]",
                failure.reason,
                setting.tier.name(),
                if setting.winograd { "" } else { ", no winograd" },
                setting.disabled.join(" ")
            ),
            ..failure
        };
        let got = compiled(&reference.module, setting, &inputs, twice).map_err(described)?;
        let agrees = agreement.compare(&reference.outputs, &got);
        agrees.map_err(|reason| described(Failure::new(Kind::Differs, reason)))?;
    }
    Ok(reference)
}

/// As [`check`]; panics are failures.
pub fn check_caught(model: &Model, other: &Setting) -> Result<Reference, Failure> {
    let attempt = || check(model, &mut Agreement::new(model), other);
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(attempt)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(Failure::new(Kind::Panic, text.unwrap_or_default()))
    })
}

/// What onnxruntime says of a model.
#[derive(Clone, Debug, PartialEq)]
pub enum Opinion {
    /// It agrees in both ways.
    Agrees,
    /// It agrees in one way; the other's reason.
    Torn(String),
    /// It does not take the model; why.
    Refuses(String),
    /// It gives something else.
    Differs(String),
}

/// Compares with the answers of onnxruntime, without optimizations and with them.
pub fn opinion(agreement: &mut Agreement<'_>, want: &[Tensor], answers: &[Answer]) -> Opinion {
    let mut said = vec![];
    for answer in answers {
        match answer {
            Answer::Outputs(got) => said.push(agreement.compare(want, got)),
            Answer::Refused(_) => {}
        }
    }
    let reasons: Vec<&String> = said.iter().filter_map(|s| s.as_ref().err()).collect();
    match (reasons.first(), reasons.len() == said.len()) {
        _ if said.is_empty() => {
            let reason = answers.iter().find_map(|answer| match answer {
                Answer::Refused(reason) => Some(reason.clone()),
                Answer::Outputs(_) => None,
            });
            Opinion::Refuses(reason.unwrap_or_default())
        }
        (None, _) => Opinion::Agrees,
        (Some(reason), true) => Opinion::Differs((*reason).clone()),
        (Some(reason), false) => Opinion::Torn((*reason).clone()),
    }
}
