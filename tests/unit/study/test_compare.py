"""Names of models, and two evaluations side by side."""

import io
import json
import math

import pytest
from rich.console import Console

from exprl import config
from exprl.errors import ConfigError
from exprl.evaluate.during_training import EVALUATIONS_FILE, append_evaluation, read_evaluations
from exprl.evaluate.pass_at_k import Curve, Evaluation, Outcome
from exprl.study import compare, evaluate_command, plots, targets


def evaluation(*outcomes, samples=8, step=3):
    return Evaluation(step, 7, samples, 1.0, (1,), tuple(outcomes))


def a_run(folder, *steps, **changes):
    (folder / "checkpoints").mkdir(parents=True)
    for step in steps:
        (folder / "checkpoints" / f"step-{step:05d}").mkdir()
    tree = {
        "run_dir": str(folder),
        "model": {"path": "start"},
        "data": {"path": "train.jsonl"},
        "judge": {"kind": "rules"},
        "eval": {"data": {"path": "test.jsonl"}},
    }
    for key, value in changes.items():
        section, _, leaf = key.partition("__")
        tree.setdefault(section, {})[leaf] = value
    (folder / "config.toml").write_text(config.to_toml(config.build(tree)))
    return folder


def screen(show):
    out = io.StringIO()
    show(Console(file=out, width=160, highlight=False))
    return out.getvalue()


def test_a_run_is_its_newest_checkpoint_and_at_names_another(tmp_path):
    run = a_run(tmp_path / "a", 4, 8)
    newest = targets.find(str(run))
    assert (newest.weights, newest.step) == (str(run / "checkpoints/step-00008"), 8)
    for name in (f"{run}@step-4", f"{run}@4", str(run / "checkpoints/step-00004")):
        found = targets.find(name)
        assert (found.step, found.run_dir) == (4, run)
    assert targets.find(f"{run}@step-0").weights == "start"
    assert targets.find("Qwen/Qwen3-4B").run_dir is None


def test_a_checkpoint_that_is_not_there_is_refused_with_those_that_are(tmp_path):
    run = a_run(tmp_path / "a", 4, 8)
    with pytest.raises(
        ConfigError, match="no checkpoint of step 5; it has @step-0, @step-4, @step"
    ):
        targets.find(f"{run}@step-5")
    with pytest.raises(ConfigError, match="after @ stands a step"):
        targets.find(f"{run}@last")
    with pytest.raises(ConfigError, match="without a whole checkpoint"):
        targets.find(str(a_run(tmp_path / "b")))


def test_models_that_would_be_asked_different_questions_are_refused(tmp_path):
    a, b = a_run(tmp_path / "a", 1), a_run(tmp_path / "b", 1, eval__samples=64)
    with pytest.raises(ConfigError, match=r"evaluated differently(.|\n)*eval.samples: 16 and 64"):
        evaluate_command.plan([str(a), str(b)], None, None, None, (), None)
    jobs = evaluate_command.plan([str(a), str(b), "start"], None, 4, None, (), tmp_path)
    assert [job.cfg.eval.samples for job in jobs] == [4, 4, 4]
    assert jobs[2].target.weights == "start"
    with pytest.raises(ConfigError, match="--config"):
        evaluate_command.plan(["start", str(a / "nothing")], None, None, None, (), None)


