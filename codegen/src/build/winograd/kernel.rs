//! The loops of one grid point.

use kiln_ir::{DType, Dim, Ew};

use super::super::emit::{Emitter, Group};
use super::super::loops::{Root, bind_all};
use super::super::term::TermId;
use super::plan::{Layer, Plan};
use crate::kir::builder::{ContractShape, RhsBuilder};
use crate::kir::{BufferId, Ix, KernelBuilder, LoopKind, Val};

/// Scratch of a grid point, and distances in it, in elements. What is along a line of tiles stays in the first-level
/// cache, a block of channels at a time; planes stay in the second.
pub(super) struct Scratch {
    /// Columns of `B^T D` of a line of tiles: `[inputs][padded width][block of channels]`.
    columns: BufferId,
    column_line: i64,
    /// `B^T D B`: planes of `[lines][tiles][channels]`, one for each product.
    inputs: BufferId,
    input_plane: i64,
    /// Products: planes of `[lines][tiles][output channels]`.
    products: BufferId,
    product_plane: i64,
    /// Columns of `A^T M` of a line of tiles: planes of `[tiles][block of output channels]`, inputs for each output.
    sums: BufferId,
    sum_plane: i64,
}

/// Elements of a cache line.
const LINE: i64 = 16;

impl Scratch {
    /// Declares the scratch of a plan.
    pub fn new(b: &mut KernelBuilder, layer: &Layer, plan: &Plan) -> Scratch {
        let inputs = plan.transform.inputs() as i64;
        let rows = plan.lines * plan.tiles[1];
        // An odd number of cache lines keeps planes in different sets.
        let plane = |elements: i64| (((elements + LINE - 1) / LINE) | 1) * LINE;
        let column_line = plane(plan.padded_width() * plan.blocks[0]);
        let (input_plane, product_plane) = (plane(rows * layer.channels), plane(rows * plan.columns));
        let sum_plane = plane(plan.tiles[1] * plan.blocks[1]);
        Scratch {
            columns: b.scratch(DType::F32, inputs * column_line),
            column_line,
            inputs: b.scratch(DType::F32, inputs * inputs * input_plane),
            input_plane,
            products: b.scratch(DType::F32, inputs * inputs * product_plane),
            product_plane,
            sums: b.scratch(DType::F32, plan.transform.outputs() as i64 * inputs * sum_plane),
            sum_plane,
        }
    }
}

/// What the kernel is made of.
pub(super) struct Parts {
    pub layer: Layer,
    pub plan: Plan,
    pub scratch: Scratch,
    /// Panels of transformed filters for each product.
    pub filters: BufferId,
    pub outputs: Vec<BufferId>,
    /// The finished sum, if anything uses it.
    pub accumulator: Option<TermId>,
    pub one_image: bool,
    /// Images, lines, positions and channels of the result.
    pub groups: [Group; 4],
    /// Lines, positions and channels of the input.
    pub input_groups: [Group; 3],
    /// An element of the input.
    pub input: TermId,
    pub roots: Vec<Root>,
}

/// A block of lines of tiles, or of channels.
#[derive(Clone, Debug)]
struct Part {
    block: Ix,
    first: Ix,
    count: Ix,
    /// What is left at the block, and the size of whole ones; none where all are whole.
    uneven: Option<(Ix, i64)>,
}

impl Part {
    /// The number of elements where each is `each` of them: with a bound that shows.
    fn times(&self, each: i64) -> Ix {
        match &self.uneven {
            Some((left, size)) => (left.clone() * each).min(size * each),
            None => self.count.clone() * each,
        }
    }
}

/// What a grid point does.
struct Point {
    lines: Part,
    filters: Part,
}

