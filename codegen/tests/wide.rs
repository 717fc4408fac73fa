//! Loops that the wide lowering treats in special ways: windows with padding over rows of pixels, long loops inside,
//! values beyond the register file, strided accesses, tails.

mod support;

use kiln_codegen::kir::{Access, Bound, Ix, Kernel, KernelBuilder, LoopKind};
use kiln_ir::{DType, Prim};
use proptest::prelude::*;
use support::{TIGHT, check, elements};

const F32: DType = DType::F32;

fn data(len: i64, seed: i64) -> Vec<u8> {
    elements(F32, (0..len).map(|i| ((i * 7 + seed * 3) % 23 - 11) as f64 * 0.125))
}

/// A channels-last window over `[h, w, c]`: sums of products, or the largest.
fn window([h, w, c]: [i64; 3], size: i64, stride: i64, combine: Prim) -> Kernel {
    let pad = (size - 1) / 2;
    let (oh, ow) = ((h + 2 * pad - size) / stride + 1, (w + 2 * pad - size) / stride + 1);
    let mut b = KernelBuilder::new("window");
    let (x, wt, out) = (b.input(F32), b.weights(F32), b.output(F32));
    let y = b.grid(oh);
    b.sequential(ow, |b, column| {
        b.vector(c, |b, channel| {
            let mut sum = b.literal(F32, if combine == Prim::Max { f64::NEG_INFINITY } else { 0.0 });
            for tap in 0..size * size {
                let (row, col) =
                    (y.clone() * stride + (tap / size - pad), column.clone() * stride + (tap % size - pad));
                let index = (row.clone() * w + col.clone()) * c + channel.clone();
                let bounds = vec![Bound::below(row, h), Bound::below(col, w)];
                let otherwise = if combine == Prim::Max { f64::NEG_INFINITY } else { 0.0 };
                let v = b.load_guarded(x, index, bounds, otherwise);
                let k = b.load(wt, channel.clone() + tap * c);
                sum = match combine {
                    Prim::Max => b.apply(Prim::Max, &[sum, v]),
                    _ => b.mul_add(v, k, sum),
                };
            }
            b.store(out, (y.clone() * ow + column.clone()) * c + channel, sum);
        });
    });
    b.finish().unwrap()
}

#[test]
fn windows_over_rows_of_pixels() {
    for shape in [[5, 9, 16], [4, 7, 24], [3, 3, 40], [6, 12, 8], [2, 1, 33]] {
        for (size, stride) in [(3, 1), (3, 2), (5, 1)] {
            for combine in [Prim::Add, Prim::Max] {
                let kernel = window(shape, size, stride, combine);
                let [h, w, c] = shape;
                let buffers = [data(h * w * c, 1), data(size * size * c, 2), data(h * w * c, 3)];
                check(&kernel, &buffers, &[], TIGHT);
            }
        }
    }
}

#[test]
fn long_reductions_inside_become_loops() {
    for (length, count) in [(1000, 20), (400, 37)] {
        let mut b = KernelBuilder::new("columns");
        let (x, out) = (b.input(F32), b.output(F32));
        b.vector(count, |b, i| {
            let (zero, low) = (b.literal(F32, 0.0), b.literal(F32, f64::NEG_INFINITY));
            let combine = [(Prim::Add, zero), (Prim::Max, low)];
            let scale = b.load(x, i.clone());
            let totals = b.reduce(LoopKind::Sequential, length, &combine, |b, k| {
                let v = b.load(x, k * count + i.clone());
                vec![b.apply(Prim::Mul, &[v, scale]), v]
            });
            let sum = b.apply(Prim::Sub, &[totals[0], totals[1]]);
            b.store(out, i, sum);
        });
        let kernel = b.finish().unwrap();
        let tolerance = support::Tolerance { relative: 1e-4, absolute: 1e-3 };
        check(&kernel, &[data(length * count, 1), data(count, 2)], &[], tolerance);
    }
}

