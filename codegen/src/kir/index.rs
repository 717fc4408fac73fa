//! Integer index expressions.

use std::fmt;
use std::ops::{Add, Mul, Sub};

use super::{Val, Var};

/// An index expression: 64-bit integers, no overflow by construction of the kernel.
///
/// Build it with operators and methods; they fold constants and neutral elements, so that structurally equal inputs
/// give equal expressions.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Ix {
    /// A constant.
    Const(i64),
    /// A loop variable.
    Var(Var),
    /// Run-time integer parameter of the kernel.
    Dim(u32),
    /// A value-dependent index: an `i64` scalar, which its producer has clamped into range.
    Scalar(Val),
    /// Sum.
    Add(Box<Ix>, Box<Ix>),
    /// Product.
    Mul(Box<Ix>, Box<Ix>),
    /// Quotient rounded down; the divisor is positive (a divisor of 0 gives 0).
    FloorDiv(Box<Ix>, Box<Ix>),
    /// Remainder in `[0, divisor)`; the divisor is positive (a divisor of 0 gives 0).
    Mod(Box<Ix>, Box<Ix>),
    /// The smaller.
    Min(Box<Ix>, Box<Ix>),
    /// The larger.
    Max(Box<Ix>, Box<Ix>),
}

/// `coefficient * v + rest`, with both parts free of `v`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Linear {
    /// What the variable is multiplied with.
    pub coefficient: Ix,
    /// The part free of the variable.
    pub rest: Ix,
}

impl Ix {
    /// The value of a constant expression.
    pub fn as_const(&self) -> Option<i64> {
        match self {
            Ix::Const(c) => Some(*c),
            _ => None,
        }
    }

    /// Quotient rounded down.
    pub fn floor_div(self, divisor: impl Into<Ix>) -> Ix {
        match (self, divisor.into()) {
            (a, Ix::Const(1)) => a,
            (Ix::Const(0), _) => Ix::Const(0),
            (Ix::Const(a), Ix::Const(b)) => Ix::Const(if b == 0 { 0 } else { a.div_euclid(b) }),
            (a, b) => Ix::FloorDiv(Box::new(a), Box::new(b)),
        }
    }

    /// Quotient rounded up.
    pub fn ceil_div(self, divisor: i64) -> Ix {
        (self + (divisor - 1)).floor_div(divisor)
    }

    /// Remainder in `[0, divisor)`.
    pub fn modulo(self, divisor: impl Into<Ix>) -> Ix {
        match (self, divisor.into()) {
            (_, Ix::Const(1)) | (Ix::Const(0), _) => Ix::Const(0),
            (Ix::Const(a), Ix::Const(b)) => Ix::Const(if b == 0 { 0 } else { a.rem_euclid(b) }),
            (a, b) => Ix::Mod(Box::new(a), Box::new(b)),
        }
    }

    /// The smaller of two.
    pub fn min(self, other: impl Into<Ix>) -> Ix {
        match (self, other.into()) {
            (Ix::Const(a), Ix::Const(b)) => Ix::Const(a.min(b)),
            (a, b) if a == b => a,
            (a, b) => Ix::Min(Box::new(a), Box::new(b)),
        }
    }

    /// The larger of two.
    pub fn max(self, other: impl Into<Ix>) -> Ix {
        match (self, other.into()) {
            (Ix::Const(a), Ix::Const(b)) => Ix::Const(a.max(b)),
            (a, b) if a == b => a,
            (a, b) => Ix::Max(Box::new(a), Box::new(b)),
        }
    }

    /// Calls `f` on every leaf (constant, variable, dim, scalar).
    pub fn visit_leaves<'a>(&'a self, f: &mut dyn FnMut(&'a Ix)) {
        match self.children() {
            Some((a, b)) => {
                a.visit_leaves(f);
                b.visit_leaves(f);
            }
            None => f(self),
        }
    }

    /// Operands of an inner node.
    pub fn children(&self) -> Option<(&Ix, &Ix)> {
        match self {
            Ix::Const(_) | Ix::Var(_) | Ix::Dim(_) | Ix::Scalar(_) => None,
            Ix::Add(a, b)
            | Ix::Mul(a, b)
            | Ix::FloorDiv(a, b)
            | Ix::Mod(a, b)
            | Ix::Min(a, b)
            | Ix::Max(a, b) => Some((a, b)),
        }
    }

