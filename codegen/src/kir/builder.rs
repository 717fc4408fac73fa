//! Builds kernels: allocates ids, infers dtypes, nests blocks by closures, and verifies at the end.

use kiln_ir::{DType, Prim, Scalar};

use super::{
    Access, Accumulator, Axis, Block, Bound, Buffer, BufferId, Carried, Contract, For, GROUP, Guard, Ix,
    Kernel, LoopKind, Op, Operand, Reduce, Rhs, Sparse, Stmt, Val, Var, VerifyError, compute_dtype, verify,
};

/// Ranges of a contraction, each `(begin, extent)`; see [`Contract`].
#[derive(Clone, Debug)]
pub struct ContractShape {
    /// Rows.
    pub m: (Ix, Ix),
    /// Columns.
    pub n: (Ix, Ix),
    /// Outer reduction axes.
    pub taps: Vec<(Ix, Ix)>,
    /// Innermost reduction axis.
    pub k: (Ix, Ix),
    /// Dtype of the sums.
    pub acc_dtype: DType,
}

/// Where the right operand of a contraction comes from.
pub enum RhsBuilder<'a> {
    /// Packed weights.
    Packed {
        /// The weights.
        buffer: BufferId,
        /// Element index of the first panel.
        base: Ix,
        /// Panel width.
        width: u32,
    },
    /// Packed weights of which four bytes of the reduction lie side by side.
    Quads {
        /// The weights, i8.
        buffer: BufferId,
        /// Element index of the first panel.
        base: Ix,
        /// Panel width.
        width: u32,
    },
    /// Weights of which those that are not zero are listed.
    Sparse(Sparse),
    /// Computed from `(n, taps, k)`.
    Strided(&'a mut dyn FnMut(&mut KernelBuilder, &Ix, &[Ix], &Ix) -> Val),
}

/// Builds a [`Kernel`]. Methods append to the innermost open block.
#[derive(Debug)]
pub struct KernelBuilder {
    kernel: Kernel,
    blocks: Vec<Block>,
}

impl KernelBuilder {
    /// An empty kernel.
    pub fn new(name: impl Into<String>) -> KernelBuilder {
        let kernel = Kernel {
            name: name.into(),
            buffers: vec![],
            dims: 0,
            grid: vec![],
            body: vec![],
            vals: vec![],
            vars: 0,
        };
        KernelBuilder { kernel, blocks: vec![vec![]] }
    }

    /// Declares a buffer.
    pub fn buffer(&mut self, dtype: DType, access: Access) -> BufferId {
        self.kernel.buffers.push(Buffer { dtype, access });
        BufferId(self.kernel.buffers.len() as u32 - 1)
    }

    /// Declares an input.
    pub fn input(&mut self, dtype: DType) -> BufferId {
        self.buffer(dtype, Access::In)
    }

    /// Declares compile-time data.
    pub fn weights(&mut self, dtype: DType) -> BufferId {
        self.buffer(dtype, Access::Const)
    }

    /// Declares an output.
    pub fn output(&mut self, dtype: DType) -> BufferId {
        self.buffer(dtype, Access::Out)
    }

    /// Declares scratch of `len` elements (constants and dims only).
    pub fn scratch(&mut self, dtype: DType, len: impl Into<Ix>) -> BufferId {
        self.buffer(dtype, Access::Scratch { len: len.into() })
    }

    /// Declares a run-time integer parameter.
    pub fn dim(&mut self) -> Ix {
        self.kernel.dims += 1;
        Ix::Dim(self.kernel.dims - 1)
    }

    /// Adds a parallel loop, inside those added before.
    pub fn grid(&mut self, extent: impl Into<Ix>) -> Ix {
        let var = self.var();
        self.kernel.grid.push((var, extent.into()));
        Ix::Var(var)
    }

    /// A fresh loop variable, for statements built by hand.
    pub fn var(&mut self) -> Var {
        self.kernel.vars += 1;
        Var(self.kernel.vars - 1)
    }

    /// A fresh value without a definition, for statements built by hand.
    pub fn val(&mut self, dtype: DType) -> Val {
        self.kernel.vals.push(dtype);
        Val(self.kernel.vals.len() as u32 - 1)
    }

    /// Dtype of a value.
    ///
    /// # Panics
    /// If the value is of another builder.
    pub fn dtype(&self, val: Val) -> DType {
        self.kernel.dtype(val)
    }

    /// Storage dtype of a buffer.
    ///
    /// # Panics
    /// If the buffer is of another builder.
    pub fn buffer_dtype(&self, buffer: BufferId) -> DType {
        self.kernel.buffers[buffer.index()].dtype
    }

