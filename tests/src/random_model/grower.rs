//! The model under construction.

use std::collections::BTreeMap;
use std::path::Path;

use kiln::ir::{DClass, DType, Datum, Evaluator, Module, Scalar, Tensor};
use kiln::loaders::LoadOptions;
use kiln::loaders::onnx::make::{fixed, graph, int, node, opset, raw_value, symbolic, tensor_value};
use kiln::loaders::onnx::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto,
};
use kiln::loaders::onnx::tensor::{data_type, tensor_proto};
use prost::Message;

use super::{Model, Rounding, Step};
use crate::choices::{Choices, mix};

/// Most elements of a value.
const LARGE: usize = 2048;

/// Opsets of models.
const OPSETS: [i64; 10] = [13, 14, 15, 16, 17, 18, 19, 20, 21, 22];

/// A node that the loader or the evaluator did not take.
pub struct Refusal {
    /// The model with this node alone.
    pub model: ModelProto,
    /// Its inputs.
    pub inputs: Vec<(String, Tensor)>,
    /// Why.
    pub reason: String,
}

/// A value that there is.
#[derive(Clone)]
pub(super) struct Known {
    pub name: String,
    pub datum: Datum,
    pub constant: bool,
}

/// A handle on a value.
pub(super) type V = usize;

/// A model under construction.
pub struct Grower<'c> {
    pub(super) c: Choices<'c>,
    pub(super) opset: i64,
    /// Whether dtypes may be any that the operator takes.
    pub(super) exotic: bool,
    /// Whether there are infinite numbers and such that are none.
    special: bool,
    values: Vec<Known>,
    inputs: Vec<(V, ValueInfoProto)>,
    constants: Vec<TensorProto>,
    nodes: Vec<NodeProto>,
    steps: Vec<Step>,
    refusals: Vec<Refusal>,
    names: usize,
}

pub(super) const FLOATS: &[DType] = &[DType::F32, DType::F32, DType::F32, DType::F32, DType::F64, DType::F16];
pub(super) const NUMBERS: &[DType] =
    &[DType::F32, DType::F32, DType::F32, DType::I64, DType::I32, DType::F64, DType::F16];
pub(super) const INTS: &[DType] =
    &[DType::I64, DType::I32, DType::U8, DType::I8, DType::U32, DType::U64, DType::I16, DType::U16];
pub(super) const MOVED: &[DType] = &[
    DType::F32,
    DType::F32,
    DType::F32,
    DType::I64,
    DType::I32,
    DType::Bool,
    DType::U8,
    DType::I8,
    DType::F16,
    DType::F64,
];

impl<'c> Grower<'c> {
    pub(super) fn new(mut c: Choices<'c>) -> Self {
        let opset = OPSETS[OPSETS.len() - 1 - c.below(OPSETS.len())];
        let exotic = c.below(8) == 7;
        let special = c.below(12) == 11;
        let (values, inputs, constants, nodes, steps) = (vec![], vec![], vec![], vec![], vec![]);
        let (refusals, names) = (vec![], 0);
        Grower { c, opset, exotic, special, values, inputs, constants, nodes, steps, refusals, names }
    }

    /// Nodes so far.
    pub(super) fn size(&self) -> usize {
        self.nodes.len()
    }

    pub(super) fn fresh(&mut self, stem: &str) -> String {
        self.names += 1;
        format!("{stem}{}", self.names)
    }

    pub(super) fn name(&self, v: V) -> &str {
        &self.values[v].name
    }

    pub(super) fn tensor(&self, v: V) -> &Tensor {
        match &self.values[v].datum {
            Datum::Tensor(t) => t,
            other => panic!("{} is {}, not a tensor", self.values[v].name, other.ty()),
        }
    }

    pub(super) fn dims(&self, v: V) -> Vec<usize> {
        self.tensor(v).dims().to_vec()
    }

    pub(super) fn rank(&self, v: V) -> usize {
        self.tensor(v).dims().len()
    }

    pub(super) fn dtype(&self, v: V) -> DType {
        self.tensor(v).dtype()
    }

    /// The value as doubles, if it holds real numbers.
    pub(super) fn numbers(&self, v: V) -> Vec<f64> {
        self.tensor(v).to_f64s().unwrap_or_default()
    }

