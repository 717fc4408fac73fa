//! The table of elementwise operators. A row is all there is to an operator: printing, parsing, inference, reference
//! evaluation and code for every target follow from it.
//!
//! A body is evaluated in the *compute dtype* of its operands: `f32` for floats narrower than 32 bits, the dtype
//! itself otherwise; the result is rounded once to the result dtype. Operands broadcast as in NumPy.

use std::sync::OnceLock;

use crate::{DClass, DType, ScalarExpr};

/// How operand dtypes determine the result dtype.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DTypeRule {
    /// All operands have one dtype, which is the result's.
    Same,
    /// All operands have one dtype; the result is bool.
    Bool,
    /// The first operand is bool, the others have one dtype, which is the result's.
    Select,
}

/// Which dtypes the operands may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Domain {
    /// Integers and floats.
    Number,
    /// Floats.
    Float,
    /// Integers.
    Int,
    /// Bool.
    Bool,
    /// Bool, integers and floats.
    Any,
}

impl Domain {
    /// Whether operands of `dtype` are accepted.
    pub fn accepts(self, dtype: DType) -> bool {
        let class = dtype.class();
        match self {
            Domain::Number => matches!(class, DClass::Signed | DClass::Unsigned | DClass::Float),
            Domain::Float => class == DClass::Float,
            Domain::Int => matches!(class, DClass::Signed | DClass::Unsigned),
            Domain::Bool => class == DClass::Bool,
            Domain::Any => !matches!(class, DClass::Text | DClass::Complex),
        }
    }
}

/// One elementwise operator.
#[derive(Debug)]
pub struct Row {
    /// Mnemonic in the text form.
    pub name: &'static str,
    /// Operand names, in order.
    pub params: &'static [&'static str],
    /// Float attributes, in order.
    pub attrs: &'static [&'static str],
    /// Accepted dtypes.
    pub domain: Domain,
    /// Result dtype.
    pub rule: DTypeRule,
    /// Scalar expression over the operands and attributes.
    pub body: &'static str,
}

const X: &[&str] = &["x"];
const AB: &[&str] = &["a", "b"];

const fn row(
    name: &'static str,
    params: &'static [&'static str],
    attrs: &'static [&'static str],
    domain: Domain,
    rule: DTypeRule,
    body: &'static str,
) -> Row {
    Row { name, params, attrs, domain, rule, body }
}

use DTypeRule::{Bool as ToBool, Same, Select};
use Domain::{Any, Bool, Float, Int, Number};

