//! Attention as one kernel against the reference evaluator: heads, groups, masks, lengths that are no whole vectors or
//! more than one block of queries, and what stays three kernels.

use kiln::ir::op::Composite;
use kiln::ir::{
    Build, DType, Datum, Dim, Evaluator, Float, GraphBuilder, InferError, Module, Tensor, Type, Value,
};
use kiln::runtime::SessionOptions;
use kiln::{Options, compile};

/// Numbers in [-1, 1), of which every 11th is `special`.
fn numbers(dims: &[usize], seed: u64, special: Option<f32>) -> Tensor {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    let count = dims.iter().product();
    let values: Vec<f32> =
        (0..count).map(|i: usize| special.filter(|_| i % 11 == 3).unwrap_or_else(&mut next)).collect();
    Tensor::from_slice(dims, &values).unwrap()
}

type Body<'a> = &'a dyn Fn(&mut GraphBuilder<'_>, &[Value]) -> Result<Value, InferError>;

/// Compiles a graph, compares what it computes with 1 and 3 threads, and gives the number of its kernels with
/// contractions. Numbers of rows and columns of a matrix that are among `lengths` show at run time only.
fn check(name: &str, inputs: &[Tensor], lengths: &[usize], body: Body<'_>) -> usize {
    let mut module = Module::new();
    let mut b = GraphBuilder::new(&mut module, "main");
    let values: Vec<Value> = (inputs.iter().enumerate())
        .map(|(i, t)| {
            let matrix = t.dims().len() - 2;
            let known = |(at, n): (usize, &usize)| match at >= matrix && lengths.contains(n) {
                true => Dim::symbol(&format!("L{n}")),
                false => Dim::known(*n as i64),
            };
            let dims: Vec<Dim> = t.dims().iter().enumerate().map(known).collect();
            b.input(&format!("x{i}"), Type::tensor(DType::F32, dims))
        })
        .collect();
    let out = body(&mut b, &values).unwrap_or_else(|e| panic!("{name}: {e}"));
    b.output("y", out);
    let id = b.finish();
    module.add_entry(id);
    let data: Vec<Datum> = inputs.iter().map(|t| Datum::Tensor(t.clone())).collect();
    let expected = Evaluator::new(&module).run(id, &data).unwrap();
    let run = |threads: usize| {
        let compiled = compile(module.clone(), &Options::default()).unwrap_or_else(|e| panic!("{name}: {e}"));
        let kernels = compiled.kernel_texts.iter().filter(|t| t.contains("contract f32")).count();
        let session = compiled.into_session(SessionOptions { threads: Some(threads), ..Default::default() });
        let [Datum::Tensor(out)] = &session.unwrap().run("main", &data).unwrap()[..] else {
            panic!("{name}")
        };
        (out.to_f64s().unwrap(), kernels)
    };
    let Datum::Tensor(expected) = &expected[0] else { panic!("{name}: no tensor") };
    let ((one, kernels), (three, _)) = (run(1), run(3));
    for (i, (e, a)) in expected.to_f64s().unwrap().into_iter().zip(&one).enumerate() {
        let close = e == *a || (e.is_nan() && a.is_nan()) || (e - a).abs() <= 1e-5 * e.abs().max(1.0);
        assert!(close, "{name}[{i}]: expected {e}, got {a}");
    }
    assert!(one.iter().zip(&three).all(|(a, b)| a.to_bits() == b.to_bits()), "{name}: threads");
    kernels
}

/// A composite over queries `[b, h, l, d]`, keys and values of `groups` heads and `s` positions.
fn composite(
    [h, groups, l, s, d]: [usize; 5],
    (masked, causal): (Option<f32>, bool),
    symbolic: bool,
) -> usize {
    let mut inputs = vec![
        numbers(&[2, h, l, d], 1, None),
        numbers(&[2, groups, s, d], 2, None),
        numbers(&[2, groups, s, d], 3, None),
    ];
    inputs.extend(masked.map(|m| numbers(&[1, 1, l, s], 4, Some(m))));
    let op = Composite::Attention {
        scale: Float::new(0.3),
        mask: masked.is_some(),
        causal,
        causal_from_end: false,
        softcap: Float::new(0.0),
    };
    let name = format!("{h} of {groups} heads, {l} x {s} x {d}, mask {masked:?}, causal {causal}");
    let lengths = if symbolic { vec![l, s] } else { vec![] };
    check(&name, &inputs, &lengths, &|b, x| Ok(b.add(op.clone().into(), x)?[0]))
}

#[test]
fn heads_groups_masks_and_lengths() {
    let hidden = Some(f32::NEG_INFINITY);
    for shape in [[2, 2, 16, 16, 32], [3, 3, 19, 37, 33], [2, 1, 70, 40, 64], [4, 2, 33, 128, 40]] {
        for (mask, causal) in [(None, false), (Some(0.5), false), (hidden, false), (None, true)] {
            let kernels = composite(shape, (mask, causal), false);
            assert_eq!(kernels, 1, "{shape:?}, mask {mask:?}, causal {causal}");
        }
    }
}

#[test]
fn more_than_one_block_of_queries() {
    assert_eq!(composite([1, 1, 300, 200, 32], (None, false), false), 1);
    assert_eq!(composite([1, 1, 130, 1500, 32], (Some(0.25), false), false), 1);
}

#[test]
fn more_than_one_block_of_keys() {
    let hidden = Some(f32::NEG_INFINITY);
    for mask in [None, Some(0.5), hidden] {
        assert_eq!(composite([1, 1, 40, 9000, 32], (mask, false), false), 1, "{mask:?}");
    }
    assert_eq!(composite([1, 1, 300, 1500, 16], (None, true), false), 1);
}

#[test]
fn no_keys() {
    assert_eq!(composite([2, 2, 6, 0, 8], (None, false), true), 1);
}

#[test]
fn lengths_that_show_at_run_time() {
    let hidden = Some(f32::NEG_INFINITY);
    for shape in
        [[2, 2, 16, 16, 32], [3, 3, 19, 37, 33], [2, 1, 70, 40, 64], [1, 1, 1, 1, 8], [1, 1, 130, 1100, 64]]
    {
        for (mask, causal) in [(None, false), (Some(0.5), false), (hidden, false), (None, true)] {
            assert_eq!(
                composite(shape, (mask, causal), true),
                1,
                "{shape:?}, mask {mask:?}, causal {causal}"
            );
        }
    }
}

/// Rows of which the first block of keys is hidden, or all, in softmax and in attention.
#[test]
fn hidden_blocks() {
    let (l, s, d) = (24, 1100, 16);
    let mut mask = vec![0.0f32; l * s];
    for (row, line) in mask.chunks_mut(s).enumerate() {
        let hidden = [0..600, 0..s, 512..s, 0..512][row % 4].clone();
        line[hidden].fill(f32::NEG_INFINITY);
        // Scores far below zero before a block of hidden ones.
        line.iter_mut().for_each(|m| *m -= [0.0, 300.0, 150.0][row % 3]);
    }
    let mask = Tensor::from_slice(&[1, l, s], &mask).unwrap();
    let inputs =
        [numbers(&[1, l, d], 1, None), numbers(&[1, s, d], 2, None), numbers(&[1, s, d], 3, None), mask];
    for lengths in [vec![], vec![l, s]] {
        for guarded in [false, true] {
            let name = format!("softmax, guarded {guarded}, symbolic {lengths:?}");
            let kernels = check(&name, &inputs, &lengths, &|b, x| {
                let scores = b.einsum("bld,bsd->bls", x[0], x[1])?;
                let scores = b.ew("add", &[scores, x[3]])?;
                let mut weights = b.softmax(scores, 2)?;
                if guarded {
                    let lost = b.ew("is_nan", &[weights])?;
                    let zero = b.scalar(DType::F32, 0.0)?;
                    weights = b.ew("where", &[lost, zero, weights])?;
                }
                b.einsum("bls,bse->ble", weights, x[2])
            });
            assert_eq!(kernels, 1, "{name}");
        }
    }
    let lead = |t: &Tensor| t.reshaped(&[&[1], t.dims()].concat()).unwrap();
    let inputs: Vec<Tensor> = inputs.iter().map(lead).collect();
    let op = Composite::Attention {
        scale: Float::new(0.3),
        mask: true,
        causal: false,
        causal_from_end: false,
        softcap: Float::new(0.0),
    };
    assert_eq!(check("attention", &inputs, &[], &|b, x| Ok(b.add(op.clone().into(), x)?[0])), 1);
}

#[test]
fn rows_that_are_no_softmax_stay_in_parts_where_lengths_are_not_known() {
    let inputs = [
        numbers(&[2, 3, 20, 16], 1, None),
        numbers(&[2, 3, 20, 16], 2, None),
        numbers(&[2, 3, 20, 16], 3, None),
    ];
    let kernels = check("relu attention", &inputs, &[20], &|b, x| {
        let scores = b.einsum("bhld,bhsd->bhls", x[0], x[1])?;
        let positive = b.ew("relu", &[scores])?;
        let sum = b.reduce(kiln::ir::op::ReduceKind::Sum, positive, &[3], true)?;
        let weights = b.ew("div", &[positive, sum])?;
        b.einsum("bhls,bhse->bhle", weights, x[2])
    });
    assert!(kernels > 1);
}

#[test]
fn softmax_with_what_follows_it() {
    for special in [None, Some(f32::NEG_INFINITY), Some(f32::NAN)] {
        let inputs = [
            numbers(&[2, 20, 48], 1, None),
            numbers(&[2, 30, 48], 2, None),
            numbers(&[2, 30, 32], 3, None),
            numbers(&[1, 20, 30], 4, special),
        ];
        let kernels = check(&format!("{special:?}"), &inputs, &[], &|b, x| {
            let scores = b.einsum("bld,bsd->bls", x[0], x[1])?;
            let scores = b.ew("add", &[scores, x[3]])?;
            let weights = b.softmax(scores, 2)?;
            let lost = b.ew("is_nan", &[weights])?;
            let zero = b.ew("sub", &[weights, weights])?;
            let zero = b.ew("mul", &[zero, zero])?;
            let weights = b.ew("where", &[lost, x[3], weights])?;
            let weights = b.ew("add", &[weights, zero])?;
            let y = b.einsum("bls,bse->ble", weights, x[2])?;
            b.ew("tanh", &[y])
        });
        assert_eq!(kernels, 1, "{special:?}");
    }
}
