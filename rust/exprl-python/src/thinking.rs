//! Where a model thinks in its text: exprl-rubric for Python.

use pyo3::prelude::*;

/// The parts of a text outside thinking blocks; see `exprl.thinking`.
#[pyfunction]
pub fn outside_thinking(py: Python<'_>, text: &str) -> Vec<String> {
    py.detach(|| {
        exprl_texts::outside_thinking(text)
            .into_iter()
            .map(str::to_owned)
            .collect()
    })
}

/// The closing tag that a text still owes, if it ends within a thinking block.
#[pyfunction]
pub fn open_thinking(py: Python<'_>, text: &str) -> Option<&'static str> {
    py.detach(|| exprl_texts::open_thinking(text))
}
