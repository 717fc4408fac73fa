//! Formats of files, recognised by content.

use std::fmt;

use crate::checkpoint::{safetensors, sharded, tar};

/// A format that Kiln knows by sight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// ONNX `ModelProto`.
    Onnx,
    /// Torch checkpoint: a zip archive with a pickle.
    TorchZip,
    /// TorchScript: a zip archive with pickles and source text.
    TorchScript,
    /// Torch checkpoint of the first versions: a tar archive with pickles.
    TorchTar,
    /// `torch.export` archive.
    TorchExport,
    /// Keras 3 archive.
    Keras,
    /// NumPy archive or array.
    Numpy,
    /// Pickle: bare, or those that a legacy torch checkpoint begins with.
    Pickle,
    /// safetensors.
    Safetensors,
    /// Index of a sharded checkpoint.
    ShardIndex,
    /// GGUF.
    Gguf,
    /// TensorFlow Lite.
    Tflite,
    /// HDF5.
    Hdf5,
    /// TensorFlow `SavedModel`.
    SavedModel,
}

impl Format {
    /// The format of a file whose content begins with `head` (give the whole file where it is at hand: a protobuf has
    /// no magic number, and zip archives are told apart by the names in them).
    pub fn of(bytes: &[u8]) -> Option<Format> {
        if bytes.starts_with(b"PK\x03\x04") {
            return Some(zip_format(bytes));
        }
        if bytes.starts_with(b"\x89HDF\r\n\x1a\n") {
            return Some(Format::Hdf5);
        }
        if bytes.starts_with(b"GGUF") {
            return Some(Format::Gguf);
        }
        if bytes.starts_with(b"\x93NUMPY") {
            return Some(Format::Numpy);
        }
        if bytes.get(4..8) == Some(b"TFL3") {
            return Some(Format::Tflite);
        }
        // Protocols 0 and 1 have no header of their own; torch's legacy files begin with their magic number.
        if matches!(bytes, [0x80, 2..=5, ..]) || bytes.starts_with(b"L119547037146038801333356L\n.") {
            return Some(Format::Pickle);
        }
        if safetensors::is_safetensors(bytes) {
            return Some(Format::Safetensors);
        }
        if tar::is_tar(bytes) {
            return Some(Format::TorchTar);
        }
        if sharded::is_index(bytes) {
            return Some(Format::ShardIndex);
        }
        protobuf_format(bytes)
    }

    /// Name of the format in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Format::Onnx => "an ONNX model",
            Format::TorchZip => "a PyTorch checkpoint archive",
            Format::TorchScript => "a TorchScript archive",
            Format::TorchTar => "a PyTorch tar archive",
            Format::TorchExport => "a torch.export archive",
            Format::Keras => "a Keras archive",
            Format::Numpy => "a NumPy file",
            Format::Pickle => "a pickle",
            Format::Safetensors => "a safetensors file",
            Format::ShardIndex => "an index of a sharded checkpoint",
            Format::Gguf => "a GGUF file",
            Format::Tflite => "a TensorFlow Lite model",
            Format::Hdf5 => "an HDF5 file",
            Format::SavedModel => "a TensorFlow SavedModel",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Tells zip archives apart by the names in their first bytes.
fn zip_format(bytes: &[u8]) -> Format {
    let head = bytes.get(..4096).unwrap_or(bytes);
    let tail = bytes.get(bytes.len().saturating_sub(65_536)..).unwrap_or(bytes);
    let has = |name: &[u8]| [head, tail].iter().any(|part| part.windows(name.len()).any(|w| w == name));
    let export =
        ["archive_format", "archive_version", "models/model.json", "serialized_exported_program.json"];
    if export.iter().any(|name| has(name.as_bytes())) {
        Format::TorchExport
    } else if has(b"model.weights.h5") {
        Format::Keras
    } else if has(b".npy") {
        Format::Numpy
    } else if has(b"/constants.pkl") {
        Format::TorchScript
    } else {
        Format::TorchZip
    }
}

/// A protobuf whose top-level fields are those of a `ModelProto` with a graph, or of a `SavedModel`.
fn protobuf_format(bytes: &[u8]) -> Option<Format> {
    let mut rest = bytes;
    let (mut graph, mut meta_graph) = (false, false);
    while !rest.is_empty() {
        let Some((tag, after)) = varint(rest) else { break };
        let Some((size, after)) = payload(tag & 7, after) else {
            // Truncated inside a field: what came before decides.
            graph |= tag == 0x3a;
            break;
        };
        match (tag >> 3, tag & 7) {
            (7, 2) => graph = true,
            (2, 2) if after.first() == Some(&0x0a) && !graph => meta_graph = size > 1024,
            (1 | 5, 0) | (2 | 3 | 4 | 6 | 8 | 14 | 20 | 25 | 26, 2) => {}
            _ => return None,
        }
        rest = after.get(size..).unwrap_or(&[]);
    }
    if graph { Some(Format::Onnx) } else { meta_graph.then_some(Format::SavedModel) }
}

/// Length of a field's payload and the bytes from its start; a varint's payload is its own bytes.
fn payload(wire: u64, bytes: &[u8]) -> Option<(usize, &[u8])> {
    match wire {
        0 => varint(bytes).map(|(_, after)| (bytes.len() - after.len(), bytes)),
        1 => Some((8, bytes)),
        2 => varint(bytes).and_then(|(n, after)| {
            let n = usize::try_from(n).ok().filter(|&n| n <= after.len())?;
            Some((n, after))
        }),
        5 => Some((4, bytes)),
        _ => None,
    }
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0u64;
    for (i, &b) in bytes.iter().enumerate().take(10) {
        value |= u64::from(b & 0x7f).checked_shl(7 * i as u32)?;
        if b & 0x80 == 0 {
            return Some((value, bytes.get(i + 1..)?));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn magic_numbers() {
        assert_eq!(Format::of(b"GGUF\x03\0\0\0"), Some(Format::Gguf));
        assert_eq!(Format::of(b"\x80\x02}q\0."), Some(Format::Pickle));
        assert_eq!(Format::of(b"\x1c\0\0\0TFL3"), Some(Format::Tflite));
        assert_eq!(Format::of(b"\x89HDF\r\n\x1a\n"), Some(Format::Hdf5));
        assert_eq!(Format::of(b"\x10\0\0\0\0\0\0\0{\"a\":1}       "), Some(Format::Safetensors));
        assert_eq!(Format::of(b"PK\x03\x04model/data.pkl"), Some(Format::TorchZip));
        assert_eq!(Format::of(b"PK\x03\x04net/archive_format"), Some(Format::TorchExport));
        assert_eq!(Format::of(b"PK\x03\x04m/code/models/a.py m/constants.pkl"), Some(Format::TorchScript));
        assert_eq!(Format::of(b"hello, world"), None);
        assert_eq!(Format::of(b""), None);
    }

    #[test]
    fn a_model_is_a_protobuf_with_a_graph() {
        assert_eq!(Format::of(&[0x08, 0x0a, 0x3a, 0x00]), Some(Format::Onnx));
        assert_eq!(Format::of(&[0x08, 0x0a]), None);
        assert_eq!(Format::of(&[0x3a, 0x00, 0xff]), Some(Format::Onnx));
    }
}
