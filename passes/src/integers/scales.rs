//! Scales of quantizations go into the constants of the sums that are quantized, so that kernels multiply once.

use kiln_ir::op::Quant;
use kiln_ir::{Build, DType, Dim, Edit, NodeId, Op, Patch, Scalar, Tensor, Value};

use super::{Dequantized, is_byte};
use crate::rewrite::{Cx, Refusal, Rule, matches, require};

/// A quantization that multiplies, of sums with constant factors and summands, takes its inverse scale into these. What it
/// quantizes may be rounded otherwise than before, as by every product with a constant that is moved.
pub(super) const SCALED_SUMS: Rule = Rule { name: "scaled-sums", apply: scaled_sums };

fn scaled_sums(cx: &Cx<'_>, id: NodeId) -> Result<Edit, Refusal> {
    let node = cx.node(id);
    let Op::Quant(Quant::Quantize { to, axis, block: 0, saturate, inverse: true }) = node.op else {
        return Err(Refusal::NoMatch);
    };
    let &[sums, inverse, zero] = &node.operands[..] else { return Err(Refusal::NoMatch) };
    matches(is_byte(to) && cx.dtype(sums) == Some(DType::F32) && cx.splat(inverse) != Some(1.0))?;
    let dims = cx.shape(sums)?;
    let factors = cx.constant(inverse).filter(|t| t.dtype() == DType::F32).ok_or(Refusal::NoMatch)?;
    let positive = factors.to_f64s().is_some_and(|all| all.iter().all(|&f| f > 0.0 && f.is_finite()));
    require(positive, "the inverse scale is not positive")?;
    let zero_value = cx.splat(zero).ok_or_else(|| Refusal::because("zero points differ"))?;
    let single = factors.numel() == 1;
    let terms = Scaled { cx, dims, inverse, axis: axis.filter(|_| !single) };
    require(terms.takes_factor(sums), "some of what is summed takes no factor, or is used elsewhere")?;
    let op = Op::Quant(Quant::Quantize { to, axis: None, block: 0, saturate, inverse: true });
    cx.rewrite(id, |p| {
        let factor = terms.factor(p)?;
        let sums = terms.times(p, sums, factor)?;
        let (one, zero) = (p.constant(Tensor::scalar(1.0f32))?, p.scalar(to, zero_value)?);
        Ok(p.add1(op, &[sums, one, zero])?)
    })
}

/// Sums whose constants can take a factor.
struct Scaled<'c, 'a> {
    cx: &'c Cx<'a>,
    /// What the sums, and all that is added to them but constants, measure.
    dims: &'c [Dim],
    /// The factor: one for all elements, or one for each index of the axis.
    inverse: Value,
    axis: Option<usize>,
}

/// What a value is, as far as a factor goes.
enum Form {
    /// The factor is one more operand of a product of constants.
    Constant,
    /// Both summands take it.
    Sum(Value, Value),
    /// The operand takes it, since it is positive.
    Relu(Value),
    /// The constant takes it.
    Product(Value, Value),
    /// The scale takes it; the number is the zero point.
    Bytes(Dequantized, f64),
}

impl Scaled<'_, '_> {
    /// The factor as it broadcasts to the sums.
    fn factor(&self, p: &mut Patch<'_>) -> Result<Value, Refusal> {
        let to = match self.axis {
            Some(axis) => {
                let after = self.dims.len().checked_sub(axis + 1).ok_or(Refusal::NoMatch)?;
                let count = self.dims.get(axis).cloned().ok_or(Refusal::NoMatch)?;
                std::iter::once(count).chain(std::iter::repeat_n(Dim::known(1), after)).collect()
            }
            None => vec![],
        };
        Ok(p.reshape(self.inverse, &to)?)
    }

