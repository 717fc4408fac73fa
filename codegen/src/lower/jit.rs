//! Runs a compiled kernel in this process: for tests, benches and tuning.

use std::io;

use kiln_runtime::abi::{HELPER_TABLE, KernelArgs, KernelFn};
use kiln_runtime::cpu;
use kiln_runtime::map::CodeMemory;
use kiln_runtime::memory::{AlignedBuf, MemoryError};

use super::clif::CompiledKernel;

/// Why a kernel cannot run here.
#[derive(Debug, thiserror::Error)]
pub enum JitError {
    /// The machine lacks a feature.
    #[error("the machine lacks the CPU feature `{0}`")]
    Feature(&'static str),
    /// The code could not be mapped.
    #[error("cannot map code: {0}")]
    Map(#[from] io::Error),
    /// There is no memory for scratch.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

/// A kernel with its code in executable memory.
#[derive(Debug)]
pub struct JitKernel {
    code: CodeMemory,
    compiled: CompiledKernel,
}

impl JitKernel {
    /// Maps the code.
    pub fn new(compiled: CompiledKernel) -> Result<JitKernel, JitError> {
        if let Some(missing) = compiled.features.iter().copied().find(|f| !cpu::has(f)) {
            return Err(JitError::Feature(missing));
        }
        Ok(JitKernel { code: CodeMemory::from_bytes(&compiled.code)?, compiled })
    }

    /// Scratch memory for calls with these dims.
    pub fn scratch(&self, dims: &[i64]) -> Result<AlignedBuf, MemoryError> {
        AlignedBuf::zeroed(self.compiled.scratch_bytes.eval_dims(dims).max(0) as u64)
    }

    /// Computes the grid points `chunk`.
    ///
    /// # Safety
    /// `buffers` are the kernel's parameters in order, valid for every index that the kernel computes with `dims` and
    /// the chunk, each followed by [`kiln_runtime::abi::SLACK`] readable bytes; `scratch` comes from
    /// [`JitKernel::scratch`] for the same dims and is used by nobody else meanwhile.
    pub unsafe fn call(
        &self,
        buffers: &[*mut u8],
        dims: &[i64],
        scratch: &AlignedBuf,
        chunk: std::ops::Range<u64>,
    ) {
        let args = KernelArgs {
            buffers: buffers.as_ptr(),
            dims: dims.as_ptr(),
            helpers: &raw const HELPER_TABLE,
            scratch: scratch.as_ptr(),
            chunk_begin: chunk.start,
            chunk_end: chunk.end,
        };
        // SAFETY: the bytes are a function of this type, compiled for features that `new` has checked.
        let function: KernelFn = unsafe { std::mem::transmute(self.code.bytes().as_ptr()) };
        // SAFETY: the caller answers for the buffers; the other fields are valid by construction.
        unsafe { function(&args) }
    }
}
