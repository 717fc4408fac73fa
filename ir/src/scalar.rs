//! The closed set of scalar primitives, scalar expressions over them, and what each primitive means.
//!
//! Every elementwise operator is a [`ScalarExpr`]; evaluation, Cranelift code and wide code all follow from it. The
//! meaning given here ([`Prim::apply`]) is total: integer division by zero gives 0, shifts by the width or more give
//! 0 (or the sign for signed right shifts), integer results wrap to their dtype, nothing traps.

use smallvec::SmallVec;

use crate::DType;

macro_rules! prims {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $arity:literal;)*) => {
        /// A scalar primitive.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Prim { $($(#[$doc])* $variant,)* }

        impl Prim {
            /// Every primitive.
            pub const ALL: &'static [Prim] = &[$(Prim::$variant,)*];

            /// Name in scalar expressions.
            pub const fn name(self) -> &'static str {
                match self { $(Prim::$variant => $name,)* }
            }

            /// Number of operands.
            pub const fn arity(self) -> usize {
                match self { $(Prim::$variant => $arity,)* }
            }

            /// The primitive of that name.
            pub fn from_name(name: &str) -> Option<Prim> {
                Prim::ALL.iter().copied().find(|p| p.name() == name)
            }
        }
    };
}

prims! {
    /// `a + b`.
    Add = "add", 2;
    /// `a - b`.
    Sub = "sub", 2;
    /// `a * b`.
    Mul = "mul", 2;
    /// `a / b`; integers truncate, and give 0 for `b == 0`.
    Div = "div", 2;
    /// Remainder with the sign of `a` (C `fmod`, `%`); integers give 0 for `b == 0`.
    Rem = "rem", 2;
    /// Remainder with the sign of `b` (Python `%`); integers give 0 for `b == 0`.
    Mod = "mod", 2;
    /// `a` to the power `b` (C `pow`; integers by squaring, negative exponents truncate to 0 unless `a` is 1 or -1).
    Pow = "pow", 2;
    /// The smaller operand; NaN if either is NaN.
    Min = "min", 2;
    /// The larger operand; NaN if either is NaN.
    Max = "max", 2;
    /// `-a`.
    Neg = "neg", 1;
    /// `|a|`.
    Abs = "abs", 1;
    /// Square root.
    Sqrt = "sqrt", 1;
    /// e to the power `a`.
    Exp = "exp", 1;
    /// Natural logarithm.
    Log = "log", 1;
    /// `ln(1 + a)`, accurate near 0.
    Log1p = "log1p", 1;
    /// `exp(a) - 1`, accurate near 0.
    Expm1 = "expm1", 1;
    /// Sine.
    Sin = "sin", 1;
    /// Cosine.
    Cos = "cos", 1;
    /// Tangent.
    Tan = "tan", 1;
    /// Inverse sine.
    Asin = "asin", 1;
    /// Inverse cosine.
    Acos = "acos", 1;
    /// Inverse tangent.
    Atan = "atan", 1;
    /// Hyperbolic sine.
    Sinh = "sinh", 1;
    /// Hyperbolic cosine.
    Cosh = "cosh", 1;
    /// Hyperbolic tangent.
    Tanh = "tanh", 1;
    /// Inverse hyperbolic sine.
    Asinh = "asinh", 1;
    /// Inverse hyperbolic cosine.
    Acosh = "acosh", 1;
    /// Inverse hyperbolic tangent.
    Atanh = "atanh", 1;
    /// The error function.
    Erf = "erf", 1;
    /// Largest integer not above `a`.
    Floor = "floor", 1;
    /// Smallest integer not below `a`.
    Ceil = "ceil", 1;
    /// Nearest integer, ties to even.
    Round = "round", 1;
    /// Integer part.
    Trunc = "trunc", 1;
    /// `a == b`, bool.
    Eq = "eq", 2;
    /// `a != b`, bool.
    Ne = "ne", 2;
    /// `a < b`, bool; false on NaN.
    Lt = "lt", 2;
    /// `a <= b`, bool; false on NaN.
    Le = "le", 2;
    /// `a > b`, bool; false on NaN.
    Gt = "gt", 2;
    /// `a >= b`, bool; false on NaN.
    Ge = "ge", 2;
    /// Bitwise (integers) or logical (bool) and.
    And = "and", 2;
    /// Bitwise or logical or.
    Or = "or", 2;
    /// Bitwise or logical exclusive or.
    Xor = "xor", 2;
    /// Bitwise or logical complement.
    Not = "not", 1;
    /// Shift left.
    Shl = "shl", 2;
    /// Shift right, arithmetic for signed dtypes.
    Shr = "shr", 2;
    /// `select(c, a, b)`: `a` where the bool `c` holds, else `b`.
    Select = "select", 3;
    /// Whether `a` is NaN, bool.
    IsNan = "isnan", 1;
    /// Whether `a` is an infinity, bool.
    IsInf = "isinf", 1;
}

