"""Parts of pages that are made from the code when the site is built.

A page says where with a line such as `<!-- from the code: config -->`.
"""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import typer
from config_keys import Key, keys
from sphinx.application import Sphinx

from exprl import cli
from exprl.judge import Judge, JudgeItem, JudgeSettings, Prices, RuleJudge
from exprl.monitor.metric_names import EVALUATION_METRICS, METRICS
from exprl.run.recorded import MAY_CHANGE

CONFIG_KEYS = {key.name for key in keys()}
PLACE = re.compile(r"^<!-- from the code: (\w+) ?(.*) -->$", re.MULTILINE)
# Options that every command has.
SHELL = {"help", "install_completion", "show_completion"}
PROMETHEUS = re.compile(r"^# HELP (\w+) (.*)\n# TYPE \w+ (\w+)$", re.MULTILINE)
# Of clap's --help: a row of arguments, options or commands, and where it goes on in the next line.
HELP_ROW = re.compile(r"^ +(\S.*?) {2,}(\S.*)$", re.MULTILINE)
HELP_GOES_ON = re.compile(r"\n {8,}(?=\S)")


def config() -> str:
    """Every key of a config, section by section."""
    sections: dict[str, list[Key]] = {}
    for key in keys():
        if key.name.startswith("eval.data.") or (
            key.name.startswith("data.sources[].") and not key.name.endswith(".weight")
        ):
            continue  # the keys of [data], which stand there
        sections.setdefault(_section(key.name), []).append(key)
    return "\n\n".join(_section_text(name, own) for name, own in sections.items())


def commands() -> str:
    """Every command of `exprl`, and of `exprl judge`."""
    parts: list[str] = []
    for path, command in _walk("exprl", typer.main.get_command(cli.app)):
        if path == "exprl judge":
            parts += list(_judge("judge"))
        else:
            parts.append(_command(path, command))
    return "\n\n".join(parts)


def metrics() -> str:
    """Every metric of a run."""
    return table(("name", "meaning"), [(f"`{name}`", text) for name, text in METRICS.items()])


def evaluations() -> str:
    """Every number of an evaluation that the trackers get."""
    rows = [(f"`{name}`", text) for name, text in EVALUATION_METRICS.items()]
    return table(("name", "meaning"), rows)


def counters() -> str:
    """Every name of the judge's page for Prometheus, from the page of a judge that has graded."""
    with RuleJudge("numbers") as server:
        endpoints, prices = (server.url,), Prices(1.0, 1.0, 1.0)
        settings = JudgeSettings(endpoints, server.model, view="outcome", prices=prices)
        with Judge(settings) as judge:
            judge.submit([JudgeItem("0", "What is 2 + 2?", "It is 4.", ("It is 4.",))]).result()
            page = judge.prometheus()
    rows = []
    for name, text, kind in PROMETHEUS.findall(page):
        labels = re.search(rf"^{name}(?:_bucket)?\{{(.*)\}}", page, re.MULTILINE)
        names = re.findall(r"(\w+)=", labels[1]) if labels else []
        rows.append((f"`{name}`", kind, " ".join(f"`{label}`" for label in names), text))
    return table(("name", "kind", "labels", "meaning"), rows)


def may_change() -> str:
    """The settings with which a run may go on."""
    names = (f"`{name}`" if name in CONFIG_KEYS else f"`{name}.*`" for name in sorted(MAY_CHANGE))
    return ", ".join(names)


def api(name: str, *first: str) -> str:
    """The public names of a module, for autodoc: those of `__all__`, or those it defines.

    first: the names with which a reader begins.
    """
    module = importlib.import_module(name)
    names = getattr(module, "__all__", None) or [
        key
        for key, value in vars(module).items()
        if not key.startswith("_") and getattr(value, "__module__", "").startswith(name)
    ]
    lines = [f".. automodule:: {name}"]
    for key in [*first, *(key for key in names if key not in first)]:
        value = getattr(module, key)
        if inspect.isclass(value):
            lines += [f".. autoclass:: {name}.{key}", "   :members:"]
        elif callable(value):
            lines.append(f".. autofunction:: {name}.{key}")
    return "```{eval-rst}\n" + "\n\n".join(lines).replace("\n\n   :", "\n   :") + "\n```"


MAKERS: dict[str, Callable[..., str]] = {
    maker.__name__: maker
    for maker in (config, commands, metrics, evaluations, counters, may_change, api)
}


