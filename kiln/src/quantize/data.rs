//! Calibration data: `.npz` files whose arrays are inputs by name.

use std::path::{Path, PathBuf};

use kiln_ir::{Bytes, Dim, Tensor, Type};
use kiln_loaders::npz::{self, ArrayError};
use kiln_runtime::Datum;

/// Why data cannot be used to calibrate or compare a model.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The path cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// File or folder.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A folder has no `.npz` files.
    #[error("{}: there is no .npz file in the folder", path.display())]
    Empty {
        /// The folder.
        path: PathBuf,
    },
    /// A file is damaged or no archive of arrays.
    #[error(transparent)]
    Array(#[from] ArrayError),
    /// A file is something else.
    #[error("{}: this is no .npz archive, which names the input that each array is for", path.display())]
    Format {
        /// The file.
        path: PathBuf,
    },
    /// An array has a name that no input has.
    #[error("{}: no input is named `{name}`; the inputs are {inputs}", path.display())]
    Unknown {
        /// The file.
        path: PathBuf,
        /// Name of the array.
        name: String,
        /// Names of the inputs.
        inputs: String,
    },
    /// An input has no array.
    #[error("{}: there is no array for the input `{name}`: {ty}", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// The input.
        name: String,
        /// Its type.
        ty: Box<Type>,
    },
    /// An array has another dtype or shape than the input.
    #[error("{}: array `{name}` is {found}, the model takes {ty}{why}", path.display())]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// The input.
        name: String,
        /// The array's type.
        found: String,
        /// The input's type.
        ty: Box<Type>,
        /// What does not fit, if the types do not show it.
        why: String,
    },
    /// An array holds NaN or infinity.
    #[error("{}: array `{name}`: element {index} is not finite", path.display())]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// The input.
        name: String,
        /// Position in row-major order.
        index: usize,
    },
    /// Arrays have no elements.
    #[error("{}: array `{name}` has no elements", path.display())]
    NoElements {
        /// The file.
        path: PathBuf,
        /// The input.
        name: String,
    },
}

/// An input: name and type.
type Port = (String, Type);

/// Files of samples that fit a model. They are read when they are needed, one at a time.
#[derive(Debug, Clone)]
pub struct Data {
    ports: Vec<Port>,
    /// Each file with its number of samples.
    files: Vec<(PathBuf, usize)>,
}

impl Data {
    /// Opens an `.npz` file, or all of a folder in the order of their names, and checks that all fit the inputs.
    ///
    /// A sample is one run's inputs. Where every array has, along its first axis, the same multiple of the input's size,
    /// or the inputs' first axes are the same symbol, the file holds that many samples.
    pub fn open(path: &Path, ports: Vec<Port>) -> Result<Self, DataError> {
        let io = |source| DataError::Io { path: path.to_owned(), source };
        let mut paths = vec![];
        if std::fs::metadata(path).map_err(io)?.is_dir() {
            for entry in std::fs::read_dir(path).map_err(io)? {
                let file = entry.map_err(io)?.path();
                if file.extension().is_some_and(|e| e.eq_ignore_ascii_case("npz")) {
                    paths.push(file);
                }
            }
            if paths.is_empty() {
                return Err(DataError::Empty { path: path.to_owned() });
            }
            paths.sort();
        } else {
            paths.push(path.to_owned());
        }
        let mut data = Data { ports, files: vec![] };
        for path in paths {
            let samples = data.read(&path)?.len();
            data.files.push((path, samples));
        }
        Ok(data)
    }

