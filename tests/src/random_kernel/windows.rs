//! Windows over images: a factor for each channel (depthwise convolutions, pools), and convolutions by taps.

use kiln_codegen::kir::builder::{ContractShape, RhsBuilder};
use kiln_codegen::kir::{Bound, Ix, KernelBuilder, LoopKind};
use kiln_ir::{DType, Prim};

use super::contractions::{Epilogue, byte, pad_quads, quantized};
use super::scalar::activation;
use crate::agreement::Case;
use crate::choices::Choices;

const F32: DType = DType::F32;

/// Two dimensions of an image.
#[derive(Clone, Copy)]
struct Image {
    size: [i64; 2],
    kernel: [i64; 2],
    stride: [i64; 2],
    dilation: [i64; 2],
    before: [i64; 2],
    after: [i64; 2],
}

impl Image {
    fn draw(c: &mut Choices<'_>, most: i64) -> Image {
        let mut each = |low: i64, high: i64| [c.between(low, high), c.between(low, high)];
        let (size, kernel, stride, dilation) = (each(1, most), each(1, 5), each(1, 2), each(1, 2));
        let (before, after) = (each(0, 3), each(0, 3));
        let padded = c.below(3) > 0;
        let (before, after) = if padded { (before, after) } else { ([0; 2], [0; 2]) };
        let mut image = Image { size, kernel, stride, dilation, before, after };
        for axis in 0..2 {
            // A window that does not fit becomes one of a single tap.
            if image.out(axis) <= 0 {
                image.kernel[axis] = 1;
            }
        }
        image
    }

    fn out(&self, axis: usize) -> i64 {
        let span = (self.kernel[axis] - 1) * self.dilation[axis] + 1;
        (self.size[axis] + self.before[axis] + self.after[axis] - span).div_euclid(self.stride[axis]) + 1
    }

    /// Where a tap reads, and the conditions that it is there.
    fn place(&self, out: [Ix; 2], tap: [Ix; 2]) -> ([Ix; 2], Vec<Bound>) {
        let mut bounds = vec![];
        let mut axis = 0;
        let place = [out[0].clone(), out[1].clone()].map(|position| {
            let at =
                position * self.stride[axis] + tap[axis].clone() * self.dilation[axis] - self.before[axis];
            if self.before[axis] != 0 || self.after[axis] != 0 {
                bounds.push(Bound::below(at.clone(), self.size[axis]));
            }
            axis += 1;
            at
        });
        (place, bounds)
    }
}

/// `[h, w, c]` with a factor for each channel and tap, or the largest of each window.
pub fn depthwise(c: &mut Choices<'_>) -> Vec<Case> {
    let most = c.of(&[8, 20]);
    let image = Image::draw(c, most);
    let channels = c.of(&[8, 16, 3, 24, 33, 1, 40, 17]);
    let (largest, looped, ends) = (c.below(3) == 1, c.flag(), c.below(3));
    let (oh, ow, [kh, kw]) = (image.out(0), image.out(1), image.kernel);
    let identity = if largest { f64::NEG_INFINITY } else { 0.0 };
    let mut b = KernelBuilder::new("depthwise");
    let (x, w, bias, out) = (b.input(F32), b.weights(F32), b.weights(F32), b.output(F32));
    let y = b.grid(oh);
    b.sequential(ow, |b, column| {
        b.vector(channels, |b, channel| {
            let tap = |b: &mut KernelBuilder, tap: [Ix; 2]| {
                let number = tap[0].clone() * kw + tap[1].clone();
                let ([row, col], bounds) = image.place([y.clone(), column.clone()], tap);
                let index = (row * image.size[1] + col) * channels + channel.clone();
                let v = match bounds.is_empty() {
                    true => b.load(x, index),
                    false => b.load_guarded(x, index, bounds, identity),
                };
                (v, b.load(w, number * channels + channel.clone()))
            };
            let init = b.literal(F32, identity);
            let mut sum = init;
            if looped {
                let combine = if largest { Prim::Max } else { Prim::Add };
                sum = b.reduce(LoopKind::Sequential, kh * kw, &[(combine, init)], |b, t| {
                    let (v, w) = tap(b, [t.clone().floor_div(kw), t.modulo(kw)]);
                    vec![if largest { v } else { b.apply(Prim::Mul, &[v, w]) }]
                })[0];
            } else {
                for t in 0..kh * kw {
                    let (v, w) = tap(b, [t / kw, t % kw].map(Ix::Const));
                    sum = if largest { b.apply(Prim::Max, &[sum, v]) } else { b.mul_add(v, w, sum) };
                }
            }
            if ends > 0 {
                let more = b.load(bias, channel.clone());
                sum = b.apply(Prim::Add, &[sum, more]);
            }
            if ends > 1 {
                sum = activation(b, c, sum);
            }
            b.store(out, (y.clone() * ow + column.clone()) * channels + channel, sum);
        });
    });
    let [h, width] = image.size;
    super::case(
        c,
        b,
        &[h * width * channels, kh * kw * channels, channels, oh * ow * channels],
        vec![],
        super::SUMMABLE,
    )
}

