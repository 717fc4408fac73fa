//! Entries of an archive: the program, and tensors as views of the map.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use kiln_ir::{DType, Tensor};
use rustc_hash::FxHashMap;
use serde::de::DeserializeOwned;

use super::FORMAT;
use super::program::{Payload, Payloads, Program, SymInt, TensorMeta};
use crate::checkpoint::zip::{Archive, ZipError};
use crate::checkpoint::{self, ByteOrder, Checkpoint, CheckpointTensor, Element, Storage};
use crate::detect::Format;
use crate::{Limits, LoadError};

/// The element type that a number of the schema stands for (`schema.ScalarType`).
pub(super) fn element_type(code: i64) -> Option<DType> {
    Some(match code {
        1 => DType::U8,
        2 => DType::I8,
        3 => DType::I16,
        4 => DType::I32,
        5 => DType::I64,
        6 => DType::F16,
        7 => DType::F32,
        8 => DType::F64,
        10 => DType::C64,
        11 => DType::C128,
        12 => DType::Bool,
        13 => DType::BF16,
        28 => DType::U16,
        29 => DType::F8E4M3FN,
        30 => DType::F8E5M2,
        31 => DType::F8E4M3FNUZ,
        32 => DType::F8E5M2FNUZ,
        33 => DType::F8E8M0,
        34 => DType::U32,
        35 => DType::U64,
        _ => return None,
    })
}

/// Bytes of JSON a byte of structures comes from, at least.
const STRUCTURE_PER_BYTE: usize = 8;

/// Where the tensors of an archive are.
enum Tensors {
    /// Entries of raw bytes.
    Raw { weights: Payloads, constants: Payloads },
    /// Files of `torch.save` in it, as torch wrote before 2.8: the state dict and the constants.
    Saved(Vec<Checkpoint>),
}

/// The program of an archive that torch wrote before 2.8.
const OLD_PROGRAM: &str = "serialized_exported_program.json";

/// The tensors of such an archive.
const OLD_TENSORS: [&str; 2] = ["serialized_state_dict.pt", "serialized_constants.pt"];

/// An open archive.
pub(super) struct Package {
    file: String,
    zip: Archive,
    /// The folder that all entries are in, with its slash.
    root: String,
    /// The entry that the program is.
    program: String,
    tensors: Tensors,
    order: ByteOrder,
    storages: RefCell<FxHashMap<String, Arc<Storage>>>,
    /// Most bytes of a text.
    text: usize,
    /// How many bytes all tensors that do not lie in the file as they are may take from here on.
    copies: Cell<usize>,
    /// Where the file is in memory.
    mapped: Range<usize>,
}

