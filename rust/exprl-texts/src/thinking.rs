//! Where a model thinks in its text: in a judge's reply, and in a rollout.

use std::ops::{Deref, Range};

use memchr::memchr3;

/// The parts of a text outside thinking blocks, in order. Linear in the text's length.
///
/// A closing tag without an opening one means that the template opened the block: everything before it is
/// thinking. A block that never closes runs to the end.
///
/// ```
/// use exprl_texts::outside_thinking;
/// assert_eq!(outside_thinking("so <think>42?</think>43"), ["so ", "43"]);
/// assert_eq!(outside_thinking("42?</think>43"), ["43"]);
/// assert_eq!(outside_thinking("<think>42?"), [""]);
/// ```
#[must_use]
pub fn outside_thinking(text: &str) -> Vec<&str> {
    let parts = part_thinking(text.as_bytes(), false).0;
    parts.into_iter().map(|range| &text[range]).collect()
}

/// The closing tag that a text still owes, if it ends within a thinking block.
#[must_use]
pub fn open_thinking(text: &str) -> Option<&'static str> {
    part_thinking(text.as_bytes(), false).1
}

/// The text with blanks in the place of its thinking, tags included; `None` if there is none. Every other
/// byte stays where it is.
///
/// `opened`: the text begins inside a block that its prompt opened.
#[must_use]
pub fn blank_thinking(text: &[u8], opened: bool) -> Option<Vec<u8>> {
    let parts = part_thinking(text, opened).0;
    if covers(&parts, text.len()) {
        return None;
    }
    let mut blanked = vec![b' '; text.len()];
    for part in parts {
        blanked[part.clone()].copy_from_slice(&text[part]);
    }
    Some(blanked)
}

/// The pieces of a text, each without its thinking; `None` if there is none. A block may begin in one piece
/// and end in a later one.
///
/// ```
/// use exprl_texts::drop_thinking;
/// let pieces = ["<think>1 or 2?\n", "2</think>It is 2.\n", "So 2."];
/// assert_eq!(drop_thinking(&pieces).unwrap(), ["", "It is 2.\n", "So 2."]);
/// assert_eq!(drop_thinking(&["So 2."]), None);
/// ```
#[must_use]
pub fn drop_thinking(pieces: &[impl Deref<Target = str>]) -> Option<Vec<String>> {
    let whole: String = pieces.iter().map(|piece| &**piece).collect();
    let parts = part_thinking(whole.as_bytes(), false).0;
    if covers(&parts, whole.len()) {
        return None;
    }
    let mut end = 0;
    let shown = pieces.iter().map(|piece| {
        let start = end;
        end += piece.len();
        let inside = parts
            .iter()
            .map(|part| part.start.max(start)..part.end.min(end));
        inside
            .filter(|range| range.start < range.end)
            .map(|range| &whole[range])
            .collect()
    });
    Some(shown.collect())
}

/// Whether parts of a text are all of it: every tag is outside of them.
fn covers(parts: &[Range<usize>], length: usize) -> bool {
    parts.iter().map(ExactSizeIterator::len).sum::<usize>() == length
}

/// Opening and closing tags of thinking blocks, as models are known to write them.
const THINKING: [(&str, &str); 10] = [
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel|>analysis", "<|channel|>final<|message|>"),
];

/// The parts outside thinking blocks, and the closing tag of a block that is open at the end.
fn part_thinking(text: &[u8], opened: bool) -> (Vec<Range<usize>>, Option<&'static str>) {
    let (mut parts, mut start, mut at) = (Vec::new(), 0, 0);
    let mut open = opened.then_some(THINKING[0].1);
    // The third byte begins ◁.
    while let Some(found) = memchr3(b'<', b'[', 0xE2, &text[at..]) {
        let tag = at + found;
        at = tag + 1;
        let here = &text[tag..];
        let is = |tag: &str| {
            here.get(..tag.len())
                .is_some_and(|bytes| bytes.eq_ignore_ascii_case(tag.as_bytes()))
        };
        let Some((opening, closing)) = THINKING.into_iter().find(|(a, b)| is(a) || is(b)) else {
            continue;
        };
        let closes = is(closing);
        match (closes, open) {
            (false, None) => parts.push(start..tag),
            (true, None) => parts.clear(),
            (_, Some(_)) => {}
        }
        open = (!closes).then_some(closing);
        at = tag + if closes { closing } else { opening }.len();
        start = at;
    }
    if open.is_none() {
        parts.push(start..text.len());
    }
    (parts, open)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_stand_for_thinking_and_the_rest_stays_in_its_place() {
        for (text, blanked) in [
            ("a<think>b</think>c", "a                c"),
            ("b</think>c", "         c"),
            ("a\n<THINK>\n", "a\n        "),
            ("◁think▷é◁/think▷c", "                         c"),
        ] {
            let found = blank_thinking(text.as_bytes(), false).unwrap();
            assert_eq!(String::from_utf8(found).unwrap(), blanked);
        }
        assert_eq!(blank_thinking(b"a < b [THIN]", false), None);
        assert_eq!(blank_thinking(b"a", true).unwrap(), b" ");
        assert_eq!(
            blank_thinking(b"a</thought>b", true).unwrap(),
            b"           b"
        );
    }

    #[test]
    fn a_block_may_span_pieces() {
        let pieces = [
            "x <think>a",
            "b",
            "c</think> y",
            "<thought>d</thought>",
            "z",
        ];
        assert_eq!(drop_thinking(&pieces).unwrap(), ["x ", "", " y", "", "z"]);
        // A closing tag without an opening one: all before it is thinking.
        assert_eq!(drop_thinking(&["a", "b</think>c"]).unwrap(), ["", "c"]);
        // A tag that is cut is one all the same.
        assert_eq!(drop_thinking(&["x<thi", "nk>a"]).unwrap(), ["x", ""]);
    }
}
