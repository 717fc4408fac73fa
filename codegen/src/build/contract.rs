//! Contractions and convolutions as [`Contract`] statements: result axes become batch, rows and columns, constant
//! right operands are packed into panels, and the rest of the region is the epilogue on the accumulators.

use kiln_ir::op::{Contract as ContractOp, Conv, Movement};
use kiln_ir::{DType, Dim, Ew, NodeId, Op, Prim, Tensor, Value};
use rustc_hash::FxHashMap;

use super::emit::{Emitter, Group};
use super::expr::{AxisId, Expr, flatten, reshape_index};
use super::loops::{Domain, Lowered, Root, all_exprs, bind_all, collapse, grain, reduce_groups};
use super::narrow;
use super::panels::{Panels, pack_panels};
use super::quads::{self, Zero};
use super::reduction::spatial_axes;
use super::sparse;
use super::term::{InRange, Term, TermId};
use super::trace::{Hero, Refusal, Region, Trace, kernel_type};
use crate::kir::sparse::Window;
use crate::kir::{Access, Axis, Contract, GROUP, Ix, KernelBuilder, Operand, Rhs, Sparse, Stmt, Val, Var};
use crate::schedule::{Blocks, contract_blocks, panel_width, quad_width};

/// What the lowerings like: sizes in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// Elements of f32 in one vector.
    pub lanes: u32,
    /// Whether products of bytes are those of tile registers.
    pub tiles: bool,
    /// Whether rows of a convolution may be positions of several lines: the lowering finds lines in them again.
    pub reads_lines: bool,
    /// Whether convolutions may be computed with transformed tiles ([`super::winograd`]).
    pub winograd: bool,
    /// Whether one instruction adds four products of bytes. Lists of bytes do not pay without it.
    pub dots: bool,
}

/// Length of sums that is assumed where it is known at run time only.
const UNKNOWN_DEPTH: i64 = 512;

/// Arithmetic operations in a chunk: some microseconds.
pub(super) const CHUNK_FLOPS: i64 = 1_000_000;

/// Row loops shorter than this are joined with outer axes although the left operand is not affine in the join.
const SHORT_ROWS: i64 = 64;

/// Longest lines that are joined: a grid point has whole ones.
const MOST_LINE: i64 = 512;

const MAX_SPLITS: usize = 8;

/// The pieces of a contraction before loops are chosen.
pub(super) struct Pieces {
    pub roots: Vec<Root>,
    /// Left and right element.
    pub a: TermId,
    pub b: TermId,
    /// The operands of a contraction and where their elements are, left and right.
    pub at: Vec<(Value, Vec<Expr>)>,
    /// The left element inside of padding, and where that is.
    pub bare: (TermId, Vec<InRange>),
    /// Result axes, in order.
    pub order: Vec<AxisId>,
    /// Reduced axes, outermost first.
    pub reduced: Vec<AxisId>,
    /// The image that taps go around in, where each result has the pixel of its own place in their middle.
    pub window: Option<Window>,
    pub acc: DType,
}

/// What a contraction's products are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Products {
    /// Bytes less a zero point, and constants that fit into bytes ([`quads`]).
    Bytes,
    /// Elements as they are.
    Elements,
}

/// Lowers a region around the contraction or convolution `hero`.
pub fn lower_contract(
    region: &Region<'_>,
    hero: NodeId,
    constants: &dyn Fn(Value) -> Option<Tensor>,
    tuning: Tuning,
    name: &str,
) -> Result<Lowered, Refusal> {
    let integers = kernel_type(region.graph, region.graph.node(hero).results[0])?.0 == DType::I32;
    let lower = |products| lower_products(region, hero, constants, (tuning, products), name);
    if integers {
        match lower(Products::Bytes) {
            Ok(lowered) => return Ok(lowered),
            Err(refusal) => tracing::trace!(name, reason = %refusal.0, "no products of bytes"),
        }
    }
    lower(Products::Elements)
}

fn lower_products(
    region: &Region<'_>,
    hero: NodeId,
    constants: &dyn Fn(Value) -> Option<Tensor>,
    (tuning, products): (Tuning, Products),
    name: &str,
) -> Result<Lowered, Refusal> {
    let node = region.graph.node(hero);
    let value = node.results[0];
    let mut factors = initial_factors(region, &node.op, value, &node.operands)?;
    for last in 0..=MAX_SPLITS {
        let mut trace = Trace::new(region, constants);
        let domain = Domain::new(&mut trace.axes, &factors);
        trace.hero = Some(Hero { value, index: domain.index.clone(), mismatch: false });
        let pieces = pieces(&mut trace, region, hero, &domain)?;
        if let Some(split) = domain.split(&trace, &pieces.roots).filter(|_| last < MAX_SPLITS) {
            factors = split;
            continue;
        }
        if trace.hero.as_ref().is_some_and(|h| h.mismatch) {
            break;
        }
        return Builder::new(trace, pieces, (tuning, products))?.build(region, name);
    }
    Err(Refusal::new("the contraction is needed at another index than its own"))
}

