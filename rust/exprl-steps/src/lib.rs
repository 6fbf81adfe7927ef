//! Cuts a rollout's tokens into steps at a delimiter, token-exactly.
//!
//! A step starts at a delimiter and runs to the next one. Text before the first delimiter is a
//! step of its own unless it is only white space. Segments tile the tokens: none is in two of them
//! or in none, and the segments' texts, put together, are the decoded rollout.
//!
//! A token that holds the end of one step and the start of the next delimiter belongs to the step
//! where its first byte lies, so the next segment begins one token later. A character split over
//! two segments is shown in the one where its first byte lies. Special tokens have no text.

mod decoder;
mod delimiter;
mod stream;
mod vocabulary;

use std::ops::Range;
use std::str::FromStr;

use tokenizers::Tokenizer;

use delimiter::Delimiter;
use vocabulary::Vocabulary;

/// What can go wrong when a rollout is cut into steps.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The JSON is not a tokenizer of the `tokenizers` library.
    #[error("not a tokenizer.json of the tokenizers library: {0}")]
    Tokenizer(tokenizers::Error),
    /// A delimiter has at least one character.
    #[error("the step delimiter is empty; give at least one character, such as \"###\"")]
    EmptyDelimiter,
    /// The rollout was sampled with another tokenizer, or from the padding of the model's vocabulary.
    #[error(
        "token id {id} at position {position} is not in the tokenizer's vocabulary of {size} \
         entries; was the rollout sampled with another tokenizer?"
    )]
    UnknownId {
        /// The id as given.
        id: u32,
        /// Its index in the rollout.
        position: usize,
        /// Number of entries of the vocabulary, added tokens included.
        size: usize,
    },
}

/// One step: tokens `start..end` of the rollout and their text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Index of the first token.
    pub start: usize,
    /// One past the index of the last token.
    pub end: usize,
    /// Decoded text without special tokens; invalid UTF-8 becomes U+FFFD.
    pub text: String,
}

/// A decoded rollout: token `i` begins at byte `starts[i]`; it ends where the next one begins.
struct Decoded {
    /// UTF-8, except where the tokens' own bytes are not.
    bytes: Vec<u8>,
    /// Ascending, one per token; special tokens are empty.
    starts: Vec<usize>,
}

enum Decode {
    /// Bytes per vocabulary entry: one copy per token.
    Table(Vocabulary),
    /// Any other decoder, through the library itself.
    Stream(Box<Tokenizer>),
}

/// Cuts rollouts of one tokenizer at one delimiter.
pub struct Splitter {
    delimiter: Delimiter,
    decode: Decode,
}

impl Splitter {
    /// Reads the text of a `tokenizer.json`.
    ///
    /// A delimiter made of one repeated character matches every run that is at least as long
    /// (`#####` is one `###`); any other delimiter matches exactly, without overlap.
    pub fn from_json(tokenizer_json: &str, delimiter: &str) -> Result<Self, Error> {
        let delimiter = Delimiter::new(delimiter)?;
        let tokenizer = Tokenizer::from_str(tokenizer_json).map_err(Error::Tokenizer)?;
        let decode = match Vocabulary::of(&tokenizer).map_err(Error::Tokenizer)? {
            Some(vocabulary) => Decode::Table(vocabulary),
            None => Decode::Stream(Box::new(tokenizer)),
        };
        Ok(Self { delimiter, decode })
    }

    /// The segments of one rollout, in order; none for no tokens.
    pub fn split(&self, token_ids: &[u32]) -> Result<Vec<Segment>, Error> {
        if token_ids.is_empty() {
            return Ok(Vec::new());
        }
        let decoded = match &self.decode {
            Decode::Table(vocabulary) => vocabulary.decode(token_ids)?,
            Decode::Stream(tokenizer) => stream::decode(tokenizer, token_ids)?,
        };
        let first_tokens = first_tokens(&decoded, &self.delimiter.step_starts(&decoded.bytes));
        let mut text_cuts: Vec<usize> = first_tokens
            .iter()
            .map(|&token| decoded.starts[token])
            .collect();
        text_cuts[0] = 0;
        move_to_characters(&decoded.bytes, &mut text_cuts);

        let token_ends = first_tokens[1..].iter().copied().chain([token_ids.len()]);
        let text_ends = text_cuts[1..].iter().copied().chain([decoded.bytes.len()]);
        let spans = first_tokens
            .iter()
            .zip(token_ends)
            .zip(text_cuts.iter().zip(text_ends));
        Ok(spans
            .map(|((&start, end), (&from, to))| Segment {
                start,
                end,
                text: text_of(&decoded.bytes[from..to]),
            })
            .collect())
    }
}

/// The byte ranges of a text's steps, for traces without tokens; they tile the text.
pub fn split_text(text: &str, delimiter: &str) -> Result<Vec<Range<usize>>, Error> {
    let delimiter = Delimiter::new(delimiter)?;
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let starts = delimiter.step_starts(text.as_bytes());
    let ends = starts[1..].iter().copied().chain([text.len()]);
    Ok(starts
        .iter()
        .copied()
        .zip(ends)
        .map(|(start, end)| start..end)
        .collect())
}

/// The first token of each step: the first one with text that begins at or after the step's byte.
/// Steps that share it are one; steps without any token of their own end with the one before.
fn first_tokens(decoded: &Decoded, step_starts: &[usize]) -> Vec<usize> {
    let starts = &decoded.starts;
    let mut first_tokens = vec![0];
    for &byte in &step_starts[1..] {
        let mut token = starts.partition_point(|&start| start < byte);
        while token + 1 < starts.len() && starts[token + 1] == starts[token] {
            token += 1;
        }
        let has_text = starts
            .get(token)
            .is_some_and(|&start| start < decoded.bytes.len());
        if has_text && first_tokens.last() != Some(&token) {
            first_tokens.push(token);
        }
    }
    first_tokens
}

/// Moves ascending byte offsets that lie inside a character (or inside a byte sequence that is
/// shown as one U+FFFD) to the start of the next one.
fn move_to_characters(bytes: &[u8], cuts: &mut [usize]) {
    // The common case; the walk over chunks is several times slower.
    if let Ok(text) = std::str::from_utf8(bytes) {
        for cut in cuts {
            while !text.is_char_boundary(*cut) {
                *cut += 1;
            }
        }
        return;
    }
    let mut cuts = cuts.iter_mut().peekable();
    let mut at = 0;
    for chunk in bytes.utf8_chunks() {
        let valid_end = at + chunk.valid().len();
        let end = valid_end + chunk.invalid().len();
        while let Some(cut) = cuts.next_if(|cut| **cut < end) {
            if *cut > valid_end {
                *cut = end;
            } else {
                while !chunk.valid().is_char_boundary(*cut - at) {
                    *cut += 1;
                }
            }
        }
        at = end;
    }
}

fn text_of(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => String::from_utf8_lossy(bytes).into_owned(),
    }
}
