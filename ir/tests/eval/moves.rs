//! Constants and moves, static and dynamic.

use kiln_ir::eval::Evaluator;
use kiln_ir::op::{Dynamic, Movement, PadMode, Source};
use kiln_ir::{DType, Dim, Float, Module, Symbol, Tensor, Type};

use super::{dims, f32s, fails, i64s, run, run_all, same, t};

#[test]
fn sources() {
    same(
        &run(Source::Iota { len: Dim::known(3), dtype: DType::F16 }, &[]),
        &t(DType::F16, &[3], &[0.0, 1.0, 2.0]),
    );
    same(&run(Source::Dims { dims: dims(&[4, -1]) }, &[]), &Tensor::ints(&[4, -1]));
    assert!(fails(Source::Iota { len: Dim::known(-1), dtype: DType::I32 }, &[]).contains("-1"));
    assert!(fails(Source::Iota { len: Dim::known(i64::MAX), dtype: DType::I8 }, &[]).contains("exceeds"));
    assert!(
        fails(Source::Iota { len: Dim::symbol("N"), dtype: DType::I8 }, &[]).contains("`N` has no value")
    );
}

#[test]
fn symbols_have_the_values_they_are_bound_to() {
    let module = Module::new();
    let mut ev = Evaluator::new(&module);
    ev.bind(&Symbol::new("N"), 2);
    let op = Movement::Reshape { shape: vec![Dim::symbol("N"), Dim::symbol("N") + Dim::known(1)] }.into();
    let x = Tensor::ints(&[1, 2, 3, 4, 5, 6]);
    let ty = Type::tensor(DType::I64, vec![Dim::known(2), Dim::symbol("M")]);
    let r = ev.eval_op(&op, &[x.into()], &[ty]).unwrap();
    same(r[0].as_tensor().unwrap(), &i64s(&[2, 3], &[1, 2, 3, 4, 5, 6]));
    let r = ev.eval_op(&Source::Dims { dims: vec![Dim::symbol("M")] }.into(), &[], &[]).unwrap();
    same(r[0].as_tensor().unwrap(), &Tensor::ints(&[3]));
}

#[test]
fn transposes_slices_and_broadcasts() {
    let x = i64s(&[2, 3], &[1, 2, 3, 4, 5, 6]);
    same(&run(Movement::Transpose { perm: vec![1, 0] }, &[x.clone()]), &i64s(&[3, 2], &[1, 4, 2, 5, 3, 6]));
    let slice = |starts: &[i64], sizes: &[i64], steps: &[i64]| Movement::Slice {
        starts: dims(starts),
        sizes: dims(sizes),
        steps: steps.into(),
    };
    same(&run(slice(&[1, 2], &[1, 2], &[1, -2]), &[x.clone()]), &i64s(&[1, 2], &[6, 4]));
    same(&run(slice(&[9, 0], &[0, 3], &[1, 1]), &[x.clone()]), &i64s(&[0, 3], &[]));
    assert!(fails(slice(&[1, 0], &[2, 3], &[1, 1]), &[x.clone()]).contains("axis 0"));
    assert!(fails(slice(&[0, 0], &[2, 3], &[1, i64::MAX]), &[x.clone()]).contains("axis 1"));
    let wide = Movement::Broadcast { shape: dims(&[2, 2, 3]) };
    same(&run(wide, &[x.clone()]), &i64s(&[2, 2, 3], &[1, 2, 3, 4, 5, 6, 1, 2, 3, 4, 5, 6]));
    assert!(fails(Movement::Transpose { perm: vec![0, 0] }, &[x.clone()]).contains("permute"));
    assert!(fails(Movement::Reshape { shape: dims(&[4]) }, &[x]).contains("6"));
}

