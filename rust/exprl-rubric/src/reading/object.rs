//! The verdict in a JSON object, also in one that is not quite JSON: the judge writes LaTeX into it, or stops.

use super::Reading;
use super::label::{Label, strip_label};
use super::line::{Form, Verdict};
use super::value::{grade, grade_value};

/// What an object says of a verdict.
#[derive(Debug, Default)]
pub(super) struct Object<'a> {
    /// The values of its own fields `score`, and of those with another label; none of the objects in it.
    score: Vec<&'a str>,
    other: Vec<&'a str>,
    /// Its own fields.
    fields: usize,
    /// Fields with a label at any depth.
    labels: usize,
    /// A part between commas that is no field.
    broken: bool,
    /// Bytes up to its end; `None` if it does not end.
    pub(super) end: Option<usize>,
}

impl<'a> Object<'a> {
    /// Reads the object that `text` begins with. Signs in strings mean nothing, and an escape is any sign
    /// behind a backslash: `\frac` in a string takes nothing away from the fields beside it.
    pub(super) fn read(text: &'a str) -> Option<Self> {
        let mut object = Self::default();
        let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
        // Where the part since the last comma or bracket begins, and the field of the object itself.
        let (mut part, mut field) = (0, None);
        for (at, byte) in text.bytes().enumerate() {
            if in_string {
                in_string = escaped || byte != b'"';
                escaped = !escaped && byte == b'\\';
                continue;
            }
            match byte {
                b'"' => in_string = true,
                b'{' | b'[' => {
                    depth += 1;
                    part = at + 1;
                }
                b':' => {
                    let label = label_of(&text[part..at]);
                    object.labels += usize::from(label.is_some());
                    if depth == 1 && field.is_none() {
                        object.fields += 1;
                        field = Some((label, at + 1));
                    }
                    part = at + 1;
                }
                b',' | b'}' | b']' => {
                    if depth == 1 {
                        object.take(field.take(), &text[..at], part);
                    }
                    part = at + 1;
                    if byte != b',' {
                        depth = depth.checked_sub(1)?;
                        if depth == 0 {
                            object.end = Some(at + 1);
                            return Some(object);
                        }
                    }
                }
                _ => {}
            }
        }
        (depth > 0).then_some(object)
    }

    fn take(&mut self, field: Option<(Option<Label>, usize)>, before: &'a str, part: usize) {
        match field {
            Some((Some(Label::Asked), start)) => self.score.push(before[start..].trim()),
            Some((Some(Label::Other), start)) => self.other.push(before[start..].trim()),
            Some(_) => {}
            None => self.broken |= !before[part..].trim().is_empty(),
        }
    }

    /// Whether it has fields and nothing else, and speaks of a verdict.
    pub(super) fn is_whole(&self) -> bool {
        self.end.is_some() && self.fields > 0 && self.labels > 0 && !self.broken
    }

    /// What its score says; `None` if it speaks of none. An object that does not end says nothing that
    /// can be read.
    pub(super) fn verdict(&self) -> Option<Verdict<'a>> {
        if self.labels == 0 {
            return None;
        }
        let (form, values) = if self.score.is_empty() {
            (Form::Other, &self.other)
        } else {
            (Form::Asked, &self.score)
        };
        let value = match values[..] {
            [value] if self.end.is_some() => read_value(value),
            _ => None,
        };
        Some(match value {
            Some((reading, digit)) => Verdict::new(form, reading, Some(digit)),
            None => Verdict::new(form, Reading::Unreadable, None),
        })
    }
}

/// The label that a key is.
fn label_of(key: &str) -> Option<Label> {
    let key = key.trim().trim_matches(['"', '\'']);
    let (label, rest) = strip_label(key)?;
    (rest.is_empty() && label != Label::Loose).then_some(label)
}

fn read_value(value: &str) -> Option<(Reading, &str)> {
    let quoted = ['"', '\'']
        .iter()
        .find_map(|&quote| value.strip_prefix(quote)?.strip_suffix(quote));
    if let Some(text) = quoted {
        return grade_value(text.trim());
    }
    let is_number = value.starts_with(|c: char| c == '-' || c.is_ascii_digit());
    is_number.then(|| (grade(value), value))
}
