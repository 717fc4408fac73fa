//! Random ONNX models: several nodes with shared values, several outputs, symbolic sizes, control flow.
//!
//! A model is grown from a list of numbers, each of which decides one thing. Every node is loaded and evaluated by itself
//! as it is added, so that the generator knows all values: indices are in range, divisors are not zero, and what is added
//! next fits. Operators that the loader or the evaluator refuses are counted, and the model is grown without them.

mod control;
mod elementwise;
mod linear;
mod movement;
mod order;
mod patterns;
mod quant;
mod reduce;
mod windows;

mod grower;

use std::collections::BTreeMap;

use kiln::ir::{Datum, Tensor};
use kiln::loaders::onnx::proto::ModelProto;

pub use grower::{Grower, Refusal, in_numpy, load};

use crate::choices::Choices;

/// As many numbers as a model has at most.
pub const NUMBERS: usize = 500;

/// How the results of a node may differ between two correct ways to compute them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rounding {
    /// Not at all: elements are moved, compared, counted, or are integers.
    Exact,
    /// Each float operand and result is off by as many units in the last place, and a result by as much beside that.
    Units(f64, f64),
    /// The same, but an operand's elements are off by as many units of the largest of them: a result lies between elements,
    /// where is computed as well.
    Between(f64, f64),
}

impl Rounding {
    /// Sums, products and other operations that round every step.
    pub const USUAL: Rounding = Rounding::Units(4.0, 0.0);
    /// Elementary functions by approximations.
    pub const FUNCTION: Rounding = Rounding::Units(16.0, 3e-7);
}

/// A node as a model of its own.
#[derive(Clone)]
pub struct Step {
    /// The node alone, the values that it takes as inputs or constants, its results as outputs.
    pub model: ModelProto,
    /// How results may differ.
    pub rounding: Rounding,
}

/// A model, its inputs, and what it computes.
#[derive(Clone)]
pub struct Model {
    /// The file.
    pub proto: ModelProto,
    /// Inputs by name, in order.
    pub inputs: Vec<(String, Tensor)>,
    /// Its nodes one by one, in order.
    pub steps: Vec<Step>,
    /// All values by name.
    pub values: BTreeMap<String, Datum>,
}

impl Model {
    /// The names of the outputs, in order.
    pub fn outputs(&self) -> Vec<String> {
        let graph = self.proto.graph.as_ref();
        graph.iter().flat_map(|g| &g.output).map(|o| o.name.clone()).collect()
    }

    /// The operators of its main graph.
    pub fn operators(&self) -> Vec<&str> {
        let graph = self.proto.graph.as_ref();
        graph.iter().flat_map(|g| &g.node).map(|n| n.op_type.as_str()).collect()
    }
}

type Family = fn(&mut Grower<'_>) -> Option<()>;

/// Families with their weights.
const FAMILIES: &[(u32, Family)] = &[
    (14, elementwise::unary),
    (14, elementwise::binary),
    (5, elementwise::variadic),
    (6, elementwise::compare),
    (5, elementwise::bits),
    (8, elementwise::cast),
    (4, elementwise::clip),
    (9, reduce::reduce),
    (4, reduce::along_axis),
    (4, order::arg),
    (4, order::top_k),
    (3, order::search),
    (6, linear::matmul),
    (4, linear::gemm),
    (3, linear::einsum),
    (3, linear::integers),
    (6, windows::conv),
    (3, windows::transposed),
    (5, windows::pool),
    (6, linear::normalization),
    (5, windows::resize),
    (6, movement::reshape),
    (5, movement::transpose),
    (6, movement::slice),
    (5, movement::join),
    (4, movement::split),
    (4, movement::pad),
    (6, movement::gather),
    (4, movement::scatter),
    (4, movement::expand),
    (4, movement::rearrange),
    (5, movement::shapes),
    (8, quant::linear),
    (3, quant::products),
    (5, control::branch),
    (5, control::repeat),
    (3, control::scan),
    (4, control::sequence),
    (2, control::optional),
    (2, linear::recurrent),
    (6, patterns::pattern),
];

/// The model that a list of numbers stands for, and what was refused on the way.
pub fn grow(numbers: &[u16]) -> (Model, Vec<Refusal>) {
    let mut g = Grower::new(Choices::new(numbers));
    let wanted = 3 + g.c.below(9);
    let total: u32 = FAMILIES.iter().map(|(weight, _)| weight).sum();
    let mut attempts = 0;
    while g.size() < wanted && attempts < 4 * wanted {
        attempts += 1;
        let mut at = g.c.below(total as usize) as u32;
        let found = FAMILIES.iter().find(|(weight, _)| {
            let here = at < *weight;
            at = at.saturating_sub(*weight);
            here
        });
        // One that finds no operands adds nothing but what it had added already.
        let _ = found.and_then(|(_, family)| family(&mut g));
    }
    g.finish()
}
