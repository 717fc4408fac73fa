//! Sorting, searching and scanning.

use std::cmp::Ordering;

use crate::op::{CumKind, Order};
use crate::{DClass, DType, Prim, Scalar, Tensor, float, wrap_int};

use super::cx::Cx;
use super::fault::{Fault, invalid};
use super::lanes::{Lanes, ints, single};
use super::reduce::identity;
use super::walk::{pick_from, product, split_at, strides};

/// An operator that compares or scans elements along an axis.
pub(super) fn order(cx: &mut Cx<'_>, op: &Order, operands: &[&Tensor]) -> Result<Vec<Tensor>, Fault> {
    let Some(&x) = operands.first() else { return invalid("takes an operand") };
    match op {
        Order::ArgMax { axis, keepdims, last } => {
            arg_extremum(cx, x, *axis, *keepdims, *last, Ordering::Greater).map(|t| vec![t])
        }
        Order::ArgMin { axis, keepdims, last } => {
            arg_extremum(cx, x, *axis, *keepdims, *last, Ordering::Less).map(|t| vec![t])
        }
        Order::TopK { axis, largest, sorted: _ } => {
            let Some(k) = operands.get(1) else { return invalid("takes the number of elements") };
            let k = single(&ints(k)?, "k")?;
            top_k(cx, x, k, *axis, *largest)
        }
        Order::NonZero {} => non_zero(cx, x).map(|t| vec![t]),
        Order::Unique { axis, sorted } => unique(cx, x, *axis, *sorted),
        Order::Cumulative { kind, axis, exclusive, reverse } => {
            cumulative(cx, x, *kind, *axis, *exclusive, *reverse).map(|t| vec![t])
        }
    }
}

/// Elements that compare: numbers with NaN as the largest, or strings.
pub(super) enum Keys<'a> {
    Numbers(Lanes),
    Strings(&'a [String]),
}

impl<'a> Keys<'a> {
    pub(super) fn new(x: &'a Tensor) -> Result<Self, Fault> {
        Ok(match x.dtype().class() {
            DClass::Text => Keys::Strings(x.as_strings()),
            _ => Keys::Numbers(Lanes::decode(x)?),
        })
    }

    pub(super) fn cmp(&self, i: usize, j: usize) -> Ordering {
        match self {
            Keys::Strings(s) => s[i].cmp(&s[j]),
            Keys::Numbers(Lanes::I(v)) => v[i].cmp(&v[j]),
            Keys::Numbers(Lanes::B(v)) => v[i].cmp(&v[j]),
            Keys::Numbers(Lanes::F(v)) => {
                v[i].partial_cmp(&v[j]).unwrap_or_else(|| v[i].is_nan().cmp(&v[j].is_nan()))
            }
        }
    }

    fn is_nan(&self, i: usize) -> bool {
        matches!(self, Keys::Numbers(Lanes::F(v)) if v[i].is_nan())
    }
}

/// Index of the element that compares as `wanted` to all others. NaN wins either way, as in NumPy.
fn arg_extremum(
    cx: &mut Cx<'_>,
    x: &Tensor,
    axis: usize,
    keepdims: bool,
    last: bool,
    wanted: Ordering,
) -> Result<Tensor, Fault> {
    let (outer, n, inner) = split_at(x.dims(), axis)?;
    let mut dims = x.dims().to_vec();
    if keepdims {
        dims[axis] = 1;
    } else {
        dims.remove(axis);
    }
    let count = cx.admit(DType::I64, &dims)?;
    cx.tick(x.numel())?;
    if n == 0 && count > 0 {
        return invalid(format!("axis {axis} is empty"));
    }
    let keys = Keys::new(x)?;
    let mut out = Vec::with_capacity(count);
    for o in 0..if count == 0 { 0 } else { outer } {
        for k in 0..inner {
            let at = |i: usize| (o * n + i) * inner + k;
            let wins = |i: usize, best: usize| match (keys.is_nan(at(i)), keys.is_nan(at(best))) {
                (true, true) => last,
                (nan, false) if nan => true,
                (_, true) => false,
                _ => match keys.cmp(at(i), at(best)) {
                    Ordering::Equal => last,
                    other => other == wanted,
                },
            };
            let best = (1..n).fold(0, |best, i| if wins(i, best) { i } else { best });
            out.push(best as i64);
        }
    }
    Ok(Tensor::from_slice(&dims, &out)?)
}

/// The `k` largest or smallest elements along an axis and their indices; equal ones by lower index.
fn top_k(cx: &mut Cx<'_>, x: &Tensor, k: i64, axis: usize, largest: bool) -> Result<Vec<Tensor>, Fault> {
    let (outer, n, inner) = split_at(x.dims(), axis)?;
    let Some(k) = usize::try_from(k).ok().filter(|&k| k <= n) else {
        return invalid(format!("{k} of {n} elements"));
    };
    let mut dims = x.dims().to_vec();
    dims[axis] = k;
    let count = cx.admit(DType::I64, &dims)?;
    cx.tick(x.numel())?;
    let keys = Keys::new(x)?;
    let (mut positions, mut indices) = (vec![0; count], vec![0i64; count]);
    let lines = if count == 0 { 0 } else { outer * inner };
    for line in 0..lines {
        let (o, i) = (line / inner, line % inner);
        let at = |j: usize| (o * n + j) * inner + i;
        let mut order: Vec<usize> = (0..n).collect();
        // The sort is stable, so equal elements keep their order.
        order.sort_by(|&a, &b| if largest { keys.cmp(at(b), at(a)) } else { keys.cmp(at(a), at(b)) });
        for (rank, &j) in order[..k].iter().enumerate() {
            let slot = (o * k + rank) * inner + i;
            (positions[slot], indices[slot]) = (at(j), j as i64);
        }
    }
    let values = pick_from(cx, x, &dims, positions.into_iter())?;
    Ok(vec![values, Tensor::from_slice(&dims, &indices)?])
}

