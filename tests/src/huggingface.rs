//! Folders of Hugging Face's libraries with what the libraries compute, as `models/huggingface/make.py` writes them:
//! `model/`, and `N.in.npz` and `N.out.npz` for each case.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use kiln::Options;
use kiln::loaders::npz;
use kiln::runtime::{Datum, Session, SessionOptions};

/// The folders below `root`, in order.
pub fn folders(root: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut folders = vec![];
    for entry in fs::read_dir(root)? {
        let path = entry?.path();
        if path.join("model").is_dir() {
            folders.push(path);
        }
    }
    folders.sort();
    Ok(folders)
}

/// Compiles the model of a folder.
pub fn session(folder: &Path, options: &Options) -> Result<Session, kiln::Error> {
    let session = SessionOptions { threads: Some(1), ..SessionOptions::default() };
    kiln::compile_file(&folder.join("model"), options)?.into_session(session)
}

/// The largest difference of each case of a folder; elements that are expected to be NaN are not compared.
pub fn differences(session: &Session, folder: &Path) -> Result<Vec<f64>, Box<dyn Error>> {
    let mut found = vec![];
    for number in 0.. {
        let file = |what: &str| folder.join(format!("{number}.{what}.npz"));
        if !file("in").is_file() {
            break;
        }
        found.push(difference(session, &npz::read(&file("in"))?, &npz::read(&file("out"))?)?);
    }
    Ok(found)
}

type Arrays = Vec<(String, kiln::ir::Tensor)>;

fn difference(session: &Session, given: &Arrays, expected: &Arrays) -> Result<f64, Box<dyn Error>> {
    let entry = session.entries().first().ok_or("there is no entry")?.clone();
    let mut inputs = vec![];
    for port in &entry.inputs {
        let found = given.iter().find(|(name, _)| *name == port.name);
        let (_, tensor) = found.ok_or_else(|| format!("no value for `{}`", port.name))?;
        inputs.push(Datum::Tensor(tensor.clone()));
    }
    let outputs = session.run(&entry.name, &inputs)?;
    if outputs.len() != expected.len() {
        return Err(format!("{} outputs, not {}", outputs.len(), expected.len()).into());
    }
    let mut worst = 0.0f64;
    for (port, output) in entry.outputs.iter().zip(outputs) {
        let found = expected.iter().find(|(name, _)| *name == port.name);
        let (_, wanted) = found.ok_or_else(|| format!("no answer for `{}`", port.name))?;
        let output = output.into_tensor().ok_or("the output is no tensor")?;
        if output.ty() != wanted.ty() {
            return Err(format!("`{}` is {}, not {}", port.name, output.ty(), wanted.ty()).into());
        }
        let (a, b) = (output.to_f64s().ok_or("no numbers")?, wanted.to_f64s().ok_or("no numbers")?);
        for (a, b) in a.iter().zip(&b).filter(|(_, b)| !b.is_nan()) {
            worst = worst.max(if a.is_nan() { f64::INFINITY } else { (a - b).abs() });
        }
    }
    Ok(worst)
}