/// Factors of the result's dims: the channels of a grouped convolution are groups times channels.
fn initial_factors(
    region: &Region<'_>,
    op: &Op,
    value: Value,
    operands: &[Value],
) -> Result<Vec<Vec<Dim>>, Refusal> {
    let (_, dims) = kernel_type(region.graph, value)?;
    let mut factors: Vec<Vec<Dim>> = dims.iter().map(|d| vec![d.clone()]).collect();
    if let Op::Conv(Conv::Forward { groups, layout, .. }) = op
        && *groups != 1
    {
        let (_, w_dims) = kernel_type(region.graph, operands[1])?;
        let (_, channel) = spatial_axes(*layout, dims.len());
        let groups = Dim::known(*groups);
        let each = dims[channel].exact_div(&groups);
        let each = each.ok_or_else(|| Refusal::new("groups of unequal size"))?;
        let narrow = |d: &Dim| d.as_known().is_some_and(|d| d < 4);
        if narrow(&each) || narrow(&w_dims[1]) {
            return Err(Refusal::new("groups of few channels"));
        }
        factors[channel] = vec![groups, each];
    }
    Ok(factors)
}

pub(super) fn pieces(
    trace: &mut Trace<'_, '_>,
    region: &Region<'_>,
    hero: NodeId,
    domain: &Domain,
) -> Result<Pieces, Refusal> {
    let node = region.graph.node(hero);
    let value = node.results[0];
    let (mut at, mut around) = (vec![], None);
    let (a, b, bare, reduced, out_dtype) = match &node.op {
        Op::Contract(ContractOp::Einsum { spec, out }) => {
            let (mut at_lhs, mut at_rhs) = (vec![], vec![]);
            let mut summed: Vec<(u8, AxisId)> = vec![];
            for (label, dim) in spec.lhs.iter().zip(trace.dims(node.operands[0])?) {
                if !spec.out.contains(label) {
                    summed.push((*label, trace.axes.add(dim.clone())));
                }
            }
            for (labels, at) in [(&spec.lhs, &mut at_lhs), (&spec.rhs, &mut at_rhs)] {
                for label in labels {
                    let own = summed.iter().find(|s| s.0 == *label).map(|s| Expr::axis(s.1));
                    let out = spec.out.iter().position(|l| l == label).map(|i| domain.index[i].clone());
                    at.push(own.or(out).ok_or_else(|| Refusal::new("a label of no axis"))?);
                }
            }
            let a = trace.value(node.operands[0], &at_lhs, &[])?;
            let b = trace.value(node.operands[1], &at_rhs, &[])?;
            at = vec![(node.operands[0], at_lhs), (node.operands[1], at_rhs)];
            (a, b, (a, vec![]), summed.into_iter().map(|s| s.1).collect::<Vec<_>>(), *out)
        }
        Op::Conv(op @ Conv::Forward { groups, layout, out, .. }) => {
            let w_dims = trace.dims(node.operands[1])?;
            let (spatial, channel) = spatial_axes(*layout, domain.index.len());
            let taps: Vec<AxisId> = w_dims[2..].iter().map(|k| trace.axes.add(k.clone())).collect();
            let c = trace.axes.add(w_dims[1].clone());
            let taps_at: Vec<Expr> = taps.iter().map(|t| unit_or_axis(trace, *t)).collect();
            let each = w_dims[0].exact_div(&Dim::known(*groups));
            let each = each.ok_or_else(|| Refusal::new("groups of unequal size"))?;
            let o = domain.index[channel].clone();
            let group = if *groups == 1 { Expr::zero() } else { o.div(&each, &trace.axes) };
            let channel_at = group.times(&w_dims[1]).plus(&unit_or_axis(trace, c));
            around = window(op, &trace.dims(value)?[spatial.clone()], &w_dims[2..]);
            let out_at = domain.index[spatial].to_vec();
            let (x, w) = (node.operands[0], node.operands[1]);
            let bare = trace.conv_input(op, x, &domain.index[0], &out_at, &taps_at, &channel_at, &[])?;
            let zero = trace.number(trace.terms.dtype(bare.0), 0.0);
            let a = trace.padded(bare.0, &bare.1, zero);
            let mut w_at = vec![o, unit_or_axis(trace, c)];
            w_at.extend(taps_at);
            let b = trace.value(w, &w_at, &[])?;
            let mut reduced = taps;
            reduced.push(c);
            (a, b, bare, reduced, *out)
        }
        other => return Err(Refusal::new(format!("`{}` is no contraction", other.mnemonic()))),
    };
    let acc = Ew::compute_dtype(out_dtype);
    if !matches!(acc, DType::F32 | DType::F64 | DType::I32) {
        return Err(Refusal::new(format!("sums of {acc}")));
    }
    let positions = forward(trace, region, value, &domain.index)?;
    let mut roots = vec![];
    for (output, &v) in region.outputs.iter().enumerate() {
        let index = positions.get(&v).ok_or_else(|| Refusal::new("an output of another shape"))?;
        let term = trace.value(v, index, &[])?;
        let offset = flatten(index, trace.dims(v)?);
        roots.push(Root { output, dtype: trace.dtype(v)?, term, offset });
    }
    Ok(Pieces { roots, a, b, at, bare, order: domain.order(), reduced, window: around, acc })
}

