//! Sparsifying a model: calibration runs, pruned weights, measured errors, and the report.

mod refit;

use std::path::PathBuf;

use kiln_ir::{GraphId, Module};
use kiln_passes::quantize::{Kept, Layer, plan, prepare};
use kiln_passes::sparsify::{
    Method, Pruned, Pruning, Replacement, Selected, insert, masked, nonzero, select,
};
use refit::Refit;

use crate::agreement::Agreement;
use crate::quantize::calibrate::{agreement, observe, outputs};
use crate::quantize::{CalibrationError, Data, Outputs, calibrating, held_out, ports};
use crate::{Error, Options};

/// What to sparsify, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct Sparsification {
    /// How weights are scored, which are zero together, and how many are kept.
    pub pruning: Pruning,
    /// An `.npz` file or a folder of them. [`Method::Wanda`] calibrates on it; held-out samples measure the error.
    pub data: Option<PathBuf>,
}

/// A sparse module with the story of it.
#[derive(Debug)]
pub struct Sparsified {
    /// The module.
    pub module: Module,
    /// What was done, and the errors measured.
    pub report: SparsifyReport,
}

/// One layer.
#[derive(Clone, Debug, PartialEq)]
pub struct PrunedLayer {
    /// Its name in the model file.
    pub name: String,
    /// What it is: `linear`, `convolution`, `depthwise`.
    pub kind: &'static str,
    /// Weights.
    pub weights: usize,
    /// The part of them that is not zero.
    pub density: f64,
    /// The power of the results over that of what they lack, in decibels, estimated from the scores.
    pub sqnr_db: Option<f64>,
    /// Why its weights are as they were, if they are.
    pub reason: Option<String>,
}

/// What sparsifying did.
#[derive(Clone, Debug, PartialEq)]
pub struct SparsifyReport {
    /// What was asked for.
    pub pruning: Pruning,
    /// Samples that calibration ran on.
    pub samples: usize,
    /// Samples that measured errors.
    pub held_out: usize,
    /// Whether the samples were too few to hold any out.
    pub shared_samples: bool,
    /// Whether the weights that are kept make up for the others, fitted to calibration's samples, as they do where that errs
    /// less.
    pub fitted: bool,
    /// Layers, in the order they run.
    pub layers: Vec<PrunedLayer>,
    /// Products that are no layers.
    pub kept: Vec<Kept>,
    /// The outputs' agreement with the dense model, on the samples that measured errors.
    pub outputs: Vec<(String, Agreement)>,
}

impl SparsifyReport {
    /// Layers whose weights were pruned.
    pub fn pruned(&self) -> usize {
        self.layers.iter().filter(|l| l.reason.is_none()).count()
    }

    /// Weights of all layers, and those of them that are not zero.
    pub fn weights(&self) -> (usize, usize) {
        let kept = |l: &PrunedLayer| (l.density * l.weights as f64).round() as usize;
        (self.layers.iter().map(|l| l.weights).sum(), self.layers.iter().map(kept).sum())
    }

    /// Everything that keeps its weights, with the reason.
    pub fn dense(&self) -> Vec<(&str, &str)> {
        let layers = self.layers.iter().filter_map(|l| Some((l.name.as_str(), l.reason.as_deref()?)));
        layers.chain(self.kept.iter().map(|k| (k.name.as_str(), k.reason.as_str()))).collect()
    }

    /// The largest relative error of an output, if any was measured.
    pub fn error(&self) -> Option<f64> {
        self.outputs.iter().map(|(_, a)| a.relative()).reduce(f64::max)
    }
}

impl Sparsification {
    /// Why it cannot be done whatever the model is: a density that is none, or that the pattern does not have; a method that
    /// needs data.
    pub fn refused(&self) -> Option<String> {
        let Pruning { method, pattern, density } = self.pruning;
        if !(density > 0.0 && density <= 1.0) {
            return Some(format!("a density is more than 0 and at most 1, not {density}"));
        }
        if let Some(only) = pattern.only_density().filter(|only| *only != density) {
            return Some(format!("the pattern {} has density {only}, not {density}", pattern.name()));
        }
        if method == Method::Wanda && self.data.is_none() {
            return Some("the method wanda needs calibration data".to_owned());
        }
        None
    }
}

