//! Index expressions over iteration axes: sums of axes times [`Dim`] coefficients, with quotients, remainders, clamps
//! and loaded values as opaque atoms. Coefficients are symbolic, so that "contiguous" and "the same stride" are
//! decided by equality whatever the shapes are.

use kiln_ir::Dim;

use super::term::{TermId, Terms};

/// An iteration axis of a kernel under construction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AxisId(pub u32);

/// What a coefficient multiplies.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Atom {
    /// An iteration axis.
    Axis(AxisId),
    /// Quotient rounded down.
    Div(Box<Expr>, Dim),
    /// Remainder in `[0, divisor)`.
    Mod(Box<Expr>, Dim),
    /// The smaller of two.
    Min(Box<Expr>, Box<Expr>),
    /// The larger of two.
    Max(Box<Expr>, Box<Expr>),
    /// A computed i64 value.
    Value(TermId),
}

/// `sum of coefficient * atom + constant`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Expr {
    terms: Vec<(Atom, Dim)>,
    constant: Dim,
}

/// The axes of a kernel: extents by id.
#[derive(Clone, Debug, Default)]
pub struct Axes {
    extents: Vec<Dim>,
    /// Ranges of atoms that are tighter than their parts show.
    ranges: Vec<(Atom, Dim, Dim)>,
}

impl Axes {
    /// A fresh axis.
    pub fn add(&mut self, extent: Dim) -> AxisId {
        self.extents.push(extent);
        AxisId(self.extents.len() as u32 - 1)
    }

    /// States the smallest and largest value of an expression that is one opaque atom.
    pub fn set_range(&mut self, expr: &Expr, low: Dim, high: Dim) {
        if let [(atom, _)] = expr.terms.as_slice() {
            self.ranges.push((atom.clone(), low, high));
        }
    }

    fn known_range(&self, atom: &Atom) -> Option<(Dim, Dim)> {
        let (_, low, high) = self.ranges.iter().find(|(known, ..)| known == atom)?;
        Some((low.clone(), high.clone()))
    }

    /// Number of values that the axis takes: `0 .. extent`.
    pub fn extent(&self, axis: AxisId) -> &Dim {
        &self.extents[axis.0 as usize]
    }
}

impl Atom {
    /// As [`Expr::range`].
    fn range(&self, axes: &Axes) -> Option<(Dim, Dim)> {
        Some(match self {
            Atom::Axis(a) => (Dim::known(0), axes.extent(*a) - Dim::known(1)),
            Atom::Mod(_, d) => (Dim::known(0), d - Dim::known(1)),
            Atom::Div(e, d) => {
                let (low, high) = e.range(axes)?;
                (low.floor_div(d), high.floor_div(d))
            }
            Atom::Min(a, b) => {
                let (a, b) = (a.range(axes)?, b.range(axes)?);
                (a.0.lesser(&b.0), a.1.lesser(&b.1))
            }
            Atom::Max(a, b) => {
                let (a, b) = (a.range(axes)?, b.range(axes)?);
                (a.0.greater(&b.0), a.1.greater(&b.1))
            }
            Atom::Value(_) => (Dim::known(0), Dim::known(0)),
        })
    }
}

impl Expr {
    /// A constant.
    pub fn constant(value: impl Into<Dim>) -> Expr {
        Expr { terms: vec![], constant: value.into() }
    }

    /// Zero.
    pub fn zero() -> Expr {
        Expr::constant(0)
    }

    /// An axis.
    pub fn axis(axis: AxisId) -> Expr {
        Expr::atom(Atom::Axis(axis))
    }

    /// An atom.
    pub fn atom(atom: Atom) -> Expr {
        Expr { terms: vec![(atom, Dim::known(1))], constant: Dim::known(0) }
    }

    /// The expression with axes replaced by others; `None` if it depends on one of them through a computed value.
    pub fn renamed(&self, from: &dyn Fn(AxisId) -> AxisId, terms: &Terms) -> Option<Expr> {
        let mut sum = Expr::constant(self.constant.clone());
        for (atom, coefficient) in &self.terms {
            let inner = |e: &Expr| e.renamed(from, terms).map(Box::new);
            let atom = match atom {
                Atom::Axis(a) => Atom::Axis(from(*a)),
                Atom::Div(e, d) => Atom::Div(inner(e)?, d.clone()),
                Atom::Mod(e, d) => Atom::Mod(inner(e)?, d.clone()),
                Atom::Min(x, y) => Atom::Min(inner(x)?, inner(y)?),
                Atom::Max(x, y) => Atom::Max(inner(x)?, inner(y)?),
                Atom::Value(t) => {
                    let same = terms.get(*t).axes.iter().all(|a| from(*a) == *a);
                    same.then_some(Atom::Value(*t))?
                }
            };
            sum = sum.plus(&Expr::atom(atom).times(coefficient));
        }
        Some(sum)
    }

