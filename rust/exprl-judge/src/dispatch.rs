//! The way of one request: ledger, queue, server, grade, ledger, ticket.
//!
//! There is no background loop. Whatever changes the queues (a push, the end of a pause) calls `pump`,
//! which starts a task per request that may leave. A task holds a place in a server's window until its
//! exchange ends, and then takes the next request; it never waits for another task.

mod attempt;
mod hedge;
mod probe;
mod settle;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use exprl_rubric::{FenceKey, Readout, ScoreMap, View};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::Error;
use crate::estimate::{Lateness, TokenEstimate};
use crate::job::{JobState, Stop, Ticket};
use crate::ledger::{self, Key, Ledger};
use crate::limits::Limits;
use crate::metrics::{Metrics, Stats, count};
use crate::policy::{Breaker, Fault, RetryBudget};
use crate::reply::Reply;
use crate::request::{Body, Composer, Rollout, front};
use crate::schedule::{Need, Pass, Schedule};
use crate::settings::{Settings, Task};
use crate::transport::{Server, Transport};
use crate::types::{Item, Verdict};

/// The queue is measured in pieces of this size.
const QUEUE_UNIT: usize = 1024;

/// One request on its way. It is owned by the queue or by the task that sends it.
struct Call {
    ticket: Ticket,
    key: Key,
    body: Body,
    /// Tokens that were reserved for it when it left.
    reserved: u64,
    /// HTTP requests sent for it.
    sent: u32,
    /// Failures that count against `Settings::attempts`.
    failed: u32,
    /// The one repeat that a stale connection allows has been used.
    resent: bool,
    backoff: Duration,
    first_sent: Option<Instant>,
    last_fault: Option<Fault>,
    last_server: Option<Arc<str>>,
    /// A reply without a grade: the next request asks it to go on.
    reply: Option<Reply>,
    /// The item's share of the queue, given back with the item's last request.
    _room: Arc<OwnedSemaphorePermit>,
}

/// A request that waits for an equal one in flight.
struct Follower {
    call: Call,
    affinity: u64,
}

/// Everything that requests share.
pub(crate) struct Dispatcher {
    composer: Composer,
    transport: Transport,
    servers: Vec<Server>,
    ledger: Option<Ledger>,
    queues: Mutex<Queues>,
    /// Requests queued or in flight by key, with those that wait for their answer.
    flights: Mutex<HashMap<Key, Vec<Follower>>>,
    budget: RetryBudget,
    /// How many more hedges may be sent; `None` without hedging.
    hedges: Option<RetryBudget>,
    /// Servers are asked for the size of their KV cache when the first request leaves.
    ask_capacity: AtomicBool,
    room: Arc<Semaphore>,
    room_size: u32,
    metrics: Metrics,
    jobs: Mutex<Vec<Weak<JobState>>>,
    handle: Handle,
    attempts: u32,
    task: Task,
    reask: bool,
    readout: Readout,
    score_map: ScoreMap,
    deadline: Duration,
    outage: Duration,
}

struct Queues {
    schedule: Schedule<Call>,
    breakers: Vec<Breaker>,
    lateness: Vec<Lateness>,
    limits: Limits,
    estimate: TokenEstimate,
    /// When the limits let the next request leave, if somebody waits for that.
    limited_until: Option<Instant>,
    /// When a server last answered, or the first request left.
    last_answer: Option<Instant>,
}

impl Dispatcher {
    pub(crate) fn new(settings: &Settings, handle: Handle) -> Result<Arc<Self>, Error> {
        settings.check()?;
        let transport = Transport::new(settings)?;
        let servers = transport.servers(settings)?;
        let ledger = settings.ledger.as_deref().map(Ledger::open).transpose()?;
        let fence = match &settings.ledger {
            Some(dir) => ledger::fence_key(dir)?,
            None => ledger::random_key().map_err(|error| Error::Setting {
                field: "ledger",
                reason: format!("without one a random fence is needed, and: {error}"),
            })?,
        };
        let seeds = servers
            .iter()
            .map(|server| front(blake3::hash(server.name.as_bytes()).as_bytes()));
        let mut schedule = Schedule::new(seeds, settings.concurrency);
        if let Some(tokens) = settings.kv_tokens.filter(|&tokens| tokens > 0) {
            (0..servers.len()).for_each(|lane| schedule.set_capacity(lane, Some(tokens)));
        }
        let breakers = servers.iter().map(|_| Breaker::default()).collect();
        let room_size = u32::try_from(settings.queue_bytes / QUEUE_UNIT)
            .unwrap_or(u32::MAX >> 4)
            .max(1);
        let reserve = settings.concurrency.saturating_mul(servers.len());
        Ok(Arc::new(Self {
            composer: Composer::new(settings, FenceKey::new(fence))?,
            transport,
            ledger,
            queues: Mutex::new(Queues {
                schedule,
                breakers,
                lateness: servers.iter().map(|_| Lateness::default()).collect(),
                limits: Limits::new(settings.rpm, settings.tpm),
                estimate: TokenEstimate::new(settings.max_tokens),
                limited_until: None,
                last_answer: None,
            }),
            flights: Mutex::default(),
            budget: RetryBudget::new(settings.retry_budget, reserve),
            hedges: (settings.hedge > 0.0).then(|| RetryBudget::new(settings.hedge, 0)),
            ask_capacity: AtomicBool::new(settings.kv_tokens.is_none()),
            room: Arc::new(Semaphore::new(room_size as usize)),
            room_size,
            metrics: Metrics::new(servers.len(), settings.prices),
            jobs: Mutex::default(),
            handle,
            servers,
            attempts: settings.attempts,
            task: settings.task,
            // A digit after `Score:` repairs a grade, and nothing else.
            reask: settings.reask && settings.task == Task::Grade,
            readout: settings.readout,
            score_map: settings.score_map,
            deadline: settings.deadline,
            outage: settings.outage,
        }))
    }

