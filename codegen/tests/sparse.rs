//! Contractions with sparse weights: on every tier the interpreter's results, and graphs whose constants are mostly zeros
//! those of the reference evaluator.

mod support;

use kiln_codegen::build::{Options, compile};
use kiln_codegen::kir::builder::{ContractShape, RhsBuilder};
use kiln_codegen::kir::sparse::{Form, Window, lists};
use kiln_codegen::kir::{Bound, Ix, Kernel, KernelBuilder, Sparse};
use kiln_ir::op::{Contract, ContractSpec, Conv, Layout};
use kiln_ir::{Build, DType, Dim, GraphBuilder, InferError, Prim, Tensor, Value};
use kiln_runtime::cpu::Tier;
use proptest::prelude::*;
use support::{Body, EXACT, Tolerance, check, check_module, elements, evaluated, fusion};

const SUMS: Tolerance = Tolerance { relative: 1e-4, absolute: 1e-4 };

/// Weights `[k][n]` of which blocks of columns are zero but for `percent` of them.
fn weights(k: i64, n: i64, block: i64, percent: i64) -> Vec<f32> {
    let kept = |k: i64, n: i64| (k * 7919 + n * 104_729 + k * n * 31) % 100 < percent;
    (0..k * n)
        .map(|i| if kept(i / n, i % n / block) { ((i * 37 % 19) - 9) as f32 * 0.25 } else { 0.0 })
        .collect()
}

fn bytes<T: Copy, const S: usize>(values: &[T], to: impl Fn(T) -> [u8; S]) -> Vec<u8> {
    values.iter().flat_map(|v| to(*v)).collect()
}

fn data(len: i64, seed: i64) -> Vec<u8> {
    elements(DType::F32, (0..len).map(|i| ((i * 7 + seed * 13) % 17 - 8) as f64 * 0.25))
}

#[derive(Clone, Copy, Debug)]
struct Gemm {
    m: i64,
    n: i64,
    k: i64,
    taps: i64,
    form: Form,
    /// Columns that share a pattern.
    block: i64,
    percent: i64,
    dynamic: bool,
    /// Whether rows are computed before they are multiplied.
    computed: bool,
}

/// `out[m][n] = relu(sum a[m][taps][k] b[taps][k][n] + bias[n])`.
fn gemm(g: Gemm) -> (Kernel, Vec<Vec<u8>>, Vec<i64>) {
    let Gemm { m, n, k, taps, form, .. } = g;
    let mut b = KernelBuilder::new("sparse");
    let (x, index, values) = (b.input(DType::F32), b.weights(DType::I32), b.weights(DType::F32));
    let (bias, out) = (b.weights(DType::F32), b.output(DType::F32));
    let mut dims = vec![];
    let rows = if g.dynamic {
        dims.push(m);
        b.dim()
    } else {
        Ix::Const(m)
    };
    let columns = i64::from(form.columns);
    let begin = b.grid(Ix::Const(n).ceil_div(columns)) * columns;
    let shape = ContractShape {
        m: (0.into(), rows),
        n: (begin.clone(), (Ix::Const(n) - begin).min(columns)),
        taps: if taps > 1 { vec![(0.into(), taps.into())] } else { vec![] },
        k: (0.into(), k.into()),
        acc_dtype: DType::F32,
    };
    b.contract(
        shape,
        |b, row, t, kk| {
            let tap = t.first().cloned().unwrap_or(Ix::Const(0));
            let v = b.load(x, row.clone() * (k * taps) + tap * k + kk);
            if !g.computed {
                return v;
            }
            let half = b.literal(DType::F32, 0.5);
            b.apply(Prim::Max, &[v, half])
        },
        RhsBuilder::Sparse(Sparse { index, values, form }),
        |b, row, column, sum| {
            let c = b.load(bias, column.clone());
            let v = b.apply(Prim::Add, &[sum, c]);
            let zero = b.literal(DType::F32, 0.0);
            let v = b.apply(Prim::Max, &[v, zero]);
            b.store(out, row.clone() * n + column, v);
        },
    );
    let dense = weights(k * taps, n, g.block, g.percent);
    let (index, values) = lists(&dense, [taps, k, n].map(|s| s as usize), form).unwrap();
    let buffers = vec![
        data(m * k * taps, 1),
        bytes(&index, i32::to_le_bytes),
        bytes(&values, f32::to_le_bytes),
        data(n, 2),
        data(m * n, 0),
    ];
    (b.finish().unwrap(), buffers, dims)
}

