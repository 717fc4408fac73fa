//! Kernels and constants of a program, each stored once.

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
}

/// Makes machine code of a kernel, or says why not.
pub type LowerKernel<'a> = dyn Fn(&Kernel) -> Result<MachineCode, Refusal> + 'a;

/// The kernels so far.
#[derive(Debug, Default)]
pub struct KernelTable {
    /// Records, in order.
    pub infos: Vec<KernelInfo>,
    /// Code bytes.
    pub code: Vec<u8>,
    /// Text of every kernel, in order.
    pub texts: Vec<String>,
    by_text: FxHashMap<String, Result<KernelId, Refusal>>,
}

/// Code offsets are multiples of this: a cache line.
const CODE_ALIGN: usize = 64;

impl KernelTable {
    /// The kernel's id; kernels that differ in name only are one.
    pub fn intern(&mut self, kernel: &Kernel, lower: &LowerKernel<'_>) -> Result<KernelId, Refusal> {
        let mut anonymous = kernel.clone();
        anonymous.name = String::new();
        let text = anonymous.to_string();
        if let Some(known) = self.by_text.get(&text) {
            return known.clone();
        }
        let result = lower(kernel).map(|code| self.push(kernel, code));
        self.by_text.insert(text, result.clone());
        result
    }

    fn push(&mut self, kernel: &Kernel, machine: MachineCode) -> KernelId {
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
        KernelId(self.infos.len() as u32 - 1)
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
