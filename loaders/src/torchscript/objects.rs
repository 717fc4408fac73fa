//! The module tree of an archive as objects on the heap.

use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

use rustc_hash::{FxHashMap, FxHashSet};

use super::ast::Expr;
use super::expr::literal;
use super::fault::{Fault, Res};
use super::program::{self, Program};
use super::states::States;
use super::value::{Cell, Ref, State, Traced, Val};
use crate::checkpoint::{Checkpoint, Item, ItemId, Opaque};

/// Nesting of values; that of a file is bounded when it is read.
const MAX_NESTING: usize = 200;

/// Longest name of a value.
const MAX_NAME: usize = 4096;

/// Most names of weights where some have several: each object that is held twice doubles those below it.
const MAX_WEIGHTS: usize = 1 << 14;

/// Reads the values of one pickle.
pub(crate) struct Objects<'c, 'p> {
    checkpoint: &'c Checkpoint,
    program: &'c mut Program<'p>,
    made: FxHashMap<ItemId, Val>,
    /// Bytes that copies of tensors may still take.
    copies: &'c mut usize,
    /// Parameters and buffers of modules by name, if they are asked for.
    weights: Option<Vec<(String, Ref)>>,
    /// Which of them are below an object, and how long their common prefix is.
    spans: FxHashMap<ItemId, (Range<usize>, usize)>,
}

impl<'c, 'p> Objects<'c, 'p> {
    pub fn new(checkpoint: &'c Checkpoint, program: &'c mut Program<'p>, copies: &'c mut usize) -> Self {
        Objects {
            checkpoint,
            program,
            made: FxHashMap::default(),
            copies,
            weights: None,
            spans: FxHashMap::default(),
        }
    }

    /// The whole pickle, with the names of parameters and buffers, as a state dict has them.
    pub fn root_and_weights(
        &mut self,
        st: &mut State,
        states: &mut States,
    ) -> Res<(Val, Vec<(String, Ref)>)> {
        self.weights = Some(vec![]);
        let root = self.root(st, states)?;
        Ok((root, self.weights.take().unwrap_or_default()))
    }

    /// The whole pickle. Objects are named by their attributes.
    pub fn root(&mut self, st: &mut State, states: &mut States) -> Res<Val> {
        self.value(st, states, self.checkpoint.tree().root(), "", 0)
    }

    fn value(
        &mut self,
        st: &mut State,
        states: &mut States,
        id: ItemId,
        path: &str,
        depth: usize,
    ) -> Res<Val> {
        if let Some(v) = self.made.get(&id).cloned() {
            self.name_again(id, path)?;
            return Ok(v);
        }
        if depth > MAX_NESTING {
            return Err(Fault::Limit { what: "nesting of the values".to_owned(), limit: MAX_NESTING });
        }
        let checkpoint = self.checkpoint;
        let value = match checkpoint.tree().item(id) {
            Item::None => Val::None,
            Item::Bool(b) => Val::Bool(*b),
            Item::Int(n) => Val::Int(*n),
            Item::Float(x) => Val::Float(*x),
            Item::Complex(re, im) => Val::Complex(*re, *im),
            Item::Text(text) => Val::text(text.as_str()),
            Item::List(ids) => {
                let items = self.all(st, states, ids, path, depth)?;
                st.list(items)
            }
            Item::Tuple(ids) => Val::tuple(self.all(st, states, ids, path, depth)?),
            Item::Dict { pairs, .. } => {
                let mut out = vec![];
                for &(key, value) in pairs {
                    let key = self.value(st, states, key, path, depth + 1)?;
                    let name = match &key {
                        Val::Str(text) => joined(path, text)?,
                        Val::Int(n) => joined(path, &n.to_string())?,
                        _ => path.to_owned(),
                    };
                    out.push((key, self.value(st, states, value, &name, depth + 1)?));
                }
                st.dict(out)
            }
            Item::Tensor { tensor, .. } => self.tensor(st, *tensor)?,
            Item::Name(name) => match name.strip_prefix("torch.device:") {
                Some(device) => Val::Device(device.into()),
                None => Val::Opaque(name.as_str().into()),
            },
            Item::Opaque(opaque) => self.object(st, states, id, opaque, path, depth)?,
            Item::Integer(_) | Item::Bytes(_) | Item::Set(_) => Val::Opaque("a value of Python".into()),
        };
        self.made.insert(id, value.clone());
        Ok(value)
    }

    fn all(
        &mut self,
        st: &mut State,
        states: &mut States,
        ids: &[ItemId],
        path: &str,
        depth: usize,
    ) -> Res<Vec<Val>> {
        let mut out = vec![];
        for (i, &id) in ids.iter().enumerate() {
            out.push(self.value(st, states, id, &joined(path, &i.to_string())?, depth + 1)?);
        }
        Ok(out)
    }

    fn tensor(&mut self, st: &mut State, index: usize) -> Res<Val> {
        let missing = || Fault::invalid("a tensor is missing");
        let tensor = self.checkpoint.tensor(index).ok_or_else(missing)?;
        if tensor.quantization.is_some() {
            return Ok(Val::Opaque("a quantized tensor".into()));
        }
        if tensor.mapped().is_none() {
            let limit = *self.copies;
            *self.copies = limit.checked_sub(tensor.byte_len()).ok_or_else(|| Fault::Limit {
                what: "copies of tensors that do not lie densely".to_owned(),
                limit,
            })?;
        }
        let value = Traced::Constant(tensor.to_tensor(tensor.byte_len())?);
        Ok(if tensor.mapped().is_some() { st.plain_tensor(value) } else { st.tensor(value) })
    }

