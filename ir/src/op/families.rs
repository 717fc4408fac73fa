//! The families: what each operator computes, its operands, attributes and results.
//!
//! Notation: `x` is the first operand unless said otherwise; axes are normalized (0-based, non-negative).

use std::fmt;
use std::str::FromStr;

use smallvec::{SmallVec, smallvec};

use super::attr::{Attr, AttrError, Cursor, attr_enum, family};
use crate::{DType, Dim, Float, GraphId, Prim, Tensor, Type};

family! {
    /// Values that come from nowhere.
    Source {
        /// A constant tensor; small ones print inline, large ones as resources.
        Constant = "constant" { value: Tensor, }
        /// `[0, 1, ..., len-1]` in `dtype`.
        Iota = "iota" { len: Dim, dtype: DType, }
        /// The dims' values as an i64 vector.
        Dims = "dims" { dims: Vec<Dim>, }
    }
}

/// One kind of reduction: `finish(combine over elements of map(x))`.
#[derive(Debug)]
pub struct ReduceRow {
    /// Combining primitive.
    pub combine: Prim,
    /// Scalar expression of `x` applied to each element first.
    pub map: &'static str,
    /// Scalar expression of `r` (the combined value) and `n` (the number of elements) applied last.
    pub finish: &'static str,
}

attr_enum! {
    /// What a reduction computes. Sums of floats narrower than f32 accumulate in f32; integers wrap to their dtype.
    ReduceKind {
        /// Sum.
        Sum = "sum",
        /// Arithmetic mean.
        Mean = "mean",
        /// Product.
        Prod = "prod",
        /// Largest element.
        Max = "max",
        /// Smallest element.
        Min = "min",
        /// Sum of absolute values.
        L1 = "l1",
        /// Square root of the sum of squares; of floats, for in an integer dtype the sum would wrap before the root.
        L2 = "l2",
        /// Sum of squares.
        SumSquare = "sum_square",
        /// Logarithm of the sum, of floats.
        LogSum = "log_sum",
        /// Logical or.
        Any = "any",
        /// Logical and.
        All = "all",
    }
}

impl ReduceKind {
    /// The kind's definition.
    pub fn row(self) -> ReduceRow {
        let (combine, map, finish) = match self {
            ReduceKind::Sum => (Prim::Add, "x", "r"),
            ReduceKind::Mean => (Prim::Add, "x", "r / n"),
            ReduceKind::Prod => (Prim::Mul, "x", "r"),
            ReduceKind::Max => (Prim::Max, "x", "r"),
            ReduceKind::Min => (Prim::Min, "x", "r"),
            ReduceKind::L1 => (Prim::Add, "abs(x)", "r"),
            ReduceKind::L2 => (Prim::Add, "x * x", "sqrt(r)"),
            ReduceKind::SumSquare => (Prim::Add, "x * x", "r"),
            ReduceKind::LogSum => (Prim::Add, "x", "log(r)"),
            ReduceKind::Any => (Prim::Or, "x", "r"),
            ReduceKind::All => (Prim::And, "x", "r"),
        };
        ReduceRow { combine, map, finish }
    }
}

family! {
    /// Reductions.
    Reduce {
        /// Reduces `axes`; they stay as 1 if `keepdims`. No axes: `map` and `finish` apply to each element. An empty
        /// range gives the identity of the combining primitive (lowest and highest value for max and min).
        Axes = "reduce" { kind: ReduceKind, axes: Vec<usize>, keepdims: bool, }
    }
}

/// Index labels of a contraction, one letter a dim, as in Einstein summation: `bmk,bkn->bmn`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ContractSpec {
    /// Labels of the left operand.
    pub lhs: Vec<u8>,
    /// Labels of the right operand.
    pub rhs: Vec<u8>,
    /// Labels of the result.
    pub out: Vec<u8>,
}

impl fmt::Display for ContractSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = String::from_utf8_lossy;
        write!(f, "{},{}->{}", s(&self.lhs), s(&self.rhs), s(&self.out))
    }
}

impl FromStr for ContractSpec {
    type Err = String;

