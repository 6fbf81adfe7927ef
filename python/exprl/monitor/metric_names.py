"""What every metric of a run means: the table behind the reference, and behind its test.

A name may hold a variable: `reward/hist_{grade}` stands for `reward/hist_1` to `reward/hist_5`.
"""

from __future__ import annotations

import re

METRICS: dict[str, str] = {
    "step": "number of the training step, from 1",
    "time_s": "when the row was written, in seconds since 1970",
    "reward/mean": "mean reward; a rollout's reward is the mean of its scores, in [0, 1], and"
    " beyond with reward.noise",
    "reward/std": "standard deviation of the rewards",
    "reward/final": "mean score of the last step of a rollout, in [0, 1]",
    "reward/correct_rate": "share of the rollouts that the verifier calls right",
    "reward/unsolved": "share of the training problems without a right rollout so far",
    "reward/excluded_rate": "share of the rollouts out of the loss: no score, or masked",
    "reward/zero_variance_groups": "problems whose rollouts all have advantage 0",
    "reward/hist_{grade}": "share of the judge's grades that are 1, 2, 3, 4 or 5",
    "steps/per_rollout": "steps of a rollout, mean",
    "steps/per_1k_tokens": "steps per 1,000 tokens",
    "steps/single_rate": "share of the rollouts that have one step",
    "steps/grade_{place}": "mean grade of the first, the middle and the last step, over rollouts of"
    " three steps or more; with process rewards",
    "steps/single_cut_by_{rule}": "share of these that this rule of reward.steps would cut",
    "rollout/count": "rollouts of the step",
    "rollout/redrawn": "further problems sampled in place of those that teach nothing",
    "rollout/tokens": "sampled tokens of the step",
    "rollout/tokens_per_s": "with servers: sampled tokens of all, per second in which one sampled",
    "rollout/length_mean": "tokens of a rollout, mean",
    "rollout/length_p{percent}": "tokens of a rollout: 10th, 50th and 90th percentile",
    "rollout/length_max": "tokens of the longest rollout",
    "rollout/overlong_rate": "share of the rollouts that were cut by the length limit",
    "rollout/blank_rate": "share of the rollouts that are empty, or whose thinking never ends",
    "rollout/failed_rate": "share of the rollouts that the engine gave up",
    "lag/mean": "optimizer steps by which the policy is ahead of the tokens that it trains on",
    "lag/max": "the largest such lag",
    "lag/mixed_rate": "share of the rollouts that more than one policy version sampled",
    "lag/masked": "tokens left out of the loss because they were older than rollout.max_lag",
    "lag/hist_{lag}": "share of the tokens with a lag of 0, 1, 2, 3, or 4 and more",
    "text/reference_overlap": "mean share of the reference's 8-word runs that a rollout holds",
    "text/injections": "rollouts that speak to the judge",
    "text/injection_rate": "their share of the rollouts",
    "text/injection_{kind}": "rollouts that speak to the judge in this way",
    "judge/missing_steps": "steps (rollouts, with an outcome reward) that got no grade",
    "judge/bridged_steps": "steps without a score that were joined to the next one",
    "judge/missing": "rollouts that are out because judge or engine left a needed grade out",
    "judge/missing_rate": "their share of the rollouts",
    "judge/missing_length": "tokens of a rollout without a grade, mean; see the alarm of that name",
    "judge/graded_length": "tokens of a rollout with a grade, mean",
    "judge/requests": "HTTP requests sent, repeats included",
    "judge/cached": "grades that came from the ledger",
    "judge/retries": "requests sent again after a fault",
    "judge/over_context": "requests whose prompt the judge's context does not hold: refused, or not"
    " sent",
    "judge/latency_p50_s": "seconds until the judge has answered a request, median; none where the"
    " ledger gave every grade",
    "judge/latency_p95_s": "the same, 95th percentile",
    "judge/reasks": "requests that asked again for the grade alone",
    "judge/repaired_rate": "share of the grades that only such a re-ask gave",
    "judge/truncated": "replies that were cut at judge.max_tokens, repaired or not",
    "judge/readout_fallbacks": "scores of the grade alone, as its probabilities could not be used",
    "judge/prompt_tokens": "prompt tokens, as the judge's servers count them",
    "judge/completion_tokens": "tokens of the replies, as the judge's servers count them",
    "policy/loss": "mean loss of the optimizer steps",
    "policy/kl": "KL to the initial policy (estimator k3), nats per token",
    "policy/entropy": "entropy of the policy, nats per token",
    "policy/clip_fraction": "share of the tokens that the clip held back",
    "policy/capped": "share of the tokens whose importance weight loss.importance_cap held back",
    "policy/teacher_gap": "mean |log-prob with the solution - without it| of the tokens, in nats"
    " (loss.teacher_weight, sampled_reverse_kl)",
    "policy/ratio_max": "largest probability ratio",
    "policy/bad_rows": "tokens left out because a value was not finite",
    "policy/updates": "optimizer steps",
    "policy/skipped": "optimizer steps skipped because loss or gradient was not finite",
    "policy/grad_norm": "norm of the gradient before it was clipped, mean",
    "policy/lr": "learning rate of the last optimizer step",
    "sync/logp_gap": "mean |trainer - engine log-prob| of the rollouts' tokens, in nats",
    "sync/probe_gap": "the same for one fixed row of tokens, right after the weight update",
    "sync/pause_s": "with servers: seconds in which weight updates kept them from sampling",
    "sync/send_s": "with servers: the part of these in which weights were sent",
    "engine/retried": "with servers: rollouts that were asked again, after a fault or a timeout",
    "engine/lost": "with servers: servers that ended, or did not take new weights",
    "functions/calls": "with functions of your own: values that they were asked for",
    "functions/failed": "of these, calls that gave no usable value: exceptions and wrong values",
    "functions/late": "of these, calls that took longer than functions.timeout_s",
    "functions/restarts": "processes of these functions that were started again",
    "batch/fill": "share of optim.micro_batch_tokens that the micro-batches use",
    "rollouts/{domain}": "with several domains: rollouts of this one",
    "score/{domain}": "with several domains: mean reward of this one",
    "missing/{domain}": "with several domains: share of its rollouts without a grade",
    "correct/{domain}": "with several domains: share of its rollouts that are right",
    "unsolved/{domain}": "with several domains: share of its problems not solved so far",
    "alarm/{name}": "1 where this alarm is raised, else 0",
    "time/sync_s": "seconds until the engine had the weights",
    "time/rollout_s": "seconds of sampling, with the judging that went on beside it; with"
    " rollout.ahead they lie partly in earlier steps",
    "time/judge_s": "seconds of waiting for grades after the last rollout; likewise",
    "time/trainer_wait_s": "seconds in which the trainer waited for the step's rollouts and grades",
    "time/train_s": "seconds of packing and training",
    "time/engine_idle_s": "seconds of the step in which nothing was being sampled",
    "time/step_s": "seconds of the whole step",
    "bubble": "share of the step in which trainer and engines did not work, mean over them",
}

