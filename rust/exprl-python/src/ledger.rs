//! `LedgerReader`: exprl-judge's for python/exprl/judge/ledger.py.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use exprl_judge::ledger;
use pyo3::prelude::*;

use crate::errors::Raised;
use crate::held::Held;

/// A call that waits for the index looks so often whether Ctrl-C came.
const INTERRUPT_CHECK: Duration = Duration::from_millis(50);

/// Looks up replies in a ledger, without its lock.
#[pyclass(frozen, module = "exprl._core")]
pub struct LedgerReader(Held<Arc<ledger::LedgerReader>>);

#[pymethods]
impl LedgerReader {
    /// `folder`: of the ledger.
    #[new]
    fn new(py: Python<'_>, folder: PathBuf) -> Result<Self, Raised> {
        let reader = py.detach(move || ledger::LedgerReader::open(&folder))?;
        Ok(Self(Held::new("ledger reader", Arc::new(reader))))
    }

    /// The newest reply under a key, as JSON; waits, open to Ctrl-C, until every reply can be found.
    fn get(&self, py: Python<'_>, key: &str) -> Result<Option<String>, Raised> {
        let reader = self.reader()?;
        while !py.detach(|| reader.wait(INTERRUPT_CHECK))? {
            py.check_signals()?;
        }
        Ok(py.detach(|| reader.get(key))?)
    }

    /// Whether every reply can be found at once. A call begins to index a ledger that needs it.
    fn is_ready(&self, py: Python<'_>) -> Result<bool, Raised> {
        let reader = self.reader()?;
        Ok(py.detach(|| reader.wait(Duration::ZERO))?)
    }

    /// Gives up the files; a second call does nothing.
    fn close(&self) -> PyResult<()> {
        self.0.take().map(drop)
    }
}

impl LedgerReader {
    fn reader(&self) -> PyResult<Arc<ledger::LedgerReader>> {
        self.0.with(|reader| reader.clone())
    }
}
