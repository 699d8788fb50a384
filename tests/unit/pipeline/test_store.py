from __future__ import annotations

import errno
import json
import os
from typing import TYPE_CHECKING

import pytest

from tests.small_stage import RecordingReporter, SmallStage, build, printed, reasons_to_run
from trtllm_forge.errors import BuildError, PrerequisiteError
from trtllm_forge.files.staging import remove_tree
from trtllm_forge.pipeline import store as store_module
from trtllm_forge.pipeline.store import Entry, Store

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def leftovers(store: Store) -> list[str]:
    return sorted(path.name for path in store.root.glob("*/*/.*"))


def entry_of(store: Store, stage: SmallStage) -> Entry:
    return build(store, stage)[0].entry


def test_stage_runs_once_for_an_unchanged_rebuild(store: Store) -> None:
    stage = SmallStage()
    first, again = build(store, stage)[0], build(store, stage)[0]
    assert stage.runs == 1
    assert (first.ran, again.ran, again.seconds) == (True, False, 0.0)
    assert again.entry.outputs == first.entry.outputs


def test_entry_records_path_size_and_digest_of_every_file(store: Store) -> None:
    entry = entry_of(store, SmallStage(files={"b.bin": b"", "a/b.txt": b"hi"}))
    assert [(output.path, output.size_bytes, output.sha256[:8]) for output in entry.outputs] == [
        ("a/b.txt", 2, "8f434346"),
        ("b.bin", 0, "e3b0c442"),
    ]


def test_entry_names_no_host_and_no_absolute_path(store: Store) -> None:
    entry = entry_of(store, SmallStage())
    text = (entry.files_dir.parent / "entry.json").read_text()
    assert str(store.root) not in text
    assert os.uname().nodename not in text


def test_cache_is_marked_so_that_backups_skip_it(store: Store) -> None:
    build(store, SmallStage())
    tag = (store.root / "CACHEDIR.TAG").read_text()
    assert tag.startswith("Signature: 8a477f597d28d172789f06886806bc55\n")


def test_inputs_of_a_stage_are_the_artifacts_before_it(store: Store) -> None:
    download = SmallStage(name="download", files={"weights": b"w"})
    compile_ = SmallStage()
    first = build(store, download, compile_)[0]
    assert dict(compile_.seen_inputs) == {"download": first.entry.files_dir}


def damage_size(entry: Entry) -> None:
    (entry.files_dir / "engine.bin").write_bytes(b"eng")


def damage_same_size(entry: Entry) -> None:
    path = entry.files_dir / "engine.bin"
    path.write_bytes(b"ENGINE")
    os.utime(path, ns=(0, 0))


def damage_missing(entry: Entry) -> None:
    (entry.files_dir / "engine.bin").unlink()


def damage_record(entry: Entry) -> None:
    (entry.files_dir.parent / "entry.json").write_text("{")


def damage_no_record(entry: Entry) -> None:
    (entry.files_dir.parent / "entry.json").unlink()


def damage_foreign_record(entry: Entry) -> None:
    (entry.files_dir.parent / "entry.json").write_text('["schema"]')


