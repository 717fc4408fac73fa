//! Operators whose result shape depends on data, compiled, against the reference evaluator: nothing of them is left to the
//! evaluator, and what it refuses fails.

use std::sync::Arc;

use kiln_codegen::build::{Options, compile};
use kiln_ir::op::{
    CoordinateMode, CumKind, Dynamic, Index, Interpolation, NearestMode, Order, PadMode, ReduceKind,
    ScatterMode,
};
use kiln_ir::{Build, DType, Datum, Evaluator, Float, GraphBuilder, Module, Op, Tensor, Type, Value};
use kiln_runtime::{Executable, Session, SessionOptions};

/// Runs one operator both ways on each list of operands: the same results or, where the evaluator fails, a failure.
fn check(op: impl Into<Op>, runs: &[Vec<Tensor>]) {
    check_with(op, None, runs);
}

/// The same with an operand that is a constant, at its position.
fn check_with(op: impl Into<Op>, constant: Option<(usize, Tensor)>, runs: &[Vec<Tensor>]) {
    let op = op.into();
    let mut module = Module::new();
    let mut b = GraphBuilder::new(&mut module, "main");
    let mut operands: Vec<Value> =
        runs[0].iter().enumerate().map(|(i, t)| b.input(&format!("x{i}"), Type::Tensor(t.ty()))).collect();
    if let Some((at, tensor)) = constant {
        operands.insert(at, b.constant(tensor).unwrap());
    }
    let results = b.add(op.clone(), &operands).unwrap_or_else(|e| panic!("{op:?}: {e}"));
    results.iter().enumerate().for_each(|(i, &v)| b.output(&format!("y{i}"), v));
    let id = b.finish();
    module.add_entry(id);
    let compiled = compile(&module, &Options::default()).unwrap_or_else(|e| panic!("{op:?}: {e}"));
    assert_eq!(compiled.summary.slow, [], "{op:?}");
    let session =
        Session::new(Arc::new(Executable::from_image(compiled.image).unwrap()), SessionOptions::default());
    for operands in runs {
        let data: Vec<Datum> = operands.iter().cloned().map(Datum::Tensor).collect();
        let actual = session.run("main", &data);
        match Evaluator::new(&module).run(id, &data) {
            Err(_) => assert!(actual.is_err(), "{op:?} of {operands:?} does not fail: {actual:?}"),
            Ok(expected) => {
                let actual = actual.unwrap_or_else(|e| panic!("{op:?} of {operands:?}: {e}"));
                for (e, a) in expected.iter().zip(&actual) {
                    let (Datum::Tensor(e), Datum::Tensor(a)) = (e, a) else { panic!("{op:?}: tensors") };
                    assert_eq!((e.dtype(), e.dims()), (a.dtype(), a.dims()), "{op:?} of {operands:?}");
                    let pairs = e.to_f64s().unwrap().into_iter().zip(a.to_f64s().unwrap());
                    for (e, a) in pairs {
                        let close =
                            e == a || (e.is_nan() && a.is_nan()) || (e - a).abs() <= 1e-5 * e.abs().max(1.0);
                        assert!(close, "{op:?} of {operands:?}: {a}, expected {e}");
                    }
                }
            }
        }
    }
}

fn floats(dims: &[usize]) -> Tensor {
    let values: Vec<f32> =
        (0..dims.iter().product::<usize>()).map(|i| (i * 37 % 23) as f32 * 0.5 - 3.0).collect();
    Tensor::from_slice(dims, &values).unwrap()
}

fn ints(values: &[i64]) -> Tensor {
    Tensor::ints(values)
}

fn number(value: i64) -> Tensor {
    Tensor::from_slice(&[], &[value]).unwrap()
}

#[test]
fn reductions_over_axes_that_show_at_run_time() {
    for kind in [ReduceKind::Sum, ReduceKind::Mean, ReduceKind::Max, ReduceKind::Prod, ReduceKind::L2] {
        for keepdims in [true, false] {
            let op = |noop| Dynamic::Reduce { kind, keepdims, noop };
            let x = floats(&[3, 4, 5]);
            let one: Vec<_> = [0, 1, 2, -1, -3, 3, -4].iter().map(|&a| vec![x.clone(), ints(&[a])]).collect();
            check(op(false), &one);
            let pairs = [[0, 1], [1, 0], [-1, 0], [2, 1], [1, 1], [0, -3]];
            check(op(false), &pairs.map(|p| vec![x.clone(), ints(&p)]));
            check(op(true), &pairs.map(|p| vec![x.clone(), ints(&p)]));
            check(op(false), &[vec![x.clone(), ints(&[2, 0, 1])]]);
            check(op(false), &[vec![floats(&[2, 0, 3]), ints(&[1])], vec![floats(&[2, 0, 3]), ints(&[0])]]);
        }
    }
}

