"""One vLLM server over HTTP: what it is asked, and which of its failures may pass.

A request that fails for a reason that may pass raises TransientError, and may be sent again, here
or to another server. One that the server refuses raises EngineError with the server's words.
"""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import httpx

from exprl import config
from exprl.errors import ConfigError, EngineError
from exprl.rollout.wire import FRESH

SUPPORTED_VLLM = "0.32."
"""What a version of vLLM begins with whose servers are known to work."""

CONNECT_TIMEOUT_S = 10.0
CONTROL_TIMEOUT_S = 60.0
HEALTH_TRIES = 3
HEALTH_PAUSE_S = 0.5
LONGEST_QUOTE = 400
PASSING = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS}


class TransientError(Exception):
    """A request that may be sent again: no connection, no answer in time, or a status of 5xx."""


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Servers of the policy, and the token that all of them ask for.

    urls: such as http://10.0.0.7:8000, without a path.
    """

    urls: tuple[str, ...]
    token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What a server says about itself.

    model: folder or hub id that it was started with.
    weight_version: of its last weight update; "default" before the first one.
    world_size: its worker processes, each of which receives weights.
    paused: whether it schedules nothing, as during a weight update.
    transfer: kind of weight transfer that it was started for; None = it takes no weights.
    """

    vllm: str
    model: str
    max_model_len: int
    weight_version: str
    world_size: int
    paused: bool
    transfer: str | None
    logprobs: str
    dtype: str

    def holds(self, weights: str) -> bool:
        """Whether it samples with the weights in this folder or of this hub id."""
        return self.model == weights and self.weight_version == FRESH and not self.paused


def find_endpoints(engine: config.Engine) -> Endpoints:
    """The servers of engine.urls, with the token of engine.token_env.

    Raises:
        ConfigError: the variable is not set.
    """
    token = None
    if engine.token_env:
        token = os.environ.get(engine.token_env)
        if not token:
            raise ConfigError(
                f"engine.token_env names the environment variable {engine.token_env}, which is not"
                " set; set it to the token that the servers of engine.urls were started with"
            )
    return Endpoints(engine.urls, token)


def open_client(token: str | None) -> httpx.AsyncClient:
    """A client for all servers of a run; who asks sets the time limit of each request."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a rollout in flight is an open file
    return httpx.AsyncClient(
        headers={"Authorization": f"Bearer {token}"} if token else {},
        # A connection for each request: a server closes those that idle, and each one on which a
        # call failed, and the next request on it would fail for no reason of its own.
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
        timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT_S),
        trust_env=False,  # a proxy of the environment does not know the cluster's machines
    )


class Server:
    """A server of the policy. Its coroutines run on the fleet's event loop."""

    def __init__(self, url: str, client: httpx.AsyncClient) -> None:
        self.url = url.rstrip("/")
        self._client = client
        self._open: set[asyncio.Future[httpx.Response]] = set()

    def __repr__(self) -> str:
        return f"Server({self.url!r})"

    async def post(
        self,
        path: str,
        body: Any = None,
        *,
        params: Mapping[str, str] | None = None,
        timeout_s: float = CONTROL_TIMEOUT_S,
    ) -> Any:
        """Send JSON and return the JSON of the answer.

        Raises:
            TransientError: it may be sent again.
            EngineError: the server refuses it.
        """
        return await self._ask("POST", path, timeout_s, json=body, params=params)

    async def get(
        self,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        timeout_s: float = CONTROL_TIMEOUT_S,
    ) -> Any:
        """The JSON at the path; raises as `post` does."""
        return await self._ask("GET", path, timeout_s, params=params)

    async def _ask(self, method: str, path: str, timeout_s: float, **content: Any) -> Any:
        request = asyncio.ensure_future(self._client.request(method, self.url + path, **content))
        self._open.add(request)
        try:
            async with asyncio.timeout(timeout_s):
                response = await request
        except TimeoutError as error:
            raise TransientError(f"{self.url}{path}: no answer in {timeout_s:g} s") from error
        except httpx.HTTPError as error:
            what = f"{type(error).__name__} {error}".strip()
            raise TransientError(f"{self.url}{path}: {what}") from error
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task and task.cancelling():
                raise
            raise TransientError(f"{self.url}{path}: the server is given up") from None
        finally:
            self._open.discard(request)
        if response.is_success:
            return response.json() if response.content else None
        said = f"{self.url}{path}: HTTP {response.status_code}: {_quote(response)}"
        if response.is_server_error or response.status_code in PASSING:
            raise TransientError(said)
        if response.status_code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            raise EngineError(
                f"{said}. The server asks for another token: engine.token_env must name the"
                " environment variable that holds the token that the server was started with"
            )
        raise EngineError(said)

    def hang_up(self) -> None:
        """Have all requests that wait for this server fail, as a TransientError."""
        for request in self._open:
            request.cancel()

    async def is_alive(self) -> bool:
        """Whether its engine works; a server that does not answer is asked again."""
        for attempt in range(HEALTH_TRIES):
            if attempt:
                await asyncio.sleep(HEALTH_PAUSE_S)
            try:
                await self.get("/health", timeout_s=CONNECT_TIMEOUT_S)
            except TransientError:
                continue
            return True
        return False

    async def describe(self) -> ServerFacts:
        """Ask the server what it is; raises as `post` does."""
        version = await self.get("/version")
        card = (await self.get("/v1/models"))["data"][0]
        weights = await self.get("/weight_info")
        world = await self.get("/get_world_size")
        paused = await self.get("/is_paused")
        info = await self.get("/server_info", params={"config_format": "json"})
        settings = info["vllm_config"]
        return ServerFacts(
            vllm=version["version"],
            model=card["root"],
            max_model_len=card["max_model_len"],
            weight_version=weights["weight_version"],
            world_size=world["world_size"],
            paused=paused["is_paused"],
            transfer=(settings["weight_transfer_config"] or {}).get("backend"),
            logprobs=settings["model_config"]["logprobs_mode"],
            dtype=settings["model_config"]["dtype"].removeprefix("torch."),
        )