    /// Labels are ASCII letters, none twice in one operand; every result label stands in an operand, every operand
    /// label in the result or in both operands.
    fn from_str(text: &str) -> Result<Self, String> {
        let (operands, out) = text.split_once("->").ok_or("expected `->`")?;
        let (lhs, rhs) = operands.split_once(',').ok_or("expected `,`")?;
        let spec = ContractSpec { lhs: lhs.into(), rhs: rhs.into(), out: out.into() };
        for labels in [&spec.lhs, &spec.rhs, &spec.out] {
            for (i, l) in labels.iter().enumerate() {
                if !l.is_ascii_alphabetic() || labels[..i].contains(l) {
                    return Err(format!("label `{}` in `{text}`", char::from(*l)));
                }
            }
        }
        let in_operands = |l: &u8| spec.lhs.contains(l) || spec.rhs.contains(l);
        let twice = |l: &u8| spec.out.contains(l) || (spec.lhs.contains(l) && spec.rhs.contains(l));
        if !spec.out.iter().all(in_operands) || !spec.lhs.iter().chain(&spec.rhs).all(twice) {
            return Err(format!("`{text}` sums a label of one operand, or has a result label of none"));
        }
        Ok(spec)
    }
}

impl Attr for ContractSpec {
    fn write(&self, out: &mut String) {
        self.to_string().write(out);
    }
    fn read(c: &mut Cursor<'_>) -> Result<Self, AttrError> {
        let text = c.string()?;
        text.parse().map_err(|e: String| c.error(e))
    }
    fn visit_dims(&self, _: &mut dyn FnMut(&Dim)) {}
    fn dims_mut(&mut self, _: &mut dyn FnMut(&mut Dim)) {}
}

family! {
    /// Contractions.
    Contract {
        /// Sum of products over the labels that the result lacks; operands of one dtype, or of any two integer
        /// dtypes with an integer `out`. Floats narrower than f32 accumulate in f32.
        Einsum = "contract" { spec: ContractSpec, out: DType, }
    }
}

attr_enum! {
    /// Where the channels of an image-like tensor stand.
    Layout {
        /// `[N, C, spatial...]`.
        ChannelsFirst = "channels_first",
        /// `[N, spatial..., C]`.
        ChannelsLast = "channels_last",
    }
}

family! {
    /// Convolutions: operands `x` and `w`; no bias. `pads` are before and after, per spatial axis.
    Conv {
        /// `w` is `[O, C/groups, kernel...]` in every layout.
        Forward = "conv" {
            strides: Vec<i64>, dilations: Vec<i64>, pads: Vec<(Dim, Dim)>, groups: i64, layout: Layout, out: DType,
        }
        /// `w` is `[C, O/groups, kernel...]`; `pads` crop the full result, `output_pads` extend it at the end.
        Transposed = "conv_transposed" {
            strides: Vec<i64>, dilations: Vec<i64>, pads: Vec<(Dim, Dim)>, output_pads: Vec<Dim>, groups: i64,
            layout: Layout,
        }
    }
}

attr_enum! {
    /// What a pooling window computes.
    WindowKind {
        /// Largest element; padding never wins.
        Max = "max",
        /// Mean over the elements inside the input; 0 where there are none.
        Average = "average",
        /// Mean over the window, padding counted as zeros (but not what `ceil_mode` adds beyond it).
        AverageWithPad = "average_with_pad",
        /// Sum of absolute values.
        L1 = "l1",
        /// Square root of the sum of squares.
        L2 = "l2",
    }
}

family! {
    /// Pooling.
    Window {
        /// Pools each channel over spatial windows.
        Pool = "pool" {
            kind: WindowKind, kernel: Vec<i64>, strides: Vec<i64>, dilations: Vec<i64>, pads: Vec<(Dim, Dim)>,
            ceil_mode: bool, layout: Layout,
        }
        /// Max pooling, channels first, with a second result: i64 index of each maximum in the flattened `x`
        /// (spatial part column-major if `column_major`).
        MaxWithIndices = "max_pool_indices" {
            kernel: Vec<i64>, strides: Vec<i64>, dilations: Vec<i64>, pads: Vec<(Dim, Dim)>, ceil_mode: bool,
            column_major: bool,
        }
    }
}

attr_enum! {
    /// What padding is filled with.
    PadMode {
        /// The operand `value`.
        Constant = "constant",
        /// Mirror image without the edge.
        Reflect = "reflect",
        /// The edge element.
        Edge = "edge",
        /// The other end.
        Wrap = "wrap",
    }
}

