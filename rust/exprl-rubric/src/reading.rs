//! The grade in a judge's reply.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::thinking::outside_thinking;

/// Version of the rules of [`read_grade`], part of a ledger key: replies are read again when it changes.
pub const PARSER_VERSION: u32 = 2;

/// What a reply says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reading {
    /// The grade, 1..=5.
    Grade(u8),
    /// Two different anchored grades.
    Conflict,
    /// The last anchored score is not one of 1, 2, 3, 4, 5.
    OutOfRange,
    /// No anchored score.
    Absent,
}

/// Reads the grade of a judge's reply. Linear in the reply's length.
///
/// A score is *anchored* if, outside any thinking block, a line is nothing but
/// `[list marker] [Final|Overall] Score[: or full-width colon] value [remark]`, in any case, boxed or with Markdown
/// emphasis, or a JSON object with a `score` field, or the `"score": value` line of one. A score that is quoted
/// in mid-line, in a `>` quotation or in a thinking block is not anchored.
/// The value is one ASCII digit 1..5, alone or as `n/5`, `n out of 5`, `[n]` or `\boxed{n}`. A remark in
/// parentheses or after a dash may follow if it holds no digit. Anything else after the colon that
/// starts with a number is out of range: it is never repaired.
#[must_use]
pub fn read_grade(reply: &str) -> Reading {
    read(reply).0
}

/// Where in the reply the digit of its grade stands, in bytes: the last one of equal grades.
/// `None` without a grade, or if the digit is written as an escape of JSON.
#[must_use]
pub fn grade_place(reply: &str) -> Option<usize> {
    match read(reply) {
        // A part of the reply: both addresses are in one text.
        (Reading::Grade(_), Some(digit)) => Some(digit.as_ptr() as usize - reply.as_ptr() as usize),
        _ => None,
    }
}

/// What the reply says, and what stands there from the digit of the last score on.
fn read(reply: &str) -> (Reading, Option<&str>) {
    let mut last = (Reading::Absent, None);
    let mut grade = None;
    let parts = outside_thinking(reply);
    for line in parts.iter().flat_map(|part| part.split(['\n', '\r'])) {
        let Some((score, digit)) = anchored_score(line) else {
            continue;
        };
        if matches!(score, Reading::Grade(_))
            && grade.replace(score).is_some_and(|earlier| earlier != score)
        {
            return (Reading::Conflict, None);
        }
        last = (score, digit);
    }
    last
}

/// The score that a line is anchored to, a grade or out of range, and the line from its digit on.
fn anchored_score(line: &str) -> Option<(Reading, Option<&str>)> {
    let line = line.trim();
    let unfenced = line.trim_matches('`');
    let object = strip_word(unfenced, "json").unwrap_or(unfenced);
    if object.starts_with('{') {
        return json_score(object);
    }
    let rest = strip_list_marker(line).trim_start_matches(is_emphasis);
    let boxed = rest.trim_start_matches(['$', '\\', '[', '(']);
    let rest = boxed
        .strip_prefix("boxed{")
        .map_or(rest, |rest| rest.strip_prefix(r"\text{").unwrap_or(rest));
    let rest = strip_word(rest, "final")
        .or_else(|| strip_word(rest, "overall"))
        .unwrap_or(rest);
    let rest = rest.trim_start_matches(is_emphasis);
    // A JSON key closes its quotation before the colon; a quoted sentence does not.
    let (rest, quote) = rest
        .strip_prefix('"')
        .map_or((rest, ""), |rest| (rest, "\""));
    let rest = strip_word(rest, "score")?.strip_prefix(quote)?;
    let rest =
        strip_parenthesis(rest.trim_start_matches(is_emphasis)).trim_start_matches(is_emphasis);
    let value = rest
        .strip_prefix([':', '：'])?
        .trim_start_matches(is_emphasis);
    grade_value(value).map(|(score, digit)| (score, Some(digit)))
}

#[derive(Deserialize)]
struct JsonReply<'a> {
    #[serde(borrow, alias = "Score", alias = "SCORE", alias = "final_score")]
    score: &'a RawValue,
}

fn json_score(line: &str) -> Option<(Reading, Option<&str>)> {
    let reply: JsonReply = serde_json::from_str(line.trim_end_matches(',')).ok()?;
    let value = reply.score.get();
    if let Ok(text) = serde_json::from_str::<&str>(value) {
        grade_value(text.trim()).map(|(score, digit)| (score, Some(digit)))
    } else if let Ok(escaped) = serde_json::from_str::<String>(value) {
        grade_value(escaped.trim()).map(|(score, _)| (score, None))
    } else {
        let is_number = value.starts_with(|c: char| c == '-' || c.is_ascii_digit());
        is_number.then(|| (grade(value), Some(value)))
    }
}

/// The score in what follows the colon, and that from the digit on; `None` if it does not start with a number.
fn grade_value(value: &str) -> Option<(Reading, &str)> {
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

fn grade(digits: &str) -> Reading {
    match digits.as_bytes() {
        [digit @ b'1'..=b'5'] => Reading::Grade(digit - b'0'),
        _ => Reading::OutOfRange,
    }
}

/// Whether `rest` may come after the digit of a grade: a scale of 5, closing marks, a remark without a digit.
fn may_follow(rest: &str) -> bool {
    let is_mark = |c: char| is_emphasis(c) || matches!(c, '}' | '"' | '$' | ']' | ')' | '\\');
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
    remark && !rest.contains(char::is_numeric)
}

/// What follows `/5`, `out of 5` or `of 5`.
fn strip_scale(rest: &str) -> Option<&str> {
    let rest = rest.strip_prefix('/').or_else(|| {
        let rest = strip_word(rest, "out").unwrap_or(rest);
        strip_word(rest, "of")
    })?;
    let rest = rest.trim_start_matches(is_emphasis).strip_prefix('5')?;
    (!rest.starts_with(char::is_numeric)).then_some(rest)
}

/// White space and Markdown emphasis, code and heading marks.
fn is_emphasis(c: char) -> bool {
    c.is_whitespace() || matches!(c, '*' | '_' | '`' | '#')
}

/// What follows `- `, `+ ` or `12. `.
fn strip_list_marker(line: &str) -> &str {
    let rest = line.trim_start_matches(|c: char| c.is_ascii_digit());
    let marker: &[char] = if rest.len() < line.len() {
        &['.', ')']
    } else {
        &['-', '+', '•']
    };
    rest.strip_prefix(marker).map_or(line, str::trim_start)
}

/// What follows `word` at the start of `text`, in any case.
fn strip_word<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    let found = text
        .get(..word.len())
        .filter(|found| found.eq_ignore_ascii_case(word))?;
    Some(text[found.len()..].trim_start_matches(' '))
}

/// What follows one parenthesis, such as the scale in `Score (1-5): 4`.
fn strip_parenthesis(text: &str) -> &str {
    text.strip_prefix('(')
        .and_then(|rest| rest.split_once(')'))
        .map_or(text, |(_, rest)| rest)
}
