//! The report of a quantization: text, JSON, and a page with charts.

use std::fmt::Write as _;

use kiln::agreement::Agreement;
use kiln::quantize::{LayerReport, QuantizeReport};
use serde_json::{Value, json};

use super::html::escape;
use super::{LISTED, list};
use crate::table::{Table, bytes};

/// How outputs agree, a row each: samples, differences, cosine, rows of the same largest element.
pub fn agreement_table<'a>(outputs: impl Iterator<Item = (&'a str, &'a Agreement)>) -> Table {
    let mut table = Table::new(&[
        "output",
        "samples",
        "max difference",
        "max reference",
        "relative",
        "cosine",
        "same top",
    ]);
    outputs.for_each(|(name, a)| table.row(agreement_row(name, a)));
    table
}

/// The cells of an output: samples, differences, cosine, rows of the same largest element.
fn agreement_row(name: &str, a: &Agreement) -> Vec<String> {
    let top = a.top_agreement().map_or_else(String::new, |t| format!("{:.2} %", 100.0 * t));
    let relative = a.mismatch.clone().unwrap_or_else(|| format!("{:.3e}", a.relative()));
    vec![
        name.to_owned(),
        a.runs.to_string(),
        format!("{:.3e}", a.max_difference),
        format!("{:.3e}", a.max_reference),
        relative,
        format!("{:.6}", a.cosine()),
        top,
    ]
}

/// What was done, in words.
pub(super) fn mode(report: &QuantizeReport) -> String {
    match &report.detail {
        Some(detail) => format!("{}, {detail}", report.mode),
        None => report.mode.to_owned(),
    }
}

/// What layers are that were quantized.
fn done(report: &QuantizeReport) -> &'static str {
    if report.weight_bytes().is_some() { "layers with weights in fewer bits" } else { "layers on integers" }
}

/// What layers are that were not.
fn rest(report: &QuantizeReport) -> &'static str {
    if report.weight_bytes().is_some() { "as they were" } else { "in floats" }
}

fn decibels(layer: &LayerReport) -> String {
    layer.sqnr_db.map_or_else(String::new, |db| format!("{db:.1}"))
}

/// The report as text; all layers if `verbose`.
pub fn text(report: &QuantizeReport, verbose: bool) -> String {
    let mut out = format!("quantized: {}\n", mode(report));
    let quantized = report.quantized();
    let floats = report.in_floats();
    if quantized == 0 {
        out += "  nothing is quantized: no layer can be, for the reasons below\n";
    }
    let _ = writeln!(
        out,
        "  {}: {quantized}, {}: {}\n  constants: {} before, {} after",
        done(report),
        rest(report),
        floats.len(),
        bytes(report.bytes_before),
        bytes(report.bytes_after)
    );
    if let Some((before, after)) = report.weight_bytes() {
        let (share, before, after) = (after as f64 / before.max(1) as f64, bytes(before), bytes(after));
        let _ = writeln!(out, "  weights of these layers: {before} before, {after} after ({share:.3})");
    }
    if report.samples > 0 {
        let shared = if report.shared_samples { " (too few: the same ones)" } else { "" };
        let _ = writeln!(
            out,
            "  samples: {} calibrated on, {} held out{shared}",
            report.samples, report.held_out
        );
    }
    if !report.outputs.is_empty() {
        let table = agreement_table(report.outputs.iter().map(|(name, a)| (name.as_str(), a)));
        out += &table.render();
    }
    let mut layers: Vec<&LayerReport> = report.layers.iter().collect();
    if !verbose {
        layers.sort_by(|a, b| a.sqnr_db.unwrap_or(f64::MAX).total_cmp(&b.sqnr_db.unwrap_or(f64::MAX)));
        layers.truncate(LISTED);
    }
    if layers.iter().any(|l| l.sqnr_db.is_some()) {
        out += if verbose { "  layers\n" } else { "  layers of the largest error (-v lists all)\n" };
        let mut table = Table::new(&["layer", "kind", "weights", "SQNR dB", "range", "factors"]);
        for l in layers {
            let alpha = l.alpha.map_or_else(String::new, |a| format!("{a}"));
            let range = l.range.clone().unwrap_or_default();
            table.row(vec![l.name.clone(), l.kind.into(), l.weights.to_string(), decibels(l), range, alpha]);
        }
        out += &table.render();
    }
    if !floats.is_empty() {
        let _ = writeln!(out, "  {}", rest(report));
        list(&mut out, floats.iter().map(|(name, why)| format!("{name}: {why}")), verbose);
    }
    out
}

