//! Constants, shapes, and moves of elements.

use kiln_ir::build::dynamic::BuildDynamic;
use kiln_ir::op::{Cast, Dynamic, Host, Index, Movement, PadMode};
use kiln_ir::{Build, DType, Dim, Scalar, Tensor, Value};

use super::generate::as_dims;
use super::{How, Row, row};
use crate::onnx::cx::{Cx, OpError, Outputs, one};
use crate::onnx::tensor;

use How::Fn;

pub(super) const ROWS: &[Row] = &[
    row("BitCast", &[26], Fn(bit_cast)),
    row("Cast", &[1, 6, 9, 13, 19, 21, 23, 24, 25], Fn(cast)),
    row("CastLike", &[15, 19, 21, 23, 24, 25], Fn(cast_like)),
    row("CenterCropPad", &[18], Fn(center_crop_pad)),
    row("Concat", &[1, 4, 11, 13], Fn(concat)),
    row("Constant", &[1, 9, 11, 12, 13, 19, 21, 23, 24, 25], Fn(constant)),
    row("ConstantOfShape", &[9, 20, 21, 23, 24, 25], Fn(constant_of_shape)),
    row("DepthToSpace", &[1, 11, 13], Fn(depth_to_space)),
    row("Dropout", &[1, 6, 7, 10, 12, 13, 22], Fn(dropout)),
    row("Expand", &[8, 13], Fn(expand)),
    row("Flatten", &[1, 9, 11, 13, 21, 23, 24, 25], Fn(flatten)),
    row("Identity", &[1, 13, 14, 16, 19, 21, 23, 24, 25], Fn(identity)),
    row("Pad", &[1, 2, 11, 13, 18, 19, 21, 23, 24, 25], Fn(pad)),
    row("Reshape", &[1, 5, 13, 14, 19, 21, 23, 24, 25], Fn(reshape)),
    row("Shape", &[1, 13, 15, 19, 21, 23, 24, 25], Fn(shape)),
    row("Size", &[1, 13, 19, 21, 23, 24, 25], Fn(size)),
    row("Slice", &[1, 10, 11, 13], Fn(slice)),
    row("SpaceToDepth", &[1, 13, 28], Fn(space_to_depth)),
    row("Split", &[1, 2, 11, 13, 18], Fn(split)),
    row("Squeeze", &[1, 11, 13, 21, 23, 24, 25], Fn(squeeze)),
    row("Tile", &[1, 6, 13], Fn(tile)),
    row("Transpose", &[1, 13, 21, 23, 24, 25], Fn(transpose)),
    row("Unsqueeze", &[1, 11, 13, 21, 23, 24, 25], Fn(unsqueeze)),
];

/// A dynamic operator of one result, or its static form.
pub(super) fn dynamic(cx: &mut Cx<'_, '_, '_>, op: Dynamic, operands: &[Value]) -> Result<Value, OpError> {
    let results = cx.b.dynamic(op, operands)?;
    results.first().copied().ok_or_else(|| OpError::invalid("the operator has no result"))
}

/// An i64 vector that is an attribute in old opsets and operand `i` in new ones.
fn ints_operand(cx: &mut Cx<'_, '_, '_>, name: &'static str, i: usize) -> Result<Option<Value>, OpError> {
    if let Some(v) = cx.optional(i) {
        return int_vector(cx, v).map(Some);
    }
    match cx.attrs.ints(name)? {
        Some(list) => cx.ints(&list).map(Some),
        None => Ok(None),
    }
}

/// An integer operand as an i64 vector.
pub(super) fn int_vector(cx: &mut Cx<'_, '_, '_>, v: Value) -> Result<Value, OpError> {
    let v = cx.b.cast(v, DType::I64)?;
    if cx.rank(v).ok() == Some(0) { Ok(cx.b.reshape(v, &[Dim::known(1)])?) } else { Ok(v) }
}

fn identity(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    one(cx.input(0)?)
}

