"""Take the pictures of report and viewer that the documentation shows.

    python scripts/screenshots.py RUN [--out FOLDER]

Every page is taken in both themes, as wide as a screen and as wide as a phone, and written as
PAGE-THEME-WIDTH.png. Needs Chromium (scripts/browser.sh) and the packages of requirements/cpu.txt.
Look at every picture before you commit it.
"""

from __future__ import annotations

import argparse
import io
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

OUT = Path(__file__).parents[1] / "docs" / "screenshots"
SIZES = ((1280, 900), (390, 844))
Theme = Literal["light", "dark"]
THEMES: tuple[Theme, ...] = ("light", "dark")
COLOURS = 128
"""Of a picture: more than a page has, and few enough for small files."""
LARGEST_BYTES = 150_000


def main() -> None:
    """Take all pictures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--out", type=Path, default=OUT, help="where the pictures go")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    report = options.run / "report.html"
    exprl = (sys.executable, "-m", "exprl")
    subprocess.run([*exprl, "report", options.run, "-o", report], check=True)
    with served(options.run) as viewer, chromium() as browser:
        pages = {"report": report.resolve().as_uri(), **pages_of(browser, viewer)}
        for name, address in pages.items():
            for width, height in SIZES:
                for theme in THEMES:
                    path = options.out / f"{name}-{theme}-{width}.png"
                    save(picture(browser, address, width, height, theme), path)
                    print(path, f"{path.stat().st_size / 1000:.0f} kB")


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless browser."""
    with sync_playwright() as playwright:
        path = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def served(run: Path) -> Iterator[str]:
    """The address of `exprl view` over the run."""
    command = [sys.executable, "-m", "exprl", "view", run, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as viewer:
        assert viewer.stdout is not None
        said = viewer.stdout.readline()
        found = re.search(r"http://\S+", said)
        try:
            if found is None:
                sys.exit(f"exprl view did not say where it is: {said!r}")
            yield found[0]
        finally:
            viewer.terminate()


def pages_of(browser: Browser, viewer: str) -> dict[str, str]:
    """Addresses of the viewer's pages: a step, a group of it with a wrong rollout, that rollout."""
    page = browser.new_page()
    page.goto(viewer)
    steps = int(page.locator("h1").first.inner_text().split()[-1])
    found = {"step": f"{viewer}?step={(steps + 1) // 2}"}  # half-way some are right, some wrong
    page.goto(found["step"])
    page.locator(".problem", has_text="✗").locator("h2 a").first.click()
    found["group"] = page.url
    page.locator(".matrix tr", has_text="✗").locator("a").first.click()
    steps = page.locator("[id^=s]:has(.badge)").count()
    grades = [page.locator(f"#s{n} .badge").first.inner_text() for n in range(1, steps + 1)]
    shown = grades.index("1") + 1 if "1" in grades else 1
    found["rollout"] = f"{page.url.partition('#')[0]}&open={shown}"
    page.close()
    return found


def picture(browser: Browser, address: str, width: int, height: int, theme: Theme) -> bytes:
    """A page as it first meets the eye."""
    size = {"width": width, "height": height}
    context = browser.new_context(viewport=size, color_scheme=theme)
    page = context.new_page()
    page.goto(address)
    page.wait_for_timeout(500)  # charts are drawn after the page is there
    taken = page.screenshot()
    context.close()
    return taken


def save(taken: bytes, path: Path) -> None:
    """Write a picture with few colours."""
    image = Image.open(io.BytesIO(taken)).convert("RGB")
    image.quantize(COLOURS, method=Image.Quantize.MEDIANCUT).save(path, optimize=True)
    if path.stat().st_size > LARGEST_BYTES:
        sys.exit(f"{path} has {path.stat().st_size} bytes, more than {LARGEST_BYTES}")


if __name__ == "__main__":
    main()
