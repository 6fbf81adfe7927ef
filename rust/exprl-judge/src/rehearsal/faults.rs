//! Seeded faults: what a request meets is decided by its content, so every run meets the same.

use super::Error;

/// How often the judge misbehaves, as shares of the distinct contents asked about.
///
/// Each kind is drawn on its own from a hash of the seed and of what is asked: view, problem, reference
/// and trace, without the fence and the rubric.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Faults {
    /// Changes which contents are hit.
    pub seed: u64,
    /// Answered 429 with `Retry-After` on the first attempt.
    pub too_many_requests_rate: f64,
    /// The `Retry-After` of a 429.
    pub retry_after_s: u32,
    /// Answered 500 on the first attempt, or on the second one after a 429.
    pub server_error_rate: f64,
    /// Answered in prose without a grade, always, to a re-ask as well.
    pub no_grade_rate: f64,
    /// Graded 1..5 uniformly instead of by the rule, always the same for a content.
    pub random_rate: f64,
    /// Time before an answer.
    pub latency_ms: u64,
    /// Time on top of it, at most; uniform over contents.
    pub jitter_ms: u64,
}

impl Default for Faults {
    /// No faults; a 429 would ask for one second.
    fn default() -> Self {
        Self {
            seed: 0,
            too_many_requests_rate: 0.0,
            retry_after_s: 1,
            server_error_rate: 0.0,
            no_grade_rate: 0.0,
            random_rate: 0.0,
            latency_ms: 0,
            jitter_ms: 0,
        }
    }
}

/// What a content meets, whenever and however often it is asked about.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Fate {
    pub(super) too_many_requests: bool,
    pub(super) server_error: bool,
    pub(super) no_grade: bool,
    pub(super) random_grade: Option<u8>,
    pub(super) delay_ms: u64,
}

impl Faults {
    /// Refuses rates that are no shares.
    pub(super) fn check(&self) -> Result<(), Error> {
        [
            ("too_many_requests_rate", self.too_many_requests_rate),
            ("server_error_rate", self.server_error_rate),
            ("no_grade_rate", self.no_grade_rate),
            ("random_rate", self.random_rate),
        ]
        .into_iter()
        .find(|(_, rate)| !(0.0..=1.0).contains(rate))
        .map_or(Ok(()), |(name, rate)| Err(Error::Rate { name, rate }))
    }

    pub(super) fn fate(&self, content: &[u8; 32]) -> Fate {
        let draw = |kind| uniform(self.seed, kind, content);
        let random_grade = 1 + (draw("random grade") * 5.0) as u8;
        Fate {
            too_many_requests: draw("429") < self.too_many_requests_rate,
            server_error: draw("500") < self.server_error_rate,
            no_grade: draw("no grade") < self.no_grade_rate,
            random_grade: (draw("random") < self.random_rate).then_some(random_grade),
            delay_ms: self.latency_ms + (draw("jitter") * self.jitter_ms as f64) as u64,
        }
    }
}

/// A number in [0, 1) from a hash.
fn uniform(seed: u64, kind: &str, content: &[u8; 32]) -> f64 {
    let mut hasher = blake3::Hasher::new_keyed(content);
    hasher.update(&seed.to_le_bytes()).update(kind.as_bytes());
    let mut bits = [0; 8];
    hasher.finalize_xof().fill(&mut bits);
    // The 53 bits that a float holds exactly.
    (u64::from_le_bytes(bits) >> 11) as f64 / (1_u64 << 53) as f64
}
