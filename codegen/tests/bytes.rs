//! Contractions of bytes: on every tier the bits of the interpreter, and graphs of quantized operators those of the
//! reference evaluator.

mod support;

use kiln_codegen::kir::builder::{ContractShape, RhsBuilder};
use kiln_codegen::kir::{Bound, Kernel, KernelBuilder};
use kiln_ir::op::{Cast, Contract, ContractSpec, Conv, Layout, Quant};
use kiln_ir::{Build, DType, Dim, GraphBuilder, InferError, Op, Prim, Tensor, Value};
use support::{Body, EXACT, TIGHT, check, check_module, evaluated, fusion};

/// Bytes of every magnitude.
fn bytes(len: i64, seed: i64) -> Vec<u8> {
    (0..len).map(|i| ((i + 1) * (37 + 2 * seed) % 251 + (i / 7 + seed) % 5) as u8).collect()
}

#[derive(Clone, Copy, Debug)]
struct Gemm {
    m: i64,
    n: i64,
    k: i64,
    width: i64,
    signed: bool,
    /// Bytes between rows, less `k`.
    gap: i64,
    /// Whether all operands are the largest that there are, with opposite signs.
    extreme: bool,
}

/// `out[m][n] = sum a[m][k] b[k][n]` in i32.
fn gemm(g: Gemm) -> (Kernel, Vec<Vec<u8>>) {
    let Gemm { m, n, k, width, signed, gap, extreme } = g;
    let mut b = KernelBuilder::new("bytes");
    let x = b.input(if signed { DType::I8 } else { DType::U8 });
    let (w, out) = (b.weights(DType::I8), b.output(DType::I32));
    let stride = k + gap;
    let shape = ContractShape {
        m: (0.into(), m.into()),
        n: (0.into(), n.into()),
        taps: vec![],
        k: (0.into(), k.into()),
        acc_dtype: DType::I32,
    };
    b.contract(
        shape,
        |b, row, _, kk| {
            let v = b.load(x, row.clone() * stride + kk);
            if !signed {
                return v;
            }
            let bits = b.bits(v, DType::U8);
            let sign = b.literal(DType::U8, 128.0);
            b.apply(Prim::Xor, &[bits, sign])
        },
        RhsBuilder::Quads { buffer: w, base: 0.into(), width: width as u32 },
        |b, row, column, sum| b.store(out, row.clone() * n + column, sum),
    );
    let steps = (k + 3) / 4;
    let mut panels = bytes((n + width - 1) / width * width * steps * 4, 2);
    let mut rows = bytes(m * stride, 1);
    if extreme {
        panels.fill(0x80);
        rows.fill(if signed { 0x7f } else { 0xff });
    }
    for (i, byte) in (0..).zip(&mut panels) {
        if i / (4 * width) % steps * 4 + i % 4 >= k {
            *byte = 0;
        }
    }
    (b.finish().unwrap(), vec![rows, panels, vec![0; (4 * m * n) as usize]])
}

#[test]
fn products_agree() {
    let plain = Gemm { m: 5, n: 20, k: 16, width: 16, signed: false, gap: 0, extreme: false };
    let mut cases = vec![];
    for k in 1..=9 {
        cases.push(Gemm { k, ..plain });
        cases.push(Gemm { k, signed: true, gap: 3, m: 17, ..plain });
    }
    for n in [1, 2, 7, 8, 15, 16, 17, 31, 33, 48, 49, 70] {
        for width in [4, 8, 16, 48] {
            cases.push(Gemm { n, width, m: 1 + n % 4, k: 24, signed: n % 2 == 0, ..plain });
        }
    }
    for (m, k) in [(1, 64), (2, 260), (3, 3072), (50, 68), (70, 21)] {
        cases.push(Gemm { m, k, n: 18, width: 48, ..plain });
        cases.push(Gemm { m, k, n: 18, width: 16, signed: true, ..plain });
    }
    for signed in [false, true] {
        cases.push(Gemm { k: 68, signed, extreme: true, width: 32, ..plain });
    }
    for case in cases {
        let (kernel, buffers) = gemm(case);
        check(&kernel, &buffers, &[], TIGHT);
    }
}

