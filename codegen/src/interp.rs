//! The reference interpreter of kernel IR: slow and obvious. It is the meaning of a kernel; every lowering is tested
//! against it. Single precision is computed in double and rounded after every operation; sums of a contraction are
//! rounded once. [`run_disturbed`] shows what the errors that a lowering may make do to a kernel's results.

use std::cell::Cell;
use std::ops::Range;

use kiln_ir::tensor::{scalar_from_bits, scalar_to_bits};
use kiln_ir::{DType, Prim, Scalar, wrap_int};

use crate::kir::sparse::{Part, Parts};
use crate::kir::{
    Access, Axis, Block, BufferId, Contract, For, Guard, Ix, Kernel, Op, Operand, Reduce, Rhs, Sparse, Stmt,
    Val, Var,
};

/// A kernel that does something undefined.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("kernel `{kernel}`: {reason}")]
pub struct InterpError {
    /// Name of the kernel.
    pub kernel: String,
    /// What it did.
    pub reason: String,
}

/// Runs the grid points of a verified kernel. `buffers` are its parameters in order ([`Kernel::params`]).
pub fn run(
    kernel: &Kernel,
    buffers: &mut [&mut [u8]],
    dims: &[i64],
    points: Range<u64>,
) -> Result<(), InterpError> {
    execute(kernel, buffers, dims, points, None)
}

/// The same with a random error in every floating-point operation, as large as a lowering may make it
/// ([`error_bound`]): how far its results spread is how far those of a correct lowering may.
pub fn run_disturbed(
    kernel: &Kernel,
    buffers: &mut [&mut [u8]],
    dims: &[i64],
    points: Range<u64>,
    seed: u64,
) -> Result<(), InterpError> {
    execute(kernel, buffers, dims, points, Some(Noise(Cell::new(seed))))
}

/// Units in the last place that a lowering's result of a primitive may be away from the exact one; what has 0 is exact.
/// The last bit of what is rounded once is in it: products may be fused into sums, and sums take another order.
pub fn error_bound(prim: Prim) -> f64 {
    use Prim::*;
    match prim {
        Neg | Abs | Min | Max | Floor | Ceil | Round | Trunc | Rem | Mod | Select | Eq | Ne | Lt | Le
        | Gt | Ge | And | Or | Xor | Not | Shl | Shr | IsNan | IsInf => 0.0,
        Add | Sub | Mul | Div | Sqrt | Log1p | Expm1 | Sin | Cos | Tan | Asin | Acos | Atan | Sinh | Cosh
        | Asinh | Acosh | Atanh | Pow => 1.0,
        Exp | Log | Erf => 2.0,
        Tanh => 4.0,
    }
}

/// A result with an error, within what the primitive's results can be: no lowering leaves that, and beyond it other
/// primitives are not defined.
fn in_range(prim: Prim, value: Scalar) -> Scalar {
    match (prim, value) {
        (Prim::Erf | Prim::Tanh | Prim::Sin | Prim::Cos, Scalar::F(x)) => Scalar::F(x.clamp(-1.0, 1.0)),
        _ => value,
    }
}

fn execute(
    kernel: &Kernel,
    buffers: &mut [&mut [u8]],
    dims: &[i64],
    points: Range<u64>,
    noise: Option<Noise>,
) -> Result<(), InterpError> {
    let mut params = buffers.iter_mut();
    let mut memory = vec![];
    for buffer in &kernel.buffers {
        memory.push(match &buffer.access {
            Access::Scratch { len } => {
                let len = usize::try_from(len.eval_dims(dims)).unwrap_or(0);
                Memory::Scratch(vec![0xa5; buffer.dtype.bytes_for(len).unwrap_or(0)])
            }
            Access::In | Access::Out | Access::InOut | Access::Const => match params.next() {
                Some(bytes) => Memory::Param(bytes),
                None => {
                    let reason = "fewer buffers than parameters".to_owned();
                    return Err(InterpError { kernel: kernel.name.clone(), reason });
                }
            },
        });
    }
    let mut interp = Interp {
        kernel,
        memory,
        dims,
        vals: vec![None; kernel.vals.len()],
        vars: vec![0; kernel.vars as usize],
        noise,
    };
    let result = points.into_iter().try_for_each(|point| interp.point(point));
    result.map_err(|reason| InterpError { kernel: kernel.name.clone(), reason })
}

enum Memory<'a> {
    Param(&'a mut [u8]),
    Scratch(Vec<u8>),
}

