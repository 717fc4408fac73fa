//! Entry points: a method as a graph. Arguments become inputs, results outputs.
//!
//! Types of the source have no shapes. They come from the caller, by the argument's name, or from the inputs that a traced
//! module was traced with. Parts of an argument are named with dots: `x.0`, `batch.mask`.

use std::rc::Rc;

use kiln_ir::{DType, Type};

use super::ast::{Call, Expr, Function, Name, Param, Stmt, StmtKind};
use super::fault::{Fault, Res};
use super::machine::{End, Flow, Machine, Stop};
use super::program::is_optional;
use super::value::{Cell, Env, Frame, Kept, Kind, ListCell, Ref, Running, State, Then, Val};
use crate::LoadOptions;

/// An object that an entry point gives.
pub(crate) struct Given {
    /// Its class.
    pub class: Name,
    /// Its attributes, and the types of their values.
    pub attrs: Vec<(Name, Type)>,
}

/// Deepest arguments and results.
const MAX_NESTING: usize = 16;

/// Most elements of an argument.
const MAX_ELEMENTS: usize = 1024;

/// Where shapes and values of an argument come from.
#[derive(Clone, Copy)]
struct Hints<'f> {
    options: &'f LoadOptions,
    /// A value like it.
    hint: Option<&'f Val>,
    depth: usize,
}

impl<'f> Hints<'f> {
    /// The same, for a part of it.
    fn within(self, hint: Option<&'f Val>) -> Self {
        Hints { hint, depth: self.depth + 1, ..self }
    }

    /// The parts of the argument that shapes are given for.
    fn parts(&self, name: &str) -> Vec<String> {
        let prefix = dotted(name, "");
        let keys = self.options.shapes.keys().filter_map(|k| k.strip_prefix(&prefix));
        keys.map(|rest| rest.split('.').next().unwrap_or_default().to_owned()).collect()
    }
}

fn name_expr(name: &str) -> Expr {
    Expr::Name(name.into())
}

fn call_expr(callee: Expr, args: Vec<Expr>) -> Expr {
    Expr::Call(Rc::new(Call { callee, args, kwargs: vec![] }))
}

/// The statements of an entry point: enters the mode of the run, calls the method and gives its result.
fn dispatch(mode: usize, modes: usize, method: &str, args: usize) -> Rc<[Stmt]> {
    let stmt = |kind| Stmt { kind, at: 0 };
    let number = Expr::Int(i64::try_from(mode).unwrap_or(0));
    let dollar = Expr::Attr(Box::new(Expr::Attr(Box::new(name_expr("ops")), "$".into())), "mode".into());
    let callee = Expr::Attr(Box::new(name_expr("$self")), method.into());
    let args_of = (0..args).map(|i| name_expr(&format!("$a{i}"))).collect();
    let body: Vec<Stmt> = vec![
        stmt(StmtKind::Expr(call_expr(dollar, vec![number.clone()]))),
        stmt(StmtKind::Assign {
            targets: [name_expr("$r")].into(),
            unpack: false,
            annotation: None,
            values: [call_expr(callee, args_of)].into(),
        }),
        stmt(StmtKind::Return(name_expr("$r"))),
    ];
    if mode + 1 >= modes {
        return body.into();
    }
    let condition = Expr::Operator("eq", [name_expr("$mode"), number].into());
    [stmt(StmtKind::If(condition, body.into(), dispatch(mode + 1, modes, method, args)))].into()
}

/// The name of a part.
fn dotted(name: &str, part: &str) -> String {
    format!("{name}.{part}")
}

