//! Cuts a rollout's tokens, or a text, into steps by a rule, token-exactly.
//!
//! A rule says where steps start (`Rule`). Segments tile the tokens: none is in two of them or in
//! none, and the segments' texts, put together, are the decoded rollout. No step is white space only.
//!
//! A token that holds the end of one step and the start of the next one belongs to the step where
//! its first byte lies, so the next segment begins one token later. A character split over two
//! segments is shown in the one where its first byte lies. Special tokens have no text.

mod decoder;
mod delimiter;
mod display;
mod join;
mod lines;
mod rule;
mod stream;
mod vocabulary;

use std::borrow::Cow;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::str::FromStr;

use exprl_texts::blank_thinking;
use tokenizers::Tokenizer;

use vocabulary::Vocabulary;

pub use rule::Rule;

/// What can go wrong when a rollout is cut into steps.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The JSON is not a tokenizer of the `tokenizers` library.
    #[error("not a tokenizer.json of the tokenizers library: {0}")]
    Tokenizer(tokenizers::Error),
    /// A delimiter has at least one character.
    #[error("the step delimiter is empty; give at least one character, such as \"###\"")]
    EmptyDelimiter,
    /// None of `Rule::NAMES`.
    #[error(
        "there is no step rule {0:?}; the rules are {names}; a text of your own is the delimiter of \
         the rule delimiter",
        names = Rule::NAMES.join(", ")
    )]
    UnknownRule(String),
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

/// How a rollout or a text is cut.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where a step starts.
    pub rule: Rule,
    /// A step of fewer tokens (of a text: words) is joined to the next one, the last to the one before.
    pub min_size: NonZeroUsize,
    /// Neighbours are joined so that at most this many steps are left.
    pub max_steps: Option<NonZeroUsize>,
    /// Whether thinking is cut like other text. If not, no step starts inside a thinking block, and no step
    /// is thinking only: a block belongs to the step that it stands in, and at the start to the first one.
    pub cut_thinking: bool,
}

impl Settings {
    /// Every step that the rule finds.
    #[must_use]
    pub fn new(rule: Rule) -> Self {
        Self {
            rule,
            min_size: NonZeroUsize::MIN,
            max_steps: None,
            cut_thinking: true,
        }
    }

    /// The text in which starts of steps are looked for: thinking is white space where it is not cut.
    fn seen<'a>(&self, text: &'a [u8], opened: bool) -> Cow<'a, [u8]> {
        let blanked = if self.cut_thinking {
            None
        } else {
            blank_thinking(text, opened)
        };
        blanked.map_or(Cow::Borrowed(text), Cow::Owned)
    }

    /// Joins steps as the settings ask; `size` measures those from one start to another.
    fn join(
        &self,
        mut starts: Vec<usize>,
        end: usize,
        size: impl Fn(usize, usize) -> usize,
    ) -> Vec<usize> {
        if self.min_size > NonZeroUsize::MIN {
            starts = join::join_short(&starts, end, size, self.min_size.get());
        }
        match self.max_steps {
            Some(limit) => join::join_to_at_most(&starts, limit.get()),
            None => starts,
        }
    }
}

/// Cuts rollouts of one tokenizer.
pub struct Splitter {
    settings: Settings,
    decode: Decode,
}

impl Splitter {
    /// Reads the text of a `tokenizer.json`.
    pub fn from_json(tokenizer_json: &str, settings: Settings) -> Result<Self, Error> {
        let tokenizer = Tokenizer::from_str(tokenizer_json).map_err(Error::Tokenizer)?;
        let decode = match Vocabulary::of(&tokenizer).map_err(Error::Tokenizer)? {
            Some(vocabulary) => Decode::Table(vocabulary),
            None => Decode::Stream(Box::new(tokenizer)),
        };
        Ok(Self { settings, decode })
    }

    /// The segments of one rollout, in order; none for no tokens.
    pub fn split(&self, token_ids: &[u32]) -> Result<Vec<Segment>, Error> {
        self.split_after(token_ids, false)
    }

    /// The segments of a rollout after its prompt.
    ///
    /// `opened`: the prompt ends inside a thinking block, in which the rollout goes on.
    pub fn split_after(&self, token_ids: &[u32], opened: bool) -> Result<Vec<Segment>, Error> {
        if token_ids.is_empty() {
            return Ok(Vec::new());
        }
        let decoded = self.decode_tokens(token_ids)?;
        let seen = self.settings.seen(&decoded.bytes, opened);
        let steps = self.settings.rule.step_starts(&seen);
        Ok(self.cut(&decoded, &seen, &steps))
    }

    /// The segments of a rollout whose steps somebody else has found; the rule is not looked at.
    ///
    /// `starts`: the characters of the rollout's text at which steps start, ascending; 0 is always one.
    pub fn split_at(
        &self,
        token_ids: &[u32],
        opened: bool,
        starts: &[usize],
    ) -> Result<Vec<Segment>, Error> {
        if token_ids.is_empty() {
            return Ok(Vec::new());
        }
        let decoded = self.decode_tokens(token_ids)?;
        let seen = self.settings.seen(&decoded.bytes, opened);
        let steps = shown_starts(&seen, bytes_of(&decoded.bytes, starts));
        Ok(self.cut(&decoded, &seen, &steps))
    }