/// A convolution of 3x3 taps of bytes, padded with `padding`, to bytes.
fn conv(ci: i64, co: i64, [h, w]: [i64; 2], stride: i64, signed: bool) -> (Kernel, Vec<Vec<u8>>) {
    let mut b = KernelBuilder::new("bytes");
    let x = b.input(if signed { DType::I8 } else { DType::U8 });
    let (wt, out) = (b.weights(DType::I8), b.output(DType::U8));
    let (oh, ow, width) = ((h - 1) / stride + 1, (w - 1) / stride + 1, 16);
    let shape = ContractShape {
        m: (0.into(), (oh * ow).into()),
        n: (0.into(), co.into()),
        taps: vec![(0.into(), 3.into()), (0.into(), 3.into())],
        k: (0.into(), ci.into()),
        acc_dtype: DType::I32,
    };
    b.contract(
        shape,
        |b, m, taps, k| {
            let row = m.clone().floor_div(ow) * stride + taps[0].clone() - 1;
            let column = m.clone().modulo(ow) * stride + taps[1].clone() - 1;
            let index = (row.clone() * w + column.clone()) * ci + k;
            let bounds = vec![Bound::below(row, h), Bound::below(column, w)];
            let v = b.load_guarded(x, index, bounds, 11.0);
            if !signed {
                return v;
            }
            let bits = b.bits(v, DType::U8);
            let sign = b.literal(DType::U8, 128.0);
            b.apply(Prim::Xor, &[bits, sign])
        },
        RhsBuilder::Quads { buffer: wt, base: 0.into(), width },
        |b, m, n, sum| {
            let v = b.cast(sum, DType::F32);
            let scale = b.literal(DType::F32, 310.0);
            let v = b.apply(Prim::Div, &[v, scale]);
            let v = b.apply(Prim::Round, &[v]);
            let (zero, low, high) =
                (b.literal(DType::F32, 120.0), b.literal(DType::F32, 0.0), b.literal(DType::F32, 255.0));
            let v = b.apply(Prim::Add, &[v, zero]);
            let v = b.apply(Prim::Max, &[v, low]);
            let v = b.apply(Prim::Min, &[v, high]);
            let v = b.cast(v, DType::U8);
            b.store(out, m.clone() * co + n, v);
        },
    );
    let steps = (ci + 3) / 4;
    let width = i64::from(width);
    let mut panels = bytes((co + width - 1) / width * width * 9 * steps * 4, 2);
    for (i, byte) in (0..).zip(&mut panels) {
        if i / (4 * width) % steps * 4 + i % 4 >= ci {
            *byte = 0;
        }
    }
    (b.finish().unwrap(), vec![bytes(h * w * ci, 1), panels, vec![0; (oh * ow * co) as usize]])
}

#[test]
fn convolutions_agree() {
    for ci in [3, 4, 6, 20] {
        for (size, stride) in [([5, 7], 1), ([9, 6], 2)] {
            for signed in [false, true] {
                let (kernel, buffers) = conv(ci, 20, size, stride, signed);
                check(&kernel, &buffers, &[], TIGHT);
            }
        }
    }
    // Lines that fit into tile registers, and longer ones.
    for (ci, co, size) in
        [(64, 40, [6, 14]), (64, 16, [7, 7]), (20, 16, [4, 16]), (64, 16, [3, 17]), (20, 12, [4, 24])]
    {
        let (kernel, buffers) = conv(ci, co, size, 1, false);
        check(&kernel, &buffers, &[], TIGHT);
    }
}

/// Checks a graph against the evaluator; whether its kernel multiplies bytes must be `expected`.
fn graph(name: &str, x: &Tensor, expected: bool, body: Body<'_>) {
    let module = fusion(name, x, body);
    let wanted = evaluated(&module, x);
    check_module(name, &module, (x, &wanted), EXACT, &|text| text.contains(" group=4") == expected);
}

fn tensor(dtype: DType, dims: &[usize], seed: i64) -> Tensor {
    let len: usize = dims.iter().product();
    Tensor::new(dtype, dims, kiln_ir::tensor::Bytes::copied(&bytes(len as i64, seed))).unwrap()
}

/// `x` as i32, less `zero`.
fn centred(b: &mut GraphBuilder<'_>, x: Value, zero: i32) -> Result<Value, InferError> {
    let wide = b.add1(Op::Cast(Cast { to: DType::I32, saturate: true }), &[x])?;
    let zero = b.constant(Tensor::from_slice(&[], &[zero]).map_err(|e| InferError::new(e.to_string()))?)?;
    b.ew("sub", &[wide, zero])
}

fn constant(b: &mut GraphBuilder<'_>, tensor: Tensor) -> Result<Value, InferError> {
    b.constant(tensor)
}

fn matmul(b: &mut GraphBuilder<'_>, x: Value, w: Value) -> Result<Value, InferError> {
    let spec = ContractSpec { lhs: b"mk".to_vec(), rhs: b"kn".to_vec(), out: b"mn".to_vec() };
    b.add1(Contract::Einsum { spec, out: DType::I32 }, &[x, w])
}

/// Sums times a scale of each column, with a bias and a ReLU, as bytes.
fn requantized(b: &mut GraphBuilder<'_>, sums: Value, n: usize) -> Result<Value, InferError> {
    let of = |f: &dyn Fn(usize) -> f32| {
        let values: Vec<f32> = (0..n).map(f).collect();
        Tensor::from_slice(&[n], &values).map_err(|e| InferError::new(e.to_string()))
    };
    let (scale, bias) = (of(&|i| 0.001 + i as f32 * 1e-5)?, of(&|i| i as f32 - 9.0)?);
    let (scale, bias) = (b.constant(scale)?, b.constant(bias)?);
    let real = b.cast(sums, DType::F32)?;
    let real = b.ew("mul", &[real, scale])?;
    let real = b.ew("add", &[real, bias])?;
    let real = b.ew("relu", &[real])?;
    let step = b.scalar(DType::F32, 0.23)?;
    let zero = b.scalar(DType::U8, 7.0)?;
    let op = Quant::Quantize { to: DType::U8, axis: None, block: 0, saturate: true, inverse: false };
    b.add1(op, &[real, step, zero])
}

