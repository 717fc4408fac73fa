//! Arrays in NumPy's formats: `.npy` (NEP 1) and `.npz`, a zip of them.
//!
//! Reading is bounded: memory grows with the data that is really there, never with what a header announces. Dtypes that
//! NumPy lacks are written as the narrowest NumPy dtype that holds every value exactly: small floats as f32, small
//! integers as 8 bits.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Cursor, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use kiln_ir::{Bytes, DType, Scalar, Tensor, TensorError};
use npyz::{DType as NpyDType, Endianness, NpyHeader, Order, TypeChar, TypeStr};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

/// Most bytes that the arrays of one file may have together.
const MAX_BYTES: u64 = 16 << 30;

/// Longest header of an array, in bytes. That of a tensor has some hundred.
const MAX_HEADER: usize = 1 << 16;

/// Most brackets that a header opens: the header's parser recurses at each, and tries some twice. A tensor's header
/// has two, the dict's and the shape's.
const MAX_BRACKETS: usize = 8;

/// Most elements of text without bytes: they take memory, but no place in the file.
const MAX_EMPTY_STRINGS: usize = 1 << 20;

/// Which of NumPy's formats a file is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `.npy`: one array without a name.
    Array,
    /// `.npz`: arrays with names.
    Archive,
}

impl Format {
    /// The format of content that begins so; `None` if it is neither.
    pub fn of(head: &[u8]) -> Option<Format> {
        if head.starts_with(MAGIC) {
            Some(Format::Array)
        } else if head.starts_with(b"PK\x03\x04") || head.starts_with(b"PK\x05\x06") {
            // An entry, or the directory of an archive without entries.
            Some(Format::Archive)
        } else {
            None
        }
    }
}

/// What a `.npy` file begins with.
const MAGIC: &[u8] = b"\x93NUMPY";

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

/// The format of a file, by its content; `None` if that is none of NumPy's.
pub fn format(path: &Path) -> Result<Option<Format>, ArrayError> {
    let head = File::open(path).and_then(head);
    head.map(|h| Format::of(&h)).map_err(|source| ArrayError::Io { path: path.to_owned(), source })
}