#[test]
fn values_beyond_the_register_file_go_to_the_stack() {
    for live in [10, 30, 60] {
        let mut b = KernelBuilder::new("live");
        let (x, out) = (b.input(F32), b.output(F32));
        b.vector(77, |b, i| {
            let values: Vec<_> = (0..live).map(|n| b.load(x, i.clone() + n)).collect();
            let mut sum = b.literal(F32, 1.0);
            for pair in 0..live as usize {
                let other = values[live as usize - 1 - pair];
                sum = b.mul_add(sum, values[pair], other);
                let bound = b.literal(F32, 3.0);
                sum = b.apply(Prim::Min, &[sum, bound]);
            }
            b.store(out, i, sum);
        });
        let kernel = b.finish().unwrap();
        let tolerance = support::Tolerance { relative: 1e-3, absolute: 1e-3 };
        check(&kernel, &[data(77 + live, 1), data(77, 2)], &[], tolerance);
    }
}

#[test]
fn strided_and_run_time_lengths() {
    for stride in [2, 3, 7] {
        let mut b = KernelBuilder::new("strided");
        let (x, out) = (b.input(F32), b.output(F32));
        let n = b.dim();
        b.vector(n, |b, i| {
            let v = b.load(x, i.clone() * stride + 1);
            b.store(out, i * stride, v);
        });
        let kernel = b.finish().unwrap();
        for n in [0, 1, 7, 8, 15, 16, 31, 33, 64, 65] {
            check(&kernel, &[data(n * stride + 2, 1), data(n * stride + 2, 2)], &[n], TIGHT);
        }
    }
}

/// Softmax of rows, the exponentials kept in scratch; then what depends on totals of totals.
fn softmax_rows(rows: i64, n: Option<i64>, scale: f64) -> Kernel {
    let mut b = KernelBuilder::new("rows");
    let (x, out) = (b.input(F32), b.output(F32));
    let n = n.map_or_else(|| b.dim(), kiln_codegen::kir::Ix::Const);
    let kept = b.scratch(F32, n.clone());
    let block = b.grid(2);
    let scale = b.literal(F32, scale);
    b.sequential(rows, |b, row| {
        let at = (block * rows + row) * n.clone();
        let (low, zero) = (b.literal(F32, f64::NEG_INFINITY), b.literal(F32, 0.0));
        let first = b.load(x, at.clone());
        let max = b.reduce(LoopKind::Vector, n.clone(), &[(Prim::Max, low)], |b, i| {
            let v = b.load(x, at.clone() + i);
            vec![b.apply(Prim::Mul, &[v, scale])]
        })[0];
        let start = b.apply(Prim::Mul, &[first, zero]);
        let totals =
            b.reduce(LoopKind::Vector, n.clone(), &[(Prim::Add, start), (Prim::Min, max)], |b, i| {
                let v = b.load(x, at.clone() + i.clone());
                let v = b.apply(Prim::Mul, &[v, scale]);
                let v = b.apply(Prim::Sub, &[v, max]);
                let v = b.apply(Prim::Exp, &[v]);
                b.store(kept, i, v);
                vec![v, v]
            });
        let one = b.literal(F32, 1.0);
        let inverse = b.apply(Prim::Div, &[one, totals[0]]);
        let shift = b.apply(Prim::Mul, &[totals[1], inverse]);
        b.vector(n.clone(), |b, i| {
            let v = b.load(kept, i.clone());
            let v = b.mul_add(v, inverse, shift);
            b.store(out, at.clone() + i, v);
        });
    });
    b.finish().unwrap()
}

#[test]
fn rows_of_several_phases() {
    for n in [8, 15, 16, 24, 33, 64, 100, 128, 200] {
        let x = data(6 * n, 1);
        let zeros = vec![0; x.len()];
        for kernel in [softmax_rows(3, Some(n), 0.75), softmax_rows(3, None, 0.75)] {
            let dims = if kernel.dims == 0 { vec![] } else { vec![n] };
            check(&kernel, &[x.clone(), zeros.clone()], &dims, TIGHT);
        }
    }
    check(&softmax_rows(3, None, 0.75), &[data(64, 1), vec![0; 256]], &[0], TIGHT);
}

