//! The end of a request: reply or fault to verdict, the ledger, and those who wait for the same answer.

use std::sync::Arc;

use super::Dispatcher;
use super::call::Call;
use crate::job_state::Stop;
use crate::ledger::Key;
use crate::metrics::count;
use crate::reply::Reply;
use crate::types::{Status, Verdict};

impl Dispatcher {
    /// No server has answered for too long: what waits gets the reason instead of more time.
    pub(super) fn give_up_waiting(self: &Arc<Self>) {
        let calls = self.queues().give_up();
        for call in calls {
            self.finish(call);
        }
    }

    /// A request has its reply, or will get none.
    pub(super) fn finish(self: &Arc<Self>, call: Call) {
        let verdict = match &call.reply {
            Some(reply) => {
                self.keep(&call, reply);
                let verdict = self.verdict(&call.key, reply);
                // The re-ask failed on the way: say so, and keep the first reply.
                match &call.last_fault {
                    Some(fault) if reply.grade.is_none() && !reply.reasked => Verdict {
                        error: Some(format!("re-ask failed: {}", fault.explain())),
                        ..verdict
                    },
                    _ => verdict,
                }
            }
            None => call.unanswered(),
        };
        for follower in self.flights.end(&call.key) {
            count(&self.metrics.counters.shared);
            let shared = Verdict {
                from_cache: true,
                ..verdict.clone()
            };
            self.settle(follower.call, shared);
        }
        self.settle(call, verdict);
    }

    /// Ends a request whose job stopped. Equal requests of other jobs take its place.
    pub(super) fn end_stopped(self: &Arc<Self>, call: Call) {
        let stop = call.ticket.job.stopped().unwrap_or(Stop::Cancelled);
        let followers = self.flights.end(&call.key);
        self.settle(call, stop.verdict());
        for follower in followers {
            self.enqueue(follower.affinity, vec![follower.call]);
        }
    }

    /// Counts the verdict and files it.
    pub(super) fn settle(&self, call: Call, verdict: Verdict) {
        self.metrics.ended(verdict.status);
        if verdict.status == Status::Repaired {
            count(&self.metrics.counters.repaired);
        }
        call.settle(verdict);
    }

    pub(super) fn verdict(&self, key: &Key, reply: &Reply) -> Verdict {
        let (verdict, fell_back) = self.replies.verdict(key, reply);
        if reply.cut {
            count(&self.metrics.counters.truncated);
        }
        if fell_back {
            count(&self.metrics.counters.readout_fallbacks);
        }
        verdict
    }

    fn keep(&self, call: &Call, reply: &Reply) {
        self.metrics.used(reply.usage);
        if let Err(error) = self.replies.keep(&call.key, reply) {
            count(&self.metrics.counters.ledger_failed);
            tracing::warn!(%error, "a reply could not be stored in the ledger");
        }
    }
}
