//! Comparing two models or artifacts on data.

use std::path::Path;

use anyhow::{Context, Result, bail};
use kiln::agreement::Agreement;
use kiln::quantize::{Data, DataError};
use kiln::runtime::{Datum, Session, SessionOptions};

use crate::args::CheckArgs;
use crate::commands::{SEED, Usage, entry, open};
use crate::out::{out, outln};

/// Samples that are made up where there is no data.
const MADE_UP: u64 = 8;

/// Why a comparison stops.
#[derive(Debug, thiserror::Error)]
enum Stopped {
    #[error(transparent)]
    Data(#[from] DataError),
    #[error(transparent)]
    Run(#[from] kiln::runtime::RunError),
}

/// Runs both on every sample and prints how the outputs agree.
pub fn run(args: &CheckArgs, original: &Path) -> Result<()> {
    let (new, old) = (session(&args.model, args)?, session(original, args)?);
    let (new_entry, old_entry) =
        (entry(&new, args.entry.as_deref(), &args.model)?, entry(&old, args.entry.as_deref(), original)?);
    let ports: Vec<_> = old_entry.inputs.iter().map(|p| (p.name.clone(), p.ty.clone())).collect();
    let names: Vec<&str> = old_entry.outputs.iter().map(|p| p.name.as_str()).collect();
    let outputs = new_entry.outputs.len();
    if new_entry.inputs.len() != ports.len() || outputs != names.len() {
        bail!(
            "{} has {} inputs and {outputs} outputs, {} has {} and {}",
            args.model.display(),
            new_entry.inputs.len(),
            original.display(),
            ports.len(),
            names.len()
        );
    }
    // Inputs go by name where both have the same names, else by position.
    let place = |name: &str| ports.iter().position(|(n, _)| n == name);
    let order: Vec<usize> =
        new_entry.inputs.iter().enumerate().map(|(i, p)| place(&p.name).unwrap_or(i)).collect();
    let mut all = vec![Agreement::default(); names.len()];
    let mut compare = |inputs: &[Datum]| -> Result<(), Stopped> {
        new.reset_states();
        old.reset_states();
        let expected = old.run(&old_entry.name, inputs)?;
        let own: Vec<Datum> = order.iter().filter_map(|&i| inputs.get(i).cloned()).collect();
        let actual = new.run(&new_entry.name, &own)?;
        for ((entry, a), e) in all.iter_mut().zip(&actual).zip(&expected) {
            entry.add(a, e);
        }
        Ok(())
    };
    if args.inputs.is_empty() {
        for seed in 0..MADE_UP {
            let types = ports.iter().map(|(n, t)| (n.as_str(), t));
            let tensors = kiln::sample_inputs(types, SEED + seed)?;
            compare(&tensors.into_iter().map(Datum::Tensor).collect::<Vec<_>>())?;
        }
    }
    for path in &args.inputs {
        let data = Data::open(path, ports.clone())?;
        data.visit::<Stopped>(&|_| true, &mut |_, _, inputs| compare(inputs))
            .with_context(|| path.display().to_string())?;
    }
    print(&names, &all)?;
    let worst = all.iter().map(Agreement::relative).fold(0.0, f64::max);
    match args.tolerance {
        Some(bar) if worst > bar => {
            bail!(
                "{}: the outputs differ by {worst:.3e} of their norm, more than {bar:e}",
                args.model.display()
            )
        }
        _ => Ok(()),
    }
}

/// A session; options of compiling are for what is a model.
fn session(path: &Path, args: &CheckArgs) -> Result<Session> {
    if !kiln::is_artifact(path)? {
        return open(path, &args.options, args.threads);
    }
    let threads = usize::try_from(args.threads).map_err(|_| Usage("too many threads".into()))?;
    let options = SessionOptions { threads: Some(threads), ..SessionOptions::default() };
    Ok(kiln::open_session(path, &kiln::Options::default(), options)?)
}

fn print(names: &[&str], all: &[Agreement]) -> Result<()> {
    let table = crate::report::quantize::agreement_table(names.iter().copied().zip(all));
    out!("{}", table.render())?;
    let cosine = all.iter().map(Agreement::cosine).fold(1.0, f64::min);
    let worst = all.iter().map(Agreement::relative).fold(0.0, f64::max);
    outln!("the outputs differ by at most {worst:.3e} of their norm; the least cosine is {cosine:.6}")?;
    Ok(())
}
