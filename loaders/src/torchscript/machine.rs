//! The machine: follows the statements of a program over values that are known or computed by a graph.
//!
//! All that changes is in [`State`], which is cheap to copy. Where a condition shows at run time, both branches are
//! followed as graphs of their own and what they leave is joined ([`super::join`]); where that has no single form (one
//! path leaves `None`, the other a tensor), the paths stay apart to the end and only results are joined.

use std::rc::Rc;
use std::sync::Arc;

use kiln_ir::op::{Control, Host};
use kiln_ir::{Build, DType, Origin, Tensor};
use rustc_hash::FxHashSet;

use super::ast::{Call, Expr, Function, Name, Stmt, StmtKind};
use super::facts::forget;
use super::fault::{Fault, Res};
use super::normalize::enters;
use super::program::{Item, Program};
use super::scope::Graphs;
use super::states::States;
use super::value::{Cell, Env, Frame, Kept, Kind, Running, State, Then, Traced, Val};

/// Calls within calls, and calls of one function within itself.
const MAX_CALLS: usize = 160;
const MAX_SELF_CALLS: usize = 4;

/// Most iterations of a loop that are followed one by one.
const MAX_UNROLLED: i64 = 4096;

/// Steps that a branch counts as, beside what it follows: its state is copied.
const SPLIT: usize = 64;

/// How many branches keep their paths apart to know more: each may double what follows it.
const PRECISE: usize = 4;

/// Most bytes that the values of a path may take.
const MAX_BYTES: usize = 512 << 20;

/// Longest message that is kept.
const MAX_MESSAGE: usize = 4096;

/// Where a part of the program ends that is followed by itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stop {
    /// Calls that are under way there.
    pub frames: usize,
    /// Blocks of the innermost.
    pub blocks: usize,
}

/// What happens at the end of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It is joined with another.
    Join,
    /// States are written: an entry point ends.
    Entry,
}

/// How a part of the program ends.
#[derive(Clone, Debug)]
pub(crate) enum Flow {
    /// Where it should.
    Stopped,
    /// It always raises an exception: its message.
    Dead(String),
}

/// One step.
enum Step {
    Next,
    Ended(Flow),
}

/// The truth of a condition.
#[derive(Clone, Debug)]
pub(crate) enum Truth {
    /// It is known.
    Known(bool),
    /// It shows at run time.
    Traced(Traced),
}

/// Follows a program.
pub(crate) struct Machine<'p> {
    /// What is built.
    pub g: Graphs,
    /// The source.
    pub program: Program<'p>,
    /// Constants of the source.
    pub constants: Vec<Val>,
    /// Attributes that change.
    pub states: States,
    /// Steps that may still be made, and how many might at first.
    pub ticks: usize,
    steps: usize,
    /// Loops around this place whose bodies are graphs.
    pub growing: usize,
    /// Branches whose paths stay apart.
    apart: FxHashSet<(u32, u32)>,
    /// Branches that may still keep their paths apart only because what they leave is known on each.
    pub precise: usize,
    /// The statement that is followed.
    pub at: (u32, u32),
    /// Whether an arm in which an operator does not take its operands is one that raises.
    pub lenient: bool,
}

impl<'p> Machine<'p> {
    pub fn new(program: Program<'p>, nodes: usize, ticks: usize) -> Self {
        Machine {
            g: Graphs::new(nodes),
            program,
            constants: vec![],
            states: States::default(),
            ticks,
            steps: ticks,
            growing: 0,
            apart: FxHashSet::default(),
            precise: PRECISE,
            at: (0, 0),
            lenient: true,
        }
    }

    /// Counts work.
    pub fn tick(&mut self, work: usize) -> Res<()> {
        match self.ticks.checked_sub(work) {
            Some(left) => self.ticks = left,
            None => return Err(Fault::Limit { what: "number of steps".to_owned(), limit: self.steps }),
        }
        Ok(())
    }

    /// Fails where the values of a path take too much memory.
    pub fn check_memory(&self, st: &State) -> Res<()> {
        match st.spent > MAX_BYTES {
            true => Err(Fault::Limit { what: "memory of the program's values".to_owned(), limit: MAX_BYTES }),
            false => Ok(()),
        }
    }

