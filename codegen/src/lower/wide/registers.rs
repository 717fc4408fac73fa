//! Registers for virtual registers, chosen while instructions are emitted.
//!
//! A value takes a register when it is defined or needed. When none is free, the value whose next use is furthest goes
//! to the stack (Belady's rule, optimal for straight-line code). At the borders of a loop, values that are not carried
//! live on the stack only, so that both ways into an iteration agree.

use super::lir::{Inst, Reg};

/// What a register move needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Motion {
    /// Write the register to the stack slot.
    Save(u8, u32),
    /// Read the register from the stack slot.
    Restore(u8, u32),
}

/// What a machine register holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holder {
    Free,
    Value(Reg),
    /// Not for eviction: an accumulator, a carried value.
    Pinned,
    /// An operand of the instruction that is emitted now, which is no value.
    Temporary,
}

/// The state of the register file.
#[derive(Debug)]
pub(super) struct Registers {
    holders: Vec<Holder>,
    places: Vec<Option<u8>>,
    slots: Vec<Option<u32>>,
    pinned_values: Vec<Reg>,
    /// Positions at which each value is used, ascending.
    uses: Vec<Vec<usize>>,
    /// Machine registers that the instruction reads or writes.
    locked: Vec<u8>,
    next_slot: u32,
    /// What must be emitted before the instruction.
    pub motions: Vec<Motion>,
}

impl Registers {
    /// All registers free but the first `pinned`.
    pub fn new(body: &[(usize, Inst)], values: u32, registers: usize, pinned: usize) -> Registers {
        let mut holders = vec![Holder::Free; registers];
        holders.iter_mut().take(pinned).for_each(|h| *h = Holder::Pinned);
        Registers {
            holders,
            places: vec![None; values as usize],
            slots: vec![None; values as usize],
            pinned_values: vec![],
            uses: uses(body, values as usize),
            locked: vec![],
            next_slot: 0,
            motions: vec![],
        }
    }

    /// Stack slots in use.
    pub fn slots(&self) -> u32 {
        self.next_slot
    }

    fn next_use(&self, value: Reg, position: usize) -> Option<usize> {
        self.uses[value.0 as usize].iter().copied().find(|&u| u >= position)
    }

    /// Whether nothing after the position uses the value.
    pub fn dies(&self, value: Reg, position: usize) -> bool {
        !self.pinned_values.contains(&value) && self.next_use(value, position + 1).is_none()
    }

    /// Whether the value is used once.
    pub fn used_once(&self, value: Reg) -> bool {
        self.uses[value.0 as usize].len() == 1
    }

    /// A register for something new; `None` if the instruction holds too many.
    fn take(&mut self, position: usize) -> Option<u8> {
        let free = self.holders.iter().position(|h| *h == Holder::Free);
        let at = match free {
            Some(at) => at,
            None => {
                let far = |h: &Holder, i: usize| match h {
                    Holder::Value(v) if !self.locked.contains(&(i as u8)) => {
                        Some(self.next_use(*v, position).unwrap_or(usize::MAX))
                    }
                    Holder::Value(_) | Holder::Free | Holder::Pinned | Holder::Temporary => None,
                };
                let candidates = self.holders.iter().enumerate().filter_map(|(i, h)| Some((far(h, i)?, i)));
                let (_, at) = candidates.max()?;
                self.evict(at as u8);
                at
            }
        };
        self.locked.push(at as u8);
        Some(at as u8)
    }

    /// Moves a value to its stack slot.
    fn evict(&mut self, at: u8) {
        if let Holder::Value(value) = self.holders[at as usize] {
            let index = value.0 as usize;
            if self.slots[index].is_none() {
                self.slots[index] = Some(self.next_slot);
                self.motions.push(Motion::Save(at, self.next_slot));
                self.next_slot += 1;
            }
            self.places[index] = None;
            self.holders[at as usize] = Holder::Free;
        }
    }

    /// The register that a value is read from.
    pub fn read(&mut self, value: Reg, position: usize) -> Option<u8> {
        let index = value.0 as usize;
        if let Some(at) = self.places[index] {
            self.locked.push(at);
            return Some(at);
        }
        let slot = self.slots[index]?;
        let at = self.take(position)?;
        self.motions.push(Motion::Restore(at, slot));
        self.holders[at as usize] = Holder::Value(value);
        self.places[index] = Some(at);
        Some(at)
    }

