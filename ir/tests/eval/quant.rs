//! Quantization and rare operators.

use kiln_ir::op::{Host, Quant};
use kiln_ir::{DType, Float, Tensor};

use super::{dims, f32s, fails, i64s, near, run, same, t};

fn quantize(to: DType, axis: Option<usize>, block: i64) -> Quant {
    Quant::Quantize { to, axis, block, saturate: true, inverse: false }
}

#[test]
fn quantization_rounds_half_to_even_and_saturates() {
    // The ONNX example.
    let x = f32s(&[6], &[0.0, 2.0, 3.0, 1000.0, -254.0, -1000.0]);
    let r = run(quantize(DType::U8, None, 0), &[x, f32s(&[], &[2.0]), Tensor::scalar(128u8)]);
    same(&r, &Tensor::from_slice(&[6], &[128u8, 129, 130, 255, 1, 0]).unwrap());
    let ties = f32s(&[4], &[0.5, 1.5, -0.5, f64::NAN]);
    let r = run(
        quantize(DType::I8, None, 0),
        &[ties, f32s(&[1], &[1.0]), Tensor::from_slice(&[1], &[0i8]).unwrap()],
    );
    same(&r, &Tensor::from_slice(&[4], &[0i8, 2, 0, 0]).unwrap());
    // 0.35 / 0.1 is a tie in f32 though not in the reals.
    let r = run(quantize(DType::I8, None, 0), &[f32s(&[1], &[0.35]), f32s(&[], &[0.1]), Tensor::scalar(0i8)]);
    same(&r, &Tensor::from_slice(&[1], &[4i8]).unwrap());
    for (d, low, high) in [
        (DType::I4, -8.0, 7.0),
        (DType::U2, 0.0, 3.0),
        (DType::U16, 0.0, 65535.0),
        (DType::I32, -2147483648.0, 2147483647.0),
    ] {
        let x = f32s(&[2], &[-1e20, 1e20]);
        let r = run(quantize(d, None, 0), &[x, f32s(&[], &[1e-3]), t(d, &[], &[0.0])]);
        same(&r, &t(d, &[2], &[low, high]));
    }
}

#[test]
fn quantization_to_small_floats() {
    let x = f32s(&[3], &[0.0, 3.0, 100000.0]);
    let zero = |d| t(d, &[], &[0.0]);
    let r = run(quantize(DType::F8E4M3FN, None, 0), &[x.clone(), f32s(&[], &[2.0]), zero(DType::F8E4M3FN)]);
    same(&r, &t(DType::F8E4M3FN, &[3], &[0.0, 1.5, 448.0]));
    let r = run(quantize(DType::F4E2M1, None, 0), &[x, f32s(&[], &[2.0]), zero(DType::F4E2M1)]);
    same(&r, &t(DType::F4E2M1, &[3], &[0.0, 1.5, 6.0]));
}

#[test]
fn quantization_per_axis_and_block() {
    let x = f32s(&[2, 4], &[1.0, 2.0, 3.0, 4.0, 10.0, 20.0, 30.0, 40.0]);
    let zero = Tensor::from_slice(&[2], &[1i8, -1]).unwrap();
    let r = run(quantize(DType::I8, Some(0), 0), &[x.clone(), f32s(&[2], &[1.0, 10.0]), zero]);
    same(&r, &Tensor::from_slice(&[2, 4], &[2i8, 3, 4, 5, 0, 1, 2, 3]).unwrap());
    let scale = f32s(&[2, 2], &[1.0, 2.0, 10.0, 20.0]);
    let zeros = Tensor::from_slice(&[2, 2], &[0i8, 0, 0, 5]).unwrap();
    let q = run(quantize(DType::I8, Some(1), 3), &[x.clone(), scale.clone(), zeros.clone()]);
    same(&q, &Tensor::from_slice(&[2, 4], &[1i8, 2, 3, 2, 1, 2, 3, 7]).unwrap());
    let back = run(
        Quant::Dequantize { to: DType::F32, axis: Some(1), block: 3 },
        &[q, scale.clone(), zeros.clone()],
    );
    same(&back, &x);
    assert!(
        fails(quantize(DType::I8, Some(1), 1), &[x.clone(), scale.clone(), zeros.clone()])
            .contains("block 1")
    );
    assert!(fails(quantize(DType::U8, Some(1), 3), &[x, scale, zeros]).contains("zero point of i8"));
}

#[test]
fn dequantization_is_exact_before_it_rounds() {
    let x = Tensor::from_slice(&[2], &[i32::MIN, i32::MAX]).unwrap();
    let zero = Tensor::scalar(1i32);
    let r = run(
        Quant::Dequantize { to: DType::F64, axis: None, block: 0 },
        &[x, t(DType::F64, &[], &[0.5]), zero],
    );
    near(&r, &[2], &[-1073741824.5, 1073741823.0], 0.0);
    let f8 = t(DType::F8E5M2, &[1], &[1.5]);
    let r = run(
        Quant::Dequantize { to: DType::F16, axis: None, block: 0 },
        &[f8, t(DType::F16, &[], &[2.0]), t(DType::F8E5M2, &[], &[0.0])],
    );
    same(&r, &t(DType::F16, &[1], &[3.0]));
}

