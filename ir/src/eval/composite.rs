//! Composites: the evaluator runs their decompositions.

use std::sync::Arc;

use crate::decompose::decompose;
use crate::op::Composite;
use crate::{Dim, GraphBuilder, GraphId, InferError, Module, Type, Value};

use super::fault::{Fault, invalid};
use super::{Datum, Evaluator};

/// A decomposition over operands of fixed types.
pub(super) type Body = Arc<(Module, GraphId)>;

/// Decompositions kept for repeated use.
pub(super) const KEPT_BODIES: usize = 256;

/// A composite.
pub(super) fn composite(
    ev: &mut Evaluator<'_>,
    op: &Composite,
    operands: &[Datum],
) -> Result<Vec<Datum>, Fault> {
    let op = with_fixed_dims(ev, op)?;
    let types: Vec<Type> = operands.iter().map(Datum::ty).collect();
    let key = (op, types);
    let body = match ev.bodies.get(&key) {
        Some(body) => body.clone(),
        None => {
            let body = build(&key.1, |b, inputs| decompose(&key.0, b, inputs))?;
            if ev.bodies.len() >= KEPT_BODIES {
                ev.bodies.clear();
            }
            ev.bodies.insert(key, body.clone());
            body
        }
    };
    run_body(ev, &body, operands)
}

/// The composite with its symbolic dims replaced by their values.
fn with_fixed_dims(ev: &Evaluator<'_>, op: &Composite) -> Result<Composite, Fault> {
    let mut op = op.clone();
    if let Composite::Resize { sizes, .. } = &mut op {
        for size in sizes {
            *size = Dim::known(ev.cx.dim(size)?);
        }
    }
    Ok(op)
}

/// Runs operators that `body` adds, on the operands.
pub(super) fn run_built(
    ev: &mut Evaluator<'_>,
    operands: &[Datum],
    body: impl FnOnce(&mut GraphBuilder<'_>, &[Value]) -> Result<Vec<Value>, InferError>,
) -> Result<Vec<Datum>, Fault> {
    let types: Vec<Type> = operands.iter().map(Datum::ty).collect();
    let body = build(&types, body)?;
    run_body(ev, &body, operands)
}

fn build(
    types: &[Type],
    body: impl FnOnce(&mut GraphBuilder<'_>, &[Value]) -> Result<Vec<Value>, InferError>,
) -> Result<Body, Fault> {
    let mut module = Module::new();
    let mut b = GraphBuilder::new(&mut module, "body");
    let inputs: Vec<Value> =
        types.iter().enumerate().map(|(i, ty)| b.input(&format!("in{i}"), ty.clone())).collect();
    let results = body(&mut b, &inputs).or_else(|e| invalid(e.to_string()))?;
    for (i, v) in results.into_iter().enumerate() {
        b.output(&format!("out{i}"), v);
    }
    let id = b.finish();
    Ok(Arc::new((module, id)))
}

fn run_body(ev: &mut Evaluator<'_>, body: &Body, operands: &[Datum]) -> Result<Vec<Datum>, Fault> {
    // The nodes of a body are not nodes of the model: observers do not see them.
    let observer = ev.observer.take();
    let results = ev.run_graph(&body.0, body.1, operands.to_vec());
    ev.observer = observer;
    Ok(results?)
}
