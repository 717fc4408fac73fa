//! `kiln inspect` of a checkpoint: tensors, what they share, and the values beside them.

use std::fmt::Write as _;

use kiln::loaders::checkpoint::{Body, Checkpoint, CheckpointTensor, Item, ItemId, Quantization, Tree};
use serde_json::{Value, json};

use crate::table::{Table, bytes};

/// Values of a list or dict that are printed, and levels of these.
const MOST: usize = 40;
const DEEPEST: usize = 6;
/// Values that are printed at all: containers may be shared, and hold themselves.
const ALL: usize = 2000;
/// Characters of text that are printed.
const TEXT: usize = 200;

/// The description in words.
pub fn describe(checkpoint: &Checkpoint) -> String {
    let mut out = format!("{}: {} tensors\n", checkpoint.container().name(), checkpoint.len());
    let mut table = Table::new(&["tensor", "dtype", "shape", "bytes", "layout"]);
    for (name, tensor) in checkpoint.tensors() {
        let size = bytes(tensor.byte_len() as u64);
        table.row(vec![short(name), tensor.element.to_string(), shape(tensor), size, layout(tensor)]);
    }
    out += &table.render();
    let dense = sum(checkpoint.tensors().map(|(_, tensor)| tensor.byte_len()));
    let elements = sum(checkpoint.tensors().map(|(_, tensor)| tensor.numel()));
    let (stored, dense) = (bytes(checkpoint.stored_bytes() as u64), bytes(dense as u64));
    let _ = writeln!(out, "total: {elements} elements, {dense}; storages: {stored}");
    for (storage, names) in checkpoint.shared() {
        let _ = writeln!(out, "storage `{}` is shared by {}", short(&storage.name), list(&names));
    }
    for value in checkpoint.opaque() {
        let _ = writeln!(
            out,
            "not made, since only a call would make it: `{}` at `{}`",
            short(&value.name),
            short(&value.path)
        );
    }
    let mut printer = Printer { tree: checkpoint.tree(), left: ALL };
    if printer.is_worth(checkpoint.tree().root(), 0, &mut { ALL }) {
        out += "values:\n";
        printer.print(checkpoint.tree().root(), 1, &mut out);
    }
    out
}

/// The sum; views that repeat elements may have more than fit in memory.
fn sum(sizes: impl Iterator<Item = usize>) -> usize {
    sizes.fold(0, usize::saturating_add)
}

/// The description as JSON: keys `container`, `tensors`, `elements`, `stored_bytes`, `shared`, `opaque`, `values`.
pub fn to_json(checkpoint: &Checkpoint) -> Value {
    let tensors: Vec<Value> = checkpoint
        .tensors()
        .map(|(name, tensor)| {
            json!({
                "name": name,
                "dtype": tensor.element.to_string(),
                "shape": tensor.shape,
                "bytes": tensor.byte_len(),
                "layout": layout(tensor),
            })
        })
        .collect();
    let shared = checkpoint.shared();
    let shared: Vec<Value> =
        shared.iter().map(|(s, names)| json!({"storage": s.name, "tensors": names})).collect();
    let opaque = checkpoint.opaque().iter();
    let opaque: Vec<Value> = opaque.map(|v| json!({"path": v.path, "name": v.name})).collect();
    let mut printer = Printer { tree: checkpoint.tree(), left: ALL };
    let elements = sum(checkpoint.tensors().map(|(_, tensor)| tensor.numel()));
    json!({
        "container": checkpoint.container().name(),
        "tensors": tensors,
        "elements": elements,
        "stored_bytes": checkpoint.stored_bytes(),
        "shared": shared,
        "opaque": opaque,
        "values": printer.json(checkpoint.tree().root(), 0),
    })
}

fn shape(tensor: &CheckpointTensor) -> String {
    let dims: Vec<String> = tensor.shape.iter().map(ToString::to_string).collect();
    format!("[{}]", dims.join(", "))
}

/// How the elements lie, and what they stand for.
fn layout(tensor: &CheckpointTensor) -> String {
    let place = match &tensor.body {
        Body::Sparse(_) => "sparse",
        Body::Strided(_) if tensor.mapped().is_some() => "dense",
        Body::Strided(_) => "strided",
    };
    match &tensor.quantization {
        None => place.to_owned(),
        Some(Quantization::PerTensor { scale, zero_point }) => {
            format!("{place}, scale {scale}, zero point {zero_point}")
        }
        Some(Quantization::PerChannel { axis, .. }) => format!("{place}, scales along axis {axis}"),
    }
}

fn short(text: &str) -> String {
    let line = text.replace(|c: char| c.is_control(), " ");
    match line.char_indices().nth(TEXT) {
        Some((end, _)) => format!("{}...", line.get(..end).unwrap_or_default()),
        None => line,
    }
}

fn list(names: &[&str]) -> String {
    let shown: Vec<String> = names.iter().take(MOST).map(|name| format!("`{}`", short(name))).collect();
    let more = names.len().saturating_sub(shown.len());
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    shown.join(", ") + &rest
}

/// Prints values, so many at most.
struct Printer<'a> {
    tree: &'a Tree,
    left: usize,
}

