//! Counters of one judge, readable at any time.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::prometheus::Page;
use crate::reply::Usage;
use crate::schedule::LaneState;
use crate::settings::Prices;
use crate::types::Status;

/// What a judge has done so far.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stats {
    /// HTTP requests sent, repeats, hedges and re-asks included.
    pub requests_sent: u64,
    /// Verdicts that the ledger gave.
    pub from_ledger: u64,
    /// Verdicts that an equal request in flight gave.
    pub shared: u64,
    /// Requests sent again after a fault.
    pub retries: u64,
    /// Requests that asked again for a missing grade.
    pub reasks: u64,
    /// Requests sent to a second server because the first was late.
    pub hedges: u64,
    /// Hedges that answered first.
    pub hedges_won: u64,
    /// Pauses of a server after a 429, a 503 with `Retry-After`, or a limit that is used up.
    pub rate_limit_pauses: u64,
    /// Grades that the expected readout could not use probabilities for.
    pub readout_fallbacks: u64,
    /// Verdicts by status, in the order of `Status::ALL`.
    pub statuses: [u64; 8],
    /// Tokens that servers counted in prompts.
    pub prompt_tokens: u64,
    /// Tokens that judges wrote.
    pub completion_tokens: u64,
    /// Prompt tokens found in prefix caches.
    pub cached_tokens: u64,
    /// What these tokens cost; `None` without prices.
    pub cost: Option<f64>,
    /// Distinct replies in the ledger.
    pub ledger_replies: u64,
    /// Ledger records that were damaged on disk and are asked for again.
    pub ledger_corrupt: u64,
    /// Replies that could not be stored in the ledger (a full disk): another run asks for them again.
    pub ledger_failed: u64,
    /// Requests in flight now.
    pub in_flight: u64,
    /// Median seconds of an answered request (within 5 %).
    pub latency_p50_s: f64,
    /// 99th percentile of the same.
    pub latency_p99_s: f64,
}

/// A latency histogram whose buckets grow by 10 %: from 0.1 ms to beyond an hour.
const BUCKETS: usize = 190;
const SMALLEST_S: f64 = 1e-4;
const GROWTH: f64 = 1.1;

/// Upper bounds of the histograms that Prometheus sees, in seconds.
const BOUNDS_S: [f64; 16] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0,
];

