//! Kernels whose steps go one after the other: running combinations along an axis, and scatters to places known when
//! compiling. What is independent is the grid.

use kiln_ir::op::{CumKind, Index, Order, ScatterMode};
use kiln_ir::{DType, Dim, Node, Op, Prim, Scalar, Tensor, Value};

use super::emit::Param;
use super::expr::strides;
use super::loops::{Lowered, grain};
use super::small::{compute_dtype, is_small};
use super::trace::{Fit, Refusal, Region, SourceTensor, kernel_type};
use crate::kir::{Access, BufferId, Ix, KernelBuilder, LoopKind, Val};

/// Operations that a chunk does.
const CHUNK_WORK: i64 = 100_000;

/// Elements of a slice that one grid point writes.
const BLOCK: i64 = 1024;

/// The kernel of a node by itself, if it is one of these.
pub fn lower_serial(
    region: &Region<'_>,
    node: &Node,
    constants: &dyn Fn(Value) -> Option<Tensor>,
    name: &str,
) -> Option<Result<Lowered, Refusal>> {
    let serial = Serial {
        region,
        constants,
        b: KernelBuilder::new(name),
        sources: vec![],
        params: vec![],
        dims: vec![],
        fits: vec![],
    };
    match &node.op {
        Op::Order(Order::Cumulative { kind, axis, exclusive, reverse }) => {
            let running = Running { kind: *kind, axis: *axis, exclusive: *exclusive, reverse: *reverse };
            Some(serial.cumulative(node, &running))
        }
        Op::Index(Index::ScatterElements { axis, mode }) => Some(serial.scatter_elements(node, *axis, *mode)),
        Op::Index(Index::ScatterNd { mode }) => Some(serial.scatter_nd(node, *mode)),
        _ => None,
    }
}

struct Running {
    kind: CumKind,
    axis: usize,
    exclusive: bool,
    reverse: bool,
}

struct Serial<'a, 'g> {
    region: &'a Region<'g>,
    constants: &'a dyn Fn(Value) -> Option<Tensor>,
    b: KernelBuilder,
    sources: Vec<SourceTensor>,
    params: Vec<Param>,
    dims: Vec<Dim>,
    fits: Vec<Fit>,
}

fn product(dims: &[Dim]) -> Dim {
    dims.iter().fold(Dim::known(1), |n, d| n * d)
}

