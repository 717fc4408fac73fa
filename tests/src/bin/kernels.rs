//! Random kernels: the interpreter against every lowering that this machine executes.
//!
//! `kernels COUNT [--seed N] [--threads N] [--log FILE]`
//!
//! A kernel is a function of its seed; seeds count up. `FILE.0`, `FILE.1` ... hold the seed that each thread is at, for
//! code that takes the process with it. The last line is `kernels: N kernels, M mismatches`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use kiln_tests::agreement::{Lowering, fault, lowerings};
use kiln_tests::choices::{numbers, shrink};
use kiln_tests::random_kernel::{NUMBERS, families, grow};

type Failure = Box<dyn std::error::Error>;

/// Mismatches after which nothing more is looked for.
const ENOUGH: usize = 20;

struct Arguments {
    count: usize,
    seed: u64,
    threads: usize,
    log: Option<String>,
}

/// What all threads add to.
struct Tally {
    next: AtomicU64,
    kernels: AtomicUsize,
    mismatches: AtomicUsize,
    families: Mutex<Vec<usize>>,
}

fn main() -> ExitCode {
    match arguments().and_then(|arguments| run(&arguments)) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("kernels: {error}");
            ExitCode::FAILURE
        }
    }
}

fn arguments() -> Result<Arguments, Failure> {
    let mut given = std::env::args().skip(1);
    let count = given.next().ok_or("usage: kernels COUNT [--seed N] [--threads N] [--log FILE]")?.parse()?;
    let mut arguments = Arguments { count, seed: 1, threads: 1, log: None };
    while let Some(name) = given.next() {
        let value = given.next().ok_or_else(|| format!("{name} takes a value"))?;
        match name.as_str() {
            "--seed" => arguments.seed = value.parse()?,
            "--threads" => arguments.threads = value.parse()?,
            "--log" => arguments.log = Some(value),
            _ => return Err(format!("there is no option {name}").into()),
        }
    }
    Ok(arguments)
}

/// Tries the kernels; gives the number of mismatches.
fn run(arguments: &Arguments) -> Result<usize, Failure> {
    // A panic of the compiler is a mismatch with a text of its own.
    std::panic::set_hook(Box::new(|_| ()));
    let tally = Tally {
        next: AtomicU64::new(arguments.seed),
        kernels: AtomicUsize::new(0),
        mismatches: AtomicUsize::new(0),
        families: Mutex::new(vec![0; families().count()]),
    };
    let lowerings = lowerings();
    std::thread::scope(|scope| {
        for thread in 0..arguments.threads.max(1) {
            let (tally, lowerings) = (&tally, &lowerings);
            scope.spawn(move || work(arguments, thread, lowerings, tally));
        }
    });
    let names: Vec<&str> = lowerings.iter().map(|&(name, ..)| name).collect();
    println!("interpreter = {}", names.join(" = "));
    for (name, count) in families().zip(tally.families.into_inner()?) {
        println!("  {name:14} {count}");
    }
    println!("next seed: {}", tally.next.into_inner());
    let (kernels, mismatches) = (tally.kernels.into_inner(), tally.mismatches.into_inner());
    println!("kernels: {kernels} kernels, {mismatches} mismatches");
    Ok(mismatches)
}

fn work(arguments: &Arguments, thread: usize, lowerings: &[Lowering], tally: &Tally) {
    while tally.kernels.load(Ordering::Relaxed) < arguments.count
        && tally.mismatches.load(Ordering::Relaxed) < ENOUGH
    {
        let seed = tally.next.fetch_add(1, Ordering::Relaxed);
        if let Some(log) = &arguments.log {
            // Without the file a crash is harder to find, nothing else.
            let _ = std::fs::write(format!("{log}.{thread}"), seed.to_string());
        }
        let numbers = numbers(seed, NUMBERS);
        let (family, count, found) = first_fault(&numbers, lowerings);
        tally.kernels.fetch_add(count, Ordering::Relaxed);
        if let Ok(mut families) = tally.families.lock() {
            families[family] += count;
        }
        if let Some((reason, _)) = found {
            tally.mismatches.fetch_add(1, Ordering::Relaxed);
            report(seed, &numbers, &reason, lowerings);
        }
    }
}

/// The family, the number of kernels, and the first fault with the kernel's text.
fn first_fault(numbers: &[u16], lowerings: &[Lowering]) -> (usize, usize, Option<(String, String)>) {
    let attempt = || {
        let (family, cases) = grow(numbers);
        let found = cases.iter().find_map(|case| Some((fault(case, lowerings)?, case.kernel.to_string())));
        (family, cases.len(), found)
    };
    catch_unwind(AssertUnwindSafe(attempt)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        (0, 1, Some((format!("panic: {}", text.unwrap_or_default()), String::new())))
    })
}

fn report(seed: u64, numbers: &[u16], reason: &str, lowerings: &[Lowering]) {
    let small = shrink(numbers, |numbers| first_fault(numbers, lowerings).2.is_some());
    let (_, _, found) = first_fault(&small, lowerings);
    let (small_reason, text) = found.unwrap_or_default();
    println!("seed {seed}: {reason}\nshrunk: {small_reason}\n{text}\n");
}
