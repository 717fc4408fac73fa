//! Quantized arithmetic on integers: products of dequantized operands become products of the integers themselves, scaled
//! once, and what only moves or compares quantized values works on their bytes.
//!
//! The form that code generation recognizes, and that importers of integer operators make too: a contraction or convolution
//! with results in i32 of `sub(cast(x, i32), cast(zero, i32))`, or of the cast alone where the zero point is 0, and
//! the cast of constant weights of 8 bits; then `cast f32`, `mul` by the product of the scales, and whatever follows. Padding
//! of the difference is 0, which stands for the number 0. Integer sums are exact, so results differ from those of the
//! dequantized operands by rounding of the float sums alone.

mod constants;
mod images;
mod moves;
mod operands;
mod products;
mod saturation;
mod scales;

use kiln_ir::op::{Cast, Quant};
use kiln_ir::{DType, Module, Op, Tensor, Value};

pub(crate) use constants::stays_narrow;
pub(crate) use operands::run as operands;

use crate::rewrite::{Cx, Rule, run_rules};
use crate::{Options, PassError, Report};

/// The rules, grouped by file. Bytes move first, so that products see the dequantization that feeds them.
const RULES: &[Rule] = &[
    constants::QUANTIZED_CONSTANT,
    constants::MOVED_CONSTANT,
    constants::CENTRED_CONSTANT,
    moves::ROUND_TRIP,
    moves::BELOW_MOVEMENT,
    moves::BELOW_GATHER,
    moves::BELOW_CONCAT,
    moves::BELOW_POOL,
    moves::BELOW_RELU,
    saturation::SATURATED,
    products::CONTRACTION,
    products::CONVOLUTION,
];

/// Runs the rules.
pub(crate) fn run(module: &mut Module, options: &Options, report: &mut Report) -> Result<(), PassError> {
    run_rules(RULES, module, options, report)
}

/// The rules of sums that are quantized, once all that is added to them is in its final place.
const SUMS: &[Rule] = &[scales::SCALED_SUMS, saturation::SATURATED];

/// Runs the rules of quantized sums.
pub(crate) fn sums(module: &mut Module, options: &Options, report: &mut Report) -> Result<(), PassError> {
    run_rules(SUMS, module, options, report)
}

/// A dequantized value of 8 bits.
#[derive(Clone, Copy, Debug)]
struct Dequantized {
    /// The integers.
    x: Value,
    /// Their scale: one element, or one for each index of the axis.
    scale: Value,
    /// Their zero point, of the same shape.
    zero: Value,
    /// The axis, unless all elements have one scale.
    axis: Option<usize>,
    /// The dtype that they are dequantized to.
    to: DType,
}

impl Dequantized {
    /// The value as a dequantization of integers of 8 bits, if it is one without blocks.
    fn of(cx: &Cx<'_>, v: Value) -> Option<Self> {
        let (_, node) = cx.def(v)?;
        let Op::Quant(Quant::Dequantize { to, axis, block: 0 }) = node.op else { return None };
        let &[x, scale, zero] = &node.operands[..] else { return None };
        let single = cx.dims(scale)?.iter().all(|d| d.as_known() == Some(1));
        let axis = axis.filter(|_| !single);
        is_byte(cx.dtype(x)?).then_some(Dequantized { x, scale, zero, axis, to })
    }

    /// The operator that makes such a value of other integers.
    fn op(&self) -> Quant {
        Quant::Dequantize { to: self.to, axis: self.axis, block: 0 }
    }
}

/// The bytes that a cast to i32 widens.
fn widened(cx: &Cx<'_>, v: Value) -> Option<Value> {
    let (_, node) = cx.def(v)?;
    let Op::Cast(Cast { to: DType::I32, .. }) = node.op else { return None };
    node.operands.first().copied().filter(|&v| cx.dtype(v).is_some_and(is_byte))
}

/// Whether a dtype is an integer of 8 bits.
fn is_byte(dtype: DType) -> bool {
    matches!(dtype, DType::I8 | DType::U8)
}

/// Whether two values are provably equal: the same value, or constants of one element that are equal.
fn same(cx: &Cx<'_>, a: Value, b: Value) -> bool {
    let one = |v: Value| cx.constant(v).filter(|t| t.numel() == 1);
    let equal = |x: &Tensor, y: &Tensor| x.dtype() == y.dtype() && x.element_bits(0) == y.element_bits(0);
    a == b || one(a).zip(one(b)).is_some_and(|(x, y)| equal(x, y))
}