    /// Appends a statement.
    pub fn push(&mut self, stmt: Stmt) {
        match self.blocks.last_mut() {
            Some(block) => block.push(stmt),
            None => self.blocks.push(vec![stmt]),
        }
    }

    /// Appends `dst = op` with a fresh `dst` of the dtype.
    pub fn define(&mut self, dtype: DType, op: Op) -> Val {
        let dst = self.val(dtype);
        self.push(Stmt::Let { dst, op });
        dst
    }

    /// Collects what `f` appends into a block of its own.
    pub fn block<R>(&mut self, f: impl FnOnce(&mut KernelBuilder) -> R) -> (Block, R) {
        self.blocks.push(vec![]);
        let result = f(self);
        (self.blocks.pop().unwrap_or_default(), result)
    }

    /// A literal; converted to the class of the dtype.
    pub fn literal(&mut self, dtype: DType, value: f64) -> Val {
        self.define(dtype, Op::Const(scalar_of(dtype, value)))
    }

    /// A literal given exactly.
    pub fn constant(&mut self, dtype: DType, value: Scalar) -> Val {
        self.define(dtype, Op::Const(value))
    }

    /// One element of a buffer, in its compute dtype.
    pub fn load(&mut self, buffer: BufferId, index: impl Into<Ix>) -> Val {
        let dtype = self.loaded_dtype(buffer);
        self.define(dtype, Op::Load { buffer, index: index.into(), guard: None })
    }

    /// One element inside the bounds, `otherwise` outside.
    pub fn load_guarded(
        &mut self,
        buffer: BufferId,
        index: impl Into<Ix>,
        bounds: Vec<Bound>,
        otherwise: f64,
    ) -> Val {
        let dtype = self.loaded_dtype(buffer);
        let guard = Guard { bounds, otherwise: scalar_of(dtype, otherwise) };
        self.define(dtype, Op::Load { buffer, index: index.into(), guard: Some(guard) })
    }

    fn loaded_dtype(&self, buffer: BufferId) -> DType {
        let storage = self.buffer_dtype(buffer);
        // Strings and complex numbers keep their dtype here; the verifier refuses them by name.
        compute_dtype(storage).unwrap_or(storage)
    }

    /// A primitive.
    ///
    /// # Panics
    /// If there are no operands.
    pub fn apply(&mut self, prim: Prim, operands: &[Val]) -> Val {
        let dtype = if prim.gives_bool() { DType::Bool } else { self.dtype(operands[operands.len() - 1]) };
        self.define(dtype, Op::Apply(prim, operands.iter().copied().collect()))
    }

    /// `a * b + c`.
    pub fn mul_add(&mut self, a: Val, b: Val, c: Val) -> Val {
        let dtype = self.dtype(a);
        self.define(dtype, Op::MulAdd(a, b, c))
    }

    /// Conversion; nothing where the dtype is right already.
    pub fn cast(&mut self, value: Val, dtype: DType) -> Val {
        if self.dtype(value) == dtype { value } else { self.define(dtype, Op::Cast(value)) }
    }

    /// The bits of a number as another of as many; nothing where the dtype is right already.
    pub fn bits(&mut self, value: Val, dtype: DType) -> Val {
        if self.dtype(value) == dtype { value } else { self.define(dtype, Op::Bits(value)) }
    }

    /// An index as an `i64` scalar.
    pub fn index(&mut self, index: impl Into<Ix>) -> Val {
        self.define(DType::I64, Op::Index(index.into()))
    }

    /// Writes one element.
    pub fn store(&mut self, buffer: BufferId, index: impl Into<Ix>, value: Val) {
        self.push(Stmt::Store { buffer, index: index.into(), value });
    }

    fn axis(&mut self, extent: impl Into<Ix>) -> Axis {
        Axis { var: self.var(), begin: Ix::Const(0), extent: extent.into() }
    }

    /// A loop from 0; the closure gets the variable.
    pub fn for_loop(&mut self, kind: LoopKind, extent: impl Into<Ix>, f: impl FnOnce(&mut Self, Ix)) {
        let axis = self.axis(extent);
        let var = axis.var;
        let (body, ()) = self.block(|b| f(b, Ix::Var(var)));
        self.push(Stmt::For(Box::new(For { axis, kind, carried: vec![], body })));
    }

    /// A loop of independent iterations.
    pub fn vector(&mut self, extent: impl Into<Ix>, f: impl FnOnce(&mut Self, Ix)) {
        self.for_loop(LoopKind::Vector, extent, f);
    }

    /// A loop in order.
    pub fn sequential(&mut self, extent: impl Into<Ix>, f: impl FnOnce(&mut Self, Ix)) {
        self.for_loop(LoopKind::Sequential, extent, f);
    }

