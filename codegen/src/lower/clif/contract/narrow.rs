//! Last panels that lack columns: functions of fewer vectors multiply those that exist.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{InstBuilder, Value};

use super::rows::is_multiple;
use super::streamed::Streamed;
use crate::kir::{Contract, Ix};
use crate::lower::clif::emit::{Emitter, Result};
use crate::lower::wide::tile::Tile;

/// Tiles of fewer vectors for a last panel, narrowest first.
pub(super) fn narrow_tiles(tile: &Tile, columns: &Ix) -> Vec<Tile> {
    let (width, lanes) = (tile.width, tile.lanes());
    if is_multiple(columns, width) {
        return vec![];
    }
    let narrowed = |width: i64| Tile { width, prefetch: 0, result: None, ..*tile };
    let whole_vectors = |n: i64| (n + lanes - 1) / lanes * lanes;
    let widths = match columns.as_const() {
        Some(n) => vec![whole_vectors(n % width)],
        None => vec![whole_vectors(width / 4), whole_vectors(width / 2)],
    };
    let mut tiles: Vec<Tile> = vec![];
    for w in widths.into_iter().filter(|w| (lanes..width).contains(w)) {
        if tiles.iter().all(|t| t.width < w) {
            tiles.push(narrowed(w));
        }
    }
    tiles
}

impl Emitter<'_> {
    /// Calls the tile function for the columns of the panel that exist.
    pub(super) fn fitting(
        &mut self,
        c: &Contract,
        plan: &Streamed,
        narrow: &[Tile],
        args: &[Value],
    ) -> Result<()> {
        let Some((tile, wider)) = narrow.split_first() else {
            return self.paced(c, plan, &plan.few, args);
        };
        let left = self.ix(&(c.n.extent.clone() - Ix::Var(plan.names.column)))?;
        let more = self.b.ins().icmp_imm_s(IntCC::SignedGreaterThan, left, tile.width);
        self.branch(more, |s| s.fitting(c, plan, wider, args), |s| s.tile_of(c, plan, tile, args))
    }
}
