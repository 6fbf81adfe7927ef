//! What a run would send, without sending it.

use std::collections::HashSet;
use std::ops::Deref;

use exprl_rubric::{FenceKey, Readout, View};

use crate::error::Error;
use crate::ledger::{self, Key, Ledger};
use crate::reply::Reply;
use crate::request::Composer;
use crate::settings::{Prices, Settings, Task};
use crate::types::Item;

/// English text and JSON take about four bytes per token in the usual vocabularies.
const BYTES_PER_TOKEN: u64 = 4;
/// A reply with a few checkpoints takes about so many tokens.
const REPLY_TOKENS: u64 = 256;

/// Sums over the items given so far; tokens are estimates.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Forecast {
    /// Requests to send: repeated ones once, those in the ledger not at all. Re-asks and retries come on top.
    pub requests: u64,
    /// Requests that the ledger answers.
    pub from_ledger: u64,
    /// Requests that are equal to an earlier one.
    pub repeated: u64,
    /// Tokens of their prompts.
    pub prompt_tokens: u64,
    /// Of these, what a prefix cache that forgets nothing would hold.
    pub cached_tokens: u64,
    /// Tokens of the replies, if they are of the usual length.
    pub completion_tokens: u64,
    /// Tokens of the replies, if each is as long as `max_tokens` allows; one each with `readout = "direct"`.
    pub most_completion_tokens: u64,
}

impl Forecast {
    /// The cost with the usual reply, and with the longest.
    #[must_use]
    pub fn cost(&self, prices: Prices) -> [f64; 2] {
        let fresh = self.prompt_tokens.saturating_sub(self.cached_tokens) as f64;
        let prompts = fresh * prices.prompt + self.cached_tokens as f64 * prices.cached;
        [self.completion_tokens, self.most_completion_tokens]
            .map(|tokens| (prompts + tokens as f64 * prices.completion) / 1e6)
    }
}

/// Renders items as a judge would and counts.
pub struct Forecaster {
    composer: Composer,
    ledger: Option<Ledger>,
    seen: HashSet<Key>,
    /// Heads that an earlier request had, by their hash.
    heads: HashSet<Key>,
    readout: Readout,
    max_tokens: u64,
    bytes: u64,
    cached_bytes: u64,
    sums: Forecast,
}

impl Forecaster {
    /// Checks the settings and looks into the ledger, if there is one; makes and locks nothing.
    pub fn new(settings: &Settings) -> Result<Self, Error> {
        settings.check()?;
        let kept = settings.ledger.as_deref().filter(|dir| ledger::exists(dir));
        let fence = match kept {
            Some(dir) => ledger::fence_key(dir)?,
            None => [0; 32],
        };
        Ok(Self {
            composer: Composer::new(settings, FenceKey::new(fence))?,
            ledger: kept.map(Ledger::read).transpose()?,
            seen: HashSet::new(),
            heads: HashSet::new(),
            readout: settings.readout,
            max_tokens: u64::from(settings.reply_tokens()),
            bytes: 0,
            cached_bytes: 0,
            sums: Forecast::default(),
        })
    }

    /// Counts one item's requests.
    pub fn add(&mut self, item: &Item<impl Deref<Target = str>>) -> Result<(), Error> {
        let mut before = 0;
        for request in self.composer.render(item)?.requests {
            if !self.seen.insert(request.key) {
                self.sums.repeated += 1;
                continue;
            }
            let stored = self
                .ledger
                .as_ref()
                .and_then(|ledger| ledger.get(&request.key));
            let (task, readout) = (self.composer.task(), self.readout);
            if stored.is_some_and(|stored| Reply::read_stored(&stored, task, readout).is_some()) {
                self.sums.from_ledger += 1;
                continue;
            }
            let (whole, head) = request.body.sizes();
            let head_is_known = !self.heads.insert(request.body.head_hash());
            let grows = self.composer.task() == Task::Grade && self.composer.view() == View::Prefix;
            let shared = if grows && before > 0 {
                before
            } else if head_is_known {
                head
            } else {
                0
            };
            // The next prefix begins with this one, up to the closing tag.
            before = request.body.shareable();
            self.sums.requests += 1;
            self.bytes += whole as u64;
            self.cached_bytes += shared as u64;
        }
        Ok(())
    }

    /// What the judge would be sent for an item: the text of each of its requests, in order. The tags around
    /// the judged text carry a code of their own in each ledger.
    pub fn prompts(&self, item: &Item<impl Deref<Target = str>>) -> Result<Vec<String>, Error> {
        let requests = self.composer.render(item)?.requests;
        Ok(requests
            .iter()
            .map(|request| request.body.question())
            .collect())
    }

    /// What has been counted so far.
    #[must_use]
    pub fn forecast(&self) -> Forecast {
        Forecast {
            prompt_tokens: self.bytes / BYTES_PER_TOKEN,
            cached_tokens: self.cached_bytes / BYTES_PER_TOKEN,
            completion_tokens: self.sums.requests * REPLY_TOKENS.min(self.max_tokens),
            most_completion_tokens: self.sums.requests * self.max_tokens,
            ..self.sums
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(problem: &str, segments: &[&str]) -> Item {
        Item {
            id: "i".into(),
            problem: problem.into(),
            reference: Some("r".into()),
            segments: segments.iter().map(|&text| text.into()).collect(),
            domain: "math".into(),
            checklist: None,
        }
    }

    #[test]
    fn growing_prefixes_and_shared_heads_count_as_cached() {
        let settings = |view| Settings {
            view,
            max_tokens: 300,
            ..Settings::new(vec!["http://h/v1".into()], "m")
        };
        let segment = "x".repeat(4000);
        let mut prefixes = Forecaster::new(&settings(View::Prefix)).unwrap();
        prefixes.add(&item("p", &[&segment, &segment])).unwrap();
        let one = prefixes.forecast();
        assert_eq!((one.requests, one.completion_tokens), (2, 512));
        assert_eq!(one.most_completion_tokens, 600);
        // Fresh are the head, both segments and two tails.
        let fresh = one.prompt_tokens - one.cached_tokens;
        assert!((2000..3500).contains(&fresh), "{one:?}");
        assert!((1000..2500).contains(&one.cached_tokens), "{one:?}");
        prefixes.add(&item("p", &[&segment, &segment])).unwrap();
        assert_eq!(prefixes.forecast().repeated, 2);

        let direct = Settings {
            readout: Readout::Direct,
            ..settings(View::Prefix)
        };
        let mut direct = Forecaster::new(&direct).unwrap();
        direct.add(&item("p", &[&segment, &segment])).unwrap();
        let direct = direct.forecast();
        let replies = (direct.completion_tokens, direct.most_completion_tokens);
        assert_eq!((direct.requests, replies), (2, (2, 2)));

        let mut outcomes = Forecaster::new(&settings(View::Outcome)).unwrap();
        outcomes.add(&item("p", &["a"])).unwrap();
        assert_eq!(outcomes.forecast().cached_tokens, 0);
        outcomes.add(&item("p", &["b"])).unwrap();
        let two = outcomes.forecast();
        assert!(two.cached_tokens * 2 > two.prompt_tokens / 2, "{two:?}");
        let prices = Prices {
            prompt: 1.0,
            cached: 0.0,
            completion: 0.0,
        };
        let fresh = (two.prompt_tokens - two.cached_tokens) as f64;
        assert!((two.cost(prices)[0] - fresh / 1e6).abs() < 1e-12);
    }
}
