//! The text form of kernels, for messages, dumps and golden files. Deterministic.

use std::fmt::{self, Write};

use kiln_ir::Scalar;

use super::sparse::{Form, Window};
use super::{
    Access, Axis, Block, Contract, For, Kernel, LoopKind, Op, Operand, Reduce, Rhs, Sparse, Stmt, Val,
};

/// Prints the kernel.
pub fn print(kernel: &Kernel, f: &mut dyn Write) -> fmt::Result {
    writeln!(f, "kernel \"{}\" dims={} {{", kernel.name.escape_default(), kernel.dims)?;
    for (i, buffer) in kernel.buffers.iter().enumerate() {
        let dtype = buffer.dtype;
        match &buffer.access {
            Access::In => writeln!(f, "  b{i}: in {dtype}")?,
            Access::Out => writeln!(f, "  b{i}: out {dtype}")?,
            Access::InOut => writeln!(f, "  b{i}: inout {dtype}")?,
            Access::Const => writeln!(f, "  b{i}: const {dtype}")?,
            Access::Scratch { len } => writeln!(f, "  b{i}: scratch {dtype}[{len}]")?,
        }
    }
    for (var, extent) in &kernel.grid {
        writeln!(f, "  grid {var} < {extent}")?;
    }
    let mut printer = Printer { kernel, f, indent: 1 };
    printer.block(&kernel.body)?;
    writeln!(printer.f, "}}")
}

struct Printer<'a> {
    kernel: &'a Kernel,
    f: &'a mut dyn Write,
    indent: usize,
}

impl Printer<'_> {
    fn line(&mut self, text: impl fmt::Display) -> fmt::Result {
        writeln!(self.f, "{:indent$}{text}", "", indent = 2 * self.indent)
    }

    fn block(&mut self, block: &Block) -> fmt::Result {
        block.iter().try_for_each(|stmt| self.stmt(stmt))
    }

    fn nested(&mut self, block: &Block) -> fmt::Result {
        self.indent += 1;
        self.block(block)?;
        self.indent -= 1;
        Ok(())
    }

    fn typed(&self, val: Val) -> String {
        match self.kernel.vals.get(val.index()) {
            Some(dtype) => format!("{val}: {dtype}"),
            None => format!("{val}: ?"),
        }
    }

    fn stmt(&mut self, stmt: &Stmt) -> fmt::Result {
        match stmt {
            Stmt::Let { dst, op } => self.line(format!("{} = {op}", self.typed(*dst))),
            Stmt::Store { buffer, index, value } => self.line(format!("{buffer}[{index}] = {value}")),
            Stmt::For(l) => self.for_loop(l),
            Stmt::Reduce(r) => self.reduce(r),
            Stmt::If { cond, then, otherwise } => {
                self.line(format!("if {cond} {{"))?;
                self.nested(then)?;
                if !otherwise.is_empty() {
                    self.line("} else {")?;
                    self.nested(otherwise)?;
                }
                self.line("}")
            }
            Stmt::Contract(c) => self.contract(c),
        }
    }

    fn for_loop(&mut self, l: &For) -> fmt::Result {
        self.line(format!("for {}{} {{", l.axis, kind_suffix(l.kind)))?;
        self.indent += 1;
        for c in &l.carried {
            self.line(format!(
                "carry {} from {} next {} gives {}",
                self.typed(c.arg),
                c.init,
                c.next,
                c.result
            ))?;
        }
        self.block(&l.body)?;
        self.indent -= 1;
        self.line("}")
    }

    fn reduce(&mut self, r: &Reduce) -> fmt::Result {
        self.line(format!("reduce {}{} {{", r.axis, kind_suffix(r.kind)))?;
        self.indent += 1;
        for a in &r.accumulators {
            let name = a.combine.name();
            self.line(format!("{} = {name} {} from {}", self.typed(a.result), a.item, a.init))?;
        }
        self.block(&r.body)?;
        self.indent -= 1;
        self.line("}")
    }

    fn contract(&mut self, c: &Contract) -> fmt::Result {
        self.line(format!("contract {} {{", c.acc_dtype))?;
        self.indent += 1;
        self.line(format!("m {}", c.m))?;
        self.line(format!("n {}", c.n))?;
        for tap in &c.taps {
            self.line(format!("tap {tap}"))?;
        }
        self.line(format!("k {}", c.k))?;
        self.operand("a", &c.a)?;
        match &c.b {
            Rhs::Packed { buffer, base, width, group } => {
                let group = if *group > 1 { format!(" group={group}") } else { String::new() };
                self.line(format!("b = packed {buffer}[{base}] width={width}{group}"))?
            }
            Rhs::Strided(operand) => self.operand("b", operand)?,
            Rhs::Sparse(s) => {
                let (Sparse { index, values, .. }, Form { columns, block, depth, rows, group, window }) =
                    (s, s.form);
                let group = if group > 1 { format!(" group={group}") } else { String::new() };
                let window = window.map_or_else(String::new, |Window { image: [h, w], taps: [y, x] }| {
                    format!(" image={h}x{w} taps={y}x{x}")
                });
                self.line(format!(
                    "b = sparse {index} of {values} columns={columns} block={block} depth={depth} rows={rows}{group}{window}"
                ))?
            }
        }
        self.line(format!("epilogue {} {{", self.typed(c.acc)))?;
        self.nested(&c.epilogue)?;
        self.line("}")?;
        self.indent -= 1;
        self.line("}")
    }

    fn operand(&mut self, name: &str, operand: &Operand) -> fmt::Result {
        self.line(format!("{name} = {} where {{", operand.value))?;
        self.nested(&operand.body)?;
        self.line("}")
    }
}

fn kind_suffix(kind: LoopKind) -> &'static str {
    match kind {
        LoopKind::Sequential => "",
        LoopKind::Vector => " vector",
    }
}

fn literal(value: &Scalar) -> String {
    match value {
        // `{:?}` prints the shortest text that reads back as the same float.
        Scalar::F(x) => format!("{x:?}"),
        Scalar::I(x) => x.to_string(),
        Scalar::B(x) => x.to_string(),
    }
}

impl fmt::Display for Axis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} from {} count {}", self.var, self.begin, self.extent)
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Op::Const(value) => write!(f, "{}", literal(value)),
            Op::Load { buffer, index, guard: None } => write!(f, "{buffer}[{index}]"),
            Op::Load { buffer, index, guard: Some(guard) } => {
                write!(f, "{buffer}[{index}] if ")?;
                for (i, bound) in guard.bounds.iter().enumerate() {
                    let separator = if i > 0 { " and " } else { "" };
                    write!(f, "{separator}{} <= {} < {}", bound.lower, bound.index, bound.upper)?;
                }
                write!(f, " else {}", literal(&guard.otherwise))
            }
            Op::Apply(prim, operands) => {
                write!(f, "{}", prim.name())?;
                for (i, operand) in operands.iter().enumerate() {
                    write!(f, "{}{operand}", if i > 0 { ", " } else { " " })?;
                }
                Ok(())
            }
            Op::Cast(value) => write!(f, "cast {value}"),
            Op::Bits(value) => write!(f, "bits {value}"),
            Op::MulAdd(a, b, c) => write!(f, "muladd {a}, {b}, {c}"),
            Op::Index(index) => write!(f, "index {index}"),
        }
    }
}
