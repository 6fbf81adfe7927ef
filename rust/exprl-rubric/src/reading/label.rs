//! The words that announce a verdict, and what joins them to its value: `Score:`, `My final grade is`, `得分：`.

use super::marks::{is_emphasis, strip_parenthesis, strip_whole_word, strip_word};
use super::value::strip_scale;

/// How much a label says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Label {
    /// What the rubric asks for: `Score`, `Final Score`, `Overall score`.
    Asked,
    /// Another word for it.
    Other,
    /// A word that announces other things too, such as `Assessment`: it counts only before a grade.
    Loose,
}

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

const DETERMINERS: [&str; 5] = ["my", "the", "this", "a", "your"];
const ASKED: [&str; 2] = ["final", "overall"];
/// These may stand alone: `Revised: 5`.
const REVISED: [&str; 4] = ["revised", "updated", "corrected", "adjusted"];
/// No `draft`, `initial`, `first`: what they announce is no verdict.
const ADJECTIVES: [&str; 15] = [
    "new",
    "total",
    "actual",
    "true",
    "correct",
    "definitive",
    "official",
    "resulting",
    "numerical",
    "numeric",
    "holistic",
    "aggregate",
    "combined",
    "recommended",
    "assigned",
];
const NOUNS: [&str; 3] = ["grade", "rating", "verdict"];
const LOOSE_NOUNS: [&str; 7] = [
    "marks",
    "mark",
    "points",
    "evaluation",
    "assessment",
    "judgment",
    "judgement",
];
/// A label has no more adjectives.
const MOST_ADJECTIVES: usize = 4;

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

/// The same word in other languages: a word of the label.
const FOREIGN: [&str; 27] = [
    "puntuación",
    "puntuacion",
    "puntaje",
    "calificación",
    "calificacion",
    "pontuação",
    "pontuacao",
    "punteggio",
    "bewertung",
    "gesamtbewertung",
    "punktzahl",
    "gesamtpunktzahl",
    "wertung",
    "cijfer",
    "beoordeling",
    "betyg",
    "ocena",
    "wynik",
    "hodnocení",
    "puan",
    "nilai",
    "điểm",
    "оценка",
    "балл",
    "баллы",
    "оцінка",
    "الدرجة",
];
/// Those that mean something else in English.
const LOOSE_FOREIGN: [&str; 5] = ["nota", "note", "voto", "punkte", "skor"];
/// In scripts without spaces between words: any part of the label.
const UNSPACED: [&str; 16] = [
    "得分",
    "分数",
    "分數",
    "评分",
    "評分",
    "评级",
    "評級",
    "点数",
    "得点",
    "評価",
    "評点",
    "採点",
    "スコア",
    "점수",
    "평점",
    "คะแนน",
];
/// A label in another language is no longer (in bytes), and has no more words.
const LONGEST_FOREIGN: usize = 64;
const MOST_FOREIGN: usize = 4;

/// A label at the start of `text`, and what follows it.
pub(super) fn strip_label(text: &str) -> Option<(Label, &str)> {
    match text.chars().next()? {
        c if c.is_ascii_alphabetic() => {}
        c if c.is_alphabetic() => return strip_unspaced(text),
        _ => return None,
    }
    let mut label = Label::Asked;
    let mut rest = text;
    if let Some(after) = first_of(&DETERMINERS, rest, strip_whole_word) {
        (label, rest) = (Label::Other, after);
    }
    let mut alone = false;
    for _ in 0..MOST_ADJECTIVES {
        let (asked, revised) = (
            first_of(&ASKED, rest, strip_word),
            first_of(&REVISED, rest, strip_word),
        );
        let other = || first_of(&ADJECTIVES, rest, strip_word);
        let Some(after) = asked.or(revised).or_else(other) else {
            break;
        };
        if asked.is_none() {
            label = Label::Other;
        }
        alone |= asked.or(revised).is_some();
        rest = after.trim_start_matches(|c| is_emphasis(c) || c == '-');
    }
    if let Some(after) = strip_whole_word(rest, "score") {
        return Some((label, after));
    }
    if let Some(after) = first_of(&NOUNS, rest, strip_whole_word) {
        return Some((Label::Other, after));
    }
    let loose = first_of(&LOOSE_NOUNS, rest, strip_whole_word).or(alone.then_some(rest));
    loose
        .map(|after| (Label::Loose, after))
        .or_else(|| strip_foreign(text))
}

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
    let rest = match rest.starts_with('/') || strip_whole_word(rest, "out").is_some() {
        true => strip_scale(rest).unwrap_or(rest).trim_start_matches(closes),
        false => rest,
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

/// Whether the text says a verdict of its own somewhere: a label and a colon or an equals sign. Linear:
/// a label has a bounded number of words.
pub(super) fn names_verdict(text: &str) -> bool {
    let mut inside = false;
    text.char_indices().any(|(at, c)| {
        let begins = c.is_alphabetic() && !std::mem::replace(&mut inside, c.is_alphanumeric());
        inside = c.is_alphanumeric();
        begins
            && strip_label(&text[at..]).is_some_and(|(label, rest)| {
                let rest = rest.trim_start_matches(is_emphasis);
                label != Label::Loose && rest.starts_with([':', '='])
            })
    })
}

fn strip_unspaced(text: &str) -> Option<(Label, &str)> {
    let head = &text[..text.floor_char_boundary(LONGEST_FOREIGN)];
    let after = UNSPACED
        .iter()
        .filter_map(|word| Some(head.find(word)? + word.len()))
        .max();
    match after {
        Some(after) if !head[..after].contains([':', '=', '|', ',', '。', '，', '、']) => {
            let rest = text[after..].trim_start();
            Some((
                Label::Other,
                rest.strip_prefix(['是', '为', '為', 'は']).unwrap_or(rest),
            ))
        }
        _ => strip_foreign(text),
    }
}

fn strip_foreign(text: &str) -> Option<(Label, &str)> {
    let head = &text[..text.floor_char_boundary(LONGEST_FOREIGN)];
    let end = head.find([':', '=', '|'])?;
    let head = head[..end].to_lowercase();
    let mut label = None;
    for (count, word) in head
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .enumerate()
    {
        if count >= MOST_FOREIGN {
            return None;
        }
        if FOREIGN.contains(&word) {
            label = Some(Label::Other);
        } else if LOOSE_FOREIGN.contains(&word) {
            label = label.or(Some(Label::Loose));
        }
    }
    label.map(|label| (label, &text[end..]))
}

fn strip_all<'a>(words: &[&str], text: &'a str) -> &'a str {
    let mut rest = text;
    while let Some(after) = first_of(words, rest, strip_whole_word) {
        rest = after;
    }
    rest
}

pub(super) fn first_of<'a>(
    words: &[&str],
    text: &'a str,
    strip: fn(&'a str, &str) -> Option<&'a str>,
) -> Option<&'a str> {
    words.iter().find_map(|word| strip(text, word))
}
