"""What the real trackers kept of a run, read back from their own files, without a network."""

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tracked_run import HOSTILE, PROBLEMS, SETTINGS

from exprl import config
from exprl.errors import ConfigError
from exprl.monitor.trackers import open_trackers

pytest.importorskip("wandb")
pytest.importorskip("trackio")


class Tracked(NamedTuple):
    run_dir: Path
    trackio_dir: Path
    trackio: dict[str, Any]
    trackio_logs: list[dict[str, Any]]


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Tracked:
    run_dir = tmp_path_factory.mktemp("tracked") / "run"
    run_dir.mkdir()
    trackio_dir = run_dir.parent / "trackio"
    own = {"WANDB_MODE": "offline", "TRACKIO_DIR": str(trackio_dir), "WANDB_SILENT": "true"}
    script = Path(__file__).with_name("tracked_run.py")
    done = subprocess.run(
        [sys.executable, str(script), str(run_dir)],
        env=os.environ | own | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    about, logs = done.stdout.splitlines()[-2:]
    return Tracked(run_dir, trackio_dir, json.loads(about), json.loads(logs))


def tensorboard(run_dir: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run_dir / "tensorboard"), size_guidance={"tensors": 0})
    events.Reload()
    return events


def wandb_records(run_dir: Path) -> Iterator[Any]:
    """The records of the offline files of both starts; they are framed as LevelDB's logs are."""
    from wandb.proto.wandb_internal_pb2 import Record

    block, header = 32768, 7
    for path in sorted(run_dir.glob("wandb/offline-run-*/*.wandb")):
        data, at, parts = path.read_bytes(), header, list[bytes]()
        while at + header <= len(data):
            left = block - at % block
            if left < header:
                at += left
                continue
            _, length, kind = struct.unpack("<IHB", data[at : at + header])
            parts.append(data[at + header : at + header + length])
            at += header + length
            if kind in (1, 4):  # a whole record, or the end of one
                yield Record.FromString(b"".join(parts))
                parts.clear()


def wandb_history(run_dir: Path) -> dict[int, dict[str, Any]]:
    rows: dict[int, dict[str, Any]] = {}
    for record in wandb_records(run_dir):
        if record.WhichOneof("record_type") == "history":
            items = {
                item.key or "/".join(item.nested_key): json.loads(item.value_json)
                for item in record.history.item
            }
            rows.setdefault(record.history.step.num, {}).update(items)
    return rows


def test_tensorboard_has_metrics_and_evaluations_at_their_steps(tracked: Tracked) -> None:
    events = tensorboard(tracked.run_dir)
    points = {
        tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.scalars.Keys()
    }
    assert points == {
        "reward/mean": [(1, 0.25), (2, 0.5), (3, 0.75)],
        "eval/pass_at_1": [(0, 0.25), (3, 0.75)],
    }


def test_tensorboard_has_every_setting_as_a_hyperparameter_and_as_text(tracked: Tracked) -> None:
    from tensorboard.plugins.hparams.metadata import parse_session_start_info_plugin_data

    events = tensorboard(tracked.run_dir)
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    found = parse_session_start_info_plugin_data(content).hparams
    assert found["optim.lr"].number_value == 1e-6 and found["init_from"].string_value == "none"
    assert set(found) == set(SETTINGS)
    cells = list(events.Tensors("config")[-1].tensor_proto.string_val)
    assert cells[cells.index(b"train.steps") + 1] == b"    5"


def test_tensorboard_shows_rollouts_as_code_so_that_they_load_nothing(tracked: Tracked) -> None:
    from tensorboard.plugin_util import markdown_to_safe_html

    shown = tensorboard(tracked.run_dir).Tensors("samples")
    assert [event.step for event in shown] == [1, 2, 3]
    tensor = shown[0].tensor_proto
    rows, columns = (dim.size for dim in tensor.tensor_shape.dim)
    cells = [cell.decode() for cell in tensor.string_val]
    assert (rows, columns, len(cells)) == (3, 7, 21)
    assert cells[columns].strip() == "p0" and cells[2 * columns].strip() == "p1"
    html = markdown_to_safe_html(cells[columns + 2])
    assert "&lt;script&gt;" in html and "<img" not in html and "<h1" not in html


