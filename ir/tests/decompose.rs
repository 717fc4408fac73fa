//! Decompositions: every composite's body builds and gives the types that inference gives the composite.

use kiln_ir::op::*;
use kiln_ir::{Build, DType, Dim, Float, GraphBuilder, Module, Type, Value, decompose};

/// `f32[2, N, 4]`-like text to a type.
fn ty(text: &str) -> Type {
    Attr::read(&mut Cursor::new(text)).unwrap()
}

#[track_caller]
fn agrees(op: Composite, operands: &[&str]) {
    let mut m = Module::new();
    let mut b = GraphBuilder::new(&mut m, "g");
    let operands: Vec<Value> = operands.iter().map(|t| b.input("x", ty(t))).collect();
    let whole = b.add(op.clone().into(), &operands).unwrap();
    let body = decompose(&op, &mut b, &operands).unwrap_or_else(|e| panic!("{op:?}: {e}"));
    assert_eq!(whole.len(), body.len());
    for (&w, &v) in whole.iter().zip(&body) {
        let (w, v) = (b.ty(w), b.ty(v));
        assert!(w.is_compatible(v), "{op:?}: {w} and {v}");
        let rank = |t: &Type| t.as_tensor().and_then(|t| t.shape.rank());
        assert_eq!(rank(w), rank(v), "{op:?}: {w} and {v}");
    }
}

fn f(v: f64) -> Float {
    Float::new(v)
}

fn gates(kinds: &[RnnActivation]) -> Vec<RnnGate> {
    kinds.iter().map(|&kind| RnnGate { kind, alpha: f(0.5), beta: f(0.25) }).collect()
}

#[test]
fn softmax_family() {
    for x in ["f32[2, 3]", "f16[N, M]", "f64[1, 0]"] {
        agrees(Composite::Softmax { axis: 1 }, &[x]);
        agrees(Composite::LogSoftmax { axis: 0 }, &[x]);
        agrees(Composite::Hardmax { axis: 1 }, &[x]);
        agrees(Composite::LogSumExp { axes: vec![0], keepdims: false }, &[x]);
        agrees(Composite::LogSumExp { axes: vec![0, 1], keepdims: true }, &[x]);
    }
}

#[test]
fn normalizations() {
    let epsilon = f(1e-5);
    agrees(Composite::LayerNorm { axis: 1, epsilon }, &["f16[N, 4, 8]", "f16[4, 8]", "f16[4, 8]"]);
    agrees(Composite::RmsNorm { axis: 2, epsilon }, &["bf16[N, M, 8]", "bf16[8]"]);
    let channels = "f32[6]";
    for x in ["f32[N, 6, H, W]", "f32[2, 6]", "f16[2, 6, 5]"] {
        agrees(Composite::BatchNorm { epsilon }, &[x, channels, channels, channels, channels]);
        agrees(Composite::Lrn { size: 4, alpha: f(1e-4), beta: f(0.75), bias: f(1.0) }, &[x]);
        agrees(Composite::GroupNorm { groups: 3, epsilon }, &[x, channels, channels]);
    }
    agrees(Composite::InstanceNorm { epsilon }, &["f32[N, 6, H, W]", channels, channels]);
}

#[test]
fn attention_family() {
    let attention = |mask, causal, causal_from_end| Composite::Attention {
        scale: f(0.125),
        mask,
        causal,
        causal_from_end,
        softcap: f(if mask { 30.0 } else { 0.0 }),
    };
    agrees(attention(false, true, true), &["f32[B, 4, L, 8]", "f32[B, 4, S, 8]", "f32[B, 4, S, 6]"]);
    agrees(attention(false, true, false), &["f16[2, 4, 3, 8]", "f16[2, 2, 5, 8]", "f16[2, 2, 5, 8]"]);
    let (q, kv, mask) = ("f32[B, 4, L, 8]", "f32[B, 2, S, 8]", "f32[B, 1, L, S]");
    agrees(attention(true, false, false), &[q, kv, kv, mask]);
    agrees(Composite::Rope { interleaved: false, rotary_dim: 0 }, &[q, "f32[B, L, 4]", "f32[B, L, 4]"]);
    agrees(Composite::Rope { interleaved: true, rotary_dim: 4 }, &[q, "f32[L, 2]", "f32[L, 2]"]);
}

