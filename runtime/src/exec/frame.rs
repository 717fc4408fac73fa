//! Frames: a function bound to symbol values, with memory for its slots.

use std::borrow::Cow;
use std::sync::Arc;

use kiln_ir::{Bytes, DType, Datum, Tensor, Type};
use smallvec::SmallVec;

use super::bind::Segment;
use crate::error::RunError;
use crate::executable::Executable;
use crate::memory::{AlignedBuf, Budget, MemoryError};
use crate::plan::{self, byte_size};
use crate::prepare::{ItemKind, Prepared};
use crate::program::{ArenaLayout, Function, FunctionId, SlotId, Storage};
use crate::symbols::{Bindings, Declared, unify};

/// Some bytes that a slot lives in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub ptr: *mut u8,
    pub len: u64,
}

impl Place {
    /// The place of bytes that are only read.
    pub fn of(bytes: &[u8]) -> Self {
        Place { ptr: bytes.as_ptr().cast_mut(), len: bytes.len() as u64 }
    }

    /// The place of writable bytes.
    pub fn of_mut(bytes: &mut [u8]) -> Self {
        Place { ptr: bytes.as_mut_ptr(), len: bytes.len() as u64 }
    }

    /// The part from `offset` on with `len` bytes, if it lies inside.
    pub fn part(self, offset: u64, len: u64) -> Option<Place> {
        let end = offset.checked_add(len).filter(|&end| end <= self.len)?;
        let offset = usize::try_from(end - len).ok()?;
        Some(Place { ptr: self.ptr.wrapping_add(offset), len })
    }
}

/// Dims of an actual tensor.
pub(crate) type Dims = SmallVec<[usize; 8]>;

/// The state of one slot during a run.
#[derive(Debug, Default)]
pub(super) struct SlotState {
    /// Memory of a root slot, once it has some.
    pub place: Option<Place>,
    /// The value of an object, or the tensor that a caller passed.
    pub value: Option<Datum>,
    /// Dims that a caller passed, where the slot's type does not say them.
    pub dims: Option<Dims>,
    /// Memory that the slot owns: outputs, and sizes known late.
    pub owned: Option<AlignedBuf>,
    /// Bytes of the budget that the slot holds.
    pub charged: u64,
}

/// A function bound to the values of its input and free symbols.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(super) function: FunctionId,
    /// Values of the input symbols, then of the free symbols.
    pub(super) key: Vec<i64>,
    pub(super) bindings: Bindings,
    pub(super) slots: Vec<SlotState>,
    /// Where the caller wants outputs, by position.
    pub(super) targets: Vec<Option<Place>>,
    /// Bound eager items; `None` until first reached.
    pub(super) segments: Vec<Option<Segment>>,
    arena: AlignedBuf,
}

// SAFETY: the raw pointers in a frame lead to its own arena, to memory its slots own, to constants that the executable
// keeps, and, during a run only, to the caller's inputs and outputs. One thread at a time uses a frame; kernels on
// other threads get the pointers through a region, which orders the accesses.
unsafe impl Send for Frame {}

impl Frame {
    /// Binds a function: sizes its arena and allocates it.
    pub fn bind(
        exe: &Executable,
        id: FunctionId,
        function: &Function,
        prepared: &Prepared,
        key: &[i64],
        bindings: &Bindings,
        admit: &mut dyn FnMut(u64) -> Result<(), MemoryError>,
    ) -> Result<Frame, RunError> {
        let memory = |source| RunError::Memory { place: format!("function `{}`", function.name), source };
        let sizes = eager_sizes(exe, function, prepared, bindings)?;
        let layout = layout(function, &sizes)?;
        admit(layout.size).map_err(memory)?;
        let arena = AlignedBuf::zeroed(layout.size).map_err(memory)?;
        let whole = Place { ptr: arena.as_ptr(), len: arena.len() as u64 };
        let mut slots: Vec<SlotState> = Vec::new();
        slots.resize_with(function.slots.len(), SlotState::default);
        for (i, slot) in function.slots.iter().enumerate() {
            slots[i].place = match (&slot.storage, sizes[i]) {
                (Storage::Arena, Some(size)) => {
                    layout.offsets.get(i).copied().flatten().and_then(|offset| whole.part(offset, size))
                }
                (Storage::Constant(id), _) => {
                    exe.constants().get(id.index()).map(|bytes| Place::of(bytes.as_slice()))
                }
                _ => None,
            };
        }
        let mut segments = Vec::new();
        segments.resize_with(prepared.items.len(), || None);
        Ok(Frame {
            function: id,
            key: key.to_vec(),
            bindings: bindings.clone(),
            slots,
            targets: vec![None; function.outputs.len()],
            segments,
            arena,
        })
    }

