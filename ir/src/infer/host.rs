//! Rare operators.

use super::elementwise::broadcast_shapes;
use super::windows::pooled_size;
use super::{InferCx, InferError, Inferred, Results, check_sizes, ensure, size, unify, unknown_dims};
use crate::op::{Host, PixelFormat};
use crate::{DClass, DType, Dim, Shape};

pub(super) fn infer(op: &Host, cx: &InferCx<'_>) -> Results {
    let result = match op {
        Host::RandomUniform { shape, dtype, low: _, high: _, seed: _ }
        | Host::RandomNormal { shape, dtype, mean: _, scale: _, seed: _ } => {
            cx.expect_count(0)?;
            check_sizes(shape, "the shape")?;
            ensure!(dtype.is_float(), "random values of {dtype}");
            Inferred::tensor(*dtype, Shape::new(shape.clone()))
        }
        Host::Bernoulli { dtype, seed: _ } => {
            cx.expect_count(1)?;
            cx.expect_float(0)?;
            ensure!(!matches!(dtype.class(), DClass::Text | DClass::Complex), "random values of {dtype}");
            Inferred::tensor(*dtype, cx.tensor(0)?.shape.clone())
        }
        Host::NonMaxSuppression { center_point_box: _ } => {
            cx.expect_count(5)?;
            cx.dims_of_rank(0, 3)?;
            cx.dims_of_rank(1, 3)?;
            for i in [0, 1, 3, 4] {
                cx.expect_float(i)?;
            }
            cx.expect_dtype(2, DType::I64)?;
            Inferred::tensor(DType::I64, Shape::new(vec![Dim::unknown(), Dim::known(3)]))
        }
        Host::Det {} | Host::Inverse {} => matrices(op, cx)?,
        Host::Fail { message: _ } => return Ok(vec![]),
        Host::BitCast { to } => {
            cx.expect_count(1)?;
            let x = cx.tensor(0)?;
            ensure!(x.dtype.bits() == to.bits() && to.bits() > 0, "{} and {to} differ in width", x.dtype);
            Inferred::tensor(*to, x.shape.clone())
        }
        Host::Complex {} => complex(cx)?,
        Host::ComplexParts {} => return complex_parts(cx),
        Host::StringSplit { .. } => return split(cx),
        Host::StringConcat {}
        | Host::StringSlice { .. }
        | Host::StringEqual {}
        | Host::StringCast { .. }
        | Host::RegexFullMatch { .. }
        | Host::StringNormalize { .. }
        | Host::NgramCounts { .. } => infer_text(op, cx)?,
        Host::Lookup { keys, values, default } => {
            cx.expect_count(1)?;
            cx.expect_dtype(0, keys.dtype())?;
            let fits = keys.numel() == values.numel() && default.numel() == 1;
            ensure!(fits && values.dtype() == default.dtype(), "keys, values and default do not fit");
            Inferred::tensor(values.dtype(), cx.tensor(0)?.shape.clone())
        }
        Host::TreeEnsemble { .. } | Host::TreeClassifier { .. } => return super::trees::infer(op, cx),
        Host::GridSample { .. }
        | Host::RoiAlign { .. }
        | Host::MaxUnpool { .. }
        | Host::Col2Im { .. }
        | Host::DeformConv { .. } => infer_image(op, cx)?,
        Host::Dft { inverse, onesided } => dft(*inverse, *onesided, cx)?,
        Host::Stft { onesided } => stft(*onesided, cx)?,
        Host::MelWeightMatrix { dtype } => mel_weights(*dtype, cx)?,
        Host::ImageDecode { pixels } => picture(*pixels, cx)?,
    };
    Ok(vec![result])
}

fn complex(cx: &InferCx<'_>) -> Result<Inferred, InferError> {
    cx.expect_count(2)?;
    let (re, im) = (cx.tensor(0)?, cx.tensor(1)?);
    ensure!(re.dtype == im.dtype, "parts of {} and {}", re.dtype, im.dtype);
    let dtype = match re.dtype {
        DType::F32 => DType::C64,
        DType::F64 => DType::C128,
        other => return Err(InferError::new(format!("complex numbers of {other}"))),
    };
    let shape = match (re.shape.dims(), im.shape.dims()) {
        (Some(x), Some(y)) => {
            ensure!(x.len() == y.len(), "parts of rank {} and {}", x.len(), y.len());
            let dims = x.iter().zip(y).map(|(x, y)| unify(x, y, "sizes of the parts"));
            Shape::new(dims.collect::<Result<Vec<_>, _>>()?)
        }
        (Some(x), None) | (None, Some(x)) => Shape::new(x),
        (None, None) => Shape::unranked(),
    };
    Ok(Inferred::tensor(dtype, shape))
}

