"""Where things run: the engine, the trainer's processes, and the machines under them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator

from exprl.config.section import Section, expand_home

_OF_EVERY_SERVER = {
    "host": "`exprl serve --host`",
    "port": "`exprl serve --port`",
    "api_key": "the environment variable EXPRL_TOKEN",
    **dict.fromkeys(
        (
            "served_model_name",
            "middleware",
            "uds",
            "config",
            "headless",
            "api_server_count",
            "disable_uvicorn_access_log",
            "uvicorn_log_level",
        )
    ),
}
SET_BY_EXPRL = {
    "model": "model.path",
    "dtype": "model.dtype",
    "trust_remote_code": "model.trust_remote_code",
    "max_model_len": "rollout.max_prompt_tokens and rollout.max_response_tokens",
    "max_num_seqs": "rollout.max_num_seqs",
    "gpu_memory_utilization": "rollout.gpu_memory_utilization",
    "enforce_eager": "rollout.enforce_eager",
    "tensor_parallel_size": "engine.gpus_each",
    "pipeline_parallel_size": "engine.gpus_each",
    "data_parallel_size": "engine.count",
    "weight_transfer_config": "engine.transfer",
    **dict.fromkeys(
        ("tokens_only", "seed", "generation_config", "logprobs_mode", "worker_extension_cls")
    ),
    **_OF_EVERY_SERVER,
}
"""Flags of vLLM's server that engine.args may not name, each with what decides it if a user can."""
SET_FOR_JUDGE = {
    "model": "judge.serve.model",
    "tensor_parallel_size": "judge.serve.gpus_each",
    "pipeline_parallel_size": "judge.serve.gpus_each",
    "data_parallel_size": "judge.serve.count",
    **dict.fromkeys(("enable_prefix_caching", "enable_prompt_tokens_details")),
    **_OF_EVERY_SERVER,
}
"""Those that judge.serve.args may not name."""


def _refuse_flags(args: dict[str, Any], own: Mapping[str, str | None]) -> dict[str, Any]:
    """Let no further flag of a server contradict one that exprl sets."""
    for name in args:
        flag = name.replace("-", "_").removeprefix("no_")
        if flag in own:
            remedy = own[flag]
            raise ValueError(
                f"{name} is a flag of vLLM that exprl sets itself;"
                + (f" it follows from {remedy}" if remedy else " leave it out")
            )
        if not re.fullmatch(r"[a-z][a-z0-9_-]*", name):
            raise ValueError(
                f"{name!r} is no flag of vLLM's server; write one without its dashes, such as"
                " kv_cache_dtype = 'fp8'"
            )
    return args


class Engine(Section):
    """Where the policy is sampled, and how its weights get there."""

    kind: Literal["process", "child", "servers"] = Field(
        "process",
        description="process: in the trainer's own process, in turns with it; child: in a second"
        " process of this machine, at the same time; servers: vLLM servers, on any machine",
    )
    count: int = Field(1, gt=0, description="servers to start (kind = servers)")
    gpus_each: int = Field(
        1, gt=0, description="GPUs of each server, which cut the model between them"
    )
    urls: tuple[str, ...] = Field(
        (),
        description="servers that run already, started by `exprl serve`; then none are started",
    )
    transfer: Literal["auto", "nccl", "gloo", "files"] = Field(
        "auto",
        description="way of new weights to the servers: nccl between GPUs, gloo between CPUs, files"
        " in a folder that all machines see; auto = nccl where there are GPUs, else gloo",
    )
    transfer_dir: str | None = Field(
        None, description="that folder (transfer = files); none = this machine's shared memory"
    )
    sync_timeout_s: float = Field(
        120.0, gt=0.0, description="longest wait for one weight update of all servers"
    )
    request_timeout_s: float = Field(
        1800.0, gt=0.0, description="longest wait for one rollout; then it is asked again"
    )
    token_env: str | None = Field(
        None,
        description="environment variable with the token that the servers of `urls` ask for;"
        " servers that the run starts have a token of their own",
    )
    args: dict[str, Any] = Field(
        {}, description="further flags of vLLM's server, such as kv_cache_dtype = 'fp8'"
    )

    _expand_home = field_validator("transfer_dir")(expand_home)

    @field_validator("args")
    @classmethod
    def _refuse_own_flags(cls, args: dict[str, Any]) -> dict[str, Any]:
        return _refuse_flags(args, SET_BY_EXPRL)

    @property
    def starts_servers(self) -> bool:
        """Whether the run starts servers of its own, and does not only ask those of `urls`."""
        return self.kind == "servers" and not self.urls


class JudgeServe(Section):
    """vLLM servers of the judge that the run starts itself, and ends."""

    model: str = Field(
        min_length=1,
        description="folder or hub id of the judge's model; the run then starts its servers, fills"
        " in judge.endpoints, and judge.model where that is left open",
    )
    count: int = Field(1, gt=0, description="servers to start")
    gpus_each: int = Field(
        1, gt=0, description="GPUs of each server, which cut the model between them"
    )
    args: dict[str, Any] = Field(
        {}, description="further flags of vLLM's server, such as max_model_len = 16384"
    )

    _expand_home = field_validator("model")(expand_home)

    @field_validator("args")
    @classmethod
    def _refuse_own_flags(cls, args: dict[str, Any]) -> dict[str, Any]:
        return _refuse_flags(args, SET_FOR_JUDGE)


class Ranks(Section):
    """The trainer's processes."""

    count: int = Field(
        1,
        gt=0,
        description="trainer processes, one GPU each, that share weights, gradients and optimizer"
        " (FSDP2); the result is that of one process",
    )


class Cluster(Section):
    """Who starts the processes of a run."""

    kind: Literal["local", "ray"] = Field(
        "local", description="local: all on this machine; ray: on the machines of a Ray cluster"
    )
    address: str = Field(
        "auto", description="of the Ray cluster; auto = the one that this machine belongs to"
    )
