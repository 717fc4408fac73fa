//! Symbolic dimensions: integer polynomials over named symbols, kept in one canonical form so that `==` means
//! "provably equal". Floor division, modulo, minimum, maximum and broadcasting that
//! do not simplify become atoms.
//!
//! Guarantee: arithmetic never panics and never wraps. A constant that overflows `i64` becomes [`Dim::unknown`].

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

mod text;

pub use text::ParseDimError;

/// The name of a symbolic dimension, unique within a module.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Symbol(pub Arc<str>);

impl Symbol {
    /// A symbol of that name.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Symbol(name.into())
    }
}

impl fmt::Display for Symbol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = !self.0.is_empty()
            && self
                .0
                .chars()
                .enumerate()
                .all(|(i, c)| c == '_' || c.is_ascii_alphabetic() || (i > 0 && c.is_ascii_digit()))
            && !text::FUNCTIONS.contains(&&*self.0);
        if plain { f.write_str(&self.0) } else { write!(f, "{:?}", &*self.0) }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Atom {
    Sym(Symbol),
    FloorDiv(Dim, Dim),
    Mod(Dim, Dim),
    Min(Dim, Dim),
    Max(Dim, Dim),
    /// At least two, sorted.
    Broadcast(Vec<Dim>),
}

/// Product of atoms, sorted; the empty product is 1.
type Monomial = Vec<Atom>;

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Repr {
    Const(i64),
    /// Sorted by monomial, no zero coefficient, at least one non-constant monomial.
    Poly(Arc<Vec<(Monomial, i64)>>),
    Unknown,
}

/// One dimension (or any shape-related integer): a constant, a polynomial over symbols, or unknown.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Dim(Repr);

/// Why a dim has no value under given symbol values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DimError {
    /// A symbol has no value.
    #[error("dimension `{0}` has no value")]
    Unbound(Symbol),
    /// The dimension itself is unknown.
    #[error("the dimension is unknown")]
    Unknown,
    /// The value does not fit in 64 bits.
    #[error("dimension `{0}` overflows 64 bits")]
    Overflow(Dim),
    /// A divisor is zero.
    #[error("dimension `{0}` divides by zero")]
    DivisionByZero(Dim),
    /// Sizes that differ, and neither is 1.
    #[error("sizes {left} and {right} do not broadcast")]
    Broadcast {
        /// The first.
        left: i64,
        /// The other.
        right: i64,
    },
}

/// Most monomials, and most factors of one, that an expression may have before it is given up as unknown.
const MAX_TERMS: usize = 64;

/// Most atoms that an expression may have, those inside of atoms included: every walk visits each.
const MAX_ATOMS: usize = 256;

/// How deep atoms may stand in atoms. The text form nests no deeper than its parser allows.
const MAX_NESTING: usize = 16;

/// How large an expression is.
struct Size {
    atoms: usize,
    nesting: usize,
}

impl Size {
    fn beside(self, other: Size) -> Size {
        Size { atoms: self.atoms + other.atoms, nesting: self.nesting.max(other.nesting) }
    }
}

impl Dim {
    /// The constant `value`.
    pub const fn known(value: i64) -> Dim {
        Dim(Repr::Const(value))
    }

    /// A dimension about which nothing is known; it is not equal to any other in meaning.
    pub const fn unknown() -> Dim {
        Dim(Repr::Unknown)
    }

    /// The symbol `name`.
    pub fn symbol(name: &str) -> Dim {
        Dim::from_atom(Atom::Sym(Symbol::new(name)))
    }

    /// One atom; unknown if that is too large an expression.
    fn from_atom(atom: Atom) -> Dim {
        Dim(Repr::Poly(Arc::new(vec![(vec![atom], 1)]))).bounded()
    }

    /// The dim itself, or unknown where it has outgrown [`MAX_ATOMS`] or [`MAX_NESTING`].
    fn bounded(self) -> Dim {
        let Size { atoms, nesting } = self.size();
        if atoms > MAX_ATOMS || nesting > MAX_NESTING { Dim::unknown() } else { self }
    }

