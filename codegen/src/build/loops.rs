//! Schedules of elementwise and reducing kernels: which axes are the parallel grid, which loop is the vector loop,
//! how much a grid point and a chunk do.

use kiln_ir::{DType, Dim, Prim, Tensor, Value};
use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::SmallVec;

use super::emit::{Emitter, Group, Param, is_joint};
use super::expr::{Atom, Axes, AxisId, Expr, flatten, unflatten};
use super::rows;
use super::small::is_small;
use super::term::{InRange, Literal, Term, TermId, Terms};
use super::trace::{Fit, Refusal, Region, SourceTensor, Trace, kernel_type};
use crate::kir::{Access, BufferId, Ix, Kernel, KernelBuilder, LoopKind};
use crate::schedule::{WHOLE_ROWS, channel_block};

/// A kernel with what a call of it needs.
#[derive(Clone, Debug)]
pub struct Lowered {
    /// The kernel.
    pub kernel: Kernel,
    /// Buffer parameters in kernel order.
    pub params: Vec<Param>,
    /// The tensors that [`Param::Source`] names.
    pub sources: Vec<SourceTensor>,
    /// The values that [`Param::Output`] names.
    pub outputs: Vec<Value>,
    /// Integer parameters in kernel order.
    pub dims: Vec<Dim>,
    /// Number of grid points.
    pub grid: Dim,
    /// Grid points in a chunk.
    pub grain: Dim,
    /// Arithmetic operations of the whole grid.
    pub flops: Dim,
    /// What must hold of symbolic sizes before a call.
    pub fits: Vec<Fit>,
}

/// A value that the kernel stores.
#[derive(Clone, Debug)]
pub struct Root {
    /// Position among the outputs.
    pub output: usize,
    /// Storage dtype.
    pub dtype: DType,
    /// The element.
    pub term: TermId,
    /// Where it goes.
    pub offset: Expr,
}

/// Elements that one grid point computes where the innermost axis is long.
const BLOCK: i64 = 4096;

/// Innermost extent below which outer loops join a grid point.
const SHORT: i64 = 512;

/// Most elements that one grid point computes where they are a line of windows.
const LINE: i64 = 16 * BLOCK;

/// Weighted operations in a chunk: some microseconds.
const CHUNK_WORK: i64 = 100_000;

/// Weighted operations of a block of columns: more than half of a chunk, so that a chunk has one block.
const LEAST_BLOCK_WORK: i64 = CHUNK_WORK / 2 + 1;

/// Blocks of columns begin at multiples of this: two cache lines of f32, which come together.
const COLUMN_STEP: i64 = 32;

/// How often axes are split so that reshapes become affine.
const MAX_SPLITS: usize = 8;

/// Loop iterations that may be repeated because a reduction does not depend on an outer axis.
const MAX_REPEATS: i64 = 4;

/// Bytes that are side by side in the result, each of another row of the operand: they are written out in the loop along
/// the rows.
const QUAD: i64 = 4;

/// A part of the outputs: positions `start .. start + extent` of an axis.
#[derive(Clone, Debug)]
pub struct Piece {
    /// The axis.
    pub axis: usize,
    /// First position.
    pub start: Dim,
    /// Number of positions.
    pub extent: Dim,
}

/// Lowers outputs of equal shape, or a piece of them, as one loop nest over that shape.
pub fn lower_loops(
    region: &Region<'_>,
    constants: &dyn Fn(Value) -> Option<Tensor>,
    piece: Option<&Piece>,
    name: &str,
) -> Result<Lowered, Refusal> {
    let first = *region.outputs.first().ok_or_else(|| Refusal::new("a region without outputs"))?;
    let (dtype, dims) = kernel_type(region.graph, first)?;
    if region.outputs.iter().any(|&v| kernel_type(region.graph, v).is_ok_and(|t| t.0.is_packed())) {
        return lower_packed(region, constants, dtype, dims, name);
    }
    let dims = dims.to_vec();
    let mut factors: Vec<Vec<Dim>> = dims.iter().map(|d| vec![d.clone()]).collect();
    if let Some(piece) = piece {
        factors[piece.axis] = vec![piece.extent.clone()];
    }
    for round in 0..=MAX_SPLITS {
        let mut trace = Trace::new(region, constants);
        let domain = Domain::new(&mut trace.axes, &factors);
        let mut index = domain.index.clone();
        if let Some(piece) = piece {
            index[piece.axis] = index[piece.axis].plus_dim(&piece.start);
        }
        let roots = trace_roots(&mut trace, region, &index)?;
        match domain.split(&trace, &roots).filter(|_| round < MAX_SPLITS) {
            Some(split) => factors = split,
            None => return schedule(trace, region, domain.order(), roots, name),
        }
    }
    Err(Refusal::new("axes that split without end"))
}

