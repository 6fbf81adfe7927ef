"""The method learns on the miniature, and each broken part of it does not.

One real engine serves every run here; each starts from the base policy. A mutant that learns
would mean that the part it breaks does not matter: the map from segments to tokens, the
reference that the judge sees, the grades themselves.
"""

import dataclasses
import json
import shutil
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest
import torch
from pyarrow import parquet
from safetensors.torch import load_file

from exprl import config, train
from exprl.data.tokenizer import load_tokenizer
from exprl.errors import EngineError, JudgeError
from exprl.evaluate.during_training import evaluate_now, read_evaluations
from exprl.judge import RuleJudge
from exprl.learn.batch import pack, rollout_examples
from exprl.monitor.metrics_log import read_metrics
from exprl.monitor.progress import Progress
from exprl.rollout.engine import open_engine
from exprl.rollout.weight_sync import lend_gpu, wake_engine
from exprl.run import checkpoint, gather
from exprl.run.open import open_run
from exprl.run.policy import set_threads
from exprl.types import Problem, Scored, Segment

pytestmark = pytest.mark.engine

CONFIG = "configs/division_process.toml"
STEPS = 6


def settings(run_dir, *overrides):
    learns_fast = ("optim.mini_batches=4", "eval.samples=8")
    common = [f"run_dir={run_dir}", f"train.steps={STEPS}", *learns_fast]
    return config.load(CONFIG, [*common, *overrides])


@pytest.fixture(scope="module")
def engine():
    cfg = settings("unused")
    set_threads(1)
    return open_engine(
        cfg.model, cfg.rollout, tokenizer=load_tokenizer(cfg.model), weights=cfg.model.path
    )


@dataclasses.dataclass
class Outcome:
    rows: list
    pass_at_1: float


def run(engine, run_dir, *overrides):
    """Train, then measure pass@1 on the held-out problems; no evaluation before."""
    cfg = settings(run_dir, *overrides)
    with Progress() as progress, open_run(cfg, engine) as (parts, state):
        ended = train.train(without_eval(cfg), without_held_out(parts), state, progress)
        assert not ended.interrupted
        evaluate_now(cfg, parts, state.step, progress)
    [after] = read_evaluations(run_dir)
    return Outcome(read_metrics(run_dir), after.at(1))


def without_eval(cfg):
    return cfg.model_copy(update={"eval": config.Evaluation()})


def without_held_out(parts):
    return dataclasses.replace(parts, held_out=[])


@pytest.mark.parametrize("overrides", [[], ["lora.rank=16", "optim.lr=1e-3"]], ids=["all", "LoRA"])
def test_exprl_process_learns_from_problems_that_the_base_never_solves(engine, tmp_path, overrides):
    outcome = run(engine, tmp_path / "run", *overrides)
    assert outcome.rows[0]["reward/correct_rate"] == 0.0
    assert outcome.pass_at_1 >= 0.4
    assert max(row["sync/probe_gap"] for row in outcome.rows) < 2e-5
    assert max(row["lag/max"] for row in outcome.rows) == 0.0


def shifted(by):
    """Advantages on the neighbouring segment."""

    def advantages(*args):
        return [np.roll(a, by) for a in original(*args)]

    original = gather.segment_advantages
    return advantages


def flipped(*args, original=gather.segment_advantages):
    return [-a for a in original(*args)]


@pytest.mark.parametrize(
    ("advantages", "overrides"),
    [
        pytest.param(None, ["judge.condition=wrong"], id="wrong reference"),
        pytest.param(None, ["judge.fault_random_rate=1.0"], id="random grades"),
        pytest.param(flipped, [], id="flipped sign"),
        pytest.param(shifted(1), [], id="advantages one segment late"),
        pytest.param(shifted(-1), [], id="advantages one segment early"),
    ],
)
def test_a_mutant_does_not_learn(engine, tmp_path, monkeypatch, advantages, overrides):
    if advantages:
        monkeypatch.setattr(gather, "segment_advantages", advantages)
    assert run(engine, tmp_path / "run", *overrides).pass_at_1 <= 0.05


