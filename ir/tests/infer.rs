//! Inference: what results of operators are, what is known of them, and what is refused.

use kiln_ir::op::*;
use kiln_ir::{Build, BuildDynamic, DType, Dim, GraphBuilder, Module, Op, Shape, Tensor, Type, Value};

/// Reads an operator as the text form has it, `conv {strides=[1], ...}`.
fn op(text: &str) -> Op {
    let (name, rest) = text.split_once(' ').unwrap_or((text, ""));
    Op::parse(name, &mut Cursor::new(rest)).unwrap_or_else(|e| panic!("{text}: {e}"))
}

fn ty(text: &str) -> Type {
    Attr::read(&mut Cursor::new(text)).unwrap()
}

/// The results' types, unknown dims as `?`, or the error.
fn infer(operator: &str, operands: &[&str]) -> String {
    let types: Vec<Type> = operands.iter().map(|t| ty(t)).collect();
    let refs: Vec<&Type> = types.iter().collect();
    let known = vec![None; types.len()];
    let module = Module::new();
    let cx = kiln_ir::infer::InferCx { operands: &refs, known: &known, module: &module, added: &[] };
    match kiln_ir::infer::infer(&op(operator), &cx) {
        Ok(results) => results.iter().map(|r| r.ty.to_string()).collect::<Vec<_>>().join("; "),
        Err(e) => format!("error: {e}"),
    }
}

#[track_caller]
fn gives(operator: &str, operands: &[&str], expected: &str) {
    assert_eq!(infer(operator, operands), expected, "{operator} {operands:?}");
}

#[track_caller]
fn refuses(operator: &str, operands: &[&str], reason: &str) {
    let got = infer(operator, operands);
    assert!(got.starts_with("error: ") && got.contains(reason), "{operator} {operands:?}: {got}");
}

#[test]
fn broadcasting() {
    gives("add", &["f32[2, 1, 3]", "f32[4, 1]"], "f32[2, 4, 3]");
    gives("add", &["f32[N]", "f32[1]"], "f32[N]");
    gives("add", &["f32[N]", "f32[5]"], "f32[5]");
    gives("add", &["f32[N]", "f32[N]"], "f32[N]");
    gives("add", &["f32[N]", "f32[M]"], "f32[broadcast(M,N)]");
    gives("add", &["f32[0]", "f32[1]"], "f32[0]");
    gives("add", &["f32[*]", "f32[3]"], "f32[*]");
    gives("eq", &["i64[]", "i64[7]"], "bool[7]");
    gives("where", &["bool[2, 1]", "f16[3]", "f16[]"], "f16[2, 3]");
    refuses("add", &["f32[2]", "f32[3]"], "2 and 3 do not broadcast");
    refuses("add", &["f32[2]", "f64[2]"], "must be f32");
    refuses("where", &["f32[2]", "f32[2]", "f32[2]"], "must be bool");
    refuses("exp", &["i32[2]"], "does not take i32");
    refuses("add", &["seq<f32[2]>", "f32[2]"], "must be a tensor");
}

