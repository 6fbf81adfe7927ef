"""What is measured: the file, the trackers, the picture."""

import json
import math
import time
from pathlib import Path

import pytest

from exprl import config
from exprl.errors import ConfigError, DataError
from exprl.monitor.curve import draw_curve
from exprl.monitor.metrics_log import MetricsLog, read_metrics
from exprl.monitor.trackers import check_trackers

PNG = b"\x89PNG\r\n\x1a\n"


def rows(run_dir: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def log(run_dir: Path, resume_step: int = 0, **logging: object) -> MetricsLog:
    return MetricsLog(run_dir, config.Logging.model_validate(logging), resume_step)


def write_steps(run_dir: Path, *steps: int, value: float = 0.5, resume_step: int = 0) -> None:
    with log(run_dir, resume_step) as open_log:
        for step in steps:
            open_log.write(step, {"reward/mean": value})


def test_every_step_is_one_json_line_with_step_and_time(tmp_path: Path) -> None:
    before = time.time()
    with log(tmp_path / "new" / "run") as open_log:
        open_log.write(0, {"reward/mean": 0.25, "judge/requests": 12})
        [row] = rows(tmp_path / "new" / "run")  # flushed, not only at the end
    assert row["step"] == 0
    assert before - 1 <= float(str(row["time_s"])) <= time.time() + 1
    assert row["reward/mean"] == 0.25 and row["judge/requests"] == 12


def test_numbers_that_do_not_exist_are_null_and_the_json_stays_valid(tmp_path: Path) -> None:
    with log(tmp_path) as open_log:
        open_log.write(0, {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 0.0})
    text = (tmp_path / "metrics.jsonl").read_text()
    row = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert (row["a"], row["b"], row["c"], row["d"]) == (None, None, None, 0.0)


def test_a_resumed_run_drops_the_steps_that_it_does_again(tmp_path: Path) -> None:
    write_steps(tmp_path, 0, 1, 2, 3)
    write_steps(tmp_path, 2, 3, value=0.75, resume_step=2)
    assert [(r["step"], r["reward/mean"]) for r in rows(tmp_path)] == [
        (0, 0.5),
        (1, 0.5),
        (2, 0.75),
        (3, 0.75),
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_run_started_anew_begins_with_an_empty_log(tmp_path: Path) -> None:
    write_steps(tmp_path, 0, 1)
    write_steps(tmp_path, 0, value=0.1)
    assert [(r["step"], r["reward/mean"]) for r in rows(tmp_path)] == [(0, 0.1)]


@pytest.mark.parametrize("torn", ['{"step": 2, "rew', '{"step": 2}', "{"])
def test_a_last_line_cut_by_a_kill_is_dropped(torn: str, tmp_path: Path) -> None:
    write_steps(tmp_path, 0, 1)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(torn)
    assert [row["step"] for row in read_metrics(tmp_path)] == [0, 1]
    write_steps(tmp_path, 2, resume_step=2)
    assert [row["step"] for row in rows(tmp_path)] == [0, 1, 2]


def test_a_broken_line_inside_the_log_is_an_error_and_nothing_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0}\nbroken\n{"step": 2}\n')
    with pytest.raises(DataError, match="line 2 is not a JSON object: 'broken'"):
        log(tmp_path, 2)
    assert path.read_text() == '{"step": 0}\nbroken\n{"step": 2}\n'


def test_tensorboard_gets_the_finite_numbers_of_the_steps_that_count(tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with log(tmp_path, tensorboard=True) as open_log:
        for step in range(3):
            open_log.write(step, {"reward/mean": 0.25 * step, "policy/kl": math.nan})
    time.sleep(1.1)  # event files are named by the second and read in that order
    with log(tmp_path, resume_step=1, tensorboard=True) as open_log:
        open_log.write(1, {"reward/mean": 1.0})
    events = reader.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert events.Tags()["scalars"] == ["reward/mean"]
    assert [(e.step, e.value) for e in events.Scalars("reward/mean")] == [(0, 0.0), (1, 1.0)]


@pytest.mark.parametrize("package", ["wandb", "trackio"])
def test_a_tracker_that_is_not_installed_says_how_to_install_it(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, package, None)  # as if not installed
    asked = config.Logging.model_validate({f"{package}_project": "p"})
    with pytest.raises(ConfigError, match=f"pip install {package}"):
        check_trackers(asked)
    with pytest.raises(ConfigError, match=rf"logging.{package}_project .* pip install {package}"):
        log(tmp_path, **{f"{package}_project": "division"})


def test_the_curve_is_a_picture_of_the_numbers_that_exist(tmp_path: Path) -> None:
    with log(tmp_path) as open_log:
        for step in range(4):
            unsolved = math.nan if step == 0 else 1.0 / step
            open_log.write(step, {"reward/mean": step / 4, "reward/unsolved": unsolved})
    draw_curve(tmp_path, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(PNG)


def test_a_run_without_metrics_has_no_curve(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such file"):
        draw_curve(tmp_path, tmp_path / "curve.png")
    write_steps(tmp_path)
    with pytest.raises(DataError, match="nothing to draw"):
        draw_curve(tmp_path, tmp_path / "curve.png")
