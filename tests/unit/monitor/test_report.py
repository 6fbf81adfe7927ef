"""The report as a file: what it says of runs, of what they lack, and that it can do no harm."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from exprl import config, files
from exprl.errors import ConfigError, DataError
from exprl.monitor.report import try_report
from exprl.monitor.report.charts import choose_sections, draw_chart, spread, undrawn
from exprl.monitor.report.page import script_json, write_report
from exprl.monitor.report.runs import find_episodes, read_run, read_runs
from exprl.monitor.report.settings import find_differences, list_settings, show_value
from exprl.monitor.report.summary import draw_spark, find_spans, find_tiles

DATA = {"path": "train.jsonl", "columns": {"problem": "p", "answer": "a", "reference": "r"}}


def make_run(folder: Path, rows: list[dict], first: int = 1, **settings: object) -> Path:
    """A run folder without rollouts."""
    tree = {"model": {"path": "base"}, "data": DATA, "judge": {"kind": "rules"}, **settings}
    files.write_text(folder / "config.toml", config.to_toml(config.build(tree)))
    files.write_jsonl(
        folder / "metrics.jsonl",
        [{"step": first + i, "time_s": 1.8e9 + i, **row} for i, row in enumerate(rows)],
    )
    files.write_json(folder / "run.json", {"first_step": first, "starts": []})
    return folder


def add_evaluation(folder: Path, step: int, value: float) -> None:
    point = {"value": value, "low": value - 0.1, "high": value + 0.1, "problems": 8}
    row = {"step": step, "samples": 2, "problems": 8, "pass_at": {"1": point, "2": None}}
    with (folder / "eval.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")


def report_of(*folders: Path) -> str:
    out = folders[0] / "report.html"
    write_report(folders, out)
    return out.read_text()


def body_of(page: str) -> str:
    """What a reader sees: without scripts and styles."""
    return re.sub(r"<(script|style).*?</\1>", "", page, flags=re.DOTALL)


def charts_of(page: str) -> list[dict]:
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert data
    return json.loads(data[1])["charts"]


def test_a_report_shows_first_and_last_values_and_what_the_judge_cost(tmp_path):
    rows = [
        {"reward/mean": 0.25, "judge/requests": 30.0},
        {"reward/mean": 0.5, "judge/requests": 12.0},
    ]
    body = body_of(report_of(make_run(tmp_path / "demo", rows)))
    assert "demo" in body and "2 of 230 steps are done" in body
    assert re.search(r"Reward</h3>\s*<p class=\"now\">0.5</p>\s*<p[^>]*>first 0.25", body)
    assert re.search(r"Requests to the judge</h3>\s*<p class=\"now\">42</p>", body)


def test_nothing_in_the_file_is_loaded_from_elsewhere(tmp_path):
    page = report_of(make_run(tmp_path, [{"reward/mean": 0.5}]))
    assert "default-src &#39;none&#39;; script-src &#39;sha256-" in page
    assert not re.search(r"<(link|img|iframe|object|embed|base|form)\b", body_of(page))
    assert not re.search(r"<script[^>]+src", page)


def test_a_chart_has_the_numbers_of_the_run_and_gaps_where_there_are_none(tmp_path):
    rows = [{"policy/kl": 0.1}, {"policy/kl": None}, {"policy/kl": 0.3}]
    [chart] = charts_of(report_of(make_run(tmp_path, rows)))
    assert chart["curves"][0]["y"] == [0.1, None, 0.3]


def test_every_metric_stands_in_a_table_with_its_extremes(tmp_path):
    rows = [{"policy/kl": 0.1}, {"policy/kl": 0.4}, {"policy/kl": 0.2}]
    [span] = find_spans(read_run(make_run(tmp_path, rows), "a"))
    assert (span.first, span.last, span.lowest, span.highest) == (
        *("0.1", "0.2"),
        *("0.1 (step 1)", "0.4 (step 2)"),
    )
    assert "KL to the initial policy" in span.meaning


def test_alarms_are_told_with_their_steps_and_marked_in_their_charts(tmp_path):
    rates = [0.0, 0.2, 0.3, 0.0, 0.2]
    rows = [{"judge/missing_rate": rate, "alarm/missing": float(rate > 0.05)} for rate in rates]
    run = read_run(make_run(tmp_path, rows), "a")
    first, second = find_episodes(run)
    assert (first.steps, second.steps) == ("steps 2 to 3", "step 5")
    assert first.message == "20.0% of the rollouts have no grade (limit 5.0%)"
    assert "Look at judge/*" in first.remedy
    marked = [chart["alarms"] for chart in charts_of(report_of(run.path))]
    assert [(m["first"], m["last"]) for m in marked[0]] == [(2, 3), (5, 5)]


def test_charts_without_numbers_are_left_out_and_named(tmp_path):
    run = read_run(make_run(tmp_path, [{"policy/loss": 1.0}]), "a")
    assert [c.title for s in choose_sections([run]) for c in s.charts] == ["Loss"]
    assert {"Reward", "Entropy", "Held-out problems: pass@k"} <= set(undrawn([run]))
    assert "Loss" in [tile.title for tile in find_tiles(run)]  # all that SFT has


def test_pass_at_k_has_its_intervals_in_chart_tile_and_table(tmp_path):
    folder = make_run(tmp_path, [{"reward/mean": 0.5}])
    for step, value in ((0, 0.2), (1, 0.4)):
        add_evaluation(folder, step, value)
    page = report_of(folder)
    [curve] = [c for chart in charts_of(page) for c in chart["curves"] if c["name"] == "pass@1"]
    assert (curve["steps"], curve["y"], curve["low"]) == ([0, 1], [0.2, 0.4], [0.1, 0.3])
    assert "95 %: 30.0% to 50.0%" in page
    assert "30.0% to 50.0%</span>" in page


def test_runs_side_by_side_keep_their_colours_and_show_where_settings_differ(tmp_path):
    rows = [{"reward/mean": 0.25, "reward/final": 0.5}]
    a = make_run(tmp_path / "a", rows, optim={"lr": 1e-6})
    b = make_run(tmp_path / "b", rows, optim={"lr": 3e-6}, run_dir="elsewhere")
    runs = read_runs([a, b])
    assert [(s.key, s.values) for s in find_differences(runs)] == [("optim.lr", ("1e-06", "3e-06"))]
    chart = charts_of(report_of(a, b))[0]
    painted = {(c["run"], c["name"]): (c["colour"], c["dash"]) for c in chart["curves"]}
    assert painted == {
        (0, "mean"): ("curve-1", "solid"),
        (0, "last step"): ("curve-1", "dash"),
        (1, "mean"): ("curve-2", "solid"),
        (1, "last step"): ("curve-2", "dash"),
    }


def test_stacked_grades_have_a_chart_for_each_run(tmp_path):
    rows = [{f"reward/hist_{i}": 0.2 for i in range(1, 6)}]
    runs = read_runs([make_run(tmp_path / name, rows) for name in "ab"])
    [section] = choose_sections(runs)
    assert [run for _, run in spread(section.charts, runs)] == [0, 1]
    drawn = draw_chart(section.charts[0], runs, [[], []], 1)
    assert {curve["run"] for curve in drawn["curves"]} == {1}
    assert [curve["colour"] for curve in drawn["curves"]] == [f"level-{i}" for i in range(1, 6)]


def test_curves_that_coincide_have_widths_that_tell_them_apart(tmp_path):
    rows = [{"reward/mean": 0.5, "reward/final": 0.5}] * 3
    chart = charts_of(report_of(make_run(tmp_path, rows)))[0]
    wide, thin = (curve["width"] for curve in chart["curves"])
    assert wide > thin


def test_several_domains_have_charts_of_their_own(tmp_path):
    rows = [{"score/math": 0.5, "score/code": 0.25}]
    run = read_run(make_run(tmp_path, rows), "a")
    [section] = choose_sections([run])
    assert section.title == "Domains"
    assert [curve.label for curve in section.charts[0].curves] == ["math", "code"]


def test_names_and_settings_cannot_act(tmp_path):
    name = "<img src=x onerror=alert(1)>"
    rows = [{"score/</script><b>": 0.5, "score/b": 1.0}]
    page = report_of(make_run(tmp_path / name, rows, model={"path": name}))
    assert name not in page
    assert "</script><b>" not in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page


def test_json_in_a_script_ends_no_element():
    text = str(script_json({"a": "</script><!--&"}))
    assert "<" not in text and "&" not in text
    assert json.loads(text) == {"a": "</script><!--&"}


def test_passwords_in_addresses_are_not_shown():
    assert show_value(["http://me:secret@host:1/v1"]) == '["http://***@host:1/v1"]'


def test_settings_that_differ_from_the_preset_are_marked(tmp_path):
    run = read_run(make_run(tmp_path, [], optim={"lr": 5e-5}), "a")
    changed = [row.key for _, rows in list_settings(run) for row in rows if row.changed]
    assert "optim.lr" in changed and "judge.kind" in changed
    assert "loss.clip_high" not in changed  # exprl-process has it


def test_settings_of_a_domain_are_explained_like_others(tmp_path):
    run = read_run(make_run(tmp_path, [], domains={"math": {"verifier": "math"}}), "a")
    meanings = {row.key: row.meaning for _, rows in list_settings(run) for row in rows}
    assert meanings["domains.math.verifier"].startswith("how answers are compared")
    assert [key for key, meaning in meanings.items() if not meaning] == []


def test_a_run_that_counts_from_0_is_shown_from_1(tmp_path):
    run = read_run(make_run(tmp_path, [{"reward/mean": 0.5}] * 2, first=0), "a")
    assert run.steps == [1, 2]


def test_a_run_without_a_finished_step_says_so(tmp_path):
    assert "No step is done yet" in report_of(make_run(tmp_path, []))


def test_a_config_of_another_exprl_is_shown_as_it_stands(tmp_path):
    folder = make_run(tmp_path, [{"reward/mean": 0.5}])
    (folder / "config.toml").write_text('old_key = 3\n[model]\npath = "base"\n')
    body = body_of(report_of(folder))
    assert "does not fit this version of exprl" in body
    assert "old_key" in body


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(DataError, match="is not the folder of a run"):
        write_report([tmp_path], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_a_folder_is_refused_as_the_place_of_a_report_and_stays(tmp_path):
    run = make_run(tmp_path / "run", [{"reward/mean": 0.5}])
    kept = sorted(run.iterdir())
    with pytest.raises(ConfigError, match="is a folder; name a file, such as"):
        write_report([run], run)
    assert sorted(run.iterdir()) == kept


def test_a_sparkline_breaks_where_there_is_no_number():
    import numpy as np

    nan = float("nan")
    assert draw_spark(np.array([0.0, 1.0, nan, 0.0, 1.0])) == (
        "0.0,22.0 25.0,2.0",
        "75.0,22.0 100.0,2.0",
    )
    assert draw_spark(np.array([1.0, nan])) == ()


def test_a_report_that_cannot_be_written_or_published_fails_no_run_and_is_told(tmp_path):
    told, published = [], []
    try_report(tmp_path, told.append, published.append)  # no run
    assert "the report was not written: DataError" in told[0]

    folder = make_run(tmp_path / "run", [{"reward/mean": 0.5}])
    try_report(folder, told.append, published.append)
    assert told[1:] == [f"report: {folder / 'report.html'}"]
    assert published == [folder / "report.html"]

    def refuse(page):
        raise OSError("no network")

    try_report(folder, told.append, refuse)
    assert told[-1] == "the report was not given to the trackers: OSError: no network"


def test_a_run_without_the_packages_says_once_what_to_install(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr("exprl.monitor.report.PACKAGES", ("no_such_package",))
    try_report(tmp_path, told.append, told.append)
    assert told == [
        "no report of this run is written, because no_such_package is not installed:"
        f" pip install 'exprl[report]', then exprl report {tmp_path}"
    ]
