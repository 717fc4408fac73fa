//! Contractions: compiled code against the interpreter.

mod support;

use kiln_codegen::kir::builder::{ContractShape, RhsBuilder};
use kiln_codegen::kir::{Bound, Ix, Kernel, KernelBuilder, PART, Val};
use kiln_ir::{DType, Prim};
use proptest::prelude::*;
use support::{Tolerance, check, elements};

const SUMS: Tolerance = Tolerance { relative: 1e-4, absolute: 1e-4 };

fn data(dtype: DType, len: i64, seed: i64) -> Vec<u8> {
    let value = move |i: i64| {
        let v = (i * 7 + seed * 13) % 17 - 8;
        if dtype.is_float() { v as f64 * 0.25 } else { v as f64 }
    };
    elements(dtype, (0..len).map(value))
}

#[derive(Clone, Debug)]
struct Gemm {
    m: i64,
    n: i64,
    k: i64,
    /// Panel width; 0 for a strided right operand, contiguous in n, -1 in k.
    width: i64,
    /// Accumulator, left and right storage.
    dtypes: [DType; 3],
    dynamic: bool,
    block: i64,
}

/// `out[m][n] = relu(sum a[m][k] b[k][n] + bias[n])` (no ReLU on integers).
fn gemm(case: &Gemm) -> (Kernel, Vec<Vec<u8>>, Vec<i64>) {
    let [acc, a_dtype, b_dtype] = case.dtypes;
    let mut b = KernelBuilder::new("gemm");
    let (x, w, bias, out) = (b.input(a_dtype), b.weights(b_dtype), b.input(acc), b.output(acc));
    let (m, n, k) = (case.m, case.n, case.k);
    let (mut dims, mut rows, mut depth) = (vec![], Ix::Const(m), Ix::Const(k));
    if case.dynamic {
        rows = b.dim();
        dims.push(m);
        depth = b.dim();
        dims.push(k);
    }
    let columns = b.grid(Ix::Const(n).ceil_div(case.block));
    let begin = columns * case.block;
    let shape = ContractShape {
        m: (0.into(), rows),
        n: (begin.clone(), (Ix::Const(n) - begin).min(case.block)),
        taps: vec![],
        k: (0.into(), depth.clone()),
        acc_dtype: acc,
    };
    let along_k = case.width < 0;
    let strided_depth = depth.clone();
    let mut strided = move |b: &mut KernelBuilder, column: &Ix, _: &[Ix], kk: &Ix| {
        let index =
            if along_k { column.clone() * strided_depth.clone() + kk } else { kk.clone() * n + column };
        b.load(w, index)
    };
    let rhs = if case.width > 0 {
        RhsBuilder::Packed { buffer: w, base: 0.into(), width: case.width as u32 }
    } else {
        RhsBuilder::Strided(&mut strided)
    };
    b.contract(
        shape,
        |b, row, _, kk| b.load(x, row.clone() * depth.clone() + kk),
        rhs,
        |b, row, column, sum| {
            let c = b.load(bias, column.clone());
            let mut v = b.apply(Prim::Add, &[sum, c]);
            if acc.is_float() {
                let zero = b.literal(acc, 0.0);
                v = b.apply(Prim::Max, &[v, zero]);
            }
            b.store(out, row.clone() * n + column, v);
        },
    );
    let width = case.width.max(1);
    let buffers = vec![
        data(a_dtype, m * k, 1),
        data(b_dtype, (n + width - 1) / width * width * k, 2),
        data(acc, n, 3),
        data(acc, m * n, 0),
    ];
    (b.finish().unwrap(), buffers, dims)
}

const DTYPES: [[DType; 3]; 6] = [
    [DType::F32, DType::F32, DType::F32],
    [DType::F64, DType::F64, DType::F64],
    [DType::I32, DType::U8, DType::I8],
    [DType::F32, DType::F16, DType::F32],
    [DType::F32, DType::F32, DType::BF16],
    [DType::I32, DType::I32, DType::I16],
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_products_agree(
        m in 1..80i64, n in 1..70i64, k in 0..40i64, width in 0..9usize, dtypes in 0..DTYPES.len(),
        dynamic in any::<bool>(), block in 0..3usize,
    ) {
        let width = [0, -1, 4, 8, 12, 16, 32, 48, 64][width];
        let block = if width > 0 { width * [1, 2, 64][block] } else { [5, 24, 64][block] };
        let case = Gemm { m, n, k, width, dtypes: DTYPES[dtypes], dynamic, block };
        let (kernel, buffers, dims) = gemm(&case);
        check(&kernel, &buffers, &dims, SUMS);
    }
}