impl Package {
    /// Opens an archive that has one program.
    pub(super) fn open(file: &str, bytes: bytes::Bytes, limits: &Limits) -> Result<Package, LoadError> {
        let size = bytes.len();
        let mapped = range_of(&bytes);
        let malformed =
            |reason: String| LoadError::Malformed { path: file.to_owned(), format: FORMAT, reason };
        let zip = Archive::open(bytes).map_err(|e| malformed(e.to_string()))?;
        let old = zip.names().find_map(|name| {
            let root = name.strip_suffix(OLD_PROGRAM)?;
            (root.is_empty() || root.find('/') == Some(root.len() - 1)).then(|| root.to_owned())
        });
        let is_old = old.is_some();
        let programs: Vec<(String, String)> = zip
            .names()
            .filter_map(|name| {
                let (folder, rest) = name.split_once("models/")?;
                let model = rest.strip_suffix(".json")?;
                let at_root = folder.is_empty() || folder.find('/') == Some(folder.len() - 1);
                (at_root && !model.contains('/')).then(|| (folder.to_owned(), model.to_owned()))
            })
            .collect();
        let (root, model) = match (old, programs.as_slice()) {
            (Some(root), _) => (root, String::new()),
            (None, [one]) => one.clone(),
            (None, []) => return Err(malformed("it has no program `models/*.json`".to_owned())),
            (None, many) => return Err(malformed(format!("it has {} programs, expected one", many.len()))),
        };
        let mut package = Package {
            file: file.to_owned(),
            zip,
            root,
            program: if is_old { OLD_PROGRAM.to_owned() } else { format!("models/{model}.json") },
            tensors: Tensors::Saved(vec![]),
            order: ByteOrder::Little,
            storages: RefCell::default(),
            text: limits.structure_of(size) / STRUCTURE_PER_BYTE,
            copies: Cell::new(limits.structure_of(size).max(size)),
            mapped,
        };
        if package.text("byteorder").is_ok_and(|order| order.trim_ascii() == b"big") {
            package.order = ByteOrder::Big;
        }
        package.tensors = if is_old {
            // What is inside may ask for no more memory than the file itself.
            let inner = Limits { structure: Some(limits.structure_of(size)), ..limits.clone() };
            Tensors::Saved(package.saved(&inner)?)
        } else {
            let (weights, constants) =
                (package.payloads(&model, "weights")?, package.payloads(&model, "constants")?);
            Tensors::Raw { weights, constants }
        };
        Ok(package)
    }

    /// The tensors of an old archive. Entries that are empty hold none.
    fn saved(&self, limits: &Limits) -> Result<Vec<Checkpoint>, LoadError> {
        let mut found = vec![];
        for entry in OLD_TENSORS {
            let bytes = match self.zip.read(&format!("{}{entry}", self.root), self.copies.get()) {
                Ok(bytes) if bytes.is_empty() => continue,
                Ok(bytes) => bytes,
                Err(ZipError::Missing(_)) => continue,
                Err(error) => return Err(self.malformed(error.to_string())),
            };
            self.charge(&bytes, &self.mapped).map_err(|reason| self.malformed(reason))?;
            if !matches!(Format::of(&bytes), Some(Format::TorchZip | Format::Pickle)) {
                return Err(self.malformed(format!("`{entry}` is no file of `torch.save`")));
            }
            let name = format!("{}: {entry}", self.file);
            found.push(checkpoint::read(Path::new(&name), bytes, limits)?);
        }
        Ok(found)
    }

    fn malformed(&self, reason: String) -> LoadError {
        LoadError::Malformed { path: self.file.clone(), format: FORMAT, reason }
    }

    /// An entry below the root.
    fn text(&self, entry: &str) -> Result<bytes::Bytes, ZipError> {
        let bytes = self.zip.read(&format!("{}{entry}", self.root), self.text)?;
        if bytes.len() > self.text {
            let (entry, size) = (entry.to_owned(), bytes.len() as u64);
            return Err(ZipError::Limit { entry, size, limit: self.text });
        }
        Ok(bytes)
    }

    fn json<T: DeserializeOwned>(&self, entry: &str) -> Result<T, LoadError> {
        let bytes = self.text(entry).map_err(|e| match e {
            ZipError::Limit { limit, .. } => {
                LoadError::Limit { path: self.file.clone(), what: format!("`{entry}`, in bytes,"), limit }
            }
            other => self.malformed(other.to_string()),
        })?;
        serde_json::from_slice(&bytes).map_err(|e| self.malformed(format!("`{entry}`: {e}")))
    }

    fn payloads(&self, model: &str, folder: &str) -> Result<Payloads, LoadError> {
        let entry = format!("data/{folder}/{model}_{folder}_config.json");
        match self.text(&entry) {
            Err(ZipError::Missing(_)) => Ok(Payloads::default()),
            _ => self.json(&entry),
        }
    }

    /// The program.
    pub(super) fn program(&self) -> Result<Program, LoadError> {
        self.json(&self.program)
    }

