//! What a judge counts: one table, from which everything that shows a count is made.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::Serialize;

use crate::latency::Latencies;
use crate::prometheus::Page;

/// Gives a macro the table of counts: name, kind and meaning of each.
///
/// A `counter` only grows; a `gauge` is what holds now. Prometheus sees a count as `exprl_judge_NAME`, a
/// counter with `_total` behind. The binding makes Python's type from the same rows.
#[macro_export]
macro_rules! counters {
    ($make:ident) => {
        $make! {
            requests_sent: counter, "HTTP requests sent, repeats, hedges and re-asks included.";
            from_ledger: counter, "Verdicts that the ledger gave.";
            shared: counter, "Verdicts that an equal request in flight gave.";
            retries: counter, "Requests sent again after a fault.";
            reasks: counter, "Requests that asked again for a missing grade.";
            repaired: counter, "Grades that only a re-ask gave, those from the ledger included.";
            truncated: counter,
                "Replies that were cut at the token limit, those that a re-ask repaired included.";
            over_context: counter,
                "Requests whose prompt the judge's context does not hold: refused, or not sent.";
            hedges: counter,
                "Requests sent once more because the first was late: to a second server, or on a new connection.";
            hedges_won: counter, "Hedges that answered first.";
            rate_limit_pauses: counter,
                "Pauses of a server after a 429, a 503 with Retry-After, or a limit that is used up.";
            readout_fallbacks: counter,
                "Grades whose probabilities could not be used: the score is that of the grade alone.";
            prompt_tokens: counter, "Tokens of prompts, as the servers counted them.";
            completion_tokens: counter, "Tokens of replies, as the servers counted them.";
            cached_tokens: counter, "Tokens of prompts that were found in a server's prefix cache.";
            ledger_replies: gauge, "Distinct replies in the ledger.";
            ledger_corrupt: gauge,
                "Records of the ledger that were damaged on disk and are asked for again.";
            ledger_failed: counter,
                "Replies that could not be stored (a full disk): another run asks for them again.";
        }
    };
}

macro_rules! make {
    ($($name:ident: $kind:ident, $help:literal;)+) => {
        /// What a judge has done so far.
        #[derive(Debug, Clone, Default, PartialEq, Serialize)]
        pub struct Stats {
            $(#[doc = $help] pub $name: u64,)+
            /// Verdicts by status, in the order of `Status::ALL`.
            pub statuses: [u64; 8],
            /// Requests in flight now.
            pub in_flight: u64,
            /// What the tokens cost; `None` without prices.
            pub cost: Option<f64>,
            /// Median seconds of an answered request, within 5 %; 0 without one.
            pub latency_p50_s: f64,
            /// 95th percentile of the same.
            pub latency_p95_s: f64,
            /// 99th percentile of the same.
            pub latency_p99_s: f64,
            /// All of them.
            #[serde(skip)]
            pub(crate) latencies: Latencies,
        }

        /// The counts while they grow.
        #[derive(Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: AtomicU64,)+
        }

        impl Counters {
            pub(crate) fn read(&self) -> Stats {
                Stats { $($name: self.$name.load(Relaxed),)+ ..Stats::default() }
            }
        }

        impl Stats {
            /// Name, kind and meaning of each count.
            pub const COUNTERS: &[(&str, &str, &str)] =
                &[$((stringify!($name), stringify!($kind), $help)),+];

            pub(crate) fn write(&self, page: &mut Page) {
                for ((name, kind, help), count) in Self::COUNTERS.iter().zip([$(self.$name),+]) {
                    let total = if *kind == "counter" { "_total" } else { "" };
                    page.single(&format!("exprl_judge_{name}{total}"), kind, help, count);
                }
            }

            /// These counts and those of another judge, and the latencies of both.
            #[must_use]
            pub fn plus(mut self, other: &Self) -> Self {
                $(self.$name += other.$name;)+
                for (count, more) in self.statuses.iter_mut().zip(other.statuses) {
                    *count += more;
                }
                self.in_flight += other.in_flight;
                self.cost = self.cost.zip(other.cost).map(|(one, more)| one + more);
                let latencies = self.latencies.plus(&other.latencies);
                self.with_latencies(latencies)
            }

            /// What was counted since an earlier look, and the latencies since then; gauges stay as they
            /// are now.
            #[must_use]
            pub fn since(mut self, before: &Self) -> Self {
                $(if stringify!($kind) == "counter" {
                    self.$name = self.$name.saturating_sub(before.$name);
                })+
                for (count, then) in self.statuses.iter_mut().zip(before.statuses) {
                    *count = count.saturating_sub(then);
                }
                self.cost = self.cost.zip(before.cost).map(|(now, then)| now - then);
                let latencies = self.latencies.since(&before.latencies);
                self.with_latencies(latencies)
            }

            /// The same counts beside these latencies.
            #[must_use]
            pub(crate) fn with_latencies(self, latencies: Latencies) -> Self {
                let [p50, p95, p99] = [0.5, 0.95, 0.99].map(|q| latencies.quantile(q));
                Self {
                    latency_p50_s: p50,
                    latency_p95_s: p95,
                    latency_p99_s: p99,
                    latencies,
                    ..self
                }
            }
        }
    };
}

