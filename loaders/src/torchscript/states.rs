//! Attributes that methods change: they are states of the module.
//!
//! What a state holds has one of a few forms, found by following the entry points until no new one shows: a known number
//! (or `None`), an object of known parts, a number of run time, a tensor of a rank, a list or a dict of these, whose elements
//! are states each. Which combination of forms the states have is a state itself,
//! the mode; an entry point begins with a branch on it, so that in every mode forms are known and most conditions on states
//! are decided when the model is loaded.

use std::collections::BTreeMap;
use std::rc::Rc;

use kiln_ir::op::Object;
use kiln_ir::{Build, StateDecl, Tensor, Type};
use rustc_hash::FxHashMap;

use super::ast::Name;
use super::fault::{Fault, Res};
use super::frozen::{Frozen, Met};
use super::join::same_key;
use super::machine::Machine;
use super::scope::widened;
use super::value::{Cell, Kind, ListCell, Ref, State, Traced, Val};

/// Name of the state that says which forms the others have.
const MODE: &str = "mode";

/// Most modes.
const MAX_MODES: usize = 12;

/// Known values that a state may have before it becomes a number of run time.
const MAX_KNOWN: usize = 2;

/// What a state holds.
#[derive(Clone, Debug)]
pub(crate) enum Form {
    /// This.
    Known(Val),
    /// A number of run time.
    Number(Kind),
    /// A tensor; unknown dims where they differ.
    Tensor(Type),
    /// An object of known parts.
    Frozen(Rc<Frozen>),
    /// A list of so many elements.
    List(Vec<Form>),
    /// A dict with these keys.
    Dict(Vec<(Val, Form)>),
}

/// Pairs of containers, and whether they differ.
type Pairs = FxHashMap<(Ref, Ref), bool>;

/// Most elements of lists and dicts that are states, and how deep they may be nested.
const MAX_ELEMENTS: usize = 256;
const MAX_NESTING: usize = 4;

/// The longest key that is part of a state's name.
const MAX_KEY: usize = 64;

impl Form {
    /// The parts that are no containers, with the names of their states.
    fn leaves<'f>(&'f self, name: &str, out: &mut Vec<(String, &'f Form)>) {
        match self {
            Form::List(items) => {
                items.iter().enumerate().for_each(|(i, item)| item.leaves(&format!("{name}.{i}"), out));
            }
            Form::Dict(pairs) => {
                for (i, (key, item)) in pairs.iter().enumerate() {
                    let is_name = |text: &str| {
                        text.len() <= MAX_KEY
                            && text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                            && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
                    };
                    // Keys that are no names might be long, or be taken for the name of something else.
                    let key = match key {
                        Val::Str(text) if is_name(text) => text.to_string(),
                        Val::Int(n) => n.to_string(),
                        _ => i.to_string(),
                    };
                    item.leaves(&format!("{name}.{key}"), out);
                }
            }
            leaf => out.push((name.to_owned(), leaf)),
        }
    }

    /// Takes in the sizes of tensors of another form of this kind; tells whether that changes it.
    fn widen(&mut self, other: &Form) -> bool {
        match (self, other) {
            (Form::Tensor(a), Form::Tensor(b)) => {
                let Some(wide) = widened(a, b).filter(|wide| wide != a) else { return false };
                let wide = super::scope::any_size(&wide);
                let changed = wide != *a;
                *a = wide;
                changed
            }
            (Form::List(a), Form::List(b)) => {
                a.iter_mut().zip(b).fold(false, |changed, (a, b)| a.widen(b) || changed)
            }
            (Form::Dict(a), Form::Dict(b)) => {
                a.iter_mut().zip(b).fold(false, |changed, ((_, a), (_, b))| a.widen(b) || changed)
            }
            _ => false,
        }
    }
}