family! {
    /// Moves of elements.
    Movement {
        /// Same elements in row-major order under another shape.
        Reshape = "reshape" { shape: Vec<Dim>, }
        /// Result axis `i` is operand axis `perm[i]`.
        Transpose = "transpose" { perm: Vec<usize>, }
        /// Repeats size-1 axes up to `shape` (NumPy broadcasting, right-aligned).
        Broadcast = "broadcast" { shape: Vec<Dim>, }
        /// Element `i` of axis `a` is operand element `starts[a] + i * steps[a]`; steps may be negative.
        Slice = "slice" { starts: Vec<Dim>, sizes: Vec<Dim>, steps: Vec<i64>, }
        /// Extends (or crops, where negative) each axis; operands `x` and a rank-0 `value`.
        Pad = "pad" { mode: PadMode, before: Vec<Dim>, after: Vec<Dim>, }
        /// Joins all operands along an axis.
        Concat = "concat" { axis: usize, }
    }
}

attr_enum! {
    /// How a scatter combines with what is there.
    ScatterMode {
        /// Replaces.
        Assign = "assign",
        /// Adds.
        Add = "add",
        /// Multiplies.
        Mul = "mul",
        /// Keeps the smaller.
        Min = "min",
        /// Keeps the larger.
        Max = "max",
    }
}

family! {
    /// Gathers and scatters; indices are i32 or i64, negative ones count from the end; out of range is a run-time
    /// error.
    Index {
        /// `x[..., indices, ...]` along an axis: result shape is that of `x` with `axis` replaced by indices' shape.
        Gather = "gather" { axis: usize, }
        /// Result has the indices' shape; index replaces the coordinate on `axis`.
        GatherElements = "gather_elements" { axis: usize, }
        /// The indices' last axis is a coordinate prefix after `batch` batch axes.
        GatherNd = "gather_nd" { batch: usize, }
        /// Operands `x`, `indices`, `updates` of the indices' shape.
        ScatterElements = "scatter_elements" { axis: usize, mode: ScatterMode, }
        /// Operands `x`, `indices`, `updates`; the indices' last axis is a coordinate prefix.
        ScatterNd = "scatter_nd" { mode: ScatterMode, }
    }
}

attr_enum! {
    /// Running combination along an axis.
    CumKind {
        /// Running sum.
        Sum = "sum",
        /// Running product.
        Prod = "prod",
    }
}

family! {
    /// Sorting, searching, scanning.
    Order {
        /// i64 index of the largest element along `axis`; ties give the first, or the last if `last`.
        ArgMax = "arg_max" { axis: usize, keepdims: bool, last: bool, }
        /// i64 index of the smallest element along `axis`.
        ArgMin = "arg_min" { axis: usize, keepdims: bool, last: bool, }
        /// Operands `x` and `k` (i64, one element); results values and i64 indices. Ties keep the lower index first.
        TopK = "top_k" { axis: usize, largest: bool, sorted: bool, }
        /// i64 coordinates `[rank, n]` of the elements that are not zero.
        NonZero = "non_zero" {}
        /// Results: unique values, index of first occurrence, inverse indices, counts. Without `axis` of the
        /// flattened operand.
        Unique = "unique" { axis: Option<usize>, sorted: bool, }
        /// Running combination along `axis`.
        Cumulative = "cumulative" { kind: CumKind, axis: usize, exclusive: bool, reverse: bool, }
    }
}

family! {
    /// Quantization. `scale` and `zero_point` are per tensor (rank 0 or one element, `axis` none), per axis (rank
    /// 1), or per block of `block` elements along `axis` (rank of `x`).
    Quant {
        /// Operands `x`, `scale`, `zero_point` (of dtype `to`): `saturate(round(x / scale) + zero_point)`; if `inverse`,
        /// the second operand is what `x` is multiplied with.
        Quantize = "quantize" { to: DType, axis: Option<usize>, block: i64, saturate: bool, inverse: bool, }
        /// Operands `x`, `scale`, `zero_point` (dtype of `x`): `(x - zero_point) * scale` in `to`.
        Dequantize = "dequantize" { to: DType, axis: Option<usize>, block: i64, }
    }
}

