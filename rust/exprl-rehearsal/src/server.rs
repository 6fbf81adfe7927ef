//! Connections and routes.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use exprl_rubric::{ParsedRequest, parse_checklist_request, parse_request};
use http_body_util::{BodyExt, Either, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::Shared;
use super::body::{End, Pieces, Presence};
use super::checklist;
use super::faults::{Fate, Outage};
use super::reply::Reply;
use super::rule::Judgement;
use super::wire::{ChatRequest, Form};

const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
const COMPLETIONS: &str = "/v1/chat/completions";
const JSON: &str = "application/json";

type Answer = Response<Either<Pieces, Full<Bytes>>>;

/// Serves connections until the sender of `stopped` is gone; then closes them all.
pub(super) async fn accept(
    listener: TcpListener,
    shared: Arc<Shared>,
    mut stopped: oneshot::Receiver<()>,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            _ = &mut stopped => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    // Without it a reply may wait 40 ms for the client's acknowledgement.
                    let _ = stream.set_nodelay(true);
                    connections.spawn(serve_connection(stream, shared.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            },
        }
    }
    connections.shutdown().await;
}

async fn serve_connection(stream: tokio::net::TcpStream, shared: Arc<Shared>) {
    let service = service_fn(|request| {
        let shared = shared.clone();
        async move { Ok::<_, Infallible>(route(request, &shared).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a client's connection ended early");
    }
}

async fn route(request: Request<Incoming>, shared: &Arc<Shared>) -> Answer {
    match (request.method(), request.uri().path()) {
        (&Method::POST, COMPLETIONS) => complete(request.into_body(), shared).await,
        (&Method::GET, "/v1/models") => {
            let config = &shared.config;
            let model = json!({
                "id": config.model, "object": "model", "owned_by": "exprl", "max_model_len": config.max_model_len,
            });
            let list = json!({"object": "list", "data": [model]});
            text(StatusCode::OK, JSON, list.to_string())
        }
        (&Method::GET, "/health") => text(StatusCode::OK, JSON, "{}".into()),
        (&Method::GET, "/metrics") => {
            let metrics = shared.book().stats.metrics(&shared.config.model);
            text(StatusCode::OK, "text/plain; version=0.0.4", metrics)
        }
        (&Method::GET, "/stats") => match serde_json::to_string(&shared.book().stats) {
            Ok(stats) => text(StatusCode::OK, JSON, stats),
            Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        },
        (_, COMPLETIONS | "/v1/models" | "/health" | "/metrics" | "/stats") => refuse(
            StatusCode::METHOD_NOT_ALLOWED,
            "use POST for completions, GET for the rest",
        ),
        (_, path) => refuse(StatusCode::NOT_FOUND, &format!("no such path: {path}")),
    }
}

async fn complete(body: Incoming, shared: &Arc<Shared>) -> Answer {
    let presence = Presence::new(shared.clone());
    let (request, question) = match read(body, shared).await {
        Ok(read) => read,
        Err((status, message)) => {
            shared.book().stats.bad_requests += 1;
            return presence.answer(refuse(status, &message));
        }
    };
    let config = &shared.config;
    let parsed = parse_request(&question);
    let writing = parse_checklist_request(&question);
    let content = content_hash(&question, parsed.as_ref(), writing);
    let fate = config.faults.fate(&content);
    let outage = shared.book().attempt(content, &fate);
    // Never closed, so it cannot fail; a server without slots has as many as it is asked for.
    let _slot = match &shared.slots {
        Some(slots) => slots.acquire().await.ok(),
        None => None,
    };
    tokio::time::sleep(Duration::from_millis(fate.delay_ms)).await;
    let end = match outage {
        None => End::Whole,
        Some(Outage::Cut) => End::Cut,
        Some(Outage::Stall) => End::Stall,
        // The client's going away ends it.
        Some(Outage::Silence) => std::future::pending().await,
        Some(Outage::Error) => {
            let error = "rehearsed: server error";
            return presence.answer(refuse(StatusCode::INTERNAL_SERVER_ERROR, error));
        }
        Some(Outage::RateLimit) => {
            let error = "rehearsed: too many requests";
            let mut answer = refuse(StatusCode::TOO_MANY_REQUESTS, error);
            let wait = HeaderValue::from(config.faults.retry_after_s);
            answer.headers_mut().insert(RETRY_AFTER, wait);
            return presence.answer(answer);
        }
    };
    let (words, grade) = match (&parsed, &writing) {
        (Some(parsed), _) => say(config.rule.judge(parsed), &fate, request.form()),
        (None, Some((_, reference))) => (write(reference, &fate), None),
        (None, None) => (
            "This is not a grading request, so there is nothing to grade.".into(),
            None,
        ),
    };
    let reply = Reply::new(&request, &words, grade, config.faults.doubt);
    count(shared, &request, &reply, grade);
    match (&parsed, &writing) {
        (Some(_), _) => {}
        (None, Some(_)) => shared.book().stats.checklists += 1,
        (None, None) => shared.book().stats.not_grading += 1,
    }
    let (kind, body) = if request.wants_stream() {
        let pace = Duration::from_millis(config.faults.token_ms);
        let events = reply.events(request.wants_usage());
        (
            "text/event-stream",
            Pieces::events(events, pace, end, presence),
        )
    } else {
        (JSON, Pieces::whole(reply.completion(), end, presence))
    };
    answer(StatusCode::OK, kind, Either::Left(body))
}

/// The reply to a grading request, and the grade in it.
fn say(judgement: Judgement, fate: &Fate, form: Form<'_>) -> (String, Option<u8>) {
    if fate.no_grade {
        return (
            "I would rather discuss this solution than grade it.".into(),
            None,
        );
    }
    let (grade, reason) = match fate.random_grade {
        Some(grade) => (grade, "I did not look closely.".to_owned()),
        None => (judgement.grade, judgement.reason),
    };
    let digit = grade.to_string();
    let words = match form {
        Form::Digit => digit,
        Form::Choice(choices) if choices.contains(&digit) => digit,
        Form::Choice(choices) => return (choices.first().cloned().unwrap_or_default(), None),
        Form::Json => json!({"reasoning": reason, "score": grade}).to_string(),
        Form::Free if fate.prose => {
            let word = ["one", "two", "three", "four", "five"][usize::from(grade) - 1];
            return (
                format!("{reason} I would give this {word} out of five."),
                None,
            );
        }
        Form::Free => format!("{reason}\nScore: {grade}"),
    };
    (words, Some(grade))
}

/// The reply to a request for a checklist.
fn write(reference: &str, fate: &Fate) -> String {
    let checklist = checklist::write(reference);
    if fate.no_grade {
        "I would rather discuss this problem than write a checklist.".into()
    } else if fate.prose {
        format!("Here is the checklist:\n```json\n{checklist}\n```\nI hope that it helps.")
    } else {
        checklist
    }
}

fn count(shared: &Shared, request: &ChatRequest, reply: &Reply, grade: Option<u8>) {
    let stats = &mut shared.book().stats;
    stats.re_asks += u64::from(request.is_re_ask());
    stats.prompt_tokens += reply.prompt_tokens as u64;
    stats.completion_tokens += reply.completion_tokens() as u64;
    if let Some(grade) = grade {
        stats.grades[usize::from(grade) - 1] += 1;
    }
}

/// The request and the text of its question, or the status and the reason to refuse it.
async fn read(
    body: Incoming,
    shared: &Shared,
) -> Result<(ChatRequest, String), (StatusCode, String)> {
    let limit = shared.config.max_body_bytes;
    let body = Limited::new(body, limit).collect().await.map_err(|error| {
        if error.is::<http_body_util::LengthLimitError>() {
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
    let model = &shared.config.model;
    if request.model != *model {
        let message = format!(
            "the model {:?} does not exist; this judge is {model:?}",
            request.model
        );
        return Err((StatusCode::NOT_FOUND, message));
    }
    if let Some(longest) = shared.config.max_model_len {
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
fn content_hash(
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

/// An error in the format of `OpenAI`'s API.
fn refuse(status: StatusCode, message: &str) -> Answer {
    let kind = if status.is_server_error() {
        "server_error"
    } else {
        "invalid_request_error"
    };
    let error = json!({"error": {"message": message, "type": kind, "code": status.as_u16()}});
    text(status, JSON, error.to_string())
}

fn text(status: StatusCode, kind: &'static str, body: String) -> Answer {
    answer(status, kind, Either::Right(Full::new(body.into())))
}

fn answer(status: StatusCode, kind: &'static str, body: Either<Pieces, Full<Bytes>>) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}
