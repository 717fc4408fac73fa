//! Patterns over elementwise operators and reductions, written as expressions and matched modulo commutativity.
//!
//! Syntax: `?x` captures a value (the same name twice must be the same value); a number is a constant all of whose
//! elements are that number; `f(p, ..)` is a row of the elementwise table or `reduce_KIND`; `f@n(..)` also captures
//! the node's result as `n`; `p | q` is either. `add` and `mul` of more than two operands match any bracketing of that many
//! terms. Operands of commutative operators match in any order.
//!
//! A number that is a multiple of 1/1024 must be met exactly; others within the precision of the constant's dtype.

use kiln_ir::op::{Reduce, ReduceKind};
use kiln_ir::{DType, Ew, Graph, Op, Prim, ScalarNode, Value};
use smallvec::{SmallVec, smallvec};

use crate::rewrite::splat;

/// What a pattern's operator is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Head {
    Ew(Ew),
    Reduce(ReduceKind),
}

#[derive(Clone, Debug)]
enum Node {
    Capture(usize),
    Number(f64),
    Apply { head: Head, capture: Option<usize>, args: Vec<Node> },
    Either(Vec<Node>),
}

/// A parsed pattern.
#[derive(Clone, Debug)]
pub struct Pattern {
    root: Node,
    names: Vec<String>,
}

/// The values that a pattern captured.
#[derive(Clone, Debug)]
pub struct Captures<'p> {
    names: &'p [String],
    values: Bindings,
}

type Bindings = SmallVec<[Option<Value>; 8]>;

impl Captures<'_> {
    /// The value captured under a name.
    pub fn get(&self, name: &str) -> Option<Value> {
        let at = self.names.iter().position(|n| n == name)?;
        self.values.get(at).copied().flatten()
    }
}

/// The primitive of two operands that a row is, if it is just that.
fn primitive(ew: Ew) -> Option<Prim> {
    match ew.body().nodes.as_slice() {
        [ScalarNode::Param(0), ScalarNode::Param(1), ScalarNode::Apply(prim, args)] if args[..] == [0, 1] => {
            Some(*prim)
        }
        _ => None,
    }
}

/// Whether a row's two operands may be exchanged.
pub fn is_commutative(ew: Ew) -> bool {
    use Prim::{Add, And, Eq, Max, Min, Mul, Ne, Or, Xor};
    primitive(ew).is_some_and(|p| matches!(p, Add | Mul | Min | Max | Eq | Ne | And | Or | Xor))
}

/// Whether a row also associates, up to rounding.
fn is_associative(ew: Ew) -> bool {
    primitive(ew).is_some_and(|p| matches!(p, Prim::Add | Prim::Mul))
}

impl Pattern {
    /// Parses a pattern that stands in our own source.
    ///
    /// # Panics
    /// If it is malformed or names an unknown operator: a test parses every pattern.
    pub fn new(text: &str) -> Pattern {
        let mut parser = Parser { text, at: 0, names: vec![] };
        let root = parser.either();
        assert!(parser.rest().is_empty(), "pattern `{text}`: trailing `{}`", parser.rest());
        Pattern { root, names: parser.names }
    }

    /// The first way in which the pattern matches at a value.
    pub fn find(&self, graph: &Graph, v: Value) -> Option<Captures<'_>> {
        self.find_where(graph, v, |_| true)
    }

    /// The first way in which the pattern matches at a value and the captures satisfy a condition.
    pub fn find_where(
        &self,
        graph: &Graph,
        v: Value,
        accept: impl Fn(&Captures<'_>) -> bool,
    ) -> Option<Captures<'_>> {
        let start: Bindings = smallvec![None; self.names.len()];
        let all = solve(&self.root, graph, v, &start).into_iter();
        all.map(|values| Captures { names: &self.names, values }).find(accept)
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    names: Vec<String>,
}

impl<'a> Parser<'a> {
    fn rest(&mut self) -> &'a str {
        let rest = self.text[self.at..].trim_start();
        self.at = self.text.len() - rest.len();
        rest
    }

    fn eat(&mut self, c: char) -> bool {
        let hit = self.rest().starts_with(c);
        self.at += usize::from(hit);
        hit
    }

    fn take(&mut self, accept: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let len = rest.find(|c| !accept(c)).unwrap_or(rest.len());
        self.at += len;
        &rest[..len]
    }

    fn name(&mut self) -> usize {
        let name = self.take(|c| c.is_ascii_alphanumeric() || c == '_');
        assert!(!name.is_empty(), "pattern `{}`: a name is missing", self.text);
        self.names.iter().position(|n| n == name).unwrap_or_else(|| {
            self.names.push(name.to_owned());
            self.names.len() - 1
        })
    }

    fn either(&mut self) -> Node {
        let first = self.term();
        let mut all = vec![first];
        while self.eat('|') {
            all.push(self.term());
        }
        if all.len() == 1 { all.remove(0) } else { Node::Either(all) }
    }

    fn term(&mut self) -> Node {
        if self.eat('?') {
            return Node::Capture(self.name());
        }
        let word = self.take(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
        if let Ok(number) = word.parse() {
            return Node::Number(number);
        }
        let head = match word.strip_prefix("reduce_") {
            Some(kind) => ReduceKind::from_name(kind).map(Head::Reduce),
            None => Ew::from_name(word).map(Head::Ew),
        };
        let Some(head) = head else { panic!("pattern `{}`: no operator `{word}`", self.text) };
        let capture = self.eat('@').then(|| self.name());
        assert!(self.eat('('), "pattern `{}`: expected `(`", self.text);
        let mut args = vec![self.either()];
        while self.eat(',') {
            args.push(self.either());
        }
        assert!(self.eat(')'), "pattern `{}`: expected `)`", self.text);
        Node::Apply { head, capture, args }
    }
}

