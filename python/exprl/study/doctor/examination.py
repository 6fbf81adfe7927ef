"""All rows of a file: what each says by itself is found at once, the rest when all are known."""

from __future__ import annotations

import ast
import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache

from exprl import config
from exprl.functions.pool import Functions
from exprl.study.doctor import whole
from exprl.study.doctor.answers import check_gold
from exprl.study.doctor.cases import Case, read_cases
from exprl.study.doctor.endings import find_cut, is_ended
from exprl.study.doctor.findings import Finding, Proposal, shorten, suspect
from exprl.study.doctor.references import find_given, is_bare, is_excuse
from exprl.study.doctor.stated import states
from exprl.study.doctor.whole import Sketch
from exprl.study.doctor.words import (
    Texts,
    Vocabulary,
    drop_frame,
    drop_signs,
    find_frame,
    split_words,
)
from exprl.types import ReferenceProblem
from exprl.verify.marked import find_marked
from exprl.verify.sandbox.sandbox import Sandbox
from exprl.verify.verifiers import Verifiers

HEAD = 1000
"""Rows in which lines are looked for that frame every problem."""


@dataclass(slots=True)
class Examination:
    """What was found in one file.

    fingerprints: of each row, by which a patch knows it again.
    remarks: what is to be known of the file as a whole.
    """

    source: config.Source
    fingerprints: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """How many rows the file has."""
        return len(self.fingerprints)

    @property
    def changed(self) -> int:
        """How many rows have a finding that proposes to drop or to mend them."""
        return len({one.row for one in self.findings if one.proposal != "keep"})


def examine_rows(cfg: config.Config, tests: Sequence[config.Source] = ()) -> Examination:
    """Look at every row of the config's data.

    Args:
        tests: sources whose problems must not be in it.

    Raises:
        ConfigError: the sandbox that code needs is not to be had here.
        DataError: a file cannot be read, or lacks a column that its settings name.
    """
    source = cfg.data.parts[0]
    found = Examination(source)
    verifiers = Verifiers(cache(cfg.treatment), None, Functions(cfg.functions))
    rows = _Rows(verifiers, source)
    try:
        cases = read_cases(source)
        head = list(itertools.islice(cases, HEAD))
        rows.frame = find_frame([case.problem.question for case in head if case.problem])
        for case in itertools.chain(head, cases):
            if case.problem and verifiers.kind(case.problem.domain) == "code":
                verifiers.sandbox = verifiers.sandbox or Sandbox(cfg.sandbox)
            found.fingerprints.append(case.fingerprint)
            found.findings += rows.look(case)
        for test in tests:
            rows.add_test(test)
        found.findings += whole.find_faults(
            rows.sketches, rows.problems, rows.references, verifiers
        )
    finally:
        verifiers.close()
    found.remarks += whole.remark(rows.sketches, found.findings)
    found.findings.sort(key=lambda one: one.row)
    return found


class _Rows:
    """The rows so far: their findings are given back, their texts are kept as words."""

    def __init__(self, verifiers: Verifiers, source: config.Source) -> None:
        vocabulary = Vocabulary()
        self.problems, self.references = Texts(vocabulary), Texts(vocabulary)
        self.sketches: list[Sketch] = []
        self.frame: frozenset[str] = frozenset()
        self._verifiers = verifiers
        self._columns = source.columns
        self._missing_stops = source.missing_reference == "stop"
        self._ids: dict[str, int] = {}

    def look(self, case: Case) -> Iterator[Finding]:
        """Everything that a row says by itself."""
        sketch = Sketch(case.number, case.id)
        self.sketches.append(sketch)
        first = self._ids.setdefault(case.id, case.number)
        error = case.error or (
            f"has the id {case.id!r} of row {first}" if first != case.number else None
        )
        if error:
            yield Finding(case.number, case.id, "unusable", True, error, "drop")
        if case.problem is None:
            self.problems.add(())
            self.references.add(())
            return
        asked = split_words(drop_frame(case.problem.question, self.frame), signs=True)
        self.problems.add(asked)
        if case.problem.answer is None and self._columns.answer is not None and not case.error:
            yield Finding(case.number, case.id, "gold_missing", True, "nothing can be verified")
        disagreeing = list(check_gold(case, case.problem, self._verifiers))
        yield from disagreeing
        sketch.disagrees = any(one.fault == "gold_disagrees" for one in disagreeing)
        yield from self._look_at_reference(case, case.problem, asked, sketch)

    def _look_at_reference(
        self, case: Case, problem: ReferenceProblem, asked: list[str], sketch: Sketch
    ) -> Iterator[Finding]:
        solution = case.solutions[0] if case.solutions else ""
        answers = () if problem.answer is None else (problem.answer, *problem.more_answers)
        sketch.answers, sketch.domain = answers, problem.domain
        code = self._verifiers.kind(problem.domain) == "code"
        signed = split_words(solution, signs=True)
        if not code:
            for reason, sure in find_given(problem, asked, signed):
                yield suspect(case.number, case.id, "given_away", reason, sure=sure)
        if self._columns.reference is None:
            self.references.add(())
        elif not solution or is_excuse(solution):
            self.references.add(())
            yield self._describe_missing(case)
        elif not code and is_bare(solution, answers):
            self.references.add(())
            reason = f"{shorten(solution)} has no step that could be graded"
            yield Finding(case.number, case.id, "reference_bare", True, reason)
        else:
            words = drop_signs(signed)
            own = {word for answer in answers for word in split_words(answer)}
            # A program shares few words with its task; its unit tests say more.
            self.references.add([word for word in words if word not in own] if not code else ())
            self._sketch(sketch, problem, solution, words, code=code)

    def _describe_missing(self, case: Case) -> Finding:
        if case.solutions:
            reason = f"{shorten(case.solutions[0])} is no solution"
            return Finding(case.number, case.id, "reference_missing", True, reason, "drop")
        reason = "the column is empty"
        proposal: Proposal = "drop" if self._missing_stops else "keep"  # else training drops it
        return Finding(case.number, case.id, "reference_missing", True, reason, proposal)

    def _sketch(
        self,
        sketch: Sketch,
        problem: ReferenceProblem,
        solution: str,
        words: list[str],
        *,
        code: bool,
    ) -> None:
        """Note what has to be held against the other references."""
        sketch.length, sketch.words = len(solution), len(words)
        sketch.key = hashlib.blake2b(" ".join(words).encode(), digest_size=8).digest()
        if code:
            sketch.sign, sketch.ended = _find_syntax_error(problem.setup + solution), True
            return
        sketch.marked = find_marked(solution).answer is not None
        sketch.sign, sketch.ended = find_cut(solution), is_ended(solution)
        if sketch.answers and self._verifiers.kind(problem.domain) in ("math", "science", "exact"):
            sketch.stated = sketch.marked or any(states(solution, a) for a in sketch.answers)

    def add_test(self, test: config.Source) -> None:
        """Remember the problems of a test file."""
        for case in read_cases(test):
            if case.problem is not None:
                answers = () if case.problem.answer is None else (case.problem.answer,)
                sketch = Sketch(case.number, case.id, test=test.path, answers=answers)
                sketch.domain = case.problem.domain
                self.sketches.append(sketch)
                asked = drop_frame(case.problem.question, self.frame)
                self.problems.add(split_words(asked, signs=True))


def _find_syntax_error(program: str) -> str | None:
    """Why Python cannot read a program; None where it can, or where it is no bare program."""
    if "```" in program:
        return find_cut(program)
    try:
        ast.parse(program)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return f"is not whole Python: {str(error)[:60]}"
    return None
