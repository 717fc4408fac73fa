//! Accuracy of the inline elementary functions against double precision, and conversions of every dtype.

mod support;

use kiln_codegen::kir::{Ix, KernelBuilder, LoopKind, compute_dtype};
use kiln_ir::{DType, Prim, Scalar};
use kiln_runtime::cpu::Tier;
use support::{check, run_compiled, scalars, tiers};

/// Results of a primitive on f32 inputs.
fn apply(prim: Prim, inputs: &[f32], tier: Tier) -> Vec<f32> {
    let mut b = KernelBuilder::new(prim.name());
    let (x, out) = (b.input(DType::F32), b.output(DType::F32));
    b.vector(inputs.len() as i64, |b, i| {
        let v = b.load(x, i.clone());
        let v = b.apply(prim, &[v]);
        b.store(out, i, v);
    });
    let kernel = b.finish().unwrap();
    let bytes: Vec<u8> = inputs.iter().flat_map(|v| v.to_le_bytes()).collect();
    let results = run_compiled(&kernel, tier, &[bytes.clone(), bytes], &[], u64::MAX);
    results[1].chunks_exact(4).map(|c| f32::from_le_bytes(c.try_into().unwrap())).collect()
}

/// Distance in units in the last place of the exact result.
fn ulps(exact: f64, got: f32) -> f64 {
    let nearest = exact as f32;
    if nearest.is_nan() || got.is_nan() {
        return if nearest.is_nan() && got.is_nan() { 0.0 } else { f64::INFINITY };
    }
    if nearest.is_infinite() || got.is_infinite() {
        return if nearest == got { 0.0 } else { f64::INFINITY };
    }
    let exponent = (nearest.abs().max(f32::MIN_POSITIVE)).to_bits() >> 23;
    let unit = 2f64.powi(exponent as i32 - 150);
    (f64::from(got) - exact).abs() / unit
}

fn worst(prim: Prim, inputs: &[f32], bound: f64) {
    for tier in tiers() {
        let results = apply(prim, inputs, tier);
        let mut max = (0.0, 0.0);
        for (&x, &got) in inputs.iter().zip(&results) {
            let Scalar::F(exact) = prim.apply(&[Scalar::F(f64::from(x))], 32) else { panic!("no float") };
            let error = ulps(exact, got);
            if error > max.0 {
                max = (error, x);
            }
        }
        println!("{} {}: {:.2} ulp at {:e}", prim.name(), tier.name(), max.0, max.1);
        assert!(max.0 <= bound, "{} on {}: {} ulp at {:e}", prim.name(), tier.name(), max.0, max.1);
    }
}

/// Every 1,009th bit pattern, and special values.
fn patterns() -> Vec<f32> {
    let special = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        f32::MIN_POSITIVE,
        f32::MAX,
        -f32::MAX,
    ];
    (0..u32::MAX).step_by(4999).map(f32::from_bits).chain(special).collect()
}

fn between(low: f32, high: f32) -> Vec<f32> {
    let count = 400_000;
    (0..=count).map(|i| low + (high - low) * (i as f32 / count as f32)).collect()
}

#[test]
fn exp_is_accurate() {
    worst(Prim::Exp, &patterns(), 2.0);
    worst(Prim::Exp, &between(-104.0, 89.0), 2.0);
}

/// `x / (1 + e^-x)`, `1 / (1 + e^-x)` and `1 / (1 + e^x)`, with the same values where a factor of 1 stands before `x`.
#[test]
fn sigmoids_are_accurate() {
    let inputs: Vec<f32> = patterns().into_iter().chain(between(-90.0, 90.0)).collect();
    let n = inputs.len();
    let mut b = KernelBuilder::new("sigmoids");
    let (x, out) = (b.input(DType::F32), b.output(DType::F32));
    b.vector(n as i64, |b, i| {
        let v = b.load(x, i.clone());
        let one = b.literal(DType::F32, 1.0);
        let scaled = b.apply(Prim::Mul, &[one, v]);
        let minus = b.apply(Prim::Neg, &[scaled]);
        let (down, up) = (b.apply(Prim::Exp, &[minus]), b.apply(Prim::Exp, &[v]));
        let (down, up) = (b.apply(Prim::Add, &[one, down]), b.apply(Prim::Add, &[up, one]));
        let results = [(v, down), (one, down), (one, up)];
        for (part, (dividend, divisor)) in (0i64..).zip(results) {
            let value = b.apply(Prim::Div, &[dividend, divisor]);
            b.store(out, i.clone() + part * n as i64, value);
        }
    });
    let kernel = b.finish().unwrap();
    let bytes: Vec<u8> = inputs.iter().flat_map(|v| v.to_le_bytes()).collect();
    for tier in tiers() {
        let got = run_compiled(&kernel, tier, &[bytes.clone(), vec![0; 12 * n]], &[], u64::MAX);
        let got: Vec<f32> =
            got[1].chunks_exact(4).map(|c| f32::from_le_bytes(c.try_into().unwrap())).collect();
        let mut most = 0.0f64;
        for (i, &x) in inputs.iter().enumerate() {
            let x = f64::from(x);
            let (down, up) = (1.0 + (-x).exp(), 1.0 + x.exp());
            for (part, (exact, divisor)) in
                [(x / down, down), (1.0 / down, down), (1.0 / up, up)].into_iter().enumerate()
            {
                let got = got[part * n + i];
                // Of divisors near the largest number, the quotient is 0 or nearly.
                if divisor >= 2f64.powi(126) && exact.is_finite() {
                    let least = f64::from(f32::MIN_POSITIVE) * 1.01 * x.abs().max(1.0);
                    assert!(f64::from(got).abs() <= least, "{x:e}: {got:e} on {}", tier.name());
                } else if divisor.is_infinite() && got.is_nan() == exact.is_nan() {
                    continue;
                } else {
                    most = most.max(ulps(exact, got));
                }
            }
        }
        println!("sigmoids {}: {most:.2} ulp", tier.name());
        assert!(most <= 3.0, "{most} ulp on {}", tier.name());
    }
}

