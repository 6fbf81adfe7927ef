"""vLLM in a second process: what it samples, what new weights do in flight, and how it ends."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from exprl import config
from exprl.data.tokenizer import load_tokenizer
from exprl.learn.policy import Policy
from exprl.monitor.metrics_log import read_metrics
from exprl.monitor.progress import Progress
from exprl.rollout.child import ChildEngine
from exprl.rollout.engine import prompt_starts
from exprl.rollout.vllm_core import Sampling
from exprl.rollout.vllm_engine import VllmEngine, make_rollout
from exprl.run.open import open_run
from exprl.run.policy import set_threads
from exprl.run.problems import load_training_problems
from exprl.train import train
from exprl.types import Packed

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("child_engine")]

CONFIG = "configs/division_process.toml"
CLOSE, APART = 1e-4, 1e-2


def settings(run_dir="unused", *overrides):
    common = [f"run_dir={run_dir}", "train.steps=2", "eval.samples=16"]
    cfg = config.load(CONFIG, [*common, *overrides])
    return cfg.model_copy(update={"eval": config.Evaluation()})


def opened(kind):
    cfg = settings()
    set_threads(1)
    tokenizer = load_tokenizer(cfg.model)
    return kind(cfg.model, cfg.rollout, tokenizer=tokenizer, weights=cfg.model.path)


@pytest.fixture(scope="module")
def engine():
    """In this process."""
    return opened(VllmEngine)


@pytest.fixture(scope="module")
def child():
    one = opened(ChildEngine)
    yield one
    one.close()


@pytest.fixture(scope="module")
def prompts(engine):
    problems = load_training_problems(settings(), engine.tokenizer, print)
    return [problem.prompt for problem in problems[:8]]


@pytest.fixture
def policies():
    """By version: the base policy, and two whose weights have moved."""
    found = []
    for version in range(3):
        policy = Policy(settings().model, config.Optim(), temperature=1.0, needs_initial=False)
        generator = torch.Generator().manual_seed(version)
        for value in policy.model.parameters():
            noise = torch.randn(value.shape, generator=generator)
            value.data += 0.05 * version * value.data.std() * noise
        found.append(policy)
    return found


def by_name(rollouts):
    return {(r.problem_id, r.index): r for r in rollouts}


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, rollout in one.items():
        assert np.array_equal(rollout.token_ids, other[name].token_ids)
        assert np.array_equal(rollout.generator_logp, other[name].generator_logp)
        assert np.array_equal(rollout.versions, other[name].versions)
        assert rollout.finish_reason == other[name].finish_reason


def test_both_sample_the_same_and_so_do_calls_of_several_threads(engine, child, prompts):
    engine.policy_version = child.policy_version = 5
    wanted = [by_name(engine.sample(prompts, 8, seed, 1.0, 96)) for seed in range(3)]
    assert_same(by_name(child.sample(prompts, 8, 0, 1.0, 96)), wanted[0])
    found = {}

    def ask(seed):
        found[seed] = by_name(child.sample(prompts, 8, seed, 1.0, 96))

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(3)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    for seed in range(3):
        assert_same(found[seed], wanted[seed])
    ids = np.arange(1, 20, dtype=np.int32)
    assert np.array_equal(child.logp(ids), engine.logp(ids))


def test_two_training_steps_are_equal_to_the_last_digit(engine, child, tmp_path):
    found = {}
    for name, one in (("process", engine), ("child", child)):
        cfg = settings(tmp_path / name)
        with Progress() as progress, open_run(cfg, one) as (parts, state):
            train(cfg, parts, state, progress)
        found[name] = [without_times(row) for row in read_metrics(tmp_path / name)]
    assert len(found["process"]) == 2
    assert all(row["policy/loss"] != 0.0 and row["policy/updates"] for row in found["process"])
    np.testing.assert_equal(found["child"], found["process"])


def without_times(row):
    kept = ("policy/", "reward/", "rollout/", "steps/", "sync/", "lag/")
    return {name: value for name, value in row.items() if name.startswith(kept)}


def gaps(rollouts, policies):
    """How far the tokens of a policy's versions are from each policy, at most.

    The policies take turns: versions 0, 3, 6 are of the first.
    """
    found = {}
    for one in rollouts:
        ids = np.concatenate([one.prompt_ids, one.token_ids])
        n = len(ids)
        row = Packed(
            input_ids=ids.astype(np.int64),
            position_ids=np.arange(n),
            cu_seqlens=np.array([0, n], np.int32),
            target_pos=np.arange(len(one.prompt_ids), n),
        )
        off = [np.abs(p.logp(row).numpy() - one.generator_logp) for p in policies]
        for version in set(one.versions.tolist()):
            mine = one.versions == version
            worst = np.array([gap[mine].max() for gap in off])
            turn = version % len(policies)
            found[turn] = np.maximum(found.get(turn, 0.0), worst)
    return found


def assert_each_token_matches_its_version(rollouts, policies):
    found = gaps(rollouts, policies)
    assert set(found) == set(range(len(policies)))
    for version, off in found.items():
        assert off[version] <= CLOSE, f"version {version}: {off}"
        assert np.delete(off, version).min() > APART
    assert any(len(set(r.versions.tolist())) > 1 for r in rollouts)


def tells_versions_apart(rollouts):
    """Whether updates met enough rollouts, and each policy sampled enough tokens to be known by."""
    mixed = sum(len(set(one.versions.tolist())) > 1 for one in rollouts)
    tokens = np.bincount(np.concatenate([one.versions for one in rollouts]) % 3, minlength=3)
    return mixed >= 8 and tokens.min() >= 200


def test_an_update_in_flight_is_exact_for_every_token(child, prompts, policies):
    """Two threads sample without end, until updates have met enough of what they sample."""
    child.load_weights(policies[0].weights(), 0)
    rollouts, enough = [], threading.Event()

    def ask(seed):
        while not enough.is_set():
            rollouts.extend(child.sample(prompts, 4, seed, 1.0, 96))

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(2)]
    for one in threads:
        one.start()
    version = 0
    try:
        while version < 3 or not tells_versions_apart(rollouts):
            came = len(rollouts)
            assert eventually(lambda came=came: len(rollouts) > came + 8)
            version += 1
            child.load_weights(policies[version % 3].weights(), version)
    finally:
        enough.set()
        for one in threads:
            one.join()
    assert_each_token_matches_its_version(rollouts, policies)


def sample_over_updates(engine, prompts, policies, load):
    """As above, in this process, where a test can break a part of the update."""
    core = engine._core
    load(core, policies[0], 0)
    starts = {s.name: s for s in prompt_starts(engine.tokenizer, engine._model, prompts)}
    for name, start in starts.items():
        for index in range(4):
            core.add(f"{name}/{index}", start.ids, 60, index, Sampling(1.0, 1.0, 0, 0.0))
    rollouts, steps = [], 0
    while core.busy:
        for key, sample in core.step():
            name, _, index = key.rpartition("/")
            rollouts.append(make_rollout(starts[name], int(index), sample))
        steps += 1
        if steps in (15, 30):
            load(core, policies[steps // 15], steps // 15)
    return rollouts


def exact(core, policy, version):
    core.load_weights(policy.weights(), version)


def without_head(core, policy, version):
    named = ((name, value) for name, value in policy.weights() if name != "lm_head.weight")
    core.load_weights(named, version)


def with_old_cache(core, policy, version):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(core._llm, "reset_prefix_cache", lambda **_: True)
        core.load_weights(policy.weights(), version)


def named_one_late(core, policy, version):
    core.load_weights(policy.weights(), max(0, version - 1))


def test_the_same_engine_in_this_process_is_exact_too(engine, prompts, policies):
    rollouts = sample_over_updates(engine, prompts, policies, exact)
    assert_each_token_matches_its_version(rollouts, policies)


@pytest.mark.parametrize("mutant", [without_head, with_old_cache, named_one_late])
def test_a_broken_update_is_seen(engine, prompts, policies, mutant):
    rollouts = sample_over_updates(engine, prompts, policies, mutant)
    off = gaps(rollouts, policies)
    assert max(of[version] for version, of in off.items()) > 10 * CLOSE
    exact(engine._core, policies[0], 0)


def run_with_a_child(folder):
    """`exprl train`, once its first step is written, and the pid of its engine."""
    words = [f"run_dir={folder}", "engine.kind=child", "train.steps=1000", "eval.samples=1"]
    words += ["train.checkpoint_every=1", "rollout.problems_per_step=2"]
    before = len(rows(folder))
    leader = subprocess.Popen(
        [sys.executable, "-m", "exprl", "train", CONFIG, *words], stderr=subprocess.PIPE, text=True
    )
    assert eventually(lambda: leader.poll() is not None or len(rows(folder)) > before)
    assert leader.poll() is None, leader.stderr.read()
    found = [
        int(status.parent.name)
        for status in Path("/proc").glob("[0-9]*/status")
        if is_child(status, leader.pid)
    ]
    [pid] = found
    return leader, pid


def rows(folder):
    return read_metrics(folder) if (folder / "metrics.jsonl").exists() else []


def is_child(status, parent):
    try:
        arguments = status.with_name("cmdline").read_bytes()
        return f"PPid:\t{parent}\n" in status.read_text() and b"child_process" in arguments
    except OSError:
        return False


def eventually(is_true, seconds=120.0):
    end = time.monotonic() + seconds
    while not is_true() and time.monotonic() < end:
        time.sleep(0.05)
    return is_true()


def gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").split()[2] == "Z"
    except OSError:
        return True


def test_a_killed_engine_stops_the_run_which_goes_on_and_dies_with_a_killed_leader(tmp_path):
    folder = tmp_path / "run"
    leader, pid = run_with_a_child(folder)
    try:
        os.kill(pid, signal.SIGKILL)
        said = leader.communicate(timeout=120)[1]
        assert leader.returncode == 1
        assert "the engine's process" in said and "ended with code -9" in said
        assert "start the same command again" in said
        done = len(rows(folder))
        leader, pid = run_with_a_child(folder)
        assert [row["step"] for row in rows(folder)][:done] == list(range(1, done + 1))
        assert not gone(pid)
        leader.kill()
        assert eventually(lambda: gone(pid), 10.0)
    finally:
        leader.kill()
        leader.communicate()
        if not gone(pid):
            os.kill(pid, signal.SIGKILL)
