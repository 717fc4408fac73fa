//! Binding kernel steps: dims become integers, slots become pointers, and every access is checked against its buffer.

use std::sync::Arc;

use kiln_ir::Dim;

use super::frame::{Frame, Place, slot_size};
use crate::abi::{KernelArgs, KernelFn};
use crate::error::RunError;
use crate::executable::Executable;
use crate::prepare::{Item, Prepared};
use crate::profile::{StepId, Work};
use crate::program::{Action, Function, KernelCall, Relation, SlotId, Storage};
use crate::threads::region::{BoundStep, MAX_CHUNKS, Region};

/// Estimated nanoseconds below which a kernel runs as one chunk: sharing it costs more than it gains.
const SERIAL_NS: i64 = 5_000;
/// Assumed speed of one core, in operations and bytes a nanosecond.
const FLOPS_PER_NS: i64 = 16;
const BYTES_PER_NS: i64 = 10;

/// Bytes that one grid index of a copy moves, and indices of one chunk.
const COPY_UNIT: u64 = 64 << 10;
const COPY_GRAIN: u64 = 4;

/// Kernel steps of one item, bound.
#[derive(Debug)]
pub(super) struct Segment {
    pub region: Arc<Region>,
    /// Pointers that change from run to run.
    patches: Vec<Patch>,
    pub work: Vec<Work>,
    /// Values of the function's late symbols when the segment was bound; eager segments do not depend on them.
    pub late: Vec<Option<i64>>,
}

/// A pointer into a slot that has other memory in every run.
#[derive(Debug)]
struct Patch {
    pointer: usize,
    root: SlotId,
    offset: u64,
    len: u64,
}

/// What kernels get for empty buffers: where a guard fails they read the first bytes of a buffer and drop them.
#[repr(align(64))]
struct Nothing([u8; 256]);

static NOTHING: Nothing = Nothing([0; 256]);

/// A pointer that may be read even where there are no bytes.
fn readable(pointer: *mut u8, len: u64) -> *mut u8 {
    if len == 0 { NOTHING.0.as_ptr().cast_mut() } else { pointer }
}

/// Names a step in errors: its source nodes, or its position.
pub(super) fn step_place(function: &Function, step: usize) -> String {
    match function.steps.get(step).map(|s| s.provenance.as_slice()) {
        None | Some([]) => format!("function `{}`, step {step}", function.name),
        Some([node]) => format!("node `{node}`"),
        Some(nodes) => format!("nodes `{}`", nodes.join("`, `")),
    }
}

impl Segment {
    /// Sets the pointers that belong to this run.
    pub fn patch(&self, frame: &Frame, function: &Function) -> Result<(), RunError> {
        for patch in &self.patches {
            let place = frame.slots.get(patch.root.index()).and_then(|s| s.place);
            let invalid =
                |what: String| RunError::Plan { place: format!("function `{}`", function.name), what };
            let Some(place) = place else {
                return Err(invalid(format!("{} is used before it has a value", patch.root)));
            };
            let Some(part) = place.part(patch.offset, patch.len) else {
                return Err(invalid(format!(
                    "{} has {} bytes, a kernel uses {} from {}",
                    patch.root, place.len, patch.len, patch.offset
                )));
            };
            self.region.set_pointer(patch.pointer, readable(part.ptr, patch.len));
        }
        Ok(())
    }
}

/// Values of the function's late symbols now.
pub(super) fn late_values(frame: &Frame, prepared: &Prepared) -> impl Iterator<Item = Option<i64>> {
    prepared.late_symbols.iter().map(|&symbol| frame.bindings.get(symbol))
}