/// The window of a convolution of an image that keeps its size.
fn window(op: &Conv, image: &[Dim], taps: &[Dim]) -> Option<Window> {
    let Conv::Forward { strides, dilations, pads, .. } = op else { return None };
    let known = |dims: &[Dim]| -> Option<[u32; 2]> {
        let known: Option<Vec<u32>> = dims.iter().map(|d| u32::try_from(d.as_known()?).ok()).collect();
        known?.try_into().ok()
    };
    let (image, taps) = (known(image)?, known(taps)?);
    let plain = strides.iter().chain(dilations).all(|n| *n == 1);
    let around = |(taps, pad): (&u32, &(Dim, Dim))| {
        let half = i64::from((taps - 1) / 2);
        *taps % 2 == 1 && pad.0.as_known() == Some(half) && pad.1.as_known() == Some(half)
    };
    let middle = taps.iter().all(|n| (3..16).contains(n)) && taps.iter().zip(pads).all(around);
    (plain && middle && image.iter().all(|n| (1..=MOST_LINE as u32).contains(n)))
        .then_some(Window { image, taps })
}

fn unit_or_axis(trace: &Trace<'_, '_>, axis: AxisId) -> Expr {
    if trace.axes.extent(axis).as_known() == Some(1) { Expr::zero() } else { Expr::axis(axis) }
}

/// Where the element of `from` at `index` ends up in the values computed from it, position by position.
pub fn forward(
    trace: &Trace<'_, '_>,
    region: &Region<'_>,
    from: Value,
    index: &[Expr],
) -> Result<FxHashMap<Value, Vec<Expr>>, Refusal> {
    let graph = region.graph;
    let mut positions: FxHashMap<Value, Vec<Expr>> = FxHashMap::default();
    positions.insert(from, index.to_vec());
    for (id, node) in graph.scheduled() {
        if !region.nodes.contains(&id) {
            continue;
        }
        let Some(&operand) = node.operands.iter().find(|v| positions.contains_key(v)) else { continue };
        let (Some(&result), at) = (node.results.first(), positions[&operand].clone()) else { continue };
        let (from, to) = (trace.dims(operand)?, trace.dims(result)?);
        let moved = match &node.op {
            Op::Movement(Movement::Reshape { .. }) => Some(reshape_index(&at, from, to, &trace.axes)),
            Op::Movement(Movement::Transpose { perm }) => Some(perm.iter().map(|&p| at[p].clone()).collect()),
            Op::Elementwise(_) | Op::Cast(_) | Op::Quant(_) if from == to => Some(at),
            Op::Elementwise(_) => {
                let same =
                    node.operands.iter().find(|v| positions.contains_key(v) && trace.dims(**v) == Ok(to));
                same.map(|v| positions[v].clone())
            }
            _ => None,
        };
        if let Some(moved) = moved {
            positions.insert(result, moved);
        }
    }
    Ok(positions)
}

/// One loop dimension of the statement.
#[derive(Clone, Debug)]
pub(super) struct Dimension {
    pub group: Option<Group>,
    pub extent: Dim,
}

struct Builder<'a, 'g> {
    trace: Trace<'a, 'g>,
    pieces: Pieces,
    grid: Vec<Group>,
    m: Dimension,
    /// Rows of `m` that are one line of the left operand.
    line: i64,
    n: Dimension,
    taps: Vec<Group>,
    k: Dimension,
    /// The right operand as codes.
    narrow: Option<narrow::Weights>,
    packed: Option<Panels>,
    /// Weights of which most are zero.
    sparse: Option<sparse::Weights>,
    /// The operands as bytes.
    quads: Option<Quads>,
}

/// Operands that are bytes.
struct Quads {
    left: quads::Left,
    weights: quads::Weights,
}

