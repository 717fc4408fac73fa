//! Operators of `com.microsoft`: a case or two of each, with onnxruntime's answers, which `models/contrib/make.py pack`
//! wrote. `cargo xtask contrib` compares many more.

use std::collections::BTreeSet;
use std::error::Error;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use zip::ZipArchive;

/// Fewer operators or cases mean that the file is not whole.
const OPERATORS: usize = 88;
const CASES: usize = 130;

fn unpacked() -> Result<PathBuf, Box<dyn Error>> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/contrib/cases.zip");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("contrib");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    ZipArchive::new(File::open(file)?)?.extract(&folder)?;
    Ok(folder)
}

/// The files `PREFIX0.pb`, `PREFIX1.pb`, ... of a case.
fn numbered(case: &Path, prefix: &str) -> Vec<PathBuf> {
    let file = |i: usize| case.join(format!("test_data_set_0/{prefix}{i}.pb"));
    (0..).map(file).take_while(|path| path.is_file()).collect()
}

/// What the suite's worker is asked about a case.
fn request(case: &Path) -> Result<String, Box<dyn Error>> {
    let tolerance: Value = serde_json::from_slice(&fs::read(case.join("data.json"))?)?;
    let set = json!({ "inputs": numbered(case, "input_"), "outputs": numbered(case, "output_") });
    let (rtol, atol) = (&tolerance["rtol"], &tolerance["atol"]);
    let request =
        json!({ "model": case.join("model.onnx"), "sets": [set], "rtol": rtol, "atol": atol, "draws": null });
    Ok(request.to_string())
}

#[test]
fn answers_are_those_of_onnxruntime() -> Result<(), Box<dyn Error>> {
    let folder = unpacked()?;
    let mut cases: Vec<PathBuf> =
        fs::read_dir(&folder)?.map(|e| Ok(e?.path())).collect::<std::io::Result<_>>()?;
    cases.sort();
    let names: Vec<String> =
        cases.iter().filter_map(|c| Some(c.file_name()?.to_string_lossy().into_owned())).collect();
    let operators: BTreeSet<&str> = names.iter().filter_map(|n| Some(n.split_once("__")?.0)).collect();
    assert!(operators.len() >= OPERATORS, "there are {} operators", operators.len());
    assert!(cases.len() >= CASES, "there are {} cases", cases.len());
    let mut worker = Command::new(env!("CARGO_BIN_EXE_onnx_cases"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut stdin = worker.stdin.take().ok_or("the worker has no stdin")?;
    let mut answers = BufReader::new(worker.stdout.take().ok_or("the worker has no stdout")?).lines();
    let mut wrong = vec![];
    for (case, name) in cases.iter().zip(&names) {
        writeln!(stdin, "{}", request(case)?)?;
        let line = answers.next().ok_or_else(|| format!("{name}: the worker ended"))??;
        let verdict: Value = serde_json::from_str(&line)?;
        if verdict["status"] != "passed" {
            wrong.push(format!("{name}: {line}"));
        }
    }
    drop(stdin);
    worker.wait()?;
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}
