//! Programs of torch.export: any text in place of the program gives a module or a typed error.
#![no_main]

mod archive;

use kiln_loaders::{LoadOptions, load_bytes};
use libfuzzer_sys::fuzz_target;

/// A weight `w` of two floats.
const WEIGHTS: &[u8] = br#"{"config": {"w": {"path_name": "weight_0", "is_param": true, "use_pickle": false,
    "tensor_meta": {"dtype": 7, "sizes": [{"as_int": 2}], "strides": [{"as_int": 1}], "storage_offset": {"as_int": 0},
    "layout": 7, "requires_grad": false, "device": {"type": "cpu", "index": null}}}}}"#;

fuzz_target!(|program: &str| {
    let Some(file) = archive::archive(&[
        ("models/model.json", program.as_bytes()),
        ("data/weights/model_weights_config.json", WEIGHTS),
        ("data/weights/weight_0", &[0x3f; 8]),
        ("archive_format", b"pt2"),
    ]) else {
        return;
    };
    if let Ok(module) = load_bytes("fuzz.pt2", file.into(), &LoadOptions::default()) {
        kiln_ir::verify::verify(&module).expect("what loads is sound");
    }
});
