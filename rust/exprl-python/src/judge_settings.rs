//! The judge's settings out of a dict.

use std::sync::Arc;
use std::time::Duration;

use exprl_judge::{Checklists, Prices, Readout, ScoreMap, Settings, Task, View};
use pyo3::conversion::FromPyObjectOwned;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::errors::ConfigError;

/// One of the settings, or what is wrong with it.
fn get<'py, T: FromPyObjectOwned<'py>>(given: &Bound<'py, PyDict>, name: &str) -> PyResult<T> {
    let value = given.get_item(name)?;
    let value =
        value.ok_or_else(|| ConfigError::new_err(format!("judge setting `{name}` is missing")))?;
    value.extract::<T>().map_err(|error| {
        let error: PyErr = error.into();
        ConfigError::new_err(format!(
            "judge setting `{name}`: {}",
            error.value(given.py())
        ))
    })
}

pub fn read_settings(given: &Bound<'_, PyDict>) -> PyResult<Settings> {
    let seconds = |name: &str| -> PyResult<Duration> {
        let value: f64 = get(given, name)?;
        Duration::try_from_secs_f64(value).map_err(|_| {
            ConfigError::new_err(format!(
                "judge setting `{name}`: {value} is no time in seconds"
            ))
        })
    };
    let extra: String = get(given, "extra")?;
    let extra = serde_json::from_str(&extra)
        .map_err(|error| ConfigError::new_err(format!("judge setting `extra`: {error}")))?;
    let view: String = get(given, "view")?;
    let readout: String = get(given, "readout")?;
    let score_map: String = get(given, "score_map")?;
    Ok(Settings {
        task: Task::Grade,
        endpoints: get(given, "endpoints")?,
        model: get(given, "model")?,
        checklists: match get::<Option<String>>(given, "rubrics")? {
            None => None,
            Some(text) => {
                let read = Checklists::read(&text);
                let wrong =
                    |reason| ConfigError::new_err(format!("judge setting `rubrics`: {reason}"));
                Some(Arc::new(read.map_err(wrong)?))
            }
        },
        view: View::ALL
            .into_iter()
            .find(|known| known.name() == view)
            .ok_or_else(|| unknown("view", &view, "outcome, prefix, step"))?,
        readout: match readout.as_str() {
            "text" => Readout::Text,
            "expected" => Readout::Expected,
            _ => return Err(unknown("readout", &readout, "text, expected")),
        },
        score_map: match score_map.as_str() {
            "linear" => ScoreMap::Linear,
            "binary" => ScoreMap::Binary,
            "extremes" => ScoreMap::Extremes,
            "extremes_soft" => ScoreMap::ExtremesSoft,
            _ => {
                return Err(unknown(
                    "score_map",
                    &score_map,
                    "linear, binary, extremes, extremes_soft",
                ));
            }
        },
        rubric: get(given, "rubric")?,
        temperature: get(given, "temperature")?,
        max_tokens: get(given, "max_tokens")?,
        extra,
        concurrency: get(given, "concurrency")?,
        kv_tokens: get(given, "kv_tokens")?,
        rpm: get(given, "rpm")?,
        tpm: get(given, "tpm")?,
        hedge: get(given, "hedge")?,
        prices: match get::<Option<Bound<'_, PyAny>>>(given, "prices")? {
            None => None,
            Some(prices) => Some(Prices {
                prompt: prices.getattr("prompt")?.extract()?,
                cached: prices.getattr("cached")?.extract()?,
                completion: prices.getattr("completion")?.extract()?,
            }),
        },
        attempts: get(given, "attempts")?,
        retry_budget: get(given, "retry_budget")?,
        reask: get(given, "reask")?,
        stream: get(given, "stream")?,
        connect_timeout: seconds("connect_timeout_s")?,
        first_byte_timeout: seconds("first_byte_timeout_s")?,
        idle_timeout: seconds("idle_timeout_s")?,
        deadline: seconds("deadline_s")?,
        outage: seconds("outage_s")?,
        queue_bytes: get(given, "queue_bytes")?,
        ledger: get(given, "ledger")?,
        revision: get(given, "revision")?,
        sample_index: get(given, "sample_index")?,
        api_key_env: get(given, "api_key_env")?,
        api_key_file: get(given, "api_key_file")?,
        ca_file: get(given, "ca_file")?,
    })
}

pub fn unknown(field: &str, value: &str, allowed: &str) -> PyErr {
    ConfigError::new_err(format!(
        "judge setting `{field}`: {value:?} is not one of {allowed}"
    ))
}
