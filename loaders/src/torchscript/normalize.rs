//! Calls that follow the program become statements of their own: every function is rewritten such that methods and
//! functions of the program are called at the root of a statement only. The machine can then keep all of its state in
//! frames that it copies.

use std::rc::Rc;

use super::ast::{Block, Call, Expr, Function, Name, Stmt, StmtKind};

/// Functions that are no values of the program.
const BUILTINS: &[&str] = &[
    "annotate",
    "bool",
    "complex",
    "dict",
    "float",
    "getattr",
    "hasattr",
    "int",
    "isinstance",
    "len",
    "list",
    "max",
    "min",
    "print",
    "range",
    "str",
    "tuple",
    "unchecked_cast",
    "uninitialized",
];

/// Whether a call enters the program.
pub(crate) fn enters(call: &Call) -> bool {
    match &call.callee {
        Expr::Name(name) => !BUILTINS.contains(&&**name),
        Expr::Attr(value, name) => match value.root() {
            Some("torch" | "ops" | "CONSTANTS") => value.path().is_none(),
            Some("__torch__") => &**name != "__new__",
            _ => true,
        },
        _ => true,
    }
}

/// Whether an expression has a call that enters the program.
pub(crate) fn has_call(e: &Expr) -> bool {
    let mut found = false;
    e.visit(&mut |e| found |= matches!(e, Expr::Call(call) if enters(call)));
    found
}

/// Rewrites a function.
pub(crate) fn normalized(f: &Function) -> Function {
    let mut hoister = Hoister { next: 0 };
    Function { body: hoister.block(&f.body), ..f.clone() }
}

struct Hoister {
    next: usize,
}

impl Hoister {
    fn block(&mut self, body: &Block) -> Block {
        let mut out = vec![];
        for stmt in body.iter() {
            let kind = self.statement(stmt, &mut out);
            out.push(Stmt { kind, at: stmt.at });
        }
        out.into()
    }

    fn statement(&mut self, stmt: &Stmt, out: &mut Vec<Stmt>) -> StmtKind {
        let at = stmt.at;
        match &stmt.kind {
            StmtKind::Assign { targets, unpack, annotation, values } => {
                let single = values.len() == 1;
                let values = values.iter().map(|v| self.value(v, single, at, out)).collect();
                StmtKind::Assign {
                    targets: targets.clone(),
                    unpack: *unpack,
                    annotation: annotation.clone(),
                    values,
                }
            }
            StmtKind::Expr(e) => StmtKind::Expr(self.value(e, true, at, out)),
            StmtKind::If(condition, then, otherwise) => {
                let condition = self.value(condition, false, at, out);
                StmtKind::If(condition, self.block(then), self.block(otherwise))
            }
            StmtKind::For(target, iterable, body) => {
                let iterable = self.value(iterable, false, at, out);
                StmtKind::For(target.clone(), iterable, self.block(body))
            }
            StmtKind::While(condition, body) => StmtKind::While(condition.clone(), self.block(body)),
            StmtKind::With(value, name, body) => {
                let value = self.value(value, false, at, out);
                StmtKind::With(value, name.clone(), self.block(body))
            }
            StmtKind::Return(value) => StmtKind::Return(self.value(value, false, at, out)),
            other => other.clone(),
        }
    }

    /// An expression without calls inside; at its root there may be one if `root`.
    fn value(&mut self, e: &Expr, root: bool, at: u32, out: &mut Vec<Stmt>) -> Expr {
        if !has_call(e) {
            return e.clone();
        }
        match e {
            Expr::Call(call) if root => Expr::Call(self.call(call, at, out)),
            _ => self.hoist(e, at, out),
        }
    }

    fn call(&mut self, call: &Call, at: u32, out: &mut Vec<Stmt>) -> Rc<Call> {
        let callee = match &call.callee {
            Expr::Attr(value, name) => Expr::Attr(Box::new(self.hoist(value, at, out)), name.clone()),
            other => self.hoist(other, at, out),
        };
        let args = call.args.iter().map(|a| self.hoist(a, at, out)).collect();
        let kwargs = call.kwargs.iter().map(|(n, v)| (n.clone(), self.hoist(v, at, out))).collect();
        Rc::new(Call { callee, args, kwargs })
    }

    /// Evaluates the calls of an expression into variables, in order.
    fn hoist(&mut self, e: &Expr, at: u32, out: &mut Vec<Stmt>) -> Expr {
        let mut all = |items: &[Expr]| items.iter().map(|i| self.hoist(i, at, out)).collect::<Vec<_>>();
        match e {
            Expr::Call(call) => {
                let value = Expr::Call(self.call(call, at, out));
                // No identifier of the source has this form.
                let name: Name = format!("${}", self.next).into();
                self.next += 1;
                let kind = StmtKind::Assign {
                    targets: [Expr::Name(name.clone())].into(),
                    unpack: false,
                    annotation: None,
                    values: [value].into(),
                };
                out.push(Stmt { kind, at });
                Expr::Name(name)
            }
            Expr::Attr(value, name) if value.path().is_none() => {
                Expr::Attr(Box::new(self.hoist(value, at, out)), name.clone())
            }
            Expr::Index(value, index) => {
                let value = self.hoist(value, at, out);
                Expr::Index(Box::new(value), Box::new(self.hoist(index, at, out)))
            }
            Expr::List(items) => Expr::List(all(items).into()),
            Expr::Tuple(items) => Expr::Tuple(all(items).into()),
            Expr::Operator(name, items) => Expr::Operator(name, all(items).into()),
            Expr::Dict(pairs) => {
                let mut done = vec![];
                for (k, v) in pairs.iter() {
                    let k = self.hoist(k, at, out);
                    done.push((k, self.hoist(v, at, out)));
                }
                Expr::Dict(done.into())
            }
            // What is evaluated on a condition stays where it is.
            other => other.clone(),
        }
    }
}
