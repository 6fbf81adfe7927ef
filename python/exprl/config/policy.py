"""The policy: what it is, how it samples, and how it learns."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from exprl.config.section import Section

Objective = Literal["policy_gradient", "cross_entropy", "reverse_kl", "sampled_reverse_kl"]
Decay = Annotated[float, Field(ge=0.0, lt=1.0)]
Share = Annotated[float, Field(gt=0.0, le=1.0)]


class Model(Section):
    """Which policy to train, and how it computes."""

    path: str = Field(
        min_length=1, description="folder or hub id of a Hugging Face causal language model"
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        "bfloat16",
        description="of weights and activations in trainer and engine; the optimizer steps fp32"
        " masters of the weights",
    )
    attention: Literal[
        "auto", "torch", "flash_attention_2", "flash_attention_3", "flash_attention_4"
    ] = Field(
        "auto",
        description="auto = the best flash-attn kernel that is installed and made for the GPU, else"
        " torch's own",
    )
    fused: Literal["auto", "liger", "none"] = Field(
        "auto",
        description="RMSNorm, RoPE and SwiGLU by Liger's kernels; auto = where liger-kernel is"
        " installed, the device is a GPU and it knows the model",
    )
    gradient_checkpointing: bool | Share = Field(
        False,
        description="recompute activations in the backward: less memory, ~30 % slower; true = of"
        " all layers, 0.5 = of the first half of them",
    )
    offload: bool = Field(
        False, description="keep the trainer in host memory while the engine samples (one GPU)"
    )
    offload_initial: bool = Field(
        True,
        description="keep the initial policy in host memory, and bring it to the GPU once per step",
    )
    chat_template: str | None = Field(
        None, description="Jinja file, for tokenizers that bring no chat template"
    )
    trust_remote_code: bool = Field(False, description="run Python code that the model ships")


class Lora(Section):
    """LoRA: the model's weights stay frozen, and two small matrices per layer learn (lora.py)."""

    rank: int = Field(0, ge=0, description="of the adapter; 0 = off, all weights learn")
    alpha: int = Field(32, gt=0, description="the adapter's product counts alpha / rank times")
    targets: Literal["all-linear"] | tuple[str, ...] = Field(
        "all-linear",
        description='layers to adapt: all but the head, or names such as ["q_proj", "v_proj"]',
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
        description="what samples: vLLM; or transformers' own generate, which is slow and runs"
        " wherever the trainer does",
    )
    problems_per_step: int = Field(36, gt=0, description="prompts of one training step")
    group_size: int = Field(16, gt=0, description="rollouts per problem")
    temperature: float = Field(0.8, gt=0.0, description="log-probs are taken at it too")
    max_prompt_tokens: int = Field(4096, gt=0, description="longer problems are left out, counted")
    max_response_tokens: int = Field(16384, gt=0, description="past it a rollout is overlong")
    gpu_memory_utilization: float = Field(
        0.85, gt=0.0, le=1.0, description="share of the GPU for vLLM while it samples"
    )
    max_num_seqs: int = Field(256, gt=0, description="sequences that the engine runs at once")
    enforce_eager: bool = Field(False, description="vLLM without CUDA graphs and torch.compile")
    sync_gap_limit: float = Field(
        0.2,
        gt=0.0,
        description="largest mean |engine - trainer log-prob| per token of the probe after a weight"
        " update, in nats; the limit is 10 times the run's first, but never above this",
    )


class Teacher(Section):
    """The teacher of self-distillation: the frozen initial policy, shown the reference."""

    prompt: str = Field(
        "{problem}\n\nA correct solution, which you alone can see:\n{reference}\n\n"
        "Now solve the problem yourself, step by step.",
        description="its user message; {problem} is the policy's own, {reference} the hidden"
        " solution",
    )

    @field_validator("prompt")
    @classmethod
    def _has_both(cls, prompt: str) -> str:
        missing = [place for place in ("{problem}", "{reference}") if place not in prompt]
        if missing:
            raise ValueError(f"the teacher's prompt must contain {' and '.join(missing)}")
        return prompt


class Loss(Section):
    """The token-level objective."""

    objective: Objective = Field(
        "policy_gradient",
        description="advantages of rewards; cross-entropy on the references (SFT); or"
        " self-distillation from the teacher, over the whole vocabulary or the sampled tokens",
    )
    clip_low: float | None = Field(0.2, gt=0.0, lt=1.0, description="null = REINFORCE, no clip")
    clip_high: float | None = Field(0.26, gt=0.0)
    kl_coef: float = Field(0.001, ge=0.0, description="of the k3 estimator to the initial policy")
    entropy_coef: float = Field(0.0, description="of the entropy bonus")
    importance_cap: float | None = Field(
        None, gt=0.0, description="cap c of the truncated weight min(trainer/engine prob, c)"
    )
    aggregation: Literal["token_mean", "sequence_mean", "sequence_sum"] = "token_mean"

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
        return self


class Optim(Section):
    """AdamW, and how a step's rollouts are cut into optimizer steps and micro-batches."""

    kind: Literal["adamw", "adamw8bit"] = Field(
        "adamw",
        description="adamw8bit holds the two moments in 8 bits (torchao): 2 bytes a parameter and"
        " not 8",
    )
    lr: float = Field(1e-6, gt=0.0, description="learning rate, the highest of the schedule")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant",
        description="of the learning rate after warm-up; linear and cosine fall to 0 at the last"
        " of train.steps, which then may not change",
    )
    warmup_steps: int = Field(0, ge=0, description="optimizer steps of linear warm-up")
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    eps: float = Field(1e-8, gt=0.0)
    weight_decay: float = Field(0.0, ge=0.0)
    max_grad_norm: float = Field(1.0, gt=0.0)
    mini_batches: int = Field(1, gt=0, description="optimizer steps per training step")
    micro_batch_tokens: int = Field(
        32768, gt=0, description="tokens of one forward and backward; longer rollouts go alone"
    )


class Train(Section):
    """The loop."""

    steps: int = Field(230, gt=0)
    checkpoint_every: int = Field(10, gt=0, description="steps; the last step is always saved")
    keep_checkpoints: int = Field(2, gt=0, description="older ones are deleted")
    max_bad_steps: int = Field(
        3, gt=0, description="non-finite optimizer steps in a row that stop the run"
    )
    torch_threads: int | None = Field(
        None, gt=0, description="CPU threads of torch; 1 is fastest for models of a few MB"
    )
    ignore_memory: bool = Field(
        False, description="start also where more memory is predicted than there is"
    )
