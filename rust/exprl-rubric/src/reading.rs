//! The grade in a judge's reply.

mod join;
mod label;
mod line;
mod marks;
mod object;
mod remark;
mod value;
mod visible;

use line::{Form, Verdict, read_line, read_value};
use marks::strip_word;
use memchr::memchr2;
use object::Object;
use visible::{place_in, visible};

use crate::thinking::outside_thinking;

/// An object over several lines that does not end is looked for so often, and then no more: each time costs
/// the rest of the reply.
const MOST_OPEN_OBJECTS: usize = 8;

/// What a reply says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reading {
    /// The grade, 1..=5.
    Grade(u8),
    /// Two different grades.
    Conflict,
    /// The last verdict is a number that is not one of 1, 2, 3, 4, 5.
    OutOfRange,
    /// The last verdict holds no number that can be read, such as `Score: N/A`.
    Unreadable,
    /// There is no verdict.
    Absent,
}

/// Reads the grade of a judge's reply. Linear in the reply's length.
///
/// The *last verdict* decides: if it gives no grade, there is none, whatever an earlier one says. A verdict
/// is a line or a JSON object outside any thinking block and any `>` quotation:
///
/// - `Score: 4`, the form that rubrics ask for, with `Final` or `Overall` before it, in any case, as a list
///   item, heading or table row, boxed or with Markdown emphasis; the field `score` of an object;
/// - other words for it: `My final grade is 4`, `Rating = 4`, `得分：4`, `<score>4</score>`, `Score:` and the
///   digit on the next line;
/// - beside an earlier verdict only: a line that is nothing but a boxed or bold digit, `I raise it to 5`, and a
///   sentence `Score: 4` or an object with a score behind the beginning of a line.
///
/// The value is one ASCII digit 1..5, alone or as `n/5`, `n out of 5`, `[n]` or `\boxed{n}`. A remark in
/// parentheses or after a dash may follow if it holds no digit. Anything else is never repaired.
/// Invisible characters are left out before. Two different grades are none; but after a draft in other
/// words, the form that rubrics ask for counts. What a sentence says of scores is no verdict, and neither
/// is `Score justification: ...`.
#[must_use]
pub fn read_grade(reply: &str) -> Reading {
    let seen = visible(reply);
    let mut reader = Reader::default();
    reader.read(&seen);
    reader.reading()
}

/// Where in the reply the digit of its grade stands, in bytes: the last one of equal grades.
/// `None` without a grade.
#[must_use]
pub fn grade_place(reply: &str) -> Option<usize> {
    let seen = visible(reply);
    let mut reader = Reader::default();
    reader.read(&seen);
    let digit = matches!(reader.reading(), Reading::Grade(_)).then_some(reader.digit)??;
    // A part of what is seen: both addresses are in one text.
    place_in(
        reply,
        &seen,
        digit.as_ptr() as usize - seen.as_ptr() as usize,
    )
}

/// Whether the reply so far ends with a verdict in the form that rubrics ask for, and no other grade was given
/// before: a stream need not be waited for any longer.
#[must_use]
pub fn is_complete(reply: &str) -> bool {
    let seen = visible(reply);
    let mut reader = Reader::default();
    reader.read(&seen);
    reader.asked == Some(reader.reading())
}

/// What the verdicts so far say.
struct Reader<'a> {
    last: Reading,
    /// From its digit on.
    digit: Option<&'a str>,
    /// The grade that was given in the form that rubrics ask for.
    asked: Option<Reading>,
    /// Two grades were.
    conflict: bool,
    /// A label waits for its value on the next line.
    open: bool,
    open_objects: usize,
}

impl Default for Reader<'_> {
    fn default() -> Self {
        Self {
            last: Reading::Absent,
            digit: None,
            asked: None,
            conflict: false,
            open: false,
            open_objects: 0,
        }
    }
}

impl<'a> Reader<'a> {
    fn read(&mut self, reply: &'a str) {
        for mut rest in outside_thinking(reply) {
            while !rest.is_empty() {
                rest = self.read_next(rest);
            }
            self.open = false;
        }
    }

    /// Reads a line, or an object over several lines; gives what follows.
    fn read_next(&mut self, text: &'a str) -> &'a str {
        let end = memchr2(b'\n', b'\r', text.as_bytes()).unwrap_or(text.len());
        let line = text[..end].trim();
        let after = text.get(end + 1..).unwrap_or_default();
        if line.is_empty() {
            return after;
        }
        if let Some(start) = object_start(line) {
            let start = line.as_ptr() as usize - text.as_ptr() as usize + line.len() - start.len();
            return self.read_object(&text[start..], end - start);
        }
        let value = std::mem::take(&mut self.open)
            .then(|| read_value(line))
            .flatten();
        if let Some(verdict) = value.or_else(|| read_line(line)) {
            self.take(verdict);
        }
        after
    }

    /// `text` begins with the object, and so many bytes of it are on its first line.
    fn read_object(&mut self, text: &'a str, on_line: usize) -> &'a str {
        let line = &text[..on_line];
        self.open = false;
        let mut object = Object::read(line);
        let mut end = on_line;
        let ends = object.as_ref().is_some_and(|object| object.end.is_some());
        if !ends && self.open_objects < MOST_OPEN_OBJECTS {
            let longer = Object::read(text).filter(Object::is_whole);
            match longer.as_ref().and_then(|object| object.end) {
                Some(at) => {
                    end = at
                        + memchr2(b'\n', b'\r', &text.as_bytes()[at..]).unwrap_or(text.len() - at);
                    object = longer;
                }
                None => self.open_objects += 1,
            }
        }
        if let Some(mut verdict) = object.as_ref().and_then(Object::verdict) {
            let at = object.and_then(|object| object.end).unwrap_or(end);
            if !text[at..end]
                .trim_matches([',', '`', ';', ' ', '\t', '.'])
                .is_empty()
            {
                verdict = Verdict::new(verdict.form, Reading::Unreadable, None);
            }
            self.take(verdict);
        }
        text.get(end + 1..).unwrap_or_default()
    }

    fn take(&mut self, verdict: Verdict<'a>) {
        let Verdict {
            form,
            reading,
            digit,
            open,
        } = verdict;
        let is_grade = matches!(reading, Reading::Grade(_));
        let differs = |earlier| {
            matches!(earlier, Reading::Grade(_) | Reading::Conflict) && earlier != reading
        };
        self.open |= open;
        match form {
            Form::Asked if is_grade => {
                self.conflict |= self.asked.replace(reading).is_some_and(differs);
                self.last = reading;
            }
            Form::Other if is_grade && (differs(self.last) || self.asked.is_some_and(differs)) => {
                self.last = Reading::Conflict;
            }
            Form::Remark if differs(self.last) => self.last = Reading::Conflict,
            Form::Remark => return,
            Form::Asked | Form::Other => self.last = reading,
        }
        self.digit = digit;
    }

    fn reading(&self) -> Reading {
        if self.conflict {
            Reading::Conflict
        } else {
            self.last
        }
    }
}

/// The line from the object on that it begins with, also in a fence of its own.
fn object_start(line: &str) -> Option<&str> {
    let line = line.trim_start_matches('`');
    let line = strip_word(line, "json").unwrap_or(line);
    let list = line.strip_prefix('[').map(str::trim_start);
    let object = |text: &str| text.starts_with('{');
    (object(line) || list.is_some_and(object)).then_some(line)
}