    pub(crate) fn stats(&self) -> Stats {
        let stats = self.metrics.snapshot(self.queues().schedule.in_flight());
        match &self.ledger {
            Some(ledger) => Stats {
                ledger_replies: ledger.len() as u64,
                ledger_corrupt: ledger.corrupt as u64,
                ..stats
            },
            None => stats,
        }
    }

    pub(crate) fn prometheus(&self) -> String {
        let stats = self.stats();
        let now = Instant::now();
        let lanes: Vec<_> = {
            let queues = self.queues();
            let names = self.servers.iter().map(|server| &*server.name);
            let lanes = (0..self.servers.len()).map(|lane| queues.schedule.state(lane, now));
            names.zip(lanes).collect()
        };
        self.metrics.page(&stats, &lanes)
    }

    /// Starts a job's clock.
    pub(crate) fn open(self: &Arc<Self>) -> Arc<JobState> {
        let job = Arc::new(JobState::new(Instant::now() + self.deadline));
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.retain(|job| job.strong_count() > 0);
        jobs.push(Arc::downgrade(&job));
        drop(jobs);
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
        let jobs = std::mem::take(&mut *self.jobs.lock().unwrap_or_else(PoisonError::into_inner));
        for job in jobs.iter().filter_map(Weak::upgrade) {
            job.stop(Stop::Cancelled);
            self.withdraw(&job);
            job.close();
        }
    }

    /// Queues an item; waits for room. Whoever had to wait gets it with a quarter of all room to spare,
    /// so that a caller that pushes faster than servers answer is not woken for every request.
    pub(crate) async fn push(
        self: &Arc<Self>,
        job: &Arc<JobState>,
        item: &Item<impl Deref<Target = str>>,
    ) -> Result<(), Error> {
        if self.try_push(job, item)? {
            return Ok(());
        }
        let pieces = self.pieces(item);
        let spare = (self.room_size / 4).min(self.room_size - pieces);
        let room = self.room.clone().acquire_many_owned(pieces + spare).await;
        // The semaphore is never closed, so the only error cannot happen; it would mean a closed job.
        let mut room = room.map_err(|_| Error::Closed)?;
        drop(room.split(spare as usize));
        self.admit(job, item, room)
    }

    /// Queues an item if there is room for it; says whether there was.
    pub(crate) fn try_push(
        self: &Arc<Self>,
        job: &Arc<JobState>,
        item: &Item<impl Deref<Target = str>>,
    ) -> Result<bool, Error> {
        match self.room.clone().try_acquire_many_owned(self.pieces(item)) {
            Ok(room) => self.admit(job, item, room).map(|()| true),
            Err(_) => Ok(false),
        }
    }

    /// The room that an item takes in the queue; no item is too long for it.
    fn pieces(&self, item: &Item<impl Deref<Target = str>>) -> u32 {
        u32::try_from(item.bytes() / QUEUE_UNIT)
            .unwrap_or(u32::MAX)
            .clamp(1, self.room_size)
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
        let calls = requests
            .into_iter()
            .zip(tickets)
            .map(|(request, ticket)| Call {
                ticket,
                key: request.key,
                body: request.body,
                reserved: 0,
                sent: 0,
                failed: 0,
                resent: false,
                backoff: Duration::ZERO,
                first_sent: None,
                last_fault: None,
                last_server: None,
                reply: None,
                _room: room.clone(),
            });
        self.enqueue(affinity, calls.collect());
        Ok(())
    }