    /// Follows the program up to `stop`.
    pub fn run(&mut self, st: &mut State, stop: Stop, end: End) -> Res<Flow> {
        loop {
            let here = st.frames.len();
            if here < stop.frames {
                return Err(Fault::apart("a branch returns"));
            }
            let blocks = st.frames.last().map_or(0, |f| f.blocks.len());
            if here == stop.frames && blocks <= stop.blocks {
                if end == End::Entry {
                    self.write_states(st)?;
                }
                return Ok(Flow::Stopped);
            }
            match self.step(st, stop, end)? {
                Step::Next => {}
                Step::Ended(flow) => return Ok(flow),
            }
        }
    }

    fn step(&mut self, st: &mut State, stop: Stop, end: End) -> Res<Step> {
        self.tick(1)?;
        self.check_memory(st)?;
        let Some(frame) = st.frames.last_mut() else { return Err(Fault::invalid("no call is under way")) };
        let file = frame.function.file;
        let Some(running) = frame.blocks.last_mut() else {
            // The body has ended without a result.
            self.give(st, Val::None)?;
            return Ok(Step::Next);
        };
        let body = running.body.clone();
        let Some(stmt) = body.get(running.at) else {
            self.end_block(st)?;
            return Ok(Step::Next);
        };
        running.at += 1;
        if self.at != (file, stmt.at) {
            self.at = (file, stmt.at);
            self.g.set_origin(None);
        }
        self.statement(st, stmt, stop, end)
    }

    /// Sets where the nodes that follow come from: the statement under way, and the operator.
    pub fn set_origin(&mut self, st: &State, op: &str) {
        let node = st.frames.iter().rev().find_map(|f| match f.env.get("self") {
            Some(Val::Instance(r)) => self.states.path(*r),
            _ => None,
        });
        let function = st.frames.last().map(|f| f.function.name.to_string()).unwrap_or_default();
        let node = match node {
            Some(path) if !path.is_empty() => format!("{path}.{function}"),
            _ => function,
        };
        let file = self.program.package().name();
        self.g.set_origin(Some(Arc::new(Origin {
            file,
            path: String::new(),
            node,
            op: format!("aten.{op}"),
        })));
    }

    fn statement(&mut self, st: &mut State, stmt: &Stmt, stop: Stop, end: End) -> Res<Step> {
        match &stmt.kind {
            StmtKind::Assign { targets, unpack, values, annotation: _ } => match &**values {
                [Expr::Call(call)] if enters(call) => {
                    self.enter(st, call, Then::Assign(targets.clone(), *unpack))?;
                }
                [only] if *unpack => {
                    let value = self.eval(st, only)?;
                    self.unpack(st, targets, &value)?;
                }
                values => {
                    let values = values.iter().map(|v| self.eval(st, v)).collect::<Res<Vec<Val>>>()?;
                    for (target, value) in targets.iter().zip(values) {
                        self.assign(st, target, value)?;
                    }
                }
            },
            StmtKind::Expr(Expr::Call(call)) => {
                if enters(call) {
                    self.enter(st, call, Then::Drop)?;
                } else if call.callee.path().as_deref() == Some("ops.prim.RaiseException") {
                    let message = match call.args.first() {
                        Some(e) => self.eval(st, e)?,
                        None => Val::text(""),
                    };
                    return self.raise(&message).map(Step::Ended);
                } else {
                    self.eval(st, &Expr::Call(call.clone()))?;
                }
            }
            StmtKind::Expr(e) => {
                self.eval(st, e)?;
            }
            StmtKind::If(condition, then, otherwise) => {
                let truth = self.eval(st, condition)?;
                return match self.truth(st, &truth)? {
                    Truth::Known(true) => self.begin(st, then.clone(), Kept::Plain),
                    Truth::Known(false) => self.begin(st, otherwise.clone(), Kept::Plain),
                    Truth::Traced(condition) => {
                        let arms = [then.clone(), otherwise.clone()];
                        self.branch(st, &condition, &arms, stop, end)
                    }
                };
            }
            StmtKind::For(target, iterable, body) => return self.for_loop(st, target, iterable, body),
            StmtKind::While(condition, body) => {
                let kept = Kept::While { condition: condition.clone(), count: 0 };
                return self.again(st, Running { body: body.clone(), at: 0, kept });
            }
            StmtKind::With(value, name, body) => {
                let value = self.eval(st, value)?;
                self.begin(st, body.clone(), Kept::With(value.clone()))?;
                let then = match name {
                    Some(name) => Then::Assign([Expr::Name(name.clone())].into(), false),
                    None => Then::Drop,
                };
                self.call_method(st, &value, "__enter__", vec![], then)?;
            }
            StmtKind::Return(value) => {
                let value = self.eval(st, value)?;
                self.give(st, value)?;
            }
            StmtKind::Raise(value) => {
                let message = self.exception(st, value.as_ref())?;
                return self.raise(&message).map(Step::Ended);
            }
            StmtKind::Assert(condition, message) => return self.assertion(st, condition, message, stop, end),
            StmtKind::Pass | StmtKind::Declare(..) => {}
            StmtKind::Delete(target) => self.delete(st, target)?,
            StmtKind::Def(_) | StmtKind::Class(_) => {
                return Err(Fault::invalid("a definition stands inside of a function"));
            }
        }
        Ok(Step::Next)
    }

