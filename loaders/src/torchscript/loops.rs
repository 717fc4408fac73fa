//! Loops whose number of iterations shows at run time: their bodies become graphs.
//!
//! What a body changes is found by following it: first from the state before the loop; whatever then differs, at the end
//! of the body, from its beginning becomes a value that the loop carries, and the body is followed again from there, until
//! nothing more differs.

use std::rc::Rc;

use kiln_ir::op::Control;
use kiln_ir::{DType, Tensor, Type, Value};
use rustc_hash::FxHashSet;

use super::ast::{Block, Expr, Name, Stmt, StmtKind};
use super::fault::{Fault, Res};
use super::join::{Pair, Rules, joined, pairs};
use super::machine::{End, Flow, Machine, Stop, Truth};
use super::scope::widened;
use super::value::{Cell, Kept, Kind, ListCell, Running, State, Traced, Val};

/// How often a body is followed until what it carries is known.
const MAX_ROUNDS: usize = 10;

/// Inputs of a body before what it carries: the iteration and the condition.
const FIRST: usize = 2;

/// A value that a loop carries.
struct Carried {
    initial: Traced,
    ty: Type,
}

/// A loop under construction.
struct Loop<'l> {
    /// The number of its scope, the same in every round.
    id: u32,
    target: Option<(&'l Expr, &'l Val)>,
    condition: Option<(&'l Expr, Traced)>,
    body: &'l Block,
    carried: Vec<Carried>,
}

impl Loop<'_> {
    fn input(&self, k: usize) -> Traced {
        Traced::Node { scope: self.id, value: Value::new(FIRST + k) }
    }

    /// Which carried value this is at the beginning of the body.
    fn position(&self, t: &Traced) -> Option<usize> {
        match t {
            Traced::Node { scope, value } if *scope == self.id => {
                value.index().checked_sub(FIRST).filter(|&k| k < self.carried.len())
            }
            _ => None,
        }
    }
}

