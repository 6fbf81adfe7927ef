//! `exprl._core`: convert, detach, call, map the error; nothing else lives here.

mod advantage;
mod checklists;
mod errors;
mod forecast;
mod held;
mod judge;
mod judge_items;
mod judge_settings;
mod judge_stats;
mod ledger;
mod rule_judge;
mod steps;
mod texts;
mod thinking;

use pyo3::prelude::*;

/// Requests are made on one thread and freed on another, which glibc's allocator is slow at.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The Rust core of exprl.
#[pymodule]
mod _core {
    #[pymodule_export]
    #[expect(non_upper_case_globals, reason = "Python's name for it")]
    const __version__: &str = env!("CARGO_PKG_VERSION");

    #[pymodule_export]
    use crate::advantage::advantages;

    #[pymodule_export]
    use crate::checklists::Checklists;

    #[pymodule_export]
    use crate::forecast::Forecaster;

    #[pymodule_export]
    use crate::judge::{Job, Judge, judge_command, rubric_command};

    #[pymodule_export]
    use crate::judge_settings::{judge_choices, judge_defaults, judge_settings, score_grade};

    #[pymodule_export]
    use crate::judge_stats::{JudgeStats, judge_counters};

    #[pymodule_export]
    use crate::ledger::LedgerReader;

    #[pymodule_export]
    use crate::rule_judge::RuleJudge;

    #[pymodule_export]
    use crate::steps::{Splitter, split_text, split_text_at};

    #[pymodule_export]
    use crate::texts::{injections, text_signs};

    #[pymodule_export]
    use crate::thinking::{open_thinking, outside_thinking};
}
