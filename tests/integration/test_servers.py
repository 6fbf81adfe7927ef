"""Training from a vLLM server: equal to the engine in the process, exact while weights change."""

import contextlib
import dataclasses
import json
import re
import threading
import time

import numpy as np
import pytest
import servers
import torch
from pyarrow import parquet
from recording_proxy import RecordingProxy

from exprl import config
from exprl.data.tokenizer import load_tokenizer, prompt_ids
from exprl.errors import EngineError
from exprl.learn.policy import Policy
from exprl.monitor.metric_names import OF_SERVERS
from exprl.monitor.metrics_log import read_metrics
from exprl.rollout import senders, transfer
from exprl.rollout.fleet import Fleet
from exprl.rollout.server import Endpoints
from exprl.run.problems import load_training_problems
from exprl.train import run_training
from exprl.types import Packed, Prompt

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("server")]

CLOSE, APART = 1e-4, 1e-2
TRAFFIC = (
    "time",
    "bubble",
    "judge/requests",
    "judge/cached",
    "judge/latency",
    "engine/",
    "rollout/tokens_per_s",
    "sync/pause",
    "sync/send",
)
"""Metrics in which two runs of the same settings differ."""


def settings(run_dir="unused", *overrides):
    small = ["train.steps=2", "eval.data=none", "rollout.problems_per_step=8"]
    words = [f"run_dir={run_dir}", "rollout.group_size=8", *small, *overrides]
    return config.load(servers.MINIATURE, words)


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(settings().model)


@pytest.fixture(scope="module")
def problems(tokenizer):
    return load_training_problems(settings(), tokenizer, lambda remark: None)


def opened(*urls, **engine):
    """A fleet of the servers, closed with the block."""
    cfg = settings()
    fleet = Fleet(
        cfg.model,
        cfg.rollout,
        config.Engine(kind="servers", **engine),
        tokenizer=load_tokenizer(cfg.model),
        weights=cfg.model.path,
        endpoints=Endpoints(urls, servers.TOKEN),
    )
    return contextlib.closing(fleet)


class Weights:
    """A policy's weights, as often as they are walked."""

    def __init__(self, policy, without=""):
        self.policy, self.without = policy, without

    def __iter__(self):
        return (pair for pair in self.policy.weights() if pair[0] != self.without)


def moved(version):
    """A policy: the base one, or one whose weights have moved from it."""
    policy = Policy(settings().model, config.Optim(), temperature=1.0, needs_initial=False)
    generator = torch.Generator().manual_seed(version)
    for value in policy.model.parameters():
        noise = torch.randn(value.shape, generator=generator)
        value.data += 0.05 * version * value.data.std() * noise
    return policy


@pytest.fixture(scope="module")
def policies():
    """By version."""
    return [moved(version) for version in range(3)]


@pytest.fixture(scope="module")
def recorded(policy_server, tmp_path_factory):
    """The folder of a run of two steps from a server, and all that the server was sent."""
    run_dir = tmp_path_factory.mktemp("run") / "servers"
    proxy = RecordingProxy(policy_server.url)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLICY_TOKEN", servers.TOKEN)
        named = [f'engine.urls=["{proxy.url}"]', "engine.token_env=POLICY_TOKEN"]
        run_training(settings(run_dir, "engine.kind=servers", *named), show_progress=False)
    proxy.kill()
    return run_dir, [bytes(one) for one in proxy.received]


def learned(run_dir):
    rows = read_metrics(run_dir)
    return [{k: v for k, v in row.items() if not k.startswith(TRAFFIC)} for row in rows]


def test_two_training_steps_equal_those_of_the_engine_in_the_process(recorded, tmp_path):
    run_dir, _ = recorded
    run_training(settings(tmp_path), show_progress=False)
    rows = learned(run_dir)
    assert len(rows) == 2 and all(row["policy/loss"] for row in rows)
    np.testing.assert_equal(rows, learned(tmp_path))
    for name in ("step-00001.parquet", "step-00002.parquet"):
        # Each run's ledger has keys of its own.
        one, other = (
            parquet.read_table(d / "rollouts" / name).drop_columns("ledger_keys")
            for d in (run_dir, tmp_path)
        )
        assert one.equals(other)


def test_a_run_from_servers_counts_what_they_did(recorded):
    for row in read_metrics(recorded[0]):
        assert row.keys() >= OF_SERVERS
        assert row["engine/retried"] == row["engine/lost"] == 0
        assert row["sync/pause_s"] >= row["sync/send_s"] >= 0
        assert row["rollout/tokens_per_s"] > 0
    assert row["sync/send_s"] > 0


