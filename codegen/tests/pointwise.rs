//! Pointwise kernels and reductions: compiled code against the interpreter. Random ones are in `tests/tests`.

mod support;

use kiln_codegen::kir::{Ix, KernelBuilder, LoopKind};
use kiln_ir::{DType, Prim};
use support::{TIGHT, check, elements};

#[test]
fn odd_functions_keep_the_sign_of_zero() {
    let odd = [Prim::Tanh, Prim::Erf, Prim::Sin, Prim::Tan, Prim::Atan, Prim::Asin, Prim::Sinh, Prim::Asinh];
    for prim in odd {
        let mut b = KernelBuilder::new("reciprocal");
        let (x, out) = (b.input(DType::F32), b.output(DType::F32));
        let one = b.literal(DType::F32, 1.0);
        b.vector(40, |b, i| {
            let v = b.load(x, i.clone());
            let v = b.apply(prim, &[v]);
            let v = b.apply(Prim::Div, &[one, v]);
            b.store(out, i, v);
        });
        let kernel = b.finish().unwrap();
        let data = elements(DType::F32, (0..40).map(|i| if i % 2 == 0 { -0.0 } else { 0.0 }));
        check(&kernel, &[data, elements(DType::F32, vec![0.0; 40])], &[], TIGHT);
    }
}

#[test]
fn sums_of_columns_run_in_lanes_around_a_sequential_loop() {
    for (rows, columns) in [(5, 19), (1, 4), (0, 9), (7, 33)] {
        let mut b = KernelBuilder::new("columns");
        let (x, out) = (b.input(DType::F32), b.output(DType::F32));
        let zero = b.literal(DType::F32, 0.0);
        b.vector(columns, |b, c| {
            let sum = b.reduce(LoopKind::Sequential, rows, &[(Prim::Add, zero)], |b, r| {
                vec![b.load(x, r * columns + c.clone())]
            });
            let scaled = b.fold(3, &sum, |b, _, args| vec![b.apply(Prim::Add, &[args[0], sum[0]])]);
            b.store(out, c, scaled[0]);
        });
        let kernel = b.finish().unwrap();
        let data = elements(DType::F32, (0..rows * columns).map(|i| i as f64 * 0.5));
        check(&kernel, &[data, elements(DType::F32, vec![0.0; columns as usize])], &[], TIGHT);
    }
}

#[test]
fn softmax_rows_with_scratch() {
    let mut b = KernelBuilder::new("softmax");
    let (x, out) = (b.input(DType::F32), b.output(DType::F32));
    let n = b.dim();
    let tmp = b.scratch(DType::F32, n.clone());
    let row = b.grid(4);
    let base = row * n.clone();
    let low = b.literal(DType::F32, f64::NEG_INFINITY);
    let max =
        b.reduce(LoopKind::Vector, n.clone(), &[(Prim::Max, low)], |b, i| vec![b.load(x, base.clone() + i)]);
    let zero = b.literal(DType::F32, 0.0);
    let sum = b.reduce(LoopKind::Vector, n.clone(), &[(Prim::Add, zero)], |b, i| {
        let v = b.load(x, base.clone() + i.clone());
        let v = b.apply(Prim::Sub, &[v, max[0]]);
        let e = b.apply(Prim::Exp, &[v]);
        b.store(tmp, i, e);
        vec![e]
    });
    b.vector(n.clone(), |b, i| {
        let e = b.load(tmp, i.clone());
        let p = b.apply(Prim::Div, &[e, sum[0]]);
        b.store(out, base.clone() + i, p);
    });
    let kernel = b.finish().unwrap();
    for n in [1, 3, 16, 37] {
        let data = elements(DType::F32, (0..4 * n).map(|i| (i % 11) as f64 - 5.0));
        let out = check(&kernel, &[data, elements(DType::F32, vec![0.0; 4 * n as usize])], &[n], TIGHT);
        let total: f64 = support::scalars(DType::F32, &out[1])[..n as usize]
            .iter()
            .map(|s| if let kiln_ir::Scalar::F(v) = s { *v } else { 0.0 })
            .sum();
        assert!((total - 1.0).abs() < 1e-5, "{total}");
    }
}

#[test]
fn argmax_by_carried_values_and_gathers_by_loaded_indices() {
    let mut b = KernelBuilder::new("argmax");
    let (x, table, index, value) =
        (b.input(DType::F32), b.input(DType::F32), b.output(DType::I64), b.output(DType::F32));
    let best = b.literal(DType::F32, f64::NEG_INFINITY);
    let at = b.literal(DType::I64, -1.0);
    let found = b.fold(29, &[best, at], |b, i, args| {
        let v = b.load(x, i.clone());
        let better = b.apply(Prim::Gt, &[v, args[0]]);
        let i = b.index(i);
        vec![b.apply(Prim::Select, &[better, v, args[0]]), b.apply(Prim::Select, &[better, i, args[1]])]
    });
    b.store(index, 0, found[1]);
    b.vector(4, |b, j| {
        let v = b.load(table, Ix::Scalar(found[1]) * 4 + j.clone());
        b.store(value, j, v);
    });
    let positive = b.literal(DType::F32, 0.0);
    let cond = b.apply(Prim::Lt, &[found[0], positive]);
    b.if_else(cond, |b| b.store(value, 0, found[0]), |b| b.store(value, 1, found[0]));
    let kernel = b.finish().unwrap();
    let data = elements(DType::F32, (0..29).map(|i| ((i * 17) % 29) as f64));
    let table = elements(DType::F32, (0..29 * 4).map(f64::from));
    let out = check(&kernel, &[data, table, vec![0; 8], vec![0; 16]], &[], TIGHT);
    assert_eq!(i64::from_le_bytes(out[2][..].try_into().unwrap()), 17);
}

#[test]
fn packed_integers_load_with_their_signs() {
    for dtype in [DType::I4, DType::U4, DType::I2, DType::U2] {
        let mut b = KernelBuilder::new("packed");
        let (x, out) = (b.input(dtype), b.output(DType::I32));
        b.vector(23, |b, i| {
            let v = b.load(x, i.clone());
            let v = b.cast(v, DType::I32);
            b.store(out, i, v);
        });
        let kernel = b.finish().unwrap();
        let data: Vec<u8> = (0..12u32).map(|i| (i * 73 + 29) as u8).collect();
        check(&kernel, &[data, vec![0; 23 * 4]], &[], TIGHT);
    }
}

/// The portable path has instructions that take operands from memory only where those are aligned.
#[test]
fn comparisons_read_vectors_from_any_address() {
    for prim in [Prim::Lt, Prim::Le, Prim::Gt, Prim::Ge, Prim::Eq, Prim::Ne] {
        let mut b = KernelBuilder::new("compare");
        let (x, y, out) = (b.input(DType::F32), b.input(DType::F32), b.output(DType::F32));
        b.vector(41, |b, i| {
            let (left, right) = (b.load(x, i.clone() + 1), b.load(y, i.clone() + 3));
            let holds = b.apply(prim, &[left, right]);
            let holds = b.cast(holds, DType::F32);
            b.store(out, i, holds);
        });
        let kernel = b.finish().unwrap();
        let data = |seed: i64| elements(DType::F32, (0..44).map(|i| ((i * 7 + seed) % 5) as f64));
        check(&kernel, &[data(1), data(2), vec![0; 41 * 4]], &[], TIGHT);
    }
}
