//! What a layer multiplies with its weights, as rows: the values of a contraction, the patches of a convolution.

use kiln_ir::op::{Conv, Layout};
use kiln_ir::{Graph, Op, Tensor};

use super::places;
use crate::quantize::{Layer, LayerKind, Plan, floats};

/// Most features of a row.
const MOST: usize = 4608;

/// How rows are read.
#[derive(Clone, Debug)]
pub struct Features {
    /// The axis of channels.
    channel: usize,
    /// Spatial axes; none for contractions.
    spatial: Vec<Tap>,
    inputs: usize,
    /// Features of a row: `[input][tap]`.
    width: usize,
    /// For each weight, its feature and its output.
    places: Vec<(usize, usize)>,
    outputs: usize,
}

/// One spatial axis of a convolution.
#[derive(Clone, Copy, Debug)]
struct Tap {
    axis: usize,
    size: usize,
    stride: usize,
    dilation: usize,
    before: usize,
    after: usize,
}

impl Features {
    /// How rows of a layer are read; `None` where it is no product of rows with a matrix, or rows are too long.
    pub fn of(plan: &Plan, graph: &Graph, layer: usize) -> Option<Features> {
        let layer = plan.layers.get(layer)?;
        let dims = layer.weights(graph)?.dims().to_vec();
        let (outputs, inputs) = layer.counts(&dims);
        layer.output_axis?;
        layer.input_axis?;
        let spatial = match (&graph.node(layer.node).op, layer.kind) {
            (Op::Conv(conv), LayerKind::Convolution) if layer.groups == 1 => taps(layer, conv, &dims)?,
            (Op::Contract(_), LayerKind::Contraction) if dims.len() == 2 => vec![],
            _ => return None,
        };
        let width = dims.iter().product::<usize>() / outputs.max(1);
        let place = places(layer, &dims);
        let places = (0..width * outputs).map(|i| {
            let place = place(i);
            (place.input * place.taps + place.tap, place.output)
        });
        let places = places.collect();
        let channel = layer.x_axis?;
        (width <= MOST).then_some(Features { channel, spatial, inputs, width, places, outputs })
    }

    /// Features of a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Outputs of the layer.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// A layer's weights, or what is kept of them, as a matrix `[feature][output]`.
    pub fn matrix<T: Copy + Default>(&self, weights: &[T]) -> Vec<T> {
        let mut matrix = vec![T::default(); self.width * self.outputs];
        for (&(feature, output), value) in self.places.iter().zip(weights) {
            if let Some(to) = matrix.get_mut(feature * self.outputs + output) {
                *to = *value;
            }
        }
        matrix
    }

    /// The inverse of [`Features::matrix`].
    pub fn weights<T: Copy + Default>(&self, matrix: &[T]) -> Vec<T> {
        let at = |&(feature, output): &(usize, usize)| matrix.get(feature * self.outputs + output);
        self.places.iter().map(|place| at(place).copied().unwrap_or_default()).collect()
    }

    /// Appends at most `most` rows of a value, evenly spaced; gives how many.
    pub fn rows(&self, value: &Tensor, most: usize, rows: &mut Vec<f32>) -> usize {
        let channel = self.channel;
        let (Some(all), dims) = (floats(value), value.dims()) else { return 0 };
        if dims.get(channel) != Some(&self.inputs) || self.spatial.iter().any(|t| t.axis >= dims.len()) {
            return 0;
        }
        let strides: Vec<usize> =
            (0..dims.len()).map(|axis| dims.iter().skip(axis + 1).product::<usize>()).collect();
        // Positions count over all axes but that of channels.
        let counts: Vec<(usize, usize)> = (0..dims.len())
            .filter(|axis| *axis != channel)
            .map(|axis| {
                let tap = self.spatial.iter().find(|t| t.axis == axis);
                (axis, tap.map_or(dims[axis], |t| t.positions(dims[axis])))
            })
            .collect();
        let total: usize = counts.iter().map(|c| c.1).product();
        let wanted = total.min(most);
        for i in 0..wanted {
            let mut rest = i * total / wanted;
            let (mut base, mut at) = (0, vec![0; dims.len()]);
            for &(axis, count) in counts.iter().rev() {
                at[axis] = rest % count;
                rest /= count;
                if self.spatial.iter().all(|t| t.axis != axis) {
                    base += at[axis] * strides[axis];
                }
            }
            self.row(&all, (base, &at), (dims, &strides), rows);
        }
        wanted
    }

    /// Appends the row at a position: `base` is the offset of its axes that are not spatial.
    fn row(
        &self,
        all: &[f32],
        (base, at): (usize, &[usize]),
        (dims, strides): (&[usize], &[usize]),
        rows: &mut Vec<f32>,
    ) {
        let channel = self.channel;
        let taps: usize = self.spatial.iter().map(|t| t.size).product();
        let offsets: Vec<Option<usize>> = (0..taps)
            .map(|tap| {
                let (mut rest, mut offset) = (tap, base);
                for t in self.spatial.iter().rev() {
                    let place = at[t.axis] * t.stride + rest % t.size * t.dilation;
                    rest /= t.size;
                    let place = place.checked_sub(t.before).filter(|p| *p < dims[t.axis])?;
                    offset += place * strides[t.axis];
                }
                Some(offset)
            })
            .collect();
        for input in 0..self.inputs {
            let read = |offset: &Option<usize>| offset.and_then(|o| all.get(o + input * strides[channel]));
            rows.extend(offsets.iter().map(|o| read(o).copied().unwrap_or(0.0)));
        }
    }
}

impl Tap {
    /// Positions of results along an axis of so many elements.
    fn positions(&self, size: usize) -> usize {
        let covered = self.dilation * (self.size - 1) + 1;
        (size + self.before + self.after).checked_sub(covered).map_or(0, |more| more / self.stride + 1)
    }
}

/// The spatial axes of a convolution, where padding is known.
fn taps(layer: &Layer, conv: &Conv, dims: &[usize]) -> Option<Vec<Tap>> {
    let Conv::Forward { strides, dilations, pads, layout, .. } = conv else { return None };
    let first = match layout {
        Layout::ChannelsFirst => 2,
        Layout::ChannelsLast => 1,
    };
    let known = |n: i64| usize::try_from(n).ok();
    let positive = |n: i64| known(n).filter(|n| *n > 0);
    let tap = |i: usize| {
        let (before, after) = pads.get(i)?;
        Some(Tap {
            axis: first + i,
            size: *dims.get(2 + i)?,
            stride: positive(*strides.get(i)?)?,
            dilation: positive(*dilations.get(i)?)?,
            before: known(before.as_known()?)?,
            after: known(after.as_known()?)?,
        })
    };
    (0..layer.rank.checked_sub(2)?).map(tap).collect()
}
