//! Operators on tensors, through ATen's table; views and changes in place.
//!
//! A tensor of the program is a cell that may be a view of another. A change of a view is written into its base, and other
//! views of the base are taken again when they are next read. Graphs have neither: what a change makes is a new value.

use std::rc::Rc;

use kiln_ir::op::Dynamic;
use kiln_ir::{Build, DType, Dim, Tensor};

use super::fault::{Fault, Res};
use super::machine::Machine;
use super::ops::Kwargs;
use super::value::{Cell, Kind, Ref, State, TensorCell, Traced, Val, View, int_of};
use crate::aten::{Arg, Write, scalar_type};

/// Operators whose results are views of their first operand.
const VIEWS: &[&str] = &[
    "_reshape_alias",
    "_unsafe_view",
    "adjoint",
    "alias",
    "as_strided",
    "atleast_1d",
    "atleast_2d",
    "atleast_3d",
    "broadcast_to",
    "chunk",
    "detach",
    "diagonal",
    "dsplit",
    "expand",
    "expand_as",
    "flatten",
    "hsplit",
    "imag",
    "mH",
    "mT",
    "matrix_H",
    "moveaxis",
    "movedim",
    "narrow",
    "numpy_T",
    "permute",
    "ravel",
    "reshape",
    "reshape_as",
    "select",
    "slice",
    "split",
    "split_with_sizes",
    "squeeze",
    "swapaxes",
    "swapdims",
    "t",
    "tensor_split",
    "transpose",
    "unbind",
    "unflatten",
    "unfold",
    "unsafe_chunk",
    "unsafe_split",
    "unsafe_split_with_sizes",
    "unsqueeze",
    "view",
    "view_as",
    "view_as_complex",
    "view_as_real",
    "vsplit",
];

/// Views of their operand where it lies densely, and copies of it otherwise.
const COPIES: &[&str] = &["contiguous", "flatten", "ravel", "reshape", "reshape_as"];

/// Operators that give their operand itself where there is nothing to do.
const SAME: &[&str] =
    &["conj", "lift", "lift_fresh", "positive", "real", "resolve_conj", "resolve_neg", "to", "type_as"];

/// Operators whose results may be views of the tensors in their lists.
const OF_LISTS: &[&str] =
    &["align_tensors", "atleast_1d", "atleast_2d", "atleast_3d", "broadcast_tensors", "meshgrid"];

/// Operators whose results lie densely.
const PLAIN: &[&str] = &[
    "arange",
    "empty",
    "eye",
    "full",
    "linspace",
    "new_empty",
    "new_full",
    "new_ones",
    "new_zeros",
    "ones",
    "rand",
    "randn",
    "zeros",
];

/// Views of a dense tensor that lie densely.
const KEEP_PLAIN: &[&str] = &[
    "_reshape_alias",
    "alias",
    "contiguous",
    "detach",
    "flatten",
    "ravel",
    "reshape",
    "reshape_as",
    "squeeze",
    "unflatten",
    "unsqueeze",
    "view",
    "view_as",
];

/// Changes in place of the shape.
const RESHAPES: &[&str] =
    &["resize_", "resize_as_", "squeeze_", "swapaxes_", "swapdims_", "t_", "transpose_", "unsqueeze_"];

/// Why a tensor is not read.
fn is_lost() -> Fault {
    Fault::unsupported("a tensor that may share elements with one that was changed in place")
}

/// Operators that give lists of tensors, however many.
const LISTS: &[&str] = &[
    "align_tensors",
    "broadcast_tensors",
    "chunk",
    "dsplit",
    "hsplit",
    "meshgrid",
    "nonzero_numpy",
    "split",
    "split_with_sizes",
    "tensor_split",
    "unbind",
    "unsafe_chunk",
    "unsafe_split",
    "unsafe_split_with_sizes",
    "vsplit",
];

/// Nesting of views.
const MAX_VIEWS: usize = 64;

