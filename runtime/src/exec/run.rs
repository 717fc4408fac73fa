//! The executor: enters functions, walks their items, collects their outputs.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use kiln_ir::{Bytes, DType, Datum, Tensor, Type};

use super::bind;
use super::frame::{Dims, Frame, Place, SlotState, slot_dims, slot_dtype, slot_size, tensor_from};
use crate::error::RunError;
use crate::executable::Executable;
use crate::memory::{AlignedBuf, Budget, MemoryError};
use crate::prepare::{Item, ItemKind, Prepared};
use crate::profile::{Profile, StepId};
use crate::program::{Function, FunctionId, SlotId, Storage};
use crate::session::States;
use crate::symbols::{Bindings, Declared, unify};
use crate::threads::Threads;
use crate::threads::section::Section;

/// Frames of one function that a context keeps for later runs.
const FRAMES_PER_FUNCTION: usize = 4;

/// Deepest nesting of functions.
const MAX_DEPTH: usize = 64;

/// Most bytes of a value whose size shows when it is computed, where the caller sets no bound: what the evaluator gives a
/// result.
const MOST_LATE: u64 = 4 << 30;

/// A value that enters a function.
#[derive(Clone)]
pub(crate) struct Actual {
    pub dtype: Option<DType>,
    pub dims: Dims,
    /// The bytes, if kernels may read the value.
    pub place: Option<Place>,
    /// The value itself, if the caller has it as one.
    pub value: Option<Datum>,
}

impl Actual {
    /// An owned value.
    pub fn from_datum(value: Datum) -> Self {
        let tensor = value.as_tensor();
        Actual {
            dtype: tensor.map(Tensor::dtype),
            dims: tensor.map(|t| Dims::from_slice(t.dims())).unwrap_or_default(),
            place: tensor.map(|t| Place::of(t.bytes())),
            value: Some(value),
        }
    }
}

/// What may end a run early.
#[derive(Clone, Copy, Default)]
pub(crate) struct Limits<'a> {
    pub deadline: Option<Instant>,
    pub cancelled: Option<&'a AtomicBool>,
}

impl Limits<'_> {
    /// Why the run must end, if it must.
    pub fn check(&self) -> Result<(), RunError> {
        if self.cancelled.is_some_and(|c| c.load(Ordering::Relaxed)) {
            return Err(RunError::Cancelled);
        }
        if self.deadline.is_some_and(|d| Instant::now() >= d) {
            return Err(RunError::DeadlineExceeded);
        }
        Ok(())
    }
}

/// What one run at a time needs and the next can use again.
#[derive(Debug)]
pub(crate) struct Context {
    section: Arc<Section>,
    scratch: AlignedBuf,
    /// Frames that no run uses; the last one was used last.
    frames: Vec<Frame>,
    budget: Budget,
    bindings: Bindings,
    key: Vec<i64>,
}

impl Context {
    /// A context for runs of up to `workers` threads.
    pub fn new(exe: &Executable, workers: usize, max_memory: Option<u64>) -> Result<Self, MemoryError> {
        // Areas of different workers share no cache line, also not with adjacent-line prefetch.
        let stride = exe.scratch_bytes().saturating_add(crate::abi::SLACK as u64).next_multiple_of(128);
        let budget = Budget::new(max_memory);
        let bytes = stride.saturating_mul(workers as u64);
        budget.take(bytes)?;
        let scratch = AlignedBuf::zeroed(bytes)?;
        let section = Arc::new(Section::new(workers));
        // SAFETY: the scratch lives as long as the context, and regions run only while an executor borrows it.
        unsafe { section.set_scratch(scratch.as_ptr(), usize::try_from(stride).unwrap_or(usize::MAX)) };
        let bindings = Bindings::unbound(exe.symbols().len());
        Ok(Context { section, scratch, frames: Vec::with_capacity(16), budget, bindings, key: Vec::new() })
    }

    /// Takes bytes from the budget of the run.
    pub fn take(&self, bytes: u64) -> Result<(), MemoryError> {
        self.budget.take(bytes)
    }

