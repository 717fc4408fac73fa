//! Statements and scalar operations.

use kiln_ir::{DType, Prim, Scalar};
use smallvec::SmallVec;

use super::{BufferId, Ix, Sparse, Val, Var};

/// Statements in order.
pub type Block = Vec<Stmt>;

/// A statement.
#[derive(Clone, Debug, PartialEq)]
pub enum Stmt {
    /// Defines a scalar.
    Let {
        /// The scalar, of the dtype that [`super::Kernel::vals`] gives.
        dst: Val,
        /// What it is.
        op: Op,
    },
    /// Writes one element. The value has the compute dtype of the buffer ([`super::compute_dtype`]); floats round to
    /// nearest even. Buffers of packed dtypes (several elements a byte) cannot be stored to.
    Store {
        /// Destination.
        buffer: BufferId,
        /// Element index.
        index: Ix,
        /// What to write.
        value: Val,
    },
    /// A loop.
    For(Box<For>),
    /// A reduction loop.
    Reduce(Box<Reduce>),
    /// Runs `then` where the bool scalar holds, `otherwise` elsewhere. Values defined inside stay inside.
    If {
        /// A bool.
        cond: Val,
        /// Where it holds.
        then: Block,
        /// Where it does not.
        otherwise: Block,
    },
    /// A tile of multiply-adds with an epilogue.
    Contract(Box<Contract>),
}

/// Defines a scalar.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// A literal of the dtype of the destination.
    Const(Scalar),
    /// One element, widened to the compute dtype of the buffer.
    Load {
        /// Source.
        buffer: BufferId,
        /// Element index.
        index: Ix,
        /// Where given: the load happens only inside the bounds.
        guard: Option<Guard>,
    },
    /// A primitive. Operands have one dtype (`select`: a bool, then two of one dtype); the result is of that dtype or
    /// bool. Integers wrap; floats are computed in their own precision; meaning: [`Prim::apply`].
    Apply(Prim, SmallVec<[Val; 3]>),
    /// Conversion to the dtype of the destination. Integer to integer wraps; float to integer truncates towards zero
    /// and saturates, NaN gives 0; integer to float and float to float round to nearest even; anything to bool is
    /// `!= 0`; bool to anything is 0 or 1.
    Cast(Val),
    /// The bits of a number as another number of as many: `f32` and 32-bit integers, `f64` and 64-bit integers, or
    /// integers of one width.
    Bits(Val),
    /// `a * b + c` of one float dtype, rounded once or twice as the target prefers. Use it for sums of products.
    MulAdd(Val, Val, Val),
    /// An index as an `i64` scalar.
    Index(Ix),
}

/// `lower <= index < upper`.
#[derive(Clone, Debug, PartialEq)]
pub struct Bound {
    /// The tested expression.
    pub index: Ix,
    /// Inclusive lower bound.
    pub lower: Ix,
    /// Exclusive upper bound.
    pub upper: Ix,
}

impl Bound {
    /// `0 <= index < extent`.
    pub fn below(index: Ix, extent: impl Into<Ix>) -> Bound {
        Bound { index, lower: Ix::Const(0), upper: extent.into() }
    }
}

/// A condition on a load: padding.
#[derive(Clone, Debug, PartialEq)]
pub struct Guard {
    /// All must hold for the element to be loaded.
    pub bounds: Vec<Bound>,
    /// The value elsewhere, in the compute dtype.
    pub otherwise: Scalar,
}

/// How a loop may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LoopKind {
    /// In order, one iteration at a time.
    Sequential,
    /// Iterations are independent (for a reduction: but for the accumulators, whose combination may be
    /// re-associated in an order that only the extent decides). Any order, several at a time.
    Vector,
}

/// Loop variable and range: `begin <= var < begin + extent`; a negative extent is an empty range.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    /// The variable.
    pub var: Var,
    /// First value.
    pub begin: Ix,
    /// Number of values.
    pub extent: Ix,
}

/// A loop.
#[derive(Clone, Debug, PartialEq)]
pub struct For {
    /// Variable and range.
    pub axis: Axis,
    /// How it may run.
    pub kind: LoopKind,
    /// Values carried from one iteration to the next; sequential loops only.
    pub carried: Vec<Carried>,
    /// One iteration.
    pub body: Block,
}

/// A value carried around a sequential loop: running sums, scans, arg-max. All four have one dtype.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Carried {
    /// Value before the first iteration.
    pub init: Val,
    /// The value inside an iteration; defined by the loop.
    pub arg: Val,
    /// The value for the next iteration; defined in the body (or outside).
    pub next: Val,
    /// The value after the loop; defined by the loop.
    pub result: Val,
}

