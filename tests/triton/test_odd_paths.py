"""A repository can be moved anywhere, also where Triton's python backend could not follow."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.triton.served import serve

if TYPE_CHECKING:
    from pathlib import Path

    from tests.twin import TwinWorkshop

pytestmark = pytest.mark.triton


def test_a_repository_moved_below_spaces_quotes_and_unicode_is_served(
    workshop: TwinWorkshop,
    fp16_document: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    root = tmp_path / "mö d'el \"$x"
    repository_dir = root / "ré po"
    shutil.copytree(fp16_document["repository"], repository_dir)
    # Its cache and state lie below that path, too.
    elsewhere = replace(workshop, root=root, cache_dir=root / "cache")
    with serve(elsewhere, repository_dir) as served:
        answer = served.generate(text_input="def é(", max_tokens=4)
    assert answer["text_output"].startswith("def é(")
