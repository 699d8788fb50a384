from __future__ import annotations

import ctypes
import fcntl
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.small_stage import RecordingReporter, SmallStage, build, printed
from trtllm_forge.errors import BuildError, ConfigError
from trtllm_forge.files.digest import sha256_file
from trtllm_forge.files.staging import replace_folder
from trtllm_forge.pipeline import place
from trtllm_forge.pipeline import publish as publish_module
from trtllm_forge.pipeline.publish import (
    is_published,
    publish_entry,
    remove_leftovers,
    require_own_folder,
    warn_of_edits,
)
from trtllm_forge.pipeline.run import lock_of
from trtllm_forge.pipeline.store import Entry, Store

if TYPE_CHECKING:
    from collections.abc import Iterator

LARGE = b"0123456789abcdef" * ((1 << 16) + 1)
ENGINE = "tensorrt_llm/1/engine/rank0.engine"
FILES = {"ensemble/config.pbtxt": b"name", ENGINE: LARGE}


@pytest.fixture
def published(tmp_path: Path) -> Published:
    return Published(tmp_path, tmp_path / "model_repos" / "coder")


class Published:
    """A built stage and the folder it is published to."""

    def __init__(self, root: Path, output_dir: Path) -> None:
        self.store = Store(root / "cache")
        self.output_dir = output_dir
        self.stage = SmallStage(name="render", files=dict(FILES))

    def build(self) -> tuple[Entry, dict[str, str]]:
        results = build(self.store, self.stage)
        return results[-1].entry, {"forge.lock": lock_of(results).to_text()}

    def publish(self) -> Entry:
        entry, documents = self.build()
        publish_entry(entry, self.output_dir, documents)
        return entry

    def is_in_place(self) -> bool:
        entry, documents = self.build()
        return is_published(entry, self.output_dir, documents)

    def files(self) -> dict[str, bytes]:
        return {
            path.relative_to(self.output_dir).as_posix(): path.read_bytes()
            for path in self.output_dir.rglob("*")
            if path.is_file() and path.name != "forge.lock"
        }

    def beside(self) -> list[str]:
        return sorted(path.name for path in self.output_dir.parent.iterdir())


def test_published_folder_holds_the_artifact_and_its_lock(published: Published) -> None:
    published.publish()
    assert published.files() == FILES
    assert published.beside() == ["coder"]
    assert published.is_in_place()


def test_large_files_are_links_to_the_store_and_small_ones_are_copies(
    published: Published,
) -> None:
    entry = published.publish()
    same = {name: (published.output_dir / name).samefile(entry.files_dir / name) for name in FILES}
    assert same == {"ensemble/config.pbtxt": False, "tensorrt_llm/1/engine/rank0.engine": True}


def test_linked_file_is_read_only_so_that_no_edit_reaches_the_store_unseen(
    published: Published,
) -> None:
    published.publish()
    path = published.output_dir / "tensorrt_llm/1/engine/rank0.engine"
    assert path.stat().st_mode & 0o222 == 0
    assert (published.output_dir / "ensemble/config.pbtxt").stat().st_mode & 0o200


def clone(target: int, request: int, source: int) -> int:
    """Do what ``FICLONE`` does, as far as bytes go."""
    assert request == 0x40049409
    os.write(target, os.pread(source, os.fstat(source).st_size, 0))
    return 0


def test_large_files_are_reflinks_where_the_file_system_can(
    published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "ioctl", clone)
    entry = published.publish()
    stored, placed = entry.files_dir / ENGINE, published.output_dir / ENGINE
    assert published.files() == FILES
    assert (placed.samefile(stored), stored.stat().st_nlink) == (False, 1)
    # Each can be edited, and no edit reaches the other.
    assert (placed.stat().st_mode & 0o200, stored.stat().st_mode & 0o200) == (0o200, 0o200)


def test_unchanged_reflink_is_known_without_being_read(
    published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "ioctl", clone)
    published.publish()
    read: list[str] = []

    def reading(path: Path) -> str:
        read.append(path.name)
        return sha256_file(path)

    monkeypatch.setattr(place, "sha256_file", reading)
    assert published.is_in_place()
    assert read == ["config.pbtxt"]


