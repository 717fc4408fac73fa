//! Contractions with constant weights in few bits: on every tier the results of the reference evaluator, on the interpreter
//! those of compiled kernels, and bits that do not depend on how the grid is split.

mod support;

use kiln_codegen::build::{Options, compile};
use kiln_ir::op::{Contract, ContractSpec, Quant};
use kiln_ir::{Build, DType, GraphBuilder, InferError, Module, Scalar, Tensor, Value};
use kiln_runtime::cpu::Tier;
use kiln_runtime::{Executable, Session, SessionOptions};
use proptest::prelude::*;
use support::{Tolerance, check_module, evaluated, fusion, tiers};

const SUMS: Tolerance = Tolerance { relative: 1e-4, absolute: 1e-4 };

/// Where zero points come from.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Zero {
    None,
    Integers,
    Floats,
}

/// `gelu(x w + bias)` with weights `[k][n]`, or `[n][k]`, in blocks along `k`, or with a scale for each column.
#[derive(Clone, Copy, Debug)]
struct Case {
    m: usize,
    n: usize,
    k: usize,
    dtype: DType,
    /// 0: a scale for each column.
    block: usize,
    zero: Zero,
    transposed: bool,
}

const PLAIN: Case =
    Case { m: 3, n: 40, k: 64, dtype: DType::I4, block: 32, zero: Zero::None, transposed: false };

fn tensor(dtype: DType, dims: &[usize], of: impl Fn(usize) -> f64) -> Result<Tensor, InferError> {
    let count = dims.iter().product();
    let scalar = |v: f64| if dtype.is_float() { Scalar::F(v) } else { Scalar::I(v as i128) };
    let values: Vec<Scalar> = (0..count).map(|i| scalar(of(i))).collect();
    Tensor::from_scalars(dtype, dims, &values).map_err(|e| InferError::new(e.to_string()))
}

/// A number of the dtype's range.
fn code(dtype: DType, i: usize) -> f64 {
    let (low, high) = dtype.int_range().unwrap();
    let span = (high - low + 1) as usize;
    (low + ((i * 7919 + i / 13) % span) as i128) as f64
}

/// The weights as values in f32.
fn weights(b: &mut GraphBuilder<'_>, case: Case) -> Result<Value, InferError> {
    let Case { n, k, dtype, block, zero, transposed, .. } = case;
    let (dims, axis) = if transposed { ([n, k], 1) } else { ([k, n], 0) };
    let mut q = b.constant(tensor(dtype, &dims, |i| code(dtype, i))?)?;
    let mut grid = dims.to_vec();
    let mut along = axis;
    if block > 0 {
        grid[axis] = k.div_ceil(block);
    } else {
        (grid, along) = (vec![n], 1 - axis);
    }
    let scale = b.constant(tensor(DType::F32, &grid, |i| 0.01 + (i % 17) as f64 * 0.003)?)?;
    let zero = match zero {
        Zero::None => tensor(dtype, &grid, |_| 0.0)?,
        Zero::Integers => tensor(dtype, &grid, |i| code(dtype, i * 3 + 1))?,
        Zero::Floats => {
            q = b.cast(q, DType::F32)?;
            tensor(DType::F32, &grid, |i| (i % 29) as f64 * 0.37 - 2.0)?
        }
    };
    let zero = b.constant(zero)?;
    let op = Quant::Dequantize { to: DType::F32, axis: Some(along), block: block as i64 };
    b.add1(op, &[q, scale, zero])
}

fn labels(rhs: &[u8]) -> ContractSpec {
    ContractSpec { lhs: b"mk".to_vec(), rhs: rhs.to_vec(), out: b"mn".to_vec() }
}

fn layer(b: &mut GraphBuilder<'_>, x: Value, case: Case) -> Result<Value, InferError> {
    let w = weights(b, case)?;
    let spec = labels(if case.transposed { b"nk" } else { b"kn" });
    let y = b.add1(Contract::Einsum { spec, out: DType::F32 }, &[x, w])?;
    let bias = b.constant(tensor(DType::F32, &[case.n], |i| i as f64 * 0.01 - 0.3)?)?;
    let y = b.ew("add", &[y, bias])?;
    b.ew("gelu", &[y])
}

fn input(dims: &[usize]) -> Tensor {
    tensor(DType::F32, dims, |i| ((i * 7 % 23) as f64 - 11.0) * 0.02).unwrap()
}

/// Whether a kernel reads codes and no weights in floats.
fn reads_codes(text: &str) -> bool {
    text.contains("const u8")
}

fn agrees(case: Case) {
    let x = input(&[case.m, case.k]);
    let module = fusion("narrow", &x, &|b, x| layer(b, x, case));
    let wanted = evaluated(&module, &x);
    check_module(&format!("{case:?}"), &module, (&x, &wanted), SUMS, &reads_codes);
}

#[test]
fn rows_agree() {
    for m in [1, 2, 3, 4, 5, 8, 17, 48, 70] {
        agrees(Case { m, ..PLAIN });
        agrees(Case { m, dtype: DType::U8, zero: Zero::Integers, transposed: true, ..PLAIN });
    }
}

