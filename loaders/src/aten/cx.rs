//! What the builder of one operator sees.

use kiln_ir::op::{Dynamic, Source};
use kiln_ir::{Build, DType, Dim, GraphBuilder, Known, Scalar, Tensor, Value};

use super::Results;
use super::arg::{Arg, scalar_type};
use super::promote::{DEFAULT, Operands};
use super::schema::Schema;
use crate::error::OpError;

/// Most tensors that an operator gives or takes in a list.
pub(crate) const MOST_PIECES: usize = 1 << 14;

/// One call of an operator.
pub(crate) struct Cx<'c, 'm> {
    /// The graph under construction.
    pub b: &'c mut GraphBuilder<'m>,
    schema: &'c Schema,
    args: Vec<Arg>,
}

/// One tensor as results.
pub(crate) fn one(v: Value) -> Results {
    Ok(vec![Arg::Tensor(v)])
}

/// Tensors as results.
pub(crate) fn many(values: impl IntoIterator<Item = Value>) -> Results {
    Ok(values.into_iter().map(Arg::Tensor).collect())
}

impl<'c, 'm> Cx<'c, 'm> {
    /// A call whose arguments are in the schema's order.
    pub(crate) fn new(b: &'c mut GraphBuilder<'m>, schema: &'c Schema, args: Vec<Arg>) -> Self {
        Cx { b, schema, args }
    }

    /// Name of the overload; empty for the default one.
    pub(crate) fn overload(&self) -> &str {
        self.schema.overload
    }

    /// An argument by name; `None` if the overload has no such argument.
    pub(crate) fn get(&self, name: &str) -> &Arg {
        let at = self.schema.params.iter().position(|p| p.name == name);
        at.and_then(|i| self.args.get(i)).unwrap_or(&Arg::None)
    }

    /// Whether the overload has an argument of that name.
    pub(crate) fn takes(&self, name: &str) -> bool {
        self.schema.params.iter().any(|p| p.name == name)
    }

    /// An argument by position.
    pub(crate) fn at(&self, i: usize) -> &Arg {
        self.args.get(i).unwrap_or(&Arg::None)
    }