fn trace_roots(trace: &mut Trace<'_, '_>, region: &Region<'_>, index: &[Expr]) -> Result<Vec<Root>, Refusal> {
    let mut roots = vec![];
    for (output, &v) in region.outputs.iter().enumerate() {
        let mut term = trace.value(v, index, &[])?;
        let offset = flatten(index, trace.dims(v)?);
        let mut dtype = trace.dtype(v)?;
        if is_small(dtype) {
            let bits = trace.narrowed(term, dtype)?;
            (term, dtype) = (trace.terms.cast(bits, DType::U8), DType::U8);
        }
        roots.push(Root { output, dtype, term, offset });
    }
    Ok(roots)
}

/// Lowers an output of which several elements share a byte, as a loop over its bytes.
fn lower_packed(
    region: &Region<'_>,
    constants: &dyn Fn(Value) -> Option<Tensor>,
    dtype: DType,
    dims: &[Dim],
    name: &str,
) -> Result<Lowered, Refusal> {
    let [v] = *region.outputs.as_slice() else { return Err(Refusal::new("several outputs of packed bits")) };
    let bits = dtype.bits() as i64;
    let each = 8 / bits;
    let count = dims.iter().try_fold(1i64, |n, d| n.checked_mul(d.as_known()?));
    let count = count.ok_or_else(|| Refusal::new("packed bits of symbolic size"))?;
    let mut trace = Trace::new(region, constants);
    let axis = trace.axes.add(Dim::known(count).ceil_div(&Dim::known(each)));
    let mut byte = trace.terms.add(Term::Const(Literal::I(0)), DType::U32);
    for place in 0..each {
        let flat = Expr::axis(axis).times(&Dim::known(each)).plus_dim(&Dim::known(place));
        let upper = Dim::known(count);
        // The last byte may be of fewer elements.
        let guards = if count % each == 0 { vec![] } else { vec![InRange { index: flat.clone(), upper }] };
        let index = unflatten(&flat, dims, &trace.axes);
        let value = trace.value(v, &index, &guards)?;
        let element = trace.narrowed(value, dtype)?;
        let nothing = trace.terms.add(Term::Const(Literal::I(0)), DType::U32);
        let element = trace.padded(element, &guards, nothing);
        let shift = trace.terms.add(Term::Const(Literal::I(i128::from(place * bits))), DType::U32);
        let moved = trace.terms.apply(Prim::Shl, &[element, shift]);
        byte = trace.terms.apply(Prim::Or, &[byte, moved]);
    }
    let term = trace.terms.cast(byte, DType::U8);
    let roots = vec![Root { output: 0, dtype: DType::U8, term, offset: Expr::axis(axis) }];
    schedule(trace, region, vec![axis], roots, name)
}

/// Iteration axes of a shape; a dim may be several axes.
pub struct Domain {
    axes: Vec<Vec<AxisId>>,
    factors: Vec<Vec<Dim>>,
    /// The index of each dim.
    pub index: Vec<Expr>,
}

impl Domain {
    /// Axes for dims that are products of `factors`.
    pub fn new(axes: &mut Axes, factors: &[Vec<Dim>]) -> Domain {
        let mut ids = vec![];
        let mut index = vec![];
        for factors in factors {
            let own: Vec<AxisId> = factors.iter().map(|f| axes.add(f.clone())).collect();
            let mut at = Expr::zero();
            for (axis, extent) in own.iter().zip(factors) {
                at = at.times(extent);
                if extent.as_known() != Some(1) {
                    at = at.plus(&Expr::axis(*axis));
                }
            }
            ids.push(own);
            index.push(at);
        }
        Domain { axes: ids, factors: factors.to_vec(), index }
    }

    /// The axes, outermost first.
    pub fn order(&self) -> Vec<AxisId> {
        self.axes.iter().flatten().copied().collect()
    }

