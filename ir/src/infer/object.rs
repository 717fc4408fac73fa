//! Sequences, optionals, state.

use super::{InferCx, InferError, Inferred, Results, dynamic::normal_axis, ensure, join};
use crate::op::Object;
use crate::{DType, Dim, Shape, TensorType, Type};

fn element<'a>(cx: &InferCx<'a>, i: usize) -> Result<&'a Type, InferError> {
    match cx.operand(i)? {
        Type::Sequence(t) => Ok(t),
        other @ (Type::Tensor(_) | Type::Optional(_)) => {
            Err(InferError::new(format!("operand {i} must be a sequence, found {other}")))
        }
    }
}

fn optional<'a>(cx: &InferCx<'a>, i: usize) -> Result<&'a Type, InferError> {
    match cx.operand(i)? {
        Type::Optional(t) => Ok(t),
        other @ (Type::Tensor(_) | Type::Sequence(_)) => {
            Err(InferError::new(format!("operand {i} must be optional, found {other}")))
        }
    }
}

fn joined(a: &Type, b: &Type) -> Result<Type, InferError> {
    join(a, b).ok_or_else(|| InferError::new(format!("elements of types {a} and {b} in one sequence")))
}

fn position(cx: &InferCx<'_>, i: usize, present: bool) -> Result<(), InferError> {
    cx.expect_count(i + usize::from(present))?;
    if present {
        cx.expect_dtype(i, DType::I64)?;
    }
    Ok(())
}

/// The type of one element: what is not constant in the sequence's type may differ from element to element.
fn any_element(ty: &Type) -> Type {
    ty.map_dims(&mut |d| if d.as_known().is_some() { d.clone() } else { Dim::unknown() })
}

fn sequence(element: Type) -> Inferred {
    Inferred::new(Type::Sequence(Box::new(element)))
}

pub(super) fn infer(op: &Object, cx: &InferCx<'_>) -> Results {
    let result = match op {
        Object::SequenceEmpty { ty } => {
            cx.expect_count(0)?;
            sequence(ty.clone())
        }
        Object::SequenceConstruct {} => {
            let first = cx.operand(0)?.clone();
            sequence(cx.operands.iter().try_fold(first, |a, b| joined(&a, b))?)
        }
        Object::SequenceAt {} => {
            position(cx, 1, true)?;
            Inferred::new(any_element(element(cx, 0)?))
        }
        Object::SequenceInsert { at } => {
            position(cx, 2, *at)?;
            sequence(joined(element(cx, 0)?, cx.operand(1)?)?)
        }
        Object::SequenceErase { at } => {
            position(cx, 1, *at)?;
            sequence(element(cx, 0)?.clone())
        }
        Object::SequenceLength {} => {
            cx.expect_count(1)?;
            element(cx, 0)?;
            Inferred::tensor(DType::I64, Shape::fixed(&[]))
        }
        Object::SequenceSplit { axis, split, keepdims } => {
            position(cx, 1, *split)?;
            split_element(*axis, *split || *keepdims, *split, cx)?
        }
        Object::SequenceConcat { axis, new_axis } => {
            cx.expect_count(1)?;
            concat(element(cx, 0)?, *axis, *new_axis)?
        }
        Object::SequenceMap { body, sequences } => return map(*body, *sequences, cx),
        Object::OptionalNone { ty } => {
            cx.expect_count(0)?;
            Inferred::new(Type::Optional(Box::new(ty.clone())))
        }
        Object::OptionalSome {} => {
            cx.expect_count(1)?;
            Inferred::new(Type::Optional(Box::new(cx.operand(0)?.clone())))
        }
        Object::OptionalHas {} => {
            cx.expect_count(1)?;
            optional(cx, 0)?;
            Inferred::tensor(DType::Bool, Shape::fixed(&[]))
        }
        Object::OptionalGet {} => {
            cx.expect_count(1)?;
            Inferred::new(optional(cx, 0)?.clone())
        }
        Object::StateRead { name: _, ty } => {
            cx.expect_count(0)?;
            Inferred::new(ty.clone())
        }
        Object::StateAssign { name: _ } => {
            cx.expect_count(1)?;
            return Ok(vec![]);
        }
    };
    Ok(vec![result])
}

fn split_element(axis: i64, keep: bool, sizes: bool, cx: &InferCx<'_>) -> Result<Inferred, InferError> {
    let x = cx.tensor(0)?;
    let Some(dims) = x.shape.dims() else { return Ok(sequence(Type::unranked(x.dtype))) };
    let axis = normal_axis(axis, dims.len())?;
    let mut dims = dims.to_vec();
    if keep {
        if let Some(d) = dims.get_mut(axis) {
            *d = if sizes { Dim::unknown() } else { Dim::known(1) };
        }
    } else {
        dims.remove(axis);
    }
    Ok(sequence(Type::tensor(x.dtype, dims)))
}

fn concat(element: &Type, axis: i64, new_axis: bool) -> Result<Inferred, InferError> {
    let Some(TensorType { dtype, shape }) = element.as_tensor() else {
        return Err(InferError::new(format!("elements must be tensors, found {element}")));
    };
    let Some(dims) = shape.dims() else { return Ok(Inferred::tensor(*dtype, Shape::unranked())) };
    let mut dims = dims.to_vec();
    let axis = normal_axis(axis, dims.len() + usize::from(new_axis))?;
    if new_axis {
        dims.insert(axis, Dim::unknown());
    } else if let Some(d) = dims.get_mut(axis) {
        *d = Dim::unknown();
    }
    Ok(Inferred::tensor(*dtype, Shape::new(dims)))
}

fn map(body: crate::GraphId, sequences: usize, cx: &InferCx<'_>) -> Results {
    let graph = cx.graph(body)?;
    cx.expect_count(graph.inputs().len())?;
    ensure!(sequences >= 1 && sequences <= cx.operands.len(), "{sequences} sequence operands");
    for (i, &input) in graph.inputs().iter().enumerate() {
        let given = if i < sequences { element(cx, i)? } else { cx.operand(i)? };
        let wanted = graph.ty(input);
        ensure!(wanted.is_compatible(given), "input {i} of {body} is {wanted}, the operand gives {given}");
    }
    // Elements may differ in shape from one another, and so may results.
    Ok(graph.outputs().iter().map(|&v| sequence(any_element(graph.ty(v)))).collect())
}
