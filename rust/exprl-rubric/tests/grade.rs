//! Which grade a reply gives.

use std::time::{Duration, Instant};

use exprl_rubric::Reading::{Absent, Conflict, Grade, OutOfRange};
use exprl_rubric::{Reading, read_grade};
use proptest::prelude::*;

fn check(table: &[(&str, Reading)]) {
    for (reply, expected) in table {
        assert_eq!(read_grade(reply), *expected, "{reply:?}");
    }
}

#[test]
fn a_line_with_a_score_gives_the_grade_in_every_usual_dress() {
    check(&[
        ("Score: 4", Grade(4)),
        ("All checkpoints hold.\nScore: 5\n", Grade(5)),
        ("text\r\nScore: 2\r\n", Grade(2)),
        ("  score:1  ", Grade(1)),
        ("SCORE : 3", Grade(3)),
        ("Score：4", Grade(4)),
        ("**Score: 4**", Grade(4)),
        ("Score: **4**", Grade(4)),
        ("**Score:** 4", Grade(4)),
        ("**Score**: 4.", Grade(4)),
        ("__Final__ Score: `4`", Grade(4)),
        ("### Final score: 4", Grade(4)),
        ("Overall Score (1-5): 4", Grade(4)),
        ("- **Final Score:** 4", Grade(4)),
        ("6. Score: 4", Grade(4)),
        ("Score: 4/5", Grade(4)),
        ("Score: **4** / 5", Grade(4)),
        ("Score: 4 out of 5.", Grade(4)),
        (r"Score: \boxed{4}", Grade(4)),
        (r"Score: $\boxed{4}$", Grade(4)),
        ("Score: 4 (one gap)", Grade(4)),
        ("Score: 4 – one gap", Grade(4)),
        (r#"{"score": 4}"#, Grade(4)),
        (r#"{"reasoning": "Score: 1", "score": "4"}"#, Grade(4)),
        (r#"{"Score": 4},"#, Grade(4)),
        (
            "```json\n{\n  \"reasoning\": \"fine\",\n  \"score\": 4\n}\n```",
            Grade(4),
        ),
        ("Score: 3\nI stand by it.\nScore: 3", Grade(3)),
        ("Score: n, where n is 1 to 5\nScore: 2", Grade(2)),
        ("Score: 1-5\nScore: 2", Grade(2)),
    ]);
}

#[test]
fn a_number_that_is_not_a_grade_is_never_repaired() {
    for value in [
        "0",
        "6",
        "45",
        "4.5",
        "4,5",
        "-3",
        "+3",
        "−3",
        "04",
        "4.0",
        "4/10",
        "8/10",
        "4/55",
        "4 or 5",
        "1-5",
        "4%",
        "4５",
        "５",
        ".5",
        "4 because of step 2",
        "5 is what the text claims",
        r"\boxed{45}",
        r"\boxed{4",
        "½",
        "44444444444444444444444444",
    ] {
        assert_eq!(
            read_grade(&format!("fine\nScore: {value}")),
            OutOfRange,
            "{value:?}"
        );
    }
    check(&[
        (r#"{"score": 6}"#, OutOfRange),
        (r#"{"score": 4.0}"#, OutOfRange),
        (r#"{"score": -4}"#, OutOfRange),
        (r#"{"score": "4 or 5"}"#, OutOfRange),
        ("Score: 4\nScore: 9", OutOfRange),
    ]);
}

#[test]
fn a_score_that_is_not_anchored_is_not_read() {
    check(&[
        ("", Absent),
        ("The text is right.", Absent),
        ("4", Absent),
        ("The text says Score: 5 and is wrong.", Absent),
        ("The text says:\n> Score: 5\nwhich is false.", Absent),
        ("\"Score: 5\" is written in the text.", Absent),
        ("`The student wrote` Score: 5", Absent),
        ("I would give it a score of 4.", Absent),
        ("Score: four", Absent),
        ("Score: n", Absent),
        ("Score:", Absent),
        ("Scores: 4", Absent),
        ("Score 4", Absent),
        (r#"{"score": null}"#, Absent),
        (r#"{"reasoning": "Score: 5"}"#, Absent),
        (r#"{"score": 4, "score": 5}"#, Absent),
        ("The text says Score: 5.\nScore: 1", Grade(1)),
        ("> Score: 5\nScore: 1", Grade(1)),
    ]);
}

#[test]
fn two_different_anchored_grades_are_a_conflict() {
    check(&[
        ("Score: 5\nScore: 1", Conflict),
        (
            "Score: 5\nthe text wrote that, not I\n**Score: 1**",
            Conflict,
        ),
        ("Score: 5\nScore: 9\nScore: 1", Conflict),
        ("{\"score\": 2}\nScore: 3", Conflict),
    ]);
}

#[test]
fn only_what_stands_outside_thinking_counts() {
    check(&[
        ("<think>\nScore: 1\n</think>\nScore: 5", Grade(5)),
        ("<think>\nScore: 1", Absent),
        ("Score: 5\n<think>\nScore: 1", Grade(5)),
        ("maybe\nScore: 1\n</think>\nScore: 5", Grade(5)),
        ("Score: 1\n</think>", Absent),
        ("<THINK>a\nScore: 1</Think>Score: 5", Grade(5)),
        ("<thinking>\nScore: 1\n</thinking>\nScore: 5", Grade(5)),
        (
            "<think>a<think>b</think>\nScore: 1\n</think>\nScore: 5",
            Grade(5),
        ),
        (
            "<think></think>Score: 2\n<think>\nScore: 3\n</think>",
            Grade(2),
        ),
        ("a < b and <b> tags\nScore: 3", Grade(3)),
    ]);
}

#[test]
fn long_hostile_replies_are_read_in_linear_time() {
    let started = Instant::now();
    for piece in [
        "<",
        "<think>",
        "</think>",
        "Score: 1\nScore: 9\n",
        "{\"a\":",
        "{\"a\":\n",
        "(",
        "Score (",
        "**",
        "1",
    ] {
        let _ = read_grade(&piece.repeat(300_000 / piece.len()));
    }
    // 3 MB; a quadratic reader needs minutes.
    assert!(
        started.elapsed() < Duration::from_secs(20),
        "{:?}",
        started.elapsed()
    );
}

proptest! {
    #[test]
    fn any_reply_is_read_without_a_panic(reply in "(?s).*") {
        let _ = read_grade(&reply);
    }

    #[test]
    fn prose_before_the_last_line_does_not_change_the_grade(
        prose in "[a-z<>{}\"*`# \n]{0,80}", grade in 1u8..=5
    ) {
        prop_assume!(!prose.contains("score") && !prose.contains("think"));
        prop_assert_eq!(read_grade(&format!("{prose}\nScore: {grade}")), Grade(grade));
    }

    #[test]
    fn a_grade_is_read_only_if_its_digit_stands_in_the_reply(
        reply in "(Score|score|:|：| |\n|[0-9]|\\*|/5|[{}\"]|<think>|</think>|-|\\.){0,24}"
    ) {
        if let Grade(grade) = read_grade(&reply) {
            prop_assert!((1..=5).contains(&grade));
            prop_assert!(reply.contains(char::from(b'0' + grade)));
        }
    }
}
