//! How well the `numbers` rule judges real answers: 1,319 problems, an answer by each of four models.

use std::path::Path;

use exprl_rehearsal::Rule;
use exprl_rubric::{ParsedRequest, View};
use serde_json::Value;

const MODELS: [&str; 4] = [
    "6b_finetuning",
    "6b_verification",
    "175b_finetuning",
    "175b_verification",
];

struct Problem {
    question: String,
    reference: String,
    /// Text and whether its final answer is right.
    answers: Vec<(String, bool)>,
}

/// The data, or `None` where it is not at hand.
fn problems() -> Option<Vec<Problem>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../../shared/data/gsm8k/example_model_solutions.jsonl");
    let Ok(text) = std::fs::read_to_string(&path) else {
        eprintln!("skipped: there is no {}", path.display());
        return None;
    };
    let problem = |line: &str| {
        let row: Value = serde_json::from_str(line).unwrap();
        let answer = |model: &&str| {
            let answer = &row[*model];
            (
                answer["solution"].as_str().unwrap().to_owned(),
                answer["is_correct"].as_bool().unwrap(),
            )
        };
        Problem {
            question: row["question"].as_str().unwrap().to_owned(),
            reference: row["ground_truth"].as_str().unwrap().to_owned(),
            answers: MODELS.iter().map(answer).collect(),
        }
    };
    Some(text.lines().map(problem).collect())
}

/// Shares of right answers graded below 4 (FNR) and of wrong ones graded 4 or 5 (FPR).
#[derive(Default)]
struct Misplaced {
    right: [f64; 2],
    wrong: [f64; 2],
}

impl Misplaced {
    fn add(&mut self, is_correct: bool, grade: u8) {
        let (counts, misplaced) = if is_correct {
            (&mut self.right, grade < 4)
        } else {
            (&mut self.wrong, grade >= 4)
        };
        counts[0] += 1.0;
        counts[1] += f64::from(u8::from(misplaced));
    }

    /// (FNR + FPR) / 2.
    fn rate(&self, name: &str) -> f64 {
        let (fnr, fpr) = (self.right[1] / self.right[0], self.wrong[1] / self.wrong[0]);
        let rate = f64::midpoint(fnr, fpr);
        let n = self.right[0] + self.wrong[0];
        println!("{name:44} n {n:6}  FNR {fnr:.4}  FPR {fpr:.4}  misplaced {rate:.4}");
        rate
    }
}

fn grade(view: View, problem: &Problem, reference: Option<&str>, trace: &str) -> u8 {
    let request = ParsedRequest {
        view,
        problem: &problem.question,
        reference,
        checklist: None,
        trace,
        instruction: "",
    };
    Rule::Numbers.judge(&request).grade
}

#[test]
fn whole_answers_are_placed_by_the_right_reference_only() {
    let Some(problems) = problems() else { return };
    let [mut right, mut none, mut other] = [(); 3].map(|()| Misplaced::default());
    for (at, problem) in problems.iter().enumerate() {
        let wrong = &problems[(at + 1) % problems.len()].reference;
        for (text, is_correct) in &problem.answers {
            right.add(
                *is_correct,
                grade(View::Outcome, problem, Some(&problem.reference), text),
            );
            none.add(*is_correct, grade(View::Outcome, problem, None, text));
            other.add(
                *is_correct,
                grade(View::Outcome, problem, Some(wrong), text),
            );
        }
    }
    assert!(right.rate("outcome, right reference") < 0.01);
    assert!(
        (none.rate("outcome, no reference") - 0.5).abs() < 1e-9,
        "it always says 3"
    );
    assert!(other.rate("outcome, another problem's reference") > 0.45);
}

#[test]
fn a_prefix_foretells_the_final_answer_better_the_longer_it_is() {
    let Some(problems) = problems() else { return };
    // By the number of lines that are still missing; the last line states the answer.
    let mut missing: [Misplaced; 4] = std::array::from_fn(|_| Misplaced::default());
    let mut other = Misplaced::default();
    for (at, problem) in problems.iter().enumerate() {
        let wrong = &problems[(at + 1) % problems.len()].reference;
        for (text, is_correct) in &problem.answers {
            let lines: Vec<&str> = text.lines().collect();
            for (left, misplaced) in missing.iter_mut().enumerate().take(lines.len()) {
                let prefix = lines[..lines.len() - left].join("\n");
                misplaced.add(
                    *is_correct,
                    grade(View::Prefix, problem, Some(&problem.reference), &prefix),
                );
                if left == 1 {
                    other.add(
                        *is_correct,
                        grade(View::Prefix, problem, Some(wrong), &prefix),
                    );
                }
            }
        }
    }
    let rates: Vec<f64> = missing
        .iter()
        .enumerate()
        .map(|(left, m)| m.rate(&format!("prefix, {left} lines before the end")))
        .collect();
    assert!(rates[0] < 0.01 && rates[1] < 0.10, "{rates:?}");
    assert!(rates.is_sorted(), "{rates:?}");
    assert!(other.rate("prefix, 1 line, another's reference") > 0.40);
}
