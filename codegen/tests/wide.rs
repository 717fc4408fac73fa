//! Loops that the wide lowering treats in special ways: windows with padding over rows of pixels, long loops inside,
//! values beyond the register file, strided accesses, tails.

mod support;

use kiln_codegen::kir::{Bound, Kernel, KernelBuilder, LoopKind};
use kiln_ir::{DType, Prim};
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
