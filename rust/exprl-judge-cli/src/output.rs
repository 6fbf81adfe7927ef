//! Graded items to output lines, in input order.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;

use exprl_judge::{Graded, Status, Verdict, View};
use serde_json::{Map, Value, json};

use crate::Error;
use crate::input::Entry;

/// From this grade on the judge calls a solution correct (docs/concepts/method.md, Measures).
const CORRECT_FROM: u8 = 4;

/// More kinds of reasons are not told apart.
const MOST_REASONS: usize = 1000;
/// Of a reason so many characters are shown.
const LONGEST_REASON: usize = 400;

/// What an output line needs of its input line.
pub(crate) struct Pending {
    id: Value,
    spans: Vec<(usize, usize)>,
    correct: Option<bool>,
}

impl From<&Entry> for Pending {
    fn from(entry: &Entry) -> Self {
        Self {
            id: entry.id.clone(),
            spans: entry.spans.clone(),
            correct: entry.correct,
        }
    }
}

/// What a line of an earlier run says.
pub(crate) struct Done {
    pub(crate) id: Value,
    grades: Vec<Option<u8>>,
}

/// Counts over all lines of the output, those of an earlier run included.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) lines: u64,
    pub(crate) verdicts: u64,
    pub(crate) missing: u64,
    /// Why grades are missing: the first reason in each form, and how many have it.
    reasons: HashMap<String, (String, u64)>,
    /// Whole solutions by truth and by the judge's word, where the truth is known.
    placed: [[u64; 2]; 2],
    unplaced: u64,
}

impl Tally {
    pub(crate) fn count(&mut self, grades: &[Option<u8>], correct: Option<bool>) {
        self.lines += 1;
        self.verdicts += grades.len() as u64;
        self.missing += grades.iter().filter(|grade| grade.is_none()).count() as u64;
        // The last prefix is the whole solution.
        if let Some(correct) = correct {
            match grades.last().copied().flatten() {
                Some(grade) => {
                    self.placed[usize::from(correct)][usize::from(grade >= CORRECT_FROM)] += 1;
                }
                None => self.unplaced += 1,
            }
        }
    }

    /// A grade is missing for this reason. Reasons that differ only in words with digits, such as the id of
    /// a request, are the same.
    fn missed(&mut self, reason: &str) {
        // Models may write what they like into a refusal, which goes to the terminal.
        let printable = reason.chars().filter(|c| !c.is_control());
        let reason: String = printable.take(LONGEST_REASON).collect();
        let words = reason.split(|c: char| !c.is_alphanumeric() && c != '_');
        let words = words.filter(|word| !word.contains(|c: char| c.is_ascii_digit()));
        let form = words.collect::<Vec<_>>().join(" ");
        if self.reasons.len() < MOST_REASONS || self.reasons.contains_key(&form) {
            let first = || (reason, 0);
            self.reasons.entry(form).or_insert_with(first).1 += 1;
        }
    }

    /// The commonest reason of grades that this run did not get; `None` where it got all.
    pub(crate) fn commonest_reason(&self) -> Option<String> {
        let (reason, count) = self.reasons.values().max_by_key(|(_, count)| *count)?;
        Some(format!("{count} without a grade because: {reason}"))
    }

    /// Share of verdicts without a grade.
    pub(crate) fn missing_rate(&self) -> f64 {
        if self.verdicts == 0 {
            0.0
        } else {
            self.missing as f64 / self.verdicts as f64
        }
    }

    /// How often the judge is wrong about whole solutions: the mean of both error rates.
    pub(crate) fn misplacement(&self) -> String {
        let [[wrong_low, wrong_high], [right_low, right_high]] = self.placed;
        let rate = |part: u64, other: u64| match part + other {
            0 => f64::NAN,
            all => 100.0 * part as f64 / all as f64,
        };
        let (positive, negative) = (rate(wrong_high, wrong_low), rate(right_low, right_high));
        format!(
            "misplacement rate {:.2}% (false positives {positive:.2}%, false negatives {negative:.2}%, {} graded, {} missing)",
            f64::midpoint(positive, negative),
            self.placed.iter().flatten().sum::<u64>(),
            self.unplaced,
        )
    }
}

