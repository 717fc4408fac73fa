//! Runs of compiled modules on data.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kiln_ir::{Dim, GraphId, Module, Type, Value};
use kiln_passes::quantize::{Choice, Plan, Statistics, probe, twins};
use kiln_runtime::{Datum, Executable, Session, SessionOptions};

use super::data::{Data, DataError};
use crate::agreement::Agreement;
use crate::{Error, Options};

/// Why calibration stopped.
#[derive(Debug, thiserror::Error)]
pub enum CalibrationError {
    /// The data does not fit.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The model does not run on a sample.
    #[error("{}: sample {sample}: {source}", path.display())]
    Run {
        /// The file.
        path: PathBuf,
        /// The sample, from 0 over all files.
        sample: usize,
        /// The cause.
        source: kiln_runtime::RunError,
    },
    /// The model in floats computes NaN or infinity.
    #[error("{}: sample {sample}: the model computes what is not finite, at the operand of {layer}", path.display())]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// The sample, from 0 over all files.
        sample: usize,
        /// The layer that takes it.
        layer: String,
    },
}

/// Outputs of runs, by number of the sample.
pub type Outputs = Vec<(usize, Vec<Datum>)>;

/// Most bytes of values that one run gives beside the outputs.
const MOST_BYTES: i64 = 256 << 20;

/// A session on a module.
pub(crate) fn session(module: Module, options: &Options) -> Result<Session, Error> {
    let compiled = crate::compile(module, options)?;
    let threads = options.threads;
    Ok(Session::new(
        Arc::new(Executable::from_image(compiled.image)?),
        SessionOptions { threads, ..SessionOptions::default() },
    ))
}

/// Runs one sample from the initial states.
pub(crate) fn run(
    session: &Session,
    entry: &str,
    (path, sample): (&Path, usize),
    inputs: &[Datum],
) -> Result<Vec<Datum>, Error> {
    session.reset_states();
    session
        .run(entry, inputs)
        .map_err(|source| CalibrationError::Run { path: path.to_owned(), sample, source }.into())
}

/// Statistics of the points' values on the samples that `calibrating` accepts, and the outputs of those that `held_out`
/// accepts. Values are observed in parts, so that memory stays bounded.
pub(crate) fn observe(
    (module, plan): (&Module, &Plan),
    options: &Options,
    data: &Data,
    calibrating: &dyn Fn(usize) -> bool,
    held_out: &dyn Fn(usize) -> bool,
) -> Result<(Vec<Statistics>, Outputs), Error> {
    let name = module.graph(plan.graph).name().to_owned();
    let count = module.graph(plan.graph).outputs().len();
    let mut seen: Vec<Statistics> = plan.points.iter().map(|p| Statistics::new(p.axis)).collect();
    let mut outputs: Outputs = vec![];
    let parts = parts(module, plan, data)?;
    for (turn, part) in parts.iter().enumerate() {
        let values: Vec<Value> = part.iter().filter_map(|&i| plan.points.get(i)).map(|p| p.value).collect();
        let session = session(probe(module, plan, &values), options)?;
        let wanted = |n: usize| calibrating(n) || (turn == 0 && held_out(n));
        data.visit::<Error>(&wanted, &mut |n, path, inputs| {
            let mut results = run(&session, &name, (path, n), inputs)?;
            let observed = results.split_off(count.min(results.len()));
            if calibrating(n) {
                for (value, &i) in observed.iter().zip(part) {
                    let (Some(tensor), Some(statistics)) = (value.as_tensor(), seen.get_mut(i)) else {
                        continue;
                    };
                    statistics.add(tensor).map_err(|_| {
                        let layers = plan.points.get(i).map(|p| p.layers.iter().chain(&p.makers));
                        let layer = layers.into_iter().flatten().find_map(|&l| plan.layers.get(l));
                        let layer = layer.map_or_else(String::new, |l| l.name.clone());
                        CalibrationError::NotFinite { path: path.to_owned(), sample: n, layer }
                    })?;
                }
            }
            if turn == 0 && held_out(n) {
                outputs.push((n, results));
            }
            Ok(())
        })?;
    }
    Ok((seen, outputs))
}

