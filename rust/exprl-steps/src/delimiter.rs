//! Steps that start at a literal text, anywhere in a line.

use memchr::memmem::Finder;

use crate::Error;

#[derive(Clone, Debug)]
pub(crate) struct Delimiter {
    finder: Finder<'static>,
    /// The repeated character's bytes, if the delimiter is nothing but one character repeated.
    run_of: Option<Vec<u8>>,
}

impl Delimiter {
    pub(crate) fn new(delimiter: &str) -> Result<Self, Error> {
        let first = delimiter.chars().next().ok_or(Error::EmptyDelimiter)?;
        let run_of = delimiter
            .chars()
            .all(|character| character == first)
            .then(|| first.to_string().into_bytes());
        Ok(Self {
            finder: Finder::new(delimiter).into_owned(),
            run_of,
        })
    }

    /// 0 and the start of every match.
    pub(crate) fn step_starts(&self, text: &[u8]) -> Vec<usize> {
        let mut starts = vec![0];
        let mut at = 0;
        while let Some(found) = self.finder.find(&text[at..]) {
            let start = at + found;
            at = self.end_of_match(text, start);
            if start > 0 {
                starts.push(start);
            }
        }
        starts
    }

    fn end_of_match(&self, text: &[u8], start: usize) -> usize {
        let mut end = start + self.finder.needle().len();
        if let Some(unit) = &self.run_of {
            while text[end..].starts_with(unit) {
                end += unit.len();
            }
        }
        end
    }
}
