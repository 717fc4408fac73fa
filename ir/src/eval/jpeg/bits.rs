//! The bits of entropy-coded data. After the end, or at a marker, there are zeros.

/// A reader of bits, most significant first.
pub(super) struct Bits<'d> {
    data: &'d [u8],
    at: usize,
    held: u64,
    count: u32,
    /// Zeros that were made up because the data had ended.
    invented: u32,
}

impl<'d> Bits<'d> {
    pub(super) fn new(data: &'d [u8]) -> Self {
        Bits { data, at: 0, held: 0, count: 0, invented: 0 }
    }

    fn fill(&mut self) {
        while self.count <= 48 {
            let byte = match (self.data.get(self.at), self.data.get(self.at + 1)) {
                (Some(0xff), Some(0)) => {
                    self.at += 2;
                    0xff
                }
                (Some(0xff), _) | (None, _) => {
                    self.invented += 8;
                    0
                }
                (Some(&byte), _) => {
                    self.at += 1;
                    byte
                }
            };
            self.held = self.held << 8 | u64::from(byte);
            self.count += 8;
        }
    }

    /// The next `count` bits, at most 16, without taking them.
    fn peek(&mut self, count: u32) -> u32 {
        if self.count < count {
            self.fill();
        }
        ((self.held >> (self.count - count)) & ((1 << count) - 1)) as u32
    }

    /// The next `count` bits, at most 16.
    pub(super) fn take(&mut self, count: u32) -> u32 {
        let bits = self.peek(count);
        self.count -= count;
        self.invented = self.invented.min(64 + self.count);
        bits
    }

    /// A number of `size` bits as T.81 extends it: the lower half stands for negative numbers.
    pub(super) fn signed(&mut self, size: u32) -> i32 {
        let value = self.take(size) as i32;
        match size {
            0 => 0,
            _ if value < 1 << (size - 1) => value - (1 << size) + 1,
            _ => value,
        }
    }

    /// Whether only made-up bits are left.
    pub(super) fn is_empty(&self) -> bool {
        self.invented >= 64
    }

    /// Drops what is left of the interval, and passes the restart marker.
    pub(super) fn restart(&mut self) {
        (self.held, self.count, self.invented) = (0, 0, 0);
        while let Some(&byte) = self.data.get(self.at) {
            match (byte, self.data.get(self.at + 1)) {
                (0xff, Some(0xd0..=0xd7)) => {
                    self.at += 2;
                    return;
                }
                (0xff, Some(1..=0xfe)) => return,
                _ => self.at += 1,
            }
        }
    }

    /// Where the data ends: at the next marker.
    pub(super) fn end(&self) -> usize {
        let marker = |pair: &[u8]| pair[0] == 0xff && !matches!(pair[1], 0 | 0xd0..=0xd7 | 0xff);
        let rest = self.data.get(self.at..).unwrap_or(&[]);
        rest.windows(2).position(marker).map_or(self.data.len(), |offset| self.at + offset)
    }
}

/// A Huffman table: for each length, the first code, how many there are, and where their symbols start.
pub(super) struct Table {
    lengths: [(u32, u32, usize); 16],
    symbols: Vec<u8>,
}

impl Table {
    /// `counts[i]` codes of `i + 1` bits, their symbols in order.
    pub(super) fn new(counts: &[u8], symbols: &[u8]) -> Self {
        let (mut lengths, mut code, mut start) = ([(0, 0, 0); 16], 0u32, 0);
        for (length, &count) in lengths.iter_mut().zip(counts) {
            *length = (code, u32::from(count), start);
            code = (code + u32::from(count)) << 1;
            start += usize::from(count);
        }
        Table { lengths, symbols: symbols.to_vec() }
    }

    /// The next symbol; 0, an end, for bits that are no code.
    pub(super) fn symbol(&self, bits: &mut Bits<'_>) -> u8 {
        let next = bits.peek(16);
        for (&(first, count, start), length) in self.lengths.iter().zip(1u32..) {
            let code = next >> (16 - length);
            if let Some(offset) = code.checked_sub(first).filter(|&offset| offset < count) {
                bits.take(length);
                return self.symbols.get(start + offset as usize).copied().unwrap_or(0);
            }
        }
        bits.take(16);
        0
    }
}
