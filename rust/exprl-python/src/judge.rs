//! `Judge`, `Job` and `RuleJudge`: exprl-judge for python/exprl/judge/.
//!
//! Requests run on a tokio runtime of the judge's own, whose threads never touch Python: so the
//! interpreter can exit at any time. A child made by fork has the handles but not the threads: every
//! call there is refused, and nothing is freed (a lock may have been held at the fork).

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use exprl_judge::{
    Burst, Checklist, Checklists, Checkpoint, Error, Graded, Item, MetricsServer, Prices, Readout,
    ScoreMap, Settings, Status, Task, Verdict, View,
};
use exprl_rehearsal::{self as rehearsal, Faults, Rule};
use pyo3::conversion::FromPyObjectOwned;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::types::{PyDict, PyIterator, PyTuple};
use tokio::runtime::{Builder, Handle, Runtime};

pyo3::import_exception!(exprl.errors, ConfigError);
pyo3::import_exception!(exprl.errors, DataError);
pyo3::import_exception!(exprl.errors, JudgeError);

/// So often a waiting call looks for Ctrl-C.
const SIGNAL_CHECK: Duration = Duration::from_millis(50);
/// So long items are queued before waiting results are taken.
const BURST: Duration = Duration::from_millis(2);
/// Between two looks whether a burst is long enough.
const GLANCE: Duration = Duration::from_micros(500);
/// So many results are made into Python objects at once, at most: the rest stays small until asked for.
const LONGEST_BURST: usize = 256;
/// Tasks that hang in the operating system get so long at the end.
const SHUTDOWN: Duration = Duration::from_secs(2);

fn raise(error: &Error) -> PyErr {
    let text = error.to_string();
    match error {
        Error::Setting { .. } | Error::Rubric(_) => ConfigError::new_err(text),
        Error::Item { .. } => DataError::new_err(text),
        _ => JudgeError::new_err(text),
    }
}

fn runtime(threads: usize) -> PyResult<Runtime> {
    let mut builder = Builder::new_multi_thread();
    builder
        .worker_threads(threads)
        .thread_name("exprl-judge")
        .enable_all();
    builder
        .build()
        .map_err(|error| JudgeError::new_err(format!("cannot start threads: {error}")))
}