/// A state: an attribute of an object.
#[derive(Clone, Debug)]
struct Slot {
    object: Ref,
    attr: Name,
    name: String,
    /// Whether it may hold too many numbers to tell them apart.
    wide: bool,
    /// What it was in the archive.
    initial: Form,
    /// The tensors of its parts, as [`Form::leaves`] has them.
    values: Vec<Option<Tensor>>,
}

/// All states of a program.
#[derive(Default)]
pub(crate) struct States {
    /// The heap as the archive has it.
    pub origin: State,
    paths: FxHashMap<Ref, String>,
    slots: Vec<Slot>,
    modes: Vec<Vec<Form>>,
    /// Whether something new showed since the last round began.
    changed: bool,
}

impl States {
    /// Names an object of the archive.
    pub fn name_object(&mut self, r: Ref, path: &str) {
        self.paths.entry(r).or_insert_with(|| path.to_owned());
    }

    /// The name of an object of the archive.
    pub fn path(&self, r: Ref) -> Option<String> {
        self.paths.get(&r).cloned()
    }

    /// How many modes there are.
    pub fn modes(&self) -> usize {
        self.modes.len()
    }

    /// Whether something new has shown; asks once.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// What is known of states, to come back to.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot { slots: self.slots.clone(), modes: self.modes.clone(), changed: self.changed }
    }

    /// Comes back to what was known before.
    pub fn restore(&mut self, to: Snapshot) {
        (self.slots, self.modes, self.changed) = (to.slots, to.modes, to.changed);
    }

    fn has_dispatch(&self) -> bool {
        self.modes.len() > 1
    }
}

/// See [`States::snapshot`].
pub(crate) struct Snapshot {
    slots: Vec<Slot>,
    modes: Vec<Vec<Form>>,
    changed: bool,
}

/// Whether two forms are of one kind: known values equal, numbers of one kind, tensors of one dtype and rank.
fn same_form(a: &Form, b: &Form) -> bool {
    match (a, b) {
        (Form::Known(x), Form::Known(y)) => same_key(x, y),
        (Form::Number(x), Form::Number(y)) => x == y,
        (Form::Frozen(x), Form::Frozen(y)) => x.same(y),
        (Form::Tensor(Type::Tensor(x)), Form::Tensor(Type::Tensor(y))) => {
            let empty = |t: &kiln_ir::TensorType| t.shape.numel().as_known() == Some(0);
            x.dtype == y.dtype && x.shape.rank() == y.shape.rank() && empty(x) == empty(y)
        }
        (Form::List(x), Form::List(y)) => x.len() == y.len() && x.iter().zip(y).all(|(x, y)| same_form(x, y)),
        (Form::Dict(x), Form::Dict(y)) => {
            let same = |((k, x), (l, y)): (&(Val, Form), &(Val, Form))| same_key(k, l) && same_form(x, y);
            x.len() == y.len() && x.iter().zip(y).all(same)
        }
        _ => false,
    }
}

