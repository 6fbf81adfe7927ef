"""A flag that writes what blocks print into the pages, and the way to what the site is made by."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "docs" / "extensions"))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Known when tests/docs is named on the command line."""
    parser.addoption(
        "--refresh", action="store_true", help="write the output of code blocks into the pages"
    )
