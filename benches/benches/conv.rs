//! Convolutions of ResNet-50 with bias and ReLU, as shares of the FMA peak of this machine's widest vectors, one thread.
//!
//! Those of bytes, with sums that become bytes again, are shares of the peak of dot products of bytes.
//!
//! A second table has those of 3x3 taps and stride 1 as the compiler takes them, by taps and with transformed tiles where
//! those pay; shares count the operations of the sums over taps in both, so that tiles can have more than all of the peak.
//!
//! `cargo bench -p kiln-benches --bench conv`; `KILN_CASE=\"conv 3x3\"` takes the cases with such names. Further switches
//! are in the crate's documentation.

use kiln::ir::op::{Conv, Layout};
use kiln::ir::{Build, DType, Dim, GraphBuilder, InferError, Value};
use kiln_benches::Result;
use kiln_benches::bytes;
use kiln_benches::contraction::{bench, conv};
use kiln_benches::graph::{Graph, tensor};
use kiln_benches::machine::{Machine, is_wanted};
use kiln_benches::rotate::best_of_turns;
use kiln_benches::table::Table;
use kiln_codegen::schedule::{panel_width, quad_width};

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
        let width = i64::from(quad_width(channels[1], machine.lanes(), depth / 4, machine.has_tiles()));
        cases.push((bytes::conv([side, side], channels, size, stride, width)?, vec![]));
    }
    bench(machine, "conv", cases)?;
    taps_and_tiles(machine)
}

/// Prints the second table.
fn taps_and_tiles(machine: Machine) -> Result<()> {
    let mut table = Table::new(&["best of all runs, as in a model", "peak", "taps", "with tiles"]);
    for &(side, channels, size, stride) in SHAPES {
        let name = format!("conv {size}x{size}/{stride} {side}x{side}x{}->{}", channels[0], channels[1]);
        if size != 3 || stride != 1 || !is_wanted(&name) {
            continue;
        }
        let (side, channels) = (side as usize, channels.map(|n| n as usize));
        let graph = |winograd| {
            let options = kiln::Options { tier: Some(machine.tier), winograd, ..kiln::Options::default() };
            let dims: &[usize] = &[1, side, side, channels[0]];
            Graph::compiled(&options, 1, &[dims], &|b, inputs| layer(b, inputs[0], channels))
        };
        let (mut taps, mut tiles) = (graph(false)?, graph(true)?);
        taps.run()?;
        tiles.run()?;
        let mut peak = 0.0f64;
        let mut runs = (|| taps.run().expect("it ran before"), || tiles.run().expect("it ran before"));
        let best = best_of_turns(&mut [&mut runs.0, &mut runs.1], || peak = peak.max(machine.peak()));
        let flops = (2 * 9 * side * side * channels[0] * channels[1]) as f64;
        let share = |seconds: f64| format!("{:.1}%", 100.0 * flops / seconds / 1e9 / peak);
        table.row(vec![name, format!("{peak:.1}"), share(best[0]), share(best[1])]);
    }
    table.print();
    Ok(())
}

/// A convolution of 3x3 taps with bias and ReLU, channels last.
fn layer(
    b: &mut GraphBuilder<'_>,
    x: Value,
    [channels, filters]: [usize; 2],
) -> std::result::Result<Vec<Value>, InferError> {
    let constant = |dims: &[usize]| tensor(dims).map_err(|error| InferError::new(error.to_string()));
    let weights = b.constant(constant(&[filters, channels, 3, 3])?)?;
    let bias = b.constant(constant(&[filters])?)?;
    let op = Conv::Forward {
        strides: vec![1, 1],
        dilations: vec![1, 1],
        pads: vec![(Dim::known(1), Dim::known(1)); 2],
        groups: 1,
        layout: Layout::ChannelsLast,
        out: DType::F32,
    };
    let y = b.add1(op, &[x, weights])?;
    let y = b.ew("add", &[y, bias])?;
    Ok(vec![b.ew("relu", &[y])?])
}
