//! TorchScript programs: those beside this file, made by `torchscript/make.py`, and real ones.

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use common::{Folder, f32_bytes, fixture, safetensors};
use kiln_ir::eval::EvalError;
use kiln_ir::{DType, Datum, Dim, Evaluator, Module, Tensor, verify};
use kiln_loaders::{LoadError, LoadOptions, load};
use serde_json::Value as Json;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/torchscript")
}

fn options(shapes: &[(&str, &str)]) -> LoadOptions {
    let dims = |text: &str| {
        let parts = text.split(',').filter(|d| !d.is_empty());
        parts.map(|d| d.parse::<Dim>().unwrap()).collect()
    };
    let shapes = shapes.iter().map(|(name, text)| ((*name).to_owned(), dims(text))).collect();
    LoadOptions { shapes, ..LoadOptions::default() }
}

fn loaded(path: &Path, options: &LoadOptions) -> Module {
    let module = load(path, options).unwrap_or_else(|e| panic!("{e}"));
    verify(&module).unwrap_or_else(|e| panic!("{}: {}", path.display(), e[0]));
    module
}

/// Runs an entry by name.
fn call(
    ev: &mut Evaluator<'_>,
    module: &Module,
    name: &str,
    inputs: &[Datum],
) -> Result<Vec<Datum>, EvalError> {
    let entry = module.entries().iter().find(|&&id| module.graph(id).name() == name);
    ev.run(*entry.unwrap_or_else(|| panic!("no entry {name}")), inputs)
}

fn dtype(name: &str) -> DType {
    match name {
        "float32" => DType::F32,
        "float64" => DType::F64,
        "int64" => DType::I64,
        "bool" => DType::Bool,
        other => panic!("{other}"),
    }
}

/// A tensor as `make.py` writes it.
fn tensor(json: &Json) -> Tensor {
    let dims: Vec<usize> =
        json["shape"].as_array().unwrap().iter().map(|d| d.as_u64().unwrap() as usize).collect();
    let data = json["data"].as_array().unwrap();
    if json["dtype"] == "string" {
        return Tensor::strings(&dims, data.iter().map(|s| s.as_str().unwrap().to_owned()).collect())
            .unwrap();
    }
    let dtype = dtype(json["dtype"].as_str().unwrap());
    let scalars: Vec<kiln_ir::Scalar> = data
        .iter()
        .map(|v| match dtype {
            DType::Bool => kiln_ir::Scalar::B(v.as_f64().unwrap() != 0.0),
            DType::I64 => kiln_ir::Scalar::I(v.as_f64().unwrap() as i128),
            _ => kiln_ir::Scalar::F(v.as_f64().unwrap()),
        })
        .collect();
    Tensor::from_scalars(dtype, &dims, &scalars).unwrap()
}

fn close(found: &Datum, expected: &Tensor, place: &str) {
    let found = found.as_tensor().unwrap_or_else(|| panic!("{place}: no tensor"));
    assert_eq!((found.dtype(), found.dims()), (expected.dtype(), expected.dims()), "{place}");
    if found.dtype() == DType::String {
        assert_eq!(found, expected, "{place}");
        return;
    }
    let number = |s: kiln_ir::Scalar| match s {
        kiln_ir::Scalar::B(b) => f64::from(u8::from(b)),
        kiln_ir::Scalar::I(n) => n as f64,
        kiln_ir::Scalar::F(x) => x,
    };
    for i in 0..found.numel() {
        let (a, b) = (number(found.element(i).unwrap()), number(expected.element(i).unwrap()));
        assert!((a - b).abs() <= 1e-5 * b.abs().max(1.0), "{place}, element {i}: {a} and {b}");
    }
}

