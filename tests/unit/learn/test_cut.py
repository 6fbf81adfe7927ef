"""How a mini-batch is shared out to ranks, and how shares get to them."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exprl.learn import ranks
from exprl.learn.ranks import cut
from exprl.types import Packed, TrainBatch


def micro(tokens, number=0, teacher=False):
    """A micro-batch of one sequence whose weights tell it from all others."""
    n = max(1, tokens // 2)
    packed = {
        "input_ids": np.arange(tokens),
        "position_ids": np.arange(tokens),
        "cu_seqlens": np.array([0, tokens], np.int32),
        "target_pos": np.arange(tokens - n, tokens),
    }
    return TrainBatch(
        **packed,
        generator_logp=np.zeros(n, np.float32),
        token_weight=np.full(n, 2.0**-number, np.float32),
        seg_adv=np.ones(1, np.float32),
        seg_id=np.zeros(n, np.int32),
        teacher=Packed(**packed) if teacher else None,
    )


minis = st.lists(st.integers(2, 500), min_size=1, max_size=20).map(
    lambda sizes: [micro(size, number) for number, size in enumerate(sizes)]
)


@given(minis, st.integers(1, 9))
def test_every_micro_batch_goes_to_one_rank_once(mini, world):
    dealt = [b for share in cut(mini, world) for b in share if not b.padding]
    assert sorted(map(id, dealt)) == sorted(map(id, mini))


@given(minis, st.integers(1, 9))
def test_all_ranks_compute_equally_often(mini, world):
    shares = cut(mini, world)
    assert len(shares) == world
    assert len({len(share) for share in shares}) == 1
    assert len(shares[0]) <= len(mini)


@given(minis, st.integers(1, 9))
def test_padding_weighs_nothing(mini, world):
    shares = cut(mini, world)
    whole = sum(b.token_weight.sum(dtype=np.float64) for b in mini)
    assert sum(b.token_weight.sum(dtype=np.float64) for s in shares for b in s) == whole
    assert all(not b.token_weight.any() for s in shares for b in s if b.padding)


@given(minis, st.integers(1, 9))
def test_no_rank_is_more_than_one_micro_batch_ahead_of_another(mini, world):
    loads = [sum(len(b.input_ids) for b in s if not b.padding) for s in cut(mini, world)]
    assert max(loads) - min(loads) <= max(len(b.input_ids) for b in mini)


@pytest.mark.parametrize("teacher", [False, True])
def test_a_share_goes_through_a_message_as_it_is(teacher):
    mini = [micro(9, 1, teacher), dataclasses.replace(micro(4, 2, teacher), padding=True)]
    message = ranks.with_batches("step", {"loss": {}}, [mini, mini[:1]])
    assert json.loads(json.dumps(message.settings)) == message.settings
    found = ranks.batches_of(message)
    assert [len(one) for one in found] == [2, 1]
    for own, other in zip([*found[0], *found[1]], [*mini, mini[0]], strict=True):
        assert own.padding == other.padding
        assert_equal(own, other)
        assert (own.teacher is None) == (other.teacher is None)
        if own.teacher:
            assert_equal(own.teacher, other.teacher)


def assert_equal(own, other):
    for field in dataclasses.fields(Packed if type(own) is Packed else TrainBatch):
        value = getattr(other, field.name)
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(getattr(own, field.name), value)
            assert getattr(own, field.name).dtype == value.dtype
