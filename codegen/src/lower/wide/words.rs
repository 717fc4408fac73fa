//! What the caller of a vector program passes.

use crate::kir::{BufferId, Guard, Ix, Val};

/// What the caller passes in a parameter.
#[derive(Clone, Debug, PartialEq)]
pub enum Word {
    /// Number of iterations, number of rows.
    Reserved,
    /// Address of an element.
    Address {
        /// The buffer.
        buffer: BufferId,
        /// Element index for the first iteration, less a constant that the program adds.
        index: Ix,
        /// What loads through it are guarded by. Where the guard fails, the index may lie far outside of the buffer.
        guard: Option<GuardedAddress>,
    },
    /// All ones where the guard holds, else 0.
    Flag(Guard),
    /// A scalar of up to 32 bits; a bool as all ones or 0.
    Scalar(Val),
    /// Place for what the program keeps: totals, values of a row.
    Kept,
}

/// Loads with all lanes masked take hundreds of cycles where no page is behind their address, or one that nothing else
/// reads: if the guard fails, the address is the buffer's beginning, less the constant that the program adds.
#[derive(Clone, Debug, PartialEq)]
pub struct GuardedAddress {
    /// The guard.
    pub guard: Guard,
    /// The smallest constant that one of the loads adds, in elements.
    pub offset: i64,
}

impl Word {
    /// Whether the parameter can be used where `other` is needed: loads behind the same guard share their address.
    pub fn serves(&self, other: &Word) -> bool {
        match (self, other) {
            (
                Word::Address { buffer: a, index: i, guard: Some(known) },
                Word::Address { buffer: b, index: j, guard: Some(own) },
            ) => (a, i) == (b, j) && known.guard == own.guard,
            _ => self == other,
        }
    }

    /// Takes up what `other`, which it serves, is needed for.
    pub fn also_serve(&mut self, other: &Word) {
        if let (Word::Address { guard: Some(known), .. }, Word::Address { guard: Some(own), .. }) =
            (self, other)
        {
            known.offset = known.offset.min(own.offset);
        }
    }
}
