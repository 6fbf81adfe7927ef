"""What the package carries beside its code can be found, and copied, from any folder."""

from pathlib import Path

import pytest

from exprl import config
from exprl.cli import shipped
from exprl.errors import ConfigError

MADE = {"examples/words/model": "examples/words/make_model.py"}
"""What a user makes first, and the script that makes it."""


def test_the_demo_finds_its_files_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path, overrides = shipped.locate_demo()
    cfg = config.load(path, overrides)
    assert (Path(cfg.model.path) / "config.json").exists()
    assert Path(cfg.data.path).exists()
    assert cfg.eval.data is not None and Path(cfg.eval.data.path).exists()


def test_in_a_checkout_the_demo_names_the_files_as_its_config_does(repo, monkeypatch):
    monkeypatch.chdir(repo)
    path, overrides = shipped.locate_demo()
    assert config.load(path, overrides) == config.load("configs/division_process.toml")


def test_the_copied_example_has_what_its_configs_name(tmp_path, monkeypatch):
    assert shipped.copy_example(tmp_path) == [tmp_path / "configs", tmp_path / "examples"]
    monkeypatch.chdir(tmp_path)
    for path in sorted(Path("configs").glob("*.toml")):
        cfg = config.load(path)
        sources = [*cfg.data.parts, *(cfg.eval.data.parts if cfg.eval.data else ())]
        model = MADE.get(cfg.model.path, cfg.model.path)
        local = [model, *(source.path for source in sources)]
        missing = [name for name in local if name.startswith("examples") if not Path(name).exists()]
        assert missing == [], path
        # Nothing lies beside the folder that a user works in.
        assert not [name for name in local if name.startswith(("..", "/"))], path


def test_a_copy_replaces_nothing(tmp_path):
    (tmp_path / "examples").mkdir()
    with pytest.raises(ConfigError, match="examples exists and is not replaced"):
        shipped.copy_example(tmp_path)
    assert not (tmp_path / "configs").exists()
