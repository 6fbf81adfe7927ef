"""A run writes the metrics that the table explains: all of them, and no others."""

from exprl import config, train
from exprl.monitor import metrics_log
from exprl.monitor.metric_names import METRICS, OF_SERVERS, line_of
from exprl.monitor.progress import Progress
from exprl.run.open import open_run

TWO_DOMAINS = """
[domains.long]
verifier = "exact"

[[data.sources]]
path = "examples/division/train.jsonl"

[[data.sources]]
path = "examples/division/train.jsonl"
domain = "long"
"""


def test_the_row_of_a_step_has_every_metric_of_the_table_and_no_other(repo, tmp_path):
    text = (repo / "configs/division_process.toml").read_text()
    (tmp_path / "mixed.toml").write_text(
        text.replace('path = "examples/division/train.jsonl"\n', "", 1) + TWO_DOMAINS
    )
    small = ("train.steps=1", "rollout.problems_per_step=2", "rollout.group_size=2")
    cfg = config.load(
        tmp_path / "mixed.toml",
        [f"run_dir={tmp_path / 'run'}", "rollout.engine=transformers", "eval.data=none", *small],
    )
    with Progress() as progress, open_run(cfg) as (parts, state):
        assert not train.train(cfg, parts, state, progress).interrupted
    [row] = metrics_log.read_metrics(tmp_path / "run")
    assert [name for name in row if line_of(name) is None] == []
    assert set(METRICS) - {line_of(name) for name in row} == OF_SERVERS
