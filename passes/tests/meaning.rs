//! Passes keep the meaning of graphs: random graphs evaluate to the same before and after, with each pass left out in
//! turn.

use kiln_ir::op::{Composite, Contract, Conv, Layout, Movement, Reduce, ReduceKind, Window, WindowKind};
use kiln_ir::{Build, DType, Datum, Dim, Evaluator, Float, GraphBuilder, Module, Op, Tensor, Type, Value};
use kiln_passes::{Options, PASSES, optimize};

/// A generator of numbers (splitmix64), the same on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % n as u64).unwrap()
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    fn tensor(&mut self, dims: &[usize]) -> Tensor {
        let values: Vec<f32> =
            (0..dims.iter().product()).map(|_| self.below(33) as f32 / 16.0 - 1.0).collect();
        Tensor::from_slice(dims, &values).unwrap()
    }
}

const UNARY: &[&str] =
    &["relu", "tanh", "sigmoid", "exp", "neg", "square", "abs", "gelu", "erf", "hard_swish", "softsign"];
const BINARY: &[&str] = &["add", "sub", "mul", "max", "min", "add", "mul"];

fn fixed(b: &GraphBuilder<'_>, v: Value) -> Vec<usize> {
    b.shape(v).unwrap().iter().map(|d| usize::try_from(d.as_known().unwrap()).unwrap()).collect()
}

fn dims(d: &[usize]) -> Vec<Dim> {
    d.iter().map(|&d| Dim::known(d as i64)).collect()
}

/// Adds a random node over `pool`; gives nothing where the one drawn does not fit.
fn step(r: &mut Random, b: &mut GraphBuilder<'_>, pool: &[Value]) -> Option<Value> {
    let x = *r.pick(pool);
    let d = fixed(b, x);
    let rank = d.len();
    match r.below(14) {
        0 | 1 => b.ew(r.pick::<&str>(UNARY), &[x]).ok(),
        2 | 3 => {
            let y = *r.pick(pool);
            let v = b.ew(r.pick::<&str>(BINARY), &[x, y]).ok()?;
            (fixed(b, v).iter().product::<usize>() <= 4096).then_some(v)
        }
        4 => {
            let number = *r.pick(&[0.0, 1.0, 2.0, 0.5, 3.0, -1.0]);
            let c = b.scalar(DType::F32, number).ok()?;
            b.ew(r.pick::<&str>(&["add", "mul", "sub", "max", "mul"]), &[x, c]).ok()
        }
        5 if rank > 0 => {
            let mut perm: Vec<usize> = (0..rank).collect();
            for i in (1..rank).rev() {
                perm.swap(i, r.below(i + 1));
            }
            b.transpose(x, &perm).ok()
        }
        6 if rank > 0 => {
            let kind = *r.pick(&[ReduceKind::Sum, ReduceKind::Mean, ReduceKind::Max, ReduceKind::SumSquare]);
            let axes: Vec<usize> = (0..rank).filter(|_| r.below(2) == 0).collect();
            b.add1(Reduce::Axes { kind, axes, keepdims: r.below(2) == 0 }, &[x]).ok()
        }
        7 => {
            let mut to: Vec<usize> = d.iter().copied().filter(|&n| n != 1 || r.below(2) == 0).collect();
            if r.below(2) == 0 {
                to.insert(r.below(to.len() + 1), 1);
            } else if to.len() >= 2 {
                let joined = to.remove(0);
                to[0] *= joined;
            }
            b.reshape(x, &dims(&to)).ok()
        }
        8 if rank > 0 => {
            let axis = r.below(rank);
            let size = 1 + r.below(d[axis]);
            let start = r.below(d[axis] - size + 1);
            b.slice_axis(x, axis, Dim::known(start as i64), Dim::known(size as i64)).ok()
        }
        9 if rank > 0 => b.softmax(x, r.below(rank)).ok(),
        10 if rank > 0 => {
            let axis = r.below(rank);
            let v = b.concat(&[x, x], axis).ok()?;
            (fixed(b, v).iter().product::<usize>() <= 4096).then_some(v)
        }
        11 if rank == 3 => conv(r, b, x, &d),
        12 if rank >= 2 => contract(r, b, x, &d),
        13 if rank == 3 && d[2] >= 2 => {
            let op = Window::Pool {
                kind: *r.pick(&[WindowKind::Max, WindowKind::Average]),
                kernel: vec![2],
                strides: vec![1],
                dilations: vec![1],
                pads: vec![(Dim::known(0), Dim::known(1))],
                ceil_mode: false,
                layout: Layout::ChannelsFirst,
            };
            b.add1(op, &[x]).ok()
        }
        _ => None,
    }
}

fn conv(r: &mut Random, b: &mut GraphBuilder<'_>, x: Value, d: &[usize]) -> Option<Value> {
    let out = 1 + r.below(3);
    let kernel = 1 + r.below(2).min(d[2] - 1);
    let w = b.constant(r.tensor(&[out, d[1], kernel])).ok()?;
    let op = Conv::Forward {
        strides: vec![1],
        dilations: vec![1],
        pads: vec![(Dim::known(1), Dim::known(0))],
        groups: 1,
        layout: Layout::ChannelsFirst,
        out: DType::F32,
    };
    let y = b.add1(op, &[x, w]).ok()?;
    match r.below(3) {
        0 => Some(y),
        1 => {
            let c = b.constant(r.tensor(&[out, 1])).ok()?;
            let y = b.ew("mul", &[y, c]).ok()?;
            b.ew("add", &[y, c]).ok()
        }
        _ => {
            let p: Vec<Value> = (0..3).map(|_| b.constant(r.tensor(&[out])).unwrap()).collect();
            let variance = b.constant(Tensor::from_slice(&[out], &vec![0.5f32; out]).unwrap()).ok()?;
            let op = Composite::BatchNorm { epsilon: Float::new(1e-3) };
            b.add1(op, &[y, p[0], p[1], p[2], variance]).ok()
        }
    }
}

