"""A run writes the metrics that the tables explain: all of them, and no others."""

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from exprl import config, train
from exprl.monitor import metrics_log
from exprl.monitor.metric_names import METRICS, OF_SERVERS, line_of
from exprl.monitor.progress import Progress
from exprl.run.open import open_run

TWO_DOMAINS = """
[domains.long]
verifier = "rewards:check"

[[data.sources]]
path = "examples/division/train.jsonl"

[[data.sources]]
path = "examples/division/train.jsonl"
domain = "long"
"""


def run_to_the_end(cfg):
    with Progress() as progress, open_run(cfg) as (parts, state):
        assert not train.train(cfg, parts, state, progress).interrupted


def test_the_row_of_a_step_has_every_metric_of_the_table_and_no_other(repo, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(repo / "examples/own_parts"))
    text = (repo / "configs/division_process.toml").read_text()
    (tmp_path / "mixed.toml").write_text(
        text.replace('path = "examples/division/train.jsonl"\n', "", 1) + TWO_DOMAINS
    )
    small = ("train.steps=1", "rollout.problems_per_step=2", "rollout.group_size=2")
    watched = ("eval.samples=2", "eval.every=1", "eval.max_response_tokens=8")
    cfg = config.load(
        tmp_path / "mixed.toml",
        [
            *(f"run_dir={tmp_path / 'run'}", "rollout.engine=transformers", *watched, *small),
            "logging.tensorboard=true",
        ],
    )
    run_to_the_end(cfg)
    [row] = metrics_log.read_metrics(tmp_path / "run")
    assert [name for name in row if line_of(name) is None] == []
    assert set(METRICS) - {line_of(name) for name in row} == OF_SERVERS
    # The tracker has the same, the config, the step's rollouts, and each evaluation once, also
    # where a later start goes on after it.
    run_to_the_end(cfg.model_copy(update={"train": cfg.train.model_copy(update={"steps": 2})}))
    events = EventAccumulator(str(tmp_path / "run/tensorboard"), size_guidance={"tensors": 0})
    events.Reload()
    shown = {name for name, value in row.items() if value is not None} - {"step", "time_s"}
    tags = set(events.Tags()["scalars"])
    assert shown == {name for name in tags if not name.startswith("eval/")}
    assert [event.step for event in events.Scalars("eval/pass_at_2_low")] == [0, 1, 2]
    assert {"_hparams_/session_start_info", "config", "samples"} <= set(events.Tags()["tensors"])
    cells = [cell.decode().strip() for cell in events.Tensors("config")[0].tensor_proto.string_val]
    assert (
        dict(zip(cells[::2], cells[1::2], strict=True))["domains.long.verifier"] == "rewards:check"
    )
