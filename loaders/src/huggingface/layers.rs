//! Layers that the families share, as graph IR: the composites that the ONNX loader builds from exported models.

use std::collections::BTreeMap;
use std::sync::Arc;

use kiln_ir::op::{Composite, Conv, Index, Layout, Source};
use kiln_ir::{Build, DType, Dim, Float, GraphBuilder, Origin, Value};

use super::Fault;
use super::config::Activation;
use super::weights::Weights;

/// A known size.
pub(super) fn dim(size: usize) -> Dim {
    Dim::known(i64::try_from(size).unwrap_or(i64::MAX))
}

/// Axes of a tensor as dims.
pub(super) fn dims(sizes: &[usize]) -> Vec<Dim> {
    sizes.iter().map(|&size| dim(size)).collect()
}

/// How a module has its weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Orientation {
    /// `[out, in]`, of `torch.nn.Linear`.
    OutIn,
    /// `[in, out]`, of GPT-2's `Conv1D`.
    InOut,
}

/// A linear layer.
#[derive(Clone, Copy)]
pub(super) struct Linear {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) bias: bool,
    pub(super) orientation: Orientation,
}

impl Linear {
    /// A layer of `torch.nn.Linear` with a bias.
    pub(super) fn new(from: usize, to: usize) -> Self {
        Linear { from, to, bias: true, orientation: Orientation::OutIn }
    }

    /// The same, with or without a bias.
    pub(super) fn with_bias(self, bias: bool) -> Self {
        Linear { bias, ..self }
    }
}

/// Heads of an attention.
#[derive(Clone, Copy)]
pub(super) struct Heads {
    /// Of the queries.
    pub(super) queries: usize,
    /// Of keys and values; divides that of the queries.
    pub(super) keys: usize,
    /// Elements of a head.
    pub(super) size: usize,
}

/// Which keys a query sees.
#[derive(Clone, Copy, Default)]
pub(super) struct Seen {
    /// An additive mask, broadcastable to `[B, H, L, S]`.
    pub(super) bias: Option<Value>,
    /// None after its own.
    pub(super) causal: bool,
}

/// A graph under construction, with the weights that go into it.
pub(super) struct Net<'m, 'c> {
    /// Builder of the graph.
    pub(super) b: GraphBuilder<'m>,
    /// The weights.
    pub(super) weights: Weights<'c>,
    file: String,
    constants: BTreeMap<String, Value>,
}

impl<'m, 'c> Net<'m, 'c> {
    /// An empty graph. `file` stands for the folder in messages.
    pub(super) fn new(b: GraphBuilder<'m>, weights: Weights<'c>, file: String) -> Self {
        Net { b, weights, file, constants: BTreeMap::new() }
    }

    /// Makes a module the source of the nodes that come next.
    pub(super) fn at(&mut self, module: &str, op: &str) {
        let (path, node) = module.rsplit_once('.').unwrap_or(("", module));
        let origin = Origin {
            file: self.file.clone(),
            path: path.replace('.', "/"),
            node: node.to_owned(),
            op: op.to_owned(),
        };
        self.b.set_origin(Some(Arc::new(origin)));
    }

    /// A weight by its whole name, as f32. One that does not fit is recorded, and zeros stand for it.
    pub(super) fn weight(&mut self, name: &str, shape: &[usize]) -> Result<Value, Fault> {
        if let Some(&known) = self.constants.get(name) {
            return Ok(known);
        }
        let value = match self.weights.take(name, shape) {
            Some(tensor) => {
                let stored = self.b.constant(tensor)?;
                self.b.set_name(stored, name);
                self.b.cast(stored, DType::F32)?
            }
            None => {
                let zero = self.b.scalar(DType::F32, 0.0)?;
                self.b.broadcast(zero, &dims(shape))?
            }
        };
        self.constants.insert(name.to_owned(), value);
        Ok(value)
    }

