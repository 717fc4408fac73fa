//! Random well-typed modules, for property and differential tests.
//!
//! A module is grown from a list of numbers, each of which decides one thing; shortening or lowering the numbers
//! gives simpler modules, so that proptest's shrinking of the list shrinks the module.

use kiln_ir::op::{
    Composite, Control, Conv, CumKind, Dynamic, Index, Layout, Movement, Object, Order, PadMode, Quant,
    ReduceKind, Source, Window, WindowKind,
};
use kiln_ir::{
    Build, BuildDynamic, DType, Dim, Float, Graph, GraphBuilder, InferError, Module, Scalar, Tensor, Type,
    Value,
};
use proptest::prelude::*;

use crate::choices::Choices;

/// Which operators a random module may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variety {
    /// Everything that types, whatever it computes.
    Any,
    /// f32 operators whose results stay finite and change little when inputs do, without control flow: what a
    /// comparison of two ways to compute needs.
    Smooth,
}

/// How to grow a module.
#[derive(Clone, Copy, Debug)]
pub struct Growth {
    /// Operators.
    pub variety: Variety,
    /// Whether inputs have symbolic dims `N` and `M`.
    pub symbolic: bool,
    /// Most operators to try.
    pub operators: usize,
}

/// Random modules with one entry.
pub fn modules(growth: Growth) -> impl Strategy<Value = Module> {
    proptest::collection::vec(any::<u16>(), 4..growth.operators * 6)
        .prop_map(move |numbers| grow(&numbers, growth))
}

/// The module that a list of numbers stands for.
pub fn grow(numbers: &[u16], growth: Growth) -> Module {
    let mut module = Module::new();
    let mut b = GraphBuilder::new(&mut module, "main");
    let mut choices = Choices::new(numbers);
    let count = 1 + choices.below(3);
    let mut pool: Vec<Value> =
        (0..count).map(|i| b.input(&format!("x{i}"), input_type(&mut choices, growth))).collect();
    for _ in 0..growth.operators {
        if choices.is_empty() {
            break;
        }
        // An operator that refuses the operands that chance gave it adds nothing but what it had added already.
        if let Ok(new) = step(&mut b, &mut choices, &pool, growth.variety, 0) {
            pool.extend(new);
        }
    }
    let outputs = 1 + choices.below(3);
    for (i, &v) in pool.iter().rev().take(outputs).enumerate() {
        b.output(&format!("y{i}"), v);
    }
    let main = b.finish();
    module.add_entry(main);
    module
}

/// Inputs for a graph: floats in [-1, 1), small integers; each symbol has the size that `size` gives.
pub fn inputs(graph: &Graph, size: impl Fn(&str) -> i64, seed: u64) -> Vec<Tensor> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut all = vec![];
    for &v in graph.inputs() {
        let Type::Tensor(ty) = graph.ty(v) else { panic!("input {v} is no tensor") };
        let dims = ty.shape.dims().expect("inputs have a rank").iter();
        let dims: Vec<usize> = dims
            .map(|d| {
                d.eval(&|s| Some(size(&s.0))).ok().and_then(|d| usize::try_from(d).ok()).expect("a size")
            })
            .collect();
        let count = dims.iter().product();
        let scalars: Vec<Scalar> = (0..count)
            .map(|_| match ty.dtype {
                d if d.is_float() => Scalar::F((next() >> 11) as f64 / (1u64 << 52) as f64 - 1.0),
                DType::Bool => Scalar::B(next() & 1 == 1),
                _ => Scalar::I(i128::from(next() % 5)),
            })
            .collect();
        all.push(Tensor::from_scalars(ty.dtype, &dims, &scalars).expect("as many elements as dims say"));
    }
    all
}

