//! The portable lowering: kernel IR through Cranelift, with 128-bit vectors.
//!
//! Guarantees: the code is position-independent and has no relocations, so the same bytes serve the JIT and the
//! artifact; it calls out only through the helper table; the result does not depend on how the grid is split.
//! Cranelift's API stays inside this module.

mod contract;
mod emit;
mod loops;
mod math;
mod memory;
mod micro;
mod ops;
mod outline;
mod windows;

use std::sync::{Arc, Mutex, PoisonError};

use cranelift_codegen::binemit::Reloc;
use cranelift_codegen::control::ControlPlane;
use cranelift_codegen::ir::{AbiParam, ExternalName, Function, Signature, UserFuncName, types};
use cranelift_codegen::isa::{self, CallConv, TargetIsa};
use cranelift_codegen::settings::{self, Configurable};
use cranelift_codegen::{Context, FinalizedMachReloc, FinalizedRelocTarget};
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use kiln_runtime::cpu::Tier;
use rustc_hash::FxHashMap;

use emit::Callee;

use super::wide::{WideError, WideFunction, Width};
use crate::kir::{Ix, Kernel, VerifyError, verify};

/// Cranelift's names of the settings of a tier; `None` where this lowering has no code for it.
fn isa_flags(tier: Tier) -> Option<&'static [&'static str]> {
    const V3: &[&str] = &[
        "has_sse3",
        "has_ssse3",
        "has_sse41",
        "has_sse42",
        "has_popcnt",
        "has_cmpxchg16b",
        "has_avx",
        "has_avx2",
        "has_fma",
        "has_bmi1",
        "has_bmi2",
        "has_lzcnt",
    ];
    match tier {
        // Rounding to integers needs SSE4.1; without it Cranelift calls functions by name.
        Tier::X86V1 => None,
        Tier::X86V2 => Some(V3.split_at(6).0),
        Tier::X86V3 | Tier::X86V3Vnni | Tier::X86V4 | Tier::X86V4Vnni | Tier::X86V4Amx => Some(V3),
        Tier::Aarch64 => Some(&[]),
    }
}

/// Features that the code of a tier needs.
fn needed_features(tier: Tier) -> &'static [&'static str] {
    match tier {
        // The widest encodings of this lowering are AVX2's.
        Tier::X86V3Vnni | Tier::X86V4 | Tier::X86V4Vnni | Tier::X86V4Amx => Tier::X86V3.features(),
        other => other.features(),
    }
}

/// Whether fused multiply-adds are instructions of the tier.
fn has_fma(tier: Tier) -> bool {
    match tier {
        Tier::X86V3 | Tier::X86V3Vnni | Tier::X86V4 | Tier::X86V4Vnni | Tier::X86V4Amx | Tier::Aarch64 => {
            true
        }
        Tier::X86V1 | Tier::X86V2 => false,
    }
}

/// Why a kernel could not be lowered.
#[derive(Debug, thiserror::Error)]
pub enum LowerError {
    /// The kernel is malformed.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// The kernel asks for something that this lowering does not do.
    #[error("kernel `{kernel}`: the Cranelift lowering does not support {what}")]
    Unsupported {
        /// Name of the kernel.
        kernel: String,
        /// What is missing.
        what: String,
    },
    /// Cranelift refused.
    #[error("kernel `{kernel}`: Cranelift: {reason}")]
    Cranelift {
        /// Name of the kernel.
        kernel: String,
        /// Cranelift's message.
        reason: String,
    },
    /// A function with wide vectors could not be assembled.
    #[error("kernel `{kernel}`: {source}")]
    Wide {
        /// Name of the kernel.
        kernel: String,
        /// What the assembler says.
        source: WideError,
    },
    /// The target could not be set up.
    #[error("no code generator for {}: {reason}", tier.name())]
    Target {
        /// The tier.
        tier: Tier,
        /// Cranelift's message.
        reason: String,
    },
}

/// Machine code of a kernel.
#[derive(Clone, Debug)]
pub struct CompiledKernel {
    /// Code and its constant pool; entry at offset 0; no relocations.
    pub code: Vec<u8>,
    /// Required alignment of the first byte.
    pub align: u32,
    /// CPU features the code needs, without duplicates.
    pub features: Vec<&'static str>,
    /// Bytes of scratch a worker needs, an expression over constants and dims.
    pub scratch_bytes: Ix,
}

/// Compiles kernels for one tier. Shareable between threads.
#[derive(Clone)]
pub struct Compiler {
    tier: Tier,
    /// Width of the functions that do the innermost work, where it is not done by Cranelift's code.
    width: Option<Width>,
    isa: Arc<dyn TargetIsa>,
    /// The same machine without Cranelift's optimizer, which keeps instructions in the order they are emitted in.
    plain_isa: Arc<dyn TargetIsa>,
    /// Functions that kernels share, compiled so far: there are few shapes.
    callees: Arc<Mutex<FxHashMap<Callee, Compiled>>>,
}