    /// Finer factors where quotients and remainders of an axis occur, if some do.
    pub fn split(&self, trace: &Trace<'_, '_>, roots: &[Root]) -> Option<Vec<Vec<Dim>>> {
        let mut wanted: FxHashMap<AxisId, Dim> = FxHashMap::default();
        let mut visit = |e: &Expr| {
            e.visit(&mut |atom, _| {
                let (Atom::Div(inner, d) | Atom::Mod(inner, d)) = atom else { return };
                for (part, c) in inner.terms() {
                    let Atom::Axis(a) = part else { continue };
                    // A quotient by d of c * axis splits the axis at d / c.
                    let splits = |at: &Dim| at.as_known() != Some(1) && at.is_non_negative();
                    let Some(at) = d.exact_div(c).filter(splits) else { continue };
                    let fits = trace.axes.extent(*a).exact_div(&at);
                    if fits.is_some_and(|q| q.as_known() != Some(1)) {
                        wanted.entry(*a).or_insert(at);
                    }
                }
            });
        };
        let terms: Vec<TermId> = roots.iter().map(|r| r.term).collect();
        for t in trace.terms.reachable(&terms) {
            trace.terms.exprs(t, &mut |e, _| visit(e));
        }
        roots.iter().for_each(|r| visit(&r.offset));
        let mut changed = false;
        let mut result = self.factors.clone();
        for (axes, factors) in self.axes.iter().zip(&mut result) {
            for (i, axis) in axes.iter().enumerate() {
                let Some(inner) = wanted.get(axis) else { continue };
                let Some(outer) = factors[i].exact_div(inner) else { continue };
                factors.splice(i..=i, [outer, inner.clone()]);
                changed = true;
                break;
            }
        }
        changed.then_some(result)
    }
}

/// Merges neighbouring axes that every index expression takes as one.
pub fn collapse(order: &[AxisId], axes: &Axes, exprs: &[Expr]) -> Vec<Group> {
    let mut opaque: FxHashSet<AxisId> = FxHashSet::default();
    for e in exprs {
        e.visit(&mut |atom, inside| {
            if let (Atom::Axis(a), true) = (atom, inside) {
                opaque.insert(*a);
            }
        });
    }
    let mut groups: Vec<Group> = vec![];
    for &axis in order.iter().filter(|a| axes.extent(**a).as_known() != Some(1)) {
        if let Some(last) = groups.last_mut() {
            let before = *last.members.last().unwrap_or(&axis);
            let joint = !opaque.contains(&axis)
                && !opaque.contains(&before)
                && exprs.iter().all(|e| is_joint(e, &[before, axis], axes));
            if joint {
                last.members.push(axis);
                continue;
            }
        }
        groups.push(Group::of(axis));
    }
    groups
}

/// Every index expression that the roots use.
pub fn all_exprs(terms: &Terms, roots: &[TermId]) -> Vec<Expr> {
    let mut exprs = vec![];
    for t in terms.reachable(roots) {
        terms.exprs(t, &mut |e, _| exprs.push(e.clone()));
    }
    exprs
}

/// The loops of every reduction.
pub fn reduce_groups(terms: &Terms, axes: &Axes, roots: &[TermId]) -> FxHashMap<TermId, Vec<Group>> {
    let exprs = all_exprs(terms, roots);
    let mut groups = FxHashMap::default();
    for t in terms.reachable(roots) {
        if let Term::Reduce { axes: bound, .. } = &terms.get(t).term {
            let mut own = collapse(bound, axes, &exprs);
            // An axis that the item ignores is still repeated; an axis of extent 1 is not.
            own.retain(|g| !g.members.is_empty());
            groups.insert(t, own);
        }
    }
    groups
}

/// Loop levels of a kernel: groups `0 .. grid` are the grid, the rest are loops of a grid point.
struct Levels {
    groups: Vec<Group>,
    grid: usize,
    /// Whether the last group is a vector loop.
    vector: bool,
    /// Elements of the blocks into which the last group is cut, the number of which joins the grid.
    block: Option<i64>,
    /// The last group runs along rows with reductions: so many rows (of the group before it, if there is one) are a
    /// grid point.
    rows: Option<i64>,
    /// Whether grid points are blocks of channels of an image.
    image: bool,
    /// A group inside of all others that is written out.
    quad: Option<Group>,
}

