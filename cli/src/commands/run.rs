//! `kiln run`.

use anyhow::{Context, Result};

use super::{entry, open_within, read_inputs, write_outputs};
use crate::args::RunArgs;

/// Runs one inference.
pub fn run(args: &RunArgs) -> Result<()> {
    let max_memory = args.max_memory.map(|mebibytes| mebibytes.saturating_mul(1 << 20));
    let session = open_within(&args.model, &args.options, args.threads, max_memory)?;
    let entry = entry(&session, args.entry.as_deref(), &args.model)?;
    let inputs = read_inputs(&args.inputs, entry.inputs.iter().map(|p| (p.name.as_str(), &p.ty)))?;
    let outputs = session.run(&entry.name, &inputs).with_context(|| args.model.display().to_string())?;
    let named = entry.outputs.iter().map(|p| p.name.clone()).zip(outputs).collect();
    write_outputs(&args.outputs, named)
}