family! {
    /// Control flow and calls. Graphs are isolated: everything they use is an operand.
    Control {
        /// Operands: rank-0 bool, then the inputs of both graphs, which take the same ones.
        If = "if" { then_graph: GraphId, else_graph: GraphId, }
        /// Operands: trip count (i64), condition (bool), `carried` loop values, then captures. The body takes
        /// iteration number, condition, carried, captures; gives condition, carried, then one slice of each scan
        /// result. Results: final carried values, then scan results stacked along a new first axis.
        Loop = "loop" { body: GraphId, carried: usize, }
        /// Runs a graph.
        Call = "call" { graph: GraphId, }
        /// Runs a graph that becomes one kernel.
        Fusion = "fusion" { graph: GraphId, }
    }
}

impl Control {
    /// The graphs that the operator runs.
    pub fn graphs(&self) -> SmallVec<[GraphId; 2]> {
        match self {
            Control::If { then_graph, else_graph } => smallvec![*then_graph, *else_graph],
            Control::Loop { body: graph, .. } | Control::Call { graph } | Control::Fusion { graph } => {
                smallvec![*graph]
            }
        }
    }
}

attr_enum! {
    /// Direction of a recurrent layer.
    Direction {
        /// First step first.
        Forward = "forward",
        /// Last step first.
        Reverse = "reverse",
        /// Both, in two halves of the result.
        Bidirectional = "bidirectional",
    }
}

attr_enum! {
    /// Nonlinearity of a recurrent layer.
    RnnActivation {
        /// `max(x, 0)`.
        Relu = "relu",
        /// Hyperbolic tangent.
        Tanh = "tanh",
        /// Logistic function.
        Sigmoid = "sigmoid",
        /// `alpha * x + beta`.
        Affine = "affine",
        /// `x < 0 ? alpha * x : x`.
        LeakyRelu = "leaky_relu",
        /// `x > alpha ? x : 0`.
        ThresholdedRelu = "thresholded_relu",
        /// `alpha * tanh(beta * x)`.
        ScaledTanh = "scaled_tanh",
        /// `min(max(alpha * x + beta, 0), 1)`.
        HardSigmoid = "hard_sigmoid",
        /// `x < 0 ? alpha * (exp(x) - 1) : x`.
        Elu = "elu",
        /// `x / (1 + |x|)`.
        Softsign = "softsign",
        /// `log(1 + exp(x))`.
        Softplus = "softplus",
    }
}

/// An activation with its `alpha` and `beta`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RnnGate {
    /// The function.
    pub kind: RnnActivation,
    /// First parameter, where the function has one.
    pub alpha: Float,
    /// Second parameter, where the function has one.
    pub beta: Float,
}

impl Attr for RnnGate {
    fn write(&self, out: &mut String) {
        (self.kind, (self.alpha, self.beta)).write(out);
    }
    fn read(c: &mut Cursor<'_>) -> Result<Self, AttrError> {
        let (kind, (alpha, beta)) = Attr::read(c)?;
        Ok(RnnGate { kind, alpha, beta })
    }
    fn visit_dims(&self, _: &mut dyn FnMut(&Dim)) {}
    fn dims_mut(&mut self, _: &mut dyn FnMut(&mut Dim)) {}
}

attr_enum! {
    /// Interpolation of a resize.
    Interpolation {
        /// Nearest element.
        Nearest = "nearest",
        /// Multilinear.
        Linear = "linear",
        /// Cubic convolution.
        Cubic = "cubic",
    }
}

attr_enum! {
    /// How a resized coordinate maps to the original, as ONNX names it.
    CoordinateMode {
        /// `(x + 0.5) / scale - 0.5`.
        HalfPixel = "half_pixel",
        /// As `half_pixel`, centred when the size is not a multiple.
        HalfPixelSymmetric = "half_pixel_symmetric",
        /// As `half_pixel`, but 0 for size 1.
        PytorchHalfPixel = "pytorch_half_pixel",
        /// `x * (in - 1) / (out - 1)`.
        AlignCorners = "align_corners",
        /// `x / scale`.
        Asymmetric = "asymmetric",
        /// Within a region of interest.
        TfCropAndResize = "tf_crop_and_resize",
    }
}

attr_enum! {
    /// Rounding of a nearest coordinate.
    NearestMode {
        /// Half rounds down.
        RoundPreferFloor = "round_prefer_floor",
        /// Half rounds up.
        RoundPreferCeil = "round_prefer_ceil",
        /// Down.
        Floor = "floor",
        /// Up.
        Ceil = "ceil",
    }
}

