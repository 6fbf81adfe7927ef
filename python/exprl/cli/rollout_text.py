"""One rollout for a terminal or a pipe: its problem, its steps with grades, the judge's words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from rich.cells import chop_cells
from rich.text import Text

from exprl.cli.printable import make_printable
from exprl.monitor.judge_words import Said
from exprl.monitor.rollout_reader import RecordedRollout, RecordedStep

LONGEST = 2000
"""Characters of a text that are shown without --full."""

# Blue is good and orange bad, so that everybody can tell them apart; the digit is there too.
STYLES = {1: "bold dark_orange", 2: "dark_orange", 3: "", 4: "dodger_blue1", 5: "bold dodger_blue1"}


@dataclass(frozen=True, slots=True)
class Marks:
    """How texts are laid out.

    width: columns of the terminal; None = a pipe, where lines stay as they are.
    full: long texts are not cut.
    """

    width: int | None
    full: bool


def rollout_text(rollout: RecordedRollout, said: Sequence[Said], marks: Marks) -> Text:
    """A rollout in full, without a line end after it.

    Args:
        said: what the judge said of each step; empty = not asked for.
    """
    name = make_printable(rollout.problem_id)
    text = Text()
    text.append(f"step {rollout.step}, problem {name}, rollout {rollout.index}\n", style="bold")
    text.append(f"{describe(rollout)}\n")
    if rollout.lacks:
        text.append(
            f"An older exprl wrote the file: it does not say {', '.join(rollout.lacks)}.\n",
            style="dark_orange",
        )
    for title, value in (
        ("Question", rollout.question),
        ("Answer", rollout.answer),
        ("Reference, as the judge was shown it", rollout.reference),
    ):
        if value is not None:
            text.append(f"\n{title}\n", style="bold")
            text.append_text(_quote(value, "| ", marks))
    for number, step in enumerate(rollout.steps, 1):
        title = f"Step {number}" if len(rollout.steps) > 1 else "The whole rollout"
        text.append(f"\n{title}  ", style="bold")
        text.append(_describe_step(step), style=STYLES.get(step.grade or 3, ""))
        text.append(f"  tokens {step.start}-{step.end}\n", style="dim")
        text.append_text(_quote(step.text, "| ", marks))
        if said:
            text.append_text(_judge_text(said[number - 1], step, marks))
    if not rollout.steps:
        text.append("\nIt has no text.\n")
    for reason in dict.fromkeys(rollout.reasons):
        text.append("\nMissing because\n", style="bold")
        text.append_text(_quote(reason, "| ", marks))
    text.rstrip()
    return text


def describe(rollout: RecordedRollout) -> str:
    """Domain, length, verdicts, flags and versions, in a line."""
    verdict = {True: "right", False: "wrong", None: "unknown"}[rollout.correct]
    scores = [step.score for step in rollout.steps if step.score is not None]
    parts = [
        f"domain {make_printable(rollout.domain)}",
        f"{rollout.length:,} tokens",
        f"ended by {rollout.finish_reason}",
        f"answer {verdict}",
        f"reward {np.mean(scores):.3f}" if scores and not rollout.missing else "no reward",
    ]
    flags = ("missing", "masked", "overlong", "blank")
    parts += [name for name in flags if getattr(rollout, name)]
    if rollout.injection:
        parts.append("speaks to the judge")
    lag = rollout.lag
    if lag is not None and len(lag):
        span = f"{lag.min()}" if lag.min() == lag.max() else f"{lag.min()} to {lag.max()}"
        parts.append(f"lag {span}")
    return ", ".join(parts)


def _describe_step(step: RecordedStep) -> str:
    grade = "no grade" if step.grade is None else f"grade {step.grade}"
    status = "" if step.status in (None, "ok") else f" ({step.status})"
    score = "no score" if step.score is None else f"score {step.score:.2f}"
    advantage = "no advantage" if step.advantage is None else f"advantage {step.advantage:+.2f}"
    return f"{grade}{status}  {score}  {advantage}"


def _judge_text(said: Said, step: RecordedStep, marks: Marks) -> Text:
    text = Text()
    if said.reply is None:
        text.append(f"  No words of the judge: {make_printable(said.why)}.\n", style="dim")
        return text
    reply = said.reply
    text.append(f"  The judge ({reply.completion_tokens} tokens)\n", style="dim")
    if reply.grade != step.grade:
        text.append(
            f"  The ledger has a newer reply to the same request, with grade {reply.grade}.\n",
            style="dark_orange",
        )
    text.append_text(_quote(reply.text, "  > ", marks))
    if reply.answer is not None:
        text.append("  Asked again for the grade alone\n", style="dim")
        text.append_text(_quote(reply.answer, "  > ", marks))
    return text


def _quote(value: str, prefix: str, marks: Marks) -> Text:
    """A model's text behind a prefix on every line, so that none of it looks like ours."""
    cut = "" if marks.full else value[LONGEST:]
    text = Text()
    for line in _lines(value if marks.full else value[:LONGEST], prefix, marks.width):
        text.append(prefix, style="dim")
        text.append(f"{line}\n")
    if cut:
        text.append(f"{prefix}({len(cut):,} more characters: --full)\n", style="dim")
    return text


def _lines(value: str, prefix: str, width: int | None) -> Iterator[str]:
    for line in value.strip("\n").split("\n"):
        shown = make_printable(line.replace("\t", "    "))
        room = None if width is None else max(8, width - len(prefix))
        yield from [shown] if room is None or len(shown) * 2 <= room else chop_cells(shown, room)