#[test]
fn rows_with_infinities_and_nan() {
    let n = 40;
    let special = [f64::NEG_INFINITY, f64::INFINITY, f64::NAN, 3e38, -3e38, 1e-40];
    for at in [0, 17, 33, 39] {
        let rows = (0..6 * n).map(|i| if i % n == at { special[i / n] } else { (i % 13) as f64 - 20.0 });
        let x = elements(F32, rows);
        check(&softmax_rows(3, Some(n as i64), 1.0), &[x.clone(), vec![0; x.len()]], &[], TIGHT);
        let hidden = elements(F32, (0..6 * n).map(|i| if i < 2 * n { f64::NEG_INFINITY } else { 1.0 }));
        check(&softmax_rows(3, None, 1.0), &[hidden, vec![0; x.len()]], &[n as i64], TIGHT);
    }
}

/// Windows of a factor for each channel, in one, two or three dimensions (leading ones may be 1 long).
#[derive(Debug)]
struct Depthwise {
    size: [i64; 3],
    kernel: [i64; 3],
    stride: [i64; 3],
    dilation: [i64; 3],
    before: [i64; 3],
    after: [i64; 3],
    channels: i64,
    /// Each input channel gives so many.
    multiplier: i64,
    /// Taps as loops of the kernel, not written out.
    looped: bool,
    combine: Prim,
}

/// Position of a tap in the input, and the conditions that it is there.
fn position(case: &Depthwise, out: &[Ix; 3], tap: &[Ix; 3]) -> (Ix, Vec<Bound>) {
    let mut at = Ix::Const(0);
    let mut bounds = vec![];
    for d in 0..3 {
        let index = out[d].clone() * case.stride[d] + tap[d].clone() * case.dilation[d] - case.before[d];
        at = at * case.size[d] + index.clone();
        if case.before[d] != 0 || case.after[d] != 0 {
            bounds.push(Bound::below(index, case.size[d]));
        }
    }
    (at, bounds)
}

