//! Tensors that share memory: a write to one is seen in all of them.
//!
//! Values do not change. A write gives the written name a new value and the tensor that it is a view of one, too, with the
//! part replaced; every other view of that memory is taken again when it is used next. Whether a result is a view or a
//! copy the strides tell where the operator alone does not; where they do not, either, a write is refused.

use std::collections::BTreeMap;

use kiln_ir::{Build, Dim, GraphBuilder, Value};
use rustc_hash::{FxHashMap, FxHashSet};

use super::import::{Frame, Session, Slot, evaluate, target};
use super::program::{Argument, Graph, Named, Node, TensorMeta};
use super::strides;
use crate::aten::{self, Arg};
use crate::error::OpError;

/// Types of a graph's tensors by name.
type Metas = BTreeMap<String, TensorMeta>;

/// How a name came to share another's memory.
#[derive(Clone, Copy)]
struct View<'p> {
    base: &'p str,
    /// The operator that took the view; none for another name of the same tensor.
    node: Option<&'p Node>,
    /// Which of the node's results it is.
    at: usize,
    kind: Kind,
}

/// The views of a graph.
#[derive(Default)]
pub(super) struct Aliases<'p> {
    views: FxHashMap<&'p str, View<'p>>,
    /// Names that are up to date, by the tensor whose memory they view. What is out of date has no such names below it:
    /// a name is brought up to date after all that it is a view of.
    children: FxHashMap<&'p str, Vec<&'p str>>,
    /// Names whose memory was written since they were taken.
    stale: FxHashSet<&'p str>,
    /// Names of tensors whose shape was changed in place: programs go on with the result's name.
    reshaped: FxHashSet<&'p str>,
    /// How many views are being taken again, each for another.
    depth: usize,
}

/// Most views that are taken again, each for another.
const MAX_DEPTH: usize = 64;

/// How an operator's result relates to its operand.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The same tensor.
    Same,
    /// The same elements in the same order.
    Reshape,
    /// Two axes exchanged.
    Swap,
    /// Axes in another order.
    Permute,
    /// Axes moved to other places.
    Move,
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
    /// Something through which nothing is written here.
    Opaque,
    /// It may be a copy.
    Doubtful,
}

/// What tells whether a result is a view.
enum Rule {
    /// It always is one.
    Always(Kind),
    /// It is one if the strides allow it.
    Reshaped,
    /// It is one if all elements lie one after the other.
    Flattened,
    /// It is the operand itself, unless it has another type or other strides.
    Converted,
}

fn rule(name: &str, node: &Node) -> Option<Rule> {
    let has = |input: &str| node.inputs.iter().any(|i| i.name == input);
    Some(Rule::Always(match name {
        "aten::view" if has("dtype") => Kind::Opaque,
        "aten::view"
        | "aten::unflatten"
        | "aten::unsqueeze"
        | "aten::unsqueeze_"
        | "aten::squeeze"
        | "aten::squeeze_"
        | "aten::view_as"
        | "aten::_reshape_alias"
        | "aten::alias"
        | "aten::data"
        | "aten::detach"
        | "aten::lift_fresh"
        | "aten::positive"
        | "aten::dropout"
        | "aten::feature_dropout"
        | "aten::alpha_dropout"
        | "aten::feature_alpha_dropout"
        | "aten::atleast_1d"
        | "aten::atleast_2d"
        | "aten::atleast_3d" => Kind::Reshape,
        "aten::reshape" | "aten::reshape_as" | "aten::flatten" => return Some(Rule::Reshaped),
        "aten::ravel" => return Some(Rule::Flattened),
        "aten::contiguous" | "aten::to" | "aten::type_as" => return Some(Rule::Converted),
        "aten::transpose" | "aten::transpose_" | "aten::t" | "aten::t_" | "aten::swapaxes"
        | "aten::swapaxes_" | "aten::swapdims" | "aten::swapdims_" | "aten::adjoint" | "aten::mT"
        | "aten::mH" | "aten::matrix_H" | "aten::numpy_T" => Kind::Swap,
        "aten::permute" => Kind::Permute,
        "aten::movedim" | "aten::moveaxis" => Kind::Move,
        "aten::select" => Kind::Select,
        "aten::slice" => Kind::Slice,
        "aten::narrow" => Kind::Narrow,
        "aten::tensor_split" if !has("sections") => Kind::Opaque,
        "aten::split" | "aten::split_with_sizes" | "aten::chunk" | "aten::tensor_split" => Kind::Split,
        "aten::unbind" => Kind::Unbind,
        "aten::expand"
        | "aten::expand_as"
        | "aten::broadcast_to"
        | "aten::broadcast_tensors"
        | "aten::meshgrid" => Kind::Expand,
        "aten::diagonal" => Kind::Diagonal,
        "aten::as_strided"
        | "aten::dsplit"
        | "aten::linalg_diagonal"
        | "aten::unfold"
        | "aten::hsplit"
        | "aten::resize_"
        | "aten::resize_as_"
        | "aten::vsplit" => Kind::Opaque,
        "aten::view_as_complex" | "aten::view_as_real" | "aten::real" | "aten::imag" => Kind::Opaque,
        _ => return None,
    }))
}