struct Interp<'a> {
    kernel: &'a Kernel,
    memory: Vec<Memory<'a>>,
    dims: &'a [i64],
    vals: Vec<Option<Scalar>>,
    vars: Vec<i64>,
    noise: Option<Noise>,
}

/// A source of errors: the state of a generator of random numbers.
struct Noise(Cell<u64>);

impl Noise {
    /// `x` with an error of at most `units` in its last place as an element of `dtype`; of the smallest normal number
    /// where the result is not much larger than that.
    fn disturb(&self, units: f64, dtype: DType, x: f64) -> f64 {
        if units == 0.0 || x == 0.0 || !x.is_finite() {
            return x;
        }
        let (relative, least) = match dtype {
            DType::F64 => (f64::EPSILON, f64::MIN_POSITIVE),
            _ => (f64::from(f32::EPSILON), f64::from(f32::MIN_POSITIVE)),
        };
        x + self.random() * units * (relative * x.abs()).max(least)
    }

    /// A quotient whose divisor may be so large that its reciprocal counts as 0.
    fn divided(&self, dividend: f64, divisor: f64, dtype: DType, quotient: Scalar) -> Scalar {
        match quotient {
            Scalar::F(x) if dtype == DType::F32 && divisor.abs() >= 2f64.powi(125) && x.is_finite() => {
                Scalar::F(x + self.random() * dividend.abs() / divisor.abs())
            }
            _ => quotient,
        }
    }

    /// The extreme of two zeros, either of which lowerings may give.
    fn extreme(&self, prim: Prim, args: &[Scalar], result: Scalar) -> Scalar {
        let zero = |s: &Scalar| matches!(s, Scalar::F(x) if *x == 0.0);
        match matches!(prim, Prim::Max | Prim::Min) && args.iter().all(zero) {
            true => args[usize::from(self.random() < 0.0)],
            false => result,
        }
    }

    /// A number in [-1, 1).
    fn random(&self) -> f64 {
        // Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014.
        let state = self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.0.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }
}

type Run<T = ()> = Result<T, String>;

