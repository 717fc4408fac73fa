//! Sparsification of models in floats: weights that matter least become zero, so that kernels leave their products out.
//!
//! Layers are those of [`crate::quantize::plan`]. A weight's score is its square, or times the mean square of the values that
//! it multiplies (Wanda, arXiv:2306.11695), which is what the results lack on average without it. A pattern says which
//! weights go together: kernels that skip four outputs at a time need fewer indices than those that skip single weights.

mod density;
mod features;
mod refit;

use std::collections::HashMap;

use kiln_ir::{Build, Module, Patch, Tensor, Value};

pub use features::Features;
pub use refit::{Fit, Fitted, refit};

use crate::quantize::{Editor, Layer, LayerKind, Plan, QuantizeError, Statistics, floats, products};

/// How weights are scored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// By their magnitude, against all weights of the layer.
    Magnitude,
    /// By their magnitude times that of the values that they multiply, against those of the same output.
    Wanda,
}

/// Which weights are zero together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Each by itself.
    Unstructured,
    /// Four outputs side by side, for one input.
    Block4,
    /// Four inputs side by side, for one output: what kernels of integers add at once.
    Block4Inputs,
    /// Two of four inputs side by side, for each output.
    TwoOfFour,
}

impl Pattern {
    /// The only density that it has, if there is one.
    pub fn only_density(self) -> Option<f64> {
        match self {
            Pattern::Unstructured | Pattern::Block4 | Pattern::Block4Inputs => None,
            Pattern::TwoOfFour => Some(0.5),
        }
    }

    /// Name in options and reports.
    pub fn name(self) -> &'static str {
        match self {
            Pattern::Unstructured => "unstructured",
            Pattern::Block4 => "block4",
            Pattern::Block4Inputs => "block4 along inputs",
            Pattern::TwoOfFour => "2:4",
        }
    }
}

impl Method {
    /// Name in options and reports.
    pub fn name(self) -> &'static str {
        match self {
            Method::Magnitude => "magnitude",
            Method::Wanda => "wanda",
        }
    }
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pruning {
    /// How weights are scored.
    pub method: Method,
    /// Which are zero together.
    pub pattern: Pattern,
    /// The part of the weights that is kept, in (0, 1], of all layers that are pruned; [`Pattern::only_density`] where there
    /// is one.
    pub density: f64,
}

/// What became of a layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Pruned {
    /// The layer, by its index in the plan.
    pub layer: usize,
    /// The part of its weights that is not zero.
    pub density: f64,
    /// The scores of the weights that became zero over those of all: what results lack, to a first approximation, over
    /// the results.
    pub lost: f64,
    /// Why its weights are as they were, if they are.
    pub reason: Option<String>,
}

/// Layers of fewer weights take little time.
const FEWEST: usize = 1 << 12;

/// Convolutions of so few channels read images: they take little time, and all that follows depends on them.
const IMAGE_CHANNELS: usize = 4;

/// Weights of a block.
const BLOCK: usize = 4;

/// The weights of a layer that are kept.
#[derive(Clone, Debug)]
pub struct Selected {
    /// The layer, by its index in the plan.
    pub layer: usize,
    /// For each weight, whether it is.
    pub kept: Vec<bool>,
    /// The scores of the others over those of all.
    pub lost: f64,
}

/// Other weights for a layer.
#[derive(Clone, Debug)]
pub struct Replacement {
    /// The layer, by its index in the plan.
    pub layer: usize,
    /// The weights.
    pub weights: Tensor,
    /// What is added to the results of each output; nothing where it is empty.
    pub lack: Vec<f32>,
}

