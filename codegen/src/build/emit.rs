//! From scalars to kernel statements: every term is computed once, at the outermost loop that binds its axes.

use kiln_ir::{DType, Dim, Prim, Scalar, Tensor};
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::expr::{Atom, Axes, AxisId, Expr};
use super::loops::Root;
use super::relayout::relayout;
use super::rows::Kept;
use super::term::{InRange, Literal, Term, TermData, TermId, Terms};
use super::trace::{Refusal, SourceTensor};
use crate::kir::{Access, Bound, BufferId, Guard, Ix, Kernel, KernelBuilder, LoopKind, Op, Val};

/// What the caller passes for a buffer parameter.
#[derive(Clone, Debug, PartialEq)]
pub enum Param {
    /// A source of the trace.
    Source(usize),
    /// Data made at compile time.
    Constant(Tensor),
    /// The kernel's output of that position.
    Output(usize),
}

/// Where a value along a row is kept.
#[derive(Clone, Debug)]
enum Place {
    /// A row in scratch; the index is the loop of the axis.
    Scratch(BufferId, AxisId),
    /// An element of the result.
    Result(BufferId, Expr),
}

/// Axes that run as one loop, outermost first, and its variable.
#[derive(Clone, Debug)]
struct Binding {
    members: SmallVec<[AxisId; 4]>,
    var: Ix,
}

/// Neighbouring axes that are one loop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The axes, outermost first.
    pub members: SmallVec<[AxisId; 4]>,
}

impl Group {
    /// A group of one axis.
    pub fn of(axis: AxisId) -> Group {
        Group { members: SmallVec::from_slice(&[axis]) }
    }

    /// Number of iterations.
    pub fn extent(&self, axes: &Axes) -> Dim {
        self.members.iter().fold(Dim::known(1), |n, a| n * axes.extent(*a))
    }
}

/// Rows of a value that the kernel itself computes.
#[derive(Clone, Debug)]
pub struct LocalRows {
    /// Where they are.
    pub buffer: BufferId,
    /// The axis that counts them.
    pub axis: AxisId,
    /// Elements between them.
    pub stride: i64,
    /// Axes that are the same for all of them.
    pub outer: Vec<AxisId>,
}

/// Largest reduction, in iterations, that is written out instead of looped over.
const UNROLL: i64 = 32;

/// Emits terms into a kernel.
pub struct Emitter<'a> {
    terms: &'a Terms,
    axes: &'a Axes,
    sources: &'a [SourceTensor],
    reduce_groups: &'a FxHashMap<TermId, Vec<Group>>,
    bindings: Vec<Binding>,
    binding_of: FxHashMap<AxisId, usize>,
    scopes: Vec<FxHashMap<TermId, Val>>,
    buffers: FxHashMap<usize, BufferId>,
    relaid: FxHashMap<TermId, Option<(BufferId, Expr)>>,
    /// Buffer parameters in kernel order.
    pub params: Vec<Param>,
    /// Integer parameters in kernel order.
    pub dims: Vec<Dim>,
    dim_of: FxHashMap<Dim, u32>,
    /// The axes of the open vector loop.
    vector: Option<SmallVec<[AxisId; 4]>>,
    /// Values that are stored when they are computed, and where.
    keeps: FxHashMap<TermId, Place>,
    /// Values that are loaded instead of computed.
    kept: FxHashMap<TermId, Place>,
    /// Sources that are rows in scratch.
    local: FxHashMap<usize, LocalRows>,
    /// Which of them is at hand, counted from the first one in scratch, and the first of their elements that is there.
    row: Ix,
    first_element: Ix,
    /// Buffers of `params`.
    param_buffers: Vec<BufferId>,
    /// How often each term is used, where the kernel scales sums of integers.
    uses: Option<Vec<u32>>,
    /// First thing that went wrong.
    pub refusal: Option<Refusal>,
}

