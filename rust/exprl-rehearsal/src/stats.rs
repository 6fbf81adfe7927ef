//! What the rehearsal judge has counted: `GET /stats` as JSON, `GET /metrics` as Prometheus text.

use std::collections::HashMap;
use std::fmt::Write;

use serde::Serialize;

use crate::faults::{Fate, Outage};

/// Counts since the start. Faults are counted once per distinct content, requests each time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Requests to `/v1/chat/completions`, whatever became of them.
    pub requests: u64,
    /// Requests being answered now.
    pub in_flight: u64,
    /// The most requests that were answered at once.
    pub most_in_flight: u64,
    /// Requests whose client went away before the whole answer was handed over.
    pub abandoned: u64,
    /// Distinct contents among the well-formed ones.
    pub distinct: u64,
    /// Requests that were not well-formed: answered 4xx.
    pub bad_requests: u64,
    /// Well-formed requests without the layout of a grading request: answered in prose.
    pub not_grading: u64,
    /// Checklists written.
    pub checklists: u64,
    /// Requests that continue a begun reply.
    pub re_asks: u64,
    /// Replies with grade 1, 2, 3, 4, 5.
    pub grades: [u64; 5],
    /// Contents that met a 429.
    pub rate_limits: u64,
    /// Contents that met a 500.
    pub errors: u64,
    /// Contents whose answer was cut.
    pub cuts: u64,
    /// Contents that once got no answer, or half of one.
    pub hangs: u64,
    /// Contents that never get a grade.
    pub no_grade: u64,
    /// Contents graded in words.
    pub prose: u64,
    /// Contents graded at random.
    pub random_grades: u64,
    /// Prompt tokens of all replies, as in their `usage`.
    pub prompt_tokens: u64,
    /// Reply tokens, as in their `usage`.
    pub completion_tokens: u64,
}

impl Stats {
    /// Prometheus text, version 0.0.4: what vLLM counts too by vLLM's name, and everything by its own.
    pub(crate) fn metrics(&self, model: &str) -> String {
        let label = model
            .replace('\\', "\\\\")
            .replace('"', "\\\"")
            .replace('\n', "\\n");
        let mut text = String::new();
        // Writing to a string cannot fail.
        let mut row = |name: &str, kind: &str, value: u64| {
            let _ = writeln!(
                text,
                "# TYPE {name} {kind}\n{name}{{model_name=\"{label}\"}} {value}"
            );
        };
        let graded = self.grades.iter().sum();
        row("vllm:num_requests_running", "gauge", self.in_flight);
        row("vllm:prompt_tokens_total", "counter", self.prompt_tokens);
        row(
            "vllm:generation_tokens_total",
            "counter",
            self.completion_tokens,
        );
        row("vllm:request_success_total", "counter", graded);
        let counts = serde_json::to_value(self).unwrap_or_default();
        for (name, value) in counts.as_object().into_iter().flatten() {
            match value.as_u64() {
                Some(value) if name.ends_with("in_flight") => {
                    row(&format!("rules:{name}"), "gauge", value);
                }
                Some(value) => row(&format!("rules:{name}_total"), "counter", value),
                None => {}
            }
        }
        text.push_str("# TYPE rules:grades_total counter\n");
        for (grade, count) in (1..=5).zip(self.grades) {
            let _ = writeln!(
                text,
                "rules:grades_total{{model_name=\"{label}\",grade=\"{grade}\"}} {count}"
            );
        }
        text
    }
}

/// The counts, and the attempts at each content.
#[derive(Debug, Default)]
pub(crate) struct Book {
    pub(crate) stats: Stats,
    attempts: HashMap<[u8; 32], u32>,
}

impl Book {
    /// Writes down an attempt at a content; returns the transient fault that it meets.
    pub(crate) fn attempt(&mut self, content: [u8; 32], fate: &Fate) -> Option<Outage> {
        let attempts = self.attempts.entry(content).or_default();
        let attempt = *attempts;
        *attempts = attempt.saturating_add(1);
        let stats = &mut self.stats;
        if attempt == 0 {
            stats.distinct += 1;
            stats.no_grade += u64::from(fate.no_grade);
            stats.prose += u64::from(!fate.no_grade && fate.prose);
            stats.random_grades += u64::from(!fate.no_grade && fate.random_grade.is_some());
        }
        let outage = fate.outages.into_iter().flatten().nth(attempt as usize)?;
        *match outage {
            Outage::RateLimit => &mut stats.rate_limits,
            Outage::Error => &mut stats.errors,
            Outage::Cut => &mut stats.cuts,
            Outage::Silence | Outage::Stall => &mut stats.hangs,
        } += 1;
        Some(outage)
    }
}
