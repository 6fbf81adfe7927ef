"""How to judge: every setting of a judge, and what it is when nobody sets it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from exprl.errors import ConfigError

View = Literal["outcome", "prefix", "step"]
Readout = Literal["text", "expected"]
ScoreMap = Literal["linear", "binary", "extremes", "extremes_soft"]


@dataclass(frozen=True, slots=True)
class Prices:
    """What a million tokens cost, in any currency.

    Attributes:
        prompt: prompt tokens that were not cached.
        cached: prompt tokens found in the server's prefix cache.
        completion: tokens of replies.
    """

    prompt: float
    cached: float
    completion: float


@dataclass(frozen=True, slots=True)
class JudgeSettings:
    """How to judge. API keys are named here, never held, so this can be printed and pickled.

    Attributes:
        endpoints: base URLs, such as `http://127.0.0.1:8000/v1`.
        model: the model's name there.
        view: `outcome` asks once per rollout; `prefix` and `step` once per segment.
        readout: the grade in the reply's text, or the `expected` score under its log-probs.
        score_map: how a grade 1..5 becomes a score in [0, 1] (or stays missing).
        rubric: TOML file of a rubric for every domain; None takes the built-in ones.
        rubrics: JSONL file of per-problem rubrics (`exprl rubric build` writes it), for items that
            bring no checklist; an item with a reference must be found there. None takes none.
        temperature: of the judge's sampling.
        max_tokens: of a reply.
        concurrency: requests in flight per server, at most.
        kv_tokens: tokens that a server's KV cache holds: what is judged there at once fits into it.
            None asks each server's `/metrics` (vLLM tells); 0 sets no such bound.
        rpm: requests per minute over all servers, at most.
        tpm: tokens per minute, prompts and replies, over all servers, at most: estimated when a
            request leaves, corrected by the usage that the server reports.
        hedge: share of requests that may go to a second server when the first is late, at most.
        prices: what tokens cost; None reports no cost.
        attempts: requests sent for one grade when servers fail, at most (429 does not count).
        retry_budget: share of all requests that may be retries, beside a reserve for the start.
        reask: ask once more, after `Score:`, if a reply holds no grade.
        stream: stream the replies, and leave a reply when the line of its grade is complete. Saves
            what a judge writes after the grade, and tells a slow server from a dead one; not for a
            judge that thinks in its reply behind a tag that its template opens.
        connect_timeout_s: for TCP and TLS.
        first_byte_timeout_s: from the request to the reply's first byte.
        idle_timeout_s: between two pieces of a reply.
        deadline_s: for a whole job, from `submit`; what is left then ends as `timeout`.
        outage_s: when every server keeps failing and none has answered for so long, what waits
            ends as `http_error`.
        queue_bytes: text waiting and in flight before `push` waits.
        ledger: folder where replies are kept, so that a re-run sends nothing; None keeps nothing.
        revision: part of the ledger's keys; change it when the model behind the name changes.
        sample_index: part of the ledger's keys; another one asks for another sample.
        api_key_env: environment variable that holds the API key.
        api_key_file: file that holds the API key.
        ca_file: certificates (PEM) that https servers are checked with instead of the system's.
        extra: further fields of the request, such as `{"top_p": 0.9}`.
    """

    endpoints: tuple[str, ...]
    model: str
    view: View = "prefix"
    readout: Readout = "text"
    score_map: ScoreMap = "linear"
    rubric: str | None = None
    rubrics: str | None = None
    temperature: float = 0.0
    max_tokens: int = 2048
    concurrency: int = 64
    kv_tokens: int | None = None
    rpm: int | None = None
    tpm: int | None = None
    hedge: float = 0.02
    prices: Prices | None = None
    attempts: int = 4
    retry_budget: float = 0.1
    reask: bool = True
    stream: bool = False
    connect_timeout_s: float = 5.0
    first_byte_timeout_s: float = 300.0
    idle_timeout_s: float = 60.0
    deadline_s: float = 3600.0
    outage_s: float = 60.0
    queue_bytes: int = 256 << 20
    ledger: str | None = None
    revision: str = ""
    sample_index: int = 0
    api_key_env: str | None = None
    api_key_file: str | None = None
    ca_file: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a URL that holds a password: settings are printed and saved."""
        if any("@" in url for url in self.endpoints):
            raise ConfigError(
                "a judge endpoint holds a user or key; name the key in api_key_env instead"
            )
