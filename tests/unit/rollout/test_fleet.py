"""Servers as one engine: groups, retries, lost servers, tokens, and what is said at the opening."""

import gc
import logging
import os
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from policy_servers import CONTROL, PolicyServer, running

from exprl import config
from exprl.data.tokenizer import load_tokenizer
from exprl.errors import ConfigError, EngineError
from exprl.rollout import sampler, transfer, wire
from exprl.rollout import server as servers_module
from exprl.rollout.engine import NO_POLICY
from exprl.rollout.fleet import Fleet
from exprl.rollout.server import Endpoints, find_endpoints
from exprl.types import Message, Prompt

BASE = "examples/division/base"
MODEL = config.Model(path=BASE, dtype="float32")
PROMPTS = [Prompt(f"p{i}", (Message("user", f"{3 + i})17="),)) for i in range(6)]
GENERATE = wire.GENERATE


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(MODEL)


@pytest.fixture(autouse=True)
def hurried(monkeypatch):
    """The same waits, shorter."""
    monkeypatch.setattr(sampler, "FIRST_DELAY_S", 0.01)
    monkeypatch.setattr(servers_module, "HEALTH_PAUSE_S", 0.01)
    monkeypatch.setattr(transfer, "SOON_S", 1.0)


@pytest.fixture
def opened(tokenizer, tmp_path):
    """Open a fleet; it is closed after the test."""
    fleets = []

    def opened(*servers, token=None, room=256, **engine):
        settings = {"kind": "servers", "transfer": "files", "transfer_dir": str(tmp_path / "w")}
        rollout = config.Rollout(max_prompt_tokens=32, max_response_tokens=96, max_num_seqs=room)
        one = Fleet(
            MODEL,
            rollout,
            config.Engine(**settings | engine),
            tokenizer=tokenizer,
            weights=BASE,
            endpoints=Endpoints(tuple(s.url for s in servers), token),
        )
        fleets.append(one)
        return one

    yield opened
    for one in fleets:
        one.close()


def sampled(fleet, prompts=PROMPTS, n=8, seed=5):
    rollouts = fleet.sample(prompts, n, seed, 0.7, 96)
    return {
        (r.problem_id, r.index): (r.token_ids.tolist(), r.generator_logp.tolist()) for r in rollouts
    }


def asked(server):
    """The prompts of the requests to a server, one each."""
    return [tuple(body["token_ids"]) for _, path, _, body in server.seen if path == GENERATE]


def test_a_problems_rollouts_go_to_one_server_and_all_servers_get_their_share(opened):
    with running(PolicyServer(), PolicyServer(), PolicyServer()) as servers:
        rollouts = sampled(opened(*servers))
        assert rollouts.keys() == {(p.problem_id, i) for p in PROMPTS for i in range(8)}
        groups = [set(asked(server)) for server in servers]
        assert [len(group) for group in groups] == [2, 2, 2]
        assert not set.intersection(*groups)
        assert sum(len(asked(server)) for server in servers) == len(rollouts)


def test_each_rollout_has_its_own_seed_whatever_server_samples_it(opened):
    with running(PolicyServer(), PolicyServer()) as (one, other):
        together, alone = sampled(opened(one, other)), sampled(opened(one))
        assert together == alone != sampled(opened(one), seed=6)
        seeds = {body["sampling_params"]["seed"] for _, p, _, body in one.seen if p == GENERATE}
        assert len(seeds) == 2 * len(PROMPTS) * 8


def test_no_server_gets_more_groups_than_it_has_room_for(opened):
    with running(PolicyServer()) as (server,):
        server.paused = True
        fleet = opened(server, room=10)
        results = []
        thread = threading.Thread(target=lambda: results.append(sampled(fleet)))
        thread.start()
        wait_for(lambda: len(asked(server)) == 16)  # two groups of 8 fill its 10 seats
        time.sleep(0.2)
        assert len(asked(server)) == 16
        with server.changed:
            server.paused = False
            server.changed.notify_all()
        thread.join()
        assert len(results[0]) == 48


def wait_for(condition):
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until, "it never came true"
        time.sleep(0.01)


@pytest.mark.parametrize("fault", [500, 503, 429, "drop"])
def test_a_rollout_that_fails_for_a_while_is_asked_again_and_is_the_same(opened, fault):
    with running(PolicyServer(), PolicyServer()) as (one, other):
        expected = sampled(opened(one, other))
        one.fail(GENERATE, None, fault, fault, None, fault)
        fleet = opened(one, other)
        assert sampled(fleet) == expected
        assert fleet.stats().retried == 3 and fleet.stats().lost == 0


