//! The words that announce a verdict: `Score`, `My final grade`, `得分`.

use super::marks::{first_of, is_emphasis, strip_whole_word, strip_word};

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
    let end = head
        .bytes()
        .position(|byte| matches!(byte, b':' | b'=' | b'|'))?;
    let words = head[..end]
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty());
    if words.clone().nth(MOST_FOREIGN).is_some() {
        return None;
    }
    let names = |all: &[&str], word: &str| {
        if word.is_ascii() {
            all.iter().any(|one| one.eq_ignore_ascii_case(word))
        } else {
            all.contains(&&*word.to_lowercase())
        }
    };
    let label = if words.clone().any(|word| names(&FOREIGN, word)) {
        Label::Other
    } else if words.clone().any(|word| names(&LOOSE_FOREIGN, word)) {
        Label::Loose
    } else {
        return None;
    };
    Some((label, &text[end..]))
}
