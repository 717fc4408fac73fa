//! A loaded program: checked, its code executable, its constants in place. Sessions share it.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use kiln_ir::Bytes;

use crate::abi::{ABI_VERSION, KernelFn};
use crate::artifact::{self, Parts};
use crate::cpu;
use crate::error::{LoadError, Origin};
use crate::host::HostGraphs;
use crate::image::Image;
use crate::map::CodeMemory;
use crate::memory::AlignedBuf;
use crate::prepare::{Prepared, prepare, symbols};
use crate::program::{Entry, Function, FunctionId, KernelId, Program};
use crate::symbols::SymbolIndex;
use crate::validate;

/// A program that can run on this machine.
pub struct Executable {
    origin: Origin,
    program: Program,
    code: CodeMemory,
    constants: Vec<Bytes>,
    symbols: SymbolIndex,
    prepared: Vec<Prepared>,
    host: HostGraphs,
}

impl fmt::Debug for Executable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Executable").field("origin", &self.origin).finish_non_exhaustive()
    }
}

impl Executable {
    /// Opens the artifact at `path`: maps it, verifies every section and checks the plan.
    pub fn open(path: &Path) -> Result<Self, LoadError> {
        Executable::from_parts(artifact::open(path)?)
    }

    /// Makes a compiler's output executable. Constants are shared, not copied.
    pub fn from_image(image: Image) -> Result<Self, LoadError> {
        let origin = Origin::Memory;
        let code = CodeMemory::from_bytes(&image.code)
            .map_err(|source| LoadError::Code { origin: origin.clone(), source })?;
        let constants = image.constants.into_iter().map(|c| c.into_bytes()).collect();
        Executable::from_parts(Parts { origin, program: image.program, code, constants })
    }

    fn from_parts(parts: Parts) -> Result<Self, LoadError> {
        let Parts { origin, program, code, constants } = parts;
        check_machine(&origin, &program)?;
        validate::check(&program, code.bytes().len() as u64, &constants).map_err(|fault| {
            LoadError::Plan { origin: origin.clone(), place: fault.place, what: fault.what }
        })?;
        let host = HostGraphs::parse(&program).map_err(|fault| LoadError::Plan {
            origin: origin.clone(),
            place: fault.place,
            what: fault.what,
        })?;
        let constants = aligned(&program, constants)
            .map_err(|source| LoadError::Memory { origin: origin.clone(), source })?;
        let symbols = symbols(&program);
        let prepared = program.functions.iter().map(|f| prepare(f, &symbols)).collect();
        Ok(Executable { origin, program, code, constants, symbols, prepared, host })
    }

    /// Where the program came from.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The plan.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Machine code of all kernels.
    pub fn code(&self) -> &[u8] {
        self.code.bytes()
    }

    /// Data of the constants, one by one.
    pub fn constants(&self) -> &[Bytes] {
        &self.constants
    }

    /// The entry that callers mean when they name none: the only one, or the first.
    pub fn default_entry(&self) -> Option<&Entry> {
        self.program.entries.first()
    }

    pub(crate) fn symbols(&self) -> &SymbolIndex {
        &self.symbols
    }

    pub(crate) fn host(&self) -> &HostGraphs {
        &self.host
    }

    pub(crate) fn function(&self, id: FunctionId) -> Option<(&Function, &Prepared)> {
        Some((self.program.functions.get(id.index())?, self.prepared.get(id.index())?))
    }

    /// Largest scratch area that a kernel needs, in bytes.
    pub(crate) fn scratch_bytes(&self) -> u64 {
        self.program.kernels.iter().map(|k| k.scratch_bytes).max().unwrap_or(0)
    }

    /// The entry point of a kernel.
    pub(crate) fn kernel(&self, id: KernelId) -> Option<KernelFn> {
        let info = self.program.kernel(id)?;
        let code = self.code.bytes().get(usize::try_from(info.code_offset).ok()?..)?;
        // SAFETY: validation keeps the kernel's range inside the code, which is mapped executable for as long as
        // `self` lives. That the bytes are a kernel with this signature is the compiler's promise; the artifact's
        // checksum keeps it across storage.
        Some(unsafe { std::mem::transmute::<*const u8, KernelFn>(code.as_ptr()) })
    }
}

/// Whether the code is for this machine.
fn check_machine(origin: &Origin, program: &Program) -> Result<(), LoadError> {
    if program.kernels.is_empty() {
        return Ok(());
    }
    if program.abi_version != ABI_VERSION {
        let what = format!("kernel ABI {}, this runtime has {ABI_VERSION}", program.abi_version);
        return Err(LoadError::Plan { origin: origin.clone(), place: "program".to_owned(), what });
    }
    if program.target.arch != std::env::consts::ARCH {
        return Err(LoadError::Arch { origin: origin.clone(), needed: program.target.arch.clone() });
    }
    let needed = program.target.features.iter().chain(program.kernels.iter().flat_map(|k| &k.features));
    let mut missing: Vec<String> = needed.filter(|f| !cpu::has(f)).cloned().collect();
    missing.sort_unstable();
    missing.dedup();
    if missing.is_empty() { Ok(()) } else { Err(LoadError::Features { origin: origin.clone(), missing }) }
}

/// The constants with the alignment that kernels count on: shared where they have it, else copied.
fn aligned(program: &Program, constants: Vec<Bytes>) -> Result<Vec<Bytes>, crate::memory::MemoryError> {
    let align = |(bytes, constant): (Bytes, &crate::program::Constant)| {
        let alignment = element_alignment(constant.dtype);
        if bytes.as_slice().as_ptr().addr() % alignment == 0 {
            return Ok(bytes);
        }
        let copy = AlignedBuf::copy_of(bytes.as_slice())?;
        let len = copy.len();
        Ok(Bytes::shared(Arc::new(copy), 0..len).unwrap_or(bytes))
    };
    constants.into_iter().zip(&program.constants).map(align).collect()
}

/// Bytes to which a tensor's data must be aligned.
pub(crate) fn element_alignment(dtype: kiln_ir::DType) -> usize {
    (dtype.bits() / 8).clamp(1, 8)
}