    /// Bytes of the arena.
    pub fn arena_bytes(&self) -> u64 {
        self.arena.len() as u64
    }

    /// Forgets what belongs to one run; memory that slots own goes back to the budget.
    pub fn reset(&mut self, function: &Function, prepared: &Prepared, budget: &Budget) {
        for (slot, state) in function.slots.iter().zip(&mut self.slots) {
            match slot.storage {
                Storage::Arena if state.owned.is_none() => {}
                Storage::Constant(_) => {}
                Storage::Arena
                | Storage::Input(_)
                | Storage::Output(_)
                | Storage::View { .. }
                | Storage::Object => state.clear(budget),
            }
        }
        // What a run has bound goes; what the frame was made for stays.
        self.bindings.clear();
        for (&symbol, &value) in prepared.entry_symbols().zip(&self.key) {
            self.bindings.set(symbol, (value >= 0).then_some(value));
        }
        self.targets.fill(None);
    }
}

impl SlotState {
    /// Drops value and memory.
    pub fn clear(&mut self, budget: &Budget) {
        budget.give_back(std::mem::take(&mut self.charged));
        self.owned = None;
        self.place = None;
        self.value = None;
        self.dims = None;
    }
}

/// The arena layout for these sizes: the compiler's, where every size is fixed.
fn layout<'f>(function: &'f Function, sizes: &[Option<u64>]) -> Result<Cow<'f, ArenaLayout>, RunError> {
    if let Some(layout) = &function.arena {
        return Ok(Cow::Borrowed(layout));
    }
    plan::layout(function, sizes).map(Cow::Owned).map_err(|_| RunError::Memory {
        place: format!("function `{}`", function.name),
        source: MemoryError::Refused(u64::MAX),
    })
}

/// Bytes that a run of a function holds, as far as the shapes of its inputs tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Bytes of the arena.
    pub arena: u64,
    /// Bytes of the most that lives in the arena at one step.
    pub live: u64,
    /// Bytes of outputs, where the runtime allocates them.
    pub outputs: u64,
    /// Bytes of scratch for one thread.
    pub scratch: u64,
    /// Whether nothing else is held: no host or control steps, no sizes known late.
    pub exact: bool,
}

/// What a run of a function holds for inputs of these dims.
pub(crate) fn memory_plan(
    exe: &Executable,
    id: FunctionId,
    dims: &[&[usize]],
    input_place: &dyn Fn(usize) -> String,
) -> Result<MemoryPlan, RunError> {
    let Some((function, prepared)) = exe.function(id) else {
        return Err(RunError::Plan { place: id.to_string(), what: "it does not exist".to_owned() });
    };
    let mut bindings = Bindings::unbound(exe.symbols().len());
    let declared = |i: usize| Declared {
        ty: &function.slots[function.inputs[i].index()].ty,
        dims: Dims::from_slice(dims.get(i).copied().unwrap_or(&[])),
    };
    unify(exe.symbols(), &mut bindings, function.inputs.len(), &declared, &mut |_| {}).map_err(|m| {
        let position = m.position;
        m.error(input_place(position), &declared(position))
    })?;
    let sizes = eager_sizes(exe, function, prepared, &bindings)?;
    let output = |i: usize| sizes[i].filter(|_| matches!(function.slots[i].storage, Storage::Output(_)));
    Ok(MemoryPlan {
        arena: layout(function, &sizes)?.size,
        live: plan::largest_live(function, &sizes),
        outputs: (0..sizes.len()).filter_map(output).fold(0, u64::saturating_add),
        scratch: exe.scratch_bytes(),
        exact: prepared.items.iter().all(|item| item.kind == ItemKind::Eager),
    })
}

