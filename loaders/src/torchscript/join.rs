//! Joining what two paths leave: wherever their states differ, a value of run time stands for both.
//!
//! A join is walked twice in the same order: first the pairs of values that differ are collected, then, when the graph
//! has a result for each, the joined state is made.

use std::collections::BTreeMap;
use std::rc::Rc;

use kiln_ir::Type;
use kiln_ir::op::Control;
use rustc_hash::FxHashMap;

use super::ast::Name;
use super::fault::{Fault, Res};
use super::machine::{End, Machine};
use super::scope::{Closed, Graphs, widened};
use super::value::{Cell, Env, Kind, ListCell, Ref, State, TensorCell, Traced, Val};

/// Two values that a value of run time stands for.
#[derive(Clone, Debug)]
pub(crate) struct Pair {
    /// What the first path leaves.
    pub a: Traced,
    /// What the second leaves.
    pub b: Traced,
    /// The type that covers both; unknown dims where they differ.
    pub ty: Type,
}

/// How strict a join is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// Cells below this are the same on both paths.
    pub base: usize,
    /// Whether tensors of different ranks may be joined.
    pub ranks: bool,
    /// Whether lists of different lengths become sequences of run time.
    pub growing: bool,
    /// Whether integers and sizes that are known on both paths, and differ, keep the paths apart.
    pub precise: bool,
}

struct Joiner<'m> {
    g: &'m Graphs,
    a: &'m State,
    b: &'m State,
    rules: Rules,
    memo: FxHashMap<(Ref, Ref), Ref>,
    heap: Vec<Rc<Cell>>,
    pairs: Vec<Pair>,
    results: Option<&'m [Traced]>,
    /// How many results are used.
    used: usize,
    /// How deep the values are that are joined.
    depth: usize,
    /// Tensors, of the first path or the second, whose values a sequence takes.
    taken: Vec<(bool, Ref)>,
}

/// How deep values may be nested.
const MAX_NESTING: usize = 200;

/// Views of views.
const MAX_VIEWS: usize = 65;

/// The pairs that a join needs.
pub(crate) fn pairs(g: &Graphs, a: &State, b: &State, rules: Rules) -> Res<Vec<Pair>> {
    let mut joiner = Joiner::new(g, a, b, rules, None);
    joiner.state()?;
    Ok(joiner.pairs)
}

/// The joined state, with a result for each pair.
pub(crate) fn joined(g: &Graphs, a: &State, b: &State, rules: Rules, results: &[Traced]) -> Res<State> {
    Joiner::new(g, a, b, rules, Some(results)).state()
}

impl<'m> Joiner<'m> {
    fn new(g: &'m Graphs, a: &'m State, b: &'m State, rules: Rules, results: Option<&'m [Traced]>) -> Self {
        let heap = a.heap.get(..rules.base).unwrap_or(&a.heap).to_vec();
        Joiner {
            g,
            a,
            b,
            rules,
            memo: FxHashMap::default(),
            heap,
            pairs: vec![],
            results,
            used: 0,
            depth: 0,
            taken: vec![],
        }
    }

    fn state(&mut self) -> Res<State> {
        for i in 0..self.rules.base {
            let (Some(x), Some(y)) = (self.a.heap.get(i), self.b.heap.get(i)) else { continue };
            if Rc::ptr_eq(x, y) {
                continue;
            }
            let (x, y) = (x.clone(), y.clone());
            let place = Ref(u32::try_from(i).unwrap_or(u32::MAX));
            let cell = self.cell(&x, &y, place)?;
            if let Some(slot) = self.heap.get_mut(i) {
                *slot = Rc::new(cell);
            }
        }
        if self.a.frames.len() != self.b.frames.len() {
            return Err(Fault::apart("one path returns"));
        }
        let mut frames = vec![];
        for (x, y) in self.a.frames.iter().zip(&self.b.frames) {
            let mut frame = x.clone();
            if !Rc::ptr_eq(&x.env, &y.env) {
                frame.env = Rc::new(self.env(&x.env, &y.env)?);
            }
            frames.push(frame);
        }
        let result = match (&self.a.result, &self.b.result) {
            (Some(x), Some(y)) => Some(self.val(x, y)?),
            (None, None) => None,
            _ => return Err(Fault::apart("one path returns")),
        };
        self.share()?;
        let spent = self.a.spent.max(self.b.spent);
        Ok(State { heap: std::mem::take(&mut self.heap), frames, result, spent })
    }

