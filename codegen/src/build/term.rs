//! Scalars of a kernel under construction: a hash-consed graph of loads and primitives over iteration axes. What a
//! value depends on is explicit ([`TermData::axes`]), so that the emitter computes each at the outermost loop that
//! allows it.

use kiln_ir::{DType, Dim, Prim, Scalar};
use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::SmallVec;

use super::expr::{Atom, Axes, AxisId, Expr};

/// A term, an index into [`Terms`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TermId(pub u32);

/// An exact literal that hashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Literal {
    /// Bits of a double.
    F(u64),
    /// An integer.
    I(i128),
    /// A bool.
    B(bool),
}

impl From<Scalar> for Literal {
    fn from(s: Scalar) -> Literal {
        match s {
            Scalar::F(v) => Literal::F(v.to_bits()),
            Scalar::I(v) => Literal::I(v),
            Scalar::B(v) => Literal::B(v),
        }
    }
}

impl From<Literal> for Scalar {
    fn from(l: Literal) -> Scalar {
        match l {
            Literal::F(v) => Scalar::F(f64::from_bits(v)),
            Literal::I(v) => Scalar::I(v),
            Literal::B(v) => Scalar::B(v),
        }
    }
}

/// `0 <= index < upper`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InRange {
    /// The tested expression.
    pub index: Expr,
    /// Exclusive bound.
    pub upper: Dim,
}

/// A scalar.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Term {
    /// A literal.
    Const(Literal),
    /// An element of a source tensor, where all guards hold; `otherwise` elsewhere.
    Load {
        /// Position in the trace's list of sources.
        source: usize,
        /// Element offset.
        offset: Expr,
        /// Conditions of the load.
        guards: Vec<InRange>,
        /// Value where a condition fails.
        otherwise: Literal,
    },
    /// A primitive.
    Apply(Prim, SmallVec<[TermId; 3]>),
    /// A conversion to the term's dtype.
    Cast(TermId),
    /// The same bits as a number of the term's dtype.
    Bits(TermId),
    /// An index as an i64.
    Index(Expr),
    /// `item` combined over axes, outermost first; they are bound here.
    Reduce {
        /// Bound axes.
        axes: SmallVec<[AxisId; 4]>,
        /// Combining primitive.
        combine: Prim,
        /// Value of the empty reduction.
        init: Literal,
        /// What is combined.
        item: TermId,
    },
    /// The finished sum of the kernel's contraction.
    Accumulator,
}

/// A term with what is derived from it.
#[derive(Clone, Debug)]
pub struct TermData {
    /// The term.
    pub term: Term,
    /// Compute dtype.
    pub dtype: DType,
    /// Free axes, sorted.
    pub axes: SmallVec<[AxisId; 6]>,
}

/// The terms of one kernel.
#[derive(Debug, Default)]
pub struct Terms {
    data: Vec<TermData>,
    ids: FxHashMap<(Term, DType), TermId>,
}

impl Terms {
    /// Number of terms.
    pub fn len(&self) -> usize {
        self.data.len()
    }

    /// The data of a term.
    pub fn get(&self, id: TermId) -> &TermData {
        &self.data[id.0 as usize]
    }

    /// The term that stands for the contraction's sum, if anything uses it.
    pub fn find_accumulator(&self) -> Option<TermId> {
        let at = self.data.iter().position(|d| matches!(d.term, Term::Accumulator))?;
        Some(TermId(at as u32))
    }

    /// Dtype of a term.
    pub fn dtype(&self, id: TermId) -> DType {
        self.get(id).dtype
    }

    /// The literal, if the term is one.
    pub fn literal(&self, id: TermId) -> Option<Scalar> {
        match self.get(id).term {
            Term::Const(l) => Some(l.into()),
            _ => None,
        }
    }

