"""How to judge: every setting of a judge, and what it is when nobody sets it.

A setting is written in two places, which a test holds together: here with its type for Python, its
limits and whether it may change; and in rust/exprl-judge/src/settings.rs, which reads it, with its
help. The `[judge]` section of a config is made from the class below, and the flags of `exprl judge`
from the Rust struct.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, ClassVar, Literal, Self, TypeVar

from exprl import _core
from exprl.errors import ConfigError

View = Literal["outcome", "prefix", "step"]
Readout = Literal["text", "expected", "direct"]
ScoreMap = Literal["linear", "binary", "extremes", "extremes_soft"]
Layout = Literal["reference_first", "reference_last"]
SOLUTION_VIEW: View = "outcome"
"""Where whole solutions are graded, as in `exprl calibrate` and `exprl judge score`."""

C = TypeVar("C")


@dataclass(frozen=True, slots=True)
class Prices:
    """What a million tokens cost, in any currency.

    Attributes:
        prompt: prompt tokens that were not cached.
        cached: prompt tokens found in the server's prefix cache.
        completion: tokens of replies.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    prompt: float
    cached: float
    completion: float


def score_grade(grade: int, score_map: ScoreMap) -> float | None:
    """The score of a grade 1..5, as `readout = "text"` gives it; None where the map leaves it out.

    >>> score_grade(4, "linear"), score_grade(4, "extremes")
    (0.75, None)
    """
    return _core.score_grade(grade, score_map)


def setting(default: Any, meaning: str = "", *, may_change: bool = False, **limits: float) -> Any:
    """A field of `JudgeSettings` or of the config's `[judge]`.

    meaning: its help; that of `JudgeSettings` comes from Rust.
    may_change: whether a run may go on with another value: it decides how the judge is reached
        and how patiently, not what is asked of it.
    limits: gt, ge and le, as pydantic calls them. Rust checks them again.
    """
    metadata = {"description": meaning, "may_change": may_change, **limits}
    return field(default=default, metadata=metadata)


def _with_help(settings: type[C]) -> type[C]:
    """Give each field its help, which Rust has, and list the fields in the docstring."""
    lines = []
    texts = dict(_core.judge_settings())
    for name in settings.__annotations__:
        text, own = texts[name], getattr(settings, name)
        own.metadata = {**own.metadata, "description": text.removesuffix(".")}
        lines.append(textwrap.fill(f"{' ' * 8}{name}: {text}", 100, subsequent_indent=" " * 12))
    settings.__doc__ = f"{settings.__doc__}\n\n    Attributes:\n" + "\n".join(lines)
    return settings


@dataclass(frozen=True)
@_with_help
class JudgeSettings:
    """How to judge. API keys are named here, never held, so this can be printed and pickled."""

    endpoints: tuple[str, ...] = setting((), may_change=True)
    model: str = setting("")
    view: View = setting("prefix")
    readout: Readout = setting("text")
    score_map: ScoreMap = setting("linear")
    rubric: str | None = setting(None)
    rubrics: str | None = setting(None)
    show_thinking: bool = setting(False)
    temperature: float = setting(0.0, ge=0.0, le=10.0)
    max_tokens: int = setting(2048, gt=0)
    extra: Mapping[str, Any] = field(default_factory=dict, metadata={"may_change": False})
    concurrency: int = setting(64, gt=0, may_change=True)
    kv_tokens: int | None = setting(None, ge=0, may_change=True)
    rpm: int | None = setting(None, gt=0, may_change=True)
    tpm: int | None = setting(None, gt=0, may_change=True)
    hedge: float = setting(0.02, ge=0.0, le=1.0, may_change=True)
    prices: Prices | None = setting(None, may_change=True)
    attempts: int = setting(4, gt=0, may_change=True)
    retry_budget: float = setting(0.1, ge=0.0, le=10.0, may_change=True)
    reask: bool = setting(True)
    stream: bool = setting(False, may_change=True)
    connect_timeout_s: float = setting(5.0, gt=0.0, may_change=True)
    first_byte_timeout_s: float = setting(300.0, gt=0.0, may_change=True)
    idle_timeout_s: float = setting(60.0, gt=0.0, may_change=True)
    deadline_s: float = setting(3600.0, gt=0.0, may_change=True)
    outage_s: float = setting(60.0, gt=0.0, may_change=True)
    queue_bytes: int = setting(20 << 20, gt=0, may_change=True)
    ledger: str | None = setting(None)
    revision: str = setting("")
    sample_index: int = setting(0, ge=0)
    api_key_env: str | None = setting(None, may_change=True)
    api_key_file: str | None = setting(None, may_change=True)
    ca_file: str | None = setting(None, may_change=True)
    layout: Layout = setting("reference_first")

    def __post_init__(self) -> None:
        """Refuse a URL that holds a password: settings are printed and saved."""
        if any("@" in url for url in self.endpoints):
            raise ConfigError(
                "a judge endpoint holds a user or key; name the key in api_key_env instead"
            )

    def to_json(self) -> str:
        """One JSON object, as Rust reads it.

        Raises:
            ConfigError: a value has no JSON, such as NaN.
        """
        values = {f.name: getattr(self, f.name) for f in fields(JudgeSettings)}
        if self.prices is not None:
            values["prices"] = asdict(self.prices)
        for name, value in values.items():
            try:
                json.dumps(value, allow_nan=False)
            except (TypeError, ValueError) as error:
                raise ConfigError(f"judge setting `{name}` = {value!r}: {error}") from None
        return json.dumps(values)

    def divide_limits(self, judges: int) -> Self:
        """These settings for one of several judges that ask the same servers at the same time."""
        limits = {name: getattr(self, name) for name in ("concurrency", "kv_tokens", "rpm", "tpm")}
        # 0 KV tokens and None set no limit.
        return replace(self, **{k: max(1, v // judges) for k, v in limits.items() if v})
