//! What waits for a server, and what is known about the servers. Time comes in as a value.

use std::time::{Duration, Instant};

use exprl_rubric::View;

use super::call::Call;
use super::context::Context;
use super::hope::Hope;
use crate::estimate::{Lateness, TokenEstimate};
use crate::limits::Limits;
use crate::policy::{Breaker, Fault};
use crate::reply::Usage;
use crate::schedule::{Need, Pass, Schedule};
use crate::settings::{Settings, seconds};

pub(super) struct Queues {
    pub(super) schedule: Schedule<Call>,
    breakers: Vec<Breaker>,
    lateness: Vec<Lateness>,
    limits: Limits,
    estimate: TokenEstimate,
    pub(super) context: Context,
    pub(super) hope: Hope,
    /// When the limits let the next request leave, if somebody waits for that.
    limited_until: Option<Instant>,
    /// When a server last answered, or the first request left.
    last_answer: Option<Instant>,
    /// How long all servers may be silent.
    outage: Duration,
}

/// What may leave.
#[expect(
    clippy::large_enum_variant,
    reason = "moved once; a box would cost more"
)]
pub(super) enum Leave {
    Now(Pass, Call),
    /// Nothing before the limits allow it, and nobody waits for that yet.
    In(Duration),
    Nothing,
}

/// What follows from a server's failure.
pub(super) struct Failure {
    /// The server is left alone for so long, from now.
    pub(super) rest: Option<Duration>,
    /// No server has answered for too long.
    pub(super) outage: bool,
}

impl Queues {
    pub(super) fn new(settings: &Settings, seeds: impl ExactSizeIterator<Item = u64>) -> Self {
        let servers = seeds.len();
        let mut schedule = Schedule::new(seeds, settings.concurrency);
        if let Some(tokens) = settings.kv_tokens.filter(|&tokens| tokens > 0) {
            (0..servers).for_each(|lane| schedule.set_capacity(lane, Some(tokens)));
        }
        Self {
            schedule,
            breakers: (0..servers).map(|_| Breaker::default()).collect(),
            lateness: (0..servers).map(|_| Lateness::default()).collect(),
            limits: Limits::new(settings.rpm, settings.tpm),
            estimate: TokenEstimate::new(settings.reply_tokens()),
            context: Context::new(servers, settings.reply_tokens()),
            hope: Hope::new(servers),
            limited_until: None,
            last_answer: None,
            outage: seconds(settings.outage_s),
        }
    }

    /// Queues one item's requests.
    pub(super) fn push(&mut self, affinity: u64, calls: Vec<Call>, view: View, now: Instant) {
        // Servers that nobody asked were not silent.
        if self.schedule.is_empty() && self.schedule.in_flight() == 0 {
            self.last_answer = None;
        }
        let need = self.need(&calls, view);
        self.schedule.push(affinity, need, calls, now);
    }

    /// Puts a request back, on another server than `avoid` if one is open.
    pub(super) fn retry(&mut self, call: Call, avoid: Option<usize>, now: Instant) {
        let tokens = self.estimate.prompt(call.body.sizes().0);
        self.schedule.retry(call, tokens, avoid, now);
    }

    pub(super) fn leave(&mut self, now: Instant) -> Leave {
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
        call.room = None;
        self.last_answer.get_or_insert(now);
        if call.reply.is_none() {
            let refused_from = call.prefixes.refused_from();
            call.withheld = self.context.withholds(&call.body, refused_from);
        }
        if call.withheld.is_none() {
            self.reserve(&mut call, now);
        }
        Leave::Now(pass, call)
    }

    /// Takes what a request will use out of the limits, by estimate.
    pub(super) fn reserve(&mut self, call: &mut Call, now: Instant) {
        if self.limits.is_unlimited() {
            return;
        }
        let (bytes, _) = call.body.sizes();
        call.reserved = self.estimate.prompt(bytes) + self.estimate.completion();
        self.limits.take(call.reserved, now);
    }

    /// The server has said something, if only that it refuses.
    pub(super) fn heard(&mut self, lane: usize, now: Instant) {
        self.breakers[lane].answered();
        self.last_answer = Some(now);
    }

    /// The server has replied to a request of so many bytes: its window may grow.
    pub(super) fn replied(
        &mut self,
        lane: usize,
        (bytes, reserved): (usize, u64),
        (usage, first_byte): (Usage, Duration),
        now: Instant,
    ) {
        self.lateness[lane].note(first_byte);
        self.estimate.learn(bytes, usage);
        self.context.counted(bytes, usage.prompt);
        self.hope.answered();
        if usage.prompt > 0 {
            self.limits
                .correct(reserved, usage.prompt + usage.completion);
        }
        self.schedule.answered(lane);
        self.heard(lane, now);
    }

    /// The server has failed a request; `reached`: a connection to it was made once.
    pub(super) fn failed(
        &mut self,
        lane: usize,
        fault: &Fault,
        reached: bool,
        now: Instant,
    ) -> Failure {
        // What left before the breaker opened says nothing new.
        let resting = self.schedule.is_paused(lane, now);
        let rest = (!resting).then(|| self.breakers[lane].failed()).flatten();
        if let Some(rest) = rest {
            self.schedule.pause(lane, now + rest, now, true);
            if !reached {
                self.hope.unreachable(lane, fault);
            }
        }
        Failure {
            rest,
            outage: self.is_outage(now),
        }
    }

