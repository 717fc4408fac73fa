//! Quantizing a model: calibration runs, parameters, measured errors, and the report.

pub(crate) mod calibrate;
mod data;
mod report;

use std::path::PathBuf;

use kiln_ir::{GraphId, Module, Type};
use kiln_passes::NarrowWeights;
use kiln_passes::quantize::{
    Choice, Groups, Kept, Plan, QuantizeError, Smoothing, Statistics, Storage, choose, insert,
    insert_dynamic, plan, prepare, store,
};
use rayon::prelude::*;

pub use calibrate::{CalibrationError, Outputs};
pub use data::{Data, DataError};
pub use report::{LayerReport, QuantizeReport};

use crate::agreement::Agreement;
use crate::{Error, Options};

/// How values are quantized.
#[derive(Clone, Debug, PartialEq)]
pub enum Mode {
    /// With parameters that calibration runs on this data show: an `.npz` file or a folder of them.
    Static {
        /// The data.
        data: PathBuf,
    },
    /// With parameters found when the model runs. Data, if there is any, measures the error.
    Dynamic {
        /// The data.
        data: Option<PathBuf>,
    },
    /// Values stay in floats; the weights of contractions are stored in fewer bits. Data, if there is any, shows which
    /// weights matter most, and measures the error.
    Weights {
        /// How they are stored.
        storage: Storage,
        /// The data.
        data: Option<PathBuf>,
    },
}

impl Quantization {
    /// Why it cannot be done whatever the model is: groups that no layer has, an error that nothing measures.
    pub fn refused(&self) -> Option<String> {
        match &self.mode {
            Mode::Static { .. } => None,
            Mode::Dynamic { .. } | Mode::Weights { .. } if self.max_drop.is_some() => {
                Some("layers go back to floats by calibrated errors, in the mode int8 alone".to_owned())
            }
            Mode::Dynamic { .. } => None,
            Mode::Weights { storage: Storage::Groups(groups), .. } => groups.refused(),
            Mode::Weights { storage: Storage::F16 | Storage::Bf16, .. } => None,
        }
    }
}

/// What to quantize.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantization {
    /// How.
    pub mode: Mode,
    /// Largest accepted error of the outputs: the norm of all differences on held-out samples over the norm of the results in
    /// floats, for the output where it is largest. Layers of the largest error stay in floats until it holds.
    pub max_drop: Option<f64>,
}

/// A quantized module with the story of it.
#[derive(Debug)]
pub struct Quantized {
    /// The module.
    pub module: Module,
    /// What [`kiln_passes::Options::narrow`] has to be, so that its weights are not widened when it is compiled.
    pub narrow: NarrowWeights,
    /// What was done, and the errors measured.
    pub report: QuantizeReport,
}

/// One of so many samples is held out: it measures errors and is not calibrated on.
pub(crate) const HELD_OUT: usize = 5;

/// Most samples that measure errors.
const MOST_HELD_OUT: usize = 64;

/// Samples that measure the errors of single layers.
const LAYER_SAMPLES: usize = 4;

/// The part of the remaining layers that goes back to floats at a time.
const RESTORED: usize = 12;

/// Quantizes the first entry point of a module; layers of others stay in floats.
pub fn quantize(module: Module, options: &Options, quantization: &Quantization) -> Result<Quantized, Error> {
    if let Some(reason) = quantization.refused() {
        return Err(Error::Quantization { reason });
    }
    // Errors are measured on this machine, whatever the artifact is for.
    let mut options = Options { tier: None, listings: false, ..options.clone() };
    if let Mode::Weights { storage: Storage::F16 | Storage::Bf16, .. } = &quantization.mode {
        options.passes.narrow = NarrowWeights::Halves;
    }
    let narrow = options.passes.narrow;
    let mut module = module;
    prepare(&mut module, &options.passes)?;
    let Some(&graph) = module.entries().first() else {
        return Ok(Quantized { report: QuantizeReport::new("none", &module, vec![]), module, narrow });
    };
    let plan = plan(&module, graph);
    let data = match &quantization.mode {
        Mode::Static { data } => Some(data),
        Mode::Dynamic { data } | Mode::Weights { data, .. } => data.as_ref(),
    };
    let data = data.map(|path| Data::open(path, ports(&module, graph))).transpose();
    let run = Run { module, plan, options, data: data.map_err(CalibrationError::from)?, quantization };
    match &quantization.mode {
        Mode::Static { .. } => run.calibrated(),
        Mode::Dynamic { .. } => run.dynamic(),
        Mode::Weights { storage, .. } => run.weights(*storage),
    }
}

/// Names and types of the inputs of a graph.
pub(crate) fn ports(module: &Module, graph: GraphId) -> Vec<(String, Type)> {
    let graph = module.graph(graph);
    let types = graph.inputs().iter().map(|&v| graph.ty(v).clone());
    graph.input_names().iter().cloned().zip(types).collect()
}

