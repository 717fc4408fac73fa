//! Host steps: graphs of the program's host module, run by the reference evaluator.

use kiln_ir::eval::Limits;
use kiln_ir::text::{Resources, parse_module};
use kiln_ir::{Datum, Evaluator, GraphId, Module, Symbol};
use rustc_hash::FxHashMap;

use crate::program::{Action, Program};
use crate::validate::Fault;

/// The parsed host module.
#[derive(Debug, Default)]
pub(crate) struct HostGraphs {
    module: Module,
    by_name: FxHashMap<String, GraphId>,
}

impl HostGraphs {
    /// Parses the program's host module and checks that every host step finds its graph there.
    pub fn parse(program: &Program) -> Result<Self, Fault> {
        if program.host_module.is_empty() {
            let host = HostGraphs::default();
            return host.check(program).map(|()| host);
        }
        let fault = |what: String| Fault { place: "host module".to_owned(), what };
        // Parsing infers every type anew, so what comes back is as sound as a module that was just built.
        let module =
            parse_module(&program.host_module, &Resources::default()).map_err(|e| fault(e.to_string()))?;
        let by_name = module.graphs().map(|(id, graph)| (graph.name().to_owned(), id)).collect();
        let host = HostGraphs { module, by_name };
        host.check(program)?;
        Ok(host)
    }

    fn check(&self, program: &Program) -> Result<(), Fault> {
        for function in &program.functions {
            for (i, step) in function.steps.iter().enumerate() {
                let Action::Host { graph, operands, results } = &step.action else { continue };
                let place = || format!("function `{}`, step {i}", function.name);
                let Some(found) = self.by_name.get(graph).and_then(|&id| self.module.get_graph(id)) else {
                    return Err(Fault { place: place(), what: format!("there is no host graph `{graph}`") });
                };
                if found.inputs().len() != operands.len() || found.outputs().len() != results.len() {
                    let what = format!("it does not have the operands and results of host graph `{graph}`");
                    return Err(Fault { place: place(), what });
                }
            }
        }
        Ok(())
    }

    /// Evaluates a graph. Random operators without a seed of their own draw from `seed`. `symbols` are the values of dims that the graph may mention; no result may be larger than
    /// `max_bytes`; `interrupted` is asked now and then whether to give up.
    pub fn run(
        &self,
        graph: &str,
        operands: &[Datum],
        max_bytes: u64,
        seed: u64,
        symbols: &mut dyn Iterator<Item = (&Symbol, i64)>,
        interrupted: &dyn Fn() -> bool,
    ) -> Result<Vec<Datum>, String> {
        let Some(&id) = self.by_name.get(graph) else {
            return Err(format!("there is no host graph `{graph}`"));
        };
        let limits = Limits::default();
        let limits = Limits { max_bytes: limits.max_bytes.min(max_bytes), ..limits };
        let mut evaluator = Evaluator::with_limits(&self.module, limits);
        evaluator.set_seed(seed);
        evaluator.set_interrupt(interrupted);
        for (symbol, value) in symbols {
            evaluator.bind(symbol, value);
        }
        evaluator.run(id, operands).map_err(|e| e.to_string())
    }
}
