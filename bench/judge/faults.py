"""A bad day: what each client makes of a server with faults, and what it leaves ungraded.

    python bench/judge faults [--count N]

3 % of the contents meet a 429 with Retry-After, 1 % a 500, 0.5 % a cut reply, 0.2 % a hang, and
2 % are graded in prose. Every client sends the same requests with the same time limit, 64 at a
time. Bars: every result has a status, none is lost or wrong, at most 0.1 % unparseable,
at most 1.10 requests sent per result.
docs/project/benchmarks.md has what was seen.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from _row import Row, report
from questions import items, prompts, truth

from exprl.judge import Judge, JudgeItem, JudgeSettings, RuleJudge

FAULTS = {
    "rate_limit_rate": 0.03,
    "error_rate": 0.01,
    "cut_rate": 0.005,
    "hang_rate": 0.002,
    "prose_rate": 0.02,
}
IN_FLIGHT = 64
TIMEOUT_S = 3.0
GRADE = re.compile(r"^Score: ([1-5])$", re.MULTILINE)
Ask = Callable[[str], Awaitable[str]]


@dataclass
class Day:
    """What one client did: grades in input order, None where there is none."""

    grades: list[int | None]
    statuses: Counter[str]
    seconds: float


def exprl(server: RuleJudge, questions: Sequence[JudgeItem]) -> Day:
    settings = JudgeSettings(
        (server.url,),
        server.model,
        view="outcome",
        concurrency=IN_FLIGHT,
        first_byte_timeout_s=TIMEOUT_S,
        idle_timeout_s=TIMEOUT_S,
    )
    start = time.perf_counter()
    with Judge(settings) as judge:
        graded = sorted(judge.submit(questions), key=lambda one: one.index)
    verdicts = [one.verdicts[0] for one in graded]
    statuses = Counter(str(verdict.status) for verdict in verdicts)
    return Day([v.grade for v in verdicts], statuses, time.perf_counter() - start)


def openai(server: RuleJudge, messages: Sequence[str]) -> Day:
    from openai import AsyncOpenAI

    client = AsyncOpenAI(base_url=server.url, api_key="-", timeout=TIMEOUT_S)

    async def ask(message: str) -> str:
        reply = await client.chat.completions.create(
            model=server.model, messages=[{"role": "user", "content": message}], max_tokens=2048
        )
        return reply.choices[0].message.content or ""

    return asyncio.run(gather(ask, messages))


def litellm(server: RuleJudge, messages: Sequence[str]) -> Day:
    # Its prices of models come with it; they need not be fetched.
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    import litellm as library

    library.suppress_debug_info = True

    async def ask(message: str) -> str:
        reply = await library.acompletion(
            model=f"openai/{server.model}",
            api_base=server.url,
            api_key="-",
            timeout=TIMEOUT_S,
            num_retries=2,
            messages=[{"role": "user", "content": message}],
            max_tokens=2048,
        )
        return str(reply.choices[0].message.content)

    return asyncio.run(gather(ask, messages))


async def gather(ask: Ask, messages: Sequence[str]) -> Day:
    """As many tasks as requests in flight; a failure leaves its grade out."""
    grades: list[int | None] = [None] * len(messages)
    statuses: Counter[str] = Counter()
    todo = iter(enumerate(messages))

    async def worker() -> None:
        for i, message in todo:
            try:
                found = GRADE.findall(await ask(message))
            except Exception as error:
                statuses[type(error).__name__] += 1
                continue
            grades[i] = int(found[-1]) if found else None
            statuses["ok" if found else "unparseable"] += 1

    start = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))
    return Day(grades, statuses, time.perf_counter() - start)


def row(name: str, day: Day, expected: Sequence[int | None], sent: int) -> Row:
    count = len(expected)
    ungraded = sum(grade is None for grade in day.grades)
    wrong = sum(g is not None and g != right for g, right in zip(day.grades, expected, strict=True))
    statuses = dict(day.statuses.most_common())
    note = f"{100 * ungraded / count:.2f} % ungraded, {wrong} wrong, {sent / count:.3f} requests"
    note += f" per result, {count - sum(statuses.values())} lost; {statuses}"
    extra = {
        "count": count,
        "ungraded": ungraded,
        "wrong": wrong,
        "lost": count - sum(statuses.values()),
        "requests_per_result": sent / count,
        "statuses": statuses,
    }
    return Row(name, [day.seconds], "s", note, extra)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("faults", description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1500, help="requests to grade")
    count = parser.parse_args(arguments).count
    questions = items(count)
    expected = truth(questions)
    messages = prompts(questions)
    rows = []
    for name, client in (("exprl", exprl), ("openai", openai), ("litellm", litellm)):
        with RuleJudge("numbers", **FAULTS, latency_ms=20, jitter_ms=20, seed=1) as server:
            try:
                day = client(server, questions if client is exprl else messages)
            except ImportError as error:
                print(f"{name}: left out, {error}")
                continue
            sent = server.stats()["requests"]
        rows.append(row(name, day, expected, sent))
    report("judge_faults", rows, ("openai", "litellm"))


if __name__ == "__main__":
    main()
