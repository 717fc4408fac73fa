//! What a pickle describes: a graph of values, none of them made by calling anything.

use bytes::Bytes;

/// A value of a pickle. Values are shared and may contain themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(pub(super) u32);

impl Id {
    /// Position among the values of the pickle.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// UTF-8 text that lies in the file, or was decoded from it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Text(Bytes);

impl Text {
    /// The bytes as text, if they are UTF-8.
    pub fn new(bytes: Bytes) -> Option<Self> {
        std::str::from_utf8(&bytes).is_ok().then_some(Text(bytes))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        // Checked when it was made; a file that changes under its map may differ by now.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Text(Bytes::from(text))
    }
}

impl From<&'static str> for Text {
    fn from(text: &'static str) -> Self {
        Text(Bytes::from_static(text.as_bytes()))
    }
}

impl std::fmt::Debug for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

impl std::fmt::Display for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An integer that 64 bits do not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Long {
    /// Two's complement, little-endian.
    Bytes(Bytes),
    /// Decimal digits, after a sign if it is negative.
    Digits(Text),
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Node {
    /// `None`.
    None,
    /// A bool.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// A large integer.
    Long(Long),
    /// A float.
    Float(f64),
    /// Text. Python 2's byte strings are text where they are UTF-8, as torch reads them.
    Str(Text),
    /// Bytes, and byte strings of Python 2 that are no UTF-8.
    Bytes(Bytes),
    /// A `bytearray`.
    ByteArray(Bytes),
    /// A list.
    List(Vec<Id>),
    /// A tuple.
    Tuple(Vec<Id>),
    /// A dict, in the order of insertion; a key that comes twice stands twice.
    Dict(Vec<(Id, Id)>),
    /// A set.
    Set(Vec<Id>),
    /// A frozenset.
    FrozenSet(Vec<Id>),
    /// A name that Python would import.
    Global(Box<Global>),
    /// What Python would look up in its registry of extensions.
    Extension(u32),
    /// What the program that reads the pickle looks up: its id.
    Persistent(Id),
    /// What Python would make by a call.
    Object(Box<Object>),
}

impl Node {
    /// What it is, in messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Node::None => "None",
            Node::Bool(_) => "a bool",
            Node::Int(_) | Node::Long(_) => "an integer",
            Node::Float(_) => "a float",
            Node::Str(_) => "text",
            Node::Bytes(_) | Node::ByteArray(_) => "bytes",
            Node::List(_) => "a list",
            Node::Tuple(_) => "a tuple",
            Node::Dict(_) => "a dict",
            Node::Set(_) | Node::FrozenSet(_) => "a set",
            Node::Global(_) => "a global name",
            Node::Extension(_) => "an extension",
            Node::Persistent(_) => "a persistent id",
            Node::Object(_) => "an object",
        }
    }
}

/// A dotted name of a module, and a name in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Global {
    /// The module.
    pub module: Text,
    /// The name, which may be dotted.
    pub name: Text,
}

/// An object as the pickle describes it: the call that Python would make, and what it would put into the result.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// A class or function: most often a [`Node::Global`].
    pub callable: Id,
    /// A tuple of arguments, if the file is honest.
    pub args: Id,
    /// A dict of keyword arguments.
    pub kwargs: Option<Id>,
    /// What `__setstate__` or `__dict__` would take.
    pub state: Option<Id>,
    /// What would be appended, or added to a set.
    pub items: Vec<Id>,
    /// What would be set by key.
    pub pairs: Vec<(Id, Id)>,
}

/// All values of a pickle.
#[derive(Clone, Debug)]
pub struct Pickle {
    pub(super) nodes: Vec<Node>,
    pub(super) root: Id,
    pub(super) end: usize,
}

impl Pickle {
    /// The value that the pickle is about.
    pub fn root(&self) -> Id {
        self.root
    }

    /// Where the next pickle of the input begins.
    pub fn end(&self) -> usize {
        self.end
    }

    /// A value. Ids of another pickle give `None`, the value.
    pub fn node(&self, id: Id) -> &Node {
        self.nodes.get(id.index()).unwrap_or(&Node::None)
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there is no value; a pickle that was read has one.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// All values, those included that nothing refers to.
    pub fn nodes(&self) -> impl Iterator<Item = (Id, &Node)> {
        self.nodes.iter().enumerate().map(|(i, node)| (Id(u32::try_from(i).unwrap_or(u32::MAX)), node))
    }

    /// The text of a value that is text.
    pub fn text(&self, id: Id) -> Option<&str> {
        match self.node(id) {
            Node::Str(text) => Some(text.as_str()),
            _ => None,
        }
    }

    /// The integer of a value that is one within 64 bits; bools count, as in Python.
    pub fn int(&self, id: Id) -> Option<i64> {
        match self.node(id) {
            Node::Int(n) => Some(*n),
            Node::Bool(b) => Some(i64::from(*b)),
            _ => None,
        }
    }

    /// The parts of a tuple or list.
    pub fn items(&self, id: Id) -> Option<&[Id]> {
        match self.node(id) {
            Node::Tuple(items) | Node::List(items) => Some(items),
            _ => None,
        }
    }

    /// Module and name of a value that is a global.
    pub fn global(&self, id: Id) -> Option<(&str, &str)> {
        match self.node(id) {
            Node::Global(global) => Some((global.module.as_str(), global.name.as_str())),
            _ => None,
        }
    }
}