    /// A parameter, a buffer or a constant by its name in the module.
    pub(super) fn tensor(&self, name: &str) -> Result<Tensor, String> {
        let missing = || "the archive has no tensor of that name".to_owned();
        match &self.tensors {
            Tensors::Raw { weights, constants } => {
                let found = weights.config.get(name).map(|payload| ("weights", payload));
                let found =
                    found.or_else(|| constants.config.get(name).map(|payload| ("constants", payload)));
                let (folder, payload) = found.ok_or_else(missing)?;
                self.payload(folder, payload)
            }
            Tensors::Saved(files) => {
                let tensor = files.iter().find_map(|file| file.get(name)).ok_or_else(missing)?;
                if tensor.quantization.is_some() {
                    return Err("it is quantized".to_owned());
                }
                let held = tensor.view().map_or(0..0, |view| range_of(&view.storage.bytes));
                let found = tensor.to_tensor(self.copies.get()).map_err(|e| e.to_string())?;
                self.charge(found.bytes(), &held)?;
                Ok(found)
            }
        }
    }

    fn payload(&self, folder: &str, payload: &Payload) -> Result<Tensor, String> {
        if payload.use_pickle {
            return Err("it is pickled, which takes Python to read".to_owned());
        }
        let meta = payload.tensor_meta.as_ref().ok_or("it is an object, not a tensor")?;
        let TensorMeta { dtype, sizes, strides, storage_offset, layout } = meta;
        let dtype = element_type(*dtype).ok_or_else(|| format!("element type {dtype}"))?;
        if layout.is_some_and(|layout| layout != 7) {
            return Err("it is not strided".to_owned());
        }
        let sizes = sizes.iter().map(constant).collect::<Option<Vec<_>>>().ok_or("a size is no number")?;
        let strides =
            strides.iter().map(constant).collect::<Option<Vec<_>>>().ok_or("a stride is no number")?;
        let offset = constant(storage_offset).ok_or("the offset is no number")?;
        let storage = self.storage(folder, &payload.path_name)?;
        let element = Element::Plain(dtype);
        let tensor = CheckpointTensor::strided(element, sizes, strides, offset, storage.clone());
        let held = range_of(&storage.bytes);
        let tensor = tensor.and_then(|t| t.to_tensor(self.copies.get())).map_err(|e| e.to_string())?;
        self.charge(tensor.bytes(), &held)?;
        Ok(tensor)
    }

    /// Counts bytes that are no part of `held`.
    fn charge(&self, bytes: &[u8], held: &Range<usize>) -> Result<(), String> {
        let own = range_of(bytes);
        if bytes.is_empty() || (held.start <= own.start && own.end <= held.end) {
            return Ok(());
        }
        let left = self.copies.get().checked_sub(bytes.len());
        self.copies.set(left.unwrap_or(0));
        left.map(|_| ()).ok_or_else(|| "copies of tensors take more memory than the limit".to_owned())
    }

    /// The bytes of an entry; tensors of one entry share them.
    fn storage(&self, folder: &str, entry: &str) -> Result<Arc<Storage>, String> {
        let path = format!("{}data/{folder}/{entry}", self.root);
        if let Some(storage) = self.storages.borrow().get(&path) {
            return Ok(storage.clone());
        }
        let bytes = self.zip.read(&path, self.copies.get()).map_err(|e| e.to_string())?;
        self.charge(&bytes, &self.mapped)?;
        let storage = Arc::new(Storage { name: path.clone(), bytes, order: self.order });
        self.storages.borrow_mut().insert(path, storage.clone());
        Ok(storage)
    }
}

/// Where bytes are in memory.
fn range_of(bytes: &[u8]) -> Range<usize> {
    let start = bytes.as_ptr().addr();
    start..start.saturating_add(bytes.len())
}

fn constant(size: &SymInt) -> Option<usize> {
    match size {
        SymInt::AsInt(value) => usize::try_from(*value).ok(),
        SymInt::AsExpr(_) => None,
    }
}