impl Levels {
    /// Vector loops over the last of `groups`, the first `grid` of which are the grid.
    fn new(groups: Vec<Group>, grid: usize) -> Levels {
        Levels { groups, grid, vector: true, block: None, rows: None, image: false, quad: None }
    }
}

/// Elements of the rows that a grid point does.
const ROW_BLOCK: i64 = 8192;

/// Rows of unknown length that a grid point does.
const FEW_ROWS: i64 = 16;

/// Rows in a grid point, of `rows` of `length` elements.
fn row_block(rows: Option<i64>, length: Option<i64>) -> i64 {
    let most = length.map_or(FEW_ROWS, |n| ROW_BLOCK / n.max(1)).max(1);
    let Some(rows) = rows else { return most };
    let most = most.min(rows.max(1));
    (most / 2 + 1..=most).rev().find(|r| rows % r == 0).unwrap_or(most)
}

fn schedule(
    trace: Trace<'_, '_>,
    region: &Region<'_>,
    order: Vec<AxisId>,
    roots: Vec<Root>,
    name: &str,
) -> Result<Lowered, Refusal> {
    let Trace { terms, axes, sources, fits, .. } = trace;
    let tops: Vec<TermId> = roots.iter().map(|r| r.term).collect();
    let mut exprs = all_exprs(&terms, &tops);
    exprs.extend(roots.iter().map(|r| r.offset.clone()));
    let mut groups = collapse(&order, &axes, &exprs);
    let quad = groups.pop_if(|inner| is_quad(&terms, &axes, &roots, inner));
    let levels = Levels { quad, ..levels(&terms, &axes, &sources, &tops, groups)? };
    let reduces = reduce_groups(&terms, &axes, &tops);
    let mut b = KernelBuilder::new(name);
    let mut emitter = Emitter::new(&terms, &axes, &sources, &reduces);
    let row = levels.groups.last().filter(|_| levels.rows.is_some());
    let kept = row.map_or(vec![], |row| rows::kept(&terms, &axes, &tops, row));
    let in_result = row.filter(|row| rows::fit_result(&kept, &roots, row));
    let access = if in_result.is_some() { Access::InOut } else { Access::Out };
    let declare = |r: &Root| emitter.output(&mut b, r.output, r.dtype, access.clone());
    let outputs: Vec<BufferId> = roots.iter().map(declare).collect();
    match (row, in_result) {
        (_, Some(own)) => emitter.keep_in_result(&kept, own.members[0], outputs[0], &roots[0]),
        (Some(row), None) => emitter.keep(&mut b, &kept, row),
        (None, None) => {}
    }
    let grid = emit_grid(&mut emitter, &mut b, &levels, &axes, &roots, &outputs);
    let (kernel, params, dims) = emitter.finish(b)?;
    let points = order.iter().fold(Dim::known(1), |n, a| n * axes.extent(*a));
    let work = points + terms.operations(&tops, &axes);
    let flops = terms.arithmetic(&tops, &axes);
    let chunk = if levels.image { CHUNK_WORK / 4 } else { CHUNK_WORK };
    let grain = grain(&grid, &work, chunk);
    Ok(Lowered { kernel, params, sources, outputs: region.outputs.clone(), dims, grid, grain, flops, fits })
}

/// Grid points that make a chunk of `chunk` operations, given those of the whole grid.
pub fn grain(grid: &Dim, work: &Dim, chunk: i64) -> Dim {
    let one = Dim::known(1);
    // work / grid may be 0 for empty grids; every divisor is at least 1.
    let each = work.floor_div(&grid.greater(&one)).greater(&one);
    Dim::known(chunk).floor_div(&each).greater(&one)
}

/// Whether the innermost group is of [`QUAD`] bytes that are computed from elements far from each other.
fn is_quad(terms: &Terms, axes: &Axes, roots: &[Root], inner: &Group) -> bool {
    let axis = match inner.members[..] {
        [axis] if axes.extent(axis).as_known() == Some(QUAD) => axis,
        _ => return false,
    };
    let bytes = roots.iter().all(|r| {
        matches!(r.dtype, DType::I8 | DType::U8) && r.offset.coefficient(axis).as_known() == Some(1)
    });
    let tops: Vec<TermId> = roots.iter().map(|r| r.term).collect();
    let far = |t: TermId| match &terms.get(t).term {
        Term::Load { offset, .. } => offset.coefficient(axis).as_known().is_none_or(|c| c > QUAD),
        Term::Reduce { .. } | Term::Index(_) => false,
        _ => true,
    };
    bytes && terms.reachable(&tops).into_iter().all(far)
}

