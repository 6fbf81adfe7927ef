//! Display mathematics, within which a blank line ends no paragraph.

use std::iter::Peekable;
use std::ops::Range;
use std::vec::IntoIter;

use crate::lines::{Line, Place};

/// The spans from `$$` to the next `$$` and from `\[` to the next `\]`, outside code fences.
///
/// A mark without its counterpart opens nothing, as in the renderers of web pages: "$$5" is money.
pub(crate) struct Displays(Peekable<IntoIter<Range<usize>>>);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    Dollars,
    Open,
    Close,
}

impl Displays {
    pub(crate) fn of<'a>(lines: impl Iterator<Item = Line<'a>>) -> Self {
        let marks: Vec<(usize, Mark)> = lines
            .filter(|line| line.place == Place::Prose)
            .flat_map(|line| marks_of(line.text).map(move |(at, mark)| (line.start + at, mark)))
            .collect();
        let last = |wanted| {
            marks
                .iter()
                .rfind(|(_, mark)| *mark == wanted)
                .map(|&(at, _)| at)
        };
        let (last_dollars, last_close) = (last(Mark::Dollars), last(Mark::Close));

        let mut spans = Vec::new();
        let mut open: Option<(usize, Mark)> = None;
        for &(at, mark) in &marks {
            open = match open {
                Some((start, closing)) if mark == closing => {
                    spans.push(start..at);
                    None
                }
                Some(_) => open,
                None if mark == Mark::Dollars && last_dollars > Some(at) => {
                    Some((at, Mark::Dollars))
                }
                None if mark == Mark::Open && last_close > Some(at) => Some((at, Mark::Close)),
                None => None,
            };
        }
        Self(spans.into_iter().peekable())
    }

    /// Whether a byte lies within a display; asked of ascending bytes.
    pub(crate) fn holds(&mut self, byte: usize) -> bool {
        while self.0.next_if(|span| span.end < byte).is_some() {}
        self.0.peek().is_some_and(|span| span.contains(&byte))
    }
}

/// The marks of a line and their places; a backslash takes the next character with it, so that the
/// `\\[` of a matrix and the `\$$` of a price are none.
fn marks_of(line: &[u8]) -> impl Iterator<Item = (usize, Mark)> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        while at < line.len() {
            at += memchr::memchr2(b'\\', b'$', &line[at..])?;
            let mark = match line[at..] {
                [b'$', b'$', ..] => Some(Mark::Dollars),
                [b'\\', b'[', ..] => Some(Mark::Open),
                [b'\\', b']', ..] => Some(Mark::Close),
                _ => None,
            };
            let start = at;
            at += if line[at] == b'\\' || mark.is_some() {
                2
            } else {
                1
            };
            if let Some(mark) = mark {
                return Some((start, mark));
            }
        }
        None
    })
}