fn complex_parts(cx: &InferCx<'_>) -> Results {
    cx.expect_count(1)?;
    let x = cx.tensor(0)?;
    let dtype = match x.dtype {
        DType::C64 => DType::F32,
        DType::C128 => DType::F64,
        other => return Err(InferError::new(format!("parts of {other}"))),
    };
    let part = || Inferred::tensor(dtype, x.shape.clone());
    Ok(vec![part(), part()])
}

/// Square matrices along the last two axes: their determinants, or their inverses.
fn matrices(op: &Host, cx: &InferCx<'_>) -> Result<Inferred, InferError> {
    cx.expect_count(1)?;
    cx.expect_float(0)?;
    let x = cx.tensor(0)?;
    let shape = match x.shape.dims() {
        Some([batch @ .., a, b]) => {
            unify(a, b, "sizes of the last two axes")?;
            if matches!(op, Host::Det {}) { Shape::new(batch) } else { x.shape.clone() }
        }
        Some(_) => return Err(InferError::new("matrices need two axes")),
        None => Shape::unranked(),
    };
    Ok(Inferred::tensor(x.dtype, shape))
}

fn picture(pixels: PixelFormat, cx: &InferCx<'_>) -> Result<Inferred, InferError> {
    cx.expect_count(1)?;
    cx.expect_dtype(0, DType::U8)?;
    cx.dims_of_rank(0, 1)?;
    let channels = if pixels == PixelFormat::Gray { 1 } else { 3 };
    Ok(Inferred::tensor(DType::U8, Shape::new(vec![Dim::unknown(), Dim::unknown(), Dim::known(channels)])))
}

/// Operators on text with one result.
fn infer_text(op: &Host, cx: &InferCx<'_>) -> Result<Inferred, InferError> {
    let result = match op {
        Host::StringConcat {} => {
            cx.expect_count(2)?;
            Inferred::tensor(DType::String, broadcast_strings(cx)?)
        }
        Host::StringEqual {} => {
            cx.expect_count(2)?;
            Inferred::tensor(DType::Bool, broadcast_strings(cx)?)
        }
        Host::StringSlice { start: _, end: _ } => {
            cx.expect_count(1)?;
            cx.expect_dtype(0, DType::String)?;
            Inferred::tensor(DType::String, cx.tensor(0)?.shape.clone())
        }
        Host::StringCast { to } => {
            cx.expect_count(1)?;
            let x = cx.tensor(0)?;
            ensure!(
                (x.dtype == DType::String) != (*to == DType::String),
                "{} to {to} is no conversion from or to text",
                x.dtype
            );
            Inferred::tensor(*to, x.shape.clone())
        }
        Host::RegexFullMatch { pattern: _ } => {
            cx.expect_count(1)?;
            cx.expect_dtype(0, DType::String)?;
            Inferred::tensor(DType::Bool, cx.tensor(0)?.shape.clone())
        }
        Host::StringNormalize { .. } => {
            cx.expect_count(1)?;
            cx.expect_dtype(0, DType::String)?;
            let shape = match cx.dims(0)? {
                Some([_]) => Shape::new(vec![Dim::unknown()]),
                Some([_, _]) => Shape::new(vec![Dim::known(1), Dim::unknown()]),
                Some(other) => return Err(InferError::new(format!("rank {}", other.len()))),
                None => Shape::unranked(),
            };
            Inferred::tensor(DType::String, shape)
        }
        Host::NgramCounts { columns, pool, .. } => {
            cx.expect_count(1)?;
            let x = cx.tensor(0)?;
            let text = x.dtype == DType::String;
            ensure!(text == (pool.dtype() == DType::String), "n-grams of {} in {}", pool.dtype(), x.dtype);
            let width = columns.iter().max().map_or(0, |&c| c.saturating_add(1));
            let shape = match x.shape.dims() {
                Some([_]) => Shape::fixed(&[width]),
                Some([batch, _]) => Shape::new(vec![batch.clone(), Dim::known(width)]),
                Some(other) => return Err(InferError::new(format!("rank {}", other.len()))),
                None => Shape::unranked(),
            };
            Inferred::tensor(DType::F32, shape)
        }
        other => return Err(InferError::new(format!("{} is no operator on text", other.mnemonic()))),
    };
    Ok(result)
}