async def look_at(
    server: Server, model: config.Model, rollout: config.Rollout, transfer: str
) -> ServerFacts:
    """What a server is, where it is what a run needs.

    Args:
        transfer: kind of weight transfer that the run uses.

    Raises:
        EngineError: it does not answer, or is another; the message says what to change.
    """
    try:
        facts = await server.describe()
    except TransientError as error:
        raise EngineError(
            f"no server of the policy at {server.url}: {error}. Start it with `exprl serve CONFIG"
            " --role policy`, wait until it says that it is ready, and check host and port of"
            " engine.urls"
        ) from error
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise EngineError(
            f"{server.url} answers, but not as a server of `exprl serve CONFIG --role policy` does"
            f" ({type(error).__name__}: {error}); correct engine.urls"
        ) from error
    needed = rollout.max_prompt_tokens + rollout.max_response_tokens
    restart = f"start {server.url} again with `exprl serve` and the config of this run"
    if not facts.vllm.startswith(SUPPORTED_VLLM):
        raise EngineError(
            f"{server.url} runs vLLM {facts.vllm}, and exprl knows vLLM {SUPPORTED_VLLM}x; install"
            " exprl there with the same extra as here, and start the server again"
        )
    if facts.max_model_len < needed:
        raise EngineError(
            f"{server.url} has room for {facts.max_model_len} tokens of prompt and response, and"
            f" rollout.max_prompt_tokens + rollout.max_response_tokens is {needed}; {restart}, or"
            " lower one of them"
        )
    if facts.transfer != transfer:
        raise EngineError(
            f"{server.url} takes weights by {facts.transfer or 'no way'}, and this run sends them"
            f" by {transfer} (engine.transfer); {restart}, or set engine.transfer to what the"
            " server has"
        )
    if facts.logprobs != "processed_logprobs" or facts.dtype != model.dtype:
        raise EngineError(
            f"{server.url} computes in {facts.dtype} with logprobs_mode = {facts.logprobs}, and"
            f" this run needs model.dtype = {model.dtype} and processed_logprobs; {restart}"
        )
    return facts


def _quote(response: httpx.Response) -> str:
    """The server's own words, which may be long, in a JSON of vLLM's or FastAPI's form."""
    try:
        body = response.json()
        said = body["error"]["message"] if "error" in body else body["detail"]
    except (ValueError, KeyError, TypeError):
        said = response.text
    return " ".join(str(said).split())[:LONGEST_QUOTE]
