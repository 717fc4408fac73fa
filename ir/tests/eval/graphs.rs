//! Graphs: symbols, control flow, limits, errors that name their node.

use std::cell::RefCell;
use std::sync::Arc;

use kiln_ir::eval::{Evaluator, Fault, Limits};
use kiln_ir::graph::Origin;
use kiln_ir::op::{Control, Dynamic, Index, Movement, Object, Order, Source};
use kiln_ir::{Build, DType, Datum, Dim, GraphBuilder, GraphId, Module, Op, Tensor, Type};

use super::{f32s, i64s};

fn n() -> Dim {
    Dim::symbol("N")
}

#[test]
fn symbols_take_their_values_from_inputs_and_results() {
    let mut module = Module::new();
    let mut b = GraphBuilder::new(&mut module, "main");
    let x = b.input("x", Type::tensor(DType::F32, vec![n(), Dim::known(2)]));
    let flat = b.add1(Movement::Reshape { shape: vec![n() * Dim::known(2)] }, &[x]).unwrap();
    let hits = b.add1(Order::NonZero {}, &[flat]).unwrap();
    // The number of hits is a symbol that only this node's result gives a value.
    let count = b.shape(hits).unwrap()[1].clone();
    let tail = b.add1(Source::Dims { dims: vec![count, n()] }, &[]).unwrap();
    b.output("hits", hits);
    b.output("tail", tail);
    let g = b.finish();
    let x = f32s(&[2, 2], &[1.0, 0.0, 0.0, 4.0]);
    let r = Evaluator::new(&module).run(g, &[x.into()]).unwrap();
    assert_eq!(r, [i64s(&[1, 2], &[0, 3]).into(), Datum::Tensor(Tensor::ints(&[2, 2]))]);
    let wrong = Evaluator::new(&module).run(g, &[f32s(&[2, 3], &[0.0; 6]).into()]).unwrap_err();
    assert!(wrong.to_string().contains("input `x`"), "{wrong}");
    assert!(Evaluator::new(&module).run(g, &[]).is_err());
    assert!(Evaluator::new(&module).run(GraphId::new(7), &[]).is_err());
}

/// `then: x + 1`, `else: [x, x]` flattened, so that the branches differ in rank.
fn branches(module: &mut Module) -> (GraphId, GraphId) {
    let scalar = || Type::fixed(DType::F32, &[]);
    let mut b = GraphBuilder::new(module, "then");
    let x = b.input("x", scalar());
    let one = b.scalar(DType::F32, 1.0).unwrap();
    let y = b.ew("add", &[x, one]).unwrap();
    b.output("y", y);
    let then = b.finish();
    let mut b = GraphBuilder::new(module, "else");
    let x = b.input("x", scalar());
    let y = b.broadcast(x, &[Dim::known(2)]).unwrap();
    b.output("y", y);
    (then, b.finish())
}

#[test]
fn branches_may_differ_in_rank() {
    let mut module = Module::new();
    let (then_graph, else_graph) = branches(&mut module);
    let mut b = GraphBuilder::new(&mut module, "main");
    let c = b.input("c", Type::fixed(DType::Bool, &[]));
    let x = b.input("x", Type::fixed(DType::F32, &[]));
    let y = b.add1(Control::If { then_graph, else_graph }, &[c, x]).unwrap();
    b.output("y", y);
    let g = b.finish();
    let run = |c: bool| {
        let c = Tensor::from_bools(&[], &[c]).unwrap();
        Evaluator::new(&module).run(g, &[c.into(), Tensor::scalar(3.0f32).into()]).unwrap().remove(0)
    };
    assert_eq!(run(true), Tensor::scalar(4.0f32).into());
    assert_eq!(run(false), f32s(&[2], &[3.0, 3.0]).into());
}

/// A loop that doubles its carried value and scans it, until it exceeds a captured limit.
fn doubling(module: &mut Module) -> GraphId {
    let scalar = |d| Type::fixed(d, &[]);
    let mut b = GraphBuilder::new(module, "body");
    let _trip = b.input("trip", scalar(DType::I64));
    let _go_on = b.input("go_on", scalar(DType::Bool));
    let x = b.input("x", scalar(DType::I64));
    let limit = b.input("limit", scalar(DType::I64));
    let next = b.ew("add", &[x, x]).unwrap();
    let go_on = b.ew("lt", &[next, limit]).unwrap();
    b.output("go_on", go_on);
    b.output("next", next);
    b.output("scan", x);
    let body = b.finish();
    let mut b = GraphBuilder::new(module, "main");
    let trips = b.input("trips", scalar(DType::I64));
    let go_on = b.input("go_on", scalar(DType::Bool));
    let x = b.input("x", scalar(DType::I64));
    let limit = b.input("limit", scalar(DType::I64));
    let r = b.add(Control::Loop { body, carried: 1 }.into(), &[trips, go_on, x, limit]).unwrap();
    b.output("last", r[0]);
    b.output("all", r[1]);
    b.finish()
}

