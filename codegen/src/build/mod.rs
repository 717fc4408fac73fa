//! Graphs to programs: each fusion graph becomes kernels, everything else steps of the runtime.
//!
//! Guarantee: every verified module compiles. What has no kernel runs in the reference evaluator ([`Summary::slow`]
//! names it); what does not become one kernel becomes several.
//!
//! The way of a region of the graph: [`trace`] walks back from its outputs and makes scalars ([`term`]) over iteration
//! axes ([`expr`]); [`loops`], [`contract`] and [`winograd`] choose loops; [`emit`] writes kernel IR; [`function`] places
//! values in slots and kernels in steps.

mod attention;
mod compile;
mod contract;
mod emit;
mod expr;
mod function;
mod host;
mod loops;
mod movement;
mod narrow;
mod overwrite;
mod panels;
mod program;
mod quads;
mod reduction;
mod region;
mod relayout;
mod rows;
mod scope;
mod serial;
mod small;
mod sparse;
mod tables;
mod term;
mod trace;
mod winograd;

use kiln_ir::{Module, Value};
use kiln_runtime::image::Image;

pub use compile::{Options, compile};
pub use contract::Tuning;
pub use tables::{LowerKernel, MachineCode};
pub use trace::Refusal;

/// A compiled module.
#[derive(Debug)]
pub struct Compiled {
    /// Plan, code and constants.
    pub image: Image,
    /// What became of the nodes.
    pub summary: Summary,
    /// Text of the kernels, in the order of the program's kernels.
    pub kernel_texts: Vec<String>,
    /// Machine code of the kernels in assembler syntax, in the same order; empty texts unless it was asked for.
    pub kernel_listings: Vec<String>,
}

/// What became of a module's nodes.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Kernels in the code image.
    pub kernels: usize,
    /// Groups of nodes that run as kernels.
    pub kernel_steps: usize,
    /// Nodes inside of them.
    pub kernel_nodes: usize,
    /// Nodes that the reference evaluator runs.
    pub slow: Vec<SlowNode>,
    /// Fusions that were taken apart.
    pub splits: Vec<Split>,
    /// Bytes of code.
    pub code_bytes: u64,
    /// Bytes of constants.
    pub weight_bytes: u64,
    /// Bytes of the arenas of fixed size.
    pub arena_bytes: u64,
}

/// A node that the reference evaluator runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlowNode {
    /// The node.
    pub node: String,
    /// Its operator.
    pub op: String,
    /// Why it has no kernel.
    pub reason: String,
}

/// A fusion that was taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// Its graph.
    pub graph: String,
    /// Why it is not one kernel.
    pub reason: String,
}

/// Why a module does not compile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// A node cannot be lowered, not even to a host step.
    #[error("node {node}: {reason}")]
    Node {
        /// The node.
        node: String,
        /// What is wrong.
        reason: String,
    },
    /// A value is used that nothing defines.
    #[error("graph `{graph}`: {value} is used before its definition")]
    Undefined {
        /// The graph.
        graph: String,
        /// The value.
        value: Value,
    },
    /// The intermediate values do not fit into memory.
    #[error("graph `{graph}`: its intermediate values are larger than the address space")]
    TooLarge {
        /// The graph.
        graph: String,
    },
    /// There is no code generator for the target.
    #[error("no code generator: {0}")]
    Target(String),
}

/// Compiles a module with the given way to make machine code.
pub fn compile_with(
    module: &Module,
    arch: &str,
    tuning: Tuning,
    lower: &LowerKernel<'_>,
) -> Result<Compiled, CompileError> {
    let mut refused = tables::Refused::default();
    loop {
        // A refused kernel makes its nodes take another way. Every round refuses more, so that this ends.
        match program::ProgramBuilder::new(module, tuning, refused).finish(arch, lower)? {
            Ok(compiled) => return Ok(compiled),
            Err(more) => refused = more,
        }
    }
}
