//! Runs a kernel on the interpreter and on every tier of this machine, and compares.
#![allow(dead_code, reason = "each test target uses a part")]

use std::sync::Arc;

use kiln_codegen::build::{Options, compile};
use kiln_codegen::interp;
use kiln_codegen::kir::{Access, Kernel};
use kiln_codegen::lower::clif::Compiler;
use kiln_codegen::lower::jit::JitKernel;
use kiln_ir::op::Control;
use kiln_ir::tensor::{scalar_from_bits, scalar_to_bits};
use kiln_ir::{
    Build, DType, Datum, Evaluator, GraphBuilder, InferError, Module, Scalar, Tensor, Type, Value,
};
use kiln_runtime::cpu::Tier;
use kiln_runtime::memory::AlignedBuf;
use kiln_runtime::{Executable, Session, SessionOptions};

/// Elements of a dtype as bytes, the scalars converted to it.
pub fn elements(dtype: DType, values: impl IntoIterator<Item = f64>) -> Vec<u8> {
    let size = dtype.bits() / 8;
    let to_bits = |v: f64| {
        if dtype.is_float() {
            scalar_to_bits(dtype, Scalar::F(v))
        } else if dtype == DType::Bool {
            u64::from(v != 0.0)
        } else {
            (v as i64) as u64
        }
    };
    values.into_iter().flat_map(|v| to_bits(v).to_le_bytes()[..size].to_vec()).collect()
}

/// Scalars of a buffer of whole-byte elements.
pub fn scalars(dtype: DType, bytes: &[u8]) -> Vec<Scalar> {
    let size = dtype.bits() / 8;
    let read = |chunk: &[u8]| {
        let mut word = [0u8; 8];
        word[..size].copy_from_slice(chunk);
        scalar_from_bits(dtype, u64::from_le_bytes(word)).unwrap()
    };
    bytes.chunks_exact(size).map(read).collect()
}

/// Tiers whose code this machine executes.
pub fn tiers() -> Vec<Tier> {
    Tier::ALL.into_iter().filter(|t| *t != Tier::X86V1 && t.is_supported()).collect()
}

/// Those of which a kernel is not the same as of another: dot products of bytes are for contractions of bytes.
fn tiers_of(kernel: &Kernel) -> impl Fn(&Tier) -> bool {
    let bytes = kernel.to_string().contains(" group=");
    move |tier| bytes || tier.without_byte_products() == *tier
}

/// The kernel's buffers after a run of compiled code, the grid split into chunks of `chunk` points.
pub fn run_compiled(
    kernel: &Kernel,
    tier: Tier,
    buffers: &[Vec<u8>],
    dims: &[i64],
    chunk: u64,
) -> Vec<Vec<u8>> {
    let compiled = Compiler::new(tier).unwrap().compile(kernel).unwrap();
    let jit = JitKernel::new(compiled).unwrap();
    let mut memory: Vec<AlignedBuf> = buffers.iter().map(|b| AlignedBuf::copy_of(b).unwrap()).collect();
    let pointers: Vec<*mut u8> = memory.iter_mut().map(|b| b.bytes_mut().as_mut_ptr()).collect();
    let mut scratch = jit.scratch(dims).unwrap();
    scratch.bytes_mut().fill(0xa5);
    let points = kernel.grid_points().eval_dims(dims) as u64;
    let mut at = 0;
    while at < points {
        let end = (at + chunk).min(points);
        // SAFETY: the interpreter has run the kernel on buffers of these sizes without leaving them.
        unsafe { jit.call(&pointers, dims, &scratch, at..end) };
        at = end;
    }
    memory.iter().map(|b| b.bytes().to_vec()).collect()
}

/// Allowed differences of floats, and whether integers must be equal (always).
#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    /// Relative to the larger magnitude.
    pub relative: f64,
    /// Absolute.
    pub absolute: f64,
}

/// Only rounding noise of a few operations.
pub const TIGHT: Tolerance = Tolerance { relative: 2e-5, absolute: 1e-6 };

/// The same bits, but for signs of zeros and what a NaN holds.
pub const EXACT: Tolerance = Tolerance { relative: 0.0, absolute: 0.0 };

/// Whether two scalars agree.
pub fn close(dtype: DType, want: Scalar, got: Scalar, tolerance: Tolerance) -> bool {
    let unit = match dtype {
        DType::F16 => 2e-3,
        DType::BF16 => 1.6e-2,
        _ => 0.0,
    };
    match (want, got) {
        (Scalar::F(a), Scalar::F(b)) if a.is_nan() || b.is_nan() => a.is_nan() && b.is_nan(),
        (Scalar::F(a), Scalar::F(b)) => {
            let largest = a.abs().max(b.abs());
            a == b || (a - b).abs() <= tolerance.absolute + (tolerance.relative + unit) * largest
        }
        (a, b) => a == b,
    }
}

