//! Weights alone in fewer bits: integers in groups along the reduction, or floats of 16 bits. Values stay in floats.
//!
//! A layer's weights become a dequantization of constants, `(q - zero) * scale` with a scale, and where it is asymmetric a
//! zero point, for each group of one output's weights; or the cast of narrower constants. Code generation reads the few
//! bits in the kernel (`narrow.rs`). Data is not needed, but shows which weights matter.

mod round;

use kiln_ir::op::{Contract, Quant};
use kiln_ir::tensor::Bytes;
use kiln_ir::{Build, DType, Module, Op, Scalar, Tensor, TensorError, Value};

use super::insert::{Editor, Fault, node};
use super::{Kept, Layer, LayerKind, Plan, QuantizeError, Statistics, floats};
use round::{Coded, Coding};

/// How weights are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// Integers in groups along the reduction.
    Groups(Groups),
    /// Floats of 16 bits with 11 of precision.
    F16,
    /// Floats of 16 bits with the range of f32 and 8 of precision.
    Bf16,
}

/// Integers in groups along the reduction: how many bits, how many share a scale, what else there is to a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Groups {
    /// Bits of a weight.
    pub bits: Bits,
    /// Weights of a group; the last of a row may have fewer.
    pub size: usize,
    /// Whether groups have a zero point.
    pub asymmetric: bool,
    /// How integers are chosen.
    pub rounding: Rounding,
}

/// Bits of a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bits {
    /// Four.
    Four,
    /// Eight.
    Eight,
}

/// How integers are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// The nearest one, for the scale that errs least in the mean square.
    Nearest,
    /// The nearest one, for a scale and a zero point that half-quadratic splitting finds (Badri and Shaji, "Half-Quadratic
    /// Quantization of Large Machine Learning Models", 2023): few weights that are far from the others do not decide. Zero
    /// points are no integers then.
    Hqq,
}

impl Rounding {
    /// Name in options and reports.
    pub fn name(self) -> &'static str {
        match self {
            Rounding::Nearest => "nearest",
            Rounding::Hqq => "hqq",
        }
    }
}

/// Fewest and most weights of a group.
pub const GROUP_SIZES: std::ops::RangeInclusive<usize> = 16..=1 << 16;

impl Groups {
    /// Why it cannot be done whatever the model is.
    pub fn refused(&self) -> Option<String> {
        let (least, most) = GROUP_SIZES.into_inner();
        if !GROUP_SIZES.contains(&self.size) || !self.size.is_multiple_of(least) {
            return Some(format!(
                "groups are multiples of {least} weights and at most {most}, not {}",
                self.size
            ));
        }
        if self.rounding == Rounding::Hqq && !self.asymmetric {
            return Some("hqq finds zero points: it needs asymmetric groups".to_owned());
        }
        None
    }

    fn dtype(&self) -> DType {
        match (self.bits, self.asymmetric) {
            (Bits::Four, false) => DType::I4,
            (Bits::Four, true) => DType::U4,
            (Bits::Eight, false) => DType::I8,
            (Bits::Eight, true) => DType::U8,
        }
    }
}

impl Storage {
    /// Name in options and reports.
    pub fn name(self) -> &'static str {
        match self {
            Storage::Groups(Groups { bits: Bits::Four, .. }) => "int4",
            Storage::Groups(Groups { bits: Bits::Eight, .. }) => "int8-weights",
            Storage::F16 => "f16",
            Storage::Bf16 => "bf16",
        }
    }
}

/// What became of a layer's weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// The layer, by its index in the plan.
    pub layer: usize,
    /// Power of the weights over that of their error, in decibels; infinite where there is no error.
    pub sqnr_db: f64,
    /// Bytes of the weights before.
    pub bytes_before: u64,
    /// Bytes of what they became, scales and zero points included.
    pub bytes_after: u64,
}

/// Layers of fewer weights stay as they are.
const FEWEST: usize = 1 << 10;

