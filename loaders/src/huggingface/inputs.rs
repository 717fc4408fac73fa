//! Inputs of the graphs: their dims are symbols, unless the caller gives shapes or values.

use std::collections::BTreeMap;

use kiln_ir::{DType, Dim, GraphBuilder, Shape, Type, Value};

use super::Fault;
use crate::{LoadError, LoadOptions};

/// What the caller says of the inputs.
pub(super) struct Inputs<'o> {
    file: &'o str,
    options: &'o LoadOptions,
}

/// An input as the family declares it.
pub(super) struct Declared {
    name: &'static str,
    dtype: DType,
    dims: Vec<Dim>,
}

/// An input of indices or flags, `[batch, length]`.
pub(super) fn tokens(name: &'static str) -> Declared {
    Declared { name, dtype: DType::I64, dims: vec![Dim::symbol("batch"), Dim::symbol("length")] }
}

/// Images, `[batch, channels, height, width]`.
pub(super) fn images(channels: Dim, height: Dim, width: Dim) -> Declared {
    let dims = vec![Dim::symbol("batch"), channels, height, width];
    Declared { name: "pixel_values", dtype: DType::F32, dims }
}

impl<'o> Inputs<'o> {
    /// What the options of a load say.
    pub(super) fn new(file: &'o str, options: &'o LoadOptions) -> Self {
        Inputs { file, options }
    }

    fn wrong(&self, reason: String) -> Fault {
        Fault::Load(LoadError::Option { path: self.file.to_owned(), reason })
    }

    /// Adds all inputs of the graph. A shape that is given for one fixes the symbols of all.
    pub(super) fn declare(
        &self,
        b: &mut GraphBuilder<'_>,
        declared: &[Declared],
    ) -> Result<Vec<Value>, Fault> {
        let mut symbols: BTreeMap<String, Dim> =
            self.options.symbols.iter().map(|(name, &value)| (name.clone(), Dim::known(value))).collect();
        for (name, given) in &self.options.shapes {
            let Some(input) = declared.iter().find(|input| input.name == name) else {
                let known: Vec<_> = declared.iter().map(|input| format!("`{}`", input.name)).collect();
                let known = known.join(", ");
                return Err(self.wrong(format!("a shape is given for `{name}`, the inputs are {known}")));
            };
            let fits = input.dims.len() == given.len()
                && input.dims.iter().zip(given).all(|(own, given)| {
                    own.as_known().zip(given.as_known()).is_none_or(|(own, given)| own == given)
                });
            if !fits {
                let (given, own) = (Shape::new(given.clone()), Shape::new(input.dims.clone()));
                return Err(self.wrong(format!("the shape {given} given for `{name}` does not fit {own}")));
            }
            for (own, given) in input.dims.iter().zip(given) {
                let Some(symbol) = own.as_symbol() else { continue };
                let before = symbols.insert(symbol.0.to_string(), given.clone());
                if before.as_ref().is_some_and(|before| before != given) {
                    return Err(self.wrong(format!("`{}` is given two values", symbol.0)));
                }
            }
        }
        let input = |input: &Declared| {
            let ty = Type::tensor(input.dtype, input.dims.clone());
            let ty = ty.map_dims(&mut |d| d.substitute(&|s| symbols.get(&*s.0).cloned()));
            b.input(input.name, ty)
        };
        Ok(declared.iter().map(input).collect())
    }
}
