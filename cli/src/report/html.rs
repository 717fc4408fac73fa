//! A self-contained page with charts.

use std::fmt::Write as _;

use super::{Roofline, Row};

/// Width of the bar area, in pixels.
const WIDTH: f64 = 420.0;
/// Where bars begin.
const LEFT: f64 = 330.0;
/// Height of one bar with its gap.
const STEP: f64 = 20.0;
/// Steps that have bars.
const BARS: usize = 30;

/// Colours: what arithmetic bounds, what memory bounds, and the time beyond what the roofline needs.
const COMPUTE: &str = "#4878b0";
const MEMORY: &str = "#5a9e6f";
const REST: &str = "#d8dee6";

/// The page's text. Rows are shown in the order given.
pub fn page(title: &str, rows: &[Row], roofline: Roofline, median_ms: f64, threads: usize) -> String {
    let total: f64 = rows.iter().map(|r| r.ms).sum();
    let needed: f64 = rows.iter().map(|r| r.needed_ms(roofline).min(r.ms)).sum();
    let mut out = String::new();
    let title = escape(title);
    let _ = write!(
        out,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title><style>\
         body{{font:14px system-ui,sans-serif;margin:2em;color:#222}}table{{border-collapse:collapse}}\
         td,th{{padding:2px 10px;text-align:right;border-bottom:1px solid #eee}}\
         td:first-child,th:first-child,td:last-child,th:last-child{{text-align:left}}\
         .dim{{color:#777}}</style></head><body><h1>{title}</h1>\
         <p>{threads} thread(s): median {median_ms:.3} ms, steps together {total:.3} ms, of which the roofline explains \
         {needed:.3} ms; peaks {:.1} GFLOP/s and {:.1} GB/s</p>",
        roofline.gflops, roofline.gbps
    );
    bars(&mut out, rows, roofline, total);
    scatter(&mut out, rows, roofline);
    table(&mut out, rows, roofline, total);
    out.push_str("</body></html>\n");
    out
}

fn table(out: &mut String, rows: &[Row], roofline: Roofline, total: f64) {
    out.push_str(
        "<h2>Steps</h2><table><tr><th>kernel</th><th>ms</th><th>share</th><th>threads</th><th>MFLOP</th><th>KB</th>\
         <th>GFLOP/s</th><th>GB/s</th><th>of roofline</th><th>bound by</th><th>nodes</th></tr>",
    );
    for r in rows {
        let _ = write!(
            out,
            "<tr><td>{}</td><td>{:.4}</td><td>{:.1} %</td><td>{:.1}</td><td>{:.2}</td><td>{:.1}</td><td>{:.1}</td>\
             <td>{:.1}</td><td>{:.0} %</td><td>{}</td><td class=\"dim\">{}</td></tr>",
            escape(&r.name),
            r.ms,
            percent(r.ms, total),
            r.threads(),
            r.flops / 1e6,
            r.bytes / 1e3,
            r.gflops(),
            r.gbps(),
            100.0 * r.roofline_share(roofline),
            bound(r, roofline).0,
            escape(&r.nodes)
        );
    }
    out.push_str("</table>");
}

/// What limits a step on the roofline, and its colour.
fn bound(row: &Row, roofline: Roofline) -> (&'static str, &'static str) {
    match row {
        r if r.flops == 0.0 && r.bytes == 0.0 => ("", REST),
        r if r.is_memory_bound(roofline) => ("memory", MEMORY),
        _ => ("arithmetic", COMPUTE),
    }
}

fn percent(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { 100.0 * part / whole } else { 0.0 }
}

/// The slowest steps as horizontal bars: the part that the roofline needs, and the rest.
fn bars(out: &mut String, rows: &[Row], roofline: Roofline, total: f64) {
    let mut slowest: Vec<&Row> = rows.iter().collect();
    slowest.sort_by(|a, b| b.ms.total_cmp(&a.ms));
    slowest.truncate(BARS);
    let longest = slowest.first().map_or(1.0, |r| r.ms.max(1e-9));
    let height = slowest.len() as f64 * STEP + 10.0;
    let _ = write!(
        out,
        "<h2>Slowest steps</h2><p class=\"dim\">coloured: what the roofline needs, \
         <span style=\"color:{COMPUTE}\">arithmetic</span> or <span style=\"color:{MEMORY}\">memory</span></p>\
         <svg width=\"1040\" height=\"{height}\" role=\"img\">"
    );
    for (i, r) in slowest.iter().enumerate() {
        let (y, width) = (i as f64 * STEP, r.ms / longest * WIDTH);
        let base = y + 12.0;
        let _ = write!(
            out,
            "<g><title>{}</title><rect x=\"{LEFT}\" y=\"{y}\" width=\"{width:.1}\" height=\"15\" fill=\"{REST}\"/>\
             <rect x=\"{LEFT}\" y=\"{y}\" width=\"{:.1}\" height=\"15\" fill=\"{}\"/>\
             <text x=\"{}\" y=\"{base}\" text-anchor=\"end\" font-size=\"12\">{}</text>\
             <text x=\"{:.1}\" y=\"{base}\" font-size=\"12\">{:.3} ms ({:.1} %), {:.0} % of roofline</text></g>",
            escape(&r.nodes),
            width * r.roofline_share(roofline).min(1.0),
            bound(r, roofline).1,
            LEFT - 5.0,
            escape(&shorten(&format!("{} {}", r.name, r.first_node()))),
            LEFT + 5.0 + width,
            r.ms,
            percent(r.ms, total),
            100.0 * r.roofline_share(roofline)
        );
    }
    out.push_str("</svg>");
}

/// Steps under the roofline: arithmetic intensity against GFLOP/s, both logarithmic; circles grow with the time.
fn scatter(out: &mut String, rows: &[Row], roofline: Roofline) {
    // Axes: 1/16 to 1024 flops a byte, 1/1000 of the peak to the peak.
    let x = |intensity: f64| 90.0 + (intensity.clamp(0.0625, 1024.0).log2() + 4.0) / 14.0 * 700.0;
    let y = |gflops: f64| 20.0 - (gflops / roofline.gflops).clamp(1e-3, 1.2).log10() * 90.0;
    let ridge = roofline.gflops / roofline.gbps;
    out.push_str("<h2>Roofline</h2><svg width=\"860\" height=\"330\" role=\"img\" font-size=\"12\">");
    for intensity in [0.0625, 0.25, 1.0, 4.0, 16.0, 64.0, 256.0, 1024.0] {
        let _ = write!(
            out,
            "<path d=\"M{x:.1} 20V290\" stroke=\"#eee\"/>\
             <text x=\"{x:.1}\" y=\"305\" text-anchor=\"middle\">{intensity}</text>",
            x = x(intensity)
        );
    }
    for share in [1.0, 0.1, 0.01, 0.001] {
        let gflops = share * roofline.gflops;
        let _ = write!(
            out,
            "<path d=\"M90 {:.1}H790\" stroke=\"#eee\"/>\
             <text x=\"84\" y=\"{:.1}\" text-anchor=\"end\">{gflops:.*}</text>",
            y(gflops),
            y(gflops) + 4.0,
            if gflops < 10.0 { 2 } else { 0 }
        );
    }
    let _ = write!(
        out,
        "<text x=\"440\" y=\"325\" text-anchor=\"middle\">flops a byte</text><text x=\"90\" y=\"12\">GFLOP/s</text>\
         <polyline fill=\"none\" stroke=\"#999\" points=\"{:.1},{:.1} {:.1},{:.1} {:.1},{:.1}\"/>",
        x(0.0625),
        y(0.0625 * roofline.gbps),
        x(ridge),
        y(roofline.gflops),
        x(1024.0),
        y(roofline.gflops)
    );
    let longest = rows.iter().map(|r| r.ms).fold(1e-9, f64::max);
    for r in rows.iter().filter(|r| r.flops > 0.0 && r.bytes > 0.0 && r.ms > 0.0) {
        let _ = write!(
            out,
            "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"{:.1}\" fill=\"{}\" fill-opacity=\"0.6\">\
             <title>{} {}: {:.1} GFLOP/s, {:.3} ms</title></circle>",
            x(r.flops / r.bytes),
            y(r.gflops()),
            3.0 + 7.0 * (r.ms / longest).sqrt(),
            bound(r, roofline).1,
            escape(&r.name),
            escape(r.first_node()),
            r.gflops(),
            r.ms
        );
    }
    out.push_str("</svg>");
}

fn shorten(name: &str) -> String {
    let keep = 42;
    if name.chars().count() <= keep {
        return name.to_owned();
    }
    name.chars().take(keep - 1).chain(['…']).collect()
}

/// Text for HTML content and attributes.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_from_a_model_cannot_inject_markup() {
        let nodes = "a\"&b".into();
        let row = Row { name: "<script>".into(), nodes, ms: 1.0, busy_ms: 2.0, flops: 2e6, bytes: 1e3 };
        let text = page("t<i>", &[row], Roofline { gflops: 10.0, gbps: 5.0 }, 1.0, 2);
        assert!(!text.contains("<script>") && !text.contains("t<i>"));
        assert!(text.contains("a&quot;&amp;b"));
        assert!(text.contains("<td>2.0</td><td>0.0</td><td>20 %</td>"), "rates of 2e6 flops in 1 ms: {text}");
    }
}