    fn size(&self) -> Size {
        let Repr::Poly(terms) = &self.0 else { return Size { atoms: 0, nesting: 0 } };
        let all = terms.iter().flat_map(|(m, _)| m).map(Atom::size);
        all.fold(Size { atoms: 0, nesting: 0 }, Size::beside)
    }

    /// The constant value, if the dimension is one.
    pub fn as_known(&self) -> Option<i64> {
        match self.0 {
            Repr::Const(c) => Some(c),
            Repr::Poly(_) | Repr::Unknown => None,
        }
    }

    /// The symbol, if the dimension is exactly one symbol.
    pub fn as_symbol(&self) -> Option<&Symbol> {
        match &self.0 {
            Repr::Poly(p) => match p.as_slice() {
                [(m, 1)] => match m.as_slice() {
                    [Atom::Sym(s)] => Some(s),
                    _ => None,
                },
                _ => None,
            },
            Repr::Const(_) | Repr::Unknown => None,
        }
    }

    /// Whether nothing is known about the dimension.
    pub fn is_unknown(&self) -> bool {
        matches!(self.0, Repr::Unknown)
    }

    fn terms(&self) -> Option<Vec<(Monomial, i64)>> {
        match &self.0 {
            Repr::Const(0) => Some(vec![]),
            Repr::Const(c) => Some(vec![(vec![], *c)]),
            Repr::Poly(p) => Some(p.as_ref().clone()),
            Repr::Unknown => None,
        }
    }

    fn from_terms(map: BTreeMap<Monomial, i64>) -> Dim {
        let terms: Vec<_> = map.into_iter().filter(|(_, c)| *c != 0).collect();
        match terms.as_slice() {
            [] => Dim::known(0),
            [(m, c)] if m.is_empty() => Dim::known(*c),
            _ => Dim(Repr::Poly(Arc::new(terms))).bounded(),
        }
    }

    fn combine(&self, other: &Dim, sign: i64) -> Dim {
        if let (Repr::Const(a), Repr::Const(b)) = (&self.0, &other.0) {
            return b.checked_mul(sign).and_then(|b| a.checked_add(b)).map_or(Dim::unknown(), Dim::known);
        }
        let (Some(a), Some(b)) = (self.terms(), other.terms()) else { return Dim::unknown() };
        let mut map: BTreeMap<Monomial, i64> = a.into_iter().collect();
        for (m, c) in b {
            let slot = map.entry(m).or_insert(0);
            match c.checked_mul(sign).and_then(|c| slot.checked_add(c)) {
                Some(sum) => *slot = sum,
                None => return Dim::unknown(),
            }
        }
        if map.len() > MAX_TERMS {
            return Dim::unknown();
        }
        Dim::from_terms(map)
    }

    fn product(&self, other: &Dim) -> Dim {
        if let (Repr::Const(a), Repr::Const(b)) = (&self.0, &other.0) {
            return a.checked_mul(*b).map_or(Dim::unknown(), Dim::known);
        }
        let (Some(a), Some(b)) = (self.terms(), other.terms()) else { return Dim::unknown() };
        if a.len().saturating_mul(b.len()) > MAX_TERMS {
            return Dim::unknown();
        }
        let mut map: BTreeMap<Monomial, i64> = BTreeMap::new();
        for (ma, ca) in &a {
            for (mb, cb) in &b {
                let mut m = ma.clone();
                m.extend(mb.iter().cloned());
                if m.len() > MAX_TERMS {
                    return Dim::unknown();
                }
                m.sort();
                let slot = map.entry(m).or_insert(0);
                match ca.checked_mul(*cb).and_then(|c| slot.checked_add(c)) {
                    Some(sum) => *slot = sum,
                    None => return Dim::unknown(),
                }
            }
        }
        Dim::from_terms(map)
    }