fn levels(
    terms: &Terms,
    axes: &Axes,
    sources: &[SourceTensor],
    tops: &[TermId],
    groups: Vec<Group>,
) -> Result<Levels, Refusal> {
    let count = groups.len();
    let level_of = |axis: &AxisId| groups.iter().position(|g| g.members.contains(axis));
    let mut hoisted = count;
    let mut rows = false;
    for t in terms.reachable(tops) {
        let data = terms.get(t);
        let Term::Reduce { axes: bound, item, .. } = &data.term else { continue };
        let used: FxHashSet<usize> = data.axes.iter().filter_map(level_of).collect();
        let nested = data.axes.iter().any(|a| level_of(a).is_none() && axes.extent(*a).as_known() != Some(1));
        if nested {
            continue;
        }
        let last = used.iter().max().map_or(0, |l| l + 1);
        let repeats = (0..last)
            .filter(|l| !used.contains(l))
            .try_fold(1i64, |n, l| n.checked_mul(groups[l].extent(axes).as_known()?));
        if repeats.is_none_or(|n| n > MAX_REPEATS) {
            return Err(Refusal::new("a reduction would be repeated for every outer index"));
        }
        if last < count {
            hoisted = hoisted.min(last);
        } else if let (Some(group), Some(inner)) = (groups.last(), bound.last()) {
            rows |= reads_along(terms, axes, *item, bound, *inner, group);
        }
    }
    if hoisted < count {
        let points = groups.iter().fold(Dim::known(1), |n, g| n * g.extent(axes));
        let outer = groups[..hoisted].iter().fold(Dim::known(1), |n, g| n * g.extent(axes));
        if outer.as_known() == Some(1) && points.as_known().is_none_or(|n| n > 1 << 18) {
            return Err(Refusal::new("a reduction of everything would keep the kernel on one thread"));
        }
        let rows = (hoisted + 1 == count).then(|| {
            let extent = |at: Option<usize>| at.map_or(Some(1), |i| groups[i].extent(axes).as_known());
            row_block(extent(hoisted.checked_sub(1)), extent(Some(hoisted)))
        });
        return Ok(Levels { rows, ..Levels::new(groups, hoisted) });
    }
    if rows || count == 0 {
        return Ok(Levels { vector: false, ..Levels::new(groups, count) });
    }
    if let Some(block) = image_block(terms, axes, sources, tops, &groups) {
        return Ok(Levels { block: Some(block), image: true, ..Levels::new(groups, 0) });
    }
    let inner = groups[count - 1].extent(axes).as_known();
    let mut block = inner.is_none_or(|n| n > 2 * BLOCK).then_some(BLOCK);
    let mut grid = count - 1;
    let mut points = inner.unwrap_or(i64::MAX);
    // Neighbours of a line of windows use the same elements: one point has them all.
    let mut window = count > 1 && overlaps(terms, axes, tops, &groups[count - 2]);
    while grid > 0 && (points < SHORT || window) {
        let Some(outer) = groups[grid - 1].extent(axes).as_known() else { break };
        points = points.saturating_mul(outer.max(1));
        if points > if window { LINE } else { 4 * BLOCK } {
            break;
        }
        window = false;
        grid -= 1;
    }
    if let (0, None, Some(length)) = (grid, block, inner) {
        block = column_block(length, terms.operations(tops, axes).as_known());
    }
    Ok(Levels { block, ..Levels::new(groups, grid) })
}

/// Columns of a block where a loop of `length` columns, with `work` operations in all, would be a single grid point:
/// long reductions over few columns, such as means over images, whose channels threads then share.
fn column_block(length: i64, work: Option<i64>) -> Option<i64> {
    let blocks = (work? / LEAST_BLOCK_WORK).min(length / COLUMN_STEP);
    if blocks < 2 {
        return None;
    }
    let block = crate::schedule::even(length, (length + blocks - 1) / blocks, COLUMN_STEP);
    (block < length).then_some(block)
}

