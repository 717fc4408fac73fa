//! Attribute values: how each Rust type that an operator carries prints and parses.

use std::fmt::Write as _;

use crate::text::lexer::unquote;
use crate::{DType, Dim, Float, Type};

/// A text that is no attribute list, with the byte where it fails.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason} at byte {at}")]
pub struct AttrError {
    /// What is wrong.
    pub reason: String,
    /// Offset in the text that the cursor was made over.
    pub at: usize,
}

/// A position in the text form.
#[derive(Clone)]
pub struct Cursor<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

/// Nesting that attribute values may have.
const MAX_DEPTH: usize = 64;

impl<'a> Cursor<'a> {
    /// A cursor at the start of `text`.
    pub fn new(text: &'a str) -> Self {
        Cursor { text, at: 0, depth: 0 }
    }

    /// The unread text, leading blanks and `//` comments skipped.
    pub fn rest(&mut self) -> &'a str {
        loop {
            let rest = &self.text[self.at..];
            let trimmed = rest.trim_start();
            self.at += rest.len() - trimmed.len();
            if !trimmed.starts_with("//") {
                return trimmed;
            }
            self.at += trimmed.find('\n').unwrap_or(trimmed.len());
        }
    }

    /// Byte offset.
    pub fn position(&self) -> usize {
        self.at
    }

    /// An error at the cursor.
    pub fn error(&self, reason: impl Into<String>) -> AttrError {
        AttrError { reason: reason.into(), at: self.at }
    }

    /// Skips `token` if it comes next.
    pub fn eat(&mut self, token: &str) -> bool {
        let hit = self.rest().starts_with(token);
        if hit {
            self.at += token.len();
        }
        hit
    }

    /// Skips `token`, or fails.
    pub fn expect(&mut self, token: &str) -> Result<(), AttrError> {
        if self.eat(token) { Ok(()) } else { Err(self.error(format!("expected `{token}`"))) }
    }

    /// Reads the longest prefix of characters that `accept` takes; fails if it is empty.
    pub fn take(&mut self, what: &str, accept: impl Fn(char) -> bool) -> Result<&'a str, AttrError> {
        let rest = self.rest();
        let len = rest.find(|c| !accept(c)).unwrap_or(rest.len());
        if len == 0 {
            return Err(self.error(format!("expected {what}")));
        }
        self.at += len;
        Ok(&rest[..len])
    }

    /// Reads an identifier: letters, digits, `_` and `.`.
    pub fn ident(&mut self) -> Result<&'a str, AttrError> {
        self.take("a name", |c| c.is_ascii_alphanumeric() || c == '_' || c == '.')
    }

    /// Reads a number of any type that parses from digits, sign, point and exponent.
    pub fn number<T: std::str::FromStr>(&mut self) -> Result<T, AttrError> {
        let start = self.at;
        let text = self.take("a number", |c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))?;
        text.parse()
            .map_err(|_| AttrError { reason: format!("`{text}` is not a number of that kind"), at: start })
    }

    /// Reads a quoted string.
    pub fn string(&mut self) -> Result<String, AttrError> {
        let (text, used) = unquote(self.rest()).ok_or_else(|| self.error("expected a quoted string"))?;
        self.at += used;
        Ok(text)
    }

    /// Reads up to the first of `ends` that stands outside parentheses, brackets and quotes.
    pub fn until(&mut self, ends: &[char]) -> Result<&'a str, AttrError> {
        let rest = self.rest();
        let (mut depth, mut at) = (0usize, 0);
        while let Some(c) = rest[at..].chars().next() {
            if depth == 0 && ends.contains(&c) {
                break;
            }
            match c {
                '(' | '[' | '<' => depth += 1,
                ')' | ']' | '>' => depth = depth.saturating_sub(1),
                '"' => {
                    let (_, used) =
                        unquote(&rest[at..]).ok_or_else(|| self.error("malformed quoted string"))?;
                    at += used;
                    continue;
                }
                _ => {}
            }
            at += c.len_utf8();
        }
        self.at += at;
        Ok(rest[..at].trim_end())
    }

    /// Runs `read` one nesting level deeper, within the limit.
    pub fn nested<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, AttrError>,
    ) -> Result<T, AttrError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.error("nested too deeply"));
        }
        let value = read(self)?;
        self.depth -= 1;
        Ok(value)
    }
}

