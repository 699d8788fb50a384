"""Ports: the usual ones, free ones instead, and who holds one that is taken."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.process.recording import RecordingReporter
from trtllm_forge.errors import ConfigError, ServerError
from trtllm_forge.serving.plan import ports as ports_module
from trtllm_forge.serving.plan.ports import (
    choose_ports,
    free_port,
    is_held_by_group,
    is_port_free,
    port_holder,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

HOST = "127.0.0.1"
COMMAND = "forge serve mock"


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server((HOST, 0)) as taken:
        yield taken.getsockname()[1]


def wanted(**ports: int) -> dict[str, int | None]:
    return {"http": None, "grpc": None, "metrics": None, **ports}


def test_a_usual_port_that_is_taken_gives_way_to_a_free_one_with_a_note(
    taken_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = {"http": taken_port, "grpc": free_port(HOST), "metrics": free_port(HOST)}
    monkeypatch.setattr(ports_module, "DEFAULT_PORTS", usual)
    reporter = RecordingReporter()

    chosen = choose_ports(HOST, wanted(), COMMAND, reporter)

    assert (chosen.grpc, chosen.metrics) == (usual["grpc"], usual["metrics"])
    assert chosen.http not in usual.values()
    assert reporter.notes == [
        f"port {taken_port} is taken, HTTP is on {chosen.http}: "
        f"process {os.getpid()} ({Path('/proc/self/comm').read_text().strip()}) listens on it"
    ]


def test_wanted_ports_are_taken_as_they_are() -> None:
    given = {"http": free_port(HOST), "grpc": free_port(HOST), "metrics": free_port(HOST)}
    reporter = RecordingReporter()

    chosen = choose_ports(HOST, wanted(**given), COMMAND, reporter)

    assert vars(chosen) == given
    assert reporter.notes == []


def test_a_usual_port_wanted_for_another_service_is_not_used_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usual = {"http": free_port(HOST), "grpc": free_port(HOST), "metrics": free_port(HOST)}
    monkeypatch.setattr(ports_module, "DEFAULT_PORTS", usual)

    chosen = choose_ports(HOST, wanted(grpc=usual["http"]), COMMAND, RecordingReporter())

    assert chosen.grpc == usual["http"]
    assert len({chosen.http, chosen.grpc, chosen.metrics}) == 3


def test_one_port_wanted_twice_is_a_mistake() -> None:
    with pytest.raises(ConfigError) as caught:
        choose_ports(HOST, wanted(http=9000, metrics=9000), COMMAND, RecordingReporter())

    assert caught.value.what == "port 9000 is given twice"
    assert caught.value.why == "--http-port and --metrics-port are the same"


def test_an_address_that_is_not_of_this_machine_is_refused() -> None:
    with pytest.raises(ServerError) as caught:
        choose_ports("192.0.2.1", wanted(http=8000), COMMAND, RecordingReporter())

    assert caught.value.what == "cannot listen on 192.0.2.1"


def test_the_holder_of_a_port_is_found(taken_port: int) -> None:
    holder = port_holder(taken_port)

    assert holder is not None
    assert holder[0] == os.getpid()
    assert not is_port_free(HOST, taken_port)


def test_a_port_is_held_by_the_group_of_its_holder_alone(taken_port: int) -> None:
    assert is_held_by_group(taken_port, os.getsid(0))
    assert not is_held_by_group(taken_port, 1)
    assert not is_held_by_group(free_port(HOST), os.getsid(0))


def test_a_port_is_held_by_the_groups_of_all_that_share_its_socket() -> None:
    with socket.create_server((HOST, 0)) as taken:
        child = subprocess.Popen(["sleep", "60"], pass_fds=[taken.fileno()], start_new_session=True)
        try:
            port = taken.getsockname()[1]
            assert is_held_by_group(port, os.getsid(0))
            assert is_held_by_group(port, child.pid)
        finally:
            child.kill()
            child.wait()


def test_a_port_whose_holder_is_not_told_may_be_anybodys(
    taken_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ports_module, "port_holders", lambda _: iter(()))

    assert is_held_by_group(taken_port, 1)


def test_a_port_whose_holder_has_gone_meanwhile_is_nobodys(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]

        def holders(_: int) -> Iterator[tuple[int, str]]:
            taken.close()
            return iter(())

        monkeypatch.setattr(ports_module, "port_holders", holders)

        assert not is_held_by_group(port, 1)


def test_a_free_port_has_no_holder() -> None:
    port = free_port(HOST)

    assert is_port_free(HOST, port)
    assert port_holder(port) is None