    /// The cap on what a run holds; `u64::MAX` if there is none.
    pub fn cap(&self) -> u64 {
        self.budget.cap()
    }

    /// Most bytes that the runs so far held at once: arenas, outputs, scratch, values on the heap.
    pub fn peak(&self) -> u64 {
        self.budget.peak().max(self.scratch.len() as u64)
    }
}

/// One run.
pub(crate) struct Executor<'a> {
    pub exe: &'a Executable,
    pub threads: &'a Threads,
    pub cx: &'a mut Context,
    pub limits: Limits<'a>,
    pub profile: Option<Arc<Profile>>,
    pub states: &'a States,
    depth: usize,
}

impl<'a> Executor<'a> {
    /// An executor on a context that nobody else uses.
    pub fn new(
        exe: &'a Executable,
        threads: &'a Threads,
        cx: &'a mut Context,
        limits: Limits<'a>,
        profile: Option<Arc<Profile>>,
        states: &'a States,
    ) -> Self {
        cx.section.set_profile(profile.clone());
        Executor { exe, threads, cx, limits, profile, states, depth: 0 }
    }

    /// Binds a function to its inputs. `inherited` holds the caller's symbol values; `input_place` names an input.
    pub fn enter(
        &mut self,
        id: FunctionId,
        input: &dyn Fn(usize) -> Actual,
        inherited: Option<&Bindings>,
        input_place: &dyn Fn(usize) -> String,
    ) -> Result<Frame, RunError> {
        let exe = self.exe;
        let Some((function, prepared)) = exe.function(id) else {
            return Err(RunError::Plan { place: id.to_string(), what: "it does not exist".to_owned() });
        };
        if self.depth >= MAX_DEPTH {
            let place = format!("function `{}`", function.name);
            return Err(RunError::Depth { place, limit: MAX_DEPTH });
        }
        // What the sizes of the inputs do not say by themselves has the caller's value.
        let mut inherit = |bindings: &mut Bindings| {
            for &symbol in prepared.entry_symbols() {
                if bindings.get(symbol).is_none() {
                    bindings.set(symbol, inherited.and_then(|b| b.get(symbol)));
                }
            }
        };
        self.bind_inputs(function, input, input_place, &mut inherit)?;
        let cx = &mut *self.cx;
        cx.key.clear();
        // Sizes are never negative, so that -1 can stand for "no value".
        cx.key.extend(prepared.entry_symbols().map(|&s| cx.bindings.get(s).unwrap_or(-1)));
        let mut frame = self.frame(id, function, prepared)?;
        for (i, slot) in function.inputs.iter().enumerate() {
            let actual = input(i);
            let (Some(state), Some(data)) =
                (frame.slots.get_mut(slot.index()), function.slots.get(slot.index()))
            else {
                continue;
            };
            state.place = actual.place;
            state.value = actual.value;
            state.dims = (!has_dims(&data.ty)).then_some(actual.dims);
        }
        self.depth += 1;
        Ok(frame)
    }

    /// Checks inputs against their declared types and binds their symbols in the context's bindings; `inherit` adds
    /// what the sizes do not say.
    fn bind_inputs(
        &mut self,
        function: &Function,
        input: &dyn Fn(usize) -> Actual,
        input_place: &dyn Fn(usize) -> String,
        inherit: &mut dyn FnMut(&mut Bindings),
    ) -> Result<(), RunError> {
        let ty = |i: usize| &function.slots[function.inputs[i].index()].ty;
        let index = self.exe.symbols();
        let bindings = &mut self.cx.bindings;
        bindings.clear();
        for i in 0..function.inputs.len() {
            let (declared, actual) = (ty(i), input(i));
            let expected = declared.as_tensor().map(|t| t.dtype);
            if expected != actual.dtype {
                let kind =
                    |d: Option<DType>| d.map_or("a sequence or optional".to_owned(), |d| d.to_string());
                return Err(RunError::Kind {
                    place: input_place(i),
                    expected: kind(expected),
                    found: kind(actual.dtype),
                });
            }
        }
        let declared = |i: usize| Declared { ty: ty(i), dims: input(i).dims };
        unify(index, bindings, function.inputs.len(), &declared, inherit)
            .map_err(|m| (m.position, m))
            .map_err(|(i, m)| m.error(input_place(i), &declared(i)))
    }

