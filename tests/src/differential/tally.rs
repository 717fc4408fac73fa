//! What a run has seen.

use std::collections::BTreeMap;
use std::fmt;

/// Counts of a run.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Models.
    pub graphs: usize,
    /// Models that onnxruntime took.
    pub compared: usize,
    /// Models that failed.
    pub mismatches: usize,
    /// Models over which onnxruntime's two ways disagree with each other.
    pub torn: usize,
    /// How often each operator occurred.
    pub operators: BTreeMap<String, usize>,
    /// Why onnxruntime did not take models.
    pub refused: BTreeMap<String, usize>,
    /// Operators that onnxruntime disagrees with itself over, with an example.
    pub torn_over: BTreeMap<String, (usize, String)>,
    /// What Kiln refused while models were grown.
    pub ungrown: BTreeMap<String, usize>,
}

impl Tally {
    /// Adds the counts of another part of the run.
    pub fn add(&mut self, other: Tally) {
        self.graphs += other.graphs;
        self.compared += other.compared;
        self.mismatches += other.mismatches;
        self.torn += other.torn;
        for (all, more) in [
            (&mut self.operators, other.operators),
            (&mut self.refused, other.refused),
            (&mut self.ungrown, other.ungrown),
        ] {
            more.into_iter().for_each(|(name, count)| *all.entry(name).or_default() += count);
        }
        for (name, (count, example)) in other.torn_over {
            self.torn_over.entry(name).or_insert((0, example)).0 += count;
        }
    }

    /// The text without what differs from case to case.
    pub fn class(reason: &str) -> String {
        let line = reason.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
        // The place in the other program's source says nothing here.
        let line = match line.split_once("Status Message:") {
            Some((head, message)) => {
                let op = head.split("running ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap_or("");
                let message = message.trim_start().trim_start_matches(|c: char| !c.is_whitespace());
                format!("running {op}: {message}")
            }
            None => line.to_owned(),
        };
        let line = line.split(" node with name").next().unwrap_or_default();
        let mut class = String::new();
        for c in line.chars().take(160) {
            match c {
                '0'..='9' if class.ends_with('#') => {}
                '0'..='9' => class.push('#'),
                c => class.push(c),
            }
        }
        class
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut list = |title: &str, entries: &BTreeMap<String, usize>, most: usize| -> fmt::Result {
            let mut entries: Vec<_> = entries.iter().collect();
            entries.sort_by_key(|&(name, &count)| (std::cmp::Reverse(count), name.clone()));
            let total: usize = entries.iter().map(|(_, count)| **count).sum();
            writeln!(f, "{title}: {total}")?;
            entries.iter().take(most).try_for_each(|(name, count)| writeln!(f, "  {count:7} {name}"))
        };
        list("operators", &self.operators, 200)?;
        list("not grown, as Kiln refuses the node", &self.ungrown, 30)?;
        list("not taken by onnxruntime", &self.refused, 60)?;
        writeln!(f, "onnxruntime disagrees with itself: {}", self.torn)?;
        self.torn_over
            .iter()
            .try_for_each(|(name, (count, example))| writeln!(f, "  {count:7} {name}: {example}"))
    }
}