impl Machine<'_> {
    /// A loop over `target` (variable and number of iterations) or while a condition holds (and its first value).
    pub fn traced_loop(
        &mut self,
        st: &mut State,
        target: Option<(&Expr, &Val)>,
        condition: Option<(&Expr, Traced)>,
        body: &Block,
    ) -> Res<()> {
        let id = self.g.fresh_id();
        let mut looped = Loop { id, target, condition, body, carried: vec![] };
        let mut head = st.clone();
        self.generalize(&mut head, &mut looped);
        for _ in 0..MAX_ROUNDS {
            let checkpoint = self.g.checkpoint();
            let (depth, growing) = (self.g.depth(), self.growing);
            let round = self.round(&head, &mut looped);
            self.growing = growing;
            match round {
                Ok(None) => {
                    self.finish_loop(st, head, &looped)?;
                    return Ok(());
                }
                Ok(Some(next)) => {
                    self.g.unwind(depth);
                    self.g.roll_back(checkpoint);
                    head = next;
                }
                Err(Fault::Apart(reason)) => {
                    self.g.unwind(depth);
                    return Err(Fault::Unsupported(format!(
                        "a loop whose values change their kind at run time: {reason}"
                    )));
                }
                // There may be no iteration in which it is raised.
                Err(Fault::Raises(reason)) => return Err(Fault::Invalid(reason)),
                Err(fault) => return Err(fault),
            }
        }
        Err(Fault::unsupported("the types of what a loop carries do not settle"))
    }

    /// Numbers that the body assigns are carried from the start: what it decides on must not be decided by their first
    /// values.
    fn generalize(&mut self, head: &mut State, looped: &mut Loop<'_>) {
        let mut names = FxHashSet::default();
        assigned(looped.body, &mut names);
        let Some(frame) = head.frames.last_mut() else { return };
        let env = Rc::make_mut(&mut frame.env);
        let mut names: Vec<Name> = names.into_iter().collect();
        names.sort();
        for name in names {
            let Some(value) = env.get(&name) else { continue };
            if let Ok((kind, initial)) = self.traced(value)
                && kind != Kind::Text
            {
                looped.carried.push(Carried { initial, ty: Type::fixed(kind.dtype(), &[]) });
                let input = looped.input(looped.carried.len() - 1);
                env.insert(name, Val::Num(kind, input));
            }
        }
    }

    /// Follows the body once. Gives the state to begin with next if something more is carried; otherwise the body's graph
    /// is complete and the innermost.
    fn round(&mut self, head: &State, looped: &mut Loop<'_>) -> Res<Option<State>> {
        self.tick(head.heap.len() / 16)?;
        self.g.open_as(looped.id, "body")?;
        let step = self.g.input("iteration", Type::fixed(DType::I64, &[]))?;
        self.g.input("condition", Type::fixed(DType::Bool, &[]))?;
        for carried in &looped.carried {
            self.g.input("carried", carried.ty.clone())?;
        }
        let mut state = head.clone();
        let stop =
            Stop { frames: state.frames.len(), blocks: state.frames.last().map_or(0, |f| f.blocks.len()) };
        if let Some((target, _)) = looped.target {
            self.assign(&mut state, target, Val::Num(Kind::Int, step))?;
        }
        if let Some(frame) = state.frames.last_mut() {
            frame.blocks.push(Running { body: looped.body.clone(), at: 0, kept: Kept::Plain });
        }
        self.growing += 1;
        let flow = self.run(&mut state, stop, End::Join)?;
        let mut go_on = Traced::Constant(Tensor::from_bools(&[], &[true])?);
        match (flow, &looped.condition) {
            (Flow::Dead(_), _) => {
                state = head.clone();
                go_on = Traced::Constant(Tensor::from_bools(&[], &[false])?);
            }
            (Flow::Stopped, Some((condition, _))) => {
                let truth = self.eval(&mut state, condition)?;
                go_on = match self.truth(&mut state, &truth)? {
                    Truth::Known(b) => Traced::Constant(Tensor::from_bools(&[], &[b])?),
                    Truth::Traced(t) => t,
                };
            }
            (Flow::Stopped, None) => {}
        }
        self.growing -= 1;
        self.settle(&mut state, head.heap.len())?;
        let rules = Rules { base: head.heap.len(), ranks: false, growing: true, precise: false };
        let found = pairs(&self.g, head, &state, rules)?;
        if let Some(results) = self.more_carried(looped, &found)? {
            return joined(&self.g, head, &state, rules, &results).map(Some);
        }
        self.complete_body(looped, &found, &go_on)?;
        Ok(None)
    }

    /// If a pair's first value is not carried yet, or its type is too narrow: what stands for each pair in the next round.
    fn more_carried(&mut self, looped: &mut Loop<'_>, found: &[Pair]) -> Res<Option<Vec<Traced>>> {
        let mut changed = false;
        let mut results = vec![];
        for pair in found {
            match looped.position(&pair.a) {
                Some(k) => {
                    results.push(pair.a.clone());
                    let Some(carried) = looped.carried.get_mut(k) else { continue };
                    let wide = widened(&carried.ty, &without(&self.g.ty(&pair.b)?, &carried.ty));
                    let wide = wide.ok_or_else(|| Fault::apart(format!("{} and {}", carried.ty, pair.ty)))?;
                    changed |= wide != carried.ty;
                    carried.ty = wide;
                }
                None => {
                    changed = true;
                    looped.carried.push(Carried { initial: pair.a.clone(), ty: pair.ty.clone() });
                    results.push(looped.input(looped.carried.len() - 1));
                }
            }
        }
        Ok(changed.then_some(results))
    }

    /// Adds the results of the body.
    fn complete_body(&mut self, looped: &Loop<'_>, found: &[Pair], go_on: &Traced) -> Res<()> {
        let go_on = self.g.value(go_on)?;
        self.g.build(|b| b.output("condition", go_on))?;
        for (k, carried) in looped.carried.iter().enumerate() {
            let after = found.iter().find(|p| looped.position(&p.a) == Some(k)).map(|p| p.b.clone());
            let after = after.unwrap_or_else(|| looped.input(k));
            let v = self.g.value_as(&after, &carried.ty)?;
            self.g.build(|b| b.output("carried", v))?;
        }
        Ok(())
    }

    /// Adds the loop, whose body is the innermost graph, and makes the state after it.
    fn finish_loop(&mut self, st: &mut State, head: State, looped: &Loop<'_>) -> Res<()> {
        let closed = self.g.close()?;
        let body = self.g.keep(closed.graph);
        let trips = match looped.target {
            Some((_, count)) => self.traced(count)?.1,
            None => Traced::Constant(Tensor::scalar(i64::MAX)),
        };
        let first = match &looped.condition {
            Some((_, first)) => first.clone(),
            None => Traced::Constant(Tensor::from_bools(&[], &[true])?),
        };
        let mut operands = vec![self.g.value(&trips)?, self.g.value(&first)?];
        for carried in &looped.carried {
            operands.push(self.g.value_as(&carried.initial, &carried.ty)?);
        }
        operands.extend(closed.captures);
        let op = Control::Loop { body, carried: looped.carried.len() };
        let results = self.g.add_all(op.into(), &operands)?;
        *st = head;
        let replace = |t: &Traced| looped.position(t).and_then(|k| results.get(k)).cloned();
        self.tick(st.heap.len() / 16)?;
        substitute(st, &replace);
        Ok(())
    }
}

