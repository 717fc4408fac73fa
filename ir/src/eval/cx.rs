//! What operators need beside their operands: values of dimension symbols, limits, randomness.

use rustc_hash::FxHashMap;

use crate::{DType, Dim, Symbol, Type};

use super::Datum;
use super::fault::{Fault, invalid};
use super::live::{Live, Owner};
use super::random::Rng;

/// Bounds of an evaluation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest result, in bytes. Temporary data of an operator is at most 16 times the largest operand or result.
    pub max_bytes: u64,
    /// Most bytes of results that are alive at one time, beside inputs, constants and states.
    pub max_live: u64,
    /// Elementary steps (elements produced, multiply-adds; 256 a node) of all runs together.
    pub max_work: u64,
    /// Depth of graphs that call each other.
    pub max_depth: usize,
}

impl Default for Limits {
    /// 4 GiB a result, 16 GiB in all, no bound on work, 64 levels.
    fn default() -> Self {
        Limits { max_bytes: 4 << 30, max_live: 16 << 30, max_work: u64::MAX, max_depth: 64 }
    }
}

/// Steps that a node counts as, whatever it does.
pub(super) const NODE_WORK: usize = 256;

/// Steps between two calls of the interrupt function: some milliseconds.
const INTERRUPT_PERIOD: u64 = 1 << 22;

pub(super) struct Cx<'m> {
    frames: Vec<FxHashMap<Symbol, i64>>,
    pub(super) limits: Limits,
    pub(super) interrupt: Option<Box<dyn FnMut() -> bool + 'm>>,
    pub(super) random: Rng,
    pub(super) live: Live,
    work: u64,
    asked: u64,
}

impl<'m> Cx<'m> {
    pub(super) fn new(limits: Limits) -> Self {
        let frames = vec![FxHashMap::default()];
        Cx { frames, limits, interrupt: None, random: Rng::new(0), live: Live::default(), work: 0, asked: 0 }
    }

    /// Opens a frame of symbols and a scope of live values for a called graph.
    pub(super) fn enter(&mut self) -> Result<(), Fault> {
        if self.frames.len() > self.limits.max_depth {
            return Err(Fault::DepthLimit(self.limits.max_depth));
        }
        self.frames.push(FxHashMap::default());
        self.live.open();
        Ok(())
    }

    pub(super) fn leave(&mut self) {
        self.frames.pop();
        self.live.close();
    }

    /// Counts a value as alive; an error if all that are alive exceed the limits.
    pub(super) fn hold(&mut self, datum: &Datum, owner: Owner) -> Result<(), Fault> {
        let live = self.live.bytes();
        self.live.hold(datum, owner);
        let bytes = self.live.bytes() - live;
        self.check_live(live, bytes)
    }

    fn check_live(&self, live: u64, bytes: u64) -> Result<(), Fault> {
        let limit = self.limits.max_live;
        match live.saturating_add(bytes) <= limit {
            true => Ok(()),
            false => Err(Fault::LiveLimit { bytes, live, limit }),
        }
    }

    /// Counts work; an error if the limits or the interrupt function say to stop.
    pub(super) fn tick(&mut self, work: usize) -> Result<(), Fault> {
        self.work = self.work.saturating_add(work as u64);
        if self.work > self.limits.max_work {
            return Err(Fault::WorkLimit(self.limits.max_work));
        }
        if self.work - self.asked >= INTERRUPT_PERIOD {
            self.asked = self.work;
            if self.interrupt.as_mut().is_some_and(|f| f()) {
                return Err(Fault::Interrupted);
            }
        }
        Ok(())
    }

    /// The number of elements of a result about to be made, if the limits allow it.
    pub(super) fn admit(&mut self, dtype: DType, dims: &[usize]) -> Result<usize, Fault> {
        let (count, bytes) = self.measure(dtype, dims)?;
        self.check_live(self.live.bytes(), bytes)?;
        self.tick(count)?;
        Ok(count)
    }

    /// As [`Cx::admit`], for a result whose storage is there already.
    pub(super) fn admit_shared(&mut self, dtype: DType, dims: &[usize]) -> Result<usize, Fault> {
        let (count, _) = self.measure(dtype, dims)?;
        self.tick(count)?;
        Ok(count)
    }

    /// Elements and bytes of a result, if one result may have so many.
    fn measure(&self, dtype: DType, dims: &[usize]) -> Result<(usize, u64), Fault> {
        let limit = self.limits.max_bytes;
        let too_large = || Fault::TooLarge { dtype, dims: dims.to_vec(), limit };
        let count = dims.iter().try_fold(1usize, |a, &d| a.checked_mul(d)).ok_or_else(too_large)?;
        // A string takes its header at least; elements that share bytes take a byte each while they are computed.
        let each = match dtype {
            DType::String => size_of::<String>(),
            _ => dtype.bits().div_ceil(8),
        };
        match count.checked_mul(each) {
            Some(bytes) if bytes as u64 <= limit => Ok((count, bytes as u64)),
            Some(_) | None => Err(too_large()),
        }
    }

    pub(super) fn bind(&mut self, symbol: &Symbol, value: i64) {
        if let Some(frame) = self.frames.last_mut() {
            frame.insert(symbol.clone(), value);
        }
    }

