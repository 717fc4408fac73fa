//! Inputs made from a seed, for measuring and checking without data.

use kiln_ir::{DClass, Dim, Scalar, Symbol, Tensor, TensorError, Type};

/// Why an input cannot be made up.
#[derive(Debug, thiserror::Error)]
pub enum SampleError {
    /// The input is too large to make up.
    #[error("input `{name}` is {ty}: too large to make up, give a file")]
    Large {
        /// The input.
        name: String,
        /// Its type.
        ty: Type,
    },
    /// The input is no tensor of known rank.
    #[error("input `{name}` of type {ty} cannot be made up: give --inputs")]
    Type {
        /// Name of the input.
        name: String,
        /// Its type.
        ty: Type,
    },
    /// The input's dims make no tensor.
    #[error("input `{name}`: {source}")]
    Tensor {
        /// Name of the input.
        name: String,
        /// The cause.
        source: TensorError,
    },
}

/// Most bytes of a made-up input; larger ones come from a file.
const MAX_BYTES: usize = 1 << 30;

/// A tensor for each named type: floats uniform in [-1, 1), integers in 0..16 (0..2 for narrow ones), bools. Every
/// symbolic dim is 1. The same seed gives the same tensors.
pub fn sample_inputs<'a>(
    ports: impl Iterator<Item = (&'a str, &'a Type)>,
    seed: u64,
) -> Result<Vec<Tensor>, SampleError> {
    let mut state = seed;
    ports.map(|(name, ty)| sample(name, ty, &mut state)).collect()
}

fn sample(name: &str, ty: &Type, state: &mut u64) -> Result<Tensor, SampleError> {
    let refuse = || SampleError::Type { name: name.to_owned(), ty: ty.clone() };
    let Type::Tensor(tensor) = ty else { return Err(refuse()) };
    let one = |_: &Symbol| Some(1);
    let size = |d: &Dim| d.eval(&one).ok().and_then(|v| usize::try_from(v).ok());
    let dims: Option<Vec<usize>> = tensor.shape.dims().and_then(|dims| dims.iter().map(size).collect());
    let dims = dims.ok_or_else(refuse)?;
    let make = |source| SampleError::Tensor { name: name.to_owned(), source };
    let count = dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    let bytes = count.and_then(|n| tensor.dtype.bytes_for(n)).filter(|&bytes| bytes <= MAX_BYTES);
    let (Some(count), Some(_)) = (count, bytes) else {
        return Err(SampleError::Large { name: name.to_owned(), ty: ty.clone() });
    };
    let scalar = |state: &mut u64| {
        let unit = (splitmix64(state) >> 11) as f64 / (1u64 << 53) as f64;
        match tensor.dtype.class() {
            DClass::Float => Some(Scalar::F(unit * 2.0 - 1.0)),
            DClass::Signed | DClass::Unsigned => {
                let bound = if tensor.dtype.bits() < 8 { 2.0 } else { 16.0 };
                Some(Scalar::I((unit * bound) as i128))
            }
            DClass::Bool => Some(Scalar::B(unit < 0.5)),
            DClass::Complex | DClass::Text => None,
        }
    };
    let values: Vec<Scalar> = (0..count).map(|_| scalar(state)).collect::<Option<_>>().ok_or_else(refuse)?;
    Tensor::from_scalars(tensor.dtype, &dims, &values).map_err(make)
}

/// Steele, Lea, Flood: "Fast splittable pseudorandom number generators", OOPSLA 2014.
fn splitmix64(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_ir::DType;

    #[test]
    fn samples_are_reproducible_and_in_range() {
        let ty = Type::tensor(DType::F32, vec![Dim::symbol("N"), Dim::known(8)]);
        let ids = Type::fixed(DType::I64, &[4]);
        let make = || sample_inputs([("x", &ty), ("ids", &ids)].into_iter(), 7).unwrap();
        let a = make();
        assert_eq!(a, make());
        assert_eq!(a[0].dims(), [1, 8]);
        assert!(a[0].to_f64s().unwrap().iter().all(|v| (-1.0..1.0).contains(v)));
        assert!(a[1].to_ints().unwrap().iter().all(|v| (0..16).contains(v)));
    }

    #[test]
    fn vast_inputs_are_not_made_up() {
        for dims in [&[1 << 40][..], &[i64::MAX, i64::MAX]] {
            let ty = Type::fixed(DType::F32, dims);
            let error = sample_inputs([("x", &ty)].into_iter(), 0).unwrap_err();
            assert!(matches!(error, SampleError::Large { .. }), "{error}");
        }
    }

    #[test]
    fn what_has_no_shape_is_refused() {
        let ty = Type::unranked(DType::F32);
        let error = sample_inputs([("x", &ty)].into_iter(), 0).unwrap_err();
        assert!(error.to_string().contains("`x`"));
    }
}