    /// The product of the last axis with weights, plus a bias; `module` is the whole name of the layer.
    pub(super) fn linear(&mut self, x: Value, module: &str, layer: Linear) -> Result<Value, Fault> {
        self.at(module, "Linear");
        let Linear { from, to, bias, orientation } = layer;
        let name = format!("{module}.weight");
        let weight = match orientation {
            Orientation::OutIn => self.weight(&name, &[to, from])?,
            Orientation::InOut => self.weight(&name, &[from, to])?,
        };
        let y = self.product(x, weight, orientation)?;
        if !bias {
            return Ok(y);
        }
        let bias = self.weight(&format!("{module}.bias"), &[to])?;
        Ok(self.b.ew("add", &[y, bias])?)
    }

    /// The product of the last axis of `x`, of rank 2 or 3, with a matrix.
    pub(super) fn product(
        &mut self,
        x: Value,
        weight: Value,
        orientation: Orientation,
    ) -> Result<Value, Fault> {
        let spec = match (self.b.rank(x)?, orientation) {
            (2, Orientation::OutIn) => "mk,nk->mn",
            (2, Orientation::InOut) => "mk,kn->mn",
            (_, Orientation::OutIn) => "bmk,nk->bmn",
            (_, Orientation::InOut) => "bmk,kn->bmn",
        };
        Ok(self.b.einsum(spec, x, weight)?)
    }

    /// Layer normalization of the last axis.
    pub(super) fn layer_norm(
        &mut self,
        x: Value,
        module: &str,
        size: usize,
        epsilon: f64,
    ) -> Result<Value, Fault> {
        self.at(module, "LayerNorm");
        let scale = self.weight(&format!("{module}.weight"), &[size])?;
        let bias = self.weight(&format!("{module}.bias"), &[size])?;
        let axis = self.b.rank(x)?.saturating_sub(1);
        let op = Composite::LayerNorm { axis, epsilon: Float::new(epsilon) };
        Ok(self.b.add1(op, &[x, scale, bias])?)
    }

    /// Division of the last axis by its root mean square.
    pub(super) fn rms_norm(
        &mut self,
        x: Value,
        module: &str,
        size: usize,
        epsilon: f64,
    ) -> Result<Value, Fault> {
        self.at(module, "RMSNorm");
        let scale = self.weight(&format!("{module}.weight"), &[size])?;
        let axis = self.b.rank(x)?.saturating_sub(1);
        Ok(self.b.add1(Composite::RmsNorm { axis, epsilon: Float::new(epsilon) }, &[x, scale])?)
    }

    /// A pointwise function.
    pub(super) fn activation(&mut self, x: Value, activation: Activation) -> Result<Value, Fault> {
        match activation.row {
            None => Ok(x),
            Some(row) => Ok(self.b.ew_with(row, activation.attributes, &[x])?),
        }
    }

    /// Rows of a table of `[rows, columns]`, by index.
    pub(super) fn embedding(
        &mut self,
        ids: Value,
        module: &str,
        [rows, columns]: [usize; 2],
    ) -> Result<Value, Fault> {
        self.at(module, "Embedding");
        let table = self.weight(&format!("{module}.weight"), &[rows, columns])?;
        Ok(self.b.add1(Index::Gather { axis: 0 }, &[table, ids])?)
    }

    /// The first `length` rows of a table. A run with a greater length fails.
    pub(super) fn positions(
        &mut self,
        length: &Dim,
        module: &str,
        [rows, columns]: [usize; 2],
    ) -> Result<Value, Fault> {
        self.at(module, "Embedding");
        let table = self.weight(&format!("{module}.weight"), &[rows, columns])?;
        Ok(self.b.slice_axis(table, 0, Dim::known(0), length.clone())?)
    }

    /// `[B, L, H * D]` as `[B, H, L, D]`.
    pub(super) fn split_heads(&mut self, x: Value, heads: usize, size: usize) -> Result<Value, Fault> {
        let shape = self.b.shape(x)?.to_vec();
        let [batch, length, _] = shape.as_slice() else {
            return Err(Fault::Rank { expected: 3, found: shape.len() });
        };
        let split = self.b.reshape(x, &[batch.clone(), length.clone(), dim(heads), dim(size)])?;
        Ok(self.b.transpose(split, &[0, 2, 1, 3])?)
    }

