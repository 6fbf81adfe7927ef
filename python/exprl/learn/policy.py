"""The policy that learns: a transformers model, its optimizer, and the frozen initial policy.

Forward and backward compute in model.dtype, as the engine does; the optimizer steps fp32 masters.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import GenerationConfig

from exprl import config
from exprl.data.hub import GENERATION_CONFIG, find_file
from exprl.learn.distillation import cross_entropy, reverse_kl
from exprl.learn.lora import ADAPTER, Adapter
from exprl.learn.loss import LossInputs, LossStats, LossSums, policy_loss, read, token_logp
from exprl.learn.master import Masters
from exprl.learn.model import (
    DTYPES,
    best_device,
    bring,
    check_head,
    head,
    hidden_states,
    load,
    recompute,
    to_device,
)
from exprl.learn.offload import HostMemory, InitialPolicy
from exprl.learn.optimizer import Optimizer
from exprl.learn.reweighting import reweight
from exprl.learn.sharding import Replicas, Sharding, Shards, release, tied_names, whole
from exprl.types import Packed, TrainBatch


@dataclass(frozen=True, slots=True)
class UpdateStats:
    """One optimizer step: sums of the loss, the gradient norm before clipping, the rate used."""

    loss: LossStats
    grad_norm: float
    lr: float
    skipped: bool


class EarlierLogp(NamedTuple):
    """Log-probs [N] of a micro-batch from before the step's first update; None = not needed.

    trainer_logp: by the policy.   initial_logp: by the frozen initial policy.
    teacher_logp: after the teacher's prompts, by the initial policy (self-distillation) or by the
        policy (loss.teacher_weight).
    """

    trainer_logp: Tensor | None
    initial_logp: Tensor | None
    teacher_logp: Tensor | None


class Policy:
    """Forward, backward, clip, step.

    version: optimizer steps taken so far; the rollouts of a step carry the one that sampled them.
    """

    def __init__(
        self,
        model: config.Model,
        optim: config.Optim,
        lora: config.Lora | None = None,
        *,
        temperature: float,
        needs_initial: bool,
        weights: str | None = None,
        updates: int | None = None,
        seed: int = 0,
        sharding: Sharding | None = None,
    ) -> None:
        """Load the model.

        Args:
            temperature: log-probs are taken at it.
            needs_initial: keep the frozen initial policy, for the KL term or as the teacher.
            weights: folder of a checkpoint to go on from; None = model.path.
            updates: optimizer steps of the whole run, which a schedule other than the constant one
                needs to know.
            seed: of a new adapter (lora).
            sharding: where several ranks hold the weights: every rank then calls each method that
                computes or saves, at the same time, with micro-batches of its own.
        """
        self.sharding = sharding
        self.device = best_device()
        self.dtype = DTYPES[model.dtype]
        self.temperature = temperature
        cuda = self.device.type == "cuda"
        self.host = HostMemory(self.device) if model.offload and cuda else None
        self._load(model, lora, weights, seed)
        recompute(self.model, model.gradient_checkpointing)
        self.initial = None
        if needs_initial and not self.adapter:
            with sharding.turn() if sharding else nullcontext():
                initial = load(model, model.path, self.dtype, self.device)
                bring(initial, model, self.device, sharding)
            check_head(initial, model.path)
            away = model.offload_initial and cuda and sharding is None
            self.initial = InitialPolicy(initial, self.device, offload=away)
        shards = self.masters if isinstance(self.masters, Shards) else None
        self.optimizer = Optimizer(optim, self.masters.named, updates, shards)
        self.version = 0
        self._generation = read_generation_config(model.path)
        # transformers loads ways of sampling that it then refuses to save.
        own, kept = self.model.generation_config, ("bos_token_id", "eos_token_id", "pad_token_id")
        self.model.generation_config = GenerationConfig(**{k: getattr(own, k) for k in kept})

    def _load(
        self, model: config.Model, lora: config.Lora | None, weights: str | None, seed: int
    ) -> None:
        """The model, its adapter, and the masters."""
        adapted, sharding = bool(lora and lora.rank), self.sharding
        path = model.path if adapted else weights or model.path
        self.adapter: Adapter | None = None
        self.masters: Masters | Shards
        with sharding.turn() if sharding else nullcontext():
            dtype = self.dtype if adapted else torch.float32
            self.model = load(model, path, dtype, self.device)
            if lora and lora.rank:
                self.adapter = Adapter(self.model, lora, seed)
                if weights:
                    self.adapter.load(Path(weights) / ADAPTER)
            elif sharding is None:
                self.masters = Masters(self.model, self.dtype, self.device)
            bring(self.model, model, self.device, sharding)
        check_head(self.model, path)
        if adapted:
            kind = Replicas if sharding else Masters
            self.masters = kind(self.model, torch.float32, self.device)
        elif sharding:
            self.masters = Shards(self.model, sharding)

    def logp(self, batch: Packed, temperature: float | None = None) -> Tensor:
        """Log-probs [N] of the batch's tokens under the policy as it is now.

        Args:
            temperature: None = the one of `__init__`.
        """
        logp = self._logp(self.model, batch, temperature)
        release(self.model)
        return logp

    def initial_logp(self, batch: Packed) -> Tensor:
        """Log-probs [N] under the frozen initial policy (needs_initial)."""
        with self._as_at_first() as model:
            logp = self._logp(model, batch)
        release(model)
        return logp

    def step(
        self,
        batches: Sequence[Sequence[TrainBatch]],
        loss: config.Loss,
        show: Callable[[int, int], object] = lambda done, of: None,
    ) -> list[UpdateStats]:
        """All updates of a training step: one optimizer step for each mini-batch.

        What the losses compare with is computed first, while the weights are those of before the
        step. The first mini-batch needs no such forward: its own has these weights. That holds for
        tokens of an older policy too, whose importance weight compares them with the engine's.

        Args:
            batches: mini-batches of micro-batches, from `batch.pack`.
            show: told how many of how many micro-batches are learned from.

        A non-finite loss or gradient skips its optimizer step: the weights stay, `skipped` says so.
        """
        total = sum(map(len, batches))
        learned = itertools.count(1)
        show(0, total)
        before = self._before(batches, loss)
        models = [self.model, *([self.initial.model] if self.initial else [])]
        release(*models)
        teacher = self.initial if loss.objective == "reverse_kl" else None
        with teacher.on_device() if teacher else nullcontext():
            done = [
                self._update(mini, at, loss, lambda: show(next(learned), total))
                for mini, at in zip(batches, before, strict=True)
            ]
        release(*models)
        return done

    def _before(
        self, batches: Sequence[Sequence[TrainBatch]], loss: config.Loss
    ) -> list[list[EarlierLogp]]:
        """Per micro-batch; the initial policy is asked everything in one visit to the device."""
        sampled = loss.objective == "sampled_reverse_kl"
        reweighs = loss.teacher_weight > 0
        compares = loss.objective != "cross_entropy"
        initial: list[list[Tensor | None]] = [[None for _ in mini] for mini in batches]
        teacher = initial
        if sampled or loss.kl_coef > 0:
            with self._as_at_first() as model:
                if loss.kl_coef > 0:
                    initial = [[self._logp(model, b) for b in mini] for mini in batches]
                if sampled:
                    teacher = self._teacher_logp(model, batches)
        if reweighs:  # the policy of before the step is its own teacher, once it sees the reference
            teacher = self._teacher_logp(self.model, batches)
        first = sampled or reweighs
        trainer = [
            [self._logp(self.model, b) if first or (i and compares) else None for b in mini]
            for i, mini in enumerate(batches)
        ]
        return [
            [EarlierLogp(*logps) for logps in zip(*of_mini, strict=True)]
            for of_mini in zip(trainer, initial, teacher, strict=True)
        ]

    def _teacher_logp(
        self, model: Any, batches: Sequence[Sequence[TrainBatch]]
    ) -> list[list[Tensor | None]]:
        """Log-probs of each micro-batch's tokens after the teacher's prompts."""
        return [[self._logp(model, b.teacher) for b in mini if b.teacher] for mini in batches]

    def _update(
        self,
        micro_batches: Sequence[TrainBatch],
        before: Sequence[EarlierLogp],
        loss: config.Loss,
        show: Callable[[], object],
    ) -> UpdateStats:
        self.optimizer.clear()
        sums = []
        for batch, logps in zip(micro_batches, before, strict=True):
            value, part = self._loss(batch, logps, loss)
            value.backward()
            if not batch.padding:
                sums.append(part)
            show()
        self.masters.collect()
        stats, norm = read(sums, self.optimizer.clip())
        if self.sharding:
            stats = self.sharding.total(stats)
        lr = self.optimizer.learning_rate(self.version)
        skipped = not (math.isfinite(norm) and math.isfinite(stats.loss))
        if not skipped:
            self.optimizer.step(self.version)
            self.masters.publish()
            self.version += 1
        self.optimizer.clear()
        return UpdateStats(stats, norm, lr, skipped)

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Names and values as a Hugging Face checkpoint has them, a tied head included.

        A value that ranks share is gathered when it is asked for, and is whole for all that is
        computed after it on the same stream.
        """
        if self.adapter:
            yield from self.adapter.weights(self.device)
        else:
            for name, value in self.model.state_dict().items():
                yield name, whole(value.detach().to(self.dtype))

    def base(self) -> str | None:
        """A fingerprint of the weights that an adapter lies upon; None where all weights learn."""
        return self.adapter.fingerprint() if self.adapter else None

    def to_host(self) -> None:
        """Leave the GPU to the engine (model.offload)."""
        if self.host:
            self.host.take(self.tensors_on_device())

    def to_device(self) -> None:
        """Come back from `to_host`."""
        if self.host:
            self.host.restore(self.tensors_on_device())

    def tensors_on_device(self) -> dict[str, Tensor]:
        """What lies on the device between steps, by name; a tensor of two names is here once."""
        initial = self.initial.resident() if self.initial else {}
        moments = {name: v for name, v in self.optimizer.tensors() if not name.endswith(".step")}
        parts = {
            "model": dict(self.model.named_parameters()),
            "master": self.masters.named,
            "optimizer": moments,
            "initial": initial,
        }
        named = {f"{part}.{name}": v for part, of in parts.items() for name, v in of.items()}
        unique = {id(v): name for name, v in reversed(named.items())}
        return {name: named[name] for name in unique.values()}

    def save_model(self, folder: Path) -> None:
        """Write what a run goes on from exactly: the masters, in Hugging Face format.

        With LoRA that is the adapter, in a folder of its own, and the merged model, which is there
        for others to open: the frozen weights come from model.path again.
        """
        state = self._state()
        if self.sharding and self.sharding.rank:
            return
        with _as_os_error():
            if self.adapter:
                self.adapter.save(folder / ADAPTER)
            self.model.save_pretrained(folder, state_dict=state)
        write_generation_config(self._generation, folder)

    def _state(self) -> dict[str, Tensor]:
        """What is saved of the model; of several ranks the first one holds it."""
        if self.adapter is None:
            state = self.masters.state_dict(self.model)
        elif self.sharding:
            state = self.sharding.keep(self.adapter.weights(self.device, host=True))
        else:
            state = dict(self.adapter.weights(self.device, host=True))
        if self.sharding and state:  # gathered twice, a tied head must be one tensor again
            state |= {name: state[first] for name, first in tied_names(self.model).items()}
        return state

    def save_settings(self, folder: Path) -> None:
        """Write the small files of `save_model`, to try that they can be written."""
        self.model.config.save_pretrained(folder)
        write_generation_config(self._generation, folder)

    def save_optimizer(self, folder: Path) -> None:
        """Write the optimizer's state as optimizer.safetensors."""
        state = {name: value.contiguous() for name, value in self.optimizer.tensors()}
        if self.sharding and self.sharding.rank:
            return
        with _as_os_error():
            save_file(state, folder / "optimizer.safetensors")

    def load_optimizer(self, folder: Path, version: int) -> None:
        """Take up what `save_optimizer` wrote; the weights come with `__init__(weights=...)`."""
        self.optimizer.load(load_file(folder / "optimizer.safetensors"))
        self.version = version

    def _loss(
        self, batch: TrainBatch, before: EarlierLogp, loss: config.Loss
    ) -> tuple[Tensor, LossSums]:
        """The loss of a micro-batch, by loss.objective."""
        targets = self._tensor(batch.input_ids[batch.target_pos])
        token_weight = self._tensor(batch.token_weight)
        generator_logp = self._tensor(batch.generator_logp)
        seg_adv, seg_id = self._tensor(batch.seg_adv), self._tensor(batch.seg_id)
        match loss.objective:
            case "cross_entropy":
                hidden = hidden_states(self.model, batch)
                return cross_entropy(hidden, head(self.model), targets, token_weight)
            case "reverse_kl":
                return reverse_kl(
                    hidden_states(self.model, batch),
                    head(self.model),
                    self._teacher_hidden(batch),
                    head(self.initial.model if self.initial else self.model),
                    targets,
                    token_weight,
                    generator_logp,
                    before.trainer_logp,
                    self.temperature,
                )
            case "sampled_reverse_kl":  # one advantage per token: log q - log p
                assert before.teacher_logp is not None and before.trainer_logp is not None
                seg_adv = before.teacher_logp - before.trainer_logp
                seg_id = torch.arange(len(targets), dtype=torch.int32, device=self.device)
            case "policy_gradient" if loss.teacher_weight > 0:
                assert before.teacher_logp is not None and before.trainer_logp is not None
                gain = before.teacher_logp - before.trainer_logp
                seg_adv = reweight(seg_adv[seg_id.long()], gain, loss.teacher_weight)
                seg_id = torch.arange(len(targets), dtype=torch.int32, device=self.device)
            case "policy_gradient":
                pass
        inputs = LossInputs(
            targets=targets,
            seg_adv=seg_adv,
            seg_id=seg_id,
            token_weight=token_weight,
            generator_logp=generator_logp,
            trainer_logp=before.trainer_logp,
            initial_logp=before.initial_logp,
            teacher_logp=before.teacher_logp,
        )
        hidden = hidden_states(self.model, batch)
        return policy_loss(hidden, head(self.model), inputs, loss, self.temperature)

    @torch.no_grad()
    def _teacher_hidden(self, batch: TrainBatch) -> Tensor:
        assert batch.teacher is not None
        with self._as_at_first() as model:
            return hidden_states(model, batch.teacher)

    @contextmanager
    def _as_at_first(self) -> Iterator[Any]:
        """The initial policy: a model of its own, or this one with the adapter off."""
        if self.adapter:
            with self.adapter.off():
                yield self.model
        else:
            assert self.initial is not None
            with self.initial.on_device() as model:
                yield model

    def _logp(self, model: Any, batch: Packed, temperature: float | None = None) -> Tensor:
        with torch.no_grad():
            targets = self._tensor(batch.input_ids[batch.target_pos])
            hidden = hidden_states(model, batch)
            return token_logp(
                hidden,
                head(model),
                targets,
                self.temperature if temperature is None else temperature,
            )

    def _tensor(self, array: Any) -> Tensor:
        return to_device(array, self.device)


def read_generation_config(path: str) -> str | None:
    """generation_config.json as it came with the model; None where it has none."""
    file = find_file(path, GENERATION_CONFIG)
    return None if file is None else file.read_text(encoding="utf-8")


def write_generation_config(text: str | None, folder: Path) -> None:
    """Carry over what came with the model, as it is."""
    if text is not None:
        (folder / GENERATION_CONFIG).write_text(text, encoding="utf-8")


@contextmanager
def _as_os_error() -> Iterator[None]:
    """What safetensors calls an error of its own when it cannot write, such as a full disk."""
    try:
        yield
    except SafetensorError as error:
        raise OSError(str(error)) from error