fn loop_inputs(trips: i64, go_on: bool, limit: i64) -> Vec<Datum> {
    let go_on = Tensor::from_bools(&[], &[go_on]).unwrap();
    vec![
        Tensor::scalar(trips).into(),
        go_on.into(),
        Tensor::scalar(1i64).into(),
        Tensor::scalar(limit).into(),
    ]
}

#[test]
fn loops_stop_on_count_or_condition() {
    let mut module = Module::new();
    let g = doubling(&mut module);
    let run = |inputs: Vec<Datum>| {
        let r = Evaluator::new(&module).run(g, &inputs).unwrap();
        r.into_iter().map(|d| d.into_tensor().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(run(loop_inputs(3, true, 1000)), [Tensor::scalar(8i64), Tensor::ints(&[1, 2, 4])]);
    assert_eq!(run(loop_inputs(i64::MAX, true, 10)), [Tensor::scalar(16i64), Tensor::ints(&[1, 2, 4, 8])]);
    assert_eq!(run(loop_inputs(5, false, 10)), [Tensor::scalar(1i64), Tensor::ints(&[])]);
    assert_eq!(run(loop_inputs(0, true, 10)), [Tensor::scalar(1i64), Tensor::ints(&[])]);
}

#[test]
fn endless_loops_end() {
    let mut module = Module::new();
    let g = doubling(&mut module);
    // 0 doubled stays 0, below any limit.
    let mut inputs = loop_inputs(i64::MAX, true, 10);
    inputs[2] = Tensor::scalar(0i64).into();
    let limits = Limits { max_work: 10_000, ..Limits::default() };
    let error = Evaluator::with_limits(&module, limits).run(g, &inputs).unwrap_err();
    assert_eq!(error.fault(), &Fault::WorkLimit(10_000));
    let mut ev = Evaluator::new(&module);
    ev.set_interrupt(|| true);
    assert_eq!(ev.run(g, &inputs).unwrap_err().fault(), &Fault::Interrupted);
}

/// `count` wide copies of the input, of which the sum is the output; all are alive together, or one after the other.
fn wide_copies(module: &mut Module, count: usize, together: bool) -> GraphId {
    let mut b = GraphBuilder::new(module, "main");
    let x = b.input("x", Type::fixed(DType::F32, &[1]));
    let wide = |b: &mut GraphBuilder<'_>, i: usize| {
        let c = b.scalar(DType::F32, i as f64).unwrap();
        let v = b.ew("add", &[x, c]).unwrap();
        b.broadcast(v, &[Dim::known(1000)]).unwrap()
    };
    let mut copies: Vec<_> = (0..if together { count } else { 0 }).map(|i| wide(&mut b, i)).collect();
    let mut sum = copies.pop().unwrap_or(x);
    for i in 1..count {
        let copy = copies.pop().unwrap_or_else(|| wide(&mut b, i));
        sum = b.ew("add", &[sum, copy]).unwrap();
    }
    b.output("sum", sum);
    b.finish()
}

#[test]
fn results_that_are_alive_together_are_bounded() {
    let run = |together| {
        let mut module = Module::new();
        let g = wide_copies(&mut module, 20, together);
        let limits = Limits { max_live: 20_000, ..Limits::default() };
        let mut ev = Evaluator::with_limits(&module, limits);
        let x = f32s(&[1], &[1.0]);
        let first = ev.run(g, &[x.clone().into()]).map(|r| r.len());
        // A run that fails leaves nothing behind.
        assert_eq!(ev.run(g, &[x.into()]).map(|r| r.len()), first);
        first
    };
    assert_eq!(run(false), Ok(1));
    let error = run(true).unwrap_err();
    assert!(matches!(error.fault(), Fault::LiveLimit { bytes: 4000, limit: 20_000, .. }), "{error}");
}

#[test]
fn views_inputs_and_constants_are_not_counted_twice() {
    let mut module = Module::new();
    let mut b = GraphBuilder::new(&mut module, "main");
    let x = b.input("x", Type::fixed(DType::F32, &[1000]));
    let c = b.constant(f32s(&[1000], &[2.0; 1000])).unwrap();
    for v in [x, c] {
        for i in 0..10 {
            let shape = [Dim::known(1 << (i % 4)), Dim::known(1000 >> (i % 4))];
            let view = b.add1(Movement::Reshape { shape: shape.into() }, &[v]).unwrap();
            b.output(&format!("{v}{i}"), view);
        }
    }
    let y = b.ew("add", &[x, c]).unwrap();
    b.output("y", y);
    let g = b.finish();
    let limits = Limits { max_live: 4000, ..Limits::default() };
    let x = f32s(&[1000], &[1.0; 1000]);
    let r = Evaluator::with_limits(&module, limits).run(g, &[x.into()]).unwrap();
    assert_eq!(r.len(), 21);
}

#[test]
fn slices_that_a_loop_collects_are_alive() {
    let mut module = Module::new();
    let g = doubling(&mut module);
    let run = |max_live| {
        let limits = Limits { max_live, ..Limits::default() };
        Evaluator::with_limits(&module, limits).run(g, &loop_inputs(50, true, i64::MAX)).map(|r| r.len())
    };
    // 50 slices and their stack, beside some scalars.
    assert_eq!(run(900), Ok(2));
    let error = run(300).unwrap_err();
    assert!(matches!(error.fault(), Fault::LiveLimit { limit: 300, .. }), "{error}");
}

#[test]
fn errors_name_the_inner_node() {
    let mut module = Module::new();
    let mut b = GraphBuilder::new(&mut module, "inner");
    let x = b.input("x", Type::tensor(DType::I64, vec![n()]));
    let origin =
        Origin { file: "m.onnx".into(), path: String::new(), node: "pick".into(), op: "Gather-13".into() };
    b.set_origin(Some(Arc::new(origin)));
    // The fault lies in the data, which no inference sees.
    let y = b.add1(Index::Gather { axis: 0 }, &[x, x]).unwrap();
    b.output("y", y);
    let graph = b.finish();
    let mut b = GraphBuilder::new(&mut module, "main");
    let x = b.input("x", Type::tensor(DType::I64, vec![n()]));
    let y = b.add1(Control::Call { graph }, &[x]).unwrap();
    b.output("y", y);
    let g = b.finish();
    let error = Evaluator::new(&module).run(g, &[Tensor::ints(&[1, 2, 3]).into()]).unwrap_err();
    let place = "m.onnx: node `pick` (Gather-13): gather(i64[3], i64[3])";
    assert_eq!(error.to_string(), format!("{place}: index 3 is out of range for 3 elements"));
}

#[test]
fn observers_see_every_node() {
    let mut module = Module::new();
    let g = doubling(&mut module);
    let seen = RefCell::new(vec![]);
    let mut ev = Evaluator::new(&module);
    ev.set_observer(|graph, _, node, results| {
        seen.borrow_mut().push((graph.index(), node.op.mnemonic(), results.len()));
    });
    ev.run(g, &loop_inputs(1, true, 10)).unwrap();
    drop(ev);
    assert_eq!(seen.into_inner(), [(0, "add", 1), (0, "lt", 1), (1, "loop", 2)]);
}

#[test]
fn one_operand_used_twice_by_its_last_user() {
    let mut module = Module::new();
    let mut b = GraphBuilder::new(&mut module, "main");
    let x = b.input("x", Type::fixed(DType::F32, &[1]));
    let y = b.ew("mul", &[x, x]).unwrap();
    b.output("y", y);
    b.output("y again", y);
    let g = b.finish();
    let r = Evaluator::new(&module).run(g, &[f32s(&[1], &[3.0]).into()]).unwrap();
    assert_eq!(r, [f32s(&[1], &[9.0]).into(), Datum::Tensor(f32s(&[1], &[9.0]))]);
}

#[test]
fn sequence_elements_of_different_shapes() {
    let mut module = Module::new();
    let mut b = GraphBuilder::new(&mut module, "main");
    let x = b.input("x", Type::tensor(DType::I64, vec![n()]));
    let two = b.constant(Tensor::scalar(2i64)).unwrap();
    let parts = b.add1(Object::SequenceSplit { axis: 0, split: true, keepdims: true }, &[x, two]).unwrap();
    let first = b.constant(Tensor::scalar(0i64)).unwrap();
    let last = b.constant(Tensor::scalar(-1i64)).unwrap();
    let a = b.add1(Object::SequenceAt {}, &[parts, first]).unwrap();
    let z = b.add1(Object::SequenceAt {}, &[parts, last]).unwrap();
    let sizes = [b.add1(Dynamic::Size {}, &[a]).unwrap(), b.add1(Dynamic::Size {}, &[z]).unwrap()];
    b.output("a", sizes[0]);
    b.output("z", sizes[1]);
    let g = b.finish();
    let r = Evaluator::new(&module).run(g, &[Tensor::ints(&[1, 2, 3]).into()]).unwrap();
    assert_eq!(r, [Tensor::scalar(2i64).into(), Datum::Tensor(Tensor::scalar(1i64))]);
}

#[test]
fn operators_apply_to_sequences_element_by_element() {
    let mut module = Module::new();
    let mut b = GraphBuilder::new(&mut module, "double");
    let x = b.input("x", Type::unranked(DType::I64));
    let y = b.add1(Op::ew("add"), &[x, x]).unwrap();
    b.output("y", y);
    let body = b.finish();
    let items = vec![Tensor::ints(&[1]).into(), Datum::Tensor(Tensor::ints(&[2, 3]))];
    let s = Datum::Sequence { element: Type::unranked(DType::I64), items };
    let op = Object::SequenceMap { body, sequences: 1 }.into();
    let r = Evaluator::new(&module).eval_op(&op, &[s], &[]).unwrap().remove(0);
    let Datum::Sequence { items, .. } = r else { panic!("{r:?}") };
    assert_eq!(items, [Tensor::ints(&[2]).into(), Datum::Tensor(Tensor::ints(&[4, 6]))]);
}
