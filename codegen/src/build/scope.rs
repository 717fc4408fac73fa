//! Slots of a function while its graph is lowered.

use kiln_ir::{Graph, Tensor, Type, Value};
use kiln_runtime::program::{Slot, SlotId, Storage};
use rustc_hash::FxHashMap;

/// What a value is.
#[derive(Clone, Debug)]
pub enum Bound {
    /// The content of a slot.
    Slot(SlotId),
    /// Known at compile time; it gets a slot when a step needs one.
    Constant(Tensor),
}

/// Where a value that is not computed yet goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// The function's output of that position.
    Output(u32),
    /// The memory of another value of the graph, which is a view of this one and an output.
    Under(Value),
}

/// The values of one graph: a function's, or a fusion's inside of it.
#[derive(Clone, Debug)]
pub struct Scope<'g> {
    /// The graph.
    pub graph: &'g Graph,
    /// What its values are.
    pub values: FxHashMap<Value, Bound>,
    /// Where values go when a kernel computes them.
    pub wishes: FxHashMap<Value, Wish>,
    /// Slots made ahead for values that a kernel computes.
    pub reserved: FxHashMap<Value, SlotId>,
}

impl<'g> Scope<'g> {
    /// An empty scope of the graph.
    pub fn new(graph: &'g Graph) -> Scope<'g> {
        Scope {
            graph,
            values: FxHashMap::default(),
            wishes: FxHashMap::default(),
            reserved: FxHashMap::default(),
        }
    }

    /// The value's constant, if it is one.
    pub fn constant(&self, v: Value) -> Option<Tensor> {
        match self.values.get(&v) {
            Some(Bound::Constant(t)) => Some(t.clone()),
            Some(Bound::Slot(_)) => None,
            None => self.graph.constant(v).cloned(),
        }
    }
}

/// The slots of one function.
#[derive(Debug, Default)]
pub struct Slots {
    /// The slots so far.
    pub list: Vec<Slot>,
}

impl Slots {
    /// A new slot.
    pub fn add(&mut self, ty: Type, storage: Storage) -> SlotId {
        self.list.push(Slot { ty, storage });
        SlotId(self.list.len() as u32 - 1)
    }

    /// A slot that a kernel writes.
    pub fn for_kernel(&mut self, scope: &mut Scope<'_>, v: Value) -> SlotId {
        if let Some(&slot) = scope.reserved.get(&v) {
            scope.values.insert(v, Bound::Slot(slot));
            return slot;
        }
        let ty = scope.graph.ty(v).clone();
        let slot = match scope.wishes.get(&v).cloned() {
            Some(Wish::Output(position)) => self.add(ty, Storage::Output(position)),
            Some(Wish::Under(view)) => {
                let of = self.for_kernel(scope, view);
                self.add(ty, Storage::View { of, offset: kiln_ir::Dim::known(0) })
            }
            None => self.add(ty, Storage::Arena),
        };
        scope.values.insert(v, Bound::Slot(slot));
        slot
    }

    /// A slot on the heap.
    pub fn object(&mut self, scope: &mut Scope<'_>, v: Value) -> SlotId {
        let slot = self.add(scope.graph.ty(v).clone(), Storage::Object);
        scope.values.insert(v, Bound::Slot(slot));
        slot
    }
}
