//! What each rule makes of the texts that language models write.

use std::num::NonZeroUsize;

use exprl_steps::{Rule, Settings, split_text};

fn steps<'a>(rule: &str, text: &'a str) -> Vec<&'a str> {
    cut(text, &Settings::new(Rule::new(rule, "###").unwrap()))
}

fn cut<'a>(text: &'a str, settings: &Settings) -> Vec<&'a str> {
    let ranges = split_text(text, settings);
    ranges.into_iter().map(|range| &text[range]).collect()
}

/// `expected` is written with a `¦` where the text is cut.
fn assert_cut(rule: &str, expected: &str) {
    let text = expected.replace('¦', "");
    let wanted: Vec<&str> = expected.split('¦').collect();
    assert_eq!(steps(rule, &text), wanted, "{rule}: {text:?}");
}

#[test]
fn thinking_that_is_not_cut_belongs_to_the_step_that_follows_or_holds_it() {
    let whole = |name: &str, text: &'static str| {
        let settings = Settings {
            cut_thinking: false,
            ..Settings::new(Rule::new(name, "###").unwrap())
        };
        cut(text, &settings)
    };
    for (name, text, steps) in [
        (
            "delimiter",
            "<think>a ### b</think> c ### d",
            &["<think>a ### b</think> c ", "### d"][..],
        ),
        (
            "delimiter",
            "a ### b</think>\n### c ### d",
            &["a ### b</think>\n### c ", "### d"],
        ),
        (
            "delimiter",
            "### a <think>b ### c",
            &["### a <think>b ### c"],
        ),
        ("delimiter", "<think>a ### b", &["<think>a ### b"]),
        (
            "heading",
            "<think>\n### a\n</think>\n### b\n### c",
            &["<think>\n### a\n</think>\n### b\n", "### c"],
        ),
        (
            "paragraph",
            "[THINK]a\n\nb[/THINK]\n\nc\n\nd",
            &["[THINK]a\n\nb[/THINK]\n\nc\n\n", "d"],
        ),
        (
            "line",
            "<think>a\nb\n</think>\nc\nd",
            &["<think>a\nb\n</think>\nc\n", "d"],
        ),
        // A fence that only a thought opened hides no line.
        (
            "line",
            "<think>\n```\n</think>c\nd",
            &["<think>\n```\n</think>c\n", "d"],
        ),
        ("line", "a\nb", &["a\n", "b"]),
    ] {
        assert_eq!(whole(name, text), steps, "{name}: {text:?}");
    }
}

#[test]
fn a_heading_starts_a_line_and_a_step() {
    for expected in [
        "Let n = 4.\n¦### Square it\n16\n¦#### Halve it\n8",
        "###No blank\n¦###### six\n¦####### seven",
        "## two are too few\n# one\n¦### three",
        "so\n¦  ### two blanks\n¦   ### three",
        "so\n    ### four are code\n\t### a tab is four\n¦### b",
        "F### is a key, see ### here\n| ### | x |\n> ### quoted\n- ### item\n1. ### item\n¦### b",
        "\n \n### after white space\n¦### b",
        "a\r\n¦### b\r\n¦### c\r\n",
        "é\n¦### ü\n¦### 世",
        "###",
        "a\n¦###\n¦###",
    ] {
        assert_cut("heading", expected);
    }
}

#[test]
fn code_fences_hide_headings() {
    for expected in [
        "```python\n### load\n```\n¦### b",
        "   ```\n### x\n   ```\n¦### b",
        // Closed by their own sign, at least as often, with nothing behind.
        "~~~\n### x\n```\n### y\n~~~\n¦### b",
        "```\n~~~\n### x\n```\n¦### b",
        "````\n### x\n```\n### y\n`````\n¦### b",
        "```\n### x\n``` python\n### y\n```   \n¦### b",
        "~~~ a ``` b\n### x\n~~~\n¦### b",
        // Backticks may hold code within one line, which opens nothing.
        "```x``` is code\n¦### b",
        "``\n¦### two are no fence\n``",
        "    ```\n¦### four blanks are no fence",
        "so ```\n¦### nor is one within a line\n",
        "### a\n```\n### x\n\n### it never closes\n",
        "```\r\n### x\r\n```\r\n¦### b",
    ] {
        assert_cut("heading", expected);
    }
}

#[test]
fn a_paragraph_ends_after_its_blank_lines() {
    for expected in [
        "a\nb\n\n¦c\n\n\n¦d",
        "\n\n a\n \t \n¦b\n\n",
        "a\r\n\r\n¦b\r\n",
        "a\n\u{a0}\n¦b\n\u{3000}\n",
        "```\nx\n\ny\n```\n\n¦b",
        "a\n```\nx\n\ny\n```\nb\n\n¦c",
        "a\n\n¦~~~\n\n\n\nit never closes\n\n",
    ] {
        assert_cut("paragraph", expected);
    }
}

