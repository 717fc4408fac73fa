//! Weights of a checkpoint in place of a file's initializers.

mod common;

use std::path::PathBuf;

use common::*;
use kiln_ir::{DType, Tensor};
use kiln_loaders::onnx::proto::ModelProto;
use kiln_loaders::{LoadError, LoadOptions, Mismatch, NameRule, NewWeights};

/// `x * weight + bias`, reshaped to a shape that is an initializer, too.
fn affine() -> ModelProto {
    let nodes = vec![
        node("Mul", &["x", "fc.weight"], &["m"], vec![]),
        node("Add", &["m", "fc.bias"], &["a"], vec![]),
        node("Reshape", &["a", "shape"], &["y"], vec![]),
    ];
    let mut graph = graph(nodes, vec![value("x", DType::F32, &[2])], &["y"]);
    graph.initializer = vec![
        init("fc.weight", &f32s(&[2], &[1.0, 1.0])),
        init("fc.bias", &f32s(&[2], &[0.0, 0.0])),
        init("shape", &Tensor::ints(&[1, 2])),
    ];
    model(18, graph)
}

fn options(file: PathBuf, rules: &[&str], partial: bool) -> LoadOptions {
    let rules: Vec<NameRule> = rules.iter().map(|rule| rule.parse().unwrap()).collect();
    LoadOptions { weights: Some(NewWeights { file, rules, partial }), ..LoadOptions::default() }
}

fn results(options: &LoadOptions) -> Vec<f32> {
    let module = import_with(&affine(), options).unwrap_or_else(|e| panic!("{e}"));
    evaluate(&module, &[f32s(&[2], &[10.0, 20.0])])[0].to_vec::<f32>().unwrap()
}

#[test]
fn tensors_take_the_place_of_initializers() {
    let folder = Folder::new("bind");
    let file = folder.path("new.safetensors");
    let half = |v: f32| half::f16::from_f32(v).to_le_bytes();
    let weight = [half(2.0), half(0.5)].concat();
    let bias = f32_bytes(&[1.0, -1.0]);
    let tensors: [(&str, &str, &[usize], Vec<u8>); 3] = [
        ("net.fc.weight", "F16", &[2], weight),
        ("net.fc.bias", "F32", &[2], bias),
        ("net.bn.num_batches_tracked", "I64", &[], vec![0; 8]),
    ];
    safetensors(&file, &tensors);
    assert_eq!(results(&options(file.clone(), &["net.="], false)), [21.0, 9.0]);
    assert_eq!(results(&options(file.clone(), &["other.=x.", "net.->"], false)), [21.0, 9.0]);
    // Without the rule no name fits.
    let error = import_with(&affine(), &options(file.clone(), &[], false));
    let Err(LoadError::Weights { faults, .. }) = error else { panic!("not the weights") };
    let missing: Vec<&str> = faults.missing.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(missing, ["fc.weight", "fc.bias"]);
    assert_eq!(faults.unexpected, ["net.fc.bias", "net.fc.weight"]);
    // Relaxed, something must fit all the same.
    let error = import_with(&affine(), &options(file, &[], true));
    assert!(matches!(error, Err(LoadError::Option { .. })));
}

#[test]
fn what_does_not_fit_is_listed_whole() {
    let folder = Folder::new("misfit");
    let file = folder.path("new.safetensors");
    let tensors: [(&str, &str, &[usize], Vec<u8>); 3] = [
        ("fc.weight", "F32", &[1], f32_bytes(&[2.0])),
        ("fc.bias", "F64", &[2], vec![0; 16]),
        ("more", "F32", &[1], f32_bytes(&[2.0])),
    ];
    safetensors(&file, &tensors);
    let error = import_with(&affine(), &options(file.clone(), &[], false));
    let Err(LoadError::Weights { faults, .. }) = error else { panic!("not the weights") };
    assert_eq!(faults.unexpected, ["more"]);
    assert!(faults.missing.is_empty());
    assert!(matches!(&faults.mismatched[..], [(w, Mismatch::Shape { .. }), (b, Mismatch::Type { .. })]
        if w == "fc.weight" && b == "fc.bias"));
    // Relaxing allows for names, not for shapes and types.
    let error = import_with(&affine(), &options(file, &[], true));
    assert!(matches!(error, Err(LoadError::Weights { faults, .. }) if faults.unexpected.is_empty()));
}

#[test]
fn relaxed_weights_may_be_some() {
    let folder = Folder::new("partial");
    let file = folder.path("new.safetensors");
    safetensors(&file, &[("fc.bias", "F32", &[2], f32_bytes(&[3.0, 4.0])), ("more", "F32", &[0], vec![])]);
    assert_eq!(results(&options(file, &[], true)), [13.0, 24.0]);
}

#[test]
fn two_tensors_do_not_take_one_place() {
    let folder = Folder::new("twice");
    let file = folder.path("new.safetensors");
    let one = || f32_bytes(&[3.0, 4.0]);
    safetensors(&file, &[("fc.bias", "F32", &[2], one()), ("a.bias", "F32", &[2], one())]);
    let error = import_with(&affine(), &options(file, &["a.=fc."], true));
    let Err(LoadError::Weights { faults, .. }) = error else { panic!("not the weights") };
    assert!(matches!(&faults.mismatched[..], [(_, Mismatch::Twice(_))]), "{faults}");
}
