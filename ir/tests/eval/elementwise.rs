use kiln_ir::op::{Cast, Elementwise};
use kiln_ir::{DType, Ew, Op, Scalar, Tensor};

use super::{f32s, fails, i64s, near, run, same, t};

#[test]
fn operands_broadcast_from_the_right() {
    let r = run(Op::ew("add"), &[f32s(&[2, 1], &[1.0, 2.0]), f32s(&[3], &[10.0, 20.0, 30.0])]);
    same(&r, &f32s(&[2, 3], &[11.0, 21.0, 31.0, 12.0, 22.0, 32.0]));
    let r = run(Op::ew("mul"), &[f32s(&[], &[3.0]), f32s(&[0, 2], &[])]);
    assert_eq!(r.dims(), [0, 2]);
    assert!(fails(Op::ew("add"), &[f32s(&[2], &[0.0; 2]), f32s(&[3], &[0.0; 3])]).contains("broadcast"));
}

#[test]
fn broadcasting_continues_across_chunks() {
    // More elements than are computed at a time.
    let n = 10_007;
    let column: Vec<f64> = (0..n).map(|i| f64::from(i % 97)).collect();
    let r = run(Op::ew("sub"), &[f32s(&[n as usize, 1], &column), f32s(&[2], &[1.0, 2.0])]);
    let values = r.to_f64s().unwrap();
    assert!(
        (0..n as usize).all(|i| values[2 * i] == column[i] - 1.0 && values[2 * i + 1] == column[i] - 2.0)
    );
}

#[test]
fn integers_are_exact_and_wrap() {
    let i8s = |v: &[i8]| Tensor::from_slice(&[v.len()], v).unwrap();
    same(&run(Op::ew("add"), &[i8s(&[127, -128]), i8s(&[1, -1])]), &i8s(&[-128, 127]));
    same(&run(Op::ew("div"), &[i8s(&[-7, 7, 5]), i8s(&[2, -2, 0])]), &i8s(&[-3, -3, 0]));
    same(&run(Op::ew("mod"), &[i8s(&[-7, 7]), i8s(&[3, -3])]), &i8s(&[2, -2]));
    let u64s = |v: &[u64]| Tensor::from_slice(&[v.len()], v).unwrap();
    same(&run(Op::ew("mul"), &[u64s(&[u64::MAX]), u64s(&[u64::MAX])]), &u64s(&[1]));
    same(&run(Op::ew("pow"), &[i64s(&[2], &[3, -2]), i64s(&[2], &[4, 63])]), &i64s(&[2], &[81, i64::MIN]));
    let u4 = |v: &[f64]| t(DType::U4, &[v.len()], v);
    same(&run(Op::ew("sub"), &[u4(&[0.0, 15.0, 3.0]), u4(&[1.0, 15.0, 1.0])]), &u4(&[15.0, 0.0, 2.0]));
}

#[test]
fn floats_round_once_to_their_dtype() {
    // 2049 is not an f16; the sum rounds to even.
    let f16 = |v: &[f64]| t(DType::F16, &[v.len()], v);
    same(&run(Op::ew("add"), &[f16(&[2048.0]), f16(&[1.0])]), &f16(&[2048.0]));
    same(&run(Op::ew("add"), &[f16(&[2048.0]), f16(&[3.0])]), &f16(&[2052.0]));
    // A body with an inner overflow of f16 that cancels: x * x / x.
    near(&run(Op::ew("square"), &[t(DType::BF16, &[1], &[3.0])]), &[1], &[9.0], 0.0);
}

#[test]
fn comparisons_and_nan() {
    let x = f32s(&[3], &[1.0, f64::NAN, 3.0]);
    let y = f32s(&[3], &[2.0, 2.0, f64::NAN]);
    let bools = |v: &[bool]| Tensor::from_bools(&[v.len()], v).unwrap();
    same(&run(Op::ew("lt"), &[x.clone(), y.clone()]), &bools(&[true, false, false]));
    same(&run(Op::ew("ne"), &[x.clone(), x.clone()]), &bools(&[false, true, false]));
    near(&run(Op::ew("max"), &[x.clone(), y.clone()]), &[3], &[2.0, f64::NAN, f64::NAN], 0.0);
    same(&run(Op::ew("is_nan"), &[x]), &bools(&[false, true, false]));
    let infinite = f32s(&[3], &[f64::INFINITY, f64::NEG_INFINITY, 1.0]);
    same(&run(Op::ew_with("is_inf", &[0.0, 1.0]), &[infinite]), &bools(&[true, false, false]));
}

#[test]
fn known_function_values() {
    let x = f32s(&[3], &[-1.0, 0.0, 2.0]);
    // SciPy: erf, expit, and 0.5 x (1 + erf(x / sqrt 2)).
    near(&run(Op::ew("erf"), &[x.clone()]), &[3], &[-0.8427007929497149, 0.0, 0.9953222650189527], 1e-7);
    near(&run(Op::ew("sigmoid"), &[x.clone()]), &[3], &[0.2689414213699951, 0.5, 0.8807970779778823], 1e-7);
    near(&run(Op::ew("gelu"), &[x.clone()]), &[3], &[-0.15865525393145707, 0.0, 1.9544997361036416], 1e-7);
    near(&run(Op::ew_with("leaky_relu", &[0.1]), &[x.clone()]), &[3], &[-0.1, 0.0, 2.0], 1e-7);
    let half = f32s(&[4], &[0.5, 1.5, -0.5, 2.5]);
    same(&run(Op::ew("round"), &[half]), &f32s(&[4], &[0.0, 2.0, -0.0, 2.0]));
    let c = Tensor::from_bools(&[3], &[true, false, true]).unwrap();
    same(&run(Op::ew("where"), &[c, x.clone(), f32s(&[], &[9.0])]), &f32s(&[3], &[-1.0, 9.0, 2.0]));
}

