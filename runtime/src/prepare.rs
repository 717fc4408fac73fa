//! What sessions derive from a function once, when its program is loaded.

use kiln_ir::{Dim, TensorType, Type};

use crate::plan::{byte_size, live_ranges, root};
use crate::program::{Action, Function, Program, SlotId, Storage};
use crate::symbols::SymbolIndex;

/// Derived facts about one function.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// Symbols that the inputs' shapes bind.
    pub input_symbols: Vec<u32>,
    /// Symbols that the caller's frame must provide: neither inputs nor results bind them.
    pub free_symbols: Vec<u32>,
    /// Symbols that results of host and control steps, and steps that read sizes, bind during the run.
    pub late_symbols: Vec<u32>,
    /// Per slot, the slot whose memory it uses.
    pub roots: Vec<SlotId>,
    /// Per slot, whether its size is known when the function is entered.
    pub eager: Vec<bool>,
    /// The steps, in groups.
    pub items: Vec<Item>,
}

/// Steps that run together.
#[derive(Debug)]
pub(crate) struct Item {
    /// First step.
    pub first: usize,
    /// One past the last step.
    pub end: usize,
    /// What they are.
    pub kind: ItemKind,
    /// Root slots on the heap that nothing uses after the item.
    pub release: Vec<SlotId>,
}

/// Kinds of items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ItemKind {
    /// Kernels, copies and checks; bound when the function is entered.
    Eager,
    /// The same, bound when reached: sizes depend on results of the run.
    Lazy,
    /// One host or control step.
    Single,
}

/// Calls `visit` with every dim of a type.
fn for_each_dim(ty: &Type, visit: &mut dyn FnMut(&Dim)) {
    match ty {
        Type::Tensor(t) => t.shape.dims().unwrap_or(&[]).iter().for_each(visit),
        Type::Sequence(t) | Type::Optional(t) => for_each_dim(t, visit),
    }
}

/// Calls `visit` with every dim that an action mentions itself.
fn for_each_action_dim(action: &Action, visit: &mut dyn FnMut(&Dim)) {
    match action {
        Action::Kernel(call) => {
            call.dims.iter().for_each(&mut *visit);
            for buffer in &call.buffers {
                visit(&buffer.offset);
                visit(&buffer.len);
            }
            [&call.grid, &call.grain, &call.flops, &call.bytes].into_iter().for_each(visit);
        }
        Action::Check { left, right, .. } => [left, right].into_iter().for_each(visit),
        Action::Sizes { dims, .. } => dims.iter().for_each(visit),
        Action::Host { .. }
        | Action::If { .. }
        | Action::Loop { .. }
        | Action::Call { .. }
        | Action::Copy { .. }
        | Action::StateRead { .. }
        | Action::StateAssign { .. } => {}
    }
}

/// Slots that a host, control or state step defines.
pub(crate) fn results(action: &Action) -> &[SlotId] {
    match action {
        Action::Host { results, .. }
        | Action::If { results, .. }
        | Action::Loop { results, .. }
        | Action::Call { results, .. } => results,
        Action::StateRead { result, .. } => std::slice::from_ref(result),
        Action::Kernel(_)
        | Action::Copy { .. }
        | Action::Check { .. }
        | Action::Sizes { .. }
        | Action::StateAssign { .. } => &[],
    }
}

/// Numbers every symbol of the program.
pub(crate) fn symbols(program: &Program) -> SymbolIndex {
    let mut index = SymbolIndex::default();
    let mut visit = |dim: &Dim| {
        dim.symbols(&mut |symbol| {
            index.intern(symbol);
        });
    };
    for function in &program.functions {
        for slot in &function.slots {
            for_each_dim(&slot.ty, &mut visit);
            if let Storage::View { offset, .. } = &slot.storage {
                visit(offset);
            }
        }
        for step in &function.steps {
            for_each_action_dim(&step.action, &mut visit);
        }
    }
    index
}

impl Prepared {
    /// The symbols that have their values when the function is entered: a frame serves one set of them.
    pub fn entry_symbols(&self) -> impl Iterator<Item = &u32> {
        self.input_symbols.iter().chain(&self.free_symbols)
    }
}

