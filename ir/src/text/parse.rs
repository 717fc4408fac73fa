//! The parser. First the whole text is read into graphs that have the printed types; then inference checks every
//! node, called graphs before their callers.

use std::collections::HashMap;
use std::sync::Arc;

use smallvec::SmallVec;

use super::{ParseError, Resources};
use crate::build::name_unknown;
use crate::graph::{Def, Known, Node, Origin, ValueData};
use crate::infer::{InferCx, infer};
use crate::op::{Attr, AttrError, Cursor, Source};
use crate::verify::call_order;
use crate::{Graph, GraphId, Module, NodeId, Op, StateDecl, Tensor, Type, Value};

/// Longest text that is read.
const MAX_TEXT: usize = 1 << 30;

/// Largest number of a reserved symbol `_uN`: numbering goes on from it without overflow.
const MAX_FRESH: u64 = 1 << 40;

/// Reads what [`super::print_module`] prints, with the resources that it gave.
pub fn parse_module(text: &str, resources: &Resources) -> Result<Module, ParseError> {
    let locate = |e: AttrError| located(text, e);
    let (mut module, starts) = read(text, resources, Trust::Definitions).map_err(locate)?;
    check(&mut module, &starts).map_err(locate)?;
    Ok(module)
}

/// Reads a module without checking it, for tests of the verifier: `%N` is the value of arena position N whether or
/// not it is defined, and types are what the text says.
pub fn parse_module_unchecked(text: &str, resources: &Resources) -> Result<Module, ParseError> {
    read(text, resources, Trust::Nothing).map(|(module, _)| module).map_err(|e| located(text, e))
}

/// What the reader insists on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trust {
    /// Values are defined once, before their uses; entries exist.
    Definitions,
    /// Syntax alone.
    Nothing,
}

/// The module, and where each node's text starts, by graph.
fn read(text: &str, resources: &Resources, trust: Trust) -> Result<(Module, Vec<Vec<usize>>), AttrError> {
    if text.len() > MAX_TEXT {
        return Err(AttrError { reason: "the text is too long".into(), at: 0 });
    }
    let mut reader = Reader { c: Cursor::new(text), resources, trust, module: Module::new(), starts: vec![] };
    reader.module.fresh = last_fresh(text)?;
    reader.module()?;
    Ok((reader.module, reader.starts))
}

fn located(text: &str, e: AttrError) -> ParseError {
    let before = text.get(..e.at).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |i| i + 1);
    let line = before.matches('\n').count() + 1;
    let column = before.get(line_start..).map_or(0, |l| l.chars().count()) + 1;
    ParseError { line, column, reason: e.reason }
}

/// The largest number of a symbol `_uN` in the text.
fn last_fresh(text: &str) -> Result<u64, AttrError> {
    let mut last = 0;
    for (at, _) in text.match_indices("_u") {
        let digits: &str = text.get(at + 2..).unwrap_or("");
        let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
        let Some(digits) = digits.get(..end).filter(|d| !d.is_empty()) else { continue };
        match digits.parse::<u64>() {
            Ok(n) if n <= MAX_FRESH => last = last.max(n),
            _ => return Err(AttrError { reason: format!("symbol number {digits} is too large"), at }),
        }
    }
    Ok(last)
}

struct Reader<'a> {
    c: Cursor<'a>,
    resources: &'a Resources,
    trust: Trust,
    module: Module,
    /// Where each node's text starts, by graph.
    starts: Vec<Vec<usize>>,
}

/// Values of the graph being read, by their number in the text.
type Numbers = HashMap<u32, Value>;

impl<'a> Reader<'a> {
    fn module(&mut self) -> Result<(), AttrError> {
        self.c.expect("module")?;
        self.c.expect("{")?;
        let mut entries = vec![];
        let mut declared = 0;
        while !self.c.eat("}") {
            let at = self.c.position();
            match self.c.ident()? {
                "state" => {
                    let name = self.c.string()?;
                    self.c.expect("=")?;
                    let init = self.tensor()?;
                    self.module.states.push(StateDecl { name, init });
                }
                "resource" => {
                    self.resource(declared)?;
                    declared += 1;
                }
                "entry" => entries.push((at, GraphId::read(&mut self.c)?)),
                "graph" => self.graph()?,
                other => {
                    let reason = format!("expected `state`, `resource`, `entry` or `graph`, found `{other}`");
                    return Err(AttrError { reason, at });
                }
            }
        }
        if !self.c.rest().is_empty() {
            return Err(self.c.error("text after the module"));
        }
        for (at, id) in entries {
            if self.trust == Trust::Definitions && self.module.get_graph(id).is_none() {
                return Err(AttrError { reason: format!("there is no graph {id}"), at });
            }
            self.module.entries.push(id);
        }
        Ok(())
    }

