//! Golden files of the passes. A section is a case: its first line names the passes to run, a module follows; the
//! expectation is the module after the passes and a line for each rule that applied or refused. Every case is also
//! evaluated before and after: the outputs must agree.

#[path = "../../tests/src/golden.rs"]
#[allow(dead_code, reason = "other suites use the rest of it")]
mod golden;

use std::fmt::Write as _;
use std::path::Path;

use kiln_ir::text::{Resources, TextOptions, parse_module, print_module_with};
use kiln_ir::verify::verify;
use kiln_ir::{DType, Datum, Dim, Evaluator, Module, Op, Scalar, Tensor};
use kiln_passes::{Options, PASSES, Report, run_pass};

fn run(passes: &str, module: &mut Module) -> String {
    let mut report = Report::default();
    for name in passes.split_whitespace() {
        let pass = PASSES.iter().find(|p| p.name == name).unwrap_or_else(|| panic!("no pass `{name}`"));
        run_pass(pass, module, &Options { verify: true, ..Options::default() }, &mut report).unwrap();
    }
    let options = TextOptions { inline_elements: 64, ..TextOptions::default() };
    let mut out = print_module_with(module, options).0;
    for pass in &report.passes {
        for (rule, count) in &pass.applied {
            let _ = writeln!(out, "; {}: {rule} applied {count}", pass.name);
        }
        for r in &pass.refused {
            let _ = writeln!(out, "; {}: {} refused at {}: {}", pass.name, r.rule, r.node, r.reason);
        }
    }
    out
}

/// Inputs of an entry: numbers that differ, small enough for every function; 3 for every symbol.
fn inputs(module: &Module) -> Option<Vec<Datum>> {
    let graph = module.graph(module.entries()[0]);
    let three = |d: &Dim| usize::try_from(d.eval(&|_| Some(3)).ok()?).ok();
    let tensor = |(i, &v): (usize, &kiln_ir::Value)| {
        let ty = graph.ty(v).as_tensor()?;
        let dims: Vec<usize> = ty.shape.dims()?.iter().map(three).collect::<Option<_>>()?;
        let count: usize = dims.iter().product();
        let scalar = |j: usize| match ty.dtype {
            DType::Bool => Scalar::B((i + j).is_multiple_of(2)),
            d if d.is_float() => Scalar::F(((i * 7 + j * 5) % 11) as f64 / 4.0 - 0.9),
            _ => Scalar::I((j % 3) as i128),
        };
        let values: Vec<Scalar> = (0..count).map(scalar).collect();
        Some(Datum::Tensor(Tensor::from_scalars(ty.dtype, &dims, &values).ok()?))
    };
    graph.inputs().iter().enumerate().map(tensor).collect()
}

fn is_random(module: &Module) -> bool {
    module.graphs().any(|(_, g)| g.scheduled().any(|(_, n)| matches!(&n.op, Op::Host(h) if h.is_random())))
}

fn assert_equal_outputs(title: &str, before: &Module, after: &Module) {
    let Some(inputs) = inputs(before).filter(|_| !is_random(before)) else { return };
    let outputs = |m: &Module| Evaluator::new(m).run(m.entries()[0], &inputs);
    let Ok(wanted) = outputs(before) else { return };
    let found = outputs(after).unwrap_or_else(|e| panic!("{title}: {e}"));
    for (a, b) in wanted.iter().zip(&found) {
        let (Some(a), Some(b)) = (a.as_tensor(), b.as_tensor()) else { continue };
        assert_eq!((a.dtype(), a.dims()), (b.dtype(), b.dims()), "{title}");
        let (x, y) = (a.to_f64s().unwrap_or_default(), b.to_f64s().unwrap_or_default());
        for (x, y) in x.iter().zip(&y) {
            let close = (x - y).abs() <= 1e-4 * x.abs().max(1.0) || (x.is_nan() && y.is_nan()) || x == y;
            assert!(close, "{title}: {x} became {y}");
        }
    }
}

/// What the passes make of a section, with what their rules did.
fn produce(case: &golden::Case) -> Vec<(String, String)> {
    let each = |(title, body): &(String, String)| {
        let place = format!("{}: {title}", case.path.display());
        let (passes, input) = body.split_once('\n').unwrap_or_else(|| panic!("{place}: empty"));
        let passes = passes.strip_prefix("passes:").unwrap_or_else(|| panic!("{place}: no passes"));
        let parse = || parse_module(input, &Resources::default()).unwrap_or_else(|e| panic!("{place}: {e}"));
        let (before, mut after) = (parse(), parse());
        verify(&before).unwrap_or_else(|e| panic!("{place}: {}", e[0]));
        let output = run(passes, &mut after);
        assert_equal_outputs(&place, &before, &after);
        (title.clone(), output)
    };
    case.inputs().map(each).collect()
}

#[test]
fn golden_files() {
    golden::check(Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/passes"), produce);
}