def hidden(problems, tokenizer):
    """The references as text, and as the tokens that a policy would read."""
    texts = [problem.reference for problem in problems]
    return [text.encode() for text in texts] + [
        ",".join(map(str, tokenizer(text, add_special_tokens=False)["input_ids"])).encode()
        for text in texts
    ]


def found_in(received, needles):
    """Which of the needles stand in what a server was sent; white space does not hide them."""
    sent = [re.sub(rb"\s", b"", one) for one in received]
    return [needle for needle in needles if any(re.sub(rb"\s", b"", needle) in one for one in sent)]


def test_no_reference_reaches_a_server_of_the_policy(recorded, problems, tokenizer):
    run_dir, received = recorded
    needles = hidden(problems, tokenizer)
    assert len(needles) == 2 * len(problems) and min(map(len, needles)) > 15
    assert found_in(received, needles) == []

    # The search would find one, as it finds the prompts, without which nothing is sampled.
    model = settings().model
    asked = {row["problem_id"] for row in parquet.read_table(run_dir / "rollouts").to_pylist()}
    for problem in problems:
        ids = ",".join(map(str, prompt_ids(tokenizer, problem.prompt, model))).encode()
        assert bool(found_in(received, [ids])) == (problem.id in asked)
        question = Prompt(problem.id, problem.prompt.messages)
        shown = dataclasses.replace(
            question.messages[0], content=f"{problem.question}{problem.reference}"
        )
        leak = {"token_ids": prompt_ids(tokenizer, Prompt(problem.id, (shown,)), model)}
        assert found_in([json.dumps(leak).encode()], needles)


def logp(policy, rollout):
    """What the policy says of the rollout's tokens [n]."""
    ids = np.concatenate([rollout.prompt_ids, rollout.token_ids])
    row = Packed(
        input_ids=ids.astype(np.int64),
        position_ids=np.arange(len(ids)),
        cu_seqlens=np.array([0, len(ids)], np.int32),
        target_pos=np.arange(len(rollout.prompt_ids), len(ids)),
    )
    return policy.logp(row).numpy()


def generated(server):
    """Tokens that the server has sampled so far."""
    _, page = server.ask("/metrics")
    return float(re.search(r"^vllm:generation_tokens_total\{.*\} (\S+)$", page, re.M)[1])


def sample_during(fleet, server, problems, event):
    """16 x 8 rollouts, with an event when the server has sampled an eighth of their tokens."""
    rollouts = []

    def ask():
        prompts = [problem.prompt for problem in problems[:16]]
        rollouts.extend(fleet.sample(prompts, 8, 3, 1.0, 96))

    before = generated(server)
    thread = threading.Thread(target=ask)
    thread.start()
    while generated(server) < before + 1000:
        time.sleep(0.01)
    event()
    thread.join()
    return rollouts


def sample_over_an_update(fleet, server, problems, send, policies):
    """Rollouts of which some are under way while the policy's version goes from 1 to 2."""
    fleet.load_weights(Weights(policies[1]), 1)
    return sample_during(fleet, server, problems, lambda: send(fleet, policies))


def worst_gap(rollouts, policies):
    """How far a token is from the policy that its version names, at most."""
    assert {v for r in rollouts for v in r.versions.tolist()} <= {0, 1, 2}
    worst = 0.0
    for one in rollouts:
        for version in set(one.versions.tolist()):
            mine = one.versions == version
            off = np.abs(logp(policies[version], one) - one.generator_logp)[mine]
            worst = max(worst, off.max())
    return worst


def test_each_token_matches_the_policy_that_its_version_names(policy_server, problems, policies):
    with opened(policy_server.url) as fleet:
        rollouts = sample_over_an_update(fleet, policy_server, problems, exact, policies)
        assert fleet.policy_version == 2 and fleet.stats().retried == 0
    assert len(rollouts) == 128 and all(r.finish_reason != "failed" for r in rollouts)
    assert sum(len(set(r.versions.tolist())) == 2 for r in rollouts) > 16
    assert worst_gap(rollouts, policies) <= CLOSE
    assert worst_gap(rollouts, [policies[0], policies[2], policies[1]]) > APART


def exact(fleet, policies):
    fleet.load_weights(Weights(policies[2]), 2)


def without_head(fleet, policies):
    fleet.load_weights(Weights(policies[2], without="lm_head.weight"), 2)


def one_update_late(fleet, policies):
    fleet.load_weights(Weights(policies[1]), 2)


def with_old_caches(fleet, policies):
    async def pause(server, timeout_s):
        params = {"mode": "keep", "clear_cache": "false"}
        await server.post("/pause", params=params, timeout_s=timeout_s)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transfer, "_pause", pause)
        exact(fleet, policies)


