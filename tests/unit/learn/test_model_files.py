"""A model that would fail later is refused before a run, by the file, the value and the remedy."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import CONTROL, make, make_weights

from exprl import config
from exprl.data.tokenizer import load_tokenizer
from exprl.errors import ConfigError
from exprl.learn.model import load
from exprl.learn.model_files import check_model

SHORT = config.Rollout(max_prompt_tokens=100, max_response_tokens=100)
NAME = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture
def folder(tmp_path):
    return make_weights(tmp_path / "m")


def checked(folder, rollout=SHORT):
    model = config.Model(path=str(folder), dtype="float32")
    return check_model(model, rollout, load_tokenizer(model))


def loaded(folder):
    model = config.Model(path=str(folder), dtype="float32")
    return load(model, model.path, torch.float32, torch.device("cpu"))


def reconfigured(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def rewritten(folder, change):
    """The weights with a change, as another file."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def test_a_whole_model_passes(folder):
    assert checked(folder) == "all tensors there, all values finite"
    loaded(folder)


def test_weights_that_are_not_here_yet_are_said_to_be_unchecked(tmp_path):
    assert checked(make(tmp_path / "m")) == "not here yet: files not looked at"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop(NAME), f"1 of its tensors are in no file, the first of them '{NAME}'"),
        (
            lambda t: t.update({NAME: torch.zeros(4, 16)}),
            rf"tensor '{NAME}' is \(4, 16\) in the file, but \(16, 16\) by config.json",
        ),
        (lambda t: t[NAME][3, 5:7].fill_(float("nan")), f"'{NAME}' has 2 values that are NaN"),
        (lambda t: t[NAME][0, 0].fill_(float("inf")), f"'{NAME}' has 1 values that are NaN"),
    ],
)
@pytest.mark.parametrize("look", [checked, loaded])
def test_a_tensor_that_is_missing_misshapen_or_no_number_is_named(folder, look, change, said):
    rewritten(folder, change)
    with pytest.raises(ConfigError, match=said):
        look(folder)


@pytest.mark.parametrize("keep", [0, 5, 400, -7])
def test_a_file_that_was_not_copied_whole_is_named_with_its_size(folder, keep):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ConfigError, match=r"model.safetensors \([\d,]+ bytes\) is damaged"):
        checked(folder)


def test_one_of_several_files_that_is_missing_is_told(folder):
    names = list(load_file(folder / "model.safetensors"))
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "a.safetensors")}
    index["weight_map"][names[0]] = "b.safetensors"
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ConfigError, match=r"b\.safetensors"):
        checked(folder)


def test_more_tokens_than_positions_are_refused_with_all_three_numbers(folder):
    rollout = config.Rollout(max_prompt_tokens=300, max_response_tokens=213)
    with pytest.raises(ConfigError, match=r"300 .* 213 make 513 .* max_position_embeddings = 512"):
        checked(folder, rollout)
    checked(folder, config.Rollout(max_prompt_tokens=300, max_response_tokens=212))


def test_positions_that_are_stretched_count(folder):
    rope = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}
    reconfigured(folder, rope_parameters=rope | {"rope_theta": 10000.0})
    checked(folder, config.Rollout(max_prompt_tokens=1000, max_response_tokens=1000))


def test_a_tokenizer_with_more_ids_than_the_embedding_has_rows_is_refused(tmp_path):
    folder = make_weights(tmp_path / "m", vocab_size=258)
    last = 256 + len(CONTROL) - 1
    with pytest.raises(ConfigError, match=f"'</think>' with id {last}, but .* vocab_size = 258"):
        checked(folder)


@pytest.mark.parametrize("kind", ["BertForMaskedLM", "T5EncoderModel", "Qwen3Model"])
def test_a_model_that_writes_no_text_from_left_to_right_is_refused(folder, kind):
    reconfigured(folder, architectures=[kind])
    with pytest.raises(ConfigError, match=f"architectures = .*{kind}.*, which is no causal"):
        checked(folder)