DAMAGES = [
    damage_size,
    damage_same_size,
    damage_missing,
    damage_record,
    damage_no_record,
    damage_foreign_record,
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damaged_entry_is_rebuilt_once_and_said_so(store: Store, damage: object) -> None:
    stage = SmallStage()
    entry = entry_of(store, stage)
    assert callable(damage)
    damage(entry)
    reporter = RecordingReporter()
    build(store, stage, reporter=reporter)
    build(store, stage, reporter=reporter)
    assert stage.runs == 2
    assert reporter.started == [("compile", (f"the stored artifact {entry.key[:12]} is damaged",))]
    assert (entry.files_dir / "engine.bin").read_bytes() == b"engine"


def test_failed_stage_leaves_the_store_as_it_was(store: Store) -> None:
    def fail(work_dir: Path) -> None:
        (work_dir / "half").write_text("half")
        message = "boom"
        raise RuntimeError(message)

    stage = SmallStage(before_writing=fail)
    with pytest.raises(RuntimeError, match="boom"):
        build(store, stage)
    assert leftovers(store) == []
    assert reasons_to_run(store, stage) == [("never built",)]


def test_what_a_killed_build_left_is_not_in_the_next_artifact(store: Store) -> None:
    stage = SmallStage()
    key = build(Store(store.root.with_name("other")), stage)[0].entry.key
    work_dir = store.work_dir("compile", key)
    work_dir.mkdir(parents=True)
    (work_dir / "half").write_text("half")
    staged_dir = work_dir.with_name(f".{key}.staged") / "files"
    staged_dir.mkdir(parents=True)
    (staged_dir / "engine.bin").write_text("half")
    entry = entry_of(store, stage)
    assert [output.path for output in entry.outputs] == ["engine.bin"]
    assert (entry.files_dir / "engine.bin").read_bytes() == b"engine"
    assert leftovers(store) == []


def test_stage_that_forgets_an_output_is_an_error_and_publishes_nothing(store: Store) -> None:
    stage = SmallStage(outputs=("engine.bin", "rank0.engine", "config.json"))
    with pytest.raises(BuildError) as caught:
        build(store, stage)
    assert printed(caught.value) == (
        "error: compile ended without an error but did not write rank0.engine, config.json",
        5,
    )
    assert leftovers(store) == []
    assert reasons_to_run(store, stage) == [("never built",)]


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "no space left on the disk that holds"),
        (errno.EDQUOT, "the quota is used up on the disk that holds"),
        (errno.EFBIG, "a file is larger than allowed (ulimit -f) below"),
    ],
    ids=["ENOSPC", "EDQUOT", "EFBIG"],
)
def test_full_disk_is_a_build_error_and_leaves_nothing(
    store: Store, number: int, words: str
) -> None:
    def fail(work_dir: Path) -> None:
        (work_dir / "half").write_text("half")
        raise OSError(number, os.strerror(number))

    with pytest.raises(BuildError) as caught:
        build(store, SmallStage(before_writing=fail))
    assert printed(caught.value) == (
        f"error: compile: {words} {store.root}\n"
        "  why:  the half-written artifact was removed; nothing else was touched\n"
        "  try:  FORGE_CACHE_DIR=/larger/disk forge build ...",
        5,
    )
    assert leftovers(store) == []


def test_other_system_errors_of_a_stage_pass_as_they_are(store: Store) -> None:
    def fail(work_dir: Path) -> None:
        raise IsADirectoryError(errno.EISDIR, "x")

    with pytest.raises(IsADirectoryError):
        build(store, SmallStage(before_writing=fail))
    assert leftovers(store) == []


def test_store_that_cannot_be_written_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    store = Store(tmp_path / "file" / "cache")
    with pytest.raises(PrerequisiteError) as caught:
        build(store, SmallStage())
    assert printed(caught.value) == (
        f"error: the store {store.root} cannot be written\n"
        f"  why:  {store.root / 'locks'}: not a directory\n"
        "  try:  FORGE_CACHE_DIR=/writable/folder forge build ...",
        3,
    )


def test_forced_stage_runs_again_and_replaces_its_artifact(store: Store) -> None:
    stage = SmallStage()
    build(store, stage)
    stage.files = {"engine.bin": b"other bytes"}
    entry = build(store, stage, force={"compile"})[0].entry
    assert stage.runs == 2
    assert (entry.files_dir / "engine.bin").read_bytes() == b"other bytes"
    assert reasons_to_run(store, stage) == [()]


def test_later_stage_runs_again_when_a_forced_one_gave_other_bytes(store: Store) -> None:
    compile_, render = SmallStage(), SmallStage(name="render", files={"config.pbtxt": b"c"})
    build(store, compile_, render)
    compile_.files = {"engine.bin": b"other kernels"}
    reporter = RecordingReporter()
    results = build(store, compile_, render, force={"compile"}, reporter=reporter)
    assert (compile_.runs, render.runs) == (2, 2)
    assert [result.ran for result in results] == [True, True]
    assert reporter.started == [
        ("compile", ("forced",)),
        ("render", ("it was made from another artifact of compile",)),
    ]


def test_later_stage_stays_fresh_when_a_forced_one_gave_the_same_bytes(store: Store) -> None:
    compile_, render = SmallStage(), SmallStage(name="render", files={"config.pbtxt": b"c"})
    build(store, compile_, render)
    build(store, compile_, render, force={"compile"})
    assert (compile_.runs, render.runs) == (2, 1)


