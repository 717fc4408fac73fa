//! Loops and sizes of attention: which axes are the grid, how many queries and keys a block has.

use kiln_ir::DType;

use super::super::emit::Group;
use super::super::expr::{Atom, AxisId, Expr};
use super::super::loops::{all_exprs, collapse};
use super::super::term::{Term, TermId};
use super::super::trace::{Refusal, Trace};
use super::Stages;
use super::softmax::{Softmax, softmax};
use crate::schedule::even;

/// Most scores of a block of queries: 512 KiB of f32 share the second-level cache with keys and values.
const MOST_SCORES: i64 = 1 << 17;

/// Most queries of a block.
const MOST_ROWS: i64 = 256;

/// Queries that a block should have at least, so that keys and values come from the cache a few times only.
const FEWEST_ROWS: i64 = 16;

/// Queries of a block where their number shows at run time only.
const BLOCK_ROWS: i64 = 128;

/// Fewest queries that are lanes, and what blocks of them are multiples of.
const LANES: i64 = 16;

/// Keys of a block, where they come in blocks.
const KEY_BLOCK: i64 = 512;

/// Which scores are neighbours in scratch, so that they are lanes of a vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lanes {
    /// Those of the keys of one query.
    Keys,
    /// Those of the queries of one key: keys are read as the rows that they are, and no lanes are exchanged to find the
    /// greatest score of a query and the sum of its exponentials.
    Queries,
}

/// Loops and sizes.
pub(super) struct Plan {
    /// The grid but for blocks of queries.
    pub grid: Vec<Group>,
    pub columns: Group,
    /// The first contraction's operands: queries, keys.
    pub queries: TermId,
    pub keys: TermId,
    /// Queries of a block.
    pub block: i64,
    pub lanes: Lanes,
    /// Lines of scores in scratch, queries or keys, and elements between them.
    pub lines: i64,
    pub stride: i64,
    /// The rows, where they are a softmax.
    pub softmax: Option<Softmax>,
    /// Keys of a block, where they come in blocks; only those of a softmax do.
    pub key_block: Option<i64>,
}

