//! What the caller says of a model's inputs, for all loaders.

use kiln_ir::{Dim, Shape, TensorType, Type};
use rustc_hash::FxHashMap;

use crate::{LoadError, LoadOptions};

/// The values that the caller gives symbols.
pub(crate) fn given_symbols(options: &LoadOptions) -> FxHashMap<String, Dim> {
    options.symbols.iter().map(|(name, &v)| (name.clone(), Dim::known(v))).collect()
}

/// Fails if a shape is given for something that is no input.
pub(crate) fn check_names(file: &str, options: &LoadOptions, inputs: &[&str]) -> Result<(), LoadError> {
    for name in options.shapes.keys() {
        if !inputs.contains(&name.as_str()) {
            let known: Vec<_> = inputs.iter().map(|input| format!("`{input}`")).collect();
            let reason = format!("a shape is given for `{name}`, the inputs are {}", known.join(", "));
            return Err(LoadError::Option { path: file.to_owned(), reason });
        }
    }
    Ok(())
}

/// The type of an input after the caller's shape; symbols that it fixes are recorded for all inputs.
pub(crate) fn override_shape(
    file: &str,
    options: &LoadOptions,
    name: &str,
    declared: Type,
    symbols: &mut FxHashMap<String, Dim>,
) -> Result<Type, LoadError> {
    let Some(given) = options.shapes.get(name) else { return Ok(declared) };
    let fail = |reason: String| Err(LoadError::Option { path: file.to_owned(), reason });
    let Type::Tensor(TensorType { dtype, shape }) = &declared else {
        return fail(format!("a shape is given for `{name}`, which is {declared}"));
    };
    if let Some(dims) = shape.dims() {
        let fits = dims.len() == given.len()
            && dims.iter().zip(given).all(|(d, g)| match (d.as_known(), g.as_known()) {
                (Some(d), Some(g)) => d == g,
                _ => true,
            });
        if !fits {
            let given = Shape::new(given.clone());
            return fail(format!("the shape {given} given for `{name}` does not fit {declared}"));
        }
        for (d, g) in dims.iter().zip(given) {
            if let Some(s) = d.as_symbol() {
                symbols.insert(s.0.to_string(), g.clone());
            }
        }
    }
    Ok(Type::tensor(*dtype, given.clone()))
}
