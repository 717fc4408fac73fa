//! Elementwise operators and conversions.

use crate::elementwise::DTypeRule;
use crate::op::{Cast, Elementwise};
use crate::tensor::scalar_to_bits;
use crate::{DClass, DType, Prim, Scalar, ScalarExpr, ScalarNode, Tensor, float, wrap_int};

use super::cx::Cx;
use super::fault::{Fault, invalid};
use super::lanes::{Lanes, as_i128};
use super::walk::{Walk, broadcast_dims, broadcast_strides};

/// Elements computed at a time.
const CHUNK: usize = 4096;

/// A row of the elementwise table.
pub(super) fn elementwise(cx: &mut Cx<'_>, op: &Elementwise, operands: &[&Tensor]) -> Result<Tensor, Fault> {
    let row = op.kind.row();
    if operands.len() != row.params.len() || op.attrs.len() != row.attrs.len() {
        return invalid(format!("takes {} operands, {} were given", row.params.len(), operands.len()));
    }
    let values = match row.rule {
        DTypeRule::Select if operands[0].dtype() != DType::Bool => {
            return invalid("the condition is not bool");
        }
        DTypeRule::Select => &operands[1..],
        DTypeRule::Same | DTypeRule::Bool => operands,
    };
    let dtype = values[0].dtype();
    if !row.domain.accepts(dtype) {
        return invalid(format!("does not apply to {dtype}"));
    }
    if let Some(other) = values.iter().find(|t| t.dtype() != dtype) {
        return invalid(format!("operands of {dtype} and {}", other.dtype()));
    }
    let to = if row.rule == DTypeRule::Bool { DType::Bool } else { dtype };
    let shapes: Vec<&[usize]> = operands.iter().map(|t| t.dims()).collect();
    let dims = broadcast_dims(&shapes)?;
    let count = cx.admit(to, &dims)?;
    let attrs: Vec<f64> = op.attrs.iter().map(|a| a.get()).collect();
    let decoded = operands.iter().map(|t| Lanes::decode(t)).collect::<Result<Vec<_>, _>>()?;
    let mut walks = operands
        .iter()
        .map(|t| Ok(Walk::new(&dims, &broadcast_strides(t.dims(), &dims)?, 0)))
        .collect::<Result<Vec<_>, Fault>>()?;
    let mut result = Lanes::empty(to, count)?;
    for start in (0..count).step_by(CHUNK) {
        let n = CHUNK.min(count - start);
        cx.tick(n)?;
        let params: Vec<Lanes> =
            decoded.iter().zip(&mut walks).map(|(d, w)| d.at(w.by_ref().take(n))).collect();
        let params: Vec<&Lanes> = params.iter().collect();
        append(&mut result, eval_lanes(op.kind.body(), &params, &attrs, dtype, n)?)?;
    }
    result.encode(to, &dims)
}

fn append(to: &mut Lanes, from: Lanes) -> Result<(), Fault> {
    match (to, from) {
        (Lanes::F(a), Lanes::F(b)) => a.extend(b),
        (Lanes::I(a), Lanes::I(b)) => a.extend(b),
        (Lanes::B(a), Lanes::B(b)) => a.extend(b),
        _ => return invalid("the body gives another class of values than the operator's result"),
    }
    Ok(())
}

/// The values of a scalar expression on `n` elements: what [`ScalarExpr::eval`] gives for each.
pub(super) fn eval_lanes(
    body: &ScalarExpr,
    params: &[&Lanes],
    attrs: &[f64],
    dtype: DType,
    n: usize,
) -> Result<Lanes, Fault> {
    let mut values: Vec<Lanes> = Vec::with_capacity(body.nodes.len());
    for node in &body.nodes {
        values.push(match node {
            ScalarNode::Param(i) => params[*i].clone(),
            ScalarNode::Attr(i) => Lanes::splat(literal(attrs[*i], dtype), n),
            ScalarNode::Const(c) => Lanes::splat(literal(*c, dtype), n),
            ScalarNode::Apply(p, operands) => {
                let args: Vec<&Lanes> = operands.iter().map(|&o| &values[o]).collect();
                apply(*p, &args, dtype, n)?
            }
        });
    }
    values.pop().map_or_else(|| invalid("an empty scalar expression"), Ok)
}

/// A literal of a scalar expression in the class of `dtype`.
fn literal(value: f64, dtype: DType) -> Scalar {
    match dtype.class() {
        DClass::Float => Scalar::F(value),
        DClass::Bool => Scalar::B(value != 0.0),
        _ => Scalar::I(value as i128),
    }
}

