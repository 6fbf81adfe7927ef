"""Packing by length: every sequence once, no micro-batch too long, few of them, equal gradients."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from exprl import config
from exprl.learn import model
from exprl.learn.batch import fill_rate, pack
from exprl.learn.packing import pack_bins
from exprl.types import Example
from exprl_kernels import linear_grpo_loss

LENGTHS = st.lists(st.integers(1, 40), max_size=60)


@given(LENGTHS, st.integers(1, 100))
def test_every_sequence_lies_in_one_micro_batch_that_holds_it(lengths, limit):
    packed = pack_bins(lengths, limit)
    assert sorted(i for part in packed for i in part) == list(range(len(lengths)))
    for part in packed:
        assert sum(lengths[i] for i in part) <= limit or len(part) == 1


@given(LENGTHS, st.integers(1, 100))
def test_no_two_micro_batches_would_fit_into_one(lengths, limit):
    sizes = sorted(sum(lengths[i] for i in part) for part in pack_bins(lengths, limit))
    assert len(sizes) < 2 or sizes[0] + sizes[1] > limit


@given(LENGTHS, st.integers(1, 100))
def test_the_longest_sequence_comes_first(lengths, limit):
    first = [max(lengths[i] for i in part) for part in pack_bins(lengths, limit)]
    assert first == sorted(first, reverse=True)


def of_length(tokens, index=0, prompt=2, teacher=None):
    """An example of two segments whose numbers depend on `index`."""
    rng = np.random.default_rng(index)
    first = tokens // 2
    return Example(
        prompt_ids=rng.integers(0, 16, prompt).astype(np.int32),
        token_ids=rng.integers(0, 16, tokens).astype(np.int32),
        generator_logp=rng.uniform(-4.0, -1.0, tokens).astype(np.float32),
        advantages=rng.normal(size=2 if first else 1),
        segment_tokens=(first, tokens - first) if first else (tokens,),
        teacher_ids=None if teacher is None else np.zeros(teacher, np.int32),
    )


def packed(examples, micro_batch_tokens, aggregation="token_mean", mini_batches=1):
    return pack(
        examples,
        mini_batches=mini_batches,
        micro_batch_tokens=micro_batch_tokens,
        aggregation=aggregation,
        max_response_tokens=64,
    )


# Solutions of about 10,400 tokens, cut at 16,384, and answers of grade-school problems.
LONG = {"mean": 10_400, "spread": 0.5, "cut": 16_384, "prompt": 200}
SHORT = {"mean": 160, "spread": 0.4, "cut": 500, "prompt": 90}


def lognormal(count, *, mean, spread, cut, prompt):
    rng = np.random.default_rng(0)
    lengths = rng.lognormal(math.log(mean) - spread**2 / 2, spread, count)
    return (np.minimum(lengths, cut).astype(int) + prompt).tolist()


@pytest.mark.parametrize(
    ("lengths", "limit"),
    [
        (lognormal(576, **LONG), 24_576),
        (lognormal(288, **LONG), 24_576),
        (lognormal(576, **LONG), 32_768),
        (lognormal(288, **LONG), 49_152),
        (lognormal(512, **SHORT), 2048),
        (lognormal(512, **SHORT), 4096),
    ],
)
def test_micro_batches_of_real_lengths_are_97_percent_full(lengths, limit):
    rooms = sum(lengths) / limit
    # Their number is whole: 31.0 micro-batches of tokens need 32.
    assert len(pack_bins(lengths, limit)) <= max(math.ceil(rooms), rooms / 0.97)


def test_sequences_of_one_length_lie_together():
    [[batch]] = packed([of_length(n, i) for i, n in enumerate((3, 5, 3, 9, 5, 3))], 1000)
    assert np.diff(batch.cu_seqlens).tolist() == [11, 7, 7, 5, 5, 5]


def test_a_longer_teacher_prompt_counts_instead_of_the_policys():
    examples = [of_length(4, i, prompt=2, teacher=10) for i in range(4)]
    [batches] = packed(examples, 30)
    assert [len(b.teacher.input_ids) for b in batches] == [28, 28]
    assert fill_rate([batches], 30) == 28 / 30


def test_there_is_no_fill_without_micro_batches():
    assert math.isnan(fill_rate([], 100))


@pytest.fixture(scope="module")
def qwen3(tiny_qwen3):
    settings = config.Model(path=tiny_qwen3, dtype="float32")
    return model.load(settings, tiny_qwen3, torch.float64, torch.device("cpu"))


def gradient(network, batches):
    """Of the whole loss, with every term, over the micro-batches of a mini-batch."""
    network.zero_grad()
    for batch in batches:
        logp = torch.from_numpy(batch.generator_logp)
        linear_grpo_loss(
            model.hidden_states(network, batch),
            model.head(network).weight,
            torch.from_numpy(batch.input_ids[batch.target_pos]),
            seg_adv=torch.from_numpy(batch.seg_adv),
            seg_id=torch.from_numpy(batch.seg_id),
            token_weight=torch.from_numpy(batch.token_weight),
            trainer_logp=logp + 0.1,
            initial_logp=logp - 0.2,
            generator_logp=logp,
            temperature=0.7,
            clip_low=0.2,
            clip_high=0.28,
            kl_coef=0.01,
            entropy_coef=0.01,
            importance_cap=2.0,
        ).loss.backward()
    return torch.cat([p.grad.flatten() for p in network.parameters()])


@settings(max_examples=12)
@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(1, 9)), min_size=1, max_size=7),
    st.integers(1, 40),
    st.sampled_from(["token_mean", "sequence_mean", "sequence_sum"]),
)
def test_which_sequences_share_a_micro_batch_does_not_change_the_gradient(
    qwen3, shapes, limit, aggregation
):
    examples = [of_length(n, i, prompt) for i, (prompt, n) in enumerate(shapes)]
    [one_each] = packed(examples, 1, aggregation)
    [batches] = packed(examples, limit, aggregation)
    weights = [sum(float(b.token_weight.sum()) for b in part) for part in (one_each, batches)]
    assert weights[0] == pytest.approx(weights[1], rel=1e-6)
    expected, found = gradient(qwen3, one_each), gradient(qwen3, batches)
    # fp64, but for RMSNorm: Qwen3 takes it in fp32, 9 times here, forward and backward.
    assert float((found - expected).norm() / expected.norm()) < 18 * torch.finfo(torch.float32).eps