    fn decode_tokens(&self, token_ids: &[u32]) -> Result<Decoded, Error> {
        match &self.decode {
            Decode::Table(vocabulary) => vocabulary.decode(token_ids),
            Decode::Stream(tokenizer) => stream::decode(tokenizer, token_ids),
        }
    }

    /// The segments whose steps start at these bytes. `seen`: the text in which they were looked for.
    fn cut(&self, decoded: &Decoded, seen: &[u8], steps: &[usize]) -> Vec<Segment> {
        let count = decoded.starts.len();
        let first_tokens = first_tokens(decoded, steps);
        // A step whose text lies in a token of the step before may have white space left, or nothing.
        let shown = rule::shown(seen, &text_cuts(decoded, &first_tokens));
        let first_tokens =
            self.settings
                .join(rule::pick(first_tokens, &shown), count, |start, end| {
                    end - start
                });
        let text_cuts = text_cuts(decoded, &first_tokens);

        let token_ends = first_tokens[1..].iter().copied().chain([count]);
        let text_ends = text_cuts[1..].iter().copied().chain([decoded.bytes.len()]);
        let spans = first_tokens
            .iter()
            .zip(token_ends)
            .zip(text_cuts.iter().zip(text_ends));
        spans
            .map(|((&start, end), (&from, to))| Segment {
                start,
                end,
                text: text_of(&decoded.bytes[from..to]),
            })
            .collect()
    }
}

/// The byte ranges of a text's steps, for traces without tokens; they tile the text.
#[must_use]
pub fn split_text(text: &str, settings: &Settings) -> Vec<Range<usize>> {
    if text.is_empty() {
        return Vec::new();
    }
    let seen = settings.seen(text.as_bytes(), false);
    tile(text, settings, settings.rule.step_starts(&seen))
}

/// The same for steps that somebody else has found, at these characters; the rule is not looked at.
#[must_use]
pub fn split_text_at(text: &str, starts: &[usize], settings: &Settings) -> Vec<Range<usize>> {
    if text.is_empty() {
        return Vec::new();
    }
    let seen = settings.seen(text.as_bytes(), false);
    let starts = shown_starts(&seen, bytes_of(text.as_bytes(), starts));
    tile(text, settings, starts)
}

/// The byte ranges of the steps that start at these bytes, joined as the settings ask.
fn tile(text: &str, settings: &Settings, starts: Vec<usize>) -> Vec<Range<usize>> {
    let starts = settings.join(starts, text.len(), |from, to| {
        text[from..to].split_whitespace().count()
    });
    let ends = starts[1..].iter().copied().chain([text.len()]);
    starts
        .iter()
        .zip(ends)
        .map(|(&start, end)| start..end)
        .collect()
}

/// The starts of steps that are not white space only.
fn shown_starts(seen: &[u8], starts: Vec<usize>) -> Vec<usize> {
    let shown = rule::shown(seen, &starts);
    rule::pick(starts, &shown)
}

/// 0, and the bytes at which these characters of the shown text begin; places past the end are left out.
///
/// What is not UTF-8 is shown as one U+FFFD for each chunk, as `String::from_utf8_lossy` does.
fn bytes_of(bytes: &[u8], characters: &[usize]) -> Vec<usize> {
    let mut places = vec![0];
    let mut wanted = characters.iter().copied().filter(|&at| at > 0).peekable();
    let (mut byte, mut character) = (0, 0);
    for chunk in bytes.utf8_chunks() {
        let lengths = chunk.valid().chars().map(char::len_utf8);
        let invalid = Some(chunk.invalid().len()).filter(|&length| length > 0);
        for length in lengths.chain(invalid) {
            while wanted.next_if(|&at| at <= character).is_some() {
                if places.last() != Some(&byte) {
                    places.push(byte);
                }
            }
            byte += length;
            character += 1;
        }
    }
    places
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

/// The bytes at which the texts of the steps begin, at the starts of characters.
fn text_cuts(decoded: &Decoded, first_tokens: &[usize]) -> Vec<usize> {
    let mut cuts: Vec<usize> = first_tokens
        .iter()
        .map(|&token| decoded.starts[token])
        .collect();
    cuts[0] = 0;
    move_to_characters(&decoded.bytes, &mut cuts);
    cuts
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

/// Whether there is nothing but white space; what is not UTF-8 is shown, as U+FFFD.
fn is_blank(text: &[u8]) -> bool {
    let text = text.trim_ascii_start();
    // The common case, without a look at the rest.
    if text.first().is_some_and(u8::is_ascii_graphic) {
        return false;
    }
    text.utf8_chunks()
        .all(|chunk| chunk.invalid().is_empty() && chunk.valid().chars().all(char::is_whitespace))
}
