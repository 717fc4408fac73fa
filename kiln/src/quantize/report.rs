//! What quantizing did to a model.

use kiln_ir::op::Source;
use kiln_ir::{Graph, Module, Op};
use kiln_passes::quantize::{Kept, Layer};
use kiln_passes::rewrite::live_graphs;

use crate::agreement::Agreement;

/// One layer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LayerReport {
    /// Its name in the model file.
    pub name: String,
    /// What it is: `linear`, `convolution`, `depthwise`; empty for what is no layer.
    pub kind: &'static str,
    /// Weights.
    pub weights: usize,
    /// The results' power over that of their error if this layer alone is quantized, in decibels, if it was measured; where
    /// only weights have fewer bits, that of the weights, which is infinite where they are as they were.
    pub sqnr_db: Option<f64>,
    /// Bytes of the weights before and after, where only weights have fewer bits.
    pub bytes: Option<(u64, u64)>,
    /// How the range of its value was found.
    pub range: Option<String>,
    /// The exponent of channel factors, if there are any.
    pub alpha: Option<f64>,
    /// Why it stays in floats, if it does.
    pub in_floats: Option<String>,
}

impl LayerReport {
    /// The entry of a layer of a graph, quantized.
    pub(super) fn of(layer: &Layer, graph: &Graph) -> Self {
        LayerReport {
            name: layer.name.clone(),
            kind: layer.kind.name(),
            weights: layer.weights(graph).map_or(0, kiln_ir::Tensor::numel),
            ..LayerReport::default()
        }
    }
}

/// What quantizing did.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantizeReport {
    /// `int8`, `int8-dynamic`, the name of how weights are stored, or `none` for a module without entry points.
    pub mode: &'static str,
    /// How weights are stored, in words.
    pub detail: Option<String>,
    /// Samples that calibration ran on.
    pub samples: usize,
    /// Samples that measured errors.
    pub held_out: usize,
    /// Whether the samples were too few to hold any out, so that errors are measured on those that were calibrated on.
    pub shared_samples: bool,
    /// Layers, in the order they run.
    pub layers: Vec<LayerReport>,
    /// Products that cannot be quantized.
    pub kept: Vec<Kept>,
    /// Whether means of results were corrected.
    pub corrected: bool,
    /// Bytes of all constants before.
    pub bytes_before: u64,
    /// Bytes of all constants after.
    pub bytes_after: u64,
    /// The outputs' agreement with the model in floats, on the samples that measured errors.
    pub outputs: Vec<(String, Agreement)>,
}

impl QuantizeReport {
    pub(super) fn new(mode: &'static str, module: &Module, kept: Vec<Kept>) -> Self {
        let bytes = constant_bytes(module);
        QuantizeReport {
            mode,
            detail: None,
            samples: 0,
            held_out: 0,
            shared_samples: false,
            layers: vec![],
            kept,
            corrected: false,
            bytes_before: bytes,
            bytes_after: bytes,
            outputs: vec![],
        }
    }

    pub(super) fn finish(&mut self, module: &Module, outputs: Vec<(String, Agreement)>) {
        self.bytes_after = constant_bytes(module);
        self.outputs = outputs;
    }

    /// Bytes of the weights that have fewer bits, before and after; nothing where layers run on integers.
    pub fn weight_bytes(&self) -> Option<(u64, u64)> {
        let sizes = self.layers.iter().filter_map(|l| l.bytes);
        sizes.reduce(|(a, b), (before, after)| (a + before, b + after))
    }

    /// Layers that run on integers, or whose weights have fewer bits.
    pub fn quantized(&self) -> usize {
        self.layers.iter().filter(|l| l.in_floats.is_none()).count()
    }

    /// Everything that stays in floats, with the reason.
    pub fn in_floats(&self) -> Vec<(&str, &str)> {
        let layers = self.layers.iter().filter_map(|l| Some((l.name.as_str(), l.in_floats.as_deref()?)));
        layers.chain(self.kept.iter().map(|k| (k.name.as_str(), k.reason.as_str()))).collect()
    }

    /// The largest relative error of an output, if any was measured.
    pub fn error(&self) -> Option<f64> {
        self.outputs.iter().map(|(_, a)| a.relative()).reduce(f64::max)
    }
}

/// Bytes of the constants that entry points reach.
fn constant_bytes(module: &Module) -> u64 {
    let constants = live_graphs(module).into_iter().flat_map(|g| module.graph(g).scheduled());
    let bytes = constants.map(|(_, n)| match &n.op {
        Op::Source(Source::Constant { value }) => value.bytes().len() as u64,
        _ => 0,
    });
    bytes.sum()
}