counters!(make);

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::latency::LatencyLog;

    /// Answered after so many milliseconds, three each.
    fn stats(latencies_ms: &[u64]) -> Stats {
        let log = LatencyLog::default();
        for &ms in latencies_ms {
            (0..3).for_each(|_| log.note(Duration::from_millis(ms)));
        }
        let counts = Stats {
            retries: 3,
            ledger_replies: 10,
            statuses: [1, 0, 0, 0, 0, 0, 0, 2],
            in_flight: 4,
            cost: Some(1.5),
            ..Stats::default()
        };
        counts.with_latencies(log.read())
    }

    /// Within the width of a bucket.
    fn close(seconds: f64, expected: f64) -> bool {
        (seconds / expected - 1.0).abs() < 0.06
    }

    #[test]
    fn two_judges_add_up_and_so_do_their_latencies() {
        let both = stats(&[100, 200]).plus(&stats(&[300, 400, 500]));
        assert_eq!(
            (both.retries, both.ledger_replies, both.in_flight),
            (6, 20, 8)
        );
        assert_eq!(both.statuses, [2, 0, 0, 0, 0, 0, 0, 4]);
        assert_eq!(both.cost, Some(3.0));
        assert!(close(both.latency_p50_s, 0.3), "{both:?}");
        assert!(close(both.latency_p99_s, 0.5), "{both:?}");
        let without = Stats {
            cost: None,
            ..stats(&[])
        };
        assert_eq!(both.plus(&without).cost, None);
    }

    #[test]
    fn what_was_counted_before_is_taken_off_and_gauges_stay() {
        let before = Stats {
            retries: 2,
            statuses: [1, 0, 0, 0, 0, 0, 0, 0],
            cost: Some(1.0),
            ..stats(&[100, 200])
        };
        let step = stats(&[100, 200, 1000, 2000]).since(&before);
        assert_eq!(
            (step.retries, step.ledger_replies, step.in_flight),
            (1, 10, 4)
        );
        assert_eq!(step.statuses, [0, 0, 0, 0, 0, 0, 0, 2]);
        assert_eq!(step.cost, Some(0.5));
        assert!(close(step.latency_p50_s, 1.0), "{step:?}");
        assert!(close(step.latency_p95_s, 2.0), "{step:?}");
        let idle = stats(&[100]).since(&stats(&[100]));
        assert!(idle.latency_p50_s.abs() < 1e-12);
    }

    #[test]
    fn every_count_is_on_the_page() {
        let mut page = Page::default();
        stats(&[]).write(&mut page);
        let page = page.finish();
        assert!(
            page.contains(
                "# TYPE exprl_judge_retries_total counter\nexprl_judge_retries_total 3\n"
            )
        );
        assert!(
            page.contains(
                "# TYPE exprl_judge_ledger_replies gauge\nexprl_judge_ledger_replies 10\n"
            )
        );
        assert_eq!(page.matches("# HELP").count(), Stats::COUNTERS.len());
    }
}
