//! The grade in a judge's reply.

use memchr::memchr;
use serde::Deserialize;
use serde_json::Value;

/// Version of the rules of [`read_grade`], part of a ledger key: replies are read again when it changes.
pub const PARSER_VERSION: u32 = 1;

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
/// `[list marker] [Final|Overall] Score[: or full-width colon] value [remark]`, in any case and with Markdown emphasis,
/// or a JSON object with a `score` field, or the `"score": value` line of one. A score that is quoted
/// in mid-line, in a `>` quotation or in a thinking block is not anchored.
/// The value is one ASCII digit 1..5, alone or as `n/5`, `n out of 5` or `\boxed{n}`. A remark in
/// parentheses or after a dash may follow if it holds no digit. Anything else after the colon that
/// starts with a number is out of range: it is never repaired.
#[must_use]
pub fn read_grade(reply: &str) -> Reading {
    let mut last = Reading::Absent;
    let mut grade = None;
    let parts = outside_thinking(reply);
    for line in parts.iter().flat_map(|part| part.split(['\n', '\r'])) {
        let Some(score) = anchored_score(line) else {
            continue;
        };
        if matches!(score, Reading::Grade(_))
            && grade.replace(score).is_some_and(|earlier| earlier != score)
        {
            return Reading::Conflict;
        }
        last = score;
    }
    last
}

/// The parts of a reply outside thinking blocks. A closing tag without an opening one means that the
/// template opened the block: everything before it is thinking. A block that never closes runs to the end.
pub(crate) fn outside_thinking(reply: &str) -> Vec<&str> {
    let (mut parts, mut start, mut thinking, mut at) = (Vec::new(), 0, false, 0);
    while let Some(found) = memchr(b'<', &reply.as_bytes()[at..]) {
        let tag = at + found;
        at = tag + 1;
        let Some((closing, len)) = thinking_tag(&reply.as_bytes()[tag..]) else {
            continue;
        };
        match (closing, thinking) {
            (false, false) => {
                parts.push(&reply[start..tag]);
                thinking = true;
            }
            (false, true) => {}
            (true, true) => thinking = false,
            (true, false) => parts.clear(),
        }
        at = tag + len;
        start = at;
    }
    if !thinking {
        parts.push(&reply[start..]);
    }
    parts
}

/// Whether a thinking tag at the start of `text` closes, and its length in bytes.
fn thinking_tag(text: &[u8]) -> Option<(bool, usize)> {
    [
        ("<think>", false),
        ("</think>", true),
        ("<thinking>", false),
        ("</thinking>", true),
    ]
    .into_iter()
    .find(|(tag, _)| {
        text.get(..tag.len())
            .is_some_and(|t| t.eq_ignore_ascii_case(tag.as_bytes()))
    })
    .map(|(tag, closing)| (closing, tag.len()))
}

/// The score that a line is anchored to: a grade or out of range.
fn anchored_score(line: &str) -> Option<Reading> {
    let line = line.trim();
    if line.starts_with('{') {
        return json_score(line);
    }
    let rest = strip_list_marker(line).trim_start_matches(is_emphasis);
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
    grade_value(value)
}

#[derive(Deserialize)]
struct JsonReply {
    #[serde(alias = "Score", alias = "SCORE", alias = "final_score")]
    score: Value,
}

fn json_score(line: &str) -> Option<Reading> {
    match serde_json::from_str::<JsonReply>(line.trim_end_matches(','))
        .ok()?
        .score
    {
        Value::Number(number) => Some(grade(&number.to_string())),
        Value::String(text) => grade_value(text.trim()),
        _ => None,
    }
}

/// The score in what follows the colon; `None` if that does not start with a number.
fn grade_value(value: &str) -> Option<Reading> {
    let (value, boxed) = match value
        .strip_prefix(r"$\boxed{")
        .or_else(|| value.strip_prefix(r"\boxed{"))
    {
        Some(value) => (value, "}"),
        None => (value.trim_start_matches(['"', '$']), ""),
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
    match rest.strip_prefix(boxed) {
        Some(rest) if may_follow(rest) => Some(grade(digits)),
        _ => Some(Reading::OutOfRange),
    }
}

fn grade(digits: &str) -> Reading {
    match digits.as_bytes() {
        [digit @ b'1'..=b'5'] => Reading::Grade(digit - b'0'),
        _ => Reading::OutOfRange,
    }
}

/// Whether `rest` may come after the digit of a grade: a scale of 5, closing marks, a remark without a digit.
fn may_follow(rest: &str) -> bool {
    let is_mark = |c: char| is_emphasis(c) || matches!(c, '}' | '"' | '$' | ']');
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