/// A type that stands in attribute lists.
pub trait Attr: Sized {
    /// Appends the value's text.
    fn write(&self, out: &mut String);
    /// Reads what `write` appends.
    fn read(c: &mut Cursor<'_>) -> Result<Self, AttrError>;
    /// Calls `visit` with every dim in the value.
    fn visit_dims(&self, visit: &mut dyn FnMut(&Dim));
    /// Calls `change` with every dim in the value.
    fn dims_mut(&mut self, change: &mut dyn FnMut(&mut Dim));
}

macro_rules! number_attrs {
    ($($ty:ty),*) => {$(
        impl Attr for $ty {
            fn write(&self, out: &mut String) {
                let _ = write!(out, "{self}");
            }
            fn read(c: &mut Cursor<'_>) -> Result<Self, AttrError> {
                c.number()
            }
            fn visit_dims(&self, _: &mut dyn FnMut(&Dim)) {}
            fn dims_mut(&mut self, _: &mut dyn FnMut(&mut Dim)) {}
        }
    )*};
}

number_attrs!(i64, u32, usize);

impl Attr for bool {
    fn write(&self, out: &mut String) {
        out.push_str(if *self { "true" } else { "false" });
    }
    fn read(c: &mut Cursor<'_>) -> Result<Self, AttrError> {
        if c.eat("true") { Ok(true) } else { c.expect("false").map(|()| false) }
    }
    fn visit_dims(&self, _: &mut dyn FnMut(&Dim)) {}
    fn dims_mut(&mut self, _: &mut dyn FnMut(&mut Dim)) {}
}

impl Attr for Float {
    fn write(&self, out: &mut String) {
        let v = self.get();
        // A NaN's payload survives only as bits.
        let _ = if v.is_nan() { write!(out, "nan:{:x}", v.to_bits()) } else { write!(out, "{v:?}") };
    }
    fn read(c: &mut Cursor<'_>) -> Result<Self, AttrError> {
        if c.eat("nan:") {
            let hex = c.take("hexadecimal digits", |c| c.is_ascii_hexdigit())?;
            let bits = u64::from_str_radix(hex, 16).map_err(|_| c.error("malformed bits of a NaN"))?;
            return Ok(Float::new(f64::from_bits(bits)));
        }
        c.number::<f64>().map(Float::new)
    }
    fn visit_dims(&self, _: &mut dyn FnMut(&Dim)) {}
    fn dims_mut(&mut self, _: &mut dyn FnMut(&mut Dim)) {}
}

impl Attr for String {
    fn write(&self, out: &mut String) {
        let _ = write!(out, "{self:?}");
    }
    fn read(c: &mut Cursor<'_>) -> Result<Self, AttrError> {
        c.string()
    }
    fn visit_dims(&self, _: &mut dyn FnMut(&Dim)) {}
    fn dims_mut(&mut self, _: &mut dyn FnMut(&mut Dim)) {}
}

impl Attr for DType {
    fn write(&self, out: &mut String) {
        out.push_str(self.name());
    }
    fn read(c: &mut Cursor<'_>) -> Result<Self, AttrError> {
        let name = c.ident()?;
        name.parse().map_err(|e: crate::dtype::UnknownDType| c.error(e.to_string()))
    }
    fn visit_dims(&self, _: &mut dyn FnMut(&Dim)) {}
    fn dims_mut(&mut self, _: &mut dyn FnMut(&mut Dim)) {}
}

impl Attr for Dim {
    fn write(&self, out: &mut String) {
        let _ = write!(out, "{self}");
    }
    fn read(c: &mut Cursor<'_>) -> Result<Self, AttrError> {
        let text = c.until(&[',', ')', ']', '}'])?;
        text.parse().map_err(|e: crate::dim::ParseDimError| c.error(e.to_string()))
    }
    fn visit_dims(&self, visit: &mut dyn FnMut(&Dim)) {
        visit(self);
    }
    fn dims_mut(&mut self, change: &mut dyn FnMut(&mut Dim)) {
        change(self);
    }
}

impl Attr for Type {
    fn write(&self, out: &mut String) {
        let _ = write!(out, "{self}");
    }
    fn read(c: &mut Cursor<'_>) -> Result<Self, AttrError> {
        for (open, wrap) in [("seq<", Type::Sequence as fn(Box<Type>) -> Type), ("opt<", Type::Optional)] {
            if c.eat(open) {
                let inner = c.nested(Type::read)?;
                c.expect(">")?;
                return Ok(wrap(Box::new(inner)));
            }
        }
        let dtype = DType::read(c)?;
        c.expect("[")?;
        if c.eat("*") {
            c.expect("]")?;
            return Ok(Type::unranked(dtype));
        }
        let mut dims = vec![];
        while !c.eat("]") {
            if !dims.is_empty() {
                c.expect(",")?;
            }
            dims.push(Dim::read(c)?);
            if dims.len() > crate::infer::MAX_RANK {
                return Err(c.error("too many axes"));
            }
        }
        Ok(Type::tensor(dtype, dims))
    }
    fn visit_dims(&self, visit: &mut dyn FnMut(&Dim)) {
        match self {
            Type::Tensor(t) => t.shape.dims().unwrap_or(&[]).iter().for_each(visit),
            Type::Sequence(t) | Type::Optional(t) => t.visit_dims(visit),
        }
    }
    fn dims_mut(&mut self, change: &mut dyn FnMut(&mut Dim)) {
        *self = self.map_dims(&mut |d| {
            let mut d = d.clone();
            change(&mut d);
            d
        });
    }
}

impl<T: Attr> Attr for Vec<T> {
    fn write(&self, out: &mut String) {
        out.push('[');
        for (i, v) in self.iter().enumerate() {
            if i > 0 {
                out.push_str(", ");
            }
            v.write(out);
        }
        out.push(']');
    }
    fn read(c: &mut Cursor<'_>) -> Result<Self, AttrError> {
        c.expect("[")?;
        c.nested(|c| {
            let mut items = vec![];
            while !c.eat("]") {
                if !items.is_empty() {
                    c.expect(",")?;
                }
                items.push(T::read(c)?);
            }
            Ok(items)
        })
    }
    fn visit_dims(&self, visit: &mut dyn FnMut(&Dim)) {
        self.iter().for_each(|v| v.visit_dims(visit));
    }
    fn dims_mut(&mut self, change: &mut dyn FnMut(&mut Dim)) {
        self.iter_mut().for_each(|v| v.dims_mut(change));
    }
}

impl<T: Attr> Attr for Option<T> {
    fn write(&self, out: &mut String) {
        match self {
            Some(v) => v.write(out),
            None => out.push_str("none"),
        }
    }
    fn read(c: &mut Cursor<'_>) -> Result<Self, AttrError> {
        if c.eat("none") { Ok(None) } else { T::read(c).map(Some) }
    }
    fn visit_dims(&self, visit: &mut dyn FnMut(&Dim)) {
        self.iter().for_each(|v| v.visit_dims(visit));
    }
    fn dims_mut(&mut self, change: &mut dyn FnMut(&mut Dim)) {
        self.iter_mut().for_each(|v| v.dims_mut(change));
    }
}

impl<A: Attr, B: Attr> Attr for (A, B) {
    fn write(&self, out: &mut String) {
        out.push('(');
        self.0.write(out);
        out.push_str(", ");
        self.1.write(out);
        out.push(')');
    }
    fn read(c: &mut Cursor<'_>) -> Result<Self, AttrError> {
        c.expect("(")?;
        let a = A::read(c)?;
        c.expect(",")?;
        let b = B::read(c)?;
        c.expect(")")?;
        Ok((a, b))
    }
    fn visit_dims(&self, visit: &mut dyn FnMut(&Dim)) {
        self.0.visit_dims(visit);
        self.1.visit_dims(visit);
    }
    fn dims_mut(&mut self, change: &mut dyn FnMut(&mut Dim)) {
        self.0.dims_mut(change);
        self.1.dims_mut(change);
    }
}

/// Declares a fieldless enum that is an attribute; each variant's text is given.
macro_rules! attr_enum {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$doc])* $variant,)* }

        impl $name {
            /// Every variant.
            pub const ALL: &'static [$name] = &[$($name::$variant,)*];

            /// Text of the variant.
            pub const fn name(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }

            /// The variant of that text.
            pub fn from_name(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|v| v.name() == name)
            }
        }

        impl $crate::op::Attr for $name {
            fn write(&self, out: &mut String) {
                out.push_str(self.name());
            }
            fn read(c: &mut $crate::op::Cursor<'_>) -> Result<Self, $crate::op::AttrError> {
                let text = c.ident()?;
                $name::from_name(text).ok_or_else(|| c.error(format!("unknown {} `{text}`", stringify!($name))))
            }
            fn visit_dims(&self, _: &mut dyn FnMut(&$crate::Dim)) {}
            fn dims_mut(&mut self, _: &mut dyn FnMut(&mut $crate::Dim)) {}
        }
    };
}
pub(crate) use attr_enum;