    /// The message of `raise Kind(message)`.
    fn exception(&mut self, st: &mut State, value: Option<&Expr>) -> Res<Val> {
        match value {
            Some(Expr::Call(call)) => match call.args.first() {
                Some(message) => self.eval(st, message),
                None => Ok(Val::text("")),
            },
            Some(other) => self.eval(st, other),
            None => Ok(Val::text("")),
        }
    }

    fn assertion(
        &mut self,
        st: &mut State,
        condition: &Expr,
        message: &Option<Expr>,
        stop: Stop,
        end: End,
    ) -> Res<Step> {
        let at = self.at.1;
        let raise = Stmt { kind: StmtKind::Raise(message.clone()), at };
        let truth = self.eval(st, condition)?;
        match self.truth(st, &truth)? {
            Truth::Known(true) => Ok(Step::Next),
            Truth::Known(false) => self.statement(st, &raise, stop, end),
            Truth::Traced(condition) => self.branch(st, &condition, &[[].into(), [raise].into()], stop, end),
        }
    }

    fn begin(&mut self, st: &mut State, body: Rc<[Stmt]>, kept: Kept) -> Res<Step> {
        if let Some(frame) = st.frames.last_mut() {
            frame.blocks.push(Running { body, at: 0, kept });
        }
        Ok(Step::Next)
    }

    /// The last statement of a block is done.
    fn end_block(&mut self, st: &mut State) -> Res<()> {
        let running = st.frames.last_mut().and_then(|f| f.blocks.pop());
        let Some(mut running) = running else { return Ok(()) };
        match &running.kept {
            Kept::Plain => Ok(()),
            Kept::With(value) => {
                let value = value.clone();
                self.call_method(st, &value, "__exit__", vec![Val::None, Val::None, Val::None], Then::Drop)
            }
            Kept::For { .. } | Kept::While { .. } => {
                running.at = 0;
                self.again(st, running).map(|_| ())
            }
        }
    }

    fn for_loop(&mut self, st: &mut State, target: &Expr, iterable: &Expr, body: &Rc<[Stmt]>) -> Res<Step> {
        let range = match iterable {
            Expr::Call(call) if call.callee.path().as_deref() == Some("range") => match &*call.args {
                [count] => Some(self.eval(st, count)?),
                _ => return Err(Fault::unsupported("a range with a start")),
            },
            _ => None,
        };
        let Some(count) = range else {
            return Err(Fault::unsupported("a loop over anything but `range`"));
        };
        let count = self.index(st, &count)?;
        if let Val::Int(count) = count {
            let kept = Kept::For { target: target.clone(), next: 0, count };
            return self.again(st, Running { body: body.clone(), at: 0, kept });
        }
        self.traced_loop(st, Some((target, &count)), None, body)?;
        Ok(Step::Next)
    }

