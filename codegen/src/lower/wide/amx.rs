//! Products of bytes in the tile registers of AMX: a register is sixteen rows of 64 bytes, and one instruction multiplies
//! all rows of one with all columns of another.
//!
//! ```text
//! for groups of rows:                        // of several registers
//!     sums in registers = 0
//!     for taps, for steps of the reduction:  // of at most 64 bytes of a row
//!         sums += rows x panel               // each register is loaded once, however many it is multiplied with
//!     sums to memory
//!     epilogue over their rows
//! ```
//!
//! A register holds rows where they are in memory, at one distance. Sums of registers that hold fewer rows, since no more
//! are left, take as much less time.

use iced_x86::{Code, MemoryOperand, Register};

use super::asm::{Assembler, Label, at};
use super::finish::Finish;
use super::lir::ROWS;
use super::tile::{
    A, A_AT, B_AT, COUNT, DEPTH, FRAME, HEIGHT, LINE, NEXT, PANEL, ROWS_LEFT, SAVED, SUMS, TALLER, TAP,
    TAPS_LEFT, Tile,
};
use super::{WideError, WideFunction, Width};

/// Rows of a register.
pub const ROWS_OF: usize = 16;

/// Steps of four bytes in a row of a register.
pub const MOST_STEPS: i64 = 16;

/// Tile registers.
const REGISTERS: usize = 8;

/// Bytes of a configuration.
const CONFIGURATION: usize = 64;

/// Where a configuration has the bytes of a row of each register, as words, and its rows, as bytes.
const CONFIGURED_BYTES: usize = 16;
const CONFIGURED_ROWS: usize = 48;

/// Bytes between rows of the left operand in memory.
const A_STRIDE: Register = Register::R15;

/// The same of the panel, while a group is multiplied.
const B_STRIDE: Register = Register::R9;

// Words of the stack frame below what is saved: the address of an epilogue's words, the rows that its loop has left, the
// height of groups and that of the group that the registers are configured for.
const ROW_COUNT: i64 = 8;
const GROUP_HEIGHT: i64 = 16;
const CONFIGURED: i64 = 24;
const WORDS: [Register; 3] = [Register::RAX; 3];

/// The registers of a group with so many registers of rows, for some of the panel's.
struct Group<'t> {
    tile: &'t Tile,
    rows: usize,
    first_column: usize,
}

impl Group<'_> {
    fn sum(&self, row: usize, column: usize) -> Register {
        Register::TMM0 + (row * self.tile.at_once() + column) as u32
    }

    /// Registers of sums and of rows; the latter take turns where there are not enough.
    fn held(&self) -> (usize, usize) {
        let sums = self.tile.amx_rows() * self.tile.at_once();
        (sums, self.tile.amx_rows().min(REGISTERS - 1 - sums))
    }

    /// A register of rows.
    fn a(&self, row: usize) -> Register {
        let (sums, rows) = self.held();
        Register::TMM0 + (sums + row % rows) as u32
    }

    /// A register of the panel.
    fn b(&self, column: usize) -> Register {
        let (sums, rows) = self.held();
        Register::TMM0 + (sums + rows + column % (REGISTERS - sums - rows)) as u32
    }

    /// Place of a register's sums.
    fn place(&self, row: usize, column: usize, stride: Register) -> MemoryOperand {
        let first = (row * self.tile.amx_height()) as i64 * self.tile.sum_stride;
        strided(SUMS, stride, first + (self.first_column + column) as i64 * LINE)
    }
}

/// `[base + displacement]`, rows so far apart.
fn strided(base: Register, stride: Register, displacement: i64) -> MemoryOperand {
    MemoryOperand::new(base, stride, 1, displacement, u32::from(displacement != 0), false, Register::None)
}

