"""Each prompt once: the row that the model reads; states and gradients stay the same."""

import numpy as np
import pytest
import torch

from exprl import config
from exprl.learn.model import hidden_states
from exprl.learn.policy import Policy
from exprl.learn.shared_prompts import Family, share_prompts
from exprl.types import Packed

PROMPTS = ([3, 1, 4, 1, 5], [9, 2], [3, 1, 4, 1, 6])
EXAMPLES = [(0, [7]), (1, [8, 9]), (0, [8, 9, 7]), (2, [7]), (1, [8, 9]), (0, [5, 6, 7])]


def packed():
    """Six sequences: three answers to the first prompt, two to the second, one to the third."""
    rows = [(PROMPTS[i], response) for i, response in EXAMPLES]
    lengths = [len(prompt) + len(response) for prompt, response in rows]
    ends = np.cumsum(lengths)
    return Packed(
        input_ids=np.array([token for prompt, own in rows for token in (*prompt, *own)]),
        position_ids=np.concatenate([np.arange(n) for n in lengths]),
        cu_seqlens=np.array([0, *ends], np.int32),
        target_pos=np.concatenate(
            [np.arange(end - len(own), end) for end, (_, own) in zip(ends, rows, strict=True)]
        ),
    )


def learner(path, attention):
    torch.manual_seed(0)
    return Policy(
        config.Model(path=path, dtype="float32", attention=attention),
        config.Optim(),
        temperature=1.0,
        needs_initial=False,
    )


def test_each_prompt_lies_in_the_row_once_before_all_its_responses():
    row = share_prompts(packed())
    assert row.families == (Family(5, (1, 3, 3)), Family(2, (2, 2)), Family(5, (1,)))
    assert row.input_ids.tolist() == [
        *(3, 1, 4, 1, 5, 7, 8, 9, 7, 5, 6, 7),
        *(9, 2, 8, 9, 8, 9),
        *(3, 1, 4, 1, 6, 7),
    ]


def test_a_response_has_the_positions_that_follow_its_prompt():
    row = share_prompts(packed())
    assert row.position_ids[:12].tolist() == [0, 1, 2, 3, 4, 5, 5, 6, 7, 5, 6, 7]


def test_the_last_token_of_the_prompt_predicts_the_first_of_every_response():
    batch = packed()
    first = [0, 1, 3, 6, 7, 9]  # among the targets: where each response begins
    predicting = share_prompts(batch).predicting
    assert predicting[first].tolist() == [4, 13, 4, 22, 13, 4]
    assert predicting.shape == batch.target_pos.shape


def test_every_other_token_is_predicted_by_the_one_before_it():
    batch, row = packed(), share_prompts(packed())
    others = np.setdiff1d(np.arange(len(batch.target_pos)), [0, 1, 3, 6, 7, 9])
    read = row.input_ids[row.predicting[others]]
    assert read.tolist() == batch.input_ids[batch.target_pos[others] - 1].tolist()


@pytest.mark.parametrize("recompute", [False, True])
def test_states_and_gradients_are_those_of_a_copy_of_the_prompt_for_each(tiny_qwen3, recompute):
    batch, found = packed(), {}
    for attention in ("torch", "shared_prompts"):
        model = learner(tiny_qwen3, attention).model
        if recompute:
            model.gradient_checkpointing_enable()
        states = hidden_states(model, batch)
        weights = torch.linspace(-1, 1, states.numel()).view_as(states)
        (states * weights).sum().backward()
        found[attention] = (states.detach(), {n: p.grad for n, p in model.named_parameters()})
    (plain, expected), (shared, gradients) = found["torch"], found["shared_prompts"]
    torch.testing.assert_close(shared, plain)
    for name, gradient in expected.items():
        close = 1e-5 * gradient.abs().max()  # sums of the same terms in another order
        assert (gradients[name] - gradient).abs().max() <= close, name
