//! Operators of the program: which part of the machine computes each.

use kiln_ir::{DType, Scalar};

use super::ast::Name;
use super::fault::{Fault, Res};
use super::machine::{Machine, Truth};
use super::text;
use super::value::{Cell, Kind, ListCell, State, Traced, Val, int_of};
use crate::aten::{self, scalar_type};
use crate::error::OpError;

impl From<OpError> for Fault {
    fn from(e: OpError) -> Self {
        match e {
            OpError::Unsupported(reason) => Fault::Unsupported(reason),
            OpError::Invalid(reason) => Fault::Raises(reason),
            OpError::Recorded => Fault::Invalid("an operator failed".to_owned()),
        }
    }
}

/// Named arguments.
pub(crate) type Kwargs = Vec<(Name, Val)>;

/// Torch's number of a dtype.
pub(crate) fn scalar_code(dtype: DType) -> Option<i64> {
    (0..32).find(|&code| scalar_type(code) == Some(dtype))
}

/// Operators that are no rows of ATen's table: those of the language, its containers and text.
const OWN: &[&str] = &[
    "Bool",
    "Delete",
    "EnumName",
    "EnumValue",
    "Float",
    "FloatImplicit",
    "ImplicitTensorToNum",
    "Int",
    "IntImplicit",
    "Print",
    "RaiseException",
    "ScalarImplicit",
    "TupleIndex",
    "__contains__",
    "__derive_index",
    "__getitem__",
    "__is__",
    "__isnot__",
    "__not__",
    "__range_length",
    "_set_item",
    "append",
    "as_tensor",
    "chr",
    "clear",
    "copy",
    "count",
    "data",
    "device",
    "dict",
    "dtype",
    "endswith",
    "extend",
    "find",
    "format",
    "get",
    "get_device",
    "grad",
    "index",
    "insert",
    "is_autocast_enabled",
    "is_cpu",
    "is_cuda",
    "is_grad_enabled",
    "is_leaf",
    "is_meta",
    "is_mkldnn",
    "is_nested",
    "is_quantized",
    "is_scripting",
    "is_sparse",
    "isalnum",
    "isalpha",
    "isdigit",
    "islower",
    "isspace",
    "isupper",
    "items",
    "itemsize",
    "join",
    "keys",
    "layout",
    "len",
    "list",
    "lower",
    "lstrip",
    "manual_seed",
    "ndim",
    "ord",
    "percentFormat",
    "pop",
    "remove",
    "replace",
    "requires_grad",
    "requires_grad_",
    "reverse",
    "rstrip",
    "scalar_tensor",
    "set_",
    "set_data",
    "set_grad_enabled",
    "setdefault",
    "shape",
    "sorted",
    "split",
    "splitlines",
    "startswith",
    "str",
    "strip",
    "tensor",
    "type",
    "unchecked_unwrap_optional",
    "update",
    "upper",
    "values",
    "warn",
];

/// Whether an operator can be computed, for some arguments at least.
pub(crate) fn is_known(ns: &str, name: &str) -> bool {
    OWN.contains(&name) || aten::supports(&format!("{ns}::{name}"))
}

