"""The rule that grades the lines of a solution: what does each add towards the reference?"""

import re

COMPUTED = re.compile(r"=\s*\$?(-?\d+)")
STATED = re.compile(r"####\s*(-?\d+)")


def score(steps: list[str], reference: str) -> list[float]:
    """1 for each line that computes a result of the reference for the first time, else 0.

    A line with any other result counts 0, and so does one that says again what is known. The last
    line has the share of the reference's results that were found. For that it must state, as
    `#### 11`, what the solution computed last, after as many results as the reference has: a
    solution that stops early, goes on and on, or guesses, has 0 there.

    >>> score(["7 + 9 = 16", "16 - 5 = 10", "#### 10"], "7 + 9 = 16 and 16 - 5 = 11\\n#### 11")
    [1.0, 0.0, 0.5]
    """
    wanted = COMPUTED.findall(reference)
    left = list(wanted)
    computed: list[str] = []
    scores = []
    for step in steps:
        found = COMPUTED.findall(step)
        new = [result for result in found if result in left]
        scores.append(float(bool(new) and all(result in wanted for result in found)))
        left = [result for result in left if result not in found]
        computed += found
    if steps:
        stated = STATED.search(steps[-1])
        ends = stated is not None and computed[-1:] == [stated[1]]
        ends = ends and len(computed) == len(wanted)
        scores[-1] = 1.0 - len(left) / len(wanted) if ends else 0.0
    return scores
