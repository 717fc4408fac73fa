//! Tensors made from parameters: ranges, identities, windows, random numbers.

use kiln_ir::op::{Dynamic, Host, Order};
use kiln_ir::{Build, DType, Dim, Float, Value};

use super::index::coordinate;
use super::movement::dynamic;
use super::{How, Row, row};
use crate::onnx::cx::{Cx, OpError, Outputs, one};

use How::Fn;

pub(super) const ROWS: &[Row] = &[
    row("Bernoulli", &[15, 22], Fn(bernoulli)),
    row("BlackmanWindow", &[17], Fn(|cx| window(cx, [0.42, 0.5, 0.08]))),
    row("EyeLike", &[9, 22], Fn(eye_like)),
    row("HammingWindow", &[17], Fn(|cx| window(cx, [25.0 / 46.0, 21.0 / 46.0, 0.0]))),
    row("HannWindow", &[17], Fn(|cx| window(cx, [0.5, 0.5, 0.0]))),
    row("Multinomial", &[7, 22], Fn(multinomial)),
    row("RandomNormal", &[1, 22], Fn(random_normal)),
    row("RandomNormalLike", &[1, 22], Fn(random_normal)),
    row("RandomUniform", &[1, 22], Fn(random_uniform)),
    row("RandomUniformLike", &[1, 22], Fn(random_uniform)),
    row("Range", &[11, 27], Fn(range)),
];

pub(super) fn range(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let mut operands = cx.all_inputs()?;
    for v in &mut operands {
        *v = cx.b.reshape(*v, &[])?;
    }
    one(dynamic(cx, Dynamic::Range {}, &operands)?)
}

/// The elements of an i64 vector as dims. Where one is known only when the program runs, the length of a range up to
/// it names it.
pub(super) fn as_dims(cx: &mut Cx<'_, '_, '_>, v: Value) -> Result<Vec<Dim>, OpError> {
    if let Some(dims) = cx.known_dims(v) {
        return Ok(dims);
    }
    let dims = cx.shape(v)?;
    let count = match dims.as_slice() {
        [] => 1,
        [d] => d.as_known().ok_or_else(|| OpError::unsupported("a shape of unknown rank"))?,
        _ => return Err(OpError::invalid("a shape must be a vector")),
    };
    let v = cx.b.cast(v, DType::I64)?;
    let v = cx.b.reshape(v, &[Dim::known(count)])?;
    let (zero, unit) = (cx.b.scalar(DType::I64, 0.0)?, cx.b.scalar(DType::I64, 1.0)?);
    let mut out = vec![];
    for i in 0..count {
        let element = cx.b.slice_axis(v, 0, Dim::known(i), Dim::known(1))?;
        let element = cx.b.reshape(element, &[])?;
        let counted = dynamic(cx, Dynamic::Range {}, &[zero, element, unit])?;
        out.extend(cx.shape(counted)?);
    }
    Ok(out)
}

fn eye_like(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let x = cx.input(0)?;
    let dims = cx.shape(x)?;
    let [rows, columns] = dims.as_slice() else {
        return Err(OpError::invalid(format!("the operand must have rank 2, it has {}", dims.len())));
    };
    let dtype = match cx.attrs.dtype("dtype")? {
        Some(dtype) => dtype,
        None => cx.dtype(x)?,
    };
    let (row, column) = (coordinate(cx, rows, 0, 2)?, coordinate(cx, columns, 1, 2)?);
    let k = cx.attrs.int_or("k", 0)?;
    let k = cx.b.constant(kiln_ir::Tensor::scalar(k))?;
    let diagonal = cx.b.ew("add", &[row, k])?;
    let hit = cx.b.ew("eq", &[column, diagonal])?;
    one(cx.b.cast(hit, dtype)?)
}

