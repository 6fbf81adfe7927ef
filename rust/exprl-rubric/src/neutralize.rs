//! Breaks up what a chat template or a fence would read as markup.
//!
//! A space is put before the character that would complete a marker, and whether it would is decided
//! from the characters before it alone. So the output only ever grows: for any cut,
//! `neutralize(a + b)` starts with `neutralize(a)`, and `neutralize_after(a, b)` is the rest.
//!
//! Markers are `<|`, `[|`, `<name>`, `</name>`, `[NAME]`, `[/NAME]` (also with full-width signs), `]~`
//! and `~[`: every role, turn, tool and thinking marker of the chat templates in use has one of these shapes.

use std::borrow::Cow;

/// The longest name between angle or square brackets that is looked at, in characters.
const MAX_NAME: usize = 64;

/// `text` with every marker and every occurrence of `fence` broken, given the text `before` it.
pub(crate) fn neutralize_after<'a>(before: &str, text: &'a str, fence: &str) -> Cow<'a, str> {
    let last_of_fence = fence.as_bytes().last().copied();
    let mut out = String::new();
    let mut copied = 0;
    for (at, byte) in text.bytes().enumerate() {
        // 0xE2 and 0xEF begin the full-width signs; all these bytes begin a character.
        let suspect = matches!(byte, b'|' | b'>' | b']' | b'~' | b'[' | 0xE2 | 0xEF)
            || Some(byte.to_ascii_lowercase()) == last_of_fence;
        if suspect && completes_marker(before, &text[..at], &text[at..], fence) {
            out.push_str(&text[copied..at]);
            out.push(' ');
            copied = at;
        }
    }
    if copied == 0 && out.is_empty() {
        return Cow::Borrowed(text);
    }
    out.push_str(&text[copied..]);
    Cow::Owned(out)
}

/// Whether the first character of `rest`, coming after `before + text`, completes a marker.
fn completes_marker(before: &str, text: &str, rest: &str, fence: &str) -> bool {
    let mut back = text.chars().rev().chain(before.chars().rev());
    let Some(c) = rest.chars().next() else {
        return false;
    };
    match c {
        '|' | '｜' => matches!(back.next(), Some('<' | '＜' | '◁' | '[' | '［')),
        '~' => back.next() == Some(']'),
        '[' => back.next() == Some('~'),
        '>' | '＞' | '▷' => closes_tag(back),
        ']' | '］' => closes_bracket(back),
        _ => {
            let end = std::iter::once(c).chain(back).take(fence.len());
            fence.chars().rev().eq(end.map(|c| c.to_ascii_lowercase()))
        }
    }
}

/// Whether the reversed text is a name and then an opening angle bracket.
fn closes_tag(back: impl Iterator<Item = char>) -> bool {
    let mut named = false;
    for c in back.take(MAX_NAME + 1) {
        match c {
            '<' | '＜' | '◁' => return named,
            '_' | '-' | '.' | ':' | '/' | '|' | '｜' | '▁' => {}
            c if c.is_alphanumeric() => named = true,
            _ => return false,
        }
    }
    false
}

/// Whether the reversed text is a name in capitals (or `gMASK`) and then `[` or `[/`.
fn closes_bracket(back: impl Iterator<Item = char>) -> bool {
    let mut capitals = 0;
    for c in back.take(MAX_NAME + 1) {
        match c {
            '[' | '［' => return capitals >= 3,
            'A'..='Z' => capitals += 1,
            'g' | '_' | '/' | '0'..='9' => {}
            _ => return false,
        }
    }
    false
}
