//! Counters of one judge, readable at any time.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::counters::{Counters, Stats};
use crate::latency::LatencyLog;
use crate::prometheus::Page;
use crate::reply::Usage;
use crate::schedule::LaneState;
use crate::settings::Prices;
use crate::types::Status;

/// Upper bounds of the histograms that Prometheus sees, in seconds.
const BOUNDS_S: [f64; 16] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0,
];

pub(crate) struct Metrics {
    pub(crate) counters: Counters,
    statuses: [AtomicU64; 8],
    latencies: LatencyLog,
    prices: Option<Prices>,
    pub(crate) servers: Vec<ServerMetrics>,
}

/// What one server has answered.
#[derive(Default)]
pub(crate) struct ServerMetrics {
    answered: AtomicU64,
    duration: Histogram,
    first_byte: Histogram,
    /// Requests without a 200 answer, by what came instead.
    failed: Mutex<BTreeMap<Cow<'static, str>, u64>>,
}

#[derive(Default)]
struct Histogram {
    buckets: [AtomicU64; BOUNDS_S.len() + 1],
    sum_us: AtomicU64,
}

/// Adds one.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

impl Histogram {
    fn note(&self, time: Duration) {
        let seconds = time.as_secs_f64();
        count(&self.buckets[BOUNDS_S.partition_point(|&bound| bound < seconds)]);
        self.sum_us.fetch_add(time.as_micros() as u64, Relaxed);
    }

    fn write(&self, page: &mut Page, name: &str, server: &str) {
        let bucket = format!("{name}_bucket");
        let mut total = 0;
        for (i, count) in self.buckets.iter().enumerate() {
            total += count.load(Relaxed);
            let bound = BOUNDS_S
                .get(i)
                .map_or("+Inf".to_owned(), ToString::to_string);
            page.sample(&bucket, &[("server", server), ("le", &bound)], total);
        }
        let sum = self.sum_us.load(Relaxed) as f64 / 1e6;
        page.sample(&format!("{name}_sum"), &[("server", server)], sum);
        page.sample(&format!("{name}_count"), &[("server", server)], total);
    }
}

impl ServerMetrics {
    pub(crate) fn answered(&self, duration: Duration, first_byte: Duration) {
        count(&self.answered);
        self.duration.note(duration);
        self.first_byte.note(first_byte);
    }

    pub(crate) fn failed(&self, why: Cow<'static, str>) {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        *failed.entry(why).or_default() += 1;
    }
}

impl Metrics {
    pub(crate) fn new(servers: usize, prices: Option<Prices>) -> Self {
        Self {
            counters: Counters::default(),
            statuses: Default::default(),
            latencies: LatencyLog::default(),
            prices,
            servers: (0..servers).map(|_| ServerMetrics::default()).collect(),
        }
    }

    pub(crate) fn ended(&self, status: Status) {
        count(&self.statuses[status as usize]);
    }

    pub(crate) fn used(&self, usage: Usage) {
        let counters = &self.counters;
        counters.prompt_tokens.fetch_add(usage.prompt, Relaxed);
        counters
            .completion_tokens
            .fetch_add(usage.completion, Relaxed);
        counters.cached_tokens.fetch_add(usage.cached, Relaxed);
    }

    pub(crate) fn answered_in(&self, latency: Duration) {
        self.latencies.note(latency);
    }

    pub(crate) fn snapshot(&self, in_flight: usize) -> Stats {
        let counts = self.counters.read();
        let counts = Stats {
            statuses: std::array::from_fn(|i| self.statuses[i].load(Relaxed)),
            in_flight: in_flight as u64,
            cost: self.prices.map(|prices| prices.cost(&counts)),
            ..counts
        };
        counts.with_latencies(self.latencies.read())
    }

    /// The page for Prometheus; `lanes` are the servers' names and queues.
    pub(crate) fn page(&self, stats: &Stats, lanes: &[(&str, LaneState)]) -> String {
        let mut page = Page::default();
        self.write_requests(&mut page, lanes);
        write_lanes(&mut page, lanes);
        write_totals(&mut page, stats);
        page.finish()
    }

    fn write_requests(&self, page: &mut Page, lanes: &[(&str, LaneState)]) {
        let name = "exprl_judge_requests_total";
        page.metric(
            name,
            "counter",
            "HTTP requests that ended, by server and HTTP status or fault.",
        );
        for (metrics, (server, _)) in self.servers.iter().zip(lanes) {
            let labels = |status| [("server", *server), ("status", status)];
            page.sample(name, &labels("200"), metrics.answered.load(Relaxed));
            let failed = metrics
                .failed
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            for (why, count) in failed.iter() {
                page.sample(name, &labels(why), count);
            }
        }
        for (name, help, first_byte) in [
            (
                "exprl_judge_request_duration_seconds",
                "From the request to the end of a 200 answer.",
                false,
            ),
            (
                "exprl_judge_time_to_first_byte_seconds",
                "From the request to the first byte of a 200 answer.",
                true,
            ),
        ] {
            page.metric(name, "histogram", help);
            for (metrics, (server, _)) in self.servers.iter().zip(lanes) {
                let histogram = if first_byte {
                    &metrics.first_byte
                } else {
                    &metrics.duration
                };
                histogram.write(page, name, server);
            }
        }
    }
}

