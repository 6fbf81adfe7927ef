"""Faults that only the whole file shows: repeated, cut and foreign references, equal problems."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from exprl.config import FunctionName
from exprl.study.doctor.alike import Pair, find_alike, find_same
from exprl.study.doctor.findings import Fault, Finding, Proposal, suspect
from exprl.study.doctor.fit import find_foreign
from exprl.study.doctor.words import Texts
from exprl.verify.gold import Gold
from exprl.verify.verifiers import Verifiers

CUSTOM = 0.8
"""Share of the references that do something, from which on one that does not is suspicious."""
ENOUGH = 20
"""References of which a custom can be told."""
LIMIT = 3
"""References that are all exactly as long as the longest: something cut them there."""
LONG = 200
"""Characters; shorter references are not cut by a limit."""
SURELY_ALIKE = 0.95
"""Likeness of two problems without answers that could tell them apart."""
NEARLY = 0.9


@dataclass(slots=True)
class Sketch:
    """What the comparison with other rows needs of one; the texts are not kept.

    test: the test file that the row comes from, None for a row of the data.
    key: of the reference's words; None where there is no reference to look at.
    marked: whether the reference marks a final answer.   stated: whether it holds the row's
        answer, None where that is not known.
    sign: what tells that it was cut.   ended: whether it ends as a text does.
    length: characters.   words: their number.
    """

    row: int
    id: str
    test: str | None = None
    answers: tuple[str, ...] = ()
    domain: str = ""
    key: bytes | None = None
    marked: bool = False
    stated: bool | None = None
    sign: str | None = None
    ended: bool = True
    length: int = 0
    words: int = 0
    disagrees: bool = False


def find_faults(
    sketches: Sequence[Sketch], problems: Texts, references: Texts, verifiers: Verifiers
) -> Iterator[Finding]:
    """The faults that rows have beside each other.

    Args:
        sketches, problems: of all rows, then of the test files'.
        references: of the rows.
    """
    own = sketches[: len(references)]
    yield from _find_cut(own)
    pairs = find_alike(problems)
    alike = {(pair.first, pair.second) for pair in pairs}
    foreign = {one.index: one for one in find_foreign(problems, references)}
    for one in foreign.values():
        sketch = own[one.index]
        reason = f"shares no more with its problem than {one.chance:.0%} of the others do"
        if one.fits is not None:
            reason = f"fits the problem of row {own[one.fits].row} much better"
        yield suspect(sketch.row, sketch.id, "reference_foreign", reason, sure=one.sure)
    yield from _find_repeated(own, alike, set(foreign))
    yield from _find_equal(sketches, pairs, verifiers)


def _find_cut(own: Sequence[Sketch]) -> Iterator[Finding]:
    """References that end too early, and those that never come to the answer."""
    there = [one for one in own if one.key is not None]
    marks = _is_custom([one.marked for one in there])
    ends = _is_custom([one.ended for one in there])
    known = [one.stated for one in there if one.stated is not None]
    says = _is_custom(known)
    longest = max((one.length for one in there), default=0)
    limited = longest >= LONG and sum(one.length == longest for one in there) >= LIMIT
    for one in there:
        reason, sure = _judge_ending(one, marks, ends, limited and one.length == longest)
        if reason:
            yield suspect(one.row, one.id, "reference_cut", reason, sure=sure)
        elif not one.marked and (one.stated is False or (one.stated is None and marks)):
            answer = one.answers[0][:60] if one.answers else ""
            reason = f"{answer!r} stands nowhere in it" if answer else "it marks no final answer"
            yield suspect(one.row, one.id, "answer_absent", reason, sure=marks or says)


def _is_custom(having: Sequence[bool | None]) -> bool:
    return len(having) >= ENOUGH and sum(map(bool, having)) >= CUSTOM * len(having)


def _judge_ending(one: Sketch, marks: bool, ends: bool, at_limit: bool) -> tuple[str, bool]:
    """Why a reference seems cut, "" where it does not, and whether that is sure."""
    if one.marked:
        return "", False
    lost = one.stated is False or (one.stated is None and marks)
    if at_limit and (lost or not one.ended):
        return f"ends at {one.length} characters, as the longest references all do", True
    if one.sign:
        return one.sign, lost or marks or "not closed" in one.sign or "not whole" in one.sign
    if marks and not one.ended:
        return "ends within a sentence and marks no final answer, as the others do", lost
    if ends and lost and not one.ended:
        return "ends within a sentence, before the answer", True
    return "", False


def _find_repeated(
    own: Sequence[Sketch], alike: set[tuple[int, int]], foreign: set[int]
) -> Iterator[Finding]:
    """References that stand under problems which do not ask the same."""
    for places in find_same(one.key for one in own):
        others = [p for p in places[1:] if (places[0], p) not in alike]
        if not others:
            continue
        members = [p for p in places if p == places[0] or p in others]
        answers = {own[p].answers for p in members}
        sure = len(answers) > 1 or not any(own[p].answers for p in members) or len(members) > 2
        rows = ", ".join(str(own[p].row) for p in members[:5])
        for p in members:
            fits = p not in foreign and len(members) > sum(q in foreign for q in members) > 0
            proposal: Proposal = "drop" if sure and not fits else "keep"
            reason = f"rows {rows} have this text, and ask different things"
            yield Finding(own[p].row, own[p].id, "reference_repeated", sure, reason, proposal)


def _find_equal(
    sketches: Sequence[Sketch], pairs: Sequence[Pair], verifiers: Verifiers
) -> Iterator[Finding]:
    """Rows that ask what an earlier row asks, or what a test file does."""
    said: dict[str, set[int]] = defaultdict(set)
    for pair in pairs:
        first, second = sketches[pair.first], sketches[pair.second]
        if first.test is not None:
            continue
        same = _has_same_answer(first, second, verifiers)
        fault: Fault = "duplicate" if second.test is None else "in_test"
        if fault == "in_test":
            found = [_describe_leak(pair, first, second, same)]
        elif same is False:
            fault, found = "conflict", _describe_conflict(pair, first, second)
        else:
            found = [_describe_duplicate(pair, first, second, same)]
        for one in found:
            if one.row not in said[fault]:
                said[fault].add(one.row)
                yield one


def _has_same_answer(first: Sketch, second: Sketch, verifiers: Verifiers) -> bool | None:
    """Whether two rows have one answer; None where one of them has none."""
    if not first.answers or not second.answers:
        return None
    if set(first.answers) & set(second.answers):
        return True
    kind = verifiers.kind(first.domain)
    if kind == "code":
        return None  # unit tests of one task may differ
    if isinstance(kind, FunctionName):
        return False
    return any(Gold(first.answers).equals(answer, kind) for answer in second.answers)


def _say_likeness(pair: Pair) -> str:
    """How sure that is."""
    return "" if pair.likeness == 1.0 else f": {pair.likeness:.0%} of the words are the same"


def _describe_leak(pair: Pair, row: Sketch, test: Sketch, same: bool | None) -> Finding:
    sure = pair.likeness == 1.0 or same is not False
    reason = f"asks what row {test.row} of {test.test} asks{_say_likeness(pair)}"
    return suspect(row.row, row.id, "in_test", reason, sure=sure)


def _describe_duplicate(pair: Pair, first: Sketch, second: Sketch, same: bool | None) -> Finding:
    sure = same is True or pair.likeness >= SURELY_ALIKE
    reason = f"asks what row {first.row} asks{_say_likeness(pair)}"
    return suspect(second.row, second.id, "duplicate", reason, sure=sure)


def _describe_conflict(pair: Pair, first: Sketch, second: Sketch) -> list[Finding]:
    """Both rows, where one of the answers must be wrong; nothing where the question may differ."""
    if pair.likeness < NEARLY:
        return []
    sure = pair.likeness == 1.0
    found = []
    for one, other in ((first, second), (second, first)):
        # The row whose own reference contradicts its answer is the wrong one.
        wrong = one.disagrees or not other.disagrees
        reason = f"{one.answers[0][:40]!r}, and {other.answers[0][:40]!r} in row {other.row}"
        proposal: Proposal = "drop" if sure and wrong else "keep"
        found.append(Finding(one.row, one.id, "conflict", sure, reason, proposal))
    return found


def remark(sketches: Sequence[Sketch], findings: Sequence[Finding]) -> Iterator[str]:
    """What the findings say together."""
    foreign = [one for one in findings if one.fault == "reference_foreign" and one.sure]
    rows = sum(one.test is None for one in sketches)
    if len(foreign) > rows / 4:
        yield (
            f"{len(foreign)} of {rows} references seem to belong to other problems: are the columns"
            " of two files put together in another order?"
        )