    /// Marks tensors that were one, or shared elements, on a path: what stands for them does not know each other.
    fn share(&mut self) -> Res<()> {
        let mut shared: Vec<Ref> = vec![];
        for second in [false, true] {
            let state = if second { self.b } else { self.a };
            let mut groups: FxHashMap<Ref, Vec<Ref>> = FxHashMap::default();
            for (&(x, y), &r) in &self.memo {
                let chain = chain(state, if second { y } else { x });
                groups.entry(chain.last().copied().unwrap_or(r)).or_default().push(r);
            }
            let taken: Vec<Ref> =
                self.taken.iter().filter(|(of, _)| *of == second).map(|(_, r)| *r).collect();
            for r in taken {
                let chain = chain(state, r);
                shared.extend(chain.iter().filter(|r| self.is_old(**r)));
                shared.extend(chain.last().and_then(|root| groups.get(root)).into_iter().flatten());
            }
            for (&(x, y), &r) in &self.memo {
                let chain = chain(state, if second { y } else { x });
                let members = chain.last().and_then(|root| groups.get(root)).map_or(0, Vec::len);
                let is_tensor = matches!(self.heap.get(r.index()).map(|c| &**c), Some(Cell::Tensor(_)));
                if members > 1 && !is_tensor {
                    return Err(Fault::apart("an object of one path is two of the other"));
                }
                let old = chain.iter().filter(|r| self.is_old(**r)).copied();
                let before = shared.len();
                shared.extend(old);
                if members > 1 || shared.len() > before {
                    shared.push(r);
                }
            }
        }
        shared.sort();
        shared.dedup();
        for r in shared {
            if let Some(cell) = self.heap.get_mut(r.index())
                && matches!(&**cell, Cell::Tensor(t) if !t.shared)
                && let Cell::Tensor(t) = Rc::make_mut(cell)
            {
                t.shared = true;
            }
        }
        Ok(())
    }

    fn env(&mut self, x: &Env, y: &Env) -> Res<Env> {
        // The order of the pairs must not depend on the table's.
        let mut names: Vec<&Name> = x.keys().filter(|n| y.contains_key(*n)).collect();
        names.sort();
        let mut env = Env::default();
        for name in names {
            if let (Some(a), Some(b)) = (x.get(name), y.get(name)) {
                env.insert(name.clone(), self.val(a, b)?);
            }
        }
        Ok(env)
    }

    fn is_old(&self, r: Ref) -> bool {
        r.index() < self.rules.base
    }

    /// A value of run time for two.
    fn pair(&mut self, a: Traced, b: Traced) -> Res<Traced> {
        if let Some(results) = self.results {
            // The graphs of the paths are closed by now.
            let result = results.get(self.used).cloned();
            self.used += 1;
            return result.ok_or_else(|| Fault::invalid("a joined value is lost"));
        }
        let of = |t: &Traced| match t {
            Traced::Sequence(items) if items.is_empty() => Ok(None),
            t => self.g.ty(t).map(Some),
        };
        let ty = match (of(&a)?, of(&b)?) {
            (Some(x), Some(y)) => {
                let join =
                    widened(&x, &y).ok_or_else(|| Fault::apart(format!("one path leaves {x}, one {y}")))?;
                let ranked = |t: &Type| t.as_tensor().is_some_and(|t| t.shape.dims().is_some());
                if ranked(&x) && ranked(&y) && !ranked(&join) && !self.rules.ranks {
                    return Err(Fault::apart(format!("one path leaves {x}, one {y}")));
                }
                if self.rules.precise && differ_in_size(&x, &y) {
                    return Err(Fault::apart(format!("one path leaves {x}, one {y}")));
                }
                join
            }
            (Some(ty), None) | (None, Some(ty)) => ty,
            (None, None) => return Err(Fault::apart("nothing shows what a list holds")),
        };
        self.pairs.push(Pair { a: a.clone(), b, ty });
        Ok(a)
    }