    /// Rebuilds the expression with every leaf replaced by `f(leaf)`, simplifying on the way.
    pub fn map_leaves(&self, f: &mut dyn FnMut(&Ix) -> Ix) -> Ix {
        match self {
            Ix::Const(_) | Ix::Var(_) | Ix::Dim(_) | Ix::Scalar(_) => f(self),
            Ix::Add(a, b) => a.map_leaves(f) + b.map_leaves(f),
            Ix::Mul(a, b) => a.map_leaves(f) * b.map_leaves(f),
            Ix::FloorDiv(a, b) => a.map_leaves(f).floor_div(b.map_leaves(f)),
            Ix::Mod(a, b) => a.map_leaves(f).modulo(b.map_leaves(f)),
            Ix::Min(a, b) => a.map_leaves(f).min(b.map_leaves(f)),
            Ix::Max(a, b) => a.map_leaves(f).max(b.map_leaves(f)),
        }
    }

    /// Replaces a variable by an expression.
    pub fn substitute(&self, var: Var, by: &Ix) -> Ix {
        self.map_leaves(&mut |leaf| if *leaf == Ix::Var(var) { by.clone() } else { leaf.clone() })
    }

    /// Whether the expression mentions the variable (values do not count; see [`Ix::linear`]).
    pub fn uses(&self, var: Var) -> bool {
        let mut hit = false;
        self.visit_leaves(&mut |leaf| hit |= *leaf == Ix::Var(var));
        hit
    }

    /// Whether any leaf satisfies `pred`.
    pub fn any_leaf(&self, pred: &dyn Fn(&Ix) -> bool) -> bool {
        let mut hit = false;
        self.visit_leaves(&mut |leaf| hit |= pred(leaf));
        hit
    }

    /// Whether only constants and run-time dims occur.
    pub fn is_uniform(&self) -> bool {
        !self.any_leaf(&|leaf| matches!(leaf, Ix::Var(_) | Ix::Scalar(_)))
    }

    /// The expression as `coefficient * var + rest`, or `None` where it is not linear in `var`. `varying` says which
    /// scalars change with `var`: an expression that uses one of them is not linear.
    pub fn linear(&self, var: Var, varying: &dyn Fn(Val) -> bool) -> Option<Linear> {
        let constant = |rest: &Ix| Some(Linear { coefficient: Ix::Const(0), rest: rest.clone() });
        match self {
            Ix::Var(v) if *v == var => Some(Linear { coefficient: Ix::Const(1), rest: Ix::Const(0) }),
            Ix::Scalar(s) if varying(*s) => None,
            Ix::Const(_) | Ix::Var(_) | Ix::Dim(_) | Ix::Scalar(_) => constant(self),
            Ix::Add(a, b) => {
                let (a, b) = (a.linear(var, varying)?, b.linear(var, varying)?);
                Some(Linear { coefficient: a.coefficient + b.coefficient, rest: a.rest + b.rest })
            }
            Ix::Mul(a, b) => {
                let (a, b) = (a.linear(var, varying)?, b.linear(var, varying)?);
                let zero = Ix::Const(0);
                match (a.coefficient == zero, b.coefficient == zero) {
                    (_, true) => {
                        Some(Linear { coefficient: a.coefficient * b.rest.clone(), rest: a.rest * b.rest })
                    }
                    (true, false) => {
                        Some(Linear { coefficient: b.coefficient * a.rest.clone(), rest: a.rest * b.rest })
                    }
                    (false, false) => None,
                }
            }
            Ix::FloorDiv(..) | Ix::Mod(..) | Ix::Min(..) | Ix::Max(..) => {
                let varies = self.any_leaf(&|leaf| match leaf {
                    Ix::Var(v) => *v == var,
                    Ix::Scalar(s) => varying(*s),
                    _ => false,
                });
                if varies { None } else { constant(self) }
            }
        }
    }

