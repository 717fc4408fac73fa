//! Looking at Rust source without what stands in comments and literals.

/// The 1-based numbers of the lines that hold `word` as a whole word of code.
pub fn lines_with_word(text: &str, word: &str) -> Vec<usize> {
    let code = code(text);
    let is_word = |part: &str| part == word;
    let has = |line: &str| line.split(|c: char| !c.is_alphanumeric() && c != '_').any(is_word);
    code.lines().enumerate().filter(|(_, line)| has(line)).map(|(index, _)| index + 1).collect()
}

/// The functions of more than `limit` lines, as the line of their `fn` and their length. The text is taken to be
/// formatted by rustfmt: a function ends with the first `}` that stands as deep as its first line.
pub fn long_functions(text: &str, limit: usize) -> Vec<(usize, usize)> {
    let code = code(text);
    let lines: Vec<&str> = code.lines().collect();
    let mut long = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        if !line.split_whitespace().any(|word| word == "fn") || line.trim_end().ends_with('}') {
            continue;
        }
        let indent = indent_of(line);
        let ends = |line: &&str| line.starts_with(indent) && line[indent.len()..].starts_with('}');
        let bodyless = |line: &&str| line.trim_end().ends_with(';') && indent_of(line) == indent;
        let end = lines[start..].iter().position(|line| ends(line) || bodyless(line)).unwrap_or(0);
        if end + 1 > limit {
            long.push((start + 1, end + 1));
        }
    }
    long
}

fn indent_of(line: &str) -> &str {
    &line[..line.len() - line.trim_start().len()]
}

/// `text` with the insides of comments and of string and character literals blanked; the lines stay.
fn code(text: &str) -> String {
    let characters: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while let Some(&c) = characters.get(at) {
        let end = skip(&characters, at).max(at);
        if end == at {
            out.push(c);
            at += 1;
        } else {
            out.extend(characters[at..end].iter().map(|&c| if c == '\n' { '\n' } else { ' ' }));
            at = end;
        }
    }
    out
}

/// The end of the comment or literal that starts at `at`; `at` itself where none does.
fn skip(text: &[char], at: usize) -> usize {
    let next = text.get(at + 1).copied();
    // A `b` before it makes it a byte string, which is no other matter here.
    let in_word = at > 0 && text[at - 1] != 'b' && (text[at - 1].is_alphanumeric() || text[at - 1] == '_');
    match text[at] {
        '/' if next == Some('/') => find(text, at, |c| c == '\n'),
        '/' if next == Some('*') => block_comment(text, at),
        '"' => quoted(text, at, '"'),
        'r' if !in_word && matches!(next, Some('"' | '#')) => raw_string(text, at),
        // A lifetime has no closing quote behind its first character; a literal has, or starts with a backslash.
        '\'' if next == Some('\\') || text.get(at + 2) == Some(&'\'') => quoted(text, at, '\''),
        _ => at,
    }
}

fn find(text: &[char], from: usize, stop: impl Fn(char) -> bool) -> usize {
    text[from..].iter().position(|&c| stop(c)).map_or(text.len(), |offset| from + offset)
}

fn block_comment(text: &[char], start: usize) -> usize {
    let (mut at, mut depth) = (start, 0_usize);
    while at < text.len() {
        match (text[at], text.get(at + 1)) {
            ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
            ('*', Some('/')) => (depth, at) = (depth.saturating_sub(1), at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    text.len()
}

fn quoted(text: &[char], start: usize, quote: char) -> usize {
    let mut at = start + 1;
    while at < text.len() {
        match text[at] {
            '\\' => at += 2,
            c if c == quote => return at + 1,
            _ => at += 1,
        }
    }
    text.len()
}

fn raw_string(text: &[char], start: usize) -> usize {
    let open = find(text, start + 1, |c| c != '#');
    if text.get(open) != Some(&'"') {
        // A raw identifier.
        return start;
    }
    let hashes = open - start - 1;
    let closes =
        |at: usize| text[at] == '"' && text[at + 1..].iter().take_while(|&&c| c == '#').count() >= hashes;
    (open + 1..text.len()).find(|&at| closes(at)).map_or(text.len(), |at| at + 1 + hashes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_in_comments_and_literals_do_not_count() {
        let text = "a unsafe\n// unsafe\n/* unsafe /* */ unsafe */ b\n\"unsafe \\\" unsafe\"\nr#\"unsafe\" unsafe\"#\n\
                    'u' unsafe<'a>\nunsafe_code r#fn\n'\\'' unsafe";
        assert_eq!(lines_with_word(text, "unsafe"), [1, 6, 8]);
    }

    #[test]
    fn a_function_is_as_long_as_to_its_closing_brace() {
        let text = "impl A {\n    fn short() -> u8;\n    fn long(\n        a: u8,\n    ) {\n        b;\n    }\n}\nfn one() {}\n";
        assert_eq!(long_functions(text, 4), [(3, 5)]);
        assert!(long_functions(text, 5).is_empty());
    }
}