    /// A tensor of random numbers.
    pub(super) fn random(&mut self, dtype: DType, dims: &[usize]) -> Tensor {
        let mut seed = self.c.below(1 << 16) as u64;
        let style = self.c.below(5);
        let special = self.special && self.c.below(3) == 2;
        let mut next = move || {
            seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            mix(seed)
        };
        let count: usize = dims.iter().product();
        let float = |r: u64| {
            let unit = (r >> 11) as f64 / (1u64 << 53) as f64;
            match style {
                0 => 4.0 * unit - 2.0,
                1 => ((r >> 40) % 33) as f64 / 4.0 - 4.0,
                2 => 0.1 + 3.0 * unit,
                3 => 2.0 * unit - 1.0,
                _ => 20.0 * unit - 10.0,
            }
        };
        // Not the largest numbers: whether products of them overflow depends on the order of the factors.
        let strange = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0, 0.0, 1e-40];
        let scalars: Vec<Scalar> = (0..count)
            .map(|_| match (dtype, next()) {
                (d, r) if d.is_float() && special && r % 5 == 0 => {
                    Scalar::F(strange[(r >> 8) as usize % strange.len()])
                }
                (d, r) if d.is_float() => Scalar::F(float(r)),
                (DType::Bool, r) => Scalar::B(r >> 60 & 1 == 1),
                (d, r) if d.bits() < 8 => Scalar::I(i128::from(r >> 60)),
                // onnxruntime's minimum of 64-bit integers is wrong from 2^31 on.
                (d, r) if style == 4 && d.bits() == 64 => Scalar::I(i128::from(r >> 33)),
                (d, r) if style == 4 => Scalar::I(i128::from(r >> (64 - d.bits()))),
                (d, r) if d.class() == DClass::Signed => Scalar::I(i128::from(r >> 32) % 13 - 5),
                (_, r) => Scalar::I(i128::from(r >> 32) % 9),
            })
            .collect();
        Tensor::from_scalars(dtype, dims, &scalars).expect("as many elements as dims say")
    }

    /// A new input of random numbers.
    pub(super) fn input(&mut self, dtype: DType, dims: &[usize]) -> V {
        let tensor = self.random(dtype, dims);
        self.input_of(tensor)
    }

    /// A new input with this value, some of whose sizes are symbols.
    pub(super) fn input_of(&mut self, tensor: Tensor) -> V {
        let name = self.fresh("x");
        let dims: Vec<_> = tensor
            .dims()
            .iter()
            .map(|&d| match self.c.below(4) {
                0 | 1 => fixed(d as i64),
                2 => symbolic(&format!("s{d}")),
                _ => Default::default(),
            })
            .collect();
        let info = tensor_value(&name, data_type(tensor.dtype()), Some(dims));
        let v = self.push(name, Datum::Tensor(tensor), false);
        self.inputs.push((v, info));
        v
    }

    /// A new constant.
    pub(super) fn constant(&mut self, tensor: Tensor) -> V {
        let name = self.fresh("w");
        self.constants.push(tensor_proto(&name, &tensor));
        self.push(name, Datum::Tensor(tensor), true)
    }

    /// A new constant of random numbers.
    pub(super) fn weights(&mut self, dtype: DType, dims: &[usize]) -> V {
        let tensor = self.random(dtype, dims);
        self.constant(tensor)
    }

    /// An operand with this value: a constant, or now and then an input.
    pub(super) fn param(&mut self, tensor: Tensor) -> V {
        if self.c.below(4) == 3 { self.input_of(tensor) } else { self.constant(tensor) }
    }

    /// An operand of integers.
    pub(super) fn longs(&mut self, values: &[i64]) -> V {
        let v = self.param(Tensor::ints(values));
        // How many they are is known: ranks of values follow from it.
        if let Some((_, info)) = self.inputs.iter_mut().find(|(input, _)| *input == v) {
            *info = raw_value(&info.name, data_type(DType::I64), &[values.len() as i64]);
        }
        v
    }

    fn push(&mut self, name: String, datum: Datum, constant: bool) -> V {
        self.values.push(Known { name, datum, constant });
        self.values.len() - 1
    }

    /// A value that there is, the later ones more often.
    pub(super) fn find(&mut self, fits: impl Fn(&Tensor) -> bool) -> Option<V> {
        let fit: Vec<V> = (0..self.values.len())
            .filter(|&v| !self.values[v].constant)
            .filter(|&v| matches!(&self.values[v].datum, Datum::Tensor(t) if fits(t)))
            .collect();
        let (a, b) = (self.c.below(fit.len()), self.c.below(fit.len()));
        fit.get(a.max(b)).copied()
    }

    /// A value of one of these dtypes and a rank in the range, or a new input.
    pub(super) fn any(&mut self, dtypes: &[DType], ranks: std::ops::RangeInclusive<usize>) -> V {
        let fresh = self.c.below(8) == 7;
        let (least, most) = (*ranks.start(), *ranks.end());
        let found = if fresh {
            None
        } else {
            self.find(|t| dtypes.contains(&t.dtype()) && ranks.contains(&t.dims().len()))
        };
        found.unwrap_or_else(|| {
            let plain: Vec<DType> = dtypes.iter().copied().filter(|&d| in_numpy(d)).collect();
            let dtype = if plain.is_empty() { DType::F32 } else { self.c.of(&plain) };
            let most = most.min(4).max(least);
            let rank = least.max(self.c.between(least as i64, most as i64) as usize);
            let dims: Vec<usize> = (0..rank).map(|_| self.size_of_axis()).collect();
            self.input(dtype, &dims)
        })
    }

    /// Whether inputs have numbers that are none.
    pub(super) fn is_special(&self) -> bool {
        self.special
    }

    /// Whether the value has integers beyond 32 bits, which onnxruntime orders by their lower halves.
    pub(super) fn is_wide(&self, v: V) -> bool {
        self.dtype(v).is_int() && self.numbers(v).iter().any(|v| v.abs() >= 2f64.powi(31))
    }

    /// Whether no two numbers are so near that roundings decide whether they are equal; those of an input do not round.
    pub(super) fn is_apart(&self, v: V) -> bool {
        let mut all = self.numbers(v);
        all.sort_by(f64::total_cmp);
        self.inputs.iter().any(|(input, _)| *input == v)
            || all.windows(2).all(|w| (w[1] - w[0]) > 1e-3 * w[1].abs().max(1.0))
    }

    /// Whether all numbers are finite.
    pub(super) fn is_finite(&self, v: V) -> bool {
        self.numbers(v).iter().all(|v| v.is_finite())
    }

    /// Weights of which all numbers are finite.
    pub(super) fn finite_weights(&mut self, dtype: DType, dims: &[usize]) -> V {
        let special = std::mem::take(&mut self.special);
        let v = self.weights(dtype, dims);
        self.special = special;
        v
    }

    /// A small size; 0 seldom.
    pub(super) fn size_of_axis(&mut self) -> usize {
        match self.c.below(40) {
            39 => 0,
            n if n > 34 => 17,
            n => 1 + n % 5,
        }
    }

    /// Any axis, written from the front or from the back.
    pub(super) fn axis(&mut self, rank: usize) -> (usize, i64) {
        let axis = self.c.below(rank);
        let spelled = if self.c.flag() { axis as i64 - rank as i64 } else { axis as i64 };
        (axis, spelled)
    }

    /// A value that broadcasts with `x` and has its dtype.
    pub(super) fn partner(&mut self, x: V) -> V {
        let (dtype, dims) = (self.dtype(x), self.dims(x));
        if self.c.below(3) > 0
            && let Some(v) = self.find(|t| t.dtype() == dtype && broadcasts(t.dims(), &dims))
        {
            return v;
        }
        let dims = self.broadcast_part(&dims);
        if self.c.flag() && in_numpy(dtype) { self.input(dtype, &dims) } else { self.weights(dtype, &dims) }
    }

    /// Dims that broadcast to these.
    pub(super) fn broadcast_part(&mut self, dims: &[usize]) -> Vec<usize> {
        let skip = if self.c.flag() { self.c.below(dims.len() + 1) } else { 0 };
        dims[skip..].iter().map(|&d| if self.c.below(4) == 3 { 1 } else { d }).collect()
    }

    /// Adds a node over values; absent operands are `None`.
    pub(super) fn add(
        &mut self,
        op: &str,
        operands: &[Option<V>],
        results: usize,
        attributes: Vec<AttributeProto>,
        rounding: Rounding,
    ) -> Option<Vec<V>> {
        self.add_capturing(op, operands, &[], results, attributes, rounding)
    }

    /// A node of one result.
    pub(super) fn one(
        &mut self,
        op: &str,
        operands: &[V],
        attributes: Vec<AttributeProto>,
        rounding: Rounding,
    ) -> Option<V> {
        let operands: Vec<Option<V>> = operands.iter().map(|&v| Some(v)).collect();
        self.add(op, &operands, 1, attributes, rounding).map(|v| v[0])
    }

    /// As [`Grower::add`], of a node whose graphs use values by name.
    pub(super) fn add_capturing(
        &mut self,
        op: &str,
        operands: &[Option<V>],
        captured: &[V],
        results: usize,
        attributes: Vec<AttributeProto>,
        rounding: Rounding,
    ) -> Option<Vec<V>> {
        let names: Vec<String> = (0..results).map(|_| self.fresh("v")).collect();
        let inputs: Vec<&str> = operands.iter().map(|v| v.map_or("", |v| self.name(v))).collect();
        let outputs: Vec<&str> = names.iter().map(String::as_str).collect();
        let node = node(op, &inputs, &outputs, attributes);
        let mut used: Vec<V> = operands.iter().copied().flatten().chain(captured.iter().copied()).collect();
        used.sort_unstable();
        used.dedup();
        let (varying, constant): (Vec<V>, Vec<V>) = used.into_iter().partition(|&v| !self.values[v].constant);
        let single = self.single(&node, &varying, &constant, &names);
        let data: Vec<Datum> = varying.iter().map(|&v| self.values[v].datum.clone()).collect();
        let done = load(&single).and_then(|module| {
            let results = Evaluator::new(&module).run(module.entries()[0], &data);
            results.map_err(|e| e.to_string())
        });
        let data = match done {
            Ok(done) => done,
            Err(reason) => {
                let tensor =
                    |&v: &V| Some((self.name(v).to_owned(), self.values[v].datum.as_tensor()?.clone()));
                let inputs = varying.iter().map(tensor).collect::<Option<Vec<_>>>();
                if let Some(inputs) = inputs {
                    self.refusals.push(Refusal { model: single, inputs, reason });
                }
                return None;
            }
        };
        if !data.iter().all(|d| self.acceptable(d) && !may_vanish(d, rounding)) {
            return None;
        }
        self.steps.push(Step { model: single, rounding });
        self.nodes.push(node);
        Some(names.into_iter().zip(data).map(|(name, datum)| self.push(name, datum, false)).collect())
    }

    fn acceptable(&self, datum: &Datum) -> bool {
        match datum {
            Datum::Tensor(t) => {
                let large = if t.dtype() == DType::F16 { 6e4 } else { 1e9 };
                let tame = |t: &Tensor| {
                    t.to_f64s().is_some_and(|all| all.iter().all(|x| x.is_finite() && x.abs() < large))
                };
                // onnxruntime computes in more bits what overflows 16.
                let overflows = t.dtype() == DType::F16
                    && t.to_f64s().is_some_and(|all| all.iter().any(|x| x.is_infinite()));
                t.numel() <= LARGE && !overflows && (self.special || !t.dtype().is_float() || tame(t))
            }
            Datum::Sequence { items, .. } => items.iter().all(|d| self.acceptable(d)),
            Datum::Optional { value, .. } => value.iter().all(|d| self.acceptable(d)),
        }
    }

    /// A model of one node.
    fn single(&self, node: &NodeProto, varying: &[V], constant: &[V], outputs: &[String]) -> ModelProto {
        let info = |&v: &V| {
            let name = self.name(v);
            match &self.values[v].datum {
                Datum::Tensor(t) => {
                    let dims = t.dims().iter().map(|&d| fixed(d as i64)).collect();
                    tensor_value(name, data_type(t.dtype()), Some(dims))
                }
                Datum::Sequence { .. } | Datum::Optional { .. } => object_value(name, &self.values[v].datum),
            }
        };
        let outputs: Vec<&str> = outputs.iter().map(String::as_str).collect();
        let mut graph = graph(vec![node.clone()], varying.iter().map(info).collect(), &outputs);
        graph.initializer = constant.iter().map(|&v| tensor_proto(self.name(v), self.tensor(v))).collect();
        self.model_of(graph)
    }

    fn model_of(&self, graph: GraphProto) -> ModelProto {
        let opset_import = vec![opset("", self.opset)];
        // The oldest IR version that has the opset.
        let ir_version = match self.opset {
            ..15 => 7,
            15..19 => 8,
            19..21 => 9,
            _ => 10,
        };
        ModelProto { ir_version, opset_import, graph: Some(graph), ..ModelProto::default() }
    }

    /// Chooses outputs and completes the model.
    pub(super) fn finish(mut self) -> (Model, Vec<Refusal>) {
        if self.nodes.is_empty() {
            let x = self.any(FLOATS, 0..=3);
            self.one("Identity", &[x], vec![], Rounding::Exact);
        }
        let used: Vec<&String> = self.nodes.iter().flat_map(|n| &n.input).collect();
        let made: Vec<V> = (0..self.values.len())
            .filter(|&v| self.nodes.iter().any(|n| n.output.contains(&self.values[v].name)))
            .filter(|&v| matches!(self.values[v].datum, Datum::Tensor(_)))
            .collect();
        let (mut outputs, rest): (Vec<V>, Vec<V>) =
            made.into_iter().partition(|&v| !used.contains(&&self.values[v].name));
        for v in rest {
            if self.c.below(5) == 4 {
                outputs.push(v);
            }
        }
        let mut outputs: Vec<V> = outputs.into_iter().filter_map(|v| self.plain(v)).collect();
        if outputs.is_empty() {
            let x = self.any(FLOATS, 0..=3);
            outputs.extend(self.one("Identity", &[x], vec![], Rounding::Exact));
        }
        let names: Vec<&str> = outputs.iter().map(|&v| self.name(v)).collect();
        let inputs = self.inputs.iter().map(|(_, info)| info.clone()).collect();
        let mut graph = graph(self.nodes.clone(), inputs, &names);
        // Dims are left open; runtimes of the standard want a dtype.
        for (info, &v) in graph.output.iter_mut().zip(&outputs) {
            *info = tensor_value(&info.name, data_type(self.dtype(v)), None);
        }
        graph.initializer = std::mem::take(&mut self.constants);
        let proto = self.model_of(graph);
        let inputs =
            self.inputs.iter().map(|&(v, _)| (self.name(v).to_owned(), self.tensor(v).clone())).collect();
        let values: BTreeMap<String, Datum> =
            self.values.iter().map(|known| (known.name.clone(), known.datum.clone())).collect();
        (Model { proto, inputs, steps: self.steps, values }, self.refusals)
    }

    /// The value in a dtype that other programs exchange.
    fn plain(&mut self, v: V) -> Option<V> {
        let dtype = self.dtype(v);
        let to = match dtype {
            d if in_numpy(d) => return Some(v),
            d if d.is_float() => DType::F32,
            d if d.is_int() => DType::I32,
            _ => return None,
        };
        self.one("Cast", &[v], vec![int("to", i64::from(data_type(to)))], Rounding::Exact)
    }
}