def test_a_request_without_an_answer_in_time_is_asked_again(opened):
    with running(PolicyServer()) as (server,):
        expected = sampled(opened(server))
        server.fail(GENERATE, "hang", "hang")
        fleet = opened(server, request_timeout_s=1.0)
        assert sampled(fleet) == expected
        assert fleet.stats().retried == 2 and fleet.stats().lost == 0


def test_a_rollout_that_fails_each_time_is_a_failed_rollout_and_no_error(opened):
    with running(PolicyServer()) as (server,):
        server.fail(GENERATE, *[500] * sampler.MAX_TRIES)
        [rollout] = opened(server).sample(PROMPTS[:1], 1, 5, 0.7, 96)
        assert rollout.finish_reason == "failed" and len(rollout.token_ids) == 0


def test_what_a_server_refuses_is_an_error_in_its_own_words(opened):
    with running(PolicyServer()) as (server,):
        fleet = opened(server)
        server.fail(GENERATE, None, 400)
        with pytest.raises(EngineError, match=r"HTTP 400: so it was told"):
            sampled(fleet)
        assert len(sampled(fleet)) == 48  # the fleet goes on


def test_a_dead_server_is_counted_once_and_the_others_take_its_rollouts(opened, caplog):
    with running(PolicyServer(), PolicyServer()) as (one, other):
        expected = sampled(opened(one, other))
        fleet = opened(one, other)
        one.paused = True  # its rollouts are in flight when it dies
        results = []
        thread = threading.Thread(target=lambda: results.append(sampled(fleet)))
        before = len(asked(one))
        thread.start()
        wait_for(lambda: len(asked(one)) - before == 24)
        one.kill()
        thread.join()
        assert results == [expected]
        assert fleet.stats().lost == 1 and fleet.urls == (other.url,)
        assert caplog.text.count("lost a server of the policy") == 1
        assert sampled(fleet) == expected and fleet.stats().lost == 1


def test_an_engine_that_died_behind_a_server_that_answers_is_lost_too(opened):
    with running(PolicyServer(), PolicyServer()) as (one, other):
        fleet = opened(one, other)
        one.died = "EngineCore encountered an issue"
        assert len(sampled(fleet)) == 48
        assert fleet.urls == (other.url,)


def test_without_any_server_left_the_error_says_what_to_do(opened):
    with running(PolicyServer()) as (server,):
        fleet = opened(server)
        server.kill()
        with pytest.raises(EngineError, match=r"no server of the policy is left .*start the same"):
            sampled(fleet)


def test_a_server_that_is_lost_by_name_gives_its_rollouts_up_at_once(opened):
    with running(PolicyServer(), PolicyServer()) as (one, other):
        fleet = opened(one, other)
        one.paused = True
        results = []
        thread = threading.Thread(target=lambda: results.append(sampled(fleet)))
        thread.start()
        wait_for(lambda: len(asked(one)) == 24)
        fleet.lose(one.url, "killed")
        thread.join()
        assert len(results[0]) == 48 and fleet.stats().lost == 1


def test_several_threads_sample_at_once(opened):
    with running(PolicyServer(), PolicyServer()) as servers:
        fleet = opened(*servers)
        expected = [sampled(fleet, seed=seed) for seed in range(4)]
        found = [None] * 4

        def run(seed):
            found[seed] = sampled(fleet, seed=seed)

        threads = [threading.Thread(target=run, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == expected


def test_a_caller_that_leaves_early_ends_its_requests(opened):
    with running(PolicyServer()) as (server,):
        fleet = opened(server)
        server.paused = True
        rollouts = fleet.sample(PROMPTS, 8, 5, 0.7, 96)
        server.fail(GENERATE, 400)
        with pytest.raises(EngineError):
            next(rollouts)
        del rollouts
        gc.collect()
        wait_for(lambda: fleet._balance._load.total() == 0)


def test_the_token_goes_with_every_request_and_stands_nowhere_else(opened, caplog):
    caplog.set_level(logging.DEBUG)
    token = "s3cr3t-t0ken"
    with running(PolicyServer(token=token)) as (server,):
        fleet = opened(server, token=token)
        sampled(fleet)
        fleet.load_weights(Weights(), 1)
        fleet.logp(np.array([1, 5, 6], np.int32))
        assert {headers.get("authorization") for _, _, headers, _ in server.seen} == {
            f"Bearer {token}"
        }
        assert token not in repr(fleet) + repr(vars(fleet)) + repr(Endpoints((), token))
        server.fail(GENERATE, 400)
        with pytest.raises(EngineError) as caught:
            sampled(fleet)
        assert token not in str(caught.value) + caplog.text
        with pytest.raises(EngineError, match=r"HTTP 401: another token, please.*token_env") as c:
            opened(server, token="wr0ng")
        assert "wr0ng" not in str(c.value)


def test_the_variable_of_the_token_must_be_set(monkeypatch):
    engine = config.Engine(kind="servers", urls=("http://127.0.0.1:1",), token_env="POLICY_TOKEN")
    with pytest.raises(ConfigError, match="POLICY_TOKEN, which is not set"):
        find_endpoints(engine)
    monkeypatch.setenv("POLICY_TOKEN", "x")
    assert find_endpoints(engine) == Endpoints(engine.urls, "x")


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({"version": "0.25.1"}, r"runs vLLM 0\.25\.1, and exprl knows vLLM 0\.32"),
        ({"max_model_len": 127}, r"room for 127 tokens .* is 128"),
        ({"transfer": "gloo"}, r"takes weights by gloo, and this run sends them by files"),
        ({"transfer": None}, r"takes weights by no way"),
        ({"dtype": "torch.bfloat16"}, r"computes in bfloat16"),
        ({"logprobs_mode": "raw_logprobs"}, r"logprobs_mode = raw_logprobs"),
    ],
)
def test_a_server_that_does_not_fit_is_refused_at_the_opening(opened, facts, says):
    with running(PolicyServer(), PolicyServer(**facts)) as (fits, other):
        with pytest.raises(EngineError, match=says) as caught:
            opened(fits, other)
        assert other.url in str(caught.value) and "again" in str(caught.value)