    /// `self / other` if it divides exactly as polynomials (`other` a single term), else `None`.
    pub fn exact_div(&self, other: &Dim) -> Option<Dim> {
        if self.as_known() == Some(0) && other.as_known() != Some(0) {
            return Some(Dim::known(0));
        }
        if self == other && !self.is_unknown() {
            return Some(Dim::known(1));
        }
        let (a, b) = (self.terms()?, other.terms()?);
        let [(mb, cb)] = b.as_slice() else { return None };
        let mut map = BTreeMap::new();
        for (m, c) in a {
            if c.checked_rem(*cb)? != 0 {
                return None;
            }
            let mut rest = m;
            for atom in mb {
                let at = rest.iter().position(|x| x == atom)?;
                rest.remove(at);
            }
            map.insert(rest, c.checked_div(*cb)?);
        }
        Some(Dim::from_terms(map))
    }

    /// `floor(self / other)`.
    pub fn floor_div(&self, other: &Dim) -> Dim {
        if self.is_unknown() || other.is_unknown() || other.as_known() == Some(0) {
            return Dim::unknown();
        }
        if let (Some(a), Some(b)) = (self.as_known(), other.as_known()) {
            return checked_floor_div(a, b).map_or(Dim::unknown(), Dim::known);
        }
        if let Some(exact) = self.exact_div(other) {
            return exact;
        }
        // floor((q*d + r) / d) = q + floor(r / d): split off the terms that divide.
        if let (Some(d), Some(terms)) = (other.as_known().filter(|d| *d > 0), self.terms()) {
            let (mut whole, mut rest) = (BTreeMap::new(), BTreeMap::new());
            for (m, c) in terms {
                let (q, r) = (c.div_euclid(d), c.rem_euclid(d));
                if m.is_empty() || r == 0 {
                    whole.insert(m.clone(), q);
                    rest.insert(m, r);
                } else {
                    rest.insert(m, c);
                }
            }
            let (whole, rest) = (Dim::from_terms(whole), Dim::from_terms(rest));
            if let Some(r) = rest.as_known() {
                return &whole + &Dim::known(r.div_euclid(d));
            }
            return &whole + &Dim::from_atom(Atom::FloorDiv(rest, other.clone()));
        }
        Dim::from_atom(Atom::FloorDiv(self.clone(), other.clone()))
    }

    /// `ceil(self / other)`.
    pub fn ceil_div(&self, other: &Dim) -> Dim {
        (self + other - Dim::known(1)).floor_div(other)
    }

    /// `self - other * floor(self / other)`.
    pub fn modulo(&self, other: &Dim) -> Dim {
        if self.is_unknown() || other.is_unknown() || other.as_known() == Some(0) {
            return Dim::unknown();
        }
        if let (Some(a), Some(b)) = (self.as_known(), other.as_known()) {
            return checked_floor_div(a, b)
                .and_then(|q| q.checked_mul(b))
                .and_then(|p| a.checked_sub(p))
                .map_or(Dim::unknown(), Dim::known);
        }
        if self.exact_div(other).is_some() {
            return Dim::known(0);
        }
        Dim::from_atom(Atom::Mod(self.clone(), other.clone()))
    }

    /// The smaller of two dims.
    pub fn lesser(&self, other: &Dim) -> Dim {
        self.extremum(other, true)
    }

    /// The larger of two dims.
    pub fn greater(&self, other: &Dim) -> Dim {
        self.extremum(other, false)
    }

