//! Whether compiled kernels give what the interpreter gives.
//!
//! The rule: integers, bools and what a kernel does not write are equal; floats are within [`ULP`] units in the last
//! place. Where a kernel magnifies rounding errors (differences of nearly equal values, comparisons and casts behind
//! elementary functions), results lie where those of the interpreter lie, or somewhat outside of them, when every
//! operation errs by as much as its bound allows ([`interp::error_bound`]).

use std::fmt::Write as _;

use kiln_codegen::interp;
use kiln_codegen::kir::{Access, Kernel};
use kiln_codegen::lower::clif::Compiler;
use kiln_codegen::lower::jit::JitKernel;
use kiln_ir::tensor::scalar_from_bits;
use kiln_ir::{DType, Scalar};
use kiln_runtime::cpu::Tier;
use kiln_runtime::memory::AlignedBuf;

/// Units in the last place of the element's dtype that results may be apart.
pub const ULP: f64 = 4.0;

/// Runs of the interpreter with errors (more where fewer do not explain a result), and how far beyond their spread
/// results may lie, as a multiple of it.
pub const DISTURBED_RUNS: [u64; 3] = [4, 16, 64];
const BEYOND: f64 = 3.0;

/// A kernel and what it is run on.
#[derive(Clone, Debug)]
pub struct Case {
    /// The kernel.
    pub kernel: Kernel,
    /// Contents of its parameters, in order.
    pub buffers: Vec<Vec<u8>>,
    /// Values of its dims.
    pub dims: Vec<i64>,
    /// Whether lowerings may refuse it (the compiler then takes another way).
    pub may_be_refused: bool,
}

