//! The way of one request: ledger, queue, server, grade, ledger, ticket.
//!
//! There is no background loop. Whatever changes the queues (a push, the end of a pause) calls `pump`,
//! which starts a task per request that may leave. A task holds a place in a server's window until its
//! exchange ends, and then takes the next request; it never waits for another task.

mod attempt;
mod call;
mod context;
mod flights;
mod hedge;
mod hope;
mod jobs;
mod queues;
mod replies;
mod retries;
mod room;
mod servers;
mod settle;

use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use exprl_rubric::{FenceKey, View};
use tokio::runtime::Handle;
use tokio::sync::OwnedSemaphorePermit;

use crate::counters::Stats;
use crate::error::Error;
use crate::job_state::{JobState, Stop};
use crate::ledger;
use crate::metrics::{Metrics, count};
use crate::request::{Composer, Rollout};
use crate::schedule::Pass;
use crate::settings::{Settings, seconds};
use crate::types::{Item, Verdict};

use call::{Call, Prefixes};
use flights::Flights;
use jobs::Jobs;
use queues::{Leave, Queues};
use replies::Replies;
use retries::Retries;
use room::Room;
use servers::Servers;

/// Everything that requests share.
pub(crate) struct Dispatcher {
    composer: Composer,
    room: Room,
    flights: Flights,
    queues: Mutex<Queues>,
    servers: Arc<Servers>,
    retries: Retries,
    replies: Replies,
    jobs: Jobs,
    metrics: Metrics,
    handle: Handle,
}

impl Dispatcher {
    pub(crate) fn new(settings: &Settings, handle: Handle) -> Result<Arc<Self>, Error> {
        settings.check()?;
        let servers = Arc::new(Servers::new(settings)?);
        let replies = Replies::new(settings)?;
        let fence = match &settings.ledger {
            Some(dir) => ledger::fence_key(dir)?,
            None => ledger::random_key().map_err(|error| Error::Setting {
                field: "ledger".into(),
                reason: format!("without one a random fence is needed, and: {error}"),
            })?,
        };
        Ok(Arc::new(Self {
            composer: Composer::new(settings, FenceKey::new(fence))?,
            room: Room::new(settings.queue_bytes),
            flights: Flights::default(),
            queues: Mutex::new(Queues::new(settings, servers.seeds())),
            retries: Retries::new(settings),
            replies,
            jobs: Jobs::new(seconds(settings.deadline_s)),
            metrics: Metrics::new(servers.all.len(), settings.prices),
            servers,
            handle,
        }))
    }

    pub(crate) fn stats(&self) -> Stats {
        let (ledger_replies, ledger_corrupt) = self.replies.kept();
        Stats {
            ledger_replies,
            ledger_corrupt,
            ..self.metrics.snapshot(self.queues().schedule.in_flight())
        }
    }

    pub(crate) fn prometheus(&self) -> String {
        let stats = self.stats();
        let now = Instant::now();
        let lanes: Vec<_> = {
            let queues = self.queues();
            let servers = self.servers.all.iter().enumerate();
            servers
                .map(|(lane, server)| (&*server.name, queues.schedule.state(lane, now)))
                .collect()
        };
        self.metrics.page(&stats, &lanes)
    }

    /// Starts a job's clock.
    pub(crate) fn open(self: &Arc<Self>) -> Arc<JobState> {
        let job = self.jobs.open();
        self.queues().hope.renew();
        let (dispatcher, watched) = (Arc::downgrade(self), Arc::downgrade(&job));
        let deadline = job.deadline;
        // Ends at the deadline, or does nothing there if the job is gone by then.
        self.handle.spawn(async move {
            tokio::time::sleep_until(deadline.into()).await;
            if let (Some(dispatcher), Some(job)) = (dispatcher.upgrade(), watched.upgrade()) {
                job.stop(Stop::Deadline);
                dispatcher.withdraw(&job);
            }
        });
        job
    }

    /// Cancels every job.
    pub(crate) fn close(self: &Arc<Self>) {
        for job in self.jobs.take() {
            job.stop(Stop::Cancelled);
            self.withdraw(&job);
            job.close();
        }
    }

    /// Queues an item; waits for room.
    pub(crate) async fn push(
        self: &Arc<Self>,
        job: &Arc<JobState>,
        item: &Item<impl Deref<Target = str>>,
    ) -> Result<(), Error> {
        let room = self.room.take(item.bytes()).await.ok_or(Error::Closed)?;
        self.admit(job, item, room)
    }

    /// Queues an item if there is room for it; says whether there was.
    pub(crate) fn try_push(
        self: &Arc<Self>,
        job: &Arc<JobState>,
        item: &Item<impl Deref<Target = str>>,
    ) -> Result<bool, Error> {
        match self.room.try_take(item.bytes()) {
            Some(room) => self.admit(job, item, room).map(|()| true),
            None => Ok(false),
        }
    }

    /// Resolves when there is room for so many bytes.
    pub(crate) async fn room(&self, bytes: usize) {
        drop(self.room.take(bytes).await);
    }

