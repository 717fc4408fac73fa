//! Sessions: the way to run a program.
//!
//! A [`Session`] is `Send + Sync` and runs through `&self`; any number of threads may run it at once. Each run has a
//! context of its own (arena, scratch, counters) which the session keeps for the next one, so that
//! [`Session::run_into`] on fixed shapes allocates nothing once it is warm. Constants are shared by all runs.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use kiln_ir::{DType, Datum, Tensor};

use crate::error::RunError;
use crate::exec::{Actual, Context, Dims, Executor, Frame, Limits, MemoryPlan, Place, memory_plan};
use crate::executable::{Executable, element_alignment};
use crate::memory::AlignedBuf;
use crate::profile::Profile;
use crate::program::{Entry, Program, StateId};
use crate::threads::Threads;

/// How a session runs.
#[derive(Clone, Debug, Default)]
pub struct SessionOptions {
    /// Most threads of one run, its caller included; as many as the pool has if not given.
    pub threads: Option<usize>,
    /// The threads to use; the process's shared ones if not given.
    pub pool: Option<Arc<Threads>>,
    /// Most bytes that one run may hold beside constants and the caller's tensors.
    pub max_memory: Option<u64>,
}

/// What may differ from run to run.
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    /// When to give up; looked at between kernels.
    pub deadline: Option<Instant>,
    /// Gives up when cancelled; looked at between kernels.
    pub cancel: Option<CancelToken>,
    /// Where times go.
    pub profile: Option<Arc<Profile>>,
}

/// Cancels the runs that were started with it, from any thread.
#[derive(Clone, Debug, Default)]
pub struct CancelToken(Arc<AtomicBool>);

impl CancelToken {
    /// A token that is not cancelled.
    pub fn new() -> Self {
        CancelToken::default()
    }

    /// Cancels every run with this token, also later ones.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it is cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A borrowed tensor of numbers, dense and row-major.
#[derive(Clone, Copy, Debug)]
pub struct TensorRef<'a> {
    dtype: DType,
    dims: &'a [usize],
    bytes: &'a [u8],
}

impl<'a> TensorRef<'a> {
    /// A tensor over `bytes`; `None` if they are not as many as dtype and dims need.
    pub fn new(dtype: DType, dims: &'a [usize], bytes: &'a [u8]) -> Option<Self> {
        (byte_len(dtype, dims)? == bytes.len()).then_some(TensorRef { dtype, dims, bytes })
    }
}

impl<'a> From<&'a Tensor> for TensorRef<'a> {
    fn from(tensor: &'a Tensor) -> Self {
        TensorRef { dtype: tensor.dtype(), dims: tensor.dims(), bytes: tensor.bytes() }
    }
}

/// A borrowed tensor that a run fills.
#[derive(Debug)]
pub struct TensorMut<'a> {
    dtype: DType,
    dims: &'a [usize],
    bytes: &'a mut [u8],
}

impl<'a> TensorMut<'a> {
    /// A tensor over `bytes`; `None` if they are not as many as dtype and dims need.
    pub fn new(dtype: DType, dims: &'a [usize], bytes: &'a mut [u8]) -> Option<Self> {
        (byte_len(dtype, dims)? == bytes.len()).then_some(TensorMut { dtype, dims, bytes })
    }
}

fn byte_len(dtype: DType, dims: &[usize]) -> Option<usize> {
    dtype.bytes_for(dims.iter().try_fold(1usize, |a, &d| a.checked_mul(d))?)
}

/// What a session keeps from run to run: values of the program's states, and where its random numbers are.
#[derive(Debug)]
pub(crate) struct States {
    names: Vec<String>,
    values: Mutex<Vec<Option<Datum>>>,
    seed: AtomicU64,
}

impl States {
    fn new(exe: &Executable) -> Self {
        let names = exe.program().states.iter().map(|s| s.name.clone()).collect();
        States { names, values: Mutex::new(initial_states(exe)), seed: AtomicU64::new(0) }
    }

