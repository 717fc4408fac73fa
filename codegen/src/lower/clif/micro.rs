//! Micro-kernels: rows of the packed left operand times vectors of a panel, sums in registers.
//!
//! Cranelift's fused multiply-add overwrites a factor, never the sum. A tile one vector wide uses every broadcast
//! once, so the result takes the broadcast's register and no copies are left in the loop.
//!
//! Micro-kernels are functions of their own, compiled without Cranelift's optimizer, which would move all loads of an
//! iteration before all arithmetic and spill them.

use cranelift_codegen::ir::{AbiParam, InstBuilder, Signature, Type, Value, types};
use cranelift_codegen::isa::{CallConv, TargetFrontendConfig};
use cranelift_frontend::FunctionBuilder;
use kiln_ir::DType;
use kiln_runtime::cpu::Tier;

use super::contract::STRIDE;
use super::emit::{Emitter, Result, flags};

/// Heights of the micro-kernels, tallest first.
pub(super) const HEIGHTS: [i64; 5] = [12, 8, 4, 2, 1];

/// Most sums that stay in registers, with room for the operands.
const SUMS: i64 = 12;

/// Vectors of columns that a micro-kernel of a height handles at once: a divisor of the panel's number of vectors, as
/// many as fit, so that there are enough independent sums to hide the latency of the additions.
pub(super) fn vectors(height: i64, panel: i64) -> i64 {
    (1..=panel).rev().find(|v| panel % v == 0 && (height * v <= SUMS || *v == 1)).unwrap_or(1)
}

/// Steps of the reduction a loop iteration does.
const UNROLL: i64 = 8;

/// Shape of a micro-kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Micro {
    /// Dtype of the sums.
    pub acc: DType,
    /// Dtype of the panel's elements.
    pub storage: DType,
    /// Whether a step multiplies four words of a row with four bytes of each column.
    pub quads: bool,
    /// Panel width in elements.
    pub width: i64,
    /// Number of rows.
    pub rows: i64,
    /// Vectors of columns.
    pub vectors: i64,
    /// Whether to add to the sums in memory (or to replace them).
    pub accumulate: bool,
}

impl Micro {
    fn vector_type(&self) -> Type {
        match self.acc {
            DType::F64 => types::F64X2,
            DType::F32 => types::F32X4,
            _ => types::I32X4,
        }
    }

    fn bytes(&self) -> i64 {
        (self.acc.bits() / 8) as i64
    }
}

/// Signature of a micro-kernel: packed rows, panel, sums, bytes between rows of sums, depth.
pub(super) fn signature() -> Signature {
    let mut signature = Signature::new(CallConv::SystemV);
    signature.params.extend([AbiParam::new(types::I64); 5]);
    signature
}

/// Emits the function `sums[row][vector] (+)= sum over depth of a[row][k] * b[k][vector]`.
pub(super) fn emit(
    b: FunctionBuilder<'_>,
    micro: &Micro,
    tier: Tier,
    config: TargetFrontendConfig,
) -> Result<()> {
    let mut emitter = Emitter::bare(b, tier);
    emitter.micro_kernel(micro)?;
    emitter.b.seal_all_blocks();
    emitter.b.finalize(config);
    Ok(())
}

