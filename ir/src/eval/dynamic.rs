//! Operators whose result shape depends on operands' data.

use crate::build::dynamic::BuildDynamic;
use crate::op::Dynamic;
use crate::{Build, Op, Tensor, wrap_int};

use super::composite::run_built;
use super::cx::Cx;
use super::fault::{Fault, invalid};
use super::lanes::{Lanes, as_i128, ints, single};
use super::movement::{broadcast, concat, pad, slice, transpose};
use super::object::split_sizes;
use super::order::cumulative;
use super::reduce::reduce_axes;
use super::walk::{axis_of, broadcast_dims, pick_from, split_at, strides};
use super::{Datum, Evaluator, tensor, tensors};

/// An operator that resolves its attributes from operands first.
pub(super) fn dynamic(ev: &mut Evaluator<'_>, op: &Dynamic, operands: &[Datum]) -> Result<Vec<Datum>, Fault> {
    let x = tensor(operands, 0)?;
    let numbers = |i: usize| ints(tensor(operands, i)?);
    let one = match op {
        Dynamic::Reshape { allow_zero } => reshape(x, &numbers(1)?, *allow_zero)?,
        Dynamic::Sizes { dims } => {
            let values = numbers(0)?;
            if values.len() != dims.len() {
                return invalid(format!("{} sizes for {} dims", values.len(), dims.len()));
            }
            dims.iter().zip(values).try_for_each(|(dim, value)| ev.cx.bind_dim(dim, value))?;
            x.clone()
        }
        Dynamic::Expand {} => {
            let dims = broadcast_dims(&[x.dims(), &sizes(&numbers(1)?)?])?;
            broadcast(&mut ev.cx, x, &dims)?
        }
        Dynamic::Slice {} => slice_by(&mut ev.cx, x, &numbers(1)?, &numbers(2)?, &numbers(3)?, &numbers(4)?)?,
        Dynamic::Pad { mode } => {
            let (pads, axes) = (numbers(1)?, axes_of(&numbers(3)?, x.dims().len())?);
            if pads.len() != 2 * axes.len() {
                return invalid(format!("{} pads for {} axes", pads.len(), axes.len()));
            }
            let mut ends = [vec![0; x.dims().len()], vec![0; x.dims().len()]];
            for (i, &axis) in axes.iter().enumerate() {
                (ends[0][axis], ends[1][axis]) = (pads[i], pads[axes.len() + i]);
            }
            pad(&mut ev.cx, x, tensor(operands, 2)?, *mode, &ends[0], &ends[1])?
        }
        Dynamic::Tile {} => tile(&mut ev.cx, x, &sizes(&numbers(1)?)?)?,
        Dynamic::Range {} => range(&mut ev.cx, x, tensor(operands, 1)?, tensor(operands, 2)?)?,
        Dynamic::Fill {} => {
            let dims = sizes(&numbers(0)?)?;
            broadcast(&mut ev.cx, tensor(operands, 1)?, &dims)?
        }
        Dynamic::Squeeze {} => squeeze(x, &numbers(1)?)?,
        Dynamic::Unsqueeze {} => unsqueeze(x, &numbers(1)?)?,
        Dynamic::Shape { start, end } => {
            let rank = x.dims().len() as i64;
            let clamp = |v: i64| if v < 0 { v.saturating_add(rank) } else { v }.clamp(0, rank);
            let (start, end) = (clamp(*start), clamp(end.unwrap_or(rank)));
            let dims: Vec<i64> = x.dims().iter().map(|&d| d as i64).collect();
            Tensor::ints(dims.get(start as usize..end as usize).unwrap_or(&[]))
        }
        Dynamic::Size {} => Tensor::scalar(x.numel() as i64),
        Dynamic::Reduce { kind, keepdims, noop } => {
            let given = numbers(1)?;
            let axes = match given.is_empty() && !noop {
                true => (0..x.dims().len()).collect(),
                false => axes_of(&given, x.dims().len())?,
            };
            reduce_axes(&mut ev.cx, *kind, x, &axes, *keepdims)?
        }
        Dynamic::Split { axis } => {
            let axis = axis_of(*axis, x.dims().len())?;
            let parts = split_sizes(ev, x, axis, &sizes(&numbers(1)?)?)?;
            return Ok(parts.into_iter().map(Datum::Tensor).collect());
        }
        Dynamic::Resize { .. } => return resize(ev, op, operands),
        Dynamic::OneHot { axis } => one_hot(&mut ev.cx, x, &numbers(1)?, tensor(operands, 2)?, *axis)?,
        Dynamic::Concat { axis } => {
            let axis = axis_of(*axis, x.dims().len())?;
            concat(&mut ev.cx, &tensors(operands)?, axis)?
        }
        Dynamic::ReverseAxes {} => transpose(&mut ev.cx, x, &(0..x.dims().len()).rev().collect::<Vec<_>>())?,
        Dynamic::Cumulative { kind, exclusive, reverse } => {
            let axis = axis_of(single(&numbers(1)?, "the axis")?, x.dims().len())?;
            cumulative(&mut ev.cx, x, *kind, axis, *exclusive, *reverse)?
        }
        Dynamic::Compress { axis } => compress(&mut ev.cx, x, tensor(operands, 1)?, *axis)?,
    };
    Ok(vec![one.into()])
}