impl<'a> Emitter<'a> {
    /// An emitter of `terms`.
    pub fn new(
        terms: &'a Terms,
        axes: &'a Axes,
        sources: &'a [SourceTensor],
        reduce_groups: &'a FxHashMap<TermId, Vec<Group>>,
    ) -> Self {
        Emitter {
            terms,
            axes,
            sources,
            reduce_groups,
            bindings: vec![],
            binding_of: FxHashMap::default(),
            scopes: vec![FxHashMap::default()],
            buffers: FxHashMap::default(),
            relaid: FxHashMap::default(),
            params: vec![],
            dims: vec![],
            dim_of: FxHashMap::default(),
            vector: None,
            keeps: FxHashMap::default(),
            kept: FxHashMap::default(),
            local: FxHashMap::default(),
            row: Ix::Const(0),
            first_element: Ix::Const(0),
            param_buffers: vec![],
            uses: scales_integers(terms).then(|| terms.uses()),
            refusal: None,
        }
    }

    /// The kernel that `b` has become, its buffer parameters and its integer parameters, in kernel order.
    ///
    /// # Errors
    ///
    /// The first thing that went wrong on the way, or that the verifier finds.
    pub fn finish(self, b: KernelBuilder) -> Result<(Kernel, Vec<Param>, Vec<Dim>), Refusal> {
        match self.refusal {
            Some(refusal) => Err(refusal),
            None => {
                let kernel = b.finish().map_err(|e| Refusal::new(e.to_string()))?;
                Ok((kernel, self.params, self.dims))
            }
        }
    }

    /// A dim as a constant or a run-time parameter.
    pub fn dim(&mut self, b: &mut KernelBuilder, dim: &Dim) -> Ix {
        if let Some(v) = dim.as_known() {
            return Ix::Const(v);
        }
        if let Some(&at) = self.dim_of.get(dim) {
            return Ix::Dim(at);
        }
        let ix = b.dim();
        if let Ix::Dim(at) = ix {
            self.dim_of.insert(dim.clone(), at);
        }
        self.dims.push(dim.clone());
        ix
    }

    /// Number of iterations of a group.
    pub fn extent(&self, group: &Group) -> Dim {
        group.extent(self.axes)
    }

    /// Declares the output of that position.
    pub fn output(
        &mut self,
        b: &mut KernelBuilder,
        position: usize,
        dtype: DType,
        access: Access,
    ) -> BufferId {
        let id = b.buffer(dtype, access);
        self.param(Param::Output(position), id);
        id
    }

    /// Declares compile-time data.
    pub fn constant(&mut self, b: &mut KernelBuilder, tensor: Tensor) -> BufferId {
        let dtype = tensor.dtype();
        // One buffer for equal data.
        let same = self.params.iter().position(|p| matches!(p, Param::Constant(t) if *t == tensor));
        if let Some(at) = same {
            return self.param_buffers[at];
        }
        let id = b.weights(dtype);
        self.param(Param::Constant(tensor), id);
        id
    }

    fn param(&mut self, param: Param, id: BufferId) {
        self.params.push(param);
        self.param_buffers.push(id);
    }

    /// Keeps values along a row in scratch.
    pub fn keep(&mut self, b: &mut KernelBuilder, kept: &[Kept], row: &Group) {
        let extent = row.extent(self.axes);
        for Kept { made, used } in kept {
            let buffer = match self.keeps.get(&made.0) {
                Some(Place::Scratch(known, _) | Place::Result(known, _)) => *known,
                None => {
                    let len = self.dim(b, &extent);
                    b.scratch(DType::F32, len)
                }
            };
            self.keeps.insert(made.0, Place::Scratch(buffer, made.1));
            self.kept.insert(used.0, Place::Scratch(buffer, used.1));
        }
    }

    /// Keeps values along the axis of a row in a result that has room for them ([`super::rows::fit_result`]).
    pub fn keep_in_result(&mut self, kept: &[Kept], axis: AxisId, result: BufferId, root: &Root) {
        for Kept { made, used } in kept {
            let along = |own: AxisId| {
                let rename = |a: AxisId| if a == axis { own } else { a };
                let offset = root.offset.renamed(&rename, self.terms);
                offset.map(|offset| Place::Result(result, offset))
            };
            match (along(made.1), along(used.1)) {
                (Some(stored), Some(loaded)) => {
                    self.keeps.insert(made.0, stored);
                    self.kept.insert(used.0, loaded);
                }
                _ => self.refuse("the row of a result has no index along another loop"),
            }
        }
    }

