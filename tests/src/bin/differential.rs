//! Random ONNX models: compiled code against the reference evaluator and onnxruntime.
//!
//! `differential COUNT [--seed N] [--threads N] [--log FILE] [--out FOLDER] [--python PATH --worker SCRIPT]`
//!
//! `differential untidy --python PATH --worker SCRIPT`: untidy models instead of random ones.
//!
//! A model is a function of its seed; seeds count up. `FILE.0`, `FILE.1` ... hold the seed that each thread is at, for code
//! that takes the process with it. The last line is `differential: N graphs, M compared with onnxruntime, K mismatches`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use kiln::ir::{Datum, Tensor};
use kiln_tests::choices::{Choices, numbers, shrink};
use kiln_tests::differential::{
    Agreement, Answer, Failure, Kind, LOST, Opinion, Peer, Setting, Tally, check_caught, compiled, cut,
    opinion, write,
};
use kiln_tests::random_model::{Model, NUMBERS, Refusal, grow};

type Error = Box<dyn std::error::Error>;

/// Mismatches after which nothing more is looked for.
const ENOUGH: usize = 30;

/// Models that onnxruntime is asked about at once.
const BATCH: u64 = 32;

/// Nodes of a kind of refusal that onnxruntime is asked about.
const ASKED: usize = 3;

#[derive(Default)]
struct Arguments {
    count: u64,
    seed: u64,
    threads: usize,
    log: Option<String>,
    out: Option<PathBuf>,
    python: Option<PathBuf>,
    worker: Option<PathBuf>,
    untidy: bool,
}

fn main() -> ExitCode {
    let done = arguments().and_then(|arguments| match arguments.untidy {
        true => untidy(&arguments),
        false => run(&arguments),
    });
    match done {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("differential: {error}");
            ExitCode::FAILURE
        }
    }
}

fn arguments() -> Result<Arguments, Error> {
    let mut given = std::env::args().skip(1);
    let what = given.next().ok_or("expected a count of graphs, or `untidy`")?;
    let untidy = what == "untidy";
    let count = if untidy { 0 } else { what.parse()? };
    let mut arguments = Arguments { count, seed: 1, threads: 1, untidy, ..Default::default() };
    while let Some(name) = given.next() {
        let value = given.next().ok_or_else(|| format!("{name} takes a value"))?;
        match name.as_str() {
            "--seed" => arguments.seed = value.parse()?,
            "--threads" => arguments.threads = value.parse()?,
            "--log" => arguments.log = Some(value),
            "--out" => arguments.out = Some(value.into()),
            "--python" => arguments.python = Some(value.into()),
            "--worker" => arguments.worker = Some(value.into()),
            _ => return Err(format!("there is no option {name}").into()),
        }
    }
    Ok(arguments)
}

/// Tries the models; gives the number of mismatches.
fn run(arguments: &Arguments) -> Result<usize, Error> {
    // A panic of the compiler is a mismatch with a text of its own.
    std::panic::set_hook(Box::new(|_| ()));
    let (next, found) = (AtomicU64::new(arguments.seed), AtomicUsize::new(0));
    let all = Mutex::new(Tally::default());
    std::thread::scope(|scope| {
        for thread in 0..arguments.threads.max(1) {
            let (next, found, all) = (&next, &found, &all);
            scope.spawn(move || {
                let mut worker = Worker::new(arguments, thread);
                while worker.batch(next, found) {}
                worker.refusals();
                if let Ok(mut all) = all.lock() {
                    all.add(worker.tally);
                }
            });
        }
    });
    let tally = all.into_inner()?;
    print!("{tally}");
    println!("next seed: {}", next.into_inner());
    println!(
        "differential: {} graphs, {} compared with onnxruntime, {} mismatches",
        tally.graphs, tally.compared, tally.mismatches
    );
    Ok(tally.mismatches)
}

