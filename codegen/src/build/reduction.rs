//! Reductions, and contractions, convolutions and pools as reductions: the general path, one loop nest a result
//! element. Large contractions and convolutions take [`super::contract`] instead.

use kiln_ir::op::{Contract, ContractSpec, Conv, Layout, Reduce, ReduceKind, Window, WindowKind};
use kiln_ir::{DType, Dim, Ew, Prim, ScalarExpr, Value};
use smallvec::SmallVec;

use super::expr::{AxisId, Expr};
use super::quads;
use super::term::{InRange, Literal, Term, TermId};
use super::trace::{Refusal, Trace, zero_of};

/// The identity of a combining primitive.
pub fn identity(combine: Prim, dtype: DType) -> Result<Literal, Refusal> {
    let range = dtype.int_range().unwrap_or((0, 1));
    let number = |float: f64, int: i128, bool: bool| {
        if dtype.is_float() {
            Literal::F(float.to_bits())
        } else if dtype == DType::Bool {
            Literal::B(bool)
        } else {
            Literal::I(int)
        }
    };
    match combine {
        Prim::Add | Prim::Or | Prim::Xor => Ok(zero_of(dtype)),
        Prim::Mul => Ok(number(1.0, 1, true)),
        Prim::And => Ok(number(1.0, -1, true)),
        Prim::Max => Ok(number(f64::NEG_INFINITY, range.0, false)),
        Prim::Min => Ok(number(f64::INFINITY, range.1, true)),
        other => Err(Refusal::new(format!("no reduction by {}", other.name()))),
    }
}

/// Channel counts below this make runs of one tap too short.
const SHORT_PIXEL: i64 = 8;

/// Positions of the spatial axes and of the channel axis in a tensor of `rank`.
pub fn spatial_axes(layout: Layout, rank: usize) -> (std::ops::Range<usize>, usize) {
    match layout {
        Layout::ChannelsFirst => (2..rank, 1),
        Layout::ChannelsLast => (1..rank.saturating_sub(1), rank.saturating_sub(1)),
    }
}

fn parse(text: &str, params: &[&str]) -> Result<ScalarExpr, Refusal> {
    ScalarExpr::parse(text, params, &[]).map_err(|e| Refusal::new(e.to_string()))
}

impl Trace<'_, '_> {
    /// `item` combined over `axes` from the identity.
    pub(super) fn combined(
        &mut self,
        combine: Prim,
        axes: &[AxisId],
        item: TermId,
    ) -> Result<TermId, Refusal> {
        let dtype = self.terms.dtype(item);
        let init = identity(combine, dtype)?;
        // Axes that the item does not depend on still count: they repeat it.
        let axes: SmallVec<[AxisId; 4]> = axes.iter().copied().collect();
        if axes.is_empty() {
            return Ok(item);
        }
        Ok(self.terms.add(Term::Reduce { axes, combine, init, item }, dtype))
    }

    pub(super) fn reduction(
        &mut self,
        op: &Reduce,
        operands: &[Value],
        index: &[Expr],
        guards: &[InRange],
    ) -> Result<TermId, Refusal> {
        let Reduce::Axes { kind, axes, keepdims } = op;
        let x = operands[0];
        let dims = self.dims(x)?;
        let mut at = Vec::with_capacity(dims.len());
        let mut bound = vec![];
        let mut kept = index.iter();
        for (i, dim) in dims.iter().enumerate() {
            if axes.contains(&i) {
                if *keepdims {
                    kept.next();
                }
                let axis = self.axes.add(dim.clone());
                bound.push(axis);
                at.push(Expr::axis(axis));
            } else {
                at.push(kept.next().cloned().ok_or_else(|| Refusal::new("reduction of another rank"))?);
            }
        }
        let row = kind.row();
        let element = self.value(x, &at, guards)?;
        let dtype = self.terms.dtype(element);
        let mapped = self.scalar_expr(&parse(row.map, &["x"])?, &[element], &[], dtype);
        let reduced = self.combined(row.combine, &bound, mapped)?;
        let count = axes.iter().fold(Dim::known(1), |n, &a| n * &dims[a]);
        self.finish(*kind, reduced, &Expr::constant(count))
    }

    fn finish(&mut self, kind: ReduceKind, reduced: TermId, count: &Expr) -> Result<TermId, Refusal> {
        let dtype = self.terms.dtype(reduced);
        match kind {
            ReduceKind::Mean => {
                let count = self.count(count, dtype);
                Ok(self.terms.apply(Prim::Div, &[reduced, count]))
            }
            ReduceKind::L2 | ReduceKind::LogSum if !dtype.is_float() => {
                Err(Refusal::new(format!("`{}` of {dtype}", kind.name())))
            }
            ReduceKind::L2 => Ok(self.terms.apply(Prim::Sqrt, &[reduced])),
            ReduceKind::LogSum => Ok(self.terms.apply(Prim::Log, &[reduced])),
            ReduceKind::Sum
            | ReduceKind::Prod
            | ReduceKind::Max
            | ReduceKind::Min
            | ReduceKind::L1
            | ReduceKind::SumSquare
            | ReduceKind::Any
            | ReduceKind::All => Ok(reduced),
        }
    }