/// Whether an approximation of the value may have 0 where the value has not: quotients, casts to bool and the like tell the
/// two apart, whatever the bounds are.
fn may_vanish(datum: &Datum, rounding: Rounding) -> bool {
    let (Rounding::Units(_, least) | Rounding::Between(_, least)) = rounding else { return false };
    let tiny = |x: &f64| *x != 0.0 && x.abs() < least;
    datum.as_tensor().and_then(Tensor::to_f64s).is_some_and(|all| all.iter().any(tiny))
}

/// Whether NumPy has the dtype.
pub fn in_numpy(dtype: DType) -> bool {
    use DType::*;
    matches!(dtype, Bool | I8 | I16 | I32 | I64 | U8 | U16 | U32 | U64 | F16 | F32 | F64)
}

/// Whether two shapes broadcast with each other.
pub(super) fn broadcasts(a: &[usize], b: &[usize]) -> bool {
    a.iter().rev().zip(b.iter().rev()).all(|(&a, &b)| a == b || a == 1 || b == 1)
}

/// Loads a model from memory.
pub fn load(model: &ModelProto) -> Result<Module, String> {
    let bytes = bytes::Bytes::from(model.encode_to_vec());
    kiln::loaders::onnx::load(Path::new("model.onnx"), bytes, &LoadOptions::default())
        .map_err(|e| e.to_string())
}

/// The declaration of a sequence or optional of tensors.
fn object_value(name: &str, datum: &Datum) -> ValueInfoProto {
    use kiln::ir::Type;
    use kiln::loaders::onnx::proto::{ElementTypeProto, TensorTypeProto, TypeProto, TypeValue};
    fn proto(ty: &Type) -> TypeProto {
        let element = |ty: &Type| Box::new(ElementTypeProto { elem_type: Some(Box::new(proto(ty))) });
        let value = match ty {
            Type::Tensor(t) => {
                TypeValue::Tensor(TensorTypeProto { elem_type: data_type(t.dtype), shape: None })
            }
            Type::Sequence(e) => TypeValue::Sequence(element(e)),
            Type::Optional(e) => TypeValue::Optional(element(e)),
        };
        TypeProto { value: Some(value) }
    }
    ValueInfoProto { name: name.to_owned(), r#type: Some(proto(&datum.ty())) }
}
