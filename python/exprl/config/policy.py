"""The policy: what it is, how it samples, and how it learns."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from exprl.config.section import Section, expand_home

Aggregation = Literal["token_mean", "sequence_mean", "sequence_sum"]
Objective = Literal["policy_gradient", "cross_entropy", "reverse_kl", "sampled_reverse_kl"]
Decay = Annotated[float, Field(ge=0.0, lt=1.0)]
Share = Annotated[float, Field(gt=0.0, le=1.0)]

_NOT_THE_TEMPLATES = {
    "conversation",
    "messages",
    "chat_template",
    "add_generation_prompt",
    "continue_final_message",
    "tokenize",
    "padding",
    "truncation",
    "max_length",
    "return_tensors",
    "return_dict",
    "return_assistant_tokens_mask",
    "tokenizer_kwargs",
}
"""What exprl itself tells the tokenizer, beside the arguments of a template."""


def _refuse_own_arguments(arguments: dict[str, Any]) -> dict[str, Any]:
    for name in arguments:
        if name in _NOT_THE_TEMPLATES or not name.isidentifier():
            raise ValueError(
                f"{name!r} is no argument of a chat template that can be set; name a variable that"
                " the template reads, such as enable_thinking"
            )
    return arguments


TemplateArguments = Annotated[dict[str, Any], AfterValidator(_refuse_own_arguments)]


class Model(Section):
    """Which policy to train, and how it computes."""

    path: str = Field(
        min_length=1, description="folder or hub id of a Hugging Face causal language model"
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        "bfloat16",
        description="number format of weights and activations in trainer and engine; the optimizer"
        " always updates fp32 copies of the weights",
    )
    attention: Literal[
        "auto",
        "torch",
        "shared_prompts",
        "flash_attention_2",
        "flash_attention_3",
        "flash_attention_4",
    ] = Field(
        "auto",
        description="attention kernel; auto takes the best flash-attn that is installed and made"
        " for the GPU, else torch's own. shared_prompts is torch's own, and the rollouts of a"
        " group that lie in one micro-batch compute their prompt once: on a CPU that saves most of"
        " the work where prompts are longer than responses",
    )
    fused: Literal["auto", "liger", "none"] = Field(
        "auto",
        description="whether Liger's kernels compute RMSNorm, RoPE and SwiGLU; auto uses them where"
        " liger-kernel is installed, the device is a GPU and it knows the model",
    )
    gradient_checkpointing: bool | Share = Field(
        False,
        description="which layers recompute their activations in the backward pass: true = all"
        " (least memory, about 30 % slower), 0.5 = the first half of them, false = none",
    )
    offload: bool = Field(
        False, description="keep the trainer in host memory while the engine samples (one GPU)"
    )
    offload_initial: bool = Field(
        True,
        description="keep the initial policy in host memory and bring it to the GPU once per step;"
        " several ranks (ranks.count) keep their parts of it on their GPUs instead",
    )
    chat_template: str | None = Field(
        None, description="Jinja file with a chat template, for tokenizers that have none"
    )
    chat_template_kwargs: TemplateArguments = Field(
        {},
        description="arguments of the chat template for every prompt of the policy: training,"
        " evaluation and SFT; `enable_thinking = false` is Qwen3's switch. The template decides"
        " what a name means, and the dry run warns of one that it never reads",
    )
    trust_remote_code: bool = Field(
        False, description="run the Python code that comes with the model"
    )

    _expand_home = field_validator("path", "chat_template")(expand_home)


class Lora(Section):
    """LoRA: the model's weights stay frozen, and two small matrices per layer learn (lora.py)."""

    rank: int = Field(0, ge=0, description="rank of the adapter; 0 = no adapter, all weights learn")
    alpha: int = Field(
        32, gt=0, description="scale: the adapter's product is multiplied by alpha / rank"
    )
    targets: Literal["all-linear"] | tuple[str, ...] = Field(
        "all-linear",
        description='linear layers to adapt: all but the head, or names like ["q_proj", "v_proj"]',
    )

    @field_validator("targets", mode="before")
    @classmethod
    def _all_or_names(cls, targets: Any) -> Any:
        if targets == "all-linear" or (targets and not isinstance(targets, str)):
            return targets
        raise ValueError('expected "all-linear" or a list of names, such as ["q_proj", "v_proj"]')


