//! The answer to each path.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use exprl_rubric::{parse_checklist_request, parse_request};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::json;

use crate::asked::{content_hash, read};
use crate::body::{End, Pieces, Presence};
use crate::checklist;
use crate::faults::{Fate, Outage};
use crate::judgement::Judgement;
use crate::reply::Reply;
use crate::state::State;
use crate::wire::{ChatRequest, Form};

const COMPLETIONS: &str = "/v1/chat/completions";
const JSON: &str = "application/json";

type Answer = Response<Either<Pieces, Full<Bytes>>>;

pub(crate) async fn route(request: Request<Incoming>, state: &Arc<State>) -> Answer {
    match (request.method(), request.uri().path()) {
        (&Method::POST, COMPLETIONS) => complete(request.into_body(), state).await,
        (&Method::GET, "/v1/models") => {
            let config = &state.config;
            let model = json!({
                "id": config.model, "object": "model", "owned_by": "exprl", "max_model_len": config.max_model_len,
            });
            let list = json!({"object": "list", "data": [model]});
            text(StatusCode::OK, JSON, list.to_string())
        }
        (&Method::GET, "/health") => text(StatusCode::OK, JSON, "{}".into()),
        (&Method::GET, "/metrics") => {
            let metrics = state.book().stats.metrics(&state.config.model);
            text(StatusCode::OK, "text/plain; version=0.0.4", metrics)
        }
        (&Method::GET, "/stats") => match serde_json::to_string(&state.book().stats) {
            Ok(counts) => text(StatusCode::OK, JSON, counts),
            Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        },
        (_, COMPLETIONS | "/v1/models" | "/health" | "/metrics" | "/stats") => refuse(
            StatusCode::METHOD_NOT_ALLOWED,
            "use POST for completions, GET for the rest",
        ),
        (_, path) => refuse(StatusCode::NOT_FOUND, &format!("no such path: {path}")),
    }
}

async fn complete(body: Incoming, state: &Arc<State>) -> Answer {
    let presence = Presence::new(state.clone());
    let (request, question) = match read(body, &state.config).await {
        Ok(read) => read,
        Err((status, message)) => {
            state.book().stats.bad_requests += 1;
            return presence.answer(refuse(status, &message));
        }
    };
    let config = &state.config;
    let parsed = parse_request(&question);
    let writing = parse_checklist_request(&question);
    let content = content_hash(&question, parsed.as_ref(), writing);
    let fate = config.faults.fate(&content);
    let outage = state.book().attempt(content, &fate);
    // Never closed, so it cannot fail; a server without slots has as many as it is asked for.
    let _slot = match &state.slots {
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
        (None, Some((_, reference))) => {
            state.book().stats.checklists += 1;
            (write(reference, &fate), None)
        }
        (None, None) => {
            state.book().stats.not_grading += 1;
            let words = "This is not a grading request, so there is nothing to grade.";
            (words.into(), None)
        }
    };
    let reply = Reply::new(&request, &words, grade, config.faults.doubt);
    count(state, &request, &reply, grade);
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

fn count(state: &State, request: &ChatRequest, reply: &Reply, grade: Option<u8>) {
    let counts = &mut state.book().stats;
    counts.re_asks += u64::from(request.is_re_ask());
    counts.prompt_tokens += reply.prompt_tokens as u64;
    counts.completion_tokens += reply.completion_tokens() as u64;
    if let Some(grade) = grade {
        counts.grades[usize::from(grade) - 1] += 1;
    }
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
