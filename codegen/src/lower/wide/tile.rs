//! Tiles of contractions: packed rows of the left operand times one panel of the right, sums in registers.
//!
//! A tile is `H` rows by the panel's `V` vectors. `H` is what the register file holds: `H * V` sums, `V` vectors of the
//! panel and one broadcast, the formula of oneDNN's `brgemm` kernels. Where that gives too few rows, the last vector of
//! the panel stays in memory. A function handles any number of rows: it spreads them over tiles of nearly equal height,
//! so that no tile is too short to hide the latency of its additions. Where rows come in lines that are short, a tile has
//! several of them: the panel comes from the second-level cache once for each tile, and short tiles would wait for it.
//!
//! Sums of many products are taken in parts ([`crate::kir::PART`]): after each, a subroutine adds the registers to the
//! sums in memory, which are in the first-level cache, and the next part begins at zero.
//!
//! While it computes, a function can ask for the lines of what is multiplied next (the next panel): panels come from
//! beyond the second-level cache, and hardware does not look ahead across pages.

use iced_x86::{Code, MemoryOperand, Register};
use kiln_ir::DType;

use super::asm::{Assembler, Label, at, vector};
use super::finish::{Finish, Sums, SumsInMemory};
use super::lir::ROWS;
use super::quads::Quads;
use super::{WideError, WideFunction, Width};
use crate::kir::PART;
use crate::schedule::even;

/// Steps of the reduction a loop iteration does.
pub const UNROLL: i64 = 4;

/// Longest runs that are unrolled.
pub const MOST_SHORT: i64 = 12;

/// Bytes of a cache line.
pub const LINE: i64 = 64;

/// Sums of one row and one panel: enough to hide latency; more rows would only lengthen the code.
pub const MOST_ROWS: usize = 14;

/// Shape of a tile function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tile {
    /// Vectors of the tier.
    pub vectors: Width,
    /// Dtype of the sums: f32, f64 or i32.
    pub acc: DType,
    /// Dtype of the panel's elements.
    pub storage: DType,
    /// How elements are multiplied that are four bytes, of u8 in rows and i8 in the panel; both count as i32 here.
    pub quads: Option<Quads>,
    /// Whether bytes of rows are signed: the sign is flipped, which adds 128.
    pub flip: bool,
    /// Panel width in elements: a multiple of the vector's lanes.
    pub width: i64,
    /// Bytes between rows of the left operand.
    pub row_stride: i64,
    /// Bytes between steps of the reduction in a row of the left operand.
    pub row_step: i64,
    /// Elements between steps of the reduction in the panel: at least `width`.
    pub panel_step: i64,
    /// Lines of rows, where tiles have several of them and a function's rows are counted in lines.
    pub lines: Option<Lines>,
    /// Bytes between rows of sums.
    pub sum_stride: i64,
    /// Cache lines to ask for in advance, every [`Tile::unroll`] steps of the reduction.
    pub prefetch: i64,
    /// Outer reduction axes, outermost first: extent, and bytes from one to the next in a row. The panel has their
    /// elements one after the other.
    pub taps: [(i64, i64); 2],
    /// The depth of a tap where it is known and short: its steps are then unrolled.
    pub short: Option<i64>,
    /// Most rows of a tile: fewer than registers allow where rows share sets of the first-level cache.
    pub most_rows: usize,
    /// Whether to add to the sums in memory (or to replace them).
    pub accumulate: bool,
    /// Steps of the reduction after which sums are added to those in memory, a multiple of [`UNROLL`]; `None` where all
    /// steps of a call are one part.
    pub part: Option<i64>,
    /// Lines of the result to ask for in advance.
    pub result: Option<ResultLines>,
}

/// Rows that come in lines, each at its own distance from the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lines {
    /// Rows of a line.
    pub rows: i64,
    /// Bytes from line to line of the left operand.
    pub stride: i64,
}

impl Lines {
    /// Bytes from the first row to another, rows of a line `row_stride` bytes apart.
    pub fn offset(&self, row: i64, row_stride: i64) -> i64 {
        row / self.rows * self.stride + row % self.rows * row_stride
    }
}

/// Cache lines that are written when a tile is done: a function asks for those of a tile while it computes it, since
/// they are often another core's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ResultLines {
    /// Bytes between rows.
    pub stride: i64,
    /// Lines of a row.
    pub lines: i64,
    /// Rows to ask for every [`UNROLL`] steps of the reduction.
    pub rows: i64,
}