    /// An upper bound over constants and dims, for an expression whose variables and scalars are non-negative:
    /// what sizes scratch for `min(block, total - begin)`. `None` where no such bound is evident.
    pub fn upper_bound(&self) -> Option<Ix> {
        if self.is_uniform() {
            return Some(self.clone());
        }
        match self {
            Ix::Min(a, b) => match (a.upper_bound(), b.upper_bound()) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            },
            Ix::Max(a, b) => Some(a.upper_bound()?.max(b.upper_bound()?)),
            Ix::Mod(_, b) => b.upper_bound(),
            Ix::Add(a, b) => {
                let part = |x: &Ix| if x.is_non_positive() { Some(Ix::Const(0)) } else { x.upper_bound() };
                Some(part(a)? + part(b)?)
            }
            Ix::FloorDiv(a, b) if b.is_uniform() => Some(a.upper_bound()?.floor_div((**b).clone())),
            Ix::Const(_) | Ix::Var(_) | Ix::Dim(_) | Ix::Scalar(_) | Ix::Mul(..) | Ix::FloorDiv(..) => None,
        }
    }

    /// A constant that the expression never exceeds where its leaves are non-negative; `None` where none is evident.
    pub fn constant_bound(&self) -> Option<i64> {
        match self {
            Ix::Const(c) => Some(*c),
            Ix::Min(a, b) => match (a.constant_bound(), b.constant_bound()) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            },
            Ix::Max(a, b) => Some(a.constant_bound()?.max(b.constant_bound()?)),
            Ix::Mod(_, b) => b.constant_bound(),
            Ix::Add(a, b) => {
                let part = |x: &Ix| if x.is_non_positive() { Some(0) } else { x.constant_bound() };
                part(a)?.checked_add(part(b)?)
            }
            Ix::FloorDiv(a, b) => Some(a.constant_bound()?.div_euclid(b.as_const().filter(|b| *b > 0)?)),
            Ix::Var(_) | Ix::Dim(_) | Ix::Scalar(_) | Ix::Mul(..) => None,
        }
    }

    /// Whether the expression is a non-negative quantity times a constant that is at most 0.
    fn is_non_positive(&self) -> bool {
        match self {
            Ix::Const(c) => *c <= 0,
            Ix::Mul(a, b) => {
                let negative = |x: &Ix| matches!(x, Ix::Const(c) if *c <= 0);
                (negative(a) && b.is_non_negative()) || (negative(b) && a.is_non_negative())
            }
            _ => false,
        }
    }

    fn is_non_negative(&self) -> bool {
        match self {
            Ix::Const(c) => *c >= 0,
            Ix::Var(_) | Ix::Dim(_) | Ix::Scalar(_) => true,
            Ix::Add(a, b) | Ix::Mul(a, b) | Ix::FloorDiv(a, b) | Ix::Min(a, b) => {
                a.is_non_negative() && b.is_non_negative()
            }
            Ix::Mod(..) => true,
            Ix::Max(a, b) => a.is_non_negative() || b.is_non_negative(),
        }
    }

    /// The value, given the values of the leaves. Wraps on overflow.
    pub fn eval(&self, leaf: &dyn Fn(&Ix) -> i64) -> i64 {
        let Some((a, b)) = self.children() else {
            return match self {
                Ix::Const(c) => *c,
                other => leaf(other),
            };
        };
        let (a, b) = (a.eval(leaf), b.eval(leaf));
        match self {
            Ix::Add(..) => a.wrapping_add(b),
            Ix::Mul(..) => a.wrapping_mul(b),
            Ix::FloorDiv(..) => a.checked_div_euclid(b).unwrap_or(0),
            Ix::Mod(..) => a.checked_rem_euclid(b).unwrap_or(0),
            Ix::Min(..) => a.min(b),
            Ix::Max(..) => a.max(b),
            Ix::Const(_) | Ix::Var(_) | Ix::Dim(_) | Ix::Scalar(_) => a,
        }
    }

    /// The value of an expression over constants and dims. Leaves out of range count as 0.
    pub fn eval_dims(&self, dims: &[i64]) -> i64 {
        self.eval(&|leaf| match leaf {
            Ix::Dim(d) => dims.get(*d as usize).copied().unwrap_or(0),
            _ => 0,
        })
    }
}

impl From<i64> for Ix {
    fn from(value: i64) -> Self {
        Ix::Const(value)
    }
}

impl From<Var> for Ix {
    fn from(value: Var) -> Self {
        Ix::Var(value)
    }
}

impl From<&Ix> for Ix {
    fn from(value: &Ix) -> Self {
        value.clone()
    }
}

impl<T: Into<Ix>> Add<T> for Ix {
    type Output = Ix;

    fn add(self, other: T) -> Ix {
        match (self, other.into()) {
            (Ix::Const(a), Ix::Const(b)) => Ix::Const(a.wrapping_add(b)),
            (Ix::Const(0), a) | (a, Ix::Const(0)) => a,
            // Constants gather on the right: (a + c) + d, c + a.
            (Ix::Add(a, c), Ix::Const(d)) if c.as_const().is_some() => {
                let sum = c.as_const().map_or(d, |c| c.wrapping_add(d));
                *a + sum
            }
            (Ix::Const(c), a) => a + Ix::Const(c),
            (a, Ix::Add(b, c)) if c.as_const().is_some() => (a + *b) + *c,
            (Ix::Add(a, c), b) if c.as_const().is_some() => (*a + b) + *c,
            (a, b) => Ix::Add(Box::new(a), Box::new(b)),
        }
    }
}