impl Machine<'_> {
    /// Computes an operator.
    pub fn op(&mut self, st: &mut State, ns: &str, name: &str, args: Vec<Val>, kwargs: Kwargs) -> Res<Val> {
        self.tick(2)?;
        if let Some(value) = self.op_value(st, ns, name, &args, &kwargs)? {
            match &value {
                Val::Str(text) => {
                    st.charge(text.len());
                    self.tick(text.len() / 64)?;
                }
                Val::Message(text, parts) => {
                    st.charge(text.len() + std::mem::size_of_val(&**parts));
                    self.tick(text.len() / 64 + parts.len())?;
                }
                Val::Tuple(items, _) => {
                    st.charge(std::mem::size_of_val(&**items));
                    self.check_nesting(items)?;
                }
                _ => {}
            }
            self.check_memory(st)?;
            return Ok(value);
        }
        self.set_origin(st, name);
        self.tensor_op(st, ns, name, args, kwargs).map_err(|fault| match fault {
            Fault::Unsupported(reason) => Fault::Unsupported(format!("{ns}::{name}: {reason}")),
            Fault::Invalid(reason) => Fault::Invalid(format!("{ns}::{name}: {reason}")),
            Fault::Raises(reason) => Fault::Raises(format!("{ns}::{name}: {reason}")),
            other => other,
        })
    }

    /// An operator that ATen's table does not have, or whose result is known.
    fn op_value(
        &mut self,
        st: &mut State,
        ns: &str,
        name: &str,
        args: &[Val],
        kwargs: &Kwargs,
    ) -> Res<Option<Val>> {
        if ns == "$" {
            return self.enter_mode(st, args).map(Some);
        }
        if let Some(value) = known(name, args) {
            return value.map(Some);
        }
        if let [a, b] = args
            && let Some(value) = self.logic(name, a, b)?
        {
            return Ok(Some(value));
        }
        if let Some(value) = self.of_program(st, ns, name, args)? {
            return Ok(Some(value));
        }
        if let Some(value) = self.conversion(st, ns, name, args)? {
            return Ok(Some(value));
        }
        match args.first() {
            Some(Val::List(r)) => {
                if let Some(value) = self.list_op(st, name, *r, args, kwargs)? {
                    return Ok(Some(value));
                }
            }
            Some(Val::Tuple(items, _)) => {
                if let Some(value) = self.tuple_op(st, name, &items.clone(), args)? {
                    return Ok(Some(value));
                }
            }
            Some(Val::Dict(r)) => {
                if let Some(value) = self.dict_op(st, name, *r, args, kwargs)? {
                    return Ok(Some(value));
                }
            }
            Some(v @ (Val::Str(_) | Val::Num(Kind::Text, _) | Val::Message(..))) => {
                if let Some(value) = self.text_op(st, name, &v.clone(), args)? {
                    return Ok(Some(value));
                }
            }
            _ => {}
        }
        if let (Some(value), "eq" | "ne" | "__is__" | "__isnot__") = (self.identity(st, name, args)?, name) {
            return Ok(Some(value));
        }
        self.query(st, ns, name, args)
    }

    /// Logic of bools, of which one shows at run time.
    fn logic(&mut self, name: &str, a: &Val, b: &Val) -> Res<Option<Val>> {
        let is_bool = |v: &Val| matches!(v, Val::Bool(_) | Val::Num(Kind::Bool, _));
        if !is_bool(a) || !is_bool(b) {
            return Ok(None);
        }
        let op = match name {
            "__and__" => "and",
            "__or__" => "or",
            "__xor__" | "ne" => "xor",
            "eq" => "eq",
            _ => return Ok(None),
        };
        match (a, b, op) {
            (Val::Bool(known), other, "and") | (other, Val::Bool(known), "and") => {
                return Ok(Some(if *known { other.clone() } else { Val::Bool(false) }));
            }
            (Val::Bool(known), other, "or") | (other, Val::Bool(known), "or") => {
                return Ok(Some(if *known { Val::Bool(true) } else { other.clone() }));
            }
            _ => {}
        }
        let (x, y) = (self.traced(a)?.1, self.traced(b)?.1);
        let operands = [self.g.value(&x)?, self.g.value(&y)?];
        let found = self.g.add(kiln_ir::Op::ew(op), &operands)?;
        Ok(Some(self.bool_of(found)))
    }

    /// Comparisons that types decide.
    fn identity(&mut self, st: &mut State, name: &str, args: &[Val]) -> Res<Option<Val>> {
        let (Some(a), Some(b)) = (args.first(), args.get(1)) else { return Ok(None) };
        let same = match (a, b) {
            (Val::Uninitialized, _) | (_, Val::Uninitialized) => return Ok(None),
            (Val::None, Val::None) => true,
            (Val::None, _) | (_, Val::None) => false,
            (Val::Device(x), Val::Device(y)) => x == y,
            (Val::Member(x, y, _), Val::Member(z, w, _)) => x == z && y == w,
            (Val::Instance(x), Val::Instance(y)) => x == y,
            (Val::Tensor(x), Val::Tensor(y)) if name.starts_with("__is") => x == y,
            (Val::List(x), Val::List(y)) if name.starts_with("__is") => x == y,
            (Val::Bool(_) | Val::Num(Kind::Bool, _), Val::Bool(_) | Val::Num(Kind::Bool, _))
                if name.starts_with("__is") =>
            {
                let name = if name == "__is__" { "eq" } else { "ne" };
                return self.op(st, "aten", name, vec![a.clone(), b.clone()], vec![]).map(Some);
            }
            _ => return Ok(None),
        };
        Ok(Some(Val::Bool(same == matches!(name, "eq" | "__is__"))))
    }

    /// Operators that the language needs.
    fn of_program(&mut self, st: &mut State, ns: &str, name: &str, args: &[Val]) -> Res<Option<Val>> {
        Ok(Some(match (name, args) {
            ("print" | "Print", _) if ns != "aten" => Val::None,
            ("warn" | "set_grad_enabled" | "manual_seed" | "_set_deterministic" | "__exit__", _) => Val::None,
            ("is_grad_enabled" | "is_autocast_enabled" | "is_autocast_cpu_enabled", _) => Val::Bool(false),
            ("is_scripting", _) => Val::Bool(true),
            ("device", [Val::Str(name), ..]) => Val::Device(name.clone()),
            ("device", []) => Val::Device("cpu".into()),
            ("get_device", [_]) => Val::Int(-1),
            ("__range_length", [low, high, step]) => self.range_length(st, low, high, step)?,
            ("__derive_index", [i, start, step]) => {
                let scaled = self.op(st, "aten", "mul", vec![i.clone(), step.clone()], vec![])?;
                self.op(st, "aten", "add", vec![start.clone(), scaled], vec![])?
            }
            ("format", [Val::Str(template), values @ ..]) => text::format(st, template, values)?,
            ("percentFormat", [Val::Str(template), values @ ..]) => {
                let values = match values {
                    [Val::Tuple(items, _)] => items.to_vec(),
                    other => other.to_vec(),
                };
                text::percent(st, template, &values)?
            }
            ("str", [v]) => text::format(st, "{}", std::slice::from_ref(v))?,
            ("chr", [Val::Int(n)]) => match u32::try_from(*n).ok().and_then(char::from_u32) {
                Some(c) => Val::text(c.to_string()),
                None => return Err(Fault::invalid(format!("{n} is no character"))),
            },
            ("list", []) => st.list(vec![]),
            ("dict", []) => st.dict(vec![]),
            ("unchecked_unwrap_optional" | "_unwrap_optional", [v]) => match v {
                Val::None => return Err(Fault::invalid("`None` where the program has ruled it out")),
                v => v.clone(),
            },
            ("EnumName", [Val::Member(_, name, _)]) => Val::Str(name.clone()),
            ("EnumValue", [Val::Member(_, _, value)]) => (**value).clone(),
            ("TupleIndex", [value, index]) => self.element(st, value, index)?,
            ("__not__", [v]) => match self.truth(st, v)? {
                Truth::Known(b) => Val::Bool(!b),
                Truth::Traced(t) => {
                    let v = self.g.value(&t)?;
                    let found = self.g.add(kiln_ir::Op::ew("not"), &[v])?;
                    self.bool_of(found)
                }
            },
            (
                "is_cuda" | "is_xla" | "is_mps" | "is_quantized" | "is_sparse" | "is_mkldnn"
                | "requires_grad" | "is_meta" | "is_vulkan" | "is_ipu" | "is_leaf",
                [Val::Tensor(_)],
            ) => Val::Bool(false),
            ("is_cpu", [Val::Tensor(_)]) => Val::Bool(true),
            ("requires_grad_", [v, ..]) => v.clone(),
            ("type", [Val::Device(d)]) => Val::text(d.split(':').next().unwrap_or("cpu")),
            ("index", [Val::Device(_)]) => Val::None,
            ("is_contiguous", [Val::Tensor(_), ..]) => Val::Bool(true),
            ("is_nested", [Val::Tensor(_)]) => Val::Bool(false),
            _ => return Ok(None),
        }))
    }

    /// How many numbers a range has.
    fn range_length(&mut self, st: &mut State, low: &Val, high: &Val, step: &Val) -> Res<Val> {
        let (low, high, step) = (self.index(st, low)?, self.index(st, high)?, self.index(st, step)?);
        let dim = |v: &Val| match v {
            Val::Int(n) => Some(kiln_ir::Dim::known(*n)),
            Val::Dim(d) => Some(d.clone()),
            _ => None,
        };
        if let (Some(low), Some(high), Val::Int(step)) = (dim(&low), dim(&high), &step) {
            let zero = kiln_ir::Dim::known(0);
            let count = match step {
                0 => return Err(Fault::invalid("a range with step 0")),
                1.. => (high - low).ceil_div(&kiln_ir::Dim::known(*step)),
                _ => (low - high).ceil_div(&kiln_ir::Dim::known(step.saturating_neg())),
            };
            let count = count.greater(&zero);
            if !count.is_unknown() {
                return Ok(int_of(count));
            }
        }
        let Val::Int(step) = step else {
            return Err(Fault::unsupported("a range whose step shows at run time"));
        };
        let (from, to) = if step > 0 { (low, high) } else { (high, low) };
        let size = Val::Int(step.saturating_abs());
        let span = self.op(st, "aten", "sub", vec![to, from], vec![])?;
        let more = self.op(st, "aten", "add", vec![span, Val::Int(step.saturating_abs() - 1)], vec![])?;
        let count = self.op(st, "aten", "floordiv", vec![more, size], vec![])?;
        self.op(st, "prim", "max", vec![count, Val::Int(0)], vec![])
    }

    /// `int`, `float`, `bool` and what they are called elsewhere.
    fn conversion(&mut self, st: &mut State, ns: &str, name: &str, args: &[Val]) -> Res<Option<Val>> {
        let kind = match (ns, name) {
            ("builtin", "int") | (_, "Int" | "IntImplicit") => Kind::Int,
            ("builtin", "float") | (_, "Float" | "FloatImplicit") => Kind::Float,
            ("builtin", "bool") | (_, "Bool") => Kind::Bool,
            _ => return Ok(None),
        };
        let [v] = args else { return Ok(None) };
        Ok(Some(match (kind, v) {
            (Kind::Int, Val::Str(s)) => match s.trim().parse() {
                Ok(n) => Val::Int(n),
                Err(_) => return Err(Fault::invalid(format!("{s:.40?} is no integer"))),
            },
            (Kind::Float, Val::Str(s)) => match s.trim().parse() {
                Ok(x) => Val::Float(x),
                Err(_) => return Err(Fault::invalid(format!("{s:.40?} is no number"))),
            },
            (Kind::Int, Val::Float(x)) if x.is_finite() && x.abs() < 9e18 => Val::Int(*x as i64),
            (Kind::Int, Val::Int(_) | Val::Dim(_) | Val::Num(Kind::Int, _)) => v.clone(),
            (Kind::Float, Val::Float(_) | Val::Num(Kind::Float, _)) => v.clone(),
            (Kind::Float, Val::Int(n)) => Val::Float(*n as f64),
            (Kind::Bool, v) => self.truth_value(st, v)?,
            (kind, Val::Tensor(r)) => {
                let t = self.read_tensor(st, *r)?;
                self.item(&t, Some(kind))?
            }
            (kind, v) => {
                let (_, t) = self.traced(v)?;
                let x = self.g.value(&t)?;
                use kiln_ir::Build;
                let cast = self.g.try_build(|b| b.cast(x, kind.dtype()))?;
                let t = self.g.node(cast);
                self.number_of(kind, t)
            }
        }))
    }

    /// The truth of a value as a bool.
    pub fn truth_value(&mut self, st: &mut State, v: &Val) -> Res<Val> {
        Ok(match v {
            Val::Bool(_) | Val::Num(Kind::Bool, _) => v.clone(),
            Val::Int(n) => Val::Bool(*n != 0),
            Val::Float(x) => Val::Bool(*x != 0.0),
            Val::None => Val::Bool(false),
            Val::Str(s) => Val::Bool(!s.is_empty()),
            Val::Tensor(r) => {
                let t = self.read_tensor(st, *r)?;
                let number = self.item(&t, None)?;
                if matches!(number, Val::Tensor(_)) {
                    return Err(Fault::invalid("a tensor is no condition"));
                }
                self.truth_value(st, &number)?
            }
            Val::Dim(_) | Val::Num(Kind::Int, _) => {
                self.op(st, "aten", "ne", vec![v.clone(), Val::Int(0)], vec![])?
            }
            Val::Num(Kind::Float, _) => {
                self.op(st, "aten", "ne", vec![v.clone(), Val::Float(0.0)], vec![])?
            }
            Val::List(_) | Val::Dict(_) | Val::Tuple(..) | Val::Num(Kind::Text, _) => {
                let length = self.op(st, "aten", "len", vec![v.clone()], vec![])?;
                self.truth_value(st, &length)?
            }
            other => return Err(Fault::invalid(format!("{} is no condition", other.kind()))),
        })
    }

    /// A rank-0 tensor of a kind's dtype as a value, known where inference knows it.
    pub fn number_of(&self, kind: Kind, t: Traced) -> Val {
        match kind {
            Kind::Bool => self.bool_of(t),
            Kind::Int => match self.g.known(&t).and_then(|k| k.dims()) {
                Some(dims) => match dims.into_iter().next() {
                    Some(dim) => int_of(dim),
                    None => Val::Num(kind, t),
                },
                None => match self.g.constant(&t).and_then(|c| c.to_ints()) {
                    Some(ints) if ints.len() == 1 => ints.first().map_or(Val::None, |&n| Val::Int(n)),
                    _ => Val::Num(kind, t),
                },
            },
            Kind::Float => match self.g.constant(&t).and_then(|c| c.to_f64s()) {
                Some(xs) if xs.len() == 1 => xs.first().map_or(Val::None, |&x| Val::Float(x)),
                _ => Val::Num(kind, t),
            },
            Kind::Text => match self.g.constant(&t) {
                Some(c) if c.numel() == 1 => {
                    c.as_strings().first().map_or(Val::None, |s| Val::text(s.as_str()))
                }
                _ => Val::Num(kind, t),
            },
        }
    }

    /// The only element of a tensor as a number, converted to a kind if one is given.
    pub fn item(&mut self, t: &Traced, kind: Option<Kind>) -> Res<Val> {
        let dtype = self.dtype(t)?;
        let own = match dtype {
            DType::Bool => Kind::Bool,
            DType::String => Kind::Text,
            d if d.is_float() => Kind::Float,
            _ => Kind::Int,
        };
        if let Some(c) = self.g.constant(t)
            && c.numel() == 1
            && let Some(scalar) = c.element(0)
        {
            let value = match scalar {
                Scalar::B(b) => Val::Bool(b),
                Scalar::I(n) => Val::Int(i64::try_from(n).unwrap_or(i64::MAX)),
                Scalar::F(x) => Val::Float(x),
            };
            return Ok(match (kind, value) {
                (Some(Kind::Int), Val::Float(x)) => Val::Int(x as i64),
                (Some(Kind::Int), Val::Bool(b)) => Val::Int(i64::from(b)),
                (Some(Kind::Float), Val::Int(n)) => Val::Float(n as f64),
                (Some(Kind::Float), Val::Bool(b)) => Val::Float(f64::from(u8::from(b))),
                (_, value) => value,
            });
        }
        let kind = kind.unwrap_or(own);
        let v = self.g.value(t)?;
        use kiln_ir::Build;
        let v = self.g.try_build(|b| {
            let flat = match b.rank(v) {
                Ok(0) => v,
                _ => b.reshape(v, &[])?,
            };
            b.cast(flat, kind.dtype())
        })?;
        let t = self.g.node(v);
        Ok(self.number_of(kind, t))
    }

    /// Facts about tensors.
    fn query(&mut self, st: &mut State, ns: &str, name: &str, args: &[Val]) -> Res<Option<Val>> {
        let Some(Val::Tensor(r)) = args.first() else { return Ok(None) };
        Ok(Some(match (name, args.len()) {
            ("dtype", 1) if ns == "prim" => {
                let t = self.read_tensor(st, *r)?;
                let code = scalar_code(self.dtype(&t)?);
                Val::Int(code.ok_or_else(|| Fault::unsupported("a tensor of this dtype"))?)
            }
            ("device", 1) => Val::Device("cpu".into()),
            ("layout", 1) => Val::Int(0),
            ("shape", 1) => return self.op(st, "aten", "size", args.to_vec(), vec![]).map(Some),
            ("ndim", 1) => return self.op(st, "aten", "dim", args.to_vec(), vec![]).map(Some),
            ("len", 1) => {
                return self.op(st, "aten", "size", vec![Val::Tensor(*r), Val::Int(0)], vec![]).map(Some);
            }
            ("data" | "grad", 1) if ns == "prim" => {
                return self.op(st, "aten", "detach", args.to_vec(), vec![]).map(Some);
            }
            ("T" | "H", 1) => return self.op(st, "aten", "numpy_T", args.to_vec(), vec![]).map(Some),
            ("mT" | "mH", 1) => {
                let args = vec![Val::Tensor(*r), Val::Int(-2), Val::Int(-1)];
                return self.op(st, "aten", "transpose", args, vec![]).map(Some);
            }
            ("itemsize", 1) => {
                let t = self.read_tensor(st, *r)?;
                Val::Int(i64::try_from(self.dtype(&t)?.bits() / 8).unwrap_or(0))
            }
            ("item" | "ScalarImplicit" | "ImplicitTensorToNum", 1) => {
                let t = self.read_tensor(st, *r)?;
                self.item(&t, None)?
            }
            ("tolist", 1) => return Err(Fault::unsupported("a list of a tensor's elements")),
            _ => return Ok(None),
        }))
    }

    /// Whether two values are equal.
    pub fn equal(&mut self, st: &mut State, a: &Val, b: &Val) -> Res<Val> {
        let is_text = |v: &Val| matches!(v, Val::Str(_) | Val::Num(Kind::Text, _) | Val::Message(..));
        if is_text(a) != is_text(b) {
            return Ok(Val::Bool(false));
        }
        match (a, b) {
            (Val::Str(x), Val::Str(y)) => Ok(Val::Bool(x == y)),
            (Val::Num(Kind::Text, _), Val::Str(_) | Val::Num(Kind::Text, _))
            | (Val::Str(_), Val::Num(Kind::Text, _)) => {
                let (x, y) = (self.traced(a)?.1, self.traced(b)?.1);
                let operands = [self.g.value(&x)?, self.g.value(&y)?];
                let found = self.g.add(kiln_ir::op::Host::StringEqual {}, &operands)?;
                Ok(Val::Num(Kind::Bool, found))
            }
            (Val::Message(..), _) | (_, Val::Message(..)) => {
                Err(Fault::unsupported("a comparison of text that is formatted at run time"))
            }
            _ => self.op(st, "aten", "eq", vec![a.clone(), b.clone()], vec![]),
        }
    }

    /// Whether some of the values is true.
    pub fn any_of(&mut self, st: &mut State, values: Vec<Val>) -> Res<Val> {
        let mut found: Option<Val> = None;
        for v in values {
            match (self.truth_value(st, &v)?, found.take()) {
                (Val::Bool(true), _) => return Ok(Val::Bool(true)),
                (Val::Bool(false), before) => found = before,
                (traced, None) => found = Some(traced),
                (traced, Some(before)) => {
                    found = Some(self.op(st, "aten", "__or__", vec![before, traced], vec![])?);
                }
            }
        }
        Ok(found.unwrap_or(Val::Bool(false)))
    }

    /// The cell of a list.
    pub fn list_cell<'s>(&self, st: &'s State, r: super::value::Ref) -> Res<&'s ListCell> {
        match st.cell(r) {
            Some(Cell::List(list)) => Ok(list),
            _ => Err(Fault::invalid("there is no such list")),
        }
    }
}

