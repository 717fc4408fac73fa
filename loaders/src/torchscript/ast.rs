//! The serialized source of TorchScript as a tree.

use std::rc::Rc;

/// A name or other text of the source.
pub(crate) type Name = Rc<str>;

/// An expression. Operators of Python are written with the names of ATen's, which mean the same.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Expr {
    /// A variable, or the first part of a path.
    Name(Name),
    /// `value.name`.
    Attr(Box<Expr>, Name),
    /// A call.
    Call(Rc<Call>),
    /// `value[index]`.
    Index(Box<Expr>, Box<Expr>),
    /// `value[start:end:step]`.
    Slice(Box<Expr>, Box<[Option<Expr>; 3]>),
    /// An integer.
    Int(i64),
    /// A float.
    Float(f64),
    /// An imaginary number.
    Imaginary(f64),
    /// Text.
    Str(Name),
    /// A bool.
    Bool(bool),
    /// `None`.
    None,
    /// A list.
    List(Rc<[Expr]>),
    /// A tuple.
    Tuple(Rc<[Expr]>),
    /// A dict.
    Dict(Rc<[(Expr, Expr)]>),
    /// `a if condition else b`: condition, a, b.
    Ternary(Box<[Expr; 3]>),
    /// `a and b`, or `a or b` if it is not `and`.
    Logic {
        /// Whether it is `and`.
        and: bool,
        /// The operands.
        operands: Box<[Expr; 2]>,
    },
    /// An operator: its name in ATen and its operands.
    Operator(&'static str, Rc<[Expr]>),
}

/// A call.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Call {
    /// What is called.
    pub callee: Expr,
    /// Arguments by position.
    pub args: Vec<Expr>,
    /// Arguments by name.
    pub kwargs: Vec<(Name, Expr)>,
}

/// A sequence of statements.
pub(crate) type Block = Rc<[Stmt]>;

/// A statement, and where it begins in its file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Stmt {
    /// What it does.
    pub kind: StmtKind,
    /// Byte offset in the source.
    pub at: u32,
}

/// What a statement does.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum StmtKind {
    /// `a, b = x, y`; or `a, b, = x` if one value is unpacked.
    Assign {
        /// Names, attributes or elements.
        targets: Rc<[Expr]>,
        /// Whether the only value has an element for each target.
        unpack: bool,
        /// The type that the only target is declared with.
        annotation: Option<Expr>,
        /// The values: one, or as many as targets.
        values: Rc<[Expr]>,
    },
    /// A declaration without a value, of a class: name and type.
    Declare(Expr, Expr),
    /// An expression for its effect.
    Expr(Expr),
    /// A branch.
    If(Expr, Block, Block),
    /// `for name in iterable`.
    For(Expr, Expr, Block),
    /// A loop.
    While(Expr, Block),
    /// `with value as name`.
    With(Expr, Option<Name>, Block),
    /// The result of the function.
    Return(Expr),
    /// An exception.
    Raise(Option<Expr>),
    /// An assertion and its message.
    Assert(Expr, Option<Expr>),
    /// Nothing.
    Pass,
    /// Removal of an element.
    Delete(Expr),
    /// A function inside of a function or file.
    Def(Rc<Function>),
    /// A class.
    Class(Rc<Class>),
}

/// A parameter of a function.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Param {
    /// Name.
    pub name: Name,
    /// Type, if it is declared.
    pub ty: Option<Expr>,
    /// Value of a call that leaves it out.
    pub default: Option<Expr>,
}

/// A function or method.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Function {
    /// Name, without its module or class.
    pub name: Name,
    /// Parameters; the first of a method is `self`.
    pub params: Vec<Param>,
    /// Type of the result.
    pub returns: Option<Expr>,
    /// What it does.
    pub body: Block,
    /// Which file it is from, by number.
    pub file: u32,
    /// Byte offset in the source.
    pub at: u32,
}

/// A class.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Class {
    /// Name, without its module.
    pub name: Name,
    /// What it derives from: `Module`, `NamedTuple`, `Enum`.
    pub base: Option<Expr>,
    /// Its declarations and methods.
    pub body: Block,
}

impl Class {
    /// The method of that name.
    pub fn method(&self, name: &str) -> Option<&Rc<Function>> {
        self.methods().find(|f| &*f.name == name)
    }

    /// All methods, in the file's order.
    pub fn methods(&self) -> impl Iterator<Item = &Rc<Function>> {
        self.body.iter().filter_map(|s| match &s.kind {
            StmtKind::Def(f) => Some(f),
            _ => None,
        })
    }

