//! Convolutions of 3x3 taps with fewer multiplications: inputs and filters are transformed, multiplied element by
//! element (which sums over channels are: contractions), and transformed back (see [`transform`]).
//!
//! ```text
//! for blocks of output channels, for blocks of lines of tiles:    // the grid
//!     for lines of tiles, for blocks of channels:
//!         columns of B^T D, along whole lines of the image          // padding: guards a line, zeros at its ends
//!         B^T D B, a plane of [tiles][channels] for each product
//!     for products:
//!         sums over channels: contractions with constant panels
//!     for lines of tiles, for blocks of channels:
//!         columns of A^T M
//!         A^T M A, epilogue, stores
//! ```
//!
//! Everything between the loops is a vector loop along channels. [`plan`] says where this pays.

mod kernel;
mod plan;
#[cfg(test)]
mod tests;
mod transform;

use kiln_ir::op::{Conv, Layout};
use kiln_ir::{DType, Dim, NodeId, Op, Tensor, Value};

use self::kernel::{Parts, Scratch};
use self::plan::{Layer, Plan, plan};
use super::contract::{Tuning, forward};
use super::emit::{Emitter, Group};
use super::expr::{AxisId, Expr, flatten};
use super::loops::{Domain, Lowered, Root, reduce_groups};
use super::sparse::{self, beats_tiles};
use super::term::{InRange, Term, TermId};
use super::trace::{Hero, Refusal, Region, Trace, kernel_type};
use crate::kir::sparse::Window;
use crate::kir::{Access, KernelBuilder};

/// Lowers a region around the convolution `hero` with transformed tiles, where that is faster than taps are.
pub fn lower_winograd(
    region: &Region<'_>,
    hero: NodeId,
    constants: &dyn Fn(Value) -> Option<Tensor>,
    tuning: Tuning,
    name: &str,
) -> Result<Lowered, Refusal> {
    if !tuning.winograd {
        return Err(Refusal::new("transformed tiles are turned off"));
    }
    let layer = layer(region, hero)?;
    let plan = plan(&layer, tuning.lanes).ok_or_else(|| Refusal::new("taps are as fast as tiles"))?;
    lower(region, hero, constants, (layer, plan), name)
}

/// The convolution's sizes, if it is of this kind.
fn layer(region: &Region<'_>, hero: NodeId) -> Result<Layer, Refusal> {
    let node = region.graph.node(hero);
    let Op::Conv(Conv::Forward { strides, dilations, pads, groups, layout, out }) = &node.op else {
        return Err(Refusal::new("no convolution"));
    };
    let refuse = || Refusal::new("no dense convolution of 3x3 taps, stride 1 and known sizes, channels last");
    let (dtype, x) = kernel_type(region.graph, node.operands[0])?;
    let (w_dtype, w) = kernel_type(region.graph, node.operands[1])?;
    let (_, y) = kernel_type(region.graph, node.results[0])?;
    let floats = [dtype, w_dtype, *out].iter().all(|d| *d == DType::F32);
    let plain = *groups == 1 && *layout == Layout::ChannelsLast && strides == &[1, 1] && dilations == &[1, 1];
    let known = |dims: &[Dim]| dims.iter().map(Dim::as_known).collect::<Option<Vec<i64>>>();
    let (Some(w), [images, x @ ..], [_, y @ ..]) = (known(w), x, y) else { return Err(refuse()) };
    let (Some(&[h, width, c]), Some(&[h_out, w_out, o])) = (known(x).as_deref(), known(y).as_deref()) else {
        return Err(refuse());
    };
    let before = match pads.as_slice() {
        [(top, _), (left, _)] => top.as_known().zip(left.as_known()),
        _ => None,
    };
    let (top, left) = before.ok_or_else(refuse)?;
    let inside = (0..h).contains(&top) && (0..width).contains(&left);
    if !floats || !plain || !inside || w != [o, c, 3, 3] {
        return Err(refuse());
    }
    Ok(Layer {
        images: images.as_known().unwrap_or(1),
        input: [h, width],
        output: [h_out, w_out],
        before: [top, left],
        channels: c,
        filters: o,
    })
}

/// The window of a layer whose result has a pixel for each of the image's.
fn window(layer: &Layer) -> Option<Window> {
    let image = layer.input.map(|n| u32::try_from(n).ok());
    let same = layer.input == layer.output && layer.before == [1, 1];
    Some(Window { image: [image[0]?, image[1]?], taps: [3, 3] }).filter(|_| same)
}

/// The region's scalars, and what they are over.
struct Scalars {
    /// Axes of the result: images, lines, positions, output channels.
    result: [AxisId; 4],
    /// Axes of the input beside images: lines, positions, channels.
    input_axes: [AxisId; 3],
    /// The input's element.
    input: TermId,
    roots: Vec<Root>,
}