fn mel_weights(dtype: DType, cx: &InferCx<'_>) -> Result<Inferred, InferError> {
    cx.expect_count(5)?;
    for i in 0..3 {
        let ty = cx.tensor(i)?;
        ensure!(ty.dtype.is_int(), "operand {i} must be an integer, found {ty}");
    }
    (3..5).try_for_each(|i| cx.expect_float(i))?;
    ensure!(dtype.is_float(), "weights of {dtype}");
    let dim = |i: usize| cx.known_dims(i).and_then(|d| d.into_iter().next()).unwrap_or(Dim::unknown());
    let bins = dim(1).floor_div(&Dim::known(2)) + Dim::known(1);
    Ok(Inferred::tensor(dtype, Shape::new(vec![bins, size(dim(0), "the number of bins")?])))
}

fn broadcast_strings(cx: &InferCx<'_>) -> Result<Shape, InferError> {
    cx.expect_dtype(0, DType::String)?;
    cx.expect_dtype(1, DType::String)?;
    broadcast_shapes(&[&cx.tensor(0)?.shape, &cx.tensor(1)?.shape])
}

/// Pieces along a new axis, and their number.
fn split(cx: &InferCx<'_>) -> Results {
    cx.expect_count(1)?;
    cx.expect_dtype(0, DType::String)?;
    let shape = cx.tensor(0)?.shape.clone();
    let pieces = match shape.dims() {
        Some(dims) => Shape::new([dims, &[Dim::unknown()]].concat()),
        None => Shape::unranked(),
    };
    Ok(vec![Inferred::tensor(DType::String, pieces), Inferred::tensor(DType::I64, shape)])
}

/// Operators on image-like operands.
fn infer_image(op: &Host, cx: &InferCx<'_>) -> Result<Inferred, InferError> {
    let x = cx.tensor(0)?;
    let of = |shape: Shape| Ok(Inferred::tensor(x.dtype, shape));
    match op {
        Host::GridSample { .. } => {
            cx.expect_count(2)?;
            cx.expect_float(0)?;
            cx.expect_float(1)?;
            match (x.shape.dims(), cx.dims(1)?) {
                (Some([n, c, spatial @ ..]), Some([m, out @ .., _])) => {
                    ensure!(out.len() == spatial.len() && !out.is_empty(), "ranks of operand and grid");
                    let batch = unify(n, m, "batch sizes")?;
                    of(Shape::new([&[batch, c.clone()], out].concat()))
                }
                (Some(_), Some(_)) => Err(InferError::new("operand and grid need spatial axes")),
                _ => of(Shape::unranked()),
            }
        }
        Host::RoiAlign { height, width, .. } => {
            cx.expect_count(3)?;
            cx.expect_float(0)?;
            cx.expect_float(1)?;
            cx.expect_dtype(2, DType::I64)?;
            ensure!(*height >= 0 && *width >= 0, "a result of {height} by {width}");
            let channels = cx.dims_of_rank(0, 4)?.map_or(Dim::unknown(), |d| d[1].clone());
            let regions = cx.dims_of_rank(1, 2)?.map_or(Dim::unknown(), |d| d[0].clone());
            of(Shape::new(vec![regions, channels, Dim::known(*height), Dim::known(*width)]))
        }
        Host::MaxUnpool { .. } => {
            cx.expect_count(3)?;
            cx.expect_dtype(1, DType::I64)?;
            cx.int_vector(2)?;
            of(x.shape.rank().map_or(Shape::unranked(), unknown_dims))
        }
        Host::Col2Im { .. } => {
            cx.expect_count(3)?;
            cx.expect_float(0)?;
            cx.int_vector(2)?;
            let dims = cx.dims_of_rank(0, 3)?;
            let Some(rank) = cx.int_vector(1)? else { return of(Shape::unranked()) };
            ensure!(rank <= super::MAX_RANK, "{rank} spatial axes");
            let image = cx.known_dims(1).unwrap_or_else(|| vec![Dim::unknown(); rank]);
            let batch = dims.map_or(Dim::unknown(), |d| d[0].clone());
            let block = cx.known_ints(2).and_then(|b| b.iter().try_fold(1i64, |a, &b| a.checked_mul(b)));
            let channels = match (dims, block) {
                (Some(d), Some(block)) if block > 0 => d[1].floor_div(&Dim::known(block)),
                _ => Dim::unknown(),
            };
            of(Shape::new([vec![batch, channels], image].concat()))
        }
        Host::DeformConv { strides, dilations, pads, .. } => {
            let count = cx.operands.len();
            ensure!(count == 3 || count == 4, "expected 3 or 4 operands, found {count}");
            (0..count).try_for_each(|i| cx.expect_float(i))?;
            let (Some([n, _, spatial @ ..]), Some([o, _, kernel @ ..])) = (cx.dims(0)?, cx.dims(1)?) else {
                return of(Shape::unranked());
            };
            let rank = spatial.len();
            let lengths = [kernel.len(), strides.len(), dilations.len(), pads.len()];
            ensure!(lengths.iter().all(|&l| l == rank), "attributes do not fit {rank} spatial axes");
            let mut dims = vec![n.clone(), o.clone()];
            for a in 0..rank {
                ensure!(strides[a] > 0 && dilations[a] > 0, "strides and dilations must be positive");
                let one = Dim::known(1);
                let extent = (&kernel[a] - &one) * Dim::known(dilations[a]) + one;
                let pads = (Dim::known(pads[a].0), Dim::known(pads[a].1));
                dims.push(size(
                    pooled_size(&spatial[a], &extent, strides[a], &pads, false),
                    "a spatial size",
                )?);
            }
            of(Shape::new(dims))
        }
        other => Err(InferError::new(format!("{} is no operator on images", other.mnemonic()))),
    }
}

