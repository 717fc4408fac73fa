//! Symbols of a program, their values during a run, and the unification of declared with actual shapes.

use std::cell::Cell;

use kiln_ir::{Dim, DimError, Symbol, Type};
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use crate::error::RunError;

/// Every symbol of a program, numbered.
#[derive(Debug, Default)]
pub(crate) struct SymbolIndex {
    index: FxHashMap<Symbol, u32>,
}

impl SymbolIndex {
    /// The number of a symbol, given now if it has none.
    pub fn intern(&mut self, symbol: &Symbol) -> u32 {
        let next = u32::try_from(self.index.len()).unwrap_or(u32::MAX);
        *self.index.entry(symbol.clone()).or_insert(next)
    }

    /// The number of a symbol.
    pub fn get(&self, symbol: &Symbol) -> Option<u32> {
        self.index.get(symbol).copied()
    }

    /// Every symbol and its number, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&Symbol, u32)> {
        self.index.iter().map(|(symbol, &number)| (symbol, number))
    }

    /// Number of symbols.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// The value of `dim` under `bindings`.
    pub fn eval(&self, dim: &Dim, bindings: &Bindings) -> Result<i64, DimError> {
        dim.eval(&|symbol| bindings.get(self.get(symbol)?))
    }
}

/// Values of symbols, by number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bindings(Vec<Option<i64>>);

impl Bindings {
    /// No symbol has a value.
    pub fn unbound(symbols: usize) -> Self {
        Bindings(vec![None; symbols])
    }

    /// The value of a symbol.
    pub fn get(&self, symbol: u32) -> Option<i64> {
        self.0.get(symbol as usize).copied().flatten()
    }

    /// Gives a symbol a value, or takes it away.
    pub fn set(&mut self, symbol: u32, value: Option<i64>) {
        if let Some(slot) = self.0.get_mut(symbol as usize) {
            *slot = value;
        }
    }

    /// Takes all values away.
    pub fn clear(&mut self) {
        self.0.fill(None);
    }
}

/// A declared type and the dims of the actual value.
pub(crate) struct Declared<'a> {
    pub ty: &'a Type,
    pub dims: SmallVec<[usize; 8]>,
}

/// What does not fit, and where.
pub(crate) struct Misfit {
    /// Position in the list of declared types.
    pub position: usize,
    /// Axis, unless the rank is wrong.
    pub axis: Option<usize>,
    /// Why.
    pub reason: String,
}

impl Misfit {
    /// The error for the misfit of `declared` at `place`.
    pub fn error(self, place: String, declared: &Declared<'_>) -> RunError {
        let expected = declared.ty.as_tensor().map_or_else(String::new, |t| t.shape.to_string());
        let reason = match self.axis {
            Some(axis) => format!("axis {axis}: {}", self.reason),
            None => self.reason,
        };
        RunError::Shape { place, expected, found: format!("{:?}", declared.dims.as_slice()), reason }
    }
}

/// Unifies `count` declared shapes with actual ones, binding symbols that have no value yet. Dims that are more than
/// a symbol are checked, or solved when exactly one of their symbols is unbound and they are linear in it. Symbols that
/// are not dims by themselves may get values from elsewhere before anything is solved: `inherit` sets these.
pub(crate) fn unify<'a>(
    index: &SymbolIndex,
    bindings: &mut Bindings,
    count: usize,
    declared: &dyn Fn(usize) -> Declared<'a>,
    inherit: &mut dyn FnMut(&mut Bindings),
) -> Result<(), Misfit> {
    // Plain symbols first: expressions then find them bound whatever the order. The last round reports what is wrong.
    for round in 0..3 {
        if round == 1 {
            inherit(bindings);
        }
        let mut deferred = false;
        for position in 0..count {
            let Declared { ty, dims } = declared(position);
            let Some(expected) = ty.as_tensor().and_then(|t| t.shape.dims()) else { continue };
            if expected.len() != dims.len() {
                let reason = format!("rank {} expected, rank {} given", expected.len(), dims.len());
                return Err(Misfit { position, axis: None, reason });
            }
            for (axis, (dim, &actual)) in expected.iter().zip(&dims).enumerate() {
                let misfit = |reason| Misfit { position, axis: Some(axis), reason };
                let actual = i64::try_from(actual).map_err(|_| misfit("too large".to_owned()))?;
                match unify_dim(index, bindings, dim, actual, round > 0) {
                    Ok(fits) => deferred |= !fits,
                    Err(reason) => return Err(misfit(reason)),
                }
            }
        }
        if !deferred && round > 0 {
            break;
        }
    }
    Ok(())
}

