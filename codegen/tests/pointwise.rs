//! Pointwise kernels and reductions: compiled code against the interpreter, on random kernels.

mod support;

use kiln_codegen::kir::{Bound, Ix, Kernel, KernelBuilder, LoopKind, Val};
use kiln_ir::{DType, Prim};
use proptest::prelude::*;
use support::{TIGHT, Tolerance, check, elements};

const DTYPES: [DType; 13] = [
    DType::F32,
    DType::F64,
    DType::F16,
    DType::BF16,
    DType::Bool,
    DType::I8,
    DType::I16,
    DType::I32,
    DType::I64,
    DType::U8,
    DType::U16,
    DType::U32,
    DType::U64,
];

/// How an input is read.
#[derive(Clone, Copy, Debug)]
enum Pattern {
    Contiguous,
    Broadcast,
    Strided,
    Reversed,
    Wrapped,
    PaddedEdge,
    PaddedRow,
}

const PATTERNS: [Pattern; 7] = [
    Pattern::Contiguous,
    Pattern::Broadcast,
    Pattern::Strided,
    Pattern::Reversed,
    Pattern::Wrapped,
    Pattern::PaddedEdge,
    Pattern::PaddedRow,
];

#[derive(Clone, Debug)]
struct Case {
    inputs: Vec<(DType, Pattern)>,
    /// Seeds of operations.
    steps: Vec<(u32, u32, u32)>,
    output: DType,
    rows: i64,
    columns: i64,
    dynamic: bool,
}

fn case() -> impl Strategy<Value = Case> {
    let input = (0..DTYPES.len(), 0..PATTERNS.len()).prop_map(|(d, p)| (DTYPES[d], PATTERNS[p]));
    (
        prop::collection::vec(input, 1..4),
        prop::collection::vec((any::<u32>(), any::<u32>(), any::<u32>()), 1..7),
        0..DTYPES.len(),
        0..4i64,
        0..41i64,
        any::<bool>(),
    )
        .prop_map(|(inputs, steps, output, rows, columns, dynamic)| Case {
            inputs,
            steps,
            output: DTYPES[output],
            rows,
            columns,
            dynamic,
        })
}

fn read(
    b: &mut KernelBuilder,
    buffer: kiln_codegen::kir::BufferId,
    pattern: Pattern,
    at: [&Ix; 2],
    n: &Ix,
) -> Val {
    let [row, column] = at.map(Clone::clone);
    match pattern {
        Pattern::Contiguous => b.load(buffer, row * n + column),
        Pattern::Broadcast => b.load(buffer, row),
        Pattern::Strided => b.load(buffer, column * 3 + row),
        Pattern::Reversed => b.load(buffer, row * n + (n.clone() - 1) - column),
        Pattern::Wrapped => b.load(buffer, column.clone().modulo(5) + row + column.floor_div(7)),
        Pattern::PaddedEdge => {
            let shifted = column - 2;
            let bound = Bound::below(shifted.clone(), n.clone() - 3);
            b.load_guarded(buffer, row * n + shifted, vec![bound], 1.0)
        }
        Pattern::PaddedRow => {
            let above = row - 1;
            let bound = Bound { index: above.clone(), lower: 0.into(), upper: 2.into() };
            b.load_guarded(buffer, above * n + column, vec![bound], 0.0)
        }
    }
}

/// One random operation on the values so far.
fn step(b: &mut KernelBuilder, values: &mut Vec<Val>, (kind, left, right): (u32, u32, u32)) {
    let x = values[left as usize % values.len()];
    let dtype = b.dtype(x);
    if kind % 5 == 0 {
        let to = DTYPES[right as usize % DTYPES.len()];
        let to = kiln_codegen::kir::compute_dtype(to).unwrap();
        values.push(b.cast(x, to));
        return;
    }
    let y = values[right as usize % values.len()];
    let y = b.cast(y, dtype);
    let float = [
        Prim::Add,
        Prim::Sub,
        Prim::Mul,
        Prim::Div,
        Prim::Min,
        Prim::Max,
        Prim::Neg,
        Prim::Abs,
        Prim::Sqrt,
        Prim::Exp,
        Prim::Log,
        Prim::Tanh,
        Prim::Erf,
        Prim::Floor,
        Prim::Ceil,
        Prim::Round,
        Prim::Trunc,
        Prim::Lt,
        Prim::Eq,
        Prim::Ne,
        Prim::Ge,
        Prim::IsNan,
        Prim::IsInf,
        Prim::Sin,
        Prim::Rem,
        Prim::Mod,
        Prim::Pow,
        Prim::Select,
    ];
    let int = [
        Prim::Add,
        Prim::Sub,
        Prim::Mul,
        Prim::Div,
        Prim::Rem,
        Prim::Mod,
        Prim::Pow,
        Prim::Min,
        Prim::Max,
        Prim::Neg,
        Prim::Abs,
        Prim::Lt,
        Prim::Le,
        Prim::Gt,
        Prim::Ge,
        Prim::Eq,
        Prim::Ne,
        Prim::And,
        Prim::Or,
        Prim::Xor,
        Prim::Not,
        Prim::Shl,
        Prim::Shr,
        Prim::Select,
        Prim::Floor,
        Prim::IsNan,
    ];
    let bool = [
        Prim::And,
        Prim::Or,
        Prim::Xor,
        Prim::Not,
        Prim::Eq,
        Prim::Ne,
        Prim::Lt,
        Prim::Le,
        Prim::Gt,
        Prim::Ge,
        Prim::Min,
        Prim::Max,
        Prim::Add,
        Prim::Mul,
        Prim::Select,
    ];
    let table: &[Prim] = if dtype.is_float() {
        &float
    } else if dtype == DType::Bool {
        &bool
    } else {
        &int
    };
    let prim = table[kind as usize / 5 % table.len()];
    let value = match prim.arity() {
        1 => b.apply(prim, &[x]),
        2 => b.apply(prim, &[x, y]),
        _ => {
            let cond = b.apply(Prim::Le, &[x, y]);
            b.apply(Prim::Select, &[cond, y, x])
        }
    };
    values.push(value);
}