    fn extremum(&self, other: &Dim, smaller: bool) -> Dim {
        if self.is_unknown() || other.is_unknown() {
            return Dim::unknown();
        }
        if (self - other).is_non_negative() {
            return if smaller { other.clone() } else { self.clone() };
        }
        if (other - self).is_non_negative() {
            return if smaller { self.clone() } else { other.clone() };
        }
        for (x, y) in [(self, other), (other, self)] {
            // max(a, max(a, b)) = max(a, b), and min(a, max(a, b)) = a; so for the others.
            match y.as_extremum() {
                Some((kind, a, b)) if a == x || b == x => {
                    return if kind == smaller { y.clone() } else { x.clone() };
                }
                _ => {}
            }
        }
        let (a, b) = if self <= other { (self, other) } else { (other, self) };
        let (a, b) = (a.clone(), b.clone());
        Dim::from_atom(if smaller { Atom::Min(a, b) } else { Atom::Max(a, b) })
    }

    /// The size of an axis over which `self` and `other` broadcast: the one that is not 1. Constants that contradict
    /// each other give an unknown dim; sizes that do so under a binding fail to evaluate.
    pub fn broadcast(&self, other: &Dim) -> Dim {
        match (self.as_known(), other.as_known()) {
            _ if self == other => self.clone(),
            (Some(1), _) => other.clone(),
            (_, Some(1)) => self.clone(),
            (Some(_), Some(_)) => Dim::unknown(),
            (Some(_), None) => self.clone(),
            (None, Some(_)) => other.clone(),
            _ if self.is_unknown() || other.is_unknown() => Dim::unknown(),
            _ => {
                let mut parts = [self.broadcast_parts(), other.broadcast_parts()].concat();
                parts.sort();
                parts.dedup();
                // Beside N, min(N, 4) is N or 1, or the sizes do not broadcast.
                let capped = |part: &Dim| match part.as_extremum() {
                    Some((true, a, b)) => [(a, b), (b, a)]
                        .into_iter()
                        .any(|(cap, size)| cap.as_known().is_some_and(|cap| cap > 0) && parts.contains(size)),
                    _ => false,
                };
                let parts: Vec<Dim> = parts.iter().filter(|part| !capped(part)).cloned().collect();
                match parts.as_slice() {
                    [only] => only.clone(),
                    _ => Dim::from_atom(Atom::Broadcast(parts)),
                }
            }
        }
    }

    /// The dims that broadcast to this one.
    fn broadcast_parts(&self) -> &[Dim] {
        if let Repr::Poly(terms) = &self.0
            && let [(m, 1)] = terms.as_slice()
            && let [Atom::Broadcast(parts)] = m.as_slice()
        {
            return parts;
        }
        std::slice::from_ref(self)
    }