#[test]
fn long_reductions_are_blocked() {
    for (k, dynamic) in [(385, false), (1000, false), (769, true), (400, true)] {
        for width in [8, 0, -1] {
            let dtypes = [DType::F32; 3];
            let case = Gemm { m: 13, n: 21, k, width, dtypes, dynamic, block: 64 };
            let (kernel, buffers, dims) = gemm(&case);
            check(&kernel, &buffers, &dims, SUMS);
        }
    }
}

/// Channels-last convolution with zero padding: `[h, w, ci] * [kh, kw, ci, co]`, groups side by side in the channels.
fn conv([h, w]: [i64; 2], [ci, co]: [i64; 2], kernel: i64, stride: i64, dilation: i64, groups: i64) {
    let pad = dilation * (kernel - 1) / 2;
    let out_of = |n: i64| (n + 2 * pad - dilation * (kernel - 1) - 1) / stride + 1;
    let (oh, ow, width) = (out_of(h), out_of(w), 8);
    let (ci_all, co_all) = (ci * groups, co * groups);
    let mut b = KernelBuilder::new("conv");
    let (x, wt, out) = (b.input(DType::F32), b.weights(DType::F32), b.output(DType::F32));
    let group = b.grid(groups);
    let panel_size = (co + width - 1) / width * width * kernel * kernel * ci;
    let shape = ContractShape {
        m: (0.into(), (oh * ow).into()),
        n: (0.into(), co.into()),
        taps: vec![(0.into(), kernel.into()), (0.into(), kernel.into())],
        k: (0.into(), ci.into()),
        acc_dtype: DType::F32,
    };
    b.contract(
        shape,
        |b, m, taps, k| {
            let row = m.clone().floor_div(ow) * stride + taps[0].clone() * dilation - pad;
            let column = m.clone().modulo(ow) * stride + taps[1].clone() * dilation - pad;
            let index = (row.clone() * w + column.clone()) * ci_all + group.clone() * ci + k;
            b.load_guarded(x, index, vec![Bound::below(row, h), Bound::below(column, w)], 0.0)
        },
        RhsBuilder::Packed { buffer: wt, base: group.clone() * panel_size, width: width as u32 },
        |b, m, n, sum| b.store(out, m.clone() * co_all + group.clone() * co + n, sum),
    );
    let kernel = b.finish().unwrap();
    let buffers = [
        data(DType::F32, h * w * ci_all, 1),
        data(DType::F32, panel_size * groups, 2),
        data(DType::F32, oh * ow * co_all, 0),
    ];
    check(&kernel, &buffers, &[], SUMS);
}

#[test]
fn convolutions_by_taps() {
    conv([9, 11], [5, 7], 3, 1, 1, 1);
    conv([8, 8], [16, 12], 3, 2, 1, 1);
    conv([7, 6], [3, 10], 5, 1, 2, 1);
    conv([6, 6], [130, 5], 3, 1, 1, 1);
    conv([7, 7], [4, 6], 3, 1, 1, 3);
    conv([5, 5], [8, 8], 1, 1, 1, 2);
}

/// A convolution `[h, w, ci]` or `[ci, h, w]` to `[oh, ow, co]`.
#[derive(Clone, Debug)]
struct Window {
    size: [i64; 2],
    kernel: [i64; 2],
    stride: [i64; 2],
    dilation: [i64; 2],
    pad: [i64; 2],
    /// Further padding after the last line and position.
    more: [i64; 2],
    channels: [i64; 2],
    channels_first: bool,
    /// Whether loads are guarded: without, windows lie inside.
    padded: bool,
    /// Lines of a grid point.
    lines: i64,
    width: i64,
}

impl Window {
    fn out(&self, axis: usize) -> i64 {
        let reach = self.dilation[axis] * (self.kernel[axis] - 1) + 1;
        (self.size[axis] + 2 * self.pad[axis] + self.more[axis] - reach) / self.stride[axis] + 1
    }
}

