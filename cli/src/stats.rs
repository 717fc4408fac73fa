//! Summary of repeated measurements.

/// Latencies of repeated runs, in milliseconds.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// Smallest.
    pub min: f64,
    /// 50th percentile.
    pub median: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 99th percentile.
    pub p99: f64,
    /// Arithmetic mean.
    pub mean: f64,
    /// Number of runs.
    pub runs: usize,
}

impl Summary {
    /// Summarizes the runs; `None` if there are none.
    pub fn new(mut times: Vec<f64>) -> Option<Summary> {
        times.sort_by(f64::total_cmp);
        let runs = times.len();
        let at = |q: f64| times.get(((runs as f64 * q) as usize).min(runs.checked_sub(1)?)).copied();
        Some(Summary {
            min: at(0.0)?,
            median: at(0.5)?,
            p90: at(0.9)?,
            p99: at(0.99)?,
            mean: times.iter().sum::<f64>() / runs as f64,
            runs,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_order_statistics() {
        let s = Summary::new((1..=100).rev().map(f64::from).collect()).unwrap();
        assert_eq!((s.min, s.median, s.p90, s.p99, s.mean, s.runs), (1.0, 51.0, 91.0, 100.0, 50.5, 100));
        assert_eq!(Summary::new(vec![]), None);
        assert_eq!(Summary::new(vec![2.0]).unwrap().p99, 2.0);
    }
}