/// Runs interpreter and compiled code on the same buffers and compares every writable buffer; gives the interpreter's
/// buffers.
pub fn check(kernel: &Kernel, buffers: &[Vec<u8>], dims: &[i64], tolerance: Tolerance) -> Vec<Vec<u8>> {
    let mut want = buffers.to_vec();
    let points = kernel.grid_points().eval_dims(dims) as u64;
    let mut slices: Vec<&mut [u8]> = want.iter_mut().map(Vec::as_mut_slice).collect();
    interp::run(kernel, &mut slices, dims, 0..points).unwrap_or_else(|e| panic!("{e}\n{kernel}"));
    let params: Vec<_> = kernel.params().collect();
    for tier in tiers().into_iter().filter(tiers_of(kernel)) {
        let got = run_compiled(kernel, tier, buffers, dims, u64::MAX);
        for ((id, want), got) in params.iter().zip(&want).zip(&got) {
            let buffer = &kernel.buffers[id.index()];
            if matches!(buffer.access, Access::In | Access::Const) {
                assert_eq!(want, got, "{} wrote to {id}\n{kernel}", tier.name());
                continue;
            }
            let pairs = scalars(buffer.dtype, want).into_iter().zip(scalars(buffer.dtype, got));
            for (i, (w, g)) in pairs.enumerate() {
                assert!(
                    close(buffer.dtype, w, g, tolerance),
                    "{}: {id}[{i}] is {g:?}, expected {w:?}, dims {dims:?}\n{kernel}",
                    tier.name()
                );
            }
        }
        // However the grid is split, the bits are the same.
        assert_eq!(got, run_compiled(kernel, tier, buffers, dims, 1), "{}: chunks\n{kernel}", tier.name());
    }
    // Tiers that this machine may not execute must compile too.
    for tier in Tier::ALL.into_iter().filter(|t| *t != Tier::X86V1).filter(tiers_of(kernel)) {
        Compiler::new(tier).unwrap().compile(kernel).unwrap();
    }
    want
}

/// What a graph computes of its input.
pub type Body<'a> = &'a dyn Fn(&mut GraphBuilder<'_>, Value) -> Result<Value, InferError>;

/// A module whose entry point `main` is one fusion that computes `body` of an input like `x`.
pub fn fusion(name: &str, x: &Tensor, body: Body<'_>) -> Module {
    let mut module = Module::new();
    let mut b = GraphBuilder::new(&mut module, "fusion");
    let input = b.input("x", Type::Tensor(x.ty()));
    let y = body(&mut b, input).unwrap_or_else(|e| panic!("{name}: {e}"));
    b.output("y", y);
    let inner = b.finish();
    let ty = module.graph(inner).ty(y).clone();
    let mut b = GraphBuilder::new(&mut module, "main");
    let input = b.input("x", Type::Tensor(x.ty()));
    let y = b.add1(Control::Fusion { graph: inner }, &[input]).unwrap();
    b.refine(y, &ty).unwrap();
    b.output("y", y);
    let id = b.finish();
    module.add_entry(id);
    module
}

/// What the reference evaluator computes of `x`.
pub fn evaluated(module: &Module, x: &Tensor) -> Tensor {
    let results = Evaluator::new(module).run(module.entries()[0], &[Datum::Tensor(x.clone())]).unwrap();
    let [Datum::Tensor(y)] = results.as_slice() else { panic!("one tensor") };
    y.clone()
}

/// Compiles the module for every tier: the kernels' texts must be as `texts` says, and where this machine executes the
/// tier, the result of `x` must be `wanted`.
pub fn check_module(
    name: &str,
    module: &Module,
    (x, wanted): (&Tensor, &Tensor),
    tolerance: Tolerance,
    texts: &dyn Fn(&str) -> bool,
) {
    let data = [Datum::Tensor(x.clone())];
    for tier in Tier::ALL.into_iter().filter(|t| *t != Tier::X86V1) {
        let compiled = compile(module, &Options { tier, ..Options::default() }).unwrap();
        let text = compiled.kernel_texts.join("\n");
        assert_eq!(compiled.summary.slow, [], "{name}");
        assert!(texts(&text), "{name}: not the kernel expected\n{text}");
        if !tier.is_supported() {
            continue;
        }
        let executable = Executable::from_image(compiled.image).unwrap();
        let session = Session::new(Arc::new(executable), SessionOptions::default());
        let got = session.run("main", &data).unwrap();
        let [Datum::Tensor(got)] = got.as_slice() else { panic!("{name}: one tensor") };
        assert_eq!((wanted.dtype(), wanted.dims()), (got.dtype(), got.dims()), "{name}");
        for i in 0..wanted.numel() {
            let (w, g) = (wanted.element(i).unwrap(), got.element(i).unwrap());
            let agree = close(wanted.dtype(), w, g, tolerance);
            assert!(agree, "{name}: element {i} on {}: {g:?}, expected {w:?}\n{text}", tier.name());
        }
    }
}
