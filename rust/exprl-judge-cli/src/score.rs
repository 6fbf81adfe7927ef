//! `exprl-judge score`.

use std::io::{BufWriter, IsTerminal, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use exprl_judge::{Job, Judge, Stats, Status};
use tokio::runtime::Handle;
use tokio::time::MissedTickBehavior;

use crate::input::{self, Entry};
use crate::output::Writer;
use crate::{Error, ScoreArgs};

pub(crate) async fn run(args: &ScoreArgs) -> Result<ExitCode, Error> {
    if !(0.0..=1.0).contains(&args.max_missing) {
        return Err(Error::Usage(format!(
            "--max-missing {}: give a share in 0..=1",
            args.max_missing
        )));
    }
    let settings = args.settings()?;
    let judge = Judge::new(&settings, Handle::current())?;
    let entries = input::read(std::io::stdin().lock(), args.reference, &args.delimiter)?;
    let out = BufWriter::new(std::io::stdout().lock());
    let mut writer = Writer::new(out, &entries, settings.view, !args.no_reply);
    let job = judge.submit();
    let started = Instant::now();
    // Pushing waits for room in the queue, which taking results makes: so both go on at once.
    let (pushed, taken) = tokio::join!(
        push_all(&job, &entries),
        take_all(&judge, &job, &mut writer, started)
    );
    let interrupted = taken?;
    if !interrupted {
        pushed?;
    }
    summary(&judge.stats(), writer.verdicts, writer.missing, started);
    Ok(if interrupted {
        ExitCode::from(130)
    } else if writer.missing_rate() > args.max_missing {
        eprintln!(
            "exprl-judge: {:.1} % of the grades are missing, --max-missing allows {:.1} %",
            100.0 * writer.missing_rate(),
            100.0 * args.max_missing
        );
        ExitCode::from(3)
    } else {
        ExitCode::SUCCESS
    })
}

/// Ends early if the job is cancelled, or at the first item that cannot be judged.
async fn push_all(job: &Job, entries: &[Entry]) -> Result<(), exprl_judge::Error> {
    for entry in entries {
        if let Err(error) = job.push(&entry.item).await {
            job.cancel();
            return Err(error);
        }
    }
    job.close();
    Ok(())
}

/// Writes results until the job is over; says whether Ctrl-C ended it.
async fn take_all<W: Write>(
    judge: &Judge,
    job: &Job,
    writer: &mut Writer<'_, W>,
    started: Instant,
) -> Result<bool, Error> {
    let mut interrupted = false;
    let mut tick = tokio::time::interval(Duration::from_secs(2));
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    tick.tick().await;
    loop {
        tokio::select! {
            burst = job.next() => {
                let written = writer.take(burst.graded);
                if let Err(error) = written {
                    // Nobody reads any more: stop asking.
                    job.cancel();
                    return Err(error.into());
                }
                if burst.finished {
                    return Ok(interrupted);
                }
            }
            pressed = tokio::signal::ctrl_c(), if !interrupted => {
                pressed?;
                interrupted = true;
                job.cancel();
            }
            _ = tick.tick() => progress(&judge.stats(), writer.verdicts, started),
        }
    }
}

fn progress(stats: &Stats, verdicts: usize, started: Instant) {
    if std::io::stderr().is_terminal() {
        let rate = verdicts as f64 / started.elapsed().as_secs_f64();
        eprint!(
            "\r{verdicts} grades, {rate:.0}/s, {} in flight, {} retries ",
            stats.in_flight, stats.retries
        );
    }
}

fn summary(stats: &Stats, verdicts: usize, missing: usize, started: Instant) {
    if std::io::stderr().is_terminal() {
        eprintln!();
    }
    let statuses: Vec<String> = Status::ALL
        .iter()
        .zip(stats.statuses)
        .filter(|(_, count)| *count > 0)
        .map(|(status, count)| format!("{} {count}", status.name()))
        .collect();
    eprintln!(
        "exprl-judge: {verdicts} verdicts ({}), {missing} without a grade; {} requests sent, {} from the ledger, \
         {} retries, {} re-asks, {} hedges; {} prompt tokens ({} cached), {} completion tokens{}; {:.1} s",
        statuses.join(", "),
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
}