/// A part of the reduction in the code of a tile.
struct Part {
    steps: i64,
    /// Whether there are sums in memory.
    mark: MemoryOperand,
    /// Where its sums are added to memory.
    full: Label,
    /// Where the next one begins.
    resume: Label,
}

/// Instructions of a dtype of sums.
pub(super) struct Codes {
    fma: Code,
    add: Code,
    pub(super) broadcast: Code,
    pub(super) load: Code,
    store: Code,
    zero: Code,
}

// Arguments, and what the function keeps where.
pub(super) const ROWS_LEFT: Register = Register::R11;
pub(super) const A: Register = Register::RDI;
pub(super) const PANEL: Register = Register::RSI;
pub(super) const SUMS: Register = Register::R10;
pub(super) const NEXT: Register = Register::RCX;
pub(super) const DEPTH: Register = Register::R8;
pub(super) const HEIGHT: Register = Register::R9;
pub(super) const TALLER: Register = Register::RDX;
pub(super) const A_AT: Register = Register::R12;
pub(super) const B_AT: Register = Register::RBX;
pub(super) const COUNT: Register = Register::RAX;
pub(super) const TAP: Register = Register::R13;
pub(super) const TAPS_LEFT: [Register; 2] = [Register::R14, Register::RBP];
/// The words of an epilogue, until sums take the register.
pub(super) const FRAME: Register = Register::RDX;
/// Steps of the part that are left.
const PART_LEFT: Register = Register::R15D;
/// Next row of the result to ask for, and how often that is left to do: what taps need else.
const RESULT: Register = TAP;
const RESULT_LEFT: Register = Register::R14D;

/// What a function keeps for its caller. The last place is no register's but the mark's: see [`Part`].
pub(super) const SAVED: [Register; 7] =
    [B_AT, A_AT, TAP, TAPS_LEFT[0], TAPS_LEFT[1], Register::R15, Register::RAX];

/// The argument on the stack, above what is saved: the first row of the result, later that of the tile.
const RESULT_PLACE: i64 = 8 * (SAVED.len() as i64 + 1);

impl Tile {
    /// Whether there is a function of this shape.
    pub fn is_supported(&self) -> bool {
        let lanes = self.lanes();
        let sums = matches!(self.acc, DType::F32 | DType::F64 | DType::I32);
        let storage = match self.acc {
            DType::F32 => matches!(self.storage, DType::F32 | DType::F16 | DType::BF16),
            DType::F64 => self.storage == DType::F64,
            DType::I32 => {
                matches!(self.storage, DType::I32 | DType::I16 | DType::I8 | DType::U16 | DType::U8)
            }
            _ => false,
        };
        // F16C is no part of every machine that has AVX2.
        let half = self.vectors == Width::W256 && self.storage == DType::F16;
        let bytes = self.quads.is_none() || (self.acc, self.storage) == (DType::I32, DType::I32);
        sums && storage
            && bytes
            && !half
            && self.width % lanes == 0
            && (1..=4).contains(&(self.width / lanes))
            && self.amx_steps().is_none_or(|steps| self.fits_amx(steps))
    }

    /// Lines of a result with rows `stride` bytes apart to ask for in sums of `depth` products; `None` where that is too
    /// little to do meanwhile.
    pub fn result_lines(&self, stride: i64, depth: i64) -> Option<ResultLines> {
        if self.amx_steps().is_some() {
            return None;
        }
        let [(outer, _), (inner, _)] = self.taps;
        let height = self.height() as i64;
        let times = depth / UNROLL;
        let possible = self.vectors == Width::W512 && outer * inner == 1 && self.short.is_none() && times > 0;
        let lines = self.width * self.acc_bytes() / LINE;
        possible.then(|| ResultLines { stride, lines, rows: (height + times - 1) / times })
    }

    /// Elements of a vector of sums.
    pub fn lanes(&self) -> i64 {
        self.vectors.bytes() / self.acc_bytes()
    }

    fn acc_bytes(&self) -> i64 {
        (self.acc.bits() / 8) as i64
    }

    pub(super) fn count(&self) -> usize {
        (self.width / self.lanes()) as usize
    }

    /// Steps of the reduction that a function does at once and that it asks for lines for.
    pub fn unroll(&self) -> i64 {
        self.amx_steps().unwrap_or(UNROLL)
    }

    /// Steps of one product of tile registers.
    pub fn amx_steps(&self) -> Option<i64> {
        match self.quads {
            Some(Quads::Amx { steps }) => Some(i64::from(steps)),
            Some(Quads::Vnni | Quads::Words) | None => None,
        }
    }

