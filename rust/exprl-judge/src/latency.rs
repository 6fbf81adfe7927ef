//! How long answers took, as counts in buckets.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Buckets grow by 10 %: from 0.1 ms to beyond an hour.
const BUCKETS: usize = 190;
const SMALLEST_S: f64 = 1e-4;
const GROWTH: f64 = 1.1;

/// The counts while they grow.
pub(crate) struct LatencyLog([AtomicU64; BUCKETS]);

impl Default for LatencyLog {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::default()))
    }
}

impl LatencyLog {
    pub(crate) fn note(&self, latency: Duration) {
        let steps = (latency.as_secs_f64() / SMALLEST_S).max(1.0).log(GROWTH);
        self.0[(steps as usize).min(BUCKETS - 1)].fetch_add(1, Relaxed);
    }

    pub(crate) fn read(&self) -> Latencies {
        Latencies(self.0.iter().map(|count| count.load(Relaxed)).collect())
    }
}

/// Counts at one moment; none where nothing has been counted.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Latencies(Vec<u64>);

impl Latencies {
    /// Those of two judges together.
    pub(crate) fn plus(&self, other: &Self) -> Self {
        self.with(other, |one, more| one + more)
    }

    /// Those since an earlier moment.
    pub(crate) fn since(&self, before: &Self) -> Self {
        self.with(before, u64::saturating_sub)
    }

    fn with(&self, other: &Self, change: fn(u64, u64) -> u64) -> Self {
        let at = |counts: &[u64], i| counts.get(i).copied().unwrap_or_default();
        let buckets = 0..self.0.len().max(other.0.len());
        Self(
            buckets
                .map(|i| change(at(&self.0, i), at(&other.0, i)))
                .collect(),
        )
    }

    /// Seconds: the middle of the bucket that holds the quantile; 0 before the first answer.
    pub(crate) fn quantile(&self, q: f64) -> f64 {
        let total: u64 = self.0.iter().sum();
        let rank = (q * total as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        let bucket = self.0.iter().position(|n| {
            seen += n;
            seen >= rank
        });
        bucket.map_or(0.0, |i| SMALLEST_S * GROWTH.powf(i as f64 + 0.5))
    }
}
