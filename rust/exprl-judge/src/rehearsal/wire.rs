//! The `OpenAI` chat completion format, as far as a judge is asked for it.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use serde_json::{Value, json};

/// Tokens are counted as four bytes each, rounded up: there is no tokenizer here.
const BYTES_PER_TOKEN: usize = 4;

/// A request; fields that a rule has no use for are ignored.
#[derive(Deserialize)]
pub(super) struct ChatRequest {
    pub(super) model: String,
    pub(super) messages: Vec<Message>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    logprobs: Option<bool>,
    #[serde(alias = "max_completion_tokens")]
    max_tokens: Option<usize>,
    n: Option<u32>,
}

#[derive(Deserialize)]
struct StreamOptions {
    include_usage: Option<bool>,
}

#[derive(Deserialize)]
pub(super) struct Message {
    role: String,
    content: Content,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Deserialize)]
struct Part {
    text: String,
}

impl Message {
    fn text(&self) -> String {
        match &self.content {
            Content::Text(text) => text.clone(),
            Content::Parts(parts) => parts.iter().map(|part| part.text.as_str()).collect(),
        }
    }
}

impl ChatRequest {
    /// Reads a body; the error says what is wrong with it.
    pub(super) fn read(body: &[u8]) -> Result<Self, String> {
        let request: Self = serde_json::from_slice(body)
            .map_err(|e| format!("the body is not a chat completion request: {e}"))?;
        if request.messages.is_empty() {
            return Err("messages is empty".into());
        }
        if request.n.is_some_and(|n| n != 1) {
            return Err("n must be 1: a rule gives one answer".into());
        }
        if request.max_tokens == Some(0) {
            return Err("max_tokens must be at least 1".into());
        }
        Ok(request)
    }

    pub(super) fn wants_stream(&self) -> bool {
        self.stream == Some(true)
    }

    /// Whether a stream ends with the token counts.
    pub(super) fn wants_usage(&self) -> bool {
        self.stream_options
            .as_ref()
            .is_some_and(|options| options.include_usage == Some(true))
    }

    /// The first user message: what is to be judged.
    pub(super) fn question(&self) -> Option<String> {
        self.messages
            .iter()
            .find(|message| message.role == "user")
            .map(Message::text)
    }

    /// Whether the reply is begun already and wants its digit.
    pub(super) fn is_re_ask(&self) -> bool {
        self.messages.last().is_some_and(|message| {
            message.role == "assistant" && message.text().trim_end().ends_with("Score:")
        })
    }

    /// The answer to this request, cut at its `max_tokens`.
    pub(super) fn reply(&self, mut text: String) -> Reply {
        let prompt_bytes = self
            .messages
            .iter()
            .map(|message| message.text().len())
            .sum();
        let limit = self
            .max_tokens
            .unwrap_or(usize::MAX)
            .saturating_mul(BYTES_PER_TOKEN);
        let finish_reason = if text.len() > limit { "length" } else { "stop" };
        text.truncate(text.floor_char_boundary(limit));
        Reply {
            prompt_tokens: tokens(prompt_bytes),
            completion_tokens: tokens(text.len()),
            text,
            finish_reason,
            logprobs: self.logprobs == Some(true),
            model: self.model.clone(),
        }
    }
}

fn tokens(bytes: usize) -> u64 {
    bytes.div_ceil(BYTES_PER_TOKEN) as u64
}

/// An answer of status 200.
pub(super) struct Reply {
    pub(super) text: String,
    pub(super) prompt_tokens: u64,
    pub(super) completion_tokens: u64,
    finish_reason: &'static str,
    logprobs: bool,
    model: String,
}

impl Reply {
    /// One JSON object.
    pub(super) fn completion(&self) -> String {
        let message = json!({"role": "assistant", "content": self.text});
        let mut body = self.object(
            "chat.completion",
            "message",
            &message,
            Some(self.finish_reason),
        );
        body["usage"] = self.usage();
        body.to_string()
    }

    /// The same as server-sent events, a line of the reply in each.
    pub(super) fn events(&self, include_usage: bool) -> String {
        let chunk =
            |delta: Value, finish| self.object("chat.completion.chunk", "delta", &delta, finish);
        let mut events = vec![chunk(json!({"role": "assistant", "content": ""}), None)];
        events.extend(
            self.text
                .split_inclusive('\n')
                .map(|line| chunk(json!({"content": line}), None)),
        );
        events.push(chunk(json!({}), Some(self.finish_reason)));
        if include_usage {
            let mut last = chunk(json!({}), None);
            last["choices"] = json!([]);
            last["usage"] = self.usage();
            events.push(last);
        }
        let mut lines: Vec<_> = events
            .iter()
            .map(|event| format!("data: {event}\n\n"))
            .collect();
        lines.push("data: [DONE]\n\n".into());
        lines.concat()
    }

    fn object(&self, kind: &str, field: &str, content: &Value, finish: Option<&str>) -> Value {
        let created = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |t| t.as_secs());
        let logprobs = if self.logprobs && field == "message" {
            self.token_logprobs()
        } else {
            Value::Null
        };
        let mut choice = json!({"index": 0, "finish_reason": finish, "logprobs": logprobs});
        choice[field] = content.clone();
        json!({
            "id": format!("chatcmpl-{}", &blake3::hash(self.text.as_bytes()).to_hex()[..24]),
            "object": kind,
            "created": created,
            "model": self.model,
            "choices": [choice],
        })
    }

    /// A rule is certain of each token: the last character is one token, what is before it another.
    fn token_logprobs(&self) -> Value {
        let last = self.text.char_indices().next_back().map_or(0, |(at, _)| at);
        let token = |text: &str| {
            let token = json!({"token": text, "logprob": 0.0, "bytes": text.as_bytes()});
            let mut entry = token.clone();
            entry["top_logprobs"] = json!([token]);
            entry
        };
        let (before, digit) = self.text.split_at(last);
        let content: Vec<Value> = [before, digit]
            .into_iter()
            .filter(|text| !text.is_empty())
            .map(token)
            .collect();
        json!({"content": content})
    }

    fn usage(&self) -> Value {
        json!({
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        })
    }
}