fn window(case: &Window) {
    let ([h, w], [ci, co], [kh, kw]) = (case.size, case.channels, case.kernel);
    let (oh, ow) = (case.out(0), case.out(1));
    let mut b = KernelBuilder::new("window");
    let f = DType::F32;
    let (x, wt, out) = (b.input(f), b.weights(f), b.output(f));
    let first = b.grid(Ix::Const(oh).ceil_div(case.lines)) * (case.lines * ow);
    // Channels first, the position in a line is what follows in memory: it is the innermost reduction.
    let (inner, outer) = if case.channels_first { (kw, ci) } else { (ci, kw) };
    let shape = ContractShape {
        m: (first.clone(), (Ix::Const(oh * ow) - first).min(case.lines * ow)),
        n: (0.into(), co.into()),
        taps: vec![(0.into(), kh.into()), (0.into(), outer.into())],
        k: (0.into(), inner.into()),
        acc_dtype: f,
    };
    b.contract(
        shape,
        |b, m, taps, k| {
            let (tap, channel) =
                if case.channels_first { (k.clone(), taps[1].clone()) } else { (taps[1].clone(), k.clone()) };
            let at = |position: Ix, tap: &Ix, axis: usize| {
                position * case.stride[axis] + tap.clone() * case.dilation[axis] - case.pad[axis]
            };
            let row = at(m.clone().floor_div(ow), &taps[0], 0);
            let column = at(m.clone().modulo(ow), &tap, 1);
            let index = if case.channels_first {
                (channel * h + row.clone()) * w + column.clone()
            } else {
                (row.clone() * w + column.clone()) * ci + channel
            };
            if case.padded {
                b.load_guarded(x, index, vec![Bound::below(row, h), Bound::below(column, w)], 0.5)
            } else {
                b.load(x, index)
            }
        },
        RhsBuilder::Packed { buffer: wt, base: 0.into(), width: case.width as u32 },
        |b, m, n, sum| b.store(out, m.clone() * co + n, sum),
    );
    let kernel = b.finish().unwrap();
    let panels = (co + case.width - 1) / case.width * case.width * kh * kw * ci;
    let buffers = [data(f, h * w * ci, 1), data(f, panels, 2), data(f, oh * ow * co, 0)];
    check(&kernel, &buffers, &[], SUMS);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_convolutions_agree(
        (size, kernel) in ([6..20i64, 6..20i64], [1..4i64, 1..4i64]),
        (stride, dilation) in ([1..4i64, 1..4i64], [1..3i64, 1..3i64]),
        (pad, more, padded) in ([0..12i64, 0..12i64], [0..3i64, 0..3i64], any::<bool>()),
        (ci, co) in (prop_oneof![1..5i64, Just(16), Just(24)], 1..40i64),
        (channels_first, lines, width) in (any::<bool>(), 1..24i64, 0..5usize),
    ) {
        let (pad, more) = if padded { (pad, more) } else { ([0, 0], [0, 0]) };
        let (width, channels) = ([8, 16, 32, 48, 64][width], [ci, co]);
        window(&Window {
            size, kernel, stride, dilation, pad, more, channels, channels_first, padded, lines, width,
        });
    }
}

#[test]
fn padding_beyond_every_window_stays_inside_the_copy() {
    for (size, stride, pad, more) in
        [([16, 8], [1, 4], [0, 8], [0, -8]), ([3, 2], [1, 64], [0, 127], [0, -127])]
    {
        let [kernel, dilation, channels] = [[1, 2], [1, 1], [64, 2]];
        let (channels_first, padded, lines, width) = (false, true, 16, 16);
        window(&Window {
            size,
            kernel,
            stride,
            dilation,
            pad,
            more,
            channels,
            channels_first,
            padded,
            lines,
            width,
        });
    }
}

#[test]
fn tiles_have_several_short_lines() {
    // Lines of 7, 5 and 3 positions, more than tiles divide; rows that share sets of a cache, in a copy and in place.
    for (size, ci, kernel, stride, padded) in [
        ([7, 7], 24, 3, 1, true),
        ([9, 5], 16, 3, 1, true),
        ([11, 3], 5, 1, 1, true),
        ([14, 14], 512, 3, 2, true),
        ([5, 5], 1024, 3, 1, true),
        ([14, 14], 80, 1, 2, false),
        ([14, 14], 1024, 1, 2, false),
    ] {
        let pad = if padded { kernel / 2 } else { 0 };
        for (lines, width, co) in [(20, 32, 33), (4, 16, 16), (3, 48, 50)] {
            window(&Window {
                size,
                kernel: [kernel; 2],
                stride: [stride; 2],
                dilation: [1; 2],
                pad: [pad; 2],
                more: [0; 2],
                channels: [ci, co],
                channels_first: false,
                padded,
                lines,
                width,
            });
        }
    }
}