/// The module with the weights of its contractions stored otherwise, what became of them, and the layers that stay. With
/// statistics of the plan's points, an error in a weight counts by the energy of the values that it multiplies.
///
/// # Errors
///
/// A node that does not type, or a tensor that cannot be made.
pub fn store(
    module: &Module,
    plan: &Plan,
    storage: Storage,
    statistics: Option<&[Statistics]>,
) -> Result<(Module, Vec<Stored>, Vec<Kept>), QuantizeError> {
    let mut editor = Editor::new(module.clone(), plan.graph);
    let (mut done, mut kept) = (vec![], vec![]);
    for (index, layer) in plan.layers.iter().enumerate() {
        let Some(weights) = layer.weights(module.graph(plan.graph)) else { continue };
        let point = plan.points.iter().position(|p| p.layers.contains(&index));
        let seen = statistics.zip(point).and_then(|(all, point)| all.get(point));
        let energies = seen.filter(|s| !s.is_empty()).map(Statistics::energies).unwrap_or_default();
        match narrowed(layer, weights, storage, &energies).map_err(|e| Fault::from(e).at(&layer.name))? {
            Ok(narrow) => {
                let bytes = |tensors: &[&Tensor]| tensors.iter().map(|t| t.bytes().len() as u64).sum();
                done.push(Stored {
                    layer: index,
                    sqnr_db: narrow.sqnr_db(),
                    bytes_before: bytes(&[weights]),
                    bytes_after: bytes(&narrow.tensors()),
                });
                replace(&mut editor, layer, &narrow)?;
            }
            Err(reason) => kept.push(Kept { name: layer.name.clone(), reason }),
        }
    }
    editor.module.remove_dead_nodes(plan.graph);
    Ok((editor.module, done, kept))
}

/// Weights in fewer bits, and their error.
struct Narrow {
    form: Form,
    /// Sums of the squares of the weights and of their errors.
    power: f64,
    error: f64,
}

enum Form {
    /// Integers, scales and zero points along an axis in blocks.
    Blocks { integers: Tensor, scales: Tensor, zeros: Tensor, axis: usize, block: usize },
    /// Narrower floats.
    Floats(Tensor),
}

impl Narrow {
    fn sqnr_db(&self) -> f64 {
        if self.error > 0.0 { 10.0 * (self.power / self.error).log10() } else { f64::INFINITY }
    }

    /// What is stored. Zero points of symmetric groups are all 0 and take no room in a program.
    fn tensors(&self) -> Vec<&Tensor> {
        match &self.form {
            Form::Floats(tensor) => vec![tensor],
            Form::Blocks { integers, scales, zeros, .. } => {
                let zero = zeros.dtype().is_int() && zeros.bytes().iter().all(|b| *b == 0);
                let mut all = vec![integers, scales];
                all.extend((!zero).then_some(zeros));
                all
            }
        }
    }
}

/// The weights of a layer in fewer bits, or why they stay.
fn narrowed(
    layer: &Layer,
    weights: &Tensor,
    storage: Storage,
    energies: &[f64],
) -> Result<Result<Narrow, String>, TensorError> {
    if layer.kind != LayerKind::Contraction {
        return Ok(Err("convolutions have no kernel for weights in fewer bits".into()));
    }
    if weights.numel() < FEWEST {
        return Ok(Err(format!("it has {} weights", weights.numel())));
    }
    let Some(values) = floats(weights) else { return Ok(Err("the weights are not of f32".into())) };
    let power = |of: &mut dyn Iterator<Item = f64>| of.map(|v| v * v).sum::<f64>();
    let of_weights = power(&mut values.iter().map(|v| f64::from(*v)));
    match storage {
        Storage::F16 | Storage::Bf16 => {
            let dtype = if storage == Storage::F16 { DType::F16 } else { DType::BF16 };
            let scalars: Vec<Scalar> = values.iter().map(|v| Scalar::F(f64::from(*v))).collect();
            let tensor = Tensor::from_scalars(dtype, weights.dims(), &scalars)?;
            let rounded = tensor.to_f64s().unwrap_or_default();
            if rounded.iter().any(|v| !v.is_finite()) {
                return Ok(Err(format!("a weight is beyond the range of {}", storage.name())));
            }
            let error = power(&mut values.iter().zip(&rounded).map(|(v, r)| f64::from(*v) - r));
            Ok(Ok(Narrow { form: Form::Floats(tensor), power: of_weights, error }))
        }
        Storage::Groups(groups) => {
            let Some(axis) = layer.input_axis else {
                return Ok(Err("the weights have not exactly one axis that is summed over".into()));
            };
            let coded = round::code(&values, weights.dims(), axis, Coding::of(&groups), energies);
            let error = coded.error;
            Ok(Ok(Narrow { form: blocks(&coded, weights.dims(), axis, &groups)?, power: of_weights, error }))
        }
    }
}