/// Binds the steps of an item, for about `workers` threads.
pub(super) fn bind(
    exe: &Executable,
    frame: &Frame,
    (function, prepared): (&Function, &Prepared),
    item: &Item,
    workers: usize,
) -> Result<Segment, RunError> {
    let mut binder = Binder {
        exe,
        frame,
        function,
        prepared,
        step: item.first,
        steps: vec![],
        pointers: vec![],
        dims: vec![],
        patches: vec![],
        work: vec![],
    };
    for step in item.first..item.end {
        binder.step = step;
        match &function.steps[step].action {
            Action::Kernel(call) => binder.kernel(call)?,
            Action::Copy { from, to } => binder.copy(*from, *to)?,
            Action::Check { left, relation, right, what } => binder.check(left, *relation, right, what)?,
            Action::Host { .. }
            | Action::If { .. }
            | Action::Loop { .. }
            | Action::Call { .. }
            | Action::Sizes { .. }
            | Action::StateRead { .. }
            | Action::StateAssign { .. } => return Err(binder.invalid("a control step among kernels")),
        }
    }
    let Binder { steps, pointers, dims, patches, work, .. } = binder;
    // SAFETY: kernels come from the executable's code, with as many buffers and dims as validation found them to take.
    // Every pointer leads to as many bytes as the step says it uses: into the frame's arena or constants, which live
    // as long as the frame; or it is set by `patch` before each run.
    let region = unsafe { Region::new(steps, pointers, dims, workers) };
    let late = late_values(frame, prepared).collect();
    Ok(Segment { region: Arc::new(region), patches, work, late })
}

struct Binder<'a> {
    exe: &'a Executable,
    frame: &'a Frame,
    function: &'a Function,
    prepared: &'a Prepared,
    step: usize,
    steps: Vec<BoundStep>,
    pointers: Vec<*mut u8>,
    dims: Vec<i64>,
    patches: Vec<Patch>,
    work: Vec<Work>,
}

impl Binder<'_> {
    fn place(&self) -> String {
        step_place(self.function, self.step)
    }

    fn invalid(&self, what: impl Into<String>) -> RunError {
        RunError::Plan { place: self.place(), what: what.into() }
    }

    fn eval(&self, dim: &Dim) -> Result<i64, RunError> {
        self.exe.symbols().eval(dim, &self.frame.bindings).map_err(|e| RunError::dim(self.place(), dim, &e))
    }

    fn eval_size(&self, dim: &Dim) -> Result<u64, RunError> {
        let value = self.eval(dim)?;
        u64::try_from(value).map_err(|_| RunError::Dim {
            place: self.place(),
            dim: dim.clone(),
            reason: format!("is {value}, a size is needed"),
        })
    }

    fn slot_bytes(&self, slot: SlotId) -> Result<u64, RunError> {
        slot_size(self.exe, self.function, &self.function.slots[slot.index()].ty, &self.frame.bindings)
    }

    fn check(&self, left: &Dim, relation: Relation, right: &Dim, what: &str) -> Result<(), RunError> {
        let (left, right) = (self.eval(left)?, self.eval(right)?);
        if relation.holds(left, right) {
            return Ok(());
        }
        Err(RunError::Check { place: self.place(), what: what.to_owned(), left, relation, right })
    }

    /// Offset of a slot from the first byte of its root; each view must lie inside what it is a view of.
    fn view_offset(&self, slot: SlotId) -> Result<u64, RunError> {
        let (mut at, mut total) = (slot, 0u64);
        while let Storage::View { of, offset } = &self.function.slots[at.index()].storage {
            let (offset, len) = (self.eval_size(offset)?, self.slot_bytes(at)?);
            let whole = self.slot_bytes(*of)?;
            if offset.checked_add(len).is_none_or(|end| end > whole) {
                return Err(
                    self.invalid(format!("{at} takes {len} bytes from {offset} of {of}, which has {whole}"))
                );
            }
            total = total.checked_add(offset).ok_or_else(|| self.invalid("an offset overflows"))?;
            at = *of;
        }
        Ok(total)
    }

    /// Adds a pointer to `len` bytes from `offset` of a slot.
    fn buffer(&mut self, slot: SlotId, offset: u64, len: u64) -> Result<(), RunError> {
        let size = self.slot_bytes(slot)?;
        if offset.checked_add(len).is_none_or(|end| end > size) {
            let what = format!("it uses {len} bytes from {offset} of {slot}, which has {size}");
            return Err(self.invalid(what));
        }
        let from_root = self.view_offset(slot)?.saturating_add(offset);
        let root = self.prepared.roots[slot.index()];
        let moves = match self.function.slots[root.index()].storage {
            Storage::Input(_) | Storage::Output(_) | Storage::Object => true,
            Storage::Arena => !self.prepared.eager[root.index()],
            Storage::Constant(_) | Storage::View { .. } => false,
        };
        if moves {
            self.patches.push(Patch { pointer: self.pointers.len(), root, offset: from_root, len });
            self.pointers.push(std::ptr::null_mut());
            return Ok(());
        }
        let place = self.frame.slots[root.index()].place;
        let part = place.and_then(|p: Place| p.part(from_root, len));
        let part = part.ok_or_else(|| self.invalid(format!("{slot} lies outside its memory")))?;
        self.pointers.push(readable(part.ptr, len));
        Ok(())
    }

    fn kernel(&mut self, call: &KernelCall) -> Result<(), RunError> {
        let grid = self.eval_size(&call.grid)?;
        if grid == 0 {
            return Ok(());
        }
        let grain = self.eval_size(&call.grain)?.max(1);
        let (pointers, dims) = (self.pointers.len(), self.dims.len());
        for buffer in &call.buffers {
            let (offset, len) = (self.eval_size(&buffer.offset)?, self.eval_size(&buffer.len)?);
            self.buffer(buffer.slot, offset, len)?;
        }
        for dim in &call.dims {
            let value = self.eval(dim)?;
            self.dims.push(value);
        }
        let kernel = self
            .exe
            .kernel(call.kernel)
            .ok_or_else(|| self.invalid(format!("{} is missing", call.kernel)))?;
        // Estimates that do not evaluate make the step large, which is always right.
        let flops = self.eval(&call.flops).unwrap_or(i64::MAX).max(0);
        let bytes = self.eval(&call.bytes).unwrap_or(i64::MAX).max(0);
        let estimate = (flops / FLOPS_PER_NS).saturating_add(bytes / BYTES_PER_NS);
        let grain = if estimate < SERIAL_NS { grid } else { grain };
        self.push(kernel, pointers, dims, grid, grain, (flops as u64, bytes as u64));
        Ok(())
    }

    fn copy(&mut self, from: SlotId, to: SlotId) -> Result<(), RunError> {
        let (len, target) = (self.slot_bytes(from)?, self.slot_bytes(to)?);
        if len != target {
            return Err(self.invalid(format!("{len} bytes of {from} are copied to {to}, which has {target}")));
        }
        if len == 0 {
            return Ok(());
        }
        let (pointers, dims) = (self.pointers.len(), self.dims.len());
        self.buffer(from, 0, len)?;
        self.buffer(to, 0, len)?;
        self.dims.push(i64::try_from(len).map_err(|_| self.invalid("a copy overflows"))?);
        let grid = len.div_ceil(COPY_UNIT);
        self.push(copy_bytes, pointers, dims, grid, COPY_GRAIN, (0, 2 * len));
        Ok(())
    }

    fn push(
        &mut self,
        kernel: KernelFn,
        pointers: usize,
        dims: usize,
        grid: u64,
        grain: u64,
        (flops, bytes): (u64, u64),
    ) {
        let grain = grain.max(grid.div_ceil(MAX_CHUNKS));
        let place =
            StepId { function: self.frame.function, step: u32::try_from(self.step).unwrap_or(u32::MAX) };
        let step = BoundStep { kernel, place, pointers, dims, grid, grain };
        self.work.push(Work { step: place, flops, bytes, chunks: step.chunks() });
        self.steps.push(step);
    }
}