/// One quantization.
struct Run<'q> {
    module: Module,
    plan: Plan,
    options: Options,
    data: Option<Data>,
    quantization: &'q Quantization,
}

/// A module with its measured error.
struct Candidate {
    module: Module,
    errors: Vec<Agreement>,
    corrected: bool,
}

impl Candidate {
    /// The largest relative error of an output.
    fn error(&self) -> f64 {
        self.errors.iter().map(Agreement::relative).fold(0.0, f64::max)
    }
}

/// The samples that measure errors: every fifth, or all where there are too few.
pub(crate) fn held_out(count: usize) -> impl Fn(usize) -> bool {
    move |n| count < HELD_OUT || (n % HELD_OUT == HELD_OUT - 1 && n / HELD_OUT < MOST_HELD_OUT)
}

pub(crate) fn calibrating(count: usize) -> impl Fn(usize) -> bool {
    move |n| count < HELD_OUT || n % HELD_OUT != HELD_OUT - 1
}

impl Run<'_> {
    /// Quantizes with what calibration shows.
    fn calibrated(self) -> Result<Quantized, Error> {
        let mut report = QuantizeReport::new("int8", &self.module, self.plan.kept.clone());
        let Some(data) = self.data.as_ref().filter(|_| !self.plan.layers.is_empty()) else {
            return Ok(Quantized { module: self.module, narrow: self.options.passes.narrow, report });
        };
        let count = data.len();
        let (seen, outputs) = calibrate::observe(
            (&self.module, &self.plan),
            &self.options,
            data,
            &calibrating(count),
            &held_out(count),
        )?;
        report.samples = (0..count).filter(|&n| calibrating(count)(n)).count();
        report.held_out = outputs.len();
        report.shared_samples = count < HELD_OUT;
        let choices = self.choices(&seen)?;
        let all: Vec<usize> = (0..self.plan.layers.len()).collect();
        let signals = calibrate::layer_errors(
            (&self.module, &self.plan),
            &choices,
            &all,
            &self.options,
            data,
            &held_out(count),
            LAYER_SAMPLES,
        )?;
        let mut quantized = vec![true; self.plan.layers.len()];
        let mut best = self.measured(&choices, &quantized, &outputs)?;
        if let Some(bar) = self.quantization.max_drop {
            let mut order: Vec<usize> = all;
            order.sort_by(|&a, &b| signals[b].total_cmp(&signals[a]).then(a.cmp(&b)));
            let mut rest = order.into_iter();
            while best.error() > bar {
                let left = quantized.iter().filter(|q| **q).count();
                let next: Vec<usize> = rest.by_ref().take(left.div_ceil(RESTORED)).collect();
                if next.is_empty() {
                    break;
                }
                for l in next {
                    quantized[l] = false;
                }
                best = self.measured(&choices, &quantized, &outputs)?;
            }
        }
        report.corrected = best.corrected;
        report.layers = self.layer_reports(&choices, &quantized, &signals);
        report.finish(&best.module, self.output_errors(best.errors));
        Ok(Quantized { module: best.module, narrow: self.options.passes.narrow, report })
    }

    /// The parameters of every point.
    fn choices(&self, seen: &[Statistics]) -> Result<Vec<Choice>, Error> {
        let graph = self.module.graph(self.plan.graph);
        let one = |(point, statistics): (&kiln_passes::quantize::Point, &Statistics)| {
            let layers: Vec<_> = point
                .layers
                .iter()
                .filter_map(|&l| self.plan.layers.get(l))
                .filter_map(|l| l.weights(graph).map(|w| (l, w)))
                .collect();
            // Bytes that are moved have no channels of their own.
            let moved = point.bases[..] != [point.value];
            let smoothing = if moved { Smoothing::Off } else { Smoothing::Measured };
            choose(statistics, &layers, smoothing)
        };
        let pairs: Vec<_> = self.plan.points.iter().zip(seen).collect();
        let chosen: Result<Vec<Choice>, _> = pairs.into_par_iter().map(one).collect();
        chosen.map_err(|source| {
            Error::Quantize(QuantizeError::Tensor { node: "the weights".to_owned(), source })
        })
    }

    /// The module with these layers quantized, with or without corrected means, whichever errs less.
    fn measured(
        &self,
        choices: &[Choice],
        quantized: &[bool],
        expected: &Outputs,
    ) -> Result<Candidate, Error> {
        let one = |corrected: bool| -> Result<Candidate, Error> {
            let module = insert(&self.module, &self.plan, choices, quantized, corrected)?;
            let errors = self.errors(&module, expected)?;
            Ok(Candidate { module, errors, corrected })
        };
        let (plain, corrected) = (one(false)?, one(true)?);
        Ok(if corrected.error() < plain.error() { corrected } else { plain })
    }

    fn errors(&self, module: &Module, expected: &Outputs) -> Result<Vec<Agreement>, Error> {
        match &self.data {
            Some(data) => calibrate::agreement(module, self.plan.graph, &self.options, data, expected),
            None => Ok(vec![]),
        }
    }

    /// Quantizes with what each run shows.
    fn dynamic(self) -> Result<Quantized, Error> {
        let mut report = QuantizeReport::new("int8-dynamic", &self.module, self.plan.kept.clone());
        let (module, done, kept) = insert_dynamic(&self.module, &self.plan)?;
        report.kept.extend(kept);
        report.layers = done
            .iter()
            .filter_map(|(l, _)| self.plan.layers.get(*l))
            .map(|layer| LayerReport::of(layer, self.module.graph(self.plan.graph)))
            .collect();
        let held = |n: usize| n < MOST_HELD_OUT;
        let data = self.data.as_ref().filter(|_| !done.is_empty());
        let expected = data
            .map(|data| calibrate::outputs(&self.module, self.plan.graph, &self.options, data, &held))
            .transpose()?;
        self.finished(module, report, expected)
    }

    /// Stores weights in fewer bits.
    fn weights(self, storage: Storage) -> Result<Quantized, Error> {
        let mut report = QuantizeReport::new(storage.name(), &self.module, self.plan.kept.clone());
        if let Storage::Groups(Groups { size, asymmetric, rounding, .. }) = storage {
            let points = if asymmetric { "asymmetric" } else { "symmetric" };
            report.detail = Some(format!("groups of {size}, {points}, {}", rounding.name()));
        }
        let (mut seen, mut expected) = (None, None);
        if let Some(data) = self.data.as_ref().filter(|_| !self.plan.layers.is_empty()) {
            let count = data.len();
            let part = (&self.module, &self.plan);
            let found = calibrate::observe(part, &self.options, data, &calibrating(count), &held_out(count))?;
            report.samples = (0..count).filter(|&n| calibrating(count)(n)).count();
            report.shared_samples = count < HELD_OUT;
            (seen, expected) = (Some(found.0), Some(found.1));
        }
        let (module, done, kept) = store(&self.module, &self.plan, storage, seen.as_deref())?;
        report.kept.extend(kept);
        let graph = self.module.graph(self.plan.graph);
        for stored in &done {
            let Some(layer) = self.plan.layers.get(stored.layer) else { continue };
            let mut entry = LayerReport::of(layer, graph);
            entry.sqnr_db = Some(stored.sqnr_db);
            entry.bytes = Some((stored.bytes_before, stored.bytes_after));
            report.layers.push(entry);
        }
        self.finished(module, report, expected)
    }

    /// Measures errors against what is expected, if there is any.
    fn finished(
        self,
        module: Module,
        mut report: QuantizeReport,
        expected: Option<Outputs>,
    ) -> Result<Quantized, Error> {
        let mut errors = vec![];
        if let Some(expected) = expected.filter(|_| !report.layers.is_empty()) {
            report.held_out = expected.len();
            errors = self.errors(&module, &expected)?;
        }
        report.finish(&module, self.output_errors(errors));
        Ok(Quantized { module, narrow: self.options.passes.narrow, report })
    }

    fn output_errors(&self, errors: Vec<Agreement>) -> Vec<(String, Agreement)> {
        let names = self.module.graph(self.plan.graph).output_names();
        names.iter().cloned().zip(errors).collect()
    }

    fn layer_reports(&self, choices: &[Choice], quantized: &[bool], errors: &[f64]) -> Vec<LayerReport> {
        let graph = self.module.graph(self.plan.graph);
        let mut all = vec![];
        for (l, layer) in self.plan.layers.iter().enumerate() {
            let mut entry = LayerReport::of(layer, graph);
            let choice = self.plan.points.iter().zip(choices).find(|(p, _)| p.layers.contains(&l));
            if let Some((_, choice)) = choice {
                entry.range = Some(choice.method.to_string());
                entry.alpha = choice.factors.as_ref().map(|_| choice.alpha);
            }
            entry.sqnr_db = errors.get(l).map(|e| -10.0 * e.log10());
            if !quantized.get(l).copied().unwrap_or(false) {
                let bar = self.quantization.max_drop.unwrap_or_default();
                entry.in_floats = Some(format!("among the largest errors: outputs must err at most {bar}"));
            }
            all.push(entry);
        }
        all
    }
}

impl From<Kept> for LayerReport {
    fn from(kept: Kept) -> Self {
        LayerReport { name: kept.name, in_floats: Some(kept.reason), ..LayerReport::default() }
    }
}