impl<'a, 'g> Builder<'a, 'g> {
    fn new(
        mut trace: Trace<'a, 'g>,
        mut pieces: Pieces,
        (tuning, products): (Tuning, Products),
    ) -> Result<Self, Refusal> {
        let axes_of = |trace: &Trace<'_, '_>, t: TermId| trace.terms.get(t).axes.clone();
        let real: Vec<AxisId> =
            pieces.order.iter().copied().filter(|a| trace.axes.extent(*a).as_known() != Some(1)).collect();
        let unit =
            real.iter().copied().find(|a| pieces.roots[0].offset.coefficient(*a).as_known() == Some(1));
        let unit = unit.ok_or_else(|| Refusal::new("no axis of the result is contiguous"))?;
        if axes_of(&trace, pieces.a).contains(&unit) {
            std::mem::swap(&mut pieces.a, &mut pieces.b);
            pieces.at.reverse();
            pieces.bare = (pieces.a, vec![]);
            pieces.window = None;
        }
        let (in_a, in_b) = (axes_of(&trace, pieces.a), axes_of(&trace, pieces.b));
        if in_a.contains(&unit) || !in_b.contains(&unit) {
            return Err(Refusal::new("the contiguous axis of the result belongs to both operands"));
        }
        let left = match products {
            Products::Bytes => {
                let left = quads::left(&mut trace, &pieces).filter(|_| quads::fits(&trace, pieces.b));
                let left = left.ok_or_else(|| Refusal::new("operands are no bytes"))?;
                pieces.a = left.load;
                Some(left)
            }
            Products::Elements => None,
        };
        let rows: Vec<AxisId> =
            real.iter().copied().filter(|a| in_a.contains(a) && !in_b.contains(a)).collect();
        let columns: Vec<AxisId> =
            real.iter().copied().filter(|a| in_b.contains(a) && !in_a.contains(a)).collect();
        let batch: Vec<AxisId> =
            real.iter().copied().filter(|a| !rows.contains(a) && !columns.contains(a)).collect();
        let tops: Vec<TermId> = pieces.roots.iter().map(|r| r.term).collect();
        let mut out_exprs = all_exprs(&trace.terms, &tops);
        out_exprs.extend(pieces.roots.iter().map(|r| r.offset.clone()));
        let a_exprs = all_exprs(&trace.terms, &[pieces.a]);
        let b_exprs = all_exprs(&trace.terms, &[pieces.b]);
        let reduced: Vec<AxisId> =
            pieces.reduced.iter().copied().filter(|a| trace.axes.extent(*a).as_known() != Some(1)).collect();
        let right = pieces.at.get(1).and_then(|(v, at)| narrow::source(&trace, *v, at));
        let right = right.filter(|r| pieces.acc == DType::F32 && r.fits(&reduced, &trace.axes));
        let constant_b = left.is_some() || right.is_some() || packable(&trace, pieces.b);
        let joined = |parts: &[&[Expr]]| parts.concat();
        let mut row_groups = collapse(&rows, &trace.axes, &joined(&[&out_exprs, &a_exprs]));
        let short = |g: &Group| g.extent(&trace.axes).as_known().is_some_and(|e| e < SHORT_ROWS);
        let mut line = 1;
        if let Some(joined) = lines(&row_groups, &trace.axes, &out_exprs).filter(|_| tuning.reads_lines) {
            line = joined.line;
            row_groups.truncate(row_groups.len() - 2);
            row_groups.push(joined.group);
        } else if row_groups.last().is_some_and(short) && row_groups.len() > 1 {
            row_groups = collapse(&rows, &trace.axes, &out_exprs);
        }
        let column_exprs = if constant_b { out_exprs.clone() } else { joined(&[&out_exprs, &b_exprs]) };
        let column_groups = collapse(&columns, &trace.axes, &column_exprs);
        let reduced_exprs = if constant_b { a_exprs } else { joined(&[&a_exprs, &b_exprs]) };
        let mut taps = collapse(&reduced, &trace.axes, &reduced_exprs);
        if let Some(at) = taps.iter().position(|g| is_contiguous(&trace, pieces.a, g)) {
            let group = taps.remove(at);
            taps.push(group);
        }
        let mut grid: Vec<Group> =
            collapse(&batch, &trace.axes, &joined(&[&out_exprs, &reduced_exprs, &b_exprs]));
        let (m, n) = (pick(row_groups, &mut grid, None), pick(column_groups, &mut grid, Some(unit)));
        let k = taps.pop();
        let extent = |g: &Option<Group>| g.as_ref().map_or(Dim::known(1), |g| g.extent(&trace.axes));
        let dimension = |group: Option<Group>| Dimension { extent: extent(&group), group };
        let (m, n, k) = (dimension(m), dimension(n), dimension(k));
        let (narrow, packed, sparse, quads) = (None, None, None, None);
        let mut builder = Builder { trace, pieces, grid, m, line, n, taps, k, narrow, packed, sparse, quads };
        match right {
            Some(right) => builder.pack_narrow(&right, tuning)?,
            None => builder.pack_right(left, constant_b, tuning)?,
        }
        Ok(builder)
    }

