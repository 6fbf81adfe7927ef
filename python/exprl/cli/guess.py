"""What the columns of a data file hold, guessed from their names and from the first rows."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from exprl import config
from exprl.cli.table import NAMES, Table, make_plain
from exprl.config.reward import VERIFIERS
from exprl.data.columns import join_names
from exprl.data.files import Row, describe_kind
from exprl.errors import DataError
from exprl.verify.answer import find_answer

# Texts that stand before the question.
BEFORE_THE_QUESTION = ("body", "context", "passage")
HASHES = r"####\s*(.+)"
LAST_LINE = r"(?:^|\n)(?:A|Answer|Final answer): *(.+)\s*$"
WITH_UNIT = r"^\s*([-+\d.,/: ]*\d)\s*\([^()]*\)\s*$"  # ASDiv's `9 (apples)`
LONGEST_ANSWER = 80  # characters; what is longer, or has lines, is a solution
# A column called `solution` may be short; one called like these is as often the answer alone.
AS_OFTEN_ANSWERS = ("answer", "response", "output", "completion", "ground_truth")
CHARACTERS_PER_TOKEN = 3  # of English with formulas, on the safe side
STEPS_PROMPT = (
    "Solve the problem step by step. Start every step with ### and put the answer in \\boxed{}."
)


@dataclass(frozen=True, slots=True)
class Guess:
    """A setting, and why it was chosen."""

    key: str
    value: Any
    why: str


@dataclass(slots=True)
class Guesses:
    """What was found out, and what could not be."""

    settled: list[Guess] = field(default_factory=list)
    open: list[str] = field(default_factory=list)

    def settle(self, key: str, value: Any, why: str) -> None:
        """Note a setting."""
        self.settled.append(Guess(key, value, why))


@dataclass(frozen=True, slots=True)
class Asked:
    """Columns that the user named, which are not guessed. "none" = there is no such column."""

    problem: str | None = None
    reference: str | None = None
    answer: str | None = None


def guess(path: str, rows: Sequence[Row], asked: Asked) -> Guesses:
    """Which settings these rows need.

    Raises:
        DataError: no column can be the problem; neither reference nor answer was found; a named
            column is not there. Names the file, the columns and the option that helps.
    """
    found = Guesses()
    table = Table(path, rows)
    problem = _find_problem(table, asked, found)
    reference = _find_reference(table, asked, problem, found)
    answer = _find_answer(table, asked, problem, reference, found)
    if reference is None and answer is None:
        raise DataError(
            f"{path}: its columns {join_names(table.columns)} hold neither a reference solution nor"
            " a final answer, of which training needs one; name the column with --reference or"
            " --answer"
        )
    code = _find_code(table, found)
    _find_id(table, found)
    if not code:
        _find_domain(table, found)
    _choose_method(reference, code, found)
    if not code and table.chat_row(problem) is None:
        found.settle("data.system", STEPS_PROMPT, "so that the judge can grade step by step")
    _choose_lengths(table, problem, reference, len(rows), found)
    return found


def _find_problem(table: Table, asked: Asked, found: Guesses) -> str:
    if asked.problem is not None:
        column, why = table.given(asked.problem, "--problem"), "you named it"
    else:
        usable = (c for c in table.named("problem") if table.texts(c) or table.chat_row(c))
        column, why = next(usable, None), "by its name"
        before = _find_before(table, column)
        if before is not None:
            column, why = f"{{{before}}} {{{column}}}", f"{before!r} stands before {column!r}"
    if column is None:
        raise DataError(
            f"{table.path}: none of its columns {join_names(table.columns)} is called like a"
            f" problem ({', '.join(NAMES['problem'].split())}); name the column with --problem"
        )
    number = table.chat_row(column)
    if number is not None:
        last = table.cells(column)[number - 1][-1]
        role = last.get("role") if isinstance(last, dict) else describe_kind(last)
        if role != "user":
            raise DataError(
                f"{table.path}: row {number}: column {column!r}: the last message is of role"
                f" {role!r}; a problem ends with the user's message, so put what follows it into"
                " a column of its own, and name that one with --reference"
            )
        why += "; it holds chat messages"
    found.settle("data.columns.problem", column, why)
    return column


def _find_before(table: Table, column: str | None) -> str | None:
    """The column of what a question is about, such as SVAMP's `Body`."""
    if (
        column is None
        or not table.texts(column)
        or make_plain(column) not in ("question", "problem")
    ):
        return None
    bodies = (c for c in table.columns if make_plain(c) in BEFORE_THE_QUESTION)
    return next((c for c in bodies if table.texts(c)), None)