    /// The term's id; equal terms have one.
    pub fn add(&mut self, term: Term, dtype: DType) -> TermId {
        if let Some(&id) = self.ids.get(&(term.clone(), dtype)) {
            return id;
        }
        let mut axes: SmallVec<[AxisId; 6]> = SmallVec::new();
        self.collect_axes(&term, &mut axes);
        axes.sort_unstable();
        axes.dedup();
        if let Term::Reduce { axes: bound, .. } = &term {
            axes.retain(|a| !bound.contains(a));
        }
        let id = TermId(self.data.len() as u32);
        self.ids.insert((term.clone(), dtype), id);
        self.data.push(TermData { term, dtype, axes });
        id
    }

    /// The axes that an expression depends on, those of computed positions too.
    pub fn axes_of(&self, e: &Expr) -> SmallVec<[AxisId; 6]> {
        let mut axes = SmallVec::new();
        e.visit(&mut |atom, _| match atom {
            Atom::Axis(a) => axes.push(*a),
            Atom::Value(t) => axes.extend_from_slice(&self.get(*t).axes),
            Atom::Div(..) | Atom::Mod(..) | Atom::Min(..) | Atom::Max(..) => {}
        });
        axes.sort_unstable();
        axes.dedup();
        axes
    }

    fn collect_axes(&self, term: &Term, axes: &mut SmallVec<[AxisId; 6]>) {
        let of_expr = |e: &Expr, axes: &mut SmallVec<[AxisId; 6]>| {
            e.visit(&mut |atom, _| match atom {
                Atom::Axis(a) => axes.push(*a),
                Atom::Value(t) => axes.extend_from_slice(&self.get(*t).axes),
                Atom::Div(..) | Atom::Mod(..) | Atom::Min(..) | Atom::Max(..) => {}
            });
        };
        match term {
            Term::Const(_) | Term::Accumulator => {}
            Term::Load { offset, guards, .. } => {
                of_expr(offset, axes);
                guards.iter().for_each(|g| of_expr(&g.index, axes));
            }
            Term::Apply(_, operands) => {
                operands.iter().for_each(|t| axes.extend_from_slice(&self.get(*t).axes));
            }
            Term::Cast(t) | Term::Bits(t) | Term::Reduce { item: t, .. } => {
                axes.extend_from_slice(&self.get(*t).axes)
            }
            Term::Index(e) => of_expr(e, axes),
        }
    }

    /// A literal of the dtype's class.
    pub fn number(&mut self, dtype: DType, value: f64) -> TermId {
        let scalar = crate::kir::builder::scalar_of(dtype, value);
        self.add(Term::Const(scalar.into()), dtype)
    }

    /// A primitive; the dtype follows from the operands.
    pub fn apply(&mut self, prim: Prim, operands: &[TermId]) -> TermId {
        let dtype = match operands.last() {
            Some(&last) if !prim.gives_bool() => self.dtype(last),
            _ => DType::Bool,
        };
        if let (Prim::Div, &[x, y]) = (prim, operands)
            && self.is_divisor_of_rows(x, y)
        {
            let one = self.number(dtype, 1.0);
            let inverse = self.add(Term::Apply(Prim::Div, SmallVec::from_slice(&[one, y])), dtype);
            return self.add(Term::Apply(Prim::Mul, SmallVec::from_slice(&[x, inverse])), dtype);
        }
        if let &[x, y] = operands
            && self.is_neutral(prim, y)
        {
            return x;
        }
        self.add(Term::Apply(prim, operands.iter().copied().collect()), dtype)
    }

    /// Whether `prim(x, y)` is `x`, exactly: of floats, adding 0 is not, for the sign of 0.
    fn is_neutral(&self, prim: Prim, y: TermId) -> bool {
        match (prim, self.literal(y)) {
            (Prim::Add | Prim::Sub, Some(Scalar::I(0))) | (Prim::Mul, Some(Scalar::I(1))) => true,
            (Prim::Mul, Some(Scalar::F(v))) => v == 1.0,
            _ => false,
        }
    }

