//! What a case's outputs are compared as, and when two of them agree.

use kiln_ir::{DClass, Tensor};

/// A value apart from how Kiln or a file stores it.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// An array in row-major order.
    Tensor { dtype: String, shape: Vec<usize>, elements: Elements },
    /// A sequence.
    Sequence(Vec<Value>),
    /// An optional that holds nothing.
    Nothing,
}

/// The elements of an array.
#[derive(Clone, Debug, PartialEq)]
pub enum Elements {
    /// Numbers of any real dtype, and booleans as 0 and 1.
    Real(Vec<f64>),
    /// Complex numbers, as real and imaginary part.
    Complex(Vec<[f64; 2]>),
    /// Strings.
    Text(Vec<String>),
}

impl From<&Tensor> for Value {
    fn from(tensor: &Tensor) -> Self {
        let elements = match tensor.dtype().class() {
            DClass::Text => Elements::Text(tensor.as_strings().to_vec()),
            DClass::Complex => Elements::Complex(complex(tensor)),
            DClass::Bool | DClass::Signed | DClass::Unsigned | DClass::Float => {
                Elements::Real(tensor.to_f64s().unwrap_or_default())
            }
        };
        Value::Tensor { dtype: tensor.dtype().to_string(), shape: tensor.dims().to_vec(), elements }
    }
}

/// The elements of a complex tensor: pairs of floats, each half an element wide.
fn complex(tensor: &Tensor) -> Vec<[f64; 2]> {
    let half = tensor.dtype().bits() / 16;
    let part = |bytes: &[u8]| match <[u8; 4]>::try_from(bytes) {
        Ok(single) => f64::from(f32::from_le_bytes(single)),
        Err(_) => <[u8; 8]>::try_from(bytes).map_or(f64::NAN, f64::from_le_bytes),
    };
    let pair = |element: &[u8]| [part(&element[..half]), part(&element[half..])];
    tensor.bytes().chunks_exact(2 * half).map(pair).collect()
}

/// How closely numbers must agree: `|got - expected| <= atol + rtol * |expected|`, as `numpy.testing.assert_allclose` has
/// it. NaN agrees with NaN, an infinity with itself.
#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    /// Relative to the expected value.
    pub rtol: f64,
    /// Absolute.
    pub atol: f64,
}

/// Why two values do not agree: `what`, in words that all such cases share, and `place`, with the figures.
#[derive(Debug, PartialEq, Eq)]
pub struct Mismatch {
    pub what: &'static str,
    pub place: String,
}

impl Tolerance {
    /// Fails at the first of `got` that does not agree with the one of `expected` in its place.
    pub fn compare(self, got: &[Value], expected: &[Value]) -> Result<(), Mismatch> {
        if got.len() < expected.len() {
            let place = format!("{} instead of {}", got.len(), expected.len());
            return Err(Mismatch { what: "number of outputs differs", place });
        }
        let outputs = got.iter().zip(expected).enumerate();
        outputs
            .into_iter()
            .try_for_each(|(i, (got, expected))| self.agree(got, expected, &format!("output {i}")))
    }

    fn agree(self, got: &Value, expected: &Value, place: &str) -> Result<(), Mismatch> {
        match (got, expected) {
            (Value::Nothing, Value::Nothing) => Ok(()),
            (Value::Sequence(got), Value::Sequence(expected)) => {
                if got.len() != expected.len() {
                    let place = format!("{place}: {} instead of {}", got.len(), expected.len());
                    return Err(Mismatch { what: "length of a sequence differs", place });
                }
                let items = got.iter().zip(expected).enumerate();
                items
                    .into_iter()
                    .try_for_each(|(i, (got, expected))| self.agree(got, expected, &format!("{place}[{i}]")))
            }
            (
                Value::Tensor { dtype, shape, elements },
                Value::Tensor { dtype: expected_dtype, shape: expected_shape, elements: expected },
            ) => {
                if dtype != expected_dtype {
                    let place = format!("{place}: {dtype} instead of {expected_dtype}");
                    return Err(Mismatch { what: "dtype differs", place });
                }
                if shape != expected_shape {
                    let place = format!("{place}: {shape:?} instead of {expected_shape:?}");
                    return Err(Mismatch { what: "shape differs", place });
                }
                self.elements(elements, expected, place)
            }
            (Value::Nothing | Value::Sequence(_) | Value::Tensor { .. }, _) => {
                let place = format!("{place}: {} instead of {}", kind(got), kind(expected));
                Err(Mismatch { what: "kind of value differs", place })
            }
        }
    }

    fn elements(self, got: &Elements, expected: &Elements, place: &str) -> Result<(), Mismatch> {
        match (got, expected) {
            (Elements::Real(got), Elements::Real(expected)) => {
                differing(got, expected, place, |&got, &expected| self.close(got, expected))
            }
            (Elements::Complex(got), Elements::Complex(expected)) => {
                differing(got, expected, place, |got, expected| self.complex_close(*got, *expected))
            }
            (Elements::Text(got), Elements::Text(expected)) => {
                differing(got, expected, place, |got, expected| got == expected)
            }
            (Elements::Real(_) | Elements::Complex(_) | Elements::Text(_), _) => {
                Err(Mismatch { what: "kind of elements differs", place: place.to_owned() })
            }
        }
    }

