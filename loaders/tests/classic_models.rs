//! Operators of `ai.onnx.ml` through loader and evaluator. Expected values are those of ONNX Runtime.
mod common;

use common::*;
use kiln_ir::{Datum, Evaluator, Tensor};
use kiln_loaders::onnx::proto::*;

/// A model of one node, run on `x`; the message of what fails otherwise.
fn run(op: &str, attributes: Vec<AttributeProto>, results: usize, x: &Tensor) -> Result<Vec<Tensor>, String> {
    let names: Vec<String> = (0..results).map(|i| format!("y{i}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let dims: Vec<i64> = x.dims().iter().map(|&d| d as i64).collect();
    let domain = "ai.onnx.ml".to_owned();
    let node = NodeProto { domain: domain.clone(), ..node(op, &["x"], &names, attributes) };
    let mut model = model(17, graph(vec![node], vec![value("x", x.dtype(), &dims)], &names));
    model.opset_import.push(OperatorSetIdProto { domain, version: 3 });
    let module = import(&model).map_err(|e| e.to_string())?;
    let results = Evaluator::new(&module).run(module.entries()[0], &[Datum::Tensor(x.clone())]);
    Ok(results.map_err(|e| e.to_string())?.into_iter().map(|d| d.into_tensor().unwrap()).collect())
}

fn close(actual: &Tensor, expected: &[f64]) {
    let actual = actual.to_f64s().unwrap();
    assert_eq!(actual.len(), expected.len(), "{actual:?}");
    for (a, e) in actual.iter().zip(expected) {
        assert!((a - e).abs() <= 1e-5 * (1.0 + e.abs()), "{actual:?} instead of {expected:?}");
    }
}

/// One tree: `x <= 0.5`; the children are the nodes `holds` and 2.
fn stump(holds: i64) -> Vec<AttributeProto> {
    vec![
        ints("nodes_treeids", &[0, 0, 0]),
        ints("nodes_nodeids", &[0, 1, 2]),
        ints("nodes_featureids", &[0, 0, 0]),
        floats("nodes_values", &[0.5, 0.0, 0.0]),
        strings("nodes_modes", &["BRANCH_LEQ", "LEAF", "LEAF"]),
        ints("nodes_truenodeids", &[holds, 0, 0]),
        ints("nodes_falsenodeids", &[2, 0, 0]),
    ]
}

fn classes(holds: i64, labels: AttributeProto, weights: &[f32]) -> Vec<AttributeProto> {
    let mut attributes = stump(holds);
    attributes.extend([
        labels,
        ints("class_treeids", &[0, 0]),
        ints("class_nodeids", &[1, 2]),
        ints("class_ids", &[0, 0]),
        floats("class_weights", weights),
    ]);
    attributes
}

#[test]
fn trees_classify_with_either_kind_of_labels() {
    let x = Tensor::from_slice(&[2, 1], &[0.0f32, 1.0]).unwrap();
    let attributes = classes(1, ints("classlabels_int64s", &[10, 20]), &[0.2, 0.8]);
    let y = run("TreeEnsembleClassifier", attributes, 2, &x).unwrap();
    assert_eq!(y[0], Tensor::ints(&[10, 20]));
    close(&y[1], &[0.8, 0.2, 0.2, 0.8]);
    let mut attributes = classes(1, strings("classlabels_strings", &["no", "yes"]), &[-0.2, 0.8]);
    attributes.push(string("post_transform", "LOGISTIC"));
    let y = run("TreeEnsembleClassifier", attributes, 2, &x).unwrap();
    assert_eq!(y[0].as_strings(), ["no", "yes"]);
    close(&y[1], &[0.5498339, 0.450166, 0.3100255, 0.6899745]);
}

#[test]
fn malformed_trees_are_named() {
    let x = Tensor::from_slice(&[2, 1], &[0i64, 1]).unwrap();
    let labels = || ints("classlabels_int64s", &[10, 20]);
    let error = run("TreeEnsembleClassifier", classes(9, labels(), &[0.2, 0.8]), 2, &x).unwrap_err();
    assert!(
        error.contains("`TreeEnsembleClassifier_y0`: ai.onnx.ml.TreeEnsembleClassifier-3")
            && error.contains("no node 9"),
        "{error}"
    );
    let error = run("TreeEnsembleClassifier", classes(0, labels(), &[0.2, 0.8]), 2, &x).unwrap_err();
    assert!(error.contains("cycle"), "{error}");
    let error = run("TreeEnsembleClassifier", classes(1, labels(), &[0.2]), 2, &x).unwrap_err();
    assert!(error.contains("`class_weights` has 1 elements, not 2"), "{error}");
    let error = run("TreeEnsembleClassifier", stump(1), 2, &x).unwrap_err();
    assert!(error.contains("`classlabels_int64s`") || error.contains("must be given"), "{error}");
}

#[test]
fn linear_models() {
    let x = Tensor::from_slice(&[3, 3], &[1.0f32, -2.0, 3.0, 0.0, 0.0, 0.0, -1.0, -5.0, -2.0]).unwrap();
    let attributes = |rule: &str| {
        vec![
            floats("coefficients", &[0.1, 0.2, 0.3]),
            floats("intercepts", &[0.05]),
            ints("classlabels_ints", &[5, 6]),
            string("post_transform", rule),
        ]
    };
    let y = run("LinearClassifier", attributes("NONE"), 2, &x).unwrap();
    assert_eq!(y[0], Tensor::ints(&[6, 6, 5]));
    close(&y[1], &[0.35, 0.65, 0.95, 0.05, 2.65, -1.65]);
    let y = run("LinearClassifier", attributes("LOGISTIC"), 2, &x).unwrap();
    close(&y[1], &[0.3429895, 0.6570105, 0.4875026, 0.5124974, 0.838891, 0.161109]);
    let attributes = vec![
        floats("coefficients", &[0.1, 0.2]),
        floats("support_vectors", &[1.0, 2.0, 3.0, -1.0, 0.0, 1.0]),
        floats("rho", &[0.05]),
        floats("kernel_params", &[0.1, 0.2, 3.0]),
        string("kernel_type", "RBF"),
        int("n_supports", 2),
    ];
    let y = run("SVMRegressor", attributes, 1, &x).unwrap();
    close(&y[0], &[0.1304285, 0.2384059, 0.0567156]);
    let error = run("LinearRegressor", vec![floats("coefficients", &[1.0, 2.0])], 1, &x).unwrap_err();
    assert!(error.contains("2 coefficients for 3 features"), "{error}");
}

#[test]
fn encoders() {
    let x = Tensor::ints(&[3, 7, 0]);
    let y = run("OneHotEncoder", vec![ints("cats_int64s", &[0, 3])], 1, &x).unwrap();
    close(&y[0], &[0.0, 1.0, 0.0, 0.0, 1.0, 0.0]);
    let strict = vec![ints("cats_int64s", &[0, 3]), int("zeros", 0)];
    let error = run("OneHotEncoder", strict, 1, &x).unwrap_err();
    assert!(error.contains("index 2 is out of range"), "{error}");
    let attributes = vec![strings("cats_strings", &["a", "b"]), ints("cats_int64s", &[0, 3])];
    let y = run("CategoryMapper", attributes, 1, &x).unwrap();
    assert_eq!(y[0].as_strings(), ["b", "_Unused", "a"]);
    let x = Tensor::from_slice(&[1, 3], &[1.0f32, 0.0, 0.0]).unwrap();
    let attributes = vec![floats("imputed_value_floats", &[5.0, 6.0, 7.0])];
    close(&run("Imputer", attributes, 1, &x).unwrap()[0], &[1.0, 6.0, 7.0]);
    close(&run("Normalizer", vec![string("norm", "L2")], 1, &x).unwrap()[0], &[1.0, 0.0, 0.0]);
}
