"""The rollouts of a report: the ends of everything, over all steps, and what cannot be shown."""

from __future__ import annotations

import numpy as np
import pytest
from pyarrow import parquet

from exprl import files
from exprl.monitor.report.page import write_report
from exprl.monitor.report.runs import read_run
from exprl.monitor.report.samples import STEPS, TEXT, Text, find_samples
from exprl.monitor.rollout_file import write_rollouts
from exprl.monitor.rollout_reader import ADDED, Rollouts
from exprl.types import Message, Problem, Prompt, Rollout, Scored, Segment


def rollout(problem, index, grades, correct=None, texts=None):
    texts = texts or [f"step {i}." for i in range(len(grades))]
    ids = np.arange(len(texts), dtype=np.int32)
    logp = np.zeros(len(ids), np.float32)
    return Scored(
        Rollout(problem, index, np.zeros(1, np.int32), ids, logp, "stop", np.zeros_like(ids)),
        tuple(Segment(i, i + 1, text) for i, text in enumerate(texts)),
        tuple(grades),
        tuple(None if grade is None else (grade - 1) / 4 for grade in grades),
        correct,
    )


def write(folder, step, scored):
    names = {one.rollout.problem_id for one in scored}
    problems = {
        name: Problem(name, Prompt(name, (Message("user", f"{name}?"),)), "42", "math")
        for name in names
    }
    advantages = [np.zeros(len(one.segments)) for one in scored]
    references = dict.fromkeys(names, "the reference")
    write_rollouts(
        folder,
        step,
        scored,
        advantages,
        problems=problems,
        references=references,
        trained_version=step,
    )


@pytest.fixture
def folder(tmp_path):
    rows = [{"step": step, "time_s": 1.8e9, "reward/mean": 0.5} for step in (1, 2)]
    files.write_jsonl(tmp_path / "metrics.jsonl", rows)
    files.write_json(tmp_path / "run.json", {"first_step": 1, "starts": []})
    write(
        tmp_path,
        1,
        [
            rollout("a", 0, (5, 5), True),
            rollout("a", 1, (5, 4), True),
            rollout("b", 0, (1, 1), False),
        ],
    )
    write(
        tmp_path,
        2,
        [
            rollout("a", 0, (1, 5), False),
            rollout("b", 0, (2, 2), False),
            rollout("c", 0, (None, 3)),
        ],
    )
    return tmp_path


def shelf(folder, name, limit=3):
    found = find_samples(read_run(folder, "a"), limit)
    return next(shelf for shelf in found.shelves if shelf.pick.name == name)


def places(shelf):
    return [(s.step, s.rollout.problem_id, s.rollout.index) for s in shelf.samples]


def test_picks_look_at_all_steps_and_show_one_rollout_of_each_problem(folder):
    best = shelf(folder, "best")
    assert places(best) == [(1, "a", 0), (2, "b", 0)]
    assert best.count == 5  # one has no mean score
    assert places(shelf(folder, "worst")) == [(1, "b", 0), (2, "a", 0)]
    wrong = shelf(folder, "wrong_but_5")
    assert (places(wrong), wrong.count) == ([(2, "a", 0)], 1)


def test_of_equal_rollouts_the_newest_is_shown(folder):
    write(folder, 3, [rollout("d", 0, (5, 5), True)])
    assert places(shelf(folder, "best", limit=1)) == [(3, "d", 0)]


def test_a_sample_brings_question_answer_and_reference(folder):
    [sample] = shelf(folder, "best", limit=1).samples
    shown = [text and text.text for text in (sample.question, sample.answer, sample.reference)]
    assert shown == ["a?", "42", "the reference"]
    assert sample.command.endswith("--step 1 --problem a")


def test_a_report_to_give_away_holds_no_reference(folder):
    assert "the reference" in _report(folder)
    write_report([folder], folder / "report.html", references=False)
    assert "the reference" not in (folder / "report.html").read_text()


def test_long_texts_and_many_steps_are_cut_and_counted(folder):
    grades, texts = (5,) * (STEPS + 3), ["x" * (TEXT + 7), *["y"] * (STEPS + 2)]
    write(folder, 3, [rollout("d", 0, grades, texts=texts)])
    [sample] = shelf(folder, "longest", limit=1).samples
    assert (len(sample.steps), sample.left) == (STEPS, 3)
    assert (len(sample.steps[0].text.text), sample.steps[0].text.left) == (TEXT, 7)


def test_of_long_words_of_the_judge_both_ends_are_shown():
    words = Text.both_ends("a" * TEXT + "b" * TEXT + "Score: 5")
    assert words.text.startswith("aaa") and words.end.endswith("bbScore: 5")
    assert len(words.text) + len(words.end) == TEXT
    assert words.left == TEXT + len("Score: 5")
    assert Text.both_ends("Score: 5") == Text("Score: 5", 0)


def test_problems_stand_by_their_last_score_with_what_they_came_to(folder):
    found = find_samples(read_run(folder, "a"), 1)
    assert found.problems == 3
    [best], [worst] = found.best, found.worst
    assert (best.problem_id, best.right, best.checked) == ("a", 2, 3)
    assert [visit.reward for visit in best.visits] == [0.9375, 0.5]
    assert best.question == Text("a?", 0)
    assert (worst.problem_id, [visit.reward for visit in worst.visits]) == ("b", [0.0, 0.25])


def test_files_of_an_earlier_exprl_are_shown_without_what_they_lack(folder):
    path = Rollouts(folder).path(1)
    table = parquet.read_table(path).drop_columns([*ADDED, "versions"])
    parquet.write_table(table.replace_schema_metadata(), path)
    found = find_samples(read_run(folder, "a"), 1)
    assert "Not known of all: blank, injection, masked, overlong, statuses" in found.notes[0]
    assert places(shelf(folder, "best", limit=1)) == [(1, "a", 0)]
    assert "an earlier exprl wrote" in _report(folder)


def test_a_file_that_cannot_be_read_is_named_and_the_others_are_shown(folder):
    Rollouts(folder).path(1).write_bytes(b"no parquet")
    found = find_samples(read_run(folder, "a"), 1)
    assert "step-00001.parquet cannot be read" in found.notes[0]
    assert places(shelf(folder, "best", limit=1)) == [(2, "a", 0)]


def test_a_run_without_rollouts_says_so(tmp_path):
    files.write_jsonl(tmp_path / "metrics.jsonl", [{"step": 1, "time_s": 1.8e9}])
    assert "There are no rollouts to show" in _report(tmp_path)


def _report(folder):
    write_report([folder], folder / "report.html")
    return (folder / "report.html").read_text()
