//! Cases that are random by definition: draws of 1 with probabilities that the input gives, else 0.

use kiln::runtime::Datum;
use serde::{Deserialize, Serialize};

use crate::execute::{Failure, Program};
use crate::value::{Elements, Mismatch, Value};

/// What is drawn; the caller's side is `Draws` of `xtask/src/suite/cases.rs`.
#[derive(Clone, Copy, Deserialize, Serialize)]
pub struct Draws {
    chances: Chances,
    /// Whether the operator has a seed of its own, with which it repeats itself.
    seeded: bool,
}

/// Where the probabilities are.
#[derive(Clone, Copy, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum Chances {
    /// In the input.
    Input,
    /// The input holds their complements.
    Complement,
}

/// Runs whose draws are counted.
const RUNS: usize = 256;

/// How many standard deviations a count may be off: less often than once in a million runs by chance.
const DEVIATIONS: f64 = 5.0;

/// Whether every draw has the expected dtype and shape and is 0 or 1, and the frequencies of 1 are those of the input.
pub fn check(
    program: &Program,
    inputs: &[Datum],
    expected: &[Value],
    draws: Draws,
) -> Result<Result<(), Mismatch>, Failure> {
    let chances = inputs.first().and_then(Datum::as_tensor).and_then(|t| t.to_f64s());
    let mut chances =
        chances.ok_or_else(|| Failure::error("draws", "the first input is no tensor of numbers"))?;
    if let Chances::Complement = draws.chances {
        chances.iter_mut().for_each(|chance| *chance = 1.0 - *chance);
    }
    let mut runs: Vec<Vec<f64>> = vec![];
    for _ in 0..RUNS {
        match values(&program.run(inputs)?, expected, chances.len()) {
            Ok(values) => runs.push(values),
            Err(mismatch) => return Ok(Err(mismatch)),
        }
    }
    // An operator that repeats itself has one draw to count.
    let repeats = runs.iter().all(|run| Some(run) == runs.first());
    if repeats != draws.seeded {
        let place = format!("{RUNS} runs are {}", if repeats { "all equal" } else { "not equal" });
        return Ok(Err(Mismatch { what: "draws differ from what the seed asks for", place }));
    }
    if repeats {
        runs.truncate(1);
    }
    let count = runs.len() as f64;
    let total = |values: &mut dyn Iterator<Item = (f64, f64)>| -> (f64, f64, f64) {
        values.fold((0.0, 0.0, 0.0), |(hits, mean, variance), (hit, chance)| {
            (hits + hit, mean + count * chance, variance + count * chance * (1.0 - chance))
        })
    };
    let hits: Vec<f64> = (0..chances.len()).map(|i| runs.iter().map(|run| run[i]).sum()).collect();
    let pairs: Vec<(f64, f64)> = hits.into_iter().zip(chances).collect();
    let wrong = |(hits, mean, variance): (f64, f64, f64)| (hits - mean).abs() > DEVIATIONS * variance.sqrt();
    // Of a single draw only the sum says something.
    let each = if runs.len() > 1 { pairs.as_slice() } else { &[] };
    for group in each.iter().map(std::slice::from_ref).chain([pairs.as_slice()]) {
        let sums = total(&mut group.iter().copied());
        if wrong(sums) {
            let place = format!("{} ones instead of about {:.1} in {count} draws", sums.0, sums.1);
            return Ok(Err(Mismatch { what: "frequencies differ", place }));
        }
    }
    Ok(Ok(()))
}

/// The elements of the one output, which are 0 or 1 in the expected dtype and shape.
fn values(got: &[Value], expected: &[Value], count: usize) -> Result<Vec<f64>, Mismatch> {
    let ([Value::Tensor { dtype, shape, elements }], [Value::Tensor { dtype: d, shape: s, .. }]) =
        (got, expected)
    else {
        return Err(Mismatch { what: "number of outputs differs", place: format!("{}", got.len()) });
    };
    if (dtype, shape) != (d, s) {
        let place = format!("{dtype} {shape:?} instead of {d} {s:?}");
        return Err(Mismatch { what: "dtype or shape differs", place });
    }
    match elements {
        Elements::Real(values) if values.len() == count && values.iter().all(|&v| v == 0.0 || v == 1.0) => {
            Ok(values.clone())
        }
        other => Err(Mismatch { what: "a draw is neither 0 nor 1", place: format!("{other:?}") }),
    }
}
