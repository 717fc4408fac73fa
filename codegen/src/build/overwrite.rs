//! Results that kernels write over an operand that dies there: sums that a contraction adds to residuals. They then need no
//! memory of their own, and the lines that they are written to are in the cache.

use kiln_runtime::plan::{byte_size, live_ranges, root};
use kiln_runtime::program::{self, Action, Function, KernelCall, KernelId, SlotId, Storage};

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
        let Some((to, of)) = pair(function, &ranges, step, call, kernel) else { continue };
        function.slots[to.index()].storage = Storage::View { of, offset: kiln_ir::Dim::known(0) };
        let end = ranges[to.index()].take().map_or(step, |(_, last)| last);
        ranges[of.index()] = ranges[of.index()].map(|(first, _)| (first, end));
    }
}

/// A result that a call writes first, and an operand of the same size that it reads last, whose memory the result may take.
fn pair(
    function: &Function,
    ranges: &[Option<(u32, u32)>],
    step: u32,
    call: &KernelCall,
    kernel: &Kernel,
) -> Option<(SlotId, SlotId)> {
    let is_arena = |slot: SlotId| matches!(function.slots[slot.index()].storage, Storage::Arena);
    let size = |slot: SlotId| {
        function.slots[slot.index()].ty.as_tensor().map(byte_size).filter(|d| d.as_known().is_some())
    };
    let buffers = || call.buffers.iter().enumerate();
    for (out, written) in buffers() {
        let to = written.slot;
        let begins = ranges[to.index()].is_some_and(|(first, _)| first == step);
        if !matches!(written.access, program::Access::Write) || !is_arena(to) || !begins {
            continue;
        }
        for (from, read) in buffers().filter(|(at, _)| *at != out) {
            let Some(of) = root(function, read.slot).filter(|&of| is_arena(of) && of != to) else { continue };
            let whole = size(of).is_some() && size(of) == size(read.slot) && size(of) == size(to);
            let ends = ranges[of.index()].is_some_and(|(_, last)| last == step);
            let alone = buffers().filter(|(_, b)| root(function, b.slot) == Some(of)).count() == 1;
            let (out, from) = (BufferId(out as u32), BufferId(from as u32));
            if whole && ends && alone && reads_where_it_writes(kernel, out, from) {
                return Some((to, of));
            }
        }
    }
    None
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
    let mut uses = Uses { to, from, of_to: 0, of_from: 0, contract: None };
    uses.block(&kernel.body);
    let (1, 1, Some(c)) = (uses.of_to, uses.of_from, uses.contract) else { return false };
    let load = |stmt: &'_ Stmt| match stmt {
        Stmt::Let { op: Op::Load { buffer, index, guard: None }, .. } if *buffer == from => {
            Some(index.clone())
        }
        _ => None,
    };
    let store = |stmt: &'_ Stmt| match stmt {
        Stmt::Store { buffer, index, .. } if *buffer == to => Some(index.clone()),
        _ => None,
    };
    let place = |find: &dyn Fn(&Stmt) -> Option<Ix>| {
        c.epilogue.iter().enumerate().find_map(|(at, stmt)| Some((at, find(stmt)?)))
    };
    place(&load).zip(place(&store)).is_some_and(|((l, read), (s, written))| l < s && read == written)
}

/// How often a kernel names two buffers: one that it names once is loaded there, or stored to.
struct Uses<'k> {
    to: BufferId,
    from: BufferId,
    of_to: usize,
    of_from: usize,
    /// The last contraction.
    contract: Option<&'k Contract>,
}

impl<'k> Uses<'k> {
    fn buffer(&mut self, buffer: BufferId) {
        self.of_to += usize::from(buffer == self.to);
        self.of_from += usize::from(buffer == self.from);
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
                    self.contract = Some(c);
                }
            }
        }
    }
}
