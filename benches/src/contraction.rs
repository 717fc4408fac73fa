//! Contractions and convolutions as kernel IR, and their shares of the peak: of fused multiply-adds, for bytes of dot
//! products.

use criterion::{Criterion, Throughput};
use kiln_codegen::kir::builder::{ContractShape, RhsBuilder};
use kiln_codegen::kir::{Bound, BufferId, Ix, KernelBuilder, Val};
use kiln_codegen::schedule::{Blocks, contract_blocks};
use kiln_ir::{DType, Prim};

use crate::Result;
use crate::kernel::{Case, Products, Ready};
use crate::machine::{Machine, is_wanted};
use crate::rotate::{ROUNDS, turn};
use crate::table::Table;

const F32: DType = DType::F32;

/// What follows a contraction, after a bias for each column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Epilogue {
    /// `max(x, 0)`.
    Relu,
    /// `0.5 x (1 + erf(x / sqrt(2)))`.
    Gelu,
}

impl Epilogue {
    fn name(self) -> &'static str {
        match self {
            Epilogue::Relu => "relu",
            Epilogue::Gelu => "gelu",
        }
    }

    fn apply(self, b: &mut KernelBuilder, x: Val) -> Val {
        match self {
            Epilogue::Relu => {
                let zero = b.literal(F32, 0.0);
                b.apply(Prim::Max, &[x, zero])
            }
            Epilogue::Gelu => {
                let (half, one) = (b.literal(F32, 0.5), b.literal(F32, 1.0));
                let scale = b.literal(F32, std::f64::consts::FRAC_1_SQRT_2);
                let inner = b.apply(Prim::Mul, &[x, scale]);
                let erf = b.apply(Prim::Erf, &[inner]);
                let (sum, halved) = (b.apply(Prim::Add, &[one, erf]), b.apply(Prim::Mul, &[half, x]));
                b.apply(Prim::Mul, &[halved, sum])
            }
        }
    }
}

/// The grid over blocks of columns and of rows, as ranges of a contraction.
pub(crate) fn ranges(
    b: &mut KernelBuilder,
    [m, n]: [i64; 2],
    depth: i64,
    width: i64,
    line: i64,
) -> [(Ix, Ix); 2] {
    let Blocks { rows, columns, by_rows } = contract_blocks([Some(m), Some(n)], depth, width, line);
    let mut blocks = |total: i64, block: i64| b.grid((total + block - 1) / block) * block;
    let (row, column) = if by_rows {
        let row = blocks(m, rows);
        (row, blocks(n, columns))
    } else {
        let column = blocks(n, columns);
        (blocks(m, rows), column)
    };
    let left = |total: i64, begin: &Ix, most: i64| (Ix::Const(total) - begin.clone()).min(most);
    [(row.clone(), left(m, &row, rows)), (column.clone(), left(n, &column, columns))]
}

/// `out[m][n] = epilogue(a[m][k] w[k][n] + bias[n])`, the weights in panels of `width` columns.
pub fn gemm([m, n, k]: [i64; 3], epilogue: Epilogue, width: i64) -> Result<Case> {
    let mut b = KernelBuilder::new("gemm");
    let (x, w, bias, out) = (b.input(F32), b.weights(F32), b.weights(F32), b.output(F32));
    let [rows, columns] = ranges(&mut b, [m, n], k, width, 1);
    let shape = ContractShape { m: rows, n: columns, taps: vec![], k: (0.into(), k.into()), acc_dtype: F32 };
    b.contract(
        shape,
        |b, row, _, kk| b.load(x, row.clone() * k + kk),
        RhsBuilder::Packed { buffer: w, base: 0.into(), width: width as u32 },
        |b, row, column, sum| biased(b, bias, column, sum, epilogue, out, row.clone() * n + column),
    );
    Ok(Case {
        name: format!("gemm {m}x{n}x{k} {}", epilogue.name()),
        kernel: b.finish()?,
        lengths: vec![m * k, (n + width - 1) / width * width * k, n, m * n],
        flops: 2.0 * (m * n * k) as f64,
        products: Products::Floats,
    })
}

fn biased(
    b: &mut KernelBuilder,
    bias: BufferId,
    column: &Ix,
    sum: Val,
    epilogue: Epilogue,
    out: BufferId,
    at: Ix,
) {
    let c = b.load(bias, column.clone());
    let sum = b.apply(Prim::Add, &[sum, c]);
    let v = epilogue.apply(b, sum);
    b.store(out, at, v);
}

/// `count` products `a[m][k] b[n][k]` of operands that are both computed at run time (attention scores).
pub fn batched(count: i64, [m, n, k]: [i64; 3]) -> Result<Case> {
    let mut b = KernelBuilder::new("batched");
    let (x, y, out) = (b.input(F32), b.input(F32), b.output(F32));
    let batch = b.grid(count);
    // Heads side by side: rows are `count * k` apart.
    let stride = count * k;
    let base = batch.clone() * k;
    let full = |n: i64| (Ix::Const(0), Ix::Const(n));
    let shape = ContractShape { m: full(m), n: full(n), taps: vec![], k: full(k), acc_dtype: F32 };
    let mut keys = |b: &mut KernelBuilder, column: &Ix, _: &[Ix], kk: &Ix| {
        b.load(y, base.clone() + column.clone() * stride + kk)
    };
    b.contract(
        shape,
        |b, row, _, kk| b.load(x, base.clone() + row.clone() * stride + kk),
        RhsBuilder::Strided(&mut keys),
        |b, row, column, sum| b.store(out, (batch.clone() * m + row) * n + column, sum),
    );
    Ok(Case {
        name: format!("{count} x {m}x{n}x{k}, both strided"),
        kernel: b.finish()?,
        lengths: vec![m * stride, n * stride, count * m * n],
        flops: 2.0 * (count * m * n * k) as f64,
        products: Products::Floats,
    })
}