    /// Buffer and index of what is kept, in the loop that is open.
    fn place(&mut self, b: &mut KernelBuilder, place: &Place) -> (BufferId, Ix) {
        match place {
            Place::Scratch(buffer, axis) => (*buffer, self.variable(*axis)),
            Place::Result(buffer, offset) => (*buffer, self.ix(b, offset)),
        }
    }

    /// Makes a source rows in scratch.
    pub fn local(&mut self, source: usize, rows: LocalRows) {
        self.local.insert(source, rows);
    }

    /// Says which of the rows in scratch is at hand, and which of their elements is the first in scratch.
    pub fn at_rows(&mut self, row: Ix, first_element: Ix) {
        (self.row, self.first_element) = (row, first_element);
    }

    fn local_index(&mut self, rows: &LocalRows, offset: &Expr) -> Ix {
        let mut index = self.row.clone() * rows.stride;
        for (atom, coefficient) in offset.terms() {
            match atom {
                Atom::Axis(a) if *a == rows.axis || rows.outer.contains(a) => {}
                Atom::Axis(a) if coefficient.as_known() == Some(1) => {
                    index = index + (self.variable(*a) - self.first_element.clone());
                }
                _ => self.refuse("rows in scratch are read out of line"),
            }
        }
        index
    }

    fn variable(&mut self, axis: AxisId) -> Ix {
        match self.binding_of.get(&axis) {
            Some(&at) => self.bindings[at].var.clone(),
            None => {
                self.refuse("a kept value is used outside of its loop");
                Ix::Const(0)
            }
        }
    }

    fn buffer(&mut self, b: &mut KernelBuilder, source: usize) -> BufferId {
        if let Some(&id) = self.buffers.get(&source) {
            return id;
        }
        let tensor = &self.sources[source];
        let access = if tensor.constant.is_some() { Access::Const } else { Access::In };
        let id = b.buffer(tensor.dtype, access);
        self.param(Param::Source(source), id);
        self.buffers.insert(source, id);
        id
    }

    /// Binds the axes of a group to a loop variable for the duration of `f`; what `f` computes is forgotten after.
    pub fn bound<R>(&mut self, group: &Group, var: Ix, f: impl FnOnce(&mut Self) -> R) -> R {
        let at = self.bindings.len();
        self.bindings.push(Binding { members: group.members.clone(), var });
        for axis in &group.members {
            self.binding_of.insert(*axis, at);
        }
        self.scopes.push(FxHashMap::default());
        let result = f(self);
        self.scopes.pop();
        for axis in &group.members {
            self.binding_of.remove(axis);
        }
        self.bindings.pop();
        result
    }

    /// As [`Emitter::bound`] for a vector loop.
    pub fn bound_vector<R>(&mut self, group: &Group, var: Ix, f: impl FnOnce(&mut Self) -> R) -> R {
        let outer = self.vector.replace(group.members.clone());
        let result = self.bound(group, var, f);
        self.vector = outer;
        result
    }

    /// Makes a term available as `val` for the duration of `f`; what `f` computes is forgotten after.
    pub fn with_value<R>(&mut self, term: TermId, val: Val, f: impl FnOnce(&mut Self) -> R) -> R {
        self.scopes.push(FxHashMap::from_iter([(term, val)]));
        let result = f(self);
        self.scopes.pop();
        result
    }

    fn cached(&self, id: TermId) -> Option<Val> {
        self.scopes.iter().rev().find_map(|s| s.get(&id)).copied()
    }

    fn refuse(&mut self, reason: &str) {
        self.refusal.get_or_insert_with(|| Refusal::new(reason));
    }

    fn is_bound(&self, axis: AxisId) -> bool {
        self.binding_of.contains_key(&axis) || self.axes.extent(axis).as_known() == Some(1)
    }