/// A convolution by taps, channels last or first, in groups, blocks of lines on the grid.
pub fn convolution(c: &mut Choices<'_>) -> Vec<Case> {
    let image = Image::draw(c, 12);
    let (ci, co) = (c.of(&[1, 3, 4, 5, 8, 16]), c.between(1, 24));
    let (groups, width) = (c.between(1, 2), c.of(&[8, 16, 32]));
    let (first, lines, otherwise) = (c.below(3) == 1, c.between(1, 12), c.of(&[0.0, 0.5]));
    let ([h, w], [kh, kw], oh, ow) = (image.size, image.kernel, image.out(0), image.out(1));
    let (all_in, all_out) = (ci * groups, co * groups);
    let mut b = KernelBuilder::new("convolution");
    let (x, wt, bias, residual, out) =
        (b.input(F32), b.weights(F32), b.weights(F32), b.input(F32), b.output(F32));
    let group = b.grid(groups);
    let begin = b.grid(Ix::Const(oh).ceil_div(lines)) * (lines * ow);
    let panels = (co + width - 1) / width * width * kh * kw * ci;
    // Channels first, the position in a line is what follows in memory: it is the innermost reduction.
    let (inner, outer) = if first { (kw, ci) } else { (ci, kw) };
    let shape = ContractShape {
        m: (begin.clone(), (Ix::Const(oh * ow) - begin).min(lines * ow)),
        n: (0.into(), co.into()),
        taps: vec![(0.into(), kh.into()), (0.into(), outer.into())],
        k: (0.into(), inner.into()),
        acc_dtype: F32,
    };
    let end = Epilogue::draw(c);
    b.contract(
        shape,
        |b, m, taps, k| {
            let (tap, channel) = if first { (k, &taps[1]) } else { (&taps[1], k) };
            let position = [m.clone().floor_div(ow), m.clone().modulo(ow)];
            let ([row, column], bounds) = image.place(position, [taps[0].clone(), tap.clone()]);
            let channel = group.clone() * ci + channel.clone();
            let index = match first {
                true => (channel * h + row) * w + column,
                false => (row * w + column) * all_in + channel,
            };
            if bounds.is_empty() { b.load(x, index) } else { b.load_guarded(x, index, bounds, otherwise) }
        },
        RhsBuilder::Packed { buffer: wt, base: group.clone() * panels, width: width as u32 },
        |b, m, n, sum| {
            let channel = group.clone() * co + n;
            let index = m.clone() * all_out + channel.clone();
            let more = [b.load(bias, channel), b.load(residual, index.clone())];
            let v = end.apply(b, c, sum, more);
            b.store(out, index, v);
        },
    );
    let results = oh * ow * all_out;
    super::case(c, b, &[h * w * all_in, panels * groups, all_out, results, results], vec![], super::SUMMABLE)
}

/// A convolution of bytes by taps, channels last, in groups, padded with any byte, and what makes bytes of its sums.
pub fn byte_convolution(c: &mut Choices<'_>) -> Vec<Case> {
    let image = Image::draw(c, 12);
    let (ci, co) = (c.of(&[3, 4, 5, 8, 16, 64]), c.between(1, 40));
    let (groups, width, signed) = (c.between(1, 2), c.of(&[8, 16, 32, 48]), c.flag());
    let lines = c.between(1, 12);
    let ([h, w], [kh, kw], oh, ow) = (image.size, image.kernel, image.out(0), image.out(1));
    let (all_in, all_out) = (ci * groups, co * groups);
    let mut b = KernelBuilder::new("byte convolution");
    let x = b.input(if signed { DType::I8 } else { DType::U8 });
    let (wt, scale) = (b.weights(DType::I8), b.weights(F32));
    let out_dtype = c.of(&[DType::U8, DType::I8, F32, DType::I32]);
    let out = b.output(out_dtype);
    let group = b.grid(groups);
    let begin = b.grid(Ix::Const(oh).ceil_div(lines)) * (lines * ow);
    let panels = (co + width - 1) / width * width * kh * kw * ((ci + 3) / 4) * 4;
    let shape = ContractShape {
        m: (begin.clone(), (Ix::Const(oh * ow) - begin).min(lines * ow)),
        n: (0.into(), co.into()),
        taps: vec![(0.into(), kh.into()), (0.into(), kw.into())],
        k: (0.into(), ci.into()),
        acc_dtype: DType::I32,
    };
    let (padding, zero) = (c.of(&[0.0, 13.0, 127.0]), c.between(0, 60) as f64);
    b.contract(
        shape,
        |b, m, taps, k| {
            let position = [m.clone().floor_div(ow), m.clone().modulo(ow)];
            let ([row, column], bounds) = image.place(position, [taps[0].clone(), taps[1].clone()]);
            let index = (row * w + column) * all_in + (group.clone() * ci + k);
            let v =
                if bounds.is_empty() { b.load(x, index) } else { b.load_guarded(x, index, bounds, padding) };
            byte(b, v, signed, false)
        },
        RhsBuilder::Quads { buffer: wt, base: group.clone() * panels, width: width as u32 },
        |b, m, n, sum| {
            let channel = group.clone() * co + n;
            let v = quantized(b, sum, (scale, &channel), zero, out_dtype);
            b.store(out, m.clone() * all_out + channel, v);
        },
    );
    let lengths = [h * w * all_in, panels * groups, all_out, oh * ow * all_out];
    let mut cases = super::case(c, b, &lengths, vec![], super::SUMMABLE);
    cases.iter_mut().for_each(|case| pad_quads(&mut case.buffers[1], width, ci));
    cases
}
