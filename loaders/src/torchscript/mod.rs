//! TorchScript: programs that `torch.jit.script` and `torch.jit.trace` save.
//!
//! An archive has a module tree (pickled), constants, and source text in a part of Python. Nothing is executed: the source
//! is parsed, and a machine follows it over values that are known or computed by graphs ([`machine`]). Calls are inlined;
//! branches and loops on what is known are decided, the others become graphs; changes in place become values; attributes
//! that methods change become states of the module. `forward` and the other public methods are entry points.
//!
//! What a program may ask for is bounded: the size of its trees, the depth of its calls, steps and nodes.

mod archive;
mod ast;
mod containers;
mod debug;
mod entry;
mod expr;
mod facts;
mod fault;
mod fold;
mod join;
mod lexer;
mod loops;
mod machine;
mod normalize;
mod objects;
mod ops;
mod parser;
#[cfg(test)]
mod print;
mod program;
mod scope;
mod states;
mod tensors;
#[cfg(test)]
mod tests;
mod text;
mod traced;
mod value;
mod weights;
mod writes;

use std::path::Path;
use std::rc::Rc;

use bytes::Bytes;
use kiln_ir::Module;

use archive::Package;
use ast::Function;
use fault::{Fault, Res};
use machine::Machine;
use objects::Objects;
use program::Program;
use value::{Ref, State, Val};

use crate::binding::{self, Binding};
use crate::{LoadError, LoadOptions};

/// How often entry points are built until no new state shows.
const MAX_ROUNDS: usize = 24;

/// Steps that a program may take, for each node that it may make.
const STEPS: usize = 8;

/// Bytes of tensors that do not lie densely and are copied, beyond the archive's size.
const COPIES: usize = 32 << 20;

/// Loads an archive.
pub(crate) fn load(path: &Path, bytes: Bytes, options: &LoadOptions) -> Result<Module, LoadError> {
    let package = Package::open(path, bytes, &options.limits)?;
    let nodes = options.limits.nodes_of(package.size());
    let mut machine = Machine::new(Program::new(&package), nodes, nodes.saturating_mul(STEPS));
    let loaded =
        read(&mut machine, &package, options).and_then(|read| build(&mut machine, &read, options, nodes));
    match loaded {
        Ok(()) => Ok(std::mem::take(&mut machine.g.module)),
        Err(Stopped::Load(error)) => Err(error),
        Err(Stopped::Fault(fault)) => Err(error_of(&machine, fault)),
    }
}

/// Why loading stops.
enum Stopped {
    Load(LoadError),
    Fault(Fault),
}

impl From<LoadError> for Stopped {
    fn from(error: LoadError) -> Self {
        Stopped::Load(error)
    }
}

impl From<Fault> for Stopped {
    fn from(fault: Fault) -> Self {
        Stopped::Fault(fault)
    }
}

/// A fault with its place in the program.
fn error_of(machine: &Machine<'_>, fault: Fault) -> LoadError {
    let path = machine.program.package().name();
    let place = || machine.program.place(machine.at.0, machine.at.1);
    match fault {
        Fault::Unsupported(reason) => {
            let mut reason = format!("unsupported: {reason}");
            // One failure hides the next: what else is lacking is told at once.
            let missing = machine.program.unknown_operators(&ops::is_known);
            if !missing.is_empty() {
                reason.push_str(&format!(
                    " (operators of the program that Kiln lacks: {})",
                    missing.join(", ")
                ));
            }
            LoadError::Program { path, place: place(), reason }
        }
        Fault::Invalid(reason) => LoadError::Program { path, place: place(), reason },
        Fault::Apart(reason) => LoadError::Program {
            path,
            place: place(),
            reason: format!("unsupported: results differ in kind from path to path: {reason}"),
        },
        Fault::Limit { what, limit } => LoadError::Limit { path, what, limit },
        Fault::Option(reason) => LoadError::Option { path, reason },
    }
}

/// What an archive has.
struct Read {
    object: Ref,
    /// The inputs that methods were traced with.
    traced: Vec<(String, Vec<Val>)>,
}