def test_data_named_by_hand_is_taken_whole_whatever_the_config_limits(tmp_path):
    data = {"path": "train.jsonl", "limit": 16, "columns": {"problem": "q"}, "system": "Be brief."}
    for evaluation_data in ({}, {"eval": {"data": data | {"path": "test.jsonl", "limit": 4}}}):
        tree = {"model": {"path": "m"}, "data": data, "judge": {"kind": "rules"}} | evaluation_data
        file = tmp_path / "a.toml"
        file.write_text(config.to_toml(config.build(tree)))
        [job] = evaluate_command.plan(["m"], "other.jsonl", None, file, (), None)
        asked = job.cfg.eval.data
        assert (asked.path, asked.limit) == ("other.jsonl", None)
        assert (asked.columns.problem, asked.system) == ("q", "Be brief.")
        few = ["eval.data.limit=3"]
        [job] = evaluate_command.plan(["m"], "other.jsonl", None, file, few, None)
        assert job.cfg.eval.data.limit == 3


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.limit=8", "eval.data"),
        ("data.columns.answer=gold", "eval.data"),
        ("optim.lr=1", "does not read optim.lr"),
        ("judge.model=m", "does not read judge.model"),
        ("train.steps=9", "does not read train.steps"),
        ("rollout.temperature=0.5", "use eval.temperature"),
        ("rollout.group_size=4", "use -n"),
        ("model.path=other", "as an argument"),
        ("eval.every=2", "measures each model once"),
        ("evaluation.samples=2", "does not read evaluation.samples"),
    ],
)
def test_an_override_that_changes_nothing_of_an_evaluation_is_refused(override, said, tmp_path):
    run = a_run(tmp_path / "a", 1)
    with pytest.raises(ConfigError, match=said) as error:
        evaluate_command.plan([str(run)], None, None, None, [override], None)
    assert override in str(error.value)


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("eval.samples=2", "eval.samples", 2),
        ("seed=4", "seed", 4),
        ("model.dtype=float32", "model.dtype", "float32"),
        ("eval.data.limit=9", "eval.data.limit", 9),
        ("rollout.max_response_tokens=77", "rollout.max_response_tokens", 77),
    ],
)
def test_an_override_that_an_evaluation_reads_reaches_it(override, key, value, tmp_path):
    run = a_run(tmp_path / "a", 1)
    [job] = evaluate_command.plan([str(run)], None, None, None, [override], None)
    assert config.flatten(job.cfg)[key] == value


def test_the_number_of_problems_stands_in_the_table_the_file_and_the_picture(tmp_path):
    one = evaluation(*(Outcome(str(i), 8, i % 9, 0) for i in range(1300)))
    assert one.to_json()["problems"] == 1300
    about = {"data": "test.jsonl", "of": 1319}
    text = screen(lambda console: evaluate_command.show([("m", one)], (1,), console, **about))
    assert "1,319 problems of test.jsonl" in text
    assert "1,300 (19 too long)" in text
    plots.plot_pass_at_k([("m", one)], tmp_path / "a.svg")
    assert "1,300 problems, n = 8" in (tmp_path / "a.svg").read_text()


def test_compare_configs_are_dotted_and_leave_out_where_a_run_lies(tmp_path):
    a = targets.load_config(a_run(tmp_path / "a", optim__lr=1e-5))
    b = targets.load_config(a_run(tmp_path / "b", optim__lr=1e-6))
    assert compare.compare_configs(a, b) == {"optim.lr": (1e-5, 1e-6)}


def test_differences_are_paired_by_problem_whatever_their_order():
    a = evaluation(Outcome("x", 8, 0, 0), Outcome("y", 8, 8, 0), Outcome("z", 8, 4, 0))
    b = evaluation(Outcome("z", 8, 4, 0), Outcome("y", 8, 0, 0), Outcome("x", 8, 8, 0))
    result = compare.compare(a, b, (1, 8, 9))
    assert [d.k for d in result.differences] == [1, 8], "k above the samples is left out"
    assert result.differences[0].difference == pytest.approx(0.0)
    assert {p.problem_id: p.change for p in result.problems} == {
        "x": "gained",
        "y": "lost",
        "z": "even",
    }
    assert result.newly_solved == ["x"]
    assert result.no_longer_solved == ["y"]
    json.dumps(result.to_json(), allow_nan=False)


def test_pairing_takes_the_problems_own_difficulty_out_of_the_interval():
    easy = [Outcome(str(i), 8, 1 + i % 6, 0) for i in range(40)]
    more = [Outcome(o.problem_id, 8, o.c + 1, 0) for o in easy]
    [d] = compare.compare(evaluation(*easy), evaluation(*more), (1,)).differences
    assert (d.low, d.difference, d.high) == pytest.approx((0.125, 0.125, 0.125))


def test_ragged_samples_compare_where_both_have_k():
    a = evaluation(Outcome("x", 8, 4, 0), Outcome("y", 3, 3, 0), Outcome("w", 0, 0, 0))
    b = evaluation(Outcome("x", 8, 6, 0), Outcome("y", 8, 8, 0), Outcome("w", 8, 8, 0))
    result = compare.compare(a, b, (1, 4))
    assert [d.problems for d in result.differences] == [2, 1]
    assert result.problems[2].change == "even", "nothing is known of w in A"
    assert "w" not in result.newly_solved


