//! Coefficients to pixels, as libjpeg computes them.

use crate::eval::cx::Cx;
use crate::eval::fault::Fault;

use super::{Block, Component, Frame, Pixels, Tables, bad};

/// Samples of one component, in the size of the image or of the component.
struct Plane {
    width: usize,
    height: usize,
    samples: Vec<u8>,
}

impl Plane {
    fn row(&self, y: usize) -> &[u8] {
        let start = y.min(self.height.saturating_sub(1)) * self.width;
        self.samples.get(start..start + self.width).unwrap_or(&[])
    }
}

pub(super) fn render(cx: &mut Cx<'_>, frame: &Frame, tables: &Tables) -> Result<Pixels, Fault> {
    let (width, height) = (frame.width, frame.height);
    let mut planes = vec![];
    for component in &frame.components {
        cx.tick(component.coefficients.len().saturating_mul(64))?;
        let plane = samples(component, tables)?;
        planes.push(enlarged(plane, frame.h / component.h, frame.v / component.v, [width, height]));
    }
    let mut rgb = Vec::with_capacity(width * height * 3);
    for y in 0..height {
        match planes.as_slice() {
            [gray] => rgb.extend(gray.row(y).iter().take(width).flat_map(|&v| [v; 3])),
            [a, b, c] => {
                let rows = a.row(y).iter().zip(b.row(y)).zip(c.row(y)).take(width);
                let plain = is_rgb(frame, tables);
                rgb.extend(rows.flat_map(|((&a, &b), &c)| if plain { [a, b, c] } else { color(a, b, c) }));
            }
            _ => return bad("another number of components"),
        }
    }
    Ok(Pixels { width, height, rgb })
}

/// Whether three components are red, green and blue as they are.
fn is_rgb(frame: &Frame, tables: &Tables) -> bool {
    match tables.adobe {
        Some(transform) => transform == 0,
        None => frame.components.iter().map(|c| c.id).eq(*b"RGB"),
    }
}

/// YCbCr to RGB in 16 bits (`jdcolor.c`).
fn color(y: u8, cb: u8, cr: u8) -> [u8; 3] {
    let (y, cb, cr) = (i32::from(y), i32::from(cb) - 128, i32::from(cr) - 128);
    let half = 1 << 15;
    let red = y + ((91_881 * cr + half) >> 16);
    let green = y + ((-22_554 * cb - 46_802 * cr + half) >> 16);
    let blue = y + ((116_130 * cb + half) >> 16);
    [red, green, blue].map(clamped)
}

fn clamped(v: i32) -> u8 {
    v.clamp(0, 255) as u8
}

/// The samples of a component's blocks.
fn samples(component: &Component, tables: &Tables) -> Result<Plane, Fault> {
    let Some(Some(quantizer)) = tables.quantizers.get(component.quantizer) else {
        return bad("a quantization table is missing");
    };
    let [width, height] = component.size;
    let mut samples = vec![0; width * height];
    for by in 0..component.blocks[1] {
        for bx in 0..component.blocks[0] {
            let Some(block) = component.coefficients.get(by * component.stride + bx) else { continue };
            let block = inverse(block, quantizer);
            for (row, line) in block.chunks_exact(8).enumerate().take(height - by * 8) {
                let start = (by * 8 + row) * width + bx * 8;
                let count = (width - bx * 8).min(8);
                samples[start..start + count].copy_from_slice(&line[..count]);
            }
        }
    }
    Ok(Plane { width, height, samples })
}

/// One pass of the inverse transform over eight values (`jidctint.c`): results times 2^13 before the shift.
fn pass(v: [i32; 8]) -> [i32; 8] {
    let z1 = v[2].wrapping_add(v[6]).wrapping_mul(4_433);
    let even2 = z1.wrapping_sub(v[6].wrapping_mul(15_137));
    let even3 = z1.wrapping_add(v[2].wrapping_mul(6_270));
    let even0 = v[0].wrapping_add(v[4]).wrapping_shl(13);
    let even1 = v[0].wrapping_sub(v[4]).wrapping_shl(13);
    let (t10, t13) = (even0.wrapping_add(even3), even0.wrapping_sub(even3));
    let (t11, t12) = (even1.wrapping_add(even2), even1.wrapping_sub(even2));
    let [mut t0, mut t1, mut t2, mut t3] = [v[7], v[5], v[3], v[1]];
    let (z1, z2) = (t0.wrapping_add(t3), t1.wrapping_add(t2));
    let (z3, z4) = (t0.wrapping_add(t2), t1.wrapping_add(t3));
    let z5 = z3.wrapping_add(z4).wrapping_mul(9_633);
    let (z1, z2) = (z1.wrapping_mul(-7_373), z2.wrapping_mul(-20_995));
    let (z3, z4) = (z3.wrapping_mul(-16_069).wrapping_add(z5), z4.wrapping_mul(-3_196).wrapping_add(z5));
    t0 = t0.wrapping_mul(2_446).wrapping_add(z1).wrapping_add(z3);
    t1 = t1.wrapping_mul(16_819).wrapping_add(z2).wrapping_add(z4);
    t2 = t2.wrapping_mul(25_172).wrapping_add(z2).wrapping_add(z3);
    t3 = t3.wrapping_mul(12_299).wrapping_add(z1).wrapping_add(z4);
    [
        t10.wrapping_add(t3),
        t11.wrapping_add(t2),
        t12.wrapping_add(t1),
        t13.wrapping_add(t0),
        t13.wrapping_sub(t0),
        t12.wrapping_sub(t1),
        t11.wrapping_sub(t2),
        t10.wrapping_sub(t3),
    ]
}

