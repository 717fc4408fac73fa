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
    /// `a` where its magnitude is below that of `b`, else `b` with the sign of `a`; `b` where `a` is NaN. 512-bit vectors
    /// only.
    Bound,
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
            | Binary::Bound
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
    /// Float to the nearest signed integer, ties to even; `i32::MIN` where it does not fit.
    ToNearestInt,
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
    /// `dst = table[index mod 32]`; 512-bit vectors only.
    Lookup {
        /// Result.
        dst: Reg,
        /// Integers; all bits but the lowest five are ignored.
        index: Src,
        /// 32 bits an entry.
        table: &'static [u32; 32],
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
    /// Elements in memory = `a`; where lanes have the same element, that one = the first lane.
    Store {
        /// What.
        a: Src,
        /// Which elements.
        at: Access,
    },
    /// Asks for the cache line of the first lane's element, `ahead` bytes beyond.
    Prefetch {
        /// Which elements; contiguous, outside of loops inside.
        at: Access,
        /// Bytes beyond them.
        ahead: i32,
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
    /// The low 32 bits of a parameter = the first lane of `a`.
    Keep {
        /// Where.
        param: Param,
        /// What.
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
    /// First of the parameters that receive the total.
    pub result: Param,
    /// What they receive.
    pub form: TotalForm,
}

/// What a reduction over lanes leaves in its parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TotalForm {
    /// The lanes' totals: 32-bit elements, as many as lanes.
    Lanes,
    /// The total of all lanes in the low 32 bits of one parameter, combined by halves.
    One,
}

/// How often the body of a phase runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Run {
    /// For every group of lanes of a row; the main loop does so many groups an iteration.
    Groups(usize),
    /// Once a row.
    Once,
}

/// A part of what is done for a row. Phases share parameters, not registers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Phase {
    /// One group of lanes.
    pub body: Vec<Inst>,
    /// How often it runs.
    pub run: Run,
    /// What is accumulated over the lanes.
    pub totals: Vec<Total>,
}

impl Phase {
    /// Groups that one iteration of the main loop does.
    pub fn groups(&self) -> usize {
        match self.run {
            Run::Groups(groups) => groups,
            Run::Once => 1,
        }
    }
}

/// Loops over groups of lanes, repeated for rows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LoopProgram {
    /// What is done for a row, in order.
    pub phases: Vec<Phase>,
    /// Number of virtual registers.
    pub registers: u32,
    /// Parameters that move on by so many bytes from row to row.
    pub row_steps: Vec<(Param, i64)>,
}

/// The parameter that holds the number of iterations.
pub const COUNT: Param = Param(0);

/// The parameter that holds the number of rows; the function counts it down.
pub const ROWS: Param = Param(1);

impl Inst {
    /// The operands.
    pub fn operands(&self) -> SmallVec<[Src; 4]> {
        match self {
            Inst::Move { a, .. }
            | Inst::Unary { a, .. }
            | Inst::Shift { a, .. }
            | Inst::Lookup { index: a, .. }
            | Inst::Store { a, .. }
            | Inst::Keep { a, .. }
            | Inst::Accumulate { a, .. } => SmallVec::from_slice(&[*a]),
            Inst::Assign { carried, a } => SmallVec::from_slice(&[*a, Src::Reg(*carried)]),
            Inst::Binary { a, b, .. } | Inst::Compare { a, b, .. } => SmallVec::from_slice(&[*a, *b]),
            Inst::MulAdd { args, .. } => SmallVec::from_slice(args),
            Inst::Select { mask, a, b, .. } => SmallVec::from_slice(&[*mask, *a, *b]),
            Inst::Begin { carried, .. } => carried.iter().map(|c| c.1).collect(),
            Inst::End { carried, .. } => carried.iter().map(|r| Src::Reg(*r)).collect(),
            Inst::Load { .. } | Inst::Prefetch { .. } => SmallVec::new(),
        }
    }

    /// The operands that are registers.
    pub fn sources(&self) -> SmallVec<[Reg; 4]> {
        self.operands()
            .into_iter()
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
            | Inst::Lookup { dst, .. }
            | Inst::Load { dst, .. } => Some(*dst),
            Inst::Store { .. }
            | Inst::Keep { .. }
            | Inst::Prefetch { .. }
            | Inst::Accumulate { .. }
            | Inst::Begin { .. }
            | Inst::Assign { .. }
            | Inst::End { .. } => None,
        }
    }
}

impl Inst {
    /// The instruction on registers that follow its own after `offset`.
    #[must_use]
    pub fn moved(&self, offset: u32) -> Inst {
        self.renamed(&|r| Reg(r.0 + offset))
    }

    /// The instruction on other registers.
    #[must_use]
    pub fn renamed(&self, reg: &dyn Fn(Reg) -> Reg) -> Inst {
        let src = |s: Src| match s {
            Src::Reg(r) => Src::Reg(reg(r)),
            Src::Bits(_) | Src::Param(_) => s,
        };
        self.rewritten(reg, &src)
    }

