"""Who computes on which GPUs: arithmetic, before anything starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from exprl import config
from exprl.errors import ConfigError

Role = Literal["rank", "child", "policy", "judge"]


@dataclass(frozen=True, slots=True)
class Need:
    """A process, and how many GPUs of one machine it computes on."""

    role: Role
    index: int
    gpus: int

    @property
    def name(self) -> str:
        """Such as `policy-1`: of its log file too."""
        return f"{self.role}-{self.index}"

    @property
    def is_near(self) -> bool:
        """Whether its place is beside the leader: it is a rank, or the leader's own child."""
        return self.role in ("rank", "child")


LOOPBACK = "127.0.0.1"
"""The host of everything that runs on this machine alone."""
LEADER = "rank-0"
"""The process that the user started; it trains."""


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine by its address, and how many GPUs it has for the run."""

    host: str
    gpus: int


@dataclass(frozen=True, slots=True)
class Seat:
    """Where a process runs.

    gpus: which of the GPUs that the run sees on that machine, counted from 0; empty on a CPU. On
        machines of Ray only their number counts, as Ray chooses.
    """

    host: str
    gpus: tuple[int, ...]

    def describe(self) -> str:
        """Such as `GPU 1, 2 of this machine`, or `2 GPUs of 10.0.0.7`."""
        here = self.host == LOOPBACK
        which = f"GPU {', '.join(map(str, self.gpus))}" if here else _gpus(len(self.gpus))
        return f"{which if self.gpus else 'the CPUs'} of {_name(self.host)}"


def list_needs(
    ranks: config.Ranks, engine: config.Engine | None, judge: config.JudgeServe | None
) -> tuple[Need, ...]:
    """Every process that computes, trainer first.

    Args:
        engine: None where nothing is sampled.
        judge: None where the run starts no servers of the judge.
    """
    needs = [Need("rank", i, 1) for i in range(ranks.count)]
    if engine and engine.kind == "child":
        needs.append(Need("child", 0, 1))
    if engine and engine.starts_servers:
        needs += [Need("policy", i, engine.gpus_each) for i in range(engine.count)]
    if judge:
        needs += [Need("judge", i, judge.gpus_each) for i in range(judge.count)]
    return tuple(needs)


def place(needs: Sequence[Need], machines: Sequence[Machine]) -> dict[str, Seat]:
    """Give each process GPUs of its own, all of them on one machine.

    The trainer's ranks are placed near the leader, and servers far from it. Where no machine has a
    GPU, everything runs on CPUs: ranks beside the leader, servers in turns on all machines.

    Args:
        needs: the leader's first.
        machines: the leader's first.

    Returns:
        The seat of each process, by its name, in the order of `needs`.

    Raises:
        ConfigError: there are too few GPUs; says how many are wanted, by whom.
    """
    if not any(machine.gpus for machine in machines):
        return _place_on_cpus(needs, machines)
    wanted, there = sum(need.gpus for need in needs), sum(m.gpus for m in machines)
    if wanted > there:
        raise ConfigError(
            f"the run wants {_gpus(wanted)}, and there {'is' if there == 1 else 'are'} {there}"
            f" ({_machines(machines)}): {'; '.join(_shares(needs))}. Lower these numbers, or give"
            " the run more GPUs"
        )
    homes = _choose_machines(needs, machines)
    # On each machine the ranks come first and side by side, as their links often are.
    given = [0] * len(machines)
    seats = {}
    for need in needs:
        home = homes[need]
        first = given[home]
        given[home] += need.gpus
        seats[need.name] = Seat(machines[home].host, tuple(range(first, given[home])))
    return seats


def describe_seats(seats: Mapping[str, Seat]) -> list[str]:
    """One line for each process, such as `policy-0: GPU 1 of this machine`."""
    return [
        f"{name}{' (this process)' if name == LEADER else ''}: {seat.describe()}"
        for name, seat in seats.items()
    ]


def _place_on_cpus(needs: Sequence[Need], machines: Sequence[Machine]) -> dict[str, Seat]:
    servers = [need for need in needs if not need.is_near]
    turn = {need: machines[-1 - i % len(machines)].host for i, need in enumerate(servers)}
    return {need.name: Seat(turn.get(need, machines[0].host), ()) for need in needs}


def _choose_machines(needs: Sequence[Need], machines: Sequence[Machine]) -> dict[Need, int]:
    """The index of each process's machine.

    Raises:
        ConfigError: there are enough GPUs, but not enough on one machine.
    """
    leader, *others = needs
    near = [need for need in others if need.is_near]
    servers = sorted((n for n in others if not n.is_near), key=lambda n: -n.gpus)
    try:
        return _fill([leader, *near, *servers], machines)
    except ConfigError:  # ranks leave the leader's machine where a large server needs it
        return _fill([leader, *servers, *near], machines)


def _fill(needs: Sequence[Need], machines: Sequence[Machine]) -> dict[Need, int]:
    """Give machines in this order: the leader its own, a rank the first with room.

    A server takes the fullest machine with room, so that room for large ones stays.

    Raises:
        ConfigError: none has room.
    """
    free = [machine.gpus for machine in machines]
    homes: dict[Need, int] = {}
    for need in needs:
        among = [0] if need.name == LEADER else list(range(len(machines)))
        room = [i for i in among if free[i] >= need.gpus]
        if not room:
            raise _no_room(need, max(free[i] for i in among), needs, machines)
        homes[need] = room[0] if need.is_near else min(room, key=lambda i: (free[i], -i))
        free[homes[need]] -= need.gpus
    return homes


def _no_room(
    need: Need, free: int, needs: Sequence[Need], machines: Sequence[Machine]
) -> ConfigError:
    leads = need.name == LEADER
    where = f"this process's machine, {_name(machines[0].host)}," if leads else "one machine"
    return ConfigError(
        f"{need.name} wants {_gpus(need.gpus)} of {where} and {free} {_are(free)} free there"
        f" ({_machines(machines)}; {'; '.join(_shares(needs))}). Lower these numbers"
        + (", or start the command on a machine with GPUs" if leads else "")
    )


def _shares(needs: Sequence[Need]) -> list[str]:
    """What each role wants, and which settings say so."""
    settings = {
        "rank": ("the trainer", "ranks.count = {n}"),
        "child": ("the engine beside it", "engine.kind = 'child'"),
        "policy": ("servers of the policy", "engine.count = {n} x engine.gpus_each = {g}"),
        "judge": ("servers of the judge", "judge.serve.count = {n} x judge.serve.gpus_each = {g}"),
    }
    lines = []
    for role, (who, keys) in settings.items():
        own = [need.gpus for need in needs if need.role == role]
        if own:
            lines.append(f"{sum(own)} for {who} ({keys.format(n=len(own), g=own[0])})")
    return lines


def _machines(machines: Sequence[Machine]) -> str:
    return ", ".join(f"{_name(machine.host)}: {machine.gpus}" for machine in machines)


def _name(host: str) -> str:
    return "this machine" if host == LOOPBACK else host


def _gpus(count: int) -> str:
    return f"{count} GPU{'' if count == 1 else 's'}"


def _are(count: int) -> str:
    return "is" if count == 1 else "are"
