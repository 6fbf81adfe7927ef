"""The final answer of a trace, strict or lenient, by the rules of its verifier."""

from __future__ import annotations

from exprl.config import VerifierName, Verify
from exprl.thinking import outside_thinking
from exprl.verify import answer, choice
from exprl.verify.marked import Marked, find_marked


def find_final(text: str, verifier: VerifierName, verify: Verify) -> Marked:
    """The final answer of a trace, or why it has none.

    Args:
        text: the whole trace; hostile.
        verify: only what the trace marks (strict), or also what stands near its end (lenient).
    """
    if verify == "strict":
        return choice.find_marked_letter(text) if verifier == "choice" else find_marked(text)
    find = choice.find_letter if verifier == "choice" else answer.find_answer
    found = find("".join(outside_thinking(text)))
    return Marked(found, reason="no marked answer" if found is None else "")
