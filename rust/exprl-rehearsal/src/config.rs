//! How the rule judge is served.

use std::net::SocketAddr;

use crate::faults::Faults;
use crate::rule::Rule;

/// How to serve.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen; loopback and a free port by default.
    pub listen: SocketAddr,
    /// The rule to grade by.
    pub rule: Rule,
    /// The model's name on the wire; requests for another are answered 404.
    pub model: String,
    /// What goes wrong, and how slowly.
    pub faults: Faults,
    /// Requests answered at once, at most; the others wait. `None` is no limit.
    pub slots: Option<usize>,
    /// Tokens of prompt and reply, at most; a request for more is answered 400, as vLLM does.
    pub max_model_len: Option<usize>,
    /// A longer request body is answered 413.
    pub max_body_bytes: usize,
}

impl Config {
    /// The model `rules-{rule}` on a free port of 127.0.0.1, without faults.
    #[must_use]
    pub fn new(rule: Rule) -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            rule,
            model: format!("rules-{rule}"),
            faults: Faults::default(),
            slots: None,
            max_model_len: None,
            max_body_bytes: 16 << 20,
        }
    }
}
