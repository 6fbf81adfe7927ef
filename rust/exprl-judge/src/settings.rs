//! How to judge. Keys are named here, never held.

use std::path::PathBuf;
use std::time::Duration;

use exprl_rubric::{Checklists, Layout, Readout, Rubric, ScoreMap, View};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::access::{chat_uri, read};
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

/// Longer than anybody waits: 31 years.
const LONGEST_S: f64 = 1e9;

/// What tokens cost, per million, in any currency.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
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

/// Makes the struct, its defaults, and the list of its fields with their help.
macro_rules! settings {
    ($($(#[doc = $help:literal])+ $name:ident: $kind:ty = $default:expr;)+) => {
        /// How to judge: what is asked, of whom, how fast and how patiently.
        ///
        /// This is the one definition of the judge's settings. The flags of `exprl-judge` are made from it,
        /// Python's `JudgeSettings` sends it as JSON, and the doc comment of a field is its help everywhere.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct Settings {
            /// What the model is asked to do. The caller chooses; it is no setting of a user.
            #[serde(skip)]
            pub task: Task,
            $($(#[doc = $help])+ pub $name: $kind,)+
        }

        impl Default for Settings {
            fn default() -> Self {
                Self { task: Task::Grade, $($name: $default,)+ }
            }
        }

        impl Settings {
            /// Name and help of each setting, in order.
            pub const FIELDS: &[(&str, &str)] = &[$((stringify!($name), concat!($($help),+).trim_ascii())),+];
        }
    };
}

settings! {
    /// Base URLs of OpenAI-compatible servers, such as `http://127.0.0.1:8000/v1`.
    endpoints: Vec<String> = Vec::new();
    /// The model's name at these servers.
    model: String = String::new();
    /// What the judge sees in one request: the whole rollout once (`outcome`), every prefix of its steps
    /// (`prefix`), or each step alone (`step`).
    view: View = View::Prefix;
    /// How a score is taken from a reply: the grade in its text (`text`), the mean under the
    /// probabilities of the grades there (`expected`), or that mean at the first token of a reply which
    /// is one digit and nothing else (`direct`). `direct` costs one token of reply instead of hundreds,
    /// and the judge does not reason. `expected` and `direct` need a server that sends log-probabilities;
    /// `direct` needs one that keeps to a choice too, as vLLM does (`structured_outputs`).
    readout: Readout = Readout::Text;
    /// How a grade g of 1..5 becomes a score: (g - 1) / 4 (`linear`), 1 from grade 4 on and else 0
    /// (`binary`), 0 for 1 and 1 for 5 and else missing (`extremes`), or that with 0.8 for 4
    /// (`extremes_soft`).
    score_map: ScoreMap = ScoreMap::Linear;
    /// TOML file of a rubric for every domain, instead of the built-in ones.
    rubric: Option<PathBuf> = None;
    /// JSONL file of per-problem rubrics, as `exprl rubric build` writes it, for items that bring no
    /// checklist. Every item with a reference must then be found there.
    rubrics: Option<PathBuf> = None;
    /// Let the judge see what the policy thought: blocks of `<think>` and the like. Left out, thinking is
    /// dropped before a trace is judged, and no step starts inside it.
    show_thinking: bool = false;
    /// Sampling temperature of the judge.
    temperature: f64 = 0.0;
    /// Tokens of a reply, at most. With `readout = "direct"` a reply has one, whatever this says.
    max_tokens: u32 = 2048;
    /// Further fields of the request beside the message, such as `{"reasoning_effort": "low"}` or
    /// `{"chat_template_kwargs": {"enable_thinking": false}}`.
    extra: Map<String, Value> = Map::new();
    /// Requests in flight per server, at most.
    concurrency: usize = 64;
    /// Tokens that a server's KV cache holds: what is judged at once there fits into it. Left out, each
    /// server's `/metrics` is asked (vLLM tells); 0 sets no such bound.
    kv_tokens: Option<u64> = None;
    /// Requests per minute over all servers, at most.
    rpm: Option<u32> = None;
    /// Tokens per minute, prompts and replies, over all servers, at most. They are estimated when a
    /// request leaves, and corrected by the usage that the server reports.
    tpm: Option<u64> = None;
    /// Share of requests that may be sent to a second server when the first is late, at most. A request
    /// that hangs is also sent to the same server again. 0 switches both off.
    hedge: f64 = 0.02;
    /// What a million prompt, cached and completion tokens cost, in any currency (as a flag:
    /// `0.3,0.03,1.2`). Left out, no cost is reported.
    prices: Option<Prices> = None;
    /// Requests sent for one grade when servers fail, at most. A 429 does not count.
    attempts: u32 = 4;
    /// Share of all requests that may be retries, beside a reserve for the start.
    retry_budget: f64 = 0.1;
    /// Ask once more, after `Score:`, if a reply holds no grade. `readout = "direct"` never asks again.
    reask: bool = true;
    /// Stream the replies, and leave a reply when the line of its grade is complete. This saves what a
    /// judge writes after the grade, and tells a slow server from a dead one. It is not for a judge that
    /// thinks in its reply behind a tag that its template opens: a grade in such thoughts looks like the
    /// grade.
    stream: bool = false;
    /// Seconds for TCP and TLS.
    connect_timeout_s: f64 = 5.0;
    /// Seconds from the request to the first byte of the reply.
    first_byte_timeout_s: f64 = 300.0;
    /// Seconds between two pieces of a reply.
    idle_timeout_s: f64 = 60.0;
    /// Seconds for a whole job, from its start: the grades of one training step, or of one file. What is
    /// left then ends as `timeout`.
    deadline_s: f64 = 3600.0;
    /// When every server has failed again and again and none has answered for so many seconds, what waits
    /// ends as `http_error`. Servers that have never answered are given up after a few failures.
    outage_s: f64 = 60.0;
    /// Bytes of text that wait to be sent, before more has to wait. What is in flight does not count.
    queue_bytes: usize = 20 << 20;
    /// Folder where replies are kept, so that the same work done again sends nothing. Left out, nothing is
    /// kept; a training run then keeps them in RUN/ledger.
    ledger: Option<PathBuf> = None;
    /// Part of the ledger's keys: change it when the model behind the name changes.
    revision: String = String::new();
    /// Part of the ledger's keys: another index asks for another sample of the same judgement.
    sample_index: u32 = 0;
    /// Environment variable that holds the API key.
    api_key_env: Option<String> = None;
    /// File that holds the API key.
    api_key_file: Option<PathBuf> = None;
    /// PEM file of certificates that https servers are checked with, instead of the system's. It may hold
    /// a server's own certificate, such as one that it has signed itself.
    ca_file: Option<PathBuf> = None;
    /// Where the reference stands in a request: before the judged text, so that a server's prefix cache
    /// holds it once for all requests of a problem (`reference_first`); or after it, as in the paper's
    /// published prompts, where each request computes it anew (`reference_last`).
    layout: Layout = Layout::ReferenceFirst;
}

/// A time of the settings; `check` has refused what is none.
pub(crate) fn seconds(value: f64) -> Duration {
    Duration::from_secs_f64(value)
}

impl Settings {
    /// The default settings for `model` at `endpoints`.
    #[must_use]
    pub fn new(endpoints: Vec<String>, model: impl Into<String>) -> Self {
        Self {
            endpoints,
            model: model.into(),
            ..Self::default()
        }
    }

    /// Settings from a JSON object; what it leaves out has its default.
    pub fn from_json(object: Value) -> Result<Self, Error> {
        serde_path_to_error::deserialize(object).map_err(|error| Error::Setting {
            field: error.path().to_string().into(),
            reason: error.into_inner().to_string(),
        })
    }

    /// Whether the judge is asked for a digit and nothing else.
    pub(crate) fn asks_digit_alone(&self) -> bool {
        self.readout == Readout::Direct && self.task == Task::Grade
    }

    /// Tokens of a reply, at most.
    pub(crate) fn reply_tokens(&self) -> u32 {
        if self.asks_digit_alone() {
            1
        } else {
            self.max_tokens
        }
    }

    /// The rubric of every domain, read from its file.
    pub(crate) fn read_rubric(&self) -> Result<Option<Rubric>, Error> {
        let Some(path) = &self.rubric else {
            return Ok(None);
        };
        let text = read("rubric", path)?;
        let rubric = Rubric::from_toml_str(&text, self.view)?;
        Ok(Some(rubric.with_layout(self.layout)))
    }

    /// The rubrics of the problems, read from their file; `None` without one.
    pub fn read_checklists(&self) -> Result<Option<Checklists>, Error> {
        let Some(path) = &self.rubrics else {
            return Ok(None);
        };
        let checklists = Checklists::read(&read("rubrics", path)?);
        checklists.map(Some).map_err(|reason| Error::Setting {
            field: "rubrics".into(),
            reason: format!("{}, {reason}", path.display()),
        })
    }

    /// Refuses what cannot work, before anything is sent.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let wrong = |field: &'static str, reason: String| {
            Err(Error::Setting {
                field: field.into(),
                reason,
            })
        };
        if self.endpoints.is_empty() {
            return wrong("endpoints", "none given; name at least one base URL".into());
        }
        for endpoint in &self.endpoints {
            chat_uri(endpoint)?;
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
            ("connect_timeout_s", self.connect_timeout_s),
            ("first_byte_timeout_s", self.first_byte_timeout_s),
            ("idle_timeout_s", self.idle_timeout_s),
            ("deadline_s", self.deadline_s),
            ("outage_s", self.outage_s),
        ] {
            if !(value > 0.0 && value <= LONGEST_S) {
                let reason =
                    format!("{value} is no time in seconds; give more than 0, at most {LONGEST_S}");
                return wrong(field, reason);
            }
        }
        match RESERVED.iter().find(|name| self.extra.contains_key(**name)) {
            Some(name) => wrong("extra", format!("`{name}` is not yours to set there")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_allow_nothing_are_refused_by_name() {
        let good = Settings::new(vec!["http://h/v1".into()], "m");
        assert!(good.check().is_ok());
        let field = |settings: Settings| match settings.check() {
            Err(Error::Setting { field, .. }) => field.into_owned(),
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
                deadline_s: 0.0,
                ..good.clone()
            }),
            "deadline_s"
        );
        let mut extra = Map::new();
        extra.insert("stream".into(), Value::Bool(true));
        assert_eq!(field(Settings { extra, ..good }), "extra");
    }

    #[test]
    fn settings_come_back_from_their_json() {
        let settings = Settings {
            extra: Map::from_iter([("top_p".into(), Value::from(0.9))]),
            prices: Some(Prices {
                prompt: 1.0,
                cached: 0.1,
                completion: 2.0,
            }),
            ..Settings::new(vec!["http://h/v1".into()], "m")
        };
        let json = serde_json::to_value(&settings).unwrap();
        let names: Vec<_> = json.as_object().unwrap().keys().cloned().collect();
        let mut fields: Vec<_> = Settings::FIELDS.iter().map(|(name, _)| *name).collect();
        fields.sort_unstable();
        assert_eq!(names, fields);
        assert_eq!(Settings::from_json(json).unwrap(), settings);
        assert_eq!(
            Settings::from_json(serde_json::json!({})).unwrap(),
            Settings::default()
        );
    }

    #[test]
    fn what_is_wrong_in_json_is_named_with_its_value() {
        for (json, field, value) in [
            (serde_json::json!({"rpm": -5}), "rpm", "-5"),
            (serde_json::json!({"view": "prefixes"}), "view", "prefixes"),
            (
                serde_json::json!({"prices": {"prompt": "x"}}),
                "prices.prompt",
                "\"x\"",
            ),
            (serde_json::json!({"rmp": 5}), "rmp", "rpm"),
            (serde_json::json!({"task": "grade"}), "task", "task"),
        ] {
            let error = Settings::from_json(json).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("judge setting `{field}`: ")),
                "{error}"
            );
            assert!(error.contains(value), "{error}");
        }
    }
}