    /// An index as a number of `dtype`.
    fn count(&mut self, count: &Expr, dtype: DType) -> TermId {
        match count.as_constant().and_then(Dim::as_known) {
            Some(n) => self.number(dtype, n as f64),
            None => {
                let n = self.terms.index(count.clone());
                self.terms.cast(n, dtype)
            }
        }
    }

    /// A product in the accumulation dtype of results of dtype `out`.
    fn product(&mut self, a: TermId, b: TermId, out: DType) -> TermId {
        let acc = Ew::compute_dtype(out);
        let (a, b) = (self.terms.cast(a, acc), self.terms.cast(b, acc));
        self.terms.apply(Prim::Mul, &[a, b])
    }

    pub(super) fn contraction(
        &mut self,
        op: &Contract,
        operands: &[Value],
        index: &[Expr],
        guards: &[InRange],
    ) -> Result<TermId, Refusal> {
        let Contract::Einsum { spec, out } = op;
        let (lhs, rhs) = (operands[0], operands[1]);
        let dims = self.dims(lhs)?;
        let mut summed: Vec<(u8, AxisId)> = vec![];
        for (label, dim) in spec.lhs.iter().zip(dims) {
            if !spec.out.contains(label) {
                summed.push((*label, self.axes.add(dim.clone())));
            }
        }
        let at =
            |labels: &[u8]| labels.iter().map(|&l| label_index(spec, l, index, &summed)).collect::<Vec<_>>();
        let (at_lhs, at_rhs) = (at(&spec.lhs), at(&spec.rhs));
        let a = self.value(lhs, &at_lhs, guards)?;
        let b = self.value(rhs, &at_rhs, guards)?;
        let item = self.product(a, b, *out);
        let axes: Vec<AxisId> = summed.iter().map(|s| s.1).collect();
        self.combined(Prim::Add, &axes, item)
    }

    pub(super) fn convolution(
        &mut self,
        op: &Conv,
        v: Value,
        operands: &[Value],
        index: &[Expr],
        guards: &[InRange],
    ) -> Result<TermId, Refusal> {
        let (x, w) = (operands[0], operands[1]);
        match op {
            Conv::Forward { groups, layout, out, .. } => {
                let (spatial, channel) = spatial_axes(*layout, index.len());
                let w_dims = self.dims(w)?;
                let per_group = w_dims[0].exact_div(&Dim::known(*groups));
                let per_group = per_group.ok_or_else(|| Refusal::new("groups of unequal size"))?;
                let o = index[channel].clone();
                let group = if *groups == 1 { Expr::zero() } else { o.div(&per_group, &self.axes) };
                let c = self.axes.add(w_dims[1].clone());
                let taps: Vec<AxisId> = w_dims[2..].iter().map(|k| self.axes.add(k.clone())).collect();
                let taps_at: Vec<Expr> = taps.iter().map(|&t| Expr::axis(t)).collect();
                let channel_at = group.times(&w_dims[1]).plus(&Expr::axis(c));
                let out_at: Vec<Expr> = index[spatial].to_vec();
                let (a, bounds) =
                    self.conv_input(op, x, &index[0], &out_at, &taps_at, &channel_at, guards)?;
                let mut w_at = vec![o, Expr::axis(c)];
                w_at.extend(taps_at);
                let b = self.value(w, &w_at, guards)?;
                let mut axes = taps;
                axes.push(c);
                if *out == DType::I32
                    && let Some(sum) = self.exact_sum((a, &bounds, guards), b, &axes)?
                {
                    return Ok(sum);
                }
                let zero = self.number(self.terms.dtype(a), 0.0);
                let a = self.padded(a, &bounds, zero);
                let item = self.product(a, b, *out);
                self.combined(Prim::Add, &axes, item)
            }
            Conv::Transposed { .. } => self.transposed_convolution(op, v, x, w, index, guards),
        }
    }

    /// The sum of few products of bytes and constants, in floats, which hold it exactly and are faster to multiply.
    fn exact_sum(
        &mut self,
        left: (TermId, &[InRange], &[InRange]),
        weight: TermId,
        axes: &[AxisId],
    ) -> Result<Option<TermId>, Refusal> {
        let extents = axes.iter().map(|a| self.axes.extent(*a).as_known());
        let depth = extents.into_iter().try_fold(1i64, |n, e| n.checked_mul(e?));
        let factors = depth.and_then(|depth| quads::exact_factors(self, left, weight, depth));
        let Some([a, b]) = factors else { return Ok(None) };
        let item = self.product(a, b, DType::F32);
        let real = self.combined(Prim::Add, axes, item)?;
        let sum = self.terms.cast(real, DType::I32);
        self.exact.insert(sum, real);
        Ok(Some(sum))
    }

