//! JPEG files of one or three components in 8 bits, Huffman-coded, sequential or progressive (ITU-T T.81), to the very
//! pixels that libjpeg gives by default: its accurate integer inverse transform (after Loeffler, Ligtenberg, Moschytz,
//! 1989), its triangle filter between chroma samples, and its colour conversion in 16 bits. Other kinds of JPEG are
//! `None` here.

mod bits;
mod pixels;

use super::cx::Cx;
use super::fault::{Fault, invalid};
use bits::{Bits, Table};

/// Order in which a block's coefficients are coded.
const ZIGZAG: [u8; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7,
    14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39,
    46, 53, 60, 61, 54, 47, 55, 62, 63,
];

type Block = [i16; 64];

/// A component of the frame.
struct Component {
    id: u8,
    /// Samples of a unit, across and down.
    h: usize,
    v: usize,
    quantizer: usize,
    /// Blocks that hold samples of the image, across and down.
    blocks: [usize; 2],
    /// Blocks in a row of whole units.
    stride: usize,
    coefficients: Vec<Block>,
    /// Samples, across and down.
    size: [usize; 2],
}

/// The frame that a file holds.
struct Frame {
    width: usize,
    height: usize,
    progressive: bool,
    components: Vec<Component>,
    /// Largest sampling factors.
    h: usize,
    v: usize,
    /// Units, across and down.
    units: [usize; 2],
}

/// What markers set.
#[derive(Default)]
struct Tables {
    quantizers: [Option<[u16; 64]>; 4],
    dc: [Option<Table>; 4],
    ac: [Option<Table>; 4],
    /// Units between two restarts; 0 for none.
    restart: usize,
    /// The colour transform that an Adobe marker names.
    adobe: Option<u8>,
}

/// One scan's parameters.
struct Scan {
    /// Components with their tables for DC and AC.
    parts: Vec<(usize, usize, usize)>,
    start: usize,
    end: usize,
    high: u32,
    low: u32,
}

/// Pixels of an image.
pub(super) struct Pixels {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) rgb: Vec<u8>,
}

fn bad<T>(what: &str) -> Result<T, Fault> {
    invalid(format!("the JPEG file does not decode: {what}"))
}

fn word(bytes: &[u8], at: usize) -> Option<usize> {
    Some(usize::from(*bytes.get(at)?) << 8 | usize::from(*bytes.get(at + 1)?))
}

/// Decodes a file; `None` for kinds of JPEG that have no decoder here.
pub(super) fn decode(cx: &mut Cx<'_>, data: &[u8]) -> Result<Option<Pixels>, Fault> {
    let mut tables = Tables::default();
    let mut frame: Option<Frame> = None;
    let mut at = 2;
    loop {
        while data.get(at) == Some(&0xff) && data.get(at + 1) == Some(&0xff) {
            at += 1;
        }
        let (Some(0xff), Some(&marker)) = (data.get(at), data.get(at + 1)) else {
            // A file that is cut off shows what it has.
            break;
        };
        at += 2;
        if matches!(marker, 0x01 | 0xd0..=0xd8) {
            continue;
        }
        if marker == 0xd9 {
            break;
        }
        let Some(segment) = word(data, at).and_then(|length| data.get(at + 2..at + length)) else { break };
        at += segment.len() + 2;
        match marker {
            0xc0..=0xc2 if frame.is_none() => {
                let Some(read) = read_frame(cx, segment, marker == 0xc2)? else { return Ok(None) };
                frame = Some(read);
            }
            0xc4 => read_huffman(segment, &mut tables)?,
            0xdb => read_quantizers(segment, &mut tables)?,
            0xdd => tables.restart = word(segment, 0).unwrap_or(0),
            0xee if segment.starts_with(b"Adobe") => tables.adobe = segment.get(11).copied(),
            0xc0..=0xcf => return Ok(None),
            0xda => {
                let Some(frame) = &mut frame else { return bad("a scan before its frame") };
                let scan = read_scan(segment, frame)?;
                at += run_scan(cx, frame, &tables, &scan, data.get(at..).unwrap_or(&[]))?;
            }
            _ => {}
        }
    }
    match frame {
        Some(frame) => pixels::render(cx, &frame, &tables).map(Some),
        None => bad("there is no frame"),
    }
}