impl Machine<'_> {
    /// The form of an attribute's value, and the values of its parts for the graph.
    fn form(&mut self, st: &mut State, v: &Val, met: &mut Met) -> Res<(Form, Vec<Option<Traced>>)> {
        let mut parts = vec![];
        let form = self.form_of(st, v, (&mut parts, met), 0)?;
        Ok((form, parts))
    }

    fn form_of(
        &mut self,
        st: &mut State,
        v: &Val,
        (parts, met): (&mut Vec<Option<Traced>>, &mut Met),
        depth: usize,
    ) -> Res<Form> {
        let items = match v {
            Val::List(_) => st.items(v),
            Val::Dict(r) => match st.cell(*r) {
                Some(Cell::Dict(pairs)) => Some(pairs.iter().map(|(_, v)| v.clone()).collect()),
                _ => None,
            },
            _ => None,
        };
        let Some(items) = items else {
            let (form, part) = self.leaf(st, v, met)?;
            parts.push(part);
            return Ok(form);
        };
        if depth >= MAX_NESTING || parts.len().saturating_add(items.len()) > MAX_ELEMENTS {
            return Err(Fault::unsupported("an attribute that changes and holds so many values"));
        }
        if let Val::List(r) | Val::Dict(r) = v {
            self.single(st, *r, met)?;
        }
        let mut forms = vec![];
        for item in &items {
            forms.push(self.form_of(st, item, (parts, met), depth + 1)?);
        }
        let keys = match v {
            Val::Dict(r) => match st.cell(*r) {
                Some(Cell::Dict(pairs)) => pairs.iter().map(|(k, _)| k.clone()).collect(),
                _ => vec![],
            },
            _ => return Ok(Form::List(forms)),
        };
        Ok(Form::Dict(keys.into_iter().zip(forms).collect()))
    }

    /// Fails for a container that was met before, or that the archive's objects hold twice: each state would be another
    /// one from the next run on.
    fn single(&mut self, st: &State, r: Ref, met: &mut Met) -> Res<()> {
        let archived = self.states.origin.heap.len();
        self.tick(1)?;
        let mut is_single = met.enter(r);
        if r.index() < archived {
            self.tick(archived / 4)?;
            let is_it = |v: &Val| matches!(v, Val::List(other) | Val::Dict(other) if *other == r);
            is_single &= holders(st.heap.iter().take(archived).map(|cell| &**cell), &is_it) <= 1;
        }
        match is_single {
            true => Ok(()),
            false => Err(Fault::unsupported("a container that changes and is held under several names")),
        }
    }

    /// The form of what is no container.
    fn leaf(&mut self, st: &mut State, v: &Val, met: &mut Met) -> Res<(Form, Option<Traced>)> {
        Ok(match v {
            Val::Tensor(r) => {
                let t = self.read_tensor(st, *r)?;
                (Form::Tensor(super::scope::any_size(&self.g.ty(&t)?)), Some(t))
            }
            Val::Dim(_) => (Form::Number(Kind::Int), Some(self.traced(v)?.1)),
            Val::Num(kind, t) => (Form::Number(*kind), Some(t.clone())),
            Val::Float(_) => (Form::Number(Kind::Float), Some(self.traced(v)?.1)),
            Val::None | Val::Bool(_) | Val::Int(_) | Val::Str(_) | Val::Device(_) => {
                (Form::Known(v.clone()), None)
            }
            other => match self.freeze(st, other, met, 0)? {
                Some(frozen) => (Form::Frozen(frozen.into()), None),
                None => {
                    return Err(Fault::unsupported(format!(
                        "an attribute that changes and holds {}",
                        other.kind()
                    )));
                }
            },
        })
    }

    /// Enters the mode that the argument says: states get the values of run time.
    pub fn enter_mode(&mut self, st: &mut State, args: &[Val]) -> Res<Val> {
        let [Val::Int(mode)] = args else { return Err(Fault::invalid("no mode")) };
        let mode = usize::try_from(*mode).unwrap_or(usize::MAX);
        let forms = self.states.modes.get(mode).cloned().ok_or_else(|| Fault::invalid("no mode"))?;
        let slots = self.states.slots.clone();
        for (slot, form) in slots.iter().zip(forms) {
            let mut leaves = vec![];
            form.leaves(&slot.name, &mut leaves);
            let mut values = vec![];
            for (name, leaf) in leaves {
                values.push(self.read_state(st, name, leaf)?);
            }
            let value = assembled(st, &form, &mut values.into_iter());
            if let Some(Cell::Instance(_, attrs)) = st.cell_mut(slot.object) {
                attrs.insert(slot.attr.clone(), value);
            }
        }
        Ok(Val::None)
    }

    /// What a state has at the beginning of a run.
    fn read_state(&mut self, st: &mut State, name: String, form: &Form) -> Res<Val> {
        Ok(match form {
            Form::Known(v) => v.clone(),
            Form::Frozen(frozen) => frozen.thaw(st),
            Form::Number(kind) => {
                let ty = Type::fixed(kind.dtype(), &[]);
                Val::Num(*kind, self.g.add(Object::StateRead { name, ty }, &[])?)
            }
            Form::Tensor(ty) => {
                let fixed = ty.as_tensor().and_then(|t| Some((t.dtype, t.shape.as_fixed()?)));
                let t = match fixed {
                    Some((dtype, dims)) if dims.contains(&0) => {
                        let dims: Vec<usize> = dims.iter().filter_map(|&d| usize::try_from(d).ok()).collect();
                        Traced::Constant(Tensor::zeros(dtype, &dims)?)
                    }
                    _ => self.g.add(Object::StateRead { name, ty: ty.clone() }, &[])?,
                };
                st.tensor(t)
            }
            Form::List(_) | Form::Dict(_) => return Err(Fault::invalid("a state that is a container")),
        })
    }

    /// The mode of the run, as a value of run time.
    pub fn read_mode(&mut self) -> Res<Val> {
        if !self.states.has_dispatch() {
            return Ok(Val::Int(0));
        }
        let ty = Type::fixed(kiln_ir::DType::I64, &[]);
        Ok(Val::Num(Kind::Int, self.g.add(Object::StateRead { name: MODE.to_owned(), ty }, &[])?))
    }

    /// At the end of an entry point: finds attributes that have changed, and writes states.
    pub fn write_states(&mut self, st: &mut State) -> Res<()> {
        self.find_changed(st)?;
        if !self.states.slots.is_empty() {
            self.write_slots(st)?;
        }
        let result = st.result.take().unwrap_or(Val::None);
        st.result = Some(self.flattened(st, result)?);
        Ok(())
    }

    /// Makes attributes that differ from the archive's states.
    fn find_changed(&mut self, st: &mut State) -> Res<()> {
        let count = self.states.origin.heap.len();
        self.tick(count / 4)?;
        let (mut found, mut seen) = (vec![], Pairs::default());
        for i in 0..count {
            let r = Ref(u32::try_from(i).unwrap_or(u32::MAX));
            let (Some(Cell::Instance(_, before)), Some(Cell::Instance(_, after))) =
                (self.states.origin.cell(r), st.cell(r))
            else {
                continue;
            };
            for (attr, old) in before {
                let Some(new) = after.get(attr) else { continue };
                let is_slot = self.states.slots.iter().any(|s| s.object == r && s.attr == *attr);
                if !is_slot && self.differs(st, (old, new), 0, &mut seen) {
                    found.push((r, attr.clone(), old.clone()));
                }
            }
        }
        for (object, attr, old) in found {
            self.check_single_name(&old)?;
            self.add_slot(object, attr, &old)?;
        }
        self.check_strays(st)
    }

    /// Tensors of the archive, with what they hold.
    fn archived(&self) -> impl Iterator<Item = (Ref, &Traced)> {
        self.states.origin.heap.iter().enumerate().filter_map(|(i, cell)| match &**cell {
            Cell::Tensor(t) => Some((Ref(u32::try_from(i).unwrap_or(u32::MAX)), &t.value)),
            _ => None,
        })
    }

    /// Fails where a tensor of the archive changes that is no attribute: one in a container, or a constant.
    fn check_strays(&mut self, st: &State) -> Res<()> {
        self.tick(self.states.origin.heap.len() / 4)?;
        let mut held = rustc_hash::FxHashSet::default();
        for cell in &self.states.origin.heap {
            if let Cell::Instance(_, attrs) = &**cell {
                attrs.values().for_each(|v| self.tensors_of(v, 0, &mut held));
            }
        }
        let is_stray = |(r, value): (Ref, &Traced)| {
            !held.contains(&r) && matches!(st.cell(r), Some(Cell::Tensor(t)) if t.value != *value)
        };
        match self.archived().any(is_stray) {
            true => Err(Fault::unsupported("a change in place of a tensor that is no attribute by itself")),
            false => Ok(()),
        }
    }

    /// Tensors of the archive that are an attribute, or elements of one that is a list or a dict; with the containers, each
    /// of which is looked through once.
    fn tensors_of(&self, v: &Val, depth: usize, out: &mut rustc_hash::FxHashSet<Ref>) {
        if depth > MAX_NESTING {
            return;
        }
        if let Val::Tensor(r) | Val::List(r) | Val::Dict(r) = v
            && !out.insert(*r)
        {
            return;
        }
        let items: Vec<&Val> = match v {
            Val::List(r) => match self.states.origin.cell(*r) {
                Some(Cell::List(ListCell::Items(items))) => items.iter().collect(),
                _ => return,
            },
            Val::Dict(r) => match self.states.origin.cell(*r) {
                Some(Cell::Dict(pairs)) => pairs.iter().map(|(_, v)| v).collect(),
                _ => return,
            },
            _ => return,
        };
        items.into_iter().for_each(|item| self.tensors_of(item, depth + 1, out));
    }

    /// Fails where a tensor that changes is another attribute as well, or shares elements with another tensor; of lists
    /// and dicts also where they are held twice.
    fn check_single_name(&mut self, old: &Val) -> Res<()> {
        let container = match old {
            Val::List(r) | Val::Dict(r) => Some(*r),
            _ => None,
        };
        if let Some(r) = container {
            let is_it = |v: &Val| matches!(v, Val::List(other) | Val::Dict(other) if *other == r);
            if holders(self.states.origin.heap.iter().map(|cell| &**cell), &is_it) > 1 {
                return Err(Fault::unsupported("a container that changes and is held under several names"));
            }
            let mut tensors = rustc_hash::FxHashSet::default();
            self.tensors_of(old, 0, &mut tensors);
            self.tick(tensors.len().saturating_mul(self.states.origin.heap.len()) / 4)?;
            return tensors.into_iter().try_for_each(|r| self.check_single_name(&Val::Tensor(r)));
        }
        let Val::Tensor(r) = old else { return Ok(()) };
        let Some(Cell::Tensor(cell)) = self.states.origin.cell(*r) else { return Ok(()) };
        let Traced::Constant(own) = &cell.value else { return Ok(()) };
        let range = |t: &Tensor| {
            let start = t.bytes().as_ptr().addr();
            start..start + t.bytes().len()
        };
        if own.dtype() == kiln_ir::DType::String || own.bytes().is_empty() {
            return Ok(());
        }
        let own = range(own);
        let overlaps = |(other, value): (Ref, &Traced)| match value {
            Traced::Constant(t) if other != *r && t.dtype() != kiln_ir::DType::String => {
                let other = range(t);
                other.start < own.end && own.start < other.end
            }
            _ => false,
        };
        let is_it = |v: &Val| matches!(v, Val::Tensor(other) if other == r);
        if holders(self.states.origin.heap.iter().map(|cell| &**cell), &is_it) > 1
            || self.archived().any(overlaps)
        {
            return Err(Fault::unsupported("a tensor that changes and is held under several names"));
        }
        Ok(())
    }

    /// Whether an attribute holds something else than in the archive. Containers that were compared before are not compared
    /// again: if they differ, that is known.
    fn differs(&self, st: &State, (old, new): (&Val, &Val), depth: usize, seen: &mut Pairs) -> bool {
        if let (Val::List(a), Val::List(b)) | (Val::Dict(a), Val::Dict(b)) = (old, new)
            && let Some(known) = seen.get(&(*a, *b))
        {
            return *known;
        }
        let differs = self.parts_differ(st, (old, new), depth, seen);
        if let (Val::List(a), Val::List(b)) | (Val::Dict(a), Val::Dict(b)) = (old, new) {
            seen.insert((*a, *b), differs);
        }
        differs
    }

    fn parts_differ(&self, st: &State, (old, new): (&Val, &Val), depth: usize, seen: &mut Pairs) -> bool {
        match (old, new) {
            (Val::Tensor(a), Val::Tensor(b)) => match (self.states.origin.cell(*a), st.cell(*b)) {
                (Some(Cell::Tensor(x)), Some(Cell::Tensor(y))) => x.value != y.value,
                _ => true,
            },
            // Another list with the same elements is no change: an attribute may be made anew in each run.
            (Val::List(a), Val::List(b)) => {
                let (old, new) = (self.states.origin.items(&Val::List(*a)), st.items(&Val::List(*b)));
                match (old, new) {
                    (Some(x), Some(y)) => {
                        depth > 8
                            || x.len() != y.len()
                            || x.iter().zip(&y).any(|(x, y)| self.differs(st, (x, y), depth + 1, seen))
                    }
                    _ => !matches!((self.states.origin.heap.get(a.index()), st.heap.get(b.index())),
                        (Some(x), Some(y)) if a == b && std::rc::Rc::ptr_eq(x, y)),
                }
            }
            (Val::Dict(a), Val::Dict(b)) => match (self.states.origin.cell(*a), st.cell(*b)) {
                (Some(Cell::Dict(x)), Some(Cell::Dict(y))) => {
                    a != b
                        || depth > 8
                        || x.len() != y.len()
                        || x.iter().zip(y).any(|((k, v), (l, w))| {
                            !same_key(k, l) || self.differs(st, (v, w), depth + 1, seen)
                        })
                }
                _ => true,
            },
            (Val::Instance(a), Val::Instance(b)) => a != b,
            (Val::Tuple(a, _), Val::Tuple(b, _)) => {
                depth > 8
                    || a.len() != b.len()
                    || a.iter().zip(b.iter()).any(|(x, y)| self.differs(st, (x, y), depth + 1, seen))
            }
            (Val::Opaque(a), Val::Opaque(b)) => a != b,
            (a, b) => !same_key(a, b),
        }
    }

    fn add_slot(&mut self, object: Ref, attr: Name, old: &Val) -> Res<()> {
        let mut origin = self.states.origin.clone();
        let (initial, traced) = self.form(&mut origin, old, &mut Met::default())?;
        let constant = |part| match part {
            Some(Traced::Constant(t)) => Some(t),
            _ => None,
        };
        let values = traced.into_iter().map(constant).collect();
        let path = self.states.path(object).unwrap_or_default();
        let mut name = if path.is_empty() { attr.to_string() } else { format!("{path}.{attr}") };
        while name == MODE || self.states.slots.iter().any(|s| s.name == name) {
            name.push('_');
        }
        self.states.slots.push(Slot { object, attr, name, wide: false, initial, values });
        // Forms of what was no state before are not known: all modes are found again.
        let first = self.states.slots.iter().map(|s| s.initial.clone()).collect();
        self.states.modes = vec![first];
        self.widen_modes();
        self.states.changed = true;
        Ok(())
    }

    /// Replaces known numbers of wide states by numbers of run time.
    fn widen_modes(&mut self) {
        let slots = &self.states.slots;
        for mode in &mut self.states.modes {
            for (slot, form) in slots.iter().zip(mode.iter_mut()) {
                if slot.wide
                    && let Form::Known(v) = form
                    && let Some(kind) = kind_of(v)
                {
                    *form = Form::Number(kind);
                }
            }
        }
    }

    fn write_slots(&mut self, st: &mut State) -> Res<()> {
        let slots = self.states.slots.clone();
        let mut forms = vec![];
        let mut values = vec![];
        let mut met = Met::default();
        for slot in &slots {
            let Some(Cell::Instance(_, attrs)) = st.cell(slot.object) else { continue };
            let value = attrs.get(&slot.attr).cloned().unwrap_or(Val::None);
            let (mut form, mut traced) = self.form(st, &value, &mut met)?;
            if slot.wide
                && let Form::Known(v) = &form
                && let Some(kind) = kind_of(v)
            {
                traced = vec![Some(self.traced(v)?.1)];
                form = Form::Number(kind);
            }
            let mut leaves = vec![];
            form.leaves(&slot.name, &mut leaves);
            values.extend(leaves.into_iter().map(|(name, _)| name).zip(traced));
            forms.push(form);
        }
        let Some(mode) = self.mode_of(&forms)? else { return Ok(()) };
        for (name, traced) in values {
            let Some(t) = traced else { continue };
            let v = self.g.value(&t)?;
            self.g.try_build(|b| b.add(Object::StateAssign { name }.into(), &[v]))?;
        }
        if self.states.has_dispatch() {
            let mode = i64::try_from(mode).unwrap_or(0);
            let v = self.g.try_build(|b| b.constant(Tensor::scalar(mode)))?;
            self.g.try_build(|b| b.add(Object::StateAssign { name: MODE.to_owned() }.into(), &[v]))?;
        }
        Ok(())
    }

    /// The mode of these forms; `None` if it is new, or was narrower.
    fn mode_of(&mut self, forms: &[Form]) -> Res<Option<usize>> {
        let at =
            self.states.modes.iter().position(|mode| mode.iter().zip(forms).all(|(a, b)| same_form(a, b)));
        if let Some(at) = at {
            let mut changed = false;
            if let Some(mode) = self.states.modes.get_mut(at) {
                for (have, form) in mode.iter_mut().zip(forms) {
                    changed |= have.widen(form);
                }
            }
            self.states.changed |= changed;
            return Ok(Some(at));
        }
        self.states.changed = true;
        self.states.modes.push(forms.to_vec());
        // A state of many known values holds a number of run time.
        for i in 0..self.states.slots.len() {
            let known: Vec<&Val> = self
                .states
                .modes
                .iter()
                .filter_map(|mode| match mode.get(i) {
                    Some(Form::Known(v)) if kind_of(v).is_some() => Some(v),
                    _ => None,
                })
                .collect();
            let mut distinct: Vec<&Val> = vec![];
            for v in &known {
                if !distinct.iter().any(|d| same_key(d, v)) {
                    distinct.push(v);
                }
            }
            let numbers = self.states.modes.iter().any(|m| matches!(m.get(i), Some(Form::Number(_))));
            let too_many = distinct.len() > MAX_KNOWN || (numbers && distinct.len() > 1);
            if too_many && let Some(slot) = self.states.slots.get_mut(i) {
                slot.wide = true;
            }
        }
        self.widen_modes();
        let mut kept: Vec<Vec<Form>> = vec![];
        for mode in std::mem::take(&mut self.states.modes) {
            if !kept.iter().any(|m| m.iter().zip(&mode).all(|(a, b)| same_form(a, b))) {
                kept.push(mode);
            }
        }
        self.states.modes = kept;
        if self.states.modes.len() > MAX_MODES {
            return Err(Fault::unsupported("the attributes that change hold too many kinds of values"));
        }
        Ok(None)
    }

    /// Declares the states of the module.
    pub fn declare_states(&mut self) -> Res<()> {
        let slots = self.states.slots.clone();
        let modes = self.states.modes.clone();
        for (i, slot) in slots.iter().enumerate() {
            let mut forms: BTreeMap<String, Vec<&Form>> = BTreeMap::new();
            for form in modes.iter().filter_map(|m| m.get(i)) {
                let mut leaves = vec![];
                form.leaves(&slot.name, &mut leaves);
                for (name, leaf) in leaves {
                    forms.entry(name).or_default().push(leaf);
                }
            }
            let mut leaves = vec![];
            slot.initial.leaves(&slot.name, &mut leaves);
            for (name, forms) in forms {
                let first = leaves.iter().position(|(own, _)| *own == name);
                let initial = first.and_then(|at| Some((leaves.get(at)?.1, slot.values.get(at)?.as_ref())));
                self.declare_state(&slot.attr, name, &forms, initial)?;
            }
        }
        if self.states.has_dispatch() {
            self.g.module.add_state(StateDecl { name: MODE.to_owned(), init: Tensor::scalar(0i64) });
        }
        Ok(())
    }

    /// Declares one state, unless it is known in every mode.
    fn declare_state(
        &mut self,
        attr: &str,
        name: String,
        forms: &[&Form],
        initial: Option<(&Form, Option<&Tensor>)>,
    ) -> Res<()> {
        let mut dtype = None;
        for form in forms {
            let own = match form {
                Form::Number(kind) => kind.dtype(),
                Form::Tensor(ty) => match ty.as_tensor() {
                    Some(t) => t.dtype,
                    None => return Err(Fault::invalid("a state is no tensor")),
                },
                Form::Known(_) | Form::Frozen(_) | Form::List(_) | Form::Dict(_) => continue,
            };
            if dtype.is_some_and(|dtype| dtype != own) {
                return Err(Fault::unsupported(format!("the attribute `{attr}` changes its dtype")));
            }
            dtype = Some(own);
        }
        let Some(dtype) = dtype else { return Ok(()) };
        let init = match initial {
            Some((_, Some(t))) if t.dtype() == dtype => t.clone(),
            Some((Form::Known(v), _)) => match self.traced(v) {
                Ok((_, Traced::Constant(t))) if t.dtype() == dtype => t,
                _ => Tensor::zeros(dtype, &[0])?,
            },
            _ => Tensor::zeros(dtype, &[0])?,
        };
        self.g.module.add_state(StateDecl { name, init });
        Ok(())
    }

    /// Begins the search for modes.
    pub fn begin_modes(&mut self) {
        if self.states.modes.is_empty() {
            self.states.modes = vec![vec![]];
        }
    }

    /// The attributes of an object, by name.
    pub fn attributes_of(&self, st: &State, r: Ref) -> Option<(Name, BTreeMap<Name, Val>)> {
        match st.cell(r) {
            Some(Cell::Instance(class, attrs)) => Some((class.clone(), attrs.clone())),
            _ => None,
        }
    }
}

