//! Tensors of a checkpoint in place of a program's parameters and buffers.

use std::collections::BTreeMap;

use kiln_ir::{DType, Tensor};

use super::value::{Cell, Ref, State, Traced};
use crate::LoadError;
use crate::binding::Binding;

/// What tells whether tensors are one: where their elements are, type and sizes. Those without elements are their own.
type Place = (usize, usize, DType, Vec<usize>);

/// A tensor with its names and cells.
struct Weight {
    own: Tensor,
    names: Vec<String>,
    cells: Vec<Ref>,
}

/// Binds a checkpoint's tensors to names. A tensor of several names takes what the checkpoint has for any of them: a file
/// of shared weights may hold them once.
///
/// # Errors
/// All names that do not fit.
pub(super) fn bind(
    st: &mut State,
    named: &[(String, Ref)],
    mut binding: Binding<'_>,
) -> Result<(), LoadError> {
    let mut weights: Vec<Weight> = vec![];
    let mut places: BTreeMap<Place, usize> = BTreeMap::new();
    for (i, (name, cell)) in named.iter().enumerate() {
        let own = match st.cell(*cell) {
            Some(Cell::Tensor(t)) => match &t.value {
                Traced::Constant(own) if own.dtype() != DType::String => own.clone(),
                _ => continue,
            },
            _ => continue,
        };
        let bytes = own.bytes();
        let single = if bytes.is_empty() { i + 1 } else { 0 };
        let place = (bytes.as_ptr().addr(), single, own.dtype(), own.dims().to_vec());
        let at = *places.entry(place).or_insert(weights.len());
        match weights.get_mut(at) {
            Some(weight) => {
                weight.names.push(name.clone());
                weight.cells.push(*cell);
            }
            None => weights.push(Weight { own, names: vec![name.clone()], cells: vec![*cell] }),
        }
    }
    for Weight { own, names, cells } in weights {
        let Some(first) = names.iter().find(|name| binding.has(name)).or(names.first()) else { continue };
        let new = binding.bind(first, own);
        for name in names.iter().filter(|name| *name != first) {
            binding.also(name, &new, first);
        }
        for cell in cells {
            let value = Traced::Constant(new.clone());
            st.change_tensor(cell, |t| t.value = value);
        }
    }
    binding.finish()
}