#[test]
fn quantized_products_multiply_bytes() {
    for dtype in [DType::U8, DType::I8] {
        for (m, k, n) in [(7, 24, 40), (33, 30, 17), (1, 64, 70)] {
            let x = tensor(dtype, &[m, k], 3);
            graph("less a zero point", &x, true, &|b, x| {
                let w = constant(b, tensor(DType::I8, &[k, n], 5))?;
                let (x, w) = (centred(b, x, 19)?, centred(b, w, 0)?);
                let sums = matmul(b, x, w)?;
                requantized(b, sums, n)
            });
            graph("as they are", &x, true, &|b, x| {
                let w = constant(b, tensor(DType::I8, &[k, n], 5))?;
                matmul(b, x, w)
            });
            let small: Vec<i32> = (0..k * n).map(|i| (i % 251) as i32 - 125).collect();
            graph("with weights that were widened", &x, true, &|b, x| {
                let w = constant(b, Tensor::from_slice(&[k, n], &small).expect("a tensor"))?;
                let x = centred(b, x, -3)?;
                matmul(b, x, w)
            });
            // Unsigned weights less 128 fit, less 100 they do not.
            for (zero, fits) in [(128, true), (100, false)] {
                graph("with weights less a zero point", &x, fits, &|b, x| {
                    let w = constant(b, tensor(DType::U8, &[k, n], 5))?;
                    let (x, w) = (centred(b, x, 2)?, centred(b, w, zero)?);
                    matmul(b, x, w)
                });
            }
        }
    }
}

#[test]
fn a_zero_point_may_be_computed() {
    let x = tensor(DType::U8, &[9, 36], 1);
    graph("less an element", &x, true, &|b, x| {
        let w = constant(b, tensor(DType::I8, &[36, 20], 5))?;
        let first = b.slice_axis(x, 0, Dim::known(0), Dim::known(1))?;
        let first = b.slice_axis(first, 1, Dim::known(0), Dim::known(1))?;
        let wide = b.cast(x, DType::I32)?;
        let zero = b.cast(first, DType::I32)?;
        let x = b.ew("sub", &[wide, zero])?;
        let sums = matmul(b, x, w)?;
        requantized(b, sums, 20)
    });
}

#[test]
fn quantized_convolutions_multiply_bytes() {
    for (dtype, zero) in [(DType::U8, 31), (DType::I8, -5)] {
        for (channels, size, stride, groups) in [(3, 7, 2, 1), (16, 3, 1, 1), (8, 1, 1, 1), (8, 3, 2, 2)] {
            let x = tensor(dtype, &[1, 13, 11, channels], 3);
            let pad = size as i64 / 2;
            graph("a convolution", &x, true, &|b, x| {
                let w = constant(b, tensor(DType::I8, &[24, channels / groups, size, size], 5))?;
                let (x, w) = (centred(b, x, zero)?, centred(b, w, 0)?);
                let op = Conv::Forward {
                    strides: vec![stride, stride],
                    dilations: vec![1, 1],
                    pads: vec![(Dim::known(pad), Dim::known(pad)); 2],
                    groups: groups as i64,
                    layout: Layout::ChannelsLast,
                    out: DType::I32,
                };
                let sums = b.add1(op, &[x, w])?;
                requantized(b, sums, 24)
            });
        }
    }
}

#[test]
fn depthwise_convolutions_are_exact() {
    for (dtype, zero) in [(DType::U8, 31), (DType::I8, -5), (DType::U8, 0)] {
        for (channels, size, stride) in [(24, 3, 1), (40, 5, 2), (5, 3, 2)] {
            let x = tensor(dtype, &[1, 9, 12, channels], 3);
            let pad = size as i64 / 2;
            graph("a depthwise convolution", &x, false, &|b, x| {
                let w = constant(b, tensor(DType::I8, &[channels, 1, size, size], 5))?;
                let (x, w) = (centred(b, x, zero)?, centred(b, w, 0)?);
                let op = Conv::Forward {
                    strides: vec![stride, stride],
                    dilations: vec![1, 1],
                    pads: vec![(Dim::known(pad), Dim::known(pad)); 2],
                    groups: channels as i64,
                    layout: Layout::ChannelsLast,
                    out: DType::I32,
                };
                let sums = b.add1(op, &[x, w])?;
                requantized(b, sums, channels)
            });
        }
    }
}
