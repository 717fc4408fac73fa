//! Reductions and normalizations over 128 x 3072, compiled as a model is: nanoseconds an element, one thread.
//!
//! `cargo bench -p kiln-benches --bench reductions`

use kiln::ir::op::{Composite, ReduceKind};
use kiln::ir::{Build, Float, Tensor};
use kiln_benches::Result;
use kiln_benches::graph::tensor;
use kiln_benches::stream::bench;

const ROWS: usize = 128;
const COLUMNS: usize = 3072;

fn main() -> Result<()> {
    let weights: Tensor = tensor(&[COLUMNS])?;
    let epsilon = Float::new(1e-5);
    let elements = ROWS * COLUMNS;
    bench(
        "reductions",
        &[ROWS, COLUMNS],
        &[
            ("softmax", elements, &|b, v| Ok(vec![b.softmax(v[0], 1)?])),
            ("layer_norm", elements, &|b, v| {
                let (scale, bias) = (b.constant(weights.clone())?, b.constant(weights.clone())?);
                Ok(vec![b.add1(Composite::LayerNorm { axis: 1, epsilon }, &[v[0], scale, bias])?])
            }),
            ("rms_norm", elements, &|b, v| {
                let scale = b.constant(weights.clone())?;
                Ok(vec![b.add1(Composite::RmsNorm { axis: 1, epsilon }, &[v[0], scale])?])
            }),
            ("sum of rows", ROWS, &|b, v| Ok(vec![b.reduce(ReduceKind::Sum, v[0], &[1], false)?])),
            ("max of rows", ROWS, &|b, v| Ok(vec![b.reduce(ReduceKind::Max, v[0], &[1], false)?])),
            ("sum of columns", COLUMNS, &|b, v| Ok(vec![b.reduce(ReduceKind::Sum, v[0], &[0], false)?])),
        ],
    )
}
