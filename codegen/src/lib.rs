//! Code generation of Kiln: kernel IR, schedules, lowerings, packing.

pub mod build;
pub mod interp;
pub mod kir;
pub mod lower;
pub mod schedule;
