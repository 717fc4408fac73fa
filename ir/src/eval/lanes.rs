//! Decoded elements: tensors as vectors of exact scalars of one class, and back with one rounding.

use crate::tensor::{Bytes, scalar_to_bits};
use crate::{DClass, DType, Scalar, Tensor, float, wrap_int};

use super::fault::{Fault, invalid};

/// Elements of one class.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Lanes {
    /// Any floating dtype.
    F(Vec<f64>),
    /// Any integer dtype.
    I(Vec<i128>),
    /// `bool`.
    B(Vec<bool>),
}

impl Lanes {
    /// The elements of a tensor. Strings and complex numbers are an error.
    pub(super) fn decode(t: &Tensor) -> Result<Lanes, Fault> {
        let n = t.numel();
        Ok(match t.dtype().class() {
            DClass::Float => Lanes::F(floats_of(t)),
            DClass::Signed | DClass::Unsigned => {
                Lanes::I((0..n).map(|i| wrap_int(i128::from(t.element_bits(i)), t.dtype())).collect())
            }
            DClass::Bool => Lanes::B(t.bytes().iter().map(|&b| b != 0).collect()),
            DClass::Complex | DClass::Text => {
                return invalid(format!("{} elements are not numbers", t.dtype()));
            }
        })
    }

    /// No elements yet, of a dtype's class.
    pub(super) fn empty(dtype: DType, capacity: usize) -> Result<Lanes, Fault> {
        Ok(match dtype.class() {
            DClass::Float => Lanes::F(Vec::with_capacity(capacity)),
            DClass::Signed | DClass::Unsigned => Lanes::I(Vec::with_capacity(capacity)),
            DClass::Bool => Lanes::B(Vec::with_capacity(capacity)),
            DClass::Complex | DClass::Text => return invalid(format!("{dtype} elements are not numbers")),
        })
    }

    /// `n` times a scalar.
    pub(super) fn splat(value: Scalar, n: usize) -> Lanes {
        match value {
            Scalar::F(v) => Lanes::F(vec![v; n]),
            Scalar::I(v) => Lanes::I(vec![v; n]),
            Scalar::B(v) => Lanes::B(vec![v; n]),
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Lanes::F(v) => v.len(),
            Lanes::I(v) => v.len(),
            Lanes::B(v) => v.len(),
        }
    }

    pub(super) fn get(&self, i: usize) -> Scalar {
        match self {
            Lanes::F(v) => Scalar::F(v[i]),
            Lanes::I(v) => Scalar::I(v[i]),
            Lanes::B(v) => Scalar::B(v[i]),
        }
    }

    /// Appends a scalar of the lanes' class; one of another class converts.
    pub(super) fn push(&mut self, value: Scalar) {
        match self {
            Lanes::F(v) => v.push(as_f64(value)),
            Lanes::I(v) => v.push(as_i128(value)),
            Lanes::B(v) => v.push(as_f64(value) != 0.0),
        }
    }

    /// The elements at the given positions.
    pub(super) fn at(&self, positions: impl Iterator<Item = usize>) -> Lanes {
        match self {
            Lanes::F(v) => Lanes::F(positions.map(|i| v[i]).collect()),
            Lanes::I(v) => Lanes::I(positions.map(|i| v[i]).collect()),
            Lanes::B(v) => Lanes::B(positions.map(|i| v[i]).collect()),
        }
    }

    /// A tensor of these elements, rounded once (floats) or wrapped (integers) to `dtype`.
    pub(super) fn encode(&self, dtype: DType, dims: &[usize]) -> Result<Tensor, Fault> {
        self.encode_with(dtype, dims, |v| scalar_to_bits(dtype, v))
    }

