"""A policy that several processes train: rank 0 leads, the others follow.

Every rank has a `Policy` whose weights are cut between them (sharding.py). The leader's has the
interface of any policy; each of its methods first has the followers call the same one. A mini-batch
is shared out by micro-batches. As the loss is the weighted sum over all of them, and gradients are
summed over the ranks, the step is that of one process, whoever computes what.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from exprl import config
from exprl.learn.control import Message, Post, Team
from exprl.learn.policy import Policy, UpdateStats
from exprl.types import Packed, TrainBatch


def cut(mini: Sequence[TrainBatch], world: int) -> list[list[TrainBatch]]:
    """Each rank's share of a mini-batch: the longest micro-batch first, to the lightest rank.

    All shares have as many micro-batches, because ranks gather each layer together: shorter ones
    are filled up with padding, the shortest micro-batch with weights of 0.
    """
    shares: list[list[TrainBatch]] = [[] for _ in range(world)]
    loads = [0] * world
    for batch in sorted(mini, key=_tokens, reverse=True):
        lightest = loads.index(min(loads))
        shares[lightest].append(batch)
        loads[lightest] += _tokens(batch)
    shortest = min(mini, key=_tokens)
    padding = replace(shortest, token_weight=np.zeros_like(shortest.token_weight), padding=True)
    most = max(map(len, shares))
    return [[*share, *[padding] * (most - len(share))] for share in shares]


class Leader(Policy):
    """The policy of rank 0, whose followers do what it does."""

    def __init__(self, team: Team, *args: Any, weights: str | None = None, **settings: Any) -> None:
        """Load the model on every rank; arguments as those of `Policy`.

        Raises:
            RankError: a follower was lost, as from every other method.
        """
        self._team = team
        self._walk: Generator[tuple[str, Tensor], None, None] | None = None
        here = str(Path(weights).absolute()) if weights else None
        with team.tell(Message("load", {"weights": here})):
            super().__init__(*args, weights=weights, sharding=team.sharding, **settings)

    def step(
        self,
        batches: Sequence[Sequence[TrainBatch]],
        loss: config.Loss,
        show: Callable[[int, int], object] = lambda done, of: None,
    ) -> list[UpdateStats]:
        """See `Policy.step`; `batches` are shared out to the ranks."""
        self._end_walk()
        cuts = [cut(mini, self._team.world) for mini in batches]
        own, *others = ([shares[rank] for shares in cuts] for rank in range(self._team.world))
        about = {"loss": loss.model_dump(mode="json")}
        with self._team.tell(*(with_batches("step", about, share) for share in others)):
            return super().step(own, loss, show)

    def logp(self, batch: Packed, temperature: float | None = None) -> Tensor:
        """See `Policy.logp`; every rank computes it, and the leader's is returned."""
        self._end_walk()
        about = {"temperature": temperature}
        with self._team.tell(Message("logp", about, dict(_arrays(batch, Packed)))):
            return super().logp(batch, temperature)

    def initial_logp(self, batch: Packed) -> Tensor:
        """See `Policy.initial_logp`; every rank computes it, and the leader's is returned."""
        self._end_walk()
        with self._team.tell(Message("initial_logp", {}, dict(_arrays(batch, Packed)))):
            return super().initial_logp(batch)

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """See `Policy.weights`. The ranks walk through them together, so none is left out."""
        self._end_walk()
        self._walk = self._walk_together()
        return self._walk

    def base(self) -> str | None:
        """See `Policy.base`."""
        self._end_walk()
        with self._team.tell(Message("base")):
            return super().base()

    def save_model(self, folder: Path) -> None:
        """See `Policy.save_model`; the leader writes."""
        self._end_walk()
        with self._team.tell(Message("save_model", {"folder": str(folder)})):
            super().save_model(folder)

    def save_optimizer(self, folder: Path) -> None:
        """See `Policy.save_optimizer`; the leader writes."""
        self._end_walk()
        with self._team.tell(Message("save_optimizer", {"folder": str(folder)})):
            super().save_optimizer(folder)

    def load_optimizer(self, folder: Path, version: int) -> None:
        """See `Policy.load_optimizer`; every rank reads its part."""
        self._end_walk()
        about = {"folder": str(folder.absolute()), "version": version}
        with self._team.tell(Message("load_optimizer", about)):
            super().load_optimizer(folder, version)

    def _walk_together(self) -> Generator[tuple[str, Tensor], None, None]:
        walk = super().weights()
        with self._team.tell(Message("weights")):
            try:
                for named in walk:  # noqa: UP028 (`yield from` would end the walk, too)
                    yield named
            finally:  # whoever takes them may stop before the end, and the followers do not
                for _ in walk:
                    pass

    def _end_walk(self) -> None:
        """Have the followers done with `weights`, though its caller stopped in the middle."""
        if self._walk is not None:
            self._walk.close()
            self._walk = None


