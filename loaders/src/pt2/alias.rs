//! Tensors that share memory: a write to one is seen in all of them.
//!
//! Values do not change. A write gives the written name a new value and the tensor that it is a view of one, too, with the
//! part replaced; every other view of that memory is taken again when it is used next.

use kiln_ir::{Build, Dim, GraphBuilder, Value};
use rustc_hash::{FxHashMap, FxHashSet};

use super::import::{Frame, Session, Slot, evaluate, target};
use super::program::{Argument, Graph, Named, Node};
use crate::aten::{self, Arg};
use crate::error::OpError;

/// How a name came to share another's memory.
#[derive(Clone, Copy)]
struct View<'p> {
    base: &'p str,
    /// The operator that took the view; none for another name of the same tensor.
    node: Option<&'p Node>,
    /// Which of the node's results it is.
    at: usize,
}

/// The views of a graph.
#[derive(Default)]
pub(super) struct Aliases<'p> {
    views: FxHashMap<&'p str, View<'p>>,
    /// Names by the tensor whose memory they view.
    children: FxHashMap<&'p str, Vec<&'p str>>,
    /// Names whose memory was written since they were taken.
    stale: FxHashSet<&'p str>,
    /// How many views are being taken again, each for another.
    depth: usize,
}

/// Most views that are taken again, each for another.
const MAX_DEPTH: usize = 64;

/// How an operator's result relates to its operand.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The same elements in the same order.
    Reshape,
    /// Two axes exchanged.
    Swap,
    /// Axes in another order.
    Permute,
    /// One index of an axis.
    Select,
    /// A range of an axis.
    Slice,
    /// A range of an axis, by its length.
    Narrow,
    /// Ranges of an axis that follow each other.
    Split,
    /// All indices of an axis.
    Unbind,
    /// Repeated elements.
    Expand,
    /// A diagonal.
    Diagonal,
}

fn kind(name: &str) -> Option<Kind> {
    Some(match name {
        "aten::view" | "aten::reshape" | "aten::flatten" | "aten::unflatten" | "aten::unsqueeze"
        | "aten::squeeze" | "aten::view_as" | "aten::_unsafe_view" | "aten::alias" | "aten::detach"
        | "aten::ravel" | "aten::contiguous" | "aten::reshape_as" | "aten::lift_fresh" => Kind::Reshape,
        "aten::transpose" | "aten::t" | "aten::swapaxes" | "aten::swapdims" | "aten::mT"
        | "aten::numpy_T" => Kind::Swap,
        "aten::permute" => Kind::Permute,
        "aten::select" => Kind::Select,
        "aten::slice" => Kind::Slice,
        "aten::narrow" => Kind::Narrow,
        "aten::split" | "aten::split_with_sizes" | "aten::chunk" | "aten::tensor_split" => Kind::Split,
        "aten::unbind" => Kind::Unbind,
        "aten::expand" | "aten::expand_as" => Kind::Expand,
        "aten::diagonal" => Kind::Diagonal,
        _ => return None,
    })
}

fn base_of(node: &Node) -> Option<&str> {
    match node.inputs.first().map(|input| &input.arg) {
        Some(Argument::AsTensor(Named { name })) => Some(name),
        _ => None,
    }
}

fn kind_of(node: &Node) -> Option<Kind> {
    target(&node.target).and_then(|(name, _)| kind(&name))
}

fn results(node: &Node) -> Vec<&str> {
    match node.outputs.as_slice() {
        [Argument::AsTensor(Named { name })] => vec![name],
        [Argument::AsTensors(list)] => list.iter().map(|t| t.name.as_str()).collect(),
        _ => vec![],
    }
}

/// Whether an operator writes to its first operand.
fn is_write(node: &Node) -> bool {
    target(&node.target).is_some_and(|(name, _)| name.ends_with('_') && !name.ends_with("__"))
}

/// The names whose memory a graph writes.
pub(super) fn written(graph: &Graph) -> FxHashSet<&str> {
    let mut base: FxHashMap<&str, &str> = FxHashMap::default();
    let mut written = FxHashSet::default();
    for node in &graph.nodes {
        let Some(name) = base_of(node) else { continue };
        let root = base.get(name).copied().unwrap_or(name);
        let writes = is_write(node);
        if writes {
            written.insert(root);
        }
        if writes || kind_of(node).is_some() {
            base.extend(results(node).into_iter().map(|result| (result, root)));
        }
    }
    written
}