/// Compares untidy models with what onnxruntime makes of them; gives the number of mismatches.
fn untidy(arguments: &Arguments) -> Result<usize, Error> {
    let (Some(python), Some(script)) = (&arguments.python, &arguments.worker) else {
        return Err("untidy models are compared with onnxruntime: --python, --worker".into());
    };
    let mut peer = Peer::new(python, script);
    let (mut as_they_are, mut as_meant, mut mismatches) = (0, 0, 0);
    let cases = kiln_tests::untidy::all();
    for case in &cases {
        let module = kiln_tests::random_model::load(&case.model)?;
        let inputs: Vec<Datum> = case.inputs.iter().map(|(_, t)| Datum::Tensor(t.clone())).collect();
        let own = compiled(&module, &Setting::full(), &inputs, true).map_err(|f| f.reason)?;
        let mut outputs = |model| -> Result<Result<Vec<Tensor>, String>, Error> {
            let [plain, optimized] = peer.ask(model, &case.inputs)?;
            Ok(match (plain, optimized) {
                (Answer::Outputs(outputs), _) | (Answer::Refused(_), Answer::Outputs(outputs)) => Ok(outputs),
                (Answer::Refused(reason), Answer::Refused(_)) => Err(Tally::class(&reason)),
            })
        };
        let mut answer = outputs(&case.model)?;
        let refused = answer.as_ref().err().cloned();
        if let (Some(tidy), true) = (&case.tidy, refused.is_some()) {
            answer = outputs(tidy)?;
        }
        let agrees = answer.is_ok_and(|other| {
            let pairs = own.iter().zip(&other);
            own.len() == other.len()
                && pairs.into_iter().all(|(own, other)| {
                    let [own, other] = [own, other].map(|t| Datum::Tensor(t.clone()));
                    kiln::check::compare(&own, &other).relative() < 1e-5
                })
        });
        let how = if refused.is_none() { "as it is" } else { "as it is meant" };
        match (agrees, &refused) {
            (true, None) => as_they_are += 1,
            (true, Some(_)) => as_meant += 1,
            (false, _) => mismatches += 1,
        }
        let reason = refused.map_or(String::new(), |reason| format!(" (onnxruntime: {reason})"));
        println!("{}: {}, {how}{reason}", case.name, if agrees { "agrees" } else { "MISMATCH" });
    }
    println!(
        "untidy: {} models, {as_they_are} as they are, {as_meant} as they are meant, {mismatches} mismatches",
        cases.len()
    );
    Ok(mismatches)
}

/// A model with what the evaluator says of it.
struct Grown {
    seed: u64,
    model: Model,
    outputs: Vec<Tensor>,
}

struct Worker<'a> {
    arguments: &'a Arguments,
    thread: usize,
    peer: Option<Peer>,
    tally: Tally,
    asked: BTreeMap<String, Vec<Refusal>>,
    /// What onnxruntime is at.
    sent: Vec<Grown>,
}

/// The setting in which a seed's model is compiled beside the usual one.
fn other(seed: u64) -> Setting {
    Setting::other(seed, &mut Choices::new(&numbers(seed ^ 0x5e77, 64)))
}

impl<'a> Worker<'a> {
    fn new(arguments: &'a Arguments, thread: usize) -> Self {
        let peer = match (&arguments.python, &arguments.worker) {
            (Some(python), Some(script)) => Some(Peer::new(python, script)),
            _ => None,
        };
        Worker { arguments, thread, peer, tally: Tally::default(), asked: BTreeMap::new(), sent: vec![] }
    }

    /// One batch through Kiln while onnxruntime works on the last; whether there is more to do.
    fn batch(&mut self, next: &AtomicU64, found: &AtomicUsize) -> bool {
        let end = self.arguments.seed + self.arguments.count;
        let start = next.fetch_add(BATCH, Ordering::Relaxed);
        let enough = found.load(Ordering::Relaxed) >= ENOUGH;
        let before = self.tally.mismatches;
        let mut grown = vec![];
        for seed in start..(start + BATCH).min(end) {
            if enough {
                break;
            }
            grown.extend(self.one(seed));
        }
        self.answers();
        let done = grown.is_empty();
        self.send(grown);
        if done {
            self.answers();
        }
        found.fetch_add(self.tally.mismatches - before, Ordering::Relaxed);
        !enough && start + BATCH < end || !self.sent.is_empty()
    }