impl Prim {
    /// Whether the result is bool whatever the operands are.
    pub const fn gives_bool(self) -> bool {
        matches!(
            self,
            Prim::Eq | Prim::Ne | Prim::Lt | Prim::Le | Prim::Gt | Prim::Ge | Prim::IsNan | Prim::IsInf
        )
    }

    /// The meaning of the primitive on exact scalars. `bits` is the width of the integer dtype (shifts need it);
    /// the caller wraps integer results to the dtype ([`wrap_int`]).
    ///
    /// # Panics
    /// If the operands' number or classes do not fit the primitive: callers verify first.
    pub fn apply(self, a: &[Scalar], bits: usize) -> Scalar {
        use Scalar::{B, F, I};
        match (self, a) {
            (Prim::Select, [B(c), x, y]) => *if *c { x } else { y },
            (_, [F(x)]) => float1(self, *x),
            (_, [F(x), F(y)]) => float2(self, *x, *y),
            (_, [I(x)]) => int1(self, *x),
            (_, [I(x), I(y)]) => int2(self, *x, *y, bits),
            (Prim::Not, [B(x)]) => B(!x),
            (_, [B(x), B(y)]) => bool2(self, *x, *y),
            _ => panic!("scalar primitive {} does not apply to {a:?}", self.name()),
        }
    }
}

/// An exact scalar: what the reference evaluator computes with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scalar {
    /// Any floating dtype, in double precision.
    F(f64),
    /// Any integer dtype.
    I(i128),
    /// `bool`.
    B(bool),
}

fn float1(p: Prim, x: f64) -> Scalar {
    use Scalar::{B, F};
    F(match p {
        Prim::Neg => -x,
        Prim::Abs => x.abs(),
        Prim::Sqrt => x.sqrt(),
        Prim::Exp => libm::exp(x),
        Prim::Log => libm::log(x),
        Prim::Log1p => libm::log1p(x),
        Prim::Expm1 => libm::expm1(x),
        Prim::Sin => libm::sin(x),
        Prim::Cos => libm::cos(x),
        Prim::Tan => libm::tan(x),
        Prim::Asin => libm::asin(x),
        Prim::Acos => libm::acos(x),
        Prim::Atan => libm::atan(x),
        Prim::Sinh => libm::sinh(x),
        Prim::Cosh => libm::cosh(x),
        Prim::Tanh => libm::tanh(x),
        Prim::Asinh => libm::asinh(x),
        Prim::Acosh => libm::acosh(x),
        Prim::Atanh => libm::atanh(x),
        Prim::Erf => libm::erf(x),
        Prim::Floor => x.floor(),
        Prim::Ceil => x.ceil(),
        Prim::Round => x.round_ties_even(),
        Prim::Trunc => x.trunc(),
        Prim::IsNan => return B(x.is_nan()),
        Prim::IsInf => return B(x.is_infinite()),
        _ => panic!("{} of one float", p.name()),
    })
}

fn float2(p: Prim, x: f64, y: f64) -> Scalar {
    use Scalar::{B, F};
    F(match p {
        Prim::Add => x + y,
        Prim::Sub => x - y,
        Prim::Mul => x * y,
        Prim::Div => x / y,
        Prim::Rem => libm::fmod(x, y),
        Prim::Mod => {
            let r = libm::fmod(x, y);
            if r != 0.0 && (r < 0.0) != (y < 0.0) { r + y } else { r }
        }
        Prim::Pow => libm::pow(x, y),
        Prim::Min if x.is_nan() || y.is_nan() => f64::NAN,
        Prim::Max if x.is_nan() || y.is_nan() => f64::NAN,
        Prim::Min => x.min(y),
        Prim::Max => x.max(y),
        Prim::Eq => return B(x == y),
        Prim::Ne => return B(x != y),
        Prim::Lt => return B(x < y),
        Prim::Le => return B(x <= y),
        Prim::Gt => return B(x > y),
        Prim::Ge => return B(x >= y),
        _ => panic!("{} of two floats", p.name()),
    })
}

