//! The `OpenAI` chat completion format with vLLM's additions, as far as a judge is asked for it.

use serde::Deserialize;
use serde_json::Value;

/// Prompt tokens are counted as four bytes each, rounded up: there is no tokenizer here.
const BYTES_PER_TOKEN: usize = 4;
/// The limit of `OpenAI`'s API.
const MOST_TOP_LOGPROBS: u8 = 20;

/// A request; fields that a rule has no use for are ignored.
#[derive(Deserialize)]
pub(crate) struct ChatRequest {
    pub(crate) model: String,
    messages: Vec<Message>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    logprobs: Option<bool>,
    top_logprobs: Option<u8>,
    max_tokens: Option<usize>,
    max_completion_tokens: Option<usize>,
    n: Option<u32>,
    add_generation_prompt: Option<bool>,
    continue_final_message: Option<bool>,
    structured_outputs: Option<StructuredOutputs>,
    response_format: Option<ResponseFormat>,
}

#[derive(Deserialize)]
struct StreamOptions {
    include_usage: Option<bool>,
}

/// vLLM's constraints on the reply.
#[derive(Deserialize)]
struct StructuredOutputs {
    choice: Option<Vec<String>>,
    json: Option<Value>,
}

#[derive(Deserialize)]
struct ResponseFormat {
    r#type: String,
}

#[derive(Deserialize)]
struct Message {
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

    fn len(&self) -> usize {
        match &self.content {
            Content::Text(text) => text.len(),
            Content::Parts(parts) => parts.iter().map(|part| part.text.len()).sum(),
        }
    }
}

/// How a reply may look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form<'a> {
    /// Anything.
    Free,
    /// The rest of a reply that ends with `Score:`.
    Digit,
    /// One of these.
    Choice(&'a [String]),
    /// A JSON object.
    Json,
}

impl ChatRequest {
    /// Reads a body; the error says what is wrong with it.
    pub(crate) fn read(body: &[u8]) -> Result<Self, String> {
        let request: Self = serde_json::from_slice(body)
            .map_err(|e| format!("the body is not a chat completion request: {e}"))?;
        let wrong = if request.messages.is_empty() {
            "messages is empty"
        } else if request.n.is_some_and(|n| n != 1) {
            "n must be 1: a rule gives one answer"
        } else if request.most_tokens() == Some(0) {
            "max_tokens must be at least 1"
        } else if request.top_logprobs.is_some() && request.logprobs != Some(true) {
            "top_logprobs needs logprobs to be true"
        } else if request.top_logprobs > Some(MOST_TOP_LOGPROBS) {
            "top_logprobs must be at most 20"
        } else if request.continues() && request.add_generation_prompt != Some(false) {
            "continue_final_message needs add_generation_prompt to be false"
        } else if request.continues() && !request.ends_with_assistant() {
            "continue_final_message needs a last message of the assistant"
        } else {
            return Ok(request);
        };
        Err(wrong.into())
    }

    pub(crate) fn wants_stream(&self) -> bool {
        self.stream == Some(true)
    }

    /// Whether a stream ends with the token counts.
    pub(crate) fn wants_usage(&self) -> bool {
        let options = self.stream_options.as_ref();
        options.is_some_and(|options| options.include_usage == Some(true))
    }

    /// How many alternatives to list at each token; `None` without log-probabilities.
    pub(crate) fn top_logprobs(&self) -> Option<usize> {
        (self.logprobs == Some(true)).then(|| usize::from(self.top_logprobs.unwrap_or(0)))
    }

    pub(crate) fn most_tokens(&self) -> Option<usize> {
        self.max_completion_tokens.or(self.max_tokens)
    }

    pub(crate) fn prompt_tokens(&self) -> usize {
        let bytes: usize = self.messages.iter().map(Message::len).sum();
        bytes.div_ceil(BYTES_PER_TOKEN)
    }

    /// The first user message: what is to be judged.
    pub(crate) fn question(&self) -> Option<String> {
        let mut messages = self.messages.iter();
        messages
            .find(|message| message.role == "user")
            .map(Message::text)
    }

    /// Whether the reply is begun already and wants its digit.
    pub(crate) fn is_re_ask(&self) -> bool {
        let last = self
            .messages
            .last()
            .filter(|message| message.role == "assistant");
        last.is_some_and(|message| message.text().trim_end().ends_with("Score:"))
    }

    pub(crate) fn form(&self) -> Form<'_> {
        if let Some(choice) = self
            .structured_outputs
            .as_ref()
            .and_then(|s| s.choice.as_ref())
        {
            return Form::Choice(choice);
        }
        let guided = self
            .structured_outputs
            .as_ref()
            .is_some_and(|s| s.json.is_some());
        let format = self
            .response_format
            .as_ref()
            .map(|format| format.r#type.as_str());
        if guided || matches!(format, Some("json_object" | "json_schema")) {
            Form::Json
        } else if self.is_re_ask() {
            Form::Digit
        } else {
            Form::Free
        }
    }

    fn continues(&self) -> bool {
        self.continue_final_message == Some(true)
    }

    fn ends_with_assistant(&self) -> bool {
        self.messages
            .last()
            .is_some_and(|message| message.role == "assistant")
    }
}
