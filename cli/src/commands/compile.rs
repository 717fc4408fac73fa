//! `kiln compile`.

use std::time::Instant;

use anyhow::{Context, Result};
use kiln::Compiled;
use kiln::passes::quantize::{Bits, Groups, Rounding, Storage};
use kiln::passes::sparsify::{Method, Pattern, Pruning};
use kiln::passes::{PASSES, Refusals, Report};
use kiln::quantize::{Mode, Quantization};
use kiln::runtime::artifact::ArtifactSize;
use kiln::sparsify::Sparsification;

use super::{Usage, known_passes, options, spinner};
use crate::args::{
    CompileArgs, PatternArg, QuantizeArg, QuantizeArgs, RoundingArg, SparsifyArg, SparsifyArgs,
};
use crate::out::{out, outln};
use crate::report::{self, list, quantize, sparsify};
use crate::table::{bytes, millis};

/// Compiles a model into an artifact.
pub fn run(args: &CompileArgs) -> Result<()> {
    if args.help_passes {
        for pass in PASSES {
            outln!("{}", pass.name)?;
            for (needs, why) in pass.after {
                outln!("    after {needs}: {why}")?;
            }
        }
        return Ok(());
    }
    let (model, output) = (args.model.as_ref(), args.output.as_ref());
    // clap requires both unless --help-passes is given.
    let (model, output) = model.zip(output).context("MODEL and -o OUT.kiln are needed")?;
    let mut options = options(&args.options)?;
    known_passes(&args.dump_after)?;
    options.passes.dump_after.clone_from(&args.dump_after);
    options.listings = args.dump_asm;
    options.threads = args.threads.and_then(|threads| usize::try_from(threads).ok());

    let start = Instant::now();
    let bar = spinner(&format!("loading {}", model.display()));
    let module = kiln::load_with(model, &options)?;
    let loaded = start.elapsed().as_secs_f64() * 1e3;
    let (sparsification, quantization) = (sparsification(args)?, quantization(args)?);
    let (module, sparsified) = match sparsification {
        Some(sparsification) => {
            bar.set_message(format!("sparsifying {}", model.display()));
            let kiln::sparsify::Sparsified { module, report } =
                kiln::sparsify::sparsify(module, &options, &sparsification)?;
            (module, Some(report))
        }
        None => (module, None),
    };
    // Zeros are integers, too.
    let (module, quantized) = match quantization {
        Some(quantization) => {
            bar.set_message(format!("quantizing {}", model.display()));
            let kiln::quantize::Quantized { module, narrow, report } =
                kiln::quantize::quantize(module, &options, &quantization)?;
            options.passes.narrow = narrow;
            (module, Some(report))
        }
        None => (module, None),
    };
    bar.set_message(format!("compiling {}", model.display()));
    let compiled = kiln::compile(module, &options)?;
    bar.set_message(format!("writing {}", output.display()));
    let size = compiled.save(output)?;
    bar.finish_and_clear();
    let total = start.elapsed().as_secs_f64() * 1e3;

    if let Some(report) = &sparsified {
        out!("{}", sparsify::text(report, args.verbose))?;
    }
    if let Some(report) = &quantized {
        out!("{}", quantize::text(report, args.verbose))?;
    }
    for file in &args.quantize.reports {
        report::write(file, &model.display().to_string(), (sparsified.as_ref(), quantized.as_ref()))?;
    }
    dump(&compiled, args)?;
    outln!("{} -> {}", model.display(), output.display())?;
    outln!("  loaded in {}, compiled and written in {}", millis(loaded), millis(total - loaded))?;
    out!("{}", summary(&compiled, &size, args.verbose))?;
    Ok(())
}

/// The texts that were asked for, pass by pass, then kernel by kernel.
fn dump(compiled: &Compiled, args: &CompileArgs) -> Result<()> {
    for pass in &compiled.passes.passes {
        if let Some(dump) = &pass.dump {
            outln!("// after {}\n{dump}", pass.name)?;
        }
    }
    let kernels = compiled.image.program.kernels.iter().zip(&compiled.kernel_texts);
    for ((kernel, text), listing) in kernels.zip(&compiled.kernel_listings) {
        if args.dump_kir {
            outln!("{text}")?;
        }
        if args.dump_asm {
            outln!("// machine code of kernel {} ({} bytes)\n{listing}", kernel.name, kernel.code_len)?;
        }
    }
    Ok(())
}

/// How to quantize, if at all.
fn quantization(args: &CompileArgs) -> Result<Option<Quantization>> {
    let QuantizeArgs { quantize, calibrate, max_drop, .. } = &args.quantize;
    let Some(how) = *quantize else { return Ok(None) };
    if max_drop.is_some() && how != QuantizeArg::Int8 {
        return Err(Usage("--max-drop goes with --quantize int8".into()).into());
    }
    let data = calibrate.clone();
    let storage = storage(how, &args.quantize)?;
    let mode = match (how, storage, data) {
        (_, Some(storage), data) => Mode::Weights { storage, data },
        (QuantizeArg::Int8, None, Some(data)) => Mode::Static { data },
        (QuantizeArg::Int8, None, None) => {
            let message = "--quantize int8 needs --calibrate DATA; int8-dynamic needs no data";
            return Err(Usage(message.into()).into());
        }
        (_, None, data) => Mode::Dynamic { data },
    };
    let quantization = Quantization { mode, max_drop: *max_drop };
    match quantization.refused() {
        Some(reason) => Err(Usage(reason).into()),
        None => Ok(Some(quantization)),
    }
}