#[test]
fn recurrent_layers() {
    use RnnActivation::{HardSigmoid, Sigmoid, Tanh};
    for (time, lengths) in [("5", true), ("T", true), ("40", false)] {
        for direction in [Direction::Forward, Direction::Reverse, Direction::Bidirectional] {
            let dirs = if direction == Direction::Bidirectional { 2 } else { 1 };
            let operands = |gates: i64, states: usize, peepholes: bool| {
                let mut all = vec![
                    format!("f32[{time}, B, 3]"),
                    format!("f32[{dirs}, {}, 3]", gates * 4),
                    format!("f32[{dirs}, {}, 4]", gates * 4),
                    format!("f32[{dirs}, {}]", gates * 8),
                ];
                all.extend((0..states).map(|_| format!("f32[{dirs}, B, 4]")));
                all.extend(peepholes.then(|| format!("f32[{dirs}, 12]")));
                all.extend(lengths.then(|| "i32[B]".to_owned()));
                all
            };
            let check = |op: Composite, operands: Vec<String>| {
                agrees(op, &operands.iter().map(String::as_str).collect::<Vec<_>>());
            };
            let (hidden, clip) = (4, Some(f(3.0)));
            let lstm = gates(&[Sigmoid, Tanh, Tanh].repeat(dirs));
            for input_forget in [false, true] {
                let gates = lstm.clone();
                let op = Composite::Lstm { hidden, direction, gates, clip, input_forget, lengths };
                check(op, operands(4, 2, true));
            }
            let gru = gates(&[HardSigmoid, Tanh].repeat(dirs));
            for linear_before_reset in [false, true] {
                let gates = gru.clone();
                let op = Composite::Gru { hidden, direction, gates, clip, linear_before_reset, lengths };
                check(op, operands(3, 1, false));
            }
            let gates = gates(&[Tanh].repeat(dirs));
            check(Composite::Rnn { hidden, direction, gates, clip, lengths }, operands(1, 1, false));
        }
    }
}

#[test]
fn resizes() {
    for &mode in Interpolation::ALL {
        for &coordinates in CoordinateMode::ALL {
            for &nearest in NearestMode::ALL {
                for antialias in [false, true] {
                    let op = |sizes: Vec<Dim>, scales: Vec<Option<Float>>| Composite::Resize {
                        sizes,
                        scales,
                        mode,
                        coordinates,
                        nearest,
                        cubic_a: f(-0.75),
                        antialias,
                        exclude_outside: antialias,
                        extrapolation: f(7.0),
                        roi: [0.0, 0.1, 1.0, 0.9].map(Float::new).to_vec(),
                    };
                    let scales = vec![Some(f(1.0)), Some(f(0.5))];
                    agrees(op(vec![Dim::known(2), Dim::known(3)], scales.clone()), &["u8[2, 6]"]);
                    let half = Dim::symbol("W").floor_div(&Dim::known(2));
                    agrees(op(vec![Dim::known(2), half], scales), &["f16[2, W]"]);
                    if !antialias {
                        agrees(op(vec![Dim::known(2), Dim::symbol("M")], vec![None, None]), &["f32[2, W]"]);
                    }
                }
            }
        }
    }
}

#[test]
fn dynamic_quantization() {
    agrees(Composite::DynamicQuantize {}, &["f32[N, 3]"]);
}

#[test]
fn an_antialiased_resize_by_a_computed_scale_is_refused() {
    let mut m = Module::new();
    let mut b = GraphBuilder::new(&mut m, "g");
    let x = b.input("x", Type::tensor(DType::F32, [Dim::symbol("W")]));
    let op = Composite::Resize {
        sizes: vec![Dim::symbol("M")],
        scales: vec![None],
        mode: Interpolation::Linear,
        coordinates: CoordinateMode::HalfPixel,
        nearest: NearestMode::Floor,
        cubic_a: f(-0.75),
        antialias: true,
        exclude_outside: false,
        extrapolation: f(0.0),
        roi: vec![],
    };
    let e = decompose(&op, &mut b, &[x]).unwrap_err();
    assert!(e.to_string().contains("constant scale"), "{e}");
}
