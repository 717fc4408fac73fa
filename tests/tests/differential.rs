//! Random ONNX models through the compiler, with passes on and off, against the reference evaluator; and those that once
//! failed.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use kiln_tests::choices::{Choices, numbers};
use kiln_tests::differential::{Setting, check_caught};
use kiln_tests::random_model::{NUMBERS, grow};

/// Models of an ordinary test run.
const COUNT: u64 = 2_000;

/// Operators that these must have between them.
const OPERATORS: usize = 120;

#[test]
fn two_thousand_models_agree_with_the_evaluator() {
    let (next, found) = (AtomicU64::new(0), Mutex::new((0, BTreeMap::new(), vec![])));
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
                    if let Err(failure) = checked {
                        found.2.push(format!("seed {seed}: {:?}: {}", failure.kind, failure.reason));
                    }
                }
            });
        }
    });
    let (count, operators, failures) = found.into_inner().unwrap();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert_eq!(count, COUNT);
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
