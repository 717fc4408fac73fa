//! Tiles whose functions run the epilogue themselves: on sums in registers where it is short, else in a loop over their rows.

use cranelift_codegen::ir::Value;
use cranelift_codegen::ir::{InstBuilder, StackSlotData, StackSlotKind, types};

use super::streamed::Streamed;
use crate::kir::{Axis, BufferId, Contract, Ix, Kernel, Rhs, Stmt, Var};
use crate::lower::clif::LowerError;
use crate::lower::clif::emit::{Callee, Emitter, Result, flags};
use crate::lower::wide::tile::Tile;
use crate::lower::wide::{COUNT, Finish, ROWS, Rows, WideError, select_finish};

/// The argument of tile functions that is the address of sums, or of the words of the epilogue, which have it.
const SUMS: usize = 2;

/// The names that the epilogue of a tile has for its place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Names {
    /// First row and number of rows.
    pub first: Var,
    pub rows: Var,
    /// First column of the panel and number of its columns.
    pub column: Var,
    pub used: Var,
}

impl Names {
    /// New variables of the kernel.
    pub fn new(kernel: &mut Kernel) -> Names {
        let mut var = || {
            kernel.vars += 1;
            Var(kernel.vars - 1)
        };
        Names { first: var(), rows: var(), column: var(), used: var() }
    }
}

/// Whether the tile's functions can do the epilogue: it neither writes what is multiplied nor needs much.
pub(super) fn is_finished(
    kernel: &Kernel,
    c: &Contract,
    (tile, whole_panels): (&Tile, bool),
    names: Names,
    rows: Option<BufferId>,
) -> bool {
    let operand = |buffer: BufferId| {
        rows == Some(buffer) || matches!(c.b, Rhs::Packed { buffer: other, .. } if other == buffer)
    };
    let writes = |stmt: &Stmt| matches!(stmt, Stmt::Store { buffer, .. } if operand(*buffer));
    if c.epilogue.iter().any(writes) {
        return false;
    }
    let made = finish(kernel, c, (tile, whole_panels), names).and_then(|finish| tile.finished(&finish));
    if let Err(reason) = &made {
        tracing::trace!(kernel = kernel.name, %reason, "an epilogue is a loop of its own");
    }
    made.is_ok()
}

/// The epilogue of a tile, of whose panel all columns exist or some.
fn finish(
    kernel: &Kernel,
    c: &Contract,
    (tile, whole_panels): (&Tile, bool),
    names: Names,
) -> std::result::Result<Finish, WideError> {
    let axis = Axis { var: c.m.var, begin: Ix::Var(names.first), extent: Ix::Var(names.rows) };
    let extent = if whole_panels { Ix::Const(tile.width) } else { Ix::Var(names.used) };
    let columns = Axis { var: c.n.var, begin: c.n.begin.clone() + Ix::Var(names.column), extent };
    select_finish(kernel, tile.vectors, &Rows { axis, tile: 1 }, &columns, &c.epilogue, c.acc)
}

impl Emitter<'_> {
    /// Calls the function of a tile that ends with the epilogue; arguments as those of other tiles. The place's variables
    /// are set.
    pub(super) fn finished_tile(
        &mut self,
        c: &Contract,
        plan: &Streamed,
        tile: &Tile,
        args: &[Value],
    ) -> Result<()> {
        let names = plan.names;
        let wide = |source| LowerError::Wide { kernel: self.kernel.name.clone(), source };
        let finish = finish(&self.kernel, c, (tile, plan.whole_panels), names).map_err(wide)?;
        let function = tile.finished(&finish).map_err(wide)?;
        let bytes = 8 * finish.selection.words.len() as u32;
        let slot = self.b.create_sized_stack_slot(StackSlotData::new(StackSlotKind::ExplicitSlot, bytes, 4));
        let frame = self.b.ins().stack_addr(types::I64, slot, 0);
        self.vars[c.m.var.index()] = self.vars[names.first.index()];
        let column = self.ix(&(c.n.begin.clone() + Ix::Var(names.column)))?;
        self.vars[c.n.var.index()] = Some(column);
        // More columns than a panel has are as good as all.
        let columns = self.ix(&(c.n.extent.clone() - Ix::Var(names.column)).min(tile.width))?;
        self.b.ins().store(flags(), columns, frame, 8 * COUNT.0 as i32);
        self.b.ins().store(flags(), args[SUMS], frame, 8 * ROWS.0 as i32);
        self.store_words(&finish.selection, frame)?;
        let mut args = args.to_vec();
        args[SUMS] = frame;
        self.call(Callee::Loop(function), &args);
        Ok(())
    }
}