fn constant(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let external = cx.external();
    let floats = |v: &[f64], dims: &[usize]| {
        let scalars: Vec<Scalar> = v.iter().map(|&v| Scalar::F(v)).collect();
        Tensor::from_scalars(DType::F32, dims, &scalars)
    };
    let value = if let Some(proto) = cx.attrs.tensor_proto("value")? {
        tensor::tensor(proto, external)?
    } else if let Some(proto) = cx.attrs.sparse_proto("sparse_value")? {
        tensor::sparse(proto, external, &mut cx.session.sparse_left)?
    } else if let Some(v) = cx.attrs.float("value_float")? {
        floats(&[v], &[])?
    } else if let Some(v) = cx.attrs.floats("value_floats")? {
        floats(&v, &[v.len()])?
    } else if let Some(v) = cx.attrs.int("value_int")? {
        Tensor::scalar(v)
    } else if let Some(v) = cx.attrs.ints("value_ints")? {
        Tensor::ints(&v)
    } else if let Some(v) = cx.attrs.string("value_string")? {
        Tensor::strings(&[], vec![v])?
    } else if let Some(v) = cx.attrs.strings("value_strings")? {
        Tensor::strings(&[v.len()], v)?
    } else {
        return Err(OpError::invalid("the constant has no value"));
    };
    one(cx.b.constant(value)?)
}

fn constant_of_shape(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let shape = cx.input(0)?;
    let value = match cx.attrs.tensor("value")? {
        Some(t) if t.numel() == 1 => t.reshaped(&[])?,
        Some(t) => {
            return Err(OpError::invalid(format!("`value` must have one element, it has {}", t.numel())));
        }
        None => Tensor::scalar(0.0f32),
    };
    let value = cx.b.constant(value)?;
    one(cx.b.fill(shape, value)?)
}

/// The dtype that `Cast` names: a number, or text before opset 6.
fn cast_target(cx: &Cx<'_, '_, '_>) -> Result<DType, OpError> {
    if cx.opset >= 6 {
        return cx.attrs.dtype("to")?.ok_or_else(|| OpError::invalid("attribute `to` is missing"));
    }
    let name = cx.attrs.string_or("to", "")?;
    Ok(match name.to_ascii_uppercase().as_str() {
        "FLOAT" => DType::F32,
        "UINT8" => DType::U8,
        "INT8" => DType::I8,
        "UINT16" => DType::U16,
        "INT16" => DType::I16,
        "INT32" => DType::I32,
        "INT64" => DType::I64,
        "BOOL" => DType::Bool,
        "FLOAT16" => DType::F16,
        "DOUBLE" => DType::F64,
        "UINT32" => DType::U32,
        "UINT64" => DType::U64,
        _ => return Err(OpError::invalid(format!("no dtype `{name}`"))),
    })
}

fn convert(cx: &mut Cx<'_, '_, '_>, to: DType) -> Outputs {
    let x = cx.input(0)?;
    let from = cx.dtype(x)?;
    if from == to {
        return one(x);
    }
    if from == DType::String || to == DType::String {
        return one(cx.b.add1(Host::StringCast { to }, &[x])?);
    }
    // The flag exists from opset 19 on, for the narrow floats that came with it.
    let saturate = cx.attrs.flag("saturate", true)?;
    if from.is_float() && to.is_int() && to.is_packed() {
        // Integers of 2 and 4 bits keep the low bits of the truncated value.
        let wide = cx.b.cast(x, DType::I32)?;
        return one(cx.b.cast(wide, to)?);
    }
    one(cx.b.add1(kiln_ir::Op::Cast(Cast { to, saturate }), &[x])?)
}

fn cast(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let to = cast_target(cx)?;
    convert(cx, to)
}

fn cast_like(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let to = cx.dtype(cx.input(1)?)?;
    convert(cx, to)
}

fn bit_cast(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let x = cx.input(0)?;
    let to = cx.attrs.dtype("to")?.ok_or_else(|| OpError::invalid("attribute `to` is missing"))?;
    let from = cx.dtype(x)?;
    if from.bits() != to.bits() || from.bits() == 0 {
        return Err(OpError::invalid(format!("{from} and {to} differ in size")));
    }
    if from == to {
        return one(x);
    }
    one(cx.b.add1(Host::BitCast { to }, &[x])?)
}