/// Refuses the use of a handle in a process that has not made it.
fn check_process(made_in: u32) -> PyResult<()> {
    if std::process::id() == made_in {
        return Ok(());
    }
    let text = format!(
        "this judge was opened in process {made_in} and does not work in its fork {}; open a new Judge here",
        std::process::id()
    );
    Err(JudgeError::new_err(text))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Open {
    runtime: Runtime,
    judge: exprl_judge::Judge,
    /// Dropped with the judge, which closes the port.
    metrics: Vec<MetricsServer>,
}

impl Open {
    /// Cancels all jobs, drops their sockets and frees the ledger.
    fn close(self) {
        drop((self.judge, self.metrics));
        self.runtime.shutdown_timeout(SHUTDOWN);
    }
}

/// Servers, queues and ledger.
#[pyclass(frozen, module = "exprl._core")]
pub struct Judge {
    process: u32,
    open: Mutex<Option<Open>>,
}

#[pymethods]
impl Judge {
    /// `settings`: the fields of `exprl.judge.JudgeSettings`, with `rubric` and `extra` as text.
    #[new]
    fn new(py: Python<'_>, settings: &Bound<'_, PyDict>) -> PyResult<Self> {
        let settings = read_settings(settings)?;
        let open = py.detach(|| -> PyResult<Open> {
            let runtime = runtime(1)?;
            let judge = exprl_judge::Judge::new(&settings, runtime.handle().clone());
            Ok(Open {
                judge: judge.map_err(|error| raise(&error))?,
                runtime,
                metrics: Vec::new(),
            })
        })?;
        Ok(Self {
            process: std::process::id(),
            open: Mutex::new(Some(open)),
        })
    }

    /// A new job; its deadline runs from now.
    fn submit(&self) -> PyResult<Job> {
        check_process(self.process)?;
        let open = lock(&self.open);
        let open = open
            .as_ref()
            .ok_or_else(|| JudgeError::new_err("the judge is closed"))?;
        Ok(Job {
            process: self.process,
            runtime: open.runtime.handle().clone(),
            inner: Some(Arc::new(open.judge.submit())),
            bell: OnceLock::new(),
            left: Mutex::default(),
        })
    }

    /// The counters, by the names of `exprl.judge.JudgeStats`.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        check_process(self.process)?;
        let stats = {
            let open = lock(&self.open);
            let open = open
                .as_ref()
                .ok_or_else(|| JudgeError::new_err("the judge is closed"))?;
            open.judge.stats()
        };
        let statuses = PyDict::new(py);
        for (status, count) in Status::ALL.iter().zip(stats.statuses) {
            statuses.set_item(status.name(), count)?;
        }
        let dict = PyDict::new(py);
        dict.set_item("requests_sent", stats.requests_sent)?;
        dict.set_item("from_ledger", stats.from_ledger)?;
        dict.set_item("shared", stats.shared)?;
        dict.set_item("retries", stats.retries)?;
        dict.set_item("reasks", stats.reasks)?;
        dict.set_item("hedges", stats.hedges)?;
        dict.set_item("hedges_won", stats.hedges_won)?;
        dict.set_item("rate_limit_pauses", stats.rate_limit_pauses)?;
        dict.set_item("readout_fallbacks", stats.readout_fallbacks)?;
        dict.set_item("statuses", statuses)?;
        dict.set_item("prompt_tokens", stats.prompt_tokens)?;
        dict.set_item("completion_tokens", stats.completion_tokens)?;
        dict.set_item("cached_tokens", stats.cached_tokens)?;
        dict.set_item("cost", stats.cost)?;
        dict.set_item("ledger_replies", stats.ledger_replies)?;
        dict.set_item("ledger_corrupt", stats.ledger_corrupt)?;
        dict.set_item("ledger_failed", stats.ledger_failed)?;
        dict.set_item("in_flight", stats.in_flight)?;
        dict.set_item("latency_p50_s", stats.latency_p50_s)?;
        dict.set_item("latency_p99_s", stats.latency_p99_s)?;
        Ok(dict)
    }

    /// The counters in Prometheus' text format.
    fn prometheus(&self) -> PyResult<String> {
        check_process(self.process)?;
        let open = lock(&self.open);
        let open = open
            .as_ref()
            .ok_or_else(|| JudgeError::new_err("the judge is closed"))?;
        Ok(open.judge.prometheus())
    }

    /// Serves the same on loopback until `close`; gives the page's URL.
    fn serve_metrics(&self, py: Python<'_>, port: u16) -> PyResult<String> {
        check_process(self.process)?;
        let mut open = lock(&self.open);
        let open = open
            .as_mut()
            .ok_or_else(|| JudgeError::new_err("the judge is closed"))?;
        let server = py.detach(|| open.runtime.block_on(open.judge.serve_metrics(port)));
        let server = server.map_err(|error| raise(&error))?;
        let url = format!("http://{}/metrics", server.addr());
        open.metrics.push(server);
        Ok(url)
    }

    /// Cancels what is unfinished and frees the ledger; a second call does nothing.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        check_process(self.process)?;
        let open = lock(&self.open).take();
        py.detach(|| open.map(Open::close));
        Ok(())
    }
}

impl Drop for Judge {
    fn drop(&mut self) {
        let open = lock(&self.open).take();
        match open {
            Some(open) if std::process::id() != self.process => std::mem::forget(open),
            Some(Open {
                runtime,
                judge,
                metrics,
            }) => {
                drop((judge, metrics));
                runtime.shutdown_background();
            }
            None => {}
        }
    }
}

/// A batch: push items, take graded items.
#[pyclass(frozen, module = "exprl._core")]
pub struct Job {
    process: u32,
    runtime: Handle,
    /// Always there until the drop.
    inner: Option<Arc<exprl_judge::Job>>,
    /// Readable when results have arrived: the reading and the writing end.
    bell: OnceLock<UnixStream>,
    /// What `feed` has taken and found no room for.
    left: Mutex<Option<Item<PyBackedStr>>>,
}

#[pymethods]
impl Job {
    /// Queues an item, a tuple in the order of `exprl.judge.JudgeItem`'s fields; waits, open to Ctrl-C,
    /// while the queue is full.
    fn push(&self, py: Python<'_>, item: &Bound<'_, PyTuple>) -> PyResult<()> {
        let job = self.job()?;
        let item = read_item(item)?;
        if py
            .detach(|| job.try_push(&item))
            .map_err(|error| raise(&error))?
        {
            return Ok(());
        }
        loop {
            let pushed = py.detach(|| {
                self.runtime
                    .block_on(async { tokio::time::timeout(SIGNAL_CHECK, job.push(&item)).await })
            });
            match pushed {
                Ok(result) => return result.map_err(|error| raise(&error)),
                Err(_) => py.check_signals()?,
            }
        }
    }