def test_other_problems_are_refused():
    a, b = evaluation(Outcome("x", 8, 4, 0)), evaluation(Outcome("y", 8, 4, 0))
    with pytest.raises(ConfigError, match=r"different problems .1 only in the first, 1 only in"):
        compare.compare(a, b, (1,))
    empty = evaluation(Outcome("x", 0, 0, 0))
    with pytest.raises(ConfigError, match="no problem has counted samples"):
        compare.compare(a, empty, (1,))


def test_two_runs_are_compared_from_what_they_measured_while_training(tmp_path, capsys):
    runs = []
    for name, right, lr in (("a", 1, 1e-5), ("b", 8, 1e-6)):
        run = a_run(tmp_path / name, optim__lr=lr)
        lines = [
            json.dumps(evaluation(Outcome("p", 8, c, 0), step=s).to_json()) + "\n"
            for s, c in ((0, 0), (16, right))
        ]
        (run / EVALUATIONS_FILE).write_text("".join(lines))
        runs.append(str(run))
    result = compare.command(runs, (), tmp_path / "out" / "c.json")
    assert [d.k for d in result.differences] == [1, 2, 4, 8]
    shown = capsys.readouterr().out
    assert "optim.lr" in shown and "1e-06" in shown
    assert "Gained: 1: p (1/8 to 8/8)" in shown
    assert (
        json.loads((tmp_path / "out" / "c.json").read_text())["problems"][0]["change"] == "gained"
    )
    start = compare.command([runs[0] + "@step-0", runs[1]], (1,), None)
    assert start.differences[0].a == 0.0
    with pytest.raises(ConfigError, match="it has: step 0, step 16"):
        compare.command([runs[0] + "@step-5", runs[1]], (), None)
    with pytest.raises(ConfigError, match="not the folder of a run"):
        compare.command([str(tmp_path), runs[1]], (), None)
    with pytest.raises(ConfigError, match=r"pass@16: .* k is at most 8"):
        compare.command(runs, (1, 16), None)


def test_an_evaluation_that_a_kill_cut_short_does_not_spoil_the_next_one(tmp_path):
    whole = evaluation(Outcome("p", 8, 1, 0), step=0)
    append_evaluation(tmp_path, whole)
    with (tmp_path / EVALUATIONS_FILE).open("a") as file:
        file.write(json.dumps(whole.to_json())[:50])
    later = evaluation(Outcome("p", 8, 2, 0), step=4)
    append_evaluation(tmp_path, later)
    assert read_evaluations(tmp_path) == [whole, later]


def test_old_evaluations_without_votes_are_read_and_show_no_majority(tmp_path):
    tree = evaluation(Outcome("p", 8, 2, 0)).to_json()
    for outcome in tree["outcomes"]:
        del outcome["wrong_votes"]
    old = Evaluation.from_json(tree)
    assert old.majority_values() is None
    assert math.isnan(old.blank_rate)
    text = screen(lambda console: evaluate_command.show([("old", old)], (1, 8), console))
    assert "pass@8" in text and "1.0000" in text


def test_a_name_is_shown_as_it_is_and_never_read_as_markup():
    one = evaluation(Outcome("p", 8, 2, 0, (3,)))
    text = screen(lambda console: evaluate_command.show([("runs/[red]x", one)], (1,), console))
    assert "runs/[red]x" in text


def test_curves_have_bands_and_problems_and_become_a_picture(tmp_path):
    one = evaluation(Outcome("p", 8, 2, 0, (3, 1)), Outcome("q", 5, 5, 0, ()))
    curve = Curve.of(one.pass_values())
    assert curve.problems.tolist() == [2, 2, 2, 2, 2, 1, 1, 1]
    assert curve.values[0] == pytest.approx((0.25 + 1) / 2)
    assert (curve.low <= curve.values).all() and (curve.values <= curve.high).all()
    assert curve.at(9) is None
    plots.plot_pass_at_k(
        [("a", one), ("b", evaluation(Outcome("p", 8, 0, 8)))], tmp_path / "d/x.png"
    )
    assert (tmp_path / "d" / "x.png").read_bytes().startswith(b"\x89PNG")


def test_problems_whose_answers_are_not_compared_are_left_out_of_the_majority():
    mixed = evaluation(Outcome("p", 8, 8, 0, ()), Outcome("q", 8, 0, 0, None))
    values = mixed.majority_values()
    curve = Curve.of(values)
    assert curve.problems.tolist() == [1] * 8
    assert curve.values.tolist() == [1.0] * 8
    assert mixed.blank_rate == 0.0