fn shape(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let x = cx.input(0)?;
    let op = Dynamic::Shape { start: cx.attrs.int_or("start", 0)?, end: cx.attrs.int("end")? };
    one(dynamic(cx, op, &[x])?)
}

fn size(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let x = cx.input(0)?;
    one(dynamic(cx, Dynamic::Size {}, &[x])?)
}

fn reshape(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let x = cx.input(0)?;
    let shape = ints_operand(cx, "shape", 1)?.ok_or_else(|| OpError::invalid("the shape is missing"))?;
    let allow_zero = cx.attrs.flag("allowzero", false)?;
    one(dynamic(cx, Dynamic::Reshape { allow_zero }, &[x, shape])?)
}

fn expand(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (x, shape) = (cx.input(0)?, cx.input(1)?);
    one(dynamic(cx, Dynamic::Expand {}, &[x, shape])?)
}

/// Opset 1 repeats one axis.
fn tile(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (x, mut repeats) = (cx.input(0)?, cx.input(1)?);
    if cx.opset < 6 {
        let axis = cx.constant_ints(cx.input(2)?, "the axis")?;
        let count = cx.constant_ints(repeats, "the number of tiles")?;
        let rank = cx.rank(x)?;
        let mut all = vec![1; rank];
        for (&axis, &count) in axis.iter().zip(&count) {
            let axis = cx.axis(axis, rank)?;
            if let Some(slot) = all.get_mut(axis) {
                *slot = count;
            }
        }
        repeats = cx.ints(&all)?;
    }
    one(dynamic(cx, Dynamic::Tile {}, &[x, repeats])?)
}

fn flatten(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let x = cx.input(0)?;
    let dims = cx.shape(x)?;
    let axis = cx.attrs.int_or("axis", 1)?;
    let at = if axis < 0 { axis + dims.len() as i64 } else { axis };
    let at = usize::try_from(at).ok().filter(|&a| a <= dims.len());
    let at = at.ok_or_else(|| OpError::invalid(format!("axis {axis} for rank {}", dims.len())))?;
    let product = |part: &[Dim]| part.iter().fold(Dim::known(1), |a, b| a * b);
    let (outer, inner) = dims.split_at(at);
    one(cx.b.reshape(x, &[product(outer), product(inner)])?)
}

fn squeeze(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let x = cx.input(0)?;
    let axes = match ints_operand(cx, "axes", 1)? {
        Some(axes) => axes,
        None => cx.ints(&[])?,
    };
    one(dynamic(cx, Dynamic::Squeeze {}, &[x, axes])?)
}

fn unsqueeze(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let x = cx.input(0)?;
    let axes = ints_operand(cx, "axes", 1)?.ok_or_else(|| OpError::invalid("the axes are missing"))?;
    one(dynamic(cx, Dynamic::Unsqueeze {}, &[x, axes])?)
}

fn transpose(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let x = cx.input(0)?;
    let Some(perm) = cx.attrs.ints("perm")? else {
        return one(dynamic(cx, Dynamic::ReverseAxes {}, &[x])?);
    };
    let perm = cx.axes(&perm, perm.len())?;
    one(cx.b.transpose(x, &perm)?)
}

fn concat(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let operands = cx.all_inputs()?;
    let axis = match cx.attrs.int("axis")? {
        Some(axis) => axis,
        None if cx.opset < 4 => 1,
        None => return Err(OpError::invalid("attribute `axis` is missing")),
    };
    one(dynamic(cx, Dynamic::Concat { axis }, &operands)?)
}

