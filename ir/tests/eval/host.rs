//! Rare operators on images, signals and texts. Expected values are those of the ONNX suite and NumPy.

use kiln_ir::op::{GridPadding, Host, Interpolation, NgramWeight, RegionPool, TextCase};
use kiln_ir::{DType, Float, Tensor};

use super::{f32s, fails, i64s, near, run, run_all, same};

fn words(dims: &[usize], v: &[&str]) -> Tensor {
    Tensor::strings(dims, v.iter().map(|s| (*s).to_string()).collect()).unwrap()
}

#[test]
fn bits_as_another_dtype() {
    let bits = run(Host::BitCast { to: DType::I32 }, &[f32s(&[2], &[1.0, -2.0])]);
    same(&bits, &Tensor::from_slice(&[2], &[0x3f80_0000i32, -0x4000_0000]).unwrap());
    assert!(fails(Host::BitCast { to: DType::I64 }, &[f32s(&[1], &[0.0])]).contains("width"));
    let byte = Tensor::from_slice(&[1], &[2u8]).unwrap();
    assert!(fails(Host::BitCast { to: DType::Bool }, &[byte]).contains("no bool"));
}

#[test]
fn parts_of_complex_numbers() {
    let (re, im) = (f32s(&[2], &[1.0, -2.0]), f32s(&[2], &[0.5, 4.0]));
    let z = run(Host::Complex {}, &[re.clone(), im.clone()]);
    assert_eq!((z.dtype(), z.dims()), (DType::C64, &[2][..]));
    let parts = run_all(Host::ComplexParts {}, &[z]);
    same(&parts[0], &re);
    same(&parts[1], &im);
    assert!(fails(Host::Complex {}, &[re.clone(), f32s(&[1], &[0.0])]).contains("parts"));
    assert!(fails(Host::ComplexParts {}, &[re]).contains("parts of f32"));
}

fn grid(mode: Interpolation, padding: GridPadding, points: &[f64]) -> Tensor {
    let x = f32s(&[1, 1, 3, 2], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    let both: Vec<f64> = points.iter().flat_map(|&p| [p, p]).collect();
    run(Host::GridSample { mode, padding, align_corners: false }, &[x, f32s(&[1, 2, 4, 2], &both)])
}

#[test]
fn grid_samples() {
    let near_points = [-1.0, -0.5, -0.2, 0.0, 0.0, -0.2, 0.5, 1.0];
    let nearest = grid(Interpolation::Nearest, GridPadding::Zeros, &near_points);
    near(&nearest, &[1, 1, 2, 4], &[0.0, 0.0, 2.0, 2.0, 2.0, 2.0, 5.0, 0.0], 0.0);
    let cubic = grid(Interpolation::Cubic, GridPadding::Zeros, &near_points);
    let expected = [-0.1406, 0.3828, 1.7556, 2.9688, 2.9688, 1.7556, 5.1445, 1.3906];
    near(&cubic, &[1, 1, 2, 4], &expected, 1e-4);
    let far = [-10.0, -5.0, -0.2, 10.0, 10.0, -0.2, 5.0, 10.0];
    let reflected = grid(Interpolation::Linear, GridPadding::Reflection, &far);
    near(&reflected, &[1, 1, 2, 4], &[2.5, 0.0, 1.7, 2.5, 2.5, 1.7, 5.0, 2.5], 1e-6);
    let border = grid(Interpolation::Linear, GridPadding::Border, &far);
    near(&border, &[1, 1, 2, 4], &[0.0, 0.0, 1.7, 5.0, 5.0, 1.7, 5.0, 5.0], 1e-6);
    // Points that are no numbers read something, but do not fail.
    let odd = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e38, -1e38, 0.0, 0.0, 0.0];
    for mode in [Interpolation::Nearest, Interpolation::Linear, Interpolation::Cubic] {
        for &padding in GridPadding::ALL {
            assert_eq!(grid(mode, padding, &odd).dims(), [1, 1, 2, 4]);
        }
    }
}

