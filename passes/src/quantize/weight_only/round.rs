//! Integers, scales and zero points of groups of weights.

use super::{Bits, Groups, Rounding};

/// What a group's weights become.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Coding {
    pub size: usize,
    /// Smallest and largest integer.
    pub range: (f32, f32),
    pub asymmetric: bool,
    pub rounding: Rounding,
}

impl Coding {
    pub fn of(groups: &Groups) -> Coding {
        let levels = match groups.bits {
            Bits::Four => 16.0,
            Bits::Eight => 256.0,
        };
        let range = if groups.asymmetric { (0.0, levels - 1.0) } else { (-levels / 2.0, levels / 2.0 - 1.0) };
        Coding { size: groups.size, range, asymmetric: groups.asymmetric, rounding: groups.rounding }
    }
}

/// Weights as integers.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Coded {
    /// In the order of the weights.
    pub codes: Vec<i16>,
    /// Scales and zero points, in the order of weights of which one axis has groups.
    pub scales: Vec<f32>,
    pub zeros: Vec<f32>,
    /// Sum of the squares of all errors.
    pub error: f64,
}

/// Shares of the range of a group that the integers may stand for: what lies beyond is bounded, what is within has finer
/// steps.
const SHARES: [f32; 8] = [1.0, 0.96, 0.92, 0.88, 0.84, 0.8, 0.75, 0.7];

/// An error counts at least so much of what counts most.
const LEAST_COUNT: f64 = 1e-4;

/// A group's scale is at least so much, so that no quotient is infinite.
const LEAST: f32 = f32::MIN_POSITIVE * 65536.0;

/// Weights of a group, and how much an error in each counts.
#[derive(Clone, Debug, Default)]
pub(super) struct Members {
    pub weights: Vec<f32>,
    pub counts: Vec<f64>,
}

impl Members {
    fn pairs(&self) -> impl Iterator<Item = (f32, f64)> {
        self.weights.iter().copied().zip(self.counts.iter().copied())
    }
}

/// Integers of weights of these dims, in groups along an axis. An error in a weight counts by the energy of the values that
/// it multiplies, where there is one for each index of the axis; else as any other.
pub(super) fn code(values: &[f32], dims: &[usize], axis: usize, coding: Coding, energies: &[f64]) -> Coded {
    let size = dims.get(axis).copied().unwrap_or(1).max(1);
    let inner: usize = dims.iter().skip(axis + 1).product::<usize>().max(1);
    let outer = values.len() / (size * inner).max(1);
    let groups = size.div_ceil(coding.size);
    let mut out = Coded {
        codes: vec![0; values.len()],
        scales: vec![0.0; outer * groups * inner],
        zeros: vec![0.0; outer * groups * inner],
        error: 0.0,
    };
    let counts: Vec<f64> = match energies.iter().copied().fold(0.0, f64::max) {
        most if most > 0.0 && energies.len() == size => {
            // Values that calibration did not show may come.
            energies.iter().map(|e| (e / most).max(LEAST_COUNT)).collect()
        }
        _ => vec![1.0; size],
    };
    let mut group_of = Members::default();
    for o in 0..outer {
        for g in 0..groups {
            let members = g * coding.size..size.min((g + 1) * coding.size);
            for i in 0..inner {
                let at = |k: usize| (o * size + k) * inner + i;
                group_of.weights.clear();
                group_of.weights.extend(members.clone().filter_map(|k| values.get(at(k)).copied()));
                group_of.counts.clear();
                group_of.counts.extend(counts.get(members.clone()).unwrap_or_default());
                let group = group(&group_of, coding);
                let place = (o * groups + g) * inner + i;
                if let (Some(scale), Some(zero)) = (out.scales.get_mut(place), out.zeros.get_mut(place)) {
                    (*scale, *zero) = (group.scale, group.zero);
                }
                for (k, w) in members.clone().zip(&group_of.weights) {
                    let code = group.code(*w, coding.range);
                    let error = f64::from(*w) - f64::from((code - group.zero) * group.scale);
                    out.error += error * error;
                    if let Some(slot) = out.codes.get_mut(at(k)) {
                        // An integer of the range.
                        *slot = code as i16;
                    }
                }
            }
        }
    }
    out
}

/// Scale and zero point of a group.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Group {
    pub scale: f32,
    pub zero: f32,
}

impl Group {
    pub fn code(&self, w: f32, (low, high): (f32, f32)) -> f32 {
        (w / self.scale + self.zero).round_ties_even().clamp(low, high)
    }

    /// The error of a weight, in steps.
    fn off(&self, w: f32, range: (f32, f32)) -> f32 {
        w / self.scale - (self.code(w, range) - self.zero)
    }

    /// The sum of the squares of the errors.
    pub fn squares(&self, members: &Members, range: (f32, f32)) -> f64 {
        let square = |(w, count): (f32, f64)| {
            let off = f64::from(self.off(w, range));
            off * off * count
        };
        let scale = f64::from(self.scale);
        members.pairs().map(square).sum::<f64>() * scale * scale
    }

