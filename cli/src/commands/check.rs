//! `kiln check`.

mod against;

use anyhow::{Context, Result, bail};
use kiln::check::{Difference, compare, with_all_outputs};
use kiln::ir::{Evaluator, GraphId, Module};
use kiln::runtime::{Datum, SessionOptions};

use super::{SEED, Usage, options, read_inputs, spinner};
use crate::args::CheckArgs;
use crate::out::{out, outln};
use crate::table::Table;

/// Differing nodes that are listed.
const LISTED: usize = 20;

/// Compares compiled and evaluated results.
pub fn run(args: &CheckArgs) -> Result<()> {
    if let Some(original) = &args.against {
        return against::run(args, original);
    }
    let place = || args.model.display().to_string();
    let tolerance = tolerance(args);
    let module = kiln::load_with(&args.model, &options(&args.options)?)?;
    let id = match &args.entry {
        Some(name) => module.entries().iter().copied().find(|&g| module.graph(g).name() == name),
        None => module.entries().first().copied(),
    };
    let id = id.ok_or_else(|| {
        let names = module.entries().iter().map(|&g| format!("`{}`", module.graph(g).name()));
        let names = names.collect::<Vec<_>>().join(", ");
        let wanted = args.entry.as_deref().unwrap_or_default();
        Usage(format!("{}: there is no entry point `{wanted}`; there are {names}", place()))
    })?;
    let graph = module.graph(id);
    let ports =
        || graph.input_names().iter().map(String::as_str).zip(graph.inputs().iter().map(|&v| graph.ty(v)));
    let inputs = if args.inputs.is_empty() {
        kiln::sample_inputs(ports(), SEED)?.into_iter().map(Datum::Tensor).collect()
    } else {
        read_inputs(&args.inputs, ports())?
    };
    let bar = spinner("evaluating the reference");
    let expected = Evaluator::new(&module).run(id, &inputs).with_context(place)?;
    bar.set_message("compiling and running");
    let actual = compiled(module.clone(), id, args, &inputs)?;
    bar.finish_and_clear();

    let (mut worst, mut table) =
        (0.0f64, Table::new(&["output", "max difference", "max reference", "relative"]));
    for ((name, a), e) in graph.output_names().iter().zip(&actual).zip(&expected) {
        let d = compare(a, e);
        worst = worst.max(d.relative());
        table.row(row(name, &d));
    }
    out!("{}", table.render())?;
    if worst <= tolerance {
        outln!("equal within {tolerance:e}: the largest relative difference is {worst:.3e}")?;
        return Ok(());
    }
    out!("{}", by_node(&module, id, args, &inputs)?)?;
    bail!("{}: compiled and evaluated results differ by {worst:.3e}, more than {tolerance:e}", place())
}

fn tolerance(args: &CheckArgs) -> f64 {
    args.tolerance.unwrap_or(1e-4)
}

fn row(name: &str, d: &Difference) -> Vec<String> {
    let relative = d.mismatch.clone().unwrap_or_else(|| format!("{:.3e}", d.relative()));
    vec![name.to_owned(), format!("{:.3e}", d.max_difference), format!("{:.3e}", d.max_reference), relative]
}

fn compiled(module: Module, id: GraphId, args: &CheckArgs, inputs: &[Datum]) -> Result<Vec<Datum>> {
    let name = module.graph(id).name().to_owned();
    let threads = usize::try_from(args.threads).ok();
    let session = kiln::compile(module, &options(&args.options)?)?
        .into_session(SessionOptions { threads, ..Default::default() })?;
    Ok(session.run(&name, inputs)?)
}

/// The nodes whose results differ when every intermediate value is an output, in execution order.
fn by_node(module: &Module, id: GraphId, args: &CheckArgs, inputs: &[Datum]) -> Result<String> {
    let (all, all_id, names) = with_all_outputs(module, id)?;
    let expected = Evaluator::new(&all).run(all_id, inputs)?;
    let actual = compiled(all, all_id, args, inputs)?;
    let mut table = Table::new(&["node", "max difference", "max reference", "relative"]);
    let mut count = 0;
    for ((name, a), e) in names.iter().zip(&actual).zip(&expected) {
        let d = compare(a, e);
        if d.relative() > tolerance(args) {
            count += 1;
            if count <= LISTED {
                table.row(row(name, &d));
            }
        }
    }
    if count == 0 {
        return Ok("no single node differs when every intermediate value is kept: the difference comes from fusion\n".into());
    }
    Ok(format!("{count} nodes differ, in execution order:\n{}", table.render()))
}
