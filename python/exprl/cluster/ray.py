"""Processes on the machines of a Ray cluster; the only file that imports Ray.

Ray sets GPUs apart and starts an actor for each process. The actor holds the process as a leader
holds one of its own machine, so that it ends when the actor does; and actors end when the leader's
connection to Ray does. The leader stays the user's own process: a bundle keeps its GPU for it.

Ray listens on all interfaces of its machines, and who reaches it runs programs there. So a cluster
must ask for a token, unless the user chose RAY_AUTH_MODE otherwise.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from exprl import config
from exprl.cluster.local import LocalProcess
from exprl.cluster.placement import LEADER, Machine, Need, place
from exprl.cluster.processes import TAIL_LINES
from exprl.errors import ConfigError

RESERVE_S = 60.0
"""Longest wait for GPUs that the cluster has, and that others may be using."""
LOST = -1
"""What stands for the exit code of a process whose actor is gone."""
REACH_S = 10.0
CALL_S = 30.0
"""Longest wait for an actor's answer; one that is silent for longer is lost."""
AUTH_MODE = "RAY_AUTH_MODE"
# Read when ray is imported. The second keeps CUDA_VISIBLE_DEVICES of actors without a GPU.
SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
START_ONE = (
    "`ray start --head` on this machine and `ray start --address=THIS_MACHINE:6379` on each other"
    " one, both after `export RAY_AUTH_MODE=token`, with the same token in ~/.ray/auth_token"
    " (`ray get-auth-token --generate` makes one)"
)


class RayCluster:
    """Starts processes through Ray; `exprl.cluster.processes.Cluster`."""

    def __init__(self, section: config.Cluster, needs: Sequence[Need], logs: Path) -> None:
        """Join the cluster, and set apart what the run needs.

        Raises:
            ConfigError: there is no cluster, it is open to everybody, or has too few GPUs.
        """
        self._ray, self._joined = _join(section.address)
        self._logs = logs.absolute()
        self._actors: list[RayProcess] = []
        self._group: Any = None
        try:
            self.seats = place(needs, self._machines())
            self._bundles = {need.name: i for i, need in enumerate(needs)}
            self._reserve(needs)
            self._take_gpu()
        except BaseException:
            self.close()
            raise

    def start(self, name: str, argv: Sequence[str], env: Mapping[str, str]) -> RayProcess:
        """Start a process on its seat."""
        host = self.seats[name].host
        actor = self._actor(name)
        log = self._logs / f"{name}.log"
        process = RayProcess(self._ray, actor, name, host, log)
        self._actors.append(process)
        self._ray.get(actor.start.remote(name, list(argv), dict(env), str(log), host))
        return process

    def close(self) -> None:
        """End every process, give the GPUs back, and leave the cluster."""
        for process in self._actors:
            process.ask()
        for process in self._actors:
            process.stop()
        if self._group is not None:
            self._ray.util.remove_placement_group(self._group)
        if self._joined:
            self._ray.shutdown()

    def _machines(self) -> list[Machine]:
        """The machines that are up, the leader's first."""
        here = self._ray.util.get_node_ip_address()
        machines = [
            Machine(node["NodeManagerAddress"], int(node["Resources"].get("GPU", 0)))
            for node in self._ray.nodes()
            if node["Alive"]
        ]
        return sorted(machines, key=lambda machine: (machine.host != here, machine.host))

    def _reserve(self, needs: Sequence[Need]) -> None:
        """One bundle for each process, on the machine of its seat.

        Raises:
            ConfigError: others use the GPUs.
        """
        # A bundle lies on one machine, as STRICT_PACK would have it for several.
        bundles = []
        for need in needs:
            seat = self.seats[need.name]
            gpus = {"GPU": len(seat.gpus)} if seat.gpus else {}
            bundles.append({f"node:{seat.host}": 0.001, **gpus})
        self._group = self._ray.util.placement_group(bundles, strategy="PACK")
        if not self._group.wait(RESERVE_S):
            wanted = sum(len(seat.gpus) for seat in self.seats.values())
            raise ConfigError(
                f"the Ray cluster did not set {wanted} GPUs apart within {RESERVE_S:g} s: others"
                " use some of them, as `ray status` shows. Wait for those, or lower ranks.count,"
                " engine.count or judge.serve.count"
            )

    def _take_gpu(self) -> None:
        """Hold the GPU of the leader's bundle, and have this process see no other one."""
        if not self.seats[LEADER].gpus:
            return
        self._leader = self._actor(LEADER)
        # Before torch looks for GPUs: it would go on to see all of them.
        os.environ["CUDA_VISIBLE_DEVICES"] = self._ray.get(self._leader.gpus.remote())

    def _actor(self, name: str) -> Any:
        """An actor in the bundle of a process."""
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        bundle = PlacementGroupSchedulingStrategy(
            self._group, placement_group_bundle_index=self._bundles[name]
        )
        gpus = len(self.seats[name].gpus)
        return _actor_of(self._ray, num_gpus=gpus, scheduling_strategy=bundle)


