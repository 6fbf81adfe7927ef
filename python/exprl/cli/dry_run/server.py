"""What a judge's server tells about itself before the run; what it does not tell is tried."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from exprl import config
from exprl.errors import JudgeError

CONNECT_TIMEOUT_S = 10.0

Label = Literal["server", "warning"]
Line = tuple[Label, str]


def check_server(endpoint: str, cfg: config.Config) -> Iterator[Line]:
    """Ask a judge's server which models it serves, and how long their context is.

    A gateway may list none, or not to this key, and grade all the same. That is a warning: the
    request for a grade, which follows, finds out.

    Raises:
        JudgeError: nobody is there, or other models are.
    """
    try:
        models = _models(endpoint, cfg.judge)
    except _NoListError as error:
        yield (
            "warning",
            f"{endpoint} does not list its models ({error}): a request for a grade will tell"
            f" whether it serves {cfg.judge.model}",
        )
        return
    served = [str(model["id"]) for model in models]
    if cfg.judge.model not in served:
        raise JudgeError(
            f"judge.model = {cfg.judge.model!r}, but {endpoint} serves"
            f" {', '.join(served) or 'nothing'}"
        )
    context = models[served.index(cfg.judge.model)].get("max_model_len")
    if not isinstance(context, int):
        yield "server", f"{endpoint} serves {cfg.judge.model}"
        return
    yield "server", f"{endpoint} serves {cfg.judge.model}, with a context of {context:,} tokens"
    # The judge has a tokenizer of its own, and problem, reference and rubric come on top.
    longest = cfg.rollout.max_response_tokens
    reply, named = cfg.judge.max_tokens, f"judge.max_tokens = {cfg.judge.max_tokens:,}"
    if cfg.judge.readout == "direct":
        reply, named = 1, "one token"
    if longest + reply > context:
        yield (
            "warning",
            f"the judge's context of {context:,} tokens may be too short for a rollout of"
            f" rollout.max_response_tokens = {longest:,} with a reply of {named}: what does not fit"
            " gets no grade. Serve the judge with a longer context, or lower"
            f" {'it' if reply == 1 else 'one of them'}",
        )


class _NoListError(Exception):
    """The server is there, and does not say which models it serves."""


def _models(endpoint: str, judge: config.Judge) -> list[dict[str, Any]]:
    """What the server lists under /models."""
    import httpx

    url = f"{endpoint.rstrip('/').removesuffix('/chat/completions')}/models"
    try:
        trusted = ssl.create_default_context(cafile=judge.ca_file)
        reply = httpx.get(url, headers=_key(judge), timeout=CONNECT_TIMEOUT_S, verify=trusted)
        models = reply.raise_for_status().json()["data"]
        return [model for model in models if isinstance(model["id"], str)]
    except httpx.HTTPStatusError as error:
        raise _NoListError(f"HTTP {error.response.status_code}") from None
    except (ValueError, KeyError, TypeError):
        raise _NoListError("the reply is no list of models") from None
    except (httpx.HTTPError, OSError) as error:
        # The judge's own client knows more of certificates.
        if "CERTIFICATE" in str(error).upper():
            raise _NoListError(str(error)) from None
        raise JudgeError(f"judge.endpoints: {url} does not answer: {error}") from None


def _key(judge: config.Judge) -> dict[str, str]:
    if judge.api_key_env:
        key = os.environ.get(judge.api_key_env, "")
    elif judge.api_key_file:
        key = Path(judge.api_key_file).read_text().strip()
    else:
        key = ""
    return {"Authorization": f"Bearer {key}"} if key else {}
