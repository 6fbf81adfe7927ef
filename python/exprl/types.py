"""The nouns of the way, in the order of the flow.

    Problem -> Prompt -> Rollout -> Segments -> Verdicts -> Scored -> advantages -> TrainBatch

References travel beside this way, to the judge: a Problem of the training loop has none.

Shapes: N tokens of a batch, S segments, R rollouts, G rollouts of one problem (a group).
This module imports numpy only, so every room may import it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt

Role = Literal["system", "user", "assistant"]
FinishReason = Literal["stop", "length", "failed"]

T = TypeVar("T")

BoolArray = npt.NDArray[np.bool_]
Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]
Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Message:
    """One chat message.

    >>> Message("user", "5)106973=").role
    'user'
    """

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the policy may see of a problem: the wall that hides the reference is this type.

    The rollout engine takes Prompts and nothing else, and a Prompt has no way to a Problem.

    >>> Prompt("p0", (Message("user", "5)106973="),)).messages[0].content
    '5)106973='
    """

    problem_id: str
    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    r"""A question and its final answer: all that training on the sparse reward knows of it.

    answer: final answer for the verifier, or unit tests of code; None means that the sparse reward
        is unavailable.
    domain: selects rubric, verifier and reward kind.
    setup: code that stands before the program which the policy writes; else empty.
    source: which of data.sources it comes from.
    more_answers: the other texts of a list of answers, of which `answer` is the first.
    all_answers: whether a right answer names all texts of the list; else any of them is right.

    >>> prompt = Prompt("p0", (Message("user", "5)106973="),))
    >>> Problem("p0", prompt, "021394r3", "math").question
    '5)106973='
    """

    id: str
    prompt: Prompt
    answer: str | None
    domain: str
    setup: str = ""
    source: int = 0
    more_answers: tuple[str, ...] = ()
    all_answers: bool = False

    @property
    def question(self) -> str:
        """The text of the last user message: what the judge is shown as the problem."""
        return next(m.content for m in reversed(self.prompt.messages) if m.role == "user")