family! {
    /// Operators that carry a decomposition into the others (`decompose`); a backend may take them whole.
    Composite {
        /// `exp(x - max) / sum(exp(x - max))` along `axis`.
        Softmax = "softmax" { axis: usize, }
        /// `x - max - log(sum(exp(x - max)))` along `axis`.
        LogSoftmax = "log_softmax" { axis: usize, }
        /// Log of the sum of exponentials over `axes`, stable.
        LogSumExp = "log_sum_exp" { axes: Vec<usize>, keepdims: bool, }
        /// 1 at the first maximum along `axis`, else 0.
        Hardmax = "hardmax" { axis: usize, }
        /// Operands `x`, `scale`, `bias`: normalizes over the axes from `axis` on. Computed in f32 for narrower floats.
        LayerNorm = "layer_norm" { axis: usize, epsilon: Float, }
        /// Operands `x`, `scale`: divides by the root mean square over the axes from `axis` on.
        RmsNorm = "rms_norm" { axis: usize, epsilon: Float, }
        /// Operands `x`, `scale`, `bias`, `mean`, `variance` of one element a channel (axis 1).
        BatchNorm = "batch_norm" { epsilon: Float, }
        /// Operands `x`, `scale`, `bias`: normalizes each channel of each sample (axes 2 on).
        InstanceNorm = "instance_norm" { epsilon: Float, }
        /// Operands `x`, `scale`, `bias` (one element a channel): normalizes groups of channels of each sample.
        GroupNorm = "group_norm" { groups: i64, epsilon: Float, }
        /// Local response normalization across `size` channels (axis 1).
        Lrn = "lrn" { size: i64, alpha: Float, beta: Float, bias: Float, }
        /// Scaled dot-product attention. Operands `q` `[B, H, L, D]`, `k` `[B, G, S, D]`, `v` `[B, G, S, E]` with `G`
        /// dividing `H`, then an additive mask broadcastable to `[B, H, L, S]` if `mask`. `causal` hides key `j` from
        /// query `i` where `j > i + S - L` if `causal_from_end`, else where `j > i`. A row that is hidden whole is
        /// zeros. `softcap` c > 0 maps scores to `c * tanh(s / c)`.
        Attention = "attention" { scale: Float, mask: bool, causal: bool, causal_from_end: bool, softcap: Float, }
        /// Rotary embedding. Operands `x` `[B, H, L, D]`, `cos`, `sin` `[B, L, D/2]` or `[L, D/2]`.
        Rope = "rope" { interleaved: bool, rotary_dim: i64, }
        /// ONNX LSTM: operands `x` `[T, B, I]`, `w` `[dirs, 4H, I]`, `r` `[dirs, 4H, H]`, `b` `[dirs, 8H]`, `h0`, `c0`
        /// `[dirs, B, H]`, `p` `[dirs, 3H]`, then i32 `[B]` lengths if `lengths`. Gate order i o f c. Results `[T, dirs,
        /// B, H]`, `[dirs, B, H]`, `[dirs, B, H]`.
        Lstm = "lstm" {
            hidden: i64, direction: Direction, gates: Vec<RnnGate>, clip: Option<Float>, input_forget: bool,
            lengths: bool,
        }
        /// ONNX GRU: operands `x`, `w` `[dirs, 3H, I]`, `r`, `b` `[dirs, 6H]`, `h0`, then lengths if `lengths`. Gate
        /// order z r h. Results `[T, dirs, B, H]`, `[dirs, B, H]`.
        Gru = "gru" {
            hidden: i64, direction: Direction, gates: Vec<RnnGate>, clip: Option<Float>, linear_before_reset: bool,
            lengths: bool,
        }
        /// ONNX RNN: operands `x`, `w` `[dirs, H, I]`, `r`, `b` `[dirs, 2H]`, `h0`, then lengths if `lengths`.
        Rnn = "rnn" {
            hidden: i64, direction: Direction, gates: Vec<RnnGate>, clip: Option<Float>, lengths: bool,
        }
        /// Resize to `sizes` with the given per-axis `scales` (result over operand; 1 for untouched axes). `roi` holds
        /// starts then ends for `tf_crop_and_resize`.
        Resize = "resize" {
            sizes: Vec<Dim>, scales: Vec<Option<Float>>, mode: Interpolation, coordinates: CoordinateMode,
            nearest: NearestMode, cubic_a: Float, antialias: bool, exclude_outside: bool, extrapolation: Float,
            roi: Vec<Float>,
        }
        /// Results: u8 quantized `x`, its scale (f32; 1 where `x` is all zeros), its zero point (u8).
        DynamicQuantize = "dynamic_quantize" {}
    }
}