    /// Packs the right operand, if it is constant.
    fn pack_right(
        &mut self,
        left: Option<quads::Left>,
        is_constant: bool,
        tuning: Tuning,
    ) -> Result<(), Refusal> {
        if let Some(left) = left {
            let quads = self.pack_quads(left, tuning);
            let quads = quads.ok_or_else(|| Refusal::new("bytes that are not packed"))?;
            if tuning.dots {
                let n = self.n.extent.as_known().and_then(|n| usize::try_from(n).ok());
                let m = self.m.extent.as_known();
                let rows = sparse::Rows { count: m, window: self.window() };
                self.sparse = n.and_then(|n| sparse::pack_quads(&quads.weights.panels, n, rows));
            }
            self.quads = Some(quads);
            return Ok(());
        }
        if is_constant {
            self.sparse = self.pack_sparse();
            self.packed = if self.sparse.is_none() { self.pack(tuning) } else { None };
        }
        Ok(())
    }

    /// Packs a right operand that is constants in few bits.
    fn pack_narrow(&mut self, right: &narrow::Source, tuning: Tuning) -> Result<(), Refusal> {
        let in_b = &self.trace.terms.get(self.pieces.b).axes;
        let outer: Vec<AxisId> =
            self.grid.iter().flat_map(|g| &g.members).copied().filter(|a| in_b.contains(a)).collect();
        let run: Vec<AxisId> =
            self.taps.iter().chain(&self.k.group).flat_map(|g| &g.members).copied().collect();
        let columns: Vec<AxisId> = self.n.group.iter().flat_map(|g| &g.members).copied().collect();
        let axes = [&outer[..], &run, &columns];
        match right {
            narrow::Source::Halves { tensor, offset } => {
                let n = self.n.extent.as_known().ok_or_else(|| Refusal::new("columns of unknown number"))?;
                let depth = self.k.extent.as_known().unwrap_or(UNKNOWN_DEPTH);
                let width = panel_width(n, tuning.lanes, depth);
                self.packed = pack_panels(tensor, offset, axes, &self.trace.axes, width);
            }
            narrow::Source::Codes(codes) => {
                self.narrow = narrow::pack(codes, axes, &mut self.trace.axes, tuning.lanes);
            }
        }
        let packed = self.packed.is_some() || self.narrow.is_some();
        packed.then_some(()).ok_or_else(|| Refusal::new("weights in few bits that are not packed"))
    }

    /// The operands as bytes.
    fn pack_quads(&self, left: quads::Left, tuning: Tuning) -> Option<Quads> {
        let in_b = &self.trace.terms.get(self.pieces.b).axes;
        let members = |groups: &mut dyn Iterator<Item = &Group>| -> Vec<AxisId> {
            groups.flat_map(|g| &g.members).copied().collect()
        };
        let mut outer = members(&mut self.grid.iter());
        outer.retain(|a| in_b.contains(a));
        let (taps, run) = (members(&mut self.taps.iter()), members(&mut self.k.group.iter()));
        let columns = members(&mut self.n.group.iter());
        let depth = self.taps.iter().fold(self.k.extent.clone(), |d, g| d * g.extent(&self.trace.axes));
        let steps = depth.as_known()? / i64::from(GROUP);
        let width = quad_width(self.n.extent.as_known()?, tuning.lanes, steps, tuning.tiles);
        let axes = [&outer[..], &taps, &run, &columns];
        let weights = quads::pack(&self.trace, self.pieces.b, axes, width, left.zero)?;
        Some(Quads { left, weights })
    }

    /// The right operand and the index of its elements, if it is a plain load of a constant.
    fn constant(&self) -> Option<(&Tensor, &Expr)> {
        let Term::Load { source, offset, guards, .. } = &self.trace.terms.get(self.pieces.b).term else {
            return None;
        };
        let tensor = self.trace.sources[*source].constant.as_ref().filter(|_| guards.is_empty())?;
        Some((tensor, offset))
    }