    /// Attention of `[B, H, L, D]`, merged to `[B, L, H * D]`.
    pub(super) fn attention(
        &mut self,
        [q, k, v]: [Value; 3],
        heads: Heads,
        scale: f64,
        seen: Seen,
    ) -> Result<Value, Fault> {
        let op = Composite::Attention {
            scale: Float::new(scale),
            mask: seen.bias.is_some(),
            causal: seen.causal,
            causal_from_end: false,
            softcap: Float::new(0.0),
        };
        let operands: Vec<Value> = [q, k, v].into_iter().chain(seen.bias).collect();
        let y = self.b.add1(op, &operands)?;
        let moved = self.b.transpose(y, &[0, 2, 1, 3])?;
        let shape = self.b.shape(moved)?.to_vec();
        let [batch, length, ..] = shape.as_slice() else {
            return Err(Fault::Rank { expected: 4, found: shape.len() });
        };
        let merged = dim(heads.queries.saturating_mul(heads.size));
        Ok(self.b.reshape(moved, &[batch.clone(), length.clone(), merged])?)
    }

    /// The sum of two values.
    pub(super) fn sum(&mut self, a: Value, b: Value) -> Result<Value, Fault> {
        Ok(self.b.ew("add", &[a, b])?)
    }

    /// Whether each element of a mask of 0 and other integers is not 0, `[B, L]`.
    pub(super) fn kept(&mut self, mask: Value) -> Result<Value, Fault> {
        let zero = self.b.scalar(DType::I64, 0.0)?;
        Ok(self.b.ew("ne", &[mask, zero])?)
    }

    /// An additive mask, `[B, 1, 1, L]`, that hides the keys where a mask of `[B, L]` is 0.
    pub(super) fn padding_bias(&mut self, mask: Value) -> Result<Value, Fault> {
        self.at("attention_mask", "Mask");
        let kept = self.kept(mask)?;
        let shape = self.b.shape(mask)?.to_vec();
        let [batch, length] = shape.as_slice() else {
            return Err(Fault::Rank { expected: 2, found: shape.len() });
        };
        let one = Dim::known(1);
        let kept = self.b.reshape(kept, &[batch.clone(), one.clone(), one, length.clone()])?;
        self.hide_unless(kept)
    }

    /// 0 where `keep` holds, else negative infinity.
    pub(super) fn hide_unless(&mut self, keep: Value) -> Result<Value, Fault> {
        let (zero, hidden) = (self.b.scalar(DType::F32, 0.0)?, self.b.scalar(DType::F32, f64::NEG_INFINITY)?);
        Ok(self.b.ew("where", &[keep, zero, hidden])?)
    }

    /// `0 .. length` as i64, along one axis of `rank`.
    pub(super) fn coordinate(&mut self, length: &Dim, axis: usize, rank: usize) -> Result<Value, Fault> {
        let iota = self.b.add1(Source::Iota { len: length.clone(), dtype: DType::I64 }, &[])?;
        let shape: Vec<Dim> =
            (0..rank).map(|i| if i == axis { length.clone() } else { Dim::known(1) }).collect();
        Ok(self.b.reshape(iota, &shape)?)
    }

    /// The first place of axis 1: `[B, L, H]` to `[B, H]`.
    pub(super) fn first(&mut self, x: Value) -> Result<Value, Fault> {
        let shape = self.b.shape(x)?.to_vec();
        let [batch, _, size] = shape.as_slice() else {
            return Err(Fault::Rank { expected: 3, found: shape.len() });
        };
        let slice = self.b.slice_axis(x, 1, Dim::known(0), Dim::known(1))?;
        Ok(self.b.reshape(slice, &[batch.clone(), size.clone()])?)
    }

    /// A convolution of images with channels first, without a bias.
    pub(super) fn conv(
        &mut self,
        x: Value,
        weight: Value,
        strides: [usize; 2],
        pad: usize,
    ) -> Result<Value, Fault> {
        let op = Conv::Forward {
            strides: strides.iter().map(|&s| i64::try_from(s).unwrap_or(i64::MAX)).collect(),
            dilations: vec![1, 1],
            pads: vec![(dim(pad), dim(pad)); 2],
            groups: 1,
            layout: Layout::ChannelsFirst,
            out: DType::F32,
        };
        Ok(self.b.add1(op, &[x, weight])?)
    }
}
