//! Where in the arena a function's values live.
//!
//! Guarantee: two slots whose live ranges overlap never share a byte, unless one is a view of the other. Offsets are
//! multiples of [`ALIGNMENT`] and [`SLACK`] bytes stay free after every buffer. The layout is a function of sizes and
//! live ranges only, so that the compiler (fixed shapes) and the runtime (symbolic shapes) get the same one.

use kiln_ir::{Dim, TensorType};

use crate::abi::{ALIGNMENT, SLACK};
use crate::program::{Action, ArenaLayout, Function, SlotId, Storage};

/// A buffer to be placed: its size, and the first and last step (inclusive) at which it is live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    /// Bytes, without slack.
    pub size: u64,
    /// First step at which the bytes are in use.
    pub first: u32,
    /// Last step at which the bytes are in use.
    pub last: u32,
}

impl Interval {
    fn meets(&self, other: &Interval) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// Sizes whose sum does not fit in 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the arena would be larger than the address space")]
pub struct ArenaTooLarge;

/// Bytes that a buffer of `size` bytes takes in the arena.
fn padded(size: u64) -> Option<u64> {
    size.checked_add(SLACK as u64)?.checked_next_multiple_of(ALIGNMENT as u64)
}

/// Offsets for `intervals`, one by one, and the bytes of the whole arena: largest buffer first, each into the
/// smallest gap that takes it among the buffers which are live at the same time.
pub fn place(intervals: &[Interval]) -> Result<(Vec<u64>, u64), ArenaTooLarge> {
    let mut order: Vec<usize> = (0..intervals.len()).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(intervals[i].size), intervals[i].first, i));
    let mut offsets = vec![0u64; intervals.len()];
    let mut placed: Vec<usize> = Vec::with_capacity(intervals.len());
    let mut total = 0u64;
    let mut busy: Vec<(u64, u64)> = Vec::new();
    for i in order {
        let need = padded(intervals[i].size).ok_or(ArenaTooLarge)?;
        busy.clear();
        for &j in placed.iter().filter(|&&j| intervals[j].meets(&intervals[i])) {
            let len = padded(intervals[j].size).ok_or(ArenaTooLarge)?;
            busy.push((offsets[j], offsets[j] + len));
        }
        busy.sort_unstable();
        offsets[i] = best_gap(&busy, need);
        total = total.max(offsets[i].checked_add(need).ok_or(ArenaTooLarge)?);
        placed.push(i);
    }
    Ok((offsets, total))
}

/// Start of the smallest gap of at least `need` bytes between the sorted `busy` ranges, or the end of the last range.
fn best_gap(busy: &[(u64, u64)], need: u64) -> u64 {
    let mut best: Option<(u64, u64)> = None;
    let mut end = 0u64;
    for &(start, stop) in busy {
        let gap = start.saturating_sub(end);
        if gap >= need && best.is_none_or(|(size, _)| gap < size) {
            best = Some((gap, end));
        }
        end = end.max(stop);
    }
    best.map_or(end, |(_, at)| at)
}

/// Calls `visit` with every slot that an action touches.
pub fn for_each_slot(action: &Action, visit: &mut dyn FnMut(SlotId)) {
    let mut all = |slots: &[SlotId]| slots.iter().for_each(|&s| visit(s));
    match action {
        Action::Kernel(call) => call.buffers.iter().for_each(|b| visit(b.slot)),
        Action::Host { operands, results, .. } | Action::Call { operands, results, .. } => {
            all(operands);
            all(results);
        }
        Action::If { condition, operands, results, .. } => {
            all(&[*condition]);
            all(operands);
            all(results);
        }
        Action::Loop { trip_count, condition, carried, captured, results, .. } => {
            all(trip_count.as_slice());
            all(condition.as_slice());
            all(carried);
            all(captured);
            all(results);
        }
        Action::Copy { from, to } => all(&[*from, *to]),
        Action::Sizes { from, .. } => visit(*from),
        Action::Check { .. } => {}
        Action::StateRead { result: slot, .. } | Action::StateAssign { value: slot, .. } => visit(*slot),
    }
}