#[test]
fn determinants() {
    let x = f32s(&[2, 2, 2], &[1.0, 2.0, 3.0, 4.0, 0.0, 1.0, 1.0, 0.0]);
    same(&run(Host::Det {}, &[x]), &f32s(&[2], &[-2.0, -1.0]));
    same(&run(Host::Det {}, &[f32s(&[2, 2], &[1.0, 2.0, 2.0, 4.0])]), &f32s(&[], &[0.0]));
    same(&run(Host::Det {}, &[f32s(&[0, 0], &[])]), &f32s(&[], &[1.0]));
    assert!(fails(Host::Det {}, &[f32s(&[2, 3], &[0.0; 6])]).contains("square"));
}

#[test]
fn non_max_suppression() {
    // ONNX test_nonmaxsuppression_suppress_by_IOU and its center-point form.
    let boxes = [
        0.0, 0.0, 1.0, 1.0, 0.0, 0.1, 1.0, 1.1, 0.0, -0.1, 1.0, 0.9, 0.0, 10.0, 1.0, 11.0, 0.0, 10.1, 1.0,
        11.1, 0.0, 100.0, 1.0, 101.0,
    ];
    let scores = f32s(&[1, 1, 6], &[0.9, 0.75, 0.6, 0.95, 0.5, 0.3]);
    let rest = [Tensor::ints(&[3]), f32s(&[1], &[0.5]), f32s(&[1], &[0.0])];
    let op = |center_point_box| Host::NonMaxSuppression { center_point_box };
    let operands = [&[f32s(&[1, 6, 4], &boxes), scores.clone()], &rest[..]].concat();
    same(&run(op(false), &operands), &i64s(&[3, 3], &[0, 0, 3, 0, 0, 0, 0, 0, 5]));
    let centers = [
        0.5, 0.5, 1.0, 1.0, 0.5, 0.6, 1.0, 1.0, 0.5, 0.4, 1.0, 1.0, 0.5, 10.5, 1.0, 1.0, 0.5, 10.6, 1.0, 1.0,
        0.5, 100.5, 1.0, 1.0,
    ];
    let operands = [&[f32s(&[1, 6, 4], &centers), scores], &rest[..]].concat();
    same(&run(op(true), &operands), &i64s(&[3, 3], &[0, 0, 3, 0, 0, 0, 0, 0, 5]));
}

#[test]
fn strings() {
    let s = |v: &[&str]| Tensor::strings(&[v.len()], v.iter().map(|s| (*s).to_string()).collect()).unwrap();
    same(&run(Host::StringConcat {}, &[s(&["a", "b"]), s(&["c"])]), &s(&["ac", "bc"]));
    same(
        &run(Host::StringEqual {}, &[s(&["a", "b"]), s(&["b"])]),
        &Tensor::from_bools(&[2], &[false, true]).unwrap(),
    );
    same(
        &run(Host::StringCast { to: DType::F32 }, &[s(&["1.5", "-INF"])]),
        &f32s(&[2], &[1.5, f64::NEG_INFINITY]),
    );
    same(&run(Host::StringCast { to: DType::I4 }, &[s(&["-8", "7"])]), &t(DType::I4, &[2], &[-8.0, 7.0]));
    same(&run(Host::StringCast { to: DType::String }, &[f32s(&[2], &[0.5, 3.0])]), &s(&["0.5", "3.0"]));
    assert!(fails(Host::StringCast { to: DType::F32 }, &[s(&["x"])]).contains("\"x\" is not a number"));
    assert!(fails(Host::StringConcat {}, &[s(&["x"]), f32s(&[], &[0.0])]).contains("strings are needed"));
}

#[test]
fn random_values_depend_on_the_seed() {
    let op = |seed: Option<f64>| Host::RandomUniform {
        shape: dims(&[1000]),
        dtype: DType::F32,
        low: Float::new(-1.0),
        high: Float::new(3.0),
        seed: seed.map(Float::new),
    };
    let values = run(op(Some(1.0)), &[]).to_f64s().unwrap();
    assert!(values.iter().all(|v| (-1.0..3.0).contains(v)));
    assert!((values.iter().sum::<f64>() / 1000.0 - 1.0).abs() < 0.1);
    same(&run(op(Some(1.0)), &[]), &run(op(Some(1.0)), &[]));
    assert_ne!(run(op(Some(1.0)), &[]), run(op(Some(2.0)), &[]));
    let coin = run(Host::Bernoulli { dtype: DType::Bool, seed: None }, &[f32s(&[3], &[0.0, 1.0, 1.0])]);
    same(&coin, &Tensor::from_bools(&[3], &[false, true, true]).unwrap());
    assert!(fails(Host::Fail { message: "no such case".into() }, &[]).contains("no such case"));
}