/// `a0 - a1 cos(2 pi n / N) + a2 cos(4 pi n / N)`; N is the size, less one unless periodic.
fn window(cx: &mut Cx<'_, '_, '_>, [a0, a1, a2]: [f64; 3]) -> Outputs {
    let size = cx.input(0)?;
    let size = cx.b.reshape(size, &[])?;
    let size = cx.b.cast(size, DType::I64)?;
    let (zero, unit) = (cx.b.scalar(DType::I64, 0.0)?, cx.b.scalar(DType::I64, 1.0)?);
    let n = dynamic(cx, Dynamic::Range {}, &[zero, size, unit])?;
    let to = cx.attrs.dtype("output_datatype")?.unwrap_or(DType::F32);
    let work = if to == DType::F64 { DType::F64 } else { DType::F32 };
    let length = if cx.attrs.flag("periodic", true)? { size } else { cx.b.ew("sub", &[size, unit])? };
    let (n, length) = (cx.b.cast(n, work)?, cx.b.cast(length, work)?);
    let tau = cx.b.scalar(work, std::f64::consts::TAU)?;
    let angle = cx.b.ew("mul", &[n, tau])?;
    let angle = cx.b.ew("div", &[angle, length])?;
    let term = |cx: &mut Cx<'_, '_, '_>, factor: f64, multiple: f64| {
        let multiple = cx.b.scalar(work, multiple)?;
        let angle = cx.b.ew("mul", &[angle, multiple])?;
        let cosine = cx.b.ew("cos", &[angle])?;
        let factor = cx.b.scalar(work, factor)?;
        Ok::<_, OpError>(cx.b.ew("mul", &[cosine, factor])?)
    };
    let base = cx.b.scalar(work, a0)?;
    let first = term(cx, a1, 1.0)?;
    let mut y = cx.b.ew("sub", &[base, first])?;
    if a2 != 0.0 {
        let second = term(cx, a2, 2.0)?;
        y = cx.b.ew("add", &[y, second])?;
    }
    one(cx.b.cast(y, to)?)
}

fn seed(cx: &Cx<'_, '_, '_>) -> Result<Option<Float>, OpError> {
    Ok(cx.attrs.float("seed")?.map(Float::new))
}

/// Shape and dtype of random values: the attributes', or those of the operand of the `Like` forms.
fn random_type(cx: &Cx<'_, '_, '_>) -> Result<(Vec<Dim>, DType), OpError> {
    let dtype = cx.attrs.dtype("dtype")?;
    match cx.optional(0) {
        Some(x) => Ok((cx.shape(x)?, dtype.map_or_else(|| cx.dtype(x), Ok)?)),
        None => {
            let shape =
                cx.attrs.ints("shape")?.ok_or_else(|| OpError::invalid("attribute `shape` is missing"))?;
            Ok((shape.into_iter().map(Dim::known).collect(), dtype.unwrap_or(DType::F32)))
        }
    }
}

fn random_normal(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (shape, dtype) = random_type(cx)?;
    let mean = Float::new(cx.attrs.float_or("mean", 0.0)?);
    let scale = Float::new(cx.attrs.float_or("scale", 1.0)?);
    let seed = seed(cx)?;
    one(cx.b.add1(Host::RandomNormal { shape, dtype, mean, scale, seed }, &[])?)
}

fn random_uniform(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (shape, dtype) = random_type(cx)?;
    let low = Float::new(cx.attrs.float_or("low", 0.0)?);
    let high = Float::new(cx.attrs.float_or("high", 1.0)?);
    let seed = seed(cx)?;
    one(cx.b.add1(Host::RandomUniform { shape, dtype, low, high, seed }, &[])?)
}

fn bernoulli(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let x = cx.input(0)?;
    let dtype = match cx.attrs.dtype("dtype")? {
        Some(dtype) => dtype,
        None => cx.dtype(x)?,
    };
    let seed = seed(cx)?;
    one(cx.b.add1(Host::Bernoulli { dtype, seed }, &[x])?)
}

/// Samples by the Gumbel trick: the largest of `log p - log(-log u)`.
fn multinomial(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let x = cx.input(0)?;
    let dims = cx.shape(x)?;
    let [batch, classes] = dims.as_slice() else {
        return Err(OpError::invalid(format!("the operand must have rank 2, it has {}", dims.len())));
    };
    let samples = Dim::known(cx.attrs.int_or("sample_size", 1)?);
    let to = cx.attrs.dtype("dtype")?.unwrap_or(DType::I32);
    let x = cx.b.cast(x, DType::F32)?;
    let logits = cx.b.reshape(x, &[batch.clone(), Dim::known(1), classes.clone()])?;
    let shape = vec![batch.clone(), samples, classes.clone()];
    let (low, high) = (Float::new(f64::from(f32::MIN_POSITIVE)), Float::new(1.0));
    let seed = seed(cx)?;
    let draw = cx.b.add1(Host::RandomUniform { shape, dtype: DType::F32, low, high, seed }, &[])?;
    let noise = cx.b.ew("log", &[draw])?;
    let noise = cx.b.ew("neg", &[noise])?;
    let noise = cx.b.ew("log", &[noise])?;
    let scores = cx.b.ew("sub", &[logits, noise])?;
    let best = cx.b.add1(Order::ArgMax { axis: 2, keepdims: false, last: false }, &[scores])?;
    one(cx.b.cast(best, to)?)
}
