//! A job for callers that block a thread, or wait for a descriptor, and must hear interrupts meanwhile:
//! Python's, for example.

use std::io;
use std::ops::Deref;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::time::timeout;

use crate::bell::Bell;
use crate::error::Error;
use crate::job::Job;
use crate::job_state::Burst;
use crate::types::Item;

/// A call that blocks looks so often whether it is interrupted.
const INTERRUPT_CHECK: Duration = Duration::from_millis(50);
/// The first result of a burst waits so long for others; items are queued so long before results are taken.
const BURST: Duration = Duration::from_millis(2);
/// So many results are given at once, at most: the rest stays small until asked for.
const LONGEST_BURST: usize = 256;

/// A job whose calls wait a moment at most. Items come from the caller one by one (`push`), or from a
/// source that is asked for the next one as there is room (`feed`, `wait`, `take`).
///
/// A source is a function: `None` is its end, which closes the job.
pub struct BlockingJob<T> {
    job: Job,
    runtime: Handle,
    source: Mutex<Source<T>>,
    /// Rings when results have arrived, or there is room for an item that had none.
    bell: OnceLock<Arc<Bell>>,
}

struct Source<T> {
    /// Taken from the source; there was no room for it.
    left: Option<Item<T>>,
    /// Nothing more is taken from the source.
    ended: bool,
}

impl<T: Deref<Target = str>> BlockingJob<T> {
    /// `runtime` is the one on which the judge makes its requests.
    #[must_use]
    pub fn new(job: Job, runtime: Handle) -> Self {
        Self {
            job,
            runtime,
            source: Mutex::new(Source {
                left: None,
                ended: false,
            }),
            bell: OnceLock::new(),
        }
    }

    /// Queues an item; waits while the queue is full. `check` is called meanwhile: its error ends the
    /// wait, and nothing is queued.
    pub fn push<E: From<Error>>(
        &self,
        item: &Item<T>,
        check: impl Fn() -> Result<(), E>,
    ) -> Result<(), E> {
        if self.job.try_push(item)? {
            return Ok(());
        }
        loop {
            let push = async { timeout(INTERRUPT_CHECK, self.job.push(item)).await };
            match self.runtime.block_on(push) {
                Ok(pushed) => return Ok(pushed?),
                Err(_) => check()?,
            }
        }
    }

    /// Queues what `source` gives while there is room for it.
    pub fn feed<E: From<Error>>(
        &self,
        source: impl FnMut() -> Option<Result<Item<T>, E>>,
    ) -> Result<(), E> {
        self.feed_until(source, || false)
    }

    /// The next results. Waits for them, a moment and not longer: the caller may have an interrupt to hear.
    /// First the source's items are queued as there is room. `check` is called last before the results are
    /// taken: its error leaves them where they are.
    pub fn wait<E: From<Error>>(
        &self,
        source: Option<impl FnMut() -> Option<Result<Item<T>, E>>>,
        check: impl Fn() -> Result<(), E>,
    ) -> Result<Burst, E> {
        let gather = match source {
            Some(source) => self.feed_briefly(source)?,
            None => BURST,
        };
        let results = &self.job.state;
        let arrival = async { timeout(INTERRUPT_CHECK, results.arrival()).await };
        let _ = self.runtime.block_on(arrival);
        if (1..LONGEST_BURST).contains(&results.ready()) && !results.is_complete() {
            std::thread::sleep(gather);
        }
        check()?;
        Ok(results.take(LONGEST_BURST))
    }

    /// What has finished; never waits. First the source's items are queued as there is room. The
    /// descriptor becomes readable when there is more to take or to queue.
    pub fn take<E: From<Error>>(
        &self,
        source: Option<impl FnMut() -> Option<Result<Item<T>, E>>>,
    ) -> Result<Burst, E> {
        if let Some(source) = source {
            self.feed_briefly(source)?;
        }
        // Silenced before the results are taken, so that a later result rings again.
        self.bell.get().inspect(|bell| bell.silence());
        let burst = self.job.state.take(LONGEST_BURST);
        if burst.graded.is_empty() {
            self.ring_at_room();
        }
        Ok(burst)
    }

    /// The descriptor, the same one each time.
    pub fn descriptor(&self) -> io::Result<BorrowedFd<'_>> {
        if let Some(bell) = self.bell.get() {
            return Ok(bell.descriptor());
        }
        let new = Arc::new(Bell::new()?);
        let bell = self.bell.get_or_init(|| new);
        let rung = bell.clone();
        self.job.state.on_ready(move || rung.ring());
        Ok(bell.descriptor())
    }

    /// No more items will come.
    pub fn close(&self) {
        self.job.close();
    }

    /// Ends the job now; no more is taken from its source.
    pub fn cancel(&self) {
        *self.source() = Source {
            left: None,
            ended: true,
        };
        self.job.cancel();
    }

    /// Queues items until there is a burst of results to take. Gives how long the next result may wait for
    /// others: a full queue must not run dry meanwhile, and one that is not full can be filled at once.
    fn feed_briefly<E: From<Error>>(
        &self,
        source: impl FnMut() -> Option<Result<Item<T>, E>>,
    ) -> Result<Duration, E> {
        let began = Instant::now();
        self.feed_until(source, || {
            let ready = self.job.state.ready();
            ready >= LONGEST_BURST || ready > 0 && began.elapsed() >= BURST
        })?;
        let source = self.source();
        Ok(match (source.ended, &source.left) {
            (true, _) => BURST,
            (false, Some(_)) => BURST / 4,
            (false, None) => Duration::ZERO,
        })
    }

    fn feed_until<E: From<Error>>(
        &self,
        mut source: impl FnMut() -> Option<Result<Item<T>, E>>,
        enough: impl Fn() -> bool,
    ) -> Result<(), E> {
        while !self.source().ended {
            // Not locked while it runs: the source may use the job.
            let left = self.source().left.take();
            let Some(item) = left.map(Ok).or_else(&mut source) else {
                self.source().ended = true;
                self.job.close();
                break;
            };
            let item = item?;
            if !self.job.try_push(&item)? {
                self.source().left = Some(item);
                break;
            }
            if enough() {
                break;
            }
        }
        Ok(())
    }

    /// Rings when the item that had no room may have some.
    fn ring_at_room(&self) {
        let Some(bytes) = self.source().left.as_ref().map(Item::bytes) else {
            return;
        };
        if let Some(bell) = self.bell.get().cloned() {
            let room = self.job.room(bytes);
            // Ends when there is room, with the judge at the latest.
            self.runtime.spawn(async move {
                room.await;
                bell.ring();
            });
        }
    }

    fn source(&self) -> MutexGuard<'_, Source<T>> {
        self.source.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