#[test]
fn moves_work_on_every_dtype() {
    let perm = || Movement::Transpose { perm: vec![1, 0] };
    let i4 = t(DType::I4, &[2, 3], &[-8.0, 7.0, 1.0, 2.0, -3.0, 4.0]);
    same(&run(perm(), &[i4]), &t(DType::I4, &[3, 2], &[-8.0, 2.0, 7.0, -3.0, 1.0, 4.0]));
    let u2 = t(DType::U2, &[1, 5], &[3.0, 2.0, 1.0, 0.0, 3.0]);
    same(&run(perm(), &[u2]), &t(DType::U2, &[5, 1], &[3.0, 2.0, 1.0, 0.0, 3.0]));
    let text =
        |v: &[&str], d: &[usize]| Tensor::strings(d, v.iter().map(|s| (*s).to_string()).collect()).unwrap();
    same(&run(perm(), &[text(&["a", "b"], &[1, 2])]), &text(&["a", "b"], &[2, 1]));
    let joined =
        run(Movement::Concat { axis: 0 }, &[text(&["a"], &[1]), text(&[], &[0]), text(&["b", "c"], &[2])]);
    same(&joined, &text(&["a", "b", "c"], &[3]));
    let c128 =
        Tensor::new(DType::C128, &[2, 1], kiln_ir::Bytes::copied(&(0..32).collect::<Vec<u8>>())).unwrap();
    assert_eq!(run(perm(), &[c128.clone()]).bytes(), c128.bytes());
    for &d in DType::ALL {
        let x = Tensor::zeros(d, &[2, 3]).unwrap();
        same(&run(perm(), &[x]), &Tensor::zeros(d, &[3, 2]).unwrap());
    }
}

#[test]
fn concatenation_along_inner_axes() {
    let (a, b) = (i64s(&[2, 1], &[1, 2]), i64s(&[2, 2], &[3, 4, 5, 6]));
    same(&run(Movement::Concat { axis: 1 }, &[a.clone(), b.clone()]), &i64s(&[2, 3], &[1, 3, 4, 2, 5, 6]));
    assert!(fails(Movement::Concat { axis: 0 }, &[a.clone(), b]).contains("do not join"));
    assert!(fails(Movement::Concat { axis: 2 }, &[a]).contains("axis 2"));
}

#[test]
fn padding_modes() {
    let x = i64s(&[3], &[1, 2, 3]);
    let r = |mode, before: i64, after: i64| {
        let op = Movement::Pad { mode, before: dims(&[before]), after: dims(&[after]) };
        run(op, &[x.clone(), Tensor::scalar(9i64)]).to_ints().unwrap()
    };
    assert_eq!(r(PadMode::Constant, 2, 1), [9, 9, 1, 2, 3, 9]);
    assert_eq!(r(PadMode::Constant, -1, 1), [2, 3, 9]);
    assert_eq!(r(PadMode::Edge, 2, 1), [1, 1, 1, 2, 3, 3]);
    // NumPy: pad([1, 2, 3], (3, 4), 'reflect') and 'wrap'.
    assert_eq!(r(PadMode::Reflect, 3, 4), [2, 3, 2, 1, 2, 3, 2, 1, 2, 3]);
    assert_eq!(r(PadMode::Wrap, 3, 4), [1, 2, 3, 1, 2, 3, 1, 2, 3, 1]);
    let two = i64s(&[2, 2], &[1, 2, 3, 4]);
    let op = Movement::Pad { mode: PadMode::Reflect, before: dims(&[1, 0]), after: dims(&[0, 1]) };
    same(&run(op, &[two, Tensor::scalar(0i64)]), &i64s(&[3, 3], &[3, 4, 3, 1, 2, 1, 3, 4, 3]));
    let op = |before| Movement::Pad { mode: PadMode::Edge, before: dims(&[before]), after: dims(&[0]) };
    assert!(fails(op(1), &[i64s(&[0], &[]), Tensor::scalar(0i64)]).contains("empty"));
    assert!(fails(op(-4), &[x.clone(), Tensor::scalar(0i64)]).contains("axis 0"));
    assert!(fails(op(i64::MAX), &[x.clone(), Tensor::scalar(0i64)]).contains("overflow"));
    assert!(fails(op(1 << 59), &[x, Tensor::scalar(0i64)]).contains("exceeds"));
}

