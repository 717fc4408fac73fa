//! The checks that make a damaged or foreign plan safe to prepare and bind: no panic, no access beyond a slot by the
//! runtime itself. Kernels trust the integers that steps pass them, so that an artifact as a whole is trusted as a
//! shared library is. What must hold:
//!
//! 1. Every id is in range; names of entries, of their ports and of states are unique.
//! 2. Kernels lie inside the code; steps pass each kernel as many buffers and integers as it takes.
//! 3. Constants have the sizes that their types say; a slot of a constant is not larger than it.
//! 4. `inputs[i]` is the only slot with storage `Input(i)`; storage `Output(i)` belongs to slot `outputs[i]` only.
//! 5. Views end in a slot that is not a view; kernels and copies touch dense tensors of fixed-size elements only, and
//!    never write an input or a constant.
//! 6. Results of host and control steps and of state reads match in number; host and state results are objects.
//! 7. A stored arena layout keeps the guarantee of [`crate::plan`].
//!
//! Sizes and offsets that depend on symbols are checked when they are bound.

use std::collections::BTreeSet;

use kiln_ir::{Bytes, Type};

use crate::plan::{self, byte_size, for_each_slot, root};
use crate::program::{Action, Function, FunctionId, KernelCall, Program, SlotId, Storage};

/// What is wrong with a plan, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub place: String,
    pub what: String,
}

type Check = Result<(), Fault>;

fn fail<T>(place: impl Into<String>, what: impl Into<String>) -> Result<T, Fault> {
    Err(Fault { place: place.into(), what: what.into() })
}

/// Checks a program against its code's length and its constants' data.
pub(crate) fn check(program: &Program, code_len: u64, constants: &[Bytes]) -> Check {
    if constants.len() != program.constants.len() {
        return fail("constants", format!("{} declared, {} given", program.constants.len(), constants.len()));
    }
    for (constant, data) in program.constants.iter().zip(constants) {
        if constant.byte_len() != Some(data.as_slice().len() as u64) {
            let what = format!("its type does not take the {} bytes there are", data.as_slice().len());
            return fail(format!("constant `{}`", constant.name), what);
        }
    }
    for kernel in &program.kernels {
        let end = kernel.code_offset.checked_add(kernel.code_len);
        if kernel.code_len == 0 || end.is_none_or(|end| end > code_len) {
            return fail(format!("kernel `{}`", kernel.name), "its code lies outside the code image");
        }
        if kernel.scratch_bytes > 1 << 32 {
            return fail(format!("kernel `{}`", kernel.name), "it asks for more than 4 GiB of scratch");
        }
    }
    for function in &program.functions {
        FunctionCheck { program, function }.check()?;
    }
    check_entries(program)?;
    let mut names = BTreeSet::new();
    for state in &program.states {
        let place = || format!("state `{}`", state.name);
        if !names.insert(&state.name) {
            return fail(place(), "its name is not unique");
        }
        if state.initial.is_some_and(|c| program.constant(c).is_none()) {
            return fail(place(), "its initial value is not a constant of the program");
        }
        let Some(ty) = state.ty.as_tensor() else { return fail(place(), "it is not a tensor") };
        if state.initial.is_some_and(|c| program.constant(c).is_none_or(|c| c.dtype != ty.dtype)) {
            return fail(place(), "its initial value has another dtype");
        }
    }
    Ok(())
}

fn check_entries(program: &Program) -> Check {
    let mut names = BTreeSet::new();
    for entry in &program.entries {
        let place = || format!("entry `{}`", entry.name);
        if !names.insert(&entry.name) {
            return fail(place(), "its name is not unique");
        }
        let Some(function) = program.function(entry.function) else {
            return fail(place(), "its function does not exist");
        };
        if function.inputs.len() != entry.inputs.len() || function.outputs.len() != entry.outputs.len() {
            return fail(place(), "its ports do not match its function");
        }
        for (ports, slots) in [(&entry.inputs, &function.inputs), (&entry.outputs, &function.outputs)] {
            let mut names = BTreeSet::new();
            for (port, slot) in ports.iter().zip(slots) {
                if !names.insert(&port.name) {
                    return fail(place(), format!("port `{}` is not unique", port.name));
                }
                let dtype = |ty: &Type| ty.as_tensor().map(|t| t.dtype);
                if dtype(&port.ty) != dtype(&function.slots[slot.index()].ty) {
                    return fail(place(), format!("port `{}` has another type than its slot", port.name));
                }
            }
        }
    }
    Ok(())
}

