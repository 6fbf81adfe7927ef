"""Every code block has a language, and is run, checked, or says why not."""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

import pytest
from code_blocks import (
    CHECKED,
    RUN,
    Block,
    Session,
    as_shown,
    blocks_of,
    commands,
    copies_of,
    fault,
    rewritten,
    without_trailing_blanks,
)
from config_keys import keys, names_in

REPO = Path(__file__).parents[2]
PAGES = [
    *(REPO / name for name in ("README.md", "CONTRIBUTING.md", "kernels/README.md")),
    REPO / "examples/division/README.md",
    *sorted((REPO / "docs").rglob("*.md")),
]

CONFIG_KEYS = {key.name for key in keys()}


def prefixes_of(name: str) -> Iterator[str]:
    """`a`, `a.b` and `a.b.c` for `a.b.c`."""
    return accumulate(name.split("."), "{}.{}".format)


def is_run(block: Block) -> bool:
    return block.language in RUN and block.mark != "not run"


RUN_PAGES = [page for page in PAGES if any(map(is_run, blocks_of(page)))]


def name_of(page: Path) -> str:
    return str(page.relative_to(REPO))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_has_a_language_and_is_run_or_says_why_not(page: Path) -> None:
    faults = [(f"{block.place}: {fault(block)}") for block in blocks_of(page) if fault(block)]
    assert faults == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_toml_and_json_blocks_are_what_they_say(page: Path) -> None:
    for block in blocks_of(page):
        if block.language == "toml":
            named = set(names_in(tomllib.loads(block.text))) - CONFIG_KEYS
            # Below a key that takes names of the user's, such as judge.extra, none is wrong.
            unknown = {name for name in named if not CONFIG_KEYS & set(prefixes_of(name))}
            assert not unknown or block.mark, f"{block.place}: no such key: {unknown}"
        elif block.language in CHECKED:
            for text in block.text.splitlines() if block.language == "jsonl" else [block.text]:
                json.loads(text)


@pytest.mark.parametrize("page", RUN_PAGES, ids=name_of)
def test_the_blocks_of_a_page_run_in_order_and_print_what_it_shows(
    page: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    refresh = request.config.getoption("--refresh", default=False)
    for name in copies_of(page):
        copy(REPO / name, tmp_path / name)
    session = Session(tmp_path)
    try:
        shown = list(outputs(page, session, tmp_path))
    finally:
        session.close()
    if refresh:
        texts = {block: new for block, new, _ in shown if new != block.text}
        page.write_text(rewritten(page.read_text(encoding="utf-8"), texts), encoding="utf-8")
    else:
        said = "\n".join(said for _, _, said in shown if said)
        assert not said, f"{said}\nIf that is right: pytest tests/docs --refresh"


def copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copy(source, target)


def outputs(page: Path, session: Session, folder: Path) -> Iterator[tuple[Block, str, str]]:
    """Each block that shows output, its text with the output that came, and what differs."""
    printed = ""
    for block in blocks_of(page):
        if block.mark == "file":
            path = folder / block.value
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
        elif block.mark == "output":
            yield block, *compared(block, block.text, printed)
        elif block.language == "python" and is_run(block):
            printed = session.run_python(block)
        elif block.language == "sh" and is_run(block):
            session.shell(block, block.text)
        elif block.language == "console" and is_run(block):
            text, said = "", ""
            pairs = zip(commands(block.text), session.console(block), strict=True)
            for (command, expected), came in pairs:
                new, wrong = compared(block, expected, came)
                text += "$ " + command.replace("\n", "\n> ") + "\n" + new
                said += wrong
            yield block, text, said


def compared(block: Block, expected: str, printed: str) -> tuple[str, str]:
    """What the page should show, and what is wrong with what it shows."""
    new = as_shown(expected, printed, "numbers vary" in (block.mark, block.value))
    if new is not None:
        return new, ""
    printed = without_trailing_blanks(printed)
    return printed, f"{block.place} shows\n{expected}but this was printed\n{printed}"


def page_of(folder: Path, text: str) -> Path:
    path = folder / "page.md"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("```\nx\n```", "no language"),
        ("Words:\n\n    x = 1\n", "no language"),
        ("<!-- not run -->\n```python\nx\n```", "say why"),
        ("```rust\nfn main() {}\n```", "neither run nor checked"),
        ("<!-- output -->\n```python\nx\n```", "stands above"),
        ("<!-- not run: needs a GPU -->\n```python\nx\n```", None),
        ("<!-- file: a.py -->\n```python\nx\n```", None),
        ("```python\nx = 1\n```", None),
    ],
)
def test_a_block_outside_the_convention_is_named(
    text: str, wrong: str | None, tmp_path: Path
) -> None:
    (block,) = blocks_of(page_of(tmp_path, text))
    assert (wrong is None and fault(block) is None) or wrong in str(fault(block))


def test_a_page_runs_files_commands_and_python_in_order(tmp_path: Path) -> None:
    page = page_of(
        tmp_path,
        """
<!-- file: in/words.txt -->
```text
one
```
```console
$ cat in/words.txt
one
$ (sleep 60 &)
$ for word in a b
> do echo $word; done
...
b
```
```python
n = len(open("in/words.txt").read())
```
```python
print(n, "letters")
```
<!-- output -->
```text
4 letters and a bit
```
<!-- exit: 3 -->
```console
$ exit 3
```
""",
    )
    session = Session(tmp_path)
    try:
        shown = list(outputs(page, session, tmp_path))
    finally:
        session.close()
    wrong = [(block.line, new) for block, new, said in shown if said]
    assert wrong == [(22, "4 letters\n")]
    mended = rewritten(page.read_text(), {block: new for block, new, said in shown if said})
    assert mended == page.read_text().replace(" and a bit", "")


def test_a_block_that_fails_fails_its_page(tmp_path: Path) -> None:
    page = page_of(tmp_path, "```python\nx = 1\n```\n\n```console\n$ false\n```\n")
    session = Session(tmp_path)
    try:
        with pytest.raises(AssertionError, match=r"page.md:5: exit code 1, not 0"):
            list(outputs(page, session, tmp_path))
    finally:
        session.close()


@pytest.mark.parametrize(
    ("expected", "printed", "same"),
    [
        ("took 1.2 s\n", "took 1.2 s  \n", True),
        ("took ... s\n", "took 1.2 s\n", True),
        ("a\n...\nz\n", "a\nb\nc\nz\n", True),
        ("a\n...\nz\n", "a\nz\n", True),
        ("a\n", "a\nb\n", False),
    ],
)
def test_three_dots_stand_for_what_differs_from_run_to_run(
    expected: str, printed: str, same: bool
) -> None:
    assert as_shown(expected, printed) == (expected if same else None)


TABLE = """
step 8/8  reward 0.848
...
┏━━━━┳━━━━━━━━━━━━━━┓
┃ k  ┃ pass@k       ┃
┗━━━━┻━━━━━━━━━━━━━━┛
gained: ...
"""


def test_where_numbers_vary_the_words_must_be_the_same_and_the_new_numbers_are_shown() -> None:
    new = TABLE.replace("0.848", "-1.5").replace("━━━━┳", "━━┳").replace("@k       ┃", "@16 ┃")
    printed = new.replace("...\n┏", "a\nb\n┏").replace("gained: ...", "gained: 3, 4")
    expected = TABLE.replace("@k", "@1")
    assert as_shown(expected, printed) is None
    assert as_shown(expected, printed, numbers_vary=True) == new
    assert as_shown(expected, printed.replace("reward", "score"), numbers_vary=True) is None