    /// No server has answered for too long: takes everything out, with that reason.
    pub(super) fn give_up(&mut self) -> Vec<Call> {
        let mut calls = self.schedule.drain(|_| true);
        for call in &mut calls {
            let silence = || {
                let seconds = self.outage.as_secs_f64();
                Fault::Connect(format!("no server has answered for {seconds} s"))
            };
            call.last_fault
                .get_or_insert_with(|| self.hope.lost().cloned().unwrap_or_else(silence));
        }
        calls
    }

    /// Every server is left alone, and none has answered for too long; or none ever will.
    pub(super) fn is_outage(&self, now: Instant) -> bool {
        if self.hope.lost().is_some() {
            return true;
        }
        let silent = self
            .last_answer
            .is_some_and(|last| now - last > self.outage);
        silent && (0..self.breakers.len()).all(|lane| self.schedule.is_paused(lane, now))
    }

    /// How long a request to this server may stay without a byte before it is late, where enough of its
    /// answers are known.
    pub(super) fn patience(&mut self, lane: usize) -> Option<Duration> {
        self.lateness[lane].late()
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

#[cfg(test)]
mod tests {
    use super::super::call::tests::{calls, job};
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn queues(change: impl FnOnce(&mut Settings)) -> Queues {
        let endpoints = ["http://127.0.0.1:1/v1", "http://127.0.0.1:2/v1"];
        let mut settings = Settings::new(endpoints.map(String::from).into(), "judge");
        change(&mut settings);
        Queues::new(&settings, [1, 2].into_iter())
    }

    fn push(queues: &mut Queues, now: Instant) {
        queues.push(7, calls(&job(), &["a trace"]), View::Outcome, now);
    }

    /// Lets every breaker open.
    fn fail_all(queues: &mut Queues, now: Instant) -> Vec<Failure> {
        let fault = Fault::Connect("refused".into());
        (0..10)
            .map(|i| queues.failed(i % 2, &fault, true, now))
            .collect()
    }

    #[test]
    fn an_outage_is_silence_of_servers_that_were_asked_and_are_all_left_alone() {
        let mut queues = queues(|settings| settings.outage_s = 10.0);
        let start = Instant::now();
        push(&mut queues, start);
        assert!(matches!(queues.leave(start), Leave::Now(..)));
        let early = fail_all(&mut queues, start + SECOND);
        assert!(early.iter().all(|failure| !failure.outage), "too early");
        assert_eq!(
            early
                .iter()
                .filter(|failure| failure.rest.is_some())
                .count(),
            2
        );
        let late = start + 11 * SECOND;
        assert!(!queues.is_outage(late), "the servers' rest is over");
        assert!(fail_all(&mut queues, late).last().unwrap().outage);
        queues.heard(1, late);
        assert!(!queues.is_outage(late), "one has answered");
    }

    #[test]
    fn time_in_which_nobody_asked_is_no_outage() {
        let mut queues = queues(|settings| settings.outage_s = 10.0);
        let start = Instant::now();
        push(&mut queues, start);
        let Leave::Now(pass, _) = queues.leave(start) else {
            panic!("a request waits and both servers are free")
        };
        queues.schedule.finish(pass);
        let much_later = start + 100 * SECOND;
        push(&mut queues, much_later);
        fail_all(&mut queues, much_later);
        assert!(!queues.is_outage(much_later));
    }

    #[test]
    fn servers_that_were_never_reached_are_not_waited_for() {
        let mut queues = queues(|settings| settings.outage_s = 3600.0);
        let now = Instant::now();
        push(&mut queues, now);
        assert!(matches!(queues.leave(now), Leave::Now(..)));
        push(&mut queues, now);
        let fault = Fault::Connect("refused".into());
        let last = (0..10).map(|i| queues.failed(i % 2, &fault, false, now));
        assert!(last.last().unwrap().outage);
        let error = queues.give_up().remove(0).unanswered().error.unwrap();
        assert!(error.contains("refused"), "{error}");
    }

    #[test]
    fn what_waits_in_an_outage_is_given_up_with_the_reason() {
        let mut queues = queues(|settings| settings.outage_s = 10.0);
        push(&mut queues, Instant::now());
        let call = queues.give_up().remove(0);
        let error = call.unanswered().error.unwrap();
        assert!(error.contains("no server has answered for 10 s"), "{error}");
        assert!(queues.schedule.is_empty());
    }

    #[test]
    fn one_waits_for_the_limits_and_the_others_do_not_wait_for_them_too() {
        let mut queues = queues(|settings| settings.rpm = Some(60));
        let start = Instant::now();
        (0..3).for_each(|_| push(&mut queues, start));
        assert!(matches!(queues.leave(start), Leave::Now(..)));
        let Leave::In(wait) = queues.leave(start) else {
            panic!("a second request within the second")
        };
        assert!(matches!(queues.leave(start), Leave::Nothing));
        assert!(matches!(queues.leave(start + wait), Leave::Now(..)));
    }
}
