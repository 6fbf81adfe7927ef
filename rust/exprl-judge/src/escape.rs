//! Text between the quotes of a JSON string (RFC 8259, 7).

const LOW: u64 = u64::MAX / 0xFF;
const HIGH: u64 = LOW << 7;

/// Appends `text`, escaped. The bytes are those of `serde_json`: escaping a prefix gives a prefix.
pub(crate) fn escape_into(out: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    out.reserve(bytes.len() + bytes.len() / 16);
    let mut copied = 0;
    let mut at = 0;
    while let Some(found) = next_special(bytes, at) {
        out.extend_from_slice(&bytes[copied..found]);
        push_escaped(out, bytes[found]);
        copied = found + 1;
        at = copied;
    }
    out.extend_from_slice(&bytes[copied..]);
}

/// The same, on its own.
pub(crate) fn escape(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    escape_into(&mut out, text);
    out
}

/// The next byte from `at` on that may not stand in a JSON string as it is; eight are looked at once.
fn next_special(bytes: &[u8], at: usize) -> Option<usize> {
    let mut at = at;
    while let Some(chunk) = bytes[at..].first_chunk() {
        let special = specials(u64::from_le_bytes(*chunk));
        if special != 0 {
            return Some(at + special.trailing_zeros() as usize / 8);
        }
        at += 8;
    }
    let rest = bytes[at..].iter().position(|&byte| is_special(byte));
    rest.map(|offset| at + offset)
}

fn is_special(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

/// The high bit of each byte that is special; right for the lowest such byte (Warren, Hacker's Delight, 6-1).
fn specials(word: u64) -> u64 {
    let below = |word: u64, limit: u8| word.wrapping_sub(LOW * u64::from(limit)) & !word;
    let equals = |byte: u8| below(word ^ (LOW * u64::from(byte)), 1);
    (below(word, 0x20) | equals(b'"') | equals(b'\\')) & HIGH
}

fn push_escaped(out: &mut Vec<u8>, byte: u8) {
    match byte {
        b'"' => out.extend_from_slice(b"\\\""),
        b'\\' => out.extend_from_slice(b"\\\\"),
        b'\n' => out.extend_from_slice(b"\\n"),
        b'\r' => out.extend_from_slice(b"\\r"),
        b'\t' => out.extend_from_slice(b"\\t"),
        0x08 => out.extend_from_slice(b"\\b"),
        0x0C => out.extend_from_slice(b"\\f"),
        _ => {
            let hex = |digit: u8| b"0123456789abcdef"[usize::from(digit)];
            out.extend_from_slice(b"\\u00");
            out.extend_from_slice(&[hex(byte >> 4), hex(byte & 15)]);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn by_serde(text: &str) -> Vec<u8> {
        let quoted = serde_json::to_vec(text).unwrap();
        quoted[1..quoted.len() - 1].to_vec()
    }

    #[test]
    fn every_character_of_one_byte_is_escaped_at_every_place() {
        for byte in 0..0x80 {
            for place in 0..17 {
                let mut text = "x".repeat(17);
                text.replace_range(place..=place, char::from(byte).to_string().as_str());
                assert_eq!(escape(&text), by_serde(&text), "{byte:#x} at {place}");
            }
        }
    }

    proptest! {
        #[test]
        fn escapes_are_those_of_serde_json(text in "\\PC*|[\\x00-\\x7f\u{80}-\u{a0}é中\u{1f600}]*") {
            prop_assert_eq!(escape(&text), by_serde(&text));
        }
    }
}
