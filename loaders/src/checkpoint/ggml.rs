//! Blocks of quantized numbers, as GGUF files hold them: their sizes, and the numbers that they stand for.
//!
//! The layouts are those of `ggml-common.h`; each block has its scale in f16 unless said otherwise.

use half::f16;
use kiln_ir::DType;

use super::element::{Element, Foreign};

const fn block(name: &'static str, elements: usize, bytes: usize) -> Foreign {
    Foreign { name, elements, bytes, word: 1 }
}

/// Block types by their number in GGUF.
static BLOCKS: &[(u32, Foreign)] = &[
    (2, block("q4_0", 32, 18)),
    (3, block("q4_1", 32, 20)),
    (6, block("q5_0", 32, 22)),
    (7, block("q5_1", 32, 24)),
    (8, block("q8_0", 32, 34)),
    (9, block("q8_1", 32, 36)),
    (10, block("q2_k", 256, 84)),
    (11, block("q3_k", 256, 110)),
    (12, block("q4_k", 256, 144)),
    (13, block("q5_k", 256, 176)),
    (14, block("q6_k", 256, 210)),
    (15, block("q8_k", 256, 292)),
    (16, block("iq2_xxs", 256, 66)),
    (17, block("iq2_xs", 256, 74)),
    (18, block("iq3_xxs", 256, 98)),
    (19, block("iq1_s", 256, 50)),
    (20, block("iq4_nl", 32, 18)),
    (21, block("iq3_s", 256, 110)),
    (22, block("iq2_s", 256, 82)),
    (23, block("iq4_xs", 256, 136)),
    (29, block("iq1_m", 256, 56)),
    (34, block("tq1_0", 256, 54)),
    (35, block("tq2_0", 256, 66)),
    (39, block("mxfp4", 32, 17)),
];

/// The element type of a GGUF tensor by its number.
pub(super) fn element(number: u32) -> Option<Element> {
    Some(Element::Plain(match number {
        0 => DType::F32,
        1 => DType::F16,
        24 => DType::I8,
        25 => DType::I16,
        26 => DType::I32,
        27 => DType::I64,
        28 => DType::F64,
        30 => DType::BF16,
        other => return BLOCKS.iter().find(|(n, _)| *n == other).map(|(_, f)| Element::Foreign(f)),
    }))
}

/// Blocks that can be dequantized.
pub(super) struct Blocks {
    bytes: usize,
    unpack: fn(&[u8], &mut Vec<f32>),
}

impl Blocks {
    /// Those of the element type, if it is one of blocks whose numbers are known.
    pub(super) fn of(foreign: &Foreign) -> Option<Blocks> {
        let unpack: fn(&[u8], &mut Vec<f32>) = match foreign.name {
            "q4_0" => |b, out| nibbles(b, 2, out, |q| f16_at(b, 0) * (f32::from(q) - 8.0)),
            "q4_1" => |b, out| nibbles(b, 4, out, |q| f16_at(b, 0) * f32::from(q) + f16_at(b, 2)),
            "q5_0" => |b, out| fives(b, 2, out, |q| f16_at(b, 0) * (f32::from(q) - 16.0)),
            "q5_1" => |b, out| fives(b, 4, out, |q| f16_at(b, 0) * f32::from(q) + f16_at(b, 2)),
            "q8_0" => |b, out| out.extend(b.iter().skip(2).map(|&q| f16_at(b, 0) * signed(q))),
            "q8_1" => |b, out| out.extend(b.iter().skip(4).map(|&q| f16_at(b, 0) * signed(q))),
            "q2_k" => q2_k,
            "q3_k" => q3_k,
            "q4_k" => |b, out| q45_k(b, None, out),
            "q5_k" => |b, out| q45_k(b, b.get(16..48), out),
            "q6_k" => q6_k,
            "q8_k" => |b, out| {
                let scale = f32::from_le_bytes([at(b, 0), at(b, 1), at(b, 2), at(b, 3)]);
                out.extend(b.iter().skip(4).take(256).map(|&q| scale * signed(q)));
            },
            _ => return None,
        };
        Some(Blocks { bytes: foreign.bytes, unpack })
    }

    /// The numbers of whole blocks.
    pub(super) fn dequantized(&self, bytes: &[u8]) -> Vec<f32> {
        let mut out = Vec::new();
        bytes.chunks_exact(self.bytes).for_each(|block| (self.unpack)(block, &mut out));
        out
    }
}

fn at(block: &[u8], i: usize) -> u8 {
    block.get(i).copied().unwrap_or(0)
}

fn f16_at(block: &[u8], i: usize) -> f32 {
    f16::from_le_bytes([at(block, i), at(block, i + 1)]).to_f32()
}

