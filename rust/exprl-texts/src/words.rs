//! Words as Python's `re` has them: `\w+|[^\w\s]`, Unicode.

use std::sync::LazyLock;

use regex::Regex;

/// Python's `\w`. Rust's own holds combining marks, too.
pub const WORD: &str = r"[\p{L}\p{N}_]";

/// Python's `\s`, which holds the separators of ASCII.
pub const SPACE: &str = r"[\s\x1c-\x1f]";

static WORD_CHARACTER: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(&format!(r"\A{WORD}")).expect("it is a valid pattern"));

/// Runs of word characters, and every other visible character by itself.
///
/// `"x_1 = -2"` has the words `x_1`, `=`, `-` and `2`.
pub fn words(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        loop {
            let first = rest.chars().next()?;
            let inside = rest.chars().take_while(|&c| is_word(c));
            let length = inside.map(char::len_utf8).sum::<usize>();
            let (word, after) = rest.split_at(length.max(first.len_utf8()));
            rest = after;
            if length > 0 || !is_space(first) {
                return Some(word);
            }
        }
    })
}

fn is_word(c: char) -> bool {
    if c.is_ascii() {
        c.is_ascii_alphanumeric() || c == '_'
    } else {
        WORD_CHARACTER.is_match(c.encode_utf8(&mut [0; 4]))
    }
}

/// Whether [`SPACE`] holds it.
fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\x1c'..='\x1f')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_runs_of_letters_and_digits_and_single_signs() {
        let text = "x_1 = -2½\u{a0}(café)\u{1f}e\u{301}!!";
        let found: Vec<_> = words(text).collect();
        assert_eq!(
            found,
            [
                "x_1", "=", "-", "2½", "(", "café", ")", "e", "\u{301}", "!", "!"
            ]
        );
        assert_eq!(words(" \n\t").count(), 0);
    }
}
