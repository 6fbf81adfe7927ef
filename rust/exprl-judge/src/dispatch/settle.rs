//! The end of a request: reply or fault to verdict, the ledger, and those who wait for the same answer.

use std::sync::Arc;

use super::{Call, Dispatcher};
use crate::job::Stop;
use crate::ledger::Key;
use crate::metrics::count;
use crate::policy::Fault;
use crate::reply::{Reply, Usage};
use crate::settings::Task;
use crate::types::{Status, Verdict};

impl Dispatcher {
    /// No server has answered for too long: what waits gets the reason instead of more time.
    pub(super) fn give_up_waiting(self: &Arc<Self>) {
        let calls = {
            let mut queues = self.queues();
            queues.schedule.drain(|_| true)
        };
        for mut call in calls {
            let reason = format!("no server has answered for {} s", self.outage.as_secs_f64());
            call.last_fault.get_or_insert(Fault::Connect(reason));
            self.finish(call);
        }
    }

    /// A request has its reply, or will get none.
    pub(super) fn finish(self: &Arc<Self>, call: Call) {
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
            let settled = match self.task {
                Task::Grade => !self.reask || !reply.wants_reask(),
                // Asked again, the model may write one that can be used.
                Task::Checklist => reply.status == Status::Ok,
            };
            if settled {
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
    pub(super) fn end_stopped(self: &Arc<Self>, call: Call) {
        let stop = call.ticket.job.stopped().unwrap_or(Stop::Cancelled);
        let followers = self.flights().remove(&call.key).unwrap_or_default();
        self.settle(call, stop.verdict());
        for follower in followers {
            self.enqueue(follower.affinity, vec![follower.call]);
        }
    }

    /// Adds what only the call knows, and files the verdict.
    pub(super) fn settle(&self, call: Call, verdict: Verdict) {
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

    pub(super) fn verdict(&self, reply: &Reply) -> Verdict {
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
    pub(super) fn remembered(&self, key: &Key) -> Option<Reply> {
        let stored = self.ledger.as_ref()?.get(key)?;
        let reply: Reply = serde_json::from_slice(&stored).ok()?;
        (!self.reask || !reply.wants_reask()).then_some(reply)
    }

    fn remember(&self, key: &Key, reply: &Reply) {
        let Some(ledger) = &self.ledger else { return };
        let stored = serde_json::to_vec(reply).map_err(std::io::Error::other);
        if let Err(error) = stored.and_then(|bytes| ledger.put(key, &bytes)) {
            count(&self.metrics.ledger_failed);
            tracing::warn!(%error, "a reply could not be stored in the ledger");
        }
    }
}