    /// The terms, sorted by atom.
    pub fn terms(&self) -> &[(Atom, Dim)] {
        &self.terms
    }

    /// The constant term.
    pub fn offset(&self) -> &Dim {
        &self.constant
    }

    /// The value, if it is a constant.
    pub fn as_constant(&self) -> Option<&Dim> {
        self.terms.is_empty().then_some(&self.constant)
    }

    /// What `axis` is multiplied with outside of opaque atoms.
    pub fn coefficient(&self, axis: AxisId) -> Dim {
        let found = self.terms.iter().find(|(atom, _)| *atom == Atom::Axis(axis));
        found.map_or(Dim::known(0), |(_, c)| c.clone())
    }

    /// Sum.
    pub fn plus(&self, other: &Expr) -> Expr {
        let mut sum = self.clone();
        for (atom, c) in &other.terms {
            sum.add_term(atom.clone(), c.clone());
        }
        sum.constant = &sum.constant + &other.constant;
        sum
    }

    /// Sum with a constant.
    pub fn plus_dim(&self, other: &Dim) -> Expr {
        Expr { terms: self.terms.clone(), constant: &self.constant + other }
    }

    /// Product with a constant.
    pub fn times(&self, factor: &Dim) -> Expr {
        if factor.as_known() == Some(0) {
            return Expr::zero();
        }
        Expr {
            terms: self.terms.iter().map(|(a, c)| (a.clone(), c * factor)).collect(),
            constant: &self.constant * factor,
        }
    }

    fn add_term(&mut self, atom: Atom, coefficient: Dim) {
        match self.terms.binary_search_by(|(a, _)| a.cmp(&atom)) {
            Ok(at) => {
                let sum = &self.terms[at].1 + &coefficient;
                if sum.as_known() == Some(0) {
                    self.terms.remove(at);
                } else {
                    self.terms[at].1 = sum;
                }
            }
            Err(at) => self.terms.insert(at, (atom, coefficient)),
        }
    }

    /// Smallest and largest value that the expression takes where no axis is empty; `None` where that is not evident.
    /// The bounds need not be tight. Values that kernels compute are clamped where they are made and count as 0.
    pub fn range(&self, axes: &Axes) -> Option<(Dim, Dim)> {
        let (mut low, mut high) = (self.constant.clone(), self.constant.clone());
        for (atom, c) in &self.terms {
            let (least, most) = match axes.known_range(atom) {
                Some(range) => range,
                None => atom.range(axes)?,
            };
            let (at_least, at_most) = (c * &least, c * &most);
            if c.is_non_negative() {
                (low, high) = (low + &at_least, high + &at_most);
            } else {
                (low, high) = (low + at_least.lesser(&at_most), high + at_least.greater(&at_most));
            }
        }
        (!low.is_unknown() && !high.is_unknown()).then_some((low, high))
    }

    /// Largest value that the expression takes, if it is evident and the smallest is not negative.
    pub fn upper(&self, axes: &Axes) -> Option<Dim> {
        if !self.constant.is_non_negative() {
            return None;
        }
        let mut upper = self.constant.clone();
        for (atom, c) in &self.terms {
            if !c.is_non_negative() {
                return None;
            }
            let most = match atom {
                Atom::Axis(a) => axes.extent(*a) - Dim::known(1),
                Atom::Mod(_, d) => d - Dim::known(1),
                Atom::Div(e, d) => e.upper(axes)?.floor_div(d),
                Atom::Min(..) | Atom::Max(..) | Atom::Value(_) => return None,
            };
            upper = upper + c * &most;
        }
        Some(upper)
    }

    fn below(&self, bound: &Dim, axes: &Axes) -> bool {
        self.upper(axes).is_some_and(|upper| (bound - Dim::known(1) - upper).is_non_negative())
    }