    /// A frame for the key in the context: one from an earlier run, or a new one.
    fn frame(&mut self, id: FunctionId, function: &Function, prepared: &Prepared) -> Result<Frame, RunError> {
        let cx = &mut *self.cx;
        let found = cx.frames.iter().rposition(|f| f.function == id && f.key == cx.key);
        if let Some(found) = found {
            let frame = cx.frames.remove(found);
            let bytes = frame.arena_bytes();
            if let Err(source) = cx.budget.take(bytes) {
                let place = format!("function `{}`", function.name);
                return Err(RunError::Memory { place, source });
            }
            return Ok(frame);
        }
        // The oldest frames of the function make room.
        while cx.frames.iter().filter(|f| f.function == id).count() >= FRAMES_PER_FUNCTION {
            match cx.frames.iter().position(|f| f.function == id) {
                Some(oldest) => drop(cx.frames.remove(oldest)),
                None => break,
            }
        }
        let (budget, frames) = (&cx.budget, &mut cx.frames);
        let mut taken = 0;
        let mut admit = |bytes: u64| {
            budget.take(bytes)?;
            taken = bytes;
            // Frames kept for later count against the cap as soon as it would be passed.
            let mut kept: u64 = frames.iter().map(|f| f.arena_bytes()).sum();
            while budget.held().saturating_add(kept) > budget.cap() && !frames.is_empty() {
                kept -= frames.remove(0).arena_bytes();
            }
            Ok(())
        };
        let bound = Frame::bind(self.exe, id, function, prepared, &cx.key, &cx.bindings, &mut admit);
        bound.inspect_err(|_| budget.give_back(taken))
    }

    /// Ends the use of a frame and keeps it for later runs.
    pub fn leave(&mut self, mut frame: Frame) {
        self.depth = self.depth.saturating_sub(1);
        if let Some((function, prepared)) = self.exe.function(frame.function) {
            frame.reset(function, prepared, &self.cx.budget);
        }
        self.cx.budget.give_back(frame.arena_bytes());
        self.cx.frames.push(frame);
    }

    /// Says where output `position` shall be written; the place is checked when the output's size is known.
    pub fn set_target(&self, frame: &mut Frame, position: usize, target: Place) {
        if let Some(slot) = frame.targets.get_mut(position) {
            *slot = Some(target);
        }
    }

    /// Runs every item of the frame's function.
    pub fn run(&mut self, frame: &mut Frame) -> Result<(), RunError> {
        let exe = self.exe;
        let Some((function, prepared)) = exe.function(frame.function) else { return Ok(()) };
        self.place_eager_outputs(frame, function, prepared)?;
        for (i, item) in prepared.items.iter().enumerate() {
            self.limits.check()?;
            match item.kind {
                ItemKind::Eager => self.run_bound(frame, function, prepared, i, item)?,
                ItemKind::Lazy => self.run_lazy(frame, function, prepared, i, item)?,
                ItemKind::Single => {
                    let start = self.profile.as_ref().map(|_| Instant::now());
                    self.control(frame, function, prepared, item.first)?;
                    if let (Some(profile), Some(start)) = (&self.profile, start) {
                        let step = u32::try_from(item.first).unwrap_or(u32::MAX);
                        profile.record(StepId { function: frame.function, step }, 0, 0, start);
                    }
                }
            }
            for slot in &item.release {
                if let Some(state) = frame.slots.get_mut(slot.index()) {
                    state.clear(&self.cx.budget);
                }
            }
        }
        Ok(())
    }