fn int1(p: Prim, x: i128) -> Scalar {
    use Scalar::I;
    I(match p {
        Prim::Neg => -x,
        Prim::Abs => x.abs(),
        Prim::Not => !x,
        Prim::Floor | Prim::Ceil | Prim::Round | Prim::Trunc => x,
        Prim::IsNan | Prim::IsInf => return Scalar::B(false),
        _ => panic!("{} of an integer", p.name()),
    })
}

fn int2(p: Prim, x: i128, y: i128, bits: usize) -> Scalar {
    use Scalar::{B, I};
    I(match p {
        Prim::Add => x + y,
        Prim::Sub => x - y,
        // The product of two 64-bit integers may exceed 127 bits; its low bits are what wraps to the dtype.
        Prim::Mul => x.wrapping_mul(y),
        Prim::Div | Prim::Rem | Prim::Mod if y == 0 => 0,
        Prim::Div => x / y,
        Prim::Rem => x % y,
        Prim::Mod => {
            let r = x % y;
            if r != 0 && (r < 0) != (y < 0) { r + y } else { r }
        }
        Prim::Pow => int_pow(x, y, bits),
        Prim::Min => x.min(y),
        Prim::Max => x.max(y),
        Prim::And => x & y,
        Prim::Or => x | y,
        Prim::Xor => x ^ y,
        Prim::Shl if !(0..bits as i128).contains(&y) => 0,
        Prim::Shl => x << y,
        Prim::Shr if !(0..bits as i128).contains(&y) => {
            if x < 0 {
                -1
            } else {
                0
            }
        }
        Prim::Shr => x >> y,
        Prim::Eq => return B(x == y),
        Prim::Ne => return B(x != y),
        Prim::Lt => return B(x < y),
        Prim::Le => return B(x <= y),
        Prim::Gt => return B(x > y),
        Prim::Ge => return B(x >= y),
        _ => panic!("{} of two integers", p.name()),
    })
}

/// Power modulo 2^bits by squaring.
fn int_pow(x: i128, y: i128, bits: usize) -> i128 {
    if y < 0 {
        return match x {
            1 => 1,
            -1 => {
                if y % 2 == 0 {
                    1
                } else {
                    -1
                }
            }
            _ => 0,
        };
    }
    let mask = (1i128 << bits) - 1;
    let (mut base, mut exponent, mut result) = (x & mask, y, 1i128);
    while exponent > 0 {
        if exponent & 1 == 1 {
            result = result.wrapping_mul(base) & mask;
        }
        base = base.wrapping_mul(base) & mask;
        exponent >>= 1;
    }
    // Sign-extension of the result is the caller's wrap to the dtype.
    result
}

fn bool2(p: Prim, x: bool, y: bool) -> Scalar {
    Scalar::B(match p {
        Prim::And | Prim::Min | Prim::Mul => x & y,
        Prim::Or | Prim::Max | Prim::Add => x | y,
        Prim::Xor | Prim::Ne => x ^ y,
        Prim::Eq => x == y,
        Prim::Lt => !x & y,
        Prim::Le => !x | y,
        Prim::Gt => x & !y,
        Prim::Ge => x | !y,
        _ => panic!("{} of two bools", p.name()),
    })
}

/// `value` wrapped to the integer dtype (two's complement), as every integer result is.
pub fn wrap_int(value: i128, dtype: DType) -> i128 {
    let bits = dtype.bits() as u32;
    let low = value & ((1i128 << bits) - 1);
    match dtype.int_range() {
        Some((min, _)) if min < 0 && low >> (bits - 1) & 1 == 1 => low - (1i128 << bits),
        _ => low,
    }
}

