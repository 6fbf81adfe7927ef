"""TLS: a server with a certificate of its own is trusted where `ca_file` says so; keys stay put."""

import json
import ssl
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from exprl.errors import ConfigError
from exprl.judge import Judge, JudgeItem, JudgeSettings, Verdict

KEY = "sk-no-real-key"
ANSWER = json.dumps({"choices": [{"message": {"content": "Score: 4"}, "finish_reason": "stop"}]})


class Recording(ThreadingHTTPServer):
    """Keeps the Authorization header of every request; `redirect` sends them elsewhere."""

    def __init__(self, redirect: str | None = None) -> None:
        self.keys: list[str | None] = []
        self.redirect = redirect
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Recording

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.keys.append(self.headers["Authorization"])
        self.send_response(307 if self.server.redirect else 200)
        if self.server.redirect:
            self.send_header("Location", self.server.redirect)
        self.send_header("Content-Length", str(len(ANSWER)))
        self.end_headers()
        self.wfile.write(ANSWER.encode())

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(certificate):
    with Recording() as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        yield server
        server.shutdown()


@pytest.fixture
def secure(certificate):
    with serving(certificate) as server:
        yield server


def grade(url: str, monkeypatch: pytest.MonkeyPatch, **settings: object) -> Verdict:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    chosen = {"view": "outcome", "api_key_env": "JUDGE_KEY", "attempts": 1, "outage_s": 1.0}
    with Judge(JudgeSettings((url,), "m", **(chosen | settings))) as judge:
        (graded,) = judge.submit([JudgeItem("0", "2 + 2?", None, ("4",))]).result()
    return graded.verdicts[0]


def test_a_server_with_a_certificate_of_its_own_is_trusted_by_ca_file(
    secure, certificate, monkeypatch
):
    url = f"https://127.0.0.1:{secure.server_port}/v1"
    verdict = grade(url, monkeypatch, ca_file=str(certificate[0]))
    assert (verdict.status, verdict.grade) == ("ok", 4)
    assert secure.keys == [f"Bearer {KEY}"]


@pytest.mark.parametrize("names", [("127.0.0.1",), ()])
def test_a_certificate_as_openssl_makes_it_by_default_is_trusted_by_ca_file(
    names, make_certificate, monkeypatch
):
    own = make_certificate(*names, signs_others=True)
    with serving(own) as server:
        verdict = grade(
            f"https://127.0.0.1:{server.server_port}/v1", monkeypatch, ca_file=str(own[0])
        )
    assert (verdict.status, verdict.grade, verdict.error) == ("ok", 4, None)


@pytest.mark.parametrize(
    ("names", "days", "words"),
    [
        (("judge.example",), 1, "name the server in the endpoint as its certificate does"),
        (("127.0.0.1",), -1, "needs a new certificate"),
    ],
)
def test_a_certificate_of_another_name_or_time_is_refused_all_the_same(
    names, days, words, make_certificate, monkeypatch
):
    own = make_certificate(*names, signs_others=True, days=days)
    with serving(own) as server:
        verdict = grade(
            f"https://127.0.0.1:{server.server_port}/v1", monkeypatch, ca_file=str(own[0])
        )
        assert server.keys == []
    assert verdict.status == "http_error" and words in verdict.error


def test_another_certificate_than_the_files_is_refused(make_certificate, monkeypatch):
    own, other = (make_certificate("127.0.0.1", signs_others=True) for _ in range(2))
    with serving(other) as server:
        verdict = grade(
            f"https://127.0.0.1:{server.server_port}/v1", monkeypatch, ca_file=str(own[0])
        )
        assert server.keys == []
    assert verdict.status == "http_error"


def test_an_unknown_certificate_is_refused_before_the_key_is_sent(secure, monkeypatch):
    verdict = grade(f"https://127.0.0.1:{secure.server_port}/v1", monkeypatch)
    assert (verdict.status, verdict.grade) == ("http_error", None)
    assert "certificate" in verdict.error and "judge.ca_file" in verdict.error
    assert secure.keys == []


def test_a_redirect_takes_no_key_to_another_host(monkeypatch):
    with Recording() as other:
        with Recording(redirect=f"http://localhost:{other.server_port}/v1") as first:
            verdict = grade(f"http://127.0.0.1:{first.server_port}/v1", monkeypatch)
            first.shutdown()
        other.shutdown()
    assert verdict.status == "http_error" and "307" in verdict.error
    assert KEY not in verdict.error
    assert first.keys == [f"Bearer {KEY}"] and other.keys == []


def test_a_ca_file_without_a_certificate_is_refused_by_name(tmp_path):
    empty = tmp_path / "empty.pem"
    empty.write_text("nothing")
    with pytest.raises(ConfigError, match=r"ca_file.*no certificate in PEM form"):
        Judge(JudgeSettings(("https://127.0.0.1:1/v1",), "m", ca_file=str(empty)))
