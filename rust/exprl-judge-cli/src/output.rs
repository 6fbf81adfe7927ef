//! Graded items to output lines, in input order.

use std::collections::BTreeMap;
use std::io::Write;

use exprl_judge::{Graded, Verdict, View};
use serde_json::{Map, Value, json};

use crate::input::Entry;

/// Holds back what came too early; counts what is missing.
pub(crate) struct Writer<'a, W: Write> {
    out: W,
    entries: &'a [Entry],
    view: View,
    with_reply: bool,
    early: BTreeMap<usize, Graded>,
    next: usize,
    pub(crate) verdicts: usize,
    pub(crate) missing: usize,
}

impl<'a, W: Write> Writer<'a, W> {
    pub(crate) fn new(out: W, entries: &'a [Entry], view: View, with_reply: bool) -> Self {
        let early = BTreeMap::new();
        Self {
            out,
            entries,
            view,
            with_reply,
            early,
            next: 0,
            verdicts: 0,
            missing: 0,
        }
    }

    /// Takes what has finished and writes as far as there is no gap.
    pub(crate) fn take(&mut self, graded: Vec<Graded>) -> std::io::Result<()> {
        for graded in graded {
            self.verdicts += graded.verdicts.len();
            self.missing += graded
                .verdicts
                .iter()
                .filter(|verdict| verdict.grade.is_none())
                .count();
            self.early.insert(graded.index, graded);
        }
        while let Some(graded) = self.early.remove(&self.next) {
            let line = self.line(&graded, &self.entries[self.next]);
            writeln!(self.out, "{line}")?;
            self.next += 1;
        }
        self.out.flush()
    }

    /// Share of verdicts without a grade.
    pub(crate) fn missing_rate(&self) -> f64 {
        if self.verdicts == 0 {
            0.0
        } else {
            self.missing as f64 / self.verdicts as f64
        }
    }

    fn line(&self, graded: &Graded, entry: &Entry) -> Value {
        let verdicts = &graded.verdicts;
        let mut line = Map::new();
        line.insert("id".into(), json!(graded.id));
        if let (View::Outcome, Some(verdict)) = (self.view, verdicts.first()) {
            line.extend(self.judgement(verdict));
        } else {
            let segments = verdicts
                .iter()
                .zip(&entry.spans)
                .map(|(verdict, &(start, end))| {
                    let mut segment = Map::new();
                    segment.insert("start".into(), json!(start));
                    segment.insert("end".into(), json!(end));
                    segment.extend(self.judgement(verdict));
                    Value::Object(segment)
                });
            line.insert("segments".into(), segments.collect());
        }
        let sum = |field: fn(&Verdict) -> u64| verdicts.iter().map(field).sum::<u64>();
        let usage = json!({
            "prompt_tokens": sum(|verdict| verdict.prompt_tokens),
            "completion_tokens": sum(|verdict| verdict.completion_tokens),
            "cached_tokens": sum(|verdict| verdict.cached_tokens),
        });
        line.insert("usage".into(), usage);
        line.insert(
            "attempts".into(),
            json!(sum(|verdict| u64::from(verdict.attempts))),
        );
        line.insert(
            "server".into(),
            json!(
                verdicts
                    .iter()
                    .find_map(|verdict| verdict.server.as_deref())
            ),
        );
        let latency = verdicts
            .iter()
            .map(|verdict| verdict.latency_s)
            .fold(0.0, f64::max);
        line.insert("latency_s".into(), json!(latency));
        line.insert(
            "from_cache".into(),
            json!(verdicts.iter().all(|verdict| verdict.from_cache)),
        );
        Value::Object(line)
    }

    fn judgement(&self, verdict: &Verdict) -> Map<String, Value> {
        let mut fields = Map::new();
        fields.insert("status".into(), json!(verdict.status));
        fields.insert("grade".into(), json!(verdict.grade));
        fields.insert("score".into(), json!(verdict.score));
        fields.insert("error".into(), json!(verdict.error));
        if self.with_reply {
            fields.insert("reply".into(), json!(verdict.reply));
        }
        fields
    }
}
