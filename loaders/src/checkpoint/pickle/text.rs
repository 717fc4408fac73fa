//! The notations of protocol 0: numbers and strings as lines of text.

use bytes::Bytes;

use super::{Fault, Long, Node, Text};

/// The longest integer in digits, as Python bounds it.
const MAX_DIGITS: usize = 4300;

fn ascii(line: &[u8]) -> Result<&str, Fault> {
    std::str::from_utf8(line).map(str::trim).map_err(|_| Fault::Number)
}

/// An integer, or a bool, which `00` and `01` stand for.
pub(super) fn int(line: &[u8]) -> Result<Node, Fault> {
    match line {
        b"00" => Ok(Node::Bool(false)),
        b"01" => Ok(Node::Bool(true)),
        _ => long(line),
    }
}

/// An integer, with or without the `L` of Python 2.
pub(super) fn long(line: &[u8]) -> Result<Node, Fault> {
    let text = ascii(line)?;
    let text = text.strip_suffix('L').unwrap_or(text);
    if let Ok(n) = text.parse::<i64>() {
        return Ok(Node::Int(n));
    }
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || digits.len() > MAX_DIGITS || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Fault::Number);
    }
    Ok(Node::Long(Long::Digits(Text::from(text.to_owned()))))
}

/// A float as `repr` writes it.
pub(super) fn float(line: &[u8]) -> Result<Node, Fault> {
    ascii(line)?.parse::<f64>().map(Node::Float).map_err(|_| Fault::Number)
}

/// A byte string in quotes, with Python's escapes.
pub(super) fn string(line: &[u8]) -> Result<Node, Fault> {
    let line = line.trim_ascii();
    let inner = match line {
        [b'"', inner @ .., b'"'] | [b'\'', inner @ .., b'\''] => inner,
        _ => return Err(Fault::Text),
    };
    let mut out = Vec::with_capacity(inner.len());
    let mut rest = inner;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        let (&escape, after) = rest.split_first().ok_or(Fault::Text)?;
        rest = after;
        match escape {
            b'\n' => {}
            b'\\' | b'\'' | b'"' => out.push(escape),
            b'n' => out.push(b'\n'),
            b't' => out.push(b'\t'),
            b'r' => out.push(b'\r'),
            b'a' => out.push(7),
            b'b' => out.push(8),
            b'v' => out.push(11),
            b'f' => out.push(12),
            b'x' => {
                let (digits, after) = rest.split_at_checked(2).ok_or(Fault::Text)?;
                out.push(u8::try_from(number(digits, 16)?).map_err(|_| Fault::Text)?);
                rest = after;
            }
            b'0'..=b'7' => {
                let more = rest.iter().take(2).take_while(|b| matches!(b, b'0'..=b'7')).count();
                let (digits, after) = rest.split_at(more);
                let value = digits.iter().fold(u32::from(escape - b'0'), |n, d| n * 8 + u32::from(d - b'0'));
                // Python keeps the lowest byte of what three digits give.
                out.push(value.to_le_bytes()[0]);
                rest = after;
            }
            other => out.extend([b'\\', other]),
        }
    }
    Ok(byte_string(Bytes::from(out)))
}

/// A byte string of Python 2: text where it is UTF-8.
pub(super) fn byte_string(bytes: Bytes) -> Node {
    match Text::new(bytes.clone()) {
        Some(text) => Node::Str(text),
        None => Node::Bytes(bytes),
    }
}

/// Text in Latin-1 with `\uXXXX` and `\UXXXXXXXX`, each after an odd number of backslashes.
pub(super) fn unicode(line: &[u8]) -> Result<Node, Fault> {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some((&byte, after)) = rest.split_first() {
        if byte != b'\\' {
            out.push(char::from(byte));
            rest = after;
            continue;
        }
        let run = rest.iter().take_while(|&&b| b == b'\\').count();
        let (_, after) = rest.split_at(run);
        let width = match after.first() {
            Some(b'u') if run % 2 == 1 => 4,
            Some(b'U') if run % 2 == 1 => 8,
            _ => 0,
        };
        out.extend(std::iter::repeat_n('\\', if width == 0 { run } else { run - 1 }));
        rest = after;
        if width > 0 {
            let (digits, after) = rest.get(1..).and_then(|r| r.split_at_checked(width)).ok_or(Fault::Text)?;
            out.push(char::from_u32(number(digits, 16)?).ok_or(Fault::Text)?);
            rest = after;
        }
    }
    Ok(Node::Str(Text::from(out)))
}

fn number(digits: &[u8], radix: u32) -> Result<u32, Fault> {
    let text = std::str::from_utf8(digits).map_err(|_| Fault::Text)?;
    match text.bytes().all(|b| b.is_ascii_hexdigit()) {
        true => u32::from_str_radix(text, radix).map_err(|_| Fault::Text),
        false => Err(Fault::Text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(node: Result<Node, Fault>) -> String {
        match node {
            Ok(Node::Str(text)) => text.to_string(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn numbers_of_all_sizes() {
        assert_eq!(int(b"01"), Ok(Node::Bool(true)));
        assert_eq!(int(b"1"), Ok(Node::Int(1)));
        assert_eq!(long(b"-5L"), Ok(Node::Int(-5)));
        assert!(matches!(long(b"-99999999999999999999L"), Ok(Node::Long(Long::Digits(_)))));
        for wrong in [&b""[..], b"L", b"-", b"1_0", b"0x10", b"one", &[b'9'; MAX_DIGITS + 1]] {
            assert_eq!(long(wrong), Err(Fault::Number));
        }
        assert_eq!(float(b"-inf"), Ok(Node::Float(f64::NEG_INFINITY)));
        assert_eq!(float(b"1e+300"), Ok(Node::Float(1e300)));
    }

    #[test]
    fn escapes() {
        assert_eq!(text(string(br#"'a\'\x41\101\n\q'"#)), "a'AA\n\\q");
        assert_eq!(string(br"'\xff'"), Ok(Node::Bytes(Bytes::from_static(&[0xff]))));
        for wrong in [&b"'"[..], b"a", b"'a\"", br"'\'", br"'\x4'", br"'\xg0'"] {
            assert!(string(wrong).is_err(), "{wrong:?}");
        }
        assert_eq!(text(unicode(b"\xe9 \\u20ac \\\\u0041 \\q \\U0001f600")), "é € \\\\u0041 \\q 😀");
        assert_eq!(unicode(br"\ud800"), Err(Fault::Text));
        assert_eq!(unicode(br"\u12"), Err(Fault::Text));
    }
}