impl Printer<'_> {
    /// Whether there is anything but tensors and empty containers in a value, or more of them than are looked at.
    fn is_worth(&self, id: ItemId, depth: usize, left: &mut usize) -> bool {
        if depth > DEEPEST || *left == 0 {
            return true;
        }
        *left -= 1;
        match self.tree.item(id) {
            Item::Tensor { .. } => false,
            Item::List(items) | Item::Tuple(items) | Item::Set(items) => {
                items.iter().take(MOST).any(|&item| self.is_worth(item, depth + 1, left))
            }
            Item::Dict { pairs, .. } => {
                pairs.iter().take(MOST).any(|&(_, item)| self.is_worth(item, depth + 1, left))
            }
            Item::None
            | Item::Bool(_)
            | Item::Int(_)
            | Item::Integer(_)
            | Item::Float(_)
            | Item::Complex(..)
            | Item::Text(_)
            | Item::Bytes(_)
            | Item::Name(_)
            | Item::Opaque(_) => true,
        }
    }

    /// A value that has no parts, or whose parts are not worth a line each.
    fn word(&self, id: ItemId) -> Option<String> {
        Some(match self.tree.item(id) {
            Item::None => "None".to_owned(),
            Item::Bool(b) => b.to_string(),
            Item::Int(n) => n.to_string(),
            Item::Integer(digits) => short(digits),
            Item::Float(x) => format!("{x:?}"),
            Item::Complex(re, im) => format!("{re:?} + {im:?}i"),
            Item::Text(text) => format!("{:?}", short(text.as_str())),
            Item::Bytes(bytes) => format!("{} bytes", bytes.len()),
            Item::Name(name) => short(name),
            Item::Tensor { .. } => "a tensor".to_owned(),
            Item::Opaque(opaque) => format!("{} (not made)", short(&opaque.name)),
            Item::List(items) | Item::Tuple(items) | Item::Set(items) => {
                let plain = |id: &ItemId| {
                    !matches!(
                        self.tree.item(*id),
                        Item::List(_) | Item::Tuple(_) | Item::Set(_) | Item::Dict { .. }
                    )
                };
                if !items.iter().take(MOST).all(plain) {
                    return None;
                }
                let shown: Vec<String> =
                    items.iter().take(MOST).filter_map(|&item| self.word(item)).collect();
                let more = items.len().saturating_sub(shown.len());
                let rest = if more > 0 { format!(", {more} more") } else { String::new() };
                format!("[{}{rest}]", shown.join(", "))
            }
            Item::Dict { pairs, .. } if pairs.is_empty() => "{}".to_owned(),
            Item::Dict { .. } => return None,
        })
    }

    /// The parts of a value, a line each.
    fn print(&mut self, id: ItemId, depth: usize, out: &mut String) {
        let (count, parts): (usize, Vec<(String, ItemId)>) = match self.tree.item(id) {
            Item::Dict { pairs, .. } => {
                let shown = pairs.iter().take(MOST).map(|&(key, value)| (self.key(key), value));
                (pairs.len(), shown.collect())
            }
            Item::List(items) | Item::Tuple(items) | Item::Set(items) => {
                let shown = items.iter().take(MOST).enumerate().map(|(i, &item)| (i.to_string(), item));
                (items.len(), shown.collect())
            }
            _ => {
                let _ = writeln!(out, "{}{}", "  ".repeat(depth), self.word(id).unwrap_or_default());
                return;
            }
        };
        let indent = "  ".repeat(depth);
        let mut tensors = 0;
        for (key, value) in parts {
            if matches!(self.tree.item(value), Item::Tensor { .. }) {
                tensors += 1;
                continue;
            }
            if self.left == 0 {
                return;
            }
            self.left -= 1;
            match self.word(value) {
                Some(word) => {
                    let _ = writeln!(out, "{indent}{key}: {word}");
                }
                None if depth >= DEEPEST => {
                    let _ = writeln!(out, "{indent}{key}: ...");
                }
                None => {
                    let _ = writeln!(out, "{indent}{key}:");
                    self.print(value, depth + 1, out);
                }
            }
        }
        if tensors > 0 {
            let _ = writeln!(out, "{indent}({tensors} tensors)");
        }
        if count > MOST {
            let _ = writeln!(out, "{indent}({} more)", count - MOST);
        }
    }

    fn key(&self, id: ItemId) -> String {
        match self.tree.item(id) {
            Item::Text(text) => short(text.as_str()),
            _ => self.word(id).unwrap_or_else(|| "...".to_owned()),
        }
    }

    fn json(&mut self, id: ItemId, depth: usize) -> Value {
        if self.left == 0 || depth > DEEPEST {
            return json!("...");
        }
        self.left -= 1;
        match self.tree.item(id) {
            Item::None => Value::Null,
            Item::Bool(b) => json!(b),
            Item::Int(n) => json!(n),
            Item::Float(x) if x.is_finite() => json!(x),
            Item::Text(text) => json!(short(text.as_str())),
            Item::List(items) | Item::Tuple(items) | Item::Set(items) => {
                items.iter().take(MOST).map(|&item| self.json(item, depth + 1)).collect()
            }
            Item::Dict { pairs, .. } => {
                let pairs =
                    pairs.iter().take(MOST).map(|&(key, value)| (self.key(key), self.json(value, depth + 1)));
                Value::Object(pairs.collect())
            }
            _ => json!(self.word(id)),
        }
    }
}
