//! The kernel of a contraction with weights in few bits.
//!
//! Of many rows, a grid point widens a panel into scratch, once for all of its rows, and multiplies as with any packed panel:
//! the weights have the bits that the evaluator gives them, and sums the order of [`Contract`]. Of few rows, whose time is that
//! of the weights coming from memory, codes are widened in registers and multiplied at once. The order of such a sum is:
//! within a group, [`UNROLLED`] products at a time, the last one first, are added up and to the sum of the group, which
//! takes its scale and is added to the total, group by group.

use kiln_ir::{DType, Dim, Ew, Prim};

use super::super::contract::{CHUNK_FLOPS, Dimension, Pieces, blocked, operand};
use super::super::emit::{Emitter, Group};
use super::super::loops::{Lowered, bind_all, grain, reduce_groups};
use super::super::term::TermId;
use super::super::trace::{Refusal, Region, Trace};
use super::{Bits, HIGH, Weights, Zeros};
use crate::kir::{Access, Axis, BufferId, Contract, Ix, KernelBuilder, LoopKind, Rhs, Stmt, Val};
use crate::schedule::{WHOLE_ROWS, contract_blocks, even};

/// What the kernel is made of.
pub(in super::super) struct Parts {
    pub pieces: Pieces,
    pub grid: Vec<Group>,
    pub m: Dimension,
    pub n: Dimension,
    pub k: Dimension,
    pub weights: Weights,
}

/// Products of a sum that are added up before they are added to it.
const UNROLLED: i64 = 4;

/// Most rows that are multiplied in registers.
const FEW: i64 = 4;

/// The same where the number shows at run time: rows are taken one by one.
const FEW_AT_RUN_TIME: i64 = 2;

/// Rows that share codes in registers: so many sums of 32-lane panels fit with 512-bit vectors.
const SHARED: i64 = 4;

/// Panel width of 512-bit vectors.
const WIDE: i64 = 32;

/// Weights of a grid point of few rows, at least: some microseconds from memory.
const LEAST_WEIGHTS: i64 = 1 << 16;

/// Grid points of few rows that there should be.
const POINTS: i64 = 16;

/// Rows of a grid point that is one of several for the same weights: widening these takes little beside the products.
const ROWS: i64 = 240;
const ROW_STEP: i64 = 48;

/// Lowers the contraction.
pub(in super::super) fn lower(
    trace: Trace<'_, '_>,
    parts: &Parts,
    region: &Region<'_>,
    name: &str,
) -> Result<Lowered, Refusal> {
    let Parts { pieces, grid, m, n, k, weights } = parts;
    let Trace { terms, axes, sources, fits, .. } = trace;
    let tops: Vec<TermId> = pieces.roots.iter().map(|r| r.term).collect();
    let reduces = reduce_groups(&terms, &axes, &[&tops[..], &[pieces.a]].concat());
    let mut b = KernelBuilder::new(name);
    let mut e = Emitter::new(&terms, &axes, &sources, &reduces);
    let outputs: Vec<BufferId> =
        pieces.roots.iter().map(|r| e.output(&mut b, r.output, r.dtype, Access::Out)).collect();
    let mut points = Dim::known(1);
    let mut vars = vec![];
    for group in grid {
        let extent = group.extent(&axes);
        points = &points * &extent;
        let extent = e.dim(&mut b, &extent);
        vars.push(b.grid(extent));
    }
    let few = m.extent.as_known().is_some_and(|m| m <= FEW);
    let [row_block, column_block] = parts.blocks(few);
    let columns = blocked(&mut e, &mut b, &n.extent, column_block, &mut points);
    let rows = blocked(&mut e, &mut b, &m.extent, row_block, &mut points);
    let point = Point::new(parts, &mut e, &mut b, outputs, terms.find_accumulator());
    let rows_of_kernel = e.dim(&mut b, &m.extent);
    bind_all(&mut e, &mut b, grid, &vars, &mut |e, b| {
        e.hoist(b, &tops);
        let outer = e.ix(b, &weights.outer);
        match m.extent.as_known() {
            Some(count) if few => point.few(e, b, (&rows.0, count), &columns, &outer),
            Some(_) => point.many(e, b, &rows, &columns, &outer),
            None => {
                let (all, most) =
                    (b.index(rows_of_kernel.clone()), b.literal(DType::I64, FEW_AT_RUN_TIME as f64));
                let cond = b.apply(Prim::Le, &[all, most]);
                let (then, ()) = b.block(|b| {
                    b.sequential(rows.1.clone(), |b, row| {
                        point.few(e, b, (&(rows.0.clone() + row), 1), &columns, &outer);
                    });
                });
                let (otherwise, ()) = b.block(|b| point.many(e, b, &rows, &columns, &outer));
                b.push(Stmt::If { cond, then, otherwise });
            }
        }
    });
    let (kernel, params, dims) = e.finish(b)?;
    let all = grid.iter().fold(&m.extent * &n.extent, |n, g| n * g.extent(&axes));
    let flops = Dim::known(2) * all * &k.extent;
    // Few rows take as long as their weights come from memory.
    let chunk = if few { CHUNK_FLOPS / POINTS } else { CHUNK_FLOPS };
    let grain = grain(&points, &flops, chunk);
    let outputs = region.outputs.clone();
    Ok(Lowered { kernel, params, sources, outputs, dims, grid: points, grain, flops, fits })
}

