//! Text: formatting as TorchScript does it, and the methods of `str`.

use std::fmt::Write as _;

use super::ast::Name;
use super::fault::{Fault, Res};
use super::value::{Cell, ListCell, State, Val};

/// Longest text that the program may make.
const MAX_TEXT: usize = 1 << 20;

/// Most pieces that text may be split to.
const MAX_PIECES: usize = 1 << 16;

/// Text that is not too long.
pub(crate) fn bounded(text: String) -> Res<Val> {
    if text.len() > MAX_TEXT {
        return Err(Fault::Limit { what: "length of a text".to_owned(), limit: MAX_TEXT });
    }
    Ok(Val::text(text))
}

/// A float as C++ streams of TorchScript write it: integers with a point, others with 17 significant digits.
pub(crate) fn float(x: f64) -> String {
    if x.is_nan() {
        return "nan".to_owned();
    }
    if x.is_infinite() {
        return if x > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    if x.abs() < 1e10 && x.fract() == 0.0 {
        return format!("{x:.0}.");
    }
    // As `%.17g`.
    let scientific = format!("{x:.16e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let trimmed = |s: &str| match s.contains('.') {
        true => s.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => s.to_owned(),
    };
    if (-5..17).contains(&exponent) {
        let places = usize::try_from(16 - exponent).unwrap_or(0);
        return trimmed(&format!("{x:.places$}"));
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{}e{sign}{:02}", trimmed(digits), exponent.abs())
}

/// Parts of a message that show at run time.
#[derive(Default)]
pub(crate) struct Parts {
    /// The text, with `{}` for each part.
    pub text: String,
    /// The parts.
    pub values: Vec<Val>,
}

impl Parts {
    /// The text, or the message if it has parts.
    pub fn finish(self) -> Res<Val> {
        if self.values.is_empty() {
            return bounded(self.text);
        }
        if self.text.len() > MAX_TEXT {
            return Err(Fault::Limit { what: "length of a text".to_owned(), limit: MAX_TEXT });
        }
        Ok(Val::Message(self.text.into(), self.values.into()))
    }

    /// Writes a value as `str` does.
    pub fn write(&mut self, st: &State, v: &Val, depth: usize) -> Res<()> {
        if depth > 16 || self.text.len() > MAX_TEXT {
            return Err(Fault::Limit { what: "length of a text".to_owned(), limit: MAX_TEXT });
        }
        match v {
            Val::None => self.text.push_str("None"),
            Val::Bool(b) => self.text.push_str(if *b { "True" } else { "False" }),
            Val::Int(n) => {
                let _ = write!(self.text, "{n}");
            }
            Val::Float(x) => self.text.push_str(&float(*x)),
            Val::Str(s) | Val::Device(s) => self.text.push_str(s),
            Val::Member(class, name, _) => {
                let _ = write!(self.text, "{class}.{name}");
            }
            Val::Dim(_) | Val::Num(..) => {
                self.text.push_str("{}");
                self.values.push(v.clone());
            }
            Val::Message(text, parts) => {
                self.text.push_str(text);
                self.values.extend(parts.iter().cloned());
            }
            Val::Tuple(items, _) => self.all(st, items, "(", ")", depth)?,
            Val::List(r) => match st.cell(*r) {
                Some(Cell::List(ListCell::Items(items))) => self.all(st, items, "[", "]", depth)?,
                _ => self.text.push_str("[...]"),
            },
            Val::Dict(r) => {
                let Some(Cell::Dict(pairs)) = st.cell(*r) else { return Err(Fault::invalid("no such dict")) };
                self.text.push('{');
                for (i, (key, value)) in pairs.iter().enumerate() {
                    if i > 0 {
                        self.text.push_str(", ");
                    }
                    self.write(st, key, depth + 1)?;
                    self.text.push_str(": ");
                    self.write(st, value, depth + 1)?;
                }
                self.text.push('}');
            }
            other => {
                let _ = write!(self.text, "<{}>", other.kind());
            }
        }
        Ok(())
    }

    fn all(&mut self, st: &State, items: &[Val], open: &str, close: &str, depth: usize) -> Res<()> {
        self.text.push_str(open);
        for (i, item) in items.iter().enumerate() {
            if i > 0 {
                self.text.push_str(", ");
            }
            self.write(st, item, depth + 1)?;
        }
        self.text.push_str(close);
        Ok(())
    }
}

/// `template.format(values)`.
pub(crate) fn format(st: &State, template: &str, values: &[Val]) -> Res<Val> {
    let mut parts = Parts::default();
    let mut rest = template;
    let mut values = values.iter();
    while let Some((before, after)) = rest.split_once("{}") {
        parts.text.push_str(before);
        match values.next() {
            Some(v) => parts.write(st, v, 0)?,
            None => return Err(Fault::invalid("a format has fewer values than places")),
        }
        rest = after;
    }
    parts.text.push_str(rest);
    parts.finish()
}

/// `template % values`.
pub(crate) fn percent(st: &State, template: &str, values: &[Val]) -> Res<Val> {
    let mut parts = Parts::default();
    let mut values = values.iter();
    let mut chars = template.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            parts.text.push(c);
            continue;
        }
        match chars.next() {
            Some('%') => parts.text.push('%'),
            Some(code @ ('s' | 'r' | 'd' | 'i' | 'g' | 'f' | 'e')) => {
                let v =
                    values.next().ok_or_else(|| Fault::invalid("a format has fewer values than places"))?;
                match (code, v) {
                    ('d' | 'i', Val::Float(x)) => parts.text.push_str(&format!("{:.0}", x.trunc())),
                    ('f', Val::Float(x)) => parts.text.push_str(&format!("{x:.6}")),
                    ('f', Val::Int(n)) => parts.text.push_str(&format!("{n}.000000")),
                    _ => parts.write(st, v, 0)?,
                }
            }
            _ => return Err(Fault::unsupported(format!("the format {template:.100?}"))),
        }
    }
    parts.finish()
}

