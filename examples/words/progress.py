"""The rule that grades the lines of a solution: what does each add towards the reference?"""

import re

COMPUTED = re.compile(r"=\s*\$?(-?\d+)")
STATED = re.compile(r"####\s*(-?\d+)")


def score(steps: list[str], reference: str) -> list[float]:
    """1 for each line that computes a result of the reference for the first time, else 0.

    A line with any other result counts 0, and so does one that says again what is known. The last
    line must state the reference's answer as `#### 11`, and all results must stand before it: a
    solution that stops early, or guesses, is not one.
    """
    wanted = COMPUTED.findall(reference)
    left = list(wanted)
    scores = []
    for step in steps:
        found = COMPUTED.findall(step)
        new = [result for result in found if result in left]
        scores.append(float(bool(new) and all(result in wanted for result in found)))
        left = [result for result in left if result not in found]
    if steps:
        stated = STATED.search(steps[-1])
        scores[-1] = float(not left and stated is not None and stated[1] == wanted[-1])
    return scores