/// Reads the module tree, the constants and the traced inputs.
fn read(machine: &mut Machine<'_>, package: &Package<'_>, options: &LoadOptions) -> Result<Read, Stopped> {
    let mut copies = package.size().saturating_add(COPIES);
    let mut st = State::default();
    let data = package.part("data")?;
    let mut objects = Objects::new(&data, &mut machine.program, &mut copies);
    let root = match &options.weights {
        Some(new) => {
            let (root, weights) = objects.root_and_weights(&mut st, &mut machine.states)?;
            let checkpoint = binding::open(new, &options.limits).map_err(LoadError::from)?;
            weights::bind(&mut st, &weights, Binding::new(new, &checkpoint, &options.limits))?;
            root
        }
        None => objects.root(&mut st, &mut machine.states)?,
    };
    let Val::Instance(object) = root else {
        return Err(Fault::invalid("the archive holds no module").into());
    };
    if package.has("constants") {
        let constants = package.part("constants")?;
        let values =
            Objects::new(&constants, &mut machine.program, &mut copies).root(&mut st, &mut machine.states)?;
        machine.constants = st.items(&values).unwrap_or_default();
    }
    let inputs = package.pickle("traced_inputs");
    let traced = inputs.map(|content| traced::inputs(&content, &mut st)).unwrap_or_default();
    machine.states.origin = st;
    Ok(Read { object, traced })
}

/// Builds the entry points, until no new state shows.
fn build(machine: &mut Machine<'_>, read: &Read, options: &LoadOptions, nodes: usize) -> Result<(), Stopped> {
    let class = match machine.attributes_of(&machine.states.origin, read.object) {
        Some((class, _)) => machine.program.class(&class)?,
        None => return Err(Fault::invalid("the archive holds no module").into()),
    };
    let methods: Vec<Rc<Function>> = class.methods().filter(|f| !f.name.starts_with('_')).cloned().collect();
    let (forward, others): (Vec<_>, Vec<_>) = methods.into_iter().partition(|f| &*f.name == "forward");
    let methods: Vec<Rc<Function>> = forward.into_iter().chain(others).collect();
    if methods.is_empty() {
        return Err(Fault::invalid("the module has no method to run").into());
    }
    check_options(&methods, options)?;
    machine.begin_modes();
    for _ in 0..MAX_ROUNDS {
        machine.g = scope::Graphs::new(nodes);
        let _ = machine.states.take_changed();
        for (i, method) in methods.iter().enumerate() {
            entry(machine, read, method, options, i == 0)?;
        }
        if !machine.states.take_changed() {
            machine.declare_states()?;
            return Ok(());
        }
    }
    Err(Fault::unsupported("what attributes hold does not settle").into())
}

/// Builds one entry point. One that is not the first is left out where it cannot be built.
fn entry(
    machine: &mut Machine<'_>,
    read: &Read,
    method: &Rc<Function>,
    options: &LoadOptions,
    first: bool,
) -> Res<()> {
    let hints = read.traced.iter().find(|(name, _)| **name == *method.name);
    let hints = hints.map_or(&[][..], |(_, values)| values.as_slice());
    let checkpoint = machine.g.checkpoint();
    let states = machine.states.snapshot();
    let built = machine.entry(read.object, method, options, hints);
    let given = match built {
        Ok(given) => given,
        Err(fault @ Fault::Limit { .. }) => return Err(fault),
        Err(fault) if first => return Err(fault),
        Err(fault) => {
            let place = machine.program.place_of_warning(machine.at.0, machine.at.1);
            tracing::warn!(method = &*method.name, place, "left out: {fault:?}");
            machine.g.unwind(0);
            machine.g.roll_back(checkpoint);
            machine.states.restore(states);
            return Ok(());
        }
    };
    let Some(given) = given else { return Ok(()) };
    let class = machine.program.class(&given.class)?;
    for method in class.methods().filter(|f| !f.name.starts_with('_') && f.params.len() == 1) {
        machine.object_entry(&given, method)?;
    }
    Ok(())
}

/// Refuses names that no argument has.
fn check_options(methods: &[Rc<Function>], options: &LoadOptions) -> Res<()> {
    let names = options.shapes.keys().chain(options.arguments.keys()).chain(options.dtypes.keys());
    for name in names {
        let argument = name.split('.').next().unwrap_or_default();
        let known = methods.iter().any(|f| f.params.iter().skip(1).any(|p| &*p.name == argument));
        if !known {
            let all: Vec<&str> =
                methods.iter().flat_map(|f| f.params.iter().skip(1)).map(|p| &*p.name).collect();
            return Err(Fault::Option(format!(
                "no argument is named `{name}`; there are {}",
                all.join(", ")
            )));
        }
    }
    Ok(())
}