    /// Lines to ask for so that another panel has come when so many tiles are done.
    pub fn prefetch_for(&self, tiles: i64) -> i64 {
        let lines = self.unroll() * self.panel_step * (self.storage.bits() / 8) as i64 / LINE;
        (lines + tiles.max(1) - 1) / tiles.max(1)
    }

    /// Tiles of a call for so many rows.
    pub fn tiles(&self, rows: i64) -> i64 {
        let height = self.height() as i64;
        (rows + height - 1) / height
    }

    /// Rows that tiles do not divide.
    fn unit(&self) -> usize {
        self.lines.map_or(1, |lines| lines.rows as usize)
    }

    /// Bytes from a tile's first row to another.
    pub(super) fn row_offset(&self, row: usize) -> i64 {
        let row = row as i64;
        self.lines.map_or(row * self.row_stride, |lines| lines.offset(row, self.row_stride))
    }

    /// The length of parts for `depth` steps in a call: of nearly equal length. Integers are exact in any order.
    pub fn part_of(&self, depth: i64) -> Option<i64> {
        (self.acc.is_float() && depth > PART).then(|| even(depth, PART, UNROLL))
    }

    /// Rows of the tallest tile.
    pub fn height(&self) -> usize {
        self.height_with(self.panel_registers())
    }

    fn height_with(&self, panel_registers: usize) -> usize {
        if self.amx_steps().is_some() {
            return self.amx_group();
        }
        // One register for the broadcast, and one for products where they are not fused.
        let other = match self.quads {
            Some(quads) => quads.registers() + usize::from(self.flip),
            None if self.acc == DType::I32 => 2,
            None => 1,
        };
        let free = self.vectors.registers() - panel_registers - other;
        let rows = (free / self.count()).clamp(1, self.most_rows);
        (rows / self.unit()).max(1) * self.unit()
    }

    /// Vectors of the panel that are held in registers: all, or all but one where that gives taller tiles and loads
    /// stay fewer than multiplications.
    fn panel_registers(&self) -> usize {
        let count = self.count();
        let fused = match self.quads {
            Some(quads) => quads == Quads::Vnni,
            None => self.acc != DType::I32 && self.storage == self.acc,
        };
        if count < 2 || !fused {
            return count * self.quads.map_or(1, Quads::panel_registers);
        }
        let height = self.height_with(count - 1);
        let loads = count - 1 + 2 * height;
        let fewer = loads * 5 <= height * count * 4;
        if height > self.height_with(count) && fewer { count - 1 } else { count }
    }

    pub(super) fn codes(&self) -> Codes {
        let float = self.float_codes();
        match (self.vectors, self.acc) {
            (Width::W512, DType::I32) => Codes { add: Code::EVEX_Vpaddd_zmm_k1z_zmm_zmmm512b32, ..float },
            (Width::W256, DType::I32) => Codes { add: Code::VEX_Vpaddd_ymm_ymm_ymmm256, ..float },
            _ => float,
        }
    }

    fn float_codes(&self) -> Codes {
        match (self.vectors, self.acc) {
            (Width::W512, DType::F64) => Codes {
                fma: Code::EVEX_Vfmadd231pd_zmm_k1z_zmm_zmmm512b64_er,
                add: Code::EVEX_Vaddpd_zmm_k1z_zmm_zmmm512b64_er,
                broadcast: Code::EVEX_Vbroadcastsd_zmm_k1z_xmmm64,
                load: Code::EVEX_Vmovups_zmm_k1z_zmmm512,
                store: Code::EVEX_Vmovups_zmmm512_k1z_zmm,
                zero: Code::EVEX_Vpxord_zmm_k1z_zmm_zmmm512b32,
            },
            (Width::W512, _) => Codes {
                fma: Code::EVEX_Vfmadd231ps_zmm_k1z_zmm_zmmm512b32_er,
                add: Code::EVEX_Vaddps_zmm_k1z_zmm_zmmm512b32_er,
                broadcast: Code::EVEX_Vbroadcastss_zmm_k1z_xmmm32,
                load: Code::EVEX_Vmovups_zmm_k1z_zmmm512,
                store: Code::EVEX_Vmovups_zmmm512_k1z_zmm,
                zero: Code::EVEX_Vpxord_zmm_k1z_zmm_zmmm512b32,
            },
            (Width::W256, DType::F64) => Codes {
                fma: Code::VEX_Vfmadd231pd_ymm_ymm_ymmm256,
                add: Code::VEX_Vaddpd_ymm_ymm_ymmm256,
                broadcast: Code::VEX_Vbroadcastsd_ymm_m64,
                load: Code::VEX_Vmovups_ymm_ymmm256,
                store: Code::VEX_Vmovups_ymmm256_ymm,
                zero: Code::VEX_Vxorps_ymm_ymm_ymmm256,
            },
            (Width::W256, _) => Codes {
                fma: Code::VEX_Vfmadd231ps_ymm_ymm_ymmm256,
                add: Code::VEX_Vaddps_ymm_ymm_ymmm256,
                broadcast: Code::VEX_Vbroadcastss_ymm_m32,
                load: Code::VEX_Vmovups_ymm_ymmm256,
                store: Code::VEX_Vmovups_ymmm256_ymm,
                zero: Code::VEX_Vxorps_ymm_ymm_ymmm256,
            },
        }
    }

