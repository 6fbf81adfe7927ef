//! What the rehearsal judge has counted.

use std::collections::HashMap;

use serde::Serialize;

use super::faults::Fate;

/// Counts since the start. Faults are counted once per distinct content, requests each time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Requests to `/v1/chat/completions`, whatever became of them.
    pub requests: u64,
    /// Distinct contents among the well-formed ones.
    pub distinct: u64,
    /// Requests that were not well-formed: answered 4xx.
    pub bad_requests: u64,
    /// Well-formed requests without the layout of a grading request: answered in prose.
    pub not_grading: u64,
    /// Requests that continue a begun reply.
    pub re_asks: u64,
    /// Replies with grade 1, 2, 3, 4, 5.
    pub grades: [u64; 5],
    /// Contents that met a 429.
    pub too_many_requests: u64,
    /// Contents that met a 500.
    pub server_errors: u64,
    /// Contents that never get a grade.
    pub no_grade: u64,
    /// Contents graded at random.
    pub random_grades: u64,
    /// Prompt tokens of all replies, as in their `usage`.
    pub prompt_tokens: u64,
    /// Reply tokens, as in their `usage`.
    pub completion_tokens: u64,
}

/// An answer that is no reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outage {
    TooManyRequests,
    ServerError,
}

/// The counts, and the attempts at each content.
#[derive(Debug, Default)]
pub(super) struct Book {
    pub(super) stats: Stats,
    attempts: HashMap<[u8; 32], u32>,
}

impl Book {
    /// Writes down an attempt at a content; returns the transient fault that it meets.
    pub(super) fn attempt(&mut self, content: [u8; 32], fate: Fate) -> Option<Outage> {
        let attempts = self.attempts.entry(content).or_default();
        let attempt = *attempts;
        *attempts = attempt.saturating_add(1);
        if attempt == 0 {
            self.stats.distinct += 1;
            self.stats.no_grade += u64::from(fate.no_grade);
            self.stats.random_grades += u64::from(!fate.no_grade && fate.random_grade.is_some());
        }
        let outages = [
            fate.too_many_requests.then_some(Outage::TooManyRequests),
            fate.server_error.then_some(Outage::ServerError),
        ];
        let outage = outages.into_iter().flatten().nth(attempt as usize);
        match outage {
            Some(Outage::TooManyRequests) => self.stats.too_many_requests += 1,
            Some(Outage::ServerError) => self.stats.server_errors += 1,
            None => {}
        }
        outage
    }
}
