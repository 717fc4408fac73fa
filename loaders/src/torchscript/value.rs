//! Values that the machine follows, and the heap of those that can be changed.

use std::collections::BTreeMap;
use std::rc::Rc;

use kiln_ir::{DType, Dim, Tensor, Type, Value};
use rustc_hash::FxHashMap;

use super::ast::{Block, Expr, Function, Name};

/// Where a value is computed: a constant, or a value of a graph under construction.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Traced {
    /// A constant.
    Constant(Tensor),
    /// A value of the graph of a scope.
    Node {
        /// The scope.
        scope: u32,
        /// The value in its graph.
        value: Value,
    },
    /// A sequence of values, not built yet; of none, its elements' type shows elsewhere.
    Sequence(Rc<[Traced]>),
    /// An integer that depends on sizes, as a rank-0 tensor.
    Size(Dim),
    /// Any value of the type: it stands where the program cannot read it.
    Anything(Type),
}

/// Kinds of single values that are computed at run time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// i64.
    Int,
    /// f64.
    Float,
    /// bool.
    Bool,
    /// Text.
    Text,
}

impl Kind {
    /// The dtype of its rank-0 tensor.
    pub fn dtype(self) -> DType {
        match self {
            Kind::Int => DType::I64,
            Kind::Float => DType::F64,
            Kind::Bool => DType::Bool,
            Kind::Text => DType::String,
        }
    }
}

/// A place on the heap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Ref(pub u32);

impl Ref {
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A value of the program.
#[derive(Clone, Debug)]
pub(crate) enum Val {
    /// `None`.
    None,
    /// A value that is never read.
    Uninitialized,
    /// A known bool.
    Bool(bool),
    /// A known integer.
    Int(i64),
    /// A known float.
    Float(f64),
    /// A complex number.
    Complex(f64, f64),
    /// An integer that depends on sizes.
    Dim(Dim),
    /// Known text.
    Str(Name),
    /// What shows at run time: a rank-0 tensor.
    Num(Kind, Traced),
    /// Text with `{}` in place of values that show at run time; only messages take it.
    Message(Name, Rc<[Val]>),
    /// A tensor.
    Tensor(Ref),
    /// A list.
    List(Ref),
    /// A dict.
    Dict(Ref),
    /// An instance of a class, or a module.
    Instance(Ref),
    /// A tuple; a named one has the name of its class.
    Tuple(Rc<[Val]>, Option<Name>),
    /// A device.
    Device(Name),
    /// A function.
    Function(Rc<Function>),
    /// A member of an enumeration: class, name, value.
    Member(Name, Name, Rc<Val>),
    /// What the archive only names: an object of a class in C++.
    Opaque(Name),
}

impl Val {
    /// Known text.
    pub fn text(text: impl Into<Name>) -> Val {
        Val::Str(text.into())
    }

    /// A tuple.
    pub fn tuple(items: impl Into<Rc<[Val]>>) -> Val {
        Val::Tuple(items.into(), None)
    }

    /// What it is, in messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Val::None => "None",
            Val::Uninitialized => "an uninitialized value",
            Val::Bool(_) | Val::Num(Kind::Bool, _) => "a bool",
            Val::Int(_) | Val::Dim(_) | Val::Num(Kind::Int, _) => "an integer",
            Val::Float(_) | Val::Num(Kind::Float, _) => "a float",
            Val::Complex(..) => "a complex number",
            Val::Str(_) | Val::Num(Kind::Text, _) | Val::Message(..) => "text",
            Val::Tensor(_) => "a tensor",
            Val::List(_) => "a list",
            Val::Dict(_) => "a dict",
            Val::Instance(_) => "an object",
            Val::Tuple(..) => "a tuple",
            Val::Device(_) => "a device",
            Val::Function(_) => "a function",
            Val::Member(..) => "a member of an enumeration",
            Val::Opaque(_) => "an object of a foreign class",
        }
    }
}

/// An integer expression as a value.
pub(crate) fn int_of(dim: Dim) -> Val {
    match dim.as_known() {
        Some(n) => Val::Int(n),
        None => Val::Dim(dim),
    }
}

/// What a view is of, and how it is taken from there.
#[derive(Debug)]
pub(crate) struct View {
    /// The tensor that it is a view of.
    pub base: Ref,
    /// The operator.
    pub op: Name,
    /// Its arguments; the first stands for the base.
    pub args: Vec<Val>,
    /// Its arguments by name.
    pub kwargs: Vec<(Name, Val)>,
    /// Which of its results.
    pub result: usize,
    /// Whether it shares the base's elements for sure. If not, it may be a copy of them.
    pub sure: bool,
}

/// A tensor on the heap.
#[derive(Clone, Debug)]
pub(crate) struct TensorCell {
    /// Its value, unless it is a view whose base has changed since.
    pub value: Traced,
    /// How often it was changed.
    pub version: u32,
    /// What it is a view of.
    pub view: Option<Rc<View>>,
    /// The base's version when the value was taken.
    pub seen: u32,
    /// Whether it may share elements with tensors that are not known: it must not be changed.
    pub shared: bool,
    /// Whether a change in place of another tensor may have changed it: it must not be read.
    pub lost: bool,
    /// Whether it is known to lie densely, in the order of its axes.
    pub plain: bool,
}

/// A list on the heap.
#[derive(Clone, Debug)]
pub(crate) enum ListCell {
    /// Known elements.
    Items(Vec<Val>),
    /// A sequence of run time, of elements of that kind; tensors have none.
    Sequence(Traced, Option<Kind>),
}

