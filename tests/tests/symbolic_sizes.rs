//! Sizes that show at run time: kernels run where they fit, and nothing is read where they do not.

use kiln::ir::op::{Index, Movement, Order, PadMode, ReduceKind, ScatterMode};
use kiln::ir::{Build, DType, Datum, Dim, GraphBuilder, Module, Tensor, Type};
use kiln::runtime::{Session, SessionOptions};
use kiln::{Options, compile};

/// A session on a graph of f32 inputs of these dims.
fn session(inputs: &[&[&str]], build: impl FnOnce(&mut GraphBuilder<'_>, &[kiln::ir::Value])) -> Session {
    let mut module = Module::new();
    let mut b = GraphBuilder::new(&mut module, "main");
    let values: Vec<_> = (inputs.iter().enumerate())
        .map(|(i, dims)| {
            let dims: Vec<Dim> = dims.iter().map(|d| d.parse().unwrap()).collect();
            b.input(&format!("x{i}"), Type::tensor(DType::F32, dims))
        })
        .collect();
    build(&mut b, &values);
    let id = b.finish();
    module.add_entry(id);
    let compiled = compile(module, &Options::default()).unwrap();
    assert!(compiled.summary.slow.is_empty(), "{:?}", compiled.summary.slow);
    compiled.into_session(SessionOptions { threads: Some(1), ..Default::default() }).unwrap()
}

fn ramp(dims: &[usize]) -> Datum {
    let values: Vec<f32> = (0u16..).take(dims.iter().product()).map(f32::from).collect();
    Datum::Tensor(Tensor::from_slice(dims, &values).unwrap())
}

fn run(session: &Session, inputs: &[&[usize]]) -> Result<Vec<f32>, String> {
    let inputs: Vec<Datum> = inputs.iter().map(|dims| ramp(dims)).collect();
    let outputs = session.run("main", &inputs).map_err(|e| e.to_string())?;
    let [Datum::Tensor(out)] = outputs.as_slice() else { return Err("not one tensor".to_owned()) };
    Ok(out.to_f64s().unwrap().into_iter().map(|v| v as f32).collect())
}

#[test]
fn unlike_symbols_broadcast_where_one_is_1() {
    let session = session(&[&["N", "2"], &["M", "2"]], |b, x| {
        let sum = b.ew("add", x).unwrap();
        b.output("sum", sum);
    });
    assert_eq!(run(&session, &[&[2, 2], &[2, 2]]).unwrap(), [0.0, 2.0, 4.0, 6.0]);
    assert_eq!(run(&session, &[&[1, 2], &[2, 2]]).unwrap(), [0.0, 2.0, 2.0, 4.0]);
    assert_eq!(run(&session, &[&[2, 2], &[1, 2]]).unwrap(), [0.0, 2.0, 2.0, 4.0]);
    assert_eq!(run(&session, &[&[0, 2], &[1, 2]]).unwrap(), Vec::<f32>::new());
    let error = run(&session, &[&[2, 2], &[3, 2]]).unwrap_err();
    assert!(error.contains("do not broadcast"), "{error}");
}

#[test]
fn sizes_that_a_contraction_needs_equal_are_checked() {
    let session = session(&[&["2", "K"], &["L", "2"]], |b, x| {
        let product = b.einsum("mk,kn->mn", x[0], x[1]).unwrap();
        b.output("product", product);
    });
    assert_eq!(run(&session, &[&[2, 2], &[2, 2]]).unwrap(), [2.0, 3.0, 6.0, 11.0]);
    let error = run(&session, &[&[2, 300], &[2, 2]]).unwrap_err();
    assert!(error.contains("299 <= 1 does not hold"), "{error}");
}

#[test]
fn few_channels_of_a_padded_convolution_stay_inside() {
    let text = "module {
  entry g0
  graph g0 \"main\" (%0 \"x\": f32[1, N, 2]) {
    %1: f32[2, 1, 1] = constant {value=f32[2, 1, 1] [1.0, 2.0]}
    %2: f32[1, floordiv(N,2)+1, 2] = conv(%0, %1) {strides=[2], dilations=[1], pads=[(1, 0)], groups=2, layout=channels_last, out=f32}
    return %2 \"y\"
  }
}";
    let module = kiln::ir::text::parse_module(text, &Default::default()).unwrap();
    let session = compile(module, &Options::default()).unwrap();
    let session = session.into_session(SessionOptions { threads: Some(1), ..Default::default() }).unwrap();
    assert_eq!(run(&session, &[&[1, 3, 2]]).unwrap(), [0.0, 0.0, 2.0, 6.0]);
}