#[test]
fn convolutions() {
    let conv = |strides: &str, dilations: &str, pads: &str, groups: i64, layout: &str| {
        format!(
            "conv {{strides={strides}, dilations={dilations}, pads={pads}, groups={groups}, layout={layout}, out=f32}}"
        )
    };
    let same = conv("[1, 1]", "[1, 1]", "[(1, 1), (1, 1)]", 1, "channels_first");
    gives(&same, &["f32[N, 3, H, 32]", "f32[8, 3, 3, 3]"], "f32[N, 8, H, 32]");
    gives(&same, &["f32[*]", "f32[8, 3, 3, 3]"], "f32[?, ?, ?, ?]");
    let half = conv("[2]", "[1]", "[(1, 1)]", 1, "channels_first");
    gives(&half, &["f32[1, 4, W]", "f32[8, 4, 3]"], "f32[1, 8, floordiv(W+1,2)]");
    gives(&half, &["f32[1, 4, 7]", "f32[8, 4, 3]"], "f32[1, 8, 4]");
    let last = conv("[1, 1]", "[2, 2]", "[(0, 0), (0, 0)]", 4, "channels_last");
    gives(&last, &["f32[1, 9, 9, 4]", "f32[8, 1, 3, 3]"], "f32[1, 5, 5, 8]");
    refuses(&last, &["f32[1, 9, 9, 6]", "f32[8, 1, 3, 3]"], "channels of operand and weight");
    refuses(&last, &["f32[1, 9, 9, 4]", "f32[6, 1, 3, 3]"], "do not divide into 4 groups");
    refuses(&last, &["f32[1, 3, 3, 4]", "f32[8, 1, 3, 3]"], "would be");
    refuses(&same, &["f32[1, 3, 8]", "f32[8, 3, 3]"], "must have rank 4");
    refuses(&same, &["i8[1, 3, 8, 8]", "i8[8, 3, 3, 3]"], "no sum of products of i8 and i8 in f32");
    let up = "conv_transposed {strides=[2], dilations=[1], pads=[(1, 1)], output_pads=[1], groups=2, layout=channels_first}";
    gives(up, &["f32[N, 4, L]", "f32[4, 3, 3]"], "f32[N, 6, 2*L]");
}

#[test]
fn pooling() {
    let pool = |kernel: i64, stride: i64, pads: (i64, i64), ceil: bool| {
        format!(
            "pool {{kind=max, kernel=[{kernel}], strides=[{stride}], dilations=[1], pads=[({}, {})], \
             ceil_mode={ceil}, layout=channels_first}}",
            pads.0, pads.1
        )
    };
    gives(&pool(3, 2, (0, 0), false), &["f32[1, 2, 8]"], "f32[1, 2, 3]");
    gives(&pool(3, 2, (0, 0), true), &["f32[1, 2, 8]"], "f32[1, 2, 4]");
    // The last window would start in the padding after the operand.
    gives(&pool(1, 3, (0, 1), true), &["f32[1, 2, 3]"], "f32[1, 2, 1]");
    gives(&pool(2, 2, (0, 0), true), &["f32[1, 2, W]"], "f32[1, 2, floordiv(W+1,2)]");
    gives(
        "max_pool_indices {kernel=[2], strides=[2], dilations=[1], pads=[(0, 0)], ceil_mode=false, column_major=false}",
        &["u8[1, 2, 8]"],
        "u8[1, 2, 4]; i64[1, 2, 4]",
    );
}

#[test]
fn movements() {
    gives("reshape {shape=[N, 8]}", &["f32[N, 2, 4]"], "f32[N, 8]");
    refuses("reshape {shape=[7]}", &["f32[2, 4]"], "numbers of elements differ: 8 and 7");
    refuses("reshape {shape=[N+1]}", &["f32[N]"], "numbers of elements");
    refuses("reshape {shape=[?]}", &["f32[N]"], "unknown size");
    gives("transpose {perm=[2, 0, 1]}", &["f32[A, B, C]"], "f32[C, A, B]");
    gives("transpose {perm=[1, 0]}", &["f32[*]"], "f32[?, ?]");
    refuses("transpose {perm=[0, 0]}", &["f32[2, 2]"], "not a permutation");
    gives("broadcast {shape=[2, N]}", &["f32[1]"], "f32[2, N]");
    refuses("broadcast {shape=[2, 3]}", &["f32[4]"], "differ: 4 and 3");
    gives("slice {starts=[1], sizes=[2], steps=[-1]}", &["f32[4]"], "f32[2]");
    refuses("slice {starts=[2], sizes=[3], steps=[1]}", &["f32[4]"], "element 4 of an axis of size 4");
    refuses("slice {starts=[0], sizes=[2], steps=[-1]}", &["f32[4]"], "element -1");
    gives("pad {mode=constant, before=[1, 0], after=[0, -2]}", &["f32[N, 4]", "f32[]"], "f32[N+1, 2]");
    refuses("pad {mode=constant, before=[0], after=[-5]}", &["f32[4]", "f32[]"], "would be -1");
    gives("concat {axis=0}", &["f32[N, 2]", "f32[3, K]", "f32[1, 2]"], "f32[N+4, 2]");
    refuses("concat {axis=0}", &["f32[1, 2]", "f32[1, 3]"], "sizes of axis 1 differ");
    refuses("concat {axis=2}", &["f32[1, 2]"], "axis 2 of a tensor of rank 2");
}

