//! What the benches share: the machine and its peak, kernels and graphs that are ready to run, and tables.
//!
//! A bench answers one question with a table of its own, whose figures are the best of short runs in turns with the
//! peak or with peers, so that a busy neighbour slows all; criterion's statistics of whole runs stand above it.
//!
//! Environment: `KILN_TIER=x86-64-v3` takes another tier than this machine's, `KILN_PORTABLE=1` its 128-bit code (kernel
//! benches only), `KILN_CASE=conv` the cases with such names, `KILN_ZOO=FOLDER` the models that `cargo xtask zoo` wrote.

pub mod bytes;
pub mod contraction;
pub mod graph;
pub mod kernel;
pub mod machine;
#[cfg(feature = "peers")]
pub mod peers;
pub mod rotate;
pub mod stream;
pub mod table;
pub mod zoo;

/// What a bench may end with.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;