/// The first bytes of a source, as many as magic numbers have.
fn head(source: impl Read) -> io::Result<Vec<u8>> {
    let mut head = vec![];
    source.take(MAGIC.len() as u64).read_to_end(&mut head)?;
    Ok(head)
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
    let format = Format::of(&head(source.by_ref()).map_err(io)?);
    source.rewind().map_err(io)?;
    let mut budget = MAX_BYTES;
    if format == Some(Format::Array) {
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

/// The header, checked before it is parsed: the parser allocates as much as the header announces, and recurses as deep
/// as it nests.
fn read_header(reader: &mut impl Read) -> Result<NpyHeader, String> {
    let bad = |e: io::Error| format!("not in .npy format: {e}");
    let mut start = vec![0; MAGIC.len() + 2];
    reader.read_exact(&mut start).map_err(bad)?;
    // NEP 1: version 1 has a length of two bytes, later ones of four.
    let wide = match start.strip_prefix(MAGIC) {
        Some([1, _]) => false,
        Some(_) => true,
        None => return Err("not in .npy format: the magic number is missing".to_owned()),
    };
    let mut length = [0; 4];
    let digits = if wide { &mut length[..] } else { &mut length[..2] };
    reader.read_exact(digits).map_err(bad)?;
    start.extend_from_slice(digits);
    let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
    if length > MAX_HEADER {
        return Err(format!("its header has {length} bytes, more than {MAX_HEADER}"));
    }
    let mut text = vec![0; length];
    reader.read_exact(&mut text).map_err(bad)?;
    // Brackets in quotes count, too: where quotes end is for the parser to say.
    if text.iter().filter(|b| b"([{".contains(b)).count() > MAX_BRACKETS {
        return Err(format!("its header opens more than {MAX_BRACKETS} brackets, which no tensor's does"));
    }
    let mut checked = Cursor::new(start).chain(Cursor::new(text));
    NpyHeader::from_reader(&mut checked).map_err(bad)
}

/// Bytes that elements take in memory while they are read: strings have a handle each.
fn memory(elements: &Elements, count: usize, width: usize) -> Result<u64, String> {
    let size = match elements {
        Elements::Number(..) => width,
        Elements::Unicode(..) | Elements::Text(_) if width == 0 && count > MAX_EMPTY_STRINGS => {
            return Err(format!("{count} strings of no bytes are more than is accepted"));
        }
        Elements::Unicode(..) | Elements::Text(_) => width.max(size_of::<String>()),
    };
    let bytes = count.checked_mul(size).and_then(|n| u64::try_from(n).ok());
    bytes.ok_or_else(|| "the size overflows".to_owned())
}

fn read_npy(mut reader: impl Read, budget: &mut u64) -> Result<Tensor, String> {
    let header = read_header(&mut reader)?;
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
    let memory = memory(&elements, count, width)?;
    *budget =
        budget.checked_sub(memory).ok_or_else(|| format!("{memory} bytes are more than is accepted"))?;
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

/// Writes arrays: one without name goes to a `.npy` file if `path` ends so, otherwise all to an `.npz`. The file appears
/// under its name only when it is complete; one that was there before stays as it is if anything fails.
pub fn write(path: &Path, arrays: &[(String, Tensor)]) -> Result<(), ArrayError> {
    let fail =
        |name: &str, reason| ArrayError::Array { path: path.to_owned(), name: name.to_owned(), reason };
    let io = |source| ArrayError::Io { path: path.to_owned(), source };
    if path.extension().is_some_and(|e| e == "npy") {
        let [(name, tensor)] = arrays else {
            return Err(fail("", format!("an .npy file holds one array, there are {}", arrays.len())));
        };
        let bytes = npy(tensor).map_err(|reason| fail(name, reason))?;
        let mut out = Replacement::of(path).map_err(io)?;
        out.file.write_all(&bytes).map_err(io)?;
        return out.finish().map_err(io);
    }
    let archive = |source| ArrayError::Archive { path: path.to_owned(), source };
    let out = Replacement::of(path).map_err(io)?;
    let mut zip = ZipWriter::new(BufWriter::new(&out.file));
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored).large_file(true);
    for (name, tensor) in arrays {
        let bytes = npy(tensor).map_err(|reason| fail(name, reason))?;
        zip.start_file(format!("{name}.npy"), options).map_err(archive)?;
        zip.write_all(&bytes).map_err(io)?;
    }
    zip.finish().map_err(archive)?.flush().map_err(io)?;
    out.finish().map_err(io)
}

/// A file under another name that takes its place when it is complete, and is removed if it never is.
struct Replacement {
    file: File,
    target: PathBuf,
    /// `None` once renamed, and where the target is a device or pipe: these are written in place.
    partial: Option<PathBuf>,
}

impl Replacement {
    fn of(path: &Path) -> io::Result<Self> {
        // What a link leads to is replaced, not the link.
        let target = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        if target.metadata().is_ok_and(|meta| !meta.is_file()) {
            return Ok(Replacement { file: File::create(&target)?, target, partial: None });
        }
        // Two threads of a process may write to one path.
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let mut name = target.file_name().ok_or(io::ErrorKind::InvalidFilename)?.to_owned();
        name.push(format!(".{}-{count}.partial", std::process::id()));
        let partial = target.with_file_name(name);
        let file = OpenOptions::new().write(true).create_new(true).open(&partial)?;
        Ok(Replacement { file, target, partial: Some(partial) })
    }

    fn finish(mut self) -> io::Result<()> {
        if let Some(partial) = &self.partial {
            std::fs::rename(partial, &self.target)?;
        }
        self.partial = None;
        Ok(())
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        if let Some(partial) = &self.partial {
            // The unfinished file is of no use to anybody; that it may be gone is fine.
            let _ = std::fs::remove_file(partial);
        }
    }
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

    /// A version-2 file of this header, whose length is announced as given.
    fn with_header(header: &str, length: u32) -> Vec<u8> {
        [MAGIC, &[2, 0], &length.to_le_bytes(), header.as_bytes()].concat()
    }

    fn refusal(file: &[u8]) -> String {
        read_npy(file, &mut MAX_BYTES.clone()).unwrap_err()
    }

    #[test]
    fn headers_are_bounded_before_they_are_parsed() {
        for bracket in ["[", "(", "{", "')["] {
            let header = bracket.repeat(MAX_HEADER / bracket.len());
            let file = with_header(&header, u32::try_from(header.len()).unwrap());
            assert!(refusal(&file).contains("brackets"), "{bracket}");
        }
        assert!(refusal(&with_header("{", u32::MAX)).contains("4294967295 bytes"));
        let header = "{'descr': '|u1', 'fortran_order': False, 'shape': (2,)}\n";
        let file = [with_header(header, u32::try_from(header.len()).unwrap()), vec![5, 6]].concat();
        assert_eq!(read_npy(file.as_slice(), &mut MAX_BYTES.clone()).unwrap().bytes(), [5, 6]);
    }

    #[test]
    fn text_of_no_width_is_bounded() {
        for descr in ["<U0", "|S0"] {
            let file = |count: u64| {
                let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({count},)}}\n");
                with_header(&header, u32::try_from(header.len()).unwrap())
            };
            assert!(refusal(&file(1_000_000_000_000)).contains("strings of no bytes"));
            let three = read_npy(file(3).as_slice(), &mut MAX_BYTES.clone()).unwrap();
            assert_eq!(three.as_strings(), ["", "", ""]);
        }
        // Handles count, not only what the file holds.
        let header = "{'descr': '|S1', 'fortran_order': False, 'shape': (10,)}\n";
        let file = with_header(header, u32::try_from(header.len()).unwrap());
        assert!(read_npy(file.as_slice(), &mut 100).unwrap_err().contains("240 bytes are more"));
    }

    /// A folder of this test's own, removed at the end.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("kiln-npz-{}-{name}", std::process::id()));
            let _ = std::fs::remove_dir_all(&path);
            std::fs::create_dir_all(&path).unwrap();
            Folder(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let folder = Folder::new("failed");
        let one = [("a".to_owned(), Tensor::ints(&[1, 2]))];
        let two = [one.clone(), one.clone()].concat();
        // An archive cannot hold two arrays of one name, a `.npy` no two arrays.
        for name in ["y.npz", "y.npy"] {
            let path = folder.0.join(name);
            write(&path, &one).unwrap();
            write(&path, &two).unwrap_err();
            assert_eq!(read(&path).unwrap().first().map(|(_, t)| t.clone()), Some(Tensor::ints(&[1, 2])));
        }
        assert_eq!(std::fs::read_dir(&folder.0).unwrap().count(), 2, "an unfinished file is left");
    }

    #[test]
    fn formats_are_told_by_content() {
        let folder = Folder::new("format");
        let arrays = [("a".to_owned(), Tensor::ints(&[1]))];
        for (name, expected) in [("y.npy", Some(Format::Array)), ("y.dat", Some(Format::Archive))] {
            let path = folder.0.join(name);
            write(&path, &arrays).unwrap();
            assert_eq!(format(&path).unwrap(), expected, "{name}");
        }
        let path = folder.0.join("empty.npz");
        write(&path, &[]).unwrap();
        assert_eq!(format(&path).unwrap(), Some(Format::Archive));
        std::fs::write(&path, [0x08, 0x01, 0x10, 0x01]).unwrap();
        assert_eq!(format(&path).unwrap(), None);
        std::fs::write(&path, []).unwrap();
        assert_eq!(format(&path).unwrap(), None);
    }
}