/// Coordinates of the elements that are not zero (strings: not empty).
fn non_zero(cx: &mut Cx<'_>, x: &Tensor) -> Result<Tensor, Fault> {
    let hits: Vec<usize> = match x.dtype().class() {
        DClass::Text => (0..x.numel()).filter(|&i| !x.as_strings()[i].is_empty()).collect(),
        _ => {
            let values = Lanes::decode(x)?;
            let zero = |v: Scalar| v == Scalar::F(0.0) || v == Scalar::I(0) || v == Scalar::B(false);
            (0..x.numel()).filter(|&i| !zero(values.get(i))).collect()
        }
    };
    let (dims, own) = (x.dims(), strides(x.dims()));
    cx.admit(DType::I64, &[dims.len(), hits.len()])?;
    let coordinate = |a: usize, i: usize| (i / own[a].unsigned_abs() % dims[a]) as i64;
    let out: Vec<i64> = (0..dims.len()).flat_map(|a| hits.iter().map(move |&i| coordinate(a, i))).collect();
    Ok(Tensor::from_slice(&[dims.len(), hits.len()], &out)?)
}

/// Unique elements, or slices along an axis: values, first occurrences, inverse, counts.
fn unique(cx: &mut Cx<'_>, x: &Tensor, axis: Option<usize>, sorted: bool) -> Result<Vec<Tensor>, Fault> {
    let flat = x.reshaped(&[x.numel()])?;
    let (x, axis) = match axis {
        Some(axis) => (x, axis),
        None => (&flat, 0),
    };
    let (outer, n, inner) = split_at(x.dims(), axis)?;
    let size = product(&[outer, inner])?;
    cx.admit(DType::I64, &[n])?;
    cx.tick(x.numel())?;
    let keys = Keys::new(x)?;
    let at = |row: usize, e: usize| (e / inner * n + row) * inner + e % inner;
    let cmp = |a: &usize, b: &usize| {
        let parts = if x.numel() == 0 { 0 } else { size };
        (0..parts).map(|e| keys.cmp(at(*a, e), at(*b, e))).find(|o| o.is_ne()).unwrap_or(Ordering::Equal)
    };
    let mut rows: Vec<usize> = (0..n).collect();
    rows.sort_by(cmp);
    // Groups of equal rows, each led by its first occurrence, for the sort is stable.
    let mut groups: Vec<Vec<usize>> = vec![];
    for row in rows {
        match groups.last_mut() {
            Some(group) if cmp(&group[0], &row).is_eq() => group.push(row),
            _ => groups.push(vec![row]),
        }
    }
    if !sorted {
        groups.sort_by_key(|g| g[0]);
    }
    let first: Vec<i64> = groups.iter().map(|g| g[0] as i64).collect();
    let counts: Vec<i64> = groups.iter().map(|g| g.len() as i64).collect();
    let mut inverse = vec![0i64; n];
    for (i, group) in groups.iter().enumerate() {
        group.iter().for_each(|&row| inverse[row] = i as i64);
    }
    let mut dims = x.dims().to_vec();
    dims[axis] = groups.len();
    let groups = &groups;
    let positions = (0..if x.numel() == 0 { 0 } else { outer })
        .flat_map(|o| groups.iter().flat_map(move |g| (0..inner).map(move |i| (o * n + g[0]) * inner + i)));
    let values = pick_from(cx, x, &dims, positions)?;
    Ok(vec![values, Tensor::ints(&first), Tensor::ints(&inverse), Tensor::ints(&counts)])
}

/// Running sum or product. Floats of 16 bits round at each step, others once they are stored.
pub(super) fn cumulative(
    cx: &mut Cx<'_>,
    x: &Tensor,
    kind: CumKind,
    axis: usize,
    exclusive: bool,
    reverse: bool,
) -> Result<Tensor, Fault> {
    let (outer, n, inner) = split_at(x.dims(), axis)?;
    let dtype = x.dtype();
    let count = cx.admit(dtype, x.dims())?;
    if !(dtype.is_int() || dtype.is_float()) {
        return invalid(format!("does not apply to {dtype}"));
    }
    let p = match kind {
        CumKind::Sum => Prim::Add,
        CumKind::Prod => Prim::Mul,
    };
    let values = Lanes::decode(x)?;
    let mut out = vec![identity(p, dtype); count];
    let lines = if count == 0 { 0 } else { outer * inner };
    for line in 0..lines {
        let mut running = identity(p, dtype);
        for step in 0..n {
            let i = if reverse { n - 1 - step } else { step };
            let at = (line / inner * n + i) * inner + line % inner;
            let next = match p.apply(&[running, values.get(at)], dtype.bits()) {
                Scalar::I(v) => Scalar::I(wrap_int(v, dtype)),
                Scalar::F(v) if dtype.bits() < 32 => {
                    Scalar::F(float::decode(dtype, float::encode(dtype, v, false)))
                }
                other => other,
            };
            out[at] = if exclusive { running } else { next };
            running = next;
        }
    }
    let mut lanes = Lanes::empty(dtype, count)?;
    out.into_iter().for_each(|v| lanes.push(v));
    lanes.encode(dtype, x.dims())
}
