"""The language model of examples/words, where its package can be had: what it is, and one step."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("gguf", reason="the extra `words` is not installed")
pytest.importorskip("accelerate", reason="the extra `words` is not installed")

from exprl import config  # noqa: E402
from exprl.data.tokenizer import load_tokenizer  # noqa: E402
from exprl.data.turns import find_stops, find_turn_end  # noqa: E402
from exprl.monitor.metrics_log import read_metrics  # noqa: E402

pytestmark = pytest.mark.xdist_group("words")

CONFIG = "configs/words_process.toml"


@pytest.fixture(scope="module")
def model(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model's folder, made as a user makes it; skips where the package cannot be fetched."""
    folder = tmp_path_factory.mktemp("words") / "model"
    script = [sys.executable, repo / "examples" / "words" / "make_model.py", folder]
    made = subprocess.run(script, capture_output=True, text=True, check=False)
    if made.returncode and "could not fetch" in made.stderr:
        pytest.skip(made.stderr.strip().splitlines()[0])
    assert made.returncode == 0, made.stderr
    return folder


def test_the_model_is_a_plain_llama_whose_turns_end_at_im_end(model: Path, repo: Path) -> None:
    entries = json.loads((model / "config.json").read_text(encoding="utf-8"))
    assert entries["architectures"] == ["LlamaForCausalLM"]
    assert "quantization_config" not in entries
    cfg = config.load(repo / CONFIG, [f"model.path={model}"])
    tokenizer = load_tokenizer(cfg.model)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert find_stops(tokenizer, cfg.model) == (end,)
    assert find_turn_end(tokenizer, cfg.model) == end
    # Every digit is a token of its own, also after blank lines.
    assert tokenizer.tokenize("\n\n12 + 3")[:3] == ["ĊĊ", "1", "2"]


def test_one_step_is_sampled_judged_and_learned_from(
    model: Path, repo: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    small = (
        *("rollout.engine=transformers", "rollout.problems_per_step=1", "rollout.group_size=4"),
        *("rollout.max_response_tokens=12", "train.steps=1", "train.torch_threads=1"),
        *("optim.micro_batch_tokens=1024", "eval.data=none", "logging.report=false"),
        "loss.entropy_coef=0.01",  # a gradient, though four short rollouts may all score 0
    )
    command = [sys.executable, "-m", "exprl", "train", CONFIG, *small]
    done = subprocess.run(
        [*command, f"model.path={model}", f"run_dir={run}"],
        cwd=repo,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (step,) = read_metrics(run)
    assert step["rollout/count"] == 4
    assert step["functions/calls"] >= 4
    assert step["functions/failed"] == 0
    assert step["policy/grad_norm"] > 0
    assert list(run.glob("checkpoints/step-00001/adapter/*.safetensors"))
