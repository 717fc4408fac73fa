//! Contractions and convolutions, as shares of the FMA peak of this machine's widest vectors.
//!
//! The peak and the kernels are measured in turns, so that a busy neighbour slows both; each figure is the best of many
//! short runs. `cargo bench -p kiln-benches --bench contract`; `KILN_TIER=x86-64-v3` takes another tier,
//! `KILN_PORTABLE=1` its 128-bit code, `KILN_CASE=conv` the cases with such names.

use std::time::Instant;

use criterion::{Criterion, Throughput};
use kiln_codegen::kir::builder::{ContractShape, RhsBuilder};
use kiln_codegen::kir::{Bound, BufferId, Ix, Kernel, KernelBuilder};
use kiln_codegen::lower::clif::Compiler;
use kiln_codegen::lower::jit::JitKernel;
use kiln_codegen::schedule::{Blocks, contract_blocks, panel_width};
use kiln_ir::{DType, Prim};
use kiln_runtime::cpu::Tier;
use kiln_runtime::memory::AlignedBuf;
use kiln_runtime::peak::{VectorWidth, fma_gflops};

const F32: DType = DType::F32;

/// A kernel, the lengths of its buffers in elements, and its work.
struct Case {
    name: String,
    kernel: Kernel,
    lengths: Vec<i64>,
    flops: f64,
}

/// The grid over blocks of columns and of rows, as ranges of a contraction.
fn ranges(b: &mut KernelBuilder, [m, n]: [i64; 2], depth: i64, width: i64, line: i64) -> [(Ix, Ix); 2] {
    let Blocks { rows, columns } = contract_blocks([Some(m), Some(n)], depth, width, line);
    let column = b.grid((n + columns - 1) / columns) * columns;
    let row = b.grid((m + rows - 1) / rows) * rows;
    let left = |total: i64, begin: &Ix, most: i64| (Ix::Const(total) - begin.clone()).min(most);
    [(row.clone(), left(m, &row, rows)), (column.clone(), left(n, &column, columns))]
}

/// `out[m][n] = relu(a[m][k] w[k][n] + bias[n])`.
fn gemm(m: i64, n: i64, k: i64, width: i64) -> Case {
    let mut b = KernelBuilder::new("gemm");
    let (x, w, bias, out) = (b.input(F32), b.weights(F32), b.weights(F32), b.output(F32));
    let [rows, columns] = ranges(&mut b, [m, n], k, width, 1);
    let shape = ContractShape { m: rows, n: columns, taps: vec![], k: (0.into(), k.into()), acc_dtype: F32 };
    b.contract(
        shape,
        |b, row, _, kk| b.load(x, row.clone() * k + kk),
        RhsBuilder::Packed { buffer: w, base: 0.into(), width: width as u32 },
        |b, row, column, sum| bias_relu(b, bias, column, sum, out, row.clone() * n + column),
    );
    Case {
        name: format!("gemm {m}x{n}x{k}"),
        kernel: b.finish().expect("the bench's kernel is well-formed"),
        lengths: vec![m * k, (n + width - 1) / width * width * k, n, m * n],
        flops: 2.0 * (m * n * k) as f64,
    }
}

fn bias_relu(
    b: &mut KernelBuilder,
    bias: BufferId,
    column: &Ix,
    sum: kiln_codegen::kir::Val,
    out: BufferId,
    at: Ix,
) {
    let c = b.load(bias, column.clone());
    let v = b.apply(Prim::Add, &[sum, c]);
    let zero = b.literal(F32, 0.0);
    let v = b.apply(Prim::Max, &[v, zero]);
    b.store(out, at, v);
}

/// `count` products `a[m][k] b[n][k]` of operands that are both computed at run time (attention scores).
fn batched(count: i64, m: i64, n: i64, k: i64) -> Case {
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
    Case {
        name: format!("{count} x {m}x{n}x{k}, both strided"),
        kernel: b.finish().expect("the bench's kernel is well-formed"),
        lengths: vec![m * stride, n * stride, count * m * n],
        flops: 2.0 * (count * m * n * k) as f64,
    }
}

/// A channels-last convolution `[h, w, ci] -> [h / stride, w / stride, co]`, square kernel, zero padding.
fn conv([h, w]: [i64; 2], [ci, co]: [i64; 2], size: i64, stride: i64, width: i64) -> Case {
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
        |b, m, n, sum| bias_relu(b, bias, n, sum, out, m.clone() * co + n),
    );
    Case {
        name: format!("conv {size}x{size}/{stride} {h}x{w}x{ci}->{co}"),
        kernel: b.finish().expect("the bench's kernel is well-formed"),
        lengths: vec![h * w * ci, (co + width - 1) / width * width * depth, co, m * co],
        flops: 2.0 * (m * co * depth) as f64,
    }
}

