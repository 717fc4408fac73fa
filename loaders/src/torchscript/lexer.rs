//! Tokens of the serialized source: Python's, with lines and indentation.

use super::ast::Name;
use super::fault::Fault;

/// A token.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Token {
    /// An identifier or keyword.
    Word(Name),
    /// An integer.
    Int(i64),
    /// A float.
    Float(f64),
    /// An imaginary number.
    Imaginary(f64),
    /// Text.
    Str(Name),
    /// Punctuation.
    Mark(&'static str),
    /// End of a line.
    Newline,
    /// The next line stands further in.
    Indent,
    /// The next line stands further out.
    Dedent,
    /// End of the file.
    End,
}

/// Longest first: the first that fits is taken.
const MARKS: &[&str] = &[
    "**=", "//=", ">>=", "<<=", "->", "**", "//", "==", "!=", "<=", ">=", "<<", ">>", "+=", "-=", "*=", "/=",
    "(", ")", "[", "]", "{", "}", ",", ":", ".", ";", "=", "<", ">", "+", "-", "*", "/", "%", "@", "&", "|",
    "^", "~",
];

/// How far in lines may stand within each other.
const MAX_INDENT: usize = 100;

/// Reads tokens one after the other.
#[derive(Clone)]
pub(crate) struct Lexer<'s> {
    text: &'s str,
    at: usize,
    /// Where the last token began.
    start: usize,
    indents: Vec<usize>,
    /// Open brackets, within which lines do not end.
    open: usize,
    /// Indents (positive) or dedents to give first.
    pending: isize,
    line_start: bool,
}

impl<'s> Lexer<'s> {
    pub fn new(text: &'s str) -> Self {
        Lexer { text, at: 0, start: 0, indents: vec![], open: 0, pending: 0, line_start: true }
    }

    /// Where the last token began.
    pub fn start(&self) -> usize {
        self.start
    }

    fn rest(&self) -> &'s str {
        self.text.get(self.at..).unwrap_or("")
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    /// The next token.
    pub fn next(&mut self) -> Result<Token, Fault> {
        if self.pending == 0 && self.line_start && self.open == 0 {
            self.begin_line()?;
        }
        self.start = self.at;
        if self.pending > 0 {
            self.pending -= 1;
            return Ok(Token::Indent);
        }
        if self.pending < 0 {
            self.pending += 1;
            return Ok(Token::Dedent);
        }
        self.skip_blanks();
        self.start = self.at;
        let Some(c) = self.peek() else { return Ok(Token::End) };
        match c {
            '\n' => {
                self.at += 1;
                self.line_start = true;
                Ok(Token::Newline)
            }
            '"' | '\'' => self.string(c),
            _ if c.is_ascii_digit() => self.number(),
            '.' if self.rest().chars().nth(1).is_some_and(|c| c.is_ascii_digit()) => self.number(),
            _ if c == '_' || c.is_alphabetic() => {
                let rest = self.rest();
                let end = rest.find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(rest.len());
                self.at += end;
                Ok(Token::Word(rest.get(..end).unwrap_or("").into()))
            }
            _ => self.mark(),
        }
    }

    fn mark(&mut self) -> Result<Token, Fault> {
        let rest = self.rest();
        let Some(mark) = MARKS.iter().find(|m| rest.starts_with(**m)) else {
            return Err(Fault::invalid(format!("character {:?} has no meaning here", self.peek())));
        };
        self.at += mark.len();
        match *mark {
            "(" | "[" | "{" => self.open += 1,
            ")" | "]" | "}" => self.open = self.open.saturating_sub(1),
            _ => {}
        }
        Ok(Token::Mark(mark))
    }

    /// Blanks and comments; within brackets ends of lines, too.
    fn skip_blanks(&mut self) {
        while let Some(c) = self.peek() {
            match c {
                ' ' | '\t' | '\r' => self.at += 1,
                '\n' if self.open > 0 => self.at += 1,
                '\\' if self.rest().starts_with("\\\n") => self.at += 2,
                '#' => self.at += self.rest().find('\n').unwrap_or(self.rest().len()),
                _ => break,
            }
        }
    }

    /// Compares the indentation of the next line that is not empty.
    fn begin_line(&mut self) -> Result<(), Fault> {
        let column = loop {
            let rest = self.rest();
            let column = rest.len() - rest.trim_start_matches(' ').len();
            self.at += column;
            match self.peek() {
                Some('\n') => self.at += 1,
                Some('\r') if self.rest().starts_with("\r\n") => self.at += 2,
                Some('#') => self.at += self.rest().find('\n').unwrap_or(self.rest().len()),
                Some('\t') => return Err(Fault::invalid("a line is indented by tabs")),
                Some(_) => break column,
                None => break 0,
            }
        };
        self.line_start = false;
        let current = self.indents.last().copied().unwrap_or(0);
        if column > current {
            if self.indents.len() >= MAX_INDENT {
                return Err(Fault::Limit { what: "nesting of blocks".to_owned(), limit: MAX_INDENT });
            }
            self.indents.push(column);
            self.pending = 1;
        }
        while self.indents.last().is_some_and(|&top| top > column) {
            self.indents.pop();
            self.pending -= 1;
        }
        if column < current && self.indents.last().copied().unwrap_or(0) != column {
            return Err(Fault::invalid("a line is indented as none before"));
        }
        Ok(())
    }