/// The characters of a slice, as Python has it.
pub(crate) fn slice(text: &str, start: Option<i64>, end: Option<i64>, step: i64) -> Res<Val> {
    let chars: Vec<char> = text.chars().collect();
    let picked = positions(chars.len(), start, end, step)?;
    bounded(picked.into_iter().filter_map(|i| chars.get(i)).collect())
}

/// The positions of a slice of so many elements.
pub(crate) fn positions(length: usize, start: Option<i64>, end: Option<i64>, step: i64) -> Res<Vec<usize>> {
    if step <= 0 {
        return Err(Fault::unsupported(format!("a slice with step {step}")));
    }
    let n = i64::try_from(length).unwrap_or(i64::MAX);
    let place = |at: i64| if at < 0 { at.saturating_add(n).max(0) } else { at.min(n) };
    let (from, to) = (place(start.unwrap_or(0)), place(end.unwrap_or(n)));
    let step = usize::try_from(step).unwrap_or(usize::MAX);
    let range = usize::try_from(from).unwrap_or(0)..usize::try_from(to).unwrap_or(0);
    Ok(range.step_by(step).collect())
}

/// A method of `str` on known text; `None` if there is none of that name.
pub(crate) fn method(st: &mut State, name: &str, text: &str, args: &[Val]) -> Res<Option<Val>> {
    if !METHODS.contains(&name) {
        return Ok(None);
    }
    let wrong = || Fault::unsupported(format!("`{name}` of text with such arguments"));
    let (given, defaults) = known_arguments(name, args).ok_or_else(wrong)?;
    if !defaults {
        return Err(wrong());
    }
    let str_at = |i: usize| match given.get(i) {
        Some(Val::Str(s)) => Some(s.clone()),
        _ => None,
    };
    let needed = |i: usize| str_at(i).ok_or_else(wrong);
    let is_all = |test: fn(char) -> bool| Val::Bool(!text.is_empty() && text.chars().all(test));
    let chars = |set: Option<Name>| {
        move |c: char| match &set {
            Some(set) => set.contains(c),
            None => " \n\t\u{c}\u{b}".contains(c),
        }
    };
    let number = |n: usize| Val::Int(i64::try_from(n).unwrap_or(i64::MAX));
    Ok(Some(match name {
        "upper" => bounded(text.to_uppercase())?,
        "lower" => bounded(text.to_lowercase())?,
        "strip" => Val::text(text.trim_matches(chars(str_at(0)))),
        "lstrip" => Val::text(text.trim_start_matches(chars(str_at(0)))),
        "rstrip" => Val::text(text.trim_end_matches(chars(str_at(0)))),
        "startswith" => Val::Bool(text.starts_with(&*needed(0)?)),
        "endswith" => Val::Bool(text.ends_with(&*needed(0)?)),
        "isdigit" => is_all(|c| c.is_ascii_digit()),
        "isalpha" => is_all(char::is_alphabetic),
        "isalnum" => is_all(char::is_alphanumeric),
        "isspace" => is_all(char::is_whitespace),
        "isupper" => Val::Bool(text.chars().any(char::is_uppercase) && !text.chars().any(char::is_lowercase)),
        "islower" => Val::Bool(text.chars().any(char::is_lowercase) && !text.chars().any(char::is_uppercase)),
        "find" => match text.find(&*needed(0)?) {
            Some(at) => number(text.get(..at).map_or(0, |t| t.chars().count())),
            None => Val::Int(-1),
        },
        "count" => number(text.matches(&*needed(0)?).count()),
        "replace" => {
            let (from, to) = (needed(0)?, needed(1)?);
            if to.len() > 1024 {
                return Err(wrong());
            }
            bounded(text.replace(&*from, &to))?
        }
        "split" => match given.first() {
            Some(Val::Str(by)) if !by.is_empty() => pieces(st, text.split(&**by))?,
            None | Some(Val::None) => pieces(st, text.split_whitespace())?,
            _ => return Err(wrong()),
        },
        "splitlines" => pieces(st, text.lines())?,
        "join" => joined(st, text, given.first())?,
        "ord" => Val::Int(text.chars().next().map_or(0, |c| i64::from(u32::from(c)))),
        "len" => number(text.chars().count()),
        _ => return Ok(None),
    }))
}

