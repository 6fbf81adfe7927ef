//! How to judge. Keys are named here, never held.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use exprl_rubric::{Checklists, Readout, ScoreMap, View};
use hyper::Uri;
use hyper::header::HeaderValue;
use serde_json::{Map, Value};

use crate::error::Error;

/// Fields of a request that `extra` may not set: they have a setting, or belong to the dispatcher.
const RESERVED: [&str; 12] = [
    "model",
    "messages",
    "temperature",
    "max_tokens",
    "stream",
    "stream_options",
    "n",
    "logprobs",
    "top_logprobs",
    "add_generation_prompt",
    "continue_final_message",
    "structured_outputs",
];

/// What tokens cost, per million, in any currency.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prices {
    /// Prompt tokens that were not cached.
    pub prompt: f64,
    /// Prompt tokens found in the server's prefix cache.
    pub cached: f64,
    /// Tokens of replies.
    pub completion: f64,
}

/// What is asked about an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Task {
    /// A grade for its segments.
    #[default]
    Grade,
    /// A checklist of its problem, from its reference: one request, whatever the view. The reply is
    /// the verdict's; a status `Ok` says that [`Checklist::read`](crate::Checklist::read) takes it.
    Checklist,
}

/// Everything that a [`Judge`](crate::Judge) needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Base URLs of OpenAI-compatible servers, such as `http://127.0.0.1:8000/v1`.
    pub endpoints: Vec<String>,
    /// The model's name there.
    pub model: String,
    /// What the model is asked to do.
    pub task: Task,
    /// What the judge sees of a rollout in one request.
    pub view: View,
    /// How a score is taken from a reply.
    pub readout: Readout,
    /// How a grade becomes a score.
    pub score_map: ScoreMap,
    /// A rubric (TOML text) for every domain instead of the built-in ones.
    pub rubric: Option<String>,
    /// Rubrics of the problems' own, for items that bring no checklist; each must then be found there
    /// (an item without a reference needs none).
    pub checklists: Option<Arc<Checklists>>,
    /// Sampling temperature of the judge.
    pub temperature: f64,
    /// Longest reply, in tokens.
    pub max_tokens: u32,
    /// Further fields of the request, such as `top_p` or `seed`.
    pub extra: Map<String, Value>,
    /// Requests in flight per server, at most.
    pub concurrency: usize,
    /// Tokens that a server's KV cache holds: what is judged at once there fits into it. `None` asks
    /// each server's `/metrics` (vLLM tells); 0 sets no such bound.
    pub kv_tokens: Option<u64>,
    /// Requests per minute over all servers, at most.
    pub rpm: Option<u32>,
    /// Tokens per minute, prompts and replies, over all servers, at most: estimated when a request
    /// leaves, corrected by the usage that the server reports.
    pub tpm: Option<u64>,
    /// Share of requests that may be sent to a second server when the first is late, at most.
    pub hedge: f64,
    /// What tokens cost; `None` reports no cost.
    pub prices: Option<Prices>,
    /// Requests sent for one grade, at most, when servers fail (429 answers do not count).
    pub attempts: u32,
    /// Retries over all requests, at most, as a share of them; a reserve for the start is added.
    pub retry_budget: f64,
    /// Ask once more, after `Score:`, if a reply holds no grade.
    pub reask: bool,
    /// Stream the replies, and leave a reply when the line of its grade is complete (where the trace
    /// itself speaks of a score, which the judge may quote, the whole reply counts). Saves what a
    /// judge writes after the grade, and tells a slow server from a dead one; costs this side more time
    /// per token. Not for a judge that thinks in its reply behind a tag that its template opens: a
    /// grade in such thoughts looks like the grade.
    pub stream: bool,
    /// Time for TCP and TLS.
    pub connect_timeout: Duration,
    /// Time from the request to the first byte of the reply.
    pub first_byte_timeout: Duration,
    /// Time between two pieces of a reply.
    pub idle_timeout: Duration,
    /// Time for a whole job, from `submit`; what is left then ends as `timeout`.
    pub deadline: Duration,
    /// When every server has failed again and again and none has answered for so long, what waits
    /// ends as `http_error`.
    pub outage: Duration,
    /// Text waiting and in flight, in bytes, before `push` waits.
    pub queue_bytes: usize,
    /// Folder of the ledger; `None` keeps nothing.
    pub ledger: Option<PathBuf>,
    /// Part of the ledger's keys: change it when the model behind the name changes.
    pub revision: String,
    /// Part of the ledger's keys: another index asks for another sample of the same judgement.
    pub sample_index: u32,
    /// Environment variable that holds the API key.
    pub api_key_env: Option<String>,
    /// File that holds the API key.
    pub api_key_file: Option<PathBuf>,
    /// Certificates (PEM) that https servers are checked with instead of the system's.
    pub ca_file: Option<PathBuf>,
}

