//! The value of a verdict: what stands behind the word `Score` and its colon.

use super::Reading;
use super::label::names_verdict;
use super::marks::{is_emphasis, strip_word};

/// The score in what follows the colon, and that from the digit on; `None` if it does not start with a number.
pub(super) fn grade_value(value: &str) -> Option<(Reading, &str)> {
    let value = value.trim_start_matches(['"', '$', '\\', '[', '(', '}', ' ']);
    let (value, boxed) = match value.strip_prefix("boxed{") {
        Some(value) => (value, "}"),
        None => (value, ""),
    };
    let first = value
        .trim_start_matches(['+', '-', '−', '.'])
        .chars()
        .next()?;
    if !first.is_numeric() {
        return None;
    }
    let digits = value
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(value.len());
    let (digits, rest) = value.split_at(digits);
    let score = match rest.strip_prefix(boxed) {
        Some(rest) if may_follow(rest) => grade(digits),
        _ => Reading::OutOfRange,
    };
    Some((score, value))
}

/// The grade that these digits are.
pub(super) fn grade(digits: &str) -> Reading {
    match digits.as_bytes() {
        [digit @ b'1'..=b'5'] => Reading::Grade(digit - b'0'),
        _ => Reading::OutOfRange,
    }
}

/// Whether `rest` may come after the digit of a grade: a scale of 5, closing marks, a remark without a digit
/// and without a verdict of its own.
fn may_follow(rest: &str) -> bool {
    let is_mark = |c: char| is_emphasis(c) || matches!(c, '}' | '"' | '$' | ']' | ')' | '\\' | '|');
    let rest = rest.trim_start_matches(is_mark);
    let rest = strip_scale(rest)
        .unwrap_or(rest)
        .trim_start_matches(is_mark);
    let rest = match rest.strip_prefix(['.', ',', ';']) {
        // A decimal comma or point would be followed by a digit, which no remark may hold.
        Some(rest) => rest.trim_start_matches(is_mark),
        None => rest,
    };
    let remark = rest.is_empty() || rest.starts_with(['(', '-', '–', '—']);
    remark && !rest.contains(char::is_numeric) && !names_verdict(rest)
}

/// What follows `/5`, `out of 5` or `of 5`.
pub(super) fn strip_scale(rest: &str) -> Option<&str> {
    let rest = rest.strip_prefix('/').or_else(|| {
        let rest = strip_word(rest, "out").unwrap_or(rest);
        strip_word(rest, "of")
    })?;
    let rest = rest.trim_start_matches(is_emphasis).strip_prefix('5')?;
    (!rest.starts_with(char::is_numeric)).then_some(rest)
}
