//! From the values of a pickle to tensors and a tree: what torch's rebuild functions would do, for those that it allows
//! when it loads weights only (`torch/_weights_only_unpickler.py`). Everything else stays opaque.

use std::sync::Arc;

use bytes::Bytes;
use kiln_ir::DType;
use rustc_hash::FxHashMap;

use super::element::Element;
use super::pickle::{Id, Long, Node, Object, Pickle};
use super::tensor::{Body, ByteOrder, CheckpointTensor, Quantization, Sparse, Storage, TensorFault};
use super::tree::{Item, ItemId, Opaque, Tree};

/// What a persistent id stands for.
pub(super) enum Resolved {
    /// A storage: its bytes, the type and number of its elements, and where they begin, in elements.
    Storage {
        /// The bytes.
        storage: Arc<Storage>,
        /// The type of its elements.
        element: Element,
        /// How many there are.
        numel: usize,
        /// The first one.
        offset: usize,
    },
    /// A tensor.
    Tensor(CheckpointTensor),
    /// The name of a class.
    Name(String),
}

/// Looks up persistent ids.
pub(super) type Resolve<'a> = dyn FnMut(&Pickle, Id) -> Result<Resolved, TensorFault> + 'a;

/// What a pickle comes to.
pub(super) struct Rebuilt {
    pub(super) tree: Tree,
    pub(super) tensors: Vec<CheckpointTensor>,
}

/// Most tensors in tensors: a parameter around a view of a storage takes three.
const MAX_NESTING: usize = 8;

/// What a tensor counts as, in bytes, beside its shape and strides.
const TENSOR: usize = 2 * size_of::<CheckpointTensor>() + 64;
/// What a fault counts as, with the value that has it.
const FAULT: usize = 256;

/// Makes tensors and tree. Tensors take at most `memory` bytes, not counting their data; `None` if they take more.
pub(super) fn rebuild(pickle: &Pickle, memory: usize, resolve: &mut Resolve<'_>) -> Option<Rebuilt> {
    let tensors = Vec::new();
    let mut rebuilder = Rebuilder {
        pickle,
        resolve,
        tensors,
        made: FxHashMap::default(),
        more: Vec::new(),
        left: memory,
        over: false,
    };
    let mut items = Vec::with_capacity(pickle.len());
    for (id, node) in pickle.nodes() {
        items.push(rebuilder.item(id, node));
        if rebuilder.over {
            return None;
        }
    }
    items.append(&mut rebuilder.more);
    let root = item_id(pickle.root());
    Some(Rebuilt { tree: Tree { items, root }, tensors: rebuilder.tensors })
}

/// Items stand where the pickle's values do.
fn item_id(id: Id) -> ItemId {
    ItemId(u32::try_from(id.index()).unwrap_or(u32::MAX))
}

fn item_ids(ids: &[Id]) -> Vec<ItemId> {
    ids.iter().copied().map(item_id).collect()
}

fn wrong(what: impl Into<String>) -> TensorFault {
    TensorFault::Description(what.into())
}

struct Rebuilder<'a, 'r> {
    pickle: &'a Pickle,
    resolve: &'a mut Resolve<'r>,
    tensors: Vec<CheckpointTensor>,
    made: FxHashMap<Id, Result<usize, TensorFault>>,
    /// Items that no value of the pickle stands for.
    more: Vec<Item>,
    left: usize,
    over: bool,
}

/// Names under Python 3 of what Python 2 calls otherwise.
fn module3(module: &str) -> &str {
    match module {
        "__builtin__" => "builtins",
        "copy_reg" => "copyreg",
        other => other,
    }
}

