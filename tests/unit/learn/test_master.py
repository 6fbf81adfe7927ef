"""fp32 masters: gradients add up in fp32, and what the model computes with stays bf16."""

import torch
from torch import nn

from exprl.learn.master import Masters


class Tied(nn.Module):
    """An embedding that is the head too, a frozen layer and a buffer."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head = nn.Embedding(8, 4), nn.Linear(4, 8, bias=False)
        self.head.weight = self.embed.weight
        self.frozen = nn.Linear(4, 4, bias=False).requires_grad_(False)
        self.register_buffer("frequencies", torch.rand(4))

    def forward(self, ids):
        return self.head(self.frozen(self.embed(ids)))


def made(dtype):
    model = Tied()
    model.frozen.to(dtype)  # as what is frozen is loaded
    return model, Masters(model, dtype, torch.device("cpu"))


def test_a_tied_weight_has_one_master_and_a_frozen_one_has_none():
    model, masters = made(torch.bfloat16)
    assert list(masters.named) == ["embed.weight"]
    assert masters.named["embed.weight"].dtype == torch.float32
    assert model.head.weight is model.embed.weight
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model.frequencies.dtype == torch.float32


def test_gradients_of_micro_batches_add_up_in_fp32_and_leave_no_bf16_behind():
    model, masters = made(torch.bfloat16)
    parts = [torch.randint(0, 8, (5,), generator=torch.Generator().manual_seed(i)) for i in (0, 2)]
    alone = []
    for ids in parts:
        copy, own = made(torch.bfloat16)
        copy(ids).float().square().sum().backward()
        alone.append(own.named["embed.weight"].grad)
    for ids in parts:
        model(ids).float().square().sum().backward()
        assert model.embed.weight.grad is None
    total = masters.named["embed.weight"].grad
    assert total.dtype == torch.float32
    assert torch.equal(total, alone[0] + alone[1])
    assert not torch.equal(total, (alone[0] + alone[1]).bfloat16().float())


def test_published_values_are_the_masters_rounded():
    model, masters = made(torch.bfloat16)
    with torch.no_grad():
        masters.named["embed.weight"].add_(1e-4)
    masters.publish()
    assert torch.equal(model.embed.weight, masters.named["embed.weight"].bfloat16())
    state = masters.state_dict(model)
    assert torch.equal(state["head.weight"], masters.named["embed.weight"])
    assert torch.equal(state["frozen.weight"], model.frozen.weight)


def test_an_fp32_parameter_is_its_own_master():
    model, masters = made(torch.float32)
    assert masters.named["embed.weight"] is model.embed.weight
    masters.publish()
