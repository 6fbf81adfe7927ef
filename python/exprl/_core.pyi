"""
The Rust core of exprl.
"""

from collections.abc import Iterator
from os import PathLike
from typing import Final, SupportsFloat, SupportsIndex, final

import numpy
import numpy.typing
from _typeshed import SupportsGetItem

__all__ = [
    "__version__",
    "Checklists",
    "Forecaster",
    "Job",
    "Judge",
    "JudgeStats",
    "LedgerReader",
    "RuleJudge",
    "Splitter",
    "advantages",
    "injections",
    "judge_choices",
    "judge_command",
    "judge_counters",
    "judge_defaults",
    "judge_settings",
    "open_thinking",
    "outside_thinking",
    "rubric_command",
    "score_grade",
    "split_text",
    "split_text_at",
    "text_signs",
]

__version__: Final[str]

@final
class Checklists:
    """
    The checkpoints of each problem, from a file of per-problem rubrics.
    """
    def __new__(cls, /, file: str | PathLike[str]) -> Checklists:
        """
        `file`: JSONL, as `exprl rubric build` writes it.
        """
    def find(self, /, problem: str, reference: str) -> list[tuple[str, int]] | None:
        """
        Text and weight of each checkpoint of a problem and its reference; None where the file has none.
        """

@final
class Forecaster:
    """
    Renders items as a judge would, and counts what it would send.
    """
    def __new__(cls, /, settings: str) -> Forecaster:
        """
        `settings`: an `exprl.judge.JudgeSettings` as JSON. Reads the ledger and locks nothing.
        """
    def add(self, /, item: tuple) -> None:
        """
        Counts the requests of an item, a tuple in the order of `exprl.judge.JudgeItem`'s fields.
        """
    def prompts(self, /, item: tuple) -> list[str]:
        """
        The text of each request about an item.
        """
    def sums(self, /) -> tuple[int, int, int, int, int, int, int, float | None, float | None]:
        """
        What has been counted so far.
        """

@final
class Job:
    """
    A batch: push items, take graded items.
    """
    def cancel(self, /) -> None:
        """
        Ends the job now; no more is taken from its items.
        """
    def close(self, /) -> None:
        """
        No more items will come.
        """
    def feed(self, /, items: Iterator) -> None:
        """
        Queues what `items` gives while there is room for it.
        """
    def fileno(self, /) -> int:
        """
        A descriptor that becomes readable when `take` has something new, or room for more items.
        """
    def push(self, /, item: tuple) -> None:
        """
        Queues an item, a tuple in the order of `exprl.judge.JudgeItem`'s fields; waits, open to Ctrl-C,
        while the queue is full.
        """
    def take(self, /, items: Iterator | None) -> tuple[list[tuple], bool]:
        """
        Like `wait`, without the wait.
        """
    def wait(self, /, items: Iterator | None) -> tuple[list[tuple], bool]:
        """
        What has finished, and whether that was the rest; waits a moment for it, open to Ctrl-C. First
        `items`, those that were not all queued, are queued as there is room.
        """

@final
class Judge:
    """
    Servers, queues and ledger.
    """
    def __new__(cls, /, settings: str) -> Judge:
        """
        `settings`: an `exprl.judge.JudgeSettings` as JSON.
        """
    def close(self, /) -> None:
        """
        Cancels what is unfinished and frees the ledger; a second call does nothing.
        """
    def prometheus(self, /) -> str:
        """
        The counters in Prometheus' text format.
        """
    def serve_metrics(self, /, port: SupportsIndex) -> str:
        """
        Serves the same on loopback until `close`; gives the page's URL.
        """
    def settings(self, /) -> str:
        """
        How it judges, as JSON.
        """
    def stats(self, /) -> JudgeStats:
        """
        What was done so far.
        """
    def submit(self, /) -> Job:
        """
        A new job; its deadline runs from now.
        """

