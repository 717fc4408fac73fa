//! Shapes that a user gives for inputs: `NAME=1,3,224,224`.

use std::str::FromStr;

use kiln_ir::{DType, Dim};

/// An input's shape in place of the declared one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShapeOverride {
    /// Name of the input.
    pub input: String,
    /// Its dims; names stand for symbolic ones.
    pub dims: Vec<Dim>,
    /// Its dtype, for an input of which the file states none.
    pub dtype: Option<DType>,
}

/// A text that is no shape override.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not of the form NAME=1,3,224,224: {reason}")]
pub struct ShapeParseError {
    text: String,
    reason: String,
}

impl FromStr for ShapeOverride {
    type Err = ShapeParseError;

    fn from_str(text: &str) -> Result<Self, ShapeParseError> {
        let fail = |reason: &str| ShapeParseError { text: text.to_owned(), reason: reason.to_owned() };
        // Names of inputs may hold `=`; dims never do.
        let (input, dims) = text.rsplit_once('=').ok_or_else(|| fail("there is no `=`"))?;
        if input.is_empty() {
            return Err(fail("the name is empty"));
        }
        let parse = |d: &str| match d.trim().parse::<Dim>() {
            Ok(dim) if dim.as_known().is_some_and(|v| v < 0) => Err(fail("a dim is negative")),
            Ok(dim) if dim.is_unknown() => Err(fail("a dim is unknown: give it a name")),
            Ok(dim) => Ok(dim),
            Err(e) => Err(fail(&e.to_string())),
        };
        let (dtype, dims) = match dims.trim().strip_suffix(']').and_then(|typed| typed.split_once('[')) {
            Some((name, dims)) => {
                let dtype = name.trim().parse::<DType>().map_err(|e| fail(&e.to_string()))?;
                (Some(dtype), dims)
            }
            None => (None, dims),
        };
        let dims = if dims.trim().is_empty() { Ok(vec![]) } else { dims.split(',').map(parse).collect() };
        Ok(ShapeOverride { input: input.to_owned(), dims: dims?, dtype })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_parse() {
        let s: ShapeOverride = "a=b=1, N,224".parse().unwrap();
        assert_eq!(s.input, "a=b");
        assert_eq!(s.dims, [Dim::known(1), Dim::symbol("N"), Dim::known(224)]);
        assert_eq!("x=".parse::<ShapeOverride>().unwrap().dims, []);
        let s: ShapeOverride = "ids=i64[2,N]".parse().unwrap();
        assert_eq!((s.dtype, s.dims), (Some(DType::I64), vec![Dim::known(2), Dim::symbol("N")]));
        assert_eq!("x=i64[]".parse::<ShapeOverride>().unwrap().dims, []);
        for bad in ["x", "=1", "x=-1", "x=?", "x=1,,2", "x=i65[2]", "x=i64[2", "x=i64[-2]"] {
            assert!(bad.parse::<ShapeOverride>().is_err(), "{bad}");
        }
    }
}
