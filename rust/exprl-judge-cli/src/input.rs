//! Input lines to items.

use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use exprl_judge::{Checklists, Item};
use serde_json::{Map, Value};

use crate::Error;
use crate::args::ReferenceArg;

/// Some editors begin a file with it.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// Starts and ends in characters.
pub(crate) type Spans = Vec<(usize, usize)>;

/// One input line, ready to be judged.
pub(crate) struct Entry {
    /// A string or an integer, as the line has it.
    pub(crate) id: Value,
    pub(crate) item: Item,
    /// Start and end of each segment in the trace, in characters.
    pub(crate) spans: Spans,
    /// The truth, where a label was asked for.
    pub(crate) correct: Option<bool>,
}

/// How lines are read.
#[derive(Clone)]
pub(crate) struct Reader {
    pub(crate) reference: ReferenceArg,
    /// How traces are cut; `None` where there are none.
    pub(crate) steps: Option<exprl_steps::Settings>,
    pub(crate) label: Option<String>,
    pub(crate) checklists: Option<Arc<Checklists>>,
}

/// A file or standard input.
pub(crate) struct Source {
    name: String,
    file: File,
    /// Where reading began; `None` if the input cannot be read twice.
    start: Option<u64>,
}

impl Source {
    pub(crate) fn open(path: Option<&Path>) -> Result<Self, Error> {
        let (name, file) = if let Some(path) = path {
            let file = File::open(path).map_err(|error| Error::file(path, &error))?;
            (path.display().to_string(), file)
        } else {
            let stdin = std::io::stdin().as_fd().try_clone_to_owned()?;
            ("standard input".to_owned(), stdin.into())
        };
        let mut source = Self {
            name,
            file,
            start: None,
        };
        if source.file.metadata()?.is_file() {
            source.start = source.file.stream_position().ok();
        }
        Ok(source)
    }

    /// Whether it is the file that the path names, by whatever name.
    pub(crate) fn is_at(&self, path: &Path) -> bool {
        match (self.file.metadata(), std::fs::metadata(path)) {
            (Ok(here), Ok(there)) => {
                there.is_file() && (here.dev(), here.ino()) == (there.dev(), there.ino())
            }
            _ => false,
        }
    }

    /// Checks every line and counts them, if the input can be read twice; stands at its start again.
    pub(crate) fn check(&mut self, reader: &Reader) -> Result<Option<u64>, Error> {
        let Some(start) = self.start else {
            return Ok(None);
        };
        let mut count = 0;
        for entry in Entries::new(self.file.try_clone()?, &self.name, reader) {
            entry?;
            count += 1;
        }
        self.file.seek(SeekFrom::Start(start))?;
        Ok(Some(count))
    }

    /// The entries, a line at a time.
    pub(crate) fn entries(self, reader: &Reader) -> Entries {
        Entries::new(self.file, &self.name, reader)
    }
}

/// Reads JSONL; empty lines are skipped.
pub(crate) struct Entries {
    input: BufReader<File>,
    name: String,
    reader: Reader,
    line: usize,
}

impl Entries {
    fn new(file: File, name: &str, reader: &Reader) -> Self {
        Self {
            input: BufReader::with_capacity(1 << 16, file),
            name: name.into(),
            reader: reader.clone(),
            line: 0,
        }
    }
}

impl Iterator for Entries {
    type Item = Result<Entry, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut bytes = Vec::new();
        loop {
            bytes.clear();
            match self.input.read_until(b'\n', &mut bytes) {
                Ok(0) => return None,
                Ok(_) => {}
                Err(error) => return Some(Err(Error::file(Path::new(&self.name), &error))),
            }
            self.line += 1;
            if self.line == 1 && bytes.starts_with(BYTE_ORDER_MARK) {
                bytes.drain(..BYTE_ORDER_MARK.len());
            }
            if !bytes.trim_ascii().is_empty() {
                break;
            }
        }
        Some(self.reader.entry(&bytes).map_err(|reason| Error::Input {
            name: self.name.clone(),
            line: self.line,
            reason,
        }))
    }
}

