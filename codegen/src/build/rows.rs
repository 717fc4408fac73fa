//! What is computed once along a row though several of its loops use it: the first reduction that computes it keeps it
//! in scratch or, where the result has room for it, in the row of the result, whose elements are replaced as they are
//! read for the last time. So the first-level cache holds one row less.

use kiln_ir::DType;
use rustc_hash::FxHashSet;

use super::emit::Group;
use super::expr::{Axes, AxisId};
use super::loops::Root;
use super::term::{Term, TermId, Terms};

/// Work beyond which a value is kept rather than computed again.
const KEPT_WORK: i64 = 8;

/// Longest row, in elements, that is kept.
const LONGEST: i64 = 1 << 18;

/// A value that a reduction keeps, and where it is used again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The value in the reduction that computes it, and an axis of that reduction.
    pub made: (TermId, AxisId),
    /// The same value along another loop, and an axis of that.
    pub used: (TermId, AxisId),
}

/// Whether the row of the only result can hold the only value that is kept. The last loop reads and then writes one
/// element after the other, and nothing else reads the result.
pub fn fit_result(kept: &[Kept], roots: &[Root], row: &Group) -> bool {
    let ([first, rest @ ..], [root], [axis]) = (kept, roots, row.members.as_slice()) else { return false };
    let one = rest.iter().all(|k| k.made == first.made);
    one && root.dtype == DType::F32 && root.offset.coefficient(*axis).as_known() == Some(1)
}

/// A loop along the row: axes, and what it computes.
struct Loop {
    members: Vec<AxisId>,
    items: Vec<TermId>,
    /// The reduction, unless it is the row's last loop.
    reduce: Option<TermId>,
}

/// Values to keep for rows over the axes of `row`.
pub fn kept(terms: &Terms, axes: &Axes, roots: &[TermId], row: &Group) -> Vec<Kept> {
    // Scratch has one size.
    if row.extent(axes).as_known().is_none_or(|n| n > LONGEST) {
        return vec![];
    }
    let extents = |members: &[AxisId]| members.iter().map(|a| axes.extent(*a).clone()).collect::<Vec<_>>();
    let own = extents(&row.members);
    let mut loops: Vec<Loop> = vec![];
    for t in terms.reachable(roots) {
        let data = terms.get(t);
        let Term::Reduce { axes: bound, item, .. } = &data.term else { continue };
        let nested = data.axes.iter().any(|a| row.members.contains(a));
        if !nested && extents(bound) == own {
            loops.push(Loop { members: bound.to_vec(), items: vec![*item], reduce: Some(t) });
        }
    }
    loops.push(Loop { members: row.members.to_vec(), items: roots.to_vec(), reduce: None });
    let mut found = vec![];
    for at in 1..loops.len() {
        let (before, this) = (&loops[..at], &loops[at]);
        let visible = terms.reachable(&this.items);
        let before = before.iter().filter(|l| l.reduce.is_some_and(|r| visible.contains(&r)));
        let before: Vec<&Loop> = before.collect();
        look(terms, &before, this, &mut found);
    }
    found
}

/// Finds what of a loop those before it compute as well.
fn look(terms: &Terms, before: &[&Loop], this: &Loop, found: &mut Vec<Kept>) {
    let Some(&axis) = this.members.last() else { return };
    let mut stack = this.items.clone();
    let mut seen: FxHashSet<TermId> = FxHashSet::default();
    while let Some(t) = stack.pop() {
        let data = terms.get(t);
        if !seen.insert(t) || !data.axes.contains(&axis) {
            continue;
        }
        let worth = data.dtype == DType::F32 && terms.work_along(t, axis) > KEPT_WORK;
        let made = if worth { before.iter().find_map(|l| same(terms, l, this, t)) } else { None };
        match made {
            Some(made) => found.push(Kept { made, used: (t, axis) }),
            None => stack.extend(terms.operands(t)),
        }
    }
}

/// The term of an earlier loop that is `t` of this one.
fn same(terms: &Terms, earlier: &Loop, this: &Loop, t: TermId) -> Option<(TermId, AxisId)> {
    let rename = |a: AxisId| {
        let at = earlier.members.iter().position(|m| *m == a);
        at.map_or(a, |i| this.members[i])
    };
    let axis = *earlier.members.last()?;
    let mut equal = FxHashSet::default();
    let candidates = terms.reachable(&earlier.items);
    let found = candidates
        .into_iter()
        .find(|&c| terms.get(c).axes.contains(&axis) && terms.same_renamed(c, t, &rename, &mut equal))?;
    Some((found, axis))
}