impl Tile {
    /// Registers of rows in a group: as many as there are sums for, which the panel's registers are multiplied with.
    pub(super) fn amx_rows(&self) -> usize {
        match self.at_once() {
            1 if self.amx_height() <= ROWS_OF / 2 => 4,
            1 => 3,
            2 => 2,
            _ => 1,
        }
    }

    /// Registers of the panel that are multiplied at once. Short lines take turns with single ones: more of them share each
    /// register of the panel, which comes from beyond the first-level cache.
    fn at_once(&self) -> usize {
        if self.amx_height() <= ROWS_OF / 2 { 1 } else { self.count() }
    }

    /// Rows of a register: where rows come in lines, those of one.
    fn amx_height(&self) -> usize {
        self.lines.map_or(ROWS_OF, |lines| lines.rows as usize)
    }

    /// Most rows of a group; none where a line does not fit in a register.
    pub(super) fn amx_group(&self) -> usize {
        if self.amx_height() > ROWS_OF { 0 } else { self.amx_rows() * self.amx_height() }
    }

    /// Whether the registers hold what is multiplied.
    pub(super) fn fits_amx(&self, steps: i64) -> bool {
        let plain = self.part.is_none() && self.result.is_none() && self.short.is_none() && !self.flip;
        let lines = self.lines.is_none_or(|lines| lines.rows > 1);
        let rows = lines && self.row_step == 4 && (0..=i64::from(i32::MAX)).contains(&self.row_stride);
        self.vectors == Width::W512
            && (1..=MOST_STEPS).contains(&steps)
            && plain
            && rows
            && self.amx_group() > 0
    }

    /// The function, otherwise as [`Tile::emit`] and [`Tile::finished`] say; gives the stack slots that an epilogue needs.
    pub(super) fn amx_function(
        &self,
        steps: i64,
        finish: Option<(&Finish, u32)>,
    ) -> Result<(WideFunction, u32), WideError> {
        let mut asm = Assembler::default();
        for register in SAVED {
            asm.op1(Code::Push_r64, register);
        }
        for word in WORDS {
            asm.op1(Code::Push_r64, word);
        }
        asm.op1(Code::Push_r64, FRAME);
        if let Some((finish, _)) = finish {
            finish.prepare(&mut asm, FRAME, self.count());
            asm.op2(Code::Mov_r64_rm64, FRAME, at(FRAME, 8 * i64::from(ROWS.0)));
        }
        let end = asm.label();
        asm.op2(Code::Test_rm64_r64, Register::R9, Register::R9);
        asm.jump(Code::Je_rel32_64, end);
        // Rows, or lines of them.
        let unit = if self.lines.is_some() { self.amx_height() } else { 1 };
        let most = self.amx_group() / unit;
        self.spread_rows(&mut asm, most);
        asm.op2(Code::Mov_rm64_r64, at(Register::RSP, GROUP_HEIGHT), HEIGHT);
        asm.op2(Code::Mov_rm64_imm32, at(Register::RSP, CONFIGURED), 0);
        let next = asm.here();
        self.configure(&mut asm, steps, most, unit);
        let stored = asm.label();
        // So many units need one more register of rows than fewer.
        let each = if unit == 1 { ROWS_OF } else { 1 };
        let groups: Vec<(usize, Label)> = (1..=self.amx_rows()).map(|rows| (rows, asm.label())).collect();
        for &(rows, label) in groups.iter().rev() {
            asm.op2(Code::Cmp_rm32_imm8, Register::EAX, ((rows - 1) * each) as i32);
            asm.jump(Code::Jg_rel32_64, label);
        }
        asm.jump(Code::Jmp_rel32_64, end);
        for &(rows, label) in groups.iter().rev() {
            asm.bind(label);
            for first_column in (0..self.count()).step_by(self.at_once()) {
                self.group(&mut asm, steps, &Group { tile: self, rows, first_column });
            }
            asm.jump(Code::Jmp_rel32_64, stored);
        }
        asm.bind(stored);
        self.move_on(&mut asm, unit, finish.is_some());
        let needed = match finish {
            Some((finish, slots)) => self.finish_rows(&mut asm, finish, slots)?,
            None => 0,
        };
        asm.op1(Code::Dec_rm32, ROWS_LEFT.full_register32());
        asm.jump(Code::Jne_rel32_64, next);
        asm.bind(end);
        asm.op0(Code::VEX_Tilerelease);
        asm.op0(Code::VEX_Vzeroupper);
        asm.op1(Code::Pop_r64, FRAME);
        for word in WORDS {
            asm.op1(Code::Pop_r64, word);
        }
        for register in SAVED.into_iter().rev() {
            asm.op1(Code::Pop_r64, register);
        }
        asm.op0(Code::Retnq);
        Ok((asm.finish()?, needed))
    }

