//! Movement, gathers and concatenation as index arithmetic.

use kiln_ir::op::{Index, Movement, PadMode};
use kiln_ir::{DType, Dim, Prim, Value};

use super::expr::{Expr, reshape_index};
use super::term::{InRange, TermId};
use super::trace::{Refusal, Trace, broadcast_index};

impl Trace<'_, '_> {
    pub(super) fn movement(
        &mut self,
        op: &Movement,
        v: Value,
        operands: &[Value],
        index: &[Expr],
        guards: &[InRange],
    ) -> Result<TermId, Refusal> {
        let x = *operands.first().ok_or_else(|| Refusal::new("movement of nothing"))?;
        let (from, to) = (self.dims(x)?, self.dims(v)?);
        match op {
            Movement::Reshape { .. } => {
                let at = reshape_index(index, to, from, &self.axes);
                self.value(x, &at, guards)
            }
            Movement::Transpose { perm } => {
                let mut at = vec![Expr::zero(); from.len()];
                for (i, &p) in index.iter().zip(perm) {
                    at[p] = i.clone();
                }
                self.value(x, &at, guards)
            }
            Movement::Broadcast { .. } => {
                let at = broadcast_index(index, from, to);
                self.value(x, &at, guards)
            }
            Movement::Slice { starts, steps, .. } => {
                let at: Vec<Expr> = index
                    .iter()
                    .zip(starts.iter().zip(steps))
                    .map(|(i, (start, step))| i.times(&Dim::known(*step)).plus_dim(start))
                    .collect();
                self.value(x, &at, guards)
            }
            Movement::Pad { mode, before, after } => {
                let fill = operands.get(1).copied();
                self.pad(*mode, before, after, x, fill, index, guards)
            }
            Movement::Concat { axis } => self.concat(*axis, operands, index, guards),
        }
    }

    #[allow(clippy::too_many_arguments, reason = "the operator's own parameters")]
    fn pad(
        &mut self,
        mode: PadMode,
        before: &[Dim],
        after: &[Dim],
        x: Value,
        fill: Option<Value>,
        index: &[Expr],
        guards: &[InRange],
    ) -> Result<TermId, Refusal> {
        let dims = self.dims(x)?;
        let zero = Dim::known(0);
        let (one, two) = (Dim::known(1), Dim::known(2));
        let mut at = Vec::with_capacity(index.len());
        let mut bounds = vec![];
        for (((i, n), before), after) in index.iter().zip(dims).zip(before).zip(after) {
            let shifted = i.plus_dim(&(&zero - before));
            if *before == zero && *after == zero {
                at.push(shifted);
                continue;
            }
            let last = Expr::constant(n - &one);
            at.push(match mode {
                PadMode::Constant => {
                    bounds.push(InRange { index: shifted.clone(), upper: n.clone() });
                    shifted
                }
                PadMode::Edge => shifted.greater(&Expr::zero()).lesser(&last),
                PadMode::Wrap => shifted.modulo(n, &self.axes),
                PadMode::Reflect => {
                    let period = &two * &(n - &one);
                    if period == zero {
                        Expr::zero()
                    } else {
                        let phase = shifted.modulo(&period, &self.axes);
                        let back = Expr::constant(period).plus(&phase.times(&Dim::known(-1)));
                        let folded = phase.lesser(&back);
                        self.axes.set_range(&folded, zero.clone(), n - &one);
                        folded
                    }
                }
            });
        }
        if bounds.is_empty() {
            return self.value(x, &at, guards);
        }
        let inner = self.guarded(guards, &bounds);
        let value = self.value(x, &at, &inner)?;
        let dtype = self.terms.dtype(value);
        let fill = match fill {
            Some(fill) => {
                let rank = self.dims(fill)?.len();
                self.value(fill, &vec![Expr::zero(); rank], guards)?
            }
            None => self.number(dtype, 0.0),
        };
        Ok(self.padded(value, &bounds, fill))
    }

    fn concat(
        &mut self,
        axis: usize,
        operands: &[Value],
        index: &[Expr],
        guards: &[InRange],
    ) -> Result<TermId, Refusal> {
        let position = index[axis].clone();
        let mut start = Dim::known(0);
        let mut pieces: Vec<(Dim, TermId)> = vec![];
        for &operand in operands {
            let extent = self.dims(operand)?[axis].clone();
            let end = &start + &extent;
            let local = position.plus_dim(&(Dim::known(0) - &start));
            let mut at = index.to_vec();
            at[axis] = local.clone();
            if operands.len() == 1 || self.is_inside(&local, &extent) {
                return self.value(operand, &at, guards);
            }
            if extent.as_known() != Some(0) && !self.is_outside(&local, &extent) {
                let inner = self.guarded(guards, &[InRange { index: local, upper: extent }]);
                pieces.push((end.clone(), self.value(operand, &at, &inner)?));
            }
            start = end;
        }
        let Some((_, mut result)) = pieces.pop() else {
            return Err(Refusal::new("concatenation of nothing"));
        };
        let at = self.terms.index(position);
        for (end, value) in pieces.into_iter().rev() {
            let end = self.terms.index(Expr::constant(end));
            let here = self.terms.apply(Prim::Lt, &[at, end]);
            result = self.terms.apply(Prim::Select, &[here, value, result]);
        }
        Ok(result)
    }