    fn run_bound(
        &mut self,
        frame: &mut Frame,
        function: &Function,
        prepared: &Prepared,
        position: usize,
        item: &Item,
    ) -> Result<(), RunError> {
        if frame.segments.get(position).is_some_and(Option::is_none) {
            let workers = self.cx.section.workers().min(self.threads.workers());
            let bound = bind::bind(self.exe, frame, (function, prepared), item, workers)?;
            frame.segments[position] = Some(bound);
        }
        match frame.segments.get(position).and_then(Option::as_ref) {
            Some(segment) => self.run_segment(frame, function, segment),
            None => Ok(()),
        }
    }

    fn run_lazy(
        &mut self,
        frame: &mut Frame,
        function: &Function,
        prepared: &Prepared,
        position: usize,
        item: &Item,
    ) -> Result<(), RunError> {
        for step in &function.steps[item.first..item.end] {
            let mut roots = smallvec::SmallVec::<[SlotId; 8]>::new();
            crate::plan::for_each_slot(&step.action, &mut |slot| roots.push(prepared.roots[slot.index()]));
            for root in roots {
                let most = if prepared.eager[root.index()] { u64::MAX } else { MOST_LATE };
                self.ensure_memory(frame, function, root, most)?;
            }
        }
        // A loop or a later run often has the same sizes again.
        let kept = frame.segments.get(position).and_then(Option::as_ref);
        if !kept.is_some_and(|s| bind::late_values(frame, prepared).eq(s.late.iter().copied())) {
            frame.segments[position] = None;
        }
        self.run_bound(frame, function, prepared, position, item)
    }

    fn run_segment(
        &self,
        frame: &Frame,
        function: &Function,
        segment: &bind::Segment,
    ) -> Result<(), RunError> {
        segment.patch(frame, function)?;
        if let Some(profile) = &self.profile {
            profile.record_work(segment.work.iter().copied());
        }
        let why: Cell<Option<RunError>> = Cell::new(None);
        let mut interrupted = || match self.limits.check() {
            Ok(()) => false,
            Err(error) => {
                why.set(Some(error));
                true
            }
        };
        if self.threads.run(&self.cx.section, &segment.region, &mut interrupted) {
            return Ok(());
        }
        Err(why.into_inner().unwrap_or(RunError::Cancelled))
    }

    /// Gives outputs of known size their memory.
    fn place_eager_outputs(
        &mut self,
        frame: &mut Frame,
        function: &Function,
        prepared: &Prepared,
    ) -> Result<(), RunError> {
        for &slot in &function.outputs {
            let is_output = matches!(function.slots[slot.index()].storage, Storage::Output(_));
            if is_output && prepared.eager[slot.index()] {
                self.ensure_memory(frame, function, slot, u64::MAX)?;
            }
        }
        Ok(())
    }

    /// Gives a root slot memory, if it has none and gets it from the heap or the caller; without a bound of the caller, at
    /// most `most` bytes.
    pub(super) fn ensure_memory(
        &mut self,
        frame: &mut Frame,
        function: &Function,
        slot: SlotId,
        most: u64,
    ) -> Result<(), RunError> {
        let data = &function.slots[slot.index()];
        if frame.slots[slot.index()].place.is_some() {
            return Ok(());
        }
        let target = match data.storage {
            Storage::Output(i) => frame.targets.get(i as usize).copied().flatten(),
            Storage::Arena => None,
            Storage::Input(_) | Storage::Constant(_) | Storage::View { .. } | Storage::Object => {
                return Ok(());
            }
        };
        let size = slot_size(self.exe, function, &data.ty, &frame.bindings)?;
        let place = match target {
            Some(target) if target.len == size => target,
            Some(target) => {
                return Err(RunError::Kind {
                    place: format!("function `{}`, output buffer", function.name),
                    expected: format!("{size} bytes"),
                    found: format!("{} bytes", target.len),
                });
            }
            None => {
                let memory =
                    |source| RunError::Memory { place: format!("function `{}`", function.name), source };
                if size > most && self.cx.budget.cap() == u64::MAX {
                    return Err(memory(MemoryError::OverCap { needed: size, cap: most }));
                }
                self.cx.budget.take(size).map_err(memory)?;
                let buf = AlignedBuf::zeroed(size).inspect_err(|_| self.cx.budget.give_back(size));
                let buf = buf.map_err(memory)?;
                let place = Place { ptr: buf.as_ptr(), len: size };
                let state = &mut frame.slots[slot.index()];
                state.owned = Some(buf);
                state.charged = size;
                place
            }
        };
        frame.slots[slot.index()].place = Some(place);
        Ok(())
    }