fn lower(
    region: &Region<'_>,
    hero: NodeId,
    constants: &dyn Fn(Value) -> Option<Tensor>,
    (layer, plan): (Layer, Plan),
    name: &str,
) -> Result<Lowered, Refusal> {
    let filters = constants(region.graph.node(hero).operands[1]);
    let rows = sparse::Rows { count: Some(layer.output[0] * layer.output[1]), window: window(&layer) };
    if filters.as_ref().is_some_and(|w| beats_tiles(w, rows)) {
        return Err(Refusal::new("filters that are mostly zero"));
    }
    let filters =
        filters.and_then(|w| plan.transform.filters(&w, plan.panels() as usize, plan.width as usize));
    let filters = filters.ok_or_else(|| Refusal::new("filters that are not known"))?;
    let mut trace = Trace::new(region, constants);
    let scalars = scalars(&mut trace, region, hero, &layer)?;
    let Trace { terms, axes, sources, fits, .. } = trace;
    let tops: Vec<TermId> = scalars.roots.iter().map(|r| r.term).collect();
    let reduces = reduce_groups(&terms, &axes, &tops);
    let mut b = KernelBuilder::new(name);
    let mut e = Emitter::new(&terms, &axes, &sources, &reduces);
    let outputs = scalars.roots.iter().map(|r| e.output(&mut b, r.output, r.dtype, Access::Out)).collect();
    let images = axes.extent(scalars.result[0]).clone();
    let filters = e.constant(&mut b, filters);
    let scratch = Scratch::new(&mut b, &layer, &plan);
    let [n, h, w, o] = scalars.result.map(Group::of);
    let parts = Parts {
        layer,
        plan,
        scratch,
        filters,
        outputs,
        accumulator: terms.find_accumulator(),
        one_image: images.as_known() == Some(1),
        groups: [n, h, w, o],
        input_groups: scalars.input_axes.map(Group::of),
        input: scalars.input,
        roots: scalars.roots,
    };
    let points = parts.emit(&mut e, &mut b, &images);
    let (kernel, params, dims) = e.finish(b)?;
    // What the sums over taps would take: comparable, and what the layer is worth.
    let each = 2 * 9 * layer.channels * layer.filters * layer.output[0] * layer.output[1];
    let (flops, outputs) = (images * Dim::known(each), region.outputs.clone());
    Ok(Lowered { kernel, params, sources, outputs, dims, grid: points, grain: Dim::known(1), flops, fits })
}

fn scalars(
    trace: &mut Trace<'_, '_>,
    region: &Region<'_>,
    hero: NodeId,
    layer: &Layer,
) -> Result<Scalars, Refusal> {
    let node = region.graph.node(hero);
    let (value, x) = (node.results[0], node.operands[0]);
    let dims = trace.dims(value)?;
    let factors: Vec<Vec<Dim>> = dims.iter().map(|d| vec![d.clone()]).collect();
    let domain = Domain::new(&mut trace.axes, &factors);
    trace.hero = Some(Hero { value, index: domain.index.clone(), mismatch: false });
    let order = domain.order();
    let &[n, h, w, o] = order.as_slice() else { return Err(Refusal::new("an axis is several")) };
    let [height, width] = layer.input.map(Dim::known);
    let input_axes = [height.clone(), width, Dim::known(layer.channels)].map(|extent| trace.axes.add(extent));
    let [y, at, c] = input_axes.map(Expr::axis);
    let inside = InRange { index: y.clone(), upper: height };
    let input = trace.value(x, &[domain.index[0].clone(), y, at, c], std::slice::from_ref(&inside))?;
    match &trace.terms.get(input).term {
        Term::Load { guards, otherwise, .. }
            if *guards == [inside] && *otherwise == super::trace::zero_of(DType::F32) => {}
        _ => return Err(Refusal::new("an input that is computed in the kernel")),
    }
    let positions = forward(trace, region, value, &domain.index)?;
    let mut roots = vec![];
    for (output, &v) in region.outputs.iter().enumerate() {
        let index = positions.get(&v).ok_or_else(|| Refusal::new("an output of another shape"))?;
        let term = trace.value(v, index, &[])?;
        let offset = flatten(index, trace.dims(v)?);
        if offset.coefficient(o).as_known() != Some(1) {
            return Err(Refusal::new("channels that are not contiguous in an output"));
        }
        roots.push(Root { output, dtype: trace.dtype(v)?, term, offset });
    }
    if domain.split(trace, &roots).is_some() {
        return Err(Refusal::new("axes that are split behind the convolution"));
    }
    if trace.hero.as_ref().is_some_and(|h| h.mismatch) {
        return Err(Refusal::new("the convolution is needed at another index than its own"));
    }
    Ok(Scalars { result: [n, h, w, o], input_axes, input, roots })
}
