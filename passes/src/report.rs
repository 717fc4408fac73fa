//! What the passes did: time, node counts, rewrites applied and refused.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

/// A rule that fitted a node but did not apply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The rule.
    pub rule: &'static str,
    /// The node, as error messages name it.
    pub node: String,
    /// Why the rule did not apply.
    pub reason: String,
}

/// What one pass did.
#[derive(Clone, Debug, Default)]
pub struct PassReport {
    /// The pass.
    pub name: &'static str,
    /// Time it took.
    pub time: Duration,
    /// Nodes of all reachable graphs before the pass.
    pub nodes_before: usize,
    /// Nodes of all reachable graphs after the pass.
    pub nodes_after: usize,
    /// How often each rule applied.
    pub applied: BTreeMap<&'static str, usize>,
    /// Rules that fitted but did not apply, at the end of the pass.
    pub refused: Vec<Refused>,
    /// The module's text after the pass, if [`crate::Options::dump_after`] names it.
    pub dump: Option<String>,
}

impl PassReport {
    /// Rewrites applied, of all rules.
    pub fn rewrites(&self) -> usize {
        self.applied.values().sum()
    }
}

/// What all passes did, in the order they ran.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// One entry a pass.
    pub passes: Vec<PassReport>,
}

impl Report {
    /// Opens the entry of a pass.
    pub(crate) fn open(&mut self, name: &'static str, nodes_before: usize) {
        self.passes.push(PassReport { name, nodes_before, ..PassReport::default() });
    }

    /// The entry of the pass that runs.
    pub(crate) fn current(&mut self) -> &mut PassReport {
        if self.passes.is_empty() {
            self.passes.push(PassReport::default());
        }
        let last = self.passes.len() - 1;
        &mut self.passes[last]
    }

    /// Counts `times` applications of a rule.
    pub(crate) fn applied(&mut self, rule: &'static str, times: usize) {
        if times > 0 {
            *self.current().applied.entry(rule).or_insert(0) += times;
        }
    }

    /// Records a refusal.
    pub(crate) fn refused(&mut self, rule: &'static str, node: String, reason: String) {
        self.current().refused.push(Refused { rule, node, reason });
    }

    /// A table of the passes: time, nodes, rewrites; and the refusals, if `refusals` is to show them.
    pub fn summary(&self, refusals: Refusals) -> String {
        let mut out = String::new();
        for p in &self.passes {
            let ms = p.time.as_secs_f64() * 1e3;
            let _ = write!(out, "{:<14} {ms:>9.2} ms {:>6} -> {:<6}", p.name, p.nodes_before, p.nodes_after);
            for (rule, count) in &p.applied {
                let _ = write!(out, " {rule}:{count}");
            }
            out.push('\n');
            if refusals == Refusals::Listed {
                for r in &p.refused {
                    let _ = writeln!(out, "    {} at {}: {}", r.rule, r.node, r.reason);
                }
            }
        }
        out
    }
}

/// Whether a summary lists refusals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusals {
    /// Only what was done.
    Hidden,
    /// Also what was not, and why.
    Listed,
}
