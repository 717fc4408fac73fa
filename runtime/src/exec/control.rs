//! Host, control, size and state steps; the leader runs them by itself.

use kiln_ir::{Bytes, DType, Datum, Dim, Tensor, Type};

use super::frame::{Dims, Frame, Place};
use super::run::{Actual, Executor, place_bytes};
use crate::error::RunError;
use crate::memory::MemoryError;
use crate::prepare::Prepared;
use crate::program::{Action, Function, FunctionId, SlotId, Storage};
use crate::symbols::{Declared, unify};

/// The step that runs.
struct At<'f> {
    function: &'f Function,
    prepared: &'f Prepared,
    step: usize,
}

impl At<'_> {
    fn place(&self) -> String {
        super::step_place(self.function, self.step)
    }

    fn invalid(&self, what: impl Into<String>) -> RunError {
        RunError::Plan { place: self.place(), what: what.into() }
    }
}

impl Executor<'_> {
    /// Runs one host, control or state step.
    pub(super) fn control(
        &mut self,
        frame: &mut Frame,
        function: &Function,
        prepared: &Prepared,
        step: usize,
    ) -> Result<(), RunError> {
        let at = At { function, prepared, step };
        match &function.steps[step].action {
            Action::Host { graph, operands, results } => {
                let values = self.values(frame, function, operands)?;
                let produced = self.host(frame, &at, graph, &values)?;
                drop(values);
                self.store_all(frame, &at, results, produced)
            }
            Action::Call { function: callee, operands, results } => {
                let produced = self.call(frame, &at, *callee, operands)?;
                self.store_all(frame, &at, results, produced)
            }
            Action::If { condition, then_branch, else_branch, operands, results } => {
                let branch =
                    if self.read_bool(frame, &at, *condition)? { *then_branch } else { *else_branch };
                let produced = self.call(frame, &at, branch, operands)?;
                self.store_all(frame, &at, results, produced)
            }
            Action::Loop { body, trip_count, condition, carried, captured, results } => {
                let trips = match trip_count {
                    Some(slot) => self.read_i64(frame, &at, *slot)?,
                    None => i64::MAX,
                };
                let go = match condition {
                    Some(slot) => self.read_bool(frame, &at, *slot)?,
                    None => true,
                };
                let looped = Loop { body: *body, carried, captured, scans: results.len() - carried.len() };
                let produced = self.run_loop(frame, &at, &looped, (trips, go))?;
                self.store_all(frame, &at, results, produced)
            }
            Action::StateRead { state, result } => {
                let value = self
                    .states
                    .read(*state)
                    .map_err(|state| RunError::UnsetState { place: at.place(), state })?;
                self.store(frame, &at, *result, value)
            }
            Action::StateAssign { state, value } => {
                let value = self.value(frame, function, *value)?;
                self.states.assign(*state, value);
                Ok(())
            }
            Action::Sizes { from, dims } => self.bind_sizes(frame, &at, *from, dims),
            Action::Kernel(_) | Action::Copy { .. } | Action::Check { .. } => {
                Err(at.invalid("a kernel among control steps"))
            }
        }
    }

    /// Gives dims the elements of a vector.
    fn bind_sizes(&self, frame: &mut Frame, at: &At<'_>, from: SlotId, dims: &[Dim]) -> Result<(), RunError> {
        let actual = self.actual(frame, at.function, from)?;
        let bytes = match actual.place {
            Some(place) if actual.dtype == Some(DType::I64) && place.len == 8 * dims.len() as u64 => {
                // SAFETY: the place belongs to the frame or a value it holds, and no region runs now.
                unsafe { place_bytes(place) }
            }
            _ => return Err(at.invalid(format!("{from} does not hold {} sizes", dims.len()))),
        };
        let mut sizes = Dims::new();
        for (bytes, dim) in bytes.chunks_exact(8).zip(dims) {
            let size = bytes.try_into().map(i64::from_le_bytes).unwrap_or(-1);
            let negative = |_| RunError::Dim {
                place: at.place(),
                dim: dim.clone(),
                reason: format!("is {size}, a size is needed"),
            };
            sizes.push(usize::try_from(size).map_err(negative)?);
        }
        let ty = Type::tensor(DType::I64, dims.to_vec());
        let declared = |_: usize| Declared { ty: &ty, dims: sizes.clone() };
        unify(self.exe.symbols(), &mut frame.bindings, 1, &declared, &mut |_| {})
            .map_err(|m| m.error(at.place(), &declared(0)))
    }

    fn values(&self, frame: &Frame, function: &Function, slots: &[SlotId]) -> Result<Vec<Datum>, RunError> {
        slots.iter().map(|&slot| self.value(frame, function, slot)).collect()
    }

    fn host(
        &self,
        frame: &Frame,
        at: &At<'_>,
        graph: &str,
        operands: &[Datum],
    ) -> Result<Vec<Datum>, RunError> {
        let limits = self.limits;
        let interrupted = || limits.check().is_err();
        let symbols = self.exe.symbols();
        let mut bound =
            symbols.iter().filter_map(|(symbol, number)| Some((symbol, frame.bindings.get(number)?)));
        let seed = self.states.next_seed();
        let produced = self.exe.host().run(graph, operands, self.cx.cap(), seed, &mut bound, &interrupted);
        produced.map_err(|reason| match limits.check() {
            Err(early) => early,
            Ok(()) => RunError::Host { place: at.place(), reason },
        })
    }

    /// Runs a function on slots of the frame.
    fn call(
        &mut self,
        frame: &Frame,
        at: &At<'_>,
        callee: FunctionId,
        operands: &[SlotId],
    ) -> Result<Vec<Datum>, RunError> {
        let actuals: Result<Vec<Actual>, RunError> =
            operands.iter().map(|&slot| self.actual(frame, at.function, slot)).collect();
        self.call_with(frame, at, callee, &actuals?)
    }

    fn call_with(
        &mut self,
        frame: &Frame,
        at: &At<'_>,
        callee: FunctionId,
        actuals: &[Actual],
    ) -> Result<Vec<Datum>, RunError> {
        let input = |i: usize| actuals[i].clone();
        let place = |i: usize| format!("{}, operand {i}", at.place());
        let mut inner = self.enter(callee, &input, Some(&frame.bindings), &place)?;
        let outputs = self.run(&mut inner).and_then(|()| {
            let count = self.exe.function(callee).map_or(0, |(f, _)| f.outputs.len());
            (0..count).map(|i| self.output(&mut inner, i)).collect()
        });
        self.leave(inner);
        outputs
    }

    fn run_loop(
        &mut self,
        frame: &Frame,
        at: &At<'_>,
        looped: &Loop<'_>,
        (trips, mut go): (i64, bool),
    ) -> Result<Vec<Datum>, RunError> {
        let mut carried = self.values(frame, at.function, looped.carried)?;
        let captured: Result<Vec<Actual>, RunError> =
            looped.captured.iter().map(|&slot| self.actual(frame, at.function, slot)).collect();
        let captured = captured?;
        let mut scans: Vec<Scan> = (0..looped.scans).map(|_| Scan::default()).collect();
        let mut iteration = 0i64;
        while go && iteration < trips {
            self.limits.check()?;
            let condition = Tensor::from_bools(&[], &[go]).map_err(|e| at.invalid(e.to_string()))?;
            let mut actuals = vec![
                Actual::from_datum(Tensor::scalar(iteration).into()),
                Actual::from_datum(condition.into()),
            ];
            actuals.extend(carried.drain(..).map(Actual::from_datum));
            actuals.extend(captured.iter().cloned());
            let mut produced = self.call_with(frame, at, looped.body, &actuals)?.into_iter();
            go = produced.next().as_ref().and_then(Datum::as_tensor).is_some_and(|t| t.bytes() != [0]);
            carried.extend(produced.by_ref().take(looped.carried.len()));
            for (scan, value) in scans.iter_mut().zip(produced) {
                scan.push(value, self.cx.cap(), &|| at.place())?;
            }
            iteration += 1;
        }
        if iteration == 0 && looped.scans > 0 {
            let first: Vec<Actual> =
                carried.iter().cloned().map(Actual::from_datum).chain(captured).collect();
            let empty = self.empty_scans(frame, at, looped, &first)?;
            carried.extend(empty);
            return Ok(carried);
        }
        for scan in scans {
            carried.push(scan.finish(&|| at.place())?);
        }
        Ok(carried)
    }

    /// What a loop collects that ran no iteration: no slices, of the sizes that a first iteration would give them. Those
    /// that show only when the body runs are 0.
    fn empty_scans(
        &mut self,
        frame: &Frame,
        at: &At<'_>,
        looped: &Loop<'_>,
        operands: &[Actual],
    ) -> Result<Vec<Datum>, RunError> {
        let exe = self.exe;
        let Some((body, _)) = exe.function(looped.body) else { return Err(at.invalid("a loop has no body")) };
        let go = Tensor::from_bools(&[], &[true]).map_err(|e| at.invalid(e.to_string()))?;
        let head = [Actual::from_datum(Tensor::scalar(0i64).into()), Actual::from_datum(go.into())];
        let input = |i: usize| match head.get(i) {
            Some(actual) => actual.clone(),
            None => operands[i - head.len()].clone(),
        };
        // Where the body does not take the operands, no iteration runs that would fail.
        let place = |i: usize| format!("{}, operand {i}", at.place());
        let inner = self.enter(looped.body, &input, Some(&frame.bindings), &place).ok();
        let bindings = inner.as_ref().map_or(&frame.bindings, |inner| &inner.bindings);
        let empty = |&slot: &SlotId| {
            let Some(ty) = body.slots[slot.index()].ty.as_tensor() else {
                return Err(at.invalid("a scanned value is not a tensor"));
            };
            let mut dims = vec![0];
            for dim in ty.shape.dims().unwrap_or(&[]) {
                let value = exe.symbols().eval(dim, bindings).unwrap_or(0);
                dims.push(usize::try_from(value).unwrap_or(0));
            }
            Tensor::zeros(ty.dtype, &dims).map(Datum::Tensor).map_err(|e| at.invalid(e.to_string()))
        };
        let empty = body.outputs.iter().skip(1 + looped.carried.len()).map(empty).collect();
        if let Some(inner) = inner {
            self.leave(inner);
        }
        empty
    }

    fn store_all(
        &mut self,
        frame: &mut Frame,
        at: &At<'_>,
        slots: &[SlotId],
        values: Vec<Datum>,
    ) -> Result<(), RunError> {
        if slots.len() != values.len() {
            return Err(at.invalid(format!("{} results expected, {} came", slots.len(), values.len())));
        }
        slots.iter().zip(values).try_for_each(|(&slot, value)| self.store(frame, at, slot, value))
    }

    /// Makes `value` the value of a slot: checks it against the slot's type, binds the type's symbols, and moves or
    /// copies it to where the slot lives.
    fn store(&mut self, frame: &mut Frame, at: &At<'_>, slot: SlotId, value: Datum) -> Result<(), RunError> {
        let data = &at.function.slots[slot.index()];
        let place = || format!("{}, result {slot}", at.place());
        if let (Some(expected), Some(tensor)) = (data.ty.as_tensor(), value.as_tensor()) {
            if expected.dtype != tensor.dtype() {
                return Err(RunError::dtype(place(), expected.dtype, tensor.dtype()));
            }
            let declared = |_: usize| Declared { ty: &data.ty, dims: Dims::from_slice(tensor.dims()) };
            unify(self.exe.symbols(), &mut frame.bindings, 1, &declared, &mut |_| {})
                .map_err(|m| m.error(place(), &declared(0)))?;
        } else if data.ty.as_tensor().is_some() != value.as_tensor().is_some() {
            let (expected, found) = (data.ty.to_string(), value.ty().to_string());
            return Err(RunError::Kind { place: place(), expected, found });
        }
        if matches!(data.storage, Storage::Object) {
            let bytes = value.as_tensor().map_or(0, |t| t.bytes().len() as u64);
            self.cx.take(bytes).map_err(|source| RunError::Memory { place: place(), source })?;
            let state = &mut frame.slots[slot.index()];
            state.charged = bytes;
            state.place = value.as_tensor().map(|t| Place::of(t.bytes()));
            state.value = Some(value);
            return Ok(());
        }
        let root = at.prepared.roots[slot.index()];
        self.ensure_memory(frame, at.function, root, u64::MAX)?;
        let target = self.slot_place(frame, at.function, slot)?;
        let source = value.as_tensor().map(|t| Place::of(t.bytes()));
        let (Some(target), Some(source)) = (target, source) else {
            return Err(at.invalid(format!("{slot} has no memory for its value")));
        };
        if target.len != source.len {
            return Err(at.invalid(format!("{slot} has {} bytes, its value {}", target.len, source.len)));
        }
        // SAFETY: the slot is writable by validation and its memory belongs to this frame; the value is a tensor of
        // its own; lengths agree; no region runs while the leader is here.
        unsafe { std::ptr::copy(source.ptr, target.ptr, usize::try_from(target.len).unwrap_or(0)) };
        Ok(())
    }

    fn read_bool(&self, frame: &Frame, at: &At<'_>, slot: SlotId) -> Result<bool, RunError> {
        let bytes = self.read_scalar(frame, at, slot, DType::Bool)?;
        Ok(bytes[0] != 0)
    }

    fn read_i64(&self, frame: &Frame, at: &At<'_>, slot: SlotId) -> Result<i64, RunError> {
        Ok(i64::from_le_bytes(self.read_scalar(frame, at, slot, DType::I64)?))
    }

    /// The first element of a slot that has exactly one, zero-extended.
    fn read_scalar(
        &self,
        frame: &Frame,
        at: &At<'_>,
        slot: SlotId,
        dtype: DType,
    ) -> Result<[u8; 8], RunError> {
        let actual = self.actual(frame, at.function, slot)?;
        let place = || format!("{}, operand {slot}", at.place());
        if actual.dtype != Some(dtype) {
            let found = actual.dtype.map_or("no tensor".to_owned(), |d| d.to_string());
            return Err(RunError::Kind { place: place(), expected: dtype.to_string(), found });
        }
        let size = dtype.bits() / 8;
        let mut out = [0u8; 8];
        match actual.place {
            Some(p) if p.len == size as u64 => {
                // SAFETY: the place belongs to the frame or a value it holds, and no region runs now.
                out[..size].copy_from_slice(unsafe { place_bytes(p) });
                Ok(out)
            }
            _ => Err(RunError::Kind {
                place: place(),
                expected: format!("one {dtype}"),
                found: format!("{dtype}{:?}", actual.dims.as_slice()),
            }),
        }
    }
}

