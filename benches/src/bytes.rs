//! Contractions and convolutions of bytes as kernel IR, with what makes bytes of their sums.

use kiln_codegen::kir::builder::{ContractShape, RhsBuilder};
use kiln_codegen::kir::{Bound, BufferId, Ix, KernelBuilder, Val};
use kiln_ir::{DType, Prim};

use crate::Result;
use crate::contraction::ranges;
use crate::kernel::{Case, Products};

/// Products of one step of the reduction.
const STEP: i64 = 4;

/// Constants of a column: what the zero point takes from the sum, the scale, the bias.
struct Columns {
    correction: BufferId,
    scale: BufferId,
    bias: BufferId,
}

impl Columns {
    fn new(b: &mut KernelBuilder) -> Columns {
        let (correction, scale, bias) = (b.weights(DType::I32), b.weights(DType::F32), b.weights(DType::F32));
        Columns { correction, scale, bias }
    }

    /// The sum as a byte: scaled, rounded, bounded, which is a ReLU too.
    fn requantized(&self, b: &mut KernelBuilder, sum: Val, column: &Ix) -> Val {
        let number = |b: &mut KernelBuilder, value: f64| b.literal(DType::F32, value);
        let correction = b.load(self.correction, column.clone());
        let sum = b.apply(Prim::Add, &[sum, correction]);
        let v = b.cast(sum, DType::F32);
        let scale = b.load(self.scale, column.clone());
        let v = b.apply(Prim::Mul, &[v, scale]);
        let bias = b.load(self.bias, column.clone());
        let v = b.apply(Prim::Add, &[v, bias]);
        let v = b.apply(Prim::Round, &[v]);
        let (zero, low, high) = (number(b, 3.0), number(b, 0.0), number(b, 255.0));
        let v = b.apply(Prim::Add, &[v, zero]);
        let v = b.apply(Prim::Max, &[v, low]);
        let v = b.apply(Prim::Min, &[v, high]);
        b.cast(v, DType::U8)
    }
}

/// `out[m][n] = requantized(a[m][k] w[k][n])`, the weights in panels of `width` columns.
pub fn gemm([m, n, k]: [i64; 3], width: i64) -> Result<Case> {
    let mut b = KernelBuilder::new("gemm");
    let (x, w, out) = (b.input(DType::U8), b.weights(DType::I8), b.output(DType::U8));
    let columns = Columns::new(&mut b);
    let [m_range, n_range] = ranges(&mut b, [m, n], k / STEP, width, 1);
    let shape = ContractShape {
        m: m_range,
        n: n_range,
        taps: vec![],
        k: (0.into(), k.into()),
        acc_dtype: DType::I32,
    };
    b.contract(
        shape,
        |b, row, _, kk| b.load(x, row.clone() * k + kk),
        RhsBuilder::Quads { buffer: w, base: 0.into(), width: width as u32 },
        |b, row, column, sum| {
            let v = columns.requantized(b, sum, column);
            b.store(out, row.clone() * n + column, v);
        },
    );
    Ok(Case {
        name: format!("int8 gemm {m}x{n}x{k}"),
        kernel: b.finish()?,
        lengths: vec![m * k, (n + width - 1) / width * width * k, m * n, n, n, n],
        flops: 2.0 * (m * n * k) as f64,
        products: Products::Bytes,
    })
}

/// A channels-last convolution `[h, w, ci] -> [h / stride, w / stride, co]` to bytes, square kernel, padded with a zero
/// point.
pub fn conv([h, w]: [i64; 2], [ci, co]: [i64; 2], size: i64, stride: i64, width: i64) -> Result<Case> {
    let pad = (size - 1) / 2;
    let (oh, ow) = ((h + 2 * pad - size) / stride + 1, (w + 2 * pad - size) / stride + 1);
    let (m, steps) = (oh * ow, size * size * ((ci + STEP - 1) / STEP));
    let mut b = KernelBuilder::new("conv");
    let (x, wt, out) = (b.input(DType::U8), b.weights(DType::I8), b.output(DType::U8));
    let columns = Columns::new(&mut b);
    let line = if size > 1 || stride > 1 { ow } else { 1 };
    let [m_range, n_range] = ranges(&mut b, [m, co], steps, width, line);
    let taps = if size > 1 { vec![(0.into(), size.into()), (0.into(), size.into())] } else { vec![] };
    let shape =
        ContractShape { m: m_range, n: n_range, taps, k: (0.into(), ci.into()), acc_dtype: DType::I32 };
    b.contract(
        shape,
        |b, m, taps, k| {
            if size == 1 && stride == 1 {
                return b.load(x, m.clone() * ci + k);
            }
            let (row, column) = (m.clone().floor_div(ow) * stride, m.clone().modulo(ow) * stride);
            let [ky, kx] = taps else { return b.load(x, (row * w + column) * ci + k) };
            let (row, column) = (row + ky.clone() - pad, column + kx.clone() - pad);
            let index = (row.clone() * w + column.clone()) * ci + k;
            b.load_guarded(x, index, vec![Bound::below(row, h), Bound::below(column, w)], 3.0)
        },
        RhsBuilder::Quads { buffer: wt, base: 0.into(), width: width as u32 },
        |b, m, n, sum| {
            let v = columns.requantized(b, sum, n);
            b.store(out, m.clone() * co + n, v);
        },
    );
    let panels = (co + width - 1) / width * width * steps * STEP;
    Ok(Case {
        name: format!("int8 conv {size}x{size}/{stride} {h}x{w}x{ci}->{co}"),
        kernel: b.finish()?,
        lengths: vec![h * w * ci, panels, m * co, co, co, co],
        flops: 2.0 * (m * co * size * size * ci) as f64,
        products: Products::Bytes,
    })
}
