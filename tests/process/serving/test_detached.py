"""Servers that run by themselves: started, listed, asked, followed, stopped, killed, remembered."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from tests.ports import port_flags
from tests.process.fake_triton import MODEL_FAILS_LOG, build_repository, put_on_path
from tests.process.recording import eventually, is_running
from trtllm_forge.cli.app import app
from trtllm_forge.config.settings import read_settings
from trtllm_forge.machine.process.lifeline import living_members, stat_fields
from trtllm_forge.serving.records.find import LOCK_NAME
from trtllm_forge.serving.records.record import all_records

if TYPE_CHECKING:
    from collections.abc import Iterator

    from click.testing import Result

    from trtllm_forge.serving.records.record import ServerRecord

CHECKOUT_DIR = Path(__file__).parent.parent.parent.parent
PARENT_FIELD = 1


@pytest.fixture(autouse=True)
def fake_triton(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A fake Triton and a repository; whatever a test starts is ended."""
    put_on_path(tmp_path, monkeypatch)
    monkeypatch.setenv("PYTHONPATH", str(CHECKOUT_DIR))
    build_repository(read_settings().model_repos_dir.absolute() / "mock")
    yield
    for record in all_records(read_settings().state_dir):
        if record.owner.is_running():
            os.kill(record.owner.pid, signal.SIGKILL)


