//! The verifier. After it, lowering never panics. Its invariants:
//!
//! 1. Every id (buffer, value, variable, dim) is in range of the kernel's tables.
//! 2. Every value and every variable is defined exactly once, and used only where its definition is visible.
//! 3. Values have compute dtypes; buffers have dtypes that have a compute dtype.
//! 4. Literals, operands and results have the dtypes that the operation asks for; a primitive applies to its class.
//! 5. Nothing stores to `In` or `Const` buffers or to buffers of packed dtypes; stored values have the buffer's
//!    compute dtype. Nothing loads from `Out` buffers.
//! 6. Scratch lengths and grid extents are expressions over constants and dims.
//! 7. [`Ix::Scalar`] names an `i64` value. Guards have at least one bound.
//! 8. Carried values belong to sequential loops; reductions combine with an associative, commutative primitive.
//! 9. Contractions: sums are f32, f64 or i32; reduction axes are expressions over constants and dims, but that without
//!    taps the innermost extent may use outer variables where panels are not packed when compiled; it then has an
//!    upper bound, as row and column extents do; operands are `Let` statements; the panel width is 1 to 1024; panels
//!    whose elements lie side by side in groups hold i8, the left operand is u8 and sums are i32. Sparse operands are
//!    lists of i32 and values of f32, sums and the left operand are f32, or all are as those of such panels, and the
//!    reduction has a constant length; where they are constants, columns begin at a multiple of a range's and are no
//!    more, and with a window, rows are whole lines.

use kiln_ir::{DClass, DType, Prim, Scalar};

use super::sparse::{Form, MOST_DEPTH, Window};
use super::{
    Access, Axis, Block, BufferId, Contract, For, GROUP, Guard, Ix, Kernel, LoopKind, Op, Operand, Reduce,
    Rhs, Sparse, Stmt, Val, Var, compute_dtype,
};

/// A broken invariant of a kernel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("kernel `{kernel}`: {reason}")]
pub struct VerifyError {
    /// Name of the kernel.
    pub kernel: String,
    /// What is wrong, naming ids.
    pub reason: String,
}

/// Checks every invariant of the module documentation.
pub fn verify(kernel: &Kernel) -> Result<(), VerifyError> {
    let mut verifier = Verifier {
        kernel,
        val_defined: vec![false; kernel.vals.len()],
        val_visible: vec![false; kernel.vals.len()],
        var_defined: vec![false; kernel.vars as usize],
        var_visible: vec![false; kernel.vars as usize],
        trail: vec![],
    };
    verifier.kernel().map_err(|reason| VerifyError { kernel: kernel.name.clone(), reason })
}

type Check = Result<(), String>;

enum Visible {
    Val(Val),
    Var(Var),
}

struct Verifier<'a> {
    kernel: &'a Kernel,
    val_defined: Vec<bool>,
    val_visible: Vec<bool>,
    var_defined: Vec<bool>,
    var_visible: Vec<bool>,
    trail: Vec<Visible>,
}

fn ensure(condition: bool, reason: impl FnOnce() -> String) -> Check {
    if condition { Ok(()) } else { Err(reason()) }
}

