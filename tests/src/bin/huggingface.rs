//! Compares all folders below one with what Hugging Face's libraries computed: `huggingface ROOT [START]`, the second for
//! folders whose names begin so.
//!
//! The last line is `huggingface: N folders, M cases, 0 mismatches`.

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

use kiln_tests::huggingface::{differences, folders, session};

/// Largest accepted difference of an element.
const TOLERANCE: f64 = 1e-4;

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let root = arguments.first().ok_or("expected the folder of folders")?;
    let start = arguments.get(1).map_or("", String::as_str);
    let (mut count, mut cases, mut mismatches) = (0, 0, 0);
    println!("{:40} {:>6} {:>12} {:>15}", "folder", "cases", "difference", "evaluator steps");
    for folder in folders(Path::new(root))? {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !name.starts_with(start) {
            continue;
        }
        count += 1;
        match compare(&folder) {
            Ok((found, slow)) => {
                let worst = found.iter().copied().fold(0.0, f64::max);
                println!("{name:40} {:>6} {worst:>12.2e} {slow:>15}", found.len());
                cases += found.len();
                mismatches += found.iter().filter(|worst| **worst > TOLERANCE).count();
                mismatches += usize::from(found.is_empty());
            }
            Err(error) => {
                println!("{name:40} {error}");
                mismatches += 1;
            }
        }
    }
    println!("huggingface: {count} folders, {cases} cases, {mismatches} mismatches");
    Ok(if mismatches == 0 && cases > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The difference of each case, and how many nodes the evaluator runs.
fn compare(folder: &Path) -> Result<(Vec<f64>, usize), Box<dyn Error>> {
    let session = session(folder, &kiln::Options::default())?;
    let actions = session.executable().program().functions.iter().flat_map(|f| &f.steps);
    let host = |step: &&kiln_runtime::program::Step| {
        matches!(step.action, kiln_runtime::program::Action::Host { .. })
    };
    Ok((differences(&session, folder)?, actions.filter(host).count()))
}
