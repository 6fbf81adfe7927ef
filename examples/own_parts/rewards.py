"""A verifier, a reward and a step rule of your own; docs/guides/own-functions.md explains them."""

import re


def check(text: str, answer: str) -> bool:
    """Right if the last number or word in a box is the answer, whatever its case."""
    boxes = re.findall(r"\\boxed\{([^{}]*)\}", text)
    return bool(boxes) and boxes[-1].strip().lower() == answer.strip().lower()


def score(text: str, answer: str) -> float:
    """Half of the reward for the answer, the rest for how many of its signs are at their place."""
    boxes = re.findall(r"\\boxed\{([^{}]*)\}", text)
    found = boxes[-1] if boxes else ""
    right = sum(a == b for a, b in zip(found, answer, strict=False))
    return 0.5 * (found == answer) + 0.5 * right / max(len(answer), len(found), 1)


def score_steps(steps: list[str], reference: str) -> list[float]:
    """One score per step: the share of the steps so far that are lines of the reference."""
    known = {line.strip() for line in re.split(r"###|\n", reference)}
    good = [step.strip().removeprefix("###") in known for step in steps]
    return [sum(good[: i + 1]) / (i + 1) for i in range(len(steps))]


def cut(text: str) -> list[str]:
    """A step starts at `Step 1`, `Step 2`, ...; joined, the steps are the text."""
    return re.split(r"(?=\bStep \d)", text)
