//! What a checkpoint holds beside and around its tensors: names, numbers, text, containers.

use bytes::Bytes;

use super::pickle::Text;
use super::tensor::TensorFault;

/// A value of a tree. Values may be shared, and may contain themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ItemId(pub(super) u32);

impl ItemId {
    pub(super) fn index(self) -> usize {
        self.0 as usize
    }
}

/// What a value is.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// Nothing.
    None,
    /// A bool.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// An integer of more than 64 bits, in decimal or after `0x` in hexadecimal digits.
    Integer(String),
    /// A float.
    Float(f64),
    /// Real and imaginary part.
    Complex(f64, f64),
    /// Text.
    Text(Text),
    /// Bytes.
    Bytes(Bytes),
    /// A list.
    List(Vec<ItemId>),
    /// A tuple.
    Tuple(Vec<ItemId>),
    /// A set.
    Set(Vec<ItemId>),
    /// Keys and values, in order; of two equal keys the later one counts.
    Dict {
        /// The pairs.
        pairs: Vec<(ItemId, ItemId)>,
        /// Attributes of the dict object itself, such as the versions that torch puts there.
        attributes: Option<ItemId>,
    },
    /// A tensor.
    Tensor {
        /// Its position among the tensors of the checkpoint.
        tensor: usize,
        /// Attributes of the tensor object itself.
        attributes: Option<ItemId>,
    },
    /// A class, function, dtype or device, which the file only names.
    Name(String),
    /// What only a call of Python would make. Nothing is called: the name and what it would be made from remain.
    Opaque(Box<Opaque>),
}

/// A value that Kiln does not make.
#[derive(Clone, Debug, PartialEq)]
pub struct Opaque {
    /// What would make it: `module.name`, or a description.
    pub name: String,
    /// Why a known kind of value is not made from this.
    pub fault: Option<TensorFault>,
    /// What it would be made from: arguments, state, items, each by a name; the empty one for those that are the object's
    /// own attributes.
    pub parts: Vec<(&'static str, ItemId)>,
}

/// A tree of values.
#[derive(Clone, Debug)]
pub struct Tree {
    pub(super) items: Vec<Item>,
    pub(super) root: ItemId,
}

impl Tree {
    /// The outermost value.
    pub fn root(&self) -> ItemId {
        self.root
    }

    /// A value. An id of another tree gives `None`, the value.
    pub fn item(&self, id: ItemId) -> &Item {
        self.items.get(id.index()).unwrap_or(&Item::None)
    }

    /// The value of a text key in a dict.
    pub fn get(&self, dict: ItemId, key: &str) -> Option<ItemId> {
        let Item::Dict { pairs, .. } = self.item(dict) else { return None };
        let is_key = |id: ItemId| matches!(self.item(id), Item::Text(text) if text.as_str() == key);
        pairs.iter().rev().find(|(k, _)| is_key(*k)).map(|(_, v)| *v)
    }

    /// A tree that is built from the leaves up.
    pub(super) fn builder() -> TreeBuilder {
        TreeBuilder { items: Vec::new() }
    }
}

/// A tree under construction.
pub(super) struct TreeBuilder {
    items: Vec<Item>,
}

impl TreeBuilder {
    /// Adds a value. Trees hold fewer values than numbers of 32 bits tell apart, as their sources are bounded.
    pub(super) fn add(&mut self, item: Item) -> ItemId {
        let id = u32::try_from(self.items.len()).unwrap_or(u32::MAX);
        self.items.push(item);
        ItemId(id)
    }

    /// A dict of text keys.
    pub(super) fn dict(&mut self, pairs: Vec<(String, ItemId)>) -> ItemId {
        let pairs = pairs.into_iter().map(|(key, value)| (self.add(Item::Text(Text::from(key))), value));
        let pairs = pairs.collect();
        self.add(Item::Dict { pairs, attributes: None })
    }

    pub(super) fn finish(self, root: ItemId) -> Tree {
        Tree { items: self.items, root }
    }
}
