//! One request on its way. It is owned by the queue or by the task that sends it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::OwnedSemaphorePermit;

use crate::job_state::Ticket;
use crate::ledger::Key;
use crate::policy::Fault;
use crate::reply::Reply;
use crate::request::{Body, Rendered};
use crate::types::{Status, Verdict};

/// What the prefixes of one rollout know of each other.
#[derive(Clone)]
pub(super) struct Prefixes(Arc<AtomicUsize>);

impl Default for Prefixes {
    fn default() -> Self {
        Self(Arc::new(AtomicUsize::new(usize::MAX)))
    }
}

impl Prefixes {
    /// A prompt of so many bytes was refused as too long.
    pub(super) fn refused(&self, bytes: usize) {
        self.0.fetch_min(bytes, Ordering::Relaxed);
    }

    /// Bytes of the shortest one that was refused.
    pub(super) fn refused_from(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

pub(super) struct Call {
    pub(super) ticket: Ticket,
    pub(super) key: Key,
    pub(super) body: Body,
    /// Tokens that were reserved for it when it left.
    pub(super) reserved: u64,
    /// HTTP requests sent for it.
    pub(super) sent: u32,
    /// Failures that count against `Settings::attempts`.
    pub(super) failed: u32,
    /// The one repeat that a stale connection allows has been used.
    pub(super) resent: bool,
    /// It was sent with `max_completion_tokens` last.
    pub(super) renamed: bool,
    /// Why it is not sent at all.
    pub(super) withheld: Option<Fault>,
    pub(super) prefixes: Prefixes,
    pub(super) backoff: Duration,
    pub(super) first_sent: Option<Instant>,
    pub(super) last_fault: Option<Fault>,
    pub(super) last_server: Option<Arc<str>>,
    /// A reply without a grade: the next request asks it to go on.
    pub(super) reply: Option<Reply>,
    /// The item's share of the queue, given back when its last request leaves.
    pub(super) room: Option<Arc<OwnedSemaphorePermit>>,
}

impl Call {
    pub(super) fn new(request: Rendered, ticket: Ticket, room: Arc<OwnedSemaphorePermit>) -> Self {
        Self {
            ticket,
            key: request.key,
            body: request.body,
            reserved: 0,
            sent: 0,
            failed: 0,
            resent: false,
            renamed: false,
            withheld: None,
            prefixes: Prefixes::default(),
            backoff: Duration::ZERO,
            first_sent: None,
            last_fault: None,
            last_server: None,
            reply: None,
            room: Some(room),
        }
    }

    /// One of a rollout's prefixes, which grow: where one is too long, the longer ones are.
    pub(super) fn among(mut self, prefixes: &Prefixes) -> Self {
        self.prefixes = prefixes.clone();
        self
    }

    /// The verdict of a request that no server has replied to.
    pub(super) fn unanswered(&self) -> Verdict {
        let (status, why) = match &self.last_fault {
            Some(fault @ Fault::Timeout(..)) => (Status::Timeout, fault.explain()),
            Some(fault) => (Status::HttpError, fault.explain()),
            None => (Status::HttpError, "the request was not sent".into()),
        };
        Verdict::without_reply(status, why)
    }

    /// Files the verdict, with what only the request knows.
    pub(super) fn settle(self, verdict: Verdict) {
        let latency = self.first_sent.map(|sent| sent.elapsed());
        self.ticket.settle(Verdict {
            attempts: self.sent,
            server: self.last_server,
            latency_s: latency.unwrap_or_default().as_secs_f64(),
            ..verdict
        });
    }
}

#[cfg(test)]
pub(super) mod tests {
    use exprl_rubric::FenceKey;

    use super::super::room::Room;
    use super::*;
    use crate::job_state::JobState;
    use crate::policy::Wait;
    use crate::request::Composer;
    use crate::settings::Settings;
    use crate::types::Item;

    /// A job without an end.
    pub(in crate::dispatch) fn job() -> Arc<JobState> {
        Arc::new(JobState::new(Instant::now() + Duration::from_secs(3600)))
    }

    /// One of a job's requests per segment.
    pub(in crate::dispatch) fn calls(job: &Arc<JobState>, segments: &[&str]) -> Vec<Call> {
        let settings = Settings::new(vec!["http://127.0.0.1:1/v1".into()], "judge");
        let composer = Composer::new(&settings, FenceKey::new([0; 32])).unwrap();
        let item: Item = Item {
            id: "item".into(),
            problem: "problem".into(),
            reference: None,
            segments: segments.iter().map(|&segment| segment.into()).collect(),
            domain: "math".into(),
            checklist: None,
        };
        let requests = composer.render(&item).unwrap().requests;
        let tickets = job.admit(&item.id, requests.len()).unwrap();
        let room = Arc::new(Room::new(1 << 20).try_take(item.bytes()).unwrap());
        let requests = requests.into_iter().zip(tickets);
        requests
            .map(|(request, ticket)| Call::new(request, ticket, room.clone()))
            .collect()
    }

    #[test]
    fn a_request_without_a_reply_says_what_went_wrong_last() {
        let mut call = calls(&job(), &["a trace"]).remove(0);
        assert_eq!(call.unanswered().status, Status::HttpError);
        call.last_fault = Some(Fault::Timeout(Wait::FirstByte, Duration::from_secs(9)));
        let verdict = call.unanswered();
        assert_eq!(verdict.status, Status::Timeout);
        assert!(verdict.error.unwrap().contains("9 s"));
        call.last_fault = Some(Fault::Connect("refused".into()));
        assert_eq!(call.unanswered().status, Status::HttpError);
    }

    #[test]
    fn a_settled_request_tells_how_often_and_where_it_was_sent() {
        let job = job();
        let mut call = calls(&job, &["a trace"]).remove(0);
        (call.sent, call.last_server) = (3, Some("here".into()));
        let verdict = call.unanswered();
        call.settle(verdict);
        let verdict = job.take(9).graded.remove(0).verdicts.remove(0);
        assert_eq!(
            (verdict.attempts, verdict.server.as_deref()),
            (3, Some("here"))
        );
    }
}
