//! Long division by one digit: `5)106973=`, graded against `5*021394+3=106973###\boxed{021394r3}`.
//!
//! The right chain has one segment per digit, `vv/d=qrR` with vv = old remainder * 10 + next digit, and
//! then the box. Quotient digits and the last remainder come from the reference, never from dividing:
//! a wrong reference gives wrong grades. The remainders between chain through the problem's digits.

use exprl_rubric::{ParsedRequest, View};

use crate::judgement::Judgement;

/// Three or more `#` are one delimiter.
const DELIMITER: &str = "###";

/// Equals no segment, because segments hold no delimiter.
const IMPOSSIBLE: &str = DELIMITER;

pub(crate) fn judge(request: &ParsedRequest<'_>, reference: &str) -> Judgement {
    let Some(chain) = right_chain(request.problem, reference) else {
        return Judgement::new(
            1,
            "The problem and the reference do not belong to one division.",
        );
    };
    let segments = segments(request.trace);
    if request.view == View::Step {
        return match &segments[..] {
            [step] if chain.iter().any(|right| right == step) => {
                Judgement::new(5, "The step is one of the reference's.")
            }
            _ => Judgement::new(1, "The step is none of the reference's."),
        };
    }
    let good = segments
        .iter()
        .zip(&chain)
        .take_while(|(segment, right)| *segment == right)
        .count();
    let all_good = good == segments.len() && good > 0;
    let reason = format!(
        "The first {good} of {} segments follow the reference, which takes {}.",
        segments.len(),
        chain.len()
    );
    let grade = match request.view {
        View::Outcome if all_good && good == chain.len() => 5,
        // good <= chain.len(), so the share is at most 4.
        View::Outcome => (1 + 4 * good / chain.len()).min(4) as u8,
        View::Prefix | View::Step if all_good => 5,
        View::Prefix | View::Step => 1,
    };
    Judgement::new(grade, reason)
}

/// The segments that the reference asks for; a segment that cannot be right is one that nothing equals.
fn right_chain(problem: &str, reference: &str) -> Option<Vec<String>> {
    let (divisor, dividend) = division(problem)?;
    let boxed = &reference[reference.rfind(r"\boxed{")?..];
    let boxed = &boxed[..=boxed.find('}')?];
    let (quotient, last_remainder) = boxed[r"\boxed{".len()..boxed.len() - 1].split_once('r')?;
    let last_remainder: i64 = last_remainder.parse().ok()?;
    if quotient.len() != dividend.len() {
        return None;
    }
    let mut remainder = 0;
    let mut chain = Vec::with_capacity(dividend.len() + 1);
    for (at, (digit, q)) in dividend.bytes().zip(quotient.bytes()).enumerate() {
        let value = remainder * 10 + i64::from(digit - b'0');
        let q = i64::from(char::from(q).to_digit(10)?);
        remainder = value - divisor * q;
        let last = at + 1 == dividend.len();
        if !(0..divisor).contains(&remainder) || (last && remainder != last_remainder) {
            // No digit can follow this reference here, so nothing after it is right either.
            chain.resize(dividend.len(), IMPOSSIBLE.into());
            break;
        }
        chain.push(format!("{value:02}/{divisor}={q}r{remainder}"));
    }
    chain.push(boxed.to_owned());
    Some(chain)
}

/// Divisor and digits of the first `d)n1..nk` that is padded with `.` and closed with `=`.
fn division(problem: &str) -> Option<(i64, &str)> {
    problem.match_indices(')').find_map(|(at, _)| {
        let divisor = problem[..at]
            .chars()
            .next_back()?
            .to_digit(10)
            .filter(|d| *d > 0)?;
        let rest = &problem[at + 1..];
        let len = rest.find(|c: char| !c.is_ascii_digit())?;
        let (digits, rest) = rest.split_at(len);
        let closed = rest.trim_start_matches('.').starts_with('=');
        (closed && len > 0).then_some((i64::from(divisor), digits))
    })
}

/// The trace cut at its delimiters; blank text before the first one is no segment.
fn segments(trace: &str) -> Vec<&str> {
    let mut segments = Vec::new();
    let mut rest = trace;
    while let Some(at) = rest.find(DELIMITER) {
        segments.push(rest[..at].trim());
        rest = rest[at..].trim_start_matches('#');
    }
    segments.push(rest.trim());
    if segments.len() > 1 && segments[0].is_empty() {
        segments.remove(0);
    }
    segments
}