/// Weights of a group unless the arguments say otherwise.
const GROUP: usize = 32;

/// How weights alone are stored, if they are.
fn storage(how: QuantizeArg, args: &QuantizeArgs) -> Result<Option<Storage>> {
    let QuantizeArgs { group, asymmetric, rounding, .. } = args;
    let (bits, floats) = match how {
        QuantizeArg::Int4 => (Some(Bits::Four), None),
        QuantizeArg::Int8Weights => (Some(Bits::Eight), None),
        QuantizeArg::F16 => (None, Some(Storage::F16)),
        QuantizeArg::Bf16 => (None, Some(Storage::Bf16)),
        QuantizeArg::Int8 | QuantizeArg::Int8Dynamic => (None, None),
    };
    let Some(bits) = bits else {
        if group.is_some() || *asymmetric || rounding.is_some() {
            let message = "--group, --asymmetric and --rounding go with --quantize int4 and int8-weights";
            return Err(Usage(message.into()).into());
        }
        return Ok(floats);
    };
    let rounding = match rounding {
        None | Some(RoundingArg::Nearest) => Rounding::Nearest,
        Some(RoundingArg::Hqq) => Rounding::Hqq,
    };
    let groups = Groups { bits, size: group.unwrap_or(GROUP), asymmetric: *asymmetric, rounding };
    Ok(Some(Storage::Groups(groups)))
}

/// How to sparsify, if at all.
fn sparsification(args: &CompileArgs) -> Result<Option<Sparsification>> {
    let SparsifyArgs { sparsify, density, pattern } = &args.sparsify;
    let Some(how) = sparsify else { return Ok(None) };
    let method = match how {
        SparsifyArg::Magnitude => Method::Magnitude,
        SparsifyArg::Wanda => Method::Wanda,
    };
    let on_integers = match args.quantize.quantize {
        None => false,
        Some(QuantizeArg::Int8 | QuantizeArg::Int8Dynamic) => true,
        Some(_) => {
            let reason = "--sparsify goes with --quantize int8 and int8-dynamic: kernels of weights in fewer bits multiply all";
            return Err(Usage(reason.into()).into());
        }
    };
    let pattern = match pattern {
        PatternArg::Unstructured => Pattern::Unstructured,
        // As the kernels like them that multiply the weights.
        PatternArg::Block4 if on_integers => Pattern::Block4Inputs,
        PatternArg::Block4 => Pattern::Block4,
        PatternArg::TwoOfFour => Pattern::TwoOfFour,
    };
    let Some(density) = density.or_else(|| pattern.only_density()) else {
        return Err(Usage("--sparsify needs --density D, the part of the weights to keep".into()).into());
    };
    let data = args.quantize.calibrate.clone();
    let sparsification = Sparsification { pruning: Pruning { method, pattern, density }, data };
    match sparsification.refused() {
        Some(reason) => Err(Usage(reason).into()),
        None => Ok(Some(sparsification)),
    }
}

/// What the compilation did, as text.
pub fn summary(compiled: &Compiled, size: &ArtifactSize, verbose: bool) -> String {
    let Compiled { passes, summary, .. } = compiled;
    let (before, after) = node_counts(passes);
    let mut out = format!(
        "  operators: {before} before, {after} after the passes\n  kernels: {} distinct, {} steps that run {} nodes\n",
        summary.kernels, summary.kernel_steps, summary.kernel_nodes
    );
    let fixed = compiled.image.program.functions.iter().all(|f| f.arena.is_some());
    let arena = if fixed { bytes(summary.arena_bytes) } else { "as much as the shapes need".to_owned() };
    out += &format!(
        "  memory: {arena} of intermediate values\n  artifact: {} (code {}, weights {}, plan {})\n",
        bytes(size.file),
        bytes(size.code),
        bytes(size.weights),
        bytes(size.plan)
    );
    match summary.slow.as_slice() {
        [] => out += "  every operator has a kernel\n",
        nodes => {
            out += &format!("  {} nodes run on the slow path (reference evaluator):\n", nodes.len());
            let lines = nodes.iter().map(|n| format!("{} ({}): {}", n.node, n.op, n.reason));
            list(&mut out, lines, verbose);
        }
    }
    if verbose {
        out += "passes\n";
        out += &passes.summary(Refusals::Listed);
        out += "kernels\n";
        for k in kiln::kernel_uses(&compiled.image.program) {
            let code = bytes(k.kernel.code_len);
            out += &format!("  {} x{} ({code} of code): {}\n", k.kernel.name, k.steps, k.nodes.join(", "));
        }
        for split in &summary.splits {
            out += &format!("  `{}` is not one kernel: {}\n", split.graph, split.reason);
        }
    }
    out
}

/// Nodes before the first and after the last pass.
pub fn node_counts(passes: &Report) -> (usize, usize) {
    let first = passes.passes.first().map_or(0, |p| p.nodes_before);
    (first, passes.passes.last().map_or(0, |p| p.nodes_after))
}
