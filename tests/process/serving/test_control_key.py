"""The key of a server is in one file, and nowhere that others look."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.ports import free_port
from tests.process.fake_triton import build_repository, put_on_path
from tests.process.recording import RecordingReporter, eventually
from tests.serving import options_for
from trtllm_forge.cli.app import app
from trtllm_forge.config.settings import read_settings
from trtllm_forge.errors import PrerequisiteError
from trtllm_forge.files.private import make_private, read_key, write_private
from trtllm_forge.machine.process.lifeline import living_members
from trtllm_forge.machine.process.managed import ManagedProcess
from trtllm_forge.serving.plan.control_key import KeyInArguments, overwrite_in_arguments
from trtllm_forge.serving.server.serve import start_server

KEY = "0123456789abcdef0123456789abcdef"
LINE = "2026-11-28T17:18:48Z I 6102 model_lifecycle.cc:472] loading"


def mode(path: Path) -> str:
    return oct(path.stat().st_mode & 0o777)


def arguments(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def test_a_private_file_and_its_folders_are_its_users_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_private(tmp_path / "state" / "run" / "1.key", "k\n")
    finally:
        os.umask(before)

    assert mode(tmp_path / "state" / "run" / "1.key") == "0o600"
    assert [mode(tmp_path / "state"), mode(tmp_path / "state" / "run")] == ["0o700", "0o700"]
    assert [path.name for path in (tmp_path / "state" / "run").iterdir()] == ["1.key"]


def test_a_folder_of_an_older_forge_is_closed_and_the_users_own_above_it_is_not(
    tmp_path: Path,
) -> None:
    (tmp_path / "shared").mkdir(mode=0o755)
    (tmp_path / "shared" / "run").mkdir(mode=0o755)

    make_private(tmp_path / "shared" / "run")

    assert [mode(tmp_path / "shared"), mode(tmp_path / "shared" / "run")] == ["0o755", "0o700"]


def test_a_folder_of_another_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)

    with pytest.raises(PrerequisiteError) as caught:
        make_private(tmp_path)

    assert caught.value.what == f"{tmp_path} belongs to another user"


def test_a_private_file_does_not_follow_a_link_that_somebody_left(tmp_path: Path) -> None:
    other = tmp_path / "other"
    (tmp_path / f".1.key.{os.getpid()}").symlink_to(other)

    write_private(tmp_path / "1.key", "k\n")

    assert not other.exists()
    assert read_key(tmp_path / "1.key") == "k"


def test_a_key_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()

    assert [read_key(path) for path in (None, tmp_path / "no", tmp_path / "empty")] == [None] * 3


def test_words_are_overwritten_in_what_ps_shows_and_not_in_what_was_read() -> None:
    code = "import sys; key = sys.argv[1]; print('read', flush=True); input(); print(key)"
    child = subprocess.Popen(
        [sys.executable, "-c", code, f"a={KEY}", f"b={KEY}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "read\n"
        overwrite_in_arguments(child.pid, (KEY.encode(),))
        shown = arguments(child.pid)
        answer, _ = child.communicate("\n", timeout=20)
    finally:
        child.kill()

    assert shown.endswith(b"a=" + b"*" * 32 + b"\0b=" + b"*" * 32 + b"\0")
    assert answer == f"a={KEY}\n"


def test_a_key_stays_until_the_server_has_read_it(tmp_path: Path) -> None:
    code = "import sys, time; input(); print(sys.argv[2], flush=True); time.sleep(60)"
    log_path = tmp_path / "triton.log"
    log_path.write_text(f"{LINE} of an earlier start\n")
    log_offset = log_path.stat().st_size
    with log_path.open("a") as log:
        child = subprocess.Popen(
            [sys.executable, "-c", code, f"a={KEY}", LINE],
            stdin=subprocess.PIPE,
            stdout=log,
            start_new_session=True,
            text=True,
        )
    try:
        key = KeyInArguments(KEY, log_path, log_offset)
        assert eventually(lambda: KEY.encode() in arguments(child.pid))
        key.hide(child.pid)
        early = KEY.encode() in arguments(child.pid)
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
        assert eventually(lambda: log_path.read_text().count(LINE) == 2)
        key.hide(child.pid)
        late = KEY.encode() in arguments(child.pid)
    finally:
        child.kill()
        child.communicate()

    assert (early, late) == (True, False)


def test_a_command_is_told_without_its_secret(tmp_path: Path) -> None:
    reporter = RecordingReporter()
    process = ManagedProcess(
        [sys.executable, "-c", "import sys; print(sys.argv[1][::-1])", "key=WORD"],
        source="child",
        log_path=tmp_path / "child.log",
        reporter=reporter,
        secrets={"key=WORD": "key=abc"},
    )

    with process:
        assert process.wait() == 0

    assert process.argv[-1] == "key=WORD"
    assert (tmp_path / "child.log").read_text() == "cba=yek\n"
    assert "abc" not in repr(vars(reporter))


def test_the_key_file_lives_as_long_as_its_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_on_path(tmp_path, monkeypatch)
    options = options_for(build_repository(tmp_path / "mock"), http_port=free_port("127.0.0.1"))
    settings = read_settings()
    with start_server(options, settings, RecordingReporter()) as server:
        path = server.urls.key_path
        assert path is not None
        key = read_key(path)
        status = CliRunner().invoke(app, ["status"]).stdout
        document = json.loads(CliRunner().invoke(app, ["status", "--json"]).stdout)
        shown = [arguments(pid) for pid in living_members(server.pid)]
        texts = [p.read_text() for p in settings.state_dir.rglob("*") if p.is_file() and p != path]

    assert key is not None
    assert mode(settings.state_dir) == mode(path.parent) == "0o700"
    assert f"  key      {path}\n" in status
    assert document["key_path"] == str(path)
    assert [text for text in (status, json.dumps(document), *texts) if key in text] == []
    assert [text for text in shown if key.encode() in text] == []
    assert not path.exists()


def test_every_start_has_a_key_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_on_path(tmp_path, monkeypatch)
    keys = []
    repository_dir = build_repository(tmp_path / "mock")
    for _ in range(2):
        with start_server(
            options_for(repository_dir), read_settings(), RecordingReporter()
        ) as server:
            keys.append(server.urls.control_key)

    assert len({key for key in keys if key and len(key) == 32}) == 2
