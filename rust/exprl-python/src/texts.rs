//! `text_signs`: exprl-texts for Python.

use exprl_texts::{Signs, Text};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;

/// Each text's overlap with its hidden reference and its kinds of injections; see `exprl.monitor.text_signs`.
///
/// `hidden`: of each text, reference and problem.
#[pyfunction]
#[pyo3(signature = (
    texts: "list[str]",
    hidden: "list[tuple[str, str] | None]",
) -> "list[tuple[float, list[str]]]")]
pub fn text_signs(
    py: Python<'_>,
    texts: Vec<PyBackedStr>,
    hidden: Vec<Option<(PyBackedStr, PyBackedStr)>>,
) -> PyResult<Vec<(f64, Vec<&'static str>)>> {
    if texts.len() != hidden.len() {
        return Err(PyValueError::new_err(format!(
            "{} texts and {} entries of hidden; each text needs one",
            texts.len(),
            hidden.len()
        )));
    }
    let found = py.detach(move || {
        let given: Vec<_> = texts
            .iter()
            .zip(&hidden)
            .map(|(text, hidden)| Text {
                text,
                hidden: hidden
                    .as_ref()
                    .map(|(reference, problem)| (&**reference, &**problem)),
            })
            .collect();
        exprl_texts::signs(&given)
    });
    Ok(found
        .into_iter()
        .map(
            |Signs {
                 overlap,
                 injections,
             }| (overlap, injections),
        )
        .collect())
}

/// The kinds of strings that speak to a judge, each with its pattern.
#[pyfunction]
pub fn injections() -> Vec<(&'static str, &'static str)> {
    exprl_texts::INJECTIONS.to_vec()
}
