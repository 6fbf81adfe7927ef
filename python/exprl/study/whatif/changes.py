"""What a what-if changes in the settings of a run, and what has to be found out again for it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from exprl import config
from exprl.config import Treatment
from exprl.errors import ConfigError
from exprl.study import targets
from exprl.study.overrides import refuse_dead

LIVE = ("advantage", "reward", "judge", "domains", "sandbox", "functions", "data")
"""Sections that decide scores and advantages."""
DEAD = {
    "judge.max_missing_rate": "no run is stopped here; the missing grades are counted",
    "data.limit": "choose rollouts with --steps and --sample",
    "reward.shuffle": "scores are dealt anew while a run trains, not afterwards",
    "loss.teacher_weight": "it takes the policy of that step to weigh tokens, which no file holds;"
    " what is compared here are advantages before that",
}
CUTS = (
    *("reward.steps", "reward.delimiter", "reward.min_step_tokens", "reward.max_steps"),
    "judge.show_thinking",
)
"""Settings that decide where a rollout is cut into steps."""
ASKS = frozenset(
    {"judge.endpoints"}
    | {f"judge.{field.name}" for field in fields(config.Judge) if not field.metadata["may_change"]}
    - {"judge.score_map"}
)
"""Settings that decide what a judge is asked, or which one."""


@dataclass(frozen=True)
class Changes:
    """A run's config, and the same with other settings laid over it.

    overrides: keys that the user named, whether or not they had that value before.
    domains: of the rollouts that are looked at.
    """

    before: config.Config
    after: config.Config
    overrides: frozenset[str]
    domains: tuple[str, ...]

    @property
    def settings(self) -> dict[str, tuple[Any, Any]]:
        """Dotted keys whose values differ, with both."""
        return config.differences(self.before, self.after)

    @cached_property
    def cuts(self) -> bool:
        """Whether rollouts are cut into steps again."""
        return any(key in self.overrides for key in CUTS)

    @cached_property
    def verifies(self) -> bool:
        """Whether final answers are compared again."""
        return any(
            key == "reward.verify"
            or key.startswith("sandbox.")
            or (key.startswith("domains.") and key.rpartition(".")[2] in ("verifier", "verify"))
            for key in self.overrides
        )

    def asks(self, domain: str) -> bool:
        """Whether the judge is asked, or its ledger, also where the run's file has the grade."""
        own = {f"domains.{domain}.view", f"domains.{domain}.rubric"}
        # judge.extra.NAME is a part of judge.extra.
        named = {".".join(key.split(".")[:2]) for key in self.overrides} & ASKS
        return self.cuts or bool(named or self.overrides & own) or self._reads_replies(domain)

    def _reads_replies(self, domain: str) -> bool:
        """Whether a score needs more of a reply than its grade, and the file does not have it."""
        if self.after.judge.readout == "text":
            return False
        run, _ = self.treatments_of(domain)
        if run.noise is not None:  # the file has the corrected score
            return True
        is_judges = run.source == "judge" and not (run.per_segment and run.last == "verifier")
        return not is_judges or self.before.judge.score_map != self.after.judge.score_map

    def asks_function(self, domain: str) -> bool:
        """Whether a reward of the user's own is asked, also where the run's file has its scores."""
        before, after = self.treatments_of(domain)
        if after.own_reward is None:
            return False
        same = (before.own_reward, before.per_segment) == (after.own_reward, after.per_segment)
        is_whole = not (before.per_segment and before.last == "verifier")
        named = any(key.startswith("functions.") for key in self.overrides)
        return self.cuts or self.verifies or named or not (same and is_whole)

    @property
    def scores_more(self) -> bool:
        """Whether rollouts are scored that judge, or function, did not see in the run."""
        return self.before.reward.overlong != self.after.reward.overlong or any(
            (a.judged, a.judges_overlong, a.view) != (b.judged, b.judges_overlong, b.view)
            for a, b in map(self.treatments_of, self.domains)
        )

    @cached_property
    def reads_texts(self) -> bool:
        """Whether the texts of the rollouts are needed; else grades and scores are enough."""
        again = self.cuts or self.verifies or self.scores_more
        return again or any(
            self.asks_function(d) or (self.asks(d) and self.after.treatment(d).judged)
            for d in self.domains
        )

    @property
    def reads_answers(self) -> bool:
        """Whether the problems of the data are needed, with their answers."""
        own = any(self.after.treatment(domain).own_reward for domain in self.domains)
        return self.verifies or (own and self.reads_texts)

    @property
    def references(self) -> str:
        """Where the judge's references come from: "recorded" in the run, or the "data"."""
        recorded = self.before.judge.condition == self.after.judge.condition and all(
            before.judged or not after.judged
            for before, after in map(self.treatments_of, self.domains)
        )
        recorded = recorded and not any(map(self.asks_function, self.domains))
        return "recorded" if recorded or self.after.judge.condition == "none" else "data"

    def treatments_of(self, domain: str) -> tuple[Treatment, Treatment]:
        """How the rows of a domain are rewarded, before and after."""
        return self._by_domain[domain]

    @cached_property
    def _by_domain(self) -> dict[str, tuple[Treatment, Treatment]]:
        """Asked for each rollout."""
        sides = (self.before, self.after)
        return {d: (sides[0].treatment(d), sides[1].treatment(d)) for d in self.domains}


def read_changes(run_dir: Path, overrides: Sequence[str], domains: Collection[str]) -> Changes:
    """The config of a run under other settings.

    Raises:
        ConfigError: a setting cannot be used or changes nothing here, or the run has no advantages.
    """
    refuse_dead(overrides, LIVE, DEAD, "exprl whatif")
    before = targets.load_config(run_dir)
    if before.loss.objective != "policy_gradient":
        raise ConfigError(
            f"{run_dir} has no advantages: loss.objective = {before.loss.objective!r} learns from"
            " the references, and not from rewards"
        )
    after = config.load(run_dir / "config.toml", overrides)
    keys = frozenset(override.partition("=")[0].strip() for override in overrides)
    changes = Changes(before, after, keys, tuple(sorted(domains)))
    _refuse_shadowed(changes)
    return changes


def _refuse_shadowed(changes: Changes) -> None:
    """Refuse a setting of the whole run that each of its domains replaces by its own."""
    for name, key in SHADOWED.items():
        values = [changes.after.domains.get(domain) for domain in changes.domains]
        own = [value is not None and getattr(value, name) is not None for value in values]
        if key in changes.overrides and own and all(own):
            instead = ", ".join(f"domains.{domain}.{name}" for domain in changes.domains)
            raise ConfigError(
                f"--set {key}: every domain of these rollouts has a value of its own; set {instead}"
            )


SHADOWED = {
    "advantage": "advantage.kind",
    "source": "reward.source",
    "verifier_weight": "reward.verifier_weight",
    "verify": "reward.verify",
    "noise": "reward.noise",
    "view": "judge.view",
    "rubric": "judge.rubric",
}
"""Keys of [domains.NAME] that replace one of the run."""


def treatment_changes(changes: Changes) -> Mapping[str, Mapping[str, tuple[Any, Any]]]:
    """For each domain what differs in how its rows are rewarded: before and after."""
    found = {}
    for domain in changes.domains:
        before, after = (asdict(cfg.treatment(domain)) for cfg in (changes.before, changes.after))
        differ = {key: (before[key], after[key]) for key in before if before[key] != after[key]}
        if differ:
            found[domain] = differ
    return found
