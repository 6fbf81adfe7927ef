"""A step's file, read back: what was written, in parts, and what older files lack."""

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from exprl.errors import DataError
from exprl.monitor.picks import PICKS, mean_scores, pick
from exprl.monitor.rollout_file import write_rollouts
from exprl.monitor.rollout_reader import ADDED, NARROW, Rollouts
from exprl.types import Message, Problem, Prompt, Rollout, Scored, Segment

KEY = "ab" * 32


def rollout(name, index, tokens, finish="stop"):
    return Rollout(
        name,
        index,
        np.zeros(1, np.int32),
        np.arange(tokens, dtype=np.int32),
        np.full(tokens, -0.5, np.float32),
        finish,
        np.full(tokens, 3, np.int32),
    )


def scored(name, index, grades, *, texts=None, finish="stop", statuses=None, **more):
    texts = texts if texts is not None else [f"step {i}." for i in range(len(grades))]
    segments = tuple(Segment(2 * i, 2 * i + 2, text) for i, text in enumerate(texts))
    scores = tuple(None if g is None else (g - 1) / 4 for g in grades)
    return Scored(
        rollout(name, index, 2 * len(texts), finish),
        segments,
        tuple(grades),
        scores,
        more.pop("correct", None),
        domain="math",
        statuses=statuses or tuple("ok" if g else "unparseable" for g in grades),
        ledger_keys=(KEY,) * len(grades),
        **more,
    )


def problem(name, **more):
    return Problem(name, Prompt(name, (Message("user", f"{name}?"),)), "42", "math", **more)


PROBLEMS = {"p": problem("p"), "q": problem("q", more_answers=("43",))}
GROUPS = [
    scored("p", 0, (5, 1, 5), correct=False),
    scored("p", 1, (1,), correct=True, statuses=("repaired",)),
    scored("q", 0, (4, None, 2), correct=True, reasons=("no grade",)),
    scored("q", 1, (3,), texts=("Score: 5", " and", " on"), finish="length", overlong=True),
]


@pytest.fixture
def run(tmp_path):
    advantages = [np.array([0.0, -1.0, 0.5]), np.zeros(1), np.full(3, np.nan), np.array([0.25])]
    references = {"p": "the solution", "q": None}
    write_rollouts(
        tmp_path,
        3,
        GROUPS,
        advantages,
        problems=PROBLEMS,
        references=references,
        trained_version=5,
    )
    return Rollouts(tmp_path)


def test_a_rollout_has_its_problem_its_steps_and_what_was_said_of_each(run):
    one = run.read(3, 0)
    assert (one.question, one.answer, one.reference) == ("p?", "42", "the solution")
    assert [(s.text, s.start, s.end) for s in one.steps] == [
        ("step 0.", 0, 2),
        ("step 1.", 2, 4),
        ("step 2.", 4, 6),
    ]
    assert [(s.grade, s.score, s.advantage) for s in one.steps] == [
        (5, 1.0, 0.0),
        (1, 0.0, -1.0),
        (5, 1.0, 0.5),
    ]
    assert {(s.status, s.ledger_key) for s in one.steps} == {("ok", KEY)}
    assert one.token_ids.tolist() == list(range(6))
    assert one.generator_logp.dtype == np.float32
    assert one.lag.tolist() == [2] * 6, "trained at version 5, sampled at 3"
    assert (one.correct, one.missing, one.injection, one.lacks) == (False, False, False, ())


def test_a_grade_of_the_whole_is_one_step_of_the_whole(run):
    one = run.read(3, 3)
    [whole] = one.steps
    assert (whole.text, whole.start, whole.end) == ("Score: 5 and on", 0, 6)
    assert (whole.grade, whole.advantage) == (3, 0.25)
    assert one.segment_end.tolist() == [2, 4, 6]
    assert (one.overlong, one.injection, one.reference) == (True, True, None)
    assert one.answer == "42 or 43"


def test_what_is_missing_is_none_and_has_its_reason(run):
    one = run.read(3, 2)
    assert [s.grade for s in one.steps] == [4, None, 2]
    assert [s.advantage for s in one.steps] == [None] * 3
    assert (one.steps[1].status, one.reasons, one.missing) == ("unparseable", ("no grade",), True)