    /// Computes now what the terms need and no unbound axis changes, so that loops opened next do not repeat it.
    pub fn hoist(&mut self, b: &mut KernelBuilder, roots: &[TermId]) {
        let mut seen: FxHashMap<TermId, ()> = FxHashMap::default();
        let mut stack: Vec<TermId> = roots.to_vec();
        while let Some(t) = stack.pop() {
            if seen.insert(t, ()).is_some() || self.cached(t).is_some() {
                continue;
            }
            let data = self.terms.get(t);
            let invariant = data.axes.iter().all(|a| self.is_bound(*a)) && !self.uses_accumulator(t);
            match (&data.term, invariant) {
                (Term::Const(_) | Term::Accumulator | Term::Index(_), _) => {}
                (_, true) => {
                    self.emit(b, t);
                }
                (_, false) => stack.extend(self.terms.operands(t)),
            }
        }
    }

    fn uses_accumulator(&self, root: TermId) -> bool {
        self.terms.reachable(&[root]).iter().any(|t| matches!(self.terms.get(*t).term, Term::Accumulator))
    }

    /// Computes a term in the innermost open block.
    pub fn emit(&mut self, b: &mut KernelBuilder, id: TermId) -> Val {
        if let Some(val) = self.cached(id) {
            return val;
        }
        let data = self.terms.get(id);
        let dtype = data.dtype;
        if let Some(place) = self.kept.get(&id).cloned() {
            let (buffer, index) = self.place(b, &place);
            let val = b.load(buffer, index);
            self.cache(id, val);
            return val;
        }
        let val = match &data.term {
            Term::Const(literal) => b.constant(dtype, (*literal).into()),
            Term::Load { source, offset, guards, otherwise } => {
                self.load(b, id, *source, offset, guards, *otherwise)
            }
            Term::Apply(prim, operands) => match self.product_and_summand(*prim, operands) {
                Some(operands) => {
                    let [x, y, summand] = operands.map(|t| self.emit(b, t));
                    b.mul_add(x, y, summand)
                }
                None => {
                    let operands: SmallVec<[Val; 3]> = operands.iter().map(|&t| self.emit(b, t)).collect();
                    b.define(dtype, Op::Apply(*prim, operands))
                }
            },
            Term::Cast(t) => {
                let value = self.emit(b, *t);
                b.cast(value, dtype)
            }
            Term::Bits(t) => {
                let value = self.emit(b, *t);
                b.bits(value, dtype)
            }
            Term::Index(expr) => {
                let ix = self.ix(b, expr);
                b.index(ix)
            }
            Term::Reduce { combine, init, item, .. } => {
                let groups = self.reduce_groups.get(&id).cloned().unwrap_or_default();
                self.reduce(b, &groups, *combine, *init, *item)
            }
            Term::Accumulator => {
                self.refuse("the contraction's sum is used outside of its epilogue");
                b.literal(dtype, 0.0)
            }
        };
        if let Some(place) = self.keeps.get(&id).cloned() {
            let (buffer, index) = self.place(b, &place);
            b.store(buffer, index, val);
        }
        self.cache(id, val);
        val
    }

    /// `x`, `y` and `z` of `x * y + z`, where sums of integers are scaled: they are exact, so that one rounding less is
    /// nearer to what they stand for, and epilogues have no loops that would compare one form with another.
    fn product_and_summand(&self, prim: Prim, operands: &[TermId]) -> Option<[TermId; 3]> {
        let (uses, &[a, b]) = (self.uses.as_ref().filter(|_| prim == Prim::Add)?, operands) else {
            return None;
        };
        let split = |(product, summand): (TermId, TermId)| match &self.terms.get(product) {
            TermData { term: Term::Apply(Prim::Mul, factors), dtype: DType::F32, .. } => {
                (uses[product.0 as usize] == 1).then(|| [factors[0], factors[1], summand])
            }
            _ => None,
        };
        split((a, b)).or_else(|| split((b, a)))
    }

    fn cache(&mut self, id: TermId, val: Val) {
        if let Some(scope) = self.scopes.last_mut() {
            scope.insert(id, val);
        }
    }

