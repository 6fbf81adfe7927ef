"""Whole runs of one step: what they say about a judge, a row or a model that is not in order."""

import json
import re
from pathlib import Path

import pytest
from canned_judge import Body, Reply, canned_judge, completion, is_reask, refusal
from case_files import FOLDER, Case, every_line, load_script

from exprl.cli import main

CONFIG = """
method = "exprl-outcome"
run_dir = "{folder}/run"
[model]
path = "{model}"
dtype = "float32"
[data]
path = "{folder}/data.jsonl"
[rollout]
engine = "transformers"
problems_per_step = 4
group_size = 16
temperature = 1.0
max_prompt_tokens = 128
max_response_tokens = 64
[judge]
{judge}
[train]
steps = 1
checkpoint_every = 1
torch_threads = 1
[eval]
data = "none"
"""

# The trace stands last in a request, between a pair of tags with a random number.
FENCED = re.compile(r"<([a-z]+)-([0-9a-f]{16})>\n(.*?)\n</\1-\2>", re.DOTALL)


def reply_as(how: Case, body: Body) -> Reply:
    text = "".join(str(message["content"]) for message in body["messages"])
    fenced = FENCED.findall(text)
    short = "longest_trace" in how and not (fenced and len(fenced[-1][2]) > how["longest_trace"])
    if "status" in how and not short:
        return refusal(how["status"], how["message"])
    if is_reask(body):
        return completion(how["reask"])
    first = dict(how["first"])
    return completion(first.pop("content"), first.pop("finish"), **first)


def write_run(folder: Path, case: Case, judge: str) -> Path:
    """A config of one step, with its data and its model; gives the config's path."""
    script = load_script(FOLDER / "templates" / "make_templates.py")
    named = case.get("model")
    model = script.make(named, folder) if named else script.make_weights("eos_list", folder)
    rows = [
        {
            "problem": f"{n}+{n}?",
            "reference": f"{n} + {n} = {2 * n}",
            "answer": case["gold"] if n == 2 and "gold" in case else str(2 * n),
        }
        for n in range(2, 6)
    ]
    (folder / "data.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    config = folder / "run.toml"
    config.write_text(CONFIG.format(folder=folder, model=model, judge=judge))
    return config


@pytest.fixture
def train(monkeypatch, capfd):
    """`exprl train`, in this process, which has loaded torch: exit code, and what it said."""

    def run(*words: str | Path) -> tuple[int, str]:
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.setattr("sys.argv", ["exprl", "train", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capfd.readouterr()
        return int(ended.value.code or 0), out + err

    return run


@every_line("runs.jsonl")
def test_a_run_says_what_is_wrong_and_nothing_else(number, case, tmp_path, train):
    overrides = case.get("overrides", [])
    if "judge" in case:
        with canned_judge(lambda body: reply_as(case["judge"], body)) as server:
            settings = f'endpoints = ["{server.url}"]\nmodel = "m"'
            code, said = train(write_run(tmp_path, case, settings), *overrides)
    else:
        config = write_run(tmp_path, case, 'kind = "rules"')
        code, said = train(config, *overrides, "--dry-run")

    wanted = case["expected"]
    assert code == wanted.get("rc", code), said
    said = said.replace(str(tmp_path), "")
    for words in wanted.get("said", ()):
        assert re.search(words, said), said
    for words in wanted.get("said_not", ()):
        assert not re.search(words, said), said
    if "metric" in wanted:
        lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
        last = json.loads(lines[-1])
        assert any(re.search(wanted["metric"], name) and value for name, value in last.items())