/// Numbers that are sizes.
fn sizes(values: &[i64]) -> Result<Vec<usize>, Fault> {
    let size = |&v: &i64| usize::try_from(v).or_else(|_| invalid(format!("a size of {v}")));
    values.iter().map(size).collect()
}

/// Distinct axes that may count from the end.
fn axes_of(axes: &[i64], rank: usize) -> Result<Vec<usize>, Fault> {
    let out = axes.iter().map(|&a| axis_of(a, rank)).collect::<Result<Vec<_>, _>>()?;
    if (1..out.len()).any(|i| out[..i].contains(&out[i])) {
        return invalid(format!("axes {axes:?} repeat"));
    }
    Ok(out)
}

fn reshape(x: &Tensor, shape: &[i64], allow_zero: bool) -> Result<Tensor, Fault> {
    let mut dims = vec![];
    let mut inferred = None;
    for (i, &v) in shape.iter().enumerate() {
        dims.push(match v {
            0 if !allow_zero => match x.dims().get(i) {
                Some(&d) => d,
                None => return invalid(format!("axis {i} to copy of a tensor of rank {}", x.dims().len())),
            },
            -1 if inferred.is_none() => {
                inferred = Some(i);
                1
            }
            v => sizes(&[v])?[0],
        });
    }
    if let Some(i) = inferred {
        let rest = super::walk::product(&dims)?;
        match x.numel().checked_rem(rest) {
            Some(0) => dims[i] = x.numel() / rest,
            _ => return invalid(format!("{} elements do not make {shape:?}", x.numel())),
        }
    }
    Ok(x.reshaped(&dims)?)
}

/// ONNX Slice: starts and ends clamp to the axis, negative ones count from its end.
fn slice_by(
    cx: &mut Cx<'_>,
    x: &Tensor,
    starts: &[i64],
    ends: &[i64],
    axes: &[i64],
    steps: &[i64],
) -> Result<Tensor, Fault> {
    let rank = x.dims().len();
    let axes = axes_of(axes, rank)?;
    if [starts.len(), ends.len(), steps.len()].iter().any(|&n| n != axes.len()) {
        return invalid("starts, ends, axes and steps differ in number");
    }
    let mut at = (vec![0i64; rank], x.dims().to_vec(), vec![1i64; rank]);
    for (i, &axis) in axes.iter().enumerate() {
        let (n, step) = (x.dims()[axis] as i64, steps[i]);
        if step == 0 || step == i64::MIN {
            return invalid(format!("a step of {step}"));
        }
        let counted = |v: i64| if v < 0 { v.saturating_add(n) } else { v };
        let (start, count) = if step > 0 {
            let (start, end) = (counted(starts[i]).clamp(0, n), counted(ends[i]).clamp(0, n));
            (start, (end - start).max(0) as u64)
        } else {
            let top = n - 1;
            let (start, end) = (counted(starts[i]).max(0).min(top), counted(ends[i]).max(-1).min(top));
            (start, (start - end).max(0) as u64)
        };
        at.0[axis] = start;
        at.1[axis] = count.div_ceil(step.unsigned_abs()) as usize;
        at.2[axis] = step;
    }
    slice(cx, x, &at.0, &at.1, &at.2)
}

