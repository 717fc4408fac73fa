//! Activations that are one row of the elementwise table.

use std::sync::OnceLock;

use kiln_ir::{Build, Edit, NodeId, Op};

use crate::pattern::Pattern;
use crate::rewrite::{Cx, Refusal, Rule, matches};

/// Spellings of each activation of `?x`: row, attributes, pattern. `mul` and `add` of many operands match any
/// bracketing, which covers the orders in which exporters multiply.
const SPELLINGS: &[(&str, &[f64], &str)] = &[
    // GELU with the error function. torch divides by sqrt(2), TorchScript of older torch and keras multiply by its
    // inverse; onnxruntime's optimizer writes x * (0.5 * (1 + erf)), keras 0.5 * x * (1 + erf).
    ("gelu", &[], "mul(?x, 0.5, add(1, erf(div(?x, 1.4142135623730951) | mul(?x, 0.7071067811865476))))"),
    (
        "gelu",
        &[],
        "mul(?x, add(0.5, mul(0.5, erf(div(?x, 1.4142135623730951) | mul(?x, 0.7071067811865476)))))",
    ),
    // GELU with tanh: x + 0.044715 x^3 with the cube as a power, as products, or with x factored out.
    (
        "gelu_tanh",
        &[],
        "mul(?x, 0.5, add(1, tanh(mul(0.7978845608028654, add(?x, mul(0.044715, pow(?x, 3)) \
         | mul(0.044715, ?x, square(?x)) | mul(0.044715, ?x, ?x, ?x))))))",
    ),
    (
        "gelu_tanh",
        &[],
        "mul(?x, 0.5, add(1, tanh(mul(?x, 0.7978845608028654, add(1, mul(0.044715, square(?x)))))))",
    ),
    (
        "gelu_tanh",
        &[],
        "mul(?x, 0.5, add(1, tanh(mul(?x, add(0.7978845608028654, mul(0.035677408136300125, square(?x)))))))",
    ),
    ("silu", &[1.0], "mul(?x, sigmoid(?x))"),
    ("silu", &[1.0], "div(?x, add(1, exp(neg(?x))))"),
    ("sigmoid", &[], "div(1, add(1, exp(neg(?x)))) | reciprocal(add(1, exp(neg(?x))))"),
    ("softplus", &[], "log(add(1, exp(?x))) | log1p(exp(?x))"),
    ("mish", &[], "mul(?x, tanh(softplus(?x)))"),
    ("softsign", &[], "div(?x, add(1, abs(?x)))"),
    // Hard swish over a ReLU of six: clamp, min of relu, relu of min.
    (
        "hard_swish",
        &[],
        "div(mul(?x, clamp(add(?x, 3), 0, 6) | min(relu(add(?x, 3)), 6) | relu(min(add(?x, 3), 6))), 6)",
    ),
    ("hard_swish", &[], "mul(?x, 0.16666666666666666, clamp(add(?x, 3), 0, 6) | min(relu(add(?x, 3)), 6))"),
    ("hard_swish", &[], "mul(?x, div(clamp(add(?x, 3), 0, 6) | min(relu(add(?x, 3)), 6), 6))"),
    (
        "hard_sigmoid",
        &[1.0 / 6.0, 0.5],
        "div(clamp(add(?x, 3), 0, 6) | min(relu(add(?x, 3)), 6) | relu(min(add(?x, 3), 6)), 6)",
    ),
];

struct Spelling {
    row: &'static str,
    attrs: &'static [f64],
    pattern: Pattern,
}

fn spellings() -> &'static [Spelling] {
    static PARSED: OnceLock<Vec<Spelling>> = OnceLock::new();
    PARSED.get_or_init(|| {
        let parse = |&(row, attrs, text): &(_, _, _)| Spelling { row, attrs, pattern: Pattern::new(text) };
        SPELLINGS.iter().map(parse).collect()
    })
}

/// Replaces a spelling by its row.
pub(super) const ACTIVATION: Rule = Rule { name: "activation", apply: activation };

fn activation(cx: &Cx<'_>, id: NodeId) -> Result<Edit, Refusal> {
    let node = cx.node(id);
    matches(matches!(node.op, Op::Elementwise(_)))?;
    let &[result] = &node.results[..] else { return Err(Refusal::NoMatch) };
    for s in spellings() {
        let Some(x) = s.pattern.find(cx.graph, result).and_then(|m| m.get("x")) else { continue };
        return cx.rewrite(id, |p| Ok(p.ew_with(s.row, s.attrs, &[x])?));
    }
    Err(Refusal::NoMatch)
}

/// `x * sigmoid(c * x)` is SiLU with `alpha = c`, and `x * hard_sigmoid(x)` with slope 1/6 is hard swish.
pub(super) const SCALED_SILU: Rule = Rule { name: "scaled-silu", apply: scaled_silu };

fn scaled_silu(cx: &Cx<'_>, id: NodeId) -> Result<Edit, Refusal> {
    static PATTERNS: OnceLock<[Pattern; 2]> = OnceLock::new();
    let [silu, swish] = PATTERNS
        .get_or_init(|| ["mul(?x, sigmoid(mul(?x, ?c)))", "mul(?x, hard_sigmoid@h(?x))"].map(Pattern::new));
    let &[result] = &cx.node(id).results[..] else { return Err(Refusal::NoMatch) };
    if let Some(m) = silu.find_where(cx.graph, result, |m| m.get("c").is_some_and(|c| cx.splat(c).is_some()))
    {
        let (x, c) = m.get("x").zip(m.get("c")).ok_or(Refusal::NoMatch)?;
        let alpha = cx.splat(c).ok_or(Refusal::NoMatch)?;
        return cx.rewrite(id, |p| Ok(p.ew_with("silu", &[alpha], &[x])?));
    }
    let m = swish.find(cx.graph, result).ok_or(Refusal::NoMatch)?;
    let (x, h) = m.get("x").zip(m.get("h")).ok_or(Refusal::NoMatch)?;
    let Some((_, node)) = cx.def(h) else { return Err(Refusal::NoMatch) };
    let Op::Elementwise(e) = &node.op else { return Err(Refusal::NoMatch) };
    let [alpha, beta] = e.attrs[..] else { return Err(Refusal::NoMatch) };
    let standard = (alpha.get() - 1.0 / 6.0).abs() < 1e-6 && beta.get() == 0.5;
    crate::rewrite::require(standard, format!("the slope is {} and not 1/6", alpha.get()))?;
    cx.rewrite(id, |p| Ok(p.ew("hard_swish", &[x])?))
}

#[cfg(test)]
mod tests {
    #[test]
    fn spellings_parse() {
        assert_eq!(super::spellings().len(), super::SPELLINGS.len());
    }
}
