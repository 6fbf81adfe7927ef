"""Where the problems come from: one dataset, or several with weights."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from exprl.config.placeholders import find_names
from exprl.config.section import Section, expand_home, lay_over

BOXED = "boxed"
"""An answer_pattern that is no regular expression."""


class Columns(Section):
    """Which column of the data holds what. None = the data has no such column.

    A dot names a key of a nested column: `extra_info.solution`. A column that is called exactly so
    goes first.
    """

    problem: str = Field(
        "problem",
        description="problem: text, or a list of {role, content} messages; several columns with"
        " their names in braces, '{Body} {Question}'; a dot names a key of a nested column,"
        " 'extra_info.question', here and in the other columns",
    )
    reference: str | None = Field(
        "reference",
        description="hidden solution, step by step: text, or a list of alternative solutions",
    )
    answer: str | None = Field(
        "answer", description="final answer for the verifier; for code the unit tests"
    )
    entry_point: str | None = Field(
        None, description="for code: name of the function that `check(candidate)` tests"
    )
    setup: str | None = Field(
        None, description="for code: text before the program, e.g. HumanEval's 'prompt'"
    )
    domain: str | None = Field(None, description="domain of each row; none = data.domain")
    id: str | None = Field(None, description="unique id of each row; none = the row number")


class Source(Section):
    """One dataset."""

    path: str = Field("", description="jsonl, json, parquet or csv file, a folder, or a hub id")
    split: str = Field("train", description="split of a hub dataset")
    subset: str | None = Field(
        None, description="configuration of a hub dataset, e.g. 'main' of openai/gsm8k"
    )
    columns: Columns = Columns()
    domain: str = Field("math", description="domain of rows that name none")
    system: str | None = Field(None, description="system message before every problem")
    system_wins: Literal["row", "config"] = Field(
        "row",
        description="whose system message counts where a row brings its own: the row's, or"
        " data.system, which then replaces it",
    )
    template: str = Field(
        "{problem}",
        description="user message; {problem} is the problem's text, another name in braces is a"
        " column; {{name}} stays as {name}",
    )
    answer_pattern: str | None = Field(
        None,
        description=r"regular expression whose first group is the answer in the answer column, e.g."
        r" '####\s*(.+)' for GSM8K; 'boxed' takes what the last \boxed{} holds",
    )
    missing_reference: Literal["stop", "drop"] = Field(
        "stop",
        description="what a row without a reference does where one is needed: it stops the run, or"
        " it is left out and counted",
    )
    reference_list: Literal["by_answer", "alternatives", "steps"] = Field(
        "by_answer",
        description="what a list of several texts in the reference column is: whole solutions, all"
        " of which the judge sees and the first of which SFT learns (alternatives); the steps of"
        " one solution, joined by line breaks (steps); alternatives if each text names the row's"
        " answer, else refused (by_answer)",
    )
    answer_list: Literal["refuse", "any", "all"] = Field(
        "refuse",
        description="what a list of several texts in the answer column is: refused, answers of"
        " which each alone is right (any), or one answer that must name all of them (all). A list"
        " of test statements of code is one text",
    )
    limit: int | None = Field(None, gt=0, description="use only the first n rows")

    _expand_home = field_validator("path")(expand_home)

    @field_validator("template")
    @classmethod
    def _has_the_problem(cls, template: str) -> str:
        if "problem" not in find_names(template):
            raise ValueError("the template must contain {problem}, the place of the row's text")
        return template

    @model_validator(mode="after")
    def _hides_the_reference(self) -> Self:
        for key, text in (("template", self.template), ("columns.problem", self.columns.problem)):
            for field in ("reference", "answer"):
                column = getattr(self.columns, field)
                if column in find_names(text) and column != "problem":
                    raise ValueError(
                        f"{key} = {text!r} would show the policy the {field} column {{{column}}},"
                        f" which stays hidden from it; take it out, or write {{{{{column}}}}} for"
                        " these characters themselves"
                    )
        return self

    @field_validator("answer_pattern")
    @classmethod
    def _has_a_group(cls, pattern: str | None) -> str | None:
        if pattern == BOXED:
            return pattern
        try:
            groups = None if pattern is None else re.compile(pattern).groups
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
        if groups == 0:
            raise ValueError(r"put the answer in parentheses, e.g. '####\s*(.+)'")
        return pattern


def _check_weight(value: Any) -> Any:
    """Refuse a weight in one sentence; a union has a mistake for each of its types."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and value > 0
    if not number and value != "rows":
        raise ValueError('expected a number above 0, or "rows"')
    return value


class MixedSource(Source):
    """One of several datasets. What it leaves open is as in [data] itself."""

    weight: Annotated[
        Annotated[float, Field(gt=0.0)] | Literal["rows"], BeforeValidator(_check_weight)
    ] = Field(
        1.0,
        description="share of a step's problems, relative to the other sources; rows = as many as"
        " it has problems, so that sources which all say so are mixed as one file would be",
    )


class Data(Source):
    """Where the problems come from: one dataset, or several with weights."""

    sources: tuple[MixedSource, ...] = Field(
        (), description="several datasets, as [[data.sources]], instead of data.path"
    )

    @model_validator(mode="before")
    @classmethod
    def _sources_inherit(cls, values: Any) -> Any:
        sources = values.get("sources") if isinstance(values, dict) else None
        if not isinstance(sources, list | tuple) or not all(isinstance(x, dict) for x in sources):
            return values
        shared = {k: v for k, v in values.items() if k not in ("sources", "path")}
        return values | {"sources": [lay_over(shared, source) for source in sources]}

    @model_validator(mode="after")
    def _is_one_or_several(self) -> Self:
        if bool(self.path) == bool(self.sources):
            raise ValueError(
                "name one dataset with path, or several with [[data.sources]], and not both"
            )
        for number, source in enumerate(self.sources, 1):
            if not source.path:
                raise ValueError(f"path of source {number} is missing")
        return self

    @property
    def parts(self) -> tuple[MixedSource, ...]:
        """The datasets: `sources`, or this one with weight 1."""
        return self.sources or (MixedSource(**self.model_dump(exclude={"sources"})),)