    /// The height of the next group to `EAX` and the frame; the registers are configured anew if it is another.
    fn configure(&self, asm: &mut Assembler, steps: i64, most: usize, unit: usize) {
        let (same, taller) = (asm.label(), asm.label());
        let height = Register::EAX;
        asm.op2(Code::Mov_r32_rm32, height, at(Register::RSP, GROUP_HEIGHT));
        asm.op2(Code::Test_rm32_r32, TALLER.full_register32(), TALLER.full_register32());
        asm.jump(Code::Je_rel32_64, taller);
        asm.op1(Code::Dec_rm32, TALLER.full_register32());
        asm.op1(Code::Inc_rm32, height);
        asm.bind(taller);
        asm.op2(Code::Cmp_rm32_r32, at(Register::RSP, CONFIGURED), height);
        asm.jump(Code::Je_rel32_64, same);
        asm.op2(Code::Mov_rm32_r32, at(Register::RSP, CONFIGURED), height);
        let table: Vec<u8> = (1..=most).flat_map(|units| self.configuration(steps, units * unit)).collect();
        let table = asm.constant(&table, CONFIGURATION);
        let (from, none) = (Register::R14, Register::None);
        let place = MemoryOperand::new(Register::RIP, none, 1, table as i64, 8, false, none);
        asm.op2(Code::Lea_r64_m, from, place);
        asm.op2(Code::Mov_r32_rm32, Register::EBP, height);
        asm.op2(Code::Shl_rm32_imm8, Register::EBP, CONFIGURATION.trailing_zeros() as i32);
        let chosen = MemoryOperand::new(from, Register::RBP, 1, -(CONFIGURATION as i64), 1, false, none);
        asm.op1(Code::VEX_Ldtilecfg_m512, chosen);
        asm.bind(same);
    }

    /// The configuration of all registers for a group of `rows` rows.
    fn configuration(&self, steps: i64, rows: usize) -> [u8; CONFIGURATION] {
        let mut bytes = [0; CONFIGURATION];
        bytes[0] = 1;
        let mut set = |register: Register, rows: usize, row_bytes: i64| {
            let i = register.number();
            bytes[CONFIGURED_BYTES + 2 * i..][..2].copy_from_slice(&(row_bytes as u16).to_le_bytes());
            bytes[CONFIGURED_ROWS + i] = rows as u8;
        };
        let group = Group { tile: self, rows: self.amx_rows(), first_column: 0 };
        let height = self.amx_height();
        for row in 0..group.rows {
            let held = rows.saturating_sub(row * height).min(height);
            if held == 0 {
                continue;
            }
            set(group.a(row), held, 4 * steps);
            for column in 0..self.at_once() {
                set(group.sum(row, column), held, LINE);
            }
        }
        for column in 0..self.at_once() {
            set(group.b(column), steps as usize, LINE);
        }
        bytes
    }