impl<'p> Aliases<'p> {
    /// Remembers the results of a node that are views of its first operand.
    pub(super) fn record(&mut self, node: &'p Node) {
        let (Some(base), Some(_)) = (base_of(node), kind_of(node)) else { return };
        for (at, name) in results(node).into_iter().enumerate() {
            self.add(name, View { base, node: Some(node), at });
        }
    }

    /// Remembers that the result of a write is the tensor written.
    pub(super) fn same(&mut self, node: &'p Node, base: &'p str) {
        for name in results(node) {
            self.add(name, View { base, node: None, at: 0 });
        }
    }

    fn add(&mut self, name: &'p str, view: View<'p>) {
        if name != view.base {
            self.views.insert(name, view);
            self.children.entry(view.base).or_default().push(name);
        }
    }

    /// The names from one to the tensor that owns the memory.
    fn chain(&self, name: &'p str) -> Vec<&'p str> {
        let mut chain = vec![name];
        let mut at = name;
        while let Some(view) = self.views.get(at) {
            // A file may name things in circles.
            if chain.len() > self.views.len() {
                break;
            }
            at = view.base;
            chain.push(at);
        }
        chain
    }
}

/// Brings a name up to date if its memory was written.
pub(super) fn refresh<'p>(
    session: &mut Session<'p>,
    frame: &mut Frame<'p>,
    b: &mut GraphBuilder<'_>,
    name: &'p str,
) -> Result<(), OpError> {
    if !frame.aliases.stale.contains(name) {
        return Ok(());
    }
    for name in frame.aliases.chain(name).into_iter().rev() {
        if !frame.aliases.stale.remove(name) {
            continue;
        }
        let Some(view) = frame.aliases.views.get(name).copied() else { continue };
        session.count_nodes(1)?;
        let arg = match view.node {
            None => frame.current(view.base)?,
            Some(node) => {
                frame.aliases.depth += 1;
                if frame.aliases.depth > MAX_DEPTH {
                    return Err(OpError::invalid("views of views nested too deeply"));
                }
                let (results, _) = evaluate(session, frame, b, node)?;
                frame.aliases.depth -= 1;
                let result = match results.into_iter().next() {
                    Some(Arg::List(items)) => items.into_iter().nth(view.at),
                    other => other,
                };
                result.ok_or_else(|| OpError::invalid("a view without a result"))?
            }
        };
        frame.slots.insert(name, Slot::Arg(arg));
    }
    Ok(())
}

/// Gives a name a new value, and all that shares its memory.
pub(super) fn write<'p>(
    session: &mut Session<'p>,
    frame: &mut Frame<'p>,
    b: &mut GraphBuilder<'_>,
    name: &'p str,
    value: Value,
) -> Result<(), OpError> {
    let chain = frame.aliases.chain(name);
    let mut value = value;
    let mut fresh: FxHashSet<&str> = FxHashSet::default();
    frame.slots.insert(name, Slot::Arg(Arg::Tensor(value)));
    fresh.insert(name);
    for pair in chain.windows(2) {
        let [from, to] = pair else { continue };
        let Some(view) = frame.aliases.views.get(from).copied() else { continue };
        session.count_nodes(1)?;
        value = inverse(session, frame, b, view, value)?;
        frame.slots.insert(to, Slot::Arg(Arg::Tensor(value)));
        fresh.insert(to);
    }
    // Everything else below the owner is out of date.
    let mut open: Vec<&str> = chain.last().copied().into_iter().collect();
    let mut seen: FxHashSet<&str> = FxHashSet::default();
    while let Some(at) = open.pop() {
        if !seen.insert(at) {
            continue;
        }
        if fresh.contains(at) {
            frame.aliases.stale.remove(at);
        } else {
            frame.aliases.stale.insert(at);
        }
        open.extend(frame.aliases.children.get(at).into_iter().flatten());
    }
    Ok(())
}

