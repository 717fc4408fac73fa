//! Identities of elementwise operators, as pairs of a pattern and a result.

use std::sync::OnceLock;

use kiln_ir::{Build, Edit, NodeId, Op, Value};

use crate::pattern::Pattern;
use crate::rewrite::{Cx, Refusal, Rule, matches};

/// What an identity gives.
#[derive(Clone, Copy)]
enum To {
    /// The value captured as `x`.
    X,
    /// A row of the table applied to `x`.
    Unary(&'static str),
    /// A row of the table applied to `x` and `y`.
    Binary(&'static str),
}

/// The identities. They hold for every dtype that the operators accept, up to rounding and the sign of zero.
const IDENTITIES: &[(&str, To)] = &[
    ("add(?x, 0)", To::X),
    ("sub(?x, 0)", To::X),
    ("mul(?x, 1)", To::X),
    ("div(?x, 1)", To::X),
    ("pow(?x, 1)", To::X),
    ("neg(neg(?x))", To::X),
    ("not(not(?x))", To::X),
    ("reciprocal(reciprocal(?x))", To::X),
    ("abs(abs(?x))", To::Unary("abs")),
    ("relu(relu(?x))", To::Unary("relu")),
    ("max(?x, 0)", To::Unary("relu")),
    ("pow(?x, 2)", To::Unary("square")),
    ("pow(?x, 0.5)", To::Unary("sqrt")),
    ("pow(?x, -0.5)", To::Unary("rsqrt")),
    ("pow(?x, -1)", To::Unary("reciprocal")),
    ("mul(?x, ?x)", To::Unary("square")),
    ("mul(?x, -1)", To::Unary("neg")),
    ("sub(0, ?x)", To::Unary("neg")),
    ("div(1, ?x)", To::Unary("reciprocal")),
    ("reciprocal(sqrt(?x))", To::Unary("rsqrt")),
    ("reciprocal(rsqrt(?x))", To::Unary("sqrt")),
    ("add(?x, neg(?y))", To::Binary("sub")),
    ("sub(?x, neg(?y))", To::Binary("add")),
    ("mul(?x, reciprocal(?y))", To::Binary("div")),
    ("not(eq(?x, ?y))", To::Binary("ne")),
    ("not(ne(?x, ?y))", To::Binary("eq")),
];

fn identities() -> &'static [(Pattern, To)] {
    static PARSED: OnceLock<Vec<(Pattern, To)>> = OnceLock::new();
    PARSED.get_or_init(|| IDENTITIES.iter().map(|&(text, to)| (Pattern::new(text), to)).collect())
}

/// Applies the first identity that matches.
pub(super) const ALGEBRA: Rule = Rule { name: "algebra", apply: algebra };

fn algebra(cx: &Cx<'_>, id: NodeId) -> Result<Edit, Refusal> {
    let node = cx.node(id);
    matches(matches!(node.op, Op::Elementwise(_)))?;
    let &[result] = &node.results[..] else { return Err(Refusal::NoMatch) };
    let mut refusal = Refusal::NoMatch;
    for (pattern, to) in identities() {
        let Some(found) = pattern.find(cx.graph, result) else { continue };
        let get = |name| found.get(name).ok_or(Refusal::NoMatch);
        let built = cx.rewrite(id, |p| build(p, *to, get("x")?, get("y").ok()));
        match built {
            Ok(edit) => return Ok(edit),
            Err(r @ Refusal::Because(_)) => refusal = r,
            Err(Refusal::NoMatch) => {}
        }
    }
    Err(refusal)
}

fn build(p: &mut dyn Build, to: To, x: Value, y: Option<Value>) -> Result<Value, Refusal> {
    let row = |p: &dyn Build, name: &str| {
        let accepted = kiln_ir::Ew::from_name(name).zip(p.dtype(x).ok());
        matches(accepted.is_some_and(|(ew, dtype)| ew.row().domain.accepts(dtype)))
    };
    match (to, y) {
        (To::X, _) => Ok(x),
        (To::Unary(name), _) => {
            row(p, name)?;
            Ok(p.ew(name, &[x])?)
        }
        (To::Binary(name), Some(y)) => {
            row(p, name)?;
            Ok(p.ew(name, &[x, y])?)
        }
        (To::Binary(_), None) => Err(Refusal::NoMatch),
    }
}

/// `(x * c) * d` becomes `x * (c * d)` for float constants of one element. Sums stay: `(x + c) - c` rounds on purpose.
pub(crate) const SCALAR_CHAIN: Rule = Rule { name: "scalar-chain", apply: scalar_chain };

fn scalar_chain(cx: &Cx<'_>, id: NodeId) -> Result<Edit, Refusal> {
    static PATTERN: OnceLock<Pattern> = OnceLock::new();
    let pattern = PATTERN.get_or_init(|| Pattern::new("mul(mul@inner(?x, ?c), ?d)"));
    let &[result] = &cx.node(id).results[..] else { return Err(Refusal::NoMatch) };
    let found = pattern.find_where(cx.graph, result, |m| {
        [m.get("c"), m.get("d")].iter().all(|v| v.is_some_and(|v| cx.splat(v).is_some()))
    });
    let found = found.ok_or(Refusal::NoMatch)?;
    let get = |name| found.get(name).ok_or(Refusal::NoMatch);
    let (x, inner) = (get("x")?, get("inner")?);
    let dtype = cx.dtype(x).filter(|d| d.is_float()).ok_or(Refusal::NoMatch)?;
    crate::rewrite::require(cx.uses.count(inner) == 1, "the inner product is used elsewhere")?;
    let factor = cx.splat(get("c")?).zip(cx.splat(get("d")?)).map(|(c, d)| c * d).ok_or(Refusal::NoMatch)?;
    cx.rewrite(id, |p| {
        let factor = p.scalar(dtype, factor)?;
        Ok(p.ew("mul", &[x, factor])?)
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn identities_parse() {
        assert_eq!(super::identities().len(), super::IDENTITIES.len());
    }
}
