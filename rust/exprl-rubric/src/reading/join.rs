//! What stands between the words that announce a verdict and its value: a colon, `is`, `should be`.

use super::marks::{first_of, is_emphasis, strip_all, strip_parenthesis, strip_whole_word};
use super::value::strip_scale;

/// What joins a label to its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Join {
    Colon,
    /// Another sign, the word `is`, or nothing before a digit.
    Other,
    /// Words such as `should be`, which count only before a grade.
    Loose,
    /// The line ends: the value may stand on the next one.
    End,
}

/// What is graded: `The score for this solution is 4`.
const GRADED: [&str; 12] = [
    "the", "this", "whole", "entire", "text", "solution", "response", "answer", "trace", "attempt",
    "work", "student",
];
const COPULAS: [&str; 5] = ["is", "equals", "becomes", "remains", "stays"];
/// What may stand between a copula and the value.
const FILLERS: [&str; 14] = [
    "now",
    "then",
    "therefore",
    "thus",
    "hence",
    "still",
    "again",
    "a",
    "an",
    "at",
    "of",
    "to",
    "equal",
    "hereby",
];
const LOOSE_JOINS: [&str; 7] = ["should", "must", "would", "stands", "comes", "goes", "now"];
const CHANGES: [&str; 10] = [
    "revised",
    "updated",
    "corrected",
    "adjusted",
    "changed",
    "changes",
    "raised",
    "lowered",
    "upgraded",
    "downgraded",
];
const SIGNS: [&str; 13] = [
    ":=", "==", "=>", "=", "->", "→", "⇒", "➡", "–", "—", "|", "~", "≈",
];

/// What joins the label to its value, and the value: `Score: 4`, `The score for this text is 4`.
pub(super) fn strip_join(after: &str) -> Option<(Join, &str)> {
    let about = first_of(&["for", "of"], after, strip_whole_word);
    let what = about.map(|what| (what, strip_all(&GRADED, what)));
    match what {
        Some((what, rest)) if rest.len() < what.len() => {
            let (_, value) = join(rest)?;
            Some((Join::Loose, value))
        }
        _ => join(after),
    }
}

fn join(after: &str) -> Option<(Join, &str)> {
    let closes = |c| is_emphasis(c) || matches!(c, ']' | '}');
    let rest = strip_parenthesis(after.trim_start_matches(closes)).trim_start_matches(closes);
    let rest = if rest.starts_with('/') || strip_whole_word(rest, "out").is_some() {
        strip_scale(rest).unwrap_or(rest).trim_start_matches(closes)
    } else {
        rest
    };
    let Some(first) = rest.chars().next() else {
        return Some((Join::End, rest));
    };
    if first.is_numeric() {
        return Some((Join::Other, rest));
    }
    if first.is_alphabetic() {
        return strip_verb(rest);
    }
    if let Some(value) = rest.strip_prefix(':').filter(|_| !rest.starts_with(":=")) {
        return Some(joined(Join::Colon, value));
    }
    if let Some(value) = SIGNS.iter().find_map(|sign| rest.strip_prefix(sign)) {
        return Some(joined(Join::Other, value));
    }
    // A hyphen within a word, as in `Grade-school`, joins nothing to the label.
    let value = rest.trim_start_matches(|c: char| !c.is_alphanumeric());
    let hyphen = rest
        .strip_prefix('-')
        .filter(|value| !value.starts_with(char::is_alphabetic));
    match hyphen {
        Some(value) => Some(joined(Join::Other, value)),
        None => value
            .starts_with(char::is_numeric)
            .then_some((Join::Loose, value)),
    }
}

fn joined(join: Join, value: &str) -> (Join, &str) {
    match value.trim_start_matches(is_emphasis) {
        "" => (Join::End, ""),
        value => (join, value),
    }
}

fn strip_verb(rest: &str) -> Option<(Join, &str)> {
    if let Some(value) = first_of(&COPULAS, rest, strip_whole_word) {
        let value = value.trim_start_matches(|c| c == ':' || is_emphasis(c));
        return Some((Join::Other, strip_all(&FILLERS, value)));
    }
    let change = first_of(&CHANGES, rest, strip_whole_word);
    let loose =
        || first_of(&LOOSE_JOINS, rest, strip_whole_word).or_else(|| strip_whole_word(rest, "of"));
    let value = change.or_else(loose)?;
    let value = strip_all(&["be", "from"], value);
    let value = strip_all(&FILLERS, value).trim_start_matches(|c| c == ':' || is_emphasis(c));
    let join = if change.is_some() {
        Join::Other
    } else {
        Join::Loose
    };
    value.starts_with(char::is_numeric).then_some((join, value))
}