    /// The sums of a group, to memory.
    fn group(&self, asm: &mut Assembler, steps: i64, group: &Group) {
        asm.op2(Code::Mov_r32_imm32, A_STRIDE.full_register32(), self.row_stride as i32);
        asm.op2(Code::Mov_r32_imm32, B_STRIDE.full_register32(), 4 * self.panel_step as i32);
        asm.op2(Code::Mov_r32_imm32, COUNT.full_register32(), self.sum_stride as i32);
        let sums = || (0..group.rows).flat_map(|row| (0..self.at_once()).map(move |column| (row, column)));
        for (row, column) in sums() {
            match self.accumulate {
                true => asm.op2(
                    Code::VEX_Tileloadd_tmm_sibmem,
                    group.sum(row, column),
                    group.place(row, column, COUNT),
                ),
                false => asm.op1(Code::VEX_Tilezero_tmm, group.sum(row, column)),
            }
        }
        asm.op2(Code::Mov_r64_rm64, B_AT, PANEL);
        let [(outer, outer_stride), (inner, inner_stride)] = self.taps;
        if outer * inner == 1 {
            asm.op2(Code::Mov_r64_rm64, A_AT, A);
            self.amx_run(asm, steps, group);
        } else {
            let left = TAPS_LEFT.map(|r| r.full_register32());
            asm.op2(Code::Mov_r64_rm64, TAP, A);
            asm.op2(Code::Mov_r32_imm32, left[0], outer as i32);
            let next_outer = asm.here();
            asm.op2(Code::Mov_r32_imm32, left[1], inner as i32);
            let next_inner = asm.here();
            asm.op2(Code::Mov_r64_rm64, A_AT, TAP);
            self.amx_run(asm, steps, group);
            asm.op2(Code::Add_rm64_imm32, TAP, inner_stride as i32);
            asm.op1(Code::Dec_rm32, left[1]);
            asm.jump(Code::Jne_rel32_64, next_inner);
            asm.op2(Code::Add_rm64_imm32, TAP, (outer_stride - inner * inner_stride) as i32);
            asm.op1(Code::Dec_rm32, left[0]);
            asm.jump(Code::Jne_rel32_64, next_outer);
        }
        asm.op2(Code::Mov_r32_imm32, COUNT.full_register32(), self.sum_stride as i32);
        for (row, column) in sums() {
            let place = group.place(row, column, COUNT);
            asm.op2(Code::VEX_Tilestored_sibmem_tmm, place, group.sum(row, column));
        }
    }

    /// The elements of one tap.
    fn amx_run(&self, asm: &mut Assembler, steps: i64, group: &Group) {
        asm.op2(Code::Mov_r64_rm64, COUNT, DEPTH);
        let next = asm.here();
        let load = Code::VEX_Tileloadd_tmm_sibmem;
        for row in 0..group.rows {
            let from = match self.lines {
                Some(lines) => row as i64 * lines.stride,
                None => row as i64 * ROWS_OF as i64 * self.row_stride,
            };
            for column in 0..self.at_once() {
                // Where registers of the panel take turns there is one of rows.
                if row == 0 {
                    let from = (group.first_column + column) as i64 * LINE;
                    asm.op2(load, group.b(column), strided(B_AT, B_STRIDE, from));
                }
                if column == 0 {
                    asm.op2(load, group.a(row), strided(A_AT, A_STRIDE, from));
                }
                let sum = group.sum(row, column);
                asm.op3(Code::VEX_Tdpbusd_tmm_tmm_tmm, sum, group.a(row), group.b(column));
            }
        }
        let prefetch = if group.first_column == 0 { self.prefetch } else { 0 };
        for line in 0..prefetch {
            asm.op1(Code::Prefetcht1_m8, at(NEXT, line * LINE));
        }
        if prefetch > 0 {
            asm.op2(Code::Add_rm64_imm32, NEXT, (prefetch * LINE) as i32);
        }
        asm.op2(Code::Add_rm64_imm32, A_AT, (4 * steps) as i32);
        asm.op2(Code::Add_rm64_imm32, B_AT, (4 * steps * self.panel_step) as i32);
        asm.op2(Code::Sub_rm64_imm32, COUNT, steps as i32);
        asm.jump(Code::Jg_rel32_64, next);
    }

