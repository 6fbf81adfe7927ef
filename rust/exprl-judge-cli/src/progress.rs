//! How far a run is, on standard error.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use exprl_judge::Stats;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Between two plain lines.
const PLAIN: Duration = Duration::from_secs(5);

/// A bar on a terminal, plain lines elsewhere if asked for, otherwise nothing.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    plain: bool,
    total: Option<u64>,
    shown: Instant,
}

impl Progress {
    pub(crate) fn new(total: Option<u64>, forced: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let bar = terminal.then(|| {
            let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr_with_hz(5));
            let layout = if total.is_some() {
                "{bar:30} {pos}/{len} lines graded, {msg}, {eta} left"
            } else {
                "{spinner} {pos} lines graded, {msg}, {elapsed}"
            };
            match ProgressStyle::with_template(layout) {
                Ok(style) => bar.with_style(style),
                Err(_) => bar,
            }
        });
        Self {
            bar,
            plain: forced && !terminal,
            total,
            shown: Instant::now(),
        }
    }

    pub(crate) fn show(&mut self, lines: u64, stats: &Stats) {
        let work = format!(
            "{} requests sent, {} in flight, {} retries, {} from the ledger",
            stats.requests_sent, stats.in_flight, stats.retries, stats.from_ledger
        );
        if let Some(bar) = &self.bar {
            bar.set_position(lines);
            bar.set_message(work);
        } else if self.plain && self.shown.elapsed() >= PLAIN {
            self.shown = Instant::now();
            let of = self
                .total
                .map_or(String::new(), |total| format!("/{total}"));
            say!("{lines}{of} lines graded, {work}");
        }
    }

    /// Clears the bar: the summary follows.
    pub(crate) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
