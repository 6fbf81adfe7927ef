"""Servers of the policy as one engine: who belongs to it, and which weights they hold."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch

from exprl import config
from exprl.data.turns import find_stops
from exprl.errors import EngineError
from exprl.rollout.balance import Balance
from exprl.rollout.engine import NO_POLICY, EngineStats, continuation_starts, prompt_starts
from exprl.rollout.event_loop import EventLoop
from exprl.rollout.sampler import Sampler
from exprl.rollout.senders import open_sender
from exprl.rollout.server import (
    Endpoints,
    Server,
    ServerFacts,
    TransientError,
    look_at,
    open_client,
)
from exprl.rollout.transfer import Transfer
from exprl.rollout.vllm_core import Sampling
from exprl.rollout.wire import FRESH
from exprl.serve.flags import choose_transfer
from exprl.types import Float32Array, Int32Array, Prompt, Rollout

LOG = logging.getLogger(__name__)

HURRY_S = 3.0
"""Longest wait for a lost server that may have come back: all others are waiting, too."""


class Fleet:
    """An engine of vLLM servers. Several threads may sample at once."""

    def __init__(
        self,
        model: config.Model,
        rollout: config.Rollout,
        engine: config.Engine,
        *,
        tokenizer: Any,
        weights: str,
        endpoints: Endpoints,
    ) -> None:
        """Look at the servers, which run already; start none.

        Args:
            weights: folder or hub id; servers that were started on it need no update at first.

        Raises:
            EngineError: a server does not answer, asks for another token, or does not fit.
            ConfigError: nothing says where a rollout ends.
        """
        self.tokenizer = tokenizer
        self._model, self._rollout = model, rollout
        self._kind = choose_transfer(engine, cpu=not torch.cuda.is_available())
        self._joining: list[str] = []
        self._stuck: set[str] = set()
        self._pause_s = self._send_s = 0.0
        stops = find_stops(tokenizer, model)
        sender = open_sender(self._kind, engine)
        self._loop = loop = EventLoop("exprl-fleet")
        self._client = open_client(endpoints.token)
        self._balance = loop.run(_make_balance(rollout.max_num_seqs))
        self._sampler = Sampler(loop, self._balance, stops, engine.request_timeout_s)
        self._transfer = Transfer(loop, sender, engine.sync_timeout_s)
        try:
            facts = self._loop.run(self._look_at_all(endpoints.urls))
        except BaseException:
            self.close()
            raise
        self._worlds = {server: fact.world_size for server, fact in facts.items()}
        self._loop.run(self._settle({}))
        fresh = all(fact.holds(weights) for fact in facts.values())
        self.policy_version = 0 if fresh else NO_POLICY

    @property
    def policy_version(self) -> int:
        """Of the weights that the servers sample with; NO_POLICY = they may be any.

        Whoever opened the servers on other weights than version 0 sets it before the first update.
        """
        return self._policy_version

    @policy_version.setter
    def policy_version(self, version: int) -> None:
        self._policy_version = self._sampler.first_version = version

    def sample(
        self,
        prompts: Sequence[Prompt],
        n: int,
        seed: int,
        temperature: float,
        max_response_tokens: int,
        truncation: config.Truncation = config.ALL_TOKENS,
    ) -> Iterator[Rollout]:
        """See Engine.sample."""
        begin = prompt_starts(self.tokenizer, self._model, prompts)
        how = Sampling(temperature, truncation.top_p, truncation.top_k, truncation.min_p)
        return self._sampler.sample(begin, n, seed, max_response_tokens, how)

    def sample_continuations(
        self,
        beginnings: Sequence[tuple[str, Prompt, Int32Array]],
        n: int,
        seed: int,
        temperature: float,
        max_response_tokens: int,
    ) -> Iterator[Rollout]:
        """See Engine.sample_continuations."""
        begin = continuation_starts(self.tokenizer, self._model, beginnings)
        whole = config.ALL_TOKENS
        how = Sampling(temperature, whole.top_p, whole.top_k, whole.min_p)
        return self._sampler.sample(begin, n, seed, max_response_tokens, how)

    def logp(self, token_ids: Int32Array) -> Sequence[Float32Array]:
        """See Engine.logp: what each server says. A server that cannot is lost."""
        return self._loop.run(self._logp_of_all(token_ids))

    async def _logp_of_all(self, token_ids: Int32Array) -> list[Float32Array]:
        servers = list(self._balance.live)
        found = await asyncio.gather(*(self._sampler.logp(server, token_ids) for server in servers))
        self._balance.choose()  # raises where none is left
        return [logp for logp in found if logp is not None]

    def load_weights(self, weights: Iterable[tuple[str, Any]], version: int) -> None:
        """See Engine.load_weights. Servers that come back, or are new, are given them, too.

        Raises:
            EngineError: no server took them.
            TypeError: the weights can be walked only once, so that no update could be repeated.
        """
        if iter(weights) is weights:
            raise TypeError("load_weights walks the weights again if an update fails: pass a view")
        self._worlds |= self._loop.run(self._find_joiners())
        update = self._transfer.update(self._worlds, weights, version)
        self._pause_s += update.pause_s
        self._send_s += update.send_s
        self._loop.run(self._settle(update.failed))
        self._policy_version = version

    async def _find_joiners(self) -> dict[Server, int]:
        """Servers that may be sampled from after an update, and their worker processes."""
        live = {server.url for server in self._balance.live}
        self._worlds = {s: n for s, n in self._worlds.items() if s.url in live}
        asked, self._joining = set(self._joining), []
        urls = [url for url in dict.fromkeys([*asked, *self._balance.lost]) if url not in live]
        found = await asyncio.gather(*(self._look_again(url, url in asked) for url in urls))
        return {server: facts.world_size for pair in found if pair for server, facts in [pair]}

    async def _look_again(self, url: str, asked: bool) -> tuple[Server, ServerFacts] | None:
        """A server that came back, or that somebody asked to take; None where it cannot be had."""
        server = Server(url, self._client)
        try:
            await server.get("/health", timeout_s=HURRY_S)
            facts = await self._look_at(server)
        except (TransientError, EngineError) as error:
            if asked:
                LOG.warning("a server of the policy cannot join: %s", error)
            return None
        # One that failed an update must have been started anew.
        fits = asked or url not in self._stuck or facts.weight_version == FRESH
        return (server, facts) if fits else None

    async def _look_at_all(self, urls: Sequence[str]) -> dict[Server, ServerFacts]:
        servers = [Server(url, self._client) for url in dict.fromkeys(urls)]
        found = await asyncio.gather(*map(self._look_at, servers))
        return dict(zip(servers, found, strict=True))

    async def _look_at(self, server: Server) -> ServerFacts:
        """What the server is, where it is what the run needs.

        Raises:
            EngineError: it does not answer, or is not.
        """
        facts = await look_at(server, self._model, self._rollout, self._kind)
        if facts.paused:
            self._transfer.expect_half(server)
        return facts

    async def _settle(self, failed: dict[Server, str]) -> None:
        """Sample from those that took the weights, and no more from the others."""
        self._balance.admit(server for server in self._worlds if server not in failed)
        for server, why in failed.items():
            self._worlds.pop(server, None)
            self._stuck.add(server.url)
            self._balance.lose(server, why)
        self._stuck -= {server.url for server in self._worlds}
        self._balance.choose()  # raises where none is left

    def join(self, url: str) -> None:
        """Sample from this server, too, from the next weight update on."""
        self._joining.append(url.rstrip("/"))

    def lose(self, url: str, why: str = "its process ended") -> None:
        """Sample no more from this server; its rollouts are asked of others."""
        if self._loop.is_open:
            self._loop.run(self._lose(url.rstrip("/"), f"{url}: {why}"))

    async def _lose(self, url: str, why: str) -> None:
        for server in [s for s in self._balance.live if s.url == url]:
            self._balance.lose(server, why)

    @property
    def urls(self) -> tuple[str, ...]:
        """The servers that are sampled from now."""
        return tuple(server.url for server in self._balance.live)

    def stats(self) -> EngineStats:
        """See Engine.stats."""
        return EngineStats(
            retried=self._sampler.retried,
            lost=self._balance.losses,
            pause_s=self._pause_s,
            send_s=self._send_s,
            tokens=self._sampler.tokens,
            busy_s=self._balance.busy_s(),
        )

    def sleep(self) -> None:
        """Servers have GPUs of their own."""

    def wake(self, part: str) -> None:
        """Servers never sleep."""

    def close(self) -> None:
        """End all requests; the servers go on."""
        self._transfer.close()
        if self._loop.is_open:
            self._loop.run(self._client.aclose())
            self._loop.close()


async def _make_balance(room: int) -> Balance:
    """On the event loop, to which its locks belong."""
    return Balance(room)
