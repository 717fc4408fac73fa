//! `kiln inspect`.

mod checkpoint;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use kiln::ShapeOverride;
use kiln::ir::{GraphId, Module, Op, op::Source};
use kiln::loaders::LoadError;
use kiln::runtime::program::{Action, Port, Program};
use kiln::runtime::{Executable, Session, SessionOptions};

use super::Usage;
use crate::args::InspectArgs;
use crate::out::out;
use crate::table::{Table, bytes};

/// Describes a model or an artifact.
pub fn run(args: &InspectArgs) -> Result<()> {
    if kiln::is_artifact(&args.model)? {
        return run_artifact(args);
    }
    let module = match kiln::load_within(&args.model, &args.shapes, &args.limits.loading()) {
        Err(kiln::Error::Load(LoadError::NoGraph { .. })) => return run_checkpoint(args),
        loaded => loaded?,
    };
    if args.json {
        return Err(misplaced(args, "a model", "--json applies to a checkpoint"));
    }
    if args.text {
        let (text, _) = kiln::ir::text::print_module(&module);
        out!("{text}")?;
    } else {
        out!("{}", describe_module(&module)?)?;
    }
    if let Some(path) = &args.dot {
        write(path, &dot(&module))?;
    }
    Ok(())
}

/// An option that does not go with what the file is.
fn misplaced(args: &InspectArgs, found: &str, what: &str) -> anyhow::Error {
    Usage(format!("{}: this is {found}; {what}", args.model.display())).into()
}

fn run_checkpoint(args: &InspectArgs) -> Result<()> {
    if args.dot.is_some() || args.text || !args.shapes.is_empty() {
        return Err(misplaced(args, "a checkpoint", "--text, --dot and --shape apply to a model's graph"));
    }
    let found = kiln::loaders::checkpoint::open(&args.model, &args.limits.loading())?;
    match args.json {
        true => out!("{}\n", checkpoint::to_json(&found))?,
        false => out!("{}", checkpoint::describe(&found))?,
    }
    Ok(())
}

fn run_artifact(args: &InspectArgs) -> Result<()> {
    if args.dot.is_some() {
        return Err(misplaced(args, "a compiled artifact", "--dot applies to a model's graph"));
    }
    if args.json {
        return Err(misplaced(args, "a compiled artifact", "--json applies to a checkpoint"));
    }
    let exe = Executable::open(&args.model)?;
    out!("{}", describe_program(exe.program(), exe.code().len() as u64))?;
    let text = args.text.then(|| plan(exe.program()));
    let session =
        Session::new(Arc::new(exe), SessionOptions { threads: Some(1), ..SessionOptions::default() });
    out!("{}", memory(&session, &args.shapes)?)?;
    text.map_or(Ok(()), |text| Ok(out!("{text}")?))
}

/// The arena of each entry whose inputs have fixed or given dims, beside the most that is live in it at one step.
fn memory(session: &Session, shapes: &[ShapeOverride]) -> Result<String> {
    let mut out = String::new();
    for entry in session.entries() {
        let dims: Option<Vec<Vec<usize>>> = entry.inputs.iter().map(|port| dims_of(port, shapes)).collect();
        let Some(dims) = dims else {
            let _ = writeln!(
                out,
                "arena of `{}`: as the shapes of its inputs need (--shape gives them)",
                entry.name
            );
            continue;
        };
        let dims: Vec<&[usize]> = dims.iter().map(Vec::as_slice).collect();
        let plan = session.memory(&entry.name, &dims)?;
        let more = if plan.live == 0 { 1.0 } else { plan.arena as f64 / plan.live as f64 };
        let sizes = [bytes(plan.arena), bytes(plan.live)];
        let [arena, live] = &sizes;
        let _ = writeln!(
            out,
            "arena of `{}`: {arena}, {more:.3} times its largest live set of {live}",
            entry.name
        );
    }
    Ok(out)
}

/// The dims of an input: those that are given for it, else those of its type if they are fixed.
fn dims_of(port: &Port, shapes: &[ShapeOverride]) -> Option<Vec<usize>> {
    let given = shapes.iter().find(|shape| shape.input == port.name).map(|shape| shape.dims.as_slice());
    let dims = match given {
        Some(dims) => dims,
        None => port.ty.as_tensor()?.shape.dims()?,
    };
    dims.iter().map(|dim| dim.as_known().and_then(|dim| usize::try_from(dim).ok())).collect()
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| path.display().to_string())
}

