//! What a request asks, and the name of its content.

use exprl_rubric::ParsedRequest;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::StatusCode;
use hyper::body::Incoming;

use crate::config::Config;
use crate::wire::ChatRequest;

/// The request and the text of its question, or the status and the reason to refuse it.
pub(crate) async fn read(
    body: Incoming,
    config: &Config,
) -> Result<(ChatRequest, String), (StatusCode, String)> {
    let limit = config.max_body_bytes;
    let body = Limited::new(body, limit).collect().await.map_err(|error| {
        if error.is::<LengthLimitError>() {
            (
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("the body is longer than {limit} bytes"),
            )
        } else {
            (
                StatusCode::BAD_REQUEST,
                format!("the body cannot be read: {error}"),
            )
        }
    })?;
    let bad = |message| (StatusCode::BAD_REQUEST, message);
    let request = ChatRequest::read(&body.to_bytes()).map_err(bad)?;
    let model = &config.model;
    if request.model != *model {
        let message = format!(
            "the model {:?} does not exist; this judge is {model:?}",
            request.model
        );
        return Err((StatusCode::NOT_FOUND, message));
    }
    if let Some(longest) = config.max_model_len {
        let (prompt, reply) = (request.prompt_tokens(), request.most_tokens().unwrap_or(0));
        if prompt + reply > longest {
            return Err(bad(format!(
                "This model's maximum context length is {longest} tokens. However, you requested {} tokens \
                 ({prompt} in the messages, {reply} in the completion).",
                prompt + reply
            )));
        }
    }
    let question = request
        .question()
        .ok_or_else(|| bad("messages holds no user message".into()))?;
    Ok((request, question))
}

/// What is asked, without what differs between runs: the fence, and with it the head's bytes.
pub(crate) fn content_hash(
    question: &str,
    parsed: Option<&ParsedRequest<'_>>,
    writing: Option<(&str, &str)>,
) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    let Some(parsed) = parsed else {
        let asked = writing.map(|(problem, reference)| [problem, reference].concat());
        hasher.update(asked.as_deref().unwrap_or(question).as_bytes());
        return *hasher.finalize().as_bytes();
    };
    let texts = [
        parsed.view.name(),
        parsed.problem,
        parsed.reference.unwrap_or_default(),
        parsed.trace,
    ];
    for text in texts {
        hasher
            .update(&(text.len() as u64).to_le_bytes())
            .update(text.as_bytes());
    }
    hasher.update(&[u8::from(parsed.reference.is_some())]);
    *hasher.finalize().as_bytes()
}
