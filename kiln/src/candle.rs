//! Tensors of candle in and out of sessions: feature `candle`.
//!
//! Candle has no bools: where a model takes or gives them, they are bytes of 0 and 1 there. Candle's tensors are copied
//! into dense ones on the CPU, and results are copied out.

use candle_core::Device;
use kiln_ir::{DType, Datum, Element, Tensor};
use kiln_runtime::{RunError, RunOptions, Session};

/// Why tensors do not pass between candle and Kiln.
#[derive(Debug, thiserror::Error)]
pub enum CandleError {
    /// Candle failed.
    #[error("candle: {0}")]
    Candle(#[from] candle_core::Error),
    /// Kiln's type has no counterpart.
    #[error("candle has no tensors of {0}")]
    NoCounterpart(DType),
    /// Candle's type has no counterpart.
    #[error("Kiln takes no tensors of candle's {0:?}")]
    Foreign(candle_core::DType),
    /// Bytes that are to be bools are neither 0 nor 1.
    #[error("input `{0}` takes bools, bytes of 0 and 1")]
    NoBool(String),
    /// A result is a sequence or nothing.
    #[error("output `{0}` is no tensor")]
    NoTensor(String),
    /// The elements make no tensor.
    #[error(transparent)]
    Tensor(#[from] kiln_ir::TensorError),
    /// The run failed.
    #[error(transparent)]
    Run(#[from] RunError),
}

/// A tensor of candle as one of Kiln, of the same type and shape.
///
/// # Errors
/// The type has no counterpart, or candle cannot copy the tensor to the CPU.
pub fn from_candle(tensor: &candle_core::Tensor) -> Result<Tensor, CandleError> {
    fn copied<T: candle_core::WithDType + Element>(
        tensor: &candle_core::Tensor,
    ) -> Result<Tensor, CandleError> {
        let values = tensor.to_device(&Device::Cpu)?.flatten_all()?.to_vec1::<T>()?;
        Ok(Tensor::from_slice(tensor.dims(), &values)?)
    }
    match tensor.dtype() {
        candle_core::DType::U8 => copied::<u8>(tensor),
        candle_core::DType::U32 => copied::<u32>(tensor),
        candle_core::DType::I64 => copied::<i64>(tensor),
        candle_core::DType::F16 => copied::<half::f16>(tensor),
        candle_core::DType::BF16 => copied::<half::bf16>(tensor),
        candle_core::DType::F32 => copied::<f32>(tensor),
        candle_core::DType::F64 => copied::<f64>(tensor),
        other => Err(CandleError::Foreign(other)),
    }
}

/// A tensor of Kiln as one of candle on the CPU, of the same type and shape; bools are bytes.
///
/// # Errors
/// The type has no counterpart.
pub fn to_candle(tensor: &Tensor) -> Result<candle_core::Tensor, CandleError> {
    fn copied<T: candle_core::WithDType + Element>(
        tensor: &Tensor,
    ) -> Result<candle_core::Tensor, CandleError> {
        Ok(candle_core::Tensor::from_vec(tensor.to_vec::<T>()?, tensor.dims(), &Device::Cpu)?)
    }
    match tensor.dtype() {
        DType::Bool => {
            let bytes = tensor.bytes().to_vec();
            Ok(candle_core::Tensor::from_vec(bytes, tensor.dims(), &Device::Cpu)?)
        }
        DType::U8 => copied::<u8>(tensor),
        DType::U32 => copied::<u32>(tensor),
        DType::I64 => copied::<i64>(tensor),
        DType::F16 => copied::<half::f16>(tensor),
        DType::BF16 => copied::<half::bf16>(tensor),
        DType::F32 => copied::<f32>(tensor),
        DType::F64 => copied::<f64>(tensor),
        other => Err(CandleError::NoCounterpart(other)),
    }
}

/// Runs an entry of a session on tensors of candle, in the order of its inputs; gives tensors in the order of its outputs.
///
/// # Errors
/// A type has no counterpart, or the run fails.
pub fn run(
    session: &Session,
    entry: &str,
    inputs: &[candle_core::Tensor],
    options: &RunOptions,
) -> Result<Vec<candle_core::Tensor>, CandleError> {
    let ports = session.entry(entry)?;
    let mut operands = Vec::with_capacity(inputs.len());
    for (i, input) in inputs.iter().enumerate() {
        let tensor = from_candle(input)?;
        let port = ports.inputs.get(i);
        let takes_bools = port.is_some_and(|p| p.ty.as_tensor().is_some_and(|t| t.dtype == DType::Bool));
        operands.push(Datum::Tensor(match (takes_bools, tensor.dtype(), port) {
            (true, DType::U8, Some(port)) => bools(&tensor, &port.name)?,
            _ => tensor,
        }));
    }
    let results = session.run_with(entry, &operands, options)?;
    let named = results.iter().zip(&ports.outputs);
    named
        .map(|(result, port)| match result {
            Datum::Tensor(tensor) => to_candle(tensor),
            _ => Err(CandleError::NoTensor(port.name.clone())),
        })
        .collect()
}

/// Bytes as bools.
fn bools(bytes: &Tensor, name: &str) -> Result<Tensor, CandleError> {
    let values: Option<Vec<bool>> = bytes
        .bytes()
        .iter()
        .map(|&byte| match byte {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        })
        .collect();
    let values = values.ok_or_else(|| CandleError::NoBool(name.to_owned()))?;
    Ok(Tensor::from_bools(bytes.dims(), &values)?)
}

#[cfg(test)]
mod tests {
    use candle_core::Tensor as Candle;
    use kiln_ir::{Build, GraphBuilder, Module, Type};
    use kiln_runtime::SessionOptions;

    use super::*;

    #[test]
    fn tensors_come_back_as_they_were() {
        let cpu = Device::Cpu;
        let wide = Candle::new(&[[1f32, 2.0, 3.0], [4.0, 5.0, 6.0]], &cpu).unwrap();
        let tensors = [
            wide.clone(),
            wide.to_dtype(candle_core::DType::F16).unwrap(),
            wide.to_dtype(candle_core::DType::BF16).unwrap(),
            wide.to_dtype(candle_core::DType::F64).unwrap(),
            wide.to_dtype(candle_core::DType::I64).unwrap(),
            wide.to_dtype(candle_core::DType::U32).unwrap(),
            wide.to_dtype(candle_core::DType::U8).unwrap(),
            // What does not lie densely.
            wide.t().unwrap(),
            wide.narrow(1, 1, 2).unwrap(),
            Candle::new(7f32, &cpu).unwrap(),
            Candle::zeros((0, 3), candle_core::DType::F32, &cpu).unwrap(),
        ];
        for tensor in tensors {
            let own = from_candle(&tensor).unwrap();
            assert_eq!(own.dims(), tensor.dims());
            let back = to_candle(&own).unwrap();
            assert_eq!((back.dtype(), back.dims()), (tensor.dtype(), tensor.dims()));
            let numbers = |t: &Candle| {
                let wide = t.to_dtype(candle_core::DType::F64).unwrap();
                wide.flatten_all().unwrap().to_vec1::<f64>().unwrap()
            };
            assert_eq!(numbers(&back), numbers(&tensor));
            assert_eq!(own.to_f64s().unwrap(), numbers(&tensor));
        }
        let text = Tensor::strings(&[1], vec!["a".to_owned()]).unwrap();
        assert!(matches!(to_candle(&text), Err(CandleError::NoCounterpart(DType::String))));
    }

    /// `y = keep ? x : 0`, and `keep` as it is negated.
    fn session() -> Session {
        let mut module = Module::new();
        let mut b = GraphBuilder::new(&mut module, "main");
        let x = b.input("x", Type::fixed(DType::F32, &[3]));
        let keep = b.input("keep", Type::fixed(DType::Bool, &[3]));
        let zero = b.scalar(DType::F32, 0.0).unwrap();
        let y = b.ew("where", &[keep, x, zero]).unwrap();
        let not = b.ew("not", &[keep]).unwrap();
        b.output("y", y);
        b.output("dropped", not);
        let id = b.finish();
        module.add_entry(id);
        let compiled = crate::compile(module, &crate::Options::default()).unwrap();
        compiled.into_session(SessionOptions::default()).unwrap()
    }

    #[test]
    fn sessions_run_on_tensors_of_candle() {
        let session = session();
        let cpu = Device::Cpu;
        let x = Candle::new(&[1f32, 2.0, 3.0], &cpu).unwrap();
        let keep = Candle::new(&[1u8, 0, 1], &cpu).unwrap();
        let options = RunOptions::default();
        let found = run(&session, "main", &[x.clone(), keep], &options).unwrap();
        assert_eq!(found[0].to_vec1::<f32>().unwrap(), [1.0, 0.0, 3.0]);
        assert_eq!(found[1].to_vec1::<u8>().unwrap(), [0, 1, 0]);
        let two = Candle::new(&[2u8, 0, 1], &cpu).unwrap();
        let error = run(&session, "main", &[x.clone(), two], &options).unwrap_err();
        assert!(matches!(error, CandleError::NoBool(name) if name == "keep"));
        let error = run(&session, "main", &[x], &options).unwrap_err();
        assert!(matches!(error, CandleError::Run(_)), "{error}");
        assert!(matches!(run(&session, "other", &[], &options), Err(CandleError::Run(_))));
    }
}
