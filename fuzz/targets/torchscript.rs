//! TorchScript's source: any text gives a module or a typed error. The object whose class it is has a buffer without
//! elements, a flag, a count and an attribute without a value.
#![no_main]

mod archive;

use std::collections::BTreeMap;

use kiln_ir::Dim;
use kiln_loaders::{LoadOptions, load_bytes};
use libfuzzer_sys::fuzz_target;

/// What torch 2.15 writes for an object of the class `__torch__.Memory`.
const OBJECT: &[u8] = b"\x80\x02c__torch__\nMemory\nq\x00)\x81}(X\x04\x00\x00\x00seenq\x01ctorch._utils\n_rebuild_tensor_v2\nq\x02((X\x07\x00\x00\x00storageq\x03ctorch\nFloatStorage\nq\x04X\x01\x00\x00\x000q\x05X\x03\x00\x00\x00cpuq\x06K\x00tQq\x07K\x00(K\x00t(K\x01t\x89ccollections\nOrderedDict\nq\x08)RtRq\tX\x08\x00\x00\x00trainingq\n\x89X\x16\x00\x00\x00_is_full_backward_hookq\x0bNX\x05\x00\x00\x00callsq\x0cK\x00X\x04\x00\x00\x00lastq\rNubq\x0e.";

/// An empty tuple.
const CONSTANTS: &[u8] = b"\x80\x02).";

fuzz_target!(|source: &str| {
    let Some(file) = archive::archive(&[
        ("data/0", b""),
        ("data.pkl", OBJECT),
        ("code/__torch__.py", source.as_bytes()),
        ("constants.pkl", CONSTANTS),
        ("version", b"3\n"),
    ]) else {
        return;
    };
    let shapes = ["x", "y", "input", "a", "b"].map(|name| (name.to_owned(), vec![Dim::known(2), Dim::known(3)]));
    let options = LoadOptions { shapes: BTreeMap::from(shapes), ..LoadOptions::default() };
    if let Ok(module) = load_bytes("fuzz.pt", file.into(), &options) {
        kiln_ir::verify::verify(&module).expect("what loads is sound");
    }
});