/// Defines a kernel in Rust with the calling convention of compiled ones.
macro_rules! native_kernel {
    ($(#[$doc:meta])* unsafe fn $name:ident($args:ident) $body:block) => {
        $(#[$doc])*
        #[cfg(target_arch = "x86_64")]
        unsafe extern "sysv64" fn $name($args: *const KernelArgs) $body
        $(#[$doc])*
        #[cfg(not(target_arch = "x86_64"))]
        unsafe extern "C" fn $name($args: *const KernelArgs) $body
    };
}

native_kernel! {
    /// Buffers: source, destination. Integers: their length. A grid index is [`COPY_UNIT`] bytes.
    unsafe fn copy_bytes(args) {
        // SAFETY: `Binder::copy` passes two buffers of `dims[0]` bytes and a grid that covers them. The ranges may
        // be the same bytes (a view copied onto its root), which `copy` allows.
        unsafe {
            let args = &*args;
            let len = *args.dims as u64;
            let begin = (args.chunk_begin * COPY_UNIT).min(len) as usize;
            let end = args.chunk_end.saturating_mul(COPY_UNIT).min(len) as usize;
            let (from, to) = (*args.buffers, *args.buffers.add(1));
            std::ptr::copy(from.add(begin), to.add(begin), end - begin);
        }
    }
}