/// Every elementwise operator.
#[rustfmt::skip]
pub static TABLE: &[Row] = &[
    row("add", AB, &[], Number, Same, "a + b"),
    row("sub", AB, &[], Number, Same, "a - b"),
    row("mul", AB, &[], Number, Same, "a * b"),
    row("div", AB, &[], Number, Same, "a / b"),
    row("rem", AB, &[], Number, Same, "rem(a, b)"),
    row("mod", AB, &[], Number, Same, "mod(a, b)"),
    row("pow", AB, &[], Number, Same, "pow(a, b)"),
    row("min", AB, &[], Number, Same, "min(a, b)"),
    row("max", AB, &[], Number, Same, "max(a, b)"),
    row("neg", X, &[], Number, Same, "-x"),
    row("abs", X, &[], Number, Same, "abs(x)"),
    row("sign", X, &[], Number, Same, "select(x > 0, 1, select(x < 0, -1, x))"),
    row("reciprocal", X, &[], Float, Same, "1 / x"),
    row("square", X, &[], Number, Same, "x * x"),
    row("sqrt", X, &[], Float, Same, "sqrt(x)"),
    row("rsqrt", X, &[], Float, Same, "1 / sqrt(x)"),
    row("exp", X, &[], Float, Same, "exp(x)"),
    row("expm1", X, &[], Float, Same, "expm1(x)"),
    row("log", X, &[], Float, Same, "log(x)"),
    row("log1p", X, &[], Float, Same, "log1p(x)"),
    row("sin", X, &[], Float, Same, "sin(x)"),
    row("cos", X, &[], Float, Same, "cos(x)"),
    row("tan", X, &[], Float, Same, "tan(x)"),
    row("asin", X, &[], Float, Same, "asin(x)"),
    row("acos", X, &[], Float, Same, "acos(x)"),
    row("atan", X, &[], Float, Same, "atan(x)"),
    row("sinh", X, &[], Float, Same, "sinh(x)"),
    row("cosh", X, &[], Float, Same, "cosh(x)"),
    row("tanh", X, &[], Float, Same, "tanh(x)"),
    row("asinh", X, &[], Float, Same, "asinh(x)"),
    row("acosh", X, &[], Float, Same, "acosh(x)"),
    row("atanh", X, &[], Float, Same, "atanh(x)"),
    row("erf", X, &[], Float, Same, "erf(x)"),
    row("floor", X, &[], Float, Same, "floor(x)"),
    row("ceil", X, &[], Float, Same, "ceil(x)"),
    row("round", X, &[], Float, Same, "round(x)"),
    row("trunc", X, &[], Float, Same, "trunc(x)"),
    row("is_nan", X, &[], Float, ToBool, "isnan(x)"),
    row("is_inf", X, &["detect_negative", "detect_positive"], Float, ToBool,
        "and(isinf(x), or(and(x > 0, detect_positive != 0), and(x < 0, detect_negative != 0)))"),
    row("relu", X, &[], Number, Same, "max(x, 0)"),
    row("leaky_relu", X, &["alpha"], Float, Same, "select(x < 0, alpha * x, x)"),
    row("prelu", &["x", "slope"], &[], Number, Same, "select(x < 0, slope * x, x)"),
    row("thresholded_relu", X, &["alpha"], Float, Same, "select(x > alpha, x, 0)"),
    row("elu", X, &["alpha"], Float, Same, "select(x < 0, alpha * expm1(x), x)"),
    row("celu", X, &["alpha"], Float, Same, "max(x, 0) + min(alpha * expm1(x / alpha), 0)"),
    row("selu", X, &["alpha", "gamma"], Float, Same, "gamma * select(x > 0, x, alpha * expm1(x))"),
    row("sigmoid", X, &[], Float, Same, "1 / (1 + exp(-x))"),
    row("hard_sigmoid", X, &["alpha", "beta"], Float, Same, "min(max(alpha * x + beta, 0), 1)"),
    row("silu", X, &["alpha"], Float, Same, "x / (1 + exp(-(alpha * x)))"),
    row("hard_swish", X, &[], Float, Same, "x * min(max(x * 0.16666666666666666 + 0.5, 0), 1)"),
    row("softplus", X, &[], Float, Same, "max(x, 0) + log1p(exp(-abs(x)))"),
    row("softsign", X, &[], Float, Same, "x / (1 + abs(x))"),
    row("mish", X, &[], Float, Same, "x * tanh(max(x, 0) + log1p(exp(-abs(x))))"),
    row("gelu", X, &[], Float, Same, "0.5 * x * (1 + erf(x * 0.7071067811865476))"),
    row("gelu_tanh", X, &[], Float, Same,
        "0.5 * x * (1 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)))"),
    row("shrink", X, &["bias", "lambd"], Number, Same,
        "select(x < -lambd, x + bias, select(x > lambd, x - bias, 0))"),
    row("clamp", &["x", "lo", "hi"], &[], Number, Same, "min(max(x, lo), hi)"),
    row("eq", AB, &[], Any, ToBool, "a == b"),
    row("ne", AB, &[], Any, ToBool, "a != b"),
    row("lt", AB, &[], Any, ToBool, "a < b"),
    row("le", AB, &[], Any, ToBool, "a <= b"),
    row("gt", AB, &[], Any, ToBool, "a > b"),
    row("ge", AB, &[], Any, ToBool, "a >= b"),
    row("and", AB, &[], Bool, Same, "and(a, b)"),
    row("or", AB, &[], Bool, Same, "or(a, b)"),
    row("xor", AB, &[], Bool, Same, "xor(a, b)"),
    row("not", X, &[], Bool, Same, "not(x)"),
    row("bit_and", AB, &[], Int, Same, "and(a, b)"),
    row("bit_or", AB, &[], Int, Same, "or(a, b)"),
    row("bit_xor", AB, &[], Int, Same, "xor(a, b)"),
    row("bit_not", X, &[], Int, Same, "not(x)"),
    row("shift_left", AB, &[], Int, Same, "shl(a, b)"),
    row("shift_right", AB, &[], Int, Same, "shr(a, b)"),
    row("where", &["cond", "a", "b"], &[], Any, Select, "select(cond, a, b)"),
];

/// An elementwise operator: an index into [`TABLE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ew(u16);

impl Ew {
    /// The operator of that name, if there is one.
    pub fn from_name(name: &str) -> Option<Ew> {
        TABLE.iter().position(|r| r.name == name).map(|i| Ew(i as u16))
    }

    /// The operator of that name.
    ///
    /// # Panics
    /// If there is no such row; for names that stand in our own source.
    pub fn named(name: &str) -> Ew {
        Ew::from_name(name).unwrap_or_else(|| panic!("no elementwise row `{name}`"))
    }

    /// Every operator.
    pub fn all() -> impl Iterator<Item = Ew> {
        (0..TABLE.len() as u16).map(Ew)
    }

    /// The operator's row.
    pub fn row(self) -> &'static Row {
        &TABLE[usize::from(self.0)]
    }

    /// The operator's body, parsed.
    pub fn body(self) -> &'static ScalarExpr {
        static BODIES: OnceLock<Vec<ScalarExpr>> = OnceLock::new();
        let bodies = BODIES.get_or_init(|| {
            TABLE
                .iter()
                .map(|r| match ScalarExpr::parse(r.body, r.params, r.attrs) {
                    Ok(body) => body,
                    Err(e) => panic!("row `{}`: {e}", r.name),
                })
                .collect()
        });
        &bodies[usize::from(self.0)]
    }

    /// The dtype in which a body over operands of `dtype` is computed.
    pub fn compute_dtype(dtype: DType) -> DType {
        if dtype.is_float() && dtype.bits() < 32 { DType::F32 } else { dtype }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_parses_and_names_are_unique() {
        for ew in Ew::all() {
            assert!(!ew.body().nodes.is_empty());
            assert_eq!(Ew::from_name(ew.row().name), Some(ew));
        }
    }
}
