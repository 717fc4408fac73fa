//! From graph to scalars: walks back from a value at an index to loads of materialized tensors. Elementwise operators
//! become primitives, movement becomes index arithmetic ([`super::movement`]), reductions bind axes
//! ([`super::reduction`]).

use kiln_ir::op::{Cast, Quant, Source};
use kiln_ir::{
    DClass, DType, Dim, Ew, Graph, Node, NodeId, Op, Prim, ScalarExpr, ScalarNode, Tensor, Value, wrap_int,
};
use rustc_hash::{FxHashMap, FxHashSet};

use super::expr::{Axes, AxisId, Expr, flatten};
use super::small::{self, compute_dtype, is_small};
use super::term::{InRange, Literal, Term, TermId, Terms};

/// Why a part of a graph does not become one kernel; it is split, or runs on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal(pub String);

impl Refusal {
    /// A refusal for that reason.
    pub fn new(reason: impl Into<String>) -> Refusal {
        Refusal(reason.into())
    }
}

/// Nodes of a graph that become one kernel, and the values of theirs that are needed outside.
#[derive(Clone, Debug)]
pub struct Region<'g> {
    /// The graph.
    pub graph: &'g Graph,
    /// The nodes.
    pub nodes: FxHashSet<NodeId>,
    /// Results that the kernel stores.
    pub outputs: Vec<Value>,
    /// Results of the nodes that are in memory already.
    pub stored: FxHashSet<Value>,
}

/// A tensor that the kernel reads.
#[derive(Clone, Debug)]
pub struct SourceTensor {
    /// The value.
    pub value: Value,
    /// Dtype of the elements that the kernel loads; bytes, where the value's are small.
    pub dtype: DType,
    /// Dims of the value.
    pub dims: Vec<Dim>,
    /// The data, if it is known at compile time.
    pub constant: Option<Tensor>,
}

/// What must hold when the kernel runs, because shapes do not prove it: `most < size`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fit {
    /// The largest index used; negative where none is.
    pub most: Dim,
    /// The size of the axis.
    pub size: Dim,
    /// Which axis.
    pub what: String,
}

/// The value of the kernel's contraction and the index at which the epilogue has it.
#[derive(Clone, Debug)]
pub struct Hero {
    /// The value.
    pub value: Value,
    /// Its index.
    pub index: Vec<Expr>,
    /// Whether something needs it at another index.
    pub mismatch: bool,
}

/// More scalars than any sensible kernel has.
const MAX_TERMS: usize = 6000;

/// Nesting of operators that a walk follows.
const MAX_DEPTH: usize = 400;

type MemoKey = (Value, Vec<Expr>, Vec<InRange>);

/// A walk over a region.
pub struct Trace<'a, 'g> {
    pub(super) region: &'a Region<'g>,
    constants: &'a dyn Fn(Value) -> Option<Tensor>,
    /// The scalars so far.
    pub terms: Terms,
    /// The axes so far.
    pub axes: Axes,
    /// The tensors read so far.
    pub sources: Vec<SourceTensor>,
    /// The contraction, if the kernel has one.
    pub hero: Option<Hero>,
    /// What the sizes of symbolic axes must satisfy.
    pub fits: Vec<Fit>,
    /// Sums of integers that are computed as floats, and those.
    pub(super) exact: FxHashMap<TermId, TermId>,
    source_of: FxHashMap<Value, usize>,
    memo: FxHashMap<MemoKey, TermId>,
    depth: usize,
}

/// Whether kernels load and store the dtype.
pub fn is_kernel_dtype(dtype: DType) -> bool {
    use DType::*;
    matches!(dtype, Bool | I8 | I16 | I32 | I64 | U8 | U16 | U32 | U64 | F16 | BF16 | F32 | F64)
        || is_small(dtype)
}

/// Dtype and dims of a value that kernels take: of known rank, without unknown dims, of a kernel dtype.
pub fn kernel_type(graph: &Graph, v: Value) -> Result<(DType, &[Dim]), Refusal> {
    let refuse = || Refusal::new(format!("{v} is {}", graph.ty(v)));
    let ty = graph.ty(v).as_tensor().ok_or_else(refuse)?;
    let dims = ty.shape.dims().ok_or_else(refuse)?;
    if !is_kernel_dtype(ty.dtype) || dims.iter().any(Dim::is_unknown) {
        return Err(refuse());
    }
    Ok((ty.dtype, dims))
}

