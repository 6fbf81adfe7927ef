//! Where a model thinks in its text: in a judge's reply, and in a rollout.

use memchr::memchr3;

/// The parts of a text outside thinking blocks, in order. Linear in the text's length.
///
/// A closing tag without an opening one means that the template opened the block: everything before it is
/// thinking. A block that never closes runs to the end.
///
/// ```
/// use exprl_rubric::outside_thinking;
/// assert_eq!(outside_thinking("so <think>42?</think>43"), ["so ", "43"]);
/// assert_eq!(outside_thinking("42?</think>43"), ["43"]);
/// assert_eq!(outside_thinking("<think>42?"), [""]);
/// ```
#[must_use]
pub fn outside_thinking(text: &str) -> Vec<&str> {
    part_thinking(text).0
}

/// The closing tag that a text still owes, if it ends within a thinking block.
#[must_use]
pub fn open_thinking(text: &str) -> Option<&'static str> {
    part_thinking(text).1
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
fn part_thinking(text: &str) -> (Vec<&str>, Option<&'static str>) {
    let (mut parts, mut start, mut open, mut at) = (Vec::new(), 0, None, 0);
    // The third byte begins ◁.
    while let Some(found) = memchr3(b'<', b'[', 0xE2, &text.as_bytes()[at..]) {
        let tag = at + found;
        at = tag + 1;
        let here = &text.as_bytes()[tag..];
        let is = |tag: &str| {
            here.get(..tag.len())
                .is_some_and(|bytes| bytes.eq_ignore_ascii_case(tag.as_bytes()))
        };
        let Some((opening, closing)) = THINKING.into_iter().find(|(a, b)| is(a) || is(b)) else {
            continue;
        };
        let closes = is(closing);
        match (closes, open) {
            (false, None) => parts.push(&text[start..tag]),
            (true, None) => parts.clear(),
            (_, Some(_)) => {}
        }
        open = (!closes).then_some(closing);
        at = tag + if closes { closing } else { opening }.len();
        start = at;
    }
    if open.is_none() {
        parts.push(&text[start..]);
    }
    (parts, open)
}