    /// Queues what `items` gives while there is room for it; says whether that was all of it, and
    /// whether the queue is full. With `brief` it ends when there is a burst of results to take.
    fn feed(
        &self,
        py: Python<'_>,
        items: &Bound<'_, PyIterator>,
        brief: bool,
    ) -> PyResult<(bool, bool)> {
        let job = self.job()?;
        let mut items = items.clone();
        let began = Instant::now();
        loop {
            let left = lock(&self.left).take();
            let item = match left {
                Some(item) => item,
                None => match items.next() {
                    Some(item) => read_item(item?.cast::<PyTuple>()?)?,
                    None => return Ok((true, false)),
                },
            };
            let pushed = py.detach(|| job.try_push(&item));
            if !pushed.map_err(|error| raise(&error))? {
                *lock(&self.left) = Some(item);
                return Ok((false, true));
            }
            let ready = job.ready();
            if brief && (ready >= LONGEST_BURST || ready > 0 && began.elapsed() >= BURST) {
                return Ok((false, false));
            }
            // A plain list gives Python no other chance.
            py.check_signals()?;
        }
    }

    /// No more items will come.
    fn close(&self) -> PyResult<()> {
        self.job()?.close();
        Ok(())
    }

    /// Ends the job now.
    fn cancel(&self, py: Python<'_>) -> PyResult<()> {
        let job = self.job()?;
        py.detach(|| job.cancel());
        Ok(())
    }

    /// What has finished, and whether that was the rest; waits a moment for it, not longer: the caller
    /// stays open to Ctrl-C, and may have more to queue. The first result of a burst waits `gather_s`
    /// for the others.
    fn wait<'py>(
        &self,
        py: Python<'py>,
        gather_s: f64,
    ) -> PyResult<(Vec<Bound<'py, PyTuple>>, bool)> {
        let job = self.job()?;
        py.detach(|| {
            // Takes nothing yet.
            drop(job.wait(SIGNAL_CHECK, 0));
            let until = Instant::now() + Duration::try_from_secs_f64(gather_s).unwrap_or_default();
            while (1..LONGEST_BURST).contains(&job.ready())
                && !job.is_complete()
                && Instant::now() < until
            {
                std::thread::sleep(GLANCE);
            }
        });
        // What was taken before a Ctrl-C that came meanwhile would be lost with the call.
        py.check_signals()?;
        rows(py, job.take(LONGEST_BURST))
    }

    /// What has finished, and whether that was the rest; never waits.
    fn take<'py>(&self, py: Python<'py>) -> PyResult<(Vec<Bound<'py, PyTuple>>, bool)> {
        let job = self.job()?;
        if let Some(mut bell) = self.bell.get() {
            // Emptied before the results are taken, so a later result rings it again.
            let mut rung = [0; 64];
            while bell.read(&mut rung).is_ok_and(|count| count == rung.len()) {}
        }
        rows(py, job.take(LONGEST_BURST))
    }

    /// A descriptor that becomes readable when `take` has something new.
    fn fileno(&self) -> PyResult<i32> {
        let job = self.job()?;
        if let Some(bell) = self.bell.get() {
            return Ok(bell.as_raw_fd());
        }
        let (reader, writer) = UnixStream::pair()?;
        reader.set_nonblocking(true)?;
        writer.set_nonblocking(true)?;
        let reader = self.bell.get_or_init(|| reader);
        // A full bell is a rung bell: the error of a write that would block says nothing.
        job.on_ready(move || drop((&writer).write(&[1])));
        Ok(reader.as_raw_fd())
    }
}

impl Job {
    fn job(&self) -> PyResult<Arc<exprl_judge::Job>> {
        check_process(self.process)?;
        self.inner
            .clone()
            .ok_or_else(|| JudgeError::new_err("the job is gone"))
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if std::process::id() != self.process {
            std::mem::forget(self.inner.take());
        }
    }
}

fn read_item(item: &Bound<'_, PyTuple>) -> PyResult<Item<PyBackedStr>> {
    fn field<'py, T: FromPyObjectOwned<'py>>(
        item: &Bound<'py, PyTuple>,
        place: usize,
        name: &str,
    ) -> PyResult<T> {
        item.get_item(place)?.extract::<T>().map_err(|error| {
            let error: PyErr = error.into();
            let text = format!("field `{name}` of an item: {}", error.value(item.py()));
            PyTypeError::new_err(text)
        })
    }
    let checklist: Option<Vec<(String, u8)>> = field(item, 5, "checklist")?;
    Ok(Item {
        id: field(item, 0, "id")?,
        problem: field(item, 1, "problem")?,
        reference: field(item, 2, "reference")?,
        segments: field(item, 3, "segments")?,
        domain: field(item, 4, "domain")?,
        checklist: checklist.map(read_checklist).transpose()?,
    })
}

