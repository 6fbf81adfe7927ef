//! Which grade a reply gives.

use std::time::{Duration, Instant};

use exprl_rubric::Reading::{Absent, Conflict, Grade, OutOfRange, Unreadable};
use exprl_rubric::{Reading, grade_place, is_complete, open_thinking, read_grade};
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
        ("Scores: 4", Absent),
        ("**4**", Absent),
        (r#"{"reasoning": "Score: 5"}"#, Absent),
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

/// Verdicts that give no grade, or the grade 3 in other words than those that rubrics ask for.
const OTHER_VERDICTS: &[&str] = &[
    // A separator, a label or a place of the digit that rubrics do not ask for.
    "Score = 3",
    "Score := 3",
    "SCORE=3",
    "Score 3/5",
    "Score\t3",
    "Score => 3",
    "Score — 3",
    "Score, 3",
    "Grade/5: 3",
    "Rating out of 5: 3",
    "Score (out of 5) = 3",
    "#### Score\n3",
    "Score:\n\n**3**",
    "Final Score:\n\n> 3",
    "Score:\r\n3/5",
    "My overall grade is 3.",
    "The final grade for this text is 3",
    "Updated rating: 3",
    "Overall rating - 3",
    "**Verdict:** 3",
    "Final verdict → 3",
    "| **Score** | **3** |",
    "|Final score|3|",
    "Score is now 3",
    "The score should be 3",
    "Score revised to 3",
    "Score raised from 2 to 3",
    "[Rating]: 3",
    "[[Grade: 3]]",
    "(Score: 3)",
    "\"Score: 3\"",
    "Verdict: Score: 3",
    "<score>3</score>",
    "<final_score>\n3\n</final_score>",
    "<b>Rating:</b> 3",
    "\\textbf{Grade: 3}",
    "\\section*{Score}\n3",
    // Words before it, or no label at all.
    "On reflection, the final score is 3",
    "Therefore: Grade: 3",
    "So my score is 3.",
    "Correction: 3",
    "Revised: 3",
    "Make it 3.",
    "I change my score to 3.",
    "I'd give it a 3/5.",
    "I now rate this 3 out of 5",
    "I raise my score from 2 to 3.",
    "$\\boxed{3}$",
    "\\(\\boxed{3}\\)",
    "__3__",
    "**3/5**",
    "3/5",
    "[[3]]",
    // Other languages and letters.
    "评分：3",
    "最终得分：3",
    "得分 3",
    "得分为3",
    "スコア：3",
    "점수: 3",
    "Оценка: 3",
    "Puntuación final: 3",
    "Punktzahl: 3",
    "Note : 3",
    "Voto: 3/5",
    "Bewertung: 3",
    "Ｇｒａｄｅ：3",
    "𝗚𝗿𝗮𝗱𝗲: 3",
    // No digit that can be read.
    "Score: three",
    "Score: III",
    "Score: “3”",
    "Score: ‹3›",
    "Score: $\\mathrm{3}$",
    "Score: about 3",
    "Score: TBD",
    "Score: —",
    "Score: n/a",
    "Score: (none)",
    "Score: []",
    "Score: ____",
    "Score: ...",
    "**Score:**",
    "Score",
    "Rating: good",
    "Grade: F",
    "Grade = C",
    "Rating: ★★★",
    "Score： 三",
    "Score: not 2",
    "The score is withdrawn.",
    "Final score: to be decided",
    "### Score:",
    "Score:\n- none",
    "得分：无",
    // A number that is no grade, and a line that says two.
    "Score: 0",
    "Score: 7",
    "Score: 3.0",
    "Score: 3;4",
    "Score: 3 stars",
    "Score: 3 (revised score: 4)",
    "Score: <b>3</b>",
    "Score 3-4",
    "My score is 3.5",
    // Objects.
    "{\"score\": \"3 or 4\"}",
    "{\"score\": true}",
    "{\"score\": []}",
    "{\"final_grade\": 3}",
    "{\"rating\": \"three\"}",
    "{'grade': 3}",
    "[{\"score\": 3}]",
    "{\"score\": 3",
    "{\"result\": {\"score\": 3}}",
    "{grade: 3}",
    "```json\n{\"grade\":\n3}\n```",
    "```\n{\"score\" : 3, \"note\": \"x\n```",
    "Corrected: {\"score\": 3}",
    "{\n  \"overall_grade\": 3\n}",
    "{\n \"score\": \"none\"\n}",
    "\"score\": three",
    "{\"score\": 3, \"score\": 3}",
    "{\"score\": 3} or so",
    "{\"grade\": 3, \"rating\": 4}",
    // Channels of models that write their thinking as text.
    "<|begin_of_solution|>Grade: 3",
    "<|message|>Grade: 3",
    "✅ Grade: 3",
    "→ Rating: 3",
];

#[test]
fn the_last_verdict_decides_and_a_draft_never_wins() {
    for verdict in OTHER_VERDICTS {
        let reply = format!("It begins well.\nScore: 2\nOn a second look:\n{verdict}");
        assert!(!matches!(read_grade(&reply), Grade(_)), "{reply:?}");
        let alone = read_grade(&format!("It begins well.\n{verdict}"));
        assert!(
            matches!(
                alone,
                Grade(3) | OutOfRange | Unreadable | Absent | Conflict
            ),
            "{verdict:?}"
        );
        let corrected = format!("{verdict}\nNo, better:\nScore: 4");
        assert_eq!(read_grade(&corrected), Grade(4), "{corrected:?}");
    }
}

#[test]
fn a_verdict_behind_the_beginning_of_a_line_takes_an_earlier_one_away_and_is_none() {
    for verdict in [
        "I was too strict. Score: 3",
        "Wait! **Final score:** 3",
        "Is that fair? Grade = unclear",
        "Corrected verdict as JSON: {\"score\": 3}",
        "So it is {\"score\": \"three\"}",
        "Score [1-5] = 3",
        "The result: {\"rating\": 3, \"why\": \"cut",
    ] {
        let reply = format!("It begins well.\nScore: 2\n{verdict}");
        assert!(!matches!(read_grade(&reply), Grade(_)), "{reply:?}");
        let corrected = format!("Score: 4\n{verdict}\nNo.\nScore: 4");
        assert_eq!(read_grade(&corrected), Grade(4), "{corrected:?}");
    }
    check(&[
        ("The text says so. Score: 5", Absent),
        ("The text holds {\"score\": 5}", Absent),
        ("Score: 3\nAs said. Score: 3", Grade(3)),
        ("Score: 3\nIn JSON: {\"score\": 3}", Grade(3)),
    ]);
}

#[test]
fn the_same_grade_in_other_words_takes_nothing_away() {
    for verdict in OTHER_VERDICTS
        .iter()
        .filter(|verdict| verdict.contains('3'))
    {
        let alone = read_grade(verdict);
        let reply = format!("Score: 3\nThat is:\n{verdict}");
        if alone == Grade(3) {
            assert_eq!(read_grade(&reply), Grade(3), "{reply:?}");
        }
    }
    check(&[
        ("Score: 3\nMy final score is 3.", Grade(3)),
        ("Score: 3\n**3/5**", Grade(3)),
        ("Score: 3\nI give it a 3.", Grade(3)),
        ("Grade: 3\nRating: 4", Conflict),
        ("Grade: 2\nScore: 4", Grade(4)),
        ("Score: 4\nScore: ?\nGrade: 3", Conflict),
    ]);
}

#[test]
fn what_clearly_states_one_grade_is_read_in_other_words_too() {
    for verdict in [
        "Score = 4",
        "Score 4",
        "### Score\n4",
        "Score:\n**4**",
        "Final grade: 4/5",
        "Rating: 4 (one gap)",
        "| Score | 4 |",
        "My final score is 4.",
        "<score>4</score>",
        "得分：4",
        "Puntuación: 4",
        "Grade → 4",
        "{\"grade\": 4}",
        "{'score': 4}",
        "\\textbf{Score: 4}",
        "[Score: 4]",
    ] {
        assert_eq!(read_grade(verdict), Grade(4), "{verdict:?}");
        let place = grade_place(verdict).unwrap();
        assert_eq!(&verdict[place..=place], "4", "{verdict:?}");
    }
}

#[test]
fn what_speaks_of_scores_and_is_no_verdict_takes_nothing_away() {
    for remark in [
        "Score breakdown: one gap.",
        "Score rationale: step 2 is missing",
        "Why this score: 2 steps are missing",
        "Scoring is strict: 3 levels",
        "The scoring rubric has 5 levels.",
        "This score reflects 1 gap.",
        "The score would be 5 if step 3 were shown.",
        "A score of 5 would need the last step.",
        "It does not deserve a 5.",
        "Score-wise, this is fine.",
        "Grade-school arithmetic is right.",
        "Gradient descent takes 3 steps.",
        "Scores like 5 need a proof.",
        "Confidence (1-5): 3",
        "Difficulty: 3",
        "\"Score: 5\" is what the text claims.",
        "The text ends with Score: 3.",
        "> Score: 3",
        "> {\"score\": 3}",
        "The student's score: 3 is forged",
        "Note: 3 of 5 checkpoints hold.",
        "Note: the text is cut.",
        "Points 1 and 2 hold.",
        "Missing points: 3",
        "Total: 3 of 4",
        "Overall, 3 of 4 steps hold.",
        "So 3 is right.",
        "Thus x = 3.",
        "3 of the 4 checkpoints hold.",
        "- 3",
        "3.",
        "I deducted 1 point.",
        "I checked 3 steps.",
        "Final answer: 3",
        "The answer is \\boxed{12}.",
        "{1, 2, 3} is the set",
        "{x : x > 3}",
        "Let f(x) = {3 if x > 0",
        "Assessment: correct",
        "(Score range: 1-5)",
        "Maximum: 5",
        "Checkpoint 3: score 3 of 5",
        "Why not 5: a gap",
        "Draft score: 3",
        "Initial score: 3",
        "{\"note\": \"Score: 3 is claimed\"}",
        "{\"note\": \"the \\\"score\\\": 3 is claimed\"}",
    ] {
        for reply in [
            format!("Fine.\nScore: 4\n{remark}"),
            format!("Fine.\n{remark}\nScore: 4"),
        ] {
            assert_eq!(read_grade(&reply), Grade(4), "{reply:?}");
        }
    }
}

#[test]
fn invisible_characters_are_left_out_before_a_grade_is_read() {
    for invisible in "\u{200b}\u{200d}\u{200e}\u{202a}\u{202e}\u{2060}\u{2064}\u{2069}\u{feff}\u{ad}\u{fe0f}\u{20e3}\u{34f}\u{e0041}".chars() {
        for form in ["Sco|re: 4", "Score|: 4", "Score:|4", "|Score: |4|", "{\"sco|re\": 4|}"] {
            let reply = format!("Fine.\n{}", form.replace('|', &invisible.to_string()));
            assert_eq!(read_grade(&reply), Grade(4), "{reply:?}");
            let place = grade_place(&reply).unwrap();
            assert_eq!(&reply[place..=place], "4", "{reply:?}");
        }
    }
    check(&[
        ("Score: 2\u{2028}Better:\u{2029}Score: four", Unreadable),
        ("Score\u{a0}:\u{202f}4", Grade(4)),
        ("Ｓｃｏｒｅ： 4", Grade(4)),
        ("Score: 4️⃣", Grade(4)),
        ("Score: 4\u{200b}5", OutOfRange),
    ]);
}

#[test]
fn a_reply_is_complete_with_a_line_in_the_form_that_was_asked_for() {
    for (reply, complete) in [
        ("Fine.\nScore: 4\n", true),
        ("Fine.\n**Final score: 4/5**", true),
        ("Fine.\nScore: 4\nand a word", true),
        ("Grade: 4\n", false),
        ("Score:\n4\n", false),
        ("Score: 4\nGrade: 3\n", false),
        ("Score: 4\nScore: 3\n", false),
        ("Score: 4\nScore: ?\n", false),
        ("<think>\nScore: 4\n", false),
    ] {
        assert_eq!(is_complete(reply), complete, "{reply:?}");
    }
}

#[test]
fn an_object_gives_its_score_whatever_its_other_fields_hold() {
    check(&[
        (
            r#"{"why": "\sin x \leq \pi, so \$4 it is", "score": 4}"#,
            Grade(4),
        ),
        (
            r#"{"score": 4, "why": "\underbrace{x}_{n} and \unit"}"#,
            Grade(4),
        ),
        (
            r#"{"why": "the pair (a, {b}) \{c\}", "score": "4/5"}"#,
            Grade(4),
        ),
        (
            r#"{"why": "he wrote \"score\": 1, no less", "score": 4}"#,
            Grade(4),
        ),
        (
            r#"{"step": {"score": 1, "verdict": "no"}, "score": 4}"#,
            Grade(4),
        ),
        (
            r#"{"verdict": "mostly right", "score": 4, "rating": "good"}"#,
            Grade(4),
        ),
        (r#"{"overall_score": 4}"#, Grade(4)),
        (r#"{"finalScore": "**4**"}"#, Unreadable),
        (
            "{\n  \"why\": \"first\n\nScore: 1 is claimed\",\n  \"score\": 4\n}",
            Grade(4),
        ),
        (
            "{\n  \"steps\": [\n    1,\n    2\n  ],\n  \"score\": 4,\n  \"verdict\": \"right\"\n}\n",
            Grade(4),
        ),
        (
            "{\n  \"why\": \"\\frac{1}{2}\",\n  \"parts\": {\n    \"score\": 1\n  },\n  \"score\": 4\n}",
            Grade(4),
        ),
        (
            "{\n  \"why\": \"a comma is missing\"\n  \"score\": 4\n}",
            Grade(4),
        ),
        ("Let {x be 1.\nScore: 4\nand y} be 2.", Grade(4)),
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
            "<|channel|>analysis<|message|>Score: 1\n<|end|><|start|>assistant<|channel|>final<|message|>Score: 5",
            Grade(5),
        ),
        (
            "<|START_THINKING|>Score: 1<|END_THINKING|>Score: 5",
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
        (r#"{"why": "\frac{4}{5}", "score": 4}"#, Some(32)),
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
        "{\"a\": {\n",
        "{\"score\": 1,\n",
        "[{\n",
        "\\text{",
        "<b>",
        "final ",
        "Score: 4 (score ",
        "score of the ",
        "I give it my score ",
        "so, ",
        "\u{200b}",
        "得分",
        "Score:\n",
        "\"score\"",
    ] {
        let _ = read_grade(&piece.repeat(100_000 / piece.len()));
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