    /// As [`Lanes::encode`], with the conversion given.
    pub(super) fn encode_with(
        &self,
        dtype: DType,
        dims: &[usize],
        bits_of: impl Fn(Scalar) -> u64,
    ) -> Result<Tensor, Fault> {
        let n = self.len();
        let Some(len) = dtype.bytes_for(n) else {
            return invalid(format!("{dtype} elements are not numbers"));
        };
        let bits = dtype.bits();
        let bytes = Bytes::build(len, |out| match (dtype, self) {
            (DType::F32, Lanes::F(values)) => {
                for (to, v) in out.chunks_exact_mut(4).zip(values) {
                    to.copy_from_slice(&(*v as f32).to_le_bytes());
                }
            }
            _ if bits < 8 => {
                let per_byte = 8 / bits;
                for i in 0..n {
                    out[i / per_byte] |= (bits_of(self.get(i)) as u8) << (i % per_byte * bits);
                }
            }
            _ => {
                let size = (bits / 8).min(8);
                for (i, to) in out.chunks_exact_mut(bits / 8).enumerate() {
                    to[..size].copy_from_slice(&bits_of(self.get(i)).to_le_bytes()[..size]);
                }
            }
        });
        Ok(Tensor::new(dtype, dims, bytes)?)
    }
}

fn floats_of(t: &Tensor) -> Vec<f64> {
    match t.dtype() {
        DType::F32 => t
            .bytes()
            .chunks_exact(4)
            .map(|b| f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]])))
            .collect(),
        dtype => (0..t.numel()).map(|i| float::decode(dtype, t.element_bits(i))).collect(),
    }
}

/// A scalar as a double; integers round.
pub(super) fn as_f64(value: Scalar) -> f64 {
    match value {
        Scalar::F(v) => v,
        Scalar::I(v) => v as f64,
        Scalar::B(b) => f64::from(u8::from(b)),
    }
}

/// A scalar as an integer; floats truncate.
pub(super) fn as_i128(value: Scalar) -> i128 {
    match value {
        Scalar::F(v) => v as i128,
        Scalar::I(v) => v,
        Scalar::B(b) => i128::from(b),
    }
}

/// The elements of any numeric tensor as doubles.
pub(super) fn floats(t: &Tensor) -> Result<Vec<f64>, Fault> {
    Ok(match Lanes::decode(t)? {
        Lanes::F(v) => v,
        Lanes::I(v) => v.into_iter().map(|v| v as f64).collect(),
        Lanes::B(v) => v.into_iter().map(|b| f64::from(u8::from(b))).collect(),
    })
}

/// The elements of an integer or bool tensor.
pub(super) fn ints(t: &Tensor) -> Result<Vec<i64>, Fault> {
    match t.to_ints() {
        Some(v) => Ok(v),
        None => invalid(format!("a tensor of {} where integers are needed", t.dtype())),
    }
}

/// The only element of a tensor.
pub(super) fn single<T: Copy>(values: &[T], what: &str) -> Result<T, Fault> {
    match values {
        [one] => Ok(*one),
        _ => invalid(format!("{what} has {} elements, one is needed", values.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_round_trip_through_every_numeric_dtype() {
        for &d in DType::ALL {
            let values = match d.class() {
                DClass::Float if d == DType::F8E8M0 => Lanes::F(vec![0.5, 1.0, 2.0]),
                DClass::Float => Lanes::F(vec![0.0, 1.0, 0.5]),
                DClass::Signed => Lanes::I(vec![0, 1, -1]),
                DClass::Unsigned => Lanes::I(vec![0, 1, 3]),
                DClass::Bool => Lanes::B(vec![false, true, true]),
                DClass::Complex | DClass::Text => continue,
            };
            let t = values.encode(d, &[3]).unwrap();
            assert_eq!(Lanes::decode(&t).unwrap(), values, "{d}");
        }
    }

    #[test]
    fn wide_unsigned_values_are_exact() {
        let t = Tensor::from_slice(&[1], &[u64::MAX]).unwrap();
        assert_eq!(Lanes::decode(&t).unwrap(), Lanes::I(vec![i128::from(u64::MAX)]));
        assert!(ints(&t).is_err());
    }
}
