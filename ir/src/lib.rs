//! Graph IR of Kiln.
#![forbid(unsafe_code)]

pub mod dim;
pub mod dtype;
pub mod elementwise;
pub mod scalar;
pub mod text;
pub mod types;

pub use dim::{Dim, DimError, Symbol};
pub use dtype::{DClass, DType};
pub use elementwise::Ew;
pub use scalar::{Prim, Scalar, ScalarExpr, ScalarNode, wrap_int};
pub use types::{Shape, TensorType, Type};