/// The whole lines of an earlier run; the file stands, and ends, after them.
pub(crate) fn read_done(file: &mut File, path: &Path, view: View) -> Result<VecDeque<Done>, Error> {
    let failed = |error| Error::file(path, &error);
    let mut reader = BufReader::new(&*file);
    let (mut done, mut end, mut text) = (VecDeque::new(), 0, Vec::new());
    loop {
        text.clear();
        reader.read_until(b'\n', &mut text).map_err(failed)?;
        if text.last() != Some(&b'\n') {
            break;
        }
        let read = serde_json::from_slice(&text).ok();
        done.push_back(read.and_then(|line| read_line(&line, view)).ok_or_else(|| {
            Error::Usage(format!(
                "{}, line {}: not a line that this command wrote with --view {}; name another --out, or leave out --resume",
                path.display(),
                done.len() + 1,
                view.name()
            ))
        })?);
        end += text.len() as u64;
    }
    file.set_len(end).map_err(failed)?;
    std::io::Seek::seek(file, std::io::SeekFrom::Start(end)).map_err(failed)?;
    Ok(done)
}

fn read_line(line: &Value, view: View) -> Option<Done> {
    let grade = |part: &Value| -> Option<Option<u8>> {
        let grade = part.get("grade")?;
        grade
            .is_null()
            .then_some(None)
            .or_else(|| Some(u8::try_from(grade.as_u64()?).ok()))
    };
    let grades = match (view, line.get("segments")) {
        (View::Outcome, None) => vec![grade(line)?],
        (View::Prefix | View::Step, Some(Value::Array(segments))) => {
            segments.iter().map(grade).collect::<Option<_>>()?
        }
        _ => return None,
    };
    Some(Done {
        id: line.get("id")?.clone(),
        grades,
    })
}

impl Done {
    pub(crate) fn count(&self, tally: &mut Tally, entry: &Entry) {
        tally.count(&self.grades, entry.correct);
    }
}

/// Holds back what came too early; counts what is missing.
pub(crate) struct Writer {
    out: Box<dyn Write + Send>,
    view: View,
    with_reply: bool,
    early: BTreeMap<usize, Graded>,
    next: usize,
    /// After an interruption nothing is written behind the first gap.
    cancelled: bool,
}

impl Writer {
    pub(crate) fn new(out: Box<dyn Write + Send>, view: View, with_reply: bool) -> Self {
        Self {
            out,
            view,
            with_reply,
            early: BTreeMap::new(),
            next: 0,
            cancelled: false,
        }
    }

    /// Lines that are graded and not written, because an earlier one is not.
    pub(crate) fn held_back(&self) -> u64 {
        self.early.len() as u64
    }

    /// Takes what has finished and writes as far as there is no gap; `pending` begins with the next line's.
    pub(crate) fn take(
        &mut self,
        graded: Vec<Graded>,
        pending: &mut VecDeque<Pending>,
        tally: &mut Tally,
    ) -> std::io::Result<()> {
        self.early
            .extend(graded.into_iter().map(|graded| (graded.index, graded)));
        while let Some(graded) = self.early.remove(&self.next) {
            self.next += 1;
            let Some(of) = pending.pop_front() else {
                continue;
            };
            let is_cancelled = |verdict: &Verdict| verdict.status == Status::Cancelled;
            self.cancelled |= graded.verdicts.iter().any(is_cancelled);
            if self.cancelled {
                continue;
            }
            let given: Vec<Option<u8>> = graded.verdicts.iter().map(|v| v.grade).collect();
            tally.count(&given, of.correct);
            for verdict in graded
                .verdicts
                .iter()
                .filter(|verdict| verdict.grade.is_none())
            {
                let status = verdict.status.name();
                tally.missed(verdict.error.as_deref().unwrap_or(status));
            }
            let line = self.line(&graded, of);
            writeln!(self.out, "{line}")?;
        }
        self.out.flush()
    }

    fn line(&self, graded: &Graded, of: Pending) -> Value {
        let verdicts = &graded.verdicts;
        let mut line = Map::new();
        line.insert("id".into(), of.id);
        if let (View::Outcome, Some(verdict)) = (self.view, verdicts.first()) {
            line.extend(self.judgement(verdict));
        } else {
            let segments = verdicts
                .iter()
                .zip(of.spans)
                .map(|(verdict, (start, end))| {
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
