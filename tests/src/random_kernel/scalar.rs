//! Random scalar expressions, and ways to read a matrix.

use kiln_codegen::kir::verify::applies;
use kiln_codegen::kir::{Bound, BufferId, Ix, KernelBuilder, Val, compute_dtype};
use kiln_ir::{DType, Prim, Scalar};

use crate::choices::Choices;

/// Dtypes that elements are stored as.
pub const DTYPES: [DType; 13] = [
    DType::F32,
    DType::F64,
    DType::F16,
    DType::BF16,
    DType::Bool,
    DType::I8,
    DType::I16,
    DType::I32,
    DType::I64,
    DType::U8,
    DType::U16,
    DType::U32,
    DType::U64,
];

/// A dtype, one in two times f32.
pub fn dtype(c: &mut Choices<'_>) -> DType {
    if c.flag() { DType::F32 } else { c.of(&DTYPES) }
}

/// What kernels have most.
const COMMON: [Prim; 12] = [
    Prim::Mul,
    Prim::Add,
    Prim::Sub,
    Prim::Max,
    Prim::Exp,
    Prim::Div,
    Prim::Tanh,
    Prim::Erf,
    Prim::Sqrt,
    Prim::Log,
    Prim::Neg,
    Prim::Abs,
];

/// One random operation on the values so far, which it adds to them.
pub fn step(b: &mut KernelBuilder, c: &mut Choices<'_>, values: &mut Vec<Val>, casts: bool) {
    let x = c.of(values);
    let dtype = b.dtype(x);
    if casts && c.below(5) == 1 {
        let to = compute_dtype(c.of(&DTYPES)).expect("numbers have one");
        values.push(b.cast(x, to));
        return;
    }
    let other = |b: &mut KernelBuilder, c: &mut Choices<'_>| {
        if c.below(4) == 1 {
            let constant: f64 = c.of(&[0.5, 1.0, 2.0, -1.0, 0.0, 3.0]);
            let constant =
                if dtype.is_float() || dtype == DType::Bool { constant } else { constant.abs().trunc() };
            return b.literal(dtype, constant);
        }
        let y = c.of(values);
        b.cast(y, dtype)
    };
    let fits: Vec<Prim> = match dtype.is_float() && c.flag() {
        true => COMMON.to_vec(),
        false => Prim::ALL.iter().copied().filter(|&p| applies(p, dtype)).collect(),
    };
    let prim = c.of(&fits);
    let value = match prim.arity() {
        1 => b.apply(prim, &[x]),
        2 => {
            let y = other(b, c);
            b.apply(prim, &[x, y])
        }
        _ => {
            let y = other(b, c);
            let relation = c.of(&[Prim::Le, Prim::Lt, Prim::Gt, Prim::Ge, Prim::Eq, Prim::Ne]);
            let condition = b.apply(relation, &[x, y]);
            b.apply(Prim::Select, &[condition, y, x])
        }
    };
    // Casts leave comparisons in a form that goes on.
    let value = if casts || !prim.gives_bool() { value } else { b.cast(value, dtype) };
    values.push(value);
}

/// Something of the bits of a value: the fraction of a float as a float in [1, 2), or an integer of the other sign.
pub fn bits(b: &mut KernelBuilder, c: &mut Choices<'_>, x: Val) -> Val {
    let dtype = b.dtype(x);
    let (mask, one, pattern) = match dtype {
        DType::F32 => (0x007f_ffff, 0x3f80_0000, c.of(&[DType::U32, DType::I32])),
        DType::F64 => (0x000f_ffff_ffff_ffff, 0x3ff0_0000_0000_0000, c.of(&[DType::U64, DType::I64])),
        DType::I8 => return b.bits(x, DType::U8),
        DType::U8 => return b.bits(x, DType::I8),
        DType::I16 => return b.bits(x, DType::U16),
        DType::U16 => return b.bits(x, DType::I16),
        DType::I32 => return b.bits(x, DType::U32),
        DType::U32 => return b.bits(x, DType::I32),
        DType::I64 => return b.bits(x, DType::U64),
        DType::U64 => return b.bits(x, DType::I64),
        _ => return x,
    };
    let x = b.bits(x, pattern);
    let mask = b.constant(pattern, Scalar::I(mask));
    let one = b.constant(pattern, Scalar::I(one));
    let fraction = b.apply(Prim::And, &[x, mask]);
    let fraction = b.apply(Prim::Or, &[fraction, one]);
    b.bits(fraction, dtype)
}

