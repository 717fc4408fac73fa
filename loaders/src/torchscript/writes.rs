//! Changes of views in place: what the base becomes.

use kiln_ir::op::Source;
use kiln_ir::{Build, DType, Dim, Value};

use super::fault::{Fault, Res};
use super::machine::Machine;
use super::tensors::{axis, named};
use super::value::{State, Traced, Val, View};
use crate::aten::Arg;

impl Machine<'_> {
    /// The base of a view with `new` where the view shows it.
    pub(super) fn written_back(
        &mut self,
        st: &mut State,
        view: &View,
        base: &Traced,
        new: &Traced,
    ) -> Res<Traced> {
        let (b, n) = (self.g.value(base)?, self.g.value(new)?);
        let shape = self.g.try_build(|g| g.shape(b).map(<[Dim]>::to_vec))?;
        if self.dtype(base)? != self.dtype(new)? {
            return Err(Fault::unsupported("a change in place of a view of another dtype"));
        }
        let number = |i: usize, name: &str| view.args.get(i).or_else(|| named(&view.kwargs, name)).cloned();
        let value = match &*view.op {
            "alias" | "detach" => n,
            "unsqueeze" | "squeeze" | "view" | "view_as" | "reshape" | "reshape_as" | "ravel" | "flatten"
            | "unflatten" | "contiguous" | "_reshape_alias" | "_unsafe_view" | "atleast_1d"
            | "atleast_2d" | "atleast_3d" => self.g.try_build(|g| g.reshape(n, &shape))?,
            "transpose" | "swapaxes" | "swapdims" | "t" | "numpy_T" => {
                let mut args = vec![Arg::Tensor(n)];
                for v in view.args.get(1..).unwrap_or(&[]) {
                    args.push(self.arg(st, v, 0)?);
                }
                let name = format!("aten::{}", view.op);
                let outcome = self.g.call(&name, args, vec![])?;
                match outcome.results.first() {
                    Some(Arg::Tensor(v)) => *v,
                    _ => return Err(Fault::invalid("a view cannot be written")),
                }
            }
            "permute" => {
                let dims = number(1, "dims").and_then(|v| st.items(&v)).unwrap_or_default();
                let mut inverse = vec![0; dims.len()];
                for (i, d) in dims.iter().enumerate() {
                    let Val::Int(d) = d else { return Err(Fault::unsupported("a permutation of run time")) };
                    if let Some(slot) = inverse.get_mut(axis(*d, dims.len())?) {
                        *slot = i;
                    }
                }
                self.g.try_build(|g| g.transpose(n, &inverse))?
            }
            "select" | "unbind" => {
                let (dim, index) = match &*view.op {
                    "select" => (number(1, "dim"), number(2, "index").unwrap_or(Val::Int(0))),
                    _ => (number(1, "dim"), Val::Int(i64::try_from(view.result).unwrap_or(0))),
                };
                let dim = known_axis(dim.as_ref().unwrap_or(&Val::Int(0)), shape.len())?;
                let index = self.index(st, &index)?;
                self.put_slice(b, n, &shape, dim, &index)?
            }
            "slice" | "narrow" => self.put_bounds(st, view, b, n, &shape)?,
            "chunk" | "split" | "split_with_sizes" => {
                let (dim, start, size) = piece(st, view, &shape)?;
                self.put_range(
                    b,
                    n,
                    &shape,
                    dim,
                    &Dim::known(start),
                    &Dim::known(start.saturating_add(size)),
                )?
            }
            other => return Err(Fault::unsupported(format!("a change in place of what `{other}` gives"))),
        };
        Ok(self.g.node(value))
    }

    /// `base` with `new` where a slice of an axis shows it.
    fn put_bounds(
        &mut self,
        st: &mut State,
        view: &View,
        base: Value,
        new: Value,
        shape: &[Dim],
    ) -> Res<Value> {
        let number = |i: usize, name: &str| view.args.get(i).or_else(|| named(&view.kwargs, name)).cloned();
        let dim = number(1, "dim").unwrap_or(Val::Int(0));
        let dim = known_axis(&dim, shape.len())?;
        let size = shape.get(dim).cloned().unwrap_or(Dim::known(0));
        let start = number(2, "start").unwrap_or(Val::None);
        let start = self.bound(st, &start, &size, Dim::known(0))?;
        let (end, step) = match &*view.op {
            "narrow" => {
                let length =
                    self.bound(st, &number(3, "length").unwrap_or(Val::None), &size, size.clone())?;
                (&start + &length, Val::Int(1))
            }
            _ => {
                let end = number(3, "end").unwrap_or(Val::None);
                (self.bound(st, &end, &size, size.clone())?, number(4, "step").unwrap_or(Val::Int(1)))
            }
        };
        let is_empty = start.as_known().zip(end.as_known()).is_some_and(|(start, end)| end <= start);
        match step {
            _ if is_empty => Ok(base),
            Val::Int(1) | Val::None => self.put_range(base, new, shape, dim, &start, &end),
            Val::Int(step) if step > 1 => self.put_steps(base, new, shape, dim, (&start, &end), step),
            _ => Err(Fault::unsupported("a slice whose step shows at run time")),
        }
    }

    /// A bound of a slice, clamped into the axis.
    fn bound(&mut self, st: &mut State, v: &Val, size: &Dim, default: Dim) -> Res<Dim> {
        let at = match v {
            Val::None => return Ok(default),
            Val::Int(i64::MAX) => return Ok(size.clone()),
            v => match self.index(st, v)? {
                Val::Int(n) => Dim::known(n),
                Val::Dim(d) => d,
                _ => {
                    return Err(Fault::unsupported(
                        "a change in place of a slice whose place shows at run time",
                    ));
                }
            },
        };
        let at = from_end(&at, size);
        Ok(at.greater(&Dim::known(0)).lesser(size))
    }

    /// `base` with `new` at one place of an axis.
    fn put_slice(&mut self, base: Value, new: Value, shape: &[Dim], dim: usize, index: &Val) -> Res<Value> {
        let size = shape.get(dim).cloned().unwrap_or(Dim::known(1));
        let mut one = shape.to_vec();
        if let Some(d) = one.get_mut(dim) {
            *d = Dim::known(1);
        }
        let new = self.g.try_build(|g| g.reshape(new, &one))?;
        let known = match index {
            Val::Int(n) if *n < 0 => Some(&size + &Dim::known(*n)),
            Val::Int(n) => Some(Dim::known(*n)),
            Val::Dim(d) => Some(from_end(d, &size)),
            _ => None,
        };
        if let Some(at) = known {
            return self.put_range(base, new, shape, dim, &at, &(&at + &Dim::known(1)));
        }
        // A place of run time: every place is compared with it.
        let at = self.traced(index)?.1;
        let at = self.g.value(&at)?;
        let mut line = vec![Dim::known(1); shape.len()];
        if let Some(d) = line.get_mut(dim) {
            *d = size.clone();
        }
        self.g.try_build(|g| {
            let places = g.add1(Source::Iota { len: size.clone(), dtype: DType::I64 }, &[])?;
            let length = g.dims(std::slice::from_ref(&size))?;
            let length = g.reshape(length, &[])?;
            let zero = g.scalar(DType::I64, 0.0)?;
            let negative = g.ew("lt", &[at, zero])?;
            let wrapped = g.ew("add", &[at, length])?;
            let at = g.ew("where", &[negative, wrapped, at])?;
            let hit = g.ew("eq", &[places, at])?;
            let hit = g.reshape(hit, &line)?;
            g.ew("where", &[hit, new, base])
        })
    }

    /// `base` with `new` from `start` to `end` of an axis.
    fn put_range(
        &mut self,
        base: Value,
        new: Value,
        shape: &[Dim],
        dim: usize,
        start: &Dim,
        end: &Dim,
    ) -> Res<Value> {
        let size = shape.get(dim).cloned().unwrap_or(Dim::known(1));
        self.g.try_build(|g| {
            let mut whole = shape.to_vec();
            if let Some(d) = whole.get_mut(dim) {
                *d = end - start;
            }
            let new = g.broadcast(new, &whole)?;
            let mut parts = vec![];
            if start.as_known() != Some(0) {
                parts.push(g.slice_axis(base, dim, Dim::known(0), start.clone())?);
            }
            parts.push(new);
            let rest = &size - end;
            if rest.as_known() != Some(0) {
                parts.push(g.slice_axis(base, dim, end.clone(), rest)?);
            }
            g.concat(&parts, dim)
        })
    }

    /// `base` with `new` at every `step`th place of an axis from `start` to `end`.
    fn put_steps(
        &mut self,
        base: Value,
        new: Value,
        shape: &[Dim],
        dim: usize,
        (start, end): (&Dim, &Dim),
        step: i64,
    ) -> Res<Value> {
        let known = start.as_known().zip(end.as_known());
        let (start, end) =
            known.ok_or_else(|| Fault::unsupported("a change in place of a slice with steps"))?;
        self.tick(usize::try_from(end.saturating_sub(start)).unwrap_or(0))?;
        let places: Vec<i64> = (start..end).step_by(usize::try_from(step).unwrap_or(1)).collect();
        let mut value = base;
        for (i, &at) in places.iter().enumerate() {
            let from = Dim::known(i64::try_from(i).unwrap_or(0));
            let piece = self.g.try_build(|g| g.slice_axis(new, dim, from, Dim::known(1)))?;
            value = self.put_range(value, piece, shape, dim, &Dim::known(at), &Dim::known(at + 1))?;
        }
        Ok(value)
    }
}

