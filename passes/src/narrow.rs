//! Constant weights in fewer bits that contractions in floats read as they are: what widens them is not folded, and is a
//! part of the contraction's kernel.
//!
//! Code generation packs such weights in their few bits (`build/narrow` there); what it has no form for, it widens where it
//! is read. With folding turned off, or weights that do not qualify, results are the same.

use kiln_ir::op::{Cast, Contract, ContractSpec, Quant};
use kiln_ir::{DType, Graph, Node, NodeId, Op, Value};
use smallvec::SmallVec;

use crate::NarrowWeights;
use crate::rewrite::{Cx, Uses};

/// Fewer weights are folded: what they take is nothing beside a kernel's code.
const FEWEST: usize = 1 << 8;

/// Shorter blocks have as many scales as memory is saved.
const SHORTEST_BLOCK: i64 = 8;

/// Whether a node widens constants that a contraction reads as they are.
pub(crate) fn stays_narrow(cx: &Cx<'_>, id: NodeId) -> bool {
    let user = |id: NodeId| match cx.node(id).results[..] {
        [v] => cx.uses.only_user(v),
        _ => None,
    };
    let fuses = !cx.options.disabled.iter().any(|pass| pass == "fuse");
    if !fuses || !matches!(cx.node(id).op, Op::Quant(_) | Op::Cast(_)) {
        return false;
    }
    let Some(first) = user(id) else { return false };
    let contraction = match &cx.node(first).op {
        Op::Quant(_) => user(first),
        _ => Some(first),
    };
    contraction.is_some_and(|c| widening(cx.graph, cx.uses, c, cx.options.narrow).contains(&id))
}

/// The nodes that widen constant weights for a contraction alone, in order; none where there are no such.
pub(crate) fn widening(
    graph: &Graph,
    uses: &Uses,
    id: NodeId,
    narrow: NarrowWeights,
) -> SmallVec<[NodeId; 2]> {
    let node = graph.node(id);
    let Op::Contract(Contract::Einsum { spec, out: DType::F32 }) = &node.op else { return SmallVec::new() };
    if narrow == NarrowWeights::None {
        return SmallVec::new();
    }
    let &[a, b] = &node.operands[..] else { return SmallVec::new() };
    let sides = [(b, a, &spec.rhs, &spec.lhs), (a, b, &spec.lhs, &spec.rhs)];
    let found = sides.into_iter().find_map(|(w, x, own, other)| {
        let values = graph.constant(x).is_none() && dtype(graph, x) == Some(DType::F32);
        if !values || uses.only_user(w) != Some(id) {
            return None;
        }
        let (at, node) = graph.def_node(w)?;
        match &node.op {
            Op::Quant(Quant::Dequantize { to: DType::F32, axis, block }) => {
                let fits = has_form(spec, own, other, *axis, *block);
                dequantized(graph, uses, (at, node)).filter(|_| fits)
            }
            Op::Cast(Cast { to: DType::F32, .. }) if narrow == NarrowWeights::Halves => {
                let half = |dtype| matches!(dtype, DType::F16 | DType::BF16);
                constant_of(graph, *node.operands.first()?, half)?;
                Some(SmallVec::from_slice(&[at]))
            }
            _ => None,
        }
    });
    found.unwrap_or_default()
}

fn dtype(graph: &Graph, v: Value) -> Option<DType> {
    graph.ty(v).as_tensor().map(|t| t.dtype)
}

/// A constant of enough elements of such a dtype.
fn constant_of(graph: &Graph, v: Value, is: impl Fn(DType) -> bool) -> Option<()> {
    graph.constant(v).filter(|t| is(t.dtype()) && t.numel() >= FEWEST).map(|_| ())
}

/// Whether code generation has a form for weights of these labels with scales along blocks of an axis: there is one axis
/// that is summed over, and none that belongs to a batch.
fn has_form(spec: &ContractSpec, own: &[u8], other: &[u8], axis: Option<usize>, block: i64) -> bool {
    let summed: SmallVec<[usize; 2]> = (0..own.len()).filter(|&i| !spec.out.contains(&own[i])).collect();
    let &[k] = &summed[..] else { return false };
    let batch = own.iter().any(|l| spec.out.contains(l) && other.contains(l));
    let repeated = own.iter().enumerate().any(|(i, l)| own[..i].contains(l));
    let along = match axis {
        None => true,
        Some(axis) if axis == k => block >= SHORTEST_BLOCK,
        Some(_) => block == 0,
    };
    !batch && !repeated && along && other.contains(&own[k])
}