/// The value of a form, of the values of its parts.
fn assembled(st: &mut State, form: &Form, parts: &mut impl Iterator<Item = Val>) -> Val {
    match form {
        Form::List(items) => {
            let items: Vec<Val> = items.iter().map(|item| assembled(st, item, parts)).collect();
            st.list(items)
        }
        Form::Dict(pairs) => {
            let pairs: Vec<(Val, Val)> =
                pairs.iter().map(|(key, item)| (key.clone(), assembled(st, item, parts))).collect();
            st.dict(pairs)
        }
        _ => parts.next().unwrap_or(Val::None),
    }
}

/// How many attributes and elements a test holds of.
fn holders<'c>(cells: impl Iterator<Item = &'c Cell>, is_it: &dyn Fn(&Val) -> bool) -> usize {
    let of = |cell: &Cell| match cell {
        Cell::Instance(_, attrs) => attrs.values().filter(|v| is_it(v)).count(),
        Cell::List(ListCell::Items(items)) => items.iter().filter(|v| is_it(v)).count(),
        Cell::Dict(pairs) => pairs.iter().filter(|(_, v)| is_it(v)).count(),
        _ => 0,
    };
    cells.map(of).sum()
}

/// The kind of a known number.
fn kind_of(v: &Val) -> Option<Kind> {
    match v {
        Val::Bool(_) => Some(Kind::Bool),
        Val::Int(_) => Some(Kind::Int),
        Val::Float(_) => Some(Kind::Float),
        _ => None,
    }
}
