//! The artifact reader: any plan, code and weights open or give a typed error. Nothing is run: code is trusted.
#![no_main]

use std::path::PathBuf;
use std::sync::OnceLock;

use kiln_runtime::Executable;
use kiln_runtime::artifact::{Header, PAGE, Section, checksum};
use libfuzzer_sys::fuzz_target;

/// The file of this process, in memory where the system has such a folder.
fn file() -> &'static PathBuf {
    static FILE: OnceLock<PathBuf> = OnceLock::new();
    FILE.get_or_init(|| {
        let shared = PathBuf::from("/dev/shm");
        let folder = if shared.is_dir() { shared } else { std::env::temp_dir() };
        folder.join(format!("kiln-fuzz-{}.kiln", std::process::id()))
    })
}

/// A file with sound checksums around a plan, with some code and weights.
fn wrapped(plan: &[u8]) -> Vec<u8> {
    let (code, weights) = ([0xc3u8; 256], [0u8; 4096]);
    let plan_at = (Header::LEN as u64).next_multiple_of(PAGE);
    let code_at = (plan_at + plan.len() as u64).next_multiple_of(PAGE);
    let weights_at = code_at + PAGE;
    let section = |offset, bytes: &[u8]| Section { offset, len: bytes.len() as u64, checksum: checksum(bytes) };
    let sections = [section(plan_at, plan), section(code_at, &code), section(weights_at, &weights)];
    let file_len = weights_at + weights.len() as u64;
    let mut all = Header { file_len, sections }.encode();
    for (at, bytes) in [(plan_at, plan), (code_at, &code[..]), (weights_at, &weights[..])] {
        all.resize(at as usize, 0);
        all.extend(bytes);
    }
    all
}

fuzz_target!(|data: &[u8]| {
    let Some((kind, rest)) = data.split_first() else { return };
    let whole = if kind % 8 == 0 { rest.to_vec() } else { wrapped(rest) };
    // A new file each time: another mapping may still be alive.
    let _ = std::fs::remove_file(file());
    if std::fs::write(file(), whole).is_ok() {
        let _ = Executable::open(file());
    }
});