    fn resource(&mut self, number: usize) -> Result<(), AttrError> {
        self.c.expect("@w")?;
        let found: usize = self.digits()?;
        if found != number {
            return Err(self.c.error(format!("expected resource @w{number}")));
        }
        self.c.expect(":")?;
        let ty = Type::read(&mut self.c)?;
        match self.resources.0.get(number) {
            Some(t) if Type::Tensor(t.ty()) == ty => Ok(()),
            Some(t) => Err(self.c.error(format!("resource @w{number} is {}", t.ty()))),
            None => Err(self.c.error(format!("resource @w{number} is missing"))),
        }
    }

    fn digits<T: std::str::FromStr>(&mut self) -> Result<T, AttrError> {
        let digits = self.c.take("digits", |c| c.is_ascii_digit())?;
        digits.parse().map_err(|_| self.c.error(format!("number {digits} is out of range")))
    }

    fn tensor(&mut self) -> Result<Tensor, AttrError> {
        if !self.c.eat("@w") {
            return Tensor::read(&mut self.c);
        }
        let number: usize = self.digits()?;
        let found = self.resources.0.get(number).cloned();
        found.ok_or_else(|| self.c.error(format!("resource @w{number} is missing")))
    }

    fn graph(&mut self) -> Result<(), AttrError> {
        let expected = GraphId::new(self.module.graphs.len());
        let id = GraphId::read(&mut self.c)?;
        if id != expected {
            return Err(self.c.error(format!("graphs are numbered in order: expected {expected}")));
        }
        let mut graph = Graph::empty(&self.c.string()?);
        let (mut numbers, mut starts) = (Numbers::new(), vec![]);
        self.c.expect("(")?;
        while !self.c.eat(")") {
            if !graph.inputs.is_empty() {
                self.c.expect(",")?;
            }
            let def = Def::Input(graph.inputs.len());
            let v = self.definition(&mut graph, &mut numbers, def)?;
            let name = graph.values.last().and_then(|d| d.name.clone());
            let name = name.ok_or_else(|| self.c.error("an input has a name"))?;
            graph.inputs.push(v);
            graph.input_names.push(name.to_string());
        }
        self.c.expect("{")?;
        while !self.c.eat("return") {
            self.c.rest();
            starts.push(self.c.position());
            self.node(&mut graph, &mut numbers)?;
        }
        while !self.c.eat("}") {
            if !graph.outputs.is_empty() {
                self.c.expect(",")?;
            }
            let v = self.operand(&numbers)?;
            graph.outputs.push(v);
            graph.output_names.push(self.c.string()?);
        }
        self.module.graphs.push(graph);
        self.starts.push(starts);
        Ok(())
    }

    /// `%3 "name": f32[2]`.
    fn definition(&mut self, graph: &mut Graph, numbers: &mut Numbers, def: Def) -> Result<Value, AttrError> {
        self.c.expect("%")?;
        let number: u32 = self.digits()?;
        let name = if self.c.rest().starts_with('"') { Some(self.c.string()?.into()) } else { None };
        self.c.expect(":")?;
        let ty = Type::read(&mut self.c)?;
        let ty = match self.trust {
            Trust::Definitions => name_unknown(&ty, &mut self.module.fresh),
            Trust::Nothing => ty,
        };
        let next = graph.values.len();
        if self.trust == Trust::Nothing {
            let v = Value::new(usize::try_from(number).unwrap_or(usize::MAX));
            if v.index() > next {
                return Err(self.c.error(format!("values are numbered densely: expected %{next}")));
            }
            if v.index() == next {
                graph.values.push(ValueData { ty, def, known: None, name });
            }
            return Ok(v);
        }
        let v = Value::new(next);
        if numbers.insert(number, v).is_some() {
            return Err(self.c.error(format!("%{number} is defined twice")));
        }
        graph.values.push(ValueData { ty, def, known: None, name });
        Ok(v)
    }

    fn operand(&mut self, numbers: &Numbers) -> Result<Value, AttrError> {
        self.c.expect("%")?;
        let number: u32 = self.digits()?;
        if self.trust == Trust::Nothing {
            return Ok(Value::new(usize::try_from(number).unwrap_or(usize::MAX)));
        }
        numbers.get(&number).copied().ok_or_else(|| self.c.error(format!("%{number} is not defined before")))
    }

