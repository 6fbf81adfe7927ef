"""SFT and self-distillation, against their formulas written out by plain forwards."""

import numpy as np
import pytest
import torch

from exprl import config
from exprl.learn.batch import pack, rollout_examples, solution_examples
from exprl.learn.policy import Policy
from exprl.types import Rollout, Scored, Segment

TEMPERATURE = 0.7
SFT = config.Loss(objective="cross_entropy", kl_coef=0.0)
FULL = config.Loss(objective="reverse_kl", kl_coef=0.0)
SAMPLED = config.Loss(objective="sampled_reverse_kl", kl_coef=0.0)


def load(path):
    return Policy(
        config.Model(path=path, dtype="float32"),
        config.Optim(lr=1e-2, max_grad_norm=1e9),
        temperature=TEMPERATURE,
        needs_initial=True,
    )


def drawn(rng, n):
    return rng.integers(0, 16, n).astype(np.int32)


def pairs():
    rng = np.random.default_rng(0)
    return [(drawn(rng, p), drawn(rng, n)) for p, n in ((4, 3), (2, 9), (5, 6))]


def packed(examples, micro_batch_tokens=1000):
    [mini] = pack(
        examples,
        mini_batches=1,
        micro_batch_tokens=micro_batch_tokens,
        aggregation="token_mean",
        max_response_tokens=16,
    )
    return mini


def samples():
    """Rollouts of three problems, and the longer prompts under which the teacher reads them."""
    rng = np.random.default_rng(1)
    scored, teacher_prompts = [], {}
    for name, (prompt, tokens) in zip("abc", pairs(), strict=True):
        logp = np.full(len(tokens), -2.0, np.float32)
        rollout = Rollout(name, 0, prompt, tokens, logp, "stop", np.zeros(len(tokens), np.int32))
        segments = (Segment(0, len(tokens), "x"),)
        scored.append(Scored(rollout, segments, (), (), None, rewarded=False))
        teacher_prompts[name] = np.concatenate([prompt, drawn(rng, 4)])
    return scored, teacher_prompts


def distilled(micro_batch_tokens=1000):
    scored, teacher_prompts = samples()
    none = [np.zeros(0)] * len(scored)
    return packed(rollout_examples(scored, none, teacher_prompts), micro_batch_tokens)


def logits(model, prompt, tokens):
    """[n, V]: what predicts each of `tokens` after `prompt`."""
    ids = torch.from_numpy(np.concatenate([prompt, tokens])).long()[None]
    return model(ids).logits[0, len(prompt) - 1 : -1]


def plain(path):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager").float()


def moved(path):
    """A student that is no longer the initial policy, as a Policy and as a plain model."""
    policy, model = load(path), plain(path)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for own, other in zip(policy.model.parameters(), model.parameters(), strict=True):
            own.add_(0.05 * torch.randn(own.shape, generator=generator))
            other.copy_(own)
    return policy, model


def log_softmaxes(student, teacher):
    """log p and log q, [N, V] each, and the sampled tokens [N], over all samples."""
    scored, teacher_prompts = samples()
    log_p, log_q, tokens = [], [], []
    for s in scored:
        r = s.rollout
        log_p.append((logits(student, r.prompt_ids, r.token_ids) / TEMPERATURE).log_softmax(-1))
        shown = teacher_prompts[r.problem_id]
        with torch.no_grad():
            log_q.append((logits(teacher, shown, r.token_ids) / TEMPERATURE).log_softmax(-1))
        tokens.append(torch.from_numpy(r.token_ids).long())
    return torch.cat(log_p), torch.cat(log_q), torch.cat(tokens)


def gradient_norm(model, loss):
    loss.backward()
    return torch.stack([p.grad.norm() for p in model.parameters()]).norm().item()


@pytest.mark.parametrize("micro_batch_tokens", [1000, 12])
def test_sft_is_mean_cross_entropy_of_the_references_at_temperature_one(
    tiny_qwen3, micro_batch_tokens
):
    model = plain(tiny_qwen3)
    logp = [
        logits(model, p, t).log_softmax(-1).gather(1, torch.from_numpy(t).long()[:, None])
        for p, t in pairs()
    ]
    loss = -torch.cat(logp).mean()
    stats = load(tiny_qwen3).step([packed(solution_examples(pairs()), micro_batch_tokens)], SFT)[0]
    assert stats.loss.loss == pytest.approx(loss.item(), rel=1e-5)
    assert stats.loss.tokens == sum(len(t) for _, t in pairs())
    assert stats.grad_norm == pytest.approx(gradient_norm(model, loss), rel=1e-4)


@pytest.mark.parametrize("micro_batch_tokens", [1000, 12])
def test_distillation_is_the_mean_reverse_kl_to_the_teacher_that_reads_the_reference(
    tiny_qwen3, micro_batch_tokens
):
    policy, student = moved(tiny_qwen3)
    log_p, log_q, _ = log_softmaxes(student, plain(tiny_qwen3))
    loss = (log_p.exp() * (log_p - log_q)).sum(-1).mean()
    stats = policy.step([distilled(micro_batch_tokens)], FULL)[0]
    assert stats.loss.loss == pytest.approx(loss.item(), rel=1e-4)
    assert stats.grad_norm == pytest.approx(gradient_norm(student, loss), rel=1e-4)


def test_sampled_distillation_rewards_each_token_by_log_q_minus_log_p(tiny_qwen3):
    policy, student = moved(tiny_qwen3)
    *both, tokens = log_softmaxes(student, plain(tiny_qwen3))
    log_p, log_q = (t.gather(1, tokens[:, None]) for t in both)
    loss = -((log_q - log_p).detach() * log_p).mean()
    stats = policy.step([distilled()], SAMPLED)[0]
    assert stats.grad_norm == pytest.approx(gradient_norm(student, loss), rel=1e-4)


def test_a_student_equal_to_its_teacher_has_nothing_to_learn(tiny_qwen3):
    scored, _ = samples()
    prompts = {s.rollout.problem_id: s.rollout.prompt_ids for s in scored}
    mini = packed(rollout_examples(scored, [np.zeros(0)] * len(scored), prompts))
    stats = load(tiny_qwen3).step([mini], FULL)[0]
    assert stats.loss.loss == pytest.approx(0.0, abs=1e-6)
    assert stats.grad_norm == pytest.approx(0.0, abs=1e-5)


def test_distillation_moves_the_student_towards_the_teacher(tiny_qwen3):
    policy, _ = moved(tiny_qwen3)
    losses = [policy.step([distilled()], FULL)[0].loss.loss for _ in range(5)]
    assert losses[-1] < losses[0]
