"""Who may read the pages of a run, and what the pages may do."""

from __future__ import annotations

import base64

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from exprl.errors import ConfigError
from exprl.view.guard import Guard, read_token

TOKEN = "not-a-secret"


def client(host: str = "127.0.0.1", token: str | None = None) -> TestClient:
    """A browser in front of a guarded page."""

    def page(_: Request) -> PlainTextResponse:
        return PlainTextResponse("the hidden reference")

    app = Starlette(routes=[Route("/", page)])
    return TestClient(Guard(app, host, token), base_url="http://127.0.0.1:8321")


def basic(password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"me:{password}".encode()).decode()}


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8321",
        "127.0.0.1.evil.example",
        "localhost.evil.example:8321",
        "evil.example@127.0.0.1.nip.io",
        "",
        "[::1",
    ],
)
def test_a_name_that_is_not_this_machines_is_refused(host: str) -> None:
    answer = client().get("/", headers={"Host": host})
    assert answer.status_code == 400
    assert "reference" not in answer.text


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8321", "localhost:8321", "LOCALHOST", "[::1]:8321", "192.0.2.7:80"]
)
def test_addresses_and_localhost_are_this_machines(host: str) -> None:
    assert client().get("/", headers={"Host": host}).status_code == 200


def test_the_name_that_the_server_was_told_to_listen_on_is_this_machines() -> None:
    named = client(host="gpu7.example", token=None)
    assert named.get("/", headers={"Host": "gpu7.example:8321"}).status_code == 200
    assert named.get("/", headers={"Host": "gpu8.example:8321"}).status_code == 400


@pytest.mark.parametrize(
    "headers",
    [
        {},
        basic("wrong"),
        basic(""),
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Digest {TOKEN}"},
        {"Authorization": "Basic not base64!"},
        {"Authorization": TOKEN},
    ],
)
def test_without_the_token_nothing_is_shown_and_a_browser_asks_for_it(
    headers: dict[str, str],
) -> None:
    answer = client(token=TOKEN).get("/", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].startswith("Basic ")
    assert TOKEN not in answer.text + str(answer.headers)


@pytest.mark.parametrize("headers", [basic(TOKEN), {"Authorization": f"Bearer {TOKEN}"}])
def test_the_token_is_a_password_or_a_bearer_token(headers: dict[str, str]) -> None:
    assert client(token=TOKEN).get("/", headers=headers).text == "the hidden reference"


def test_a_token_does_not_let_other_names_in() -> None:
    headers = basic(TOKEN) | {"Host": "evil.example"}
    assert client(token=TOKEN).get("/", headers=headers).status_code == 400


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_pages_can_only_be_read(method: str) -> None:
    assert client().request(method, "/").status_code == 405


@pytest.mark.parametrize(
    ("path", "host"), [("/", "localhost"), ("/no", "localhost"), ("/", "evil")]
)
def test_every_answer_forbids_all_scripts_and_styles_but_our_own(path: str, host: str) -> None:
    headers = client().get(path, headers={"Host": host}).headers
    policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "gpu7.example"])
def test_other_machines_need_a_token(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EXPRL_TOKEN", raising=False)
    with pytest.raises(ConfigError, match="EXPRL_TOKEN"):
        read_token(host)
    monkeypatch.setenv("EXPRL_TOKEN", TOKEN)
    assert read_token(host) == TOKEN


def test_this_machine_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPRL_TOKEN", "")
    assert [read_token(host) for host in ("127.0.0.1", "::1", "localhost")] == [None] * 3


def test_a_token_that_no_browser_can_send_is_refused_without_showing_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EXPRL_TOKEN", "two words")
    with pytest.raises(ConfigError) as refused:
        read_token("127.0.0.1")
    assert "two words" not in str(refused.value)