/// Name, meaning and value of what a server's queue shows.
type Gauge = (&'static str, &'static str, fn(&LaneState) -> u64);

const GAUGES: [Gauge; 6] = [
    ("in_flight", "Requests in flight.", |lane| {
        lane.in_flight as u64
    }),
    ("queued", "Requests that wait.", |lane| lane.queued as u64),
    ("window", "Requests that may be in flight.", |lane| {
        lane.window as u64
    }),
    ("paused", "1 while nothing is sent to the server.", |lane| {
        lane.paused.into()
    }),
    (
        "kv_tokens_held",
        "Estimated tokens of the rollouts being judged.",
        |lane| lane.held,
    ),
    (
        "kv_tokens_capacity",
        "Tokens that fit the KV cache; 0 if not known.",
        |lane| lane.capacity.unwrap_or(0),
    ),
];

fn write_lanes(page: &mut Page, lanes: &[(&str, LaneState)]) {
    for (name, help, of) in GAUGES {
        let name = format!("exprl_judge_{name}");
        page.metric(&name, "gauge", help);
        for (server, lane) in lanes {
            page.sample(&name, &[("server", server)], of(lane));
        }
    }
}

fn write_totals(page: &mut Page, stats: &Stats) {
    stats.write(page);
    let name = "exprl_judge_verdicts_total";
    page.metric(name, "counter", "Verdicts by status.");
    for (status, count) in Status::ALL.iter().zip(stats.statuses) {
        page.sample(name, &[("status", status.name())], count);
    }
    if let Some(cost) = stats.cost {
        let help = "What the tokens cost, in the currency of the prices.";
        page.single("exprl_judge_cost_total", "counter", help, cost);
    }
}

impl Prices {
    fn cost(&self, counts: &Stats) -> f64 {
        let fresh = counts.prompt_tokens.saturating_sub(counts.cached_tokens);
        let tokens = [
            (fresh, self.prompt),
            (counts.cached_tokens, self.cached),
            (counts.completion_tokens, self.completion),
        ];
        let costs = tokens
            .iter()
            .map(|&(count, price)| count as f64 * price / 1e6);
        costs.sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_five_percent() {
        let metrics = Metrics::new(1, None);
        for ms in 1..=1000 {
            metrics.answered_in(Duration::from_millis(ms));
        }
        let stats = metrics.snapshot(0);
        assert!(
            (stats.latency_p50_s / 0.5 - 1.0).abs() < 0.06,
            "{}",
            stats.latency_p50_s
        );
        assert!(
            (stats.latency_p99_s / 0.99 - 1.0).abs() < 0.06,
            "{}",
            stats.latency_p99_s
        );
        assert!(Metrics::new(1, None).snapshot(0).latency_p50_s.abs() < 1e-12);
    }

    #[test]
    fn statuses_are_counted_in_their_order() {
        let metrics = Metrics::new(1, None);
        for &status in Status::ALL {
            metrics.ended(status);
        }
        assert_eq!(metrics.snapshot(0).statuses, [1; 8]);
    }

    #[test]
    fn cached_tokens_have_a_price_of_their_own() {
        let prices = Prices {
            prompt: 2.0,
            cached: 0.5,
            completion: 10.0,
        };
        let metrics = Metrics::new(1, Some(prices));
        for _ in 0..2 {
            metrics.used(Usage {
                prompt: 1_000_000,
                cached: 400_000,
                completion: 100_000,
            });
        }
        let cost = metrics.snapshot(0).cost.unwrap();
        assert!((cost - 2.0 * (1.2 + 0.2 + 1.0)).abs() < 1e-9, "{cost}");
        assert_eq!(Metrics::new(1, None).snapshot(0).cost, None);
    }

    #[test]
    fn histogram_buckets_are_cumulative() {
        let metrics = Metrics::new(1, None);
        for ms in [1, 5, 30, 600_000] {
            let time = Duration::from_millis(ms);
            metrics.servers[0].answered(time, time);
        }
        metrics.servers[0].failed("429".into());
        let lane = LaneState {
            queued: 7,
            in_flight: 3,
            window: 16,
            paused: true,
            held: 900,
            capacity: None,
        };
        let page = metrics.page(&metrics.snapshot(3), &[("http://h/v1", lane)]);
        for line in [
            r#"exprl_judge_request_duration_seconds_bucket{server="http://h/v1",le="0.005"} 2"#,
            r#"exprl_judge_request_duration_seconds_bucket{server="http://h/v1",le="0.05"} 3"#,
            r#"exprl_judge_request_duration_seconds_bucket{server="http://h/v1",le="+Inf"} 4"#,
            r#"exprl_judge_request_duration_seconds_sum{server="http://h/v1"} 600.036"#,
            r#"exprl_judge_requests_total{server="http://h/v1",status="200"} 4"#,
            r#"exprl_judge_requests_total{server="http://h/v1",status="429"} 1"#,
            r#"exprl_judge_paused{server="http://h/v1"} 1"#,
            r#"exprl_judge_verdicts_total{status="http_error"} 0"#,
        ] {
            assert!(page.lines().any(|l| l == line), "{line}\n{page}");
        }
        assert!(!page.contains("cost"), "without prices there is no cost");
    }
}
