"""Checkpoints: whole or not there, exact, and one run per folder."""

import json
import multiprocessing

import pytest
import torch
from tiny_models import make_weights

from exprl import config
from exprl.errors import ConfigError, DataError, StorageError
from exprl.learn.policy import Policy
from exprl.run import checkpoint
from exprl.run.checkpoint import RunState


class Tokenizer:
    """Writes one file, as a tokenizer would."""

    def save_pretrained(self, folder):
        (folder / "tokenizer.json").write_text("{}")


def policy(base, weights=None, dtype="float32", kind="adamw"):
    settings = config.Model(path=base, dtype=dtype)
    optim = config.Optim(lr=1e-2, kind=kind)
    return Policy(settings, optim, temperature=1.0, needs_initial=False, weights=weights)


def step(one):
    for i, master in enumerate(one.masters.named.values()):
        generator = torch.Generator().manual_seed(i)
        master.grad = torch.randn(master.shape, generator=generator)
    one.optimizer.step(one.version)
    one.masters.publish()
    one.version += 1


def weights_of(one):
    values = [*one.masters.named.values(), *one.model.parameters()]
    return torch.cat([value.detach().float().flatten() for value in values])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["adamw", "adamw8bit"])
def test_a_loaded_run_goes_on_exactly_as_if_it_had_not_stopped(tiny_qwen3, tmp_path, dtype, kind):
    through = policy(tiny_qwen3, None, dtype, kind)
    step(through)
    state = RunState(step=1, policy_version=1, solved={"b", "a"}, rollouts=8, ungraded=2)
    folder = checkpoint.save(tmp_path, state, through, Tokenizer(), keep=2)
    assert checkpoint.load_state(folder) == state

    resumed = policy(tiny_qwen3, str(folder), dtype, kind)
    assert torch.equal(weights_of(through), weights_of(resumed))
    resumed.load_optimizer(folder / checkpoint.TRAINER, 1)
    step(through), step(resumed)
    assert torch.equal(weights_of(through), weights_of(resumed))
    assert resumed.version == 2


def test_only_the_newest_are_kept_and_half_a_checkpoint_is_none(tiny_qwen3, tmp_path):
    one = policy(tiny_qwen3)
    for number in (1, 2, 10):
        checkpoint.save(tmp_path, RunState(step=number), one, Tokenizer(), keep=2)
    (tmp_path / "checkpoints" / ".step-00011.partial").mkdir()
    names = sorted(p.name for p in (tmp_path / "checkpoints").glob("step-*"))
    assert names == ["step-00002", "step-00010"]
    assert checkpoint.latest(tmp_path).name == "step-00010"


def test_a_folder_beside_the_checkpoints_is_none_of_them(tiny_qwen3, tmp_path):
    folder = checkpoint.save(tmp_path, RunState(step=1), policy(tiny_qwen3), Tokenizer(), keep=1)
    (tmp_path / "checkpoints" / "step-00001.bak").mkdir()
    assert checkpoint.folders(tmp_path) == [folder]


@pytest.mark.parametrize(
    "came", [{"temperature": 0.6, "top_p": 0.95, "top_k": 20}, {"do_sample": False, "top_k": 9}]
)
def test_ways_of_sampling_that_came_with_the_model_are_carried_over_as_they_are(tmp_path, came):
    """transformers loads such a file, and refuses to save what it loaded."""
    base = make_weights(tmp_path / "m")
    text = json.dumps({"eos_token_id": [3, 5], **came})
    (base / "generation_config.json").write_text(text)
    one = policy(str(base))
    checkpoint.try_saving(tmp_path, one, Tokenizer())
    assert not checkpoint.folders(tmp_path) and not (tmp_path / "checkpoints" / ".trial").exists()
    folder = checkpoint.save(tmp_path, RunState(step=1), one, Tokenizer(), keep=1)
    assert (folder / "generation_config.json").read_text() == text


def test_ways_of_sampling_in_an_old_config_do_not_hinder_saving(tmp_path):
    base = make_weights(tmp_path / "m", temperature=0.6, top_p=0.5)
    checkpoint.save(tmp_path, RunState(step=1), policy(str(base)), Tokenizer(), keep=1)


class Unwritable:
    """A tokenizer that is not written."""

    def __init__(self, error):
        self.error = error

    def save_pretrained(self, folder):
        raise self.error


@pytest.mark.parametrize(
    ("raised", "expected"),
    [(OSError(28, "No space left on device"), StorageError), (ValueError("odd"), ConfigError)],
)
def test_what_cannot_be_saved_is_found_before_the_first_step(tmp_path, raised, expected):
    one = policy(str(make_weights(tmp_path / "m")))
    with pytest.raises(expected, match=r"checkpoint.*(No space left|odd)"):
        checkpoint.try_saving(tmp_path, one, Unwritable(raised))


def test_a_full_disk_names_the_checkpoint_that_is_still_there(tiny_qwen3, tmp_path):
    class FullDisk(Tokenizer):
        def save_pretrained(self, folder):
            (folder / "tokenizer.json").symlink_to("/dev/full")
            (folder / "tokenizer.json").write_text("{}")

    one = policy(tiny_qwen3)
    before = checkpoint.save(tmp_path, RunState(step=1), one, Tokenizer(), keep=1)
    with pytest.raises(
        StorageError, match=r"step-00002 was not written: .*goes on from step-00001"
    ):
        checkpoint.save(tmp_path, RunState(step=2), one, FullDisk(), keep=1)
    assert list(before.parent.iterdir()) == [before]


def test_a_model_that_cannot_be_written_is_an_error_of_storage(tiny_qwen3, tmp_path):
    with pytest.raises(OSError, match="directory"):
        (tmp_path / "optimizer.safetensors").mkdir()
        policy(tiny_qwen3).save_optimizer(tmp_path)


@pytest.mark.parametrize("run_dir", ["file", "file/below"])
def test_a_run_folder_that_cannot_be_made_is_refused(tmp_path, run_dir):
    (tmp_path / "file").touch()
    with (
        pytest.raises(ConfigError, match="cannot be used"),
        checkpoint.lock_run(tmp_path / run_dir),
    ):
        pass


def test_a_folder_without_checkpoints_has_no_latest(tmp_path):
    assert checkpoint.latest(tmp_path) is None


@pytest.mark.parametrize("content", ["", "{}", "[1]", json.dumps({"format": 99})])
def test_a_foreign_state_file_is_refused_by_name(tmp_path, content):
    (tmp_path / checkpoint.TRAINER).mkdir()
    (tmp_path / checkpoint.TRAINER / "state.json").write_text(content)
    with pytest.raises(DataError, match=r"state\.json"):
        checkpoint.load_state(tmp_path)


def lock(run_dir, outcome):
    try:
        with checkpoint.lock_run(run_dir):
            outcome.put("locked")
    except ConfigError as error:
        outcome.put(str(error))


def test_a_second_process_is_refused_the_same_run(tmp_path):
    context = multiprocessing.get_context("spawn")
    outcome = context.Queue()
    with checkpoint.lock_run(tmp_path):
        child = context.Process(target=lock, args=(tmp_path, outcome))
        child.start()
        assert "in use by another process" in outcome.get(timeout=60)
        child.join()