fn contract(r: &mut Random, b: &mut GraphBuilder<'_>, x: Value, d: &[usize]) -> Option<Value> {
    let rank = d.len();
    let columns = 1 + r.below(4);
    let w = b.constant(r.tensor(&[d[rank - 1], columns])).ok()?;
    let labels = &b"abcd"[..rank - 1];
    let letters = String::from_utf8_lossy(labels);
    let spec = format!("{letters}k,kn->{letters}n").parse().ok()?;
    b.add1(Contract::Einsum { spec, out: DType::F32 }, &[x, w]).ok()
}

/// A random module, and inputs for it.
fn sample(seed: u64) -> (Module, Vec<Datum>) {
    let mut r = Random(seed);
    let mut module = Module::new();
    let mut b = GraphBuilder::new(&mut module, "main");
    let shapes: &[&[usize]] = &[&[2, 3, 4], &[3, 4], &[1, 2, 4], &[4], &[2, 1, 4], &[]];
    let (mut pool, mut inputs) = (vec![], vec![]);
    for i in 0..3 {
        let shape = *r.pick(shapes);
        let sizes: Vec<i64> = shape.iter().map(|&d| d as i64).collect();
        pool.push(b.input(&format!("x{i}"), Type::fixed(DType::F32, &sizes)));
        inputs.push(Datum::Tensor(r.tensor(shape)));
    }
    for _ in 0..4 + r.below(24) {
        pool.extend(step(&mut r, &mut b, &pool));
    }
    for (i, &v) in pool.iter().rev().take(1 + r.below(3)).enumerate() {
        b.output(&format!("y{i}"), v);
    }
    let id = b.finish();
    module.add_entry(id);
    (module, inputs)
}

fn outputs(module: &Module, inputs: &[Datum]) -> Vec<Tensor> {
    let all = Evaluator::new(module).run(module.entries()[0], inputs).unwrap();
    all.into_iter().map(|d| d.into_tensor().unwrap()).collect()
}

fn assert_close(seed: u64, disabled: &str, a: &Tensor, b: &Tensor) {
    assert_eq!((a.dtype(), a.dims()), (b.dtype(), b.dims()), "seed {seed} without `{disabled}`");
    let (a, b) = (a.to_f64s().unwrap(), b.to_f64s().unwrap());
    let scale = a.iter().filter(|v| v.is_finite()).fold(1.0f64, |m, v| m.max(v.abs()));
    for (x, y) in a.iter().zip(&b) {
        let same = x == y || (x.is_nan() && y.is_nan()) || (x - y).abs() <= 1e-4 * scale;
        assert!(same, "seed {seed} without `{disabled}`: {x} became {y}");
    }
}

#[test]
fn random_graphs_keep_their_meaning() {
    let mut kernels = 0;
    for seed in 0..400u64 {
        let (module, inputs) = sample(seed);
        let wanted = outputs(&module, &inputs);
        let mut left_out: Vec<&str> = vec![""];
        left_out.push(PASSES[usize::try_from(seed).unwrap() % PASSES.len()].name);
        for disabled in left_out {
            let (mut module, _) = sample(seed);
            let disable = if disabled.is_empty() { vec![] } else { vec![disabled.to_owned()] };
            let options = Options { disabled: disable, verify: true, ..Options::default() };
            optimize(&mut module, &options)
                .unwrap_or_else(|e| panic!("seed {seed} without `{disabled}`: {e}"));
            for (a, b) in wanted.iter().zip(outputs(&module, &inputs)) {
                assert_close(seed, disabled, a, &b);
            }
            let entry = module.graph(module.entries()[0]);
            let is_kernel = |op: &Op| matches!(op, Op::Control(kiln_ir::op::Control::Fusion { .. }));
            kernels += entry.scheduled().filter(|(_, n)| is_kernel(&n.op)).count();
        }
    }
    assert!(kernels > 1000, "the graphs are trivial: {kernels} kernels");
}

#[test]
fn passes_are_deterministic() {
    for seed in 0..40 {
        let text = || {
            let (mut module, _) = sample(seed);
            optimize(&mut module, &Options::default()).unwrap();
            kiln_ir::text::print_module(&module).0
        };
        assert_eq!(text(), text(), "seed {seed}");
    }
}

/// A movement that no random graph of the above holds: reversed slices.
#[test]
fn negative_steps_compose() {
    let mut module = Module::new();
    let mut b = GraphBuilder::new(&mut module, "main");
    let x = b.input("x", Type::fixed(DType::F32, &[9]));
    let slice = |start: i64, size: i64, step: i64| Movement::Slice {
        starts: vec![Dim::known(start)],
        sizes: vec![Dim::known(size)],
        steps: vec![step],
    };
    let a = b.add1(slice(8, 5, -2), &[x]).unwrap();
    let y = b.add1(slice(4, 2, -3), &[a]).unwrap();
    b.output("y", y);
    let id = b.finish();
    module.add_entry(id);
    let x: Vec<f32> = (0..9).map(|i| i as f32).collect();
    let inputs = [Datum::Tensor(Tensor::from_slice(&[9], &x).unwrap())];
    let wanted = outputs(&module, &inputs);
    optimize(&mut module, &Options::default()).unwrap();
    assert_eq!(outputs(&module, &inputs), wanted);
    assert_eq!(wanted[0].to_f64s().unwrap(), [0.0, 6.0]);
}
