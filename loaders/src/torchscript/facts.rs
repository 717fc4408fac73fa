//! What a branch on `x == constant` says of its arms: where the two are equal, `x` is the constant. An integer of run time
//! then is a known one, and a size that was a symbol is known in the shapes of all tensors. Of a size, `x > 0` says the
//! same where it does not hold.

use std::rc::Rc;

use kiln_ir::Op;
use kiln_ir::op::Movement;
use kiln_ir::{Build, Dim, Symbol, Type, Value};

use super::fault::Res;
use super::machine::Machine;
use super::scope::Graphs;
use super::value::{Cell, Kind, ListCell, Ref, State, Traced, Val, int_of};

/// What holds in one arm of a branch.
#[derive(Clone, Debug)]
pub(crate) struct Fact {
    /// The arm: 0 where the condition holds, 1 where it does not.
    pub arm: usize,
    what: What,
    value: i64,
}

#[derive(Clone, Debug)]
enum What {
    /// A symbol has the value.
    Size(Symbol),
    /// These values of run time have it.
    Numbers(Vec<Traced>),
}

impl Graphs {
    /// If a condition of the current graph compares a value with a constant integer: the value, the constant, the arm in
    /// which they are equal, and whether that holds only of values that are not negative.
    fn comparison(&self, condition: &Traced) -> Option<(Value, i64, usize, bool)> {
        let Traced::Node { value, .. } = condition else { return None };
        let graph = self.graph_of(condition)?;
        let (_, node) = graph.def_node(*value)?;
        let Op::Elementwise(e) = &node.op else { return None };
        let name = e.kind.row().name;
        let &[a, b] = node.operands.as_slice() else { return None };
        let constant = |v: Value| {
            let is_int = graph.ty(v).as_tensor().is_some_and(|t| t.dtype == kiln_ir::DType::I64);
            let ints = graph.value(v).known().filter(|_| is_int)?.ints()?;
            <[i64; 1]>::try_from(ints).ok().map(|[n]| n)
        };
        // A constant on the left is one on the right of the mirrored comparison.
        let (v, n, name) = match (constant(a), constant(b), name) {
            (None, Some(n), name) => (a, n, name),
            (Some(n), None, "lt") => (b, n, "gt"),
            (Some(n), None, "gt") => (b, n, "lt"),
            (Some(n), None, "le") => (b, n, "ge"),
            (Some(n), None, "ge") => (b, n, "le"),
            (Some(n), None, name) => (b, n, name),
            _ => return None,
        };
        Some(match (name, n) {
            ("eq", n) => (v, n, 0, false),
            ("ne", n) => (v, n, 1, false),
            ("gt", 0) | ("ge", 1) => (v, 0, 1, true),
            ("le", 0) | ("lt", 1) => (v, 0, 0, true),
            _ => return None,
        })
    }
}

