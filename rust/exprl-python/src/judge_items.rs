//! Items out of tuples, and verdicts into them.

use std::sync::Arc;

use exprl_judge::{Burst, Checklist, Checkpoint, Graded, Item, Verdict};
use pyo3::IntoPyObjectExt;
use pyo3::conversion::FromPyObjectOwned;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::types::PyTuple;

use crate::errors::DataError;

/// (index, id, [verdict, ...]) per item, and whether these were the rest.
pub type Rows<'py> = (Vec<Bound<'py, PyTuple>>, bool);

/// An item, from a tuple in the order of `exprl.judge.JudgeItem`'s fields.
pub fn read_item(item: &Bound<'_, PyTuple>) -> PyResult<Item<PyBackedStr>> {
    fn field<'py, T: FromPyObjectOwned<'py>>(
        item: &Bound<'py, PyTuple>,
        place: usize,
        name: &str,
    ) -> PyResult<T> {
        item.get_item(place)?.extract::<T>().map_err(|error| {
            let error: PyErr = error.into();
            let text = format!("field `{name}` of an item: {}", error.value(item.py()));
            PyTypeError::new_err(text)
        })
    }
    let checklist: Option<Vec<(String, u8)>> = field(item, 5, "checklist")?;
    Ok(Item {
        id: field(item, 0, "id")?,
        problem: field(item, 1, "problem")?,
        reference: field(item, 2, "reference")?,
        segments: field(item, 3, "segments")?,
        domain: field(item, 4, "domain")?,
        checklist: checklist.map(read_checklist).transpose()?,
    })
}

fn read_checklist(checkpoints: Vec<(String, u8)>) -> PyResult<Arc<Checklist>> {
    let checkpoints = checkpoints
        .into_iter()
        .map(|(text, weight)| Checkpoint { text, weight });
    let checklist = Checklist::part(checkpoints.collect());
    checklist
        .map(Arc::new)
        .map_err(|reason| DataError::new_err(format!("judge item: its checklist: {reason}")))
}

/// Each verdict is a tuple in the order of `exprl.judge.Verdict`'s fields.
pub fn rows(py: Python<'_>, burst: Burst) -> PyResult<Rows<'_>> {
    let graded = burst.graded.into_iter().map(|graded: Graded| {
        let verdicts = graded.verdicts.into_iter().map(|verdict| row(py, verdict));
        let verdicts = verdicts.collect::<PyResult<Vec<_>>>()?;
        (graded.index, graded.id, verdicts).into_pyobject(py)
    });
    Ok((graded.collect::<PyResult<_>>()?, burst.finished))
}

fn row(py: Python<'_>, v: Verdict) -> PyResult<Bound<'_, PyTuple>> {
    let fields = [
        v.status.name().into_bound_py_any(py)?,
        v.grade.into_bound_py_any(py)?,
        v.score.into_bound_py_any(py)?,
        v.reply.into_bound_py_any(py)?,
        v.error.into_bound_py_any(py)?,
        v.prompt_tokens.into_bound_py_any(py)?,
        v.completion_tokens.into_bound_py_any(py)?,
        v.cached_tokens.into_bound_py_any(py)?,
        v.attempts.into_bound_py_any(py)?,
        v.server.as_deref().into_bound_py_any(py)?,
        v.latency_s.into_bound_py_any(py)?,
        v.from_cache.into_bound_py_any(py)?,
        v.key.into_bound_py_any(py)?,
    ];
    PyTuple::new(py, fields)
}
