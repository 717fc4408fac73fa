//! Lowerings of kernel IR to machine code.

pub mod clif;
pub mod jit;
pub mod wide;
