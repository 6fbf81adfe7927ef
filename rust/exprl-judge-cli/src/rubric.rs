//! `exprl-judge rubric`.

use std::collections::{BTreeMap, HashSet};
use std::fs::OpenOptions;
use std::io::{BufWriter, Write};
use std::path::Path;

use exprl_judge::{
    Checklist, ChecklistEntry, Checklists, Graded, Item, Judge, Settings, Status, Task,
};
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};

use crate::Error;
use crate::args::{ReferenceArg, RubricArgs, share};
use crate::input::{Reader, Source};
use crate::progress::Progress;

/// So many reasons are told.
const MOST_REASONS: usize = 5;
/// The sampling of the second try: the first reply could not be used.
const SECOND_TEMPERATURE: f64 = 0.7;

pub(crate) async fn run(args: &RubricArgs) -> Result<u8, Error> {
    share("--max-missing", args.max_missing)?;
    let mut settings = args.settings.settings()?;
    settings.task = Task::Checklist;
    let _rules = args.ask.serve_rules(&mut settings).await?;
    let known = known(args.out.as_deref())?;
    let (items, all) = wanted(args, &known)?;
    let mut out: Box<dyn Write> = match &args.out {
        None => Box::new(BufWriter::new(std::io::stdout())),
        Some(path) => {
            let file = OpenOptions::new().create(true).append(true).open(path);
            Box::new(BufWriter::new(
                file.map_err(|error| Error::file(path, &error))?,
            ))
        }
    };
    say!("{all} problems, {} to write a rubric for", items.len());
    let mut progress = Progress::new(Some(items.len() as u64), args.ask.progress);
    let first = write_all(&settings, &items, &mut out, &mut progress).await?;
    let again: Vec<Item> = first.failed.iter().map(|(item, _)| item.clone()).collect();
    let mut last = first;
    if !last.interrupted && !again.is_empty() {
        let second = Settings {
            sample_index: settings.sample_index + 1,
            temperature: settings.temperature.max(SECOND_TEMPERATURE),
            ..settings
        };
        last = write_all(&second, &again, &mut out, &mut progress).await?;
    }
    progress.end();
    tell_reasons(&last.failed);
    let missing = last.failed.len();
    say!(
        "{} rubrics written, {missing} missing",
        items.len() - missing
    );
    Ok(if last.interrupted {
        130
    } else if all > 0 && missing as f64 / all as f64 > args.max_missing {
        3
    } else {
        0
    })
}

/// Each reason once, the commonest first, with one of its problems.
fn tell_reasons(failed: &[(Item, String)]) {
    let mut alike: BTreeMap<&str, Vec<&Item>> = BTreeMap::new();
    for (item, reason) in failed {
        alike.entry(reason).or_default().push(item);
    }
    let mut alike: Vec<_> = alike.into_iter().collect();
    alike.sort_by_key(|(_, items)| std::cmp::Reverse(items.len()));
    for (reason, items) in alike.iter().take(MOST_REASONS) {
        let more = match items.len() {
            1 => String::new(),
            count => format!(" and {} more", count - 1),
        };
        say!("no rubric for {:?}{more}: {reason}", name(items[0]));
    }
}

/// The rubrics that the output file holds; a torn last line is cut off.
fn known(path: Option<&Path>) -> Result<Checklists, Error> {
    let Some(path) = path.filter(|path| path.exists()) else {
        return Ok(Checklists::default());
    };
    let failed = |error| Error::file(path, &error);
    let text = std::fs::read_to_string(path).map_err(failed)?;
    let whole = text.rfind('\n').map_or(0, |end| end + 1);
    let torn = text[whole..].trim();
    // An editor may leave out the last newline: only what is no JSON is torn.
    let end = if serde_json::from_str::<serde_json::Value>(torn).is_ok() {
        let mut file = OpenOptions::new().append(true).open(path).map_err(failed)?;
        file.write_all(b"\n").map_err(failed)?;
        text.len()
    } else {
        let file = OpenOptions::new().write(true).open(path).map_err(failed)?;
        file.set_len(whole as u64).map_err(failed)?;
        whole
    };
    Checklists::read(&text[..end])
        .map_err(|reason| Error::Usage(format!("{}, {reason}", path.display())))
}

/// The problems without a rubric, each once, and the number of all.
fn wanted(args: &RubricArgs, known: &Checklists) -> Result<(Vec<Item>, usize), Error> {
    let reader = Reader {
        reference: ReferenceArg::Right,
        steps: None,
        label: None,
        checklists: None,
    };
    let mut seen = HashSet::new();
    let mut items = Vec::new();
    for entry in Source::open(args.input.as_deref())?.entries(&reader) {
        let item = entry?.item;
        let reference = item.reference.as_deref().unwrap_or_default();
        if seen.insert(Checklist::key(&item.problem, reference))
            && known.find(&item.problem, reference).is_none()
        {
            items.push(item);
        }
    }
    Ok((items, seen.len()))
}

/// What a round of asking leaves.
struct Round {
    failed: Vec<(Item, String)>,
    interrupted: bool,
}

/// Asks for the rubric of each item and writes the good ones, in the order in which they come in.
async fn write_all(
    settings: &Settings,
    items: &[Item],
    out: &mut dyn Write,
    progress: &mut Progress,
) -> Result<Round, Error> {
    let judge = Judge::new(settings, Handle::current())?;
    let job = judge.submit();
    let pushing = async {
        for item in items {
            job.push(item).await?;
        }
        job.close();
        Ok::<(), exprl_judge::Error>(())
    };
    // Made once: a signal that comes between two waits is not lost.
    let mut ctrl_c = signal(SignalKind::interrupt())?;
    let taking = async {
        let mut failed = Vec::new();
        let (mut written, mut interrupted) = (0, false);
        loop {
            tokio::select! {
                burst = job.next() => {
                    for graded in burst.graded {
                        match entry(&items[graded.index], &graded) {
                            Ok(entry) => {
                                serde_json::to_writer(&mut *out, &entry).map_err(std::io::Error::from)?;
                                out.write_all(b"\n")?;
                                written += 1;
                            }
                            Err(reason) => failed.push((items[graded.index].clone(), reason)),
                        }
                    }
                    out.flush()?;
                    progress.show(written, &judge.stats());
                    if burst.finished {
                        return Ok::<_, Error>(Round { failed, interrupted });
                    }
                }
                _ = ctrl_c.recv(), if !interrupted => {
                    interrupted = true;
                    job.cancel();
                }
            }
        }
    };
    let (pushed, round) = tokio::join!(pushing, taking);
    let round = round?;
    if !round.interrupted {
        pushed?;
    }
    Ok(round)
}

fn entry(item: &Item, graded: &Graded) -> Result<ChecklistEntry, String> {
    let verdict = graded.verdicts.first().ok_or("no answer")?;
    if verdict.status != Status::Ok {
        let reason = verdict.error.clone();
        return Err(reason.unwrap_or_else(|| verdict.status.name().into()));
    }
    let reference = item.reference.as_deref().unwrap_or_default();
    Ok(ChecklistEntry {
        key: Some(Checklist::key(&item.problem, reference)),
        id: Some(item.id.clone()).filter(|id| !id.is_empty()),
        problem: item.problem.to_string(),
        checkpoints: Checklist::read(&verdict.reply)?,
    })
}

/// How an item is named in a message.
fn name(item: &Item) -> &str {
    if item.id.is_empty() {
        &item.problem
    } else {
        &item.id
    }
}