/// (index, id, [verdict, ...]) per item; a verdict in the order of `exprl.judge.Verdict`'s fields.
fn rows(py: Python<'_>, burst: Burst) -> PyResult<(Vec<Bound<'_, PyTuple>>, bool)> {
    let rows = burst.graded.into_iter().map(
        |Graded {
             index,
             id,
             verdicts,
         }| {
            let verdicts: Vec<_> = verdicts
                .into_iter()
                .map(|v| row(py, v))
                .collect::<PyResult<_>>()?;
            (index, id, verdicts).into_pyobject(py)
        },
    );
    Ok((rows.collect::<PyResult<_>>()?, burst.finished))
}

fn row(py: Python<'_>, v: Verdict) -> PyResult<Bound<'_, PyTuple>> {
    (
        v.status.name(),
        v.grade,
        v.score,
        v.reply,
        v.error,
        v.prompt_tokens,
        v.completion_tokens,
        v.cached_tokens,
        v.attempts,
        v.server.as_deref(),
        v.latency_s,
        v.from_cache,
    )
        .into_pyobject(py)
}

/// One of the settings, or what is wrong with it.
fn get<'py, T: FromPyObjectOwned<'py>>(given: &Bound<'py, PyDict>, name: &str) -> PyResult<T> {
    let value = given.get_item(name)?;
    let value =
        value.ok_or_else(|| ConfigError::new_err(format!("judge setting `{name}` is missing")))?;
    value.extract::<T>().map_err(|error| {
        let error: PyErr = error.into();
        ConfigError::new_err(format!(
            "judge setting `{name}`: {}",
            error.value(given.py())
        ))
    })
}

fn read_settings(given: &Bound<'_, PyDict>) -> PyResult<Settings> {
    let seconds = |name: &str| -> PyResult<Duration> {
        let value: f64 = get(given, name)?;
        Duration::try_from_secs_f64(value).map_err(|_| {
            ConfigError::new_err(format!(
                "judge setting `{name}`: {value} is no time in seconds"
            ))
        })
    };
    let extra: String = get(given, "extra")?;
    let extra = serde_json::from_str(&extra)
        .map_err(|error| ConfigError::new_err(format!("judge setting `extra`: {error}")))?;
    let view: String = get(given, "view")?;
    let readout: String = get(given, "readout")?;
    let score_map: String = get(given, "score_map")?;
    Ok(Settings {
        task: Task::Grade,
        endpoints: get(given, "endpoints")?,
        model: get(given, "model")?,
        checklists: match get::<Option<String>>(given, "rubrics")? {
            None => None,
            Some(text) => {
                let read = Checklists::read(&text);
                let wrong =
                    |reason| ConfigError::new_err(format!("judge setting `rubrics`: {reason}"));
                Some(Arc::new(read.map_err(wrong)?))
            }
        },
        view: View::ALL
            .into_iter()
            .find(|known| known.name() == view)
            .ok_or_else(|| unknown("view", &view, "outcome, prefix, step"))?,
        readout: match readout.as_str() {
            "text" => Readout::Text,
            "expected" => Readout::Expected,
            _ => return Err(unknown("readout", &readout, "text, expected")),
        },
        score_map: match score_map.as_str() {
            "linear" => ScoreMap::Linear,
            "binary" => ScoreMap::Binary,
            "extremes" => ScoreMap::Extremes,
            "extremes_soft" => ScoreMap::ExtremesSoft,
            _ => {
                return Err(unknown(
                    "score_map",
                    &score_map,
                    "linear, binary, extremes, extremes_soft",
                ));
            }
        },
        rubric: get(given, "rubric")?,
        temperature: get(given, "temperature")?,
        max_tokens: get(given, "max_tokens")?,
        extra,
        concurrency: get(given, "concurrency")?,
        kv_tokens: get(given, "kv_tokens")?,
        rpm: get(given, "rpm")?,
        tpm: get(given, "tpm")?,
        hedge: get(given, "hedge")?,
        prices: match get::<Option<Bound<'_, PyAny>>>(given, "prices")? {
            None => None,
            Some(prices) => Some(Prices {
                prompt: prices.getattr("prompt")?.extract()?,
                cached: prices.getattr("cached")?.extract()?,
                completion: prices.getattr("completion")?.extract()?,
            }),
        },
        attempts: get(given, "attempts")?,
        retry_budget: get(given, "retry_budget")?,
        reask: get(given, "reask")?,
        stream: get(given, "stream")?,
        connect_timeout: seconds("connect_timeout_s")?,
        first_byte_timeout: seconds("first_byte_timeout_s")?,
        idle_timeout: seconds("idle_timeout_s")?,
        deadline: seconds("deadline_s")?,
        outage: seconds("outage_s")?,
        queue_bytes: get(given, "queue_bytes")?,
        ledger: get(given, "ledger")?,
        revision: get(given, "revision")?,
        sample_index: get(given, "sample_index")?,
        api_key_env: get(given, "api_key_env")?,
        api_key_file: get(given, "api_key_file")?,
        ca_file: get(given, "ca_file")?,
    })
}