#[test]
fn every_storage_agrees() {
    for dtype in [DType::I4, DType::U4, DType::I8, DType::U8] {
        for zero in [Zero::None, Zero::Integers, Zero::Floats] {
            for (block, transposed) in [(32, false), (16, true), (0, true), (0, false), (128, true)] {
                for m in [1, 20] {
                    agrees(Case { m, dtype, zero, block, transposed, k: 150, n: 37 });
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_shapes_agree(
        m in 1..71usize, n in 2..100usize, k in 16..300usize, dtype in 0..4usize, block in 0..5usize,
        zero in 0..3usize, transposed in any::<bool>(),
    ) {
        let dtype = [DType::I4, DType::U4, DType::I8, DType::U8][dtype];
        let (block, zero) = ([0, 16, 32, 128, 48][block], [Zero::None, Zero::Integers, Zero::Floats][zero]);
        agrees(Case { m, n, k, dtype, block, zero, transposed });
    }
}

#[test]
fn columns_may_be_of_heads() {
    for m in [1, 9] {
        let x = input(&[m, 96]);
        let module = fusion("heads", &x, &|b, x| {
            let q = b.constant(tensor(DType::I4, &[96, 3, 20], |i| code(DType::I4, i))?)?;
            let scale = b.constant(tensor(DType::F32, &[3, 3, 20], |i| 0.01 + (i % 7) as f64 * 0.01)?)?;
            let zero = b.constant(tensor(DType::I4, &[3, 3, 20], |_| 0.0)?)?;
            let op = Quant::Dequantize { to: DType::F32, axis: Some(0), block: 32 };
            let w = b.add1(op, &[q, scale, zero])?;
            let spec = ContractSpec { lhs: b"mk".to_vec(), rhs: b"khd".to_vec(), out: b"hmd".to_vec() };
            b.add1(Contract::Einsum { spec, out: DType::F32 }, &[x, w])
        });
        let wanted = evaluated(&module, &x);
        check_module("heads", &module, (&x, &wanted), SUMS, &reads_codes);
    }
}

#[test]
fn halves_are_read_as_they_are() {
    for dtype in [DType::F16, DType::BF16] {
        for m in [1, 30] {
            let x = input(&[m, 96]);
            let module = fusion("halves", &x, &|b, x| {
                let w = b.constant(tensor(dtype, &[96, 40], |i| (i % 31) as f64 * 0.1 - 1.0)?)?;
                let w = b.cast(w, DType::F32)?;
                b.add1(Contract::Einsum { spec: labels(b"kn"), out: DType::F32 }, &[x, w])
            });
            let wanted = evaluated(&module, &x);
            let expected = if dtype == DType::F16 { "const f16" } else { "const bf16" };
            let reads = |text: &str| text.contains(expected) && text.contains("packed");
            check_module("halves", &module, (&x, &wanted), SUMS, &reads);
        }
    }
}

/// What has no packed form is widened where it is read: two axes are summed over.
#[test]
fn other_forms_are_widened() {
    let x = input(&[5, 6, 32]);
    let module = fusion("two sums", &x, &|b, x| {
        let q = b.constant(tensor(DType::I8, &[6, 32, 24], |i| code(DType::I8, i))?)?;
        let scale = b.constant(tensor(DType::F32, &[6, 2, 24], |i| 0.001 + (i % 5) as f64 * 0.001)?)?;
        let zero = b.constant(tensor(DType::I8, &[6, 2, 24], |_| 0.0)?)?;
        let op = Quant::Dequantize { to: DType::F32, axis: Some(1), block: 16 };
        let w = b.add1(op, &[q, scale, zero])?;
        let spec = ContractSpec { lhs: b"mjk".to_vec(), rhs: b"jkn".to_vec(), out: b"mn".to_vec() };
        b.add1(Contract::Einsum { spec, out: DType::F32 }, &[x, w])
    });
    let wanted = evaluated(&module, &x);
    check_module("two sums", &module, (&x, &wanted), SUMS, &|text| !reads_codes(text));
}

fn bits(module: &Module, tier: Tier, threads: usize, x: &Tensor) -> Vec<u8> {
    let compiled = compile(module, &Options { tier, ..Options::default() }).unwrap();
    let executable = Executable::from_image(compiled.image).unwrap();
    let options = SessionOptions { threads: Some(threads), ..SessionOptions::default() };
    let session = Session::new(std::sync::Arc::new(executable), options);
    let results = session.run("main", &[kiln_ir::Datum::Tensor(x.clone())]).unwrap();
    let [kiln_ir::Datum::Tensor(y)] = results.as_slice() else { panic!("one tensor") };
    y.bytes().to_vec()
}

#[test]
fn threads_change_no_bit() {
    for m in [1, 4, 70, 300] {
        let case = Case { m, n: 300, k: 512, zero: Zero::Integers, ..PLAIN };
        let x = input(&[case.m, case.k]);
        let module = fusion("threads", &x, &|b, x| layer(b, x, case));
        for tier in tiers() {
            assert_eq!(bits(&module, tier, 1, &x), bits(&module, tier, 3, &x), "{case:?} on {}", tier.name());
        }
    }
}
