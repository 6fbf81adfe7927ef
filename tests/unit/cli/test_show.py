"""`exprl show`: rollouts in a terminal, with grades and the judge's words."""

import json
import re

import numpy as np
import pytest
from pyarrow import parquet
from typer.testing import CliRunner

from exprl import config
from exprl.cli.app import app
from exprl.errors import ConfigError, DataError
from exprl.judge import Judge, JudgeItem, JudgeSettings, RuleJudge
from exprl.monitor.picks import PICKS
from exprl.monitor.rollout_file import write_rollouts
from exprl.monitor.rollout_reader import ADDED
from exprl.types import Message, Problem, Prompt, Rollout, Scored, Segment

REFERENCE = r"5*021394+3=106973###\boxed{021394r3}"
GOOD = ("01/5=0r1", "###10/5=2r0")
BAD = ("01/5=0r1", "###10/5=9r9")
HOSTILE = "fine\x1b[2J\u202e\x00\nStep 9  grade 5  score 1.00\r[bold red]x[/]" + "y" * 3000
PROBLEM = Problem("p7", Prompt("p7", (Message("user", "5)106973="),)), "021394r3", "division")


def scored(index, texts, verdicts, *, name="p7", correct=False, **more):
    n = 2 * len(texts)
    rollout = Rollout(
        name,
        index,
        np.zeros(1, np.int32),
        np.zeros(n, np.int32),
        np.zeros(n, np.float32),
        "stop",
        np.zeros(n, np.int32),
    )
    return Scored(
        rollout,
        tuple(Segment(2 * i, 2 * i + 2, text) for i, text in enumerate(texts)),
        tuple(v.grade for v in verdicts),
        tuple(v.score for v in verdicts),
        correct,
        domain="division",
        statuses=tuple(v.status for v in verdicts),
        ledger_keys=tuple(v.key for v in verdicts),
        **more,
    )


@pytest.fixture(scope="module")
def run(repo, tmp_path_factory):
    """Two steps that a real judge graded, with its ledger and the run's config."""
    run_dir = tmp_path_factory.mktemp("shown") / "run"
    cfg = config.load(repo / "configs/division_process.toml", [f"run_dir={run_dir}"])
    run_dir.mkdir()
    (run_dir / "config.toml").write_text(config.to_toml(cfg))
    texts = (GOOD, BAD, (HOSTILE,))
    with RuleJudge("division") as server:
        settings = JudgeSettings((server.url,), server.model, ledger=str(run_dir / "ledger"))
        items = [JudgeItem("", "5)106973=", REFERENCE, one, "division") for one in texts]
        with Judge(settings) as judge:
            graded = [one.verdicts for one in judge.submit(items).result()]
    rollouts = [scored(i, *one) for i, one in enumerate(zip(texts, graded, strict=True))]
    known = {"problems": {"p7": PROBLEM}, "references": {"p7": REFERENCE}}
    advantages = [np.zeros(2), np.array([0.0, -1.0]), np.array([0.5])]
    write_rollouts(run_dir, 1, rollouts, advantages, trained_version=0, **known)
    other = scored(0, GOOD, graded[0], name="p8", correct=True)
    write_rollouts(run_dir, 2, [other], [np.array([0.25, 0.25])], **known)
    return run_dir