    /// Splits into a multiple of `d` (already divided) and the rest.
    fn split(&self, d: &Dim) -> (Expr, Expr) {
        let (mut whole, mut rest) = (Expr::zero(), Expr::zero());
        for (atom, c) in &self.terms {
            match c.exact_div(d) {
                Some(q) => whole.terms.push((atom.clone(), q)),
                None => rest.terms.push((atom.clone(), c.clone())),
            }
        }
        match (self.constant.as_known(), d.as_known()) {
            (Some(c), Some(k)) if k > 0 => {
                whole.constant = Dim::known(c.div_euclid(k));
                rest.constant = Dim::known(c.rem_euclid(k));
            }
            _ => match self.constant.exact_div(d) {
                Some(q) => whole.constant = q,
                None => rest.constant = self.constant.clone(),
            },
        }
        (whole, rest)
    }

    /// Quotient rounded down.
    pub fn div(&self, d: &Dim, axes: &Axes) -> Expr {
        if d.as_known() == Some(1) {
            return self.clone();
        }
        let (whole, rest) = self.split(d);
        if rest.below(d, axes) || rest == Expr::zero() {
            return whole;
        }
        whole.plus(&Expr::atom(Atom::Div(Box::new(rest), d.clone())))
    }

    /// Remainder in `[0, d)`.
    pub fn modulo(&self, d: &Dim, axes: &Axes) -> Expr {
        if d.as_known() == Some(1) {
            return Expr::zero();
        }
        let (_, rest) = self.split(d);
        if rest.below(d, axes) || rest == Expr::zero() {
            return rest;
        }
        Expr::atom(Atom::Mod(Box::new(rest), d.clone()))
    }

    /// The smaller of two.
    pub fn lesser(&self, other: &Expr) -> Expr {
        match (self.as_constant(), other.as_constant()) {
            (Some(a), Some(b)) => Expr::constant(a.lesser(b)),
            _ if self == other => self.clone(),
            _ => Expr::atom(Atom::Min(Box::new(self.clone()), Box::new(other.clone()))),
        }
    }

    /// The larger of two.
    pub fn greater(&self, other: &Expr) -> Expr {
        match (self.as_constant(), other.as_constant()) {
            (Some(a), Some(b)) => Expr::constant(a.greater(b)),
            _ if self == other => self.clone(),
            _ => Expr::atom(Atom::Max(Box::new(self.clone()), Box::new(other.clone()))),
        }
    }

    /// Calls `visit` with every atom, those inside opaque atoms too; the flag says "inside".
    pub fn visit<'a>(&'a self, visit: &mut dyn FnMut(&'a Atom, bool)) {
        self.visit_in(visit, false);
    }

    fn visit_in<'a>(&'a self, visit: &mut dyn FnMut(&'a Atom, bool), inside: bool) {
        for (atom, _) in &self.terms {
            visit(atom, inside);
            match atom {
                Atom::Axis(_) | Atom::Value(_) => {}
                Atom::Div(e, _) | Atom::Mod(e, _) => e.visit_in(visit, true),
                Atom::Min(a, b) | Atom::Max(a, b) => {
                    a.visit_in(visit, true);
                    b.visit_in(visit, true);
                }
            }
        }
    }

    /// Whether only axes occur, no opaque atoms.
    pub fn is_affine(&self) -> bool {
        self.terms.iter().all(|(atom, _)| matches!(atom, Atom::Axis(_)))
    }

    /// Whether a dim of it is unknown.
    pub fn is_unknown(&self) -> bool {
        self.constant.is_unknown() || self.terms.iter().any(|(_, c)| c.is_unknown())
    }
}

/// Row-major strides of `dims`.
pub fn strides(dims: &[Dim]) -> Vec<Dim> {
    let mut strides = vec![Dim::known(1); dims.len()];
    for i in (1..dims.len()).rev() {
        strides[i - 1] = &strides[i] * &dims[i];
    }
    strides
}

/// Row-major offset of `index` in a tensor of `dims`.
pub fn flatten(index: &[Expr], dims: &[Dim]) -> Expr {
    let strides = strides(dims);
    index.iter().zip(&strides).fold(Expr::zero(), |sum, (i, s)| sum.plus(&i.times(s)))
}