fn slice(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let x = cx.input(0)?;
    let missing = |what: &str| OpError::invalid(format!("the {what} are missing"));
    let starts = ints_operand(cx, "starts", 1)?.ok_or_else(|| missing("starts"))?;
    let ends = ints_operand(cx, "ends", 2)?.ok_or_else(|| missing("ends"))?;
    let axes = ints_operand(cx, "axes", 3)?;
    let steps = ints_operand(cx, "steps", 4)?;
    // How many axes are sliced is the length of any of the operands.
    let lengths = [Some(starts), Some(ends), axes, steps].into_iter().flatten();
    let count = lengths
        .filter_map(|v| cx.shape(v).ok()?.first()?.as_known())
        .next()
        .and_then(|n| usize::try_from(n).ok())
        .or(cx.rank(x).ok())
        .ok_or_else(|| OpError::unsupported("an unknown number of axes"))?;
    let axes = match axes {
        Some(axes) => axes,
        None => cx.ints(&(0..count as i64).collect::<Vec<_>>())?,
    };
    let steps = match steps {
        Some(steps) => steps,
        None => cx.ints(&vec![1; count])?,
    };
    one(dynamic(cx, Dynamic::Slice {}, &[x, starts, ends, axes, steps])?)
}

pub(super) fn pad(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let x = cx.input(0)?;
    let mode = match cx.attrs.string_or("mode", "constant")?.as_str() {
        "constant" => PadMode::Constant,
        "reflect" => PadMode::Reflect,
        "edge" => PadMode::Edge,
        "wrap" => PadMode::Wrap,
        other => return Err(OpError::invalid(format!("mode `{other}`"))),
    };
    let name = if cx.opset < 2 { "paddings" } else { "pads" };
    let pads = ints_operand(cx, name, 1)?.ok_or_else(|| OpError::invalid("the pads are missing"))?;
    let dtype = cx.dtype(x)?;
    let value = match cx.optional(2) {
        Some(v) => cx.b.reshape(v, &[])?,
        None if dtype == DType::String => cx.b.constant(Tensor::strings(&[], vec![String::new()])?)?,
        None => {
            let value = cx.attrs.float_or("value", 0.0)?;
            cx.b.constant(Tensor::from_scalars(dtype, &[], &[Scalar::F(value)])?)?
        }
    };
    let axes = match cx.optional(3) {
        Some(axes) => int_vector(cx, axes)?,
        None => {
            let rank = cx.rank(x)? as i64;
            cx.ints(&(0..rank).collect::<Vec<_>>())?
        }
    };
    one(dynamic(cx, Dynamic::Pad { mode }, &[x, pads, value, axes])?)
}

fn split(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let x = cx.input(0)?;
    let axis = cx.attrs.int_or("axis", 0)?;
    let sizes = match ints_operand(cx, "split", 1)? {
        // As many pieces as the node has results, whatever is known of the operand.
        Some(sizes) if cx.shape(sizes).is_ok_and(|d| d.iter().all(|d| d.as_known().is_some())) => sizes,
        Some(sizes) => cx.b.reshape(sizes, &[Dim::known(cx.node.output.len() as i64)])?,
        None => {
            let count = cx.attrs.int_or("num_outputs", cx.node.output.len() as i64)?;
            even_pieces(cx, x, axis, count)?
        }
    };
    Ok(cx.b.dynamic(Dynamic::Split { axis }, &[x, sizes])?.to_vec())
}

/// Pieces of equal size, the last ones smaller if need be.
fn even_pieces(cx: &mut Cx<'_, '_, '_>, x: Value, axis: i64, count: i64) -> Result<Value, OpError> {
    if !(1..=1 << 16).contains(&count) {
        return Err(OpError::invalid(format!("{count} pieces")));
    }
    let Ok(dims) = cx.shape(x) else { return unranked_pieces(cx, x, axis, count) };
    let axis = cx.axis(axis, dims.len())?;
    let size = dims.get(axis).cloned().unwrap_or(Dim::known(1));
    if let Some(piece) = size.exact_div(&Dim::known(count)) {
        return Ok(cx.b.dims(&vec![piece; usize::try_from(count).unwrap_or(1)])?);
    }
    let piece = size.ceil_div(&Dim::known(count));
    let zero = Dim::known(0);
    let pieces = (0..count).map(|i| piece.lesser(&(&size - Dim::known(i) * &piece).greater(&zero)));
    Ok(cx.b.dims(&pieces.collect::<Vec<_>>())?)
}