    /// Whether `x / y` is as good as `x * (1 / y)`, with one quotient for many products: `y` does not depend on all that
    /// `x` depends on, and is neither tiny nor as large as an inverse would be inexact for.
    fn is_divisor_of_rows(&self, x: TermId, y: TermId) -> bool {
        let fewer = self.get(x).axes.iter().any(|a| !self.get(y).axes.contains(a));
        fewer && self.dtype(y) == DType::F32 && (self.is_deviation(y) || self.is_sum_of_weights(y))
    }

    /// `sqrt(x + epsilon)`.
    fn is_deviation(&self, y: TermId) -> bool {
        let Term::Apply(Prim::Sqrt, operands) = &self.get(y).term else { return false };
        let Term::Apply(Prim::Add, summands) = &self.get(operands[0]).term else { return false };
        summands.iter().any(|&t| matches!(self.literal(t), Some(Scalar::F(e)) if (1e-30..1e30).contains(&e)))
    }

    /// The sum of `exp(x - max x)`, which is at least 1; possibly with 1 for an empty sum.
    fn is_sum_of_weights(&self, y: TermId) -> bool {
        let chosen = |t: TermId| match &self.get(t).term {
            Term::Apply(Prim::Select, operands) if self.literal(operands[1]).is_some() => operands[2],
            _ => t,
        };
        let Term::Reduce { combine: Prim::Add, item, .. } = &self.get(chosen(y)).term else { return false };
        let Term::Apply(Prim::Exp, operands) = &self.get(*item).term else { return false };
        let Term::Apply(Prim::Sub, operands) = &self.get(operands[0]).term else { return false };
        matches!(self.get(chosen(operands[1])).term, Term::Reduce { combine: Prim::Max, .. })
    }

    /// Weighted operations among the terms of `root` that depend on an axis, reductions left out.
    pub fn work_along(&self, root: TermId, axis: AxisId) -> i64 {
        let mut work = 0;
        for t in self.reachable(&[root]) {
            let data = self.get(t);
            if data.axes.contains(&axis) {
                work += match &data.term {
                    Term::Apply(prim, _) => weight(*prim),
                    Term::Load { .. } | Term::Cast(_) | Term::Bits(_) | Term::Index(_) => 1,
                    Term::Const(_) | Term::Accumulator | Term::Reduce { .. } => 0,
                };
            }
        }
        work
    }

    /// Whether `b` is `a` with axes replaced by others.
    pub fn same_renamed(
        &self,
        a: TermId,
        b: TermId,
        from: &dyn Fn(AxisId) -> AxisId,
        equal: &mut FxHashSet<(TermId, TermId)>,
    ) -> bool {
        if equal.contains(&(a, b)) {
            return true;
        }
        let (x, y) = (self.get(a), self.get(b));
        let same = x.dtype == y.dtype
            && match (&x.term, &y.term) {
                _ if x.axes.iter().all(|a| from(*a) == *a) => a == b,
                (
                    Term::Load { source, offset, guards, otherwise },
                    Term::Load { source: s, offset: o, guards: g, otherwise: e },
                ) => {
                    let tests = |(x, y): (&InRange, &InRange)| {
                        x.upper == y.upper && x.index.renamed(from, self).as_ref() == Some(&y.index)
                    };
                    source == s
                        && otherwise == e
                        && offset.renamed(from, self).as_ref() == Some(o)
                        && guards.len() == g.len()
                        && guards.iter().zip(g).all(tests)
                }
                (Term::Apply(p, xs), Term::Apply(q, ys)) => {
                    let mut pairs = xs.iter().zip(ys);
                    p == q
                        && xs.len() == ys.len()
                        && pairs.all(|(&x, &y)| self.same_renamed(x, y, from, equal))
                }
                (Term::Cast(x), Term::Cast(y)) | (Term::Bits(x), Term::Bits(y)) => {
                    self.same_renamed(*x, *y, from, equal)
                }
                (Term::Index(x), Term::Index(y)) => x.renamed(from, self).as_ref() == Some(y),
                _ => false,
            };
        if same {
            equal.insert((a, b));
        }
        same
    }

