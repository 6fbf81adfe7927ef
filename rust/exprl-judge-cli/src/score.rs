//! `exprl-judge score`.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use exprl_judge::{Checklists, Job, Judge, Stats, Status};
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::MissedTickBehavior;

use crate::Error;
use crate::args::{ScoreArgs, share};
use crate::feed::{Feed, spawn_reading};
use crate::input::{Reader, Source};
use crate::output::{Pending, Tally, Writer};
use crate::preview;
use crate::progress::Progress;
use crate::target::{self, Existing};

/// Of piped input so much is checked before the first request leaves.
const LOOK_AHEAD_BYTES: usize = 16 << 20;

pub(crate) async fn run(args: &ScoreArgs) -> Result<u8, Error> {
    share("--max-missing", args.max_missing)?;
    let mut settings = args.settings.settings()?;
    if args.resume && args.out.is_none() && settings.ledger.is_none() {
        return Err(Error::Usage(
            "--resume has nothing to go on from: name the earlier --out FILE, or a --ledger".into(),
        ));
    }
    let _rules = args.ask.serve_rules(&mut settings).await?;
    // Looked up as lines are read, whose errors then name the line.
    let reader = reader(
        args,
        settings.rubrics.take().as_deref(),
        settings.show_thinking,
    )?;
    let mut source = Source::open(args.input.as_deref())?;
    if let Some(out) = args.out.as_deref().filter(|out| source.is_at(out)) {
        return Err(Error::Usage(format!(
            "--out {} is the input: writing would destroy it; name another file",
            out.display()
        )));
    }
    let total = source.check(&reader)?;
    let entries = spawn_reading(source, reader);
    if let Some(lines) = args.show_prompt {
        return preview::show_prompts(&settings, entries, lines).await;
    }
    if args.dry_run {
        return preview::forecast(&settings, entries).await;
    }
    let judge = Judge::new(&settings, Handle::current())?;
    let _metrics = match args.ask.metrics_port {
        Some(port) => {
            let server = judge.serve_metrics(port).await?;
            say!("metrics at http://{}/metrics", server.addr());
            Some(server)
        }
        None => None,
    };
    // A file has been checked whole; only its first entry may still be bad.
    let look_ahead = if total.is_some() { 1 } else { LOOK_AHEAD_BYTES };
    let mut feed = Feed::look_ahead(entries, look_ahead).await?;
    let target = target::open(args.out.as_deref(), existing(args), settings.view)?;
    let mut tally = Tally::default();
    feed.skip(target.done, &mut tally).await?;
    let kept = tally.lines;

    let mut run = Run {
        writer: Writer::new(target.out, settings.view, !args.no_reply),
        tally,
        progress: Progress::new(total, args.ask.progress),
        pending: Arc::default(),
    };
    let started = Instant::now();
    let ended = run.grade(&judge, feed).await;
    run.progress.end();
    summary(&judge.stats(), &run.tally, kept, started);
    if args.label.is_some() {
        say!("{}", run.tally.misplacement());
    }
    if ended? == End::Interrupted {
        if let Some((new, old)) = &target.replaces {
            replace(new, old, false)?;
        }
        return Ok(130);
    }
    let missing = run.tally.missing_rate();
    let enough = missing <= args.max_missing;
    if let Some((new, old)) = &target.replaces {
        replace(new, old, enough)?;
    }
    if !enough {
        say!(
            "{:.1} % of the grades are missing, --max-missing allows {:.1} %",
            100.0 * missing,
            100.0 * args.max_missing
        );
        return Ok(3);
    }
    Ok(0)
}

fn existing(args: &ScoreArgs) -> Existing {
    match (args.resume, args.force) {
        (true, _) => Existing::Resume,
        (false, true) => Existing::Replace,
        (false, false) => Existing::Keep,
    }
}

/// Puts a new file in the place of an old one, unless too many of its grades are missing.
fn replace(new: &Path, old: &Path, enough: bool) -> Result<(), Error> {
    if enough {
        return std::fs::rename(new, old).map_err(|error| Error::file(old, &error));
    }
    say!(
        "{} is as it was; the new lines are in {}",
        old.display(),
        new.display()
    );
    Ok(())
}