    fn admit(
        self: &Arc<Self>,
        job: &Arc<JobState>,
        item: &Item<impl Deref<Target = str>>,
        room: OwnedSemaphorePermit,
    ) -> Result<(), Error> {
        let Rollout { affinity, requests } = self.composer.render(item)?;
        let tickets = job.admit(&item.id, requests.len())?;
        let room = Arc::new(room);
        let requests = requests.into_iter().zip(tickets);
        let prefixes = Prefixes::default();
        let calls = requests.map(|(request, ticket)| {
            let call = Call::new(request, ticket, room.clone());
            // A step alone says nothing about the next one's length.
            match self.composer.view() {
                View::Step => call,
                View::Outcome | View::Prefix => call.among(&prefixes),
            }
        });
        self.enqueue(affinity, calls.collect());
        Ok(())
    }

    /// Ends what a stopped job has in the queue; its requests in flight end themselves.
    pub(crate) fn withdraw(self: &Arc<Self>, job: &Arc<JobState>) {
        let its = |call: &Call| Arc::ptr_eq(&call.ticket.job, job);
        let queued = self.queues().schedule.drain(its);
        for call in queued {
            self.end_stopped(call);
        }
        for call in self.flights.withdraw(job) {
            self.settle(call, job.stopped().unwrap_or(Stop::Cancelled).verdict());
        }
        self.pump();
    }

    /// Answers one item's requests from the ledger, joins equal ones in flight, and queues the rest.
    fn enqueue(self: &Arc<Self>, affinity: u64, calls: Vec<Call>) {
        let mut leaving = Vec::with_capacity(calls.len());
        for call in calls {
            if let Some(stop) = call.ticket.job.stopped() {
                self.settle(call, stop.verdict());
            } else if let Some(reply) = self.replies.find(&call.key) {
                count(&self.metrics.counters.from_ledger);
                let verdict = Verdict {
                    from_cache: true,
                    ..self.verdict(&call.key, &reply)
                };
                self.settle(call, verdict);
            } else {
                leaving.extend(self.flights.join(call, affinity));
            }
        }
        let Some(job) = leaving.first().map(|call| call.ticket.job.clone()) else {
            return;
        };
        let hopeless = self.queues().hope.lost().cloned();
        if let Some(fault) = hopeless {
            for mut call in leaving {
                call.last_fault = Some(fault.clone());
                self.finish(call);
            }
            return;
        }
        let view = self.composer.view();
        self.queues().push(affinity, leaving, view, Instant::now());
        // The job may have stopped after it was asked and before its requests were queued.
        if job.stopped().is_some() {
            self.withdraw(&job);
        } else {
            self.pump();
        }
    }

    /// Starts every request that may leave now.
    fn pump(self: &Arc<Self>) {
        loop {
            let leave = self.queues().leave(Instant::now());
            let Some((pass, call)) = self.departure(leave) else {
                return;
            };
            self.handle.spawn(self.clone().carry(pass, call));
        }
    }

    /// Gives a place in a window back, and the request that takes it; starts what else may leave.
    fn next_after(self: &Arc<Self>, pass: Pass) -> Option<(Pass, Call)> {
        let (next, more) = {
            let mut queues = self.queues();
            queues.schedule.finish(pass);
            let now = Instant::now();
            let next = queues.leave(now);
            let more = match next {
                Leave::Now(..) => queues.leave(now),
                _ => Leave::Nothing,
            };
            (next, more)
        };
        if let Some((pass, call)) = self.departure(more) {
            self.handle.spawn(self.clone().carry(pass, call));
            self.pump();
        }
        self.departure(next)
    }

    fn departure(self: &Arc<Self>, leave: Leave) -> Option<(Pass, Call)> {
        match leave {
            Leave::Now(pass, call) => {
                if self.servers.are_unasked() {
                    self.ask_servers();
                }
                Some((pass, call))
            }
            Leave::In(wait) => {
                self.pump_after(wait);
                None
            }
            Leave::Nothing => None,
        }
    }

    /// Asks every server once for its context and its KV cache. Until it has answered, and if it does not
    /// tell, every prompt is sent, and only the window bounds what is in flight there.
    fn ask_servers(self: &Arc<Self>) {
        for lane in 0..self.servers.all.len() {
            let (dispatcher, servers) = (Arc::downgrade(self), self.servers.clone());
            // Ends with the answers, or with the transport's timeouts. A judge that is closed meanwhile is
            // not held open: its ledger must be free.
            self.handle.spawn(async move {
                let server = servers.name(lane);
                if let Some(tokens) = servers.context(lane).await {
                    tracing::info!(%server, tokens, "the judge's context is known");
                    dispatcher.upgrade()?.queues().context.told(lane, tokens);
                }
                let tokens = servers.capacity(lane).await?;
                tracing::info!(%server, tokens, "the judge server's KV cache is known");
                dispatcher
                    .upgrade()?
                    .queues()
                    .schedule
                    .set_capacity(lane, Some(tokens));
                Some(())
            });
        }
    }

    fn queues(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
