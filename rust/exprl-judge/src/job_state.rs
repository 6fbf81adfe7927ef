//! What a job shares with its requests: the places of their verdicts, and why it stopped.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use tokio::sync::{Notify, watch};

use crate::error::Error;
use crate::types::{Graded, Status, Verdict};

/// Graded items that have finished, and whether any can still come.
#[derive(Debug)]
pub struct Burst {
    /// In the order in which they finished.
    pub graded: Vec<Graded>,
    /// The job is closed and this was the rest.
    pub finished: bool,
}

/// What a job shares with its requests.
pub(crate) struct JobState {
    /// Why the job stopped early, if it did: each request in flight watches it.
    stop: watch::Sender<Option<Stop>>,
    inner: Mutex<Results>,
    arrived: Notify,
    /// Called when results arrive after there were none.
    on_ready: OnceLock<Box<dyn Fn() + Send + Sync>>,
    pub(crate) deadline: Instant,
}

/// Why unfinished requests get no more time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    Cancelled,
    Deadline,
}

#[derive(Default)]
struct Results {
    closed: bool,
    pushed: usize,
    pending: HashMap<usize, Pending>,
    ready: VecDeque<Graded>,
}

/// An item whose verdicts are not all there.
struct Pending {
    id: String,
    verdicts: Vec<Option<Verdict>>,
    missing: usize,
}

/// The place of one verdict. Dropped unsettled (its runtime ended), it files a cancellation, so that
/// nobody waits for ever.
pub(crate) struct Ticket {
    pub(crate) job: Arc<JobState>,
    item: usize,
    request: usize,
    settled: bool,
}

impl Ticket {
    /// Files the verdict; the last one of an item makes the item ready.
    pub(crate) fn settle(mut self, verdict: Verdict) {
        self.settled = true;
        self.file(verdict);
    }

    fn file(&self, verdict: Verdict) {
        let mut inner = self.job.lock();
        let Some(pending) = inner.pending.get_mut(&self.item) else {
            return;
        };
        pending.verdicts[self.request] = Some(verdict);
        pending.missing -= 1;
        if pending.missing > 0 {
            return;
        }
        let Some(pending) = inner.pending.remove(&self.item) else {
            return;
        };
        let verdicts = pending.verdicts.into_iter().flatten().collect();
        inner.ready.push_back(Graded {
            index: self.item,
            id: pending.id,
            verdicts,
        });
        // A waiter for all results must learn that these were the last.
        let wake = inner.ready.len() == 1 || inner.finished();
        drop(inner);
        if wake {
            self.job.wake();
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.settled {
            let reason = "the judge was closed before an answer came";
            self.file(Verdict::without_reply(Status::Cancelled, reason));
        }
    }
}

impl Results {
    fn finished(&self) -> bool {
        self.closed && self.pending.is_empty()
    }
}

impl JobState {
    pub(crate) fn new(deadline: Instant) -> Self {
        Self {
            stop: watch::Sender::new(None),
            inner: Mutex::default(),
            arrived: Notify::new(),
            on_ready: OnceLock::new(),
            deadline,
        }
    }

    /// Makes room for an item's verdicts; refuses if the job takes no more.
    pub(crate) fn admit(self: &Arc<Self>, id: &str, requests: usize) -> Result<Vec<Ticket>, Error> {
        let mut inner = self.lock();
        if inner.closed {
            return Err(Error::Closed);
        }
        let item = inner.pushed;
        inner.pushed += 1;
        let verdicts = vec![None; requests];
        inner.pending.insert(
            item,
            Pending {
                id: id.into(),
                verdicts,
                missing: requests,
            },
        );
        Ok((0..requests)
            .map(|request| Ticket {
                job: self.clone(),
                item,
                request,
                settled: false,
            })
            .collect())
    }

    pub(crate) fn stopped(&self) -> Option<Stop> {
        *self.stop.borrow()
    }

    /// Resolves when the job stops early.
    pub(crate) async fn stopping(&self) -> Stop {
        let mut stop = self.stop.subscribe();
        let stopped = stop
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|stop| *stop);
        match stopped {
            Some(stop) => stop,
            None => std::future::pending().await,
        }
    }

    /// Stops the job, for the first reason given.
    pub(crate) fn stop(&self, why: Stop) {
        self.stop
            .send_if_modified(|stop| stop.is_none() && stop.replace(why).is_none());
    }

    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.wake();
    }

    /// How many graded items `take` would give.
    pub(crate) fn ready(&self) -> usize {
        self.lock().ready.len()
    }

    /// Whether nothing will come beside what is ready.
    pub(crate) fn is_complete(&self) -> bool {
        self.lock().finished()
    }

    /// Whether an item has not all its verdicts.
    pub(crate) fn is_busy(&self) -> bool {
        !self.lock().pending.is_empty()
    }

    pub(crate) fn take(&self, at_most: usize) -> Burst {
        let mut inner = self.lock();
        let count = inner.ready.len().min(at_most);
        Burst {
            graded: inner.ready.drain(..count).collect(),
            finished: inner.finished() && inner.ready.is_empty(),
        }
    }

    /// Resolves when something is ready, or nothing will come.
    pub(crate) async fn arrival(&self) {
        while self.ready() == 0 && !self.is_complete() {
            self.arrived.notified().await;
        }
    }

    /// Calls `wake` when results arrive after there were none, and when nothing more will come. It runs on
    /// a thread of the dispatcher and must not block. Only the first call counts.
    pub(crate) fn on_ready(&self, wake: impl Fn() + Send + Sync + 'static) {
        if self.on_ready.set(Box::new(wake)).is_ok() {
            self.wake();
        }
    }

    fn wake(&self) {
        self.arrived.notify_one();
        if let Some(call) = self.on_ready.get() {
            call();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Results> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stop {
    /// The verdict of a request that was stopped.
    pub(crate) fn verdict(self) -> Verdict {
        match self {
            Self::Cancelled => Verdict::without_reply(Status::Cancelled, "the job was cancelled"),
            Self::Deadline => Verdict::without_reply(
                Status::Timeout,
                "the job's deadline passed; raise it or add servers",
            ),
        }
    }
}