#[test]
fn operands_of_wrong_dtype_or_number_are_errors() {
    let (a, b) = (f32s(&[1], &[1.0]), i64s(&[1], &[1]));
    assert!(fails(Op::ew("add"), &[a.clone(), b.clone()]).contains("operands of f32 and i64"));
    assert!(fails(Op::ew("exp"), &[b.clone()]).contains("does not apply to i64"));
    assert!(fails(Op::ew("add"), &[a.clone()]).contains("takes 2 operands"));
    assert!(fails(Op::ew("where"), &[b, a.clone(), a]).contains("not bool"));
    let text = Tensor::strings(&[1], vec!["a".into()]).unwrap();
    assert!(fails(Op::ew("eq"), &[text.clone(), text]).contains("does not apply to string"));
}

/// The chunked evaluation agrees with the scalar definition on every row.
#[test]
fn every_row_agrees_with_its_scalar_expression() {
    let samples = [-2.5, -1.0, -0.3, 0.0, 0.4, 1.0, 3.0, f64::NAN, f64::INFINITY];
    for kind in Ew::all() {
        let row = kind.row();
        let attrs: Vec<f64> = row.attrs.iter().enumerate().map(|(i, _)| 0.5 + i as f64).collect();
        for dtype in [DType::F64, DType::I32, DType::U8, DType::Bool] {
            if !row.domain.accepts(dtype) {
                continue;
            }
            let select = matches!(row.rule, kiln_ir::elementwise::DTypeRule::Select);
            let operands: Vec<Tensor> = (0..row.params.len())
                .map(|p| {
                    let d = if select && p == 0 { DType::Bool } else { dtype };
                    let values: Vec<f64> = (0..9).map(|i| samples[(i * (p + 1) + p) % 9]).collect();
                    t(d, &[9], &values)
                })
                .collect();
            let op = Elementwise { kind, attrs: attrs.iter().map(|&a| a.into()).collect() };
            let result = run(Op::Elementwise(op), &operands);
            for i in 0..9 {
                let params: Vec<Scalar> = operands.iter().map(|o| o.element(i).unwrap()).collect();
                let expected = kind.body().eval(&params, &attrs, dtype);
                let actual = result.element(i).unwrap();
                let nans =
                    matches!((actual, expected), (Scalar::F(a), Scalar::F(b)) if a.is_nan() && b.is_nan());
                assert!(nans || actual == expected, "{} of {params:?}: {actual:?}, {expected:?}", row.name);
            }
        }
    }
}

#[test]
fn casts_follow_the_dtype_pair() {
    let x = f32s(&[5], &[1.9, -1.9, 300.0, f64::NAN, f64::NEG_INFINITY]);
    let i8s = Tensor::from_slice(&[5], &[1i8, -1, 127, 0, -128]).unwrap();
    same(&run(Op::cast(DType::I8), &[x.clone()]), &i8s);
    let wide = i64s(&[3], &[300, -1, 128]);
    same(&run(Op::cast(DType::U8), &[wide.clone()]), &Tensor::from_slice(&[3], &[44u8, 255, 128]).unwrap());
    same(&run(Op::cast(DType::Bool), &[wide]), &Tensor::from_bools(&[3], &[true, true, true]).unwrap());
    same(
        &run(Op::cast(DType::F16), &[f32s(&[2], &[65520.0, 1e-8])]),
        &t(DType::F16, &[2], &[f64::INFINITY, 0.0]),
    );
    let f8 = |saturate| run(Cast { to: DType::F8E4M3FN, saturate }.into_op(), &[f32s(&[1], &[1000.0])]);
    assert_eq!(f8(true).bytes(), [0x7e]);
    assert_eq!(f8(false).bytes(), [0x7f]);
}

#[test]
fn integers_beyond_double_precision_round_once() {
    // 2^60 + 2^36 + 1 lies just above the middle of two f32 values; through a double it would be the middle.
    let v = (1i64 << 60) + (1 << 36) + 1;
    same(&run(Op::cast(DType::F32), &[i64s(&[1], &[v])]), &Tensor::from_slice(&[1], &[v as f32]).unwrap());
    assert_eq!(v as f32, 1.1529216e18);
    let t = run(Op::cast(DType::F64), &[i64s(&[1], &[i64::MAX])]);
    assert_eq!(t.to_f64s().unwrap(), [9.223372036854775807e18]);
}

#[test]
fn complex_numbers_convert() {
    let c = run(Op::cast(DType::C64), &[f32s(&[2], &[1.5, -2.0])]);
    assert_eq!(c.bytes(), bytemuck::cast_slice::<f32, u8>(&[1.5, 0.0, -2.0, 0.0]));
    let wide = run(Op::cast(DType::C128), &[c]);
    same(&run(Op::cast(DType::F32), &[wide]), &f32s(&[2], &[1.5, -2.0]));
}

trait IntoOp {
    fn into_op(self) -> Op;
}

impl IntoOp for Cast {
    fn into_op(self) -> Op {
        Op::Cast(self)
    }
}
