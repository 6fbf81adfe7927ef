"""The viewer as a process: its port, its password, its end."""

from __future__ import annotations

import base64
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from view_runs import scored, write_step

from exprl.errors import ConfigError
from exprl.view import server

TOKEN = "not-a-secret"
Start = Callable[..., tuple["subprocess.Popen[str]", str]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("served")
    write_step(run_dir, 1, [scored("p", 0, (5, 1))])
    return run_dir


@pytest.fixture
def start(run: Path) -> Iterator[Start]:
    """Starts `exprl view RUN ...`; gives the process and what it says first."""
    viewers: list[subprocess.Popen[str]] = []

    def started(*words: str, token: str = "") -> tuple[subprocess.Popen[str], str]:
        viewer = subprocess.Popen(
            [sys.executable, "-m", "exprl", "view", str(run), *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "EXPRL_TOKEN": token},
        )
        viewers.append(viewer)
        assert viewer.stdout is not None
        return viewer, viewer.stdout.readline()

    yield started
    for viewer in viewers:
        viewer.kill()
        viewer.wait()


def get(url: str, headers: dict[str, str] | None = None) -> int:
    """The status of an answer."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers or {})) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as refused:
        return refused.code


def test_it_says_where_it_is_answers_and_ends_with_ctrl_c(start: Start) -> None:
    viewer, said = start("--port", "0")
    [url] = re.findall(r"http://127\.0\.0\.1:\d+/", said)
    assert get(url) == 200
    viewer.send_signal(signal.SIGINT)
    rest, _ = viewer.communicate(timeout=20)
    assert (viewer.returncode, rest) == (0, "")


def test_a_token_of_the_environment_is_asked_for_and_never_said(start: Start) -> None:
    viewer, said = start("--port", "0", token=TOKEN)
    [url] = re.findall(r"http://\S+/", said)
    assert get(url) == get(f"{url}static/view.js") == get(f"{url}live") == 401
    sent = base64.b64encode(f"anybody:{TOKEN}".encode()).decode()
    assert get(url, {"Authorization": f"Basic {sent}"}) == 200
    viewer.send_signal(signal.SIGINT)
    rest, _ = viewer.communicate(timeout=20)
    assert "EXPRL_TOKEN" in said
    assert TOKEN not in said + rest


def test_it_does_not_listen_for_other_machines_without_a_token(start: Start) -> None:
    viewer, said = start("--host", "0.0.0.0")
    assert "EXPRL_TOKEN" in said
    assert viewer.wait(timeout=20) == 2


def test_the_usual_port_gives_way_to_the_next_one_and_a_chosen_one_does_not() -> None:
    with server.listen("127.0.0.1", None) as first, server.listen("127.0.0.1", None) as second:
        ports = [first.getsockname()[1], second.getsockname()[1]]
        assert server.PORT <= ports[0] < ports[1] < server.PORT + 20
        with pytest.raises(ConfigError, match=f"port {ports[0]} of 127.0.0.1 is taken"):
            server.listen("127.0.0.1", ports[0])


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"cannot listen on 192\.0\.2\.7"):
        server.listen("192.0.2.7", 0)


def test_it_listens_on_ipv6_too() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"this machine has no IPv6: {error}")
    with server.listen("::1", 0) as listener:
        assert listener.family == socket.AF_INET6