#[test]
fn dynamic_shapes() {
    let x = i64s(&[2, 3], &[1, 2, 3, 4, 5, 6]);
    let reshape =
        |allow_zero, shape: &[i64]| run(Dynamic::Reshape { allow_zero }, &[x.clone(), Tensor::ints(shape)]);
    assert_eq!(reshape(false, &[0, -1]).dims(), [2, 3]);
    assert_eq!(reshape(false, &[-1]).dims(), [6]);
    let empty = run(Dynamic::Reshape { allow_zero: true }, &[i64s(&[0, 2], &[]), Tensor::ints(&[3, 0])]);
    assert_eq!(empty.dims(), [3, 0]);
    assert!(
        fails(Dynamic::Reshape { allow_zero: false }, &[x.clone(), Tensor::ints(&[4, -1])])
            .contains("[4, -1]")
    );
    assert!(
        fails(Dynamic::Reshape { allow_zero: true }, &[x.clone(), Tensor::ints(&[0, -1])])
            .contains("[0, -1]")
    );
    assert!(
        fails(Dynamic::Reshape { allow_zero: false }, &[x.clone(), Tensor::ints(&[-1, -1])]).contains("-1")
    );
    let expanded = run(Dynamic::Expand {}, &[i64s(&[2, 1], &[1, 2]), Tensor::ints(&[2, 1, 2])]);
    same(&expanded, &i64s(&[2, 2, 2], &[1, 1, 2, 2, 1, 1, 2, 2]));
    same(
        &run(Dynamic::Tile {}, &[x.clone(), Tensor::ints(&[1, 2])]),
        &i64s(&[2, 6], &[1, 2, 3, 1, 2, 3, 4, 5, 6, 4, 5, 6]),
    );
    same(&run(Dynamic::Fill {}, &[Tensor::ints(&[2]), Tensor::scalar(7i64)]), &Tensor::ints(&[7, 7]));
    assert!(fails(Dynamic::Fill {}, &[Tensor::ints(&[1 << 40]), Tensor::scalar(7i64)]).contains("exceeds"));
    assert!(fails(Dynamic::Fill {}, &[Tensor::ints(&[-2]), Tensor::scalar(7i64)]).contains("-2"));
    same(&run(Dynamic::Shape { start: -1, end: None }, &[x.clone()]), &Tensor::ints(&[3]));
    same(&run(Dynamic::Shape { start: 0, end: Some(-9) }, &[x.clone()]), &Tensor::ints(&[]));
    same(&run(Dynamic::Size {}, &[x.clone()]), &Tensor::scalar(6i64));
    assert_eq!(run(Dynamic::ReverseAxes {}, &[i64s(&[1, 2, 3], &[0; 6])]).dims(), [3, 2, 1]);
    let parts = run_all(Dynamic::Split { axis: -1 }, &[x.clone(), Tensor::ints(&[1, 2])]);
    same(&parts[0], &i64s(&[2, 1], &[1, 4]));
    same(&parts[1], &i64s(&[2, 2], &[2, 3, 5, 6]));
    assert!(fails(Dynamic::Split { axis: 1 }, &[x, Tensor::ints(&[1, 1])]).contains("[1, 1]"));
}

