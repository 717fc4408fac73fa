//! A few calls of every ATen operator, with PyTorch's answers, through the loader and the reference evaluator.
//!
//! `xtask/py/aten/cases.py tests/fixtures/aten --count 2` writes the files.

use std::path::Path;

use kiln_tests::aten::{Cases, evaluated};

#[test]
fn operators_give_what_pytorch_gives() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/aten");
    let cases = Cases::read(&folder).unwrap();
    assert!(cases.cases.len() > 900, "{} cases", cases.cases.len());
    let run = |case| cases.run(case, &evaluated);
    let failures: Vec<String> = cases
        .cases
        .iter()
        .filter_map(|case| run(case).err().map(|why| format!("{}: {why}", case.op)))
        .collect();
    assert!(failures.is_empty(), "{} cases fail:\n{}", failures.len(), failures.join("\n"));
}