impl Machine<'_> {
    /// What a condition says of its arms.
    pub fn fact(&self, st: &State, condition: &Traced) -> Option<Fact> {
        let (v, value, arm, of_size) = self.g.comparison(condition)?;
        let node = self.g.sibling(condition, v)?;
        if let Some(dims) = self.g.known(&node).and_then(|k| k.dims()) {
            let [dim] = dims.as_slice() else { return None };
            if of_size && !dim.is_non_negative() {
                return None;
            }
            let (symbol, value) = solved(dim, value)?;
            return (value >= 0).then_some(Fact { arm, what: What::Size(symbol), value });
        }
        if of_size {
            return None;
        }
        let mut numbers = vec![];
        each_number(st, &mut |t| {
            if self.g.is_same(t, &node) && !numbers.contains(t) {
                numbers.push(t.clone());
            }
        });
        (!numbers.is_empty()).then_some(Fact { arm, what: What::Numbers(numbers), value })
    }

    /// Puts what is known into the state.
    pub fn learn(&mut self, st: &mut State, fact: &Fact) -> Res<()> {
        self.tick(st.heap.len() / 8)?;
        let n = fact.value;
        match &fact.what {
            What::Numbers(numbers) => {
                replace_values(st, &|v| match v {
                    Val::Num(Kind::Int, t) if numbers.contains(t) => Some(Val::Int(n)),
                    _ => None,
                });
                Ok(())
            }
            What::Size(symbol) => {
                let with = |dim: &Dim| dim.substitute(&|s| (s == symbol).then(|| Dim::known(n)));
                replace_values(st, &|v| match v {
                    Val::Dim(dim) => {
                        Some(int_of(with(dim))).filter(|v| !matches!(v, Val::Dim(d) if d == dim))
                    }
                    _ => None,
                });
                self.learn_shapes(st, &with)
            }
        }
    }

    /// Puts a fact into the state at the beginning of an arm; gives the cells that it changes.
    pub fn learn_in_arm(
        &mut self,
        st: &mut State,
        fact: Option<&Fact>,
        arm: usize,
    ) -> Res<Vec<(usize, Rc<Cell>)>> {
        let Some(fact) = fact.filter(|f| f.arm == arm) else { return Ok(vec![]) };
        let before = st.heap.clone();
        self.learn(st, fact)?;
        let cells = st.heap.iter().enumerate().zip(&before);
        Ok(cells
            .filter(|((_, new), old)| !Rc::ptr_eq(new, old))
            .map(|((i, new), _)| (i, new.clone()))
            .collect())
    }

    /// Gives tensors shapes in which a symbol is known.
    fn learn_shapes(&mut self, st: &mut State, with: &dyn Fn(&Dim) -> Dim) -> Res<()> {
        for i in 0..st.heap.len() {
            let r = Ref(u32::try_from(i).unwrap_or(u32::MAX));
            let Some(Cell::Tensor(cell)) = st.cell(r) else { continue };
            let value = cell.value.clone();
            if !matches!(value, Traced::Node { .. }) {
                continue;
            }
            // What belongs to a branch that has ended is not read any more.
            let Ok(Type::Tensor(ty)) = self.g.ty(&value) else { continue };
            let Some(dims) = ty.shape.dims() else { continue };
            let known: Vec<Dim> = dims.iter().map(with).collect();
            if known == dims {
                continue;
            }
            let v = self.g.value(&value)?;
            // All of the tensor, by sizes that are known. Where inference cannot follow, the shape stays as it is.
            let (starts, steps) = (vec![Dim::known(0); known.len()], vec![1; known.len()]);
            let whole = Movement::Slice { starts, sizes: known, steps };
            let Ok(v) = self.g.build(|b| b.add1(whole, &[v]))? else { continue };
            let value = self.g.node(v);
            if let Some(Cell::Tensor(cell)) = st.cell_mut(r) {
                cell.value = value;
            }
        }
        Ok(())
    }
}

/// The only symbol of a dim, and the value that it has where the dim has `value`.
fn solved(dim: &Dim, value: i64) -> Option<(Symbol, i64)> {
    let mut found: Option<Symbol> = None;
    let mut several = false;
    dim.symbols(&mut |s| match &found {
        Some(before) => several |= before != s,
        None => found = Some(s.clone()),
    });
    let symbol = &found.filter(|_| dim.is_multilinear() && !several)?;
    let at = |n: i64| dim.substitute(&|s| (s == symbol).then(|| Dim::known(n))).as_known();
    let (zero, one) = (at(0)?, at(1)?);
    let (slope, rest) = (one.checked_sub(zero)?, value.checked_sub(zero)?);
    let found = rest.checked_div(slope)?;
    (rest.checked_rem(slope)? == 0).then(|| (symbol.clone(), found))
}

