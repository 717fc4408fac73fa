//! Whether outputs agree: integers and bools are equal, floats within units in the last place; where nodes magnify
//! rounding errors, results lie where those of the evaluator lie when the operands and results of every node are off by as
//! much as it may round.

use std::collections::BTreeMap;

use kiln::ir::{DType, Datum, Evaluator, GraphId, Module, Scalar, Tensor};
use kiln::loaders::onnx::make::raw_value;
use kiln::loaders::onnx::proto::ModelProto;

use crate::agreement::{DISTURBED_RUNS, close, range, unit, within};
use crate::choices::mix;
use crate::random_model::{Model, Rounding, Step, load};

/// Agreement with a model's outputs.
pub struct Agreement<'m> {
    model: &'m Model,
    /// Made when something is suspect.
    steps: Option<Vec<Loaded>>,
    runs: Vec<Vec<Option<Tensor>>>,
}

/// A node, ready to be evaluated with disturbed operands.
struct Loaded {
    module: Module,
    entry: GraphId,
    inputs: Vec<String>,
    outputs: Vec<String>,
    rounding: Rounding,
}

impl<'m> Agreement<'m> {
    /// Agreement with what the model computes.
    pub fn new(model: &'m Model) -> Self {
        Agreement { model, steps: None, runs: vec![] }
    }

    /// Fails with the first element that does not agree.
    pub fn compare(&mut self, want: &[Tensor], got: &[Tensor]) -> Result<(), String> {
        if want.len() != got.len() {
            return Err(format!("{} outputs instead of {}", got.len(), want.len()));
        }
        for (i, (want, got)) in want.iter().zip(got).enumerate() {
            self.tensor(i, want, got).map_err(|reason| format!("output {i}{reason}"))?;
        }
        Ok(())
    }

    fn tensor(&mut self, output: usize, want: &Tensor, got: &Tensor) -> Result<(), String> {
        if want.dtype() != got.dtype() {
            return Err(format!(" is {} instead of {}", got.ty(), want.ty()));
        }
        if want.dims() != got.dims() {
            // A count of elements may hang on a rounding.
            let allowed = |run: &Option<Tensor>| run.as_ref().is_none_or(|t| t.dims() == got.dims());
            if self.others(output, DISTURBED_RUNS[2]).iter().any(allowed) {
                return Ok(());
            }
            return Err(format!(" is {} instead of {}", got.ty(), want.ty()));
        }
        let (Some(a), Some(b)) = (want.to_scalars(), got.to_scalars()) else {
            return if want == got { Ok(()) } else { Err(" has other elements".to_owned()) };
        };
        let dtype = want.dtype();
        let mut suspects: Vec<usize> = (0..a.len()).filter(|&i| !close(dtype, a[i], b[i])).collect();
        for count in DISTURBED_RUNS {
            if suspects.is_empty() {
                return Ok(());
            }
            let runs = self.others(output, count);
            // Where a node fails or gives another shape when its operands are a little off, nothing is certain.
            if runs.iter().any(|run| run.as_ref().is_none_or(|t| t.dims() != want.dims())) {
                return Ok(());
            }
            suspects.retain(|&i| !within(dtype, a[i], b[i], &elements(runs, i)));
        }
        let Some(&i) = suspects.first() else { return Ok(()) };
        let runs = self.others(output, DISTURBED_RUNS[2]);
        let (low, high) = range(a[i], &elements(runs, i));
        let count = suspects.len();
        Err(format!(
            "[{i}] of {} is {:?}, the evaluator's is {:?}, with errors {low:e} to {high:e}; {count} such elements",
            want.ty(),
            b[i],
            a[i]
        ))
    }

    /// The output in so many disturbed runs.
    fn others(&mut self, output: usize, count: u64) -> &[Option<Tensor>] {
        let steps = self.steps.get_or_insert_with(|| self.model.steps.iter().filter_map(open).collect());
        let names = self.model.outputs();
        if self.runs.is_empty() {
            self.runs = vec![vec![]; names.len()];
        }
        let have = self.runs.first().map_or(0, Vec::len) as u64;
        for seed in have..count {
            let values = disturbed(self.model, steps, seed);
            for (name, runs) in names.iter().zip(&mut self.runs) {
                runs.push(values.get(name).and_then(|d| d.as_tensor().cloned()));
            }
        }
        self.runs.get(output).map_or(&[], Vec::as_slice)
    }
}

fn elements(runs: &[Option<Tensor>], i: usize) -> Vec<Scalar> {
    runs.iter().flatten().filter_map(|t| t.element(i)).collect()
}

/// A node whose float constants are operands, which may be disturbed, where it allows that.
fn open(step: &Step) -> Option<Loaded> {
    let mut opened = step.model.clone();
    if let Some(graph) = &mut opened.graph {
        let floats = |data_type: i32| matches!(data_type, 1 | 10 | 11 | 16);
        for tensor in graph.initializer.iter().filter(|t| floats(t.data_type)) {
            graph.input.push(raw_value(&tensor.name, tensor.data_type, &tensor.dims));
        }
        graph.initializer.retain(|t| !floats(t.data_type));
    }
    let loaded = |model: &ModelProto| {
        let module = load(model).ok()?;
        let graph = model.graph.as_ref()?;
        let inputs = graph.input.iter().map(|i| i.name.clone()).collect();
        let outputs = graph.output.iter().map(|o| o.name.clone()).collect();
        let entry = *module.entries().first()?;
        Some(Loaded { entry, module, inputs, outputs, rounding: step.rounding })
    };
    loaded(&opened).or_else(|| loaded(&step.model))
}

