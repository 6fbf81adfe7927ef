"""What the dry run learns from a judge's server."""

import json
import ssl
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from exprl import config
from exprl.cli.dry_run import warnings
from exprl.cli.dry_run.server import check_server
from exprl.errors import JudgeError
from exprl.judge import RuleJudge


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.seen.append((self.path, self.headers["Authorization"]))
        status, body = self.server.answer
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_):
        pass


@contextmanager
def answering(status, body, certificate=None):
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.answer, server.seen = (status, body), []
        scheme = "http"
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
            scheme = "https"
        server.url = f"{scheme}://127.0.0.1:{server.server_port}/v1"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def check(url, model="m", response=100, **judge):
    rollout = {"max_response_tokens": response, "max_prompt_tokens": 8}
    cfg = config.build(
        {
            "model": {"path": "-"},
            "data": {"path": "-"},
            "rollout": rollout,
            "judge": {"endpoints": [url], "model": model, **judge},
        }
    )
    return list(check_server(url, cfg))


def listing(*models):
    return json.dumps({"data": [{"id": name, "max_model_len": length} for name, length in models]})


def test_a_server_that_serves_another_model_is_refused_with_its_models():
    with RuleJudge("division") as server:
        with pytest.raises(JudgeError, match=r"'gpt-none', but .* serves rules-division"):
            check(server.url, "gpt-none")
        assert check(server.url, "rules-division") == [
            ("server", f"{server.url} serves rules-division")
        ]


@pytest.mark.parametrize(
    ("status", "body", "why"),
    [
        (404, "no such page", "HTTP 404"),
        (405, "", "HTTP 405"),
        (401, "", "HTTP 401"),
        (403, "", "HTTP 403"),
        (501, "", "HTTP 501"),
        (200, "<html>", "no list of models"),
        (200, "[]", "no list of models"),
        (200, '{"data": [{"name": "m"}]}', "no list of models"),
    ],
)
def test_a_gateway_that_lists_no_models_is_a_warning(status, body, why):
    with answering(status, body) as server:
        [(label, text)] = check(server.url)
    assert label == "warning" and why in text and "whether it serves m" in text


def test_nobody_there_is_an_error():
    with pytest.raises(JudgeError, match=r"127\.0\.0\.1:9/v1/models does not answer"):
        check("http://127.0.0.1:9/v1")


@pytest.mark.parametrize(("context", "warned"), [(100, True), (101, False)])
def test_a_direct_readout_needs_room_for_one_token_of_reply(context, warned):
    with answering(200, listing(("m", context))) as server:
        texts = check(server.url, readout="direct")
    told = [text for kind, text in texts if kind == "warning"]
    assert bool(told) is warned
    assert not warned or "one token" in told[0]


def test_settings_that_a_direct_readout_does_not_look_at_are_named():
    def told(**judge):
        tree = {"model": {"path": "-"}, "data": {"path": "-"}}
        judge = {"endpoints": ["http://h/v1"], "model": "m", **judge}
        return [
            text for text in warnings(config.build({**tree, "judge": judge})) if "judge." in text
        ]

    ignored = told(readout="direct", max_tokens=64, reask=False)
    assert [text.split()[0] for text in ignored] == ["judge.max_tokens", "judge.reask"]
    assert told(readout="direct") == told(readout="text", max_tokens=64) == []


@pytest.mark.parametrize(("context", "warned"), [(2147, True), (2148, False), (None, False)])
def test_a_context_that_cannot_hold_rollout_and_reply_is_a_warning(context, warned):
    with answering(200, listing(("other", 9), ("m", context))) as server:
        lines = check(server.url, response=100, max_tokens=2048)
    assert [label for label, _ in lines] == ["server"] + ["warning"] * warned
    if context:
        assert f"a context of {context:,} tokens" in lines[0][1]
    if warned:
        assert "judge.max_tokens" in lines[1][1] and "max_response_tokens" in lines[1][1]


def test_the_key_of_a_file_is_sent_too(tmp_path):
    (tmp_path / "key").write_text("sk-test\n")
    with answering(200, listing(("m", None))) as server:
        check(server.url, api_key_file=str(tmp_path / "key"))
        assert server.seen == [("/v1/models", "Bearer sk-test")]


def test_a_certificate_of_its_own_is_trusted_by_ca_file_and_otherwise_a_warning(make_certificate):
    own = make_certificate("127.0.0.1", signs_others=True)
    with answering(200, listing(("m", None)), own) as server:
        assert check(server.url, ca_file=str(own[0])) == [("server", f"{server.url} serves m")]
        [(label, text)] = check(server.url)
    assert label == "warning" and "certificate" in text.lower()
