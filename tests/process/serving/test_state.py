"""Finding the running server, and not taking a dead one for it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from tests.process.recording import RecordingReporter
from trtllm_forge.cli.app import app
from trtllm_forge.errors import ConfigError, ServerError
from trtllm_forge.serving.records.find import find_running_server, free_server_name, running_servers
from trtllm_forge.serving.records.record import (
    ProcessId,
    ServerRecord,
    boot_id,
    record_path,
    start_ticks,
    write_record,
)
from trtllm_forge.triton.client.address import ServerUrls

if TYPE_CHECKING:
    from trtllm_forge.serving.records.record import ServerState

COMMAND = "forge probe"


def remember(
    state_dir: Path,
    name: str,
    *,
    pid: int | None = None,
    ticks: int = 0,
    boot: str = "",
    state: ServerState = "ready",
) -> ServerRecord:
    own_ticks = start_ticks(os.getpid())
    assert own_ticks is not None
    owner = ProcessId(
        pid=pid or os.getpid(), started_ticks=own_ticks + ticks, boot_id=boot or boot_id()
    )
    record = ServerRecord(
        name=name,
        written_state=state,
        owner=owner,
        triton=None,
        stamp="1_1",
        since_s=1.0,
        urls=ServerUrls(http=f"http://127.0.0.1:{8000 + len(name)}", grpc="127.0.0.1:1"),
        repository_dir=Path("/srv") / name,
        log_path=Path("/srv/log"),
    )
    write_record(state_dir, record)
    return record


def test_the_only_server_is_taken_and_named(tmp_path: Path) -> None:
    record = remember(tmp_path, "mock")
    reporter = RecordingReporter()

    address = find_running_server(tmp_path, reporter, command=COMMAND)

    assert (address.urls, address.repository_dir) == (record.urls, record.repository_dir)
    assert reporter.notes == ["using the running server mock at http://127.0.0.1:8004"]


def test_a_record_of_a_later_process_with_the_same_id_is_stale(tmp_path: Path) -> None:
    remember(tmp_path, "mock", ticks=-1)

    assert running_servers(tmp_path) == ()


def test_a_record_of_another_boot_of_the_machine_is_stale(tmp_path: Path) -> None:
    record = remember(tmp_path, "mock", boot="another")

    assert running_servers(tmp_path) == ()
    assert (record.written_state, record.state) == ("ready", "lost")


def test_a_server_that_is_not_ready_is_not_talked_to(tmp_path: Path) -> None:
    record = remember(tmp_path, "mock", state="restarting")

    with pytest.raises(ServerError) as caught:
        find_running_server(tmp_path, RecordingReporter(), command=COMMAND)

    assert caught.value.what == "the server mock is restarting"
    assert caught.value.hint == "forge status mock"
    assert caught.value.log_path == record.log_path


def test_a_record_is_its_users_alone(tmp_path: Path) -> None:
    remember(tmp_path, "mock")

    assert record_path(tmp_path, "mock").stat().st_mode & 0o777 == 0o600


def test_a_record_of_a_process_that_ended_is_stale(tmp_path: Path) -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    remember(tmp_path, "mock", pid=pid)

    assert running_servers(tmp_path) == ()


@pytest.mark.parametrize(
    "text", ["", "[]", '{"schema": 99}', '{"schema": 2}'], ids=["empty", "list", "newer", "short"]
)
def test_a_record_that_cannot_be_read_is_passed_over(tmp_path: Path, text: str) -> None:
    path = record_path(tmp_path, "broken")
    path.parent.mkdir(parents=True)
    path.write_text(text)
    remember(tmp_path, "mock")

    assert [record.name for record in running_servers(tmp_path)] == ["mock"]


def test_no_running_server_is_an_error() -> None:
    result = CliRunner().invoke(app, ["probe"])

    assert result.exit_code == 7
    assert result.stderr == "error: no server is running\n  try:  forge serve\n"


def test_several_servers_have_to_be_told_apart(tmp_path: Path) -> None:
    remember(tmp_path, "one")
    remember(tmp_path, "three")

    with pytest.raises(ConfigError) as caught:
        find_running_server(tmp_path, RecordingReporter(), command=COMMAND)

    assert caught.value.what == "2 servers are running; name one"
    assert caught.value.why == "one at http://127.0.0.1:8003, three at http://127.0.0.1:8005"
    assert caught.value.hint == "forge probe --server one"


def test_an_unknown_server_is_answered_with_the_nearest(tmp_path: Path) -> None:
    remember(tmp_path, "one")
    remember(tmp_path, "three")

    with pytest.raises(ConfigError) as caught:
        find_running_server(tmp_path, RecordingReporter(), command=COMMAND, name="tree")

    assert caught.value.what == "no server named tree is running"
    assert caught.value.hint == "forge probe --server three"


def test_a_server_named_by_address_keeps_what_is_known_of_it(tmp_path: Path) -> None:
    record = remember(tmp_path, "mock")
    reporter = RecordingReporter()

    known = find_running_server(tmp_path, reporter, command=COMMAND, http="localhost:8004")
    unknown = find_running_server(tmp_path, reporter, command=COMMAND, http="http://gpu1:8000/")

    assert (known.urls, known.repository_dir) == (record.urls, record.repository_dir)
    assert (unknown.urls, unknown.repository_dir) == (ServerUrls(http="http://gpu1:8000"), None)


def test_a_stale_record_does_not_keep_its_name(tmp_path: Path) -> None:
    remember(tmp_path, "mock", ticks=-1)
    assert free_server_name(tmp_path, "mock") == "mock"

    remember(tmp_path, "mock")
    assert free_server_name(tmp_path, "mock") == "mock-2"


def test_a_server_that_does_not_answer_is_named_by_its_address() -> None:
    result = CliRunner().invoke(app, ["complete", "def f", "--http", "http://127.0.0.1:9"])

    assert result.exit_code == ServerError.exit_code
    assert result.stderr == (
        "error: no server answers at http://127.0.0.1:9\n"
        "  why:  [Errno 111] Connection refused\n"
        "  try:  forge serve\n"
    )


def test_an_address_that_is_none_is_a_mistake() -> None:
    result = CliRunner().invoke(app, ["complete", "def f", "--http", "ftp://x"])

    assert result.exit_code == 2
    assert result.stderr == (
        "error: ftp://x is not the address of a server\n  try:  --http http://127.0.0.1:8000\n"
    )