/// Longest chain of views of views: no compiler makes longer ones, and following them for every slot stays quick.
const MAX_CHAIN: usize = 4096;

/// The slot at the end of a chain of views, `None` if the chain leaves the function's slots, runs in a circle or is
/// longer than [`MAX_CHAIN`].
pub fn root(function: &Function, slot: SlotId) -> Option<SlotId> {
    let mut at = slot;
    for _ in 0..=function.slots.len().min(MAX_CHAIN) {
        match &function.slots.get(at.index())?.storage {
            Storage::View { of, .. } => at = *of,
            Storage::Arena
            | Storage::Input(_)
            | Storage::Output(_)
            | Storage::Constant(_)
            | Storage::Object => return Some(at),
        }
    }
    None
}

/// Per slot, the first and last step that touch it or a view of it; outputs stay live to the end. `None` for slots
/// that are not roots or are never touched.
pub fn live_ranges(function: &Function) -> Vec<Option<(u32, u32)>> {
    let mut ranges: Vec<Option<(u32, u32)>> = vec![None; function.slots.len()];
    let mut touch = |slot: SlotId, at: u32| {
        let Some(range) = root(function, slot).and_then(|r| ranges.get_mut(r.index())) else { return };
        *range = Some(range.map_or((at, at), |(first, last)| (first.min(at), last.max(at))));
    };
    let steps = u32::try_from(function.steps.len()).unwrap_or(u32::MAX);
    for (step, at) in function.steps.iter().zip(0u32..) {
        for_each_slot(&step.action, &mut |slot| touch(slot, at));
    }
    for &slot in &function.outputs {
        touch(slot, steps);
    }
    ranges
}

/// Bytes of a dense tensor as a dim; unknown where the shape is, or for strings.
pub fn byte_size(ty: &TensorType) -> Dim {
    match ty.dtype.bits() {
        0 => Dim::unknown(),
        bits if bits % 8 == 0 => ty.shape.numel() * Dim::known((bits / 8) as i64),
        bits => (ty.shape.numel() * Dim::known(bits as i64)).ceil_div(&Dim::known(8)),
    }
}

/// Bytes of the largest set of arena slots that are live at one step, each with its padding: no layout is smaller.
pub fn largest_live(function: &Function, sizes: &[Option<u64>]) -> u64 {
    largest_sum(&intervals(function, sizes).1)
}

/// The largest sum of padded sizes of intervals that share a step.
fn largest_sum(intervals: &[Interval]) -> u64 {
    let starts = intervals.iter().map(|i| i.first);
    let at = |step: u32| intervals.iter().filter(move |i| (i.first..=i.last).contains(&step));
    let sums =
        starts.map(|s| at(s).fold(0, |sum: u64, i| sum.saturating_add(padded(i.size).unwrap_or(u64::MAX))));
    sums.max().unwrap_or(0)
}

/// The slots that live in the arena, and their intervals.
fn intervals(function: &Function, sizes: &[Option<u64>]) -> (Vec<usize>, Vec<Interval>) {
    let ranges = live_ranges(function);
    let mut slots = Vec::new();
    let mut intervals = Vec::new();
    for (i, slot) in function.slots.iter().enumerate() {
        let placed = (&slot.storage, sizes.get(i).copied().flatten(), ranges[i]);
        if let (Storage::Arena, Some(size), Some((first, last))) = placed {
            slots.push(i);
            intervals.push(Interval { size, first, last });
        }
    }
    (slots, intervals)
}

/// The layout of a function whose arena slots have the given sizes (`None`: not placed in the arena).
pub fn layout(function: &Function, sizes: &[Option<u64>]) -> Result<ArenaLayout, ArenaTooLarge> {
    let (slots, intervals) = intervals(function, sizes);
    let (places, size) = place(&intervals)?;
    let mut offsets = vec![None; function.slots.len()];
    for (slot, offset) in slots.into_iter().zip(places) {
        offsets[slot] = Some(offset);
    }
    Ok(ArenaLayout { size, offsets })
}