/// Whether the dim is settled; `Err` says why it does not fit.
fn unify_dim(
    index: &SymbolIndex,
    bindings: &mut Bindings,
    dim: &Dim,
    actual: i64,
    solve: bool,
) -> Result<bool, String> {
    if dim.is_unknown() {
        return Ok(true);
    }
    let expected = match index.eval(dim, bindings) {
        Ok(value) => value,
        Err(DimError::Unbound(_)) if dim.as_symbol().is_some() => {
            if let Some(symbol) = dim.as_symbol().and_then(|s| index.get(s)) {
                bindings.set(symbol, Some(actual));
            }
            return Ok(true);
        }
        Err(DimError::Unbound(_)) if solve => match solve_linear(index, bindings, dim, actual) {
            Some((symbol, value)) => {
                bindings.set(symbol, Some(value));
                return Ok(true);
            }
            None => return Ok(false),
        },
        Err(DimError::Unbound(_)) => return Ok(false),
        Err(error) => return Err(error.to_string()),
    };
    if expected == actual {
        return Ok(true);
    }
    Err(match dim.as_known() {
        Some(_) => format!("{expected} expected, {actual} given"),
        None => format!("{dim} is {expected}, {actual} given"),
    })
}

/// The one unbound symbol of `dim` and the value under which the dim is `actual`, if the dim is linear in it.
fn solve_linear(index: &SymbolIndex, bindings: &Bindings, dim: &Dim, actual: i64) -> Option<(u32, i64)> {
    let unbound: Cell<Option<u32>> = Cell::new(None);
    let mut several = false;
    dim.symbols(&mut |symbol| match index.get(symbol) {
        Some(number) if bindings.get(number).is_none() => {
            several |= unbound.get().is_some_and(|u| u != number);
            unbound.set(Some(number));
        }
        Some(_) => {}
        None => several = true,
    });
    let symbol = unbound.get().filter(|_| !several)?;
    // Minima, quotients and the like have many solutions.
    if !dim.is_multilinear() {
        return None;
    }
    let at = |value: i64| {
        dim.eval(&|s| {
            let number = index.get(s)?;
            if number == symbol { Some(value) } else { bindings.get(number) }
        })
        .ok()
    };
    let (zero, one) = (at(0)?, at(1)?);
    let value = actual.checked_sub(zero)?.checked_div(one.checked_sub(zero)?)?;
    (value >= 0 && at(value)? == actual).then_some((symbol, value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_ir::DType;

    fn try_unify(shapes: &[(&[&str], &[usize])]) -> Result<Vec<(String, i64)>, String> {
        let mut index = SymbolIndex::default();
        let mut names = Vec::new();
        let types: Vec<Type> = shapes
            .iter()
            .map(|(dims, _)| {
                Type::tensor(DType::F32, dims.iter().map(|d| d.parse().unwrap()).collect::<Vec<Dim>>())
            })
            .collect();
        for ty in &types {
            for dim in ty.as_tensor().unwrap().shape.dims().unwrap() {
                dim.symbols(&mut |s| {
                    if index.get(s).is_none() {
                        names.push((s.to_string(), index.intern(s)));
                    }
                });
            }
        }
        let mut bindings = Bindings::unbound(index.len());
        unify(
            &index,
            &mut bindings,
            types.len(),
            &|i| Declared { ty: &types[i], dims: SmallVec::from_slice(shapes[i].1) },
            &mut |_| {},
        )
        .map_err(|m| format!("{}.{:?}: {}", m.position, m.axis, m.reason))?;
        Ok(names.into_iter().filter_map(|(n, i)| Some((n, bindings.get(i)?))).collect())
    }

    #[test]
    fn symbols_bind_and_must_agree() {
        assert_eq!(try_unify(&[(&["N", "3"], &[5, 3])]), Ok(vec![("N".to_owned(), 5)]));
        assert!(try_unify(&[(&["N"], &[5]), (&["N"], &[6])]).unwrap_err().contains("N is 5, 6 given"));
        assert!(try_unify(&[(&["3"], &[4])]).unwrap_err().contains("3 expected, 4 given"));
        assert!(try_unify(&[(&["N", "M"], &[4])]).unwrap_err().contains("rank"));
    }

    #[test]
    fn expressions_are_checked_or_solved() {
        // The expression stands before the symbol that settles it.
        assert!(try_unify(&[(&["2*N"], &[10]), (&["N"], &[5])]).is_ok());
        assert!(try_unify(&[(&["2*N"], &[11]), (&["N"], &[5])]).is_err());
        assert_eq!(try_unify(&[(&["2*N+1"], &[11])]), Ok(vec![("N".to_owned(), 5)]));
        // Not linear, not integral, two unknowns: nothing is bound.
        assert_eq!(try_unify(&[(&["2*N"], &[11])]), Ok(vec![]));
        assert_eq!(try_unify(&[(&["N+M"], &[11])]), Ok(vec![]));
        // Many solutions: the other dim decides, or nothing does.
        for dim in ["min(N,5)", "mod(N,4)", "floordiv(N+1,2)", "N*N"] {
            assert_eq!(try_unify(&[(&[dim], &[1])]), Ok(vec![]), "{dim}");
        }
        let both = try_unify(&[(&["min(N,5)"], &[5]), (&["N"], &[10])]);
        assert_eq!(both, Ok(vec![("N".to_owned(), 10)]));
    }
}