/// A type with the unknown dims of `pattern`, which were given up before and must stay so.
fn without(ty: &Type, pattern: &Type) -> Type {
    match (ty, pattern) {
        (Type::Tensor(t), Type::Tensor(p)) => match (t.shape.dims(), p.shape.dims()) {
            (Some(x), Some(y)) if x.len() == y.len() => {
                let dims = x.iter().zip(y);
                let dims = dims.map(|(x, y)| if y.is_unknown() { y.clone() } else { x.clone() });
                Type::tensor(t.dtype, dims.collect::<Vec<_>>())
            }
            (_, None) => Type::unranked(t.dtype),
            _ => ty.clone(),
        },
        (Type::Sequence(t), Type::Sequence(p)) => Type::Sequence(Box::new(without(t, p))),
        (Type::Optional(t), Type::Optional(p)) => Type::Optional(Box::new(without(t, p))),
        _ => ty.clone(),
    }
}

/// Puts other values in the place of some, in the innermost variables and on the heap.
fn substitute(st: &mut State, replace: &dyn Fn(&Traced) -> Option<Traced>) {
    if let Some(frame) = st.frames.last_mut() {
        for v in Rc::make_mut(&mut frame.env).values_mut() {
            substitute_val(v, replace);
        }
    }
    for cell in &mut st.heap {
        if !holds(cell, replace) {
            continue;
        }
        match Rc::make_mut(cell) {
            Cell::Tensor(t) => {
                if let Some(new) = replace(&t.value) {
                    t.value = new;
                }
            }
            Cell::List(ListCell::Sequence(t, _)) => {
                if let Some(new) = replace(t) {
                    *t = new;
                }
            }
            Cell::List(ListCell::Items(items)) => items.iter_mut().for_each(|v| substitute_val(v, replace)),
            Cell::Dict(pairs) => pairs.iter_mut().for_each(|(_, v)| substitute_val(v, replace)),
            Cell::Instance(_, attrs) => attrs.values_mut().for_each(|v| substitute_val(v, replace)),
        }
    }
}

fn substitute_val(v: &mut Val, replace: &dyn Fn(&Traced) -> Option<Traced>) {
    match v {
        Val::Num(_, t) => {
            if let Some(new) = replace(t) {
                *t = new;
            }
        }
        Val::Tuple(items, name) => {
            let mut new = items.to_vec();
            new.iter_mut().for_each(|v| substitute_val(v, replace));
            *v = Val::Tuple(new.into(), name.clone());
        }
        _ => {}
    }
}

/// Whether a cell has something to replace.
fn holds(cell: &Cell, replace: &dyn Fn(&Traced) -> Option<Traced>) -> bool {
    fn in_val(v: &Val, replace: &dyn Fn(&Traced) -> Option<Traced>) -> bool {
        match v {
            Val::Num(_, t) => replace(t).is_some(),
            Val::Tuple(items, _) => items.iter().any(|v| in_val(v, replace)),
            _ => false,
        }
    }
    match cell {
        Cell::Tensor(t) => replace(&t.value).is_some(),
        Cell::List(ListCell::Sequence(t, _)) => replace(t).is_some(),
        Cell::List(ListCell::Items(items)) => items.iter().any(|v| in_val(v, replace)),
        Cell::Dict(pairs) => pairs.iter().any(|(_, v)| in_val(v, replace)),
        Cell::Instance(_, attrs) => attrs.values().any(|v| in_val(v, replace)),
    }
}

/// The variables that statements assign.
fn assigned(body: &[Stmt], names: &mut FxHashSet<Name>) {
    for stmt in body {
        match &stmt.kind {
            StmtKind::Assign { targets, .. } => {
                names.extend(targets.iter().filter_map(|t| match t {
                    Expr::Name(name) => Some(name.clone()),
                    _ => None,
                }));
            }
            StmtKind::If(_, then, otherwise) => {
                assigned(then, names);
                assigned(otherwise, names);
            }
            StmtKind::For(_, _, body) | StmtKind::While(_, body) | StmtKind::With(_, _, body) => {
                assigned(body, names);
            }
            _ => {}
        }
    }
}