def test_failed_grades_are_counted_and_the_run_goes_on(engine, tmp_path):
    """20 % of the contents never get a grade: a step with one is joined to the next one.

    A rollout whose last step has none is out. The judge's own count of the contents that it left
    without a grade is the truth.
    """
    steps = 2
    with RuleJudge("division", no_grade_rate=0.2) as server:
        outcome = run(
            engine,
            tmp_path / "run",
            "judge.kind=server",
            f"judge.endpoints=['{server.url}']",
            f"judge.model={server.model}",
            "judge.max_missing_rate=1.0",
            f"train.steps={steps}",
        )
        counted = server.stats()
    assert 0.15 < counted["no_grade"] / counted["distinct"] < 0.25

    assert len(outcome.rows) == steps
    ungraded_contents = set()
    for step, row in enumerate(outcome.rows, 1):
        table = parquet.read_table(tmp_path / "run" / "rollouts" / f"step-{step:05d}.parquet")
        judged = [r for r in table.to_pylist() if r["finish_reason"] == "stop"]
        ungraded = [r for r in judged if None in r["grades"]]
        out = [r for r in ungraded if r["grades"][-1] is None]
        assert 0 < row["judge/missing"] == len(out) < len(ungraded)
        assert row["judge/missing_steps"] == sum(r["grades"].count(None) for r in ungraded)
        joined = [r for r in ungraded if r["grades"][-1] is not None]
        assert row["judge/bridged_steps"] == sum(r["grades"].count(None) for r in joined)
        for one in ungraded:
            assert one["missing"] == (one["grades"][-1] is None)
            assert (set(one["advantages"]) == {None}) == one["missing"]
            for grade, own, following in zip(
                one["grades"], one["advantages"], one["advantages"][1:], strict=False
            ):
                assert grade is not None or own == following
            texts = accumulate(one["segments"])
            ungraded_contents |= {
                (one["problem_id"], text)
                for text, grade in zip(texts, one["grades"], strict=True)
                if grade is None
            }
    assert len(ungraded_contents) == counted["no_grade"]


def test_problems_that_nobody_solves_are_replaced_by_further_ones(engine, tmp_path):
    """The base solves none, so with the sparse reward every problem of the step is silent."""
    own = ["rollout.problems_per_step=4", "rollout.redraw=6", "train.steps=1", "eval.data=none"]
    cfg = config.load("configs/division_sparse.toml", [f"run_dir={tmp_path / 'run'}", *own])
    with Progress() as progress, open_run(cfg, engine) as (parts, state):
        train.train(cfg, parts, state, progress)
    [row] = read_metrics(tmp_path / "run")
    assert row["rollout/redrawn"] == 6
    assert row["reward/zero_variance_groups"] == 10
    assert row["rollout/count"] == 10 * cfg.rollout.group_size
    [file] = (tmp_path / "run" / "rollouts").glob("*.parquet")
    rows = parquet.read_table(file).to_pylist()
    assert len({r["problem_id"] for r in rows}) == 10
    learned = {r["problem_id"] for r in rows if r["advantages"] != [None]}
    assert len(learned) == 4  # the others are reported, and out of the loss


def test_a_missing_rate_above_the_limit_stops_the_run_after_a_checkpoint(engine, tmp_path):
    with pytest.raises(JudgeError, match=r"judge\.max_missing_rate = 0\.1"):
        run(
            engine,
            tmp_path / "run",
            "judge.fault_no_grade_rate=0.2",
            "judge.max_missing_rate=0.1",
        )
    folder = checkpoint.latest(tmp_path / "run")
    assert checkpoint.load_state(folder).step == 1


def test_the_reference_never_reaches_the_policy(engine, tmp_path, monkeypatch):
    """Checked on the token ids that the engine was given."""
    seen = spied(engine, monkeypatch)
    cfg = settings(tmp_path / "run", "train.steps=1")
    with Progress() as progress, open_run(cfg, engine) as (parts, state):
        train.train(without_eval(cfg), without_held_out(parts), state, progress)
    probe, *sampled = seen
    assert len(sampled) == cfg.rollout.problems_per_step * cfg.rollout.group_size
    encode = parts.tokenizer.encode
    asked = [tuple(encode(f"<bos>{p.question}", add_special_tokens=False)) for p in parts.problems]
    assert set(sampled) == set(asked)
    assert probe == sum(asked, ())[: len(probe)]  # bare prompts, one after the other
    assert len(parts.references) == len(parts.problems)
    for reference in parts.references.values():
        shown = tuple(encode(reference, add_special_tokens=False))
        assert not any(contains(tokens, shown[:4]) for tokens in seen)


def spied(engine, monkeypatch):
    """The token ids of every prompt that vLLM is given from now on."""
    seen = []
    add_request = engine._core._llm.add_request
    monkeypatch.setattr(
        engine._core._llm,
        "add_request",
        lambda key, prompt, params: (
            seen.append(tuple(prompt["prompt_token_ids"])),
            add_request(key, prompt, params),
        ),
    )
    return seen