def follow(post: Post, arguments: Mapping[str, Any]) -> None:
    """Do what the leader says, until it says stop.

    Args:
        arguments: of `Policy`, without the weights to go on from and the sharding.
    """
    first = post.receive()
    assert first.name == "load", first.name
    policy = Policy(**arguments, weights=first.settings["weights"], sharding=post.sharding)
    while (message := post.receive()).name != "stop":
        obey(policy, message)


def obey(policy: Policy, message: Message) -> None:
    """Call the method that the leader calls."""
    about = message.settings
    match message.name:
        case "step":
            policy.step(batches_of(message), config.Loss.model_validate(about["loss"]))
        case "logp":
            policy.logp(Packed(**message.arrays), about["temperature"])
        case "initial_logp":
            policy.initial_logp(Packed(**message.arrays))
        case "weights":
            for _ in policy.weights():
                pass
        case "base":
            policy.base()
        case "save_model":
            policy.save_model(Path(about["folder"]))
        case "save_optimizer":
            policy.save_optimizer(Path(about["folder"]))
        case "load_optimizer":
            policy.load_optimizer(Path(about["folder"]), about["version"])
        case name:
            raise ValueError(f"the leader asks for {name!r}, which a follower does not know")


def with_batches(
    name: str, about: Mapping[str, Any], batches: Sequence[Sequence[TrainBatch]]
) -> Message:
    """A message with mini-batches of micro-batches: arrays are named MINI.MICRO.FIELD."""
    arrays: dict[str, np.ndarray] = {}
    for i, mini in enumerate(batches):
        for j, batch in enumerate(mini):
            arrays |= {f"{i}.{j}.{key}": value for key, value in _arrays(batch, TrainBatch)}
    padding = [[batch.padding for batch in mini] for mini in batches]
    return Message(name, {**about, "padding": padding}, arrays)


def batches_of(message: Message) -> list[list[TrainBatch]]:
    """The mini-batches of `with_batches`."""
    return [
        [
            _train_batch(message.arrays, f"{i}.{j}.", padding=padding)
            for j, padding in enumerate(mini)
        ]
        for i, mini in enumerate(message.settings["padding"])
    ]


def _arrays(batch: Packed, kind: type[Packed]) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays of a batch by the names of the fields of `kind`, the teacher's included."""
    for one in fields(kind):
        value = getattr(batch, one.name)
        if isinstance(value, Packed):
            yield from ((f"teacher.{key}", array) for key, array in _arrays(value, Packed))
        elif isinstance(value, np.ndarray):
            yield one.name, value


def _train_batch(arrays: Mapping[str, np.ndarray], prefix: str, *, padding: bool) -> TrainBatch:
    mine = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
    teacher = {k.removeprefix("teacher."): v for k, v in mine.items() if k.startswith("teacher.")}
    own = {k: v for k, v in mine.items() if not k.startswith("teacher.")}
    return TrainBatch(**own, teacher=Packed(**teacher) if teacher else None, padding=padding)


def _tokens(batch: TrainBatch) -> int:
    return len(batch.input_ids) + (len(batch.teacher.input_ids) if batch.teacher else 0)