    fn val(&mut self, a: &Val, b: &Val) -> Res<Val> {
        let differ = || Fault::apart(format!("one path leaves {}, one {}", a.kind(), b.kind()));
        Ok(match (a, b) {
            (Val::None, Val::None) => Val::None,
            (Val::Uninitialized, Val::Uninitialized) => Val::Uninitialized,
            (Val::Uninitialized, v) => self.either(v, false)?,
            (v, Val::Uninitialized) => self.either(v, true)?,
            (Val::Str(x), Val::Str(y)) if x == y => a.clone(),
            (Val::Device(_), Val::Device(_)) => a.clone(),
            (Val::Opaque(x), Val::Opaque(y)) if x == y => a.clone(),
            (Val::Complex(x, y), Val::Complex(z, w)) if x == z && y == w => a.clone(),
            (Val::Function(x), Val::Function(y)) if Rc::ptr_eq(x, y) => a.clone(),
            (Val::Member(x, y, _), Val::Member(z, w, _)) if x == z && y == w => a.clone(),
            (Val::Tuple(x, name), Val::Tuple(y, other)) if x.len() == y.len() && name == other => {
                let items = x.iter().zip(y.iter()).map(|(x, y)| self.val(x, y)).collect::<Res<Vec<Val>>>()?;
                Val::Tuple(items.into(), name.clone())
            }
            (Val::Tensor(x), Val::Tensor(y)) => Val::Tensor(self.place(*x, *y)?),
            (Val::List(x), Val::List(y)) => Val::List(self.place(*x, *y)?),
            (Val::Dict(x), Val::Dict(y)) => Val::Dict(self.place(*x, *y)?),
            (Val::Instance(x), Val::Instance(y)) => Val::Instance(self.place(*x, *y)?),
            _ => match (single(a), single(b)) {
                (Some((kind, x)), Some((other, y))) if kind == other => {
                    if x == y {
                        return Ok(a.clone());
                    }
                    if self.rules.precise && matches!((a, b), (Val::Int(_), Val::Int(_))) {
                        return Err(differ());
                    }
                    // Two known texts decide much of what follows.
                    if kind == Kind::Text && !self.rules.ranks && !self.rules.growing {
                        return Err(differ());
                    }
                    Val::Num(kind, self.pair(x, y)?)
                }
                _ => return Err(differ()),
            },
        })
    }

    /// A value that only one path has; the other never reads it.
    fn either(&mut self, v: &Val, first: bool) -> Res<Val> {
        let traced = match v {
            Val::Tensor(r) => {
                let state = if first { self.a } else { self.b };
                match state.cell(*r) {
                    Some(Cell::Tensor(cell)) => cell.value.clone(),
                    _ => return Err(Fault::invalid("no such tensor")),
                }
            }
            v => match single(v) {
                Some((_, traced)) => traced,
                None => return Err(Fault::apart("one path leaves a value uninitialized")),
            },
        };
        let result = match self.results {
            Some(_) => self.pair(traced.clone(), traced)?,
            None => {
                let anything = Traced::Anything(self.g.ty(&traced)?);
                let (a, b) = if first { (traced, anything) } else { (anything, traced) };
                self.pair(a, b)?
            }
        };
        Ok(match single(v) {
            Some((kind, _)) => Val::Num(kind, result),
            None => self.new_tensor(result, true),
        })
    }

    fn new_tensor(&mut self, value: Traced, shared: bool) -> Val {
        Val::Tensor(self.add(Cell::Tensor(TensorCell {
            value,
            version: 0,
            view: None,
            seen: 0,
            shared,
            lost: false,
            plain: false,
        })))
    }