/// How a result relates to an operand; none if it has its own memory.
fn kind_of(rule: &Rule, node: &Node, base: Option<&TensorMeta>, result: Option<&TensorMeta>) -> Option<Kind> {
    if let Rule::Always(kind) = rule {
        return Some(*kind);
    }
    let copies =
        |i: &super::program::NamedArgument| i.name == "copy" && matches!(i.arg, Argument::AsBool(true));
    let (Some(base), Some(result)) = (base, result) else { return Some(Kind::Doubtful) };
    let is_view = match rule {
        Rule::Converted => {
            let same = base.dtype == result.dtype && base.strides == result.strides;
            Some(same && !node.inputs.iter().any(copies))
        }
        Rule::Flattened => strides::contiguous(base),
        _ => strides::reshapes(base, result),
    };
    match is_view {
        Some(true) => Some(Kind::Reshape),
        Some(false) => None,
        None => Some(Kind::Doubtful),
    }
}

fn base_of(node: &Node) -> Option<&str> {
    match node.inputs.first().map(|input| &input.arg) {
        Some(Argument::AsTensor(Named { name })) => Some(name),
        _ => None,
    }
}

fn results(node: &Node) -> Vec<&str> {
    let mut names = vec![];
    for output in &node.outputs {
        match output {
            Argument::AsTensor(Named { name }) => names.push(name.as_str()),
            Argument::AsTensors(list) => names.extend(list.iter().map(|t| t.name.as_str())),
            _ => {}
        }
    }
    names
}

/// The names that share memory by a node, with the names whose memory it is.
fn views<'p>(node: &'p Node, metas: Option<&'p Metas>) -> Vec<(&'p str, View<'p>)> {
    let Some((name, _)) = target(&node.target) else { return vec![] };
    let Some(rule) = rule(&name, node) else { return vec![] };
    let meta = |name: &str| metas.and_then(|metas| metas.get(name));
    let view = |base: &'p str, result: &str, at: usize| {
        let kind = kind_of(&rule, node, meta(base), meta(result))?;
        Some(View { base, node: Some(node), at, kind })
    };
    let named = results(node).into_iter().enumerate();
    match node.inputs.first().map(|input| &input.arg) {
        Some(Argument::AsTensor(base)) => {
            named.filter_map(|(at, name)| Some((name, view(&base.name, name, at)?))).collect()
        }
        // Each result belongs to one of the operands.
        Some(Argument::AsTensors(list)) => named
            .zip(list)
            .filter_map(|((at, name), base)| {
                let found = view(&base.name, name, at)?;
                Some((name, View { kind: Kind::Opaque, ..found }))
            })
            .collect(),
        _ => vec![],
    }
}

/// Whether an operator is named as one that writes to its first operand. What changes its shape only is a view.
fn is_write(node: &Node) -> bool {
    let named = |name: &str| name.ends_with('_') && !name.ends_with("__");
    target(&node.target).is_some_and(|(name, _)| named(&name) && rule(&name, node).is_none())
}

/// Whether it gives its operand itself and writes nothing.
pub(super) fn is_detach(node: &Node) -> bool {
    target(&node.target).is_some_and(|(name, _)| name == "aten::detach_")
}

