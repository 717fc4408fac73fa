//! Vector programs: what one group of lanes of a loop does, over virtual registers and run-time parameters.
//!
//! Every register holds one 32-bit lane an iteration: floats, integers extended to 32 bits, or masks of all ones and all
//! zeros. A program is run once per group of lanes; groups share nothing but the accumulators' final combination.

use kiln_ir::DType;
use rustc_hash::FxHashSet;
use smallvec::SmallVec;

/// A virtual register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reg(pub u32);

/// A parameter: an index into the 64-bit words that the caller passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Param(pub u32);

/// An operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Src {
    /// A register.
    Reg(Reg),
    /// The same 32 bits in every lane.
    Bits(u32),
    /// The low 32 bits of a parameter in every lane.
    Param(Param),
}

impl From<Reg> for Src {
    fn from(reg: Reg) -> Src {
        Src::Reg(reg)
    }
}

/// Operations on two vectors. `Min` and `Max` of floats give the second operand where one is NaN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Binary {
    /// Float sum.
    AddF,
    /// Float difference.
    SubF,
    /// Float product.
    MulF,
    /// Float quotient.
    DivF,
    /// Smaller float.
    MinF,
    /// Larger float.
    MaxF,
    /// `a * 2^floor(b)`, rounded once; 512-bit vectors only.
    Scale,
    /// Quotient by a divisor of at least 1 (or NaN), to 2 units in the last place; 0 times the dividend where the divisor
    /// is at least 2^126. 512-bit vectors only.
    Ratio,
    /// Integer sum.
    AddI,
    /// Integer difference.
    SubI,
    /// Integer product.
    MulI,
    /// Smaller signed integer.
    MinS,
    /// Larger signed integer.
    MaxS,
    /// Smaller unsigned integer.
    MinU,
    /// Larger unsigned integer.
    MaxU,
    /// Bits of both.
    And,
    /// Bits of either.
    Or,
    /// Bits of one.
    Xor,
}

impl Binary {
    /// Whether the operands are floats.
    pub fn is_float(self) -> bool {
        match self {
            Binary::AddF
            | Binary::SubF
            | Binary::MulF
            | Binary::DivF
            | Binary::MinF
            | Binary::MaxF
            | Binary::Scale
            | Binary::Ratio => true,
            Binary::AddI
            | Binary::SubI
            | Binary::MulI
            | Binary::MinS
            | Binary::MaxS
            | Binary::MinU
            | Binary::MaxU
            | Binary::And
            | Binary::Or
            | Binary::Xor => false,
        }
    }
}

/// Operations on one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unary {
    /// Square root.
    Sqrt,
    /// To the nearest integer, ties to even.
    Nearest,
    /// Towards minus infinity.
    Floor,
    /// Towards plus infinity.
    Ceil,
    /// Towards zero.
    Trunc,
    /// Signed integer to float.
    ToFloat,
    /// Float to signed integer, towards zero; `i32::MIN` where it does not fit.
    ToInt,
    /// Magnitude of a signed integer.
    AbsI,
}

/// Shifts by a constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shift {
    /// Left.
    Left,
    /// Right, filling with zeros.
    Right,
    /// Right, filling with the sign.
    RightSigned,
}

/// Comparisons; NaN compares unequal and not less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compare {
    /// Equal floats.
    EqF,
    /// Unequal floats.
    NeF,
    /// Less.
    LtF,
    /// Less or equal.
    LeF,
    /// Either is NaN.
    Unordered,
    /// Equal integers.
    EqI,
    /// Greater signed integer.
    GtI,
}

/// Which element a lane takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Neighbouring elements.
    Contiguous,
    /// The same element.
    Same,
    /// Elements so many apart.
    Strided(i32),
}

/// A loop inside the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LoopId(pub u32);

/// The elements of a group of lanes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Access {
    /// Address of the first iteration's element.
    pub pointer: Param,
    /// Bytes beyond it.
    pub offset: i32,
    /// Storage dtype.
    pub storage: DType,
    /// From lane to lane.
    pub step: Step,
    /// Bytes from iteration to iteration of loops inside.
    pub inner: SmallVec<[(LoopId, i32); 2]>,
}