impl Parts {
    /// Emits the kernel; gives its number of grid points.
    pub fn emit(&self, e: &mut Emitter<'_>, b: &mut KernelBuilder, images: &Dim) -> Dim {
        let mut points = Dim::known(1);
        let all = images * &Dim::known(self.plan.tiles[0]);
        let filters = part(e, b, &Dim::known(self.layer.filters), self.plan.columns, &mut points);
        let lines = part(e, b, &all, self.plan.lines, &mut points);
        let point = Point { lines, filters };
        self.clear_borders(b);
        let all = Part {
            block: Ix::Const(0),
            first: Ix::Const(0),
            count: self.layer.channels.into(),
            uneven: None,
        };
        b.sequential(point.lines.count.clone(), |b, line| {
            let [image, tiles] = self.place(point.lines.first.clone() + line.clone());
            bind_all(e, b, &self.groups[..1], &[image], &mut |e, b| {
                blocks(b, &all, self.plan.blocks[0], |b, channels| {
                    self.input_columns(e, b, channels, &tiles);
                    self.input_lines(b, channels, &line);
                });
            });
        });
        self.multiply(b, &point);
        b.sequential(point.lines.count.clone(), |b, line| {
            let [image, tiles] = self.place(point.lines.first.clone() + line.clone());
            bind_all(e, b, &self.groups[..1], &[image], &mut |e, b| {
                blocks(b, &point.filters, self.plan.blocks[1], |b, filters| {
                    self.output_columns(b, filters, &line);
                    self.output_lines(e, b, &point, filters, &tiles);
                });
            });
        });
        points
    }

    /// Image of a line of tiles, and its number there.
    fn place(&self, line: Ix) -> [Ix; 2] {
        if self.one_image {
            return [Ix::Const(0), line];
        }
        let tiles = self.plan.tiles[0];
        [line.clone().floor_div(tiles), line.modulo(tiles)]
    }

    fn inputs(&self) -> i64 {
        self.plan.transform.inputs() as i64
    }

    fn outputs(&self) -> i64 {
        self.plan.transform.outputs() as i64
    }

    /// Zeros in the padding at both ends of the columns: no line writes there.
    fn clear_borders(&self, b: &mut KernelBuilder) {
        let (channels, left) = (self.plan.blocks[0], self.layer.before[1]);
        let end = left + self.layer.input[1];
        let right = self.plan.padded_width() - end;
        for (first, count) in [(0, left), (end, right)] {
            if count <= 0 {
                continue;
            }
            b.sequential(self.inputs(), |b, i| {
                b.vector(count * channels, |b, at| {
                    let zero = b.literal(DType::F32, 0.0);
                    b.store(self.scratch.columns, i * self.scratch.column_line + at + first * channels, zero);
                });
            });
        }
    }

    /// `B^T` over the lines of the input that a line of tiles reads.
    fn input_columns(&self, e: &mut Emitter<'_>, b: &mut KernelBuilder, channels: &Part, tiles: &Ix) {
        let [top, left] = self.layer.before;
        let Scratch { columns, column_line, .. } = self.scratch;
        let block = self.plan.blocks[0];
        let first = tiles.clone() * self.outputs() - top;
        // Tiles may reach beyond the padding.
        let width = self.layer.input[1].min(self.plan.padded_width() - left);
        let [line_group, position_group, channel_group] = &self.input_groups;
        b.sequential(width, |b, x| {
            b.vector(channels.count.clone(), |b, c| {
                let mut lines = vec![];
                e.bound_vector(channel_group, c.clone() + channels.first.clone(), |e| {
                    e.bound(position_group, x.clone(), |e| {
                        for i in 0..self.inputs() {
                            let line = first.clone() + i;
                            lines.push(e.bound(line_group, line, |e| e.emit(b, self.input)));
                        }
                    });
                });
                let transformed = self.plan.transform.input(b, &lines);
                let to = x * block + c + left * block;
                for (i, value) in (0i64..).zip(transformed) {
                    b.store(columns, to.clone() + i * column_line, value);
                }
            });
        });
    }