impl Machine<'_> {
    /// The value of a tensor; of a view whose base has changed, what it shows now.
    pub fn read_tensor(&mut self, st: &mut State, r: Ref) -> Res<Traced> {
        self.read_view(st, r, 0)
    }

    fn read_view(&mut self, st: &mut State, r: Ref, depth: usize) -> Res<Traced> {
        let cell = self.tensor_cell(st, r)?;
        let (value, seen) = (cell.value.clone(), cell.seen);
        if cell.lost {
            return Err(is_lost());
        }
        let Some(view) = cell.view.clone() else { return Ok(value) };
        if depth >= MAX_VIEWS {
            return Err(Fault::Limit { what: "nesting of views".to_owned(), limit: MAX_VIEWS });
        }
        let base = self.read_view(st, view.base, depth + 1)?;
        let version = self.tensor_cell(st, view.base)?.version;
        if seen == version {
            return Ok(value);
        }
        if !view.sure {
            return Err(is_lost());
        }
        let mut args = vec![Arg::Tensor(self.g.value(&base)?)];
        for v in view.args.get(1..).unwrap_or(&[]) {
            args.push(self.arg(st, v, 0)?);
        }
        let mut kwargs = vec![];
        for (name, v) in &view.kwargs {
            kwargs.push((name.to_string(), self.arg(st, v, 0)?));
        }
        let name = format!("aten::{}", view.op);
        let outcome = self.g.call(&name, args, kwargs)?;
        let value = match flat(outcome.results).into_iter().nth(view.result) {
            Some(Arg::Tensor(v)) => self.g.node(v),
            _ => return Err(Fault::invalid("a view cannot be taken again")),
        };
        if let Some(Cell::Tensor(cell)) = st.cell_mut(r) {
            cell.value = value.clone();
            cell.seen = version;
            cell.version = cell.version.wrapping_add(1);
        }
        Ok(value)
    }

    fn tensor_cell<'s>(&self, st: &'s State, r: Ref) -> Res<&'s TensorCell> {
        match st.cell(r) {
            Some(Cell::Tensor(cell)) => Ok(cell),
            _ => Err(Fault::invalid("there is no such tensor")),
        }
    }

    /// Replaces the value of a tensor, and what it is a view of.
    pub fn write_tensor(&mut self, st: &mut State, r: Ref, new: Traced) -> Res<()> {
        let cell = self.tensor_cell(st, r)?;
        if cell.shared {
            return Err(Fault::unsupported("a change in place of a tensor that may be one of several"));
        }
        let view = cell.view.clone();
        let mut seen = cell.seen;
        if let Some(view) = view.as_ref().filter(|v| !v.sure) {
            self.lose(st, view.base)?;
            st.change_tensor(r, |cell| cell.view = None);
        } else if let Some(view) = view {
            let base = self.read_tensor(st, view.base)?;
            let changed = self.written_back(st, &view, &base, &new)?;
            self.write_tensor(st, view.base, changed)?;
            seen = self.tensor_cell(st, view.base)?.version;
        }
        if let Some(Cell::Tensor(cell)) = st.cell_mut(r) {
            cell.value = new;
            cell.seen = seen;
            cell.version = cell.version.wrapping_add(1);
        }
        Ok(())
    }

    /// A tensor and what it is a view of may have been changed through another: they are not read again.
    fn lose(&mut self, st: &mut State, r: Ref) -> Res<()> {
        if self.growing > 0 {
            return Err(Fault::unsupported("a change in place of what may be a view, in a loop of run time"));
        }
        for r in self.chain(st, r) {
            st.change_tensor(r, |cell| cell.lost = true);
        }
        Ok(())
    }

    /// A tensor, and what it is a view of.
    fn chain(&self, st: &State, r: Ref) -> Vec<Ref> {
        let base = |r: &Ref| self.tensor_cell(st, *r).ok()?.view.as_ref().map(|v| v.base);
        std::iter::successors(Some(r), base).take(MAX_VIEWS + 1).collect()
    }

    /// Other names of a tensor, or values taken of it, are not known from here on.
    pub fn share(&self, st: &mut State, r: Ref) {
        for r in self.chain(st, r) {
            st.change_tensor(r, |cell| cell.shared = true);
        }
    }

    /// Whether a tensor is known to lie densely.
    fn is_plain(&self, st: &State, r: Ref) -> bool {
        let chain = self.chain(st, r);
        let mut cells = chain.iter().map(|r| self.tensor_cell(st, *r));
        cells.all(|cell| match cell.map(|c| (c.plain, c.view.as_ref())) {
            Ok((plain, None)) => plain,
            Ok((_, Some(view))) => KEEP_PLAIN.contains(&&*view.op),
            Err(_) => false,
        })
    }

    /// A value as an operand of ATen's table.
    pub fn arg(&mut self, st: &mut State, v: &Val, depth: usize) -> Res<Arg> {
        Ok(match v {
            Val::None => Arg::None,
            Val::Bool(b) => Arg::Bool(*b),
            Val::Int(n) => Arg::int(*n),
            Val::Float(x) => Arg::Float(*x),
            Val::Dim(dim) => Arg::Int(dim.clone()),
            Val::Str(s) => Arg::Str(s.to_string()),
            Val::Num(Kind::Text, _) => return Err(Fault::unsupported("text of run time as an operand")),
            Val::Num(_, t) => Arg::Scalar(self.g.value(t)?),
            Val::Tensor(r) => {
                let t = self.read_tensor(st, *r)?;
                Arg::Tensor(self.g.value(&t)?)
            }
            Val::List(_) | Val::Tuple(..) if depth < 4 => {
                let items = st.items(v);
                let items = items.ok_or_else(|| Fault::unsupported("a list of run time as an operand"))?;
                Arg::List(items.iter().map(|v| self.arg(st, v, depth + 1)).collect::<Res<Vec<Arg>>>()?)
            }
            Val::Device(_) => Arg::Ignored,
            other => return Err(Fault::unsupported(format!("{} as an operand", other.kind()))),
        })
    }

    /// A result of ATen's table as a value.
    pub fn result(&mut self, st: &mut State, arg: Arg) -> Res<Val> {
        Ok(match arg {
            Arg::None => Val::None,
            Arg::Tensor(v) => {
                let t = self.g.node(v);
                st.tensor(t)
            }
            Arg::Int(dim) => int_of(dim),
            Arg::Float(x) => Val::Float(x),
            Arg::Bool(b) => Val::Bool(b),
            Arg::Scalar(v) => {
                let t = self.g.node(v);
                let kind = match self.dtype(&t)? {
                    DType::Bool => Kind::Bool,
                    d if d.is_float() => Kind::Float,
                    _ => Kind::Int,
                };
                let cast = self.g.try_build(|b| b.cast(v, kind.dtype()))?;
                let t = self.g.node(cast);
                self.number_of(kind, t)
            }
            Arg::Str(s) => Val::text(s),
            Arg::DType(d) => Val::Int(super::ops::scalar_code(d).unwrap_or(-1)),
            Arg::Ignored => Val::Device("cpu".into()),
            Arg::List(items) => {
                let items = items.into_iter().map(|a| self.result(st, a)).collect::<Res<Vec<Val>>>()?;
                st.list(items)
            }
        })
    }

    /// An operator of ATen's table.
    pub fn tensor_op(
        &mut self,
        st: &mut State,
        ns: &str,
        name: &str,
        args: Vec<Val>,
        kwargs: Kwargs,
    ) -> Res<Val> {
        if matches!(name, "tensor" | "as_tensor")
            && let Some(first) = args.first()
            && !matches!(first, Val::Tensor(_))
        {
            return self.new_tensor(st, first.clone(), &args, &kwargs);
        }
        if let Some(Val::Tensor(r)) = args.first()
            && matches!(name, "set_data" | "set_")
            && let Some(Val::Tensor(from)) = args.get(1)
        {
            let t = self.read_tensor(st, *from)?;
            self.write_tensor(st, *r, t)?;
            self.share(st, *r);
            self.share(st, *from);
            return Ok(Val::Tensor(*r));
        }
        if name == "slice"
            && let (Some(Val::Tensor(r)), Some(step @ Val::Num(Kind::Int, _))) = (args.first(), args.get(4))
        {
            return self.strided_slice(st, *r, &args, step);
        }
        if RESHAPES.contains(&name)
            && let Some(Val::Tensor(r)) = args.first()
        {
            self.check_single(st, *r)?;
        }
        if matches!(name, "as_strided" | "as_strided_copy")
            && let Some(Val::Tensor(r)) = args.first()
            && !self.is_plain(st, *r)
        {
            return Err(Fault::unsupported("places in the memory of a tensor that may not lie densely"));
        }
        let ns = if ns == "builtin" { "prim" } else { ns };
        let full = format!("{ns}::{name}");
        let mut operands = vec![];
        for v in &args {
            operands.push(self.arg(st, v, 0)?);
        }
        let mut named_operands = vec![];
        for (name, v) in &kwargs {
            named_operands.push((name.to_string(), self.arg(st, v, 0)?));
        }
        if let Some(results) = self.folded(name, &full, &operands, &named_operands)? {
            return self.results(st, name, args, kwargs, results);
        }
        let outcome = self.g.call(&full, operands, named_operands)?;
        match outcome.writes {
            Some(Write::Operand(i)) => self.replaced(st, args.get(i), outcome.results),
            Some(Write::Shape) => self.replaced(st, args.first(), outcome.results),
            Some(Write::Out) => {
                let out = named(&kwargs, "out").cloned();
                self.replaced(st, out.as_ref(), outcome.results)
            }
            None => self.results(st, name, args, kwargs, outcome.results),
        }
    }

    /// A slice whose step shows at run time.
    fn strided_slice(&mut self, st: &mut State, r: Ref, args: &[Val], step: &Val) -> Res<Val> {
        let bound = |v: Option<&Val>, default: i64| match v {
            None | Some(Val::None) => Val::Int(default),
            Some(v) => v.clone(),
        };
        let axis = bound(args.get(1), 0);
        let wanted = [bound(args.get(2), 0), bound(args.get(3), i64::MAX), axis, step.clone()];
        let x = self.read_tensor(st, r)?;
        let mut operands = vec![self.g.value(&x)?];
        for v in &wanted {
            let t = self.traced(v)?.1;
            let v = self.g.value(&t)?;
            operands.push(self.g.try_build(|b| b.reshape(v, &[Dim::known(1)]))?);
        }
        let found = self.g.add(Dynamic::Slice {}, &operands)?;
        self.share(st, r);
        Ok(st.shared_tensor(found))
    }

    /// Fails where a tensor is a view, or has views: its shape must not change.
    fn check_single(&mut self, st: &State, r: Ref) -> Res<()> {
        self.tick(st.heap.len() / 4)?;
        let mut views = st.heap.iter().filter_map(|cell| match &**cell {
            Cell::Tensor(t) => t.view.as_ref(),
            _ => None,
        });
        if self.tensor_cell(st, r)?.view.is_some() || views.any(|v| v.base == r) {
            return Err(Fault::unsupported("a change in place of the shape of a tensor with views"));
        }
        Ok(())
    }

    /// A change in place: results replace operands.
    fn replaced(&mut self, st: &mut State, target: Option<&Val>, results: Vec<Arg>) -> Res<Val> {
        let targets = match target {
            Some(Val::Tensor(_)) => target.cloned().into_iter().collect(),
            Some(v) => st.items(v).unwrap_or_default(),
            None => vec![],
        };
        for (target, result) in targets.iter().zip(results) {
            let (Val::Tensor(r), Arg::Tensor(v)) = (target, result) else {
                return Err(Fault::unsupported("a change in place of what is no tensor"));
            };
            let t = self.g.node(v);
            self.write_tensor(st, *r, t)?;
        }
        Ok(match (target, targets.len()) {
            (Some(Val::Tensor(r)), _) => Val::Tensor(*r),
            _ => Val::tuple(targets),
        })
    }

    fn results(
        &mut self,
        st: &mut State,
        name: &str,
        args: Vec<Val>,
        kwargs: Kwargs,
        results: Vec<Arg>,
    ) -> Res<Val> {
        let is_list = LISTS.contains(&name);
        let results = if is_list { flat(results) } else { results };
        if let (Some(Val::Tensor(base)), [Arg::Tensor(v)]) = (args.first(), results.as_slice())
            && SAME.contains(&name)
            && !is_copy(&args, &kwargs)
        {
            let own = self.read_tensor(st, *base)?;
            if self.g.value(&own)? == *v {
                return Ok(Val::Tensor(*base));
            }
        }
        let mut values = vec![];
        for result in results {
            values.push(self.result(st, result)?);
        }
        if OF_LISTS.contains(&name) && !matches!(args.first(), Some(Val::Tensor(_))) {
            let sources = args.first().and_then(|v| st.items(v)).unwrap_or_default();
            for v in values.iter().chain(&sources) {
                if let Val::Tensor(r) = v {
                    self.share(st, *r);
                }
            }
        } else if let Some(Val::Tensor(base)) = args.first()
            && (VIEWS.contains(&name) || COPIES.contains(&name))
        {
            self.make_views(st, name, *base, &args, &kwargs, &values)?;
        } else if PLAIN.contains(&name) {
            for v in &values {
                if let Val::Tensor(r) = v {
                    st.change_tensor(*r, |cell| cell.plain = true);
                }
            }
        } else if name == "clone"
            && let (Some(Val::Tensor(base)), [Val::Tensor(r)]) = (args.first(), values.as_slice())
        {
            let plain = self.is_plain(st, *base);
            st.change_tensor(*r, |cell| cell.plain = plain);
        }
        if is_list {
            return Ok(st.list(values));
        }
        Ok(match <[Val; 1]>::try_from(values) {
            Ok([one]) => one,
            Err(none) if none.is_empty() => Val::None,
            Err(many) => Val::tuple(many),
        })
    }

    /// Makes results views of a tensor.
    fn make_views(
        &mut self,
        st: &mut State,
        name: &str,
        base: Ref,
        args: &[Val],
        kwargs: &Kwargs,
        values: &[Val],
    ) -> Res<()> {
        // What is changed later must not change what the view shows.
        let args: Vec<Val> = args.iter().map(|v| frozen(st, v, 0)).collect();
        let kwargs: Kwargs = kwargs.iter().map(|(n, v)| (n.clone(), frozen(st, v, 0))).collect();
        let sure = !COPIES.contains(&name) || self.is_plain(st, base);
        let cell = self.tensor_cell(st, base)?;
        let (seen, shared) = (cell.version, cell.shared);
        for (result, v) in values.iter().enumerate() {
            if let Val::Tensor(r) = v {
                let (args, kwargs) = (args.clone(), kwargs.clone());
                let view = Rc::new(View { base, op: name.into(), args, kwargs, result, sure });
                st.change_tensor(*r, |cell| {
                    (cell.view, cell.seen, cell.shared) = (Some(view), seen, shared);
                });
            }
        }
        Ok(())
    }

    /// `torch.tensor(data)` of numbers and lists of them.
    fn new_tensor(&mut self, st: &mut State, data: Val, args: &[Val], kwargs: &Kwargs) -> Res<Val> {
        let dtype = named(kwargs, "dtype").or_else(|| args.get(1)).cloned().unwrap_or(Val::None);
        let mut leaves = vec![];
        let mut dims = vec![];
        self.leaves(st, &data, 0, &mut dims, &mut leaves)?;
        let float = leaves.iter().any(|v| matches!(v, Val::Float(_) | Val::Num(Kind::Float, _)));
        let bools =
            !leaves.is_empty() && leaves.iter().all(|v| matches!(v, Val::Bool(_) | Val::Num(Kind::Bool, _)));
        let dtype = match dtype {
            Val::Int(code) => scalar_type(code).ok_or_else(|| Fault::unsupported(format!("dtype {code}")))?,
            _ if float || leaves.is_empty() => DType::F32,
            _ if bools => DType::Bool,
            _ => DType::I64,
        };
        let shape: Vec<Dim> =
            dims.iter().map(|&d| Dim::known(i64::try_from(d).unwrap_or(i64::MAX))).collect();
        let scalars: Option<Vec<kiln_ir::Scalar>> = leaves.iter().map(scalar).collect();
        let value = match scalars {
            Some(scalars) => {
                let converted = scalars.into_iter().map(|s| convert(s, dtype)).collect::<Vec<_>>();
                let t = Tensor::from_scalars(dtype, &dims, &converted)?;
                Traced::Constant(t)
            }
            None => {
                let mut parts = vec![];
                for leaf in &leaves {
                    let t = self.traced(leaf)?.1;
                    let v = self.g.value(&t)?;
                    parts.push(self.g.try_build(|b| {
                        let v = b.cast(v, dtype)?;
                        b.reshape(v, &[Dim::known(1)])
                    })?);
                }
                let v = self.g.try_build(|b| {
                    let flat = b.concat(&parts, 0)?;
                    b.reshape(flat, &shape)
                })?;
                self.g.node(v)
            }
        };
        Ok(st.plain_tensor(value))
    }

    /// The numbers of nested lists, and their shape.
    fn leaves(
        &mut self,
        st: &State,
        v: &Val,
        depth: usize,
        dims: &mut Vec<usize>,
        out: &mut Vec<Val>,
    ) -> Res<()> {
        let Some(items) = st.items(v) else {
            out.push(v.clone());
            return if dims.len() == depth {
                Ok(())
            } else {
                Err(Fault::invalid("a list of numbers is ragged"))
            };
        };
        self.tick(items.len())?;
        if depth > 8 || out.len() > 1 << 16 {
            return Err(Fault::Limit { what: "size of a list of numbers".to_owned(), limit: 1 << 16 });
        }
        match dims.get(depth) {
            None if dims.len() == depth && (out.is_empty() || depth == 0) => dims.push(items.len()),
            Some(&d) if d == items.len() => {}
            _ => return Err(Fault::invalid("a list of numbers is ragged")),
        }
        for item in &items {
            self.leaves(st, item, depth + 1, dims, out)?;
        }
        Ok(())
    }
}