/// Methods of `str`.
const METHODS: &[&str] = &[
    "upper",
    "lower",
    "strip",
    "lstrip",
    "rstrip",
    "startswith",
    "endswith",
    "isdigit",
    "isalpha",
    "isalnum",
    "isspace",
    "isupper",
    "islower",
    "find",
    "count",
    "replace",
    "split",
    "splitlines",
    "join",
    "ord",
    "len",
];

/// The arguments of a method that it needs, and whether the others have their defaults; `None` if there are too few.
fn known_arguments<'a>(name: &str, args: &'a [Val]) -> Option<(&'a [Val], bool)> {
    let (least, most, defaults): (usize, usize, &[i64]) = match name {
        "strip" | "lstrip" | "rstrip" => (0, 1, &[]),
        "split" => (0, 1, &[-1]),
        "splitlines" => (0, 0, &[0]),
        "startswith" | "endswith" | "find" | "count" => (1, 1, &[0, -1]),
        "replace" => (2, 2, &[-1]),
        "join" => (1, 1, &[]),
        _ => (0, 0, &[]),
    };
    if args.len() < least {
        return None;
    }
    let (given, rest) = args.split_at_checked(most).unwrap_or((args, &[]));
    let is_default = |(v, d): (&Val, &i64)| match v {
        Val::Int(n) => n == d,
        Val::Bool(b) => i64::from(*b) == *d,
        _ => false,
    };
    let texts = name == "join" || given.iter().all(|v| matches!(v, Val::Str(_) | Val::None));
    Some((given, texts && rest.len() <= defaults.len() && rest.iter().zip(defaults).all(is_default)))
}

/// A list of texts.
fn pieces<'t>(st: &mut State, parts: impl Iterator<Item = &'t str>) -> Res<Val> {
    let mut items = vec![];
    for part in parts {
        if items.len() >= MAX_PIECES {
            return Err(Fault::Limit { what: "length of a list".to_owned(), limit: MAX_PIECES });
        }
        st.charge(part.len().saturating_add(2 * size_of::<usize>()));
        items.push(Val::text(part));
    }
    Ok(st.list(items))
}

/// `text.join(list)`.
fn joined(st: &State, text: &str, list: Option<&Val>) -> Res<Val> {
    let items = list.and_then(|v| st.items(v));
    let items = items.ok_or_else(|| Fault::unsupported("joining a list of run time"))?;
    let mut out = String::new();
    for (i, item) in items.iter().enumerate() {
        let Val::Str(item) = item else {
            return Err(Fault::unsupported("joining what shows at run time"));
        };
        if i > 0 {
            out.push_str(text);
        }
        out.push_str(item);
        if out.len() > MAX_TEXT {
            break;
        }
    }
    bounded(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_print_as_torch_does() {
        let cases =
            [(1.0, "1."), (0.1, "0.10000000000000001"), (1e-20, "9.9999999999999995e-21"), (1e30, "1e+30")];
        for (x, expected) in cases {
            assert_eq!(float(x), expected);
        }
        assert_eq!(float(31.25), "31.25");
        assert_eq!(float(-0.5), "-0.5");
    }
}