    /// A conversion; nothing where the dtype is right.
    pub fn cast(&mut self, value: TermId, dtype: DType) -> TermId {
        if self.dtype(value) == dtype {
            return value;
        }
        match self.literal(value) {
            // Small enough that every wider number has it.
            Some(Scalar::I(v)) if (-128..=255).contains(&v) && is_wide(dtype) => self.number(dtype, v as f64),
            _ => self.add(Term::Cast(value), dtype),
        }
    }

    /// The same bits as a number of `dtype`; nothing where the dtype is right.
    pub fn bits(&mut self, value: TermId, dtype: DType) -> TermId {
        if self.dtype(value) == dtype { value } else { self.add(Term::Bits(value), dtype) }
    }

    /// An index as an i64 value.
    pub fn index(&mut self, expr: Expr) -> TermId {
        match expr.as_constant().and_then(Dim::as_known) {
            Some(v) => self.add(Term::Const(Literal::I(i128::from(v))), DType::I64),
            None => self.add(Term::Index(expr), DType::I64),
        }
    }

    /// An i64 value as an index expression.
    pub fn as_expr(&self, id: TermId) -> Expr {
        match &self.get(id).term {
            Term::Index(e) => e.clone(),
            Term::Const(Literal::I(v)) => {
                i64::try_from(*v).map_or(Expr::atom(Atom::Value(id)), Expr::constant)
            }
            _ => Expr::atom(Atom::Value(id)),
        }
    }

    /// Terms that a term uses directly.
    pub fn operands(&self, id: TermId) -> SmallVec<[TermId; 4]> {
        let mut found = SmallVec::new();
        let of_expr = |e: &Expr, found: &mut SmallVec<[TermId; 4]>| {
            e.visit(&mut |atom, _| {
                if let Atom::Value(t) = atom {
                    found.push(*t);
                }
            });
        };
        match &self.get(id).term {
            Term::Const(_) | Term::Accumulator => {}
            Term::Load { offset, guards, .. } => {
                of_expr(offset, &mut found);
                guards.iter().for_each(|g| of_expr(&g.index, &mut found));
            }
            Term::Apply(_, operands) => found.extend(operands.iter().copied()),
            Term::Cast(t) | Term::Bits(t) | Term::Reduce { item: t, .. } => found.push(*t),
            Term::Index(e) => of_expr(e, &mut found),
        }
        found
    }

    /// How often each term is the operand of another.
    pub fn uses(&self) -> Vec<u32> {
        let mut uses = vec![0; self.data.len()];
        for id in 0..self.data.len() {
            self.operands(TermId(id as u32)).into_iter().for_each(|t| uses[t.0 as usize] += 1);
        }
        uses
    }

    /// Every term that `roots` need, operands first.
    pub fn reachable(&self, roots: &[TermId]) -> Vec<TermId> {
        let mut seen = vec![false; self.data.len()];
        let mut order = vec![];
        let mut stack: Vec<(TermId, bool)> = roots.iter().rev().map(|&t| (t, false)).collect();
        while let Some((t, done)) = stack.pop() {
            if done {
                order.push(t);
            } else if !std::mem::replace(&mut seen[t.0 as usize], true) {
                stack.push((t, true));
                stack.extend(self.operands(t).into_iter().rev().map(|o| (o, false)));
            }
        }
        order
    }

    /// Index expressions of a term: load offsets as `memory`, everything else that is tested or used as a value.
    pub fn exprs(&self, id: TermId, visit: &mut dyn FnMut(&Expr, Use)) {
        match &self.get(id).term {
            Term::Load { offset, guards, .. } => {
                visit(offset, Use::Memory);
                guards.iter().for_each(|g| visit(&g.index, Use::Value));
            }
            Term::Index(e) => visit(e, Use::Value),
            Term::Const(_)
            | Term::Accumulator
            | Term::Apply(..)
            | Term::Cast(_)
            | Term::Bits(_)
            | Term::Reduce { .. } => {}
        }
    }

