//! Times of steps and chunks. Collecting them is optional; a run without a profile takes no time stamps.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::program::FunctionId;
use crate::threads::region::BoundStep;

/// A step of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StepId {
    /// The function.
    pub function: FunctionId,
    /// Position of the step in it.
    pub step: u32,
}

/// Time that one worker spent on one chunk of a kernel, or on a whole host or control step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The step.
    pub step: StepId,
    /// The chunk; 0 for host and control steps.
    pub chunk: u32,
    /// The worker; 0 is the thread that called `run`.
    pub worker: u32,
    /// Nanoseconds from the profile's start to the start of the work.
    pub start_ns: u64,
    /// Nanoseconds from the profile's start to the end of the work.
    pub end_ns: u64,
}

/// Arithmetic and traffic of one kernel step, as the program states them, under the shapes of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    /// The step.
    pub step: StepId,
    /// Arithmetic operations.
    pub flops: u64,
    /// Bytes read and written.
    pub bytes: u64,
    /// Chunks the step is cut into.
    pub chunks: u32,
}

/// Collects spans of one or more runs.
#[derive(Debug)]
pub struct Profile {
    start: Instant,
    data: Mutex<Data>,
}

#[derive(Debug, Default)]
struct Data {
    spans: Vec<Span>,
    work: Vec<Work>,
}

impl Profile {
    /// An empty profile; its clock starts now.
    pub fn new() -> Self {
        Profile { start: Instant::now(), data: Mutex::default() }
    }

    /// The spans so far, in order of their ends, and each kernel step's work in order of its runs.
    pub fn take(&self) -> (Vec<Span>, Vec<Work>) {
        let data = std::mem::take(&mut *self.data.lock().unwrap_or_else(PoisonError::into_inner));
        (data.spans, data.work)
    }

    pub(crate) fn record_chunk(&self, step: &BoundStep, worker: usize, chunk: u32, start: Instant) {
        self.record(step.place, worker, chunk, start);
    }

    pub(crate) fn record(&self, step: StepId, worker: usize, chunk: u32, start: Instant) {
        let since = |t: Instant| u64::try_from(t.duration_since(self.start).as_nanos()).unwrap_or(u64::MAX);
        let span = Span {
            step,
            chunk,
            worker: u32::try_from(worker).unwrap_or(u32::MAX),
            start_ns: since(start),
            end_ns: since(Instant::now()),
        };
        self.data.lock().unwrap_or_else(PoisonError::into_inner).spans.push(span);
    }

    pub(crate) fn record_work(&self, work: impl IntoIterator<Item = Work>) {
        self.data.lock().unwrap_or_else(PoisonError::into_inner).work.extend(work);
    }
}

impl Default for Profile {
    fn default() -> Self {
        Profile::new()
    }
}
