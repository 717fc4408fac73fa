//! Lists, tuples, dicts and text as containers.

use std::rc::Rc;

use kiln_ir::op::{Host, Object};
use kiln_ir::{Build, Tensor, Type};

use super::fault::{Fault, Res};
use super::join::{same_key, sequence};
use super::machine::Machine;
use super::ops::Kwargs;
use super::text;
use super::value::{Cell, Kind, ListCell, Ref, State, Traced, Val};

/// Most elements of a list.
const MAX_LIST: usize = 1 << 16;

/// How deep tuples may be nested, and how many one may have at a depth.
const MAX_NESTING: usize = 24;
const MAX_WIDTH: usize = 512;

fn bounded(items: Vec<Val>) -> Res<Vec<Val>> {
    if items.len() > MAX_LIST {
        return Err(Fault::Limit { what: "length of a list".to_owned(), limit: MAX_LIST });
    }
    Ok(items)
}

/// The position of a known index.
fn position(index: i64, length: usize) -> Res<usize> {
    let n = i64::try_from(length).unwrap_or(i64::MAX);
    let at = if index < 0 { index.saturating_add(n) } else { index };
    usize::try_from(at)
        .ok()
        .filter(|&at| at < length)
        .ok_or_else(|| Fault::raises(format!("index {index} is out of range for {length} elements")))
}

/// A bound of a slice: `None` for the end.
fn bound(v: Option<&Val>) -> Option<Option<i64>> {
    match v {
        None | Some(Val::None) => Some(None),
        Some(Val::Int(n)) => Some(Some(*n)),
        Some(_) => None,
    }
}

