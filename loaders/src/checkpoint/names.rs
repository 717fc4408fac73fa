//! Names of tensors: the way to each from the root of the tree.

use rustc_hash::FxHashSet;

use super::tree::{Item, ItemId, Tree};

/// Bounds on a walk through a tree that may share its parts and contain itself.
pub(super) struct Bounds {
    /// Nesting.
    pub(super) depth: usize,
    /// Bytes of all names together.
    pub(super) memory: usize,
}

/// What a walk finds.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// Names of tensors with their positions, in the tree's order.
    pub(super) tensors: Vec<(String, usize)>,
    /// Values that only a call would make: the way to each, and its item.
    pub(super) opaque: Vec<(String, ItemId)>,
}

/// What a walk exceeds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Exceeded {
    /// Nesting.
    Depth,
    /// Memory of the names, or the number of places that a value has.
    Memory,
}

/// Names all tensors of a tree. A name joins the keys and positions on the way by dots; parameters, buffers and modules of
/// a module of torch are named as its `state_dict` would name them. What contains itself is followed once.
pub(super) fn names(tree: &Tree, bounds: &Bounds) -> Result<Names, Exceeded> {
    let steps = tree.items.len().saturating_mul(8).saturating_add(1 << 20);
    let (active, barren) = (vec![false; tree.items.len()], vec![false; tree.items.len()]);
    let mut walk = Walk {
        tree,
        bounds,
        steps,
        left: bounds.memory,
        active,
        barren,
        seen: FxHashSet::default(),
        path: String::new(),
        found: Names::default(),
    };
    walk.visit(tree.root(), 0)?;
    Ok(walk.found)
}

struct Walk<'a> {
    tree: &'a Tree,
    bounds: &'a Bounds,
    steps: usize,
    left: usize,
    /// What the walk is inside of.
    active: Vec<bool>,
    /// What holds no tensors.
    barren: Vec<bool>,
    /// Opaque values that were listed.
    seen: FxHashSet<ItemId>,
    path: String,
    found: Names,
}

impl Walk<'_> {
    /// Whether there are tensors in a value.
    fn visit(&mut self, id: ItemId, depth: usize) -> Result<bool, Exceeded> {
        if depth > self.bounds.depth {
            return Err(Exceeded::Depth);
        }
        let is = |list: &[bool]| list.get(id.index()).copied().unwrap_or(true);
        if is(&self.barren) || is(&self.active) {
            return Ok(false);
        }
        self.set(id, |walk| &mut walk.active, true);
        let tree = self.tree;
        let found = match tree.item(id) {
            Item::Tensor { tensor, attributes } => {
                let name = self.name()?;
                self.found.tensors.push((name, *tensor));
                if let Some(attributes) = attributes {
                    self.below("__dict__", *attributes, depth)?;
                }
                true
            }
            Item::List(items) | Item::Tuple(items) | Item::Set(items) => {
                let mut found = false;
                for (i, &item) in items.iter().enumerate() {
                    found |= self.below(&i.to_string(), item, depth)?;
                }
                found
            }
            Item::Dict { pairs, attributes } => {
                let mut found = self.pairs(pairs, depth, false)?;
                if let Some(attributes) = attributes {
                    found |= self.below("__dict__", *attributes, depth)?;
                }
                found
            }
            Item::Opaque(opaque) => {
                if self.seen.insert(id) {
                    let name = self.name()?;
                    self.found.opaque.push((name, id));
                }
                let mut found = false;
                for &(part, item) in &opaque.parts {
                    found |= match tree.item(item) {
                        Item::Dict { pairs, .. } if part.is_empty() => self.pairs(pairs, depth + 1, true)?,
                        _ => self.below(part, item, depth)?,
                    };
                }
                found
            }
            Item::None
            | Item::Bool(_)
            | Item::Int(_)
            | Item::Integer(_)
            | Item::Float(_)
            | Item::Complex(..)
            | Item::Text(_)
            | Item::Bytes(_)
            | Item::Name(_) => false,
        };
        self.set(id, |walk| &mut walk.active, false);
        if !found {
            self.set(id, |walk| &mut walk.barren, true);
        }
        Ok(found)
    }

    fn pairs(
        &mut self,
        pairs: &[(ItemId, ItemId)],
        depth: usize,
        attributes: bool,
    ) -> Result<bool, Exceeded> {
        let mut found = false;
        for (i, &(key, value)) in pairs.iter().enumerate() {
            let key = match self.tree.item(key) {
                Item::Text(text) => text.to_string(),
                Item::Int(n) => n.to_string(),
                Item::Bool(b) => b.to_string(),
                Item::Float(x) => x.to_string(),
                _ => format!("key{i}"),
            };
            let hidden = attributes && matches!(key.as_str(), "_parameters" | "_buffers" | "_modules");
            found |= self.below(if hidden { "" } else { &key }, value, depth)?;
        }
        Ok(found)
    }

    /// Visits a value below a key.
    fn below(&mut self, key: &str, id: ItemId, depth: usize) -> Result<bool, Exceeded> {
        self.steps = self.steps.checked_sub(1).ok_or(Exceeded::Memory)?;
        // Before the path grows: most values are plain, and paths may be long.
        if self.barren.get(id.index()).copied().unwrap_or(true) {
            return Ok(false);
        }
        let length = self.path.len();
        if !key.is_empty() && length > 0 {
            self.path.push('.');
        }
        self.path.push_str(key);
        let found = self.visit(id, depth + 1)?;
        self.path.truncate(length);
        Ok(found)
    }

    fn name(&mut self) -> Result<String, Exceeded> {
        let bytes = self.path.len() + 2 * size_of::<(String, usize)>();
        self.left = self.left.checked_sub(bytes).ok_or(Exceeded::Memory)?;
        Ok(self.path.clone())
    }

    fn set(&mut self, id: ItemId, list: impl Fn(&mut Self) -> &mut Vec<bool>, to: bool) {
        if let Some(flag) = list(self).get_mut(id.index()) {
            *flag = to;
        }
    }
}
