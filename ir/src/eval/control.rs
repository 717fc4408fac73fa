//! Control flow and calls.

use crate::op::Control;
use crate::{GraphId, Module, Tensor, Type};

use super::fault::{Fault, invalid};
use super::lanes::{Lanes, ints, single};
use super::live::Owner;
use super::movement::concat;
use super::object::ITEM_BYTES;
use super::{Datum, Evaluator, tensor};

/// An operator that runs graphs of `module`.
pub(super) fn control(
    ev: &mut Evaluator<'_>,
    module: &Module,
    op: &Control,
    operands: &[Datum],
) -> Result<Vec<Datum>, Fault> {
    match op {
        Control::If { then_graph, else_graph } => {
            let taken = if truth(tensor(operands, 0)?)? { *then_graph } else { *else_graph };
            Ok(ev.run_graph(module, taken, operands[1..].to_vec())?)
        }
        Control::Loop { body, carried } => {
            ev.cx.live.open();
            let results = run_loop(ev, module, *body, *carried, operands);
            ev.cx.live.close();
            results
        }
        Control::Call { graph } | Control::Fusion { graph } => {
            Ok(ev.run_graph(module, *graph, operands.to_vec())?)
        }
    }
}

/// The only element of a bool tensor.
pub(super) fn truth(t: &Tensor) -> Result<bool, Fault> {
    match Lanes::decode(t)? {
        Lanes::B(v) => single(&v, "the condition"),
        _ => invalid(format!("the condition is {}, not bool", t.dtype())),
    }
}

fn run_loop(
    ev: &mut Evaluator<'_>,
    module: &Module,
    body: GraphId,
    carried: usize,
    operands: &[Datum],
) -> Result<Vec<Datum>, Fault> {
    let trips = single(&ints(tensor(operands, 0)?)?, "the trip count")?;
    let mut go_on = truth(tensor(operands, 1)?)?;
    let Some((mut values, captures)) = operands[2..].split_at_checked(carried).map(|(v, c)| (v.to_vec(), c))
    else {
        return invalid(format!("{carried} carried values, {} operands", operands.len()));
    };
    let Some(graph) = module.get_graph(body) else { return invalid(format!("there is no graph {body}")) };
    let Some(scans) = graph.outputs().len().checked_sub(1 + carried) else {
        return invalid(format!("the body gives {} values, {carried} are carried", graph.outputs().len()));
    };
    let mut slices: Vec<Vec<Tensor>> = vec![vec![]; scans];
    let mut trip = 0;
    while go_on && trip < trips {
        ev.cx.tick(1)?;
        // From here on the body's frame holds them.
        values.iter().for_each(|v| ev.cx.live.release(v));
        let mut inputs = vec![Tensor::scalar(trip).into(), bool_tensor(go_on)?.into()];
        inputs.append(&mut values);
        inputs.extend_from_slice(captures);
        let mut results = ev.run_graph(module, body, inputs)?.into_iter();
        let condition = results.next().and_then(Datum::into_tensor);
        go_on = truth(&condition.ok_or_else(|| Fault::operands("the body gives no condition"))?)?;
        values = results.by_ref().take(carried).collect();
        values.iter().try_for_each(|v| ev.cx.hold(v, Owner::Evaluation))?;
        for (slice, list) in results.zip(&mut slices) {
            let Datum::Tensor(t) = slice else { return invalid("a scan result is not a tensor") };
            let held = list.len().saturating_mul(t.bytes().len() + ITEM_BYTES);
            if held as u64 > ev.cx.limits.max_bytes {
                let limit = ev.cx.limits.max_bytes;
                return Err(Fault::TooLarge { dtype: t.dtype(), dims: t.dims().to_vec(), limit });
            }
            let slice = Datum::Tensor(t);
            ev.cx.hold(&slice, Owner::Evaluation)?;
            list.extend(slice.into_tensor());
        }
        trip += 1;
    }
    if trip == 0 && scans > 0 {
        // What is collected over nothing has the sizes that a first iteration would give it.
        ev.cx.enter()?;
        for (&input, datum) in graph.inputs().iter().skip(2).zip(values.iter().chain(captures)) {
            // No iteration runs whose operands would have to fit; sizes without a value are 0.
            let _ = ev.cx.bind_type(graph.ty(input), datum);
        }
    }
    let scanned = slices.into_iter().enumerate();
    let scanned: Result<Vec<Tensor>, Fault> =
        scanned.map(|(i, list)| stack(ev, &list, graph.ty(graph.outputs()[1 + carried + i]))).collect();
    if trip == 0 && scans > 0 {
        ev.cx.leave();
    }
    values.extend(scanned?.into_iter().map(Datum::from));
    Ok(values)
}

pub(super) fn bool_tensor(value: bool) -> Result<Tensor, Fault> {
    Ok(Tensor::from_bools(&[], &[value])?)
}

/// Stacks tensors along a new first axis. Of no tensors: an empty tensor of the declared type, whose dims without a
/// value are 0.
fn stack(ev: &mut Evaluator<'_>, list: &[Tensor], ty: &Type) -> Result<Tensor, Fault> {
    if list.is_empty() {
        let Type::Tensor(t) = ty else { return invalid(format!("a scan result is {ty}")) };
        let mut dims = vec![0];
        for d in t.shape.dims().unwrap_or(&[]) {
            dims.push(ev.cx.size(d).unwrap_or(0));
        }
        return Ok(Tensor::zeros(t.dtype, &dims)?);
    }
    let rows = list
        .iter()
        .map(|t| Ok(t.reshaped(&[&[1], t.dims()].concat())?))
        .collect::<Result<Vec<Tensor>, Fault>>()?;
    concat(&mut ev.cx, &rows.iter().collect::<Vec<_>>(), 0)
}