family! {
    /// Sequences, optionals, state.
    Object {
        /// An empty sequence of elements of type `ty`.
        SequenceEmpty = "sequence_empty" { ty: Type, }
        /// A sequence of the operands.
        SequenceConstruct = "sequence_construct" {}
        /// Operands: sequence, i64 position.
        SequenceAt = "sequence_at" {}
        /// Operands: sequence, value, and an i64 position if `at`.
        SequenceInsert = "sequence_insert" { at: bool, }
        /// Operands: sequence, and an i64 position if `at`; else the last goes.
        SequenceErase = "sequence_erase" { at: bool, }
        /// i64 number of elements.
        SequenceLength = "sequence_length" {}
        /// Operands: tensor, and i64 sizes (rank 0 or 1) if `split`; else slices of one, kept as an axis if `keepdims`.
        SequenceSplit = "sequence_split" { axis: i64, split: bool, keepdims: bool, }
        /// Concatenates (or stacks, if `new_axis`) the elements.
        SequenceConcat = "sequence_concat" { axis: i64, new_axis: bool, }
        /// Applies a graph to every element of the sequences (the first `sequences` operands; tensors are passed on).
        SequenceMap = "sequence_map" { body: GraphId, sequences: usize, }
        /// The absent value of type `ty` (the element's type).
        OptionalNone = "optional_none" { ty: Type, }
        /// A present value.
        OptionalSome = "optional_some" {}
        /// Whether the value is present, bool.
        OptionalHas = "optional_has" {}
        /// The value; absent is a run-time error.
        OptionalGet = "optional_get" {}
        /// The current value of a state.
        StateRead = "state_read" { name: String, ty: Type, }
        /// Stores the operand as the state's value; no result.
        StateAssign = "state_assign" { name: String, }
    }
}

family! {
    /// Operators whose result shape depends on operands' data. Building resolves them to `movement` and other static
    /// operators where the operand's value is known.
    Dynamic {
        /// Operands `x`, i64 `shape`; 0 copies the operand's dim unless `allow_zero`, -1 is inferred.
        Reshape = "dyn_reshape" { allow_zero: bool, }
        /// Operands `x`, i64 `shape`: two-way broadcasting.
        Expand = "dyn_expand" {}
        /// Operands `x`, `starts`, `ends`, `axes`, `steps`, i64 vectors, as ONNX Slice.
        Slice = "dyn_slice" {}
        /// Operands `x`, i64 `pads` (begins then ends of `axes`), rank-0 `value`, i64 `axes`.
        Pad = "dyn_pad" { mode: PadMode, }
        /// Operands `x`, i64 `repeats`.
        Tile = "dyn_tile" {}
        /// Operands `start`, `limit`, `delta`, rank 0.
        Range = "dyn_range" {}
        /// Operands i64 `shape`, rank-0 `value`.
        Fill = "dyn_fill" {}
        /// Operands `x`, i64 `axes`: removes size-1 axes; all of them if `axes` is empty.
        Squeeze = "dyn_squeeze" {}
        /// Operands `x`, i64 `axes` of the result.
        Unsqueeze = "dyn_unsqueeze" {}
        /// The shape of `x`, from axis `start` to `end`, i64: for operands of unknown rank.
        Shape = "dyn_shape" { start: i64, end: Option<i64>, }
        /// The number of elements of `x`, i64: for operands of unknown rank.
        Size = "dyn_size" {}
        /// Operands `x`, i64 `axes`; no axes: all, or none if `noop`.
        Reduce = "dyn_reduce" { kind: ReduceKind, keepdims: bool, noop: bool, }
        /// Operands `x` and i64 `split`, one result each: pieces along `axis`.
        Split = "dyn_split" { axis: i64, }
        /// Operands `x`, f32 `scales` (empty if `sizes`), i64 `sizes` (empty if scales), f32 `roi`.
        Resize = "dyn_resize" {
            mode: Interpolation, coordinates: CoordinateMode, nearest: NearestMode, cubic_a: Float, antialias: bool,
            exclude_outside: bool, extrapolation: Float, axes: Vec<i64>, keep_aspect: String,
        }
        /// Operands `indices`, `depth` (one element), `values` `[off, on]`.
        OneHot = "dyn_one_hot" { axis: i64, }
        /// Operands `x`, i64 `repeats`-free wildcard: an elementwise operator over operands of unknown rank is
        /// ordinary; this concatenates operands of unknown rank along `axis`.
        Concat = "dyn_concat" { axis: i64, }
        /// Transposes an operand of unknown rank: reverses the axes.
        ReverseAxes = "dyn_reverse_axes" {}
        /// Operands `x`, integer axis (one element): running combination along it.
        Cumulative = "dyn_cumulative" { kind: CumKind, exclusive: bool, reverse: bool, }
        /// Operand i64 `[n]`, gives itself; its elements are the values of the `n` dims: a symbol without a value takes
        /// the element, another dim must have it. A negative element is a run-time error.
        Sizes = "sizes" { dims: Vec<Dim>, }
        /// Operands `x`, condition: keeps the slices of `axis` (or flattened elements) whose condition holds.
        Compress = "compress" { axis: Option<usize>, }
    }
}

