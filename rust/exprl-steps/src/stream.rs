//! The general path: any decoder, followed token by token with the library's `DecodeStream`.

use tokenizers::Tokenizer;

use crate::{Decoded, Error};

/// A character that several tokens make up belongs to the first of them.
pub(crate) fn decode(tokenizer: &Tokenizer, ids: &[u32]) -> Result<Decoded, Error> {
    let mut stream = tokenizer.decode_stream(true);
    let mut text = String::new();
    let mut starts: Vec<usize> = Vec::with_capacity(ids.len());
    // The first of the tokens that have not yielded text yet.
    let mut pending = None;
    for (position, &id) in ids.iter().enumerate() {
        let size = || tokenizer.get_vocab_size(true);
        let token = tokenizer.id_to_token(id).ok_or_else(|| Error::UnknownId {
            id,
            position,
            size: size(),
        })?;
        starts.push(text.len());
        if tokenizer.get_added_vocabulary().is_special_token(&token) {
            continue;
        }
        let first = *pending.get_or_insert(position);
        if let Some(chunk) = stream
            .step(id)
            .map_err(|_| Error::NotTokenwise { position })?
        {
            text.push_str(&chunk);
            starts[first + 1..].fill(text.len());
            pending = None;
        }
    }
    let whole = tokenizer.decode(ids, true).map_err(Error::Tokenizer)?;
    if !whole.starts_with(&text) {
        return Err(Error::NotTokenwise {
            position: ids.len() - 1,
        });
    }
    if let Some(first) = pending {
        starts[first + 1..].fill(whole.len());
    }
    Ok(Decoded {
        bytes: whole.into_bytes(),
        starts,
    })
}
