//! The evaluator on random modules: it never panics, its results have the types that inference gave, and what
//! inference says of values is what evaluation finds.

use std::cell::RefCell;

use kiln_ir::eval::{Evaluator, Limits};
use kiln_ir::graph::Known;
use kiln_ir::text::print_module;
use kiln_ir::{Datum, Module, Tensor};
use proptest::prelude::*;
use proptest::strategy::ValueTree;

#[path = "../../tests/src/choices.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod choices;
#[path = "../../tests/src/random_graph.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod random_graph;

use random_graph::{Growth, Variety, inputs, modules};

const ANY: Growth = Growth { variety: Variety::Any, symbolic: true, operators: 24 };
const SMOOTH: Growth = Growth { variety: Variety::Smooth, symbolic: true, operators: 24 };

fn size(symbol: &str) -> i64 {
    if symbol == "N" { 3 } else { 2 }
}

/// Whether a result is what inference knew of it. Dims over symbols that only the run binds count as right.
fn agrees(known: &Known, result: &Datum) -> bool {
    let Some(t) = result.as_tensor() else { return false };
    match known {
        Known::Tensor(expected) => same_value(expected, t),
        Known::Dims(dims) => {
            let lookup = |s: &kiln_ir::Symbol| matches!(&*s.0, "N" | "M").then(|| size(&s.0));
            let Some(values) = t.to_ints() else { return false };
            values.len() == dims.len()
                && values.iter().zip(dims).all(|(v, d)| d.eval(&lookup).map_or(true, |d| d == *v))
        }
    }
}

/// Equal, NaNs of any bits being equal.
fn same_value(a: &Tensor, b: &Tensor) -> bool {
    let nan = |t: &Tensor, i| matches!(t.element(i), Some(kiln_ir::Scalar::F(v)) if v.is_nan());
    let bits = |i| a.element_bits(i) == b.element_bits(i) || (nan(a, i) && nan(b, i));
    a == b || (a.dtype() == b.dtype() && a.dims() == b.dims() && (0..a.numel()).all(bits))
}

/// Runs the entry; what went wrong that must not.
fn run(module: &Module, seed: u64) -> Result<bool, String> {
    let entry = module.entries()[0];
    let given: Vec<Datum> = inputs(module.graph(entry), size, seed).into_iter().map(Datum::Tensor).collect();
    let wrong = RefCell::new(None);
    let limits = Limits { max_bytes: 1 << 22, max_live: 1 << 24, max_work: 1 << 24, max_depth: 16 };
    let mut ev = Evaluator::with_limits(module, limits);
    ev.set_observer(|graph, _, node, results| {
        for (&v, result) in node.results.iter().zip(results) {
            if let Some(known) = module.graph(graph).value(v).known()
                && !agrees(known, result)
            {
                let text = format!("{v} of {graph}: known {known:?}, found {result:?}");
                wrong.borrow_mut().get_or_insert(text);
            }
        }
    });
    let outcome = ev.run(entry, &given);
    drop(ev);
    if let Some(text) = wrong.into_inner() {
        return Err(text);
    }
    match outcome {
        Ok(_) => Ok(true),
        // A shape that depends on data may not fit; a type that inference gave must.
        Err(e) if e.to_string().contains("declared type") => Err(e.to_string()),
        Err(_) => Ok(false),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn results_are_what_inference_says(module in prop_oneof![modules(ANY), modules(SMOOTH)], seed in any::<u64>()) {
        let outcome = run(&module, seed);
        prop_assert!(outcome.is_ok(), "{}\n{}", outcome.unwrap_err(), print_module(&module).0);
    }

    #[test]
    fn runs_repeat(module in modules(SMOOTH), seed in any::<u64>()) {
        let entry = module.entries()[0];
        let given: Vec<Datum> =
            inputs(module.graph(entry), size, seed).into_iter().map(Datum::Tensor).collect();
        let run = || Evaluator::new(&module).run(entry, &given).map(|r| format!("{r:?}")).map_err(|e| e.to_string());
        prop_assert_eq!(run(), run());
    }
}

/// Most random modules run to their end: else the properties above say little.
#[test]
fn random_modules_mostly_run() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut ran = 0;
    for seed in 0..100 {
        let module = modules(SMOOTH).new_tree(&mut runner).expect("a module").current();
        ran += usize::from(run(&module, seed).expect("as inference says"));
    }
    assert!(ran >= 60, "{ran} of 100");
}