#[test]
fn log_is_accurate() {
    worst(Prim::Log, &patterns(), 2.0);
    worst(Prim::Log, &between(0.5, 2.0), 2.0);
}

#[test]
fn tanh_is_accurate() {
    worst(Prim::Tanh, &patterns(), 4.0);
    worst(Prim::Tanh, &between(-10.0, 10.0), 4.0);
}

#[test]
fn erf_is_accurate() {
    worst(Prim::Erf, &patterns(), 2.0);
    worst(Prim::Erf, &between(-5.0, 5.0), 2.0);
}

/// `1 + erf(x)` and `1 + erf(x * sqrt(1/2))`, either way round.
#[test]
fn one_plus_erf_is_accurate() {
    let inputs: Vec<f32> = patterns().into_iter().chain(between(-6.5, 6.5)).collect();
    let n = inputs.len();
    let mut b = KernelBuilder::new("one_plus_erf");
    let (x, out) = (b.input(DType::F32), b.output(DType::F32));
    b.vector(n as i64, |b, i| {
        let v = b.load(x, i.clone());
        let (one, root) = (b.literal(DType::F32, 1.0), b.literal(DType::F32, 0.5f64.sqrt()));
        let plain = b.apply(Prim::Erf, &[v]);
        let plain = b.apply(Prim::Add, &[plain, one]);
        b.store(out, i.clone(), plain);
        let scaled = b.apply(Prim::Mul, &[v, root]);
        let scaled = b.apply(Prim::Erf, &[scaled]);
        let scaled = b.apply(Prim::Add, &[one, scaled]);
        b.store(out, i + n as i64, scaled);
    });
    let kernel = b.finish().unwrap();
    let bytes: Vec<u8> = inputs.iter().flat_map(|v| v.to_le_bytes()).collect();
    let root = f64::from(0.5f64.sqrt() as f32);
    for tier in tiers() {
        let got = run_compiled(&kernel, tier, &[bytes.clone(), vec![0; 8 * n]], &[], u64::MAX);
        let got: Vec<f32> =
            got[1].chunks_exact(4).map(|c| f32::from_le_bytes(c.try_into().unwrap())).collect();
        let mut worst = [(0.0, 0.0); 2];
        for (i, &x) in inputs.iter().enumerate() {
            for (part, factor) in [1.0, root].into_iter().enumerate() {
                let Scalar::F(erf) = Prim::Erf.apply(&[Scalar::F(factor * f64::from(x))], 64) else {
                    panic!("no float")
                };
                let got = f64::from(got[i + part * n]);
                assert_eq!(got.is_nan(), erf.is_nan(), "{x:e} on {}", tier.name());
                let error = (got - (1.0 + erf)).abs() / f64::from(f32::EPSILON);
                if error > worst[part].0 {
                    worst[part] = (error, x);
                }
            }
        }
        println!("1 + erf on {}: units of 1 {worst:?}", tier.name());
        assert!(worst.iter().all(|w| w.0 <= 1.3), "{worst:?} on {}", tier.name());
    }
}

/// Rows divided by their greatest element, from subnormal to infinite.
#[test]
fn quotients_by_totals_of_rows_round_once() {
    let columns = 96i64;
    let scales: Vec<f32> = [0u32, 1, 77, 0x40_0000, 0x7f_ffff, 0x7f7f_ffff, 0x7f80_0000, 0x7fc0_0000]
        .into_iter()
        .map(f32::from_bits)
        .chain((-149..=127).map(|e| 1.37 * 2f32.powi(e)))
        .collect();
    let inputs: Vec<f32> = scales
        .iter()
        .flat_map(|&top| (0..columns).map(move |i| if i == 13 { top } else { top * (i as f32 / 100.0) }))
        .collect();
    let rows = scales.len() as i64;
    let mut b = KernelBuilder::new("quotients");
    let (x, out) = (b.input(DType::F32), b.output(DType::F32));
    b.sequential(rows, |b, row| {
        let at = row * columns;
        let low = b.literal(DType::F32, f64::NEG_INFINITY);
        let item = |b: &mut KernelBuilder, i: Ix| b.load(x, at.clone() + i);
        let max = b.reduce(LoopKind::Vector, columns, &[(Prim::Max, low)], |b, i| vec![item(b, i)])[0];
        b.vector(columns, |b, i| {
            let v = b.load(x, at.clone() + i.clone());
            let v = b.apply(Prim::Div, &[v, max]);
            b.store(out, at.clone() + i, v);
        });
    });
    let kernel = b.finish().unwrap();
    let bytes: Vec<u8> = inputs.iter().flat_map(|v| v.to_le_bytes()).collect();
    for tier in tiers() {
        let got = run_compiled(&kernel, tier, &[bytes.clone(), vec![0; bytes.len()]], &[], u64::MAX);
        let mut most = 0.0f64;
        for (i, got) in got[1].chunks_exact(4).enumerate() {
            let exact = f64::from(inputs[i]) / f64::from(scales[i / columns as usize]);
            most = most.max(ulps(exact, f32::from_le_bytes(got.try_into().unwrap())));
        }
        println!("quotients on {}: {most:.2} ulp", tier.name());
        assert!(most <= 0.5001, "{most} ulp on {}", tier.name());
    }
}