impl Verifier<'_> {
    fn kernel(&mut self) -> Check {
        for (i, dtype) in self.kernel.vals.iter().enumerate() {
            ensure(compute_dtype(*dtype) == Some(*dtype), || {
                format!("s{i} has dtype {dtype}, not a compute dtype")
            })?;
        }
        for (i, buffer) in self.kernel.buffers.iter().enumerate() {
            ensure(compute_dtype(buffer.dtype).is_some(), || format!("b{i} has dtype {}", buffer.dtype))?;
            if let Access::Scratch { len } = &buffer.access {
                self.uniform(len, || format!("length of b{i}"))?;
                ensure(!buffer.dtype.is_packed(), || {
                    format!("scratch b{i} has packed dtype {}", buffer.dtype)
                })?;
            }
        }
        for (var, extent) in &self.kernel.grid {
            self.uniform(extent, || format!("grid extent of {var}"))?;
            self.define_var(*var)?;
        }
        self.block(&self.kernel.body)
    }

    fn uniform(&self, ix: &Ix, what: impl FnOnce() -> String) -> Check {
        self.ix(ix)?;
        ensure(ix.is_uniform(), || format!("{} `{ix}` is not over constants and dims only", what()))
    }

    fn define_val(&mut self, val: Val) -> Check {
        let Some(defined) = self.val_defined.get_mut(val.index()) else {
            return Err(format!("{val} is not in the table of values"));
        };
        if std::mem::replace(defined, true) {
            return Err(format!("{val} is defined twice"));
        }
        self.val_visible[val.index()] = true;
        self.trail.push(Visible::Val(val));
        Ok(())
    }

    fn define_var(&mut self, var: Var) -> Check {
        let Some(defined) = self.var_defined.get_mut(var.index()) else {
            return Err(format!("{var} is not in the table of variables"));
        };
        if std::mem::replace(defined, true) {
            return Err(format!("{var} is defined twice"));
        }
        self.var_visible[var.index()] = true;
        self.trail.push(Visible::Var(var));
        Ok(())
    }

    /// Runs `f`, then hides what it defined.
    fn scope(&mut self, f: impl FnOnce(&mut Self) -> Check) -> Check {
        let mark = self.trail.len();
        f(self)?;
        for visible in self.trail.drain(mark..) {
            match visible {
                Visible::Val(v) => self.val_visible[v.index()] = false,
                Visible::Var(v) => self.var_visible[v.index()] = false,
            }
        }
        Ok(())
    }

    /// Dtype of a visible value.
    fn val(&self, val: Val) -> Result<DType, String> {
        match self.val_visible.get(val.index()) {
            Some(true) => Ok(self.kernel.vals[val.index()]),
            Some(false) => Err(format!("{val} is used where its definition is not visible")),
            None => Err(format!("{val} is not in the table of values")),
        }
    }

    fn val_of(&self, val: Val, dtype: DType, what: &str) -> Check {
        let got = self.val(val)?;
        ensure(got == dtype, || format!("{what} {val} has dtype {got}, expected {dtype}"))
    }

    fn ix(&self, ix: &Ix) -> Check {
        let mut result = Ok(());
        ix.visit_leaves(&mut |leaf| {
            if result.is_err() {
                return;
            }
            result = match leaf {
                Ix::Var(v) => ensure(self.var_visible.get(v.index()) == Some(&true), || {
                    format!("{v} is used where its loop is not open")
                }),
                Ix::Dim(d) => ensure(*d < self.kernel.dims, || format!("d{d} is not a dim of the kernel")),
                Ix::Scalar(s) => self.val_of(*s, DType::I64, "index"),
                _ => Ok(()),
            };
        });
        result
    }

    fn buffer(&self, buffer: BufferId) -> Result<(DType, &Access), String> {
        let b = self.kernel.buffers.get(buffer.index());
        b.map(|b| (b.dtype, &b.access)).ok_or_else(|| format!("{buffer} is not a buffer of the kernel"))
    }

    fn block(&mut self, block: &Block) -> Check {
        block.iter().try_for_each(|stmt| self.stmt(stmt))
    }

    fn stmt(&mut self, stmt: &Stmt) -> Check {
        match stmt {
            Stmt::Let { dst, op } => {
                let dtype =
                    *self.kernel.vals.get(dst.index()).ok_or_else(|| format!("{dst} is not in the table"))?;
                self.op(*dst, dtype, op)?;
                self.define_val(*dst)
            }
            Stmt::Store { buffer, index, value } => {
                self.ix(index)?;
                let (dtype, access) = self.buffer(*buffer)?;
                let writable = matches!(access, Access::Out | Access::InOut | Access::Scratch { .. });
                ensure(writable, || format!("store to read-only {buffer}"))?;
                ensure(!dtype.is_packed(), || format!("store to {buffer} of packed dtype {dtype}"))?;
                self.val_of(*value, compute_dtype(dtype).unwrap_or(dtype), "stored value")
            }
            Stmt::For(l) => self.for_loop(l),
            Stmt::Reduce(r) => self.reduce(r),
            Stmt::If { cond, then, otherwise } => {
                self.val_of(*cond, DType::Bool, "condition")?;
                self.scope(|v| v.block(then))?;
                self.scope(|v| v.block(otherwise))
            }
            Stmt::Contract(c) => self.contract(c),
        }
    }

    fn op(&self, dst: Val, dtype: DType, op: &Op) -> Check {
        match op {
            Op::Const(value) => literal(dtype, value).map_err(|e| format!("{dst}: {e}")),
            Op::Load { buffer, index, guard } => {
                self.ix(index)?;
                let (storage, access) = self.buffer(*buffer)?;
                ensure(*access != Access::Out, || format!("load from output {buffer}"))?;
                let loaded = compute_dtype(storage).unwrap_or(storage);
                ensure(loaded == dtype, || format!("{dst} has dtype {dtype}, the load gives {loaded}"))?;
                guard.as_ref().map_or(Ok(()), |guard| self.guard(dst, dtype, guard))
            }
            Op::Apply(prim, operands) => self.apply(dst, dtype, *prim, operands),
            Op::Cast(value) => self.val(*value).map(|_| ()),
            Op::Bits(value) => {
                let from = self.val(*value)?;
                let fits = from.bits() == dtype.bits() && from != DType::Bool && dtype != DType::Bool;
                ensure(fits, || format!("{dst} of dtype {dtype} has not the bits of {value} of {from}"))
            }
            Op::MulAdd(a, b, c) => {
                ensure(dtype.is_float(), || format!("{dst}: muladd of dtype {dtype}"))?;
                [a, b, c].into_iter().try_for_each(|v| self.val_of(*v, dtype, "operand"))
            }
            Op::Index(index) => {
                ensure(dtype == DType::I64, || format!("{dst}: an index has dtype i64, not {dtype}"))?;
                self.ix(index)
            }
        }
    }

    fn guard(&self, dst: Val, dtype: DType, guard: &Guard) -> Check {
        ensure(!guard.bounds.is_empty(), || format!("{dst}: guard without bounds"))?;
        for bound in &guard.bounds {
            [&bound.index, &bound.lower, &bound.upper].into_iter().try_for_each(|ix| self.ix(ix))?;
        }
        literal(dtype, &guard.otherwise).map_err(|e| format!("{dst}: {e}"))
    }

    fn apply(&self, dst: Val, dtype: DType, prim: Prim, operands: &[Val]) -> Check {
        let name = prim.name();
        ensure(operands.len() == prim.arity(), || format!("{dst}: {name} takes {} operands", prim.arity()))?;
        let mut values = operands;
        if prim == Prim::Select {
            self.val_of(operands[0], DType::Bool, "condition")?;
            values = &operands[1..];
        }
        let operand_dtype = self.val(values[0])?;
        values.iter().try_for_each(|v| self.val_of(*v, operand_dtype, "operand"))?;
        let result = if prim.gives_bool() { DType::Bool } else { operand_dtype };
        ensure(result == dtype, || format!("{dst} has dtype {dtype}, {name} gives {result}"))?;
        ensure(applies(prim, operand_dtype), || format!("{dst}: {name} does not apply to {operand_dtype}"))
    }

    fn axis(&self, axis: &Axis) -> Check {
        self.ix(&axis.begin)?;
        self.ix(&axis.extent)
    }

    fn for_loop(&mut self, l: &For) -> Check {
        self.axis(&l.axis)?;
        let sequential = l.kind == LoopKind::Sequential;
        ensure(sequential || l.carried.is_empty(), || format!("vector loop {} carries values", l.axis.var))?;
        self.scope(|v| {
            v.define_var(l.axis.var)?;
            for c in &l.carried {
                let dtype = v.val(c.init)?;
                v.define_val(c.arg)?;
                v.val_of(c.arg, dtype, "carried argument")?;
            }
            v.block(&l.body)?;
            l.carried.iter().try_for_each(|c| {
                let dtype = v.val(c.init)?;
                v.val_of(c.next, dtype, "carried value")
            })
        })?;
        for c in &l.carried {
            self.define_val(c.result)?;
            self.val_of(c.result, self.val(c.init)?, "carried result")?;
        }
        Ok(())
    }

    fn reduce(&mut self, r: &Reduce) -> Check {
        self.axis(&r.axis)?;
        self.scope(|v| {
            v.define_var(r.axis.var)?;
            v.block(&r.body)?;
            r.accumulators.iter().try_for_each(|a| {
                let dtype = v.val(a.init)?;
                let ok = combines(a.combine) && applies(a.combine, dtype);
                ensure(ok, || format!("{}: no reduction by {} of {dtype}", a.result, a.combine.name()))?;
                v.val_of(a.item, dtype, "reduced item")
            })
        })?;
        for a in &r.accumulators {
            self.define_val(a.result)?;
            self.val_of(a.result, self.val(a.init)?, "reduction result")?;
        }
        Ok(())
    }

    fn contract(&mut self, c: &Contract) -> Check {
        let acc = c.acc_dtype;
        let known = matches!(acc, DType::F32 | DType::F64 | DType::I32);
        ensure(known, || format!("contraction {} with sums of {acc}", c.acc))?;
        for axis in [&c.m, &c.n] {
            self.axis(axis)?;
            ensure(axis.extent.upper_bound().is_some(), || {
                format!("extent `{}` of {} has no upper bound over constants and dims", axis.extent, axis.var)
            })?;
        }
        // Panels that are packed when compiled, and what taps read, have one length.
        let strided = c.taps.is_empty() && matches!(c.b, Rhs::Strided(_));
        let bounded = strided && c.k.extent.upper_bound().is_some();
        for axis in c.taps.iter().chain([&c.k]) {
            self.uniform(&axis.begin, || format!("begin of {}", axis.var))?;
        }
        for axis in c.taps.iter().chain([&c.k].into_iter().filter(|_| !bounded)) {
            self.uniform(&axis.extent, || format!("extent of {}", axis.var))?;
        }
        self.ix(&c.k.extent)?;
        let reduction: Vec<Var> = c.taps.iter().chain([&c.k]).map(|axis| axis.var).collect();
        // Each part sees its own variables only, but every variable is defined once.
        let all = [&[c.m.var, c.n.var], reduction.as_slice()].concat();
        self.scope(|v| {
            all.iter().try_for_each(|var| v.define_var(*var))?;
            v.hidden(&[c.n.var], |v| v.operand(acc, &c.a))?;
            match &c.b {
                Rhs::Packed { buffer, base, width, group } => v.hidden(&all, |v| {
                    let (dtype, access) = v.buffer(*buffer)?;
                    let bytes =
                        acc == DType::I32 && dtype == DType::I8 && v.kernel.dtype(c.a.value) == DType::U8;
                    ensure(*group == 1 || (*group == GROUP && bytes), || {
                        format!("groups of {group} elements of {buffer} of {dtype}")
                    })?;
                    ensure(*access != Access::Out, || format!("load from output {buffer}"))?;
                    ensure((1..=1024).contains(width), || format!("panel width {width} of {buffer}"))?;
                    let loaded = compute_dtype(dtype).unwrap_or(dtype);
                    ensure(widens(loaded, acc), || format!("{buffer} of {dtype} in a contraction of {acc}"))?;
                    v.ix(base)
                })?,
                Rhs::Strided(operand) => v.hidden(&[c.m.var], |v| v.operand(acc, operand))?,
                Rhs::Sparse(sparse) => v.sparse(c, sparse)?,
            }
            v.define_val(c.acc)?;
            v.val_of(c.acc, acc, "sum")?;
            v.hidden(&reduction, |v| v.scope(|v| v.block(&c.epilogue)))
        })
    }

    fn sparse(&self, c: &Contract, s: &Sparse) -> Check {
        let Form { columns, block, depth, rows, group, window } = s.form;
        let (values, sums, element) = match group {
            GROUP => (DType::I8, DType::I32, DType::U8),
            _ => (DType::F32, DType::F32, DType::F32),
        };
        ensure(matches!(group, 1 | GROUP), || format!("groups of {group} elements of sparse {}", s.values))?;
        for (buffer, dtype) in [(s.index, DType::I32), (s.values, values)] {
            let (got, access) = self.buffer(buffer)?;
            ensure(got == dtype, || format!("sparse {buffer} of {got}, expected {dtype}"))?;
            ensure(*access == Access::Const, || format!("sparse {buffer} is not constant"))?;
        }
        let left = self.kernel.dtype(c.a.value);
        ensure(c.acc_dtype == sums && left == element, || {
            format!("sparse operand in sums of {} of {left}", c.acc_dtype)
        })?;
        let begins = c.n.begin.as_const().is_none_or(|begin| begin % i64::from(columns.max(1)) == 0);
        let fits = c.n.extent.as_const().is_none_or(|n| n <= i64::from(columns));
        ensure(begins && fits, || {
            format!("columns from `{}` count `{}` in ranges of {columns}", c.n.begin, c.n.extent)
        })?;
        let blocks = matches!(block, 1 | 2 | 4) && columns % block == 0;
        let sizes = (1..=1 << 16).contains(&columns) && (1..=MOST_DEPTH).contains(&i64::from(depth));
        let tile = rows % 16 == 0 && (16..=256).contains(&rows);
        let pixels = window.is_none_or(|window| fits_window(c, s.form, window));
        ensure(blocks && sizes && tile && pixels && s.parts(c).is_some(), || {
            format!(
                "sparse operand of {} with columns={columns} block={block} depth={depth} rows={rows}",
                s.index
            )
        })
    }

    /// Runs `f` with some of the visible variables hidden.
    fn hidden(&mut self, vars: &[Var], f: impl FnOnce(&mut Self) -> Check) -> Check {
        vars.iter().for_each(|var| self.var_visible[var.index()] = false);
        f(self)?;
        vars.iter().for_each(|var| self.var_visible[var.index()] = true);
        Ok(())
    }

    fn operand(&mut self, acc: DType, operand: &Operand) -> Check {
        self.scope(|v| {
            let lets = operand.body.iter().all(|stmt| matches!(stmt, Stmt::Let { .. }));
            ensure(lets, || format!("operand {} is more than `Let` statements", operand.value))?;
            v.block(&operand.body)?;
            let dtype = v.val(operand.value)?;
            ensure(widens(dtype, acc), || {
                format!("operand {} of {dtype} in a contraction of {acc}", operand.value)
            })
        })
    }
}