def test_a_problem_is_one_row_group_and_its_rollouts_are_read_without_the_others(run):
    file = parquet.ParquetFile(run.path(3))
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [2, 2]
    group = run.group(3, "q")
    assert [(one.row, one.index, one.problem_id) for one in group] == [(2, 0, "q"), (3, 1, "q")]


def test_a_missing_step_row_or_problem_is_named(run, tmp_path):
    assert run.steps() == [3]
    with pytest.raises(DataError, match="no rollouts of step 4; it has steps 3 to 3"):
        run.read(4, 0)
    with pytest.raises(DataError, match="the rollouts 0 to 3, and no rollout 9"):
        run.read(3, 9)
    with pytest.raises(DataError, match="no rollout of the problem 'r'; it has p, q"):
        run.group(3, "r")
    with pytest.raises(DataError, match=r"has no rollouts: .*save_rollouts"):
        Rollouts(tmp_path / "nothing").table(1)
    run.path(4).write_bytes(b"not parquet")
    with pytest.raises(DataError, match="cannot be read as a rollout file"):
        run.read(4, 0)


def as_older(path):
    """The file as an exprl wrote it that did not know the new columns."""
    table = parquet.read_table(path).drop_columns([*ADDED, "versions"])
    parquet.write_table(table.replace_schema_metadata(), path)


def test_an_older_file_shows_what_is_there_and_says_what_it_lacks(run):
    as_older(run.path(3))
    one = run.read(3, 0)
    assert one.lacks == run.lacks(3) == ("versions", *ADDED)
    assert (one.question, one.masked, one.injection, one.lag) == (None,) * 4
    assert [(s.grade, s.status, s.ledger_key) for s in one.steps] == [
        (5, None, None),
        (1, None, None),
        (5, None, None),
    ]
    table = run.table(3)
    assert table.column_names == list(NARROW)
    assert table["length"].to_pylist() == [6, 2, 6, 6]
    assert table["statuses"].to_pylist() == [None] * 4
    assert [one.row for one in pick(run, "wrong_but_5", [3])] == [0]
    for name in ("repaired", "injection", "blank"):
        with pytest.raises(DataError, match="an older exprl wrote it"):
            pick(run, name, [3])


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("best", [0, 3, 1]),
        ("worst", [1, 3, 0]),
        ("disagree", [1, 0, 2]),
        ("wrong_but_5", [0]),
        ("right_but_1", [1]),
        ("missing", [2]),
        ("repaired", [1]),
        ("injection", [3]),
        ("largest_advantage", [0, 3, 1]),
        ("longest", [0, 2, 3, 1]),
        ("single_step", [1]),
        ("overlong", [3]),
        ("blank", []),
    ],
)
def test_a_pick_names_its_rollouts_the_strongest_first(run, name, rows):
    assert [one.row for one in pick(run, name, [3])] == rows
    assert PICKS[name].rows(run.table(3)).tolist() == rows


def test_picks_of_several_steps_are_one_list(run, tmp_path):
    one = scored("p", 0, (1, 1), correct=True)
    write_rollouts(tmp_path, 4, [one], [np.array([2.0, 0.0])], problems=PROBLEMS)
    found = pick(run, "largest_advantage", [3, 4], limit=2)
    assert [(p.step, p.row, p.strength) for p in found] == [(4, 0, 2.0), (3, 0, 1.0)]


def test_every_pick_and_the_reward_of_rollouts_without_steps_or_scores(tmp_path):
    failed = Scored(rollout("p", 0, 0, "failed"), (), (), (), None)
    write_rollouts(tmp_path, 1, [failed], [np.full(1, np.nan)])
    run = Rollouts(tmp_path)
    found = {name for name in PICKS if pick(run, name, [1])}
    assert found == {"missing", "longest"}
    assert np.isnan(mean_scores(run.table(1))).all()
    assert run.read(1, 0).steps == ()
    assert run.table(1, ["question"])["question"].type == pa.string()
