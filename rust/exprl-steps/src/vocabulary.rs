//! The fast path: the bytes of every vocabulary entry, for decoders that map tokens one by one.

use std::collections::HashMap;

use tokenizers::{Result, Tokenizer};

use crate::decoder::{Join, Kind, Plan, Strip};
use crate::{Decoded, Error};

/// A vocabulary entry, small enough that a token costs one cache line.
#[derive(Clone, Copy)]
struct Entry {
    kind: Kind,
    /// Bytes of the string; `LONG` if `head` has only the first of them.
    len: u8,
    head: [u8; HEAD],
}

const HEAD: usize = 14;
const LONG: u8 = u8::MAX;

/// One kind and byte string per token id.
#[derive(Default)]
struct Strings {
    entries: Vec<Entry>,
    long: HashMap<u32, Vec<u8>>,
}

impl Strings {
    fn push(&mut self, kind: Kind, string: Vec<u8>) {
        let mut head = [0; HEAD];
        let len = string.len().min(HEAD);
        head[..len].copy_from_slice(&string[..len]);
        let is_long = string.len() > HEAD;
        if is_long {
            self.long.insert(self.entries.len() as u32, string);
        }
        let len = if is_long { LONG } else { len as u8 };
        self.entries.push(Entry { kind, len, head });
    }

    fn kind(&self, id: u32) -> Kind {
        self.entries
            .get(id as usize)
            .map_or(Kind::Unknown, |entry| entry.kind)
    }
}

pub(crate) struct Vocabulary {
    strings: Strings,
    /// The strings at a rollout's first token with text, where they differ.
    first: Option<Strings>,
    join: Join,
    strip: Option<Strip>,
    size: usize,
}

impl Vocabulary {
    /// `None` if the decoder is not known to map tokens one by one.
    pub(crate) fn of(tokenizer: &Tokenizer) -> Result<Option<Self>> {
        let Some(plan) = Plan::of(tokenizer.get_decoder()) else {
            return Ok(None);
        };
        let ids = tokenizer.get_vocab(true);
        let len = ids.values().max().map_or(0, |&id| id as usize + 1);
        let mut vocabulary = Self {
            strings: Strings::default(),
            first: plan.first_differs.then(Strings::default),
            join: plan.join,
            strip: plan.strip,
            size: tokenizer.get_vocab_size(true),
        };
        for id in 0..len as u32 {
            vocabulary.push(tokenizer, &plan, id)?;
        }
        Ok(Some(vocabulary))
    }

    fn push(&mut self, tokenizer: &Tokenizer, plan: &Plan, id: u32) -> Result<()> {
        let Some(token) = tokenizer.id_to_token(id) else {
            self.push_empty(Kind::Unknown);
            return Ok(());
        };
        if tokenizer.get_added_vocabulary().is_special_token(&token) {
            self.push_empty(Kind::Special);
            return Ok(());
        }
        let (kind, string) = plan.decode(&token, false)?;
        self.strings.push(kind, string);
        if let Some(strings) = &mut self.first {
            let (kind, string) = plan.decode(&token, true)?;
            strings.push(kind, string);
        }
        Ok(())
    }

    fn push_empty(&mut self, kind: Kind) {
        for strings in [Some(&mut self.strings), self.first.as_mut()]
            .into_iter()
            .flatten()
        {
            strings.push(kind, Vec::new());
        }
    }

    /// Equal to the library's `decode(ids, skip_special_tokens = true)` once made valid UTF-8.
    pub(crate) fn decode(&self, ids: &[u32]) -> std::result::Result<Decoded, Error> {
        let spaced = self.join == Join::Spaced;
        let mut strings = self.first.as_ref().unwrap_or(&self.strings);
        let mut bytes = vec![0; ids.len() * 6 + HEAD];
        let mut starts = vec![0; ids.len()];
        let mut end = 0;
        for ((position, &id), start) in ids.iter().enumerate().zip(&mut starts) {
            let unknown = Error::UnknownId {
                id,
                position,
                size: self.size,
            };
            let Some(Entry { kind, len, head }) = strings.entries.get(id as usize) else {
                return Err(unknown);
            };
            // The joiner belongs to the token before it.
            *start = end + usize::from(spaced && head[0] == b' ');
            match kind {
                Kind::Unknown => return Err(unknown),
                Kind::Special => continue,
                Kind::Text | Kind::Byte => {}
            }
            if *len == LONG {
                let string = &strings.long[&id];
                make_room(&mut bytes, end + string.len());
                bytes[end..end + string.len()].copy_from_slice(string);
                end += string.len();
            } else {
                // All of `head` is copied faster than what counts; the next token overwrites it.
                make_room(&mut bytes, end + HEAD);
                bytes[end..end + HEAD].copy_from_slice(head);
                end += usize::from(*len);
            }
            strings = &self.strings;
        }
        bytes.truncate(end);
        let mut decoded = Decoded { bytes, starts };
        if self.join == Join::ByteFallback {
            self.mend_byte_runs(ids, &mut decoded);
        }
        if let Some(strip) = self.strip {
            strip.apply(&mut decoded);
        }
        Ok(decoded)
    }

    /// Writes one U+FFFD for each token of a run of byte tokens that is not UTF-8.
    fn mend_byte_runs(&self, ids: &[u32], decoded: &mut Decoded) {
        let kind = |position: usize| self.strings.kind(ids[position]);
        let span = |decoded: &Decoded, from: usize, to: usize| {
            decoded.starts[from]
                ..decoded
                    .starts
                    .get(to)
                    .copied()
                    .unwrap_or(decoded.bytes.len())
        };
        let mut broken = vec![false; ids.len()];
        let mut position = 0;
        while position < ids.len() {
            let run = position;
            position += 1;
            if kind(run) != Kind::Byte {
                continue;
            }
            while position < ids.len() && kind(position) != Kind::Text {
                position += 1;
            }
            if std::str::from_utf8(&decoded.bytes[span(decoded, run, position)]).is_err() {
                (run..position).for_each(|token| broken[token] = kind(token) == Kind::Byte);
            }
        }
        if !broken.contains(&true) {
            return;
        }
        let mut bytes = Vec::with_capacity(decoded.bytes.len() * 3);
        let mut starts = Vec::with_capacity(ids.len());
        for (token, broken) in broken.into_iter().enumerate() {
            starts.push(bytes.len());
            let string = &decoded.bytes[span(decoded, token, token + 1)];
            bytes.extend_from_slice(if broken {
                "\u{FFFD}".as_bytes()
            } else {
                string
            });
        }
        *decoded = Decoded { bytes, starts };
    }
}

#[inline]
fn make_room(bytes: &mut Vec<u8>, len: usize) {
    if bytes.len() < len {
        bytes.resize(2 * len, 0);
    }
}
