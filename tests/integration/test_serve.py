"""`exprl serve`: a server of the policy that its token guards, and that leaves nothing behind."""

import subprocess
import sys

import psutil
import pytest
import servers

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("server")]

PROMPT = [1, 5, 6, 7, 8, 9]
CONTROL = {"/pause", "/resume", "/start_weight_update", "/update_weights", "/collective_rpc"}


def generate(server, **params):
    sampling = {"temperature": 1.0, "top_k": -1, "max_tokens": 16, "logprobs": 0, "seed": 7}
    body = {"token_ids": PROMPT, "sampling_params": sampling | {"detokenize": False} | params}
    status, reply = server.ask("/inference/v1/generate", body)
    assert status == 200, reply
    return reply["choices"][0]


def test_every_path_asks_for_the_token(policy_server):
    status, schema = policy_server.ask("/openapi.json")
    assert status == 200
    paths = schema["paths"]
    assert paths.keys() >= CONTROL | {"/health", "/weight_info", "/inference/v1/generate"}
    asked = [(path, method) for path, methods in paths.items() for method in methods]
    asked += [(path, "get") for path in ("/metrics", "/docs", "/openapi.json", "/nowhere", "/ping")]
    for path, method in asked:
        for token in (None, "another"):
            status, reply = policy_server.ask(path, method=method.upper(), token=token)
            assert status == 401, (path, method, reply)
    assert policy_server.ask("/health")[0] == 200
    assert policy_server.ask("/is_paused")[1] == {"is_paused": False}  # no /pause came through


def test_only_this_machine_can_reach_the_server(policy_server):
    listening = [
        one.laddr.ip
        for process in servers.family_of(policy_server.process.pid)
        for one in process.net_connections("inet")
        if one.status == psutil.CONN_LISTEN
    ]
    assert listening and set(listening) <= {"127.0.0.1", "::1"}


def test_the_token_stands_in_no_argument_and_no_log(policy_server):
    for process in servers.family_of(policy_server.process.pid):
        assert servers.TOKEN not in " ".join(process.cmdline())
    assert servers.TOKEN not in policy_server.log.read_text()
    assert servers.TOKEN not in str(policy_server.line)


def test_the_line_names_the_server(policy_server):
    assert policy_server.line["role"] == "policy"
    assert policy_server.line["pid"] == policy_server.process.pid
    assert policy_server.url.startswith("http://127.0.0.1:")


def test_a_policy_server_gives_tokens_with_their_log_probs_and_version(policy_server):
    first = generate(policy_server)
    assert len(first["token_ids"]) == len(first["logprobs"]["content"]) > 0
    assert all(one["logprob"] <= 0 for one in first["logprobs"]["content"])
    assert first["weight_versions"][0]["start"] == 0
    assert generate(policy_server)["token_ids"] == first["token_ids"]
    assert generate(policy_server, seed=8)["token_ids"] != first["token_ids"]


LEADER = """
import subprocess, sys
server = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE)
print(server.pid, flush=True)
server.wait()
"""


def test_a_server_that_comes_up_ends_when_its_leader_is_killed(tmp_path):
    command = [sys.executable, "-m", "exprl", "serve", servers.MINIATURE, "--with-parent"]
    with (tmp_path / "log").open("w") as log:
        leader = subprocess.Popen(
            [sys.executable, "-c", LEADER, *command],
            cwd=servers.REPO,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    family = []
    try:
        family = servers.wait_for_engine(int(leader.stdout.readline()))
        leader.kill()
        leader.wait()
        assert servers.left_of(family) == []
    finally:
        leader.kill()
        leader.wait()
        leader.stdout.close()
        end(family)


def test_an_engine_that_comes_up_ends_when_its_server_is_killed(tmp_path):
    process = servers.start_server(tmp_path / "log")
    try:
        family = servers.wait_for_engine(process.pid)
        process.kill()
        process.wait()
        assert servers.left_of(family) == []
    finally:
        end(family)
        servers.end_server(process)


def end(family):
    for one in family:
        if one.is_running():
            one.kill()


def test_a_server_ends_with_an_error_when_its_engine_is_killed(tmp_path):
    with servers.served(tmp_path) as server:
        family = servers.family_of(server.process.pid)
        (engine,) = [one for one in family if servers.is_engine(one)]
        engine.kill()
        assert servers.left_of(family) == []
        assert server.process.wait() == 1
        assert "its engine died" in server.log.read_text()


def test_a_server_that_others_reach_is_not_started_without_a_token(exprl, monkeypatch):
    monkeypatch.delenv("EXPRL_TOKEN", raising=False)
    done = exprl("serve", servers.MINIATURE, "--host", "0.0.0.0")
    assert done.returncode == 2
    assert "EXPRL_TOKEN" in done.stderr and "--host 0.0.0.0" in done.stderr
