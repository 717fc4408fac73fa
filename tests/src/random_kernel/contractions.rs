//! Sums of products with epilogues: packed, strided and computed operands, all dtypes of sums, fixed and run-time
//! sizes, batches, taps; and two of them around a softmax.

use kiln_codegen::kir::builder::{ContractShape, RhsBuilder};
use kiln_codegen::kir::{BufferId, Ix, KernelBuilder, LoopKind, Val, compute_dtype};
use kiln_ir::{DType, Prim};

use super::scalar::{activation, step};
use crate::agreement::Case;
use crate::choices::Choices;

const F32: DType = DType::F32;

/// Sums, left and right storage.
const DTYPES: [[DType; 3]; 9] = [
    [F32, F32, F32],
    [F32, F32, F32],
    [F32, F32, F32],
    [F32, F32, F32],
    [F32, DType::F16, DType::F16],
    [F32, F32, DType::BF16],
    [DType::F64, DType::F64, DType::F64],
    [DType::I32, DType::U8, DType::I8],
    [DType::I32, DType::I32, DType::I16],
];

/// `out[batch][m][n] = epilogue(sum over taps, k of a b)`.
pub fn gemm(c: &mut Choices<'_>) -> Vec<Case> {
    let [acc, a_dtype, b_dtype] = c.of(&DTYPES);
    let out_dtype = if acc == F32 && c.below(6) == 1 { c.of(&[DType::F16, DType::BF16]) } else { acc };
    let most = c.of(&[9, 40]);
    let (m, n) = (c.between(0, most), c.between(1, 40));
    let k = if c.below(12) == 1 { c.between(250, 600) } else { c.between(0, 40) };
    let (batch, taps) = (c.between(1, 2), if c.below(4) == 1 { c.between(1, 4) } else { 1 });
    let mut b = KernelBuilder::new("contraction");
    let (x, w) = (b.input(a_dtype), b.weights(b_dtype));
    let (bias, residual, out) = (b.input(acc), b.input(acc), b.output(out_dtype));
    let mut dims = vec![];
    let mut size = |b: &mut KernelBuilder, c: &mut Choices<'_>, n: i64| {
        if c.below(3) > 0 {
            return Ix::Const(n);
        }
        dims.push(n);
        b.dim()
    };
    let (rows, depth) = (size(&mut b, c, m), size(&mut b, c, k));
    let width = c.of(&[0, -1, 4, 8, 12, 16, 32, 48, 64]);
    let columns = if width > 0 { Ix::Const(n) } else { size(&mut b, c, n) };
    let at = b.grid(batch);
    let block = if width > 0 { width * c.of(&[1, 2, 64]) } else { c.of(&[5, 24, 64]) };
    let begin = b.grid(columns.clone().ceil_div(block)) * block;
    let line = c.between(1, 40);
    let first = if c.flag() { b.grid(rows.clone().ceil_div(line)) * line } else { Ix::Const(0) };
    let height = if first == Ix::Const(0) { rows.clone() } else { (rows.clone() - first.clone()).min(line) };
    let shape = ContractShape {
        m: (first, height),
        n: (begin.clone(), (columns.clone() - begin).min(block)),
        taps: if taps > 1 || c.below(6) == 1 { vec![(0.into(), taps.into())] } else { vec![] },
        k: (0.into(), depth.clone()),
        acc_dtype: acc,
    };
    let tap = |taps: &[Ix]| taps.first().cloned().unwrap_or(Ix::Const(0));
    let (panels, along_k) = ((n + width.max(1) - 1) / width.max(1) * width.max(1) * k * taps, width < 0);
    let mut strided = |b: &mut KernelBuilder, column: &Ix, t: &[Ix], kk: &Ix| {
        let place = (at.clone() * taps + tap(t)) * depth.clone();
        let index = match along_k {
            true => {
                (at.clone() * columns.clone() + column.clone()) * (depth.clone() * taps)
                    + tap(t) * depth.clone()
                    + kk
            }
            false => (place + kk) * columns.clone() + column,
        };
        b.load(w, index)
    };
    let rhs = match width > 0 {
        true => RhsBuilder::Packed { buffer: w, base: at.clone() * panels, width: width as u32 },
        false => RhsBuilder::Strided(&mut strided),
    };
    let computed = acc.is_float() && c.below(5) == 1;
    let transposed = c.below(5) == 1;
    let (prologue, end) = (c.below(4), Epilogue::draw(c));
    b.contract(
        shape,
        |b, row, t, kk| {
            let index = match transposed {
                true => ((at.clone() * taps + tap(t)) * depth.clone() + kk) * rows.clone() + row,
                false => {
                    (at.clone() * rows.clone() + row) * (depth.clone() * taps) + tap(t) * depth.clone() + kk
                }
            };
            let v = b.load(x, index);
            if computed { computed_from(b, v, prologue) } else { v }
        },
        rhs,
        |b, row, column, sum| {
            let index = (at.clone() * rows.clone() + row) * columns.clone() + column;
            let more = [b.load(bias, column.clone()), b.load(residual, index.clone())];
            let v = end.apply(b, c, sum, more);
            let v = b.cast(v, compute_dtype(out_dtype).expect("a number"));
            b.store(out, index, v);
        },
    );
    let lengths = [batch * m * k * taps, batch * panels.max(n * k * taps), n, batch * m * n, batch * m * n];
    super::case(c, b, &lengths, dims, super::SUMMABLE)
}

