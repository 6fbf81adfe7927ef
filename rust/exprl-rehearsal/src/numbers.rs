//! Number tracks: a solution is judged by the values that it computes, against those of the reference.
//!
//! A computed value is a number right after `=`; GSM8K's `<<a*b=c>>` is covered by that. A beginning without
//! one does work if it names a value of the reference that the problem does not give. The final answer is
//! the number after `####`, in a box, after `A:` at the start of a line or after "answer is".
//! A rule, not a reader: words are not understood, and other routes to the answer are known only by
//! the values that they share with the reference. Measured in `tests/gsm8k.rs`.

use exprl_rubric::{ParsedRequest, View};

use crate::judgement::Judgement;

pub(crate) fn judge(request: &ParsedRequest<'_>, reference: &str) -> Judgement {
    let Some(answer) =
        stated_answer(reference).or_else(|| numbers(reference).last().map(|n| n.value))
    else {
        return Judgement::new(3, "The reference states no number to compare with.");
    };
    let mut values: Vec<f64> = computed(reference).collect();
    match request.view {
        View::Outcome => outcome(request.trace, &values, answer),
        View::Prefix | View::Step => {
            values.push(answer);
            on_track(request, &values, answer)
        }
    }
}

/// 5 if the final answer is the reference's, else 1..3 by the share of its other values that are there.
fn outcome(trace: &str, values: &[f64], answer: f64) -> Judgement {
    let given = stated_answer(trace).or_else(|| numbers(trace).last().map(|n| n.value));
    if given.is_some_and(|given| same(given, answer)) {
        return Judgement::new(5, format!("The final answer is {answer}, the reference's."));
    }
    let given = given.map_or("missing".to_owned(), |given| format!("{given}"));
    let mine: Vec<f64> = computed(trace).collect();
    let on_the_way: Vec<f64> = values
        .iter()
        .copied()
        .filter(|value| !same(*value, answer))
        .collect();
    let reached = on_the_way
        .iter()
        .filter(|value| holds(&mine, **value))
        .count();
    let grade = 1 + (2 * reached).checked_div(on_the_way.len()).unwrap_or(0) as u8;
    let of = on_the_way.len();
    Judgement::new(
        grade,
        format!(
            "The final answer is {given}, not {answer}; {reached} of {of} values on the way are there."
        ),
    )
}

/// Whether a prefix or a step is on the reference's track. One that does no work, because it restates
/// the problem, plans or promises, is neither on it nor off it: 3.
fn on_track(request: &ParsedRequest<'_>, values: &[f64], answer: f64) -> Judgement {
    let trace = request.trace;
    if let Some(given) = stated_answer(trace) {
        return if same(given, answer) {
            Judgement::new(5, format!("It states {given}, the reference's answer."))
        } else {
            Judgement::new(
                1,
                format!("It states {given}, and the reference's answer is {answer}."),
            )
        };
    }
    let given: Vec<f64> = numbers(request.problem).map(|n| n.value).collect();
    let mine: Vec<f64> = results(trace)
        .filter(|result| !(result.of_a_name && holds(&given, result.value)))
        .map(|result| result.value)
        .collect();
    let strange = mine.iter().filter(|value| !holds(values, **value)).count();
    match mine.last() {
        None => {
            let reached = numbers(trace)
                .map(|n| n.value)
                .find(|value| holds(values, *value) && !holds(&given, *value));
            match reached {
                Some(value) => Judgement::new(5, format!("It reaches the reference's {value}.")),
                None => Judgement::new(
                    3,
                    "It does no work yet: it holds no value that the problem does not give.",
                ),
            }
        }
        Some(_) if strange == 0 => {
            Judgement::new(5, "Every value computed is one of the reference's.")
        }
        Some(last) if holds(values, *last) => Judgement::new(
            4,
            format!(
                "It computes {strange} other values, but comes back to the reference's {last}."
            ),
        ),
        Some(last) => Judgement::new(
            2,
            format!("It computes {last}, which the reference does not."),
        ),
    }
}

