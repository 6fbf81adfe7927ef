"""A real browser, and runs to look at.

A page that writes an error to its console, that cannot load something, that asks another machine
for something or that opens a dialog fails its test, whatever else the test looks at.

While a browser is open, `asyncio.run` does not work in the thread of the tests (Playwright has a
loop running there): run what needs one in a thread or a process of its own.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, Protocol
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, Request, Response, sync_playwright

TESTS = Path(__file__).parents[1]
sys.path += [str(TESTS / "cases"), str(TESTS / "unit")]  # canned_judge, tiny_models

CHROMIUMS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium; skips where there is none (scripts/browser.sh installs it)."""
    path = next(filter(None, map(shutil.which, CHROMIUMS)), None)
    if path is None:
        pytest.skip(
            f"no browser: none of {', '.join(CHROMIUMS)} is on PATH, and scripts/browser.sh could"
            " not install one (Debian: apt install chromium)"
        )
    # As root, as in containers, Chromium starts without its sandbox only.
    words = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=words)
        yield chromium
        chromium.close()


class OpenPage(Protocol):
    """Opens a page in a context of its own."""

    def __call__(self, width: int = 1280, theme: Literal["light", "dark"] = "light") -> Page: ...


@pytest.fixture
def troubles() -> Iterator[list[str]]:
    """What went wrong on the pages of this test; a test that causes one on purpose clears it."""
    seen: list[str] = []
    yield seen
    assert seen == []


@pytest.fixture
def open_page(browser: Browser, troubles: list[str]) -> Iterator[OpenPage]:
    """Pages of any width and theme: `open_page(width=390, theme="dark")`."""
    contexts = []

    def opened(width: int = 1280, theme: Literal["light", "dark"] = "light") -> Page:
        size = {"width": width, "height": 800}
        context = browser.new_context(viewport=size, color_scheme=theme)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(15_000)
        watch(page, troubles.append)
        return page

    yield opened
    for context in contexts:
        context.close()


@pytest.fixture
def page(open_page: OpenPage) -> Page:
    """A page of 1280 pixels in the light theme."""
    return open_page()


def watch(page: Page, tell: Callable[[str], None]) -> None:
    """Tell of all that no page of exprl may do."""

    def look_at_answer(answer: Response) -> None:
        if answer.status >= 400:
            tell(f"{answer.status}: {answer.url[:200]}")

    def look_at_request(asked: Request) -> None:
        if not is_here(asked.url):
            tell(f"asks {asked.url[:200]}")

    def look_at_failure(asked: Request) -> None:
        if asked.failure != "net::ERR_ABORTED":  # by leaving the page
            tell(f"failed: {asked.url[:200]} ({asked.failure})")

    page.on("console", lambda said: tell(f"console: {said.text}") if said.type == "error" else None)
    page.on("pageerror", lambda error: tell(f"error: {error}"))
    page.on("requestfailed", look_at_failure)
    page.on("response", look_at_answer)
    page.on(
        "request", lambda asked: None if is_here(asked.url) else tell(f"asks {asked.url[:200]}")
    )

    def close(dialog) -> None:
        tell(f"{dialog.type}: {dialog.message}")
        dialog.dismiss()

    page.on("dialog", close)
    page.on("popup", lambda window: tell(f"a window: {window.url[:200]}"))
    page.on("download", lambda file: tell(f"a download: {file.url[:200]}"))


def is_here(url: str) -> bool:
    """Whether an address leads to this machine, or holds its content itself."""
    parts = urlsplit(url)
    if parts.scheme in ("file", "data", "blob", "about"):
        return True
    return parts.hostname in ("127.0.0.1", "localhost", "::1")


@pytest.fixture(scope="session")
def hostile_run(demo_run: Path, made_once: Callable[..., Path]) -> Path:
    """A run of two steps in which everybody's words are hostile (hostile.py)."""
    from hostile import NAME, make_hostile_run

    return made_once("hostile", lambda folder: make_hostile_run(folder, demo_run)) / NAME
