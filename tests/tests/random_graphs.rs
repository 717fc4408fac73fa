//! Random modules through the compiler, against the reference evaluator.

use std::sync::Arc;

use kiln_codegen::build::{Options, compile};
use kiln_ir::{Datum, Evaluator, Module};
use kiln_runtime::{Executable, Session, SessionOptions};
use kiln_tests::random_graph::{Growth, Variety, inputs, modules};
use proptest::prelude::*;

/// Results of the evaluator and of the compiled program.
fn both(module: &Module, optimized: &Module, seed: u64) -> Option<(Vec<Datum>, Result<Vec<Datum>, String>)> {
    let id = module.entries()[0];
    let graph = module.graph(id);
    let size = |name: &str| if name == "N" { 3 } else { 5 };
    let data: Vec<Datum> = inputs(graph, size, seed).into_iter().map(Datum::Tensor).collect();
    // A module whose evaluation fails by design has nothing to compare.
    let expected = Evaluator::new(module).run(id, &data).ok()?;
    // Code that faults takes the process with it: what it was made of stays in the build folder.
    let place = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("random_graph.txt");
    std::fs::write(place, text(optimized)).unwrap();
    let compiled =
        compile(optimized, &Options::default()).unwrap_or_else(|e| panic!("{e}\n{}", text(optimized)));
    let exe = Executable::from_image(compiled.image).unwrap_or_else(|e| panic!("{e}\n{}", text(optimized)));
    let session = Session::new(Arc::new(exe), SessionOptions { threads: Some(2), ..Default::default() });
    Some((expected, session.run(graph.name(), &data).map_err(|e| e.to_string())))
}

fn text(module: &Module) -> String {
    kiln_ir::text::print_module(module).0
}

fn compare(module: &Module, expected: &[Datum], actual: &[Datum]) -> Result<(), TestCaseError> {
    for (i, (e, a)) in expected.iter().zip(actual).enumerate() {
        let (Datum::Tensor(e), Datum::Tensor(a)) = (e, a) else { continue };
        prop_assert_eq!(e.dtype(), a.dtype());
        prop_assert_eq!(e.dims(), a.dims(), "output {}\n{}", i, text(module));
        let (Some(e), Some(a)) = (e.to_f64s(), a.to_f64s()) else { continue };
        for (at, (e, a)) in e.iter().zip(&a).enumerate() {
            let close = e == a || (e.is_nan() && a.is_nan()) || (e - a).abs() <= 2e-3 * e.abs().max(1.0);
            prop_assert!(close, "output {i}[{at}]: expected {e}, got {a}\n{}", text(module));
        }
    }
    Ok(())
}

fn check(module: &Module, passes: bool, seed: u64) -> Result<(), TestCaseError> {
    let mut optimized = module.clone();
    if passes {
        kiln_passes::optimize(&mut optimized, &Default::default())
            .map_err(|e| TestCaseError::fail(e.to_string()))?;
    }
    if let Some((expected, actual)) = both(module, &optimized, seed) {
        let actual = actual.map_err(|e| TestCaseError::fail(format!("{e}\n{}", text(&optimized))))?;
        compare(&optimized, &expected, &actual)?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn node_by_node(
        module in modules(Growth { variety: Variety::Smooth, symbolic: false, operators: 12 }),
        seed in any::<u64>()
    ) {
        check(&module, false, seed)?;
    }

    #[test]
    fn optimized(
        module in modules(Growth { variety: Variety::Smooth, symbolic: false, operators: 12 }),
        seed in any::<u64>()
    ) {
        check(&module, true, seed)?;
    }

    #[test]
    fn symbolic(
        module in modules(Growth { variety: Variety::Smooth, symbolic: true, operators: 12 }),
        seed in any::<u64>()
    ) {
        check(&module, true, seed)?;
    }

    #[test]
    fn everything_compiles_and_runs(
        module in modules(Growth { variety: Variety::Any, symbolic: true, operators: 12 }),
        seed in any::<u64>()
    ) {
        if let Some((expected, actual)) = both(&module, &module, seed) {
            let actual = actual.map_err(|e| TestCaseError::fail(format!("{e}\n{}", text(&module))))?;
            prop_assert_eq!(expected.len(), actual.len());
        }
    }
}

/// What random graphs once found.
#[test]
fn a_size_of_a_value_without_elements_is_bound() {
    let text = "module {
  entry g0
  graph g0 \"main\" (%0 \"x\": f32[]) {
    %1: i64[0, U] = non_zero(%0)
    %2: i64[0, U] = reduce(%1) {kind=mean, axes=[], keepdims=false}
    return %2 \"y\"
  }
}";
    let module = kiln_ir::text::parse_module(text, &Default::default()).unwrap();
    check(&module, false, 0).unwrap();
}
