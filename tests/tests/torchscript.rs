//! Whole TorchScript models, compiled: a voice detector that keeps its state itself, and the model zoo's traced ones.

use std::path::{Path, PathBuf};

use kiln::ir::Tensor;
use kiln::loaders::npz;
use kiln::runtime::{Datum, Session, SessionOptions};
use kiln::{Options, ShapeOverride};

/// A real file that tests share; `None`, loudly, where there is none, which fails in CI.
fn fixture(name: &str) -> Option<PathBuf> {
    let root = match std::env::var_os("KILN_FIXTURES") {
        Some(root) => PathBuf::from(root),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/fixtures"),
    };
    let path = root.join(name);
    if path.exists() {
        return Some(path);
    }
    assert!(std::env::var("CI").as_deref() != Ok("true"), "fixture {} is missing", path.display());
    eprintln!("IGNORED: fixture {} is missing; set KILN_FIXTURES", path.display());
    None
}

fn open(path: &Path, shapes: &[&str], arguments: &[(&str, &str)]) -> Session {
    let shapes: Vec<ShapeOverride> = shapes.iter().map(|s| s.parse().unwrap()).collect();
    let arguments = arguments.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    let options = Options { shapes, arguments, ..Options::default() };
    let session = SessionOptions { threads: Some(1), ..SessionOptions::default() };
    kiln::open_session(path, &options, session).unwrap_or_else(|e| panic!("{e}"))
}

/// The samples of a 16-bit mono WAV file whose data is all that follows its header.
fn samples(path: &Path) -> Vec<f32> {
    let bytes = std::fs::read(path).unwrap();
    let at = bytes.windows(4).position(|w| w == b"data").unwrap() + 8;
    bytes[at..].chunks_exact(2).map(|s| f32::from(i16::from_le_bytes([s[0], s[1]])) / 32768.0).collect()
}

/// New samples of a chunk.
const CHUNK: usize = 512;

/// Runs the detector over the recording; gives the greatest difference from the reference.
fn detect(session: &Session, rate: Option<i64>, samples: &[f32], expected: &[f32]) -> f32 {
    let mut worst = 0f32;
    for (chunk, &expected) in samples.chunks_exact(CHUNK).zip(expected) {
        let mut inputs = vec![Datum::from(Tensor::from_slice(&[1, CHUNK], chunk).unwrap())];
        inputs.extend(rate.map(|r| Datum::from(Tensor::scalar(r))));
        let results = session.run("forward", &inputs).unwrap_or_else(|e| panic!("{e}"));
        let found = results[0].as_tensor().unwrap().to_vec::<f32>().unwrap();
        worst = worst.max((found[0] - expected).abs());
    }
    worst
}

fn golden() -> Option<(PathBuf, Vec<f32>, Vec<f32>)> {
    let model = fixture("silero_vad/silero_vad.jit")?;
    let recording = samples(&fixture("silero_vad/speech_16k.wav")?);
    let arrays = npz::read(&fixture("silero_vad/golden_16k.npz")?).unwrap();
    let prob = arrays.iter().find(|(name, _)| name == "prob").unwrap().1.to_vec::<f32>().unwrap();
    assert_eq!(prob.len(), 1875);
    Some((model, recording, prob))
}

#[test]
fn a_voice_detector_keeps_its_state() {
    let Some((model, recording, expected)) = golden() else { return };
    let session = open(&model, &["x=1,512"], &[("sr", "16000")]);
    let worst = detect(&session, None, &recording, &expected);
    assert!(worst < 1e-4, "{worst}");
    // From the start again, after the model's own method.
    session.run("reset_states", &[]).unwrap();
    let worst = detect(&session, None, &recording[..CHUNK * 20], &expected[..20]);
    assert!(worst < 1e-4, "after a reset: {worst}");
}

#[test]
fn a_voice_detector_takes_its_rate_at_run_time() {
    let Some((model, recording, expected)) = golden() else { return };
    let session = open(&model, &["x=1,512"], &[]);
    let worst = detect(&session, Some(16_000), &recording[..CHUNK * 100], &expected[..100]);
    assert!(worst < 1e-4, "{worst}");
    let chunk = Tensor::from_slice(&[1, CHUNK], &recording[..CHUNK]).unwrap();
    let error = session.run("forward", &[chunk.into(), Tensor::scalar(11_025i64).into()]).unwrap_err();
    let message = "Supported sampling rates: [8000, 16000] (or multiply of 16000)";
    assert!(error.to_string().contains(message), "{error}");
}

#[test]
fn a_wrong_chunk_has_the_models_own_message() {
    let Some((model, _, _)) = golden() else { return };
    let shapes = vec!["x=1,600".parse().unwrap()];
    let arguments = vec![("sr".to_owned(), "16000".to_owned())];
    let options = Options { shapes, arguments, ..Options::default() };
    let error = kiln::load_with(&model, &options).unwrap_err();
    assert!(error.to_string().contains("Provided number of samples is 600"), "{error}");
}

/// A traced model of the zoo gives what PyTorch gave.
fn traced(name: &str) {
    let zoo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/zoo");
    let model = zoo.join(format!("{name}.ts.pt"));
    if !model.exists() {
        eprintln!("IGNORED: {} is missing; `cargo xtask zoo` makes it", model.display());
        return;
    }
    let read = |what: &str| npz::read(&zoo.join(format!("{name}.{what}.npz"))).unwrap();
    let inputs: Vec<Datum> = read("in").into_iter().map(|(_, t)| t.into()).collect();
    let session = open(&model, &[], &[]);
    let found = session.run("forward", &inputs).unwrap_or_else(|e| panic!("{e}"));
    let (_, expected) = &read("out")[0];
    let found = found[0].as_tensor().unwrap();
    assert_eq!(found.dims(), expected.dims());
    let pairs = found.to_f64s().unwrap().into_iter().zip(expected.to_f64s().unwrap());
    let scale = expected.to_f64s().unwrap().into_iter().map(f64::abs).fold(1.0, f64::max);
    let worst = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(worst < 1e-4 * scale, "{worst}, of results up to {scale}");
}

macro_rules! zoo {
    ($($name:ident)*) => {$(
        #[test]
        fn $name() {
            traced(stringify!($name));
        }
    )*};
}

zoo! {
    bert_base_128
    efficientnet_b0
    minilm6_128
    mobilenet_v3_large
    resnet50
    vit_b_16
}
