"""The reference is made from the code, so the code has to say what its pages need."""

import re
from pathlib import Path

import typer
from config_keys import Key, keys
from from_code import commands, config, counters, help_rows

from exprl import cli
from exprl.config import Alarms
from exprl.monitor import alarms

DOCS = Path(__file__).parents[2] / "docs"


def test_every_key_of_the_config_has_a_description():
    assert [key.name for key in keys() if not key.field.description] == []


def test_every_key_of_the_config_is_on_its_page():
    page = config()
    for key in keys():
        assert f"`{key.name}`" in page or stands_under_data(key), key.name


def stands_under_data(key: Key) -> bool:
    """The keys of a dataset are explained once, under [data]."""
    return key.name.startswith(("data.sources[].", "eval.data."))


def test_every_command_and_every_option_has_a_help_text():
    assert list(silent("exprl", typer.main.get_command(cli.app))) == []


def silent(path, command):
    if not command.help:
        yield path
    for parameter in command.params:
        if not getattr(parameter, "help", None) and parameter.name not in ("help", "words"):
            yield f"{path} {parameter.name}"
    for name, below in getattr(command, "commands", {}).items():
        yield from silent(f"{path} {name}", below)


def test_the_page_of_commands_has_those_of_both_languages():
    page = commands()
    for name in (
        "exprl train",
        "exprl config show",
        "exprl judge score",
        "exprl judge ledger stats",
    ):
        assert f"## `{name}`" in page
    assert "| `--dry-run` |" in page and "| `--kv-tokens <" in page


def test_help_is_read_row_by_row():
    text = (
        "  -o, --out <FILE>   Where to, which may be\n                     long\n"
        "      --model <M>\n          The name\n"
    )
    rows = [(name, " ".join(meaning.split())) for name, meaning in help_rows(text)]
    assert rows == [
        ("-o, --out <FILE>", "Where to, which may be long"),
        ("--model <M>", "The name"),
    ]


def test_the_page_of_counters_has_what_prometheus_is_told():
    page = counters()
    row = "| `exprl_judge_requests_total` | counter | `server` `status` |"
    assert row in page and "| `exprl_judge_cost" in page
    assert page.count("| counter |") >= 10


def test_the_page_of_alarms_has_each_of_them_with_its_default():
    rows = re.findall(
        r"^\| `(\w+)` \|.*\| (.*) \|$", (DOCS / "concepts/alarms.md").read_text(), re.M
    )
    assert [name for name, _ in rows] == list(alarms.NAMES)
    told = {key: float(x) for _, cell in rows for key, x in re.findall(r"`(\w+)` ([\d.]+)", cell)}
    assert len(told) >= len(rows)
    assert told == {key: getattr(Alarms(), key) for key in told}