    /// Scale and zero point of the least squares for its integers, of weights less what a penalty leaves of their errors.
    fn refined(&self, members: &Members, range: (f32, f32), penalty: Option<f32>) -> Option<Group> {
        let (mut codes, mut values, mut squares, mut products) = (0.0f64, 0.0f64, 0.0f64, 0.0f64);
        let mut all = 0.0f64;
        for (w, count) in members.pairs() {
            let kept = penalty.map_or(0.0, |penalty| {
                let off = self.off(w, range);
                (off.abs() - off.abs().powf(POWER - 1.0) / penalty).max(0.0).copysign(off)
            });
            let (code, value) = (f64::from(self.code(w, range)), f64::from(w - kept * self.scale));
            all += count;
            codes += count * code;
            values += count * value;
            squares += count * code * code;
            products += count * code * value;
        }
        let spread = squares - codes * codes / all;
        let scale = ((products - codes * values / all) / spread) as f32;
        let zero = (codes / all - values / all / f64::from(scale)) as f32;
        let fits = spread > 0.0 && scale >= LEAST && zero.is_finite();
        fits.then_some(Group { scale, zero })
    }
}

pub(super) fn group(members: &Members, coding: Coding) -> Group {
    let nearest = nearest(members, coding);
    match coding.rounding {
        Rounding::Nearest => nearest,
        Rounding::Hqq => half_quadratic(members, coding.range, nearest),
    }
}

/// The scale and integer zero point of the least mean square error.
fn nearest(members: &Members, coding: Coding) -> Group {
    let weights = &members.weights;
    let (low, high) = coding.range;
    // Ranges hold 0, so that zero points are integers of the range.
    let least = weights.iter().fold(0.0f32, |l, w| l.min(*w));
    let most = weights.iter().fold(0.0f32, |m, w| m.max(*w));
    let candidate = |share: f32| {
        let (least, most) = (least * share, most * share);
        if coding.asymmetric {
            let scale = ((most - least) / (high - low)).max(LEAST);
            return Group { scale, zero: (low - least / scale).round_ties_even().clamp(low, high) };
        }
        Group { scale: (most.max(-least) / high).max(LEAST), zero: 0.0 }
    };
    // The lowest integer has no counterpart: with a negative scale it stands for the largest positive weight.
    let end = |sign: f32| {
        let magnitude = most.max(-least);
        let some = !coding.asymmetric && magnitude > LEAST * -low;
        some.then_some(Group { scale: sign * magnitude / -low, zero: 0.0 })
    };
    let ends = [end(1.0), end(-1.0)].into_iter().flatten();
    let mut best = (f64::INFINITY, candidate(1.0));
    for group in SHARES.into_iter().map(candidate).chain(ends) {
        let error = group.squares(members, coding.range);
        if error < best.0 {
            best = (error, group);
        }
    }
    best.1
}

/// The power of the errors that is made small.
const POWER: f32 = 0.7;

/// Steps of each iteration, the first penalty of the proximal one, and by what it grows: those of the paper's implementation.
/// Errors are counted in steps of the integers, so that penalties mean the same whatever the scale is.
const STEPS: usize = 8;
const PENALTY: f32 = 10.0;
const GROWTH: f32 = 1.01;

/// The group of the least mean square error among the iterates of a half-quadratic splitting, and `nearest`.
///
/// Integers are found for a scale and a zero point, and these for the integers, by least squares, from several ranges. From
/// the best of them, a proximal iteration makes the sum of the errors' powers small: what a weight errs by shrinks towards 0
/// by what the penalty allows, and what is left of it is left out of the least squares, so that few weights that are far from
/// the others do not decide.
fn half_quadratic(members: &Members, range: (f32, f32), nearest: Group) -> Group {
    let weights = &members.weights;
    let least = weights.iter().fold(f32::INFINITY, |l, w| l.min(*w));
    let most = weights.iter().fold(f32::NEG_INFINITY, |m, w| m.max(*w));
    let (low, high) = range;
    let mut best = (nearest.squares(members, range), nearest);
    for share in SHARES {
        let scale = ((most - least) / (high - low) * share).max(LEAST);
        let start = Group { scale, zero: (low + high) / 2.0 - (most + least) / 2.0 / scale };
        best = improved(members, range, best, start, None);
    }
    let start = best.1;
    improved(members, range, best, start, Some(PENALTY)).1
}

/// The best of what is known and the iterates from a start; without a penalty, no error is left out.
fn improved(
    members: &Members,
    range: (f32, f32),
    mut best: (f64, Group),
    mut group: Group,
    mut penalty: Option<f32>,
) -> (f64, Group) {
    let mut last = f64::INFINITY;
    for _ in 0..STEPS {
        let error = group.squares(members, range);
        if error < best.0 {
            best = (error, group);
        }
        // Least squares alone never err more than before.
        if penalty.is_none() && error >= last {
            break;
        }
        last = error;
        let Some(next) = group.refined(members, range, penalty) else { break };
        group = next;
        penalty = penalty.map(|p| p * GROWTH);
    }
    best
}
