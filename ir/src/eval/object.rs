//! Sequences, optionals and states.

use crate::op::Object;
use crate::{DType, GraphId, Module, Tensor, Type};

use super::control::bool_tensor;
use super::fault::{Fault, invalid};
use super::lanes::{ints, single};
use super::live::Owner;
use super::movement::{concat, slice};
use super::walk::{axis_of, index_of};
use super::{Datum, Evaluator, tensor};

/// An operator on sequences, optionals or states.
pub(super) fn object(
    ev: &mut Evaluator<'_>,
    module: &Module,
    op: &Object,
    operands: &[Datum],
) -> Result<Vec<Datum>, Fault> {
    let one = match op {
        Object::SequenceEmpty { ty } => Datum::Sequence { element: ty.clone(), items: vec![] },
        Object::SequenceConstruct {} => sequence_of(ev, operands.to_vec())?,
        Object::SequenceAt {} => {
            let (_, items) = sequence(operands, 0)?;
            let position = single(&ints(tensor(operands, 1)?)?, "the position")?;
            items[index_of(position, items.len())?].clone()
        }
        Object::SequenceInsert { at } => insert(ev, operands, *at)?,
        Object::SequenceErase { at } => erase(operands, *at)?,
        Object::SequenceLength {} => Tensor::scalar(sequence(operands, 0)?.1.len() as i64).into(),
        Object::SequenceSplit { axis, split, keepdims } => {
            let sizes = if *split { Some(tensor(operands, 1)?) } else { None };
            let parts = split_parts(ev, tensor(operands, 0)?, sizes, *axis, *keepdims)?;
            let element = Type::unranked(tensor(operands, 0)?.dtype());
            Datum::Sequence { element, items: parts.into_iter().map(Datum::Tensor).collect() }
        }
        Object::SequenceConcat { axis, new_axis } => sequence_concat(ev, operands, *axis, *new_axis)?.into(),
        Object::SequenceMap { body, sequences } => return map(ev, module, *body, *sequences, operands),
        Object::OptionalNone { ty } => Datum::Optional { element: ty.clone(), value: None },
        Object::OptionalSome {} => {
            let Some(value) = operands.first() else { return invalid("takes a value") };
            Datum::Optional { element: value.ty(), value: Some(Box::new(value.clone())) }
        }
        Object::OptionalHas {} => match operands.first() {
            Some(Datum::Optional { value, .. }) => bool_tensor(value.is_some())?.into(),
            Some(Datum::Tensor(_) | Datum::Sequence { .. }) => bool_tensor(true)?.into(),
            None => bool_tensor(false)?.into(),
        },
        Object::OptionalGet {} => match operands.first() {
            Some(Datum::Optional { value: Some(value), .. }) => (**value).clone(),
            Some(Datum::Optional { value: None, .. }) | None => return invalid("the optional is absent"),
            Some(present) => present.clone(),
        },
        Object::StateRead { name, ty: _ } => match ev.states.get(name) {
            Some(value) => value.clone().into(),
            None => return invalid(format!("there is no state `{name}`")),
        },
        Object::StateAssign { name } => {
            let value = tensor(operands, 0)?.clone();
            match ev.states.get_mut(name) {
                Some(slot) if slot.dtype() == value.dtype() => *slot = value,
                Some(slot) => {
                    return invalid(format!(
                        "state `{name}` is {}, the value {}",
                        slot.dtype(),
                        value.dtype()
                    ));
                }
                None => return invalid(format!("there is no state `{name}`")),
            }
            return Ok(vec![]);
        }
    };
    Ok(vec![one])
}

/// Operand `i` as a sequence.
fn sequence(operands: &[Datum], i: usize) -> Result<(&Type, &[Datum]), Fault> {
    match operands.get(i) {
        Some(Datum::Sequence { element, items }) => Ok((element, items)),
        Some(other) => invalid(format!("operand {i} is {}, not a sequence", other.ty())),
        None => invalid(format!("operand {i} is missing")),
    }
}

/// A type that all elements of a sequence have: shapes may differ.
fn element_type(datum: &Datum) -> Type {
    match datum {
        Datum::Tensor(t) => Type::unranked(t.dtype()),
        Datum::Sequence { .. } | Datum::Optional { .. } => datum.ty(),
    }
}

/// Bytes that an element of a sequence takes beside its data.
pub(super) const ITEM_BYTES: usize = 128;

/// A sequence of items of one type, if the limits allow so many bytes.
fn sequence_of(ev: &mut Evaluator<'_>, items: Vec<Datum>) -> Result<Datum, Fault> {
    let Some(first) = items.first() else { return invalid("takes an element") };
    let element = element_type(first);
    let mut bytes = 0usize;
    for item in &items {
        if element_type(item) != element {
            return invalid(format!("elements of {element} and {}", item.ty()));
        }
        bytes = bytes.saturating_add(ITEM_BYTES + item.as_tensor().map_or(0, |t| t.bytes().len()));
    }
    ev.cx.tick(items.len())?;
    ev.cx.admit_shared(DType::U8, &[bytes])?;
    Ok(Datum::Sequence { element, items })
}

fn insert(ev: &mut Evaluator<'_>, operands: &[Datum], at: bool) -> Result<Datum, Fault> {
    let (_, items) = sequence(operands, 0)?;
    let Some(value) = operands.get(1) else { return invalid("takes a value") };
    let position = match at {
        // One more place than there are elements.
        true => {
            let i = single(&ints(tensor(operands, 2)?)?, "the position")?;
            if i == items.len() as i64 { items.len() } else { index_of(i, items.len())? }
        }
        false => items.len(),
    };
    let mut items = items.to_vec();
    items.insert(position, value.clone());
    sequence_of(ev, items)
}

