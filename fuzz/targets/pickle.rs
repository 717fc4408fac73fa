//! Pickles: any give tensors and values, or a typed error. The first byte says in which container they are.
#![no_main]

mod archive;

use std::path::Path;

use kiln_loaders::{Limits, checkpoint};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((kind, pickle)) = data.split_first() else { return };
    let storage = [0x3fu8; 256];
    let file = match kind % 2 {
        0 => Some(pickle.to_vec()),
        _ => {
            let storages = [("data/0", &storage[..]), ("data/1", &storage[..64]), ("byteorder", &b"little"[..])];
            archive::archive(&[&[("data.pkl", pickle)], &storages[..], &[("version", b"3\n")]].concat())
        }
    };
    let Some(file) = file else { return };
    let Ok(found) = checkpoint::read(Path::new("fuzz.pt"), file.into(), &Limits::default()) else { return };
    for (_, tensor) in found.tensors() {
        let _ = tensor.to_tensor(1 << 20);
    }
});