/// Well-known functions of one value.
pub fn activation(b: &mut KernelBuilder, c: &mut Choices<'_>, x: Val) -> Val {
    let dtype = b.dtype(x);
    let [zero, half, one, six] = [0.0, 0.5, 1.0, 6.0].map(|v| b.literal(dtype, v));
    match c.below(6) {
        0 => b.apply(Prim::Max, &[x, zero]),
        1 => {
            let root = b.literal(dtype, std::f64::consts::FRAC_1_SQRT_2);
            let inner = b.apply(Prim::Mul, &[x, root]);
            let erf = b.apply(Prim::Erf, &[inner]);
            let (sum, halved) = (b.apply(Prim::Add, &[one, erf]), b.apply(Prim::Mul, &[half, x]));
            b.apply(Prim::Mul, &[halved, sum])
        }
        2 | 3 => {
            let minus = b.apply(Prim::Neg, &[x]);
            let down = b.apply(Prim::Exp, &[minus]);
            let divisor = b.apply(Prim::Add, &[one, down]);
            let dividend = if c.flag() { x } else { one };
            b.apply(Prim::Div, &[dividend, divisor])
        }
        4 => b.apply(Prim::Tanh, &[x]),
        _ => {
            let three = b.literal(dtype, 3.0);
            let up = b.apply(Prim::Add, &[x, three]);
            let up = b.apply(Prim::Max, &[up, zero]);
            let gate = b.apply(Prim::Min, &[up, six]);
            let sixth = b.literal(dtype, 1.0 / 6.0);
            let gate = b.apply(Prim::Mul, &[gate, sixth]);
            b.apply(Prim::Mul, &[x, gate])
        }
    }
}

/// How an input is read.
#[derive(Clone, Copy, Debug)]
pub enum Pattern {
    Contiguous,
    Broadcast,
    Column,
    Strided,
    Reversed,
    Wrapped,
    Transposed,
    PaddedEdge,
    PaddedRow,
}

/// All of them.
pub const PATTERNS: [Pattern; 9] = [
    Pattern::Contiguous,
    Pattern::Broadcast,
    Pattern::Column,
    Pattern::Strided,
    Pattern::Reversed,
    Pattern::Wrapped,
    Pattern::Transposed,
    Pattern::PaddedEdge,
    Pattern::PaddedRow,
];

/// The elements of an input of `[rows, n]` that patterns reach.
pub fn reach(rows: i64, n: i64) -> i64 {
    (rows + 1) * (3 * n + 8)
}

/// Reads the element of `[rows, n]` at `[row, column]`, in a way.
pub fn read(
    b: &mut KernelBuilder,
    buffer: BufferId,
    pattern: Pattern,
    at: [&Ix; 2],
    [rows, n]: [&Ix; 2],
) -> Val {
    let [row, column] = at.map(Clone::clone);
    match pattern {
        Pattern::Contiguous => b.load(buffer, row * n + column),
        Pattern::Broadcast => b.load(buffer, row),
        Pattern::Column => b.load(buffer, column),
        Pattern::Strided => b.load(buffer, column * 3 + row),
        Pattern::Reversed => b.load(buffer, row * n + (n.clone() - 1) - column),
        Pattern::Wrapped => b.load(buffer, column.clone().modulo(5) + row + column.floor_div(7)),
        Pattern::Transposed => b.load(buffer, column * rows + row),
        Pattern::PaddedEdge => {
            let shifted = column - 2;
            let bound = Bound::below(shifted.clone(), n.clone() - 3);
            b.load_guarded(buffer, row * n + shifted, vec![bound], 1.0)
        }
        Pattern::PaddedRow => {
            let above = row - 1;
            let bound = Bound { index: above.clone(), lower: 0.into(), upper: 2.into() };
            b.load_guarded(buffer, above * n + column, vec![bound], 0.0)
        }
    }
}
