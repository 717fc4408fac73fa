//! Matrix products with epilogues, as shares of the FMA peak of this machine's widest vectors, one thread; those of
//! bytes, with sums that become bytes again, as shares of the peak of dot products of bytes.
//!
//! `cargo bench -p kiln-benches --bench gemm`; `--features peers` puts the crates `gemm`, `rten-gemm` and
//! `matrixmultiply` beside them. The switches are in the crate's documentation.

use kiln_benches::Result;
use kiln_benches::bytes;
use kiln_benches::contraction::{Epilogue, Peer, batched, bench, gemm};
use kiln_benches::machine::{Machine, is_wanted};
use kiln_codegen::schedule::{panel_width, quad_width};

/// Rows, columns, depth: projections of BERT and MiniLM, a cube, convolutions 1x1 of ResNet, a batch of one.
const SHAPES: [[i64; 3]; 9] = [
    [128, 768, 768],
    [128, 768, 3072],
    [128, 3072, 768],
    [256, 768, 768],
    [384, 384, 1536],
    [512, 512, 512],
    [3136, 64, 64],
    [49, 2048, 512],
    [1, 1000, 2048],
];

fn main() -> Result<()> {
    let Some(machine) = Machine::from_environment() else { return Ok(()) };
    let mut cases = vec![];
    for shape in SHAPES {
        let width = i64::from(panel_width(shape[1], machine.lanes(), shape[2]));
        let case = gemm(shape, Epilogue::Relu, width)?;
        let peers = if is_wanted(&case.name) { peers(shape)? } else { vec![] };
        cases.push((case, peers));
        cases.push((gemm(shape, Epilogue::Gelu, width)?, vec![]));
        let width = i64::from(quad_width(shape[1], machine.lanes(), shape[2] / 4, machine.has_tiles()));
        cases.push((bytes::gemm(shape, width)?, vec![]));
    }
    cases.push((batched(12, [128, 128, 64])?, vec![]));
    bench(machine, "gemm", cases)
}

#[cfg(feature = "peers")]
fn peers(shape: [i64; 3]) -> Result<Vec<Peer>> {
    kiln_benches::peers::all(shape.map(|size| size as usize))
}

#[cfg(not(feature = "peers"))]
fn peers(_: [i64; 3]) -> Result<Vec<Peer>> {
    Ok(vec![])
}
