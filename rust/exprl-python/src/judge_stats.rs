//! `JudgeStats`: the counts of a judge, made from their table.

use std::collections::BTreeMap;

use exprl_judge::{Stats, Status};
use pyo3::prelude::*;

macro_rules! make {
    ($($name:ident: $kind:ident, $help:literal;)+) => {
        /// What a judge has done so far.
        #[pyclass(frozen, eq, module = "exprl.judge")]
        #[derive(Clone, PartialEq)]
        pub struct JudgeStats {
            $(
                #[doc = $help]
                #[pyo3(get)]
                $name: u64,
            )+
            /// Verdicts by status.
            #[pyo3(get)]
            statuses: BTreeMap<&'static str, u64>,
            /// Requests in flight now.
            #[pyo3(get)]
            in_flight: u64,
            /// What the tokens cost; None without prices.
            #[pyo3(get)]
            cost: Option<f64>,
            /// Median seconds of an answered request, within 5 %; 0 without one.
            #[pyo3(get)]
            latency_p50_s: f64,
            /// 95th percentile of the same, within 5 %.
            #[pyo3(get)]
            latency_p95_s: f64,
            /// 99th percentile of the same, within 5 %.
            #[pyo3(get)]
            latency_p99_s: f64,
            stats: Stats,
        }

        impl From<Stats> for JudgeStats {
            fn from(stats: Stats) -> Self {
                let names = Status::ALL.iter().map(|status| status.name());
                Self {
                    $($name: stats.$name,)+
                    statuses: names.zip(stats.statuses).collect(),
                    in_flight: stats.in_flight,
                    cost: stats.cost,
                    latency_p50_s: stats.latency_p50_s,
                    latency_p95_s: stats.latency_p95_s,
                    latency_p99_s: stats.latency_p99_s,
                    stats,
                }
            }
        }
    };
}

exprl_judge::counters!(make);

#[pymethods]
impl JudgeStats {
    /// These counts and those of another judge, and the latencies of both.
    fn plus(&self, other: &Self) -> Self {
        self.stats.clone().plus(&other.stats).into()
    }

    /// What was counted since an earlier look, and the latencies since then; gauges stay as they are now.
    fn since(&self, before: &Self) -> Self {
        self.stats.clone().since(&before.stats).into()
    }

    fn __repr__(&self) -> String {
        format!("Judge{:?}", self.stats)
    }
}

/// Name, kind (`counter` or `gauge`) and meaning of each count of a judge.
#[pyfunction]
pub fn judge_counters() -> Vec<(&'static str, &'static str, &'static str)> {
    Stats::COUNTERS.to_vec()
}