    /// Begins the next iteration of a loop, if there is one.
    fn again(&mut self, st: &mut State, mut running: Running) -> Res<Step> {
        let mut value = None;
        match &mut running.kept {
            Kept::For { target, next, count } => {
                if *next >= *count {
                    return Ok(Step::Next);
                }
                if *count > MAX_UNROLLED {
                    let (target, count, body) = (target.clone(), Val::Int(*count), running.body.clone());
                    self.traced_loop(st, Some((&target, &count)), None, &body)?;
                    return Ok(Step::Next);
                }
                value = Some((target.clone(), Val::Int(*next)));
                *next += 1;
            }
            Kept::While { condition, count } => {
                let truth = self.eval(st, condition)?;
                match self.truth(st, &truth)? {
                    Truth::Known(false) => return Ok(Step::Next),
                    Truth::Known(true) if i64::from(*count) < MAX_UNROLLED => *count += 1,
                    Truth::Known(true) => {
                        let limit = usize::try_from(MAX_UNROLLED).unwrap_or(0);
                        return Err(Fault::Limit { what: "iterations of a loop".to_owned(), limit });
                    }
                    Truth::Traced(first) => {
                        let (condition, body) = (condition.clone(), running.body.clone());
                        self.traced_loop(st, None, Some((&condition, first)), &body)?;
                        return Ok(Step::Next);
                    }
                }
            }
            Kept::Plain | Kept::With(_) => {}
        }
        if let Some((target, value)) = value {
            self.assign(st, &target, value)?;
        }
        if let Some(frame) = st.frames.last_mut() {
            frame.blocks.push(running);
        }
        Ok(Step::Next)
    }

    /// The innermost call gives a value.
    fn give(&mut self, st: &mut State, value: Val) -> Res<()> {
        let Some(frame) = st.frames.pop() else { return Ok(()) };
        match frame.then {
            Then::Assign(targets, true) => self.unpack(st, &targets, &value),
            Then::Assign(targets, false) => match &*targets {
                [target] => self.assign(st, target, value),
                _ => self.unpack(st, &targets, &value),
            },
            Then::Drop => Ok(()),
            Then::Result => {
                st.result = Some(value);
                Ok(())
            }
        }
    }

    /// An exception: fails at run time where it is reached.
    fn raise(&mut self, message: &Val) -> Res<Flow> {
        let (text, operands) = match message {
            Val::Message(text, parts) => {
                let mut operands = vec![];
                for part in parts.iter() {
                    let traced = self.traced(part)?.1;
                    operands.push(self.g.value(&traced)?);
                }
                (text.to_string(), operands)
            }
            Val::Num(_, traced) => ("{}".to_owned(), vec![self.g.value(traced)?]),
            Val::Str(text) => (text.to_string(), vec![]),
            _ => (String::new(), vec![]),
        };
        let text: String = text.chars().take(MAX_MESSAGE).collect();
        let fail = Host::Fail { message: text.clone() };
        self.g.try_build(|b| b.add(fail.into(), &operands))?;
        Ok(Flow::Dead(text))
    }

    /// A branch on a condition that shows at run time.
    fn branch(
        &mut self,
        st: &mut State,
        condition: &Traced,
        arms: &[Rc<[Stmt]>; 2],
        stop: Stop,
        end: End,
    ) -> Res<Step> {
        let site = self.at;
        let here = Stop { frames: st.frames.len(), blocks: st.frames.last().map_or(0, |f| f.blocks.len()) };
        if !self.apart.contains(&site) {
            let (depth, growing) = (self.g.depth(), self.growing);
            let start = st.clone();
            let checkpoint = self.g.checkpoint();
            match self.split(st, condition, arms, here, End::Join) {
                Err(Fault::Apart(_)) => {
                    self.g.unwind(depth);
                    self.g.roll_back(checkpoint);
                    self.growing = growing;
                    *st = start;
                    self.precise = self.precise.saturating_sub(1);
                    self.apart.insert(site);
                }
                other => return other,
            }
        }
        self.at = site;
        self.split(st, condition, arms, stop, end)
    }

