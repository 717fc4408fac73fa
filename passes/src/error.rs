//! Errors of the passes. Each is a defect of a pass or of its options, never of a valid model.

use kiln_ir::{EditError, InferError};

/// Why the passes stopped.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    /// An option names a pass that does not exist.
    #[error("no pass is named `{name}`; the passes are {all}")]
    UnknownPass {
        /// The name given.
        name: String,
        /// The names there are.
        all: String,
    },
    /// The table lists a pass before one that it needs.
    #[error("pass `{pass}` stands before `{needs}`, which it needs: {why}")]
    Order {
        /// The pass.
        pass: &'static str,
        /// What must stand before it.
        needs: &'static str,
        /// The reason.
        why: &'static str,
    },
    /// The rules did not reach a fixpoint.
    #[error(
        "pass `{pass}` applied {bound} rewrites to graph `{graph}` without an end; the last was `{rule}`"
    )]
    Diverges {
        /// The pass.
        pass: &'static str,
        /// The graph's name.
        graph: String,
        /// The rewrites applied.
        bound: usize,
        /// The last rule that applied.
        rule: &'static str,
    },
    /// A patch does not apply.
    #[error("pass `{pass}`, rule `{rule}`: {source}")]
    Edit {
        /// The pass.
        pass: &'static str,
        /// The rule.
        rule: &'static str,
        /// What is wrong with the patch.
        source: EditError,
    },
    /// A pass built an ill-typed node.
    #[error("pass `{pass}` at {node}: {source}")]
    Infer {
        /// The pass.
        pass: &'static str,
        /// The node being rewritten.
        node: String,
        /// What does not fit.
        source: InferError,
    },
    /// The module is not valid after a pass.
    #[error("the module is not valid after pass `{pass}`: {reason}")]
    Invalid {
        /// The pass.
        pass: &'static str,
        /// What the verifier found.
        reason: String,
    },
}