#[test]
fn running_sums_along_an_axis_that_shows_at_run_time() {
    for kind in [CumKind::Sum, CumKind::Prod] {
        for (exclusive, reverse) in [(false, false), (true, false), (false, true), (true, true)] {
            let x = floats(&[3, 4, 5]);
            let runs: Vec<_> = [0, 1, 2, -1, 3, -4].iter().map(|&a| vec![x.clone(), number(a)]).collect();
            check(Dynamic::Cumulative { kind, exclusive, reverse }, &runs);
            check(Order::Cumulative { kind, axis: 1, exclusive, reverse }, &[vec![x]]);
            let x = ints(&[3, -2, 7, i64::MAX]);
            check(Order::Cumulative { kind, axis: 0, exclusive, reverse }, &[vec![x]]);
        }
    }
}

#[test]
fn shapes_that_show_at_run_time() {
    let x = floats(&[4, 1, 6]);
    let with = |lists: &[&[i64]]| -> Vec<Vec<Tensor>> {
        lists.iter().map(|list| vec![x.clone(), ints(list)]).collect()
    };
    for allow_zero in [false, true] {
        let op = Dynamic::Reshape { allow_zero };
        check(op, &with(&[&[6, 4], &[-1, 8], &[0, 6], &[0, -1], &[5, 5], &[-1, -1], &[-2, 12]]));
    }
    check(Dynamic::Expand {}, &with(&[&[4, 3, 6], &[1, 5, 1], &[4, 0, 6], &[2, 1, 6], &[1, 1, 1]]));
    check(Dynamic::Expand {}, &with(&[&[2, 1, 2, 6], &[3, 4, 1, 1]]));
    check(Dynamic::Tile {}, &with(&[&[1, 2, 3], &[2, 0, 1], &[1, 1, 1], &[1, -1, 1]]));
    check(Dynamic::Squeeze {}, &with(&[&[1], &[-2], &[0], &[3]]));
    check(Dynamic::Unsqueeze {}, &with(&[&[0, 1], &[1, 4], &[-1, 0], &[2, 2], &[5, 0]]));
    let fill = |dims: &[i64]| vec![ints(dims), Tensor::from_slice(&[], &[2.5f32]).unwrap()];
    check(Dynamic::Fill {}, &[fill(&[2, 3]), fill(&[0, 3]), fill(&[2, -3])]);
    let one_hot =
        |depth| vec![ints(&[1, -1, 3]), number(depth), Tensor::from_slice(&[2], &[0.0f32, 1.0]).unwrap()];
    check(Dynamic::OneHot { axis: -1 }, &[one_hot(4), one_hot(2), one_hot(0)]);
}

#[test]
fn ranges_that_show_at_run_time() {
    let whole = |a: i64, b: i64, d: i64| vec![number(a), number(b), number(d)];
    let runs =
        [(0, 10, 3), (10, 0, -3), (0, -5, 1), (5, 5, 1), (-3, 4, 2), (4, -3, -7), (0, 9, 3), (1, 2, 0)];
    check(Dynamic::Range {}, &runs.map(|(a, b, d)| whole(a, b, d)));
    check(Dynamic::Range {}, &[whole(i64::MIN, i64::MAX, 1), whole(i64::MAX, i64::MIN, -1)]);
    let float = |v: f32| Tensor::from_slice(&[], &[v]).unwrap();
    let runs = [(0.0, 1.0, 0.1), (1.0, -1.0, -0.3), (0.0, -1.0, 1.0), (2.0, 3.0, 0.5), (1.0, 2.0, 0.0)];
    check(Dynamic::Range {}, &runs.map(|(a, b, d)| vec![float(a), float(b), float(d)]));
}

