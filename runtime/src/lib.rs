//! Runtime of Kiln: artifact format, memory plan, threads, sessions. No compiler inside.
//!
//! A compiler emits an [`Image`]: a [`program::Program`] plus code and constants; a session runs it. The contract
//! between compiled kernels and the runtime is [`abi`].

pub mod abi;
pub mod image;
pub mod peak;
pub mod program;

pub use image::{ConstantData, Image};
