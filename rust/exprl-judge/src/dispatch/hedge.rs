//! One exchange, or two when the first is late: the first answer wins.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tracing::Instrument;

use super::Dispatcher;
use crate::metrics::{ServerMetrics, count};
use crate::policy::Fault;
use crate::request::Body;
use crate::schedule::Pass;
use crate::transport::Answer;

/// As long as too few answers of a server are known, lateness is asked for again after this time.
const UNKNOWN: Duration = Duration::from_secs(1);

/// A request that takes so many times as long as a late one hangs: the same server gets it once more.
const HANGS: u32 = 4;

/// A request on the wire. Dropped before it has ended, it was cancelled: its socket is closed.
struct Wire<'a> {
    metrics: &'a ServerMetrics,
    ended: bool,
}

impl Drop for Wire<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.metrics.failed("cancelled".into());
        }
    }
}

/// A hedge's place in the second server's window, given back when the hedge ends or is dropped.
struct Spare<'a> {
    dispatcher: &'a Arc<Dispatcher>,
    pass: Pass,
}

impl Drop for Spare<'_> {
    fn drop(&mut self) {
        self.dispatcher.queues().schedule.finish(self.pass);
        self.dispatcher.pump();
    }
}

impl Dispatcher {
    /// Sends a request to a server, and to a second one if no byte has come when it is late. Where no
    /// other server is free, a request that hangs goes to the same one again, on a new connection.
    /// Gives the outcome and the server that it came from.
    pub(super) async fn exchange(
        self: &Arc<Self>,
        lane: usize,
        sent: &mut u32,
        body: &Body,
    ) -> (usize, Result<Answer, Fault>) {
        let begun = AtomicBool::new(false);
        if !self.retries.hedging() {
            return (lane, self.send(lane, body, &begun).await);
        }
        let mut first = pin!(self.send(lane, body, &begun));
        // Late again and again, until a place for a hedge is free or the answer begins.
        let started = Instant::now();
        let (spare, patience) = loop {
            let patience = self.queues().patience(lane);
            // The longer it has taken, the less often it is looked at.
            let wait = patience.unwrap_or(UNKNOWN).max(started.elapsed() / 4);
            tokio::select! {
                answer = &mut first => return (lane, answer),
                () = tokio::time::sleep(wait) => {}
            }
            if begun.load(Ordering::Relaxed) {
                return (lane, first.await);
            }
            let Some(patience) = patience else { continue };
            let hangs = started.elapsed() >= HANGS * patience;
            if let Some(spare) = self.spare(lane, hangs) {
                break (spare, patience);
            }
        };
        let second_lane = spare.pass.lane;
        tracing::debug!(
            server = %self.servers.name(lane),
            second = %self.servers.name(second_lane),
            after_s = patience.as_secs_f64(),
            "judge request hedged"
        );
        count(&self.metrics.counters.hedges);
        *sent += 1;
        let unheard = AtomicBool::new(false);
        // Boxed: the future of every exchange would have to have room for it.
        let mut second = Box::pin(self.send(second_lane, body, &unheard));
        // One of two that fails leaves the other; the second fault is the request's.
        tokio::select! {
            answer = &mut first => match answer {
                Ok(answer) => (lane, Ok(answer)),
                Err(fault) => {
                    self.note_fault(lane, &fault);
                    (second_lane, second.await)
                }
            },
            answer = &mut second => match answer {
                Ok(answer) => {
                    count(&self.metrics.counters.hedges_won);
                    (second_lane, Ok(answer))
                }
                Err(fault) => {
                    self.note_fault(second_lane, &fault);
                    (lane, first.await)
                }
            },
        }
    }

    /// One exchange with one server, counted.
    fn send<'a>(
        self: &'a Arc<Self>,
        lane: usize,
        body: &'a Body,
        begun: &'a AtomicBool,
    ) -> impl Future<Output = Result<Answer, Fault>> + 'a {
        count(&self.metrics.counters.requests_sent);
        let span = tracing::debug_span!("judge_request", server = %self.servers.name(lane));
        let exchange = async move {
            let started = Instant::now();
            let mut wire = Wire {
                metrics: &self.metrics.servers[lane],
                ended: false,
            };
            let answer = self.servers.post(lane, body, begun).await;
            wire.ended = true;
            match &answer {
                Ok(answer) => wire.metrics.answered(started.elapsed(), answer.first_byte),
                Err(fault) => wire.metrics.failed(fault.label()),
            }
            answer
        };
        exchange.instrument(span)
    }

    /// A place for a hedge, if the budget has one and another server has room; at the same server if the
    /// request `hangs` there. That one is a repeat, for which there is a reserve.
    fn spare(self: &Arc<Self>, lane: usize, hangs: bool) -> Option<Spare<'_>> {
        let mut queues = self.queues();
        let now = Instant::now();
        let (pass, allowed) = match queues.schedule.spare(lane, now) {
            Some(pass) => (pass, self.retries.allow_hedge()),
            None if hangs => {
                let pass = queues.schedule.again(lane, now)?;
                (pass, self.retries.allow_again())
            }
            None => return None,
        };
        if !allowed {
            queues.schedule.finish(pass);
            return None;
        }
        Some(Spare {
            dispatcher: self,
            pass,
        })
    }
}