impl Attr for Tensor {
    /// `f32[2] dense [1.0, 2.0]`: dtype, dims, elements in row-major order; strings quoted.
    fn write(&self, out: &mut String) {
        use std::fmt::Write as _;
        let _ = write!(out, "{} ", self.ty());
        match self.to_scalars() {
            Some(v) => v.iter().map(|s| ScalarText(*s)).collect::<Vec<_>>().write(out),
            None if self.dtype() == DType::String => self.as_strings().to_vec().write(out),
            None => {
                out.push_str("0x");
                for b in self.bytes() {
                    let _ = write!(out, "{b:02x}");
                }
            }
        }
    }

    fn read(c: &mut Cursor<'_>) -> Result<Self, AttrError> {
        let Type::Tensor(ty) = Type::read(c)? else { return Err(c.error("expected a tensor type")) };
        let dims: Option<Vec<usize>> =
            ty.shape.as_fixed().and_then(|d| d.into_iter().map(|d| usize::try_from(d).ok()).collect());
        let dims = dims.ok_or_else(|| c.error("a constant has constant dims"))?;
        let tensor = if ty.dtype == DType::String {
            Tensor::strings(&dims, Vec::<String>::read(c)?)
        } else if c.eat("0x") {
            let hex = c.take("hexadecimal digits", |c| c.is_ascii_hexdigit())?;
            let byte = |i: usize| hex.get(2 * i..2 * i + 2).and_then(|h| u8::from_str_radix(h, 16).ok());
            let bytes: Option<Vec<u8>> = (0..hex.len().div_ceil(2)).map(byte).collect();
            let bytes = bytes.ok_or_else(|| c.error("odd number of hexadecimal digits"))?;
            Tensor::new(ty.dtype, &dims, crate::tensor::Bytes::copied(&bytes))
        } else {
            let scalars: Vec<_> = Vec::<ScalarText>::read(c)?.into_iter().map(|s| s.0).collect();
            Tensor::from_scalars(ty.dtype, &dims, &scalars)
        };
        tensor.map_err(|e| c.error(e.to_string()))
    }
    fn visit_dims(&self, _: &mut dyn FnMut(&Dim)) {}
    fn dims_mut(&mut self, _: &mut dyn FnMut(&mut Dim)) {}
}

/// A scalar in a constant's element list.
struct ScalarText(crate::Scalar);

impl Attr for ScalarText {
    fn write(&self, out: &mut String) {
        use crate::Scalar;
        match self.0 {
            Scalar::B(b) => b.write(out),
            Scalar::F(v) => Float::new(v).write(out),
            Scalar::I(v) => out.push_str(&v.to_string()),
        }
    }

    fn read(c: &mut Cursor<'_>) -> Result<Self, AttrError> {
        use crate::Scalar;
        let rest = c.rest();
        if rest.starts_with("true") || rest.starts_with("false") {
            return bool::read(c).map(|b| ScalarText(Scalar::B(b)));
        }
        let mut probe = c.clone();
        if let Ok(v) = probe.number::<i128>() {
            *c = probe;
            return Ok(ScalarText(Scalar::I(v)));
        }
        Float::read(c).map(|v| ScalarText(Scalar::F(v.get())))
    }
    fn visit_dims(&self, _: &mut dyn FnMut(&Dim)) {}
    fn dims_mut(&mut self, _: &mut dyn FnMut(&mut Dim)) {}
}