impl Plan {
    pub fn new(trace: &Trace<'_, '_>, s: &Stages) -> Result<Plan, Refusal> {
        let refuse = |reason: &str| Err(Refusal::new(reason));
        let axes_of = |t: TermId| trace.terms.get(t).axes.clone();
        let extent = |a: AxisId| trace.axes.extent(a).as_known();
        let floats = [s.scores, s.weights, s.first.a, s.first.b, s.second.a, s.second.b];
        if floats.iter().any(|t| trace.terms.dtype(*t) != DType::F32) || s.pieces.acc != DType::F32 {
            return refuse("attention of another dtype than f32");
        }
        let (rows, keys) = (extent(s.row), extent(s.key));
        if rows.is_some_and(|n| n < 2) || keys.is_some_and(|n| n < 2) || extent(s.first.depth).is_none() {
            return refuse("a single query or key");
        }
        let (first_a, first_b) = (axes_of(s.first.a), axes_of(s.first.b));
        let (queries, keys_term) = match (first_a.contains(&s.row), first_b.contains(&s.row)) {
            (true, false) if !first_a.contains(&s.key) => (s.first.a, s.first.b),
            (false, true) if !first_b.contains(&s.key) => (s.first.b, s.first.a),
            _ => return refuse("scores that are no product of queries and keys"),
        };
        let (in_a, in_b) = (axes_of(s.second.a), axes_of(s.second.b));
        if in_b.contains(&s.row) || !is_load_of(trace, s.second.a, s.local[1]) {
            return refuse("values that differ between queries");
        }
        let real: Vec<AxisId> = s.pieces.order.iter().copied().filter(|a| extent(*a) != Some(1)).collect();
        let (columns, rest): (Vec<AxisId>, Vec<AxisId>) =
            real.into_iter().partition(|a| in_b.contains(a) && !in_a.contains(a));
        let outer: Vec<AxisId> = rest.into_iter().filter(|a| *a != s.row).collect();
        let mut tops: Vec<TermId> = s.pieces.roots.iter().map(|r| r.term).collect();
        tops.extend(floats);
        let mut exprs = all_exprs(&trace.terms, &tops);
        exprs.extend(s.pieces.roots.iter().map(|r| r.offset.clone()));
        let mut columns = collapse(&columns, &trace.axes, &exprs);
        let (Some(columns), true) = (columns.pop(), columns.is_empty()) else {
            return refuse("values of several axes");
        };
        let inner = columns.members.last().copied();
        let unit = |e: &Expr| inner.is_some_and(|a| e.coefficient(a).as_known() == Some(1));
        if !s.pieces.roots.iter().all(|r| unit(&r.offset)) || columns.extent(&trace.axes).as_known().is_none()
        {
            return refuse("results that do not follow each other along the values");
        }
        let in_line = |t: &TermId| match &trace.terms.get(*t).term {
            Term::Reduce { axes, .. } => {
                matches!(axes[..], [one] if trace.axes.extent(one) == trace.axes.extent(s.key))
            }
            _ => true,
        };
        if !trace.terms.reachable(&[s.weights]).iter().all(in_line) {
            return refuse("reductions along other axes than the keys");
        }
        let softmax = softmax(&trace.terms, s.weights, &|t| is_load_of(trace, t, s.local[0]));
        let lanes = match softmax {
            Some(_) if queries_are_lanes(trace, s, rows) => Lanes::Queries,
            _ => Lanes::Keys,
        };
        let whole = keys.filter(|&keys| {
            let rows = rows.unwrap_or(MOST_ROWS).min(MOST_ROWS).min(FEWEST_ROWS);
            MOST_SCORES / stride(keys) >= rows
        });
        let key_block = if whole.is_some() { None } else { Some(KEY_BLOCK) };
        if softmax.is_none() && (rows.is_none() || key_block.is_some()) {
            return refuse("scores of a block of queries that do not fit in the cache");
        }
        let line = whole.unwrap_or(KEY_BLOCK);
        let most = (MOST_SCORES / stride(line)).min(MOST_ROWS);
        let (block, lines, stride) = match lanes {
            Lanes::Keys => {
                let block = rows.map_or(most.min(BLOCK_ROWS), |rows| even(rows, most, 1));
                (block, block, stride(line))
            }
            Lanes::Queries => {
                let most = (MOST_SCORES / line).min(MOST_ROWS) / LANES * LANES;
                let block = rows.map_or(most.min(BLOCK_ROWS), |rows| even(rows, most, LANES));
                (block, line, stride(block))
            }
        };
        let grid = collapse(&outer, &trace.axes, &exprs);
        Ok(Plan { grid, columns, queries, keys: keys_term, block, lanes, lines, stride, softmax, key_block })
    }
}

/// Whether queries make good lanes: there are enough of them, and what scores are computed from is not far apart from
/// query to query.
fn queries_are_lanes(trace: &Trace<'_, '_>, s: &Stages, rows: Option<i64>) -> bool {
    let near = |t: &TermId| match &trace.terms.get(*t).term {
        Term::Load { source, offset, .. } if trace.sources[*source].constant.is_none() => {
            let mut within = false;
            offset.visit(&mut |atom, inside| within |= inside && *atom == Atom::Axis(s.row));
            !within && matches!(offset.coefficient(s.row).as_known(), Some(0 | 1))
        }
        _ => true,
    };
    rows.is_none_or(|n| n >= LANES) && trace.terms.reachable(&[s.scores]).iter().all(near)
}

/// Elements between rows of so many scores: an odd number of cache lines keeps rows in different sets.
fn stride(keys: i64) -> i64 {
    (((keys + 15) / 16) | 1) * 16
}

fn is_load_of(trace: &Trace<'_, '_>, t: TermId, local: usize) -> bool {
    matches!(&trace.terms.get(t).term, Term::Load { source, guards, .. } if *source == local && guards.is_empty())
}