    /// A register for the duration of the instruction.
    pub fn temporary(&mut self, position: usize) -> Option<u8> {
        let at = self.take(position)?;
        self.holders[at as usize] = Holder::Temporary;
        Some(at)
    }

    /// Frees the registers of values that die at the position, so that the result can have one of them.
    pub fn release(&mut self, inst: &Inst, position: usize) {
        for value in inst.sources() {
            if self.dies(value, position)
                && let Some(at) = self.places[value.0 as usize].take()
            {
                self.holders[at as usize] = Holder::Free;
                self.locked.retain(|l| *l != at);
            }
        }
    }

    /// The register of a result.
    pub fn define(&mut self, value: Reg, position: usize) -> Option<u8> {
        let at = self.take(position)?;
        self.own(value, at);
        Some(at)
    }

    /// Gives the register of a dying operand to the result.
    pub fn inherit(&mut self, value: Reg, at: u8) {
        for place in &mut self.places {
            if *place == Some(at) {
                *place = None;
            }
        }
        self.own(value, at);
    }

    /// Keeps the last values, which are there before, each in a register of its own behind the first `pinned`.
    pub fn keep_last(&mut self, values: usize, pinned: usize) {
        let first = self.places.len() - values;
        for i in 0..values {
            self.own(Reg((first + i) as u32), (pinned + i) as u8);
            self.pin(Reg((first + i) as u32));
        }
    }

    /// Says where a value is that was there before.
    pub fn own(&mut self, value: Reg, at: u8) {
        self.holders[at as usize] = Holder::Value(value);
        self.places[value.0 as usize] = Some(at);
    }

    /// Ends an instruction.
    pub fn finish(&mut self) {
        self.locked.clear();
        self.holders.iter_mut().filter(|h| **h == Holder::Temporary).for_each(|h| *h = Holder::Free);
    }

    /// Brings every value that is still needed to the stack, and frees its register.
    pub fn flush(&mut self, position: usize) {
        for at in 0..self.holders.len() {
            if let Holder::Value(value) = self.holders[at] {
                if self.next_use(value, position).is_some() {
                    self.evict(at as u8);
                } else {
                    self.places[value.0 as usize] = None;
                    self.holders[at] = Holder::Free;
                }
            }
        }
    }

    /// Keeps a value in its register until [`Registers::unpin`].
    pub fn pin(&mut self, value: Reg) {
        if let Some(at) = self.places[value.0 as usize] {
            self.holders[at as usize] = Holder::Pinned;
            self.pinned_values.push(value);
        }
    }

    /// Ends [`Registers::pin`].
    pub fn unpin(&mut self, value: Reg) {
        self.pinned_values.retain(|v| *v != value);
        if let Some(at) = self.places[value.0 as usize] {
            self.holders[at as usize] = Holder::Value(value);
        }
    }
}

/// Positions of uses. What is defined outside a loop and used inside is used at the loop's end once more.
fn uses(body: &[(usize, Inst)], values: usize) -> Vec<Vec<usize>> {
    let mut uses: Vec<Vec<usize>> = vec![vec![]; values];
    for (position, (_, inst)) in body.iter().enumerate() {
        for value in inst.sources() {
            uses[value.0 as usize].push(position);
        }
    }
    let mut open = vec![];
    for (position, (_, inst)) in body.iter().enumerate() {
        match inst {
            Inst::Begin { .. } => open.push(position),
            Inst::End { .. } => {
                let begin = open.pop().unwrap_or(0);
                let defined = defined_in(&body[begin..position]);
                for (value, positions) in uses.iter_mut().enumerate() {
                    let inside = positions.iter().any(|&p| (begin + 1..position).contains(&p));
                    if inside && !defined.contains(&(value as u32)) {
                        positions.push(position);
                    }
                }
            }
            _ => {}
        }
    }
    for positions in &mut uses {
        positions.sort_unstable();
    }
    uses
}

fn defined_in(body: &[(usize, Inst)]) -> Vec<u32> {
    body.iter().filter_map(|(_, inst)| inst.result()).map(|r| r.0).collect()
}