def test_edited_reflink_is_noticed_and_mended(
    published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "ioctl", clone)
    published.publish()
    (published.output_dir / ENGINE).write_bytes(LARGE[:-1] + b"x")
    assert not published.is_in_place()
    published.publish()
    assert published.files() == FILES
    assert published.stage.runs == 1


def test_refused_reflink_leaves_nothing_in_the_way_of_the_hard_link(
    published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(target: int, request: int, source: int) -> int:
        os.write(target, b"half")
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "ioctl", refuse)
    entry = published.publish()
    assert (published.output_dir / ENGINE).samefile(entry.files_dir / ENGINE)
    assert published.files() == FILES


def test_file_that_has_a_name_of_the_users_own_keeps_its_permissions(
    published: Published, tmp_path: Path
) -> None:
    own = tmp_path / "checkpoint" / "model.safetensors"
    own.parent.mkdir()
    own.write_bytes(LARGE)
    published.stage.files = {"ensemble/config.pbtxt": b"name"}
    published.stage.before_writing = lambda work_dir: os.link(own, work_dir / "model.safetensors")
    published.publish()
    assert own.stat().st_mode & 0o777 == 0o644
    assert (published.output_dir / "model.safetensors").samefile(own)
    assert published.is_in_place()


def test_large_file_is_copied_where_it_cannot_be_linked(
    published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: object, target: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    published.publish()
    assert published.files() == FILES
    assert published.is_in_place()


def test_deleted_folder_is_published_again_without_running_the_stage(
    published: Published,
) -> None:
    import shutil

    published.publish()
    shutil.rmtree(published.output_dir)
    assert not published.is_in_place()
    published.publish()
    assert published.files() == FILES
    assert published.stage.runs == 1


@pytest.mark.parametrize("content", [b"edited", b"NAME"], ids=["other-size", "same-size"])
def test_edited_small_file_is_noticed_and_mended(published: Published, content: bytes) -> None:
    published.publish()
    (published.output_dir / "ensemble/config.pbtxt").write_bytes(content)
    assert not published.is_in_place()
    published.publish()
    assert published.files() == FILES
    assert published.stage.runs == 1


def test_replaced_large_file_is_noticed_and_mended(published: Published) -> None:
    published.publish()
    path = published.output_dir / "tensorrt_llm/1/engine/rank0.engine"
    path.unlink()
    path.write_bytes(LARGE[:-1] + b"x")
    assert not published.is_in_place()
    published.publish()
    assert published.files() == FILES


@pytest.mark.parametrize(
    "name", ["other/config.pbtxt", "ensemble/2/", "tensorrt_llm/1/more.py", ".git/"]
)
def test_what_was_added_to_the_models_is_noticed_named_and_removed(
    published: Published, name: str
) -> None:
    entry = published.publish()
    path = published.output_dir / name
    if name.endswith("/"):
        path.mkdir()
    else:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    reporter = RecordingReporter()

    assert not published.is_in_place()
    warn_of_edits(published.output_dir, entry.stage, reporter, documents={"forge.lock": ""})
    published.publish()

    assert reporter.warnings == [
        f"replacing {published.output_dir} discards these changes: {name} was added"
    ]
    assert not path.exists()
    assert published.is_in_place()


def test_what_was_put_beside_the_models_may_stay(published: Published) -> None:
    published.publish()
    (published.output_dir / "README.md").write_text("mine")
    (published.output_dir / "ensemble/__pycache__").mkdir()
    (published.output_dir / "ensemble/__pycache__/model.pyc").write_text("")

    assert published.is_in_place()


def test_missing_or_other_lock_is_noticed(published: Published) -> None:
    published.publish()
    lock_path = published.output_dir / "forge.lock"
    lock_path.write_text("{}")
    assert not published.is_in_place()
    lock_path.unlink()
    assert not published.is_in_place()


def test_second_build_replaces_the_first_whole(published: Published) -> None:
    published.publish()
    published.stage.parameters = {"precision": "int8"}
    published.stage.files = {"ensemble/config.pbtxt": b"other"}
    published.publish()
    assert published.files() == {"ensemble/config.pbtxt": b"other"}
    assert published.beside() == ["coder"]


def test_folders_are_exchanged_in_one_step(
    published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    published.publish()
    published.stage.parameters = {"precision": "int8"}
    published.stage.files = {"ensemble/config.pbtxt": b"other"}
    entry, documents = published.build()
    renames: list[Any] = []
    monkeypatch.setattr(Path, "rename", lambda *arguments: renames.append(arguments))
    publish_entry(entry, published.output_dir, documents)
    assert renames == []
    assert published.files() == {"ensemble/config.pbtxt": b"other"}


class NoExchange:
    """A C library without ``renameat2``."""

    def __init__(self, *arguments: object, **options: object) -> None:
        pass


class RefusedExchange(NoExchange):
    """A C library on a file system that cannot exchange."""

    def renameat2(self, *_: object) -> int:
        return -1


@pytest.mark.parametrize("library", [NoExchange, RefusedExchange])
def test_folders_are_replaced_by_two_renames_where_they_cannot_be_exchanged(
    published: Published, monkeypatch: pytest.MonkeyPatch, library: type
) -> None:
    published.publish()
    monkeypatch.setattr(ctypes, "CDLL", library)
    published.stage.parameters = {"precision": "int8"}
    published.stage.files = {"ensemble/config.pbtxt": b"other"}
    published.publish()
    assert published.files() == {"ensemble/config.pbtxt": b"other"}
    assert published.beside() == ["coder"]


def test_old_folder_is_put_back_when_the_second_rename_fails(
    published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    published.publish()
    published.stage.parameters = {"precision": "int8"}
    entry, documents = published.build()
    monkeypatch.setattr(ctypes, "CDLL", NoExchange)
    rename = Path.rename

    def refuse_staged(path: Path, target: Path) -> Path:
        if path.name.endswith(".staged"):
            raise OSError(5, "Input/output error", str(path))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse_staged)
    with pytest.raises(ConfigError, match="cannot be written"):
        publish_entry(entry, published.output_dir, documents)
    assert published.files() == FILES
    assert published.beside() == ["coder"]


def test_what_killed_processes_staged_is_removed_and_nothing_else(published: Published) -> None:
    parent_dir = published.output_dir.parent
    for name in (".coder.123.staged", ".coder.124.staged.old", ".other.1.staged", ".coder.env"):
        (parent_dir / name / "half").mkdir(parents=True)
    published.publish()
    assert published.beside() == [".coder.env", ".other.1.staged", "coder"]


def test_what_was_left_is_removed_where_nothing_has_to_be_published(published: Published) -> None:
    published.publish()
    (published.output_dir.parent / ".coder.123.staged").mkdir()
    remove_leftovers(published.output_dir)
    assert published.beside() == ["coder"]
    assert published.files() == FILES


def test_what_another_process_stages_now_is_left_alone(published: Published) -> None:
    parent_dir = published.output_dir.parent
    (parent_dir / ".coder.123.staged").mkdir(parents=True)
    descriptor = os.open(parent_dir, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        published.publish()
    finally:
        os.close(descriptor)
    assert published.beside() == [".coder.123.staged", "coder"]


def test_builds_with_one_process_id_do_not_stage_in_one_folder(
    published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two containers that share a disk number their processes alike."""
    staged: list[str] = []
    monkeypatch.setattr(os, "getpid", lambda: 1)
    swap_in = replace_folder

    def noting(staged_dir: Path, output_dir: Path) -> None:
        staged.append(staged_dir.name)
        swap_in(staged_dir, output_dir)

    monkeypatch.setattr(publish_module, "replace_folder", noting)
    published.publish()
    published.publish()

    assert len(set(staged)) == 2


def test_failure_while_staging_leaves_the_published_folder_and_nothing_else(
    published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    published.publish()
    published.stage.parameters = {"precision": "int8"}
    entry, documents = published.build()

    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(publish_module, "place_file", fail)
    with pytest.raises(BuildError) as caught:
        publish_entry(entry, published.output_dir, documents)
    assert printed(caught.value) == (
        f"error: no space left on the disk that holds {published.output_dir.parent}\n"
        "  why:  the artifacts are in the store; the folder was left unchanged\n"
        "  try:  --output ANOTHER_FOLDER",
        5,
    )
    assert published.files() == FILES
    assert published.beside() == ["coder"]


@pytest.mark.parametrize(
    "name",
    ["with space", "größe-模型", "-x", "a'b\"c$(d)", "new\nline", "..dots", "{braces}[1]*"],
)
def test_any_folder_name_can_be_published_to_and_again(tmp_path: Path, name: str) -> None:
    published = Published(tmp_path, tmp_path / name / name)
    published.publish()
    assert published.is_in_place()
    published.stage.parameters = {"precision": "int8"}
    published.publish()
    assert published.beside() == [name]


def test_relative_folder_with_a_leading_dash_can_be_published_to(tmp_path: Path) -> None:
    published = Published(tmp_path, Path("-x"))
    published.publish()
    published.publish()
    assert published.files() == FILES


def test_empty_folder_is_taken(published: Published) -> None:
    published.output_dir.mkdir(parents=True)
    published.publish()
    assert published.files() == FILES


def refusal_of(output_dir: Path) -> tuple[str, int]:
    with pytest.raises(ConfigError) as caught:
        require_own_folder(output_dir)
    return printed(caught.value)


def test_folder_that_forge_did_not_build_is_refused_and_left_alone(published: Published) -> None:
    output_dir = published.output_dir
    output_dir.mkdir(parents=True)
    (output_dir / "thesis.txt").write_text("mine")
    assert refusal_of(output_dir) == (
        f"error: {output_dir} is in the way: it was not built by forge\n"
        "  why:  it is not empty and has no forge.lock\n"
        f"  try:  --output {output_dir}-2",
        2,
    )
    with pytest.raises(ConfigError, match="not built by forge"):
        published.publish()
    assert published.files() == {"thesis.txt": b"mine"}


def test_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    assert refusal_of(tmp_path / "file") == (
        f"error: {tmp_path / 'file'} is in the way: it is not a folder\n"
        f"  try:  --output {tmp_path / 'file-2'}",
        2,
    )


def test_symbolic_link_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("elsewhere")
    assert refusal_of(tmp_path / "link") == (
        f"error: {tmp_path / 'link'} is in the way: it is a symbolic link\n"
        "  why:  it points to elsewhere\n"
        f"  try:  --output {tmp_path / 'link-2'}",
        2,
    )


@pytest.mark.parametrize("folder", [".", ".."])
def test_folder_that_holds_the_working_folder_is_refused(folder: str) -> None:
    assert refusal_of(Path(folder)) == (
        f"error: {folder} is in the way: the working folder is inside it\n"
        "  why:  replacing it would leave this shell nowhere\n"
        f"  try:  --output {Path(folder).resolve()}-2",
        2,
    )


def test_name_too_long_for_the_file_system_is_refused(tmp_path: Path) -> None:
    output_dir = tmp_path / ("x" * 300)
    assert refusal_of(output_dir) == (
        f"error: {output_dir} cannot be written\n"
        "  why:  file name too long\n"
        "  try:  --output ANOTHER_FOLDER",
        2,
    )


@pytest.fixture
def read_only_dir() -> Iterator[Path]:
    """Give a folder nobody may write to; the superuser steps down for it."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o555)
    is_superuser = os.geteuid() == 0
    if is_superuser:
        os.seteuid(65534)
    try:
        yield folder
    finally:
        if is_superuser:
            os.seteuid(0)
        folder.rmdir()


def test_parent_that_cannot_be_written_is_an_error_that_names_it(
    published: Published, read_only_dir: Path
) -> None:
    entry = Entry(
        stage="render",
        key="ab" * 32,
        files_dir=read_only_dir,
        outputs=(),
        input_digests={},
        seconds=0.0,
        peak_rss_bytes=0,
    )
    output_dir = read_only_dir / "below" / "coder"
    with pytest.raises(ConfigError) as caught:
        publish_entry(entry, output_dir, {"forge.lock": "{}"})
    assert printed(caught.value) == (
        f"error: {output_dir} cannot be written\n"
        f"  why:  {output_dir.parent}: permission denied\n"
        "  try:  --output ANOTHER_FOLDER",
        2,
    )
