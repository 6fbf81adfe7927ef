//! Judge prompts from templates, and grades from judge replies.
//!
//! A request to the judge is one user message, laid out for prefix caching:
//!
//! ```text
//! [rubric, problem, reference, checklist: byte-identical per problem][trace, append-only][instruction]
//! ```
//!
//! [`Layout::ReferenceLast`] puts the reference after the trace, as the paper's published prompts do.
//!
//! ```
//! use exprl_rubric::{FenceKey, Reading, Rubric, View, read_grade};
//!
//! let rubric = Rubric::builtin("math", View::Prefix)?;
//! let key = FenceKey::new([7; 32]);
//! let head = rubric.head(&key, "What is 2 + 2?", Some("2 + 2 = 4"));
//! let message = format!("{}{}{}", head.text(), head.neutralize("I add. "), head.tail());
//! assert!(message.ends_with("`Score: n`, where n is 1, 2, 3, 4 or 5."));
//! assert_eq!(read_grade("It follows the reference.\nScore: 4"), Reading::Grade(4));
//! # Ok::<(), exprl_rubric::Error>(())
//! ```

mod checklist;
mod fence;
mod head;
mod neutralize;
mod reading;
mod rubric;
mod score;

pub use checklist::{Checklist, Checklists, Checkpoint, Entry};
pub use exprl_texts::{drop_thinking, open_thinking, outside_thinking};
pub use fence::FenceKey;
pub use head::{
    Head, LAYOUT_VERSION, Layout, ParsedRequest, parse_checklist_request, parse_request,
};
pub use neutralize::CONTEXT;
pub use reading::{Reading, grade_place, is_complete, read_grade};
pub use rubric::Rubric;
pub use score::{Readout, ScoreMap};

use exprl_texts as thinking;
use serde::{Deserialize, Serialize};
use strum::{IntoStaticStr, VariantArray};

/// What the judge sees of a rollout in one request.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, IntoStaticStr, VariantArray,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum View {
    /// The whole rollout; one request per rollout.
    Outcome,
    /// Everything up to the end of segment t; one request per segment (the paper's definition).
    Prefix,
    /// Segment t alone; one request per segment (the paper's published code).
    Step,
}

impl View {
    /// Every view.
    pub const ALL: &[Self] = Self::VARIANTS;

    /// The view's name: `outcome`, `prefix` or `step`. It is also the tag that fences the text
    /// under judgement, so the view can be read from a request.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// A rubric that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The rubric file is not TOML with the fields `head` and `instruction`.
    #[error(
        "rubric file: {0}\na rubric file has two strings, `head` and `instruction`, and may have a third, `direct_instruction`"
    )]
    File(#[from] toml::de::Error),
    /// A template does not parse, or names a variable that does not exist.
    #[error(
        "rubric field `{field}`: {message}\nvariables are `has_reference` and `has_checklist` (bool) and `view` (`outcome`, `prefix`, `step`)"
    )]
    Template {
        /// `head`, `instruction` or `direct_instruction`.
        field: &'static str,
        /// What the template engine says, with the line.
        message: String,
    },
    /// The instruction does not ask for the line that the grade is read from.
    #[error("rubric field `instruction` must ask for a last line `Score: n`, but it says {0:?}")]
    NoScoreLine(String),
    /// The head holds a tag that fences the parts of a request.
    #[error("rubric field `{field}` must not contain {tag:?}: the layout writes this tag itself")]
    ReservedTag {
        /// `head`, `instruction` or `direct_instruction`.
        field: &'static str,
        /// The tag found.
        tag: &'static str,
    },
}
