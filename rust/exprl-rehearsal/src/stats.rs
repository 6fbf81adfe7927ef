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
    /// Prometheus text, version 0.0.4. What vLLM counts too has vLLM's name.
    pub(crate) fn metrics(&self, model: &str) -> String {
        let rows = [
            ("vllm:num_requests_running", "gauge", self.in_flight),
            ("vllm:prompt_tokens_total", "counter", self.prompt_tokens),
            (
                "vllm:generation_tokens_total",
                "counter",
                self.completion_tokens,
            ),
            (
                "vllm:request_success_total",
                "counter",
                self.grades.iter().sum(),
            ),
            ("rules:requests_total", "counter", self.requests),
            ("rules:most_in_flight", "gauge", self.most_in_flight),
            ("rules:abandoned_total", "counter", self.abandoned),
            ("rules:distinct_total", "counter", self.distinct),
            ("rules:bad_requests_total", "counter", self.bad_requests),
            ("rules:not_grading_total", "counter", self.not_grading),
            ("rules:checklists_total", "counter", self.checklists),
            ("rules:re_asks_total", "counter", self.re_asks),
            ("rules:rate_limits_total", "counter", self.rate_limits),
            ("rules:errors_total", "counter", self.errors),
            ("rules:cuts_total", "counter", self.cuts),
            ("rules:hangs_total", "counter", self.hangs),
            ("rules:no_grade_total", "counter", self.no_grade),
            ("rules:prose_total", "counter", self.prose),
            ("rules:random_grades_total", "counter", self.random_grades),
        ];
        let label = model
            .replace('\\', "\\\\")
            .replace('"', "\\\"")
            .replace('\n', "\\n");
        let mut text = String::new();
        for (name, kind, value) in rows {
            // Writing to a string cannot fail.
            let _ = write!(
                text,
                "# TYPE {name} {kind}\n{name}{{model_name=\"{label}\"}} {value}\n"
            );
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
