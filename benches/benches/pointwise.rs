//! Elementwise functions over 128 x 3072, compiled as a model is: nanoseconds an element, one thread.
//!
//! `cargo bench -p kiln-benches --bench pointwise`

use kiln::ir::{Build, GraphBuilder, Value};
use kiln_benches::Result;
use kiln_benches::graph::Body;
use kiln_benches::stream::bench;

const DIMS: [usize; 2] = [128, 3072];
const NAMES: [&str; 11] =
    ["relu", "add", "exp", "log", "tanh", "erf", "gelu", "gelu_tanh", "sigmoid", "sqrt", "div"];

fn main() -> Result<()> {
    let bodies = NAMES.map(|name| {
        move |b: &mut GraphBuilder<'_>, inputs: &[Value]| {
            let x = inputs[0];
            // Functions of two operands take the input twice.
            let operands = [x, x];
            let count = if matches!(name, "add" | "div") { 2 } else { 1 };
            Ok(vec![b.ew(name, &operands[..count])?])
        }
    });
    let elements = DIMS.iter().product();
    let cases: Vec<(&str, usize, Body<'_>)> =
        NAMES.iter().zip(&bodies).map(|(&name, body)| (name, elements, body as Body<'_>)).collect();
    bench("pointwise", &DIMS, &cases)
}
