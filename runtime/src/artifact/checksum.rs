//! The checksum of artifact sections: pieces of a megabyte, each of eight 64-bit lanes that fold every eighth word, all
//! lanes finished with BLAKE3.
//!
//! One step of a lane is `(lane ^ word) * odd`, rotated: a bijection of the lane for a fixed word and of the word for
//! a fixed lane, so a change within one word always changes the result. It runs at memory bandwidth, and pieces are
//! independent, so that several threads verify large sections; this is why all sections, weights included, are verified
//! whenever an artifact is opened. It guards against damage, not against an adversary: an artifact is code, and is
//! trusted like a shared library.

use std::thread;

/// Bytes of a checksum.
pub const CHECKSUM_LEN: usize = 32;

const LANES: usize = 8;
const BLOCK: usize = LANES * 8;

/// Bytes of a piece, a multiple of a block.
const PIECE: usize = 1 << 20;

/// Bytes that are worth a thread.
const WORTH_A_THREAD: usize = 8 << 20;

/// Most threads that verify one section: a few saturate the memory.
const MOST_THREADS: usize = 8;

/// Odd, with bits spread evenly: 2^64 divided by the golden ratio.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// Checksum of `bytes`; of large sections on several threads.
pub fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_LEN] {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    checksum_on(bytes, cores.min(bytes.len() / WORTH_A_THREAD).clamp(1, MOST_THREADS))
}

/// Checksum of `bytes` on so many threads, which makes no difference to it.
fn checksum_on(bytes: &[u8], threads: usize) -> [u8; CHECKSUM_LEN] {
    let of_pieces = |part: &[u8]| part.chunks(PIECE).map(piece).collect::<Vec<_>>();
    let share = bytes.len().div_ceil(PIECE).div_ceil(threads.max(1)).max(1) * PIECE;
    let mut parts = bytes.chunks(share);
    let first = parts.next().unwrap_or_default();
    let lanes: Vec<[u64; LANES]> = thread::scope(|scope| {
        let others: Vec<_> = parts
            .map(|part| (part, thread::Builder::new().spawn_scoped(scope, move || of_pieces(part))))
            .collect();
        let mut lanes = of_pieces(first);
        for (part, other) in others {
            // Where the system has no thread to give, this one does the work.
            let known = other.ok().and_then(|thread| thread.join().ok());
            lanes.extend(known.unwrap_or_else(|| of_pieces(part)));
        }
        lanes
    });
    let mut hasher = blake3::Hasher::new();
    lanes.iter().for_each(|lanes| add_lanes(&mut hasher, lanes));
    finish(hasher, bytes.len() as u64)
}

/// The lanes before the first word.
fn first_lanes() -> [u64; LANES] {
    std::array::from_fn(|i| (i as u64 + 1).wrapping_mul(FACTOR))
}

/// The lanes of a piece; a last block that is not whole is filled up with zeros.
fn piece(bytes: &[u8]) -> [u64; LANES] {
    let mut lanes = first_lanes();
    let (blocks, tail) = bytes.as_chunks::<BLOCK>();
    blocks.iter().for_each(|block| fold(&mut lanes, block));
    if !tail.is_empty() {
        let mut block = [0; BLOCK];
        block[..tail.len()].copy_from_slice(tail);
        fold(&mut lanes, &block);
    }
    lanes
}

fn add_lanes(hasher: &mut blake3::Hasher, lanes: &[u64; LANES]) {
    for lane in lanes {
        hasher.update(&lane.to_le_bytes());
    }
}

fn finish(mut hasher: blake3::Hasher, len: u64) -> [u8; CHECKSUM_LEN] {
    hasher.update(&len.to_le_bytes());
    *hasher.finalize().as_bytes()
}

/// A checksum over bytes that come in parts; how they are cut makes no difference.
pub struct Checksum {
    hasher: blake3::Hasher,
    /// The piece that is not whole yet.
    open: Vec<u8>,
    len: u64,
}

