//! What a reader sees of a reply.

use std::borrow::Cow;

/// The text without invisible characters, with plain signs for full-width and mathematical letters, and
/// with a line feed for every other sign that ends a line. Digits stay as they are: only an ASCII digit
/// can be a grade.
pub(super) fn visible(text: &str) -> Cow<'_, str> {
    if text.is_ascii() || text.chars().all(|c| fold(c) == Some(c)) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.chars().filter_map(fold).collect())
}

/// Where in `text` the character stands that stands at `place` in what is visible of it.
pub(super) fn place_in(text: &str, visible: &str, place: usize) -> Option<usize> {
    let before = visible[..place].chars().count();
    let mut seen = text.char_indices().filter(|&(_, c)| fold(c).is_some());
    seen.nth(before).map(|(at, _)| at)
}

fn fold(c: char) -> Option<char> {
    if c.is_ascii() {
        return Some(c);
    }
    match c {
        // Soft hyphen, joiners, marks and overrides of direction, fillers, variation selectors, keycaps, tags.
        '\u{ad}'
        | '\u{34f}'
        | '\u{61c}'
        | '\u{180e}'
        | '\u{200b}'..='\u{200f}'
        | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{20e3}'
        | '\u{fe00}'..='\u{fe0f}'
        | '\u{feff}'
        | '\u{e0000}'..='\u{e01ef}' => None,
        '\u{85}' | '\u{2028}' | '\u{2029}' => Some('\n'),
        // Tags keep their own signs.
        '！'..='～' if !matches!(c, '０'..='９' | '＜' | '＞') => {
            char::from_u32(c as u32 - 0xfee0)
        }
        '\u{1d400}'..='\u{1d6a3}' => {
            let letter = ((c as u32 - 0x1d400) % 52) as u8;
            Some(char::from(if letter < 26 {
                b'A' + letter
            } else {
                b'a' + letter - 26
            }))
        }
        _ => Some(c),
    }
}
