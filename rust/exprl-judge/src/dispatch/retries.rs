//! How often a request may be sent again.

use crate::policy::RetryBudget;
use crate::settings::Settings;

pub(super) struct Retries {
    attempts: u32,
    budget: RetryBudget,
    /// How many more hedges may be sent; `None` without hedging.
    hedges: Option<RetryBudget>,
}

impl Retries {
    pub(super) fn new(settings: &Settings) -> Self {
        let reserve = settings
            .concurrency
            .saturating_mul(settings.endpoints.len());
        Self {
            attempts: settings.attempts,
            budget: RetryBudget::new(settings.retry_budget, reserve),
            hedges: (settings.hedge > 0.0).then(|| RetryBudget::new(settings.hedge, 0)),
        }
    }

    /// A request was sent for the first time: it pays for others' repeats.
    pub(super) fn deposit(&self) {
        self.budget.deposit();
        self.hedges.iter().for_each(RetryBudget::deposit);
    }

    /// Takes one repeat out of the budget, for a request that has failed so often.
    pub(super) fn allow_repeat(&self, failed: u32) -> bool {
        failed < self.attempts && self.budget.withdraw()
    }

    /// Takes one repeat out of the budget, for a request that has not failed and does not end.
    pub(super) fn allow_again(&self) -> bool {
        self.budget.withdraw()
    }

    pub(super) fn hedging(&self) -> bool {
        self.hedges.is_some()
    }

    /// Takes one hedge out of the budget.
    pub(super) fn allow_hedge(&self) -> bool {
        self.hedges.as_ref().is_some_and(RetryBudget::withdraw)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retries(attempts: u32, retry_budget: f64, hedge: f64) -> Retries {
        Retries::new(&Settings {
            attempts,
            retry_budget,
            hedge,
            concurrency: 1,
            ..Settings::new(vec!["http://127.0.0.1:1/v1".into()], "judge")
        })
    }

    #[test]
    fn a_request_is_repeated_until_its_attempts_or_the_budget_are_used_up() {
        let generous = retries(3, 1.0, 0.0);
        assert!(generous.allow_repeat(2) && !generous.allow_repeat(3));
        let strict = retries(9, 0.5, 0.0);
        assert!(strict.allow_repeat(1), "the reserve for the start");
        assert!(!strict.allow_repeat(1));
        strict.deposit();
        assert!(!strict.allow_repeat(1), "half a repeat is none");
        strict.deposit();
        assert!(strict.allow_repeat(1));
    }

    #[test]
    fn hedges_have_a_budget_without_a_reserve() {
        let never = retries(1, 1.0, 0.0);
        never.deposit();
        assert!(!never.hedging() && !never.allow_hedge());
        let some = retries(1, 1.0, 1.0);
        assert!(some.hedging() && !some.allow_hedge());
        some.deposit();
        assert!(some.allow_hedge() && !some.allow_hedge());
    }
}
