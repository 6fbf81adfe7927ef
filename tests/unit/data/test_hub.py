"""What a path of a model names, and a hub that does not answer."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_models import make

from exprl import config
from exprl.data.hub import require_model
from exprl.data.tokenizer import load_tokenizer
from exprl.errors import ConfigError


@pytest.mark.parametrize("path", ["./nowhere", "../nowhere", "/nowhere/at/all", "a/b/c", "~x/y"])
def test_a_folder_that_is_not_there_is_called_that(path):
    with pytest.raises(ConfigError, match=r"no such folder$"):
        require_model(path)


def test_a_file_and_a_folder_without_a_model_are_told_apart(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        require_model(str(tmp_path / "file"))
    with pytest.raises(ConfigError, match=r"no config\.json"):
        require_model(str(tmp_path))


def test_the_home_directory_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    make(tmp_path / "m")
    model = config.Model(path="~/m", chat_template="~/t.jinja")
    assert (model.path, model.chat_template) == (str(tmp_path / "m"), str(tmp_path / "t.jinja"))
    tree = {
        "model": {"path": "~/m"},
        "data": {"path": "~/d.jsonl"},
        "run_dir": "~/run",
        "judge": {"kind": "rules", "ledger": "~/ledger"},
        "sandbox": {"python": "~/python"},
    }
    cfg = config.build(tree)
    found = (cfg.data.path, cfg.run_dir, cfg.judge.ledger, cfg.sandbox.python)
    assert found == tuple(str(tmp_path / n) for n in ("d.jsonl", "run", "ledger", "python"))


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_folder_without_a_tokenizer_is_refused(tmp_path, name):
    folder = make(tmp_path / "m")
    (folder / "tokenizer.json").unlink()
    (folder / name).unlink(missing_ok=True)
    with pytest.raises(ConfigError, match=r"no (usable )?tokenizer.*tokenizer\.json"):
        load_tokenizer(config.Model(path=str(folder)))


ASK_TWICE = """
import sys
from exprl.data.hub import require_model
from exprl.errors import ConfigError
for path in ("someone/model", "other"):
    try:
        require_model(path)
    except ConfigError as error:
        print(error)
import huggingface_hub
print(huggingface_hub.is_offline_mode())
"""


def test_a_hub_that_does_not_answer_is_asked_once_and_told_once(tmp_path):
    environment = {
        **os.environ,
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "HF_HOME": str(tmp_path),
        "HF_HUB_OFFLINE": "0",
    }
    done = subprocess.run(
        [sys.executable, "-c", ASK_TWICE],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        cwd=Path(__file__).parents[3],
    )
    *told, offline = done.stdout.splitlines()
    assert len(told) == 2 and offline == "True"
    for path, line in zip(("someone/model", "other"), told, strict=True):
        assert f"model.path = '{path}': no such folder here" in line
        assert "http://127.0.0.1:9 does not answer" in line
    assert done.stderr.count("does not answer") == 1
    assert "Retrying" not in done.stderr


def test_a_model_of_the_hub_that_is_not_in_the_cache_is_told_when_offline(tmp_path):
    # The tests set HF_HUB_OFFLINE.
    with pytest.raises(ConfigError, match=r"no such model in the cache .*HF_HUB_OFFLINE is set"):
        require_model("no-such-owner/no-such-model")