/// A program of this folder: every call gives what torch gave, or fails with torch's message.
fn check(name: &str) {
    let text = std::fs::read_to_string(folder().join(format!("{name}.json"))).unwrap();
    let case: Json = serde_json::from_str(&text).unwrap();
    let mut options = LoadOptions::default();
    for (input, dims) in case["shapes"].as_object().unwrap() {
        let dim = |d: &Json| match d.as_i64() {
            Some(n) => Dim::known(n),
            None => Dim::symbol(d.as_str().unwrap()),
        };
        options.shapes.insert(input.clone(), dims.as_array().unwrap().iter().map(dim).collect());
    }
    for (name, value) in case["arguments"].as_object().unwrap() {
        options.arguments.insert(name.clone(), value.as_str().unwrap().to_owned());
    }
    for (name, wanted) in case["dtypes"].as_object().unwrap() {
        options.dtypes.insert(name.clone(), dtype(wanted.as_str().unwrap()));
    }
    let path = folder().join(format!("{name}.pt"));
    if let Some(refused) = case["refused"].as_str() {
        let error = load(&path, &options).unwrap_err().to_string();
        return assert!(error.contains(refused), "{error:.300}");
    }
    let module = loaded(&path, &options);
    let mut ev = Evaluator::new(&module);
    for (i, c) in case["calls"].as_array().unwrap().iter().enumerate() {
        let inputs: Vec<Datum> = c["inputs"].as_array().unwrap().iter().map(|t| tensor(t).into()).collect();
        let place = format!("{name}, call {i}");
        let results = call(&mut ev, &module, c["method"].as_str().unwrap(), &inputs);
        match (results, c["error"].as_str()) {
            (Ok(results), None) => {
                let expected = c["outputs"].as_array().unwrap();
                assert_eq!(results.len(), expected.len(), "{place}");
                for (k, (found, expected)) in results.iter().zip(expected).enumerate() {
                    close(found, &tensor(expected), &format!("{place}, result {k}"));
                }
            }
            (Err(error), Some(message)) => assert!(error.to_string().contains(message), "{place}: {error}"),
            (Ok(_), Some(message)) => panic!("{place}: it should fail: {message}"),
            (Err(error), None) => panic!("{place}: {error}"),
        }
    }
}

macro_rules! programs {
    ($($name:ident: $file:literal;)*) => {$(
        #[test]
        fn $name() {
            check($file);
        }
    )*};
}

programs! {
    loops_of_run_time: "Loops";
    early_returns: "EarlyReturn";
    changes_in_place: "InPlace";
    containers: "Containers";
    named_tuples: "Named";
    growing_lists: "Grow";
    exceptions: "Raise";
    memory: "Memory";
    buffers: "Buffers";
    nested_modules: "Nested";
    writes_of_run_time: "Writes";
    scalars: "Scalars";
    aliases: "Aliases";
    bounds_from_the_end: "FromEnd";
    texts: "Texts";
    writes_of_diagonals: "Diagonal";
    writes_of_copies: "Transposed";
    writes_of_one_of_two: "OneOfTwo";
    writes_of_elements_of_run_time: "AtRunTime";
    writes_of_tensors_in_dicts: "InDict";
    writes_of_tensors_with_two_names: "TwoNames";
    lists_with_two_names: "TwoLists";
    keys_of_run_time: "KeyOfRunTime";
    places_of_text: "Find";
    comparisons_of_formatted_text: "Formatted";
    attributes_made_late: "Lazy";
    members_of_enumerations: "Enumerated";
    ranks_of_what_is_found: "SomeOrNone";
    wrong_on_one_path: "OnOnePath";
    spectra: "Spectrum";
    packed_sequences: "Packed";
}

/// Programs that no compiler writes: they end with an error, or load.
#[test]
fn hostile_programs() {
    for name in [
        "BlocksOnALine",
        "Lists",
        "LongTexts",
        "Tuples",
        "TuplesOfItems",
        "ListsInLists",
        "Raises",
        "Chunks",
        "SliceDepth",
    ] {
        let start = std::time::Instant::now();
        check_hostile(name);
        assert!(start.elapsed().as_secs() < 60, "{name}: {:?}", start.elapsed());
    }
}

fn check_hostile(name: &str) {
    let text = std::fs::read_to_string(folder().join(format!("{name}.json"))).unwrap();
    let case: Json = serde_json::from_str(&text).unwrap();
    let result = load(&folder().join(format!("{name}.pt")), &options(&[("x", "3")]));
    match (result, case["refused"].as_str()) {
        (Err(error), Some(refused)) => {
            let error = error.to_string();
            assert!(error.contains(refused), "{name}: {error:.300}");
        }
        (Ok(_), Some(_)) => panic!("{name} loads"),
        (_, None) => {}
    }
}