/// The names that a node writes, with those of the results that are the same tensors then.
pub(super) fn targets(node: &Node) -> Vec<(&str, &str)> {
    let named = results(node);
    if is_write(node) {
        return base_of(node).into_iter().zip(named).collect();
    }
    let mut out = vec![];
    for input in node.inputs.iter().filter(|input| input.name == "out") {
        match &input.arg {
            Argument::AsTensor(Named { name }) => out.push(name.as_str()),
            Argument::AsTensors(list) => out.extend(list.iter().map(|t| t.name.as_str())),
            _ => {}
        }
    }
    out.into_iter().zip(named).collect()
}

/// The names whose memory a graph writes.
pub(super) fn written(graph: &Graph) -> FxHashSet<&str> {
    let mut base: FxHashMap<&str, &str> = FxHashMap::default();
    let mut written = FxHashSet::default();
    for node in &graph.nodes {
        let pairs = targets(node);
        for &(name, result) in &pairs {
            let root = base.get(name).copied().unwrap_or(name);
            if !is_detach(node) {
                written.insert(root);
            }
            base.insert(result, root);
        }
        if pairs.is_empty() {
            for (name, view) in views(node, Some(&graph.tensor_values)) {
                let root = base.get(view.base).copied().unwrap_or(view.base);
                base.insert(name, root);
            }
        }
    }
    written
}

impl<'p> Aliases<'p> {
    /// Remembers the results of a node that are views of its operands.
    pub(super) fn record(&mut self, node: &'p Node, metas: Option<&'p Metas>) {
        for (name, view) in views(node, metas) {
            self.add(name, view);
        }
    }

    /// Remembers the result of a node that changed the shape of its operand in place.
    pub(super) fn reshaped(&mut self, node: &'p Node, metas: Option<&'p Metas>) {
        self.record(node, metas);
        self.reshaped.extend(base_of(node));
    }

    /// Fails for a name whose tensor got another shape since. Views are taken again of what it was.
    pub(super) fn check(&self, name: &str) -> Result<(), OpError> {
        if self.depth == 0 && self.reshaped.contains(name) {
            return Err(OpError::unsupported("a tensor by the name from before its shape changed in place"));
        }
        Ok(())
    }

    /// Remembers that the results of a node are the tensor `base`.
    pub(super) fn same(&mut self, node: &'p Node, base: &'p str) {
        for name in results(node) {
            self.also(name, base);
        }
    }

    /// Remembers another name of a tensor.
    pub(super) fn also(&mut self, name: &'p str, base: &'p str) {
        // The name that all others stand for, so that many writes make no long chain.
        let base = match self.views.get(base) {
            Some(View { kind: Kind::Same, base, .. }) => base,
            _ => base,
        };
        self.add(name, View { base, node: None, at: 0, kind: Kind::Same });
    }