/// The size of blocks of channels where the kernel reduces each channel of a small image by itself: windows, means.
fn image_block(
    terms: &Terms,
    axes: &Axes,
    sources: &[SourceTensor],
    tops: &[TermId],
    groups: &[Group],
) -> Option<i64> {
    let group = groups.last()?;
    let channel = *group.members.last()?;
    let channels = group.extent(axes).as_known().filter(|n| *n > 0)?;
    let (mut image, mut reduces) = (false, false);
    for t in terms.reachable(tops) {
        reduces |= matches!(terms.get(t).term, Term::Reduce { .. });
        let Term::Load { source, offset, .. } = &terms.get(t).term else { continue };
        let source = &sources[*source];
        if source.constant.is_some() {
            continue;
        }
        let elements = source.dims.iter().try_fold(1i64, |n, d| n.checked_mul(d.as_known()?))?;
        let contiguous = group.members.len() == 1 && offset.coefficient(channel).as_known() == Some(1);
        if !contiguous || elements > channels.saturating_mul(WHOLE_ROWS) {
            return None;
        }
        image |= elements > channels;
    }
    channel_block(channels).filter(|_| image && reduces)
}

/// Whether a reduction reads elements that move with its own axes and with a group of axes outside of it: windows.
fn overlaps(terms: &Terms, axes: &Axes, tops: &[TermId], group: &Group) -> bool {
    let Some(outer) = group.members.last().copied() else { return false };
    terms.reachable(tops).into_iter().any(|t| {
        let Term::Reduce { axes: bound, item, .. } = &terms.get(t).term else { return false };
        let moves = |offset: &Expr, axis: AxisId| offset.coefficient(axis).as_known() != Some(0);
        let moving = |a: &AxisId| axes.extent(*a).as_known() != Some(1);
        terms.reachable(&[*item]).into_iter().any(|t| match &terms.get(t).term {
            Term::Load { offset, .. } => {
                let taps = bound.iter().filter(|a| moving(a)).any(|a| moves(offset, *a));
                taps && moves(offset, outer)
            }
            _ => false,
        })
    })
}

/// Whether a reduction reads consecutive elements along its own innermost axis and not along the kernel's.
fn reads_along(
    terms: &Terms,
    axes: &Axes,
    item: TermId,
    bound: &SmallVec<[AxisId; 4]>,
    inner: AxisId,
    group: &Group,
) -> bool {
    let points = bound.iter().try_fold(1i64, |n, a| n.checked_mul(axes.extent(*a).as_known()?));
    if points.is_some_and(|n| n < 16) {
        return false;
    }
    let (mut along_own, mut along_outer) = (false, false);
    for t in terms.reachable(&[item]) {
        if let Term::Load { offset, .. } = &terms.get(t).term {
            along_own |= offset.coefficient(inner).as_known() == Some(1);
            let outer = group.members.last().map(|a| offset.coefficient(*a));
            along_outer |= outer.is_some_and(|c| c.as_known() == Some(1));
        }
    }
    along_own && !along_outer
}

/// Emits the grid and the body; gives the number of grid points.
fn emit_grid(
    e: &mut Emitter<'_>,
    b: &mut KernelBuilder,
    levels: &Levels,
    axes: &Axes,
    roots: &[Root],
    outputs: &[BufferId],
) -> Dim {
    if let Some(rows) = levels.rows {
        return emit_rows(e, b, levels, rows, axes, roots, outputs);
    }
    let mut points = Dim::known(1);
    let mut vars = vec![];
    for group in &levels.groups[..levels.grid] {
        let extent = group.extent(axes);
        points = &points * &extent;
        let extent = e.dim(b, &extent);
        vars.push(b.grid(extent));
    }
    let mut block = None;
    if let Some(size) = levels.block {
        let extent = levels.groups[levels.groups.len() - 1].extent(axes);
        let blocks = extent.ceil_div(&Dim::known(size));
        points = &points * &blocks;
        let whole = extent.as_known().is_some_and(|n| n % size == 0);
        let total = e.dim(b, &extent);
        let blocks = e.dim(b, &blocks);
        let var = b.grid(blocks);
        let begin = var * size;
        block = Some((begin.clone(), if whole { Ix::Const(size) } else { (total - begin).min(size) }));
    }
    bind_all(e, b, &levels.groups[..levels.grid], &vars, &mut |e, b| {
        emit_level(e, b, levels, levels.grid, axes, block.as_ref(), roots, outputs);
    });
    points
}

