//! Kernels that move: transposes of any rank, blocked layouts, gathers by loaded indices, parts of a larger output,
//! packed integers.

use kiln_codegen::kir::{Ix, KernelBuilder, compute_dtype};
use kiln_ir::{DType, Prim};

use super::scalar;
use crate::agreement::Case;
use crate::choices::Choices;

pub fn grow(c: &mut Choices<'_>) -> Vec<Case> {
    match c.below(6) {
        0..3 => transpose(c),
        3 => gather(c),
        4 => parts(c),
        _ => packed(c),
    }
}

/// `out[permuted] = x[...]`, the innermost loop over the output's or the input's last axis, or over a block.
fn transpose(c: &mut Choices<'_>) -> Vec<Case> {
    let (dtype, rank) = (scalar::dtype(c), 2 + c.below(3));
    let most = [0, 0, 40, 17, 9][rank];
    let sizes: Vec<i64> = (0..rank).map(|_| c.between(1, most)).collect();
    let mut order: Vec<usize> = (0..rank).collect();
    for i in (1..rank).rev() {
        order.swap(i, c.below(i + 1));
    }
    let mut b = KernelBuilder::new("transpose");
    let (x, out) = (b.input(dtype), b.output(dtype));
    let strides =
        |sizes: &[i64]| -> Vec<i64> { (0..sizes.len()).map(|i| sizes[i + 1..].iter().product()).collect() };
    let from = strides(&sizes);
    let to = strides(&order.iter().map(|&axis| sizes[axis]).collect::<Vec<_>>());
    // Loops over the axes of the output, or of the input.
    let by_output = c.flag();
    let axes: Vec<usize> = if by_output { order.clone() } else { (0..rank).collect() };
    let grid = c.below(rank);
    let mut vars: Vec<(usize, Ix)> = axes[..grid].iter().map(|&axis| (axis, b.grid(sizes[axis]))).collect();
    type Nest<'a> = dyn Fn(&mut KernelBuilder, &mut Vec<(usize, Ix)>, &[usize]) + 'a;
    fn nest(
        b: &mut KernelBuilder,
        vars: &mut Vec<(usize, Ix)>,
        axes: &[usize],
        sizes: &[i64],
        leaf: &Nest<'_>,
    ) {
        match axes {
            [] => leaf(b, vars, axes),
            [axis] => b.vector(sizes[*axis], |b, i| {
                vars.push((*axis, i));
                leaf(b, vars, axes);
                vars.pop();
            }),
            [axis, rest @ ..] => b.sequential(sizes[*axis], |b, i| {
                vars.push((*axis, i));
                nest(b, vars, rest, sizes, leaf);
                vars.pop();
            }),
        }
    }
    let negates = c.flag() && !matches!(dtype, DType::Bool);
    let leaf = |b: &mut KernelBuilder, vars: &mut Vec<(usize, Ix)>, _: &[usize]| {
        let place = |strides: &dyn Fn(usize) -> i64| {
            vars.iter().fold(Ix::Const(0), |at, (axis, var)| at + var.clone() * strides(*axis))
        };
        let source = place(&|axis| from[axis]);
        let target = place(&|axis| to[order.iter().position(|&a| a == axis).expect("a permutation")]);
        let mut v = b.load(x, source);
        if negates {
            v = b.apply(Prim::Neg, &[v]);
        }
        b.store(out, target, v);
    };
    nest(&mut b, &mut vars, &axes[grid..], &sizes, &leaf);
    let len = sizes.iter().product();
    super::case(c, b, &[len, len], vec![], super::LARGEST)
}

/// Rows of a table by indices that are loaded, wrapped and clamped.
fn gather(c: &mut Choices<'_>) -> Vec<Case> {
    let dtype = scalar::dtype(c);
    let (entries, width, count) = (c.between(1, 30), c.between(1, 40), c.between(1, 12));
    let mut b = KernelBuilder::new("gather");
    let index_dtype = c.of(&[DType::I64, DType::I32]);
    let (table, indices, out) = (b.input(dtype), b.input(index_dtype), b.output(dtype));
    let (n, dims) = if c.flag() { (Ix::Const(width), vec![]) } else { (b.dim(), vec![width]) };
    let inside = c.flag();
    let row = b.grid(count);
    let place = |b: &mut KernelBuilder, at: Ix| {
        let i = b.load(indices, at);
        let i = b.cast(i, DType::I64);
        let (zero, size) = (b.literal(DType::I64, 0.0), b.literal(DType::I64, entries as f64));
        let wrapped = b.apply(Prim::Add, &[i, size]);
        let negative = b.apply(Prim::Lt, &[i, zero]);
        let i = b.apply(Prim::Select, &[negative, wrapped, i]);
        let last = b.literal(DType::I64, (entries - 1) as f64);
        let i = b.apply(Prim::Max, &[i, zero]);
        Ix::Scalar(b.apply(Prim::Min, &[i, last]))
    };
    if inside {
        // An index for each element.
        b.vector(n.clone(), |b, j| {
            let i = place(b, row.clone() * n.clone() + j.clone());
            let v = b.load(table, i * n.clone() + j.clone());
            b.store(out, row.clone() * n.clone() + j, v);
        });
    } else {
        let i = place(&mut b, row.clone());
        b.vector(n.clone(), |b, j| {
            let v = b.load(table, i * n.clone() + j.clone());
            b.store(out, row.clone() * n.clone() + j, v);
        });
    }
    super::case(c, b, &[entries * width, count * width, count * width], dims, super::LARGEST)
}

/// Several inputs side by side in an output, one of them reversed or padded.
fn parts(c: &mut Choices<'_>) -> Vec<Case> {
    let dtype = scalar::dtype(c);
    let mut b = KernelBuilder::new("parts");
    let (x, y, out) = (b.input(dtype), b.input(dtype), b.output(dtype));
    let (rows, left, right) = (c.between(1, 4), c.between(0, 40), c.between(0, 40));
    let (row, width) = (b.grid(rows), left + right);
    b.vector(left, |b, j| {
        let v = b.load(x, row.clone() * left + j.clone());
        b.store(out, row.clone() * width + j, v);
    });
    let pattern = c.of(&scalar::PATTERNS);
    let sizes = [Ix::Const(rows), Ix::Const(right)];
    b.vector(right, |b, j| {
        let v = scalar::read(b, y, pattern, [&row, &j], [&sizes[0], &sizes[1]]);
        b.store(out, row.clone() * width + left + j, v);
    });
    super::case(c, b, &[rows * left, scalar::reach(rows, right), rows * width], vec![], super::LARGEST)
}

/// Packed integers, spread to whole ones and scaled.
fn packed(c: &mut Choices<'_>) -> Vec<Case> {
    let dtype = c.of(&[DType::I4, DType::U4, DType::I2, DType::U2]);
    let mut b = KernelBuilder::new("packed");
    let (x, out) = (b.input(dtype), b.output(DType::F32));
    let (n, first) = (c.between(0, 70), c.between(0, 5));
    let to = compute_dtype(c.of(&scalar::DTYPES)).expect("a number");
    b.vector(n, |b, i| {
        let v = b.load(x, i.clone() + first);
        let v = b.cast(v, to);
        let v = b.cast(v, DType::F32);
        let scale = b.literal(DType::F32, 0.125);
        let v = b.apply(Prim::Mul, &[v, scale]);
        b.store(out, i, v);
    });
    super::case(c, b, &[n + first, n], vec![], super::LARGEST)
}