struct FunctionCheck<'a> {
    program: &'a Program,
    function: &'a Function,
}

impl FunctionCheck<'_> {
    fn place(&self) -> String {
        format!("function `{}`", self.function.name)
    }

    fn check(&self) -> Check {
        let function = self.function;
        let in_range = |slot: &SlotId| slot.index() < function.slots.len();
        if !function.inputs.iter().chain(&function.outputs).all(in_range) {
            return fail(self.place(), "an input or output is not one of its slots");
        }
        for (i, slot) in function.slots.iter().enumerate() {
            self.check_storage(i, &slot.storage)?;
        }
        for (i, slot) in function.inputs.iter().enumerate() {
            if !matches!(function.slots[slot.index()].storage, Storage::Input(n) if n as usize == i) {
                return fail(self.place(), format!("input {i} is not stored as an input"));
            }
        }
        for (i, step) in function.steps.iter().enumerate() {
            let place = || format!("{}, step {i}", self.place());
            let mut valid = true;
            for_each_slot(&step.action, &mut |slot| valid &= in_range(&slot));
            if !valid {
                return fail(place(), "it uses a slot that does not exist");
            }
            self.check_action(&step.action).or_else(|what| fail(place(), what))?;
        }
        self.check_arena()
    }

    fn check_storage(&self, slot: usize, storage: &Storage) -> Check {
        let function = self.function;
        let place = || format!("{}, slot {slot}", self.place());
        let is = |slots: &[SlotId], i: u32| slots.get(i as usize).is_some_and(|s| s.index() == slot);
        match storage {
            Storage::Arena | Storage::Object => {}
            Storage::Input(i) if is(&function.inputs, *i) => {}
            Storage::Input(_) => return fail(place(), "it is stored as an input that is another slot"),
            Storage::Output(i) if is(&function.outputs, *i) => {}
            Storage::Output(_) => return fail(place(), "it is stored as an output that is another slot"),
            Storage::Constant(id) => {
                let Some(constant) = self.program.constant(*id) else {
                    return fail(place(), "its constant does not exist");
                };
                let size = function.slots[slot].ty.as_tensor().and_then(|t| byte_size(t).as_known());
                let fits =
                    size.and_then(|s| u64::try_from(s).ok()).is_some_and(|s| Some(s) <= constant.byte_len());
                if !fits {
                    return fail(place(), format!("it is larger than its constant `{}`", constant.name));
                }
            }
            Storage::View { of, .. } => {
                let id = SlotId(u32::try_from(slot).unwrap_or(u32::MAX));
                if of.index() >= function.slots.len() || root(function, id).is_none() {
                    return fail(place(), "it is a view of nothing");
                }
            }
        }
        Ok(())
    }

    fn check_action(&self, action: &Action) -> Result<(), String> {
        match action {
            Action::Kernel(call) => self.check_kernel(call),
            Action::Copy { from, to } => {
                self.check_dense(*from)?;
                self.check_dense(*to)?;
                self.check_memory(*to)
            }
            Action::Host { results, .. } => self.check_objects(results),
            Action::StateRead { state, result } => {
                self.check_state(state.index())?;
                self.check_objects(&[*result])
            }
            Action::StateAssign { state, .. } => self.check_state(state.index()),
            Action::Check { .. } => Ok(()),
            Action::Sizes { from, .. } => self.check_dense(*from),
            Action::Call { function, operands, results } => {
                self.check_call(*function, operands.len(), results)
            }
            Action::If { then_branch, else_branch, operands, results, .. } => {
                self.check_call(*then_branch, operands.len(), results)?;
                self.check_call(*else_branch, operands.len(), results)
            }
            Action::Loop { body, carried, captured, results, .. } => {
                if results.len() < carried.len() {
                    return Err("a carried value has no result".to_owned());
                }
                self.check_counts(*body, 2 + carried.len() + captured.len(), 1 + results.len())?;
                results.iter().try_for_each(|&slot| self.check_writable(slot))
            }
        }
    }

    fn check_state(&self, state: usize) -> Result<(), String> {
        if state < self.program.states.len() { Ok(()) } else { Err("its state does not exist".to_owned()) }
    }

    fn check_counts(&self, function: FunctionId, inputs: usize, outputs: usize) -> Result<(), String> {
        match self.program.function(function) {
            None => Err(format!("{function} does not exist")),
            Some(f) if f.inputs.len() == inputs && f.outputs.len() == outputs => Ok(()),
            Some(f) => Err(format!(
                "function `{}` takes {} values and gives {}, the step has {inputs} and {outputs}",
                f.name,
                f.inputs.len(),
                f.outputs.len()
            )),
        }
    }

    fn check_call(&self, function: FunctionId, operands: usize, results: &[SlotId]) -> Result<(), String> {
        self.check_counts(function, operands, results.len())?;
        results.iter().try_for_each(|&slot| self.check_writable(slot))
    }

    fn check_kernel(&self, call: &KernelCall) -> Result<(), String> {
        let Some(kernel) = self.program.kernel(call.kernel) else {
            return Err(format!("{} does not exist", call.kernel));
        };
        if call.buffers.len() != kernel.buffers as usize || call.dims.len() != kernel.dims as usize {
            return Err(format!(
                "kernel `{}` takes {} buffers and {} integers, the step has {} and {}",
                kernel.name,
                kernel.buffers,
                kernel.dims,
                call.buffers.len(),
                call.dims.len()
            ));
        }
        for buffer in &call.buffers {
            self.check_dense(buffer.slot)?;
            if buffer.access.writes() {
                self.check_memory(buffer.slot)?;
            }
        }
        Ok(())
    }

    fn root_storage(&self, slot: SlotId) -> Option<&Storage> {
        let root = root(self.function, slot)?;
        self.function.slots.get(root.index()).map(|s| &s.storage)
    }

    fn check_dense(&self, slot: SlotId) -> Result<(), String> {
        let tensor = self.function.slots.get(slot.index()).and_then(|s| s.ty.as_tensor());
        if tensor.is_some_and(|t| t.dtype.bits() > 0 && t.shape.rank().is_some()) {
            return Ok(());
        }
        Err(format!("{slot} is not a tensor of numbers with known rank"))
    }

    fn check_writable(&self, slot: SlotId) -> Result<(), String> {
        match self.root_storage(slot) {
            Some(Storage::Arena | Storage::Output(_) | Storage::Object) => Ok(()),
            Some(Storage::Input(_) | Storage::Constant(_) | Storage::View { .. }) | None => {
                Err(format!("it writes {slot}, which is read-only"))
            }
        }
    }

    /// Whether kernels may write the slot: it is writable, and its memory exists before its value does.
    fn check_memory(&self, slot: SlotId) -> Result<(), String> {
        self.check_writable(slot)?;
        match self.root_storage(slot) {
            Some(Storage::Object) => Err(format!("it writes {slot}, which is an object")),
            _ => Ok(()),
        }
    }

    fn check_objects(&self, slots: &[SlotId]) -> Result<(), String> {
        let is_object = |slot: &&SlotId| {
            self.function.slots.get(slot.index()).is_some_and(|s| matches!(s.storage, Storage::Object))
        };
        match slots.iter().find(|slot| !is_object(slot)) {
            Some(slot) => Err(format!("its result {slot} is not stored as an object")),
            None => Ok(()),
        }
    }

    fn check_arena(&self) -> Check {
        let Some(layout) = &self.function.arena else { return Ok(()) };
        let mut sizes = Vec::with_capacity(self.function.slots.len());
        for (i, slot) in self.function.slots.iter().enumerate() {
            sizes.push(match (&slot.storage, slot.ty.as_tensor()) {
                (Storage::Arena, Some(ty)) => {
                    let size = byte_size(ty).as_known().and_then(|s| u64::try_from(s).ok());
                    let Some(size) = size else {
                        return fail(
                            self.place(),
                            format!("it has a fixed arena, but slot {i} has no fixed size"),
                        );
                    };
                    Some(size)
                }
                _ => None,
            });
        }
        if !plan::is_sound(self.function, &sizes, layout) {
            return fail(self.place(), "its arena layout lets live values overlap");
        }
        Ok(())
    }
}