/// One node of a scalar expression; operands name earlier nodes.
#[derive(Clone, Debug, PartialEq)]
pub enum ScalarNode {
    /// Operand `i` of the operator.
    Param(usize),
    /// Float attribute `i` of the operator, converted to the compute dtype.
    Attr(usize),
    /// A literal, in the compute dtype.
    Const(f64),
    /// A primitive applied to earlier nodes.
    Apply(Prim, SmallVec<[usize; 3]>),
}

/// A scalar expression in SSA order; the last node is the result.
#[derive(Clone, Debug, PartialEq)]
pub struct ScalarExpr {
    /// Nodes; each operand index is smaller than the node's own.
    pub nodes: Vec<ScalarNode>,
}

/// Why a text is no scalar expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("scalar expression `{text}`: {reason} at byte {at}")]
pub struct ScalarParseError {
    text: String,
    reason: String,
    at: usize,
}

impl ScalarExpr {
    /// Parses infix text (`+ - * / < <= > >= == !=`, calls of primitives, names of `params` and `attrs`, numbers).
    /// Common subexpressions become one node.
    pub fn parse(text: &str, params: &[&str], attrs: &[&str]) -> Result<ScalarExpr, ScalarParseError> {
        let mut parser = ExprParser { text, at: 0, params, attrs, nodes: vec![] };
        let root = parser.comparison()?;
        parser.spaces();
        if parser.at != text.len() {
            return parser.fail("unexpected text");
        }
        // The root must come last; a bare reference to an earlier node stays valid because nodes are unique.
        if root + 1 != parser.nodes.len() {
            return parser.fail("unused subexpression");
        }
        Ok(ScalarExpr { nodes: parser.nodes })
    }

    /// The value on exact scalars. Integer results wrap to `dtype` after every primitive.
    pub fn eval(&self, params: &[Scalar], attrs: &[f64], dtype: DType) -> Scalar {
        let mut values: SmallVec<[Scalar; 16]> = SmallVec::new();
        for node in &self.nodes {
            let value = match node {
                ScalarNode::Param(i) => params[*i],
                ScalarNode::Attr(i) => literal(attrs[*i], dtype),
                ScalarNode::Const(c) => literal(*c, dtype),
                ScalarNode::Apply(p, operands) => {
                    let args: SmallVec<[Scalar; 3]> = operands.iter().map(|&o| values[o]).collect();
                    match p.apply(&args, dtype.bits()) {
                        Scalar::I(v) => Scalar::I(wrap_int(v, dtype)),
                        other => other,
                    }
                }
            };
            values.push(value);
        }
        values[values.len() - 1]
    }
}

fn literal(value: f64, dtype: DType) -> Scalar {
    if dtype.is_float() {
        Scalar::F(value)
    } else if dtype == DType::Bool {
        Scalar::B(value != 0.0)
    } else {
        Scalar::I(value as i128)
    }
}

struct ExprParser<'a> {
    text: &'a str,
    at: usize,
    params: &'a [&'a str],
    attrs: &'a [&'a str],
    nodes: Vec<ScalarNode>,
}

