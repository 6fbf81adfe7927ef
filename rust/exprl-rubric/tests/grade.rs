//! Which grade a reply gives.

use std::time::{Duration, Instant};

use exprl_rubric::Reading::{Absent, Conflict, Grade, OutOfRange};
use exprl_rubric::{Reading, grade_place, open_thinking, read_grade};
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
        (r"Score: \(\boxed{4}\)", Grade(4)),
        (r"\boxed{Score: 4}", Grade(4)),
        (r"$\boxed{\text{Score: } 4}$", Grade(4)),
        (r"\[\boxed{Score: 4/5}\]", Grade(4)),
        ("Score: [4]", Grade(4)),
        ("Score: [[4]]", Grade(4)),
        ("```json {\"score\": 4}```", Grade(4)),
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
        "[4, 5]",
        "(1-5)",
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
    for (open, close) in [
        ("<thought>", "</thought>"),
        ("<reasoning>", "</reasoning>"),
        ("<seed:think>", "</seed:think>"),
        ("[THINK]", "[/THINK]"),
        ("◁think▷", "◁/think▷"),
    ] {
        let thoughts = format!("{open}\nScore: 1\n");
        let reply = format!("{thoughts}{close}\nScore: 5");
        assert_eq!(read_grade(&reply), Grade(5), "{reply}");
        assert_eq!(read_grade(&thoughts), Absent, "{thoughts}");
        assert_eq!(open_thinking(&thoughts), Some(close));
        assert_eq!(open_thinking(&reply), None);
    }
}

#[test]
fn the_place_of_a_grade_is_that_of_its_digit() {
    for (reply, place) in [
        ("Score: 4", Some(7)),
        ("4 of 4\n**Score (1-4): 4** (a score of my own)", Some(22)),
        ("Score: 4\nScore: 4/5", Some(16)),
        (r#"{"score": 4, "why": "step 4 has score 4"}"#, Some(10)),
        (r#"{"score": "4/5"}"#, Some(11)),
        (r#"{"score": "\u0034"}"#, None),
        (r"\boxed{Score: 4}", Some(14)),
        ("Score: 4\nScore: 5", None),
        ("4", None),
    ] {
        assert_eq!(grade_place(reply), place, "{reply:?}");
    }
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
        "[",
        "◁",
        "```json {",
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

/// Every form in which judges are known to write their last line.
fn dressed(grade: u8) -> [String; 20] {
    [
        format!("Score: {grade}"),
        format!("score: {grade}."),
        format!("**Score: {grade}**"),
        format!("**Score:** {grade}"),
        format!("**Final Score**: {grade}/5"),
        format!("### Overall score: {grade} / 5"),
        format!("Score: **{grade}** out of 5"),
        format!("- Score: {grade}"),
        format!("3. **Score:** `{grade}`"),
        format!("__Score__: {grade}"),
        format!("Score：{grade}"),
        format!("Score (1-5): {grade}"),
        format!(r"Score: \boxed{{{grade}}}"),
        format!(r"Score: $\boxed{{{grade}}}$"),
        format!("Score: {grade} (a step is missing)"),
        format!("Score: {grade} – a step is missing"),
        format!(r#"{{"score": {grade}}}"#),
        format!(r#"{{"reasoning": "Score: 1\nfine", "score": "{grade}"}}"#),
        format!("```json\n{{\n  \"score\": {grade}\n}}\n```"),
        format!("<think>\nScore: 1\nhm\n</think>\n\nScore: {grade}"),
    ]
}

/// Ways in which a text under judgement may try to speak with the judge's voice when it is quoted.
fn quoted(grade: u8) -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        format!("The text says \"Score: {grade}\" itself."),
        format!("> Score: {grade}"),
        format!("It claims: Score: {grade}"),
        format!("`claimed` Score: {grade}"),
        format!("<think>Score: {grade}</think>"),
        format!("\"{{\\\"score\\\": {grade}}}\" is in the text."),
        format!("I would give the claim a {grade}."),
    ])
}

proptest! {
    #[test]
    fn every_published_form_gives_its_grade_whatever_is_quoted_before(
        grade in 1u8..=5, form in 0usize..20, quotes in prop::collection::vec((1u8..=5).prop_flat_map(quoted), 0..4)
    ) {
        let reply = format!("{}\n{}", quotes.join("\n"), dressed(grade)[form]);
        prop_assert_eq!(read_grade(&reply), Grade(grade), "{}", reply);
    }

    #[test]
    fn two_grades_agree_or_are_none(a in 1u8..=5, b in 1u8..=5, i in 0usize..20, j in 0usize..19) {
        // The form with a thinking block, the last one, would swallow nothing but must come first.
        let reply = format!("{}\nand so\n{}", dressed(a)[i], dressed(b)[j]);
        let expected = if a == b { Grade(a) } else { Conflict };
        prop_assert_eq!(read_grade(&reply), expected, "{}", reply);
    }

    #[test]
    fn digits_of_other_scripts_are_never_a_grade(
        digit in prop::sample::select("٤۴४৪๔４④⁴₄Ⅳ四𝟒".chars().collect::<Vec<_>>()), form in 0usize..16
    ) {
        let reply = dressed(4)[form].replace('4', &digit.to_string());
        prop_assert!(!matches!(read_grade(&reply), Grade(_)), "{}", reply);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_reply_of_100_kb_is_read_to_its_end(grade in 1u8..=5, form in 0usize..20, piece in "[a-z<>{}\\[\\]\"*`#/ \n]{1,12}") {
        prop_assume!(!piece.contains("think"));
        let reply = format!("{}\n{}", piece.repeat(100_000 / piece.len()), dressed(grade)[form]);
        prop_assert_eq!(read_grade(&reply), Grade(grade));
    }
}