    /// Whether the dim is a minimum (else a maximum), and of what.
    fn as_extremum(&self) -> Option<(bool, &Dim, &Dim)> {
        let Repr::Poly(terms) = &self.0 else { return None };
        match terms.as_slice() {
            [(m, 1)] => match m.as_slice() {
                [Atom::Min(a, b)] => Some((true, a, b)),
                [Atom::Max(a, b)] => Some((false, a, b)),
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether the value is zero or more whatever the symbols are; symbols are sizes, so they are not negative.
    /// `false` means that it is not provable this way.
    pub fn is_non_negative(&self) -> bool {
        self.lower_bound().is_some_and(|b| b >= 0)
    }

    /// A value that the dim is never below, if one follows from symbols not being negative.
    pub fn lower_bound(&self) -> Option<i64> {
        let terms = match &self.0 {
            Repr::Const(c) => return Some(*c),
            Repr::Unknown => return None,
            Repr::Poly(p) => p,
        };
        terms.iter().try_fold(0i64, |sum, (m, c)| {
            let bound = m.iter().try_fold(1i64, |product, atom| {
                let bound = atom.lower_bound().filter(|b| *b >= 0 || m.len() == 1)?;
                product.checked_mul(bound)
            })?;
            if *c < 0 && !m.is_empty() {
                return None;
            }
            sum.checked_add(bound.checked_mul(*c)?)
        })
    }

    /// Whether the dim is a polynomial of degree at most 1 in every symbol, without quotients, minima and the like.
    pub fn is_multilinear(&self) -> bool {
        let Repr::Poly(terms) = &self.0 else { return matches!(self.0, Repr::Const(_)) };
        terms.iter().all(|(m, _)| {
            let plain = m.iter().all(|atom| matches!(atom, Atom::Sym(_)));
            plain && m.windows(2).all(|pair| pair[0] != pair[1])
        })
    }

    /// The value under `lookup`, with checked arithmetic.
    pub fn eval(&self, lookup: &dyn Fn(&Symbol) -> Option<i64>) -> Result<i64, DimError> {
        let terms = match &self.0 {
            Repr::Const(c) => return Ok(*c),
            Repr::Unknown => return Err(DimError::Unknown),
            Repr::Poly(p) => p,
        };
        let overflow = || DimError::Overflow(self.clone());
        let mut sum = 0i64;
        for (m, c) in terms.iter() {
            let mut product = *c;
            for atom in m {
                let value = atom.eval(lookup)?;
                product = product.checked_mul(value).ok_or_else(overflow)?;
            }
            sum = sum.checked_add(product).ok_or_else(overflow)?;
        }
        Ok(sum)
    }

    /// The dim with every symbol for which `with` answers replaced.
    pub fn substitute(&self, with: &dyn Fn(&Symbol) -> Option<Dim>) -> Dim {
        let Repr::Poly(terms) = &self.0 else { return self.clone() };
        let mut sum = Dim::known(0);
        for (m, c) in terms.iter() {
            let mut product = Dim::known(*c);
            for atom in m {
                let factor = match atom {
                    Atom::Sym(s) => with(s).unwrap_or_else(|| Dim::from_atom(atom.clone())),
                    Atom::FloorDiv(a, b) => a.substitute(with).floor_div(&b.substitute(with)),
                    Atom::Mod(a, b) => a.substitute(with).modulo(&b.substitute(with)),
                    Atom::Min(a, b) => a.substitute(with).lesser(&b.substitute(with)),
                    Atom::Max(a, b) => a.substitute(with).greater(&b.substitute(with)),
                    Atom::Broadcast(parts) => parts
                        .iter()
                        .map(|part| part.substitute(with))
                        .fold(Dim::known(1), |all, part| all.broadcast(&part)),
                };
                product = product * factor;
            }
            sum = sum + product;
        }
        sum
    }

    /// Calls `visit` with every symbol the dim mentions.
    pub fn symbols(&self, visit: &mut dyn FnMut(&Symbol)) {
        let Repr::Poly(terms) = &self.0 else { return };
        for atom in terms.iter().flat_map(|(m, _)| m) {
            match atom {
                Atom::Sym(s) => visit(s),
                Atom::FloorDiv(a, b) | Atom::Mod(a, b) | Atom::Min(a, b) | Atom::Max(a, b) => {
                    a.symbols(visit);
                    b.symbols(visit);
                }
                Atom::Broadcast(parts) => parts.iter().for_each(|part| part.symbols(visit)),
            }
        }
    }
}

impl Atom {
    fn size(&self) -> Size {
        let (inner, levels) = match self {
            Atom::Sym(_) => (Size { atoms: 0, nesting: 0 }, 0),
            Atom::FloorDiv(a, b) | Atom::Mod(a, b) | Atom::Min(a, b) | Atom::Max(a, b) => {
                (a.size().beside(b.size()), 1)
            }
            // Written as nested calls of two.
            Atom::Broadcast(parts) => {
                let all = parts.iter().map(Dim::size);
                (all.fold(Size { atoms: 0, nesting: 0 }, Size::beside), parts.len() - 1)
            }
        };
        Size { atoms: inner.atoms + 1, nesting: inner.nesting + levels }
    }

    fn lower_bound(&self) -> Option<i64> {
        match self {
            Atom::Sym(_) => Some(0),
            Atom::FloorDiv(a, b) => {
                let divisor = b.lower_bound().filter(|d| *d > 0)?;
                // A negative bound shrinks least under the smallest divisor.
                a.lower_bound().and_then(|a| if a >= 0 { Some(0) } else { checked_floor_div(a, divisor) })
            }
            Atom::Mod(_, b) => b.lower_bound().filter(|d| *d > 0).map(|_| 0),
            Atom::Min(a, b) => Some(a.lower_bound()?.min(b.lower_bound()?)),
            Atom::Max(a, b) => match (a.lower_bound(), b.lower_bound()) {
                (Some(a), Some(b)) => Some(a.max(b)),
                (a, b) => a.or(b),
            },
            // One of the parts is the value.
            Atom::Broadcast(parts) => {
                parts.iter().map(Dim::lower_bound).try_fold(i64::MAX, |least, bound| Some(least.min(bound?)))
            }
        }
    }

    fn eval(&self, lookup: &dyn Fn(&Symbol) -> Option<i64>) -> Result<i64, DimError> {
        match self {
            Atom::Sym(s) => lookup(s).ok_or_else(|| DimError::Unbound(s.clone())),
            Atom::FloorDiv(a, b) => checked_floor_div(a.eval(lookup)?, b.eval(lookup)?)
                .ok_or_else(|| DimError::DivisionByZero(b.clone())),
            Atom::Mod(a, b) => {
                let (a, d) = (a.eval(lookup)?, b.eval(lookup)?);
                let q = checked_floor_div(a, d).ok_or_else(|| DimError::DivisionByZero(b.clone()))?;
                Ok(a.wrapping_sub(q.wrapping_mul(d)))
            }
            Atom::Min(a, b) => Ok(a.eval(lookup)?.min(b.eval(lookup)?)),
            Atom::Max(a, b) => Ok(a.eval(lookup)?.max(b.eval(lookup)?)),
            Atom::Broadcast(parts) => parts.iter().try_fold(1, |all, part| match (all, part.eval(lookup)?) {
                (1, size) | (size, 1) => Ok(size),
                (all, size) if all == size => Ok(all),
                (left, right) => Err(DimError::Broadcast { left, right }),
            }),
        }
    }
}

fn checked_floor_div(a: i64, b: i64) -> Option<i64> {
    let q = a.checked_div(b)?;
    Some(if a % b != 0 && (a < 0) != (b < 0) { q - 1 } else { q })
}

impl From<i64> for Dim {
    fn from(value: i64) -> Self {
        Dim::known(value)
    }
}

macro_rules! arithmetic {
    ($($trait:ident $method:ident |$a:ident, $b:ident| $body:expr;)*) => {$(
        impl std::ops::$trait<&Dim> for &Dim {
            type Output = Dim;
            fn $method(self, other: &Dim) -> Dim {
                let ($a, $b) = (self, other);
                $body
            }
        }
        impl std::ops::$trait<Dim> for Dim {
            type Output = Dim;
            fn $method(self, other: Dim) -> Dim {
                std::ops::$trait::$method(&self, &other)
            }
        }
        impl std::ops::$trait<&Dim> for Dim {
            type Output = Dim;
            fn $method(self, other: &Dim) -> Dim {
                std::ops::$trait::$method(&self, other)
            }
        }
        impl std::ops::$trait<Dim> for &Dim {
            type Output = Dim;
            fn $method(self, other: Dim) -> Dim {
                std::ops::$trait::$method(self, &other)
            }
        }
    )*};
}

arithmetic! {
    Add add |a, b| a.combine(b, 1);
    Sub sub |a, b| a.combine(b, -1);
    Mul mul |a, b| a.product(b);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn d(s: &str) -> Dim {
        s.parse().unwrap()
    }

    #[test]
    fn canonical_forms_are_equal() {
        assert_eq!(d("N*2+1+N"), d("3*N+1"));
        assert_eq!(d("(N+1)*(N-1)"), d("N*N-1"));
        assert_eq!(d("N-N"), Dim::known(0));
        assert_eq!(d("floordiv(4*N+6,2)"), d("2*N+3"));
        assert_eq!(d("floordiv(2*N+3,2)"), d("N+1"));
        assert_eq!(d("mod(6*N,3)"), Dim::known(0));
        assert_eq!(d("max(N,N+2)"), d("N+2"));
        assert_eq!(d("max(N,max(M,N))"), d("max(M,N)"));
        assert_eq!(d("min(N-1,max(0,N-1))"), d("N-1"));
        assert_eq!(d("min(N,0)"), Dim::known(0));
        assert_eq!(d("max(N-1,0)").to_string(), "max(0,N-1)");
        assert_eq!(d("12*N").exact_div(&d("4*N")), Some(Dim::known(3)));
    }

    #[test]
    fn prints_as_it_parses() {
        for text in [
            "N",
            "3*N+1",
            "-N+4",
            "floordiv(N,2)+1",
            "\"seq len\"",
            "max(M,N)",
            "broadcast(M,N)",
            "?",
            "7",
            "2*M*N",
        ] {
            assert_eq!(d(text).to_string(), text);
        }
    }

    #[test]
    fn evaluates_with_checks() {
        let env = |s: &Symbol| (&*s.0 == "N").then_some(7);
        assert_eq!(d("floordiv(N,2)+1").eval(&env), Ok(4));
        assert_eq!(d("mod(N,4)").eval(&env), Ok(3));
        assert!(matches!(d("M").eval(&env), Err(DimError::Unbound(_))));
        assert!(matches!(d("N*9223372036854775807").eval(&env), Err(DimError::Overflow(_))));
        assert!(matches!(d("floordiv(3,N-7)").eval(&env), Err(DimError::DivisionByZero(_))));
    }

    #[test]
    fn broadcasting_is_idempotent_and_checked() {
        assert_eq!(d("broadcast(broadcast(N,M),N)"), d("broadcast(M,N)"));
        assert_eq!(d("broadcast(N,1)"), d("N"));
        assert_eq!(d("broadcast(N,4)"), d("4"));
        assert_eq!(d("broadcast(N,min(N,4))"), d("N"));
        assert_eq!(d("broadcast(min(N,4),broadcast(M,N))"), d("broadcast(M,N)"));
        assert_ne!(d("broadcast(M,min(N,4))"), d("M"));
        assert!(d("broadcast(3,4)").is_unknown());
        let env = |m: i64| move |s: &Symbol| Some(if &*s.0 == "M" { m } else { 7 });
        assert_eq!(d("broadcast(M,N)").eval(&env(1)), Ok(7));
        assert_eq!(d("broadcast(M,N)").eval(&env(7)), Ok(7));
        assert_eq!(d("broadcast(M,N)").eval(&env(0)), Err(DimError::Broadcast { left: 0, right: 7 }));
        let one = |s: &Symbol| (&*s.0 == "M").then(|| Dim::known(1));
        assert_eq!(d("broadcast(M,N)").substitute(&one), d("N"));
    }

    #[test]
    fn expressions_stop_growing() {
        // Lengths of `x = concat(x, x[::2])`, again and again.
        let mut length = Dim::symbol("N");
        for _ in 0..64 {
            length = &length + (&length + Dim::known(1)).floor_div(&Dim::known(2));
            let text = length.to_string();
            assert_eq!(text.parse::<Dim>().unwrap().to_string(), text);
        }
        assert!(length.is_unknown());
        let all = (0..40).fold(Dim::known(1), |d, i| d.broadcast(&Dim::symbol(&format!("s{i}"))));
        assert!(all.is_unknown());
    }

    #[test]
    fn overflow_is_unknown_not_wrapped() {
        assert!((Dim::known(i64::MAX) + Dim::known(1)).is_unknown());
        assert!((Dim::known(i64::MAX) * Dim::known(2)).is_unknown());
    }
}