/// Contractions of bytes: rows in place, from copies or packed, signed or not, with what follows quantized sums.
pub fn bytes(c: &mut Choices<'_>) -> Vec<Case> {
    let most = c.of(&[1, 9, 40, 150]);
    let (m, n) = (c.between(1, most), c.between(1, 70));
    let k = match c.below(8) {
        0 | 1 => c.between(1, 9),
        2 => 4 * c.between(80, 200),
        3 => c.between(250, 700),
        _ => 4 * c.between(1, 24),
    };
    let (signed, computed) = (c.flag(), c.below(6) == 1);
    let stride = if c.below(4) == 1 { k + c.between(0, 5) } else { k };
    let mut b = KernelBuilder::new("bytes");
    let x = b.input(if signed { DType::I8 } else { DType::U8 });
    let (w, correction, scale) = (b.weights(DType::I8), b.weights(DType::I32), b.weights(F32));
    let out_dtype = c.of(&[DType::U8, DType::I8, F32, DType::I32]);
    let out = b.output(out_dtype);
    let width = c.of(&[4, 8, 16, 32, 48, 64]);
    let mut dims = vec![];
    let rows = if c.flag() {
        dims.push(m);
        b.dim()
    } else {
        Ix::Const(m)
    };
    let columns = width * c.of(&[1, 2, 64]);
    let begin = b.grid(Ix::Const(n).ceil_div(columns)) * columns;
    let shape = ContractShape {
        m: (0.into(), rows),
        n: (begin.clone(), (Ix::Const(n) - begin).min(columns)),
        taps: vec![],
        k: (0.into(), k.into()),
        acc_dtype: DType::I32,
    };
    let zero = c.between(0, 200) as f64;
    b.contract(
        shape,
        |b, row, _, kk| {
            let v = b.load(x, row.clone() * stride + kk);
            byte(b, v, signed, computed)
        },
        RhsBuilder::Quads { buffer: w, base: 0.into(), width: width as u32 },
        |b, row, column, sum| {
            let more = b.load(correction, column.clone());
            let sum = b.apply(Prim::Add, &[sum, more]);
            let v = quantized(b, sum, (scale, column), zero, out_dtype);
            b.store(out, row.clone() * n + column, v);
        },
    );
    let panels = (n + width - 1) / width * width * ((k + 3) / 4) * 4;
    let mut cases = super::case(c, b, &[m * stride, panels, n, n, m * n], dims, super::SUMMABLE);
    cases.iter_mut().for_each(|case| pad_quads(&mut case.buffers[1], width, k));
    cases
}

