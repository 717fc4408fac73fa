//! Runtime of Kiln: artifact format, memory plan, threads, sessions. No compiler inside.
//!
//! A compiler emits an [`Image`]: a [`program::Program`] plus code and constants; a session runs it. The contract
//! between compiled kernels and the runtime is [`abi`].

pub mod abi;
pub mod artifact;
pub mod cpu;
pub mod error;
mod exec;
pub mod executable;
mod host;
pub mod image;
pub mod map;
pub mod memory;
pub mod peak;
pub mod plan;
mod prepare;
pub mod profile;
pub mod program;
pub mod session;
mod symbols;
pub mod threads;
mod validate;

pub use error::{LoadError, Origin, RunError};
pub use exec::MemoryPlan;
pub use executable::Executable;
pub use image::{ConstantData, Image};
pub use kiln_ir::{DType, Datum, Tensor};
pub use session::{CancelToken, RunOptions, Session, SessionOptions, TensorMut, TensorRef};
pub use threads::Threads;