    /// The memory of a slot, through views; `None` if its root has none yet.
    pub(super) fn slot_place(
        &self,
        frame: &Frame,
        function: &Function,
        slot: SlotId,
    ) -> Result<Option<Place>, RunError> {
        let (mut at, mut total) = (slot, 0u64);
        let invalid = |what: &str| RunError::Plan {
            place: format!("function `{}`", function.name),
            what: format!("{slot} {what}"),
        };
        while let Storage::View { of, offset } = &function.slots[at.index()].storage {
            let value = self.exe.symbols().eval(offset, &frame.bindings);
            let offset = value.ok().and_then(|v| u64::try_from(v).ok());
            total =
                offset.and_then(|o| total.checked_add(o)).ok_or_else(|| invalid("has no valid offset"))?;
            at = *of;
        }
        let Some(place) = frame.slots[at.index()].place else { return Ok(None) };
        if at == slot {
            return Ok(Some(place));
        }
        let size = slot_size(self.exe, function, &function.slots[slot.index()].ty, &frame.bindings)?;
        place.part(total, size).map(Some).ok_or_else(|| invalid("lies outside the slot it is a view of"))
    }

    /// A slot's value as one of its own; bytes in the arena and borrowed inputs are copied.
    pub(super) fn value(&self, frame: &Frame, function: &Function, slot: SlotId) -> Result<Datum, RunError> {
        let data = &function.slots[slot.index()];
        if let Some(value) = &frame.slots[slot.index()].value {
            return Ok(value.clone());
        }
        let place = || format!("function `{}`", function.name);
        let invalid = |what: String| RunError::Plan { place: place(), what };
        let Some(dtype) = slot_dtype(function, slot) else {
            return Err(invalid(format!("{slot} is used before it has a value")));
        };
        let dims = self.dims(frame, function, slot)?;
        let shared = match data.storage {
            Storage::Constant(id) => self.exe.constants().get(id.index()).cloned(),
            _ => None,
        };
        let bytes = match shared {
            Some(bytes) => bytes,
            None => {
                let Some(place) = self.slot_place(frame, function, slot)? else {
                    return Err(invalid(format!("{slot} is used before it has a value")));
                };
                // SAFETY: the place belongs to the frame, a constant or a caller's buffer that outlives the run, and
                // no region runs while the leader is here.
                Bytes::copied(unsafe { place_bytes(place) })
            }
        };
        Tensor::new(dtype, &dims, bytes).map(Datum::Tensor).map_err(|e| invalid(e.to_string()))
    }

    /// Dims of a tensor slot: the caller's, where its type does not say them.
    fn dims(&self, frame: &Frame, function: &Function, slot: SlotId) -> Result<Dims, RunError> {
        match &frame.slots[slot.index()].dims {
            Some(dims) => Ok(dims.clone()),
            None => slot_dims(self.exe, function, &function.slots[slot.index()].ty, &frame.bindings),
        }
    }

    /// A slot as an argument of a called function, without a copy where it has memory.
    pub(super) fn actual(
        &self,
        frame: &Frame,
        function: &Function,
        slot: SlotId,
    ) -> Result<Actual, RunError> {
        if let Some(value) = &frame.slots[slot.index()].value {
            return Ok(Actual::from_datum(value.clone()));
        }
        let place = self.slot_place(frame, function, slot)?;
        if place.is_none() {
            let (place, what) =
                (format!("function `{}`", function.name), format!("{slot} is used before it has a value"));
            return Err(RunError::Plan { place, what });
        }
        let dims = self.dims(frame, function, slot)?;
        Ok(Actual { dtype: slot_dtype(function, slot), dims, place, value: None })
    }

