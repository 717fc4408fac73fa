//! Products and lookups of weights that are quantized in blocks to a few bits.

use kiln_ir::op::{Index, Quant};
use kiln_ir::{Build, DType, Dim, Value};

use super::super::matmul::{Swaps, product};
use super::super::{MICROSOFT, Row, row_of};
use super::{absent, known_size, last, only, plus, repeated, slice_last};
use crate::onnx::cx::{Cx, OpError, Outputs, one};

pub(in super::super) const ROWS: &[Row] = &[
    row_of(MICROSOFT, "GatherBlockQuantized", gather_block_quantized),
    row_of(MICROSOFT, "MatMulBnb4", mat_mul_bnb4),
    row_of(MICROSOFT, "MatMulNBits", mat_mul_nbits),
];

/// Bytes as integers of `bits` bits, the lowest first, along the last axis, of which the first `keep` stay.
pub(super) fn unpack(cx: &mut Cx<'_, '_, '_>, v: Value, bits: i64, keep: &Dim) -> Result<Value, OpError> {
    let v = cx.b.cast(v, DType::U8)?;
    if bits == 8 {
        return slice_to(cx, v, keep);
    }
    let mut dims = cx.shape(v)?;
    let bytes = dims.pop().ok_or_else(|| OpError::invalid("packed integers have at least one axis"))?;
    let per_byte = 8 / bits;
    let shifts: Vec<u8> = (0..per_byte).filter_map(|i| u8::try_from(i * bits).ok()).collect();
    let shifts = cx.b.constant_of(&shifts)?;
    let mut split = dims.clone();
    split.extend([bytes.clone(), Dim::known(1)]);
    let v = cx.b.reshape(v, &split)?;
    let v = cx.b.ew("shift_right", &[v, shifts])?;
    let mask = cx.b.scalar(DType::U8, ((1 << bits) - 1) as f64)?;
    let v = cx.b.ew("bit_and", &[v, mask])?;
    dims.push(bytes * Dim::known(per_byte));
    let v = cx.b.reshape(v, &dims)?;
    slice_to(cx, v, keep)
}

fn slice_to(cx: &mut Cx<'_, '_, '_>, v: Value, keep: &Dim) -> Result<Value, OpError> {
    if &last(&cx.shape(v)?) == keep { Ok(v) } else { slice_last(cx, v, &Dim::known(0), keep) }
}

/// The number of bits and the size of blocks, checked.
fn blocks(cx: &Cx<'_, '_, '_>) -> Result<(i64, i64), OpError> {
    let bits = cx.attrs.int_or("bits", 4)?;
    if !matches!(bits, 2 | 4 | 8) {
        return Err(OpError::unsupported(format!("weights of {bits} bits")));
    }
    let block = cx.attrs.required_int("block_size")?;
    Ok((bits, power_of_two(block)?))
}

/// A size of blocks, checked.
fn power_of_two(block: i64) -> Result<i64, OpError> {
    match block {
        16..=0x4000_0000 if block.count_ones() == 1 => Ok(block),
        _ => Err(OpError::invalid(format!("block_size {block}"))),
    }
}

fn size_attribute(cx: &Cx<'_, '_, '_>, name: &'static str) -> Result<Dim, OpError> {
    match cx.attrs.required_int(name)? {
        size if size > 0 => Ok(Dim::known(size)),
        size => Err(OpError::invalid(format!("{name} {size}"))),
    }
}

/// `(q - zero) * scale` in f32 of integers `[..., blocks, block]`; scales and zeros are `[..., blocks]`.
pub(super) fn real_blocks(
    cx: &mut Cx<'_, '_, '_>,
    q: Value,
    scale: Value,
    zero: Value,
) -> Result<Value, OpError> {
    let column = |cx: &mut Cx<'_, '_, '_>, v: Value| {
        let v = cx.b.cast(v, DType::F32)?;
        let mut dims = cx.shape(v)?;
        dims.push(Dim::known(1));
        Ok::<_, OpError>(cx.b.reshape(v, &dims)?)
    };
    let q = cx.b.cast(q, DType::F32)?;
    let (scale, zero) = (column(cx, scale)?, column(cx, zero)?);
    let centred = cx.b.ew("sub", &[q, zero])?;
    Ok(cx.b.ew("mul", &[centred, scale])?)
}