    fn one(&mut self, seed: u64) -> Option<Grown> {
        if let Some(log) = &self.arguments.log {
            // Without the file a crash is harder to find, nothing else.
            let _ = std::fs::write(format!("{log}.{}", self.thread), seed.to_string());
        }
        let numbers = numbers(seed, NUMBERS);
        let attempt = std::panic::catch_unwind(|| grow(&numbers));
        self.tally.graphs += 1;
        let Ok((model, refusals)) = attempt else {
            self.tally.mismatches += 1;
            println!("seed {seed}: a panic while the model grows");
            return None;
        };
        for refusal in refusals {
            let op = refusal.model.graph.iter().flat_map(|g| &g.node).map(|n| n.op_type.clone());
            let class = format!("{}: {}", op.collect::<String>(), Tally::class(&refusal.reason));
            *self.tally.ungrown.entry(class.clone()).or_default() += 1;
            let kept = self.asked.entry(class).or_default();
            if kept.len() < ASKED {
                kept.push(refusal);
            }
        }
        for op in model.operators() {
            *self.tally.operators.entry(op.to_owned()).or_default() += 1;
        }
        match check_caught(&model, &other(seed)) {
            Ok(reference) => Some(Grown { seed, model, outputs: reference.outputs }),
            Err(failure) => {
                self.tally.mismatches += 1;
                self.report(seed, &numbers, &failure);
                None
            }
        }
    }

    fn send(&mut self, grown: Vec<Grown>) {
        self.sent = grown;
        let Some(peer) = &mut self.peer else {
            self.sent.clear();
            return;
        };
        let batch: Vec<_> = self.sent.iter().map(|g| (&g.model.proto, g.model.inputs.as_slice())).collect();
        if batch.is_empty() {
            return;
        }
        if let Err(error) = peer.send(&batch) {
            eprintln!("onnxruntime cannot be started: {error}");
            self.sent.clear();
        }
    }

    /// Compares with the answers to what was sent.
    fn answers(&mut self) {
        let sent = std::mem::take(&mut self.sent);
        let (false, Some(peer)) = (sent.is_empty(), &mut self.peer) else { return };
        let answers = peer.receive();
        for (at, grown) in sent.iter().enumerate() {
            // A model that takes the process with it is found by asking about each alone.
            let answer = match answers.as_ref().and_then(|all| all.get(at)) {
                Some(answer) => answer.to_vec(),
                None => match self.peer.as_mut().map(|p| p.ask(&grown.model.proto, &grown.model.inputs)) {
                    Some(Ok(answer)) => answer.to_vec(),
                    _ => vec![],
                },
            };
            self.judge(grown, &answer);
        }
    }

    fn judge(&mut self, grown: &Grown, answer: &[Answer]) {
        let said = opinion(&mut Agreement::new(&grown.model), &grown.outputs, answer);
        self.tally.compared += usize::from(!matches!(said, Opinion::Refuses(_)));
        match said {
            Opinion::Agrees => {}
            Opinion::Refuses(reason) => {
                if reason == LOST {
                    println!(
                        "seed {}: onnxruntime is lost: {}",
                        grown.seed,
                        grown.model.operators().join(" ")
                    );
                    let lost = |said: &Opinion| matches!(said, Opinion::Refuses(reason) if reason == LOST);
                    let small = self.smallest(&grown.model, lost);
                    self.keep(&format!("{}-lost", grown.seed), &small, &Failure::new(Kind::Peer, &reason));
                }
                *self.tally.refused.entry(Tally::class(&reason)).or_default() += 1;
            }
            Opinion::Torn(reason) => {
                self.tally.torn += 1;
                let example = format!("seed {}: {reason}", grown.seed);
                let small = self.smallest(&grown.model, |said| matches!(said, Opinion::Torn(_)));
                let over = small.operators().join(" ");
                self.tally.torn_over.entry(over).or_insert((0, example)).0 += 1;
            }
            Opinion::Differs(reason) => {
                self.tally.mismatches += 1;
                self.report(grown.seed, &numbers(grown.seed, NUMBERS), &Failure::new(Kind::Peer, reason));
            }
        }
    }

