//! One exchange with a server, and what its outcome means for the request and for the server.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use super::{Call, Dispatcher};
use crate::job::Stop;
use crate::metrics::count;
use crate::policy::{Action, Fault, backoff};
use crate::reply::Reply;
use crate::transport::Answer;

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
    /// Takes one request through its exchange. Consumes a place in the lane's window until then;
    /// ended early by the job's stop. Never fails: what goes wrong becomes a verdict or a requeue.
    pub(super) async fn carry(self: Arc<Self>, lane: usize, mut call: Call) {
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
        let answer = self
            .transport
            .post(server, body, &AtomicBool::new(false))
            .await;
        if let Ok(Answer {
            first_byte, pause, ..
        }) = answer
        {
            tracing::trace!(server = %server.name, first_byte_s = first_byte.as_secs_f64(), "judge answered");
            if let Some(pause) = pause {
                self.pause(lane, pause);
            }
        }
        let answer = answer.and_then(|answer| match &mut call.reply {
            None => Reply::read(&answer.body, self.readout).map(|reply| call.reply = Some(reply)),
            Some(reply) => reply.repair(&answer.body),
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
            let silent = queues
                .last_answer
                .is_some_and(|last| now - last > self.outage);
            let all_rest = (0..self.servers.len()).all(|i| queues.schedule.is_paused(i, now));
            (rest, silent && all_rest)
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
}
