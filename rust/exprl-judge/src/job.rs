//! The caller's side of a batch: push items in, take graded items out.

use std::collections::{HashMap, VecDeque};
use std::ops::Deref;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

use crate::dispatch::Dispatcher;
use crate::error::Error;
use crate::types::{Graded, Item, Status, Verdict};

/// Graded items that have finished, and whether any can still come.
#[derive(Debug)]
pub struct Burst {
    /// In the order in which they finished.
    pub graded: Vec<Graded>,
    /// The job is closed and this was the rest.
    pub finished: bool,
}

/// A batch of items. Dropping it cancels what is unfinished.
pub struct Job {
    state: Arc<JobState>,
    /// Gone when the judge is closed: a job in somebody's hands does not hold the ledger open.
    dispatcher: Weak<Dispatcher>,
}

/// What a job shares with its requests.
pub(crate) struct JobState {
    /// Why the job stopped early, if it did: each request in flight watches it.
    stop: watch::Sender<Option<Stop>>,
    inner: Mutex<Inner>,
    arrived: Condvar,
    arrived_async: Notify,
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
struct Inner {
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

impl Inner {
    fn finished(&self) -> bool {
        self.closed && self.pending.is_empty()
    }
}

impl JobState {
    pub(crate) fn new(deadline: Instant) -> Self {
        Self {
            stop: watch::Sender::new(None),
            inner: Mutex::default(),
            arrived: Condvar::new(),
            arrived_async: Notify::new(),
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

    fn take(&self, at_most: usize) -> Burst {
        let mut inner = self.lock();
        let count = inner.ready.len().min(at_most);
        Burst {
            graded: inner.ready.drain(..count).collect(),
            finished: inner.finished() && inner.ready.is_empty(),
        }
    }

    fn wake(&self) {
        self.arrived.notify_all();
        self.arrived_async.notify_one();
        if let Some(call) = self.on_ready.get() {
            call();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
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

impl Job {
    pub(crate) fn new(state: Arc<JobState>, dispatcher: Weak<Dispatcher>) -> Self {
        Self { state, dispatcher }
    }

    /// Queues an item; waits while too many bytes are queued. Its index is the number of earlier pushes.
    ///
    /// Nothing is queued if the future is dropped while it waits.
    pub async fn push(&self, item: &Item<impl Deref<Target = str>>) -> Result<(), Error> {
        let dispatcher = self.dispatcher.upgrade().ok_or(Error::Closed)?;
        dispatcher.push(&self.state, item).await
    }

    /// Queues an item if there is room for it now; says whether it did.
    pub fn try_push(&self, item: &Item<impl Deref<Target = str>>) -> Result<bool, Error> {
        let dispatcher = self.dispatcher.upgrade().ok_or(Error::Closed)?;
        dispatcher.try_push(&self.state, item)
    }

    /// No more items will come: the job ends with those it has.
    pub fn close(&self) {
        self.state.close();
    }

    /// Ends the job now: sockets are dropped, what is unfinished gets the status `Cancelled`.
    pub fn cancel(&self) {
        self.state.stop(Stop::Cancelled);
        if let Some(dispatcher) = self.dispatcher.upgrade() {
            dispatcher.withdraw(&self.state);
        }
        self.state.close();
    }

    /// How many graded items `take` would give.
    #[must_use]
    pub fn ready(&self) -> usize {
        self.state.lock().ready.len()
    }

    /// What has finished since the last call, `at_most` so many; never waits.
    #[must_use]
    pub fn take(&self, at_most: usize) -> Burst {
        self.state.take(at_most)
    }

    /// Blocks this thread until something has finished, the job is over, or the time is up; gives
    /// `at_most` so many.
    #[must_use]
    pub fn wait(&self, time: Duration, at_most: usize) -> Burst {
        let inner = self.state.lock();
        let idle = |inner: &mut Inner| inner.ready.is_empty() && !inner.finished();
        let waited = self.state.arrived.wait_timeout_while(inner, time, idle);
        drop(waited);
        self.take(at_most)
    }

    /// Whether nothing will come beside what is ready.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.state.lock().finished()
    }

    /// Waits until something has finished or the job is over.
    pub async fn next(&self) -> Burst {
        loop {
            let burst = self.take(usize::MAX);
            if burst.finished || !burst.graded.is_empty() {
                return burst;
            }
            self.state.arrived_async.notified().await;
        }
    }

    /// Closes the job and waits for all that was not taken yet, in the order of pushes.
    pub async fn collect(self) -> Vec<Graded> {
        self.close();
        let mut all = Vec::new();
        loop {
            let burst = self.next().await;
            all.extend(burst.graded);
            if burst.finished {
                all.sort_by_key(|graded| graded.index);
                return all;
            }
        }
    }

    /// Calls `wake` when results arrive after there were none, and when the job is over. It runs on
    /// a thread of the dispatcher and must not block. Only the first call counts.
    pub fn on_ready(&self, wake: impl Fn() + Send + Sync + 'static) {
        if self.state.on_ready.set(Box::new(wake)).is_ok() {
            self.state.wake();
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        let unfinished = {
            let inner = self.state.lock();
            !inner.pending.is_empty()
        };
        if unfinished {
            self.cancel();
        }
    }
}