impl Reader {
    fn entry(&self, line: &[u8]) -> Result<Entry, String> {
        let line = std::str::from_utf8(line).map_err(|error| format!("not UTF-8: {error}"))?;
        let value: Value = serde_json::from_str(line).map_err(|error| {
            let text = error.to_string();
            format!(
                "not JSON: {}",
                text.replace(" at line 1 column", ", at column")
            )
        })?;
        let Value::Object(mut fields) = value else {
            return Err("not a JSON object".into());
        };
        let id = match fields.remove("id") {
            Some(id @ Value::String(_)) => id,
            // A fraction, or an integer of more than 64 bits, would not come back as it was.
            Some(Value::Number(id)) if !id.is_f64() => Value::Number(id),
            None if self.steps.is_none() => Value::String(String::new()),
            other => return Err(wrong("id", other.as_ref(), "a string or an integer")),
        };
        let problem = text(&mut fields, "problem")?;
        let reference: Option<Arc<str>> = match fields.remove("reference") {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) if text.trim().is_empty() => None,
            Some(Value::String(text)) => Some(text.into()),
            other => return Err(wrong("reference", other.as_ref(), "a string or null")),
        };
        if reference.is_none() && self.reference != ReferenceArg::None {
            return Err(
                "field `reference` is missing or empty; give one, or ask with --reference none"
                    .into(),
            );
        }
        let domain = match fields.remove("domain") {
            None | Some(Value::Null) => "math".into(),
            Some(Value::String(domain)) => domain,
            other => return Err(wrong("domain", other.as_ref(), "a string")),
        };
        let correct = match &self.label {
            None => None,
            Some(label) => match fields.get(label) {
                Some(Value::Bool(correct)) => Some(*correct),
                other => return Err(wrong(label, other, "true or false")),
            },
        };
        let checklist = match (&self.checklists, &reference) {
            (Some(checklists), Some(reference)) if self.reference != ReferenceArg::None => {
                let found = checklists.find(&problem, reference).ok_or(
                    "field `problem`: the file of --rubrics has no checklist for this problem and \
                     reference; write the missing ones with `rubric`",
                )?;
                Some(Arc::new(found.clone()))
            }
            _ => None,
        };
        let (segments, spans) = match &self.steps {
            Some(steps) => cut(&text(&mut fields, "trace")?, steps),
            None => (vec!["".into()], vec![(0, 0)]),
        };
        let item = Item {
            id: id.as_str().map_or_else(|| id.to_string(), str::to_owned),
            problem: problem.into(),
            reference: reference.filter(|_| self.reference != ReferenceArg::None),
            segments,
            domain,
            checklist,
        };
        Ok(Entry {
            id,
            item,
            spans,
            correct,
        })
    }
}

/// The segments of a trace, and their places in characters; an empty trace has one, which is empty.
fn cut(trace: &str, steps: &exprl_steps::Settings) -> (Vec<Arc<str>>, Spans) {
    let ranges = exprl_steps::split_text(trace, steps);
    let mut segments: Vec<Arc<str>> = ranges
        .into_iter()
        .map(|range| trace[range].into())
        .collect();
    if segments.is_empty() {
        segments.push("".into());
    }
    let mut end = 0;
    let spans = segments.iter().map(|text| {
        let start = end;
        end += text.chars().count();
        (start, end)
    });
    let spans = spans.collect();
    (segments, spans)
}

fn text(fields: &mut Map<String, Value>, name: &str) -> Result<String, String> {
    match fields.remove(name) {
        Some(Value::String(text)) => Ok(text),
        other => Err(wrong(name, other.as_ref(), "a string")),
    }
}

fn wrong(name: &str, found: Option<&Value>, wanted: &str) -> String {
    match found {
        None => format!("field `{name}` is missing; give {wanted}"),
        Some(value) => {
            let mut shown = value.to_string();
            if shown.len() > 60 {
                shown.truncate(shown.floor_char_boundary(60));
                shown.push_str("...");
            }
            format!("field `{name}` is {shown}; give {wanted}")
        }
    }
}

/// Gives every line the reference, and the checklist, of the next line that has another problem.
pub(crate) fn exchange_references(entries: &mut [Entry]) -> Result<(), Error> {
    let count = entries.len();
    // The nearest line after each, around the end, with another problem and reference: from the back,
    // in two rounds, so that a million lines of one problem cost no more than others.
    let mut following = vec![0; count];
    for index in (0..2 * count).rev() {
        let (here, next) = (index % count, (index + 1) % count);
        following[here] = if differs(entries, here, next) {
            next
        } else {
            following[next]
        };
    }
    if (0..count).any(|here| !differs(entries, here, following[here])) {
        return Err(Error::Usage(
            "--reference wrong needs lines of at least two problems".into(),
        ));
    }
    let others: Vec<_> = following
        .iter()
        .map(|&other| {
            let item = &entries[other].item;
            (item.reference.clone(), item.checklist.clone())
        })
        .collect();
    for (entry, (reference, checklist)) in entries.iter_mut().zip(others) {
        entry.item.reference = reference;
        entry.item.checklist = checklist;
    }
    Ok(())
}

