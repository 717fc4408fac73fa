//! Untidy models load and compute, compiled as evaluated; more than 2 GB of weights are mapped, not copied.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};

use kiln::ir::{DType, Datum, Evaluator, Tensor};
use kiln::loaders::onnx::make::{graph, int, model, node, value};
use kiln::loaders::onnx::proto::{StringStringEntryProto, TensorProto};
use kiln::runtime::SessionOptions;
use kiln_tests::random_model::load;
use kiln_tests::untidy::all;
use prost::Message;

#[test]
fn all_load_and_compute() {
    let cases = all();
    assert!(cases.len() >= 26, "{} models", cases.len());
    for case in cases {
        let inputs: Vec<Datum> = case.inputs.iter().map(|(_, t)| Datum::Tensor(t.clone())).collect();
        let run = |model| {
            let module = load(model).unwrap_or_else(|e| panic!("{}: {e}", case.name));
            let evaluated = Evaluator::new(&module).run(module.entries()[0], &inputs);
            (evaluated.unwrap_or_else(|e| panic!("{}: {e}", case.name)), module)
        };
        let (evaluated, module) = run(&case.model);
        if let Some(tidy) = &case.tidy {
            assert_eq!(run(tidy).0, evaluated, "{}: as if it were tidy", case.name);
        }
        let entry = module.graph(module.entries()[0]).name().to_owned();
        let compiled = kiln::compile(module, &kiln::Options::default());
        let compiled = compiled.unwrap_or_else(|e| panic!("{}: {e}", case.name));
        let session = compiled.into_session(SessionOptions { threads: Some(1), ..Default::default() });
        let got = session.and_then(|s| Ok(s.run(&entry, &inputs)?));
        let got = got.unwrap_or_else(|e| panic!("{}: {e}", case.name));
        for (got, want) in got.iter().zip(&evaluated) {
            let difference = kiln::check::compare(got, want).relative();
            assert!(difference < 1e-6, "{}: {difference:e}", case.name);
        }
    }
}

/// Rows and columns of a weight of more than 2 GB.
const ROWS: usize = 2_300;
const COLUMNS: usize = 1_000_000;

#[test]
fn weights_beyond_2_gb_are_mapped() {
    let folder = std::env::temp_dir().join(format!("kiln-large-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    // A file with a hole takes no space.
    let mut file = File::create(folder.join("weights.bin")).unwrap();
    file.set_len((ROWS * COLUMNS) as u64).unwrap();
    file.seek(SeekFrom::Start(((ROWS - 1) * COLUMNS) as u64)).unwrap();
    file.write_all(&[7, 8, 9]).unwrap();
    drop(file);
    let entry =
        |key: &str, value: &str| StringStringEntryProto { key: key.to_owned(), value: value.to_owned() };
    let weight = TensorProto {
        name: "w".to_owned(),
        dims: vec![ROWS as i64, COLUMNS as i64],
        data_type: 2,
        data_location: 1,
        external_data: vec![entry("location", "weights.bin")],
        ..TensorProto::default()
    };
    let nodes = vec![node("Gather", &["w", "x"], &["y"], vec![int("axis", 0)])];
    let mut g = graph(nodes, vec![value("x", DType::I64, &[1])], &["y"]);
    g.initializer = vec![weight];
    let path = folder.join("model.onnx");
    fs::write(&path, model(17, g).encode_to_vec()).unwrap();

    let before = resident_mebibytes();
    let session = kiln::open_session(&path, &kiln::Options::default(), SessionOptions::default()).unwrap();
    let loaded = resident_mebibytes() - before;
    let at = Datum::Tensor(Tensor::ints(&[ROWS as i64 - 1]));
    let outputs = session.run(&session.entries()[0].name, &[at]).unwrap();
    let _ = fs::remove_dir_all(&folder);
    let Datum::Tensor(row) = &outputs[0] else { panic!("a row is a tensor") };
    assert_eq!(row.dims(), [1, COLUMNS]);
    assert_eq!(row.bytes()[..4], [7, 8, 9, 0]);
    assert!(loaded < 256.0, "loading took {loaded:.0} MiB");
}

/// Resident memory of this process; 0 where the system does not tell.
fn resident_mebibytes() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    let kib = line.and_then(|l| l.split_whitespace().next()).and_then(|n| n.parse::<f64>().ok());
    kib.unwrap_or(0.0) / 1024.0
}