/// A number, or null where JSON has none.
pub(super) fn number(v: f64) -> Value {
    if v.is_finite() { json!(v) } else { Value::Null }
}

/// The report as JSON.
pub(super) fn object(model: &str, report: &QuantizeReport) -> Value {
    let layer = |l: &LayerReport| {
        json!({
            "name": l.name, "kind": l.kind, "weights": l.weights,
            "sqnr_db": l.sqnr_db.map(number), "range": l.range, "alpha": l.alpha,
            "bytes_before": l.bytes.map(|b| b.0), "bytes_after": l.bytes.map(|b| b.1),
            "quantized": l.in_floats.is_none(), "reason": l.in_floats,
        })
    };
    let kept: Vec<Value> = report.kept.iter().map(|k| json!({"name": k.name, "reason": k.reason})).collect();
    json!({
        "model": model, "mode": report.mode, "detail": report.detail,
        "weights_before": report.weight_bytes().map(|b| b.0), "weights_after": report.weight_bytes().map(|b| b.1),
        "samples": report.samples, "held_out": report.held_out,
        "shared_samples": report.shared_samples, "corrected": report.corrected,
        "bytes_before": report.bytes_before, "bytes_after": report.bytes_after,
        "quantized": report.quantized(), "error": report.error().map(number),
        "outputs": outputs_object(&report.outputs),
        "layers": report.layers.iter().map(layer).collect::<Vec<_>>(),
        "in_floats": kept,
    })
}

/// How outputs agree, as JSON.
pub(super) fn outputs_object(outputs: &[(String, Agreement)]) -> Value {
    let output = |(name, a): &(String, Agreement)| {
        json!({
            "name": name, "samples": a.runs, "max_difference": number(a.max_difference),
            "max_reference": number(a.max_reference), "relative": number(a.relative()),
            "cosine": number(a.cosine()), "same_top": a.top_agreement(), "mismatch": a.mismatch,
        })
    };
    outputs.iter().map(output).collect()
}

/// Height of one bar with its gap, and the length of a decibel, in pixels.
const STEP: f64 = 18.0;
const DECIBEL: f64 = 8.0;
/// Where bars begin.
const LEFT: f64 = 420.0;