    /// A rough count of operations for all evaluations of `roots`, loads among them, each term once for every point of the
    /// axes that it depends on.
    pub fn operations(&self, roots: &[TermId], axes: &Axes) -> Dim {
        self.counted(roots, axes, 1)
    }

    /// The same of arithmetic alone.
    pub fn arithmetic(&self, roots: &[TermId], axes: &Axes) -> Dim {
        self.counted(roots, axes, 0)
    }

    /// The count where a load, a conversion and an index are so many operations.
    fn counted(&self, roots: &[TermId], axes: &Axes, moved: i64) -> Dim {
        let points = |of: &[AxisId]| of.iter().fold(Dim::known(1), |n, a| n * axes.extent(*a));
        let cost = |t: &TermId| match &self.get(*t).term {
            Term::Const(_) | Term::Accumulator => Dim::known(0),
            Term::Load { .. } | Term::Cast(_) | Term::Bits(_) | Term::Index(_) => {
                points(&self.get(*t).axes) * Dim::known(moved)
            }
            Term::Apply(p, _) => points(&self.get(*t).axes) * Dim::known(weight(*p)),
            Term::Reduce { axes: bound, .. } => points(&self.get(*t).axes) * points(bound),
        };
        self.reachable(roots).iter().fold(Dim::known(0), |sum, t| sum + cost(t))
    }
}

/// How an index expression is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Offset of a load or store.
    Memory,
    /// Tested, or turned into a number.
    Value,
}

/// Whether a dtype has every integer of 8 bits, with and without a sign.
fn is_wide(dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::F64 | DType::I16 | DType::I32 | DType::I64)
}

/// Relative cost of a primitive.
fn weight(prim: Prim) -> i64 {
    use Prim::*;
    match prim {
        Add | Sub | Mul | Min | Max | Neg | Abs | Eq | Ne | Lt | Le | Gt | Ge | And | Or | Xor | Not
        | Shl | Shr | Select | IsNan | IsInf | Floor | Ceil | Round | Trunc => 1,
        Div | Sqrt => 6,
        Exp | Log => 16,
        Rem | Mod | Pow | Log1p | Expm1 | Sin | Cos | Tan | Asin | Acos | Atan | Sinh | Cosh | Tanh
        | Asinh | Acosh | Atanh | Erf => 30,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_integers_become_numbers_of_wider_dtypes() {
        let mut terms = Terms::default();
        let small = terms.number(DType::U8, 200.0);
        let wide = terms.cast(small, DType::F32);
        assert_eq!((terms.literal(wide), terms.dtype(wide)), (Some(Scalar::F(200.0)), DType::F32));
        assert_eq!(terms.cast(small, DType::U8), small);
        // Not every dtype has it, and not every integer is in a wider one.
        let narrow = terms.cast(small, DType::I8);
        assert_eq!(terms.literal(narrow), None);
        let large = terms.number(DType::I32, 16_777_217.0);
        let rounded = terms.cast(large, DType::F32);
        assert_eq!(terms.literal(rounded), None);
    }

    #[test]
    fn what_changes_nothing_is_left_out_exactly() {
        let mut terms = Terms::default();
        let integer = terms.index(Expr::axis(AxisId(0)));
        let (zero, one) = (terms.number(DType::I64, 0.0), terms.number(DType::I64, 1.0));
        assert_eq!(terms.apply(Prim::Add, &[integer, zero]), integer);
        assert_eq!(terms.apply(Prim::Sub, &[integer, zero]), integer);
        assert_eq!(terms.apply(Prim::Mul, &[integer, one]), integer);
        assert_ne!(terms.apply(Prim::Mul, &[integer, zero]), integer);
        let real = terms.cast(integer, DType::F32);
        let (zero, one) = (terms.number(DType::F32, 0.0), terms.number(DType::F32, 1.0));
        assert_eq!(terms.apply(Prim::Mul, &[real, one]), real);
        // -0 + 0 is 0.
        assert_ne!(terms.apply(Prim::Add, &[real, zero]), real);
    }
}