/// One compiled function.
#[derive(Clone)]
struct Compiled {
    code: Arc<[u8]>,
    /// Offset of the first instruction.
    entry: usize,
    align: u32,
    /// Features beyond those of the portable lowering.
    features: Arc<[&'static str]>,
    listing: Arc<str>,
}

impl Compiled {
    fn wide(function: WideFunction, listing: bool) -> Compiled {
        Compiled {
            listing: if listing { function.listing().into() } else { Arc::default() },
            code: function.bytes,
            entry: function.entry,
            align: 64,
            features: function.features.into(),
        }
    }
}

impl Compiler {
    /// A compiler for the tier.
    pub fn new(tier: Tier) -> Result<Compiler, LowerError> {
        Ok(Compiler {
            tier,
            width: Width::of(tier),
            isa: target(tier, "speed")?,
            plain_isa: target(tier, "none")?,
            callees: Arc::default(),
        })
    }

    /// A compiler for the tier that uses nothing but 128-bit vectors.
    pub fn portable(tier: Tier) -> Result<Compiler, LowerError> {
        Ok(Compiler { width: None, ..Compiler::new(tier)? })
    }

    /// The tier.
    pub fn tier(&self) -> Tier {
        self.tier
    }

    /// Machine code of the kernel.
    pub fn compile(&self, kernel: &Kernel) -> Result<CompiledKernel, LowerError> {
        self.compile_with(kernel, false).map(|(compiled, _)| compiled)
    }

    /// Machine code of the kernel and its listing: the kernel's own function in Cranelift's assembler syntax, then the
    /// functions that it calls as `userextname` 0, 1 and so on, those with wide vectors in Intel's syntax.
    pub fn disassemble(&self, kernel: &Kernel) -> Result<(CompiledKernel, String), LowerError> {
        self.compile_with(kernel, true)
    }

    fn compile_with(&self, kernel: &Kernel, listing: bool) -> Result<(CompiledKernel, String), LowerError> {
        verify(kernel)?;
        let mut signature = Signature::new(CallConv::SystemV);
        signature.params.push(AbiParam::new(types::I64));
        let mut context =
            Context::for_function(Function::with_name_signature(UserFuncName::default(), signature));
        let mut builder_context = FunctionBuilderContext::new();
        let builder = FunctionBuilder::new(&mut context.func, &mut builder_context);
        let machine = (self.tier, self.width);
        let (scratch_bytes, callees) = emit::emit(builder, kernel, machine, self.isa.frontend_config())?;
        let mut image =
            Image { kernel: &kernel.name, code: vec![], align: 16, calls: vec![], listing: String::new() };
        image.append(&mut context, &*self.isa, listing)?;
        let mut entries = vec![];
        let mut features = needed_features(self.tier).to_vec();
        for (index, callee) in callees.iter().enumerate() {
            let compiled = self.callee(&kernel.name, callee, listing)?;
            if listing {
                image.listing += &format!("userextname{index}:\n");
            }
            features.extend(compiled.features.iter().filter(|f| !features.contains(f)).collect::<Vec<_>>());
            entries.push(image.place(&compiled));
        }
        image.link(&entries)?;
        let result = CompiledKernel { code: image.code, align: image.align, features, scratch_bytes };
        Ok((result, image.listing))
    }

    /// A function that the kernel calls, compiled once.
    fn callee(&self, kernel: &str, callee: &Callee, listing: bool) -> Result<Compiled, LowerError> {
        let known = || self.callees.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(compiled) = known().get(callee).filter(|c| !listing || !c.listing.is_empty()) {
            return Ok(compiled.clone());
        }
        let compiled = match callee {
            Callee::Loop(function) => Compiled::wide(function.clone(), listing),
            Callee::Micro(micro) => self.micro(kernel, micro, listing)?,
            Callee::Tile(tile) => {
                let wide =
                    tile.emit().map_err(|source| LowerError::Wide { kernel: kernel.to_owned(), source });
                Compiled::wide(wide?, listing)
            }
        };
        known().insert(callee.clone(), compiled.clone());
        Ok(compiled)
    }

