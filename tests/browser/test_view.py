"""`exprl view` in a real browser: clicks, keys, addresses, a run that goes on, hostile texts."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import OpenPage
from hostile import ROWS, TRACES
from playwright.sync_api import Page, expect

Serve = Callable[[Path], str]


@pytest.fixture(scope="module")
def serve() -> Iterator[Serve]:
    """Starts `exprl view` over a run folder and gives its URL; ends it by Ctrl-C."""
    viewers: dict[Path, tuple[subprocess.Popen[str], str]] = {}

    def start(run_dir: Path) -> str:
        if run_dir not in viewers:
            command = [sys.executable, "-m", "exprl", "view", str(run_dir), "--port", "0"]
            viewer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            assert viewer.stdout is not None
            said = viewer.stdout.readline()
            viewers[run_dir] = (viewer, "")
            found = re.search(r"http://127\.0\.0\.1:\d+/", said)
            assert found, said
            viewers[run_dir] = (viewer, found[0])
        return viewers[run_dir][1]

    yield start
    for viewer, _ in viewers.values():
        viewer.send_signal(signal.SIGINT)
    ends = [viewer.wait(timeout=20) for viewer, _ in viewers.values()]
    assert ends == [0] * len(ends)


def colour_of(page: Page, selector: str, name: str = "background-color") -> str:
    """A colour of the first element, as the browser paints it."""
    return page.locator(selector).first.evaluate(f"e => getComputedStyle(e)['{name}']")


def variable(page: Page, name: str) -> str:
    """A colour of look.css in the theme of the page."""
    return page.evaluate(
        """name => {
            const probe = document.body.appendChild(document.createElement("i"));
            probe.className = name;
            const colour = getComputedStyle(probe.appendChild(document.createElement("b"))).color;
            probe.remove();
            return colour;
        }""",
        name,
    )


def fits(page: Page) -> bool:
    """Whether nothing makes the page wider than the window."""
    return page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_from_the_first_page_to_the_judges_words_about_a_step(
    page: Page, serve: Serve, demo_run: Path
) -> None:
    page.goto(serve(demo_run))
    expect(page.locator("h1").first).to_have_text("Step 3")
    page.locator(".problem h2 a").first.click()
    expect(page.locator("h2", has_text="8 rollouts")).to_be_visible()
    page.locator(".matrix a", has_text=re.compile("^0$")).click()
    expect(page).to_have_url(re.compile(r"/rollout\?step=3&row=\d+$"))
    step = page.locator("#s1")
    expect(step.locator(".text").first).to_contain_text("/")
    grade = step.locator(".badge").first
    level = f"level-{grade.inner_text()}"
    assert level in (grade.get_attribute("class") or "")
    assert colour_of(page, f"#s1 .badge.{level}") != colour_of(page, "#s1 .text")
    step.get_by_text("the judge's words").click()
    words = page.locator("#s1 .judge .text")
    expect(words).to_contain_text(f"Score: {grade.inner_text()}")
    expect(page).to_have_url(re.compile("open=1$"))
    page.reload()
    expect(words).to_be_visible()
    page.go_back()
    expect(words).to_have_count(0)


def test_keys_walk_through_steps_colours_and_rollouts(
    page: Page, serve: Serve, demo_run: Path
) -> None:
    page.goto(f"{serve(demo_run)}rollout?step=2&row=8")

    def press(key: str) -> None:
        page.wait_for_load_state()  # the page's script takes keys from then on
        page.keyboard.press(key)

    press("j")
    expect(page.locator("#s1")).to_be_focused()
    press("j")
    expect(page.locator("#s2")).to_be_focused()
    assert page.url.endswith("#s2")
    press("Enter")
    expect(page.locator("#s2 .judge")).to_be_visible()
    expect(page.locator("#s2")).to_be_focused()
    for key, colour in (("a", "advantage"), ("l", "logp"), ("v", "lag"), ("g", None)):
        press(key)
        expect(page.locator(".switch [aria-current]")).to_have_attribute("data-key", key)
        assert (f"colour={colour}" in page.url) if colour else "colour=" not in page.url
    press("n")
    expect(page).to_have_url(re.compile("row=9"))
    press("p")
    expect(page).to_have_url(re.compile("row=8"))
    press("u")
    expect(page).to_have_url(re.compile("/group\\?"))
    press("?")
    expect(page.locator("dialog")).to_contain_text("next problem")
    press("Escape")
    expect(page.locator("dialog")).to_be_hidden()


def test_tokens_tell_their_numbers_under_the_pointer(
    page: Page, serve: Serve, demo_run: Path
) -> None:
    page.goto(f"{serve(demo_run)}rollout?step=1&row=0&colour=logp")
    token = page.locator("#s1 .token").nth(1)
    assert token.inner_text() in "0123456789"  # by the run's own tokenizer
    token.hover()
    expect(page.locator(".token-line")).to_contain_text(re.compile(r"token 2 · id \d+ · log-prob"))


def test_letters_in_the_search_are_no_keys(page: Page, serve: Serve, demo_run: Path) -> None:
    page.goto(serve(demo_run))
    page.get_by_placeholder("id or words").press_sequentially("train-0?tj")
    expect(page.locator("dialog")).to_be_hidden()
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("search=train-0"))
    expect(page.get_by_text("No problem of this step fits")).to_be_visible()


def test_the_chosen_theme_is_remembered_on_every_page(
    open_page: OpenPage, serve: Serve, demo_run: Path
) -> None:
    page = open_page(theme="light")
    page.goto(serve(demo_run))
    light = colour_of(page, "body")
    page.keyboard.press("t")
    dark = colour_of(page, "body")
    assert dark != light
    page.goto(f"{serve(demo_run)}rollout?step=1&row=0")
    assert colour_of(page, "body") == dark
    assert colour_of(open_page(theme="dark"), "body") != dark  # a blank page
    other = open_page(theme="dark")
    other.goto(serve(demo_run))
    assert colour_of(other, "body") == dark


def test_a_run_that_goes_on_fills_the_page_by_itself(
    page: Page, serve: Serve, demo_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(demo_run, run)
    steps = [run / "rollouts" / f"step-{i:05d}.parquet" for i in (1, 2, 3)]
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    steps[2].unlink()
    (run / "metrics.jsonl").write_text("".join(lines[:2]))
    page.goto(serve(run))
    expect(page.locator("h1").first).to_have_text("Step 2")
    expect(page.locator(".state")).to_contain_text("step 2 of 3")
    page.evaluate("window.sameDocument = true")
    shutil.copy(demo_run / "rollouts" / steps[2].name, steps[2])
    (run / "metrics.jsonl").write_text("".join(lines))
    expect(page.locator("h1").first).to_have_text("Step 3")
    expect(page.locator(".state")).to_contain_text("finished: 3 steps")
    assert page.evaluate("window.sameDocument")


def test_hostile_texts_harm_no_page(page: Page, serve: Serve, hostile_run: Path) -> None:
    url = serve(hostile_run)
    page.goto(url)
    groups = [link.get_attribute("href") or "" for link in page.locator(".problem h2 a").all()]
    assert len(groups) == len(ROWS)
    rollouts = [f"rollout?step=2&row={row}&open=1,2" for row in range(len(TRACES) + 1)]
    others = ["rollouts?pick=injection", "problems", "rollout?step=2&row=3&colour=logp"]
    for address in ("", *groups, *rollouts, *others):
        page.goto(url + address)
        for width in (390, 1280):
            page.set_viewport_size({"width": width, "height": 800})
            assert fits(page), (address, width)
        assert page.evaluate("window.harmed") is None
        assert page.locator("main script, main style, main img, main iframe").count() == 0
        badges = page.locator("main .badge, main .cell, main .final").all_inner_texts()
        assert all(len(text) < 12 for text in badges)


def test_a_forged_grade_stays_in_the_text(page: Page, serve: Serve, hostile_run: Path) -> None:
    row = next(i for i, trace in enumerate(TRACES) if "Grade: 5" in trace)
    page.goto(f"{serve(hostile_run)}rollout?step=1&row={row}&open=2")
    step = page.locator("#s2")
    expect(step.locator(".wrote > .text")).to_contain_text('<span class="grade grade-5 best"')
    assert step.locator(".said .badge").count() == 2
    assert step.locator(".said .badge").first.inner_text() == "3"
    expect(step.locator(".judge .text")).to_contain_text("<script>window.harmed = true")


def test_characters_that_would_move_others_are_shown_as_codes(
    page: Page, serve: Serve, hostile_run: Path
) -> None:
    row = next(i for i, trace in enumerate(TRACES) if "\u202e" in trace)
    page.goto(f"{serve(hostile_run)}rollout?step=1&row={row}")
    codes = page.locator("main .wrote .code-point").all_inner_texts()
    assert {"U+202E", "U+0000", "U+001B", "U+2067", "U+200B"} <= set(codes)
    said = page.locator("#s1 .said").bounding_box()
    text = page.locator("#s1 .text").bounding_box()
    assert said and text and said["x"] + said["width"] <= text["x"]


def test_no_script_runs_that_is_not_ours(
    page: Page, serve: Serve, demo_run: Path, troubles: list[str]
) -> None:
    page.goto(serve(demo_run))
    page.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "window.harmed = true";
            document.body.append(script);
            const image = "<img src=x onerror='window.harmed = true'>";
            document.body.insertAdjacentHTML("beforeend", image);
        }"""
    )
    page.wait_for_timeout(300)
    assert page.evaluate("window.harmed") is None
    assert any("Content Security Policy" in trouble for trouble in troubles)
    troubles.clear()
