//! Operators of ATen: one table from names to graph IR, for every front end that meets them.
//!
//! [`call`] takes an operator's name, its overload if the file names one, and operands by position and by name; it finds
//! the overload by the types of the operands otherwise, as PyTorch's dispatcher does. Results are functional: for `add_`
//! and for `out=`, [`Outcome::writes`] says what the result replaces, and the front end makes it so.
//!
//! Results mean what PyTorch computes: types promote and shapes broadcast by its rules (`promote.rs`). Sizes stay
//! symbolic; what must be known when the graph is built and is not, is refused by name.

mod activation;
mod algebra;
mod arg;
mod attention;
mod bag;
mod combine;
mod compare;
mod complex;
mod conv;
mod create;
mod cx;
mod einsum;
mod fourier;
mod fused;
mod index;
mod linear;
mod loss;
mod movement;
mod norm;
mod order;
mod packed;
mod padding;
mod pointwise;
mod pool;
mod promote;
mod rearrange;
mod reduce;
mod repeat;
mod rnn;
mod scalar;
mod scan;
mod schema;
mod special;
mod statistics;
mod vision;

use std::sync::OnceLock;

use kiln_ir::op::Source;
use kiln_ir::{Build, GraphBuilder, NodeId, Op};
use rustc_hash::FxHashMap;

pub(crate) use arg::Arg;
pub(crate) use arg::scalar_type;
pub(crate) use cx::Cx;
use schema::{Fit, Kind, Param, Schema};

use crate::error::OpError;

/// Results of an operator, in order.
pub(crate) type Results = Result<Vec<Arg>, OpError>;

/// How an operator is built.
#[derive(Clone, Copy)]
enum How {
    /// An elementwise operator of graph IR that keeps the element type.
    Same(&'static str),
    /// An elementwise operator of graph IR over floats; integers become floats of the default type.
    Float(&'static str),
    /// Another name of an operator whose arguments have the same names.
    Alias(&'static str),
    /// A function.
    Fn(fn(&mut Cx<'_, '_>) -> Results),
}

/// One operator.
struct Row {
    name: &'static str,
    how: How,
}

/// An operator of the namespace that its name tells.
const fn row(name: &'static str, how: How) -> Row {
    Row { name, how }
}

static FAMILIES: &[&[Row]] = &[
    activation::ROWS,
    algebra::ROWS,
    attention::ROWS,
    bag::ROWS,
    combine::ROWS,
    compare::ROWS,
    complex::ROWS,
    conv::ROWS,
    create::ROWS,
    fourier::ROWS,
    fused::ROWS,
    index::ROWS,
    linear::ROWS,
    loss::ROWS,
    movement::ROWS,
    norm::ROWS,
    order::ROWS,
    packed::ROWS,
    padding::ROWS,
    pointwise::ROWS,
    pool::ROWS,
    rearrange::ROWS,
    reduce::ROWS,
    repeat::ROWS,
    rnn::ROWS,
    scalar::ROWS,
    scan::ROWS,
    special::ROWS,
    statistics::ROWS,
    vision::ROWS,
];

fn table() -> &'static FxHashMap<&'static str, &'static Row> {
    static TABLE: OnceLock<FxHashMap<&'static str, &'static Row>> = OnceLock::new();
    TABLE
        .get_or_init(|| FAMILIES.iter().flat_map(|family| family.iter()).map(|row| (row.name, row)).collect())
}

/// What a result is written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Write {
    /// The first result replaces this operand, as of `add_`; it has its element type and shape.
    Operand(usize),
    /// The first operand has the shape of the first result from now on, its elements stay, as of `squeeze_`.
    Shape,
    /// Results replace the operands given as `out`.
    Out,
}

/// What a call gives.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Results, in order.
    pub results: Vec<Arg>,
    /// What they replace.
    pub writes: Option<Write>,
    /// What constants that were computed add to the number of nodes, by the memory that they take.
    pub made: usize,
}

/// Bytes of computed constants that count as a node.
const BYTES_PER_NODE: usize = 1 << 10;

/// What the constants among the nodes from the number `before` on count as.
fn made(b: &GraphBuilder<'_>, before: usize) -> usize {
    let graph = b.graph();
    let bytes = (before..graph.node_count()).map(|i| match &graph.node(NodeId::new(i)).op {
        Op::Source(Source::Constant { value }) => value.bytes().len(),
        _ => 0,
    });
    bytes.fold(0, usize::saturating_add) / BYTES_PER_NODE
}

/// Whether the table has the operator, in place or not.
pub(crate) fn supports(name: &str) -> bool {
    find(name).is_some()
}

