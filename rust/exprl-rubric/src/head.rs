//! The layout of a request, written and read back in one place.
//!
//! ```text
//! {rubric}
//!
//! <problem-HEX>
//! {problem}
//! </problem-HEX>
//! <reference-HEX>            (left out without a reference)
//! {reference}
//! </reference-HEX>
//! <checklist-HEX>            (only with a rubric of the problem's own)
//! {checklist}
//! </checklist-HEX>
//! <prefix-HEX>               (or outcome, step: the view)
//! {trace}
//! </prefix-HEX>
//!
//! {instruction}
//! ```
//!
//! With [`Layout::ReferenceLast`] the reference stands after the trace, between it and the instruction.

use std::borrow::Cow;
use std::fmt::Write;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use strum::{IntoStaticStr, VariantArray};

use crate::View;
use crate::fence::{Fence, FenceKey};
use crate::neutralize::neutralize_after;

/// Where the reference stands in a request.
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
pub enum Layout {
    /// Before the trace: all requests of a problem share it, and a prefix cache holds it once.
    #[default]
    ReferenceFirst,
    /// After the trace, as in the paper's published prompts: each request computes it anew.
    ReferenceLast,
}

/// Version of the layout below and of what `neutralize` does, part of a ledger key: raise it when any
/// request's bytes change.
pub const LAYOUT_VERSION: u32 = 1;

/// Hex digits of a fence.
const FENCE_LEN: usize = 16;
const PROBLEM_TAG: &str = "<problem-";
/// No line with a tag is longer.
const TAG_LINE: usize = 32;

/// What all requests of one problem share: the text before and after the trace.
///
/// A request's user message is `text + neutralize(trace) + tail`. Text and tail have a part that all
/// problems share and one of their own: `text = rubric + blocks`, `tail = close + instruction`.
#[derive(Debug, Clone)]
pub struct Head {
    rubric: Arc<str>,
    blocks: String,
    close: String,
    instruction: Arc<str>,
    fence: Fence,
}

impl Head {
    pub(crate) fn new(
        (view, layout): (View, Layout),
        rubric: &Arc<str>,
        instruction: &Arc<str>,
        key: &FenceKey,
        (problem, reference): (&str, Option<&str>),
        checklist: Option<&str>,
    ) -> Self {
        let fence = key.fence(problem, reference);
        let (first, last) = match layout {
            Layout::ReferenceFirst => (reference, None),
            Layout::ReferenceLast => (None, reference),
        };
        let parts = [
            ("problem", Some(problem)),
            ("reference", first),
            ("checklist", checklist),
        ];
        let tag = view.name();
        let after = blocks(&[("reference", last)], fence.digits());
        let mut blocks = blocks(&parts, fence.digits());
        // Writing to a string cannot fail.
        let _ = writeln!(blocks, "<{tag}-{}>", fence.digits());
        Self {
            rubric: rubric.clone(),
            blocks,
            close: format!("\n</{tag}-{}>\n{after}\n", fence.digits()),
            instruction: instruction.clone(),
            fence,
        }
    }

    /// Everything before the trace: rubric, problem, reference (unless it comes last), opening fence.
    /// Byte-identical for a problem.
    #[must_use]
    pub fn text(&self) -> String {
        [&*self.rubric, &self.blocks].concat()
    }

    /// Everything after the trace: closing fence, a reference that comes last, and instruction.
    #[must_use]
    pub fn tail(&self) -> String {
        [&*self.close, &self.instruction].concat()
    }

    /// The part of the text that is of this problem: problem, reference (unless it comes last),
    /// checklist, opening fence.
    #[must_use]
    pub fn blocks(&self) -> &str {
        &self.blocks
    }

    /// The part of the tail that is of this problem: the closing fence, and a reference that comes last.
    #[must_use]
    pub fn close(&self) -> &str {
        &self.close
    }

    /// A keyed hash of problem and reference; the fence is its beginning.
    #[must_use]
    pub fn hash(&self) -> &[u8; 32] {
        self.fence.hash()
    }

    /// The 16 hex digits that only this problem's fence tags carry.
    #[must_use]
    pub fn fence(&self) -> &str {
        self.fence.digits()
    }

