"""configs/paper: each preset passes a dry run with a tiny model and small rows, without a GPU."""

import json
import re
import shutil
from pathlib import Path

import paper_rows
import pytest

from exprl import config
from exprl.cli.dry_run import report
from exprl.data.problems import load_problems
from exprl.data.references import drop_references
from exprl.judge import RuleJudge

PRESETS = sorted((Path(__file__).parents[3] / "configs" / "paper").glob("*.toml"))
RUNS = {
    "evaluation",
    "mixed_8b",
    "outcome",
    "process_delta",
    "process_end",
    "process_group",
    "self_distillation",
    "sft",
    "sparse",
    "stage2",
}


@pytest.fixture(scope="module")
def model(tmp_path_factory, repo):
    """A model of 0.1 M parameters that takes 32k tokens, and whose template can switch thinking."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    shutil.copytree(repo / "examples" / "tiny" / "model", folder)
    with (folder / "chat_template.jinja").open("a") as template:
        template.write("{% if enable_thinking is defined and not enable_thinking %} {% endif %}")
    shape = json.loads((folder / "config.json").read_text())
    shape["max_position_embeddings"] = 32_768
    (folder / "config.json").write_text(json.dumps(shape))
    return folder


@pytest.fixture(scope="module")
def judge():
    with RuleJudge("numbers") as server:
        yield server


def paths(tree):
    """Every dataset that a config names, with the key of its path."""
    for key, part in (("data", tree["data"]), ("eval.data", tree["eval"]["data"])):
        if "path" in part:
            yield f"{key}.path", part["path"]
        for i, source in enumerate(part.get("sources", ())):
            yield f"{key}.sources.{i}.path", source["path"]


def dry_run(preset, model, judge, folder, *overrides):
    """The dry run's exit code, with all files of this machine."""
    tree = config.read(preset)
    words = [f"model.path={model}", f"run_dir={folder / 'run'}"]
    words += [f"{key}={paper_rows.write(folder, name)}" for key, name in paths(tree)]
    if "judge" in tree:
        words += [f'judge.endpoints=["{judge.url}"]', "judge.model=rules-numbers"]
    if "init_from" in tree:
        words.append("init_from=none")
    return report(config.load(preset, [*words, *overrides]))


def test_every_run_of_the_published_scripts_has_a_preset():
    assert {preset.stem for preset in PRESETS} >= RUNS


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_a_preset_passes_the_dry_run(preset, model, judge, tmp_path, capsys):
    assert dry_run(preset, model, judge, tmp_path) == 0
    said = capsys.readouterr().out
    assert "ready: nothing was trained or written" in said
    assert "no effect" not in said, "every line of a preset is read"


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_every_line_of_a_preset_says_where_it_comes_from(preset):
    unmarked = []
    for block in re.split(r"\n\n+", preset.read_text()):
        above = "".join(line for line in block.splitlines() if line.startswith("#"))
        for line in block.splitlines():
            own = re.search(r"\[(paper|scripts|ours)\]", line + above)
            if "=" in line and not line.startswith("#") and not own:
                unmarked.append(line)
    assert [line for line in unmarked if not re.match("method|run_dir|init_from", line)] == []


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_the_policy_reads_the_backslash_of_boxed(preset):
    """The published system message was no raw string: the model saw a backspace, and `oxed{}`."""
    cfg = config.load(preset)
    parts = (*cfg.data.parts, *cfg.eval.data.parts)
    messages = [part.system for part in parts if part.system]
    assert messages and all(r"\boxed{}" in message for message in messages)
    assert not any(re.search(r"[\x00-\x08]", message) for message in messages)


def column_maps(name):
    """The datasets of this name in all presets; the held-out ones bring no references."""
    found = {}
    for cfg in map(config.load, PRESETS):
        held_out = drop_references(cfg.eval.data).parts
        found |= {part.model_dump_json(): part for part in (*cfg.data.parts, *held_out)}
    return [part for part in found.values() if part.path == name]


@pytest.mark.parametrize("name", sorted(paper_rows.MADE))
def test_the_column_maps_find_problem_reference_and_answer(name, tmp_path):
    maps = column_maps(name)
    assert maps
    path = paper_rows.write(tmp_path, name, 3)
    for part in maps:
        source = config.Data(**part.model_dump(exclude={"path", "weight"}), path=str(path))
        problems = load_problems(source)
        assert len(problems) == 3
        for problem in problems:
            assert problem.prompt.messages[-1].role == "user"
            hidden = "".join(message.content for message in problem.prompt.messages)
            if part.columns.reference:
                assert problem.reference and problem.reference not in hidden
            if part.columns.answer:
                assert problem.answer