    fn add(&mut self, cell: Cell) -> Ref {
        self.heap.push(Rc::new(cell));
        Ref(u32::try_from(self.heap.len() - 1).unwrap_or(u32::MAX))
    }

    /// The place of what stands for two cells.
    fn place(&mut self, x: Ref, y: Ref) -> Res<Ref> {
        if x == y && self.is_old(x) {
            return Ok(x);
        }
        if let Some(&r) = self.memo.get(&(x, y)) {
            return Ok(r);
        }
        let (Some(a), Some(b)) = (self.a.heap.get(x.index()).cloned(), self.b.heap.get(y.index()).cloned())
        else {
            return Err(Fault::invalid("no such object"));
        };
        if self.depth >= MAX_NESTING {
            return Err(Fault::Limit { what: "nesting of values".to_owned(), limit: MAX_NESTING });
        }
        let aliased = self.is_old(x) || self.is_old(y);
        if aliased && !matches!(&*a, Cell::Tensor(_)) {
            // An object that others know is that object, or another: changes could not be told apart.
            let same_list = matches!((&*a, &*b), (Cell::List(_), Cell::List(_)));
            let both = self.is_old(x) && self.is_old(y);
            if !(same_list && self.rules.growing) || both {
                return Err(Fault::apart("two paths leave different objects"));
            }
        }
        // The place is known before its parts: objects may know themselves.
        let r = self.add(Cell::Dict(vec![]));
        self.memo.insert((x, y), r);
        self.depth += 1;
        let cell = self.cell(&a, &b, r);
        self.depth -= 1;
        let mut cell = cell?;
        if let Cell::Tensor(t) = &mut cell {
            t.view = None;
            t.shared |= aliased;
        }
        if let Some(slot) = self.heap.get_mut(r.index()) {
            *slot = Rc::new(cell);
        }
        Ok(r)
    }

    fn cell(&mut self, a: &Cell, b: &Cell, place: Ref) -> Res<Cell> {
        Ok(match (a, b) {
            (Cell::Tensor(x), Cell::Tensor(y)) => Cell::Tensor(self.tensor(x, y, place)?),
            (Cell::List(x), Cell::List(y)) => Cell::List(self.list(x, y)?),
            (Cell::Dict(x), Cell::Dict(y)) if x.len() == y.len() => {
                let mut pairs = vec![];
                for ((k, v), (l, w)) in x.iter().zip(y) {
                    if !same_key(k, l) {
                        return Err(Fault::apart("two paths leave dicts of different keys"));
                    }
                    pairs.push((k.clone(), self.val(v, w)?));
                }
                Cell::Dict(pairs)
            }
            (Cell::Instance(class, x), Cell::Instance(other, y)) if class == other && x.len() == y.len() => {
                let mut attrs = BTreeMap::new();
                for ((name, v), (n, w)) in x.iter().zip(y) {
                    if name != n {
                        return Err(Fault::apart("two paths leave objects of different attributes"));
                    }
                    attrs.insert(name.clone(), self.val(v, w)?);
                }
                Cell::Instance(class.clone(), attrs)
            }
            _ => return Err(Fault::apart("two paths leave objects of different kinds")),
        })
    }

    fn tensor(&mut self, x: &TensorCell, y: &TensorCell, place: Ref) -> Res<TensorCell> {
        let version = x.version.max(y.version).saturating_add(1);
        let shared = x.shared || y.shared;
        let (lost, plain) = (x.lost || y.lost, x.plain && y.plain);
        if self.is_old(place)
            && let (Some(v), Some(w)) = (&x.view, &y.view)
            && Rc::ptr_eq(v, w)
        {
            // A view of what is joined: taken again when it is read.
            let (value, view) = (x.value.clone(), x.view.clone());
            return Ok(TensorCell { value, version, view, seen: u32::MAX, shared, lost, plain });
        }
        let is_view_of_old = |cell: &TensorCell| cell.view.as_ref().is_some_and(|v| self.is_old(v.base));
        let shared = shared || is_view_of_old(x) || is_view_of_old(y);
        let value =
            if x.value == y.value { x.value.clone() } else { self.pair(x.value.clone(), y.value.clone())? };
        Ok(TensorCell { value, version, view: None, seen: 0, shared, lost, plain })
    }