const PLAIN: Gemm = Gemm {
    m: 70,
    n: 24,
    k: 48,
    taps: 1,
    form: Form { columns: 64, block: 4, depth: 32, rows: 64, group: 1, window: None },
    block: 4,
    percent: 20,
    dynamic: false,
    computed: false,
};

#[test]
fn products_agree() {
    let mut cases = vec![];
    for block in [1, 2, 4] {
        let form = Form { block, ..PLAIN.form };
        for m in [1, 3, 8, 15, 16, 17, 31, 48, 63, 64, 65, 100, 130] {
            cases.push(Gemm { m, form, dynamic: m % 2 == 0, ..PLAIN });
        }
        for (n, columns) in [(1, 4), (3, 8), (5, 4), (63, 64), (65, 64), (130, 64), (130, 200), (24, 24)] {
            cases.push(Gemm { n, form: Form { columns, ..form }, computed: n % 2 == 0, ..PLAIN });
        }
        for (taps, k, depth) in
            [(1, 5, 16), (1, 300, 128), (1, 256, 256), (3, 16, 48), (9, 20, 64), (4, 40, 32)]
        {
            cases.push(Gemm { taps, k, form: Form { depth, ..form }, m: 20, ..PLAIN });
        }
        for percent in [0, 1, 50, 100] {
            cases.push(Gemm { percent, form, m: 20, ..PLAIN });
        }
    }
    for case in cases {
        let (kernel, buffers, dims) = gemm(case);
        check(&kernel, &buffers, &dims, SUMS);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_products_agree(
        m in 1..90i64, n in 1..80i64, k in 1..70i64, taps in 1..4i64, block in 0..3usize, columns in 1..4u32,
        depth in 1..6u32, rows in 1..5u32, percent in 0..60i64, dynamic in any::<bool>(), computed in any::<bool>(),
    ) {
        let form = Form { columns: 24 * columns, block: [1, 2, 4][block], depth: 13 * depth, rows: 16 * rows, group: 1, window: None };
        let case = Gemm { m, n, k, taps, form, block: 1 + n % 4, percent, dynamic, computed };
        let (kernel, buffers, dims) = gemm(case);
        check(&kernel, &buffers, &dims, SUMS);
    }
}

/// Bytes `[taps][k][n]`, four in a column along `k` zero but for `percent` of such, as groups.
fn groups([taps, k, n]: [i64; 3], percent: i64, extreme: bool) -> Vec<[i8; 4]> {
    let steps = (k + 3) / 4;
    let byte = |group: i64, lane: i64| match (group / n % steps * 4 + lane < k, extreme) {
        (false, _) => 0,
        (true, true) => -128,
        (true, false) => ((group * 37 + lane * 101) % 251 - 125) as i8,
    };
    let kept = |i: i64| (i * 7919 + i / n * 104_729) % 100 < percent;
    let all = 0..taps * steps * n;
    all.map(|i| std::array::from_fn(|lane| if kept(i) { byte(i, lane as i64) } else { 0 })).collect()
}

/// `out[m][n] = sum a[m][taps][k] b[taps][k][n]` of bytes.
#[derive(Clone, Copy, Debug)]
struct Bytes {
    m: i64,
    n: i64,
    k: i64,
    taps: i64,
    form: Form,
    percent: i64,
    dynamic: bool,
    /// Whether the left operand is signed bytes, whose sign is flipped.
    signed: bool,
    /// Whether all operands are the largest that there are, with opposite signs.
    extreme: bool,
}

fn products_of_bytes(g: Bytes) -> (Kernel, Vec<Vec<u8>>, Vec<i64>) {
    let Bytes { m, n, k, taps, form, .. } = g;
    let mut b = KernelBuilder::new("sparse");
    let x = b.input(if g.signed { DType::I8 } else { DType::U8 });
    let (index, values) = (b.weights(DType::I32), b.weights(DType::I8));
    let out = b.output(DType::I32);
    let mut dims = vec![];
    let rows = if g.dynamic {
        dims.push(m);
        b.dim()
    } else {
        Ix::Const(m)
    };
    let columns = i64::from(form.columns);
    let begin = b.grid(Ix::Const(n).ceil_div(columns)) * columns;
    let shape = ContractShape {
        m: (0.into(), rows),
        n: (begin.clone(), (Ix::Const(n) - begin).min(columns)),
        taps: if taps > 1 { vec![(0.into(), taps.into())] } else { vec![] },
        k: (0.into(), k.into()),
        acc_dtype: DType::I32,
    };
    b.contract(
        shape,
        |b, row, t, kk| {
            let tap = t.first().cloned().unwrap_or(Ix::Const(0));
            let v = b.load(x, row.clone() * (k * taps) + tap * k + kk);
            if !g.signed {
                return v;
            }
            let bits = b.bits(v, DType::U8);
            let sign = b.literal(DType::U8, 128.0);
            b.apply(Prim::Xor, &[bits, sign])
        },
        RhsBuilder::Sparse(Sparse { index, values, form }),
        |b, row, column, sum| b.store(out, row.clone() * n + column, sum),
    );
    let weights = groups([taps, k, n], g.percent, g.extreme);
    let sizes = [taps, (k + 3) / 4, n].map(|s| s as usize);
    let (index, values) = lists(&weights, sizes, form).unwrap();
    let left = |i: i64| match (g.extreme, g.signed) {
        (true, true) => 0x7f,
        (true, false) => 0xff,
        _ => ((i + 1) * 39 % 251 + i / 7 % 5) as u8,
    };
    let buffers = vec![
        (0..m * k * taps).map(left).collect(),
        bytes(&index, i32::to_le_bytes),
        values.as_flattened().iter().map(|v| *v as u8).collect(),
        vec![0; (4 * m * n) as usize],
    ];
    (b.finish().unwrap(), buffers, dims)
}

#[test]
fn products_of_bytes_agree() {
    let plain = Bytes {
        m: 20,
        n: 24,
        k: 64,
        taps: 1,
        form: Form { block: 1, depth: 16, group: 4, ..PLAIN.form },
        percent: 30,
        dynamic: false,
        signed: false,
        extreme: false,
    };
    let mut cases = vec![];
    for block in [1, 2, 4] {
        let form = Form { block, ..plain.form };
        for m in [1, 3, 15, 16, 17, 63, 64, 65, 130] {
            cases.push(Bytes { m, form, dynamic: m % 2 == 0, signed: m % 3 == 0, ..plain });
        }
        for (n, columns) in [(1, 4), (5, 4), (65, 64), (130, 200)] {
            cases.push(Bytes { n, form: Form { columns, ..form }, ..plain });
        }
        for (taps, k, depth) in [(1, 5, 16), (1, 300, 32), (3, 16, 12), (9, 20, 16), (4, 41, 8), (2, 3, 64)] {
            cases.push(Bytes { taps, k, form: Form { depth, ..form }, signed: taps == 9, ..plain });
        }
        for percent in [0, 1, 100] {
            cases.push(Bytes { percent, form, ..plain });
        }
        for signed in [false, true] {
            cases.push(Bytes { signed, extreme: true, percent: 100, k: 260, form, ..plain });
        }
        cases.push(Bytes { m: 150, form: Form { rows: 128, ..form }, ..plain });
    }
    for case in cases {
        let (kernel, buffers, dims) = products_of_bytes(case);
        check(&kernel, &buffers, &dims, EXACT);
    }
}

#[test]
fn long_parts_have_short_sums() {
    let form = Form { depth: 1024, ..PLAIN.form };
    assert!(lists(&weights(1024, 8, 4, 10), [1, 1024, 8], form).is_some());
    assert!(lists(&weights(1024, 8, 4, 90), [1, 1024, 8], form).is_none());
    assert!(lists(&weights(1024, 8, 4, 90), [1, 1024, 8], Form { depth: 256, ..form }).is_some());
    let (kernel, buffers, dims) = gemm(Gemm { k: 1500, percent: 5, m: 37, form, ..PLAIN });
    check(&kernel, &buffers, &dims, SUMS);
}

/// A convolution of 3x3 taps with padding.
#[test]
fn padded_taps_agree() {
    for ([h, w], stride, ci, co, depth) in
        [([9, 11], 1, 16, 20, 64), ([8, 8], 2, 20, 9, 64), ([10, 7], 1, 70, 8, 64)]
    {
        let (oh, ow) = ((h - 1) / stride + 1, (w - 1) / stride + 1);
        let form = Form { columns: 64, block: 4, depth, rows: 32, group: 1, window: None };
        let mut b = KernelBuilder::new("sparse");
        let (x, index, values) = (b.input(DType::F32), b.weights(DType::I32), b.weights(DType::F32));
        let out = b.output(DType::F32);
        let shape = ContractShape {
            m: (0.into(), (oh * ow).into()),
            n: (0.into(), co.into()),
            taps: vec![(0.into(), 3.into()), (0.into(), 3.into())],
            k: (0.into(), ci.into()),
            acc_dtype: DType::F32,
        };
        b.contract(
            shape,
            |b, m, taps, k| {
                let row = m.clone().floor_div(ow) * stride + taps[0].clone() - 1;
                let column = m.clone().modulo(ow) * stride + taps[1].clone() - 1;
                let index = (row.clone() * w + column.clone()) * ci + k;
                b.load_guarded(x, index, vec![Bound::below(row, h), Bound::below(column, w)], 0.0)
            },
            RhsBuilder::Sparse(Sparse { index, values, form }),
            |b, m, n, sum| b.store(out, m.clone() * co + n, sum),
        );
        let dense = weights(9 * ci, co, 4, 30);
        let (index, values) = lists(&dense, [9, ci as usize, co as usize], form).unwrap();
        let buffers = vec![
            data(h * w * ci, 1),
            bytes(&index, i32::to_le_bytes),
            bytes(&values, f32::to_le_bytes),
            data(oh * ow * co, 0),
        ];
        check(&b.finish().unwrap(), &buffers, &[], SUMS);
    }
}

/// A convolution whose rows are pixels of padded lines: as many as fit a tile, in a grid of tiles.
fn pixels(
    [h, w]: [i64; 2],
    [ci, co]: [i64; 2],
    taps: [i64; 2],
    form: Form,
    computed: bool,
) -> (Kernel, Vec<Vec<u8>>) {
    let window = Window { image: [h as u32, w as u32], taps: taps.map(|t| t as u32) };
    let form = Form { window: Some(window), ..form };
    let bytes_of_rows = form.group > 1;
    let mut b = KernelBuilder::new("sparse");
    let (x_dtype, w_dtype, acc) = match bytes_of_rows {
        true => (DType::U8, DType::I8, DType::I32),
        false => (DType::F32, DType::F32, DType::F32),
    };
    let (x, index, values) = (b.input(x_dtype), b.weights(DType::I32), b.weights(w_dtype));
    let out = b.output(acc);
    let (step, columns) = (form.step(), i64::from(form.columns));
    let begin = b.grid(Ix::Const(h * w).ceil_div(step)) * step;
    let first = b.grid(Ix::Const(co).ceil_div(columns)) * columns;
    let shape = ContractShape {
        m: (begin.clone(), (Ix::Const(h * w) - begin).min(step)),
        n: (first.clone(), (Ix::Const(co) - first).min(columns)),
        taps: taps.map(|t| (0.into(), t.into())).to_vec(),
        k: (0.into(), ci.into()),
        acc_dtype: acc,
    };
    b.contract(
        shape,
        |b, m, at, k| {
            let row = m.clone().floor_div(w) + at[0].clone() - (taps[0] - 1) / 2;
            let column = m.clone().modulo(w) + at[1].clone() - (taps[1] - 1) / 2;
            let index = (row.clone() * w + column.clone()) * ci + k;
            let otherwise = if bytes_of_rows { 9.0 } else { 0.0 };
            let v = b.load_guarded(x, index, vec![Bound::below(row, h), Bound::below(column, w)], otherwise);
            if !computed {
                return v;
            }
            let other = b.literal(x_dtype, if bytes_of_rows { 128.0 } else { 0.5 });
            b.apply(if bytes_of_rows { Prim::Xor } else { Prim::Max }, &[v, other])
        },
        RhsBuilder::Sparse(Sparse { index, values, form }),
        |b, m, n, sum| b.store(out, m.clone() * co + n, sum),
    );
    let count = taps[0] * taps[1];
    let (index, values) = if bytes_of_rows {
        let sizes = [count, (ci + 3) / 4, co].map(|s| s as usize);
        let (index, values) = lists(&groups([count, ci, co], 30, false), sizes, form).unwrap();
        (index, values.as_flattened().iter().map(|v| *v as u8).collect())
    } else {
        let sizes = [count, ci, co].map(|s| s as usize);
        let (index, values) = lists(&weights(count * ci, co, 4, 30), sizes, form).unwrap();
        (index, bytes(&values, f32::to_le_bytes))
    };
    let input = match bytes_of_rows {
        true => (0..h * w * ci).map(|i| (i * 39 % 251) as u8).collect(),
        false => data(h * w * ci, 1),
    };
    let buffers = vec![input, bytes(&index, i32::to_le_bytes), values, vec![0; (4 * h * w * co) as usize]];
    (b.finish().unwrap(), buffers)
}

#[test]
fn taps_of_pixels_agree() {
    let form = Form { columns: 64, block: 4, depth: 16, rows: 32, group: 1, window: None };
    for (image, channels, taps, rows) in [
        ([9, 11], [16, 20], [3, 3], 32),
        ([9, 11], [20, 9], [3, 3], 128),
        ([14, 14], [70, 8], [3, 3], 112),
        ([3, 30], [8, 70], [3, 3], 32),
        ([7, 7], [33, 12], [3, 3], 64),
        ([10, 6], [5, 7], [5, 3], 32),
        ([1, 1], [16, 4], [3, 3], 16),
    ] {
        for (block, group, depth) in [(4, 1, 16), (1, 1, 24), (1, 4, 16), (2, 4, 3)] {
            for computed in [false, true] {
                let form = Form { rows, block, group, depth, ..form };
                let (kernel, buffers) = pixels(image, channels, taps, form, computed);
                check(&kernel, &buffers, &[], SUMS);
            }
        }
    }
}

/// The weights' factors.
fn factors(dims: &[usize]) -> Tensor {
    let count: usize = dims.iter().product();
    let values: Vec<f32> = (0..count).map(|i| ((i * 7 % 23) as f32 - 11.0) * 0.25).collect();
    Tensor::from_slice(dims, &values).unwrap()
}

/// Checks a graph against the evaluator; the kernel's right operand must be `expected`.
fn graph(name: &str, dims: &[usize], expected: &str, body: Body<'_>) {
    let x = factors(dims);
    let module = fusion(name, &x, body);
    let wanted = evaluated(&module, &x);
    check_module(name, &module, (&x, &wanted), SUMS, &|text| text.contains(expected));
}

fn tensor(dims: &[usize], values: &[f32]) -> Result<Tensor, InferError> {
    Tensor::from_slice(dims, values).map_err(|e| InferError::new(e.to_string()))
}

/// A product with weights `[k][n]`, a bias and a GELU.
fn layer(
    b: &mut GraphBuilder<'_>,
    x: Value,
    weights: &[f32],
    [k, n]: [usize; 2],
) -> Result<Value, InferError> {
    let w = b.constant(tensor(&[k, n], weights)?)?;
    let bias: Vec<f32> = (0..n).map(|i| i as f32 * 0.01 - 0.3).collect();
    let bias = b.constant(tensor(&[n], &bias)?)?;
    let spec = ContractSpec { lhs: b"mk".to_vec(), rhs: b"kn".to_vec(), out: b"mn".to_vec() };
    let y = b.add1(Contract::Einsum { spec, out: DType::F32 }, &[x, w])?;
    let y = b.ew("add", &[y, bias])?;
    b.ew("gelu", &[y])
}

#[test]
fn the_pattern_of_the_weights_decides() {
    let cases = [
        ("dense", 1, 100, "packed"),
        ("half of them in blocks", 4, 50, "block=4"),
        ("few of them in blocks", 4, 10, "block=4"),
        ("few of them anywhere", 1, 10, "block=1"),
        ("most of them anywhere", 1, 80, "packed"),
    ];
    for (name, block, percent, expected) in cases {
        for m in [100, 128] {
            let w = weights(192, 256, block, percent);
            graph(name, &[m, 192], expected, &|b, x| layer(b, x, &w, [192, 256]));
        }
    }
}

/// Zero times what is no finite number counts as 0 where weights are skipped: the result is that of any other number.
#[test]
fn what_zeros_multiply_does_not_count() {
    let (dims, [k, n]) = ([100, 192], [192, 256]);
    let mut w = weights(k as i64, n as i64, 4, 30);
    let unused = [5, 100];
    unused.iter().for_each(|at| w[at * n..(at + 1) * n].fill(0.0));
    // One more that half of the outputs use.
    let half = 77;
    w[half * n..half * n + n / 2].fill(0.0);
    w[half * n + n / 2..(half + 1) * n].fill(1.0);
    let x = factors(&dims);
    let module = fusion("finite", &x, &|b, x| layer(b, x, &w, [k, n]));
    let mut wanted = evaluated(&module, &x).to_vec::<f32>().unwrap();
    let mut values = x.to_vec::<f32>().unwrap();
    for (row, values) in values.chunks_mut(k).enumerate() {
        unused.iter().for_each(|at| values[*at] = if row % 2 == 0 { f32::INFINITY } else { f32::NAN });
    }
    values[3 * k + half] = f32::INFINITY;
    wanted[3 * n + n / 2..4 * n].fill(f32::INFINITY);
    let (x, wanted) = (tensor(&dims, &values).unwrap(), tensor(&[dims[0], n], &wanted).unwrap());
    check_module("not finite", &module, (&x, &wanted), SUMS, &|text| text.contains("b = sparse"));
}

#[test]
fn convolutions_may_be_sparse() {
    for (channels, size, stride) in [(64, 1, 1), (128, 1, 2), (64, 3, 1), (40, 3, 2)] {
        graph("a convolution", &[1, 13, 14, channels], "block=4", &|b, x| {
            let (taps, co) = (size * size, 136);
            // Blocks of four output channels.
            let dense = weights((channels * taps) as i64, co as i64, 4, 8);
            let mut w = vec![0.0f32; dense.len()];
            for (i, value) in w.iter_mut().enumerate() {
                let (o, at) = (i / (channels * taps), i % (channels * taps));
                *value = dense[at * co + o];
            }
            let w = b.constant(tensor(&[co, channels, size, size], &w)?)?;
            let pad = size as i64 / 2;
            let op = Conv::Forward {
                strides: vec![stride, stride],
                dilations: vec![1, 1],
                pads: vec![(Dim::known(pad), Dim::known(pad)); 2],
                groups: 1,
                layout: Layout::ChannelsLast,
                out: DType::F32,
            };
            let y = b.add1(op, &[x, w])?;
            b.ew("relu", &[y])
        });
    }
}

/// Layers of bytes less a zero point: lists where dot products of bytes are one instruction, panels elsewhere.
#[test]
fn bytes_may_be_sparse() {
    let scalar = |b: &mut GraphBuilder<'_>, v: i32| {
        let tensor = Tensor::from_slice(&[], &[v]).map_err(|e| InferError::new(e.to_string()))?;
        b.constant(tensor)
    };
    for (m, percent, conv) in [(100, 30, false), (128, 10, false), (40, 10, false), (196, 20, true)] {
        let (k, n) = (512usize, 256usize);
        let count = m * k;
        let values: Vec<u8> = (0..count).map(|i| ((i * 7 + i / 13) % 256) as u8).collect();
        let dims = if conv { vec![1, 14, 14, k] } else { vec![m, k] };
        let x = Tensor::from_slice(&dims, &values).unwrap();
        let weights: Vec<i8> = {
            // `[n][k]`, four side by side zero together.
            let all = groups([1, k as i64, n as i64], percent, false);
            (0..n * k).map(|i| all[i % k / 4 * n + i / k][i % k % 4]).collect()
        };
        let module = fusion("bytes", &x, &|b, x| {
            let x = b.cast(x, DType::I32)?;
            let zero = scalar(b, 117)?;
            let x = b.ew("sub", &[x, zero])?;
            let shape = if conv { vec![n, k, 1, 1] } else { vec![n, k] };
            let w = Tensor::from_slice(&shape, &weights).map_err(|e| InferError::new(e.to_string()))?;
            let w = b.constant(w)?;
            let w = b.cast(w, DType::I32)?;
            let sums = if conv {
                let op = Conv::Forward {
                    strides: vec![1, 1],
                    dilations: vec![1, 1],
                    pads: vec![(Dim::known(0), Dim::known(0)); 2],
                    groups: 1,
                    layout: Layout::ChannelsLast,
                    out: DType::I32,
                };
                b.add1(op, &[x, w])?
            } else {
                let spec = ContractSpec { lhs: b"mk".to_vec(), rhs: b"nk".to_vec(), out: b"mn".to_vec() };
                b.add1(Contract::Einsum { spec, out: DType::I32 }, &[x, w])?
            };
            let real = b.cast(sums, DType::F32)?;
            let scale = b.scalar(DType::F32, 0.001)?;
            b.ew("mul", &[real, scale])
        });
        let wanted = evaluated(&module, &x);
        check_module("bytes", &module, (&x, &wanted), EXACT, &|text| {
            text.contains("b = sparse") && text.contains(" group=4") || text.contains("b = packed")
        });
        let compiled = |tier: Tier| {
            let options = Options { tier, ..Options::default() };
            compile(&module, &options).unwrap().kernel_texts.join("\n")
        };
        assert!(compiled(Tier::X86V4Vnni).contains("b = sparse"), "{m} {percent}");
        assert!(compiled(Tier::X86V4).contains("b = packed"), "{m} {percent}");
    }
}
