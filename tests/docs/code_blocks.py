"""The code blocks of a Markdown page: what each is for, and what running them prints.

CONTRIBUTING.md, "Write a page", says how a page marks its blocks.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from markdown_it import MarkdownIt

MARK = re.compile(
    r"\s*<!--\s*(?P<name>not run|file|exit|output|numbers vary)(?::\s*(?P<value>.*?))?\s*-->\s*",
    re.DOTALL,
)
LANGUAGE_OF = {"output": "text", "numbers vary": "console"}
# What may differ where numbers vary: they, the blanks around them, the lines of a table.
NUMBER = r"[-+]?\d[\d,]*(?:\.\d+)?"
VARYING = {NUMBER: NUMBER, " +": " +", "[━─]+": "[━─]+"}
# What is shown and not run: words, formulas, and Sphinx's own blocks.
PROSE = {"text", "math"}
# `console` shows commands with what they print, `sh` commands alone.
RUN = {"console", "sh", "python"}
CHECKED = {"toml", "json", "jsonl"}
# Longer than any page needs; what hangs ends with it.
LIMIT_S = 400
END = "\x00"


COPY = re.compile(r"^<!--\s*copy:\s*(\S+)\s*-->$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """One fenced block, and the comment above it."""

    page: Path
    line: int
    """Of the opening fence, from 1."""
    language: str
    text: str
    mark: str | None = None
    value: str = ""

    @property
    def place(self) -> str:
        """`page:line`."""
        return f"{self.page}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    """The fenced blocks of a page in order. An indented block has the language ''."""
    tokens = MarkdownIt("commonmark").parse(page.read_text(encoding="utf-8"))
    blocks = []
    for before, token in zip([None, *tokens], tokens, strict=False):
        if token.type not in ("fence", "code_block"):
            continue
        found = MARK.fullmatch(before.content) if before and before.type == "html_block" else None
        blocks.append(
            Block(
                page,
                line=(token.map or [0])[0] + 1,
                language=token.info.strip(),
                text=token.content,
                mark=found["name"] if found else None,
                value=(found["value"] or "") if found else "",
            )
        )
    return blocks


def copies_of(page: Path) -> list[str]:
    """The files and folders of the checkout that the page's blocks need."""
    return COPY.findall(page.read_text(encoding="utf-8"))


def fault(block: Block) -> str | None:
    """What breaks the convention, or None."""
    language, mark = block.language, block.mark
    if not language:
        return "no language: write ```console, ```python, ```toml, ```text, ..."
    if mark == "not run" and not block.value:
        return "say why it is not run: <!-- not run: needs a GPU -->"
    if mark in ("file", "exit") and not block.value:
        return f"<!-- {mark}: --> needs a value"
    if mark in LANGUAGE_OF and language != LANGUAGE_OF[mark]:
        return f"<!-- {mark} --> stands above a ```{LANGUAGE_OF[mark]} block"
    if mark or language in PROSE | RUN | CHECKED or language.startswith("{"):
        return None
    return f"```{language} is neither run nor checked: say <!-- not run: WHY --> above it"


def as_shown(expected: str, printed: str, numbers_vary: bool = False) -> str | None:
    """The page's output with the numbers that were printed, or None where more than they differs.

    `...` stands for anything in a line, and a line that is only `...` for any lines.
    """
    lines = [line.rstrip() for line in expected.splitlines()]
    pattern = ""
    for line in lines:
        if line == "...":
            pattern += r"((?:.*\n)*)"
        else:
            parts = (pattern_of(part, numbers_vary) for part in line.split("..."))
            pattern += f"({'.*?'.join(parts)})" + r"\n"
    found = re.fullmatch(pattern, without_trailing_blanks(printed))
    if found is None or not numbers_vary:
        return None if found is None else expected
    pairs = zip(lines, found.groups(), strict=True)
    return "".join(f"{line if '...' in line else new}\n" for line, new in pairs)


def without_trailing_blanks(text: str) -> str:
    """The lines, each without the blanks at its end."""
    return "".join(f"{line.rstrip()}\n" for line in text.splitlines())


def pattern_of(text: str, numbers_vary: bool) -> str:
    """A pattern for the text itself, or for the text with other numbers."""
    if not numbers_vary:
        return re.escape(text)
    pieces = re.split(f"({'|'.join(VARYING)})", text)
    return "".join(
        next((p for p in VARYING.values() if re.fullmatch(p, piece)), re.escape(piece))
        for piece in pieces
    )


def rewritten(page: str, texts: dict[Block, str]) -> str:
    """The page with other texts in these blocks."""
    lines = page.splitlines(keepends=True)
    for block in sorted(texts, key=lambda block: -block.line):
        first = block.line
        lines[first : first + block.text.count("\n")] = [texts[block]]
    return "".join(lines)


def commands(text: str) -> list[tuple[str, str]]:
    """The commands of a console block, each with the output below it. `> ` goes on a command."""
    found: list[tuple[str, str]] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], ""))
        elif line.startswith("> ") and found and not found[-1][1]:
            found[-1] = (f"{found[-1][0]}\n{line[2:]}", "")
        elif found:
            found[-1] = (found[-1][0], f"{found[-1][1]}{line}\n")
        else:
            raise ValueError(f"a console block begins with `$ `, not with {line!r}")
    return found


class Session:
    """Runs a page's blocks in one folder: each console block in a shell, Python in one process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.groups: list[int] = []
        self.python: subprocess.Popen[str] | None = None
        self.environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "COLUMNS": "100",
            "TERM": "dumb",
            "NO_COLOR": "1",
        }

    def close(self) -> None:
        """End what the blocks started, servers in the background included."""
        for group in self.groups:
            try:
                os.killpg(group, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def console(self, block: Block) -> list[str]:
        """What each command printed. The last one must end with the block's exit code."""
        parts = [command for command, _ in commands(block.text)]
        printed = self.shell(block, "".join(f"{part}\nprintf '\\0'\n" for part in parts))
        return printed.split(END)[: len(parts)]

    def shell(self, block: Block, script: str) -> str:
        """What a script printed."""
        with tempfile.TemporaryFile("w+", encoding="utf-8") as out:
            shell = self._start(["bash", "-euc", script], out)
            code = shell.wait(LIMIT_S)
            out.seek(0)
            printed = out.read()
        wanted = int(block.value) if block.mark == "exit" else 0
        assert code == wanted, f"{block.place}: exit code {code}, not {wanted}:\n{printed}"
        return printed

    def run_python(self, block: Block) -> str:
        """What the block printed. It sees the names that the page's earlier blocks defined."""
        if self.python is None:
            worker = Path(__file__).with_name("python_worker.py")
            self.python = self._start([sys.executable, str(worker)], subprocess.PIPE)
        assert self.python.stdin and self.python.stdout
        source = "\n" * block.line + block.text
        self.python.stdin.write(json.dumps([str(block.page), source]) + "\n")
        self.python.stdin.flush()
        failed, printed = json.loads(self.python.stdout.readline() or '[true, "it died"]')
        assert not failed, f"{block.place}:\n{printed}"
        return str(printed)

    def _start(self, command: list[str], out: int | IO[str]) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.PIPE if out == subprocess.PIPE else subprocess.DEVNULL,
            stdout=out,
            stderr=None if out == subprocess.PIPE else subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.groups.append(process.pid)
        return process
