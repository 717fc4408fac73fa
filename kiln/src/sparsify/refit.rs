//! Weights that make up for those that became zero, layer by layer, on samples that calibrate.

use std::collections::HashMap;

use kiln_ir::op::{Contract, ContractSpec};
use kiln_ir::{Build, DType, GraphBuilder, InferError, Module, Tensor, Type, Value};
use kiln_passes::quantize::{Plan, show};
use kiln_passes::sparsify::{Features, Fit, Replacement, Selected, insert, refit};
use kiln_runtime::{Datum, Session};

use crate::quantize::Data;
use crate::quantize::calibrate::{run, session};
use crate::{Error, Options};

/// Times that the sparse model is made anew, for the layers behind those that were fitted; more where layers are wide.
const STAGES: usize = 12;

/// Most bytes of rows that are kept for the layers of a stage, if it has more than one.
const MOST_BYTES: usize = 1 << 30;

/// Rows that a layer is fitted to, for each of its features and beside them.
const ROWS: [usize; 2] = [2, 2048];

/// Rows that a layer of so many features is fitted to.
fn rows_of(width: usize) -> usize {
    width.saturating_mul(ROWS[0]).saturating_add(ROWS[1])
}

/// What fits layers of one model.
pub(super) struct Refit<'r> {
    pub module: &'r Module,
    pub plan: &'r Plan,
    pub options: &'r Options,
    pub data: &'r Data,
    /// Samples that may be looked at.
    pub samples: &'r dyn Fn(usize) -> bool,
}

/// A layer on its way.
struct Layer<'s> {
    selected: &'s Selected,
    features: Features,
    /// The place of its operand among those observed.
    value: usize,
    /// Rows of the sparse and of the dense model.
    rows: [Vec<f32>; 2],
}

impl Refit<'_> {
    /// The replacements with weights that are fitted, where layers are products of rows with a matrix.
    pub fn all(&self, selected: &[Selected], mut all: Vec<Replacement>) -> Result<Vec<Replacement>, Error> {
        let graph = self.module.graph(self.plan.graph);
        let fits = |s: &&Selected| Features::of(self.plan, graph, s.layer).is_some();
        let fitted: Vec<&Selected> = selected.iter().filter(fits).collect();
        let mut products = Products { options: self.options, sessions: HashMap::new() };
        let mut left = &fitted[..];
        while !left.is_empty() {
            let (stage, rest) = left.split_at(self.stage(left, fitted.len()));
            left = rest;
            for layer in self.observed(stage, &all)? {
                let index = layer.selected.layer;
                let Some(replacement) = all.iter_mut().find(|r| r.layer == index) else { continue };
                if let Some((weights, lack)) = self.fitted(layer, &mut products)? {
                    (replacement.weights, replacement.lack) = (weights, lack);
                }
            }
        }
        Ok(all)
    }

    /// How many of the layers that are left, of so many in all, are the next stage.
    fn stage(&self, left: &[&Selected], all: usize) -> usize {
        let graph = self.module.graph(self.plan.graph);
        let mut bytes = 0usize;
        let fits = |s: &&&Selected| {
            let width = Features::of(self.plan, graph, s.layer).map_or(0, |f| f.width());
            let rows =
                [width, rows_of(width), 2 * size_of::<f32>()].into_iter().fold(1, usize::saturating_mul);
            bytes = bytes.saturating_add(rows);
            bytes <= MOST_BYTES
        };
        let count = left.iter().take(all.div_ceil(STAGES)).take_while(fits).count();
        count.max(1).min(left.len())
    }

    /// The layers of a stage with rows of what they multiply.
    fn observed<'s>(&self, stage: &[&'s Selected], all: &[Replacement]) -> Result<Vec<Layer<'s>>, Error> {
        let graph = self.module.graph(self.plan.graph);
        let (sparse, replaced) = insert(self.module, self.plan, all)?;
        let mut values: Vec<Value> = vec![];
        let mut layers = vec![];
        for &selected in stage {
            let Some(layer) = self.plan.layers.get(selected.layer) else { continue };
            let Some(features) = Features::of(self.plan, graph, selected.layer) else { continue };
            let value = values.iter().position(|v| *v == layer.x).unwrap_or(values.len());
            if value == values.len() {
                values.push(layer.x);
            }
            layers.push(Layer { selected, features, value, rows: [vec![], vec![]] });
        }
        let own: Vec<Value> = values.iter().map(|v| replaced.get(v).copied().unwrap_or(*v)).collect();
        let sessions = [
            session(show(&sparse, self.plan, &own), self.options)?,
            session(show(self.module, self.plan, &values), self.options)?,
        ];
        let samples = (0..self.data.len()).filter(|&n| (self.samples)(n)).count().max(1);
        self.data.visit::<Error>(self.samples, &mut |n, path, inputs| {
            for (which, session) in sessions.iter().enumerate() {
                let seen = run(session, graph.name(), (path, n), inputs)?;
                for layer in &mut layers {
                    let Some(tensor) = seen.get(layer.value).and_then(Datum::as_tensor) else { continue };
                    let width = layer.features.width();
                    let wanted = rows_of(width);
                    // Where there are more samples than rows, the first ones give theirs.
                    let left = wanted.saturating_sub(layer.rows[which].len() / width.max(1));
                    layer.features.rows(tensor, wanted.div_ceil(samples).min(left), &mut layer.rows[which]);
                }
            }
            Ok(())
        })?;
        Ok(layers)
    }

    /// The weights of a layer, and what its results lack on average.
    fn fitted(
        &self,
        layer: Layer<'_>,
        products: &mut Products<'_>,
    ) -> Result<Option<(Tensor, Vec<f32>)>, Error> {
        let graph = self.module.graph(self.plan.graph);
        let own = self.plan.layers.get(layer.selected.layer).and_then(|l| l.weights(graph));
        let Some((weights, values)) = own.and_then(|w| Some((w, w.to_vec::<f32>().ok()?))) else {
            return Ok(None);
        };
        let features = &layer.features;
        let fit = Fit {
            width: features.width(),
            outputs: features.outputs(),
            dense: features.matrix(&values),
            kept: features.matrix(&layer.selected.kept),
        };
        let found = refit(&fit, layer.rows, &mut |a, b, sizes| products.product(a, b, sizes))?;
        Ok(found.and_then(|found| {
            let weights = Tensor::from_slice(weights.dims(), &features.weights(&found.weights)).ok()?;
            Some((weights, found.lack))
        }))
    }
}