impl<T: Into<Ix>> Sub<T> for Ix {
    type Output = Ix;

    fn sub(self, other: T) -> Ix {
        let other = other.into();
        match &self {
            same if *same == other => return Ix::Const(0),
            Ix::Add(a, b) if **b == other => return (**a).clone(),
            Ix::Add(a, b) if **a == other => return (**b).clone(),
            _ => {}
        }
        self + other * -1
    }
}

impl<T: Into<Ix>> Mul<T> for Ix {
    type Output = Ix;

    fn mul(self, other: T) -> Ix {
        match (self, other.into()) {
            (Ix::Const(a), Ix::Const(b)) => Ix::Const(a.wrapping_mul(b)),
            (Ix::Const(0), _) | (_, Ix::Const(0)) => Ix::Const(0),
            (Ix::Const(1), a) | (a, Ix::Const(1)) => a,
            (Ix::Const(c), a) => a * Ix::Const(c),
            // Constants distribute over sums and join, so that coefficients come out as constants.
            (Ix::Add(a, b), Ix::Const(c)) => *a * c + *b * c,
            (Ix::Mul(a, b), Ix::Const(c)) if b.as_const().is_some() => {
                let product = b.as_const().map_or(c, |b| b.wrapping_mul(c));
                *a * product
            }
            (a, b) => Ix::Mul(Box::new(a), Box::new(b)),
        }
    }
}

impl fmt::Display for Ix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let factor = |x: &Ix| match x {
            Ix::Add(..) | Ix::FloorDiv(..) | Ix::Mod(..) => format!("({x})"),
            _ => x.to_string(),
        };
        match self {
            Ix::Const(c) => write!(f, "{c}"),
            Ix::Var(v) => write!(f, "{v}"),
            Ix::Dim(d) => write!(f, "d{d}"),
            Ix::Scalar(s) => write!(f, "{s}"),
            Ix::Add(a, b) => write!(f, "{a} + {b}"),
            Ix::Mul(a, b) => write!(f, "{}*{}", factor(a), factor(b)),
            Ix::FloorDiv(a, b) => write!(f, "{} / {}", factor(a), factor(b)),
            Ix::Mod(a, b) => write!(f, "{} % {}", factor(a), factor(b)),
            Ix::Min(a, b) => write!(f, "min({a}, {b})"),
            Ix::Max(a, b) => write!(f, "max({a}, {b})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn var(i: u32) -> Ix {
        Ix::Var(Var(i))
    }

    #[test]
    fn constructors_simplify() {
        assert_eq!((var(0) + 3 + 4) * 2, var(0) * 2 + 14);
        let none = 0;
        assert_eq!(var(0) * none + 5, Ix::Const(5));
        assert_eq!(var(1) - var(1), Ix::Const(0));
        assert_eq!(Ix::Const(-7).floor_div(2), Ix::Const(-4));
        assert_eq!(Ix::Const(-7).modulo(2), Ix::Const(1));
        assert_eq!((var(0) + 1 + (var(1) + 2)).to_string(), "i0 + i1 + 3");
        assert_eq!(((var(0) + 1) * Ix::Dim(2)).to_string(), "(i0 + 1)*d2");
    }

    #[test]
    fn linear_parts() {
        let index = (var(0) * Ix::Dim(0) + var(1)) * 4 + 7;
        let linear = index.linear(Var(0), &|_| false).unwrap();
        assert_eq!(linear.coefficient, Ix::Dim(0) * 4);
        assert_eq!(linear.rest, var(1) * 4 + 7);
        assert_eq!(var(0).floor_div(2).linear(Var(0), &|_| false), None);
        assert_eq!((var(0) * var(0)).linear(Var(0), &|_| false), None);
        assert_eq!(Ix::Scalar(Val(3)).linear(Var(0), &|_| true), None);
    }

    #[test]
    fn bounds() {
        let extent = (Ix::Dim(0) - var(0) * 64).min(64);
        assert_eq!(extent.upper_bound(), Some(Ix::Dim(0).min(64)));
        assert_eq!(extent.constant_bound(), Some(64));
        assert_eq!((Ix::Dim(0) - var(0)).constant_bound(), None);
        assert_eq!(((var(0) + 7).min(30) - var(1) * 4).floor_div(3).constant_bound(), Some(10));
        assert_eq!(var(0).upper_bound(), None);
    }
}