fn signed(byte: u8) -> f32 {
    f32::from(byte.cast_signed())
}

/// 16 bytes: first all low halves, then all high halves.
fn nibbles(block: &[u8], start: usize, out: &mut Vec<f32>, value: impl Fn(u8) -> f32) {
    let bytes = block.get(start..start + 16).unwrap_or(&[]);
    out.extend(bytes.iter().map(|b| value(b & 15)));
    out.extend(bytes.iter().map(|b| value(b >> 4)));
}

/// As [`nibbles`], with the fifth bits of all numbers before them.
fn fives(block: &[u8], start: usize, out: &mut Vec<f32>, value: impl Fn(u8) -> f32) {
    let fifth = |i: usize| ((at(block, start + i / 8) >> (i % 8)) & 1) << 4;
    let bytes = block.get(start + 4..start + 20).unwrap_or(&[]);
    out.extend(bytes.iter().enumerate().map(|(i, b)| value((b & 15) | fifth(i))));
    out.extend(bytes.iter().enumerate().map(|(i, b)| value((b >> 4) | fifth(i + 16))));
}

/// 16 groups of scale and minimum, 4 bits each; 2-bit numbers, four to a byte in planes of 32; the scale of scales and
/// that of minima.
fn q2_k(block: &[u8], out: &mut Vec<f32>) {
    let (scale, minimum) = (f16_at(block, 80), f16_at(block, 82));
    for i in 0..256 {
        let group = at(block, i / 16);
        let (half, plane) = (i / 128, i % 128 / 32);
        let q = (at(block, 16 + half * 32 + i % 32) >> (2 * plane)) & 3;
        let step = scale * f32::from(group & 15);
        out.push(step * f32::from(q) - minimum * f32::from(group >> 4));
    }
}

/// The third bits, in planes of 32 bytes; 2-bit numbers as in [`q2_k`]; 16 scales of 6 bits; their scale.
fn q3_k(block: &[u8], out: &mut Vec<f32>) {
    let scale = f16_at(block, 108);
    for i in 0..256 {
        let g = i / 16;
        let low = if g < 8 { at(block, 96 + g) & 15 } else { at(block, 88 + g) >> 4 };
        let high = (at(block, 104 + g % 4) >> (2 * (g / 4))) & 3;
        let step = scale * (f32::from(low | (high << 4)) - 32.0);
        let (half, plane) = (i / 128, i % 128 / 32);
        let q = (at(block, 32 + half * 32 + i % 32) >> (2 * plane)) & 3;
        let third = (at(block, i % 32) >> (i / 32)) & 1;
        out.push(step * (f32::from(q | (third << 2)) - 4.0));
    }
}

/// Scale of scales and of minima, 8 groups of both with 6 bits each, and 4-bit numbers; `fifth` are planes of fifth bits
/// before these.
fn q45_k(block: &[u8], fifth: Option<&[u8]>, out: &mut Vec<f32>) {
    let (scale, minimum) = (f16_at(block, 0), f16_at(block, 2));
    let numbers = if fifth.is_some() { 48 } else { 16 };
    let group = |i: usize| at(block, 4 + i);
    for i in 0..256 {
        let g = i / 32;
        let (s, m) = match g {
            0..4 => (group(g) & 63, group(g + 4) & 63),
            _ => {
                let (low, high) = (group(g + 4), [group(g - 4), group(g)]);
                ((low & 15) | ((high[0] >> 6) << 4), (low >> 4) | ((high[1] >> 6) << 4))
            }
        };
        let byte = at(block, numbers + i / 64 * 32 + i % 32);
        let q = if g % 2 == 0 { byte & 15 } else { byte >> 4 };
        let more = fifth.map_or(0, |plane| ((at(plane, i % 32) >> g) & 1) << 4);
        out.push(scale * f32::from(s) * f32::from(q | more) - minimum * f32::from(m));
    }
}

/// The lower 4 bits, the upper 2 bits, 16 scales of 8 bits, and their scale.
fn q6_k(block: &[u8], out: &mut Vec<f32>) {
    let scale = f16_at(block, 208);
    for i in 0..256 {
        let (half, plane, lane) = (i / 128, i % 128 / 32, i % 32);
        let low = at(block, half * 64 + plane % 2 * 32 + lane);
        let low = if plane < 2 { low & 15 } else { low >> 4 };
        let high = (at(block, 128 + half * 32 + lane) >> (2 * plane)) & 3;
        let step = scale * signed(at(block, 192 + i / 16));
        out.push(step * (f32::from(low | (high << 4)) - 32.0));
    }
}