fn depthwise(case: &Depthwise) {
    let extent = |d: usize| {
        let span = (case.kernel[d] - 1) * case.dilation[d] + 1;
        (case.size[d] + case.before[d] + case.after[d] - span).div_euclid(case.stride[d]) + 1
    };
    let outs = [extent(0), extent(1), extent(2)];
    if outs.iter().any(|&n| n <= 0) {
        return;
    }
    let (c, m) = (case.channels, case.multiplier);
    let [kd, kh, kw] = case.kernel;
    let identity = if case.combine == Prim::Max { f64::NEG_INFINITY } else { 0.0 };
    let mut b = KernelBuilder::new("depthwise");
    let (x, wt, bias, out) = (b.input(F32), b.weights(F32), b.weights(F32), b.output(F32));
    let (z, y) = (b.grid(outs[0]), b.grid(outs[1]));
    let copy = b.grid(m);
    b.sequential(outs[2], |b, column| {
        let at = [z.clone(), y.clone(), column.clone()];
        b.vector(c, |b, channel| {
            let tap = |b: &mut KernelBuilder, tap: [Ix; 3]| {
                let (index, bounds) = position(case, &at, &tap);
                let index = index * c + channel.clone();
                let v = match bounds.is_empty() {
                    true => b.load(x, index),
                    false => b.load_guarded(x, index, bounds, identity),
                };
                let number = (tap[0].clone() * kh + tap[1].clone()) * kw + tap[2].clone();
                let w = b.load(wt, (copy.clone() * (kd * kh * kw) + number) * c + channel.clone());
                (v, w)
            };
            let init = b.literal(F32, identity);
            let mut sum = init;
            if case.looped {
                let looped = b.reduce(LoopKind::Sequential, kd * kh * kw, &[(case.combine, init)], |b, t| {
                    let at = [t.clone().floor_div(kh * kw), t.clone().floor_div(kw).modulo(kh), t.modulo(kw)];
                    let (v, w) = tap(b, at);
                    vec![if case.combine == Prim::Max { v } else { b.apply(Prim::Mul, &[v, w]) }]
                });
                sum = looped[0];
            } else {
                for t in 0..kd * kh * kw {
                    let at = [t / (kh * kw), t / kw % kh, t % kw].map(Ix::Const);
                    let (v, w) = tap(b, at);
                    sum = match case.combine {
                        Prim::Max => b.apply(Prim::Max, &[sum, v]),
                        _ => b.mul_add(v, w, sum),
                    };
                }
            }
            let offset = b.load(bias, channel.clone());
            let value = b.apply(Prim::Add, &[sum, offset]);
            let down = b.apply(Prim::Neg, &[value]);
            let down = b.apply(Prim::Exp, &[down]);
            let one = b.literal(F32, 1.0);
            let divisor = b.apply(Prim::Add, &[one, down]);
            let value = b.apply(Prim::Div, &[value, divisor]);
            let row = (z.clone() * outs[1] + y.clone()) * outs[2] + column.clone();
            b.store(out, (row * m + copy.clone()) * c + channel, value);
        });
    });
    let kernel = b.finish().unwrap();
    let elements: i64 = case.size.iter().product::<i64>() * c;
    let results: i64 = outs.iter().product::<i64>() * c * m;
    let buffers = [data(elements, 1), data(kd * kh * kw * c * m, 2), data(c, 4), data(results, 3)];
    check(&kernel, &buffers, &[], support::Tolerance { relative: 1e-4, absolute: 1e-5 });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_depthwise_windows_agree(
        (rank, size) in (1..4usize, [2..6i64, 3..10i64, 1..40i64]),
        (kernel, stride) in ([1..3i64, 1..6i64, 1..8i64], [1..3i64, 1..3i64, 1..4i64]),
        (dilation, pad) in ([1..3i64, 1..3i64, 1..4i64], any::<bool>()),
        (before, after) in ([0..2i64, 0..4i64, 0..9i64], [0..2i64, 0..4i64, 0..9i64]),
        (channels, multiplier) in (prop_oneof![Just(8), Just(16), Just(32), 5..72i64], 1..3i64),
        (looped, most) in (any::<bool>(), any::<bool>()),
    ) {
        let only = |v: [i64; 3], other: i64| [0, 1, 2].map(|d| if d + rank >= 3 { v[d] } else { other });
        let (before, after) = if pad { (only(before, 0), only(after, 0)) } else { ([0; 3], [0; 3]) };
        depthwise(&Depthwise {
            size: only(size, 1),
            kernel: only(kernel, 1),
            stride: only(stride, 1),
            dilation: only(dilation, 1),
            before,
            after,
            channels,
            multiplier,
            looped,
            combine: if most { Prim::Max } else { Prim::Add },
        });
    }
}

/// Lines of mobile networks: border, middle and rest of a line are functions of their own.
#[test]
fn lines_of_windows() {
    for (size, kernel, stride, channels) in
        [(112, 3, 2, 24), (56, 5, 1, 16), (30, 3, 1, 40), (14, 5, 1, 16), (7, 5, 1, 48), (23, 7, 1, 16)]
    {
        let pad = [0, kernel / 2, kernel / 2];
        depthwise(&Depthwise {
            size: [1, 6, size],
            kernel: [1, kernel, kernel],
            stride: [1, stride, stride],
            dilation: [1; 3],
            before: pad,
            after: pad,
            channels,
            multiplier: 1,
            looped: false,
            combine: Prim::Add,
        });
    }
}

/// Rows that depend on rows before them, through memory, stay in order.
#[test]
fn rows_that_read_what_rows_write_stay_in_order() {
    let mut b = KernelBuilder::new("scan");
    let (x, out) = (b.input(F32), b.buffer(F32, Access::InOut));
    b.sequential(20, |b, row| {
        b.vector(24, |b, i| {
            let at = (row.clone() + 1) * 24 + i.clone();
            let (now, next) = (b.load(x, row.clone() * 24 + i.clone()), b.load(x, at.clone()));
            let before = b.load(out, row.clone() * 24 + i);
            let sum = b.apply(Prim::Add, &[now, before]);
            let sum = b.apply(Prim::Sub, &[sum, next]);
            b.store(out, at, sum);
        });
    });
    let kernel = b.finish().unwrap();
    check(&kernel, &[data(21 * 24, 1), data(21 * 24, 2)], &[], TIGHT);
}