fn differs(entries: &[Entry], a: usize, b: usize) -> bool {
    let (a, b) = (&entries[a].item, &entries[b].item);
    a.problem != b.problem && a.reference != b.reference
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn reader(reference: ReferenceArg) -> Reader {
        Reader {
            reference,
            steps: Some(exprl_steps::Settings::new(
                exprl_steps::Rule::new("delimiter", "###").unwrap(),
            )),
            label: None,
            checklists: None,
        }
    }

    fn read(text: &str, reference: ReferenceArg) -> Result<Vec<Entry>, Error> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("in.jsonl");
        std::fs::write(&path, text).unwrap();
        let mut source = Source::open(Some(&path)).unwrap();
        let reader = reader(reference);
        let count = source.check(&reader)?;
        let entries: Vec<Entry> = source.entries(&reader).collect::<Result<_, _>>()?;
        assert_eq!(count, Some(entries.len() as u64));
        Ok(entries)
    }

    const TWO: &str = r#"{"id": 1, "problem": "p", "reference": "r", "trace": "é###b"}

{"id": "b", "problem": "q", "reference": "s", "trace": "", "domain": "code"}
"#;

    #[test]
    fn lines_become_items_with_spans_in_characters() {
        let entries = read(TWO, ReferenceArg::Right).unwrap();
        let first = &entries[0];
        assert_eq!(
            (
                &first.id,
                first.item.id.as_str(),
                first.item.domain.as_str()
            ),
            (&json!(1), "1", "math")
        );
        assert_eq!(first.item.segments.concat(), "é###b");
        assert_eq!(first.spans, [(0, 1), (1, 5)]);
        assert_eq!(
            (entries[1].spans.as_slice(), entries[1].item.segments.len()),
            ([(0, 0)].as_slice(), 1)
        );
    }

    #[test]
    fn a_bad_line_is_named_with_its_field_and_what_to_give() {
        for (bad, named) in [
            ("{", "not JSON"),
            ("3", "not a JSON object"),
            (
                r#"{"id": "x", "problem": "p", "reference": "r"}"#,
                "field `trace` is missing; give a string",
            ),
            (
                r#"{"id": "x", "problem": "p", "trace": "t"}"#,
                "field `reference` is missing or empty",
            ),
            (
                r#"{"id": [], "problem": "p", "reference": "r", "trace": "t"}"#,
                "field `id` is []; give a string or an integer",
            ),
            (
                r#"{"id": 123456789012345678901, "problem": "p", "reference": "r", "trace": "t"}"#,
                "give a string or an integer",
            ),
            (
                r#"{"id": "x", "problem": 3, "reference": "r", "trace": "t"}"#,
                "field `problem` is 3; give a string",
            ),
        ] {
            let text = format!("{}\n\n{bad}\n", TWO.lines().next().unwrap());
            let error = read(&text, ReferenceArg::Right).err().unwrap().to_string();
            assert!(
                error.contains("in.jsonl, line 3: ") && error.contains(named),
                "{error}"
            );
        }
    }

    #[test]
    fn a_byte_order_mark_at_the_start_is_no_part_of_the_first_line() {
        let marked = format!("\u{feff}{TWO}");
        assert_eq!(read(&marked, ReferenceArg::Right).unwrap().len(), 2);
        let within = format!("{TWO}\u{feff}{TWO}");
        assert!(read(&within, ReferenceArg::Right).is_err());
    }

    #[test]
    fn a_wrong_reference_is_that_of_the_next_line_with_another_problem() {
        let exchanged = |problems: &str| {
            let mut lines = String::new();
            for p in problems.chars() {
                let line =
                    json!({"id": 1, "problem": p, "reference": format!("r{p}"), "trace": ""});
                lines.push_str(&line.to_string());
                lines.push('\n');
            }
            let mut entries = read(&lines, ReferenceArg::Wrong).unwrap();
            exchange_references(&mut entries)?;
            Ok::<Vec<_>, Error>(
                entries
                    .iter()
                    .map(|entry| {
                        entry.item.reference.as_deref().unwrap_or_default()[1..].to_owned()
                    })
                    .collect(),
            )
        };
        assert_eq!(exchanged("aabca").unwrap().concat(), "bbcab");
        assert!(exchanged("aaa").is_err() && exchanged("a").is_err());
        assert!(exchanged("").unwrap().is_empty());
    }
}