/// Operands a, packed b `[N, blocks, bytes]`, scales and zero points `[N, blocks]`, group indices, bias. How accurate a
/// may be taken at least does not matter: it is taken as it is.
fn mat_mul_nbits(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (a, b, scales) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let (bits, block) = blocks(cx)?;
    let (n, k) = (size_attribute(cx, "N")?, size_attribute(cx, "K")?);
    only(cx, "weight_prepacked", 0)?;
    cx.attrs.int("accuracy_level")?;
    absent(cx, 4, "g_idx")?;
    let count = k.ceil_div(&Dim::known(block));
    let grid = [n.clone(), count.clone()];
    let b = cx.b.reshape(b, &[n.clone(), count.clone(), Dim::known(block * bits / 8)])?;
    let q = unpack(cx, b, bits, &Dim::known(block))?;
    let q = cx.b.reshape(q, &[n.clone(), &count * Dim::known(block)])?;
    let mut q = slice_to(cx, q, &k)?;
    let scales = cx.b.reshape(scales, &grid)?;
    let scales = cx.b.cast(scales, DType::F32)?;
    let zeros = match cx.optional(3) {
        Some(zeros) if cx.dtype(zeros)? == DType::U8 => {
            let bytes = (&count * Dim::known(bits)).ceil_div(&Dim::known(8));
            let zeros = cx.b.reshape(zeros, &[n.clone(), bytes])?;
            unpack(cx, zeros, bits, &count)?
        }
        Some(zeros) => {
            q = cx.b.cast(q, DType::F32)?;
            let zeros = cx.b.reshape(zeros, &grid)?;
            cx.b.cast(zeros, DType::F32)?
        }
        None => {
            let zero = cx.b.scalar(DType::U8, (1 << (bits - 1)) as f64)?;
            cx.b.broadcast(zero, &grid)?
        }
    };
    let w = cx.b.add1(Quant::Dequantize { to: DType::F32, axis: Some(1), block }, &[q, scales, zeros])?;
    let dtype = cx.dtype(a)?;
    let a = cx.b.cast(a, DType::F32)?;
    let y = product(cx, a, w, Swaps { a: false, b: true }, DType::F32)?;
    let bias = cx.optional(5).map(|v| cx.b.cast(v, DType::F32)).transpose()?;
    let y = plus(cx, y, bias)?;
    one(cx.b.cast(y, dtype)?)
}

/// The sixteen values of bitsandbytes' 4-bit types: FP4, and NF4, quantiles of the normal distribution (QLoRA,
/// arXiv:2305.14314, appendix E).
const FP4: [f32; 16] = [
    0.0,
    0.005_208_333_5,
    0.666_666_7,
    1.0,
    0.333_333_34,
    0.5,
    0.166_666_67,
    0.25,
    -0.0,
    -0.005_208_333_5,
    -0.666_666_7,
    -1.0,
    -0.333_333_34,
    -0.5,
    -0.166_666_67,
    -0.25,
];
const NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// Operands a, packed b (the high half of a byte first), one factor a block of the flattened `[N, K]`.
fn mat_mul_bnb4(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (a, b, factors) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let block = power_of_two(cx.attrs.required_int("block_size")?)?;
    let (n, k) = (size_attribute(cx, "N")?, size_attribute(cx, "K")?);
    let total = &n * &k;
    let bytes = total.ceil_div(&Dim::known(2));
    cx.attrs.flag("training_mode", false)?;
    let table = match cx.attrs.required_int("quant_type")? {
        0 => FP4,
        1 => NF4,
        other => return Err(OpError::invalid(format!("quant_type {other}"))),
    };
    let table = cx.b.constant_of(&table)?;
    let packed = cx.b.reshape(b, &[bytes.clone(), Dim::known(1)])?;
    let shifts = cx.b.constant_of(&[4u8, 0])?;
    let codes = cx.b.ew("shift_right", &[packed, shifts])?;
    let mask = cx.b.scalar(DType::U8, 15.0)?;
    let codes = cx.b.ew("bit_and", &[codes, mask])?;
    let codes = cx.b.cast(codes, DType::I32)?;
    let values = cx.b.add1(Index::Gather { axis: 0 }, &[table, codes])?;
    let values = cx.b.reshape(values, &[bytes * Dim::known(2)])?;
    let values = slice_to(cx, values, &total)?;
    let factors = cx.b.cast(factors, DType::F32)?;
    let factors = repeated(cx, factors, 0, &Dim::known(block), &total)?;
    let w = cx.b.ew("mul", &[values, factors])?;
    let w = cx.b.reshape(w, &[n, k])?;
    let swaps = Swaps { a: false, b: cx.attrs.flag("transB", true)? };
    one(product(cx, a, w, swaps, DType::F32)?)
}

/// Rows of a table by index; what lies outside gives zeros.
struct Lookup {
    indices: Value,
    inside: Value,
    axis: usize,
}

