//! The frame of a kernel function: arguments, scratch layout, the loop over grid points, index expressions.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{
    AbiParam, BlockArg, ExtFuncData, ExternalName, InstBuilder, MemFlagsData, Signature, Type,
    UserExternalName, Value, types,
};
use cranelift_codegen::isa::{CallConv, TargetFrontendConfig};
use cranelift_frontend::FunctionBuilder;
use kiln_ir::DType;
use kiln_runtime::abi::{AbiType, SLACK, args_offset, helper};
use kiln_runtime::cpu::Tier;
use rustc_hash::FxHashMap;
use smallvec::{SmallVec, smallvec};

use super::LowerError;
use super::contract::Plan;
use super::micro::Micro;
use crate::kir::{self, Access, BufferId, Ix, Kernel, Stmt, Val, Var};
use crate::lower::wide::tile::Tile;
use crate::lower::wide::{WideFunction, Width};

/// Lanes of one vector group: values of up to 32 bits in a 128-bit register.
pub(super) const LANES: usize = 4;

/// A scalar of the kernel in registers.
#[derive(Clone, Debug)]
pub(super) enum Repr {
    /// One machine scalar: the same in every lane.
    Uniform(Value),
    /// One vector per group of [`LANES`] iterations.
    Lanes(SmallVec<[Value; 4]>),
}

/// The vectorized loop that is open.
#[derive(Clone, Copy, Debug)]
pub(super) struct VectorMode {
    /// Its variable; the variable's value is that of the first lane.
    pub var: Var,
    /// Number of groups.
    pub groups: usize,
}

pub(super) type Result<T> = std::result::Result<T, LowerError>;

/// A function that a kernel calls.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Callee {
    /// A micro-kernel of this lowering.
    Micro(Micro),
    /// A tile of a contraction with wide vectors.
    Tile(Tile),
    /// A loop with wide vectors.
    Loop(WideFunction),
}

/// Emits the body of one kernel function.
pub(super) struct Emitter<'a> {
    pub b: FunctionBuilder<'a>,
    /// The kernel, with the scratch buffers, variables and values that contractions add.
    pub kernel: Kernel,
    pub tier: Tier,
    /// Width of the functions that do the innermost work; without one, it is done with 128-bit vectors.
    pub width: Option<Width>,
    pub vals: Vec<Option<Repr>>,
    pub vars: Vec<Option<Value>>,
    pub bases: Vec<Value>,
    pub mode: Option<VectorMode>,
    pub plans: FxHashMap<Val, Plan>,
    /// Functions that the kernel calls, by the index of their external name.
    pub callees: Vec<Callee>,
    dims: Vec<Value>,
    helpers: Value,
}

/// Emits the kernel; gives the scratch size and the functions it calls.
pub(super) fn emit(
    b: FunctionBuilder<'_>,
    kernel: &Kernel,
    (tier, width): (Tier, Option<Width>),
    config: TargetFrontendConfig,
) -> Result<(Ix, Vec<Callee>)> {
    let mut kernel = kernel.clone();
    let plans = super::contract::plan_all(&mut kernel, (tier, width))?;
    let mut emitter = Emitter::bare(b, tier);
    emitter.width = width;
    emitter.vals = vec![None; kernel.vals.len()];
    emitter.vars = vec![None; kernel.vars as usize];
    emitter.plans = plans;
    emitter.kernel = kernel;
    let scratch = emitter.function()?;
    emitter.b.seal_all_blocks();
    let callees = emitter.callees;
    emitter.b.finalize(config);
    Ok((scratch, callees))
}

pub(super) const fn flags() -> MemFlagsData {
    MemFlagsData::new().with_notrap()
}

/// Bytes of a scratch buffer, rounded up to cache lines, with room for over-reads.
fn scratch_size(dtype: DType, len: &Ix) -> Ix {
    let bytes = (len.clone().max(0) * (dtype.bits() as i64)).ceil_div(8);
    bytes.ceil_div(64) * 64 + SLACK as i64
}