/// The points in parts whose values take bounded memory together, for the sizes of the first sample.
fn parts(module: &Module, plan: &Plan, data: &Data) -> Result<Vec<Vec<usize>>, Error> {
    let graph = module.graph(plan.graph);
    let mut sizes: Vec<(Dim, i64)> = vec![];
    data.visit::<Error>(&|n| n == 0, &mut |_, _, inputs| {
        for (&v, datum) in graph.inputs().iter().zip(inputs) {
            let (Type::Tensor(ty), Some(t)) = (graph.ty(v), datum.as_tensor()) else { continue };
            for (dim, &size) in ty.shape.dims().unwrap_or(&[]).iter().zip(t.dims()) {
                sizes.push((dim.clone(), i64::try_from(size).unwrap_or(i64::MAX)));
            }
        }
        Ok(())
    })?;
    let value =
        |s: &kiln_ir::Symbol| sizes.iter().find(|(d, _)| d.as_symbol() == Some(s)).map(|(_, size)| *size);
    let bytes = |v: Value| {
        let dims = graph.ty(v).as_tensor().and_then(|t| t.shape.dims()).unwrap_or(&[]);
        let count = dims.iter().try_fold(4i64, |n, d| n.checked_mul(d.eval(&value).unwrap_or(1).max(1)));
        count.unwrap_or(i64::MAX)
    };
    let (mut all, mut part, mut total) = (vec![], vec![], 0i64);
    for (i, point) in plan.points.iter().enumerate() {
        let size = bytes(point.value);
        if !part.is_empty() && total.saturating_add(size) > MOST_BYTES {
            all.push(std::mem::take(&mut part));
            total = 0;
        }
        part.push(i);
        total = total.saturating_add(size);
    }
    all.push(part);
    Ok(all)
}

/// Outputs of a module on the samples that `wanted` accepts.
pub(crate) fn outputs(
    module: &Module,
    graph: GraphId,
    options: &Options,
    data: &Data,
    wanted: &dyn Fn(usize) -> bool,
) -> Result<Outputs, Error> {
    let name = module.graph(graph).name().to_owned();
    let session = session(module.clone(), options)?;
    let mut all = vec![];
    data.visit::<Error>(wanted, &mut |n, path, inputs| {
        all.push((n, run(&session, &name, (path, n), inputs)?));
        Ok(())
    })?;
    Ok(all)
}

/// How a module's outputs agree with those expected, output by output.
pub(crate) fn agreement(
    module: &Module,
    graph: GraphId,
    options: &Options,
    data: &Data,
    expected: &Outputs,
) -> Result<Vec<Agreement>, Error> {
    let name = module.graph(graph).name().to_owned();
    let session = session(module.clone(), options)?;
    let mut all = vec![Agreement::default(); module.graph(graph).outputs().len()];
    let wanted = |n: usize| expected.iter().any(|(m, _)| *m == n);
    data.visit::<Error>(&wanted, &mut |n, path, inputs| {
        let results = run(&session, &name, (path, n), inputs)?;
        let reference = expected.iter().find(|(m, _)| *m == n).map_or(&[][..], |(_, r)| r);
        for ((entry, actual), expected) in all.iter_mut().zip(&results).zip(reference) {
            entry.add(actual, expected);
        }
        Ok(())
    })?;
    Ok(all)
}

/// For each of the plan's layers, the squared norm of what its results lack if it alone is quantized, over that of its
/// results, on the first `most` samples that `wanted` accepts. Layers that are not among `layers` have 0.
pub(super) fn layer_errors(
    (module, plan): (&Module, &Plan),
    choices: &[Choice],
    layers: &[usize],
    options: &Options,
    data: &Data,
    wanted: &dyn Fn(usize) -> bool,
    most: usize,
) -> Result<Vec<f64>, Error> {
    let doubled = twins(module, plan, choices, layers, true)?;
    let name = module.graph(plan.graph).name().to_owned();
    let session = session(doubled.module, options)?;
    let mut sums = vec![(0.0f64, 0.0f64); plan.layers.len()];
    let first: Vec<usize> = (0..data.len()).filter(|&n| wanted(n)).take(most).collect();
    data.visit::<Error>(&|n| first.contains(&n), &mut |n, path, inputs| {
        let results = run(&session, &name, (path, n), inputs)?;
        let number = |d: Option<&Datum>| {
            let values = d.and_then(Datum::as_tensor).and_then(|t| t.to_f64s());
            values.and_then(|v| v.first().copied()).unwrap_or(f64::NAN)
        };
        for (pair, &l) in results.chunks(2).zip(&doubled.layers) {
            if let Some((signal, noise)) = sums.get_mut(l) {
                *signal += number(pair.first());
                *noise += number(pair.get(1));
            }
        }
        Ok(())
    })?;
    Ok(sums.into_iter().map(|(signal, noise)| if noise == 0.0 { 0.0 } else { noise / signal }).collect())
}
