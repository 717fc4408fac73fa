//! Compiled programs against the reference evaluator.

use std::sync::Arc;

use kiln_codegen::build::{Options, Summary, compile};
use kiln_ir::op::{
    Composite, Contract, Conv, Index, Layout, Movement, PadMode, Quant, Reduce, ReduceKind, Source, Window,
    WindowKind,
};
use kiln_ir::{
    Build, DType, Datum, Dim, Evaluator, Float, GraphBuilder, InferError, Module, Op, Tensor, Type, Value,
};
use kiln_runtime::cpu::Tier;
use kiln_runtime::{Executable, RunOptions, Session, SessionOptions};

/// Deterministic numbers in [-2, 2).
fn numbers(count: usize, seed: u64) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..count)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) as f64 / (1u64 << 53) as f64 * 4.0 - 2.0
        })
        .collect()
}

fn tensor(dtype: DType, dims: &[usize], seed: u64) -> Tensor {
    let scalars: Vec<kiln_ir::Scalar> = numbers(dims.iter().product(), seed)
        .into_iter()
        .map(|v| match dtype {
            DType::Bool => kiln_ir::Scalar::B(v > 0.0),
            d if d.is_float() => kiln_ir::Scalar::F(v),
            DType::U8 | DType::U16 | DType::U32 | DType::U64 => kiln_ir::Scalar::I((v * 20.0 + 50.0) as i128),
            _ => kiln_ir::Scalar::I((v * 20.0) as i128),
        })
        .collect();
    Tensor::from_scalars(dtype, dims, &scalars).unwrap()
}

