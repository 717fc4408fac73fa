//! The report of a sparsification: text, JSON, and a page with charts.

use kiln::sparsify::{PrunedLayer, SparsifyReport};
use serde_json::{Value, json};
use std::fmt::Write as _;

use super::quantize::{Bar, agreement_table, bars, number, outputs_html, outputs_object, reasons_html};
use super::{LISTED, list};
use crate::table::Table;

/// What was asked for.
pub(super) fn mode(report: &SparsifyReport) -> String {
    let pruning = &report.pruning;
    format!("{}, {}, density {}", pruning.method.name(), pruning.pattern.name(), pruning.density)
}

fn counts(report: &SparsifyReport) -> String {
    let (all, kept) = report.weights();
    let share = 100.0 * kept as f64 / all.max(1) as f64;
    let (pruned, dense) = (report.pruned(), report.dense().len());
    format!(
        "layers pruned: {pruned}, as they were: {dense}; weights of layers: {all}, kept: {kept} ({share:.1} %)"
    )
}

/// The report as text; all layers if `verbose`.
pub fn text(report: &SparsifyReport, verbose: bool) -> String {
    let mut out = format!("sparsified: {}\n", mode(report));
    let dense = report.dense();
    if report.pruned() == 0 {
        out += "  nothing is pruned: no layer can be, for the reasons below\n";
    }
    let _ = writeln!(out, "  {}", counts(report));
    if report.held_out > 0 {
        let shared = if report.shared_samples { " (too few: the same ones)" } else { "" };
        let _ = writeln!(
            out,
            "  samples: {} calibrated on, {} held out{shared}",
            report.samples, report.held_out
        );
        if report.fitted {
            out += "  weights that are kept are fitted: they make up for others\n";
        }
    }
    if !report.outputs.is_empty() {
        out += &agreement_table(report.outputs.iter().map(|(name, a)| (name.as_str(), a))).render();
    }
    let mut layers: Vec<&PrunedLayer> = report.layers.iter().filter(|l| l.reason.is_none()).collect();
    if !verbose {
        layers.sort_by(|a, b| a.sqnr_db.unwrap_or(f64::MAX).total_cmp(&b.sqnr_db.unwrap_or(f64::MAX)));
        layers.truncate(LISTED);
    }
    if !layers.is_empty() {
        out += if verbose { "  layers\n" } else { "  layers of the largest loss (-v lists all)\n" };
        let mut table = Table::new(&["layer", "kind", "weights", "kept", "SQNR dB, estimated"]);
        for l in layers {
            let decibels = l.sqnr_db.map_or_else(String::new, |db| format!("{db:.1}"));
            let kept = format!("{:.1} %", 100.0 * l.density);
            table.row(vec![l.name.clone(), l.kind.into(), l.weights.to_string(), kept, decibels]);
        }
        out += &table.render();
    }
    if !dense.is_empty() {
        out += "  as they were\n";
        list(&mut out, dense.iter().map(|(name, why)| format!("{name}: {why}")), verbose);
    }
    out
}

/// The report as JSON.
pub(super) fn object(model: &str, report: &SparsifyReport) -> Value {
    let layer = |l: &PrunedLayer| {
        json!({
            "name": l.name, "kind": l.kind, "weights": l.weights, "density": l.density,
            "sqnr_db": l.sqnr_db.map(number), "reason": l.reason,
        })
    };
    let kept: Vec<Value> = report.kept.iter().map(|k| json!({"name": k.name, "reason": k.reason})).collect();
    let (all, nonzero) = report.weights();
    json!({
        "model": model, "method": report.pruning.method.name(), "pattern": report.pruning.pattern.name(),
        "density": report.pruning.density, "samples": report.samples, "held_out": report.held_out,
        "shared_samples": report.shared_samples, "fitted": report.fitted, "pruned": report.pruned(),
        "weights": all, "weights_kept": nonzero, "error": report.error().map(number),
        "outputs": outputs_object(&report.outputs),
        "layers": report.layers.iter().map(layer).collect::<Vec<_>>(),
        "no_layers": kept,
    })
}

/// The report as a part of a page, with a bar for each layer.
pub(super) fn section(report: &SparsifyReport) -> String {
    let mut out = String::new();
    let _ = write!(
        out,
        "<p>{}; samples: {} calibrated on, {} held out</p>",
        counts(report),
        report.samples,
        report.held_out
    );
    outputs_html(&mut out, &report.outputs);
    let measured: Vec<Bar<'_>> = report
        .layers
        .iter()
        .filter_map(|l| {
            let detail = format!("{:.1} % kept", 100.0 * l.density);
            Some(Bar { name: &l.name, db: l.sqnr_db?, detail, is_kept: l.reason.is_some() })
        })
        .collect();
    bars(&mut out, &measured);
    reasons_html(&mut out, "As they were", &report.dense());
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln::ir::Module;
    use kiln::passes::sparsify::{Method, Pattern, Pruning};
    use kiln::sparsify::{Sparsification, sparsify};

    fn report() -> SparsifyReport {
        let pruning = Pruning { method: Method::Magnitude, pattern: Pattern::Block4, density: 0.1 };
        let sparsification = Sparsification { pruning, data: None };
        sparsify(Module::new(), &kiln::Options::default(), &sparsification).unwrap().report
    }

    #[test]
    fn a_model_with_nothing_to_prune_says_so() {
        assert!(text(&report(), false).contains("nothing is pruned"));
        assert_eq!(object("m", &report())["pruned"], 0);
    }

    #[test]
    fn names_from_a_model_cannot_inject_markup() {
        let mut report = report();
        let layer = PrunedLayer {
            name: "<b>".into(),
            kind: "linear",
            weights: 4096,
            density: 0.1,
            sqnr_db: Some(30.0),
            reason: None,
        };
        report.layers.push(PrunedLayer { reason: Some("<i>".into()), ..layer.clone() });
        report.layers.push(layer);
        let page = super::super::page("<u>", Some(&report), None);
        assert!(!page.contains("<b>") && !page.contains("<i>") && !page.contains("<u>"));
        assert!(page.contains("30.0"));
    }
}