impl Settings {
    /// Greedy grading of prefixes by `model` at `endpoints`.
    #[must_use]
    pub fn new(endpoints: Vec<String>, model: impl Into<String>) -> Self {
        Self {
            endpoints,
            model: model.into(),
            task: Task::Grade,
            view: View::Prefix,
            readout: Readout::Text,
            score_map: ScoreMap::Linear,
            rubric: None,
            checklists: None,
            temperature: 0.0,
            max_tokens: 2048,
            extra: Map::new(),
            concurrency: 64,
            kv_tokens: None,
            rpm: None,
            tpm: None,
            hedge: 0.02,
            prices: None,
            attempts: 4,
            retry_budget: 0.1,
            reask: true,
            stream: false,
            connect_timeout: Duration::from_secs(5),
            first_byte_timeout: Duration::from_secs(300),
            idle_timeout: Duration::from_secs(60),
            deadline: Duration::from_secs(3600),
            outage: Duration::from_secs(60),
            queue_bytes: 256 << 20,
            ledger: None,
            revision: String::new(),
            sample_index: 0,
            api_key_env: None,
            api_key_file: None,
            ca_file: None,
        }
    }

    /// Refuses what cannot work, before anything is sent.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let wrong = |field, reason: String| Err(Error::Setting { field, reason });
        if self.endpoints.is_empty() {
            return wrong("endpoints", "none given; name at least one base URL".into());
        }
        if self.model.is_empty() {
            return wrong(
                "model",
                "empty; give the name that the server lists under /v1/models".into(),
            );
        }
        if !(0.0..=10.0).contains(&self.temperature) {
            return wrong(
                "temperature",
                format!("{} is not in 0..=10", self.temperature),
            );
        }
        if !(0.0..=10.0).contains(&self.retry_budget) {
            return wrong(
                "retry_budget",
                format!("{} is not in 0..=10", self.retry_budget),
            );
        }
        if !(0.0..=1.0).contains(&self.hedge) {
            return wrong("hedge", format!("{} is no share in 0..=1", self.hedge));
        }
        let prices = self
            .prices
            .iter()
            .flat_map(|p| [p.prompt, p.cached, p.completion]);
        if let Some(price) = prices.into_iter().find(|price| !(0.0..1e9).contains(price)) {
            return wrong("prices", format!("{price} is no price per million tokens"));
        }
        if self.stream && self.task == Task::Checklist {
            return wrong("stream", "a checklist is read whole; leave it off".into());
        }
        if self.api_key_env.is_some() && self.api_key_file.is_some() {
            return wrong(
                "api_key_file",
                "api_key_env is set too; keep one of them".into(),
            );
        }
        for (field, value) in [
            ("max_tokens", self.max_tokens as usize),
            ("concurrency", self.concurrency),
            ("attempts", self.attempts as usize),
            ("queue_bytes", self.queue_bytes),
            ("rpm", self.rpm.map_or(1, |limit| limit as usize)),
            ("tpm", self.tpm.map_or(1, |limit| limit as usize)),
        ] {
            if value == 0 {
                return wrong(field, "0 allows nothing; give at least 1".into());
            }
        }
        for (field, value) in [
            ("connect_timeout", self.connect_timeout),
            ("first_byte_timeout", self.first_byte_timeout),
            ("idle_timeout", self.idle_timeout),
            ("deadline", self.deadline),
            ("outage", self.outage),
        ] {
            if value.is_zero() {
                return wrong(field, "0 s leaves no time at all; give more".into());
            }
        }
        match RESERVED.iter().find(|name| self.extra.contains_key(**name)) {
            Some(name) => wrong("extra", format!("`{name}` is not yours to set there")),
            None => Ok(()),
        }
    }

    /// The value of the `authorization` header, from where the settings say the key is.
    pub(crate) fn authorization(&self) -> Result<Option<Secret>, Error> {
        let (field, key) = if let Some(name) = &self.api_key_env {
            let key = std::env::var(name).map_err(|_| Error::Setting {
                field: "api_key_env",
                reason: format!("the environment has no variable {name:?}"),
            })?;
            ("api_key_env", key)
        } else if let Some(path) = &self.api_key_file {
            let key = std::fs::read_to_string(path).map_err(|error| Error::Setting {
                field: "api_key_file",
                reason: format!("{}: {error}", path.display()),
            })?;
            ("api_key_file", key)
        } else {
            return Ok(None);
        };
        Secret::bearer(key.trim())
            .map(Some)
            .ok_or_else(|| Error::Setting {
                field,
                reason: "the key is empty or holds characters that no HTTP header may carry".into(),
            })
    }
}