    /// The right operand as lists of what is not zero, if that is faster.
    fn pack_sparse(&self) -> Option<sparse::Weights> {
        let (tensor, offset) = self.constant()?;
        let in_b = &self.trace.terms.get(self.pieces.b).axes;
        let batched = self.grid.iter().flat_map(|g| &g.members).any(|a| in_b.contains(a));
        if batched || self.pieces.acc != DType::F32 {
            return None;
        }
        let members = |groups: &mut dyn Iterator<Item = &Group>| -> Vec<AxisId> {
            groups.flat_map(|g| &g.members).copied().collect()
        };
        let (taps, run) = (members(&mut self.taps.iter()), members(&mut self.k.group.iter()));
        let columns = members(&mut self.n.group.iter());
        let axes = [&taps[..], &run, &columns];
        let rows = sparse::Rows { count: self.m.extent.as_known(), window: self.window() };
        sparse::pack(tensor, offset, axes, &self.trace.axes, rows)
    }

    /// The window of the rows, where they are all pixels of an image.
    fn window(&self) -> Option<Window> {
        let window = self.pieces.window?;
        let [lines, pixels] = window.image.map(i64::from);
        let rows = self.m.extent.as_known() == Some(lines * pixels) && self.line == pixels;
        let extents = self.taps.iter().map(|g| g.extent(&self.trace.axes).as_known());
        let taps = extents.eq(window.taps.iter().map(|n| Some(i64::from(*n))));
        (rows && taps).then_some(window)
    }

    /// The right operand as panels, if it is a plain load of a constant.
    fn pack(&self, tuning: Tuning) -> Option<Panels> {
        let (tensor, offset) = self.constant()?;
        let in_b = &self.trace.terms.get(self.pieces.b).axes;
        let outer: Vec<AxisId> =
            self.grid.iter().flat_map(|g| &g.members).copied().filter(|a| in_b.contains(a)).collect();
        let reduced: Vec<AxisId> =
            self.taps.iter().chain(&self.k.group).flat_map(|g| &g.members).copied().collect();
        let columns: Vec<AxisId> = self.n.group.iter().flat_map(|g| &g.members).copied().collect();
        let n = self.n.extent.as_known()?;
        let extent = |a: &AxisId| self.trace.axes.extent(*a).as_known();
        let depth = reduced.iter().try_fold(1i64, |depth, a| depth.checked_mul(extent(a)?));
        let width = panel_width(n, tuning.lanes, depth.unwrap_or(UNKNOWN_DEPTH));
        pack_panels(tensor, offset, [&outer, &reduced, &columns], &self.trace.axes, width)
    }

    fn build(self, region: &Region<'_>, name: &str) -> Result<Lowered, Refusal> {
        let Builder { trace, pieces, grid, m, line, n, taps, k, narrow, packed, sparse, quads } = self;
        if let Some(weights) = narrow {
            let parts = narrow::Parts { pieces, grid, m, n, k, weights };
            return narrow::lower(trace, &parts, region, name);
        }
        let Trace { terms, axes, sources, fits, .. } = trace;
        let mut tops: Vec<TermId> = pieces.roots.iter().map(|r| r.term).collect();
        let operands = [pieces.a, pieces.b];
        let reduces = reduce_groups(&terms, &axes, &[&tops[..], &operands[..]].concat());
        let mut b = KernelBuilder::new(name);
        let mut e = Emitter::new(&terms, &axes, &sources, &reduces);
        let buffers: Vec<_> =
            pieces.roots.iter().map(|r| e.output(&mut b, r.output, r.dtype, Access::Out)).collect();
        let mut points = Dim::known(1);
        let mut vars = vec![];
        for group in &grid {
            let extent = group.extent(&axes);
            points = &points * &extent;
            let extent = e.dim(&mut b, &extent);
            vars.push(b.grid(extent));
        }
        let depth = taps.iter().fold(k.extent.clone(), |d, g| d * g.extent(&axes));
        let packed = quads.as_ref().map(|q| &q.weights.panels).or(packed.as_ref());
        let width = packed.map_or(1, |p| i64::from(p.width));
        // Four products of bytes take the time of one of floats.
        let group = if quads.is_some() { i64::from(GROUP) } else { 1 };
        let sums = depth.as_known().unwrap_or(UNKNOWN_DEPTH) / group;
        let blocks = match &sparse {
            Some(sparse::Weights { form, .. }) => {
                Blocks { rows: form.step(), columns: form.columns.into(), by_rows: true }
            }
            None => contract_blocks([m.extent.as_known(), n.extent.as_known()], sums, width, line),
        };
        let mut range = |extent, block| blocked(&mut e, &mut b, extent, block, &mut points);
        let (m_range, n_range) = if blocks.by_rows {
            let rows = range(&m.extent, blocks.rows);
            (rows, range(&n.extent, blocks.columns))
        } else {
            let columns = range(&n.extent, blocks.columns);
            (range(&m.extent, blocks.rows), columns)
        };
        let acc_term = terms.find_accumulator();
        bind_all(&mut e, &mut b, &grid, &vars, &mut |e, b| {
            e.hoist(b, &tops);
            let ranges = (m_range.clone(), n_range.clone());
            if let Some(Zero::Computed(zero, _)) = quads.as_ref().map(|q| q.left.zero) {
                e.hoist(b, &[zero]);
            }
            let (sparse, quads) = (sparse.as_ref(), quads.as_ref());
            let parts = Parts { pieces: &pieces, m: &m, n: &n, taps: &taps, k: &k, packed, sparse, quads };
            let contract = parts.statement(e, b, ranges, acc_term, &buffers);
            b.push(Stmt::Contract(Box::new(contract)));
        });
        tops.clear();
        let (kernel, params, dims) = e.finish(b)?;
        let all = grid.iter().fold(&m.extent * &n.extent, |n, g| n * g.extent(&axes));
        let flops = Dim::known(2) * all * depth;
        let grain = grain(&points, &flops, CHUNK_FLOPS * group);
        let outputs = region.outputs.clone();
        Ok(Lowered { kernel, params, sources, outputs, dims, grid: points, grain, flops, fits })
    }
}

