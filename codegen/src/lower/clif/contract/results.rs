//! Where a contraction's results go, for tile functions that ask for those lines while they compute.

use cranelift_codegen::ir::Value;

use super::finished::Names;
use crate::kir::{BufferId, Contract, Ix, Kernel, Stmt};
use crate::lower::clif::emit::{Emitter, Result};
use crate::lower::wide::tile::Tile;

/// Most elements between rows of a result: displacements have 32 bits.
const MOST_STRIDE: i64 = 1 << 22;

/// Elements in rows of the result.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    buffer: BufferId,
    /// Element index, in terms of row and column.
    index: Ix,
    /// Elements from row to row.
    stride: i64,
}

/// Where the epilogue stores last, if its index is linear in rows and contiguous in columns.
pub(super) fn last_store(kernel: &Kernel, c: &Contract) -> Option<Stored> {
    let Some(Stmt::Store { buffer, index, .. }) = c.epilogue.last() else { return None };
    let same = kernel.buffers[buffer.index()].dtype == c.acc_dtype;
    let columns = index.linear(c.n.var, &|_| true)?;
    let stride = columns.rest.linear(c.m.var, &|_| true)?.coefficient.as_const()?;
    let fits = same && columns.coefficient == Ix::Const(1) && (0..=MOST_STRIDE).contains(&stride);
    fits.then(|| Stored { buffer: *buffer, index: index.clone(), stride })
}

impl Stored {
    /// Lets the tile ask for the lines in sums of `depth` products, elements of so many bytes; whether it does.
    pub fn asked_by(&self, tile: &mut Tile, depth: i64, bytes: i64) -> bool {
        tile.result = tile.result_lines(self.stride * bytes, depth);
        tile.result.is_some()
    }
}

impl Emitter<'_> {
    /// Address of the first row's element of the result in the first column of the panel.
    pub(super) fn stored_at(&mut self, c: &Contract, names: Names, stored: &Stored) -> Result<Value> {
        self.vars[c.m.var.index()] = self.vars[names.first.index()];
        let column = self.ix(&(c.n.begin.clone() + Ix::Var(names.column)))?;
        self.vars[c.n.var.index()] = Some(column);
        let at = self.ix(&stored.index)?;
        Ok(self.address(stored.buffer, at, (c.acc_dtype.bits() / 8) as i64))
    }
}