fn dft(inverse: bool, onesided: bool, cx: &InferCx<'_>) -> Result<Inferred, InferError> {
    cx.expect_count(3)?;
    cx.expect_float(0)?;
    cx.expect_dtype(1, DType::I64)?;
    cx.expect_dtype(2, DType::I64)?;
    let x = cx.tensor(0)?;
    let Some(dims) = x.shape.dims() else { return Ok(Inferred::tensor(x.dtype, Shape::unranked())) };
    ensure!(dims.len() >= 2, "a transform needs a signal axis and an axis of parts");
    let parts = if inverse && onesided { 1 } else { 2 };
    let mut out = vec![Dim::unknown(); dims.len()];
    out[dims.len() - 1] = Dim::known(parts);
    if let Some([axis]) = cx.known_ints(2).as_deref() {
        let axis = super::dynamic::normal_axis(*axis, dims.len())?;
        ensure!(axis + 1 < dims.len(), "axis {axis} holds the parts of complex numbers");
        out[..dims.len() - 1].clone_from_slice(&dims[..dims.len() - 1]);
        let (one, two) = (Dim::known(1), Dim::known(2));
        let length = match cx.known_dims(1).as_deref() {
            Some([length]) => length.clone(),
            Some([]) if inverse && onesided => (&dims[axis] - &one) * two.clone(),
            Some([]) => dims[axis].clone(),
            _ => Dim::unknown(),
        };
        out[axis] = if onesided && !inverse { length.floor_div(&two) + one } else { length };
    }
    Ok(Inferred::tensor(x.dtype, Shape::new(out)))
}

fn stft(onesided: bool, cx: &InferCx<'_>) -> Result<Inferred, InferError> {
    cx.expect_count(3)?;
    cx.expect_float(0)?;
    cx.expect_dtype(1, DType::I64)?;
    cx.expect_float(2)?;
    let signal = cx.dims_of_rank(0, 3)?;
    let window = cx.dims_of_rank(2, 1)?;
    let dim = |d: Option<&[Dim]>, i: usize| d.and_then(|d| d.get(i)).cloned().unwrap_or(Dim::unknown());
    let frame = dim(window, 0);
    let frames = match cx.known_ints(1).as_deref() {
        Some([step]) if *step > 0 => (dim(signal, 1) - &frame).floor_div(&Dim::known(*step)) + Dim::known(1),
        Some([step]) => return Err(InferError::new(format!("a frame step of {step}"))),
        _ => Dim::unknown(),
    };
    let bins = if onesided { frame.floor_div(&Dim::known(2)) + Dim::known(1) } else { frame };
    let shape = Shape::new(vec![dim(signal, 0), frames, bins, Dim::known(2)]);
    Ok(Inferred::tensor(cx.tensor(0)?.dtype, shape))
}
