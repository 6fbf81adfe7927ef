//! The rules by which a text is cut into steps.

use crate::delimiter::Delimiter;
use crate::{Error, is_blank, lines};

/// Where a new step starts. No rule makes a step of white space only.
#[derive(Clone, Debug)]
pub struct Rule(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Delimiter(Box<Delimiter>),
    Heading,
    Paragraph,
    Line,
}

impl Rule {
    /// The names of the rules.
    pub const NAMES: [&str; 4] = ["delimiter", "heading", "paragraph", "line"];

    /// The rule of this name; `delimiter` is the text that the rule of that name looks for.
    ///
    /// A delimiter made of one repeated character matches every run that is at least as long
    /// (`#####` is one `###`); any other delimiter matches exactly, without overlap.
    pub fn new(name: &str, delimiter: &str) -> Result<Self, Error> {
        Ok(Self(match name {
            "delimiter" => Kind::Delimiter(Box::new(Delimiter::new(delimiter)?)),
            "heading" => Kind::Heading,
            "paragraph" => Kind::Paragraph,
            "line" => Kind::Line,
            _ => return Err(Error::UnknownRule(name.to_owned())),
        }))
    }

    /// Where the steps of `text` start, in bytes; the first is 0.
    ///
    /// Marks are ASCII or UTF-8, so they lie at the same places in `text` and in its lossy form.
    pub(crate) fn step_starts(&self, text: &[u8]) -> Vec<usize> {
        let starts = match &self.0 {
            Kind::Delimiter(delimiter) => delimiter.step_starts(text),
            Kind::Heading => lines::headings(text),
            Kind::Paragraph => lines::paragraphs(text),
            Kind::Line => lines::lines(text),
        };
        let shown = shown(text, &starts);
        pick(starts, &shown)
    }
}

/// Which steps count: one of white space is no step, but part of the one before it, and at the start
/// of the text of the one after it.
pub(crate) fn shown(text: &[u8], starts: &[usize]) -> Vec<bool> {
    let mut seen_text = false;
    let ends = starts[1..].iter().copied().chain([text.len()]);
    let spans = starts.iter().zip(ends).enumerate();
    spans
        .map(|(index, (&start, end))| {
            let has_text = !is_blank(&text[start..end]);
            let counts = index == 0 || (has_text && seen_text);
            seen_text |= has_text;
            counts
        })
        .collect()
}

/// The starts that count.
pub(crate) fn pick(starts: Vec<usize>, shown: &[bool]) -> Vec<usize> {
    let pairs = starts.into_iter().zip(shown);
    pairs
        .filter_map(|(start, &shown)| shown.then_some(start))
        .collect()
}
