//! Sentences and signs that say a grade without a label at the start of the line.

use super::Reading;
use super::label::{Label, strip_label};
use super::line::{Form, Verdict, read_labelled, read_value};
use super::marks::{first_of, is_emphasis, strip_whole_word};
use super::object::Object;
use super::value::{grade_value, strip_scale};

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

/// `Therefore, my score is 5`, `Correction: 5`.
pub(super) fn read_opened(line: &str) -> Option<Verdict<'_>> {
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
pub(super) fn read_personal(line: &str) -> Option<Verdict<'_>> {
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

/// `Ignore that. Score: 4`, `Final: {"score": 4}`: what a line says of a verdict behind its beginning. It may be the
/// judge's own or not, so alone it says nothing, and beside a grade that differs there is none.
pub(super) fn read_within(line: &str) -> Option<Verdict<'_>> {
    read_sentence(line)
        .or_else(|| Object::read(&line[line.find('{')?..])?.verdict())
        .map(|verdict| verdict.at_most(Form::Remark))
}

/// The verdict of the first sentence in the line, after the one it begins with, that is a label and a colon.
fn read_sentence(line: &str) -> Option<Verdict<'_>> {
    line.match_indices(['.', '!', '?']).find_map(|(at, _)| {
        let sentence = line[at + 1..].strip_prefix(char::is_whitespace)?;
        let sentence = sentence.trim_start_matches(is_emphasis);
        let (label, after) = strip_label(sentence)?;
        let joined = after
            .trim_start_matches(is_emphasis)
            .starts_with([':', '=']);
        read_labelled(sentence).filter(|_| joined && label != Label::Loose)
    })
}

/// A line that is nothing but a grade in a box, in emphasis, in double brackets or with its scale.
pub(super) fn read_dressed(line: &str) -> Option<Verdict<'_>> {
    let dress = ["**", "__", "\\boxed", "$", "\\(", "\\[", "[["];
    let dressed = dress.iter().any(|dress| line.starts_with(dress));
    let verdict = read_value(line)?;
    let scaled = || strip_scale(&verdict.digit.unwrap_or_default()[1..]).is_some();
    let bare = |c: char| c.is_ascii_digit() || c.is_whitespace() || c.is_ascii_punctuation();
    let words = line.replace("boxed", "").replace("out of", "");
    ((dressed || scaled()) && words.chars().all(bare)).then(|| verdict.at_most(Form::Remark))
}