impl Machine<'_> {
    /// Builds the graph of a method; `hints` are values like those that it takes. Gives the object that it results in, if
    /// it does.
    pub fn entry(
        &mut self,
        object: Ref,
        method: &Rc<Function>,
        options: &LoadOptions,
        hints: &[Val],
    ) -> Res<Option<Given>> {
        let mut st = self.states.origin.clone();
        self.g.open(&method.name)?;
        let mut env = Env::default();
        env.insert("$self".into(), Val::Instance(object));
        let mut count = 0;
        for param in method.params.iter().skip(1) {
            let v = self.argument(&mut st, param, options, hints.get(count))?;
            env.insert(format!("$a{count}").into(), v);
            count += 1;
        }
        let given = self.run_entry(&mut st, env, method, count)?;
        self.end_entry()?;
        Ok(given)
    }

    fn end_entry(&mut self) -> Res<()> {
        let closed = self.g.close()?;
        let id = self.g.keep(closed.graph);
        self.g.module.add_entry(id);
        Ok(())
    }

    fn run_entry(
        &mut self,
        st: &mut State,
        mut env: Env,
        method: &Function,
        count: usize,
    ) -> Res<Option<Given>> {
        env.insert("$mode".into(), self.read_mode()?);
        let body = dispatch(0, self.states.modes(), &method.name, count);
        let name: Name = "$entry".into();
        let (file, at) = (u32::MAX, 0);
        let function = Function { name, params: vec![], returns: None, body: body.clone(), file, at };
        let blocks = vec![Running { body, at: 0, kept: Kept::Plain }];
        let function = Rc::new(function);
        st.frames.push(Frame { function, env: Rc::new(env), blocks, then: Then::Result });
        match self.run(st, Stop { frames: 0, blocks: 0 }, End::Entry)? {
            Flow::Dead(message) => {
                return Err(Fault::Option(format!(
                    "`{}` always raises an exception: {message}",
                    method.name
                )));
            }
            Flow::Stopped => {}
        }
        self.outputs(st)
    }

    /// Adds the outputs of the current graph.
    fn outputs(&mut self, st: &mut State) -> Res<Option<Given>> {
        let result = st.result.take().unwrap_or(Val::None);
        let leaves = st.items(&result).unwrap_or_default();
        let mut given: Option<Given> = None;
        for leaf in leaves {
            let Val::Tuple(parts, _) = &leaf else { continue };
            let (Some(Val::Str(name)), Some(value), class) = (parts.first(), parts.get(1), parts.get(2))
            else {
                continue;
            };
            let t = match value {
                Val::Tensor(r) => self.read_tensor(st, *r)?,
                Val::List(r) => match st.cell(*r) {
                    Some(Cell::List(ListCell::Sequence(t, _))) => t.clone(),
                    _ => continue,
                },
                v => self.traced(v)?.1,
            };
            let v = self.g.value(&t)?;
            self.g.build(|b| b.output(name, v))?;
            if let Some(Val::Str(class)) = class {
                let attr: Name = name.rsplit('.').next().unwrap_or_default().into();
                let ty = self.g.ty(&t)?;
                let given = given.get_or_insert_with(|| Given { class: class.clone(), attrs: vec![] });
                given.attrs.push((attr, ty));
            }
        }
        Ok(given)
    }

    /// A result as a list of names and single values.
    pub fn flattened(&mut self, st: &mut State, result: Val) -> Res<Val> {
        let mut out = vec![];
        self.flatten(st, "output", &result, None, 0, &mut out)?;
        Ok(Val::tuple(out))
    }

    fn flatten(
        &mut self,
        st: &mut State,
        name: &str,
        v: &Val,
        class: Option<&Name>,
        depth: usize,
        out: &mut Vec<Val>,
    ) -> Res<()> {
        self.tick(1)?;
        if depth > MAX_NESTING {
            return Err(Fault::Limit { what: "nesting of the result".to_owned(), limit: MAX_NESTING });
        }
        let parts: Vec<(String, Val)> = match v {
            Val::None => return Ok(()),
            Val::Tuple(items, _) => {
                items.iter().enumerate().map(|(i, v)| (i.to_string(), v.clone())).collect()
            }
            Val::List(r) => match st.cell(*r) {
                Some(Cell::List(ListCell::Items(items))) => {
                    items.iter().enumerate().map(|(i, v)| (i.to_string(), v.clone())).collect()
                }
                _ => {
                    out.push(Val::tuple([Val::text(name), v.clone()]));
                    return Ok(());
                }
            },
            Val::Dict(r) => {
                let Some(Cell::Dict(pairs)) = st.cell(*r) else { return Err(Fault::invalid("no such dict")) };
                let key = |k: &Val| match k {
                    Val::Str(s) => s.to_string(),
                    Val::Int(n) => n.to_string(),
                    _ => "key".to_owned(),
                };
                pairs.iter().map(|(k, v)| (key(k), v.clone())).collect()
            }
            Val::Instance(r) => {
                let Some((class, attrs)) = self.attributes_of(st, *r) else { return Ok(()) };
                if r.index() < self.states.origin.heap.len() {
                    return Err(Fault::unsupported("a module as a result"));
                }
                let owner = if depth == 0 { Some(&class) } else { None };
                for (attr, v) in attrs {
                    self.flatten(st, &dotted(name, &attr), &v, owner, depth + 1, out)?;
                }
                return Ok(());
            }
            Val::Tensor(r) => {
                self.read_tensor(st, *r)?;
                let mut leaf = vec![Val::text(name), v.clone()];
                leaf.extend(class.map(|c| Val::Str(c.clone())));
                out.push(Val::tuple(leaf));
                return Ok(());
            }
            Val::Bool(_) | Val::Int(_) | Val::Float(_) | Val::Dim(_) | Val::Num(..) | Val::Str(_) => {
                let mut leaf = vec![Val::text(name), v.clone()];
                leaf.extend(class.map(|c| Val::Str(c.clone())));
                out.push(Val::tuple(leaf));
                return Ok(());
            }
            Val::Device(_) => return Ok(()),
            other => return Err(Fault::unsupported(format!("{} as a result", other.kind()))),
        };
        for (part, v) in parts {
            self.flatten(st, &dotted(name, &part), &v, None, depth + 1, out)?;
        }
        Ok(())
    }

    /// The value of a parameter.
    fn argument(&mut self, st: &mut State, p: &Param, options: &LoadOptions, hint: Option<&Val>) -> Res<Val> {
        let any = Expr::Name("Tensor".into());
        let ty = p.ty.as_ref().unwrap_or(&any);
        let given = options.arguments.contains_key(&*p.name)
            || options.shapes.keys().any(|k| **k == *p.name || k.starts_with(&dotted(&p.name, "")));
        if !given
            && hint.is_none()
            && let Some(default) = &p.default
        {
            return self.eval(st, default);
        }
        self.input_of(st, &p.name, ty, Hints { options, hint, depth: 0 })
    }

    /// Inputs of a type under a name.
    fn input_of(&mut self, st: &mut State, name: &str, ty: &Expr, from: Hints<'_>) -> Res<Val> {
        if from.depth > MAX_NESTING {
            return Err(Fault::Limit { what: "nesting of the arguments".to_owned(), limit: MAX_NESTING });
        }
        let (options, hint) = (from.options, from.hint);
        if let Some(text) = options.arguments.get(name) {
            return constant(name, ty, text);
        }
        match ty {
            Expr::Name(kind) => match &**kind {
                "Tensor" => self.tensor_input(st, name, options, hint),
                "int" => self.number_input(name, Kind::Int),
                "float" => self.number_input(name, Kind::Float),
                "bool" => self.number_input(name, Kind::Bool),
                "str" => self.number_input(name, Kind::Text),
                "NoneType" => Ok(Val::None),
                "Device" => Ok(Val::Device("cpu".into())),
                other => Err(Fault::unsupported(format!("the argument `{name}` of type `{other}`"))),
            },
            Expr::Index(head, inner) => {
                let Expr::Name(head) = &**head else {
                    return Err(Fault::unsupported(format!("the type of the argument `{name}`")));
                };
                self.generic_input(st, name, (head, inner), from)
            }
            Expr::Attr(..) => {
                let class = ty.path().unwrap_or_default();
                let found = self.program.class(&class)?;
                if !found.is_a("NamedTuple") {
                    return Err(Fault::unsupported(format!("the argument `{name}`, an object of `{class}`")));
                }
                let mut items = vec![];
                for (field, ty, _) in found.attributes() {
                    let ty = ty.ok_or_else(|| Fault::invalid(format!("`{class}.{field}` has no type")))?;
                    items.push(self.input_of(st, &dotted(name, field), ty, from.within(None))?);
                }
                Ok(Val::Tuple(items.into(), Some(class.into())))
            }
            _ => Err(Fault::unsupported(format!("the type of the argument `{name}`"))),
        }
    }

    fn generic_input(
        &mut self,
        st: &mut State,
        name: &str,
        (head, inner): (&str, &Expr),
        from: Hints<'_>,
    ) -> Res<Val> {
        match (head, inner) {
            ("Optional", inner) => {
                let given = from.options.shapes.contains_key(name) || !from.parts(name).is_empty();
                let given = given || from.hint.is_some();
                match given && !matches!(from.hint, Some(Val::None)) {
                    true => self.input_of(st, name, inner, from.within(from.hint)),
                    false => Ok(Val::None),
                }
            }
            ("Union", Expr::Tuple(types)) => match types.iter().find(|t| !is_optional(t)) {
                Some(ty) => self.input_of(st, name, ty, from.within(from.hint)),
                None => Ok(Val::None),
            },
            ("Tuple", inner) => {
                let types: &[Expr] = match inner {
                    Expr::Tuple(types) => types,
                    one => std::slice::from_ref(one),
                };
                let hints = from.hint.and_then(|h| st.items(h)).unwrap_or_default();
                let mut items = vec![];
                for (i, ty) in types.iter().enumerate() {
                    let part = dotted(name, &i.to_string());
                    items.push(self.input_of(st, &part, ty, from.within(hints.get(i)))?);
                }
                Ok(Val::tuple(items))
            }
            ("List", inner) => self.list_input(st, name, inner, from),
            ("Dict", Expr::Tuple(types)) => {
                let ty = types.get(1).cloned().unwrap_or(Expr::Name("Tensor".into()));
                self.dict_input(st, name, &ty, from)
            }
            _ => Err(Fault::unsupported(format!("the argument `{name}`, a `{head}`"))),
        }
    }

    /// A list: one of run time if it holds single values, else one input for each element.
    fn list_input(&mut self, st: &mut State, name: &str, inner: &Expr, from: Hints<'_>) -> Res<Val> {
        let parts = from.parts(name);
        let hints = from.hint.and_then(|h| st.items(h));
        if let Expr::Name(kind) = inner
            && parts.is_empty()
            && hints.is_none()
            && &**kind != "Tensor"
        {
            let kind = match &**kind {
                "int" => Kind::Int,
                "float" => Kind::Float,
                "bool" => Kind::Bool,
                "str" => Kind::Text,
                other => {
                    return Err(Fault::unsupported(format!("the argument `{name}`, a list of `{other}`")));
                }
            };
            return self.sequence_input(st, name, kind);
        }
        let numbers = parts.iter().filter_map(|p| p.parse::<usize>().ok()).max();
        let count = numbers.map(|n| n.saturating_add(1)).or(hints.as_ref().map(Vec::len));
        let count = count.ok_or_else(|| missing(&dotted(name, "0")))?;
        if count > MAX_ELEMENTS {
            return Err(Fault::Limit { what: format!("length of `{name}`"), limit: MAX_ELEMENTS });
        }
        let hints = hints.unwrap_or_default();
        let mut items = vec![];
        for i in 0..count {
            let part = dotted(name, &i.to_string());
            items.push(self.input_of(st, &part, inner, from.within(hints.get(i)))?);
        }
        Ok(st.list(items))
    }

    /// A dict: its keys are those that shapes are given for, or that it was traced with.
    fn dict_input(&mut self, st: &mut State, name: &str, ty: &Expr, from: Hints<'_>) -> Res<Val> {
        let mut keys: Vec<(String, Option<Val>)> = vec![];
        for key in from.parts(name) {
            if !keys.iter().any(|(k, _)| *k == key) {
                keys.push((key, None));
            }
        }
        if let Some(Val::Dict(r)) = from.hint
            && let Some(Cell::Dict(pairs)) = st.cell(*r)
        {
            for (key, value) in pairs {
                match key {
                    Val::Str(s) if !keys.iter().any(|(k, _)| **k == **s) => {
                        keys.push((s.to_string(), Some(value.clone())));
                    }
                    _ => {}
                }
            }
        }
        if keys.is_empty() {
            return Err(missing(&dotted(name, "KEY")));
        }
        let mut pairs = vec![];
        for (key, hint) in keys {
            let v = self.input_of(st, &dotted(name, &key), ty, from.within(hint.as_ref()))?;
            pairs.push((Val::text(key), v));
        }
        Ok(st.dict(pairs))
    }

    fn number_input(&mut self, name: &str, kind: Kind) -> Res<Val> {
        Ok(Val::Num(kind, self.g.input(name, Type::fixed(kind.dtype(), &[]))?))
    }

    fn tensor_input(
        &mut self,
        st: &mut State,
        name: &str,
        options: &LoadOptions,
        hint: Option<&Val>,
    ) -> Res<Val> {
        let traced = match hint {
            Some(Val::Tensor(r)) => match st.cell(*r) {
                Some(Cell::Tensor(cell)) => Some(self.g.ty(&cell.value)?),
                _ => None,
            },
            _ => None,
        };
        let traced = traced.as_ref().and_then(Type::as_tensor);
        let dtype = options.dtypes.get(name).copied().or(traced.map(|t| t.dtype)).unwrap_or(DType::F32);
        let dims = match (options.shapes.get(name), traced.and_then(|t| t.shape.dims())) {
            (Some(dims), _) => dims.clone(),
            (None, Some(dims)) => dims.to_vec(),
            (None, None) => return Err(missing(name)),
        };
        let t = self.g.input(name, Type::tensor(dtype, dims))?;
        Ok(st.plain_tensor(t))
    }

    /// Builds the graph of a method of an object that an entry point gives. Its attributes are inputs.
    pub fn object_entry(&mut self, given: &Given, method: &Rc<Function>) -> Res<()> {
        let mut st = self.states.origin.clone();
        let class = given.class.rsplit('.').next().unwrap_or_default();
        self.g.open(&format!("{class}.{}", method.name))?;
        let mut attrs = std::collections::BTreeMap::new();
        for (attr, ty) in &given.attrs {
            let t = self.g.input(attr, ty.clone())?;
            attrs.insert(attr.clone(), st.tensor(t));
        }
        let object = st.add(Cell::Instance(given.class.clone(), attrs));
        let mut env = Env::default();
        env.insert("$self".into(), Val::Instance(object));
        self.run_entry(&mut st, env, method, 0)?;
        self.end_entry()
    }
}

