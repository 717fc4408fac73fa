//! Checked access to a node's attributes. A wrong type is an error; an attribute that no importer asks for is logged.

use std::cell::RefCell;

use kiln_ir::{DType, Tensor};
use rustc_hash::FxHashMap;

use super::cx::OpError;
use super::proto::{
    AttributeProto, GraphProto, NodeProto, SparseTensorProto, TypeProto, attribute_type as ty,
};
use super::tensor::dtype;

/// The values of a function's attributes at a call, by name; empty outside functions.
pub(crate) type Bindings<'p> = FxHashMap<&'p str, &'p AttributeProto>;

/// The attributes of one node, references to a function's attributes resolved.
pub(crate) struct Attrs<'p> {
    found: Vec<(&'p str, &'p AttributeProto)>,
    asked: RefCell<Vec<&'static str>>,
}

impl<'p> Attrs<'p> {
    pub(crate) fn new(node: &'p NodeProto, bindings: &Bindings<'p>) -> Self {
        let resolve = |a: &'p AttributeProto| {
            if a.ref_attr_name.is_empty() {
                return Some((a.name.as_str(), a));
            }
            // A reference to an attribute that the call leaves out leaves this one out, too.
            bindings.get(a.ref_attr_name.as_str()).map(|value| (a.name.as_str(), *value))
        };
        let found = node.attribute.iter().filter_map(resolve).collect();
        Attrs { found, asked: RefCell::new(vec![]) }
    }

    /// All attributes by name, for binding the parameters of a function.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&'p str, &'p AttributeProto)> {
        self.found.iter().copied()
    }

    /// Names of attributes that nothing asked for.
    pub(crate) fn unknown(&self) -> Vec<&'p str> {
        let asked = self.asked.borrow();
        self.found.iter().map(|(name, _)| *name).filter(|name| !asked.contains(name)).collect()
    }

    fn get(&self, name: &'static str) -> Option<&'p AttributeProto> {
        self.asked.borrow_mut().push(name);
        self.found.iter().find(|(n, _)| *n == name).map(|(_, a)| *a)
    }

    /// The value that `read` takes from the attribute, whose type must be `expected` (old files leave it out).
    fn typed<T>(
        &self,
        name: &'static str,
        expected: i32,
        read: impl FnOnce(&'p AttributeProto) -> Option<T>,
    ) -> Result<Option<T>, OpError> {
        let Some(a) = self.get(name) else { return Ok(None) };
        let fits = a.r#type == expected || a.r#type == ty::UNDEFINED;
        match fits.then(|| read(a)).flatten() {
            Some(value) => Ok(Some(value)),
            None => Err(OpError::invalid(format!(
                "attribute `{name}` must be {}, it is {}",
                type_name(expected),
                type_name(a.r#type)
            ))),
        }
    }

    pub(crate) fn int(&self, name: &'static str) -> Result<Option<i64>, OpError> {
        // An integer 0 may be left out of the wire format by some writers.
        self.typed(name, ty::INT, |a| a.i.or((a.r#type == ty::INT).then_some(0)))
    }

    pub(crate) fn int_or(&self, name: &'static str, default: i64) -> Result<i64, OpError> {
        Ok(self.int(name)?.unwrap_or(default))
    }

    pub(crate) fn required_int(&self, name: &'static str) -> Result<i64, OpError> {
        self.int(name)?.ok_or_else(|| missing(name))
    }

    pub(crate) fn flag(&self, name: &'static str, default: bool) -> Result<bool, OpError> {
        Ok(self.int(name)?.map_or(default, |v| v != 0))
    }

    pub(crate) fn float(&self, name: &'static str) -> Result<Option<f64>, OpError> {
        self.typed(name, ty::FLOAT, |a| a.f.or((a.r#type == ty::FLOAT).then_some(0.0)).map(f64::from))
    }

    pub(crate) fn float_or(&self, name: &'static str, default: f32) -> Result<f64, OpError> {
        Ok(self.float(name)?.unwrap_or(f64::from(default)))
    }

    pub(crate) fn string(&self, name: &'static str) -> Result<Option<String>, OpError> {
        let Some(bytes) = self
            .typed(name, ty::STRING, |a| a.s.clone().or((a.r#type == ty::STRING).then(Default::default)))?
        else {
            return Ok(None);
        };
        text(name, &bytes).map(Some)
    }

    pub(crate) fn string_or(&self, name: &'static str, default: &str) -> Result<String, OpError> {
        Ok(self.string(name)?.unwrap_or_else(|| default.to_owned()))
    }

    pub(crate) fn ints(&self, name: &'static str) -> Result<Option<Vec<i64>>, OpError> {
        self.typed(name, ty::INTS, |a| (a.i.is_none() || !a.ints.is_empty()).then(|| a.ints.clone()))
    }

    pub(crate) fn ints_or(&self, name: &'static str, default: &[i64]) -> Result<Vec<i64>, OpError> {
        Ok(self.ints(name)?.unwrap_or_else(|| default.to_vec()))
    }

    pub(crate) fn floats(&self, name: &'static str) -> Result<Option<Vec<f64>>, OpError> {
        self.typed(name, ty::FLOATS, |a| Some(a.floats.iter().map(|&v| f64::from(v)).collect()))
    }

    pub(crate) fn strings(&self, name: &'static str) -> Result<Option<Vec<String>>, OpError> {
        let Some(list) = self.typed(name, ty::STRINGS, |a| Some(&a.strings))? else { return Ok(None) };
        list.iter().map(|b| text(name, b)).collect::<Result<_, _>>().map(Some)
    }

    pub(crate) fn optional_graph(&self, name: &'static str) -> Result<Option<&'p GraphProto>, OpError> {
        self.typed(name, ty::GRAPH, |a| a.g.as_deref())
    }

    pub(crate) fn graph(&self, name: &'static str) -> Result<&'p GraphProto, OpError> {
        self.optional_graph(name)?.ok_or_else(|| missing(name))
    }

    pub(crate) fn type_proto(&self, name: &'static str) -> Result<Option<&'p TypeProto>, OpError> {
        self.typed(name, ty::TYPE_PROTO, |a| a.tp.as_deref())
    }

    pub(crate) fn tensor_proto(
        &self,
        name: &'static str,
    ) -> Result<Option<&'p super::proto::TensorProto>, OpError> {
        self.typed(name, ty::TENSOR, |a| a.t.as_deref())
    }

    pub(crate) fn sparse_proto(&self, name: &'static str) -> Result<Option<&'p SparseTensorProto>, OpError> {
        self.typed(name, ty::SPARSE_TENSOR, |a| a.sparse_tensor.as_deref())
    }

    /// A dtype that is given as its number.
    pub(crate) fn dtype(&self, name: &'static str) -> Result<Option<DType>, OpError> {
        let Some(n) = self.int(name)?.filter(|&n| n != 0) else { return Ok(None) };
        let n = i32::try_from(n).unwrap_or(-1);
        dtype(n).map(Some).map_err(|e| OpError::invalid(format!("attribute `{name}`: {e}")))
    }

    /// A tensor without external data.
    pub(crate) fn tensor(&self, name: &'static str) -> Result<Option<Tensor>, OpError> {
        let Some(proto) = self.tensor_proto(name)? else { return Ok(None) };
        super::tensor::tensor(proto, &super::tensor::NoExternalData)
            .map(Some)
            .map_err(|e| OpError::invalid(format!("attribute `{name}`: {e}")))
    }
}

fn text(name: &str, bytes: &[u8]) -> Result<String, OpError> {
    String::from_utf8(bytes.to_vec())
        .map_err(|_| OpError::invalid(format!("attribute `{name}` is not UTF-8")))
}

fn missing(name: &str) -> OpError {
    OpError::invalid(format!("attribute `{name}` is missing"))
}

fn type_name(number: i32) -> &'static str {
    match number {
        ty::FLOAT => "a float",
        ty::INT => "an integer",
        ty::STRING => "a string",
        ty::TENSOR => "a tensor",
        ty::GRAPH => "a graph",
        ty::FLOATS => "a list of floats",
        ty::INTS => "a list of integers",
        ty::STRINGS => "a list of strings",
        ty::TENSORS => "a list of tensors",
        ty::GRAPHS => "a list of graphs",
        ty::SPARSE_TENSOR => "a sparse tensor",
        ty::TYPE_PROTO => "a type",
        _ => "of another type",
    }
}
