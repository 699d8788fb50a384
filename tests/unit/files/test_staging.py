from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from trtllm_forge.files.staging import free_name, replace_folder, write_whole

if TYPE_CHECKING:
    from pathlib import Path


def test_text_is_written_whole_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_whole(path, "one")
    write_whole(path, "größe")
    assert path.read_text(encoding="utf-8") == "größe"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_failure_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_whole(path, "one")
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "\ud800")
    assert path.read_text() == "one"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("one")
    (tmp_path / "link").symlink_to("real")
    write_whole(tmp_path / "link", "two")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "two"


def test_pipe_is_written_to_and_stays_one(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_whole(path, "one")
        assert os.read(reader, 10) == b"one"
    finally:
        os.close(reader)
    assert path.is_fifo()


def test_free_name_is_one_that_nothing_has(tmp_path: Path) -> None:
    assert free_name(tmp_path / "a") == tmp_path / "a-2"
    (tmp_path / "a-2").mkdir()
    assert free_name(tmp_path / "a") == tmp_path / "a-3"


def _folder(path: Path, text: str) -> Path:
    path.mkdir()
    (path / "a").write_text(text)
    return path


def test_folder_is_exchanged_in_one_step(tmp_path: Path) -> None:
    target, staged = _folder(tmp_path / "out", "old"), _folder(tmp_path / ".out.1.staged", "new")
    replace_folder(staged, target)
    assert ((target / "a").read_text(), (staged / "a").read_text()) == ("new", "old")


def test_folder_is_replaced_where_the_system_cannot_exchange(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda *_, **__: object())
    target, staged = _folder(tmp_path / "out", "old"), _folder(tmp_path / ".out.1.staged", "new")
    replace_folder(staged, target)
    assert (target / "a").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