fn input_type(c: &mut Choices<'_>, growth: Growth) -> Type {
    let dtype = match growth.variety {
        Variety::Smooth => DType::F32,
        Variety::Any => {
            c.of(&[DType::F32, DType::F16, DType::I64, DType::Bool, DType::U8, DType::F64, DType::I4])
        }
    };
    let rank = c.below(5);
    let dims: Vec<Dim> = (0..rank)
        .map(|_| match c.below(if growth.symbolic { 6 } else { 4 }) {
            4 => Dim::symbol("N"),
            5 => Dim::symbol("M"),
            n => Dim::known(n as i64 + 1),
        })
        .collect();
    Type::tensor(dtype, dims)
}

type Added = Result<Vec<Value>, InferError>;

const SMOOTH_UNARY: &[&str] =
    &["tanh", "sigmoid", "relu", "neg", "abs", "gelu", "hard_swish", "softplus", "erf", "square"];
const ANY_UNARY: &[&str] = &["exp", "sqrt", "not", "is_nan", "bit_not", "floor", "reciprocal", "sign", "log"];
const SMOOTH_BINARY: &[&str] = &["add", "sub", "mul", "min", "max"];
const ANY_BINARY: &[&str] = &["div", "pow", "eq", "lt", "and", "shift_left", "rem", "bit_xor"];

fn step(b: &mut dyn Build, c: &mut Choices<'_>, pool: &[Value], variety: Variety, depth: usize) -> Added {
    let any = variety == Variety::Any;
    let x = c.of(pool);
    let y = c.of(pool);
    match c.below(if any { 22 } else { 15 }) {
        0 | 1 => {
            let names = if any && c.flag() { ANY_UNARY } else { SMOOTH_UNARY };
            one(b.ew(c.of(names), &[x]))
        }
        2 | 3 => {
            let names = if any && c.flag() { ANY_BINARY } else { SMOOTH_BINARY };
            one(b.ew(c.of(names), &[x, y]))
        }
        4 => {
            let condition = b.ew("lt", &[x, y])?;
            one(b.ew("where", &[condition, x, y]))
        }
        5 => {
            let kind = c.of(&[ReduceKind::Mean, ReduceKind::Max, ReduceKind::Min, ReduceKind::Sum]);
            let axes: Vec<usize> = (0..b.rank(x)?).filter(|_| c.flag()).collect();
            one(b.reduce(kind, x, &axes, c.flag()))
        }
        6 => matmul(b, c, x),
        7 => conv_or_pool(b, c, x),
        8 => reshape(b, c, x),
        9 => {
            let mut perm: Vec<usize> = (0..b.rank(x)?).collect();
            for i in (1..perm.len()).rev() {
                perm.swap(i, c.below(i + 1));
            }
            one(b.transpose(x, &perm))
        }
        10 => slice_or_pad(b, c, x),
        11 => {
            let rank = b.rank(x)?;
            one(b.concat(&[x, y], c.below(rank)))
        }
        12 => {
            let axis = c.below(b.rank(x)?);
            let size = b.shape(x)?.get(axis).and_then(Dim::as_known).unwrap_or(1).max(1);
            let indices: Vec<i64> = (0..1 + c.below(3)).map(|_| c.below(size as usize) as i64).collect();
            let indices = b.constant(Tensor::ints(&indices))?;
            nodes(b, Index::Gather { axis }, &[x, indices])
        }
        13 => composite(b, c, x),
        14 => constant(b, c, x),
        15 => one(b.cast(x, c.of(DType::ALL))),
        16 => order(b, c, x),
        17 => quantized(b, c, x),
        18 if depth < 2 => control(b, c, pool, depth),
        19 => objects(b, x, y),
        20 => dims_and_shapes(b, c, x),
        _ => dynamic(b, c, x, y),
    }
}

fn one(v: Result<Value, InferError>) -> Added {
    v.map(|v| vec![v])
}

fn nodes(b: &mut dyn Build, op: impl Into<kiln_ir::Op>, operands: &[Value]) -> Added {
    b.add(op.into(), operands).map(|v| v.to_vec())
}

