//! Operators without kernels: the reference evaluator runs them.

use super::attr::{attr_enum, family};
use crate::{DType, Dim, Float, Tensor};

attr_enum! {
    /// What a grid sampler reads outside the operand.
    GridPadding {
        /// Zeros.
        Zeros = "zeros",
        /// The nearest element inside.
        Border = "border",
        /// The mirror image.
        Reflection = "reflection",
    }
}

attr_enum! {
    /// What a region pooling computes of its samples.
    RegionPool {
        /// Their mean.
        Average = "average",
        /// Their maximum.
        Max = "max",
    }
}

attr_enum! {
    /// Change of case.
    TextCase {
        /// None.
        Keep = "keep",
        /// To lower case.
        Lower = "lower",
        /// To upper case.
        Upper = "upper",
    }
}

attr_enum! {
    /// What an n-gram counter gives for an n-gram.
    NgramWeight {
        /// How often it occurs.
        Count = "count",
        /// Its weight if it occurs, else 0.
        Weight = "weight",
        /// How often it occurs, times its weight.
        CountTimesWeight = "count_times_weight",
    }
}

attr_enum! {
    /// How the leaves that a sample reaches combine to a score.
    TreeAggregate {
        /// Their sum.
        Sum = "sum",
        /// Their sum over the number of trees.
        Average = "average",
        /// The smallest.
        Min = "min",
        /// The largest.
        Max = "max",
    }
}

attr_enum! {
    /// What is computed of a sample's scores last, as ONNX names it.
    ScoreTransform {
        /// Nothing.
        None = "none",
        /// `1 / (1 + exp(-x))`.
        Logistic = "logistic",
        /// Softmax.
        Softmax = "softmax",
        /// Softmax of the scores that are not zero.
        SoftmaxZero = "softmax_zero",
        /// Inverse of the normal distribution function.
        Probit = "probit",
    }
}

attr_enum! {
    /// How a classifier of two classes whose leaves name only one of them decides.
    BinaryRule {
        /// Leaves name more than one class.
        None = "none",
        /// The score is a probability: the second class wins above one half.
        Probability = "probability",
        /// The score is signed: the second class wins above zero.
        Signed = "signed",
    }
}

attr_enum! {
    /// Channels of a decoded image.
    PixelFormat {
        /// Red, green, blue.
        Rgb = "rgb",
        /// Blue, green, red.
        Bgr = "bgr",
        /// Luma.
        Gray = "gray",
    }
}

