//! Type promotion as PyTorch has it.
//!
//! Operands have ranks of their own: tensors with axes decide before tensors without, and these before numbers of Python.
//! A lower rank counts only where its category (bool, integer, float) is above that of the higher.

use kiln_ir::{DClass, DType};

/// The float type that integers become.
pub(crate) const DEFAULT: DType = DType::F32;

/// Categories in their order.
fn category(dtype: DType) -> u8 {
    match dtype.class() {
        DClass::Bool => 0,
        DClass::Signed | DClass::Unsigned => 1,
        DClass::Float => 2,
        DClass::Complex => 3,
        DClass::Text => 4,
    }
}

/// The type of an operation on tensors of these two types (`torch.promote_types`). None where PyTorch has none.
pub(crate) fn promote(a: DType, b: DType) -> Option<DType> {
    if a == b {
        return Some(a);
    }
    match category(a).cmp(&category(b)) {
        std::cmp::Ordering::Less => return promote(b, a),
        std::cmp::Ordering::Greater => return above(a, b),
        std::cmp::Ordering::Equal => {}
    }
    match a.class() {
        DClass::Float => {
            let small = |d: DType| d.bits() < 16;
            match (a.bits(), b.bits()) {
                _ if small(a) || small(b) => None,
                (16, 16) => Some(DType::F32),
                (x, y) => Some(if x > y { a } else { b }),
            }
        }
        DClass::Signed | DClass::Unsigned => match (a.class(), b.class()) {
            (DClass::Signed, DClass::Signed) => Some(if a.bits() > b.bits() { a } else { b }),
            (DClass::Unsigned, DClass::Unsigned) => None,
            (DClass::Unsigned, _) => promote(b, a),
            _ if b != DType::U8 => None,
            _ if a == DType::I8 => Some(DType::I16),
            _ => Some(a),
        },
        DClass::Complex => Some(DType::C128),
        DClass::Bool | DClass::Text => None,
    }
}

/// The type of an operation where `a` has the higher category.
fn above(a: DType, b: DType) -> Option<DType> {
    match (a.class(), b) {
        (DClass::Text, _) => None,
        (DClass::Complex, DType::F64) => Some(DType::C128),
        (DClass::Float, _) if a.bits() < 16 => None,
        // The wide unsigned types have no common type but with floats.
        (DClass::Unsigned, DType::Bool) if a != DType::U8 => None,
        _ => Some(a),
    }
}

/// What is known of the operands of one operation.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Operands {
    /// Promoted type of tensors with axes.
    pub tensors: Option<DType>,
    /// Promoted type of tensors without.
    pub scalars: Option<DType>,
    /// Promoted type of numbers.
    pub numbers: Option<DType>,
}

impl Operands {
    /// Counts an operand in one of the three ranks; false where the types have no common one.
    pub(crate) fn join(slot: &mut Option<DType>, dtype: DType) -> bool {
        let joined = match *slot {
            None => Some(dtype),
            Some(old) => promote(old, dtype),
        };
        *slot = joined.or(*slot);
        joined.is_some()
    }

    /// The type of the operation.
    pub(crate) fn result(self) -> Option<DType> {
        combine(self.tensors, combine(self.scalars, self.numbers)?)?
    }
}

/// Combines a higher and a lower rank. The outer `None`: there is no common type; the inner: there is no operand.
fn combine(higher: Option<DType>, lower: Option<DType>) -> Option<Option<DType>> {
    let (Some(h), Some(l)) = (higher, lower) else { return Some(higher.or(lower)) };
    if category(h) < category(l) && (h == DType::Bool || category(l) >= 2) {
        return promote(h, l).map(Some);
    }
    Some(Some(h))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// PyTorch's answers, which `xtask/py/aten/promotion.py` wrote.
    const GOLDEN: &str = include_str!("promotion.txt");

    #[test]
    fn types_promote_as_in_pytorch() {
        for line in GOLDEN.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let [what, a, b, wanted] = words.as_slice() else { panic!("{line}") };
            let a: DType = a.parse().unwrap();
            let b: DType = match *b {
                "int" => DType::I64,
                "float" => DEFAULT,
                name => name.parse().unwrap(),
            };
            let mut operands = Operands::default();
            assert!(Operands::join(&mut operands.tensors, a));
            let slot = match *what {
                "tensors" => &mut operands.tensors,
                "scalars" => &mut operands.scalars,
                _ => &mut operands.numbers,
            };
            let found = if Operands::join(slot, b) { operands.result() } else { None };
            assert_eq!(found.map_or("-", DType::name), *wanted, "{line}");
        }
    }
}
