//! Dims as text.

use std::fmt;
use std::str::FromStr;

use super::{Atom, Dim, Monomial, Repr};

/// Names that are functions where a parenthesis follows; symbols of these names are quoted.
pub(super) const FUNCTIONS: &[&str] = &["floordiv", "mod", "min", "max", "broadcast"];

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Repr::Const(c) => write!(f, "{c}"),
            Repr::Unknown => f.write_str("?"),
            Repr::Poly(terms) => {
                // The constant term sorts first in memory; people expect it last.
                let constant = terms.iter().filter(|(m, _)| m.is_empty());
                let rest = terms.iter().filter(|(m, _)| !m.is_empty());
                for (i, (m, c)) in rest.chain(constant).enumerate() {
                    write_term(f, m, *c, i == 0)?;
                }
                Ok(())
            }
        }
    }
}

fn write_term(f: &mut fmt::Formatter<'_>, m: &Monomial, c: i64, first: bool) -> fmt::Result {
    if c < 0 {
        f.write_str("-")?;
    } else if !first {
        f.write_str("+")?;
    }
    let magnitude = c.unsigned_abs();
    if m.is_empty() {
        return write!(f, "{magnitude}");
    }
    if magnitude != 1 {
        write!(f, "{magnitude}*")?;
    }
    for (i, atom) in m.iter().enumerate() {
        if i > 0 {
            f.write_str("*")?;
        }
        match atom {
            Atom::Sym(s) => write!(f, "{s}")?,
            Atom::FloorDiv(a, b) => write!(f, "floordiv({a},{b})")?,
            Atom::Mod(a, b) => write!(f, "mod({a},{b})")?,
            Atom::Min(a, b) => write!(f, "min({a},{b})")?,
            Atom::Max(a, b) => write!(f, "max({a},{b})")?,
            Atom::Broadcast(parts) => {
                // Nested calls of two, as they parse.
                let (last, rest) = parts.split_last().ok_or(fmt::Error)?;
                rest.iter().try_for_each(|part| write!(f, "broadcast({part},"))?;
                write!(f, "{last}{}", ")".repeat(rest.len()))?;
            }
        }
    }
    Ok(())
}

/// A text that is not a dim.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a dimension: {reason} at byte {at}")]
pub struct ParseDimError {
    /// The whole text.
    pub text: String,
    /// What is wrong.
    pub reason: &'static str,
    /// Where, in bytes.
    pub at: usize,
}

struct DimParser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

/// Nesting that a dim's text may have.
const MAX_DEPTH: usize = 32;

impl DimParser<'_> {
    fn fail<T>(&self, reason: &'static str) -> Result<T, ParseDimError> {
        Err(ParseDimError { text: self.text.to_owned(), reason, at: self.at })
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn spaces(&mut self) {
        while self.peek() == Some(b' ') {
            self.at += 1;
        }
    }

    fn eat(&mut self, c: u8) -> bool {
        self.spaces();
        let hit = self.peek() == Some(c);
        if hit {
            self.at += 1;
        }
        hit
    }

    fn sum(&mut self) -> Result<Dim, ParseDimError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return self.fail("nested too deeply");
        }
        let mut total = if self.eat(b'-') { Dim::known(0) - self.product()? } else { self.product()? };
        loop {
            if self.eat(b'+') {
                total = total + self.product()?;
            } else if self.eat(b'-') {
                total = total - self.product()?;
            } else {
                self.depth -= 1;
                return Ok(total);
            }
        }
    }

    fn product(&mut self) -> Result<Dim, ParseDimError> {
        let mut total = self.factor()?;
        while self.eat(b'*') {
            total = total * self.factor()?;
        }
        Ok(total)
    }

    fn factor(&mut self) -> Result<Dim, ParseDimError> {
        self.spaces();
        match self.peek() {
            Some(b'?') => {
                self.at += 1;
                Ok(Dim::unknown())
            }
            Some(b'(') => {
                self.at += 1;
                let inner = self.sum()?;
                if self.eat(b')') { Ok(inner) } else { self.fail("expected `)`") }
            }
            Some(b'"') => self.quoted(),
            Some(c) if c.is_ascii_digit() => {
                let start = self.at;
                while self.peek().is_some_and(|c| c.is_ascii_digit()) {
                    self.at += 1;
                }
                match self.text[start..self.at].parse() {
                    Ok(v) => Ok(Dim::known(v)),
                    Err(_) => self.fail("a number beyond 64 bits"),
                }
            }
            Some(c) if c == b'_' || c.is_ascii_alphabetic() => {
                let start = self.at;
                while self.peek().is_some_and(|c| c == b'_' || c.is_ascii_alphanumeric()) {
                    self.at += 1;
                }
                let name = &self.text[start..self.at];
                if FUNCTIONS.contains(&name) && self.peek() == Some(b'(') {
                    return self.call(name.to_owned());
                }
                Ok(Dim::symbol(name))
            }
            _ => self.fail("expected a number, a name or `?`"),
        }
    }

    /// A name in Rust's string-literal syntax, as `{:?}` prints it.
    fn quoted(&mut self) -> Result<Dim, ParseDimError> {
        let Some((name, used)) = crate::text::lexer::unquote(&self.text[self.at..]) else {
            return self.fail("unterminated or malformed quoted name");
        };
        self.at += used;
        Ok(Dim::symbol(&name))
    }

    fn call(&mut self, name: String) -> Result<Dim, ParseDimError> {
        self.at += 1;
        let a = self.sum()?;
        if !self.eat(b',') {
            return self.fail("expected `,`");
        }
        let b = self.sum()?;
        if !self.eat(b')') {
            return self.fail("expected `)`");
        }
        Ok(match name.as_str() {
            "floordiv" => a.floor_div(&b),
            "mod" => a.modulo(&b),
            "min" => a.lesser(&b),
            "max" => a.greater(&b),
            _ => a.broadcast(&b),
        })
    }
}

impl FromStr for Dim {
    type Err = ParseDimError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parser = DimParser { text, at: 0, depth: 0 };
        let dim = parser.sum()?;
        parser.spaces();
        if parser.at == text.len() { Ok(dim) } else { parser.fail("unexpected text") }
    }
}

impl serde::Serialize for Dim {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Dim {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}