fn read_checklist(checkpoints: Vec<(String, u8)>) -> PyResult<Arc<Checklist>> {
    let checkpoints = checkpoints
        .into_iter()
        .map(|(text, weight)| Checkpoint { text, weight });
    let checklist = Checklist::new(checkpoints.collect());
    checklist
        .map(Arc::new)
        .map_err(|reason| DataError::new_err(format!("judge item: its checklist: {reason}")))
}

/// Runs the command line of exprl-judge; returns its exit code.
#[pyfunction]
pub fn judge_command(py: Python<'_>, arguments: Vec<String>) -> u8 {
    let arguments = arguments.into_iter().map(Into::into);
    py.detach(|| exprl_judge_cli::run("exprl judge", arguments))
}

fn unknown(field: &str, value: &str, allowed: &str) -> PyErr {
    ConfigError::new_err(format!(
        "judge setting `{field}`: {value:?} is not one of {allowed}"
    ))
}

/// A judge that grades by rule, served on loopback by this process.
#[pyclass(frozen, module = "exprl._core")]
pub struct RuleJudge {
    process: u32,
    url: String,
    model: String,
    open: Mutex<Option<(Runtime, rehearsal::Handle)>>,
}

#[pymethods]
impl RuleJudge {
    /// `faults`: the fields of the Rust crate's `Faults`, as a JSON object.
    #[new]
    #[pyo3(signature = (rules, *, port, slots, max_model_len, faults))]
    fn new(
        py: Python<'_>,
        rules: &str,
        port: u16,
        slots: Option<usize>,
        max_model_len: Option<usize>,
        faults: &str,
    ) -> PyResult<Self> {
        let rule: Rule = rules
            .parse()
            .map_err(|_| unknown("rules", rules, "division, numbers"))?;
        let mut config = rehearsal::Config::new(rule);
        config.listen.set_port(port);
        config.slots = slots;
        config.max_model_len = max_model_len;
        config.faults = serde_json::from_str::<Faults>(faults)
            .map_err(|error| ConfigError::new_err(format!("rule judge: {error}")))?;
        let model = config.model.clone();
        let (runtime, handle) = py.detach(|| -> PyResult<_> {
            let runtime = runtime(1)?;
            let handle = runtime.block_on(rehearsal::serve(config));
            Ok((
                runtime,
                handle.map_err(|error| ConfigError::new_err(error.to_string()))?,
            ))
        })?;
        let url = handle.url();
        Ok(Self {
            process: std::process::id(),
            url,
            model,
            open: Mutex::new(Some((runtime, handle))),
        })
    }

    /// Base URL, such as `http://127.0.0.1:40123/v1`.
    #[getter]
    fn url(&self) -> &str {
        &self.url
    }

    /// The model's name there.
    #[getter]
    fn model(&self) -> &str {
        &self.model
    }

    /// The server's counters as JSON.
    fn stats(&self) -> PyResult<String> {
        check_process(self.process)?;
        let open = lock(&self.open);
        let (_, handle) = open
            .as_ref()
            .ok_or_else(|| JudgeError::new_err("the rule judge is closed"))?;
        serde_json::to_string(&handle.stats())
            .map_err(|error| JudgeError::new_err(error.to_string()))
    }

    /// Closes the listener and every connection; a second call does nothing.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        check_process(self.process)?;
        let open = lock(&self.open).take();
        py.detach(|| {
            if let Some((runtime, handle)) = open {
                runtime.block_on(handle.stop());
                runtime.shutdown_timeout(SHUTDOWN);
            }
        });
        Ok(())
    }
}

impl Drop for RuleJudge {
    fn drop(&mut self) {
        match lock(&self.open).take() {
            Some(open) if std::process::id() != self.process => std::mem::forget(open),
            Some((runtime, handle)) => {
                drop(handle);
                runtime.shutdown_background();
            }
            None => {}
        }
    }
}