    pub(super) fn register(&self, i: usize) -> Register {
        vector(self.vectors.bytes(), i)
    }

    pub(super) fn sum(&self, row: usize, column: usize) -> Register {
        self.register(row * self.count() + column)
    }

    /// The function `(rows, panel, sums, what comes next, depth of a tap, number of rows)`, or of lines where rows
    /// have them, and where it asks for lines of the result the address of that as well:
    /// `sums[row][column] (+)= sum over depth of a[row][k] * b[k][column]`, all columns of the panel.
    pub fn emit(&self) -> Result<WideFunction, WideError> {
        self.function(None).map(|(function, _)| function)
    }

    /// The same with an epilogue on the sums, which go nowhere else: the third argument is the address of the epilogue's
    /// words. Where sums have several parts, one tile's are in memory meanwhile; where they are added to those in memory,
    /// what is left there is of no use.
    pub fn finished(&self, finish: &Finish) -> Result<WideFunction, WideError> {
        let mut slots = 0;
        // How many slots the stack needs is known when all is emitted.
        for _ in 0..2 {
            let (function, needed) = self.function(Some((finish, slots)))?;
            if needed <= slots {
                return Ok(WideFunction { stack: slots * self.vectors.bytes() as u32, ..function });
            }
            slots = needed;
        }
        Err(WideError::Unsupported("epilogues whose need of stack changes".to_owned()))
    }

    fn function(&self, finish: Option<(&Finish, u32)>) -> Result<(WideFunction, u32), WideError> {
        if !self.is_supported() {
            return Err(WideError::Unsupported(format!("tiles like {self:?}")));
        }
        if let Some(steps) = self.amx_steps() {
            return self.amx_function(steps, finish);
        }
        let mut needed = 0;
        let mut asm = Assembler::default();
        // Rows, or lines of them.
        let most = self.height() / self.unit();
        for register in SAVED {
            asm.op1(Code::Push_r64, register);
        }
        if let Some((finish, _)) = finish {
            asm.op1(Code::Push_r64, FRAME);
            finish.prepare(&mut asm, FRAME, self.count());
            asm.op2(Code::Mov_r64_rm64, FRAME, at(FRAME, 8 * i64::from(ROWS.0)));
        }
        let end = asm.label();
        asm.op2(Code::Test_rm64_r64, Register::R9, Register::R9);
        asm.jump(Code::Je_rel32_64, end);
        self.spread_rows(&mut asm, most);
        let next = asm.here();
        // The first tiles are one row taller, so that all rows are in some tile.
        let dispatch = asm.label();
        asm.op2(Code::Mov_r32_rm32, Register::EAX, Register::R9D);
        asm.op2(Code::Test_rm32_r32, Register::EDX, Register::EDX);
        asm.jump(Code::Je_rel32_64, dispatch);
        asm.op1(Code::Dec_rm32, Register::EDX);
        asm.op1(Code::Inc_rm32, Register::EAX);
        asm.bind(dispatch);
        let tiles: Vec<_> = (1..=most).map(|h| (h, asm.label())).collect();
        for &(h, label) in tiles.iter().rev() {
            asm.op2(Code::Cmp_rm32_imm8, Register::EAX, h as i32);
            asm.jump(Code::Je_rel32_64, label);
        }
        asm.jump(Code::Jmp_rel32_64, end);
        let in_loop = finish.filter(|(finish, _)| finish.is_loop()).map(|found| (found, asm.label()));
        for &(h, label) in tiles.iter().rev() {
            asm.bind(label);
            let rows = h * self.unit();
            if let Some((_, sums_are_done)) = in_loop {
                self.rows(&mut asm, rows, finish)?;
                asm.op2(Code::Mov_rm64_imm32, at(Register::RSP, 8), rows as i32);
                asm.jump(Code::Jmp_rel32_64, sums_are_done);
                continue;
            }
            needed = needed.max(self.rows(&mut asm, rows, finish)?);
            asm.op1(Code::Dec_rm32, Register::R11D);
            asm.jump(Code::Jne_rel32_64, next);
            asm.jump(Code::Jmp_rel32_64, end);
        }
        if let Some(((finish, slots), sums_are_done)) = in_loop {
            asm.bind(sums_are_done);
            needed = self.finish_rows(&mut asm, finish, slots)?;
            asm.op1(Code::Dec_rm32, Register::R11D);
            asm.jump(Code::Jne_rel32_64, next);
        }
        asm.bind(end);
        asm.op0(Code::VEX_Vzeroupper);
        if finish.is_some() {
            asm.op1(Code::Pop_r64, FRAME);
        }
        for register in SAVED.into_iter().rev() {
            asm.op1(Code::Pop_r64, register);
        }
        asm.op0(Code::Retnq);
        Ok((asm.finish()?, needed))
    }

