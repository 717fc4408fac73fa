//! What a traced module was traced with: `traced_inputs.pkl` describes the inputs, without their data. It only fills in what
//! the caller does not say, so what cannot be read of it is passed over.

use bytes::Bytes;
use kiln_ir::{Dim, Type};

use super::value::{State, Traced, Val};
use crate::checkpoint::Element;
use crate::checkpoint::pickle::{self, Id, Node, Pickle};

/// What the values may take, in bytes, beyond four times the pickle.
const MEMORY: usize = 4 << 20;

/// How deep values may be nested.
const MAX_NESTING: usize = 12;

/// The inputs of each method that was traced.
pub(crate) fn inputs(content: &Bytes, st: &mut State) -> Vec<(String, Vec<Val>)> {
    let Ok(pickle) = pickle::read(content, 0, content.len().saturating_mul(4).saturating_add(MEMORY)) else {
        return vec![];
    };
    let Node::Dict(methods) = pickle.node(untagged(&pickle, pickle.root())) else { return vec![] };
    let mut out = vec![];
    for &(name, values) in methods {
        let Some(name) = pickle.text(name) else { continue };
        let Some(values) = pickle.items(untagged(&pickle, values)) else { continue };
        let values = values.iter().map(|&id| value(&pickle, id, st, 0));
        out.push((name.to_owned(), values.collect()));
    }
    out
}

/// What a function of torch's own makes of its first argument: the same, with a type.
fn untagged(pickle: &Pickle, id: Id) -> Id {
    match pickle.node(id) {
        Node::Object(o)
            if pickle.global(o.callable).is_some_and(|(module, _)| module == "torch.jit._pickle") =>
        {
            pickle.items(o.args).and_then(|args| args.first()).copied().unwrap_or(id)
        }
        _ => id,
    }
}

fn value(pickle: &Pickle, id: Id, st: &mut State, depth: usize) -> Val {
    if depth > MAX_NESTING {
        return Val::None;
    }
    let id = untagged(pickle, id);
    let all = |ids: &[Id], st: &mut State| -> Vec<Val> {
        ids.iter().take(1024).map(|&id| value(pickle, id, st, depth + 1)).collect()
    };
    match pickle.node(id) {
        Node::Bool(b) => Val::Bool(*b),
        Node::Int(n) => Val::Int(*n),
        Node::Float(x) => Val::Float(*x),
        Node::Str(s) => Val::text(s.as_str()),
        Node::List(ids) => {
            let items = all(ids, st);
            st.list(items)
        }
        Node::Tuple(ids) => Val::tuple(all(ids, st)),
        Node::Dict(pairs) => {
            let mut out = vec![];
            for &(key, inner) in pairs.iter().take(1024) {
                let key = value(pickle, key, st, depth + 1);
                out.push((key, value(pickle, inner, st, depth + 1)));
            }
            st.dict(out)
        }
        Node::Object(_) => match tensor(pickle, id) {
            Some(ty) => st.tensor(Traced::Anything(ty)),
            None => Val::None,
        },
        _ => Val::None,
    }
}

/// The type of a tensor from its description.
fn tensor(pickle: &Pickle, id: Id) -> Option<Type> {
    let Node::Object(object) = pickle.node(id) else { return None };
    let ("torch._utils", "_rebuild_tensor_v2") = pickle.global(object.callable)? else { return None };
    let args = pickle.items(object.args)?;
    let Node::Persistent(storage) = pickle.node(*args.first()?) else { return None };
    let (_, class) = pickle.global(*pickle.items(*storage)?.get(1)?)?;
    let dtype = Element::of_storage(class)?.dtype()?;
    let dims = pickle.items(*args.get(2)?)?;
    let dims: Option<Vec<Dim>> =
        dims.iter().map(|&d| pickle.int(d).filter(|&d| d >= 0).map(Dim::known)).collect();
    Some(Type::tensor(dtype, dims?))
}
