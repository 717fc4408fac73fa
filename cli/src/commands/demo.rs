//! `kiln demo`: the main job on a model that ships in the binary.

use std::io::Cursor;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use kiln::ir::Tensor;
use kiln::loaders::npz;
use kiln::runtime::{Datum, Executable, Session, SessionOptions};
use kiln::{Compiled, Options};

use super::bench::measure;
use super::compile::summary;
use crate::args::DemoArgs;
use crate::out::{out, outln};
use crate::stats::Summary;
use crate::table::{Table, millis};

/// A convolution network that reads 8x8 digits, trained on scikit-learn's bundled data (models/digits/train.py).
static MODEL: &[u8] = include_bytes!("../../../models/digits/digits.onnx");
/// Images and labels that the training did not see.
static IMAGES: &[u8] = include_bytes!("../../../models/digits/digits_test.npz");

/// Images of one measured run.
const BATCHES: [usize; 2] = [1, 64];

/// Compiles, runs and measures the embedded model.
pub fn run(args: &DemoArgs) -> Result<()> {
    outln!("A small convolution network that reads handwritten digits, from ONNX to machine code\n")?;
    let (images, labels) = test_data()?;
    let start = Instant::now();
    let module = kiln::load_bytes("digits.onnx", MODEL)?;
    let compiled = kiln::compile(module, &Options::default())?;
    let compile_ms = start.elapsed().as_secs_f64() * 1e3;

    outln!("1. Compile ({})", millis(compile_ms))?;
    // The artifact is run as code: only this user may write where it lies.
    let folder = tempfile::Builder::new().prefix("kiln-demo-").tempdir().context("a temporary folder")?;
    show(&compiled, folder.path(), &images, &labels, args)
}

fn show(compiled: &Compiled, folder: &Path, images: &Tensor, labels: &[i64], args: &DemoArgs) -> Result<()> {
    let path = folder.join("digits.kiln");
    let size = compiled.save(&path)?;
    out!("{}", summary(compiled, &size, false))?;
    outln!("\n   What each pass did:")?;
    out!("{}", passes(compiled))?;
    outln!("\n   Fused kernels:")?;
    for k in kiln::kernel_uses(&compiled.image.program) {
        outln!("     {} <- {}", k.kernel.name, k.nodes.join(", "))?;
    }

    let start = Instant::now();
    let executable = std::sync::Arc::new(Executable::open(&path)?);
    let load_ms = start.elapsed().as_secs_f64() * 1e3;
    outln!("\n2. Load the artifact: {}", millis(load_ms))?;

    let one = Session::new(executable.clone(), SessionOptions { threads: Some(1), ..Default::default() });
    let correct = correct(&one, images, labels)?;
    outln!(
        "\n3. Run it on {} images that training did not see: {correct} right, accuracy {:.2} %",
        labels.len(),
        100.0 * correct as f64 / labels.len() as f64
    )?;

    outln!("\n4. Measure")?;
    let threads = args.threads.and_then(|t| usize::try_from(t).ok());
    let many = Session::new(executable, SessionOptions { threads, ..Default::default() });
    let mut table = Table::new(&["batch", "threads", "min", "median", "images/s"]);
    for batch in BATCHES {
        for session in [&one, &many] {
            let input = [Datum::Tensor(first_images(images, batch)?)];
            let entry = entry_name(session)?;
            let times = measure(session, &entry, &input, Duration::from_millis(300))?;
            let s = Summary::new(times).context("nothing was measured")?;
            table.row(vec![
                batch.to_string(),
                session.threads().to_string(),
                millis(s.min),
                millis(s.median),
                format!("{:.0}", batch as f64 * 1e3 / s.median),
            ]);
        }
    }
    out!("{}", table.render())?;
    outln!("\nNext: kiln compile YOUR_MODEL.onnx -o YOUR_MODEL.kiln")?;
    Ok(())
}

fn passes(compiled: &Compiled) -> String {
    let mut table = Table::new(&["   pass", "time", "nodes", "rewrites"]);
    for p in &compiled.passes.passes {
        let rules: Vec<String> = p.applied.iter().map(|(rule, n)| format!("{rule} x{n}")).collect();
        table.row(vec![
            format!("   {}", p.name),
            millis(p.time.as_secs_f64() * 1e3),
            format!("{} -> {}", p.nodes_before, p.nodes_after),
            rules.join(", "),
        ]);
    }
    table.render()
}

fn test_data() -> Result<(Tensor, Vec<i64>)> {
    let arrays = npz::read_from(Path::new("digits_test.npz"), Cursor::new(IMAGES))?;
    let find = |name: &str| arrays.iter().find(|(n, _)| n == name).map(|(_, t)| t.clone());
    let images = find("image").context("the embedded data has no images")?;
    let labels = find("label").and_then(|t| t.to_ints()).context("the embedded data has no labels")?;
    Ok((images, labels))
}

fn entry_name(session: &Session) -> Result<String> {
    Ok(session.entries().first().context("the model has no entry point")?.name.clone())
}

/// The first `count` images.
fn first_images(images: &Tensor, count: usize) -> Result<Tensor> {
    let each: usize = images.dims().iter().skip(1).product();
    let pixels = images.to_vec::<f32>()?;
    let mut dims = images.dims().to_vec();
    dims[0] = count;
    Ok(Tensor::from_slice(&dims, pixels.get(..count * each).context("too few images")?)?)
}

/// How many labels the model's largest logits match.
fn correct(session: &Session, images: &Tensor, labels: &[i64]) -> Result<usize> {
    let outputs = session.run(&entry_name(session)?, &[Datum::Tensor(images.clone())])?;
    let logits = outputs.first().and_then(Datum::as_tensor).context("the model gave no logits")?;
    let values = logits.to_vec::<f32>()?;
    let classes = logits.dims().last().copied().filter(|&c| c > 0).context("the model gave no classes")?;
    let best = |row: &[f32]| row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map(|(i, _)| i as i64);
    Ok(values.chunks(classes).zip(labels).filter(|(row, label)| best(row) == Some(**label)).count())
}