/// What the statement is made of.
struct Parts<'a> {
    pieces: &'a Pieces,
    m: &'a Dimension,
    n: &'a Dimension,
    taps: &'a [Group],
    k: &'a Dimension,
    packed: Option<&'a Panels>,
    sparse: Option<&'a sparse::Weights>,
    quads: Option<&'a Quads>,
}

impl Parts<'_> {
    fn statement(
        &self,
        e: &mut Emitter<'_>,
        b: &mut KernelBuilder,
        (m_range, n_range): ((Ix, Ix), (Ix, Ix)),
        acc_term: Option<TermId>,
        buffers: &[crate::kir::BufferId],
    ) -> Contract {
        let axis = |b: &mut KernelBuilder, (begin, extent): (Ix, Ix)| Axis { var: b.var(), begin, extent };
        let (m, n) = (axis(b, m_range), axis(b, n_range));
        let mut taps = vec![];
        for group in self.taps {
            let extent = e.dim(b, &e.extent(group));
            taps.push(axis(b, (Ix::Const(0), extent)));
        }
        let extent = e.dim(b, &self.k.extent);
        let k = axis(b, (Ix::Const(0), extent));
        let tap_vars: Vec<Var> = taps.iter().map(|t| t.var).collect();
        let reduced: Vec<(&Group, Var)> =
            self.taps.iter().zip(tap_vars).chain(self.k.group.iter().map(|g| (g, k.var))).collect();
        let with = |own: Option<&Group>, var: Var| -> (Vec<Group>, Vec<Ix>) {
            let all = own.map(|g| (g, var)).into_iter().chain(reduced.iter().copied());
            all.map(|(g, v)| (g.clone(), Ix::Var(v))).unzip()
        };
        let acc_dtype = self.pieces.acc;
        let a = self.quads.map_or(self.pieces.a, |q| q.left.term);
        let a = operand(e, b, a, with(self.m.group.as_ref(), m.var), acc_dtype);
        let rhs = match (self.packed, self.sparse) {
            (_, Some(weights)) => {
                let (index, values) =
                    (e.constant(b, weights.index.clone()), e.constant(b, weights.values.clone()));
                Rhs::Sparse(Sparse { index, values, form: weights.form })
            }
            (Some(panels), None) => {
                let buffer = e.constant(b, panels.tensor.clone());
                let base = e.ix(b, &panels.base);
                let group = if self.quads.is_some() { GROUP } else { 1 };
                Rhs::Packed { buffer, base, width: panels.width, group }
            }
            (None, None) => {
                Rhs::Strided(operand(e, b, self.pieces.b, with(self.n.group.as_ref(), n.var), acc_dtype))
            }
        };
        let acc = b.val(acc_dtype);
        let pairs = [(self.m.group.as_ref(), m.var), (self.n.group.as_ref(), n.var)];
        let (groups, vars): (Vec<Group>, Vec<Ix>) =
            pairs.into_iter().filter_map(|(g, v)| g.map(|g| (g.clone(), Ix::Var(v)))).unzip();
        let (epilogue, ()) = b.block(|b| {
            bind_all(e, b, &groups, &vars, &mut |e, b| {
                let store = |e: &mut Emitter<'_>, b: &mut KernelBuilder| {
                    for (root, &buffer) in self.pieces.roots.iter().zip(buffers) {
                        let value = e.emit(b, root.term);
                        let value = b.cast(value, Ew::compute_dtype(root.dtype));
                        let at = e.ix(b, &root.offset);
                        b.store(buffer, at, value);
                    }
                };
                match acc_term {
                    Some(term) => {
                        let sum = self.corrected(e, b, acc, n.var);
                        e.with_value(term, sum, |e| store(e, b));
                    }
                    None => store(e, b),
                }
            });
        });
        Contract { m, n, taps, k, a, b: rhs, acc_dtype, acc, epilogue }
    }

    /// The sum with what the zero point of bytes takes from it.
    fn corrected(&self, e: &mut Emitter<'_>, b: &mut KernelBuilder, sum: Val, column: Var) -> Val {
        let Some(quads) = self.quads else { return sum };
        let Some(correction) = &quads.weights.correction else { return sum };
        let buffer = e.constant(b, correction.clone());
        let base = e.ix(b, &quads.weights.correction_base);
        let number = b.load(buffer, base + Ix::Var(column));
        match quads.left.zero {
            Zero::Known(_) => b.apply(Prim::Add, &[sum, number]),
            Zero::Computed(zero, more) => {
                let mut zero = e.emit(b, zero);
                if more != 0 {
                    let more = b.literal(DType::I32, more as f64);
                    zero = b.apply(Prim::Add, &[zero, more]);
                }
                let product = b.apply(Prim::Mul, &[number, zero]);
                b.apply(Prim::Sub, &[sum, product])
            }
        }
    }
}