def show(*words):
    done = CliRunner().invoke(app, ["show", *map(str, words)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0
    return done.stdout


def test_a_rollout_is_shown_with_its_problem_its_grades_and_the_judges_words(run):
    text = show(run, "--step", 1, "--problem", "p7", "--rollout", 1)
    assert "step 1, problem p7, rollout 1\n" in text
    assert "answer wrong, reward 0.500, lag 0\n" in text
    assert "| 5)106973=\n" in text and f"| {REFERENCE}\n" in text
    assert "Step 2  grade 1  score 0.00  advantage -1.00  tokens 2-4\n| ###10/5=9r9\n" in text
    assert re.search(r"  > The first 1 of 2 segments follow .*\n  > Score: 1\n", text)
    assert "\x1b" not in text, "no colours in a pipe"
    silent = show(run, "--step", 1, "--problem", "p7", "--rollout", 1, "--no-words")
    assert "grade 1" in silent and "Score: 1" not in silent


def test_what_a_model_wrote_cannot_look_like_a_line_of_ours(run):
    text = show(run, "--problem", "p7", "--rollout", 2)
    assert not set(text) & set("\x1b\x00\r\u202e")
    assert r"| fine\x1b[2J\u202e\x00" + "\n" in text
    assert "\n| Step 9  grade 5  score 1.00\\r[bold red]x[/]yyy" in text
    assert "\nStep 9" not in text
    assert "more characters: --full)" in text and "y" * 2500 not in text
    assert "y" * 3000 in show(run, "--problem", "p7", "--rollout", 2, "--full")


def test_a_selection_takes_the_strongest_of_all_steps_first(run):
    text = show(run, "--worst", "--limit", 1)
    assert PICKS["worst"].meaning in text
    assert "4 rollouts. The first one follows; --limit 4 shows all." in text
    assert text.count("\nstep ") == 1 and "problem p7, rollout 2\n" in text
    disagree = show(run, "--disagree")
    assert "1 rollout.\n" in disagree and "rollout 0\n" in disagree
    assert "0 rollouts.\n" in show(run, "--disagree", "--step", 2)
    assert "problem p8" in show(run, "--best", "--step", "2-9")


def test_without_a_selection_the_problems_of_the_newest_step_are_listed(run):
    text = show(run)
    assert "Step 2" in text and "│ p8      │ 1        │ 1.000  │ 1/1   │ 0       │" in text
    assert f"exprl show {run} --step 2 --problem p8" in text
    assert "│ p7      │ 3        │" in show(run, "--step", 1)


def test_json_holds_the_same_for_programs(run):
    lines = show(run, "--json", "--limit", 9).splitlines()
    rows = [json.loads(line) for line in lines]
    assert [(row["step"], row["problem_id"], row["index"]) for row in rows] == [
        (1, "p7", 0),
        (1, "p7", 1),
        (1, "p7", 2),
        (2, "p8", 0),
    ]
    assert rows[2]["steps"][0]["text"] == HOSTILE
    assert rows[1]["steps"][1]["reply"].endswith("Score: 1")
    assert rows[1]["steps"][1]["advantage"] == -1.0


def test_every_selection_of_the_picks_is_an_option(run):
    for name in PICKS:
        assert " rollout" in show(run, f"--{name.replace('_', '-')}", "--no-words")


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (["--worst", "--best"], ConfigError, "--best and --worst: give one of them"),
        (["--rollout", "1"], ConfigError, "give --problem, too"),
        (["--step", "9"], DataError, "has rollouts of the steps 1-2"),
        (["--step", "x"], DataError, "give one step or a range"),
        (["--problem", "p9"], DataError, "--problem p9: the steps 1 to 2 .* p7, p8 are there"),
        (["--problem", "p7", "--rollout", "7"], DataError, "no such rollout of the problem 'p7'"),
    ],
)
def test_what_is_not_there_is_named(run, words, error, message):
    with pytest.raises(error, match=message):
        show(run, *words)


def test_a_folder_without_rollouts_says_what_to_name(tmp_path):
    with pytest.raises(DataError, match="name the folder of a run whose first step is done"):
        show(tmp_path)


def test_an_older_run_shows_what_it_has_and_names_what_it_lacks(run, tmp_path):
    path = tmp_path / "rollouts" / "step-00001.parquet"
    path.parent.mkdir()
    table = parquet.read_table(run / "rollouts" / path.name).drop_columns(list(ADDED))
    parquet.write_table(table.replace_schema_metadata(), path)
    text = show(tmp_path, "--problem", "p7", "--rollout", 1)
    assert "An older exprl wrote the file: it does not say question, answer, reference" in text
    assert "grade 1  score 0.00" in text
    assert "No words of the judge: the judge was not asked about this step, or an older" in text
