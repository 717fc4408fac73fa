//! Schemas of operators: names, types and defaults of their arguments, as PyTorch's registry prints them.
//!
//! `schemas.txt` beside this file has them, written by `xtask/py/aten/schemas.py`. They are sorted by name and parsed
//! when an operator is first called.

use std::sync::OnceLock;

use kiln_ir::Dim;
use rustc_hash::FxHashMap;

use super::arg::Arg;

/// What an argument may be.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kind {
    /// A tensor.
    Tensor,
    /// A number of any kind.
    Number,
    /// An integer.
    Int,
    /// A float.
    Float,
    /// A truth value.
    Bool,
    /// Text.
    Str,
    /// An element type.
    DType,
    /// Device, layout, memory format, generator.
    Ignored,
    /// A type variable, or anything at all.
    Any,
    /// A list; one element may stand for a list of this length if that is given.
    List(Box<Kind>, Option<usize>),
    /// The same, or nothing.
    Optional(Box<Kind>),
}

/// One argument.
#[derive(Clone, Debug)]
pub(crate) struct Param {
    /// Name.
    pub name: &'static str,
    /// Type.
    pub kind: Kind,
    /// Value if it is left out.
    pub default: Option<Arg>,
    /// Whether it is given by name only.
    pub keyword: bool,
}

/// One overload of an operator.
#[derive(Clone, Debug)]
pub(crate) struct Schema {
    /// Name of the overload; empty for the default one.
    pub overload: &'static str,
    /// Arguments.
    pub params: Vec<Param>,
}

const TEXT: &str = include_str!("schemas.txt");

/// The lines of every name.
fn lines() -> &'static FxHashMap<&'static str, Vec<&'static str>> {
    static LINES: OnceLock<FxHashMap<&'static str, Vec<&'static str>>> = OnceLock::new();
    LINES.get_or_init(|| {
        let mut map: FxHashMap<&'static str, Vec<&'static str>> = FxHashMap::default();
        for line in TEXT.lines() {
            let name = line.split(['.', '(']).next().unwrap_or(line);
            map.entry(name).or_default().push(line);
        }
        map
    })
}

/// The overloads of `aten::name`; none if torch has no such operator.
pub(crate) fn overloads(name: &str) -> Vec<Schema> {
    lines().get(name).into_iter().flatten().filter_map(|line| parse(line)).collect()
}

/// Whether torch has an operator of that name.
pub(crate) fn is_known(name: &str) -> bool {
    lines().contains_key(name)
}

/// Parses `aten::name.overload(Tensor self, int dim=0, *, bool flag=False) -> Tensor`.
pub(crate) fn parse(text: &'static str) -> Option<Schema> {
    let (head, rest) = text.split_once('(')?;
    let end = closing(rest)?;
    let overload = head.split_once('.').map_or("", |(_, overload)| overload);
    let mut params = vec![];
    let mut keyword = false;
    for part in split(rest.get(..end)?) {
        if part == "*" {
            keyword = true;
            continue;
        }
        let (declared, default) = match part.split_once('=') {
            Some((declared, default)) => (declared, Some(default)),
            None => (part, None),
        };
        let (ty, name) = declared.rsplit_once(' ')?;
        let default = default.map(literal).map_or(Some(None), |d| d.map(Some))?;
        params.push(Param { name, kind: kind(ty)?, default, keyword });
    }
    Some(Schema { overload, params })
}

/// Where the parenthesis closes that opened before `text`.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0usize;
    for (i, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' if depth == 0 => return Some(i),
            ')' => depth -= 1,
            _ => {}
        }
    }
    None
}