/// A constant of small numbers.
fn weights(b: &mut dyn Build, dtype: DType, dims: &[usize]) -> Result<Value, InferError> {
    let count: usize = dims.iter().product();
    let scalars: Vec<Scalar> = (0..count)
        .map(|i| match dtype {
            d if d.is_float() => Scalar::F((i * 7 % 11) as f64 / 16.0 - 0.25),
            _ => Scalar::I((i % 3) as i128),
        })
        .collect();
    let tensor = Tensor::from_scalars(dtype, dims, &scalars).map_err(|e| InferError::new(e.to_string()))?;
    b.constant(tensor)
}

fn known(d: Option<&Dim>) -> Result<usize, InferError> {
    let d = d.and_then(Dim::as_known).and_then(|d| usize::try_from(d).ok());
    d.ok_or_else(|| InferError::new("not a constant size"))
}

fn matmul(b: &mut dyn Build, c: &mut Choices<'_>, x: Value) -> Added {
    let (dtype, rank) = (b.dtype(x)?, b.rank(x)?);
    let k = known(b.shape(x)?.last())?;
    let w = weights(b, dtype, &[k, 1 + c.below(6)])?;
    let spec = ["k,kn->n", "mk,kn->mn", "bmk,kn->bmn", "abmk,kn->abmn"];
    let spec = spec.get(rank.wrapping_sub(1)).ok_or_else(|| InferError::new("no product of that rank"))?;
    one(b.einsum(spec, x, w))
}

fn conv_or_pool(b: &mut dyn Build, c: &mut Choices<'_>, x: Value) -> Added {
    let (dtype, spatial) = (b.dtype(x)?, b.rank(x)?.saturating_sub(2));
    let small =
        |c: &mut Choices<'_>, n: usize| -> Vec<i64> { (0..spatial).map(|_| 1 + c.below(n) as i64).collect() };
    let pad = |c: &mut Choices<'_>| -> Vec<(Dim, Dim)> {
        (0..spatial).map(|_| (Dim::known(c.below(2) as i64), Dim::known(c.below(2) as i64))).collect()
    };
    let layout = c.of(&[Layout::ChannelsFirst, Layout::ChannelsLast]);
    let (strides, dilations, pads) = (small(c, 2), small(c, 2), pad(c));
    if c.flag() {
        let kind = c.of(&[WindowKind::Max, WindowKind::Average, WindowKind::AverageWithPad]);
        // A window over padding alone has no maximum and no mean.
        let pads = if kind == WindowKind::AverageWithPad {
            pads
        } else {
            vec![(Dim::known(0), Dim::known(0)); spatial]
        };
        let (kernel, ceil_mode) = (small(c, 3), false);
        return nodes(b, Window::Pool { kind, kernel, strides, dilations, pads, ceil_mode, layout }, &[x]);
    }
    let channels = known(match layout {
        Layout::ChannelsFirst => b.shape(x)?.get(1),
        Layout::ChannelsLast => b.shape(x)?.last(),
    })?;
    let groups = if c.flag() { 1 } else { channels.max(1) };
    let kernel = small(c, 3).into_iter().map(|k| k as usize);
    let outputs = groups * (1 + c.below(3));
    let dims: Vec<usize> = [outputs, channels / groups].into_iter().chain(kernel).collect();
    let w = weights(b, dtype, &dims)?;
    let groups = groups as i64;
    nodes(b, Conv::Forward { strides, dilations, pads, groups, layout, out: dtype }, &[x, w])
}

fn reshape(b: &mut dyn Build, c: &mut Choices<'_>, x: Value) -> Added {
    let shape = b.shape(x)?.to_vec();
    let at = c.below(shape.len());
    let mut to = shape.clone();
    match (c.below(3), shape.get(at), shape.get(at + 1)) {
        (0, Some(a), Some(b)) => {
            to.splice(at..at + 2, [a * b]);
        }
        (1, Some(d), _) => match d.exact_div(&Dim::known(2)) {
            Some(half) => {
                to.splice(at..=at, [half, Dim::known(2)]);
            }
            None => to.insert(at, Dim::known(1)),
        },
        _ => to = vec![shape.iter().fold(Dim::known(1), |a, b| a * b)],
    }
    one(b.reshape(x, &to))
}

