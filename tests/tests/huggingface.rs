//! Folders of Hugging Face's libraries, a family each, with what the libraries computed: `models/huggingface/make.py pack`
//! wrote them. `cargo xtask huggingface` compares many more.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use kiln::Options;
use kiln::loaders::{LoadError, NewWeights, npz};
use kiln::runtime::{Datum, Session, SessionOptions};

/// Fewer mean that fixtures are missing.
const FOLDERS: usize = 12;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/huggingface")
}

fn session(folder: &Path, options: &Options) -> Result<Session, kiln::Error> {
    let session = SessionOptions { threads: Some(1), ..SessionOptions::default() };
    kiln::open_session(&folder.join("model"), options, session)
}

/// The largest difference of a case; elements that are expected to be NaN are not compared.
fn difference(session: &Session, folder: &Path, number: usize) -> Result<Option<f64>, Box<dyn Error>> {
    let file = |what: &str| folder.join(format!("{number}.{what}.npz"));
    if !file("in").is_file() {
        return Ok(None);
    }
    let (given, expected) = (npz::read(&file("in"))?, npz::read(&file("out"))?);
    let entry = session.entries().first().ok_or("there is no entry")?.clone();
    let mut inputs = vec![];
    for port in &entry.inputs {
        let found = given.iter().find(|(name, _)| *name == port.name);
        let (_, tensor) = found.ok_or_else(|| format!("no value for `{}`", port.name))?;
        inputs.push(Datum::Tensor(tensor.clone()));
    }
    let outputs = session.run(&entry.name, &inputs)?;
    assert_eq!(outputs.len(), expected.len(), "{}", folder.display());
    let mut worst = 0.0f64;
    for (port, output) in entry.outputs.iter().zip(outputs) {
        let found = expected.iter().find(|(name, _)| *name == port.name);
        let (_, wanted) = found.ok_or_else(|| format!("no answer for `{}`", port.name))?;
        let output = output.into_tensor().ok_or("the output is no tensor")?;
        assert_eq!(output.dims(), wanted.dims(), "{}: `{}`", folder.display(), port.name);
        let (a, b) = (output.to_f64s().ok_or("no numbers")?, wanted.to_f64s().ok_or("no numbers")?);
        for (a, b) in a.iter().zip(&b).filter(|(_, b)| !b.is_nan()) {
            worst = worst.max(if a.is_nan() { f64::INFINITY } else { (a - b).abs() });
        }
    }
    Ok(Some(worst))
}

#[test]
fn answers_are_those_of_the_libraries() -> Result<(), Box<dyn Error>> {
    let mut folders = vec![];
    for entry in fs::read_dir(fixtures())? {
        let path = entry?.path();
        if path.is_dir() {
            folders.push(path);
        }
    }
    folders.sort();
    assert!(folders.len() >= FOLDERS, "there are {} folders", folders.len());
    for folder in folders {
        let session = session(&folder, &Options::default())?;
        let mut cases = 0;
        while let Some(worst) = difference(&session, &folder, cases)? {
            assert!(worst <= 1e-4, "{}: case {cases} differs by {worst:e}", folder.display());
            cases += 1;
        }
        assert!(cases > 0, "{}: no cases", folder.display());
    }
    Ok(())
}

/// More places than the model has positions fail the run.
#[test]
fn longer_inputs_than_positions_fail() -> Result<(), Box<dyn Error>> {
    let session = session(&fixtures().join("bert-mlm"), &Options::default())?;
    let entry = session.entries().first().ok_or("there is no entry")?.clone();
    let input = kiln::ir::Tensor::from_slice(&[1, 41], &[1i64; 41])?;
    let inputs = vec![Datum::Tensor(input); entry.inputs.len()];
    assert!(session.run(&entry.name, &inputs).is_err());
    Ok(())
}

/// The weights of another folder take the place of its own, under the names that rules give them.
#[test]
fn weights_come_from_elsewhere() -> Result<(), Box<dyn Error>> {
    let folder = fixtures().join("bert-mlm");
    let file = folder.join("model/model.safetensors");
    let weights = |rules: &[&str]| -> Result<NewWeights, String> {
        let rules = rules.iter().map(|rule| rule.parse()).collect::<Result<_, _>>()?;
        Ok(NewWeights { file: file.clone(), rules, partial: false })
    };
    let options = Options { weights: Some(weights(&[])?), ..Options::default() };
    let session = session(&folder, &options)?;
    assert!(difference(&session, &folder, 0)?.is_some_and(|worst| worst <= 1e-4));
    let other = fixtures().join("distilbert/model");
    match kiln::load_with(&other, &options) {
        Err(kiln::Error::Load(LoadError::Weights { faults, .. })) => {
            assert!(faults.missing.iter().any(|(name, _)| name.ends_with("q_lin.weight")), "{faults}");
            assert!(!faults.unexpected.is_empty(), "{faults}");
        }
        other => return Err(format!("{other:?}").into()),
    }
    Ok(())
}
