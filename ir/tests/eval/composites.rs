//! Composites, which evaluate through their decompositions. Expected values are NumPy's and ONNX's.

use kiln_ir::op::{Composite, CoordinateMode, Direction, Interpolation, NearestMode, RnnActivation, RnnGate};
use kiln_ir::{DType, Float, Tensor};

use super::{dims, f32s, near, run, run_all, same, t};

#[test]
fn softmax_family() {
    let x = f32s(&[1, 3], &[-1.0, 0.0, 1.0]);
    // ONNX Softmax and LogSoftmax examples.
    near(
        &run(Composite::Softmax { axis: 1 }, &[x.clone()]),
        &[1, 3],
        &[0.09003058, 0.24472848, 0.66524094],
        1e-6,
    );
    near(
        &run(Composite::LogSoftmax { axis: 1 }, &[x.clone()]),
        &[1, 3],
        &[-2.4076061, -1.407606, -0.40760604],
        1e-6,
    );
    let huge = f32s(&[2], &[1e30, 1e30]);
    near(&run(Composite::Softmax { axis: 0 }, &[huge.clone()]), &[2], &[0.5, 0.5], 1e-7);
    near(
        &run(Composite::LogSumExp { axes: vec![1], keepdims: false }, &[x.clone()]),
        &[1],
        &[1.407606],
        1e-6,
    );
    same(
        &run(Composite::Hardmax { axis: 1 }, &[f32s(&[1, 3], &[1.0, 3.0, 3.0])]),
        &f32s(&[1, 3], &[0.0, 1.0, 0.0]),
    );
}

#[test]
fn normalizations() {
    let x = f32s(&[1, 4], &[1.0, 2.0, 3.0, 6.0]);
    let (one, zero) = (f32s(&[4], &[1.0; 4]), f32s(&[4], &[0.0; 4]));
    let layer = Composite::LayerNorm { axis: 1, epsilon: Float::new(0.0) };
    // Mean 3, variance 3.5.
    let expected = [-1.0690449676496976, -0.5345224838248488, 0.0, 1.6035674514745464];
    near(&run(layer, &[x.clone(), one.clone(), zero]), &[1, 4], &expected, 1e-6);
    let rms = Composite::RmsNorm { axis: 1, epsilon: Float::new(0.0) };
    // Root mean square sqrt(12.5).
    let expected = [0.282842712474619, 0.565685424949238, 0.848528137423857, 1.697056274847714];
    near(&run(rms, &[x, one]), &[1, 4], &expected, 1e-6);
}

#[test]
fn attention_hides_and_shares_heads() {
    let op = |causal| Composite::Attention {
        scale: Float::new(1.0),
        mask: false,
        causal,
        causal_from_end: false,
        softcap: Float::new(0.0),
    };
    let q = f32s(&[1, 2, 2, 1], &[0.0; 4]);
    let k = f32s(&[1, 1, 2, 1], &[0.0; 2]);
    let v = f32s(&[1, 1, 2, 1], &[1.0, 3.0]);
    let all = run(op(false), &[q.clone(), k.clone(), v.clone()]);
    near(&all, &[1, 2, 2, 1], &[2.0, 2.0, 2.0, 2.0], 1e-7);
    near(&run(op(true), &[q, k, v]), &[1, 2, 2, 1], &[1.0, 2.0, 1.0, 2.0], 1e-7);
}

#[test]
fn recurrences_run_in_both_directions() {
    let gate = |kind| RnnGate { kind, alpha: Float::new(0.0), beta: Float::new(0.0) };
    let op = Composite::Rnn {
        hidden: 1,
        direction: Direction::Bidirectional,
        gates: vec![gate(RnnActivation::Relu), gate(RnnActivation::Relu)],
        clip: None,
        lengths: false,
    };
    // Running sums from either end: h = relu(x + h).
    let ones = f32s(&[2, 1, 1], &[1.0, 1.0]);
    let x = f32s(&[3, 1, 1], &[1.0, 2.0, 3.0]);
    let r = run_all(op, &[x, ones.clone(), ones, f32s(&[2, 2], &[0.0; 4]), f32s(&[2, 1, 1], &[0.0; 2])]);
    near(&r[0], &[3, 2, 1, 1], &[1.0, 6.0, 3.0, 5.0, 6.0, 3.0], 1e-7);
    near(&r[1], &[2, 1, 1], &[6.0, 6.0], 1e-7);
}