fn slice_or_pad(b: &mut dyn Build, c: &mut Choices<'_>, x: Value) -> Added {
    let shape = b.shape(x)?.to_vec();
    if c.flag() {
        let fill = b.dtype(x)?;
        let fill = b.scalar(fill, 0.0)?;
        let sizes = |c: &mut Choices<'_>| -> Vec<Dim> {
            shape.iter().map(|_| Dim::known(c.below(3) as i64)).collect()
        };
        let (before, after) = (sizes(c), sizes(c));
        return nodes(b, Movement::Pad { mode: PadMode::Constant, before, after }, &[x, fill]);
    }
    let (mut starts, mut sizes, mut steps) = (vec![], vec![], vec![]);
    for d in &shape {
        match (d.as_known().filter(|&d| d > 0), c.below(3)) {
            (Some(d), 1) => {
                let start = c.below(d as usize) as i64;
                starts.push(Dim::known(start));
                sizes.push(Dim::known(d - start));
                steps.push(1);
            }
            (Some(d), 2) => {
                starts.push(Dim::known(d - 1));
                sizes.push(Dim::known(d));
                steps.push(-1);
            }
            _ => {
                starts.push(Dim::known(0));
                sizes.push(d.clone());
                steps.push(1);
            }
        }
    }
    nodes(b, Movement::Slice { starts, sizes, steps }, &[x])
}

fn composite(b: &mut dyn Build, c: &mut Choices<'_>, x: Value) -> Added {
    let (dtype, rank) = (b.dtype(x)?, b.rank(x)?);
    let epsilon = Float::new(1e-5);
    match c.below(3) {
        0 => nodes(b, Composite::Softmax { axis: c.below(rank) }, &[x]),
        1 => {
            let size = known(b.shape(x)?.last())?;
            let (scale, bias) = (weights(b, dtype, &[size])?, weights(b, dtype, &[size])?);
            nodes(b, Composite::LayerNorm { axis: rank - 1, epsilon }, &[x, scale, bias])
        }
        _ => {
            let size = known(b.shape(x)?.get(1))?;
            let v = weights(b, dtype, &[size])?;
            let spread = b.ew("square", &[v])?;
            let spread = b.ew("add", &[spread, spread])?;
            let one_more = b.scalar(dtype, 1.0)?;
            let spread = b.ew("add", &[spread, one_more])?;
            nodes(b, Composite::BatchNorm { epsilon }, &[x, v, v, v, spread])
        }
    }
}

fn constant(b: &mut dyn Build, c: &mut Choices<'_>, x: Value) -> Added {
    let dtype = b.dtype(x)?;
    if c.flag() {
        return one(b.scalar(dtype, 0.5));
    }
    let dims: Vec<usize> = (0..c.below(3)).map(|_| 1 + c.below(6)).collect();
    one(weights(b, dtype, &dims))
}

fn order(b: &mut dyn Build, c: &mut Choices<'_>, x: Value) -> Added {
    let axis = c.below(b.rank(x)?);
    match c.below(5) {
        0 => nodes(b, Order::ArgMax { axis, keepdims: c.flag(), last: c.flag() }, &[x]),
        1 => {
            let k = b.constant(Tensor::ints(&[1]))?;
            nodes(b, Order::TopK { axis, largest: c.flag(), sorted: true }, &[x, k])
        }
        2 => nodes(b, Order::NonZero {}, &[x]),
        3 => nodes(b, Order::Unique { axis: c.flag().then_some(axis), sorted: true }, &[x]),
        _ => nodes(
            b,
            Order::Cumulative { kind: CumKind::Sum, axis, exclusive: c.flag(), reverse: c.flag() },
            &[x],
        ),
    }
}

