//! Quantization of models in floats to 8 bits: what is quantized, with which parameters, and the graph with quantization
//! and dequantization in it, which the pass `integers` then runs on integers.
//!
//! - [`plan`] finds the layers, which multiply values with constant weights, the points at which values are quantized, and
//!   the layers that stay in floats, with the reason;
//! - [`Statistics`] sees values of calibration runs ([`probe`] makes the module that gives them);
//! - [`choose`] finds scale, zero point and channel factors of a point, and the integers of the weights of its layers;
//! - [`insert`] makes the quantized module, [`insert_dynamic`] the one that quantizes values when it runs;
//! - [`twins`] makes the module that measures the error of each layer alone;
//! - [`store`] makes the module whose weights alone have fewer bits.
//!
//! Weights are quantized symmetrically to i8, with a scale for each output channel; values to u8, with one scale and zero
//! point. Where channels of a value differ in range, factors make them alike before they are quantized, and the
//! weights take the inverse (SmoothQuant, arXiv:2211.10438; cross-layer equalization, arXiv:1906.04721): the
//! quantization has a scale for each channel then, so that it costs nothing.

mod choice;
mod dynamic;
mod insert;
mod layers;
mod measure;
mod points;
mod ranges;
mod statistics;
mod weight_only;
mod weights;

use std::borrow::Cow;

use kiln_ir::{GraphId, InferError, Module, NodeId, Tensor, Value};

pub use choice::{Choice, Smoothing, choose};
pub use dynamic::insert_dynamic;
pub use insert::insert;
pub(crate) use insert::{Editor, products};
#[cfg(test)]
pub(crate) use layers::tests::layer;
pub use layers::{Layer, LayerKind};
pub use measure::{Twins, probe, show, twins};
pub use points::Point;
pub use ranges::{Method, Range};
pub use statistics::{NotFinite, Statistics};
pub use weight_only::{Bits, GROUP_SIZES, Groups, Rounding, Storage, Stored, store};
pub use weights::Weights;

use crate::rewrite::Uses;
use crate::{NarrowWeights, Options, PASSES, PassError, Report, run_pass};

/// The elements of a tensor of f32; a copy where they do not lie as such in memory.
pub(crate) fn floats(t: &Tensor) -> Option<Cow<'_, [f32]>> {
    match t.as_slice::<f32>() {
        Some(all) => Some(Cow::Borrowed(all)),
        None => t.to_vec::<f32>().ok().map(Cow::Owned),
    }
}

/// A layer that stays in floats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The layer, as messages name nodes.
    pub name: String,
    /// Why.
    pub reason: String,
}

/// What a graph has to quantize.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The graph.
    pub graph: GraphId,
    /// Layers that can be quantized, in the order they run.
    pub layers: Vec<Layer>,
    /// Where values are quantized, in the order they are computed.
    pub points: Vec<Point>,
    /// Layers that cannot be quantized.
    pub kept: Vec<Kept>,
}

/// Why no quantized module could be made.
#[derive(Debug, thiserror::Error)]
pub enum QuantizeError {
    /// A node does not type.
    #[error("quantizing {node}: {source}")]
    Infer {
        /// The node.
        node: String,
        /// What does not fit.
        source: InferError,
    },
    /// A patch does not apply.
    #[error("quantizing {node}: {source}")]
    Edit {
        /// The node.
        node: String,
        /// The cause.
        source: kiln_ir::EditError,
    },
    /// A tensor could not be made.
    #[error("quantizing {node}: {source}")]
    Tensor {
        /// The node.
        node: String,
        /// The cause.
        source: kiln_ir::TensorError,
    },
}

/// The passes after which a graph is planned: they leave weights as constants that batch normalization has gone into.
const PREPARATION: &[&str] =
    &["inline", "canonicalize", "share", "recognize", "affine", "views", "fold", "dce"];

/// Brings a module into the form that [`plan`] reads.
pub fn prepare(module: &mut Module, options: &Options) -> Result<(), PassError> {
    let mut report = Report::default();
    // Weights are quantized anew, in whatever form they are.
    let options = &Options { narrow: NarrowWeights::None, ..options.clone() };
    for pass in PASSES.iter().filter(|p| PREPARATION.contains(&p.name)) {
        run_pass(pass, module, options, &mut report)?;
    }
    Ok(())
}

/// Finds layers and points of a prepared graph.
pub fn plan(module: &Module, graph: GraphId) -> Plan {
    let uses = Uses::of(module.graph(graph));
    let (layers, kept) = layers::find(module, graph);
    let points = points::find(module.graph(graph), &uses, &layers);
    Plan { graph, layers, points, kept }
}

impl Plan {
    /// The values whose statistics are needed, point by point.
    pub fn values(&self) -> Vec<Value> {
        self.points.iter().map(|p| p.value).collect()
    }

    /// The index of the layer at a node.
    pub fn layer_at(&self, node: NodeId) -> Option<usize> {
        self.layers.iter().position(|l| l.node == node)
    }
}