/// A number of a text.
struct Number {
    value: f64,
    /// Byte where it starts, sign and currency included.
    start: usize,
}

/// A number right after `=`.
struct Computed {
    value: f64,
    /// A name stands before the `=`, as in `eggs = 16`, and no operation: that may only restate a given number.
    of_a_name: bool,
}

/// The numbers right after `=`, in order.
fn results(text: &str) -> impl Iterator<Item = Computed> + '_ {
    numbers(text).filter_map(|n| {
        let left = text[..n.start].trim_end().strip_suffix('=')?;
        Some(Computed {
            value: n.value,
            of_a_name: left.trim_end().ends_with(char::is_alphabetic),
        })
    })
}

/// Their values.
fn computed(text: &str) -> impl Iterator<Item = f64> + '_ {
    results(text).map(|result| result.value)
}

/// The number behind the last mark of a final answer.
fn stated_answer(text: &str) -> Option<f64> {
    let lower = text.to_ascii_lowercase();
    let marks = ["####", r"\boxed{", "answer is"]
        .into_iter()
        .filter_map(|mark| Some(lower.rfind(mark)? + mark.len()));
    let line = if lower.starts_with("a:") {
        Some(2)
    } else {
        None
    };
    let line = lower.rfind("\na:").map(|at| at + 3).or(line);
    let start = marks.chain(line).max()?;
    let number = numbers(&text[start..]).next()?;
    // A mark that is not followed by its number, such as a heading, states nothing.
    let between = &text[start..start + number.start];
    between
        .chars()
        .all(|c| !c.is_alphanumeric())
        .then_some(number.value)
}

fn holds(values: &[f64], value: f64) -> bool {
    values.iter().any(|other| same(*other, value))
}

/// Equal up to rounding in the ninth digit.
fn same(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * a.abs().max(b.abs()).max(1.0)
}

/// Every number of a text: `12`, `-3`, `$1,200.50`, `.5`. A minus is a sign unless it follows a digit, a
/// letter or a closing parenthesis. A comma belongs to a number if exactly three digits follow it.
fn numbers(text: &str) -> impl Iterator<Item = Number> + '_ {
    let bytes = text.as_bytes();
    let mut at = 0;
    std::iter::from_fn(move || {
        let digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
        while at < bytes.len() && !digit(at) {
            at += 1;
        }
        if at == bytes.len() {
            return None;
        }
        let first = at;
        let mut value = String::new();
        loop {
            while digit(at) {
                value.push(char::from(bytes[at]));
                at += 1;
            }
            let thousands =
                bytes.get(at) == Some(&b',') && (1..=3).all(|i| digit(at + i)) && !digit(at + 4);
            if !thousands {
                break;
            }
            at += 1;
        }
        if bytes.get(at) == Some(&b'.') && digit(at + 1) {
            value.push('.');
            at += 1;
            while digit(at) {
                value.push(char::from(bytes[at]));
                at += 1;
            }
        }
        let (start, negative, fraction) = lead(&text[..first]);
        let whole = if fraction {
            format!("0.{value}")
        } else {
            value
        };
        // Digits with at most one point always parse; a very long number becomes infinite.
        let value: f64 = whole.parse().ok()?;
        Some(Number {
            value: if negative { -value } else { value },
            start,
        })
    })
}

/// Where a number starts whose digits come after `before`; whether it is negative; whether a point leads it.
fn lead(before: &str) -> (usize, bool, bool) {
    let rest = before
        .strip_suffix('.')
        .filter(|rest| !rest.ends_with(|c: char| c.is_alphanumeric() || c == '.'));
    let (rest, fraction) = rest.map_or((before, false), |rest| (rest, true));
    let rest = rest
        .strip_suffix(r"\$")
        .or_else(|| rest.strip_suffix('$'))
        .unwrap_or(rest);
    match rest.strip_suffix(['-', '−']) {
        Some(rest)
            if !rest
                .trim_end()
                .ends_with(|c: char| c.is_alphanumeric() || c == ')') =>
        {
            (rest.len(), true, fraction)
        }
        _ => (rest.len(), false, fraction),
    }
}