impl Emitter<'_> {
    fn micro_kernel(&mut self, micro: &Micro) -> Result<()> {
        let ty = micro.vector_type();
        let entry = self.b.create_block();
        self.b.append_block_params_for_function_params(entry);
        self.b.switch_to_block(entry);
        let &[a, b, sums, row_bytes, depth] = self.b.block_params(entry) else {
            return self.unsupported("a micro-kernel of another signature");
        };
        let mut initial = vec![a, b];
        for _ in 0..micro.rows * micro.vectors {
            initial.push(self.zero_vector(micro.acc));
        }
        let zero = self.i64(0);
        let limit = self.b.ins().iadd_imm_s(depth, 1 - UNROLL);
        let (at, values) =
            self.counted(zero, limit, UNROLL, &initial, |s, _, args| s.steps(micro, args, UNROLL))?;
        let (_, values) = self.counted(at, depth, 1, &values, |s, _, args| s.steps(micro, args, 1))?;
        let mut address = sums;
        for (row, sums) in values[2..].chunks(micro.vectors as usize).enumerate() {
            if row > 0 {
                address = self.b.ins().iadd(address, row_bytes);
            }
            for (vector, &sum) in sums.iter().enumerate() {
                let offset = 16 * vector as i32;
                let sum = if micro.accumulate {
                    let before = self.b.ins().load(ty, flags(), address, offset);
                    if micro.acc == DType::I32 {
                        self.b.ins().iadd(before, sum)
                    } else {
                        self.b.ins().fadd(before, sum)
                    }
                } else {
                    sum
                };
                self.b.ins().store(flags(), sum, address, offset);
            }
        }
        self.b.ins().return_(&[]);
        Ok(())
    }

    /// `count` steps of the reduction; `args` are the two pointers and the sums.
    fn steps(&mut self, micro: &Micro, args: &[Value], count: i64) -> Result<Vec<Value>> {
        if micro.quads {
            return self.quad_steps(micro, args, count);
        }
        let (a, b) = (args[0], args[1]);
        let mut sums = args[2..].to_vec();
        let storage_bytes = (micro.storage.bits() / 8) as i64;
        let lanes = super::contract::lanes(micro.acc);
        for k in 0..count {
            let mut columns = vec![];
            for vector in 0..micro.vectors {
                let offset = (k * micro.width + vector * lanes) * storage_bytes;
                columns.push(self.panel_vector(micro, b, offset as i32)?);
            }
            for row in 0..micro.rows {
                let offset = (row * STRIDE + k) * micro.bytes();
                let scalar_type = micro.vector_type().lane_type();
                for (vector, &column) in columns.iter().enumerate() {
                    let scalar = self.b.ins().load(scalar_type, flags(), a, offset as i32);
                    let factor = self.b.ins().splat(micro.vector_type(), scalar);
                    let sum = &mut sums[row as usize * micro.vectors as usize + vector];
                    *sum = if micro.acc == DType::I32 {
                        let product = self.b.ins().imul(factor, column);
                        self.b.ins().iadd(*sum, product)
                    } else {
                        self.mul_add(factor, column, *sum)
                    };
                }
            }
        }
        let a = self.b.ins().iadd_imm_s(a, count * micro.bytes());
        let b = self.b.ins().iadd_imm_s(b, count * micro.width * storage_bytes);
        Ok([&[a, b], sums.as_slice()].concat())
    }

    /// The same of quads: products of 16-bit words, added in pairs.
    fn quad_steps(&mut self, micro: &Micro, args: &[Value], count: i64) -> Result<Vec<Value>> {
        let (a, b) = (args[0], args[1]);
        let mut sums = args[2..].to_vec();
        for k in 0..count {
            let mut columns = vec![];
            for vector in 0..micro.vectors {
                let offset = (k * micro.width + 4 * vector) * 4;
                let bytes = self.b.ins().load(types::I8X16, flags(), b, offset as i32);
                columns.push([self.b.ins().swiden_low(bytes), self.b.ins().swiden_high(bytes)]);
            }
            for row in 0..micro.rows {
                let offset = (row * STRIDE + 4 * k) * 2;
                let words = self.b.ins().load(types::I64, flags(), a, offset as i32);
                let factor = self.b.ins().splat(types::I64X2, words);
                let factor = self.recast(types::I16X8, factor);
                for (vector, halves) in columns.iter().enumerate() {
                    let [low, high] = halves.map(|half| self.pair_products(factor, half));
                    let products = self.b.ins().iadd_pairwise(low, high);
                    let sum = &mut sums[row as usize * micro.vectors as usize + vector];
                    *sum = self.b.ins().iadd(*sum, products);
                }
            }
        }
        let a = self.b.ins().iadd_imm_s(a, count * 8);
        let b = self.b.ins().iadd_imm_s(b, count * micro.width * 4);
        Ok([&[a, b], sums.as_slice()].concat())
    }

    /// Products of eight words as four sums of neighbours; one instruction on x86-64.
    pub(super) fn pair_products(&mut self, a: Value, b: Value) -> Value {
        let (a_low, a_high) = (self.b.ins().swiden_low(a), self.b.ins().swiden_high(a));
        let (b_low, b_high) = (self.b.ins().swiden_low(b), self.b.ins().swiden_high(b));
        let (low, high) = (self.b.ins().imul(a_low, b_low), self.b.ins().imul(a_high, b_high));
        self.b.ins().iadd_pairwise(low, high)
    }

    fn panel_vector(&mut self, micro: &Micro, b: Value, offset: i32) -> Result<Value> {
        if micro.acc == DType::F64 {
            return Ok(self.b.ins().load(types::F64X2, flags(), b, offset));
        }
        self.load_group(micro.storage, b, offset)
    }
}
