//! The judge's settings as JSON, and what there is to know of them.

use std::collections::BTreeMap;

use exprl_advantage::{Kind, SingleSegment};
use exprl_judge::{Layout, Readout, ScoreMap, Settings, Status, View};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use strum::VariantArray;

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
    to_json(&Settings::default())
}

/// The names of each kind of choice, in their order, by the name of its type in Python.
#[pyfunction]
pub fn judge_choices() -> BTreeMap<&'static str, Vec<&'static str>> {
    BTreeMap::from([
        ("View", names::<View>()),
        ("Layout", names::<Layout>()),
        ("Readout", names::<Readout>()),
        ("ScoreMap", names::<ScoreMap>()),
        ("Status", names::<Status>()),
        ("AdvantageKind", names::<Kind>()),
        ("SingleSegment", names::<SingleSegment>()),
    ])
}

/// The score of a grade under a score map, as text readout gives it; None where the map leaves it out.
#[pyfunction]
pub fn score_grade(grade: u8, score_map: &str) -> PyResult<Option<f64>> {
    let map = ScoreMap::VARIANTS.iter().find(|&&map| {
        let name: &str = map.into();
        name == score_map
    });
    let map =
        map.ok_or_else(|| PyValueError::new_err(format!("unknown score map {score_map:?}")))?;
    Ok(map.score(grade))
}

fn names<T: VariantArray + Copy + Into<&'static str>>() -> Vec<&'static str> {
    T::VARIANTS.iter().map(|&variant| variant.into()).collect()
}

/// Settings as JSON.
pub fn to_json(settings: &Settings) -> PyResult<String> {
    serde_json::to_string(settings).map_err(|error| JudgeError::new_err(error.to_string()))
}
