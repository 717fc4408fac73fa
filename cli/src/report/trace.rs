//! Chrome trace-event JSON, which Perfetto reads.

use serde_json::{Value, json};

/// One interval of work.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// Kernel or host operator.
    pub name: String,
    /// Worker that did it.
    pub worker: usize,
    /// Start in microseconds from the run's start.
    pub start_us: f64,
    /// Length in microseconds.
    pub length_us: f64,
    /// Source nodes.
    pub nodes: String,
    /// The chunk of a kernel's grid.
    pub chunk: u32,
}

/// The trace document.
pub fn document(process: &str, spans: &[Span]) -> Value {
    let mut events = vec![json!({"ph": "M", "pid": 1, "name": "process_name", "args": {"name": process}})];
    let workers = spans.iter().map(|s| s.worker + 1).max().unwrap_or(0);
    for w in 0..workers {
        let name = format!("worker {w}");
        events.push(json!({"ph": "M", "pid": 1, "tid": w, "name": "thread_name", "args": {"name": name}}));
    }
    for s in spans {
        events.push(json!({
            "ph": "X", "pid": 1, "tid": s.worker, "name": s.name, "ts": s.start_us, "dur": s.length_us,
            "args": {"nodes": s.nodes, "chunk": s.chunk},
        }));
    }
    json!({"traceEvents": events, "displayTimeUnit": "ns"})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_become_complete_events() {
        let span =
            Span { name: "k".into(), worker: 1, start_us: 2.0, length_us: 3.5, nodes: "n".into(), chunk: 4 };
        let doc = document("model", &[span]);
        let events = doc["traceEvents"].as_array().unwrap();
        assert_eq!(events.len(), 4);
        assert_eq!(events[3]["dur"], 3.5);
        assert_eq!(events[3]["tid"], 1);
        assert_eq!(events[3]["args"]["chunk"], 4);
    }
}