/// Sparsifies the first entry point of a module; layers of others stay dense.
pub fn sparsify(
    mut module: Module,
    options: &Options,
    sparsification: &Sparsification,
) -> Result<Sparsified, Error> {
    if let Some(reason) = sparsification.refused() {
        return Err(Error::Sparsify { reason });
    }
    // Errors are measured on this machine, whatever the artifact is for.
    let options = Options { tier: None, listings: false, ..options.clone() };
    prepare(&mut module, &options.passes)?;
    let mut report = SparsifyReport {
        pruning: sparsification.pruning,
        samples: 0,
        held_out: 0,
        shared_samples: false,
        fitted: false,
        layers: vec![],
        kept: vec![],
        outputs: vec![],
    };
    let Some(&graph) = module.entries().first() else { return Ok(Sparsified { module, report }) };
    let plan = plan(&module, graph);
    report.kept.clone_from(&plan.kept);
    let data = sparsification.data.as_ref().map(|path| Data::open(path, ports(&module, graph)));
    let data = data.transpose().map_err(CalibrationError::from)?;
    let (mut seen, mut expected) = (None, vec![]);
    if let Some(data) = data.as_ref().filter(|_| !plan.layers.is_empty()) {
        let count = data.len();
        if sparsification.pruning.method == Method::Wanda {
            let part = (&module, &plan);
            let (statistics, results) = observe(part, &options, data, &calibrating(count), &held_out(count))?;
            report.samples = (0..count).filter(|&n| calibrating(count)(n)).count();
            (seen, expected) = (Some(statistics), results);
        } else {
            expected = outputs(&module, graph, &options, data, &held_out(count))?;
        }
        report.held_out = expected.len();
        report.shared_samples = count < crate::quantize::HELD_OUT;
    }
    let made = select(&module, &plan, seen.as_deref(), &sparsification.pruning);
    let selected: Vec<Selected> = made.iter().flatten().cloned().collect();
    let masked: Vec<Replacement> = selected.iter().filter_map(|s| masked(&module, &plan, s)).collect();
    let measured = Measured { graph, options: &options, data: data.as_ref(), expected };
    let mut best = measured.candidate(insert(&module, &plan, &masked)?.0)?;
    if let Some(data) = data.as_ref().filter(|_| seen.is_some() && !selected.is_empty()) {
        let samples = calibrating(data.len());
        let refit = Refit { module: &module, plan: &plan, options: &options, data, samples: &samples };
        let fitted = refit.all(&selected, masked.clone())?;
        let fitted = measured.candidate(insert(&module, &plan, &fitted)?.0)?;
        if fitted.error() < best.error() {
            (best, report.fitted) = (fitted, true);
        }
    }
    report.layers = plan
        .layers
        .iter()
        .zip(&made)
        .map(|(layer, made)| {
            let weights = layer.weights(module.graph(graph)).map_or(0, kiln_ir::Tensor::numel);
            pruned_layer(layer, weights, made, &masked)
        })
        .collect();
    let names = module.graph(graph).output_names().iter().cloned();
    report.outputs = names.zip(best.errors).collect();
    Ok(Sparsified { module: best.module, report })
}

/// What the report says of a layer.
fn pruned_layer(
    layer: &Layer,
    weights: usize,
    made: &Result<Selected, Pruned>,
    masked: &[Replacement],
) -> PrunedLayer {
    let (density, lost, reason) = match made {
        Ok(selected) => {
            let own = masked.iter().find(|r| r.layer == selected.layer);
            let values = own.and_then(|r| r.weights.to_vec::<f32>().ok());
            (values.map_or(1.0, |w| nonzero(&w)), selected.lost, None)
        }
        Err(pruned) => (pruned.density, pruned.lost, pruned.reason.clone()),
    };
    PrunedLayer {
        name: layer.name.clone(),
        kind: layer.kind.name(),
        weights,
        density,
        sqnr_db: (lost > 0.0).then(|| -10.0 * lost.log10()),
        reason,
    }
}

/// What candidates are measured against.
struct Measured<'m> {
    graph: GraphId,
    options: &'m Options,
    data: Option<&'m Data>,
    /// Outputs of the dense model on held-out samples.
    expected: Outputs,
}

/// A sparse module with its measured errors, output by output.
struct Candidate {
    module: Module,
    errors: Vec<Agreement>,
}

impl Measured<'_> {
    fn candidate(&self, module: Module) -> Result<Candidate, Error> {
        let errors = match self.data.filter(|_| !self.expected.is_empty()) {
            Some(data) => agreement(&module, self.graph, self.options, data, &self.expected)?,
            None => vec![],
        };
        Ok(Candidate { module, errors })
    }
}

impl Candidate {
    /// The largest relative error of an output.
    fn error(&self) -> f64 {
        self.errors.iter().map(Agreement::relative).fold(0.0, f64::max)
    }
}
