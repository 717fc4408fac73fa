//! Gathers and scatters.

use kiln_ir::op::{Index, ScatterMode};
use kiln_ir::{DType, Tensor};

use super::{f32s, fails, i64s, run, same, t};

#[test]
fn gathers() {
    let x = i64s(&[3, 2], &[1, 2, 3, 4, 5, 6]);
    let r = run(Index::Gather { axis: 0 }, &[x.clone(), i64s(&[2, 1], &[-1, 0])]);
    same(&r, &i64s(&[2, 1, 2], &[5, 6, 1, 2]));
    same(&run(Index::Gather { axis: 1 }, &[x.clone(), Tensor::scalar(1i64)]), &i64s(&[3], &[2, 4, 6]));
    let small = Tensor::from_slice(&[1], &[-3i32]).unwrap();
    same(&run(Index::Gather { axis: 0 }, &[x.clone(), small]), &i64s(&[1, 2], &[1, 2]));
    assert!(
        fails(Index::Gather { axis: 0 }, &[x.clone(), Tensor::ints(&[3])])
            .contains("index 3 is out of range")
    );
    assert!(
        fails(Index::Gather { axis: 0 }, &[x.clone(), Tensor::ints(&[i64::MIN])]).contains("out of range")
    );
    assert!(fails(Index::Gather { axis: 2 }, &[x, Tensor::ints(&[0])]).contains("axis 2"));
}

#[test]
fn gathers_of_elements() {
    let x = i64s(&[2, 3], &[1, 2, 3, 4, 5, 6]);
    let r = run(Index::GatherElements { axis: 1 }, &[x.clone(), i64s(&[2, 2], &[0, -1, 1, 1])]);
    same(&r, &i64s(&[2, 2], &[1, 3, 5, 5]));
    same(
        &run(Index::GatherElements { axis: 0 }, &[x.clone(), i64s(&[1, 2], &[1, 0])]),
        &i64s(&[1, 2], &[4, 2]),
    );
    assert!(fails(Index::GatherElements { axis: 0 }, &[x, i64s(&[1, 4], &[0; 4])]).contains("indices"));
}

#[test]
fn gathers_by_coordinates() {
    // The examples of ONNX GatherND.
    let x = i64s(&[2, 2], &[0, 1, 2, 3]);
    same(
        &run(Index::GatherNd { batch: 0 }, &[x.clone(), i64s(&[2, 2], &[0, 0, 1, 1])]),
        &Tensor::ints(&[0, 3]),
    );
    same(
        &run(Index::GatherNd { batch: 0 }, &[x.clone(), i64s(&[2, 1], &[1, 0])]),
        &i64s(&[2, 2], &[2, 3, 0, 1]),
    );
    let cube = i64s(&[2, 2, 2], &[0, 1, 2, 3, 4, 5, 6, 7]);
    same(
        &run(Index::GatherNd { batch: 1 }, &[cube.clone(), i64s(&[2, 1], &[1, 0])]),
        &i64s(&[2, 2], &[2, 3, 4, 5]),
    );
    let r = run(Index::GatherNd { batch: 0 }, &[cube, i64s(&[2, 1, 2], &[0, 1, 1, 0])]);
    same(&r, &i64s(&[2, 1, 2], &[2, 3, 4, 5]));
    same(
        &run(Index::GatherNd { batch: 0 }, &[x.clone(), i64s(&[1, 0], &[])]),
        &i64s(&[1, 2, 2], &[0, 1, 2, 3]),
    );
    assert!(fails(Index::GatherNd { batch: 0 }, &[x.clone(), i64s(&[1, 2], &[0, 2])]).contains("index 2"));
    assert!(fails(Index::GatherNd { batch: 2 }, &[x, i64s(&[2, 1], &[0, 0])]).contains("batch"));
    // Rows without coordinates take no memory of their own, but their results would.
    let many = Tensor::from_slice::<i64>(&[1 << 40, 0], &[]).unwrap();
    assert!(fails(Index::GatherNd { batch: 0 }, &[Tensor::ints(&[1]), many]).contains("exceeds"));
}

#[test]
fn scatters() {
    let x = f32s(&[1, 5], &[1.0, 2.0, 3.0, 4.0, 5.0]);
    let (at, u) = (i64s(&[1, 2], &[1, -2]), f32s(&[1, 2], &[1.5, 2.5]));
    let op = |mode| Index::ScatterElements { axis: 1, mode };
    let r = |mode, at: &Tensor| run(op(mode), &[x.clone(), at.clone(), u.clone()]);
    same(&r(ScatterMode::Assign, &at), &f32s(&[1, 5], &[1.0, 1.5, 3.0, 2.5, 5.0]));
    let twice = i64s(&[1, 2], &[1, 1]);
    same(&r(ScatterMode::Add, &twice), &f32s(&[1, 5], &[1.0, 6.0, 3.0, 4.0, 5.0]));
    same(&r(ScatterMode::Mul, &twice), &f32s(&[1, 5], &[1.0, 7.5, 3.0, 4.0, 5.0]));
    same(&r(ScatterMode::Max, &twice), &f32s(&[1, 5], &[1.0, 2.5, 3.0, 4.0, 5.0]));
    same(&r(ScatterMode::Min, &twice), &f32s(&[1, 5], &[1.0, 1.5, 3.0, 4.0, 5.0]));
    same(&r(ScatterMode::Assign, &twice), &f32s(&[1, 5], &[1.0, 2.5, 3.0, 4.0, 5.0]));
    assert!(fails(op(ScatterMode::Add), &[x.clone(), i64s(&[1, 2], &[5, 0]), u]).contains("index 5"));
    assert!(fails(op(ScatterMode::Add), &[x, at, f32s(&[1, 1], &[0.0])]).contains("updates"));
}

#[test]
fn scatters_by_coordinates() {
    let x = i64s(&[4], &[1, 2, 3, 4]);
    let r = run(
        Index::ScatterNd { mode: ScatterMode::Add },
        &[x.clone(), i64s(&[2, 1], &[-1, 3]), Tensor::ints(&[10, 20])],
    );
    same(&r, &Tensor::ints(&[1, 2, 3, 34]));
    let m = i64s(&[2, 2], &[1, 2, 3, 4]);
    let r = run(
        Index::ScatterNd { mode: ScatterMode::Assign },
        &[m.clone(), i64s(&[1, 1], &[1]), i64s(&[1, 2], &[8, 9])],
    );
    same(&r, &i64s(&[2, 2], &[1, 2, 8, 9]));
    let wrong =
        fails(Index::ScatterNd { mode: ScatterMode::Assign }, &[m, i64s(&[1, 1], &[1]), i64s(&[1, 1], &[8])]);
    assert!(wrong.contains("expected [1, 2]"));
    let bytes = t(DType::I8, &[1], &[127.0]);
    let r = run(
        Index::ScatterNd { mode: ScatterMode::Add },
        &[bytes.clone(), i64s(&[1, 1], &[0]), t(DType::I8, &[1], &[1.0])],
    );
    same(&r, &t(DType::I8, &[1], &[-128.0]));
}