@dataclass(frozen=True, slots=True)
class ReferenceProblem(Problem):
    r"""A problem as the data has it: with its hidden solution.

    reference: step-by-step solution, for the judge (and the SFT and distillation baselines) only;
        None where the data has none. Of several solutions it is the first.
    alternatives: the other solutions, where the data has a list of them: the judge is shown all.

    >>> prompt = Prompt("p0", (Message("user", "5)106973="),))
    >>> reference = r"5*021394+3=106973###\boxed{021394r3}"
    >>> hidden = ReferenceProblem("p0", prompt, "021394r3", "math", reference=reference)
    >>> hidden.without_reference()  # doctest: +ELLIPSIS
    Problem(id='p0', prompt=Prompt(...), answer='021394r3', domain='math', setup='', ...)
    """

    reference: str | None = None
    alternatives: tuple[str, ...] = ()

    @property
    def judge_reference(self) -> str | None:
        """What the judge is shown: the reference, or all the solutions, numbered.

        The same text in every run, as it stands in front of what varies in a request.
        """
        if self.reference is None or not self.alternatives:
            return self.reference
        solutions = (self.reference, *self.alternatives)
        parts = (f"Reference solution {i}:\n{text}" for i, text in enumerate(solutions, 1))
        head = f"There are {len(solutions)} reference solutions. Each is right by itself."
        return "\n\n".join([head, *parts])

    def without_reference(self) -> Problem:
        """The problem as the training loop knows it; a Problem has no way to a reference."""
        return Problem(
            self.id,
            self.prompt,
            self.answer,
            self.domain,
            self.setup,
            self.source,
            self.more_answers,
            self.all_answers,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Rollout:
    """One sampled solution, as the engine gave it.

    index: 0..G-1 within its group.
    prompt_ids, token_ids: [P], [n] int32; token_ids end with the stop token, if one was sampled.
    generator_logp: [n] float32, natural log, the engine's log-probability of each sampled token
        at the sampling temperature.
    finish_reason: `length` = overlong; `failed` = the engine gave up on it (n may be 0): such a
        rollout is counted and never trained on.
    versions: [n] int32, the policy version that sampled each token: the number of optimizer steps
        behind those weights.
    opening: the tag of a thinking block that the prompt ends in, such as "<think>\\n": the text of
        the tokens goes on there. Empty where the prompt opens none.

    >>> ids = np.array([4, 2], np.int32)
    >>> logp, versions = np.zeros(2, np.float32), np.array([3, 4], np.int32)
    >>> Rollout("p0", 0, ids, ids, logp, "stop", versions).policy_version
    3
    """

    problem_id: str
    index: int
    prompt_ids: Int32Array
    token_ids: Int32Array
    generator_logp: Float32Array
    finish_reason: FinishReason
    versions: Int32Array
    opening: str = ""

    @property
    def policy_version(self) -> int | None:
        """The version that sampled the first token; None where there is no token."""
        return int(self.versions[0]) if len(self.versions) else None


@dataclass(frozen=True, slots=True)
class Segment:
    """One step of a rollout: tokens [start, end) and their text; the segments tile the rollout.

    >>> Segment(0, 7, "01/5=0r1").end
    7
    """

    start: int
    end: int
    text: str


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """A rollout with its steps and what judge and verifier said of it.

    grades, scores: one per segment (process views) or a single one (outcome); None = missing.
        grades are 1..5; scores lie in [0, 1], and somewhat beyond where reward.noise corrects them.
    correct: the verifier's word, None where no answer is known.
    masked: kept out of the loss by choice (overlong = "mask"), which is not a missing score.
    domain: of its problem.
    per_segment: whether each segment was to get a score of its own.
    bridge: whether a step without a score is joined to the next one (reward.missing = "bridge").
    blank: whether it shows the judge nothing: it is empty, or its thinking never ends.
    overlong: whether its scores count 0 for its length, whatever they are (overlong = "zero").
    rewarded: whether a score was asked for; self-distillation asks for none, so none is missing.
    reasons: why grades are missing, one for each that judge or engine did not give.
    statuses: the judge's status of each grade (`exprl.judge.Status`); None where it was not asked.
    ledger_keys: the key of each grade's reply in the judge's ledger; None where there is no reply.
    """

    rollout: Rollout
    segments: tuple[Segment, ...]
    grades: tuple[int | None, ...]
    scores: tuple[float | None, ...]
    correct: bool | None
    masked: bool = False
    domain: str = ""
    per_segment: bool = True
    rewarded: bool = True
    reasons: tuple[str, ...] = ()
    bridge: bool = False
    overlong: bool = False
    blank: bool = False
    statuses: tuple[str | None, ...] = ()
    ledger_keys: tuple[str | None, ...] = ()

    @property
    def text(self) -> str:
        """The whole trace."""
        return "".join(segment.text for segment in self.segments)

    @property
    def reward(self) -> float | None:
        """The mean of its scores; 0 where its length counts 0, None where it is out of the step."""
        given = [0.0 if self.overlong else score for score in self.scores if score is not None]
        return None if self.missing or self.masked or not given else sum(given) / len(given)

    @property
    def missing(self) -> bool:
        """Whether this rollout has no usable score: then it is out of the step."""
        if self.masked or not self.rewarded:
            return False
        return any(s is None for s in self._needed(self.scores))

    @property
    def ungraded(self) -> bool:
        """Whether it is missing because judge or engine failed, and not by the score map."""
        return self.missing and any(g is None for g in self._needed(self.grades))

    @property
    def ungraded_steps(self) -> int:
        """Steps, or the whole rollout, that judge or engine left without grade and score."""
        pairs = zip(self.grades, self.scores, strict=False)  # the verifier scores without a grade
        return sum(grade is None and score is None for grade, score in pairs)

    @property
    def bridged_steps(self) -> int:
        """Steps without a score that are joined to the next one."""
        if not self.bridge or self.missing or self.masked:
            return 0
        return sum(score is None for score in self.scores)

    def _needed(self, values: tuple[T | None, ...]) -> tuple[T | None, ...]:
        """Those without which the rollout is out: all, or the last; None where there is none."""
        return (values[-1:] if self.bridge else values) or (None,)


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """What one optimizer step learns from one sequence: a rollout, or a reference solution (SFT).

    prompt_ids, token_ids: [P], [n] int32, n >= 1.
    generator_logp: [n] float32; NaN for tokens that no engine sampled.
    advantages: [T], one per segment.   segment_tokens: [T], how many tokens each has; sum n.
    versions: [n] int32, the policy version that sampled each token; None where no engine did.
    teacher_ids: [P'] int32, the prompt under which the distillation teacher reads the same tokens.
    """

    prompt_ids: Int32Array
    token_ids: Int32Array
    generator_logp: Float32Array
    advantages: Float64Array
    segment_tokens: tuple[int, ...]
    versions: Int32Array | None = None
    teacher_ids: Int32Array | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """Sequences end to end without padding, for one forward.

    Sequence i is prompt and response at [cu_seqlens[i], cu_seqlens[i+1]) of input_ids. Only the N'
    response tokens are looked at: `target_pos` are their positions in the packed row.

    input_ids, position_ids: [L] int64.   cu_seqlens: [B+1] int32.
    target_pos: [N'] int64 (token at p is predicted from the hidden state at p - 1).
    """

    input_ids: Int64Array
    position_ids: Int64Array
    cu_seqlens: Int32Array
    target_pos: Int64Array


@dataclass(frozen=True, slots=True, eq=False)
class TrainBatch(Packed):
    """The examples of one micro-batch.

    generator_logp: [N'] float32.   token_weight: [N'] float32: mask and aggregation folded in, so
        that the weighted sum over an optimizer step's micro-batches is the loss.
    seg_adv: [S] float32.   seg_id: [N'] int32, the segment that each token lies in.
    teacher: the same responses after the distillation teacher's prompts, with N' targets too.
    padding: its weights are 0 and nobody counts it; it keeps trainer ranks in step.
    """

    generator_logp: Float32Array
    token_weight: Float32Array
    seg_adv: Float32Array
    seg_id: Int32Array
    teacher: Packed | None = None
    padding: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class StepReport:
    """A finished step of training, as the caller of `run_training` is told of it.

    Attributes:
        step: the number of the step, from 1.
        steps: how many steps the run has.
        metrics: the step's row of RUN/metrics.jsonl; a number that does not exist is NaN.
        rollouts: what was sampled, with steps and grades; empty for SFT, which samples nothing.
    """

    step: int
    steps: int
    metrics: Mapping[str, float]
    rollouts: Sequence[Scored]


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """How a call of `run_training` ended.

    Attributes:
        run_dir: the run's folder.
        steps: finished steps of the run, those of earlier starts included.
        interrupted: whether Ctrl-C ended it before its last step; the step was finished and saved.
    """

    run_dir: Path
    steps: int
    interrupted: bool