    fn load(
        &mut self,
        b: &mut KernelBuilder,
        id: TermId,
        source: usize,
        offset: &Expr,
        guards: &[InRange],
        otherwise: Literal,
    ) -> Val {
        if let Some(rows) = self.local.get(&source).cloned() {
            if !guards.is_empty() {
                self.refuse("rows in scratch are read under a condition");
            }
            let index = self.local_index(&rows, offset);
            return b.load(rows.buffer, index);
        }
        if let Some((buffer, offset)) = self.relaid(b, id, source, offset, guards) {
            let index = self.ix(b, &offset);
            return b.load(buffer, index);
        }
        let buffer = self.buffer(b, source);
        let index = self.ix(b, offset);
        if guards.is_empty() {
            return b.load(buffer, index);
        }
        let bounds = guards
            .iter()
            .map(|g| {
                let index = self.ix(b, &g.index);
                Bound::below(index, self.dim(b, &g.upper))
            })
            .collect();
        let guard = Guard { bounds, otherwise: Scalar::from(otherwise) };
        let dtype = self.terms.dtype(id);
        b.define(dtype, Op::Load { buffer, index, guard: Some(guard) })
    }

    /// Weights whose stride along the vector loop is not 1 are stored in another order at compile time.
    fn relaid(
        &mut self,
        b: &mut KernelBuilder,
        id: TermId,
        source: usize,
        offset: &Expr,
        guards: &[InRange],
    ) -> Option<(BufferId, Expr)> {
        if let Some(known) = self.relaid.get(&id) {
            return known.clone();
        }
        let tensor = self.sources[source].constant.as_ref()?;
        let vector = self.vector.as_ref()?;
        let inner = *vector.last()?;
        let used = vector.iter().any(|a| offset.coefficient(*a).as_known() != Some(0));
        let contiguous = vector.len() == 1 && offset.coefficient(inner).as_known() == Some(1);
        let result = if !guards.is_empty() || !used || contiguous {
            None
        } else {
            let mut order: Vec<AxisId> = vec![];
            offset.visit(&mut |atom, _| match atom {
                Atom::Axis(a) if !vector.contains(a) => order.push(*a),
                _ => {}
            });
            order.extend(vector.iter().copied());
            relayout(tensor, offset, &order, self.axes)
        };
        let result = result.map(|(tensor, offset)| (self.constant(b, tensor), offset));
        self.relaid.insert(id, result.clone());
        result
    }

    fn reduce(
        &mut self,
        b: &mut KernelBuilder,
        groups: &[Group],
        combine: Prim,
        init: Literal,
        item: TermId,
    ) -> Val {
        let Some((group, rest)) = groups.split_first() else { return self.emit(b, item) };
        self.hoist(b, &[item]);
        let points = groups.iter().try_fold(1i64, |n, g| n.checked_mul(g.extent(self.axes).as_known()?));
        let dtype = self.terms.dtype(item);
        if self.vector.is_some() && points.is_some_and(|n| (1..=UNROLL).contains(&n)) {
            let init = b.constant(dtype, init.into());
            return self.unrolled(b, groups, combine, init, item);
        }
        let extent = group.extent(self.axes);
        let extent = self.dim(b, &extent);
        let init_val = b.constant(dtype, init.into());
        let kind =
            if self.vector.is_some() || !rest.is_empty() { LoopKind::Sequential } else { LoopKind::Vector };
        let results = b.reduce(kind, extent, &[(combine, init_val)], |b, var| {
            let item = self.bound(group, var, |e| e.reduce(b, rest, combine, init, item));
            vec![item]
        });
        results[0]
    }

    fn unrolled(
        &mut self,
        b: &mut KernelBuilder,
        groups: &[Group],
        combine: Prim,
        sum: Val,
        item: TermId,
    ) -> Val {
        let Some((group, rest)) = groups.split_first() else {
            return self.combine_item(b, combine, sum, item);
        };
        let extent = group.extent(self.axes).as_known().unwrap_or(0);
        let mut sum = sum;
        for i in 0..extent {
            sum = self.bound(group, Ix::Const(i), |e| e.unrolled(b, rest, combine, sum, item));
        }
        sum
    }