/// The same for an operand of unknown rank, computed when the program runs.
fn unranked_pieces(cx: &mut Cx<'_, '_, '_>, x: Value, axis: i64, count: i64) -> Result<Value, OpError> {
    let shape = cx.b.shape_of(x)?;
    let at = cx.ints(&[axis])?;
    let size = cx.b.add1(Index::Gather { axis: 0 }, &[shape, at])?;
    let number = |cx: &mut Cx<'_, '_, '_>, v: i64| cx.b.constant(Tensor::scalar(v));
    let (zero, divisor, rest) = (number(cx, 0)?, number(cx, count)?, number(cx, count - 1)?);
    let rounded = cx.b.ew("add", &[size, rest])?;
    let piece = cx.b.ew("div", &[rounded, divisor])?;
    let order = cx.ints(&(0..count).collect::<Vec<_>>())?;
    let used = cx.b.ew("mul", &[order, piece])?;
    let left = cx.b.ew("sub", &[size, used])?;
    Ok(cx.b.ew("clamp", &[left, zero, piece])?)
}

/// Whether dropout is on: never, always, or as a bool operand says when the program runs.
enum Training {
    Off,
    On,
    Operand(Value),
}

fn training(cx: &mut Cx<'_, '_, '_>) -> Result<Training, OpError> {
    let on = match (cx.opset, cx.optional(2)) {
        (12.., Some(flag)) => match cx.known_tensor(flag).and_then(Tensor::to_ints) {
            Some(known) => known.first() != Some(&0),
            None => return Ok(Training::Operand(cx.b.reshape(flag, &[])?)),
        },
        (7.., _) => false,
        _ => !cx.attrs.flag("is_test", false)?,
    };
    Ok(if on { Training::On } else { Training::Off })
}

/// Without training, an identity whose mask is all true; with it, random by definition unless the ratio is 0.
fn dropout(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let x = cx.input(0)?;
    let mask_dtype = if cx.opset >= 10 { DType::Bool } else { cx.dtype(x)? };
    let mode = training(cx)?;
    if matches!(mode, Training::Off) {
        if !cx.wants(1) {
            return one(x);
        }
        let truth = cx.b.constant(Tensor::from_scalars(mask_dtype, &[], &[Scalar::I(1)])?)?;
        let shape = cx.b.shape_of(x)?;
        return Ok(vec![x, cx.b.expand_to(truth, shape)?]);
    }
    // In double precision, as the reference implementation draws.
    let ratio = match cx.optional(1) {
        Some(v) => cx.b.cast(v, DType::F64)?,
        None => {
            let ratio = cx.attrs.float_or("ratio", 0.5)?;
            cx.b.scalar(DType::F64, ratio)?
        }
    };
    let seed = cx.attrs.int("seed")?.map(|v| kiln_ir::Float::new(v as f64));
    let (low, high) = (0.0.into(), 1.0.into());
    let random = Host::RandomUniform { shape: cx.shape(x)?, dtype: DType::F64, low, high, seed };
    let draw = cx.b.add1(random, &[])?;
    let mut keep = cx.b.ew("ge", &[draw, ratio])?;
    let unit = cx.b.scalar(DType::F64, 1.0)?;
    let rest = cx.b.ew("sub", &[unit, ratio])?;
    let scale = cx.b.ew("div", &[unit, rest])?;
    let dtype = cx.dtype(x)?;
    let scale = cx.b.cast(scale, dtype)?;
    let mut scaled = cx.b.ew("mul", &[x, scale])?;
    if let Training::Operand(flag) = mode {
        let off = cx.b.ew("not", &[flag])?;
        keep = cx.b.ew("or", &[keep, off])?;
        scaled = cx.b.ew("where", &[flag, scaled, x])?;
    }
    let zero = cx.b.scalar(dtype, 0.0)?;
    let y = cx.b.ew("where", &[keep, scaled, zero])?;
    let mask = cx.b.cast(keep, mask_dtype)?;
    Ok(vec![y, mask])
}

fn block(cx: &Cx<'_, '_, '_>) -> Result<i64, OpError> {
    let size = cx.attrs.required_int("blocksize")?;
    if size > 0 { Ok(size) } else { Err(OpError::invalid(format!("blocksize {size}"))) }
}