/// Whether a contraction's rows and taps are those of a window.
fn fits_window(c: &Contract, form: Form, window: Window) -> bool {
    let small = window.image.iter().all(|n| (1..=1 << 12).contains(n));
    let odd = window.taps.iter().all(|n| n % 2 == 1 && *n < 16);
    let extents: Vec<Option<i64>> = c.taps.iter().map(|tap| tap.extent.as_const()).collect();
    let taps = window.taps.map(|n| Some(i64::from(n)));
    let line = i64::from(window.image[1]);
    let lines = c.m.extent.as_const().is_none_or(|m| m % line.max(1) == 0);
    small && odd && extents == taps && lines && form.step() > 0
}

/// Whether an operand of `dtype` takes part in sums of `acc` without loss.
fn widens(dtype: DType, acc: DType) -> bool {
    dtype == acc || (acc == DType::I32 && matches!(dtype, DType::I8 | DType::U8 | DType::I16 | DType::U16))
}

/// Whether reductions may combine with the primitive.
fn combines(prim: Prim) -> bool {
    matches!(prim, Prim::Add | Prim::Mul | Prim::Min | Prim::Max | Prim::And | Prim::Or | Prim::Xor)
}

/// Whether the primitive is defined for operands of a compute dtype.
pub fn applies(prim: Prim, dtype: DType) -> bool {
    use Prim::*;
    match prim {
        Select | Eq | Ne | Lt | Le | Gt | Ge | Min | Max | Add | Mul => true,
        And | Or | Xor | Not => !dtype.is_float(),
        Sub | Div | Rem | Mod | Pow | Neg | Abs | Floor | Ceil | Round | Trunc | IsNan | IsInf => {
            dtype.class() != DClass::Bool
        }
        Shl | Shr => dtype.is_int(),
        Sqrt | Exp | Log | Log1p | Expm1 | Sin | Cos | Tan | Asin | Acos | Atan | Sinh | Cosh | Tanh
        | Asinh | Acosh | Atanh | Erf => dtype.is_float(),
    }
}

/// Whether the literal is of the dtype's class and range.
fn literal(dtype: DType, value: &Scalar) -> Check {
    let fits = match (value, dtype.class()) {
        (Scalar::F(_), DClass::Float) | (Scalar::B(_), DClass::Bool) => true,
        (Scalar::I(i), DClass::Signed | DClass::Unsigned) => {
            dtype.int_range().is_some_and(|(low, high)| (low..=high).contains(i))
        }
        _ => false,
    };
    ensure(fits, || format!("literal {value:?} does not fit {dtype}"))
}