    /// Whether `index` is evidently in `0 .. extent`.
    fn is_inside(&self, index: &Expr, extent: &Dim) -> bool {
        let upper = index.upper(&self.axes);
        upper.is_some_and(|upper| (extent - &Dim::known(1) - upper).is_non_negative())
    }

    /// Whether `index` is evidently at or above `extent`, or below 0.
    fn is_outside(&self, index: &Expr, extent: &Dim) -> bool {
        let above = index.plus_dim(&(Dim::known(0) - extent));
        let below = index.times(&Dim::known(-1)).plus_dim(&Dim::known(-1));
        above.upper(&self.axes).is_some() || below.upper(&self.axes).is_some()
    }

    /// An index operand's element as a position in `0 .. extent`; negative ones count from the end.
    fn position(
        &mut self,
        indices: Value,
        at: &[Expr],
        extent: &Dim,
        guards: &[InRange],
    ) -> Result<Expr, Refusal> {
        if extent.as_known() == Some(0) {
            return Err(Refusal::new("there is nothing at any index of an empty axis"));
        }
        let raw = self.value(indices, at, guards)?;
        let known = match self.terms.literal(raw) {
            Some(kiln_ir::Scalar::I(i)) => i64::try_from(i).ok(),
            _ => None,
        };
        match (known, extent.as_known()) {
            (Some(i), Some(n)) if (-n..n).contains(&i) => {
                return Ok(Expr::constant(if i < 0 { i + n } else { i }));
            }
            (Some(i), None) if i < 0 => return Ok(Expr::constant(extent + &Dim::known(i))),
            (Some(i), None) => return Ok(Expr::constant(i)),
            _ => {}
        }
        let index = self.terms.cast(raw, DType::I64);
        let zero = self.terms.index(Expr::zero());
        let n = self.terms.index(Expr::constant(extent.clone()));
        let last = self.terms.index(Expr::constant(extent - &Dim::known(1)));
        let negative = self.terms.apply(Prim::Lt, &[index, zero]);
        let wrapped = self.terms.apply(Prim::Add, &[index, n]);
        let index = self.terms.apply(Prim::Select, &[negative, wrapped, index]);
        // Indices out of range are the caller's error; clamping keeps the access inside the tensor.
        let index = self.terms.apply(Prim::Min, &[index, last]);
        let index = self.terms.apply(Prim::Max, &[index, zero]);
        Ok(self.terms.as_expr(index))
    }

    pub(super) fn indexing(
        &mut self,
        op: &Index,
        operands: &[Value],
        index: &[Expr],
        guards: &[InRange],
    ) -> Result<TermId, Refusal> {
        let [x, indices, ..] = *operands else { return Err(Refusal::new("gather without indices")) };
        let (dims, index_dims) = (self.dims(x)?, self.dims(indices)?);
        let at = match op {
            Index::Gather { axis } => {
                let middle = &index[*axis..axis + index_dims.len()];
                let position = self.position(indices, middle, &dims[*axis], guards)?;
                let mut at = index[..*axis].to_vec();
                at.push(position);
                at.extend_from_slice(&index[axis + index_dims.len()..]);
                at
            }
            Index::GatherElements { axis } => {
                let mut at = index.to_vec();
                at[*axis] = self.position(indices, index, &dims[*axis], guards)?;
                at
            }
            Index::GatherNd { batch } => {
                let depth = index_dims.last().and_then(Dim::as_known).and_then(|d| usize::try_from(d).ok());
                let depth = depth.ok_or_else(|| Refusal::new("coordinates of symbolic length"))?;
                let prefix = index_dims.len() - 1;
                let mut at = index[..*batch].to_vec();
                for d in 0..depth {
                    let mut coordinate = index[..prefix].to_vec();
                    coordinate.push(Expr::constant(d as i64));
                    at.push(self.position(indices, &coordinate, &dims[batch + d], guards)?);
                }
                at.extend_from_slice(&index[prefix..]);
                at
            }
            Index::ScatterElements { .. } | Index::ScatterNd { .. } => {
                return Err(Refusal::new("scatters have no kernel"));
            }
        };
        self.value(x, &at, guards)
    }
}
