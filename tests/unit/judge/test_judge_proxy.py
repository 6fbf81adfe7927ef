"""Proxies that the environment names: what goes through them, what does not, and who sees what."""

import base64
import json
import logging
import socket
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from exprl.errors import ConfigError
from exprl.judge import Judge, JudgeItem, JudgeSettings, Verdict

KEY = "sk-no-real-key"
PASSWORD = "hush%21"
BASIC = base64.b64encode(b"someone:hush!").decode()
ANSWER = json.dumps({"choices": [{"message": {"content": "Score: 4"}, "finish_reason": "stop"}]})
VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


class JudgeHandler(BaseHTTPRequestHandler):
    """A judge that keeps the head of every request."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.seen.append((self.path, dict(self.headers)))
        self.send_response(200)
        self.send_header("Content-Length", str(len(ANSWER)))
        self.end_headers()
        self.wfile.write(ANSWER.encode())

    def log_message(self, *_: object) -> None:
        pass


class ProxyHandler(JudgeHandler):
    """A proxy for which every host is the one judge; it may ask for a password, and repeats it."""

    def do_POST(self) -> None:
        self.server.seen.append((self.path, dict(self.headers)))
        if not self.allowed():
            return
        body = self.rfile.read(int(self.headers["Content-Length"]))
        path = self.path.removeprefix("http://judge.example")
        with socket.create_connection(self.server.judge) as upstream:
            kept = [f"{k}: {v}" for k, v in self.headers.items() if k != "proxy-authorization"]
            head = "\r\n".join([f"POST {path} HTTP/1.1", *kept, "connection: close"])
            upstream.sendall(head.encode() + b"\r\n\r\n" + body)
            while data := upstream.recv(1 << 16):
                self.wfile.write(data)
        self.close_connection = True

    def do_CONNECT(self) -> None:
        self.server.seen.append((self.path, dict(self.headers)))
        if not self.allowed():
            return
        self.send_response(200)
        self.end_headers()
        with socket.create_connection(self.server.judge) as upstream:
            back = threading.Thread(target=copy, args=(upstream, self.connection))
            back.start()
            copy(self.connection, upstream)
            back.join()
        self.close_connection = True

    def allowed(self) -> bool:
        given = self.headers["Proxy-Authorization"]
        if self.server.password is None or given == f"Basic {self.server.password}":
            return True
        said = f"not allowed: {given}"
        self.send_response(407)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said.encode())
        return False


def copy(source: socket.socket, target: socket.socket) -> None:
    """Passes bytes on until the source ends, and tells the target so."""
    try:
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass


class Server(ThreadingHTTPServer):
    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.judge: tuple[str, int] | None = None
        self.password: str | None = None
        threading.Thread(target=self.serve_forever, daemon=True).start()


@pytest.fixture
def judge():
    with Server(JudgeHandler) as server:
        yield server
        server.shutdown()


@pytest.fixture
def proxy(judge, monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    with Server(ProxyHandler) as server:
        server.judge = judge.server_address
        yield server
        server.shutdown()


def grade(url: str, monkeypatch: pytest.MonkeyPatch, **settings: object) -> Verdict:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    chosen = {"view": "outcome", "api_key_env": "JUDGE_KEY", "attempts": 1, "outage_s": 1.0}
    chosen |= {"kv_tokens": 0}
    with Judge(JudgeSettings((url,), "m", **(chosen | settings))) as judge:
        (graded,) = judge.submit([JudgeItem("0", "2 + 2?", None, ("4",))]).result()
    return graded.verdicts[0]


def address(proxy: Server, user: str = "") -> str:
    return f"http://{user}127.0.0.1:{proxy.server_port}"


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
def test_a_plain_request_goes_to_the_proxy_with_the_whole_address(name, judge, proxy, monkeypatch):
    monkeypatch.setenv(name, address(proxy))
    verdict = grade("http://judge.example/v1", monkeypatch)
    assert (verdict.status, verdict.grade) == ("ok", 4)
    ((asked, _),) = proxy.seen
    assert asked == "http://judge.example/v1/chat/completions"
    ((path, headers),) = judge.seen
    assert (path, headers["host"]) == ("/v1/chat/completions", "judge.example")
    assert headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"])
def test_https_goes_through_a_tunnel_in_which_the_proxy_sees_no_key(
    name, judge, proxy, certificate, monkeypatch
):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    judge.socket = context.wrap_socket(judge.socket, server_side=True)
    proxy.password = BASIC
    monkeypatch.setenv(name, address(proxy, f"someone:{PASSWORD}@"))
    verdict = grade("https://judge.example/v1", monkeypatch, ca_file=str(certificate[0]))
    assert (verdict.status, verdict.grade) == ("ok", 4)
    assert proxy.seen
    for asked, headers in proxy.seen:  # one tunnel for the grade, one for the list of models
        assert asked == "judge.example:443"
        assert headers["Proxy-Authorization"] == f"Basic {BASIC}"
        assert KEY not in str(headers)
    ((path, headers),) = judge.seen
    assert path == "/v1/chat/completions" and headers["authorization"] == f"Bearer {KEY}"
    assert BASIC not in str(headers)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_refused_password_is_told_and_not_shown(scheme, judge, proxy, monkeypatch, caplog):
    proxy.password = "another"
    monkeypatch.setenv("ALL_PROXY", address(proxy, f"someone:{PASSWORD}@"))
    with caplog.at_level(logging.DEBUG):
        verdict = grade(f"{scheme}://judge.example/v1", monkeypatch)
    assert verdict.status == "http_error" and judge.seen == []
    assert "407" in verdict.error or "authorization required" in verdict.error
    for secret in (KEY, PASSWORD, "hush!", BASIC):
        assert secret not in f"{verdict} {caplog.text}"


@pytest.mark.parametrize("excluded", ["judge.example", "example", ".example", "other, *"])
def test_no_proxy_is_asked_straight(excluded, proxy, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", address(proxy))
    monkeypatch.setenv("NO_PROXY", excluded)
    verdict = grade("http://judge.example/v1", monkeypatch, connect_timeout_s=2.0)
    assert verdict.status == "http_error" and proxy.seen == []


def test_a_server_on_this_machine_is_asked_straight(judge, proxy, monkeypatch):
    monkeypatch.setenv("ALL_PROXY", address(proxy))
    for host in ("127.0.0.1", "localhost"):
        assert grade(f"http://{host}:{judge.server_port}/v1", monkeypatch).grade == 4
    assert proxy.seen == [] and len(judge.seen) == 2


def test_a_dead_proxy_is_named_without_its_password(proxy, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        monkeypatch.setenv("HTTP_PROXY", f"http://someone:{PASSWORD}@127.0.0.1:{port}")
        verdict = grade("http://judge.example/v1", monkeypatch)
    assert f"through the proxy 127.0.0.1:{port}" in verdict.error
    assert PASSWORD not in verdict.error


@pytest.mark.parametrize("value", ["socks5://127.0.0.1:1080", "://someone:hush%21@nowhere"])
def test_a_proxy_that_cannot_be_used_is_refused_by_name(value, proxy, monkeypatch):
    monkeypatch.setenv("ALL_PROXY", value)
    with pytest.raises(ConfigError, match="proxy") as refused:
        Judge(JudgeSettings(("http://judge.example/v1",), "m"))
    assert PASSWORD not in str(refused.value)
    Judge(JudgeSettings(("http://127.0.0.1:1/v1",), "m"))