@final
class JudgeStats:
    """
    What a judge has done so far.
    """
    def __eq__(self, value: object, /) -> bool: ...
    def __ne__(self, value: object, /) -> bool: ...
    def __repr__(self, /) -> str: ...
    @property
    def cached_tokens(self, /) -> int:
        """
        Tokens of prompts that were found in a server's prefix cache.
        """
    @property
    def completion_tokens(self, /) -> int:
        """
        Tokens of replies, as the servers counted them.
        """
    @property
    def cost(self, /) -> float | None:
        """
        What the tokens cost; None without prices.
        """
    @property
    def from_ledger(self, /) -> int:
        """
        Verdicts that the ledger gave.
        """
    @property
    def hedges(self, /) -> int:
        """
        Requests sent once more because the first was late: to a second server, or on a new connection.
        """
    @property
    def hedges_won(self, /) -> int:
        """
        Hedges that answered first.
        """
    @property
    def in_flight(self, /) -> int:
        """
        Requests in flight now.
        """
    @property
    def latency_p50_s(self, /) -> float:
        """
        Median seconds of an answered request, within 5 %; 0 without one.
        """
    @property
    def latency_p95_s(self, /) -> float:
        """
        95th percentile of the same, within 5 %.
        """
    @property
    def latency_p99_s(self, /) -> float:
        """
        99th percentile of the same, within 5 %.
        """
    @property
    def ledger_corrupt(self, /) -> int:
        """
        Records of the ledger that were damaged on disk and are asked for again.
        """
    @property
    def ledger_failed(self, /) -> int:
        """
        Replies that could not be stored (a full disk): another run asks for them again.
        """
    @property
    def ledger_replies(self, /) -> int:
        """
        Distinct replies in the ledger.
        """
    @property
    def over_context(self, /) -> int:
        """
        Requests whose prompt the judge's context does not hold: refused, or not sent.
        """
    def plus(self, /, other: JudgeStats) -> JudgeStats:
        """
        These counts and those of another judge, and the latencies of both.
        """
    @property
    def prompt_tokens(self, /) -> int:
        """
        Tokens of prompts, as the servers counted them.
        """
    @property
    def rate_limit_pauses(self, /) -> int:
        """
        Pauses of a server after a 429, a 503 with Retry-After, or a limit that is used up.
        """
    @property
    def readout_fallbacks(self, /) -> int:
        """
        Grades whose probabilities could not be used: the score is that of the grade alone.
        """
    @property
    def reasks(self, /) -> int:
        """
        Requests that asked again for a missing grade.
        """
    @property
    def repaired(self, /) -> int:
        """
        Grades that only a re-ask gave, those from the ledger included.
        """
    @property
    def requests_sent(self, /) -> int:
        """
        HTTP requests sent, repeats, hedges and re-asks included.
        """
    @property
    def retries(self, /) -> int:
        """
        Requests sent again after a fault.
        """
    @property
    def shared(self, /) -> int:
        """
        Verdicts that an equal request in flight gave.
        """
    def since(self, /, before: JudgeStats) -> JudgeStats:
        """
        What was counted since an earlier look, and the latencies since then; gauges stay as they are now.
        """
    @property
    def statuses(self, /) -> dict[str, int]:
        """
        Verdicts by status.
        """
    @property
    def truncated(self, /) -> int:
        """
        Replies that were cut at the token limit, those that a re-ask repaired included.
        """

@final
class LedgerReader:
    """
    Looks up replies in a ledger, without its lock.
    """
    def __new__(cls, /, folder: str | PathLike[str]) -> LedgerReader:
        """
        `folder`: of the ledger.
        """
    def close(self, /) -> None:
        """
        Gives up the files; a second call does nothing.
        """
    def get(self, /, key: str) -> str | None:
        """
        The newest reply under a key, as JSON; waits, open to Ctrl-C, until every reply can be found.
        """
    def is_ready(self, /) -> bool:
        """
        Whether every reply can be found at once. A call begins to index a ledger that needs it.
        """

@final
class RuleJudge:
    """
    A judge that grades by rule, served on loopback by this process.
    """
    def __new__(
        cls,
        /,
        rules: str,
        *,
        port: SupportsIndex,
        slots: SupportsIndex | None,
        max_model_len: SupportsIndex | None,
        faults: str,
    ) -> RuleJudge:
        """
        `faults`: the fields of the Rust crate's `Faults`, as a JSON object.
        """
    def close(self, /) -> None:
        """
        Closes the listener and every connection; a second call does nothing.
        """
    @property
    def model(self, /) -> str:
        """
        The model's name there.
        """
    def stats(self, /) -> str:
        """
        The server's counters as JSON.
        """
    @property
    def url(self, /) -> str:
        """
        Base URL, such as `http://127.0.0.1:40123/v1`.
        """