/// Takes a fact out of the state at the end of an arm, where the arm has not changed what it says: what is joined then is
/// what it was before the branch.
pub(crate) fn forget(start: &State, st: &mut State, fact: Option<&Fact>, learned: &[(usize, Rc<Cell>)]) {
    for (i, cell) in learned {
        if let (Some(now), Some(old)) = (st.heap.get_mut(*i), start.heap.get(*i))
            && Rc::ptr_eq(now, cell)
        {
            *now = old.clone();
        }
    }
    let Some(fact) = fact else { return };
    for (now, old) in st.frames.iter_mut().zip(&start.frames) {
        if Rc::ptr_eq(&now.env, &old.env) {
            continue;
        }
        let env = Rc::make_mut(&mut now.env);
        for (name, before) in old.env.iter() {
            let said = match (&fact.what, before) {
                (What::Numbers(numbers), Val::Num(Kind::Int, t)) => numbers.contains(t),
                (What::Size(symbol), Val::Dim(dim)) => dim.as_symbol() == Some(symbol),
                _ => false,
            };
            if said && matches!(env.get(name), Some(Val::Int(n)) if *n == fact.value) {
                env.insert(name.clone(), before.clone());
            }
        }
    }
}

/// Visits all numbers of run time that variables and attributes hold.
fn each_number(st: &State, visit: &mut dyn FnMut(&Traced)) {
    fn of(v: &Val, visit: &mut dyn FnMut(&Traced)) {
        match v {
            Val::Num(Kind::Int, t) => visit(t),
            Val::Tuple(items, _) => items.iter().for_each(|v| of(v, visit)),
            _ => {}
        }
    }
    for frame in &st.frames {
        frame.env.values().for_each(|v| of(v, visit));
    }
    for cell in &st.heap {
        match &**cell {
            Cell::Instance(_, attrs) => attrs.values().for_each(|v| of(v, visit)),
            Cell::List(ListCell::Items(items)) => items.iter().for_each(|v| of(v, visit)),
            Cell::Dict(pairs) => pairs.iter().for_each(|(_, v)| of(v, visit)),
            Cell::Tensor(_) | Cell::List(ListCell::Sequence(..)) => {}
        }
    }
}

/// Replaces values in variables, objects and containers.
fn replace_values(st: &mut State, replace: &dyn Fn(&Val) -> Option<Val>) {
    fn of(v: &Val, replace: &dyn Fn(&Val) -> Option<Val>) -> Option<Val> {
        match v {
            Val::Tuple(items, name) => {
                let new: Vec<Option<Val>> = items.iter().map(|v| of(v, replace)).collect();
                new.iter().any(Option::is_some).then(|| {
                    let items =
                        new.into_iter().zip(items.iter()).map(|(n, v)| n.unwrap_or_else(|| v.clone()));
                    Val::Tuple(items.collect(), name.clone())
                })
            }
            v => replace(v),
        }
    }
    for frame in &mut st.frames {
        if frame.env.values().any(|v| of(v, replace).is_some()) {
            for v in Rc::make_mut(&mut frame.env).values_mut() {
                if let Some(new) = of(v, replace) {
                    *v = new;
                }
            }
        }
    }
    for cell in &mut st.heap {
        let hit = match &**cell {
            Cell::Instance(_, attrs) => attrs.values().any(|v| of(v, replace).is_some()),
            Cell::List(ListCell::Items(items)) => items.iter().any(|v| of(v, replace).is_some()),
            Cell::Dict(pairs) => pairs.iter().any(|(_, v)| of(v, replace).is_some()),
            Cell::Tensor(_) | Cell::List(ListCell::Sequence(..)) => false,
        };
        if !hit {
            continue;
        }
        let set = |v: &mut Val| {
            if let Some(new) = of(v, replace) {
                *v = new;
            }
        };
        match Rc::make_mut(cell) {
            Cell::Instance(_, attrs) => attrs.values_mut().for_each(set),
            Cell::List(ListCell::Items(items)) => items.iter_mut().for_each(set),
            Cell::Dict(pairs) => pairs.iter_mut().for_each(|(_, v)| set(v)),
            Cell::Tensor(_) | Cell::List(ListCell::Sequence(..)) => {}
        }
    }
}
