//! Random structures are grown from a list of numbers, each of which decides one thing: shortening or lowering the
//! numbers gives simpler structures.

/// The numbers that are left.
pub struct Choices<'a> {
    numbers: std::slice::Iter<'a, u16>,
}

impl<'a> Choices<'a> {
    /// Choices by these numbers.
    pub fn new(numbers: &'a [u16]) -> Choices<'a> {
        Choices { numbers: numbers.iter() }
    }

    /// Whether all that follow are 0.
    pub fn is_empty(&self) -> bool {
        self.numbers.len() == 0
    }

    /// A number below `n`; 0 where there are no more choices.
    pub fn below(&mut self, n: usize) -> usize {
        usize::from(self.numbers.next().copied().unwrap_or(0)) % n.max(1)
    }

    /// A number in `low..=high`.
    pub fn between(&mut self, low: i64, high: i64) -> i64 {
        low + self.below((high - low + 1) as usize) as i64
    }

    /// One of the items.
    pub fn of<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())]
    }

    /// True or false.
    pub fn flag(&mut self) -> bool {
        self.below(2) == 1
    }

    /// All numbers that are left.
    pub fn rest(&mut self) -> &'a [u16] {
        std::mem::take(&mut self.numbers).as_slice()
    }
}

/// The first `count` numbers of a seed.
pub fn numbers(seed: u64, count: usize) -> Vec<u16> {
    (0..count as u64).map(|i| (mix(mix(seed).wrapping_add(i)) >> 48) as u16).collect()
}

/// A hash of a number (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
pub fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Fewer or lower numbers for which `fails` still holds; it holds for `numbers`.
pub fn shrink(numbers: &[u16], mut fails: impl FnMut(&[u16]) -> bool) -> Vec<u16> {
    let mut best = numbers.to_vec();
    let mut left = 400;
    let mut attempt = |best: &mut Vec<u16>, candidate: Vec<u16>| {
        let better = left > 0 && candidate != *best && fails(&candidate);
        left -= i32::from(left > 0);
        if better {
            *best = candidate;
        }
        better
    };
    let mut size = best.len() / 2;
    while size > 0 {
        let mut at = best.len().saturating_sub(size);
        loop {
            let mut without = best.clone();
            without.drain(at..(at + size).min(best.len()));
            if !attempt(&mut best, without) && size <= 8 {
                let mut zeros = best.clone();
                zeros.iter_mut().skip(at).take(size).for_each(|n| *n = 0);
                attempt(&mut best, zeros);
            }
            if at == 0 {
                break;
            }
            at = at.saturating_sub(size).min(best.len());
        }
        size /= 2;
    }
    best
}

/// A hash of a text.
pub fn hash(text: &str) -> u64 {
    text.bytes().fold(0, |state, byte| mix(state ^ u64::from(byte)))
}