impl<'g> Serial<'_, 'g> {
    fn ty(&self, v: Value) -> Result<(DType, &'g [Dim]), Refusal> {
        let (dtype, dims) = kernel_type(self.region.graph, v)?;
        if is_small(dtype) {
            return Err(Refusal::new(format!("serial kernels of {dtype}")));
        }
        Ok((dtype, dims))
    }

    /// Declares a value that the kernel reads.
    fn input(&mut self, v: Value) -> Result<BufferId, Refusal> {
        let (dtype, dims) = self.ty(v)?;
        let constant = self.region.graph.constant(v).cloned().or_else(|| (self.constants)(v));
        let access = if constant.is_some() { Access::Const } else { Access::In };
        self.params.push(Param::Source(self.sources.len()));
        self.sources.push(SourceTensor { value: v, dtype, dims: dims.to_vec(), constant });
        Ok(self.b.buffer(dtype, access))
    }

    /// Declares the result.
    fn result(&mut self, dtype: DType, access: Access) -> BufferId {
        self.params.push(Param::Output(0));
        self.b.buffer(dtype, access)
    }

    fn dim(&mut self, dim: &Dim) -> Ix {
        if let Some(n) = dim.as_known() {
            return Ix::Const(n);
        }
        let known = self.dims.iter().position(|d| d == dim).and_then(|at| u32::try_from(at).ok());
        known.map(Ix::Dim).unwrap_or_else(|| {
            self.dims.push(dim.clone());
            self.b.dim()
        })
    }

    /// A position in each of `dims` as the grid.
    fn grid(&mut self, dims: &[Dim]) -> Vec<Ix> {
        dims.iter()
            .map(|d| {
                let extent = self.dim(d);
                self.b.grid(extent)
            })
            .collect()
    }

    /// The offset of an index.
    fn offset(&mut self, index: &[Ix], dims: &[Dim]) -> Ix {
        let mut sum = Ix::Const(0);
        for (i, stride) in index.iter().zip(strides(dims)) {
            sum = sum + i.clone() * self.dim(&stride);
        }
        sum
    }

    fn finish(self, points: Dim, each: &Dim) -> Result<Lowered, Refusal> {
        let Serial { region, b, sources, params, dims, fits, .. } = self;
        let kernel = b.finish().map_err(|e| Refusal::new(e.to_string()))?;
        let flops = &points * each;
        let grain = grain(&points, &flops, CHUNK_WORK);
        let outputs = region.outputs.clone();
        Ok(Lowered { kernel, params, sources, outputs, dims, grid: points, grain, flops, fits })
    }

    /// A running sum or product: each line along the axis is a grid point.
    fn cumulative(mut self, node: &Node, running: &Running) -> Result<Lowered, Refusal> {
        let x = node.operands[0];
        let (dtype, dims) = self.ty(x)?;
        // Sums of 16 bits round at each step: by being stored.
        let narrow = matches!(dtype, DType::F16 | DType::BF16);
        let access = if narrow { Access::InOut } else { Access::Out };
        let (from, to) = (self.input(x)?, self.result(dtype, access));
        let (outer, rest) = dims.split_at(running.axis);
        let (length, inner) = (rest[0].clone(), product(&rest[1..]));
        let at = self.grid(&[product(outer), inner.clone()]);
        let (n, step) = (self.dim(&length), self.dim(&inner));
        let first = at[0].clone() * (n.clone() * step.clone()) + at[1].clone();
        // Singles are summed as the evaluator sums them.
        let wide = match dtype {
            _ if narrow => DType::F32,
            _ if dtype.is_float() => DType::F64,
            _ => dtype,
        };
        let (prim, neutral) = match running.kind {
            CumKind::Sum => (Prim::Add, 0.0),
            CumKind::Prod => (Prim::Mul, 1.0),
        };
        let neutral = self.b.literal(wide, neutral);
        self.b.fold(n.clone(), &[neutral], |b, i, sums| {
            let i = if running.reverse { n.clone() - 1 - i } else { i };
            let place = first.clone() + i * step;
            let value = b.load(from, place.clone());
            let value = b.cast(value, wide);
            if narrow && running.exclusive {
                b.store(to, place.clone(), sums[0]);
                let rounded = b.load(to, place);
                return vec![b.apply(prim, &[rounded, value])];
            }
            let next = b.apply(prim, &[sums[0], value]);
            let stored = b.cast(if running.exclusive { sums[0] } else { next }, compute_dtype(dtype));
            b.store(to, place.clone(), stored);
            vec![if narrow { b.load(to, place) } else { next }]
        });
        self.finish(product(outer) * inner, &(length * Dim::known(4)))
    }

    /// Refuses indices that are not known to lie in the axes that they pick from, of `extents` by turns: a kernel cannot
    /// fail, and the evaluator does.
    fn inside(&self, indices: Value, extents: &[Dim]) -> Result<(), Refusal> {
        let constant = self.region.graph.constant(indices).cloned().or_else(|| (self.constants)(indices));
        let indices = constant.and_then(|t| t.to_ints());
        let indices = indices.ok_or_else(|| Refusal::new("a scatter to places that show at run time"))?;
        let extents: Option<Vec<i64>> = extents.iter().map(Dim::as_known).collect();
        let extents = extents.ok_or_else(|| Refusal::new("a scatter along an axis of unknown size"))?;
        let all = indices.iter().zip(extents.iter().cycle()).all(|(i, n)| (-n..*n).contains(i));
        all.then_some(()).ok_or_else(|| Refusal::new("a scatter to a place outside"))
    }

    /// Lines along the axis are independent: the other coordinates of an update are those of where it goes.
    fn scatter_elements(mut self, node: &Node, axis: usize, mode: ScatterMode) -> Result<Lowered, Refusal> {
        let [x, indices, updates] = *node.operands.as_slice() else {
            return Err(Refusal::new("a scatter takes three operands"));
        };
        let ((dtype, dims), (_, given)) = (self.ty(x)?, self.ty(updates)?);
        if given.len() != dims.len() || self.ty(indices)?.1 != given {
            return Err(Refusal::new("indices and updates differ"));
        }
        self.inside(indices, &dims[axis..=axis])?;
        let (from, at, with) = (self.input(x)?, self.input(indices)?, self.input(updates)?);
        let to = self.result(dtype, Access::InOut);
        let mut lines = dims.to_vec();
        lines[axis] = Dim::known(1);
        let mut index = self.grid(&lines);
        index[axis] = Ix::Const(0);
        let (first, update) = (self.offset(&index, dims), self.offset(&index, given));
        let (length, count) = (self.dim(&dims[axis]), self.dim(&given[axis]));
        let (step, update_step) = (self.dim(&strides(dims)[axis]), self.dim(&strides(given)[axis]));
        self.b.for_loop(LoopKind::Vector, length.clone(), |b, i| {
            copy(b, from, to, first.clone() + i * step.clone())
        });
        // Updates may be fewer than elements on the other axes too.
        let mut covered = self.b.constant(DType::Bool, Scalar::B(true));
        let some = product(given).lesser(&Dim::known(1));
        for (a, (n, all)) in given.iter().zip(dims).enumerate().filter(|(a, _)| *a != axis) {
            if n != all {
                let most = n * &some - Dim::known(1);
                if !(all - n).is_non_negative() {
                    let what = format!("the updates along axis {a}");
                    self.fits.push(Fit { most, size: all.clone(), what });
                }
                let n = self.dim(n);
                let (i, n) = (self.b.index(index[a].clone()), self.b.index(n));
                let inside = self.b.apply(Prim::Lt, &[i, n]);
                covered = self.b.apply(Prim::And, &[covered, inside]);
            }
        }
        let scatter = |b: &mut KernelBuilder| {
            b.sequential(count, |b, j| {
                let place = update + j * update_step;
                let position = position(b, at, place.clone(), &length);
                let value = b.load(with, place);
                combine(b, mode, to, first + position * step, value);
            });
        };
        self.b.if_else(covered, scatter, |_| {});
        self.finish(product(&lines), &((&dims[axis] + &given[axis]) * Dim::known(4)))
    }

    /// Slices are written in the order of their updates; their elements are independent.
    fn scatter_nd(mut self, node: &Node, mode: ScatterMode) -> Result<Lowered, Refusal> {
        let [x, indices, updates] = *node.operands.as_slice() else {
            return Err(Refusal::new("a scatter takes three operands"));
        };
        let ((dtype, dims), (_, index_dims)) = (self.ty(x)?, self.ty(indices)?);
        let depth = index_dims.last().and_then(Dim::as_known).and_then(|d| usize::try_from(d).ok());
        let depth = depth.filter(|d| *d <= dims.len());
        let depth = depth.ok_or_else(|| Refusal::new("coordinates of symbolic length"))?;
        let prefix = &index_dims[..index_dims.len() - 1];
        let (slices, slice) = (product(&dims[..depth]), product(&dims[depth..]));
        if self.ty(updates)?.1 != [prefix, &dims[depth..]].concat() {
            return Err(Refusal::new("updates of an unusual shape"));
        }
        self.inside(indices, &dims[..depth])?;
        let (from, at, with) = (self.input(x)?, self.input(indices)?, self.input(updates)?);
        let to = self.result(dtype, Access::InOut);
        let blocks = slice.ceil_div(&Dim::known(BLOCK));
        let begin = self.grid(&[blocks.clone()])[0].clone() * BLOCK;
        let (size, rows, count) = (self.dim(&slice), self.dim(&slices), self.dim(&product(prefix)));
        let extent = (size.clone() - begin.clone()).min(BLOCK);
        let extents: Vec<Ix> = dims[..depth].iter().map(|d| self.dim(d)).collect();
        let steps: Vec<Ix> = strides(dims)[..depth].iter().map(|d| self.dim(d)).collect();
        self.b.sequential(rows, |b, row| {
            let first = row * size.clone() + begin.clone();
            b.for_loop(LoopKind::Vector, extent.clone(), |b, i| copy(b, from, to, first.clone() + i));
        });
        self.b.sequential(count, |b, k| {
            let mut first = begin.clone();
            for (d, (n, step)) in (0i64..).zip(extents.iter().zip(&steps)) {
                first = first + position(b, at, k.clone() * depth as i64 + d, n) * step.clone();
            }
            let update = k * size.clone() + begin.clone();
            b.for_loop(LoopKind::Vector, extent, |b, i| {
                let value = b.load(with, update + i.clone());
                combine(b, mode, to, first + i, value);
            });
        });
        self.finish(blocks, &((slices + product(prefix)) * Dim::known(2 * BLOCK)))
    }
}