#[test]
fn a_blank_line_within_display_mathematics_ends_no_paragraph() {
    for expected in [
        "$$\nx\n\ny\n$$\n\n¦b",
        "so\n\\[\nx\n\ny\n\\]\n\n¦b",
        "so $$x\n\n+ y$$ and\n\n¦b",
        "$$x$$\n\n¦$$y$$\n\n¦b",
        "\\[x\\]\n\n¦\\[y\n\nz\\]\n\n¦b",
        // Of the other kind, marks close nothing.
        "$$\n\\]\n\nx\n$$\n\n¦b",
        // A mark without its counterpart is text.
        "It costs $$5.\n\n¦b\n\n¦c",
        "\\[ never closes\n\n¦b",
        "\\] never opened\n\n¦b\n\n¦\\[x\n\ny\\]",
        // `\\[2pt]` is a line break of a matrix, and `\$` a dollar.
        "a \\\\[2pt]\n\n¦b \\]\n\n¦c",
        "\\$$5\n\n¦\\$$6\n\n¦c",
        // Marks in code are code.
        "```\n$$\n```\n\n¦b\n\n¦$$x\n\ny$$",
        // One dollar is mathematics within a line.
        "$x$\n\n¦$y\n\n¦z$",
    ] {
        assert_cut("paragraph", expected);
    }
}

#[test]
fn every_line_is_a_step_with_the_blank_lines_behind_it() {
    for expected in [
        "a\n¦b\n\n \n¦c\n",
        "\n\na\n¦b",
        "a\r\n¦b\r\n\r\n",
        "a\n¦```python\nx = 1\n\ny = 2\n```\n\n¦b\n¦~~~\n~~~\n¦c",
        "```\na\nit never closes\n\n",
        "a\n¦    ```\n¦b",
    ] {
        assert_cut("line", expected);
    }
}

#[test]
fn white_space_alone_is_never_a_step() {
    for rule in Rule::NAMES {
        assert_eq!(steps(rule, ""), [""; 0], "{rule}");
        for text in [" ", "\n", "\n\n\n", " \t\n\r\n\u{a0}"] {
            assert_eq!(steps(rule, text), [text], "{rule}");
        }
    }
    let own = |text| Settings::new(Rule::new("delimiter", text).unwrap());
    assert_eq!(cut("a\n\nb\n\n", &own("\n\n")), ["a", "\n\nb\n\n"]);
    assert_eq!(cut("a. b. ", &own(" ")), ["a.", " b. "]);
}

fn joined(text: &str, least: usize, most: Option<usize>) -> Vec<&str> {
    let settings = Settings {
        min_size: NonZeroUsize::new(least).unwrap(),
        max_steps: most.and_then(NonZeroUsize::new),
        ..Settings::new(Rule::new("line", "###").unwrap())
    };
    cut(text, &settings)
}

#[test]
fn a_step_of_few_words_joins_the_next_one_and_the_last_the_one_before() {
    let text = "one\ntwo words\nand three words\nfour\n";
    assert_eq!(joined(text, 1, None).len(), 4);
    assert_eq!(
        joined(text, 2, None),
        ["one\ntwo words\n", "and three words\nfour\n"]
    );
    assert_eq!(
        joined(text, 3, None),
        ["one\ntwo words\n", "and three words\nfour\n"]
    );
    assert_eq!(joined(text, 4, None), [text]);
    assert_eq!(joined(text, 99, None), [text]);
}

#[test]
fn neighbours_are_joined_evenly_the_larger_ones_first() {
    let text = "1\n2\n3\n4\n5\n6\n7\n";
    assert_eq!(joined(text, 1, Some(3)), ["1\n2\n3\n", "4\n5\n", "6\n7\n"]);
    assert_eq!(joined(text, 1, Some(1)), [text]);
    assert_eq!(joined(text, 1, Some(7)).len(), 7);
    assert_eq!(joined(text, 1, Some(usize::MAX)).len(), 7);
    // Short steps are joined first.
    assert_eq!(joined(text, 2, Some(2)), ["1\n2\n3\n4\n", "5\n6\n7\n"]);
}

#[test]
fn many_lines_of_marks_take_linear_time() {
    // In quadratic time each of these would take minutes.
    for line in [
        "$$\n\n", "\\[\n\n", "```\n", "~~~ `\n", "### \n", "\n", "$", "\\", "`", " ", "#",
    ] {
        let text = line.repeat(100_000);
        for rule in Rule::NAMES {
            let found = steps(rule, &text);
            assert_eq!(
                found.iter().map(|step| step.len()).sum::<usize>(),
                text.len()
            );
        }
    }
}