    /// `B^T` over the positions that tiles read, into the planes of the products.
    fn input_lines(&self, b: &mut KernelBuilder, channels: &Part, line: &Ix) {
        let (n, block, [_, tiles]) = (self.inputs(), self.plan.blocks[0], self.plan.tiles);
        let Scratch { columns, column_line, inputs, input_plane, .. } = self.scratch;
        b.sequential(n, |b, i| {
            b.sequential(tiles, |b, tile| {
                b.vector(channels.count.clone(), |b, c| {
                    let first = i.clone() * column_line + tile.clone() * (self.outputs() * block) + c.clone();
                    let d: Vec<Val> = (0..n).map(|j| b.load(columns, first.clone() + j * block)).collect();
                    let transformed = self.plan.transform.input(b, &d);
                    let row =
                        (line.clone() * tiles + tile) * self.layer.channels + c + channels.first.clone();
                    let to = i * (n * input_plane) + row;
                    for (j, value) in (0i64..).zip(transformed) {
                        b.store(inputs, to.clone() + j * input_plane, value);
                    }
                });
            });
        });
    }

    /// The sums over channels of every product.
    fn multiply(&self, b: &mut KernelBuilder, point: &Point) {
        let Scratch { inputs, input_plane, products, product_plane, .. } = self.scratch;
        let (channels, columns) = (self.layer.channels, self.plan.columns);
        let products_count = self.inputs() * self.inputs();
        // A point has its own panels, one after the other: each tile function asks for the next one's lines.
        let plane = self.plan.panels() * channels * i64::from(self.plan.width);
        let panels = point.filters.block.clone() * (products_count * plane);
        b.sequential(products_count, |b, p| {
            let shape = ContractShape {
                m: (Ix::Const(0), point.lines.times(self.plan.tiles[1])),
                n: (Ix::Const(0), point.filters.count.clone()),
                taps: vec![],
                k: (Ix::Const(0), Ix::Const(channels)),
                acc_dtype: DType::F32,
            };
            let base = panels + p.clone() * plane;
            let rhs = RhsBuilder::Packed { buffer: self.filters, base, width: self.plan.width };
            b.contract(
                shape,
                |b, m, _, k| b.load(inputs, p.clone() * input_plane + m.clone() * channels + k),
                rhs,
                |b, m, n, sum| {
                    b.store(products, p.clone() * product_plane + m.clone() * columns + n, sum);
                },
            );
        });
    }

    /// `A^T` over the lines of the products of a line of tiles.
    fn output_columns(&self, b: &mut KernelBuilder, filters: &Part, line: &Ix) {
        let (n, [_, tiles], [_, block]) = (self.inputs(), self.plan.tiles, self.plan.blocks);
        let Scratch { products, product_plane, sums, sum_plane, .. } = self.scratch;
        b.sequential(n, |b, j| {
            b.sequential(tiles, |b, tile| {
                b.vector(filters.count.clone(), |b, o| {
                    let row = (line.clone() * tiles + tile.clone()) * self.plan.columns;
                    let first = j.clone() * product_plane + row + o.clone() + filters.first.clone();
                    let place = |i: i64| first.clone() + i * (n * product_plane);
                    let m: Vec<Val> = (0..n).map(|i| b.load(products, place(i))).collect();
                    let to = j * sum_plane + tile * block + o;
                    for (y, value) in (0i64..).zip(self.plan.transform.output(b, &m)) {
                        b.store(sums, to.clone() + y * (n * sum_plane), value);
                    }
                });
            });
        });
    }

