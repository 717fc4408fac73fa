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

    fn none() -> Self {
        Difference { max_difference: 0.0, max_reference: 0.0, mismatch: None }
    }

    /// Of two parts of a value: the larger difference, the larger magnitude, the first mismatch.
    fn and(self, other: Self) -> Self {
        Difference {
            max_difference: self.max_difference.max(other.max_difference),
            max_reference: self.max_reference.max(other.max_reference),
            mismatch: self.mismatch.or(other.mismatch),
        }
    }

    fn mismatch(what: String) -> Self {
        Difference { max_difference: f64::INFINITY, max_reference: 0.0, mismatch: Some(what) }
    }
}

/// Compares a value with its reference; sequences and optionals item by item.
pub fn compare(actual: &Datum, expected: &Datum) -> Difference {
    let kinds = || Difference::mismatch(format!("{} against {}", actual.ty(), expected.ty()));
    match (actual, expected) {
        (Datum::Tensor(a), Datum::Tensor(e)) => compare_tensors(a, e),
        (Datum::Sequence { items: a, .. }, Datum::Sequence { items: e, .. }) => {
            if a.len() != e.len() {
                return Difference::mismatch(format!("{} items against {}", a.len(), e.len()));
            }
            a.iter().zip(e).map(|(a, e)| compare(a, e)).fold(Difference::none(), Difference::and)
        }
        (Datum::Optional { value: a, .. }, Datum::Optional { value: e, .. }) => match (a, e) {
            (Some(a), Some(e)) => compare(a, e),
            (None, None) => Difference::none(),
            (Some(_), None) => Difference::mismatch("a value against none".to_owned()),
            (None, Some(_)) => Difference::mismatch("no value against one".to_owned()),
        },
        (Datum::Tensor(_), Datum::Sequence { .. } | Datum::Optional { .. })
        | (Datum::Sequence { .. }, Datum::Tensor(_) | Datum::Optional { .. })
        | (Datum::Optional { .. }, Datum::Tensor(_) | Datum::Sequence { .. }) => kinds(),
    }
}

fn compare_tensors(actual: &Tensor, expected: &Tensor) -> Difference {
    if actual.dtype() != expected.dtype() || actual.dims() != expected.dims() {
        return Difference::mismatch(format!("{} against {}", actual.ty(), expected.ty()));
    }
    let (Some(a), Some(e)) = (actual.to_scalars(), expected.to_scalars()) else {
        let equal = actual == expected;
        return if equal { Difference::none() } else { Difference::mismatch("other elements".to_owned()) };
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

/// The module with one more entry: `graph` with every value that a node of it computes as an output. Gives the new
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
            if !constant {
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
    use kiln_ir::op::Object;
    use kiln_ir::{DType, Evaluator, Type};

    #[test]
    fn differences_count_nan_and_shape() {
        let t = |v: &[f32]| Datum::Tensor(Tensor::from_slice(&[v.len()], v).unwrap());
        assert_eq!(compare(&t(&[1.0, f32::NAN]), &t(&[1.0, f32::NAN])).relative(), 0.0);
        assert_eq!(compare(&t(&[1.0]), &t(&[f32::NAN])).relative(), f64::INFINITY);
        assert_eq!(compare(&t(&[1.0]), &t(&[1.0, 2.0])).relative(), f64::INFINITY);
        assert!((compare(&t(&[1.0, 2.5]), &t(&[1.0, 2.0])).relative() - 0.25).abs() < 1e-12);
    }

    #[test]
    fn items_compare_one_by_one() {
        let t = |v: f32| Datum::Tensor(Tensor::scalar(v));
        let list = |items: Vec<Datum>| Datum::Sequence { element: Type::fixed(DType::F32, &[]), items };
        let some = |value: Option<Datum>| {
            let element = Type::Sequence(Box::new(Type::fixed(DType::F32, &[])));
            Datum::Optional { element, value: value.map(Box::new) }
        };
        let near = compare(&list(vec![t(1.0), t(4.5)]), &list(vec![t(1.0), t(4.0)]));
        assert_eq!((near.relative(), near.mismatch), (0.125, None));
        assert!(compare(&list(vec![t(1.0)]), &list(vec![])).mismatch.is_some());
        assert!(compare(&list(vec![t(1.0)]), &t(1.0)).mismatch.is_some());
        let deep = compare(&some(Some(list(vec![t(2.5)]))), &some(Some(list(vec![t(2.0)]))));
        assert_eq!((deep.relative(), deep.mismatch), (0.25, None));
        assert_eq!(compare(&some(None), &some(None)).relative(), 0.0);
        assert!(compare(&some(None), &some(Some(list(vec![])))).mismatch.is_some());
    }

    #[test]
    fn sequences_are_outputs_too() {
        let mut module = Module::new();
        let mut b = GraphBuilder::new(&mut module, "main");
        let x = b.input("x", Type::fixed(DType::F32, &[2]));
        let s = b.add1(Object::SequenceConstruct {}, &[x, x]).unwrap();
        let n = b.add1(Object::SequenceLength {}, &[s]).unwrap();
        b.output("n", n);
        let id = b.finish();
        let (all, id, names) = with_all_outputs(&module, id).unwrap();
        assert_eq!(names.len(), 2);
        let x = Tensor::from_slice(&[2], &[1.0f32, 2.0]).unwrap();
        let values = Evaluator::new(&all).run(id, &[x.into()]).unwrap();
        assert!(matches!(&values[0], Datum::Sequence { items, .. } if items.len() == 2));
    }
}
