//! `Splitter` and `split_text`: exprl-steps for Python.

use std::num::NonZeroUsize;

use exprl_steps::{Error, Rule, Segment, Settings};
use numpy::{Element, PyReadonlyArray1};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

fn value_error(error: &Error) -> PyErr {
    PyValueError::new_err(error.to_string())
}

/// `min_name`: what the caller's setting of the least size is called.
fn settings(
    rule: &str,
    delimiter: &str,
    (min_name, min_size): (&str, i64),
    max_steps: Option<i64>,
    cut_thinking: bool,
) -> PyResult<Settings> {
    Ok(Settings {
        rule: Rule::new(rule, delimiter).map_err(|error| value_error(&error))?,
        min_size: at_least_one(min_name, min_size)?,
        max_steps: max_steps
            .map(|limit| at_least_one("max_steps", limit))
            .transpose()?,
        cut_thinking,
    })
}

fn at_least_one(name: &str, value: i64) -> PyResult<NonZeroUsize> {
    let positive = usize::try_from(value).ok().and_then(NonZeroUsize::new);
    positive.ok_or_else(|| PyValueError::new_err(format!("{name} is {value}; give at least 1")))
}

fn tuples(segments: Result<Vec<Segment>, Error>) -> PyResult<Vec<(usize, usize, String)>> {
    let segments = segments.map_err(|error| value_error(&error))?;
    Ok(segments
        .into_iter()
        .map(|segment| (segment.start, segment.end, segment.text))
        .collect())
}

/// Cuts rollouts of one tokenizer into steps by a rule.
///
/// `tokenizer_json`: the text of a tokenizer.json.
// Boxed: it holds AVX2 vectors, and CPython aligns its objects to 16 bytes only.
#[pyclass(frozen, module = "exprl._core")]
pub struct Splitter(Box<exprl_steps::Splitter>);

const _: () = assert!(align_of::<Splitter>() <= 16, "CPython would misalign it");

#[pymethods]
impl Splitter {
    #[new]
    fn new(
        py: Python<'_>,
        tokenizer_json: &str,
        rule: &str,
        delimiter: &str,
        min_step_tokens: i64,
        max_steps: Option<i64>,
        cut_thinking: bool,
    ) -> PyResult<Self> {
        let least = ("min_step_tokens", min_step_tokens);
        let settings = settings(rule, delimiter, least, max_steps, cut_thinking)?;
        py.detach(|| exprl_steps::Splitter::from_json(tokenizer_json, settings))
            .map(|splitter| Self(Box::new(splitter)))
            .map_err(|error| value_error(&error))
    }

    /// The steps of one rollout as (first token, one past the last token, text).
    ///
    /// `opened`: the prompt ends inside a thinking block, in which the rollout goes on.
    #[pyo3(signature = (token_ids: "numpy.typing.NDArray[numpy.integer] | list[int]", opened))]
    fn split(
        &self,
        py: Python<'_>,
        token_ids: &Bound<'_, PyAny>,
        opened: bool,
    ) -> PyResult<Vec<(usize, usize, String)>> {
        let ids = token_ids_of(token_ids)?;
        tuples(py.detach(|| self.0.split_after(&ids, opened)))
    }

    /// The same for steps that somebody else has found: they start at these characters of its text.
    #[pyo3(signature = (token_ids: "numpy.typing.NDArray[numpy.integer] | list[int]", opened, starts))]
    fn split_at(
        &self,
        py: Python<'_>,
        token_ids: &Bound<'_, PyAny>,
        opened: bool,
        starts: Vec<usize>,
    ) -> PyResult<Vec<(usize, usize, String)>> {
        let ids = token_ids_of(token_ids)?;
        tuples(py.detach(move || self.0.split_at(&ids, opened, &starts)))
    }
}

/// The steps of a text without tokens, found by somebody else: they start at these characters.
#[pyfunction]
pub fn split_text_at(
    py: Python<'_>,
    text: &str,
    starts: Vec<usize>,
    min_step_words: i64,
    max_steps: Option<i64>,
    cut_thinking: bool,
) -> PyResult<Vec<String>> {
    let least = ("min_step_words", min_step_words);
    let settings = settings("line", "", least, max_steps, cut_thinking)?;
    let ranges = py.detach(move || exprl_steps::split_text_at(text, &starts, &settings));
    Ok(ranges
        .into_iter()
        .map(|range| text[range].to_owned())
        .collect())
}

/// The steps of a text without tokens; joined, they are the text.
#[pyfunction]
pub fn split_text(
    py: Python<'_>,
    text: &str,
    rule: &str,
    delimiter: &str,
    min_step_words: i64,
    max_steps: Option<i64>,
    cut_thinking: bool,
) -> PyResult<Vec<String>> {
    let least = ("min_step_words", min_step_words);
    let settings = settings(rule, delimiter, least, max_steps, cut_thinking)?;
    let ranges = py.detach(|| exprl_steps::split_text(text, &settings));
    Ok(ranges
        .into_iter()
        .map(|range| text[range].to_owned())
        .collect())
}

/// Ids are copied once: an array that another thread may write is not read without the GIL.
fn token_ids_of(ids: &Bound<'_, PyAny>) -> PyResult<Vec<u32>> {
    if let Ok(ids) = ids.extract::<PyReadonlyArray1<'_, i32>>() {
        return from_array(&ids);
    }
    if let Ok(ids) = ids.extract::<PyReadonlyArray1<'_, i64>>() {
        return from_array(&ids);
    }
    ids.extract::<Vec<i64>>()?
        .into_iter()
        .map(token_id)
        .collect()
}

/// Checked first, so that the copy is a plain loop.
fn from_array<T: Element + Copy + Into<i64>>(ids: &PyReadonlyArray1<'_, T>) -> PyResult<Vec<u32>> {
    let ids = ids.as_array();
    let each = || ids.iter().map(|&id| id.into());
    if let Some(id) = each().find(|&id| u32::try_from(id).is_err()) {
        return Err(not_a_token_id(id));
    }
    Ok(each().map(|id| id as u32).collect())
}

fn token_id(id: i64) -> PyResult<u32> {
    u32::try_from(id).map_err(|_| not_a_token_id(id))
}

fn not_a_token_id(id: i64) -> PyErr {
    PyValueError::new_err(format!("{id} is not a token id"))
}
