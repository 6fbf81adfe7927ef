//! The crates' errors as Python's.

use exprl_judge::Error;
use pyo3::PyErr;

pyo3::import_exception!(exprl.errors, ConfigError);
pyo3::import_exception!(exprl.errors, DataError);
pyo3::import_exception!(exprl.errors, JudgeError);

/// Python's error, into which `?` turns the judge's.
pub struct Raised(PyErr);

impl From<Error> for Raised {
    fn from(error: Error) -> Self {
        let text = error.to_string();
        Self(match error {
            Error::Setting { .. } | Error::Rubric(_) => ConfigError::new_err(text),
            Error::Item { .. } | Error::LedgerKey { .. } => DataError::new_err(text),
            _ => JudgeError::new_err(text),
        })
    }
}

impl From<PyErr> for Raised {
    fn from(error: PyErr) -> Self {
        Self(error)
    }
}

impl From<Raised> for PyErr {
    fn from(Raised(error): Raised) -> Self {
        error
    }
}
