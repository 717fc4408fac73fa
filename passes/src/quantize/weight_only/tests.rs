use kiln_ir::op::ContractSpec;
use kiln_ir::{Datum, Dim, Evaluator, GraphBuilder, Type};

use super::round::{Coding, Members, group};
use super::*;
use crate::quantize::plan;

/// Weights with a few that are far from the others.
fn weights(count: usize) -> Vec<f32> {
    let mut state = 12345u32;
    let mut draw = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..count).map(|i| (draw() + draw() + draw()) * if i % 41 == 7 { 0.5 } else { 0.06 } + 0.01).collect()
}

fn groups(bits: Bits, size: usize, asymmetric: bool, rounding: Rounding) -> Groups {
    Groups { bits, size, asymmetric, rounding }
}

fn members(weights: &[f32]) -> Members {
    Members { weights: weights.to_vec(), counts: vec![1.0; weights.len()] }
}

/// All that can be asked for.
fn all(size: usize) -> Vec<Groups> {
    let mut all = vec![];
    for bits in [Bits::Four, Bits::Eight] {
        for (asymmetric, rounding) in
            [(false, Rounding::Nearest), (true, Rounding::Nearest), (true, Rounding::Hqq)]
        {
            all.push(groups(bits, size, asymmetric, rounding));
        }
    }
    all
}

/// A module with one product of `x [m][k]` with weights `[k][n]`, or transposed ones.
fn module(k: usize, n: usize, transposed: bool) -> Module {
    let mut module = Module::new();
    let mut b = GraphBuilder::new(&mut module, "main");
    let x = b.input("x", Type::fixed(DType::F32, &[3, k as i64]));
    let dims = if transposed { [n, k] } else { [k, n] };
    let w = b.constant(Tensor::from_slice(&dims, &weights(k * n)).unwrap()).unwrap();
    let rhs = if transposed { b"nk".to_vec() } else { b"kn".to_vec() };
    let spec = ContractSpec { lhs: b"mk".to_vec(), rhs, out: b"mn".to_vec() };
    let y = b.add1(Contract::Einsum { spec, out: DType::F32 }, &[x, w]).unwrap();
    b.output("y", y);
    let graph = b.finish();
    module.add_entry(graph);
    module
}

fn run(module: &Module, k: usize) -> Vec<f32> {
    let x: Vec<f32> = (0..3 * k).map(|i| ((i * 37 % 29) as f32 - 14.0) * 0.1).collect();
    let x = Datum::Tensor(Tensor::from_slice(&[3, k], &x).unwrap());
    let results = Evaluator::new(module).run(module.entries()[0], &[x]).unwrap();
    let [Datum::Tensor(y)] = &results[..] else { panic!("one tensor") };
    y.to_vec().unwrap()
}

#[test]
fn integers_are_in_range_and_near() {
    for size in [16, 32, 128] {
        for how in all(size) {
            let values = weights(size);
            let coding = Coding::of(&how);
            let found = group(&members(&values), coding);
            let (low, high) = coding.range;
            let finest = if how.bits == Bits::Four { 16.0 } else { 256.0 };
            let spread = values.iter().fold(0.0f32, |m, w| m.max(w.abs())) * 2.0;
            for w in &values {
                let code = found.code(*w, coding.range);
                assert!((low..=high).contains(&code) && code.fract() == 0.0);
                let error = (w - (code - found.zero) * found.scale).abs();
                // What is bounded errs more than half a step.
                assert!(error <= spread / finest + 0.35 * w.abs(), "{how:?}: {w} errs by {error}");
            }
        }
    }
}

#[test]
fn zero_points_of_hqq_err_less_than_those_of_the_nearest() {
    let mut better = 0;
    for seed in 0..24 {
        let values: Vec<f32> = weights(64 * 24)[seed * 64..(seed + 1) * 64].to_vec();
        let how = groups(Bits::Four, 64, true, Rounding::Nearest);
        let (near, hqq) = (Coding::of(&how), Coding::of(&Groups { rounding: Rounding::Hqq, ..how }));
        let values = members(&values);
        let (near, hqq) = (group(&values, near), group(&values, hqq));
        let error = |g: &super::round::Group| g.squares(&values, (0.0, 15.0));
        assert!(error(&hqq) <= error(&near));
        better += usize::from(error(&hqq) < error(&near));
    }
    assert!(better > 18, "{better} of 24");
}

#[test]
fn what_multiplies_large_values_errs_least() {
    let values = weights(64);
    for how in all(64).into_iter().filter(|how| how.bits == Bits::Four) {
        let coding = Coding::of(&how);
        let counts: Vec<f64> = (0..64).map(|i| if i % 8 == 3 { 1.0 } else { 0.01 }).collect();
        let weighted = Members { weights: values.clone(), counts };
        let (plain, own) = (group(&members(&values), coding), group(&weighted, coding));
        assert!(own.squares(&weighted, coding.range) < plain.squares(&weighted, coding.range), "{how:?}");
    }
}