#[test]
fn large_left_operands_are_taken_in_blocks() {
    // Lines in blocks; a reduction in parts; and packed rows in both.
    let [size, kernel, stride, dilation] = [[44, 40], [3, 3], [1, 1], [1, 1]];
    for (channels, pad, padded) in [([64, 2], [1, 1], true), ([64, 2], [0, 0], false)] {
        let (channels_first, lines, width, more) = (false, 44, 16, [0, 0]);
        window(&Window {
            size,
            kernel,
            stride,
            dilation,
            pad,
            more,
            channels,
            channels_first,
            padded,
            lines,
            width,
        });
    }
    for (m, k, dtypes) in
        [(70, 3000, DTYPES[0]), (70, 3001, DTYPES[3]), (3, 5200, DTYPES[2]), (9, 6144, DTYPES[0])]
    {
        let case = Gemm { m, n: 18, k, width: 16, dtypes, dynamic: false, block: 64 };
        let (kernel, buffers, dims) = gemm(&case);
        check(&kernel, &buffers, &dims, SUMS);
    }
}

#[test]
fn attention_of_one_head() {
    // scores = q k^T (both [s][d]), softmax, context = p v: two contractions with scratch between.
    let (s, d) = (19, 12);
    let mut b = KernelBuilder::new("attention");
    let f = DType::F32;
    let (q, key, v, out) = (b.input(f), b.input(f), b.input(f), b.output(f));
    let scores = b.scratch(f, s * s);
    let shape = |n: i64, k: i64| ContractShape {
        m: (0.into(), s.into()),
        n: (0.into(), n.into()),
        taps: vec![],
        k: (0.into(), k.into()),
        acc_dtype: f,
    };
    let mut keys = |b: &mut KernelBuilder, n: &Ix, _: &[Ix], k: &Ix| b.load(key, n.clone() * d + k);
    b.contract(
        shape(s, d),
        |b, m, _, k| b.load(q, m.clone() * d + k),
        RhsBuilder::Strided(&mut keys),
        |b, m, n, sum| {
            let e = b.apply(Prim::Exp, &[sum]);
            b.store(scores, m.clone() * s + n, e);
        },
    );
    let mut values = |b: &mut KernelBuilder, n: &Ix, _: &[Ix], k: &Ix| b.load(v, k.clone() * d + n);
    b.contract(
        shape(d, s),
        |b, m, _, k| {
            let e = b.load(scores, m.clone() * s + k);
            let scale = b.literal(f, 0.125);
            b.apply(Prim::Mul, &[e, scale])
        },
        RhsBuilder::Strided(&mut values),
        |b, m, n, sum| b.store(out, m.clone() * d + n, sum),
    );
    let kernel = b.finish().unwrap();
    let small = |seed: i64| elements(f, (0..s * d).map(|i| ((i * 5 + seed) % 9 - 4) as f64 * 0.1));
    check(&kernel, &[small(1), small(2), small(3), small(4)], &[], SUMS);
}

#[test]
fn run_time_columns_are_blocked() {
    let f = DType::F32;
    for width in [0, 12] {
        let mut b = KernelBuilder::new("dynamic");
        let (x, w, out) = (b.input(f), b.input(f), b.output(f));
        let (m, n, k) = (b.dim(), b.dim(), b.dim());
        let shape = ContractShape {
            m: (0.into(), m),
            n: (0.into(), n.clone()),
            taps: vec![(0.into(), 2.into())],
            k: (0.into(), k.clone()),
            acc_dtype: f,
        };
        let mut strided = |b: &mut KernelBuilder, column: &Ix, taps: &[Ix], kk: &Ix| {
            b.load(w, (taps[0].clone() * k.clone() + kk) * n.clone() + column)
        };
        let rhs = if width > 0 {
            RhsBuilder::Packed { buffer: w, base: 0.into(), width: width as u32 }
        } else {
            RhsBuilder::Strided(&mut strided)
        };
        b.contract(
            shape,
            |b, row, taps, kk| b.load(x, (row.clone() * 2 + taps[0].clone()) * k.clone() + kk),
            rhs,
            |b, row, column, sum| b.store(out, row.clone() * n.clone() + column, sum),
        );
        let kernel = b.finish().unwrap();
        for (m, n, k) in [(3, 130, 9), (50, 7, 400), (13, 97, 20), (0, 5, 5), (5, 0, 5), (4, 5, 0)] {
            let buffers =
                [data(f, m * 2 * k, 1), data(f, (n + 11) / 12 * 12 * 2 * k + 1, 2), data(f, m * n, 0)];
            check(&kernel, &buffers, &[m, n, k], SUMS);
        }
    }
}

