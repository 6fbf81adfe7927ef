"""How a run's own servers are looked after: small programs stand where vLLM would."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from exprl import config
from exprl.cluster.local import LocalCluster, LocalProcess
from exprl.cluster.placement import Need, Seat
from exprl.errors import ProcessError
from exprl.run import servers
from exprl.run.servers import MAX_STARTS, Servers, judge_of

TOKEN = "of-this-run"
SERVER = """
import json, os, sys
words = dict(zip(sys.argv[1::2], sys.argv[2::2]))
port = int(words["--port"]) or 20000 + os.getpid() % 10000
print(json.dumps({"url": f"http://{words['--host']}:{port}"}), flush=True)
print("pid", os.getpid(), "token of", len(os.environ["EXPRL_TOKEN"]), flush=True)
sys.stdin.read()
"""


class Programs:
    """A cluster of this machine that starts a small program in place of `exprl serve`."""

    def __init__(self, folder: Path, code: str = SERVER) -> None:
        self.code = code
        self.argvs: list[Sequence[str]] = []
        needs = [Need("rank", 0, 1), Need("policy", 0, 1), Need("policy", 1, 1)]
        self._local = LocalCluster(needs, folder, grace_s=0.3)
        self.close = self._local.close

    @property
    def seats(self) -> Mapping[str, Seat]:
        return self._local.seats

    def start(self, name: str, argv: Sequence[str], env: Mapping[str, str]) -> LocalProcess:
        self.argvs.append(argv)
        words = argv[argv.index("--host") : -1]
        return self._local.start(name, ["-S", "-c", self.code, *words], env)


class Fleet:
    """What the engine of servers is told."""

    def __init__(self, urls: Sequence[str]) -> None:
        self.urls = tuple(urls)
        self.said: list[tuple[str, str]] = []

    def join(self, url: str) -> None:
        self.said.append(("join", url))
        self.urls += (url,)

    def lose(self, url: str, why: str) -> None:
        self.said.append(("lose", url))
        self.urls = tuple(u for u in self.urls if u != url)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "LOOK_S", 0.02)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Programs]:
    opened = Programs(tmp_path / "logs")
    yield opened
    opened.close()


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def started(cluster: Programs, notes: list[str]) -> Iterator[Servers]:
    of_policy = Servers(cluster, "policy", lambda: ["run.toml"], TOKEN, notes.append)
    yield of_policy
    of_policy.close()


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)


def pid_of(folder: Path, name: str) -> int:
    lines = (folder / "logs" / f"{name}.log").read_text().splitlines()
    return int([line for line in lines if line.startswith("pid")][-1].split()[1])


def kill(folder: Path, name: str) -> None:
    until(lambda: "pid" in (folder / "logs" / f"{name}.log").read_text())
    os.kill(pid_of(folder, name), 9)


def test_each_seat_of_the_role_has_a_server_and_its_url_comes_back(
    cluster: Programs, started: Servers
) -> None:
    urls = started.wait()
    assert len(set(urls)) == 2
    assert all(url.startswith("http://127.0.0.1:") for url in urls)
    assert started.announce().startswith("starting 2 policy servers; log in ")


def test_the_token_is_in_no_argument(cluster: Programs, started: Servers) -> None:
    assert cluster.argvs
    assert not any(TOKEN in word for argv in cluster.argvs for word in argv)


def test_a_server_that_does_not_start_shows_its_log(tmp_path: Path) -> None:
    cluster = Programs(tmp_path, "raise SystemExit('no room for the KV cache')")
    started = Servers(cluster, "policy", lambda: ["run.toml"], TOKEN, print)
    with pytest.raises(ProcessError, match="no room for the KV cache"):
        started.wait()
    cluster.close()


def test_a_lost_server_is_started_again_at_its_url_and_joins(
    tmp_path: Path, started: Servers, notes: list[str]
) -> None:
    urls = started.wait()
    fleet = Fleet(urls)
    started.watch(fleet)
    kill(tmp_path, "policy-1")
    until(lambda: ("join", urls[1]) in fleet.said)
    assert fleet.said == [("lose", urls[1]), ("join", urls[1])]
    assert any("policy-1 on 127.0.0.1 was lost" in note for note in notes)
    assert set(fleet.urls) == set(urls)


def test_one_that_lives_and_that_the_fleet_gave_up_is_started_again(
    tmp_path: Path, started: Servers
) -> None:
    urls = started.wait()
    fleet = Fleet(urls)
    started.watch(fleet)
    until(lambda: all(server.taken for server in started._servers))
    before = pid_of(tmp_path, "policy-0")
    fleet.urls = urls[1:]  # it took no weights
    until(lambda: ("join", urls[0]) in fleet.said)
    assert pid_of(tmp_path, "policy-0") != before


def test_a_server_that_waits_for_its_weights_is_not_lost(started: Servers) -> None:
    """It joins at the next update, which may be a long step away."""
    urls = started.wait()
    fleet = Fleet(urls[:1])
    started.watch(fleet)
    time.sleep(0.3)
    assert fleet.said == []
    assert all(not server.restarts for server in started._servers)


def test_one_that_is_lost_again_and_again_is_given_up_and_the_others_go_on(
    cluster: Programs, tmp_path: Path, started: Servers, notes: list[str]
) -> None:
    urls = started.wait()
    fleet = Fleet(urls)
    started.watch(fleet)
    cluster.code = "raise SystemExit('the driver is gone')"
    kill(tmp_path, "policy-0")
    until(lambda: any("the run goes on without it" in note for note in notes))
    given_up = next(note for note in notes if "goes on without it" in note)
    assert "the driver is gone" in given_up
    assert sum("policy-0 on 127.0.0.1 was lost" in note for note in notes) == MAX_STARTS
    assert fleet.urls == (urls[1],)


def test_after_an_hour_it_is_tried_again(
    cluster: Programs,
    tmp_path: Path,
    started: Servers,
    notes: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    urls = started.wait()
    fleet = Fleet(urls)
    started.watch(fleet)
    cluster.code = "raise SystemExit(1)"
    kill(tmp_path, "policy-0")
    until(lambda: any("the run goes on without it" in note for note in notes))
    cluster.code = SERVER
    monkeypatch.setattr(servers, "PER_S", 0.0)
    until(lambda: ("join", urls[0]) in fleet.said)


def test_the_judges_section_names_its_servers_and_not_their_key() -> None:
    section = config.Judge(serve=config.JudgeServe(model="judge"), model="judge")
    with judge_of(section, ["http://127.0.0.1:1"], TOKEN) as filled:
        assert filled.endpoints == ("http://127.0.0.1:1/v1",)
        assert os.environ[str(filled.api_key_env)] == TOKEN
        assert TOKEN not in repr(filled)
    assert filled.api_key_env not in os.environ