#[test]
fn regions_of_interest() {
    let op = |mode, half_pixel| Host::RoiAlign {
        mode,
        half_pixel,
        height: 1,
        width: 1,
        sampling: 1,
        spatial_scale: Float::new(1.0),
    };
    let x = f32s(&[1, 1, 2, 2], &[1.0, 2.0, 3.0, 8.0]);
    let (boxes, batch) = (f32s(&[1, 4], &[0.0, 0.0, 1.0, 1.0]), Tensor::ints(&[0]));
    // The middle of the box is the middle of the four elements.
    let r = run(op(RegionPool::Average, false), &[x.clone(), boxes.clone(), batch.clone()]);
    near(&r, &[1, 1, 1, 1], &[3.5], 1e-6);
    let r = run(op(RegionPool::Max, false), &[x.clone(), boxes.clone(), batch.clone()]);
    near(&r, &[1, 1, 1, 1], &[2.0], 1e-6);
    // Half a pixel back: the first element itself.
    let r = run(op(RegionPool::Average, true), &[x.clone(), boxes.clone(), batch]);
    near(&r, &[1, 1, 1, 1], &[1.0], 1e-6);
    assert!(fails(op(RegionPool::Max, true), &[x.clone(), boxes, Tensor::ints(&[1])]).contains("index 1"));
    let adaptive = Host::RoiAlign {
        mode: RegionPool::Average,
        half_pixel: false,
        height: 1,
        width: 1,
        sampling: 0,
        spatial_scale: Float::new(1.0),
    };
    let huge = f32s(&[1, 4], &[0.0, 0.0, 1e30, 1e30]);
    assert!(fails(adaptive, &[x, huge, Tensor::ints(&[0])]).contains("a box of"));
}

#[test]
fn unpooling_and_unfolding() {
    let unpool = || Host::MaxUnpool { kernel: vec![2, 2], strides: vec![2, 2], pads: vec![(0, 0); 2] };
    let x = f32s(&[1, 1, 2, 2], &[5.0, 6.0, 7.0, 8.0]);
    let at = i64s(&[1, 1, 2, 2], &[5, 7, 13, 15]);
    let r = run(unpool(), &[x.clone(), at.clone(), Tensor::ints(&[])]);
    let expected = [0.0, 0.0, 0.0, 0.0, 0.0, 5.0, 0.0, 6.0, 0.0, 0.0, 0.0, 0.0, 0.0, 7.0, 0.0, 8.0];
    same(&r, &f32s(&[1, 1, 4, 4], &expected));
    let r = run(unpool(), &[x.clone(), at, Tensor::ints(&[1, 1, 5, 5])]);
    let values = r.to_f64s().unwrap();
    assert_eq!(
        (r.dims(), values[6], values[8], values[16], values[18]),
        (&[1, 1, 5, 5][..], 5.0, 6.0, 7.0, 8.0)
    );
    let beyond = i64s(&[1, 1, 2, 2], &[16, 0, 0, 0]);
    assert!(fails(unpool(), &[x, beyond, Tensor::ints(&[])]).contains("index 16"));

    let fold = Host::Col2Im { strides: vec![2, 2], dilations: vec![1, 1], pads: vec![(0, 0); 2] };
    let rows = [0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0];
    let columns: Vec<f64> = rows.iter().flat_map(|&v| [v; 4]).collect();
    let r = run(fold, &[f32s(&[1, 9, 4], &columns), Tensor::ints(&[5, 5]), Tensor::ints(&[3, 3])]);
    let expected = [
        0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 2.0, 1.0, 2.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0,
        0.0, 1.0, 0.0, 1.0, 0.0,
    ];
    same(&r, &f32s(&[1, 1, 5, 5], &expected));
}