    fn number(&mut self) -> Result<Token, Fault> {
        let rest = self.rest();
        let bytes = rest.as_bytes();
        let mut end = 0;
        let mut float = false;
        while let Some(&b) = bytes.get(end) {
            match b {
                b'0'..=b'9' => {}
                b'.' => float = true,
                b'e' | b'E' => {
                    float = true;
                    if matches!(bytes.get(end + 1), Some(b'+' | b'-')) {
                        end += 1;
                    }
                }
                _ => break,
            }
            end += 1;
        }
        let digits = rest.get(..end).unwrap_or("");
        self.at += end;
        let wrong = || Fault::invalid(format!("`{digits:.40}` is no number"));
        if self.peek() == Some('j') {
            self.at += 1;
            return digits.parse().map(Token::Imaginary).map_err(|_| wrong());
        }
        if float {
            return digits.parse().map(Token::Float).map_err(|_| wrong());
        }
        // The smallest integer has no positive counterpart; its digits alone wrap to it.
        match digits.parse::<u64>() {
            Ok(n) if n <= 1 << 63 => Ok(Token::Int(n as i64)),
            _ => Err(Fault::invalid(format!("the integer `{digits:.40}` does not fit in 64 bits"))),
        }
    }

    fn string(&mut self, quote: char) -> Result<Token, Fault> {
        let rest = self.rest();
        let triple = [quote; 3].iter().collect::<String>();
        let long = rest.starts_with(&triple);
        let mut chars = rest.char_indices().skip(if long { 3 } else { 1 });
        let mut bytes = Vec::new();
        let unterminated = || Fault::invalid("text has no end");
        loop {
            let (i, c) = chars.next().ok_or_else(unterminated)?;
            if c == quote && (!long || rest.get(i..).is_some_and(|r| r.starts_with(&triple))) {
                self.at += i + if long { 3 } else { 1 };
                break;
            }
            match c {
                '\n' if !long => return Err(unterminated()),
                '\\' => {
                    let (_, escape) = chars.next().ok_or_else(unterminated)?;
                    escaped(escape, &mut chars, &mut bytes)?;
                }
                _ => bytes.extend(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        // Bytes above 127 are written as escapes, one by one.
        let text = std::str::from_utf8(&bytes).map_err(|_| Fault::invalid("text is no UTF-8"))?;
        Ok(Token::Str(text.into()))
    }
}

/// Reads the rest of an escape.
fn escaped(
    escape: char,
    chars: &mut impl Iterator<Item = (usize, char)>,
    out: &mut Vec<u8>,
) -> Result<(), Fault> {
    let plain = match escape {
        'n' => b'\n',
        't' => b'\t',
        'r' => b'\r',
        'a' => 7,
        'b' => 8,
        'f' => 12,
        'v' => 11,
        '\\' => b'\\',
        '\'' => b'\'',
        '"' => b'"',
        '\n' => return Ok(()),
        'x' => {
            let mut digit = || chars.next().and_then(|(_, c)| c.to_digit(16));
            let value = digit().zip(digit()).and_then(|(a, b)| u8::try_from(16 * a + b).ok());
            value.ok_or_else(|| Fault::invalid("`\\x` is followed by no hexadecimal digits"))?
        }
        '0'..='7' => {
            // Three octal digits, as the serializer writes them.
            let first = escape.to_digit(8).unwrap_or(0);
            let mut digit = || chars.next().and_then(|(_, c)| c.to_digit(8));
            let value = digit().zip(digit()).and_then(|(a, b)| u8::try_from(64 * first + 8 * a + b).ok());
            value.ok_or_else(|| Fault::invalid("an escape is not three octal digits"))?
        }
        other => {
            out.push(b'\\');
            out.extend(other.encode_utf8(&mut [0; 4]).as_bytes());
            return Ok(());
        }
    };
    out.push(plain);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(text: &str) -> Vec<Token> {
        let mut lexer = Lexer::new(text);
        let mut out = vec![];
        loop {
            match lexer.next().unwrap() {
                Token::End => return out,
                token => out.push(token),
            }
        }
    }

    #[test]
    fn lines_and_indentation() {
        let found = tokens("a:\n  b\n\n  c(\n 1)\nd\n");
        let shape: String = found
            .iter()
            .map(|t| match t {
                Token::Newline => 'n',
                Token::Indent => '>',
                Token::Dedent => '<',
                Token::Word(_) => 'w',
                Token::Mark(_) => '.',
                _ => '1',
            })
            .collect();
        assert_eq!(shape, "w.n>wnw.1.n<wn");
    }

    #[test]
    fn numbers_and_text() {
        let s = |t: &str| Token::Str(t.into());
        assert_eq!(
            tokens("1. .5 1e-3 7 2j"),
            [Token::Float(1.0), Token::Float(0.5), Token::Float(1e-3), Token::Int(7), Token::Imaginary(2.0)]
        );
        assert_eq!(tokens(r#""a\n\'\"" 'b\\' "\x41\303\244""#), [s("a\n'\""), s("b\\"), s("Aä")]);
        assert!(Lexer::new("\"abc").next().is_err());
        assert!(Lexer::new("99999999999999999999").next().is_err());
    }
}
