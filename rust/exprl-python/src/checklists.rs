//! `Checklists`: the rubrics of problems, for `python/exprl/reward/rubric_dropout.py`.

use std::path::PathBuf;

use exprl_judge::Settings;
use pyo3::prelude::*;

use crate::errors::Raised;

/// The checkpoints of each problem, from a file of per-problem rubrics.
#[pyclass(frozen, module = "exprl._core")]
pub struct Checklists(exprl_judge::Checklists);

#[pymethods]
impl Checklists {
    /// `file`: JSONL, as `exprl rubric build` writes it.
    #[new]
    fn new(py: Python<'_>, file: PathBuf) -> Result<Self, Raised> {
        let settings = Settings {
            rubrics: Some(file),
            ..Settings::default()
        };
        let checklists = py.detach(|| settings.read_checklists())?;
        Ok(Self(checklists.unwrap_or_default()))
    }

    /// Text and weight of each checkpoint of a problem and its reference; None where the file has none.
    fn find(&self, problem: &str, reference: &str) -> Option<Vec<(String, u8)>> {
        let checklist = self.0.find(problem, reference)?;
        let checkpoints = checklist.checkpoints().iter();
        Some(
            checkpoints
                .map(|checkpoint| (checkpoint.text.clone(), checkpoint.weight))
                .collect(),
        )
    }
}
