//! Quantization of models in floats: the digits model end to end, errors of data that does not fit, layers that stay.

use std::path::{Path, PathBuf};

use kiln::agreement::Agreement;
use kiln::ir::{Build, DType, Datum, Dim, GraphBuilder, Module, Tensor, Type};
use kiln::loaders::npz;
use kiln::passes::quantize::Range;
use kiln::quantize::{Mode, Quantization, QuantizeReport, Quantized, quantize};
use kiln::runtime::SessionOptions;
use kiln::{Options, compile};
use proptest::prelude::*;

fn digits(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/digits").join(file)
}

/// Images and labels that training did not see.
fn test_data() -> (Tensor, Vec<i64>) {
    let arrays = npz::read(&digits("digits_test.npz")).unwrap();
    let find = |name: &str| arrays.iter().find(|(n, _)| n == name).unwrap().1.clone();
    (find("image"), find("label").to_ints().unwrap())
}

/// The module with its output for all images.
fn logits(module: Module, images: &Tensor) -> Tensor {
    let session = compile(module, &Options::default())
        .unwrap()
        .into_session(SessionOptions { threads: Some(1), ..Default::default() })
        .unwrap();
    let entry = session.entries()[0].name.clone();
    session.run(&entry, &[Datum::Tensor(images.clone())]).unwrap()[0].as_tensor().unwrap().clone()
}

/// The share of labels met, in percent.
fn accuracy(logits: &Tensor, labels: &[i64]) -> f64 {
    let values = logits.to_vec::<f32>().unwrap();
    let classes = *logits.dims().last().unwrap();
    let best = |row: &[f32]| row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map(|(i, _)| i as i64);
    let right = values.chunks(classes).zip(labels).filter(|(row, label)| best(row) == Some(**label)).count();
    100.0 * right as f64 / labels.len() as f64
}

/// A folder with the first images of the test set as calibration data, in one file.
fn calibration(count: usize) -> tempfile::TempDir {
    let (images, _) = test_data();
    let folder = tempfile::tempdir().unwrap();
    let each: usize = images.dims().iter().skip(1).product();
    let pixels = images.to_vec::<f32>().unwrap();
    let mut dims = images.dims().to_vec();
    dims[0] = count;
    let part = Tensor::from_slice(&dims, &pixels[..count * each]).unwrap();
    let name = kiln::load(&digits("digits.onnx"), &[]).unwrap();
    let name = name.graph(name.entries()[0]).input_names()[0].clone();
    npz::write(&folder.path().join("images.npz"), &[(name, part)]).unwrap();
    folder
}

fn run(mode: Mode, max_drop: Option<f64>) -> Quantized {
    let module = kiln::load(&digits("digits.onnx"), &[]).unwrap();
    quantize(module, &Options::default(), &Quantization { mode, max_drop }).unwrap()
}

fn agreement(a: &Tensor, b: &Tensor) -> Agreement {
    let mut all = Agreement::default();
    all.add(&Datum::Tensor(a.clone()), &Datum::Tensor(b.clone()));
    all
}

#[test]
fn digits_stay_readable() {
    let (images, labels) = test_data();
    let float = logits(kiln::load(&digits("digits.onnx"), &[]).unwrap(), &images);
    let folder = calibration(100);
    let modes = [Mode::Static { data: folder.path().to_owned() }, Mode::Dynamic { data: None }];
    for mode in modes {
        let Quantized { module, report, .. } = run(mode.clone(), None);
        assert!(report.quantized() >= 3 && report.bytes_after * 2 < report.bytes_before, "{report:?}");
        let found = logits(module, &images);
        let (before, after) = (accuracy(&float, &labels), accuracy(&found, &labels));
        assert!(before - after <= 0.3, "{mode:?}: {before} became {after}");
        assert!(agreement(&found, &float).cosine() > 0.995, "{mode:?}");
        assert_ne!(found.bytes(), float.bytes(), "nothing was quantized");
    }
}

#[test]
fn the_report_measures_what_it_says() {
    let folder = calibration(50);
    let Quantized { report, .. } = run(Mode::Static { data: folder.path().to_owned() }, None);
    assert_eq!((report.samples, report.held_out, report.shared_samples), (40, 10, false));
    let error = report.error().unwrap();
    assert!(error > 0.0 && error < 0.1, "{error}");
    for layer in &report.layers {
        let sqnr = layer.sqnr_db.unwrap();
        assert!((15.0..70.0).contains(&sqnr), "{layer:?}");
        assert!(layer.range.is_some() && layer.in_floats.is_none() && layer.weights > 0);
    }
}

#[test]
fn a_bound_on_the_error_keeps_layers_in_floats() {
    let folder = calibration(50);
    let mode = || Mode::Static { data: folder.path().to_owned() };
    let all = run(mode(), None).report;
    let bar = all.error().unwrap() / 2.0;
    let some = run(mode(), Some(bar)).report;
    assert!(some.error().unwrap() <= bar && some.quantized() < all.quantized());
    assert!(some.in_floats().iter().all(|(name, reason)| !name.is_empty() && !reason.is_empty()));
    // Nothing is left on integers where no error is accepted.
    let none = run(mode(), Some(0.0)).report;
    assert_eq!(none.quantized(), 0);
    assert!(none.error().unwrap() < 1e-5);
}

