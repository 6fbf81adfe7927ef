"""What the user's functions are given and may return, by role.

    verifier    text, answer, ...         -> True, False, or None where it does not know
    reward      text, steps, answer, ...  -> a score in [0, 1], or one per step; None is missing
    step rule   text                      -> the steps as texts; joined, they are the text

A function gets what its parameters name, and nothing else: a reward sees the reference only if it
has a parameter of that name, and a verifier never does. One that takes `texts` is given lists, with
an entry per rollout, and returns a list.
"""

from __future__ import annotations

import math
from typing import Any, Literal

from exprl.config import FunctionName
from exprl.errors import ConfigError, FunctionError
from exprl.functions.process import Signature

Role = Literal["verifier", "reward", "step rule"]

GIVEN: dict[Role, tuple[str, ...]] = {
    "verifier": (
        "text",
        "answer",
        "more_answers",
        "question",
        "setup",
        "domain",
        "problem_id",
    ),
    "reward": (
        "text",
        "steps",
        "answer",
        "more_answers",
        "question",
        "reference",
        "correct",
        "tokens",
        "finish_reason",
        "domain",
        "problem_id",
    ),
    "step rule": ("text",),
}
"""The parameters that a function may have."""

IN_BATCHES = {
    "text": "texts",
    "answer": "answers",
    "question": "questions",
    "reference": "references",
    "setup": "setups",
    "domain": "domains",
    "problem_id": "problem_ids",
    "finish_reason": "finish_reasons",
}
"""What a parameter is called where a function takes `texts`; the others keep their names."""

SHOWN = 200


def names_of(role: Role, signature: Signature) -> dict[str, str]:
    """What a function of this signature is given: the parameter of each value that it asks for."""
    names = {one: IN_BATCHES.get(one, one) if signature.is_batch else one for one in GIVEN[role]}
    return {one: name for one, name in names.items() if name in signature.parameters}


def check_signature(name: FunctionName, role: Role, signature: Signature) -> None:
    """Raise a ConfigError unless exprl has what the function asks for."""
    given = names_of(role, signature)
    unknown = [one for one in signature.required if one not in given.values()]
    allowed = [IN_BATCHES.get(x, x) if signature.is_batch else x for x in GIVEN[role]]
    if unknown:
        raise ConfigError(
            f"{name}: a {role} has no parameter {', '.join(map(repr, unknown))}; it may take"
            f" {', '.join(allowed)}. Others need a default"
        )
    if not {"text", "steps"} & given.keys():
        raise ConfigError(f"{name}: a {role} needs the parameter `text`, or `texts` for batches")


def read_verdict(value: Any) -> bool | None:
    """What a verifier returned.

    Raises:
        FunctionError: neither a truth, 0 or 1, nor None.

    >>> read_verdict(True), read_verdict(0.0), read_verdict(None)
    (True, False, None)
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, (int, float)) and value in (0, 1):
        return bool(value)
    raise FunctionError(
        f"it returned {_show(value)}; a verifier returns True or False, or None where it does not"
        " know. A reward of your own may give every score from 0 to 1"
    )


def read_scores(value: Any, steps: int | None) -> tuple[float | None, ...]:
    """What a reward returned.

    Args:
        steps: how many scores there must be, in a list; None for one score of the whole rollout.

    Raises:
        FunctionError: it is something else, or a score lies outside [0, 1].

    >>> read_scores(0.5, None), read_scores([1, None], 2)
    ((0.5,), (1.0, None))
    """
    if steps is None:
        if isinstance(value, list):
            raise FunctionError(
                f"it returned {_show(value)}; advantage.kind asks for one score per rollout, a"
                " number. For a score per step set advantage.kind = 'delta' or another such kind"
            )
        return (_read_score(value),)
    if not isinstance(value, list):
        raise FunctionError(
            f"it returned {_show(value)}; advantage.kind asks for a list with one score per step."
            " For one score per rollout set advantage.kind = 'grpo' or another such kind"
        )
    if len(value) != steps:
        raise FunctionError(f"it returned {len(value)} scores for {steps} steps")
    return tuple(map(_read_score, value))


def _read_score(value: Any) -> float | None:
    if value is None:
        return None
    if not isinstance(value, (bool, int, float)) or not 0.0 <= value <= 1.0:
        why = "is no number" if isinstance(value, float) and math.isnan(value) else "is no score"
        raise FunctionError(
            f"it returned {_show(value)}, which {why}; a score lies from 0 to 1, and None is one"
            " that is missing"
        )
    return float(value)


def read_steps(value: Any, text: str) -> tuple[str, ...]:
    """What a step rule returned.

    Raises:
        FunctionError: no texts, or they do not make up the text.

    >>> read_steps(["a. ", "b"], "a. b")
    ('a. ', 'b')
    """
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise FunctionError(f"it returned {_show(value)}; a step rule returns a list of texts")
    joined = "".join(value)
    if joined != text:
        at = next(
            (i for i, (a, b) in enumerate(zip(joined, text, strict=False)) if a != b),
            min(len(joined), len(text)),
        )
        raise FunctionError(
            "its steps, joined, are not the text: they differ at character"
            f" {at}, {_show(joined[at : at + 20])} for {_show(text[at : at + 20])}"
        )
    return tuple(value)


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."
