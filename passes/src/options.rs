//! Options of the passes.

/// Where the channels of convolution networks go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConvLayout {
    /// Convolutions stay as the file has them.
    AsLoaded,
    /// Convolutions and pooling run channels-last.
    ChannelsLast,
}

/// Limits of one fused kernel.
#[derive(Clone, Copy, Debug)]
pub struct FuseLimits {
    /// Most operands and results (buffers) together.
    pub buffers: usize,
    /// Most nodes.
    pub nodes: usize,
}

/// What constant folding may cost.
#[derive(Clone, Copy, Debug)]
pub struct FoldBudget {
    /// Most bytes of one folded result.
    pub bytes: u64,
    /// Most multiply-adds of one folded node.
    pub work: u64,
}

impl Default for FoldBudget {
    /// 64 MiB a result, 2^28 multiply-adds.
    fn default() -> Self {
        FoldBudget { bytes: 64 << 20, work: 1 << 28 }
    }
}

/// Which constants that are widened for a contraction stay as narrow as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NarrowWeights {
    /// None: all are widened when compiling.
    None,
    /// Integers of up to 8 bits that are dequantized.
    Integers,
    /// Floats of 16 bits, too: they take half of the memory, and products of many rows a little longer.
    Halves,
}

/// Options of [`crate::optimize`].
#[derive(Clone, Debug)]
pub struct Options {
    /// Names of passes that do not run.
    pub disabled: Vec<String>,
    /// Names of passes after which the module's text goes into the report.
    pub dump_after: Vec<String>,
    /// Layout of convolution networks.
    pub layout: ConvLayout,
    /// Limits of fused kernels.
    pub fuse: FuseLimits,
    /// Limits of constant folding.
    pub fold: FoldBudget,
    /// Which weights are not folded to f32.
    pub narrow: NarrowWeights,
    /// Whether the verifier runs after every pass.
    pub verify: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            disabled: vec![],
            dump_after: vec![],
            layout: ConvLayout::ChannelsLast,
            fuse: FuseLimits { buffers: 16, nodes: 64 },
            fold: FoldBudget::default(),
            narrow: NarrowWeights::Integers,
            verify: cfg!(debug_assertions),
        }
    }
}
