//! Graph IR of Kiln: dtypes, symbolic dims, operators, graphs, builder and patches, inference, verifier, text form,
//! reference evaluator.
#![forbid(unsafe_code)]

pub mod build;
pub mod decompose;
pub mod dim;
pub mod dtype;
pub mod elementwise;
pub mod eval;
pub mod float;
pub mod graph;
pub mod infer;
pub mod op;
pub mod scalar;
pub mod tensor;
pub mod text;
pub mod types;
pub mod verify;

pub use build::dynamic::BuildDynamic;
pub use build::{Build, Edit, EditError, GraphBuilder, Patch};
pub use decompose::decompose;
pub use dim::{Dim, DimError, Symbol};
pub use dtype::{DClass, DType};
pub use elementwise::Ew;
pub use eval::{Datum, EvalError, Evaluator};
pub use float::Float;
pub use graph::{Def, Graph, GraphId, Known, Module, Node, NodeId, Origin, StateDecl, Value, ValueData};
pub use infer::InferError;
pub use op::Op;
pub use scalar::{Prim, Scalar, ScalarExpr, ScalarNode, wrap_int};
pub use tensor::{Bytes, Element, Tensor, TensorError};
pub use types::{Shape, TensorType, Type};
pub use verify::{VerifyError, verify};