    /// Declared attributes with their types and, if they are constants, values.
    pub fn attributes(&self) -> impl Iterator<Item = (&str, Option<&Expr>, Option<&Expr>)> {
        self.body.iter().filter_map(|s| match &s.kind {
            StmtKind::Declare(Expr::Name(name), ty) => Some((&**name, Some(ty), None)),
            StmtKind::Declare(Expr::Index(_, key), ty) => key.as_str().map(|key| (key, Some(ty), None)),
            StmtKind::Assign { targets, annotation, values, .. } => match (&**targets, &**values) {
                ([Expr::Name(name)], [value]) => Some((&**name, annotation.as_ref(), Some(value))),
                ([Expr::Index(_, key)], [ty]) => key.as_str().map(|key| (key, Some(ty), None)),
                _ => None,
            },
            _ => None,
        })
    }

    /// Whether it derives from a class of that name.
    pub fn is_a(&self, base: &str) -> bool {
        matches!(&self.base, Some(Expr::Name(name)) if &**name == base)
    }
}

impl Expr {
    /// The text, if it is text.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Expr::Str(s) => Some(s),
            _ => None,
        }
    }

    /// The dotted path, if it is nothing but names: `torch.nn.functional.relu`.
    pub fn path(&self) -> Option<String> {
        match self {
            Expr::Name(name) => Some(name.to_string()),
            Expr::Attr(inner, name) => {
                let mut path = inner.path()?;
                path.push('.');
                path.push_str(name);
                Some(path)
            }
            _ => None,
        }
    }

    /// Visits the expression and all that are in it.
    pub fn visit(&self, visit: &mut dyn FnMut(&Expr)) {
        visit(self);
        match self {
            Expr::Attr(value, _) => value.visit(visit),
            Expr::Call(call) => {
                call.callee.visit(visit);
                call.args.iter().for_each(|e| e.visit(visit));
                call.kwargs.iter().for_each(|(_, e)| e.visit(visit));
            }
            Expr::Index(value, index) => {
                value.visit(visit);
                index.visit(visit);
            }
            Expr::Slice(value, parts) => {
                value.visit(visit);
                parts.iter().flatten().for_each(|e| e.visit(visit));
            }
            Expr::List(items) | Expr::Tuple(items) | Expr::Operator(_, items) => {
                items.iter().for_each(|e| e.visit(visit));
            }
            Expr::Dict(pairs) => pairs.iter().for_each(|(k, v)| {
                k.visit(visit);
                v.visit(visit);
            }),
            Expr::Ternary(parts) => parts.iter().for_each(|e| e.visit(visit)),
            Expr::Logic { operands, .. } => operands.iter().for_each(|e| e.visit(visit)),
            Expr::Name(_)
            | Expr::Int(_)
            | Expr::Float(_)
            | Expr::Imaginary(_)
            | Expr::Str(_)
            | Expr::Bool(_)
            | Expr::None => {}
        }
    }

    /// The first part of a dotted path.
    pub fn root(&self) -> Option<&str> {
        match self {
            Expr::Name(name) => Some(name),
            Expr::Attr(inner, _) => inner.root(),
            _ => None,
        }
    }
}

/// Visits all expressions of statements.
pub(crate) fn visit_block(body: &[Stmt], visit: &mut dyn FnMut(&Expr)) {
    for stmt in body {
        match &stmt.kind {
            StmtKind::Assign { values, .. } => values.iter().for_each(|e| e.visit(visit)),
            StmtKind::Expr(e) | StmtKind::Return(e) | StmtKind::Delete(e) => e.visit(visit),
            StmtKind::If(condition, then, otherwise) => {
                condition.visit(visit);
                visit_block(then, visit);
                visit_block(otherwise, visit);
            }
            StmtKind::For(_, e, body) | StmtKind::While(e, body) | StmtKind::With(e, _, body) => {
                e.visit(visit);
                visit_block(body, visit);
            }
            StmtKind::Raise(e) => e.iter().for_each(|e| e.visit(visit)),
            StmtKind::Assert(e, message) => {
                e.visit(visit);
                message.iter().for_each(|e| e.visit(visit));
            }
            StmtKind::Def(f) => visit_block(&f.body, visit),
            StmtKind::Class(class) => visit_block(&class.body, visit),
            StmtKind::Declare(..) | StmtKind::Pass => {}
        }
    }
}
