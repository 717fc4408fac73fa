//! How far models whose weights are stored in fewer bits are from onnxruntime's answers to the models as they are: the mean
//! cosine of the outputs, and what is left of the bytes of the weights that were stored so.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::Options;
use crate::python::{Purpose, Python};
use crate::workspace::{self, Profile, Workspace};
use crate::zoo;

/// The models that are looked at unless others are named.
const MODELS: [&str; 1] = ["minilm6_128"];

/// Arguments of `kiln compile`.
const WAYS: [&[&str]; 8] = [
    &["int4", "--group", "32"],
    &["int4", "--group", "32", "--asymmetric"],
    &["int4", "--group", "32", "--asymmetric", "--rounding", "hqq"],
    &["int4", "--group", "128"],
    &["int4", "--group", "128", "--asymmetric", "--rounding", "hqq"],
    &["int8-weights", "--group", "128"],
    &["f16"],
    &["bf16"],
];

/// The least mean cosine, and the largest share of the bytes of the weights, where they are in 4 bits with groups of 32.
const BARS: [f64; 2] = [0.98, 0.35];

/// Prints a row for each model and way; fails where a bar does not hold.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let scratch = workspace.target.join("accuracy").join("weights");
    fs::create_dir_all(&scratch).with_context(|| scratch.display().to_string())?;
    let python = Python::of(workspace, Purpose::Contrib, options.python.as_deref())?;
    let kiln = workspace.build("kiln-cli", "kiln", Profile::Release)?;
    let all = || MODELS.iter().map(|name| (*name).to_owned()).collect();
    let names: Vec<String> = if options.models.is_empty() { all() } else { options.models.clone() };
    let count = options.inputs.to_string();
    println!("{:14} {:48} {:>9} {:>9} {:>7}", "model", "weights", "cosine", "same top", "bytes");
    let mut missed = vec![];
    for model in zoo::find(&options.zoo, &names)? {
        let folder = scratch.join(&model.name);
        let mut answer = python.script(workspace, "quantized.py");
        workspace::output(answer.arg("answer").arg(&model.model).arg(&folder).arg(&count))?;
        for way in WAYS {
            let share = stored(&kiln, &model.model, &folder, way)?;
            for i in 0..options.inputs {
                let file = |kind: &str| folder.join(format!("{i}.{kind}.npz"));
                let mut command = Command::new(&kiln);
                command.arg("run").arg(folder.join("model.kiln")).arg("--inputs").arg(file("in"));
                workspace::output(command.arg("--outputs").arg(file("kiln")))?;
            }
            let mut compare = python.script(workspace, "quantized.py");
            let text = workspace::output(compare.arg("compare").arg(&folder).arg(&count))?;
            let figures: Vec<f64> =
                text.split_whitespace().map(str::parse::<f64>).collect::<Result<_, _>>()?;
            let &[cosine, same] = &figures[..] else { bail!("two figures were expected: {text}") };
            let way = way.join(" ");
            println!("{:14} {way:48} {cosine:>9.6} {:>7.2} % {share:>7.4}", model.name, 100.0 * same);
            if way.starts_with("int4 --group 32") && !(cosine >= BARS[0] && share <= BARS[1]) {
                missed.push(format!("{} with {way}", model.name));
            }
        }
    }
    match missed.as_slice() {
        [] => {
            println!(
                "int4 with groups of 32: cosines of at least {}, at most {} of the bytes",
                BARS[0], BARS[1]
            );
            Ok(())
        }
        rows => bail!("these miss a cosine of {} or a share of {}: {}", BARS[0], BARS[1], rows.join(", ")),
    }
}

/// Compiles a model; gives what is left of the bytes of the weights that are stored in fewer bits.
fn stored(kiln: &Path, model: &Path, folder: &Path, way: &[&str]) -> Result<f64> {
    let report = folder.join("report.json");
    let mut command = Command::new(kiln);
    command.arg("compile").arg(model).arg("-o").arg(folder.join("model.kiln"));
    command.arg("--quantize").args(way).arg("--report").arg(&report);
    workspace::output(&mut command)?;
    let text = fs::read_to_string(&report).with_context(|| report.display().to_string())?;
    let json: Value = serde_json::from_str(&text)?;
    let size = |key: &str| json[key].as_f64().with_context(|| format!("the report has no `{key}`"));
    Ok(size("weights_after")? / size("weights_before")?)
}