impl<'a> Rebuilder<'a, '_> {
    /// Counts memory that grows faster than the pickle may: a value can be named by many others. False once there is
    /// none left.
    fn charge(&mut self, bytes: usize) -> bool {
        match self.left.checked_sub(bytes) {
            Some(left) => self.left = left,
            None => self.over = true,
        }
        !self.over
    }

    /// Counts and makes a list of items.
    fn list(&mut self, ids: &[Id]) -> Option<Vec<ItemId>> {
        self.charge(size_of_val(ids)).then(|| item_ids(ids))
    }

    /// Counts and makes a name, as Python 3 has it.
    fn label(&mut self, module: &str, name: &str) -> String {
        let module = module3(module);
        match self.charge(module.len() + name.len() + 1) {
            true => format!("{module}.{name}"),
            false => String::new(),
        }
    }

    fn item(&mut self, id: Id, node: &'a Node) -> Item {
        match node {
            Node::None => Item::None,
            Node::Bool(b) => Item::Bool(*b),
            Node::Int(n) => Item::Int(*n),
            Node::Long(Long::Digits(digits)) => Item::Integer(digits.to_string()),
            Node::Long(Long::Bytes(bytes)) => {
                // Its digits do not share the file.
                let fits = self.charge(4 * bytes.len());
                Item::Integer(if fits { hexadecimal(bytes) } else { String::new() })
            }
            Node::Float(x) => Item::Float(*x),
            Node::Str(text) => Item::Text(text.clone()),
            Node::Bytes(bytes) | Node::ByteArray(bytes) => Item::Bytes(bytes.clone()),
            Node::List(items) => Item::List(item_ids(items)),
            Node::Tuple(items) => Item::Tuple(item_ids(items)),
            Node::Set(items) | Node::FrozenSet(items) => Item::Set(item_ids(items)),
            Node::Dict(pairs) => Item::Dict { pairs: self.pairs(pairs.iter().copied()), attributes: None },
            Node::Global(global) => Item::Name(self.label(global.module.as_str(), global.name.as_str())),
            Node::Extension(code) => opaque(format!("extension {code} of copyreg"), None, vec![]),
            Node::Persistent(inner) => {
                let (name, parts) = ("a persistent id".to_owned(), vec![("id", item_id(*inner))]);
                match (self.resolve)(self.pickle, *inner) {
                    Ok(Resolved::Name(name)) => Item::Name(name),
                    Ok(_) => self.tensor_item(id, name, parts),
                    Err(fault) => self.faulty(name, fault, parts),
                }
            }
            Node::Object(object) => self.object(id, object),
        }
    }

    /// The pairs of a dict: each key once, where it comes first, with the value that comes last.
    fn pairs(&self, pairs: impl Iterator<Item = (Id, Id)>) -> Vec<(ItemId, ItemId)> {
        let mut places: FxHashMap<&str, usize> = FxHashMap::default();
        let mut out: Vec<(ItemId, ItemId)> = Vec::new();
        for (key, value) in pairs {
            let place = self.pickle.text(key).map(|text| *places.entry(text).or_insert(out.len()));
            match place.and_then(|place| out.get_mut(place)) {
                Some((_, old)) => *old = item_id(value),
                None => out.push((item_id(key), item_id(value))),
            }
        }
        out
    }

    /// A tensor, or what is left of it where its description is wrong.
    fn tensor_item(&mut self, id: Id, name: String, parts: Vec<(&'static str, ItemId)>) -> Item {
        match self.tensor(id, 0) {
            Ok(tensor) => Item::Tensor { tensor, attributes: None },
            Err(fault) => self.faulty(name, fault, parts),
        }
    }

    /// What is left of a tensor whose description is wrong.
    fn faulty(&mut self, name: String, fault: TensorFault, parts: Vec<(&'static str, ItemId)>) -> Item {
        self.charge(FAULT);
        opaque(name, Some(fault), parts)
    }

    fn object(&mut self, id: Id, object: &'a Object) -> Item {
        let pickle = self.pickle;
        let args = pickle.items(object.args).unwrap_or(&[]);
        let Some((module, name)) = pickle.global(object.callable) else {
            let what = pickle.node(object.callable).kind();
            let parts = self.parts(object);
            return opaque(format!("a call of {what}"), None, parts);
        };
        // Objects of old protocols are made by a function that takes their class.
        let (module, name) =
            match (module3(module), name, args.first().and_then(|&class| pickle.global(class))) {
                ("copyreg", "_reconstructor" | "__newobj__" | "__newobj_ex__", Some(class)) => class,
                _ => (module, name),
            };
        let known = match (module3(module), name) {
            ("collections", "OrderedDict" | "Counter" | "defaultdict") => self.ordered(args, object),
            ("builtins", "set" | "frozenset") => {
                let first = args.first().and_then(|&a| pickle.items(a)).unwrap_or(&[]);
                self.list(first).map(|mut all| {
                    all.extend(item_ids(&object.items));
                    Item::Set(all)
                })
            }
            ("builtins", "bytearray" | "bytes") => self.byte_array(args).map(Item::Bytes),
            ("_codecs", "encode") => args.first().and_then(|&text| self.latin1(text)).map(Item::Bytes),
            ("builtins", "complex") => match args {
                [re, im] => self.number(*re).zip(self.number(*im)).map(|(re, im)| Item::Complex(re, im)),
                _ => None,
            },
            ("torch", "Size") => {
                args.first().and_then(|&a| pickle.items(a)).and_then(|i| self.list(i)).map(Item::Tuple)
            }
            ("torch", "device") => self.device(args).map(|d| Item::Name(format!("torch.device:{d}"))),
            ("torch.serialization", "_get_layout") => {
                let layout = args.first().and_then(|&a| pickle.text(a)).filter(|layout| layout.len() < 64);
                layout.map(|layout| Item::Name(layout.to_owned()))
            }
            _ if makes_tensor(module, name) => {
                let parts = self.parts(object);
                let attributes = self.attributes(name, args, object);
                let label = self.label(module, name);
                Some(match self.tensor_item(id, label, parts) {
                    Item::Tensor { tensor, .. } => Item::Tensor { tensor, attributes },
                    other => other,
                })
            }
            _ => None,
        };
        known.unwrap_or_else(|| {
            let parts = self.parts(object);
            opaque(self.label(module, name), None, parts)
        })
    }

    /// Attributes of a tensor: what torch puts into its `__dict__`.
    fn attributes(&self, function: &str, args: &[Id], object: &Object) -> Option<ItemId> {
        let state = match function {
            "_rebuild_parameter_with_state" | "_rebuild_from_type_v2" => args.get(3).copied(),
            _ => object.state,
        };
        let is_empty = |id: &Id| match self.pickle.node(*id) {
            Node::None => true,
            Node::Dict(pairs) => pairs.is_empty(),
            _ => false,
        };
        state.filter(|id| !is_empty(id)).map(item_id)
    }

    /// A dict that Python makes by a call: of pairs in the arguments, and of those that are set afterwards.
    fn ordered(&mut self, args: &[Id], object: &Object) -> Option<Item> {
        let mut pairs = Vec::new();
        for &arg in args {
            match self.pickle.node(arg) {
                Node::Dict(inner) if self.charge(8 * size_of_val(inner.as_slice())) => pairs.extend(inner),
                Node::List(items) | Node::Tuple(items) if self.charge(16 * size_of_val(items.as_slice())) => {
                    for &pair in items {
                        let &[key, value] = self.pickle.items(pair)? else { return None };
                        pairs.push((key, value));
                    }
                }
                // What a `defaultdict` makes of keys that it lacks.
                Node::Global(_) | Node::None => {}
                _ => return None,
            }
        }
        let pairs = self.pairs(pairs.into_iter().chain(object.pairs.iter().copied()));
        Some(Item::Dict { pairs, attributes: object.state.map(item_id) })
    }

    fn byte_array(&mut self, args: &[Id]) -> Option<Bytes> {
        match args {
            [] => Some(Bytes::new()),
            [one] | [one, _] => match self.pickle.node(*one) {
                Node::Bytes(bytes) | Node::ByteArray(bytes) => Some(bytes.clone()),
                Node::Str(_) => self.latin1(*one),
                // Bytes of a protocol that has none are encoded text.
                Node::Object(inner) if self.pickle.global(inner.callable) == Some(("_codecs", "encode")) => {
                    let args = self.pickle.items(inner.args)?;
                    args.first().and_then(|&text| self.latin1(text))
                }
                _ => None,
            },
            _ => None,
        }
    }

    fn device(&self, args: &[Id]) -> Option<String> {
        let kind = args.first().and_then(|&kind| self.pickle.text(kind)).filter(|kind| kind.len() < 64)?;
        match args {
            [_] => Some(kind.to_owned()),
            [_, index] => Some(format!("{kind}:{}", self.pickle.int(*index)?)),
            _ => None,
        }
    }

    /// The bytes of text whose characters stand for them.
    fn latin1(&mut self, text: Id) -> Option<Bytes> {
        let text = self.pickle.text(text)?;
        let bytes = self.charge(text.len()).then(|| text.chars().map(|c| u8::try_from(u32::from(c)).ok()));
        bytes?.collect::<Option<Vec<u8>>>().map(Bytes::from)
    }

    fn number(&self, id: Id) -> Option<f64> {
        match self.pickle.node(id) {
            Node::Float(x) => Some(*x),
            Node::Int(n) => Some(*n as f64),
            _ => None,
        }
    }

    /// What an object would be made from. Empty parts are left out.
    fn parts(&mut self, object: &Object) -> Vec<(&'static str, ItemId)> {
        let mut parts = Vec::new();
        if self.pickle.items(object.args).is_none_or(|args| !args.is_empty()) {
            parts.push(("args", item_id(object.args)));
        }
        parts.extend(object.kwargs.map(|id| ("kwargs", item_id(id))));
        parts.extend(object.state.map(|id| ("", item_id(id))));
        if !object.items.is_empty() {
            let items = Item::List(item_ids(&object.items));
            parts.push(("items", self.extra(items)));
        }
        if !object.pairs.is_empty() {
            let pairs = Item::Dict { pairs: self.pairs(object.pairs.iter().copied()), attributes: None };
            parts.push(("entries", self.extra(pairs)));
        }
        parts
    }

    fn extra(&mut self, item: Item) -> ItemId {
        let index = self.pickle.len() + self.more.len();
        self.more.push(item);
        ItemId(u32::try_from(index).unwrap_or(u32::MAX))
    }

    /// The tensor that a value stands for, by its position; made once.
    fn tensor(&mut self, id: Id, depth: usize) -> Result<usize, TensorFault> {
        if let Some(made) = self.made.get(&id) {
            return made.clone();
        }
        if depth > MAX_NESTING {
            return Err(wrong("tensors are wrapped in each other too often"));
        }
        let made = self.make(id, depth);
        self.made.insert(id, made.clone());
        made
    }

    fn make(&mut self, id: Id, depth: usize) -> Result<usize, TensorFault> {
        let pickle = self.pickle;
        let tensor = match pickle.node(id) {
            Node::Persistent(inner) => match (self.resolve)(pickle, *inner)? {
                Resolved::Tensor(tensor) => tensor,
                Resolved::Storage { storage, element, numel, offset } => {
                    CheckpointTensor::strided(element, vec![numel], vec![1], offset, storage)?
                }
                Resolved::Name(name) => return Err(wrong(format!("`{name:.80}` is no tensor"))),
            },
            Node::Object(object) => {
                let args = pickle.items(object.args).ok_or_else(|| wrong("its arguments are no tuple"))?;
                let function =
                    pickle.global(object.callable).filter(|(module, name)| makes_tensor(module, name));
                let function = function.ok_or_else(|| wrong("what would make it is no function of torch"))?;
                match self.call(function, args, depth)? {
                    Made::New(tensor) => tensor,
                    Made::Old(index) => return Ok(index),
                }
            }
            other => return Err(wrong(format!("{} stands where a tensor should", other.kind()))),
        };
        if !self.charge(TENSOR + 64 * tensor.shape.len()) {
            return Err(wrong("tensors take too much memory"));
        }
        self.tensors.push(tensor);
        Ok(self.tensors.len() - 1)
    }

    /// What a function of torch would make.
    fn call(&mut self, function: (&str, &str), args: &[Id], depth: usize) -> Result<Made, TensorFault> {
        let arg = |i: usize| args.get(i).copied().ok_or_else(|| wrong(format!("argument {i} is missing")));
        if depth > MAX_NESTING {
            return Err(wrong("tensors are wrapped in each other too often"));
        }
        Ok(match function.1 {
            "_rebuild_tensor" => Made::New(self.strided(args, None)?),
            "_rebuild_tensor_v2" => {
                let tensor = self.strided(args, None)?;
                Made::New(self.marked(tensor, args.get(6))?)
            }
            "_rebuild_tensor_v3" => {
                let element = self.dtype(arg(6)?)?;
                let tensor = self.strided(args, Some(element))?;
                Made::New(self.marked(tensor, args.get(7))?)
            }
            "_rebuild_qtensor" => Made::New(self.quantized(args, depth)?),
            "_rebuild_parameter" | "_rebuild_parameter_with_state" | "Parameter" => {
                Made::Old(self.tensor(arg(0)?, depth + 1)?)
            }
            "_rebuild_device_tensor_from_cpu_tensor" => {
                let index = self.tensor(arg(0)?, depth + 1)?;
                let element = self.dtype(arg(1)?)?;
                match self.tensors.get(index) {
                    Some(tensor) if tensor.element == element => Made::Old(index),
                    _ => return Err(wrong("its data is of another type")),
                }
            }
            "_rebuild_from_type_v2" => {
                let inner = self.pickle.global(arg(0)?).filter(|(module, name)| makes_tensor(module, name));
                let inner = inner.ok_or_else(|| wrong("what makes its data is no function of torch"))?;
                let args = self.pickle.items(arg(2)?).ok_or_else(|| wrong("its arguments are no tuple"))?;
                self.call(inner, args, depth + 1)?
            }
            "_rebuild_sparse_tensor" => Made::New(self.sparse(args, depth)?),
            other => return Err(wrong(format!("`{other:.80}` makes no tensor"))),
        })
    }

    /// A type of elements.
    fn dtype(&self, id: Id) -> Result<Element, TensorFault> {
        let name = self.pickle.global(id).filter(|(module, _)| *module == "torch").map(|(_, name)| name);
        let name = name.ok_or_else(|| wrong("its type is no dtype of torch"))?;
        Element::of_torch(name).ok_or_else(|| wrong(format!("torch.{name:.80} is no type that is known")))
    }

    fn size(&self, id: Id, what: &str) -> Result<usize, TensorFault> {
        let n = self.pickle.int(id).and_then(|n| usize::try_from(n).ok());
        n.ok_or_else(|| wrong(format!("its {what} is no size")))
    }

    fn sizes(&self, id: Id, what: &str) -> Result<Vec<usize>, TensorFault> {
        let inner = match self.pickle.node(id) {
            Node::Object(object) if self.pickle.global(object.callable) == Some(("torch", "Size")) => {
                self.pickle.items(object.args).and_then(|args| args.first().copied())
            }
            _ => Some(id),
        };
        let items = inner.and_then(|id| self.pickle.items(id));
        let items = items.ok_or_else(|| wrong(format!("its {what} is no tuple")))?;
        if items.len() > super::tensor::MAX_RANK {
            return Err(TensorFault::Rank(items.len()));
        }
        items.iter().map(|&item| self.size(item, what)).collect()
    }

    /// Storage, offset, size and stride; `element` is that of the tensor where it is not that of the storage.
    fn strided(&mut self, args: &[Id], element: Option<Element>) -> Result<CheckpointTensor, TensorFault> {
        let &[storage, offset, size, stride, ..] = args else { return Err(wrong("it lacks arguments")) };
        let Node::Persistent(storage) = self.pickle.node(storage) else {
            return Err(wrong("its storage is none"));
        };
        let Resolved::Storage { storage, element: stored, numel, offset: start } =
            (self.resolve)(self.pickle, *storage)?
        else {
            return Err(wrong("its storage is none"));
        };
        let element = element.unwrap_or(stored);
        let offset = self.size(offset, "offset")?;
        let shape = self.sizes(size, "shape")?;
        let strides = self.sizes(stride, "stride")?;
        let begin = offset.checked_add(start).ok_or_else(|| wrong("its offset is too large"))?;
        let tensor = CheckpointTensor::strided(element, shape, strides, begin, storage)?;
        // Storages may be views of others, and files hold more bytes than a storage states.
        let (ends, stated) = (last_byte(&tensor), stored.storage_bytes(start.saturating_add(numel)));
        match stated {
            Some(stated) if ends <= stated => Ok(tensor),
            _ => {
                let storage = tensor.view().map(|v| v.storage.name.clone()).unwrap_or_default();
                Err(TensorFault::Outside { end: ends, storage, length: stated.unwrap_or(0) })
            }
        }
    }

    /// Marks a tensor as conjugate or negative where its metadata says so.
    fn marked(
        &self,
        mut tensor: CheckpointTensor,
        metadata: Option<&Id>,
    ) -> Result<CheckpointTensor, TensorFault> {
        let pairs = match metadata.map(|&id| self.pickle.node(id)) {
            None | Some(Node::None) => return Ok(tensor),
            Some(Node::Dict(pairs)) => pairs,
            Some(other) => return Err(wrong(format!("its metadata is {}", other.kind()))),
        };
        if pairs.len() > 64 {
            return Err(wrong("its metadata has too many entries"));
        }
        let flag = |name| {
            let value = pairs.iter().rev().find(|(key, _)| self.pickle.text(*key) == Some(name));
            value.is_some_and(|(_, value)| self.pickle.node(*value) == &Node::Bool(true))
        };
        let (conjugate, negative) = (flag("conj"), flag("neg"));
        let is = |element: Element, class: &[kiln_ir::DClass]| {
            element.dtype().is_some_and(|dtype| class.contains(&dtype.class()))
        };
        use kiln_ir::DClass::{Complex, Float};
        if (conjugate && !is(tensor.element, &[Complex]))
            || (negative && !is(tensor.element, &[Complex, Float]))
        {
            return Err(wrong(format!(
                "elements of type {} have no conjugate or negative view",
                tensor.element
            )));
        }
        if let Body::Strided(view) = &mut tensor.body {
            (view.conjugate, view.negative) = (conjugate, negative);
        }
        Ok(tensor)
    }

    fn quantized(&mut self, args: &[Id], depth: usize) -> Result<CheckpointTensor, TensorFault> {
        let mut tensor = self.strided(args, None)?;
        let parameters = args.get(4).and_then(|&id| self.pickle.items(id)).unwrap_or(&[]);
        let scheme = parameters.first().and_then(|&id| self.pickle.global(id));
        let scheme = scheme.filter(|(module, _)| *module == "torch").map_or("", |(_, name)| name);
        tensor.quantization = Some(match (scheme, parameters) {
            ("per_tensor_affine" | "per_tensor_symmetric", &[_, scale, zero_point]) => {
                let (scale, zero_point) = (self.number(scale), self.pickle.int(zero_point));
                let (scale, zero_point) =
                    scale.zip(zero_point).ok_or_else(|| wrong("its scale or zero point is no number"))?;
                Quantization::PerTensor { scale, zero_point }
            }
            (
                "per_channel_affine" | "per_channel_symmetric" | "per_channel_affine_float_qparams",
                &[_, scales, zero_points, axis],
            ) => {
                let axis = self.size(axis, "axis")?;
                let channels = tensor.shape.get(axis).copied();
                let channels = channels.ok_or_else(|| wrong("its axis is none of its shape"))?;
                let scales = Box::new(self.channels(scales, channels, depth)?);
                let zero_points = Box::new(self.channels(zero_points, channels, depth)?);
                Quantization::PerChannel { scales, zero_points, axis }
            }
            _ => return Err(wrong(format!("`{scheme:.80}` is no way of quantization that is known"))),
        });
        Ok(tensor)
    }

    /// A number for each channel: a tensor, or a list in old files.
    fn channels(&mut self, id: Id, count: usize, depth: usize) -> Result<CheckpointTensor, TensorFault> {
        let tensor = match self.pickle.node(id) {
            Node::List(items) | Node::Tuple(items) => {
                if items.len() != count || !self.charge(64 * items.len()) {
                    return Err(wrong(format!("it has {count} channels, and a list of {}", items.len())));
                }
                let integers: Option<Vec<i64>> = items.iter().map(|&i| self.pickle.int(i)).collect();
                let floats = || items.iter().map(|&i| self.number(i)).collect::<Option<Vec<f64>>>();
                let (dtype, bytes) = match integers {
                    Some(all) => (DType::I64, all.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>()),
                    None => {
                        let all = floats().ok_or_else(|| wrong("its scales are no numbers"))?;
                        (DType::F64, all.iter().flat_map(|x| x.to_le_bytes()).collect())
                    }
                };
                let storage = Storage { name: "list".into(), bytes: bytes.into(), order: ByteOrder::Little };
                CheckpointTensor::dense(Element::Plain(dtype), vec![items.len()], Arc::new(storage))?
            }
            _ => {
                let index = self.tensor(id, depth + 1)?;
                self.tensors.get(index).cloned().ok_or_else(|| wrong("its scales are no tensor"))?
            }
        };
        match tensor.shape.as_slice() {
            [n] if *n == count => Ok(tensor),
            other => {
                Err(wrong(format!("it has {count} channels, and scales or zero points of shape {other:?}")))
            }
        }
    }

    fn sparse(&mut self, args: &[Id], depth: usize) -> Result<CheckpointTensor, TensorFault> {
        let &[layout, data] = args else { return Err(wrong("it lacks arguments")) };
        let layout = match self.pickle.node(layout) {
            Node::Object(object) => {
                let args = self.pickle.items(object.args).unwrap_or(&[]);
                args.first().and_then(|&a| self.pickle.text(a)).unwrap_or("")
            }
            Node::Global(global) => global.name.as_str(),
            _ => "",
        };
        let layout = layout.strip_prefix("torch.").unwrap_or(layout);
        let data = self.pickle.items(data).ok_or_else(|| wrong("its data is no tuple"))?;
        let mut part = |id: Id| {
            let index = self.tensor(id, depth + 1)?;
            let tensor =
                self.tensors.get(index).cloned().ok_or_else(|| wrong("a part of it is no tensor"))?;
            match tensor.body {
                Body::Strided(_) => Ok(tensor),
                Body::Sparse(_) => Err(wrong("a part of it is sparse itself")),
            }
        };
        let (sparse, shape) = match (layout, data) {
            ("sparse_coo", &[indices, values, shape, ..]) => {
                (Sparse::Coo { indices: part(indices)?, values: part(values)? }, shape)
            }
            ("sparse_csr" | "sparse_csc" | "sparse_bsr" | "sparse_bsc", &[starts, plain, values, shape]) => {
                let (starts, plain, values) = (part(starts)?, part(plain)?, part(values)?);
                let rows = matches!(layout, "sparse_csr" | "sparse_bsr");
                (Sparse::Compressed { rows, starts, plain, values }, shape)
            }
            _ => return Err(wrong(format!("`{layout:.80}` is no sparse layout that is known"))),
        };
        let shape = self.sizes(shape, "shape")?;
        super::tensor::count(&shape)?;
        let element = match &sparse {
            Sparse::Coo { values, .. } | Sparse::Compressed { values, .. } => values.element,
        };
        self.charge(4 * TENSOR);
        Ok(CheckpointTensor { element, shape, body: Body::Sparse(Box::new(sparse)), quantization: None })
    }
}

/// A tensor that a call makes, or one that it passes on.
enum Made {
    New(CheckpointTensor),
    Old(usize),
}

fn makes_tensor(module: &str, name: &str) -> bool {
    match module {
        "torch._utils" => matches!(
            name,
            "_rebuild_tensor"
                | "_rebuild_tensor_v2"
                | "_rebuild_tensor_v3"
                | "_rebuild_qtensor"
                | "_rebuild_parameter"
                | "_rebuild_parameter_with_state"
                | "_rebuild_sparse_tensor"
                | "_rebuild_device_tensor_from_cpu_tensor"
        ),
        "torch._tensor" => name == "_rebuild_from_type_v2",
        "torch.nn.parameter" => name == "Parameter",
        _ => false,
    }
}

/// Where the elements of a view end in their storage.
fn last_byte(tensor: &CheckpointTensor) -> usize {
    let (Some(view), true) = (tensor.view(), tensor.numel() > 0) else { return 0 };
    match tensor.element.size() {
        None => tensor.byte_len(),
        Some(size) => {
            let steps = tensor.shape.iter().zip(&view.strides);
            let last = steps.fold(view.offset, |at, (&dim, &stride)| {
                at.saturating_add(dim.saturating_sub(1).saturating_mul(stride))
            });
            last.saturating_add(1).saturating_mul(size)
        }
    }
}

fn opaque(name: String, fault: Option<TensorFault>, parts: Vec<(&'static str, ItemId)>) -> Item {
    Item::Opaque(Box::new(Opaque { name, fault, parts }))
}

/// A large integer in hexadecimal digits; two's complement, lowest byte first.
fn hexadecimal(bytes: &[u8]) -> String {
    let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
    let mut magnitude = bytes.to_vec();
    if negative {
        let mut carry = true;
        for byte in &mut magnitude {
            (*byte, carry) = (!*byte).overflowing_add(u8::from(carry));
        }
    }
    let mut out = String::from(if negative { "-0x" } else { "0x" });
    let significant = magnitude.iter().rev().skip_while(|b| **b == 0);
    for (i, byte) in significant.enumerate() {
        let digits = if i == 0 { format!("{byte:x}") } else { format!("{byte:02x}") };
        out.push_str(&digits);
    }
    out
}