def named_one_early(fleet, policies):
    finish = transfer._finish
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transfer, "_finish", lambda version: finish(version - 1))
        exact(fleet, policies)


@pytest.mark.parametrize(
    "mutant", [without_head, one_update_late, with_old_caches, named_one_early]
)
def test_an_update_that_goes_wrong_leaves_tokens_that_match_no_version(
    policy_server, problems, policies, mutant
):
    with opened(policy_server.url) as fleet:
        rollouts = sample_over_an_update(fleet, policy_server, problems, mutant, policies)
    assert worst_gap(rollouts, policies) > 10 * CLOSE


def row_gap(fleet, policy):
    """Mean distance of the server from the policy, over a row of tokens."""
    row = np.resize(np.arange(4, 20, dtype=np.int32), 64)
    packed = Packed(
        input_ids=row.astype(np.int64),
        position_ids=np.arange(64),
        cu_seqlens=np.array([0, 64], np.int32),
        target_pos=np.arange(1, 64),
    )
    [found] = fleet.logp(row)
    return np.abs(found - policy.logp(packed).numpy()).mean()


@pytest.fixture
def broken_once(monkeypatch):
    """Have the trainer's side of the next update break off within the tensors of one layer."""

    def prepare():
        send, attempts = senders.GlooSender.send, []

        def breaking(self):
            attempts.append(len(self._bucket))
            if len(attempts) > 1:
                return send(self)
            self._bucket = self._bucket[:2]  # the embedding, and q of the first layer's q, k and v
            send(self)
            raise OSError("the network is gone")

        monkeypatch.setattr(senders.GlooSender, "send", breaking)
        return attempts

    return prepare


def test_an_update_in_many_parts_that_breaks_off_is_repeated_whole(
    policy_server, policies, monkeypatch, broken_once
):
    with opened(policy_server.url) as fleet:
        with monkeypatch.context() as patch:
            patch.setattr(transfer, "BUCKET_BYTES", 100_000)
            fleet.load_weights(Weights(policies[1]), 1)
        assert row_gap(fleet, policies[1]) < CLOSE < APART < row_gap(fleet, policies[2])
        attempts = broken_once()
        fleet.load_weights(Weights(policies[2]), 2)
        assert len(attempts) == 2
        assert row_gap(fleet, policies[2]) < CLOSE < APART < row_gap(fleet, policies[1])
        assert fleet.stats().lost == 0


def test_a_server_cannot_be_updated_upon_the_rest_of_a_broken_update(
    policy_server, policies, monkeypatch, broken_once
):
    """Unless it drops the rest first, as it does for the next run that opens it."""

    async def keep(server, timeout_s):
        pass

    with opened(policy_server.url) as fleet, monkeypatch.context() as patch:
        fleet.load_weights(Weights(policies[1]), 1)
        broken_once()
        patch.setattr(transfer, "_drop_half", keep)
        with pytest.raises(EngineError, match="no server of the policy is left"):
            fleet.load_weights(Weights(policies[2]), 2)
    with opened(policy_server.url) as fleet:
        fleet.load_weights(Weights(policies[2]), 2)
        assert row_gap(fleet, policies[2]) < CLOSE


def test_a_server_that_dies_with_requests_in_flight_costs_no_rollout(policy_server, problems):
    proxy = RecordingProxy(policy_server.url)
    with opened(proxy.url, policy_server.url) as fleet:
        undisturbed = sample_during(fleet, policy_server, problems, lambda: None)
        rollouts = sample_during(fleet, policy_server, problems, proxy.kill)
        assert fleet.urls == (policy_server.url,)
        assert fleet.stats().lost == 1 and fleet.stats().retried > 32
    expected = {(r.problem_id, r.index): r for r in undisturbed}
    assert len(rollouts) == len(expected) == 128
    for rollout in rollouts:
        same = expected[rollout.problem_id, rollout.index]
        assert rollout.finish_reason == same.finish_reason != "failed"
        assert np.array_equal(rollout.token_ids, same.token_ids)


def test_a_wrong_token_is_refused_at_the_opening(policy_server, monkeypatch):
    cfg = settings()
    with pytest.raises(EngineError, match=r"HTTP 401.*engine\.token_env"):
        Fleet(
            cfg.model,
            cfg.rollout,
            config.Engine(kind="servers"),
            tokenizer=load_tokenizer(cfg.model),
            weights=cfg.model.path,
            endpoints=Endpoints((policy_server.url,), "wrong"),
        )


def test_a_server_for_files_is_refused_where_weights_go_by_gloo(policy_server):
    with pytest.raises(
        EngineError, match="takes weights by gloo, and this run sends them by files"
    ):
        opened(policy_server.url, transfer="files")