fn reader(args: &ScoreArgs, rubrics: Option<&Path>, show_thinking: bool) -> Result<Reader, Error> {
    let checklists = match rubrics {
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|error| Error::file(path, &error))?;
            let read = Checklists::read(&text).map_err(|reason| {
                Error::Usage(format!("--rubrics {}, {reason}", path.display()))
            })?;
            Some(Arc::new(read))
        }
        None => None,
    };
    Ok(Reader {
        reference: args.reference,
        steps: Some(args.steps.settings(show_thinking)?),
        label: args.label.clone(),
        checklists,
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Finished,
    Interrupted,
}

/// What a run writes and counts.
struct Run {
    writer: Writer,
    tally: Tally,
    progress: Progress,
    pending: Arc<Mutex<VecDeque<Pending>>>,
}

impl Run {
    /// Grades all entries. At a bad line it stops reading, and what was read before is graded and written.
    async fn grade(&mut self, judge: &Judge, feed: Feed) -> Result<End, Error> {
        let job = judge.submit();
        // Pushing waits for room in the queue, which taking results makes: so both go on at once.
        let pushing = push_all(&job, feed, self.pending.clone());
        tokio::pin!(pushing);
        let mut pushed = None;
        let taking = self.take_all(judge, &job);
        tokio::pin!(taking);
        let end = loop {
            tokio::select! {
                done = &mut pushing, if pushed.is_none() => pushed = Some(done),
                end = &mut taking => break end?,
            }
        };
        if end == End::Finished {
            match pushed {
                Some(done) => done?,
                // It has closed the job, so it is at its end.
                None => pushing.await?,
            }
        }
        Ok(end)
    }

    /// Writes results until the job is over; says whether Ctrl-C ended it.
    async fn take_all(&mut self, judge: &Judge, job: &Job) -> Result<End, Error> {
        let mut end = End::Finished;
        // Made once: a signal that comes between two waits is not lost.
        let mut ctrl_c = signal(SignalKind::interrupt())?;
        let mut tick = tokio::time::interval(Duration::from_millis(200));
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                burst = job.next() => {
                    let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
                    if let Err(error) = self.writer.take(burst.graded, &mut pending, &mut self.tally) {
                        // Nobody reads any more: stop asking.
                        job.cancel();
                        return Err(error.into());
                    }
                    if burst.finished {
                        return Ok(end);
                    }
                }
                _ = ctrl_c.recv(), if end == End::Finished => {
                    end = End::Interrupted;
                    job.cancel();
                }
                _ = tick.tick() => {
                    // Lines that wait for an earlier one are graded, too.
                    let graded = self.tally.lines + self.writer.held_back();
                    self.progress.show(graded, &judge.stats());
                }
            }
        }
    }
}

/// Queues all entries and closes the job. Ends early if the job is cancelled, or at the first entry
/// that is bad or cannot be judged.
async fn push_all(
    job: &Job,
    mut feed: Feed,
    pending: Arc<Mutex<VecDeque<Pending>>>,
) -> Result<(), Error> {
    while let Some(entry) = feed.next().await {
        let entry = entry.inspect_err(|_| job.close())?;
        pending
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push_back(Pending::from(&entry));
        if let Err(error) = job.push(&entry.item).await {
            job.close();
            return Err(error.into());
        }
    }
    job.close();
    Ok(())
}

fn summary(stats: &Stats, tally: &Tally, kept: u64, started: Instant) {
    let statuses: Vec<String> = Status::ALL
        .iter()
        .zip(stats.statuses)
        .filter(|(_, count)| *count > 0)
        .map(|(status, count)| format!("{} {count}", status.name()))
        .collect();
    let resumed = (kept > 0).then(|| format!("{kept} lines were there"));
    let parts: Vec<String> = resumed.into_iter().chain(statuses).collect();
    let parts = match parts.as_slice() {
        [] => String::new(),
        parts => format!(" ({})", parts.join(", ")),
    };
    say!(
        "{} verdicts{parts}, {} without a grade; {} requests sent, {} from the ledger, \
         {} retries, {} re-asks, {} hedges; {} prompt tokens ({} cached), {} completion tokens{}; {:.1} s",
        tally.verdicts,
        tally.missing,
        stats.requests_sent,
        stats.from_ledger,
        stats.retries,
        stats.reasks,
        stats.hedges,
        stats.prompt_tokens,
        stats.cached_tokens,
        stats.completion_tokens,
        stats
            .cost
            .map_or(String::new(), |cost| format!(", cost {cost:.4}")),
        started.elapsed().as_secs_f64(),
    );
    if let Some(reason) = tally.commonest_reason() {
        say!("{reason}");
    }
    if stats.repaired > 0 {
        say!(
            "{} grades came from a re-ask for the grade alone: no reasoning stands behind them ({} replies were \
             cut at --max-tokens)",
            stats.repaired,
            stats.truncated
        );
    }
    if stats.readout_fallbacks > 0 {
        say!(
            "{} scores are those of the grade alone: their replies had no usable probabilities",
            stats.readout_fallbacks
        );
    }
    if stats.ledger_failed > 0 {
        say!(
            "{} replies could not be stored in the ledger (is its disk full?): another run asks for them again",
            stats.ledger_failed
        );
    }
}