/// Which weights of the plan's layers are kept, or why a layer keeps all, in the plan's order. `statistics` are those of the
/// plan's points, which [`Method::Wanda`] needs: a layer without any keeps its weights.
///
/// The density is that of all layers that are pruned, together. Each has as much of it as its scores are worth, as parts of
/// those of the layer ([`density`]).
pub fn select(
    module: &Module,
    plan: &Plan,
    statistics: Option<&[Statistics]>,
    pruning: &Pruning,
) -> Vec<Result<Selected, Pruned>> {
    let candidate = |(index, layer): (usize, &Layer)| {
        let point = plan.points.iter().position(|p| p.layers.contains(&index));
        let seen = statistics.zip(point).and_then(|(all, point)| all.get(point));
        candidate(module, plan, layer, seen, pruning).map_err(|reason| {
            let weights = layer.weights(module.graph(plan.graph)).and_then(floats);
            let density = weights.map_or(1.0, |w| nonzero(&w));
            Pruned { layer: index, density, lost: 0.0, reason: Some(reason) }
        })
    };
    let all: Vec<Result<Units, Pruned>> = plan.layers.iter().enumerate().map(candidate).collect();
    let densities = density::shared(all.iter().flatten(), pruning);
    let mut densities = densities.into_iter();
    let select = |(layer, units): (usize, Result<Units, Pruned>)| {
        let units = units?;
        let density = densities.next().unwrap_or(pruning.density);
        let chosen = units.chosen(density);
        let kept: Vec<bool> = units.of.iter().map(|u| chosen.get(*u).copied().unwrap_or(true)).collect();
        let lost: f64 =
            units.sums.iter().zip(&chosen).filter(|(s, c)| **s > 0.0 && !**c).map(|(s, _)| s).sum();
        let total = units.total();
        Ok(Selected { layer, kept, lost: if total > 0.0 { lost / total } else { 0.0 } })
    };
    all.into_iter().enumerate().map(select).collect()
}

/// A layer's weights with those at zero that are not kept.
pub fn masked(module: &Module, plan: &Plan, selected: &Selected) -> Option<Replacement> {
    let weights = plan.layers.get(selected.layer)?.weights(module.graph(plan.graph))?;
    let values = floats(weights)?;
    let pruned: Vec<f32> =
        values.iter().zip(&selected.kept).map(|(v, kept)| if *kept { *v } else { 0.0 }).collect();
    let weights = Tensor::from_slice(weights.dims(), &pruned).ok()?;
    Some(Replacement { layer: selected.layer, weights, lack: vec![] })
}

/// The module with other weights, and what stands in the place of results of layers.
pub fn insert(
    module: &Module,
    plan: &Plan,
    replacements: &[Replacement],
) -> Result<(Module, HashMap<Value, Value>), QuantizeError> {
    let mut editor = Editor::new(module.clone(), plan.graph);
    for replacement in replacements {
        let Some(layer) = plan.layers.get(replacement.layer) else { continue };
        let weights = |p: &mut Patch<'_>| Ok(p.constant(replacement.weights.clone())?);
        products(&mut editor, (layer, None), &weights, &replacement.lack)?;
    }
    editor.module.remove_dead_nodes(plan.graph);
    Ok((editor.module, editor.replaced))
}

/// The part of weights that is not zero.
pub fn nonzero(weights: &[f32]) -> f64 {
    weights.iter().filter(|w| **w != 0.0).count() as f64 / weights.len().max(1) as f64
}

/// What of a layer is kept or not.
#[derive(Clone, Debug)]
struct Units {
    /// The unit of each weight.
    of: Vec<usize>,
    /// The scores of units; negative for numbers that are of none.
    sums: Vec<f64>,
    /// Those that are compared have numbers in a row, so many.
    compared: usize,
}

impl Units {
    fn total(&self) -> f64 {
        self.sums.iter().filter(|s| **s > 0.0).sum()
    }

    /// The units that are kept: of those compared, the ones of the largest scores.
    fn chosen(&self, density: f64) -> Vec<bool> {
        let mut chosen = vec![false; self.sums.len()];
        let size = self.compared.max(1);
        for (group, chosen) in self.sums.chunks(size).zip(chosen.chunks_mut(size)) {
            let live = group.iter().filter(|s| **s >= 0.0).count();
            let count = ((density * live as f64).round() as usize).clamp(1, group.len());
            let mut order: Vec<usize> = (0..group.len()).collect();
            // Those of equal score in the order of their first weight.
            order.select_nth_unstable_by(count - 1, |&a, &b| group[b].total_cmp(&group[a]).then(a.cmp(&b)));
            order.iter().take(count).for_each(|&unit| chosen[unit] = true);
        }
        chosen
    }
}

