//! The commands, one file each, and what they share.

pub mod bench;
pub mod check;
pub mod compile;
pub mod demo;
pub mod inspect;
pub mod profile;
pub mod run;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use kiln::Options;
use kiln::ir::{Tensor, Type};
use kiln::loaders::onnx::read_tensor_pb;
use kiln::loaders::{LoadError, npz};
use kiln::passes::PASSES;
use kiln::runtime::cpu::Tier;
use kiln::runtime::program::Entry;
use kiln::runtime::{Datum, Session, SessionOptions};

use crate::args::{ModelArgs, TargetArg};

/// Seed of inputs that a command makes up.
pub const SEED: u64 = 1;

/// Whether the error is the reader of our output going away.
pub fn is_broken_pipe(e: &anyhow::Error) -> bool {
    e.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == ErrorKind::BrokenPipe)
}

/// The error with its causes, each unless the message before holds it already.
pub fn message(e: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in e.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// The facade's options for the command line's.
pub fn options(args: &ModelArgs) -> Result<Options> {
    let tier = match args.target {
        TargetArg::Native => None,
        TargetArg::V2 => Some(Tier::X86V2),
        TargetArg::V3 => Some(Tier::X86V3),
        TargetArg::V3Vnni => Some(Tier::X86V3Vnni),
        TargetArg::V4 => Some(Tier::X86V4),
        TargetArg::V4Vnni => Some(Tier::X86V4Vnni),
        TargetArg::V4Amx => Some(Tier::X86V4Amx),
        TargetArg::Aarch64 => Some(Tier::Aarch64),
    };
    known_passes(&args.disable_pass)?;
    let passes = kiln::passes::Options {
        disabled: args.disable_pass.clone(),
        fold: args.limits.folding(),
        ..Default::default()
    };
    Ok(Options {
        shapes: args.shapes.clone(),
        arguments: args.arguments.clone(),
        weights: args.weights.loading(),
        limits: args.limits.loading(),
        tier,
        winograd: !args.no_winograd,
        passes,
        ..Options::default()
    })
}

/// Refuses names that no pass has.
pub fn known_passes(names: &[String]) -> Result<()> {
    match names.iter().find(|name| !PASSES.iter().any(|p| p.name == name.as_str())) {
        Some(name) => {
            let all = PASSES.iter().map(|p| p.name).collect::<Vec<_>>().join(", ");
            Err(Usage(format!("no pass is named `{name}`; the passes are {all}")).into())
        }
        None => Ok(()),
    }
}

/// The command line asks for what does not exist or does not go together.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// Whether the command line is at fault, not the model or its data.
pub fn is_usage(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let shape = matches!(cause.downcast_ref(), Some(kiln::Error::Load(LoadError::Option { .. })));
        cause.is::<Usage>() || shape
    })
}

/// A session on a model or artifact, with a spinner while a model compiles.
pub fn open(path: &Path, args: &ModelArgs, threads: u32) -> Result<Session> {
    open_within(path, args, threads, None)
}

/// As [`open`]; a run may hold at most `max_memory` bytes.
pub fn open_within(path: &Path, args: &ModelArgs, threads: u32, max_memory: Option<u64>) -> Result<Session> {
    let is_artifact = kiln::is_artifact(path)?;
    let compiled_already = !args.shapes.is_empty()
        || !args.arguments.is_empty()
        || args.weights.weights.is_some()
        || !args.disable_pass.is_empty()
        || args.no_winograd;
    if is_artifact && (compiled_already || args.target != TargetArg::Native) {
        return Err(Usage(format!(
            "{}: this is a compiled artifact; --shape, --arg, --weights, --target, --disable-pass and --no-winograd apply when a model is compiled",
            path.display()
        ))
        .into());
    }
    let options = options(args)?;
    let bar = if is_artifact { None } else { Some(spinner(&format!("compiling {}", path.display()))) };
    let session = SessionOptions { threads: usize::try_from(threads).ok(), max_memory, ..Default::default() };
    let opened = kiln::open_session(path, &options, session);
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    Ok(opened?)
}

/// A spinner on standard error; nothing where that is no terminal.
pub fn spinner(message: &str) -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
        bar.set_style(style);
    }
    bar.set_message(message.to_owned());
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