/// The parts of a loop step.
struct Loop<'s> {
    body: FunctionId,
    carried: &'s [SlotId],
    captured: &'s [SlotId],
    scans: usize,
}

/// Slices of a scanned value, as they come.
#[derive(Default)]
struct Scan {
    first: Option<(DType, Dims)>,
    bytes: Vec<u8>,
    strings: Vec<String>,
    count: usize,
}

impl Scan {
    fn push(&mut self, value: Datum, cap: u64, place: &dyn Fn() -> String) -> Result<(), RunError> {
        let Some(tensor) = value.into_tensor() else {
            return Err(RunError::Plan {
                place: place(),
                what: "a scanned value is not a tensor".to_owned(),
            });
        };
        let shape = (tensor.dtype(), Dims::from_slice(tensor.dims()));
        let first = self.first.get_or_insert_with(|| shape.clone());
        if *first != shape {
            return Err(RunError::Shape {
                place: place(),
                expected: format!("{:?}", first.1.as_slice()),
                found: format!("{:?}", shape.1.as_slice()),
                reason: "slices of a scanned value differ".to_owned(),
            });
        }
        let needed = self.bytes.len() as u64 + tensor.bytes().len() as u64;
        let refused = |source| RunError::Memory { place: place(), source };
        if needed > cap {
            return Err(refused(MemoryError::OverCap { needed, cap }));
        }
        if self.bytes.try_reserve(tensor.bytes().len()).is_err() {
            return Err(refused(MemoryError::Refused(needed)));
        }
        self.bytes.extend_from_slice(tensor.bytes());
        self.strings.extend_from_slice(tensor.as_strings());
        self.count += 1;
        Ok(())
    }

    /// The slices as one tensor.
    fn finish(self, place: &dyn Fn() -> String) -> Result<Datum, RunError> {
        let Some((dtype, mut dims)) = self.first else {
            return Err(RunError::Plan { place: place(), what: "nothing is collected".to_owned() });
        };
        dims.insert(0, self.count);
        let tensor = if dtype == DType::String {
            Tensor::strings(&dims, self.strings)
        } else if dtype.is_packed() && self.count > 1 {
            return Err(RunError::Plan {
                place: place(),
                what: format!("values of {dtype} cannot be scanned"),
            });
        } else {
            Tensor::new(dtype, &dims, Bytes::copied(&self.bytes))
        };
        tensor.map(Datum::Tensor).map_err(|e| RunError::Plan { place: place(), what: e.to_string() })
    }
}
