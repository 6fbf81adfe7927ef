"""Who may talk to a server, and where it listens."""

import asyncio

import pytest

from exprl.errors import ConfigError
from exprl.serve.middleware import TokenMiddleware
from exprl.serve.reach import check_reach, is_loopback, url_of

PATHS = ["/", "/health", "/pause", "/update_weights", "/collective_rpc", "/v1/models", "/metrics"]


@pytest.fixture
def ask(monkeypatch):
    """Sends one scope to a guarded app that answers everything; returns what comes back."""
    monkeypatch.setenv("EXPRL_TOKEN", "s3cret")

    async def app(scope, receive, send):
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
        else:
            await send({"type": f"{scope['type']}.accepted"})

    guarded = TokenMiddleware(app)

    def ask(path="/", *headers, kind="http"):
        sent = []

        async def send(message):
            sent.append(message)

        scope = {"type": kind, "path": path, "method": "GET", "headers": list(headers)}
        asyncio.run(guarded(scope, None, send))
        return sent

    return ask


@pytest.mark.parametrize("path", PATHS)
def test_every_path_asks_for_the_token(ask, path):
    assert ask(path)[0]["status"] == 401
    assert ask(path, (b"authorization", b"Bearer s3cret"))[0]["status"] == 200


@pytest.mark.parametrize(
    "headers",
    [
        [(b"authorization", b"Bearer s3cre")],
        [(b"authorization", b"Bearer s3cret2")],
        [(b"authorization", b"Bearer ")],
        [(b"authorization", b"s3cret")],
        [(b"authorization", b"Basic s3cret")],
        [(b"authorization", "Bearer s3crét".encode())],
        [(b"x-api-key", b"s3cret")],
        [(b"authorization", b"Bearer s3cret"), (b"authorization", b"Bearer other")],
    ],
)
def test_another_token_is_none(ask, headers):
    assert ask("/health", *headers)[0]["status"] == 401


def test_a_refusal_says_what_to_send_and_not_the_token(ask):
    start, body = ask("/pause")
    assert (b"www-authenticate", b"Bearer") in start["headers"]
    assert b"Authorization: Bearer TOKEN" in body["body"] and b"s3cret" not in body["body"]


def test_a_websocket_without_the_token_does_not_open(ask):
    assert ask("/v1/realtime", kind="websocket") == [{"type": "websocket.close", "code": 1008}]
    header = (b"authorization", b"Bearer s3cret")
    assert ask("/v1/realtime", header, kind="websocket") == [{"type": "websocket.accepted"}]


def test_the_start_and_the_end_of_the_app_need_no_token(ask):
    assert ask(kind="lifespan") == [{"type": "lifespan.accepted"}]


def test_a_guard_without_a_token_does_not_start(monkeypatch):
    monkeypatch.delenv("EXPRL_TOKEN", raising=False)
    with pytest.raises(KeyError, match="EXPRL_TOKEN"):
        TokenMiddleware(None)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_needs_no_token(host):
    assert is_loopback(host)
    check_reach(host, None)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "node7", ""])
@pytest.mark.parametrize("token", [None, ""])
def test_a_server_that_others_reach_needs_a_token(host, token):
    with pytest.raises(ConfigError, match=r"--host .*EXPRL_TOKEN"):
        check_reach(host, token)
    check_reach(host, "s3cret")


def test_an_address_of_ipv6_stands_in_brackets():
    assert url_of("::1", 80) == "http://[::1]:80"
    assert url_of("10.0.0.1", 80) == "http://10.0.0.1:80"
