//! Model files for benches.

use std::path::{Path, PathBuf};

use kiln::loaders::npz;
use kiln::runtime::Datum;
use kiln::runtime::program::Entry;

use crate::Result;
use crate::machine::is_wanted;

/// A model file with the file of its inputs, if it has one.
pub struct ModelFile {
    /// Its name.
    pub name: String,
    /// The model.
    pub model: PathBuf,
    /// Its inputs as `.npz`.
    pub inputs: Option<PathBuf>,
}

impl ModelFile {
    /// Values for an entry's inputs: of the file, or else made up.
    pub fn inputs(&self, entry: &Entry) -> Result<Vec<Datum>> {
        let Some(file) = &self.inputs else {
            let ports = entry.inputs.iter().map(|port| (port.name.as_str(), &port.ty));
            return Ok(kiln::sample_inputs(ports, 1)?.into_iter().map(Datum::Tensor).collect());
        };
        let arrays = npz::read(file)?;
        let value = |name: &str| {
            let found = arrays.iter().find(|(known, _)| known == name).map(|(_, tensor)| tensor.clone());
            found.map(Datum::Tensor).ok_or_else(|| format!("{}: no array `{name}`", file.display()).into())
        };
        entry.inputs.iter().map(|port| value(&port.name)).collect()
    }
}

/// The wanted models of the folder `KILN_ZOO`, by name; none without it.
pub fn models() -> Result<Vec<ModelFile>> {
    let Some(folder) = std::env::var_os("KILN_ZOO").map(PathBuf::from) else {
        println!("KILN_ZOO names no folder of models: `cargo xtask zoo target/zoo` writes one");
        return Ok(vec![]);
    };
    // Benches run in the folder of their package.
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let folder = if folder.is_dir() { folder } else { root.join(folder) };
    let mut models = vec![];
    for file in std::fs::read_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))? {
        let model = file?.path();
        let Some(name) = model.file_name().and_then(|name| name.to_str()?.strip_suffix(".onnx")) else {
            continue;
        };
        let inputs = Some(model.with_file_name(format!("{name}.in.npz"))).filter(|file| file.is_file());
        if is_wanted(name) {
            models.push(ModelFile { name: name.to_owned(), inputs, model: model.clone() });
        }
    }
    models.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(models)
}

/// The small model of the repository.
pub fn digits() -> ModelFile {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/digits/digits.onnx");
    ModelFile { name: "digits".to_owned(), model, inputs: None }
}