    /// The element of a forward convolution's input under output position `out_at` and tap `taps_at`, and the bounds
    /// outside of which is the padding of zeros.
    #[allow(clippy::too_many_arguments, reason = "the place of one element")]
    pub(super) fn conv_input(
        &mut self,
        op: &Conv,
        x: Value,
        batch: &Expr,
        out_at: &[Expr],
        taps_at: &[Expr],
        channel_at: &Expr,
        guards: &[InRange],
    ) -> Result<(TermId, Vec<InRange>), Refusal> {
        let Conv::Forward { strides, dilations, pads, layout, .. } = op else {
            return Err(Refusal::new("a transposed convolution"));
        };
        let dims = self.dims(x)?;
        let (spatial, channel) = spatial_axes(*layout, dims.len());
        let mut at = vec![Expr::zero(); dims.len()];
        at[0] = batch.clone();
        at[channel] = channel_at.clone();
        let mut bounds = vec![];
        // Of what is computed inside the region, it is not known whether channels follow each other in memory.
        let is_source = self.definition(x).is_none() && self.dtype(x)?.bits() > 8;
        for (i, axis) in spatial.enumerate() {
            let begin = out_at[i].times(&Dim::known(strides[i]));
            let tap = taps_at[i].times(&Dim::known(dilations[i]));
            let (before, after) = &pads[i];
            at[axis] = begin.plus(&tap).plus_dim(&(Dim::known(0) - before));
            if before.as_known() != Some(0) || after.as_known() != Some(0) {
                let few =
                    is_source && dims[channel].as_known().is_some_and(|c| (2..SHORT_PIXEL).contains(&c));
                // Tested with the channel, a tap and its few channels stay one contiguous run.
                bounds.push(if few && channel == axis + 1 {
                    let index = at[axis].times(&dims[channel]).plus(channel_at);
                    InRange { index, upper: &dims[axis] * &dims[channel] }
                } else {
                    InRange { index: at[axis].clone(), upper: dims[axis].clone() }
                });
            }
        }
        let inner = self.guarded(guards, &bounds);
        Ok((self.value(x, &at, &inner)?, bounds))
    }

    /// Gathers: output position `y` sums the taps `k` for which `(y + pad - k * dilation) / stride` is an input
    /// position.
    fn transposed_convolution(
        &mut self,
        op: &Conv,
        v: Value,
        x: Value,
        w: Value,
        index: &[Expr],
        guards: &[InRange],
    ) -> Result<TermId, Refusal> {
        let Conv::Transposed { strides, dilations, pads, groups, layout, .. } = op else {
            return Err(Refusal::new("a forward convolution"));
        };
        let (dims, w_dims) = (self.dims(x)?, self.dims(w)?);
        let (spatial, channel) = spatial_axes(*layout, dims.len());
        let per_group = &w_dims[1];
        let in_group = dims[channel].exact_div(&Dim::known(*groups));
        let in_group = in_group.ok_or_else(|| Refusal::new("groups of unequal size"))?;
        let o = index[channel].clone();
        let group = if *groups == 1 { Expr::zero() } else { o.div(per_group, &self.axes) };
        let o_local = if *groups == 1 { o } else { o.modulo(per_group, &self.axes) };
        let c = self.axes.add(in_group.clone());
        let channel_at = group.times(&in_group).plus(&Expr::axis(c));
        let mut at = vec![Expr::zero(); dims.len()];
        at[0] = index[0].clone();
        at[channel] = channel_at.clone();
        let mut w_at = vec![channel_at, o_local];
        let (mut bounds, mut taps) = (vec![], vec![]);
        for (i, axis) in spatial.enumerate() {
            let tap = self.axes.add(w_dims[2 + i].clone());
            taps.push(tap);
            w_at.push(Expr::axis(tap));
            let back = Expr::axis(tap).times(&Dim::known(-dilations[i]));
            let full = index[axis].plus_dim(&pads[i].0).plus(&back);
            let stride = Dim::known(strides[i]);
            at[axis] = full.div(&stride, &self.axes);
            bounds.push(InRange { index: at[axis].clone(), upper: dims[axis].clone() });
            if strides[i] != 1 {
                let phase = full.modulo(&stride, &self.axes);
                bounds.push(InRange { index: phase, upper: Dim::known(1) });
            }
        }
        let inner = self.guarded(guards, &bounds);
        let value = self.value(x, &at, &inner)?;
        let zero = self.number(self.terms.dtype(value), 0.0);
        let a = self.padded(value, &bounds, zero);
        let b = self.value(w, &w_at, guards)?;
        let item = self.product(a, b, self.dtype(v)?);
        taps.push(c);
        self.combined(Prim::Add, &taps, item)
    }

