//! What the judge's context holds, as far as servers have told or shown.

use crate::policy::Fault;
use crate::refusal::Complaint;
use crate::request::Body;

/// So many answers must have been counted before a prompt's tokens are estimated.
const LEAST: u32 = 8;
/// A text may have half as many tokens per byte as the sparsest that a server has counted.
const SPARSER: f64 = 0.5;

/// Says which prompts need not be sent because they cannot fit.
///
/// A refusal costs next to nothing, and a prompt that is held back by mistake costs its grade. So only
/// what certainly does not fit is held back: a longer prefix of a rollout of which a shorter one was
/// refused, and a prompt whose fewest possible tokens are more than any server's context holds.
pub(super) struct Context {
    /// Tokens that each server's context holds, where that is known.
    limits: Vec<Option<u64>>,
    /// A server has counted the reply's tokens with the prompt's when it refused.
    with_reply: bool,
    max_tokens: u64,
    /// The fewest tokens per byte of a prompt that a server has counted, and in how many prompts.
    sparsest: f64,
    counted: u32,
}

impl Context {
    pub(super) fn new(servers: usize, max_tokens: u32) -> Self {
        Self {
            limits: vec![None; servers],
            with_reply: false,
            max_tokens: max_tokens.into(),
            sparsest: f64::INFINITY,
            counted: 0,
        }
    }

    /// A server tells how much its context holds.
    pub(super) fn told(&mut self, lane: usize, tokens: u64) {
        self.limits[lane] = Some(tokens);
    }

    /// A server has refused a prompt as too long. Says whether another server may still take it: one whose
    /// context holds more, or is not known.
    pub(super) fn refused(&mut self, lane: usize, limit: Option<u64>, with_reply: bool) -> bool {
        self.with_reply |= with_reply;
        self.limits[lane] = limit.or(self.limits[lane]);
        let here = self.limits[lane];
        let others = self.limits.iter().enumerate().filter(|(i, _)| *i != lane);
        let mut others = others.map(|(_, limit)| *limit);
        others.any(|other| other.is_none() || here.is_none() || other > here)
    }

    /// A server has counted the tokens of a prompt of so many bytes.
    pub(super) fn counted(&mut self, bytes: usize, tokens: u64) {
        if tokens > 0 {
            self.sparsest = self.sparsest.min(tokens as f64 / bytes as f64);
            self.counted += 1;
        }
    }

    /// Why a prompt is not sent; `None` if it may fit. `refused_from` is the length in bytes of the
    /// shortest prompt of the same rollout that did not fit.
    pub(super) fn withholds(&self, body: &Body, refused_from: usize) -> Option<Fault> {
        let (bytes, _) = body.sizes();
        let widest = self.widest();
        let reply = if self.with_reply { self.max_tokens } else { 1 };
        let estimated = || {
            let most = widest?.saturating_sub(reply) as f64;
            let fewest = |bytes: usize| bytes as f64 * self.sparsest * SPARSER;
            let too_long = self.counted >= LEAST && fewest(bytes) > most;
            (too_long && fewest(varied(body)) > most).then_some(())
        };
        (bytes >= refused_from || estimated().is_some()).then_some(Fault::TooLong {
            complaint: Complaint::Context {
                limit: widest,
                with_reply: self.with_reply,
            },
            max_tokens: self.max_tokens,
        })
    }

    /// The most that any server holds; `None` while one of them has not told.
    fn widest(&self) -> Option<u64> {
        let limits = self.limits.iter().copied();
        limits.reduce(|one, other| Some(one?.max(other?))).flatten()
    }
}

/// Bytes of a body without those that repeat one of the two before them: tokens of a run of blanks, or of
/// line breaks, are long.
fn varied(body: &Body) -> usize {
    let mut before = [0; 2];
    let bytes = body.parts().into_iter().flatten();
    let varied = bytes.filter(|byte| {
        let new = !before.contains(*byte);
        before = [before[1], **byte];
        new
    });
    varied.count()
}

#[cfg(test)]
mod tests {
    use super::super::call::tests::{calls, job};
    use super::*;

    fn body(trace: &str) -> Body {
        calls(&job(), &[trace]).remove(0).body
    }

    /// Knows that a token takes four bytes, and this limit.
    fn knowing(limit: u64) -> Context {
        let mut context = Context::new(1, 100);
        (0..LEAST).for_each(|_| context.counted(4_000, 1_000));
        context.told(0, limit);
        context
    }

    #[test]
    fn a_prompt_is_held_back_only_if_half_of_its_estimate_does_not_fit() {
        let body = body(&"Seven times 8 is 56. ".repeat(2_000));
        let tokens = body.sizes().0 as u64 / 4;
        let text = varied(&body) as u64 / 4;
        assert!(
            text > tokens * 3 / 4,
            "a text is varied: {text} of {tokens}"
        );
        assert!(knowing(tokens / 2).withholds(&body, usize::MAX).is_none());
        assert!(knowing(text / 3).withholds(&body, usize::MAX).is_some());
    }

    #[test]
    fn the_reply_counts_where_a_server_has_counted_it() {
        let body = body(&"Seven times 8 is 56. ".repeat(40));
        let mut context = knowing(100 + varied(&body) as u64 / 8 - 10);
        assert!(context.withholds(&body, usize::MAX).is_none());
        context.refused(0, None, true);
        assert!(context.withholds(&body, usize::MAX).is_some());
    }

    #[test]
    fn a_loop_of_blanks_has_few_tokens_and_is_sent() {
        for blank in [" ", "\n", "ha", "\n\n"] {
            let body = body(&blank.repeat(40_000));
            let context = knowing(body.sizes().0 as u64 / 16);
            assert!(context.withholds(&body, usize::MAX).is_none(), "{blank:?}");
        }
    }

    #[test]
    fn nothing_is_estimated_before_enough_is_known() {
        let body = body(&"Seven times 8 is 56. ".repeat(2_000));
        let mut context = Context::new(1, 100);
        context.told(0, 10);
        assert!(context.withholds(&body, usize::MAX).is_none(), "no counts");
        (0..LEAST).for_each(|_| context.counted(4_000, 0));
        assert!(context.withholds(&body, usize::MAX).is_none(), "no usage");
        let mut two = Context::new(2, 100);
        (0..LEAST).for_each(|_| two.counted(4_000, 1_000));
        two.told(0, 10);
        assert!(
            two.withholds(&body, usize::MAX).is_none(),
            "one has not told"
        );
        two.told(1, 20);
        assert!(two.withholds(&body, usize::MAX).is_some());
        two.told(1, 1_000_000);
        assert!(two.withholds(&body, usize::MAX).is_none());
    }

    #[test]
    fn what_is_longer_than_a_refused_prefix_is_held_back() {
        let body = body("a trace");
        let context = Context::new(1, 100);
        let bytes = body.sizes().0;
        assert!(context.withholds(&body, bytes + 1).is_none());
        assert!(context.withholds(&body, bytes).is_some());
    }

    #[test]
    fn another_server_is_asked_while_it_may_hold_more() {
        let mut context = Context::new(2, 100);
        assert!(context.refused(0, Some(4096), true), "the other is unknown");
        assert!(!context.refused(1, Some(4096), true), "both hold the same");
        context.told(1, 8192);
        assert!(context.refused(0, None, true));
        assert!(!Context::new(1, 100).refused(0, Some(4096), true));
    }
}