class Rollout(Section):
    """How the policy samples."""

    engine: Literal["vllm", "transformers"] = Field(
        "vllm",
        description="program that samples: vLLM, or transformers' own generate, which is slow and"
        " runs wherever the trainer does",
    )
    ahead: int = Field(
        0,
        ge=0,
        le=4,
        description="training steps that sampling and judging may run ahead of the trainer: 1 ="
        " rollouts are at most one step behind the policy; 0 = each waits for the other",
    )
    in_flight: bool = Field(
        True,
        description="with ahead: new weights reach rollouts that are being sampled; false = they"
        " wait until those are done, so that a run can be repeated to the last digit on a CPU",
    )
    max_lag: int | None = Field(
        None,
        ge=0,
        description="tokens that more optimizer steps lie behind than this weigh nothing in the"
        " loss, and are counted; none = all count",
    )
    problems_per_step: int = Field(36, gt=0, description="problems in one training step")
    group_size: int = Field(16, gt=0, description="rollouts sampled for each problem")
    redraw: int = Field(
        0,
        ge=0,
        description="further problems that a step may sample in place of those whose rollouts all"
        " have advantage 0 and teach nothing",
    )
    temperature: float = Field(
        0.8, gt=0.0, description="sampling temperature; log-probs are taken at it too"
    )
    max_prompt_tokens: int = Field(
        4096, gt=0, description="problems with a longer prompt are left out and counted"
    )
    max_response_tokens: int = Field(
        16384, gt=0, description="a rollout that reaches this length is cut (reward.overlong)"
    )
    gpu_memory_utilization: float = Field(
        0.85, gt=0.0, le=1.0, description="share of the GPU for vLLM while it samples"
    )
    max_num_seqs: int = Field(256, gt=0, description="sequences that the engine runs at once")
    enforce_eager: bool = Field(False, description="run vLLM without CUDA graphs and torch.compile")
    sync_gap_limit: float = Field(
        0.2,
        gt=0.0,
        description="highest limit of the probe after a weight update: mean |engine - trainer"
        " log-prob| per token, in nats. The run stops past 10 times its first gap, or past this",
    )


class Teacher(Section):
    """What a policy that is shown the reference reads: in self-distillation, the frozen initial
    policy; with loss.teacher_weight, the policy as it is."""

    prompt: str = Field(
        "{problem}\n\nA correct solution, which you alone can see:\n{reference}\n\n"
        "Now solve the problem yourself, step by step.",
        description="user message of the teacher; {problem} is the policy's own message,"
        " {reference} the hidden solution",
    )
    chat_template_kwargs: TemplateArguments = Field(
        {},
        description="arguments of the chat template for the teacher's prompts, as"
        " model.chat_template_kwargs for the policy's. Set both alike where the student's tokens"
        " should follow the same opening",
    )

    @field_validator("prompt")
    @classmethod
    def _has_both(cls, prompt: str) -> str:
        missing = [place for place in ("{problem}", "{reference}") if place not in prompt]
        if missing:
            raise ValueError(f"the teacher's prompt must contain {' and '.join(missing)}")
        return prompt