family! {
    /// Rare operators. They have no kernels: the reference evaluator runs them.
    Host {
        /// Values uniform in `[low, high)`, shape `shape`.
        RandomUniform = "random_uniform" { shape: Vec<Dim>, dtype: DType, low: Float, high: Float, seed: Option<Float>, }
        /// Normal values.
        RandomNormal = "random_normal" { shape: Vec<Dim>, dtype: DType, mean: Float, scale: Float, seed: Option<Float>, }
        /// 1 with probability `x`, else 0.
        Bernoulli = "bernoulli" { dtype: DType, seed: Option<Float>, }
        /// Operands boxes, scores, max_output_boxes, iou_threshold, score_threshold; i64 `[n, 3]`.
        NonMaxSuppression = "non_max_suppression" { center_point_box: bool, }
        /// Determinant of the last two axes.
        Det = "det" {}
        /// Inverse of the last two axes; a run-time error where there is none.
        Inverse = "inverse" {}
        /// The operand's bits as elements of `to`, which has the same width.
        BitCast = "bit_cast" { to: DType, }
        /// Complex numbers of real and imaginary parts: two operands of f32 or f64 and of one shape.
        Complex = "complex" {}
        /// Real and imaginary parts of complex numbers, two results.
        ComplexParts = "complex_parts" {}
        /// Elementwise string concatenation.
        StringConcat = "string_concat" {}
        /// Number or bool to text, as ONNX Cast to string does; or text to a number.
        StringCast = "string_cast" { to: DType, }
        /// Characters `start..end` of each string, as Python slices text: negative positions count from its end.
        StringSlice = "string_slice" { start: Option<i64>, end: Option<i64>, }
        /// Elementwise equality of strings.
        StringEqual = "string_equal" {}
        /// Pieces of each string between delimiters (runs of whitespace if it is empty), at most `max_splits` + 1 of
        /// them; the last keeps the rest. Results: pieces along a new last axis, filled up with empty strings, and
        /// their i64 number.
        StringSplit = "string_split" { delimiter: String, max_splits: Option<i64>, }
        /// Whether each string matches the pattern (RE2 syntax) as a whole.
        RegexFullMatch = "regex_full_match" { pattern: String, }
        /// ONNX StringNormalizer on `[n]` or `[1, n]`: removes stopwords, then changes the case. One empty string if
        /// none is left.
        StringNormalize = "string_normalize" { case: TextCase, case_sensitive: bool, stopwords: Vec<String>, }
        /// ONNX TfIdfVectorizer on integers or strings, `[n]` or `[b, n]`: f32 counts or weights of the n-grams in
        /// `pool` of `min_length` to `max_length` elements with gaps up to `max_skip`. `starts[i]` is where n-grams of
        /// `i + 1` elements start in the pool, `columns` the result's column of each.
        NgramCounts = "ngram_counts" {
            weighting: NgramWeight, min_length: i64, max_length: i64, max_skip: i64, starts: Vec<i64>,
            columns: Vec<i64>, pool: Tensor, weights: Vec<Float>,
        }
        /// The value whose key equals each element; `default` (one element) where none does. NaN equals NaN.
        Lookup = "lookup" { keys: Tensor, values: Tensor, default: Tensor, }
        /// ONNX GridSample: operands `x` `[N, C, spatial...]`, grid `[N, out..., rank]` of coordinates in `[-1, 1]`,
        /// last spatial axis first.
        GridSample = "grid_sample" { mode: super::Interpolation, padding: GridPadding, align_corners: bool, }
        /// ONNX RoiAlign: operands `x` `[N, C, H, W]`, boxes `[R, 4]` (x1, y1, x2, y2), i64 batch indices `[R]`; result
        /// `[R, C, height, width]`. `half_pixel` shifts boxes by half a pixel; `sampling` 0 adapts to the box.
        RoiAlign = "roi_align" {
            mode: RegionPool, half_pixel: bool, height: i64, width: i64, sampling: i64, spatial_scale: Float,
        }
        /// ONNX MaxUnpool: operands `x`, i64 indices into the flattened result, i64 result shape (empty: inferred).
        MaxUnpool = "max_unpool" { kernel: Vec<i64>, strides: Vec<i64>, pads: Vec<(i64, i64)>, }
        /// ONNX Col2Im: operands `x` `[N, C * prod(block), L]`, i64 image shape, i64 block shape; sums overlaps into
        /// `[N, C, image...]`.
        Col2Im = "col2im" { strides: Vec<i64>, dilations: Vec<i64>, pads: Vec<(i64, i64)>, }
        /// ONNX DeformConv without bias: operands `x` `[N, C, spatial...]`, `w`, offsets, and a mask if there are four.
        DeformConv = "deform_conv" {
            strides: Vec<i64>, dilations: Vec<i64>, pads: Vec<(i64, i64)>, groups: i64, offset_groups: i64,
        }
        /// ONNX DFT: operands `x` `[..., n, ..., 1 or 2]`, i64 length (empty: that of `x`), i64 axis (one element).
        /// `onesided` gives `n / 2 + 1` bins of a real signal, or with `inverse` a real signal of such bins.
        Dft = "dft" { inverse: bool, onesided: bool, }
        /// ONNX STFT: operands signal `[B, n, 1 or 2]`, i64 frame step (one element), window `[frame]`; result
        /// `[B, frames, bins, 2]`.
        Stft = "stft" { onesided: bool, }
        /// ONNX MelWeightMatrix: integer operands bins, DFT length, sample rate, then float lower and upper edge in Hertz,
        /// one element each.
        MelWeightMatrix = "mel_weight_matrix" { dtype: DType, }
        /// ONNX ImageDecoder: the u8 bytes of a BMP, JPEG, JPEG 2000, PNG, PNM, TIFF or WebP file to u8 `[H, W, C]`.
        ImageDecode = "image_decode" { pixels: PixelFormat, }
        /// Decision trees. Operands: `x` `[N, F]`; i64 `roots` `[T]`, a node each; i64 `nodes` `[M, 7]` with the columns
        /// comparison (0 to 6: `<=`, `<`, `>=`, `>`, `==`, `!=`, member; 7: leaf), feature, node where it holds (of a
        /// leaf: its first weight), node where it fails (of a leaf: end of its weights), whether it holds for NaN, first
        /// member, end of members; float `splits` `[M]`; i64 `targets` and float `weights` `[W]`; float `base` values
        /// (one a target, or empty); float `members`. Result: scores `[N, targets]` in `dtype`. A probit is the only
        /// transform of a single target.
        TreeEnsemble = "tree_ensemble" {
            targets: i64, aggregate: TreeAggregate, transform: ScoreTransform, dtype: DType,
        }
        /// Decision trees that vote: operands as `tree_ensemble` has them. Results: i64 index of the winning class
        /// `[N]`, f32 scores `[N, classes]`.
        TreeClassifier = "tree_classifier" { classes: i64, transform: ScoreTransform, binary: BinaryRule, }
        /// Raises a run-time error with this message. The first operand stands where it first has `{}`, the next where it
        /// has the next, as Python writes numbers, text, and lists of these.
        Fail = "fail" { message: String, }
    }
}

impl Host {
    /// Whether results differ from call to call.
    pub fn is_random(&self) -> bool {
        matches!(self, Host::RandomUniform { .. } | Host::RandomNormal { .. } | Host::Bernoulli { .. })
    }

    /// Whether failing is the operator's purpose.
    pub fn may_fail_by_design(&self) -> bool {
        matches!(self, Host::Fail { .. })
    }
}