def _section(name: str) -> str:
    head, dot, _ = name.partition(".")
    return head if dot else ""


def _section_text(name: str, own: Sequence[Key]) -> str:
    title = f"## `[{name}]`\n\n{_first_words(own[0])}" if name else "## Before the first section"
    rows = [(f"`{key.name}`", _default(key), _meaning(key)) for key in own]
    return f"{title}\n\n{table(('key', 'default', 'meaning'), rows)}"


def _first_words(key: Key) -> str:
    return (key.section.__doc__ or "").strip().split("\n\n")[0]


def _default(key: Key) -> str:
    return "*required*" if key.default is None else f"`{key.default}`"


def _meaning(key: Key) -> str:
    return f"{key.field.description} <br>*{key.values}*"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _walk(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    yield path, command
    for name, below in getattr(command, "commands", {}).items():
        yield from _walk(f"{path} {name}", below)


def _command(path: str, command: Any) -> str:
    context = typer.Context(command, info_name=path)
    own = [p for p in command.get_params(context) if p.name not in SHELL]
    records = [parameter.get_help_record(context) for parameter in own]
    usage = command.get_usage(context).removeprefix("Usage: ")
    text = f"## `{path}`\n\n```text\n{usage}\n```\n\n{_paragraphs(command.help or '')}\n"
    rows = [(f"`{record[0]}`", record[1]) for record in records if record]
    return text + ("\n" + table(("argument or option", "meaning"), rows) if rows else "")


def _paragraphs(text: str) -> str:
    """Help as Markdown: examples are commands."""
    text = re.sub(r"^Example: (.*)$", r"```sh\n\1\n```", text, flags=re.MULTILINE)
    return text.replace("<", "\\<")


def _judge(*words: str) -> Iterator[str]:
    """The Rust command's own --help, of it and of all commands below."""
    said = subprocess.run(
        [sys.executable, "-c", "from exprl.cli import main; main()", *words, "--help"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    text, below = f"## `exprl {' '.join(words)}`\n", list[str]()
    for part in said.strip().split("\n\n"):
        head, _, body = part.partition("\n")
        if head in ("Arguments:", "Commands:") or re.match(" +-", body):
            rows = help_rows(body)
            assert rows, part
            text += "\n" + table((head[:-1].lower(), "meaning"), [(f"`{a}`", b) for a, b in rows])
            text += "\n"
            below += [name for name, _ in rows if head == "Commands:" and name != "help"]
        elif head.startswith(("Usage:", "Examples:", "Input", "Output", "Exit codes:")):
            text += f"\n```text\n{part}\n```\n"
        else:
            text += f"\n{part}\n"
    yield text
    for name in below:
        yield from _judge(*words, name)


def help_rows(body: str) -> list[tuple[str, str]]:
    """Names and meanings of a part of clap's --help."""
    return [(name, meaning) for name, meaning in HELP_ROW.findall(HELP_GOES_ON.sub("  ", body))]


def fill(app: Sphinx, page: str, source: list[str]) -> None:
    """Put what the code says into a page that Sphinx has read."""
    source[0] = PLACE.sub(lambda place: MAKERS[place[1]](*place[2].split()), source[0])


def is_no_news(app: Sphinx, kind: str, name: str, value: object, skip: bool, _: object) -> bool:
    """Leave out what Python itself writes about the fields of a named tuple."""
    return skip or (inspect.getdoc(value) or "").startswith("Alias for field number")


def mark_code(
    app: Sphinx, kind: str, name: str, value: object, options: object, lines: list[str]
) -> None:
    """An indented block of a docstring is code, as in Markdown."""
    for i in range(len(lines) - 1, 1, -1):
        indented = lines[i].startswith("    ") and not lines[i - 1]
        if indented and lines[i - 2] and not lines[i - 2].startswith(" "):
            lines[i:i] = ["::", ""]


def readable(
    app: Sphinx, kind: str, name: str, _: object, options: object, signature: str, returns: str
) -> tuple[str, str] | None:
    """A signature without what is no Python, so that it is broken into lines."""
    return (signature.replace("<factory>", "..."), returns) if signature else None


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("source-read", fill)
    app.connect("autodoc-skip-member", is_no_news)
    app.connect("autodoc-process-signature", readable)
    app.connect("autodoc-process-docstring", mark_code)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
