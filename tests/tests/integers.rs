//! Quantized graphs, compiled: products on integers give what the reference evaluator makes of the dequantized operands, up
//! to one quantization step.

use kiln::ir::op::{Contract, Conv, Layout, Movement, Quant, Window, WindowKind};
use kiln::ir::{Build, DType, Datum, Dim, Evaluator, GraphBuilder, Module, Tensor, Type, Value};
use kiln::runtime::SessionOptions;
use kiln::runtime::cpu::Tier;
use kiln::runtime::program::{Slot, Storage};
use kiln::{Compiled, Options, compile};

/// Numbers that look random, the same each time.
fn noise(i: usize, seed: usize) -> usize {
    (i * 7919 + seed * 104_729 + (i / 7) * 31) % 10_007
}

fn bytes(dims: &[usize], seed: usize) -> Tensor {
    let all: Vec<u8> = (0..dims.iter().product()).map(|i| (noise(i, seed) % 256) as u8).collect();
    Tensor::from_slice(dims, &all).unwrap()
}

fn signed(dims: &[usize], seed: usize) -> Tensor {
    let all: Vec<i8> =
        (0..dims.iter().product()).map(|i| ((noise(i, seed) % 255) as i16 - 127) as i8).collect();
    Tensor::from_slice(dims, &all).unwrap()
}

fn scales(count: usize, seed: usize) -> Vec<f32> {
    (0..count).map(|i| 0.001 + noise(i, seed) as f32 / 10_007.0 / 100.0).collect()
}

struct Weights {
    dims: Vec<usize>,
    axis: usize,
}

fn dequantize(b: &mut GraphBuilder<'_>, x: Value, scale: f32, zero: u8) -> Value {
    let (scale, zero) =
        (b.scalar(DType::F32, f64::from(scale)).unwrap(), b.scalar(DType::U8, f64::from(zero)).unwrap());
    b.add1(Quant::Dequantize { to: DType::F32, axis: None, block: 0 }, &[x, scale, zero]).unwrap()
}

fn quantize(b: &mut GraphBuilder<'_>, x: Value, scale: f32, zero: u8) -> Value {
    let (scale, zero) =
        (b.scalar(DType::F32, f64::from(scale)).unwrap(), b.scalar(DType::U8, f64::from(zero)).unwrap());
    b.add1(
        Quant::Quantize { to: DType::U8, axis: None, block: 0, saturate: true, inverse: false },
        &[x, scale, zero],
    )
    .unwrap()
}

fn weights(b: &mut GraphBuilder<'_>, w: &Weights, seed: usize) -> Value {
    let count = w.dims[w.axis];
    let q = b.constant(signed(&w.dims, seed)).unwrap();
    let scale = b.constant_of(&scales(count, seed)).unwrap();
    let zero = b.constant_of(&vec![0i8; count]).unwrap();
    b.add1(Quant::Dequantize { to: DType::F32, axis: Some(w.axis), block: 0 }, &[q, scale, zero]).unwrap()
}

fn bias(b: &mut GraphBuilder<'_>, y: Value, dims: &[usize]) -> Value {
    let values: Vec<f32> = scales(dims.iter().product(), 5).iter().map(|s| s * 100.0 - 0.3).collect();
    let c = b.constant(Tensor::from_slice(dims, &values).unwrap()).unwrap();
    b.ew("add", &[y, c]).unwrap()
}

struct Convolution {
    strides: i64,
    pad: i64,
    dilation: i64,
    groups: i64,
}

fn convolve(b: &mut GraphBuilder<'_>, x: Value, w: Value, c: &Convolution) -> Value {
    let pads = vec![(Dim::known(c.pad), Dim::known(c.pad)); 2];
    let op = Conv::Forward {
        strides: vec![c.strides; 2],
        dilations: vec![c.dilation; 2],
        pads,
        groups: c.groups,
        layout: Layout::ChannelsFirst,
        out: DType::F32,
    };
    b.add1(op, &[x, w]).unwrap()
}