impl Machine<'_> {
    /// `value[index]`.
    pub fn element(&mut self, st: &mut State, value: &Val, index: &Val) -> Res<Val> {
        match value {
            Val::Dict(r) => {
                let Some(Cell::Dict(pairs)) = st.cell(*r) else { return Err(Fault::invalid("no such dict")) };
                let found = find_key(pairs, index)?.and_then(|i| pairs.get(i)).map(|(_, v)| v.clone());
                found.ok_or_else(|| Fault::invalid("a dict has no such key"))
            }
            Val::Tuple(items, _) => match self.index(st, index)? {
                Val::Int(i) => Ok(items.get(position(i, items.len())?).cloned().unwrap_or(Val::None)),
                _ => Err(Fault::unsupported("an element of a tuple that shows at run time")),
            },
            Val::List(r) => {
                let index = self.index(st, index)?;
                if let (ListCell::Items(items), Val::Int(i)) = (self.list_cell(st, *r)?, &index) {
                    return Ok(items.get(position(*i, items.len())?).cloned().unwrap_or(Val::None));
                }
                self.sequence_at(st, *r, &index)
            }
            Val::Str(s) => match self.index(st, index)? {
                Val::Int(i) => {
                    self.tick(s.len() / 64)?;
                    let chars: Vec<char> = s.chars().collect();
                    let c = chars.get(position(i, chars.len())?);
                    Ok(Val::text(c.map(char::to_string).unwrap_or_default()))
                }
                _ => Err(Fault::unsupported("a character that shows at run time")),
            },
            Val::Tensor(_) => {
                self.op(st, "aten", "select", vec![value.clone(), Val::Int(0), index.clone()], vec![])
            }
            other => Err(Fault::invalid(format!("{} has no elements", other.kind()))),
        }
    }

    /// An element of a list at a position of run time.
    fn sequence_at(&mut self, st: &mut State, r: Ref, index: &Val) -> Res<Val> {
        self.read_all(st, r)?;
        for item in st.items(&Val::List(r)).unwrap_or_default() {
            if let Val::Tensor(item) = item {
                self.share(st, item);
            }
        }
        let (t, kind) = sequence(st, self.list_cell(st, r)?)?;
        let kind = kind.ok_or_else(|| Fault::invalid("an element of an empty list"))?;
        let at = self.traced(index)?.1;
        let operands = [self.g.value(&t)?, self.g.value(&at)?];
        let found = self.g.add(Object::SequenceAt {}, &operands)?;
        Ok(self.element_of(st, found, kind))
    }

    /// An element of a sequence as a value.
    fn element_of(&mut self, st: &mut State, t: Traced, kind: Option<Kind>) -> Val {
        match kind {
            Some(kind) => self.number_of(kind, t),
            // It is the tensor of the list, which is not known by itself.
            None => st.shared_tensor(t),
        }
    }

    /// Reads views in a list again whose bases have changed.
    fn read_all(&mut self, st: &mut State, r: Ref) -> Res<()> {
        let items = match self.list_cell(st, r)? {
            ListCell::Items(items) => items.clone(),
            ListCell::Sequence(..) => return Ok(()),
        };
        for item in items {
            if let Val::Tensor(t) = item {
                self.read_tensor(st, t)?;
            }
        }
        Ok(())
    }

    /// An operator on a list.
    pub fn list_op(
        &mut self,
        st: &mut State,
        name: &str,
        r: Ref,
        args: &[Val],
        kwargs: &Kwargs,
    ) -> Res<Option<Val>> {
        if let Some(value) = self.quick_list_op(st, name, r, args)? {
            return Ok(Some(value));
        }
        let items = match self.list_cell(st, r)? {
            ListCell::Items(items) => items.clone(),
            ListCell::Sequence(t, kind) => {
                let (t, kind) = (t.clone(), *kind);
                return self.sequence_op(st, name, r, &t, kind, args);
            }
        };
        self.tick(items.len() / 2)?;
        if matches!(
            name,
            "extend" | "insert" | "pop" | "clear" | "reverse" | "remove" | "sort" | "_set_item" | "Delete"
        ) {
            return self.change_list(st, name, r, items, args, kwargs).map(Some);
        }
        Ok(Some(match (name, args) {
            ("copy" | "list", [_]) => st.list(items),
            ("dict", [_]) => self.dict_of(st, &items)?,
            ("slice", [_, rest @ ..]) => self.slice_of(st, &items, rest)?.map_or_else(
                || Err(Fault::unsupported("a slice of a list that shows at run time")),
                |picked| Ok(st.list(picked)),
            )?,
            ("add" | "add_", [_, other @ Val::List(_)]) => {
                let more = st.items(other).ok_or_else(|| Fault::unsupported("joining lists of run time"))?;
                let all = bounded([items, more].concat())?;
                if name == "add_" {
                    self.set_list(st, r, all)?;
                    return Ok(Some(Val::List(r)));
                }
                st.list(all)
            }
            ("mul", [_, Val::Int(n)]) => {
                let times = usize::try_from(*n).unwrap_or(0);
                if items.len().saturating_mul(times) > MAX_LIST {
                    bounded(vec![Val::None; MAX_LIST + 1])?;
                }
                self.tick(items.len().saturating_mul(times) / 2)?;
                st.list(std::iter::repeat_n(items, times).flatten().collect())
            }
            ("eq" | "ne", [_, other @ (Val::List(_) | Val::Tuple(..))]) => {
                let Some(others) = st.items(other) else { return Ok(None) };
                let same = self.same_items(st, &items, &others)?;
                if name == "eq" { same } else { self.op(st, "aten", "__not__", vec![same], vec![])? }
            }
            ("__contains__", [_, wanted]) => {
                let mut found = vec![];
                for item in &items {
                    found.push(self.equal(st, item, wanted)?);
                }
                self.any_of(st, found)?
            }
            ("index" | "count", [_, wanted])
                if !matches!(items.first(), Some(Val::Tensor(_) | Val::None)) =>
            {
                let places = self.places_of(st, &items, wanted)?;
                let found = if name == "count" { Some(places.len()) } else { places.first().copied() };
                Val::Int(
                    found
                        .and_then(|n| i64::try_from(n).ok())
                        .ok_or_else(|| Fault::invalid("it is not in the list"))?,
                )
            }
            ("min" | "max" | "sum" | "any" | "all", [_]) => return self.reduce(st, name, &items),
            ("sorted", [_]) => {
                let sorted = sorted(items, false)?;
                st.list(sorted)
            }
            _ => return Ok(None),
        }))
    }

    /// Where a list has elements that are equal to a value.
    fn places_of(&mut self, st: &mut State, items: &[Val], wanted: &Val) -> Res<Vec<usize>> {
        let mut places = vec![];
        for (i, item) in items.iter().enumerate() {
            match self.equal(st, item, wanted)? {
                Val::Bool(true) => places.push(i),
                Val::Bool(false) => {}
                _ => return Err(Fault::unsupported("a search in a list that shows at run time")),
            }
        }
        Ok(places)
    }

    /// What loops do with lists, without a copy of them.
    fn quick_list_op(&mut self, st: &mut State, name: &str, r: Ref, args: &[Val]) -> Res<Option<Val>> {
        let Some(Cell::List(ListCell::Items(items))) = st.cell(r) else { return Ok(None) };
        match (name, args) {
            ("append", [list, v]) => {
                if items.len() >= MAX_LIST {
                    return Err(Fault::Limit { what: "length of a list".to_owned(), limit: MAX_LIST });
                }
                if let Some(Cell::List(ListCell::Items(items))) = st.cell_mut(r) {
                    items.push(v.clone());
                }
                st.charge_values(1);
                Ok(Some(list.clone()))
            }
            ("len", [_]) => Ok(Some(Val::Int(i64::try_from(items.len()).unwrap_or(i64::MAX)))),
            ("__getitem__", [list, index]) => self.element(st, list, index).map(Some),
            _ => Ok(None),
        }
    }

    /// Fails where tuples are nested too deep: they are dropped and compared by recursion.
    pub fn check_nesting(&mut self, items: &[Val]) -> Res<()> {
        // Tuples within are not too deep, but may be shared.
        let mut level: Vec<Rc<[Val]>> = vec![];
        let inner = |items: &[Val], out: &mut Vec<Rc<[Val]>>| {
            for v in items {
                if let Val::Tuple(items, _) = v
                    && !out.iter().any(|seen| Rc::ptr_eq(seen, items))
                {
                    out.push(items.clone());
                }
            }
        };
        inner(items, &mut level);
        for _ in 0..MAX_NESTING {
            if level.is_empty() {
                return Ok(());
            }
            if level.len() > MAX_WIDTH {
                return Err(Fault::Limit { what: "tuples in tuples".to_owned(), limit: MAX_WIDTH });
            }
            self.tick(level.iter().map(|items| 1 + items.len()).sum())?;
            let mut next = vec![];
            level.iter().for_each(|items| inner(items, &mut next));
            level = next;
        }
        Err(Fault::Limit { what: "nesting of tuples".to_owned(), limit: MAX_NESTING })
    }

    fn same_items(&mut self, st: &mut State, a: &[Val], b: &[Val]) -> Res<Val> {
        self.same_within(st, a, b, 0)
    }

    fn same_within(&mut self, st: &mut State, a: &[Val], b: &[Val], depth: usize) -> Res<Val> {
        if depth > MAX_NESTING {
            return Err(Fault::Limit { what: "nesting of what is compared".to_owned(), limit: MAX_NESTING });
        }
        self.tick(a.len())?;
        if a.len() != b.len() {
            return Ok(Val::Bool(false));
        }
        let mut differ = vec![];
        for (a, b) in a.iter().zip(b) {
            let same = match (st.items(a), st.items(b)) {
                (Some(x), Some(y)) => self.same_within(st, &x, &y, depth + 1)?,
                _ => self.equal(st, a, b)?,
            };
            differ.push(self.op(st, "aten", "__not__", vec![same], vec![])?);
        }
        let any = self.any_of(st, differ)?;
        self.op(st, "aten", "__not__", vec![any], vec![])
    }

    /// Sum, extremum and the like of a list of numbers.
    fn reduce(&mut self, st: &mut State, name: &str, items: &[Val]) -> Res<Option<Val>> {
        let mut items = items.iter();
        let Some(first) = items.next() else {
            return match name {
                "sum" => Ok(Some(Val::Int(0))),
                "any" => Ok(Some(Val::Bool(false))),
                "all" => Ok(Some(Val::Bool(true))),
                _ => Err(Fault::invalid(format!("`{name}` of an empty list"))),
            };
        };
        if matches!(first, Val::Tensor(_) | Val::None) {
            return Ok(None);
        }
        let (ns, op) = match name {
            "sum" => ("aten", "add"),
            "any" => ("aten", "__or__"),
            "all" => ("aten", "__and__"),
            other => ("prim", other),
        };
        let mut total = first.clone();
        for item in items {
            total = self.op(st, ns, op, vec![total, item.clone()], vec![])?;
        }
        Ok(Some(total))
    }

    fn slice_of(&mut self, st: &mut State, items: &[Val], rest: &[Val]) -> Res<Option<Vec<Val>>> {
        let mut bounds = vec![];
        for v in rest {
            bounds.push(match v {
                Val::None => Val::None,
                v => self.index(st, v)?,
            });
        }
        let step = match bounds.get(2) {
            None | Some(Val::None) => 1,
            Some(Val::Int(n)) => *n,
            Some(_) => return Ok(None),
        };
        let (Some(start), Some(end)) = (bound(bounds.first()), bound(bounds.get(1))) else { return Ok(None) };
        let picked = text::positions(items.len(), start, end, step)?;
        Ok(Some(picked.into_iter().filter_map(|i| items.get(i).cloned()).collect()))
    }

    fn set_list(&mut self, st: &mut State, r: Ref, items: Vec<Val>) -> Res<()> {
        self.tick(items.len() / 8)?;
        let before = match st.cell(r) {
            Some(Cell::List(ListCell::Items(items))) => items.len(),
            _ => 0,
        };
        st.charge_values(items.len().saturating_sub(before));
        match st.cell_mut(r) {
            Some(Cell::List(list)) => {
                *list = ListCell::Items(bounded(items)?);
                Ok(())
            }
            _ => Err(Fault::invalid("there is no such list")),
        }
    }

    /// Operators that change a list.
    fn change_list(
        &mut self,
        st: &mut State,
        name: &str,
        r: Ref,
        mut items: Vec<Val>,
        args: &[Val],
        kwargs: &Kwargs,
    ) -> Res<Val> {
        let mut result = Val::List(r);
        match (name, args) {
            ("extend", [_, more]) => {
                let more = st.items(more).ok_or_else(|| Fault::unsupported("joining lists of run time"))?;
                items.extend(more);
            }
            ("insert", [_, Val::Int(i), v]) => {
                let n = i64::try_from(items.len()).unwrap_or(0);
                let at = if *i < 0 { (*i + n).max(0) } else { (*i).min(n) };
                items.insert(usize::try_from(at).unwrap_or(0).min(items.len()), v.clone());
            }
            ("pop", [_, rest @ ..]) => {
                let at = match rest.first() {
                    Some(v) => match self.index(st, v)? {
                        Val::Int(i) => i,
                        _ => return Err(Fault::unsupported("removal at a place that shows at run time")),
                    },
                    None => -1,
                };
                result = items.remove(position(at, items.len())?);
            }
            ("clear", [_]) => {
                items.clear();
                result = Val::None;
            }
            ("reverse", [_]) => {
                items.reverse();
                result = Val::None;
            }
            ("remove", [_, v]) => {
                let at = self.places_of(st, &items, v)?.into_iter().next();
                items.remove(at.ok_or_else(|| Fault::invalid("it is not in the list"))?);
                result = Val::None;
            }
            ("sort", [_, rest @ ..]) => {
                let reverse = kwargs.iter().find(|(n, _)| &**n == "reverse").map(|(_, v)| v).or(rest.first());
                items = sorted(items, matches!(reverse, Some(Val::Bool(true))))?;
                result = Val::None;
            }
            ("_set_item", [_, index, v]) => match self.index(st, index)? {
                Val::Int(i) => {
                    let at = position(i, items.len())?;
                    if let Some(slot) = items.get_mut(at) {
                        *slot = v.clone();
                    }
                }
                _ => return Err(Fault::unsupported("a change at a place that shows at run time")),
            },
            ("Delete", [_, Val::Int(i)]) => {
                items.remove(position(*i, items.len())?);
                result = Val::None;
            }
            _ => return Err(Fault::unsupported(format!("`{name}` of a list with such arguments"))),
        }
        self.set_list(st, r, items)?;
        Ok(result)
    }

    /// An operator on a list of run time.
    fn sequence_op(
        &mut self,
        st: &mut State,
        name: &str,
        r: Ref,
        t: &Traced,
        kind: Option<Kind>,
        args: &[Val],
    ) -> Res<Option<Val>> {
        Ok(Some(match (name, args) {
            ("len", [_]) => {
                let v = self.g.value(t)?;
                let length = self.g.add(Object::SequenceLength {}, &[v])?;
                self.number_of(Kind::Int, length)
            }
            ("append", [list, v]) => {
                let value = match v {
                    Val::Tensor(x) => {
                        self.share(st, *x);
                        self.read_tensor(st, *x)?
                    }
                    v => self.traced(v)?.1,
                };
                let operands = [self.g.value(t)?, self.g.value(&value)?];
                let longer = self.g.add(Object::SequenceInsert { at: false }, &operands)?;
                if let Some(Cell::List(slot)) = st.cell_mut(r) {
                    *slot = ListCell::Sequence(longer, kind);
                }
                list.clone()
            }
            ("pop", [_]) => {
                let v = self.g.value(t)?;
                let last = self.g.try_build(|b| b.constant(Tensor::scalar(-1i64)))?;
                let found = self.g.add(Object::SequenceAt {}, &[v, last])?;
                let shorter = self.g.add(Object::SequenceErase { at: false }, &[v])?;
                if let Some(Cell::List(slot)) = st.cell_mut(r) {
                    *slot = ListCell::Sequence(shorter, kind);
                }
                self.element_of(st, found, kind)
            }
            ("__getitem__", [list, index]) => self.element(st, list, index)?,
            ("copy" | "list", [_]) => {
                let cell = ListCell::Sequence(t.clone(), kind);
                Val::List(st.add(Cell::List(cell)))
            }
            ("cat" | "stack" | "concat", [_, rest @ ..]) if kind.is_none() => {
                let axis = match rest.first() {
                    Some(Val::Int(n)) => *n,
                    None => 0,
                    _ => return Err(Fault::unsupported("joining tensors along an axis of run time")),
                };
                let v = self.g.value(t)?;
                let joined = self.g.add(Object::SequenceConcat { axis, new_axis: name == "stack" }, &[v])?;
                st.tensor(joined)
            }
            _ => {
                return Err(Fault::unsupported(format!("`{name}` of a list whose length shows at run time")));
            }
        }))
    }

    /// An operator on a tuple.
    pub fn tuple_op(&mut self, st: &mut State, name: &str, items: &[Val], args: &[Val]) -> Res<Option<Val>> {
        Ok(Some(match (name, args) {
            ("len", [_]) => Val::Int(i64::try_from(items.len()).unwrap_or(i64::MAX)),
            ("__getitem__", [tuple, index]) => self.element(st, tuple, index)?,
            ("slice", [_, rest @ ..]) => match self.slice_of(st, items, rest)? {
                Some(picked) => Val::tuple(picked),
                None => return Err(Fault::unsupported("a slice of a tuple that shows at run time")),
            },
            ("add", [_, Val::Tuple(more, _)]) => Val::tuple(bounded([items, more].concat())?),
            ("eq" | "ne", [_, Val::Tuple(others, _)]) => {
                let same = self.same_items(st, items, &others.clone())?;
                if name == "eq" { same } else { self.op(st, "aten", "__not__", vec![same], vec![])? }
            }
            ("list", [_]) => st.list(items.to_vec()),
            _ => return Ok(None),
        }))
    }

    /// An operator on a dict.
    pub fn dict_op(
        &mut self,
        st: &mut State,
        name: &str,
        r: Ref,
        args: &[Val],
        kwargs: &Kwargs,
    ) -> Res<Option<Val>> {
        let Some(Cell::Dict(pairs)) = st.cell(r) else { return Err(Fault::invalid("no such dict")) };
        let mut pairs = pairs.clone();
        self.tick(pairs.len() / 8)?;
        let find = find_key;
        let value = match (name, args) {
            ("len", [_]) => return Ok(Some(Val::Int(i64::try_from(pairs.len()).unwrap_or(i64::MAX)))),
            ("keys" | "list", [_]) => return Ok(Some(st.list(pairs.into_iter().map(|(k, _)| k).collect()))),
            ("values", [_]) => return Ok(Some(st.list(pairs.into_iter().map(|(_, v)| v).collect()))),
            ("items", [_]) => {
                let values: Vec<Val> = pairs.iter().map(|(_, v)| v.clone()).collect();
                self.check_nesting(&[Val::tuple(values)])?;
                st.charge_values(2 * pairs.len());
                let items = pairs.into_iter().map(|(k, v)| Val::tuple([k, v])).collect();
                return Ok(Some(st.list(items)));
            }
            ("copy" | "dict", [_]) => return Ok(Some(st.dict(pairs))),
            ("__getitem__", [dict, key]) => return self.element(st, dict, key).map(Some),
            ("__contains__", [_, key]) => return Ok(Some(Val::Bool(find(&pairs, key)?.is_some()))),
            ("get", [_, key, rest @ ..]) => {
                let found = find(&pairs, key)?.and_then(|i| pairs.get(i)).map(|(_, v)| v.clone());
                return Ok(Some(found.or_else(|| rest.first().cloned()).unwrap_or(Val::None)));
            }
            ("_set_item" | "setdefault", [_, key, v]) => {
                match find(&pairs, key)?.and_then(|i| pairs.get_mut(i)) {
                    Some((_, old)) if name == "setdefault" => return Ok(Some(old.clone())),
                    Some((_, old)) => *old = v.clone(),
                    None => pairs.push((key.clone(), v.clone())),
                }
                v.clone()
            }
            ("pop" | "Delete", [_, key, rest @ ..]) => match find(&pairs, key)? {
                Some(i) => pairs.remove(i).1,
                None => match rest.first() {
                    Some(v) => v.clone(),
                    None => return Err(Fault::invalid("a dict has no such key")),
                },
            },
            ("update", [_, Val::Dict(other)]) => {
                let Some(Cell::Dict(more)) = st.cell(*other) else {
                    return Err(Fault::invalid("no such dict"));
                };
                let more = more.clone();
                self.tick(more.len().saturating_mul(pairs.len() + more.len()) / 8)?;
                for (k, v) in more {
                    match find(&pairs, &k)?.and_then(|i| pairs.get_mut(i)) {
                        Some((_, old)) => *old = v,
                        None => pairs.push((k, v)),
                    }
                }
                Val::None
            }
            ("clear", [_]) => {
                pairs.clear();
                Val::None
            }
            _ => {
                let _ = kwargs;
                return Ok(None);
            }
        };
        if pairs.len() > MAX_LIST {
            return Err(Fault::Limit { what: "length of a dict".to_owned(), limit: MAX_LIST });
        }
        let mut more = 0;
        if let Some(Cell::Dict(slot)) = st.cell_mut(r) {
            more = pairs.len().saturating_sub(slot.len());
            *slot = pairs;
        }
        st.charge_values(2 * more);
        Ok(Some(value))
    }

    /// A dict of pairs of a key and a value; of those with equal keys the last counts.
    fn dict_of(&mut self, st: &mut State, items: &[Val]) -> Res<Val> {
        let mut pairs: Vec<(Val, Val)> = vec![];
        for item in items {
            let Some([key, value]) = st.items(item).and_then(|pair| <[Val; 2]>::try_from(pair).ok()) else {
                return Err(Fault::invalid("a dict of what are no pairs"));
            };
            self.tick(pairs.len() / 8)?;
            match find_key(&pairs, &key)?.and_then(|i| pairs.get_mut(i)) {
                Some((_, old)) => *old = value,
                None => pairs.push((key, value)),
            }
        }
        Ok(st.dict(pairs))
    }

    /// An operator on text.
    pub fn text_op(&mut self, st: &mut State, name: &str, value: &Val, args: &[Val]) -> Res<Option<Val>> {
        if let (Val::Str(s), Some(rest)) = (value, args.get(1..)) {
            let s = s.clone();
            self.tick(s.len() / 64)?;
            match (name, rest) {
                ("add", [Val::Str(other)]) => return text::bounded(format!("{s}{other}")).map(Some),
                ("eq", [Val::Str(other)]) => return Ok(Some(Val::Bool(s == *other))),
                ("ne", [Val::Str(other)]) => return Ok(Some(Val::Bool(s != *other))),
                ("__contains__", [Val::Str(part)]) => return Ok(Some(Val::Bool(s.contains(&**part)))),
                ("__getitem__", [index]) => return self.element(st, value, index).map(Some),
                ("mul", [Val::Int(n)]) => {
                    let times = usize::try_from(*n).unwrap_or(0);
                    if s.len().saturating_mul(times) > 1 << 20 {
                        return Err(Fault::Limit { what: "length of a text".to_owned(), limit: 1 << 20 });
                    }
                    return text::bounded(s.repeat(times)).map(Some);
                }
                ("slice", rest) => {
                    let (Some(start), Some(end)) = (bound(rest.first()), bound(rest.get(1))) else {
                        return Err(Fault::unsupported("a slice of text that shows at run time"));
                    };
                    let step = bound(rest.get(2)).flatten().unwrap_or(1);
                    return text::slice(&s, start, end, step).map(Some);
                }
                _ => {}
            }
            if let Some(found) = text::method(st, name, &s, rest)? {
                return Ok(Some(found));
            }
        }
        match (name, args) {
            ("add", [a, b]) if matches!((a, b), (Val::Message(..), _) | (_, Val::Message(..))) => {
                text::format(st, "{}{}", &[a.clone(), b.clone()]).map(Some)
            }
            ("add", [a, b]) => {
                let (x, y) = (self.traced(a)?.1, self.traced(b)?.1);
                let operands = [self.g.value(&x)?, self.g.value(&y)?];
                let found = self.g.add(Host::StringConcat {}, &operands)?;
                Ok(Some(Val::Num(Kind::Text, found)))
            }
            ("eq", [a, b]) => self.equal(st, a, b).map(Some),
            ("ne", [a, b]) => {
                let same = self.equal(st, a, b)?;
                self.op(st, "aten", "__not__", vec![same], vec![]).map(Some)
            }
            ("slice", [Val::Num(_, t), rest @ ..]) => {
                let (Some(start), Some(end), Some(None | Some(1))) =
                    (bound(rest.first()), bound(rest.get(1)), bound(rest.get(2)))
                else {
                    return Err(Fault::unsupported("a slice of text that shows at run time"));
                };
                let v = self.g.value(t)?;
                let found = self.g.add(Host::StringSlice { start, end }, &[v])?;
                Ok(Some(Val::Num(Kind::Text, found)))
            }
            // The equation of a sum stands before its tensors.
            ("__is__" | "__isnot__" | "einsum", _) => Ok(None),
            _ => Err(Fault::unsupported(format!("`{name}` of text that shows at run time"))),
        }
    }

    /// A list of run time as a value, from an input of the program.
    pub fn sequence_input(&mut self, st: &mut State, name: &str, kind: Kind) -> Res<Val> {
        let ty = Type::Sequence(Box::new(Type::fixed(kind.dtype(), &[])));
        let t = self.g.input(name, ty)?;
        Ok(Val::List(st.add(Cell::List(ListCell::Sequence(t, Some(kind))))))
    }
}