    /// An instance of a class, or what a function of torch's own would make.
    fn object(
        &mut self,
        st: &mut State,
        states: &mut States,
        id: ItemId,
        opaque: &Opaque,
        path: &str,
        depth: usize,
    ) -> Res<Val> {
        if let Some(fault) = &opaque.fault {
            return Err(fault.clone().into());
        }
        let part = |name: &str| opaque.parts.iter().find(|(n, _)| *n == name).map(|(_, id)| *id);
        let tree = self.checkpoint.tree();
        // What PyTorch writes for a member of an enumeration calls the class with the value itself, not with a tuple.
        let of = part("args");
        let args = match of.as_ref().map(|id| (id, tree.item(*id))) {
            Some((_, Item::Tuple(ids))) => ids.as_slice(),
            Some((id, _)) => std::slice::from_ref(id),
            None => &[],
        };
        if opaque.name.starts_with("torch.jit._pickle.") {
            return match args.first() {
                Some(&inner) => self.value(st, states, inner, path, depth + 1),
                None => Err(Fault::invalid(format!("`{:.100}` of nothing", opaque.name))),
            };
        }
        let is_class =
            opaque.name.starts_with("__torch__.") && !opaque.name.starts_with("__torch__.torch.classes.");
        let state = part("").map(|id| tree.item(id));
        if !is_class {
            return Ok(Val::Opaque(opaque.name.as_str().into()));
        }
        let pairs = match state {
            Some(Item::Dict { pairs, .. }) => pairs.as_slice(),
            None if args.is_empty() => &[],
            _ => {
                let member = match args {
                    [value] if state.is_none() => {
                        let value = self.value(st, states, *value, path, depth + 1)?;
                        self.member(&opaque.name, &value)?
                    }
                    _ => None,
                };
                return Ok(member.unwrap_or_else(|| Val::Opaque(opaque.name.as_str().into())));
            }
        };
        // The object is known before its attributes: they may know it.
        let r = st.add(Cell::Instance(opaque.name.as_str().into(), BTreeMap::new()));
        states.name_object(r, path);
        self.made.insert(id, Val::Instance(r));
        let mut attrs = BTreeMap::new();
        let first = self.weights.as_ref().map_or(0, Vec::len);
        let weights = match &self.weights {
            Some(_) => self.weights_of(&opaque.name)?,
            None => FxHashSet::default(),
        };
        for &(key, value) in pairs {
            let Item::Text(key) = tree.item(key) else {
                return Err(Fault::invalid("an attribute has no name"));
            };
            let key = key.as_str();
            let inner = joined(path, key)?;
            let found = self.value(st, states, value, &inner, depth + 1)?;
            if let (Some(named), Val::Tensor(r)) = (self.weights.as_mut(), &found)
                && weights.contains(key)
            {
                named.push((inner, *r));
            }
            attrs.insert(key.into(), found);
        }
        if let Some(cell) = st.cell_mut(r) {
            *cell = Cell::Instance(opaque.name.as_str().into(), attrs);
        }
        if let Some(named) = &self.weights {
            let own = if path.is_empty() { 0 } else { path.len() + 1 };
            self.spans.insert(id, (first..named.len(), own));
        }
        Ok(Val::Instance(r))
    }

    /// Names the weights of an object that is an attribute of another one as well, as a state dict does.
    fn name_again(&mut self, id: ItemId, path: &str) -> Res<()> {
        let (Some(named), Some((span, own))) = (self.weights.as_mut(), self.spans.get(&id)) else {
            return Ok(());
        };
        if named.len().saturating_add(span.len()) > MAX_WEIGHTS {
            return Err(Fault::Limit { what: "number of weights' names".to_owned(), limit: MAX_WEIGHTS });
        }
        let mut again = vec![];
        for (name, r) in named.get(span.clone()).unwrap_or(&[]) {
            again.push((joined(path, name.get(*own..).unwrap_or(name))?, *r));
        }
        named.extend(again);
        Ok(())
    }

    /// Names of the parameters and buffers that a class declares.
    fn weights_of(&mut self, class: &str) -> Res<FxHashSet<String>> {
        let Some(program::Item::Class(found)) = self.program.item(class)? else {
            return Ok(FxHashSet::default());
        };
        let mut names = FxHashSet::default();
        for (name, _, value) in found.attributes() {
            if let ("__parameters__" | "__buffers__", Some(Expr::List(items))) = (name, value) {
                names.extend(items.iter().filter_map(|item| item.as_str().map(str::to_owned)));
            }
        }
        Ok(names)
    }

    /// The member of an enumeration that has a value.
    fn member(&mut self, class: &str, value: &Val) -> Res<Option<Val>> {
        let found = match self.program.item(class)? {
            Some(program::Item::Class(found)) if found.is_a("Enum") => found,
            _ => return Ok(None),
        };
        let has = |other: Val| match (value, &other) {
            (Val::Int(a), Val::Int(b)) => a == b,
            (Val::Float(a), Val::Float(b)) => a == b,
            (Val::Str(a), Val::Str(b)) => a == b,
            _ => false,
        };
        let mut members = found.attributes();
        let member = members.find(|(_, _, literal_of)| literal_of.and_then(literal).is_some_and(has));
        Ok(member.map(|(name, _, _)| Val::Member(class.into(), name.into(), Rc::new(value.clone()))))
    }
}

/// The name of a part.
fn joined(path: &str, key: &str) -> Res<String> {
    if path.len().saturating_add(key.len()) >= MAX_NAME {
        return Err(Fault::Limit { what: "length of a name".to_owned(), limit: MAX_NAME });
    }
    Ok(if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") })
}