/// The units of a layer that can be pruned, or why it cannot.
fn candidate(
    module: &Module,
    plan: &Plan,
    layer: &Layer,
    seen: Option<&Statistics>,
    pruning: &Pruning,
) -> Result<Units, String> {
    let weights = layer.weights(module.graph(plan.graph)).ok_or("the weights are not constant")?;
    let values = floats(weights).ok_or("the weights are not of f32")?;
    let (outputs, inputs) = layer.counts(weights.dims());
    if layer.kind == LayerKind::Depthwise {
        return Err("it has one channel a group".into());
    }
    // Kernels of several groups multiply with all weights, and blocks could be of outputs of two groups.
    if layer.groups > 1 {
        return Err(format!("it has {} groups", layer.groups));
    }
    if values.len() < FEWEST {
        return Err(format!("it has {} weights", values.len()));
    }
    if layer.kind == LayerKind::Convolution && inputs <= IMAGE_CHANNELS {
        return Err(format!("it reads an image of {inputs} channels"));
    }
    if layer.output_axis.is_none() {
        return Err("the weights have no axis of outputs".into());
    }
    match pruning.pattern {
        Pattern::Block4 if outputs % BLOCK != 0 => {
            return Err(format!("{outputs} outputs are no whole blocks of {BLOCK}"));
        }
        Pattern::Block4Inputs if layer.input_axis.is_none() => {
            return Err("the weights have no axis of inputs".into());
        }
        Pattern::Block4Inputs if inputs % BLOCK != 0 => {
            return Err(format!("{inputs} inputs are no whole blocks of {BLOCK}"));
        }
        Pattern::Unstructured | Pattern::Block4 | Pattern::Block4Inputs | Pattern::TwoOfFour => {}
    }
    let scores = scores(layer, weights.dims(), &values, seen, pruning.method)?;
    Ok(units(layer, weights.dims(), &scores, pruning))
}

/// The score of each weight.
fn scores(
    layer: &Layer,
    dims: &[usize],
    values: &[f32],
    seen: Option<&Statistics>,
    method: Method,
) -> Result<Vec<f64>, String> {
    let channels = layer.channels(dims);
    let (_, inputs) = layer.counts(dims);
    let squares = values.iter().map(|w| f64::from(*w) * f64::from(*w));
    if method == Method::Magnitude {
        return Ok(squares.collect());
    }
    let energies = seen.filter(|s| !s.is_empty()).map(Statistics::energies).unwrap_or_default();
    if energies.is_empty() {
        return Err("calibration did not reach it".into());
    }
    if layer.input_axis.is_none() || energies.len() != inputs {
        return Err("its values have no axis of input channels".into());
    }
    let energy = |i: usize| energies.get(channels(i).1).copied().unwrap_or(0.0);
    Ok(squares.enumerate().map(|(i, square)| square * energy(i)).collect())
}

/// What of a layer is kept together, and what is compared.
fn units(layer: &Layer, dims: &[usize], scores: &[f64], pruning: &Pruning) -> Units {
    let place = places(layer, dims);
    let of: Vec<usize> = (0..scores.len()).map(|i| place(i).unit(pruning)).collect();
    let compared = match (pruning.pattern, pruning.method) {
        (Pattern::TwoOfFour, _) => BLOCK,
        (_, Method::Magnitude) => usize::MAX,
        (Pattern::Unstructured | Pattern::Block4, Method::Wanda) => place(0).each,
        (Pattern::Block4Inputs, Method::Wanda) => place(0).input_blocks() * place(0).taps,
    };
    // Units that no weight is of are never chosen.
    const NONE: f64 = -1.0;
    let mut sums = vec![NONE; of.iter().max().map_or(0, |most| most + 1)];
    for (unit, score) in of.iter().zip(scores) {
        if let Some(sum) = sums.get_mut(*unit) {
            *sum = sum.max(0.0) + score;
        }
    }
    Units { of, sums, compared }
}

/// Where a weight is.
#[derive(Clone, Copy, Debug)]
struct Place {
    output: usize,
    /// Its place among the weights of the output, and how many those are.
    rest: usize,
    each: usize,
    /// Its input channel, and its place among those of the channel; the place itself where inputs have no axis.
    input: usize,
    tap: usize,
    taps: usize,
}

impl Place {
    /// Blocks of inputs for each output and tap.
    fn input_blocks(self) -> usize {
        (self.each / self.taps).div_ceil(BLOCK)
    }

    /// The number of what it is kept with; what that is compared with has numbers in a row.
    fn unit(self, pruning: &Pruning) -> usize {
        let Place { output, rest, each, input, tap, taps } = self;
        match pruning.pattern {
            Pattern::Unstructured => output * each + rest,
            Pattern::Block4 => output / BLOCK * each + rest,
            Pattern::Block4Inputs => (output * self.input_blocks() + input / BLOCK) * taps + tap,
            Pattern::TwoOfFour => {
                ((output * self.input_blocks() + input / BLOCK) * taps + tap) * BLOCK + input % BLOCK
            }
        }
    }
}