    fn list(&mut self, x: &ListCell, y: &ListCell) -> Res<ListCell> {
        if let (ListCell::Items(a), ListCell::Items(b)) = (x, y)
            && (a.len() == b.len())
        {
            let items = a.iter().zip(b).map(|(a, b)| self.val(a, b)).collect::<Res<Vec<Val>>>()?;
            return Ok(ListCell::Items(items));
        }
        let both_known = matches!((x, y), (ListCell::Items(_), ListCell::Items(_)));
        if both_known && !self.rules.growing {
            return Err(Fault::apart("two paths leave lists of different lengths"));
        }
        for (second, list) in [(false, x), (true, y)] {
            let ListCell::Items(items) = list else { continue };
            self.taken.extend(items.iter().filter_map(|v| match v {
                Val::Tensor(r) => Some((second, *r)),
                _ => None,
            }));
        }
        let (a, kind_a) = sequence(self.a, x)?;
        let (b, kind_b) = sequence(self.b, y)?;
        let kind = match (kind_a, kind_b) {
            (Some(k), Some(l)) if k != l => {
                return Err(Fault::apart("two paths leave lists of different elements"));
            }
            (Some(k), _) | (None, Some(k)) => k,
            (None, None) => return Err(Fault::apart("nothing shows what a list holds")),
        };
        if a == b {
            return Ok(ListCell::Sequence(a, kind));
        }
        Ok(ListCell::Sequence(self.pair(a, b)?, kind))
    }
}

/// A cell and, of a tensor, what it is a view of.
fn chain(st: &State, r: Ref) -> Vec<Ref> {
    let base = |r: &Ref| match st.cell(*r) {
        Some(Cell::Tensor(t)) => t.view.as_ref().map(|v| v.base),
        _ => None,
    };
    std::iter::successors(Some(r), base).take(MAX_VIEWS).collect()
}

/// A list as a sequence of run time, and what it holds: tensors, or single values of a kind. Of an empty one that is
/// not known.
pub(crate) fn sequence(st: &State, list: &ListCell) -> Res<(Traced, Option<Option<Kind>>)> {
    match list {
        ListCell::Sequence(t, kind) => Ok((t.clone(), Some(*kind))),
        ListCell::Items(items) => {
            let mut out = vec![];
            let mut kind = None;
            for item in items {
                let (k, t) = match item {
                    Val::Tensor(r) => match st.cell(*r) {
                        Some(Cell::Tensor(cell)) => (None, cell.value.clone()),
                        _ => return Err(Fault::invalid("no such tensor")),
                    },
                    v => match single(v) {
                        Some((kind, t)) => (Some(kind), t),
                        None => {
                            return Err(Fault::unsupported(format!(
                                "a list of {} that grows at run time",
                                v.kind()
                            )));
                        }
                    },
                };
                if kind.is_some_and(|before| before != k) {
                    return Err(Fault::apart("a list holds values of different kinds"));
                }
                kind = Some(k);
                out.push(t);
            }
            Ok((Traced::Sequence(out.into()), kind))
        }
    }
}

/// A single value as a rank-0 tensor.
fn single(v: &Val) -> Option<(Kind, Traced)> {
    use kiln_ir::Tensor;
    Some(match v {
        Val::Bool(b) => (Kind::Bool, Traced::Constant(Tensor::from_bools(&[], &[*b]).ok()?)),
        Val::Int(n) => (Kind::Int, Traced::Constant(Tensor::scalar(*n))),
        Val::Float(x) => (Kind::Float, Traced::Constant(Tensor::scalar(*x))),
        Val::Dim(dim) => (Kind::Int, Traced::Size(dim.clone())),
        Val::Num(kind, traced) => (*kind, traced.clone()),
        Val::Str(s) => (Kind::Text, Traced::Constant(Tensor::strings(&[], vec![s.to_string()]).ok()?)),
        _ => return None,
    })
}