def _find_reference(table: Table, asked: Asked, problem: str, found: Guesses) -> str | None:
    key = "data.columns.reference"
    if asked.reference is not None:
        column = table.given(asked.reference, "--reference")
        found.settle(key, column, "you named it" if column else "you said that there is none")
        return column
    for column in table.named("reference"):
        texts = table.texts(column)
        longest = max(map(len, texts), default=0)
        has_lines = any("\n" in text.strip() for text in texts)
        leaf = make_plain(column.rpartition(".")[2])
        least = LONGEST_ANSWER if leaf in AS_OFTEN_ANSWERS else LONGEST_ANSWER // 4
        if column != problem and (longest > least or has_lines):
            found.settle(key, column, f"by its name; its longest text has {longest} characters")
            lacking = len(table.rows) - len(texts)
            if lacking:
                found.open.append(
                    f"{lacking} of {len(table.rows)} rows have nothing in {column!r}, and training"
                    ' stops at the first of them; data.missing_reference = "drop" leaves them out'
                )
            return column
    found.settle(key, None, "no column has the name and the length of a solution")
    found.open.append(
        "no reference solutions were found, so the config trains with the verifier alone"
        " (sparse-grpo); if there are some, name their column with --reference"
    )
    return None


def _find_answer(
    table: Table, asked: Asked, problem: str, reference: str | None, found: Guesses
) -> str | None:
    key = "data.columns.answer"
    if asked.answer is not None:
        named = table.given(asked.answer, "--answer")
        candidates, why = [named] if named else [], "you named it"
    else:
        candidates, why = [c for c in table.named("answer") if c != problem], "by its name"
        candidates += [reference] if reference else []
    for column in candidates:
        texts = table.texts(column)
        is_short = bool(texts) and max(map(len, texts)) <= LONGEST_ANSWER
        pattern, reason = _find_pattern(texts)
        if pattern is not None:
            found.settle(key, column, "it is in the solution" if column == reference else why)
            found.settle("data.answer_pattern", pattern, reason)
            return column
        if is_short or asked.answer or "entry_point" in table.columns:
            found.settle(key, column, why)
            return column
    found.settle(key, None, "no column holds a short answer, a line '#### ...' or a \\boxed{...}")
    found.open.append(
        "no final answers were found, so nothing can be verified (no pass@k, no sparse reward); if"
        " a column has them, name it with --answer and set data.answer_pattern"
    )
    return None


def _find_pattern(texts: Sequence[str]) -> tuple[str | None, str]:
    """How the answer stands in nine tenths of the texts or more, in words as well."""
    forms: tuple[tuple[str, str, Callable[[str], object]], ...] = (
        (HASHES, "a line '#### ...'", lambda text: re.search(HASHES, text)),
        (config.BOXED, "a \\boxed{...}", find_answer),
        (LAST_LINE, "a last line 'A: ...'", lambda text: re.search(LAST_LINE, text)),
        (WITH_UNIT, "a number with its unit in brackets", lambda text: re.search(WITH_UNIT, text)),
    )
    for pattern, words, finds in forms:
        hits = sum(bool(finds(text)) for text in texts)
        if texts and hits >= 0.9 * len(texts):
            return pattern, f"{hits} of {len(texts)} rows have {words}"
    return None, ""


def _find_code(table: Table, found: Guesses) -> bool:
    if "entry_point" not in table.columns:
        return False
    why = "the column 'entry_point' names a function, so the problems are programs"
    found.settle("data.domain", "code", why)
    found.settle("data.columns.entry_point", "entry_point", "by its name")
    if "prompt" in table.columns:
        found.settle("data.columns.setup", "prompt", "a program goes on after its prompt")
    found.settle("data.system", "Complete the function. Answer with Python code.", why)
    return True


def _find_id(table: Table, found: Guesses) -> None:
    for column in table.named("id"):
        ids = table.texts(column)
        if len(set(ids)) == len(table.rows):
            found.settle("data.columns.id", column, "each row that was looked at has its own")
            return


def _find_domain(table: Table, found: Guesses) -> None:
    """A column of domains, if each is one that chooses a verifier by its name."""
    for column in table.named("domain"):
        domains = table.texts(column)
        if len(domains) == len(table.rows) and set(domains) <= set(VERIFIERS):
            found.settle("data.columns.domain", column, f"it holds {', '.join(sorted({*domains}))}")
            return


def _choose_method(reference: str | None, code: bool, found: Guesses) -> None:
    if reference is None:
        found.settle("method", "sparse-grpo", "there are no reference solutions")
    elif code:
        found.settle("method", "exprl-outcome", "a program is graded as a whole")
    else:
        found.settle("method", "exprl-process", "there are reference solutions")
    if not code and all(one.key != "data.columns.domain" for one in found.settled):
        found.open.append(
            'data.domain is left at "math": for science, multiple choice, code or exact answers'
            " set it, since it selects rubric and verifier"
        )


def _choose_lengths(
    table: Table, problem: str, reference: str | None, rows: int, found: Guesses
) -> None:
    longest = table.longest(problem)
    found.settle(
        "rollout.max_prompt_tokens",
        _power_of_two(longest / CHARACTERS_PER_TOKEN, 1024, 32768),
        f"room for the longest problem, which has {longest} characters",
    )
    if reference is not None:
        longest = table.longest(reference)
        found.settle(
            "rollout.max_response_tokens",
            _power_of_two(4 * longest / CHARACTERS_PER_TOKEN, 1024, 16384),
            f"room for four times the longest reference, which has {longest} characters",
        )
    if rows < 36:
        found.settle("rollout.problems_per_step", rows, f"there are {rows} problems")


def _power_of_two(tokens: float, least: int, most: int) -> int:
    return min(most, max(least, 1 << max(0, int(tokens) - 1).bit_length()))
