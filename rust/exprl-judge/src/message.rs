//! What a chat completion, or a piece of a streamed one, says: text, thinking, a refusal.

use serde::Deserialize;
use serde_json::Value;

/// A message, or the difference that a piece of a stream adds to one.
#[derive(Default, Deserialize)]
pub(crate) struct Message {
    content: Option<Content>,
    refusal: Option<String>,
    /// Where servers put the thinking that they take out of the text (vLLM and others use both names).
    reasoning_content: Option<Value>,
    reasoning: Option<Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Value>),
}

/// What a message says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Said {
    /// Its text parts, joined.
    pub(crate) text: String,
    /// Empty without one.
    pub(crate) refusal: String,
    /// There is thinking beside the text. It is not kept: nothing in it is a grade.
    pub(crate) thinks: bool,
}

impl Message {
    /// Parts of other types, such as images, say nothing.
    pub(crate) fn into_said(self) -> Said {
        let thinking = [self.reasoning_content, self.reasoning];
        let mut said = Said {
            refusal: self.refusal.unwrap_or_default(),
            thinks: thinking.iter().flatten().any(says_something),
            ..Said::default()
        };
        match self.content {
            None => {}
            Some(Content::Text(text)) => said.text = text,
            Some(Content::Parts(parts)) => parts.iter().for_each(|part| said.add(part)),
        }
        said
    }
}

impl Said {
    /// What a later piece says is added.
    pub(crate) fn append(&mut self, more: &Self) {
        self.text.push_str(&more.text);
        self.refusal.push_str(&more.refusal);
        self.thinks |= more.thinks;
    }

    fn add(&mut self, part: &Value) {
        let kind = part["type"].as_str().unwrap_or("text");
        match kind {
            "text" | "output_text" => {
                let text = part.as_str().or(part["text"].as_str());
                self.text.push_str(text.unwrap_or_default());
            }
            "refusal" => self
                .refusal
                .push_str(part["refusal"].as_str().unwrap_or("refused")),
            "thinking" | "redacted_thinking" | "reasoning" => self.thinks = true,
            _ => {}
        }
    }
}

fn says_something(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.trim().is_empty(),
        Value::Array(parts) => !parts.is_empty(),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_message_says_its_text_parts_and_knows_that_it_thinks() {
        let part = |kind: &str| json!({"type": kind, kind: "words"});
        for (message, text, refusal, thinks) in [
            (json!({"content": "words"}), "words", "", false),
            (json!({"content": null}), "", "", false),
            (json!({}), "", "", false),
            (
                json!({"content": [part("text"), part("text")]}),
                "wordswords",
                "",
                false,
            ),
            (
                json!({"content": ["words", {"text": "!"}]}),
                "words!",
                "",
                false,
            ),
            (
                json!({"content": [{"type": "output_text", "text": "words"}]}),
                "words",
                "",
                false,
            ),
            (
                json!({"content": [part("thinking"), part("text")]}),
                "words",
                "",
                true,
            ),
            (
                json!({"content": [{"type": "thinking", "thinking": [part("text")]}]}),
                "",
                "",
                true,
            ),
            (json!({"content": [part("refusal")]}), "", "words", false),
            (
                json!({"content": [part("image_url"), {"type": "text", "text": 3}, 4]}),
                "",
                "",
                false,
            ),
            (
                json!({"content": null, "reasoning_content": "hm"}),
                "",
                "",
                true,
            ),
            (
                json!({"content": "words", "reasoning": "hm", "reasoning_content": "hm"}),
                "words",
                "",
                true,
            ),
            (
                json!({"content": "words", "reasoning": null, "reasoning_content": " "}),
                "words",
                "",
                false,
            ),
            (
                json!({"content": "", "refusal": "words"}),
                "",
                "words",
                false,
            ),
        ] {
            let said = serde_json::from_value::<Message>(message.clone())
                .unwrap()
                .into_said();
            let expected = Said {
                text: text.into(),
                refusal: refusal.into(),
                thinks,
            };
            assert_eq!(said, expected, "{message}");
        }
    }
}
