//! Files that `kiln profile` and `kiln compile` write.

pub mod html;
pub mod quantize;
pub mod sparsify;
pub mod times;
pub mod trace;

use std::path::Path;

use anyhow::{Context, Result};
use kiln::quantize::QuantizeReport;
use kiln::sparsify::SparsifyReport;
use serde_json::json;

/// Entries that a text lists without `-v`.
pub const LISTED: usize = 8;

/// Lists entries, a line each: all if `verbose`, else the first [`LISTED`] and how many more there are.
pub fn list(out: &mut String, entries: impl ExactSizeIterator<Item = String>, verbose: bool) {
    let all = entries.len();
    let shown = if verbose { all } else { all.min(LISTED) };
    entries.take(shown).for_each(|entry| *out += &format!("    {entry}\n"));
    if shown < all {
        *out += &format!("    and {} more (-v lists them)\n", all - shown);
    }
}

/// Writes what became of a model's weights: a page if the name ends in `.html`, else JSON.
pub fn write(
    file: &Path,
    model: &str,
    (sparsified, quantized): (Option<&SparsifyReport>, Option<&QuantizeReport>),
) -> Result<()> {
    let is_page = file.extension().is_some_and(|e| e.eq_ignore_ascii_case("html"));
    let content = match (is_page, sparsified, quantized) {
        (true, ..) => page(model, sparsified, quantized),
        (false, Some(sparsified), Some(quantized)) => {
            let (sparsified, quantized) =
                (sparsify::object(model, sparsified), quantize::object(model, quantized));
            format!("{:#}\n", json!({"model": model, "sparsified": sparsified, "quantized": quantized}))
        }
        (false, Some(sparsified), None) => format!("{:#}\n", sparsify::object(model, sparsified)),
        (false, None, Some(quantized)) => format!("{:#}\n", quantize::object(model, quantized)),
        (false, None, None) => format!("{:#}\n", json!({"model": model})),
    };
    std::fs::write(file, content).with_context(|| file.display().to_string())
}

/// The page of the reports that there are.
fn page(model: &str, sparsified: Option<&SparsifyReport>, quantized: Option<&QuantizeReport>) -> String {
    let modes = [sparsified.map(sparsify::mode), quantized.map(quantize::mode)];
    let modes: Vec<String> = modes.into_iter().flatten().collect();
    let sections = [sparsified.map(sparsify::section), quantized.map(quantize::section)];
    let sections: Vec<String> = sections.into_iter().flatten().collect();
    quantize::head(model, &modes.join("; ")) + &sections.concat() + "</body></html>\n"
}

/// One step of a profiled run.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Kernel or host operator.
    pub name: String,
    /// Source nodes.
    pub nodes: String,
    /// Time in which it ran, the median over the runs, in milliseconds.
    pub ms: f64,
    /// The same, summed over the threads.
    pub busy_ms: f64,
    /// Arithmetic operations of one run.
    pub flops: f64,
    /// Bytes read and written by one run.
    pub bytes: f64,
}

/// Peaks of the machine, measured in the same sitting.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Roofline {
    /// GFLOP/s of fused multiply-adds on the threads used.
    pub gflops: f64,
    /// GB/s of memory reads on the threads used.
    pub gbps: f64,
}

impl Row {
    /// Threads that worked at it on average.
    pub fn threads(&self) -> f64 {
        if self.ms > 0.0 { self.busy_ms / self.ms } else { 0.0 }
    }

    /// Milliseconds that its work needs at the peaks: the larger of its arithmetic at the peak of fused multiply-adds
    /// and its traffic at the memory's bandwidth (Williams, Waterman, Patterson: "Roofline", CACM 52(4), 2009).
    pub fn needed_ms(&self, roofline: Roofline) -> f64 {
        (self.flops / roofline.gflops).max(self.bytes / roofline.gbps) / 1e6
    }

    /// Whether the memory's bandwidth limits it sooner than arithmetic does.
    pub fn is_memory_bound(&self, roofline: Roofline) -> bool {
        self.bytes / roofline.gbps > self.flops / roofline.gflops
    }

    /// The first of the source nodes, without what follows its name.
    pub fn first_node(&self) -> &str {
        self.nodes.split([',', ' ']).next().unwrap_or_default()
    }

    /// GFLOP/s.
    pub fn gflops(&self) -> f64 {
        per_second(self.flops, self.ms)
    }

    /// GB/s.
    pub fn gbps(&self) -> f64 {
        per_second(self.bytes, self.ms)
    }

    /// Share of the roofline: the time that the work needs at the peaks over the time it took. Data that caches hold
    /// can exceed the memory's bandwidth, so the share can exceed 1.
    pub fn roofline_share(&self, roofline: Roofline) -> f64 {
        if self.ms > 0.0 { self.needed_ms(roofline) / self.ms } else { 0.0 }
    }
}

/// Billions per second.
fn per_second(amount: f64, ms: f64) -> f64 {
    if ms > 0.0 { amount / ms / 1e6 } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roofline_takes_the_tighter_limit() {
        let roofline = Roofline { gflops: 100.0, gbps: 10.0 };
        let compute =
            Row { name: "k".into(), nodes: String::new(), ms: 20.0, busy_ms: 30.0, flops: 1e9, bytes: 0.0 };
        assert!((compute.roofline_share(roofline) - 0.5).abs() < 1e-12);
        assert!((compute.gflops() - 50.0).abs() < 1e-9);
        assert!((compute.threads() - 1.5).abs() < 1e-9);
        assert!(!compute.is_memory_bound(roofline));
        let memory = Row { flops: 0.0, bytes: 1e8, ms: 10.0, ..compute };
        assert!((memory.roofline_share(roofline) - 1.0).abs() < 1e-12);
        assert!(memory.is_memory_bound(roofline));
    }
}