/// A dequantization of constant integers, or of their cast where zero points are floats.
fn dequantized(graph: &Graph, uses: &Uses, (id, node): (NodeId, &Node)) -> Option<SmallVec<[NodeId; 2]>> {
    let &[q, scale, zero] = &node.operands[..] else { return None };
    let few = |dtype: DType| matches!(dtype, DType::I4 | DType::U4 | DType::I8 | DType::U8);
    if graph.constant(scale).is_none() || graph.constant(zero).is_none() {
        return None;
    }
    if constant_of(graph, q, few).is_some() {
        return Some(SmallVec::from_slice(&[id]));
    }
    let (cast, widened) = graph.def_node(q)?;
    let casts = matches!(widened.op, Op::Cast(Cast { to: DType::F32, .. })) && uses.only_user(q) == Some(id);
    constant_of(graph, *widened.operands.first().filter(|_| casts)?, few)?;
    Some(SmallVec::from_slice(&[cast, id]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Options, optimize};
    use kiln_ir::{Build, Dim, GraphBuilder, Module, Scalar, Tensor, Type};

    /// What is made of the weights `[64][32]` of a product.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Weights {
        /// Dequantized in blocks of an axis.
        Blocks(usize, i64),
        /// Dequantized with float zero points.
        FloatZeros,
        /// Cast from half precision.
        Halves,
        /// Dequantized, and used twice.
        Shared,
    }

    fn tensor(dtype: DType, dims: &[usize], of: impl Fn(usize) -> f64) -> Tensor {
        let scalar = |v: f64| if dtype.is_float() { Scalar::F(v) } else { Scalar::I(v as i128) };
        let values: Vec<Scalar> = (0..dims.iter().product()).map(|i| scalar(of(i))).collect();
        Tensor::from_scalars(dtype, dims, &values).unwrap()
    }

    fn module(how: Weights) -> Module {
        let mut module = Module::new();
        let mut b = GraphBuilder::new(&mut module, "main");
        let x = b.input("x", Type::fixed(DType::F32, &[3, 64]));
        let few = tensor(DType::I4, &[64, 32], |i| (i % 15) as f64 - 7.0);
        let (axis, block) = match how {
            Weights::Blocks(axis, block) => (axis, block),
            _ => (0, 16),
        };
        let grid = match block {
            0 => vec![[64, 32][axis]],
            _ => {
                let mut grid = vec![64usize, 32];
                grid[axis] = grid[axis].div_ceil(block as usize);
                grid
            }
        };
        let w = if how == Weights::Halves {
            let w = b.constant(tensor(DType::F16, &[64, 32], |i| i as f64 * 0.01)).unwrap();
            b.cast(w, DType::F32).unwrap()
        } else {
            let mut q = b.constant(few).unwrap();
            let scale = b.constant(tensor(DType::F32, &grid, |i| 0.1 + i as f64 * 0.01)).unwrap();
            let zero = if how == Weights::FloatZeros {
                q = b.cast(q, DType::F32).unwrap();
                b.constant(tensor(DType::F32, &grid, |i| i as f64 * 0.3)).unwrap()
            } else {
                // Repeated where a file has none.
                let one = b.scalar(DType::I4, 0.0).unwrap();
                let dims: Vec<Dim> = grid.iter().map(|&d| Dim::known(d as i64)).collect();
                b.broadcast(one, &dims).unwrap()
            };
            let op = Quant::Dequantize { to: DType::F32, axis: Some(axis), block };
            b.add1(op, &[q, scale, zero]).unwrap()
        };
        let spec = ContractSpec { lhs: b"mk".to_vec(), rhs: b"kn".to_vec(), out: b"mn".to_vec() };
        let y = b.add1(Contract::Einsum { spec, out: DType::F32 }, &[x, w]).unwrap();
        let y = b.ew("relu", &[y]).unwrap();
        b.output("y", y);
        if how == Weights::Shared {
            b.output("w", w);
        }
        let graph = b.finish();
        module.add_entry(graph);
        module
    }

    /// The operators of the contraction's kernel, and the bytes of the largest constant.
    fn kernel(how: Weights, options: &Options) -> (Vec<String>, usize) {
        let mut module = module(how);
        optimize(&mut module, options).unwrap();
        let names = |g: &kiln_ir::Graph| -> Vec<String> {
            g.scheduled().map(|(_, n)| n.op.mnemonic().to_string()).collect()
        };
        let own = module.graphs().map(|(_, g)| names(g)).find(|all| all.contains(&"contract".to_owned()));
        let constants = module.graph(module.entries()[0]).scheduled().filter_map(|(_, n)| match &n.op {
            Op::Source(kiln_ir::op::Source::Constant { value }) => Some(value.bytes().len()),
            _ => None,
        });
        (own.unwrap(), constants.max().unwrap_or(0))
    }

    #[test]
    fn what_a_kernel_reads_in_few_bits_stays() {
        let options = Options::default();
        for how in
            [Weights::Blocks(0, 16), Weights::Blocks(0, 48), Weights::Blocks(1, 0), Weights::FloatZeros]
        {
            let (own, largest) = kernel(how, &options);
            assert!(
                own.contains(&"dequantize".to_owned()) && own.contains(&"relu".to_owned()),
                "{how:?}: {own:?}"
            );
            assert!(largest <= 64 * 32 / 2, "{how:?}: {largest} bytes");
        }
    }

    #[test]
    fn what_has_no_form_is_widened_elsewhere() {
        let options = Options::default();
        for how in [Weights::Blocks(0, 4), Weights::Blocks(1, 16), Weights::Blocks(0, 0), Weights::Shared] {
            let (own, _) = kernel(how, &options);
            assert_eq!(own, ["contract", "relu"], "{how:?}");
        }
    }

    #[test]
    fn halves_stay_where_an_option_says_so() {
        let widened = kernel(Weights::Halves, &Options::default());
        assert_eq!(widened.1, 64 * 32 * 4);
        let narrow = Options { narrow: NarrowWeights::Halves, ..Options::default() };
        let (own, largest) = kernel(Weights::Halves, &narrow);
        assert_eq!(largest, 64 * 32 * 2);
        assert!(own.contains(&"cast".to_owned()), "{own:?}");
    }
}
