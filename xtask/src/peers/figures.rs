//! What was measured, and the ratios that follow from it.

use serde::Deserialize;
use serde_json::{Value, json};

/// A median this much above the minimum means that something else was running.
pub const NOISE: f64 = 1.15;

/// One turn of a runtime, in milliseconds.
#[derive(Deserialize, Clone, Copy, Debug)]
pub struct Turn {
    pub median_ms: f64,
    pub min_ms: f64,
    pub runs: usize,
}

/// All turns of a runtime on one model, in milliseconds.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    pub turns: Vec<Turn>,
    /// Loading and the first run of it, once a start of the process.
    pub starts: Vec<f64>,
}

impl Figures {
    /// The median over the turns of their medians.
    pub fn median(&self) -> f64 {
        median(self.turns.iter().map(|turn| turn.median_ms).collect())
    }

    /// The fastest of all runs.
    pub fn min(&self) -> f64 {
        self.turns.iter().map(|turn| turn.min_ms).fold(f64::INFINITY, f64::min)
    }

    /// The median of loading and first run.
    pub fn start(&self) -> f64 {
        median(self.starts.clone())
    }

    /// Whether something else was running.
    pub fn is_noisy(&self) -> bool {
        self.median() > self.min() * NOISE
    }
}

/// The middle of `values`; not a number if there are none.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.get(middle) {
        None => f64::NAN,
        Some(upper) if values.len() % 2 == 1 => *upper,
        Some(upper) => (values[middle - 1] + upper) / 2.0,
    }
}

/// A runtime on one model: what it showed, or why it showed nothing.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The runtime's name and, once it has told it, its version.
    pub name: String,
    pub outcome: Result<Figures, String>,
}

/// Kiln and its peers on one model with one number of threads.
#[derive(Clone, Debug)]
pub struct Comparison {
    pub model: String,
    pub threads: usize,
    pub kiln: Entry,
    pub peers: Vec<Entry>,
}

/// Kiln against the best peer, by medians.
#[derive(Clone, Debug)]
pub struct Ratio {
    /// The peer with the lowest median.
    pub best: String,
    /// Kiln's median over the best peer's.
    pub median: f64,
    /// Kiln's start over the quickest start of a peer.
    pub start: f64,
}

impl Comparison {
    /// Kiln and the peers, in the order of the tables.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        std::iter::once(&self.kiln).chain(&self.peers)
    }

    /// The ratios; `None` where Kiln or all peers failed.
    pub fn ratio(&self) -> Option<Ratio> {
        let kiln = self.kiln.outcome.as_ref().ok()?;
        let peers: Vec<(&str, &Figures)> = self
            .peers
            .iter()
            .filter_map(|peer| peer.outcome.as_ref().ok().map(|figures| (peer.name.as_str(), figures)))
            .collect();
        let (best, figures) = peers.iter().min_by(|(_, a), (_, b)| a.median().total_cmp(&b.median()))?;
        let start = peers.iter().map(|(_, figures)| figures.start()).fold(f64::INFINITY, f64::min);
        Some(Ratio {
            best: (*best).to_owned(),
            median: kiln.median() / figures.median(),
            start: kiln.start() / start,
        })
    }

    fn json(&self) -> Value {
        let entry = |entry: &Entry| match &entry.outcome {
            Ok(figures) => json!({
                "runtime": entry.name, "median_ms": figures.median(), "min_ms": figures.min(),
                "start_ms": figures.start(), "noisy": figures.is_noisy(),
                "runs": figures.turns.iter().map(|turn| turn.runs).sum::<usize>(),
                "turns_ms": figures.turns.iter().map(|turn| turn.median_ms).collect::<Vec<_>>(),
            }),
            Err(reason) => json!({"runtime": entry.name, "failed": reason}),
        };
        let ratio = self
            .ratio()
            .map(|ratio| json!({"best": ratio.best, "median": ratio.median, "start": ratio.start}));
        json!({
            "model": self.model, "threads": self.threads, "ratio": ratio,
            "runtimes": self.entries().map(entry).collect::<Vec<_>>(),
        })
    }
}

/// The ratios of all models with one number of threads.
#[derive(Clone, Debug)]
pub struct Summary {
    pub threads: usize,
    /// Geometric mean over the models of Kiln's median over the best peer's.
    pub mean: f64,
    /// The same of the starts.
    pub start: f64,
    /// The largest ratio of medians and its model.
    pub worst: (f64, String),
}

