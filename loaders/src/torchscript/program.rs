//! The classes and functions of a program, by path: `__torch__.module.Name`. Source files are read when they are first
//! asked for.

use std::collections::BTreeSet;
use std::rc::Rc;

use rustc_hash::FxHashMap;

use super::archive::Package;
use super::ast::{Class, Expr, Function, Name, Stmt, StmtKind, visit_block};
use super::debug;
use super::fault::{Fault, Res};
use super::normalize::normalized;
use super::parser::parse;

/// What the trees of all source files may take, in bytes: this and four times the archive, and at most so much.
const TREES: usize = 16 << 20;
const MOST_TREES: usize = 48 << 20;

/// How many warnings tell their place.
const PLACES: usize = 8;

/// A definition.
#[derive(Clone)]
pub(crate) enum Item {
    /// A class.
    Class(Rc<Class>),
    /// A function.
    Function(Rc<Function>),
}

/// A program's source.
pub(crate) struct Program<'p> {
    package: &'p Package<'p>,
    /// Paths of the files that were read, without `code/` and `.py`.
    files: Vec<String>,
    read: FxHashMap<String, Rc<FxHashMap<Name, Item>>>,
    /// Bytes that source and its trees may still take.
    left: usize,
    /// Places that may still be told in warnings: to find one takes time.
    places: usize,
}

impl<'p> Program<'p> {
    /// The program of an archive.
    pub fn new(package: &'p Package<'p>) -> Self {
        let left = package.size().saturating_mul(4).saturating_add(TREES).min(MOST_TREES);
        Program { package, files: vec![], read: FxHashMap::default(), left, places: PLACES }
    }

    /// The archive.
    pub fn package(&self) -> &'p Package<'p> {
        self.package
    }

    /// The definition of a path, if there is one.
    pub fn item(&mut self, path: &str) -> Res<Option<Item>> {
        let Some((module, name)) = path.rsplit_once('.') else { return Ok(None) };
        let items = match self.read.get(module) {
            Some(items) => items.clone(),
            None => {
                let items = Rc::new(self.read_file(module)?);
                self.read.insert(module.to_owned(), items.clone());
                items
            }
        };
        Ok(items.get(name).cloned())
    }

    /// The class of a path.
    pub fn class(&mut self, path: &str) -> Res<Rc<Class>> {
        match self.item(path)? {
            Some(Item::Class(class)) => Ok(class),
            _ => Err(Fault::invalid(format!("there is no class `{path:.200}`"))),
        }
    }

    fn read_file(&mut self, module: &str) -> Res<FxHashMap<Name, Item>> {
        let plain = module.chars().all(|c| c == '_' || c == '.' || c.is_alphanumeric());
        if !plain || module.len() > 1024 {
            return Err(Fault::invalid(format!("`{module:.100}` is no path of a module")));
        }
        let path = module.replace('.', "/");
        let Some(text) = self.package.source(&path, self.left)? else { return Ok(FxHashMap::default()) };
        self.left = self.left.saturating_sub(text.len());
        let file = u32::try_from(self.files.len()).unwrap_or(u32::MAX);
        self.files.push(path);
        let body = parse(&text, file, &mut self.left).map_err(|(at, fault)| {
            let line = text.bytes().take(at).filter(|&b| b == b'\n').count() + 1;
            match fault {
                Fault::Invalid(reason) => Fault::Invalid(format!("{module}, line {line}: {reason}")),
                other => other,
            }
        })?;
        let mut items = FxHashMap::default();
        for stmt in &body {
            define(stmt, &mut items);
        }
        Ok(items)
    }

    /// Operators that the files read so far call and that `is_known` does not know, sorted.
    pub fn unknown_operators(&self, is_known: &dyn Fn(&str, &str) -> bool) -> Vec<String> {
        let mut found = BTreeSet::new();
        let mut visit = |e: &Expr| {
            let Expr::Call(call) = e else { return };
            let Some(path) = call.callee.path() else { return };
            let (ns, name) = match path.split_once('.') {
                Some(("torch", name)) => ("aten", name),
                Some(("ops", rest)) => rest.split_once('.').unwrap_or(("aten", rest)),
                _ => return,
            };
            if !is_known(ns, name) {
                found.insert(format!("{ns}::{name}"));
            }
        };
        for item in self.read.values().flat_map(|items| items.values()) {
            match item {
                Item::Class(class) => visit_block(&class.body, &mut visit),
                Item::Function(f) => visit_block(&f.body, &mut visit),
            }
        }
        found.into_iter().collect()
    }

    /// As [`Program::place`], for a warning; after many, nothing.
    pub fn place_of_warning(&mut self, file: u32, at: u32) -> String {
        match self.places.checked_sub(1) {
            Some(left) => {
                self.places = left;
                self.place(file, at)
            }
            None => String::new(),
        }
    }

    /// Where a statement comes from: file and line of the original source, or of the serialized one.
    pub fn place(&self, file: u32, at: u32) -> String {
        let Some(path) = usize::try_from(file).ok().and_then(|i| self.files.get(i)) else {
            return String::new();
        };
        if let Some(map) = self.package.debug(path)
            && let Some((name, line)) = debug::original(&map, at)
        {
            return format!("{name}:{line}");
        }
        let text = self.package.source(path, MOST_TREES).ok().flatten().unwrap_or_default();
        let end = usize::try_from(at).unwrap_or(usize::MAX);
        let line = text.bytes().take(end).filter(|&b| b == b'\n').count() + 1;
        format!("code/{path}.py:{line}")
    }
}

/// Adds the definition of a statement, if it is one.
fn define(stmt: &Stmt, items: &mut FxHashMap<Name, Item>) {
    match &stmt.kind {
        StmtKind::Def(f) => {
            items.insert(f.name.clone(), Item::Function(Rc::new(normalized(f))));
        }
        StmtKind::Class(class) => {
            let body = class.body.iter().map(|stmt| {
                let kind = match &stmt.kind {
                    StmtKind::Def(f) => StmtKind::Def(Rc::new(normalized(f))),
                    other => other.clone(),
                };
                Stmt { kind, at: stmt.at }
            });
            let class = Class { name: class.name.clone(), base: class.base.clone(), body: body.collect() };
            items.insert(class.name.clone(), Item::Class(Rc::new(class)));
        }
        _ => {}
    }
}

/// Whether a value may be `None` by its declared type.
pub(crate) fn is_optional(ty: &Expr) -> bool {
    match ty {
        Expr::Name(name) => matches!(&**name, "NoneType" | "None"),
        Expr::None => true,
        Expr::Index(head, parts) => match (&**head, &**parts) {
            (Expr::Name(name), _) if &**name == "Optional" => true,
            (Expr::Name(name), Expr::Tuple(parts)) if &**name == "Union" => parts.iter().any(is_optional),
            _ => false,
        },
        _ => false,
    }
}
