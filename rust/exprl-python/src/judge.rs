//! `Judge` and `Job`: exprl-judge for python/exprl/judge/client.py.

use std::os::fd::AsRawFd;
use std::sync::Arc;

use exprl_judge::{BlockingJob, Item, MetricsServer};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::types::{PyIterator, PyTuple};

use crate::errors::Raised;
use crate::held::{Held, Threads};
use crate::judge_items::{Rows, read_item, rows};
use crate::judge_settings::{read_settings, to_json};
use crate::judge_stats::JudgeStats;

/// What closes with a judge, in this order: its jobs and their sockets, the ledger, the metrics' port, the
/// threads.
struct Open {
    judge: exprl_judge::Judge,
    metrics: Vec<MetricsServer>,
    threads: Threads,
}

/// Servers, queues and ledger.
#[pyclass(frozen, module = "exprl._core")]
pub struct Judge(Held<Open>);

#[pymethods]
impl Judge {
    /// `settings`: an `exprl.judge.JudgeSettings` as JSON.
    #[new]
    fn new(py: Python<'_>, settings: &str) -> Result<Self, Raised> {
        let settings = read_settings(settings)?;
        let open = py.detach(|| -> Result<Open, Raised> {
            let threads = Threads::start()?;
            let runtime = threads.runtime().handle().clone();
            Ok(Open {
                judge: exprl_judge::Judge::new(&settings, runtime)?,
                metrics: Vec::new(),
                threads,
            })
        })?;
        Ok(Self(Held::new("judge", open)))
    }

    /// A new job; its deadline runs from now.
    fn submit(&self) -> PyResult<Job> {
        let job = self.0.with(|open| {
            let runtime = open.threads.runtime().handle().clone();
            BlockingJob::new(open.judge.submit(), runtime)
        })?;
        Ok(Job(Held::new("job", Arc::new(job))))
    }

    /// How it judges, as JSON.
    fn settings(&self) -> PyResult<String> {
        self.0.with(|open| to_json(open.judge.settings()))?
    }

    /// What was done so far.
    fn stats(&self) -> PyResult<JudgeStats> {
        self.0.with(|open| open.judge.stats().into())
    }

    /// The counters in Prometheus' text format.
    fn prometheus(&self) -> PyResult<String> {
        self.0.with(|open| open.judge.prometheus())
    }

    /// Serves the same on loopback until `close`; gives the page's URL.
    fn serve_metrics(&self, py: Python<'_>, port: u16) -> Result<String, Raised> {
        let serve = |open: &mut Open| -> Result<String, Raised> {
            let runtime = open.threads.runtime();
            let server = runtime.block_on(open.judge.serve_metrics(port))?;
            let url = format!("http://{}/metrics", server.addr());
            open.metrics.push(server);
            Ok(url)
        };
        py.detach(|| self.0.with(serve))?
    }

    /// Cancels what is unfinished and frees the ledger; a second call does nothing.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| {
            if let Some(open) = self.0.take()? {
                drop((open.judge, open.metrics));
                open.threads.end();
            }
            Ok(())
        })
    }
}

/// A batch: push items, take graded items.
#[pyclass(frozen, module = "exprl._core")]
pub struct Job(Held<Arc<BlockingJob<PyBackedStr>>>);

#[pymethods]
impl Job {
    /// Queues an item, a tuple in the order of `exprl.judge.JudgeItem`'s fields; waits, open to Ctrl-C,
    /// while the queue is full.
    fn push(&self, py: Python<'_>, item: &Bound<'_, PyTuple>) -> Result<(), Raised> {
        let (job, item) = (self.job()?, read_item(item)?);
        py.detach(|| job.push(&item, check_signals))
    }

    /// Queues what `items` gives while there is room for it.
    fn feed(&self, py: Python<'_>, items: Py<PyIterator>) -> Result<(), Raised> {
        let job = self.job()?;
        py.detach(|| job.feed(source(items)))
    }

    /// No more items will come.
    fn close(&self) -> PyResult<()> {
        self.job().map(|job| job.close())
    }

    /// Ends the job now; no more is taken from its items.
    fn cancel(&self, py: Python<'_>) -> PyResult<()> {
        let job = self.job()?;
        py.detach(|| job.cancel());
        Ok(())
    }

    /// What has finished, and whether that was the rest; waits a moment for it, open to Ctrl-C. First
    /// `items`, those that were not all queued, are queued as there is room.
    fn wait<'py>(
        &self,
        py: Python<'py>,
        items: Option<Py<PyIterator>>,
    ) -> Result<Rows<'py>, Raised> {
        let job = self.job()?;
        let burst = py.detach(|| job.wait(items.map(source), check_signals))?;
        Ok(rows(py, burst)?)
    }

    /// Like `wait`, without the wait.
    fn take<'py>(
        &self,
        py: Python<'py>,
        items: Option<Py<PyIterator>>,
    ) -> Result<Rows<'py>, Raised> {
        let job = self.job()?;
        let burst = py.detach(|| job.take(items.map(source)))?;
        Ok(rows(py, burst)?)
    }

    /// A descriptor that becomes readable when `take` has something new, or room for more items.
    fn fileno(&self) -> PyResult<i32> {
        Ok(self.job()?.descriptor()?.as_raw_fd())
    }
}

impl Job {
    fn job(&self) -> PyResult<Arc<BlockingJob<PyBackedStr>>> {
        self.0.with(|job| job.clone())
    }
}

fn check_signals() -> Result<(), Raised> {
    Python::attach(|py| Ok(py.check_signals()?))
}

/// Takes items from an iterator, open to Ctrl-C before each: a plain list gives Python no other chance.
fn source(items: Py<PyIterator>) -> impl FnMut() -> Option<Result<Item<PyBackedStr>, Raised>> {
    move || {
        Python::attach(|py| {
            if let Err(interrupt) = py.check_signals() {
                return Some(Err(interrupt.into()));
            }
            let item = items.bind(py).clone().next()?;
            let read = item.and_then(|item| read_item(item.cast::<PyTuple>()?));
            Some(read.map_err(Raised::from))
        })
    }
}

/// Runs the command line of exprl-judge; returns its exit code.
#[pyfunction]
pub fn judge_command(py: Python<'_>, arguments: Vec<String>) -> u8 {
    let arguments = arguments.into_iter().map(Into::into);
    py.detach(|| exprl_judge_cli::run("exprl judge", arguments))
}

/// Runs `exprl-judge rubric` as `exprl rubric build`; returns its exit code.
#[pyfunction]
pub fn rubric_command(py: Python<'_>, arguments: Vec<String>) -> u8 {
    let arguments = arguments.into_iter().map(Into::into);
    py.detach(|| exprl_judge_cli::run_rubric("exprl rubric build", arguments))
}