/// A reduction loop: `result = init (combine) item[0] (combine) item[1] ...`.
#[derive(Clone, Debug, PartialEq)]
pub struct Reduce {
    /// Variable and range.
    pub axis: Axis,
    /// Whether the combination may be re-associated.
    pub kind: LoopKind,
    /// What is accumulated.
    pub accumulators: Vec<Accumulator>,
    /// One iteration; defines the items. It does not see the accumulators.
    pub body: Block,
}

/// One accumulator of a reduction. All values have one dtype.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accumulator {
    /// Associative and commutative: add, mul, min, max, and, or, xor.
    pub combine: Prim,
    /// Value of the empty reduction.
    pub init: Val,
    /// What an iteration contributes.
    pub item: Val,
    /// The value after the loop; defined by the loop.
    pub result: Val,
}

/// Most products that a contraction's floating-point sum adds one after the other; longer sums are sums of such parts,
/// whose rounding error grows with `sqrt(PART + K / PART)` and not with `sqrt(K)`. What a run of the reduction leaves
/// over beside whole steps of a lowering may lengthen a part by less than one step.
pub const PART: i64 = 256;

/// Sums of products with an epilogue:
///
/// ```text
/// for m, for n (any order):
///     acc = sum over taps, over k: a(m, taps, k) * b(n, taps, k)
///     epilogue(m, n, acc)
/// ```
///
/// One statement serves GEMM, GEMV, batched GEMM (the batch is a grid variable), and convolutions: `taps` are the
/// kernel's positions, `m` runs over output positions, and the padding is the guard of the load in `a`. The sum's
/// order depends on extents alone; it is taken in parts of at most [`PART`] products.
#[derive(Clone, Debug, PartialEq)]
pub struct Contract {
    /// Rows. The extent needs an upper bound over constants and dims ([`Ix::upper_bound`]).
    pub m: Axis,
    /// Columns. The same holds for the extent; for [`Rhs::Packed`], `begin` is a multiple of the panel width, for
    /// [`Rhs::Sparse`] of the columns of a range.
    pub n: Axis,
    /// Outer reduction axes, outermost first. `begin` and `extent` are expressions over constants and dims.
    pub taps: Vec<Axis>,
    /// Innermost reduction axis. `begin` and `extent` are expressions over constants and dims; without taps, the extent
    /// for [`Rhs::Strided`] may use outer variables and needs an upper bound, as that of the rows does.
    pub k: Axis,
    /// The left operand: a function of `m`, the taps and `k`.
    pub a: Operand,
    /// The right operand: a function of `n`, the taps and `k`.
    pub b: Rhs,
    /// Dtype of products and sums: f32, f64 or i32.
    pub acc_dtype: DType,
    /// The finished sum, as the epilogue sees it; defined by the statement.
    pub acc: Val,
    /// What happens to each sum; sees `m.var`, `n.var` and `acc`. Pairs (m, n) are independent.
    pub epilogue: Block,
}

/// An operand of a contraction: any expression of loads, primitives and casts (a prologue costs nothing extra where
/// operands are packed on the fly).
#[derive(Clone, Debug, PartialEq)]
pub struct Operand {
    /// `Let` statements.
    pub body: Block,
    /// The element; of the accumulation dtype, or (i32 sums) of i8, u8, i16 or i32. Beside panels or lists of [`GROUP`]
    /// elements, of u8.
    pub value: Val,
}

/// The right operand of a contraction.
#[derive(Clone, Debug, PartialEq)]
pub enum Rhs {
    /// Weights packed at compile time: `[ceil(N / width)][taps][ceil(K / group)][width][group]` in the buffer's dtype,
    /// zero-padded. Lowerings of wider vectors ask for wider panels.
    Packed {
        /// The weights.
        buffer: BufferId,
        /// Element index of the first panel (that of `n = 0`); it selects the group or batch.
        base: Ix,
        /// Panel width.
        width: u32,
        /// Elements of the reduction that lie side by side: 1, or [`GROUP`] of i8 beside a left operand of u8, whose
        /// products a lowering adds in one instruction.
        group: u32,
    },
    /// Computed elements.
    Strided(Operand),
    /// Those that are not zero of weights known at compile time.
    Sparse(Sparse),
}

/// Bytes whose products are added at once.
pub const GROUP: u32 = 4;

impl Contract {
    /// Elements of the reduction that lie side by side in panels, or in positions of lists.
    pub fn group(&self) -> u32 {
        match self.b {
            Rhs::Packed { group, .. } => group,
            Rhs::Sparse(sparse) => sparse.form.group,
            Rhs::Strided(_) => 1,
        }
    }
}