impl Lookup {
    fn new(cx: &mut Cx<'_, '_, '_>, indices: Value, size: &Dim, axis: usize) -> Result<Self, OpError> {
        let indices = cx.b.cast(indices, DType::I64)?;
        let size = cx.b.dims(std::slice::from_ref(size))?;
        let size = cx.b.reshape(size, &[])?;
        let lowest = cx.b.ew("neg", &[size])?;
        let above = cx.b.ew("ge", &[indices, lowest])?;
        let below = cx.b.ew("lt", &[indices, size])?;
        let inside = cx.b.ew("and", &[above, below])?;
        let zero = cx.b.scalar(DType::I64, 0.0)?;
        let indices = cx.b.ew("where", &[inside, indices, zero])?;
        Ok(Lookup { indices, inside, axis })
    }

    fn rows(&self, cx: &mut Cx<'_, '_, '_>, table: Value) -> Result<Value, OpError> {
        Ok(cx.b.add1(Index::Gather { axis: self.axis }, &[table, self.indices])?)
    }

    /// Zeros in place of the rows whose index lies outside, in a result of rank `rank`.
    fn masked(&self, cx: &mut Cx<'_, '_, '_>, rows: Value) -> Result<Value, OpError> {
        let rank = cx.rank(rows)?;
        let mut dims = vec![Dim::known(1); self.axis];
        dims.extend(cx.shape(self.inside)?);
        dims.resize(rank, Dim::known(1));
        let inside = cx.b.reshape(self.inside, &dims)?;
        let dtype = cx.dtype(rows)?;
        let zero = cx.b.scalar(dtype, 0.0)?;
        Ok(cx.b.ew("where", &[inside, rows, zero])?)
    }
}

/// Operands data, indices, scales, zero points.
fn gather_block_quantized(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (mut data, indices, mut scales) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let (dtype, stored) = (cx.dtype(scales)?, cx.dtype(data)?);
    let rank = cx.rank(data)?;
    let gather_axis = cx.attrs.int_or("gather_axis", 0)?;
    let quantize_axis = cx.attrs.int_or("quantize_axis", 1)?;
    let (gather_axis, quantize_axis) = (cx.axis(gather_axis, rank)?, cx.axis(quantize_axis, rank)?);
    let bits = cx.attrs.int_or("bits", 4)?;
    let mut zeros = cx.optional(3);
    if stored == DType::U8 {
        if !matches!(bits, 2 | 4 | 8) {
            return Err(OpError::unsupported(format!("weights of {bits} bits")));
        }
        let full = last(&cx.shape(data)?) * Dim::known(8 / bits);
        data = unpack(cx, data, bits, &full)?;
        let blocks = last(&cx.shape(scales)?);
        zeros = zeros.map(|v| unpack(cx, v, bits, &blocks)).transpose()?;
    }
    let dims = cx.shape(data)?;
    let along = |axis: usize| dims.get(axis).cloned().unwrap_or(Dim::known(1));
    let size = known_size(&along(quantize_axis), "a quantized axis")?;
    let block = match cx.attrs.int_or("block_size", 128)? {
        0 if stored.is_float() => size.max(1),
        block => power_of_two(block)?,
    };
    let (block, size) = (Dim::known(block), Dim::known(size));
    let lookup = Lookup::new(cx, indices, &along(gather_axis), gather_axis)?;
    scales = cx.b.cast(scales, DType::F32)?;
    // A scale may be shared by what the other axes tell apart.
    let mut form = dims.clone();
    if let Some(slot) = form.get_mut(quantize_axis) {
        *slot = size.ceil_div(&block);
    }
    scales = cx.b.broadcast(scales, &form)?;
    scales = repeated(cx, scales, quantize_axis, &block, &size)?;
    let wide = cx.b.cast(data, DType::F32)?;
    let mut q = lookup.rows(cx, wide)?;
    if !stored.is_float() {
        let zeros = match zeros {
            Some(zeros) => {
                let zeros = cx.b.cast(zeros, DType::F32)?;
                let zeros = repeated(cx, zeros, quantize_axis, &block, &size)?;
                Some(lookup.rows(cx, zeros)?)
            }
            None if stored == DType::U8 => Some(cx.b.scalar(DType::F32, (1 << (bits - 1)) as f64)?),
            None => None,
        };
        if let Some(zeros) = zeros {
            q = cx.b.ew("sub", &[q, zeros])?;
        }
    }
    let scales = lookup.rows(cx, scales)?;
    let y = cx.b.ew("mul", &[q, scales])?;
    let y = lookup.masked(cx, y)?;
    one(cx.b.cast(y, dtype)?)
}
