//! An answer of status 200: whole or as server-sent events, with log-probabilities.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::wire::ChatRequest;

/// Letters of a token, at most.
const LONGEST_WORD: usize = 6;
/// What `OpenAI` writes for a probability of zero.
const NEVER: f64 = -9999.0;

/// What the judge says.
pub(crate) struct Reply {
    tokens: Vec<String>,
    pub(crate) prompt_tokens: usize,
    finish_reason: &'static str,
    /// The grade's token and the probabilities of 1..5 there.
    digit: Option<(usize, [f64; 5])>,
    top_logprobs: Option<usize>,
    model: String,
    id: String,
}

impl Reply {
    /// The answer to a request, cut at its `max_tokens`; `doubt` is the probability of the grades
    /// next to `grade`.
    pub(crate) fn new(request: &ChatRequest, text: &str, grade: Option<u8>, doubt: f64) -> Self {
        let mut tokens = tokens(text);
        let limit = request.most_tokens().unwrap_or(usize::MAX);
        let finish_reason = if tokens.len() > limit {
            "length"
        } else {
            "stop"
        };
        tokens.truncate(limit);
        let digit = grade.and_then(|grade| {
            let place = tokens
                .iter()
                .rposition(|token| *token == grade.to_string())?;
            Some((place, distribution(grade, doubt)))
        });
        Self {
            prompt_tokens: request.prompt_tokens(),
            finish_reason,
            digit,
            top_logprobs: request.top_logprobs(),
            model: request.model.clone(),
            id: format!("chatcmpl-{}", &blake3::hash(text.as_bytes()).to_hex()[..24]),
            tokens,
        }
    }

    pub(crate) fn completion_tokens(&self) -> usize {
        self.tokens.len()
    }

    /// One JSON object.
    pub(crate) fn completion(&self) -> String {
        let message = json!({"role": "assistant", "content": self.tokens.concat()});
        let all = 0..self.tokens.len();
        let mut body = self.object(
            "chat.completion",
            "message",
            message,
            all,
            Some(self.finish_reason),
        );
        body["usage"] = self.usage();
        body.to_string()
    }

    /// The same as server-sent events, one token in each.
    pub(crate) fn events(&self, include_usage: bool) -> Vec<String> {
        let chunk = |delta, tokens, finish| {
            self.object("chat.completion.chunk", "delta", delta, tokens, finish)
        };
        let mut events = vec![chunk(
            json!({"role": "assistant", "content": ""}),
            0..0,
            None,
        )];
        events.extend(
            (0..self.tokens.len())
                .map(|i| chunk(json!({"content": self.tokens[i]}), i..i + 1, None)),
        );
        events.push(chunk(json!({}), 0..0, Some(self.finish_reason)));
        if include_usage {
            let mut last = chunk(json!({}), 0..0, None);
            last["choices"] = json!([]);
            last["usage"] = self.usage();
            events.push(last);
        }
        let mut lines: Vec<String> = events
            .iter()
            .map(|event| format!("data: {event}\n\n"))
            .collect();
        lines.push("data: [DONE]\n\n".into());
        lines
    }

    fn object(
        &self,
        kind: &str,
        field: &str,
        content: Value,
        tokens: std::ops::Range<usize>,
        finish: Option<&str>,
    ) -> Value {
        let created = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |t| t.as_secs());
        let logprobs = match self.top_logprobs {
            Some(top) if !tokens.is_empty() => {
                json!({"content": tokens.map(|i| self.logprob(i, top)).collect::<Vec<_>>()})
            }
            _ => Value::Null,
        };
        let mut choice = json!({"index": 0, "finish_reason": finish, "logprobs": logprobs});
        choice[field] = content;
        json!({
            "id": self.id,
            "object": kind,
            "created": created,
            "model": self.model,
            "choices": [choice],
        })
    }

    /// A rule is certain of each token but the grade.
    fn logprob(&self, index: usize, top: usize) -> Value {
        let entry = |token: &str, p: f64| {
            let logprob = if p > 0.0 { p.ln() } else { NEVER };
            json!({"token": token, "logprob": logprob, "bytes": token.as_bytes()})
        };
        let token = &self.tokens[index];
        let mut likely = match self.digit {
            Some((place, p)) if place == index => {
                let mut grades: Vec<(String, f64)> =
                    (1..=5).map(|g| g.to_string()).zip(p).collect();
                grades.sort_by(|a, b| b.1.total_cmp(&a.1));
                grades
            }
            _ => vec![(token.clone(), 1.0)],
        };
        let own = likely
            .iter()
            .find(|(other, _)| other == token)
            .map_or(1.0, |(_, p)| *p);
        likely.truncate(top);
        let mut object = entry(token, own);
        object["top_logprobs"] = likely.iter().map(|(token, p)| entry(token, *p)).collect();
        object
    }

    fn usage(&self) -> Value {
        json!({
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens(),
            "total_tokens": self.prompt_tokens + self.completion_tokens(),
        })
    }
}

/// The grade with `1 - doubt`, its neighbours with the rest in equal parts.
fn distribution(grade: u8, doubt: f64) -> [f64; 5] {
    let place = usize::from(grade - 1);
    let neighbours: Vec<usize> = [place.wrapping_sub(1), place + 1]
        .into_iter()
        .filter(|&i| i < 5)
        .collect();
    let mut p = [0.0; 5];
    p[place] = 1.0 - doubt;
    for &i in &neighbours {
        p[i] = doubt / neighbours.len() as f64;
    }
    p
}

/// Words of a few letters with the space before them; any other character alone. Joined, they are the text.
fn tokens(text: &str) -> Vec<String> {
    let mut tokens: Vec<String> = Vec::new();
    let mut letters = 0;
    for c in text.chars() {
        match tokens.last_mut() {
            Some(token)
                if c.is_alphabetic() && (letters > 0 || token == " ") && letters < LONGEST_WORD =>
            {
                token.push(c);
            }
            _ => {
                letters = 0;
                tokens.push(c.into());
            }
        }
        letters = if c.is_alphabetic() { letters + 1 } else { 0 };
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_short_words_and_single_characters() {
        let text = "The answer is 42.\nScore: 5 – été";
        assert_eq!(tokens(text).concat(), text);
        assert_eq!(
            tokens(" the incredibly 5"),
            [" the", " incred", "ibly", " ", "5"]
        );
    }

    #[test]
    fn a_doubt_goes_to_the_neighbours() {
        for (grade, doubt, expected) in [
            (5, 0.25, "[0.0, 0.0, 0.0, 0.25, 0.75]"),
            (2, 0.5, "[0.25, 0.5, 0.25, 0.0, 0.0]"),
            (1, 0.0, "[1.0, 0.0, 0.0, 0.0, 0.0]"),
        ] {
            assert_eq!(format!("{:?}", distribution(grade, doubt)), expected);
        }
    }
}
