//! Archives: any bytes give a checkpoint or a program, or a typed error.
#![no_main]

use std::path::Path;

use kiln_loaders::{Limits, LoadOptions, checkpoint, load_bytes};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let bytes = bytes::Bytes::copy_from_slice(data);
    if let Ok(found) = checkpoint::read(Path::new("fuzz.pt"), bytes.clone(), &Limits::default()) {
        for (_, tensor) in found.tensors() {
            let _ = tensor.to_tensor(1 << 20);
        }
    }
    if let Ok(module) = load_bytes("fuzz.pt", bytes, &LoadOptions::default()) {
        kiln_ir::verify::verify(&module).expect("what loads is sound");
    }
});
