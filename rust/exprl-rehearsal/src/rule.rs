//! Which rule the judge grades by.

use std::fmt;
use std::str::FromStr;

use exprl_rubric::ParsedRequest;

use crate::judgement::Judgement;
use crate::{division, numbers};

/// Which rule the judge grades by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Long division by one digit (the miniature), strict: a wrong digit spoils every later prefix.
    Division,
    /// Values that the reference computes (GSM8K's `<<a*b=c>>`, numbers after `=`) and its final answer.
    Numbers,
}

impl Rule {
    /// Grades a request. Without a reference a rule cannot know: it says 3.
    #[must_use]
    pub fn judge(self, request: &ParsedRequest<'_>) -> Judgement {
        let Some(reference) = request.reference else {
            return Judgement::new(3, "There is no reference to compare with.");
        };
        match self {
            Self::Division => division::judge(request, reference),
            Self::Numbers => numbers::judge(request, reference),
        }
    }

    /// `division` or `numbers`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Division => "division",
            Self::Numbers => "numbers",
        }
    }
}

impl FromStr for Rule {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "division" => Ok(Self::Division),
            "numbers" => Ok(Self::Numbers),
            _ => Err(format!(
                "unknown rule {name:?}; the rules are division and numbers"
            )),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