/// Arithmetic of known numbers.
fn known(name: &str, args: &[Val]) -> Option<Res<Val>> {
    let zero = || Some(Err(Fault::raises("division by zero")));
    match args {
        [Val::Bool(a), Val::Bool(b)] => Some(Ok(Val::Bool(match name {
            "__and__" => a & b,
            "__or__" => a | b,
            "__xor__" | "ne" => a ^ b,
            "eq" => a == b,
            _ => return None,
        }))),
        [Val::Int(a), Val::Int(b)] => {
            let number = match name {
                "add" => a.checked_add(*b),
                "sub" => a.checked_sub(*b),
                "mul" => a.checked_mul(*b),
                "floordiv" | "remainder" if *b == 0 => return zero(),
                "floordiv" => {
                    let (q, r) = (a.checked_div(*b)?, a.checked_rem(*b)?);
                    Some(if r != 0 && (r < 0) != (*b < 0) { q - 1 } else { q })
                }
                "remainder" => {
                    let r = a.checked_rem(*b)?;
                    Some(if r != 0 && (r < 0) != (*b < 0) { r + b } else { r })
                }
                "__and__" => Some(a & b),
                "__or__" => Some(a | b),
                "__xor__" => Some(a ^ b),
                _ => {
                    let (a, b) = (a, b);
                    return comparison(name, a.partial_cmp(b)).map(|b| Ok(Val::Bool(b)));
                }
            };
            Some(number.map(Val::Int).ok_or_else(|| Fault::invalid("an integer does not fit in 64 bits")))
        }
        [Val::Float(_), Val::Float(_) | Val::Int(_)] | [Val::Int(_), Val::Float(_)] => {
            let float = |v: &Val| match v {
                Val::Float(x) => *x,
                Val::Int(n) => *n as f64,
                _ => f64::NAN,
            };
            let [a, b] = [args.first().map_or(f64::NAN, float), args.get(1).map_or(f64::NAN, float)];
            let number = match name {
                "add" => a + b,
                "sub" => a - b,
                "mul" => a * b,
                "div" if b == 0.0 => return zero(),
                "div" => a / b,
                _ => return comparison(name, a.partial_cmp(&b)).map(|b| Ok(Val::Bool(b))),
            };
            Some(Ok(Val::Float(number)))
        }
        [Val::Float(x)] if matches!(name, "floor" | "ceil") && x.is_finite() && x.abs() < 9e18 => {
            let whole = if name == "floor" { x.floor() } else { x.ceil() };
            Some(Ok(Val::Int(whole as i64)))
        }
        [Val::Int(n)] if name == "neg" => n.checked_neg().map(|n| Ok(Val::Int(n))),
        [Val::Float(x)] if name == "neg" => Some(Ok(Val::Float(-x))),
        _ => None,
    }
}

fn comparison(name: &str, order: Option<std::cmp::Ordering>) -> Option<bool> {
    use std::cmp::Ordering::{Equal, Greater, Less};
    Some(match name {
        "eq" => order == Some(Equal),
        "ne" => order != Some(Equal),
        "lt" => order == Some(Less),
        "le" => matches!(order, Some(Less | Equal)),
        "gt" => order == Some(Greater),
        "ge" => matches!(order, Some(Greater | Equal)),
        _ => return None,
    })
}
