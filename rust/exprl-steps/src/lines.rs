//! The rules that look at lines: headings, paragraphs and lines, outside code fences.

use crate::display::Displays;
use crate::is_blank;

/// A line of a text and where it stands.
#[derive(Clone, Copy)]
pub(crate) struct Line<'a> {
    /// Byte of its first character.
    pub(crate) start: usize,
    /// With its line break.
    pub(crate) text: &'a [u8],
    pub(crate) place: Place,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Outside code fences.
    Prose,
    /// The first line of a code fence.
    FenceStart,
    /// Any other line of a fence, its last one too.
    Fenced,
}

/// 0 and every line that begins with three or more `#`, after at most three blanks.
pub(crate) fn headings(text: &[u8]) -> Vec<usize> {
    starts(lines_of(text).filter(|line| {
        let rest = unindented(line.text);
        line.place == Place::Prose && rest.is_some_and(|rest| rest.starts_with(b"###"))
    }))
}

/// 0 and the first line after every run of blank lines outside fences and displays.
pub(crate) fn paragraphs(text: &[u8]) -> Vec<usize> {
    let mut displays = Displays::of(lines_of(text));
    let mut after_blank = false;
    starts(lines_of(text).filter(|line| {
        let in_block = line.place == Place::Fenced || displays.holds(line.start);
        let blank = !in_block && is_blank(line.text);
        let first = after_blank && !blank;
        after_blank = blank;
        first
    }))
}

/// 0 and every line that is neither blank nor within a fence, and the first one of every fence.
pub(crate) fn lines(text: &[u8]) -> Vec<usize> {
    starts(lines_of(text).filter(|line| line.place != Place::Fenced && !is_blank(line.text)))
}

fn starts<'a>(lines: impl Iterator<Item = Line<'a>>) -> Vec<usize> {
    let mut starts = vec![0];
    starts.extend(lines.map(|line| line.start).filter(|&start| start > 0));
    starts
}

/// The lines of a text, with what Markdown's code fences make of them.
///
/// A fence opens with three or more backticks or tildes and closes with as many of its own sign, or
/// more, alone on their line. One that never closes runs to the end (`CommonMark` 0.31.2, 4.5).
pub(crate) fn lines_of(text: &[u8]) -> impl Iterator<Item = Line<'_>> {
    let mut open: Option<Fence> = None;
    let mut start = 0;
    text.split_inclusive(|&byte| byte == b'\n')
        .map(move |line| {
            let fence = Fence::of(line);
            let place = match (open, fence) {
                (Some(opened), Some(fence)) if fence.closes(opened) => {
                    open = None;
                    Place::Fenced
                }
                (Some(_), _) => Place::Fenced,
                (None, Some(fence)) if fence.may_open => {
                    open = Some(fence);
                    Place::FenceStart
                }
                (None, _) => Place::Prose,
            };
            let line = Line {
                start,
                text: line,
                place,
            };
            start += line.text.len();
            line
        })
}

/// The marks at the start of a line.
#[derive(Clone, Copy)]
struct Fence {
    sign: u8,
    length: usize,
    /// What follows the marks of backticks may hold no backtick: "```x``` is code" opens nothing.
    may_open: bool,
    /// Nothing but white space follows the marks.
    may_close: bool,
}

impl Fence {
    fn of(line: &[u8]) -> Option<Self> {
        let line = unindented(line)?;
        let sign = *line.first()?;
        let length = line.iter().take_while(|&&byte| byte == sign).count();
        let rest = &line[length..];
        (matches!(sign, b'`' | b'~') && length >= 3).then(|| Self {
            sign,
            length,
            may_open: sign == b'~' || !rest.contains(&b'`'),
            may_close: rest.trim_ascii().is_empty(),
        })
    }

    fn closes(self, opened: Self) -> bool {
        self.may_close && self.sign == opened.sign && self.length >= opened.length
    }
}

/// A line without the blanks in front; `None` where more than three make it something else.
fn unindented(line: &[u8]) -> Option<&[u8]> {
    let blanks = line.iter().take_while(|&&byte| byte == b' ').count();
    (blanks <= 3).then(|| &line[blanks..])
}
