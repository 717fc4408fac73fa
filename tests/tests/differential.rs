//! Random ONNX models through the compiler, with passes on and off, against the reference evaluator; and those that once
//! failed.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use kiln_tests::choices::{Choices, numbers};
use kiln_tests::differential::{Failure, Kind, Setting, check_caught};
use kiln_tests::random_model::{NUMBERS, grow};

/// Models of an ordinary test run.
const COUNT: u64 = 2_000;

/// What is known to be at fault and not mended yet: the kind of failure, words of its reason, and what it is.
const KNOWN: [(Kind, &str, &str); 3] = [
    (Kind::Run, "the indices of axis", "pads of broadcast values of symbolic size are checked too strictly"),
    (
        Kind::Load,
        "expected a tensor of known rank",
        "operators that need a rank refuse values of unknown rank",
    ),
    (Kind::Evaluate, "i32[0, 0] [] in the model", "sizes of what a scan over nothing collects are lost"),
];

/// Most models that fail in those ways.
const KNOWN_FAILURES: usize = 6;

/// Operators that these must have between them.
const OPERATORS: usize = 120;

#[test]
fn two_thousand_models_agree_with_the_evaluator() {
    let (next, found) = (AtomicU64::new(0), Mutex::new((0, BTreeMap::new(), vec![], 0)));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= COUNT {
                        return;
                    }
                    let (model, _) = grow(&numbers(seed, NUMBERS));
                    let setting = Setting::other(seed, &mut Choices::new(&numbers(seed ^ 0x5e77, 64)));
                    let checked = check_caught(&model, &setting);
                    let mut found = found.lock().unwrap();
                    found.0 += 1;
                    for op in model.operators() {
                        *found.1.entry(op.to_owned()).or_insert(0) += 1;
                    }
                    let known = |failure: &Failure| {
                        let fits =
                            |k: &&(Kind, &str, &str)| k.0 == failure.kind && failure.reason.contains(k.1);
                        KNOWN.iter().find(fits)
                    };
                    if let Some(known) = checked.as_ref().err().and_then(known) {
                        println!("seed {seed}: known: {}", known.2);
                        found.3 += 1;
                    } else if let Err(failure) = checked {
                        found.2.push(format!("seed {seed}: {:?}: {}", failure.kind, failure.reason));
                    }
                }
            });
        }
    });
    let (count, operators, failures, known) = found.into_inner().unwrap();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert_eq!(count, COUNT);
    assert!(known <= KNOWN_FAILURES, "{known} models fail in known ways");
    assert!(operators.len() >= OPERATORS, "{} operators: {operators:?}", operators.len());
}

/// Models that once failed, each in the layout of the conformance suite.
#[test]
fn what_once_failed_holds() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/models");
    let mut count = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.join("model.onnx").is_file() {
            kiln_tests::differential::golden(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            count += 1;
        }
    }
    assert!(count > 0, "no models below {}", folder.display());
}
