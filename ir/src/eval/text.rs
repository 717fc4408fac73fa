//! Strings.

use crate::op::TextCase;
use crate::{DClass, DType, Scalar, Tensor};

use super::cx::Cx;
use super::elementwise::convert;
use super::fault::{Fault, invalid};
use super::lanes::Lanes;
use super::walk::{Walk, broadcast_dims, broadcast_strides};

/// The strings of a tensor.
pub(super) fn strings(t: &Tensor) -> Result<&[String], Fault> {
    match t.dtype() {
        DType::String => Ok(t.as_strings()),
        other => invalid(format!("a tensor of {other} where strings are needed")),
    }
}

/// Combines two broadcast operands element by element.
fn zip<T>(
    cx: &mut Cx<'_>,
    a: &Tensor,
    b: &Tensor,
    each: impl Fn(&str, &str) -> T,
) -> Result<(Vec<usize>, Vec<T>), Fault> {
    let dims = broadcast_dims(&[a.dims(), b.dims()])?;
    cx.admit(DType::String, &dims)?;
    let (x, y) = (strings(a)?, strings(b)?);
    let left = Walk::new(&dims, &broadcast_strides(a.dims(), &dims)?, 0);
    let right = Walk::new(&dims, &broadcast_strides(b.dims(), &dims)?, 0);
    let mut total = 0u64;
    let mut out = vec![];
    for (i, j) in left.zip(right) {
        total = total.saturating_add((x[i].len() + y[j].len()) as u64);
        if total > cx.limits.max_bytes {
            return Err(Fault::TooLarge { dtype: DType::String, dims, limit: cx.limits.max_bytes });
        }
        out.push(each(&x[i], &y[j]));
    }
    Ok((dims, out))
}

/// Elementwise concatenation.
pub(super) fn concat(cx: &mut Cx<'_>, a: &Tensor, b: &Tensor) -> Result<Tensor, Fault> {
    let (dims, out) = zip(cx, a, b, |x, y| format!("{x}{y}"))?;
    Ok(Tensor::strings(&dims, out)?)
}

/// Elementwise equality.
pub(super) fn equal(cx: &mut Cx<'_>, a: &Tensor, b: &Tensor) -> Result<Tensor, Fault> {
    let (dims, out) = zip(cx, a, b, |x, y| x == y)?;
    Ok(Tensor::from_bools(&dims, &out)?)
}

/// Characters `start..end` of each string, as Python slices text.
pub(super) fn slice(
    cx: &mut Cx<'_>,
    x: &Tensor,
    start: Option<i64>,
    end: Option<i64>,
) -> Result<Tensor, Fault> {
    cx.admit(DType::String, x.dims())?;
    let part = |text: &String| {
        let length = i64::try_from(text.chars().count()).unwrap_or(i64::MAX);
        let place = |at: i64| if at < 0 { at.saturating_add(length).max(0) } else { at.min(length) };
        let (from, to) = (place(start.unwrap_or(0)), place(end.unwrap_or(length)));
        let count = usize::try_from(to - from).unwrap_or(0);
        text.chars().skip(usize::try_from(from).unwrap_or(0)).take(count).collect()
    };
    let parts = strings(x)?.iter().map(part).collect();
    Ok(Tensor::strings(x.dims(), parts)?)
}

/// A message with operands in place of its `{}`.
pub(super) fn fill(message: &str, operands: &[&Tensor]) -> String {
    let mut out = String::new();
    let mut rest = message;
    for operand in operands {
        let Some((before, after)) = rest.split_once("{}") else { break };
        out.push_str(before);
        out.push_str(&spelled(operand));
        rest = after;
    }
    out.push_str(rest);
    out
}

/// Most elements that a message spells out.
const MOST_SPELLED: usize = 64;

/// A tensor's only element as Python writes it, or a list of them.
fn spelled(t: &Tensor) -> String {
    let one = |i: usize| match t.dtype() {
        DType::String => t.as_strings().get(i).cloned().unwrap_or_default(),
        dtype => t.element(i).map(|v| print(v, dtype)).unwrap_or_default(),
    };
    if t.dims().is_empty() {
        return one(0);
    }
    let items: Vec<String> = (0..t.numel().min(MOST_SPELLED)).map(one).collect();
    let more = if t.numel() > MOST_SPELLED { ", ..." } else { "" };
    format!("[{}{more}]", items.join(", "))
}