/// A module of inputs of bytes with these dims.
fn module(inputs: &[&[usize]], build: impl FnOnce(&mut GraphBuilder<'_>, &[Value]) -> Vec<Value>) -> Module {
    let mut module = Module::new();
    let mut b = GraphBuilder::new(&mut module, "main");
    let fixed = |dims: &[usize]| Type::fixed(DType::U8, &dims.iter().map(|&d| d as i64).collect::<Vec<_>>());
    let values: Vec<Value> =
        inputs.iter().enumerate().map(|(i, dims)| b.input(&format!("x{i}"), fixed(dims))).collect();
    for (i, v) in build(&mut b, &values).into_iter().enumerate() {
        b.output(&format!("y{i}"), v);
    }
    let id = b.finish();
    module.add_entry(id);
    module
}

/// Compiles and runs on two threads, and compares with the evaluator: bytes may differ by one, floats by rounding. Gives how
/// many products in i32 the passes made.
fn agree(module: &Module, inputs: &[Datum]) -> usize {
    let compiled = compile(module.clone(), &Options::default()).unwrap();
    let products = compiled.passes.passes.iter().flat_map(|p| &p.applied);
    let products = products.filter(|(rule, _)| rule.starts_with("integer-")).map(|(_, n)| n).sum();
    assert_agrees(module, compiled, inputs);
    products
}

/// As [`agree`], for every instruction set of this machine that has vectors.
fn agree_on_all_tiers(module: &Module, inputs: &[Datum], look: impl Fn(&Compiled)) {
    for tier in Tier::ALL.into_iter().filter(|t| *t != Tier::X86V1 && t.is_supported()) {
        let compiled = compile(module.clone(), &Options { tier: Some(tier), ..Default::default() }).unwrap();
        look(&compiled);
        assert_agrees(module, compiled, inputs);
    }
}

fn assert_agrees(module: &Module, compiled: Compiled, inputs: &[Datum]) {
    let expected = Evaluator::new(module).run(module.entries()[0], inputs).unwrap();
    assert!(compiled.summary.slow.is_empty(), "{:?}", compiled.summary.slow);
    let session = compiled.into_session(SessionOptions { threads: Some(2), ..Default::default() }).unwrap();
    let found = session.run("main", inputs).unwrap();
    for (a, e) in found.iter().zip(&expected) {
        let (a, e) = (a.as_tensor().unwrap(), e.as_tensor().unwrap());
        assert_eq!((a.dtype(), a.dims()), (e.dtype(), e.dims()));
        let (x, y) = (a.to_f64s().unwrap(), e.to_f64s().unwrap());
        let bound = |y: f64| if e.dtype().is_float() { 1e-4 * y.abs().max(1.0) } else { 1.0 };
        for (i, (x, y)) in x.iter().zip(&y).enumerate() {
            assert!((x - y).abs() <= bound(*y), "element {i}: {x}, not {y}");
        }
        let distinct: std::collections::BTreeSet<u64> = y.iter().map(|v| v.to_bits()).collect();
        assert!(distinct.len() > 8, "the case shows nothing: {distinct:?}");
    }
}

#[test]
fn convolutions_of_all_kinds() {
    let dense = |k: usize, i: usize, o: usize| vec![o, i, k, k];
    // Input channels, weights, and the convolution.
    let cases = [
        (3, dense(3, 3, 16), Convolution { strides: 2, pad: 1, dilation: 1, groups: 1 }),
        (16, dense(1, 16, 24), Convolution { strides: 1, pad: 0, dilation: 1, groups: 1 }),
        (16, dense(3, 16, 16), Convolution { strides: 1, pad: 1, dilation: 1, groups: 1 }),
        (24, dense(3, 24, 20), Convolution { strides: 2, pad: 2, dilation: 2, groups: 1 }),
        (32, dense(3, 1, 32), Convolution { strides: 1, pad: 1, dilation: 1, groups: 32 }),
        (32, dense(5, 1, 32), Convolution { strides: 2, pad: 2, dilation: 1, groups: 32 }),
        (16, dense(3, 8, 16), Convolution { strides: 1, pad: 1, dilation: 1, groups: 2 }),
    ];
    for (channels, dims, conv) in cases {
        for zero in [0u8, 131] {
            let x_dims = [2, channels, 11, 9];
            let outputs = dims[0];
            let m = module(&[&x_dims], |b, x| {
                let x = dequantize(b, x[0], 0.02, zero);
                let w = weights(b, &Weights { dims: dims.clone(), axis: 0 }, 3);
                let y = convolve(b, x, w, &conv);
                let y = bias(b, y, &[outputs, 1, 1]);
                let y = b.ew("relu", &[y]).unwrap();
                vec![quantize(b, y, 0.05, 0)]
            });
            assert_eq!(agree(&m, &[Datum::Tensor(bytes(&x_dims, 1))]), 1, "{dims:?}");
        }
    }
}

#[test]
fn a_block_with_residual_and_pool_stays_in_bytes() {
    let x_dims = [1, 16, 12, 12];
    let m = module(&[&x_dims], |b, x| {
        let x = dequantize(b, x[0], 0.02, 7);
        let conv = Convolution { strides: 1, pad: 1, dilation: 1, groups: 1 };
        let w = weights(b, &Weights { dims: vec![16, 16, 3, 3], axis: 0 }, 3);
        let y = convolve(b, x, w, &conv);
        let y = bias(b, y, &[16, 1, 1]);
        let y = b.ew("relu", &[y]).unwrap();
        let y = quantize(b, y, 0.05, 0);
        let y = dequantize(b, y, 0.05, 0);
        let w = weights(b, &Weights { dims: vec![16, 16, 3, 3], axis: 0 }, 4);
        let y = convolve(b, y, w, &conv);
        let y = quantize(b, y, 0.1, 128);
        let y = dequantize(b, y, 0.1, 128);
        let y = b.ew("add", &[y, x]).unwrap();
        let y = b.ew("relu", &[y]).unwrap();
        let y = quantize(b, y, 0.1, 0);
        let y = dequantize(b, y, 0.1, 0);
        let pool = Window::Pool {
            kind: WindowKind::Max,
            kernel: vec![3, 3],
            strides: vec![2, 2],
            dilations: vec![1, 1],
            pads: vec![(Dim::known(1), Dim::known(1)); 2],
            ceil_mode: false,
            layout: Layout::ChannelsFirst,
        };
        let y = b.add1(pool, &[y]).unwrap();
        let y = quantize(b, y, 0.1, 0);
        let y = dequantize(b, y, 0.1, 0);
        let w = weights(b, &Weights { dims: vec![24, 16, 1, 1], axis: 0 }, 5);
        let y = convolve(b, y, w, &Convolution { pad: 0, ..conv });
        vec![quantize(b, y, 0.2, 100)]
    });
    assert_eq!(agree(&m, &[Datum::Tensor(bytes(&x_dims, 1))]), 3);
}

#[test]
fn contractions_with_rows_of_any_number() {
    for (rows, depth, columns) in [(1, 64, 48), (7, 96, 33), (128, 256, 64), (5, 9, 2), (3, 3000, 16)] {
        let m = module(&[&[2, rows, depth]], |b, x| {
            let x = dequantize(b, x[0], 0.02, 117);
            let w = weights(b, &Weights { dims: vec![columns, depth], axis: 0 }, 3);
            let w = b.add1(Movement::Transpose { perm: vec![1, 0] }, &[w]).unwrap();
            let spec = "bmk,kn->bmn".parse().unwrap();
            let y = b.add1(Contract::Einsum { spec, out: DType::F32 }, &[x, w]).unwrap();
            let y = bias(b, y, &[columns]);
            let z = b.ew("gelu", &[y]).unwrap();
            // The sums grow with the root of their depth.
            vec![y, quantize(b, z, 0.02 * (depth as f32).sqrt(), 10)]
        });
        assert_eq!(agree(&m, &[Datum::Tensor(bytes(&[2, rows, depth], 1))]), 1);
    }
}

/// Quantizes by multiplication, as the quantizer does.
fn quantize_by(b: &mut GraphBuilder<'_>, x: Value, inverse: f32, zero: u8) -> Value {
    let (inverse, zero) =
        (b.scalar(DType::F32, f64::from(inverse)).unwrap(), b.scalar(DType::U8, f64::from(zero)).unwrap());
    let op = Quant::Quantize { to: DType::U8, axis: None, block: 0, saturate: true, inverse: true };
    b.add1(op, &[x, inverse, zero]).unwrap()
}

#[test]
fn pixels_of_three_bytes_become_words() {
    for (height, width, zero) in [(9, 7, 0u8), (16, 33, 133), (40, 64, 7)] {
        let x_dims = [2, 3, height, width];
        let m = module(&[&x_dims], |b, x| {
            let x = b.cast(x[0], DType::F32).unwrap();
            // No product is near the middle between two steps.
            let step = b.scalar(DType::F32, 0.0131).unwrap();
            let x = b.ew("mul", &[x, step]).unwrap();
            let x = quantize_by(b, x, 30.0, zero);
            let x = dequantize(b, x, 1.0 / 30.0, zero);
            let w = weights(b, &Weights { dims: vec![20, 3, 3, 3], axis: 0 }, 3);
            let y = convolve(b, x, w, &Convolution { strides: 2, pad: 1, dilation: 1, groups: 1 });
            let y = bias(b, y, &[20, 1, 1]);
            let y = b.ew("relu", &[y]).unwrap();
            vec![quantize_by(b, y, 40.0, 0)]
        });
        agree_on_all_tiers(&m, &[Datum::Tensor(bytes(&x_dims, 1))], |compiled| {
            let applied = compiled.passes.passes.iter().flat_map(|p| &p.applied);
            let rules: Vec<&str> = applied.map(|(rule, _)| &**rule).collect();
            assert!(rules.contains(&"four-channels") && rules.contains(&"scaled-sums"), "{rules:?}");
        });
    }
}

#[test]
fn residual_sums_are_written_over_the_residual() {
    for (channels, height, width) in [(20, 9, 7), (64, 8, 8), (33, 5, 31)] {
        let x_dims = [1, channels, height, width];
        let square = |b: &mut GraphBuilder<'_>, k: usize, seed| {
            weights(b, &Weights { dims: vec![channels, channels, k, k], axis: 0 }, seed)
        };
        let wide = Convolution { strides: 1, pad: 1, dilation: 1, groups: 1 };
        let narrow = Convolution { pad: 0, ..wide };
        // A block takes and gives bytes that stand for numbers of this step and zero point.
        let block = |b: &mut GraphBuilder<'_>, x: Value, (inverse, zero): (f32, u8), seed| {
            let residual = dequantize(b, x, 1.0 / inverse, zero);
            let w = square(b, 3, seed);
            let y = convolve(b, residual, w, &wide);
            let y = b.ew("relu", &[y]).unwrap();
            let y = quantize_by(b, y, 3.0, 0);
            let y = dequantize(b, y, 1.0 / 3.0, 0);
            let w = square(b, 1, seed + 1);
            let y = convolve(b, y, w, &narrow);
            let y = bias(b, y, &[channels, 1, 1]);
            let y = b.ew("add", &[y, residual]).unwrap();
            quantize_by(b, y, 3.0, 90)
        };
        for read_later in [false, true] {
            let m = module(&[&x_dims], |b, x| {
                let x = dequantize(b, x[0], 0.02, 7);
                let w = square(b, 1, 3);
                let first = convolve(b, x, w, &narrow);
                let first = quantize_by(b, first, 8.0, 3);
                let second = block(b, first, (8.0, 3), 4);
                let third = block(b, second, (3.0, 90), 6);
                let y = dequantize(b, third, 1.0 / 3.0, 90);
                let w = square(b, 3, 8);
                let y = convolve(b, y, w, &wide);
                let y = quantize_by(b, y, 1.0, 100);
                if !read_later {
                    return vec![y];
                }
                let z = dequantize(b, first, 0.125, 3);
                let w = square(b, 1, 9);
                let z = convolve(b, z, w, &narrow);
                vec![y, quantize_by(b, z, 4.0, 100)]
            });
            agree_on_all_tiers(&m, &[Datum::Tensor(bytes(&x_dims, 1))], |compiled| {
                let function = &compiled.image.program.functions[0];
                let over = |slot: &&Slot| matches!(slot.storage, Storage::View { .. });
                let expected = if read_later { 1 } else { 2 };
                assert_eq!(function.slots.iter().filter(over).count(), expected);
            });
        }
    }
}
