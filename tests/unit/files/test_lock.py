from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from trtllm_forge.files.lock import HeldError, exclusive, exclusive_now, shared

if TYPE_CHECKING:
    from pathlib import Path


def test_shared_lock_is_shared_and_keeps_others_from_holding_it_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.use"
    with shared(path), shared(path), pytest.raises(HeldError), exclusive_now(path):
        pass
    with exclusive_now(path):
        pass


def test_who_holds_a_lock_is_named_and_forgotten_with_it(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    with (
        exclusive(path, name="process 7 on here"),
        pytest.raises(HeldError) as caught,
        exclusive_now(path),
    ):
        pass
    assert caught.value.holder == "process 7 on here"
    assert path.read_bytes() == b""


def test_waiting_tells_for_whom(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    told = []
    with ExitStack() as first:
        first.enter_context(exclusive(path, name="the first"))

        def waiting(holder: str) -> None:
            told.append(holder)
            first.close()

        with exclusive(path, name="the second", waiting=waiting):
            assert path.read_bytes() == b"the second"
    assert told == ["the first"]


def test_folder_is_locked_and_never_made(tmp_path: Path) -> None:
    with (
        shared(tmp_path, is_folder=True),
        pytest.raises(HeldError) as caught,
        exclusive_now(tmp_path, is_folder=True),
    ):
        pass
    assert caught.value.holder == ""
    with pytest.raises(FileNotFoundError), shared(tmp_path / "absent", is_folder=True):
        pass
    assert list(tmp_path.iterdir()) == []
