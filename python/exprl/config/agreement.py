"""What the sections of a config must agree on; each error names the keys and what to set."""

from __future__ import annotations

import re
import urllib.parse
from typing import TYPE_CHECKING

from exprl.config import presets

if TYPE_CHECKING:
    from exprl.config.run import Config


def check(cfg: Config) -> None:
    """Raise a ValueError for the first settings that contradict each other."""
    _advantage_fits_reward(cfg)
    _advantage_settings_are_read(cfg)
    _judge_servers_fit(cfg)
    _judge_can_be_asked(cfg)
    _judge_section_holds_no_secret(cfg)
    _step_has_room(cfg)
    _objective_fits_reward(cfg)
    _references_are_there(cfg)
    _domains_fit(cfg)
    _noise_is_of_a_judge(cfg)
    _answers_are_there(cfg)
    _processes_fit(cfg)
    _servers_are_named(cfg)
    _machines_fit(cfg)


def _advantage_fits_reward(cfg: Config) -> None:
    if cfg.treatment("").own_reward:  # the kind of advantage says how many scores it must give
        return
    outcome = cfg.reward.source == "verifier" or cfg.judge.view == "outcome"
    process_kind = cfg.advantage.kind in presets.PROCESS_ADVANTAGES
    if outcome == process_kind and cfg.reward.source != "none":
        scores = "one score per rollout" if outcome else "one score per step"
        allowed = presets.kinds_for(per_segment=not outcome)
        raise ValueError(
            f"advantage.kind = {cfg.advantage.kind!r} does not fit a reward of {scores}"
            f" (reward.source = {cfg.reward.source!r}, judge.view = {cfg.judge.view!r});"
            f" use one of {', '.join(allowed)}"
        )


def _advantage_settings_are_read(cfg: Config) -> None:
    """A setting that nothing reads is a misunderstanding."""
    treatments = cfg.treatments.values()
    if cfg.advantage.last == "verifier" and not any(t.per_segment for t in treatments):
        raise ValueError(
            "advantage.last = 'verifier' takes the score of the last step from the verifier, and"
            " this run has no score per step; set reward.source = 'verifier' for a reward by the"
            " verifier alone"
        )
    if cfg.rollout.redraw and cfg.loss.objective != "policy_gradient":
        raise ValueError(
            f"rollout.redraw = {cfg.rollout.redraw} replaces problems whose advantages are all 0,"
            f" and loss.objective = {cfg.loss.objective!r} has no advantages; set rollout.redraw"
            " to 0"
        )


def _judge_servers_fit(cfg: Config) -> None:
    if cfg.judge.serve and (cfg.judge.endpoints or cfg.judge.kind != "server"):
        other = "judge.endpoints" if cfg.judge.endpoints else f"judge.kind = {cfg.judge.kind!r}"
        raise ValueError(
            f"judge.serve starts servers of the judge, and {other} names others; leave out one of"
            " the two"
        )
    if cfg.judge.serve and (cfg.judge.api_key_env or cfg.judge.api_key_file):
        raise ValueError(
            "judge.serve starts servers with a key of the run's own; leave out judge.api_key_env"
            " and judge.api_key_file"
        )


def _judge_can_be_asked(cfg: Config) -> None:
    if not cfg.asks_judge or cfg.judge.kind != "server":
        return
    if not cfg.judge.endpoints and not cfg.judge.serve:
        raise ValueError(
            "judge.endpoints is empty: name at least one OpenAI-compatible server, e.g."
            ' judge.endpoints = ["http://127.0.0.1:8001/v1"], name a model for'
            ' the run to serve in judge.serve.model, or set judge.kind = "rules" to rehearse with'
            " the built-in rule judge"
        )
    if not cfg.judge.model:
        raise ValueError("judge.model is empty: name the model that the servers serve")


