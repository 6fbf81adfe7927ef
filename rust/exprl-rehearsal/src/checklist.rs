//! A checklist by rule: the lines of the reference, and its last one as the answer.

use exprl_rubric::{Checklist, Checkpoint};
use serde_json::json;

/// Checkpoints beside the answer, at most.
const MOST: usize = 5;
/// Characters of a line that are quoted.
const QUOTED: usize = 300;

/// The reply to a request for a checklist.
pub(crate) fn write(reference: &str) -> String {
    let lines: Vec<&str> = reference
        .split(['\n', '\r'])
        .flat_map(|line| line.split("###"))
        .map(str::trim)
        .filter(|line| line.chars().any(char::is_alphanumeric))
        .collect();
    let (answer, way) = lines.split_last().unwrap_or((&"nothing", &[]));
    let mut checkpoints: Vec<Checkpoint> = Vec::new();
    // Evenly spread over a long reference.
    let step = way.len().div_ceil(MOST).max(1);
    for line in way.iter().step_by(step) {
        let text = format!("It reaches what the reference does here: {}", quote(line));
        if checkpoints.iter().all(|earlier| earlier.text != text) {
            checkpoints.push(Checkpoint { text, weight: 1 });
        }
    }
    if checkpoints.is_empty() {
        let text = "It is about the problem.".into();
        checkpoints.push(Checkpoint { text, weight: 1 });
    }
    let text = format!("The final answer agrees with: {}", quote(answer));
    checkpoints.push(Checkpoint { text, weight: 3 });
    debug_assert!(Checklist::new(checkpoints.clone()).is_ok());
    json!({"checkpoints": checkpoints}).to_string()
}

fn quote(line: &str) -> String {
    line.chars().take(QUOTED).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_has_a_checklist() {
        for reference in [
            "",
            "###",
            "42",
            "a\na\nb",
            "5*021394+3=106973###\\boxed{021394r3}",
            &"x y\n".repeat(100),
            &"é".repeat(10_000),
            &(0..100).map(|i| i.to_string() + "\n").collect::<String>(),
        ] {
            let list = Checklist::read(&write(reference)).unwrap();
            assert!((2..=6).contains(&list.checkpoints().len()));
        }
    }
}