/// Emits rows, `rows` of them a grid point; gives the number of grid points.
fn emit_rows(
    e: &mut Emitter<'_>,
    b: &mut KernelBuilder,
    levels: &Levels,
    rows: i64,
    axes: &Axes,
    roots: &[Root],
    outputs: &[BufferId],
) -> Dim {
    let outer = &levels.groups[..levels.grid.saturating_sub(1)];
    let group = levels.groups[..levels.grid].last();
    let mut points = Dim::known(1);
    let mut vars = vec![];
    for group in outer {
        let extent = group.extent(axes);
        points = &points * &extent;
        let extent = e.dim(b, &extent);
        vars.push(b.grid(extent));
    }
    let all = group.map_or(Dim::known(1), |g| g.extent(axes));
    let (mut begin, mut extent) = (Ix::Const(0), e.dim(b, &all));
    if all.as_known().is_none_or(|n| n > rows) {
        let blocks = all.ceil_div(&Dim::known(rows));
        points = &points * &blocks;
        let blocks = e.dim(b, &blocks);
        begin = b.grid(blocks) * rows;
        let whole = all.as_known().is_some_and(|n| n % rows == 0);
        extent = if whole { Ix::Const(rows) } else { (extent - begin.clone()).min(rows) };
    }
    let terms: Vec<TermId> = roots.iter().map(|r| r.term).collect();
    bind_all(e, b, outer, &vars, &mut |e, b| {
        e.hoist(b, &terms);
        b.sequential(extent.clone(), |b, i| {
            let mut next =
                |e: &mut Emitter<'_>| emit_level(e, b, levels, levels.grid, axes, None, roots, outputs);
            match group {
                Some(group) => e.bound(group, i + begin.clone(), next),
                None => next(e),
            }
        });
    });
    points
}

/// Binds groups to variables around `f`.
pub fn bind_all(
    e: &mut Emitter<'_>,
    b: &mut KernelBuilder,
    groups: &[Group],
    vars: &[Ix],
    f: &mut dyn FnMut(&mut Emitter<'_>, &mut KernelBuilder),
) {
    match (groups.split_first(), vars.split_first()) {
        (Some((group, groups)), Some((var, vars))) => {
            e.bound(group, var.clone(), |e| bind_all(e, b, groups, vars, f));
        }
        _ => f(e, b),
    }
}

#[allow(clippy::too_many_arguments, reason = "the state of one recursion")]
fn emit_level(
    e: &mut Emitter<'_>,
    b: &mut KernelBuilder,
    levels: &Levels,
    level: usize,
    axes: &Axes,
    block: Option<&(Ix, Ix)>,
    roots: &[Root],
    outputs: &[BufferId],
) {
    let Some(group) = levels.groups.get(level) else {
        match &levels.quad {
            Some(quad) => {
                (0..QUAD).for_each(|i| e.bound(quad, Ix::Const(i), |e| emit_stores(e, b, roots, outputs)));
            }
            None => emit_stores(e, b, roots, outputs),
        }
        return;
    };
    let terms: Vec<TermId> = roots.iter().map(|r| r.term).collect();
    e.hoist(b, &terms);
    let last = level + 1 == levels.groups.len();
    let (begin, extent) = match block.filter(|_| last) {
        Some((begin, extent)) => (begin.clone(), extent.clone()),
        None => (Ix::Const(0), e.dim(b, &group.extent(axes))),
    };
    let vector = last && levels.vector;
    let kind = if vector { LoopKind::Vector } else { LoopKind::Sequential };
    b.for_loop(kind, extent, |b, i| {
        let var = i + begin;
        let next = |e: &mut Emitter<'_>| emit_level(e, b, levels, level + 1, axes, block, roots, outputs);
        if vector { e.bound_vector(group, var, next) } else { e.bound(group, var, next) }
    });
}

/// Computes the elements of the roots and stores them.
fn emit_stores(e: &mut Emitter<'_>, b: &mut KernelBuilder, roots: &[Root], outputs: &[BufferId]) {
    for (root, &buffer) in roots.iter().zip(outputs) {
        let value = e.emit(b, root.term);
        let stored = crate::kir::compute_dtype(root.dtype).unwrap_or(root.dtype);
        let value = b.cast(value, stored);
        let at = e.ix(b, &root.offset);
        b.store(buffer, at, value);
    }
}
