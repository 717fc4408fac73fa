//! Results that kernels write over an operand that dies there: sums that a contraction adds to residuals. They then need no
//! memory of their own, and the lines that they are written to are in the cache.

use kiln_runtime::plan::{byte_size, live_ranges, root};
use kiln_runtime::program::{self, Action, Function, KernelId, SlotId, Storage};

use crate::kir::{Access, Block, BufferId, Contract, Ix, Kernel, Op, Rhs, Stmt};

/// Lets results of a function take the memory of operands that their kernels read where they write, and nothing else reads
/// later.
pub(super) fn overwrite_operands<'k>(
    function: &mut Function,
    kernel: impl Fn(KernelId) -> Option<&'k Kernel>,
) {
    let mut ranges = live_ranges(function);
    for (step, at) in (0u32..).zip(0..function.steps.len()) {
        let Action::Kernel(call) = &function.steps[at].action else { continue };
        let Some(kernel) = kernel(call.kernel) else { continue };
        let own = |slot: SlotId| matches!(function.slots[slot.index()].storage, Storage::Arena);
        let mut pairs = vec![];
        for (out, written) in call.buffers.iter().enumerate() {
            let begins = ranges[written.slot.index()].is_some_and(|(first, _)| first == step);
            if !matches!(written.access, program::Access::Write) || !own(written.slot) || !begins {
                continue;
            }
            let fits = |(from, read): (usize, &program::BufferArg)| {
                let (to, size) =
                    (written.slot, byte_size(function.slots[written.slot.index()].ty.as_tensor()?));
                let same = byte_size(function.slots[read.slot.index()].ty.as_tensor()?) == size;
                let ends = ranges[read.slot.index()].is_some_and(|(_, last)| last == step);
                let others =
                    call.buffers.iter().filter(|b| root(function, b.slot) == Some(read.slot)).count();
                let plain = own(read.slot) && read.slot != to && others == 1 && size.as_known().is_some();
                let safe = reads_where_it_writes(kernel, BufferId(out as u32), BufferId(from as u32));
                (same && ends && plain && safe).then_some((to, read.slot))
            };
            pairs.extend(call.buffers.iter().enumerate().find_map(fits));
        }
        for (to, of) in pairs {
            function.slots[to.index()].storage = Storage::View { of, offset: kiln_ir::Dim::known(0) };
            let end = ranges[to.index()].take().map_or(step, |(_, last)| last);
            ranges[of.index()] = ranges[of.index()].map(|(first, _)| (first, end));
        }
    }
}

/// Whether all that a kernel reads of `from` is the element that it writes to `to` next, in the epilogue of a contraction,
/// which comes to each element once.
fn reads_where_it_writes(kernel: &Kernel, to: BufferId, from: BufferId) -> bool {
    let (Some(written), Some(read)) = (kernel.buffers.get(to.index()), kernel.buffers.get(from.index()))
    else {
        return false;
    };
    if written.access != Access::Out || read.access != Access::In || written.dtype.bits() != read.dtype.bits()
    {
        return false;
    }
    let mut uses = Uses { to, from, loads: 0, stores: 0, epilogue: None };
    uses.block(&kernel.body);
    let (1, 1, Some(c)) = (uses.loads, uses.stores, uses.epilogue) else { return false };
    let index = |stmt: &Stmt| match stmt {
        Stmt::Let { op: Op::Load { buffer, index, guard: None }, .. } if *buffer == from => {
            Some(index.clone())
        }
        _ => None,
    };
    let read: Option<Ix> = c.epilogue.iter().find_map(index);
    let written = c.epilogue.iter().find_map(|stmt| match stmt {
        Stmt::Store { buffer, index, .. } if *buffer == to => Some(index.clone()),
        _ => None,
    });
    read.is_some() && read == written
}

/// How often a kernel names two buffers.
struct Uses<'k> {
    to: BufferId,
    from: BufferId,
    loads: usize,
    stores: usize,
    /// The contraction.
    epilogue: Option<&'k Contract>,
}

impl<'k> Uses<'k> {
    fn buffer(&mut self, buffer: BufferId) {
        self.loads += usize::from(buffer == self.from);
        self.stores += usize::from(buffer == self.to);
    }

    fn block(&mut self, block: &'k Block) {
        for stmt in block {
            match stmt {
                Stmt::Let { op: Op::Load { buffer, .. }, .. } | Stmt::Store { buffer, .. } => {
                    self.buffer(*buffer)
                }
                Stmt::Let { .. } => {}
                Stmt::For(l) => self.block(&l.body),
                Stmt::Reduce(r) => self.block(&r.body),
                Stmt::If { then, otherwise, .. } => {
                    self.block(then);
                    self.block(otherwise);
                }
                Stmt::Contract(c) => {
                    self.block(&c.a.body);
                    match &c.b {
                        Rhs::Packed { buffer, .. } => self.buffer(*buffer),
                        Rhs::Strided(b) => self.block(&b.body),
                        // Lists are constants.
                        Rhs::Sparse(_) => {}
                    }
                    self.block(&c.epilogue);
                    self.epilogue = Some(c);
                }
            }
        }
    }
}
