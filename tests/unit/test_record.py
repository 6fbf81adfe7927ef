"""Rollouts as the parquet file of a step."""

import numpy as np
from pyarrow import parquet

from exprl import record
from exprl.types import Rollout, Scored, Segment


def scored(*versions):
    n = len(versions)
    ids, logp = np.zeros(n, np.int32), np.zeros(n, np.float32)
    rollout = Rollout("p", 0, ids, ids, logp, "stop", np.array(versions, np.int32))
    return Scored(rollout, (Segment(0, n, "x"),), (5,), (1.0,), None)


def test_the_policy_version_of_every_token_is_kept_and_a_rollout_without_tokens_has_none(tmp_path):
    path = record.write(tmp_path, 0, [scored(3, 3, 4), scored()], [np.zeros(1)] * 2)
    table = parquet.read_table(path)
    assert table["versions"].to_pylist() == [[3, 3, 4], []]
    assert table["policy_version"].to_pylist() == [3, None]
