//! Scalar formulas, computed over tables of numbers or added as operators: one text serves both.

use crate::infer::InferError;
use crate::scalar::ScalarNode;
use crate::{Build, DType, Prim, Scalar, ScalarExpr, Value};

/// A formula over named parameters, all f64.
pub(super) struct Formula(ScalarExpr);

impl Formula {
    /// Reads a formula; `params` names its operands in order.
    pub(super) fn new(text: &str, params: &[&str]) -> Result<Self, InferError> {
        ScalarExpr::parse(text, params, &[]).map(Formula).map_err(|e| InferError::new(e.to_string()))
    }

    /// The value for given operands; comparisons give 1 and 0.
    pub(super) fn eval(&self, operands: &[f64]) -> f64 {
        let scalars: Vec<Scalar> = operands.iter().map(|&v| Scalar::F(v)).collect();
        match self.0.eval(&scalars, &[], DType::F64) {
            Scalar::F(v) => v,
            Scalar::B(v) => f64::from(u8::from(v)),
            Scalar::I(v) => v as f64,
        }
    }

    /// Adds operators that compute the formula over f64 values.
    pub(super) fn build(&self, b: &mut dyn Build, operands: &[Value]) -> Result<Value, InferError> {
        let mut values: Vec<Value> = vec![];
        let missing = || InferError::new("a formula misses an operand");
        for node in &self.0.nodes {
            let value = match node {
                ScalarNode::Param(i) | ScalarNode::Attr(i) => *operands.get(*i).ok_or_else(missing)?,
                ScalarNode::Const(c) => b.scalar(DType::F64, *c)?,
                ScalarNode::Apply(p, args) => {
                    let args: Option<Vec<Value>> = args.iter().map(|&i| values.get(i).copied()).collect();
                    b.ew(operator(*p), &args.ok_or_else(missing)?)?
                }
            };
            values.push(value);
        }
        values.last().copied().ok_or_else(missing)
    }
}

/// The elementwise operator of a primitive; all but selection share their name with it.
fn operator(p: Prim) -> &'static str {
    match p {
        Prim::Select => "where",
        Prim::IsNan => "is_nan",
        other => other.name(),
    }
}
