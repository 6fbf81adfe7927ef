//! The fast path: the bytes of every vocabulary entry, for decoders that map tokens one by one.

use std::collections::HashMap;

use tokenizers::{Result, Tokenizer};

use crate::decoder::{Join, Kind, Plan, Strip};
use crate::{Decoded, Error};

/// A vocabulary entry, small enough that a token costs one cache line.
#[derive(Clone, Copy)]
struct Entry {
    kind: Kind,
    /// Bytes of the string; `LONG` if they are not in `head`.
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
        let mut entry = Entry {
            kind,
            len: LONG,
            head: [0; HEAD],
        };
        if let Some(head) = entry.head.get_mut(..string.len()) {
            head.copy_from_slice(&string);
            entry.len = string.len() as u8;
        } else {
            self.long.insert(self.entries.len() as u32, string);
        }
        self.entries.push(entry);
    }

    fn kind(&self, id: u32) -> Kind {
        self.entries
            .get(id as usize)
            .map_or(Kind::Unknown, |entry| entry.kind)
    }

    /// A copy of fixed length and a cut are faster than a copy of some length.
    fn append_to(&self, bytes: &mut Vec<u8>, id: u32) {
        let Entry { len, head, .. } = &self.entries[id as usize];
        if *len == LONG {
            bytes.extend_from_slice(&self.long[&id]);
        } else {
            let end = bytes.len() + usize::from(*len);
            bytes.extend_from_slice(head);
            bytes.truncate(end);
        }
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
        let mut bytes = Vec::with_capacity(ids.len() * 5 + HEAD);
        let mut starts = Vec::with_capacity(ids.len());
        let mut first = self.first.as_ref();
        let mut run = None;
        for (position, &id) in ids.iter().enumerate() {
            match self.strings.kind(id) {
                Kind::Unknown => {
                    return Err(Error::UnknownId {
                        id,
                        position,
                        size: self.size,
                    });
                }
                Kind::Special => {
                    starts.push(bytes.len());
                    continue;
                }
                Kind::Byte => run = run.or(Some(position)),
                Kind::Text => self.end_byte_run(run.take(), ids, &mut bytes, &mut starts),
            }
            let start = bytes.len();
            if let Some(strings) = first.take() {
                strings.append_to(&mut bytes, id);
                starts.push(start);
                continue;
            }
            self.strings.append_to(&mut bytes, id);
            // The joiner belongs to the token before it.
            let joined = self.join == Join::Spaced && bytes.get(start) == Some(&b' ');
            starts.push(start + usize::from(joined));
        }
        self.end_byte_run(run, ids, &mut bytes, &mut starts);
        let mut decoded = Decoded { bytes, starts };
        if let Some(strip) = self.strip {
            strip.apply(&mut decoded);
        }
        Ok(decoded)
    }

    /// Rewrites a run of byte tokens that is not UTF-8, from token `run` to the last one decoded.
    fn end_byte_run(
        &self,
        run: Option<usize>,
        ids: &[u32],
        bytes: &mut Vec<u8>,
        starts: &mut [usize],
    ) {
        let Some(from) = run else { return };
        let from_byte = starts[from];
        if std::str::from_utf8(&bytes[from_byte..]).is_ok() {
            return;
        }
        bytes.truncate(from_byte);
        for (start, &id) in starts[from..].iter_mut().zip(&ids[from..]) {
            *start = bytes.len();
            if self.strings.kind(id) == Kind::Byte {
                bytes.extend_from_slice("\u{FFFD}".as_bytes());
            }
        }
    }
}