def test_a_server_that_is_not_there_is_named_at_the_opening(opened):
    with running(PolicyServer(), PolicyServer()) as (there, gone):
        gone.kill()
        with pytest.raises(
            EngineError, match=rf"no server of the policy at {gone.url}.*exprl serve"
        ):
            opened(there, gone)


def test_servers_on_other_weights_are_given_the_policys_first(opened):
    with running(PolicyServer(), PolicyServer(model="another")) as (fits, other):
        assert opened(fits).policy_version == 0
        assert opened(fits, other).policy_version == NO_POLICY
        fits.version = "7"  # of an earlier run
        assert opened(fits).policy_version == NO_POLICY


class Weights:
    """A model of three tensors with a tied head; `order` records how often it was walked."""

    def __init__(self, scale=1.0):
        self.embed = torch.arange(6.0).reshape(2, 3) * scale
        self.norm = torch.ones(3, dtype=torch.bfloat16) * scale
        self.walks = 0

    def __iter__(self):
        self.walks += 1
        yield "model.embed_tokens.weight", self.embed
        yield "model.norm.weight", self.norm
        yield "lm_head.weight", self.embed


def assert_holds(server, weights, version):
    assert server.version == str(version) and not server.paused and not server.died
    assert {name: value.tolist() for name, value in server.weights.items()} == {
        name: value.tolist() for name, value in weights
    }


@pytest.fixture(params=["files", "gloo"])
def kind(request):
    return request.param


@pytest.fixture
def small_buckets(monkeypatch):
    """So that an update is of several parts."""
    monkeypatch.setattr(transfer, "BUCKET_BYTES", 16)


def test_all_servers_get_all_weights_under_a_pause_and_no_file_stays(
    opened, kind, tmp_path, small_buckets
):
    with running(PolicyServer(transfer=kind), PolicyServer(transfer=kind)) as servers:
        fleet = opened(*servers, transfer=kind)
        for version in (1, 2):
            weights = Weights(version)
            fleet.load_weights(weights, version)
            assert fleet.policy_version == version and weights.walks == 1
            for server in servers:
                assert_holds(server, weights, version)
        update = ["/pause", *["/start_weight_update"], *["/update_weights"] * 3]
        update += ["/finish_weight_update", "/resume"]
        init = ["/init_weight_transfer_engine"] if kind == "gloo" else []
        for server in servers:
            assert server.paths() == [update[0], *init, *update[1:], *update]
            assert "mode=keep" in server.pauses[0] and "clear_cache=true" in server.pauses[0]
        assert not (tmp_path / "w").exists() or not list((tmp_path / "w").iterdir())
        assert fleet.stats().pause_s >= fleet.stats().send_s > 0


def test_what_a_killed_run_left_of_its_weights_is_deleted(opened, tmp_path):
    folder = tmp_path / "w"
    folder.mkdir()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left, used, elsewhere = (
        folder / f"exprl-weights-{host}-{pid}-x.safetensors"
        for host, pid in (
            (socket.gethostname(), ended.pid),
            (socket.gethostname(), os.getpid()),
            ("another", ended.pid),
        )
    )
    for path in (left, used, elsewhere):
        path.touch()
    with running(PolicyServer()) as servers:
        opened(*servers)
    assert not left.exists() and used.exists() and elsewhere.exists()


