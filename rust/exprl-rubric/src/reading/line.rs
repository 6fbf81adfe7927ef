//! The verdict that a line states, if it states one.

use super::Reading;
use super::label::{Join, Label, first_of, strip_join, strip_label};
use super::marks::{is_emphasis, opens_quotation, split_tag, strip_front, strip_whole_word};
use super::object::Object;
use super::value::{grade_value, strip_scale};

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
    fn at_most(self, form: Form) -> Self {
        Self {
            form: self.form.max(form),
            ..self
        }
    }

    /// Only a grade counts, and only beside an earlier verdict.
    fn remark(self) -> Option<Self> {
        matches!(self.reading, Reading::Grade(_)).then(|| self.at_most(Form::Remark))
    }
}

/// Words before a verdict that leave it one.
const OPENERS: [&str; 29] = [
    "so",
    "thus",
    "hence",
    "therefore",
    "consequently",
    "accordingly",
    "overall",
    "finally",
    "now",
    "and",
    "but",
    "that",
    "in conclusion",
    "in summary",
    "in total",
    "on reflection",
    "on second thought",
    "on second thoughts",
    "conclusion",
    "final answer",
    "answer",
    "result",
    "i think",
    "i believe",
    "i conclude",
    "i would say",
    "i'd say",
    "i say",
    "final verdict",
];
/// Those that take something back: the number after them counts without a label.
const REVISIONS: [&str; 12] = [
    "correction",
    "corrected",
    "revision",
    "revised",
    "edit",
    "update",
    "updated",
    "actually",
    "wait",
    "no",
    "instead",
    "make it",
];
/// No verdict has more of them.
const MOST_OPENERS: usize = 3;
const VERBS: [&str; 14] = [
    "give", "rate", "score", "grade", "assign", "award", "change", "revise", "raise", "lower",
    "update", "correct", "set", "settle",
];
const NOUNS: [&str; 3] = ["score", "grade", "rating"];
/// What may stand between the verb and the grade.
const SMALL_WORDS: [&str; 28] = [
    "would",
    "will",
    "d",
    "ll",
    "now",
    "therefore",
    "thus",
    "then",
    "hence",
    "have",
    "to",
    "it",
    "this",
    "that",
    "the",
    "text",
    "solution",
    "response",
    "trace",
    "attempt",
    "a",
    "an",
    "my",
    "of",
    "at",
    "on",
    "as",
    "from",
];

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
}

/// The value that a label on an earlier line has announced, if the line holds nothing else.
pub(super) fn read_value(line: &str) -> Option<Verdict<'_>> {
    let line = line.trim_start_matches(|c: char| c == '>' || c.is_whitespace());
    let (reading, digit) = grade_value(strip_front(line))?;
    matches!(reading, Reading::Grade(_)).then(|| Verdict::new(Form::Other, reading, Some(digit)))
}

fn read_labelled(rest: &str) -> Option<Verdict<'_>> {
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

/// `Therefore, my score is 5`, `Correction: 5`.
fn read_opened(line: &str) -> Option<Verdict<'_>> {
    let (mut rest, mut revises) = (line, false);
    for _ in 0..MOST_OPENERS {
        let revision = first_of(&REVISIONS, rest, strip_whole_word);
        let Some(after) = revision.or_else(|| first_of(&OPENERS, rest, strip_whole_word)) else {
            break;
        };
        revises |= revision.is_some();
        rest = after.trim_start_matches(|c: char| {
            is_emphasis(c) || matches!(c, ',' | ':' | ';' | '.' | '-' | '–' | '—' | '…')
        });
        if let Some(verdict) = read_labelled(rest) {
            return Some(verdict.at_most(Form::Other));
        }
        if rest.starts_with('{') {
            return Some(Object::read(rest)?.verdict()?.at_most(Form::Other));
        }
    }
    let value =
        revises.then(|| first_of(&["to", "a", "an"], rest, strip_whole_word).unwrap_or(rest))?;
    read_value(value)?.remark()
}

/// `I would give it a 5`, `I raise my score from 2 to 5`.
fn read_personal(line: &str) -> Option<Verdict<'_>> {
    let mut rest = strip_whole_word(line, "i")?;
    let (mut verb, mut noun) = (false, false);
    loop {
        let word = rest.trim_start_matches(|c: char| !c.is_alphanumeric());
        if word.starts_with(char::is_numeric) {
            let (reading, digit) = grade_value(word)?;
            let grades = matches!(reading, Reading::Grade(_));
            return (verb && (noun || grades))
                .then(|| Verdict::new(Form::Remark, reading, Some(digit)));
        }
        let is_verb = first_of(&VERBS, word, strip_whole_word);
        let is_noun = first_of(&NOUNS, word, strip_whole_word).filter(|_| verb);
        verb |= is_verb.is_some();
        noun |= is_noun.is_some();
        rest = is_verb
            .or(is_noun)
            .or_else(|| first_of(&SMALL_WORDS, word, strip_whole_word))?;
    }
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

/// A line that is nothing but a grade in a box, in emphasis, in double brackets or with its scale.
fn read_dressed(line: &str) -> Option<Verdict<'_>> {
    let dress = ["**", "__", "\\boxed", "$", "\\(", "\\[", "[["];
    let dressed = dress.iter().any(|dress| line.starts_with(dress));
    let verdict = read_value(line)?;
    let scaled = || strip_scale(&verdict.digit.unwrap_or_default()[1..]).is_some();
    let bare = |c: char| c.is_ascii_digit() || c.is_whitespace() || c.is_ascii_punctuation();
    let words = line.replace("boxed", "").replace("out of", "");
    ((dressed || scaled()) && words.chars().all(bare)).then(|| verdict.at_most(Form::Remark))
}
