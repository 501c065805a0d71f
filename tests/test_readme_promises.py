"""The README's table of promises names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
README = TESTS.parent / "README.md"


def promises() -> list[tuple[str, str]]:
    """Each promise of the table, with what shows it."""
    if not README.exists():
        return []
    _, _, rest = README.read_text().partition("\n## What is promised\n")
    rows = re.findall(r"^\|(.*)\|$", rest.partition("\n## ")[0], re.MULTILINE)
    cells = [[cell.strip() for cell in row.split("|")] for row in rows]
    return [(row[0], row[2]) for row in cells[2:]]


@pytest.mark.parametrize(("promise", "shown"), promises())
def test_promise_is_shown_by_a_test_that_exists(promise: str, shown: str) -> None:
    named = re.findall(r"`([^`]+)`", shown)
    assert named, promise
    for test in named:
        file, _, name = test.partition("::")
        text = (TESTS / file).read_text()
        assert not name or re.search(rf"^def {name}\(", text, re.MULTILINE), test


def test_all_that_is_promised_is_in_the_table() -> None:
    if README.exists():
        assert len(promises()) >= 10