    /// Remembers that a result of a node may share the memory of `base`.
    pub(super) fn doubt(&mut self, node: &'p Node, at: usize, base: &'p str) {
        if let Some(name) = results(node).get(at) {
            self.add(name, View { base, node: None, at, kind: Kind::Doubtful });
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

    /// The name of the tensor whose memory a name is of.
    pub(super) fn root(&self, name: &'p str) -> &'p str {
        self.chain(name).last().copied().unwrap_or(name)
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
        let arg = match (view.kind, view.node) {
            (Kind::Doubtful, _) => {
                frame.aliases.stale.insert(name);
                return Err(OpError::unsupported("what may be a copy of memory that was written since"));
            }
            (_, None) => frame.current(view.base)?,
            (_, Some(node)) => {
                if frame.aliases.depth >= MAX_DEPTH {
                    return Err(OpError::invalid("views of views nested too deeply"));
                }
                frame.aliases.depth += 1;
                let found = evaluate(session, frame, b, node);
                frame.aliases.depth -= 1;
                let result = match found?.0.into_iter().next() {
                    Some(Arg::List(items)) => items.into_iter().nth(view.at),
                    other => other,
                };
                result.ok_or_else(|| OpError::invalid("a view without a result"))?
            }
        };
        frame.slots.insert(name, Slot::Arg(arg));
        frame.aliases.children.entry(view.base).or_default().push(name);
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
    if chain.last().is_some_and(|root| frame.inputs.contains(root)) {
        return Err(OpError::unsupported("a write to an operand of a nested graph"));
    }
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
    // Everything else below the owner is out of date. What was so before has left the lists.
    let mut open: Vec<&str> = chain.last().copied().into_iter().collect();
    let mut seen: FxHashSet<&str> = open.iter().copied().collect();
    while let Some(at) = open.pop() {
        let children = frame.aliases.children.remove(at).unwrap_or_default();
        let mut kept = vec![];
        for child in children {
            if !seen.insert(child) {
                continue;
            }
            if fresh.contains(child) {
                kept.push(child);
            } else {
                frame.aliases.stale.insert(child);
            }
            open.push(child);
        }
        if !kept.is_empty() {
            frame.aliases.children.insert(at, kept);
        }
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
    if view.kind == Kind::Doubtful {
        return Err(OpError::unsupported("a write to what may be a copy"));
    }
    let Some(node) = view.node else { return Ok(new) };
    if node.inputs.iter().skip(1).any(|input| input.name.is_empty()) {
        return Err(OpError::invalid("a view whose arguments have no names"));
    }
    let mut args = vec![];
    for input in node.inputs.iter().skip(1) {
        let arg = super::operand::operand(session, frame, b, &input.arg)?;
        args.push((input.name.clone(), arg));
    }
    let parts = |extra: Vec<Arg>| [vec![Arg::Tensor(base), Arg::Tensor(new)], extra].concat();
    let given = |name: &str| args.iter().find(|(n, _)| n == name).map(|(_, arg)| arg.clone());
    let named = |name: &str| given(name).unwrap_or(Arg::None);
    let axis = given("dim").unwrap_or(Arg::int(0));
    let mut kwargs = vec![];
    let (name, args) = match view.kind {
        Kind::Same | Kind::Doubtful => return Ok(new),
        Kind::Reshape => {
            let shape = b.shape(base)?.to_vec();
            return Ok(b.reshape(new, &shape)?);
        }
        Kind::Swap => {
            let (name, _) = target(&node.target).unwrap_or_default();
            kwargs = args;
            (name, vec![Arg::Tensor(new)])
        }
        Kind::Move => {
            let (from, to) = (named("source"), named("destination"));
            ("aten::movedim".to_owned(), vec![Arg::Tensor(new), to, from])
        }
        Kind::Permute => {
            let inverse = inverse_order(&named("dims"), b.rank(base)?);
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
            session.count_nodes(view.at / PIECES_PER_NODE)?;
            let (start, end) = piece(frame, b, node, view.at, &axis)?;
            ("aten::slice_scatter".to_owned(), parts(vec![axis, Arg::Int(start), Arg::Int(end)]))
        }
        Kind::Unbind => {
            let index = i64::try_from(view.at).unwrap_or(i64::MAX);
            ("aten::select_scatter".to_owned(), parts(vec![axis, Arg::int(index)]))
        }
        Kind::Diagonal => {
            kwargs = args;
            ("aten::diagonal_scatter".to_owned(), vec![Arg::Tensor(base), Arg::Tensor(new)])
        }
        Kind::Opaque => return Err(OpError::unsupported("a write through a view of this kind")),
        Kind::Expand => return Err(OpError::unsupported("a write to repeated elements")),
    };
    tensor_of(aten::call(b, &name, None, args, kwargs)?.results.first())
}

fn tensor_of(result: Option<&Arg>) -> Result<Value, OpError> {
    match result {
        Some(Arg::Tensor(v)) => Ok(*v),
        _ => Err(OpError::invalid("a view without a result")),
    }
}

/// Where each axis of a permuted tensor comes back to.
fn inverse_order(dims: &Arg, rank: usize) -> Vec<Dim> {
    let mut inverse = vec![Dim::known(0); rank];
    if let Arg::List(dims) = dims {
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
    inverse
}

/// As many pieces are looked at for what a node costs.
const PIECES_PER_NODE: usize = 64;

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