/// Checks an endpoint and gives the URI that chat completions are posted to.
pub(crate) fn chat_uri(endpoint: &str) -> Result<Uri, Error> {
    let wrong = |reason: &str| Error::Setting {
        field: "endpoints",
        reason: format!(
            "{:?} {reason}; write it like http://127.0.0.1:8000/v1",
            hide_user(endpoint)
        ),
    };
    let base = endpoint
        .trim_end_matches('/')
        .trim_end_matches("/chat/completions");
    let uri: Uri = base.parse().map_err(|_| wrong("is not a URL"))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(wrong("is neither http nor https"));
    }
    let authority = uri.authority().ok_or_else(|| wrong("names no host"))?;
    if authority.as_str().contains('@') {
        return Err(wrong("holds a user or key: name it in api_key_env instead"));
    }
    if uri.query().is_some() {
        return Err(wrong("has a query"));
    }
    format!("{base}/chat/completions")
        .parse()
        .map_err(|_| wrong("is not a URL"))
}

/// The URL without what may be a password in it.
fn hide_user(url: &str) -> String {
    match (url.find("://"), url.rfind('@')) {
        (Some(scheme), Some(at)) if scheme < at => {
            format!("{}***{}", &url[..scheme + 3], &url[at..])
        }
        _ => url.into(),
    }
}

/// An API key on its way into a header. It has no readable form.
#[derive(Clone)]
pub(crate) struct Secret {
    key: String,
    pub(crate) header: HeaderValue,
}

impl Secret {
    fn bearer(key: &str) -> Option<Self> {
        let mut header = HeaderValue::from_str(&format!("Bearer {key}")).ok()?;
        header.set_sensitive(true);
        (!key.is_empty()).then(|| Self {
            key: key.into(),
            header,
        })
    }

    /// The text without the key, should a server have repeated it.
    pub(crate) fn remove_from(&self, text: Bytes) -> Bytes {
        let (mut clean, mut copied) = (Vec::new(), 0);
        for at in memchr::memmem::find_iter(&text, &self.key) {
            clean.extend_from_slice(&text[copied..at]);
            clean.extend_from_slice(b"***");
            copied = at + self.key.len();
        }
        if copied == 0 {
            return text;
        }
        clean.extend_from_slice(&text[copied..]);
        clean.into()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_become_the_address_of_chat_completions() {
        for endpoint in [
            "http://h:8000/v1",
            "http://h:8000/v1/",
            "http://h:8000/v1/chat/completions",
        ] {
            assert_eq!(
                chat_uri(endpoint).unwrap(),
                "http://h:8000/v1/chat/completions"
            );
        }
    }

    #[test]
    fn endpoints_that_cannot_work_are_refused_without_showing_a_password() {
        for endpoint in [
            "",
            "h:8000",
            "ftp://h/v1",
            "http://user:sk-secret@h/v1",
            "http://h/v1?key=x",
        ] {
            let error = chat_uri(endpoint).unwrap_err().to_string();
            assert!(!error.contains("sk-secret"), "{error}");
        }
    }

    #[test]
    fn a_key_has_no_readable_form() {
        let secret = Secret::bearer("sk-secret").unwrap();
        assert!(!format!("{secret:?} {:?}", secret.header).contains("sk-secret"));
        for (text, clean) in [
            ("bad key sk-secret!", "bad key ***!"),
            ("sk-secretsk-secret", "******"),
            ("sk-secre", "sk-secre"),
        ] {
            assert_eq!(secret.remove_from(text.into()), clean);
        }
        assert!(Secret::bearer("").is_none() && Secret::bearer("a\nb").is_none());
    }

    #[test]
    fn settings_that_allow_nothing_are_refused_by_name() {
        let good = Settings::new(vec!["http://h/v1".into()], "m");
        assert!(good.check().is_ok());
        let field = |settings: Settings| match settings.check() {
            Err(Error::Setting { field, .. }) => field,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            field(Settings {
                endpoints: vec![],
                ..good.clone()
            }),
            "endpoints"
        );
        assert_eq!(
            field(Settings {
                concurrency: 0,
                ..good.clone()
            }),
            "concurrency"
        );
        assert_eq!(
            field(Settings {
                temperature: f64::NAN,
                ..good.clone()
            }),
            "temperature"
        );
        assert_eq!(
            field(Settings {
                deadline: Duration::ZERO,
                ..good.clone()
            }),
            "deadline"
        );
        let mut extra = Map::new();
        extra.insert("stream".into(), Value::Bool(true));
        assert_eq!(field(Settings { extra, ..good }), "extra");
    }
}