    /// Another seed for each step that draws random numbers: no two of them, and no two runs, draw the same.
    pub fn next_seed(&self) -> u64 {
        self.seed.fetch_add(1, Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Option<Datum>>> {
        self.values.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state's value; its name if it has none.
    pub fn read(&self, state: StateId) -> Result<Datum, String> {
        let name = || self.names.get(state.index()).cloned().unwrap_or_default();
        self.lock().get(state.index()).cloned().flatten().ok_or_else(name)
    }

    /// Replaces the state's value.
    pub fn assign(&self, state: StateId, value: Datum) {
        if let Some(slot) = self.lock().get_mut(state.index()) {
            *slot = Some(value);
        }
    }
}

fn initial_states(exe: &Executable) -> Vec<Option<Datum>> {
    let program: &Program = exe.program();
    let initial = |id: crate::program::ConstantId| {
        let (constant, bytes) = (program.constant(id)?, exe.constants().get(id.index())?);
        let dims: Option<Vec<usize>> = constant.dims.iter().map(|&d| usize::try_from(d).ok()).collect();
        Tensor::new(constant.dtype, &dims?, bytes.clone()).ok().map(Datum::Tensor)
    };
    program.states.iter().map(|s| s.initial.and_then(initial)).collect()
}

/// A program ready to run.
#[derive(Debug)]
pub struct Session {
    exe: Arc<Executable>,
    pool: Arc<Threads>,
    workers: usize,
    max_memory: Option<u64>,
    contexts: Mutex<Vec<Context>>,
    states: States,
    peak: AtomicU64,
}

impl Session {
    /// A session on a loaded program.
    pub fn new(exe: Arc<Executable>, options: SessionOptions) -> Self {
        let pool = options.pool.unwrap_or_else(|| match options.threads {
            // One thread needs no pool.
            Some(1) => Threads::new(1),
            _ => Threads::shared(),
        });
        let workers = options.threads.unwrap_or(usize::MAX).clamp(1, pool.workers());
        Session {
            states: States::new(&exe),
            exe,
            pool,
            workers,
            max_memory: options.max_memory,
            contexts: Mutex::new(Vec::with_capacity(8)),
            peak: AtomicU64::new(0),
        }
    }

    /// The loaded program.
    pub fn executable(&self) -> &Arc<Executable> {
        &self.exe
    }

    /// Most threads that one run uses, its caller included.
    pub fn threads(&self) -> usize {
        self.workers
    }

    /// What can be run.
    pub fn entries(&self) -> &[Entry] {
        &self.exe.program().entries
    }

    /// The entry of that name.
    pub fn entry(&self, name: &str) -> Result<&Entry, RunError> {
        self.exe.program().entry(name).ok_or_else(|| RunError::UnknownEntry {
            name: name.to_owned(),
            known: self.entries().iter().map(|e| e.name.clone()).collect(),
        })
    }

    /// Most bytes that one run has held so far, beside constants and the caller's tensors.
    pub fn peak_memory(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }

    /// What a run of an entry on inputs of these dims holds beside constants and the caller's tensors.
    pub fn memory(&self, entry: &str, dims: &[&[usize]]) -> Result<MemoryPlan, RunError> {
        let entry = self.entry(entry)?;
        check_count(entry, "inputs", entry.inputs.len(), dims.len())?;
        memory_plan(&self.exe, entry.function, dims, &|i| input_place(entry, i))
    }

    /// Gives all states their initial values.
    pub fn reset_states(&self) {
        *self.states.lock() = initial_states(&self.exe);
    }

    /// Runs an entry on values in the order of its inputs; gives values in the order of its outputs.
    pub fn run(&self, entry: &str, inputs: &[Datum]) -> Result<Vec<Datum>, RunError> {
        self.run_with(entry, inputs, &RunOptions::default())
    }

    /// Runs an entry on named values, in any order; gives named outputs in the order of the entry.
    pub fn run_named(
        &self,
        entry: &str,
        inputs: &[(&str, Datum)],
        options: &RunOptions,
    ) -> Result<Vec<(String, Datum)>, RunError> {
        let entry = self.entry(entry)?;
        let mut ordered: Vec<Option<Datum>> = vec![None; entry.inputs.len()];
        for (name, value) in inputs {
            let (entry_name, name) = (|| entry.name.clone(), || (*name).to_owned());
            let Some(at) = entry.inputs.iter().position(|p| p.name == name()) else {
                let known = entry.inputs.iter().map(|p| p.name.clone()).collect();
                return Err(RunError::UnknownInput { entry: entry_name(), name: name(), known });
            };
            if ordered[at].replace(value.clone()).is_some() {
                return Err(RunError::DuplicateInput { entry: entry_name(), name: name() });
            }
        }
        let missing =
            |name: &String| RunError::MissingInput { entry: entry.name.clone(), name: name.clone() };
        let values: Result<Vec<Datum>, RunError> =
            ordered.into_iter().zip(&entry.inputs).map(|(v, p)| v.ok_or_else(|| missing(&p.name))).collect();
        let outputs = self.run_with(&entry.name, &values?, options)?;
        Ok(entry.outputs.iter().map(|p| p.name.clone()).zip(outputs).collect())
    }

    /// As [`Session::run`], with options.
    pub fn run_with(
        &self,
        entry: &str,
        inputs: &[Datum],
        options: &RunOptions,
    ) -> Result<Vec<Datum>, RunError> {
        let entry = self.entry(entry)?;
        check_count(entry, "inputs", entry.inputs.len(), inputs.len())?;
        let mut realigned: Vec<Option<Datum>> = vec![None; inputs.len()];
        for (value, copy) in inputs.iter().zip(&mut realigned) {
            if let Some(tensor) = value.as_tensor().filter(|t| !is_aligned(t.dtype(), t.bytes())) {
                *copy = Some(realign(entry, tensor)?);
            }
        }
        let input = |i: usize| Actual::from_datum(realigned[i].as_ref().unwrap_or(&inputs[i]).clone());
        self.execute(
            entry,
            &input,
            options,
            &mut |executor, frame| (0..entry.outputs.len()).map(|i| executor.output(frame, i)).collect(),
            &|_| None,
        )
    }

    /// Runs an entry on borrowed tensors and writes its outputs into the caller's memory, which must have the outputs'
    /// dtypes and dims. Inputs are not copied if they are aligned to their element size.
    pub fn run_into(
        &self,
        entry: &str,
        inputs: &[TensorRef<'_>],
        outputs: &mut [TensorMut<'_>],
        options: &RunOptions,
    ) -> Result<(), RunError> {
        let entry = self.entry(entry)?;
        check_count(entry, "inputs", entry.inputs.len(), inputs.len())?;
        check_count(entry, "outputs", entry.outputs.len(), outputs.len())?;
        for (output, port) in outputs.iter().zip(&entry.outputs) {
            if let Some(expected) = port.ty.as_tensor().map(|t| t.dtype).filter(|&d| d != output.dtype) {
                return Err(RunError::dtype(output_place(entry, &port.name), expected, output.dtype));
            }
        }
        let mut copies: Vec<(usize, AlignedBuf)> = Vec::new();
        for (i, input) in inputs.iter().enumerate() {
            if !is_aligned(input.dtype, input.bytes) {
                copies.push((i, copy_of(entry, input.bytes)?));
            }
        }
        let input = |i: usize| {
            let copy = copies.iter().find(|(at, _)| *at == i);
            let bytes = copy.map_or(inputs[i].bytes, |(_, buf)| buf.bytes());
            let dims = Dims::from_slice(inputs[i].dims);
            Actual { dtype: Some(inputs[i].dtype), dims, place: Some(Place::of(bytes)), value: None }
        };
        // Places for the executor; the borrows of `outputs` stay with this call.
        let targets: smallvec::SmallVec<[Place; 16]> =
            outputs.iter_mut().map(|o| Place::of_mut(o.bytes)).collect();
        let target = |i: usize| Some(targets[i]).filter(|_| is_aligned(outputs[i].dtype, outputs[i].bytes));
        self.execute(
            entry,
            &input,
            options,
            &mut |executor, frame| {
                for (i, place) in targets.iter().enumerate() {
                    let (_, dims) = executor.output_shape(frame, i)?;
                    if dims.as_slice() != outputs[i].dims {
                        return Err(RunError::Shape {
                            place: output_place(entry, &entry.outputs[i].name),
                            expected: format!("{:?}", dims.as_slice()),
                            found: format!("{:?}", outputs[i].dims),
                            reason: "the buffer has another shape than the output".to_owned(),
                        });
                    }
                    executor.copy_output(frame, i, *place)?;
                }
                Ok(())
            },
            &target,
        )
    }

    /// Runs an entry and lets `collect` take the outputs before the frame is left.
    fn execute<R>(
        &self,
        entry: &Entry,
        input: &dyn Fn(usize) -> Actual,
        options: &RunOptions,
        collect: &mut dyn FnMut(&mut Executor<'_>, &mut Frame) -> Result<R, RunError>,
        target: &dyn Fn(usize) -> Option<Place>,
    ) -> Result<R, RunError> {
        let limits = Limits { deadline: options.deadline, cancelled: options.cancel.as_ref().map(|c| &*c.0) };
        limits.check()?;
        let mut context = self.context(entry)?;
        let (exe, pool) = (&*self.exe, &*self.pool);
        let mut executor =
            Executor::new(exe, pool, &mut context, limits, options.profile.clone(), &self.states);
        let name = |i: usize| input_place(entry, i);
        let result = executor.enter(entry.function, input, None, &name).and_then(|mut frame| {
            for i in 0..entry.outputs.len() {
                if let Some(place) = target(i) {
                    executor.set_target(&mut frame, i, place);
                }
            }
            let result = executor.run(&mut frame).and_then(|()| collect(&mut executor, &mut frame));
            executor.leave(frame);
            result
        });
        self.peak.fetch_max(context.peak(), Ordering::Relaxed);
        self.lock_contexts().push(context);
        result
    }

    fn lock_contexts(&self) -> MutexGuard<'_, Vec<Context>> {
        self.contexts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn context(&self, entry: &Entry) -> Result<Context, RunError> {
        if let Some(context) = self.lock_contexts().pop() {
            return Ok(context);
        }
        let place = || format!("entry `{}`", entry.name);
        Context::new(&self.exe, self.workers, self.max_memory)
            .map_err(|source| RunError::Memory { place: place(), source })
    }
}

fn check_count(entry: &Entry, what: &'static str, expected: usize, found: usize) -> Result<(), RunError> {
    if expected == found {
        return Ok(());
    }
    Err(RunError::Count { entry: entry.name.clone(), what, expected, found })
}

fn input_place(entry: &Entry, position: usize) -> String {
    let input = entry.inputs.get(position).map_or("", |p| p.name.as_str());
    format!("entry `{}`: input `{input}`", entry.name)
}

fn output_place(entry: &Entry, port: &str) -> String {
    format!("entry `{}`: output `{port}`", entry.name)
}

fn is_aligned(dtype: DType, bytes: &[u8]) -> bool {
    bytes.as_ptr().addr().is_multiple_of(element_alignment(dtype))
}

fn copy_of(entry: &Entry, bytes: &[u8]) -> Result<AlignedBuf, RunError> {
    let place = || format!("entry `{}`", entry.name);
    AlignedBuf::copy_of(bytes).map_err(|source| RunError::Memory { place: place(), source })
}

/// A copy of the tensor in aligned memory.
fn realign(entry: &Entry, tensor: &Tensor) -> Result<Datum, RunError> {
    let buf = copy_of(entry, tensor.bytes())?;
    let len = buf.len();
    let bytes = kiln_ir::Bytes::shared(Arc::new(buf), 0..len);
    let copy = bytes.and_then(|b| Tensor::new(tensor.dtype(), tensor.dims(), b).ok());
    Ok(Datum::Tensor(copy.unwrap_or_else(|| tensor.clone())))
}