/// Parts between commas outside of brackets and quotes.
fn split(text: &'static str) -> Vec<&'static str> {
    let (mut parts, mut depth, mut quoted, mut start) = (vec![], 0usize, false, 0);
    for (i, c) in text.char_indices() {
        match c {
            '"' => quoted = !quoted,
            '(' | '[' => depth += 1,
            ')' | ']' => depth = depth.saturating_sub(1),
            ',' if depth == 0 && !quoted => {
                parts.extend(text.get(start..i).map(str::trim));
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.extend(text.get(start..).map(str::trim).filter(|rest| !rest.is_empty()));
    parts
}

fn kind(text: &str) -> Option<Kind> {
    if let Some(inner) = text.strip_suffix('?') {
        return Some(Kind::Optional(Box::new(kind(inner)?)));
    }
    if let Some(inner) = text.strip_suffix(']') {
        let (element, size) = inner.rsplit_once('[')?;
        let size = if size.is_empty() { None } else { Some(size.parse().ok()?) };
        return Some(Kind::List(Box::new(kind(element)?), size));
    }
    // `Tensor(a -> *)`: what the argument shares memory with is told by names of variables.
    if let Some((name, _)) = text.split_once('(').filter(|(name, _)| !name.is_empty()) {
        let rest = text.rsplit_once(')').map_or("", |(_, rest)| rest);
        return kind(&format!("{name}{rest}"));
    }
    Some(match text {
        "Tensor" => Kind::Tensor,
        "Scalar" | "number" => Kind::Number,
        "int" | "SymInt" => Kind::Int,
        "float" | "SymFloat" => Kind::Float,
        "bool" | "SymBool" => Kind::Bool,
        "str" => Kind::Str,
        "ScalarType" => Kind::DType,
        "Device" | "Layout" | "MemoryFormat" | "Generator" | "Stream" | "QScheme" | "DeviceIndex"
        | "Storage" => Kind::Ignored,
        _ => Kind::Any,
    })
}

/// A default value.
fn literal(text: &str) -> Option<Arg> {
    Some(match text {
        "None" => Arg::None,
        "True" => Arg::Bool(true),
        "False" => Arg::Bool(false),
        _ => {
            if let Some(inner) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
                let parts = inner.split(',').map(str::trim).filter(|part| !part.is_empty());
                return parts.map(literal).collect::<Option<Vec<_>>>().map(Arg::List);
            }
            if let Some(inner) = text.strip_prefix('"').and_then(|t| t.strip_suffix('"')) {
                return Some(Arg::Str(inner.to_owned()));
            }
            match text.parse::<i64>() {
                Ok(value) => Arg::Int(Dim::known(value)),
                Err(_) => match text.parse::<f64>() {
                    Ok(value) => Arg::Float(value),
                    Err(_) => Arg::Ignored,
                },
            }
        }
    })
}

/// How well an argument fits a type: exactly, by a conversion that PyTorch makes, or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fit {
    /// Not at all.
    No,
    /// By a conversion.
    Converted,
    /// As it is.
    Exact,
}

/// How an argument fits. `wide` tells whether a rank-0 tensor value is a float, for numbers of run time.
pub(crate) fn fit(arg: &Arg, kind: &Kind, wide: &dyn Fn(kiln_ir::Value) -> kiln_ir::DType) -> Fit {
    let scalar = |arg: &Arg| match arg {
        Arg::Scalar(v) => Some(wide(*v)),
        _ => None,
    };
    match (kind, arg) {
        (Kind::Optional(_), Arg::None) | (Kind::Any, _) => Fit::Exact,
        (Kind::Optional(inner), arg) => fit(arg, inner, wide),
        (Kind::Tensor, Arg::Tensor(_)) => Fit::Exact,
        (Kind::Tensor, Arg::Int(_) | Arg::Float(_) | Arg::Bool(_) | Arg::Scalar(_)) => Fit::Converted,
        (Kind::Number, Arg::Int(_) | Arg::Float(_) | Arg::Bool(_) | Arg::Scalar(_)) => Fit::Exact,
        (Kind::Int, Arg::Int(_)) => Fit::Exact,
        (Kind::Int, Arg::Bool(_) | Arg::DType(_)) => Fit::Converted,
        (Kind::Float, Arg::Float(_)) => Fit::Exact,
        (Kind::Float, Arg::Int(_)) => Fit::Converted,
        (Kind::Bool, Arg::Bool(_)) => Fit::Exact,
        (Kind::Bool, Arg::Int(_)) => Fit::Converted,
        (Kind::Int | Kind::Float | Kind::Bool, Arg::Scalar(_)) => {
            let dtype = scalar(arg);
            let own = match kind {
                Kind::Int => dtype.is_some_and(|d| d.is_int()),
                Kind::Float => dtype.is_some_and(|d| d.is_float()),
                _ => dtype == Some(kiln_ir::DType::Bool),
            };
            if own { Fit::Exact } else { Fit::No }
        }
        (Kind::Int | Kind::Number, Arg::Tensor(_)) => Fit::Converted,
        (Kind::Str, Arg::Str(_)) | (Kind::DType, Arg::DType(_)) | (Kind::Ignored, Arg::Ignored) => Fit::Exact,
        (Kind::DType, Arg::Int(_)) | (Kind::Ignored, Arg::Str(_) | Arg::Int(_) | Arg::None) => Fit::Converted,
        (Kind::List(inner, _), Arg::List(items)) => {
            items.iter().map(|item| fit(item, inner, wide)).min().unwrap_or(Fit::Exact)
        }
        (Kind::List(inner, Some(_)), arg) if fit(arg, inner, wide) == Fit::Exact => Fit::Converted,
        _ => Fit::No,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_schema_parses() {
        for line in TEXT.lines() {
            assert!(parse(line).is_some(), "{line}");
        }
        assert!(TEXT.lines().count() > 1500);
    }

    #[test]
    fn names_types_and_defaults() {
        let all = overloads("aten::conv2d");
        let schema = all.iter().find(|s| s.overload.is_empty()).unwrap();
        let names: Vec<_> = schema.params.iter().map(|p| p.name).collect();
        assert_eq!(names, ["input", "weight", "bias", "stride", "padding", "dilation", "groups"]);
        let stride = &schema.params[3];
        assert_eq!(stride.kind, Kind::List(Box::new(Kind::Int), Some(2)));
        assert_eq!(stride.default, Some(Arg::List(vec![Arg::int(1), Arg::int(1)])));
        assert_eq!(schema.params[2].kind, Kind::Optional(Box::new(Kind::Tensor)));
        let gelu = overloads("aten::gelu").remove(0);
        assert!(gelu.params[1].keyword);
        assert_eq!(gelu.params[1].default, Some(Arg::Str("none".to_owned())));
        let split = overloads("aten::split").into_iter().find(|s| s.overload == "Tensor").unwrap();
        assert_eq!(split.params[0].kind, Kind::Tensor);
        assert!(overloads("aten::no_such_operator").is_empty());
    }

    #[test]
    fn text_that_is_no_schema() {
        for text in ["", "aten::x", "aten::x(", "aten::x(Tensor", "aten::x(Tensor)", "aten::x(int[q] a)"] {
            assert!(parse(text).is_none(), "{text}");
        }
    }
}