/// An operand's statements with its groups bound.
pub(super) fn operand(
    e: &mut Emitter<'_>,
    b: &mut KernelBuilder,
    term: TermId,
    (groups, vars): (Vec<Group>, Vec<Ix>),
    acc: DType,
) -> Operand {
    let (body, value) = b.block(|b| {
        let mut value = None;
        bind_all(e, b, &groups, &vars, &mut |e, b| {
            let v = e.emit(b, term);
            let narrow =
                acc == DType::I32 && matches!(b.dtype(v), DType::I8 | DType::U8 | DType::I16 | DType::U16);
            value = Some(if narrow { v } else { b.cast(v, acc) });
        });
        value
    });
    Operand { body, value: value.unwrap_or(crate::kir::Val(0)) }
}

/// Whether the elements that a plain load reads follow each other along the group.
fn is_contiguous(trace: &Trace<'_, '_>, term: TermId, group: &Group) -> bool {
    match &trace.terms.get(term).term {
        Term::Load { offset, .. } => {
            group.members.last().is_some_and(|a| offset.coefficient(*a).as_known() == Some(1))
        }
        _ => false,
    }
}

/// Positions of several lines as one group.
struct Lines {
    group: Group,
    line: i64,
}

/// The last two groups, lines and positions in a line, as one, where the result is contiguous over them and the left
/// operand is not.
fn lines(groups: &[Group], axes: &super::expr::Axes, out: &[Expr]) -> Option<Lines> {
    let [.., a, b] = groups else { return None };
    let ([a], [b]) = (a.members.as_slice(), b.members.as_slice()) else { return None };
    let line = axes.extent(*b).as_known().filter(|n| (2..=MOST_LINE).contains(n))?;
    let mut joined = collapse(&[*a, *b], axes, out);
    let group = joined.pop().filter(|g| joined.is_empty() && g.members.len() == 2)?;
    Some(Lines { group, line })
}

/// Takes the group that is the statement's loop out of `groups` (that of `with`, else the largest, else the last);
/// the rest joins the grid.
fn pick(mut groups: Vec<Group>, grid: &mut Vec<Group>, with: Option<AxisId>) -> Option<Group> {
    let at = match with {
        Some(axis) => groups.iter().position(|g| g.members.contains(&axis)),
        None => groups.len().checked_sub(1),
    }?;
    let own = groups.remove(at);
    grid.extend(groups);
    Some(own)
}

/// Whether the term is a plain load of compile-time data.
fn packable(trace: &Trace<'_, '_>, term: TermId) -> bool {
    match &trace.terms.get(term).term {
        Term::Load { source, guards, offset, .. } => {
            guards.is_empty() && offset.is_affine() && trace.sources[*source].constant.is_some()
        }
        _ => false,
    }
}

/// Begin and extent of a blocked range; the blocks join the grid.
pub(super) fn blocked(
    e: &mut Emitter<'_>,
    b: &mut KernelBuilder,
    extent: &Dim,
    block: i64,
    points: &mut Dim,
) -> (Ix, Ix) {
    let total = e.dim(b, extent);
    if extent.as_known().is_some_and(|n| n <= block) {
        return (Ix::Const(0), total);
    }
    let blocks = extent.ceil_div(&Dim::known(block));
    *points = &*points * &blocks;
    let blocks = e.dim(b, &blocks);
    let begin = b.grid(blocks) * block;
    (begin.clone(), (total - begin).min(block))
}
