"""Where a text is cut into steps."""

from case_files import every_line

from exprl.steps import split_text

NAMES = {"line:###": "heading", "paragraph": "paragraph", "line": "line"}
"""What the files call our rules; any other rule is a delimiter."""


@every_line("steps.jsonl")
def test_a_text_is_cut_where_its_rule_says(number, case):
    text, wanted = case["text"], case["expected_steps"]
    joined = {"max_steps": case["max_steps"]} if "max_steps" in case else {}
    if case["rule"] in NAMES:
        steps = split_text(text, NAMES[case["rule"]], **joined)
        # Which step the white space at a border belongs to is free.
        assert [step.strip() for step in steps] == [step.strip() for step in wanted]
        assert "".join(steps) == text
    else:
        assert list(split_text(text, delimiter=case["rule"], **joined)) == wanted
