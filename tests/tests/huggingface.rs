//! Folders of Hugging Face's libraries, a family each, with what the libraries computed: `models/huggingface/make.py pack`
//! wrote them. `cargo xtask huggingface` compares many more.

use std::error::Error;
use std::path::{Path, PathBuf};

use kiln::Options;
use kiln::loaders::{LoadError, NewWeights};
use kiln::runtime::Datum;
use kiln_tests::huggingface::{differences, folders, session};

/// Fewer mean that fixtures are missing.
const FOLDERS: usize = 12;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/huggingface")
}

#[test]
fn answers_are_those_of_the_libraries() -> Result<(), Box<dyn Error>> {
    let folders = folders(&fixtures())?;
    assert!(folders.len() >= FOLDERS, "there are {} folders", folders.len());
    for folder in folders {
        let found = differences(&session(&folder, &Options::default())?, &folder)?;
        assert!(!found.is_empty(), "{}: no cases", folder.display());
        assert!(found.iter().all(|&worst| worst <= 1e-4), "{}: {found:?}", folder.display());
    }
    Ok(())
}

/// More places than the model has positions fail the run.
#[test]
fn longer_inputs_than_positions_fail() -> Result<(), Box<dyn Error>> {
    let session = session(&fixtures().join("bert-mlm"), &Options::default())?;
    let entry = session.entries().first().ok_or("there is no entry")?.clone();
    for (length, fits) in [(40, true), (41, false)] {
        let input = kiln::ir::Tensor::from_slice(&[1, length], &vec![1i64; length])?;
        let inputs = vec![Datum::Tensor(input); entry.inputs.len()];
        assert_eq!(session.run(&entry.name, &inputs).is_ok(), fits, "{length}");
    }
    Ok(())
}

/// The weights of another file take the place of the folder's own.
#[test]
fn weights_come_from_elsewhere() -> Result<(), Box<dyn Error>> {
    let folder = fixtures().join("bert-mlm");
    let file = folder.join("model/model.safetensors");
    let weights = NewWeights { file, rules: vec![], partial: false };
    let options = Options { weights: Some(weights), ..Options::default() };
    let found = differences(&session(&folder, &options)?, &folder)?;
    assert!(found.iter().all(|&worst| worst <= 1e-4), "{found:?}");
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