def assert_is_report_without_references(page: Path) -> None:
    text = page.read_text()
    assert 'content="exprl report"' in text and "metrics, each with its first" in text
    assert "with a reference" not in text


def test_wandb_has_metrics_evaluations_and_the_report(tracked: Tracked) -> None:
    rows = wandb_history(tracked.run_dir)
    assert [row.get("reward/mean") for _, row in sorted(rows.items())] == [None, 0.25, 0.5, 0.75]
    assert {
        step: row["eval/pass_at_1"] for step, row in rows.items() if "eval/pass_at_1" in row
    } == {
        0: 0.25,
        3: 0.75,
    }
    [page] = tracked.run_dir.glob("wandb/offline-run-*/files/media/html/report_3_*.html")
    assert_is_report_without_references(page)


def test_wandb_has_the_config_and_one_run_for_both_starts(tracked: Tracked) -> None:
    runs = [r.run for r in wandb_records(tracked.run_dir) if r.WhichOneof("record_type") == "run"]
    configs = [{item.key: item.value_json for item in run.config.update} for run in runs]
    assert [own["train.steps"] for own in configs] == ["3", "5"]
    assert all(set(SETTINGS) <= set(own) for own in configs)
    assert len({run.run_id for run in runs}) == 1 and len(runs) == 2


def test_wandb_has_a_table_of_rollouts_without_references(tracked: Tracked) -> None:
    [path] = tracked.run_dir.glob("wandb/offline-run-*/files/media/table/samples_1_*.json")
    table = json.loads(path.read_text())
    assert table["columns"] == [
        *("problem", "question", "response", "grades", "advantages", "correct", "finish_reason")
    ]
    assert table["data"] == [
        [p.id, p.question, f"first {HOSTILE}", "5 -", "+0.50 -", "yes", "stop"]
        for p in PROBLEMS[:2]
    ]


def test_trackio_has_the_same_in_its_own_database(tracked: Tracked) -> None:
    assert len(tracked.trackio["runs"]) == 1
    assert tracked.trackio["config"]["optim.lr"] == 1e-6
    logs = tracked.trackio_logs

    def values(name: str) -> list[tuple[int, float]]:
        return [(row["step"], row[name]) for row in logs if name in row]

    assert values("reward/mean") == [(1, 0.25), (2, 0.5), (3, 0.75)]
    assert values("eval/pass_at_1") == [(0, 0.25), (3, 0.75)]
    tables = [row["samples"]["_value"] for row in logs if "samples" in row]
    assert [len(rows) for rows in tables] == [2, 2, 2]
    assert tables[0][1]["response"] == f"first {HOSTILE}"
    [page] = tracked.trackio_dir.rglob("*.html")
    assert_is_report_without_references(page)


def test_a_run_that_shows_no_samples_sends_no_text_of_a_rollout(tracked: Tracked) -> None:
    quiet = tracked.run_dir.with_name("quiet")
    assert wandb_history(quiet)[1]["reward/mean"] == 0.25
    assert list(quiet.glob("wandb/offline-run-*/files/media/**/*")) == []
    assert set(tensorboard(quiet).Tags()["tensors"]) == {"_hparams_/session_start_info", "config"}


def test_a_service_that_refuses_the_run_is_an_error_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    def refuse(**_: object) -> None:
        raise wandb.errors.UsageError("No API key configured. Use `wandb login` to log in.")

    monkeypatch.setattr(wandb, "init", refuse)
    asked = config.Logging(wandb_project="p")
    with pytest.raises(ConfigError, match=r"logging.wandb_project = 'p'.*wandb login"):
        open_trackers(tmp_path, asked, {}, 1)