#[test]
fn slices_and_padding_that_show_at_run_time() {
    let x = floats(&[5, 7]);
    let slice = |s: [i64; 2], e: [i64; 2], a: [i64; 2], t: [i64; 2]| {
        vec![x.clone(), ints(&s), ints(&e), ints(&a), ints(&t)]
    };
    check(
        Dynamic::Slice {},
        &[
            slice([1, 2], [4, 6], [0, 1], [1, 2]),
            slice([0, 1], [5, 3], [0, 1], [i64::MAX, i64::MAX]),
            slice([4, 3], [0, 0], [0, 1], [-i64::MAX, i64::MIN]),
            slice([-1, -2], [i64::MIN, i64::MIN], [0, 1], [-1, -3]),
            slice([0, 3], [i64::MAX, 3], [1, 0], [3, 1]),
            slice([9, -9], [20, 9], [-2, -1], [1, 1]),
            slice([4, 0], [-9, 7], [0, 1], [-2, 1]),
            slice([0, 0], [1, 1], [0, 0], [1, 1]),
            slice([0, 0], [1, 1], [0, 1], [1, 0]),
            slice([0, 0], [1, 1], [0, 2], [1, 1]),
        ],
    );
    for mode in [PadMode::Constant, PadMode::Edge, PadMode::Reflect, PadMode::Wrap] {
        let value = Tensor::from_slice(&[], &[9.5f32]).unwrap();
        let pad = |p: [i64; 4], a: [i64; 2]| vec![x.clone(), ints(&p), value.clone(), ints(&a)];
        check(
            Dynamic::Pad { mode },
            &[
                pad([1, 2, 3, 4], [0, 1]),
                pad([0, 0, 2, 1], [1, 0]),
                pad([-1, 2, 0, -3], [0, 1]),
                pad([0, 0, 0, 0], [-1, -2]),
                pad([-3, 0, -3, 0], [0, 1]),
                pad([1, 1, 1, 1], [1, 1]),
            ],
        );
    }
    let split = |a: i64, b: i64, c: i64| vec![x.clone(), ints(&[a, b, c])];
    let op = Dynamic::Split { axis: 1 };
    check(op, &[split(1, 2, 4), split(0, 7, 0), split(1, 1, 1), split(9, -1, -1)]);
}

#[test]
fn resizes_that_show_at_run_time() {
    let x = floats(&[1, 2, 4, 6]);
    let none = || Tensor::from_slice(&[0], &[0f32; 0]).unwrap();
    let op = |mode, coordinates, keep_aspect: &str| Dynamic::Resize {
        mode,
        coordinates,
        nearest: NearestMode::RoundPreferFloor,
        cubic_a: Float::new(-0.75),
        antialias: false,
        exclude_outside: false,
        extrapolation: Float::new(0.0),
        axes: vec![2, 3],
        keep_aspect: keep_aspect.to_owned(),
    };
    for mode in [Interpolation::Nearest, Interpolation::Linear, Interpolation::Cubic] {
        for coordinates in
            [CoordinateMode::HalfPixel, CoordinateMode::AlignCorners, CoordinateMode::Asymmetric]
        {
            let scales = |a: f32, b: f32| {
                vec![x.clone(), Tensor::from_slice(&[2], &[a, b]).unwrap(), ints(&[]), none()]
            };
            check(op(mode, coordinates, "stretch"), &[scales(2.0, 0.5), scales(0.6, 1.7), scales(1.0, 1.0)]);
            let sizes = |a, b| vec![x.clone(), none(), ints(&[a, b]), none()];
            for keep in ["stretch", "not_larger", "not_smaller"] {
                check(op(mode, coordinates, keep), &[sizes(8, 3), sizes(3, 9), sizes(4, 6)]);
            }
        }
    }
}

#[test]
fn scatters() {
    let modes = [ScatterMode::Assign, ScatterMode::Add, ScatterMode::Mul, ScatterMode::Min, ScatterMode::Max];
    for mode in modes {
        for dtype in [DType::F32, DType::F16, DType::I64, DType::U8] {
            let as_dtype = |t: Tensor| {
                let scalars: Vec<_> = t.to_f64s().unwrap().into_iter().map(|v| number_of(dtype, v)).collect();
                Tensor::from_scalars(dtype, t.dims(), &scalars).unwrap()
            };
            let x = as_dtype(floats(&[4, 5, 3]));
            let indices =
                Tensor::from_slice(&[2, 3, 3], &(0..18).map(|i| i % 5 - 2).collect::<Vec<i64>>()).unwrap();
            let updates = as_dtype(floats(&[2, 3, 3]));
            check_with(
                Index::ScatterElements { axis: 1, mode },
                Some((1, indices)),
                &[vec![x.clone(), updates]],
            );
            let rows = Tensor::from_slice(&[5, 2], &[0i64, 1, 3, -1, 0, 1, 2, 2, -4, -5]).unwrap();
            let updates = as_dtype(floats(&[5, 3]));
            check_with(Index::ScatterNd { mode }, Some((1, rows)), &[vec![x.clone(), updates]]);
            let rows = Tensor::from_slice(&[3, 1], &[2i64, 0, 2]).unwrap();
            let updates = as_dtype(floats(&[3, 5, 3]));
            check_with(Index::ScatterNd { mode }, Some((1, rows)), &[vec![x, updates]]);
        }
    }
}

fn number_of(dtype: DType, value: f64) -> kiln_ir::Scalar {
    if dtype.is_float() { kiln_ir::Scalar::F(value) } else { kiln_ir::Scalar::I(value.abs() as i128) }
}