/// A lowering: its name, the tier, whether it keeps to 128-bit vectors.
pub type Lowering = (&'static str, Tier, bool);

/// The lowerings whose code this machine executes.
pub fn lowerings() -> Vec<Lowering> {
    let mut all = vec![];
    let coded = |tier: &Tier| *tier != Tier::X86V1 && tier.is_supported();
    for tier in Tier::ALL.into_iter().filter(coded) {
        all.push((tier.name(), tier, false));
        if tier == Tier::X86V3 {
            all.push(("x86-64-v3 with 128-bit vectors", tier, true));
        }
    }
    all
}

/// The first result of a lowering that differs from the interpreter's, or another fault; `None` if they agree.
pub fn fault(case: &Case, lowerings: &[Lowering]) -> Option<String> {
    try_all(case, lowerings).err()
}

fn try_all(case: &Case, lowerings: &[Lowering]) -> Result<(), String> {
    let points = case.kernel.grid_points().eval_dims(&case.dims) as u64;
    let want = interpreted(case, points, None)?;
    let mut runs = vec![];
    // Other kernels are the same with and without dot products of bytes.
    let bytes = case.kernel.to_string().contains(" group=");
    for &(name, tier, portable) in lowerings.iter().filter(|l| bytes || l.1.without_byte_products() == l.1) {
        let compiler = if portable { Compiler::portable(tier) } else { Compiler::new(tier) };
        let compiled = match compiler.and_then(|compiler| compiler.compile(&case.kernel)) {
            Ok(compiled) => compiled,
            Err(_) if case.may_be_refused => continue,
            Err(error) => return Err(format!("{name}: {error}")),
        };
        let jit = JitKernel::new(compiled).map_err(|error| format!("{name}: {error}"))?;
        let got = run(case, &jit, points, u64::MAX)?;
        compare(case, points, &want, &got, &mut runs).map_err(|reason| format!("{name}: {reason}"))?;
        if points > 1 && got != run(case, &jit, points, 1)? {
            return Err(format!("{name}: bits depend on how the grid is cut"));
        }
    }
    Ok(())
}

/// The buffers after the interpreter's run, with errors drawn from a seed or without.
fn interpreted(case: &Case, points: u64, seed: Option<u64>) -> Result<Vec<Vec<u8>>, String> {
    let mut buffers = case.buffers.clone();
    let mut slices: Vec<&mut [u8]> = buffers.iter_mut().map(Vec::as_mut_slice).collect();
    let (kernel, dims) = (&case.kernel, &case.dims);
    let done = match seed {
        None => interp::run(kernel, &mut slices, dims, 0..points),
        Some(seed) => interp::run_disturbed(kernel, &mut slices, dims, 0..points, seed),
    };
    done.map(|()| buffers).map_err(|error| format!("interpreter: {error}"))
}

/// The buffers after a run of compiled code, the grid cut into chunks of `chunk` points.
fn run(case: &Case, jit: &JitKernel, points: u64, chunk: u64) -> Result<Vec<Vec<u8>>, String> {
    let memory: Result<Vec<AlignedBuf>, _> = case.buffers.iter().map(|b| AlignedBuf::copy_of(b)).collect();
    let memory = memory.map_err(|error| error.to_string())?;
    let pointers: Vec<*mut u8> = memory.iter().map(AlignedBuf::as_ptr).collect();
    let mut scratch = jit.scratch(&case.dims).map_err(|error| error.to_string())?;
    scratch.bytes_mut().fill(0xa5);
    let mut at = 0;
    while at < points {
        let end = at.saturating_add(chunk).min(points);
        // SAFETY: the interpreter has run the kernel on buffers of these sizes without leaving them.
        unsafe { jit.call(&pointers, &case.dims, &scratch, at..end) };
        at = end;
    }
    Ok(memory.iter().map(|b| b.bytes().to_vec()).collect())
}

/// A result that is farther from the interpreter's than a few units in the last place.
struct Suspect {
    /// Places of the parameter and of the element.
    at: [usize; 2],
    dtype: DType,
    want: Scalar,
    got: Scalar,
}

/// Checks all results; `runs` are the interpreter's with errors so far, of which more are made while results need them.
fn compare(
    case: &Case,
    points: u64,
    want: &[Vec<u8>],
    got: &[Vec<u8>],
    runs: &mut Vec<Vec<Vec<u8>>>,
) -> Result<(), String> {
    let mut suspects = suspects(case, want, got)?;
    for count in DISTURBED_RUNS {
        if suspects.is_empty() {
            return Ok(());
        }
        while (runs.len() as u64) < count {
            runs.push(interpreted(case, points, Some(runs.len() as u64))?);
        }
        suspects.retain(|s| !within(s.dtype, s.want, s.got, &others(s, runs)));
    }
    let Some(s) = suspects.first() else { return Ok(()) };
    let (low, high) = range(s.want, &others(s, runs));
    let id = case.kernel.params().nth(s.at[0]).map_or(String::new(), |id| id.to_string());
    let mut reason = format!("{id}[{}] is {:?}, the interpreter's is {:?}", s.at[1], s.got, s.want);
    let _ = write!(reason, ", with errors {low:e} to {high:e}, dims {:?}", case.dims);
    Err(reason)
}

fn others(suspect: &Suspect, runs: &[Vec<Vec<u8>>]) -> Vec<Scalar> {
    let [buffer, i] = suspect.at;
    runs.iter().map(|run| element(suspect.dtype, &run[buffer], i)).collect()
}

fn suspects(case: &Case, want: &[Vec<u8>], got: &[Vec<u8>]) -> Result<Vec<Suspect>, String> {
    let mut all = vec![];
    for (at, id) in case.kernel.params().enumerate() {
        let buffer = &case.kernel.buffers[id.index()];
        if want[at] == got[at] {
            continue;
        }
        if matches!(buffer.access, Access::In | Access::Const) {
            return Err(format!("wrote to {id}"));
        }
        let dtype = buffer.dtype;
        let pairs = scalars(dtype, &want[at]).into_iter().zip(scalars(dtype, &got[at])).enumerate();
        let different = pairs.filter(|&(_, (want, got))| !close(dtype, want, got));
        all.extend(different.map(|(i, (want, got))| Suspect { at: [at, i], dtype, want, got }));
    }
    Ok(all)
}

/// Scalars of a buffer of whole-byte elements.
fn scalars(dtype: DType, bytes: &[u8]) -> Vec<Scalar> {
    (0..bytes.len() * 8 / dtype.bits()).map(|i| element(dtype, bytes, i)).collect()
}

fn element(dtype: DType, bytes: &[u8], i: usize) -> Scalar {
    let size = dtype.bits() / 8;
    let mut word = [0u8; 8];
    word[..size].copy_from_slice(&bytes[i * size..(i + 1) * size]);
    scalar_from_bits(dtype, u64::from_le_bytes(word)).expect("kernels store numbers")
}

/// A unit in the last place of a dtype, relative and at least.
pub fn unit(dtype: DType) -> (f64, f64) {
    match dtype {
        DType::F64 => (f64::EPSILON, f64::MIN_POSITIVE),
        DType::F32 => (f64::from(f32::EPSILON), f64::from(f32::MIN_POSITIVE)),
        DType::F16 => (2f64.powi(-10), 2f64.powi(-24)),
        DType::BF16 => (2f64.powi(-7), f64::from(f32::MIN_POSITIVE)),
        _ => (0.25, 2f64.powi(-9)),
    }
}

/// Whether a result is the wanted one but for a few units in the last place.
pub fn close(dtype: DType, want: Scalar, got: Scalar) -> bool {
    match (want, got) {
        (Scalar::F(a), Scalar::F(b)) if a.is_nan() || b.is_nan() => a.is_nan() && b.is_nan(),
        (Scalar::F(a), Scalar::F(b)) => {
            let (relative, least) = unit(dtype);
            // Storage of 16 bits and less rounds once more: results on either side of a tie are a unit apart.
            let units = if dtype.bits() < 32 { 1.0 } else { ULP };
            // Nothing is close to an infinite number but itself.
            a == b
                || (a - b).is_finite()
                    && (a - b).abs() <= units * (relative * a.abs().max(b.abs())).max(least)
        }
        (a, b) => a == b,
    }
}

/// Whether `got` lies where results with errors lie, or somewhat outside.
pub fn within(dtype: DType, want: Scalar, got: Scalar, others: &[Scalar]) -> bool {
    if others.iter().any(|&other| close(dtype, other, got)) {
        return true;
    }
    let (low, high) = range(want, others);
    let room = BEYOND * (high - low);
    match got {
        Scalar::F(g) if g.is_nan() => false,
        Scalar::F(g) => {
            let (relative, least) = unit(dtype);
            let room = room + ULP * (relative * g.abs()).max(least);
            (low - room..=high + room).contains(&g)
        }
        Scalar::I(g) => high > low && (low - room..=high + room).contains(&(g as f64)),
        Scalar::B(_) => false,
    }
}

/// The smallest and the largest of the finite numbers: an infinite one does not allow everything.
pub fn range(want: Scalar, others: &[Scalar]) -> (f64, f64) {
    let numbers = others.iter().chain([&want]).map(|s| match *s {
        Scalar::F(x) => x,
        Scalar::I(x) => x as f64,
        Scalar::B(x) => f64::from(u8::from(x)),
    });
    let numbers = numbers.filter(|x| x.is_finite());
    numbers.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), x| (low.min(x), high.max(x)))
}