/// Compiled products of matrices, by their sizes.
struct Products<'o> {
    options: &'o Options,
    sessions: HashMap<[usize; 3], Session>,
}

impl Products<'_> {
    fn product(&mut self, a: &[f32], b: &[f32], sizes: [usize; 3]) -> Result<Vec<f32>, Error> {
        let [m, k, n] = sizes;
        let failed = |e: &dyn std::fmt::Display| Error::Sparsify { reason: format!("a product: {e}") };
        let session = match self.sessions.entry(sizes) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => {
                let module = module(sizes).map_err(|e| failed(&e))?;
                entry.insert(session(module, self.options)?)
            }
        };
        let tensor =
            |dims: &[usize], values: &[f32]| Tensor::from_slice(dims, values).map_err(|e| failed(&e));
        let inputs = [Datum::Tensor(tensor(&[m, k], a)?), Datum::Tensor(tensor(&[k, n], b)?)];
        let results = session.run("product", &inputs).map_err(|e| failed(&e))?;
        let values = results.first().and_then(Datum::as_tensor).and_then(|t| t.to_vec::<f32>().ok());
        values.ok_or_else(|| failed(&"no floats"))
    }
}

/// A module that multiplies two matrices.
fn module([m, k, n]: [usize; 3]) -> Result<Module, InferError> {
    let mut module = Module::new();
    let mut b = GraphBuilder::new(&mut module, "product");
    let ty = |dims: [usize; 2]| Type::fixed(DType::F32, &dims.map(|d| i64::try_from(d).unwrap_or(i64::MAX)));
    let (x, w) = (b.input("a", ty([m, k])), b.input("b", ty([k, n])));
    let spec = ContractSpec { lhs: b"mk".to_vec(), rhs: b"kn".to_vec(), out: b"mn".to_vec() };
    let y = b.add1(Contract::Einsum { spec, out: DType::F32 }, &[x, w])?;
    b.output("y", y);
    let id = b.finish();
    module.add_entry(id);
    Ok(module)
}
