"""vLLM ends rollouts where the model's files say, and truncates for evaluations only."""

import sys
from pathlib import Path

import pytest

from exprl import config
from exprl.data.tokenizer import load_tokenizer
from exprl.rollout.engine import open_engine
from exprl.types import Message, Prompt

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from tiny_models import NUMBER, make_weights, opened

PROMPT = Prompt("p", (Message("user", "6 * 7?"),))
TURN_END = NUMBER["</turn>"]


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """A model that mostly ends its turn; that token is named by its chat template alone."""
    from safetensors.torch import load_file, save_file

    path = tmp_path_factory.mktemp("m") / "m"
    folder = make_weights(path, opened("<think>\n"), eos="<eot>", head_dim=32)
    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"][TURN_END] *= 20.0
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    model = config.Model(path=str(folder), dtype="float32")
    rollout = config.Rollout(max_prompt_tokens=64, max_response_tokens=64)
    tokenizer = load_tokenizer(model)
    return open_engine(model, rollout, tokenizer=tokenizer, weights=str(folder))


@pytest.mark.engine
def test_a_rollout_stops_at_the_end_of_the_templates_turn(engine):
    rollouts = list(engine.sample([PROMPT], 8, 1, 1.0, 64))
    stopped = [r for r in rollouts if r.finish_reason == "stop"]
    assert stopped
    for one in stopped:
        ids = one.token_ids.tolist()
        assert ids[-1] in (TURN_END, NUMBER["<eot>"]) and TURN_END not in ids[:-1]
    assert any(r.token_ids[-1] == TURN_END for r in stopped)
    assert {r.opening for r in rollouts} == {"<think>\n"}


@pytest.mark.engine
@pytest.mark.parametrize("cut", [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}])
def test_an_evaluation_may_leave_unlikely_tokens_out_and_training_never_does(engine, cut):
    def drawn(*rest):
        rollouts = engine.sample([PROMPT], 8, 1, 2.0, 16, *rest)
        return {tuple(r.token_ids.tolist()) for r in rollouts}

    assert len(drawn(config.Truncation(**cut))) == 1
    assert len(drawn()) > 4