impl Interp<'_> {
    fn point(&mut self, point: u64) -> Run {
        let mut rest = point as i64;
        for (i, (var, extent)) in self.kernel.grid.iter().enumerate().rev() {
            let extent = extent.eval_dims(self.dims).max(1);
            self.vars[var.index()] = if i == 0 { rest } else { rest % extent };
            rest /= extent;
        }
        self.block(&self.kernel.body)
    }

    fn block(&mut self, block: &Block) -> Run {
        block.iter().try_for_each(|stmt| self.stmt(stmt))
    }

    fn stmt(&mut self, stmt: &Stmt) -> Run {
        match stmt {
            Stmt::Let { dst, op } => {
                let value = self.op(*dst, op)?;
                self.vals[dst.index()] = Some(round(self.kernel.dtype(*dst), value));
                Ok(())
            }
            Stmt::Store { buffer, index, value } => {
                let value = self.val(*value)?;
                self.store(*buffer, index, value)
            }
            Stmt::For(l) => self.for_loop(l),
            Stmt::Reduce(r) => self.reduce(r),
            Stmt::If { cond, then, otherwise } => match self.val(*cond)? {
                Scalar::B(true) => self.block(then),
                _ => self.block(otherwise),
            },
            Stmt::Contract(c) => self.contract(c),
        }
    }

    fn val(&self, val: Val) -> Run<Scalar> {
        self.vals[val.index()].ok_or_else(|| format!("{val} is used before its definition"))
    }

    fn set(&mut self, val: Val, value: Scalar) {
        self.vals[val.index()] = Some(round(self.kernel.dtype(val), value));
    }

    fn ix(&self, ix: &Ix) -> i64 {
        ix.eval(&|leaf| match leaf {
            Ix::Var(v) => self.vars[v.index()],
            Ix::Dim(d) => self.dims.get(*d as usize).copied().unwrap_or(0),
            Ix::Scalar(s) => match self.vals[s.index()] {
                Some(Scalar::I(i)) => i as i64,
                _ => 0,
            },
            _ => 0,
        })
    }

    /// Values of a loop variable.
    fn range(&self, axis: &Axis) -> Range<i64> {
        let begin = self.ix(&axis.begin);
        begin..begin + self.ix(&axis.extent).max(0)
    }

    fn each(&mut self, var: Var, range: Range<i64>, f: &mut dyn FnMut(&mut Self) -> Run) -> Run {
        for i in range {
            self.vars[var.index()] = i;
            f(self)?;
        }
        Ok(())
    }

    fn bytes(&self, buffer: BufferId) -> &[u8] {
        match &self.memory[buffer.index()] {
            Memory::Param(bytes) => bytes,
            Memory::Scratch(bytes) => bytes,
        }
    }

    /// Bit position of an element, checked.
    fn locate(&self, buffer: BufferId, index: i64) -> Run<(DType, usize)> {
        let dtype = self.kernel.buffers[buffer.index()].dtype;
        let len = self.bytes(buffer).len() * 8;
        let at = usize::try_from(index).ok().and_then(|i| i.checked_mul(dtype.bits()));
        match at {
            Some(at) if at + dtype.bits() <= len => Ok((dtype, at)),
            _ => Err(format!("{buffer}[{index}] is outside of the buffer of {} bytes", len / 8)),
        }
    }

    fn load(&self, buffer: BufferId, index: i64) -> Run<Scalar> {
        let (dtype, at) = self.locate(buffer, index)?;
        let bytes = self.bytes(buffer);
        let mut word = [0u8; 8];
        let count = dtype.bits().div_ceil(8);
        word[..count].copy_from_slice(&bytes[at / 8..at / 8 + count]);
        let mut bits = u64::from_le_bytes(word) >> (at % 8);
        if dtype.bits() < 64 {
            bits &= (1 << dtype.bits()) - 1;
        }
        scalar_from_bits(dtype, bits).ok_or_else(|| format!("{buffer} has dtype {dtype}"))
    }

    fn store(&mut self, buffer: BufferId, index: &Ix, value: Scalar) -> Run {
        let (dtype, at) = self.locate(buffer, self.ix(index))?;
        let bits = scalar_to_bits(dtype, value).to_le_bytes();
        let bytes = match &mut self.memory[buffer.index()] {
            Memory::Param(bytes) => &mut **bytes,
            Memory::Scratch(bytes) => bytes,
        };
        let count = dtype.bits() / 8;
        bytes[at / 8..at / 8 + count].copy_from_slice(&bits[..count]);
        Ok(())
    }

    fn holds(&self, guard: &Guard) -> bool {
        guard.bounds.iter().all(|b| (self.ix(&b.lower)..self.ix(&b.upper)).contains(&self.ix(&b.index)))
    }

    fn op(&self, dst: Val, op: &Op) -> Run<Scalar> {
        match op {
            Op::Const(value) => Ok(*value),
            Op::Load { buffer, index, guard } => match guard {
                Some(guard) if !self.holds(guard) => Ok(guard.otherwise),
                _ => self.load(*buffer, self.ix(index)),
            },
            Op::Apply(prim, operands) => {
                let args = operands.iter().map(|&v| self.val(v)).collect::<Run<Vec<_>>>()?;
                let dtype = operands.last().map_or(DType::F32, |&v| self.kernel.dtype(v));
                let result = self.disturbed(error_bound(*prim), dtype, prim.apply(&args, dtype.bits()));
                let result = in_range(*prim, result);
                Ok(match (&self.noise, prim, args.as_slice()) {
                    (Some(noise), Prim::Div, &[Scalar::F(a), Scalar::F(b)]) => {
                        noise.divided(a, b, dtype, result)
                    }
                    (Some(noise), _, [_, _]) => noise.extreme(*prim, &args, result),
                    _ => result,
                })
            }
            Op::Cast(value) => {
                let dtype = self.kernel.dtype(dst);
                let bits = scalar_to_bits(dtype, self.val(*value)?);
                scalar_from_bits(dtype, bits).ok_or_else(|| format!("{dst} has dtype {dtype}"))
            }
            Op::Bits(value) => {
                let (from, dtype) = (self.kernel.dtype(*value), self.kernel.dtype(dst));
                let bits = scalar_to_bits(from, self.val(*value)?);
                scalar_from_bits(dtype, bits).ok_or_else(|| format!("{dst} has dtype {dtype}"))
            }
            Op::MulAdd(a, b, c) => match (self.val(*a)?, self.val(*b)?, self.val(*c)?) {
                (Scalar::F(a), Scalar::F(b), Scalar::F(c)) if self.noise.is_some() => {
                    let dtype = self.kernel.dtype(dst);
                    let product = self.disturbed(1.0, dtype, Scalar::F(a * b));
                    let sum = Prim::Add.apply(&[product, Scalar::F(c)], dtype.bits());
                    Ok(self.disturbed(1.0, dtype, sum))
                }
                (Scalar::F(a), Scalar::F(b), Scalar::F(c)) => Ok(Scalar::F(a.mul_add(b, c))),
                _ => Err(format!("{dst}: muladd of something else than floats")),
            },
            Op::Index(index) => Ok(Scalar::I(i128::from(self.ix(index)))),
        }
    }

    fn disturbed(&self, units: f64, dtype: DType, value: Scalar) -> Scalar {
        match (&self.noise, value) {
            (Some(noise), Scalar::F(x)) => Scalar::F(noise.disturb(units, dtype, x)),
            _ => value,
        }
    }

    fn for_loop(&mut self, l: &For) -> Run {
        let mut current = l.carried.iter().map(|c| self.val(c.init)).collect::<Run<Vec<_>>>()?;
        for i in self.range(&l.axis) {
            self.vars[l.axis.var.index()] = i;
            for (c, &value) in l.carried.iter().zip(&current) {
                self.set(c.arg, value);
            }
            self.block(&l.body)?;
            current = l.carried.iter().map(|c| self.val(c.next)).collect::<Run<_>>()?;
        }
        for (c, value) in l.carried.iter().zip(current) {
            self.set(c.result, value);
        }
        Ok(())
    }

    fn reduce(&mut self, r: &Reduce) -> Run {
        let mut current = r.accumulators.iter().map(|a| self.val(a.init)).collect::<Run<Vec<_>>>()?;
        for i in self.range(&r.axis) {
            self.vars[r.axis.var.index()] = i;
            self.block(&r.body)?;
            for (a, value) in r.accumulators.iter().zip(&mut current) {
                let dtype = self.kernel.dtype(a.init);
                let pair = [*value, self.val(a.item)?];
                let combined = a.combine.apply(&pair, dtype.bits());
                let disturbed = self.disturbed(error_bound(a.combine), dtype, combined);
                let extreme = self.noise.as_ref().map(|noise| noise.extreme(a.combine, &pair, disturbed));
                *value = round(dtype, extreme.unwrap_or(disturbed));
            }
        }
        for (a, value) in r.accumulators.iter().zip(current) {
            self.set(a.result, value);
        }
        Ok(())
    }

    fn contract(&mut self, c: &Contract) -> Run {
        if let Rhs::Sparse(sparse) = &c.b {
            return self.sparse(c, sparse);
        }
        let reduction: Vec<Axis> = c.taps.iter().chain([&c.k]).cloned().collect();
        let packed = match &c.b {
            Rhs::Packed { base, .. } => self.ix(base),
            Rhs::Strided(_) | Rhs::Sparse(_) => 0,
        };
        let taps: i64 = c.taps.iter().map(|axis| self.ix(&axis.extent).max(0)).product();
        let (run, group) = (self.ix(&c.k.extent).max(0), i64::from(c.group()));
        let groups = (run + group - 1) / group;
        let (rows, columns) = (self.range(&c.m), self.range(&c.n));
        self.each(c.m.var, rows, &mut |s| {
            s.each(c.n.var, columns.clone(), &mut |s| {
                let mut sum = if c.acc_dtype.is_float() { Scalar::F(0.0) } else { Scalar::I(0) };
                let mut position = 0;
                s.nest(&reduction, &mut |s| {
                    let a = s.operand(&c.a)?;
                    let b = match &c.b {
                        Rhs::Strided(operand) => s.operand(operand)?,
                        Rhs::Packed { buffer, width, .. } => {
                            let width = i64::from(*width);
                            let n = s.vars[c.n.var.index()];
                            let (tap, k) = (position / run, position % run);
                            let row = (n / width * taps + tap) * groups + k / group;
                            let index = packed + (row * width + n % width) * group + k % group;
                            s.load(*buffer, index)?
                        }
                        Rhs::Sparse(_) => return Err("a sparse operand element by element".to_owned()),
                    };
                    sum = s.add_product(c.acc_dtype, sum, [a, b]);
                    position += 1;
                    Ok(())
                })?;
                s.set(c.acc, sum);
                s.block(&c.epilogue)
            })
        })
    }

    /// `sum + a * b`.
    fn add_product(&self, dtype: DType, sum: Scalar, factors: [Scalar; 2]) -> Scalar {
        let product = self.disturbed(1.0, dtype, Prim::Mul.apply(&factors, dtype.bits()));
        self.disturbed(1.0, dtype, Prim::Add.apply(&[sum, product], dtype.bits()))
    }

    fn sparse(&mut self, c: &Contract, sparse: &Sparse) -> Run {
        let parts = sparse.parts(c).ok_or_else(|| "a sparse operand of unknown length".to_owned())?;
        let (rows, columns) = (self.range(&c.m), self.range(&c.n));
        let list = columns.start / i64::from(sparse.form.columns) * parts.count();
        self.each(c.m.var, rows, &mut |s| {
            let zero = if c.acc_dtype.is_float() { Scalar::F(0.0) } else { Scalar::I(0) };
            let mut sums = vec![zero; sparse.form.columns as usize];
            for (part, list) in parts.all().zip(list..) {
                s.sparse_part(c, sparse, (parts, part, list), &mut sums)?;
            }
            s.each(c.n.var, columns.clone(), &mut |s| {
                let at = (s.vars[c.n.var.index()] - columns.start) as usize;
                let sum = sums.get(at).copied().ok_or_else(|| "more columns than a range".to_owned())?;
                s.set(c.acc, sum);
                s.block(&c.epilogue)
            })
        })
    }

    /// Adds the products of a list to the sums of a row.
    fn sparse_part(
        &mut self,
        c: &Contract,
        sparse: &Sparse,
        (parts, part, list): (Parts, Part, i64),
        sums: &mut [Scalar],
    ) -> Run {
        let (rows, block) = (i64::from(sparse.form.rows), i64::from(sparse.form.block));
        let (group, line) = (i64::from(sparse.form.group), sparse.form.line().max(1));
        let extent = self.ix(&c.k.extent);
        let mut word = self.integer(sparse.index, 2 * list)?;
        let mut entry = self.integer(sparse.index, 2 * list + 1)?;
        let mut next = |s: &Self| {
            word += 1;
            s.integer(sparse.index, word - 1)
        };
        for _ in 0..next(self)? {
            let (column, count) = (next(self)? / rows, next(self)?);
            for _ in 0..count {
                let place = next(self)?;
                let (tap, k) = match sparse.form.window {
                    None => (part.taps[0] + place / rows / parts.run[1], place / rows % parts.run[1]),
                    Some(window) => (window.tap(place % line), place / line),
                };
                self.at_tap(c, tap)?;
                let first = (part.run[0] + k) * group;
                for (lane, k) in (first..extent.min(first + group)).enumerate() {
                    self.vars[c.k.var.index()] = self.ix(&c.k.begin) + k;
                    let a = self.operand(&c.a)?;
                    for i in 0..block {
                        let b = self.load(sparse.values, (entry * block + i) * group + lane as i64)?;
                        let sum = sums.get_mut((column + i) as usize);
                        let sum = sum.ok_or_else(|| format!("column {column} is outside of the range"))?;
                        *sum = self.add_product(c.acc_dtype, *sum, [a, b]);
                    }
                }
                entry += 1;
            }
        }
        Ok(())
    }

    /// Sets the variables of taps from their flattened index, the last axis fastest.
    fn at_tap(&mut self, c: &Contract, index: i64) -> Run {
        let mut rest = index;
        for tap in c.taps.iter().rev() {
            let extent = self.ix(&tap.extent).max(1);
            self.vars[tap.var.index()] = self.ix(&tap.begin) + rest % extent;
            rest /= extent;
        }
        if rest > 0 { Err(format!("tap {index} does not exist")) } else { Ok(()) }
    }

    fn integer(&self, buffer: BufferId, index: i64) -> Run<i64> {
        match self.load(buffer, index)? {
            Scalar::I(i) => i64::try_from(i).map_err(|e| e.to_string()),
            other => Err(format!("{buffer}[{index}] is {other:?}, no integer")),
        }
    }

    fn nest(&mut self, axes: &[Axis], f: &mut dyn FnMut(&mut Self) -> Run) -> Run {
        let Some((axis, inner)) = axes.split_first() else { return f(self) };
        let range = self.range(axis);
        self.each(axis.var, range, &mut |s| s.nest(inner, f))
    }

    fn operand(&mut self, operand: &Operand) -> Run<Scalar> {
        self.block(&operand.body)?;
        self.val(operand.value)
    }
}

/// The result of an operation as a value of its dtype has it.
fn round(dtype: DType, value: Scalar) -> Scalar {
    match value {
        Scalar::F(x) if dtype == DType::F32 => Scalar::F(f64::from(x as f32)),
        Scalar::I(x) if dtype.is_int() => Scalar::I(wrap_int(x, dtype)),
        other => other,
    }
}