/// Derives the facts about a function whose slot indices are valid.
pub(crate) fn prepare(function: &Function, index: &SymbolIndex) -> Prepared {
    let numbers = |dim: &Dim, out: &mut Vec<u32>| {
        dim.symbols(&mut |symbol| out.extend(index.get(symbol)));
    };
    let of_slots = |slots: &mut dyn Iterator<Item = SlotId>| {
        let mut out = Vec::new();
        for slot in slots {
            for_each_dim(&function.slots[slot.index()].ty, &mut |dim| numbers(dim, &mut out));
        }
        out.sort_unstable();
        out.dedup();
        out
    };
    let input_symbols = of_slots(&mut function.inputs.iter().copied());
    let mut late_symbols = of_slots(&mut function.steps.iter().flat_map(|s| results(&s.action)).copied());
    for step in &function.steps {
        if let Action::Sizes { dims, .. } = &step.action {
            late_symbols.extend(dims.iter().filter_map(Dim::as_symbol).filter_map(|s| index.get(s)));
        }
    }
    late_symbols.sort_unstable();
    late_symbols.dedup();
    late_symbols.retain(|s| input_symbols.binary_search(s).is_err());
    let mut free_symbols = mentioned(function, index);
    free_symbols
        .retain(|s| input_symbols.binary_search(s).is_err() && late_symbols.binary_search(s).is_err());

    let roots: Vec<SlotId> = (0..function.slots.len())
        .map(|i| SlotId(u32::try_from(i).unwrap_or(u32::MAX)))
        .map(|slot| root(function, slot).unwrap_or(slot))
        .collect();
    let is_eager = |dim: &Dim| {
        let mut early = !dim.is_unknown();
        dim.symbols(&mut |s| early &= index.get(s).is_some_and(|n| late_symbols.binary_search(&n).is_err()));
        early
    };
    // No bytes are a known size even where a dim is not known yet: every dim has to be.
    let is_eager_tensor = |t: &TensorType| {
        is_eager(&byte_size(t)) && t.shape.dims().is_some_and(|dims| dims.iter().all(is_eager))
    };
    let eager: Vec<bool> =
        function.slots.iter().map(|s| s.ty.as_tensor().is_some_and(is_eager_tensor)).collect();
    let mut prepared = Prepared {
        input_symbols,
        free_symbols,
        late_symbols: late_symbols.clone(),
        roots,
        eager,
        items: vec![],
    };
    prepared.items = items(function, &prepared, &is_eager);
    mark_releases(function, &mut prepared);
    prepared
}

/// Every symbol the function mentions, sorted.
fn mentioned(function: &Function, index: &SymbolIndex) -> Vec<u32> {
    let mut out = Vec::new();
    let mut visit = |dim: &Dim| dim.symbols(&mut |symbol| out.extend(index.get(symbol)));
    for slot in &function.slots {
        for_each_dim(&slot.ty, &mut visit);
        if let Storage::View { offset, .. } = &slot.storage {
            visit(offset);
        }
    }
    function.steps.iter().for_each(|step| for_each_action_dim(&step.action, &mut visit));
    out.sort_unstable();
    out.dedup();
    out
}

/// Groups the steps. A lazy step ends an eager group and the other way round, so that what can be bound early is.
fn items(function: &Function, prepared: &Prepared, is_eager: &dyn Fn(&Dim) -> bool) -> Vec<Item> {
    let mut items: Vec<Item> = Vec::new();
    for (at, step) in function.steps.iter().enumerate() {
        let kind = match &step.action {
            Action::Kernel(_) | Action::Copy { .. } | Action::Check { .. } => {
                let mut early = true;
                for_each_action_dim(&step.action, &mut |dim| early &= is_eager(dim));
                crate::plan::for_each_slot(&step.action, &mut |slot| {
                    early &= is_early_slot(function, prepared, slot, is_eager);
                });
                if early { ItemKind::Eager } else { ItemKind::Lazy }
            }
            Action::Host { .. }
            | Action::If { .. }
            | Action::Loop { .. }
            | Action::Call { .. }
            | Action::Sizes { .. }
            | Action::StateRead { .. }
            | Action::StateAssign { .. } => ItemKind::Single,
        };
        match items.last_mut() {
            Some(last) if last.kind == kind && kind != ItemKind::Single => last.end = at + 1,
            _ => items.push(Item { first: at, end: at + 1, kind, release: vec![] }),
        }
    }
    items
}

/// Whether size and position of a slot are known when the function is entered.
fn is_early_slot(
    function: &Function,
    prepared: &Prepared,
    slot: SlotId,
    is_eager: &dyn Fn(&Dim) -> bool,
) -> bool {
    let mut at = slot;
    let mut early = prepared.eager[at.index()];
    while let Storage::View { of, offset } = &function.slots[at.index()].storage {
        early &= is_eager(offset) && prepared.eager[of.index()];
        at = *of;
    }
    early
}

/// Notes at each item which heap values die there.
fn mark_releases(function: &Function, prepared: &mut Prepared) {
    let ranges = live_ranges(function);
    for (i, slot) in function.slots.iter().enumerate() {
        let on_heap = match slot.storage {
            Storage::Object => true,
            Storage::Arena => !prepared.eager[i],
            Storage::Input(_) | Storage::Output(_) | Storage::Constant(_) | Storage::View { .. } => false,
        };
        let Some((_, last)) = ranges[i].filter(|_| on_heap) else { continue };
        if let Some(item) = prepared.items.iter_mut().find(|item| item.end > last as usize) {
            item.release.push(SlotId(u32::try_from(i).unwrap_or(u32::MAX)));
        }
    }
}
