"""What the host does in a step of the paper's size, while no GPU works: 576 rollouts of 48 steps.

    python bench/host.py [--rollouts 576] [--sampling 60]

Each part is timed alone, then the sum of those that the GPU waits for; the bar is 1 s. The judge
is not in it (bench/judge). Text is drawn from GSM8K's solutions where they are present, else made
up; the rows say which.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from _row import Row, report, seconds
from steps import train_tokenizer, words

from exprl import config
from exprl.learn.advantages import segment_advantages
from exprl.learn.batch import fill_rate, pack, rollout_examples
from exprl.monitor.rollout_file import RolloutWriter
from exprl.monitor.step_metrics import step_row
from exprl.reward.scorer import Scorer
from exprl.run.checkpoint import RunState
from exprl.steps import Splitter
from exprl.types import Message, Problem, Prompt, Rollout, Scored
from exprl.verify.verifiers import Verifiers

GSM8K = Path(__file__).resolve().parents[2] / "shared" / "data" / "gsm8k"
GROUP, STEPS, TOKENS, LONGEST, LIMIT = 16, 48, 10_400, 16_384, 24_576
SOURCE = "GSM8K" if GSM8K.exists() else "made-up text"
BAR_S = 1.0
HARD = r"\frac{{{0}\sqrt{{{1}}}}}{{{2}}}"


@dataclass(frozen=True, slots=True)
class Question:
    """A problem with its hidden reference, and a solution that a model wrote."""

    text: str
    reference: str
    answer: str
    solution: str


@dataclass(frozen=True, slots=True)
class Work:
    """A step's inputs: problems, references, and rollouts as the engine gives them."""

    splitter: Splitter
    problems: list[Problem]
    references: dict[str, str | None]
    rollouts: list[Rollout]


def corpus(rng: random.Random) -> tuple[list[Question], list[str]]:
    """Questions, and lines to fill traces with."""
    return gsm8k() if GSM8K.exists() else made_up(rng)


def gsm8k() -> tuple[list[Question], list[str]]:
    """Questions with real models' solutions, and the lines of all reference solutions."""
    questions = []
    with (GSM8K / "example_model_solutions.jsonl").open(encoding="utf-8") as file:
        for row in map(json.loads, file):
            reference, _, answer = row["ground_truth"].rpartition("\nA:")
            solution = row["175b_finetuning"]["solution"]
            questions.append(Question(row["question"], reference, answer.strip(), solution))
    with (GSM8K / "train.jsonl").open(encoding="utf-8") as file:
        lines = [line for row in map(json.loads, file) for line in row["answer"].splitlines()[:-1]]
    return questions, lines


def made_up(rng: random.Random) -> tuple[list[Question], list[str]]:
    """The same of words that mean nothing."""
    vocabulary = words(20_000, rng)
    lines = [
        f"{' '.join(rng.choices(vocabulary, k=12))} {a} * {b} = {a * b}."
        for a, b in ((rng.randint(2, 99), rng.randint(2, 99)) for _ in range(20_000))
    ]
    questions = [
        Question(lines[4 * i], "\n".join(lines[4 * i : 4 * i + 4]), str(i), f"...\nA: {i}")
        for i in range(200)
    ]
    return questions, lines


def trace(question: Question, kind: int, length: int, lines: list[str], rng: random.Random) -> str:
    """`length` characters in STEPS steps; the answer is boxed, an expression, or not marked."""
    parts, written = [], len(question.solution)
    for step in range(1, STEPS + 1):
        parts.append(f"### Step {step}\n")
        while written < length * step // STEPS:
            parts.append(rng.choice(lines) + "\n")
            written += len(parts[-1])
    a, b, c = rng.sample(range(2, 999), 3)
    endings = (rf"\boxed{{{question.answer}}}", rf"\boxed{{{HARD.format(a, b, c)}}}", "")
    return "".join(parts) + question.solution + "\n" + endings[kind]