/// Pieces of each string, filled up with empty ones, and their number.
pub(super) fn split(
    cx: &mut Cx<'_>,
    x: &Tensor,
    delimiter: &str,
    max_splits: Option<i64>,
) -> Result<Vec<Tensor>, Fault> {
    let most = max_splits.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
    let pieces: Vec<Vec<&str>> = strings(x)?
        .iter()
        .map(|text| match delimiter {
            "" => split_whitespace(text, most),
            _ => text.splitn(most.saturating_add(1), delimiter).collect(),
        })
        .collect();
    let width = pieces.iter().map(Vec::len).max().unwrap_or(0);
    let dims = [x.dims(), &[width]].concat();
    cx.admit(DType::String, &dims)?;
    let counts: Vec<i64> = pieces.iter().map(|p| p.len() as i64).collect();
    let filled =
        |p: &Vec<&str>| (0..width).map(|i| p.get(i).copied().unwrap_or("").to_owned()).collect::<Vec<_>>();
    let words = pieces.iter().flat_map(filled).collect();
    Ok(vec![Tensor::strings(&dims, words)?, Tensor::from_slice(x.dims(), &counts)?])
}

/// Words between runs of whitespace; after `most` of them the rest is one piece.
fn split_whitespace(text: &str, most: usize) -> Vec<&str> {
    let mut out = vec![];
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let end = if out.len() >= most { None } else { rest.find(char::is_whitespace) };
        let (word, tail) = rest.split_at(end.unwrap_or(rest.len()));
        out.push(word);
        rest = tail.trim_start();
    }
    out
}

/// Whether each string matches the pattern from start to end.
pub(super) fn full_match(cx: &mut Cx<'_>, x: &Tensor, pattern: &str) -> Result<Tensor, Fault> {
    cx.admit(DType::Bool, x.dims())?;
    let whole = regex::Regex::new(&format!("^(?:{pattern})$"));
    let regex = whole.or_else(|e| invalid(format!("the pattern {pattern:?}: {e}")))?;
    let mut out = vec![];
    for text in strings(x)? {
        cx.tick(text.len())?;
        out.push(regex.is_match(text));
    }
    Ok(Tensor::from_bools(x.dims(), &out)?)
}

/// The words that are no stopwords, in another case.
pub(super) fn normalize(
    cx: &mut Cx<'_>,
    x: &Tensor,
    case: TextCase,
    case_sensitive: bool,
    stopwords: &[String],
) -> Result<Tensor, Fault> {
    if !matches!(x.dims(), [_] | [1, _]) {
        return invalid(format!("x {:?}", x.dims()));
    }
    let same = |a: &str, b: &str| if case_sensitive { a == b } else { a.to_lowercase() == b.to_lowercase() };
    let mut words = vec![];
    for word in strings(x)? {
        cx.tick(stopwords.len())?;
        if stopwords.iter().any(|stop| same(stop, word)) {
            continue;
        }
        words.push(match case {
            TextCase::Keep => word.clone(),
            TextCase::Lower => word.to_lowercase(),
            TextCase::Upper => word.to_uppercase(),
        });
    }
    if words.is_empty() {
        words.push(String::new());
    }
    let mut dims = x.dims().to_vec();
    if let Some(last) = dims.last_mut() {
        *last = words.len();
    }
    Ok(Tensor::strings(&dims, words)?)
}