    pub(super) fn window(
        &mut self,
        op: &Window,
        operands: &[Value],
        index: &[Expr],
        guards: &[InRange],
    ) -> Result<TermId, Refusal> {
        let Window::Pool { kind, kernel, strides, dilations, pads, ceil_mode, layout } = op else {
            return Err(Refusal::new("pools that give indices have no kernel"));
        };
        let x = operands[0];
        let dims = self.dims(x)?;
        let (spatial, _) = spatial_axes(*layout, dims.len());
        let mut at = index.to_vec();
        let (mut taps, mut bounds) = (vec![], vec![]);
        let mut counts: Vec<Expr> = vec![];
        for (i, axis) in spatial.enumerate() {
            let tap = self.axes.add(Dim::known(kernel[i]));
            taps.push(tap);
            let (before, after) = &pads[i];
            let first = index[axis].times(&Dim::known(strides[i])).plus_dim(&(Dim::known(0) - before));
            at[axis] = first.plus(&Expr::axis(tap).times(&Dim::known(dilations[i])));
            let unpadded = before.as_known() == Some(0) && after.as_known() == Some(0);
            if !unpadded || *ceil_mode {
                bounds.push(InRange { index: at[axis].clone(), upper: dims[axis].clone() });
            }
            let (start, extent) = match kind {
                WindowKind::AverageWithPad => (first.plus_dim(before), &(before + after) + &dims[axis]),
                _ => (first, dims[axis].clone()),
            };
            let whole = (unpadded || *kind == WindowKind::AverageWithPad) && !*ceil_mode;
            counts.push(if whole {
                Expr::constant(kernel[i])
            } else {
                self.taps_inside(&start, &extent, kernel[i], dilations[i])
            });
        }
        let inner = self.guarded(guards, &bounds);
        let value = self.value(x, &at, &inner)?;
        let dtype = self.terms.dtype(value);
        let combine = if *kind == WindowKind::Max { Prim::Max } else { Prim::Add };
        let fill = self.terms.add(Term::Const(identity(combine, dtype)?), dtype);
        let value = self.padded(value, &bounds, fill);
        let mapped = match kind {
            WindowKind::Max | WindowKind::Average | WindowKind::AverageWithPad => value,
            WindowKind::L1 => self.terms.apply(Prim::Abs, &[value]),
            WindowKind::L2 => self.terms.apply(Prim::Mul, &[value, value]),
        };
        let reduced = self.combined(combine, &taps, mapped)?;
        match kind {
            WindowKind::Max | WindowKind::L1 => Ok(reduced),
            WindowKind::L2 => Ok(self.terms.apply(Prim::Sqrt, &[reduced])),
            WindowKind::Average | WindowKind::AverageWithPad => {
                let mut total = self.number(dtype, 1.0);
                for count in &counts {
                    let count = self.count(count, dtype);
                    total = self.multiply(total, count);
                }
                Ok(self.terms.apply(Prim::Div, &[reduced, total]))
            }
        }
    }

    fn multiply(&mut self, a: TermId, b: TermId) -> TermId {
        use kiln_ir::Scalar::F;
        match (self.terms.literal(a), self.terms.literal(b)) {
            (Some(F(x)), Some(F(y))) => self.number(self.terms.dtype(a), x * y),
            (Some(F(1.0)), _) => b,
            _ => self.terms.apply(Prim::Mul, &[a, b]),
        }
    }

    /// How many of `kernel` taps from `start` on fall into `0 .. extent`; 1 if none does, for means divide by it.
    fn taps_inside(&self, start: &Expr, extent: &Dim, kernel: i64, dilation: i64) -> Expr {
        let d = Dim::known(dilation);
        let up = Dim::known(dilation - 1);
        let negated = start.times(&Dim::known(-1));
        let first = negated.plus_dim(&up).div(&d, &self.axes).greater(&Expr::zero());
        let last = negated.plus_dim(&(extent + &up)).div(&d, &self.axes).lesser(&Expr::constant(kernel));
        // Of a window in the padding only, the sum is 0; divided by 1 it stays so.
        last.plus(&first.times(&Dim::known(-1))).greater(&Expr::constant(1))
    }
}

fn label_index(spec: &ContractSpec, label: u8, index: &[Expr], summed: &[(u8, AxisId)]) -> Expr {
    match spec.out.iter().position(|&l| l == label) {
        Some(at) => index[at].clone(),
        None => summed.iter().find(|s| s.0 == label).map_or(Expr::zero(), |s| Expr::axis(s.1)),
    }
}
