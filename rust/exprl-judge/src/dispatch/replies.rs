//! What becomes of a reply: a verdict, and a record in the ledger.

use std::io;

use exprl_rubric::{Readout, ScoreMap};

use crate::error::Error;
use crate::ledger::{Key, Ledger, to_hex};
use crate::policy::Fault;
use crate::reply::{Reply, Usage};
use crate::settings::{Settings, Task};
use crate::types::Verdict;

pub(super) struct Replies {
    ledger: Option<Ledger>,
    task: Task,
    reask: bool,
    readout: Readout,
    score_map: ScoreMap,
}

impl Replies {
    pub(super) fn new(settings: &Settings) -> Result<Self, Error> {
        Ok(Self {
            ledger: settings.ledger.as_deref().map(Ledger::open).transpose()?,
            task: settings.task,
            // A digit after `Score:` repairs a grade in a text, and nothing else.
            reask: settings.reask
                && settings.task == Task::Grade
                && settings.readout != Readout::Direct,
            readout: settings.readout,
            score_map: settings.score_map,
        })
    }

    /// Reads the body of an answer: a reply, or the grade that an earlier reply lacks. Gives what this
    /// exchange used.
    pub(super) fn read(&self, body: &[u8], reply: &mut Option<Reply>) -> Result<Usage, Fault> {
        if let Some(reply) = reply {
            let before = reply.usage;
            reply.repair(body)?;
            return Ok(reply.usage - before);
        }
        let first = Reply::read(body, self.readout)?;
        let first = match self.task {
            Task::Grade => first,
            Task::Checklist => first.into_checklist(),
        };
        Ok(reply.insert(first).usage)
    }

    /// Whether to ask once more, for the grade alone.
    pub(super) fn wants_reask(&self, reply: &Reply) -> bool {
        self.reask && reply.wants_reask()
    }

    /// The verdict, and whether its score had to be taken from the text for want of probabilities.
    pub(super) fn verdict(&self, key: &Key, reply: &Reply) -> (Verdict, bool) {
        let (score, fell_back) = reply.score(self.score_map, self.readout);
        let verdict = Verdict {
            status: reply.status,
            grade: reply.grade,
            score,
            reply: reply.text.clone(),
            error: reply.error.clone(),
            prompt_tokens: reply.usage.prompt,
            completion_tokens: reply.usage.completion,
            cached_tokens: reply.usage.cached,
            attempts: 0,
            server: None,
            latency_s: 0.0,
            from_cache: false,
            key: Some(to_hex(key)),
        };
        (verdict, fell_back)
    }

    /// The ledger's reply, if it holds what was asked for.
    pub(super) fn find(&self, key: &Key) -> Option<Reply> {
        let stored = self.ledger.as_ref()?.get(key)?;
        Reply::read_stored(&stored, self.task, self.readout)
    }

    /// Stores a reply in the ledger. One without a grade is stored too, for who looks into the ledger, but
    /// another run asks again: the judge may answer better.
    pub(super) fn keep(&self, key: &Key, reply: &Reply) -> io::Result<()> {
        match &self.ledger {
            Some(ledger) => ledger.put(key, &serde_json::to_vec(reply)?),
            None => Ok(()),
        }
    }

    /// Replies in the ledger, and records that were damaged on disk.
    pub(super) fn kept(&self) -> (u64, u64) {
        let ledger = self.ledger.as_ref();
        ledger.map_or((0, 0), |ledger| {
            (ledger.len() as u64, ledger.corrupt as u64)
        })
    }
}
