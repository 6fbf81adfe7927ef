//! Input lines to items. All lines are read and checked before the first request is sent.

use std::io::BufRead;
use std::sync::Arc;

use exprl_judge::Item;
use serde::Deserialize;

use crate::{Error, ReferenceArg};

#[derive(Deserialize)]
struct Line {
    #[serde(deserialize_with = "name")]
    id: String,
    problem: Arc<str>,
    #[serde(default)]
    reference: Option<Arc<str>>,
    trace: String,
    #[serde(default = "math")]
    domain: String,
}

/// One input line, ready to be judged.
pub(crate) struct Entry {
    pub(crate) item: Item,
    /// Start and end of each segment in the trace, in characters.
    pub(crate) spans: Vec<(usize, usize)>,
}

/// Reads JSONL; empty lines are skipped.
pub(crate) fn read(
    input: impl BufRead,
    reference: ReferenceArg,
    delimiter: &str,
) -> Result<Vec<Entry>, Error> {
    let mut entries = Vec::new();
    for (index, text) in input.lines().enumerate() {
        let wrong = |reason: String| Error::Input {
            line: index + 1,
            reason,
        };
        let text = text.map_err(|error| wrong(error.to_string()))?;
        if text.trim().is_empty() {
            continue;
        }
        let line: Line = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        let reference_missing = line
            .reference
            .as_ref()
            .is_none_or(|text| text.trim().is_empty());
        if reference != ReferenceArg::None && reference_missing {
            let reason =
                "field `reference` is missing or empty; give one, or ask with --reference none";
            return Err(wrong(reason.into()));
        }
        entries.push(entry(line, delimiter).map_err(wrong)?);
    }
    match reference {
        ReferenceArg::Right => {}
        ReferenceArg::None => entries
            .iter_mut()
            .for_each(|entry| entry.item.reference = None),
        ReferenceArg::Wrong => exchange_references(&mut entries)?,
    }
    Ok(entries)
}

fn entry(line: Line, delimiter: &str) -> Result<Entry, String> {
    let ranges =
        exprl_steps::split_text(&line.trace, delimiter).map_err(|error| error.to_string())?;
    let mut segments: Vec<Arc<str>> = ranges
        .into_iter()
        .map(|range| line.trace[range].into())
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
    let Line {
        id,
        problem,
        reference,
        domain,
        ..
    } = line;
    Ok(Entry {
        item: Item {
            id,
            problem,
            reference,
            segments,
            domain,
            checklist: None,
        },
        spans,
    })
}

/// Gives every line the reference of the next line that has another problem.
fn exchange_references(entries: &mut [Entry]) -> Result<(), Error> {
    let count = entries.len();
    let mut others = Vec::with_capacity(count);
    for (index, entry) in entries.iter().enumerate() {
        let other = (1..count)
            .map(|step| &entries[(index + step) % count].item)
            .find(|other| {
                other.problem != entry.item.problem && other.reference != entry.item.reference
            });
        let other = other.ok_or_else(|| {
            Error::Usage("--reference wrong needs lines of at least two problems".into())
        })?;
        others.push(other.reference.clone());
    }
    for (entry, other) in entries.iter_mut().zip(others) {
        entry.item.reference = other;
    }
    Ok(())
}

fn math() -> String {
    "math".into()
}

/// An id is a string or a number.
fn name<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    match serde_json::Value::deserialize(deserializer)? {
        serde_json::Value::String(text) => Ok(text),
        serde_json::Value::Number(number) => Ok(number.to_string()),
        other => Err(serde::de::Error::custom(format!(
            "field `id` is {other}; give a string or a number"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str, reference: ReferenceArg) -> Result<Vec<Entry>, Error> {
        read(text.as_bytes(), reference, "###")
    }

    const TWO: &str = r#"{"id": 1, "problem": "p", "reference": "r", "trace": "é###b"}

{"id": "b", "problem": "q", "reference": "s", "trace": "", "domain": "code"}
"#;

    #[test]
    fn lines_become_items_with_spans_in_characters() {
        let entries = read_text(TWO, ReferenceArg::Right).unwrap();
        let first = &entries[0];
        assert_eq!(
            (first.item.id.as_str(), first.item.domain.as_str()),
            ("1", "math")
        );
        assert_eq!(first.item.segments.concat(), "é###b");
        assert_eq!(first.spans, [(0, 1), (1, 5)]);
        assert_eq!(
            (entries[1].spans.as_slice(), entries[1].item.segments.len()),
            ([(0, 0)].as_slice(), 1)
        );
    }

    #[test]
    fn references_are_right_none_or_another_problems() {
        let references = |reference| {
            let entries = read_text(TWO, reference).unwrap();
            entries
                .into_iter()
                .map(|entry| entry.item.reference.map(|text| text.to_string()))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            references(ReferenceArg::Right),
            [Some("r".into()), Some("s".into())]
        );
        assert_eq!(references(ReferenceArg::None), [None, None]);
        assert_eq!(
            references(ReferenceArg::Wrong),
            [Some("s".into()), Some("r".into())]
        );
    }

    #[test]
    fn a_bad_line_is_named() {
        for (bad, named) in [
            ("{", "line 2"),
            (r#"{"id": "x", "problem": "p", "reference": "r"}"#, "trace"),
            (r#"{"id": "x", "problem": "p", "trace": "t"}"#, "reference"),
            (
                r#"{"id": [], "problem": "p", "reference": "r", "trace": "t"}"#,
                "id",
            ),
            (
                r#"{"id": "x", "problem": 3, "reference": "r", "trace": "t"}"#,
                "line 2",
            ),
        ] {
            let text = format!("{}\n{bad}\n", TWO.lines().next().unwrap());
            let error = read_text(&text, ReferenceArg::Right)
                .err()
                .unwrap()
                .to_string();
            assert!(error.contains("line 2") && error.contains(named), "{error}");
        }
    }

    #[test]
    fn a_wrong_reference_needs_a_second_problem() {
        let one = TWO.lines().next().unwrap();
        assert!(matches!(
            read_text(one, ReferenceArg::Wrong),
            Err(Error::Usage(_))
        ));
    }
}