impl ExprParser<'_> {
    fn fail<T>(&self, reason: impl Into<String>) -> Result<T, ScalarParseError> {
        Err(ScalarParseError { text: self.text.to_owned(), reason: reason.into(), at: self.at })
    }

    fn spaces(&mut self) {
        while self.text[self.at..].starts_with(' ') {
            self.at += 1;
        }
    }

    fn eat(&mut self, token: &str) -> bool {
        self.spaces();
        let hit = self.text[self.at..].starts_with(token);
        if hit {
            self.at += token.len();
        }
        hit
    }

    fn node(&mut self, node: ScalarNode) -> usize {
        self.nodes.iter().position(|n| *n == node).unwrap_or_else(|| {
            self.nodes.push(node);
            self.nodes.len() - 1
        })
    }

    fn apply(&mut self, p: Prim, operands: &[usize]) -> usize {
        self.node(ScalarNode::Apply(p, operands.iter().copied().collect()))
    }

    fn comparison(&mut self) -> Result<usize, ScalarParseError> {
        let left = self.sum()?;
        let tokens = [
            ("<=", Prim::Le),
            (">=", Prim::Ge),
            ("==", Prim::Eq),
            ("!=", Prim::Ne),
            ("<", Prim::Lt),
            (">", Prim::Gt),
        ];
        for (token, p) in tokens {
            if self.eat(token) {
                let right = self.sum()?;
                return Ok(self.apply(p, &[left, right]));
            }
        }
        Ok(left)
    }

    fn sum(&mut self) -> Result<usize, ScalarParseError> {
        let mut left = self.product()?;
        loop {
            let p = if self.eat("+") {
                Prim::Add
            } else if self.eat("-") {
                Prim::Sub
            } else {
                return Ok(left);
            };
            let right = self.product()?;
            left = self.apply(p, &[left, right]);
        }
    }

    fn product(&mut self) -> Result<usize, ScalarParseError> {
        let mut left = self.factor()?;
        loop {
            let p = if self.eat("*") {
                Prim::Mul
            } else if self.eat("/") {
                Prim::Div
            } else {
                return Ok(left);
            };
            let right = self.factor()?;
            left = self.apply(p, &[left, right]);
        }
    }

    fn factor(&mut self) -> Result<usize, ScalarParseError> {
        if self.eat("-") {
            let inner = self.factor()?;
            return Ok(self.apply(Prim::Neg, &[inner]));
        }
        if self.eat("(") {
            let inner = self.comparison()?;
            return if self.eat(")") { Ok(inner) } else { self.fail("expected `)`") };
        }
        self.spaces();
        let rest = &self.text[self.at..];
        let number = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').len();
        if number > 0 {
            let mut end = number;
            if rest[end..].starts_with("e-") {
                let digits = rest[end + 2..].len()
                    - rest[end + 2..].trim_start_matches(|c: char| c.is_ascii_digit()).len();
                end += 2 + digits;
            }
            let Ok(value) = rest[..end].parse() else { return self.fail("malformed number") };
            self.at += end;
            return Ok(self.node(ScalarNode::Const(value)));
        }
        let end = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || c == '_').len();
        let name = &rest[..end];
        self.at += end;
        if self.eat("(") {
            return self.call(name);
        }
        if let Some(i) = self.params.iter().position(|p| *p == name) {
            return Ok(self.node(ScalarNode::Param(i)));
        }
        if let Some(i) = self.attrs.iter().position(|p| *p == name) {
            return Ok(self.node(ScalarNode::Attr(i)));
        }
        self.fail(format!("unknown name `{name}`"))
    }

    fn call(&mut self, name: &str) -> Result<usize, ScalarParseError> {
        let Some(p) = Prim::from_name(name) else { return self.fail(format!("unknown primitive `{name}`")) };
        let mut operands = vec![self.comparison()?];
        while self.eat(",") {
            operands.push(self.comparison()?);
        }
        if !self.eat(")") {
            return self.fail("expected `)`");
        }
        if operands.len() != p.arity() {
            return self.fail(format!("`{name}` takes {} operands", p.arity()));
        }
        Ok(self.apply(p, &operands))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn eval(text: &str, x: f64) -> Scalar {
        ScalarExpr::parse(text, &["x"], &["alpha"]).unwrap().eval(&[Scalar::F(x)], &[0.5], DType::F32)
    }

    #[test]
    fn precedence_and_calls() {
        assert_eq!(eval("1 + x * 2 - -x / 4", 8.0), Scalar::F(19.0));
        assert_eq!(eval("select(x < 0, alpha * x, x)", -4.0), Scalar::F(-2.0));
        assert_eq!(eval("max(x, 0)", -1.0), Scalar::F(0.0));
        assert!(ScalarExpr::parse("foo(x)", &["x"], &[]).is_err());
        assert!(ScalarExpr::parse("x +", &["x"], &[]).is_err());
    }

    #[test]
    fn integers_never_trap() {
        let i = |p: Prim, a: i128, b: i128| p.apply(&[Scalar::I(a), Scalar::I(b)], 8);
        assert_eq!(i(Prim::Div, 5, 0), Scalar::I(0));
        assert_eq!(i(Prim::Mod, -5, 3), Scalar::I(1));
        assert_eq!(i(Prim::Rem, -5, 3), Scalar::I(-2));
        assert_eq!(i(Prim::Shl, 1, 9), Scalar::I(0));
        assert_eq!(wrap_int(200, DType::I8), -56);
        assert_eq!(wrap_int(-1, DType::U8), 255);
        assert_eq!(i(Prim::Pow, 3, 4), Scalar::I(81));
    }
}
