//! Truncated and bit-flipped model files through the whole pipeline: each ends in an error or a correct run, in time and
//! in bounded memory. A panic fails the test by itself.

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use kiln::ir::{Datum, Evaluator, Type};
use kiln::runtime::{RunOptions, SessionOptions};
use kiln::{Options, check, sample_inputs};

/// What the tests hold now and held at most, in bytes.
struct Measuring;

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Measuring {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(held, Ordering::Relaxed);
        // SAFETY: by the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: by the caller.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Measuring = Measuring;

/// Longest time of one file.
const TIME: Duration = Duration::from_secs(5);

/// Most bytes beyond the file's size.
const MEMORY: usize = 256 << 20;

/// Of the memory, what a run may take beside the compiled program.
const RUN_MEMORY: u64 = 64 << 20;

/// Damaged copies of each kind.
const ROUNDS: usize = 1_000;

/// xorshift64*, Marsaglia and Vigna.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(high).unwrap() % end
    }
}

/// How far a file got.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Outcome {
    Refused,
    Loaded,
    Compared,
}

/// How far a file is taken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Load,
    Run,
}

/// Takes a file as far as it goes, within the bounds; one that does not keep them is left in the build folder.
fn take(bytes: &[u8], stage: Stage) -> Outcome {
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("damaged.onnx");
    std::fs::write(&place, bytes).unwrap();
    let start = Instant::now();
    let before = HELD.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let outcome = try_file(bytes, stage, start + TIME);
    let (time, peak) = (start.elapsed(), PEAK.load(Ordering::Relaxed) - before);
    assert!(time < TIME + Duration::from_secs(1), "{time:?}: {}", place.display());
    assert!(peak <= bytes.len() + MEMORY, "{peak} bytes: {}", place.display());
    outcome
}

fn try_file(bytes: &[u8], stage: Stage, deadline: Instant) -> Outcome {
    let copy = Bytes::copy_from_slice(bytes);
    let Ok(module) = kiln::loaders::load_bytes("damaged.onnx", copy, &Default::default()) else {
        return Outcome::Refused;
    };
    if stage == Stage::Load {
        return Outcome::Loaded;
    }
    let reference = module.clone();
    let Ok(compiled) = kiln::compile(module, &Options::default()) else { return Outcome::Loaded };
    let options = SessionOptions { threads: Some(1), max_memory: Some(RUN_MEMORY), ..Default::default() };
    let session = compiled.into_session(options).unwrap();
    let graph = reference.graph(reference.entries()[0]);
    let types: Vec<(&str, &Type)> = (graph.input_names().iter().map(String::as_str))
        .zip(graph.inputs().iter().map(|&v| graph.ty(v)))
        .collect();
    let Ok(inputs) = sample_inputs(types.into_iter(), 1) else { return Outcome::Loaded };
    let inputs: Vec<Datum> = inputs.into_iter().map(Datum::Tensor).collect();
    let run = RunOptions { deadline: Some(deadline), ..Default::default() };
    let Ok(outputs) = session.run_with(graph.name(), &inputs, &run) else { return Outcome::Loaded };
    // A flipped trip count may rightly mean long work.
    let mut evaluator = Evaluator::new(&reference);
    evaluator.set_interrupt(|| Instant::now() > deadline);
    let Ok(expected) = evaluator.run(reference.entries()[0], &inputs) else { return Outcome::Loaded };
    assert_eq!(outputs.len(), expected.len());
    for (name, (got, expected)) in graph.output_names().iter().zip(outputs.iter().zip(&expected)) {
        let difference = check::compare(got, expected);
        // Damaged weights may be large or not finite; the rest must agree.
        let vast = difference.max_reference > 1e6 || !difference.max_difference.is_finite();
        let agrees = difference.relative() <= 1e-3 || (difference.mismatch.is_none() && vast);
        assert!(agrees, "`{name}`: {difference:?}");
    }
    Outcome::Compared
}

fn damage(file: &str, seed: u64, full: impl Fn(usize) -> bool) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert_eq!(take(&bytes, Stage::Run), Outcome::Compared, "{file} is sound");
    let mut random = Random(seed);
    let mut compared = 0;
    for round in 0..ROUNDS {
        let stage = if full(round) { Stage::Run } else { Stage::Load };
        let mut flipped = bytes.clone();
        let at = random.below(flipped.len());
        flipped[at] ^= 1 << random.below(8);
        compared += usize::from(take(&flipped, stage) == Outcome::Compared);
        let length = random.below(bytes.len());
        compared += usize::from(take(&bytes[..length], stage) == Outcome::Compared);
    }
    assert!(compared > 0, "no damaged copy of {file} ran");
}

/// Every copy goes all the way. The only test of this file, so that nobody else's memory is counted.
#[test]
fn damaged_models_end_in_errors_or_correct_runs() {
    damage("models/varied.onnx", 0x9e37_79b9_7f4a_7c15, |_| true);
    // A larger file, most of which is weights, where few copies differ in more than numbers.
    damage("../models/digits/digits.onnx", 7, |round| round % 20 == 0);
}
