"""Packing: every token once, every advantage on its own segment, weights that add up to one."""

import numpy as np
import pytest

from exprl.learn.batch import fill_rate, pack, rollout_examples
from exprl.types import Rollout, Scored, Segment


def scored(index, ends, prompt=3, versions=None, **kwargs):
    """A rollout whose tokens are 100 * index + position, cut at `ends`."""
    n = ends[-1]
    starts = [0, *ends[:-1]]
    rollout = Rollout(
        problem_id="p",
        index=index,
        prompt_ids=np.full(prompt, 7, dtype=np.int32),
        token_ids=np.arange(n, dtype=np.int32) + 100 * index,
        generator_logp=np.full(n, -float(index), dtype=np.float32),
        finish_reason="stop",
        versions=np.array(versions or [0] * n, dtype=np.int32),
    )
    segments = tuple(Segment(a, b, "x") for a, b in zip(starts, ends, strict=True))
    ones = (1.0,) * len(ends)
    return Scored(rollout, segments, (5,) * len(ends), ones, None, **kwargs)


def packed(items, advantages, **change):
    settings = {
        "mini_batches": 1,
        "micro_batch_tokens": 1000,
        "aggregation": "token_mean",
        "max_response_tokens": 50,
    }
    examples = rollout_examples(items, [np.array(a) for a in advantages])
    return pack(examples, **(settings | change))


def test_each_token_carries_the_advantage_of_its_segment():
    [[batch]] = packed([scored(1, [2, 5]), scored(2, [1, 2, 4])], [[0.5, -0.5], [1.0, 2.0, 3.0]])
    targets = batch.input_ids[batch.target_pos]
    assert targets.tolist() == [100, 101, 102, 103, 104, 200, 201, 202, 203]
    per_token = batch.seg_adv[batch.seg_id]
    assert per_token.tolist() == [0.5, 0.5, -0.5, -0.5, -0.5, 1.0, 2.0, 3.0, 3.0]
    assert batch.generator_logp.tolist() == [-1.0] * 5 + [-2.0] * 4


def test_sequences_lie_end_to_end_with_positions_of_their_own():
    [[batch]] = packed([scored(1, [2]), scored(2, [1])], [[1.0], [1.0]])
    assert batch.cu_seqlens.tolist() == [0, 5, 9]
    assert batch.position_ids.tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3]
    assert batch.input_ids.tolist() == [7, 7, 7, 100, 101, 7, 7, 7, 200]
    assert batch.target_pos.tolist() == [3, 4, 8]


def test_an_outcome_advantage_lies_on_every_token():
    [[batch]] = packed([scored(1, [2, 5])], [[0.25]])
    assert batch.seg_adv[batch.seg_id].tolist() == [0.25] * 5


@pytest.mark.parametrize(
    ("aggregation", "weights"),
    [
        ("token_mean", [1 / 6] * 4 + [1 / 6] * 2),
        ("sequence_mean", [1 / 8] * 4 + [1 / 4] * 2),
        ("sequence_sum", [1 / 100] * 2 + [1 / 100] * 4),  # 2 sequences x 50 tokens at most
    ],
)
def test_token_weights_are_the_aggregation(aggregation, weights):
    [[batch]] = packed([scored(1, [4]), scored(2, [2])], [[1.0], [1.0]], aggregation=aggregation)
    np.testing.assert_allclose(batch.token_weight, weights, rtol=1e-6)


def test_micro_batches_of_a_mini_batch_share_one_mean():
    items = [scored(i, [5]) for i in range(1, 5)]
    [batches] = packed(items, [[1.0]] * 4, micro_batch_tokens=16)
    assert [len(b.cu_seqlens) - 1 for b in batches] == [2, 2]
    assert sum(b.token_weight.sum() for b in batches) == pytest.approx(1.0)


def test_a_rollout_longer_than_a_micro_batch_goes_alone():
    items = [scored(1, [2]), scored(2, [40]), scored(3, [2])]
    [batches] = packed(items, [[1.0]] * 3, micro_batch_tokens=16)
    assert [len(b.target_pos) for b in batches] == [40, 4]
    assert fill_rate([batches], 16) == (43 + 10) / (43 + 16)


def test_mini_batches_are_parts_of_whole_rollouts_each_with_a_mean_of_its_own():
    minis = packed([scored(i, [2]) for i in range(1, 5)], [[1.0]] * 4, mini_batches=2)
    assert [[b.token_weight.sum() for b in m] for m in minis] == [[pytest.approx(1.0)]] * 2


def test_a_rollout_with_a_missing_score_is_out_and_not_in_the_denominator():
    [[batch]] = packed([scored(1, [2]), scored(2, [1, 4])], [[1.0], [np.nan, np.nan]])
    assert batch.input_ids[batch.target_pos].tolist() == [100, 101]
    assert batch.token_weight.sum() == pytest.approx(1.0)


def test_a_masked_rollout_is_out():
    assert packed([scored(1, [2], masked=True)], [[1.0]]) == []


def test_advantages_that_do_not_fit_the_segments_are_refused():
    with pytest.raises(ValueError, match="2 advantages for the 3 segments of rollout 1"):
        packed([scored(1, [1, 2, 3])], [[1.0, 2.0]])


@pytest.mark.parametrize(
    ("aggregation", "first", "second"),
    [
        ("token_mean", [0.0, 0.0, 1 / 4], [1 / 4] * 3),
        ("sequence_mean", [0.0, 0.0, 1 / 2], [1 / 6] * 3),
        ("sequence_sum", [0.0, 0.0, 1 / 100], [1 / 100] * 3),
    ],
)
def test_tokens_that_are_too_old_weigh_nothing_and_are_not_in_the_denominator(
    aggregation, first, second
):
    items = [scored(1, [2, 3], versions=[4, 5, 6]), scored(2, [3], versions=[6, 7, 7])]
    [[batch]] = packed(items, [[1.0, 2.0], [3.0]], aggregation=aggregation, oldest_version=6)
    assert batch.token_weight.tolist() == pytest.approx([*first, *second])
    assert batch.seg_adv[batch.seg_id].tolist() == [1.0, 1.0, 2.0, 3.0, 3.0, 3.0]


def test_a_rollout_of_tokens_that_are_too_old_is_out():
    items = [scored(1, [3], versions=[4, 5, 5]), scored(2, [2], versions=[6, 6])]
    [[batch]] = packed(items, [[1.0], [1.0]], oldest_version=6)
    assert batch.input_ids[batch.target_pos].tolist() == [200, 201]
    assert batch.token_weight.tolist() == [0.5, 0.5]
    assert packed(items, [[1.0], [1.0]], oldest_version=7) == []