    fn combine_item(&mut self, b: &mut KernelBuilder, combine: Prim, sum: Val, item: TermId) -> Val {
        let data = self.terms.get(item);
        if let (Prim::Add, Term::Apply(Prim::Mul, factors), true) =
            (combine, &data.term, data.dtype.is_float())
        {
            let (x, y) = (self.emit(b, factors[0]), self.emit(b, factors[1]));
            return b.mul_add(x, y, sum);
        }
        let value = self.emit(b, item);
        b.define(data.dtype, Op::Apply(combine, SmallVec::from_slice(&[sum, value])))
    }

    /// An index expression over the bound axes.
    pub fn ix(&mut self, b: &mut KernelBuilder, expr: &Expr) -> Ix {
        let mut sum = Ix::Const(0);
        let mut done: SmallVec<[usize; 8]> = SmallVec::new();
        for (atom, coefficient) in expr.terms() {
            let Atom::Axis(axis) = atom else {
                let value = self.atom(b, atom);
                sum = sum + value * self.dim(b, coefficient);
                continue;
            };
            let Some(&at) = self.binding_of.get(axis) else {
                if self.axes.extent(*axis).as_known() != Some(1) {
                    self.refuse("an axis is used outside of its loop");
                }
                continue;
            };
            if done.contains(&at) {
                continue;
            }
            done.push(at);
            sum = sum + self.group_ix(b, at, expr);
        }
        let constant = self.dim(b, expr.offset());
        sum + constant
    }

    /// The part of an expression that the axes of one loop make.
    fn group_ix(&mut self, b: &mut KernelBuilder, at: usize, expr: &Expr) -> Ix {
        let Binding { members, var } = self.bindings[at].clone();
        if is_joint(expr, &members, self.axes) {
            let inner = members.last().map_or(Dim::known(0), |a| expr.coefficient(*a));
            return var * self.dim(b, &inner);
        }
        let mut sum = Ix::Const(0);
        for (i, axis) in members.iter().enumerate() {
            let coefficient = expr.coefficient(*axis);
            if coefficient.as_known() != Some(0) {
                let member = self.member_ix(b, &members, i, &var);
                sum = sum + member * self.dim(b, &coefficient);
            }
        }
        sum
    }

    fn member_ix(&mut self, b: &mut KernelBuilder, members: &[AxisId], i: usize, var: &Ix) -> Ix {
        let inner = members[i + 1..].iter().fold(Dim::known(1), |n, a| n * self.axes.extent(*a));
        let inner = self.dim(b, &inner);
        let quotient = var.clone().floor_div(inner);
        if i == 0 { quotient } else { quotient.modulo(self.dim(b, self.axes.extent(members[i]))) }
    }

    fn atom(&mut self, b: &mut KernelBuilder, atom: &Atom) -> Ix {
        match atom {
            Atom::Axis(axis) => self.ix(b, &Expr::axis(*axis)),
            Atom::Div(e, d) => self.ix(b, e).floor_div(self.dim(b, d)),
            Atom::Mod(e, d) => self.ix(b, e).modulo(self.dim(b, d)),
            Atom::Min(x, y) => self.ix(b, x).min(self.ix(b, y)),
            Atom::Max(x, y) => self.ix(b, x).max(self.ix(b, y)),
            Atom::Value(t) => Ix::Scalar(self.emit(b, *t)),
        }
    }
}

/// Whether the members' coefficients are those of one flattened axis.
pub fn is_joint(expr: &Expr, members: &[AxisId], axes: &Axes) -> bool {
    members
        .windows(2)
        .all(|pair| expr.coefficient(pair[0]) == expr.coefficient(pair[1]) * axes.extent(pair[1]))
}

/// Whether a kernel's contraction sums integers.
fn scales_integers(terms: &Terms) -> bool {
    terms.find_accumulator().is_some_and(|acc| terms.dtype(acc) == DType::I32)
}
