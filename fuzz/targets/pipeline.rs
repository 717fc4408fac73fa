//! Load, compile and run small models: results or typed errors, within bounds of time and memory.
#![no_main]

use std::time::{Duration, Instant};

use kiln::loaders::{Limits, LoadOptions, load_bytes};
use kiln::passes::FoldBudget;
use kiln::runtime::{RunOptions, SessionOptions};
use kiln::{Options, sample_inputs};
use libfuzzer_sys::fuzz_target;

/// Nodes of a small model.
const NODES: usize = 64;

fuzz_target!(|data: &[u8]| {
    let limits = Limits { nodes: Some(NODES), ..Limits::default() };
    let options = LoadOptions { limits, ..LoadOptions::default() };
    let Ok(module) = load_bytes("fuzz.onnx", bytes::Bytes::copy_from_slice(data), &options) else { return };
    // On the threads that there are: one that has just ended when a run does looks like a leak.
    let mut options = Options::default();
    options.passes.fold = FoldBudget { bytes: 1 << 20, work: 1 << 20 };
    let Ok(compiled) = kiln::compile(module, &options) else { return };
    let session = SessionOptions { threads: Some(1), max_memory: Some(16 << 20), ..Default::default() };
    let Ok(session) = compiled.into_session(session) else { return };
    let Some(entry) = session.entries().first() else { return };
    let ports = entry.inputs.iter().map(|port| (port.name.as_str(), &port.ty));
    let Ok(inputs) = sample_inputs(ports, 1) else { return };
    let inputs: Vec<_> = inputs.into_iter().map(Into::into).collect();
    let deadline = Some(Instant::now() + Duration::from_millis(500));
    let _ = session.run_with(&entry.name, &inputs, &RunOptions { deadline, ..Default::default() });
});