fn erase(operands: &[Datum], at: bool) -> Result<Datum, Fault> {
    let (element, items) = sequence(operands, 0)?;
    let position = if at { single(&ints(tensor(operands, 1)?)?, "the position")? } else { -1 };
    let mut items = items.to_vec();
    items.remove(index_of(position, items.len())?);
    Ok(Datum::Sequence { element: element.clone(), items })
}

/// Pieces of `x` along `axis`: of the given sizes (rank 1), of one size with a smaller last (rank 0), or of 1.
fn split_parts(
    ev: &mut Evaluator<'_>,
    x: &Tensor,
    sizes: Option<&Tensor>,
    axis: i64,
    keepdims: bool,
) -> Result<Vec<Tensor>, Fault> {
    let axis = axis_of(axis, x.dims().len())?;
    let n = x.dims()[axis];
    // As many pieces as elements at most, each with some hundred bytes of its own.
    ev.cx.admit(DType::C128, &[if matches!(sizes, Some(t) if !t.dims().is_empty()) { 0 } else { n }, 8])?;
    let pieces: Vec<usize> = match sizes {
        Some(t) if t.dims().is_empty() => {
            let size = usize::try_from(single(&ints(t)?, "the size")?).unwrap_or(0);
            if size == 0 {
                return invalid("the size of the pieces is not positive");
            }
            (0..n).step_by(size).map(|start| size.min(n - start)).collect()
        }
        Some(t) => ints(t)?
            .into_iter()
            .map(|s| usize::try_from(s).or_else(|_| invalid(format!("a piece of {s} elements"))))
            .collect::<Result<_, _>>()?,
        None => vec![1; n],
    };
    let mut parts = split_sizes(ev, x, axis, &pieces)?;
    if sizes.is_none() && !keepdims {
        for part in &mut parts {
            let mut dims = part.dims().to_vec();
            dims.remove(axis);
            *part = part.reshaped(&dims)?;
        }
    }
    Ok(parts)
}

/// Pieces of `x` of the given sizes, which must add up.
pub(super) fn split_sizes(
    ev: &mut Evaluator<'_>,
    x: &Tensor,
    axis: usize,
    pieces: &[usize],
) -> Result<Vec<Tensor>, Fault> {
    let total = pieces.iter().try_fold(0usize, |a, &b| a.checked_add(b));
    if total != Some(x.dims()[axis]) {
        return invalid(format!("pieces {pieces:?} of {} elements", x.dims()[axis]));
    }
    let steps = vec![1; x.dims().len()];
    let mut starts = vec![0i64; x.dims().len()];
    let mut sizes = x.dims().to_vec();
    let mut parts = vec![];
    for &size in pieces {
        sizes[axis] = size;
        parts.push(slice(&mut ev.cx, x, &starts, &sizes, &steps)?);
        starts[axis] += size as i64;
    }
    Ok(parts)
}

fn sequence_concat(
    ev: &mut Evaluator<'_>,
    operands: &[Datum],
    axis: i64,
    new_axis: bool,
) -> Result<Tensor, Fault> {
    let (_, items) = sequence(operands, 0)?;
    let mut list = (0..items.len()).map(|i| tensor(items, i).cloned()).collect::<Result<Vec<_>, _>>()?;
    let Some(rank) = list.first().map(|t| t.dims().len()) else { return invalid("the sequence is empty") };
    let axis = axis_of(axis, if new_axis { rank + 1 } else { rank })?;
    if new_axis {
        for t in &mut list {
            let mut dims = t.dims().to_vec();
            if dims.len() != rank {
                return invalid("elements of different ranks");
            }
            dims.insert(axis, 1);
            *t = t.reshaped(&dims)?;
        }
    }
    concat(&mut ev.cx, &list.iter().collect::<Vec<_>>(), axis)
}

/// Runs a graph for each element of the leading `sequences` operands.
fn map(
    ev: &mut Evaluator<'_>,
    module: &Module,
    body: GraphId,
    sequences: usize,
    operands: &[Datum],
) -> Result<Vec<Datum>, Fault> {
    let lists = (0..sequences).map(|i| sequence(operands, i).map(|s| s.1)).collect::<Result<Vec<_>, _>>()?;
    let Some(first) = lists.first() else { return invalid("takes a sequence") };
    if lists.iter().any(|l| l.len() != first.len()) {
        return invalid("sequences of different lengths");
    }
    let Some(graph) = module.get_graph(body) else { return invalid(format!("there is no graph {body}")) };
    let mut results: Vec<Vec<Datum>> = vec![vec![]; graph.outputs().len()];
    ev.cx.live.open();
    let ran = (0..first.len()).try_for_each(|i| {
        let mut inputs: Vec<Datum> = lists.iter().map(|l| l[i].clone()).collect();
        inputs.extend_from_slice(&operands[sequences..]);
        let outputs = ev.run_graph(module, body, inputs)?;
        for (list, v) in results.iter_mut().zip(outputs) {
            ev.cx.hold(&v, Owner::Evaluation)?;
            list.push(v);
        }
        Ok::<(), Fault>(())
    });
    ev.cx.live.close();
    ran?;
    let mut out = vec![];
    for (items, &v) in results.into_iter().zip(graph.outputs()) {
        out.push(match items.is_empty() {
            true => Datum::Sequence { element: graph.ty(v).clone(), items },
            false => sequence_of(ev, items)?,
        });
    }
    Ok(out)
}
