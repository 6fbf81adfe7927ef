r"""A verifier, two rewards and a step rule of your own, for the division of examples/division.

There a rollout is a line of divisions such as `10/5=2r0`, with `###` before each but the first, and
ends in `\boxed{021394r3}`. docs/guides/own-functions.md explains how a config names them.
"""

import re

BOX = re.compile(r"\\boxed\{([^{}]*)\}")
DIVISION = re.compile(r"(\d+)/(\d+)=(\d+)r(\d+)")


def check(text: str, answer: str) -> bool:
    """Right if the last box holds the answer."""
    boxes: list[str] = BOX.findall(text)
    return bool(boxes) and boxes[-1] == answer


def score(text: str, answer: str) -> float:
    """One score for the rollout: the share of the answer's signs that stand at their place."""
    found: str = (BOX.findall(text) or [""])[-1]
    return sum(a == b for a, b in zip(found, answer, strict=False)) / max(len(found), len(answer))


def score_steps(steps: list[str]) -> list[float]:
    """One score per step: 1 until the first division that is wrong."""
    wrong = [
        any(int(n) != int(d) * int(q) + int(r) for n, d, q, r in DIVISION.findall(step))
        for step in steps
    ]
    return [float(not any(wrong[: i + 1])) for i in range(len(steps))]


def cut(text: str) -> list[str]:
    """A step starts at `###`; joined, the steps are the text."""
    return re.split(r"(?=###)", text)
