//! Connections and routes.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use exprl_rubric::{ParsedRequest, parse_request};
use http_body_util::{BodyExt, Full, Limited};
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
use super::stats::Outage;
use super::wire::ChatRequest;

const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
const COMPLETIONS: &str = "/v1/chat/completions";

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

async fn route(request: Request<Incoming>, shared: &Shared) -> Response<Full<Bytes>> {
    match (request.method(), request.uri().path()) {
        (&Method::POST, COMPLETIONS) => complete(request.into_body(), shared).await,
        (&Method::GET, "/v1/models") => {
            let model = json!({"id": shared.config.model, "object": "model", "owned_by": "exprl"});
            json_response(
                StatusCode::OK,
                json!({"object": "list", "data": [model]}).to_string(),
            )
        }
        (&Method::GET, "/health") => json_response(StatusCode::OK, "{}".into()),
        (&Method::GET, "/stats") => match serde_json::to_string(&shared.book().stats) {
            Ok(stats) => json_response(StatusCode::OK, stats),
            Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        },
        (_, COMPLETIONS | "/v1/models" | "/health" | "/stats") => refuse(
            StatusCode::METHOD_NOT_ALLOWED,
            "use POST for completions, GET for the rest",
        ),
        (_, path) => refuse(StatusCode::NOT_FOUND, &format!("no such path: {path}")),
    }
}

async fn complete(body: Incoming, shared: &Shared) -> Response<Full<Bytes>> {
    shared.book().stats.requests += 1;
    let read = read(body, shared).await;
    let (request, question) = match read {
        Ok(read) => read,
        Err((status, message)) => {
            shared.book().stats.bad_requests += 1;
            return refuse(status, &message);
        }
    };
    let parsed = parse_request(&question);
    let content = content_hash(&question, parsed.as_ref());
    let fate = shared.config.faults.fate(&content);
    let outage = shared.book().attempt(content, fate);
    tokio::time::sleep(Duration::from_millis(fate.delay_ms)).await;
    match outage {
        Some(Outage::TooManyRequests) => {
            let mut response = refuse(
                StatusCode::TOO_MANY_REQUESTS,
                "rehearsed: too many requests",
            );
            let wait = HeaderValue::from(shared.config.faults.retry_after_s);
            response.headers_mut().insert(RETRY_AFTER, wait);
            return response;
        }
        Some(Outage::ServerError) => {
            return refuse(StatusCode::INTERNAL_SERVER_ERROR, "rehearsed: server error");
        }
        None => {}
    }

    let re_ask = request.is_re_ask();
    let judgement = parsed
        .as_ref()
        .map(|parsed| shared.config.rule.judge(parsed));
    let (text, grade) = match judgement {
        None => (
            "This is not a grading request, so there is nothing to grade.".to_owned(),
            None,
        ),
        Some(_) if fate.no_grade => (
            "I would rather discuss this solution than grade it.".to_owned(),
            None,
        ),
        Some(judgement) => {
            let (grade, reason) = match fate.random_grade {
                Some(grade) => (grade, "I did not look closely.".to_owned()),
                None => (judgement.grade, judgement.reason),
            };
            let text = if re_ask {
                grade.to_string()
            } else {
                format!("{reason}\nScore: {grade}")
            };
            (text, Some(grade))
        }
    };
    let reply = request.reply(text);

    let mut book = shared.book();
    book.stats.not_grading += u64::from(parsed.is_none());
    book.stats.re_asks += u64::from(re_ask);
    book.stats.prompt_tokens += reply.prompt_tokens;
    book.stats.completion_tokens += reply.completion_tokens;
    if let Some(grade) = grade {
        book.stats.grades[usize::from(grade) - 1] += 1;
    }
    drop(book);
    if request.wants_stream() {
        let events = reply.events(request.wants_usage());
        return response(StatusCode::OK, "text/event-stream", events);
    }
    json_response(StatusCode::OK, reply.completion())
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
    let question = request
        .question()
        .ok_or_else(|| bad("messages holds no user message".into()))?;
    Ok((request, question))
}

/// What is asked, without what differs between runs: the fence, and with it the head's bytes.
fn content_hash(question: &str, parsed: Option<&ParsedRequest<'_>>) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    match parsed {
        Some(parsed) => {
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
        }
        None => {
            hasher.update(question.as_bytes());
        }
    }
    *hasher.finalize().as_bytes()
}

/// An error in the format of `OpenAI`'s API.
fn refuse(status: StatusCode, message: &str) -> Response<Full<Bytes>> {
    let kind = if status.is_server_error() {
        "server_error"
    } else {
        "invalid_request_error"
    };
    let error = json!({"error": {"message": message, "type": kind, "code": status.as_u16()}});
    json_response(status, error.to_string())
}

fn json_response(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    response(status, "application/json", body)
}

fn response(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