class RayProcess:
    """A process that an actor holds; `exprl.cluster.processes.Process`."""

    def __init__(self, ray: Any, actor: Any, name: str, host: str, log: Path) -> None:
        """Take an actor whose process was started."""
        self._ray, self._actor = ray, actor
        self.name, self.host, self.log = name, host, log
        self._first: str | None = None
        self._stopped = False

    def poll(self) -> int | None:
        """None while it runs, and where its machine is too busy to say."""
        return self._look()

    def peek(self) -> str | None:
        """The first line on stdout; None where there is none yet."""
        self._look()
        return self._first

    def tail(self, lines: int = TAIL_LINES) -> str:
        """The last lines of its log."""
        try:
            return str(self._ray.get(self._actor.tail.remote(lines), timeout=CALL_S))
        except self._ray.exceptions.RayError as error:
            return f"(its machine does not show it: {type(error).__name__})"

    def ask(self) -> None:
        """Have it end, and do not wait."""
        if not self._stopped:
            self._actor.ask.remote()

    def stop(self) -> None:
        """End it and its actor."""
        if self._stopped:
            return
        self._stopped = True
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._ray.get(self._actor.stop.remote(), timeout=CALL_S)
        self._ray.kill(self._actor)

    def _look(self) -> int | None:
        if self._stopped:
            return LOST
        try:
            found = self._ray.get(self._actor.look.remote(), timeout=CALL_S)
        except self._ray.exceptions.GetTimeoutError:
            return None
        except self._ray.exceptions.RayError:  # actor or machine is gone
            return LOST
        code: int | None
        code, self._first = found
        return code


class Holder:
    """The actor: a process of its machine, held for the leader."""

    def __init__(self) -> None:
        """Hold nothing yet."""
        self._process: LocalProcess | None = None

    def auth_mode(self) -> str:
        """Whether Ray asks for a token on this machine."""
        return os.environ.get(AUTH_MODE, "disabled")

    def gpus(self) -> str:
        """Those that Ray gave to this actor, as CUDA_VISIBLE_DEVICES lists them."""
        return os.environ["CUDA_VISIBLE_DEVICES"]

    def start(self, name: str, argv: list[str], env: dict[str, str], log: str, host: str) -> None:
        """Start the process; see `Cluster.start`."""
        # Ray's own variables are for its actor alone.
        own = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        self._process = LocalProcess(name, argv, {**own, **env}, Path(log), host)

    def look(self) -> tuple[int | None, str | None]:
        """Exit code and first line, as far as there are any."""
        process = self._held()
        return process.poll(), process.peek()

    def tail(self, lines: int) -> str:
        """The last lines of the log."""
        return self._held().tail(lines)

    def ask(self) -> None:
        """Have the process end."""
        self._held().ask()

    def stop(self) -> None:
        """End the process."""
        self._held().stop()

    def _held(self) -> LocalProcess:
        assert self._process
        return self._process


def _join(address: str) -> tuple[Any, bool]:
    """The module ray, and whether this call joined the cluster.

    Raises:
        ConfigError: Ray is not installed, no cluster is there, or it asks nobody for a token.
    """
    wanted = os.environ.get(AUTH_MODE)
    for name, value in {AUTH_MODE: "token", **SETTINGS}.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ModuleNotFoundError:
        raise ConfigError(
            "cluster.kind = 'ray' needs Ray: install exprl with the extra `cluster`"
        ) from None
    if ray.is_initialized():
        return ray, False
    # vLLM may have imported it before the mode was set, which Ray reads once.
    ray._raylet.Config.initialize("")
    try:
        _reach(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, ray.exceptions.RayError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"cluster.address = {address!r}: no Ray cluster could be joined ({reason}). Start one:"
            f" {START_ONE}. Or set cluster.kind = 'local'"
        ) from None
    if wanted is None:
        _check_token(ray)
    return ray, True


def _reach(address: str) -> None:
    """Raise an OSError where nothing listens at HOST:PORT: Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), REACH_S).close()


def _check_token(ray: Any) -> None:
    """Leave a cluster that asks nobody for a token.

    Raises:
        ConfigError: this is one, or it cannot run exprl.
    """
    try:
        actor = _actor_of(ray, num_gpus=0)
        mode, why = ray.get(actor.auth_mode.remote()), ""
        ray.kill(actor)
    except ray.exceptions.ActorDiedError as error:  # as where leader and cluster differ in the mode
        mode, why = None, f" (or exprl is not installed there: {str(error).splitlines()[-1]})"
    if mode != "token":
        ray.shutdown()
        raise ConfigError(
            "this Ray cluster asks nobody for a token: whoever reaches its ports runs programs on"
            f" its machines{why}. Start it anew: {START_ONE}. Or, where nobody else reaches the"
            f" machines, set {AUTH_MODE}=disabled in the environment of this command"
        )


def _actor_of(ray: Any, **options: Any) -> Any:
    return ray.remote(num_cpus=0, max_restarts=0)(Holder).options(**options).remote()
