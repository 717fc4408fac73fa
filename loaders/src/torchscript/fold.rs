//! Operators on small tensors that are known: their results are computed while the program is followed.
//!
//! Sizes are often computed as tensors of floats: a detector scales its image so that the shorter side has some length. Were
//! such results not known, every size after them would show at run time only.

use kiln_ir::{Build, DType, Dim, Evaluator, GraphBuilder, Known, Module, Scalar, Tensor, Value};

use super::fault::Res;
use super::machine::Machine;
use crate::aten::{self, Arg};

/// Most elements of an operand or result.
const MAX_ELEMENTS: usize = 64;

/// Operators whose results depend on their operands alone, as sizes are computed with. Sorted.
const FOLDED: &[&str] = &[
    "_shape_as_tensor",
    "abs",
    "add",
    "amax",
    "amin",
    "arange",
    "cat",
    "ceil",
    "clamp",
    "clone",
    "cumsum",
    "detach",
    "div",
    "eq",
    "exp",
    "expand",
    "flatten",
    "floor",
    "floor_divide",
    "full_like",
    "ge",
    "gt",
    "le",
    "log",
    "log2",
    "lt",
    "max",
    "maximum",
    "mean",
    "min",
    "minimum",
    "mul",
    "ne",
    "neg",
    "ones_like",
    "permute",
    "pow",
    "prod",
    "reciprocal",
    "remainder",
    "repeat",
    "reshape",
    "round",
    "rsub",
    "select",
    "slice",
    "sqrt",
    "squeeze",
    "stack",
    "sub",
    "sum",
    "t",
    "to",
    "transpose",
    "true_divide",
    "trunc",
    "unbind",
    "unsqueeze",
    "view",
    "where",
    "zeros_like",
];

impl Machine<'_> {
    /// The results of an operator of ATen's table if its operands are small and known.
    pub fn folded(
        &mut self,
        name: &str,
        full: &str,
        args: &[Arg],
        kwargs: &[(String, Arg)],
    ) -> Res<Option<Vec<Arg>>> {
        if FOLDED.binary_search(&name).is_err() {
            return Ok(None);
        }
        let mut module = Module::new();
        let mut b = GraphBuilder::new(&mut module, "known");
        let mut tensors = 0;
        let copy = |arg: &Arg, b: &mut GraphBuilder<'_>, tensors: &mut usize| self.copied(arg, b, tensors);
        let operands: Option<Vec<Arg>> = args.iter().map(|arg| copy(arg, &mut b, &mut tensors)).collect();
        let named: Option<Vec<(String, Arg)>> =
            kwargs.iter().map(|(name, arg)| Some((name.clone(), copy(arg, &mut b, &mut tensors)?))).collect();
        let (Some(operands), Some(named)) = (operands, named) else { return Ok(None) };
        if tensors == 0 {
            return Ok(None);
        }
        // What is wrong is told where the operator is built for good.
        let Ok(outcome) = aten::call(&mut b, full, None, operands, named) else { return Ok(None) };
        if outcome.writes.is_some() {
            return Ok(None);
        }
        let mut places = vec![];
        let Some(shape) = places_of(&outcome.results, &b, &mut places) else { return Ok(None) };
        for &v in &places {
            b.output("known", v);
        }
        let id = b.finish();
        let Ok(found) = Evaluator::new(&module).run(id, &[]) else { return Ok(None) };
        let first = match args.first() {
            Some(Arg::Tensor(v)) => Some(self.dtype(&self.g.node(*v))?),
            _ => None,
        };
        let mut values = vec![];
        for datum in found {
            let Some(tensor) = datum.into_tensor() else { return Ok(None) };
            // A conversion to the type that a tensor has is the tensor itself.
            if name == "to" && first == Some(tensor.dtype()) {
                return Ok(None);
            }
            let constant = super::value::Traced::Constant(tensor);
            values.push(Arg::Tensor(self.g.value(&constant)?));
        }
        let mut values = values.into_iter();
        Ok(shape.into_iter().map(|count| regrouped(count, &mut values)).collect())
    }

    /// An argument as one of a graph by itself, if all that it has is small and known.
    fn copied(&self, arg: &Arg, b: &mut GraphBuilder<'_>, tensors: &mut usize) -> Option<Arg> {
        match arg {
            Arg::Tensor(v) => {
                *tensors += 1;
                Some(Arg::Tensor(b.constant(self.small(*v)?).ok()?))
            }
            Arg::Scalar(v) => Some(Arg::Scalar(b.constant(self.small(*v)?).ok()?)),
            Arg::Int(dim) => dim.as_known().map(|_| arg.clone()),
            Arg::List(items) => items
                .iter()
                .map(|item| self.copied(item, b, tensors))
                .collect::<Option<Vec<_>>>()
                .map(Arg::List),
            other => Some(other.clone()),
        }
    }

    /// A value of the current graph as a constant, if it is known and small.
    fn small(&self, v: Value) -> Option<Tensor> {
        let t = self.g.node(v);
        match self.g.known(&t)? {
            Known::Tensor(tensor) => {
                Some(tensor).filter(|t| t.numel() <= MAX_ELEMENTS && t.dtype() != DType::String)
            }
            Known::Dims(dims) => {
                let ty = self.g.ty(&t).ok()?;
                let ty = ty.as_tensor()?;
                let sizes =
                    ty.shape.dims()?.iter().map(|d| d.as_known().and_then(|d| usize::try_from(d).ok()));
                let sizes = sizes.collect::<Option<Vec<usize>>>()?;
                let scalar = |d: &Dim| d.as_known().map(|n| Scalar::I(i128::from(n)));
                let scalars = dims.iter().map(scalar).collect::<Option<Vec<Scalar>>>()?;
                Tensor::from_scalars(ty.dtype, &sizes, &scalars).ok()
            }
        }
    }
}

/// The tensors of results, and for each result how many it has if it is a list; `None` if one is no tensor or not small.
fn places_of(results: &[Arg], b: &GraphBuilder<'_>, places: &mut Vec<Value>) -> Option<Vec<Option<usize>>> {
    let mut add = |arg: &Arg| {
        let Arg::Tensor(v) = arg else { return None };
        let sizes = b.shape(*v).ok()?.iter().map(|d| d.as_known()).collect::<Option<Vec<i64>>>()?;
        let count = sizes.iter().try_fold(1i64, |n, &d| n.checked_mul(d))?;
        let fits = usize::try_from(count).is_ok_and(|n| n <= MAX_ELEMENTS);
        fits.then(|| places.push(*v))
    };
    let mut shape = vec![];
    for result in results {
        match result {
            Arg::List(items) => {
                items.iter().try_for_each(&mut add)?;
                shape.push(Some(items.len()));
            }
            single => {
                add(single)?;
                shape.push(None);
            }
        }
    }
    Some(shape)
}

/// The next tensor, or a list of the next ones.
fn regrouped(count: Option<usize>, values: &mut impl Iterator<Item = Arg>) -> Option<Arg> {
    match count {
        Some(n) => Some(Arg::List(values.take(n).collect())),
        None => values.next(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted() {
        assert!(FOLDED.is_sorted());
        assert!(FOLDED.iter().all(|name| aten::supports(&format!("aten::{name}"))));
    }
}
