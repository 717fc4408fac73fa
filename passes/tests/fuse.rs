//! Which nodes the fusion pass puts together.

use kiln_ir::op::{Contract, Control, Conv, Layout, ReduceKind};
use kiln_ir::{Build, DType, Dim, GraphBuilder, Module, Op, Type, Value};
use kiln_passes::{Options, optimize};

/// Builds a graph, optimizes it, and lists what is left: for a kernel, the operators in it.
fn kernels(build: impl FnOnce(&mut GraphBuilder<'_>)) -> Vec<String> {
    let mut module = Module::new();
    let mut builder = GraphBuilder::new(&mut module, "main");
    build(&mut builder);
    let id = builder.finish();
    module.add_entry(id);
    optimize(&mut module, &Options::default()).unwrap();
    let describe = |op: &Op| match op {
        Op::Control(Control::Fusion { graph }) => {
            let body = module.graph(*graph);
            body.scheduled().map(|(_, n)| n.op.mnemonic()).collect::<Vec<_>>().join(" ")
        }
        other => format!("({})", other.mnemonic()),
    };
    module.graph(id).scheduled().map(|(_, n)| describe(&n.op)).collect()
}

fn input(b: &mut GraphBuilder<'_>, name: &str, dims: &[i64]) -> Value {
    b.input(name, Type::fixed(DType::F32, dims))
}

#[test]
fn a_contraction_takes_its_epilogue() {
    let found = kernels(|b| {
        let (x, w) = (input(b, "x", &[8, 16]), input(b, "w", &[16, 4]));
        let (bias, residual) = (input(b, "bias", &[4]), input(b, "residual", &[8, 4]));
        let y = b.einsum("mk,kn->mn", x, w).unwrap();
        let y = b.ew("add", &[y, bias]).unwrap();
        let s = b.ew("sin", &[y]).unwrap();
        let y = b.ew("mul", &[y, s]).unwrap();
        let y = b.ew("add", &[y, residual]).unwrap();
        b.output("y", y);
    });
    assert_eq!(found, ["contract add sin mul add"]);
}

#[test]
fn an_intermediate_that_is_needed_elsewhere_ends_the_epilogue() {
    let found = kernels(|b| {
        let (x, w) = (input(b, "x", &[8, 16]), input(b, "w", &[16, 4]));
        let y = b.einsum("mk,kn->mn", x, w).unwrap();
        let e = b.ew("exp", &[y]).unwrap();
        b.output("y", y);
        b.output("e", e);
    });
    assert_eq!(found, ["contract", "exp"]);
}

#[test]
fn softmax_is_one_row_kernel() {
    let found = kernels(|b| {
        let x = input(b, "x", &[2, 8, 16]);
        let scale = b.scalar(DType::F32, 0.3).unwrap();
        let x = b.ew("mul", &[x, scale]).unwrap();
        let max = b.reduce(ReduceKind::Max, x, &[2], true).unwrap();
        let d = b.ew("sub", &[x, max]).unwrap();
        let e = b.ew("exp", &[d]).unwrap();
        let sum = b.reduce(ReduceKind::Sum, e, &[2], true).unwrap();
        let y = b.ew("div", &[e, sum]).unwrap();
        b.output("y", y);
    });
    assert_eq!(found, ["constant mul reduce sub exp reduce div"]);
}

#[test]
fn reductions_of_other_axes_are_separate() {
    let found = kernels(|b| {
        let x = input(b, "x", &[2, 8, 16]);
        let e = b.ew("exp", &[x]).unwrap();
        let a = b.reduce(ReduceKind::Sum, e, &[1], true).unwrap();
        let c = b.reduce(ReduceKind::Sum, e, &[2], true).unwrap();
        b.output("a", a);
        b.output("c", c);
    });
    assert_eq!(found, ["exp reduce", "reduce"]);
}

#[test]
fn groups_never_depend_on_themselves() {
    // Sine and sum have one shape, but the column sums between them cannot be in their kernel.
    let found = kernels(|b| {
        let x = input(b, "x", &[8, 8]);
        let s = b.ew("sin", &[x]).unwrap();
        let sums = b.reduce(ReduceKind::Sum, s, &[0], true).unwrap();
        let z = b.ew("add", &[s, sums]).unwrap();
        b.output("z", z);
    });
    assert_eq!(found, ["sin", "reduce", "add"]);
}

#[test]
fn views_stay_outside_and_broadcasts_go_inside() {
    let found = kernels(|b| {
        let (x, y) = (input(b, "x", &[8, 16]), input(b, "y", &[16]));
        let x = b.reshape(x, &[2.into(), 4.into(), 16.into()]).unwrap();
        let y = b.broadcast(y, &[4.into(), 16.into()]).unwrap();
        let a = b.ew("exp", &[x]).unwrap();
        let z = b.ew("add", &[a, y]).unwrap();
        let w = b.ew("exp", &[y]).unwrap();
        b.output("z", z);
        b.output("w", w);
    });
    assert_eq!(found, ["(reshape)", "exp add", "broadcast exp"]);
}

#[test]
fn a_mean_over_space_is_a_kernel_with_prologue() {
    let found = kernels(|b| {
        let x = input(b, "x", &[1, 7, 7, 32]);
        let e = b.ew("relu", &[x]).unwrap();
        let m = b.reduce(ReduceKind::Mean, e, &[1, 2], true).unwrap();
        let m = b.ew("sigmoid", &[m]).unwrap();
        b.output("m", m);
    });
    assert_eq!(found, ["relu reduce sigmoid"]);
}

#[test]
fn heroes_read_their_operands_from_memory() {
    let found = kernels(|b| {
        let (x, w) = (input(b, "x", &[1, 16]), input(b, "w", &[16, 4]));
        let x = b.broadcast(x, &[8.into(), 16.into()]).unwrap();
        let op = Contract::Einsum { spec: "mk,kn->mn".parse().unwrap(), out: DType::F32 };
        let y = b.add1(op, &[x, w]).unwrap();
        b.output("y", y);
    });
    assert_eq!(found, ["broadcast", "contract"]);
}

#[test]
fn a_reshape_of_what_kernels_copy_is_a_kernel() {
    let found = kernels(|b| {
        let (row, w) = (input(b, "row", &[4]), input(b, "w", &[4, 8]));
        let wide = b.broadcast(row, &[2.into(), 1.into(), 4.into()]).unwrap();
        let narrow = b.reshape(wide, &[2.into(), 4.into()]).unwrap();
        let product = b.einsum("mk,kn->mn", narrow, w).unwrap();
        b.output("product", product);
    });
    assert_eq!(found, ["broadcast reshape", "contract"]);
}

/// The kernels of a channels-first convolution of `channels` channels; `uses` is how often its input is read.
fn image(channels: i64, uses: usize) -> Vec<String> {
    kernels(|b| {
        let x = input(b, "x", &[1, channels, 6, 6]);
        let convolution = Conv::Forward {
            strides: vec![1, 1],
            dilations: vec![1, 1],
            pads: vec![(Dim::known(1), Dim::known(1)); 2],
            groups: 1,
            layout: Layout::ChannelsFirst,
            out: DType::F32,
        };
        for i in 0..uses {
            let w = input(b, &format!("w{i}"), &[2, channels, 3, 3]);
            let y = b.add1(Op::Conv(convolution.clone()), &[x, w]).unwrap();
            let y = b.ew("relu", &[y]).unwrap();
            b.output(&format!("y{i}"), y);
        }
    })
}

#[test]
fn a_convolution_of_few_channels_takes_their_transpose_in() {
    assert_eq!(image(3, 1), ["transpose conv relu", "transpose"]);
    assert_eq!(image(8, 1), ["transpose", "conv relu", "transpose"]);
    assert_eq!(image(3, 2).iter().filter(|k| k.starts_with("transpose conv")).count(), 0);
}

/// The kernels of a pointwise convolution of `[1, size, size, 32]` that is scaled by `[1, gate, gate, 32]`.
fn gated(size: i64, gate: i64, taps: i64, uses: usize) -> Vec<String> {
    kernels(|b| {
        let (x, g) = (input(b, "x", &[1, size, size, 32]), input(b, "g", &[1, gate, gate, 32]));
        let scaled = b.ew("mul", &[x, g]).unwrap();
        let convolution = Conv::Forward {
            strides: vec![1, 1],
            dilations: vec![1, 1],
            pads: vec![(Dim::known(0), Dim::known(0)); 2],
            groups: 1,
            layout: Layout::ChannelsLast,
            out: DType::F32,
        };
        for i in 0..uses {
            let w = input(b, &format!("w{i}"), &[16, 32, taps, taps]);
            let y = b.add1(Op::Conv(convolution.clone()), &[scaled, w]).unwrap();
            b.output(&format!("y{i}"), y);
        }
    })
}

#[test]
fn a_pointwise_convolution_takes_the_scaling_of_a_large_input_in() {
    assert_eq!(gated(112, 1, 1, 1), ["mul conv"]);
    // What is small stays near; windows and second uses would scale again; other factors are no gate.
    assert_eq!(gated(14, 1, 1, 1), ["mul", "conv"]);
    assert_eq!(gated(112, 1, 3, 1), ["mul", "conv"]);
    assert_eq!(gated(112, 1, 1, 2).iter().filter(|k| *k == "mul conv").count(), 0);
    assert_eq!(gated(112, 112, 1, 1), ["mul", "conv"]);
}
