//! Comparing a compiled model with the reference evaluator.

use kiln_ir::{Build, GraphBuilder, GraphId, InferError, Module, Scalar, Tensor, Value};
use kiln_runtime::Datum;
use std::collections::BTreeMap;

/// How far a value is from its reference.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// Largest absolute difference; infinite where one value is NaN or infinite and the other is not the same.
    pub max_difference: f64,
    /// Largest finite magnitude of the reference.
    pub max_reference: f64,
    /// What differs beside numbers: dtype, shape, kind, text.
    pub mismatch: Option<String>,
}

impl Difference {
    /// The difference relative to the reference's largest magnitude; infinite on a mismatch.
    pub fn relative(&self) -> f64 {
        match self.mismatch {
            Some(_) => f64::INFINITY,
            None if self.max_difference == 0.0 => 0.0,
            None => self.max_difference / self.max_reference.max(f64::MIN_POSITIVE),
        }
    }

    fn mismatch(what: String) -> Self {
        Difference { max_difference: f64::INFINITY, max_reference: 0.0, mismatch: Some(what) }
    }
}

/// Compares a value with its reference.
pub fn compare(actual: &Datum, expected: &Datum) -> Difference {
    match (actual, expected) {
        (Datum::Tensor(a), Datum::Tensor(e)) => compare_tensors(a, e),
        _ if actual == expected => Difference { max_difference: 0.0, max_reference: 0.0, mismatch: None },
        _ => Difference::mismatch(format!("{} against {}", actual.ty(), expected.ty())),
    }
}

fn compare_tensors(actual: &Tensor, expected: &Tensor) -> Difference {
    if actual.dtype() != expected.dtype() || actual.dims() != expected.dims() {
        return Difference::mismatch(format!("{} against {}", actual.ty(), expected.ty()));
    }
    let (Some(a), Some(e)) = (actual.to_scalars(), expected.to_scalars()) else {
        let equal = actual == expected;
        return if equal {
            Difference { max_difference: 0.0, max_reference: 0.0, mismatch: None }
        } else {
            Difference::mismatch("other elements".to_owned())
        };
    };
    let number = |s: Scalar| match s {
        Scalar::F(v) => v,
        Scalar::I(v) => v as f64,
        Scalar::B(b) => f64::from(u8::from(b)),
    };
    let (mut difference, mut reference) = (0.0f64, 0.0f64);
    for (x, y) in a.into_iter().map(number).zip(e.into_iter().map(number)) {
        if y.is_finite() {
            reference = reference.max(y.abs());
        }
        let same = x == y || (x.is_nan() && y.is_nan());
        let d = if same { 0.0 } else { (x - y).abs() };
        difference = difference.max(if d.is_nan() { f64::INFINITY } else { d });
    }
    Difference { max_difference: difference, max_reference: reference, mismatch: None }
}

/// The module with one more entry: `graph` with every tensor that a node of it computes as an output. Gives the new
/// entry's id and, for each of its outputs, the node's name.
pub fn with_all_outputs(
    module: &Module,
    graph: GraphId,
) -> Result<(Module, GraphId, Vec<String>), InferError> {
    let (mut all, source) = (module.clone(), module.graph(graph));
    let mut builder = GraphBuilder::new(&mut all, &format!("{} (all values)", source.name()));
    let mut values: BTreeMap<Value, Value> = BTreeMap::new();
    for (name, &v) in source.input_names().iter().zip(source.inputs()) {
        values.insert(v, builder.input(name, source.ty(v).clone()));
    }
    let mut names = vec![];
    for (id, node) in source.scheduled() {
        builder.set_origin(node.origin.clone());
        // The schedule defines before it uses, so every operand has its counterpart.
        let operands: Vec<Value> = node.operands.iter().filter_map(|v| values.get(v).copied()).collect();
        let results = builder.add(node.op.clone(), &operands)?;
        for (&old, &new) in node.results.iter().zip(&results) {
            builder.refine(new, source.ty(old))?;
            values.insert(old, new);
            let constant = source.constant(old).is_some();
            if !constant && source.ty(old).as_tensor().is_some() {
                let node_name = node.origin.as_ref().map_or_else(|| id.to_string(), |o| o.to_string());
                builder.output(&format!("v{}", names.len()), new);
                names.push(format!("{node_name} -> {}", node.op.mnemonic()));
            }
        }
    }
    let id = builder.finish();
    all.add_entry(id);
    Ok((all, id, names))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_count_nan_and_shape() {
        let t = |v: &[f32]| Datum::Tensor(Tensor::from_slice(&[v.len()], v).unwrap());
        assert_eq!(compare(&t(&[1.0, f32::NAN]), &t(&[1.0, f32::NAN])).relative(), 0.0);
        assert_eq!(compare(&t(&[1.0]), &t(&[f32::NAN])).relative(), f64::INFINITY);
        assert_eq!(compare(&t(&[1.0]), &t(&[1.0, 2.0])).relative(), f64::INFINITY);
        assert!((compare(&t(&[1.0, 2.5]), &t(&[1.0, 2.0])).relative() - 0.25).abs() < 1e-12);
    }
}
