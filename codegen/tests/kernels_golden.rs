//! Kernel IR of a few graphs, as golden files: `=== input` is a module, `=== expect kernels` the text of its kernels.
//! With `KILN_BLESS=1` in the environment the expectation is rewritten.

use std::fs;
use std::path::PathBuf;

use kiln_codegen::build::{MachineCode, Tuning, compile_with};
use kiln_codegen::kir::Kernel;

const MARK: &str = "=== expect kernels\n";

fn kernels(module: &str) -> String {
    let module = kiln_ir::text::parse_module(module, &Default::default()).unwrap_or_else(|e| panic!("{e}"));
    let lower = |_: &Kernel| {
        Ok(MachineCode {
            code: vec![0xc3],
            align: 16,
            features: vec![],
            scratch_bytes: 0,
            listing: String::new(),
        })
    };
    let tuning = Tuning { lanes: 4, tiles: false, reads_lines: false, winograd: true, dots: false };
    let compiled = compile_with(&module, "none", tuning, &lower).unwrap_or_else(|e| panic!("{e}"));
    compiled.kernel_texts.concat()
}

#[test]
fn kernels_match() {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden"));
    let mut files: Vec<PathBuf> = fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let (head, rest) = text.split_once("=== input\n").unwrap();
        let (input, expected) = rest.split_once(MARK).unwrap_or((rest, ""));
        let produced = kernels(input);
        if std::env::var_os("KILN_BLESS").is_some() {
            fs::write(&file, format!("{head}=== input\n{input}{MARK}{produced}")).unwrap();
        } else {
            assert_eq!(produced, expected, "{}", file.display());
        }
    }
}