impl<'a, 'g> Trace<'a, 'g> {
    /// A walk over `region`; `constants` gives the data of values from outside that is known at compile time.
    pub fn new(region: &'a Region<'g>, constants: &'a dyn Fn(Value) -> Option<Tensor>) -> Self {
        Trace {
            region,
            constants,
            terms: Terms::default(),
            axes: Axes::default(),
            sources: vec![],
            hero: None,
            fits: vec![],
            exact: FxHashMap::default(),
            source_of: FxHashMap::default(),
            memo: FxHashMap::default(),
            depth: 0,
        }
    }

    /// Goes on in another region of the graph, around another contraction.
    pub fn enter(&mut self, region: &'a Region<'g>, hero: Option<Hero>) {
        self.region = region;
        self.hero = hero;
        // What the regions compute and what they load differs.
        self.memo.clear();
    }

    pub(super) fn graph(&self) -> &'g Graph {
        self.region.graph
    }

    /// Dims of a value.
    pub fn dims(&self, v: Value) -> Result<&'g [Dim], Refusal> {
        kernel_type(self.region.graph, v).map(|(_, dims)| dims)
    }

    /// Storage dtype of a value.
    pub fn dtype(&self, v: Value) -> Result<DType, Refusal> {
        kernel_type(self.region.graph, v).map(|(dtype, _)| dtype)
    }

    /// The element of `v` at `index`, needed only where all `guards` hold. What is computed as bf16 and used in the same
    /// kernel is rounded as if it had been stored: with eight bits, what follows shows whether it was.
    pub fn value(&mut self, v: Value, index: &[Expr], guards: &[InRange]) -> Result<TermId, Refusal> {
        let id = self.computed(v, index, guards)?;
        let rounds = self.depth > 0 && self.dtype(v)? == DType::BF16 && self.rounds(v);
        Ok(if rounds { self.nearest_bf16(id) } else { id })
    }

    /// Whether an arithmetic operator of the region gives `v`.
    fn rounds(&self, v: Value) -> bool {
        let hero = self.hero.as_ref().is_some_and(|h| h.value == v);
        hero || self.definition(v).is_some_and(|node| {
            let computes = |op: &Op| {
                matches!(
                    op,
                    Op::Elementwise(_)
                        | Op::Reduce(_)
                        | Op::Contract(_)
                        | Op::Conv(_)
                        | Op::Window(_)
                        | Op::Quant(_)
                )
            };
            computes(&node.op)
        })
    }

    /// The element before it is rounded to the dtype of `v`.
    fn computed(&mut self, v: Value, index: &[Expr], guards: &[InRange]) -> Result<TermId, Refusal> {
        let key = (v, index.to_vec(), guards.to_vec());
        if let Some(&id) = self.memo.get(&key) {
            return Ok(id);
        }
        if self.terms.len() > MAX_TERMS || self.depth > MAX_DEPTH {
            return Err(Refusal::new("too large for one kernel"));
        }
        if index.iter().any(Expr::is_unknown) {
            return Err(Refusal::new("an index depends on an unknown dim"));
        }
        self.depth += 1;
        let id = self.uncached(v, index, guards);
        self.depth -= 1;
        let id = id?;
        self.memo.insert(key, id);
        Ok(id)
    }

    /// The node of the region that computes `v`, unless an earlier kernel has stored it.
    pub(super) fn definition(&self, v: Value) -> Option<&'g Node> {
        let inside = |id: &NodeId| self.region.nodes.contains(id) && !self.region.stored.contains(&v);
        self.graph().def_node(v).filter(|(id, _)| inside(id)).map(|(_, node)| node)
    }

    fn uncached(&mut self, v: Value, index: &[Expr], guards: &[InRange]) -> Result<TermId, Refusal> {
        if let Some(hero) = self.hero.as_mut().filter(|h| h.value == v) {
            hero.mismatch |= hero.index != index;
            let dtype = Ew::compute_dtype(self.dtype(v)?);
            return Ok(self.terms.add(Term::Accumulator, dtype));
        }
        let node = self.definition(v);
        if let Some(node) = node {
            self.require_arithmetic(node)?;
        }
        match node {
            Some(node) => match &node.op {
                Op::Elementwise(e) => {
                    let attrs: Vec<f64> = e.attrs.iter().map(|a| a.get()).collect();
                    self.elementwise(e.kind.body(), &attrs, v, &node.operands, index, guards)
                }
                Op::Cast(c) => self.convert(v, node.operands[0], c, index, guards),
                Op::Source(s) => self.source_op(s, v, index, guards),
                Op::Movement(m) => self.movement(m, v, &node.operands, index, guards),
                Op::Index(i) => self.indexing(i, &node.operands, index, guards),
                Op::Reduce(r) => self.reduction(r, &node.operands, index, guards),
                Op::Contract(c) => self.contraction(c, &node.operands, index, guards),
                Op::Conv(c) => self.convolution(c, v, &node.operands, index, guards),
                Op::Window(w) => self.window(w, &node.operands, index, guards),
                Op::Quant(q) => self.quantization(q, &node.operands, index, guards),
                Op::Order(_)
                | Op::Control(_)
                | Op::Composite(_)
                | Op::Object(_)
                | Op::Dynamic(_)
                | Op::Host(_) => Err(Refusal::new(format!("`{}` has no kernel", node.op.mnemonic()))),
            },
            None => self.load(v, index, guards),
        }
    }

    /// Small numbers are converted, small integers also moved; no other operator computes with them here. Floats that are
    /// moved would lose the bits of their NaNs.
    fn require_arithmetic(&self, node: &Node) -> Result<(), Refusal> {
        let (converts, moves) = match &node.op {
            Op::Cast(c) => (self.dtype(node.operands[0])? != c.to, true),
            Op::Quant(_) => (true, true),
            Op::Source(_) | Op::Movement(_) | Op::Index(_) => (false, true),
            _ => (false, false),
        };
        let values = node.operands.iter().chain(&node.results);
        let refused = |d: &DType| is_small(*d) && !(converts || (moves && d.is_int()));
        let small = values.filter_map(|&v| self.dtype(v).ok()).find(refused);
        small.map_or(Ok(()), |dtype| Err(Refusal::new(format!("`{}` of {dtype}", node.op.mnemonic()))))
    }

    /// A load of a value from outside the region.
    fn load(&mut self, v: Value, index: &[Expr], guards: &[InRange]) -> Result<TermId, Refusal> {
        let source = self.source(v)?;
        self.load_source(source, index, guards)
    }

    fn load_source(&mut self, source: usize, index: &[Expr], guards: &[InRange]) -> Result<TermId, Refusal> {
        let tensor = &self.sources[source];
        let (stored, dtype) = (self.dtype(tensor.value)?, compute_dtype(tensor.dtype));
        let constant = match is_small(stored) {
            true => self.constant(tensor.value),
            false => tensor.constant.clone(),
        };
        if let Some(splat) = constant.as_ref().and_then(splat) {
            let dtype = compute_dtype(stored);
            return Ok(self.terms.add(Term::Const(splat), dtype));
        }
        let offset = flatten(index, &tensor.dims);
        if offset.is_unknown() {
            return Err(Refusal::new("an offset is unknown"));
        }
        self.require_fit(source, index, guards)?;
        let otherwise = zero_of(dtype);
        let guards = guards.to_vec();
        if !is_small(stored) {
            return Ok(self.terms.add(Term::Load { source, offset, guards, otherwise }, dtype));
        }
        let place = match stored.is_packed() {
            true => offset.div(&Dim::known((8 / stored.bits()) as i64), &self.axes),
            false => offset.clone(),
        };
        let byte = self.terms.add(Term::Load { source, offset: place, guards, otherwise }, dtype);
        self.widened(byte, stored, &offset)
    }

    /// Notes what keeps `index` inside the source. Axes of constant size need nothing: inference has seen them fit.
    fn require_fit(&mut self, source: usize, index: &[Expr], guards: &[InRange]) -> Result<(), Refusal> {
        let tensor = &self.sources[source];
        // A guard over two axes as one keeps the outer of them inside.
        let joint = |axis: usize| {
            let (Some(at), Some(dims)) = (index.get(axis..axis + 2), tensor.dims.get(axis..axis + 2)) else {
                return false;
            };
            let (at, upper) = (flatten(at, dims), &dims[0] * &dims[1]);
            guards.iter().any(|g| g.index == at && g.upper == upper)
        };
        for (axis, (at, size)) in index.iter().zip(&tensor.dims).enumerate() {
            if joint(axis) {
                continue;
            }
            let spare = |high: &Dim| size - high - Dim::known(1);
            let inside = |low: &Dim, high: &Dim| low.is_non_negative() && spare(high).is_non_negative();
            let unguarded = at.range(&self.axes);
            // What is inside anyway needs no guard, which may be about another axis.
            if unguarded.as_ref().is_some_and(|(low, high)| inside(low, high)) {
                continue;
            }
            let guarded = guards.iter().find_map(|g| guarded_range(at, size, g));
            let range = guarded.or(unguarded);
            let (low, high) = range.ok_or_else(|| Refusal::new("an index without evident bounds"))?;
            let constant = low.as_known().is_some() && spare(&high).as_known().is_some();
            if constant || inside(&low, &high) {
                continue;
            }
            // Nothing is read where an axis is empty, be it one of those that the element's other coordinates count.
            let mut over: Vec<AxisId> = index.iter().flat_map(|at| self.terms.axes_of(at)).collect();
            over.sort_unstable();
            over.dedup();
            let extents = over.into_iter().map(|a| self.axes.extent(a));
            let some = extents.fold(Dim::known(1), |all, e| all * e).lesser(&Dim::known(1));
            let past_end = (&high + Dim::known(1)) * &some - Dim::known(1);
            let before = (Dim::known(0) - &low) * &some + (size - Dim::known(1));
            let name = self.graph().value(tensor.value).name().unwrap_or("a value").to_owned();
            for most in [past_end, before] {
                let what = format!("the indices of axis {axis} of `{name}`");
                let fit = Fit { most, size: size.clone(), what };
                let evident = (&fit.size - &fit.most - Dim::known(1)).is_non_negative();
                if !evident && !self.fits.contains(&fit) {
                    self.fits.push(fit);
                }
            }
        }
        Ok(())
    }

    /// The position of `v` among the sources.
    pub fn source(&mut self, v: Value) -> Result<usize, Refusal> {
        if let Some(&at) = self.source_of.get(&v) {
            return Ok(at);
        }
        let (dtype, dims) = kernel_type(self.graph(), v)?;
        let constant = self.constant(v);
        let (dtype, constant) = match is_small(dtype) {
            true => (DType::U8, constant.as_ref().and_then(small::raw)),
            false => (dtype, constant),
        };
        self.sources.push(SourceTensor { value: v, dtype, dims: dims.to_vec(), constant });
        self.source_of.insert(v, self.sources.len() - 1);
        Ok(self.sources.len() - 1)
    }

    /// The value's data, if it is known at compile time.
    pub(super) fn constant(&self, v: Value) -> Option<Tensor> {
        self.graph().constant(v).cloned().or_else(|| (self.constants)(v))
    }

    fn elementwise(
        &mut self,
        body: &ScalarExpr,
        attrs: &[f64],
        v: Value,
        operands: &[Value],
        index: &[Expr],
        guards: &[InRange],
    ) -> Result<TermId, Refusal> {
        let to = self.dims(v)?;
        let mut params = Vec::with_capacity(operands.len());
        for &operand in operands {
            let at = broadcast_index(index, self.dims(operand)?, to);
            params.push(self.value(operand, &at, guards)?);
        }
        let Some(&last) = params.last() else { return Err(Refusal::new("operator without operands")) };
        let dtype = self.terms.dtype(last);
        Ok(self.scalar_expr(body, &params, attrs, dtype))
    }

    /// A scalar expression over terms; literals are of `dtype`.
    pub(super) fn scalar_expr(
        &mut self,
        body: &ScalarExpr,
        params: &[TermId],
        attrs: &[f64],
        dtype: DType,
    ) -> TermId {
        let mut values: Vec<TermId> = Vec::with_capacity(body.nodes.len());
        for node in &body.nodes {
            let value = match node {
                ScalarNode::Param(i) => params[*i],
                ScalarNode::Attr(i) => self.number(dtype, attrs[*i]),
                ScalarNode::Const(c) => self.number(dtype, *c),
                ScalarNode::Apply(p, operands) => {
                    let operands: Vec<TermId> = operands.iter().map(|&o| values[o]).collect();
                    self.primitive(*p, &operands)
                }
            };
            values.push(value);
        }
        values[values.len() - 1]
    }

    /// A literal, wrapped to integer dtypes.
    pub(super) fn number(&mut self, dtype: DType, value: f64) -> TermId {
        if dtype.is_int() {
            let wrapped = wrap_int(value as i128, dtype);
            return self.terms.add(Term::Const(Literal::I(wrapped)), dtype);
        }
        self.terms.number(dtype, value)
    }

    /// A primitive; small powers become products.
    fn primitive(&mut self, prim: Prim, operands: &[TermId]) -> TermId {
        if let (Prim::Pow, [x, y]) = (prim, operands)
            && let Some(kiln_ir::Scalar::F(exponent)) = self.terms.literal(*y)
        {
            if exponent == 2.0 {
                return self.terms.apply(Prim::Mul, &[*x, *x]);
            }
            if exponent == 3.0 {
                let square = self.terms.apply(Prim::Mul, &[*x, *x]);
                return self.terms.apply(Prim::Mul, &[square, *x]);
            }
        }
        self.terms.apply(prim, operands)
    }

    fn convert(
        &mut self,
        v: Value,
        operand: Value,
        cast: &Cast,
        index: &[Expr],
        guards: &[InRange],
    ) -> Result<TermId, Refusal> {
        let (from, to) = (self.dtype(operand)?, cast.to);
        let narrows = to.is_float() && to.bits() < 32 && from != to;
        if narrows && !self.region.outputs.contains(&v) {
            return Err(Refusal::new("a value is rounded inside the kernel"));
        }
        if narrows && self.depth > 1 {
            return Err(Refusal::new("a rounded value is used inside the kernel"));
        }
        self.dtype(v)?;
        let x = self.value(operand, index, guards)?;
        if let Some(&real) = self.exact.get(&x).filter(|_| to == DType::F32) {
            return Ok(real);
        }
        match is_small(to) && from != to {
            true => {
                let x = if from == DType::F16 { self.unsigned_nan(x) } else { x };
                self.convert_small(x, to, cast.saturate)
            }
            false => Ok(self.terms.cast(x, compute_dtype(to))),
        }
    }

    fn source_op(
        &mut self,
        op: &Source,
        v: Value,
        index: &[Expr],
        guards: &[InRange],
    ) -> Result<TermId, Refusal> {
        match op {
            Source::Constant { .. } => self.load(v, index, guards),
            Source::Iota { dtype, .. } => {
                self.dtype(v)?;
                let i = self.terms.index(index[0].clone());
                Ok(self.terms.cast(i, Ew::compute_dtype(*dtype)))
            }
            Source::Dims { dims } => {
                if dims.iter().any(Dim::is_unknown) {
                    return Err(Refusal::new("a dim is unknown"));
                }
                Ok(self.dims_at(dims, &index[0]))
            }
        }
    }

    fn dims_at(&mut self, dims: &[Dim], index: &Expr) -> TermId {
        let position = index.as_constant().and_then(Dim::as_known).and_then(|i| usize::try_from(i).ok());
        if let Some(dim) = position.and_then(|i| dims.get(i)) {
            return self.terms.index(Expr::constant(dim.clone()));
        }
        let at = self.terms.index(index.clone());
        let mut result = self.terms.index(Expr::zero());
        for (i, dim) in dims.iter().enumerate() {
            let i = self.terms.index(Expr::constant(i as i64));
            let hit = self.terms.apply(Prim::Eq, &[at, i]);
            let dim = self.terms.index(Expr::constant(dim.clone()));
            result = self.terms.apply(Prim::Select, &[hit, dim, result]);
        }
        result
    }

    fn quantization(
        &mut self,
        op: &Quant,
        operands: &[Value],
        index: &[Expr],
        guards: &[InRange],
    ) -> Result<TermId, Refusal> {
        let (axis, block) = match op {
            Quant::Quantize { axis, block, .. } | Quant::Dequantize { axis, block, .. } => (*axis, *block),
        };
        let [x, scale, zero] = *operands else {
            return Err(Refusal::new("quantization takes three operands"));
        };
        let value = self.value(x, index, guards)?;
        let at = |trace: &Self, v: Value| -> Result<Vec<Expr>, Refusal> {
            let dims = trace.dims(v)?;
            Ok(match axis {
                None => vec![Expr::zero(); dims.len()],
                Some(axis) if dims.len() == index.len() && block > 0 => {
                    let mut at = index.to_vec();
                    at[axis] = index[axis].div(&Dim::known(block), &trace.axes);
                    at
                }
                Some(axis) if dims.len() == 1 => vec![index[axis].clone()],
                Some(_) => return Err(Refusal::new("scales of an unusual shape")),
            })
        };
        let (scale_at, zero_at) = (at(self, scale)?, at(self, zero)?);
        let scale = self.value(scale, &scale_at, guards)?;
        let zero = self.value(zero, &zero_at, guards)?;
        match op {
            Quant::Quantize { to, saturate, inverse, .. } => {
                self.quantize(value, (scale, *inverse), zero, *to, *saturate)
            }
            Quant::Dequantize { to, .. } => {
                let float = Ew::compute_dtype(*to);
                if self.terms.dtype(value) == DType::F32 && is_small(self.dtype(x)?) {
                    return Ok(self.dequantize_small(value, scale, zero, float));
                }
                let shifted = if self.terms.dtype(value).is_int() && self.terms.dtype(value).bits() <= 32 {
                    let wide = if self.terms.dtype(value).bits() == 32 { DType::I64 } else { DType::I32 };
                    let (a, b) = (self.terms.cast(value, wide), self.terms.cast(zero, wide));
                    self.terms.apply(Prim::Sub, &[a, b])
                } else if self.terms.dtype(value) == DType::F32 && self.dtype(x)? == DType::F32 {
                    self.terms.apply(Prim::Sub, &[value, zero])
                } else {
                    return Err(Refusal::new("dequantization of this dtype"));
                };
                let (a, b) = (self.terms.cast(shifted, float), self.terms.cast(scale, float));
                Ok(self.terms.apply(Prim::Mul, &[a, b]))
            }
        }
    }

    fn quantize(
        &mut self,
        x: TermId,
        (scale, inverse): (TermId, bool),
        zero: TermId,
        to: DType,
        saturate: bool,
    ) -> Result<TermId, Refusal> {
        let float = self.terms.dtype(scale);
        if is_small(to) && to.is_float() && float == DType::F32 && !inverse {
            return self.quantize_small(x, scale, zero, to, saturate);
        }
        if !is_kernel_dtype(to) || !to.is_int() || to.bits() > 16 || !float.is_float() {
            return Err(Refusal::new(format!("quantization to {to}")));
        }
        let Some((low, high)) = to.int_range() else { return Err(Refusal::new("no range")) };
        let x = self.terms.cast(x, float);
        let ratio = self.terms.apply(if inverse { Prim::Mul } else { Prim::Div }, &[x, scale]);
        let rounded = self.terms.apply(Prim::Round, &[ratio]);
        let zero = self.terms.cast(zero, float);
        let shifted = self.terms.apply(Prim::Add, &[rounded, zero]);
        let (low, high) = (self.number(float, low as f64), self.number(float, high as f64));
        let above = self.terms.apply(Prim::Max, &[shifted, low]);
        let within = self.terms.apply(Prim::Min, &[above, high]);
        Ok(self.terms.cast(within, compute_dtype(to)))
    }

    /// `value` where all of `bounds` hold, else `fill`. A plain load carries the bounds itself.
    pub(super) fn padded(&mut self, value: TermId, bounds: &[InRange], fill: TermId) -> TermId {
        if bounds.is_empty() {
            return value;
        }
        let dtype = self.terms.dtype(value);
        if let (Term::Load { source, offset, guards, .. }, Some(fill)) =
            (self.terms.get(value).term.clone(), self.terms.literal(fill))
            && bounds.iter().all(|b| guards.contains(b))
        {
            return self.terms.add(Term::Load { source, offset, guards, otherwise: fill.into() }, dtype);
        }
        let mut inside = None;
        for bound in bounds {
            let at = self.terms.index(bound.index.clone());
            let zero = self.terms.index(Expr::zero());
            let upper = self.terms.index(Expr::constant(bound.upper.clone()));
            let low = self.terms.apply(Prim::Ge, &[at, zero]);
            let high = self.terms.apply(Prim::Lt, &[at, upper]);
            let both = self.terms.apply(Prim::And, &[low, high]);
            inside = Some(match inside {
                Some(rest) => self.terms.apply(Prim::And, &[rest, both]),
                None => both,
            });
        }
        match inside {
            Some(inside) => self.terms.apply(Prim::Select, &[inside, value, fill]),
            None => value,
        }
    }

    /// The guards with further bounds, in canonical order.
    pub(super) fn guarded(&self, guards: &[InRange], bounds: &[InRange]) -> Vec<InRange> {
        let mut all = guards.to_vec();
        all.extend_from_slice(bounds);
        all.sort();
        all.dedup();
        all
    }
}