/// The index in a tensor of shape `from` that has the same row-major position as `index` in one of shape `to`.
///
/// Runs of dims with equal products map on their own, so that untouched axes stay untouched.
pub fn reshape_index(index: &[Expr], to: &[Dim], from: &[Dim], axes: &Axes) -> Vec<Expr> {
    let mut result = Vec::with_capacity(from.len());
    let (mut t, mut f) = (0, 0);
    while t < to.len() || f < from.len() {
        let (t0, f0) = (t, f);
        let (mut product_t, mut product_f) = (Dim::known(1), Dim::known(1));
        // The shortest non-empty runs with equal products; the rest of both shapes at worst.
        let found = runs(&to[t..], &from[f..]);
        (t, f) = match found {
            Some((a, b)) => (t + a, f + b),
            None => (to.len(), from.len()),
        };
        to[t0..t].iter().for_each(|d| product_t = &product_t * d);
        from[f0..f].iter().for_each(|d| product_f = &product_f * d);
        if t - t0 == 1 && f - f0 == 1 {
            result.push(index[t0].clone());
            continue;
        }
        let flat = flatten(&index[t0..t], &to[t0..t]);
        result.extend(unflatten(&flat, &from[f0..f], axes));
    }
    result
}

/// Lengths of the shortest prefixes of both shapes whose products are equal; at least one is not empty.
fn runs(to: &[Dim], from: &[Dim]) -> Option<(usize, usize)> {
    let one = Dim::known(1);
    match (to.first(), from.first()) {
        (Some(a), Some(b)) if a == b => return Some((1, 1)),
        (Some(a), _) if *a == one => return Some((1, 0)),
        (_, Some(b)) if *b == one => return Some((0, 1)),
        (None, _) | (_, None) => return None,
        _ => {}
    }
    let mut product_to = Dim::known(1);
    for a in 1..=to.len() {
        product_to = &product_to * &to[a - 1];
        let mut product_from = Dim::known(1);
        for b in 1..=from.len() {
            product_from = &product_from * &from[b - 1];
            if product_to == product_from && !product_to.is_unknown() {
                return Some((a, b));
            }
        }
    }
    None
}

/// The coordinates of position `flat` in a tensor of `dims`.
pub fn unflatten(flat: &Expr, dims: &[Dim], axes: &Axes) -> Vec<Expr> {
    let coordinate = |(i, (dim, stride)): (usize, (&Dim, Dim))| {
        let quotient = flat.div(&stride, axes);
        // The first coordinate cannot exceed its dim.
        if i == 0 { quotient } else { quotient.modulo(dim, axes) }
    };
    dims.iter().zip(strides(dims)).enumerate().map(coordinate).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dims(d: &[i64]) -> Vec<Dim> {
        d.iter().map(|&d| Dim::known(d)).collect()
    }

    #[test]
    fn reshape_of_split_axes_is_affine() {
        let mut axes = Axes::default();
        let n = Dim::symbol("n");
        let (a, h, d) = (axes.add(n.clone()), axes.add(Dim::known(12)), axes.add(Dim::known(64)));
        let index = [Expr::axis(a), Expr::axis(h), Expr::axis(d)];
        let to = [n.clone(), Dim::known(12), Dim::known(64)];
        let from = [n.clone(), Dim::known(768)];
        let merged = reshape_index(&index, &to, &from, &axes);
        assert_eq!(merged, vec![Expr::axis(a), Expr::axis(h).times(&Dim::known(64)).plus(&Expr::axis(d))]);
        assert_eq!(reshape_index(&merged, &from, &to, &axes), index);
    }

    #[test]
    fn unit_dims_come_and_go() {
        let mut axes = Axes::default();
        let a = axes.add(Dim::known(5));
        let index = [Expr::axis(a)];
        let back = reshape_index(&index, &dims(&[5]), &dims(&[1, 5, 1]), &axes);
        assert_eq!(back, vec![Expr::zero(), Expr::axis(a), Expr::zero()]);
    }

    #[test]
    fn unsplit_axes_divide() {
        let mut axes = Axes::default();
        let a = axes.add(Dim::known(12));
        let back = reshape_index(&[Expr::axis(a)], &dims(&[12]), &dims(&[3, 4]), &axes);
        assert!(matches!(back[0].terms(), [(Atom::Div(..), _)]));
        assert!(matches!(back[1].terms(), [(Atom::Mod(..), _)]));
    }
}