#[test]
fn contractions_and_reductions() {
    gives("contract {spec=\"bmk,kn->bmn\", out=f32}", &["f16[B, M, 4]", "f16[K, 8]"], "f32[B, M, 8]");
    refuses(
        "contract {spec=\"mk,kn->mn\", out=f32}",
        &["f32[2, 4]", "f32[5, 8]"],
        "label `k` differ: 4 and 5",
    );
    refuses("contract {spec=\"mk,kn->mn\", out=i32}", &["f32[2, 4]", "f32[4, 8]"], "in i32");
    gives("contract {spec=\"mk,kn->mn\", out=i32}", &["u8[2, 4]", "i8[4, 8]"], "i32[2, 8]");
    gives("reduce {kind=mean, axes=[0, 2], keepdims=false}", &["f32[2, N, 3]"], "f32[N]");
    gives("reduce {kind=sum, axes=[1], keepdims=true}", &["i64[2, N, 3]"], "i64[2, 1, 3]");
    refuses("reduce {kind=sum, axes=[1, 1], keepdims=true}", &["f32[2, 3]"], "stands twice");
    refuses("reduce {kind=all, axes=[0], keepdims=true}", &["f32[2, 3]"], "does not take f32");
}

#[test]
fn indexing_and_order() {
    gives("gather {axis=1}", &["f32[A, B, C]", "i64[N, 2]"], "f32[A, N, 2, C]");
    gives("gather_nd {batch=1}", &["f32[A, 3, C]", "i32[A, N, 1]"], "f32[A, N, C]");
    gives("gather_nd {batch=0}", &["f32[A, 3, C]", "i64[K]"], "f32[*]");
    refuses("gather {axis=0}", &["f32[2]", "u8[1]"], "must be i32 or i64");
    refuses("gather_nd {batch=0}", &["f32[2]", "i64[4, 2]"], "coordinates of 2 axes");
    gives("scatter_nd {mode=add}", &["f32[4, 5]", "i64[N, 1]", "f32[N, 5]"], "f32[4, 5]");
    refuses("scatter_nd {mode=add}", &["f32[4, 5]", "i64[2, 1]", "f32[3, 5]"], "sizes of updates");
    gives("top_k {axis=0, largest=true, sorted=true}", &["f32[N]", "i64[1]"], "f32[?]; i64[?]");
    gives("non_zero", &["bool[2, N]"], "i64[2, ?]");
    gives("unique {axis=1, sorted=true}", &["f32[2, N]"], "f32[2, ?]; i64[?]; i64[N]; i64[?]");
}

#[test]
fn quantization() {
    let axis = "quantize {to=i8, axis=1, block=0, saturate=true, inverse=false}";
    gives(axis, &["f32[N, 4]", "f32[4]", "i8[4]"], "i8[N, 4]");
    refuses(axis, &["f32[N, 4]", "f32[3]", "i8[4]"], "of axis 1 differ");
    refuses(axis, &["f32[N, 4]", "f32[4]", "u8[4]"], "must be i8");
    let block = "dequantize {to=f16, axis=1, block=3}";
    gives(block, &["u4[2, 8]", "f16[2, 3]", "u4[2, 3]"], "f16[2, 8]");
    refuses(block, &["u4[2, 8]", "f16[2, 2]", "u4[2, 2]"], "blocks on axis 1");
    refuses("dequantize {to=f32, axis=none, block=0}", &["u8[2]", "f32[2]", "u8[2]"], "one element");
}

