//! The general path: any decoder, followed token by token through the library.

use tokenizers::Tokenizer;

use crate::{Decoded, Error};

pub(crate) fn decode(tokenizer: &Tokenizer, ids: &[u32]) -> Result<Decoded, Error> {
    let is_special = ids
        .iter()
        .enumerate()
        .map(|(position, &id)| match tokenizer.id_to_token(id) {
            Some(token) => Ok(tokenizer.get_added_vocabulary().is_special_token(&token)),
            None => Err(Error::UnknownId {
                id,
                position,
                size: tokenizer.get_vocab_size(true),
            }),
        })
        .collect::<Result<Vec<bool>, Error>>()?;
    // Some of the library's decoders panic on no tokens at all.
    if is_special.iter().all(|&special| special) {
        return Ok(Decoded {
            bytes: Vec::new(),
            starts: vec![0; ids.len()],
        });
    }
    let whole = tokenizer.decode(ids, true).map_err(Error::Tokenizer)?;
    let starts = match by_stream(tokenizer, ids, &is_special, &whole) {
        Some(starts) => starts,
        None => by_prefix(tokenizer, ids, &is_special, &whole)?,
    };
    Ok(Decoded {
        bytes: whole.into_bytes(),
        starts,
    })
}

/// Where each token's text begins, in linear time; `None` if a later token changed earlier text.
///
/// A character that several tokens make up belongs to the first of them.
fn by_stream(
    tokenizer: &Tokenizer,
    ids: &[u32],
    is_special: &[bool],
    whole: &str,
) -> Option<Vec<usize>> {
    let mut stream = tokenizer.decode_stream(true);
    let mut text = String::new();
    let mut starts = Vec::with_capacity(ids.len());
    // The first of the tokens that have not yielded text yet.
    let mut pending = None;
    for (position, (&id, &special)) in ids.iter().zip(is_special).enumerate() {
        starts.push(text.len());
        if special {
            continue;
        }
        let first = *pending.get_or_insert(position);
        if let Some(chunk) = stream.step(id).ok()? {
            text.push_str(&chunk);
            starts[first + 1..].fill(text.len());
            pending = None;
        }
    }
    if let Some(first) = pending {
        starts[first + 1..].fill(whole.len());
    }
    whole.starts_with(&text).then_some(starts)
}

/// The same in quadratic time, for any decoder: a token begins where the text of the tokens before
/// it stops being the beginning of the whole.
fn by_prefix(
    tokenizer: &Tokenizer,
    ids: &[u32],
    is_special: &[bool],
    whole: &str,
) -> Result<Vec<usize>, Error> {
    let mut at = 0;
    let mut starts = Vec::with_capacity(ids.len());
    for (position, &special) in is_special.iter().enumerate() {
        starts.push(at);
        if !special {
            let text = tokenizer
                .decode(&ids[..=position], true)
                .map_err(Error::Tokenizer)?;
            let common = text
                .bytes()
                .zip(whole.bytes())
                .take_while(|(a, b)| a == b)
                .count();
            at = at.max(common);
        }
    }
    Ok(starts)
}
