//! Sorting, searching, scanning.

use kiln_ir::Tensor;
use kiln_ir::op::{CumKind, Dynamic, Order};

use super::{f32s, fails, i64s, run, run_all, same};

#[test]
fn positions_of_extrema() {
    let x = f32s(&[2, 3], &[1.0, 3.0, 3.0, -1.0, -5.0, -5.0]);
    let max = |last| run(Order::ArgMax { axis: 1, keepdims: false, last }, &[x.clone()]);
    same(&max(false), &Tensor::ints(&[1, 0]));
    same(&max(true), &Tensor::ints(&[2, 0]));
    let min = run(Order::ArgMin { axis: 1, keepdims: true, last: true }, &[x.clone()]);
    same(&min, &i64s(&[2, 1], &[0, 2]));
    same(&run(Order::ArgMax { axis: 0, keepdims: false, last: false }, &[x]), &Tensor::ints(&[0, 0, 0]));
    let nan = f32s(&[4], &[1.0, f64::NAN, 9.0, f64::NAN]);
    same(
        &run(Order::ArgMax { axis: 0, keepdims: false, last: false }, &[nan.clone()]),
        &Tensor::scalar(1i64),
    );
    same(&run(Order::ArgMin { axis: 0, keepdims: false, last: false }, &[nan]), &Tensor::scalar(1i64));
    let empty = f32s(&[2, 0], &[]);
    assert!(fails(Order::ArgMax { axis: 1, keepdims: false, last: false }, &[empty]).contains("empty"));
}

#[test]
fn largest_and_smallest() {
    let x = f32s(&[2, 4], &[0.0, 3.0, 3.0, 1.0, 7.0, 6.0, f64::NEG_INFINITY, 7.0]);
    let r = run_all(Order::TopK { axis: 1, largest: true, sorted: true }, &[x.clone(), Tensor::ints(&[3])]);
    same(&r[0], &f32s(&[2, 3], &[3.0, 3.0, 1.0, 7.0, 7.0, 6.0]));
    same(&r[1], &i64s(&[2, 3], &[1, 2, 3, 0, 3, 1]));
    let r = run_all(Order::TopK { axis: 1, largest: false, sorted: true }, &[x.clone(), Tensor::ints(&[2])]);
    same(&r[0], &f32s(&[2, 2], &[0.0, 1.0, f64::NEG_INFINITY, 6.0]));
    let r = run_all(Order::TopK { axis: 0, largest: true, sorted: true }, &[x.clone(), Tensor::ints(&[1])]);
    same(&r[1], &i64s(&[1, 4], &[1, 1, 0, 1]));
    assert!(
        fails(Order::TopK { axis: 1, largest: true, sorted: true }, &[x.clone(), Tensor::ints(&[5])])
            .contains("5 of 4")
    );
    assert!(
        fails(Order::TopK { axis: 1, largest: true, sorted: true }, &[x, Tensor::ints(&[-1])])
            .contains("-1 of 4")
    );
}

#[test]
fn coordinates_of_what_is_not_zero() {
    let r = run(Order::NonZero {}, &[f32s(&[2, 2], &[1.0, -0.0, 2.0, f64::NAN])]);
    same(&r, &i64s(&[2, 3], &[0, 1, 1, 0, 0, 1]));
    same(&run(Order::NonZero {}, &[Tensor::scalar(3i64)]), &i64s(&[0, 1], &[]));
}

#[test]
fn unique_values() {
    let x = f32s(&[6], &[2.0, 1.0, 1.0, 3.0, 4.0, 3.0]);
    let sorted = run_all(Order::Unique { axis: None, sorted: true }, &[x.clone()]);
    same(&sorted[0], &f32s(&[4], &[1.0, 2.0, 3.0, 4.0]));
    same(&sorted[1], &Tensor::ints(&[1, 0, 3, 4]));
    same(&sorted[2], &Tensor::ints(&[1, 0, 0, 2, 3, 2]));
    same(&sorted[3], &Tensor::ints(&[2, 1, 2, 1]));
    let unsorted = run_all(Order::Unique { axis: None, sorted: false }, &[x]);
    same(&unsorted[0], &f32s(&[4], &[2.0, 1.0, 3.0, 4.0]));
    same(&unsorted[2], &Tensor::ints(&[0, 1, 1, 2, 3, 2]));
    // The ONNX examples along axes.
    let rows = run_all(
        Order::Unique { axis: Some(0), sorted: true },
        &[f32s(&[3, 3], &[1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 2.0, 3.0, 4.0])],
    );
    same(&rows[0], &f32s(&[2, 3], &[1.0, 0.0, 0.0, 2.0, 3.0, 4.0]));
    same(&rows[2], &Tensor::ints(&[0, 0, 1]));
    let columns = run_all(
        Order::Unique { axis: Some(1), sorted: true },
        &[i64s(&[2, 4, 2], &[1, 1, 0, 1, 2, 1, 0, 1, 1, 1, 0, 1, 2, 1, 0, 1])],
    );
    same(&columns[0], &i64s(&[2, 3, 2], &[0, 1, 1, 1, 2, 1, 0, 1, 1, 1, 2, 1]));
    same(&columns[1], &Tensor::ints(&[1, 0, 2]));
    same(&columns[3], &Tensor::ints(&[2, 1, 1]));
    let words = Tensor::strings(&[3], vec!["b".into(), "a".into(), "b".into()]).unwrap();
    assert_eq!(run_all(Order::Unique { axis: None, sorted: true }, &[words])[0].as_strings(), ["a", "b"]);
}

#[test]
fn running_sums_and_products() {
    let x = f32s(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let r = |kind, axis, exclusive, reverse| {
        run(Order::Cumulative { kind, axis, exclusive, reverse }, &[x.clone()])
    };
    same(&r(CumKind::Sum, 1, false, false), &f32s(&[2, 3], &[1.0, 3.0, 6.0, 4.0, 9.0, 15.0]));
    same(&r(CumKind::Sum, 1, true, false), &f32s(&[2, 3], &[0.0, 1.0, 3.0, 0.0, 4.0, 9.0]));
    same(&r(CumKind::Sum, 1, true, true), &f32s(&[2, 3], &[5.0, 3.0, 0.0, 11.0, 6.0, 0.0]));
    same(&r(CumKind::Prod, 0, false, false), &f32s(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 10.0, 18.0]));
    let dynamic = Dynamic::Cumulative { kind: CumKind::Sum, exclusive: false, reverse: true };
    let along = run(dynamic.clone(), &[x.clone(), Tensor::scalar(-1i32)]);
    same(&along, &f32s(&[2, 3], &[6.0, 5.0, 3.0, 15.0, 11.0, 6.0]));
    assert!(fails(dynamic, &[x.clone(), Tensor::scalar(2i64)]).contains("axis 2"));
    let bytes = Tensor::from_slice(&[3], &[100i8, 100, 1]).unwrap();
    let wrapped =
        run(Order::Cumulative { kind: CumKind::Sum, axis: 0, exclusive: false, reverse: false }, &[bytes]);
    same(&wrapped, &Tensor::from_slice(&[3], &[100i8, -56, -55]).unwrap());
}