/// A primitive on `n` elements; integer results wrap to `dtype`.
fn apply(p: Prim, args: &[&Lanes], dtype: DType, n: usize) -> Result<Lanes, Fault> {
    use Lanes::{B, F, I};
    let real = |v: Scalar| match v {
        Scalar::F(v) => v,
        Scalar::I(_) | Scalar::B(_) => f64::NAN,
    };
    Ok(match args {
        [B(c), F(a), F(b)] if p == Prim::Select => {
            F(c.iter().zip(a.iter().zip(b)).map(|(&c, (&a, &b))| if c { a } else { b }).collect())
        }
        [F(a)] if !p.gives_bool() => F(a.iter().map(|&a| real(p.apply(&[Scalar::F(a)], 64))).collect()),
        [F(a), F(b)] if !p.gives_bool() => {
            F(a.iter().zip(b).map(|(&a, &b)| real(p.apply(&[Scalar::F(a), Scalar::F(b)], 64))).collect())
        }
        _ => {
            let mut out = match args.last() {
                _ if p.gives_bool() => B(Vec::with_capacity(n)),
                Some(I(_)) => I(Vec::with_capacity(n)),
                Some(B(_)) => B(Vec::with_capacity(n)),
                Some(F(_)) | None => F(Vec::with_capacity(n)),
            };
            let mut scalars = Vec::with_capacity(args.len());
            for i in 0..n {
                scalars.clear();
                scalars.extend(args.iter().map(|a| a.get(i)));
                out.push(match p.apply(&scalars, dtype.bits()) {
                    Scalar::I(v) => Scalar::I(wrap_int(v, dtype)),
                    other => other,
                });
            }
            out
        }
    })
}

/// Conversion between dtypes.
pub(super) fn cast(cx: &mut Cx<'_>, op: &Cast, x: &Tensor) -> Result<Tensor, Fault> {
    cx.admit(op.to, x.dims())?;
    if op.to == x.dtype() {
        return Ok(x.clone());
    }
    if x.dtype().class() == DClass::Complex || op.to.class() == DClass::Complex {
        return cast_complex(op.to, x);
    }
    let values = Lanes::decode(x)?;
    values.encode_with(op.to, x.dims(), |v| convert(v, op.to, op.saturate))
}

/// The bits of `value` converted to `to`.
pub(super) fn convert(value: Scalar, to: DType, saturate: bool) -> u64 {
    match (to.class(), value) {
        (DClass::Float, Scalar::F(v)) => float::encode(to, v, saturate),
        (DClass::Float, v @ (Scalar::I(_) | Scalar::B(_))) => {
            float::encode(to, int_to_f64(as_i128(v), to), saturate)
        }
        (_, v) => scalar_to_bits(to, v),
    }
}

/// An integer as a double that rounds to the same value of `to` as the integer itself does.
fn int_to_f64(v: i128, to: DType) -> f64 {
    let nearest = v as f64;
    let back = nearest as i128;
    if to == DType::F64 || back == v {
        return nearest;
    }
    // Round to odd: truncate toward zero and keep a sticky bit, so that the second rounding cannot err.
    let bits = nearest.to_bits();
    let truncated = if back.abs() > v.abs() { bits - 1 } else { bits };
    f64::from_bits(truncated | 1)
}

/// Conversions from and to complex numbers: the imaginary part of a real number is 0; a real result takes the real
/// part.
fn cast_complex(to: DType, x: &Tensor) -> Result<Tensor, Fault> {
    let pairs: Vec<(f64, f64)> = match x.dtype() {
        DType::C64 | DType::C128 => complex_parts(x),
        _ => super::lanes::floats(x)?.into_iter().map(|re| (re, 0.0)).collect(),
    };
    match to {
        DType::C64 | DType::C128 => complex_tensor(to, x.dims(), &pairs),
        _ => {
            let real = Lanes::F(pairs.into_iter().map(|p| p.0).collect());
            real.encode_with(to, x.dims(), |v| convert(v, to, false))
        }
    }
}

/// Real and imaginary parts of a complex tensor's elements.
pub(super) fn complex_parts(x: &Tensor) -> Vec<(f64, f64)> {
    let bytes = x.bytes();
    let float4 = |b: &[u8]| f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    let float8 = |b: &[u8]| f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]);
    match x.dtype() {
        DType::C64 => bytes.chunks_exact(8).map(|b| (float4(b), float4(&b[4..]))).collect(),
        _ => bytes.chunks_exact(16).map(|b| (float8(b), float8(&b[8..]))).collect(),
    }
}

/// A complex tensor of these parts.
pub(super) fn complex_tensor(dtype: DType, dims: &[usize], pairs: &[(f64, f64)]) -> Result<Tensor, Fault> {
    let bytes: Vec<u8> = match dtype {
        DType::C64 => {
            pairs.iter().flat_map(|&(re, im)| [re as f32, im as f32]).flat_map(f32::to_le_bytes).collect()
        }
        _ => pairs.iter().flat_map(|&(re, im)| [re, im]).flat_map(f64::to_le_bytes).collect(),
    };
    Ok(Tensor::new(dtype, dims, crate::Bytes::copied(&bytes))?)
}
