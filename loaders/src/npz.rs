//! Arrays in NumPy's formats: `.npy` (NEP 1) and `.npz`, a zip of them.
//!
//! Reading is bounded: memory grows with the data that is really there, never with what a header announces. Dtypes that
//! NumPy lacks are written as the narrowest NumPy dtype that holds every value exactly: small floats as f32, small
//! integers as 8 bits.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};

use kiln_ir::{Bytes, DType, Scalar, Tensor, TensorError};
use npyz::{DType as NpyDType, Endianness, NpyHeader, Order, TypeChar, TypeStr};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

/// Most bytes that the arrays of one file may have together.
const MAX_BYTES: u64 = 16 << 30;

/// Why a file of arrays cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ArrayError {
    /// The file cannot be opened, read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// File.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// The file is no archive.
    #[error("{}: not an .npz archive: {source}", path.display())]
    Archive {
        /// File.
        path: PathBuf,
        /// Cause.
        source: zip::result::ZipError,
    },
    /// One array is at fault.
    #[error("{}: array `{name}`: {reason}", path.display())]
    Array {
        /// File.
        path: PathBuf,
        /// Name of the array.
        name: String,
        /// What is wrong: expected and found.
        reason: String,
    },
}

/// Reads a `.npy` or `.npz` file, told apart by content. The arrays come in the file's order; the one of a `.npy` has
/// the file's stem as name.
pub fn read(path: &Path) -> Result<Vec<(String, Tensor)>, ArrayError> {
    let file = File::open(path).map_err(|source| ArrayError::Io { path: path.to_owned(), source })?;
    read_from(path, BufReader::new(file))
}

/// As [`read`], from any source; `path` names it in errors.
pub fn read_from(path: &Path, mut source: impl Read + Seek) -> Result<Vec<(String, Tensor)>, ArrayError> {
    let io = |source| ArrayError::Io { path: path.to_owned(), source };
    let mut magic = vec![];
    source.by_ref().take(6).read_to_end(&mut magic).map_err(io)?;
    source.rewind().map_err(io)?;
    let mut budget = MAX_BYTES;
    if magic == b"\x93NUMPY" {
        let name = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
        let fail = |reason| ArrayError::Array { path: path.to_owned(), name: name.clone(), reason };
        let tensor = read_npy(&mut source, &mut budget).map_err(fail)?;
        return Ok(vec![(name, tensor)]);
    }
    let archive = |source| ArrayError::Archive { path: path.to_owned(), source };
    let mut zip = ZipArchive::new(source).map_err(archive)?;
    let mut arrays = vec![];
    for i in 0..zip.len() {
        let mut entry = zip.by_index(i).map_err(archive)?;
        let full = entry.name().map_err(archive)?.into_owned();
        let name = full.strip_suffix(".npy").unwrap_or(&full).to_owned();
        let fail = |reason| ArrayError::Array { path: path.to_owned(), name: name.clone(), reason };
        let tensor = read_npy(&mut entry, &mut budget).map_err(fail)?;
        arrays.push((name, tensor));
    }
    Ok(arrays)
}

/// How an array's elements stand in the file.
enum Elements {
    /// Little- or big-endian numbers of a dtype.
    Number(DType, bool),
    /// UCS-4 code units, so many an element.
    Unicode(usize, bool),
    /// Bytes of text, so many an element.
    Text(usize),
}

fn elements(ty: &TypeStr) -> Option<Elements> {
    let size = usize::try_from(ty.size_field()).ok()?;
    let big = ty.endianness() == Endianness::Big;
    let dtype = match (ty.type_char(), size) {
        (TypeChar::Bool, 1) => DType::Bool,
        (TypeChar::Int, 1) => DType::I8,
        (TypeChar::Int, 2) => DType::I16,
        (TypeChar::Int, 4) => DType::I32,
        (TypeChar::Int, 8) => DType::I64,
        (TypeChar::Uint, 1) => DType::U8,
        (TypeChar::Uint, 2) => DType::U16,
        (TypeChar::Uint, 4) => DType::U32,
        (TypeChar::Uint, 8) => DType::U64,
        (TypeChar::Float, 2) => DType::F16,
        (TypeChar::Float, 4) => DType::F32,
        (TypeChar::Float, 8) => DType::F64,
        (TypeChar::Complex, 8) => DType::C64,
        (TypeChar::Complex, 16) => DType::C128,
        (TypeChar::UnicodeStr, n) => return Some(Elements::Unicode(n, big)),
        (TypeChar::ByteStr, n) => return Some(Elements::Text(n)),
        _ => return None,
    };
    Some(Elements::Number(dtype, big))
}