    /// The instruction on other operands.
    #[must_use]
    pub fn on(&self, src: &dyn Fn(Src) -> Src) -> Inst {
        self.rewritten(&|reg| reg, src)
    }

    /// The instruction with other results and operands.
    fn rewritten(&self, reg: &dyn Fn(Reg) -> Reg, src: &dyn Fn(Src) -> Src) -> Inst {
        match self.clone() {
            Inst::Move { dst, a } => Inst::Move { dst: reg(dst), a: src(a) },
            Inst::Binary { op, dst, a, b } => Inst::Binary { op, dst: reg(dst), a: src(a), b: src(b) },
            Inst::Unary { op, dst, a } => Inst::Unary { op, dst: reg(dst), a: src(a) },
            Inst::Shift { op, dst, a, bits } => Inst::Shift { op, dst: reg(dst), a: src(a), bits },
            Inst::MulAdd { dst, args } => Inst::MulAdd { dst: reg(dst), args: args.map(src) },
            Inst::Compare { op, dst, a, b } => Inst::Compare { op, dst: reg(dst), a: src(a), b: src(b) },
            Inst::Select { dst, mask, a, b } => {
                Inst::Select { dst: reg(dst), mask: src(mask), a: src(a), b: src(b) }
            }
            Inst::Lookup { dst, index, table } => Inst::Lookup { dst: reg(dst), index: src(index), table },
            Inst::Load { dst, at, guard } => Inst::Load { dst: reg(dst), at, guard },
            Inst::Store { a, at } => Inst::Store { a: src(a), at },
            Inst::Keep { param, a } => Inst::Keep { param, a: src(a) },
            Inst::Prefetch { at, ahead } => Inst::Prefetch { at, ahead },
            Inst::Accumulate { op, accumulator, a } => Inst::Accumulate { op, accumulator, a: src(a) },
            Inst::Begin { id, count, carried } => {
                let carried = carried.into_iter().map(|(r, s)| (reg(r), src(s))).collect();
                Inst::Begin { id, count, carried }
            }
            Inst::Assign { carried, a } => Inst::Assign { carried: reg(carried), a: src(a) },
            Inst::End { id, carried } => Inst::End { id, carried: carried.into_iter().map(reg).collect() },
        }
    }
}

impl Phase {
    /// The instructions of some groups, each with its group, on registers of its own. Groups take turns, so that those
    /// that wait for a result leave the others to go on; a comparison and the selection behind it stay together.
    pub fn interleaved(&self, groups: usize, registers: u32) -> Vec<(usize, Inst)> {
        let of = |group: usize, inst: &Inst| (group, inst.moved(group as u32 * registers));
        let loops = self.body.iter().any(|i| matches!(i, Inst::Begin { .. }));
        if loops {
            return (0..groups).flat_map(|g| self.body.iter().map(move |i| of(g, i))).collect();
        }
        let mut order = vec![];
        let mut rest = self.body.as_slice();
        while let Some(first) = rest.first() {
            let pair = matches!(
                (first, rest.get(1)),
                (Inst::Compare { dst, .. }, Some(Inst::Select { mask: Src::Reg(mask), .. })) if mask == dst
            );
            let (unit, after) = rest.split_at(if pair { 2 } else { 1 });
            for group in 0..groups {
                order.extend(unit.iter().map(|i| of(group, i)));
            }
            rest = after;
        }
        order
    }

    /// The constants and parameters that the body uses, those that it uses most first; at most so many. None where the
    /// body has loops of its own.
    pub fn repeated(&self, most: usize) -> Vec<Src> {
        let mut found: Vec<(Src, usize)> = vec![];
        for inst in &self.body {
            if matches!(inst, Inst::Begin { .. } | Inst::Keep { .. }) {
                return vec![];
            }
            for operand in inst.operands() {
                match (operand, found.iter_mut().find(|f| f.0 == operand)) {
                    (Src::Reg(_) | Src::Bits(0), _) => {}
                    (_, Some((_, uses))) => *uses += 1,
                    (_, None) => found.push((operand, 1)),
                }
            }
        }
        found.sort_by_key(|(_, uses)| std::cmp::Reverse(*uses));
        found.into_iter().take(most).map(|(src, _)| src).collect()
    }

    /// Most values of the body that are needed at once.
    pub fn live(&self) -> usize {
        let mut live: SmallVec<[Reg; 16]> = SmallVec::new();
        let mut most = 1;
        for inst in self.body.iter().rev() {
            live.retain(|r| inst.result() != Some(*r));
            for source in inst.sources() {
                if !live.contains(&source) {
                    live.push(source);
                }
            }
            most = most.max(live.len());
        }
        most
    }
}
