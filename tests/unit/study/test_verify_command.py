"""`exprl verify`: a line for each row, a summary, and the exit code."""

import json

import pytest
from typer.testing import CliRunner

from exprl.cli.app import app
from exprl.errors import ConfigError, DataError

ROWS = [
    {"answer": "12", "trace": "The answer is 12."},
    {"answer": "see figure", "trace": r"\boxed{3}"},
    {"answer": r"\boxed{7}", "trace": "It is 7"},
    {"answer": r"\frac12", "trace": "<think>0.5"},
    {"answer": None, "trace": r"\boxed{3}"},
    {"answer": "8", "trace": r"\boxed{9}"},
]


@pytest.fixture
def verify(tmp_path):
    """Run the command on rows; its exit code, its lines and what it says."""

    def run(rows, *options):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        done = CliRunner().invoke(app, ["verify", str(path), *options])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.exit_code, [json.loads(x) for x in done.stdout.splitlines()], done.stderr

    return run


def test_each_row_has_a_verdict_and_its_reason(verify):
    code, lines, said = verify(ROWS, "--max-unreadable", "0.5")
    assert code == 0
    assert [(line["read_as"], line["correct"], line["reason"]) for line in lines] == [
        ("12", True, "equals the gold answer"),
        (None, None, "the gold answer cannot be read"),
        ("7", False, "no marked answer"),
        (r"\frac12", False, "thinking never closes"),
        (None, None, "no gold answer"),
        ("8", False, "differs: found '9'"),
    ]
    assert lines[0] == {
        "id": "1",
        "domain": "math",
        "gold": "12",
        "read_as": "12",
        "correct": True,
        "found": "12",
        "reason": "equals the gold answer",
    }
    assert "6 rows, 5 gold answers; 1 of these cannot be read (20.0%)" in said
    assert "the first: row with the id '2': 'see figure'" in said
    assert "6 traces, strict: 1 right, 3 wrong, 2 not known" in said


def test_too_many_golds_that_cannot_be_read_are_exit_code_3(verify):
    code, lines, said = verify(ROWS)
    assert (code, len(lines)) == (3, 6)
    assert "--max-unreadable 0.05" in said
    assert verify(ROWS, "--max-unreadable", "0.2")[0] == 0


def test_the_search_may_be_lenient(verify):
    _, lines, said = verify(ROWS, "--lenient")
    assert lines[2]["correct"] is True
    assert "traces, lenient:" in said
    assert verify(ROWS, "--set", "reward.verify=lenient")[1][2]["correct"] is True
    assert verify(ROWS, "--set", "reward.verify=lenient", "--strict")[1][2]["correct"] is False


def test_columns_have_any_name_and_may_be_nested(verify):
    rows = [{"meta": {"gold": "C", "kind": "choice", "no": "q7"}, "out": "Answer: C", "answer": 5}]
    named = ("answer=meta.gold", "trace=out", "domain=meta.kind", "id=meta.no")
    _, [line], _ = verify(rows, *(x for one in named for x in ("--column", one)))
    assert (line["id"], line["domain"], line["correct"]) == ("q7", "choice", True)
    with pytest.raises(ConfigError, match="--column question=q: write KEY=NAME"):
        verify(rows, "--column", "question=q")
    with pytest.raises(DataError, match="nothere"):
        verify(rows, "--column", "trace=nothere")
    with pytest.raises(DataError, match="nothere"):
        verify(rows, "--column", "answer=nothere")


def test_golds_are_read_where_there_are_no_traces(verify):
    code, lines, said = verify([{"answer": "N/A"}, {"answer": "$3$"}], "--max-unreadable", "1")
    assert code == 0
    assert [set(line) for line in lines] == [{"id", "domain", "gold", "read_as"}] * 2
    assert [line["read_as"] for line in lines] == [None, "$3$"]
    assert "traces" not in said


def test_the_verifier_is_that_of_the_domain_or_the_one_named(verify):
    rows = [{"answer": "see figure", "trace": "Answer: see figure"}]
    assert verify(rows, "--verifier", "exact")[1][0]["correct"] is True
    assert verify(rows, "--domain", "exact")[1][0]["correct"] is True
    with pytest.raises(ConfigError, match="--verifier = 'maths'"):
        verify(rows, "--verifier", "maths")


def test_a_list_of_golds_needs_its_setting(verify):
    rows = [{"answer": ["1", "2"], "trace": r"\boxed{2}"}]
    with pytest.raises(DataError, match=r"row 1: column 'answer'.*data.answer_list"):
        verify(rows)
    [line] = verify(rows, "--set", "data.answer_list=any")[1]
    assert (line["gold"], line["read_as"], line["correct"]) == (["1", "2"], ["1", "2"], True)
    assert verify(rows, "--set", "data.answer_list=all")[1][0]["correct"] is False


def test_a_file_of_lines_is_written_whole(verify, tmp_path):
    out = tmp_path / "verdicts.jsonl"
    code, lines, _ = verify(ROWS[:1], "-o", str(out))
    assert (code, lines) == (0, [])
    assert json.loads(out.read_text())["correct"] is True
