//! Lexical helpers of the text form.

/// Reads a quoted string in the syntax of `{:?}` from the start of `text`; gives it with the number of bytes read.
pub fn unquote(text: &str) -> Option<(String, usize)> {
    let mut chars = text.char_indices();
    if chars.next()?.1 != '"' {
        return None;
    }
    let mut out = String::new();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((out, at + 1)),
            '\\' => match chars.next()?.1 {
                'n' => out.push('\n'),
                't' => out.push('\t'),
                'r' => out.push('\r'),
                '0' => out.push('\0'),
                c @ ('\\' | '"' | '\'') => out.push(c),
                'u' => {
                    let rest = chars.as_str().strip_prefix('{')?;
                    let (hex, _) = rest.split_once('}')?;
                    if hex.len() > 6 {
                        return None;
                    }
                    out.push(char::from_u32(u32::from_str_radix(hex, 16).ok()?)?);
                    for _ in 0..hex.len() + 2 {
                        chars.next();
                    }
                }
                _ => return None,
            },
            c => out.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unquotes_what_debug_prints() {
        for s in ["", "a b", "\"\\\n\u{7f}\u{301}é", "x\0y"] {
            let printed = format!("{s:?} rest");
            let (back, used) = unquote(&printed).unwrap();
            assert_eq!((back.as_str(), &printed[used..]), (s, " rest"));
        }
        assert_eq!(unquote("\"open"), None);
        assert_eq!(unquote("\"\\u{110000}\""), None);
    }
}
