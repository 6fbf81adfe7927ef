"""Which processes the run will have, and on which GPUs; what servers that run already say."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import torch

from exprl import config
from exprl.cluster.placement import describe_seats
from exprl.cluster.processes import open_cluster
from exprl.errors import EngineError
from exprl.rollout.server import Server, TransientError, find_endpoints, look_at, open_client
from exprl.run.crew import LOGS, needs_of
from exprl.serve.flags import choose_transfer


def describe_placement(cfg: config.Config) -> Iterator[str]:
    """A line for each process and its GPUs; none where everything is one process.

    A Ray cluster is joined, and sets the GPUs apart for a moment.

    Raises:
        ConfigError: there are too few GPUs, or the Ray cluster cannot be used.
    """
    needs = needs_of(cfg)
    if len(needs) == 1:
        return
    cluster = open_cluster(cfg.cluster, needs, Path(cfg.run_dir) / LOGS)
    try:
        yield from describe_seats(cluster.seats)
    finally:
        cluster.close()


def describe_servers(cfg: config.Config) -> Iterator[str]:
    """A line for each server of engine.urls: what it runs, holds, and has room for.

    Raises:
        EngineError: one does not answer, asks for another token, or does not fit the run.
        ConfigError: the token is not in the environment.
    """
    if cfg.needs_engine and cfg.engine.kind == "servers" and cfg.engine.urls:
        yield from asyncio.run(_ask_all(cfg))


def unread_settings(cfg: config.Config) -> Iterator[tuple[str, str]]:
    """Keys of [engine] and [cluster] that this run does not read, each with why."""
    if cfg.engine.kind != "servers":
        of_servers = ("count", "gpus_each", "transfer", "sync_timeout_s", "request_timeout_s")
        for key in (*of_servers, "transfer_dir", "args"):
            yield f"engine.{key}", f"engine.kind = {cfg.engine.kind!r} has no servers"
    elif cfg.engine.urls:
        yield "engine.count", "engine.urls names servers that run already"
    if cfg.engine.kind == "servers" and cfg.engine.transfer != "files":
        yield "engine.transfer_dir", f"engine.transfer = {cfg.engine.transfer!r} needs no folder"
    if len(needs_of(cfg)) == 1:
        yield "cluster.", "the run starts no process beside its own"
    elif cfg.cluster.kind == "local":
        yield "cluster.address", "cluster.kind = 'local' starts everything on this machine"


def warn_of_transfer(cfg: config.Config) -> Iterator[str]:
    """Whether this machine can send weights as engine.transfer says."""
    engine = cfg.engine
    if engine.kind == "servers" and engine.transfer == "nccl" and not torch.cuda.is_available():
        yield (
            "engine.transfer = 'nccl' sends weights from GPU to GPU, and this machine has no GPU: a"
            " run that is started here stops with an error; 'auto' takes what the machine has"
        )


async def _ask_all(cfg: config.Config) -> list[str]:
    endpoints = find_endpoints(cfg.engine)
    async with open_client(endpoints.token) as client:
        servers = [Server(url, client) for url in endpoints.urls]
        return await asyncio.gather(*(_ask(server, cfg) for server in servers))


async def _ask(server: Server, cfg: config.Config) -> str:
    transfer = choose_transfer(cfg.engine, cpu=not torch.cuda.is_available())
    facts = await look_at(server, cfg.model, cfg.rollout, transfer)
    try:
        await server.get("/health")
    except TransientError as error:
        raise EngineError(
            f"{server.url} answers, but its engine does not work ({error}); start it again"
        ) from error
    workers = f"{facts.world_size} worker{'' if facts.world_size == 1 else 's'}"
    return (
        f"{server.url} is well: vLLM {facts.vllm}, {workers}, room for {facts.max_model_len:,}"
        f" tokens; weights {facts.weight_version!r} of {facts.model}"
    )
