//! The caller's side of a batch: push items in, take graded items out.

use std::ops::Deref;
use std::sync::{Arc, Weak};

use crate::dispatch::Dispatcher;
use crate::error::Error;
use crate::job_state::{Burst, JobState, Stop};
use crate::types::{Graded, Item};

/// A batch of items. Dropping it cancels what is unfinished.
pub struct Job {
    pub(crate) state: Arc<JobState>,
    /// Gone when the judge is closed: a job in somebody's hands does not hold the ledger open.
    dispatcher: Weak<Dispatcher>,
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

    /// Resolves when an item of so many bytes may find room.
    pub(crate) fn room(&self, bytes: usize) -> impl Future<Output = ()> + Send + 'static {
        let dispatcher = self.dispatcher.upgrade();
        async move {
            if let Some(dispatcher) = dispatcher {
                dispatcher.room(bytes).await;
            }
        }
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

    /// Waits until something has finished or the job is over; gives what was not taken yet.
    pub async fn next(&self) -> Burst {
        self.state.arrival().await;
        self.state.take(usize::MAX)
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
}

impl Drop for Job {
    fn drop(&mut self) {
        if self.state.is_busy() {
            self.cancel();
        }
    }
}
