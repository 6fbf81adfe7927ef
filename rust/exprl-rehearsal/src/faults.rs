//! Seeded faults: what a request meets is decided by its content, so every run meets the same.

use serde::Deserialize;

use crate::error::Error;

/// How often the judge misbehaves, as shares of the distinct contents asked about, and how slow it is.
///
/// Each kind is drawn on its own from a hash of the seed and of what is asked: view, problem, reference
/// and trace, without the fence and the rubric. The transient kinds come one after the other, in the order
/// of the fields; a content that has met all of its own is answered from then on.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// Changes which contents are hit.
    pub seed: u64,
    /// Transient: answered 429 with `Retry-After`.
    pub rate_limit_rate: f64,
    /// The `Retry-After` of a 429.
    pub retry_after_s: u32,
    /// Transient: answered 500.
    pub error_rate: f64,
    /// Transient: the connection closes in the middle of the answer.
    pub cut_rate: f64,
    /// Transient: no answer, for ever; half of these contents get the first half of one before that.
    pub hang_rate: f64,
    /// Answered in prose without a grade, always, to a re-ask as well.
    pub no_grade_rate: f64,
    /// Graded in words ("four out of five") and without a score line; a re-ask gets the digit.
    pub prose_rate: f64,
    /// Graded 1..5 uniformly instead of by the rule, always the same for a content.
    pub random_rate: f64,
    /// Probability of the neighbouring grades at the digit; only log-probabilities show it.
    pub doubt: f64,
    /// Time before an answer.
    pub latency_ms: u64,
    /// Time on top of it, at most; uniform over contents.
    pub jitter_ms: u64,
    /// Time between two tokens of a streamed answer.
    pub token_ms: u64,
}

impl Default for Faults {
    /// No faults and no delay; a 429 would ask for one second.
    fn default() -> Self {
        Self {
            seed: 0,
            rate_limit_rate: 0.0,
            retry_after_s: 1,
            error_rate: 0.0,
            cut_rate: 0.0,
            hang_rate: 0.0,
            no_grade_rate: 0.0,
            prose_rate: 0.0,
            random_rate: 0.0,
            doubt: 0.0,
            latency_ms: 0,
            jitter_ms: 0,
            token_ms: 0,
        }
    }
}

/// A fault that passes: the next attempt meets the next one, or an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outage {
    RateLimit,
    Error,
    Cut,
    /// Nothing is sent.
    Silence,
    /// Half an answer is sent.
    Stall,
}

/// What a content meets, whenever and however often it is asked about.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Fate {
    /// In the order in which they are met.
    pub(crate) outages: [Option<Outage>; 4],
    pub(crate) no_grade: bool,
    pub(crate) prose: bool,
    pub(crate) random_grade: Option<u8>,
    pub(crate) delay_ms: u64,
}

impl Faults {
    /// Refuses rates that are no shares.
    pub(crate) fn check(&self) -> Result<(), Error> {
        [
            ("rate_limit_rate", self.rate_limit_rate),
            ("error_rate", self.error_rate),
            ("cut_rate", self.cut_rate),
            ("hang_rate", self.hang_rate),
            ("no_grade_rate", self.no_grade_rate),
            ("prose_rate", self.prose_rate),
            ("random_rate", self.random_rate),
            ("doubt", self.doubt),
        ]
        .into_iter()
        .find(|(_, rate)| !(0.0..=1.0).contains(rate))
        .map_or(Ok(()), |(name, rate)| Err(Error::Rate { name, rate }))
    }

    pub(crate) fn fate(&self, content: &[u8; 32]) -> Fate {
        let draw = |kind| uniform(self.seed, kind, content);
        let hang = if draw("hang half-way") < 0.5 {
            Outage::Stall
        } else {
            Outage::Silence
        };
        let random_grade = 1 + (draw("random grade") * 5.0) as u8;
        Fate {
            outages: [
                (draw("429") < self.rate_limit_rate).then_some(Outage::RateLimit),
                (draw("500") < self.error_rate).then_some(Outage::Error),
                (draw("cut") < self.cut_rate).then_some(Outage::Cut),
                (draw("hang") < self.hang_rate).then_some(hang),
            ],
            no_grade: draw("no grade") < self.no_grade_rate,
            prose: draw("prose") < self.prose_rate,
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