#[test]
fn helper_functions_round_once() {
    for prim in [Prim::Sin, Prim::Cos, Prim::Tan, Prim::Atan, Prim::Expm1, Prim::Log1p, Prim::Asinh] {
        worst(prim, &between(-20.0, 20.0)[..20_000], 0.5001);
    }
}

/// Every pattern of the narrow floats passes through a load and a store unchanged; NaN stays NaN.
#[test]
fn sixteen_bit_floats_round_trip() {
    for dtype in [DType::F16, DType::BF16] {
        let mut b = KernelBuilder::new("copy");
        let (x, out) = (b.input(dtype), b.output(dtype));
        b.vector(65536, |b, i| {
            let v = b.load(x, i.clone());
            b.store(out, i, v);
        });
        let kernel = b.finish().unwrap();
        let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        for tier in tiers() {
            let got = run_compiled(&kernel, tier, &[bytes.clone(), vec![0; bytes.len()]], &[], u64::MAX);
            for ((i, want), got) in (0u32..).zip(scalars(dtype, &bytes)).zip(scalars(dtype, &got[1])) {
                let same = match (want, got) {
                    (Scalar::F(a), Scalar::F(b)) => a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()),
                    _ => false,
                };
                assert!(same, "{dtype} {i:#06x}: {want:?} became {got:?} on {}", tier.name());
            }
        }
    }
}

/// Rounding of f32 to the narrow floats, near and at ties, overflow and subnormals.
#[test]
fn stores_round_to_nearest_even() {
    for dtype in [DType::F16, DType::BF16] {
        let mut b = KernelBuilder::new("narrow");
        let (x, out) = (b.input(DType::F32), b.output(dtype));
        let inputs: Vec<f32> = patterns();
        b.vector(inputs.len() as i64, |b, i| {
            let v = b.load(x, i.clone());
            b.store(out, i, v);
        });
        let kernel = b.finish().unwrap();
        let bytes: Vec<u8> = inputs.iter().flat_map(|v| v.to_le_bytes()).collect();
        for tier in tiers() {
            let got = run_compiled(&kernel, tier, &[bytes.clone(), vec![0; 2 * inputs.len()]], &[], u64::MAX);
            for (x, got) in inputs.iter().zip(scalars(dtype, &got[1])) {
                let bits = kiln_ir::tensor::scalar_to_bits(dtype, Scalar::F(f64::from(*x)));
                let want = kiln_ir::tensor::scalar_from_bits(dtype, bits).unwrap();
                assert!(
                    want == got || x.is_nan(),
                    "{x:e} became {got:?}, expected {want:?} on {}",
                    tier.name()
                );
            }
        }
    }
}

/// Conversions between all dtypes, with values outside of the target's range.
#[test]
fn casts_agree_with_the_interpreter() {
    let dtypes: Vec<DType> =
        DType::ALL.iter().copied().filter(|&d| compute_dtype(d) == Some(d) && d.bits() >= 8).collect();
    let values = [
        0.0, 1.0, -1.0, 2.5, -3.5, 127.0, 128.0, -129.0, 255.0, 256.0, 70000.0, -70000.0, 3e9, -3e9, 1e19,
        -1e19,
    ];
    for &from in &dtypes {
        for &to in &dtypes {
            for vector in [true, false] {
                let mut b = KernelBuilder::new(format!("{from}_to_{to}"));
                let (x, out) = (b.input(from), b.output(to));
                let kind = if vector {
                    kiln_codegen::kir::LoopKind::Vector
                } else {
                    kiln_codegen::kir::LoopKind::Sequential
                };
                b.for_loop(kind, values.len() as i64, |b, i| {
                    let v = b.load(x, i.clone());
                    let v = b.cast(v, to);
                    b.store(out, i, v);
                });
                let kernel = b.finish().unwrap();
                let mut data = support::elements(from, values);
                if from.is_float() {
                    data.splice(..from.bits() / 8, support::elements(from, [f64::NAN]));
                }
                check(&kernel, &[data, vec![0; values.len() * to.bits() / 8]], &[], support::TIGHT);
            }
        }
    }
}