pub(crate) struct Metrics {
    pub(crate) requests_sent: AtomicU64,
    pub(crate) from_ledger: AtomicU64,
    pub(crate) shared: AtomicU64,
    pub(crate) retries: AtomicU64,
    pub(crate) reasks: AtomicU64,
    pub(crate) hedges: AtomicU64,
    pub(crate) hedges_won: AtomicU64,
    pub(crate) rate_limit_pauses: AtomicU64,
    pub(crate) readout_fallbacks: AtomicU64,
    pub(crate) ledger_failed: AtomicU64,
    statuses: [AtomicU64; 8],
    prompt_tokens: AtomicU64,
    completion_tokens: AtomicU64,
    cached_tokens: AtomicU64,
    latencies: [AtomicU64; BUCKETS],
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
            requests_sent: AtomicU64::default(),
            from_ledger: AtomicU64::default(),
            shared: AtomicU64::default(),
            retries: AtomicU64::default(),
            reasks: AtomicU64::default(),
            hedges: AtomicU64::default(),
            hedges_won: AtomicU64::default(),
            rate_limit_pauses: AtomicU64::default(),
            readout_fallbacks: AtomicU64::default(),
            ledger_failed: AtomicU64::default(),
            statuses: Default::default(),
            prompt_tokens: AtomicU64::default(),
            completion_tokens: AtomicU64::default(),
            cached_tokens: AtomicU64::default(),
            latencies: std::array::from_fn(|_| AtomicU64::default()),
            prices,
            servers: (0..servers).map(|_| ServerMetrics::default()).collect(),
        }
    }

    pub(crate) fn ended(&self, status: Status) {
        count(&self.statuses[status as usize]);
    }

    pub(crate) fn used(&self, usage: Usage) {
        self.prompt_tokens.fetch_add(usage.prompt, Relaxed);
        self.completion_tokens.fetch_add(usage.completion, Relaxed);
        self.cached_tokens.fetch_add(usage.cached, Relaxed);
    }

    pub(crate) fn answered_in(&self, latency: Duration) {
        let steps = (latency.as_secs_f64() / SMALLEST_S).max(1.0).log(GROWTH);
        count(&self.latencies[(steps as usize).min(BUCKETS - 1)]);
    }

    pub(crate) fn snapshot(&self, in_flight: usize) -> Stats {
        let latencies: Vec<u64> = self.latencies.iter().map(|n| n.load(Relaxed)).collect();
        let usage = Usage {
            prompt: self.prompt_tokens.load(Relaxed),
            completion: self.completion_tokens.load(Relaxed),
            cached: self.cached_tokens.load(Relaxed),
        };
        Stats {
            requests_sent: self.requests_sent.load(Relaxed),
            from_ledger: self.from_ledger.load(Relaxed),
            shared: self.shared.load(Relaxed),
            retries: self.retries.load(Relaxed),
            reasks: self.reasks.load(Relaxed),
            hedges: self.hedges.load(Relaxed),
            hedges_won: self.hedges_won.load(Relaxed),
            rate_limit_pauses: self.rate_limit_pauses.load(Relaxed),
            readout_fallbacks: self.readout_fallbacks.load(Relaxed),
            statuses: std::array::from_fn(|i| self.statuses[i].load(Relaxed)),
            prompt_tokens: usage.prompt,
            completion_tokens: usage.completion,
            cached_tokens: usage.cached,
            cost: self.prices.map(|prices| prices.cost(usage)),
            in_flight: in_flight as u64,
            ledger_replies: 0,
            ledger_corrupt: 0,
            ledger_failed: self.ledger_failed.load(Relaxed),
            latency_p50_s: quantile(&latencies, 0.5),
            latency_p99_s: quantile(&latencies, 0.99),
        }
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

fn write_lanes(page: &mut Page, lanes: &[(&str, LaneState)]) {
    let mut gauge = |name: &str, help: &str, of: fn(&LaneState) -> u64| {
        page.metric(name, "gauge", help);
        for (server, lane) in lanes {
            page.sample(name, &[("server", server)], of(lane));
        }
    };
    gauge("exprl_judge_in_flight", "Requests in flight.", |lane| {
        lane.in_flight as u64
    });
    gauge("exprl_judge_queued", "Requests that wait.", |lane| {
        lane.queued as u64
    });
    gauge(
        "exprl_judge_window",
        "Requests that may be in flight.",
        |lane| lane.window as u64,
    );
    gauge(
        "exprl_judge_paused",
        "1 while nothing is sent to the server.",
        |lane| u64::from(lane.paused),
    );
    gauge(
        "exprl_judge_kv_tokens_held",
        "Estimated tokens of the rollouts being judged.",
        |lane| lane.held,
    );
    gauge(
        "exprl_judge_kv_tokens_capacity",
        "Tokens that fit the KV cache; 0 if not known.",
        |lane| lane.capacity.unwrap_or(0),
    );
}

fn write_totals(page: &mut Page, stats: &Stats) {
    let name = "exprl_judge_verdicts_total";
    page.metric(name, "counter", "Verdicts by status.");
    for (status, count) in Status::ALL.iter().zip(stats.statuses) {
        page.sample(name, &[("status", status.name())], count);
    }
    let name = "exprl_judge_tokens_total";
    page.metric(
        name,
        "counter",
        "Tokens as servers counted them; cached ones are part of the prompt.",
    );
    for (kind, count) in [
        ("prompt", stats.prompt_tokens),
        ("cached", stats.cached_tokens),
        ("completion", stats.completion_tokens),
    ] {
        page.sample(name, &[("kind", kind)], count);
    }
    for (name, help, count) in [
        (
            "exprl_judge_requests_sent_total",
            "HTTP requests sent, repeats, hedges and re-asks included.",
            stats.requests_sent,
        ),
        (
            "exprl_judge_ledger_hits_total",
            "Verdicts that the ledger gave.",
            stats.from_ledger,
        ),
        (
            "exprl_judge_shared_total",
            "Verdicts that an equal request in flight gave.",
            stats.shared,
        ),
        (
            "exprl_judge_retries_total",
            "Requests sent again after a fault.",
            stats.retries,
        ),
        (
            "exprl_judge_reasks_total",
            "Requests that asked again for a missing grade.",
            stats.reasks,
        ),
        (
            "exprl_judge_hedges_total",
            "Requests sent to a second server because the first was late.",
            stats.hedges,
        ),
        (
            "exprl_judge_hedges_won_total",
            "Hedges that answered first.",
            stats.hedges_won,
        ),
        (
            "exprl_judge_rate_limit_pauses_total",
            "Pauses that servers asked for.",
            stats.rate_limit_pauses,
        ),
        (
            "exprl_judge_readout_fallbacks_total",
            "Grades without usable probabilities under the expected readout.",
            stats.readout_fallbacks,
        ),
        (
            "exprl_judge_ledger_failed_total",
            "Replies that could not be stored.",
            stats.ledger_failed,
        ),
    ] {
        page.single(name, "counter", help, count);
    }
    page.single(
        "exprl_judge_ledger_replies",
        "gauge",
        "Distinct replies in the ledger.",
        stats.ledger_replies,
    );
    if let Some(cost) = stats.cost {
        page.single(
            "exprl_judge_cost_total",
            "counter",
            "What the tokens cost, in the currency of the prices.",
            cost,
        );
    }
}

impl Prices {
    pub(crate) fn cost(&self, usage: Usage) -> f64 {
        let fresh = usage.prompt.saturating_sub(usage.cached);
        let tokens = [
            (fresh, self.prompt),
            (usage.cached, self.cached),
            (usage.completion, self.completion),
        ];
        tokens
            .iter()
            .map(|&(count, price)| count as f64 * price / 1e6)
            .sum()
    }
}

/// The middle of the bucket that holds the quantile; 0 before the first answer.
fn quantile(counts: &[u64], q: f64) -> f64 {
    let total: u64 = counts.iter().sum();
    let rank = (q * total as f64).ceil().max(1.0) as u64;
    let mut seen = 0;
    let bucket = counts.iter().position(|n| {
        seen += n;
        seen >= rank
    });
    bucket.map_or(0.0, |i| SMALLEST_S * GROWTH.powf(i as f64 + 0.5))
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
