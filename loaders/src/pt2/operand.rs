//! Arguments of nodes as operands of the operator table.

use kiln_ir::Dim;

use super::archive::element_type;
use super::import::{Frame, Session};
use super::program::{Argument, Named, OptionalTensor, SymBoolArgument, SymFloatArgument, SymIntArgument};
use crate::aten::Arg;
use crate::error::OpError;

/// The operand that an argument stands for. Graphs are none.
pub(super) fn operand<'p>(
    session: &mut Session<'p>,
    frame: &mut Frame<'p>,
    b: &mut kiln_ir::GraphBuilder<'_>,
    arg: &'p Argument,
) -> Result<Arg, OpError> {
    let mut named = |name: &'p str| {
        frame.aliases.check(name)?;
        frame.resolve(session, b, name)
    };
    Ok(match arg {
        Argument::AsNone(_) => Arg::None,
        Argument::AsTensor(Named { name }) => named(name)?,
        Argument::AsTensors(list) => list_of(list, |t| named(&t.name))?,
        Argument::AsInt(value) => Arg::int(*value),
        Argument::AsInts(list) => Arg::dims(list.iter().copied().map(Dim::known)),
        Argument::AsFloat(value) => Arg::Float(value.0),
        Argument::AsFloats(list) => list_of(list, |v| Ok(Arg::Float(v.0)))?,
        Argument::AsString(text) => Arg::Str(text.clone()),
        Argument::AsStrings(list) => list_of(list, |text| Ok(Arg::Str(text.clone())))?,
        Argument::AsSymInt(arg) => sym_int(arg, &mut named)?,
        Argument::AsSymInts(list) => list_of(list, |arg| sym_int(arg, &mut named))?,
        Argument::AsScalarType(code) => {
            let dtype = element_type(*code);
            Arg::DType(dtype.ok_or_else(|| OpError::unsupported(format!("element type {code}")))?)
        }
        Argument::AsMemoryFormat(_) | Argument::AsLayout(_) | Argument::AsDevice(_) => Arg::Ignored,
        Argument::AsBool(value) => Arg::Bool(*value),
        Argument::AsBools(list) => list_of(list, |v| Ok(Arg::Bool(*v)))?,
        Argument::AsSymBool(arg) => sym_bool(arg, &mut named)?,
        Argument::AsSymBools(list) => list_of(list, |arg| sym_bool(arg, &mut named))?,
        Argument::AsOptionalTensor(arg) => optional(arg, &mut named)?,
        Argument::AsOptionalTensors(list) => list_of(list, |arg| optional(arg, &mut named))?,
        Argument::AsSymFloat(arg) => sym_float(arg, &mut named)?,
        Argument::AsSymFloats(list) => list_of(list, |arg| sym_float(arg, &mut named))?,
        Argument::AsNestedTensors(lists) => list_of(lists, |list| list_of(list, |t| named(&t.name)))?,
        Argument::AsIntLists(lists) => {
            list_of(lists, |list| Ok(Arg::dims(list.iter().copied().map(Dim::known))))?
        }
        Argument::AsFloatLists(lists) => list_of(lists, |list| list_of(list, |v| Ok(Arg::Float(v.0))))?,
        Argument::AsGraph(graph) => {
            return Err(OpError::unsupported(format!("the graph `{}` as an operand", graph.name)));
        }
        Argument::AsCustomObj(object) => {
            let class = &object.class_fqn;
            return Err(OpError::unsupported(format!("the object `{}` of class `{class}`", object.name)));
        }
        Argument::AsOperator(name) => {
            return Err(OpError::unsupported(format!("the operator `{name}` as an operand")));
        }
        Argument::AsComplex(_) => return Err(OpError::unsupported("complex numbers")),
        Argument::AsStringToArgument(_) => return Err(OpError::unsupported("a dict as an operand")),
    })
}

fn list_of<'p, T>(list: &'p [T], item: impl FnMut(&'p T) -> Result<Arg, OpError>) -> Result<Arg, OpError> {
    list.iter().map(item).collect::<Result<Vec<_>, _>>().map(Arg::List)
}

type Lookup<'f, 'p> = &'f mut dyn FnMut(&'p str) -> Result<Arg, OpError>;

fn sym_int<'p>(arg: &'p SymIntArgument, named: Lookup<'_, 'p>) -> Result<Arg, OpError> {
    match arg {
        SymIntArgument::AsName(name) => named(name),
        SymIntArgument::AsInt(value) => Ok(Arg::int(*value)),
    }
}

fn sym_float<'p>(arg: &'p SymFloatArgument, named: Lookup<'_, 'p>) -> Result<Arg, OpError> {
    match arg {
        SymFloatArgument::AsName(name) => named(name),
        SymFloatArgument::AsFloat(value) => Ok(Arg::Float(value.0)),
    }
}

fn sym_bool<'p>(arg: &'p SymBoolArgument, named: Lookup<'_, 'p>) -> Result<Arg, OpError> {
    match arg {
        SymBoolArgument::AsName(name) => named(name),
        SymBoolArgument::AsBool(value) => Ok(Arg::Bool(*value)),
    }
}

fn optional<'p>(arg: &'p OptionalTensor, named: Lookup<'_, 'p>) -> Result<Arg, OpError> {
    match arg {
        OptionalTensor::AsTensor(tensor) => named(&tensor.name),
        OptionalTensor::AsNone(_) => Ok(Arg::None),
    }
}
