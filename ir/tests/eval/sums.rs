//! Reductions, contractions, convolutions, pooling.

use kiln_ir::op::{Contract, Conv, Layout, Reduce, ReduceKind, Window, WindowKind};
use kiln_ir::{DType, Dim, Tensor};

use super::{dims, f32s, fails, i64s, near, run, run_all, same, t};

fn reduce(kind: ReduceKind, axes: &[usize], keepdims: bool) -> Reduce {
    Reduce::Axes { kind, axes: axes.to_vec(), keepdims }
}

#[test]
fn reductions_over_axes() {
    let x = f32s(&[2, 3], &[1.0, -2.0, 3.0, -4.0, 5.0, -6.0]);
    let r = |kind, axes: &[usize]| run(reduce(kind, axes, false), &[x.clone()]);
    same(&r(ReduceKind::Sum, &[1]), &f32s(&[2], &[2.0, -5.0]));
    same(&r(ReduceKind::Sum, &[0]), &f32s(&[3], &[-3.0, 3.0, -3.0]));
    same(&r(ReduceKind::Max, &[0, 1]), &f32s(&[], &[5.0]));
    same(&r(ReduceKind::Min, &[1]), &f32s(&[2], &[-2.0, -6.0]));
    same(&r(ReduceKind::Prod, &[1]), &f32s(&[2], &[-6.0, 120.0]));
    same(&r(ReduceKind::L1, &[1]), &f32s(&[2], &[6.0, 15.0]));
    near(&r(ReduceKind::L2, &[1]), &[2], &[3.7416573867739413, 8.774964387392123], 1e-7);
    same(&r(ReduceKind::SumSquare, &[]), &f32s(&[2, 3], &[1.0, 4.0, 9.0, 16.0, 25.0, 36.0]));
    near(&r(ReduceKind::Mean, &[1]), &[2], &[0.6666666666666666, -1.6666666666666667], 1e-7);
    near(&r(ReduceKind::LogSum, &[1]), &[2], &[0.6931471805599453, f64::NAN], 1e-7);
    assert_eq!(run(reduce(ReduceKind::Sum, &[1], true), &[x.clone()]).dims(), [2, 1]);
    assert!(fails(reduce(ReduceKind::Sum, &[2], true), &[x.clone()]).contains("axis 2"));
    assert!(fails(reduce(ReduceKind::Any, &[0], true), &[x]).contains("does not apply to f32"));
}

#[test]
fn reductions_of_nothing_give_identities() {
    let x = f32s(&[2, 0], &[]);
    let r = |kind| run(reduce(kind, &[1], false), &[x.clone()]);
    same(&r(ReduceKind::Sum), &f32s(&[2], &[0.0, 0.0]));
    same(&r(ReduceKind::Prod), &f32s(&[2], &[1.0, 1.0]));
    same(&r(ReduceKind::Max), &f32s(&[2], &[f64::NEG_INFINITY; 2]));
    near(&r(ReduceKind::LogSum), &[2], &[f64::NEG_INFINITY; 2], 0.0);
    near(&r(ReduceKind::Mean), &[2], &[f64::NAN; 2], 0.0);
    let i = Tensor::from_slice::<u8>(&[0], &[]).unwrap();
    same(&run(reduce(ReduceKind::Min, &[0], false), &[i]), &Tensor::scalar(255u8));
}

#[test]
fn integer_and_bool_reductions() {
    let x = i64s(&[4], &[3, -4, 0, 1]);
    same(&run(reduce(ReduceKind::Mean, &[0], false), &[x.clone()]), &Tensor::scalar(0i64));
    for kind in [ReduceKind::L2, ReduceKind::LogSum] {
        assert!(fails(reduce(kind, &[0], false), &[x.clone()]).contains("does not apply to i64"));
    }
    // NumPy squares in the dtype; its sum in 64 bits, rounded to the dtype, is the sum that wraps.
    let wide = Tensor::from_slice(&[2], &[50_000i32, 40_000]).unwrap();
    let squares = run(reduce(ReduceKind::SumSquare, &[0], false), &[wide]);
    same(&squares, &Tensor::scalar(4_100_000_000u32 as i32));
    let bytes = Tensor::from_slice(&[3], &[200u8, 100, 1]).unwrap();
    same(&run(reduce(ReduceKind::Sum, &[0], false), &[bytes]), &Tensor::scalar(45u8));
    let b = Tensor::from_bools(&[2, 2], &[true, false, true, true]).unwrap();
    same(
        &run(reduce(ReduceKind::All, &[1], false), &[b.clone()]),
        &Tensor::from_bools(&[2], &[false, true]).unwrap(),
    );
    same(&run(reduce(ReduceKind::Any, &[0], false), &[b]), &Tensor::from_bools(&[2], &[true, true]).unwrap());
}

