//! What Python's handles hold: threads, and values that are closed once and that a fork must not touch.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pyo3::prelude::*;
use tokio::runtime::{Builder, Runtime};

use crate::errors::JudgeError;

/// Tasks that hang in the operating system get so long at the end.
const SHUTDOWN: Duration = Duration::from_secs(2);

/// A tokio runtime. Its threads never touch Python, so the interpreter can exit at any time.
pub struct Threads(Option<Runtime>);

impl Threads {
    pub fn start() -> PyResult<Self> {
        let mut builder = Builder::new_multi_thread();
        builder
            .worker_threads(1)
            .thread_name("exprl-judge")
            .enable_all();
        let failed = |error| JudgeError::new_err(format!("cannot start threads: {error}"));
        builder
            .build()
            .map(|runtime| Self(Some(runtime)))
            .map_err(failed)
    }

    pub fn runtime(&self) -> &Runtime {
        self.0.as_ref().expect("there until the end")
    }

    /// Waits a moment for the threads' end; a drop does not.
    pub fn end(mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_timeout(SHUTDOWN);
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// A value that is there until it is taken. A child made by fork has the value but not its threads: every
/// use there is refused, and nothing is freed (a lock may have been held at the fork).
pub struct Held<T> {
    process: u32,
    name: &'static str,
    value: Mutex<Option<T>>,
}

impl<T> Held<T> {
    pub fn new(name: &'static str, value: T) -> Self {
        Self {
            process: std::process::id(),
            name,
            value: Mutex::new(Some(value)),
        }
    }

    /// Uses the value; an error if it was taken.
    pub fn with<R>(&self, use_it: impl FnOnce(&mut T) -> R) -> PyResult<R> {
        self.check_process()?;
        let mut value = self.lock();
        let closed = || JudgeError::new_err(format!("the {} is closed", self.name));
        value.as_mut().map(use_it).ok_or_else(closed)
    }

    /// The value, the first time.
    pub fn take(&self) -> PyResult<Option<T>> {
        self.check_process()?;
        Ok(self.lock().take())
    }

    fn lock(&self) -> MutexGuard<'_, Option<T>> {
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_process(&self) -> PyResult<()> {
        let here = std::process::id();
        if here == self.process {
            return Ok(());
        }
        let made_in = self.process;
        Err(JudgeError::new_err(format!(
            "this judge was opened in process {made_in} and does not work in its fork {here}; open a new Judge here"
        )))
    }
}

impl<T> Drop for Held<T> {
    fn drop(&mut self) {
        if std::process::id() != self.process {
            std::mem::forget(self.lock().take());
        }
    }
}