/// Declares a family of operators; see the module's head.
macro_rules! family {
    ($(#[$meta:meta])* $name:ident {
        $($(#[$doc:meta])* $variant:ident = $text:literal { $($(#[$fdoc:meta])* $field:ident: $ty:ty,)* })*
    }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        #[allow(missing_docs, reason = "a variant's text explains its attributes")]
        pub enum $name {
            $($(#[$doc])* $variant { $($(#[$fdoc])* $field: $ty,)* },)*
        }

        impl $name {
            pub(super) const MNEMONICS: &'static [&'static str] = &[$($text,)*];

            /// Name in the text form.
            pub fn mnemonic(&self) -> &'static str {
                match self { $($name::$variant { .. } => $text,)* }
            }

            pub(super) fn write_attrs(&self, w: &mut $crate::op::attr::AttrWriter<'_>) {
                let _ = &w;
                match self { $($name::$variant { $($field,)* } => { $(w.field(stringify!($field), $field);)* })* }
            }

            pub(super) fn visit_dims(&self, visit: &mut dyn FnMut(&$crate::Dim)) {
                let _ = &visit;
                match self { $($name::$variant { $($field,)* } => { $($crate::op::Attr::visit_dims($field, visit);)* })* }
            }

            pub(super) fn dims_mut(&mut self, change: &mut dyn FnMut(&mut $crate::Dim)) {
                let _ = &change;
                match self { $($name::$variant { $($field,)* } => { $($crate::op::Attr::dims_mut($field, change);)* })* }
            }

            pub(super) fn parse(mnemonic: &str, c: &mut $crate::op::Cursor<'_>) -> Result<Self, $crate::op::AttrError> {
                let mut r = $crate::op::attr::AttrReader::open(c)?;
                let op = match mnemonic {
                    $($text => $name::$variant { $($field: r.field(stringify!($field))?,)* },)*
                    _ => return Err(r.error(format!("unknown operator `{mnemonic}`"))),
                };
                r.close()?;
                Ok(op)
            }
        }
    };
}
pub(crate) use family;

/// Writes ` {a=1, b=2}`.
pub struct AttrWriter<'a> {
    out: &'a mut String,
    any: bool,
}

impl<'a> AttrWriter<'a> {
    pub(super) fn new(out: &'a mut String) -> Self {
        AttrWriter { out, any: false }
    }

    /// Writes one attribute.
    pub fn field<T: Attr>(&mut self, name: &str, value: &T) {
        self.out.push_str(if self.any { ", " } else { " {" });
        self.any = true;
        self.out.push_str(name);
        self.out.push('=');
        value.write(self.out);
    }

    pub(super) fn finish(self) {
        if self.any {
            self.out.push('}');
        }
    }
}

/// Reads what [`AttrWriter`] writes, in declaration order.
pub struct AttrReader<'c, 'a> {
    c: &'c mut Cursor<'a>,
    open: bool,
    any: bool,
}

impl<'c, 'a> AttrReader<'c, 'a> {
    pub(super) fn open(c: &'c mut Cursor<'a>) -> Result<Self, AttrError> {
        let open = c.eat("{");
        Ok(AttrReader { c, open, any: false })
    }

    /// Reads one attribute.
    pub fn field<T: Attr>(&mut self, name: &str) -> Result<T, AttrError> {
        if !self.open {
            return Err(self.c.error(format!("attribute `{name}` is missing")));
        }
        if self.any {
            self.c.expect(",")?;
        }
        self.any = true;
        let found = self.c.ident()?;
        if found != name {
            return Err(self.c.error(format!("expected attribute `{name}`, found `{found}`")));
        }
        self.c.expect("=")?;
        T::read(self.c)
    }

    pub(super) fn error(&self, reason: impl Into<String>) -> AttrError {
        self.c.error(reason)
    }

    pub(super) fn close(self) -> Result<(), AttrError> {
        if self.open { self.c.expect("}") } else { Ok(()) }
    }
}