    /// `count = ceil(rows / height)` tiles of `rows / count` rows, `rows % count` of them one row taller.
    pub(super) fn spread_rows(&self, asm: &mut Assembler, height: usize) {
        asm.op2(Code::Mov_r64_rm64, SUMS, Register::RDX);
        asm.op2(Code::Lea_r32_m, Register::EAX, at(Register::R9, height as i64 - 1));
        asm.op2(Code::Xor_r32_rm32, Register::EDX, Register::EDX);
        asm.op2(Code::Mov_r32_imm32, Register::R11D, height as i32);
        asm.op1(Code::Div_rm32, Register::R11D);
        asm.op2(Code::Mov_r32_rm32, Register::R11D, Register::EAX);
        asm.op2(Code::Mov_r32_rm32, Register::EAX, Register::R9D);
        asm.op2(Code::Xor_r32_rm32, Register::EDX, Register::EDX);
        asm.op1(Code::Div_rm32, Register::R11D);
        asm.op2(Code::Mov_r32_rm32, Register::R9D, Register::EAX);
        debug_assert!(ROWS_LEFT == Register::R11 && HEIGHT == Register::R9 && TALLER == Register::RDX);
    }

    /// One tile; moves the pointers to rows and sums on. Gives the stack slots that the epilogue needs.
    fn rows(
        &self,
        asm: &mut Assembler,
        height: usize,
        finish: Option<(&Finish, u32)>,
    ) -> Result<u32, WideError> {
        let codes = self.codes();
        // The address of an epilogue's words is below.
        let below = if finish.is_some() { 8 } else { 0 };
        let mark = at(Register::RSP, below);
        if let Some(result) = self.result {
            let place = at(Register::RSP, below + RESULT_PLACE);
            asm.op2(Code::Mov_r64_rm64, RESULT, place);
            let times = (height as i64 + result.rows - 1) / result.rows;
            asm.op2(Code::Mov_r32_imm32, RESULT_LEFT, times as i32);
            asm.op2(Code::Add_rm64_imm32, place, (height as i64 * result.stride) as i32);
        }
        self.clear(asm, &codes, height);
        let part = self.part.map(|steps| Part { steps, mark, full: asm.label(), resume: asm.label() });
        if let Some(part) = &part {
            asm.op2(Code::Mov_r32_imm32, PART_LEFT, part.steps as i32);
            asm.op2(Code::Mov_rm64_imm32, part.mark, 0);
        }
        self.reduction(asm, &codes, height, part.as_ref());
        let mut needed = 0;
        if let Some((finish, slots)) = finish.filter(|(finish, _)| !finish.is_loop()) {
            self.sums_to_finish(asm, &codes, height, part.as_ref());
            let sums = Sums { height, vectors: self.count() };
            needed = finish.emit(asm, self.vectors, &sums, slots)?;
        } else {
            self.sums_to_memory(asm, &codes, height, part.as_ref());
        }
        let moves_on = finish.is_none_or(|(finish, _)| self.accumulate && !finish.is_loop());
        if moves_on {
            asm.op2(Code::Add_rm64_imm32, SUMS, (height as i64 * self.sum_stride) as i32);
        }
        asm.op2(Code::Add_rm64_imm32, A, self.row_offset(height) as i32);
        Ok(needed)
    }

