//! The judge's settings as JSON, and what there is to know of them.

use exprl_judge::Settings;
use pyo3::prelude::*;

use crate::errors::{JudgeError, Raised};

/// Settings from JSON.
pub fn read_settings(json: &str) -> Result<Settings, Raised> {
    let object = serde_json::from_str(json)
        .map_err(|error| JudgeError::new_err(format!("judge settings: {error}")))?;
    Ok(Settings::from_json(object)?)
}

/// Name and help of each setting of the judge.
#[pyfunction]
pub fn judge_settings() -> Vec<(&'static str, &'static str)> {
    Settings::FIELDS.to_vec()
}

/// The settings of the judge that are used where none are given, as JSON.
#[pyfunction]
pub fn judge_defaults() -> PyResult<String> {
    serde_json::to_string(&Settings::default())
        .map_err(|error| JudgeError::new_err(error.to_string()))
}