fn image_dims(cx: &Cx<'_, '_, '_>, x: Value) -> Result<[Dim; 4], OpError> {
    let dims = cx.shape(x)?;
    let rank = dims.len();
    dims.try_into().map_err(|_| OpError::invalid(format!("the operand must have rank 4, it has {rank}")))
}

fn depth_to_space(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let x = cx.input(0)?;
    let b = Dim::known(block(cx)?);
    let [n, c, h, w] = image_dims(cx, x)?;
    let inner = match c.exact_div(&(&b * &b)) {
        Some(inner) => inner,
        None if c.as_known().is_some() => {
            return Err(OpError::invalid("channels do not divide by blocksize²"));
        }
        // The reshape fails when the program runs with channels that do not divide.
        None => c.floor_div(&(&b * &b)),
    };
    let (split, perm): (Vec<Dim>, [usize; 6]) = match cx.attrs.string_or("mode", "DCR")?.as_str() {
        "DCR" => {
            (vec![n.clone(), b.clone(), b.clone(), inner.clone(), h.clone(), w.clone()], [0, 3, 4, 1, 5, 2])
        }
        "CRD" => {
            (vec![n.clone(), inner.clone(), b.clone(), b.clone(), h.clone(), w.clone()], [0, 1, 4, 2, 5, 3])
        }
        other => return Err(OpError::invalid(format!("mode `{other}`"))),
    };
    let v = cx.b.reshape(x, &split)?;
    let v = cx.b.transpose(v, &perm)?;
    one(cx.b.reshape(v, &[n, inner, h * &b, w * &b])?)
}

fn space_to_depth(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let x = cx.input(0)?;
    let b = Dim::known(block(cx)?);
    let [n, c, h, w] = image_dims(cx, x)?;
    let (hb, wb) = (h.floor_div(&b), w.floor_div(&b));
    let split = [n.clone(), c.clone(), hb.clone(), b.clone(), wb.clone(), b.clone()];
    let v = cx.b.reshape(x, &split)?;
    let perm = match cx.attrs.string_or("mode", "DCR")?.as_str() {
        "DCR" => [0, 3, 5, 1, 2, 4],
        "CRD" => [0, 1, 3, 5, 2, 4],
        other => return Err(OpError::invalid(format!("mode `{other}`"))),
    };
    let v = cx.b.transpose(v, &perm)?;
    one(cx.b.reshape(v, &[n, c * &b * &b, hb, wb])?)
}

/// Crops and pads around the centre; where the difference is odd, the extra element is at the end.
fn center_crop_pad(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (mut x, shape) = (cx.input(0)?, cx.input(1)?);
    let dims = cx.shape(x)?;
    let axes = cx.attrs.ints("axes")?.unwrap_or_else(|| (0..dims.len() as i64).collect());
    let axes = cx.axes(&axes, dims.len())?;
    let wanted = as_dims(cx, shape)?;
    if wanted.len() != axes.len() {
        return Err(OpError::invalid(format!("{} sizes for {} axes", wanted.len(), axes.len())));
    }
    let zero = Dim::known(0);
    let mut before = vec![zero.clone(); dims.len()];
    let mut after = before.clone();
    for (&axis, want) in axes.iter().zip(&wanted) {
        let Some(d) = dims.get(axis) else { continue };
        let crop = (d - want).greater(&zero);
        let cropped = d.lesser(want);
        x = cx.b.slice_axis(x, axis, crop.floor_div(&Dim::known(2)), cropped)?;
        let pad = (want - d).greater(&zero);
        let first = pad.floor_div(&Dim::known(2));
        if let (Some(b), Some(a)) = (before.get_mut(axis), after.get_mut(axis)) {
            (*b, *a) = (first.clone(), pad - first);
        }
    }
    let dtype = cx.dtype(x)?;
    let fill = cx.b.scalar(dtype, 0.0)?;
    one(cx.b.add1(Movement::Pad { mode: PadMode::Constant, before, after }, &[x, fill])?)
}