impl Parts {
    /// Rows and columns of a grid point.
    fn blocks(&self, few: bool) -> [i64; 2] {
        let Weights { width, depth, .. } = self.weights;
        let (m, n) = (self.m.extent.as_known(), self.n.extent.as_known());
        if few {
            let most = (n.unwrap_or(width) * depth / POINTS).max(LEAST_WEIGHTS) / depth / width * width;
            return [FEW, n.map_or(width, |n| even(n, most.max(width), width))];
        }
        let columns = contract_blocks([m, n], depth, width, 1).columns;
        let rows = match m {
            Some(m) if m <= WHOLE_ROWS => m.max(1),
            Some(m) => even(m, ROWS, ROW_STEP),
            None => ROWS,
        };
        [rows, columns]
    }
}

/// The buffers of a kernel.
struct Point<'a> {
    parts: &'a Parts,
    codes: BufferId,
    scales: BufferId,
    zeros: Option<BufferId>,
    /// A widened panel, `[depth][width]`.
    panel: Option<BufferId>,
    /// Few rows `[rows][depth]`, and their sums `[rows][width]`.
    few: Option<[BufferId; 2]>,
    outputs: Vec<BufferId>,
    accumulator: Option<TermId>,
}

/// Where a panel is: its first column, and its first code and scale.
struct Panel {
    column: Ix,
    code: Ix,
    scale: Ix,
}