    /// A sequential loop that carries values: the closure maps `(variable, current)` to the next values.
    pub fn fold(
        &mut self,
        extent: impl Into<Ix>,
        init: &[Val],
        f: impl FnOnce(&mut Self, Ix, &[Val]) -> Vec<Val>,
    ) -> Vec<Val> {
        let axis = self.axis(extent);
        let var = axis.var;
        let args: Vec<Val> = init.iter().map(|&v| self.val(self.dtype(v))).collect();
        let (body, next) = self.block(|b| f(b, Ix::Var(var), &args));
        let results: Vec<Val> = init.iter().map(|&v| self.val(self.dtype(v))).collect();
        let carried = init
            .iter()
            .zip(&args)
            .zip(next)
            .zip(&results)
            .map(|(((&init, &arg), next), &result)| Carried { init, arg, next, result })
            .collect();
        self.push(Stmt::For(Box::new(For { axis, kind: LoopKind::Sequential, carried, body })));
        results
    }

    /// A reduction: `combine` gives each accumulator's primitive and initial value, the closure the items.
    pub fn reduce(
        &mut self,
        kind: LoopKind,
        extent: impl Into<Ix>,
        combine: &[(Prim, Val)],
        f: impl FnOnce(&mut Self, Ix) -> Vec<Val>,
    ) -> Vec<Val> {
        let axis = self.axis(extent);
        let var = axis.var;
        let (body, items) = self.block(|b| f(b, Ix::Var(var)));
        let results: Vec<Val> = combine.iter().map(|&(_, v)| self.val(self.dtype(v))).collect();
        let accumulators = combine
            .iter()
            .zip(items)
            .zip(&results)
            .map(|((&(combine, init), item), &result)| Accumulator { combine, init, item, result })
            .collect();
        self.push(Stmt::Reduce(Box::new(Reduce { axis, kind, accumulators, body })));
        results
    }

    /// A conditional.
    pub fn if_else(&mut self, cond: Val, then: impl FnOnce(&mut Self), otherwise: impl FnOnce(&mut Self)) {
        let (then, ()) = self.block(then);
        let (otherwise, ()) = self.block(otherwise);
        self.push(Stmt::If { cond, then, otherwise });
    }

    /// A contraction: `a` maps `(m, taps, k)` to the left element, `epilogue` gets `(m, n, acc)`.
    pub fn contract(
        &mut self,
        shape: ContractShape,
        a: impl FnOnce(&mut Self, &Ix, &[Ix], &Ix) -> Val,
        b: RhsBuilder<'_>,
        epilogue: impl FnOnce(&mut Self, &Ix, &Ix, Val),
    ) {
        let mut axis = |(begin, extent): (Ix, Ix)| Axis { var: self.var(), begin, extent };
        let (m, n) = (axis(shape.m), axis(shape.n));
        let taps: Vec<Axis> = shape.taps.into_iter().map(&mut axis).collect();
        let k = axis(shape.k);
        let (m_ix, n_ix, k_ix) = (Ix::Var(m.var), Ix::Var(n.var), Ix::Var(k.var));
        let tap_ix: Vec<Ix> = taps.iter().map(|t| Ix::Var(t.var)).collect();
        let (body, value) = self.block(|builder| a(builder, &m_ix, &tap_ix, &k_ix));
        let a = Operand { body, value };
        let b = match b {
            RhsBuilder::Packed { buffer, base, width } => Rhs::Packed { buffer, base, width, group: 1 },
            RhsBuilder::Quads { buffer, base, width } => Rhs::Packed { buffer, base, width, group: GROUP },
            RhsBuilder::Sparse(sparse) => Rhs::Sparse(sparse),
            RhsBuilder::Strided(f) => {
                let (body, value) = self.block(|builder| f(builder, &n_ix, &tap_ix, &k_ix));
                Rhs::Strided(Operand { body, value })
            }
        };
        let acc = self.val(shape.acc_dtype);
        let (epilogue, ()) = self.block(|builder| epilogue(builder, &m_ix, &n_ix, acc));
        let acc_dtype = shape.acc_dtype;
        self.push(Stmt::Contract(Box::new(Contract { m, n, taps, k, a, b, acc_dtype, acc, epilogue })));
    }

    /// The verified kernel.
    pub fn finish(mut self) -> Result<Kernel, VerifyError> {
        self.kernel.body = self.blocks.pop().unwrap_or_default();
        verify(&self.kernel)?;
        Ok(self.kernel)
    }
}

/// A number as a scalar of the dtype's class.
pub fn scalar_of(dtype: DType, value: f64) -> Scalar {
    if dtype.is_float() {
        Scalar::F(value)
    } else if dtype == DType::Bool {
        Scalar::B(value != 0.0)
    } else {
        Scalar::I(value as i128)
    }
}
