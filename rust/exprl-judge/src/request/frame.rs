//! What requests share: the JSON around a message, the rubric in it, and their part of the key.

use std::sync::Arc;

use bytes::Bytes;
use exprl_rubric::{Checklist, LAYOUT_VERSION, Layout, Readout, Rubric};
use serde_json::{Map, Value, json};

use crate::escape::{escape, escape_into};
use crate::ledger::Key;
use crate::settings::{Settings, Task};

/// Keys once held the version of the rules by which replies are read, 2 at the end. Stored replies are now
/// read again by today's rules, so no version belongs there; but without these bytes every ledger would
/// be asked for anew.
const PARSER_OF_OLD_KEYS: u32 = 2;
/// The replies that a server is held to where the grade alone is asked for.
const GRADES: [&str; 5] = ["1", "2", "3", "4", "5"];
/// Alternatives at a token, at most: the limit of `OpenAI`'s API and of vLLM.
const TOP_LOGPROBS: u32 = 20;

/// What the requests of all problems begin and end with.
pub(super) struct Frame {
    /// JSON, then the rubric.
    pub(super) open: Bytes,
    /// What is asked, then JSON.
    pub(super) end: Bytes,
    /// The same with `max_completion_tokens` in place of `max_tokens`.
    pub(super) renamed_end: Bytes,
    /// Where in `end` the JSON begins.
    pub(super) json: usize,
    /// Hash of both, and of all that a key holds beside the item.
    pub(super) hash: Key,
}

/// What a server calls the limit of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReplyLimit {
    MaxTokens,
    /// `OpenAI`'s models that think take no other name.
    MaxCompletionTokens,
}

impl ReplyLimit {
    pub(super) const ALL: [Self; 2] = [Self::MaxTokens, Self::MaxCompletionTokens];
}

/// A rubric, and its frames by `has_reference + 2 * has_checklist`.
pub(super) struct Framed {
    pub(super) rubric: Rubric,
    pub(super) frames: [Arc<Frame>; 4],
}

/// Makes frames.
pub(super) struct Frames {
    /// JSON before the rubric.
    open: Vec<u8>,
    /// JSON after what is asked, by the name of the reply's limit.
    close: [Vec<u8>; 2],
    /// The same without what says how the reply travels, for the keys.
    close_of_key: Vec<u8>,
    /// Hash state over all that a key holds beside the frame's texts and the item.
    hasher: blake3::Hasher,
    digit_alone: bool,
}

impl Frames {
    pub(super) fn new(settings: &Settings) -> Self {
        let mut open = b"{\"model\":\"".to_vec();
        open.extend_from_slice(&escape(&settings.model));
        open.extend_from_slice(b"\",\"messages\":[{\"role\":\"user\",\"content\":\"");
        let mut hasher = blake3::Hasher::new_derive_key("exprl-judge 2026 request key: frame");
        hasher.update(&PARSER_OF_OLD_KEYS.to_le_bytes());
        hasher.update(&LAYOUT_VERSION.to_le_bytes());
        hasher.update(settings.view.name().as_bytes());
        hasher.update(&settings.sample_index.to_le_bytes());
        hasher.update(&(settings.revision.len() as u64).to_le_bytes());
        hasher.update(settings.revision.as_bytes());
        // Only what differs from the default is part of a key: ledgers from before there was a choice stay.
        if settings.layout != Layout::default() {
            hasher.update(<&str>::from(settings.layout).as_bytes());
        }
        let mut fields = sampling(settings);
        if settings.task == Task::Checklist {
            let schema =
                json!({"name": "checklist", "strict": true, "schema": Checklist::schema()});
            let format = json!({"type": "json_schema", "json_schema": schema});
            fields.insert("response_format".into(), format);
        } else if settings.readout != Readout::Text {
            fields.insert("logprobs".into(), json!(true));
            fields.insert("top_logprobs".into(), json!(TOP_LOGPROBS));
        }
        if settings.asks_digit_alone() {
            fields.insert("structured_outputs".into(), json!({"choice": GRADES}));
        }
        let close_of_key = end_of_body(&fields, ReplyLimit::MaxTokens);
        if settings.stream {
            fields.insert("stream".into(), json!(true));
            fields.insert("stream_options".into(), json!({"include_usage": true}));
        }
        Self {
            open,
            close: ReplyLimit::ALL.map(|name| end_of_body(&fields, name)),
            close_of_key,
            hasher,
            digit_alone: settings.asks_digit_alone(),
        }
    }

    pub(super) fn frame(&self, head: &str, instruction: &str) -> Arc<Frame> {
        let mut open = self.open.clone();
        escape_into(&mut open, head);
        let end = escape(instruction);
        let json = end.len();
        let mut hasher = self.hasher.clone();
        for text in [&open, &end, &self.close_of_key] {
            hasher
                .update(&(text.len() as u64).to_le_bytes())
                .update(text);
        }
        let [end, renamed_end] = self
            .close
            .each_ref()
            .map(|close| [&end[..], close].concat());
        Arc::new(Frame {
            open: open.into(),
            end: end.into(),
            renamed_end: renamed_end.into(),
            json,
            hash: *hasher.finalize().as_bytes(),
        })
    }

    pub(super) fn around(&self, rubric: Rubric) -> Arc<Framed> {
        let frames = [(false, false), (true, false), (false, true), (true, true)];
        let frames = frames.map(|(has_reference, has_checklist)| {
            let [head, instruction] = rubric.texts(has_reference, has_checklist);
            let direct = rubric.direct_instruction(has_reference, has_checklist);
            self.frame(
                head,
                if self.digit_alone {
                    direct
                } else {
                    instruction
                },
            )
        });
        Arc::new(Framed { rubric, frames })
    }
}

/// JSON after the begun reply of a re-ask. The names are vLLM's (chat completion protocol, 0.32): the
/// last message is continued, not closed.
pub(super) fn ask_again(settings: &Settings, name: ReplyLimit) -> Bytes {
    let mut fields = sampling(settings);
    fields.insert("max_tokens".into(), json!(4));
    fields.insert("add_generation_prompt".into(), json!(false));
    fields.insert("continue_final_message".into(), json!(true));
    fields.insert("structured_outputs".into(), json!({"choice": GRADES}));
    end_of_body(&fields, name).into()
}

fn sampling(settings: &Settings) -> Map<String, Value> {
    let mut fields = settings.extra.clone();
    fields.insert("temperature".into(), json!(settings.temperature));
    fields.insert("max_tokens".into(), json!(settings.reply_tokens()));
    fields
}

/// Closes the message, the list and the object around `fields`.
fn end_of_body(fields: &Map<String, Value>, name: ReplyLimit) -> Vec<u8> {
    let mut fields = fields.clone();
    if name == ReplyLimit::MaxCompletionTokens
        && let Some(limit) = fields.remove("max_tokens")
    {
        fields.insert("max_completion_tokens".into(), limit);
    }
    let fields = Value::Object(fields).to_string();
    format!("\"}}],{}", &fields[1..]).into()
}
