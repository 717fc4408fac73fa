//! Runs a voice detector over a recording, chunk by chunk, its state carried from each to the next:
//!
//! `silero MODEL_OR_ARTIFACT RECORDING.wav OUT.npz [--threads N]`
//!
//! The recording is 16-bit mono at 16 kHz. A chunk is 512 samples after the last 64 of the chunk before (zeros first).
//! Writes `prob`, one probability a chunk, and `last_state`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use kiln::Options;
use kiln::ir::Tensor;
use kiln::loaders::npz;
use kiln::runtime::{Datum, Session, SessionOptions};

/// New samples of a chunk.
const CHUNK: usize = 512;
/// Samples of the chunk before that a chunk starts with.
const CONTEXT: usize = 64;
/// Samples a second.
const RATE: i64 = 16_000;

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("silero: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Failure> {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let mut threads = 1;
    if let Some(at) = args.iter().position(|a| a == "--threads") {
        threads = args.get(at + 1).ok_or("--threads takes a number")?.parse()?;
        args.drain(at..at + 2);
    }
    let [model, recording, out] = args.as_slice() else {
        return Err("usage: silero MODEL_OR_ARTIFACT RECORDING.wav OUT.npz [--threads N]".into());
    };
    let options = SessionOptions { threads: Some(threads), ..Default::default() };
    let session = kiln::open_session(Path::new(model), &Options::default(), options)?;
    let samples = samples(Path::new(recording))?;
    let (probabilities, state) = detect(&session, &samples)?;
    let prob = Tensor::from_slice(&[probabilities.len()], &probabilities)?;
    npz::write(&PathBuf::from(out), &[("prob".to_owned(), prob), ("last_state".to_owned(), state)])?;
    Ok(())
}

/// The samples of a 16-bit mono WAV file, scaled to [-1, 1).
fn samples(path: &Path) -> Result<Vec<f32>, Failure> {
    let bytes = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let mut at = 12;
    while let Some(header) = bytes.get(at..at + 8) {
        let len = usize::try_from(u32::from_le_bytes(header[4..8].try_into()?))?;
        if &header[..4] == b"data" {
            let data = bytes.get(at + 8..at + 8 + len).ok_or("the recording is truncated")?;
            return Ok(data
                .chunks_exact(2)
                .map(|s| f32::from(i16::from_le_bytes([s[0], s[1]])) / 32768.0)
                .collect());
        }
        at += 8 + len + len % 2;
    }
    Err(format!("{}: there is no data chunk", path.display()).into())
}

/// A probability a chunk, and the state after the last.
fn detect(session: &Session, samples: &[f32]) -> Result<(Vec<f32>, Tensor), Failure> {
    let entry = session.entries().first().ok_or("the model has no entry point")?;
    let mut state = Tensor::zeros(kiln::ir::DType::F32, &[2, 1, 128])?;
    let mut window = vec![0f32; CONTEXT + CHUNK];
    let mut probabilities = vec![];
    for chunk in samples.chunks_exact(CHUNK) {
        window.copy_within(CHUNK.., 0);
        window[CONTEXT..].copy_from_slice(chunk);
        let input = Tensor::from_slice(&[1, window.len()], &window)?;
        let mut values = vec![];
        for port in &entry.inputs {
            values.push(Datum::Tensor(match port.name.as_str() {
                "input" => input.clone(),
                "state" => state.clone(),
                "sr" => Tensor::scalar(RATE),
                other => return Err(format!("unexpected input `{other}`").into()),
            }));
        }
        let outputs = session.run(&entry.name, &values)?;
        for (port, value) in entry.outputs.iter().zip(outputs) {
            let tensor = value.into_tensor().ok_or("an output is no tensor")?;
            match port.name.as_str() {
                "output" => probabilities.extend(tensor.to_vec::<f32>()?),
                _ => state = tensor,
            }
        }
    }
    Ok((probabilities, state))
}
