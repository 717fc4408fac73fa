//! The verifier: a golden case for each invariant, valid and violated.

use kiln_ir::text::{Resources, parse_module_unchecked};
use kiln_ir::verify;

#[path = "../../tests/src/golden.rs"]
mod golden;

#[test]
fn invariants() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/ir/verify");
    golden::check(folder, |case| {
        let module = parse_module_unchecked(case.input(), &Resources::default())
            .unwrap_or_else(|e| panic!("{}: {e}", case.path.display()));
        let errors = verify(&module).err().unwrap_or_default();
        let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
        vec![("verify".into(), if lines.is_empty() { "valid".into() } else { lines.join("\n") })]
    });
}
