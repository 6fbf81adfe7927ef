//! `advantages`: exprl-advantage for Python.

use exprl_advantage::{BOUNDS, Batch, Published, Settings};
use numpy::{IntoPyArray, PyArray1, PyReadonlyArray1};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// One advantage per score; see `exprl.advantage.advantages`.
#[pyfunction]
#[pyo3(signature = (
    scores: "numpy.typing.NDArray[numpy.float64]",
    seg_off: "numpy.typing.NDArray[numpy.int64]",
    group_off: "numpy.typing.NDArray[numpy.int64]",
    kind,
    single_segment = "zero",
    compat = None,
    response_width = None,
    std_floor = 0.05,
    outcome_weight = 1.0,
    overlong: "numpy.typing.NDArray[numpy.bool_] | None" = None,
    bounds: "tuple[float, float] | None" = None,
) -> "numpy.typing.NDArray[numpy.float64]")]
#[expect(clippy::too_many_arguments, reason = "Python names them")]
#[expect(
    clippy::needless_pass_by_value,
    reason = "PyO3 extracts arrays by value"
)]
pub fn advantages<'py>(
    py: Python<'py>,
    scores: PyReadonlyArray1<'py, f64>,
    seg_off: PyReadonlyArray1<'py, i64>,
    group_off: PyReadonlyArray1<'py, i64>,
    kind: &str,
    single_segment: &str,
    compat: Option<&str>,
    response_width: Option<usize>,
    std_floor: f64,
    outcome_weight: f64,
    overlong: Option<PyReadonlyArray1<'py, bool>>,
    bounds: Option<(f64, f64)>,
) -> PyResult<Bound<'py, PyArray1<f64>>> {
    let settings = Settings {
        kind: kind.parse().map_err(|error| value_error(&error))?,
        single_segment: single_segment
            .parse()
            .map_err(|error| value_error(&error))?,
        published: published(compat, response_width)?,
        std_floor,
        outcome_weight,
        bounds: bounds.map_or(BOUNDS, |(low, high)| [low, high]),
    };
    let scores = scores.as_array().to_vec();
    let seg_off = offsets("seg_off", &seg_off)?;
    let group_off = offsets("group_off", &group_off)?;
    let overlong = overlong.map_or_else(Vec::new, |cut| cut.as_array().to_vec());
    let batch = Batch {
        scores: &scores,
        seg_off: &seg_off,
        group_off: &group_off,
        overlong: &overlong,
    };
    let advantages = py
        .detach(|| exprl_advantage::advantages(batch, settings))
        .map_err(|error| value_error(&error))?;
    Ok(advantages.into_pyarray(py))
}

fn value_error(error: &exprl_advantage::Error) -> PyErr {
    PyValueError::new_err(error.to_string())
}

/// `response_width` alone says nothing: only the published equations read it.
fn published(compat: Option<&str>, response_width: Option<usize>) -> PyResult<Option<Published>> {
    match compat {
        None => Ok(None),
        Some("published") => Ok(Some(Published { response_width })),
        Some(other) => Err(PyValueError::new_err(format!(
            "unknown compat {other:?}; choose \"published\" or leave it out"
        ))),
    }
}

fn offsets(name: &str, offsets: &PyReadonlyArray1<'_, i64>) -> PyResult<Vec<usize>> {
    let offset = |(index, &value): (usize, &i64)| {
        usize::try_from(value).map_err(|_| {
            PyValueError::new_err(format!(
                "{name}[{index}] is {value}; an offset is at least 0"
            ))
        })
    };
    offsets.as_array().iter().enumerate().map(offset).collect()
}
