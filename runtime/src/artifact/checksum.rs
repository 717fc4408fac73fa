//! The checksum of artifact sections: eight 64-bit lanes, each folding every eighth word, finished with BLAKE3.
//!
//! One step of a lane is `(lane ^ word) * odd`, rotated: a bijection of the lane for a fixed word and of the word for
//! a fixed lane, so a change within one word always changes the result. It runs at memory bandwidth, which is why all
//! sections, weights included, are verified whenever an artifact is opened. It guards against damage, not against an
//! adversary: an artifact is code, and is trusted like a shared library.

/// Bytes of a checksum.
pub const CHECKSUM_LEN: usize = 32;

const LANES: usize = 8;
const BLOCK: usize = LANES * 8;
/// Odd, with bits spread evenly: 2^64 divided by the golden ratio.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// Checksum of `bytes`.
pub fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_LEN] {
    let mut sum = Checksum::new();
    sum.update(bytes);
    sum.finish()
}

/// A checksum over bytes that come in pieces; how they are cut makes no difference.
pub struct Checksum {
    lanes: [u64; LANES],
    partial: [u8; BLOCK],
    len: u64,
}

impl Checksum {
    /// The checksum of nothing yet.
    pub fn new() -> Self {
        let lanes = std::array::from_fn(|i| (i as u64 + 1).wrapping_mul(FACTOR));
        Checksum { lanes, partial: [0; BLOCK], len: 0 }
    }

    /// Adds `bytes`.
    pub fn update(&mut self, mut bytes: &[u8]) {
        let filled = (self.len % BLOCK as u64) as usize;
        self.len += bytes.len() as u64;
        if filled > 0 {
            let (head, rest) = bytes.split_at(bytes.len().min(BLOCK - filled));
            self.partial[filled..filled + head.len()].copy_from_slice(head);
            if filled + head.len() < BLOCK {
                return;
            }
            fold(&mut self.lanes, &self.partial);
            bytes = rest;
        }
        let (blocks, tail) = bytes.as_chunks::<BLOCK>();
        let mut lanes = self.lanes;
        for block in blocks {
            fold(&mut lanes, block);
        }
        self.lanes = lanes;
        self.partial = [0; BLOCK];
        self.partial[..tail.len()].copy_from_slice(tail);
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
        if !self.len.is_multiple_of(BLOCK as u64) {
            let partial = self.partial;
            fold(&mut self.lanes, &partial);
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.len.to_le_bytes());
        for lane in self.lanes {
            hasher.update(&lane.to_le_bytes());
        }
        *hasher.finalize().as_bytes()
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
    fn length_and_position_count() {
        assert_ne!(checksum(&[]), checksum(&[0]));
        assert_ne!(checksum(&[0; 64]), checksum(&[0; 128]));
        let (mut a, mut b) = ([0u8; 256], [0u8; 256]);
        a[0] = 1;
        b[64] = 1;
        assert_ne!(checksum(&a), checksum(&b));
    }
}