#[test]
fn a_model_without_layers_says_so() {
    let mut module = Module::new();
    let mut b = GraphBuilder::new(&mut module, "main");
    let x = b.input("x", Type::fixed(DType::F32, &[2, 3]));
    let w = b.input("w", Type::fixed(DType::F32, &[3, 2]));
    let y = b.einsum("mk,kn->mn", x, w).unwrap();
    b.output("y", y);
    let id = b.finish();
    module.add_entry(id);
    let quantization = Quantization { mode: Mode::Dynamic { data: None }, max_drop: None };
    let report: QuantizeReport = quantize(module, &Options::default(), &quantization).unwrap().report;
    assert_eq!((report.quantized(), report.layers.len()), (0, 0));
    assert_eq!(report.in_floats()[0].1, "neither operand is constant");
}

/// What quantizing a linear layer over `x: f32[N, 4]` with this data fails with.
fn failure(files: &[(&str, &[(&str, Tensor)])], single: bool) -> String {
    let mut module = Module::new();
    let mut b = GraphBuilder::new(&mut module, "main");
    let x = b.input("x", Type::tensor(DType::F32, vec![Dim::symbol("N"), Dim::known(4)]));
    let w: Vec<f32> = (0..32u8).map(|i| f32::from(i) / 16.0 - 1.0).collect();
    let w = b.constant(Tensor::from_slice(&[4, 8], &w).unwrap()).unwrap();
    let y = b.einsum("mk,kn->mn", x, w).unwrap();
    b.output("y", y);
    let id = b.finish();
    module.add_entry(id);
    let folder = tempfile::tempdir().unwrap();
    for (name, arrays) in files {
        let arrays: Vec<(String, Tensor)> =
            arrays.iter().map(|(n, t)| ((*n).to_owned(), t.clone())).collect();
        npz::write(&folder.path().join(name), &arrays).unwrap();
    }
    let data = if single { folder.path().join(files[0].0) } else { folder.path().to_owned() };
    let quantization = Quantization { mode: Mode::Static { data }, max_drop: None };
    match quantize(module, &Options::default(), &quantization) {
        Ok(_) => String::new(),
        Err(e) => e.to_string().replace(&folder.path().display().to_string(), "DATA"),
    }
}

fn floats(dims: &[usize], value: f32) -> Tensor {
    let count = dims.iter().product();
    Tensor::from_slice(dims, &vec![value; count]).unwrap()
}

#[test]
fn data_that_does_not_fit_is_named() {
    let good = || floats(&[2, 4], 1.0);
    let cases: &[(&[(&str, &[(&str, Tensor)])], bool, &str)] = &[
        (&[("a.npz", &[("x", good())])], false, ""),
        (&[], false, "DATA: there is no .npz file in the folder"),
        (&[("a.npz", &[("z", good())])], false, "DATA/a.npz: no input is named `z`; the inputs are `x`"),
        (
            &[("a.npz", &[("x", good())]), ("b.npz", &[])],
            false,
            "DATA/b.npz: there is no array for the input `x`: f32[N, 4]",
        ),
        (
            &[("a.npz", &[("x", floats(&[2, 5], 1.0))])],
            false,
            "DATA/a.npz: array `x` is f32[2, 5], the model takes f32[N, 4]: axis 1 has 5 elements, not 4",
        ),
        (
            &[("a.npz", &[("x", floats(&[4], 1.0))])],
            false,
            "DATA/a.npz: array `x` is f32[4], the model takes f32[N, 4]",
        ),
        (
            &[("a.npz", &[("x", Tensor::from_slice(&[1, 4], &[1i64; 4]).unwrap())])],
            false,
            "DATA/a.npz: array `x` is i64[1, 4], the model takes f32[N, 4]",
        ),
        (
            &[("a.npz", &[("x", floats(&[2, 4], f32::NAN))])],
            false,
            "DATA/a.npz: array `x`: element 0 is not finite",
        ),
        (&[("a.npz", &[("x", floats(&[0, 4], 0.0))])], false, "DATA/a.npz: array `x` has no elements"),
    ];
    for (files, single, expected) in cases {
        assert_eq!(failure(files, *single), *expected);
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("text.npz");
    std::fs::write(&path, "no archive").unwrap();
    let mode = |data: PathBuf| Mode::Static { data };
    let module = || kiln::load(&digits("digits.onnx"), &[]).unwrap();
    let error = |data: PathBuf| {
        let quantization = Quantization { mode: mode(data), max_drop: None };
        quantize(module(), &Options::default(), &quantization).unwrap_err().to_string()
    };
    assert!(error(path).contains("this is no .npz archive"));
    assert!(error(folder.path().join("missing")).contains("missing"));
}

proptest! {
    /// What lies in a range is met up to half a step, as much as the zero point's rounding shifts the ends.
    #[test]
    fn numbers_in_a_range_err_by_a_step(low in -1e6f64..1e6, width in 1e-3f64..1e6, at in 0.0f64..1.0) {
        let high = low + width;
        let range = Range::of(low, high);
        let v = low + at * width;
        let error = (v - range.rounded(v)).abs();
        prop_assert!(error <= f64::from(range.scale) * 1.01, "{v}: {error} of {}", range.scale);
        prop_assert_eq!(range.rounded(0.0), 0.0);
        // Quantized numbers stay.
        prop_assert!((range.rounded(range.rounded(v)) - range.rounded(v)).abs() < f64::from(range.scale) * 1e-3);
    }
}
