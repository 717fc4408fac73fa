//! Decision trees. Expected values of votes are those of ONNX Runtime.

use kiln_ir::op::{BinaryRule, Host, ScoreTransform, TreeAggregate};
use kiln_ir::{DType, Tensor};

use super::{f32s, fails, i64s, near, run, run_all, same};

/// Comparison `kind` of feature 0 with 0.5; leaves have the weights 0 and 1.
fn stump(kind: i64, first: i64, nan: i64) -> Vec<i64> {
    [[kind, 0, first, 2, nan, 0, 2], [7, 0, 0, 1, 0, 0, 0], [7, 0, 1, 2, 0, 0, 0]].concat()
}

/// Operands: the stump and, as second tree, a leaf of both weights. Members are 0.5 and 3.
fn forest(x: &[f64], nodes: Vec<i64>, targets: &[i64], weights: &[f64], base: &[f64]) -> Vec<Tensor> {
    let nodes = [nodes, vec![7, 0, 0, 2, 0, 0, 0]].concat();
    vec![
        f32s(&[x.len(), 1], x),
        i64s(&[2], &[0, 3]),
        i64s(&[4, 7], &nodes),
        f32s(&[4], &[0.5, 0.0, 0.0, 0.0]),
        i64s(&[2], targets),
        f32s(&[2], weights),
        f32s(&[base.len()], base),
        f32s(&[2], &[0.5, 3.0]),
    ]
}

fn score(targets: i64, aggregate: TreeAggregate) -> Host {
    Host::TreeEnsemble { targets, aggregate, transform: ScoreTransform::None, dtype: DType::F32 }
}

#[test]
fn every_comparison_splits() {
    let x = [0.0, 0.5, 3.0, f64::NAN];
    let holds = [
        [true, true, false, false],
        [true, false, false, false],
        [false, true, true, false],
        [false, false, true, false],
        [false, true, false, false],
        [true, false, true, true],
        [false, true, true, false],
    ];
    for (kind, expected) in (0..).zip(holds) {
        for nan in [0, 1] {
            let y = run(
                score(1, TreeAggregate::Sum),
                &forest(&x, stump(kind, 1, nan), &[0, 0], &[10.0, 20.0], &[]),
            );
            let nan_holds = expected[3] || nan == 1;
            let leaf = |holds: bool| if holds { 40.0 } else { 50.0 };
            let expected = [leaf(expected[0]), leaf(expected[1]), leaf(expected[2]), leaf(nan_holds)];
            near(&y, &[4, 1], &expected, 0.0);
        }
    }
}

#[test]
fn leaves_aggregate_by_target() {
    let operands = || forest(&[0.0, 1.0], stump(0, 1, 0), &[0, 1], &[-2.0, 4.0], &[0.5, 0.25]);
    near(&run(score(2, TreeAggregate::Sum), &operands()), &[2, 2], &[-3.5, 4.25, -1.5, 8.25], 0.0);
    near(&run(score(2, TreeAggregate::Average), &operands()), &[2, 2], &[-1.5, 2.25, -0.5, 4.25], 0.0);
    near(&run(score(2, TreeAggregate::Min), &operands()), &[2, 2], &[-1.5, 4.25, -1.5, 4.25], 0.0);
    near(&run(score(2, TreeAggregate::Max), &operands()), &[2, 2], &[-1.5, 4.25, -1.5, 4.25], 0.0);
}

#[test]
fn trees_vote() {
    let vote = |classes, transform, binary| Host::TreeClassifier { classes, transform, binary };
    let single = forest(&[0.0, 1.0], stump(0, 1, 0), &[0, 0], &[0.1, 0.35], &[]);
    let votes = run_all(vote(2, ScoreTransform::None, BinaryRule::Probability), &single);
    same(&votes[0], &i64s(&[2], &[1, 1]));
    near(&votes[1], &[2, 2], &[0.45, 0.55, 0.2, 0.8], 1e-6);
    let votes = run_all(vote(2, ScoreTransform::Logistic, BinaryRule::Signed), &single);
    near(&votes[1], &[2, 2], &[0.365864, 0.634136, 0.310026, 0.689974], 1e-5);
    let both = forest(&[0.0, 1.0], stump(0, 1, 0), &[0, 2], &[-0.5, 0.2], &[]);
    let votes = run_all(vote(3, ScoreTransform::SoftmaxZero, BinaryRule::None), &both);
    same(&votes[0], &i64s(&[2], &[2, 2]));
    near(&votes[1], &[2, 3], &[0.231475, 0.0, 0.768525, 0.28905, 0.0, 0.71095], 1e-5);
}

#[test]
fn malformed_trees_are_refused() {
    let op = || score(1, TreeAggregate::Sum);
    let operands = |nodes| forest(&[0.0], nodes, &[0, 0], &[1.0, 2.0], &[]);
    assert!(fails(op(), &operands(stump(0, 0, 0))).contains("cycle"));
    assert!(fails(op(), &operands(stump(0, 9, 0))).contains("index 9 is out of range"));
    assert!(fails(op(), &operands(stump(0, -1, 0))).contains("index -1 is out of range"));
    assert!(fails(op(), &operands(stump(8, 1, 0))).contains("comparison 8"));
    let mut nodes = stump(0, 1, 0);
    nodes[1] = 1;
    assert!(fails(op(), &operands(nodes)).contains("index 1 is out of range for 1"));
    let mut nodes = stump(0, 1, 0);
    nodes[10] = 7;
    assert!(fails(op(), &operands(nodes)).contains("elements 0 to 7 of 2"));
    let targets = forest(&[0.0], stump(0, 1, 0), &[5, 0], &[1.0, 2.0], &[]);
    assert!(fails(op(), &targets).contains("index 5"));
}