/// `out[m][first + n] = sum a[m][k] b[k][n]`, rows of the result `stride` apart: tile functions store it by themselves.
fn stored([m, n, k]: [i64; 3], width: i64, stride: i64, first: i64, dynamic: bool) {
    let mut b = KernelBuilder::new("stored");
    let (x, w, out) = (b.input(DType::F32), b.weights(DType::F32), b.output(DType::F32));
    let rows = if dynamic { b.dim() } else { Ix::Const(m) };
    let begin = b.grid(2) * n;
    let shape = ContractShape {
        m: (0.into(), rows),
        n: (begin, n.into()),
        taps: vec![],
        k: (0.into(), k.into()),
        acc_dtype: DType::F32,
    };
    let rhs = RhsBuilder::Packed { buffer: w, base: 0.into(), width: width as u32 };
    b.contract(
        shape,
        |b, m, _, kk| b.load(x, m.clone() * k + kk),
        rhs,
        |b, m, n, sum| b.store(out, m.clone() * stride + n + first, sum),
    );
    let kernel = b.finish().unwrap();
    let buffers = vec![
        data(DType::F32, m * k, 1),
        data(DType::F32, 2 * n * k, 2),
        data(DType::F32, m * stride + first, 3),
    ];
    check(&kernel, &buffers, &if dynamic { vec![m] } else { vec![] }, SUMS);
}

#[test]
fn sums_that_are_only_stored() {
    for (m, n, k) in [(1, 16, 5), (13, 32, 24), (70, 64, 64), (29, 48, 800), (150, 16, 40)] {
        for dynamic in [false, true] {
            stored([m, n, k], 16, 2 * n, 0, dynamic);
            stored([m, n, k], 8, 2 * n + 5, 3, dynamic);
        }
    }
}

/// `out[m][n] = sum over taps, k of 1 * 0.1`, then `max(sum, 0)` where `more` is asked for; tap by tap, rows `gap` elements
/// longer than the reduction.
fn tenths([m, n]: [i64; 2], taps: &[i64], k: i64, more: bool, gap: i64) {
    let f = DType::F32;
    let depth = taps.iter().product::<i64>() * k;
    let mut b = KernelBuilder::new("tenths");
    let (x, w, out) = (b.input(f), b.weights(f), b.output(f));
    let shape = ContractShape {
        m: (0.into(), m.into()),
        n: (0.into(), n.into()),
        taps: taps.iter().map(|t| (0.into(), (*t).into())).collect(),
        k: (0.into(), k.into()),
        acc_dtype: f,
    };
    let tap_stride = k + gap;
    let row = taps.iter().product::<i64>() * tap_stride;
    b.contract(
        shape,
        |b, m, positions, kk| {
            let tap = positions.iter().zip(taps).fold(Ix::Const(0), |at, (p, t)| at * *t + p.clone());
            b.load(x, m.clone() * row + tap * tap_stride + kk)
        },
        RhsBuilder::Packed { buffer: w, base: 0.into(), width: 16 },
        |b, m, n_at, sum| {
            let zero = b.literal(f, 0.0);
            let value = if more { b.apply(Prim::Max, &[sum, zero]) } else { sum };
            b.store(out, m.clone() * n + n_at, value);
        },
    );
    let kernel = b.finish().unwrap();
    let all = |len: i64, value: f64| elements(f, (0..len).map(move |_| value));
    let buffers = [all(m * row, 1.0), all((n + 15) / 16 * 16 * depth, 0.1), all(m * n, 0.0)];
    // What a part, the sum of parts and one more step can lose; a chain of all products loses several times as much.
    let unit = f64::from(f32::EPSILON) / 2.0;
    let relative = (PART + depth / PART + 16) as f64 * unit;
    check(&kernel, &buffers, &[], Tolerance { relative, absolute: 0.0 });
}