    fn node(&mut self, graph: &mut Graph, numbers: &mut Numbers) -> Result<(), AttrError> {
        let id = NodeId::new(graph.nodes.len());
        let mut results = SmallVec::new();
        // Results become visible after the node: it cannot use them itself.
        let mut defined = Numbers::new();
        while self.c.rest().starts_with('%') {
            results.push(self.definition(graph, &mut defined, Def::Result(id, results.len()))?);
            if let Some(number) = defined.keys().find(|n| numbers.contains_key(n)) {
                return Err(self.c.error(format!("%{number} is defined twice")));
            }
            if !self.c.eat(",") {
                self.c.expect("=")?;
                break;
            }
        }
        let mnemonic = self.c.ident()?;
        let mut operands = SmallVec::new();
        if self.c.eat("(") {
            while !self.c.eat(")") {
                if !operands.is_empty() {
                    self.c.expect(",")?;
                }
                operands.push(self.operand(numbers)?);
            }
        }
        let op = self.op(mnemonic)?;
        let origin = if self.c.eat("loc(") { Some(Arc::new(self.origin()?)) } else { None };
        numbers.extend(defined);
        graph.nodes.push(Node { op, operands, results, origin });
        graph.schedule.push(id);
        Ok(())
    }

    fn op(&mut self, mnemonic: &str) -> Result<Op, AttrError> {
        if mnemonic != "constant" {
            return Op::parse(mnemonic, &mut self.c);
        }
        self.c.expect("{")?;
        self.c.expect("value")?;
        self.c.expect("=")?;
        let value = self.tensor()?;
        self.c.expect("}")?;
        Ok(Source::Constant { value }.into())
    }

    fn origin(&mut self) -> Result<Origin, AttrError> {
        let mut parts: [String; 4] = Default::default();
        for (i, part) in parts.iter_mut().enumerate() {
            if i > 0 {
                self.c.expect(",")?;
            }
            *part = self.c.string()?;
        }
        self.c.expect(")")?;
        let [file, path, node, op] = parts;
        Ok(Origin { file, path, node, op })
    }
}

/// Checks every node by inference and records what is known of values, called graphs before their callers.
fn check(module: &mut Module, starts: &[Vec<usize>]) -> Result<(), AttrError> {
    let at = |graph: GraphId, n: NodeId| {
        starts.get(graph.index()).and_then(|s| s.get(n.index())).copied().unwrap_or(0)
    };
    let order = call_order(module).map_err(|e| AttrError {
        reason: format!("graph {} calls itself", e.callee),
        at: at(e.caller, e.node),
    })?;
    for id in order {
        let known = check_graph(module, id, starts.get(id.index()).map_or(&[], Vec::as_slice))?;
        if let Some(graph) = module.graphs.get_mut(id.index()) {
            for (data, known) in graph.values.iter_mut().zip(known) {
                data.known = known;
            }
        }
    }
    Ok(())
}

fn check_graph(module: &Module, id: GraphId, starts: &[usize]) -> Result<Vec<Option<Known>>, AttrError> {
    let graph = module.graph(id);
    let mut known: Vec<Option<Known>> = vec![None; graph.value_count()];
    for (n, node) in graph.scheduled() {
        let at = starts.get(n.index()).copied().unwrap_or(0);
        let fail = |reason: String| AttrError { reason, at };
        let types: SmallVec<[&Type; 4]> = node.operands.iter().map(|&v| graph.ty(v)).collect();
        let results = {
            let operands: SmallVec<[Option<&Known>; 4]> =
                node.operands.iter().map(|v| known.get(v.index()).and_then(Option::as_ref)).collect();
            let cx = InferCx { operands: &types, known: &operands, module, added: &[] };
            infer(&node.op, &cx).map_err(|e| fail(e.to_string()))?
        };
        if results.len() != node.results.len() {
            let (op, count) = (node.op.mnemonic(), results.len());
            return Err(fail(format!("`{op}` has {count} results, the text gives {}", node.results.len())));
        }
        for (&v, inferred) in node.results.iter().zip(results) {
            let ty = graph.ty(v);
            if !inferred.ty.is_compatible(ty) {
                return Err(fail(format!("a result is printed as {ty}, inference gives {}", inferred.ty)));
            }
            if let Some(slot) = known.get_mut(v.index()) {
                *slot = inferred.known;
            }
        }
    }
    Ok(known)
}