/// The layout of a function if the sizes of all its arena slots are constants, else `None`.
pub fn fixed_layout(function: &Function) -> Result<Option<ArenaLayout>, ArenaTooLarge> {
    let mut sizes = Vec::with_capacity(function.slots.len());
    for slot in &function.slots {
        sizes.push(match (&slot.storage, slot.ty.as_tensor()) {
            (Storage::Arena, Some(ty)) => {
                match byte_size(ty).as_known().and_then(|n| u64::try_from(n).ok()) {
                    Some(bytes) => Some(bytes),
                    None => return Ok(None),
                }
            }
            _ => None,
        });
    }
    layout(function, &sizes).map(Some)
}

/// Whether `layout` keeps the module's guarantee for these sizes.
pub fn is_sound(function: &Function, sizes: &[Option<u64>], layout: &ArenaLayout) -> bool {
    let ranges = live_ranges(function);
    let mut spans: Vec<(u64, u64, Interval)> = Vec::new();
    for (i, slot) in function.slots.iter().enumerate() {
        if !matches!(slot.storage, Storage::Arena) {
            continue;
        }
        let (Some(&Some(size)), Some((first, last))) = (sizes.get(i), ranges[i]) else { continue };
        let Some(&Some(start)) = layout.offsets.get(i) else { return false };
        let Some(end) = padded(size).and_then(|len| start.checked_add(len)) else { return false };
        if start % ALIGNMENT as u64 != 0 || end > layout.size {
            return false;
        }
        spans.push((start, end, Interval { size, first, last }));
    }
    spans.sort_unstable_by_key(|s| s.0);
    spans.iter().enumerate().all(|(i, (_, end, range))| {
        spans[i + 1..].iter().take_while(|(start, _, _)| start < end).all(|(_, _, other)| !range.meets(other))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn overlaps(a: (u64, u64), b: (u64, u64)) -> bool {
        a.0 < b.1 && b.0 < a.1
    }

    proptest! {
        #[test]
        fn live_buffers_never_overlap(
            raw in prop::collection::vec((0u64..5000, 0u32..40, 0u32..10), 0..60)
        ) {
            let intervals: Vec<Interval> =
                raw.iter().map(|&(size, first, n)| Interval { size, first, last: first + n }).collect();
            let (offsets, total) = place(&intervals).unwrap();
            let span = |i: usize| (offsets[i], offsets[i] + intervals[i].size + SLACK as u64);
            for i in 0..intervals.len() {
                prop_assert_eq!(offsets[i] % ALIGNMENT as u64, 0);
                prop_assert!(span(i).1 <= total);
                for j in 0..i {
                    if intervals[i].meets(&intervals[j]) {
                        prop_assert!(!overlaps(span(i), span(j)), "{} and {}", i, j);
                    }
                }
            }
            prop_assert!(total >= largest_sum(&intervals));
            // No arena is larger than all buffers side by side.
            prop_assert!(total <= intervals.iter().map(|i| padded(i.size).unwrap()).sum::<u64>());
        }
    }

    #[test]
    fn a_chain_needs_two_buffers() {
        let chain: Vec<Interval> = (0..10).map(|i| Interval { size: 1000, first: i, last: i + 1 }).collect();
        let (_, total) = place(&chain).unwrap();
        assert_eq!(total, 2 * padded(1000).unwrap());
        assert_eq!(total, largest_sum(&chain));
    }

    #[test]
    fn impossible_sizes_are_errors() {
        let huge = Interval { size: u64::MAX - 10, first: 0, last: 0 };
        assert_eq!(place(&[huge]), Err(ArenaTooLarge));
        let half = Interval { size: u64::MAX / 2, first: 0, last: 0 };
        assert_eq!(place(&[half, half, half]), Err(ArenaTooLarge));
    }
}
