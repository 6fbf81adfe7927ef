//! Text between the quotes of a JSON string.

use std::io;

use serde::Serialize;
use serde_json::Serializer;
use serde_json::ser::Formatter;

/// Leaves the quotes out: a string is written in pieces, and escaping a prefix gives a prefix.
struct Unquoted;

impl Formatter for Unquoted {
    fn begin_string<W: ?Sized + io::Write>(&mut self, _: &mut W) -> io::Result<()> {
        Ok(())
    }

    fn end_string<W: ?Sized + io::Write>(&mut self, _: &mut W) -> io::Result<()> {
        Ok(())
    }
}

/// Appends `text`, escaped.
pub(crate) fn escape_into(out: &mut Vec<u8>, text: &str) {
    // Writing to memory cannot fail.
    let _ = text.serialize(&mut Serializer::with_formatter(out, Unquoted));
}

/// The same, on its own.
pub(crate) fn escape(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    escape_into(&mut out, text);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_make_the_string_that_they_make_together() {
        let pieces = ["a \"quote\"\n", "\u{1}\\", "", "é\u{2028}😀\u{7f}"];
        let mut out = b"\"".to_vec();
        for piece in pieces {
            escape_into(&mut out, piece);
        }
        out.push(b'"');
        assert_eq!(out, serde_json::to_vec(&pieces.concat()).unwrap());
        assert_eq!(escape("\t"), b"\\t");
    }
}