/// The element that every position holds, for constants of one element or of few distinct ones.
fn splat(tensor: &Tensor) -> Option<Literal> {
    const MOST: usize = 65_536;
    let count = tensor.numel();
    if count == 0 || count > MOST {
        return None;
    }
    let first = tensor.element_bits(0);
    let same = (1..count).all(|i| tensor.element_bits(i) == first);
    if same { tensor.element(0).map(Literal::from) } else { None }
}

/// Zero of a dtype's class.
pub fn zero_of(dtype: DType) -> Literal {
    match dtype.class() {
        DClass::Float => Literal::F(0),
        DClass::Bool => Literal::B(false),
        DClass::Signed | DClass::Unsigned | DClass::Complex | DClass::Text => Literal::I(0),
    }
}

/// Between what `at` lies where the guard holds, if it is what the guard tests, moved or, along an axis of `size` that may
/// be stretched, taken as 0.
fn guarded_range(at: &Expr, size: &Dim, guard: &InRange) -> Option<(Dim, Dim)> {
    let one = Dim::known(1);
    let shift = at.plus(&guard.index.times(&Dim::known(-1)));
    if let Some(shift) = shift.as_constant() {
        return Some((shift.clone(), shift + &guard.upper - one));
    }
    if *at != guard.index.times(&stride_of_stretched(size)) {
        return None;
    }
    let stride = stride_of_stretched(size).greater(&Dim::known(0));
    let last = (&guard.upper - &one) * &stride;
    // The guard never holds where there is nothing.
    let high = (last + &one) * &guard.upper.lesser(&one) - one;
    (!high.is_unknown()).then_some((Dim::known(0), high))
}

/// The stride of an axis that is stretched if its size is 1.
fn stride_of_stretched(size: &Dim) -> Dim {
    let one = Dim::known(1);
    (size - &one).lesser(&one)
}

/// The index in an operand of shape `from` that broadcasts to shape `to` at `index`.
pub fn broadcast_index(index: &[Expr], from: &[Dim], to: &[Dim]) -> Vec<Expr> {
    let skip = to.len().saturating_sub(from.len());
    let one = Dim::known(1);
    from.iter()
        .zip(index[skip..].iter().zip(&to[skip..]))
        .map(|(from, (i, to))| {
            if *from == one {
                Expr::zero()
            } else if from == to || from.as_known().is_some() {
                i.clone()
            } else {
                // Whether the axis is 1 shows at run time: then its stride is 0.
                i.times(&stride_of_stretched(from))
            }
        })
        .collect()
}