/// Rounds and shifts by `bits`.
fn descale(v: i32, bits: u32) -> i32 {
    v.wrapping_add(1 << (bits - 1)) >> bits
}

/// The inverse transform: columns into two more bits, then rows.
fn inverse(block: &Block, quantizer: &[u16; 64]) -> [u8; 64] {
    let mut work = [0i32; 64];
    for column in 0..8 {
        let value = |row: usize| {
            let at = row * 8 + column;
            i32::from(block[at]).wrapping_mul(i32::from(quantizer[at]))
        };
        let values = pass([0, 1, 2, 3, 4, 5, 6, 7].map(value));
        for (row, v) in values.into_iter().enumerate() {
            work[row * 8 + column] = descale(v, 11);
        }
    }
    let mut out = [0; 64];
    for (row, line) in work.chunks_exact(8).enumerate() {
        let mut values = [0; 8];
        values.copy_from_slice(line);
        for (column, v) in pass(values).into_iter().enumerate() {
            out[row * 8 + column] = clamped(descale(v, 18).wrapping_add(128));
        }
    }
    out
}

/// A component's samples in the size of the image (`jdsample.c`).
fn enlarged(plane: Plane, h: usize, v: usize, [width, height]: [usize; 2]) -> Plane {
    // Narrow planes have no neighbours to mix.
    let mixes = plane.width > 2;
    let mut samples = Vec::with_capacity(width * height);
    for y in 0..height {
        let near = plane.row(y / v);
        // The nearer of the rows above and below; edges stand for what is beyond them.
        let far = plane.row(if y % v == 0 { (y / v).saturating_sub(1) } else { y / v + 1 });
        let mut row: Vec<u8> = match (h, v) {
            (1, 1) => near.to_vec(),
            (2, 1) if mixes => doubled(near),
            (2, 2) if mixes => doubled_both(near, far),
            (1, 2) if mixes => {
                let bias = if y % 2 == 0 { 1 } else { 2 };
                let mix = |(&n, &f): (&u8, &u8)| ((u32::from(n) * 3 + u32::from(f) + bias) >> 2) as u8;
                near.iter().zip(far).map(mix).collect()
            }
            _ => near.iter().flat_map(|&s| std::iter::repeat_n(s, h)).collect(),
        };
        row.resize(width, row.last().copied().unwrap_or(0));
        samples.extend(row);
    }
    Plane { width, height, samples }
}

/// Twice as many samples in a row: three parts of the nearer, one of the farther.
fn doubled(row: &[u8]) -> Vec<u8> {
    let at = |i: usize| u32::from(row[i]);
    let last = row.len() - 1;
    let mut out = Vec::with_capacity(2 * row.len());
    for i in 0..row.len() {
        let left = if i == 0 { at(0) } else { (at(i) * 3 + at(i - 1) + 1) >> 2 };
        let right = if i == last { at(last) } else { (at(i) * 3 + at(i + 1) + 2) >> 2 };
        out.extend([left as u8, right as u8]);
    }
    out
}

/// The same over two rows.
fn doubled_both(near: &[u8], far: &[u8]) -> Vec<u8> {
    let sums: Vec<u32> = near.iter().zip(far).map(|(&n, &f)| u32::from(n) * 3 + u32::from(f)).collect();
    let last = sums.len().saturating_sub(1);
    let mut out = Vec::with_capacity(2 * sums.len());
    for (i, &sum) in sums.iter().enumerate() {
        let left = if i == 0 { sum * 4 + 8 } else { sum * 3 + sums[i - 1] + 8 };
        let right = if i == last { sum * 4 + 7 } else { sum * 3 + sums[i + 1] + 7 };
        out.extend([(left >> 4) as u8, (right >> 4) as u8]);
    }
    out
}