fn read_frame(cx: &mut Cx<'_>, s: &[u8], progressive: bool) -> Result<Option<Frame>, Fault> {
    let (Some(&bits), Some(height), Some(width), Some(&count)) =
        (s.first(), word(s, 1), word(s, 3), s.get(5))
    else {
        return bad("a short frame");
    };
    if bits != 8 || !matches!(count, 1 | 3) || height == 0 || width == 0 {
        return Ok(None);
    }
    let size = cx.admit(crate::DType::U8, &[height, width, 3])?;
    cx.tick(size)?;
    let mut components = vec![];
    for i in 0..usize::from(count) {
        let Some(&[id, factors, quantizer]) = s.get(6 + 3 * i..9 + 3 * i) else {
            return bad("a short frame");
        };
        let (h, v) = (usize::from(factors >> 4), usize::from(factors & 15));
        if !(1..=4).contains(&h) || !(1..=4).contains(&v) || quantizer > 3 {
            return bad("sampling factors or tables out of range");
        }
        let quantizer = usize::from(quantizer);
        let (blocks, coefficients) = ([0; 2], vec![]);
        components.push(Component { id, h, v, quantizer, blocks, stride: 0, coefficients, size: [0; 2] });
    }
    // A single component is not interleaved: its factors mean nothing.
    if let [one] = components.as_mut_slice() {
        (one.h, one.v) = (1, 1);
    }
    let h = components.iter().map(|c| c.h).max().unwrap_or(1);
    let v = components.iter().map(|c| c.v).max().unwrap_or(1);
    if components.iter().any(|c| h % c.h != 0 || v % c.v != 0) {
        return Ok(None);
    }
    let units = [width.div_ceil(8 * h), height.div_ceil(8 * v)];
    for c in &mut components {
        c.size = [(width * c.h).div_ceil(h), (height * c.v).div_ceil(v)];
        c.blocks = c.size.map(|samples| samples.div_ceil(8));
        c.stride = units[0] * c.h;
        c.coefficients = vec![[0; 64]; c.stride * units[1] * c.v];
    }
    Ok(Some(Frame { width, height, progressive, components, h, v, units }))
}

fn read_quantizers(mut s: &[u8], tables: &mut Tables) -> Result<(), Fault> {
    while let Some((&head, rest)) = s.split_first() {
        let wide = head >> 4 != 0;
        let length = if wide { 128 } else { 64 };
        let (Some(values), Some(slot)) =
            (rest.get(..length), tables.quantizers.get_mut(usize::from(head & 15)))
        else {
            return bad("a quantization table");
        };
        let mut table = [0; 64];
        for (i, &place) in ZIGZAG.iter().enumerate() {
            table[usize::from(place)] = match wide {
                true => u16::from_be_bytes([values[2 * i], values[2 * i + 1]]),
                false => u16::from(values[i]),
            };
        }
        *slot = Some(table);
        s = &rest[length..];
    }
    Ok(())
}

fn read_huffman(mut s: &[u8], tables: &mut Tables) -> Result<(), Fault> {
    while let Some((&head, rest)) = s.split_first() {
        let Some(counts) = rest.get(..16) else { return bad("a Huffman table") };
        let total: usize = counts.iter().map(|&c| usize::from(c)).sum();
        let kind = if head >> 4 == 0 { &mut tables.dc } else { &mut tables.ac };
        let (Some(symbols), Some(slot)) = (rest.get(16..16 + total), kind.get_mut(usize::from(head & 15)))
        else {
            return bad("a Huffman table");
        };
        *slot = Some(Table::new(counts, symbols));
        s = &rest[16 + total..];
    }
    Ok(())
}

fn read_scan(s: &[u8], frame: &Frame) -> Result<Scan, Fault> {
    let count = s.first().map_or(0, |&c| usize::from(c));
    let mut parts: Vec<(usize, usize, usize)> = vec![];
    for i in 0..count {
        let Some(&[id, tables]) = s.get(1 + 2 * i..3 + 2 * i) else { return bad("a short scan") };
        let Some(component) = frame.components.iter().position(|c| c.id == id) else {
            return bad("a scan of an unknown component");
        };
        if parts.iter().any(|&(other, ..)| other == component) {
            return bad("a scan of a component twice");
        }
        parts.push((component, usize::from(tables >> 4), usize::from(tables & 15)));
    }
    let Some(&[start, end, shifts]) = s.get(1 + 2 * count..4 + 2 * count) else { return bad("a short scan") };
    let (start, end) = if frame.progressive { (usize::from(start), usize::from(end)) } else { (0, 63) };
    let (high, low) =
        if frame.progressive { (u32::from(shifts >> 4), u32::from(shifts & 15)) } else { (0, 0) };
    let mixed = frame.progressive && start == 0 && end != 0;
    let several = start > 0 && parts.len() != 1;
    if parts.is_empty() || start > end || end > 63 || low > 13 || high > 13 || mixed || several {
        return bad("a scan's parameters");
    }
    Ok(Scan { parts, start, end, high, low })
}

