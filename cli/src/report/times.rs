//! Times of a run's steps, from the spans of its workers.

use std::collections::BTreeMap;

use kiln::runtime::profile::{Span, StepId};

/// Time of one step in one run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StepTime {
    /// Nanoseconds in which at least one worker was at the step, without the steps that ran inside of it.
    pub elapsed: u64,
    /// The same, summed over the workers.
    pub busy: u64,
}

/// The time of every step in the spans of one run. The spans of a step for which `holds_others` (a branch, a loop, a
/// call) contain those of the steps that ran inside.
pub fn of_steps(spans: &[Span], holds_others: impl Fn(StepId) -> bool) -> BTreeMap<StepId, StepTime> {
    let mut sorted: Vec<&Span> = spans.iter().collect();
    sorted.sort_by_key(|span| (span.start_ns, span.end_ns));
    let mut intervals: BTreeMap<StepId, (Vec<(u64, u64)>, u64)> = BTreeMap::new();
    for span in &sorted {
        let (own, busy) = intervals.entry(span.step).or_default();
        let whole = (span.start_ns, span.end_ns);
        if holds_others(span.step) {
            let rest = without(whole, &sorted, span.step);
            *busy += rest.iter().map(|(start, end)| end - start).sum::<u64>();
            own.extend(rest);
        } else {
            *busy += whole.1.saturating_sub(whole.0);
            own.push(whole);
        }
    }
    let time = |(own, busy): (Vec<(u64, u64)>, u64)| StepTime { elapsed: union(own), busy };
    intervals.into_iter().map(|(step, found)| (step, time(found))).collect()
}

/// What is left of an interval without the spans of other steps inside of it. `sorted` is in order of starts.
fn without((start, end): (u64, u64), sorted: &[&Span], step: StepId) -> Vec<(u64, u64)> {
    let first = sorted.partition_point(|span| span.start_ns < start);
    let (mut left, mut at) = (vec![], start);
    for span in sorted[first..].iter().take_while(|span| span.start_ns < end) {
        if span.step == step || span.end_ns > end {
            continue;
        }
        if span.start_ns > at {
            left.push((at, span.start_ns));
        }
        at = at.max(span.end_ns);
    }
    if at < end {
        left.push((at, end));
    }
    left
}

/// The length of the union of intervals.
fn union(mut intervals: Vec<(u64, u64)>) -> u64 {
    intervals.sort_unstable();
    let (mut length, mut at) = (0, 0);
    for (start, end) in intervals {
        length += end.saturating_sub(start.max(at));
        at = at.max(end);
    }
    length
}

#[cfg(test)]
mod tests {
    use kiln::runtime::program::FunctionId;

    use super::*;

    fn span(step: u32, worker: u32, start_ns: u64, end_ns: u64) -> Span {
        let step = StepId { function: FunctionId(0), step };
        Span { step, chunk: 0, worker, start_ns, end_ns }
    }

    fn times(spans: &[Span]) -> Vec<(u64, u64)> {
        let times = of_steps(spans, |step| step.step == 9);
        times.values().map(|time| (time.elapsed, time.busy)).collect()
    }

    #[test]
    fn workers_at_the_same_step_count_once() {
        assert_eq!(times(&[span(0, 0, 10, 20), span(0, 1, 12, 24), span(0, 0, 40, 45)]), [(19, 27)]);
    }

    #[test]
    fn a_loop_is_charged_what_its_steps_leave() {
        let inside = [span(0, 0, 12, 20), span(1, 1, 15, 25), span(0, 0, 30, 35)];
        let all = [&inside[..], &[span(9, 0, 10, 40)]].concat();
        assert_eq!(times(&all), [(13, 13), (10, 10), (12, 12)]);
    }
}
