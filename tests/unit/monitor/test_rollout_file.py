"""Rollouts as the parquet file of a step."""

import threading

import numpy as np
import pytest
from pyarrow import parquet

from exprl.monitor.rollout_file import RolloutWriter, write_rollouts
from exprl.types import Rollout, Scored, Segment


def scored(*versions):
    n = len(versions)
    ids, logp = np.zeros(n, np.int32), np.zeros(n, np.float32)
    rollout = Rollout("p", 0, ids, ids, logp, "stop", np.array(versions, np.int32))
    return Scored(rollout, (Segment(0, n, "x"),), (5,), (1.0,), None)


def test_the_policy_version_of_every_token_is_kept_and_a_rollout_without_tokens_has_none(tmp_path):
    path = write_rollouts(tmp_path, 0, [scored(3, 3, 4), scored()], [np.zeros(1)] * 2)
    table = parquet.read_table(path)
    assert table["versions"].to_pylist() == [[3, 3, 4], []]
    assert table["policy_version"].to_pylist() == [3, None]


def test_what_is_missing_is_null_and_what_was_not_measured_is_nan(tmp_path):
    graded = scored(0, 0, 0)
    one = Scored(graded.rollout, graded.segments, (None, 4), (None, 0.75), None, domain="math")
    one.rollout.generator_logp[1] = np.nan
    path = write_rollouts(tmp_path, 7, [one], [np.array([np.nan, -0.5])])
    [row] = parquet.read_table(path).to_pylist()
    assert (row["grades"], row["scores"]) == ([None, 4], [None, 0.75])
    assert (row["advantages"], row["correct"], row["missing"]) == ([None, -0.5], None, True)
    assert np.isnan(row["generator_logp"]).tolist() == [False, True, False]
    assert path.name == "step-00007.parquet"


def test_the_columns_have_the_types_that_readers_know(tmp_path):
    path = write_rollouts(tmp_path, 0, [scored()], [np.zeros(0)])
    kinds = {field.name: str(field.type) for field in parquet.read_schema(path)}
    assert kinds == {
        "problem_id": "string",
        "domain": "string",
        "index": "int32",
        "policy_version": "int64",
        "finish_reason": "string",
        "segments": "list<element: string>",
        "segment_end": "list<element: int32>",
        "grades": "list<element: int8>",
        "scores": "list<element: double>",
        "advantages": "list<element: double>",
        "correct": "bool",
        "missing": "bool",
        "token_ids": "list<element: int32>",
        "versions": "list<element: int32>",
        "generator_logp": "list<element: float>",
        "question": "string",
        "answer": "string",
        "reference": "string",
        "statuses": "list<element: string>",
        "ledger_keys": "list<element: string>",
        "reasons": "list<element: string>",
        "masked": "bool",
        "overlong": "bool",
        "blank": "bool",
        "injection": "bool",
        "opening": "string",
        "length": "int32",
    }


def test_each_rollout_needs_its_advantages(tmp_path):
    with pytest.raises(ValueError, match="2 rollouts, but advantages of 1"):
        write_rollouts(tmp_path, 0, [scored(), scored()], [np.zeros(1)])


class Gate:
    """A list of one rollout that is given out when the gate opens: a write that takes its time."""

    def __init__(self):
        self.reached, self.opened = threading.Event(), threading.Event()

    def __len__(self):
        return 1

    def __iter__(self):
        self.reached.set()
        self.opened.wait()
        return iter([scored(0)])


def test_a_step_is_written_beside_the_caller_and_one_at_a_time(tmp_path):
    gate, second = Gate(), []
    with RolloutWriter(tmp_path) as writer:
        writer.submit(0, gate, [np.zeros(1)])
        gate.reached.wait()  # the write is under way, and we are here
        submitting = threading.Thread(
            target=lambda: (writer.submit(1, [scored(0)], [np.zeros(1)]), second.append(True))
        )
        submitting.start()
        submitting.join(0.2)
        assert not second, "the second write waits for the first"
        gate.opened.set()
        submitting.join()
    names = sorted(path.name for path in (tmp_path / "rollouts").iterdir())
    assert names == ["step-00000.parquet", "step-00001.parquet"]


@pytest.mark.parametrize("joined_by", ["join", "submit", "the end"])
def test_a_write_that_fails_is_told_when_it_is_joined(tmp_path, joined_by):
    (tmp_path / "rollouts").write_text("a file where the folder should be")
    writer = RolloutWriter(tmp_path)
    writer.submit(0, [scored(0)], [np.zeros(1)])
    with pytest.raises(FileExistsError):
        match joined_by:
            case "join":
                writer.join()
            case "submit":
                writer.submit(1, [scored(0)], [np.zeros(1)])
            case "the end":
                with writer:
                    pass
    writer.join()  # told once
