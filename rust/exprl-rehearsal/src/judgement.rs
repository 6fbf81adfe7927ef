//! What a rule answers.

/// A grade and the reason for it, in the judge's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// 1..=5.
    pub grade: u8,
    /// One line, without a score in it.
    pub reason: String,
}

impl Judgement {
    pub(crate) fn new(grade: u8, reason: impl Into<String>) -> Self {
        Self {
            grade,
            reason: reason.into(),
        }
    }
}