@final
class Splitter:
    """
    Cuts rollouts of one tokenizer into steps by a rule.

    `tokenizer_json`: the text of a tokenizer.json.
    """
    def __new__(
        cls,
        /,
        tokenizer_json: str,
        rule: str,
        delimiter: str,
        min_step_tokens: SupportsIndex,
        max_steps: SupportsIndex | None,
        cut_thinking: bool,
    ) -> Splitter: ...
    def split(
        self, /, token_ids: numpy.typing.NDArray[numpy.integer] | list[int], opened: bool
    ) -> list[tuple[int, int, str]]:
        """
        The steps of one rollout as (first token, one past the last token, text).

        `opened`: the prompt ends inside a thinking block, in which the rollout goes on.
        """
    def split_at(
        self,
        /,
        token_ids: numpy.typing.NDArray[numpy.integer] | list[int],
        opened: bool,
        starts: SupportsGetItem[int, SupportsIndex],
    ) -> list[tuple[int, int, str]]:
        """
        The same for steps that somebody else has found: they start at these characters of its text.
        """

def advantages(
    scores: numpy.typing.NDArray[numpy.float64],
    seg_off: numpy.typing.NDArray[numpy.int64],
    group_off: numpy.typing.NDArray[numpy.int64],
    kind: str,
    single_segment: str = "zero",
    compat: str | None = None,
    response_width: SupportsIndex | None = None,
    std_floor: SupportsFloat | SupportsIndex = 0.05,
    outcome_weight: SupportsFloat | SupportsIndex = 1.0,
    overlong: numpy.typing.NDArray[numpy.bool_] | None = None,
    bounds: tuple[float, float] | None = None,
) -> numpy.typing.NDArray[numpy.float64]:
    """
    One advantage per score; see `exprl.advantage.advantages`.
    """

def injections() -> list[tuple[str, str]]:
    """
    The kinds of strings that speak to a judge, each with its pattern.
    """

def judge_choices() -> dict[str, list[str]]:
    """
    The names of each kind of choice, in their order, by the name of its type in Python.
    """

def judge_command(arguments: SupportsGetItem[int, str]) -> int:
    """
    Runs the command line of exprl-judge; returns its exit code.
    """

def judge_counters() -> list[tuple[str, str, str]]:
    """
    Name, kind (`counter` or `gauge`) and meaning of each count of a judge.
    """

def judge_defaults() -> str:
    """
    The settings of the judge that are used where none are given, as JSON.
    """

def judge_settings() -> list[tuple[str, str]]:
    """
    Name and help of each setting of the judge.
    """

def open_thinking(text: str) -> str | None:
    """
    The closing tag that a text still owes, if it ends within a thinking block.
    """

def outside_thinking(text: str) -> list[str]:
    """
    The parts of a text outside thinking blocks; see `exprl.thinking`.
    """

def rubric_command(arguments: SupportsGetItem[int, str]) -> int:
    """
    Runs `exprl-judge rubric` as `exprl rubric build`; returns its exit code.
    """

def score_grade(grade: SupportsIndex, score_map: str) -> float | None:
    """
    The score of a grade under a score map, as text readout gives it; None where the map leaves it out.
    """

def split_text(
    text: str,
    rule: str,
    delimiter: str,
    min_step_words: SupportsIndex,
    max_steps: SupportsIndex | None,
    cut_thinking: bool,
) -> list[str]:
    """
    The steps of a text without tokens; joined, they are the text.
    """

def split_text_at(
    text: str,
    starts: SupportsGetItem[int, SupportsIndex],
    min_step_words: SupportsIndex,
    max_steps: SupportsIndex | None,
    cut_thinking: bool,
) -> list[str]:
    """
    The steps of a text without tokens, found by somebody else: they start at these characters.
    """

def text_signs(
    texts: list[str], hidden: list[tuple[str, str] | None]
) -> list[tuple[float, list[str]]]:
    """
    Each text's overlap with its hidden reference and its kinds of injections; see `exprl.monitor.text_signs`.

    `hidden`: of each text, reference and problem.
    """
