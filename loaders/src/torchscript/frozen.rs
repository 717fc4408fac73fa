//! Containers and objects whose parts are all known, apart from any heap: what an attribute may hold from run to run.

use std::collections::BTreeMap;

use kiln_ir::Tensor;

use super::ast::Name;
use super::fault::{Fault, Res};
use super::join::same_key;
use super::machine::Machine;
use super::value::{Cell, ListCell, Ref, State, Val};

/// How deep parts may be nested, and how many there may be.
const MAX_NESTING: usize = 8;
const MAX_PARTS: usize = 1024;

/// A known value.
#[derive(Clone, Debug)]
pub(crate) enum Frozen {
    /// A number, text and the like.
    Single(Val),
    /// A tensor.
    Tensor(Tensor),
    /// A tuple; a named one has the name of its class.
    Tuple(Vec<Frozen>, Option<Name>),
    /// A list.
    List(Vec<Frozen>),
    /// A dict.
    Dict(Vec<(Val, Frozen)>),
    /// An object of a class.
    Instance(Name, BTreeMap<Name, Frozen>),
}

/// What was met on the way.
#[derive(Default)]
pub(crate) struct Met {
    places: Vec<Ref>,
    parts: usize,
}

impl Met {
    /// Counts a container; false where it was met before, or where there are too many.
    pub fn enter(&mut self, r: Ref) -> bool {
        self.parts += 1;
        let is_new = self.parts <= MAX_PARTS && !self.places.contains(&r);
        if is_new {
            self.places.push(r);
        }
        is_new
    }
}

impl Frozen {
    /// Whether two are equal in all parts.
    pub fn same(&self, other: &Frozen) -> bool {
        let all = |a: &[Frozen], b: &[Frozen]| a.len() == b.len() && a.iter().zip(b).all(|(x, y)| x.same(y));
        match (self, other) {
            (Frozen::Single(a), Frozen::Single(b)) => same_key(a, b),
            (Frozen::Tensor(a), Frozen::Tensor(b)) => a == b,
            (Frozen::Tuple(a, n), Frozen::Tuple(b, m)) => n == m && all(a, b),
            (Frozen::List(a), Frozen::List(b)) => all(a, b),
            (Frozen::Dict(a), Frozen::Dict(b)) => {
                let mut pairs = a.iter().zip(b);
                a.len() == b.len() && pairs.all(|((k, v), (l, w))| same_key(k, l) && v.same(w))
            }
            (Frozen::Instance(c, a), Frozen::Instance(d, b)) => {
                let mut pairs = a.iter().zip(b);
                c == d && a.len() == b.len() && pairs.all(|((k, v), (l, w))| k == l && v.same(w))
            }
            _ => false,
        }
    }

    /// The value on a heap, made anew.
    pub fn thaw(&self, st: &mut State) -> Val {
        match self {
            Frozen::Single(v) => v.clone(),
            Frozen::Tensor(t) => st.plain_tensor(super::value::Traced::Constant(t.clone())),
            Frozen::Tuple(items, name) => {
                let items: Vec<Val> = items.iter().map(|v| v.thaw(st)).collect();
                Val::Tuple(items.into(), name.clone())
            }
            Frozen::List(items) => {
                let items = items.iter().map(|v| v.thaw(st)).collect();
                st.list(items)
            }
            Frozen::Dict(pairs) => {
                let pairs = pairs.iter().map(|(k, v)| (k.clone(), v.thaw(st))).collect();
                st.dict(pairs)
            }
            Frozen::Instance(class, attrs) => {
                let attrs = attrs.iter().map(|(name, v)| (name.clone(), v.thaw(st))).collect();
                Val::Instance(st.add(Cell::Instance(class.clone(), attrs)))
            }
        }
    }
}

impl Machine<'_> {
    /// A value apart from the heap, if all its parts are known. Objects of the archive, and such that others hold as
    /// well, are not: they are the same in every run.
    pub fn freeze(&mut self, st: &mut State, v: &Val, met: &mut Met, depth: usize) -> Res<Option<Frozen>> {
        met.parts += 1;
        if depth > MAX_NESTING || met.parts > MAX_PARTS {
            return Ok(None);
        }
        self.tick(1)?;
        Ok(Some(match v {
            Val::None | Val::Bool(_) | Val::Int(_) | Val::Float(_) | Val::Str(_) | Val::Device(_) => {
                Frozen::Single(v.clone())
            }
            Val::Tensor(r) => {
                let t = self.read_tensor(st, *r)?;
                match self.g.constant(&t) {
                    Some(tensor) => Frozen::Tensor(tensor),
                    None => return Ok(None),
                }
            }
            Val::Tuple(items, name) => match self.freeze_all(st, items, met, depth)? {
                Some(items) => Frozen::Tuple(items, name.clone()),
                None => return Ok(None),
            },
            Val::List(r) | Val::Dict(r) | Val::Instance(r) => {
                if r.index() < self.states.origin.heap.len() || met.places.contains(r) {
                    return Ok(None);
                }
                met.places.push(*r);
                let cell = st.cell(*r).cloned().ok_or_else(|| Fault::invalid("no such object"))?;
                match self.freeze_cell(st, &cell, met, depth)? {
                    Some(frozen) => frozen,
                    None => return Ok(None),
                }
            }
            _ => return Ok(None),
        }))
    }

    fn freeze_all(
        &mut self,
        st: &mut State,
        items: &[Val],
        met: &mut Met,
        depth: usize,
    ) -> Res<Option<Vec<Frozen>>> {
        items.iter().map(|v| self.freeze(st, v, met, depth + 1)).collect()
    }

    fn freeze_cell(
        &mut self,
        st: &mut State,
        cell: &Cell,
        met: &mut Met,
        depth: usize,
    ) -> Res<Option<Frozen>> {
        Ok(match cell {
            Cell::List(ListCell::Items(items)) => self.freeze_all(st, items, met, depth)?.map(Frozen::List),
            Cell::Dict(pairs) => {
                let mut out = vec![];
                for (key, v) in pairs {
                    match self.freeze(st, v, met, depth + 1)? {
                        Some(v) => out.push((key.clone(), v)),
                        None => return Ok(None),
                    }
                }
                Some(Frozen::Dict(out))
            }
            Cell::Instance(class, attrs) => {
                let mut out = BTreeMap::new();
                for (name, v) in attrs {
                    match self.freeze(st, v, met, depth + 1)? {
                        Some(v) => out.insert(name.clone(), v),
                        None => return Ok(None),
                    };
                }
                Some(Frozen::Instance(class.clone(), out))
            }
            Cell::Tensor(_) | Cell::List(ListCell::Sequence(..)) => None,
        })
    }
}