#[cfg(test)]
mod tests {
    use kiln_codegen::kir::KernelBuilder;
    use kiln_ir::Prim;

    use super::*;

    /// `prim(x)` of one number.
    fn case(prims: &[Prim], x: f32) -> Case {
        let mut b = KernelBuilder::new("case");
        let (input, out) = (b.input(DType::F32), b.output(DType::F32));
        let mut v = b.load(input, 0);
        for &prim in prims {
            v = b.apply(prim, &[v]);
        }
        b.store(out, 0, v);
        let buffers = vec![x.to_le_bytes().to_vec(), vec![0; 4]];
        Case { kernel: b.finish().expect("it verifies"), buffers, dims: vec![], may_be_refused: false }
    }

    fn verdict(case: &Case, result: f32) -> Result<(), String> {
        let want = interpreted(case, 1, None)?;
        compare(case, 1, &want, &[want[0].clone(), result.to_le_bytes().to_vec()], &mut vec![])
    }

    #[test]
    fn results_are_held_to_units_in_the_last_place() {
        let half = case(&[Prim::Exp], 0.5);
        let exact = 0.5f32.exp();
        assert!(verdict(&half, f32::from_bits(exact.to_bits() + 2)).is_ok());
        assert!(verdict(&half, f32::from_bits(exact.to_bits() + 200)).is_err());
        assert!(verdict(&half, f32::NAN).is_err());
        assert!(verdict(&case(&[Prim::Neg], 0.5), f32::from_bits(0.5f32.to_bits())).is_err());
    }

    #[test]
    fn an_overflow_that_errors_decide_allows_no_other_number() {
        // The inner exponential is the logarithm of the largest number.
        let edge = case(&[Prim::Exp, Prim::Exp], f32::MAX.ln().ln());
        assert!(verdict(&edge, f32::INFINITY).is_ok());
        assert!(verdict(&edge, 1.0).is_err());
    }

    #[test]
    fn the_extreme_of_two_zeros_is_either() {
        let mut b = KernelBuilder::new("case");
        let (input, out) = (b.input(DType::F32), b.output(DType::F32));
        let x = b.load(input, 0);
        let other = b.apply(Prim::Neg, &[x]);
        let (zero, one) = (b.apply(Prim::Max, &[x, other]), b.literal(DType::F32, 1.0));
        let v = b.apply(Prim::Div, &[one, zero]);
        b.store(out, 0, v);
        let buffers = vec![0.0f32.to_le_bytes().to_vec(), vec![0; 4]];
        let kernel = b.finish().expect("it verifies");
        let case = Case { kernel, buffers, dims: vec![], may_be_refused: false };
        assert!(verdict(&case, f32::INFINITY).is_ok());
        assert!(verdict(&case, f32::NEG_INFINITY).is_ok());
        assert!(verdict(&case, 1.0).is_err());
    }

    #[test]
    fn what_magnifies_errors_may_differ_by_as_much() {
        // The sine of a large number turns the last place of an exponential into anything in [-1, 1].
        let wild = case(&[Prim::Exp, Prim::Sin], 25.0);
        assert!(verdict(&wild, 0.3).is_ok());
        // Just below 1, the arcsine has a steep end, beyond which there is nothing.
        let end = case(&[Prim::Erf, Prim::Asin], 3.8);
        assert!(verdict(&end, (1.0 - f32::EPSILON).asin()).is_ok());
        assert!(verdict(&end, 1.0).is_err());
        // A floor behind an exponential of 0, whose result may be just below 1.
        let step = case(&[Prim::Exp, Prim::Floor], 0.0);
        assert!(verdict(&step, 0.0).is_ok());
        assert!(verdict(&step, 6.0).is_err());
    }
}
