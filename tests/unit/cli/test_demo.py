"""The demo's report reads the run folder; what a policy wrote stays text."""

import numpy as np
import pytest

from exprl import config
from exprl.cli import demo
from exprl.errors import ConfigError
from exprl.monitor.rollout_file import write_rollouts
from exprl.types import Rollout, Scored, Segment


def scored(texts, grades):
    ends = np.cumsum([1] * len(texts)).tolist()
    segments = tuple(Segment(e - 1, e, t) for e, t in zip(ends, texts, strict=True))
    tokens = np.arange(len(texts), dtype=np.int32)
    rollout = Rollout("p", 0, tokens, tokens, tokens.astype(np.float32), "stop", tokens)
    return Scored(rollout, segments, grades, tuple((g - 1) / 4 for g in grades), True)


def test_the_rollout_with_the_largest_contrast_is_shown_step_by_step(tmp_path):
    dull = scored(("dull", "dull"), (5, 5))
    sharp = scored(("good", "bad"), (5, 1))
    write_rollouts(tmp_path, 0, [dull, sharp], [np.zeros(2), np.array([1.0, -1.0])])
    text = demo.colored_rollout(tmp_path)
    lines = text.plain.splitlines()
    assert lines[2].split() == ["5", "+1.00", "good"]
    assert lines[3].split() == ["1", "-1.00", "bad"]
    assert {span.style for span in text.spans} >= {"blue", "dark_orange"}


def test_hostile_text_is_neither_markup_nor_a_control_sequence(tmp_path):
    hostile = "[bold red]x[/] \x1b[31m \x1b]8;;http://evil\x07 \r\n\u202e"
    write_rollouts(tmp_path, 0, [scored((hostile, "y"), (5, 1))], [np.array([1.0, -1.0])])
    plain = demo.colored_rollout(tmp_path).plain
    assert "[bold red]x[/]" in plain
    assert not set(plain) & set("\x1b\x07\r\u202e")


def test_a_folder_that_is_no_run_is_not_deleted(tmp_path):
    (tmp_path / "thesis.tex").write_text("years")
    with pytest.raises(ConfigError, match="is not a run of the demo"):
        demo.run("configs/division_process.toml", tmp_path)
    assert (tmp_path / "thesis.tex").exists()


def test_a_run_that_is_not_the_demos_is_not_deleted(tmp_path, repo):
    run_dir = tmp_path / "runs" / "a-week"
    (run_dir / "checkpoints" / "step-00100").mkdir(parents=True)
    path = repo / "configs/division_process.toml"
    (run_dir / "config.toml").write_text(path.read_text())
    with pytest.raises(ConfigError, match="is not a run of the demo"):
        demo.run(path, run_dir)
    assert (run_dir / "checkpoints" / "step-00100").exists()


def test_a_config_without_evaluation_is_refused(tmp_path, repo):
    path = tmp_path / "c.toml"
    cfg = config.load(repo / "configs/division_process.toml", ["eval.samples=4"])
    path.write_text(config.to_toml(cfg))
    with pytest.raises(ConfigError, match=r"eval\.samples >= 64"):
        demo.run(path, tmp_path / "run")