#[test]
fn dynamic_operators_without_known_values() {
    gives("dyn_reshape {allow_zero=false}", &["f32[2, 3]", "i64[4]"], "f32[?, ?, ?, ?]");
    gives("dyn_reshape {allow_zero=false}", &["f32[2, 3]", "i64[K]"], "f32[*]");
    gives("dyn_expand", &["f32[3, 1]", "i64[2]"], "f32[3, ?]");
    gives("dyn_slice", &["f32[2, N]", "i64[1]", "i64[1]", "i64[1]", "i64[1]"], "f32[?, ?]");
    gives("dyn_squeeze", &["f32[2, N, 1]", "i64[2]"], "f32[?]");
    gives("dyn_unsqueeze", &["f32[2]", "i64[2]"], "f32[?, ?, ?]");
    gives("dyn_range", &["i64[]", "i64[]", "i64[]"], "i64[?]");
    gives("dyn_shape {start=-2, end=none}", &["f32[1, 2, N]"], "i64[2]");
    gives("dyn_reduce {kind=sum, keepdims=true, noop=false}", &["f32[1, 2, N]", "i64[K]"], "f32[?, ?, ?]");
    gives("dyn_split {axis=-1}", &["f32[2, N]", "i64[2]"], "f32[2, ?]; f32[2, ?]");
    gives("dyn_concat {axis=-1}", &["f32[*]", "f32[2, N]"], "f32[2, ?]");
    gives("dyn_one_hot {axis=-1}", &["i64[N]", "i64[]", "f32[2]"], "f32[N, ?]");
    gives("compress {axis=1}", &["f32[2, N]", "bool[N]"], "f32[2, ?]");
    refuses("dyn_reshape {allow_zero=false}", &["f32[2, 3]", "i32[4]"], "must be i64");
    refuses("dyn_split {axis=0}", &["f32[2]", "i64[N]"], "number of pieces");
    refuses("dyn_reshape {allow_zero=false}", &["f32[2]", "i64[1000000]"], "rank 1000000");
}

/// Builds in a module whose entry has an input `x` of the given type; gives what the builder says of the result.
fn built(
    x: &str,
    build: impl FnOnce(&mut GraphBuilder<'_>, Value) -> Value,
) -> (Type, Option<Vec<Dim>>, Vec<String>) {
    let mut m = Module::new();
    let mut b = GraphBuilder::new(&mut m, "g");
    let x = b.input("x", ty(x));
    let v = build(&mut b, x);
    let known = b.known(v).and_then(|k| k.dims());
    let used = b.graph().scheduled().map(|(_, n)| n.op.mnemonic().to_owned()).collect();
    (b.ty(v).clone(), known, used)
}

fn ints(b: &mut GraphBuilder<'_>, v: &[i64]) -> Value {
    b.constant(Tensor::ints(v)).unwrap()
}

#[test]
fn shape_arithmetic_becomes_dims() {
    // The flattening that exporters write: reshape(x, concat(shape(x)[0:2], [-1])).
    let (ty, _, used) = built("f32[N, S, 12, 64]", |b, x| {
        let shape = b.shape_of(x).unwrap();
        let index = ints(b, &[0, 1]);
        let kept = b.add1(Index::Gather { axis: 0 }, &[shape, index]).unwrap();
        let rest = ints(b, &[-1]);
        let to = b.concat(&[kept, rest], 0).unwrap();
        b.reshape_to(x, to).unwrap()
    });
    assert_eq!(ty.to_string(), "f32[N, S, 768]");
    assert!(!used.iter().any(|u| u.starts_with("dyn_")), "{used:?}");
}

#[test]
fn where_over_a_shape_keeps_its_dims() {
    // Expand in exported attention masks: where(shape == -1, ones, shape).
    let (_, known, _) = built("f32[N, 1, S]", |b, x| {
        let shape = b.shape_of(x).unwrap();
        let (minus, ones) = (ints(b, &[-1]), ints(b, &[1, 1, 1]));
        let hit = b.ew("eq", &[shape, minus]).unwrap();
        b.ew("where", &[hit, ones, shape]).unwrap()
    });
    assert_eq!(known.unwrap(), [Dim::symbol("N"), Dim::known(1), Dim::symbol("S")]);
}

#[test]
fn arithmetic_on_sizes() {
    let size = |f: fn(&mut GraphBuilder<'_>, Value) -> Value| {
        let (_, known, _) = built("f32[N, 6]", |b, x| {
            let shape = b.shape_of(x).unwrap();
            f(b, shape)
        });
        known.map(|d| d.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
    };
    let div = |b: &mut GraphBuilder<'_>, s: Value| {
        let c = ints(b, &[4]);
        b.ew("div", &[s, c]).unwrap()
    };
    assert_eq!(size(div).as_deref(), Some("floordiv(N,4) 1"));
    assert_eq!(size(|b, s| b.ew("neg", &[s]).unwrap()).as_deref(), Some("-N -6"));
    assert_eq!(size(|b, s| b.reduce(ReduceKind::Prod, s, &[0], true).unwrap()).as_deref(), Some("6*N"));
    let bounded = |b: &mut GraphBuilder<'_>, s: Value| {
        let c = ints(b, &[0]);
        b.ew("max", &[s, c]).unwrap()
    };
    assert_eq!(size(bounded).as_deref(), Some("N 6"), "sizes are not negative");
    let narrow = |b: &mut GraphBuilder<'_>, s: Value| {
        let c = ints(b, &[1 << 40]);
        let s = b.ew("mul", &[s, c]).unwrap();
        b.cast(s, DType::I32).unwrap()
    };
    assert_eq!(size(narrow), None, "a constant that does not fit the dtype is not known");
    let negative = |b: &mut GraphBuilder<'_>, s: Value| {
        let s = b.ew("neg", &[s]).unwrap();
        let c = ints(b, &[4]);
        b.ew("div", &[s, c]).unwrap()
    };
    assert_eq!(size(negative), None, "truncating division of a negative symbol has no expression");
}