/// An instruction.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Inst {
    /// A copy.
    Move {
        /// Result.
        dst: Reg,
        /// Operand.
        a: Src,
    },
    /// `dst = a op b`.
    Binary {
        /// Operation.
        op: Binary,
        /// Result.
        dst: Reg,
        /// First operand.
        a: Src,
        /// Second operand.
        b: Src,
    },
    /// `dst = op a`.
    Unary {
        /// Operation.
        op: Unary,
        /// Result.
        dst: Reg,
        /// Operand.
        a: Src,
    },
    /// `dst = a shifted`.
    Shift {
        /// Direction.
        op: Shift,
        /// Result.
        dst: Reg,
        /// Operand.
        a: Src,
        /// Number of bits.
        bits: u8,
    },
    /// `dst = a * b + c`, rounded once.
    MulAdd {
        /// Result.
        dst: Reg,
        /// Factors and summand.
        args: [Src; 3],
    },
    /// `dst` = mask of lanes where the comparison holds.
    Compare {
        /// Comparison.
        op: Compare,
        /// Result.
        dst: Reg,
        /// First operand.
        a: Src,
        /// Second operand.
        b: Src,
    },
    /// `dst = mask ? a : b`.
    Select {
        /// Result.
        dst: Reg,
        /// A mask.
        mask: Src,
        /// Where it is set.
        a: Src,
        /// Elsewhere.
        b: Src,
    },
    /// `dst` = elements in memory.
    Load {
        /// Result.
        dst: Reg,
        /// Which elements.
        at: Access,
        /// A parameter (all ones: load; 0: do not) and the value elsewhere.
        guard: Option<(Param, u32)>,
    },
    /// Elements in memory = `a`.
    Store {
        /// What.
        a: Src,
        /// Which elements.
        at: Access,
    },
    /// `accumulator = accumulator op a` in the lanes that exist; `Min` and `Max` of floats keep NaN.
    Accumulate {
        /// Operation.
        op: Binary,
        /// Number of the accumulator.
        accumulator: u32,
        /// What is added.
        a: Src,
    },
    /// Opens a loop: what is between runs `count` times (at least once).
    Begin {
        /// The loop.
        id: LoopId,
        /// Number of iterations.
        count: i32,
        /// Registers that live through the loop, with their values before it.
        carried: Vec<(Reg, Src)>,
    },
    /// `carried = value` within a loop.
    Assign {
        /// A register that the loop carries.
        carried: Reg,
        /// Its next value.
        a: Src,
    },
    /// Closes the innermost loop.
    End {
        /// The loop.
        id: LoopId,
        /// Registers that it carries; they keep their values.
        carried: Vec<Reg>,
    },
}

/// An accumulator of a reduction over the lanes' loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Total {
    /// Bits of the neutral element.
    pub identity: u32,
    /// How partial sums are combined.
    pub op: Binary,
    /// First of the parameters that receive the lanes' totals: 32-bit elements, as many as lanes.
    pub result: Param,
}

/// A loop over groups of lanes, repeated for rows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LoopProgram {
    /// One group.
    pub body: Vec<Inst>,
    /// Number of virtual registers.
    pub registers: u32,
    /// Groups that one iteration of the main loop does.
    pub groups: usize,
    /// What is accumulated over the lanes.
    pub totals: Vec<Total>,
    /// Parameters that move on by so many bytes from row to row.
    pub row_steps: Vec<(Param, i64)>,
}

/// The parameter that holds the number of iterations.
pub const COUNT: Param = Param(0);

/// The parameter that holds the number of rows; the function counts it down.
pub const ROWS: Param = Param(1);

impl Inst {
    /// The operands that are registers.
    pub fn sources(&self) -> SmallVec<[Reg; 4]> {
        let all: SmallVec<[Src; 4]> = match self {
            Inst::Move { a, .. }
            | Inst::Unary { a, .. }
            | Inst::Shift { a, .. }
            | Inst::Store { a, .. }
            | Inst::Accumulate { a, .. } => SmallVec::from_slice(&[*a]),
            Inst::Assign { carried, a } => SmallVec::from_slice(&[*a, Src::Reg(*carried)]),
            Inst::Binary { a, b, .. } | Inst::Compare { a, b, .. } => SmallVec::from_slice(&[*a, *b]),
            Inst::MulAdd { args, .. } => SmallVec::from_slice(args),
            Inst::Select { mask, a, b, .. } => SmallVec::from_slice(&[*mask, *a, *b]),
            Inst::Begin { carried, .. } => carried.iter().map(|c| c.1).collect(),
            Inst::End { carried, .. } => carried.iter().map(|r| Src::Reg(*r)).collect(),
            Inst::Load { .. } => SmallVec::new(),
        };
        all.into_iter()
            .filter_map(|src| match src {
                Src::Reg(reg) => Some(reg),
                Src::Bits(_) | Src::Param(_) => None,
            })
            .collect()
    }
}

/// Removes what defines values that nothing uses.
pub fn without_unused(mut body: Vec<Inst>) -> Vec<Inst> {
    loop {
        let used: FxHashSet<Reg> = body.iter().flat_map(Inst::sources).collect();
        let before = body.len();
        body.retain(|inst| inst.result().is_none_or(|r| used.contains(&r)));
        if body.len() == before {
            return body;
        }
    }
}

impl Inst {
    /// The register that the instruction defines.
    pub fn result(&self) -> Option<Reg> {
        match self {
            Inst::Move { dst, .. }
            | Inst::Binary { dst, .. }
            | Inst::Unary { dst, .. }
            | Inst::Shift { dst, .. }
            | Inst::MulAdd { dst, .. }
            | Inst::Compare { dst, .. }
            | Inst::Select { dst, .. }
            | Inst::Load { dst, .. } => Some(*dst),
            Inst::Store { .. }
            | Inst::Accumulate { .. }
            | Inst::Begin { .. }
            | Inst::Assign { .. }
            | Inst::End { .. } => None,
        }
    }
}
