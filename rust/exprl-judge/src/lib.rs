//! Grades many model outputs with an LLM judge behind OpenAI-compatible servers.
//!
//! Items go in, verdicts come out: every request ends as a [`Verdict`] with a [`Status`], and a
//! missing grade is missing, never a number. See [`Settings`] for what can be chosen.
//!
//! ```no_run
//! use exprl_judge::{Item, Judge, Settings};
//!
//! # async fn grade() -> Result<(), exprl_judge::Error> {
//! let settings = Settings::new(vec!["http://127.0.0.1:8000/v1".into()], "Qwen/Qwen3-4B");
//! let judge = Judge::new(&settings, tokio::runtime::Handle::current())?;
//! let job = judge.submit();
//! job.push(&Item {
//!     id: "rollout 0".into(),
//!     problem: "What is 2 + 2?",
//!     reference: Some("2 + 2 = 4"),
//!     segments: vec!["### I add. ", "### It is 4."],
//!     domain: "math".into(),
//!     checklist: None,
//! })
//! .await?;
//! for graded in job.collect().await {
//!     println!("{}: {:?}", graded.id, graded.verdicts);
//! }
//! # Ok(())
//! # }
//! ```

mod access;
mod bell;
mod blocking;
mod connect;
mod connection;
mod counters;
mod dispatch;
mod error;
mod escape;
mod estimate;
mod forecast;
#[cfg(test)]
mod fuzz;
mod hints;
mod job;
mod job_state;
mod latency;
pub mod ledger;
mod limits;
mod message;
mod metrics;
mod metrics_server;
mod policy;
mod prometheus;
mod proxy;
mod refusal;
mod reply;
mod request;
pub mod schedule;
mod settings;
pub mod sse;
mod stream;
mod transport;
mod trusted;
mod types;

use std::sync::Arc;

use tokio::runtime::Handle;

use dispatch::Dispatcher;

pub use blocking::BlockingJob;
pub use counters::Stats;
pub use error::Error;
pub use exprl_rubric::{
    Checklist, Checklists, Checkpoint, Entry as ChecklistEntry, Layout, Readout, ScoreMap, View,
};
pub use forecast::{Forecast, Forecaster};
pub use job::Job;
pub use job_state::Burst;
pub use metrics_server::MetricsServer;
pub use settings::{Prices, Settings, Task};
pub use types::{Graded, Item, Status, Verdict};

/// A judge: servers, queues, ledger. Jobs share them; dropping the judge cancels its jobs.
pub struct Judge {
    dispatcher: Arc<Dispatcher>,
    settings: Settings,
}

impl Judge {
    /// Checks the settings, reads the key, opens the ledger. Requests run on `runtime`, which needs
    /// its I/O and time drivers.
    pub fn new(settings: &Settings, runtime: Handle) -> Result<Self, Error> {
        Ok(Self {
            dispatcher: Dispatcher::new(settings, runtime)?,
            settings: settings.clone(),
        })
    }

    /// How it judges.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Starts a job; its deadline runs from now.
    #[must_use]
    pub fn submit(&self) -> Job {
        Job::new(self.dispatcher.open(), Arc::downgrade(&self.dispatcher))
    }

    /// What has been done so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.dispatcher.stats()
    }

    /// The same and more, per server, in Prometheus' text format 0.0.4.
    #[must_use]
    pub fn prometheus(&self) -> String {
        self.dispatcher.prometheus()
    }

    /// Serves [`prometheus`](Self::prometheus) as `GET /metrics` on `port` of 127.0.0.1 (0 takes a free
    /// one) until what is returned is dropped.
    pub async fn serve_metrics(&self, port: u16) -> Result<MetricsServer, Error> {
        let dispatcher = Arc::downgrade(&self.dispatcher);
        let text = move || Some(dispatcher.upgrade()?.prometheus());
        metrics_server::serve(port, text).await
    }
}

impl Drop for Judge {
    fn drop(&mut self) {
        self.dispatcher.close();
    }
}