#[test]
fn slices_clamp_as_onnx_says() {
    let slice = |x: &str, start: i64, end: i64, step: i64| {
        built(x, |b, x| {
            let of = |b: &mut GraphBuilder<'_>, v| ints(b, &[v]);
            let (starts, ends, axes, steps) = (of(b, start), of(b, end), of(b, 0), of(b, step));
            b.slice_by(x, starts, ends, axes, steps).unwrap()
        })
        .0
        .to_string()
    };
    assert_eq!(slice("f32[5]", 1, i64::MAX, 2), "f32[2]");
    assert_eq!(slice("f32[5]", -3, -1, 1), "f32[2]");
    assert_eq!(slice("f32[5]", 9, 20, 1), "f32[0]");
    assert_eq!(slice("f32[5]", -1, i64::MIN, -1), "f32[5]");
    assert_eq!(slice("f32[5]", 3, 0, -2), "f32[2]");
    assert_eq!(slice("f32[5]", -9, 2, 1), "f32[2]");
    assert_eq!(slice("f32[N]", 0, i64::MAX, 1), "f32[N]");
    assert_eq!(slice("f32[N]", -1, i64::MIN, -1), "f32[N]");
    assert_eq!(slice("f32[N]", 0, i64::MAX, 2), "f32[floordiv(N+1,2)]");
    assert_eq!(slice("f32[2*N]", 0, -1, 1), "f32[min(2*N,max(0,2*N-1))]");
}

