//! The whole-model bars: for each real model, how far its answer is from the reference's, whether an artifact that was
//! compiled in another process gives the same bits as compiling in place, whether two threads give the same bits as one,
//! and how much larger the arena is than the most that lives in it at one step.

mod subjects;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::npz::{self, Arrays};
use crate::workspace::{self, Profile, Workspace};
use subjects::{Kind, Subject};

/// The largest difference from the reference, relative to its largest magnitude.
const BAR: f64 = 1e-4;

/// The largest arena, as a multiple of the largest live set.
const ARENA: f64 = 1.2;

#[derive(clap::Args)]
pub struct Options {
    /// The folder that `cargo xtask zoo` wrote; without it the zoo's models are left out.
    #[arg(long)]
    zoo: Option<PathBuf>,
    /// The folder of real models [default: KILN_FIXTURES, or else ../shared/fixtures].
    #[arg(long)]
    fixtures: Option<PathBuf>,
    /// Only the models whose name contains this text.
    #[arg(long)]
    filter: Option<String>,
    /// A Python interpreter with numpy and onnxruntime, instead of an environment made below `target/`.
    #[arg(long)]
    python: Option<PathBuf>,
}

/// The programs that run a model.
struct Programs {
    /// The `kiln` command.
    kiln: PathBuf,
    /// Steps the voice detector through a recording.
    silero: PathBuf,
}

/// What was found of one model; an error where it could not be found.
struct Findings {
    difference: Result<f64>,
    artifact: Result<bool>,
    threads: Result<bool>,
    arena: Result<f64>,
}

/// Tries all bars and prints a table, whose last line is `models: N of M bars hold`.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let scratch = workspace.target.join("models");
    fs::create_dir_all(&scratch).with_context(|| scratch.display().to_string())?;
    let fixtures = workspace.fixtures(options.fixtures.as_deref())?;
    let subjects = subjects::all(workspace, options, &fixtures, &scratch)?;
    if subjects.is_empty() {
        bail!("no model's name contains `{}`", options.filter.as_deref().unwrap_or_default());
    }
    let programs = Programs {
        kiln: workspace.build("kiln-cli", "kiln", Profile::Release)?,
        silero: workspace.build("kiln-tests", "silero", Profile::Release)?,
    };
    println!(
        "{:32} {:>12}  {:14} {:14} {:>12}",
        "model", "difference", "artifact = JIT", "1 = 2 threads", "arena / live"
    );
    let (mut held, mut bars, mut reasons) = (0, 0, Vec::new());
    for subject in &subjects {
        let findings = try_bars(&programs, subject, &scratch);
        let difference = match &findings.difference {
            Ok(difference) => format!("{difference:.2e}"),
            Err(_) => "failed".to_owned(),
        };
        let arena = match &findings.arena {
            Ok(arena) => format!("{arena:.3}"),
            Err(_) => "failed".to_owned(),
        };
        let [artifact, threads] = [word(&findings.artifact), word(&findings.threads)];
        println!("{:32} {difference:>12}  {artifact:14} {threads:14} {arena:>12}", subject.name);
        let close = findings.difference.map(|difference| difference <= BAR);
        let small = findings.arena.map(|arena| arena <= ARENA);
        let [artifact, threads] = [findings.artifact, findings.threads];
        for (bar, found) in
            [("difference", close), ("artifact", artifact), ("threads", threads), ("arena", small)]
        {
            bars += 1;
            match found {
                Ok(true) => held += 1,
                Ok(false) => reasons.push(format!("{}: {bar}: does not hold", subject.name)),
                Err(error) => reasons.push(format!("{}: {bar}: {error:#}", subject.name)),
            }
        }
    }
    reasons.iter().for_each(|reason| println!("{reason}"));
    if options.zoo.is_none() {
        println!("the zoo's models were left out: name their folder with --zoo");
    }
    println!("models: {held} of {bars} bars hold");
    if held < bars {
        bail!("{} bars do not hold", bars - held);
    }
    Ok(())
}

fn word(found: &Result<bool>) -> &'static str {
    match found {
        Ok(true) => "yes",
        Ok(false) => "NO",
        Err(_) => "failed",
    }
}

fn try_bars(programs: &Programs, subject: &Subject, scratch: &Path) -> Findings {
    let file = |suffix: &str| scratch.join(format!("{}.{suffix}", subject.name.replace('/', "-")));
    let (one, two, again, artifact) = (file("1.npz"), file("2.npz"), file("artifact.npz"), file("kiln"));
    let jit = answer(programs, subject, &subject.model, 1, &one);
    let difference = jit.and_then(|()| Arrays::read(&one)?.difference(&subject.expected));
    let same = workspace::output(
        Command::new(&programs.kiln).arg("compile").arg(&subject.model).arg("-o").arg(&artifact),
    )
    .and_then(|_| answer(programs, subject, &artifact, 1, &again))
    .and_then(|()| npz::identical(&one, &again));
    let arena = arena(programs, subject, &artifact);
    let threads =
        answer(programs, subject, &subject.model, 2, &two).and_then(|()| npz::identical(&one, &two));
    Findings { difference, artifact: same, threads, arena }
}

/// The largest ratio of an entry's arena to its largest live set, for the inputs that the subject gets.
fn arena(programs: &Programs, subject: &Subject, artifact: &Path) -> Result<f64> {
    let mut command = Command::new(&programs.kiln);
    command.arg("inspect").arg(artifact);
    for shape in subject.shapes()? {
        command.args(["--shape", &shape]);
    }
    let printed = workspace::output(&mut command)?;
    let ratios = printed.lines().filter(|line| line.starts_with("arena of ")).map(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        let at = words.iter().position(|&word| word == "times").context("no ratio")?;
        words[at - 1].parse::<f64>().with_context(|| line.to_owned())
    });
    ratios.collect::<Result<Vec<f64>>>()?.into_iter().reduce(f64::max).context("kiln inspect shows no arena")
}

/// Runs `program`, the subject's model or an artifact of it, and leaves its outputs in `outputs`.
fn answer(
    programs: &Programs,
    subject: &Subject,
    program: &Path,
    threads: usize,
    outputs: &Path,
) -> Result<()> {
    // So that nothing of an earlier run can be taken for this one's answer.
    if outputs.exists() {
        fs::remove_file(outputs).with_context(|| outputs.display().to_string())?;
    }
    let mut command = match &subject.kind {
        Kind::Once { inputs } => {
            let mut command = Command::new(&programs.kiln);
            command.arg("run").arg(program).arg("--inputs").arg(inputs).arg("--outputs").arg(outputs);
            command
        }
        Kind::Voice { recording } => {
            let mut command = Command::new(&programs.silero);
            command.arg(program).arg(recording).arg(outputs);
            command
        }
    };
    workspace::output(command.arg("--threads").arg(threads.to_string()))?;
    Ok(())
}