/// Decodes a scan's coefficients; gives the length of its data.
fn run_scan(
    cx: &mut Cx<'_>,
    frame: &mut Frame,
    tables: &Tables,
    scan: &Scan,
    data: &[u8],
) -> Result<usize, Fault> {
    let mut bits = Bits::new(data);
    let (mut predictions, mut run) = ([0i32; 4], 0u32);
    // One component alone goes block by block over its samples, several unit by unit.
    let alone = scan.parts.len() == 1;
    let [across, down] = match scan.parts.as_slice() {
        [(component, ..)] => frame.components[*component].blocks,
        _ => frame.units,
    };
    let blocks = |&(index, ..): &(usize, usize, usize)| {
        let component = &frame.components[index];
        if alone { 1 } else { component.h * component.v }
    };
    let work = across.saturating_mul(64 * scan.parts.iter().map(blocks).sum::<usize>());
    let mut left = tables.restart;
    for y in 0..down {
        cx.tick(work)?;
        for x in 0..across {
            if tables.restart > 0 {
                if left == 0 {
                    bits.restart();
                    (predictions, run, left) = ([0; 4], 0, tables.restart);
                }
                left -= 1;
            }
            for &(index, dc, ac) in &scan.parts {
                let component = &mut frame.components[index];
                let (h, v) = if alone { (1, 1) } else { (component.h, component.v) };
                for (row, column) in (0..v).flat_map(|row| (0..h).map(move |column| (row, column))) {
                    let place = (y * v + row) * component.stride + x * h + column;
                    let Some(block) = component.coefficients.get_mut(place) else { continue };
                    let pair = (tables.dc.get(dc), tables.ac.get(ac));
                    let (dc, ac) = (pair.0.and_then(Option::as_ref), pair.1.and_then(Option::as_ref));
                    let coder = Coder { scan, dc, ac, progressive: frame.progressive };
                    coder.block(&mut bits, block, &mut predictions[index], &mut run)?;
                }
            }
        }
    }
    Ok(bits.end())
}

/// The decoder of a scan's blocks of one component.
struct Coder<'t> {
    scan: &'t Scan,
    dc: Option<&'t Table>,
    ac: Option<&'t Table>,
    progressive: bool,
}

impl Coder<'_> {
    fn block(
        &self,
        bits: &mut Bits<'_>,
        block: &mut Block,
        prediction: &mut i32,
        run: &mut u32,
    ) -> Result<(), Fault> {
        let missing = || Fault::Operands("the JPEG file does not decode: a table is missing".to_owned());
        let scan = self.scan;
        if scan.start == 0 {
            if scan.high == 0 {
                let size = self.dc.ok_or_else(missing)?.symbol(bits);
                *prediction = prediction.wrapping_add(bits.signed(u32::from(size & 15)));
                block[0] = (*prediction << scan.low) as i16;
            } else if bits.take(1) == 1 {
                block[0] |= 1 << scan.low;
            }
            if self.progressive {
                return Ok(());
            }
        }
        let table = self.ac.ok_or_else(missing)?;
        match (self.progressive, scan.high) {
            (true, 1..) => self.refine(table, bits, block, run),
            _ => self.first(table, bits, block, run),
        }
        Ok(())
    }

    /// Coefficients that no scan has named before.
    fn first(&self, table: &Table, bits: &mut Bits<'_>, block: &mut Block, run: &mut u32) {
        if *run > 0 {
            *run -= 1;
            return;
        }
        let mut k = self.scan.start.max(1);
        while k <= self.scan.end {
            let symbol = table.symbol(bits);
            let (zeros, size) = (usize::from(symbol >> 4), u32::from(symbol & 15));
            if size == 0 {
                if zeros < 15 {
                    if self.progressive {
                        *run = (1 << zeros) - 1 + bits.take(zeros as u32);
                    }
                    return;
                }
                k += 16;
                continue;
            }
            k += zeros;
            let value = bits.signed(size) << self.scan.low;
            if k <= self.scan.end {
                block[usize::from(ZIGZAG[k])] = value as i16;
            }
            k += 1;
        }
    }

    /// One more bit of each coefficient, and coefficients that this bit makes the first of.
    fn refine(&self, table: &Table, bits: &mut Bits<'_>, block: &mut Block, run: &mut u32) {
        let bit = 1i16 << self.scan.low;
        let mut k = self.scan.start;
        if *run == 0 {
            while k <= self.scan.end {
                let symbol = table.symbol(bits);
                let (mut zeros, mut value) = (symbol >> 4, 0);
                match symbol & 15 {
                    0 if zeros < 15 => {
                        *run = (1 << zeros) + bits.take(u32::from(zeros));
                        break;
                    }
                    0 => {}
                    _ => value = if bits.take(1) == 1 { bit } else { -bit },
                }
                while k <= self.scan.end {
                    let at = &mut block[usize::from(ZIGZAG[k])];
                    if *at != 0 {
                        correct(bits, at, bit);
                    } else if zeros == 0 {
                        if value != 0 {
                            *at = value;
                        }
                        k += 1;
                        break;
                    } else {
                        zeros -= 1;
                    }
                    k += 1;
                }
                if bits.is_empty() {
                    break;
                }
            }
        }
        if *run > 0 {
            for &place in ZIGZAG.iter().take(self.scan.end + 1).skip(k) {
                let at = &mut block[usize::from(place)];
                if *at != 0 {
                    correct(bits, at, bit);
                }
            }
            *run -= 1;
        }
    }
}

/// The next bit of a coefficient that is not zero.
fn correct(bits: &mut Bits<'_>, at: &mut i16, bit: i16) {
    if bits.take(1) == 1 && *at & bit == 0 {
        *at = if *at > 0 { at.wrapping_add(bit) } else { at.wrapping_sub(bit) };
    }
}
