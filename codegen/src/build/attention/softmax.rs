//! The rows between the two contractions where they are a softmax: what it takes to find them block by block.

use kiln_ir::{Prim, Scalar};

use super::super::term::{Term, TermId, Terms};

/// `exp(x - greatest) / divisor`, whose parts are needed apart where the keys come in blocks.
pub(super) struct Softmax {
    /// The greatest score of a row, as a reduction.
    pub greatest: TermId,
    /// What the row's scores are lowered by: the greatest, or something finite in the place of minus infinity.
    pub lowered_by: TermId,
    /// The sum of the row's exponentials, as a reduction.
    pub sum: TermId,
    /// `1 / divisor`, in terms of the sum.
    pub inverse: TermId,
    /// Whether weights that are not numbers are zeros: those of rows whose keys are all hidden.
    pub zero_for_nan: bool,
}

/// The softmax that `weights` are of what `is_score` says is a score.
pub(super) fn softmax(terms: &Terms, weights: TermId, is_score: &dyn Fn(TermId) -> bool) -> Option<Softmax> {
    let (weights, zero_for_nan) = match operands(terms, weights, Prim::Select) {
        Some(&[condition, zero, value])
            if terms.literal(zero) == Some(Scalar::F(0.0))
                && operands(terms, condition, Prim::IsNan) == Some(&[value]) =>
        {
            (value, true)
        }
        _ => (weights, false),
    };
    let &[e, inverse] = operands(terms, weights, Prim::Mul)? else { return None };
    let &[shifted] = operands(terms, e, Prim::Exp)? else { return None };
    let &[score, lowered_by] = operands(terms, shifted, Prim::Sub)? else { return None };
    let &[one, divisor] = operands(terms, inverse, Prim::Div)? else { return None };
    if !is_score(score) || terms.literal(one) != Some(Scalar::F(1.0)) {
        return None;
    }
    let plain = [unguarded(terms, lowered_by, 0.0), unguarded(terms, divisor, 1.0)];
    if plain[0] == lowered_by && plain[1] != divisor && !zero_for_nan {
        // Rows whose keys are all hidden would be NaN, whatever the guard of the divisor.
        return None;
    }
    let (greatest, sum) = (reduction(terms, plain[0], Prim::Max)?, reduction(terms, plain[1], Prim::Add)?);
    let &[shifted] = operands(terms, sum.1, Prim::Exp)? else { return None };
    let &[again, by] = operands(terms, shifted, Prim::Sub)? else { return None };
    let found = Softmax { greatest: greatest.0, lowered_by, sum: sum.0, inverse, zero_for_nan };
    (is_score(greatest.1) && is_score(again) && by == lowered_by).then_some(found)
}

fn operands(terms: &Terms, t: TermId, prim: Prim) -> Option<&[TermId]> {
    match &terms.get(t).term {
        Term::Apply(p, operands) if *p == prim => Some(operands),
        _ => None,
    }
}

/// What a selection takes unless it takes `otherwise`, which stands for a value that only rows without a visible key have.
fn unguarded(terms: &Terms, t: TermId, otherwise: f64) -> TermId {
    match operands(terms, t, Prim::Select) {
        Some(&[condition, other, value])
            if terms.literal(other) == Some(Scalar::F(otherwise)) && is_edge(terms, condition, value) =>
        {
            value
        }
        _ => t,
    }
}

/// Whether a condition says that `value` is minus infinity, or zero: the greatest score and the sum of a row whose keys
/// are all hidden.
fn is_edge(terms: &Terms, condition: TermId, value: TermId) -> bool {
    let edge = |t: TermId| {
        [f64::NEG_INFINITY, 0.0].into_iter().any(|edge| terms.literal(t) == Some(Scalar::F(edge)))
    };
    match &terms.get(condition).term {
        Term::Apply(Prim::Eq, operands) => matches!(operands[..], [x, y] if x == value && edge(y)),
        Term::Apply(Prim::IsInf, operands) => operands[..] == [value],
        Term::Apply(Prim::And, operands) => operands.iter().any(|t| is_edge(terms, *t, value)),
        _ => false,
    }
}

/// A reduction and its item.
fn reduction(terms: &Terms, t: TermId, by: Prim) -> Option<(TermId, TermId)> {
    match &terms.get(t).term {
        Term::Reduce { combine, item, .. } if *combine == by => Some((t, *item)),
        _ => None,
    }
}
