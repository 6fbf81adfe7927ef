"""`exprl verify`: what the verifier makes of golds and traces in a file, as JSON lines."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from exprl import config, files
from exprl.data.cells import read_text
from exprl.data.columns import explain_missing, find_column
from exprl.data.files import Row, read_rows
from exprl.data.rows import open_rows
from exprl.errors import ConfigError, DataError
from exprl.functions.pool import Functions
from exprl.types import Message, Problem, Prompt
from exprl.verify.sandbox.sandbox import Sandbox
from exprl.verify.verifiers import Verifiers, describe_unreadable, needs_sandbox

COLUMNS = ("answer", "domain", "id", "setup", "entry_point")
"""What `--column` may name beside trace and problem."""


@dataclass(frozen=True, slots=True)
class Request:
    """What to verify, and how.

    columns: `answer=gold`, `trace=solution`, ...; a column that is left out is as in the config.
    config_file, overrides: where columns, domains and their verifiers come from.
    verifier, verify, domain: replace those of the config for all rows; None leaves them.
    out: JSONL file; None writes to the standard output.
    """

    path: Path
    columns: Sequence[str] = ()
    config_file: Path | None = None
    overrides: Sequence[str] = ()
    verifier: config.VerifierName | config.FunctionName | None = None
    verify: config.Verify | None = None
    domain: str | None = None
    out: Path | None = None


def command(request: Request) -> float:
    """Verify, write a line for each row, and say on stderr what came out.

    Returns:
        The share of the gold answers that cannot be read.

    Raises:
        ConfigError: the config or an option cannot be used.
        DataError: the file or a row of it cannot be used.
    """
    cfg = _load_config(request)
    rows = list(read_rows(config.Source(path=str(request.path))))
    if not rows:
        raise DataError(f"{request.path}: holds no rows")
    named = dict(map(_parse_column, request.columns))
    traces = _read_texts(rows, request.path, "trace", named.pop("trace", None))
    questions = _read_texts(rows, request.path, "problem", named.pop("problem", None))
    problems = [
        replace(problem, prompt=Prompt(problem.id, (Message("user", question or ""),)))
        for problem, question in zip(
            _read_problems(rows, request, named, cfg.data.parts[0]), questions, strict=True
        )
    ]

    def treatment(domain: str) -> config.Treatment:
        own = cfg.treatment(domain)
        verifier, verify = request.verifier or own.verifier, request.verify or own.verify
        return replace(own, verifier=verifier, verify=verify)

    sandbox = Sandbox(cfg.sandbox) if needs_sandbox(treatment, problems) else None
    verifiers = Verifiers(treatment, sandbox, Functions(cfg.functions))
    for domain in sorted({p.domain for p in problems}):
        function = verifiers.open_function(domain)
        if function and function.asks_for("question") and None in questions:
            raise DataError(
                f"{request.path}: {function.name} asks for the question, and row"
                f" {questions.index(None) + 1} has none; name its column with --column problem=NAME"
            )
    lines = []
    with ThreadPoolExecutor(verifiers.workers, thread_name_prefix="verify") as threads:
        for line in threads.map(partial(_verify, verifiers), problems, traces):
            lines.append(line)
            if request.out is None:
                print(json.dumps(line), flush=True)
    verifiers.close()
    if request.out is not None:
        files.write_jsonl(request.out, lines)
    answered = [p for p in problems if p.answer is not None]
    unreadable = [p for p in answered if verifiers.read_golds(p) is None]
    search = verifiers.describe_search(problems)
    for text in _summarize(lines, search, treatment, answered, unreadable):
        print(text, file=sys.stderr)
    return len(unreadable) / len(answered) if answered else 0.0


def _summarize(
    lines: Sequence[dict[str, Any]],
    search: str,
    treatment: Callable[[str], config.Treatment],
    answered: Sequence[Problem],
    unreadable: Sequence[Problem],
) -> Iterator[str]:
    """What came out, for a reader."""
    share = f" ({len(unreadable) / len(answered):.1%})" if answered else ""
    yield (
        f"{len(lines)} rows, {len(answered)} gold answers; {len(unreadable)} of these cannot be"
        f" read{share}"
    )
    if unreadable:
        yield f"the first: {describe_unreadable(treatment, unreadable[0])}"
    traced = [line for line in lines if "correct" in line]
    if not traced:
        return
    correct = Counter(line["correct"] for line in traced)
    yield (
        f"{len(traced)} traces, {search}: {correct[True]} right, {correct[False]} wrong,"
        f" {correct[None]} not known"
    )
    reasons = Counter(str(line["reason"]).split(":")[0] for line in traced)
    for reason, count in reasons.most_common():
        yield f"{count:>8}  {reason}"


def _load_config(request: Request) -> config.Config:
    if request.config_file is not None:
        return config.load(request.config_file, list(request.overrides))
    plain = {"model": {"path": "-"}, "data": {"path": "-"}, "judge": {"kind": "rules"}}
    return config.build(config.override(plain, list(request.overrides)))


def _parse_column(text: str) -> tuple[str, str]:
    key, sign, name = text.partition("=")
    if not (sign and name and key in (*COLUMNS, "trace", "problem")):
        raise ConfigError(
            f"--column {text}: write KEY=NAME, where KEY is one of {', '.join(COLUMNS)}, trace and"
            " problem, such as answer=final_answer"
        )
    return key, name


def _read_problems(
    rows: Sequence[Row], request: Request, named: Mapping[str, str], own: config.Source
) -> list[Problem]:
    """The problems, without what they ask."""
    columns = {key: named.get(key, getattr(own.columns, key)) for key in COLUMNS}
    changes = {
        "path": str(request.path),
        "template": "{problem}",
        "domain": request.domain or own.domain,
        # Questions are not read, and yet a source has a column for them.
        "columns": config.Columns(problem=columns["answer"], reference=None, **columns),
    }
    reader = open_rows(rows, own.model_copy(update=changes))
    return [reader.read_answers(row, number) for number, row in enumerate(rows, 1)]


def _read_texts(rows: Sequence[Row], path: Path, key: str, name: str | None) -> list[str | None]:
    """The trace or the problem of each row; None everywhere if no column holds them."""
    column = find_column(rows, name or key)
    if column is None:
        if name is not None:
            remedy = f"name the column of the {key}s with --column {key}=NAME"
            raise DataError(f"{path}: {explain_missing(rows, name, remedy)}")
        return [None] * len(rows)
    places = [f"{path}: row {number}" for number in range(1, len(rows) + 1)]
    return [
        read_text(column.read(row, place), f"{place}: column {column.name!r}", code=True) or ""
        for row, place in zip(rows, places, strict=True)
    ]


def _verify(verifiers: Verifiers, problem: Problem, trace: str | None) -> dict[str, Any]:
    """The line of one row."""
    gold = verifiers.read_golds(problem)
    line = {
        "id": problem.id,
        "domain": problem.domain,
        "gold": _show((str(problem.answer), *problem.more_answers)) if problem.answer else None,
        "read_as": _show(gold.answers) if gold else None,
    }
    if trace is None:
        return line
    verdict = verifiers.examine(trace, problem)
    return line | {"correct": verdict.correct, "found": verdict.found, "reason": verdict.reason}


def _show(answers: tuple[str, ...]) -> str | list[str]:
    """One answer as a text, several as a list."""
    return answers[0] if len(answers) == 1 else list(answers)