    /// Ends what a stopped job has in the queue; its requests in flight end themselves.
    pub(crate) fn withdraw(self: &Arc<Self>, job: &Arc<JobState>) {
        let calls = self
            .queues()
            .schedule
            .drain(|call| Arc::ptr_eq(&call.ticket.job, job));
        for call in calls {
            self.end_stopped(call);
        }
        let mut waiting = Vec::new();
        for followers in self.flights().values_mut() {
            let (out, keep) = std::mem::take(followers)
                .into_iter()
                .partition(|follower| Arc::ptr_eq(&follower.call.ticket.job, job));
            *followers = keep;
            waiting.extend::<Vec<Follower>>(out);
        }
        for follower in waiting {
            self.settle(
                follower.call,
                Stop::verdict(job.stopped().unwrap_or(Stop::Cancelled)),
            );
        }
        self.pump();
    }

    /// Answers one item's requests from the ledger, joins equal ones in flight, and queues the rest.
    fn enqueue(self: &Arc<Self>, affinity: u64, calls: Vec<Call>) {
        let mut leaving = Vec::with_capacity(calls.len());
        for call in calls {
            if let Some(stop) = call.ticket.job.stopped() {
                self.settle(call, stop.verdict());
            } else if let Some(reply) = self.remembered(&call.key) {
                count(&self.metrics.from_ledger);
                let verdict = Verdict {
                    from_cache: true,
                    ..self.verdict(&reply)
                };
                self.settle(call, verdict);
            } else {
                match self.flights().entry(call.key) {
                    Entry::Occupied(mut flight) => {
                        flight.get_mut().push(Follower { call, affinity });
                    }
                    Entry::Vacant(flight) => {
                        flight.insert(Vec::new());
                        leaving.push(call);
                    }
                }
            }
        }
        let Some(job) = leaving.first().map(|call| call.ticket.job.clone()) else {
            return;
        };
        {
            let mut queues = self.queues();
            // Servers that nobody asked were not silent.
            if queues.schedule.is_empty() && queues.schedule.in_flight() == 0 {
                queues.last_answer = None;
            }
            let need = queues.need(&leaving, self.composer.view());
            queues
                .schedule
                .push(affinity, need, leaving, Instant::now());
        }
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
                if self.ask_capacity.swap(false, Ordering::Relaxed) {
                    self.ask_for_capacities();
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

    fn queues(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn flights(&self) -> MutexGuard<'_, HashMap<Key, Vec<Follower>>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What may leave.
#[expect(
    clippy::large_enum_variant,
    reason = "moved once; a box would cost more"
)]
enum Leave {
    Now(Pass, Call),
    /// Nothing before the limits allow it, and nobody waits for that yet.
    In(Duration),
    Nothing,
}

impl Queues {
    fn leave(&mut self, now: Instant) -> Leave {
        if let Some(until) = self.limits.wait(now) {
            let waited_for = self
                .limited_until
                .is_some_and(|waited| now < waited && waited <= until);
            if waited_for || self.schedule.is_empty() {
                return Leave::Nothing;
            }
            self.limited_until = Some(until);
            return Leave::In(until - now);
        }
        let Some((pass, mut call)) = self.schedule.next(now) else {
            return Leave::Nothing;
        };
        self.last_answer.get_or_insert(now);
        if !self.limits.is_unlimited() {
            self.reserve(&mut call, now);
        }
        Leave::Now(pass, call)
    }

    /// Every server is left alone, and none has answered for longer than this.
    fn is_outage(&self, longest: Duration, now: Instant) -> bool {
        let silent = self.last_answer.is_some_and(|last| now - last > longest);
        silent && (0..self.breakers.len()).all(|lane| self.schedule.is_paused(lane, now))
    }

    /// Takes what a request will use out of the limits, by estimate.
    fn reserve(&mut self, call: &mut Call, now: Instant) {
        let (bytes, _) = call.body.sizes();
        call.reserved = self.estimate.prompt(bytes) + self.estimate.completion();
        self.limits.take(call.reserved, now);
    }

    /// Tokens that a rollout's requests take in a KV cache: prefixes share all but their replies.
    fn need(&self, calls: &[Call], view: View) -> Need {
        let sizes = calls.iter().map(|call| call.body.sizes());
        let head = calls.first().map_or(0, |call| call.body.sizes().1);
        let traces = sizes.map(|(whole, head)| whole - head);
        let trace: usize = match view {
            View::Step => traces.sum(),
            View::Outcome | View::Prefix => traces.max().unwrap_or(0),
        };
        Need {
            shared: self.estimate.prompt(head),
            own: self.estimate.prompt(trace) + self.estimate.completion() * calls.len() as u64,
        }
    }
}