/// A channels-last convolution `[h, w, ci] -> [h / stride, w / stride, co]` with bias and ReLU, square kernel, zero
/// padding.
pub fn conv([h, w]: [i64; 2], [ci, co]: [i64; 2], size: i64, stride: i64, width: i64) -> Result<Case> {
    let pad = (size - 1) / 2;
    let (oh, ow) = ((h + 2 * pad - size) / stride + 1, (w + 2 * pad - size) / stride + 1);
    let (m, depth) = (oh * ow, size * size * ci);
    let mut b = KernelBuilder::new("conv");
    let (x, wt, bias, out) = (b.input(F32), b.weights(F32), b.weights(F32), b.output(F32));
    let [rows, columns] = ranges(&mut b, [m, co], depth, width, if size > 1 || stride > 1 { ow } else { 1 });
    let taps = if size > 1 { vec![(0.into(), size.into()), (0.into(), size.into())] } else { vec![] };
    let shape = ContractShape { m: rows, n: columns, taps, k: (0.into(), ci.into()), acc_dtype: F32 };
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
            b.load_guarded(x, index, vec![Bound::below(row, h), Bound::below(column, w)], 0.0)
        },
        RhsBuilder::Packed { buffer: wt, base: 0.into(), width: width as u32 },
        |b, m, n, sum| biased(b, bias, n, sum, Epilogue::Relu, out, m.clone() * co + n),
    );
    Ok(Case {
        name: format!("conv {size}x{size}/{stride} {h}x{w}x{ci}->{co}"),
        kernel: b.finish()?,
        lengths: vec![h * w * ci, (co + width - 1) / width * width * depth, co, m * co],
        flops: 2.0 * (m * co * depth) as f64,
        products: Products::Floats,
    })
}

/// Another implementation of a case's contraction.
pub struct Peer {
    /// Its name.
    pub name: &'static str,
    /// One run.
    pub run: Box<dyn FnMut()>,
}

/// Times the wanted cases, with criterion as `group` and in turns with the peak and with peers; prints the shares. Those
/// of peers are of whole runs, and compare with that of Kiln's whole run beside them.
pub fn bench(machine: Machine, group: &str, cases: Vec<(Case, Vec<Peer>)>) -> Result<()> {
    let compiler = machine.compiler()?;
    let mut criterion = crate::machine::criterion();
    let mut names: Vec<&str> =
        cases.iter().flat_map(|(_, peers)| peers.iter().map(|peer| peer.name)).collect();
    names.sort_unstable();
    names.dedup();
    let mut heading = vec!["best of grid points", "GFLOP/s", "peak", "share"];
    if !names.is_empty() {
        heading.push("best whole run");
        heading.extend(&names);
    }
    let mut table = Table::new(&heading);
    for (case, mut peers) in cases.into_iter().filter(|(case, _)| is_wanted(&case.name)) {
        let ready = Ready::new(&compiler, &case)?;
        let (mut peak, mut own, mut points) = (0.0f64, f64::INFINITY, vec![]);
        let (mut whole, mut best) = (f64::INFINITY, vec![f64::INFINITY; peers.len()]);
        for _ in 0..ROUNDS {
            peak = peak.max(machine.peak_of(case.products));
            own = own.min(ready.best_of_points(&mut points));
            if !peers.is_empty() {
                whole = whole.min(turn(&mut || ready.run(0..ready.points)));
            }
            for (peer, best) in peers.iter_mut().zip(&mut best) {
                *best = best.min(turn(&mut *peer.run));
            }
        }
        let share = |seconds: f64| format!("{:.1}%", 100.0 * case.flops / seconds / 1e9 / peak);
        let gflops = format!("{:.1}", case.flops / own / 1e9);
        let mut row = vec![case.name.clone(), gflops, format!("{peak:.1}"), share(own)];
        if !peers.is_empty() {
            row.push(share(whole));
        }
        // Of one order in all rows that have peers.
        for name in names.iter().filter(|_| !peers.is_empty()) {
            let at = peers.iter().position(|peer| peer.name == *name);
            row.push(at.map_or("-".to_owned(), |at| share(best[at])));
        }
        table.row(row);
        statistics(&mut criterion, group, &case, &ready);
    }
    table.print();
    criterion.final_summary();
    Ok(())
}

fn statistics(criterion: &mut Criterion, group: &str, case: &Case, ready: &Ready) {
    let mut group = criterion.benchmark_group(group);
    group.throughput(Throughput::Elements(case.flops as u64));
    group.bench_function(&case.name, |b| b.iter(|| ready.run(0..ready.points)));
    group.finish();
}