    /// A micro-kernel of the portable lowering.
    fn micro(&self, kernel: &str, micro: &micro::Micro, listing: bool) -> Result<Compiled, LowerError> {
        let function = Function::with_name_signature(UserFuncName::default(), micro::signature());
        let mut context = Context::for_function(function);
        let mut builder_context = FunctionBuilderContext::new();
        let builder = FunctionBuilder::new(&mut context.func, &mut builder_context);
        micro::emit(builder, micro, self.tier, self.plain_isa.frontend_config())?;
        let (compiled, relocs) = compile_function(kernel, &mut context, &*self.plain_isa, listing)?;
        if let Some(reloc) = relocs.first() {
            let reason = format!("a micro-kernel refers to something outside: {:?}", reloc.target);
            return Err(LowerError::Cranelift { kernel: kernel.to_owned(), reason });
        }
        Ok(compiled)
    }
}

/// Compiles a function.
fn compile_function(
    kernel: &str,
    context: &mut Context,
    isa: &dyn TargetIsa,
    listing: bool,
) -> Result<(Compiled, Vec<FinalizedMachReloc>), LowerError> {
    context.set_disasm(listing);
    let compiled = context
        .compile(isa, &mut ControlPlane::default())
        .map_err(|e| LowerError::Cranelift { kernel: kernel.to_owned(), reason: e.inner.to_string() })?;
    let relocs = compiled.buffer.relocs().to_vec();
    let function = Compiled {
        code: compiled.code_buffer().into(),
        entry: 0,
        align: compiled.buffer.alignment,
        features: Arc::default(),
        listing: compiled.vcode.as_deref().unwrap_or_default().into(),
    };
    Ok((function, relocs))
}

/// The machine of a tier with a Cranelift optimization level.
fn target(tier: Tier, opt_level: &str) -> Result<Arc<dyn TargetIsa>, LowerError> {
    let error = |reason: String| LowerError::Target { tier, reason };
    let Some(flags) = isa_flags(tier) else { return Err(error("needs SSE4.2 at least".to_owned())) };
    let mut shared = settings::builder();
    let options = [
        ("opt_level", opt_level),
        ("enable_probestack", "false"),
        ("unwind_info", "false"),
        ("enable_verifier", if cfg!(debug_assertions) { "true" } else { "false" }),
    ];
    for (name, value) in options {
        shared.set(name, value).map_err(|e| error(e.to_string()))?;
    }
    let triple = format!("{}-unknown-linux-gnu", tier.arch());
    let mut builder = isa::lookup_by_name(&triple).map_err(|e| error(e.to_string()))?;
    for flag in flags {
        builder.enable(flag).map_err(|e| error(e.to_string()))?;
    }
    builder.finish(settings::Flags::new(shared)).map_err(|e| error(e.to_string()))
}

/// Functions of one kernel, laid out one after the other.
struct Image<'a> {
    kernel: &'a str,
    code: Vec<u8>,
    align: u32,
    calls: Vec<Call>,
    listing: String,
}

/// A call between functions of the image, to be filled in.
struct Call {
    at: usize,
    kind: Reloc,
    addend: i64,
    callee: u32,
}

impl Image<'_> {
    fn error(&self, reason: String) -> LowerError {
        LowerError::Cranelift { kernel: self.kernel.to_owned(), reason }
    }

    /// Compiles a function to the end of the image.
    fn append(
        &mut self,
        context: &mut Context,
        isa: &dyn TargetIsa,
        listing: bool,
    ) -> Result<(), LowerError> {
        let (compiled, relocs) = compile_function(self.kernel, context, isa, listing)?;
        let start = self.place(&compiled);
        for reloc in relocs {
            let callee = match &reloc.target {
                FinalizedRelocTarget::ExternalName(ExternalName::User(name)) => {
                    context.func.params.user_named_funcs().get(*name).map(|name| name.index)
                }
                _ => None,
            };
            let Some(callee) = callee else {
                return Err(self.error(format!("code refers to something outside: {:?}", reloc.target)));
            };
            let at = start + reloc.offset as usize;
            self.calls.push(Call { at, kind: reloc.kind, addend: reloc.addend, callee });
        }
        Ok(())
    }

    /// Copies a function to the end of the image; gives the offset of its first instruction.
    fn place(&mut self, compiled: &Compiled) -> usize {
        let align = compiled.align.max(64);
        self.align = self.align.max(align);
        let start = self.code.len().next_multiple_of(align as usize);
        self.code.resize(start, 0);
        self.code.extend_from_slice(&compiled.code);
        self.listing.push_str(&compiled.listing);
        start + compiled.entry
    }

    /// Fills in the calls, so that no relocation is left.
    fn link(&mut self, entries: &[usize]) -> Result<(), LowerError> {
        for call in std::mem::take(&mut self.calls) {
            let word = entries.get(call.callee as usize).and_then(|&entry| {
                let distance = entry as i64 + call.addend - call.at as i64;
                let old = u32::from_le_bytes(self.code.get(call.at..call.at + 4)?.try_into().ok()?);
                match call.kind {
                    Reloc::X86CallPCRel4 | Reloc::X86PCRel4 => Some(i32::try_from(distance).ok()? as u32),
                    // A 26-bit count of words in the low bits of the instruction.
                    Reloc::Arm64Call => Some((old & 0xfc00_0000) | ((distance >> 2) as u32 & 0x03ff_ffff)),
                    _ => None,
                }
            });
            let Some(word) = word else {
                return Err(self.error(format!("a call that cannot be linked: {:?}", call.kind)));
            };
            self.code[call.at..call.at + 4].copy_from_slice(&word.to_le_bytes());
        }
        Ok(())
    }
}

impl std::fmt::Debug for Compiler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compiler").field("tier", &self.tier).finish()
    }
}