/// Calls an operator. `name` has its namespace, as in `aten::conv2d`; `overload` is that of the file, if it names one
/// (`default` and the empty string are the same). Arguments may come by position or by name.
///
/// # Errors
/// Unsupported: the operator is not in the table, or something that it is asked for is not. Invalid: the arguments fit no
/// overload, or the operator is wrong in itself.
pub(crate) fn call(
    b: &mut GraphBuilder<'_>,
    name: &str,
    overload: Option<&str>,
    args: Vec<Arg>,
    mut kwargs: Vec<(String, Arg)>,
) -> Result<Outcome, OpError> {
    let Some((row, in_place)) = find(name) else {
        let known = if schema::is_known(name) { "the operator" } else { "an operator of this name" };
        return Err(OpError::unsupported(format!("{known} is not in the table")));
    };
    let (given, nodes) = (kwargs.len(), b.graph().node_count());
    kwargs.retain(|(name, _)| name != "out");
    let out = kwargs.len() < given;
    let schemas = schema::overloads(row.name);
    let has_self = schemas.iter().any(|s| s.params.iter().any(|p| p.name == "self"));
    if in_place
        && !has_self
        && let Some(first) = schemas.first().and_then(|s| s.params.first())
    {
        // Variants in place call their operand `self`, whatever the operator itself calls it.
        for (name, _) in kwargs.iter_mut().filter(|(name, _)| name == "self") {
            first.name.clone_into(name);
        }
    }
    let overload = overload.map(|name| if name == "default" { "" } else { name });
    let first = args.first().cloned().or_else(|| kwargs.first().map(|(_, arg)| arg.clone()));
    for arg in args.iter().chain(kwargs.iter().map(|(_, arg)| arg)) {
        check_rank(b, arg)?;
    }
    let (schema, bound) = resolve(b, &schemas, overload, in_place, args, kwargs)?;
    let mut meant = row;
    while let How::Alias(name) = meant.how {
        meant = table().get(name).ok_or_else(|| OpError::unsupported(format!("`{name}`")))?;
    }
    let (name, how) = (meant.name, meant.how);
    let reshapes = in_place && RESHAPING.contains(&row.name);
    let build = |cx: &mut Cx<'_, '_>| match how {
        How::Same(name) => pointwise::unary(cx, name, false),
        How::Float(name) => pointwise::unary(cx, name, true),
        How::Fn(build) => build(cx),
        How::Alias(_) => Ok(vec![]),
    };
    let mut results = match bound.iter().any(|arg| complex::holds(b, arg)) {
        true => complex::call(b, name, (schema, bound), &build)?,
        false => build(&mut Cx::new(b, schema, bound))?,
    };
    for result in &results {
        check_rank(b, result)?;
    }
    if in_place
        && !reshapes
        && let (Some(Arg::Tensor(target)), Some(Arg::Tensor(result))) = (first, results.first_mut())
    {
        let (dtype, shape) = (b.dtype(target)?, b.shape(target)?.to_vec());
        let cast = b.cast(*result, dtype)?;
        *result = b.broadcast(cast, &shape)?;
    }
    let writes = match (in_place, out) {
        (true, _) if reshapes => Some(Write::Shape),
        (true, _) => Some(Write::Operand(0)),
        (false, true) => Some(Write::Out),
        (false, false) => None,
    };
    Ok(Outcome { results, writes, made: made(b, nodes) })
}

/// Most axes of a tensor, as PyTorch has it: sizes of more would be far larger than the file that asks for them.
const MOST_AXES: usize = 64;

/// Operators whose variant in place gives the tensor another shape.
const RESHAPING: &[&str] = &[
    "aten::resize",
    "aten::resize_as",
    "aten::squeeze",
    "aten::swapaxes",
    "aten::swapdims",
    "aten::t",
    "aten::transpose",
    "aten::unsqueeze",
];

/// Fails for tensors of more axes than any may have.
fn check_rank(b: &GraphBuilder<'_>, arg: &Arg) -> Result<(), OpError> {
    match arg {
        Arg::Tensor(v) => match b.rank(*v) {
            Ok(rank) if rank > MOST_AXES => {
                Err(OpError::invalid(format!("a tensor of {rank} axes, at most {MOST_AXES} are possible")))
            }
            _ => Ok(()),
        },
        Arg::List(items) => items.iter().try_for_each(|item| check_rank(b, item)),
        _ => Ok(()),
    }
}

/// The row of an operator, and whether the name is that of its variant in place.
fn find(name: &str) -> Option<(&'static Row, bool)> {
    if let Some(row) = table().get(name) {
        return Some((row, false));
    }
    // `normal` makes a tensor of others, `normal_` fills one.
    if name == "aten::normal_" {
        return table().get("aten::normal_functional").map(|row| (*row, true));
    }
    let base = name.strip_suffix('_').filter(|base| !base.ends_with('_'))?;
    table().get(base).map(|row| (*row, true))
}