EVALUATION_METRICS: dict[str, str] = {
    "eval/pass_at_{k}": "chance that one of k samples of a held-out problem is right, mean over the"
    " problems",
    "eval/maj_at_{k}": "chance that the most frequent answer of k samples is right",
    "eval/{domain}/pass_at_{k}": "with several domains: the same over the problems of this one",
    "eval/{rate}_low": "lower end of the 95 % interval of such a rate, over problems",
    "eval/{rate}_high": "upper end of the interval",
    "eval/problems": "held-out problems",
    "eval/failed": "samples that the engine gave up, or that nothing could verify",
    "eval/overlong_rate": "share of the samples that were cut by the length limit",
    "eval/blank_rate": "share of the samples that name no answer",
}
"""What the trackers get of an evaluation (RUN/eval.jsonl), at the step that it follows."""

OF_SERVERS = {
    "rollout/tokens_per_s",
    "sync/pause_s",
    "sync/send_s",
    "engine/retried",
    "engine/lost",
}
"""Metrics of runs that sample from servers (engine.kind), and of no other run."""

_PATTERNS = {
    name: re.compile(re.sub(r"\\\{\w+\\\}", r"[^/]+", re.escape(name))) for name in METRICS
}


def line_of(metric: str) -> str | None:
    """The name in METRICS that stands for a metric of a run; None where none does."""
    return next((name for name, pattern in _PATTERNS.items() if pattern.fullmatch(metric)), None)