/// The value of the tensor that a view was taken of, when the view has become `new`.
fn inverse<'p>(
    session: &mut Session<'p>,
    frame: &mut Frame<'p>,
    b: &mut GraphBuilder<'_>,
    view: View<'p>,
    new: Value,
) -> Result<Value, OpError> {
    let Arg::Tensor(base) = frame.resolve(session, b, view.base)? else {
        return Err(OpError::invalid("a view of something other than a tensor"));
    };
    let Some(node) = view.node else { return Ok(new) };
    let Some(kind) = kind_of(node) else { return Err(OpError::invalid("a view of an unknown kind")) };
    let mut args = vec![];
    for input in node.inputs.iter().skip(1) {
        let arg = super::operand::operand(session, frame, b, &input.arg)?;
        args.push((input.name.clone(), arg));
    }
    let axis = args.iter().find(|(name, _)| name == "dim").map_or(Arg::int(0), |(_, arg)| arg.clone());
    let parts = |extra: Vec<Arg>| [vec![Arg::Tensor(base), Arg::Tensor(new)], extra].concat();
    let named = |name: &str| args.iter().find(|(n, _)| n == name).map_or(Arg::None, |(_, arg)| arg.clone());
    let (name, args) = match kind {
        Kind::Reshape => {
            let shape = b.shape(base)?.to_vec();
            return Ok(b.reshape(new, &shape)?);
        }
        Kind::Swap => {
            let (name, _) = target(&node.target).unwrap_or_default();
            let all = std::iter::once(Arg::Tensor(new)).chain(args.into_iter().map(|(_, arg)| arg));
            (name, all.collect())
        }
        Kind::Permute => {
            let rank = b.rank(base)?;
            let mut inverse = vec![Dim::known(0); rank];
            if let Arg::List(dims) = named("dims") {
                for (i, dim) in dims.iter().enumerate() {
                    let at = match dim {
                        Arg::Int(d) => d.as_known().map(|d| if d < 0 { d + rank as i64 } else { d }),
                        _ => None,
                    };
                    let slot = at.and_then(|at| usize::try_from(at).ok()).and_then(|at| inverse.get_mut(at));
                    if let Some(slot) = slot {
                        *slot = Dim::known(i64::try_from(i).unwrap_or(i64::MAX));
                    }
                }
            }
            ("aten::permute".to_owned(), vec![Arg::Tensor(new), Arg::dims(inverse)])
        }
        Kind::Select => ("aten::select_scatter".to_owned(), parts(vec![axis, named("index")])),
        Kind::Slice => {
            let step = match named("step") {
                Arg::None => Arg::int(1),
                step => step,
            };
            ("aten::slice_scatter".to_owned(), parts(vec![axis, named("start"), named("end"), step]))
        }
        Kind::Narrow => {
            let (Arg::Int(start), Arg::Int(length)) = (named("start"), named("length")) else {
                return Err(OpError::unsupported("a write to a range of run time"));
            };
            let end = Arg::Int(&start + &length);
            ("aten::slice_scatter".to_owned(), parts(vec![axis, Arg::Int(start), end]))
        }
        Kind::Split => {
            let (start, end) = piece(frame, b, node, view.at, &axis)?;
            ("aten::slice_scatter".to_owned(), parts(vec![axis, Arg::Int(start), Arg::Int(end)]))
        }
        Kind::Unbind => {
            let index = i64::try_from(view.at).unwrap_or(i64::MAX);
            ("aten::select_scatter".to_owned(), parts(vec![axis, Arg::int(index)]))
        }
        Kind::Diagonal => {
            ("aten::diagonal_scatter".to_owned(), parts(args.into_iter().map(|(_, arg)| arg).collect()))
        }
        Kind::Expand => return Err(OpError::unsupported("a write to repeated elements")),
    };
    match aten::call(b, &name, None, args, vec![])?.results.first() {
        Some(Arg::Tensor(v)) => Ok(*v),
        _ => Err(OpError::invalid("a view without a result")),
    }
}

/// Where the piece of a split is.
fn piece(
    frame: &Frame<'_>,
    b: &GraphBuilder<'_>,
    node: &Node,
    at: usize,
    axis: &Arg,
) -> Result<(Dim, Dim), OpError> {
    let axis = match axis {
        Arg::Int(d) => d.as_known(),
        _ => None,
    };
    let mut start = Dim::known(0);
    for (i, name) in results(node).into_iter().enumerate() {
        let Arg::Tensor(v) = frame.current(name)? else { break };
        let shape = b.shape(v)?;
        let axis = axis.map(|a| if a < 0 { a + shape.len() as i64 } else { a });
        let size = axis.and_then(|a| usize::try_from(a).ok()).and_then(|a| shape.get(a));
        let size = size.ok_or_else(|| OpError::invalid("an axis out of range"))?;
        let end = &start + size;
        if i == at {
            return Ok((start, end));
        }
        start = end;
    }
    Err(OpError::invalid("a view that is none of the pieces"))
}
