//! The verdict that a line states, if it states one.

use super::Reading;
use super::join::{Join, strip_join};
use super::label::{Label, strip_label};
use super::marks::{opens_quotation, split_tag, strip_front};
use super::remark::{read_dressed, read_opened, read_personal, read_within};
use super::value::grade_value;

/// How a verdict is worded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Form {
    /// As the rubric asks for: `Score: 4`.
    Asked,
    /// In other words: `My grade is 4`.
    Other,
    /// So that it says something only beside an earlier verdict: a number alone in a box, `I raise it to 5`.
    Remark,
}

/// What a line says of the grade.
#[derive(Debug, Clone, Copy)]
pub(super) struct Verdict<'a> {
    pub(super) form: Form,
    /// `Grade`, `OutOfRange` or `Unreadable`.
    pub(super) reading: Reading,
    /// The line from the digit on.
    pub(super) digit: Option<&'a str>,
    /// The value may stand on the next line.
    pub(super) open: bool,
}

impl<'a> Verdict<'a> {
    pub(super) fn new(form: Form, reading: Reading, digit: Option<&'a str>) -> Self {
        Self {
            form,
            reading,
            digit,
            open: false,
        }
    }

    /// The same in a form that counts less.
    pub(super) fn at_most(self, form: Form) -> Self {
        Self {
            form: self.form.max(form),
            ..self
        }
    }

    /// Only a grade counts, and only beside an earlier verdict.
    pub(super) fn remark(self) -> Option<Self> {
        matches!(self.reading, Reading::Grade(_)).then(|| self.at_most(Form::Remark))
    }
}

/// The verdict of a line that is no JSON object.
pub(super) fn read_line(line: &str) -> Option<Verdict<'_>> {
    if line.starts_with('>') {
        return None;
    }
    let rest = strip_front(line);
    if rest.starts_with(opens_quotation) {
        return read_quoted(rest);
    }
    if let Some(inner) = rest.strip_prefix('(') {
        return read_labelled(strip_front(inner))?.remark();
    }
    read_labelled(rest)
        .or_else(|| read_opened(rest))
        .or_else(|| read_personal(rest))
        .or_else(|| read_tagged(rest))
        .or_else(|| read_dressed(line))
        .or_else(|| read_within(rest))
}

/// The value that a label on an earlier line has announced, if the line holds nothing else.
pub(super) fn read_value(line: &str) -> Option<Verdict<'_>> {
    let line = line.trim_start_matches(|c: char| c == '>' || c.is_whitespace());
    let (reading, digit) = grade_value(strip_front(line))?;
    matches!(reading, Reading::Grade(_)).then(|| Verdict::new(Form::Other, reading, Some(digit)))
}

pub(super) fn read_labelled(rest: &str) -> Option<Verdict<'_>> {
    let (label, after) = strip_label(rest)?;
    read_after(label, after)
}

fn read_after(label: Label, after: &str) -> Option<Verdict<'_>> {
    let (join, value) = strip_join(after)?;
    let (reading, digit) = match grade_value(value) {
        Some((reading, digit)) => (reading, Some(digit)),
        None => (Reading::Unreadable, None),
    };
    let form = match (label, join) {
        (Label::Asked, Join::Colon) => Form::Asked,
        _ => Form::Other,
    };
    let verdict = Verdict {
        open: join == Join::End,
        ..Verdict::new(form, reading, digit)
    };
    if label == Label::Loose || join == Join::Loose {
        return verdict.remark();
    }
    Some(verdict)
}

/// `"score": 4` is a line of an object; a verdict that is quoted whole may be the judge's own or not.
fn read_quoted(rest: &str) -> Option<Verdict<'_>> {
    let quote = rest.chars().next()?;
    let inner = &rest[quote.len_utf8()..];
    let key =
        strip_label(inner).and_then(|(label, after)| Some((label, after.strip_prefix(quote)?)));
    if let Some((label, after)) = key {
        let form = if quote == '"' {
            Form::Asked
        } else {
            Form::Other
        };
        return Some(read_after(label, after)?.at_most(form));
    }
    let inner = inner.trim_end_matches(|c| opens_quotation(c) || c == '.');
    read_labelled(strip_front(inner))?.remark()
}

/// `<score>5</score>`.
fn read_tagged(rest: &str) -> Option<Verdict<'_>> {
    let (name, inner) = split_tag(rest).filter(|_| !rest.starts_with("</"))?;
    strip_label(name).filter(|(label, rest)| rest.is_empty() && *label != Label::Loose)?;
    let inner = inner
        .split_once('<')
        .map_or(inner, |(inner, _)| inner)
        .trim();
    let (reading, digit) = match grade_value(inner) {
        Some((reading, digit)) => (reading, Some(digit)),
        None => (Reading::Unreadable, None),
    };
    Some(Verdict {
        open: inner.is_empty(),
        ..Verdict::new(Form::Other, reading, digit)
    })
}
