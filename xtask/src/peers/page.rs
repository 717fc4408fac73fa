//! A self-contained page with a chart a model.

use std::fmt::Write as _;

use super::figures::{Comparison, NOISE, Summary, threads};

/// Width of the longest bar, in pixels.
const WIDTH: f64 = 440.0;
/// Height of a bar with its gap.
const STEP: f64 = 22.0;
/// Where bars begin.
const LEFT: f64 = 160.0;

/// The page's text.
pub fn page(machine: &str, comparisons: &[Comparison], summaries: &[Summary]) -> String {
    let mut out = String::new();
    out.push_str(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>Kiln and its peers</title><style>\
         body{font:14px system-ui,sans-serif;margin:2em;color:#222}table{border-collapse:collapse}\
         td,th{padding:2px 10px;text-align:right;border-bottom:1px solid #eee}\
         td:first-child,th:first-child{text-align:left}.charts{display:flex;flex-wrap:wrap;gap:1em 3em}\
         h3{margin:.5em 0}.dim{color:#777}</style></head><body><h1>Kiln and its peers</h1>",
    );
    let _ = write!(out, "<p>{}</p><ul>", escape(machine));
    for summary in summaries {
        let _ = write!(out, "<li>{}</li>", escape(&summary.line()));
    }
    out.push_str("</ul>");
    let mut counts: Vec<usize> = comparisons.iter().map(|comparison| comparison.threads).collect();
    counts.sort_unstable();
    counts.dedup();
    for count in counts {
        let _ = write!(out, "<h2>{}</h2><div class=\"charts\">", threads(count));
        comparisons.iter().filter(|c| c.threads == count).for_each(|comparison| chart(&mut out, comparison));
        out.push_str("</div>");
    }
    table(&mut out, comparisons);
    out.push_str("</body></html>\n");
    out
}

/// Medians as bars with a mark at the minimum.
fn chart(out: &mut String, comparison: &Comparison) {
    let figures = || comparison.entries().filter_map(|entry| entry.outcome.as_ref().ok());
    let longest = figures().map(|figures| figures.median()).fold(1e-9, f64::max);
    let height = comparison.entries().count() as f64 * STEP;
    let model = escape(&comparison.model);
    let _ = write!(
        out,
        "<div><h3>{model}</h3><svg width=\"{}\" height=\"{height}\" role=\"img\" aria-label=\"{model}\">",
        LEFT + WIDTH + 100.0
    );
    for (i, entry) in comparison.entries().enumerate() {
        let y = i as f64 * STEP;
        let (base, name) = (y + 14.0, escape(&entry.name));
        let _ = write!(out, "<text x=\"{}\" y=\"{base}\" text-anchor=\"end\">{name}</text>", LEFT - 6.0);
        match &entry.outcome {
            Ok(figures) => {
                let (width, min) = (figures.median() / longest * WIDTH, figures.min() / longest * WIDTH);
                let fill = if i == 0 { "#c05040" } else { "#4878b0" };
                let _ = write!(
                    out,
                    "<rect x=\"{LEFT}\" y=\"{y}\" width=\"{width:.1}\" height=\"18\" fill=\"{fill}\"/>\
                     <rect x=\"{:.1}\" y=\"{y}\" width=\"2\" height=\"18\" fill=\"#fff\"/>\
                     <text x=\"{:.1}\" y=\"{base}\">{:.2} ms{}</text>",
                    LEFT + (min - 2.0).max(0.0),
                    LEFT + width + 6.0,
                    figures.median(),
                    if figures.is_noisy() { " *" } else { "" }
                );
            }
            Err(_) => {
                let _ = write!(out, "<text x=\"{LEFT}\" y=\"{base}\" fill=\"#777\">failed</text>");
            }
        }
    }
    out.push_str("</svg></div>");
}

fn table(out: &mut String, comparisons: &[Comparison]) {
    out.push_str(
        "<h2>Figures</h2><table><tr><th>model</th><th>threads</th><th>runtime</th><th>median ms</th><th>min ms</th>\
         <th>start ms</th><th>kiln / it</th></tr>",
    );
    for comparison in comparisons {
        let kiln = comparison.kiln.outcome.as_ref().ok().map(|figures| figures.median());
        for entry in comparison.entries() {
            let (model, threads, name) = (escape(&comparison.model), comparison.threads, escape(&entry.name));
            let _ = write!(out, "<tr><td>{model}</td><td>{threads}</td><td>{name}</td>");
            let _ = match &entry.outcome {
                Ok(figures) => {
                    let ratio = kiln.map_or(String::new(), |kiln| format!("{:.3}", kiln / figures.median()));
                    write!(
                        out,
                        "<td>{:.3}{}</td><td>{:.3}</td><td>{:.1}</td><td>{ratio}</td></tr>",
                        figures.median(),
                        if figures.is_noisy() { " *" } else { "" },
                        figures.min(),
                        figures.start()
                    )
                }
                Err(reason) => write!(out, "<td colspan=\"4\" class=\"dim\">{}</td></tr>", escape(reason)),
            };
        }
    }
    let _ = write!(
        out,
        "</table><p class=\"dim\">Turns in rotation, in one sitting. The median is over the turns of their medians; the \
         white mark in a bar is the fastest run; start is loading and first run, of Kiln's from an artifact; * is a \
         median of more than {NOISE} times the minimum: a busy machine.</p>"
    );
}

/// Text for HTML content and attributes.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::super::figures::tests::comparison;
    use super::*;

    #[test]
    fn a_page_has_charts_and_reasons() {
        let mut all = [comparison("a<b", 10.0, &[20.0])];
        all[0].peers[1].outcome = Err("<no>".to_owned());
        let text = page("machine", &all, &[]);
        assert!(text.contains("<svg") && text.contains("a&lt;b") && text.contains("&lt;no&gt;"));
        assert!(text.contains("<td>0.500</td>"), "{text}");
    }
}