fn read_npy(mut reader: impl Read, budget: &mut u64) -> Result<Tensor, String> {
    let header = NpyHeader::from_reader(&mut reader).map_err(|e| format!("not in .npy format: {e}"))?;
    let NpyDType::Plain(ty) = header.dtype() else {
        return Err("structured dtypes are not tensors".to_owned());
    };
    let elements = elements(&ty).ok_or_else(|| format!("dtype {ty} has no tensor counterpart"))?;
    let dims: Option<Vec<usize>> = header.shape().iter().map(|&d| usize::try_from(d).ok()).collect();
    let dims = dims.ok_or("a dim does not fit in memory")?;
    let count =
        dims.iter().try_fold(1usize, |a, &d| a.checked_mul(d)).ok_or("the dims' product overflows")?;
    let width = match &elements {
        Elements::Number(dtype, _) => dtype.bits() / 8,
        Elements::Unicode(n, _) => n.checked_mul(4).ok_or("the element size overflows")?,
        Elements::Text(n) => *n,
    };
    let expected =
        count.checked_mul(width).and_then(|n| u64::try_from(n).ok()).ok_or("the size overflows")?;
    *budget =
        budget.checked_sub(expected).ok_or_else(|| format!("{expected} bytes are more than is accepted"))?;
    let mut bytes = vec![];
    reader.take(expected).read_to_end(&mut bytes).map_err(|e| format!("its data cannot be read: {e}"))?;
    let found = bytes.len() as u64;
    if found != expected {
        return Err(format!("its shape {dims:?} takes {expected} bytes, the file has {found}"));
    }
    if header.order() == Order::Fortran && dims.len() > 1 {
        bytes = row_major(&bytes, &dims, width);
    }
    tensor(elements, &dims, bytes, width).map_err(|e| e.to_string())
}

fn tensor(
    elements: Elements,
    dims: &[usize],
    mut bytes: Vec<u8>,
    width: usize,
) -> Result<Tensor, TensorError> {
    match elements {
        Elements::Number(dtype, big) => {
            if big {
                // A complex number is two floats.
                let part = if matches!(dtype, DType::C64 | DType::C128) { width / 2 } else { width };
                bytes.chunks_exact_mut(part.max(1)).for_each(<[u8]>::reverse);
            }
            if dtype == DType::Bool {
                bytes.iter_mut().for_each(|b| *b = u8::from(*b != 0));
            }
            Tensor::new(dtype, dims, Bytes::copied(&bytes))
        }
        Elements::Unicode(_, big) => {
            let unit = |b: &[u8]| {
                let b: [u8; 4] = b.try_into().unwrap_or_default();
                let code = if big { u32::from_be_bytes(b) } else { u32::from_le_bytes(b) };
                char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)
            };
            let text =
                |b: &[u8]| b.chunks_exact(4).map(unit).collect::<String>().trim_end_matches('\0').to_owned();
            Tensor::strings(dims, split(&bytes, dims, width).map(text).collect())
        }
        Elements::Text(_) => {
            let text = |b: &[u8]| String::from_utf8_lossy(b).trim_end_matches('\0').to_owned();
            Tensor::strings(dims, split(&bytes, dims, width).map(text).collect())
        }
    }
}

/// The elements' bytes; elements of no bytes are empty.
fn split<'a>(bytes: &'a [u8], dims: &[usize], width: usize) -> impl Iterator<Item = &'a [u8]> {
    let count: usize = if bytes.is_empty() && width > 0 { 0 } else { dims.iter().product() };
    (0..count).map(move |i| bytes.get(i * width..(i + 1) * width).unwrap_or(&[]))
}

/// Column-major elements in row-major order.
fn row_major(bytes: &[u8], dims: &[usize], width: usize) -> Vec<u8> {
    let mut strides = vec![1usize; dims.len()];
    for i in 1..dims.len() {
        strides[i] = strides[i - 1] * dims[i - 1];
    }
    let count = bytes.len().checked_div(width).unwrap_or(0);
    let mut out = Vec::with_capacity(bytes.len());
    let mut index = vec![0usize; dims.len()];
    for _ in 0..count {
        let at: usize = index.iter().zip(&strides).map(|(i, s)| i * s).sum();
        out.extend_from_slice(bytes.get(at * width..(at + 1) * width).unwrap_or(&[]));
        for axis in (0..dims.len()).rev() {
            index[axis] += 1;
            if index[axis] < dims[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
    out
}

/// Writes arrays: one without name goes to a `.npy` file if `path` ends so, otherwise all to an `.npz`.
pub fn write(path: &Path, arrays: &[(String, Tensor)]) -> Result<(), ArrayError> {
    let io = |source| ArrayError::Io { path: path.to_owned(), source };
    let mut out = BufWriter::new(File::create(path).map_err(io)?);
    if path.extension().is_some_and(|e| e == "npy") {
        let [(name, tensor)] = arrays else {
            let reason = format!("an .npy file holds one array, there are {}", arrays.len());
            return Err(ArrayError::Array { path: path.to_owned(), name: String::new(), reason });
        };
        let bytes = npy(tensor);
        let fail = |reason| ArrayError::Array { path: path.to_owned(), name: name.clone(), reason };
        out.write_all(&bytes.map_err(fail)?).map_err(io)?;
        return out.flush().map_err(io);
    }
    let archive = |source| ArrayError::Archive { path: path.to_owned(), source };
    let mut zip = ZipWriter::new(out);
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored).large_file(true);
    for (name, tensor) in arrays {
        let fail = |reason| ArrayError::Array { path: path.to_owned(), name: name.clone(), reason };
        let bytes = npy(tensor).map_err(fail)?;
        zip.start_file(format!("{name}.npy"), options).map_err(archive)?;
        zip.write_all(&bytes).map_err(io)?;
    }
    zip.finish().map_err(archive)?.flush().map_err(io)
}

/// The `.npy` bytes of a tensor.
fn npy(tensor: &Tensor) -> Result<Vec<u8>, String> {
    let (descr, data) = encode(tensor)?;
    let mut shape = String::new();
    for d in tensor.dims() {
        shape.push_str(&format!("{d}, "));
    }
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({shape}), }}");
    // Magic, version and length take 10 bytes; the whole is padded to 64.
    let padding = 63 - (10 + header.len()) % 64;
    header.extend(std::iter::repeat_n(' ', padding));
    header.push('\n');
    let len = u16::try_from(header.len()).map_err(|_| "its rank is too high".to_owned())?;
    let mut out = b"\x93NUMPY\x01\x00".to_vec();
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(&data);
    Ok(out)
}

