//! Models that failed, as folders in the layout of the conformance suite.

use std::fs;
use std::io;
use std::path::Path;

use kiln::ir::{Datum, Evaluator, Tensor};
use kiln::loaders::onnx::read_tensor_pb;
use kiln::loaders::onnx::tensor::tensor_proto;
use kiln::passes::PASSES;
use prost::Message;

use super::{Failure, Setting, compiled};
use crate::random_model::Model;

/// The largest difference, relative to the largest magnitude.
const CLOSE: f64 = 1e-4;

/// Writes `model.onnx`, its inputs, the evaluator's outputs and the reason into `folder`.
pub fn write(folder: &Path, model: &Model, failure: &Failure) -> io::Result<()> {
    let set = folder.join("test_data_set_0");
    fs::create_dir_all(&set)?;
    fs::write(folder.join("model.onnx"), model.proto.encode_to_vec())?;
    fs::write(folder.join("reason.txt"), format!("{:?}: {}\n", failure.kind, failure.reason))?;
    for (i, (name, tensor)) in model.inputs.iter().enumerate() {
        fs::write(set.join(format!("input_{i}.pb")), tensor_proto(name, tensor).encode_to_vec())?;
    }
    for (i, name) in model.outputs().iter().enumerate() {
        if let Some(Datum::Tensor(tensor)) = model.values.get(name) {
            fs::write(set.join(format!("output_{i}.pb")), tensor_proto(name, tensor).encode_to_vec())?;
        }
    }
    Ok(())
}

/// Checks a model that was written: compiled with all passes and with none, it gives what the evaluator gave.
pub fn golden(folder: &Path) -> Result<(), String> {
    let module = kiln::load(&folder.join("model.onnx"), &[]).map_err(|e| e.to_string())?;
    let entry = *module.entries().first().ok_or("no entry")?;
    let set = folder.join("test_data_set_0");
    let read = |kind: &str, count: usize| {
        (0..count)
            .map(|i| read_tensor_pb(&set.join(format!("{kind}_{i}.pb"))).map(|(_, t)| t))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| e.to_string())
    };
    let graph = module.graph(entry);
    let inputs: Vec<Datum> = read("input", graph.inputs().len())?.into_iter().map(Datum::Tensor).collect();
    let want = read("output", graph.outputs().len())?;
    let evaluated = Evaluator::new(&module).run(entry, &inputs).map_err(|e| e.to_string())?;
    let evaluated: Vec<Tensor> = evaluated.into_iter().filter_map(Datum::into_tensor).collect();
    let none =
        Setting { disabled: PASSES.iter().map(|pass| pass.name.to_owned()).collect(), ..Setting::full() };
    let mut results = vec![("evaluator", evaluated)];
    for (name, setting) in [("all passes", Setting::full()), ("no passes", none)] {
        results.push((name, compiled(&module, &setting, &inputs, true).map_err(|f| f.reason)?));
    }
    for (name, got) in results {
        for (i, (got, want)) in got.into_iter().zip(&want).enumerate() {
            let difference = kiln::check::compare(&Datum::Tensor(got), &Datum::Tensor(want.clone()));
            if difference.relative() > CLOSE {
                return Err(format!("{name}: output {i}: {difference:?}"));
            }
        }
    }
    Ok(())
}
