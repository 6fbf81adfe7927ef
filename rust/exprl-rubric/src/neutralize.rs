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

/// Of the text before a piece no more than its last so many bytes matter: a name and the signs around
/// it, in characters of four bytes; a fence is shorter.
pub const CONTEXT: usize = 4 * (MAX_NAME + 2);

/// So many bytes are passed over at once if no marker can end in them.
const BLOCK: usize = 32;

/// `text` with every marker and every occurrence of `fence` broken, given the text `before` it.
pub(crate) fn neutralize_after<'a>(before: &str, text: &'a str, fence: &str) -> Cow<'a, str> {
    let bytes = text.as_bytes();
    let last_of_fence = fence.as_bytes().last().copied();
    let mut out = String::new();
    let mut copied = 0;
    for start in (0..bytes.len()).step_by(BLOCK) {
        let end = (start + BLOCK).min(bytes.len());
        if start > 0 && !is_suspect(&bytes[start - 1..end - 1], &bytes[start..end], fence) {
            continue;
        }
        for at in start..end {
            let suspect =
                is_mark(bytes[at]) || Some(bytes[at].to_ascii_lowercase()) == last_of_fence;
            if suspect && completes_marker(before, &text[..at], &text[at..], fence) {
                out.push_str(&text[copied..at]);
                out.push(' ');
                copied = at;
            }
        }
    }
    if copied == 0 && out.is_empty() {
        return Cow::Borrowed(text);
    }
    out.push_str(&text[copied..]);
    Cow::Owned(out)
}

/// Whether a marker's last sign may begin with this byte. 0xE2 and 0xEF begin the full-width signs; all
/// these bytes begin a character.
fn is_mark(byte: u8) -> bool {
    matches!(byte, b'|' | b'>' | b']' | b'~' | b'[' | 0xE2 | 0xEF)
}

/// Whether a marker or the fence may end in `block`; `earlier` is what stands one byte before.
/// Without branches, so that it runs on many bytes at once.
fn is_suspect(earlier: &[u8], block: &[u8], fence: &str) -> bool {
    let Some(&[last_but_one, last]) = fence.as_bytes().last_chunk() else {
        return true;
    };
    // Sets the bit that tells small letters from capitals.
    let small = |byte: u8| byte | 0x20;
    block
        .iter()
        .zip(earlier)
        .fold(false, |found, (&byte, &one_before)| {
            found
                | is_mark(byte)
                | ((small(byte) == small(last)) & (small(one_before) == small(last_but_one)))
        })
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition: every character is asked.
    fn by_character(before: &str, text: &str, fence: &str) -> String {
        let mut out = String::new();
        for (at, c) in text.char_indices() {
            if completes_marker(before, &text[..at], &text[at..], fence) {
                out.push(' ');
            }
            out.push(c);
        }
        out
    }

    const FENCE: &str = "0123456789abcdef";

    proptest! {
        #[test]
        fn passing_over_blocks_changes_nothing(
            before in "[<a0123456789]{0,20}",
            pieces in prop::collection::vec(
                prop_oneof![
                    "[ -~é中＜｜▷]{0,40}",
                    Just(FENCE.to_owned()),
                    Just("0123456789ABCDEF".to_owned()),
                    Just("<|x|>".to_owned()),
                    Just("</think>".to_owned()),
                    Just("[INST]".to_owned()),
                ],
                0..12,
            ),
        ) {
            let text = pieces.concat();
            prop_assert_eq!(neutralize_after(&before, &text, FENCE), by_character(&before, &text, FENCE));
        }

        #[test]
        fn only_the_context_matters(
            before in "[<◁\\[]{0,2}([a中é_-]|\\p{L}){0,90}",
            text in "[>▷\\]a中|~]{0,6}",
        ) {
            let far = "x".repeat(2 * CONTEXT);
            let last = before.floor_char_boundary(before.len().saturating_sub(CONTEXT));
            let near = format!("{far}{}", &before[last..]);
            let by_all = neutralize_after(&before, &text, FENCE);
            prop_assert_eq!(&by_all, &neutralize_after(&before[last..], &text, FENCE));
            if before.len() >= CONTEXT {
                prop_assert_eq!(&by_all, &neutralize_after(&near, &text, FENCE));
            }
        }
    }
}