    /// The smallest part of a model of which onnxruntime has this opinion.
    fn smallest(&mut self, model: &Model, held: impl Fn(&Opinion) -> bool) -> Model {
        let Some(peer) = &mut self.peer else { return model.clone() };
        cut(model, |model| {
            let Ok(reference) = kiln_tests::differential::reference(model) else { return false };
            let Ok(answer) = peer.ask(&model.proto, &model.inputs) else { return false };
            held(&opinion(&mut Agreement::new(model), &reference.outputs, &answer))
        })
    }

    /// How a model fails, if it does.
    fn failure(peer: &mut Option<Peer>, model: &Model, setting: &Setting, kind: Kind) -> Option<Failure> {
        if kind != Kind::Peer {
            return check_caught(model, setting).err();
        }
        let reference = kiln_tests::differential::reference(model).ok()?;
        let answer = peer.as_mut()?.ask(&model.proto, &model.inputs).ok()?;
        match opinion(&mut Agreement::new(model), &reference.outputs, &answer) {
            Opinion::Differs(reason) => Some(Failure::new(Kind::Peer, reason)),
            Opinion::Agrees | Opinion::Torn(_) | Opinion::Refuses(_) => None,
        }
    }

    fn report(&mut self, seed: u64, numbers: &[u16], failure: &Failure) {
        let (setting, kind) = (other(seed), failure.kind);
        let peer = &mut self.peer;
        let same = |found: Option<Failure>| found.is_some_and(|f| f.kind == kind);
        let grown = |numbers: &[u16]| std::panic::catch_unwind(|| grow(numbers).0).ok();
        let fails = |numbers: &[u16]| {
            grown(numbers).is_some_and(|model| same(Self::failure(peer, &model, &setting, kind)))
        };
        let small = shrink(numbers, fails);
        let Some(model) = grown(&small) else { return };
        let model = cut(&model, |model| same(Self::failure(peer, model, &setting, kind)));
        let found = Self::failure(peer, &model, &setting, kind).unwrap_or_else(|| failure.clone());
        println!("seed {seed}: {:?}: {}", failure.kind, failure.reason);
        println!("  shrunk to {}: {}", model.operators().join(" "), found.reason);
        self.keep(&format!("{seed}-{kind:?}").to_lowercase(), &model, &found);
    }

    fn keep(&self, name: &str, model: &Model, failure: &Failure) {
        let Some(out) = &self.arguments.out else { return };
        let folder: &Path = &out.join(name);
        match write(folder, model, failure) {
            Ok(()) => println!("  written to {}", folder.display()),
            Err(error) => println!("  cannot be written to {}: {error}", folder.display()),
        }
    }

    /// Asks onnxruntime about nodes that Kiln refuses.
    fn refusals(&mut self) {
        for (class, refusals) in std::mem::take(&mut self.asked) {
            for refusal in refusals {
                let Some(peer) = &mut self.peer else { return };
                let Ok(answers) = peer.ask(&refusal.model, &refusal.inputs) else { return };
                if answers.iter().any(|answer| matches!(answer, Answer::Outputs(_))) {
                    self.tally.mismatches += 1;
                    println!("onnxruntime runs what Kiln refuses: {class}");
                    println!("  {}", refusal.reason);
                    let model = Model {
                        proto: refusal.model,
                        inputs: refusal.inputs,
                        steps: vec![],
                        values: BTreeMap::new(),
                    };
                    let failure = Failure::new(Kind::Refused, &refusal.reason);
                    self.keep(&format!("refused-{:x}", kiln_tests::choices::hash(&class)), &model, &failure);
                    break;
                }
            }
        }
    }
}