    /// The pointers to rows, and to sums where they stay, move on; the frame gets the rows of the group.
    fn move_on(&self, asm: &mut Assembler, unit: usize, finished: bool) {
        let (height, bytes) = (Register::RAX, Register::RBX);
        let stride = self.lines.map_or(self.row_stride, |lines| lines.stride);
        asm.op2(Code::Mov_r32_rm32, height.full_register32(), at(Register::RSP, CONFIGURED));
        asm.op3(Code::Imul_r64_rm64_imm32, bytes, height, stride as i32);
        asm.op2(Code::Add_r64_rm64, A, bytes);
        if unit > 1 {
            asm.op3(Code::Imul_r64_rm64_imm32, height, height, unit as i32);
        }
        if finished {
            asm.op2(Code::Mov_rm64_r64, at(Register::RSP, ROW_COUNT), height);
        } else {
            asm.op3(Code::Imul_r64_rm64_imm32, bytes, height, self.sum_stride as i32);
            asm.op2(Code::Add_r64_rm64, SUMS, bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::quads::Quads;
    use super::super::tile::{Lines, MOST_ROWS};
    use super::*;
    use kiln_ir::DType;

    /// Bytes of a row and rows of a register.
    fn configured(bytes: &[u8; CONFIGURATION], register: Register) -> (usize, usize) {
        let i = register.number();
        let row = [bytes[CONFIGURED_BYTES + 2 * i], bytes[CONFIGURED_BYTES + 2 * i + 1]];
        (u16::from_le_bytes(row).into(), bytes[CONFIGURED_ROWS + i].into())
    }

    #[test]
    fn registers_of_a_product_fit_each_other() {
        let lines = [None, Some(4), Some(7), Some(8), Some(9), Some(16)];
        for (count, lines) in (1..=4).flat_map(|count| lines.map(|lines| (count, lines))) {
            let tile = Tile {
                quads: Some(Quads::Amx { steps: 11 }),
                width: 16 * count,
                panel_step: 16 * count,
                lines: lines.map(|rows| Lines { rows, stride: 4096 }),
                sum_stride: 256,
                ..tile_of_one()
            };
            assert!(tile.is_supported());
            let height = tile.amx_height();
            let unit = lines.map_or(1, |_| height);
            for rows in (1..=tile.amx_group() / unit).map(|units| units * unit) {
                let bytes = tile.configuration(11, rows);
                let group = Group { tile: &tile, rows: rows.div_ceil(height), first_column: 0 };
                let mut all = 0;
                for row in 0..group.rows {
                    let (a_bytes, a_rows) = configured(&bytes, group.a(row));
                    all += a_rows;
                    for column in 0..tile.at_once() {
                        let (b_bytes, b_rows) = configured(&bytes, group.b(column));
                        assert_eq!(configured(&bytes, group.sum(row, column)), (64, a_rows));
                        assert_eq!((a_bytes, b_bytes), (4 * b_rows, 64));
                    }
                }
                assert_eq!(all, rows, "{count} {lines:?}");
            }
        }
        let long = Tile { lines: Some(Lines { rows: 17, stride: 4096 }), ..tile_of_one() };
        assert!(!long.is_supported(), "a line is longer than a register");
    }

    fn tile_of_one() -> Tile {
        Tile {
            vectors: Width::W512,
            acc: DType::I32,
            storage: DType::I32,
            quads: Some(Quads::Amx { steps: 16 }),
            flip: false,
            width: 16,
            row_stride: 64,
            row_step: 4,
            panel_step: 16,
            lines: None,
            sum_stride: 64,
            taps: [(1, 0); 2],
            short: None,
            most_rows: MOST_ROWS,
            prefetch: 0,
            accumulate: false,
            part: None,
            result: None,
        }
    }
}
