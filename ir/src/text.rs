//! Text form of modules: a deterministic printer and a parser.
//!
//! ```text
//! module {
//!   state "h" = f32[2] [0.0, 0.0]
//!   resource @w0: f32[768, 768]
//!   entry g0
//!   graph g0 "main" (%0 "x": f32[N, 768]) {
//!     %1: f32[768, 768] = constant {value=@w0}
//!     %2: f32[N, 768] = contract(%0, %1) {spec="mk,kn->mn", out=f32} loc("m.onnx", "", "MatMul_3", "MatMul-13")
//!     %3 "y": f32[N, 768] = relu(%2)
//!     return %3 "y"
//!   }
//! }
//! ```
//!
//! Guarantees: printing is deterministic and numbers values densely in order of definition; parsing gives a module
//! that prints the same, or an error with line and column; it never panics, and takes time and memory in proportion
//! to the text. Types are printed with every result and checked against inference on the way in.

pub mod lexer;
mod parse;
mod print;

use std::fmt;

pub use parse::{parse_module, parse_module_unchecked};
pub use print::{TextOptions, print_graph, print_module, print_module_with};

use crate::Tensor;

/// Large constants of a printed module, by number: `@w0` is the first.
#[derive(Clone, Debug, Default)]
pub struct Resources(pub Vec<Tensor>);

/// Why a text is not a module.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ParseError {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub reason: String,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}: {}", self.line, self.column, self.reason)
    }
}
