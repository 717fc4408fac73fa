//! The ONNX loader: opsets 1 to 28 of the default domain and parts of `com.microsoft`.

mod attrs;
mod by_rank;
mod cx;
mod external;
mod import;
pub mod make;
mod ops;
pub mod pb;
pub mod proto;
pub mod tensor;
mod types;
mod wire;

use std::path::Path;

use kiln_ir::Module;
use prost::Message;

use wire::Kind;

pub use pb::{PbError, read_tensor_pb, read_value_pb, write_tensor_pb};
pub use wire::WireError;

use crate::{LoadError, LoadOptions};

/// Loads an ONNX model from bytes; external data is looked up beside `path`, which also names the model in messages.
pub fn load(path: &Path, bytes: bytes::Bytes, options: &LoadOptions) -> Result<Module, LoadError> {
    let name = path.display().to_string();
    let size = bytes.len();
    let limit = options.limits.structure_of(size);
    wire::check(&bytes, Kind::Model, limit).map_err(|e| match e {
        WireError::Malformed { .. } => {
            LoadError::Malformed { path: name.clone(), format: "ONNX model", reason: e.to_string() }
        }
        WireError::TooLarge(limit) => {
            LoadError::Limit { path: name.clone(), what: "the decoded model, in bytes,".to_owned(), limit }
        }
    })?;
    let model = proto::ModelProto::decode(bytes).map_err(|e| LoadError::Malformed {
        path: name.clone(),
        format: "ONNX model",
        reason: e.to_string(),
    })?;
    let folder = crate::folder::Folder::of(path);
    import::import(&name, size, &model, &folder, options)
}
