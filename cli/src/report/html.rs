//! A self-contained page with charts.

use std::fmt::Write as _;

use super::{Roofline, Row};

/// Width of the bar area, in pixels.
const WIDTH: f64 = 420.0;
/// Height of one bar with its gap.
const STEP: f64 = 20.0;

/// The page's text. Rows are shown in the order given.
pub fn page(title: &str, rows: &[Row], roofline: Roofline, median_ms: f64) -> String {
    let total: f64 = rows.iter().map(|r| r.ms).sum();
    let mut out = String::new();
    let title = escape(title);
    let _ = write!(
        out,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title><style>\
         body{{font:14px system-ui,sans-serif;margin:2em;color:#222}}table{{border-collapse:collapse}}\
         td,th{{padding:2px 10px;text-align:right;border-bottom:1px solid #eee}}\
         td:first-child,th:first-child,td:last-child,th:last-child{{text-align:left}}\
         .dim{{color:#777}}</style></head><body><h1>{title}</h1>\
         <p>median {median_ms:.3} ms; steps together {total:.3} ms; peaks {:.1} GFLOP/s and {:.1} GB/s</p>",
        roofline.gflops, roofline.gbps
    );
    bars(&mut out, rows, total);
    scatter(&mut out, rows, roofline);
    out.push_str(
        "<h2>Steps</h2><table><tr><th>kernel</th><th>ms</th><th>share</th><th>GFLOP/s</th><th>GB/s</th>\
         <th>of roofline</th><th>nodes</th></tr>",
    );
    for r in rows {
        let _ = write!(
            out,
            "<tr><td>{}</td><td>{:.4}</td><td>{:.1} %</td><td>{:.1}</td><td>{:.1}</td><td>{:.0} %</td>\
             <td class=\"dim\">{}</td></tr>",
            escape(&r.name),
            r.ms,
            percent(r.ms, total),
            r.gflops(),
            r.gbps(),
            100.0 * r.roofline_share(roofline),
            escape(&r.nodes)
        );
    }
    out.push_str("</table></body></html>\n");
    out
}

fn percent(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { 100.0 * part / whole } else { 0.0 }
}

/// The slowest steps as horizontal bars.
fn bars(out: &mut String, rows: &[Row], total: f64) {
    let mut slowest: Vec<&Row> = rows.iter().collect();
    slowest.sort_by(|a, b| b.ms.total_cmp(&a.ms));
    slowest.truncate(25);
    let longest = slowest.first().map_or(1.0, |r| r.ms.max(1e-9));
    let height = slowest.len() as f64 * STEP + 10.0;
    let _ = write!(out, "<h2>Slowest steps</h2><svg width=\"900\" height=\"{height}\" role=\"img\">");
    for (i, r) in slowest.iter().enumerate() {
        let (y, w) = (i as f64 * STEP, r.ms / longest * WIDTH);
        let _ = write!(
            out,
            "<rect x=\"300\" y=\"{y}\" width=\"{w:.1}\" height=\"15\" fill=\"#4878b0\"/>\
             <text x=\"295\" y=\"{}\" text-anchor=\"end\" font-size=\"12\">{}</text>\
             <text x=\"{:.1}\" y=\"{}\" font-size=\"12\">{:.3} ms ({:.1} %)</text>",
            y + 12.0,
            escape(&shorten(&r.name)),
            305.0 + w,
            y + 12.0,
            r.ms,
            percent(r.ms, total)
        );
    }
    out.push_str("</svg>");
}

/// Steps over the roofline: arithmetic intensity against GFLOP/s, both logarithmic.
fn scatter(out: &mut String, rows: &[Row], roofline: Roofline) {
    // Axes: 1/16 to 1024 flops a byte, 1/1000 of the peak to the peak.
    let x = |intensity: f64| 60.0 + (intensity.clamp(0.0625, 1024.0).log2() + 4.0) / 14.0 * 700.0;
    let y = |gflops: f64| 20.0 - (gflops / roofline.gflops).clamp(1e-3, 1.2).log10() * 90.0;
    let ridge = roofline.gflops / roofline.gbps;
    let _ = write!(
        out,
        "<h2>Roofline</h2><svg width=\"800\" height=\"320\" role=\"img\"><polyline fill=\"none\" stroke=\"#999\" \
         points=\"{:.1},{:.1} {:.1},{:.1} {:.1},{:.1}\"/>",
        x(0.0625),
        y(0.0625 * roofline.gbps),
        x(ridge),
        y(roofline.gflops),
        x(1024.0),
        y(roofline.gflops)
    );
    for r in rows.iter().filter(|r| r.flops > 0.0 && r.bytes > 0.0 && r.ms > 0.0) {
        let _ = write!(
            out,
            "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\" fill=\"#c05040\" fill-opacity=\"0.6\"><title>{}: {:.1} GFLOP/s</title>\
             </circle>",
            x(r.flops / r.bytes),
            y(r.gflops()),
            escape(&r.name),
            r.gflops()
        );
    }
    let _ = write!(
        out,
        "<text x=\"60\" y=\"312\" font-size=\"12\">1/16 flop a byte</text>\
         <text x=\"760\" y=\"312\" text-anchor=\"end\" font-size=\"12\">1024</text></svg>"
    );
}

fn shorten(name: &str) -> String {
    let keep = 42;
    if name.chars().count() <= keep {
        return name.to_owned();
    }
    name.chars().take(keep - 1).chain(['…']).collect()
}

/// Text for HTML content and attributes.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_from_a_model_cannot_inject_markup() {
        let row = Row { name: "<script>".into(), nodes: "a\"&b".into(), ms: 1.0, flops: 2e6, bytes: 1e3 };
        let text = page("t<i>", &[row], Roofline { gflops: 10.0, gbps: 5.0 }, 1.0);
        assert!(!text.contains("<script>") && !text.contains("t<i>"));
        assert!(text.contains("a&quot;&amp;b"));
        assert!(text.contains("2.0</td>"), "GFLOP/s of 2e6 flops in 1 ms");
    }
}