#[test]
fn long_sums_are_taken_in_parts() {
    for m in [1, 15] {
        for more in [false, true] {
            let n = 16;
            tenths([m, n], &[], 8192, more, 0);
            tenths([m, n], &[], 8195, more, 0);
            // Runs of taps: whole steps, steps and a rest, and short ones.
            tenths([m, n], &[32], 256, more, 16);
            tenths([m, n], &[8, 90], 11, more, 5);
            tenths([m, n], &[9, 45], 19, more, 1);
            tenths([m, n], &[3, 3, 30], 30, more, 2);
        }
    }
    // Several chunks of rows and panels.
    tenths([70, 32], &[16], 256, true, 16);
}

/// An epilogue that reads a bias for each column, a scale for each row and a summand for each element, chooses by the sign,
/// and stores twice: tile functions do it on sums in registers or, where a GELU makes it long, row by row. Some columns
/// exist only as padding of the last panel.
fn residual([m, n, k]: [i64; 3], width: i64, dynamic: bool, long: bool) {
    let f = DType::F32;
    let mut b = KernelBuilder::new("residual");
    let (x, w, out) = (b.input(f), b.weights(f), b.output(f));
    let (bias, scale, rest, half) = (b.weights(f), b.input(f), b.input(f), b.output(DType::F16));
    let rows = if dynamic { b.dim() } else { Ix::Const(m) };
    let zero = Ix::Const(0);
    let shape = ContractShape {
        m: (zero.clone(), rows),
        n: (zero.clone(), n.into()),
        taps: vec![],
        k: (zero, k.into()),
        acc_dtype: f,
    };
    b.contract(
        shape,
        |b, m, _, kk| b.load(x, m.clone() * k + kk),
        RhsBuilder::Packed { buffer: w, base: 0.into(), width: width as u32 },
        |b, m, column, sum| {
            let at = m.clone() * n + column;
            let (each, more, row) =
                (b.load(bias, column.clone()), b.load(rest, at.clone()), b.load(scale, m.clone()));
            let v = b.mul_add(sum, row, more);
            let v = b.apply(Prim::Add, &[v, each]);
            let (none, slope) = (b.literal(f, 0.0), b.literal(f, 0.25));
            let (negative, small) = (b.apply(Prim::Lt, &[v, none]), b.apply(Prim::Mul, &[v, slope]));
            let v = b.apply(Prim::Select, &[negative, small, v]);
            let v = if long { gelu(b, v) } else { v };
            b.store(out, at.clone(), v);
            b.store(half, at, v);
        },
    );
    let kernel = b.finish().unwrap();
    let padded = (n + width - 1) / width * width;
    let mut buffers = vec![data(f, m * k, 1), data(f, padded * k, 2), data(f, m * n, 3), data(f, n, 4)];
    buffers.extend([data(f, m, 5), data(f, m * n, 6), data(DType::F16, m * n, 7)]);
    check(&kernel, &buffers, &if dynamic { vec![m] } else { vec![] }, SUMS);
}

fn gelu(b: &mut KernelBuilder, v: Val) -> Val {
    let [half, root, one] = [0.5, 0.5f64.sqrt(), 1.0].map(|c| b.literal(DType::F32, c));
    let scaled = b.apply(Prim::Mul, &[v, root]);
    let erf = b.apply(Prim::Erf, &[scaled]);
    let sum = b.apply(Prim::Add, &[one, erf]);
    let v = b.apply(Prim::Mul, &[half, v]);
    b.apply(Prim::Mul, &[v, sum])
}

#[test]
fn epilogues_at_the_end_of_tiles() {
    for long in [false, true] {
        for (m, n, k) in
            [(1, 32, 5), (15, 41, 24), (40, 96, 300), (29, 70, 800), (130, 23, 3000), (7, 128, 3000)]
        {
            // The interpreter takes its time.
            let widths: &[i64] = if long && m * k > 30_000 { &[] } else { &[16, 32, 48, 64] };
            for &width in widths {
                residual([m, n, k], width, width == 32, long);
            }
        }
        // More columns than are computed at once, in whole panels and with a last one that is not.
        residual([9, 1200, 16], 24, false, long);
        residual([9, 1203, 16], 16, true, long);
    }
}