type Body<'a> = &'a dyn Fn(&mut GraphBuilder<'_>, &[Value]) -> Result<Vec<Value>, InferError>;

/// Builds a graph, runs it both ways, compares; gives the compiler's summary.
fn check(name: &str, inputs: &[(Type, Tensor)], tolerance: f64, body: Body<'_>) -> Summary {
    let mut module = Module::new();
    let mut b = GraphBuilder::new(&mut module, "main");
    let values: Vec<Value> =
        inputs.iter().enumerate().map(|(i, (ty, _))| b.input(&format!("x{i}"), ty.clone())).collect();
    let outputs = body(&mut b, &values).unwrap_or_else(|e| panic!("{name}: {e}"));
    for (i, &v) in outputs.iter().enumerate() {
        b.output(&format!("y{i}"), v);
    }
    let id = b.finish();
    module.add_entry(id);
    let data: Vec<Datum> = inputs.iter().map(|(_, t)| Datum::Tensor(t.clone())).collect();
    let expected =
        Evaluator::new(&module).run(id, &data).unwrap_or_else(|e| panic!("{name}: evaluator: {e}"));
    let compiled = compile(&module, &Options::default()).unwrap_or_else(|e| panic!("{name}: {e}"));
    let summary = compiled.summary.clone();
    let exe = Executable::from_image(compiled.image).unwrap_or_else(|e| panic!("{name}: {e}"));
    let session = Session::new(Arc::new(exe), SessionOptions::default());
    let actual = session.run("main", &data).unwrap_or_else(|e| panic!("{name}: session: {e}"));
    assert_eq!(expected.len(), actual.len());
    for (i, (e, a)) in expected.iter().zip(&actual).enumerate() {
        let (Datum::Tensor(e), Datum::Tensor(a)) = (e, a) else { panic!("{name}: output {i} is no tensor") };
        compare(&format!("{name}, output {i}"), e, a, tolerance, &compiled.kernel_texts);
    }
    let _ = RunOptions::default();
    summary
}

fn compare(name: &str, expected: &Tensor, actual: &Tensor, tolerance: f64, texts: &[String]) {
    assert_eq!(expected.dtype(), actual.dtype(), "{name}");
    assert_eq!(expected.dims(), actual.dims(), "{name}");
    let (e, a) = (expected.to_f64s().unwrap(), actual.to_f64s().unwrap());
    for (i, (e, a)) in e.iter().zip(&a).enumerate() {
        let close = e == a || (e.is_nan() && a.is_nan()) || (e - a).abs() <= tolerance * e.abs().max(1.0);
        assert!(close, "{name}[{i}]: expected {e}, got {a}\n{}", texts.join("\n"));
    }
}

fn fixed(dtype: DType, dims: &[usize], seed: u64) -> (Type, Tensor) {
    let t = tensor(dtype, dims, seed);
    (Type::Tensor(t.ty()), t)
}

fn symbolic(dtype: DType, dims: &[(&str, usize)], seed: u64) -> (Type, Tensor) {
    let sizes: Vec<usize> = dims.iter().map(|d| d.1).collect();
    let names: Vec<Dim> = dims
        .iter()
        .map(|(name, size)| if name.is_empty() { Dim::known(*size as i64) } else { Dim::symbol(name) })
        .collect();
    (Type::tensor(dtype, names), tensor(dtype, &sizes, seed))
}

fn all_kernels(summary: &Summary) {
    assert!(summary.slow.is_empty(), "{:?}", summary.slow);
}

#[test]
fn elementwise_chain() {
    let x = fixed(DType::F32, &[3, 5, 7], 1);
    let y = fixed(DType::F32, &[5, 1], 2);
    all_kernels(&check("chain", &[x, y], 1e-5, &|b, v| {
        let s = b.ew("add", v)?;
        let t = b.ew("tanh", &[s])?;
        Ok(vec![b.ew("mul", &[t, v[0]])?])
    }));
}

#[test]
fn dtypes() {
    for d in [DType::F32, DType::F64, DType::F16, DType::BF16, DType::I8, DType::I32, DType::I64, DType::U8] {
        let summary = check(d.name(), &[fixed(d, &[4, 9], 1), fixed(d, &[4, 9], 2)], 2e-2, &|b, v| {
            let s = b.ew("add", v)?;
            let m = b.ew("max", &[s, v[1]])?;
            let c = b.ew("lt", &[v[0], v[1]])?;
            Ok(vec![m, c])
        });
        all_kernels(&summary);
    }
}

#[test]
fn symbolic_shapes() {
    let x = symbolic(DType::F32, &[("n", 3), ("", 8), ("m", 5)], 1);
    let y = symbolic(DType::F32, &[("m", 5)], 2);
    all_kernels(&check("symbolic", &[x, y], 1e-5, &|b, v| {
        let s = b.ew("add", v)?;
        let t = b.transpose(s, &[2, 0, 1])?;
        let shape = [Dim::symbol("m"), Dim::symbol("n") * Dim::known(8)];
        let r = b.reshape(t, &shape)?;
        Ok(vec![b.ew("neg", &[r])?])
    }));
}

#[test]
fn movement() {
    let x = fixed(DType::F32, &[4, 6, 10], 1);
    let i = (Type::fixed(DType::I64, &[3]), Tensor::ints(&[-1, 0, 2]));
    all_kernels(&check("movement", &[x, i], 0.0, &|b, v| {
        let zero = Dim::known(0);
        let slice = Movement::Slice {
            starts: vec![Dim::known(1), zero.clone(), Dim::known(9)],
            sizes: vec![Dim::known(3), Dim::known(6), Dim::known(5)],
            steps: vec![1, 1, -2],
        };
        let s = b.add1(slice, &[v[0]])?;
        let fill = b.scalar(DType::F32, 7.0)?;
        let mut out = vec![s];
        for mode in [PadMode::Constant, PadMode::Edge, PadMode::Reflect, PadMode::Wrap] {
            let before = vec![Dim::known(1), zero.clone(), Dim::known(2)];
            let after = vec![zero.clone(), Dim::known(2), Dim::known(1)];
            out.push(b.add1(Movement::Pad { mode, before, after }, &[v[0], fill])?);
        }
        let g = b.add1(Index::Gather { axis: 1 }, &[v[0], v[1]])?;
        out.push(b.ew("neg", &[g])?);
        let n = b.ew("neg", &[v[0]])?;
        out.push(b.concat(&[v[0], n, v[0]], 1)?);
        out.push(b.concat(&[v[0], n], 2)?);
        let r = b.reshape(v[0], &[Dim::known(24), Dim::known(10)])?;
        out.push(r);
        let t = b.transpose(v[0], &[2, 0, 1])?;
        let r = b.reshape(t, &[Dim::known(10), Dim::known(24)])?;
        out.push(b.ew("abs", &[r])?);
        let i = b.add1(Source::Iota { len: Dim::known(10), dtype: DType::F32 }, &[])?;
        out.push(b.ew("add", &[v[0], i])?);
        Ok(out)
    }));
}

#[test]
fn gathers_from_an_empty_axis_are_errors() {
    for (count, fails) in [(0, false), (3, true)] {
        let mut module = Module::new();
        let mut b = GraphBuilder::new(&mut module, "main");
        let (ty, x) = fixed(DType::F32, &[0, 100_000], 1);
        let (x_value, indices) = (b.input("x", ty), b.input("i", Type::fixed(DType::I64, &[count])));
        let y = b.add1(Index::Gather { axis: 0 }, &[x_value, indices]).unwrap();
        let y = b.ew("neg", &[y]).unwrap();
        b.output("y", y);
        let id = b.finish();
        module.add_entry(id);
        let data = [Datum::Tensor(x), Datum::Tensor(Tensor::ints(&vec![0; count as usize]))];
        let compiled = compile(&module, &Options::default()).unwrap();
        let exe = Executable::from_image(compiled.image).unwrap();
        let session = Session::new(Arc::new(exe), SessionOptions::default());
        assert_eq!(Evaluator::new(&module).run(id, &data).is_err(), fails);
        assert_eq!(session.run("main", &data).is_err(), fails);
    }
}

#[test]
fn reductions() {
    let x = symbolic(DType::F32, &[("n", 6), ("", 33), ("", 20)], 1);
    all_kernels(&check("reductions", &[x], 1e-4, &|b, v| {
        let mut out = vec![];
        for kind in [ReduceKind::Sum, ReduceKind::Mean, ReduceKind::Max, ReduceKind::L2, ReduceKind::Prod] {
            for axes in [&[2][..], &[1], &[0], &[1, 2], &[0, 1, 2], &[0, 2]] {
                out.push(b.reduce(kind, v[0], axes, axes.len() == 1)?);
            }
        }
        Ok(out)
    }));
}

#[test]
fn reductions_shared_by_columns() {
    for (rows, columns) in [(3136, 72), (2000, 64), (5000, 33), (4000, 31), (3000, 200)] {
        for kind in [ReduceKind::Mean, ReduceKind::Max] {
            let name = format!("{kind:?} of {rows} x {columns}");
            let x = fixed(DType::F32, &[1, rows, columns], 7);
            all_kernels(&check(&name, &[x], 1e-5, &|b, x| Ok(vec![b.reduce(kind, x[0], &[1], false)?])));
        }
    }
}

#[test]
fn softmax_and_norm() {
    let x = symbolic(DType::F32, &[("n", 5), ("", 37)], 1);
    all_kernels(&check("softmax", &[x.clone()], 1e-5, &|b, v| Ok(vec![b.softmax(v[0], 1)?])));
    all_kernels(&check("softmax0", &[x.clone()], 1e-5, &|b, v| Ok(vec![b.softmax(v[0], 0)?])));
    let scale = fixed(DType::F32, &[37], 2);
    let bias = fixed(DType::F32, &[37], 3);
    all_kernels(&check("layer_norm", &[x, scale, bias], 1e-4, &|b, v| {
        let norm = Composite::LayerNorm { axis: 1, epsilon: Float::new(1e-5) };
        Ok(vec![b.add1(norm, v)?])
    }));
}

#[test]
fn contractions() {
    let cases: &[(&str, &[usize], &[usize])] = &[
        ("mk,kn->mn", &[37, 53], &[53, 71]),
        ("mk,nk->mn", &[37, 53], &[71, 53]),
        ("km,kn->mn", &[53, 37], &[53, 71]),
        ("bmk,bkn->bmn", &[3, 17, 19], &[3, 19, 23]),
        ("bmk,kn->bmn", &[3, 17, 19], &[19, 23]),
        ("bmhd,bnhd->bhmn", &[2, 9, 4, 16], &[2, 11, 4, 16]),
        ("bhmn,bnhd->bmhd", &[2, 4, 9, 11], &[2, 11, 4, 16]),
        ("mk,kn->nm", &[37, 53], &[53, 71]),
        ("mk,k->m", &[37, 53], &[53]),
        ("k,kn->n", &[53], &[53, 71]),
        ("k,k->", &[53], &[53]),
        ("m,n->mn", &[37], &[71]),
        ("mab,abn->mn", &[5, 6, 7], &[6, 7, 33]),
    ];
    for (spec, a, w) in cases {
        for constant in [false, true] {
            let weights = tensor(DType::F32, w, 9);
            let mut inputs = vec![fixed(DType::F32, a, 1)];
            if !constant {
                inputs.push((Type::Tensor(weights.ty()), weights.clone()));
            }
            let name = format!("{spec} constant={constant}");
            all_kernels(&check(&name, &inputs, 1e-4, &|b, v| {
                let w = if constant { b.constant(weights.clone())? } else { v[1] };
                let y = b.einsum(spec, v[0], w)?;
                Ok(vec![b.ew("relu", &[y])?])
            }));
        }
    }
}

fn conv(groups: i64, layout: Layout, stride: i64, dilation: i64, pad: i64, rank: usize) -> Conv {
    Conv::Forward {
        strides: vec![stride; rank],
        dilations: vec![dilation; rank],
        pads: vec![(Dim::known(pad), Dim::known(pad)); rank],
        groups,
        layout,
        out: DType::F32,
    }
}

#[test]
fn convolutions() {
    for layout in [Layout::ChannelsFirst, Layout::ChannelsLast] {
        for (c, o, groups, kernel, stride, dilation, pad) in [
            (8, 12, 1, 3, 1, 1, 1),
            (8, 12, 1, 1, 1, 1, 0),
            (8, 12, 1, 3, 2, 1, 0),
            (8, 16, 2, 3, 1, 2, 2),
            (6, 6, 6, 3, 1, 1, 1),
            (3, 5, 1, 5, 2, 1, 2),
        ] {
            let dims = match layout {
                Layout::ChannelsFirst => [2, c, 9, 11],
                Layout::ChannelsLast => [2, 9, 11, c],
            };
            let w = tensor(DType::F32, &[o, c / groups, kernel, kernel], 5);
            let name = format!("conv {layout:?} {c} {o} {groups} {kernel} {stride} {dilation} {pad}");
            all_kernels(&check(&name, &[fixed(DType::F32, &dims, 1)], 1e-4, &|b, v| {
                let w = b.constant(w.clone())?;
                let op = conv(groups as i64, layout, stride, dilation, pad, 2);
                let y = b.add1(op, &[v[0], w])?;
                Ok(vec![b.ew("relu", &[y])?])
            }));
        }
    }
}

/// Convolutions that pay with transformed tiles, with and without them, on every tier of the machine.
#[test]
fn convolutions_by_tiles_and_by_taps() {
    for (images, size, channels, filters, pad) in [("", [20, 23], 32, 48, 1), ("n", [14, 14], 24, 33, 0)] {
        let w = tensor(DType::F32, &[filters, channels, 3, 3], 5);
        let input = [(images, 2), ("", size[0]), ("", size[1]), ("", channels)];
        let (ty, x) = symbolic(DType::F32, &input, 1);
        let output = [2, size[0] + 2 * pad - 2, size[1] + 2 * pad - 2, filters];
        let residual =
            symbolic(DType::F32, &[(images, 2), ("", output[1]), ("", output[2]), ("", filters)], 2);
        let mut module = Module::new();
        let mut b = GraphBuilder::new(&mut module, "main");
        let (x_value, r_value) = (b.input("x", ty), b.input("r", residual.0));
        let w = b.constant(w).unwrap();
        let op = conv(1, Layout::ChannelsLast, 1, 1, pad as i64, 2);
        let y = b.add1(op, &[x_value, w]).unwrap();
        let y = b.ew("add", &[y, r_value]).unwrap();
        let y = b.ew("relu", &[y]).unwrap();
        b.output("y", y);
        let id = b.finish();
        module.add_entry(id);
        let data = [Datum::Tensor(x), Datum::Tensor(residual.1)];
        let expected = Evaluator::new(&module).run(id, &data).unwrap();
        let Datum::Tensor(expected) = &expected[0] else { panic!("no tensor") };
        for tier in [Tier::X86V2, Tier::X86V3, Tier::X86V4, Tier::Aarch64] {
            for winograd in [false, true] {
                let options = Options { tier, winograd, ..Options::default() };
                let compiled = compile(&module, &options).unwrap();
                let tiled = compiled.kernel_texts.iter().any(|t| t.contains("scratch"));
                assert_eq!(tiled, winograd, "{}", compiled.kernel_texts.join("\n"));
                if !tier.is_supported() {
                    continue;
                }
                let texts = compiled.kernel_texts.clone();
                let exe = Executable::from_image(compiled.image).unwrap();
                let session = Session::new(Arc::new(exe), SessionOptions::default());
                let actual = session.run("main", &data).unwrap();
                let Datum::Tensor(actual) = &actual[0] else { panic!("no tensor") };
                compare(&format!("{}, tiles {winograd}", tier.name()), expected, actual, 1e-4, &texts);
            }
        }
    }
}

#[test]
fn convolution_ranks_and_transposed() {
    for rank in [1usize, 3] {
        let dims: Vec<usize> = [&[1, 4], &vec![6; rank][..]].concat();
        let w: Vec<usize> = [&[5, 4], &vec![3; rank][..]].concat();
        let inputs = [fixed(DType::F32, &dims, 1), fixed(DType::F32, &w, 2)];
        all_kernels(&check("rank", &inputs, 1e-4, &|b, v| {
            Ok(vec![b.add1(conv(1, Layout::ChannelsFirst, 1, 1, 1, rank), v)?])
        }));
    }
    let inputs = [fixed(DType::F32, &[1, 4, 5, 6], 1), fixed(DType::F32, &[4, 3, 3, 3], 2)];
    all_kernels(&check("transposed", &inputs, 1e-4, &|b, v| {
        let op = Conv::Transposed {
            strides: vec![2, 2],
            dilations: vec![1, 1],
            pads: vec![(Dim::known(1), Dim::known(1)); 2],
            output_pads: vec![Dim::known(1); 2],
            groups: 1,
            layout: Layout::ChannelsFirst,
        };
        Ok(vec![b.add1(op, v)?])
    }));
}

#[test]
fn pools() {
    let kinds =
        [WindowKind::Max, WindowKind::Average, WindowKind::AverageWithPad, WindowKind::L1, WindowKind::L2];
    for layout in [Layout::ChannelsFirst, Layout::ChannelsLast] {
        for kind in kinds {
            for ceil_mode in [false, true] {
                let x = fixed(DType::F32, &[2, 10, 9, 8], 1);
                all_kernels(&check("pool", &[x], 1e-5, &|b, v| {
                    let op = Window::Pool {
                        kind,
                        kernel: vec![3, 3],
                        strides: vec![2, 2],
                        dilations: vec![1, 1],
                        pads: vec![(Dim::known(1), Dim::known(1)); 2],
                        ceil_mode,
                        layout,
                    };
                    Ok(vec![b.add1(op, v)?])
                }));
            }
        }
    }
}

#[test]
fn means_of_windows_in_the_padding() {
    for kind in [WindowKind::Average, WindowKind::AverageWithPad] {
        for ceil_mode in [false, true] {
            let x = fixed(DType::F32, &[2, 10, 4, 5], 1);
            all_kernels(&check("pool", &[x], 1e-5, &|b, v| {
                let op = Window::Pool {
                    kind,
                    kernel: vec![2, 2],
                    strides: vec![1, 2],
                    dilations: vec![1, 2],
                    pads: vec![(Dim::known(3), Dim::known(2)), (Dim::known(4), Dim::known(3))],
                    ceil_mode,
                    layout: Layout::ChannelsFirst,
                };
                Ok(vec![b.add1(op, v)?])
            }));
        }
    }
}

#[test]
fn quantization() {
    let x = fixed(DType::F32, &[4, 6], 1);
    all_kernels(&check("quantize", &[x], 1e-6, &|b, v| {
        let scale = b.scalar(DType::F32, 0.05)?;
        let zero = b.constant(Tensor::scalar(3u8))?;
        let q = b.add1(
            Quant::Quantize { to: DType::U8, axis: None, block: 0, saturate: true, inverse: false },
            &[v[0], scale, zero],
        )?;
        let d = b.add1(Quant::Dequantize { to: DType::F32, axis: None, block: 0 }, &[q, scale, zero])?;
        Ok(vec![q, d])
    }));
}

#[test]
fn integer_contraction() {
    let inputs = [fixed(DType::U8, &[7, 40], 1), fixed(DType::I8, &[40, 9], 2)];
    all_kernels(&check("int8", &inputs, 0.0, &|b, v| {
        let spec = "mk,kn->mn".parse().map_err(InferError::new)?;
        Ok(vec![b.add1(Contract::Einsum { spec, out: DType::I32 }, v)?])
    }));
}

#[test]
fn values_that_pass_through() {
    let x = fixed(DType::F32, &[4, 6], 1);
    check("pass", &[x], 0.0, &|b, v| {
        let c = b.constant(tensor(DType::F32, &[3], 4))?;
        let r = b.reshape(v[0], &[Dim::known(24)])?;
        let n = b.ew("neg", &[v[0]])?;
        let m = b.reshape(n, &[Dim::known(6), Dim::known(4)])?;
        Ok(vec![v[0], c, r, n, m, v[0]])
    });
}

#[test]
fn reduce_of_everything_feeds_elementwise() {
    let x = fixed(DType::F32, &[300, 40], 1);
    check("norm", &[x], 1e-4, &|b, v| {
        let n = b.add1(Reduce::Axes { kind: ReduceKind::L2, axes: vec![0, 1], keepdims: true }, v)?;
        Ok(vec![b.ew("div", &[v[0], n])?])
    });
    let _ = Op::ew("add");
}