fn cases(lanes: u32) -> Vec<Case> {
    let width = |n: i64| i64::from(panel_width(n, lanes));
    vec![
        gemm(256, 768, 768, width(768)),
        gemm(128, 768, 3072, width(768)),
        gemm(128, 3072, 768, width(3072)),
        gemm(1, 1000, 2048, width(1000)),
        batched(12, 128, 128, 64),
        conv([56, 56], [64, 64], 3, 1, width(64)),
        conv([56, 56], [64, 256], 1, 1, width(256)),
        conv([56, 56], [256, 64], 1, 1, width(64)),
        conv([14, 14], [256, 256], 3, 1, width(256)),
        conv([7, 7], [512, 512], 3, 1, width(512)),
        conv([224, 224], [3, 64], 7, 2, width(64)),
        conv([112, 112], [16, 64], 1, 1, width(64)),
    ]
}

struct Ready {
    jit: JitKernel,
    buffers: Vec<AlignedBuf>,
    scratch: AlignedBuf,
    points: u64,
}

impl Ready {
    fn new(compiler: &Compiler, case: &Case) -> Result<Ready, Box<dyn std::error::Error>> {
        let jit = JitKernel::new(compiler.compile(&case.kernel)?)?;
        let mut buffers = vec![];
        for &len in &case.lengths {
            let mut buffer = AlignedBuf::zeroed(4 * len as u64)?;
            for (i, element) in buffer.bytes_mut().chunks_exact_mut(4).enumerate() {
                element.copy_from_slice(&((i * 7919 % 17) as f32 / 8.0 - 1.0).to_le_bytes());
            }
            buffers.push(buffer);
        }
        let scratch = jit.scratch(&[])?;
        Ok(Ready { jit, buffers, scratch, points: case.kernel.grid_points().eval_dims(&[]) as u64 })
    }

    fn run(&self, points: std::ops::Range<u64>) {
        let pointers: Vec<*mut u8> = self.buffers.iter().map(AlignedBuf::as_ptr).collect();
        // SAFETY: the buffers have the lengths that the case gives for its kernel.
        unsafe { self.jit.call(&pointers, &[], &self.scratch, points) }
    }
}

/// Best time of a run in seconds: the sum of the best times of its grid points over about half a second. Pieces of less
/// than a millisecond find quiet moments on a shared machine, whole runs may not.
fn best(ready: &Ready, best: &mut [f64]) -> f64 {
    let begin = Instant::now();
    while begin.elapsed().as_secs_f64() < 0.5 {
        for (point, best) in (0u64..).zip(best.iter_mut()) {
            let start = Instant::now();
            ready.run(point..point + 1);
            *best = best.min(start.elapsed().as_secs_f64());
        }
    }
    best.iter().sum()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let wanted = std::env::var("KILN_TIER").ok().and_then(|name| Tier::from_name(&name));
    let Some(tier) = wanted.or_else(Tier::native).filter(|t| t.is_supported()) else {
        println!("no tier with code runs here");
        return Ok(());
    };
    let portable = std::env::var_os("KILN_PORTABLE").is_some();
    let (lanes, peak_width) = match tier {
        _ if portable => (4, VectorWidth::W128),
        Tier::X86V4 => (16, VectorWidth::W512),
        Tier::X86V3 => (8, VectorWidth::W256),
        Tier::X86V1 | Tier::X86V2 | Tier::Aarch64 => (4, VectorWidth::W128),
    };
    let compiler = if portable { Compiler::portable(tier)? } else { Compiler::new(tier)? };
    let mut criterion = Criterion::default().configure_from_args().sample_size(10);
    let mut shares = vec![];
    let only = std::env::var("KILN_CASE").unwrap_or_default();
    for case in cases(lanes).into_iter().filter(|case| case.name.contains(&only)) {
        let ready = Ready::new(&compiler, &case)?;
        let (mut peak, mut seconds) = (0.0f64, f64::MAX);
        let mut points = vec![f64::MAX; ready.points as usize];
        for _ in 0..4 {
            peak = peak.max(fma_gflops(peak_width).unwrap_or(f64::NAN));
            seconds = seconds.min(best(&ready, &mut points));
        }
        shares.push((case.name.clone(), case.flops / seconds / 1e9, peak));
        let mut group = criterion.benchmark_group("contract");
        group.throughput(Throughput::Elements(case.flops as u64));
        group.bench_function(&case.name, |b| b.iter(|| ready.run(0..ready.points)));
        group.finish();
    }
    println!("{:<40} {:>9} {:>9} {:>6}", "best of all runs", "GFLOP/s", "peak", "share");
    for (name, gflops, peak) in shares {
        println!("{name:<40} {gflops:>9.1} {peak:>9.1} {:>5.1}%", 100.0 * gflops / peak);
    }
    criterion.final_summary();
    Ok(())
}
