"""`exprl doctor data`: each fault is found, and what is no fault is not."""

import json

import pytest
from typer.testing import CliRunner

from exprl.cli.app import app

GOOD = {
    "problem": "Tom has 5 apples and buys 3 more. How many apples does he have?",
    "solution": "He had 5 apples and bought 3, which makes 5 + 3 = 8.\nThe answer is \\boxed{8}.",
    "answer": "8",
}


@pytest.fixture
def doctor(tmp_path):
    """Run the command on rows; the exit code and its JSON."""

    def run(rows, *options):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        done = CliRunner().invoke(app, ["doctor", "data", str(path), "--json", *options])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.exit_code, json.loads(done.stdout)

    return run


def test_a_row_whose_reference_ends_with_another_answer_is_found(doctor):
    code, said = doctor([GOOD, GOOD | {"answer": "9", "problem": "What is 5 + 3 apples?"}])
    found = [(one["row"], one["fault"], one["proposal"]) for one in said["findings"]]
    assert code == 3 and (2, "gold_disagrees", "drop") in found
    assert 1 not in [row for row, *_ in found]