#[test]
fn resizes() {
    let op = |mode, sizes: &[i64], scales: [f64; 4]| Composite::Resize {
        sizes: dims(sizes),
        scales: scales.iter().map(|&s| Some(Float::new(s))).collect(),
        mode,
        coordinates: CoordinateMode::HalfPixel,
        nearest: NearestMode::RoundPreferFloor,
        cubic_a: Float::new(-0.75),
        antialias: false,
        exclude_outside: false,
        extrapolation: Float::new(0.0),
        roi: vec![],
    };
    let x = f32s(&[1, 1, 2, 2], &[1.0, 2.0, 3.0, 4.0]);
    // ONNX Resize upsample_scales_nearest and upsample_scales_linear (first row).
    let near2 = run(op(Interpolation::Nearest, &[1, 1, 4, 6], [1.0, 1.0, 2.0, 3.0]), &[x.clone()]);
    let rows = [1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0];
    let more = [3.0, 3.0, 3.0, 4.0, 4.0, 4.0, 3.0, 3.0, 3.0, 4.0, 4.0, 4.0];
    same(&near2, &f32s(&[1, 1, 4, 6], &[rows, more].concat()));
    let linear = run(op(Interpolation::Linear, &[1, 1, 4, 4], [1.0, 1.0, 2.0, 2.0]), &[x]);
    let expected = [1.0, 1.25, 1.75, 2.0, 1.5, 1.75, 2.25, 2.5, 2.5, 2.75, 3.25, 3.5, 3.0, 3.25, 3.75, 4.0];
    near(&linear, &[1, 1, 4, 4], &expected, 1e-7);
}

#[test]
fn resizes_by_sizes_know_the_size() {
    let op = |coordinates, to| Composite::Resize {
        sizes: dims(&[to]),
        scales: vec![None],
        mode: Interpolation::Nearest,
        coordinates,
        nearest: NearestMode::Floor,
        cubic_a: Float::new(-0.75),
        antialias: false,
        exclude_outside: false,
        extrapolation: Float::new(0.0),
        roi: vec![],
    };
    // 1 / 49 * 49 in doubles is below 1.
    let count = |n: u32| f32s(&[n as usize], &(0..n).map(f64::from).collect::<Vec<_>>());
    for coordinates in [CoordinateMode::PytorchHalfPixel, CoordinateMode::AlignCorners] {
        same(&run(op(coordinates, 1), &[count(49)]), &f32s(&[1], &[0.0]));
    }
    // Aligned corners meet: the last element is the last, whatever the sizes.
    for (n, m) in (2..100u32).flat_map(|n| [(n, 7), (n, 49), (n, 2)]) {
        let y = run(op(CoordinateMode::AlignCorners, i64::from(m)), &[count(n)]);
        assert_eq!(y.to_f64s().unwrap().last(), Some(&f64::from(n - 1)), "{n} to {m}");
    }
}

#[test]
fn dynamic_quantization() {
    // ONNX DynamicQuantizeLinear example.
    let x = f32s(&[6], &[0.0, 2.0, -3.0, -2.5, 1.34, 0.5]);
    let r = run_all(Composite::DynamicQuantize {}, &[x]);
    same(&r[0], &Tensor::from_slice(&[6], &[153u8, 255, 0, 26, 221, 179]).unwrap());
    near(&r[1], &[], &[0.019607844], 1e-7);
    same(&r[2], &Tensor::scalar(153u8));
}

#[test]
fn zeros_quantize_with_scale_1() {
    let r = run_all(Composite::DynamicQuantize {}, &[f32s(&[2], &[0.0, -0.0])]);
    same(&r[0], &Tensor::from_slice(&[2], &[0u8, 0]).unwrap());
    same(&r[1], &Tensor::scalar(1.0f32));
    same(&r[2], &Tensor::scalar(0u8));
}

#[test]
fn narrow_floats_stay_narrow() {
    let x = t(DType::BF16, &[2], &[0.0, 0.0]);
    same(&run(Composite::Softmax { axis: 0 }, &[x]), &t(DType::BF16, &[2], &[0.5, 0.5]));
}