fn build(case: &Case) -> (Kernel, Vec<i64>) {
    let mut b = KernelBuilder::new("pointwise");
    let inputs: Vec<_> = case.inputs.iter().map(|&(d, p)| (b.input(d), p)).collect();
    let out = b.output(case.output);
    let (rows, n, dims) = if case.dynamic {
        (b.dim(), b.dim(), vec![case.rows, case.columns])
    } else {
        (case.rows.into(), case.columns.into(), vec![])
    };
    let row = b.grid(rows);
    b.vector(n.clone(), |b, column| {
        let mut values: Vec<Val> =
            inputs.iter().map(|&(id, p)| read(b, id, p, [&row, &column], &n)).collect();
        for &s in &case.steps {
            step(b, &mut values, s);
        }
        let last = values[values.len() - 1];
        let stored = kiln_codegen::kir::compute_dtype(case.output).unwrap();
        let value = b.cast(last, stored);
        b.store(out, row.clone() * &n + column, value);
    });
    (b.finish().unwrap(), dims)
}

fn buffers(case: &Case) -> Vec<Vec<u8>> {
    let len = (case.rows + 1) * (3 * case.columns + 8);
    let mut all: Vec<Vec<u8>> = case
        .inputs
        .iter()
        .enumerate()
        .map(|(j, &(d, _))| {
            let value =
                |i: i64| ((i * 37 + j as i64 * 11) % 41 - 20) as f64 * if d.is_float() { 0.37 } else { 1.0 };
            elements(d, (0..len).map(value))
        })
        .collect();
    all.push(elements(case.output, (0..case.rows * case.columns).map(|_| 0.0)));
    all
}

/// Whether the case is free of discontinuities that turn rounding noise into other results.
fn continuous(case: &Case) -> bool {
    let (kernel, _) = build(case);
    let text = kernel.to_string();
    let jumps =
        ["floor", "ceil", "round", "trunc", "rem", "mod", " lt", " eq", " ne", " ge", " le", "cast", "shl"];
    let noisy = ["exp", "log", "tanh", "erf", "sin", "pow"];
    !(noisy.iter().any(|n| text.contains(n)) && jumps.iter().any(|j| text.contains(j)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_pointwise_kernels_agree(case in case()) {
        prop_assume!(continuous(&case));
        let (kernel, dims) = build(&case);
        check(&kernel, &buffers(&case), &dims, Tolerance { relative: 1e-4, absolute: 1e-5 });
    }

    #[test]
    fn random_reductions_agree(
        dtype in 0..DTYPES.len(), prim in 0..7usize, n in 0..75i64, stride in 1..4i64, vector in any::<bool>(),
    ) {
        let dtype = DTYPES[dtype];
        let prim = [Prim::Add, Prim::Mul, Prim::Min, Prim::Max, Prim::And, Prim::Or, Prim::Xor][prim];
        prop_assume!(!(dtype.is_float() && matches!(prim, Prim::And | Prim::Or | Prim::Xor)));
        let mut b = KernelBuilder::new("reduce");
        let (x, out) = (b.input(dtype), b.output(dtype));
        let len = b.dim();
        let row = b.grid(3);
        let compute = kiln_codegen::kir::compute_dtype(dtype).unwrap();
        let init = b.literal(compute, 1.0);
        let kind = if vector { LoopKind::Vector } else { LoopKind::Sequential };
        let total = b.reduce(kind, len.clone(), &[(prim, init)], |b, i| {
            vec![b.load(x, row.clone() * len.clone() * stride + i * stride)]
        });
        b.store(out, row, total[0]);
        let kernel = b.finish().unwrap();
        let value = |i: i64| if dtype.is_float() { 1.0 + ((i * 7) % 13 - 6) as f64 * 0.01 } else { ((i * 7) % 13 - 6) as f64 };
        let data = elements(dtype, (0..3 * n * stride + 1).map(value));
        check(&kernel, &[data, elements(dtype, [0.0; 3])], &[n], Tolerance { relative: 3e-5, absolute: 1e-5 });
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
