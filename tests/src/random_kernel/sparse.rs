//! Contractions whose right operand is lists of weights, floats or bytes: any pattern, rows in place or computed, taps.

use kiln_codegen::kir::builder::{ContractShape, RhsBuilder};
use kiln_codegen::kir::sparse::{Form, lists};
use kiln_codegen::kir::{Bound, GROUP, Ix, KernelBuilder, Sparse};
use kiln_ir::{DType, Prim};

use super::contractions::Epilogue;
use crate::agreement::Case;
use crate::choices::{Choices, mix};

const F32: DType = DType::F32;

/// Any form.
fn form(c: &mut Choices<'_>) -> Form {
    Form {
        columns: 4 * c.of(&[4, 6, 32]),
        block: c.of(&[1, 2, 4]),
        depth: c.of(&[7, 16, 32, 64, 200]),
        rows: c.of(&[16, 32, 64, 128]),
        group: if c.flag() { GROUP } else { 1 },
        window: None,
    }
}

/// Index and values, as bytes, of the lists of weights.
fn packed(form: Form, [taps, k, n]: [i64; 3], weight: &dyn Fn(i64) -> i8) -> Option<(Vec<i32>, Vec<u8>)> {
    let steps = (k + i64::from(form.group) - 1) / i64::from(form.group);
    let sizes = [taps, steps, n].map(|size| size as usize);
    if form.group == 1 {
        let weights: Vec<f32> = (0..taps * k * n).map(|i| f32::from(weight(i)) * 0.125).collect();
        let (index, values) = lists(&weights, sizes, form)?;
        return Some((index, values.iter().flat_map(|v| v.to_le_bytes()).collect()));
    }
    // Those of a last group that do not exist are zero.
    let exists = |i: i64, lane: i64| i / n % steps * 4 + lane < k;
    let lane = |i: i64, lane: i64| if exists(i, lane) { weight(4 * i + lane) } else { 0 };
    let weights: Vec<[i8; 4]> =
        (0..taps * steps * n).map(|i| std::array::from_fn(|l| lane(i, l as i64))).collect();
    let (index, values) = lists(&weights, sizes, form)?;
    Some((index, values.as_flattened().iter().map(|v| *v as u8).collect()))
}

/// `out[m][n] = epilogue(sum over taps, k of a b)`, most of `b` zero.
pub fn grow(c: &mut Choices<'_>) -> Vec<Case> {
    let (most, columns) = (c.of(&[9, 40, 150]), c.of(&[9, 70]));
    let (m, n, k) = (c.between(1, most), c.between(1, columns), c.of(&[1, 5, 16, 32, 48, 70]));
    let taps = if c.below(3) == 1 { c.between(1, 5) } else { 1 };
    let form = form(c);
    let bytes = form.group > 1;
    let (seed, percent) = (c.below(1 << 16) as u64, c.of(&[0, 10, 40, 100]));
    let random = |i: i64| mix(seed + ((i as u64) << 16));
    let weight = |i: i64| match random(i / 4 * 4) % 100 < percent {
        true => (random(i + (1 << 30)) % 33) as i8 - 16,
        false => 0,
    };
    let made = packed(form, [taps, k, n], &weight);
    let Some((index, values)) = made else { return vec![] };
    let mut b = KernelBuilder::new("sparse");
    let x = b.input(if bytes { DType::U8 } else { c.of(&[F32, F32, F32, DType::F16]) });
    let (index_id, values_id) = (b.weights(DType::I32), b.weights(if bytes { DType::I8 } else { F32 }));
    let (bias, residual, out) = (b.input(F32), b.input(F32), b.output(F32));
    let mut dims = vec![];
    let rows = if c.flag() {
        dims.push(m);
        b.dim()
    } else {
        Ix::Const(m)
    };
    let block = i64::from(form.columns);
    let begin = b.grid(Ix::Const(n).ceil_div(block)) * block;
    let line = i64::from(form.rows) * c.between(1, 2);
    let first = if c.flag() { b.grid(rows.clone().ceil_div(line)) * line } else { Ix::Const(0) };
    let height = if first == Ix::Const(0) { rows.clone() } else { (rows.clone() - first.clone()).min(line) };
    let shape = ContractShape {
        m: (first, height),
        n: (begin.clone(), (Ix::Const(n) - begin).min(block)),
        taps: if taps > 1 || c.below(6) == 1 { vec![(0.into(), taps.into())] } else { vec![] },
        k: (0.into(), k.into()),
        acc_dtype: if bytes { DType::I32 } else { F32 },
    };
    let (computed, shifted, end) = (c.below(4) == 1, c.below(3) == 1, Epilogue::draw(c));
    b.contract(
        shape,
        |b, row, t, kk| {
            let tap = t.first().cloned().unwrap_or(Ix::Const(0));
            // Taps are rows further on, of which the last do not exist, or parts of the row.
            let v = if shifted {
                let at = row.clone() + tap;
                let bounds = vec![Bound::below(at.clone(), rows.clone())];
                b.load_guarded(x, at * k + kk, bounds, 0.0)
            } else {
                b.load(x, row.clone() * (k * taps) + tap * k + kk)
            };
            if !computed {
                return v;
            }
            if bytes {
                let sign = b.literal(DType::U8, 128.0);
                return b.apply(Prim::Xor, &[v, sign]);
            }
            let half = b.literal(F32, 0.5);
            b.apply(Prim::Max, &[v, half])
        },
        RhsBuilder::Sparse(Sparse { index: index_id, values: values_id, form }),
        |b, row, column, sum| {
            let index = row.clone() * n + column;
            let sum = b.cast(sum, F32);
            let more = [b.load(bias, column.clone()), b.load(residual, index.clone())];
            let v = end.apply(b, c, sum, more);
            b.store(out, index, v);
        },
    );
    let entries = if bytes { values.len() } else { values.len() / 4 };
    let lengths = [m * k * taps, index.len() as i64, entries as i64, n, m * n, m * n];
    let mut cases = super::case(c, b, &lengths, dims, super::SUMMABLE);
    for case in &mut cases {
        case.buffers[1] = index.iter().flat_map(|v| v.to_le_bytes()).collect();
        case.buffers[2].clone_from(&values);
    }
    cases
}
