//! The host module: one graph for every operator that the reference evaluator runs.

use kiln_ir::op::{Control, Object};
use kiln_ir::{Build, GraphBuilder, GraphId, InferError, Module, Op, Tensor, Type, Value};
use rustc_hash::FxHashMap;

/// Graphs of host steps.
#[derive(Debug, Default)]
pub struct HostModule {
    module: Module,
    /// By operator, operands and results.
    names: FxHashMap<(Op, Vec<Type>, Vec<Type>), String>,
    count: usize,
    imported: FxHashMap<GraphId, GraphId>,
}

impl HostModule {
    /// The name of a graph that runs `op` on operands of these types. `types` are the results' declared types;
    /// `constants` holds the operands that are known at compile time.
    pub fn graph(
        &mut self,
        source: &Module,
        op: &Op,
        operands: &[Type],
        constants: &[Option<Tensor>],
        types: &[Type],
    ) -> Result<String, InferError> {
        let key = (op.clone(), operands.to_vec(), types.to_vec());
        if let Some(name) = self.names.get(&key) {
            return Ok(name.clone());
        }
        match self.build(source, op, operands, &[], types) {
            Ok(name) => {
                self.names.insert(key, name.clone());
                Ok(name)
            }
            // Some operators need the values of operands to be typed.
            Err(_) => self.build(source, op, operands, constants, types),
        }
    }

    fn build(
        &mut self,
        source: &Module,
        op: &Op,
        operands: &[Type],
        constants: &[Option<Tensor>],
        types: &[Type],
    ) -> Result<String, InferError> {
        let own = self.import_op(source, op)?;
        let name = format!("host{}_{}", self.count, op.mnemonic());
        self.count += 1;
        let mut b = GraphBuilder::new(&mut self.module, &name);
        let mut values: Vec<Value> = vec![];
        for (i, ty) in operands.iter().enumerate() {
            let input = b.input(&format!("x{i}"), ty.clone());
            values.push(match constants.get(i).and_then(Option::as_ref) {
                Some(tensor) => b.constant(tensor.clone())?,
                None => input,
            });
        }
        let results = b.add(own, &values)?;
        for (i, (&v, ty)) in results.iter().zip(types).enumerate() {
            if b.ty(v).is_compatible(ty) {
                b.refine(v, ty)?;
            }
            b.output(&format!("y{i}"), v);
        }
        b.finish();
        Ok(name)
    }

    /// The operator with its graphs copied here.
    fn import_op(&mut self, source: &Module, op: &Op) -> Result<Op, InferError> {
        Ok(match op {
            Op::Control(Control::If { then_graph, else_graph }) => Op::Control(Control::If {
                then_graph: self.import(source, *then_graph)?,
                else_graph: self.import(source, *else_graph)?,
            }),
            Op::Control(Control::Loop { body, carried }) => {
                Op::Control(Control::Loop { body: self.import(source, *body)?, carried: *carried })
            }
            Op::Control(Control::Call { graph } | Control::Fusion { graph }) => {
                Op::Control(Control::Call { graph: self.import(source, *graph)? })
            }
            Op::Object(Object::SequenceMap { body, sequences }) => {
                Op::Object(Object::SequenceMap { body: self.import(source, *body)?, sequences: *sequences })
            }
            other => other.clone(),
        })
    }

    fn import(&mut self, source: &Module, id: GraphId) -> Result<GraphId, InferError> {
        if let Some(&own) = self.imported.get(&id) {
            return Ok(own);
        }
        let graph = source.graph(id);
        let mut ops = vec![];
        for (_, node) in graph.scheduled() {
            ops.push((self.import_op(source, &node.op)?, node));
        }
        let name = format!("body{}_{}", self.imported.len(), graph.name());
        let mut b = GraphBuilder::new(&mut self.module, &name);
        let mut values: FxHashMap<Value, Value> = FxHashMap::default();
        for (&v, name) in graph.inputs().iter().zip(graph.input_names()) {
            values.insert(v, b.input(name, graph.ty(v).clone()));
        }
        let missing = || InferError::new("a value is used before its definition");
        for (op, node) in ops {
            let operands: Option<Vec<Value>> = node.operands.iter().map(|v| values.get(v).copied()).collect();
            let results = b.add(op, &operands.ok_or_else(missing)?)?;
            for (&old, &new) in node.results.iter().zip(&results) {
                values.insert(old, new);
            }
        }
        for (&v, name) in graph.outputs().iter().zip(graph.output_names()) {
            b.output(name, *values.get(&v).ok_or_else(missing)?);
        }
        let own = b.finish();
        self.imported.insert(id, own);
        Ok(own)
    }

    /// The module's text; empty if no step needs it.
    pub fn text(&self) -> String {
        if self.count == 0 {
            return String::new();
        }
        let options =
            kiln_ir::text::TextOptions { locations: false, names: false, inline_elements: usize::MAX };
        kiln_ir::text::print_module_with(&self.module, options).0
    }
}