    fn close(self, got: f64, expected: f64) -> bool {
        if got.is_finite() && expected.is_finite() {
            (got - expected).abs() <= self.atol + self.rtol * expected.abs()
        } else {
            got == expected || (got.is_nan() && expected.is_nan())
        }
    }

    fn complex_close(self, got: [f64; 2], expected: [f64; 2]) -> bool {
        let [real, imaginary] = [got[0] - expected[0], got[1] - expected[1]];
        let bound = self.atol + self.rtol * expected[0].hypot(expected[1]);
        if bound.is_finite() && got.iter().all(|part| part.is_finite()) {
            real.hypot(imaginary) <= bound
        } else {
            self.close(got[0], expected[0]) && self.close(got[1], expected[1])
        }
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Tensor { .. } => "a tensor",
        Value::Sequence(_) => "a sequence",
        Value::Nothing => "an empty optional",
    }
}

/// Fails with the first pair that does not agree and the count of such pairs.
fn differing<T: std::fmt::Debug>(
    got: &[T],
    expected: &[T],
    place: &str,
    agree: impl Fn(&T, &T) -> bool,
) -> Result<(), Mismatch> {
    if got.len() != expected.len() {
        let place = format!("{place}: {} instead of {}", got.len(), expected.len());
        return Err(Mismatch { what: "number of elements differs", place });
    }
    let pairs = got.iter().zip(expected).enumerate();
    let mut wrong = pairs.filter(|(_, (got, expected))| !agree(got, expected));
    let Some((at, (got, expected))) = wrong.next() else { return Ok(()) };
    let others = wrong.count();
    Err(Mismatch {
        what: "values differ",
        place: format!("{place}: element {at} is {got:?} instead of {expected:?}, and {others} others"),
    })
}

#[cfg(test)]
mod tests {
    use kiln_ir::{Bytes, DType};

    use super::*;

    const TOLERANCE: Tolerance = Tolerance { rtol: 1e-3, atol: 1e-7 };

    fn real(shape: &[usize], values: &[f64]) -> Value {
        Value::Tensor {
            dtype: "f32".to_owned(),
            shape: shape.to_vec(),
            elements: Elements::Real(values.to_vec()),
        }
    }

    fn verdict(got: Value, expected: Value) -> Option<&'static str> {
        TOLERANCE.compare(&[got], &[expected]).err().map(|mismatch| mismatch.what)
    }

    #[test]
    fn numbers_agree_within_the_tolerance() {
        assert_eq!(verdict(real(&[2], &[1000.0, 0.0]), real(&[2], &[1000.9, 1e-8])), None);
        assert_eq!(verdict(real(&[1], &[1000.0]), real(&[1], &[1002.0])), Some("values differ"));
        let special = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY];
        assert_eq!(verdict(real(&[3], &special), real(&[3], &special)), None);
        assert_eq!(verdict(real(&[1], &[f64::NAN]), real(&[1], &[0.0])), Some("values differ"));
        assert_eq!(verdict(real(&[1], &[1.0]), real(&[1], &[f64::INFINITY])), Some("values differ"));
    }

    #[test]
    fn complex_numbers_agree_by_distance_and_text_exactly() {
        let value = |elements| Value::Tensor { dtype: "any".to_owned(), shape: vec![1], elements };
        let complex = |real, imaginary| value(Elements::Complex(vec![[real, imaginary]]));
        let text = |string: &str| value(Elements::Text(vec![string.to_owned()]));
        assert_eq!(verdict(complex(1000.0, 0.0), complex(1000.0, 0.5)), None);
        assert_eq!(verdict(complex(1.0, 0.0), complex(1.0, 0.5)), Some("values differ"));
        assert_eq!(verdict(text("a"), text("a")), None);
        assert_eq!(verdict(text("a"), text("b")), Some("values differ"));
        assert_eq!(verdict(text("1"), complex(1.0, 0.0)), Some("kind of elements differs"));
    }

    #[test]
    fn a_tensor_keeps_its_elements() -> Result<(), kiln_ir::TensorError> {
        let mut bytes = 1.5_f32.to_le_bytes().to_vec();
        bytes.extend((-2.0_f32).to_le_bytes());
        let tensor = Tensor::new(DType::C64, &[1], Bytes::copied(&bytes))?;
        let Value::Tensor { elements, .. } = Value::from(&tensor) else { panic!("a tensor is a tensor") };
        assert_eq!(elements, Elements::Complex(vec![[1.5, -2.0]]));
        let tensor = Tensor::from_bools(&[2, 1], &[true, false])?;
        let elements = Elements::Real(vec![1.0, 0.0]);
        assert_eq!(
            Value::from(&tensor),
            Value::Tensor { dtype: "bool".to_owned(), shape: vec![2, 1], elements }
        );
        Ok(())
    }

    #[test]
    fn shape_kind_and_number_must_be_the_same() {
        assert_eq!(verdict(real(&[1, 2], &[0.0; 2]), real(&[2], &[0.0; 2])), Some("shape differs"));
        assert_eq!(verdict(Value::Nothing, real(&[0], &[])), Some("kind of value differs"));
        let sequence = |count: usize| Value::Sequence(vec![real(&[], &[1.0]); count]);
        assert_eq!(verdict(sequence(2), sequence(3)), Some("length of a sequence differs"));
        assert_eq!(verdict(sequence(2), sequence(2)), None);
        assert!(TOLERANCE.compare(&[], &[Value::Nothing]).is_err());
    }
}