impl<'a> Emitter<'a> {
    /// An emitter without a kernel.
    pub fn bare(b: FunctionBuilder<'a>, tier: Tier) -> Emitter<'a> {
        let kernel = Kernel {
            name: String::new(),
            buffers: vec![],
            dims: 0,
            grid: vec![],
            body: vec![],
            vals: vec![],
            vars: 0,
        };
        Emitter {
            b,
            tier,
            width: None,
            vals: vec![],
            vars: vec![],
            bases: vec![],
            mode: None,
            plans: FxHashMap::default(),
            callees: vec![],
            dims: vec![],
            helpers: Value::from_u32(0),
            kernel,
        }
    }

    /// Calls a function that is linked into the kernel's image; all its arguments are 64-bit integers.
    pub fn call(&mut self, callee: Callee, args: &[Value]) {
        let index = self.callees.iter().position(|c| *c == callee).unwrap_or_else(|| {
            self.callees.push(callee);
            self.callees.len() - 1
        });
        let mut signature = Signature::new(CallConv::SystemV);
        signature.params.extend(args.iter().map(|_| AbiParam::new(types::I64)));
        let signature = self.b.import_signature(signature);
        let name = self.b.func.declare_imported_user_function(UserExternalName::new(0, index as u32));
        let callee = self.b.import_function(ExtFuncData {
            name: ExternalName::User(name),
            signature,
            colocated: true,
            patchable: false,
        });
        self.b.ins().call(callee, args);
    }

    fn function(&mut self) -> Result<Ix> {
        let entry = self.b.create_block();
        self.b.append_block_params_for_function_params(entry);
        self.b.switch_to_block(entry);
        let args = self.b.block_params(entry)[0];
        let field = |s: &mut Self, offset: u32| s.b.ins().load(types::I64, flags(), args, offset as i32);
        let buffers = field(self, args_offset::BUFFERS);
        let dims = field(self, args_offset::DIMS);
        self.helpers = field(self, args_offset::HELPERS);
        let scratch = field(self, args_offset::SCRATCH);
        let begin = field(self, args_offset::CHUNK_BEGIN);
        let end = field(self, args_offset::CHUNK_END);
        for i in 0..self.kernel.dims {
            let value = self.b.ins().load(types::I64, flags(), dims, 8 * i as i32);
            self.dims.push(value);
        }
        let mut offset = Ix::Const(0);
        let mut param = 0;
        for i in 0..self.kernel.buffers.len() {
            let buffer = self.kernel.buffers[i].clone();
            let base = match &buffer.access {
                Access::Scratch { len } => {
                    let at = self.ix(&offset)?;
                    offset = offset + scratch_size(buffer.dtype, len);
                    self.b.ins().iadd(scratch, at)
                }
                Access::In | Access::Out | Access::InOut | Access::Const => {
                    param += 1;
                    self.b.ins().load(types::I64, flags(), buffers, 8 * (param - 1))
                }
            };
            self.bases.push(base);
        }
        self.counted(begin, end, 1, &[], |s, point, _| {
            s.grid_point(point)?;
            let body = std::mem::take(&mut s.kernel.body);
            s.block(&body)?;
            s.kernel.body = body;
            Ok(vec![])
        })?;
        self.b.ins().return_(&[]);
        Ok(offset)
    }

    /// Sets the grid variables from the flattened index, the innermost fastest.
    fn grid_point(&mut self, point: Value) -> Result<()> {
        let grid = self.kernel.grid.clone();
        let mut rest = point;
        for (i, (var, extent)) in grid.iter().enumerate().rev() {
            let value = if i == 0 {
                rest
            } else {
                let extent = self.ix(extent)?;
                let zero = self.b.ins().icmp_imm_s(IntCC::Equal, extent, 0);
                let one = self.b.ins().iconst(types::I64, 1);
                let divisor = self.b.ins().select(zero, one, extent);
                let quotient = self.b.ins().udiv(rest, divisor);
                let product = self.b.ins().imul(quotient, divisor);
                let remainder = self.b.ins().isub(rest, product);
                rest = quotient;
                remainder
            };
            self.vars[var.index()] = Some(value);
        }
        Ok(())
    }

    pub fn block(&mut self, block: &kir::Block) -> Result<()> {
        block.iter().try_for_each(|stmt| self.stmt(stmt))
    }

    fn stmt(&mut self, stmt: &Stmt) -> Result<()> {
        match stmt {
            Stmt::Let { dst, op } => {
                let repr = self.op(*dst, op)?;
                self.vals[dst.index()] = Some(repr);
                Ok(())
            }
            Stmt::Store { buffer, index, value } => self.store_stmt(*buffer, index, *value),
            Stmt::For(l) => self.for_stmt(l),
            Stmt::Reduce(r) => self.reduce_stmt(r),
            Stmt::If { cond, then, otherwise } => {
                let Repr::Uniform(cond) = self.val(*cond)? else {
                    return self.unsupported("a branch that differs between lanes");
                };
                self.branch(cond, |s| s.block(then), |s| s.block(otherwise))
            }
            Stmt::Contract(c) => self.contract(c),
        }
    }

    pub fn unsupported<T>(&self, what: impl Into<String>) -> Result<T> {
        Err(LowerError::Unsupported { kernel: self.kernel.name.clone(), what: what.into() })
    }

    pub fn val(&self, val: Val) -> Result<Repr> {
        match &self.vals[val.index()] {
            Some(repr) => Ok(repr.clone()),
            None => self.unsupported(format!("the use of {val} before its definition")),
        }
    }

    /// Emits both sides of a branch.
    pub fn branch(
        &mut self,
        cond: Value,
        then: impl FnOnce(&mut Self) -> Result<()>,
        otherwise: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        let (on_true, on_false, join) = (self.b.create_block(), self.b.create_block(), self.b.create_block());
        self.b.ins().brif(cond, on_true, &[], on_false, &[]);
        self.b.switch_to_block(on_true);
        then(self)?;
        self.b.ins().jump(join, &[]);
        self.b.switch_to_block(on_false);
        otherwise(self)?;
        self.b.ins().jump(join, &[]);
        self.b.switch_to_block(join);
        Ok(())
    }

    /// A loop `i = begin; while i < limit { body; i += step }` with carried values; gives the final `i` and values.
    pub fn counted(
        &mut self,
        begin: Value,
        limit: Value,
        step: i64,
        carried: &[Value],
        body: impl FnOnce(&mut Self, Value, &[Value]) -> Result<Vec<Value>>,
    ) -> Result<(Value, Vec<Value>)> {
        // The values go round through the head only: an instruction selector that sees a value used by two edges
        // does not fold the loads it is made of.
        let (head, inside, exit) = (self.b.create_block(), self.b.create_block(), self.b.create_block());
        let i = self.b.append_block_param(head, types::I64);
        let types: SmallVec<[Type; 16]> = carried.iter().map(|&v| self.b.func.dfg.value_type(v)).collect();
        let args: Vec<Value> = types.into_iter().map(|ty| self.b.append_block_param(head, ty)).collect();
        let block_args = |i: Value, values: &[Value]| -> Vec<BlockArg> {
            std::iter::once(i).chain(values.iter().copied()).map(BlockArg::from).collect()
        };
        self.b.ins().jump(head, &block_args(begin, carried));
        self.b.switch_to_block(head);
        let more = self.b.ins().icmp(IntCC::SignedLessThan, i, limit);
        self.b.ins().brif(more, inside, &[], exit, &[]);
        self.b.switch_to_block(inside);
        let next_values = body(self, i, &args)?;
        let next = self.b.ins().iadd_imm_s(i, step);
        self.b.ins().jump(head, &block_args(next, &next_values));
        self.b.switch_to_block(exit);
        Ok((i, args))
    }

    pub fn i64(&mut self, value: i64) -> Value {
        self.b.ins().iconst(types::I64, value)
    }

    /// The value of an index expression; in a vectorized loop, that of the first lane.
    pub fn ix(&mut self, ix: &Ix) -> Result<Value> {
        Ok(match ix {
            Ix::Const(c) => self.i64(*c),
            Ix::Var(v) => match self.vars[v.index()] {
                Some(value) => value,
                None => return self.unsupported(format!("the use of {v} outside its loop")),
            },
            Ix::Dim(d) => self.dims[*d as usize],
            Ix::Scalar(s) => match self.val(*s)? {
                Repr::Uniform(value) => value,
                Repr::Lanes(_) => return self.unsupported("an index that differs between lanes"),
            },
            Ix::Add(a, b) => match b.as_const() {
                Some(c) => {
                    let a = self.ix(a)?;
                    self.b.ins().iadd_imm_s(a, c)
                }
                None => {
                    let (a, b) = (self.ix(a)?, self.ix(b)?);
                    self.b.ins().iadd(a, b)
                }
            },
            Ix::Mul(a, b) => match b.as_const() {
                Some(c) => {
                    let a = self.ix(a)?;
                    self.scaled(a, c)
                }
                None => {
                    let (a, b) = (self.ix(a)?, self.ix(b)?);
                    self.b.ins().imul(a, b)
                }
            },
            Ix::FloorDiv(a, b) => self.div_mod(a, b)?.0,
            Ix::Mod(a, b) => self.div_mod(a, b)?.1,
            Ix::Min(a, b) => {
                let (a, b) = (self.ix(a)?, self.ix(b)?);
                let less = self.b.ins().icmp(IntCC::SignedLessThan, a, b);
                self.b.ins().select(less, a, b)
            }
            Ix::Max(a, b) => {
                let (a, b) = (self.ix(a)?, self.ix(b)?);
                let less = self.b.ins().icmp(IntCC::SignedLessThan, a, b);
                self.b.ins().select(less, b, a)
            }
        })
    }

    /// `value * factor`, by a shift where that is enough.
    pub fn scaled(&mut self, value: Value, factor: i64) -> Value {
        match factor {
            1 => value,
            f if f > 0 && (f as u64).is_power_of_two() => {
                self.b.ins().ishl_imm_u(value, i64::from(f.trailing_zeros()))
            }
            f => self.b.ins().imul_imm_s(value, f),
        }
    }

    /// Quotient rounded down and remainder in `[0, divisor)`; both 0 for a divisor of 0.
    fn div_mod(&mut self, a: &Ix, b: &Ix) -> Result<(Value, Value)> {
        let n = self.ix(a)?;
        if let Some(c) = b.as_const()
            && c > 0
            && (c as u64).is_power_of_two()
        {
            let quotient = self.b.ins().sshr_imm_u(n, i64::from(c.trailing_zeros()));
            let remainder = self.b.ins().band_imm_s(n, c - 1);
            return Ok((quotient, remainder));
        }
        let d = self.ix(b)?;
        let one = self.i64(1);
        let zero = self.i64(0);
        let no_divisor = self.b.ins().icmp(IntCC::SignedLessThanOrEqual, d, zero);
        let divisor =
            if b.as_const().is_some_and(|c| c > 0) { d } else { self.b.ins().select(no_divisor, one, d) };
        let truncated = self.b.ins().sdiv(n, divisor);
        let product = self.b.ins().imul(truncated, divisor);
        let rest = self.b.ins().isub(n, product);
        // A negative remainder means that the quotient was rounded up.
        let correction = self.b.ins().sshr_imm_u(rest, 63);
        let quotient = self.b.ins().iadd(truncated, correction);
        let masked = self.b.ins().band(correction, divisor);
        let remainder = self.b.ins().iadd(rest, masked);
        if b.as_const().is_some_and(|c| c > 0) {
            return Ok((quotient, remainder));
        }
        Ok((
            self.b.ins().select(no_divisor, zero, quotient),
            self.b.ins().select(no_divisor, zero, remainder),
        ))
    }

    /// Calls a function of the helper table.
    pub fn helper(&mut self, name: &str, args: &[Value]) -> Result<Value> {
        let Some(info) = helper(name) else { return self.unsupported(format!("the helper `{name}`")) };
        let clif_type = |ty: AbiType| match ty {
            AbiType::I32 => types::I32,
            AbiType::I64 => types::I64,
            AbiType::F32 => types::F32,
            AbiType::F64 => types::F64,
        };
        let mut signature = Signature::new(CallConv::SystemV);
        signature.params.extend(info.params.iter().map(|&ty| AbiParam::new(clif_type(ty))));
        signature.returns.push(AbiParam::new(clif_type(info.result)));
        let signature = self.b.import_signature(signature);
        let pointer = self.b.ins().load(types::I64, flags(), self.helpers, info.offset as i32);
        let call = self.b.ins().call_indirect(signature, pointer, args);
        Ok(self.b.inst_results(call)[0])
    }

    /// Address of an element: the buffer's base plus the scaled index.
    pub fn address(&mut self, buffer: BufferId, index: Value, bytes: i64) -> Value {
        let offset = self.scaled(index, bytes);
        self.b.ins().iadd(self.bases[buffer.index()], offset)
    }

    /// The value in lanes: itself, or a uniform value repeated.
    pub fn lanes(&mut self, repr: &Repr, dtype: DType, groups: usize) -> SmallVec<[Value; 4]> {
        match repr {
            Repr::Lanes(lanes) => lanes.clone(),
            Repr::Uniform(value) => {
                let vector = self.splat(*value, dtype);
                smallvec![vector; groups]
            }
        }
    }
}