#[test]
fn deformed_convolution() {
    let op = Host::DeformConv {
        strides: vec![1, 1],
        dilations: vec![1, 1],
        pads: vec![(0, 0); 2],
        groups: 1,
        offset_groups: 1,
    };
    let x = f32s(&[1, 1, 3, 3], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
    let w = f32s(&[1, 1, 2, 2], &[1.0; 4]);
    let mut offsets = [0.0; 32];
    (offsets[0], offsets[21]) = (0.5, -0.1);
    let mut mask = [1.0; 16];
    mask[11] = 0.2;
    // The suite's case adds a bias of 1.
    let r = run(op, &[x, w, f32s(&[1, 8, 2, 2], &offsets), f32s(&[1, 4, 2, 2], &mask)]);
    near(&r, &[1, 1, 2, 2], &[9.5, 11.9, 20.0, 18.4], 1e-6);
}

#[test]
fn fourier_transforms() {
    let op = |inverse, onesided| Host::Dft { inverse, onesided };
    let (none, axis) = (Tensor::ints(&[]), Tensor::scalar(-2i64));
    let x = f32s(&[1, 4, 1], &[1.0, 2.0, 3.0, 4.0]);
    let full = run(op(false, false), &[x.clone(), none.clone(), axis.clone()]);
    near(&full, &[1, 4, 2], &[10.0, 0.0, -2.0, 2.0, -2.0, 0.0, -2.0, -2.0], 1e-6);
    let back = run(op(true, false), &[full, none.clone(), axis.clone()]);
    near(&back, &[1, 4, 2], &[1.0, 0.0, 2.0, 0.0, 3.0, 0.0, 4.0, 0.0], 1e-6);
    let half = run(op(false, true), &[x.clone(), none.clone(), axis.clone()]);
    near(&half, &[1, 3, 2], &[10.0, 0.0, -2.0, 2.0, -2.0, 0.0], 1e-6);
    near(&run(op(true, true), &[half, none, axis.clone()]), &[1, 4, 1], &[1.0, 2.0, 3.0, 4.0], 1e-6);
    let short = run(op(false, true), &[x.clone(), Tensor::scalar(3i64), axis]);
    near(&short, &[1, 2, 2], &[6.0, 0.0, -1.5, 0.8660254], 1e-6);
    assert!(fails(op(false, false), &[x, Tensor::ints(&[]), Tensor::scalar(2i64)]).contains("axis 2"));
}

#[test]
fn transforms_of_frames() {
    let x = f32s(&[1, 5, 1], &[1.0, 2.0, 3.0, 4.0, 5.0]);
    let r = run(Host::Stft { onesided: true }, &[x.clone(), Tensor::scalar(2i64), f32s(&[2], &[1.0, 0.5])]);
    // Frames [1, 1] and [3, 2].
    near(&r, &[1, 2, 2, 2], &[2.0, 0.0, 0.0, 0.0, 5.0, 0.0, 1.0, 0.0], 1e-6);
    let zero_step = fails(Host::Stft { onesided: true }, &[x, Tensor::scalar(0i64), f32s(&[2], &[1.0, 1.0])]);
    assert!(zero_step.contains("steps of 0"));
}

#[test]
fn mel_weights() {
    let i = |v: i64| Tensor::scalar(v);
    let f = |v: f32| Tensor::scalar(v);
    let r = run(Host::MelWeightMatrix { dtype: DType::F32 }, &[i(8), i(16), i(8192), f(0.0), f(4096.0)]);
    let mut expected = vec![0.0; 72];
    for at in [0, 1, 10, 11, 20, 29, 38] {
        expected[at] = 1.0;
    }
    let values = r.to_f64s().unwrap();
    assert_eq!(values[..40], expected[..40]);
    let beyond = [i(8), i(16), i(8192), f(0.0), f(1e9)];
    assert!(fails(Host::MelWeightMatrix { dtype: DType::F32 }, &beyond).contains("exceed"));
}

#[test]
fn strings_split_and_match() {
    let split = |delimiter: &str, max_splits, x: Tensor| {
        let r = run_all(Host::StringSplit { delimiter: delimiter.into(), max_splits }, &[x]);
        (r[0].dims().to_vec(), r[0].as_strings().to_vec(), r[1].to_ints().unwrap())
    };
    let (dims, pieces, counts) = split("", Some(2), words(&[2], &["  o n  n x ", "def.net"]));
    assert_eq!((dims, counts), (vec![2, 3], vec![3, 1]));
    assert_eq!(pieces, ["o", "n", "n x ", "def.net", "", ""]);
    let (_, pieces, counts) = split("-", None, words(&[1], &["a--b-"]));
    assert_eq!((pieces, counts), (vec!["a".into(), String::new(), "b".into(), String::new()], vec![4]));
    assert_eq!(split("", None, words(&[0], &[])).0, [0, 0]);
    let found = |pattern: &str| {
        let r =
            run(Host::RegexFullMatch { pattern: pattern.into() }, &[words(&[2], &["www.google.com", "a"])]);
        r.bytes().to_vec()
    };
    assert_eq!(found(r"www\.[\w.-]+\.\bcom\b"), [1, 0]);
    assert_eq!(found("a|www"), [0, 1]);
    let bad = Host::RegexFullMatch { pattern: "(".into() };
    assert!(fails(bad, &[words(&[0], &[])]).contains("pattern"));
}

#[test]
fn strings_normalize() {
    let stop = |case, case_sensitive, x: Tensor| {
        let stopwords = vec!["monday".to_owned()];
        run(Host::StringNormalize { case, case_sensitive, stopwords }, &[x])
    };
    let days = words(&[3], &["Monday", "monday", "tuesday"]);
    same(&stop(TextCase::Upper, true, days.clone()), &words(&[2], &["MONDAY", "TUESDAY"]));
    same(&stop(TextCase::Keep, false, days), &words(&[1], &["tuesday"]));
    same(&stop(TextCase::Lower, true, words(&[1, 1], &["monday"])), &words(&[1, 1], &[""]));
}

#[test]
fn n_grams() {
    let op = |weighting, min_length, max_skip| Host::NgramCounts {
        weighting,
        min_length,
        max_length: 2,
        max_skip,
        starts: vec![0, 4],
        columns: vec![0, 1, 2, 3, 4, 5, 6],
        pool: Tensor::ints(&[2, 3, 5, 4, 5, 6, 7, 8, 6, 7]),
        weights: vec![Float::new(2.0); 7],
    };
    let x = Tensor::ints(&[1, 1, 3, 3, 3, 7, 8, 6, 7, 5, 6, 8]);
    let r = run(op(NgramWeight::Count, 1, 5), &[x.clone()]);
    same(&r, &f32s(&[7], &[0.0, 3.0, 1.0, 0.0, 1.0, 3.0, 1.0]));
    let r = run(op(NgramWeight::CountTimesWeight, 2, 0), &[x.clone()]);
    same(&r, &f32s(&[7], &[0.0, 0.0, 0.0, 0.0, 2.0, 2.0, 2.0]));
    let r = run(op(NgramWeight::Weight, 1, 5), &[x.reshaped(&[1, 12]).unwrap()]);
    same(&r, &f32s(&[1, 7], &[0.0, 2.0, 2.0, 0.0, 2.0, 2.0, 2.0]));
}

#[test]
fn lookups() {
    let op = Host::Lookup {
        keys: words(&[2], &["b", "a"]),
        values: Tensor::ints(&[1, 2]),
        default: Tensor::ints(&[-1]),
    };
    same(&run(op, &[words(&[3], &["a", "c", "b"])]), &Tensor::ints(&[2, -1, 1]));
    let op = Host::Lookup {
        keys: f32s(&[2], &[f64::NAN, 1.0]),
        values: words(&[2], &["nan", "one"]),
        default: words(&[1], &["none"]),
    };
    same(&run(op, &[f32s(&[3], &[1.0, f64::NAN, 2.0])]), &words(&[3], &["one", "nan", "none"]));
}

#[test]
fn inverses_of_matrices() {
    let x = f32s(&[2, 2, 2], &[0.0, 2.0, 4.0, 0.0, 1.0, 1.0, 0.0, 1.0]);
    let wanted = f32s(&[2, 2, 2], &[0.0, 0.25, 0.5, 0.0, 1.0, -1.0, 0.0, 1.0]);
    same(&run(Host::Inverse {}, &[x]), &wanted);
    same(&run(Host::Inverse {}, &[f32s(&[0, 0], &[])]), &f32s(&[0, 0], &[]));
    assert!(fails(Host::Inverse {}, &[f32s(&[2, 2], &[1.0, 2.0, 2.0, 4.0])]).contains("no inverse"));
    assert!(fails(Host::Inverse {}, &[f32s(&[1, 2], &[1.0, 2.0])]).contains("square"));
}