    /// The epilogue of a tile whose sums are in memory, their rows counted in the mark's place; gives the stack slots that
    /// it needs.
    pub(super) fn finish_rows(
        &self,
        asm: &mut Assembler,
        finish: &Finish,
        slots: u32,
    ) -> Result<u32, WideError> {
        let sums = SumsInMemory { at: SUMS, stride: self.sum_stride, vectors: self.count(), rows: 8 };
        let needed = finish.emit_loop(asm, self.vectors, &sums, slots)?;
        if !self.accumulate {
            // Sums of the next tile take their place.
            asm.op2(Code::Mov_r64_rm64, SUMS, at(Register::RSP, 0));
            asm.op2(Code::Mov_r64_rm64, SUMS, at(SUMS, 8 * i64::from(ROWS.0)));
        }
        Ok(needed)
    }

    fn clear(&self, asm: &mut Assembler, codes: &Codes, height: usize) {
        for sum in 0..height * self.count() {
            let sum = self.register(sum);
            asm.op3(codes.zero, sum, sum, sum);
        }
    }

    /// The registers to memory at the end of the reduction, and in between where sums have several parts: the steps that
    /// are left of a part are negative in between.
    fn sums_to_memory(&self, asm: &mut Assembler, codes: &Codes, height: usize, part: Option<&Part>) {
        let Some(part) = part else {
            return match self.accumulate {
                true => self.add_sums(asm, codes, height),
                false => self.each_sum(height, |place, sum| asm.op2(codes.store, place, sum)),
            };
        };
        asm.op2(Code::Xor_r32_rm32, PART_LEFT, PART_LEFT);
        asm.bind(part.full);
        self.part_to_memory(asm, codes, height, part);
        let done = asm.label();
        asm.op2(Code::Test_rm32_r32, PART_LEFT, PART_LEFT);
        asm.jump(Code::Jns_rel32_64, done);
        self.next_part(asm, codes, height, part);
        asm.bind(done);
    }

    /// Adds what is in memory to the registers at the end of the reduction; the registers of other parts to memory.
    fn sums_to_finish(&self, asm: &mut Assembler, codes: &Codes, height: usize, part: Option<&Part>) {
        let (end, complete) = (asm.label(), asm.label());
        if let Some(part) = part {
            asm.jump(Code::Jmp_rel32_64, end);
            asm.bind(part.full);
            self.part_to_memory(asm, codes, height, part);
            self.next_part(asm, codes, height, part);
            asm.bind(end);
            if !self.accumulate {
                asm.op2(Code::Cmp_rm64_imm8, part.mark, 0);
                asm.jump(Code::Je_rel32_64, complete);
            }
        }
        if self.accumulate || part.is_some() {
            self.each_sum(height, |place, sum| asm.op3(codes.add, sum, sum, place));
        }
        asm.bind(complete);
    }

    /// The sums of a part to memory, or to those that are there: the mark in the frame says whether there are some.
    fn part_to_memory(&self, asm: &mut Assembler, codes: &Codes, height: usize, part: &Part) {
        if self.accumulate {
            return self.add_sums(asm, codes, height);
        }
        let (add, stored) = (asm.label(), asm.label());
        asm.op2(Code::Cmp_rm64_imm8, part.mark, 0);
        asm.jump(Code::Jne_rel32_64, add);
        self.each_sum(height, |place, sum| asm.op2(codes.store, place, sum));
        asm.op2(Code::Mov_rm64_imm32, part.mark, 1);
        asm.jump(Code::Jmp_rel32_64, stored);
        asm.bind(add);
        self.add_sums(asm, codes, height);
        asm.bind(stored);
    }

    /// Begins another part at zero.
    fn next_part(&self, asm: &mut Assembler, codes: &Codes, height: usize, part: &Part) {
        self.clear(asm, codes, height);
        asm.op2(Code::Mov_r32_imm32, PART_LEFT, (part.steps - self.step()) as i32);
        asm.jump(Code::Jmp_rel32_64, part.resume);
    }

    fn add_sums(&self, asm: &mut Assembler, codes: &Codes, height: usize) {
        self.each_sum(height, |place, sum| {
            asm.op3(codes.add, sum, sum, place);
            asm.op2(codes.store, place, sum);
        });
    }

