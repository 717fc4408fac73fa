//! One graph as a function of the program: every node becomes kernels, a view, a control step or a host step.

use kiln_ir::op::{Attr, Control, Dynamic, Host, Movement, Object, Source};
use kiln_ir::{DType, Dim, Graph, Node, NodeId, Op, Symbol, Tensor, Type, Value};
use kiln_runtime::plan::{byte_size, fixed_layout};
use kiln_runtime::program::{
    Access, Action, BufferArg, ConstantId, Function, KernelCall, KernelId, Relation, SlotId, StateId, Step,
    Storage,
};
use rustc_hash::{FxHashMap, FxHashSet};

use super::attention::{self, Attention};
use super::emit::Param;
use super::expr::strides;
use super::loops::Lowered;
use super::overwrite::overwrite_operands;
use super::program::ProgramBuilder;
use super::region::{lower_hero, lower_region};
use super::scope::{Bound, Scope, Slots, Wish};
use super::trace::{Fit, Refusal, Region};
use super::{CompileError, SlowNode};

/// Lowers one graph.
pub struct FunctionBuilder<'b, 'm> {
    program: &'b mut ProgramBuilder<'m>,
    slots: Slots,
    steps: Vec<Step>,
    constants: FxHashMap<ConstantId, Vec<(Type, SlotId)>>,
    /// Symbols that have a value where the next step runs.
    bound: FxHashSet<Symbol>,
}

type Result<T> = std::result::Result<T, CompileError>;

impl<'b, 'm> FunctionBuilder<'b, 'm> {
    /// The function of a graph.
    pub fn build(program: &'b mut ProgramBuilder<'m>, graph: &'m Graph) -> Result<Function> {
        let mut builder = FunctionBuilder {
            program,
            slots: Slots::default(),
            steps: vec![],
            constants: Default::default(),
            bound: FxHashSet::default(),
        };
        let mut scope = Scope::new(graph);
        let mut inputs = vec![];
        for (i, &v) in (0u32..).zip(graph.inputs()) {
            let slot = builder.slots.add(graph.ty(v).clone(), Storage::Input(i));
            scope.values.insert(v, Bound::Slot(slot));
            // What an input's size alone does not determine comes from the caller.
            Attr::visit_dims(graph.ty(v), &mut |d| {
                d.symbols(&mut |s| {
                    builder.bound.insert(s.clone());
                });
            });
            inputs.push(slot);
        }
        wish_outputs(&mut scope);
        let nodes: Vec<NodeId> = graph.schedule().to_vec();
        for id in nodes {
            builder.node(&mut scope, id)?;
        }
        let mut outputs = vec![];
        for &v in graph.outputs() {
            outputs.push(builder.slot(&mut scope, v)?);
        }
        let mut function = Function {
            name: graph.name().to_owned(),
            slots: builder.slots.list,
            steps: builder.steps,
            inputs,
            outputs,
            arena: None,
        };
        overwrite_operands(&mut function, |id| builder.program.kernels.get(id));
        function.arena =
            fixed_layout(&function).map_err(|_| CompileError::TooLarge { graph: graph.name().to_owned() })?;
        Ok(function)
    }