fn tile(cx: &mut Cx<'_>, x: &Tensor, repeats: &[usize]) -> Result<Tensor, Fault> {
    let rank = x.dims().len();
    if repeats.len() != rank {
        return invalid(format!("{} repeats of a tensor of rank {rank}", repeats.len()));
    }
    let dims: Option<Vec<usize>> = x.dims().iter().zip(repeats).map(|(d, r)| d.checked_mul(*r)).collect();
    let Some(dims) = dims else { return invalid("sizes overflow") };
    let count = cx.admit(x.dtype(), &dims)?;
    let (own, mine) = (strides(x.dims()), strides(&dims));
    let position = |flat: usize| -> usize {
        (0..rank).map(|a| flat / mine[a].unsigned_abs() % dims[a] % x.dims()[a] * own[a].unsigned_abs()).sum()
    };
    pick_from(cx, x, &dims, (0..count).map(position))
}

fn range(cx: &mut Cx<'_>, start: &Tensor, limit: &Tensor, delta: &Tensor) -> Result<Tensor, Fault> {
    let dtype = start.dtype();
    if limit.dtype() != dtype || delta.dtype() != dtype {
        return invalid(format!("bounds of {dtype}, {} and {}", limit.dtype(), delta.dtype()));
    }
    match (Lanes::decode(start)?, Lanes::decode(limit)?, Lanes::decode(delta)?) {
        (Lanes::F(a), Lanes::F(b), Lanes::F(d)) => {
            let (a, b, d) = (single(&a, "start")?, single(&b, "limit")?, single(&d, "delta")?);
            let count = ((b - a) / d).ceil().max(0.0);
            if !(count.is_finite() && d != 0.0) || count >= 1e15 {
                return invalid(format!("a range from {a} to {b} by {d}"));
            }
            let dims = [count as usize];
            cx.admit(dtype, &dims)?;
            Lanes::F((0..dims[0]).map(|i| a + i as f64 * d).collect()).encode(dtype, &dims)
        }
        (Lanes::I(a), Lanes::I(b), Lanes::I(d)) => {
            let (a, b, d) = (single(&a, "start")?, single(&b, "limit")?, single(&d, "delta")?);
            if d == 0 {
                return invalid("a range with step 0");
            }
            let span = if d > 0 { b - a } else { a - b }.max(0);
            let count = usize::try_from((span + d.abs() - 1) / d.abs());
            let dims = [count.or_else(|_| invalid("sizes overflow"))?];
            cx.admit(dtype, &dims)?;
            Lanes::I((0..dims[0] as i128).map(|i| wrap_int(a + i * d, dtype)).collect()).encode(dtype, &dims)
        }
        _ => invalid(format!("no range of {dtype}")),
    }
}

fn squeeze(x: &Tensor, axes: &[i64]) -> Result<Tensor, Fault> {
    let axes = axes_of(axes, x.dims().len())?;
    if let Some(&a) = axes.iter().find(|&&a| x.dims()[a] != 1) {
        return invalid(format!("axis {a} has {} elements", x.dims()[a]));
    }
    let gone = |a: usize, d: usize| if axes.is_empty() { d == 1 } else { axes.contains(&a) };
    let dims: Vec<usize> =
        x.dims().iter().enumerate().filter(|&(a, &d)| !gone(a, d)).map(|(_, &d)| d).collect();
    Ok(x.reshaped(&dims)?)
}

fn unsqueeze(x: &Tensor, axes: &[i64]) -> Result<Tensor, Fault> {
    let rank = x.dims().len() + axes.len();
    let axes = axes_of(axes, rank)?;
    let mut rest = x.dims().iter();
    let dims: Vec<usize> =
        (0..rank).map(|a| if axes.contains(&a) { 1 } else { rest.next().copied().unwrap_or(1) }).collect();
    Ok(x.reshaped(&dims)?)
}

/// `values[1]` where the class axis equals the index, `values[0]` elsewhere.
fn one_hot(
    cx: &mut Cx<'_>,
    indices: &Tensor,
    depth: &[i64],
    values: &Tensor,
    axis: i64,
) -> Result<Tensor, Fault> {
    let depth = sizes(&[single(depth, "the depth")?])?[0];
    let axis = axis_of(axis, indices.dims().len() + 1)?;
    if values.dims() != [2] {
        return invalid(format!("values {:?}", values.dims()));
    }
    let mut dims = indices.dims().to_vec();
    dims.insert(axis, depth);
    let count = cx.admit(values.dtype(), &dims)?;
    let at = Lanes::decode(indices)?;
    let wanted: Vec<i128> = (0..at.len()).map(|i| as_i128(at.get(i))).collect();
    let (_, _, inner) = split_at(&dims, axis)?;
    let position = |flat: usize| {
        let (outer, class) = (flat / inner / depth, flat / inner % depth);
        let index = wanted[outer * inner + flat % inner];
        let counted = if index < 0 { index + depth as i128 } else { index };
        usize::from(counted == class as i128)
    };
    pick_from(cx, values, &dims, (0..count).map(position))
}

