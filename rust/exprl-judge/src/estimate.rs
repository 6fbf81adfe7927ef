//! What is learnt from answers: tokens per byte, and how long a server usually takes.

use std::time::Duration;

use crate::reply::Usage;

/// Tokens of a request before it is answered, from its bytes and the usage of earlier ones.
pub(crate) struct TokenEstimate {
    bytes: f64,
    prompt: f64,
    replies: f64,
    completion: f64,
}

impl TokenEstimate {
    /// After so many replies the older half counts for less.
    const MEMORY: f64 = 512.0;

    /// English text and JSON in the usual vocabularies take about four bytes per token; that counts as
    /// much as the first real answer.
    pub(crate) fn new(max_tokens: u32) -> Self {
        Self {
            bytes: 4000.0,
            prompt: 1000.0,
            replies: 1.0,
            completion: f64::from(max_tokens.min(256)),
        }
    }

    /// A server counted the tokens of a body.
    pub(crate) fn learn(&mut self, bytes: usize, usage: Usage) {
        if usage.prompt == 0 {
            return;
        }
        if self.replies >= Self::MEMORY {
            for sum in [
                &mut self.bytes,
                &mut self.prompt,
                &mut self.replies,
                &mut self.completion,
            ] {
                *sum /= 2.0;
            }
        }
        self.bytes += bytes as f64;
        self.prompt += usage.prompt as f64;
        self.replies += 1.0;
        self.completion += usage.completion as f64;
    }

    pub(crate) fn prompt(&self, bytes: usize) -> u64 {
        (bytes as f64 * self.prompt / self.bytes).ceil() as u64
    }

    /// Tokens of one reply.
    pub(crate) fn completion(&self) -> u64 {
        (self.completion / self.replies).ceil() as u64
    }
}

/// When an answer is late: recent times to the first byte, of one server.
#[derive(Default)]
pub(crate) struct Lateness {
    recent: Vec<Duration>,
    next: usize,
    /// The limit, and how many answers had come when it was worked out.
    late: Option<(Duration, usize)>,
}

impl Lateness {
    const MEMORY: usize = 256;
    /// Fewer answers do not tell what is usual.
    const LEAST: usize = 20;
    /// So many answers later the limit is worked out anew.
    const RENEW: usize = 16;

    pub(crate) fn note(&mut self, first_byte: Duration) {
        if self.recent.len() < Self::MEMORY {
            self.recent.push(first_byte);
        } else {
            self.recent[self.next % Self::MEMORY] = first_byte;
        }
        self.next += 1;
    }

    /// An answer without a byte after max(p99, 3 x median) is late; `None` before enough are known.
    pub(crate) fn late(&mut self) -> Option<Duration> {
        if self.next < Self::LEAST {
            return None;
        }
        match self.late {
            Some((late, then)) if self.next < then + Self::RENEW => Some(late),
            _ => {
                let mut sorted = self.recent.clone();
                sorted.sort_unstable();
                let p99 = sorted[(sorted.len() * 99).div_ceil(100) - 1];
                let late = p99.max(3 * sorted[sorted.len() / 2]);
                self.late = Some((late, self.next));
                Some(late)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_per_byte_follow_what_servers_count() {
        let mut estimate = TokenEstimate::new(2048);
        assert_eq!(estimate.prompt(4000), 1000);
        assert_eq!(estimate.completion(), 256);
        for _ in 0..2000 {
            let usage = Usage {
                prompt: 1500,
                completion: 20,
                cached: 0,
            };
            estimate.learn(3000, usage);
        }
        assert!(
            (1995..=2000).contains(&estimate.prompt(4000)),
            "{}",
            estimate.prompt(4000)
        );
        assert!((20..=21).contains(&estimate.completion()));
        // Another vocabulary takes over; a server that counts nothing teaches nothing.
        for _ in 0..2000 {
            let usage = Usage {
                prompt: 750,
                ..Usage::default()
            };
            estimate.learn(3000, usage);
            estimate.learn(3000, Usage::default());
        }
        assert!(
            (1000..1150).contains(&estimate.prompt(4000)),
            "{}",
            estimate.prompt(4000)
        );
    }

    #[test]
    fn late_is_beyond_the_99th_percentile_and_thrice_the_median() {
        let ms = Duration::from_millis;
        let mut steady = Lateness::default();
        (0..19).for_each(|_| steady.note(ms(10)));
        assert_eq!(steady.late(), None);
        steady.note(ms(10));
        assert_eq!(steady.late(), Some(ms(30)));
        let mut spread = Lateness::default();
        (1..=200).for_each(|i| spread.note(ms(i * i)));
        let late = spread.late().unwrap();
        assert!(late > ms(35_000) && late < ms(40_000), "{late:?}");
        (0..1000).for_each(|_| spread.note(ms(1)));
        assert_eq!(spread.late(), Some(ms(3)), "the old times are forgotten");
    }
}