/// Errors of a disturbed run, as shares of the bounds: from -1 to 1.
struct Errors {
    state: u64,
    /// Where all of them point, if they point one way: random ones leave extremes of many elements where they are, but an
    /// implementation that does not round between nodes errs the same way for each element.
    lean: Option<f64>,
}

impl Errors {
    fn of(seed: u64) -> Self {
        // Not in the first runs, whose narrow bounds decide most cases.
        let (down, up) = (DISTURBED_RUNS[0], DISTURBED_RUNS[0] + 1);
        let lean = (seed == down).then_some(-1.0).or((seed == up).then_some(1.0));
        Errors { state: mix(seed ^ 0x5bf0_3635), lean }
    }

    fn next(&mut self) -> f64 {
        self.state = mix(self.state);
        let random = (self.state >> 11) as f64 / (1u64 << 52) as f64 - 1.0;
        self.lean.unwrap_or(random)
    }
}

/// All values, when each node errs within its bounds, at random or one way. What fails has none.
fn disturbed(model: &Model, steps: &[Loaded], seed: u64) -> BTreeMap<String, Datum> {
    let mut errors = Errors::of(seed);
    let made: Vec<&String> = steps.iter().flat_map(|s| &s.outputs).collect();
    let mut values: BTreeMap<String, Datum> = model.values.clone();
    values.retain(|name, _| !made.contains(&name));
    for step in steps {
        let operands: Option<Vec<Datum>> = step
            .inputs
            .iter()
            .map(|name| values.get(name).map(|d| shaken(d, step.rounding, false, &mut errors)))
            .collect();
        let Some(operands) = operands else { continue };
        let Ok(results) = Evaluator::new(&step.module).run(step.entry, &operands) else { continue };
        for (name, datum) in step.outputs.iter().zip(results) {
            let datum = defined(datum, model.values.get(name));
            values.insert(name.clone(), shaken(&datum, step.rounding, true, &mut errors));
        }
    }
    values
}

/// What a node gives for operands that are a little off; where these are outside of what it is defined on (the root of less
/// than nothing, a negative number to the power of nearly 3), what it gives without errors, which compiled code does not
/// leave.
fn defined(datum: Datum, known: Option<&Datum>) -> Datum {
    let (Datum::Tensor(t), Some(Datum::Tensor(known))) = (&datum, known) else { return datum };
    let is_nan = |s: &Scalar| matches!(s, Scalar::F(x) if x.is_nan());
    let (Some(mut scalars), Some(exact)) = (t.to_scalars(), known.to_scalars()) else { return datum };
    if t.dims() != known.dims() || !scalars.iter().any(is_nan) {
        return datum;
    }
    for (scalar, exact) in scalars.iter_mut().zip(exact).filter(|(scalar, _)| is_nan(scalar)) {
        *scalar = exact;
    }
    Tensor::from_scalars(t.dtype(), t.dims(), &scalars).map_or(datum, Datum::Tensor)
}

/// The value, off by as much as the node that takes or gives it may round. Operands of 16 bits are off where nothing rounds,
/// too: one user of a value may see it before it is rounded, and another one after.
fn shaken(datum: &Datum, rounding: Rounding, result: bool, errors: &mut Errors) -> Datum {
    let Datum::Tensor(t) = datum else { return datum.clone() };
    let dtype = t.dtype();
    let (units, least) = match rounding {
        Rounding::Units(units, least) | Rounding::Between(units, least) => (units, least),
        Rounding::Exact if !result && matches!(dtype, DType::F16 | DType::BF16) => (1.0, 0.0),
        Rounding::Exact => return datum.clone(),
    };
    if !matches!(dtype, DType::F16 | DType::BF16 | DType::F32 | DType::F64) {
        return datum.clone();
    }
    let (relative, smallest) = unit(dtype);
    // Double precision has approximations of its own; the absolute part is that of single precision.
    let least = if !result {
        0.0
    } else if dtype == DType::F64 {
        least * 1e-8
    } else {
        least.max(smallest)
    };
    let units = if dtype.bits() < 32 { 1.0 } else { units };
    let scalars = t.to_scalars().unwrap_or_default();
    let largest = scalars.iter().fold(0.0f64, |largest, s| match s {
        Scalar::F(x) if x.is_finite() => largest.max(x.abs()),
        _ => largest,
    });
    let between = matches!(rounding, Rounding::Between(..)) && !result;
    let magnitude = |x: f64| if between { largest } else { x.abs() };
    let scalars: Vec<Scalar> = scalars
        .into_iter()
        .map(|s| match s {
            Scalar::F(x) if x.is_finite() => {
                Scalar::F(x + errors.next() * (units * relative * magnitude(x) + least))
            }
            other => other,
        })
        .collect();
    Tensor::from_scalars(dtype, t.dims(), &scalars).map_or_else(|_| datum.clone(), Datum::Tensor)
}