class Loss(Section):
    """The token-level objective (docs/concepts/method.md)."""

    objective: Objective = Field(
        "policy_gradient",
        description="policy_gradient learns from rewards, cross_entropy from the references (SFT),"
        " reverse_kl from the teacher over the whole vocabulary, sampled_reverse_kl from the"
        " teacher at the sampled tokens",
    )
    clip_low: float | None = Field(
        0.2, gt=0.0, lt=1.0, description="the ratio is clipped below 1 - clip_low; none = REINFORCE"
    )
    clip_high: float | None = Field(
        0.26, gt=0.0, description="the ratio is clipped above 1 + clip_high; none = REINFORCE"
    )
    kl_coef: float = Field(
        0.001, ge=0.0, description="weight of the KL to the initial policy (estimator k3)"
    )
    entropy_coef: float = Field(0.0, description="weight of the entropy bonus")
    importance_cap: float | None = Field(
        None,
        gt=0.0,
        description="tokens weigh min(trainer / engine probability, this); none = 1. With"
        " rollout.ahead it must be set, and is 2.0 where it is left open",
    )
    teacher_weight: float = Field(
        0.0,
        ge=0.0,
        le=1.0,
        description="how far the advantage of a token depends on what the hidden solution says of"
        " it (RLSD, arXiv 2604.03128): 0 = not at all; with 1 it is multiplied by exp(sign(A) gain)"
        " within 0.8 and 1.2, where gain is how much likelier the token is to a policy that is"
        " shown the solution (section [teacher]). Costs a forward pass per step",
    )
    aggregation: Aggregation = Field(
        "token_mean",
        description="how token losses add up: mean over the optimizer step's tokens; mean over"
        " rollouts of their token means; or sums divided by a constant (Dr. GRPO)",
    )

    @model_validator(mode="after")
    def _clip_pair(self) -> Self:
        if (self.clip_low is None) != (self.clip_high is None):
            raise ValueError(
                "clip_low and clip_high go together: set both, or both to 'none' for REINFORCE"
            )
        if self.kl_coef > 0 and self.objective in ("cross_entropy", "reverse_kl"):
            raise ValueError(
                f"kl_coef = {self.kl_coef} has no place in the {self.objective} objective; set it"
                " to 0"
            )
        if self.teacher_weight > 0 and self.objective != "policy_gradient":
            raise ValueError(
                f"teacher_weight = {self.teacher_weight} reweights advantages, and the"
                f" {self.objective} objective has none; set it to 0"
            )
        return self


class Optim(Section):
    """AdamW, and how a step's rollouts are cut into optimizer steps and micro-batches."""

    kind: Literal["adamw", "adamw8bit"] = Field(
        "adamw",
        description="optimizer; adamw8bit holds the two moments in 8 bits (torchao): 2 bytes per"
        " parameter instead of 8",
    )
    lr: float = Field(1e-6, gt=0.0, description="highest learning rate of the schedule")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant",
        description="learning rate after warm-up; linear and cosine fall to 0 at the last of"
        " train.steps, which then may not change",
    )
    warmup_steps: int = Field(
        0, ge=0, description="optimizer steps in which the learning rate rises"
    )
    betas: tuple[Decay, Decay] = Field(
        (0.9, 0.999), description="decay of the mean and of the mean square of gradients"
    )
    eps: float = Field(1e-8, gt=0.0, description="added to the divisor of AdamW")
    weight_decay: float = Field(0.0, ge=0.0, description="decoupled weight decay of AdamW")
    max_grad_norm: float = Field(
        1.0, gt=0.0, description="a gradient with a larger norm is scaled down to it"
    )
    mini_batches: int = Field(1, gt=0, description="optimizer steps per training step")
    micro_batch_tokens: int = Field(
        32768, gt=0, description="tokens per forward and backward; a longer rollout goes alone"
    )


class Train(Section):
    """The loop."""

    steps: int = Field(230, gt=0, description="training steps of the run")
    checkpoint_every: int = Field(10, gt=0, description="steps between checkpoints")
    keep_checkpoints: int = Field(2, gt=0, description="newest checkpoints that are kept")
    max_bad_steps: int = Field(
        3, gt=0, description="optimizer steps in a row with a non-finite loss that stop the run"
    )
    torch_threads: int | None = Field(
        None, gt=0, description="CPU threads of torch; 1 is fastest for models of a few MB"
    )
    ignore_memory: bool = Field(
        False, description="start even where more memory is predicted than there is"
    )
