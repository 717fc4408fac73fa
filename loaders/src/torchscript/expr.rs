//! Expressions: values of the program from its text.

use std::rc::Rc;

use kiln_ir::Dim;

use super::ast::{Call, Expr, Name};
use super::containers::find_key;
use super::fault::{Fault, Res};
use super::machine::{Machine, Truth};
use super::normalize::has_call;
use super::program::{Item, is_optional};
use super::value::{Cell, Kind, ListCell, State, Val, int_of};

impl Machine<'_> {
    /// The value of an expression.
    pub fn eval(&mut self, st: &mut State, e: &Expr) -> Res<Val> {
        self.tick(1)?;
        Ok(match e {
            Expr::Name(name) => self.variable(st, name)?,
            Expr::Attr(value, name) => match e.root() {
                Some(root @ ("CONSTANTS" | "__torch__" | "torch")) if e.path().is_some() => {
                    self.path(e, root)?
                }
                _ => {
                    let value = self.eval(st, value)?;
                    self.attribute(st, &value, name)?
                }
            },
            Expr::Call(call) => self.call(st, call)?,
            Expr::Index(value, index) => {
                let value = self.eval(st, value)?;
                let index = self.eval(st, index)?;
                self.element(st, &value, &index)?
            }
            Expr::Slice(value, parts) => self.slice(st, value, parts.as_slice())?,
            Expr::Int(n) => Val::Int(*n),
            Expr::Float(x) => Val::Float(*x),
            Expr::Imaginary(x) => Val::Complex(0.0, *x),
            Expr::Str(text) => Val::Str(text.clone()),
            Expr::Bool(b) => Val::Bool(*b),
            Expr::None => Val::None,
            Expr::List(items) => {
                let items = items.iter().map(|i| self.eval(st, i)).collect::<Res<Vec<Val>>>()?;
                st.list(items)
            }
            Expr::Tuple(items) => {
                let items = items.iter().map(|i| self.eval(st, i)).collect::<Res<Vec<Val>>>()?;
                self.check_nesting(&items)?;
                st.charge_values(items.len());
                Val::tuple(items)
            }
            Expr::Dict(pairs) => {
                let mut out: Vec<(Val, Val)> = vec![];
                for (key, value) in pairs.iter() {
                    let key = self.eval(st, key)?;
                    let value = self.eval(st, value)?;
                    self.tick(out.len() / 8)?;
                    match find_key(&out, &key)?.and_then(|i| out.get_mut(i)) {
                        Some((_, old)) => *old = value,
                        None => out.push((key, value)),
                    }
                }
                st.dict(out)
            }
            Expr::Ternary(parts) => {
                let [condition, a, b] = &**parts;
                self.choice(st, condition, a, b)?
            }
            Expr::Logic { and, operands } => {
                let [a, b] = &**operands;
                let (yes, no) = (Expr::Bool(true), Expr::Bool(false));
                if *and { self.choice(st, a, b, &no)? } else { self.choice(st, a, &yes, b)? }
            }
            Expr::Operator(name, operands) => {
                let args = operands.iter().map(|o| self.eval(st, o)).collect::<Res<Vec<Val>>>()?;
                self.op(st, "aten", name, args, vec![])?
            }
        })
    }

    /// A part of a list, text or tensor.
    fn slice(&mut self, st: &mut State, value: &Expr, parts: &[Option<Expr>]) -> Res<Val> {
        let value = self.eval(st, value)?;
        let mut args = vec![value.clone()];
        if matches!(value, Val::Tensor(_)) {
            args.push(Val::Int(0));
        }
        for part in parts.iter() {
            args.push(match part {
                Some(part) => self.eval(st, part)?,
                None => Val::None,
            });
        }
        if matches!(args.last(), Some(Val::None)) {
            args.pop();
            args.push(Val::Int(1));
        }
        self.op(st, "aten", "slice", args, vec![])
    }

    /// `a` or `b`, of which only one is evaluated if the condition is known.
    fn choice(&mut self, st: &mut State, condition: &Expr, a: &Expr, b: &Expr) -> Res<Val> {
        if has_call(a) || has_call(b) {
            return Err(Fault::unsupported("a call inside of a conditional expression"));
        }
        let truth = self.eval(st, condition)?;
        match self.truth(st, &truth)? {
            Truth::Known(true) => self.eval(st, a),
            Truth::Known(false) => self.eval(st, b),
            Truth::Traced(t) => {
                let (a, b) = (self.eval(st, a)?, self.eval(st, b)?);
                let ((kind, x), (other, y)) = (self.traced(&a)?, self.traced(&b)?);
                if kind != other {
                    return Err(Fault::unsupported("a conditional expression of two kinds"));
                }
                let operands = [self.g.value(&t)?, self.g.value(&x)?, self.g.value(&y)?];
                let found = self.g.add(kiln_ir::Op::ew("where"), &operands)?;
                Ok(self.number_of(kind, found))
            }
        }
    }

    /// A variable of the innermost call.
    fn variable(&mut self, st: &State, name: &Name) -> Res<Val> {
        match st.frames.last().and_then(|f| f.env.get(name)) {
            Some(value) => Ok(value.clone()),
            // Types stand where values do, as in `isinstance`.
            None => Err(Fault::invalid(format!("nothing defines `{name:.100}`"))),
        }
    }

    /// A constant, a function, a member of an enumeration.
    fn path(&mut self, e: &Expr, root: &str) -> Res<Val> {
        let path = e.path().unwrap_or_default();
        if root == "CONSTANTS" {
            let number = path.strip_prefix("CONSTANTS.c").and_then(|n| n.parse::<usize>().ok());
            let value = number.and_then(|n| self.constants.get(n)).cloned();
            return value.ok_or_else(|| Fault::invalid(format!("there is no constant `{path:.100}`")));
        }
        if let Some(Item::Function(f)) = self.program.item(&path)? {
            return Ok(Val::Function(f));
        }
        if let Some((class, member)) = path.rsplit_once('.')
            && let Some(Item::Class(found)) = self.program.item(class)?
            && found.is_a("Enum")
        {
            let value =
                found.attributes().find(|(name, _, _)| *name == member).and_then(|(_, _, value)| value);
            let value = value.and_then(literal);
            let value = value.ok_or_else(|| Fault::unsupported(format!("the member `{path:.200}`")))?;
            return Ok(Val::Member(class.into(), member.into(), Rc::new(value)));
        }
        Err(Fault::invalid(format!("`{path:.200}` is not defined")))
    }

    /// An attribute of an object.
    pub fn attribute(&mut self, st: &mut State, value: &Val, name: &str) -> Res<Val> {
        match value {
            Val::Instance(r) => {
                let Some(Cell::Instance(class, attrs)) = st.cell(*r) else {
                    return Err(Fault::invalid("there is no such object"));
                };
                if let Some(value) = attrs.get(name) {
                    return Ok(value.clone());
                }
                // Constants of a class stand in its body.
                let class = self.program.class(&class.clone())?;
                let constant = class.attributes().find(|(n, _, v)| *n == name && v.is_some());
                match constant.and_then(|(_, _, value)| value).cloned() {
                    Some(e) => self.eval(st, &e),
                    None => Err(Fault::invalid(format!("`{}` has no attribute `{name:.100}`", class.name))),
                }
            }
            Val::Tuple(items, Some(class)) => {
                let class = self.program.class(class)?;
                let at = class.attributes().position(|(n, _, _)| n == name);
                let item = at.and_then(|i| items.get(i)).cloned();
                item.ok_or_else(|| Fault::invalid(format!("`{}` has no field `{name:.100}`", class.name)))
            }
            Val::Member(_, member, inner) => match name {
                "name" => Ok(Val::Str(member.clone())),
                "value" => Ok((**inner).clone()),
                _ => Err(Fault::invalid(format!("a member has no `{name:.100}`"))),
            },
            Val::Tensor(_) | Val::Device(_) => self.op(st, "prim", name, vec![value.clone()], vec![]),
            other => Err(Fault::invalid(format!("{} has no attribute `{name:.100}`", other.kind()))),
        }
    }

    /// A call that does not enter the program.
    fn call(&mut self, st: &mut State, call: &Call) -> Res<Val> {
        let path = call.callee.path();
        let path = path.as_deref().ok_or_else(|| Fault::unsupported("a call of a computed function"))?;
        if let Some(class) = path.strip_suffix(".__new__") {
            self.program.class(class)?;
            return Ok(Val::Instance(st.add(Cell::Instance(class.into(), Default::default()))));
        }
        if let Some(value) = self.special(st, path, call)? {
            return Ok(value);
        }
        if super::normalize::enters(call) {
            return Err(Fault::unsupported("a call inside of a conditional expression"));
        }
        let args = call.args.iter().map(|a| self.eval(st, a)).collect::<Res<Vec<Val>>>()?;
        let mut kwargs = vec![];
        for (name, value) in &call.kwargs {
            kwargs.push((name.clone(), self.eval(st, value)?));
        }
        let (namespace, name) = match path.split_once('.') {
            Some(("torch", name)) => ("aten", name),
            Some(("ops", rest)) => rest.split_once('.').unwrap_or(("aten", rest)),
            _ => ("builtin", path),
        };
        self.op(st, namespace, name, args, kwargs)
    }

    /// Forms whose arguments are no values.
    fn special(&mut self, st: &mut State, path: &str, call: &Call) -> Res<Option<Val>> {
        Ok(Some(match (path, &*call.args) {
            ("annotate" | "unchecked_cast", [ty, value]) => {
                let value = self.eval(st, value)?;
                match (&value, number(ty)) {
                    // What was traced keeps numbers in tensors, and tensors become numbers where the program asks for these.
                    (Val::Tensor(r), Some(kind)) => {
                        let t = self.read_tensor(st, *r)?;
                        self.item(&t, kind)?
                    }
                    _ => annotated(ty, value)?,
                }
            }
            ("uninitialized", [_]) => Val::Uninitialized,
            ("isinstance", [value, ty]) => {
                let value = self.eval(st, value)?;
                match self.is_instance(st, &value, ty) {
                    Some(is) => Val::Bool(is),
                    None => return Err(Fault::unsupported("an `isinstance` that shows at run time")),
                }
            }
            ("getattr", [value, name]) => {
                let value = self.eval(st, value)?;
                let name = name.as_str().ok_or_else(|| Fault::invalid("`getattr` without a name"))?;
                self.attribute(st, &value, name)?
            }
            ("hasattr", [value, name]) => {
                let value = self.eval(st, value)?;
                let name = name.as_str().ok_or_else(|| Fault::invalid("`hasattr` without a name"))?;
                Val::Bool(self.attribute(st, &value, name).is_ok())
            }
            _ => return Ok(None),
        }))
    }

    /// Whether a value is of a type; `None` if that is not known.
    fn is_instance(&mut self, st: &State, value: &Val, ty: &Expr) -> Option<bool> {
        let is = |kinds: &[&str], name: &str| kinds.contains(&name);
        match ty {
            Expr::Tuple(types) | Expr::List(types) => {
                let mut unsure = false;
                for ty in types.iter() {
                    match self.is_instance(st, value, ty) {
                        Some(true) => return Some(true),
                        Some(false) => {}
                        None => unsure = true,
                    }
                }
                (!unsure).then_some(false)
            }
            Expr::None => Some(matches!(value, Val::None)),
            Expr::Name(name) => Some(match value {
                Val::None => is(&["NoneType", "None", "Any"], name),
                Val::Bool(_) | Val::Num(Kind::Bool, _) => is(&["bool", "Any"], name),
                Val::Int(_) | Val::Dim(_) | Val::Num(Kind::Int, _) => is(&["int", "number", "Any"], name),
                Val::Float(_) | Val::Num(Kind::Float, _) => is(&["float", "number", "Any"], name),
                Val::Complex(..) => is(&["complex", "number", "Any"], name),
                Val::Str(_) | Val::Num(Kind::Text, _) | Val::Message(..) => is(&["str", "Any"], name),
                Val::Tensor(_) => is(&["Tensor", "Any"], name),
                Val::List(_) => is(&["list", "List", "Any"], name),
                Val::Dict(_) => is(&["dict", "Dict", "Any"], name),
                Val::Tuple(..) => is(&["tuple", "Tuple", "Any"], name),
                Val::Device(_) => is(&["Device", "Any"], name),
                Val::Uninitialized => return None,
                _ => &**name == "Any",
            }),
            Expr::Attr(..) => {
                let path = ty.path()?;
                Some(match value {
                    Val::Instance(r) => match st.cell(*r) {
                        Some(Cell::Instance(class, _)) => **class == *path,
                        _ => false,
                    },
                    Val::Tuple(_, Some(class)) | Val::Member(class, _, _) => **class == *path,
                    _ => false,
                })
            }
            Expr::Index(head, inner) => self.is_generic(st, value, head, inner),
            _ => None,
        }
    }

    fn is_generic(&mut self, st: &State, value: &Val, head: &Expr, inner: &Expr) -> Option<bool> {
        let Expr::Name(head) = head else { return None };
        match (&**head, value) {
            ("Optional", Val::None) => Some(true),
            ("Optional", _) => self.is_instance(st, value, inner),
            ("Union", _) => self.is_instance(st, value, inner),
            ("Final", _) => self.is_instance(st, value, inner),
            ("List", Val::List(r)) => match st.cell(*r)? {
                Cell::List(ListCell::Items(items)) => {
                    let items = items.clone();
                    let all: Option<Vec<bool>> =
                        items.iter().map(|i| self.is_instance(st, i, inner)).collect();
                    Some(all?.into_iter().all(|b| b))
                }
                _ => None,
            },
            ("Dict", Val::Dict(r)) => match (st.cell(*r)?, inner) {
                (Cell::Dict(pairs), Expr::Tuple(types)) => {
                    let [key, value] = &**types else { return None };
                    let pairs = pairs.clone();
                    let mut all = Some(true);
                    for (k, v) in &pairs {
                        let is = self.is_instance(st, k, key).zip(self.is_instance(st, v, value));
                        all = all.zip(is).map(|(all, (k, v))| all && k && v);
                    }
                    // Of an empty one, the type does not show.
                    all.filter(|_| !pairs.is_empty())
                }
                _ => None,
            },
            ("Tuple", Val::Tuple(items, _)) => {
                let types: &[Expr] = match inner {
                    Expr::Tuple(types) => types,
                    one => std::slice::from_ref(one),
                };
                if types.len() != items.len() {
                    return Some(false);
                }
                let items = items.clone();
                let pairs = items.iter().zip(types);
                let all: Option<Vec<bool>> = pairs.map(|(i, ty)| self.is_instance(st, i, ty)).collect();
                Some(all?.into_iter().all(|b| b))
            }
            _ => Some(false),
        }
    }

    /// Assigns to a variable, an attribute or an element.
    pub fn assign(&mut self, st: &mut State, target: &Expr, value: Val) -> Res<()> {
        match target {
            Expr::Name(name) => {
                if let Some(frame) = st.frames.last_mut() {
                    Rc::make_mut(&mut frame.env).insert(name.clone(), value);
                }
                Ok(())
            }
            Expr::Attr(object, name) => {
                let object = self.eval(st, object)?;
                let Val::Instance(r) = object else {
                    return Err(Fault::invalid(format!("{} takes no attributes", object.kind())));
                };
                match st.cell_mut(r) {
                    Some(Cell::Instance(_, attrs)) => {
                        attrs.insert(name.clone(), value);
                        Ok(())
                    }
                    _ => Err(Fault::invalid("there is no such object")),
                }
            }
            Expr::Index(container, index) => {
                let container = self.eval(st, container)?;
                let index = self.eval(st, index)?;
                self.op(st, "aten", "_set_item", vec![container, index, value], vec![]).map(|_| ())
            }
            _ => Err(Fault::invalid("the left side of `=` is nothing to assign to")),
        }
    }

    /// Assigns the elements of a value.
    pub fn unpack(&mut self, st: &mut State, targets: &[Expr], value: &Val) -> Res<()> {
        let items = st.items(value);
        let items = items.ok_or_else(|| Fault::unsupported(format!("unpacking {}", value.kind())))?;
        if items.len() != targets.len() {
            return Err(Fault::invalid(format!(
                "{} values are unpacked to {} names",
                items.len(),
                targets.len()
            )));
        }
        for (target, item) in targets.iter().zip(items) {
            self.assign(st, target, item)?;
        }
        Ok(())
    }

    /// `del container[index]`.
    pub fn delete(&mut self, st: &mut State, target: &Expr) -> Res<()> {
        match target {
            Expr::Name(name) => {
                if let Some(frame) = st.frames.last_mut() {
                    Rc::make_mut(&mut frame.env).remove(name);
                }
                Ok(())
            }
            Expr::Index(container, index) => {
                let container = self.eval(st, container)?;
                let index = self.eval(st, index)?;
                self.op(st, "aten", "Delete", vec![container, index], vec![]).map(|_| ())
            }
            _ => Err(Fault::invalid("nothing to delete")),
        }
    }

    /// An integer of run time as a known one or a dim, where it is one.
    pub fn index(&mut self, st: &mut State, v: &Val) -> Res<Val> {
        Ok(match v {
            Val::Int(_) | Val::Dim(_) => v.clone(),
            Val::Bool(b) => Val::Int(i64::from(*b)),
            Val::Num(Kind::Int, t) => match self.g.known(t).and_then(|k| k.dims()) {
                Some(dims) => match <[Dim; 1]>::try_from(dims) {
                    Ok([dim]) => int_of(dim),
                    Err(_) => v.clone(),
                },
                None => v.clone(),
            },
            Val::Tensor(_) => {
                let number = self.op(st, "aten", "Int", vec![v.clone()], vec![])?;
                match number {
                    Val::Tensor(_) => return Err(Fault::invalid("a tensor where an integer is needed")),
                    other => other,
                }
            }
            other => return Err(Fault::invalid(format!("{} where an integer is needed", other.kind()))),
        })
    }
}

/// A value where a type is declared.
fn annotated(ty: &Expr, value: Val) -> Res<Val> {
    let is = |name: &str| matches!(ty, Expr::Name(n) if &**n == name);
    match &value {
        Val::Int(n) if is("float") => Ok(Val::Float(*n as f64)),
        Val::None if !is_optional(ty) && !is("Any") => {
            Err(Fault::invalid("`None` where the program has ruled it out"))
        }
        _ => Ok(value),
    }
}

/// If a type is that of numbers, their kind, unless it is any.
fn number(ty: &Expr) -> Option<Option<Kind>> {
    let Expr::Name(name) = ty else { return None };
    Some(match &**name {
        "number" => None,
        "int" => Some(Kind::Int),
        "float" => Some(Kind::Float),
        "bool" => Some(Kind::Bool),
        _ => return None,
    })
}

/// The value of a member of an enumeration.
pub(super) fn literal(e: &Expr) -> Option<Val> {
    match e {
        Expr::Int(n) => Some(Val::Int(*n)),
        Expr::Float(x) => Some(Val::Float(*x)),
        Expr::Str(s) => Some(Val::Str(s.clone())),
        _ => None,
    }
}