/// NumPy type string and bytes of a tensor's elements.
fn encode(tensor: &Tensor) -> Result<(String, Vec<u8>), String> {
    let plain = |code: &str| Ok((code.to_owned(), tensor.bytes().to_vec()));
    match tensor.dtype() {
        DType::Bool => plain("|b1"),
        DType::I8 => plain("|i1"),
        DType::I16 => plain("<i2"),
        DType::I32 => plain("<i4"),
        DType::I64 => plain("<i8"),
        DType::U8 => plain("|u1"),
        DType::U16 => plain("<u2"),
        DType::U32 => plain("<u4"),
        DType::U64 => plain("<u8"),
        DType::F16 => plain("<f2"),
        DType::F32 => plain("<f4"),
        DType::F64 => plain("<f8"),
        DType::C64 => plain("<c8"),
        DType::C128 => plain("<c16"),
        DType::I2 | DType::I4 => converted(tensor, DType::I8, "|i1"),
        DType::U2 | DType::U4 => converted(tensor, DType::U8, "|u1"),
        DType::BF16
        | DType::F8E4M3FN
        | DType::F8E4M3FNUZ
        | DType::F8E5M2
        | DType::F8E5M2FNUZ
        | DType::F8E8M0
        | DType::F4E2M1 => converted(tensor, DType::F32, "<f4"),
        DType::String => {
            let strings = tensor.as_strings();
            let width = strings.iter().map(|s| s.chars().count()).max().unwrap_or(0).max(1);
            let mut data = Vec::new();
            for s in strings {
                let units = s.chars().map(u32::from).chain(std::iter::repeat(0)).take(width);
                units.for_each(|u| data.extend_from_slice(&u.to_le_bytes()));
            }
            Ok((format!("<U{width}"), data))
        }
    }
}

fn converted(tensor: &Tensor, dtype: DType, code: &str) -> Result<(String, Vec<u8>), String> {
    let scalars: Vec<Scalar> = tensor.to_scalars().ok_or("it has no numbers")?;
    let wide = Tensor::from_scalars(dtype, tensor.dims(), &scalars).map_err(|e| e.to_string())?;
    Ok((code.to_owned(), wide.bytes().to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(tensor: &Tensor) -> Tensor {
        read_npy(npy(tensor).unwrap().as_slice(), &mut MAX_BYTES.clone()).unwrap()
    }

    #[test]
    fn tensors_round_trip() {
        let f = Tensor::from_slice(&[2, 3], &[1.0f32, -2.0, 0.5, f32::INFINITY, 0.0, 7.0]).unwrap();
        assert_eq!(round_trip(&f), f);
        let s = Tensor::strings(&[2], vec!["é".into(), "abc".into()]).unwrap();
        assert_eq!(round_trip(&s), s);
        let scalar = Tensor::scalar(-5i64);
        assert_eq!(round_trip(&scalar), scalar);
        let empty = Tensor::zeros(DType::F64, &[0, 4]).unwrap();
        assert_eq!(round_trip(&empty), empty);
    }

    #[test]
    fn what_numpy_lacks_is_widened_exactly() {
        let t = Tensor::from_scalars(DType::BF16, &[2], &[Scalar::F(1.5), Scalar::F(-3.0)]).unwrap();
        let back = round_trip(&t);
        assert_eq!((back.dtype(), back.to_f64s().unwrap()), (DType::F32, vec![1.5, -3.0]));
    }

    #[test]
    fn column_major_becomes_row_major() {
        let bytes = row_major(&[1, 2, 3, 4, 5, 6], &[2, 3], 1);
        assert_eq!(bytes, [1, 3, 5, 2, 4, 6]);
    }

    #[test]
    fn damaged_files_are_errors() {
        let good = npy(&Tensor::ints(&[1, 2, 3])).unwrap();
        for cut in 0..good.len() {
            assert!(read_npy(&good[..cut], &mut MAX_BYTES.clone()).is_err(), "cut at {cut}");
        }
        let huge = String::from_utf8_lossy(&good).replace("(3, )", "(9999999999999, )");
        assert!(read_npy(huge.as_bytes(), &mut MAX_BYTES.clone()).is_err());
    }
}