/// Slices of an axis (or flattened elements) whose condition holds.
fn compress(cx: &mut Cx<'_>, x: &Tensor, condition: &Tensor, axis: Option<usize>) -> Result<Tensor, Fault> {
    let flat = x.reshaped(&[x.numel()])?;
    let (x, axis) = match axis {
        Some(axis) => (x, axis),
        None => (&flat, 0),
    };
    let Lanes::B(condition) = Lanes::decode(condition)? else { return invalid("the condition is not bool") };
    let (outer, n, inner) = split_at(x.dims(), axis)?;
    if condition.len() > n {
        return invalid(format!("{} conditions for {n} slices", condition.len()));
    }
    let kept: Vec<usize> = (0..condition.len()).filter(|&i| condition[i]).collect();
    let mut dims = x.dims().to_vec();
    dims[axis] = kept.len();
    cx.admit(x.dtype(), &dims)?;
    let kept = &kept;
    let positions = (0..outer)
        .flat_map(|o| kept.iter().flat_map(move |&i| (0..inner).map(move |k| (o * n + i) * inner + k)));
    pick_from(cx, x, &dims, positions)
}

/// Resolves sizes, scales and region to a static resize, which is a composite.
fn resize(ev: &mut Evaluator<'_>, op: &Dynamic, operands: &[Datum]) -> Result<Vec<Datum>, Fault> {
    let x = tensor(operands, 0)?;
    let parameters =
        (1..operands.len()).map(|i| tensor(operands, i).cloned()).collect::<Result<Vec<_>, _>>()?;
    run_built(ev, &[x.clone().into()], |b, inputs| {
        let mut all = inputs.to_vec();
        for p in parameters {
            all.push(b.constant(p)?);
        }
        let results = b.dynamic(op.clone(), &all)?;
        let resolved = b.graph().scheduled().all(|(_, n)| !matches!(n.op, Op::Dynamic(_)));
        match resolved {
            true => Ok(results.to_vec()),
            false => Err(crate::InferError::new("sizes do not follow from the operands")),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ints_of(t: &Tensor) -> Vec<i64> {
        t.to_ints().unwrap()
    }

    #[test]
    fn slices_clamp_like_onnx() {
        let mut cx = Cx::new(super::super::Limits::default());
        let x = Tensor::ints(&[0, 1, 2, 3, 4]);
        let mut run = |start: i64, end: i64, step: i64| {
            ints_of(&slice_by(&mut cx, &x, &[start], &[end], &[0], &[step]).unwrap())
        };
        assert_eq!(run(1, i64::MAX, 2), [1, 3]);
        assert_eq!(run(-2, 5, 1), [3, 4]);
        assert_eq!(run(i64::MAX, i64::MIN, -2), [4, 2, 0]);
        assert_eq!(run(3, 1, 1), Vec::<i64>::new());
        assert_eq!(run(-100, 2, 1), [0, 1]);
        assert!(slice_by(&mut cx, &x, &[0], &[1], &[0], &[0]).is_err());
    }

    #[test]
    fn ranges_count_like_onnx() {
        let mut cx = Cx::new(super::super::Limits::default());
        let f = |v: f32| Tensor::scalar(v);
        let r = range(&mut cx, &f(1.0), &f(2.0), &f(0.4)).unwrap();
        assert_eq!(r.to_f64s().unwrap().len(), 3);
        let i = |v: i64| Tensor::scalar(v);
        assert_eq!(ints_of(&range(&mut cx, &i(10), &i(4), &i(-2)).unwrap()), [10, 8, 6]);
        assert_eq!(ints_of(&range(&mut cx, &i(0), &i(-4), &i(2)).unwrap()), Vec::<i64>::new());
        assert!(range(&mut cx, &i(0), &i(4), &i(0)).is_err());
        assert!(range(&mut cx, &i(0), &i(i64::MAX), &i(1)).is_err());
        assert!(range(&mut cx, &f(0.0), &f(1.0), &f(0.0)).is_err());
    }
}
