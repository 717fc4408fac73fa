//! The loops of one grid point.

use kiln_ir::{DType, Dim, Ew};

use super::super::emit::{Emitter, Group};
use super::super::loops::{Root, bind_all};
use super::super::term::TermId;
use super::plan::{Layer, Plan};
use crate::kir::builder::{ContractShape, RhsBuilder};
use crate::kir::{BufferId, Ix, KernelBuilder, LoopKind, Val};

/// Scratch of a grid point, and distances in it, in elements.
pub(super) struct Scratch {
    /// Columns of `B^T D` of one line of tiles: `[inputs][padded width][channels]`.
    columns: BufferId,
    column_line: i64,
    /// `B^T D B`: planes of `[lines][tiles][channels]`, one for each product.
    inputs: BufferId,
    input_plane: i64,
    /// Products, and what becomes of them: planes of `[lines][tiles][output channels]`.
    products: BufferId,
    product_plane: i64,
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
        let column_line = plane(padded_width(plan) * layer.channels);
        let (input_plane, product_plane) = (plane(rows * layer.channels), plane(rows * plan.columns));
        Scratch {
            columns: b.scratch(DType::F32, inputs * column_line),
            column_line,
            inputs: b.scratch(DType::F32, inputs * inputs * input_plane),
            input_plane,
            products: b.scratch(DType::F32, inputs * inputs * product_plane),
            product_plane,
        }
    }
}

/// Positions of a line that its tiles read.
fn padded_width(plan: &Plan) -> i64 {
    plan.tiles[1] * plan.transform.outputs() as i64 + 2
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
    /// Lines of the input.
    pub lines: Group,
    /// Positions of a line and channels, as one.
    pub line: Group,
    /// An element of the input.
    pub input: TermId,
    pub roots: Vec<Root>,
}

/// A block of lines of tiles, or of output channels.
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
        b.sequential(point.lines.count.clone(), |b, line| {
            let [image, tiles] = self.place(point.lines.first.clone() + line.clone());
            bind_all(e, b, &self.groups[..1], &[image], &mut |e, b| {
                self.input_columns(e, b, &tiles);
            });
            self.input_lines(b, &line);
        });
        self.multiply(b, &point);
        self.output_columns(b, &point);
        b.sequential(point.lines.count.clone(), |b, line| {
            let [image, tiles] = self.place(point.lines.first.clone() + line.clone());
            bind_all(e, b, &self.groups[..1], &[image], &mut |e, b| {
                self.output_lines(e, b, &point, &line, &tiles);
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
        let (channels, left) = (self.layer.channels, self.layer.before[1]);
        let end = left + self.layer.input[1];
        let right = padded_width(&self.plan) - end;
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
    fn input_columns(&self, e: &mut Emitter<'_>, b: &mut KernelBuilder, tiles: &Ix) {
        let channels = self.layer.channels;
        let [top, left] = self.layer.before;
        let first = tiles.clone() * self.outputs() - top;
        // Tiles may reach beyond the padding.
        let width = self.layer.input[1].min(padded_width(&self.plan) - left);
        b.vector(width * channels, |b, at| {
            let mut lines = vec![];
            e.bound_vector(&self.line, at.clone(), |e| {
                for i in 0..self.inputs() {
                    let line = first.clone() + i;
                    lines.push(e.bound(&self.lines, line, |e| e.emit(b, self.input)));
                }
            });
            let columns = self.plan.transform.input(b, &lines);
            for (i, value) in (0i64..).zip(columns) {
                let begin = i * self.scratch.column_line + left * channels;
                b.store(self.scratch.columns, at.clone() + begin, value);
            }
        });
    }

    /// `B^T` over the positions that tiles read, into the planes of the products.
    fn input_lines(&self, b: &mut KernelBuilder, line: &Ix) {
        let (n, channels, [_, tiles]) = (self.inputs(), self.layer.channels, self.plan.tiles);
        let Scratch { columns, column_line, inputs, input_plane, .. } = self.scratch;
        b.sequential(n, |b, i| {
            b.sequential(tiles, |b, tile| {
                b.vector(channels, |b, c| {
                    let first =
                        i.clone() * column_line + tile.clone() * (self.outputs() * channels) + c.clone();
                    let d: Vec<Val> = (0..n).map(|j| b.load(columns, first.clone() + j * channels)).collect();
                    let transformed = self.plan.transform.input(b, &d);
                    let row = (line.clone() * tiles + tile) * channels + c;
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

    /// `A^T` over the lines of the products, in place: the first planes of each column are its result.
    fn output_columns(&self, b: &mut KernelBuilder, point: &Point) {
        let n = self.inputs();
        let Scratch { products, product_plane, .. } = self.scratch;
        let all = point.lines.times(self.plan.tiles[1] * self.plan.columns);
        b.sequential(n, |b, j| {
            b.vector(all, |b, at| {
                let first = j * product_plane + at;
                let place = |i: i64| first.clone() + i * (n * product_plane);
                let m: Vec<Val> = (0..n).map(|i| b.load(products, place(i))).collect();
                let lines = self.plan.transform.output(b, &m);
                for (i, value) in (0i64..).zip(lines) {
                    b.store(products, place(i), value);
                }
            });
        });
    }

    /// `A^T` over the positions of a line of tiles, and the epilogue.
    fn output_lines(&self, e: &mut Emitter<'_>, b: &mut KernelBuilder, point: &Point, line: &Ix, tiles: &Ix) {
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
                        b.vector(point.filters.count.clone(), |b, o| {
                            self.tile(e, b, point, [line.clone(), y.clone(), tile + begin], &o, positions);
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
        point: &Point,
        [line, y, tile]: [Ix; 3],
        o: &Ix,
        positions: i64,
    ) {
        let (n, m, [_, tiles]) = (self.inputs(), self.outputs(), self.plan.tiles);
        let Scratch { products, product_plane, .. } = self.scratch;
        let row = (line * tiles + tile.clone()) * self.plan.columns + o.clone();
        let first = y * (n * product_plane) + row;
        let loaded: Vec<Val> = (0..n).map(|j| b.load(products, first.clone() + j * product_plane)).collect();
        let sums = self.plan.transform.output(b, &loaded);
        let tops: Vec<TermId> = self.roots.iter().map(|r| r.term).collect();
        e.bound_vector(&self.groups[3], o.clone() + point.filters.first.clone(), |e| {
            e.hoist(b, &tops);
            for (x, sum) in (0..positions).zip(sums) {
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
