//! Comparisons as text.

use super::figures::{Comparison, Figures, Summary, threads};

/// One model: a line a runtime, and the ratios.
pub fn of_model(comparison: &Comparison) -> String {
    let title = format!("{}, {}", comparison.model, threads(comparison.threads));
    let mut text = format!("{title:36} {:>10} {:>10} {:>10}\n", "median", "min", "start");
    for entry in comparison.entries() {
        match &entry.outcome {
            Ok(figures) => {
                let mark = if figures.is_noisy() { " *" } else { "" };
                let (median, min, start) = (figures.median(), figures.min(), figures.start());
                text += &format!("  {:34} {median:>10.2} {min:>10.2} {start:>10.1}{mark}\n", entry.name);
            }
            Err(_) => text += &format!("  {:34} {:>10}\n", entry.name, "failed"),
        }
    }
    if let Some(ratio) = comparison.ratio() {
        let title = format!("kiln / {}", ratio.best);
        text += &format!("  {title:34} {:>10.3} {:>10} {:>10.3}\n", ratio.median, "", ratio.start);
    }
    text
}

/// The medians of all models with `count` threads, a line a model.
pub fn of_threads(comparisons: &[Comparison], count: usize) -> String {
    let chosen: Vec<&Comparison> = comparisons.iter().filter(|c| c.threads == count).collect();
    // A runtime that failed on one model has told its version on another.
    let columns = chosen.first().map_or(0, |comparison| comparison.entries().count());
    let name = |column: usize| {
        let names = chosen.iter().filter_map(|c| c.entries().nth(column)).map(|entry| entry.name.as_str());
        names.max_by_key(|name| name.len()).unwrap_or_default().to_owned()
    };
    let mut text = format!("{:20}", threads(count));
    (0..columns).for_each(|column| text += &format!(" {:>18}", name(column)));
    text += &format!(" {:>12} {:>12}\n", "kiln / best", "start");
    for comparison in chosen {
        text += &format!("{:20}", comparison.model);
        for entry in comparison.entries() {
            text += &format!(" {:>18}", cell(&entry.outcome));
        }
        text += &match comparison.ratio() {
            Some(ratio) => format!(" {:>12.3} {:>12.3}\n", ratio.median, ratio.start),
            None => format!(" {:>12} {:>12}\n", "-", "-"),
        };
    }
    if let Some(summary) = Summary::of(comparisons, count) {
        let blank = columns * 19;
        text +=
            &format!("{:20}{:blank$} {:>12.3} {:>12.3}\n", "geometric mean", "", summary.mean, summary.start);
    }
    text
}

fn cell(outcome: &Result<Figures, String>) -> String {
    match outcome {
        Ok(figures) => format!("{:.2}{}", figures.median(), if figures.is_noisy() { "*" } else { " " }),
        Err(_) => "failed ".to_owned(),
    }
}

/// What failed, and why.
pub fn failures(comparisons: &[Comparison]) -> Vec<String> {
    let of = |comparison: &Comparison| {
        let (model, threads) = (comparison.model.clone(), threads(comparison.threads));
        let failed =
            comparison.entries().filter_map(|entry| Some((&entry.name, entry.outcome.as_ref().err()?)));
        failed
            .map(|(name, reason)| format!("failed: {name} on {model}, {threads}: {reason}"))
            .collect::<Vec<_>>()
    };
    comparisons.iter().flat_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::super::figures::tests::comparison;
    use super::*;

    #[test]
    fn failures_are_listed_and_medians_stand_in_columns() {
        let all = [comparison("a", 10.0, &[20.0]), comparison("b", 40.0, &[20.0])];
        assert_eq!(failures(&all).len(), 2);
        assert_eq!(failures(&all)[0], "failed: absent on a, 1 thread: cannot be set up");
        let table = of_threads(&all, 1);
        let widths: Vec<usize> = table.lines().map(str::len).collect();
        assert!(widths.iter().all(|&width| width == widths[0]), "{table}");
        assert!(of_model(&all[0]).contains("kiln / peer0"));
    }
}