    /// Follows both arms up to `stop`, and joins what they leave. An arm that always raises is left alone: the other
    /// goes on in this graph.
    fn split(
        &mut self,
        st: &mut State,
        condition: &Traced,
        arms: &[Rc<[Stmt]>; 2],
        stop: Stop,
        end: End,
    ) -> Res<Step> {
        let start = st.clone();
        self.tick(SPLIT + start.heap.len() / 16)?;
        let here =
            Stop { frames: start.frames.len(), blocks: start.frames.last().map_or(0, |f| f.blocks.len()) };
        let is_inner = here.frames == stop.frames && here.blocks == stop.blocks;
        let checkpoint = self.g.checkpoint();
        let fact = self.fact(&start, condition);
        let mut done = vec![];
        for (i, arm) in arms.iter().enumerate() {
            let mut state = start.clone();
            let id = self.g.open(if i == 0 { "then" } else { "else" })?;
            let learned = self.learn_in_arm(&mut state, fact.as_ref(), i)?;
            self.begin(&mut state, arm.clone(), Kept::Plain)?;
            let flow = self.run_arm(&mut state, stop, end);
            if flow.is_err() {
                done.iter().for_each(|(id, _)| self.g.forget(*id));
            }
            match flow? {
                Flow::Stopped => {
                    self.settle(&mut state, start.heap.len())?;
                    forget(&start, &mut state, fact.as_ref().filter(|f| f.arm == i), &learned);
                    self.g.park();
                    done.push((id, state));
                }
                Flow::Dead(_) => {
                    // The first arm is followed again, outside of a graph of its own.
                    done.iter().for_each(|(id, _)| self.g.forget(*id));
                    return self.one_way(st, start, condition, arms, i);
                }
            }
        }
        let [(a, left), (b, right)] =
            <[_; 2]>::try_from(done).map_err(|_| Fault::invalid("a branch is lost"))?;
        let joined = self.join_arms(condition, (a, &left), (b, &right), start.heap.len(), end);
        self.g.forget(a);
        self.g.forget(b);
        match joined {
            Ok(joined) => *st = joined,
            Err(fault) => {
                self.g.roll_back(checkpoint);
                return Err(fault);
            }
        }
        Ok(if is_inner { Step::Next } else { Step::Ended(Flow::Stopped) })
    }

    /// Follows an arm, whose graph was just opened. One in which an operator does not take its operands raises where it
    /// is taken, and does nothing else.
    fn run_arm(&mut self, st: &mut State, stop: Stop, end: End) -> Res<Flow> {
        let (depth, growing, checkpoint) = (self.g.depth(), self.growing, self.g.checkpoint());
        match self.run(st, stop, end) {
            Err(Fault::Raises(reason)) if self.lenient => {
                self.g.unwind(depth.saturating_sub(1));
                self.g.roll_back(checkpoint);
                self.growing = growing;
                self.g.open("raise")?;
                self.raise(&Val::text(reason))
            }
            other => other,
        }
    }

    /// One arm, whose graph is under way, always raises: it becomes a branch without results, and the other arm is
    /// followed in the graph around it, to where the part that is under way ends.
    fn one_way(
        &mut self,
        st: &mut State,
        start: State,
        condition: &Traced,
        arms: &[Rc<[Stmt]>; 2],
        dead: usize,
    ) -> Res<Step> {
        let raising = self.g.close()?;
        self.g.open("pass")?;
        let other = self.g.close()?;
        let (raising, other, operands) = self.g.keep_pair(raising, other);
        let traced = condition.clone();
        let condition = self.g.value(condition)?;
        let op = match dead {
            0 => Control::If { then_graph: raising, else_graph: other },
            _ => Control::If { then_graph: other, else_graph: raising },
        };
        let operands: Vec<_> = std::iter::once(condition).chain(operands).collect();
        self.g.add_all(op.into(), &operands)?;
        let fact = self.fact(&start, &traced).filter(|f| f.arm == 1 - dead);
        *st = start;
        if let Some(fact) = fact {
            self.learn(st, &fact)?;
        }
        let arm = arms.get(1 - dead).cloned().unwrap_or_else(|| [].into());
        self.begin(st, arm, Kept::Plain)
    }

