"""The page about the code's layout names what is there, and all of it."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE_DIR = ROOT / "trtllm_forge"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
PACKAGES = {path.parent.name for path in PACKAGE_DIR.glob("*/__init__.py")}


def test_every_package_is_in_the_picture_and_all_but_text_in_the_table() -> None:
    picture = PAGE.split("```")[1]
    table = set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE))

    assert [name for name in sorted(PACKAGES) if not re.search(rf"\b{name}\b", picture)] == []
    assert table == PACKAGES - {"text"}


def test_every_file_that_is_named_exists() -> None:
    named = set(re.findall(r"`((?:\w+/)*\w+\.py)`", PAGE))

    assert len(named) > 20
    assert [path for path in sorted(named) if not list(PACKAGE_DIR.rglob(path))] == []


def test_few_modules_lie_outside_of_packages() -> None:
    loose = {path.stem for path in PACKAGE_DIR.glob("*.py")}

    assert loose == {"__init__", "__main__", "errors", "reporter"}