/// The places of weights of these dims.
fn places(layer: &Layer, dims: &[usize]) -> impl Fn(usize) -> Place + use<> {
    let stride = |axis: usize| dims.iter().skip(axis + 1).product::<usize>().max(1);
    let size = |axis: usize| dims.get(axis).copied().unwrap_or(1).max(1);
    let (out_stride, outputs) = layer.output_axis.map_or((1, 1), |a| (stride(a), size(a)));
    let each = dims.iter().product::<usize>() / outputs;
    let input = layer.input_axis.map(|a| {
        // Among the weights of an output, the strides of axes outside of the outputs' are shorter.
        let outside = layer.output_axis.is_some_and(|o| a < o);
        (if outside { stride(a) / outputs } else { stride(a) }, size(a))
    });
    move |i: usize| {
        let rest = i / (out_stride * outputs) * out_stride + i % out_stride;
        let (input, tap, taps) = match input {
            Some((stride, size)) => {
                let tap = rest / (stride * size) * stride + rest % stride;
                (rest / stride % size, tap, (each / size).max(1))
            }
            None => (rest, 0, 1),
        };
        Place { output: i / out_stride % outputs, rest, each, input, tap, taps }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantize::{layer, plan};
    use kiln_ir::op::{Contract, ContractSpec, Conv, Layout};
    use kiln_ir::{DType, Dim, GraphBuilder, Op, Type};

    fn scores(count: usize) -> Vec<f64> {
        (0..count).map(|i| ((i * 7919) % 1009) as f64).collect()
    }

    fn pruning(method: Method, pattern: Pattern, density: f64) -> Pruning {
        Pruning { method, pattern, density }
    }

    fn kept(layer: &Layer, dims: &[usize], scores: &[f64], pruning: &Pruning) -> Vec<bool> {
        let units = units(layer, dims, scores, pruning);
        let chosen = units.chosen(pruning.density);
        units.of.iter().map(|u| chosen[*u]).collect()
    }

    #[test]
    fn blocks_are_four_outputs_of_one_input() {
        for (axes, dims) in [([0, 1], vec![8, 6, 3]), ([1, 0], vec![6, 8])] {
            let layer = layer(axes);
            let count = dims.iter().product();
            for method in [Method::Magnitude, Method::Wanda] {
                let kept = kept(&layer, &dims, &scores(count), &pruning(method, Pattern::Block4, 0.5));
                assert_eq!(kept.iter().filter(|k| **k).count(), count / 2);
                let place = places(&layer, &dims);
                for i in 0..count {
                    for j in 0..count {
                        let (a, b) = (place(i), place(j));
                        if a.output / 4 == b.output / 4 && a.rest == b.rest {
                            assert_eq!(kept[i], kept[j]);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn blocks_of_inputs_are_of_one_output_and_tap() {
        for method in [Method::Magnitude, Method::Wanda] {
            let (layer, dims) = (layer([0, 1]), [4, 8, 3]);
            let kept = kept(&layer, &dims, &scores(96), &pruning(method, Pattern::Block4Inputs, 0.5));
            assert_eq!(kept.iter().filter(|k| **k).count(), 48);
            for output in 0..4 {
                for tap in 0..3 {
                    for first in [0, 4] {
                        let of = |input: usize| kept[(output * 8 + first + input) * 3 + tap];
                        assert!((0..4).all(|i| of(i) == of(0)));
                    }
                }
            }
        }
    }

    #[test]
    fn two_of_four_inputs_are_kept_for_each_output_and_tap() {
        let (layer, dims) = (layer([0, 1]), [4, 8, 3]);
        let kept = kept(&layer, &dims, &scores(96), &pruning(Method::Magnitude, Pattern::TwoOfFour, 0.5));
        for output in 0..4 {
            for tap in 0..3 {
                for first in [0, 4] {
                    let of = |input: usize| kept[(output * 8 + first + input) * 3 + tap];
                    assert_eq!((0..4).filter(|i| of(*i)).count(), 2);
                }
            }
        }
    }

    #[test]
    fn the_largest_scores_are_kept() {
        let (layer, dims) = (layer([1, 0]), [10, 10]);
        let all = scores(100);
        let kept = kept(&layer, &dims, &all, &pruning(Method::Magnitude, Pattern::Unstructured, 0.2));
        let least = all.iter().zip(&kept).filter(|(_, k)| **k).map(|(s, _)| *s).fold(f64::MAX, f64::min);
        let most = all.iter().zip(&kept).filter(|(_, k)| !**k).map(|(s, _)| *s).fold(0.0, f64::max);
        assert_eq!(kept.iter().filter(|k| **k).count(), 20);
        assert!(least >= most);
    }

    /// What becomes of the only layer of a graph, a product of `x` with weights half of which are zero.
    fn only(op: impl Into<Op>, x: &[i64], weights: &[usize], method: Method) -> Pruned {
        let mut module = Module::new();
        let mut b = GraphBuilder::new(&mut module, "main");
        let input = b.input("x", Type::fixed(DType::F32, x));
        let values: Vec<f32> = (0..weights.iter().product()).map(|i: usize| (i % 2 * i) as f32).collect();
        let w = b.constant(Tensor::from_slice(weights, &values).unwrap()).unwrap();
        let y = b.add1(op, &[input, w]).unwrap();
        b.output("y", y);
        let graph = b.finish();
        module.add_entry(graph);
        let plan = plan(&module, graph);
        let dims: Vec<usize> = x.iter().map(|n| *n as usize).collect();
        let seen = plan.points.iter().map(|p| {
            let mut statistics = Statistics::new(p.axis);
            statistics
                .add(&Tensor::from_slice(&dims, &vec![1.0f32; dims.iter().product()]).unwrap())
                .unwrap();
            statistics
        });
        let seen: Vec<Statistics> = seen.collect();
        let pruning = pruning(method, Pattern::Unstructured, 0.25);
        let all = select(&module, &plan, Some(&seen), &pruning);
        match &all[..] {
            [Err(kept)] => kept.clone(),
            [Ok(selected)] => {
                let weights = masked(&module, &plan, selected).unwrap().weights;
                let density = nonzero(weights.as_slice::<f32>().unwrap());
                let replacement = masked(&module, &plan, selected).unwrap();
                let (pruned, _) = insert(&module, &plan, &[replacement]).unwrap();
                let after = pruned.graph(graph);
                let mut operands = after.scheduled().flat_map(|(_, n)| n.operands.to_vec());
                let inserted = operands.find_map(|v| after.constant(v)).unwrap();
                assert_eq!(nonzero(inserted.as_slice::<f32>().unwrap()), density);
                Pruned { layer: 0, density, lost: selected.lost, reason: None }
            }
            _ => panic!("{all:?}"),
        }
    }

    fn einsum(lhs: &[u8], rhs: &[u8]) -> Contract {
        let spec = ContractSpec { lhs: lhs.to_vec(), rhs: rhs.to_vec(), out: b"mn".to_vec() };
        Contract::Einsum { spec, out: DType::F32 }
    }

    #[test]
    fn groups_of_several_channels_keep_their_weights() {
        for (groups, reason) in [(1, None), (2, Some("it has 2 groups".to_owned()))] {
            let op = Conv::Forward {
                strides: vec![1, 1],
                dilations: vec![1, 1],
                pads: vec![(Dim::known(1), Dim::known(1)); 2],
                groups,
                layout: Layout::ChannelsFirst,
                out: DType::F32,
            };
            let dims = [32, 32 / groups as usize, 3, 3];
            let pruned = only(op, &[1, 32, 5, 5], &dims, Method::Magnitude);
            let density = if groups == 1 { 0.25 } else { 0.5 };
            assert!((pruned.density - density).abs() < 1e-9, "{pruned:?}");
            assert_eq!(pruned.reason, reason);
        }
    }

    #[test]
    fn wanda_needs_an_axis_of_input_channels() {
        let (one, two) = (einsum(b"mk", b"kn"), einsum(b"mkl", b"kln"));
        for method in [Method::Magnitude, Method::Wanda] {
            assert_eq!(only(one.clone(), &[3, 64], &[64, 64], method).reason, None);
        }
        assert_eq!(only(two.clone(), &[3, 8, 8], &[8, 8, 64], Method::Magnitude).reason, None);
        let pruned = only(two, &[3, 8, 8], &[8, 8, 64], Method::Wanda);
        assert_eq!(pruned.reason.as_deref(), Some("its values have no axis of input channels"));
    }
}
