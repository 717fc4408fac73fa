//! The printer.

use std::collections::HashMap;
use std::fmt::Write as _;

use super::Resources;
use crate::op::{Attr, Source};
use crate::{DType, Graph, GraphId, Module, Node, Op, Origin, Tensor, Value};

/// What to print.
#[derive(Clone, Copy, Debug)]
pub struct TextOptions {
    /// Where nodes come from.
    pub locations: bool,
    /// Names of values in the source file; those of inputs and outputs are always printed.
    pub names: bool,
    /// Constants of more elements than this become resources.
    pub inline_elements: usize,
}

impl Default for TextOptions {
    fn default() -> Self {
        TextOptions { locations: true, names: true, inline_elements: 16 }
    }
}

/// The module's text, and the large constants that it refers to.
pub fn print_module(module: &Module) -> (String, Resources) {
    print_module_with(module, TextOptions::default())
}

/// The module's text under the given options, and the large constants that it refers to.
pub fn print_module_with(module: &Module, options: TextOptions) -> (String, Resources) {
    let mut p = Printer::new(options);
    let mut states = String::new();
    for s in module.states() {
        let _ = write!(states, "  state {:?} = ", s.name);
        p.tensor(&s.init, &mut states);
        states.push('\n');
    }
    let mut graphs = String::new();
    for (id, graph) in module.graphs() {
        p.graph(id, graph, &mut graphs);
    }
    let mut out = String::from("module {\n");
    out.push_str(&states);
    for (i, t) in p.resources.0.iter().enumerate() {
        let _ = writeln!(out, "  resource @w{i}: {}", t.ty());
    }
    for e in module.entries() {
        let _ = writeln!(out, "  entry {e}");
    }
    out.push_str(&graphs);
    out.push_str("}\n");
    (out, p.resources)
}

/// The text of one graph, for people: large constants are numbered but not given.
pub fn print_graph(id: GraphId, graph: &Graph, options: TextOptions) -> String {
    let mut out = String::new();
    Printer::new(options).graph(id, graph, &mut out);
    out
}

/// Storage, dtype and dims: equal keys are one resource.
type ResourceKey = (usize, usize, DType, Vec<usize>);

struct Printer {
    options: TextOptions,
    resources: Resources,
    numbers: HashMap<ResourceKey, usize>,
}

impl Printer {
    fn new(options: TextOptions) -> Self {
        Printer { options, resources: Resources::default(), numbers: HashMap::new() }
    }

    fn tensor(&mut self, t: &Tensor, out: &mut String) {
        if t.numel() <= self.options.inline_elements {
            return t.write(out);
        }
        let place = match t.storage() {
            Some(s) => s.as_slice().as_ptr().addr(),
            None => t.as_strings().as_ptr().addr(),
        };
        let next = self.resources.0.len();
        let key = (place, t.bytes().len(), t.dtype(), t.dims().to_vec());
        let number = *self.numbers.entry(key).or_insert(next);
        if number == next {
            self.resources.0.push(t.clone());
        }
        let _ = write!(out, "@w{number}");
    }

    fn graph(&mut self, id: GraphId, graph: &Graph, out: &mut String) {
        let mut numbers: HashMap<Value, usize> = HashMap::new();
        let _ = write!(out, "  graph {id} {:?} (", graph.name());
        for (i, (&v, name)) in graph.inputs().iter().zip(graph.input_names()).enumerate() {
            numbers.insert(v, i);
            let separator = if i > 0 { ", " } else { "" };
            let _ = write!(out, "{separator}%{i} {name:?}: {}", graph.ty(v));
        }
        out.push_str(") {\n");
        for (_, node) in graph.scheduled() {
            self.node(graph, node, &mut numbers, out);
        }
        out.push_str("    return");
        for (i, (v, name)) in graph.outputs().iter().zip(graph.output_names()).enumerate() {
            out.push_str(if i > 0 { ", " } else { " " });
            write_value(v, &numbers, out);
            let _ = write!(out, " {name:?}");
        }
        out.push_str("\n  }\n");
    }

    fn node(&mut self, graph: &Graph, node: &Node, numbers: &mut HashMap<Value, usize>, out: &mut String) {
        out.push_str("    ");
        for (i, &v) in node.results.iter().enumerate() {
            let number = numbers.len();
            numbers.insert(v, number);
            let separator = if i > 0 { ", " } else { "" };
            let _ = write!(out, "{separator}%{number}");
            if let Some(name) = graph.value(v).name().filter(|_| self.options.names) {
                let _ = write!(out, " {name:?}");
            }
            let _ = write!(out, ": {}", graph.ty(v));
        }
        if !node.results.is_empty() {
            out.push_str(" = ");
        }
        out.push_str(node.op.mnemonic());
        if !node.operands.is_empty() {
            out.push('(');
            for (i, v) in node.operands.iter().enumerate() {
                if i > 0 {
                    out.push_str(", ");
                }
                write_value(v, numbers, out);
            }
            out.push(')');
        }
        if let Op::Source(Source::Constant { value }) = &node.op {
            out.push_str(" {value=");
            self.tensor(value, out);
            out.push('}');
        } else {
            node.op.write_attrs(out);
        }
        if let Some(origin) = node.origin.as_deref().filter(|_| self.options.locations) {
            write_origin(origin, out);
        }
        out.push('\n');
    }
}

fn write_value(v: &Value, numbers: &HashMap<Value, usize>, out: &mut String) {
    // A value without definition stands only in graphs that the verifier refuses; it must print all the same.
    let _ = match numbers.get(v) {
        Some(n) => write!(out, "%{n}"),
        None => write!(out, "%undefined{}", v.index()),
    };
}

fn write_origin(o: &Origin, out: &mut String) {
    let _ = write!(out, " loc({:?}, {:?}, {:?}, {:?})", o.file, o.path, o.node, o.op);
}