/// Results with lists in them spread out.
fn flat(results: Vec<Arg>) -> Vec<Arg> {
    let mut out = vec![];
    for result in results {
        match result {
            Arg::List(items) => out.extend(items),
            other => out.push(other),
        }
    }
    out
}

/// Whether `to` is asked for a copy: the second of its bools says so.
fn is_copy(args: &[Val], kwargs: &Kwargs) -> bool {
    let second = args.iter().filter(|v| matches!(v, Val::Bool(_))).nth(1);
    matches!(named(kwargs, "copy").or(second), Some(Val::Bool(true)))
}

/// A value whose lists cannot change.
fn frozen(st: &State, v: &Val, depth: usize) -> Val {
    match v {
        Val::List(_) if depth < 4 => match st.items(v) {
            Some(items) => Val::tuple(items.iter().map(|v| frozen(st, v, depth + 1)).collect::<Vec<_>>()),
            None => v.clone(),
        },
        v => v.clone(),
    }
}

/// An argument by name.
pub(super) fn named<'k>(kwargs: &'k Kwargs, name: &str) -> Option<&'k Val> {
    kwargs.iter().find(|(n, _)| &**n == name).map(|(_, v)| v)
}

fn scalar(v: &Val) -> Option<kiln_ir::Scalar> {
    use kiln_ir::Scalar;
    match v {
        Val::Bool(b) => Some(Scalar::B(*b)),
        Val::Int(n) => Some(Scalar::I(i128::from(*n))),
        Val::Float(x) => Some(Scalar::F(*x)),
        _ => None,
    }
}

/// A number as an element of a dtype.
fn convert(s: kiln_ir::Scalar, dtype: DType) -> kiln_ir::Scalar {
    use kiln_ir::Scalar;
    let as_float = match s {
        Scalar::B(b) => f64::from(u8::from(b)),
        Scalar::I(n) => n as f64,
        Scalar::F(x) => x,
    };
    match (dtype, s) {
        (DType::Bool, _) => Scalar::B(as_float != 0.0),
        (d, _) if d.is_float() => Scalar::F(as_float),
        (_, Scalar::I(n)) => Scalar::I(n),
        _ => Scalar::I(as_float as i128),
    }
}

pub(super) fn axis(d: i64, rank: usize) -> Res<usize> {
    let n = i64::try_from(rank).unwrap_or(i64::MAX);
    let at = if d < 0 { d.saturating_add(n) } else { d };
    let at = usize::try_from(at).ok().filter(|&at| at < rank);
    at.ok_or_else(|| Fault::invalid(format!("axis {d} is out of range for rank {rank}")))
}