/// All ways in which a pattern matches at a value, given what is captured already.
fn solve(node: &Node, graph: &Graph, v: Value, bound: &Bindings) -> Vec<Bindings> {
    match node {
        Node::Capture(slot) => bind(bound, *slot, v).into_iter().collect(),
        Node::Number(want) => {
            let hit = graph.ty(v).as_tensor().is_some_and(|t| is_number(graph, v, t.dtype, *want));
            if hit { vec![bound.clone()] } else { vec![] }
        }
        Node::Either(all) => all.iter().flat_map(|n| solve(n, graph, v, bound)).collect(),
        Node::Apply { head, capture, args } => {
            let bound = match capture {
                Some(slot) => match bind(bound, *slot, v) {
                    Some(b) => b,
                    None => return vec![],
                },
                None => bound.clone(),
            };
            solve_apply(*head, args, graph, v, &bound)
        }
    }
}

fn bind(bound: &Bindings, slot: usize, v: Value) -> Option<Bindings> {
    if let Some(old) = bound[slot] {
        return (old == v).then(|| bound.clone());
    }
    let mut bound = bound.clone();
    bound[slot] = Some(v);
    Some(bound)
}

fn solve_apply(head: Head, args: &[Node], graph: &Graph, v: Value, bound: &Bindings) -> Vec<Bindings> {
    let Some(operands) = operands_of(head, graph, v) else { return vec![] };
    let Head::Ew(ew) = head else { return solve_list(args, graph, operands, bound) };
    if args.len() > 2 && is_associative(ew) {
        let terms = bracketings(head, graph, v, args.len());
        return terms.iter().flat_map(|t| solve_any_order(args, graph, t, bound)).collect();
    }
    if is_commutative(ew) {
        return solve_any_order(args, graph, operands, bound);
    }
    solve_list(args, graph, operands, bound)
}

fn operands_of(head: Head, graph: &Graph, v: Value) -> Option<&[Value]> {
    let (_, node) = graph.def_node(v)?;
    let same = match (&node.op, head) {
        (Op::Elementwise(e), Head::Ew(ew)) => e.kind == ew,
        (Op::Reduce(Reduce::Axes { kind, .. }), Head::Reduce(want)) => *kind == want,
        _ => false,
    };
    same.then_some(&node.operands[..])
}

fn solve_list(args: &[Node], graph: &Graph, operands: &[Value], bound: &Bindings) -> Vec<Bindings> {
    if args.len() != operands.len() {
        return vec![];
    }
    let mut all = vec![bound.clone()];
    for (arg, &v) in args.iter().zip(operands) {
        all = all.iter().flat_map(|b| solve(arg, graph, v, b)).collect();
    }
    all
}

fn solve_any_order(args: &[Node], graph: &Graph, terms: &[Value], bound: &Bindings) -> Vec<Bindings> {
    let Some((first, rest)) = args.split_first() else {
        return if terms.is_empty() { vec![bound.clone()] } else { vec![] };
    };
    let mut all = vec![];
    for (i, &v) in terms.iter().enumerate() {
        let others: SmallVec<[Value; 4]> =
            terms.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, &t)| t).collect();
        for b in solve(first, graph, v, bound) {
            all.extend(solve_any_order(rest, graph, &others, &b));
        }
    }
    all
}

/// Every way to see a value as `count` terms joined by an associative operator.
fn bracketings(head: Head, graph: &Graph, v: Value, count: usize) -> Vec<SmallVec<[Value; 4]>> {
    if count == 1 {
        return vec![smallvec![v]];
    }
    let Some([a, b]) = operands_of(head, graph, v) else { return vec![] };
    let mut all = vec![];
    for left in 1..count {
        let rights = bracketings(head, graph, *b, count - left);
        for l in bracketings(head, graph, *a, left) {
            for r in &rights {
                all.push(l.iter().chain(r).copied().collect());
            }
        }
    }
    all
}

/// Whether every element of the constant `v` is `want`, as far as its dtype can hold it.
fn is_number(graph: &Graph, v: Value, dtype: DType, want: f64) -> bool {
    let Some(got) = splat(graph, v) else { return false };
    if (want * 1024.0).fract() == 0.0 {
        return got == want;
    }
    let precision = match dtype {
        DType::F64 | DType::F32 => 1e-6,
        DType::F16 => 1e-3,
        _ => 8e-3,
    };
    (got - want).abs() <= precision * want.abs()
}