    /// The trace as the judge may see it: no role, turn or thinking marker and no fence in it is whole.
    ///
    /// For any cut, `neutralize(a + b) == neutralize(a) + neutralize_after(a, b)`.
    #[must_use]
    pub fn neutralize<'a>(&self, trace: &'a str) -> Cow<'a, str> {
        self.neutralize_after("", trace)
    }

    /// The next piece of a trace whose earlier part, not neutralized, is `before`, or ends with its last
    /// [`CONTEXT`](crate::CONTEXT) bytes: for traces that grow.
    #[must_use]
    pub fn neutralize_after<'a>(&self, before: &str, piece: &'a str) -> Cow<'a, str> {
        neutralize_after(before, piece, self.fence.digits())
    }
}

/// The parts that are there, each between its tags.
fn blocks(parts: &[(&str, Option<&str>)], fence: &str) -> String {
    let parts = parts.iter().filter_map(|(tag, body)| Some((tag, (*body)?)));
    let length = |(_, body): (_, &str)| 2 * TAG_LINE + body.len();
    let mut blocks = String::with_capacity(TAG_LINE + parts.clone().map(length).sum::<usize>());
    for (tag, body) in parts {
        let body = neutralize_after("", body, fence);
        // Writing to a string cannot fail.
        let _ = writeln!(blocks, "<{tag}-{fence}>\n{body}\n</{tag}-{fence}>");
    }
    blocks
}

/// A request that has no text under judgement: to write something about a problem and its reference.
pub(crate) fn writing_request(
    head: &str,
    instruction: &str,
    key: &FenceKey,
    problem: &str,
    reference: &str,
) -> String {
    let fence = key.fence(problem, Some(reference));
    let parts = [("problem", Some(problem)), ("reference", Some(reference))];
    format!(
        "{head}\n\n{}\n{instruction}",
        blocks(&parts, fence.digits())
    )
}

/// The parts of a request, borrowed from its user message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParsedRequest<'a> {
    /// What the judge is asked about.
    pub view: View,
    /// The problem as the judge sees it.
    pub problem: &'a str,
    /// The reference as the judge sees it; `None` in a request without one.
    pub reference: Option<&'a str>,
    /// The problem's own rubric, if the request holds one.
    pub checklist: Option<&'a str>,
    /// The neutralized trace: whole rollout, prefix or step.
    pub trace: &'a str,
    /// What the judge is told after the trace.
    pub instruction: &'a str,
}

/// Reads a user message back into its parts; `None` if it does not have the layout.
#[must_use]
pub fn parse_request(message: &str) -> Option<ParsedRequest<'_>> {
    let (problem, fence, rest) = parse_problem(message)?;
    let (reference, rest) = parse_block("reference", fence, rest);
    let (checklist, rest) = parse_block("checklist", fence, rest);
    View::ALL.iter().find_map(|view| {
        let tag = view.name();
        let body = rest.strip_prefix(&format!("<{tag}-{fence}>\n"))?;
        let (trace, rest) = body.split_once(&format!("\n</{tag}-{fence}>\n"))?;
        let (last, rest) = parse_block("reference", fence, rest);
        Some(ParsedRequest {
            view: *view,
            problem,
            reference: reference.or(last),
            checklist,
            trace,
            instruction: rest.strip_prefix('\n')?,
        })
    })
}

/// Reads problem and reference out of a request for a checklist; `None` if the message is none.
#[must_use]
pub fn parse_checklist_request(message: &str) -> Option<(&str, &str)> {
    let (problem, fence, rest) = parse_problem(message)?;
    let (reference, rest) = parse_block("reference", fence, rest);
    // Between the blocks and the instruction stands nothing but an empty line.
    rest.starts_with('\n').then_some((problem, reference?))
}

/// The problem, the fence, and what follows. The first problem tag comes before any text of a policy,
/// so its digits are the fence.
fn parse_problem(message: &str) -> Option<(&str, &str, &str)> {
    let rest = &message[message.find(PROBLEM_TAG)? + PROBLEM_TAG.len()..];
    let fence = rest
        .get(..FENCE_LEN)
        .filter(|f| f.bytes().all(|b| b.is_ascii_hexdigit()))?;
    let rest = rest[FENCE_LEN..].strip_prefix(">\n")?;
    let (problem, rest) = rest.split_once(&format!("\n</problem-{fence}>\n"))?;
    Some((problem, fence, rest))
}

/// The block if one is there, and what follows it.
fn parse_block<'a>(tag: &str, fence: &str, rest: &'a str) -> (Option<&'a str>, &'a str) {
    rest.strip_prefix(&format!("<{tag}-{fence}>\n"))
        .and_then(|body| body.split_once(&format!("\n</{tag}-{fence}>\n")))
        .map_or((None, rest), |(body, rest)| (Some(body), rest))
}