def test_rollouts_in_flight_wait_for_the_update_and_name_their_versions(opened):
    with running(PolicyServer()) as (server,):
        fleet = opened(server)
        first = list(fleet.sample(PROMPTS[:1], 4, 5, 0.7, 96))
        assert {v for r in first for v in r.versions} == {0}
        fleet.load_weights(Weights(), 3)
        second = list(fleet.sample(PROMPTS[:1], 4, 5, 0.7, 96))
        assert {v for r in second for v in r.versions} == {3}


@pytest.mark.parametrize(
    "path",
    ["/pause", "/start_weight_update", "/update_weights", "/finish_weight_update", "/resume"],
)
@pytest.mark.parametrize("fault", [500, "drop"])
def test_an_update_that_fails_is_repeated_whole_before_anything_is_sampled(
    opened, kind, path, fault, small_buckets
):
    with running(PolicyServer(transfer=kind), PolicyServer(transfer=kind)) as servers:
        fleet = opened(*servers, transfer=kind, sync_timeout_s=20)
        results = []
        thread = threading.Thread(target=lambda: results.append(sampled(fleet, n=2)))
        servers[0].fail(path, *[None] * (path == "/update_weights"), fault)
        thread.start()
        weights = Weights()
        fleet.load_weights(weights, 1)
        thread.join()
        for server in servers:
            assert_holds(server, weights, 1)
        assert len(results[0]) == 12


def test_a_server_that_fails_twice_is_lost_and_never_resumed(opened, kind):
    with running(PolicyServer(transfer=kind), PolicyServer(transfer=kind)) as (bad, good):
        fleet = opened(bad, good, transfer=kind, sync_timeout_s=20)
        bad.fail("/finish_weight_update", 500, 500, 500)
        fleet.load_weights(Weights(), 1)
        assert fleet.urls == (good.url,) and fleet.stats().lost == 1
        assert bad.paused and "/resume" not in bad.paths()
        assert_holds(good, Weights(), 1)


def test_a_server_that_dies_during_an_update_leaves_the_group_of_the_others(opened, kind):
    with running(*(PolicyServer(transfer=kind) for _ in range(3))) as (one, dies, other):
        fleet = opened(one, dies, other, transfer=kind, sync_timeout_s=20)
        fleet.load_weights(Weights(), 1)
        dies.kill()
        fleet.load_weights(Weights(2.0), 2)
        for server in (one, other):
            assert_holds(server, Weights(2.0), 2)
        assert fleet.urls == (one.url, other.url) and fleet.stats().lost == 1


def test_a_server_that_joins_is_sampled_from_after_the_next_update(opened, kind):
    with running(PolicyServer(transfer=kind), PolicyServer(transfer=kind)) as (one, joins):
        fleet = opened(one, transfer=kind)
        fleet.load_weights(Weights(), 1)
        fleet.join(joins.url)
        sampled(fleet)
        assert not asked(joins)
        fleet.load_weights(Weights(2.0), 2)
        assert_holds(joins, Weights(2.0), 2)
        sampled(fleet)
        assert asked(joins) and fleet.urls == (one.url, joins.url)


def test_a_lost_server_that_answers_again_joins_by_itself(opened):
    with running(PolicyServer(), PolicyServer()) as (one, other):
        fleet = opened(one, other)
        fleet.lose(one.url, "its cable was out")
        assert fleet.urls == (other.url,)
        fleet.load_weights(Weights(), 1)
        assert set(fleet.urls) == {one.url, other.url}
        assert_holds(one, Weights(), 1)


def test_a_server_left_in_the_middle_of_another_runs_update_gets_a_whole_one(opened):
    with running(PolicyServer()) as (server,):
        server.paused = server.started = True
        server.coming["lm_head.weight"] = torch.zeros(1)
        fleet = opened(server)
        assert fleet.policy_version == NO_POLICY
        fleet.load_weights(Weights(), 0)
        assert_holds(server, Weights(), 0)


def test_weights_that_can_be_walked_only_once_are_refused(opened):
    with running(PolicyServer()) as (server,):
        with pytest.raises(TypeError, match="walks the weights again"):
            opened(server).load_weights(iter(Weights()), 1)
        assert not set(server.paths()) & set(CONTROL)


def test_each_server_says_its_own_log_probs(opened):
    with running(PolicyServer(), PolicyServer()) as servers:
        found = opened(*servers).logp(np.array([1, 5, 6, 7], np.int32))
        assert [one.tolist() for one in found] == [[-1.0] * 3] * 2
