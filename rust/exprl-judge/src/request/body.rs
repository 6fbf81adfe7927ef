//! The body of one request: pieces of shared memory, never one long copy.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use exprl_rubric::open_thinking;

use super::frame::Frame;
use crate::escape::escape;
use crate::ledger::Key;

/// A request body: `[frame: open][problem, reference][trace][closing fence][frame: end]`.
#[derive(Clone)]
pub(crate) struct Body {
    pub(super) frame: Arc<Frame>,
    /// What the requests of one rollout share: `[closing fence][problem, reference][trace]`.
    pub(super) text: Bytes,
    /// Where in it the second part begins.
    pub(super) blocks: usize,
    /// Where it ends.
    pub(super) blocks_end: usize,
    pub(super) trace: Range<usize>,
    /// In place of the frame's.
    pub(super) end: Option<Bytes>,
}

impl Body {
    pub(crate) fn parts(&self) -> [&[u8]; 5] {
        [
            &self.frame.open,
            &self.text[self.blocks..self.blocks_end],
            &self.text[self.trace.clone()],
            &self.text[..self.blocks],
            self.end.as_ref().unwrap_or(&self.frame.end),
        ]
    }

    /// The same, to be sent: nothing is copied.
    pub(crate) fn pieces(&self) -> [Bytes; 5] {
        [
            self.frame.open.clone(),
            self.text.slice(self.blocks..self.blocks_end),
            self.text.slice(self.trace.clone()),
            self.text.slice(..self.blocks),
            self.end.as_ref().unwrap_or(&self.frame.end).clone(),
        ]
    }

    pub(crate) fn trace(&self) -> &[u8] {
        &self.text[self.trace.clone()]
    }

    /// Bytes of the whole, and of the head that its problem's requests share.
    pub(crate) fn sizes(&self) -> (usize, usize) {
        let [open, blocks, trace, close, end] = self.parts().map(<[u8]>::len);
        (open + blocks + trace + close + end, open + blocks)
    }

    /// Bytes that the body of a longer prefix of the same trace begins with as well.
    pub(crate) fn shareable(&self) -> usize {
        self.sizes().1 + self.trace.len()
    }

    /// Tells heads apart.
    pub(crate) fn head_hash(&self) -> Key {
        let [open, blocks, ..] = self.parts();
        let mut hasher = blake3::Hasher::new();
        *hasher.update(open).update(blocks).finalize().as_bytes()
    }

    /// The same request to a server that calls the limit of a reply `max_completion_tokens`.
    pub(crate) fn renamed(&self) -> Self {
        Self {
            end: Some(self.frame.renamed_end.clone()),
            ..self.clone()
        }
    }

    /// The same conversation, with the judge's reply begun: it goes on after `Score:`.
    pub(crate) fn continued(&self, reply: &str, ask_again: &Bytes) -> Self {
        // An open thinking block would swallow the grade.
        let close = open_thinking(reply).map_or(String::new(), |tag| format!("\n{tag}\n"));
        let begun = format!("{}{close}\nScore:", reply.trim_end());
        let mut end = self.frame.end[..self.frame.json].to_vec();
        end.extend_from_slice(b"\"},{\"role\":\"assistant\",\"content\":\"");
        end.extend_from_slice(&escape(begun.trim_start()));
        end.extend_from_slice(ask_again);
        Self {
            end: Some(end.into()),
            ..self.clone()
        }
    }

    /// The user's message, as the model reads it.
    pub(crate) fn question(&self) -> String {
        let body = self.parts().concat();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        let message = &body["messages"][0]["content"];
        message.as_str().unwrap_or_default().to_owned()
    }

    #[cfg(test)]
    pub(super) fn text(&self) -> String {
        String::from_utf8(self.parts().concat()).unwrap()
    }
}