def test_plan_sees_that_a_build_ended_between_a_forced_stage_and_the_next(store: Store) -> None:
    compile_, render = SmallStage(), SmallStage(name="render", files={"config.pbtxt": b"c"})
    build(store, compile_, render)
    compile_.files = {"engine.bin": b"other kernels"}
    build(store, compile_, force={"compile"})
    assert reasons_to_run(store, compile_, render) == [
        (),
        ("it was made from another artifact of compile",),
    ]


def test_entry_that_vanished_after_planning_is_made_again(store: Store) -> None:
    from trtllm_forge.pipeline.plan import make_plan
    from trtllm_forge.pipeline.run import run_plan

    stage = SmallStage()
    key = entry_of(store, stage).key
    plan = make_plan([stage], store)
    remove_tree(store.entry_dir("compile", key))
    assert run_plan(plan, store, RecordingReporter())[0].ran
    assert stage.runs == 2


def test_lock_of_a_key_names_the_process_that_holds_it(store: Store) -> None:
    with store.writer("compile", "ab" * 32, RecordingReporter()):
        (lock_path,) = (store.root / "locks").iterdir()
        assert lock_path.name == f"compile-{'ab' * 32}.lock"
        assert lock_path.read_text() == f"process {os.getpid()} on {os.uname().nodename}"


def test_entry_record_is_plain_json_with_a_schema(store: Store) -> None:
    entry = entry_of(store, SmallStage())
    document = json.loads((entry.files_dir.parent / "entry.json").read_text())
    assert document["schema"] == 1
    assert document["inputs"] == {"parameters": {"precision": "int4"}, "tools": {"tool": "1.0"}}


def test_entry_that_was_copied_without_its_times_is_read_once_and_stays_fresh(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = SmallStage(files={"a": b"1", "b": b"2"})
    entry = entry_of(store, stage)
    for name in ("a", "b"):
        os.utime(entry.files_dir / name, ns=(0, 0))
    made_ns = (entry.files_dir.parent / "entry.json").stat().st_mtime_ns

    assert reasons_to_run(store, stage) == [()]
    monkeypatch.setattr(store_module, "sha256_file", None)  # reading again would fail
    assert reasons_to_run(store, stage) == [()]
    assert (entry.files_dir.parent / "entry.json").stat().st_mtime_ns == made_ns


def test_entry_of_a_forge_that_kept_no_times_is_still_found(store: Store) -> None:
    stage = SmallStage()
    path = entry_of(store, stage).files_dir.parent / "entry.json"
    document = json.loads(path.read_text())
    del document["mtimes_ns"]
    path.write_text(json.dumps(document))

    assert reasons_to_run(store, stage) == [()]


def test_using_an_entry_notes_when_it_was_needed(store: Store) -> None:
    entry = entry_of(store, SmallStage())
    os.utime(entry.files_dir.parent, ns=(0, 0))

    with store.using({"compile": entry.key}):
        pass

    assert entry.files_dir.parent.stat().st_mtime > 0


def test_entry_in_use_is_not_removed_and_says_so(store: Store) -> None:
    entry = entry_of(store, SmallStage())

    with store.using({"compile": entry.key}):
        assert store.remove_unused("compile", entry.key) == "in use by a build"
    assert entry.files_dir.is_dir()


def test_entry_being_written_is_not_removed_and_its_writer_is_named(store: Store) -> None:
    entry = entry_of(store, SmallStage())

    with store.writer("compile", entry.key, RecordingReporter()) as work_dir:
        why = store.remove_unused("compile", entry.key)
        assert why == f"being written by process {os.getpid()} on {os.uname().nodename}"
        assert work_dir.is_dir()
    assert entry.files_dir.is_dir()


def test_unused_entry_is_removed_whole_with_what_a_killed_build_left(store: Store) -> None:
    entry = entry_of(store, SmallStage())
    store.work_dir("compile", entry.key).mkdir()

    assert store.remove_unused("compile", entry.key) == ""
    assert list(entry.files_dir.parent.parent.iterdir()) == []


def test_leftovers_are_removed_without_the_entry_of_their_key(store: Store) -> None:
    entry = entry_of(store, SmallStage())
    store.work_dir("compile", entry.key).mkdir()

    assert store.remove_unused("compile", entry.key, leftovers_only=True) == ""
    assert leftovers(store) == []
    assert entry.files_dir.is_dir()
