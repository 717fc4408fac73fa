//! Convolutions of ResNet-50 with bias and ReLU, as shares of the FMA peak of this machine's widest vectors, one thread.
//!
//! `cargo bench -p kiln-benches --bench conv`; `KILN_CASE=\"conv 3x3\"` takes the cases with such names. Further switches
//! are in the crate's documentation.

use kiln_benches::Result;
use kiln_benches::contraction::{bench, conv};
use kiln_benches::machine::Machine;
use kiln_codegen::schedule::panel_width;

/// Height and width, channels in and out, kernel size, stride.
const SHAPES: &[(i64, [i64; 2], i64, i64)] = &[
    (224, [3, 64], 7, 2),
    (56, [64, 64], 3, 1),
    (28, [128, 128], 3, 1),
    (14, [256, 256], 3, 1),
    (7, [512, 512], 3, 1),
    (56, [128, 128], 3, 2),
    (14, [512, 512], 3, 2),
    (56, [64, 256], 1, 1),
    (56, [256, 64], 1, 1),
    (28, [512, 128], 1, 1),
    (28, [128, 512], 1, 1),
    (14, [1024, 256], 1, 1),
    (14, [256, 1024], 1, 1),
    (7, [2048, 512], 1, 1),
    (7, [512, 2048], 1, 1),
    (56, [256, 512], 1, 2),
    // The widest of MobileNet's, of few channels.
    (112, [16, 64], 1, 1),
];

fn main() -> Result<()> {
    let Some(machine) = Machine::from_environment() else { return Ok(()) };
    let mut cases = vec![];
    for &(side, channels, size, stride) in SHAPES {
        let depth = size * size * channels[0];
        let width = i64::from(panel_width(channels[1], machine.lanes(), depth));
        cases.push((conv([side, side], channels, size, stride, width)?, vec![]));
    }
    bench(machine, "conv", cases)
}