/// The beginning of a page, up to its heading.
pub(super) fn head(model: &str, mode: &str) -> String {
    let (title, mode) = (escape(model), escape(mode));
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title><style>\
         body{{font:14px system-ui,sans-serif;margin:2em;color:#222}}table{{border-collapse:collapse}}\
         td,th{{padding:2px 10px;text-align:right;border-bottom:1px solid #eee}}\
         td:first-child,th:first-child,td:last-child,th:last-child{{text-align:left}}</style></head>\
         <body><h1>{title}: {mode}</h1>"
    )
}

/// How outputs agree, as a table of a page.
pub(super) fn outputs_html(out: &mut String, outputs: &[(String, Agreement)]) {
    *out += "<h2>Outputs</h2><table><tr><th>output</th><th>samples</th><th>max difference</th><th>max reference</th>\
            <th>relative</th><th>cosine</th><th>same top</th></tr>";
    for (name, a) in outputs {
        *out += "<tr>";
        agreement_row(name, a).iter().for_each(|cell| *out += &format!("<td>{}</td>", escape(cell)));
        *out += "</tr>";
    }
    *out += "</table>";
}

/// Layers and reasons, as a table of a page.
pub(super) fn reasons_html(out: &mut String, heading: &str, reasons: &[(&str, &str)]) {
    if reasons.is_empty() {
        return;
    }
    *out += &format!("<h2>{heading}</h2><table><tr><th>layer</th><th>reason</th></tr>");
    for (name, why) in reasons {
        *out += &format!("<tr><td>{}</td><td>{}</td></tr>", escape(name), escape(why));
    }
    *out += "</table>";
}

/// The report as a part of a page, with a bar for each layer.
pub(super) fn section(report: &QuantizeReport) -> String {
    let mut out = String::new();
    let _ = write!(
        out,
        "<p>{}: {}, {}: {}; constants of {} became {}; {} samples calibrated on, {} held out</p>",
        done(report),
        report.quantized(),
        rest(report),
        report.in_floats().len(),
        bytes(report.bytes_before),
        bytes(report.bytes_after),
        report.samples,
        report.held_out
    );
    outputs_html(&mut out, &report.outputs);
    let measured: Vec<Bar<'_>> = report
        .layers
        .iter()
        .filter_map(|l| {
            let detail = l.range.clone().unwrap_or_default();
            Some(Bar { name: &l.name, db: l.sqnr_db?, detail, is_kept: l.in_floats.is_some() })
        })
        .collect();
    bars(&mut out, &measured);
    let heading = if report.weight_bytes().is_some() { "As they were" } else { "In floats" };
    reasons_html(&mut out, heading, &report.in_floats());
    out
}

/// A layer's signal over noise.
pub(super) struct Bar<'a> {
    /// The layer.
    pub name: &'a str,
    /// In decibels.
    pub db: f64,
    /// What else there is to say.
    pub detail: String,
    /// Whether the layer is as it was.
    pub is_kept: bool,
}

/// Signal over noise of each layer.
pub(super) fn bars(out: &mut String, measured: &[Bar<'_>]) {
    if measured.is_empty() {
        return;
    }
    let height = measured.len() as f64 * STEP + 10.0;
    let _ = write!(
        out,
        "<h2>Signal over noise of each layer alone, in dB</h2><svg width=\"1040\" height=\"{height}\" role=\"img\" \
         font-size=\"12\">"
    );
    for (i, Bar { name, db, detail, is_kept }) in measured.iter().enumerate() {
        let (y, width) = (i as f64 * STEP, db.clamp(0.0, 70.0) * DECIBEL);
        let colour = if *is_kept { "#d8dee6" } else { "#4878b0" };
        let _ = write!(
            out,
            "<g><title>{}</title><text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\
             <rect x=\"{LEFT}\" y=\"{y}\" width=\"{width:.1}\" height=\"14\" fill=\"{colour}\"/>\
             <text x=\"{:.1}\" y=\"{}\">{db:.1} {}</text></g>",
            escape(name),
            LEFT - 5.0,
            y + 12.0,
            escape(&shortened(name)),
            LEFT + 5.0 + width,
            y + 12.0,
            escape(detail)
        );
    }
    out.push_str("</svg>");
}

/// The end of a long name, which tells layers apart.
fn shortened(name: &str) -> String {
    const KEPT: usize = 56;
    let count = name.chars().count();
    match count.checked_sub(KEPT) {
        Some(cut) if cut > 0 => std::iter::once('…').chain(name.chars().skip(cut)).collect(),
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln::ir::Module;
    use kiln::quantize::{Mode, Quantization, quantize};

    #[test]
    fn a_model_with_nothing_to_quantize_says_so() {
        let quantization = Quantization { mode: Mode::Dynamic { data: None }, max_drop: None };
        let report = quantize(Module::new(), &kiln::Options::default(), &quantization).unwrap().report;
        assert!(text(&report, false).contains("nothing is quantized"));
        assert_eq!(object("m", &report)["quantized"], 0);
    }

    #[test]
    fn names_from_a_model_cannot_inject_markup() {
        let quantization = Quantization { mode: Mode::Dynamic { data: None }, max_drop: None };
        let mut report = quantize(Module::new(), &kiln::Options::default(), &quantization).unwrap().report;
        report.layers.push(LayerReport { name: "<b>".into(), sqnr_db: Some(30.0), ..LayerReport::default() });
        report.layers.push(LayerReport { in_floats: Some("<i>".into()), ..LayerReport::default() });
        let page = super::super::page("<u>", None, Some(&report));
        assert!(!page.contains("<b>") && !page.contains("<i>") && !page.contains("<u>"));
        assert!(page.contains("30.0"));
    }
}
