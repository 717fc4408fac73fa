//! The driver: a module and a target in, an image out.

use kiln_ir::decompose::{decompose, decompose_dynamic};
use kiln_ir::op::Dynamic;
use kiln_ir::{GraphId, InferError, Module, Node, NodeId, Op, Patch, Type};
use kiln_runtime::cpu::Tier;
use rustc_hash::FxHashSet;

use super::contract::Tuning;
use super::function::node_name;
use super::tables::MachineCode;
use super::trace::Refusal;
use super::{CompileError, Compiled, compile_with};
use crate::kir::Kernel;
use crate::lower::clif::Compiler;

/// What to compile for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// The machine.
    pub tier: Tier,
    /// Whether convolutions of 3x3 taps may be computed with fewer multiplications, which rounds differently.
    pub winograd: bool,
    /// Whether to list the machine code of the kernels.
    pub listings: bool,
}

impl Default for Options {
    /// For the running machine.
    fn default() -> Self {
        Options { tier: Tier::native().unwrap_or(Tier::X86V1), winograd: true, listings: false }
    }
}

/// Compiles a module. Composite operators that are left in it are decomposed first.
pub fn compile(module: &Module, options: &Options) -> Result<Compiled, CompileError> {
    let compiler = Compiler::new(options.tier).map_err(|e| CompileError::Target(e.to_string()))?;
    let lower = |kernel: &Kernel| -> Result<MachineCode, Refusal> {
        let compiled = match options.listings {
            true => compiler.disassemble(kernel),
            false => compiler.compile(kernel).map(|compiled| (compiled, String::new())),
        };
        let (compiled, listing) = compiled.map_err(|e| Refusal::new(e.to_string()))?;
        let scratch = compiled.scratch_bytes.as_const().and_then(|s| u64::try_from(s).ok());
        Ok(MachineCode {
            scratch_bytes: scratch.ok_or_else(|| Refusal::new("scratch of symbolic size"))?,
            align: compiled.align as usize,
            features: compiled.features.iter().map(|f| (*f).to_owned()).collect(),
            code: compiled.code,
            listing,
        })
    };
    let lanes = match options.tier {
        Tier::X86V4 | Tier::X86V4Vnni | Tier::X86V4Amx => 16,
        Tier::X86V3 | Tier::X86V3Vnni => 8,
        Tier::X86V1 | Tier::X86V2 | Tier::Aarch64 => 4,
    };
    let tiles = options.tier == Tier::X86V4Amx;
    // Tile registers multiply all products in less time than lists take for some.
    let dots = !tiles && options.tier.without_byte_products() != options.tier;
    let tuning = Tuning { lanes, tiles, reads_lines: lanes > 4, winograd: options.winograd, dots };
    let arch = options.tier.arch();
    match decomposed(module)? {
        Some(module) => compile_with(&module, arch, tuning, &lower),
        None => compile_with(module, arch, tuning, &lower),
    }
}

/// The module with its composites decomposed, and what shows its shape when it runs, if it has any.
fn decomposed(module: &Module) -> Result<Option<Module>, CompileError> {
    let mut current: Option<Module> = None;
    let mut at = 0;
    // Decompositions may add graphs; those hold composites in turn.
    while at < current.as_ref().unwrap_or(module).graphs().len() {
        let id = GraphId::new(at);
        at += 1;
        let mut whole: FxHashSet<NodeId> = FxHashSet::default();
        // A composite may decompose into composites.
        const ROUNDS: usize = 8;
        for _ in 0..ROUNDS {
            let graph = current.as_ref().unwrap_or(module).graph(id);
            let found =
                |(n, node): (NodeId, &Node)| (decomposes(&node.op) && !whole.contains(&n)).then_some(n);
            let nodes: Vec<NodeId> = graph.scheduled().filter_map(found).collect();
            if nodes.is_empty() {
                break;
            }
            let own = current.get_or_insert_with(|| module.clone());
            for node in nodes {
                if !decompose_node(own, id, node)? {
                    whole.insert(node);
                }
            }
            own.remove_dead_nodes(id);
        }
    }
    Ok(current)
}

fn decomposes(op: &Op) -> bool {
    match op {
        Op::Composite(_) => true,
        Op::Dynamic(op) => !matches!(op, Dynamic::Sizes { .. }),
        _ => false,
    }
}

/// Puts the body of a node in its place; says whether it has one.
fn decompose_node(module: &mut Module, id: GraphId, node: NodeId) -> Result<bool, CompileError> {
    let graph = module.graph(id);
    let data = graph.node(node);
    let name = node_name(graph, data);
    let failed = |reason: String| CompileError::Node { node: name.clone(), reason };
    let mut patch = Patch::before(module, graph, node);
    let body = match &data.op {
        Op::Composite(op) => decompose(op, &mut patch, &data.operands),
        Op::Dynamic(op) => {
            let types: Vec<Type> = data.results.iter().map(|&v| graph.ty(v).clone()).collect();
            decompose_dynamic(op, &mut patch, &data.operands, &types)
        }
        _ => return Ok(false),
    };
    let edit = body.and_then(|results| {
        if results.len() != data.results.len() {
            return Err(InferError::new("the decomposition has another number of results"));
        }
        for (&old, &new) in data.results.iter().zip(&results) {
            patch.replace(old, new);
        }
        patch.remove(node);
        Ok(patch.finish())
    });
    match edit {
        Ok(edit) => module.apply(id, edit).map_err(|e| failed(e.to_string())).map(|()| true),
        // Without a decomposition the evaluator runs the node whole.
        Err(e) => {
            tracing::debug!(node = name, reason = %e, "a node is not decomposed");
            Ok(false)
        }
    }
}