/// A cell of the heap.
#[derive(Clone, Debug)]
pub(crate) enum Cell {
    /// A tensor.
    Tensor(TensorCell),
    /// A list.
    List(ListCell),
    /// A dict, in the order of insertion.
    Dict(Vec<(Val, Val)>),
    /// An instance: the path of its class, and its attributes.
    Instance(Name, BTreeMap<Name, Val>),
}

/// Variables of a frame.
pub(crate) type Env = FxHashMap<Name, Val>;

/// How a block of a frame goes on when it has ended.
#[derive(Clone, Debug)]
pub(crate) enum Kept {
    /// It does not.
    Plain,
    /// With the next of so many numbers.
    For {
        /// The variable.
        target: Expr,
        /// The next number.
        next: i64,
        /// How many there are.
        count: i64,
    },
    /// If the condition holds.
    While {
        /// The condition.
        condition: Expr,
        /// How often it has held.
        count: u32,
    },
    /// By leaving a context.
    With(Val),
}

/// A block under way.
#[derive(Clone, Debug)]
pub(crate) struct Running {
    /// The statements.
    pub body: Block,
    /// The next one.
    pub at: usize,
    /// What comes after the last.
    pub kept: Kept,
}

/// What becomes of a call's result.
#[derive(Clone, Debug)]
pub(crate) enum Then {
    /// The caller's statement of this place assigns it to these targets, unpacked if so.
    Assign(Rc<[Expr]>, bool),
    /// It is dropped.
    Drop,
    /// A new object was initialized.
    Result,
}

/// A call under way.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    /// The function.
    pub function: Rc<Function>,
    /// Its variables.
    pub env: Rc<Env>,
    /// Its blocks, outermost first.
    pub blocks: Vec<Running>,
    /// What becomes of its result.
    pub then: Then,
}

/// All that changes while the program is followed.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    /// Cells by [`Ref`].
    pub heap: Vec<Rc<Cell>>,
    /// Calls under way, outermost first.
    pub frames: Vec<Frame>,
    /// The result, once the outermost call has ended.
    pub result: Option<Val>,
    /// Bytes that values on the way here have taken; cells are never freed.
    pub spent: usize,
}

/// What a value in a container takes, in bytes.
const VALUE: usize = std::mem::size_of::<Val>();

/// What an attribute and its name take, in bytes.
const ATTRIBUTE: usize = 2 * VALUE;

impl State {
    /// Counts memory.
    pub fn charge(&mut self, bytes: usize) {
        self.spent = self.spent.saturating_add(bytes);
    }

    /// Counts the memory of so many values.
    pub fn charge_values(&mut self, count: usize) {
        self.charge(count.saturating_mul(VALUE));
    }

    /// A cell. Places that do not exist give nothing.
    pub fn cell(&self, r: Ref) -> Option<&Cell> {
        self.heap.get(r.index()).map(|c| &**c)
    }

    /// A cell, to change it.
    pub fn cell_mut(&mut self, r: Ref) -> Option<&mut Cell> {
        self.heap.get_mut(r.index()).map(Rc::make_mut)
    }

    /// A new cell.
    pub fn add(&mut self, cell: Cell) -> Ref {
        let inner = match &cell {
            Cell::Tensor(_) | Cell::List(ListCell::Sequence(..)) => 0,
            Cell::List(ListCell::Items(items)) => items.len().saturating_mul(VALUE),
            Cell::Dict(pairs) => pairs.len().saturating_mul(2 * VALUE),
            Cell::Instance(_, attrs) => attrs.len().saturating_mul(ATTRIBUTE),
        };
        self.charge(inner.saturating_add(std::mem::size_of::<Cell>()));
        self.heap.push(Rc::new(cell));
        Ref(u32::try_from(self.heap.len() - 1).unwrap_or(u32::MAX))
    }

    /// A new tensor that shares nothing.
    pub fn tensor(&mut self, value: Traced) -> Val {
        Val::Tensor(self.add(Cell::Tensor(TensorCell {
            value,
            version: 0,
            view: None,
            seen: 0,
            shared: false,
            lost: false,
            plain: false,
        })))
    }

    /// A new tensor that shares nothing and lies densely.
    pub fn plain_tensor(&mut self, value: Traced) -> Val {
        let v = self.tensor(value);
        if let Val::Tensor(r) = v {
            self.change_tensor(r, |cell| cell.plain = true);
        }
        v
    }

    /// A new tensor that may be another one as well.
    pub fn shared_tensor(&mut self, value: Traced) -> Val {
        let v = self.tensor(value);
        if let Val::Tensor(r) = v {
            self.change_tensor(r, |cell| cell.shared = true);
        }
        v
    }

    /// Changes what is known of a tensor.
    pub fn change_tensor(&mut self, r: Ref, change: impl FnOnce(&mut TensorCell)) {
        if let Some(Cell::Tensor(cell)) = self.cell_mut(r) {
            change(cell);
        }
    }

    /// A new list.
    pub fn list(&mut self, items: Vec<Val>) -> Val {
        Val::List(self.add(Cell::List(ListCell::Items(items))))
    }

    /// A new dict.
    pub fn dict(&mut self, pairs: Vec<(Val, Val)>) -> Val {
        Val::Dict(self.add(Cell::Dict(pairs)))
    }

    /// The elements of a list whose elements are known, or of a tuple.
    pub fn items(&self, v: &Val) -> Option<Vec<Val>> {
        match v {
            Val::Tuple(items, _) => Some(items.to_vec()),
            Val::List(r) => match self.cell(*r)? {
                Cell::List(ListCell::Items(items)) => Some(items.clone()),
                _ => None,
            },
            _ => None,
        }
    }
}
