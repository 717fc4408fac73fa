//! The ONNX loader.

pub mod pb;
pub mod proto;
pub mod tensor;

pub use pb::{PbError, read_tensor_pb, write_tensor_pb};