def forge(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def detach(*words: str) -> dict[str, Any]:
    """Start a server and return its document."""
    result = forge("serve", "mock", "--detach", "--json", *words)
    assert result.exit_code == 0, result.output
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def record_of(name: str) -> ServerRecord:
    return next(r for r in all_records(read_settings().state_dir) if r.name == name)


def status(name: str) -> dict[str, Any]:
    result = forge("status", name, "--json")
    document: dict[str, Any] = json.loads(result.stdout)
    assert result.exit_code == (0 if document["state"] == "ready" else 7)
    return document


def is_ready(name: str) -> bool:
    return record_of(name).state == "ready"


def lifeline_of(record: ServerRecord) -> int:
    """Return the other child of the owner."""
    assert record.triton is not None
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    children = [
        pid
        for pid in pids
        if (fields := stat_fields(pid)) and fields[PARENT_FIELD] == str(record.owner.pid)
    ]
    (lifeline,) = set(children) - {record.triton.pid}
    return lifeline


def test_a_detached_server_is_listed_asked_and_stopped_by_its_name() -> None:
    started = detach("--name", "coder")
    record = record_of("coder")
    listed = json.loads(forge("ps", "--json").stdout)["servers"]
    asked = status("coder")
    owner_session = os.getsid(record.owner.pid)
    stopped = forge("stop", "coder")

    assert (started["name"], record.written_state, record.is_detached) == ("coder", "ready", True)
    assert record.triton is not None
    assert started["pid"] == record.triton.pid == asked["pid"]
    assert [(s["name"], s["state"], s["http"]) for s in listed] == [
        ("coder", "ready", started["http"])
    ]
    assert asked["is_answering"]
    assert asked["models"] == [{"name": "ensemble", "state": "READY"}]
    assert "control_key" not in json.dumps([listed, asked])
    assert owner_session != os.getsid(os.getpid())
    assert (stopped.exit_code, stopped.stdout) == (0, "coder stopped\n")
    assert not is_running(record.owner.pid)
    assert not is_running(record.triton.pid)
    assert forge("ps").stdout == "no server is running\n"
    assert status("coder")["state"] == "stopped"
    assert forge("stop", "coder").stdout == "coder was not running\n"


def test_a_name_keeps_its_ports_until_it_is_forgotten() -> None:
    first = detach("--name", "coder", *port_flags())
    forge("stop", "coder")
    second = detach("--name", "coder")
    forge("stop", "coder", "--forget")

    services = ("http", "grpc", "metrics")
    assert [first[name] for name in services] == [second[name] for name in services]
    servers_dir = read_settings().state_dir / "servers"
    assert [path.name for path in servers_dir.iterdir()] == [LOCK_NAME]


def test_a_name_that_runs_is_refused() -> None:
    document = detach("--name", "coder")

    result = forge("serve", "mock", "--detach", "--name", "coder")

    assert result.exit_code == 2
    repository_dir = read_settings().model_repos_dir.absolute() / "mock"
    assert result.stderr == (
        "error: a server named coder is already ready\n"
        f"  why:  it serves {repository_dir} at {document['http']}\n"
        "  try:  forge stop coder\n"
    )


def test_a_name_with_a_slash_is_refused() -> None:
    result = forge("serve", "mock", "--detach", "--name", "../coder")

    assert result.exit_code == 2
    assert result.stderr == (
        "error: '../coder' is not a valid server name\n"
        "  why:  expected: letters, digits, dots and dashes\n"
    )


def test_a_server_that_does_not_start_tells_why_then_and_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_path = tmp_path / "triton.log"
    log_path.write_text(MODEL_FAILS_LOG)
    monkeypatch.setenv("FAKE_TRITON", str(log_path))

    result = forge("serve", "mock", "--detach")
    error = result.stderr.splitlines()[-3:]
    later = status("mock")
    logs = forge("logs", "mock", "-n", "1")

    assert result.exit_code == 7
    what = (
        "model tensorrt_llm did not load: ValueError: engine.json names 3 layers, the engine has 2"
    )
    why = "/srv/mock/tensorrt_llm/1/model.py:47 in initialize"
    assert error == [f"error: {what}", f"  why:  {why}", f"  log:  {later['log']}"]
    assert (later["state"], later["error"]) == ("failed", {"what": what, "why": why, "hint": ""})
    assert logs.stdout == "error: creating server: Internal - failed to load all models\n"
    assert logs.stderr == f"mock is failed\n  ended    {what}\n  why      {why}\n"


def test_a_killed_owner_is_told_and_leaves_nothing() -> None:
    document = detach("--name", "coder")
    record = record_of("coder")
    run_dir = read_settings().state_dir / "run"

    os.kill(record.owner.pid, signal.SIGKILL)

    assert eventually(lambda: not living_members(document["pid"]))
    assert eventually(lambda: not list(run_dir.glob("*")))
    assert status("coder")["state"] == "lost"
    assert forge("ps").stdout == "no server is running\n"
    assert forge("status", "coder").stdout.startswith(
        "coder is lost: its owner was killed, or the machine went down for "
    )
    assert forge("stop", "coder").stdout == "coder was not running; its leftovers are removed\n"


@pytest.mark.parametrize("by", ["stop", "the-next-start"])
def test_a_triton_whose_owner_and_lifeline_were_killed_is_ended(by: str) -> None:
    document = detach("--name", "coder", *port_flags())
    record = record_of("coder")
    region = Path(f"/dev/shm/forge_{record.stamp}_left")
    region.touch()

    os.kill(lifeline_of(record), signal.SIGKILL)
    os.kill(record.owner.pid, signal.SIGKILL)
    assert eventually(lambda: not is_running(record.owner.pid))
    assert is_running(document["pid"])
    if by == "stop":
        forge("stop", "coder")
    else:
        assert detach("--name", "coder")["http"] == document["http"]

    assert not is_running(document["pid"])
    assert not region.exists()


def test_a_request_that_does_not_end_is_ended_after_the_timeout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FAKE_TRITON_BUSY", "1")
    document = detach("--name", "coder")

    result = forge("stop", "coder", "--timeout", "0.3", "--json")

    assert json.loads(result.stdout)["servers"] == [{"name": "coder", "stopped": "killed"}]
    assert not is_running(document["pid"])


def test_a_server_that_still_loads_can_be_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_TRITON_GATE", str(tmp_path / "never"))
    command = [sys.executable, "-m", "trtllm_forge", "serve", "mock", "--detach", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as serve:
        assert eventually(lambda: any(r.triton for r in all_records(read_settings().state_dir)))
        assert record_of("mock").state == "starting"
        stopped = forge("stop")
        stdout, _ = serve.communicate(timeout=20)

    assert stopped.exit_code == 0
    assert serve.returncode == 7
    assert json.loads(stdout)["error"]["what"] == "the supervisor ended before the server was ready"
    assert record_of("mock").state == "stopped"


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)], ids=["ctrl-c", "term"]
)
def test_a_signal_while_it_loads_ends_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int
) -> None:
    monkeypatch.setenv("FAKE_TRITON_GATE", str(tmp_path / "never"))
    command = [sys.executable, "-m", "trtllm_forge", "serve", "mock", "--detach"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as serve:
        assert eventually(lambda: any(r.triton for r in all_records(read_settings().state_dir)))
        record = record_of("mock")
        serve.send_signal(number)
        serve.communicate(timeout=20)

    assert serve.returncode == code
    assert record.triton is not None
    assert not is_running(record.owner.pid)
    assert not is_running(record.triton.pid)


def test_a_log_is_followed_until_the_server_ends() -> None:
    document = detach("--name", "coder")
    command = [sys.executable, "-m", "trtllm_forge", "logs", "coder", "-f", "-n", "1"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as logs:
        assert logs.stdout is not None
        first = logs.stdout.readline()
        with Path(document["log"]).open("a") as log:
            log.write("a line that comes later\n")
        second = logs.stdout.readline()
        forge("stop", "coder")
        _, stderr = logs.communicate(timeout=20)

    assert (first, second) == ('I "loading: tensorrt_llm:1"\n', "a line that comes later\n")
    assert (logs.returncode, stderr) == (0, "coder is stopped\n")


def test_following_and_one_document_exclude_each_other() -> None:
    result = forge("logs", "coder", "-f", "--json")

    assert result.exit_code == 2
    assert json.loads(result.stdout)["error"]["hint"] == "forge logs --json"


def test_the_restarts_of_a_server_have_an_end_and_its_last_words_stay() -> None:
    document = detach("--name", "coder", "--restart", "on-failure", "--max-restarts", "1")

    os.kill(document["pid"], signal.SIGKILL)
    assert eventually(lambda: record_of("coder").restarts == 1 and is_ready("coder"))
    again = status("coder")
    os.kill(again["pid"], signal.SIGKILL)
    assert eventually(lambda: record_of("coder").state == "failed")

    assert again["http"] == document["http"]
    assert again["error"]["what"] == (
        f"Triton (process {document['pid']}), which served coder, ended with signal SIGKILL"
    )
    ended = status("coder")["error"]
    assert ended["what"].startswith(f"Triton (process {again['pid']}), which served coder")
    assert ended["why"].endswith("; no restarts left (--max-restarts 1)")


def test_the_logs_of_five_starts_are_kept() -> None:
    for _ in range(7):
        detach("--name", "coder")
        forge("stop", "coder")

    assert len(list((read_settings().state_dir / "logs").iterdir())) == 5


def test_fifty_commands_at_once_agree() -> None:
    names = [f"s{number}" for number in range(8)]
    commands = [["serve", "mock", "--detach", "--name", name] for name in (*names, *names[:2])]
    commands += [["ps"]] * 20
    commands += [["status", name] for name in names] + [["logs", name] for name in names]
    commands += [["stop", name] for name in names[:4]]
    assert len(commands) == 50

    running = [
        subprocess.Popen(
            [sys.executable, "-m", "trtllm_forge", *words, "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for words in commands
    ]
    outputs = [process.communicate(timeout=60) for process in running]

    for words, process, (stdout, stderr) in zip(commands, running, outputs, strict=True):
        assert process.returncode in (0, 2, 7), (words, stdout, stderr)
        assert json.loads(stdout), words
        assert "Traceback" not in stderr, (words, stderr)
        if words[0] == "ps":
            assert {s["state"] for s in json.loads(stdout)["servers"]} <= {
                *("starting", "ready", "stopping")
            }
    records = [r for r in all_records(read_settings().state_dir) if r.is_running]
    ports = [port for record in records for port in record.ports().values()]
    assert {record.name for record in records} >= set(names[4:])
    assert len(ports) == len(set(ports)) == 3 * len(records)
    for record in records:
        assert status(record.name)["is_answering"], record

    stopped = json.loads(forge("stop", "--all", "--json").stdout)["servers"]

    assert [(s["name"], s["stopped"]) for s in stopped] == [(r.name, "drained") for r in records]
    assert not any(is_running(r.owner.pid) for r in records)
    assert not list((read_settings().state_dir / "run").glob("*"))
