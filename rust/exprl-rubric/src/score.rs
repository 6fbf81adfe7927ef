//! Grades 1..5 to scores in [0, 1].

use serde::{Deserialize, Serialize};
use strum::{IntoStaticStr, VariantArray};

/// How a score is taken from the judge's reply.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    Default,
    Serialize,
    Deserialize,
    IntoStaticStr,
    VariantArray,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Readout {
    /// The grade of the last line `Score: n` of the reply.
    #[default]
    Text,
    /// The mean of the score map under the judge's probabilities of the tokens 1..5.
    Expected,
    /// The same at the first token of a reply that is the grade alone: the judge writes no reasons.
    Direct,
}

/// How a grade becomes a score (docs/concepts/method.md, "Grades and scores").
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    Default,
    Serialize,
    Deserialize,
    IntoStaticStr,
    VariantArray,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum ScoreMap {
    /// (grade - 1) / 4.
    #[default]
    Linear,
    /// 1 if the grade is at least 4, else 0.
    Binary,
    /// 0 for grade 1, 1 for grade 5, else missing.
    Extremes,
    /// Like `Extremes`, but grade 4 gives 0.8.
    ExtremesSoft,
}

impl ScoreMap {
    /// The score of a grade; `None` is a missing score, never a zero. A grade outside 1..5 has no score.
    #[must_use]
    pub fn score(self, grade: u8) -> Option<f64> {
        match (self, grade) {
            (Self::Linear, 1..=5) => Some(f64::from(grade - 1) / 4.0),
            (Self::Binary, 1..=5) => Some(if grade >= 4 { 1.0 } else { 0.0 }),
            (Self::Extremes | Self::ExtremesSoft, 1) => Some(0.0),
            (Self::Extremes | Self::ExtremesSoft, 5) => Some(1.0),
            (Self::ExtremesSoft, 4) => Some(0.8),
            _ => None,
        }
    }

    /// The mean score under the probabilities of the grades 1..5, which need not sum to 1.
    ///
    /// Grades without a score are left out and the rest renormalised; `None` if they hold half of
    /// the mass or more, if there is no mass, or if a probability is negative or not finite.
    #[must_use]
    pub fn expected(self, probs: &[f64; 5]) -> Option<f64> {
        if probs.iter().any(|p| !p.is_finite() || *p < 0.0) {
            return None;
        }
        let total: f64 = probs.iter().sum();
        let (mut mass, mut mean) = (0.0, 0.0);
        for (grade, p) in (1..=5).zip(probs) {
            if let Some(score) = self.score(grade) {
                mass += p;
                mean += p * score;
            }
        }
        (mass > total / 2.0).then(|| mean / mass)
    }
}
