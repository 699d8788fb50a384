"""Builds that are killed, interrupted, crowded or out of space, as real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.servers.small_build import POINTS, files_of
from trtllm_forge.pipeline.store import Store

DEADLINE_S = 20
ROOT = Path(__file__).resolve().parents[3]


class Build:
    """One process that builds; killed when it has not ended by the deadline."""

    def __init__(self, root: Path, *options: str) -> None:
        command = (sys.executable, "-m", "tests.servers.small_build")
        self.child = subprocess.Popen(
            [*command, str(root / "cache"), str(root / "out" / "coder"), *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            text=True,
        )
        self._deadline = threading.Timer(DEADLINE_S, self.child.kill)
        self._deadline.start()

    def line(self) -> str:
        assert self.child.stdout is not None
        return self.child.stdout.readline().rstrip("\n")

    def wait_until_at(self, point: str) -> None:
        while (line := self.line()) != f"at {point}":
            assert line, self.end()

    def end(self) -> tuple[int, list[str], str]:
        """Let it go on, and return its exit code, what is left of its lines, and its stderr."""
        stdout, stderr = self.child.communicate("\n" * 9)
        self._deadline.cancel()
        return self.child.returncode, stdout.splitlines(), stderr


def published(root: Path) -> dict[str, bytes]:
    folder = root / "out" / "coder"
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "forge.lock"
    }


def leftovers(root: Path) -> list[str]:
    """Return what is neither an entry, a lock, nor the published folder."""
    return sorted(
        str(path.relative_to(root))
        for path in [*root.glob("cache/*/*/.*"), *root.glob("out/*")]
        if path.name != "coder"
    )


@pytest.mark.parametrize("point", POINTS[:-1])
def test_killed_first_build_leaves_nothing_in_place_and_the_next_one_succeeds(
    tmp_path: Path, point: str
) -> None:
    killed = Build(tmp_path, "--pause-at", point)
    killed.wait_until_at(point)
    killed.child.send_signal(signal.SIGKILL)
    killed.child.wait(DEADLINE_S)
    killed.end()
    assert published(tmp_path) == {}

    code, lines, stderr = Build(tmp_path).end()
    assert (code, stderr) == (0, "")
    was_stored = point in ("placing", "swapping")
    assert lines[0].startswith("skipped compile: key" if was_stored else "started compile: never")
    assert published(tmp_path) == files_of("int4")
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("point", POINTS)
def test_killed_rebuild_leaves_the_old_repository_whole_and_the_next_one_replaces_it(
    tmp_path: Path, point: str
) -> None:
    assert Build(tmp_path).end()[0] == 0
    killed = Build(tmp_path, "--precision", "int8", "--pause-at", point)
    killed.wait_until_at(point)
    killed.child.send_signal(signal.SIGKILL)
    killed.child.wait(DEADLINE_S)
    killed.end()
    # Where folders cannot be exchanged, there is a moment without one; never with half of one.
    assert published(tmp_path) == ({} if point == "half-swapped" else files_of("int4"))

    assert Build(tmp_path, "--precision", "int8").end()[0] == 0
    assert published(tmp_path) == files_of("int8")
    assert leftovers(tmp_path) == []


def test_interrupted_build_ends_with_130_and_leaves_nothing(tmp_path: Path) -> None:
    build = Build(tmp_path, "--pause-at", "writing")
    build.wait_until_at("writing")
    build.child.send_signal(signal.SIGINT)
    build.child.wait(DEADLINE_S)
    code, _, stderr = build.end()
    assert (code, stderr) == (130, "error: interrupted\n")
    assert leftovers(tmp_path) == []
    assert published(tmp_path) == {}


def test_second_build_of_a_key_waits_names_the_first_and_takes_its_artifact(
    tmp_path: Path,
) -> None:
    first = Build(tmp_path, "--pause-at", "writing")
    first.wait_until_at("writing")
    second = Build(tmp_path)
    holder = f"process {first.child.pid} on {os.uname().nodename}"
    assert second.line() == (
        f"note compile: waiting for {holder}, which is building the same artifact"
    )
    assert first.end()[0] == 0
    assert second.end() == (0, ["skipped compile: another process just built it"], "")
    assert published(tmp_path) == files_of("int4")
    assert leftovers(tmp_path) == []


def test_build_that_waited_for_a_killed_one_does_the_work_itself(tmp_path: Path) -> None:
    first = Build(tmp_path, "--pause-at", "writing")
    first.wait_until_at("writing")
    second = Build(tmp_path)
    assert second.line().startswith("note compile: waiting for process")
    first.child.send_signal(signal.SIGKILL)
    first.child.wait(DEADLINE_S)
    first.end()
    assert second.end() == (0, ["started compile: never built"], "")
    assert published(tmp_path) == files_of("int4")
    assert leftovers(tmp_path) == []


def test_builds_of_different_keys_do_not_wait_for_each_other(tmp_path: Path) -> None:
    first = Build(tmp_path, "--pause-at", "writing")
    first.wait_until_at("writing")
    code, lines, _ = Build(tmp_path, "--precision", "int8").end()
    assert (code, lines) == (0, ["started compile: never built"])
    assert first.end()[0] == 0
    assert published(tmp_path) == files_of("int4")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--write-to", "/dev/full"], "no space left on the disk that holds"),
        (["--file-limit", "100000"], "a file is larger than allowed (ulimit -f) below"),
    ],
    ids=["full-device", "file-size-limit"],
)
def test_build_that_runs_out_of_space_says_so_and_leaves_nothing(
    tmp_path: Path, options: list[str], words: str
) -> None:
    code, _, stderr = Build(tmp_path, *options).end()
    assert stderr == (
        f"error: compile: {words} {tmp_path / 'cache'}\n"
        "  why:  the half-written artifact was removed; nothing else was touched\n"
        "  try:  FORGE_CACHE_DIR=/larger/disk forge build ...\n"
    )
    assert code == 5
    assert leftovers(tmp_path) == []
    assert published(tmp_path) == {}
    assert list(Store(tmp_path / "cache").root.glob("compile/*/*")) == []
