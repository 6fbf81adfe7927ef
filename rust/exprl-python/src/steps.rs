//! `Splitter` and `split_text`: exprl-steps for Python.

use exprl_steps::Error;
use numpy::PyReadonlyArray1;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

fn value_error(error: &Error) -> PyErr {
    PyValueError::new_err(error.to_string())
}

/// Cuts rollouts of one tokenizer into steps at a delimiter.
///
/// `tokenizer_json`: the text of a tokenizer.json.
// Boxed: it holds AVX2 vectors, and CPython aligns its objects to 16 bytes only.
#[pyclass(frozen, module = "exprl._core")]
pub struct Splitter(Box<exprl_steps::Splitter>);

const _: () = assert!(align_of::<Splitter>() <= 16, "CPython would misalign it");

#[pymethods]
impl Splitter {
    #[new]
    #[pyo3(signature = (tokenizer_json, delimiter = "###"))]
    fn new(py: Python<'_>, tokenizer_json: &str, delimiter: &str) -> PyResult<Self> {
        py.detach(|| exprl_steps::Splitter::from_json(tokenizer_json, delimiter))
            .map(|splitter| Self(Box::new(splitter)))
            .map_err(|error| value_error(&error))
    }

    /// The steps of one rollout as (first token, one past the last token, text).
    #[pyo3(signature = (token_ids: "numpy.typing.NDArray[numpy.integer] | list[int]"))]
    fn split(
        &self,
        py: Python<'_>,
        token_ids: &Bound<'_, PyAny>,
    ) -> PyResult<Vec<(usize, usize, String)>> {
        let ids = token_ids_of(token_ids)?;
        let segments = py
            .detach(|| self.0.split(&ids))
            .map_err(|error| value_error(&error))?;
        Ok(segments
            .into_iter()
            .map(|segment| (segment.start, segment.end, segment.text))
            .collect())
    }
}

/// The steps of a text without tokens; joined, they are the text.
#[pyfunction]
pub fn split_text(py: Python<'_>, text: &str, delimiter: &str) -> PyResult<Vec<String>> {
    let ranges = py
        .detach(|| exprl_steps::split_text(text, delimiter))
        .map_err(|error| value_error(&error))?;
    Ok(ranges
        .into_iter()
        .map(|range| text[range].to_owned())
        .collect())
}

/// Ids are copied once: an array that another thread may write is not read without the GIL.
fn token_ids_of(ids: &Bound<'_, PyAny>) -> PyResult<Vec<u32>> {
    if let Ok(ids) = ids.extract::<PyReadonlyArray1<'_, i32>>() {
        return ids
            .as_array()
            .iter()
            .map(|&id| token_id(i64::from(id)))
            .collect();
    }
    if let Ok(ids) = ids.extract::<PyReadonlyArray1<'_, i64>>() {
        return ids.as_array().iter().map(|&id| token_id(id)).collect();
    }
    ids.extract::<Vec<i64>>()?
        .into_iter()
        .map(token_id)
        .collect()
}

fn token_id(id: i64) -> PyResult<u32> {
    u32::try_from(id).map_err(|_| PyValueError::new_err(format!("{id} is not a token id")))
}