def _judge_section_holds_no_secret(cfg: Config) -> None:
    """Checked here and not in the section, whose errors would show the value."""
    if not all(map(_is_plain_url, cfg.judge.endpoints)):
        raise ValueError(
            "judge.endpoints must be http:// or https:// URLs without user, password and"
            " query; put the key into an environment variable and name it in judge.api_key_env"
        )
    if cfg.judge.api_key_env and not re.fullmatch(r"[A-Za-z_]\w*", cfg.judge.api_key_env):
        raise ValueError(
            "judge.api_key_env must be the name of an environment variable, not the key"
        )


def _is_plain_url(url: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:
        return False
    hidden = parts.username or parts.password or parts.query
    return parts.scheme in ("http", "https") and bool(parts.hostname) and not hidden


def _step_has_room(cfg: Config) -> None:
    if (cfg.eval.max_response_tokens or 0) > cfg.rollout.max_response_tokens:
        raise ValueError(
            f"eval.max_response_tokens = {cfg.eval.max_response_tokens} exceeds"
            f" rollout.max_response_tokens = {cfg.rollout.max_response_tokens}, for which the"
            " engine makes room"
        )
    rollouts = cfg.rollout.problems_per_step * cfg.rollout.group_size
    if cfg.optim.mini_batches > rollouts:
        raise ValueError(
            f"optim.mini_batches = {cfg.optim.mini_batches} exceeds the {rollouts} rollouts of"
            " a step (rollout.problems_per_step x rollout.group_size)"
        )


def _objective_fits_reward(cfg: Config) -> None:
    rewarded = cfg.loss.objective == "policy_gradient"
    for name in ("", *cfg.domains):
        source = cfg.treatment(name).source
        if rewarded == (source == "none"):
            wanted = "'judge' or 'verifier'" if rewarded else "'none'"
            where = f"domains.{name}.source" if name else "reward.source"
            raise ValueError(
                f"loss.objective = {cfg.loss.objective!r} does not fit {where} = {source!r};"
                f" set {where} to {wanted}"
            )


def _references_are_there(cfg: Config) -> None:
    for part in cfg.data.parts:
        if part.columns.reference is None and cfg.looks_at_references(part):
            raise ValueError(
                f"this run needs reference solutions, and {part.path} has none: set"
                " data.columns.reference to the column that holds them"
            )


def _domains_fit(cfg: Config) -> None:
    for name in ("", *cfg.domains):
        treatment, where = cfg.treatment(name), f"domains.{name}: " if name else ""
        if treatment.source in ("max", "weighted") and treatment.view != "outcome":
            raise ValueError(
                f"{where}source = {treatment.source!r} joins the verifier's word with one grade"
                f" of the whole rollout, not with view = {treatment.view!r}; set view ="
                " 'outcome', and an advantage for it such as 'grpo'"
            )
        kinds = presets.kinds_for(treatment.per_segment)
        if name and treatment.source != "none" and treatment.advantage not in kinds:
            raise ValueError(
                f"domains.{name}: advantage = {treatment.advantage!r} does not fit source ="
                f" {treatment.source!r} with view = {treatment.view!r}; use one of"
                f" {', '.join(kinds)}"
            )


def _noise_is_of_a_judge(cfg: Config) -> None:
    """The correction is of the judge's scores, in what is linear in them."""
    for name, own in cfg.domains.items():
        if own.noise and not cfg.treatment(name).judged:
            raise ValueError(
                f"domains.{name}.noise corrects the judge's scores, and source ="
                f" {cfg.treatment(name).source!r} asks no judge there; leave it out"
            )
    treatments = [t for t in cfg.treatments.values() if t.judged and t.noise]
    if cfg.reward.noise and not any(t.judged for t in cfg.treatments.values()):
        raise ValueError(
            f"reward.noise corrects the judge's scores, and reward.source = {cfg.reward.source!r}"
            " asks no judge; leave it out"
        )
    for treatment in treatments:
        if treatment.source == "max":
            raise ValueError(
                "reward.noise does not go with source = 'max': the larger of two scores has no mean"
                " that a correction of one of them could mend; use 'weighted'"
            )
        if treatment.advantage == "first_error":
            raise ValueError(
                "reward.noise does not go with advantage 'first_error', which asks whether a grade"
                " is 4 or more: a corrected score says that no longer; use 'delta'"
            )


def _answers_are_there(cfg: Config) -> None:
    for part in cfg.data.parts:
        treatment = cfg.treatment(part.domain)
        if part.columns.domain is None and part.columns.answer is None and treatment.verified:
            by = f"reward.source = {treatment.source!r}"
            if treatment.per_segment:
                by = f"advantage.last = {treatment.last!r}"
            raise ValueError(
                f"{by} needs answers, and {part.path} has none:"
                " set data.columns.answer to the column that holds the final answer"
            )


def _processes_fit(cfg: Config) -> None:
    """What samples ahead, and what trains in several processes, needs an engine beside it."""
    kind, ahead, ranks = cfg.engine.kind, cfg.rollout.ahead, cfg.ranks.count
    if ahead and kind == "process":
        raise ValueError(
            f"rollout.ahead = {ahead} samples while the trainer trains, which needs an engine in"
            " another process; set engine.kind = 'child' (one machine) or 'servers'"
        )
    if ahead and (cfg.loss.clip_low is None or cfg.loss.importance_cap is None):
        raise ValueError(
            f"rollout.ahead = {ahead} trains on tokens that an older policy sampled, which is only"
            " stable with a clipped ratio and a capped importance weight; set loss.clip_low and"
            " loss.clip_high, and loss.importance_cap to a number (without it, 2.0 is set)"
        )
    if ahead and cfg.loss.objective == "cross_entropy":
        raise ValueError(
            f"rollout.ahead = {ahead}: loss.objective = 'cross_entropy' learns from the references"
            " and samples nothing that could run ahead; set rollout.ahead = 0"
        )
    if ahead and cfg.loss.objective == "reverse_kl":
        raise ValueError(
            f"rollout.ahead = {ahead}: loss.objective = 'reverse_kl' learns from tokens of the"
            " policy as it is only; set rollout.ahead = 0, or loss.objective = 'sampled_reverse_kl'"
        )
    if ranks > 1 and kind != "servers" and cfg.needs_engine:
        raise ValueError(
            f"ranks.count = {ranks}: several trainer processes sample from servers; set"
            " engine.kind = 'servers'"
        )
    if kind != "process" and cfg.rollout.engine != "vllm":
        raise ValueError(
            f"engine.kind = {kind!r} runs vLLM; set rollout.engine = 'vllm', or engine.kind ="
            " 'process'"
        )
    if cfg.model.offload and (ranks > 1 or kind != "process"):
        raise ValueError(
            "model.offload lends the trainer's GPU to an engine in the same process; set it to"
            " false with engine.kind = 'child' or 'servers', and with several ranks"
        )


def _servers_are_named(cfg: Config) -> None:
    """Checked here and not in the section, whose errors would show a secret in the wrong place."""
    engine = cfg.engine
    if engine.urls and engine.kind != "servers":
        raise ValueError(
            f"engine.urls names servers, and engine.kind = {engine.kind!r} asks none; set"
            " engine.kind = 'servers'"
        )
    for url in engine.urls:
        if not _is_plain_url(url) or urllib.parse.urlsplit(url).path.strip("/"):
            raise ValueError(
                "engine.urls must be http:// or https:// URLs of a host and a port, without path,"
                " user, password and query, such as http://10.0.0.7:8000; put the token of the"
                " servers into an environment variable and name it in engine.token_env"
            )
    if engine.token_env and not re.fullmatch(r"[A-Za-z_]\w*", engine.token_env):
        raise ValueError(
            "engine.token_env must be the name of an environment variable, not the token"
        )
    if engine.token_env and not engine.urls:
        raise ValueError(
            "engine.token_env names the token of the servers of engine.urls, and there are none;"
            " leave it out: servers that the run starts get a token of their own"
        )


def _machines_fit(cfg: Config) -> None:
    if cfg.engine.kind == "child" and cfg.cluster.kind == "ray":
        raise ValueError(
            "cluster.kind = 'ray' places processes on several machines, and engine.kind = 'child'"
            " is a process of this one; set engine.kind = 'servers', or cluster.kind = 'local'"
        )
