//! Host steps: graphs of the program's host module, run by the reference evaluator.

use kiln_ir::{GraphId, Module, Symbol};
use rustc_hash::FxHashMap;

use crate::program::{Action, Program};
use crate::validate::Fault;
use crate::value::Datum;

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
        Err(fault("this build has no evaluator".to_owned()))
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

    /// Evaluates a graph. `symbols` are the values of dims that the graph may mention; `interrupted` is asked now and
    /// then whether to give up.
    pub fn run(
        &self,
        graph: &str,
        operands: &[Datum],
        symbols: &mut dyn Iterator<Item = (&Symbol, i64)>,
        interrupted: &dyn Fn() -> bool,
    ) -> Result<Vec<Datum>, String> {
        let Some(&id) = self.by_name.get(graph) else {
            return Err(format!("there is no host graph `{graph}`"));
        };
        let _ = (id, operands, symbols, interrupted);
        Err("this build has no evaluator".to_owned())
    }
}