def workload(rollouts: int) -> tuple[Work, str]:
    rng = random.Random(0)
    questions, lines = corpus(rng)
    chosen = questions[: rollouts // GROUP]
    lengths = np.random.default_rng(0).lognormal(np.log(TOKENS) - 0.125, 0.5, rollouts)
    tokenizer = train_tokenizer(lines)
    per_token = len(" ".join(lines[:5000])) / len(tokenizer.encode(" ".join(lines[:5000])).ids)
    texts = [
        trace(chosen[i // GROUP], i % 3, int(min(n, LONGEST) * per_token), lines, rng)
        for i, n in enumerate(lengths)
    ]
    tokens = [np.array(one.ids, np.int32) for one in tokenizer.encode_batch_fast(texts)]
    problems = [
        Problem(f"{i}", Prompt(f"{i}", (Message("user", q.text),)), q.answer, "math")
        for i, q in enumerate(chosen)
    ]
    work = Work(
        Splitter(tokenizer.to_str()),
        problems,
        {f"{i}": q.reference for i, q in enumerate(chosen)},
        [
            Rollout(
                f"{i // GROUP}",
                i % GROUP,
                np.array(tokenizer.encode(chosen[i // GROUP].text).ids, np.int32),
                ids,
                np.full(len(ids), -0.5, np.float32),
                "stop",
                np.zeros(len(ids), np.int32),
            )
            for i, ids in enumerate(tokens)
        ],
    )
    count = sum(len(ids) for ids in tokens)
    return work, f"{rollouts} rollouts, {count / rollouts:.0f} tokens each, {SOURCE}"


def settings(method: str) -> config.Config:
    return config.build(
        {
            "method": method,
            "model": {"path": "model"},
            "data": {"path": "data"},
            "judge": {"kind": "rules"},
        }
    )


def graded(work: Work) -> list[Scored]:
    """The rollouts as a judge of every step would leave them, with 1 in 200 grades missing."""
    rng = random.Random(1)
    scored = []
    for rollout in work.rollouts:
        segments = work.splitter.split(rollout.token_ids)
        grades = tuple(rng.randint(1, 5) if rng.random() > 0.005 else None for _ in segments)
        scores = tuple(None if g is None else (g - 1) / 4 for g in grades)
        scored.append(Scored(rollout, segments, grades, scores, True, domain="math"))
    return scored


def per_trace(kind: int) -> list[float]:
    """Seconds of the verifier for each of 64 fresh traces of one kind of ending, one by one."""
    verifiers, rng, taken = Verifiers(settings("sparse-grpo").treatment), random.Random(kind), []
    questions, lines = corpus(rng)
    for i, question in enumerate(questions[-65:]):
        problem = Problem(f"{i}", Prompt(f"{i}", ()), question.answer, "math")
        text = trace(question, kind, 35_000, lines, rng)
        start = time.perf_counter()
        verifiers.is_correct(text, problem)
        taken.append(time.perf_counter() - start)
    return taken[1:]  # the first one starts the process


def waited(work: Work, sampling: float, note: str) -> list[Row]:
    """All pushes together, and how long the step waits for the verifier after `sampling` seconds.

    The rollouts come evenly over them.
    """
    verifiers = Verifiers(settings("sparse-grpo").treatment)
    one = Scorer(
        work.problems,
        work.references,
        work.splitter,
        settings("sparse-grpo").reward,
        settings("sparse-grpo").treatment,
        None,
        verifiers,
    )
    begin, pushing, cpu = time.perf_counter(), 0.0, 0.0
    for i, rollout in enumerate(work.rollouts):
        time.sleep(max(0.0, begin + sampling * i / len(work.rollouts) - time.perf_counter()))
        start, start_cpu = time.perf_counter(), time.thread_time()
        one.push(rollout)
        pushing += time.perf_counter() - start
        cpu += time.thread_time() - start_cpu
    start = time.perf_counter()
    one.finish(lambda done, of: None)
    waiting = time.perf_counter() - start
    after = f"after {sampling:g} s of sampling, {verifiers.workers} processes; {note}"
    return [
        Row("push: split into steps", [pushing], note=note, extra={"cpu_s": cpu}),
        Row("wait for the verifier", [waiting], note=after),
    ]


def recorded(
    scored: Sequence[Scored], values: Sequence[np.ndarray], repeats: int
) -> tuple[list[float], list[float]]:
    """Seconds that a step needs to hand its rollouts over, and until their file is written."""
    handing, writing = [], []
    with tempfile.TemporaryDirectory() as folder, RolloutWriter(Path(folder)) as writer:
        for step in range(repeats + 1):
            start = time.perf_counter()
            writer.submit(step, scored, values)
            handing.append(time.perf_counter() - start)
            writer.join()
            writing.append(time.perf_counter() - start)
    return handing[1:], writing[1:]


def measure(work: Work, note: str, sampling: float, repeats: int) -> list[Row]:
    cfg = settings("exprl-process")
    scored = graded(work)
    values = segment_advantages(scored, cfg.treatment, cfg.advantage, 0)

    def packed() -> list:
        return pack(
            rollout_examples(scored, values),
            mini_batches=1,
            micro_batch_tokens=LIMIT,
            aggregation="token_mean",
            max_response_tokens=LONGEST,
        )

    def row(name: str, work: Callable[[], object], **extra: object) -> Row:
        work()
        begin = time.process_time()
        taken = seconds(work, repeats, warmups=0)
        cpu = (time.process_time() - begin) / repeats
        return Row(name, taken, note=note, extra={"cpu_s": cpu, **extra})

    rows = [
        row(
            "score arrays and advantages",
            lambda: segment_advantages(scored, cfg.treatment, cfg.advantage, 0),
        ),
        row("pack", packed, fill=fill_rate(packed(), LIMIT)),
        row(
            "metrics, texts included",
            lambda: step_row(scored, [], work.problems, work.references, RunState(), None),
        ),
    ]
    handing, writing = recorded(scored, values, repeats)
    rows.append(Row("parquet, handed to its thread", handing, note=note))
    rows += waited(work, sampling, note)
    total = sum(one.median for one in rows)
    rows.append(Row("on the critical path", [total], note=note, extra={"bar": BAR_S}))
    rows.append(Row("parquet, on its thread", writing, note=note))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rollouts", type=int, default=576)
    parser.add_argument("--sampling", type=float, default=60.0, help="seconds that rollouts come")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--label", default="", help="kept in the rows, such as 'before'")
    arguments = parser.parse_args()
    work, note = workload(arguments.rollouts)
    rows = [
        Row(f"verifier, {name}", per_trace(kind), note=f"a trace, {SOURCE}")
        for kind, name in enumerate(("boxed as text", "boxed expression", "not marked"))
    ]
    rows += measure(work, note, arguments.sampling, arguments.repeats)
    rows = [replace(row, extra={"label": arguments.label, **row.extra}) for row in rows]
    report("host", rows, ("pyarrow", "math-verify"))


if __name__ == "__main__":
    main()