/// Where a dict has a key. Keys that show at run time may be equal to others, or not.
pub(crate) fn find_key(pairs: &[(Val, Val)], key: &Val) -> Res<Option<usize>> {
    if let Some(at) = pairs.iter().position(|(k, _)| same_key(k, key)) {
        return Ok(Some(at));
    }
    let is_traced = |v: &Val| matches!(v, Val::Num(..) | Val::Dim(_) | Val::Message(..));
    if !pairs.is_empty() && (is_traced(key) || pairs.iter().any(|(k, _)| is_traced(k))) {
        return Err(Fault::unsupported("a key of a dict that shows at run time"));
    }
    Ok(None)
}

/// Known numbers or texts in order.
fn sorted(mut items: Vec<Val>, reverse: bool) -> Res<Vec<Val>> {
    let comparable = |v: &Val| matches!(v, Val::Int(_) | Val::Float(_) | Val::Str(_) | Val::Bool(_));
    if !items.iter().all(comparable) {
        return Err(Fault::unsupported("sorting what shows at run time"));
    }
    items.sort_by(|a, b| match (a, b) {
        (Val::Int(x), Val::Int(y)) => x.cmp(y),
        (Val::Float(x), Val::Float(y)) => x.total_cmp(y),
        (Val::Str(x), Val::Str(y)) => x.cmp(y),
        (Val::Bool(x), Val::Bool(y)) => x.cmp(y),
        _ => std::cmp::Ordering::Equal,
    });
    if reverse {
        items.reverse();
    }
    Ok(items)
}
