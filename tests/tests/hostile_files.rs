//! Hostile files end in typed errors. `cargo xtask hostile` measures their time and memory.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use kiln_tests::hostile::{End, all, take};

#[test]
fn every_hostile_file_ends_in_a_typed_error() {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("hostile");
    let _ = std::fs::remove_dir_all(&root);
    let files = all();
    assert!(files.len() >= 200, "{} files", files.len());
    let names: BTreeSet<&str> = files.iter().map(|f| f.name.as_str()).collect();
    assert_eq!(names.len(), files.len(), "two files have one name");
    let mut ran = vec![];
    for file in &files {
        let path = file.write(&root).unwrap_or_else(|e| panic!("{}: {e}", file.name));
        if let End::Ran = take(&path, Instant::now() + Duration::from_millis(500)) {
            ran.push(file.name.as_str());
        }
    }
    assert!(ran.is_empty(), "these ran: {ran:#?}");
}
