//! Whether anything can still be graded, before anything has been.

use crate::policy::Fault;
use crate::refusal::Complaint;

/// Says when to stop asking servers that have graded nothing yet and never will: a wrong key or address,
/// or no server at all. Once one of them has graded something, a failure may pass, and this is silent.
pub(super) struct Hope {
    /// A server has replied.
    answered: bool,
    /// Refusals in a row that are about no single request, of each server.
    refusals: Vec<u32>,
    /// The servers that will not answer.
    lost: Vec<bool>,
    /// Why nothing will be graded, once all of them are lost.
    reason: Option<Fault>,
}

impl Hope {
    pub(super) fn new(servers: usize) -> Self {
        Self {
            answered: false,
            refusals: vec![0; servers],
            lost: vec![false; servers],
            reason: None,
        }
    }

    /// A server has replied.
    pub(super) fn answered(&mut self) {
        self.answered = true;
        self.reason = None;
    }

    /// A server refuses. Says whether this was the last hope.
    pub(super) fn refused(&mut self, lane: usize, fault: &Fault) -> bool {
        let Some(enough) = fault.complaint().and_then(Complaint::enough) else {
            return false;
        };
        self.refusals[lane] += 1;
        self.refusals[lane] >= enough && self.lose(lane, fault)
    }

    /// A server to which no connection was ever made has failed again and again. Says whether it was the
    /// last hope.
    pub(super) fn unreachable(&mut self, lane: usize, fault: &Fault) -> bool {
        matches!(fault, Fault::Connect(_)) && self.lose(lane, fault)
    }

    /// Why nothing will be graded.
    pub(super) fn lost(&self) -> Option<&Fault> {
        self.reason.as_ref()
    }

    /// Somebody begins anew: what was wrong may have been mended.
    pub(super) fn renew(&mut self) {
        if !self.answered {
            *self = Self::new(self.lost.len());
        }
    }

    fn lose(&mut self, lane: usize, fault: &Fault) -> bool {
        if self.answered {
            return false;
        }
        self.lost[lane] = true;
        let all = self.lost.iter().all(|&lost| lost);
        if all {
            self.reason.get_or_insert_with(|| fault.clone());
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: u16) -> Fault {
        Fault::Status {
            code,
            retry_after: None,
            message: "no".into(),
        }
    }

    #[test]
    fn four_refusals_of_a_server_that_never_answered_are_enough() {
        for code in [302, 401, 402, 403, 404, 405, 407] {
            let mut hope = Hope::new(1);
            let ends: Vec<_> = (0..4).map(|_| hope.refused(0, &status(code))).collect();
            assert_eq!(ends, [false, false, false, true], "{code}");
            assert_eq!(hope.lost(), Some(&status(code)));
        }
    }

    #[test]
    fn a_refused_field_may_be_about_one_request_and_takes_longer() {
        let mut hope = Hope::new(1);
        assert!(!(0..15).any(|_| hope.refused(0, &status(400))));
        assert!(hope.refused(0, &status(422)));
    }

    #[test]
    fn no_number_of_long_prompts_or_passing_faults_is_enough() {
        let mut hope = Hope::new(1);
        for fault in [status(413), status(429), status(500), Fault::Stale] {
            assert!(!(0..100).any(|_| hope.refused(0, &fault)), "{fault:?}");
        }
    }

    #[test]
    fn while_one_server_may_answer_there_is_hope() {
        let mut hope = Hope::new(2);
        assert!(!(0..100).any(|_| hope.refused(0, &status(403))));
        assert!(hope.unreachable(1, &Fault::Connect("refused".into())));
    }

    #[test]
    fn who_has_answered_once_may_do_so_again() {
        let mut hope = Hope::new(1);
        assert!(!(0..3).any(|_| hope.refused(0, &status(401))));
        hope.answered();
        assert!(!(0..100).any(|_| hope.refused(0, &status(401))));
        assert!(!hope.unreachable(0, &Fault::Connect("refused".into())));
    }

    #[test]
    fn a_late_answer_and_a_new_job_renew_it() {
        let mut hope = Hope::new(1);
        assert!(hope.unreachable(0, &Fault::Connect("refused".into())));
        hope.renew();
        assert_eq!(hope.lost(), None);
        assert!(hope.unreachable(0, &Fault::Connect("refused".into())));
        hope.answered();
        assert_eq!(hope.lost(), None);
    }
}
