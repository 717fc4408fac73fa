//! Runtime of Kiln: artifact format, memory plan, threads, sessions. No compiler inside.
//!
//! A compiler emits an [`Image`]: a [`program::Program`] plus code and constants; a session runs it. The contract
//! between compiled kernels and the runtime is [`abi`].

pub mod abi;
pub mod artifact;
pub mod cpu;
pub mod error;
pub mod image;
pub mod map;
pub mod memory;
pub mod peak;
pub mod plan;
pub mod profile;
pub mod program;
pub mod threads;

pub use error::{LoadError, Origin, RunError};
pub use image::{ConstantData, Image};