/// Numbers to text or text to numbers.
pub(super) fn cast(cx: &mut Cx<'_>, x: &Tensor, to: DType) -> Result<Tensor, Fault> {
    cx.admit(to, x.dims())?;
    match (x.dtype().class(), to.class()) {
        (DClass::Text, DClass::Text) => Ok(x.clone()),
        (DClass::Text, DClass::Complex) | (DClass::Complex, _) => {
            invalid(format!("does not convert {} to {to}", x.dtype()))
        }
        (DClass::Text, _) => {
            let mut values: Vec<u64> = Vec::with_capacity(x.numel());
            for text in x.as_strings() {
                values.push(convert(parse(text, to)?, to, false));
            }
            // The lanes carry the finished bits.
            let lanes = Lanes::I(values.into_iter().map(i128::from).collect());
            lanes.encode_with(to, x.dims(), |v| match v {
                Scalar::I(bits) => bits as u64,
                Scalar::F(_) | Scalar::B(_) => 0,
            })
        }
        (_, DClass::Text) => {
            let values = Lanes::decode(x)?;
            let texts = (0..values.len()).map(|i| print(values.get(i), x.dtype())).collect();
            Ok(Tensor::strings(x.dims(), texts)?)
        }
        _ => invalid(format!("neither {} nor {to} is text", x.dtype())),
    }
}

/// The number that a text means: decimal, with exponent, or a name of NaN or infinity in any case.
fn parse(text: &str, to: DType) -> Result<Scalar, Fault> {
    let text = text.trim();
    if to.is_int()
        && let Ok(v) = text.parse::<i128>()
    {
        return Ok(Scalar::I(v));
    }
    if to == DType::Bool {
        match text.to_ascii_lowercase().as_str() {
            "true" => return Ok(Scalar::B(true)),
            "false" => return Ok(Scalar::B(false)),
            _ => {}
        }
    }
    match text.parse::<f64>() {
        Ok(v) => Ok(Scalar::F(v)),
        Err(_) => invalid(format!("{text:?} is not a number")),
    }
}

/// A number as NumPy prints it: shortest digits that round-trip in the dtype, scientific beyond 1e16 and below 1e-4.
fn print(value: Scalar, dtype: DType) -> String {
    let v = match value {
        Scalar::I(v) => return v.to_string(),
        Scalar::B(v) => return if v { "True" } else { "False" }.to_owned(),
        Scalar::F(v) => v,
    };
    if v.is_nan() {
        return "NaN".to_owned();
    }
    if v.is_infinite() {
        return if v > 0.0 { "INF" } else { "-INF" }.to_owned();
    }
    let scientific = shortest(v, dtype);
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if v != 0.0 && !(-4..16).contains(&exponent) {
        return format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs());
    }
    // The shortest digits, placed: parsing them gives a double whose own shortest form they are.
    let plain = scientific.parse::<f64>().unwrap_or(v).to_string();
    if plain.contains('.') { plain } else { format!("{plain}.0") }
}

/// The fewest digits that mean `v` in `dtype`, in scientific notation.
fn shortest(v: f64, dtype: DType) -> String {
    match dtype {
        DType::F64 => format!("{v:e}"),
        DType::F32 => format!("{:e}", v as f32),
        _ => {
            let bits = crate::float::encode(dtype, v, false);
            let same =
                |s: &String| s.parse::<f64>().is_ok_and(|p| crate::float::encode(dtype, p, false) == bits);
            (0..17).map(|n| format!("{v:.n$e}")).find(same).unwrap_or_else(|| format!("{v:e}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_print_as_numpy_prints_them() {
        let cases = [
            (0.1, DType::F32, "0.1"),
            (3.0, DType::F32, "3.0"),
            (1e16, DType::F64, "1e+16"),
            (1.5e-5, DType::F64, "1.5e-05"),
            (123456.0, DType::F64, "123456.0"),
            (0.0, DType::F32, "0.0"),
            (0.099975586, DType::F16, "0.1"),
            (f64::NAN, DType::F32, "NaN"),
        ];
        for (v, d, text) in cases {
            assert_eq!(print(Scalar::F(v), d), text);
        }
        assert_eq!(print(Scalar::F(f64::from(0.1f32)), DType::F32), "0.1");
        assert_eq!(print(Scalar::I(-7), DType::I8), "-7");
    }

    #[test]
    fn texts_parse_as_numbers() {
        assert_eq!(parse(" 1e-3", DType::F32), Ok(Scalar::F(0.001)));
        assert_eq!(parse("-INF", DType::F32), Ok(Scalar::F(f64::NEG_INFINITY)));
        assert_eq!(parse("18446744073709551615", DType::U64), Ok(Scalar::I(u64::MAX.into())));
        assert!(parse("one", DType::F32).is_err());
    }
}