    /// Gives a dim its value: a symbol without one takes it.
    pub(super) fn bind_dim(&mut self, dim: &Dim, value: i64) -> Result<(), Fault> {
        match value >= 0 && self.unify(dim, value) {
            true => Ok(()),
            false => invalid(format!("{value} is no value of the size `{dim}`")),
        }
    }

    fn lookup(&self, symbol: &Symbol) -> Option<i64> {
        self.frames.iter().rev().find_map(|f| f.get(symbol)).copied()
    }

    /// The value of a dim.
    pub(super) fn dim(&self, dim: &Dim) -> Result<i64, Fault> {
        Ok(dim.eval(&|s| self.lookup(s))?)
    }

    /// The value of a dim that is a size.
    pub(super) fn size(&self, dim: &Dim) -> Result<usize, Fault> {
        let value = self.dim(dim)?;
        usize::try_from(value).or_else(|_| invalid(format!("dimension `{dim}` is {value}, a size is needed")))
    }

    /// The values of dims that are sizes.
    pub(super) fn sizes(&self, dims: &[Dim]) -> Result<Vec<usize>, Fault> {
        dims.iter().map(|d| self.size(d)).collect()
    }

    /// The values of dims.
    pub(super) fn dims(&self, dims: &[Dim]) -> Result<Vec<i64>, Fault> {
        dims.iter().map(|d| self.dim(d)).collect()
    }

    /// Checks results against their types and binds the types' symbols.
    pub(super) fn bind_results(&mut self, types: &[Type], results: &[Datum]) -> Result<(), Fault> {
        types.iter().zip(results).try_for_each(|(ty, r)| self.bind_type(ty, r))
    }

    /// Checks a value against a declared type and binds the type's symbols. Elements of sequences and optionals may
    /// differ in shape and bind nothing.
    pub(super) fn bind_type(&mut self, ty: &Type, datum: &Datum) -> Result<(), Fault> {
        let mismatch = || invalid(format!("the value is {}, its declared type {ty}", datum.ty()));
        match (ty, datum) {
            (Type::Tensor(t), Datum::Tensor(x)) => {
                if t.dtype != x.dtype() {
                    return mismatch();
                }
                let Some(dims) = t.shape.dims() else { return Ok(()) };
                if dims.len() != x.dims().len() {
                    return mismatch();
                }
                for (dim, &actual) in dims.iter().zip(x.dims()) {
                    if !self.unify(dim, actual as i64) {
                        return mismatch();
                    }
                }
                Ok(())
            }
            (Type::Sequence(_), Datum::Sequence { .. }) | (Type::Optional(_), Datum::Optional { .. }) => {
                Ok(())
            }
            _ => mismatch(),
        }
    }

    /// Binds a symbol that has no value in this frame; otherwise whether the dim has that value. A dim whose symbols
    /// have no values yet is taken at its word.
    fn unify(&mut self, dim: &Dim, actual: i64) -> bool {
        if let Some(symbol) = dim.as_symbol() {
            let here = self.frames.last().and_then(|f| f.get(symbol)).copied();
            if here.is_none() {
                self.bind(symbol, actual);
            }
            return here.is_none_or(|v| v == actual);
        }
        self.dim(dim).map_or(true, |v| v == actual)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datum(dims: &[usize]) -> Datum {
        Datum::Tensor(crate::Tensor::zeros(DType::F32, dims).unwrap())
    }

    #[test]
    fn symbols_unify_within_a_frame() {
        let mut cx = Cx::new(Limits::default());
        let ty = Type::tensor(DType::F32, vec![Dim::symbol("N"), Dim::symbol("N") + Dim::known(1)]);
        cx.bind_type(&ty, &datum(&[3, 4])).unwrap();
        assert_eq!(cx.dim(&(Dim::symbol("N") * Dim::known(2))), Ok(6));
        assert!(cx.bind_type(&ty, &datum(&[3, 5])).is_err());
        cx.enter().unwrap();
        assert_eq!(cx.dim(&Dim::symbol("N")), Ok(3));
        cx.bind_type(&ty, &datum(&[7, 8])).unwrap();
        assert_eq!(cx.dim(&Dim::symbol("N")), Ok(7));
        cx.leave();
        assert_eq!(cx.dim(&Dim::symbol("N")), Ok(3));
    }

    #[test]
    fn limits_stop_work() {
        let mut cx = Cx::new(Limits { max_bytes: 100, max_live: 1000, max_work: 50, max_depth: 2 });
        assert!(matches!(cx.admit(DType::F32, &[26]), Err(Fault::TooLarge { .. })));
        assert!(matches!(cx.admit(DType::F32, &[usize::MAX, 2]), Err(Fault::TooLarge { .. })));
        assert_eq!(cx.admit(DType::F32, &[25]), Ok(25));
        assert!(matches!(cx.tick(26), Err(Fault::WorkLimit(50))));
        cx.enter().unwrap();
        cx.enter().unwrap();
        assert_eq!(cx.enter(), Err(Fault::DepthLimit(2)));
    }

    #[test]
    fn interrupts_are_asked_for() {
        let mut cx = Cx::new(Limits::default());
        cx.interrupt = Some(Box::new(|| true));
        assert_eq!(cx.tick(1), Ok(()));
        assert_eq!(cx.tick(1 << 23), Err(Fault::Interrupted));
    }
}
