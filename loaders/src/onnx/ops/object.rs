//! Sequences and optionals.

use kiln_ir::op::Object;
use kiln_ir::{Build, DType, Dim, Tensor, Type, Value};

use super::{How, Row, row};
use crate::onnx::cx::{Cx, OpError, Outputs, one};
use crate::onnx::types::value_type;

use How::Fn;

pub(super) const ROWS: &[Row] = &[
    row("ConcatFromSequence", &[11], Fn(concat)),
    row("Optional", &[15], Fn(optional)),
    row("OptionalGetElement", &[15, 18], Fn(get)),
    row("OptionalHasElement", &[15, 18], Fn(has)),
    row("SequenceAt", &[11], Fn(at)),
    row("SequenceConstruct", &[11], Fn(construct)),
    row("SequenceEmpty", &[11], Fn(empty)),
    row("SequenceErase", &[11], Fn(erase)),
    row("SequenceInsert", &[11], Fn(insert)),
    row("SequenceLength", &[11], Fn(length)),
    row("SequenceMap", &[17], Fn(map)),
    row("SplitToSequence", &[11, 24], Fn(split)),
];

/// An optional position operand as a rank-0 i64.
fn position(cx: &mut Cx<'_, '_, '_>, i: usize) -> Result<Option<Value>, OpError> {
    let Some(v) = cx.optional(i) else { return Ok(None) };
    let v = cx.b.cast(v, DType::I64)?;
    Ok(Some(cx.b.reshape(v, &[])?))
}

fn empty(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let dtype = cx.attrs.dtype("dtype")?.unwrap_or(DType::F32);
    one(cx.b.add1(Object::SequenceEmpty { ty: Type::unranked(dtype) }, &[])?)
}

fn construct(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let operands = cx.all_inputs()?;
    one(cx.b.add1(Object::SequenceConstruct {}, &operands)?)
}

fn at(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let sequence = cx.input(0)?;
    let place = position(cx, 1)?.ok_or_else(|| OpError::invalid("the position is missing"))?;
    one(cx.b.add1(Object::SequenceAt {}, &[sequence, place])?)
}

fn insert(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let mut operands = vec![cx.input(0)?, cx.input(1)?];
    let place = position(cx, 2)?;
    operands.extend(place);
    one(cx.b.add1(Object::SequenceInsert { at: place.is_some() }, &operands)?)
}

fn erase(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let mut operands = vec![cx.input(0)?];
    let place = position(cx, 1)?;
    operands.extend(place);
    one(cx.b.add1(Object::SequenceErase { at: place.is_some() }, &operands)?)
}

fn length(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let sequence = cx.input(0)?;
    one(cx.b.add1(Object::SequenceLength {}, &[sequence])?)
}

fn concat(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let sequence = cx.input(0)?;
    let axis = cx.attrs.required_int("axis")?;
    let new_axis = cx.attrs.flag("new_axis", false)?;
    one(cx.b.add1(Object::SequenceConcat { axis, new_axis }, &[sequence])?)
}

fn split(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let x = cx.input(0)?;
    let axis = cx.attrs.int_or("axis", 0)?;
    let keepdims = cx.attrs.flag("keepdims", true)?;
    let mut operands = vec![x];
    if let Some(sizes) = cx.optional(1) {
        operands.push(cx.b.cast(sizes, DType::I64)?);
    }
    let split = operands.len() > 1;
    one(cx.b.add1(Object::SequenceSplit { axis, split, keepdims }, &operands)?)
}

fn optional(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    if let Some(v) = cx.optional(0) {
        return one(cx.b.add1(Object::OptionalSome {}, &[v])?);
    }
    let ty =
        cx.attrs.type_proto("type")?.ok_or_else(|| OpError::invalid("neither value nor type is given"))?;
    let ty = match value_type(ty)? {
        Type::Optional(element) => *element,
        element => element,
    };
    one(cx.b.add1(Object::OptionalNone { ty }, &[])?)
}

/// From opset 18 on, absent operands are absent values, and plain values are present ones.
fn has(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    match cx.optional(0) {
        Some(v) if matches!(cx.b.ty(v), Type::Optional(_)) => one(cx.b.add1(Object::OptionalHas {}, &[v])?),
        other => one(cx.b.constant(Tensor::from_bools(&[], &[other.is_some()])?)?),
    }
}

fn get(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let v = cx.input(0)?;
    if matches!(cx.b.ty(v), Type::Optional(_)) {
        return one(cx.b.add1(Object::OptionalGet {}, &[v])?);
    }
    one(v)
}

/// The type of one element: what is not constant differs from element to element.
fn element(ty: &Type) -> Option<Type> {
    let Type::Sequence(t) = ty else { return None };
    Some(t.map_dims(&mut |d| if d.as_known().is_some() { d.clone() } else { Dim::unknown() }))
}

/// Sequence operands come first in the IR, then the tensors that every call gets, then captures.
fn map(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let body = cx.attrs.graph("body")?;
    let values = cx.all_inputs()?;
    if values.len() != body.input.len() {
        return Err(OpError::invalid(format!(
            "{} operands for a body of {}",
            values.len(),
            body.input.len()
        )));
    }
    let captures = cx.captures(&[body])?;
    let mut sequences = vec![];
    let mut others = vec![];
    for (&v, info) in values.iter().zip(&body.input) {
        match element(cx.b.ty(v)) {
            Some(ty) => sequences.push((v, info, ty)),
            None => others.push((v, info, cx.b.ty(v).clone())),
        }
    }
    let graph = cx.nested("body", |n| {
        for (_, info, ty) in sequences.iter().chain(&others) {
            let v = n.input(&info.name, ty.clone());
            n.bind(&info.name, v);
        }
        n.bind_captures(&captures)?;
        let outputs = n.import(body)?;
        for (v, info) in outputs.into_iter().zip(&body.output) {
            n.b.output(&info.name, v);
        }
        Ok(())
    })?;
    let op = Object::SequenceMap { body: graph, sequences: sequences.len() };
    let mut operands: Vec<Value> = sequences.iter().chain(&others).map(|(v, _, _)| *v).collect();
    operands.extend(captures.operands());
    Ok(cx.b.add(op.into(), &operands)?.to_vec())
}