    /// `A^T` over the positions of a line of tiles, and the epilogue.
    fn output_lines(
        &self,
        e: &mut Emitter<'_>,
        b: &mut KernelBuilder,
        point: &Point,
        filters: &Part,
        tiles: &Ix,
    ) {
        let m = self.outputs();
        let [height, width] = self.layer.output;
        let first = tiles.clone() * m;
        let lines = if height % m == 0 { Ix::Const(m) } else { (Ix::Const(height) - first.clone()).min(m) };
        b.sequential(lines, |b, y| {
            let position = first + y.clone();
            bind_all(e, b, &self.groups[1..2], &[position], &mut |e, b| {
                // The last tile may have fewer positions.
                for (begin, count, positions) in [(0, width / m, m), (width / m, 1, width % m)] {
                    if count == 0 || positions == 0 {
                        continue;
                    }
                    b.for_loop(LoopKind::Sequential, count, |b, tile| {
                        b.vector(filters.count.clone(), |b, o| {
                            let channel = o.clone() + filters.first.clone() + point.filters.first.clone();
                            self.tile(e, b, [y.clone(), tile + begin, o], channel, positions);
                        });
                    });
                }
            });
        });
    }

    /// `positions` results of line `y` of a tile.
    fn tile(
        &self,
        e: &mut Emitter<'_>,
        b: &mut KernelBuilder,
        [y, tile, o]: [Ix; 3],
        channel: Ix,
        positions: i64,
    ) {
        let (n, m, [_, block]) = (self.inputs(), self.outputs(), self.plan.blocks);
        let Scratch { sums, sum_plane, .. } = self.scratch;
        let first = y * (n * sum_plane) + tile.clone() * block + o;
        let loaded: Vec<Val> = (0..n).map(|j| b.load(sums, first.clone() + j * sum_plane)).collect();
        let results = self.plan.transform.output(b, &loaded);
        let tops: Vec<TermId> = self.roots.iter().map(|r| r.term).collect();
        e.bound_vector(&self.groups[3], channel, |e| {
            e.hoist(b, &tops);
            for (x, sum) in (0..positions).zip(results) {
                let position = tile.clone() * m + x;
                e.bound(&self.groups[2], position, |e| match self.accumulator {
                    Some(term) => e.with_value(term, sum, |e| self.store(e, b)),
                    None => self.store(e, b),
                });
            }
        });
    }

    /// The results at the bound position.
    fn store(&self, e: &mut Emitter<'_>, b: &mut KernelBuilder) {
        for (root, &buffer) in self.roots.iter().zip(&self.outputs) {
            let value = e.emit(b, root.term);
            let value = b.cast(value, Ew::compute_dtype(root.dtype));
            let at = e.ix(b, &root.offset);
            b.store(buffer, at, value);
        }
    }
}

/// A grid point's part of `total`, in blocks of `size`; more than one block is a loop of the grid.
fn part(e: &mut Emitter<'_>, b: &mut KernelBuilder, total: &Dim, size: i64, points: &mut Dim) -> Part {
    if total.as_known().is_some_and(|n| n <= size) {
        return Part { block: Ix::Const(0), first: Ix::Const(0), count: e.dim(b, total), uneven: None };
    }
    let each = Dim::known(size);
    let blocks = total.ceil_div(&each);
    *points = &*points * &blocks;
    let blocks = e.dim(b, &blocks);
    let block = b.grid(blocks);
    let first = block.clone() * size;
    if total.exact_div(&each).is_some() {
        return Part { block, first, count: Ix::Const(size), uneven: None };
    }
    let left = e.dim(b, total) - first.clone();
    Part { block, first, count: left.clone().min(size), uneven: Some((left, size)) }
}

/// Runs `f` for blocks of `size` of a part.
fn blocks(b: &mut KernelBuilder, all: &Part, size: i64, f: impl FnOnce(&mut KernelBuilder, &Part)) {
    let total = all.count.as_const();
    if total.is_some_and(|n| n <= size) {
        let whole = Part { first: Ix::Const(0), ..all.clone() };
        return f(b, &whole);
    }
    b.sequential(all.count.clone().ceil_div(size), |b, block| {
        let first = block.clone() * size;
        let count = match total {
            Some(n) if n % size == 0 => Ix::Const(size),
            _ => (all.count.clone() - first.clone()).min(size),
        };
        f(b, &Part { block, first, count, uneven: None });
    });
}
