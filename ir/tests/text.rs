//! The text form: what prints parses back to the same, and what is no module is refused with a place.

use std::sync::Arc;

use kiln_ir::op::{Control, Movement, Object, Order, ReduceKind, Source};
use kiln_ir::text::{Resources, parse_module, print_module};
use kiln_ir::{Build, BuildDynamic, DType, Dim, GraphBuilder, Module, Op, Origin, StateDecl, Tensor, Type};

fn sample() -> Module {
    let mut m = Module::new();
    m.add_state(StateDecl {
        name: "hidden state".into(),
        init: Tensor::from_slice(&[2], &[0.5f32, -1.0]).unwrap(),
    });
    let mut b = GraphBuilder::new(&mut m, "ma\"in");
    let (n, s) = (Dim::symbol("N"), Dim::symbol("seq len"));
    let x = b.input("x", Type::tensor(DType::F32, [n.clone(), s.clone(), Dim::known(4)]));
    let c = b.input("c", Type::fixed(DType::Bool, &[]));
    let any = b.input("any", Type::unranked(DType::I8));
    b.set_origin(Some(Arc::new(Origin {
        file: "m.onnx".into(),
        path: "a/b".into(),
        node: "Relu\n3".into(),
        op: "Relu-14".into(),
    })));
    let w = b.constant(Tensor::from_slice(&[4, 5], &[1.5f32; 20]).unwrap()).unwrap();
    let small = b.constant(Tensor::from_slice(&[2], &[f32::NAN, f32::INFINITY]).unwrap()).unwrap();
    let words = b.constant(Tensor::strings(&[2], vec!["a\"b".into(), "é".into()]).unwrap()).unwrap();
    let y = b.einsum("bsk,kn->bsn", x, w).unwrap();
    b.set_name(y, "scores");
    b.set_origin(None);
    let y = b.ew_with("leaky_relu", &[0.1], &[y]).unwrap();
    let k = b.constant_of(&[2i64]).unwrap();
    let top = b.add(Order::TopK { axis: 2, largest: true, sorted: false }.into(), &[y, k]).unwrap();
    let shape = b.dims(&[&n * &s, Dim::known(2)]).unwrap();
    let flat = b.reshape_to(top[0], shape).unwrap();
    let half = Movement::Slice {
        starts: vec![Dim::known(0), Dim::known(0)],
        sizes: vec![(&n * &s).floor_div(&Dim::known(2)), Dim::known(2)],
        steps: vec![1, 1],
    };
    let half = b.add1(half, &[flat]).unwrap();
    let body = |scale: f64| {
        move |b: &mut dyn Build, v: &[kiln_ir::Value]| {
            let k = b.scalar(DType::F32, scale)?;
            Ok(vec![b.ew("mul", &[v[0], k])?])
        }
    };
    let ty = b.ty(half).clone();
    let then_graph = b.subgraph("then", std::slice::from_ref(&ty), &mut body(2.0)).unwrap();
    let else_graph = b.subgraph("else", &[ty], &mut body(3.0)).unwrap();
    let z = b.add1(Control::If { then_graph, else_graph }, &[c, half]).unwrap();
    let r = b.reduce(ReduceKind::Mean, z, &[0], false).unwrap();
    b.add(Object::StateAssign { name: "hidden state".into() }.into(), &[r]).unwrap();
    let seq = b.add1(Object::SequenceConstruct {}, &[r, small]).unwrap();
    let iota = b.add1(Source::Iota { len: n, dtype: DType::U4 }, &[]).unwrap();
    for (name, v) in [("z", z), ("seq", seq), ("iota", iota), ("w", words), ("any", any), ("i", top[1])] {
        b.output(name, v);
    }
    let g = b.finish();
    m.add_entry(g);
    m
}

#[test]
fn a_module_with_everything_round_trips() {
    let (text, resources) = print_module(&sample());
    let back = parse_module(&text, &resources).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let (again, more) = print_module(&back);
    assert_eq!(again, text);
    assert_eq!(more.0, resources.0);
    assert_eq!(resources.0.len(), 1, "the large constant alone is a resource\n{text}");
}

#[test]
fn known_values_survive() {
    let (text, resources) = print_module(&sample());
    let back = parse_module(&text, &resources).unwrap();
    let graph = back.graph(back.entries()[0]);
    let shape = graph.scheduled().find(|(_, n)| matches!(n.op, Op::Source(Source::Dims { .. }))).unwrap().1;
    assert!(graph.value(shape.results[0]).known().is_some());
}

#[test]
fn fresh_symbols_go_on_after_those_in_the_text() {
    let text = "module {\n  graph g0 \"m\" (%0 \"x\": f32[_u41, ?]) {\n    return %0 \"y\"\n  }\n}\n";
    let mut m = parse_module(text, &Resources::default()).unwrap();
    assert!(print_module(&m).0.contains("f32[_u41, _u42]"));
    assert_eq!(m.fresh_dim(), Dim::symbol("_u43"));
}

#[track_caller]
fn refuses(text: &str, line: usize, reason: &str) {
    let e = parse_module(text, &Resources::default()).expect_err(text);
    assert!(e.line == line && e.reason.contains(reason), "{e}");
}

#[test]
fn refusals_name_the_place() {
    let graph =
        |body: &str| format!("module {{\n graph g0 \"m\" (%0 \"x\": f32[2]) {{\n{body}\n return\n }}\n}}");
    refuses("module {", 1, "expected a name");
    refuses(&graph("%1: f32[2] = rely(%0)"), 3, "unknown operator `rely`");
    refuses(&graph("%1: f32[2] = relu(%2)"), 3, "%2 is not defined before");
    refuses(&graph("%1: f32[2] = relu(%1)"), 3, "%1 is not defined before");
    refuses(&graph("%0: f32[2] = relu(%0)"), 3, "%0 is defined twice");
    refuses(&graph("%1: f32[3] = relu(%0)"), 3, "inference gives f32[2]");
    refuses(&graph("%1: f32[2], %2: f32[2] = relu(%0)"), 3, "has 1 results");
    refuses(&graph("%1: f32[2] = and(%0, %0)"), 3, "does not take f32");
    refuses(&graph("%1: f32[2] = call(%0) {graph=g0}"), 3, "calls itself");
    refuses(&graph("%1: f32[2] = call(%0) {graph=g7}"), 3, "no graph g7");
    refuses(&graph("%1: f32[2] = constant {value=@w0}"), 3, "resource @w0 is missing");
    refuses(&graph("%1: f32[9999999999999999999] = relu(%0)"), 3, "64 bits");
    refuses("module { entry g1 }", 1, "no graph g1");
    refuses("module {} x", 1, "text after the module");
    refuses("module { graph g0 \"m\" (%0 \"x\": f32[_u99999999999999999999]) { return } }", 1, "too large");
}

#[test]
fn truncation_anywhere_is_an_error_not_a_panic() {
    let (text, resources) = print_module(&sample());
    for (i, _) in text.char_indices() {
        assert!(i + 2 > text.len() || parse_module(&text[..i], &resources).is_err(), "{}", &text[..i]);
    }
}

#[test]
fn deep_nesting_is_refused() {
    let deep = format!("module {{ graph g0 \"m\" (%0 \"x\": {}", "seq<".repeat(100_000));
    assert!(parse_module(&deep, &Resources::default()).unwrap_err().reason.contains("nested too deeply"));
    let deep = format!("module {{ graph g0 \"m\" (%0 \"x\": f32[{}", "(".repeat(100_000));
    assert!(parse_module(&deep, &Resources::default()).is_err());
}