    /// The value of output `position`; memory that the output owns becomes the tensor's.
    pub fn output(&self, frame: &mut Frame, position: usize) -> Result<Datum, RunError> {
        let Some((function, _)) = self.exe.function(frame.function) else {
            return Err(RunError::Plan {
                place: frame.function.to_string(),
                what: "it does not exist".to_owned(),
            });
        };
        let slot = function.outputs[position];
        let needed = function.outputs[position + 1..].iter().any(|&later| is_in(function, later, slot));
        let state: &mut SlotState = &mut frame.slots[slot.index()];
        let moved = if needed { None } else { state.owned.take() };
        match (moved, slot_dtype(function, slot)) {
            (Some(buf), Some(dtype)) => {
                self.cx.budget.give_back(std::mem::take(&mut state.charged));
                state.place = None;
                let dims = slot_dims(self.exe, function, &function.slots[slot.index()].ty, &frame.bindings)?;
                let place = || format!("function `{}`", function.name);
                tensor_from(dtype, &dims, buf, &place).map(Datum::Tensor)
            }
            _ => self.value(frame, function, slot),
        }
    }

    /// Writes output `position` to `target`, unless the function wrote it there itself.
    pub fn copy_output(&self, frame: &Frame, position: usize, target: Place) -> Result<(), RunError> {
        let Some((function, _)) = self.exe.function(frame.function) else { return Ok(()) };
        let slot = function.outputs[position];
        let place = match &frame.slots[slot.index()].value {
            Some(value) => value.as_tensor().map(|t| Place::of(t.bytes())),
            None => self.slot_place(frame, function, slot)?,
        };
        let invalid = |what: String| RunError::Plan { place: format!("function `{}`", function.name), what };
        let Some(place) = place else { return Err(invalid(format!("output {position} has no value"))) };
        if place.len < target.len {
            return Err(invalid(format!(
                "output {position} has {} bytes, {} expected",
                place.len, target.len
            )));
        }
        if place.ptr != target.ptr {
            // SAFETY: both places are valid for `target.len` bytes, and no region runs while the leader is here.
            unsafe { std::ptr::copy(place.ptr, target.ptr, usize::try_from(target.len).unwrap_or(0)) };
        }
        Ok(())
    }

    /// Dtype and dims of output `position` after a run.
    pub fn output_shape(&self, frame: &Frame, position: usize) -> Result<(Option<DType>, Dims), RunError> {
        let Some((function, _)) = self.exe.function(frame.function) else { return Ok((None, Dims::new())) };
        let slot = function.outputs[position];
        if let Some(value) = &frame.slots[slot.index()].value {
            let tensor = value.as_tensor();
            let dims = tensor.map(|t| Dims::from_slice(t.dims())).unwrap_or_default();
            return Ok((tensor.map(Tensor::dtype), dims));
        }
        let dims = self.dims(frame, function, slot)?;
        Ok((slot_dtype(function, slot), dims))
    }
}

/// Whether a type says the dims of its values; where it does not, the values do.
fn has_dims(ty: &Type) -> bool {
    ty.as_tensor().is_some_and(|t| t.shape.dims().is_some())
}

/// Whether a slot is another, or a view of it.
fn is_in(function: &Function, mut slot: SlotId, other: SlotId) -> bool {
    while slot != other {
        match &function.slots[slot.index()].storage {
            Storage::View { of, .. } => slot = *of,
            _ => return false,
        }
    }
    true
}

/// The bytes of a place.
///
/// # Safety
/// The place is valid for reads and nobody writes to it while the slice lives.
pub(super) unsafe fn place_bytes<'b>(place: Place) -> &'b [u8] {
    // A place comes from a slice or an allocation, so its length fits.
    let len = usize::try_from(place.len).unwrap_or(0);
    if len == 0 {
        return &[];
    }
    // SAFETY: by the caller.
    unsafe { std::slice::from_raw_parts(place.ptr, len) }
}
