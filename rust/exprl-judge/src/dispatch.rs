//! The way of one request: ledger, queue, server, grade, ledger, ticket.
//!
//! There is no background loop. Whatever changes the queues (a push, an answer, the end of a pause)
//! calls `pump`, which starts a task per request that may leave. A task holds its place in the
//! server's window until the exchange ends; it never waits for another task.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use exprl_rubric::{FenceKey, Readout, ScoreMap};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::Error;
use crate::job::{JobState, Stop, Ticket};
use crate::ledger::{self, Key, Ledger};
use crate::metrics::{Metrics, Stats, count};
use crate::policy::{Action, Breaker, Fault, RetryBudget, backoff};
use crate::reply::{Reply, Usage};
use crate::request::{Body, Composer};
use crate::schedule::Schedule;
use crate::settings::Settings;
use crate::transport::{Server, Transport};
use crate::types::{Item, Status, Verdict};

/// The queue is measured in pieces of this size.
const QUEUE_UNIT: usize = 1024;

/// One request on its way. It is owned by the queue or by the task that sends it.
struct Call {
    ticket: Ticket,
    key: Key,
    body: Body,
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
    room: Arc<Semaphore>,
    room_size: u32,
    metrics: Metrics,
    jobs: Mutex<Vec<Weak<JobState>>>,
    handle: Handle,
    attempts: u32,
    reask: bool,
    readout: Readout,
    score_map: ScoreMap,
    deadline: Duration,
    outage: Duration,
}

struct Queues {
    schedule: Schedule<Call>,
    breakers: Vec<Breaker>,
    /// When a server last answered, or the first request left.
    last_answer: Option<Instant>,
}

/// What the attempt leaves to do.
enum Next {
    /// The verdict is there.
    Done,
    /// Send again, in the same place.
    Again,
    /// Back to the queue: after this wait, on another server than the one that failed.
    Later { wait: Duration, elsewhere: bool },
}