/// The overload that the file names, or that the arguments fit best, with the arguments in its order. Variants in place
/// may have other names: `pow_.Scalar` is `pow.Tensor_Scalar`.
fn resolve<'s>(
    b: &GraphBuilder<'_>,
    schemas: &'s [Schema],
    overload: Option<&str>,
    in_place: bool,
    args: Vec<Arg>,
    kwargs: Vec<(String, Arg)>,
) -> Result<(&'s Schema, Vec<Arg>), OpError> {
    let named = overload.and_then(|name| schemas.iter().find(|s| s.overload == name));
    if let Some(schema) = named {
        let bound = bind(schema, &args, &kwargs).map_err(OpError::invalid);
        match bound.and_then(|bound| check(b, schema, &bound).map(|()| bound)) {
            Ok(bound) => return Ok((schema, bound)),
            Err(error) if !in_place => return Err(error),
            Err(_) => {}
        }
    }
    let mut best: Option<(Fit, &Schema, Vec<Arg>)> = None;
    let mut reason = "torch has no such operator".to_owned();
    for schema in schemas {
        match bind(schema, &args, &kwargs) {
            Ok(bound) => {
                let fits = fit_of(b, schema, &bound);
                if fits > best.as_ref().map_or(Fit::No, |(fit, _, _)| *fit) {
                    best = Some((fits, schema, bound));
                }
            }
            Err(why) => reason = why,
        }
    }
    if let Some((_, schema, bound)) = best {
        return Ok((schema, bound));
    }
    let kinds: Vec<&str> = args.iter().map(Arg::kind).collect();
    let named: Vec<String> = kwargs.iter().map(|(name, arg)| format!("{name}={}", arg.kind())).collect();
    let given = kinds.into_iter().map(str::to_owned).chain(named).collect::<Vec<_>>().join(", ");
    Err(OpError::invalid(format!(
        "the arguments ({given}) fit none of {} overloads: {reason}",
        schemas.len()
    )))
}

/// Arguments in the order of the schema, defaults filled in.
fn bind(schema: &Schema, args: &[Arg], kwargs: &[(String, Arg)]) -> Result<Vec<Arg>, String> {
    let positional = schema.params.iter().filter(|p| !p.keyword).count();
    if args.len() > positional {
        return Err(format!("{} arguments by position, it takes {positional}", args.len()));
    }
    if let Some((name, _)) = kwargs.iter().find(|(name, _)| !schema.params.iter().any(|p| p.name == name)) {
        return Err(format!("it has no argument `{name}`"));
    }
    let mut bound = Vec::with_capacity(schema.params.len());
    for (i, param) in schema.params.iter().enumerate() {
        let by_position = args.get(i).filter(|_| !param.keyword);
        let by_name = kwargs.iter().find(|(name, _)| name == param.name).map(|(_, arg)| arg);
        let arg = match (by_position.or(by_name), &param.default) {
            (Some(arg), _) => arg.clone(),
            (None, Some(default)) => default.clone(),
            (None, None) if matches!(param.kind, Kind::Optional(_)) => Arg::None,
            (None, None) => return Err(format!("argument `{}` is missing", param.name)),
        };
        bound.push(arg);
    }
    Ok(bound)
}

fn fit_of(b: &GraphBuilder<'_>, schema: &Schema, bound: &[Arg]) -> Fit {
    let fits = schema.params.iter().zip(bound).map(|(param, arg)| fit_param(b, param, arg));
    fits.min().unwrap_or(Fit::Exact)
}

fn fit_param(b: &GraphBuilder<'_>, param: &Param, arg: &Arg) -> Fit {
    let dtype = |v| b.dtype(v).unwrap_or(kiln_ir::DType::F64);
    schema::fit(arg, &param.kind, &dtype)
}

/// Fails by name where an argument of a named overload has another type.
fn check(b: &GraphBuilder<'_>, schema: &Schema, bound: &[Arg]) -> Result<(), OpError> {
    for (param, arg) in schema.params.iter().zip(bound) {
        let is_default = param.default.as_ref() == Some(arg);
        if !is_default && fit_param(b, param, arg) == Fit::No {
            return Err(OpError::invalid(format!("argument `{}` cannot be {}", param.name, arg.kind())));
        }
    }
    Ok(())
}