impl Checksum {
    /// The checksum of nothing yet.
    pub fn new() -> Self {
        Checksum { hasher: blake3::Hasher::new(), open: Vec::with_capacity(PIECE), len: 0 }
    }

    /// Adds `bytes`.
    pub fn update(&mut self, mut bytes: &[u8]) {
        self.len += bytes.len() as u64;
        while !bytes.is_empty() {
            let (head, rest) = bytes.split_at(bytes.len().min(PIECE - self.open.len()));
            self.open.extend_from_slice(head);
            bytes = rest;
            if self.open.len() == PIECE {
                add_lanes(&mut self.hasher, &piece(&self.open));
                self.open.clear();
            }
        }
    }

    /// Adds `count` zero bytes.
    pub fn update_zeros(&mut self, count: u64) {
        let zeros = [0u8; BLOCK];
        let mut left = count;
        while left > 0 {
            let now = left.min(BLOCK as u64);
            self.update(&zeros[..now as usize]);
            left -= now;
        }
    }

    /// The checksum of all bytes added.
    pub fn finish(mut self) -> [u8; CHECKSUM_LEN] {
        if !self.open.is_empty() {
            add_lanes(&mut self.hasher, &piece(&self.open));
        }
        finish(self.hasher, self.len)
    }
}

impl Default for Checksum {
    fn default() -> Self {
        Checksum::new()
    }
}

#[inline(always)]
fn fold(lanes: &mut [u64; LANES], block: &[u8; BLOCK]) {
    let (words, _) = block.as_chunks::<8>();
    for (lane, word) in lanes.iter_mut().zip(words) {
        *lane = (*lane ^ u64::from_le_bytes(*word)).wrapping_mul(FACTOR).rotate_left(29);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_bit_flip_shows(mut bytes in prop::collection::vec(any::<u8>(), 1..400), at: prop::sample::Index, bit in 0u32..8) {
            let before = checksum(&bytes);
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert_ne!(before, checksum(&bytes));
        }
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(bytes in prop::collection::vec(any::<u8>(), 0..400), cuts in prop::collection::vec(0usize..400, 0..6)) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(bytes.len())).collect();
            cuts.sort_unstable();
            let mut sum = Checksum::new();
            let mut at = 0;
            for cut in cuts.into_iter().chain([bytes.len()]) {
                sum.update(&bytes[at..cut]);
                at = cut;
            }
            prop_assert_eq!(sum.finish(), checksum(&bytes));
        }
    }

    #[test]
    fn threads_and_parts_make_no_difference() {
        let bytes: Vec<u8> = (0..5 * PIECE + 77).map(|i| (i * 131 % 251) as u8).collect();
        let expected = checksum_on(&bytes, 1);
        for threads in [2, 3, 7, 100] {
            assert_eq!(checksum_on(&bytes, threads), expected, "{threads} threads");
        }
        let mut sum = Checksum::new();
        bytes.chunks(PIECE / 3 + 1).for_each(|part| sum.update(part));
        assert_eq!(sum.finish(), expected);
        for at in [0, PIECE - 1, PIECE, 5 * PIECE + 76] {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert_ne!(checksum_on(&changed, 2), expected, "byte {at}");
        }
        let swapped: Vec<u8> = bytes[PIECE..2 * PIECE].iter().chain(&bytes[..PIECE]).copied().collect();
        assert_ne!(checksum(&swapped), checksum(&bytes[..2 * PIECE]));
    }

    #[test]
    fn length_and_position_count() {
        assert_ne!(checksum(&[]), checksum(&[0]));
        assert_ne!(checksum(&[0; 64]), checksum(&[0; 128]));
        let (mut a, mut b) = ([0u8; 256], [0u8; 256]);
        a[0] = 1;
        b[64] = 1;
        assert_ne!(checksum(&a), checksum(&b));
    }
}