#[test]
fn padding_of_nothing_reads_nothing() {
    let session = session(&[&["N"]], |b, x| {
        let empty = b.slice_axis(x[0], 0, Dim::known(0), Dim::known(0)).unwrap();
        let fill = b.scalar(DType::F32, 7.0).unwrap();
        let pad = kiln::ir::op::Movement::Pad {
            mode: kiln::ir::op::PadMode::Constant,
            before: vec![Dim::known(20)],
            after: vec![Dim::known(0)],
        };
        let padded = b.add(pad.into(), &[empty, fill]).unwrap();
        b.output("padded", padded[0]);
    });
    assert_eq!(run(&session, &[&[2]]).unwrap(), [7.0; 20]);
}

#[test]
fn a_reshape_needs_as_many_elements() {
    let session = session(&[&["N", "2"], &["M"]], |b, x| {
        let flat = b.reshape(x[0], &["M".parse().unwrap()]).unwrap();
        let sum = b.ew("add", &[flat, x[1]]).unwrap();
        b.output("sum", sum);
    });
    assert_eq!(run(&session, &[&[2, 2], &[4]]).unwrap(), [0.0, 2.0, 4.0, 6.0]);
    let error = run(&session, &[&[2, 2], &[3]]).unwrap_err();
    assert!(error.contains("4 = 3 does not hold"), "{error}");
}

#[test]
fn reductions_of_nothing_have_their_neutral_element() {
    for kind in [ReduceKind::Sum, ReduceKind::Max] {
        let session = session(&[&["3", "L"]], |b, x| {
            let total = b.reduce(kind, x[0], &[1], true).unwrap();
            let product = b.ew("mul", &[x[0], total]).unwrap();
            let more = b.reduce(kind, product, &[1], false).unwrap();
            b.output("more", more);
        });
        let neutral = if kind == ReduceKind::Sum { 0.0 } else { f32::NEG_INFINITY };
        assert_eq!(run(&session, &[&[3, 0]]).unwrap(), [neutral; 3], "{kind:?}");
        let three = if kind == ReduceKind::Sum { [1.0, 25.0, 81.0] } else { [1.0, 9.0, 25.0] };
        assert_eq!(run(&session, &[&[3, 2]]).unwrap(), three, "{kind:?}");
    }
}

#[test]
fn padding_around_a_sum_of_unlike_symbols_reads_what_is_there() {
    let session = session(&[&["N"], &["M"]], |b, x| {
        let sum = b.ew("add", x).unwrap();
        let zero = b.scalar(DType::F32, 0.0).unwrap();
        let (before, after) = (vec![Dim::known(2)], vec![Dim::known(1)]);
        let padded = b.add1(Movement::Pad { mode: PadMode::Constant, before, after }, &[sum, zero]).unwrap();
        b.output("padded", padded);
    });
    assert_eq!(run(&session, &[&[2], &[2]]).unwrap(), [0.0, 0.0, 0.0, 2.0, 0.0]);
    assert_eq!(run(&session, &[&[1], &[3]]).unwrap(), [0.0, 0.0, 0.0, 1.0, 2.0, 0.0]);
    assert_eq!(run(&session, &[&[3], &[1]]).unwrap(), [0.0, 0.0, 0.0, 1.0, 2.0, 0.0]);
    assert_eq!(run(&session, &[&[0], &[1]]).unwrap(), [0.0, 0.0, 0.0]);
    assert!(run(&session, &[&[2], &[3]]).is_err());
}

#[test]
fn the_greatest_of_no_rows_is_no_place() {
    let session = session(&[&["N", "M"]], |b, x| {
        let at = b.add1(Order::ArgMax { axis: 1, keepdims: false, last: false }, x).unwrap();
        b.output("at", at);
    });
    assert_eq!(run(&session, &[&[2, 3]]).unwrap(), [2.0, 2.0]);
    assert_eq!(run(&session, &[&[0, 0]]).unwrap(), Vec::<f32>::new());
    assert!(run(&session, &[&[2, 0]]).is_err());
}

#[test]
fn updates_beyond_another_axis_are_refused() {
    let session = session(&[&["N", "3"], &["2", "1"]], |b, x| {
        let places = b.constant(Tensor::from_slice(&[2, 1], &[1i64, 2]).unwrap()).unwrap();
        let scatter = Index::ScatterElements { axis: 1, mode: ScatterMode::Add };
        let y = b.add1(scatter, &[x[0], places, x[1]]).unwrap();
        b.output("y", y);
    });
    assert_eq!(run(&session, &[&[2, 3], &[2, 1]]).unwrap(), [0.0, 1.0, 2.0, 3.0, 4.0, 6.0]);
    assert!(run(&session, &[&[1, 3], &[2, 1]]).is_err());
}
