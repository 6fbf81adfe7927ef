//! Counters of one judge, readable at any time.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::reply::Usage;
use crate::types::Status;

/// What a judge has done so far.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stats {
    /// HTTP requests sent, repeats and re-asks included.
    pub requests_sent: u64,
    /// Verdicts that the ledger gave.
    pub from_ledger: u64,
    /// Verdicts that an equal request in flight gave.
    pub shared: u64,
    /// Requests sent again after a fault.
    pub retries: u64,
    /// Requests that asked again for a missing grade.
    pub reasks: u64,
    /// Pauses of a server after a 429 or a 503 with `Retry-After`.
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
    /// Distinct replies in the ledger.
    pub ledger_replies: u64,
    /// Ledger records that were damaged on disk and are asked for again.
    pub ledger_corrupt: u64,
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

pub(crate) struct Metrics {
    pub(crate) requests_sent: AtomicU64,
    pub(crate) from_ledger: AtomicU64,
    pub(crate) shared: AtomicU64,
    pub(crate) retries: AtomicU64,
    pub(crate) reasks: AtomicU64,
    pub(crate) rate_limit_pauses: AtomicU64,
    pub(crate) readout_fallbacks: AtomicU64,
    statuses: [AtomicU64; 8],
    prompt_tokens: AtomicU64,
    completion_tokens: AtomicU64,
    cached_tokens: AtomicU64,
    latencies: [AtomicU64; BUCKETS],
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            requests_sent: AtomicU64::default(),
            from_ledger: AtomicU64::default(),
            shared: AtomicU64::default(),
            retries: AtomicU64::default(),
            reasks: AtomicU64::default(),
            rate_limit_pauses: AtomicU64::default(),
            readout_fallbacks: AtomicU64::default(),
            statuses: Default::default(),
            prompt_tokens: AtomicU64::default(),
            completion_tokens: AtomicU64::default(),
            cached_tokens: AtomicU64::default(),
            latencies: std::array::from_fn(|_| AtomicU64::default()),
        }
    }
}

/// Adds one.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

impl Metrics {
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
        Stats {
            requests_sent: self.requests_sent.load(Relaxed),
            from_ledger: self.from_ledger.load(Relaxed),
            shared: self.shared.load(Relaxed),
            retries: self.retries.load(Relaxed),
            reasks: self.reasks.load(Relaxed),
            rate_limit_pauses: self.rate_limit_pauses.load(Relaxed),
            readout_fallbacks: self.readout_fallbacks.load(Relaxed),
            statuses: std::array::from_fn(|i| self.statuses[i].load(Relaxed)),
            prompt_tokens: self.prompt_tokens.load(Relaxed),
            completion_tokens: self.completion_tokens.load(Relaxed),
            cached_tokens: self.cached_tokens.load(Relaxed),
            in_flight: in_flight as u64,
            ledger_replies: 0,
            ledger_corrupt: 0,
            latency_p50_s: quantile(&latencies, 0.5),
            latency_p99_s: quantile(&latencies, 0.99),
        }
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
        let metrics = Metrics::default();
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
        assert!(Metrics::default().snapshot(0).latency_p50_s.abs() < 1e-12);
    }

    #[test]
    fn statuses_are_counted_in_their_order() {
        let metrics = Metrics::default();
        for status in Status::ALL {
            metrics.ended(status);
        }
        assert_eq!(metrics.snapshot(0).statuses, [1; 8]);
    }
}