/// The entry of that name, or the first.
pub fn entry<'s>(session: &'s Session, name: Option<&str>, path: &Path) -> Result<&'s Entry> {
    match name {
        Some(name) => session.entry(name).map_err(|_| {
            let all = session.entries().iter().map(|e| format!("`{}`", e.name)).collect::<Vec<_>>();
            let place = path.display();
            Usage(format!("{place}: there is no entry point `{name}`; there are {}", all.join(", "))).into()
        }),
        None => {
            session.entries().first().with_context(|| format!("{}: there is no entry point", path.display()))
        }
    }
}

/// Reads the inputs of an entry from files, whose content tells their format: by name from `.npz`, by position from
/// `.npy` and `.pb`.
pub fn read_inputs<'p>(
    files: &[PathBuf],
    ports: impl Iterator<Item = (&'p str, &'p Type)>,
) -> Result<Vec<Datum>> {
    let ports: Vec<(&str, &Type)> = ports.collect();
    let names = || ports.iter().map(|(n, _)| format!("`{n}`")).collect::<Vec<_>>().join(", ");
    let mut values: Vec<Option<Tensor>> = vec![None; ports.len()];
    let mut position = 0;
    for file in files {
        let format = npz::format(file)?;
        let named = format == Some(npz::Format::Archive);
        for (name, tensor) in read_arrays(file, format)? {
            let at = match ports.iter().position(|(n, _)| *n == name) {
                Some(at) if named => at,
                None if named => {
                    bail!("{}: no input is named `{name}`; the inputs are {}", file.display(), names())
                }
                _ => position,
            };
            position = at + 1;
            let Some(slot) = values.get_mut(at) else {
                bail!("{}: the model has {} inputs: {}", file.display(), ports.len(), names());
            };
            if slot.replace(tensor).is_some() {
                bail!("{}: input `{}` is given twice", file.display(), ports[at].0);
            }
        }
    }
    let missing: Vec<String> = ports
        .iter()
        .zip(&values)
        .filter(|(_, v)| v.is_none())
        .map(|((n, t), _)| format!("`{n}`: {t}"))
        .collect();
    if !missing.is_empty() {
        let files = files.iter().map(|f| f.display().to_string()).collect::<Vec<_>>().join(", ");
        bail!("{files}: no value is given for {}", missing.join(", "));
    }
    let files = files.iter().map(|f| f.display().to_string()).collect::<Vec<_>>().join(", ");
    for ((name, ty), tensor) in ports.iter().zip(values.iter().flatten()) {
        let fits = ty.as_tensor().is_some_and(|t| {
            t.dtype == tensor.dtype() && t.shape.rank().is_none_or(|rank| rank == tensor.dims().len())
        });
        if !fits {
            bail!("{files}: input `{name}` is {}, the model takes {ty}", tensor.ty());
        }
    }
    Ok(values.into_iter().flatten().map(Datum::Tensor).collect())
}

fn read_arrays(file: &Path, format: Option<npz::Format>) -> Result<Vec<(String, Tensor)>> {
    match format {
        Some(npz::Format::Array | npz::Format::Archive) => Ok(npz::read(file)?),
        // A protobuf has no magic number: it is what nothing else is.
        None => {
            let what = || format!("{}: neither .npy nor .npz, and no tensor in .pb", file.display());
            Ok(vec![read_tensor_pb(file).with_context(what)?])
        }
    }
}

/// Inputs from files, or made up if there are none.
pub fn inputs_or_samples(files: &[PathBuf], entry: &Entry) -> Result<Vec<Datum>> {
    let ports = || entry.inputs.iter().map(|p| (p.name.as_str(), &p.ty));
    if files.is_empty() {
        let tensors = kiln::sample_inputs(ports(), SEED)?;
        return Ok(tensors.into_iter().map(Datum::Tensor).collect());
    }
    read_inputs(files, ports())
}

/// Writes outputs as `.npz` or `.npy`.
pub fn write_outputs(path: &Path, outputs: Vec<(String, Datum)>) -> Result<()> {
    let mut arrays = vec![];
    for (name, value) in outputs {
        let ty = value.ty();
        let Some(tensor) = value.into_tensor() else {
            bail!("{}: output `{name}` is a {ty}, which NumPy files cannot hold", path.display());
        };
        arrays.push((name, tensor));
    }
    Ok(npz::write(path, &arrays)?)
}

/// Largest resident set of this process so far, in MiB; 0 where the system does not tell.
pub fn peak_rss_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let kib = line.and_then(|l| l.split_whitespace().next()).and_then(|n| n.parse::<f64>().ok());
    kib.unwrap_or(0.0) / 1024.0
}