/// Zeroes what panels of bytes, whose runs have `k` elements, hold beyond them.
pub fn pad_quads(panels: &mut [u8], width: i64, k: i64) {
    let steps = (k + 3) / 4;
    for (i, byte) in (0..).zip(panels) {
        if i / (4 * width) % steps * 4 + i % 4 >= k {
            *byte = 0;
        }
    }
}

/// A byte as a contraction takes it.
pub fn byte(b: &mut KernelBuilder, v: Val, signed: bool, computed: bool) -> Val {
    let mut v = v;
    if signed {
        let bits = b.bits(v, DType::U8);
        let sign = b.literal(DType::U8, 128.0);
        v = b.apply(Prim::Xor, &[bits, sign]);
    }
    if computed {
        let half = b.literal(DType::U8, 127.0);
        v = b.apply(Prim::Min, &[v, half]);
    }
    v
}

/// A sum of bytes times a scale of its column, in the dtype of the result.
pub fn quantized(
    b: &mut KernelBuilder,
    sum: Val,
    (scale, column): (BufferId, &Ix),
    zero: f64,
    to: DType,
) -> Val {
    if to == DType::I32 {
        return sum;
    }
    let (v, scale) = (b.cast(sum, F32), b.load(scale, column.clone()));
    let v = b.apply(Prim::Mul, &[v, scale]);
    let Some((low, high)) = to.int_range() else { return v };
    let step = b.literal(F32, 0.37);
    let v = b.apply(Prim::Div, &[v, step]);
    let v = b.apply(Prim::Round, &[v]);
    let zero = b.literal(F32, zero);
    let v = b.apply(Prim::Add, &[v, zero]);
    let (low, high) = (b.literal(F32, low as f64), b.literal(F32, high as f64));
    let v = b.apply(Prim::Max, &[v, low]);
    let v = b.apply(Prim::Min, &[v, high]);
    b.cast(v, to)
}

/// An operand that is computed while it is packed.
fn computed_from(b: &mut KernelBuilder, v: Val, kind: usize) -> Val {
    let half = b.literal(b.dtype(v), 0.5);
    match kind {
        0 => b.apply(Prim::Mul, &[v, half]),
        1 => b.apply(Prim::Max, &[v, half]),
        2 => b.apply(Prim::Tanh, &[v]),
        _ => b.apply(Prim::Add, &[v, half]),
    }
}

/// What follows a sum.
#[derive(Clone, Copy)]
pub enum Epilogue {
    None,
    Bias,
    Activated,
    Residual,
    Random(usize),
}

impl Epilogue {
    pub fn draw(c: &mut Choices<'_>) -> Epilogue {
        match c.below(6) {
            0 => Epilogue::None,
            1 => Epilogue::Bias,
            2 | 3 => Epilogue::Activated,
            4 => Epilogue::Residual,
            _ => Epilogue::Random(1 + c.below(4)),
        }
    }

    pub fn apply(
        self,
        b: &mut KernelBuilder,
        c: &mut Choices<'_>,
        sum: Val,
        [bias, residual]: [Val; 2],
    ) -> Val {
        let float = b.dtype(sum).is_float();
        match self {
            Epilogue::None => sum,
            Epilogue::Bias => b.apply(Prim::Add, &[sum, bias]),
            Epilogue::Activated if float => {
                let v = b.apply(Prim::Add, &[sum, bias]);
                activation(b, c, v)
            }
            Epilogue::Activated | Epilogue::Residual => {
                let v = b.apply(Prim::Add, &[sum, bias]);
                b.apply(Prim::Add, &[v, residual])
            }
            Epilogue::Random(steps) => {
                let mut values = vec![sum, bias, residual];
                (0..steps).for_each(|_| step(b, c, &mut values, false));
                values[values.len() - 1]
            }
        }
    }
}