/// `Nested.pt` with the weights of a file: linear layers of the sizes 3 to 3 (two of them), 1 and 2.
fn with_weights(tensors: &[(&str, &str, &[usize], Vec<u8>)], rules: &[&str]) -> Result<Module, LoadError> {
    let folder = Folder::new("script-weights");
    let file = folder.path("new.safetensors");
    safetensors(&file, tensors);
    let rules = rules.iter().map(|rule| rule.parse().unwrap()).collect();
    let weights = kiln_loaders::NewWeights { file, rules, partial: false };
    load(
        &self::folder().join("Nested.pt"),
        &LoadOptions { weights: Some(weights), ..options(&[("x", "1,3")]) },
    )
}

#[test]
fn weights_take_the_place_of_parameters() {
    let zeros = |n: usize| f32_bytes(&vec![0.0; n]);
    let mut tensors: Vec<(&str, &str, &[usize], Vec<u8>)> = vec![
        ("net.layers.0.linear.weight", "F32", &[3, 3], zeros(9)),
        ("net.layers.0.linear.bias", "F32", &[3], zeros(3)),
        ("net.layers.1.linear.weight", "F32", &[3, 3], zeros(9)),
        ("net.layers.1.linear.bias", "F32", &[3], zeros(3)),
        ("net.heads.a.weight", "F32", &[1, 3], zeros(3)),
        ("net.heads.a.bias", "F32", &[1], f32_bytes(&[7.0])),
        ("net.heads.b.weight", "F32", &[2, 3], zeros(6)),
        ("net.heads.b.bias", "F32", &[2], f32_bytes(&[-2.0, 4.0])),
    ];
    let module = with_weights(&tensors, &["net.="]).unwrap_or_else(|e| panic!("{e}"));
    let found =
        call(&mut Evaluator::new(&module), &module, "forward", &[f32s(&[1, 3], &[1.0, 2.0, 3.0])]).unwrap();
    assert_eq!(found, [f32s(&[1, 1], &[7.0]), f32s(&[1, 2], &[-1.0, 2.0])]);
    tensors.remove(0);
    tensors.push(("net.more", "F32", &[1], zeros(1)));
    let error = with_weights(&tensors, &["net.="]).unwrap_err();
    let LoadError::Weights { faults, .. } = error else { panic!("{error}") };
    assert_eq!(faults.missing, [("layers.0.linear.weight".to_owned(), vec![3, 3])]);
    assert_eq!(faults.unexpected, ["net.more"]);
}

fn f32s(dims: &[usize], values: &[f32]) -> Datum {
    Tensor::from_slice(dims, values).unwrap().into()
}

/// Runs `forward` of a file of tch-rs, if it is here.
fn foo(name: &str, shapes: &[(&str, &str)], inputs: &[Datum]) -> Option<Vec<Datum>> {
    let path = fixture(&format!("torchscript/{name}.pt"))?;
    let module = loaded(&path, &options(shapes));
    Some(call(&mut Evaluator::new(&module), &module, "forward", inputs).unwrap_or_else(|e| panic!("{e}")))
}

fn number(v: f32) -> Datum {
    Tensor::scalar(v).into()
}

#[test]
fn files_of_tch() {
    let x = f32s(&[5], &[3.0, 1.0, 4.0, 1.0, 5.0]);
    let Some(found) = foo("foo", &[("x", "5"), ("y", "")], &[x, number(7.0)]) else { return };
    assert_eq!(found, [f32s(&[5], &[55.0, 51.0, 57.0, 51.0, 59.0])]);
    let scalars = [("x", ""), ("y", "")];
    let two = [number(42.0), number(1337.0)];
    assert_eq!(foo("foo1", &scalars, &two).unwrap(), [number(1421.0)]);
    assert_eq!(foo("foo2", &scalars, &two).unwrap(), [number(1421.0), number(-1295.0)]);
    let x = f32s(&[5], &[1.0, 2.0, 3.0, 4.0, 5.0]);
    for shape in ["5", "n"] {
        assert_eq!(foo("foo3", &[("x", shape)], std::slice::from_ref(&x)).unwrap(), [number(120.0)]);
    }
    let args = [Tensor::scalar(2f64).into(), Tensor::scalar(3f64).into(), Tensor::scalar(4i64).into()];
    assert_eq!(foo("foo4", &[], &args).unwrap(), [Tensor::scalar(14f64).into()]);
}