impl Summary {
    /// The summary of the comparisons with `threads` threads; `None` if none of them has a ratio.
    pub fn of(comparisons: &[Comparison], threads: usize) -> Option<Self> {
        let ratios: Vec<(&str, Ratio)> = comparisons
            .iter()
            .filter(|comparison| comparison.threads == threads)
            .filter_map(|comparison| Some((comparison.model.as_str(), comparison.ratio()?)))
            .collect();
        let (model, worst) = ratios.iter().max_by(|(_, a), (_, b)| a.median.total_cmp(&b.median))?;
        Some(Self {
            threads,
            mean: geometric_mean(ratios.iter().map(|(_, ratio)| ratio.median)),
            start: geometric_mean(ratios.iter().map(|(_, ratio)| ratio.start)),
            worst: (worst.median, (*model).to_owned()),
        })
    }

    /// The summary in words.
    pub fn line(&self) -> String {
        format!(
            "geometric mean {:.2} of the best peer, worst {:.2} ({}), {}",
            self.mean,
            self.worst.0,
            self.worst.1,
            threads(self.threads)
        )
    }
}

/// `1 thread`, `2 threads`.
pub fn threads(count: usize) -> String {
    format!("{count} thread{}", if count == 1 { "" } else { "s" })
}

fn geometric_mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0.0), |(sum, count), value| (sum + value.ln(), count + 1.0));
    (sum / count).exp()
}

/// Everything that was measured, for other programs.
pub fn document(machine: &str, comparisons: &[Comparison], summaries: &[Summary]) -> Value {
    let summary = |summary: &Summary| {
        json!({
            "threads": summary.threads, "geometric_mean": summary.mean, "start": summary.start,
            "worst": {"model": summary.worst.1, "ratio": summary.worst.0},
        })
    };
    json!({
        "machine": machine,
        "comparisons": comparisons.iter().map(Comparison::json).collect::<Vec<_>>(),
        "summaries": summaries.iter().map(summary).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// An entry whose turns have these medians and minima one lower.
    pub fn entry(name: &str, medians: &[f64], start: f64) -> Entry {
        let turn = |&median_ms: &f64| Turn { median_ms, min_ms: median_ms - 1.0, runs: 5 };
        let figures = Figures { turns: medians.iter().map(turn).collect(), starts: vec![start] };
        Entry { name: name.to_owned(), outcome: Ok(figures) }
    }

    pub fn comparison(model: &str, kiln: f64, peers: &[f64]) -> Comparison {
        let peer = |(i, &median): (usize, &f64)| entry(&format!("peer{i}"), &[median], 100.0);
        let mut peers: Vec<Entry> = peers.iter().enumerate().map(peer).collect();
        peers.push(Entry { name: "absent".to_owned(), outcome: Err("cannot be set up".to_owned()) });
        Comparison { model: model.to_owned(), threads: 1, kiln: entry("kiln", &[kiln], 10.0), peers }
    }

    #[test]
    fn figures_are_medians_of_turns() {
        let Ok(figures) = entry("a", &[30.0, 10.0, 20.0, 12.0], 5.0).outcome else {
            panic!("it has figures")
        };
        assert_eq!((figures.median(), figures.min(), figures.start()), (16.0, 9.0, 5.0));
        assert!(figures.is_noisy());
        assert!(Figures::default().median().is_nan());
    }

    #[test]
    fn the_best_peer_is_the_measure() {
        let ratio = comparison("m", 10.0, &[25.0, 20.0]).ratio().expect("both ran");
        assert_eq!((ratio.best.as_str(), ratio.median, ratio.start), ("peer1", 0.5, 0.1));
        assert!(comparison("m", 10.0, &[]).ratio().is_none());
    }

    #[test]
    fn a_summary_is_geometric_and_names_the_worst() {
        let all = [comparison("a", 10.0, &[20.0]), comparison("b", 40.0, &[20.0]), comparison("c", 1.0, &[])];
        let summary = Summary::of(&all, 1).expect("two have ratios");
        assert!((summary.mean - 1.0).abs() < 1e-12);
        assert_eq!(summary.line(), "geometric mean 1.00 of the best peer, worst 2.00 (b), 1 thread");
        assert!(Summary::of(&all, 2).is_none());
        let json = document("machine", &all, &[summary]);
        assert_eq!(json["comparisons"][0]["runtimes"][2]["failed"], "cannot be set up");
        assert_eq!(json["summaries"][0]["worst"]["model"], "b");
    }
}