/// Whether a size that is constant on one path is another on the other.
fn differ_in_size(a: &Type, b: &Type) -> bool {
    let (Type::Tensor(a), Type::Tensor(b)) = (a, b) else { return false };
    let (Some(x), Some(y)) = (a.shape.dims(), b.shape.dims()) else { return false };
    x.iter().zip(y).any(|(x, y)| x != y && (x.as_known().is_some() || y.as_known().is_some()))
}

/// Whether two known values are the same key of a dict.
pub(crate) fn same_key(a: &Val, b: &Val) -> bool {
    match (a, b) {
        (Val::Str(x), Val::Str(y)) => x == y,
        (Val::Int(x), Val::Int(y)) => x == y,
        (Val::Bool(x), Val::Bool(y)) => x == y,
        (Val::Float(x), Val::Float(y)) => x == y,
        (Val::Dim(x), Val::Dim(y)) => x == y,
        (Val::Device(x), Val::Device(y)) => x == y,
        (Val::Member(x, y, _), Val::Member(z, w, _)) => x == z && y == w,
        (Val::None, Val::None) => true,
        (Val::Tensor(x), Val::Tensor(y)) => x == y,
        _ => false,
    }
}

impl Machine<'_> {
    /// Builds the branch whose arms were put aside, and the state after it.
    pub fn join_arms(
        &mut self,
        condition: &Traced,
        (a, left): (u32, &State),
        (b, right): (u32, &State),
        base: usize,
        end: End,
    ) -> Res<State> {
        let entry = end == End::Entry;
        let base = if left.frames.is_empty() && entry { 0 } else { base };
        let growing = self.growing > 0;
        let precise = !entry && !growing && self.precise > 0;
        let rules = Rules { base, ranks: entry, growing, precise };
        let found = pairs(&self.g, left, right, rules)?;
        let mut arms = vec![];
        for (id, second) in [(a, false), (b, true)] {
            self.g.unpark(id)?;
            let closed = self.close_arm(&found, second);
            if closed.is_err() {
                self.g.unwind(self.g.depth().saturating_sub(1));
            }
            arms.push(closed?);
        }
        let effects = arms.iter().any(|(_, effects)| *effects);
        let [(first, _), (second, _)] =
            <[_; 2]>::try_from(arms).map_err(|_| Fault::invalid("a branch is lost"))?;
        let mut results = vec![];
        if !found.is_empty() || effects {
            let (then_graph, else_graph, operands) = self.g.keep_pair(first, second);
            let condition = self.g.value(condition)?;
            let operands: Vec<_> = std::iter::once(condition).chain(operands).collect();
            results = self.g.add_all(Control::If { then_graph, else_graph }.into(), &operands)?;
        }
        joined(&self.g, left, right, rules, &results)
    }

    fn close_arm(&mut self, found: &[Pair], second: bool) -> Res<(Closed, bool)> {
        for pair in found {
            let t = if second { &pair.b } else { &pair.a };
            let v = self.g.value_as(t, &pair.ty)?;
            self.g.build(|b| b.output("joined", v))?;
        }
        let effects = self.g.has_effects();
        Ok((self.g.close()?, effects))
    }

    /// Reads views again whose base has changed, so that what a path leaves is up to date.
    pub fn settle(&mut self, st: &mut State, base: usize) -> Res<()> {
        self.tick(st.heap.len().saturating_sub(base) / 4)?;
        let mut stale: Vec<Ref> = vec![];
        for (i, cell) in st.heap.iter().enumerate().skip(base) {
            if matches!(&**cell, Cell::Tensor(t) if t.view.is_some() && !t.lost) {
                stale.push(Ref(u32::try_from(i).unwrap_or(u32::MAX)));
            }
        }
        for r in stale {
            match self.read_tensor(st, r) {
                Ok(_) => {}
                Err(fault @ Fault::Limit { .. }) => return Err(fault),
                // It matters only if it is read.
                Err(_) => st.change_tensor(r, |cell| cell.lost = true),
            }
        }
        Ok(())
    }
}
