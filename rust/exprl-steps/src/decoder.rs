//! Which decoders map tokens one by one, and how each of them does it.

use std::sync::LazyLock;

use tokenizers::{Decoder, DecoderWrapper, Result};

use crate::Decoded;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A hole in the vocabulary.
    Unknown,
    /// Left out of the text.
    Special,
    Text,
    /// One byte of a character, `<0xE2>`.
    Byte,
}

/// What the decoder does once its tokens are mapped one by one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Join {
    /// Nothing between tokens.
    Plain,
    /// A space between tokens; it belongs to the token before it.
    Spaced,
    /// Tokens are written in the byte alphabet of GPT-2; invalid UTF-8 stays until the text is cut.
    ByteLevel,
    /// Runs of `<0xHH>` tokens are characters; a run that is not UTF-8 is one U+FFFD per token.
    ByteFallback,
}

/// Characters taken off both ends of the whole text, at most so many.
#[derive(Clone, Copy)]
pub(crate) struct Strip {
    content: char,
    start: usize,
    stop: usize,
}

/// A decoder as maps of single tokens (`stages`) and what follows them.
pub(crate) struct Plan {
    stages: Vec<DecoderWrapper>,
    pub(crate) join: Join,
    /// Whether the first token of a rollout decodes differently from the others.
    pub(crate) first_differs: bool,
    pub(crate) strip: Option<Strip>,
}

impl Plan {
    /// `None` if the decoder is not known to map tokens one by one.
    pub(crate) fn of(decoder: Option<&DecoderWrapper>) -> Option<Self> {
        use DecoderWrapper as D;
        let Some(decoder) = decoder else {
            return Some(Self {
                stages: Vec::new(),
                join: Join::Spaced,
                first_differs: true,
                strip: None,
            });
        };
        let mut parts = Vec::new();
        flatten(decoder, &mut parts);
        let replaces = parts
            .iter()
            .take_while(|part| matches!(part, D::Replace(_)))
            .count();
        let (join, first_differs, strip) = match parts[replaces..] {
            [] | [D::Fuse(_)] => (Join::Plain, false, None),
            [D::Metaspace(_)] => (Join::Plain, true, None),
            [D::WordPiece(_)] => (Join::Spaced, true, None),
            [D::ByteLevel(_)] => (Join::ByteLevel, false, None),
            [D::ByteFallback(_)] | [D::ByteFallback(_), D::Fuse(_)] => {
                (Join::ByteFallback, false, None)
            }
            [D::Fuse(_), D::Strip(strip)] => (Join::Plain, false, Some(strip)),
            [D::ByteFallback(_), D::Fuse(_), D::Strip(strip)] => {
                (Join::ByteFallback, false, Some(strip))
            }
            _ => return None,
        };
        let stages = parts
            .iter()
            .filter(|part| matches!(part, D::Replace(_) | D::Metaspace(_) | D::WordPiece(_)))
            .map(|&part| part.clone())
            .collect();
        let strip = strip.map(|s| Strip {
            content: s.content,
            start: s.start,
            stop: s.stop,
        });
        Some(Self {
            stages,
            join,
            first_differs,
            strip,
        })
    }

    /// The bytes of a token that is the first with text of its rollout, or that is not.
    pub(crate) fn decode(&self, token: &str, is_first: bool) -> Result<(Kind, Vec<u8>)> {
        let mut text = token.to_owned();
        if self.stages.is_empty() && self.join == Join::Spaced && !is_first {
            text.insert(0, ' ');
        }
        for stage in &self.stages {
            // The library's decoders tell the first token by its index.
            let mut tokens = if is_first {
                vec![text]
            } else {
                vec![String::new(), text]
            };
            tokens = stage.decode_chain(tokens)?;
            text = tokens.pop().unwrap_or_default();
        }
        Ok(match self.join {
            Join::ByteLevel => (Kind::Text, from_byte_alphabet(text)),
            Join::ByteFallback => match byte_of(&text) {
                Some(byte) => (Kind::Byte, vec![byte]),
                None => (Kind::Text, text.into_bytes()),
            },
            Join::Plain | Join::Spaced => (Kind::Text, text.into_bytes()),
        })
    }
}

fn flatten<'a>(decoder: &'a DecoderWrapper, parts: &mut Vec<&'a DecoderWrapper>) {
    match decoder {
        DecoderWrapper::Sequence(sequence) => {
            sequence
                .get_decoders()
                .iter()
                .for_each(|part| flatten(part, parts));
        }
        part => parts.push(part),
    }
}

impl Strip {
    pub(crate) fn apply(self, decoded: &mut Decoded) {
        let is_content = |character: &char| *character == self.content;
        let text = String::from_utf8_lossy(&decoded.bytes);
        let head = text.chars().take(self.start).take_while(is_content).count();
        let tail = text
            .chars()
            .rev()
            .take(self.stop)
            .take_while(is_content)
            .count();
        let width = self.content.len_utf8();
        let end = decoded.bytes.len() - tail * width;
        decoded.bytes.truncate(end);
        decoded.bytes.drain(..(head * width).min(end));
        for start in &mut decoded.starts {
            *start = start.saturating_sub(head * width).min(decoded.bytes.len());
        }
    }
}

/// `<0xHH>` to its byte, exactly as the library's `ByteFallback` reads it.
fn byte_of(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok())?
}

/// Bytes of a token in GPT-2's alphabet; a token with a character outside it is taken as it is.
fn from_byte_alphabet(token: String) -> Vec<u8> {
    let bytes: Option<Vec<u8>> = token
        .chars()
        .map(|character| BYTE_OF_CHARACTER.get(character as usize).copied().flatten())
        .collect();
    bytes.unwrap_or_else(|| token.into_bytes())
}

/// GPT-2's alphabet: printable Latin-1 bytes stand for themselves, the others for U+0100 onwards.
static BYTE_OF_CHARACTER: LazyLock<[Option<u8>; 0x144]> = LazyLock::new(|| {
    let mut bytes = [None; 0x144];
    let mut next = 0x100;
    for byte in 0..=255_u8 {
        if matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF) {
            bytes[usize::from(byte)] = Some(byte);
        } else {
            bytes[next] = Some(byte);
            next += 1;
        }
    }
    bytes
});
