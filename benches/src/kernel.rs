//! Kernels in executable memory with their buffers.

use std::ops::Range;
use std::time::Instant;

use kiln_codegen::kir::Kernel;
use kiln_codegen::lower::clif::Compiler;
use kiln_codegen::lower::jit::JitKernel;
use kiln_ir::DType;
use kiln_runtime::memory::AlignedBuf;

use crate::Result;

/// What a kernel multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Products {
    /// `f32`.
    Floats,
    /// Bytes, with sums of 32 bits.
    Bytes,
}

/// A kernel, the lengths of its buffers in elements, and its work.
pub struct Case {
    /// Says what it computes.
    pub name: String,
    /// The kernel; its sizes are constants.
    pub kernel: Kernel,
    /// Elements of its buffers, in order.
    pub lengths: Vec<i64>,
    /// Arithmetic operations of its contraction.
    pub flops: f64,
    /// What it multiplies.
    pub products: Products,
}

/// A case that can run.
pub struct Ready {
    jit: JitKernel,
    buffers: Vec<AlignedBuf>,
    scratch: AlignedBuf,
    /// Grid points of the kernel.
    pub points: u64,
}

impl Ready {
    /// Compiles the kernel and fills its buffers with numbers in [-1, 1], or any integers.
    pub fn new(compiler: &Compiler, case: &Case) -> Result<Ready> {
        let jit = JitKernel::new(compiler.compile(&case.kernel)?)?;
        let mut buffers = vec![];
        for (id, &len) in case.kernel.params().zip(&case.lengths) {
            let dtype = case.kernel.buffers[id.index()].dtype;
            let size = dtype.bits() / 8;
            let mut buffer = AlignedBuf::zeroed(size as u64 * len as u64)?;
            for (i, element) in buffer.bytes_mut().chunks_exact_mut(size).enumerate() {
                match dtype {
                    DType::F32 => element.copy_from_slice(&number(i).to_le_bytes()),
                    _ => element[0] = (i * 7919 % 251) as u8,
                }
            }
            buffers.push(buffer);
        }
        let scratch = jit.scratch(&[])?;
        Ok(Ready { jit, buffers, scratch, points: case.kernel.grid_points().eval_dims(&[]) as u64 })
    }

    /// Computes grid points.
    pub fn run(&self, points: Range<u64>) {
        let pointers: Vec<*mut u8> = self.buffers.iter().map(AlignedBuf::as_ptr).collect();
        // SAFETY: the buffers have the lengths that the case gives for its kernel.
        unsafe { self.jit.call(&pointers, &[], &self.scratch, points) }
    }

    /// Best time of a run in seconds: the sum of the best times of its grid points, of which `best` keeps those of
    /// earlier calls, over about a quarter of a second. Pieces of less than a millisecond find quiet moments on a shared
    /// machine, whole runs may not.
    pub fn best_of_points(&self, best: &mut Vec<f64>) -> f64 {
        best.resize(self.points as usize, f64::INFINITY);
        let begin = Instant::now();
        while begin.elapsed().as_secs_f64() < 0.25 {
            for (point, best) in (0u64..).zip(best.iter_mut()) {
                let start = Instant::now();
                self.run(point..point + 1);
                *best = best.min(start.elapsed().as_secs_f64());
            }
        }
        best.iter().sum()
    }
}

/// The element at `i` of a buffer with numbers in [-1, 1].
pub fn number(i: usize) -> f32 {
    (i * 7919 % 17) as f32 / 8.0 - 1.0
}
