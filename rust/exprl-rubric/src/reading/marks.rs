//! The dress of a line: list markers, Markdown, LaTeX, tags; and its first words.

use super::label::strip_label;

/// A longer name between angle brackets is no tag that dresses a verdict.
const LONGEST_TAG: usize = 40;

/// White space and Markdown emphasis, code and heading marks.
pub(super) fn is_emphasis(c: char) -> bool {
    c.is_whitespace() || matches!(c, '*' | '_' | '`' | '#')
}

/// What follows `word` at the start of `text`, in any case.
pub(super) fn strip_word<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    let found = text
        .get(..word.len())
        .filter(|found| found.eq_ignore_ascii_case(word))?;
    Some(text[found.len()..].trim_start())
}

/// The same if the word ends there: `is` is not the beginning of `island`.
pub(super) fn strip_whole_word<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    let rest = strip_word(text, word)?;
    (!text[word.len()..].starts_with(char::is_alphanumeric)).then_some(rest)
}

/// What follows one parenthesis, such as the scale in `Score (1-5): 4`, or a scale in brackets.
pub(super) fn strip_parenthesis(text: &str) -> &str {
    let parenthesis = text.strip_prefix('(').and_then(|rest| rest.split_once(')'));
    let scale = || {
        text.strip_prefix('[')
            .and_then(|rest| rest.split_once(']'))
            .filter(|(scale, _)| scale.contains(['-', '–']))
    };
    parenthesis.or_else(scale).map_or(text, |(_, rest)| rest)
}

/// What follows the list marker, heading, emphasis, table bar, bullets, arrows, pictures, LaTeX commands and
/// tags that a line begins with. Quotation marks and an opening parenthesis stay: what they hold is
/// quoted, or said by the way.
pub(super) fn strip_front(line: &str) -> &str {
    let mut rest = strip_number(line);
    loop {
        let plain = rest.trim_start_matches(is_front);
        let eaten = &rest[..rest.len() - plain.len()];
        let next = match plain.chars().next() {
            Some('\\') => strip_command(plain),
            Some('<') => strip_tag(plain),
            Some('>') if eaten.ends_with(['-', '=']) => Some(&plain[1..]),
            _ => None,
        };
        match next {
            Some(next) => rest = next,
            None => return plain,
        }
    }
}

fn is_front(c: char) -> bool {
    !c.is_alphanumeric() && !opens_quotation(c) && !matches!(c, '>' | '(' | '<' | '\\' | '{')
}

/// Signs that begin a quotation.
pub(super) fn opens_quotation(c: char) -> bool {
    matches!(
        c,
        '"' | '\'' | '“' | '”' | '„' | '‘' | '’' | '«' | '»' | '「' | '『'
    )
}

/// What follows `12. ` or `12) `.
fn strip_number(line: &str) -> &str {
    let rest = line.trim_start_matches(|c: char| c.is_ascii_digit());
    let marker = rest
        .strip_prefix(['.', ')'])
        .filter(|_| rest.len() < line.len());
    marker
        .filter(|rest| rest.starts_with(char::is_whitespace))
        .unwrap_or(line)
}

/// What follows `\text{`, `\section*{`, `\(` and the like.
fn strip_command(text: &str) -> Option<&str> {
    let name = text.strip_prefix('\\')?;
    let rest = name.trim_start_matches(|c: char| c.is_ascii_alphabetic());
    let rest = if rest.len() == name.len() {
        rest.strip_prefix(['(', '[', '{', ' ', '\\'])?
    } else {
        rest
    };
    let rest = rest.strip_prefix('*').unwrap_or(rest);
    Some(rest.strip_prefix('{').unwrap_or(rest))
}

/// What follows `<b>`, `</p>` or `<|im_start|>`, but not `<score>`.
fn strip_tag(text: &str) -> Option<&str> {
    let (name, rest) = split_tag(text)?;
    (!name.is_empty() && strip_label(name).is_none()).then_some(rest)
}

/// The name of a tag, and what follows it.
pub(super) fn split_tag(text: &str) -> Option<(&str, &str)> {
    let inner = text.strip_prefix('<')?;
    let end = inner
        .bytes()
        .take(LONGEST_TAG)
        .position(|byte| !(byte.is_ascii_alphanumeric() || b"_-/| ".contains(&byte)))?;
    let rest = inner[end..].strip_prefix('>')?;
    Some((inner[..end].trim_matches(['/', '|', ' ']), rest))
}

/// What follows the first of these words that `text` begins with.
pub(super) fn first_of<'a>(
    words: &[&str],
    text: &'a str,
    strip: fn(&'a str, &str) -> Option<&'a str>,
) -> Option<&'a str> {
    // Most lines begin with none of them, and most words are told apart by their first letter.
    let first = text.as_bytes().first()?.to_ascii_lowercase();
    let mut words = words
        .iter()
        .filter(|word| word.as_bytes().first() == Some(&first));
    words.find_map(|word| strip(text, word))
}

/// What follows any number of these words.
pub(super) fn strip_all<'a>(words: &[&str], text: &'a str) -> &'a str {
    let mut rest = text;
    while let Some(after) = first_of(words, rest, strip_whole_word) {
        rest = after;
    }
    rest
}
