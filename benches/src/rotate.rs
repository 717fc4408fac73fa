//! Best times of runs in rotation.

use std::time::Instant;

/// Turns of each.
pub const ROUNDS: usize = 4;
/// Seconds of a turn.
const TURN: f64 = 0.25;
/// Runs of a turn, however long they take.
const MIN_RUNS: usize = 3;

/// Seconds of the best run of each of `runs`, which take turns; `between` runs before every round.
pub fn best_of_turns(runs: &mut [&mut dyn FnMut()], mut between: impl FnMut()) -> Vec<f64> {
    let mut best = vec![f64::INFINITY; runs.len()];
    for _ in 0..ROUNDS {
        between();
        for (run, best) in runs.iter_mut().zip(&mut best) {
            *best = best.min(turn(run));
        }
    }
    best
}

/// Seconds of the best run of one turn.
pub fn turn(run: &mut dyn FnMut()) -> f64 {
    turn_of(TURN, run)
}

/// Seconds of the best run of a turn of so many seconds.
pub fn turn_of(seconds: f64, run: &mut dyn FnMut()) -> f64 {
    let (begin, mut best, mut runs) = (Instant::now(), f64::INFINITY, 0);
    while begin.elapsed().as_secs_f64() < seconds || runs < MIN_RUNS {
        let start = Instant::now();
        run();
        best = best.min(start.elapsed().as_secs_f64());
        runs += 1;
    }
    best
}
