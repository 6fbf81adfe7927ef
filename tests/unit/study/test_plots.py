"""Pictures: every curve can be told apart, and nothing measured is said."""

import math
import re

import numpy as np
import pytest

from exprl.evaluate.estimates import Rate
from exprl.evaluate.pass_at_k import Evaluation, Outcome
from exprl.monitor.curve import choose_widths, draw_curve
from exprl.study import plots

NOTHING = Rate(math.nan, math.nan, math.nan)


def texts_of(path):
    """The words of an SVG, which matplotlib writes as comments beside their outlines."""
    return re.findall(r"<!-- (.*?) -->", path.read_text())


def evaluation(right, n=4):
    outcomes = tuple(Outcome(str(i), n, right, 0) for i in range(3))
    return Evaluation(0, 0, n or 1, 1.0, (1,), outcomes)


def test_of_curves_on_one_line_each_is_wider_than_those_drawn_over_it():
    zero, rising = np.zeros(8), np.linspace(0.0, 1.0, 8)
    widths = choose_widths([zero, zero, rising, zero + 0.001, rising])
    assert widths[0] > widths[1] > widths[3]
    assert widths[2] > widths[4] == widths[3]


@pytest.mark.parametrize(
    ("other", "covers"),
    [
        ([0, 0, 0, 0], True),
        ([0, 0, 1, 1], True),  # at half of the points
        ([0, 1, 1, 1], False),
        ([math.nan, 0, 0, 0], True),
        ([math.nan] * 4, False),
        ([0.02] * 4, False),
        ([0, 0, 0], False),
    ],
)
def test_a_curve_is_covered_where_another_lies_on_most_of_it(other, covers):
    below, above = choose_widths([np.zeros(4), np.array(other, dtype=float)])
    assert (below > above) == covers


def test_a_curve_without_values_covers_nothing_and_is_not_covered():
    empty = np.full(4, math.nan)
    assert len(set(choose_widths([empty, np.zeros(4), empty]))) == 1


def test_models_that_solve_nothing_are_all_seen(tmp_path):
    named = [(f"model-{i}", evaluation(right=0)) for i in range(3)]
    plots.plot_pass_at_k(named, tmp_path / "a.svg")
    picture = (tmp_path / "a.svg").read_text()
    lines = re.findall(r"stroke: #[0-9a-f]{6}; stroke-width: ([\d.]+); stroke-linecap", picture)
    assert {"7.5", "4.5", "1.5"} <= set(lines)


def test_reward_and_right_rollouts_that_are_equal_are_both_seen(tmp_path):
    """As in every run with the sparse reward."""
    rows = [f'{{"step": {i}, "reward/mean": 0.5, "reward/correct_rate": 0.5}}\n' for i in (1, 2)]
    (tmp_path / "metrics.jsonl").write_text("".join(rows))
    (tmp_path / "run.json").write_text('{"first_step": 1, "starts": []}')
    draw_curve(tmp_path, tmp_path / "curve.svg")
    assert "stroke-width: 4.5" in (tmp_path / "curve.svg").read_text()


def test_samples_that_all_crashed_leave_a_picture_that_says_so(tmp_path):
    plots.plot_pass_at_k([("m", evaluation(right=0, n=0))], tmp_path / "a.svg")
    assert "nothing was measured:" in texts_of(tmp_path / "a.svg")


def test_behaviors_of_nothing_annotated_say_so_and_name_the_source(tmp_path):
    names = ("guess and check", "backtracking")
    nothing, half = dict.fromkeys(names, NOTHING), dict.fromkeys(names, Rate(0.5, 0.4, 0.6))
    plots.plot_behaviors(["a"], [nothing], tmp_path / "one.svg")
    assert "no solution was annotated" in texts_of(tmp_path / "one.svg")
    plots.plot_behaviors(["a", "b"], [half, nothing], tmp_path / "two.svg")
    said = texts_of(tmp_path / "two.svg")
    assert "b: nothing was annotated" in said
    assert "a" in said
    assert "no solution was annotated" not in said