def contains(tokens, part):
    return any(tokens[i : i + len(part)] == part for i in range(len(tokens) - len(part) + 1))


@pytest.fixture(scope="module")
def stage_one(engine, tmp_path_factory):
    """A short Stage-I run with judge and references."""
    run_dir = tmp_path_factory.mktemp("stage-one")
    trained(engine, settings(run_dir, "train.steps=1"))
    return run_dir


def trained(engine, cfg):
    """The parts after training, and the weights and problems it began with."""
    with Progress() as progress, open_run(cfg, engine) as (parts, state):
        began = {name: value.clone() for name, value in parts.policy.weights()}
        ended = train.train(without_eval(cfg), without_held_out(parts), state, progress)
        assert not ended.interrupted
    return parts, began


def test_stage_two_starts_at_stage_ones_weights_and_never_reads_a_reference(
    engine, stage_one, tmp_path, monkeypatch
):
    """The rows of Stage II hold references that the tokenizer and any search would notice."""
    canary = "CANARY-REFERENCE"
    rows = map(json.loads, Path("examples/division/train.jsonl").read_text().splitlines())
    lines = (json.dumps(row | {"reference": f"{canary} {row['id']}"}) + "\n" for row in rows)
    data_file = tmp_path / "rows.jsonl"
    data_file.write_text("".join(lines))
    seen = spied(engine, monkeypatch)
    run_dir = tmp_path / "stage-two"
    cfg = config.load(
        "configs/division_stage2.toml",
        [f"init_from={stage_one}", f"run_dir={run_dir}", f"data.path={data_file}", "train.steps=1"],
    )
    parts, began = trained(engine, cfg)

    checkpointed = load_file(checkpoint.latest(stage_one) / "model.safetensors")
    for name, value in checkpointed.items():
        torch.testing.assert_close(began[name], value, rtol=0, atol=0)
        torch.testing.assert_close(
            parts.policy.initial.model.state_dict()[name], value, rtol=0, atol=0
        )
    assert seen and parts.judges is None
    assert not parts.references and not parts.solutions and not parts.teacher_prompts
    assert all(type(problem) is Problem for problem in parts.problems)
    assert canary not in repr(parts)
    for path in run_dir.rglob("*"):
        assert path.is_dir() or canary.encode() not in path.read_bytes(), path
    recorded = config.load(run_dir / "config.toml")
    assert recorded.init_from == str(stage_one)
    assert recorded.model.path == str(checkpoint.latest(stage_one))


def test_stage_two_keeps_its_start_when_stage_one_goes_on(engine, stage_one, tmp_path):
    overrides = [f"init_from={stage_one}", f"run_dir={tmp_path}", "train.steps=1"]
    cfg = config.load("configs/division_stage2.toml", overrides)
    with open_run(cfg, engine) as (parts, state):
        checkpoint.save(tmp_path, state, parts.policy, parts.tokenizer, keep=1)
    first = checkpoint.latest(stage_one)
    later = first.with_name("step-00099")
    shutil.copytree(first, later)
    try:
        with open_run(cfg, engine):
            assert config.load(tmp_path / "config.toml").model.path == str(first)
    finally:
        shutil.rmtree(later)


@pytest.mark.parametrize("objective", ["reverse_kl", "sampled_reverse_kl"])
def test_self_distillation_shows_the_reference_to_the_teacher_alone(
    engine, tmp_path, monkeypatch, objective
):
    seen = spied(engine, monkeypatch)
    overrides = [f"run_dir={tmp_path}", "train.steps=1", f"loss.objective={objective}"]
    cfg = config.load("configs/division_distill.toml", overrides)
    parts, began = trained(engine, cfg)
    hint = parts.tokenizer.convert_tokens_to_ids("<hint>")
    assert all(hint in ids for ids in parts.teacher_prompts.values())
    assert seen and not any(hint in tokens for tokens in seen)
    assert parts.judges is None
    assert any(not torch.equal(began[name], value) for name, value in parts.policy.weights())
    [row] = read_metrics(tmp_path)
    assert row["reward/excluded_rate"] == 0.0 and row["policy/skipped"] == 0


def test_sft_learns_the_references_without_sampling(engine, tmp_path, monkeypatch):
    seen = spied(engine, monkeypatch)
    overrides = [f"run_dir={tmp_path}", "train.steps=8", "eval.data=none"]
    parts, _ = trained(None, config.load("configs/division_sft.toml", overrides))
    assert not seen and parts.engine is None
    losses = [row["policy/loss"] for row in read_metrics(tmp_path)]
    assert losses[-1] < 0.8 * losses[0]