fn quantized(b: &mut dyn Build, c: &mut Choices<'_>, x: Value) -> Added {
    let to = c.of(&[DType::U8, DType::I8, DType::I4, DType::F8E4M3FN]);
    let scale = b.scalar(DType::F32, 0.125)?;
    let zero = b.scalar(to, 1.0)?;
    let q = nodes(
        b,
        Quant::Quantize { to, axis: None, block: 0, saturate: true, inverse: false },
        &[x, scale, zero],
    )?;
    let mut all = q.clone();
    all.extend(nodes(b, Quant::Dequantize { to: DType::F32, axis: None, block: 0 }, &[q[0], scale, zero])?);
    Ok(all)
}

/// A branch, a loop or a call, over private graphs that hold an operator each.
fn control(b: &mut dyn Build, c: &mut Choices<'_>, pool: &[Value], depth: usize) -> Added {
    let x = c.of(pool);
    let ty = b.ty(x).clone();
    let body = |b: &mut dyn Build, c: &mut Choices<'_>, name: &str| {
        b.subgraph(name, std::slice::from_ref(&ty), &mut |b, inputs| {
            step(b, c, inputs, Variety::Any, depth + 1).or_else(|_| Ok(inputs.to_vec())).map(|mut v| {
                v.truncate(1);
                v
            })
        })
    };
    match c.below(3) {
        0 => {
            let condition =
                Tensor::from_bools(&[], &[c.flag()]).map_err(|e| InferError::new(e.to_string()))?;
            let condition = b.constant(condition)?;
            let (then_graph, else_graph) = (body(b, c, "then")?, body(b, c, "else")?);
            nodes(b, Control::If { then_graph, else_graph }, &[condition, x])
        }
        1 => {
            let graph = body(b, c, "called")?;
            nodes(b, Control::Call { graph }, &[x])
        }
        _ => {
            let counter = Type::fixed(DType::I64, &[]);
            let flag = Type::fixed(DType::Bool, &[]);
            let types = [counter, flag, ty.clone()];
            let scan = c.flag();
            let body = b.subgraph("body", &types, &mut |b, v| {
                let next = b.ew("tanh", &[v[2]])?;
                Ok(if scan { vec![v[1], next, v[0]] } else { vec![v[1], next] })
            })?;
            let trips = b.constant(Tensor::scalar(2i64))?;
            let goes_on = Tensor::from_bools(&[], &[true]).map_err(|e| InferError::new(e.to_string()))?;
            let goes_on = b.constant(goes_on)?;
            nodes(b, Control::Loop { body, carried: 1 }, &[trips, goes_on, x])
        }
    }
}

fn objects(b: &mut dyn Build, x: Value, y: Value) -> Added {
    let list = nodes(b, Object::SequenceConstruct {}, &[x, y])?[0];
    let at = b.constant(Tensor::scalar(1i64))?;
    let list = nodes(b, Object::SequenceInsert { at: true }, &[list, x, at])?[0];
    let item = nodes(b, Object::SequenceAt {}, &[list, at])?[0];
    let some = nodes(b, Object::OptionalSome {}, &[item])?[0];
    let has = nodes(b, Object::OptionalHas {}, &[some])?[0];
    let length = nodes(b, Object::SequenceLength {}, &[list])?[0];
    Ok(vec![item, has, length])
}

fn dims_and_shapes(b: &mut dyn Build, c: &mut Choices<'_>, x: Value) -> Added {
    let shape = b.shape_of(x)?;
    let len = b.shape(x)?.iter().fold(Dim::known(0), |a, d| a + d);
    let dtype = c.of(&[DType::I64, DType::F32, DType::U8]);
    let iota = nodes(b, Source::Iota { len, dtype }, &[])?[0];
    Ok(vec![shape, iota])
}

fn dynamic(b: &mut dyn Build, c: &mut Choices<'_>, x: Value, y: Value) -> Added {
    match c.below(4) {
        0 => one(b.reshape_to(x, y)),
        1 => one(b.expand_to(x, y)),
        2 => one(b.tile_by(x, y)),
        _ => b.dynamic(Dynamic::Shape { start: -1, end: None }, &[x]).map(|v| v.to_vec()),
    }
}