impl Dispatcher {
    pub(crate) fn new(settings: &Settings, handle: Handle) -> Result<Arc<Self>, Error> {
        settings.check()?;
        let servers: Vec<Server> = settings
            .endpoints
            .iter()
            .map(|url| Server::new(url))
            .collect::<Result<_, _>>()?;
        let transport = Transport::new(settings)?;
        let ledger = settings.ledger.as_deref().map(Ledger::open).transpose()?;
        let fence = match &settings.ledger {
            Some(dir) => ledger::fence_key(dir)?,
            None => ledger::random_key().map_err(|error| Error::Setting {
                field: "ledger",
                reason: format!("without one a random fence is needed, and: {error}"),
            })?,
        };
        let seeds = servers.iter().map(|server| seed(server.name.as_bytes()));
        let schedule = Schedule::new(seeds, settings.concurrency);
        let breakers = servers.iter().map(|_| Breaker::default()).collect();
        let room_size = u32::try_from(settings.queue_bytes / QUEUE_UNIT)
            .unwrap_or(u32::MAX >> 4)
            .max(1);
        let reserve = settings.concurrency * servers.len();
        Ok(Arc::new(Self {
            composer: Composer::new(settings, FenceKey::new(fence))?,
            transport,
            ledger,
            queues: Mutex::new(Queues {
                schedule,
                breakers,
                last_answer: None,
            }),
            flights: Mutex::default(),
            budget: RetryBudget::new(settings.retry_budget, reserve),
            room: Arc::new(Semaphore::new(room_size as usize)),
            room_size,
            metrics: Metrics::default(),
            jobs: Mutex::default(),
            handle,
            servers,
            attempts: settings.attempts,
            reask: settings.reask,
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

    pub(crate) async fn push(
        self: &Arc<Self>,
        job: &Arc<JobState>,
        item: &Item,
    ) -> Result<(), Error> {
        let pieces = u32::try_from(item.bytes() / QUEUE_UNIT)
            .unwrap_or(u32::MAX)
            .clamp(1, self.room_size);
        // The semaphore is never closed, so the only error cannot happen; it would mean a closed job.
        let room = self
            .room
            .clone()
            .acquire_many_owned(pieces)
            .await
            .map_err(|_| Error::Closed)?;
        let requests = self.composer.render(item)?;
        let tickets = job.admit(&item.id, requests.len())?;
        let room = Arc::new(room);
        let affinity = seed(item.problem.as_bytes());
        let calls = requests
            .into_iter()
            .zip(tickets)
            .map(|(request, ticket)| Call {
                ticket,
                key: request.key,
                body: request.body,
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

    /// Answers from the ledger, joins equal requests in flight, and queues the rest.
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
                    std::collections::hash_map::Entry::Occupied(mut flight) => {
                        flight.get_mut().push(Follower { call, affinity });
                    }
                    std::collections::hash_map::Entry::Vacant(flight) => {
                        flight.insert(Vec::new());
                        leaving.push(call);
                    }
                }
            }
        }
        if !leaving.is_empty() {
            let jobs: Vec<_> = leaving.iter().map(|call| call.ticket.job.clone()).collect();
            self.queues()
                .schedule
                .push(affinity, leaving, Instant::now());
            // A job may have stopped after it was asked and before its requests were queued.
            match jobs.iter().find(|job| job.stopped().is_some()) {
                Some(stopped) => self.withdraw(stopped),
                None => self.pump(),
            }
        }
    }

    /// Starts every request that may leave now.
    fn pump(self: &Arc<Self>) {
        loop {
            let now = Instant::now();
            let next = {
                let mut queues = self.queues();
                let next = queues.schedule.next(now);
                if next.is_some() {
                    queues.last_answer.get_or_insert(now);
                }
                next
            };
            let Some((lane, call)) = next else { return };
            self.handle.spawn(self.clone().carry(lane, call));
        }
    }

    /// Takes one request through its exchange. Consumes a place in the lane's window until then;
    /// ended early by the job's stop. Never fails: what goes wrong becomes a verdict or a requeue.
    async fn carry(self: Arc<Self>, lane: usize, mut call: Call) {
        let next = loop {
            let job = call.ticket.job.clone();
            let next = tokio::select! {
                next = self.attempt(lane, &mut call) => next,
                stop = job.stopping() => Err(stop),
            };
            match next {
                Ok(Next::Again) => {}
                Ok(next) => break Some(next),
                Err(_) => break None,
            }
        };
        self.queues().schedule.finish(lane);
        match next {
            Some(Next::Later { wait, elsewhere }) => self.requeue(lane, call, wait, elsewhere),
            Some(_) => self.finish(call),
            None => self.end_stopped(call),
        }
        self.pump();
    }

    /// One exchange, and what follows from it.
    async fn attempt(self: &Arc<Self>, lane: usize, call: &mut Call) -> Result<Next, Stop> {
        let server = &self.servers[lane];
        let started = Instant::now();
        if call.sent == 0 {
            self.budget.deposit();
        }
        call.sent += 1;
        call.first_sent.get_or_insert(started);
        call.last_server = Some(server.name.clone());
        count(&self.metrics.requests_sent);
        let body = match &call.reply {
            None => call.body.clone(),
            Some(reply) => call.body.continued(&reply.text, &self.composer.ask_again),
        };
        let answer =
            self.transport
                .post(server, body)
                .await
                .and_then(|bytes| match &mut call.reply {
                    None => Reply::read(&bytes, self.readout).map(|reply| call.reply = Some(reply)),
                    Some(reply) => reply.repair(&bytes),
                });
        if let Err(fault) = answer {
            return Ok(self.weigh(lane, call, fault));
        }
        self.metrics.answered_in(started.elapsed());
        self.server_answered(lane);
        if self.reask && call.reply.as_ref().is_some_and(Reply::wants_reask) {
            count(&self.metrics.reasks);
            return Ok(Next::Again);
        }
        Ok(Next::Done)
    }

    /// Decides about a failed exchange.
    fn weigh(self: &Arc<Self>, lane: usize, call: &mut Call, fault: Fault) -> Next {
        tracing::debug!(server = %self.servers[lane].name, fault = %fault.explain(), "judge request failed");
        let action = fault.action();
        if fault.blames_server() {
            self.server_failed(lane);
        } else if matches!(fault, Fault::Status { .. }) {
            self.server_answered(lane);
        }
        call.last_fault = Some(fault);
        match action {
            Action::Again if !call.resent => {
                call.resent = true;
                count(&self.metrics.retries);
                Next::Again
            }
            Action::GiveUp => Next::Done,
            Action::Pause(pause) => {
                count(&self.metrics.retries);
                self.pause(lane, pause);
                Next::Later {
                    wait: Duration::ZERO,
                    elsewhere: false,
                }
            }
            Action::Again | Action::Elsewhere => {
                call.failed += 1;
                if call.failed >= self.attempts || !self.budget.withdraw() {
                    return Next::Done;
                }
                count(&self.metrics.retries);
                call.backoff = backoff(call.backoff);
                Next::Later {
                    wait: call.backoff,
                    elsewhere: true,
                }
            }
        }
    }

    /// Sends a request back to the queue after a wait, unless its job stops first.
    fn requeue(self: &Arc<Self>, lane: usize, call: Call, wait: Duration, elsewhere: bool) {
        let dispatcher = self.clone();
        let avoid = elsewhere.then_some(lane);
        // Ends when the wait is over or the job stops; the request is never in two places.
        self.handle.spawn(async move {
            let job = call.ticket.job.clone();
            tokio::select! {
                () = tokio::time::sleep(wait) => {
                    dispatcher.queues().schedule.retry(call, avoid, Instant::now());
                    // The job may have stopped between the wait and the queue.
                    if job.stopped().is_some() { dispatcher.withdraw(&job) } else { dispatcher.pump() }
                }
                _ = job.stopping() => dispatcher.end_stopped(call),
            }
        });
    }

    fn server_answered(&self, lane: usize) {
        let mut queues = self.queues();
        queues.schedule.answered(lane);
        queues.breakers[lane].answered();
        queues.last_answer = Some(Instant::now());
    }

    fn server_failed(self: &Arc<Self>, lane: usize) {
        let now = Instant::now();
        let (rest, outage) = {
            let mut queues = self.queues();
            // What left before the breaker opened says nothing new.
            let resting = queues.schedule.is_paused(lane, now);
            let rest = if resting {
                None
            } else {
                queues.breakers[lane].failed()
            };
            if let Some(rest) = rest {
                queues.schedule.pause(lane, now + rest, now, true);
            }
            let outage = queues
                .last_answer
                .is_some_and(|last| now - last > self.outage);
            (rest, outage)
        };
        if outage {
            self.give_up_waiting();
        }
        if let Some(rest) = rest {
            tracing::warn!(server = %self.servers[lane].name, rest_s = rest.as_secs_f64(), "judge server left alone");
            self.pump_after(rest);
        }
    }

    fn pause(self: &Arc<Self>, lane: usize, pause: Duration) {
        let now = Instant::now();
        if self.queues().schedule.pause(lane, now + pause, now, false) {
            count(&self.metrics.rate_limit_pauses);
        }
        self.pump_after(pause);
    }

    fn pump_after(self: &Arc<Self>, wait: Duration) {
        let dispatcher = Arc::downgrade(self);
        // Ends after the pause; a dispatcher that is gone by then needs no pump.
        self.handle.spawn(async move {
            tokio::time::sleep(wait).await;
            if let Some(dispatcher) = dispatcher.upgrade() {
                dispatcher.pump();
            }
        });
    }

    /// No server has answered for too long: what waits gets the reason instead of more time.
    fn give_up_waiting(self: &Arc<Self>) {
        let calls = {
            let mut queues = self.queues();
            queues.last_answer = None;
            queues.schedule.drain(|_| true)
        };
        for mut call in calls {
            let reason = format!("no server has answered for {} s", self.outage.as_secs_f64());
            call.last_fault.get_or_insert(Fault::Connect(reason));
            self.finish(call);
        }
    }

    /// A request has its reply, or will get none.
    fn finish(self: &Arc<Self>, call: Call) {
        let verdict = match (&call.reply, &call.last_fault) {
            (Some(reply), fault) => {
                let verdict = self.verdict(reply);
                // The re-ask failed on the way: say so, and keep the first reply.
                match fault {
                    Some(fault) if reply.grade.is_none() && !reply.reasked => Verdict {
                        error: Some(format!("re-ask failed: {}", fault.explain())),
                        ..verdict
                    },
                    _ => verdict,
                }
            }
            (None, Some(fault)) => {
                let timed_out = matches!(fault, Fault::Timeout(..));
                let status = if timed_out {
                    Status::Timeout
                } else {
                    Status::HttpError
                };
                Verdict::without_reply(status, fault.explain())
            }
            (None, None) => Verdict::without_reply(Status::HttpError, "the request was not sent"),
        };
        if let Some(reply) = &call.reply {
            self.metrics.used(reply.usage);
            if reply.grade.is_some() || reply.reasked || !self.reask || !reply.wants_reask() {
                self.remember(&call.key, reply);
            }
        }
        let followers = self.flights().remove(&call.key).unwrap_or_default();
        for follower in followers {
            count(&self.metrics.shared);
            let shared = Verdict {
                from_cache: true,
                ..verdict.clone()
            };
            self.settle(follower.call, shared);
        }
        self.settle(call, verdict);
    }

    /// Ends a request whose job stopped. Equal requests of other jobs take its place.
    fn end_stopped(self: &Arc<Self>, call: Call) {
        let stop = call.ticket.job.stopped().unwrap_or(Stop::Cancelled);
        let followers = self.flights().remove(&call.key).unwrap_or_default();
        self.settle(call, stop.verdict());
        for follower in followers {
            self.enqueue(follower.affinity, vec![follower.call]);
        }
    }

    /// Adds what only the call knows, and files the verdict.
    fn settle(&self, call: Call, verdict: Verdict) {
        let verdict = Verdict {
            attempts: call.sent,
            server: call.last_server,
            latency_s: call
                .first_sent
                .map_or(0.0, |sent| sent.elapsed().as_secs_f64()),
            ..verdict
        };
        self.metrics.ended(verdict.status);
        call.ticket.settle(verdict);
    }

    fn verdict(&self, reply: &Reply) -> Verdict {
        let (score, fell_back) = reply.score(self.score_map, self.readout);
        if fell_back {
            count(&self.metrics.readout_fallbacks);
        }
        let Usage {
            prompt,
            completion,
            cached,
        } = reply.usage;
        Verdict {
            status: reply.status,
            grade: reply.grade,
            score,
            reply: reply.text.clone(),
            error: reply.error.clone(),
            prompt_tokens: prompt,
            completion_tokens: completion,
            cached_tokens: cached,
            attempts: 0,
            server: None,
            latency_s: 0.0,
            from_cache: false,
        }
    }

    /// The ledger's reply, if asking again could not bring a better one.
    fn remembered(&self, key: &Key) -> Option<Reply> {
        let stored = self.ledger.as_ref()?.get(key)?;
        let reply: Reply = serde_json::from_slice(&stored).ok()?;
        (!self.reask || !reply.wants_reask()).then_some(reply)
    }

    fn remember(&self, key: &Key, reply: &Reply) {
        let Some(ledger) = &self.ledger else { return };
        let stored = serde_json::to_vec(reply).map_err(std::io::Error::other);
        if let Err(error) = stored.and_then(|bytes| ledger.put(key, &bytes)) {
            tracing::warn!(%error, "a reply could not be stored in the ledger");
        }
    }

    fn queues(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn flights(&self) -> MutexGuard<'_, HashMap<Key, Vec<Follower>>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn seed(bytes: &[u8]) -> u64 {
    let hash = blake3::hash(bytes);
    hash.as_bytes()[..8]
        .iter()
        .fold(0, |seed, &byte| seed << 8 | u64::from(byte))
}