def test_the_sparse_reward_scores_an_overlong_rollout_once(engine, tmp_path):
    """It has several steps, and one score: 0."""
    cfg = config.load(
        "configs/division_sparse.toml",
        [f"run_dir={tmp_path}", "train.steps=1", "rollout.max_response_tokens=40"],
    )
    trained(engine, cfg)
    [row] = read_metrics(tmp_path)
    assert row["rollout/overlong_rate"] == 1.0 and row["steps/per_rollout"] > 2
    assert row["reward/mean"] == 0.0 and row["reward/excluded_rate"] == 0.0


def stale(load, engine, sent, version):
    """Nothing arrives, and nobody says so."""
    engine.policy_version = version


def without_head(load, engine, sent, version):
    """vLLM keeps a packed copy of a tied head on a CPU, and refreshes it by its own name only."""
    load(engine, ((name, value) for name, value in sent if name != "lm_head.weight"), version)


def named_one_late(load, engine, sent, version):
    load(engine, sent, version - 1)


@pytest.mark.parametrize("mutant", [stale, without_head, named_one_late])
def test_a_weight_update_that_goes_wrong_stops_the_run(engine, tmp_path, monkeypatch, mutant):
    """After the first step, at the first sync that has something to change."""
    small = ["rollout.problems_per_step=4", "train.steps=2"]
    cfg = settings(tmp_path / "run", *small)
    original = type(engine).load_weights
    with Progress() as progress, open_run(cfg, engine) as (parts, state):
        wake_engine(parts.policy, parts.engine, parts.probe)
        assert parts.probe.gap < 2e-5
        monkeypatch.setattr(type(engine), "load_weights", lambda *told: mutant(original, *told))
        with pytest.raises(EngineError, match=r"differ by|says that it samples with"):
            train.train(without_eval(cfg), without_held_out(parts), state, progress)
        assert state.step == 1


def packed(rollouts):
    """Half of each problem's rollouts are to become likelier."""
    whole = [Segment(0, len(r.token_ids), "x") for r in rollouts]
    scored = [Scored(r, (w,), (5,), (1.0,), None) for r, w in zip(rollouts, whole, strict=True)]
    advantages = [np.array([float(r.index % 2)]) for r in rollouts]
    return pack(
        rollout_examples(scored, advantages),
        mini_batches=1,
        micro_batch_tokens=16384,
        aggregation="token_mean",
        max_response_tokens=96,
    )


def test_every_token_matches_the_policy_that_its_version_names_and_not_the_next(engine, tmp_path):
    cfg = settings(tmp_path / "run")
    with open_run(cfg, engine) as (parts, _):
        policy, prompts = parts.policy, [p.prompt for p in parts.problems[:4]]
        for version in range(2):
            sampled = wake_engine(policy, engine, parts.probe).sample(prompts, 4, 1, 1.0, 96)
            rollouts = list(sampled)
            assert {v for r in rollouts for v in r.versions} == {version} == {policy.version}
            [[batch]] = batches = packed(rollouts)
            assert apart(policy.logp(batch), batch.generator_logp) < 1e-4
            with lend_gpu(policy, engine, parts.probe):
                policy.step(batches, cfg.loss)
            assert apart(policy.logp(batch), batch.generator_logp) > 1e-2


def apart(trainer, generator):
    return np.abs(trainer.numpy() - generator).max()


def test_both_engines_give_the_same_tokens_the_same_log_probs(engine, tmp_path):
    cfg = settings(tmp_path / "run", "rollout.engine=transformers")
    other = open_engine(cfg.model, cfg.rollout, tokenizer=engine.tokenizer, weights=cfg.model.path)
    with open_run(cfg, engine) as (parts, _):
        wake_engine(parts.policy, engine, parts.probe)
        prompts = [p.prompt for p in parts.problems[:2]]
    for sampler, reader in ((engine, other), (other, engine)):
        for one in sampler.sample(prompts, 4, 1, 1.0, 96):
            [read] = reader.logp(np.concatenate([one.prompt_ids, one.token_ids]))
            assert np.abs(read[-len(one.token_ids) :] - one.generator_logp).max() < 1e-4


def test_eval_gives_the_base_no_solved_problem(engine, tmp_path):
    cfg = settings(tmp_path / "run", "eval.samples=64")
    with Progress() as progress, open_run(cfg, engine) as (parts, _):
        evaluate_now(cfg, parts, 0, progress)
    [base] = read_evaluations(tmp_path / "run")
    assert base.at(64) <= 0.07
