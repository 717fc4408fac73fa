//! Small numbers in kernels against the reference evaluator, bit by bit: every element of every small dtype, and every
//! way in which a number rounds to one.

use std::sync::Arc;

use kiln_codegen::build::{Options, compile};
use kiln_ir::op::{Cast, Index, Movement, Quant};
use kiln_ir::tensor::Bytes;
use kiln_ir::{
    Build, DType, Datum, Dim, Evaluator, GraphBuilder, InferError, Module, Op, Tensor, Type, Value,
};
use kiln_runtime::cpu::Tier;
use kiln_runtime::{Executable, Session, SessionOptions};

const SMALL: [DType; 10] = [
    DType::I2,
    DType::I4,
    DType::U2,
    DType::U4,
    DType::F8E4M3FN,
    DType::F8E4M3FNUZ,
    DType::F8E5M2,
    DType::F8E5M2FNUZ,
    DType::F8E8M0,
    DType::F4E2M1,
];

/// Runs the graph of one output on every tier and in the evaluator: no node may be left to the evaluator, and no bit may
/// differ.
fn check(
    name: &str,
    inputs: &[Tensor],
    body: impl Fn(&mut GraphBuilder<'_>, &[Value]) -> Result<Value, InferError>,
) {
    let mut module = Module::new();
    let mut b = GraphBuilder::new(&mut module, "main");
    let values: Vec<Value> =
        inputs.iter().enumerate().map(|(i, t)| b.input(&format!("x{i}"), Type::Tensor(t.ty()))).collect();
    let output = body(&mut b, &values).unwrap_or_else(|e| panic!("{name}: {e}"));
    b.output("y", output);
    let id = b.finish();
    module.add_entry(id);
    let data: Vec<Datum> = inputs.iter().cloned().map(Datum::Tensor).collect();
    let expected = Evaluator::new(&module).run(id, &data).unwrap();
    let [Datum::Tensor(expected)] = expected.as_slice() else { panic!("{name}: one tensor") };
    for tier in Tier::ALL.into_iter().filter(|t| *t != Tier::X86V1 && t.is_supported()) {
        let compiled = compile(&module, &Options { tier, ..Options::default() }).unwrap();
        assert_eq!(compiled.summary.slow, [], "{name}");
        let session = Session::new(
            Arc::new(Executable::from_image(compiled.image).unwrap()),
            SessionOptions::default(),
        );
        let actual = session.run("main", &data).unwrap();
        let [Datum::Tensor(actual)] = actual.as_slice() else { panic!("{name}: one tensor") };
        assert_eq!((expected.dtype(), expected.dims()), (actual.dtype(), actual.dims()), "{name}");
        for i in 0..expected.numel() {
            let (e, a) = (expected.element_bits(i), actual.element_bits(i));
            let texts = compiled.kernel_texts.join("\n");
            let input = inputs[0].element(i.min(inputs[0].numel() - 1));
            assert_eq!(e, a, "{name}: element {i} of {input:?} is {a:#x?} on {}\n{texts}", tier.name());
        }
    }
}

fn cast(name: &str, x: &Tensor, to: DType, saturate: bool) {
    check(&format!("{name}: {} to {to}, saturate {saturate}", x.dtype()), std::slice::from_ref(x), |b, v| {
        Ok(b.add(Op::Cast(Cast { to, saturate }), v)?[0])
    });
}

/// Every element of the dtype, and a few more so that the last byte is not full.
fn all(dtype: DType) -> Tensor {
    let count = (1usize << dtype.bits()) + if dtype.is_packed() { 19 } else { 0 };
    let bytes: Vec<u8> = match dtype.bits() {
        8 => (0..=255).collect(),
        4 => (0..count.div_ceil(2)).map(|i| (((2 * i) % 16) | (((2 * i + 1) % 16) << 4)) as u8).collect(),
        _ => (0..count.div_ceil(4)).map(|i| 0b11_10_01_00u8.rotate_left(2 * (i as u32 / 3))).collect(),
    };
    Tensor::new(dtype, &[count], Bytes::copied(&bytes)).unwrap()
}

#[test]
fn every_element_widens() {
    use DType::*;
    for small in SMALL {
        for to in [Bool, I8, I16, I32, I64, U8, U16, U32, U64, F16, BF16, F32, F64].into_iter().chain(SMALL) {
            // What keeps its dtype moves, and floats that move keep their bits: the evaluator does that.
            if to != small || small.is_int() {
                cast("all", &all(small), to, SMALL.contains(&to));
            }
        }
    }
}

/// Singles around every place where something rounds: all upper halves of bit patterns with some lower halves.
fn singles() -> Vec<f32> {
    let lower = [0u32, 1, 0x7fff, 0x8000];
    (0..=u16::MAX).flat_map(|high| lower.map(|low| f32::from_bits(u32::from(high) << 16 | low))).collect()
}

#[test]
fn singles_narrow() {
    let values = singles();
    let x = Tensor::from_slice(&[values.len()], &values).unwrap();
    for small in SMALL {
        cast("singles", &x, small, true);
        cast("singles", &x, small, false);
    }
}

#[test]
fn other_numbers_narrow() {
    let mut doubles: Vec<f64> =
        vec![0.0, -0.0, f64::NAN, -f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e300, -1e-300];
    for small in SMALL {
        // Beside ties by less than a single shows.
        let values = (0..1u64 << small.bits()).map(|bits| kiln_ir::float::decode(small, bits));
        let values: Vec<f64> = values.filter(|v| v.is_finite() && small.is_float()).collect();
        for pair in values.windows(2) {
            let tie = (pair[0] + pair[1]) / 2.0;
            doubles.extend([tie, tie.next_up(), tie.next_down(), pair[0]]);
        }
    }
    let doubles = Tensor::from_slice(&[doubles.len()], &doubles).unwrap();
    let halves: Vec<u16> = (0..=u16::MAX).collect();
    let bytes: Vec<u8> = halves.iter().flat_map(|h| h.to_le_bytes()).collect();
    let ints: Vec<i32> = (-300..300).chain([i32::MIN, i32::MAX, 1 << 24 | 1]).collect();
    let ints = Tensor::from_slice(&[ints.len()], &ints).unwrap();
    for small in SMALL {
        for saturate in [true, false] {
            cast("doubles", &doubles, small, saturate);
            for half in [DType::F16, DType::BF16] {
                cast(
                    "halves",
                    &Tensor::new(half, &[1 << 16], Bytes::copied(&bytes)).unwrap(),
                    small,
                    saturate,
                );
            }
            if small != DType::F8E8M0 {
                cast("integers", &ints, small, saturate);
            }
        }
    }
}

#[test]
fn small_integers_move() {
    for small in SMALL.into_iter().filter(|d| d.is_int()) {
        let bytes: Vec<u8> = (0..small.bytes_for(105).unwrap()).map(|i| (i * 37 + 11) as u8).collect();
        let x = Tensor::new(small, &[3, 5, 7], Bytes::copied(&bytes)).unwrap();
        check("transpose", std::slice::from_ref(&x), |b, v| b.transpose(v[0], &[2, 0, 1]));
        check("reshape", std::slice::from_ref(&x), |b, v| b.reshape(v[0], &[Dim::known(21), Dim::known(5)]));
        check("slice", std::slice::from_ref(&x), |b, v| {
            let dims = |d: [i64; 3]| d.map(Dim::known).to_vec();
            let slice =
                Movement::Slice { starts: dims([1, 4, 0]), sizes: dims([2, 3, 7]), steps: vec![1, -1, 1] };
            Ok(b.add(slice.into(), v)?[0])
        });
        check("concat", &[x.clone(), x.clone()], |b, v| b.concat(v, 1));
        let indices = Tensor::from_slice(&[4], &[2i64, 0, -1, 1]).unwrap();
        check("gather", &[x, indices], |b, v| Ok(b.add(Index::Gather { axis: 0 }.into(), v)?[0]));
    }
}

#[test]
fn small_numbers_quantize() {
    let x: Vec<f32> = (0..77).map(|i| (i as f32 - 38.0) * 1.37).collect();
    let x = Tensor::from_slice(&[7, 11], &x).unwrap();
    let scale = Tensor::from_slice(&[7], &[0.5f32, 1.0, 2.0, 3.3, 0.01, 17.0, 0.25]).unwrap();
    for small in SMALL.into_iter().filter(|d| *d != DType::F8E8M0) {
        let bytes: Vec<u8> = (0..small.bytes_for(7).unwrap()).map(|i| (i * 29 + 1) as u8 & 0x37).collect();
        let zero = Tensor::new(small, &[7], Bytes::copied(&bytes)).unwrap();
        check(&format!("quantize to {small}"), &[x.clone(), scale.clone(), zero.clone()], |b, v| {
            let op = Quant::Quantize { to: small, axis: Some(0), block: 0, saturate: true, inverse: false };
            Ok(b.add(op.into(), v)?[0])
        });
        let bytes: Vec<u8> = (0..small.bytes_for(77).unwrap()).map(|i| (i * 37 + 11) as u8).collect();
        let q = Tensor::new(small, &[7, 11], Bytes::copied(&bytes)).unwrap();
        check(&format!("dequantize from {small}"), &[q, scale.clone(), zero], |b, v| {
            let op = Quant::Dequantize { to: DType::F32, axis: Some(0), block: 0 };
            Ok(b.add(op.into(), v)?[0])
        });
    }
}