#[test]
fn squeezing_and_unsqueezing() {
    let x = i64s(&[1, 2, 1], &[1, 2]);
    assert_eq!(run(Dynamic::Squeeze {}, &[x.clone(), Tensor::ints(&[])]).dims(), [2]);
    assert_eq!(run(Dynamic::Squeeze {}, &[x.clone(), Tensor::ints(&[-1])]).dims(), [1, 2]);
    assert!(fails(Dynamic::Squeeze {}, &[x.clone(), Tensor::ints(&[1])]).contains("axis 1"));
    assert_eq!(run(Dynamic::Unsqueeze {}, &[x.clone(), Tensor::ints(&[-1, 1])]).dims(), [1, 1, 2, 1, 1]);
    assert!(fails(Dynamic::Unsqueeze {}, &[x, Tensor::ints(&[1, 1])]).contains("repeat"));
}

#[test]
fn one_hot_and_compress() {
    let values = f32s(&[2], &[0.0, 5.0]);
    let r =
        run(Dynamic::OneHot { axis: -1 }, &[Tensor::ints(&[1, -1, 7]), Tensor::scalar(3i64), values.clone()]);
    same(&r, &f32s(&[3, 3], &[0.0, 5.0, 0.0, 0.0, 0.0, 5.0, 0.0, 0.0, 0.0]));
    let r = run(Dynamic::OneHot { axis: 0 }, &[Tensor::ints(&[1, 0]), Tensor::scalar(2i64), values]);
    same(&r, &f32s(&[2, 2], &[0.0, 5.0, 5.0, 0.0]));
    let x = i64s(&[3, 2], &[1, 2, 3, 4, 5, 6]);
    let c = Tensor::from_bools(&[3], &[false, true, true]).unwrap();
    same(&run(Dynamic::Compress { axis: Some(0) }, &[x.clone(), c.clone()]), &i64s(&[2, 2], &[3, 4, 5, 6]));
    same(&run(Dynamic::Compress { axis: None }, &[x.clone(), c.clone()]), &Tensor::ints(&[2, 3]));
    assert!(fails(Dynamic::Compress { axis: Some(1) }, &[x, c]).contains("3 conditions"));
}

#[test]
fn one_element_may_be_sliced_by_any_step() {
    let x = i64s(&[2, 3], &[1, 2, 3, 4, 5, 6]);
    for step in [i64::MAX, i64::MIN] {
        let op = Movement::Slice { starts: dims(&[1, 1]), sizes: dims(&[1, 2]), steps: vec![step, 1] };
        same(&run(op, &[x.clone()]), &i64s(&[1, 2], &[5, 6]));
    }
}

#[test]
fn copies_of_long_texts_count() {
    use kiln_ir::eval::{Fault, Limits};
    let module = Module::new();
    let mut ev = Evaluator::with_limits(&module, Limits { max_bytes: 10_000, ..Limits::default() });
    let text = Tensor::strings(&[1], vec!["x".repeat(1000)]).unwrap();
    let wide = |n| Movement::Broadcast { shape: dims(&[n]) }.into();
    assert!(ev.eval_op(&wide(10), &[text.clone().into()], &[]).is_ok());
    let error = ev.eval_op(&wide(11), &[text.into()], &[]).unwrap_err();
    assert!(matches!(error.fault(), Fault::TooLarge { dtype: DType::String, .. }), "{error}");
}

#[test]
fn resizing_by_dynamic_scales() {
    use kiln_ir::op::{CoordinateMode, Interpolation, NearestMode};
    let op = Dynamic::Resize {
        mode: Interpolation::Nearest,
        coordinates: CoordinateMode::Asymmetric,
        nearest: NearestMode::Floor,
        cubic_a: Float::new(-0.75),
        antialias: false,
        exclude_outside: false,
        extrapolation: Float::new(0.0),
        axes: vec![],
        keep_aspect: "stretch".into(),
    };
    let x = f32s(&[1, 1, 1, 2], &[1.0, 2.0]);
    let r = run(op, &[x, f32s(&[4], &[1.0, 1.0, 2.0, 1.5]), Tensor::ints(&[]), f32s(&[0], &[])]);
    same(&r, &f32s(&[1, 1, 2, 3], &[1.0, 1.0, 2.0, 1.0, 1.0, 2.0]));
}
