"""`exprl push`: a real run with LoRA, to a hub on loopback, by the hub's own client."""

import subprocess
import sys
import tomllib

import pytest
from hub_stub import TOKEN, serve_hub
from transformers import AutoModelForCausalLM, AutoTokenizer

from exprl import config, run_training
from exprl.errors import ConfigError, ExprlError
from exprl.study.model_card import find_base
from exprl.study.push import prepare, send


@pytest.fixture(scope="module")
def run_dir(repo, tmp_path_factory):
    """A run of two steps with LoRA, evaluated before and after."""
    folder = tmp_path_factory.mktemp("push") / "run"
    cfg = config.load(
        repo / "configs/division_lora.toml",
        [
            *(f"run_dir={folder}", "rollout.engine=transformers", "train.steps=2"),
            *("rollout.problems_per_step=2", "rollout.group_size=2", "train.keep_checkpoints=2"),
            *("train.checkpoint_every=1", "eval.samples=2", "eval.max_response_tokens=16"),
        ],
    )
    run_training(cfg, show_progress=False)
    return folder


@pytest.fixture
def hub(monkeypatch):
    """A hub that huggingface_hub finds, in this process and in those that it starts."""
    from huggingface_hub import constants

    with serve_hub() as one:
        own = {"HF_ENDPOINT": one.url, "HF_HUB_OFFLINE": "", "HF_TOKEN": TOKEN}
        # Xet's uploads go to a service of their own.
        own |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        for name, value in own.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(constants, "ENDPOINT", one.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
        yield one


def push(*words):
    """The command in a process of its own."""
    command = [sys.executable, "-m", "exprl", "push", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def front_matter(files):
    import yaml

    return yaml.safe_load(files["README.md"].decode().split("---\n")[1])


def test_a_push_is_one_commit_to_a_private_repository_that_loads_again(run_dir, hub, tmp_path):
    done = push(run_dir, "me/m")
    assert done.returncode == 0, done.stderr
    assert hub.private is True and hub.commits == ["Step 2 of a run of exprl"]
    assert done.stdout.splitlines()[-1] == f"{hub.url}/me/m/commit/{1:040x}"
    assert TOKEN not in done.stdout + done.stderr
    for name, content in hub.files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
        assert TOKEN.encode() not in content and str(run_dir.parent).encode() not in content
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = AutoTokenizer.from_pretrained(tmp_path)("5)106973=", return_tensors="pt")
    assert model(ids["input_ids"]).logits.isfinite().all()
    assert {"adapter/adapter_model.safetensors", "adapter/adapter_config.json"} <= set(hub.files)
    assert hub.files["curves.png"].startswith(b"\x89PNG")
    private = ("trainer", "rollouts", "ledger", "run.json", "report.html")
    assert [name for name in hub.files if any(word in name for word in private)] == []


def test_a_dry_run_lists_the_files_shows_the_card_and_asks_nobody(run_dir, hub):
    done = push(run_dir, "me/m", "--dry-run")
    assert done.returncode == 0 and hub.asked == []
    listed, _, card = done.stdout.partition("\n\n")
    assert "model.safetensors" in listed and "to me/m (private if it is new)" in listed
    assert card == prepare(str(run_dir), "me/m").card


def test_the_card_has_the_numbers_of_this_checkpoint_with_intervals(run_dir):
    last = prepare(str(run_dir), "me/m").card
    first = prepare(f"{run_dir}@step-1", "me/m").card
    assert "| pass@1 | 0.000 [0.000, 0.107] | 0.000 [0.000, 0.107] |" in last
    assert "32 held-out problems of test.jsonl, 2 samples each" in last
    assert "no evaluation at step 1" in first and "pass@1" not in first
    assert "8 rollouts of" in last and "4 rollouts of" in first
    assert "not a language model" in last and "This card states no licence." in last


def test_the_card_tells_the_hub_what_it_is(run_dir, hub):
    send(prepare(str(run_dir), "me/m"), public=False)
    about = front_matter(hub.files)
    assert about["library_name"] == "transformers" and "exprl" in about["tags"]
    assert "license" not in about and "base_model" not in about
    [result] = about["model-index"][0]["results"]
    assert result["metrics"] == [{"type": "pass@1", "value": 0.0}]
    tree = tomllib.loads(hub.files["exprl/config.toml"].decode())
    assert tree["run_dir"] == "run" and "endpoints" not in tree["judge"]
    assert tree["optim"]["lr"] == config.load(run_dir / "config.toml").optim.lr


def test_a_public_repository_is_written_on_request_only(run_dir, hub):
    hub.private = False
    upload = prepare(str(run_dir), "me/m")
    with pytest.raises(ConfigError, match="is public; push with --public"):
        send(upload, public=False)
    assert hub.files == {}
    send(upload, public=True)
    assert "README.md" in hub.files and hub.private is False


def test_weights_of_an_earlier_push_do_not_stay_beside_the_new_ones(run_dir, hub):
    hub.private = True
    hub.files = {"model-00001-of-00002.safetensors": b"old", "notes.md": b"mine"}
    send(prepare(str(run_dir), "me/m"), public=False)
    assert "model-00001-of-00002.safetensors" not in hub.files
    assert hub.files["notes.md"] == b"mine"


def test_a_token_that_may_not_write_is_refused_and_not_shown(run_dir, hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(ConfigError, match="log in with a token that may write there") as refused:
        send(prepare(str(run_dir), "me/m"), public=False)
    assert "hf_wrong" not in str(refused.value) and hub.files == {}


def test_an_offline_machine_is_told_what_to_unset(run_dir, hub, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="HF_HUB_OFFLINE is set; unset it"):
        send(prepare(str(run_dir), "me/m"), public=False)


def test_a_hub_that_fails_is_an_error_of_exprl(run_dir, hub):
    hub.broken = True
    with pytest.raises(ExprlError, match="the disk of the hub is full"):
        send(prepare(str(run_dir), "me/m"), public=False)


def test_a_hub_that_does_not_answer_is_an_error_of_exprl(run_dir, hub, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens
    with pytest.raises(ExprlError, match="the hub did not take me/m: ConnectError"):
        send(prepare(str(run_dir), "me/m"), public=False)


def test_what_is_no_trained_checkpoint_is_refused(run_dir, tmp_path):
    with pytest.raises(ConfigError, match="nothing was trained"):
        prepare(f"{run_dir}@step-0", "me/m")
    with pytest.raises(ConfigError, match="is no run of exprl"):
        prepare(str(tmp_path), "me/m")
    with pytest.raises(ConfigError, match="'m' is no repository of the hub; name one as OWNER/NAM"):
        prepare(str(run_dir), "m")


def test_the_base_model_is_found_through_the_runs_before(tmp_path):
    sparse = {"method": "sparse-grpo", "data": {"path": "d.jsonl"}}
    model = {**sparse, "model": {"path": "Qwen/Qwen3-4B"}}
    first = config.build({**model, "run_dir": str(tmp_path / "one")})
    (tmp_path / "one").mkdir()
    (tmp_path / "one/config.toml").write_text(config.to_toml(first))
    checkpoint = str(tmp_path / "one/checkpoints/step-00002")
    second = config.build({**model, "model": {"path": checkpoint}})
    assert find_base(second) == "Qwen/Qwen3-4B"