#[test]
fn the_module_means_the_rounded_weights() {
    for (k, n, transposed) in [(64, 40, false), (100, 33, true), (48, 32, false)] {
        let before = module(k, n, transposed);
        let wanted = run(&before, k);
        let power: f32 = wanted.iter().map(|v| v * v).sum();
        for storage in all(32).into_iter().map(Storage::Groups).chain([Storage::F16, Storage::Bf16]) {
            let plan = plan(&before, before.entries()[0]);
            let (after, done, kept) = store(&before, &plan, storage, None).unwrap();
            assert_eq!((done.len(), kept.len()), (1, 0), "{storage:?}");
            let off: f32 = run(&after, k).iter().zip(&wanted).map(|(a, b)| (a - b) * (a - b)).sum();
            let least = match storage {
                Storage::Groups(Groups { bits: Bits::Four, .. }) => 15.0,
                Storage::Groups(_) | Storage::Bf16 => 38.0,
                Storage::F16 => 60.0,
            };
            let measured = 10.0 * f64::from(power / off).log10();
            assert!(done[0].sqnr_db > least && measured > least - 8.0, "{storage:?}: {done:?}, {measured}");
            assert!(done[0].bytes_after * 2 <= done[0].bytes_before);
        }
    }
}

#[test]
fn four_bits_take_less_than_a_fifth() {
    let before = module(128, 64, false);
    let plan = plan(&before, before.entries()[0]);
    for (size, share) in [(32, 0.16), (128, 0.14)] {
        let how = Storage::Groups(groups(Bits::Four, size, false, Rounding::Nearest));
        let (_, done, _) = store(&before, &plan, how, None).unwrap();
        assert!(done[0].bytes_after as f64 <= share * done[0].bytes_before as f64, "{done:?}");
    }
}

#[test]
fn what_stays_says_why() {
    let reason = |module: &Module, storage| {
        let plan = plan(module, module.entries()[0]);
        let (_, done, kept) = store(module, &plan, storage, None).unwrap();
        assert!(done.is_empty());
        kept[0].reason.clone()
    };
    let how = Storage::Groups(groups(Bits::Four, 32, false, Rounding::Nearest));
    assert_eq!(reason(&module(16, 8, false), how), "it has 128 weights");
    let mut large = Module::new();
    let mut b = GraphBuilder::new(&mut large, "main");
    let x = b.input("x", Type::fixed(DType::F32, &[2, 64]));
    let w = b.constant(Tensor::from_slice(&[64, 64], &vec![1e6f32; 4096]).unwrap()).unwrap();
    let spec = ContractSpec { lhs: b"mk".to_vec(), rhs: b"kn".to_vec(), out: b"mn".to_vec() };
    let y = b.add1(Contract::Einsum { spec, out: DType::F32 }, &[x, w]).unwrap();
    b.output("y", y);
    let graph = b.finish();
    large.add_entry(graph);
    assert_eq!(reason(&large, Storage::F16), "a weight is beyond the range of f16");
    let mut images = Module::new();
    let mut b = GraphBuilder::new(&mut images, "main");
    let x = b.input("x", Type::fixed(DType::F32, &[1, 16, 8, 8]));
    let w = b.constant(Tensor::from_slice(&[16, 16, 3, 3], &vec![0.5f32; 2304]).unwrap()).unwrap();
    let op = kiln_ir::op::Conv::Forward {
        strides: vec![1, 1],
        dilations: vec![1, 1],
        pads: vec![(Dim::known(1), Dim::known(1)); 2],
        groups: 1,
        layout: kiln_ir::op::Layout::ChannelsFirst,
        out: DType::F32,
    };
    let y = b.add1(op, &[x, w]).unwrap();
    b.output("y", y);
    let graph = b.finish();
    images.add_entry(graph);
    assert_eq!(reason(&images, how), "convolutions have no kernel for weights in fewer bits");
}

#[test]
fn groups_that_are_none_are_refused() {
    let refused = |size, asymmetric, rounding| groups(Bits::Four, size, asymmetric, rounding).refused();
    assert!(refused(0, false, Rounding::Nearest).is_some());
    assert!(refused(33, false, Rounding::Nearest).is_some());
    assert!(refused(1 << 17, true, Rounding::Nearest).is_some());
    assert!(refused(32, false, Rounding::Hqq).is_some());
    assert_eq!(refused(128, true, Rounding::Hqq), None);
}