impl Point<'_> {
    fn new<'a>(
        parts: &'a Parts,
        e: &mut Emitter<'_>,
        b: &mut KernelBuilder,
        outputs: Vec<BufferId>,
        accumulator: Option<TermId>,
    ) -> Point<'a> {
        let w = &parts.weights;
        let codes = e.constant(b, w.codes.clone());
        let scales = e.constant(b, w.scales.clone());
        let zeros = match &w.zeros {
            Zeros::All(_) => None,
            Zeros::Each(tensor) => Some(e.constant(b, tensor.clone())),
        };
        let known = parts.m.extent.as_known();
        let few = known.is_none_or(|m| m <= FEW);
        let many = known.is_none_or(|m| m > FEW);
        let rows = known.unwrap_or(1);
        let panel = many.then(|| b.scratch(DType::F32, w.depth * w.width));
        let few = few.then(|| [b.scratch(DType::F32, rows * w.depth), b.scratch(DType::F32, rows * w.width)]);
        Point { parts, codes, scales, zeros, panel, few, outputs, accumulator }
    }

    /// Runs `f` for the panels of a range of columns.
    fn panels(
        &self,
        b: &mut KernelBuilder,
        (begin, extent): &(Ix, Ix),
        outer: &Ix,
        f: impl FnOnce(&mut KernelBuilder, &Panel),
    ) {
        let w = &self.parts.weights;
        let first = outer.clone() * w.panels + begin.clone().floor_div(w.width);
        b.sequential(extent.clone().ceil_div(w.width), |b, p| {
            let number = first + p.clone();
            let panel = Panel {
                column: begin.clone() + p * w.width,
                code: number.clone() * (w.depth * w.row()),
                scale: number * (w.groups() * w.width),
            };
            f(b, &panel);
        });
    }

    /// Columns of a panel that exist.
    fn count(&self, panel: &Panel) -> Ix {
        let (n, width) = (self.parts.n.extent.as_known(), self.parts.weights.width);
        match n {
            Some(n) if n % width == 0 => Ix::Const(width),
            Some(n) => (Ix::Const(n) - panel.column.clone()).min(width),
            None => Ix::Const(width),
        }
    }

    /// The groups of the reduction, whole ones in a loop: `f` gets number and length.
    fn groups(&self, b: &mut KernelBuilder, f: impl Fn(&mut KernelBuilder, Ix, i64)) {
        let Weights { depth, group, .. } = self.parts.weights;
        let whole = depth / group;
        if whole > 0 {
            b.sequential(whole, |b, g| f(b, g, group));
        }
        if depth % group > 0 {
            f(b, Ix::Const(whole), depth % group);
        }
    }

    /// Scales, or zero points, of both parts of a group at a lane.
    fn both(
        &self,
        b: &mut KernelBuilder,
        buffer: BufferId,
        panel: &Panel,
        group: &Ix,
        lane: &Ix,
    ) -> [Val; 2] {
        let w = &self.parts.weights;
        let at = panel.scale.clone() + group.clone() * w.width + lane.clone();
        [b.load(buffer, at.clone()), b.load(buffer, at + w.half())]
    }

    /// Zero points of both parts of a group at a lane.
    fn zero(&self, b: &mut KernelBuilder, panel: &Panel, group: &Ix, lane: &Ix) -> [Val; 2] {
        match (&self.parts.weights.zeros, self.zeros) {
            (_, Some(buffer)) => self.both(b, buffer, panel, group, lane),
            (Zeros::All(zero), None) => {
                let factor = if self.parts.weights.bits == Bits::Four { HIGH } else { 1.0 };
                [b.literal(DType::F32, f64::from(*zero)), b.literal(DType::F32, f64::from(zero * factor))]
            }
            (Zeros::Each(_), None) => [b.literal(DType::F32, 0.0), b.literal(DType::F32, 0.0)],
        }
    }

    /// The codes of both parts at a row of the panel, less their zero points.
    fn centred(&self, b: &mut KernelBuilder, panel: &Panel, row: Ix, lane: &Ix, zero: [Val; 2]) -> [Val; 2] {
        let w = &self.parts.weights;
        let at = panel.code.clone() + row * w.row() + lane.clone();
        let byte = b.load(self.codes, at.clone());
        let byte = b.cast(byte, DType::I32);
        let codes = match w.bits {
            Bits::Four => [15.0, 240.0].map(|mask| {
                let mask = b.literal(DType::I32, mask);
                b.apply(Prim::And, &[byte, mask])
            }),
            Bits::Eight => {
                let other = b.load(self.codes, at + w.half());
                [byte, b.cast(other, DType::I32)]
            }
        };
        let mut part = |i: usize| {
            let code = b.cast(codes[i], DType::F32);
            b.apply(Prim::Sub, &[code, zero[i]])
        };
        [part(0), part(1)]
    }

    /// Many rows: each panel is widened into scratch and multiplied.
    fn many(
        &self,
        e: &mut Emitter<'_>,
        b: &mut KernelBuilder,
        rows: &(Ix, Ix),
        columns: &(Ix, Ix),
        outer: &Ix,
    ) {
        let Some(scratch) = self.panel else { return };
        self.panels(b, columns, outer, |b, panel| {
            self.widen(b, panel, scratch);
            let contract = self.statement(e, b, rows, panel, scratch);
            b.push(Stmt::Contract(Box::new(contract)));
        });
    }

    fn widen(&self, b: &mut KernelBuilder, panel: &Panel, scratch: BufferId) {
        let w = &self.parts.weights;
        self.groups(b, |b, g, len| {
            b.sequential(len, |b, k| {
                b.vector(w.half(), |b, lane| {
                    let row = g.clone() * w.group + k;
                    let zero = self.zero(b, panel, &g, &lane);
                    let scale = self.both(b, self.scales, panel, &g, &lane);
                    let codes = self.centred(b, panel, row.clone(), &lane, zero);
                    let at = row * w.width + lane;
                    for (part, to) in [at.clone(), at + w.half()].into_iter().enumerate() {
                        let value = b.apply(Prim::Mul, &[codes[part], scale[part]]);
                        b.store(scratch, to, value);
                    }
                });
            });
        });
    }

    /// The product of rows with a widened panel.
    fn statement(
        &self,
        e: &mut Emitter<'_>,
        b: &mut KernelBuilder,
        rows: &(Ix, Ix),
        panel: &Panel,
        scratch: BufferId,
    ) -> Contract {
        let Parts { pieces, m: rows_of, k: run, weights, .. } = self.parts;
        let axis = |b: &mut KernelBuilder, (begin, extent): (Ix, Ix)| Axis { var: b.var(), begin, extent };
        let m = axis(b, rows.clone());
        let n = axis(b, (Ix::Const(0), self.count(panel)));
        let k = axis(b, (Ix::Const(0), Ix::Const(weights.depth)));
        let bound = [(&rows_of.group, m.var), (&run.group, k.var)];
        let own = bound.into_iter().filter_map(|(g, v)| Some((g.clone()?, Ix::Var(v)))).unzip();
        let a = operand(e, b, pieces.a, own, DType::F32);
        let acc = b.val(DType::F32);
        let width = u32::try_from(weights.width).unwrap_or(u32::MAX);
        let right = Rhs::Packed { buffer: scratch, base: Ix::Const(0), width, group: 1 };
        let column = Ix::Var(n.var) + panel.column.clone();
        let (epilogue, ()) = b.block(|b| self.store(e, b, Ix::Var(m.var), column, acc, LoopKind::Sequential));
        Contract { m, n, taps: vec![], k, a, b: right, acc_dtype: DType::F32, acc, epilogue }
    }

    /// The epilogue on a sum.
    fn store(
        &self,
        e: &mut Emitter<'_>,
        b: &mut KernelBuilder,
        row: Ix,
        column: Ix,
        sum: Val,
        columns: LoopKind,
    ) {
        let Parts { pieces, m, n, .. } = self.parts;
        let rows: Vec<Group> = m.group.iter().cloned().collect();
        bind_all(e, b, &rows, &[row], &mut |e, b| {
            let all = |e: &mut Emitter<'_>, b: &mut KernelBuilder| {
                for (root, &buffer) in pieces.roots.iter().zip(&self.outputs) {
                    let value = e.emit(b, root.term);
                    let value = b.cast(value, Ew::compute_dtype(root.dtype));
                    let at = e.ix(b, &root.offset);
                    b.store(buffer, at, value);
                }
            };
            let mut with_sum = |e: &mut Emitter<'_>| match self.accumulator {
                Some(term) => e.with_value(term, sum, |e| all(e, b)),
                None => all(e, b),
            };
            match (&n.group, columns) {
                (Some(group), LoopKind::Vector) => e.bound_vector(group, column.clone(), with_sum),
                (Some(group), LoopKind::Sequential) => e.bound(group, column.clone(), with_sum),
                (None, _) => with_sum(e),
            }
        });
    }

    /// `count` rows from a first one on: codes are widened in registers.
    fn few(
        &self,
        e: &mut Emitter<'_>,
        b: &mut KernelBuilder,
        (first, count): (&Ix, i64),
        columns: &(Ix, Ix),
        outer: &Ix,
    ) {
        let Some([rows, sums]) = self.few else { return };
        let w = &self.parts.weights;
        for r in 0..count {
            self.copy_row(e, b, first.clone() + r, (rows, r * w.depth));
        }
        let shared = if w.width == WIDE { SHARED } else { 1 };
        self.panels(b, columns, outer, |b, panel| {
            for r in (0..count).step_by(shared as usize) {
                self.products(b, panel, (rows, sums), r, shared.min(count - r));
            }
            for r in 0..count {
                b.vector(self.count(panel), |b, i| {
                    let sum = b.load(sums, i.clone() + r * w.width);
                    let column = i + panel.column.clone();
                    self.store(e, b, first.clone() + r, column, sum, LoopKind::Vector);
                });
            }
        });
    }

    /// A row of the left operand in scratch.
    fn copy_row(&self, e: &mut Emitter<'_>, b: &mut KernelBuilder, row: Ix, (to, at): (BufferId, i64)) {
        let Parts { pieces, m, k, weights, .. } = self.parts;
        let rows: Vec<Group> = m.group.iter().cloned().collect();
        bind_all(e, b, &rows, &[row], &mut |e, b| {
            b.vector(weights.depth, |b, i| {
                let mut copy = |e: &mut Emitter<'_>| {
                    let value = e.emit(b, pieces.a);
                    let value = b.cast(value, DType::F32);
                    b.store(to, i.clone() + at, value);
                };
                match &k.group {
                    Some(group) => e.bound_vector(group, i.clone(), copy),
                    None => copy(e),
                }
            });
        });
    }

    /// The sums of a panel for some rows in scratch.
    fn products(
        &self,
        b: &mut KernelBuilder,
        panel: &Panel,
        (rows, sums): (BufferId, BufferId),
        first: i64,
        count: i64,
    ) {
        let w = &self.parts.weights;
        let place = |r: i64| (first + r) * w.depth;
        b.vector(w.half(), |b, lane| {
            let zero = b.literal(DType::F32, 0.0);
            let init: Vec<(Prim, Val)> = (0..2 * count).map(|_| (Prim::Add, zero)).collect();
            let group = |b: &mut KernelBuilder, g: &Ix, len: i64| -> Vec<Val> {
                let zeros = self.zero(b, panel, g, &lane);
                let begin = g.clone() * w.group;
                let some = |b: &mut KernelBuilder, k: Ix, len: i64| {
                    self.some_products(b, panel, (rows, &place, count), (k, len), &lane, zeros)
                };
                let steps = len / UNROLLED;
                let mut all = match steps {
                    0 => vec![],
                    _ => b.reduce(LoopKind::Sequential, steps, &init, |b, step| {
                        some(b, begin.clone() + step * UNROLLED, UNROLLED)
                    }),
                };
                if len % UNROLLED > 0 {
                    let rest = some(b, begin + steps * UNROLLED, len % UNROLLED);
                    all = added(b, &all, rest);
                }
                let scales = self.both(b, self.scales, panel, g, &lane);
                all.iter().enumerate().map(|(i, sum)| b.apply(Prim::Mul, &[*sum, scales[i % 2]])).collect()
            };
            let whole = w.depth / w.group;
            let mut all = match whole {
                0 => vec![],
                _ => b.reduce(LoopKind::Sequential, whole, &init, |b, g| group(b, &g, w.group)),
            };
            if w.depth % w.group > 0 {
                let rest = group(b, &Ix::Const(whole), w.depth % w.group);
                all = added(b, &all, rest);
            }
            for (i, sum) in (0i64..).zip(all) {
                let part = if i % 2 == 0 { 0 } else { w.half() };
                b.store(sums, lane.clone() + (first + i / 2) * w.width + part, sum);
            }
        });
    }

    /// Sums of a few products: of each row with both parts.
    fn some_products(
        &self,
        b: &mut KernelBuilder,
        panel: &Panel,
        (rows, place, count): (BufferId, &dyn Fn(i64) -> i64, i64),
        (begin, len): (Ix, i64),
        lane: &Ix,
        zeros: [Val; 2],
    ) -> Vec<Val> {
        let mut sums: Vec<Val> = vec![];
        for step in (0..len).rev() {
            let k = begin.clone() + step;
            let codes = self.centred(b, panel, k.clone(), lane, zeros);
            let mut next = vec![];
            for r in 0..count {
                let x = b.load(rows, k.clone() + place(r));
                for code in codes {
                    next.push(match sums.get(next.len()) {
                        Some(sum) => b.mul_add(x, code, *sum),
                        None => b.apply(Prim::Mul, &[x, code]),
                    });
                }
            }
            sums = next;
        }
        sums
    }
}

/// Sums pair by pair; the second ones where there are no first.
fn added(b: &mut KernelBuilder, sums: &[Val], more: Vec<Val>) -> Vec<Val> {
    if sums.is_empty() {
        return more;
    }
    sums.iter().zip(more).map(|(a, c)| b.apply(Prim::Add, &[*a, c])).collect()
}