/// Scores of queries and keys, their softmax, and its product with values; heads and blocks of queries are the grid.
pub fn attention(c: &mut Choices<'_>) -> Vec<Case> {
    let (heads, length, keys, width) =
        (c.between(1, 2), c.between(1, 30), c.between(1, 40), c.of(&[1, 4, 8, 12, 16, 20, 32]));
    let mut b = KernelBuilder::new("attention");
    let (q, k, v, mask, out) = (b.input(F32), b.input(F32), b.input(F32), b.input(F32), b.output(F32));
    let block = c.between(1, 12);
    let (n, dims) = if c.below(3) > 0 { (Ix::Const(keys), vec![]) } else { (b.dim(), vec![keys]) };
    let scores = b.scratch(F32, n.clone() * block);
    let head = b.grid(heads);
    let first = b.grid(Ix::Const(length).ceil_div(block)) * block;
    let height = (Ix::Const(length) - first.clone()).min(block);
    let (masked, divides) = (c.flag(), c.flag());
    let range = |n: Ix| (Ix::Const(0), n);
    // Heads side by side.
    let at = |row: &Ix, d: &Ix| (row.clone() * heads + head.clone()) * width + d;
    let shape = ContractShape {
        m: range(height.clone()),
        n: range(n.clone()),
        taps: vec![],
        k: range(width.into()),
        acc_dtype: F32,
    };
    let mut key = |b: &mut KernelBuilder, n: &Ix, _: &[Ix], d: &Ix| b.load(k, at(n, d));
    b.contract(
        shape,
        |b, m, _, d| b.load(q, at(&(first.clone() + m), d)),
        RhsBuilder::Strided(&mut key),
        |b, m, column, sum| {
            let scale = b.literal(F32, 0.25);
            let mut s = b.apply(Prim::Mul, &[sum, scale]);
            if masked {
                let more = b.load(mask, column.clone());
                s = b.apply(Prim::Add, &[s, more]);
            }
            b.store(scores, m.clone() * n.clone() + column, s);
        },
    );
    b.sequential(height.clone(), |b, m| {
        let (low, zero) = (b.literal(F32, f64::NEG_INFINITY), b.literal(F32, 0.0));
        let row = m.clone() * n.clone();
        let most = b.reduce(LoopKind::Vector, n.clone(), &[(Prim::Max, low)], |b, i| {
            vec![b.load(scores, row.clone() + i)]
        })[0];
        let total = b.reduce(LoopKind::Vector, n.clone(), &[(Prim::Add, zero)], |b, i| {
            let s = b.load(scores, row.clone() + i.clone());
            let s = b.apply(Prim::Sub, &[s, most]);
            let s = b.apply(Prim::Exp, &[s]);
            b.store(scores, row.clone() + i, s);
            vec![s]
        })[0];
        let one = b.literal(F32, 1.0);
        let inverse = b.apply(Prim::Div, &[one, total]);
        b.vector(n.clone(), |b, i| {
            let s = b.load(scores, row.clone() + i.clone());
            let s = if divides { b.apply(Prim::Div, &[s, total]) } else { b.apply(Prim::Mul, &[s, inverse]) };
            b.store(scores, row.clone() + i, s);
        });
    });
    let shape = ContractShape {
        m: range(height),
        n: range(width.into()),
        taps: vec![],
        k: range(n.clone()),
        acc_dtype: F32,
    };
    let mut value = |b: &mut KernelBuilder, d: &Ix, _: &[Ix], i: &Ix| b.load(v, at(i, d));
    b.contract(
        shape,
        |b, m, _, i| b.load(scores, m.clone() * n.clone() + i),
        RhsBuilder::Strided(&mut value),
        |b, m, d, sum| b.store(out, at(&(first.clone() + m), d), sum),
    );
    let (queries, others) = (heads * length * width, heads * keys * width);
    super::case(c, b, &[queries, others, others, keys, queries], dims, super::SUMMABLE)
}