    fn each_sum(&self, height: usize, mut f: impl FnMut(MemoryOperand, Register)) {
        for row in 0..height {
            for column in 0..self.count() {
                let offset = row as i64 * self.sum_stride + column as i64 * self.vectors.bytes();
                f(at(SUMS, offset), self.sum(row, column));
            }
        }
    }

    /// Steps between two looks at what is left of a part.
    fn step(&self) -> i64 {
        self.short.unwrap_or(UNROLL)
    }

    /// Goes to add the sums to memory if this part has not so many steps left.
    fn look(&self, asm: &mut Assembler, part: Option<&Part>) {
        if let Some(part) = part {
            asm.op2(Code::Sub_rm32_imm32, PART_LEFT, self.step() as i32);
            asm.jump(Code::Jl_rel32_64, part.full);
            asm.bind(part.resume);
        }
    }

    fn reduction(&self, asm: &mut Assembler, codes: &Codes, height: usize, part: Option<&Part>) {
        asm.op2(Code::Mov_r64_rm64, B_AT, PANEL);
        self.set_quad_constants(asm, height, self.panel_registers());
        let [(outer, outer_stride), (inner, inner_stride)] = self.taps;
        if outer * inner == 1 {
            asm.op2(Code::Mov_r64_rm64, A_AT, A);
            return self.run(asm, codes, height, part);
        }
        asm.op2(Code::Mov_r64_rm64, TAP, A);
        asm.op2(Code::Mov_r32_imm32, TAPS_LEFT[0].full_register32(), outer as i32);
        let next_outer = asm.here();
        asm.op2(Code::Mov_r32_imm32, TAPS_LEFT[1].full_register32(), inner as i32);
        let next_inner = asm.here();
        asm.op2(Code::Mov_r64_rm64, A_AT, TAP);
        self.run(asm, codes, height, part);
        asm.op2(Code::Add_rm64_imm32, TAP, inner_stride as i32);
        asm.op1(Code::Dec_rm32, TAPS_LEFT[1].full_register32());
        asm.jump(Code::Jne_rel32_64, next_inner);
        asm.op2(Code::Add_rm64_imm32, TAP, (outer_stride - inner * inner_stride) as i32);
        asm.op1(Code::Dec_rm32, TAPS_LEFT[0].full_register32());
        asm.jump(Code::Jne_rel32_64, next_outer);
    }

    /// The elements of one tap.
    fn run(&self, asm: &mut Assembler, codes: &Codes, height: usize, part: Option<&Part>) {
        if let Some(depth) = self.short {
            self.look(asm, part);
            return self.steps(asm, codes, height, depth);
        }
        asm.op2(Code::Mov_r64_rm64, COUNT, DEPTH);
        let (single, done) = (asm.label(), asm.label());
        asm.op2(Code::Sub_rm64_imm32, COUNT, UNROLL as i32);
        asm.jump(Code::Jl_rel32_64, single);
        let many = asm.here();
        self.look(asm, part);
        self.steps(asm, codes, height, UNROLL);
        asm.op2(Code::Sub_rm64_imm32, COUNT, UNROLL as i32);
        asm.jump(Code::Jge_rel32_64, many);
        asm.bind(single);
        asm.op2(Code::Add_rm64_imm32, COUNT, UNROLL as i32);
        asm.jump(Code::Je_rel32_64, done);
        if part.is_some() {
            asm.op2(Code::Sub_r32_rm32, PART_LEFT, COUNT.full_register32());
        }
        let one = asm.here();
        self.steps(asm, codes, height, 1);
        asm.op1(Code::Dec_rm64, COUNT);
        asm.jump(Code::Jne_rel32_64, one);
        asm.bind(done);
        // Whatever comes next needs an instruction to stand before.
        asm.op0(Code::Nopd);
    }

    /// `count` steps of the reduction.
    fn steps(&self, asm: &mut Assembler, codes: &Codes, height: usize, count: i64) {
        let storage_bytes = (self.storage.bits() / 8) as i64;
        match self.quads {
            Some(quads) => self.quad_products(asm, codes, (quads, self.panel_registers()), height, count),
            None => self.products(asm, codes, height, count),
        }
        self.look_ahead(asm, count);
        asm.op2(Code::Add_rm64_imm32, A_AT, (count * self.row_step) as i32);
        asm.op2(Code::Add_rm64_imm32, B_AT, (count * self.panel_step * storage_bytes) as i32);
    }

    /// Bytes from the panel's place to a vector of a step.
    pub(super) fn panel_offset(&self, k: i64, v: usize) -> i64 {
        (k * self.panel_step + v as i64 * self.lanes()) * (self.storage.bits() / 8) as i64
    }

