"""The report in a real browser, from disk: it draws, it reacts, and hostile words stay words."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from exprl.monitor.report.page import write_report

GRADE_5 = {"light": "rgb(11, 95, 165)", "dark": "rgb(98, 175, 243)"}


@pytest.fixture(scope="module")
def report(demo_run: Path, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("report") / "report.html"
    write_report([demo_run], out)
    return out


def draw_all(page: Page) -> None:
    """Bring every chart near the window, as a reader who scrolls does."""
    for box in page.locator("[data-chart]").all():
        box.scroll_into_view_if_needed()
        expect(box.locator("svg.main-svg").first).to_be_visible()


def is_wider_than_window(page: Page) -> bool:
    return page.evaluate("document.documentElement.scrollWidth > innerWidth")


def test_every_chart_is_drawn_and_reacts_to_theme_axis_and_smoothing(open_page, report):
    page = open_page(theme="dark")
    page.goto(report.as_uri())
    draw_all(page)
    assert page.locator("[data-chart]").count() > 20
    assert not is_wider_than_window(page)

    line = page.locator("[data-chart='0'] .scatterlayer path.js-line")
    badge = page.locator("#rollouts .badge.level-5").first
    expect(badge).to_have_css("background-color", GRADE_5["dark"])
    before = line.first.evaluate("line => line.style.stroke")
    page.get_by_role("button", name="Light / dark").click()
    expect(badge).to_have_css("background-color", GRADE_5["light"])
    assert line.first.evaluate("line => line.style.stroke") != before

    title = page.locator("[data-chart='0'] .xtitle")
    expect(title).to_have_text("step")
    page.locator("#axis").select_option("tokens")
    expect(title).to_have_text("sampled tokens")
    page.locator("#smooth").select_option("5")
    expect(line).to_have_count(4)  # two curves, each with its mean

    page.reload()  # the button is remembered
    expect(badge).to_have_css("background-color", GRADE_5["light"])


def test_a_click_in_the_report_that_the_run_wrote_opens_a_rollout_with_its_grades(page, demo_run):
    page.goto((demo_run / "report.html").as_uri())
    expect(page.locator("#summary")).to_contain_text("3 of 3 steps are done")
    sample = page.locator(".shelf .sample").first
    step = sample.locator(".step").first
    expect(step).not_to_be_visible()
    sample.locator("summary").first.click()
    expect(step.locator(".said .badge").first).to_have_text("5")
    expect(step.locator(".said .badge").first).to_have_css("background-color", GRADE_5["light"])
    expect(step.locator(".text").first).to_contain_text("=")
    expect(sample.locator("dl")).to_contain_text("Reference, which the policy never sees")
    step.get_by_text("The judge's words").click()
    expect(step.locator(".words .text")).to_contain_text("Score: 5")  # the reply in the ledger


def test_a_report_to_give_away_holds_neither_references_nor_words_of_the_judge(
    demo_run, report, tmp_path
):
    hidden = ("Reference, which the policy never sees", "The judge's words")
    assert all(words in report.read_text() for words in hidden)
    write_report([demo_run], tmp_path / "report.html", references=False)
    assert not any(words in (tmp_path / "report.html").read_text() for words in hidden)


def test_runs_side_by_side_draw_their_curves_in_their_colours(page, demo_run, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(demo_run, other, ignore=shutil.ignore_patterns("checkpoints"))
    config = (other / "config.toml").read_text().replace("lr = 0.0003", "lr = 0.001")
    (other / "config.toml").write_text(config)
    write_report([demo_run, other], tmp_path / "both.html")
    page.goto((tmp_path / "both.html").as_uri())
    rows = page.locator("#settings table.settings").first
    expect(rows).to_contain_text("optim.lr")
    lines = page.locator("[data-chart='0'] .scatterlayer path.js-line")
    expect(lines).to_have_count(4)
    strokes = lines.evaluate_all("lines => lines.map((line) => line.style.stroke)")
    assert len(set(strokes)) == 2


def test_hostile_words_stay_words_and_widen_nothing_on_a_phone(open_page, hostile_run, tmp_path):
    write_report([hostile_run], tmp_path / "report.html")
    page = open_page(width=390)
    page.goto((tmp_path / "report.html").as_uri())
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert page.evaluate("window.harmed") is None
    assert not is_wider_than_window(page)
    # Nobody's words became an element: what stands in a text box is text and code points.
    assert page.locator(".text *:not(.code-point)").count() == 0
    expect(page.locator("body")).to_contain_text("window.harmed = true")
    expect(page.locator(".code-point", has_text="U+202E").first).to_be_visible()


def test_without_javascript_all_numbers_are_there(browser, report):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report.as_uri())
    expect(page.locator("noscript, .warning").first).to_be_attached()
    expect(page.locator("#summary .tile").first).to_contain_text("Reward")
    page.locator("#numbers summary").first.click()
    expect(page.locator("#numbers table")).to_contain_text("reward/mean")
    context.close()
