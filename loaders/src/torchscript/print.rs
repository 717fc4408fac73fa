//! Prints trees of the source, in the form that the parser reads.

use super::ast::{Block, Expr, Stmt, StmtKind};

/// The statements as source.
pub(crate) fn print(body: &[Stmt]) -> String {
    let mut out = String::new();
    block(&mut out, body, 0);
    out
}

fn block(out: &mut String, body: &[Stmt], depth: usize) {
    if body.is_empty() {
        line(out, depth, "pass");
    }
    for stmt in body {
        statement(out, &stmt.kind, depth);
    }
}

fn line(out: &mut String, depth: usize, text: &str) {
    out.push_str(&"  ".repeat(depth));
    out.push_str(text);
    out.push('\n');
}

fn nested(out: &mut String, depth: usize, head: &str, body: &Block) {
    line(out, depth, head);
    block(out, body, depth + 1);
}

fn statement(out: &mut String, kind: &StmtKind, depth: usize) {
    match kind {
        StmtKind::Assign { targets, unpack, annotation, values } => {
            let comma = if *unpack { "," } else { "" };
            let ty = annotation.as_ref().map(|t| format!(" : {}", expr(t))).unwrap_or_default();
            line(out, depth, &format!("{}{comma}{ty} = {}", list(targets), list(values)));
        }
        StmtKind::Declare(target, ty) => line(out, depth, &format!("{} : {}", expr(target), expr(ty))),
        StmtKind::Expr(e) => line(out, depth, &expr(e)),
        StmtKind::If(condition, then, otherwise) => {
            nested(out, depth, &format!("if {}:", expr(condition)), then);
            if !otherwise.is_empty() {
                nested(out, depth, "else:", otherwise);
            }
        }
        StmtKind::For(target, iterable, body) => {
            nested(out, depth, &format!("for {} in {}:", expr(target), expr(iterable)), body);
        }
        StmtKind::While(condition, body) => nested(out, depth, &format!("while {}:", expr(condition)), body),
        StmtKind::With(value, name, body) => {
            let name = name.as_ref().map(|n| format!(" as {n}")).unwrap_or_default();
            nested(out, depth, &format!("with {}{name}:", expr(value)), body);
        }
        StmtKind::Return(value) => line(out, depth, &format!("return {}", expr(value))),
        StmtKind::Raise(value) => {
            let value = value.as_ref().map(|v| format!(" {}", expr(v))).unwrap_or_default();
            line(out, depth, &format!("raise{value}"));
        }
        StmtKind::Assert(condition, message) => {
            let message = message.as_ref().map(|m| format!(", {}", expr(m))).unwrap_or_default();
            line(out, depth, &format!("assert {}{message}", expr(condition)));
        }
        StmtKind::Pass => line(out, depth, "pass"),
        StmtKind::Delete(target) => line(out, depth, &format!("del {}", expr(target))),
        StmtKind::Def(f) => {
            let params: Vec<String> = f
                .params
                .iter()
                .map(|p| {
                    let ty = p.ty.as_ref().map(|t| format!(": {}", expr(t))).unwrap_or_default();
                    let default = p.default.as_ref().map(|d| format!("={}", expr(d))).unwrap_or_default();
                    format!("{}{ty}{default}", p.name)
                })
                .collect();
            let returns = f.returns.as_ref().map(|r| format!(" -> {}", expr(r))).unwrap_or_default();
            nested(out, depth, &format!("def {}({}){returns}:", f.name, params.join(", ")), &f.body);
        }
        StmtKind::Class(c) => {
            let base = c.base.as_ref().map(|b| format!("({})", expr(b))).unwrap_or_default();
            nested(out, depth, &format!("class {}{base}:", c.name), &c.body);
        }
    }
}

fn list(items: &[Expr]) -> String {
    items.iter().map(expr).collect::<Vec<_>>().join(", ")
}

/// An expression as source.
pub(crate) fn expr(e: &Expr) -> String {
    match e {
        Expr::Name(name) => name.to_string(),
        Expr::Attr(value, name) => format!("{}.{name}", inner(value)),
        Expr::Call(call) => {
            let args = call.args.iter().map(expr);
            let kwargs = call.kwargs.iter().map(|(name, value)| format!("{name}={}", expr(value)));
            format!("{}({})", inner(&call.callee), args.chain(kwargs).collect::<Vec<_>>().join(", "))
        }
        Expr::Index(value, index) => match &**index {
            Expr::Tuple(items) if !items.is_empty() => format!("{}[{}]", inner(value), list(items)),
            index => format!("{}[{}]", inner(value), expr(index)),
        },
        Expr::Slice(value, parts) => {
            let parts: Vec<String> = parts.iter().map(|p| p.as_ref().map(expr).unwrap_or_default()).collect();
            format!("{}[{}]", inner(value), parts.join(":"))
        }
        Expr::Int(n) => n.to_string(),
        Expr::Float(x) if x.is_finite() => format!("{x:?}"),
        Expr::Float(x) if x.is_nan() => "nan".to_owned(),
        Expr::Float(x) => if *x > 0.0 { "inf" } else { "-inf" }.to_owned(),
        Expr::Imaginary(x) => format!("{x:?}j"),
        Expr::Str(text) => quoted(text),
        Expr::Bool(b) => if *b { "True" } else { "False" }.to_owned(),
        Expr::None => "None".to_owned(),
        Expr::List(items) => format!("[{}]", list(items)),
        Expr::Tuple(items) => match &**items {
            [one] => format!("({},)", expr(one)),
            items => format!("({})", list(items)),
        },
        Expr::Dict(pairs) => {
            let pairs: Vec<String> = pairs.iter().map(|(k, v)| format!("{}: {}", expr(k), expr(v))).collect();
            format!("{{{}}}", pairs.join(", "))
        }
        Expr::Ternary(parts) => {
            let [condition, a, b] = &**parts;
            format!("({} if {} else {})", expr(a), expr(condition), expr(b))
        }
        Expr::Logic { and, operands } => {
            let [a, b] = &**operands;
            format!("({} {} {})", expr(a), if *and { "and" } else { "or" }, expr(b))
        }
        Expr::Operator(name, operands) => format!("torch.{name}({})", list(operands)),
    }
}

/// An expression in front of a dot or bracket.
fn inner(e: &Expr) -> String {
    match e {
        Expr::Name(_) | Expr::Attr(..) | Expr::Index(..) | Expr::Call(_) => expr(e),
        _ => format!("({})", expr(e)),
    }
}

fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for b in text.bytes() {
        match b {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            b'\n' => out.push_str("\\n"),
            0x20..=0x7e => out.push(char::from(b)),
            _ => out.push_str(&format!("\\x{b:02x}")),
        }
    }
    out.push('"');
    out
}