/// Entry points, operators, weights, and what would run on the slow path.
fn describe_module(module: &Module) -> Result<String> {
    let mut out = String::new();
    for &id in module.entries() {
        let graph = module.graph(id);
        let _ = writeln!(out, "entry `{}`", graph.name());
        for (name, &v) in graph.input_names().iter().zip(graph.inputs()) {
            let _ = writeln!(out, "  input  {name}: {}", graph.ty(v));
        }
        for (name, &v) in graph.output_names().iter().zip(graph.outputs()) {
            let _ = writeln!(out, "  output {name}: {}", graph.ty(v));
        }
    }
    for state in module.states() {
        let _ = writeln!(out, "state `{}`: {}", state.name, state.init.ty());
    }
    let (mut ops, mut weights, mut weight_bytes) = (BTreeMap::new(), 0usize, 0u64);
    for (_, graph) in module.graphs() {
        for (_, node) in graph.scheduled() {
            match &node.op {
                Op::Source(Source::Constant { value }) => {
                    weights += 1;
                    weight_bytes += value.bytes().len() as u64;
                }
                op => *ops.entry(op.mnemonic()).or_insert(0usize) += 1,
            }
        }
    }
    let _ = writeln!(out, "constants: {weights}, {}", bytes(weight_bytes));
    let mut ops: Vec<_> = ops.into_iter().collect();
    ops.sort_by_key(|&(name, n)| (std::cmp::Reverse(n), name));
    let mut table = Table::new(&["operator", "count"]);
    ops.iter().for_each(|(name, n)| table.row(vec![(*name).to_owned(), n.to_string()]));
    out += &table.render();
    let compiled = kiln::compile(module.clone(), &kiln::Options::default())?;
    match compiled.summary.slow.as_slice() {
        [] => out += "every operator has a kernel\n",
        nodes => {
            let _ = writeln!(out, "{} nodes run on the slow path (reference evaluator):", nodes.len());
            nodes.iter().for_each(|n| out += &format!("  {} ({}): {}\n", n.node, n.op, n.reason));
        }
    }
    Ok(out)
}

fn describe_program(program: &Program, code: u64) -> String {
    let mut out = format!("compiled by {}\n", program.producer);
    let features = program.target.features.join(" ");
    let _ = writeln!(out, "target {} {features}", program.target.arch);
    for entry in &program.entries {
        let _ = writeln!(out, "entry `{}`", entry.name);
        entry.inputs.iter().for_each(|p| out += &format!("  input  {}: {}\n", p.name, p.ty));
        entry.outputs.iter().for_each(|p| out += &format!("  output {}: {}\n", p.name, p.ty));
    }
    program.states.iter().for_each(|s| out += &format!("state `{}`: {}\n", s.name, s.ty));
    let weights: u64 = program.constants.iter().filter_map(|c| c.byte_len()).sum();
    let steps: usize = program.functions.iter().map(|f| f.steps.len()).sum();
    let _ = writeln!(out, "kernels: {}, {} of code", program.kernels.len(), bytes(code));
    let _ = writeln!(out, "constants: {}, {}", program.constants.len(), bytes(weights));
    let _ = writeln!(out, "functions: {}, {steps} steps", program.functions.len());
    let is_host = |a: &Action| matches!(a, Action::Host { .. });
    let host: Vec<_> =
        program.functions.iter().flat_map(|f| &f.steps).filter(|s| is_host(&s.action)).collect();
    let _ = writeln!(out, "slow-path steps (reference evaluator): {}", host.len());
    host.iter().for_each(|s| out += &format!("  {}\n", s.provenance.join(", ")));
    out
}

/// The steps of every function, one a line.
fn plan(program: &Program) -> String {
    let mut out = String::new();
    for (i, f) in program.functions.iter().enumerate() {
        let _ = writeln!(out, "function {i} `{}`: {} slots", f.name, f.slots.len());
        for (n, step) in f.steps.iter().enumerate() {
            let what = match &step.action {
                Action::Kernel(call) => {
                    let name = program.kernel(call.kernel).map_or("?", |k| k.name.as_str());
                    let slots: Vec<_> = call.buffers.iter().map(|b| b.slot.to_string()).collect();
                    format!("{name}({}) grid {} grain {}", slots.join(", "), call.grid, call.grain)
                }
                Action::Host { graph, .. } => format!("host `{graph}`"),
                other => format!("{other:?}"),
            };
            let _ = writeln!(out, "  {n}: {what}");
        }
    }
    out
}

/// The entry graphs in Graphviz form.
fn dot(module: &Module) -> String {
    let mut out = String::from("digraph kiln {\n  rankdir=TB; node [shape=box, fontname=\"sans-serif\"];\n");
    for &id in module.entries() {
        draw(module, id, &mut out);
    }
    out.push_str("}\n");
    out
}

fn draw(module: &Module, id: GraphId, out: &mut String) {
    let graph = module.graph(id);
    let _ = writeln!(out, "  subgraph \"cluster_{id}\" {{ label={:?};", graph.name());
    for (name, &v) in graph.input_names().iter().zip(graph.inputs()) {
        let _ =
            writeln!(out, "    \"{id}{v}\" [label={:?}, shape=ellipse];", format!("{name}\n{}", graph.ty(v)));
    }
    for (n, node) in graph.scheduled() {
        if matches!(node.op, Op::Source(_)) {
            continue;
        }
        let _ = writeln!(out, "    \"{id}{n}\" [label={:?}];", node.op.mnemonic());
        for &v in &node.operands {
            match graph.def_node(v) {
                Some((_, def)) if matches!(def.op, Op::Source(_)) => {}
                Some((from, _)) => {
                    let _ = writeln!(
                        out,
                        "    \"{id}{from}\" -> \"{id}{n}\" [label={:?}];",
                        graph.ty(v).to_string()
                    );
                }
                None => {
                    let _ = writeln!(out, "    \"{id}{v}\" -> \"{id}{n}\";");
                }
            }
        }
    }
    out.push_str("  }\n");
}
