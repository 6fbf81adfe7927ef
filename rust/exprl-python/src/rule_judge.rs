//! `RuleJudge`: exprl-rehearsal for `python/exprl/judge/rule_judge.py`.

use exprl_rehearsal::{self as rehearsal, Faults, Rule};
use pyo3::prelude::*;

use crate::errors::{ConfigError, JudgeError};
use crate::held::{Held, Threads};

/// A judge that grades by rule, served on loopback by this process.
#[pyclass(frozen, module = "exprl._core")]
pub struct RuleJudge {
    url: String,
    model: String,
    open: Held<(rehearsal::Handle, Threads)>,
}

#[pymethods]
impl RuleJudge {
    /// `faults`: the fields of the Rust crate's `Faults`, as a JSON object.
    #[new]
    #[pyo3(signature = (rules, *, port, slots, max_model_len, faults))]
    fn new(
        py: Python<'_>,
        rules: &str,
        port: u16,
        slots: Option<usize>,
        max_model_len: Option<usize>,
        faults: &str,
    ) -> PyResult<Self> {
        let rule: Rule = rules.parse().map_err(|error: String| {
            ConfigError::new_err(format!("judge setting `rules`: {error}"))
        })?;
        let mut config = rehearsal::Config::new(rule);
        config.listen.set_port(port);
        config.slots = slots;
        config.max_model_len = max_model_len;
        config.faults = serde_json::from_str::<Faults>(faults)
            .map_err(|error| ConfigError::new_err(format!("rule judge: {error}")))?;
        let model = config.model.clone();
        let open = py.detach(|| -> PyResult<_> {
            let threads = Threads::start()?;
            let handle = threads.runtime().block_on(rehearsal::serve(config));
            let handle = handle.map_err(|error| ConfigError::new_err(error.to_string()))?;
            Ok((handle, threads))
        })?;
        Ok(Self {
            url: open.0.url(),
            model,
            open: Held::new("rule judge", open),
        })
    }

    /// Base URL, such as `http://127.0.0.1:40123/v1`.
    #[getter]
    fn url(&self) -> &str {
        &self.url
    }

    /// The model's name there.
    #[getter]
    fn model(&self) -> &str {
        &self.model
    }

    /// The server's counters as JSON.
    fn stats(&self) -> PyResult<String> {
        let stats = self.open.with(|(handle, _)| handle.stats())?;
        serde_json::to_string(&stats).map_err(|error| JudgeError::new_err(error.to_string()))
    }

    /// Closes the listener and every connection; a second call does nothing.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| {
            if let Some((handle, threads)) = self.open.take()? {
                threads.runtime().block_on(handle.stop());
                threads.end();
            }
            Ok(())
        })
    }
}
