//! How far models that onnxruntime quantized are from its answers, when they run on integers here: the mean cosine of the
//! outputs, and the share of rows whose largest element is at the same place.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::Options;
use crate::python::{Purpose, Python};
use crate::workspace::{self, Profile, Workspace};

/// The models that are quantized: with calibrated scales, and with scales found at run time.
const MODELS: [&str; 3] = ["resnet50", "mobilenet_v3_large", "bert_base_128"];

/// The least mean cosine or share of equal places; one of both must hold.
const BAR: f64 = 0.99;

/// Prints a row for each model; fails where a bar does not hold.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let scratch = workspace.target.join("accuracy").join("int8");
    fs::create_dir_all(&scratch).with_context(|| scratch.display().to_string())?;
    let python = Python::of(workspace, Purpose::Contrib, options.python.as_deref())?;
    let kiln = workspace.build("kiln-cli", "kiln", Profile::Release)?;
    let all = || MODELS.iter().map(|name| (*name).to_owned()).collect();
    let names: Vec<String> = if options.models.is_empty() { all() } else { options.models.clone() };
    println!("{:20} {:>8} {:>8} {:>9} {:>9}", "model", "integer", "inputs", "cosine", "same top");
    let mut missed = vec![];
    for model in options.zoo_models(&names)? {
        let quantized = scratch.join(format!("{}.onnx", model.name));
        let (artifact, folder) = (quantized.with_extension("kiln"), scratch.join(&model.name));
        if !quantized.is_file() {
            let mut make = python.script(workspace, "quantized.py");
            workspace::output(make.arg("make").arg(&model.model).arg(&quantized))?;
        }
        let count = options.inputs.to_string();
        let mut answer = python.script(workspace, "quantized.py");
        workspace::output(answer.arg("answer").arg(&quantized).arg(&folder).arg(&count))?;
        let products = compiled(&kiln, &quantized, &artifact)?;
        for i in 0..options.inputs {
            let file = |kind: &str| folder.join(format!("{i}.{kind}.npz"));
            let mut command = Command::new(&kiln);
            command.arg("run").arg(&artifact).arg("--inputs").arg(file("in"));
            workspace::output(command.arg("--outputs").arg(file("kiln")))?;
        }
        let mut compare = python.script(workspace, "quantized.py");
        let text = workspace::output(compare.arg("compare").arg(&folder).arg(&count))?;
        let figures: Vec<f64> = text.split_whitespace().map(str::parse::<f64>).collect::<Result<_, _>>()?;
        let &[cosine, same] = &figures[..] else { bail!("two figures were expected: {text}") };
        println!("{:20} {products:>8} {count:>8} {cosine:>9.6} {:>8.2} %", model.name, 100.0 * same);
        if !(cosine >= BAR || same >= BAR) || products == 0 {
            missed.push(model.name);
        }
    }
    match missed.as_slice() {
        [] => {
            println!("all agree with onnxruntime");
            Ok(())
        }
        names => {
            bail!("these agree in less than {BAR} or have no products of integers: {}", names.join(", "))
        }
    }
}

/// Compiles a model; gives how many products in it are on integers.
fn compiled(kiln: &Path, model: &Path, artifact: &Path) -> Result<usize> {
    let mut command = Command::new(kiln);
    command.arg("compile").arg(model).arg("-o").arg(artifact).args(["--dump-after", "dce"]);
    let text = workspace::output(&mut command)?;
    let product =
        |line: &&str| (line.contains("= contract(") || line.contains("= conv(")) && line.contains("out=i32");
    Ok(text.lines().filter(product).count())
}
