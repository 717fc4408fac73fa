//! Kernels and constants of a program, each stored once.

use std::sync::atomic::{AtomicUsize, Ordering};

use kiln_ir::{Bytes, DType, Tensor};
use kiln_runtime::image::ConstantData;
use kiln_runtime::program::{Constant, ConstantId, KernelId, KernelInfo};
use rustc_hash::FxHashMap;

use super::trace::Refusal;
use crate::kir::Kernel;

/// Machine code of one kernel.
#[derive(Clone, Debug)]
pub struct MachineCode {
    /// Position-independent code; entry at offset 0.
    pub code: Vec<u8>,
    /// Alignment of the first byte.
    pub align: usize,
    /// CPU features that it needs.
    pub features: Vec<String>,
    /// Scratch bytes of a call.
    pub scratch_bytes: u64,
    /// The code in assembler syntax; empty unless it was asked for.
    pub listing: String,
}

/// Makes machine code of a kernel, or says why not. Called from several threads.
pub type LowerKernel<'a> = dyn Fn(&Kernel) -> Result<MachineCode, Refusal> + Sync + 'a;

/// Kernels that the lowering refused, by their text without the name.
pub type Refused = FxHashMap<String, Refusal>;

/// The kernels so far.
#[derive(Debug, Default)]
pub struct KernelTable {
    kernels: Vec<Kernel>,
    keys: Vec<String>,
    ids: FxHashMap<String, KernelId>,
    refused: Refused,
}

/// The kernels of a program as code.
#[derive(Debug, Default)]
pub struct CodeImage {
    /// Records, in order.
    pub infos: Vec<KernelInfo>,
    /// Code bytes.
    pub code: Vec<u8>,
    /// Text of every kernel, in order.
    pub texts: Vec<String>,
    /// Listing of every kernel's machine code, in order.
    pub listings: Vec<String>,
}

/// Code offsets are multiples of this: a cache line.
const CODE_ALIGN: usize = 64;

impl KernelTable {
    /// An empty table that takes no kernel in `refused`.
    pub fn new(refused: Refused) -> Self {
        KernelTable { refused, ..KernelTable::default() }
    }

    /// The kernel of that id.
    pub fn get(&self, id: KernelId) -> Option<&Kernel> {
        self.kernels.get(id.index())
    }

    /// The kernel's id; kernels that differ in name only are one.
    pub fn intern(&mut self, kernel: &Kernel) -> Result<KernelId, Refusal> {
        let mut anonymous = kernel.clone();
        anonymous.name = String::new();
        let key = anonymous.to_string();
        if let Some(refusal) = self.refused.get(&key) {
            return Err(refusal.clone());
        }
        if let Some(&id) = self.ids.get(&key) {
            return Ok(id);
        }
        let id = KernelId(self.kernels.len() as u32);
        self.kernels.push(kernel.clone());
        self.keys.push(key.clone());
        self.ids.insert(key, id);
        Ok(id)
    }

    /// Lowers every kernel, several at a time; on failure the refused ones, those of before included.
    pub fn lower(self, lower: &LowerKernel<'_>) -> Result<CodeImage, Refused> {
        let results = lower_all(&self.kernels, lower);
        let mut refused = self.refused;
        let mut image = CodeImage::default();
        let before = refused.len();
        for ((kernel, key), result) in self.kernels.iter().zip(self.keys).zip(results) {
            match result {
                Ok(code) => image.push(kernel, code),
                Err(refusal) => {
                    tracing::debug!(kernel = kernel.name, reason = %refusal.0, "kernel is not lowered");
                    refused.insert(key, refusal);
                }
            }
        }
        if refused.len() == before { Ok(image) } else { Err(refused) }
    }
}

/// Machine code of the kernels, in their order.
fn lower_all(kernels: &[Kernel], lower: &LowerKernel<'_>) -> Vec<Result<MachineCode, Refusal>> {
    let workers = std::thread::available_parallelism().map_or(1, |n| n.get()).min(kernels.len());
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = vec![];
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let Some(kernel) = kernels.get(i) else { return done };
            done.push((i, lower(kernel)));
        }
    };
    let mut results: Vec<(usize, Result<MachineCode, Refusal>)> = std::thread::scope(|scope| {
        let others: Vec<_> = (1..workers).map(|_| scope.spawn(work)).collect();
        let mut all = work();
        // A worker that panicked leaves its kernels out; they are found missing below.
        all.extend(others.into_iter().flat_map(|w| w.join().unwrap_or_default()));
        all
    });
    results.sort_by_key(|r| r.0);
    let mut results = results.into_iter().peekable();
    let lost = || Err(Refusal::new("the code generator failed"));
    (0..kernels.len())
        .map(|i| results.next_if(|r| r.0 == i).map_or_else(lost, |(_, result)| result))
        .collect()
}

impl CodeImage {
    fn push(&mut self, kernel: &Kernel, machine: MachineCode) {
        let align = machine.align.max(CODE_ALIGN);
        self.code.resize(self.code.len().next_multiple_of(align), 0);
        let offset = self.code.len();
        self.code.extend_from_slice(&machine.code);
        self.infos.push(KernelInfo {
            name: kernel.name.clone(),
            code_offset: offset as u64,
            code_len: machine.code.len() as u64,
            scratch_bytes: machine.scratch_bytes,
            buffers: u32::try_from(kernel.params().count()).unwrap_or(u32::MAX),
            dims: kernel.dims,
            features: machine.features,
        });
        self.texts.push(kernel.to_string());
        self.listings.push(machine.listing);
    }
}

/// The constants so far.
#[derive(Debug, Default)]
pub struct ConstantTable {
    /// Records, in order.
    pub infos: Vec<Constant>,
    /// Data, in the same order.
    pub data: Vec<ConstantData>,
    ids: FxHashMap<Tensor, ConstantId>,
}

impl ConstantTable {
    /// The id of a tensor's data; equal tensors are one. `None` for strings.
    pub fn intern(&mut self, tensor: &Tensor, name: &str) -> Option<ConstantId> {
        if tensor.dtype() == DType::String {
            return None;
        }
        if let Some(&id) = self.ids.get(tensor) {
            return Some(id);
        }
        let bytes: Bytes = tensor.storage()?.clone();
        self.infos.push(Constant {
            name: name.to_owned(),
            dtype: tensor.dtype(),
            dims: tensor.dims().iter().map(|&d| d as u64).collect(),
        });
        self.data.push(ConstantData::from(bytes));
        let id = ConstantId(self.infos.len() as u32 - 1);
        self.ids.insert(tensor.clone(), id);
        Some(id)
    }
}