    /// How many samples there are.
    pub fn len(&self) -> usize {
        self.files.iter().map(|(_, n)| n).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Calls `visit` with the samples whose numbers `wanted` accepts, and the file that each is from.
    pub fn visit<E: From<DataError>>(
        &self,
        wanted: &dyn Fn(usize) -> bool,
        visit: &mut dyn FnMut(usize, &Path, &[Datum]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut number = 0;
        for (path, count) in &self.files {
            let numbers = number..number + count;
            number += count;
            if !numbers.clone().any(wanted) {
                continue;
            }
            for (n, sample) in numbers.zip(self.read(path)?).filter(|(n, _)| wanted(*n)) {
                visit(n, path, &sample)?;
            }
        }
        Ok(())
    }

    /// The samples of a file.
    fn read(&self, path: &Path) -> Result<Vec<Vec<Datum>>, DataError> {
        if npz::format(path)? != Some(npz::Format::Archive) {
            return Err(DataError::Format { path: path.to_owned() });
        }
        let arrays = npz::read(path)?;
        let has = |name: &str| self.ports.iter().any(|(n, _)| n == name);
        if let Some((name, _)) = arrays.iter().find(|(n, _)| !has(n)) {
            let inputs = self.ports.iter().map(|(n, _)| format!("`{n}`")).collect::<Vec<_>>().join(", ");
            return Err(DataError::Unknown { path: path.to_owned(), name: name.clone(), inputs });
        }
        let mut tensors = vec![];
        for (name, ty) in &self.ports {
            let found = arrays.iter().find(|(n, _)| n == name);
            let missing =
                || DataError::Missing { path: path.to_owned(), name: name.clone(), ty: Box::new(ty.clone()) };
            tensors.push(found.map(|(_, t)| t.clone()).ok_or_else(missing)?);
        }
        self.check(path, &tensors)?;
        let count = self.samples(path, &tensors)?;
        (0..count).map(|i| tensors.iter().map(|t| part(path, t, i, count)).collect()).collect()
    }

    /// Checks dtypes, ranks and numbers.
    fn check(&self, path: &Path, tensors: &[Tensor]) -> Result<(), DataError> {
        for ((name, ty), t) in self.ports.iter().zip(tensors) {
            let fits = ty.as_tensor().is_some_and(|ty| {
                ty.dtype == t.dtype() && ty.shape.rank().is_none_or(|rank| rank == t.dims().len())
            });
            if !fits {
                return Err(mismatch(path, name, ty, t, String::new()));
            }
            if t.numel() == 0 {
                return Err(DataError::NoElements { path: path.to_owned(), name: name.clone() });
            }
            let values = if t.dtype().is_float() { t.to_f64s().unwrap_or_default() } else { vec![] };
            if let Some(index) = values.iter().position(|v| !v.is_finite()) {
                return Err(DataError::NotFinite { path: path.to_owned(), name: name.clone(), index });
            }
        }
        Ok(())
    }

    /// How many samples arrays hold; an error if their dims fit no number.
    fn samples(&self, path: &Path, tensors: &[Tensor]) -> Result<usize, DataError> {
        let mut counts = vec![];
        let mut symbols: Vec<(&Dim, usize, &str)> = vec![];
        for ((name, ty), t) in self.ports.iter().zip(tensors) {
            let Some(dims) = ty.as_tensor().and_then(|t| t.shape.dims()) else { continue };
            for (axis, (dim, &size)) in dims.iter().zip(t.dims()).enumerate() {
                let whole = dim.as_known().map(|d| usize::try_from(d).unwrap_or(0));
                match whole {
                    Some(d) if d == size => {}
                    Some(d) if axis == 0 && d > 0 && size % d == 0 => {}
                    Some(d) => {
                        let why = format!(": axis {axis} has {size} elements, not {d}");
                        return Err(mismatch(path, name, ty, t, why));
                    }
                    None => match symbols.iter().find(|(s, ..)| *s == dim) {
                        Some((_, other, first)) if *other != size => {
                            let why =
                                format!(": axis {axis} has {size} elements, `{dim}` is {other} in `{first}`");
                            return Err(mismatch(path, name, ty, t, why));
                        }
                        Some(_) => {}
                        None => symbols.push((dim, size, name)),
                    },
                }
            }
            let (Some(first), Some(&size)) = (dims.first(), t.dims().first()) else {
                counts.push(1);
                continue;
            };
            let each = first.as_known().and_then(|d| usize::try_from(d).ok()).unwrap_or(1);
            counts.push(size / each.max(1));
        }
        // A fixed first axis that is met exactly says that the arrays are one sample; symbols say so if they differ.
        match counts.as_slice() {
            [first, rest @ ..] if rest.iter().all(|c| c == first) => Ok((*first).max(1)),
            _ => {
                for ((name, ty), t) in self.ports.iter().zip(tensors) {
                    let first = ty.as_tensor().and_then(|t| t.shape.dims()).and_then(|d| d.first());
                    let fixed = first.and_then(Dim::as_known).and_then(|d| usize::try_from(d).ok());
                    if fixed.is_some_and(|d| t.dims().first() != Some(&d)) {
                        let why = ": the arrays hold different numbers of samples".to_owned();
                        return Err(mismatch(path, name, ty, t, why));
                    }
                }
                Ok(1)
            }
        }
    }
}

fn mismatch(path: &Path, name: &str, ty: &Type, found: &Tensor, why: String) -> DataError {
    DataError::Mismatch {
        path: path.to_owned(),
        name: name.to_owned(),
        found: found.ty().to_string(),
        ty: Box::new(ty.clone()),
        why,
    }
}

/// Part `i` of `count` along the first axis.
fn part(path: &Path, t: &Tensor, i: usize, count: usize) -> Result<Datum, DataError> {
    if count == 1 {
        return Ok(Datum::Tensor(t.clone()));
    }
    let mut dims = t.dims().to_vec();
    if let Some(first) = dims.first_mut() {
        *first /= count;
    }
    let each = t.bytes().len() / count;
    let bytes = t.bytes().get(i * each..(i + 1) * each).unwrap_or(&[]);
    let tensor = Tensor::new(t.dtype(), &dims, Bytes::copied(bytes));
    tensor.map(Datum::Tensor).map_err(|_| DataError::Format { path: path.to_owned() })
}
