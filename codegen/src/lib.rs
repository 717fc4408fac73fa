//! Code generation of Kiln: kernel IR, schedules, lowerings, packing.

pub mod build;
pub mod interp;
pub mod kir;
pub mod lower;
pub mod schedule;

// The support of the integration tests names this crate; unit tests share it.
#[cfg(test)]
extern crate self as kiln_codegen;

/// What tests of kernels share with those in `tests/`.
#[cfg(test)]
#[path = "../tests/support/mod.rs"]
mod support;
