//! A module as a program.

use kiln_ir::{GraphId, Module, Op, Tensor, Type};
use kiln_runtime::abi::ABI_VERSION;
use kiln_runtime::image::Image;
use kiln_runtime::program::{Entry, Function, FunctionId, Port, Program, StateDecl, Target};
use rustc_hash::FxHashMap;

use super::contract::Tuning;
use super::function::FunctionBuilder;
use super::host::HostModule;
use super::tables::{ConstantTable, KernelTable, LowerKernel, Refused};
use super::trace::Refusal;
use super::{CompileError, Compiled, SlowNode, Split, Summary};

/// A program under construction.
pub struct ProgramBuilder<'m> {
    /// The module.
    pub module: &'m Module,
    /// What the lowering likes.
    pub tuning: Tuning,
    /// Kernels so far.
    pub kernels: KernelTable,
    /// Constants so far.
    pub constants: ConstantTable,
    host: HostModule,
    functions: Vec<Option<Function>>,
    by_graph: FxHashMap<GraphId, FunctionId>,
    summary: Summary,
}

impl<'m> ProgramBuilder<'m> {
    /// A builder for `module` that uses no kernel in `refused`.
    pub fn new(module: &'m Module, tuning: Tuning, refused: Refused) -> Self {
        ProgramBuilder {
            module,
            tuning,
            kernels: KernelTable::new(refused),
            constants: ConstantTable::default(),
            host: HostModule::default(),
            functions: vec![],
            by_graph: FxHashMap::default(),
            summary: Summary::default(),
        }
    }

    /// The function of a graph.
    pub fn function(&mut self, graph: GraphId) -> Result<FunctionId, CompileError> {
        if let Some(&id) = self.by_graph.get(&graph) {
            return Ok(id);
        }
        let id = FunctionId(self.functions.len() as u32);
        self.functions.push(None);
        self.by_graph.insert(graph, id);
        let module = self.module;
        let function = FunctionBuilder::build(self, module.graph(graph))?;
        self.functions[id.index()] = Some(function);
        Ok(id)
    }

    /// The name of the host graph that runs `op`.
    pub fn host_graph(
        &mut self,
        op: &Op,
        operands: &[Type],
        constants: &[Option<Tensor>],
        results: &[Type],
        node: &str,
    ) -> Result<String, CompileError> {
        self.host
            .graph(self.module, op, operands, constants, results)
            .map_err(|e| CompileError::Node { node: node.to_owned(), reason: e.to_string() })
    }

    /// Records that nodes became kernels.
    pub fn note_kernels(&mut self, nodes: usize) {
        self.summary.kernel_steps += 1;
        self.summary.kernel_nodes += nodes;
    }

    /// Records that a fusion was taken apart.
    pub fn note_split(&mut self, graph: &str, refusal: &Refusal) {
        self.summary.splits.push(Split { graph: graph.to_owned(), reason: refusal.0.clone() });
    }

    /// Records that a node runs in the evaluator.
    pub fn note_slow(&mut self, node: SlowNode) {
        self.summary.slow.push(node);
    }

    /// The finished program; or, where `lower` refused kernels, those.
    pub fn finish(
        mut self,
        arch: &str,
        lower: &LowerKernel<'_>,
    ) -> Result<Result<Compiled, Refused>, CompileError> {
        let mut states = vec![];
        for state in self.module.states() {
            let initial = self.constants.intern(&state.init, &state.name);
            states.push(StateDecl { name: state.name.clone(), ty: Type::Tensor(state.init.ty()), initial });
        }
        let mut entries = vec![];
        for &id in self.module.entries() {
            let function = self.function(id)?;
            let graph = self.module.graph(id);
            let port =
                |(v, name): (&kiln_ir::Value, &String)| Port { name: name.clone(), ty: graph.ty(*v).clone() };
            entries.push(Entry {
                name: graph.name().to_owned(),
                function,
                inputs: graph.inputs().iter().zip(graph.input_names()).map(port).collect(),
                outputs: graph.outputs().iter().zip(graph.output_names()).map(port).collect(),
            });
        }
        let code = match self.kernels.lower(lower) {
            Ok(code) => code,
            Err(refused) => return Ok(Err(refused)),
        };
        let mut features: Vec<String> = vec![];
        for feature in code.infos.iter().flat_map(|k| &k.features) {
            if !features.contains(feature) {
                features.push(feature.clone());
            }
        }
        let arch = if code.infos.is_empty() { String::new() } else { arch.to_owned() };
        let program = Program {
            producer: concat!("kiln ", env!("CARGO_PKG_VERSION")).to_owned(),
            abi_version: ABI_VERSION,
            target: Target { arch, features },
            kernels: code.infos,
            functions: self.functions.into_iter().map(Option::unwrap_or_default).collect(),
            entries,
            constants: self.constants.infos,
            states,
            host_module: self.host.text(),
        };
        let mut summary = self.summary;
        summary.kernels = program.kernels.len();
        summary.code_bytes = code.code.len() as u64;
        summary.weight_bytes = self.constants.data.iter().map(|c| c.bytes().len() as u64).sum();
        summary.arena_bytes = program.functions.iter().filter_map(|f| f.arena.as_ref()).map(|a| a.size).sum();
        let image = Image { program, code: code.code, constants: self.constants.data };
        Ok(Ok(Compiled { image, summary, kernel_texts: code.texts, kernel_listings: code.listings }))
    }
}
