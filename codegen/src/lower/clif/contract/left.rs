//! How a contraction's lowering holds elements of the left operand: as sums are, or as bytes of which four are one step.

use cranelift_codegen::ir::{InstBuilder, Value};
use kiln_ir::DType;

use crate::kir::{Contract, Ix};
use crate::lower::clif::emit::Emitter;

/// Elements of packed or copied rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Left {
    /// Their dtype.
    pub dtype: DType,
    /// How many are one step of the reduction.
    pub step: i64,
}

impl Left {
    /// The elements for tile functions of wide vectors, or for micro-kernels, which multiply words.
    pub fn of(c: &Contract, wide: bool) -> Left {
        let step = i64::from(c.group());
        match (step, wide) {
            (1, _) => Left { dtype: c.acc_dtype, step },
            (_, true) => Left { dtype: DType::U8, step },
            (_, false) => Left { dtype: DType::I16, step },
        }
    }

    /// Bytes of an element.
    pub fn bytes(self) -> i64 {
        (self.dtype.bits() / 8) as i64
    }

    /// Elements of whole steps.
    pub fn padded(self, k: i64) -> i64 {
        (k + self.step - 1) / self.step * self.step
    }

    /// The same of an expression.
    pub fn padded_ix(self, k: &Ix) -> Ix {
        if self.step == 1 { k.clone() } else { k.clone().ceil_div(self.step) * self.step }
    }
}

impl Emitter<'_> {
    /// Steps for so many elements.
    pub(super) fn steps_of(&mut self, left: Left, elements: Value) -> Value {
        if left.step == 1 {
            return elements;
        }
        let above = self.b.ins().iadd_imm_s(elements, left.step - 1);
        self.b.ins().udiv_imm_u(above, left.step)
    }
}
