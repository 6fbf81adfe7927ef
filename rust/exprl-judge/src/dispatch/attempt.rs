//! One exchange with a server, and what its outcome means for the request and for the server.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Call, Dispatcher, Queues};
use crate::metrics::count;
use crate::policy::{Action, Fault, RetryBudget, backoff};
use crate::reply::{Reply, Usage};
use crate::schedule::Pass;
use crate::settings::Task;

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
    /// Takes one request after another through its exchange, as long as there is one that may leave;
    /// each has a place in its lane's window until its end. Never fails: what goes wrong becomes a
    /// verdict or a requeue.
    pub(super) async fn carry(self: Arc<Self>, mut pass: Pass, mut call: Call) {
        loop {
            let mut lane = pass.lane;
            let outcome = self.attempts(&mut lane, &mut call).await;
            // Who gets the verdict must not find its request in flight any more.
            let next = self.next_after(pass);
            match outcome {
                Some(Next::Later { wait, elsewhere }) => self.requeue(lane, call, wait, elsewhere),
                Some(_) => self.finish(call),
                None => self.end_stopped(call),
            }
            let Some(next) = next else { return };
            (pass, call) = next;
        }
    }

    /// All exchanges that a request has in its place; `None` if its job stopped first.
    async fn attempts(self: &Arc<Self>, lane: &mut usize, call: &mut Call) -> Option<Next> {
        let job = call.ticket.job.clone();
        loop {
            let next = tokio::select! {
                next = self.attempt(lane, call) => next,
                _ = job.stopping() => return None,
            };
            if !matches!(next, Next::Again) {
                return Some(next);
            }
            // Sent again in its place: it does not wait for the limits, those after it do.
            self.queues().reserve(call, Instant::now());
        }
    }

    /// One exchange, and what follows from it. `lane` becomes the server whose outcome counts.
    async fn attempt(self: &Arc<Self>, lane: &mut usize, call: &mut Call) -> Next {
        let started = Instant::now();
        if call.sent == 0 {
            self.budget.deposit();
            self.hedges.iter().for_each(RetryBudget::deposit);
        }
        call.sent += 1;
        call.first_sent.get_or_insert(started);
        call.last_server = Some(self.servers[*lane].name.clone());
        let again = call
            .reply
            .as_ref()
            .map(|reply| call.body.continued(&reply.text, &self.composer.ask_again));
        let body = again.as_ref().unwrap_or(&call.body);
        let (bytes, _) = body.sizes();
        let (from, answer) = self.exchange(*lane, &mut call.sent, body).await;
        *lane = from;
        call.last_server = Some(self.servers[from].name.clone());
        let answer = answer.and_then(|answer| {
            let before = call
                .reply
                .as_ref()
                .map_or_else(Usage::default, |reply| reply.usage);
            match &mut call.reply {
                None => {
                    let reply = Reply::read(&answer.body, self.readout)?;
                    call.reply = Some(match self.task {
                        Task::Grade => reply,
                        Task::Checklist => reply.into_checklist(),
                    });
                }
                Some(reply) => reply.repair(&answer.body)?,
            }
            let usage = call
                .reply
                .as_ref()
                .map_or(before, |reply| reply.usage - before);
            Ok((answer, usage))
        });
        let (answer, usage) = match answer {
            Ok(answer) => answer,
            Err(fault) => return self.weigh(from, call, fault),
        };
        self.metrics.answered_in(started.elapsed());
        self.server_answered(from, |queues| {
            queues.lateness[from].note(answer.first_byte);
            queues.estimate.learn(bytes, usage);
            if usage.prompt > 0 {
                let used = usage.prompt + usage.completion;
                queues.limits.correct(call.reserved, used);
            }
        });
        if let Some(pause) = answer.pause {
            self.pause(from, pause);
        }
        if self.reask && call.reply.as_ref().is_some_and(Reply::wants_reask) {
            count(&self.metrics.reasks);
            return Next::Again;
        }
        Next::Done
    }

    /// Decides about a failed exchange.
    fn weigh(self: &Arc<Self>, lane: usize, call: &mut Call, fault: Fault) -> Next {
        let action = fault.action();
        self.note_fault(lane, &fault);
        call.last_fault = Some(fault);
        match action {
            Action::Again if !call.resent => {
                call.resent = true;
                count(&self.metrics.retries);
                Next::Again
            }
            Action::GiveUp => Next::Done,
            Action::Pause(_) => {
                count(&self.metrics.retries);
                Next::Later {
                    wait: Duration::ZERO,
                    elsewhere: false,
                }
            }
            Action::Again | Action::Elsewhere => {
                call.failed += 1;
                let outage = self.queues().is_outage(self.outage, Instant::now());
                if outage || call.failed >= self.attempts || !self.budget.withdraw() {
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

    /// What a fault says about its server: in doubt, to be paused, or alive.
    pub(super) fn note_fault(self: &Arc<Self>, lane: usize, fault: &Fault) {
        tracing::debug!(server = %self.servers[lane].name, fault = %fault.explain(), "judge request failed");
        if fault.blames_server() {
            self.server_failed(lane);
        } else if let Action::Pause(pause) = fault.action() {
            self.server_lives(lane);
            self.pause(lane, pause);
        } else if matches!(fault, Fault::Status { .. }) {
            self.server_lives(lane);
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
                    {
                        let mut queues = dispatcher.queues();
                        if queues.is_outage(dispatcher.outage, Instant::now()) {
                            drop(queues);
                            return dispatcher.finish(call);
                        }
                        let tokens = queues.estimate.prompt(call.body.sizes().0);
                        queues.schedule.retry(call, tokens, avoid, Instant::now());
                    }
                    // The job may have stopped between the wait and the queue.
                    if job.stopped().is_some() { dispatcher.withdraw(&job) } else { dispatcher.pump() }
                }
                _ = job.stopping() => dispatcher.end_stopped(call),
            }
        });
    }

    /// The server has said something, if only that it refuses.
    fn server_lives(&self, lane: usize) {
        let mut queues = self.queues();
        queues.breakers[lane].answered();
        queues.last_answer = Some(Instant::now());
    }

    /// The server has replied: its window may grow, and `learn` takes more from the reply.
    fn server_answered(&self, lane: usize, learn: impl FnOnce(&mut Queues)) {
        let mut queues = self.queues();
        learn(&mut queues);
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
            (rest, queues.is_outage(self.outage, now))
        };
        if outage {
            self.give_up_waiting();
        }
        if let Some(rest) = rest {
            let server = &self.servers[lane].name;
            tracing::warn!(%server, rest_s = rest.as_secs_f64(), "judge server left alone");
            self.pump_after(rest);
        }
    }

    fn pause(self: &Arc<Self>, lane: usize, pause: Duration) {
        let now = Instant::now();
        if self.queues().schedule.pause(lane, now + pause, now, false) {
            count(&self.metrics.rate_limit_pauses);
            let server = &self.servers[lane].name;
            tracing::info!(%server, pause_s = pause.as_secs_f64(), "judge server asks for a pause");
        }
        self.pump_after(pause);
    }

    pub(super) fn pump_after(self: &Arc<Self>, wait: Duration) {
        let dispatcher = Arc::downgrade(self);
        // Ends after the pause; a dispatcher that is gone by then needs no pump.
        self.handle.spawn(async move {
            tokio::time::sleep(wait).await;
            if let Some(dispatcher) = dispatcher.upgrade() {
                dispatcher.pump();
            }
        });
    }
}
