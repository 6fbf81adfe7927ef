//! What goes in and what comes out.

use std::ops::Deref;
use std::sync::Arc;

use exprl_rubric::Checklist;
use serde::{Deserialize, Serialize};
use strum::{IntoStaticStr, VariantArray};

/// One rollout to grade. Its texts are of any type that lends a `str`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item<T = Arc<str>> {
    /// The caller's name for it; it comes back in `Graded`.
    pub id: String,
    /// The problem, as the policy saw it.
    pub problem: T,
    /// The hidden reference solution; `None` asks the judge to grade without one.
    pub reference: Option<T>,
    /// The rollout's text, cut at the steps; the pieces joined are the whole trace. At least one.
    pub segments: Vec<T>,
    /// Selects the built-in rubric, such as `math`.
    pub domain: String,
    /// The problem's own rubric: what to check instead of what the judge would take from the reference.
    pub checklist: Option<Arc<Checklist>>,
}

impl<T: Deref<Target = str>> Item<T> {
    /// Bytes of text in it.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let reference = self.reference.as_ref().map_or(0, |text| text.len());
        self.problem.len() + reference + self.segments.iter().map(|text| text.len()).sum::<usize>()
    }
}

/// How one request ended. Only `Ok` and `Repaired` carry a grade.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, IntoStaticStr, VariantArray,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Status {
    /// The reply holds a grade, or the checklist that was asked for.
    Ok,
    /// The reply held none; asked to go on after `Score:`, the judge gave one.
    Repaired,
    /// The reply holds no grade, or more than one.
    Unparseable,
    /// The judge declined, or its content filter did.
    Refused,
    /// The reply reached the token limit before a grade.
    Truncated,
    /// No reply in time: the last attempt's timeout, or the batch's deadline.
    Timeout,
    /// No reply: the server refused the request or all attempts failed.
    HttpError,
    /// The job was cancelled first.
    Cancelled,
}

impl Status {
    /// Every status.
    pub const ALL: &[Self] = Self::VARIANTS;

    /// Its name in JSON and Python, such as `http_error`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// What became of one request.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// How it ended.
    pub status: Status,
    /// The judge's grade, 1..=5; `None` unless the status is `Ok` or `Repaired`.
    pub grade: Option<u8>,
    /// The score in [0, 1]; `None` without a grade, and for grades that the score map leaves out.
    pub score: Option<f64>,
    /// The judge's words; empty if there was no reply.
    pub reply: String,
    /// Why there is no grade, and what to change.
    pub error: Option<String>,
    /// Tokens that the server counted in the prompt (0 if it did not say).
    pub prompt_tokens: u64,
    /// Tokens that the judge wrote.
    pub completion_tokens: u64,
    /// Prompt tokens that the server had in its prefix cache.
    pub cached_tokens: u64,
    /// HTTP requests sent for it, repeats and the re-ask included; 0 from the ledger.
    pub attempts: u32,
    /// The endpoint that was asked last; `None` if none was.
    pub server: Option<Arc<str>>,
    /// Seconds from the first request sent to the end, waits included.
    pub latency_s: f64,
    /// Answered by the ledger, or by an equal request in flight: nothing was sent for it.
    pub from_cache: bool,
    /// 64 hex digits under which a ledger keeps the reply; `None` without one.
    pub key: Option<String>,
}

impl Verdict {
    /// A verdict without a reply.
    pub(crate) fn without_reply(status: Status, error: impl Into<String>) -> Self {
        Self {
            status,
            grade: None,
            score: None,
            reply: String::new(),
            error: Some(error.into()),
            prompt_tokens: 0,
            completion_tokens: 0,
            cached_tokens: 0,
            attempts: 0,
            server: None,
            latency_s: 0.0,
            from_cache: false,
            key: None,
        }
    }
}

/// One item, judged.
#[derive(Debug, Clone, PartialEq)]
pub struct Graded {
    /// The item's place in the order of pushes, from 0.
    pub index: usize,
    /// The item's own id.
    pub id: String,
    /// One verdict for `outcome`; one per segment, in order, for `prefix` and `step`.
    pub verdicts: Vec<Verdict>,
}
