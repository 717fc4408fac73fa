//! Random kernels of every family that the compiler makes, and such as it does not make but kernel IR allows.

mod contractions;
mod folds;
mod graphs;
mod moves;
mod pointwise;
mod rows;
mod scalar;
mod sparse;
mod windows;

use kiln_codegen::kir::{Kernel, KernelBuilder};
use kiln_ir::DType;
use kiln_ir::Scalar;
use kiln_ir::tensor::scalar_to_bits;

use crate::agreement::Case;
use crate::choices::{Choices, mix};

/// Numbers that a kernel is grown from.
pub const NUMBERS: usize = 192;

type Family = fn(&mut Choices<'_>) -> Vec<Case>;

/// The families and how many of [`WEIGHTS`] kernels they get.
const FAMILIES: &[(&str, usize, Family)] = &[
    ("pointwise", 24, pointwise::grow),
    ("reductions", 8, rows::reductions),
    ("rows", 12, rows::phases),
    ("moves", 8, moves::grow),
    ("folds", 6, folds::grow),
    ("windows", 6, windows::depthwise),
    ("contractions", 14, contractions::gemm),
    ("convolutions", 6, windows::convolution),
    ("attention", 4, contractions::attention),
    ("graphs", 12, graphs::grow),
    ("bytes", 10, contractions::bytes),
    ("byte convolutions", 6, windows::byte_convolution),
    ("sparse", 8, sparse::grow),
];

/// Names of the families.
pub fn families() -> impl Iterator<Item = &'static str> {
    FAMILIES.iter().map(|&(name, ..)| name)
}

/// The kernels that a list of numbers stands for, of a family by its place in [`families`]; none where chance asks for
/// something that there is not.
pub fn grow(numbers: &[u16]) -> (usize, Vec<Case>) {
    let mut choices = Choices::new(numbers);
    let weights: usize = FAMILIES.iter().map(|&(_, weight, _)| weight).sum();
    let mut at = choices.below(weights);
    for (i, &(_, weight, family)) in FAMILIES.iter().enumerate() {
        match at.checked_sub(weight) {
            Some(rest) => at = rest,
            None => return (i, family(&mut choices)),
        }
    }
    (0, vec![])
}

/// Numbers whose sums keep some of their digits, whatever the order; and the largest numbers.
const SUMMABLE: f64 = 100.0;
const LARGEST: f64 = 3.4e38;

/// A case of a kernel that lowerings must take, its parameters filled with numbers up to `most`: `lengths` are in
/// elements.
fn case(c: &mut Choices<'_>, b: KernelBuilder, lengths: &[i64], dims: Vec<i64>, most: f64) -> Vec<Case> {
    let kernel: Kernel = b.finish().expect("the kernel is well formed");
    let dtypes: Vec<DType> = kernel.params().map(|id| kernel.buffers[id.index()].dtype).collect();
    let buffers = dtypes.iter().zip(lengths).map(|(&dtype, &len)| fill(c, dtype, len, most)).collect();
    vec![Case { kernel, buffers, dims, may_be_refused: false }]
}

/// Elements of one of several kinds: exact in sums, any in a range, of many magnitudes, special.
fn fill(c: &mut Choices<'_>, dtype: DType, len: i64, most: f64) -> Vec<u8> {
    let (kind, seed) = (c.below(16), c.below(1 << 16) as u64);
    let len = len.max(0) as usize;
    if dtype.is_packed() {
        let bytes = dtype.bytes_for(len).unwrap_or(0);
        return (0..bytes as u64).map(|i| mix(seed + (i << 16)) as u8).collect();
    }
    let size = dtype.bits() / 8;
    let element = |i: usize| {
        let random = mix(seed + ((i as u64) << 16));
        if dtype.is_float() {
            scalar_to_bits(dtype, Scalar::F(float(kind, random, most)))
        } else if dtype == DType::Bool {
            random & 1
        } else {
            integer(kind, dtype, random)
        }
    };
    (0..len).flat_map(|i| element(i).to_le_bytes()[..size].to_vec()).collect()
}

fn float(kind: usize, random: u64, most: f64) -> f64 {
    let uniform = (random >> 11) as f64 / (1u64 << 52) as f64 - 1.0;
    let special = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, -0.0, 1e-40, -1e-40, most, -most];
    match kind {
        0..6 => (random % 17) as f64 * 0.25 - 2.0,
        6..13 => uniform * 2.0,
        13 => uniform * 40.0,
        14 => uniform * 2f64.powi((random & 63) as i32 - 32),
        _ if random.is_multiple_of(7) => special[(random >> 8) as usize % special.len()],
        _ => uniform * 2.0,
    }
}

fn integer(kind: usize, dtype: DType, random: u64) -> u64 {
    let signed = dtype.int_range().is_some_and(|(low, _)| low < 0);
    match kind {
        0..11 if signed => (random % 17).wrapping_sub(8),
        0..11 => random % 17,
        11..14 if signed => (random % 201).wrapping_sub(100),
        11..14 => random % 201,
        _ => random,
    }
}
