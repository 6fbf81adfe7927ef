//! Requests and tokens per minute. No clock: time comes in as a value.

use std::time::{Duration, Instant};

/// So much may leave at once after a lull.
const BURST: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// The limits of a judge's key, over all its servers.
pub(crate) struct Limits {
    requests: Option<Limit>,
    tokens: Option<Limit>,
}

impl Limits {
    pub(crate) fn new(rpm: Option<u32>, tpm: Option<u64>) -> Self {
        Self {
            requests: rpm.map(Limit::requests),
            tokens: tpm.map(Limit::tokens),
        }
    }

    /// Nothing is limited: nobody needs to count.
    pub(crate) fn is_unlimited(&self) -> bool {
        self.requests.is_none() && self.tokens.is_none()
    }

    /// When the next request may leave; `None` if it may now.
    pub(crate) fn wait(&self, now: Instant) -> Option<Instant> {
        let limits = [&self.requests, &self.tokens].into_iter().flatten();
        limits.filter_map(|limit| limit.wait(now)).max()
    }

    /// A request leaves that will use so many tokens, by estimate.
    pub(crate) fn take(&mut self, tokens: u64, now: Instant) {
        if let Some(limit) = &mut self.requests {
            limit.take(1.0, now);
        }
        if let Some(limit) = &mut self.tokens {
            limit.take(tokens as f64, now);
        }
    }

    /// A request used another number of tokens than was estimated.
    pub(crate) fn correct(&mut self, estimate: u64, used: u64) {
        if let Some(limit) = &mut self.tokens {
            limit.correct(used as f64 - estimate as f64);
        }
    }
}

/// The generic cell rate algorithm (ITU-T I.371) with cells of any size: what has been taken is paid
/// off at a constant rate, and the next cell may leave when no more than `burst` is owed.
struct Limit {
    /// Seconds that one unit takes to pay off.
    interval: f64,
    burst: Duration,
    /// When all that has been taken is paid off.
    paid_off: Option<Instant>,
}

impl Limit {
    /// Never more than `rpm` requests in any minute.
    fn requests(rpm: u32) -> Self {
        let burst = (f64::from(rpm) * BURST.as_secs_f64() / MINUTE.as_secs_f64()).max(1.0);
        let interval = MINUTE.as_secs_f64() / (f64::from(rpm) - burst + 1.0);
        Self {
            interval,
            burst: Duration::from_secs_f64((burst - 1.0) * interval),
            paid_off: None,
        }
    }

    /// No minute sees more than `tpm` tokens beside those of its last request.
    fn tokens(tpm: u64) -> Self {
        Self {
            interval: (MINUTE + BURST).as_secs_f64() / tpm as f64,
            burst: BURST,
            paid_off: None,
        }
    }

    fn wait(&self, now: Instant) -> Option<Instant> {
        let owed = self.paid_off?.saturating_duration_since(now);
        let wait = owed
            .checked_sub(self.burst)
            .filter(|wait| !wait.is_zero())?;
        Some(now + wait)
    }

    fn take(&mut self, units: f64, now: Instant) {
        let from = self.paid_off.map_or(now, |at| at.max(now));
        self.paid_off = Some(from + Duration::from_secs_f64(units * self.interval));
    }

    fn correct(&mut self, units: f64) {
        let change = Duration::from_secs_f64(units.abs() * self.interval);
        self.paid_off = self.paid_off.map(|at| {
            if units < 0.0 {
                at.checked_sub(change).unwrap_or(at)
            } else {
                at + change
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds at which requests of so many tokens each leave, if they leave as soon as they may.
    fn departures(limits: &mut Limits, tokens: u64, count: usize) -> Vec<f64> {
        let start = Instant::now();
        let mut now = start;
        let next = |_| {
            while let Some(at) = limits.wait(now) {
                now = at;
            }
            limits.take(tokens, now);
            (now - start).as_secs_f64()
        };
        (0..count).map(next).collect()
    }

    #[test]
    fn no_minute_sees_more_requests_than_the_limit() {
        for rpm in [1, 2, 59, 60, 100, 600, 60_000] {
            let times = departures(&mut Limits::new(Some(rpm), None), 0, 3 * rpm as usize + 1);
            for (first, after) in times.iter().zip(&times[rpm as usize..]) {
                assert!(after - first > 60.0 - 1e-3, "{rpm}: {first} {after}");
            }
            let minutes = times[times.len() - 1] / 60.0;
            assert!(
                minutes < 3.2,
                "{rpm}: {minutes} minutes for three minutes' worth"
            );
        }
    }

    #[test]
    fn tokens_are_paced_and_corrected_by_what_was_used() {
        let mut limits = Limits::new(None, Some(60_000));
        let times = departures(&mut limits, 3_000, 61);
        for (first, after) in times.iter().zip(&times[21..]) {
            assert!(after - first > 59.9, "{first} {after}");
        }
        // Half of each estimate turns out to be unused: as if the requests were half as long.
        let mut limits = Limits::new(None, Some(60_000));
        let now = Instant::now();
        for _ in 0..20 {
            limits.take(3_000, now);
            limits.correct(3_000, 1_500);
        }
        let wait = limits.wait(now).unwrap() - now;
        assert!((wait.as_secs_f64() - 29.5).abs() < 0.1, "{wait:?}");
        limits.correct(0, 60_000);
        assert!(limits.wait(now).unwrap() - now > Duration::from_secs(90));
    }

    #[test]
    fn without_limits_nothing_waits() {
        let mut limits = Limits::new(None, None);
        assert!(limits.is_unlimited());
        let now = Instant::now();
        (0..1000).for_each(|_| limits.take(1_000_000, now));
        assert_eq!(limits.wait(now), None);
    }
}
