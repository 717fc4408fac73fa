//! Loaders of Kiln: files of other frameworks to graph IR.

pub mod npz;
pub mod onnx;
