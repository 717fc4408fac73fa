//! How many bytes the results of an evaluation take that are alive at one time.
//!
//! Storage counts once, however many values share it. Whoever keeps a value holds it here and releases it when the value
//! goes; what a scope still holds is released with the scope, so that errors leave nothing behind.

use rustc_hash::FxHashMap;

use super::Datum;
use super::object::ITEM_BYTES;

/// Who made a value's storage.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    /// The evaluation: it counts.
    Evaluation,
    /// The caller or the module: it is there anyway.
    Elsewhere,
}

struct Storage {
    holds: u64,
    bytes: u64,
}

/// The storage of values that are alive.
#[derive(Default)]
pub(super) struct Live {
    /// By address, which is no other storage's as long as it is held.
    storage: FxHashMap<usize, Storage>,
    bytes: u64,
    /// Holds by address, innermost scope last.
    scopes: Vec<FxHashMap<usize, u64>>,
}

impl Live {
    /// The bytes of all storage that is held.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Opens a scope.
    pub(super) fn open(&mut self) {
        self.scopes.push(FxHashMap::default());
    }

    /// Closes the innermost scope and releases what it holds.
    pub(super) fn close(&mut self) {
        for (at, holds) in self.scopes.pop().unwrap_or_default() {
            self.drop_holds(at, holds);
        }
    }

    /// Holds a value in the innermost scope.
    pub(super) fn hold(&mut self, datum: &Datum, owner: Owner) {
        let Live { storage, bytes, scopes } = self;
        let Some(scope) = scopes.last_mut() else { return };
        visit(datum, &mut |at, len| {
            let entry = storage.entry(at).or_insert_with(|| {
                let counted = if owner == Owner::Evaluation { len } else { 0 };
                *bytes = bytes.saturating_add(counted);
                Storage { holds: 0, bytes: counted }
            });
            entry.holds += 1;
            *scope.entry(at).or_default() += 1;
        });
    }

    /// Releases one hold of a value, as far as the innermost scope has it.
    pub(super) fn release(&mut self, datum: &Datum) {
        visit(datum, &mut |at, _| {
            let Some(scope) = self.scopes.last_mut() else { return };
            let Some(holds) = scope.get_mut(&at) else { return };
            *holds -= 1;
            if *holds == 0 {
                scope.remove(&at);
            }
            self.drop_holds(at, 1);
        });
    }

    fn drop_holds(&mut self, at: usize, holds: u64) {
        let Some(entry) = self.storage.get_mut(&at) else { return };
        entry.holds = entry.holds.saturating_sub(holds);
        if entry.holds == 0 {
            self.bytes = self.bytes.saturating_sub(entry.bytes);
            self.storage.remove(&at);
        }
    }
}

/// Calls `see` with the address and the bytes of each storage of a value.
fn visit(datum: &Datum, see: &mut impl FnMut(usize, u64)) {
    match datum {
        Datum::Tensor(t) => {
            if !t.bytes().is_empty() {
                see(t.bytes().as_ptr() as usize, t.bytes().len() as u64);
            }
            let strings = t.as_strings();
            if !strings.is_empty() {
                let texts: u64 = strings.iter().map(|s| s.len() as u64).sum();
                see(strings.as_ptr() as usize, size_of_val(strings) as u64 + texts);
            }
        }
        Datum::Sequence { items, element: _ } => {
            if !items.is_empty() {
                see(items.as_ptr() as usize, (items.len() * ITEM_BYTES) as u64);
            }
            items.iter().for_each(|item| visit(item, see));
        }
        Datum::Optional { value, element: _ } => value.iter().for_each(|v| visit(v, see)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DType, Tensor};

    fn datum(len: usize) -> Datum {
        Datum::Tensor(Tensor::zeros(DType::U8, &[len]).unwrap())
    }

    #[test]
    fn shared_storage_counts_once() {
        let (mut live, x, y) = (Live::default(), datum(100), datum(7));
        live.open();
        live.hold(&x, Owner::Evaluation);
        live.hold(&x.clone(), Owner::Evaluation);
        live.hold(&y, Owner::Elsewhere);
        assert_eq!(live.bytes(), 100);
        live.release(&x);
        assert_eq!(live.bytes(), 100);
        live.release(&x);
        live.release(&x);
        assert_eq!(live.bytes(), 0);
    }

    #[test]
    fn scopes_release_what_they_hold() {
        let (mut live, x, y) = (Live::default(), datum(100), datum(7));
        live.open();
        live.hold(&x, Owner::Evaluation);
        live.open();
        live.hold(&x, Owner::Elsewhere);
        live.hold(&y, Owner::Evaluation);
        let items = Datum::Sequence { element: y.ty(), items: vec![y.clone(), x.clone()] };
        live.hold(&items, Owner::Evaluation);
        assert_eq!(live.bytes(), 107 + 2 * ITEM_BYTES as u64);
        live.close();
        // What the outer scope holds is not the inner one's to release.
        live.release(&y);
        assert_eq!(live.bytes(), 100);
        live.close();
        assert_eq!(live.bytes(), 0);
    }
}
