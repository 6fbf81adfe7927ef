//! `Forecaster`: what a judge would be asked, for python/exprl/judge/forecast.py.

use std::sync::{Mutex, MutexGuard, PoisonError};

use exprl_judge::Prices;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::errors::Raised;
use crate::judge_items::read_item;
use crate::judge_settings::read_settings;

/// (requests, from the ledger, repeated, prompt tokens, cached, tokens of replies, at most, cost, at most)
type Sums = (u64, u64, u64, u64, u64, u64, u64, Option<f64>, Option<f64>);

/// Renders items as a judge would, and counts what it would send.
#[pyclass(frozen, module = "exprl._core")]
pub struct Forecaster {
    forecaster: Mutex<exprl_judge::Forecaster>,
    prices: Option<Prices>,
}

#[pymethods]
impl Forecaster {
    /// `settings`: an `exprl.judge.JudgeSettings` as JSON. Reads the ledger and locks nothing.
    #[new]
    fn new(py: Python<'_>, settings: &str) -> Result<Self, Raised> {
        let settings = read_settings(settings)?;
        let forecaster = py.detach(|| exprl_judge::Forecaster::new(&settings))?;
        Ok(Self {
            forecaster: Mutex::new(forecaster),
            prices: settings.prices,
        })
    }

    /// Counts the requests of an item, a tuple in the order of `exprl.judge.JudgeItem`'s fields.
    fn add(&self, py: Python<'_>, item: &Bound<'_, PyTuple>) -> Result<(), Raised> {
        let item = read_item(item)?;
        Ok(py.detach(|| self.lock().add(&item))?)
    }

    /// The text of each request about an item.
    fn prompts(&self, item: &Bound<'_, PyTuple>) -> Result<Vec<String>, Raised> {
        Ok(self.lock().prompts(&read_item(item)?)?)
    }

    /// What has been counted so far.
    fn sums(&self) -> Sums {
        let all = self.lock().forecast();
        let cost = self.prices.map(|prices| all.cost(prices));
        (
            all.requests,
            all.from_ledger,
            all.repeated,
            all.prompt_tokens,
            all.cached_tokens,
            all.completion_tokens,
            all.most_completion_tokens,
            cost.map(|[usual, _]| usual),
            cost.map(|[_, most]| most),
        )
    }
}

impl Forecaster {
    fn lock(&self) -> MutexGuard<'_, exprl_judge::Forecaster> {
        self.forecaster
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