fn missing(name: &str) -> Fault {
    Fault::Option(format!(
        "the file does not say what shape the argument `{name}` has: give it, as in --shape {name}=1,3,224,224"
    ))
}

/// An argument that the caller gives as text.
fn constant(name: &str, ty: &Expr, text: &str) -> Res<Val> {
    let wrong = |what: &str| Fault::Option(format!("the argument `{name}` is {what}, not `{text:.40}`"));
    let kind = match ty {
        Expr::Name(kind) => &**kind,
        Expr::Index(head, inner) => match (&**head, &**inner) {
            (Expr::Name(head), _) if &**head == "Optional" && text == "None" => return Ok(Val::None),
            (Expr::Name(head), inner) if &**head == "Optional" => return constant(name, inner, text),
            _ => return Err(wrong("no single value")),
        },
        _ => return Err(wrong("no single value")),
    };
    match kind {
        "int" => text.parse().map(Val::Int).map_err(|_| wrong("an integer")),
        "float" => text.parse().map(Val::Float).map_err(|_| wrong("a float")),
        "bool" => match text {
            "True" | "true" | "1" => Ok(Val::Bool(true)),
            "False" | "false" | "0" => Ok(Val::Bool(false)),
            _ => Err(wrong("a bool")),
        },
        "str" => Ok(Val::text(text)),
        _ => Err(wrong("no single value")),
    }
}