#[test]
fn static_forms() {
    let used = |build: fn(&mut GraphBuilder<'_>, Value) -> Value| built("f32[N, 3]", build);
    let (ty, _, ops) = used(|b, x| {
        let repeats = ints(b, &[2, 3]);
        b.tile_by(x, repeats).unwrap()
    });
    assert_eq!((ty.to_string().as_str(), ops.contains(&"dyn_tile".into())), ("f32[2*N, 9]", false));
    let (ty, known, _) = used(|b, x| {
        let shape = b.shape_of(x).unwrap();
        let zero = b.constant(Tensor::scalar(0i64)).unwrap();
        let (one, two) = (b.constant(Tensor::scalar(1i64)).unwrap(), ints(b, &[0]));
        let n = b.add1(Index::Gather { axis: 0 }, &[shape, two]).unwrap();
        let n = b.reshape(n, &[]).unwrap();
        b.range(zero, n, one).unwrap()
    });
    assert_eq!((ty.to_string().as_str(), known), ("i64[N]", None));
    let (ty, known, _) = used(|b, _| {
        let values = [3i64, 10, 3].map(|v| b.constant(Tensor::scalar(v)).unwrap());
        b.range(values[0], values[1], values[2]).unwrap()
    });
    assert_eq!(ty.to_string(), "i64[3]");
    assert_eq!(known.unwrap(), [3, 6, 9].map(Dim::known));
    let (ty, ..) = used(|b, x| b.squeeze(x, &[]).unwrap());
    assert_eq!(ty, Type::Tensor(kiln_ir::TensorType { dtype: DType::F32, shape: Shape::unranked() }));
    let (ty, ..) = used(|b, x| b.unsqueeze(x, &[0, -1]).unwrap());
    assert_eq!(ty.to_string(), "f32[1, N, 3, 1]");
}

#[test]
fn loops_join_what_they_carry() {
    let mut m = Module::new();
    let mut b = GraphBuilder::new(&mut m, "g");
    let x = b.input("x", ty("f32[N, 4]"));
    let trips = b.constant(Tensor::scalar(3i64)).unwrap();
    let holds = b.constant(Tensor::from_bools(&[], &[true]).unwrap()).unwrap();
    let grown = Type::tensor(DType::F32, [Dim::symbol("G"), Dim::known(4)]);
    let types = [ty("i64[]"), ty("bool[]"), grown, ty("f32[N, 4]")];
    let body = b
        .subgraph("grow", &types, &mut |b, v| {
            let longer = b.concat(&[v[2], v[3]], 0)?;
            let sum = b.reduce(ReduceKind::Sum, v[3], &[0], false)?;
            Ok(vec![v[1], longer, sum])
        })
        .unwrap();
    let results = b.add(Control::Loop { body, carried: 1 }.into(), &[trips, holds, x, x]).unwrap();
    let carried = b.shape(results[0]).unwrap();
    assert!(carried[0].as_symbol().is_some_and(|s| s.0.starts_with("_u")), "it grows: {carried:?}");
    assert_eq!(carried[1], Dim::known(4));
    assert_eq!(b.ty(results[1]).to_string(), "f32[3, 4]", "the trip count is known");
}

#[test]
fn branches_join() {
    let mut m = Module::new();
    let mut b = GraphBuilder::new(&mut m, "g");
    let x = b.input("x", ty("f32[N, 4]"));
    let c = b.input("c", ty("bool[]"));
    let same = b.subgraph("same", &[ty("f32[M, 4]")], &mut |_, v| Ok(vec![v[0]])).unwrap();
    let twice =
        b.subgraph("twice", &[ty("f32[M, 4]")], &mut |b, v| Ok(vec![b.concat(&[v[0], v[0]], 1)?])).unwrap();
    let flat = b
        .subgraph("flat", &[ty("f32[M, 4]")], &mut |b, v| {
            Ok(vec![b.reduce(ReduceKind::Sum, v[0], &[0, 1], false)?])
        })
        .unwrap();
    let join = |b: &mut GraphBuilder<'_>, then_graph, else_graph| {
        let v = b.add1(Control::If { then_graph, else_graph }, &[c, x]).unwrap();
        b.ty(v).clone()
    };
    assert_eq!(join(&mut b, same, same).to_string(), "f32[N, 4]");
    let mixed = join(&mut b, same, twice);
    let dims = mixed.as_tensor().and_then(|t| t.shape.dims()).unwrap();
    assert_eq!(dims[0], Dim::symbol("N"));
    assert!(dims[1].as_symbol().is_some());
    assert_eq!(join(&mut b, same, flat).to_string(), "f32[*]");
}