#[test]
fn text_as_data() {
    let text = |s: &str| Datum::from(Tensor::strings(&[], vec![s.to_owned()]).unwrap());
    let list = |items: &[&str]| {
        let items: Vec<Datum> = items.iter().map(|s| text(s)).collect();
        Datum::Sequence { element: items[0].ty(), items }
    };
    let Some(found) = foo("foo5", &[], &[list(&["foo", "bar", "foobar"])]) else { return };
    let Datum::Sequence { items, .. } = &found[0] else { panic!("{found:?}") };
    assert_eq!(items, &[text("fo"), text("ba"), text("fooba")]);
}

#[test]
fn objects_as_results() {
    let Some(path) = fixture("torchscript/foo6.pt") else { return };
    let module = loaded(&path, &options(&[("x", "3")]));
    let x = f32s(&[3], &[3.0, 4.0, 5.0]);
    let mut ev = Evaluator::new(&module);
    let attributes = call(&mut ev, &module, "forward", std::slice::from_ref(&x)).unwrap();
    let doubled = call(&mut ev, &module, "TorchScriptClass.y", &attributes).unwrap();
    assert_eq!(doubled, [f32s(&[3], &[6.0, 8.0, 10.0])]);
}

#[test]
fn shapes_are_asked_for() {
    let error = load(&folder().join("Loops.pt"), &LoadOptions::default()).unwrap_err();
    assert!(matches!(error, LoadError::Option { .. }), "{error}");
    assert!(error.to_string().contains("--shape x="), "{error}");
    let error = load(&folder().join("Loops.pt"), &options(&[("y", "2")])).unwrap_err();
    assert!(error.to_string().contains("no argument is named `y`"), "{error}");
}

#[test]
fn arguments_decide() {
    let mut options = options(&[("x", "2,3")]);
    options.arguments = BTreeMap::from([("n".to_owned(), "2".to_owned())]);
    let module = loaded(&folder().join("Loops.pt"), &options);
    assert_eq!(module.graph(module.entries()[0]).inputs().len(), 1);
}

/// The first chunks of a voice detector whose state is in the session, in the reference evaluator.
fn detected(options: &LoadOptions, rate: Option<i64>) {
    let (Some(path), Some(wav), Some(golden)) = (
        fixture("silero_vad/silero_vad.jit"),
        fixture("silero_vad/speech_16k.wav"),
        fixture("silero_vad/golden_16k.npz"),
    ) else {
        return;
    };
    let module = loaded(&path, options);
    let bytes = std::fs::read(wav).unwrap();
    let at = bytes.windows(4).position(|w| w == b"data").unwrap() + 8;
    let samples: Vec<f32> =
        bytes[at..].chunks_exact(2).map(|s| f32::from(i16::from_le_bytes([s[0], s[1]])) / 32768.0).collect();
    let arrays = kiln_loaders::npz::read(&golden).unwrap();
    let expected = arrays.iter().find(|(name, _)| name == "prob").unwrap().1.to_vec::<f32>().unwrap();
    let mut ev = Evaluator::new(&module);
    for (chunk, expected) in samples.chunks_exact(512).zip(expected).take(4) {
        let mut inputs = vec![f32s(&[1, 512], chunk)];
        inputs.extend(rate.map(|r| Datum::from(Tensor::scalar(r))));
        let found = call(&mut ev, &module, "forward", &inputs).unwrap_or_else(|e| panic!("{e}"));
        let found = found[0].as_tensor().unwrap().to_vec::<f32>().unwrap();
        assert!((found[0] - expected).abs() < 1e-4, "{} and {expected}", found[0]);
    }
    call(&mut ev, &module, "reset_states", &[]).unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn a_voice_detector_of_one_rate() {
    let mut options = options(&[("x", "1,512")]);
    options.arguments = BTreeMap::from([("sr".to_owned(), "16000".to_owned())]);
    detected(&options, None);
}

#[test]
fn a_voice_detector_of_any_rate() {
    detected(&options(&[("x", "1,512")]), Some(16_000));
}

#[test]
fn traced_models_load() {
    let zoo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/zoo");
    for name in
        ["resnet50", "vit_b_16", "bert_base_128", "efficientnet_b0", "minilm6_128", "mobilenet_v3_large"]
    {
        let path = zoo.join(format!("{name}.ts.pt"));
        if path.exists() {
            loaded(&path, &LoadOptions::default());
        }
    }
}
