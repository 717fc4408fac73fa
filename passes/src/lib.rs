//! Graph to graph passes of Kiln: one table of passes ([`PASSES`]), one rewrite engine ([`rewrite`]).
//!
//! Guarantees:
//! - a pass changes a graph only by applying patches, removing dead nodes, or reordering the schedule;
//! - after every pass the module is well-typed (verified in debug builds) and means what it meant before, up to
//!   floating-point rounding;
//! - the same module and options give the same result: no hash order, clock or environment reaches it;
//! - a rule whose pattern fits but that does not apply says why ([`Report`]).
#![forbid(unsafe_code)]

mod affine;
mod canonicalize;
mod cleanup;
mod decompose;
mod error;
mod fold;
mod fuse;
mod inline;
mod integers;
mod layout;
mod narrow;
mod options;
pub mod pattern;
mod pipeline;
pub mod quantize;
mod recognize;
mod report;
pub mod rewrite;
mod siblings;
pub mod sparsify;
mod views;

pub use error::PassError;
pub use options::{ConvLayout, FoldBudget, FuseLimits, NarrowWeights, Options};
pub use pipeline::{PASSES, Pass, check_order, optimize, run_pass};
pub use report::{PassReport, Refusals, Refused, Report};
