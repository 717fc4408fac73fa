//! The ONNX loader: any bytes give a module or a typed error.
#![no_main]

use kiln_loaders::{LoadOptions, load_bytes};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(module) = load_bytes("fuzz.onnx", bytes::Bytes::copy_from_slice(data), &LoadOptions::default()) {
        kiln_ir::verify::verify(&module).expect("what loads is sound");
    }
});