    fn provenance(&self, scope: &Scope<'_>, nodes: &[NodeId]) -> Vec<String> {
        let mut names: Vec<String> = vec![];
        for &id in nodes {
            let node = scope.graph.node(id);
            if matches!(node.op, Op::Source(Source::Constant { .. })) {
                continue;
            }
            let name = node_name(scope.graph, node);
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }

    /// The slot of a value; constants get one.
    fn slot(&mut self, scope: &mut Scope<'_>, v: Value) -> Result<SlotId> {
        match scope.values.get(&v) {
            Some(Bound::Slot(slot)) => Ok(*slot),
            Some(Bound::Constant(tensor)) => {
                let tensor = tensor.clone();
                let slot = self.constant_slot(&tensor, scope.graph.value(v).name().unwrap_or(""))?;
                if matches!(self.slots.list[slot.index()].storage, Storage::Object) {
                    scope.values.insert(v, Bound::Slot(slot));
                }
                Ok(slot)
            }
            None => match scope.graph.constant(v).cloned() {
                Some(tensor) => self.constant_slot(&tensor, scope.graph.value(v).name().unwrap_or("")),
                None => Err(CompileError::Undefined { graph: scope.graph.name().to_owned(), value: v }),
            },
        }
    }

    fn constant_slot(&mut self, tensor: &Tensor, name: &str) -> Result<SlotId> {
        let ty = Type::Tensor(tensor.ty());
        let Some(id) = self.program.constants.intern(tensor, name) else {
            return self.string_constant(tensor);
        };
        let known = self.constants.entry(id).or_default();
        if let Some((_, slot)) = known.iter().find(|(t, _)| *t == ty) {
            return Ok(*slot);
        }
        let slot = self.slots.add(ty.clone(), Storage::Constant(id));
        known.push((ty, slot));
        Ok(slot)
    }

    /// Strings are not data of the program; a host step makes them.
    fn string_constant(&mut self, tensor: &Tensor) -> Result<SlotId> {
        let ty = Type::Tensor(tensor.ty());
        let op = Op::Source(Source::Constant { value: tensor.clone() });
        let graph = self.program.host_graph(&op, &[], &[], std::slice::from_ref(&ty), "constant")?;
        let slot = self.slots.add(ty, Storage::Object);
        let action = Action::Host { graph, operands: vec![], results: vec![slot] };
        self.steps.push(Step { action, provenance: vec![] });
        Ok(slot)
    }

    fn node(&mut self, scope: &mut Scope<'m>, id: NodeId) -> Result<()> {
        let graph = scope.graph;
        let node = graph.node(id);
        let effect = node.op.has_effect();
        let known = |v: &Value| graph.constant(*v).cloned();
        if let Some(constants) = node.results.iter().map(known).collect::<Option<Vec<_>>>()
            && !effect
            && !constants.is_empty()
        {
            for (&v, tensor) in node.results.iter().zip(constants) {
                scope.values.insert(v, Bound::Constant(tensor));
            }
            return Ok(());
        }
        match &node.op {
            Op::Control(Control::Fusion { graph: inner }) => self.fusion(scope, id, *inner),
            Op::Control(control) => self.control(scope, id, control),
            Op::Object(Object::StateRead { name, .. }) => {
                let state = self.state(scope, node, name)?;
                let result = self.object(scope, node.results[0]);
                self.push(scope, id, Action::StateRead { state, result });
                Ok(())
            }
            Op::Object(Object::StateAssign { name }) => {
                let state = self.state(scope, node, name)?;
                let value = self.slot(scope, node.operands[0])?;
                self.push(scope, id, Action::StateAssign { state, value });
                Ok(())
            }
            Op::Movement(Movement::Reshape { .. }) => {
                if self.view(scope, id, Dim::known(0))? {
                    return Ok(());
                }
                self.single(scope, id)
            }
            Op::Movement(Movement::Slice { starts, sizes, steps }) => {
                if let Some(offset) = slice_offset(graph, node.operands[0], starts, sizes, steps)
                    && self.view(scope, id, offset)?
                {
                    return Ok(());
                }
                self.single(scope, id)
            }
            Op::Host(Host::BitCast { to }) if *to != DType::Bool => {
                if self.view(scope, id, Dim::known(0))? {
                    return Ok(());
                }
                self.single(scope, id)
            }
            Op::Dynamic(Dynamic::Sizes { dims }) => {
                let from = self.slot(scope, node.operands[0])?;
                scope.values.insert(node.results[0], Bound::Slot(from));
                self.bound.extend(dims.iter().filter_map(|d| d.as_symbol().cloned()));
                self.push(scope, id, Action::Sizes { from, dims: dims.clone() });
                Ok(())
            }
            _ => self.single(scope, id),
        }
    }

    fn push(&mut self, scope: &Scope<'_>, id: NodeId, action: Action) {
        let provenance = self.provenance(scope, &[id]);
        self.steps.push(Step { action, provenance });
    }

    fn state(&self, scope: &Scope<'_>, node: &Node, name: &str) -> Result<StateId> {
        let at = self.program.module.states().iter().position(|s| s.name == name);
        let at = at.and_then(|i| u32::try_from(i).ok());
        at.map(StateId).ok_or_else(|| CompileError::Node {
            node: node_name(scope.graph, node),
            reason: format!("there is no state `{name}`"),
        })
    }

    /// The slot of a result that a step allocates when it runs.
    fn object(&mut self, scope: &mut Scope<'_>, v: Value) -> SlotId {
        self.bind_symbols(scope.graph.ty(v));
        self.slots.object(scope, v)
    }

    fn objects(&mut self, scope: &mut Scope<'_>, node: &Node) -> Vec<SlotId> {
        node.results.iter().map(|&v| self.object(scope, v)).collect()
    }

    /// Notes that a step whose result has this type binds its symbols.
    fn bind_symbols(&mut self, ty: &Type) {
        Attr::visit_dims(ty, &mut |d| self.bound.extend(d.as_symbol().cloned()));
    }

    /// Refuses kernels for results whose size shows only when they are computed: host steps bind such symbols. Steps
    /// that read sizes bind theirs before.
    fn sizes_known(&self, graph: &Graph, nodes: &[NodeId]) -> std::result::Result<(), Refusal> {
        let mut missing: Option<Symbol> = None;
        for &v in nodes.iter().flat_map(|n| &graph.node(*n).results) {
            Attr::visit_dims(graph.ty(v), &mut |d| {
                d.symbols(&mut |s| {
                    if !self.bound.contains(s) {
                        missing = Some(s.clone());
                    }
                });
            });
        }
        match missing {
            Some(symbol) => Err(Refusal::new(format!("the size `{symbol}` shows only in the result"))),
            None => Ok(()),
        }
    }

    /// Makes the result of a movement a view of its operand from `offset` bytes on, if both are dense; says whether
    /// it did.
    fn view(&mut self, scope: &mut Scope<'_>, id: NodeId, offset: Dim) -> Result<bool> {
        let node = scope.graph.node(id);
        let (v, of) = (node.results[0], node.operands[0]);
        if scope.values.contains_key(&v) {
            // A kernel wrote it in place already.
            return Ok(true);
        }
        // A part of packed bits need not begin with a byte.
        let least = if let Op::Movement(Movement::Reshape { .. }) = &node.op { 1 } else { 8 };
        let dense = |v: Value| {
            let ty = scope.graph.ty(v).as_tensor();
            ty.is_some_and(|t| {
                t.dtype.bits() >= least && t.shape.rank().is_some() && !t.shape.numel().is_unknown()
            })
        };
        if !dense(v) || !dense(of) || self.sizes_known(scope.graph, &[id]).is_err() {
            return Ok(false);
        }
        if let Op::Movement(Movement::Reshape { .. }) = &scope.graph.node(id).op {
            let count = |v: Value| scope.graph.shape(v).map_or(Dim::unknown(), |s| s.numel());
            let (left, right) = (count(of), count(v));
            if left != right {
                let what = "the numbers of elements of a reshape".to_owned();
                self.push(scope, id, Action::Check { left, relation: Relation::Equal, right, what });
            }
        }
        let of = self.slot(scope, of)?;
        let slot = self.slots.add(scope.graph.ty(v).clone(), Storage::View { of, offset });
        scope.values.insert(v, Bound::Slot(slot));
        Ok(true)
    }

    /// One node by itself: kernels, or a host step.
    fn single(&mut self, scope: &mut Scope<'m>, id: NodeId) -> Result<()> {
        let node = scope.graph.node(id);
        let region = Region {
            graph: scope.graph,
            nodes: FxHashSet::from_iter([id]),
            outputs: node.results.to_vec(),
            stored: FxHashSet::default(),
        };
        match self.kernels(scope, &region, &[id]) {
            Ok(()) => Ok(()),
            Err(refusal) => self.host(scope, id, &refusal),
        }
    }

    /// Lowers the region of a fusion: as one kernel, or in parts if it is attention.
    fn region(
        &mut self,
        scope: &mut Scope<'m>,
        region: &Region<'m>,
        nodes: &[NodeId],
    ) -> std::result::Result<(), Refusal> {
        let Some(found) = attention::find(region, nodes) else { return self.kernels(scope, region, nodes) };
        match self.attention(scope, region, nodes, &found) {
            Ok(()) => Ok(()),
            Err(refusal) => {
                tracing::debug!(graph = region.graph.name(), reason = %refusal.0, "attention in parts");
                self.program.note_split(region.graph.name(), &refusal);
                let parts = found.parts(region, nodes);
                parts.iter().try_for_each(|(part, nodes)| self.kernels(scope, part, nodes))
            }
        }
    }

    fn attention(
        &mut self,
        scope: &mut Scope<'m>,
        region: &Region<'m>,
        nodes: &[NodeId],
        found: &Attention,
    ) -> std::result::Result<(), Refusal> {
        self.sizes_known(region.graph, nodes)?;
        let name = kernel_name(region, nodes);
        let constants = |v: Value| scope.constant(v);
        let lowered = attention::lower_attention(region, found, &constants, &name)?;
        let kernel = self.program.kernels.intern(&lowered.kernel)?;
        self.push_kernels(scope, nodes, vec![lowered], &[kernel])
    }

    /// Lowers a region to kernel steps, all or nothing.
    fn kernels(
        &mut self,
        scope: &mut Scope<'m>,
        region: &Region<'m>,
        nodes: &[NodeId],
    ) -> std::result::Result<(), Refusal> {
        self.sizes_known(region.graph, nodes)?;
        let name = kernel_name(region, nodes);
        let constants = |v: Value| scope.constant(v);
        let hero = lower_hero(region, nodes, &constants, self.program.tuning, &name)
            .and_then(|l| self.program.kernels.intern(&l.kernel).map(|id| (l, id)));
        let (lowered, ids) = match hero {
            Ok((lowered, id)) => (vec![lowered], vec![id]),
            Err(refusal) => {
                tracing::trace!(name, reason = %refusal.0, "no contraction kernel");
                let lowered = lower_region(region, nodes, &constants, &name)?;
                let intern = |l: &Lowered| self.program.kernels.intern(&l.kernel);
                let ids = lowered.iter().map(intern).collect::<std::result::Result<Vec<_>, _>>()?;
                (lowered, ids)
            }
        };
        self.push_kernels(scope, nodes, lowered, &ids)
    }

    /// Appends the steps of kernels and of what must hold before.
    fn push_kernels(
        &mut self,
        scope: &mut Scope<'m>,
        nodes: &[NodeId],
        lowered: Vec<Lowered>,
        ids: &[KernelId],
    ) -> std::result::Result<(), Refusal> {
        lowered.iter().try_for_each(require_sizes)?;
        let mut written = FxHashMap::default();
        for (l, &kernel) in lowered.into_iter().zip(ids) {
            let provenance = self.provenance(scope, nodes);
            for Fit { most, size, what } in &l.fits {
                let (left, right, what) = (most.clone(), size - Dim::known(1), what.clone());
                let action = Action::Check { left, relation: Relation::AtMost, right, what };
                self.steps.push(Step { action, provenance: provenance.clone() });
            }
            let action = self.kernel_call(scope, l, kernel, &mut written)?;
            self.steps.push(Step { action, provenance });
        }
        self.program.note_kernels(nodes.len());
        Ok(())
    }

    fn kernel_call(
        &mut self,
        scope: &mut Scope<'_>,
        lowered: Lowered,
        kernel: KernelId,
        written: &mut FxHashMap<Value, SlotId>,
    ) -> std::result::Result<Action, Refusal> {
        let failed = |e: CompileError| Refusal::new(e.to_string());
        let mut buffers = vec![];
        let mut bytes = Dim::known(0);
        for param in &lowered.params {
            let (slot, access) = match param {
                Param::Source(at) => {
                    (self.slot(scope, lowered.sources[*at].value).map_err(failed)?, Access::Read)
                }
                Param::Constant(tensor) => {
                    (self.constant_slot(tensor, "packed").map_err(failed)?, Access::Read)
                }
                // Several kernels may write parts of one output.
                Param::Output(at) => {
                    let v = lowered.outputs[*at];
                    let slots = &mut self.slots;
                    (*written.entry(v).or_insert_with(|| slots.for_kernel(scope, v)), Access::Write)
                }
            };
            let ty = self.slots.list[slot.index()].ty.as_tensor();
            let len = ty.map(byte_size).unwrap_or(Dim::known(0));
            bytes = bytes + &len;
            buffers.push(BufferArg { slot, offset: Dim::known(0), len, access });
        }
        let Lowered { dims, grid, grain, flops, .. } = lowered;
        // Where the work is too long an expression, only reports lack it, and each point is a chunk.
        let or = |dim: Dim, otherwise: i64| if dim.is_unknown() { Dim::known(otherwise) } else { dim };
        let (grain, flops, bytes) = (or(grain, 1), or(flops, 0), or(bytes, 0));
        Ok(Action::Kernel(KernelCall { kernel, buffers, dims, grid, grain, flops, bytes }))
    }

    /// A fusion graph: its kernels, or its nodes one by one.
    fn fusion(&mut self, scope: &mut Scope<'m>, id: NodeId, inner: kiln_ir::GraphId) -> Result<()> {
        let node = scope.graph.node(id);
        let graph = self.program.module.graph(inner);
        let mut own = Scope::new(graph);
        for (&v, &operand) in graph.inputs().iter().zip(&node.operands) {
            let bound = match scope.constant(operand) {
                Some(tensor) => Bound::Constant(tensor),
                None => Bound::Slot(self.slot(scope, operand)?),
            };
            own.values.insert(v, bound);
        }
        // Wishes of the results hold for the inner outputs; views of them live outside.
        let mut under = vec![];
        for (&v, result) in graph.outputs().iter().zip(&node.results) {
            match scope.wishes.get(result) {
                Some(Wish::Output(at)) => {
                    own.wishes.insert(v, Wish::Output(*at));
                }
                Some(Wish::Under(view)) => under.push((v, *view)),
                None => {}
            }
        }
        for &(v, view) in &under {
            let slot = self.slots.for_kernel(scope, view);
            let ty = graph.ty(v).clone();
            let own_slot = self.slots.add(ty, Storage::View { of: slot, offset: Dim::known(0) });
            own.reserved.insert(v, own_slot);
        }
        let nodes: Vec<NodeId> = graph.schedule().to_vec();
        let defined: FxHashSet<Value> =
            nodes.iter().flat_map(|n| graph.node(*n).results.iter().copied()).collect();
        let mut outputs: Vec<Value> = vec![];
        for &v in graph.outputs() {
            if defined.contains(&v) && graph.constant(v).is_none() && !outputs.contains(&v) {
                outputs.push(v);
            }
        }
        let region =
            Region { graph, nodes: nodes.iter().copied().collect(), outputs, stored: FxHashSet::default() };
        let whole = if region.outputs.is_empty() { Ok(()) } else { self.region(&mut own, &region, &nodes) };
        if let Err(refusal) = whole {
            tracing::debug!(graph = graph.name(), reason = %refusal.0, "fusion is split");
            self.program.note_split(graph.name(), &refusal);
            for &n in &nodes {
                self.node(&mut own, n)?;
            }
        }
        for &(v, view) in &under {
            let written =
                matches!(own.values.get(&v), Some(Bound::Slot(s)) if own.reserved.get(&v) == Some(s));
            if let (false, Some(Bound::Slot(slot))) = (written, scope.values.get(&view)) {
                // No kernel wrote it after all: the view is bound again where it is defined.
                self.slots.list[slot.index()].storage = Storage::Arena;
                scope.values.remove(&view);
            }
        }
        for (v, &result) in graph.outputs().iter().zip(&node.results) {
            let bound = match own.values.get(v) {
                Some(bound) => bound.clone(),
                None => match graph.constant(*v) {
                    Some(tensor) => Bound::Constant(tensor.clone()),
                    None => Bound::Slot(self.slot(&mut own, *v)?),
                },
            };
            scope.values.insert(result, bound);
        }
        Ok(())
    }

    fn control(&mut self, scope: &mut Scope<'m>, id: NodeId, control: &Control) -> Result<()> {
        let node = scope.graph.node(id);
        let mut operands = vec![];
        for &v in &node.operands {
            operands.push(self.slot(scope, v)?);
        }
        let mut functions = vec![];
        for graph in control.graphs() {
            functions.push(self.program.function(graph)?);
        }
        let results = self.objects(scope, node);
        let action = match (control, functions.as_slice(), operands.as_slice()) {
            (Control::If { .. }, [then_branch, else_branch], [condition, rest @ ..]) => Action::If {
                condition: *condition,
                then_branch: *then_branch,
                else_branch: *else_branch,
                operands: rest.to_vec(),
                results,
            },
            (Control::Loop { carried, .. }, [body], [trip_count, condition, rest @ ..])
                if *carried <= rest.len() =>
            {
                let (carried, captured) = rest.split_at(*carried);
                Action::Loop {
                    body: *body,
                    trip_count: Some(*trip_count),
                    condition: Some(*condition),
                    carried: carried.to_vec(),
                    captured: captured.to_vec(),
                    results,
                }
            }
            (Control::Call { .. } | Control::Fusion { .. }, [function], _) => {
                Action::Call { function: *function, operands, results }
            }
            _ => {
                return Err(CompileError::Node {
                    node: node_name(scope.graph, node),
                    reason: "operands do not fit the control operator".to_owned(),
                });
            }
        };
        self.push(scope, id, action);
        Ok(())
    }

    /// A node in the reference evaluator.
    fn host(&mut self, scope: &mut Scope<'m>, id: NodeId, refusal: &Refusal) -> Result<()> {
        let node = scope.graph.node(id);
        let name = node_name(scope.graph, node);
        let mut operands = vec![];
        for &v in &node.operands {
            operands.push(self.slot(scope, v)?);
        }
        let operand_types: Vec<Type> = node.operands.iter().map(|&v| scope.graph.ty(v).clone()).collect();
        let types: Vec<Type> = node.results.iter().map(|&v| scope.graph.ty(v).clone()).collect();
        let constants: Vec<Option<Tensor>> = node.operands.iter().map(|&v| scope.constant(v)).collect();
        let graph = self.program.host_graph(&node.op, &operand_types, &constants, &types, &name)?;
        let results = self.objects(scope, node);
        self.program.note_slow(SlowNode {
            node: name,
            op: node.op.mnemonic().to_owned(),
            reason: refusal.0.clone(),
        });
        self.push(scope, id, Action::Host { graph, operands, results });
        Ok(())
    }
}

/// Results that are outputs are written in place; so is what an output is a reshape of.
fn wish_outputs(scope: &mut Scope<'_>) {
    let graph = scope.graph;
    let roots: Vec<Value> = graph.outputs().iter().map(|&v| view_root(graph, v)).collect();
    for (i, &v) in (0u32..).zip(graph.outputs()) {
        // Outputs that share memory are copied out of the arena.
        let shared = roots.iter().filter(|&&r| r == view_root(graph, v)).count() > 1;
        if !shared && graph.def_node(v).is_some() && dense_type(graph, v) {
            scope.wishes.entry(v).or_insert(Wish::Output(i));
        }
    }
    for (_, node) in graph.scheduled().rev() {
        let Op::Movement(Movement::Reshape { .. }) = &node.op else { continue };
        let (result, operand) = (node.results[0], node.operands[0]);
        let wished = scope.wishes.contains_key(&result) && !scope.wishes.contains_key(&operand);
        // Sizes of the result that its operand does not show may have no value yet when the operand is computed.
        let count = |v: Value| graph.shape(v).map(kiln_ir::Shape::numel);
        let wished = wished && count(result) == count(operand);
        if wished && graph.def_node(operand).is_some() && dense_type(graph, operand) {
            scope.wishes.insert(operand, Wish::Under(result));
        }
    }
}

/// The value whose bytes `v` may be a view of.
fn view_root(graph: &Graph, v: Value) -> Value {
    let mut at = v;
    while let Some((_, node)) = graph.def_node(at)
        && let Op::Movement(Movement::Reshape { .. } | Movement::Slice { .. })
        | Op::Host(Host::BitCast { .. }) = &node.op
    {
        at = node.operands[0];
    }
    at
}

fn dense_type(graph: &Graph, v: Value) -> bool {
    super::trace::kernel_type(graph, v).is_ok()
}

/// Byte offset of a slice that is a contiguous part of its operand.
fn slice_offset(graph: &Graph, x: Value, starts: &[Dim], sizes: &[Dim], steps: &[i64]) -> Option<Dim> {
    let (dtype, dims) = super::trace::kernel_type(graph, x).ok()?;
    let cut = dims.iter().zip(sizes).position(|(d, s)| d != s).unwrap_or(0);
    let outer = sizes[..cut].iter().all(|s| s.as_known() == Some(1));
    let inner = dims.iter().zip(sizes).skip(cut + 1).all(|(d, s)| d == s);
    if !outer || !inner || steps.iter().any(|s| *s != 1) {
        return None;
    }
    let elements = starts.iter().zip(strides(dims)).fold(Dim::known(0), |sum, (s, stride)| sum + s * &stride);
    let offset = elements * Dim::known((dtype.bits() / 8) as i64);
    (!offset.is_unknown()).then_some(offset)
}

/// What people call a node: its source name and operator.
pub fn node_name(graph: &Graph, node: &Node) -> String {
    match &node.origin {
        Some(origin) if origin.path.is_empty() => format!("{} ({})", origin.node, origin.op),
        Some(origin) => format!("{}/{} ({})", origin.path, origin.node, origin.op),
        None => {
            let value = node.results.first().and_then(|v| graph.value(*v).name());
            format!("{} ({})", value.unwrap_or("?"), node.op.mnemonic())
        }
    }
}

/// The operators of a kernel, in order.
fn kernel_name(region: &Region<'_>, nodes: &[NodeId]) -> String {
    const MOST: usize = 6;
    let mut ops: Vec<&str> = vec![];
    for id in nodes {
        let op = &region.graph.node(*id).op;
        if !matches!(op, Op::Source(_) | Op::Movement(Movement::Broadcast { .. } | Movement::Reshape { .. }))
        {
            ops.push(op.mnemonic());
        }
    }
    match ops.len() {
        0 => "copy".to_owned(),
        n if n > MOST => format!("{}_and_{}_more", ops[..MOST].join("_"), n - MOST),
        _ => ops.join("_"),
    }
}

/// Refuses kernels over sizes that outgrow the bound of dims: these have no value when the program runs.
fn require_sizes(lowered: &Lowered) -> std::result::Result<(), Refusal> {
    let fits = lowered.fits.iter().flat_map(|fit| [&fit.most, &fit.size]);
    let mut sizes = lowered.dims.iter().chain([&lowered.grid]).chain(fits);
    match sizes.any(Dim::is_unknown) {
        true => Err(Refusal::new("a size is too long an expression")),
        false => Ok(()),
    }
}