fn copy(b: &mut KernelBuilder, from: BufferId, to: BufferId, place: Ix) {
    let value = b.load(from, place.clone());
    b.store(to, place, value);
}

/// An index as a position, negative ones counted from the end.
fn position(b: &mut KernelBuilder, indices: BufferId, at: Ix, extent: &Ix) -> Ix {
    let raw = b.load(indices, at);
    let raw = b.cast(raw, DType::I64);
    let n = b.index(extent.clone());
    let zero = b.constant(DType::I64, Scalar::I(0));
    let negative = b.apply(Prim::Lt, &[raw, zero]);
    let counted = b.apply(Prim::Add, &[raw, n]);
    Ix::Scalar(b.apply(Prim::Select, &[negative, counted, raw]))
}

/// `to[place] (mode) value`.
fn combine(b: &mut KernelBuilder, mode: ScatterMode, to: BufferId, place: Ix, value: Val) {
    let prim = match mode {
        ScatterMode::Assign => return b.store(to, place, value),
        ScatterMode::Add => Prim::Add,
        ScatterMode::Mul => Prim::Mul,
        ScatterMode::Min => Prim::Min,
        ScatterMode::Max => Prim::Max,
    };
    let old = b.load(to, place.clone());
    let new = b.apply(prim, &[old, value]);
    b.store(to, place, new);
}