    /// Name of the argument at a position.
    fn name_at(&self, i: usize) -> &'static str {
        self.schema.params.get(i).map_or("", |p| p.name)
    }

    fn wrong(&self, name: &str, expected: &str) -> OpError {
        let found = self.get(name).kind();
        OpError::invalid(format!("argument `{name}`: expected {expected}, found {found}"))
    }

    /// The first argument, a tensor.
    pub(crate) fn first(&mut self) -> Result<Value, OpError> {
        let name = self.name_at(0);
        self.tensor(name)
    }

    /// A tensor; numbers become tensors without axes.
    pub(crate) fn tensor(&mut self, name: &str) -> Result<Value, OpError> {
        match self.maybe_tensor(name)? {
            Some(v) => Ok(v),
            None => Err(self.wrong(name, "a tensor")),
        }
    }

    /// A tensor that may be absent.
    pub(crate) fn maybe_tensor(&mut self, name: &str) -> Result<Option<Value>, OpError> {
        match self.get(name).clone() {
            Arg::Tensor(v) | Arg::Scalar(v) => Ok(Some(v)),
            Arg::None => Ok(None),
            number @ (Arg::Int(_) | Arg::Float(_) | Arg::Bool(_)) => {
                let dtype = self.number_dtype(&number)?;
                self.as_dtype(&number, dtype).map(Some)
            }
            _ => Err(self.wrong(name, "a tensor")),
        }
    }

    /// A list of tensors.
    pub(crate) fn tensors(&self, name: &str) -> Result<Vec<Value>, OpError> {
        let Arg::List(items) = self.get(name) else { return Err(self.wrong(name, "a list of tensors")) };
        if items.len() > MOST_PIECES {
            return Err(OpError::unsupported(format!("argument `{name}` has {} tensors", items.len())));
        }
        let values = items.iter().map(|item| match item {
            Arg::Tensor(v) => Some(*v),
            _ => None,
        });
        values.collect::<Option<Vec<_>>>().ok_or_else(|| self.wrong(name, "a list of tensors"))
    }

    /// An integer as a dim.
    pub(crate) fn dim(&mut self, name: &str) -> Result<Dim, OpError> {
        match self.maybe_dim(name)? {
            Some(dim) => Ok(dim),
            None => Err(self.wrong(name, "an integer")),
        }
    }

    /// An integer as a dim, if it is given.
    pub(crate) fn maybe_dim(&mut self, name: &str) -> Result<Option<Dim>, OpError> {
        let arg = self.get(name).clone();
        if arg.is_none() {
            return Ok(None);
        }
        let found = self.as_dim(&arg)?;
        found.map(Some).ok_or_else(|| self.wrong(name, "an integer"))
    }

    /// An argument that is an integer of some kind as a dim. What shows at run time becomes a symbol.
    pub(crate) fn as_dim(&mut self, arg: &Arg) -> Result<Option<Dim>, OpError> {
        Ok(match arg {
            Arg::Int(dim) => Some(dim.clone()),
            Arg::Bool(b) => Some(Dim::known(i64::from(*b))),
            Arg::Scalar(v) | Arg::Tensor(v) => Some(self.dim_of(*v)?),
            _ => None,
        })
    }

    /// The value of an integer tensor of one element as a dim.
    pub(crate) fn dim_of(&mut self, v: Value) -> Result<Dim, OpError> {
        if let Some(dims) = self.b.known(v).and_then(Known::dims)
            && let [dim] = dims.as_slice()
        {
            return Ok(dim.clone());
        }
        if let Some(ints) = self.b.known(v).and_then(Known::tensor).and_then(Tensor::to_ints)
            && let [value] = ints.as_slice()
        {
            return Ok(Dim::known(*value));
        }
        let wide = self.b.cast(v, DType::I64)?;
        let flat = self.b.reshape(wide, &[Dim::known(1)])?;
        let dim = self.b.fresh_dim();
        self.b.add1(Dynamic::Sizes { dims: vec![dim.clone()] }, &[flat])?;
        Ok(dim)
    }

    /// A constant integer.
    pub(crate) fn int(&mut self, name: &str) -> Result<i64, OpError> {
        let dim = self.dim(name)?;
        dim.as_known().ok_or_else(|| unknown(name))
    }

    /// A constant integer, if it is given.
    pub(crate) fn maybe_int(&mut self, name: &str) -> Result<Option<i64>, OpError> {
        self.maybe_dim(name)?.map(|dim| dim.as_known().ok_or_else(|| unknown(name))).transpose()
    }

    /// A list of integers as dims; one integer is a list of one.
    pub(crate) fn dims(&mut self, name: &str) -> Result<Vec<Dim>, OpError> {
        match self.maybe_dims(name)? {
            Some(dims) => Ok(dims),
            None => Err(self.wrong(name, "a list of integers")),
        }
    }

    /// The same, if it is given.
    pub(crate) fn maybe_dims(&mut self, name: &str) -> Result<Option<Vec<Dim>>, OpError> {
        let items = match self.get(name).clone() {
            Arg::None => return Ok(None),
            Arg::List(items) => items,
            single => vec![single],
        };
        let mut dims = Vec::with_capacity(items.len());
        for item in &items {
            dims.push(self.as_dim(item)?.ok_or_else(|| self.wrong(name, "a list of integers"))?);
        }
        Ok(Some(dims))
    }

    /// A list of constant integers.
    pub(crate) fn ints(&mut self, name: &str) -> Result<Vec<i64>, OpError> {
        let dims = self.dims(name)?;
        dims.iter().map(Dim::as_known).collect::<Option<Vec<_>>>().ok_or_else(|| unknown(name))
    }

    /// A list of `n` constant integers; a list of one stands for all.
    pub(crate) fn ints_of(&mut self, name: &str, n: usize) -> Result<Vec<i64>, OpError> {
        let ints = self.ints(name)?;
        match ints.as_slice() {
            [only] => Ok(vec![*only; n]),
            all if all.len() == n => Ok(ints),
            all => {
                Err(OpError::invalid(format!("argument `{name}` has {} elements for {n} axes", all.len())))
            }
        }
    }

    /// A list of floats, if it is given.
    pub(crate) fn maybe_floats(&self, name: &str) -> Result<Option<Vec<f64>>, OpError> {
        let items = match self.get(name) {
            Arg::None => return Ok(None),
            Arg::List(items) => items.as_slice(),
            single => std::slice::from_ref(single),
        };
        let floats = items.iter().map(|item| self.to_float(item)).collect::<Option<Vec<_>>>();
        floats.map(Some).ok_or_else(|| self.wrong(name, "a list of constant floats"))
    }

    /// The constant that a number is.
    pub(crate) fn to_float(&self, arg: &Arg) -> Option<f64> {
        match arg {
            Arg::Float(value) => Some(*value),
            Arg::Int(dim) => dim.as_known().map(|value| value as f64),
            Arg::Bool(b) => Some(f64::from(u8::from(*b))),
            Arg::Scalar(v) | Arg::Tensor(v) => {
                let values = self.b.known(*v).and_then(Known::tensor).and_then(Tensor::to_f64s)?;
                values.first().copied().filter(|_| values.len() == 1)
            }
            _ => None,
        }
    }

    /// A constant float.
    pub(crate) fn float(&self, name: &str) -> Result<f64, OpError> {
        self.to_float(self.get(name)).ok_or_else(|| match self.get(name) {
            Arg::Int(_) | Arg::Scalar(_) | Arg::Tensor(_) => unknown(name),
            _ => self.wrong(name, "a float"),
        })
    }

    /// A constant float, if it is given.
    pub(crate) fn maybe_float(&self, name: &str) -> Result<Option<f64>, OpError> {
        if self.get(name).is_none() { Ok(None) } else { self.float(name).map(Some) }
    }

    /// A constant truth value; false if it is absent.
    pub(crate) fn flag(&self, name: &str) -> Result<bool, OpError> {
        match self.get(name) {
            Arg::None => Ok(false),
            Arg::Bool(b) => Ok(*b),
            other => self.to_float(other).map(|v| v != 0.0).ok_or_else(|| unknown(name)),
        }
    }

    /// Text, if it is given.
    pub(crate) fn maybe_text(&self, name: &str) -> Result<Option<&str>, OpError> {
        match self.get(name) {
            Arg::None => Ok(None),
            Arg::Str(text) => Ok(Some(text)),
            _ => Err(self.wrong(name, "a string")),
        }
    }

    /// An element type, if it is given.
    pub(crate) fn dtype_arg(&self, name: &str) -> Result<Option<DType>, OpError> {
        match self.get(name) {
            Arg::None | Arg::Ignored => Ok(None),
            Arg::DType(dtype) => Ok(Some(*dtype)),
            Arg::Int(code) => {
                let dtype = code.as_known().and_then(scalar_type);
                dtype.map(Some).ok_or_else(|| OpError::unsupported(format!("element type {code} of torch")))
            }
            _ => Err(self.wrong(name, "an element type")),
        }
    }

    /// An axis, counted from the end if negative. Tensors without axes have axes 0 and -1.
    pub(crate) fn axis(&mut self, name: &str, rank: usize) -> Result<usize, OpError> {
        let axis = self.int(name)?;
        normal_axis(axis, rank)
    }

    /// A list of axes, none twice; all if the list is absent or empty.
    pub(crate) fn axes(&mut self, name: &str, rank: usize) -> Result<Vec<usize>, OpError> {
        let given = if self.get(name).is_none() { vec![] } else { self.ints(name)? };
        if given.is_empty() {
            return Ok((0..rank).collect());
        }
        self.listed_axes(&given, rank)
    }

    /// Axes of a list, none twice.
    pub(crate) fn listed_axes(&self, given: &[i64], rank: usize) -> Result<Vec<usize>, OpError> {
        let mut axes: Vec<usize> = vec![];
        for &axis in given {
            let axis = normal_axis(axis, rank)?;
            if axes.contains(&axis) {
                return Err(OpError::invalid(format!("axis {axis} is given twice")));
            }
            axes.push(axis);
        }
        Ok(axes.into_iter().filter(|&axis| axis < rank).collect())
    }

    /// Rank of a tensor.
    pub(crate) fn rank(&self, v: Value) -> Result<usize, OpError> {
        Ok(self.b.rank(v)?)
    }

    /// Shape of a tensor.
    pub(crate) fn shape(&self, v: Value) -> Result<Vec<Dim>, OpError> {
        Ok(self.b.shape(v)?.to_vec())
    }

    /// Element type of a tensor.
    pub(crate) fn dtype(&self, v: Value) -> Result<DType, OpError> {
        Ok(self.b.dtype(v)?)
    }

    /// Number of elements.
    pub(crate) fn numel(&self, v: Value) -> Result<Dim, OpError> {
        Ok(product(self.b.shape(v)?))
    }

    /// An elementwise operator of graph IR.
    pub(crate) fn ew(&mut self, name: &str, operands: &[Value]) -> Result<Value, OpError> {
        Ok(self.b.ew(name, operands)?)
    }

    /// An elementwise operator with a tensor and a constant of its type.
    pub(crate) fn ew_const(&mut self, name: &str, v: Value, constant: f64) -> Result<Value, OpError> {
        let dtype = self.dtype(v)?;
        let constant = self.constant(dtype, constant)?;
        self.ew(name, &[v, constant])
    }

    /// A rank-0 constant.
    pub(crate) fn constant(&mut self, dtype: DType, value: f64) -> Result<Value, OpError> {
        let scalar = match dtype {
            DType::Bool => Scalar::B(value != 0.0),
            d if d.is_int() => Scalar::I(value as i128),
            _ => Scalar::F(value),
        };
        Ok(self.b.constant(Tensor::from_scalars(dtype, &[], &[scalar])?)?)
    }

    /// A tensor filled with a constant.
    pub(crate) fn filled(&mut self, dtype: DType, value: f64, shape: &[Dim]) -> Result<Value, OpError> {
        let value = self.constant(dtype, value)?;
        Ok(self.b.broadcast(value, shape)?)
    }

    /// `0, 1, ...` along an axis of a tensor of `rank` axes, the others of size 1.
    pub(crate) fn positions(
        &mut self,
        len: &Dim,
        dtype: DType,
        axis: usize,
        rank: usize,
    ) -> Result<Value, OpError> {
        let iota = self.b.add1(Source::Iota { len: len.clone(), dtype }, &[])?;
        let mut shape = vec![Dim::known(1); rank];
        if let Some(slot) = shape.get_mut(axis) {
            *slot = len.clone();
        }
        Ok(self.b.reshape(iota, &shape)?)
    }

    /// Element type of a number.
    pub(crate) fn number_dtype(&self, arg: &Arg) -> Result<DType, OpError> {
        match arg {
            Arg::Int(_) => Ok(DType::I64),
            Arg::Float(_) => Ok(DEFAULT),
            Arg::Bool(_) => Ok(DType::Bool),
            Arg::Scalar(v) => match self.dtype(*v)? {
                d if d.is_float() => Ok(DEFAULT),
                d if d.is_int() => Ok(DType::I64),
                d => Ok(d),
            },
            Arg::Tensor(v) => self.dtype(*v),
            other => Err(OpError::invalid(format!("expected a number, found {}", other.kind()))),
        }
    }

    /// The type of an operation on tensors and numbers.
    pub(crate) fn result_type(&self, operands: &[&Arg]) -> Result<DType, OpError> {
        let mut found = Operands::default();
        for arg in operands {
            let dtype = self.number_dtype(arg)?;
            let slot = match arg {
                Arg::Tensor(v) if self.b.rank(*v).is_ok_and(|rank| rank == 0) => &mut found.scalars,
                Arg::Tensor(_) => &mut found.tensors,
                _ => &mut found.numbers,
            };
            if !Operands::join(slot, dtype) {
                return Err(OpError::invalid(format!("no common type with {dtype}")));
            }
        }
        found.result().ok_or_else(|| OpError::invalid("the operands have no common type"))
    }

    /// An operand as a tensor of `dtype`; numbers have no axes.
    pub(crate) fn as_dtype(&mut self, arg: &Arg, dtype: DType) -> Result<Value, OpError> {
        let number = |cx: &mut Self, scalar: Scalar| {
            let converted = match (dtype, scalar) {
                (DType::Bool, Scalar::I(v)) => Scalar::B(v != 0),
                (DType::Bool, Scalar::F(v)) => Scalar::B(v != 0.0),
                (d, Scalar::F(v)) if d.is_int() => Scalar::I(v as i128),
                (d, Scalar::I(v)) if d.is_float() => Scalar::F(v as f64),
                (d, Scalar::B(v)) if d.is_float() => Scalar::F(f64::from(u8::from(v))),
                (d, Scalar::B(v)) if d.is_int() => Scalar::I(i128::from(v)),
                (_, same) => same,
            };
            let tensor = Tensor::from_scalars(dtype, &[], &[converted])?;
            Ok(cx.b.constant(tensor)?)
        };
        match arg {
            Arg::Tensor(v) | Arg::Scalar(v) => Ok(self.b.cast(*v, dtype)?),
            Arg::Float(value) => number(self, Scalar::F(*value)),
            Arg::Bool(value) => number(self, Scalar::B(*value)),
            Arg::Int(dim) => match dim.as_known() {
                Some(value) => number(self, Scalar::I(i128::from(value))),
                None => {
                    let dims = self.b.dims(std::slice::from_ref(dim))?;
                    let scalar = self.b.reshape(dims, &[])?;
                    Ok(self.b.cast(scalar, dtype)?)
                }
            },
            other => Err(OpError::invalid(format!("expected a tensor or a number, found {}", other.kind()))),
        }
    }

    /// Operands brought to their common type.
    pub(crate) fn promoted(&mut self, names: &[&str]) -> Result<(Vec<Value>, DType), OpError> {
        let args: Vec<Arg> = names.iter().map(|name| self.get(name).clone()).collect();
        let dtype = self.result_type(&args.iter().collect::<Vec<_>>())?;
        Ok((self.cast_all(&args, dtype)?, dtype))
    }

    /// The same, to a float at least: integers become floats of the default type.
    pub(crate) fn promoted_floats(&mut self, names: &[&str]) -> Result<(Vec<Value>, DType), OpError> {
        let args: Vec<Arg> = names.iter().map(|name| self.get(name).clone()).collect();
        let dtype = self.result_type(&args.iter().collect::<Vec<_>>())?;
        let dtype = if dtype.is_float() { dtype } else { DEFAULT };
        Ok((self.cast_all(&args, dtype)?, dtype))
    }

    /// Operands as tensors of one type.
    pub(crate) fn cast_all(&mut self, args: &[Arg], dtype: DType) -> Result<Vec<Value>, OpError> {
        args.iter().map(|arg| self.as_dtype(arg, dtype)).collect()
    }

    /// A tensor of floats: integers and bools become floats of the default type.
    pub(crate) fn as_floats(&mut self, v: Value) -> Result<Value, OpError> {
        let dtype = self.dtype(v)?;
        Ok(if dtype.is_float() { v } else { self.b.cast(v, DEFAULT)? })
    }

    /// The shape that tensors broadcast to.
    pub(crate) fn common_shape(&self, values: &[Value]) -> Result<Vec<Dim>, OpError> {
        let mut common: Vec<Dim> = vec![];
        for &v in values {
            let shape = self.shape(v)?;
            let rank = common.len().max(shape.len());
            let at = |dims: &[Dim], i: usize| {
                (i + dims.len()).checked_sub(rank).and_then(|i| dims.get(i)).cloned().unwrap_or(Dim::known(1))
            };
            common = (0..rank).map(|i| at(&common, i).broadcast(&at(&shape, i))).collect();
        }
        Ok(common)
    }
}

/// The product of dims.
pub(crate) fn product(dims: &[Dim]) -> Dim {
    dims.iter().fold(Dim::known(1), |a, b| a * b)
}

/// What an argument says that must be known and is not.
pub(crate) fn unknown(name: &str) -> OpError {
    OpError::unsupported(format!("argument `{name}` must be constant"))
}

/// An axis in `0 .. rank`, counted from the end if negative; tensors without axes count as having one.
pub(crate) fn normal_axis(axis: i64, rank: usize) -> Result<usize, OpError> {
    let signed = i64::try_from(rank.max(1)).unwrap_or(i64::MAX);
    let at = if axis < 0 { axis.checked_add(signed) } else { Some(axis) };
    let at = at.and_then(|a| usize::try_from(a).ok()).filter(|&a| a < rank.max(1));
    at.ok_or_else(|| OpError::invalid(format!("axis {axis} is out of range for rank {rank}")))
}