    /// Calls what enters the program.
    fn enter(&mut self, st: &mut State, call: &Call, then: Then) -> Res<()> {
        let args = call.args.iter().map(|a| self.eval(st, a)).collect::<Res<Vec<Val>>>()?;
        let mut kwargs = vec![];
        for (name, value) in &call.kwargs {
            kwargs.push((name.clone(), self.eval(st, value)?));
        }
        if let Expr::Attr(value, method) = &call.callee {
            if call.callee.root() == Some("__torch__") && call.callee.path().is_some() {
                let path = call.callee.path().unwrap_or_default();
                return match self.program.item(&path)? {
                    Some(Item::Function(f)) => self.push(st, &f, args, kwargs, then),
                    Some(Item::Class(class)) => {
                        if !kwargs.is_empty() || args.len() != class.attributes().count() {
                            return Err(Fault::invalid(format!("`{path:.200}` is made of other fields")));
                        }
                        self.check_nesting(&args)?;
                        st.charge_values(args.len());
                        let tuple = Val::Tuple(args.into(), Some(path.as_str().into()));
                        self.deliver(st, then, tuple)
                    }
                    None => Err(Fault::invalid(format!("there is no function `{path:.200}`"))),
                };
            }
            let receiver = self.eval(st, value)?;
            return self.call_method_with(st, &receiver, method, args, kwargs, then);
        }
        match self.eval(st, &call.callee)? {
            Val::Function(f) => self.push(st, &f, args, kwargs, then),
            Val::Instance(r) => self.call_method_with(st, &Val::Instance(r), "forward", args, kwargs, then),
            other => Err(Fault::invalid(format!("{} is called", other.kind()))),
        }
    }

    /// Does with a value what would be done with a call's.
    fn deliver(&mut self, st: &mut State, then: Then, value: Val) -> Res<()> {
        match then {
            Then::Assign(targets, unpack) if unpack || targets.len() != 1 => {
                self.unpack(st, &targets, &value)
            }
            Then::Assign(targets, _) => match targets.first() {
                Some(target) => self.assign(st, target, value),
                None => Ok(()),
            },
            Then::Drop => Ok(()),
            Then::Result => {
                st.result = Some(value);
                Ok(())
            }
        }
    }

    fn call_method(&mut self, st: &mut State, on: &Val, name: &str, args: Vec<Val>, then: Then) -> Res<()> {
        self.call_method_with(st, on, name, args, vec![], then)
    }

    /// Calls a method of an object.
    pub fn call_method_with(
        &mut self,
        st: &mut State,
        on: &Val,
        name: &str,
        mut args: Vec<Val>,
        kwargs: Vec<(Name, Val)>,
        then: Then,
    ) -> Res<()> {
        let Val::Instance(r) = on else {
            return Err(Fault::unsupported(format!("method `{name:.100}` of {}", on.kind())));
        };
        let Some(Cell::Instance(class, _)) = st.cell(*r) else {
            return Err(Fault::invalid("no such object"));
        };
        let path = class.clone();
        let class = self.program.class(&path)?;
        let method = class.method(name).cloned();
        let method = method.ok_or_else(|| Fault::invalid(format!("`{path}` has no method `{name:.100}`")))?;
        args.insert(0, on.clone());
        self.push(st, &method, args, kwargs, then)
    }

