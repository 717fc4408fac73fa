//! Source maps: where a byte of the serialized source comes from. They are read for messages only, so what is wrong with
//! one is no error.

use bytes::Bytes;

use crate::checkpoint::pickle::{self, Id, Node, Pickle};

/// What the values of a source map may take, in bytes, beyond its size.
const MEMORY: usize = 16 << 20;

/// File and line of the original source from which byte `offset` of a serialized one comes.
pub(crate) fn original(map: &Bytes, offset: u32) -> Option<(String, u64)> {
    let pickle = pickle::read(map, 0, map.len().saturating_mul(4).saturating_add(MEMORY)).ok()?;
    let root = pickle.items(pickle.root())?;
    let (strings, records) = match root {
        [format, strings, records] if pickle.text(*format) == Some("FORMAT_WITH_STRING_TABLE") => {
            (pickle.items(*strings)?, pickle.items(*records)?)
        }
        records => (&[][..], records),
    };
    let mut best = None;
    for &record in records {
        let parts = pickle.items(record)?;
        let (Some(&start), Some(&range)) = (parts.first(), parts.get(1)) else { return None };
        if pickle.int(start)? > i64::from(offset) {
            break;
        }
        // Ranges without a file say nothing.
        if let Some(found) = place(&pickle, strings, range) {
            best = Some(found);
        }
    }
    best
}

/// File and line of a range: `((text, file, first line), start, end)`.
fn place(pickle: &Pickle, strings: &[Id], range: Id) -> Option<(String, u64)> {
    let [source, start, _] = pickle.items(range)? else { return None };
    let [text, file, first] = pickle.items(*source)? else { return None };
    let file = match pickle.node(*file) {
        Node::Str(name) => name.as_str(),
        Node::Int(i) => pickle.text(*strings.get(usize::try_from(*i).ok()?)?)?,
        _ => return None,
    };
    if file.is_empty() {
        return None;
    }
    let start = usize::try_from(pickle.int(*start)?).ok()?;
    let lines = match pickle.node(*text) {
        Node::Str(text) => newlines(text.as_str(), start),
        _ => {
            let (mut left, mut lines) = (start, 0);
            for &i in int_list(pickle, *text)? {
                let piece = pickle.text(*strings.get(usize::try_from(pickle.int(i)?).ok()?)?)?;
                lines += newlines(piece, left);
                left = left.saturating_sub(piece.len());
                if left == 0 {
                    break;
                }
            }
            lines
        }
    };
    let first = u64::try_from(pickle.int(*first)?).ok()?;
    Some((file.to_owned(), first.saturating_add(lines).saturating_add(1)))
}

fn newlines(text: &str, end: usize) -> u64 {
    text.bytes().take(end).filter(|&b| b == b'\n').count() as u64
}

/// A list, or what `build_intlist` would make of one.
fn int_list(pickle: &Pickle, id: Id) -> Option<&[Id]> {
    match pickle.node(id) {
        Node::Object(object) => match pickle.items(object.args)? {
            [list] => pickle.items(*list),
            _ => None,
        },
        _ => pickle.items(id),
    }
}