#[test]
fn narrow_sums_accumulate_wide() {
    // In f16, 2048 + 1 + 1 + ... stays 2048.
    let x = t(DType::F16, &[5], &[2048.0, 1.0, 1.0, 1.0, 1.0]);
    same(&run(reduce(ReduceKind::Sum, &[0], false), &[x]), &t(DType::F16, &[], &[2052.0]));
}

fn einsum(spec: &str, out: DType) -> Contract {
    Contract::Einsum { spec: spec.parse().unwrap(), out }
}

#[test]
fn contractions_by_label() {
    let a = f32s(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let b = f32s(&[3, 2], &[1.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
    same(
        &run(einsum("mk,kn->mn", DType::F32), &[a.clone(), b.clone()]),
        &f32s(&[2, 2], &[4.0, 5.0, 10.0, 11.0]),
    );
    same(
        &run(einsum("mk,kn->nm", DType::F32), &[a.clone(), b.clone()]),
        &f32s(&[2, 2], &[4.0, 10.0, 5.0, 11.0]),
    );
    same(&run(einsum("ij,ji->", DType::F32), &[a.clone(), b.clone()]), &f32s(&[], &[15.0]));
    let v = f32s(&[2], &[10.0, 100.0]);
    same(
        &run(einsum("a,b->ab", DType::F32), &[v.clone(), f32s(&[1], &[2.0])]),
        &f32s(&[2, 1], &[20.0, 200.0]),
    );
    let c = f32s(&[2, 1, 2], &[1.0, 2.0, 3.0, 4.0]);
    let d = f32s(&[2, 2, 1], &[1.0, 1.0, 2.0, 0.0]);
    same(&run(einsum("bmk,bkn->bmn", DType::F32), &[c.clone(), d.clone()]), &f32s(&[2, 1, 1], &[3.0, 6.0]));
    same(&run(einsum("bmk,bkn->nmb", DType::F32), &[c, d]), &f32s(&[1, 1, 2], &[3.0, 6.0]));
    let empty = run(einsum("mk,kn->mn", DType::F32), &[f32s(&[2, 0], &[]), f32s(&[0, 1], &[])]);
    same(&empty, &f32s(&[2, 1], &[0.0, 0.0]));
    assert!(fails(einsum("mk,kn->mn", DType::F32), &[a.clone(), a.clone()]).contains("label `k`"));
    assert!(fails(einsum("mk,kn->mn", DType::I32), &[a, b]).contains("result of i32"));
}

#[test]
fn integer_contractions_are_exact() {
    let a = Tensor::from_slice(&[1, 2], &[255u8, 255]).unwrap();
    let b = Tensor::from_slice(&[2, 1], &[-128i8, 127]).unwrap();
    same(&run(einsum("mk,kn->mn", DType::I32), &[a, b]), &Tensor::from_slice(&[1, 1], &[-255i32]).unwrap());
    let big = i64s(&[1, 2], &[i64::MAX, 1]);
    let two = i64s(&[2, 1], &[2, 3]);
    same(&run(einsum("mk,kn->mn", DType::I64), &[big, two]), &i64s(&[1, 1], &[1]));
}

fn conv(strides: &[i64], dilations: &[i64], pads: &[(i64, i64)], groups: i64, layout: Layout) -> Conv {
    let pads = pads.iter().map(|&(a, b)| (Dim::known(a), Dim::known(b))).collect();
    Conv::Forward {
        strides: strides.into(),
        dilations: dilations.into(),
        pads,
        groups,
        layout,
        out: DType::F32,
    }
}

fn count(dims: &[usize], from: f64) -> Tensor {
    let n: usize = dims.iter().product();
    f32s(dims, &(0..n).map(|i| from + i as f64).collect::<Vec<_>>())
}

#[test]
fn convolution_with_padding() {
    // ONNX's own example: 5x5 counting image, 3x3 kernel of ones.
    let (x, w) = (count(&[1, 1, 5, 5], 0.0), f32s(&[1, 1, 3, 3], &[1.0; 9]));
    let padded =
        run(conv(&[1, 1], &[1, 1], &[(1, 1), (1, 1)], 1, Layout::ChannelsFirst), &[x.clone(), w.clone()]);
    let expected = [
        12.0, 21.0, 27.0, 33.0, 24.0, 33.0, 54.0, 63.0, 72.0, 51.0, 63.0, 99.0, 108.0, 117.0, 81.0, 93.0,
        144.0, 153.0, 162.0, 111.0, 72.0, 111.0, 117.0, 123.0, 84.0,
    ];
    same(&padded, &f32s(&[1, 1, 5, 5], &expected));
    let strided =
        run(conv(&[2, 2], &[1, 1], &[(1, 1), (1, 1)], 1, Layout::ChannelsFirst), &[x.clone(), w.clone()]);
    same(&strided, &f32s(&[1, 1, 3, 3], &[12.0, 27.0, 24.0, 63.0, 108.0, 81.0, 72.0, 117.0, 84.0]));
    let dilated = run(conv(&[1, 1], &[2, 2], &[(0, 0), (0, 0)], 1, Layout::ChannelsFirst), &[x, w]);
    same(&dilated, &f32s(&[1, 1, 1, 1], &[108.0]));
}

#[test]
fn grouped_convolution_in_both_layouts() {
    // Two groups of one channel in, one out: channel 0 doubled, channel 1 negated.
    let w = f32s(&[2, 1, 1], &[2.0, -1.0]);
    let first = run(
        conv(&[1], &[1], &[(0, 0)], 2, Layout::ChannelsFirst),
        &[f32s(&[1, 2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), w.clone()],
    );
    same(&first, &f32s(&[1, 2, 3], &[2.0, 4.0, 6.0, -4.0, -5.0, -6.0]));
    let last = run(
        conv(&[1], &[1], &[(0, 0)], 2, Layout::ChannelsLast),
        &[f32s(&[1, 3, 2], &[1.0, 4.0, 2.0, 5.0, 3.0, 6.0]), w],
    );
    same(&last, &f32s(&[1, 3, 2], &[2.0, -4.0, 4.0, -5.0, 6.0, -6.0]));
}

#[test]
fn convolution_of_integers() {
    let op = Conv::Forward {
        strides: vec![1],
        dilations: vec![1],
        pads: vec![(Dim::known(0), Dim::known(0))],
        groups: 1,
        layout: Layout::ChannelsFirst,
        out: DType::I32,
    };
    let x = Tensor::from_slice(&[1, 1, 3], &[200u8, 255, 1]).unwrap();
    let w = Tensor::from_slice(&[1, 1, 2], &[-128i8, 127]).unwrap();
    same(&run(op, &[x, w]), &Tensor::from_slice(&[1, 1, 2], &[6785i32, -32513]).unwrap());
}

fn transposed(strides: &[i64], pads: &[(i64, i64)], output_pads: &[i64], groups: i64) -> Conv {
    Conv::Transposed {
        strides: strides.into(),
        dilations: vec![1; strides.len()],
        pads: pads.iter().map(|&(a, b)| (Dim::known(a), Dim::known(b))).collect(),
        output_pads: dims(output_pads),
        groups,
        layout: Layout::ChannelsFirst,
    }
}

#[test]
fn transposed_convolution() {
    // ONNX's 1-d example.
    let (x, w) = (f32s(&[1, 1, 3], &[0.0, 1.0, 2.0]), f32s(&[1, 2, 3], &[1.0; 6]));
    let r = run(transposed(&[1], &[(0, 0)], &[0], 1), &[x.clone(), w.clone()]);
    same(&r, &f32s(&[1, 2, 5], &[0.0, 1.0, 3.0, 3.0, 2.0, 0.0, 1.0, 3.0, 3.0, 2.0]));
    // Stride 2, cropped by one on each side, extended by one at the end: what the crop took comes back.
    let w = f32s(&[1, 1, 3], &[1.0, 10.0, 100.0]);
    let full = run(transposed(&[2], &[(0, 0)], &[0], 1), &[f32s(&[1, 1, 2], &[1.0, 2.0]), w.clone()]);
    same(&full, &f32s(&[1, 1, 5], &[1.0, 10.0, 102.0, 20.0, 200.0]));
    let cropped = run(transposed(&[2], &[(1, 1)], &[1], 1), &[f32s(&[1, 1, 2], &[1.0, 2.0]), w.clone()]);
    same(&cropped, &f32s(&[1, 1, 4], &[10.0, 102.0, 20.0, 200.0]));
    let extended = run(transposed(&[2], &[(0, 0)], &[1], 1), &[f32s(&[1, 1, 1], &[1.0]), w]);
    same(&extended, &f32s(&[1, 1, 4], &[1.0, 10.0, 100.0, 0.0]));
    let grouped = run(
        transposed(&[1], &[(0, 0)], &[0], 2),
        &[f32s(&[1, 2, 1], &[3.0, 5.0]), f32s(&[2, 1, 1], &[2.0, 4.0])],
    );
    same(&grouped, &f32s(&[1, 2, 1], &[6.0, 20.0]));
}

#[test]
fn hostile_convolutions_are_errors() {
    let (x, w) = (f32s(&[1, 1, 3], &[0.0; 3]), f32s(&[1, 1, 2], &[0.0; 2]));
    let op = |s, d, p, g| conv(&[s], &[d], &[(p, p)], g, Layout::ChannelsFirst);
    for bad in
        [op(0, 1, 0, 1), op(1, i64::MAX, 0, 1), op(1, 1, i64::MAX, 1), op(1, 1, i64::MIN, 1), op(1, 1, 0, 3)]
    {
        fails(bad, &[x.clone(), w.clone()]);
    }
    assert!(fails(op(1, 1, 1 << 38, 1), &[x.clone(), w.clone()]).contains("exceeds"));
    fails(op(1, 1, 0, 1), &[x.clone(), f32s(&[1, 1], &[0.0])]);
    let wide = f32s(&[1, 1, 5], &[0.0; 5]);
    assert!(fails(op(1, 1, 0, 1), &[x.clone(), wide.clone()]).contains("does not fit"));
    assert_eq!(run(op(2, 1, 0, 1), &[x, wide]).dims(), [1, 1, 0]);
}

fn pool(kind: WindowKind, kernel: i64, stride: i64, pads: (i64, i64), ceil_mode: bool) -> Window {
    Window::Pool {
        kind,
        kernel: vec![kernel],
        strides: vec![stride],
        dilations: vec![1],
        pads: vec![(Dim::known(pads.0), Dim::known(pads.1))],
        ceil_mode,
        layout: Layout::ChannelsFirst,
    }
}

#[test]
fn pooling_kinds() {
    let x = f32s(&[1, 1, 4], &[1.0, -2.0, 3.0, 4.0]);
    let r = |kind, pads, ceil| run(pool(kind, 3, 2, pads, ceil), &[x.clone()]);
    same(&r(WindowKind::Max, (1, 1), false), &f32s(&[1, 1, 2], &[1.0, 4.0]));
    near(&r(WindowKind::Average, (1, 1), false), &[1, 1, 2], &[-0.5, 1.6666666666666667], 1e-7);
    near(
        &r(WindowKind::AverageWithPad, (1, 1), false),
        &[1, 1, 2],
        &[-0.3333333333333333, 1.6666666666666667],
        1e-7,
    );
    same(&r(WindowKind::L1, (1, 1), false), &f32s(&[1, 1, 2], &[3.0, 9.0]));
    near(&r(WindowKind::L2, (0, 0), false), &[1, 1, 1], &[3.7416573867739413], 1e-7);
    // ceil_mode adds a window that hangs over the end; only elements and padding count.
    same(&r(WindowKind::Max, (0, 0), true), &f32s(&[1, 1, 2], &[3.0, 4.0]));
    near(&r(WindowKind::AverageWithPad, (0, 0), true), &[1, 1, 2], &[0.6666666666666666, 3.5], 1e-7);
}

#[test]
fn a_window_that_starts_beyond_the_operand_does_not_count() {
    // Windows fit at 0, 3 and 6; the last lies in the padding after the operand.
    let x = f32s(&[1, 1, 6], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let r = run(pool(WindowKind::Max, 1, 3, (0, 1), true), &[x]);
    same(&r, &f32s(&[1, 1, 2], &[1.0, 4.0]));
}

#[test]
fn the_mean_of_a_window_in_the_padding_is_0() {
    let x = f32s(&[1, 1, 2], &[3.0, 5.0]);
    let r = |kind, pads| run(pool(kind, 2, 2, pads, false), &[x.clone()]);
    for kind in [WindowKind::Average, WindowKind::AverageWithPad, WindowKind::L1, WindowKind::L2] {
        same(&r(kind, (2, -2)), &f32s(&[1, 1, 1], &[0.0]));
    }
    same(&r(WindowKind::Average, (2, 2)), &f32s(&[1, 1, 3], &[0.0, 4.0, 0.0]));
    same(&r(WindowKind::Max, (2, 0)), &f32s(&[1, 1, 2], &[f64::NEG_INFINITY, 5.0]));
}

#[test]
fn dilated_windows_over_planes() {
    let x = count(&[1, 2, 3, 4], 0.0);
    let op = Window::Pool {
        kind: WindowKind::Average,
        kernel: vec![2, 2],
        strides: vec![1, 2],
        dilations: vec![2, 3],
        pads: vec![(Dim::known(0), Dim::known(0)), (Dim::known(1), Dim::known(1))],
        ceil_mode: false,
        layout: Layout::ChannelsFirst,
    };
    // Rows 0 and 2; columns -1 and 2, 1 and 4.
    same(&run(op, &[x]), &f32s(&[1, 2, 1, 2], &[6.0, 5.0, 18.0, 17.0]));
}

#[test]
fn windows_far_larger_than_the_operand() {
    let x = f32s(&[1, 1, 4], &[1.0, 2.0, 3.0, 6.0]);
    let r = |kind| run(pool(kind, 1 << 39, 1, (1 << 38, 1 << 38), false), &[x.clone()]);
    same(&r(WindowKind::Max), &f32s(&[1, 1, 5], &[6.0; 5]));
    same(&r(WindowKind::Average), &f32s(&[1, 1, 5], &[3.0; 5]));
    let none = f32s(&[1, 0, 4], &[]);
    assert_eq!(run(pool(WindowKind::Max, 1, 1, (1 << 38, 0), false), &[none]).dims(), [1, 0, (1 << 38) + 4]);
}

#[test]
fn empty_operands_of_absurd_size() {
    let n = 1 << 40;
    let (a, b) = (f32s(&[0, n, n], &[]), f32s(&[1], &[0.0]));
    assert_eq!(run(einsum("kbm,c->kbmc", DType::F32), &[a.clone(), b]).dims(), [0, n, n, 1]);
    let sum = fails(reduce(ReduceKind::Sum, &[0], false), &[a]);
    assert!(sum.contains("exceeds"), "{sum}");
    let lists = f32s(&[0, n, n], &[]);
    fails(einsum("kbm,kn->bmn", DType::F32), &[lists, f32s(&[0, 0], &[])]);
}

#[test]
fn pooling_propagates_nan_and_takes_integers() {
    let x = f32s(&[1, 1, 3], &[1.0, f64::NAN, 0.0]);
    near(&run(pool(WindowKind::Max, 2, 1, (0, 0), false), &[x]), &[1, 1, 2], &[f64::NAN; 2], 0.0);
    let x = Tensor::from_slice(&[1, 1, 3], &[3i8, -7, 5]).unwrap();
    let r = run(pool(WindowKind::Max, 2, 1, (0, 0), false), &[x]);
    same(&r, &Tensor::from_slice(&[1, 1, 2], &[3i8, 5]).unwrap());
}

#[test]
fn maxima_with_indices() {
    let x = f32s(&[1, 2, 2, 2], &[1.0, 2.0, 4.0, 3.0, 9.0, 6.0, 7.0, 8.0]);
    let op = |column_major| Window::MaxWithIndices {
        kernel: vec![2, 2],
        strides: vec![1, 1],
        dilations: vec![1, 1],
        pads: vec![(Dim::known(0), Dim::known(0)); 2],
        ceil_mode: false,
        column_major,
    };
    let r = run_all(op(false), &[x.clone()]);
    same(&r[0], &f32s(&[1, 2, 1, 1], &[4.0, 9.0]));
    same(&r[1], &i64s(&[1, 2, 1, 1], &[2, 4]));
    same(&run_all(op(true), &[x])[1], &i64s(&[1, 2, 1, 1], &[1, 4]));
}