    /// Begins a call.
    pub fn push(
        &mut self,
        st: &mut State,
        f: &Rc<Function>,
        args: Vec<Val>,
        kwargs: Vec<(Name, Val)>,
        then: Then,
    ) -> Res<()> {
        self.tick(4)?;
        if st.frames.len() >= MAX_CALLS {
            return Err(Fault::Limit { what: "depth of calls".to_owned(), limit: MAX_CALLS });
        }
        if st.frames.iter().filter(|frame| Rc::ptr_eq(&frame.function, f)).count() >= MAX_SELF_CALLS {
            return Err(Fault::unsupported(format!("`{}` calls itself", f.name)));
        }
        if args.len() > f.params.len() {
            return Err(Fault::invalid(format!(
                "`{}` takes {} arguments, not {}",
                f.name,
                f.params.len(),
                args.len()
            )));
        }
        for (i, (name, _)) in kwargs.iter().enumerate() {
            let at = f.params.iter().position(|p| p.name == *name);
            let earlier = kwargs.iter().take(i).any(|(other, _)| other == name);
            if earlier || at.is_none_or(|at| at < args.len()) {
                return Err(Fault::invalid(format!("`{}` takes no `{name:.100}`, or has it twice", f.name)));
            }
        }
        let mut env = Env::default();
        let mut args = args.into_iter();
        for param in &f.params {
            let given = args.next().or_else(|| {
                kwargs.iter().find(|(name, _)| *name == param.name).map(|(_, value)| value.clone())
            });
            let value = match (given, &param.default) {
                (Some(value), _) => value,
                (None, Some(default)) => self.eval(st, default)?,
                (None, None) => return Err(Fault::invalid(format!("`{}` lacks `{}`", f.name, param.name))),
            };
            env.insert(param.name.clone(), value);
        }
        let body = Running { body: f.body.clone(), at: 0, kept: Kept::Plain };
        st.frames.push(Frame { function: f.clone(), env: Rc::new(env), blocks: vec![body], then });
        Ok(())
    }

    /// A single value as a rank-0 tensor, with its kind.
    pub fn traced(&self, v: &Val) -> Res<(Kind, Traced)> {
        Ok(match v {
            Val::Bool(b) => (Kind::Bool, Traced::Constant(Tensor::from_bools(&[], &[*b])?)),
            Val::Int(n) => (Kind::Int, Traced::Constant(Tensor::scalar(*n))),
            Val::Float(x) => (Kind::Float, Traced::Constant(Tensor::scalar(*x))),
            Val::Dim(dim) => (Kind::Int, Traced::Size(dim.clone())),
            Val::Num(kind, traced) => (*kind, traced.clone()),
            Val::Str(text) => (Kind::Text, Traced::Constant(Tensor::strings(&[], vec![text.to_string()])?)),
            other => {
                return Err(Fault::unsupported(format!("{} where a single value is needed", other.kind())));
            }
        })
    }

    /// The truth of a value.
    pub fn truth(&mut self, st: &mut State, v: &Val) -> Res<Truth> {
        Ok(match v {
            Val::Bool(b) => Truth::Known(*b),
            Val::Int(n) => Truth::Known(*n != 0),
            Val::Float(x) => Truth::Known(*x != 0.0),
            Val::None => Truth::Known(false),
            Val::Str(s) => Truth::Known(!s.is_empty()),
            Val::Tuple(items, _) => Truth::Known(!items.is_empty()),
            Val::Num(Kind::Bool, traced) => match self.g.known(traced).and_then(|k| k.ints()) {
                Some(ints) => Truth::Known(ints.first().is_some_and(|&n| n != 0)),
                None => Truth::Traced(traced.clone()),
            },
            other => {
                let b = self.truth_value(st, other)?;
                match b {
                    Val::Bool(b) => Truth::Known(b),
                    Val::Num(Kind::Bool, traced) => Truth::Traced(traced),
                    _ => return Err(Fault::invalid(format!("{} is no condition", other.kind()))),
                }
            }
        })
    }

    /// A rank-0 bool tensor that is known where inference knows it.
    pub fn bool_of(&self, traced: Traced) -> Val {
        match self.g.known(&traced) {
            Some(k) => match (k.ints(), k.tensor().and_then(|t| t.element(0))) {
                (Some(ints), _) if ints.len() == 1 => Val::Bool(ints.first().is_some_and(|&n| n != 0)),
                (_, Some(kiln_ir::Scalar::B(b))) => Val::Bool(b),
                _ => Val::Num(Kind::Bool, traced),
            },
            None => Val::Num(Kind::Bool, traced),
        }
    }

    /// Whether a traced value is of a dtype.
    pub fn dtype(&self, traced: &Traced) -> Res<DType> {
        let ty = self.g.ty(traced)?;
        ty.as_tensor()
            .map(|t| t.dtype)
            .ok_or_else(|| Fault::invalid(format!("{ty} where a tensor is needed")))
    }
}