/// Bytes of every slot whose size depends on input and free symbols only.
pub(super) fn eager_sizes(
    exe: &Executable,
    function: &Function,
    prepared: &Prepared,
    bindings: &Bindings,
) -> Result<Vec<Option<u64>>, RunError> {
    let mut sizes = Vec::with_capacity(function.slots.len());
    for (slot, &eager) in function.slots.iter().zip(&prepared.eager) {
        let needed = eager && matches!(slot.storage, Storage::Arena | Storage::Output(_));
        sizes.push(if needed { Some(slot_size(exe, function, &slot.ty, bindings)?) } else { None });
    }
    Ok(sizes)
}

/// Bytes of a tensor slot under the bindings.
pub(super) fn slot_size(
    exe: &Executable,
    function: &Function,
    ty: &Type,
    bindings: &Bindings,
) -> Result<u64, RunError> {
    let place = || format!("function `{}`", function.name);
    let Some(tensor) = ty.as_tensor() else {
        return Err(RunError::Plan { place: place(), what: format!("a value of type {ty} has no size") });
    };
    let dim = byte_size(tensor);
    let bytes = exe.symbols().eval(&dim, bindings).map_err(|e| RunError::dim(place(), &dim, &e))?;
    // A product of dims can be positive with two of them negative.
    for d in tensor.shape.dims().unwrap_or(&[]) {
        let value = exe.symbols().eval(d, bindings).map_err(|e| RunError::dim(place(), d, &e))?;
        if value < 0 {
            return Err(RunError::Dim { place: place(), dim: d.clone(), reason: format!("is {value}") });
        }
    }
    u64::try_from(bytes).map_err(|_| RunError::Dim {
        place: place(),
        dim,
        reason: format!("is {bytes}, a size is needed"),
    })
}

/// Dims of a tensor slot under the bindings.
pub(super) fn slot_dims(
    exe: &Executable,
    function: &Function,
    ty: &Type,
    bindings: &Bindings,
) -> Result<Dims, RunError> {
    let place = || format!("function `{}`", function.name);
    let Some(dims) = ty.as_tensor().and_then(|t| t.shape.dims()) else {
        return Err(RunError::Plan { place: place(), what: format!("a value of type {ty} has no dims") });
    };
    let mut out = Dims::new();
    for d in dims {
        let value = exe.symbols().eval(d, bindings).map_err(|e| RunError::dim(place(), d, &e))?;
        let negative = |_| RunError::Dim { place: place(), dim: d.clone(), reason: format!("is {value}") };
        out.push(usize::try_from(value).map_err(negative)?);
    }
    Ok(out)
}

/// A tensor over memory that a slot owned.
pub(super) fn tensor_from(
    dtype: DType,
    dims: &[usize],
    buf: AlignedBuf,
    place: &dyn Fn() -> String,
) -> Result<Tensor, RunError> {
    let invalid = |what: String| RunError::Plan { place: place(), what };
    let len = buf.len();
    let bytes = Bytes::shared(Arc::new(buf), 0..len).ok_or_else(|| invalid("lost memory".to_owned()))?;
    Tensor::new(dtype, dims, bytes).map_err(|e| invalid(e.to_string()))
}

/// The slot's declared tensor type's dtype.
pub(super) fn slot_dtype(function: &Function, slot: SlotId) -> Option<DType> {
    function.slots.get(slot.index()).and_then(|s| s.ty.as_tensor()).map(|t| t.dtype)
}
