//! One exchange with a server, and what its outcome means for the request and for the server.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Dispatcher;
use super::call::Call;
use super::queues::Failure;
use crate::metrics::count;
use crate::policy::{Action, Fault, backoff};
use crate::refusal::Complaint;
use crate::request::ReplyLimit;
use crate::schedule::Pass;

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
        if let Some(fault) = call.withheld.take() {
            count(&self.metrics.counters.over_context);
            call.last_fault = Some(fault);
            return Some(Next::Done);
        }
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
            self.retries.deposit();
        }
        call.sent += 1;
        call.first_sent.get_or_insert(started);
        call.last_server = Some(self.servers.name(*lane).clone());
        let name = self.servers.reply_limit(*lane);
        call.renamed = name == ReplyLimit::MaxCompletionTokens;
        let changed = match &call.reply {
            Some(reply) => {
                let ask_again = &self.composer.ask_again[name as usize];
                Some(call.body.continued(&reply.text, ask_again))
            }
            None => call.renamed.then(|| call.body.renamed()),
        };
        let body = changed.as_ref().unwrap_or(&call.body);
        let (bytes, _) = body.sizes();
        let (from, answer) = self.exchange(*lane, &mut call.sent, body).await;
        *lane = from;
        call.last_server = Some(self.servers.name(from).clone());
        let read = answer.and_then(|answer| {
            let usage = self.replies.read(&answer.body, &mut call.reply)?;
            Ok((answer, usage))
        });
        let (answer, usage) = match read {
            Ok(read) => read,
            Err(fault) => return self.weigh(from, call, fault),
        };
        self.metrics.answered_in(started.elapsed());
        let asked = (bytes, call.reserved);
        let told = (usage, answer.first_byte);
        self.queues().replied(from, asked, told, Instant::now());
        if let Some(pause) = answer.pause {
            self.pause(from, pause);
        }
        if call
            .reply
            .as_ref()
            .is_some_and(|reply| self.replies.wants_reask(reply))
        {
            count(&self.metrics.counters.reasks);
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
                count(&self.metrics.counters.retries);
                Next::Again
            }
            Action::GiveUp => self.refused(lane, call),
            Action::Pause(_) => {
                count(&self.metrics.counters.retries);
                Next::Later {
                    wait: Duration::ZERO,
                    elsewhere: false,
                }
            }
            Action::Again | Action::Elsewhere => {
                call.failed += 1;
                let outage = self.queues().is_outage(Instant::now());
                if outage || !self.retries.allow_repeat(call.failed) {
                    return Next::Done;
                }
                count(&self.metrics.counters.retries);
                call.backoff = backoff(call.backoff);
                Next::Later {
                    wait: call.backoff,
                    elsewhere: true,
                }
            }
        }
    }

    /// Decides about a request that its server refuses.
    fn refused(self: &Arc<Self>, lane: usize, call: &mut Call) -> Next {
        let Some(fault) = &call.last_fault else {
            return Next::Done;
        };
        match fault.complaint() {
            // Once for each server: with the other name it is another request.
            Some(Complaint::NameOfMaxTokens) if !call.renamed => {
                self.servers.rename_reply_limit(lane);
                count(&self.metrics.counters.retries);
                return Next::Again;
            }
            Some(Complaint::Context { limit, with_reply }) if call.reply.is_none() => {
                let elsewhere = self.queues().context.refused(lane, limit, with_reply);
                call.failed += 1;
                if elsewhere && self.retries.allow_repeat(call.failed) {
                    count(&self.metrics.counters.retries);
                    return Next::Later {
                        wait: Duration::ZERO,
                        elsewhere,
                    };
                }
                count(&self.metrics.counters.over_context);
                call.prefixes.refused(call.body.sizes().0);
            }
            _ => {
                if self.queues().hope.refused(lane, fault) {
                    self.give_up_waiting();
                }
            }
        }
        Next::Done
    }

    /// What a fault says about its server: in doubt, to be paused, or alive.
    pub(super) fn note_fault(self: &Arc<Self>, lane: usize, fault: &Fault) {
        tracing::debug!(server = %self.servers.name(lane), fault = %fault.explain(), "judge request failed");
        if fault.blames_server() {
            self.server_failed(lane, fault);
        } else if let Action::Pause(pause) = fault.action() {
            self.queues().heard(lane, Instant::now());
            self.pause(lane, pause);
        } else if matches!(fault, Fault::Status { .. }) {
            self.queues().heard(lane, Instant::now());
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
                        if queues.is_outage(Instant::now()) {
                            drop(queues);
                            return dispatcher.finish(call);
                        }
                        queues.retry(call, avoid, Instant::now());
                    }
                    // The job may have stopped between the wait and the queue.
                    if job.stopped().is_some() { dispatcher.withdraw(&job) } else { dispatcher.pump() }
                }
                _ = job.stopping() => dispatcher.end_stopped(call),
            }
        });
    }

    fn server_failed(self: &Arc<Self>, lane: usize, fault: &Fault) {
        let reached = self.servers.all[lane].was_reached();
        let failure = self.queues().failed(lane, fault, reached, Instant::now());
        let Failure { rest, outage } = failure;
        if outage {
            self.give_up_waiting();
        }
        if let Some(rest) = rest {
            let server = self.servers.name(lane);
            tracing::warn!(%server, rest_s = rest.as_secs_f64(), "judge server left alone");
            self.pump_after(rest);
        }
    }

    fn pause(self: &Arc<Self>, lane: usize, pause: Duration) {
        let now = Instant::now();
        if self.queues().schedule.pause(lane, now + pause, now, false) {
            count(&self.metrics.counters.rate_limit_pauses);
            let server = self.servers.name(lane);
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