fn known_axis(v: &Val, rank: usize) -> Res<usize> {
    match v {
        Val::Int(d) => axis(*d, rank),
        Val::None => axis(0, rank),
        _ => Err(Fault::unsupported("an axis of run time")),
    }
}

/// A place that counts from the end of an axis if it is negative. `min(1, max(0, -at))` is 1 there, and else 0.
fn from_end(at: &Dim, size: &Dim) -> Dim {
    let (zero, one) = (Dim::known(0), Dim::known(1));
    // Up to two before the end, what counts from the end is outside as well.
    let near = (size - at).as_known().is_some_and(|n| n <= 2);
    if at.is_non_negative() || near {
        return at.clone();
    }
    let is_negative = (&zero - at).greater(&zero).lesser(&one);
    at + &(&is_negative * size)
}

/// Axis, start and size of a piece that `split` or `chunk` gave.
fn piece(st: &State, view: &View, shape: &[Dim]) -> Res<(usize, i64, i64)> {
    let unknown = || Fault::unsupported("a change in place of a piece whose place shows at run time");
    let at = |i: usize, name: &str| view.args.get(i).or_else(|| named(&view.kwargs, name)).cloned();
    let dim = known_axis(&at(2, "dim").unwrap_or(Val::Int(0)), shape.len())?;
    let total = shape.get(dim).and_then(Dim::as_known).ok_or_else(unknown)?;
    let result = i64::try_from(view.result).unwrap_or(i64::MAX);
    let spec = at(1, "split_size").or_else(|| at(1, "chunks")).ok_or_else(unknown)?;
    let size = match (&spec, &*view.op) {
        (Val::Int(n), "chunk") if *n > 0 => total / n + i64::from(total % n != 0),
        (Val::Int(n), _) => *n,
        (list, _) => {
            let sizes = st.items(list).ok_or_else(unknown)?;
            let mut start = 0;
            for (i, size) in sizes.iter().enumerate() {
                let Val::Int(size) = size else { return Err(unknown()) };
                if i == view.result {
                    return Ok((dim, start, *size));
                }
                start = start.checked_add(*size).ok_or_else(unknown)?;
            }
            return Err(unknown());
        }
    };
    let start = result.saturating_mul(size);
    Ok((dim, start, size.min(total.saturating_sub(start))))
}