    fn form(&self, v: Value) -> Option<Form> {
        if let Some(constant) = self.cx.constant(v) {
            return (!self.would_grow(constant)).then_some(Form::Constant);
        }
        let node = self.cx.def(v).filter(|_| self.cx.dims(v) == Some(self.dims))?.1;
        if let Some(bytes) = Dequantized::of(self.cx, v) {
            // Bytes are dequantized wherever they are read.
            let one_axis = bytes.axis.is_none() || self.axis.is_none() || bytes.axis == self.axis;
            let fits = one_axis && bytes.to == DType::F32 && self.cx.constant(bytes.scale).is_some();
            return self.cx.splat(bytes.zero).filter(|_| fits).map(|zero| Form::Bytes(bytes, zero));
        }
        if self.cx.uses.count(v) != 1 || self.cx.uses.is_output(v) {
            return None;
        }
        match (&node.op, &node.operands[..]) {
            (op, &[x]) if *op == Op::ew("relu") => Some(Form::Relu(x)),
            (op, &[a, b]) if *op == Op::ew("add") => Some(Form::Sum(a, b)),
            (op, &[a, b]) if *op == Op::ew("mul") => match (self.cx.constant(a), self.cx.constant(b)) {
                (None, Some(k)) if !self.would_grow(k) => Some(Form::Product(a, b)),
                (Some(k), None) if !self.would_grow(k) => Some(Form::Product(b, a)),
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether a constant of several elements would be repeated along the factor's axis: it would not be folded.
    fn would_grow(&self, constant: &Tensor) -> bool {
        let Some(axis) = self.axis.filter(|_| constant.numel() > 1) else { return false };
        let behind = self.dims.len().saturating_sub(axis);
        let at = constant.dims().len().checked_sub(behind);
        at.and_then(|at| constant.dims().get(at)).is_none_or(|&d| d == 1)
    }

    fn takes_factor(&self, v: Value) -> bool {
        match self.form(v) {
            Some(Form::Constant | Form::Product(..) | Form::Bytes(..)) => true,
            Some(Form::Relu(x)) => self.takes_factor(x),
            Some(Form::Sum(a, b)) => self.takes_factor(a) && self.takes_factor(b),
            None => false,
        }
    }

    /// The value times `factor`, which broadcasts to its dims.
    fn times(&self, p: &mut Patch<'_>, v: Value, factor: Value) -> Result<Value, Refusal> {
        match self.form(v).ok_or(Refusal::NoMatch)? {
            Form::Constant => Ok(p.ew("mul", &[v, factor])?),
            Form::Relu(x) => {
                let x = self.times(p, x, factor)?;
                Ok(p.ew("relu", &[x])?)
            }
            Form::Sum(a, b) => {
                let (a, b) = (self.times(p, a, factor)?, self.times(p, b, factor)?);
                Ok(p.ew("add", &[a, b])?)
            }
            Form::Product(x, constant) => {
                let constant = p.ew("mul", &[constant, factor])?;
                Ok(p.ew("mul", &[x, constant])?)
            }
            Form::Bytes(bytes, zero) => self.dequantized(p, bytes, zero),
        }
    }

    /// The bytes, dequantized with scales that took the factor.
    fn dequantized(&self, p: &mut Patch<'_>, bytes: Dequantized, zero: f64) -> Result<Value, Refusal> {
        let axis = bytes.axis.or(self.axis);
        let scale = if bytes.axis.is_some() { bytes.scale } else { p.reshape(bytes.scale, &[])? };
        let factor = if self.axis.is_some() { self.inverse } else { p.reshape(self.inverse, &[])? };
        let scale = p.ew("mul", &[scale, factor])?;
        let counts = p.shape(scale)?.iter().map(|d| d.as_known().and_then(|n| usize::try_from(n).ok()));
        let counts: Vec<usize> = counts.collect::<Option<_>>().ok_or(Refusal::NoMatch)?;
        let zeros = vec![Scalar::I(zero as i128); counts.iter().product()];
        let dtype = self.cx.dtype(bytes.x).ok_or(Refusal::NoMatch)?;
        let zeros = Tensor::from_scalars(dtype, &counts, &zeros);
        let zeros = p.constant(zeros.map_err(|e| Refusal::because(e.to_string()))?)?;
        Ok(p.add1(Dequantized { axis, ..bytes }.op(), &[bytes.x, scale, zeros])?)
    }
}