/// Names of all operators.
#[cfg(test)]
fn names() -> Vec<&'static str> {
    let mut names: Vec<_> = FAMILIES.iter().flat_map(|family| family.iter()).map(|row| row.name).collect();
    names.sort_unstable();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sources that build operators.
    const SOURCES: &[&str] = &[
        include_str!("aten/activation.rs"),
        include_str!("aten/algebra.rs"),
        include_str!("aten/attention.rs"),
        include_str!("aten/bag.rs"),
        include_str!("aten/combine.rs"),
        include_str!("aten/compare.rs"),
        include_str!("aten/complex.rs"),
        include_str!("aten/conv.rs"),
        include_str!("aten/create.rs"),
        include_str!("aten/fourier.rs"),
        include_str!("aten/fused.rs"),
        include_str!("aten/index.rs"),
        include_str!("aten/linear.rs"),
        include_str!("aten/loss.rs"),
        include_str!("aten/movement.rs"),
        include_str!("aten/norm.rs"),
        include_str!("aten/order.rs"),
        include_str!("aten/packed.rs"),
        include_str!("aten/padding.rs"),
        include_str!("aten/pointwise.rs"),
        include_str!("aten/pool.rs"),
        include_str!("aten/rearrange.rs"),
        include_str!("aten/reduce.rs"),
        include_str!("aten/repeat.rs"),
        include_str!("aten/rnn.rs"),
        include_str!("aten/scalar.rs"),
        include_str!("aten/scan.rs"),
        include_str!("aten/special.rs"),
        include_str!("aten/statistics.rs"),
        include_str!("aten/vision.rs"),
    ];

    /// Arguments that no source names, and why results do not depend on them.
    const UNREAD: &[(&str, &str)] = &[
        ("allow_tf32", "how a convolution is computed"),
        ("average_attn_weights", "only of weights that are not given"),
        ("assume_unique", "how a search is made"),
        ("b", "numbers are read by position"),
        ("benchmark", "how a convolution is computed"),
        ("C", "a size that the operand has"),
        ("check_errors", "a matrix without an inverse has none that is finite"),
        ("compute_mode", "how distances are computed"),
        ("copy", "values do not change"),
        ("cudnn_enable", "how a norm is computed"),
        ("cudnn_enabled", "how a convolution is computed"),
        ("deterministic", "how a convolution is computed"),
        ("dropout_mask", "dropout is refused"),
        ("dtype", "metadata that the exporter has checked"),
        ("el", "a list is no tensor, which is refused"),
        ("HxW", "a size that the operand has"),
        ("i", "numbers are no tensors, which is refused"),
        ("idx", "a list is no tensor, which is refused"),
        ("implicit", "a mark of tracing"),
        ("kernel_size", "that of the weight"),
        ("l", "lists are refused"),
        ("max", "strings are refused"),
        ("momentum", "running statistics do not change"),
        ("N", "a size that the operand has"),
        ("n", "lists are refused"),
        ("non_blocking", "how a copy is made"),
        ("output_size", "the repeats tell it"),
        ("padding_idx", "of gradients"),
        ("path", "the order of products"),
        ("physical_layout", "how elements lie"),
        ("pin_memory", "where elements lie"),
        ("r", "lists are read by position"),
        ("requires_grad", "of gradients"),
        ("scale_grad_by_freq", "of gradients"),
        ("separator", "strings are refused"),
        ("size", "metadata that the exporter has checked"),
        ("sorted", "what is sorted is in some order, too"),
        ("sparse", "of gradients"),
        ("sparse_grad", "of gradients"),
        ("stable", "all sorts keep the order of equals"),
        ("stride", "how elements lie"),
        ("substr", "strings are refused"),
        ("tensor_indices_or_sections", "a missing number of sections is refused"),
        ("tensors", "the operands of a contraction are read by position"),
    ];

    #[test]
    fn every_argument_of_an_operator_has_a_reader_or_a_reason() {
        let mut unread = vec![];
        for row in FAMILIES.iter().flat_map(|family| family.iter()) {
            let mark = format!("row(\"{}\",", row.name);
            let source = SOURCES.iter().find(|source| source.contains(&mark)).expect(row.name);
            for schema in schema::overloads(row.name) {
                for param in schema.params.iter().skip(1) {
                    let is_read = param.kind == Kind::Ignored
                        || matches!(&param.kind, Kind::Optional(kind) if **kind == Kind::Ignored)
                        || source.contains(&format!("\"{}\"", param.name))
                        || UNREAD.iter().any(|(name, _)| *name == param.name);
                    if !is_read {
                        unread.push(format!("{}.{}: {}", row.name, schema.overload, param.name));
                    }
                }
            }
        }
        assert!(unread.is_empty(), "{unread:?}");
    }

    #[test]
    fn every_row_has_a_schema_and_none_is_twice() {
        let names = names();
        for pair in names.windows(2) {
            assert_ne!(pair[0], pair[1]);
        }
        for row in FAMILIES.iter().flat_map(|family| family.iter()) {
            assert!(schema::is_known(row.name), "{}", row.name);
            match row.how {
                How::Same(name) | How::Float(name) => {
                    assert!(kiln_ir::Ew::from_name(name).is_some(), "{name}")
                }
                How::Alias(name) => assert!(table().contains_key(name), "{name}"),
                How::Fn(_) => {}
            }
        }
    }
}