    fn products(&self, asm: &mut Assembler, codes: &Codes, height: usize, count: i64) {
        let held = self.panel_registers();
        let first = height * self.count();
        let panel: Vec<Register> = (0..held).map(|v| self.register(first + v)).collect();
        let factor = self.register(first + held);
        let offset = |k: i64, v: usize| self.panel_offset(k, v);
        for k in 0..count {
            for (v, &register) in panel.iter().enumerate() {
                self.panel_vector(asm, register, offset(k, v));
            }
            for row in 0..height {
                let from = self.row_offset(row) + k * self.row_step;
                asm.op2(codes.broadcast, factor, at(A_AT, from));
                for v in 0..self.count() {
                    let sum = self.sum(row, v);
                    match panel.get(v) {
                        Some(&column) if self.acc == DType::I32 => {
                            self.multiply_add_i32(asm, sum, factor, column, first + held + 1);
                        }
                        Some(&column) => asm.op3(codes.fma, sum, factor, column),
                        None => asm.op3(codes.fma, sum, factor, at(B_AT, offset(k, v))),
                    }
                }
            }
        }
    }

    /// Asks for lines of what is multiplied next and of the result.
    fn look_ahead(&self, asm: &mut Assembler, count: i64) {
        if count == UNROLL && self.prefetch > 0 {
            for line in 0..self.prefetch {
                asm.op1(Code::Prefetcht1_m8, at(NEXT, line * LINE));
            }
            asm.op2(Code::Add_rm64_imm32, NEXT, (self.prefetch * LINE) as i32);
        }
        if count == UNROLL
            && let Some(result) = self.result
        {
            let enough = asm.label();
            asm.op1(Code::Dec_rm32, RESULT_LEFT);
            asm.jump(Code::Js_rel32_64, enough);
            for (row, line) in (0..result.rows).flat_map(|r| (0..result.lines).map(move |l| (r, l))) {
                asm.op1(Code::Prefetchw_m8, at(RESULT, row * result.stride + line * LINE));
            }
            asm.op2(Code::Add_rm64_imm32, RESULT, (result.rows * result.stride) as i32);
            asm.bind(enough);
        }
    }

    fn multiply_add_i32(&self, asm: &mut Assembler, sum: Register, a: Register, b: Register, product: usize) {
        let product = self.register(product);
        let (multiply, add) = match self.vectors {
            Width::W256 => (Code::VEX_Vpmulld_ymm_ymm_ymmm256, Code::VEX_Vpaddd_ymm_ymm_ymmm256),
            Width::W512 => {
                (Code::EVEX_Vpmulld_zmm_k1z_zmm_zmmm512b32, Code::EVEX_Vpaddd_zmm_k1z_zmm_zmmm512b32)
            }
        };
        asm.op3(multiply, product, a, b);
        asm.op3(add, sum, sum, product);
    }

    /// One vector of the panel, widened to the dtype of the sums.
    fn panel_vector(&self, asm: &mut Assembler, register: Register, offset: i64) {
        let memory = at(B_AT, offset);
        let wide = self.vectors == Width::W512;
        let pick = |w512, w256| if wide { w512 } else { w256 };
        let load = match self.storage {
            DType::F16 => Code::EVEX_Vcvtph2ps_zmm_k1z_ymmm256_sae,
            DType::BF16 | DType::U16 => {
                pick(Code::EVEX_Vpmovzxwd_zmm_k1z_ymmm256, Code::VEX_Vpmovzxwd_ymm_xmmm128)
            }
            DType::I16 => pick(Code::EVEX_Vpmovsxwd_zmm_k1z_ymmm256, Code::VEX_Vpmovsxwd_ymm_xmmm128),
            DType::U8 => pick(Code::EVEX_Vpmovzxbd_zmm_k1z_xmmm128, Code::VEX_Vpmovzxbd_ymm_xmmm64),
            DType::I8 => pick(Code::EVEX_Vpmovsxbd_zmm_k1z_xmmm128, Code::VEX_Vpmovsxbd_ymm_xmmm64),
            _ => self.codes().load,
        };
        asm.op2(load, register, memory);
        if self.storage == DType::BF16 {
            let shift = pick(Code::EVEX_Vpslld_zmm_k1z_zmmm512b32_imm8, Code::VEX_Vpslld_ymm_ymm_imm8);
            asm.op3(shift, register, register, 16);
        }
    }
}