/// Integers, scales and zero points as tensors.
fn blocks(coded: &Coded, dims: &[usize], axis: usize, groups: &Groups) -> Result<Form, TensorError> {
    let mut grid = dims.to_vec();
    if let Some(size) = grid.get_mut(axis) {
        *size = size.div_ceil(groups.size);
    }
    let dtype = groups.dtype();
    let integers = integers(dtype, dims, &coded.codes)?;
    let scales = Tensor::from_slice(&grid, &coded.scales)?;
    let zeros = match groups.rounding {
        Rounding::Hqq => Tensor::from_slice(&grid, &coded.zeros)?,
        Rounding::Nearest => {
            // They are integers of the range.
            let all: Vec<i16> = coded.zeros.iter().map(|z| *z as i16).collect();
            self::integers(dtype, &grid, &all)?
        }
    };
    Ok(Form::Blocks { integers, scales, zeros, axis, block: groups.size })
}

/// A tensor of small integers, which are in the range of the dtype.
fn integers(dtype: DType, dims: &[usize], values: &[i16]) -> Result<Tensor, TensorError> {
    let packed = dtype.is_packed();
    let len = if packed { values.len().div_ceil(2) } else { values.len() };
    let bytes = Bytes::build(len, |out| {
        for (i, v) in values.iter().enumerate() {
            // The low byte of two's complement.
            let byte = v.to_le_bytes()[0];
            let (at, bits) = if packed { (i / 2, (byte & 15) << (i % 2 * 4)) } else { (i, byte) };
            if let Some(to) = out.get_mut(at) {
                *to |= bits;
            }
        }
    });
    Tensor::new(dtype, dims, bytes)
}

/// Puts a dequantization or cast in the place of a layer's weights.
fn replace(editor: &mut Editor, layer: &Layer, narrow: &Narrow) -> Result<(), QuantizeError> {
    editor.edit(Some(layer.node), |p| {
        let old = p.graph().node(layer.node);
        let (mut operands, op, result) = (old.operands.clone(), old.op.clone(), old.results[0]);
        let w = wide(p, &narrow.form)?;
        for (slot, operand) in operands.iter_mut().enumerate() {
            if slot != layer.slot {
                *operand = w;
            }
        }
        debug_assert!(matches!(op, Op::Contract(Contract::Einsum { .. })), "a contraction");
        let y = node(p, op, &operands)?;
        p.replace(result, y);
        Ok(())
    })
}

/// The weights in f32 again.
fn wide(p: &mut dyn Build, form: &Form) -> Result<Value, Fault> {
    match form {
        Form::Floats(tensor) => {
            let narrow = p.constant(tensor.clone())?;
            Ok(p.cast(narrow, DType::F32)?)
        }
        Form::Blocks { integers, scales, zeros, axis, block } => {
            let (q, scale) = (p.constant(integers.clone())?, p.constant(scales.clone())?);
            let zero = p.constant(zeros.clone())?;
            // A zero point has the dtype of what it belongs to.
            let q = if zeros.dtype() == DType::F32 { p.cast(q, DType::F32)? } else { q };
            let block = i64::try_from(*block).unwrap_or(i64::MAX);
            let op = Quant::Dequantize { to: DType::F32, axis: Some(*axis), block };
            node(p, op, &[q, scale, zero])
        }
    }
}

#[cfg(test)]
mod tests;
